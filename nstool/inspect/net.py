"""A network namespace whole: devices with their other ends, routes, rules, sockets with owners, firewall, settings.

rtnetlink(7), sock_diag(7), nft(8). Not shown: traffic control, xfrm and tunnels' keys, metrics and encapsulation of
routes, eBPF programs. Sockets as far as inspect.sockets knows them.
"""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENODEV, EPERM

from nstool import uapi
from nstool.errors import KernelError, SandboxGone
from nstool.frozen import Frozen
from nstool.inspect import fds, sockets
from nstool.inspect.fds import Holder
from nstool.inspect.nsfile import Namespace
from nstool.inspect.proc import processes
from nstool.inspect.sockets import Socket
from nstool.network.facts import text
from nstool.sandbox import inside
from nstool.sandbox.mountinfo import read_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_FAMILIES = {2: "inet", 10: "inet6"}
_ANY = {2: "0.0.0.0/0", 10: "::/0"}
# linux/rtnetlink.h, ip-route(8)
_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast", 6: "blackhole", 7: "unreachable"}
_TYPES |= {8: "prohibit", 9: "throw", 10: "nat", 11: "xresolve"}
_TABLES = {253: "default", 254: "main", 255: "local"}
_PROTOCOLS = {0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra", 11: "zebra", 12: "bird"}
_PROTOCOLS |= {16: "dhcp", 18: "keepalived", 42: "babel", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip"}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_ROUTE_FLAGS = {1: "dead", 2: "pervasive", 4: "onlink", 8: "offload", 16: "linkdown", 32: "unresolved"}
_ACTIONS = {1: "lookup", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # linux/fib_rules.h
_NEIGHBOUR = {1: "incomplete", 2: "reachable", 4: "stale", 8: "delay", 16: "probe", 32: "failed"}
_NEIGHBOUR |= {64: "noarp", 128: "permanent"}
_IFF_UP, _IFF_LOOPBACK = uapi.IFF_UP, uapi.IFF_LOOPBACK
_COUNTERS = ("bytes", "packets", "errors", "dropped")
_ALL_BITS = 0xFFFFFFFF  # of a mask; of what a rule suppresses: nothing
_NO_NAME = "its name takes CAP_NET_ADMIN in its namespace, as root has it"
_NONE = -1  # of a namespace id: this namespace has given none

_SYSCTLS = "/proc/sys/net"
# Where each device has a directory of its own, made after that of "default".
_PER_DEVICE = ("ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh", "mpls/conf")
# What is counted, taken of the device, made of chance, or sized by the kernel.
NO_SETTINGS = ("nf_conntrack_count", "mtu", "stable_secret", "tcp_ehash_entries", "udp_hash_entries")
_NO_DAD = ("accept_dad", "-1")  # as the kernel has it for devices without neighbours
_NO_GROUPS = ("ping_group_range", "65534 65534")  # in a fresh one that an ordinary user makes no group has a number
_BATCH = 64  # namespaces that are held open at once
_PF_KTHREAD = 0x200000  # linux/sched.h
_PROCESSES = 8  # that are named of one namespace


class Place(Frozen):
    """A network namespace, and how it is known here. inode: None for one that is nowhere to be seen.

    processes: (pid, name) of the first in it but threads of the kernel; count: of all. files: where it is mounted.
    """

    inode: int | None
    processes: tuple[tuple[int, str], ...] = ()
    count: int = 0
    files: tuple[str, ...] = ()


class Peer(Frozen):
    """The other end of a veth(4) pair, or the device below a VLAN or macvlan. name: "" where not known.

    nsid: of its namespace in this one, -1 if it is this one. place: None if it is this one. why: what is not known.
    """

    index: int
    name: str
    nsid: int
    place: Place | None
    why: str = ""


class Device(Frozen):
    """A network device. kind: as "veth", "bridge", "loopback"; "" for one of the hardware. mtu: bytes.

    up: by the administrator; state: "up", "down", "unknown"… of the link. addresses: with prefix length; of one that
    goes to a single other host "ADDRESS peer OTHER/LENGTH". master: bridge or bond that it is a port of.
    received, sent: bytes, packets, errors, dropped.
    """

    index: int
    name: str
    kind: str
    detail: str
    mac: str
    mtu: int
    up: bool
    state: str
    addresses: tuple[str, ...]
    master: str
    peer: Peer | None
    received: dict[str, int]
    sent: dict[str, int]


class Route(Frozen):
    """A route. destination: "default" or a network. hops: (gateway or "", device) of each next hop, none for none.

    flags: "dead", "linkdown", "onlink"… of any of its hops.
    """

    family: str
    table: str
    type: str
    destination: str
    hops: tuple[tuple[str, str], ...]
    source: str
    metric: int
    protocol: str
    scope: str
    flags: tuple[str, ...]


class Rule(Frozen):
    """A rule of the routing policy, ip-rule(8). selector: what packets; action: as "lookup main"."""

    family: str
    priority: int
    selector: str
    action: str


class Neighbour(Frozen):
    """An entry of the neighbour table, ip-neighbour(8). mac: "" if not known. state: words joined by "|"."""

    address: str
    mac: str
    device: str
    state: str


class Owned(Frozen):
    """A socket with the processes that have it open, as far as the reader may see them."""

    socket: Socket
    owners: tuple[Holder, ...]


class Sysctl(Frozen):
    """A setting of net.* that differs from that of a namespace made now, which begins with the host's for IPv4.

    name: as "net/ipv4/ip_forward". fresh: the value in the other.
    """

    name: str
    value: str
    fresh: str


class Network(Frozen):
    """A network namespace whole. nftables: as ``nft -j`` has it; ruleset: the same as text; None where not read.

    owner: inode of the user namespace it belongs to, None where not seen. sysctls: None where no fresh namespace
    could be made to compare with. counters: those of /proc/net/snmp that are not 0. hidden: processes whose open
    files the reader may not see, any of which may own sockets. unread: why, by name.
    """

    place: Place
    owner: int | None
    devices: tuple[Device, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    neighbours: tuple[Neighbour, ...]
    sockets: tuple[Owned, ...]
    nftables: tuple[dict[str, Any], ...] | None
    ruleset: str | None
    sysctls: tuple[Sysctl, ...] | None
    counters: dict[str, dict[str, int]]
    hidden: int
    unread: dict[str, str]


class _Seen(Frozen):
    # What the child inside has read.
    devices: tuple[Device, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    neighbours: tuple[Neighbour, ...]
    sockets: tuple[Socket, ...]
    nftables: tuple[dict[str, Any], ...] | None
    ruleset: str | None
    sysctls: dict[str, str]
    counters: dict[str, dict[str, int]]
    unread: dict[str, str]


def network(namespace: Namespace) -> Network:
    """Read a network namespace whole, from a child that joins it; the caller stays where it is.

    Raises KernelError with the cause where the caller may not join it.
    """
    import pyroute2  # noqa: F401  a quarter of a second: once, not in each child

    seen = inside.call({"net": namespace.fd}, look)
    places = _places()
    devices = _with_peers(namespace, seen.devices, places)
    unread = dict(seen.unread)
    if owner := namespace.owner():
        owner.close()
    else:
        unread["owner"] = "it belongs to a user namespace that is neither yours nor below it, ioctl_nsfs(2)"
    owners, hidden = fds.holders({f"socket:[{one.inode}]" for one in seen.sockets if one.inode})
    return Network(
        place=places.get(namespace.inode, Place(namespace.inode)),
        owner=owner.inode if owner else None,
        devices=devices,
        routes=seen.routes,
        rules=seen.rules,
        neighbours=seen.neighbours,
        sockets=tuple(Owned(one, tuple(owners.get(f"socket:[{one.inode}]", ()))) for one in seen.sockets),
        nftables=seen.nftables,
        ruleset=seen.ruleset,
        sysctls=_differing(seen.sysctls, unread),
        counters=seen.counters,
        hidden=hidden,
        unread=unread,
    )


def settings(namespace: Namespace) -> dict[str, str]:
    """Return the sysctls net.* of a network namespace, {name: value}. Raises KernelError as ``network``."""
    return inside.call({"net": namespace.fd}, read_sysctls)


# ---- inside ----


def look() -> _Seen:
    """Read the network namespace that the calling process is in."""
    from pyroute2 import IPRoute

    unread: dict[str, str] = {}
    with IPRoute() as ip:
        links = tuple(ip.get_links())
        names = {link["index"]: text(link.get("ifname")) for link in links}
        devices = _devices(links, ip.get_addr(), names)
        routes = tuple(_route(row, names) for row in ip.get_routes() if row["family"] in _FAMILIES)
        rules = tuple(_rule(row) for family in _FAMILIES for row in ip.get_rules(family=family))
        neighbours = tuple(_neighbour(row, names) for family in _FAMILIES for row in ip.get_neighbours(family=family))
    nftables, ruleset = _nft(unread)
    return _Seen(
        devices, routes, rules, neighbours, sockets.read(), nftables, ruleset, read_sysctls(), _counters(), unread
    )


def _devices(links: Iterable[Any], addresses: Iterable[Any], names: dict[int, str]) -> tuple[Device, ...]:
    found: dict[int, list[str]] = {}
    for row in addresses:
        local, other = text(row.get("local") or row.get("address")), text(row.get("address"))
        length = row["prefixlen"]
        # On a link to a single host IFA_ADDRESS is that host's.
        shown = f"{local}/{length}" if other in ("", local) else f"{local} peer {other}/{length}"
        found.setdefault(row["index"], []).append(shown)
    return tuple(_device(link, tuple(found.get(link["index"], ())), names) for link in links)


def _device(link: Any, addresses: tuple[str, ...], names: dict[int, str]) -> Device:
    info = link.get("linkinfo")
    kind = text(info.get("kind") if info else None) or ("loopback" if link["flags"] & _IFF_LOOPBACK else "")
    counters = link.get("stats64") or link.get("stats") or {}
    return Device(
        index=link["index"],
        name=text(link.get("ifname")),
        kind=kind,
        detail=_detail(kind, info),
        mac=text(link.get("address")),
        mtu=link.get("mtu"),
        up=bool(link["flags"] & _IFF_UP),
        state=str(link.get("operstate") or "unknown").lower(),
        addresses=addresses,
        master=names.get(link.get("master"), "") if link.get("master") else "",
        peer=_peer(link, names),
        received={name: counters.get(f"rx_{name}", 0) for name in _COUNTERS},
        sent={name: counters.get(f"tx_{name}", 0) for name in _COUNTERS},
    )


def _detail(kind: str, info: Any) -> str:
    data = info.get("data") if info else None
    if data is None:
        return ""
    number = data.get("vlan_id") if kind == "vlan" else data.get("vxlan_id") if kind == "vxlan" else None
    return "" if number is None else f"id {number}"


def _peer(link: Any, names: dict[int, str]) -> Peer | None:
    index, nsid = link.get("link"), link.get("link_netnsid")
    if not index or (nsid is None and index == link["index"]):
        return None
    if nsid is None:
        return Peer(index, names.get(index, ""), _NONE, None)
    return Peer(index, "", nsid, Place(None))


def _route(row: Any, names: dict[int, str]) -> Route:
    family = row["family"]
    table = row.get("table", row["table"])
    bits = row["flags"]
    for hop in row.get("multipath") or ():
        bits |= hop["flags"]
    return Route(
        family=_FAMILIES[family],
        table=_TABLES.get(table, str(table)),
        type=_TYPES.get(row["type"], str(row["type"])),
        destination=_network(row, "dst") or "default",
        hops=_hops(row, names),
        source=text(row.get("prefsrc")),
        metric=row.get("priority") or 0,
        protocol=_PROTOCOLS.get(row["proto"], str(row["proto"])),
        scope=_SCOPES.get(row["scope"], str(row["scope"])),
        flags=tuple(sorted(word for bit, word in _ROUTE_FLAGS.items() if bits & bit)),
    )


def _hops(row: Any, names: dict[int, str]) -> tuple[tuple[str, str], ...]:
    several = row.get("multipath")
    if several:
        return tuple((_gateway(hop), names.get(hop["oif"], "")) for hop in several)
    gateway, device = _gateway(row), names.get(row.get("oif"), "")
    return ((gateway, device),) if gateway or device else ()


def _gateway(row: Any) -> str:
    via = row.get("via")  # a gateway of the other family
    return text(row.get("gateway") or (via["addr"] if via else ""))


def _rule(row: Any) -> Rule:
    words = [f"from {_network(row, 'src') or 'all'}"]
    if row.get("flags", 0) & 2:  # FIB_RULE_INVERT
        words.insert(0, "not")
    if to := _network(row, "dst"):
        words.append(f"to {to}")
    mark, mask = row.get("fwmark") or 0, row.get("fwmask") or 0
    if mark or mask:
        words.append(f"fwmark {hex(mark) if mark else 0}" + (f"/{mask:#x}" if mask not in (0, _ALL_BITS) else ""))
    for key, word in (("iifname", "iif"), ("oifname", "oif"), ("ip_proto", "ipproto"), ("tun_id", "tun_id")):
        if value := row.get(key):
            words.append(f"{word} {text(value) if isinstance(value, bytes) else value}")
    for key, word in (("uid_range", "uidrange"), ("sport_range", "sport"), ("dport_range", "dport")):
        if value := row.get(key):
            words.append(f"{word} {value['start']}-{value['end']}")
    if row["tos"]:
        words.append(f"tos {row['tos']:#x}")
    if row.get("l3mdev"):
        words.append("l3mdev")
    table = row.get("table", row["table"])
    action = _ACTIONS.get(row["action"], str(row["action"]))
    if action == "lookup":
        action += f" {_TABLES.get(table, table)}"
        for key in (
            "suppress_prefixlen",
            "suppress_ifgroup",
        ):  # a route that it finds and that is of these does not count
            if (value := row.get(key)) not in (None, _ALL_BITS):
                action += f" {key.replace('len', 'length')} {value}"
    elif action == "goto":
        action += f" {row.get('goto')}"
    return Rule(_FAMILIES[row["family"]], row.get("priority") or 0, " ".join(words), action)


def _network(row: Any, which: str) -> str:
    address = text(row.get(which))
    full = 32 if row["family"] == 2 else 128
    length = row[f"{which}_len"]
    if not address:
        return ""
    return address if length == full else f"{address}/{length}"


def _neighbour(row: Any, names: dict[int, str]) -> Neighbour:
    words = [word for bit, word in _NEIGHBOUR.items() if row["state"] & bit]
    return Neighbour(
        text(row.get("dst")), text(row.get("lladdr")), names.get(row["ifindex"], ""), "|".join(words) or "none"
    )


def _nft(unread: dict[str, str]) -> tuple[tuple[dict[str, Any], ...] | None, str | None]:
    """Return the ruleset as JSON and as text."""
    import json
    import subprocess

    texts = []
    for options in (["-j"], []):
        try:
            done = subprocess.run(
                ["nft", *options, "list", "ruleset"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                **_as_root_inside(),
            )
        except FileNotFoundError:
            unread["nftables"] = "no nft command; install nftables"
            return None, None
        if done.returncode != 0:
            why = done.stderr.strip().splitlines()[:1]
            unread["nftables"] = f"nft: {why[0] if why else f'status {done.returncode}'}; it takes CAP_NET_ADMIN"
            return None, None
        texts.append(done.stdout)
    return tuple(json.loads(texts[0])["nftables"]) if texts[0].strip() else (), texts[1]


def _as_root_inside() -> dict[str, Any]:
    # In a user namespace that was joined, a program of ours is somebody's there: it shall not be us. exec(3) makes it
    # dumpable again, and who has CAP_SYS_PTRACE in there may take it over.
    if os.geteuid() == 0 or _effective() == 0:
        return {}
    with open("/proc/thread-self/uid_map") as file:
        has_root = any(line.split()[0] == "0" for line in file)
    return {"user": 0, "group": 0, "extra_groups": []} if has_root and _may_setgroups() else {}


def _effective() -> int:
    with open("/proc/thread-self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


def _may_setgroups() -> bool:
    with open("/proc/thread-self/setgroups") as file:
        return file.read().strip() == "allow"


def read_sysctls() -> dict[str, str]:
    """Return the settings net.* of the calling process's namespace: {"net/ipv4/ip_forward": "0"}."""
    found = {}
    for directory, _, names in os.walk(_SYSCTLS):
        for name in names:
            path = f"{directory}/{name}"
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    found[path.removeprefix("/proc/sys/")] = " ".join(file.read().split())
            except OSError:  # one that is only to be written, or that has no value yet: no setting
                continue
    return found


def fresh_sysctls() -> dict[str, str]:
    """Return the settings of a network namespace that is made now; the calling process is in it then."""
    from nstool import syscalls

    try:
        syscalls.unshare(uapi.CLONE_NEWNET)
    except KernelError as error:
        if error.errno != EPERM:
            raise
        syscalls.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWNET)
    return read_sysctls()


def _counters() -> dict[str, dict[str, int]]:
    """Return the counters of /proc/net/snmp that are not 0, by protocol. proc_pid_net(5)."""
    with open("/proc/thread-self/net/snmp") as file:
        lines = [line.split() for line in file]
    found = {}
    for names, values in zip(lines[::2], lines[1::2]):
        pairs = ((name, int(value)) for name, value in zip(names[1:], values[1:]))
        found[names[0].rstrip(":")] = {name: value for name, value in pairs if value > 0}
    return {protocol: values for protocol, values in found.items() if values}


# ---- other namespaces ----


def _places() -> dict[int, Place]:
    """Return the network namespaces that processes live in, or that are mounted, as far as the reader may see them."""
    living: dict[int, list[tuple[int, str]]] = {}
    counts: dict[int, int] = {}
    for proc in processes():
        try:
            inode = proc.inode("net")
            counts[inode] = counts.get(inode, 0) + 1
            if len(living.setdefault(inode, [])) < _PROCESSES and not (stat := proc.stat()).flags & _PF_KTHREAD:
                living[inode].append((proc.pid, stat.comm))
        except (SandboxGone, OSError):  # ended, or not the reader's to look at
            continue
    files: dict[int, list[str]] = {}
    with open("/proc/thread-self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for mount in read_mounts(file.read()):
            if mount.type == "nsfs" and mount.root.startswith("net:["):
                files.setdefault(int(mount.root[5:-1]), []).append(mount.target)
    return {
        inode: Place(inode, tuple(living.get(inode, ())), counts.get(inode, 0), tuple(files.get(inode, ())))
        for inode in {*counts, *files}
    }


def _open(place: Place) -> Namespace | None:
    paths = [*(f"/proc/{pid}/ns/net" for pid, _ in place.processes), *place.files]
    for path in paths:
        try:
            found = Namespace(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "net")
        except OSError:  # ended, covered by another mount, or not the reader's to look at
            continue
        if found.inode == place.inode:
            return found
        found.close()
    return None


def _with_peers(namespace: Namespace, devices: tuple[Device, ...], places: dict[int, Place]) -> tuple[Device, ...]:
    """Say of each other end that is in another namespace which that is, and what it is called there."""
    wanted = sorted({(peer.nsid, peer.index) for one in devices if (peer := one.peer) and peer.nsid != _NONE})
    if not wanted:
        return devices
    inodes: dict[int, int] = {}  # by namespace id
    names: dict[tuple[int, int], str] = {}
    others = [place for inode, place in places.items() if inode != namespace.inode]
    for start in range(0, max(1, len(others)), _BATCH):
        opened = [found for place in others[start : start + _BATCH] if (found := _open(place))]
        try:
            candidates = {found.inode: found.fd for found in opened}
            asked = wanted if start == 0 else []
            more = inside.call({"net": namespace.fd}, ask_peers, candidates, asked, keep=candidates.values())
            inodes |= more[0]
            names |= more[1]
        finally:
            for found in opened:
                found.close()
        if {nsid for nsid, _ in wanted} <= set(inodes):
            break
    return tuple(one.replace(peer=_placed(one.peer, inodes, names, places)) for one in devices)


def _placed(
    peer: Peer | None, inodes: dict[int, int], names: dict[tuple[int, int], str], places: dict[int, Place]
) -> Peer | None:
    if peer is None or peer.nsid == _NONE:
        return peer
    inode = inodes.get(peer.nsid)
    name = names.get((peer.nsid, peer.index), "")
    if inode is None:
        why = "its namespace has no process and no mount that you may see" + ("" if name else f"; {_NO_NAME}")
        return peer.replace(name=name, why=why)
    return peer.replace(name=name, place=places[inode], why="" if name else _NO_NAME)


def ask_peers(
    candidates: dict[int, int], wanted: list[tuple[int, int]]
) -> tuple[dict[int, int], dict[tuple[int, int], str]]:
    """Return {namespace id here: inode} of the candidates, {inode: fd}, and {(namespace id, index): name there}."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    inodes, names = {}, {}
    with IPRoute() as ip:
        for inode, fd in candidates.items():
            nsid = ip.get_netnsid(fd=fd)["nsid"]
            if nsid is not None and nsid < 1 << 31:  # else -1: none given
                inodes[nsid] = inode
        for nsid, index in wanted:
            try:
                (link,) = ip.link("get", index=index, if_netnsid=nsid)
                names[nsid, index] = text(link.get("ifname"))
            except NetlinkError as error:
                # EACCES: its namespace is not ours to administer; ENODEV, EINVAL: the device, or that, is gone
                if error.code not in (EPERM, EACCES, ENODEV, EINVAL):
                    raise
    return inodes, names


# ---- settings ----


def _differing(values: dict[str, str], unread: dict[str, str]) -> tuple[Sysctl, ...] | None:
    try:
        fresh = inside.call({}, fresh_sysctls)
    except KernelError as error:
        unread["sysctls"] = f"no fresh network namespace could be made to compare with: {error.strerror}"
        return None
    return differing(values, fresh)


def differing(values: dict[str, str], fresh: dict[str, str]) -> tuple[Sysctl, ...]:
    """Return the settings that differ from those of a fresh namespace.

    values, fresh: {"net/ipv4/ip_forward": "0"}. A device other than lo is compared with "default" of the fresh one.
    Settings that a fresh one has not got are the host's, and left out.
    """
    found = []
    for name, value in sorted(values.items()):
        model = fresh.get(name) if name in fresh else fresh.get(_model(name))
        last = name.rpartition("/")[2]
        if model in (None, value) or last in NO_SETTINGS:
            continue
        if (last, value) != _NO_DAD and (last, model) != _NO_GROUPS:
            found.append(Sysctl(name, value, str(model)))
    return tuple(found)


def _model(name: str) -> str:
    for directory in _PER_DEVICE:
        start = f"net/{directory}/"
        if name.startswith(start):
            return start + "default/" + name.rpartition("/")[2]
    return name
