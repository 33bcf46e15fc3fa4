"""``nstool net``: the network of a process, with its other ends."""

from __future__ import annotations

import click

from nstool.errors import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from nstool.inspect.net import Device, Network, Owned, Peer, Place, Route, Rule
    from nstool.inspect.nsfile import Namespace

EPILOG = """\b
Examples:
  nstool net 4711        the network of process 4711: devices, routes, sockets, firewall
  nstool net web         of the sandbox web: which device of the host its own leads to
  nstool net blue        of the network namespace that `ip netns add blue` has made
  nstool net $$ --all    your own, with local routes, UNIX sockets and counters
"""

_USUAL = {("from all", "lookup local", 0), ("from all", "lookup main", 32766), ("from all", "lookup default", 32767)}
_MOST = 3  # processes of a namespace that are named
_LOCAL = ("unix", "netlink", "packet")  # families of sockets that --all shows


@click.command("net", epilog=EPILOG)
@click.argument("target", metavar="TARGET")
@click.option("--all", "all_", is_flag=True, help="Local routes, usual rules, sockets but TCP and UDP, counters too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, always with all.")
def command(target: str, all_: bool, as_json: bool) -> int:
    """Show the network namespace of TARGET: a pid, a sandbox, a namespace file, or a name of `ip netns`.

    Devices with addresses, and for each end of a veth pair the namespace of the other end, who lives there and
    what it is called there; routes of all tables, rules, neighbours; sockets with the processes that have them;
    the nftables ruleset; the settings (sysctls) in which it differs from a network namespace made now.

    It takes CAP_SYS_ADMIN in the user namespace that owns the network namespace: root has it everywhere, an
    ordinary user in the user namespaces it has made.
    """
    from nstool.cli import answer
    from nstool.inspect import nsfile
    from nstool.inspect.net import network

    with nsfile.named(target, "net", "TARGET") as namespace:
        found = network(namespace)
        thread = _thread(namespace)
    if as_json:
        answer.show(found.asdict())
    else:
        _print(found, thread, all_=all_)
    return 0


def _thread(namespace: Namespace) -> str:
    # If it was named by a thread, which may be in another than its process: that it was.
    from nstool.inspect.proc import Proc, title

    if not namespace.pid:
        return ""
    with Proc(namespace.pid) as proc:
        tgid = proc.tgid()
    return "" if tgid == namespace.pid else f", of {title(tgid, namespace.pid)}"


def _print(found: Network, thread: str, *, all_: bool) -> None:
    from nstool.cli.console import cell, for_lines

    console = for_lines()
    console.print(cell(f"net:[{found.place.inode}], {_who(found.place)}{thread}", "bold"))
    if found.owner is not None:
        console.print(cell(f"belongs to user:[{found.owner}]"))
    _devices(found.devices, console)
    _routes(found.routes, console, all_=all_)
    _rules(found.rules, console, all_=all_)
    _table(
        ("neighbours", "mac", "device", "state"),
        [(n.address, n.mac, n.device, n.state) for n in found.neighbours if all_ or n.state != "noarp"],
        console,
        fixed=(0, 1),
    )
    _sockets(found, console, all_=all_)
    _nftables(found, console)
    _sysctls(found, console)
    if all_:
        rows = [(f"{protocol} {name}", str(n)) for protocol, row in found.counters.items() for name, n in row.items()]
        _table(("counters", ""), rows, console)
    for what, why in found.unread.items():
        if what not in ("nftables", "sysctls"):
            console.print(cell(f"note: {what} unknown: {why}"))


def _who(place: Place) -> str:
    shown = place.processes[:_MOST]
    names = ", ".join(f"{pid} {comm}" for pid, comm in shown)
    more = f" and {place.count - len(shown)} more" if place.count > len(shown) else ""
    living = (
        f"with process{'es' if place.count > 1 else ''} {names}{more}" if names else "without a process that you see"
    )
    return living + (f", mounted on {', '.join(place.files)}" if place.files else "")


