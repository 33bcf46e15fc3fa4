"""``nstool show``: what isolates a sandbox or a process, inside beside outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from nstool.sandbox.facts import CapabilitySet, Facts, Isolation
    from nstool.spec.model import IdMap

ALL_CAPABILITIES = "all"
Row = tuple[str, str, str]


@click.command("show")
@click.argument("target", metavar="NAME|PID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--mounts", is_flag=True, help="List the mounts inside too.")
def show(target: str, as_json: bool, mounts: bool) -> int:
    """Show what isolates the command of sandbox NAME, or the process PID, beside what nstool itself sees."""
    import json

    found = look(_pid(target))
    if as_json:
        click.echo(json.dumps(found.asdict(), indent=2))
        return 0
    from rich.console import Console

    console = Console()
    render(found, console)
    if mounts:
        render_mounts(found, console)
    return 0


def look(pid: int) -> Isolation:
    """Read what isolates a process, its addresses too. Raises SandboxGone if there is none, or it ends meanwhile."""
    from nstool.sandbox.facts import isolation

    found = isolation(pid)
    return found.replace(inside=_with_addresses(found.inside), outside=_with_addresses(found.outside))


def render(isolation: Isolation, console: Console) -> None:
    """Print the table: one row a fact, inside beside outside, what differs in green."""
    from rich.table import Table

    inside, outside = isolation.inside, isolation.outside
    table = Table(
        "", f"inside: {inside.command} ({inside.pid})", f"outside: {outside.command} ({outside.pid})", box=None
    )
    for title, rows in (
        ("namespaces", list(_namespaces(isolation))),
        ("identity", list(_identity(inside, outside))),
        ("capabilities", list(_capabilities(inside, outside))),
        ("confinement", list(_confinement(inside, outside))),
        ("surroundings", list(_surroundings(inside, outside))),
    ):
        table.add_row(f"[bold]{title}[/bold]")
        for name, left, right in rows:
            style = "green" if left != right else ""
            table.add_row(f"  {name}", *(_cell(text, style) for text in (left, right)))
    console.print(table)


def render_mounts(isolation: Isolation, console: Console) -> None:
    """Print the mounts inside: target, ro or rw, type, source, options."""
    from rich.table import Table
    from rich.text import Text

    table = Table("mounted on", "", "type", "source", "options", box=None)
    for mount in isolation.inside.mounts or ():
        access = "ro" if mount.read_only else "rw"
        options = ",".join(option for option in mount.options if option not in ("ro", "rw"))
        table.add_row(*(Text(_printable(word)) for word in (mount.target, access, mount.type, mount.source, options)))
    console.print(table)


def _namespaces(isolation: Isolation) -> Iterator[Row]:
    for kind, differs in isolation.differs.items():
        left, right = (_inode(facts, kind) for facts in (isolation.inside, isolation.outside))
        yield kind, left if differs else f"{left} (shared)" if differs is False else left, right


def _inode(facts: Facts, kind: str) -> str:
    if kind in facts.namespaces:
        return f"{kind}:[{facts.namespaces[kind]}]"
    return f"unknown: {facts.unread[f'namespaces.{kind}']}"


def _identity(inside: Facts, outside: Facts) -> Iterator[Row]:
    yield "uid", _ids(inside, "uid"), _ids(outside, "uid")
    yield "gid", _ids(inside, "gid"), _ids(outside, "gid")
    yield "groups", *(_words(map(str, facts.groups)) for facts in (inside, outside))
    yield "uid map", *(_map(facts.uid_map) for facts in (inside, outside))
    yield "gid map", *(_map(facts.gid_map) for facts in (inside, outside))
    yield "pids", *(" > ".join(map(str, facts.pids)) for facts in (inside, outside))


def _ids(facts: Facts, what: str) -> str:
    # The kernel shows ids as the reader's; what the process itself sees comes through its map.
    from nstool.security.idmap import to_inside

    ids, maps = (facts.uids, facts.uid_map) if what == "uid" else (facts.gids, facts.gid_map)
    own = to_inside(maps, ids.effective)
    own_text = "not mapped" if own is None else str(own)
    return own_text if own == ids.effective else f"{own_text} (outside {ids.effective})"


def _map(maps: Sequence[IdMap]) -> str:
    return "\n".join(f"{line.inside} is {line.outside}, {line.count} ids" for line in maps) or "none"


def _capabilities(inside: Facts, outside: Facts) -> Iterator[Row]:
    for name in inside.capabilities:
        yield name, _capability_names(inside.capabilities[name]), _capability_names(outside.capabilities[name])
    yield (
        "securebits",
        *(_or_reason(facts, "securebits", _words(facts.securebits or ())) for facts in (inside, outside)),
    )


def _capability_names(one: CapabilitySet) -> str:
    # A nearly full set is told by what it lacks.
    from nstool.security.capabilities import full, names

    lacking = names(full() & ~one.mask)
    if len(lacking) < len(one.names):
        return f"{ALL_CAPABILITIES} but {_words(lacking)}" if lacking else ALL_CAPABILITIES
    return _words(one.names)


def _confinement(inside: Facts, outside: Facts) -> Iterator[Row]:
    yield "no_new_privs", *("yes" if facts.no_new_privs else "no" for facts in (inside, outside))
    yield "seccomp", *(_seccomp(facts) for facts in (inside, outside))
    yield "LSM label", *(_or_reason(facts, "lsm", facts.lsm or "none") for facts in (inside, outside))
    for name in dict.fromkeys((*_limits(inside), *_limits(outside))):
        yield name, _limits(inside).get(name, "none"), _limits(outside).get(name, "none")
    for name, limit in inside.rlimits.items():
        if limit != outside.rlimits[name]:
            yield f"rlimit {name}", _rlimit(limit), _rlimit(outside.rlimits[name])
    yield "oom_score_adj", str(inside.oom_score_adj), str(outside.oom_score_adj)


def _seccomp(facts: Facts) -> str:
    if facts.seccomp != "filter" or facts.seccomp_filters is None:
        return facts.seccomp
    return f"{facts.seccomp_filters} filter{'s' if facts.seccomp_filters > 1 else ''}"


def _limits(facts: Facts) -> dict[str, str]:
    return {name: _limit(name, value) for cgroup in facts.cgroups for name, value in cgroup.limits.items()}


def _limit(name: str, value: str) -> str:
    # Version 1 says "unlimited" as -1, or for memory as the largest number of whole pages.
    if value in ("max", "-1", "max 100000") or (value.isdecimal() and int(value) >= 1 << 60):
        return "unlimited"
    if name.startswith("memory.") and value.isdecimal():
        return f"{int(value) / (1 << 20):g} MiB"
    return value


def _rlimit(limit: tuple[int, int]) -> str:
    from nstool.security.rlimits import describe

    return describe(limit)


def _surroundings(inside: Facts, outside: Facts) -> Iterator[Row]:
    yield "host name", *(_or_reason(facts, "hostname", facts.hostname or "") for facts in (inside, outside))
    yield "clocks", *(_or_reason(facts, "time_offsets", _clocks(facts)) for facts in (inside, outside))
    yield "root", *(_or_reason(facts, "mounts", _root(facts)) for facts in (inside, outside))
    yield "mounts", *(_or_reason(facts, "mounts", _mount_counts(facts)) for facts in (inside, outside))
    yield "addresses", *(_network(facts) for facts in (inside, outside))
    yield "cgroups", *(_cgroups(facts) for facts in (inside, outside))
    yield "memory", *(_or_reason(facts, "memory", _memory(facts)) for facts in (inside, outside))


def _clocks(facts: Facts) -> str:
    moved = {clock: offset for clock, offset in (facts.time_offsets or {}).items() if offset}
    return "\n".join(f"{clock} {offset / 1e9:+g} s" for clock, offset in moved.items()) or "not moved"


def _root(facts: Facts) -> str:
    root = facts.root
    if root is None:
        return "no mount"
    return f"{root.type} {root.source}{'' if root.root == '/' else root.root} ({','.join(root.options)})"


def _mount_counts(facts: Facts) -> str:
    mounts = facts.mounts or ()
    writable = sum(not mount.read_only for mount in mounts)
    return f"{len(mounts)}, {writable} of them writable"


def _network(facts: Facts) -> str:
    if facts.addresses is None:
        return _or_reason(facts, "addresses", "not asked for")
    return "\n".join(facts.addresses) or "none"


def _cgroups(facts: Facts) -> str:
    paths: dict[str, list[str]] = {}
    for cgroup in facts.cgroups:
        paths.setdefault(cgroup.path, []).extend(cgroup.controllers or ("v2",))
    return "\n".join(f"{path} ({', '.join(names)})" for path, names in paths.items())


def _memory(facts: Facts) -> str:
    return f"{facts.memory.private} KiB private" if facts.memory else ""


def _or_reason(facts: Facts, fact: str, text: str) -> str:
    return f"unknown: {facts.unread[fact]}" if fact in facts.unread else text


def _words(words: Sequence[str] | Iterator[str]) -> str:
    return " ".join(words) or "none"


def _cell(text: str, style: str) -> object:
    from rich.text import Text

    return Text(_printable(text), style=style)


def _printable(text: str) -> str:
    # Names come from inside: an escape sequence in one must not reach the terminal.
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _pid(target: str) -> int:
    from nstool.errors import SandboxGone
    from nstool.sandbox import rundir
    from nstool.sandbox.launch import payload_pid

    if target.isascii() and target.isdecimal():
        return int(target)
    record = rundir.find(target)
    if not record.init_alive:
        raise SandboxGone(f"sandbox {target!r} is not running yet, or has just ended")
    return payload_pid(record.init_pid) if record.spec.get("init", True) else record.init_pid


def _with_addresses(facts: Facts) -> Facts:
    from errno import EACCES, EPERM

    from nstool.network.facts import addresses

    try:
        links = addresses(facts.pid).links
    except OSError as error:
        if error.errno not in (EACCES, EPERM):
            raise
        # An ordinary user may join no network namespace from outside.
        return facts.replace(unread={**facts.unread, "addresses": str(error.strerror)})
    return facts.replace(addresses=tuple(" ".join((link.name, *link.addresses)) for link in links))