def _devices(devices: tuple[Device, ...], console: Console) -> None:
    from nstool.cli.console import Table, cell, cells

    heads = ("devices", "kind", "state", "mtu", "mac", "addresses", "other end", "received", "sent")
    table = Table(*heads, fixed=(0, 5), below=(6,), spare=(4, 7, 8))
    for one in devices:
        kind = " ".join(word for word in (one.kind, one.detail) if word)
        state = one.state if one.up else "off"
        port = f", port of {one.master}" if one.master else ""
        table.add_row(
            *map(cell, (f"{one.index} {one.name}", kind + port, state, str(one.mtu), one.mac)),
            cells("\n".join(one.addresses)),
            cell(_peer(one.peer)),
            *map(cell, (_plural(one.received), _plural(one.sent))),
        )
    console.print(table)


def _peer(peer: Peer | None) -> str:
    if peer is None:
        return ""
    name = f"{peer.index} {peer.name}".strip()
    if peer.place is None:
        return f"{name}, here"
    if peer.place.inode is None:
        return f"{name} in namespace {peer.nsid}: {peer.why}"
    why = f" ({peer.why})" if peer.why else ""
    return f"{name} in net:[{peer.place.inode}], {_who(peer.place)}{why}"


def _plural(counters: dict[str, int]) -> str:
    bad = "".join(f", {counters[name]} {name}" for name in ("errors", "dropped") if counters[name])
    return f"{_bytes(counters['bytes'])} in {counters['packets']}{bad}"


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _routes(routes: tuple[Route, ...], console: Console, *, all_: bool) -> None:
    rows = []
    for one in routes:
        if one.table == "local" and not all_:
            continue
        hops = ", ".join(f"via {gateway} dev {device}" if gateway else f"dev {device}" for gateway, device in one.hops)
        what = "" if one.type == "unicast" else f"{one.type} "
        metric = str(one.metric) if one.metric else ""
        row = (f"{what}{one.destination}", one.table, hops, one.source, metric, one.protocol, " ".join(one.flags))
        rows.append(row)
    _table(("routes", "table", "", "source", "metric", "made by", ""), rows, console, fixed=(0, 3), below=(2,))


def _rules(rules: tuple[Rule, ...], console: Console, *, all_: bool) -> None:
    rows = [
        (str(one.priority), one.family, one.selector, one.action)
        for one in rules
        if all_ or (one.selector, one.action, one.priority) not in _USUAL
    ]
    _table(("rules", "", "", ""), rows, console, none="the usual ones")


def _sockets(found: Network, console: Console, *, all_: bool) -> None:
    rows = []
    for owned in found.sockets:
        one = owned.socket
        if one.family in _LOCAL and not all_:
            continue
        name = f"{one.family} {one.type}" if one.family in _LOCAL else one.type
        rows.append((name, one.state, one.local, one.remote, _owners(owned)))
    _table(("sockets", "state", "here", "there", "whose"), rows, console, fixed=(0, 2, 3))
    if found.hidden and rows:
        console.print(f" others may be of {plural(found.hidden, 'process')} whose files you may not see")


def _owners(owned: Owned) -> str:
    if owned.owners:
        return ", ".join(dict.fromkeys(f"{one.pid} {one.comm}" for one in owned.owners))
    if owned.socket.family == "netlink" and owned.socket.local == "0":
        return "the kernel"
    return "no process" if not owned.socket.inode else "no process that you see"


def _nftables(found: Network, console: Console) -> None:
    from nstool.cli.console import cell

    if found.ruleset is None:
        console.print(cell(f" firewall unknown: {found.unread['nftables']}"))
        return
    console.print(cell(" nftables", "bold"))
    for line in found.ruleset.splitlines() or ["none"]:
        console.print(cell(f"   {line}".rstrip().replace("\t", "    ")))


def _sysctls(found: Network, console: Console) -> None:
    from nstool.cli.console import cell

    if found.sysctls is None:
        console.print(cell(f" settings unknown: {found.unread['sysctls']}"))
        return
    rows = [(one.name, one.value, one.fresh) for one in found.sysctls]
    _table(("settings that differ", "here", "in a fresh one"), rows, console)


def _table(
    heads: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    console: Console,
    none: str = "none",
    fixed: Iterable[int] = (0,),
    below: Iterable[int] = (),
) -> None:
    from nstool.cli.console import Table, cell

    table = Table(*heads, fixed=fixed, below=below)
    for row in rows:
        table.add_row(*map(cell, row))
    if table.row_count:
        console.print(table)
    else:
        console.print(cell(f" {heads[0]}: {none}"))
