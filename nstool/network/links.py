"""Make and remove the links of a sandbox by rtnetlink(7), through pyroute2."""

from __future__ import annotations

import errno
import os

from nstool.errors import KernelError, NotSupported
from nstool.network import sysctl
from nstool.network.plan import DEVICE, OUTSIDE_MAC
from nstool.sandbox import spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from nstool.network.shared import Shared

    T = TypeVar("T")

BRIDGES = "bridges"  # key of the shared state: bridge → {"mac": ..., "ports": [link, ...]}
IFA_F_NODAD = 0x02  # linux/if_addr.h: usable at once, nobody else can have it
RT_TABLE_LOCAL = 255  # linux/rtnetlink.h
RTN_UNICAST, RTN_LOCAL = 1, 2
SIOCGIFHWADDR = 0x8927  # linux/sockios.h, netdevice(7)
LOOPBACK_METRIC = 4096  # behind the kernel's own route of ::1, which has metric 0


def inside(pid: int, function: Callable[[], T]) -> T:
    """Return what ``function`` returns in the network namespace of ``pid``. setns(2).

    It runs in a thread of its own, which ends with it: the calling thread stays where it is, and
    so does the rest of the process. /proc/sys/net, too, follows the thread.
    """

    def joined() -> T:
        from pyroute2 import netns

        with open(f"/proc/{pid}/ns/net", "rb") as file:
            netns.setns(file.fileno())
        return function()

    try:
        return _apart(joined)
    except FileNotFoundError as error:
        raise KernelError(f"open(/proc/{pid}/ns/net)", errno.ESRCH) from error


def _apart(function: Callable[[], T]) -> T:
    """Call ``function`` in a thread of its own, which is in the caller's network namespace too.

    pyroute2 runs an event loop in the thread that calls it, and refuses one that has a loop running.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        try:
            future = thread.submit(function)
        except RuntimeError:
            raise spare.no_process("a thread that asks the kernel for links") from None
        return future.result()


def veth_create(pid: int, args: dict[str, Any]) -> None:
    """Make the veth pair with its far end in the namespace of ``pid``, configure and raise both ends.

    args: of the step veth_create. veth(4).
    """
    _apart(lambda: _veth_create(pid, args))
    inside(pid, lambda: _configure(args))


def _veth_create(pid: int, args: dict[str, Any]) -> None:
    with open(f"/proc/{pid}/ns/net", "rb") as namespace, _netlink() as ip:
        peer = {"ifname": DEVICE, "address": args["mac"], "net_ns_fd": namespace.fileno(), **_mtu(args)}
        with _call(f"RTM_NEWLINK veth {args['link']}"):
            ip.link("add", ifname=args["link"], kind="veth", address=args["link_mac"], peer=peer, **_mtu(args))
        gateways = args["gateways"] if args["routed"] else []
        _quiet(args["link"])
        _ipv6(args["link"], gateways)
        index = _raise(ip, args["link"], gateways)
        if args["routed"]:
            _fix_neighbours(ip, index, args["addresses"], args["mac"])
        if gateways and args["publish"]:
            _loopback(ip, args["link"], gateways)


def _configure(args: dict[str, Any]) -> None:
    """Addresses and routes of the sandbox's end, in the sandbox's namespace."""
    _quiet(DEVICE)
    _ipv6(DEVICE, args["addresses"])
    with _netlink() as ip:
        index = _raise(ip, DEVICE, args["addresses"])
        if args["routed"]:
            _fix_neighbours(ip, index, args["gateways"], args["link_mac"])
        defaults = [["default", gateway.partition("/")[0]] for gateway in args["gateways"]]
        for destination, gateway in (*args["routes"], *defaults):
            with _call(f"RTM_NEWROUTE {destination} via {gateway}"):
                ip.route("add", dst=destination, gateway=gateway, oif=index, family=_family(gateway))


def veth_delete(args: dict[str, Any]) -> None:
    """Remove the veth pair of the step veth_create. One that is not there, or not ours, is left alone."""
    delete(args["link"], "veth", args["link_mac"])


def bridge_attach(shared: Shared, args: dict[str, Any]) -> None:
    """Put a link on its bridge, which is made if absent. bridge(8). args: of the step bridge_attach.

    A bridge that was there before is the administrator's: it gets a port and nothing else.
    """
    check_bridge(shared, args["bridge"], allocated=args["allocated"])
    _apart(lambda: _bridge_attach(shared, args))


def _bridge_attach(shared: Shared, args: dict[str, Any]) -> None:
    with _netlink() as ip:
        name = args["bridge"]
        bridges = shared.state.setdefault(BRIDGES, {})
        if name in bridges or _index(ip, name) is None:
            record = bridges.setdefault(name, {"mac": args["bridge_mac"], "ports": []})
            record["ports"] = sorted({*record["ports"], args["link"]})
            shared.save()
            _own_bridge(ip, args, record["mac"])
        port, bridge = _index(ip, args["link"]), _index(ip, name)
        with _call(f"RTM_SETLINK {args['link']} master {name}"):
            ip.link("set", index=port, master=bridge)
        with _call(f"RTM_SETLINK {args['link']} isolated"):
            ip.brport("set", index=port, isolated=int(args["isolated"]), mode=0)


def port_isolated(name: str) -> bool:
    """Whether a port of a bridge is isolated from other isolated ones. bridge(8)."""
    return _apart(lambda: _port_isolated(name))


def _port_isolated(name: str) -> bool:
    with _netlink() as ip:
        index = _index(ip, name)
        return index is not None and bool(ip.get_links(index)[0].get(("linkinfo", "slave_data", "isolated")))


def check_bridge(shared: Shared, name: str, *, allocated: bool) -> None:
    """Refuse a bridge that is not ours for a sandbox whose address or gateway we chose. Raises NotSupported."""
    if allocated and name not in shared.state.get(BRIDGES, {}) and _apart(lambda: _exists(name)):
        raise NotSupported(
            f'net.bridge "{name}"',
            "the bridge was there before, so its network is not nstool's to choose an address or a gateway from",
            "give net.address and net.gateway of that network, or another name for a bridge of nstool's own",
        )


def _exists(name: str) -> bool:
    with _netlink() as ip:
        return _index(ip, name) is not None


def _own_bridge(ip: Any, args: dict[str, Any], mac: str) -> None:
    """Make our bridge if absent, with the gateway addresses that its sandboxes use."""
    name = args["bridge"]
    if _index(ip, name) is None:
        with _call(f"RTM_NEWLINK bridge {name}"):
            ip.link("add", ifname=name, kind="bridge", address=mac)
        _quiet(name)
        _ipv6(name, [])
    if any(":" in gateway for gateway in args["gateways"]):
        _ipv6(name, args["gateways"])
    index = _raise(ip, name, args["gateways"])
    if args["publish"]:
        _loopback(ip, name, args["gateways"])
    _fix_neighbours(ip, index, args["addresses"], args["mac"])


def bridge_detach(shared: Shared, args: dict[str, Any]) -> None:
    """Undo bridge_attach; our bridge goes with its last port. Twice does no harm."""
    bridges = shared.state.get(BRIDGES, {})
    record = bridges.get(args["bridge"])
    if record is None or args["link"] not in record["ports"]:
        return
    if record["ports"] == [args["link"]]:
        delete(args["bridge"], "bridge", record["mac"])
        del bridges[args["bridge"]]
    else:
        _apart(lambda: _forget_neighbours(args))
        record["ports"].remove(args["link"])
    shared.save()


def _forget_neighbours(args: dict[str, Any]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ip:
        index = _index(ip, args["bridge"])
        for address in args["addresses"] if index is not None else ():
            try:
                ip.neigh("del", dst=address, ifindex=index)
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # never made
                    raise KernelError(f"RTM_DELNEIGH {address}", error.code) from error


def with_our_mac() -> dict[str, str]:
    """Return name → MAC address of the devices with an address as we give to our ends of links, and to bridges."""
    import fcntl
    import socket

    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for name in names():
            try:
                answer = fcntl.ioctl(any_socket, SIOCGIFHWADDR, name.encode().ljust(40, b"\0"))
            except OSError as error:
                if error.errno != errno.ENODEV:  # gone since it was listed
                    raise
            else:
                found[name] = answer[18:24].hex(":")
    return {name: mac for name, mac in found.items() if mac.startswith(OUTSIDE_MAC)}


def names() -> set[str]:
    """Return the names of the devices in this network namespace."""
    import socket

    return {name for _, name in socket.if_nameindex()}


def reached() -> list[tuple[str, str]]:
    """Return (network, device) of what this host reaches: by its routes, gateways and own addresses. rtnetlink(7).

    Without the default routes.
    """
    return _apart(_reached)


def _reached() -> list[tuple[str, str]]:
    found = []
    with _netlink() as ip:
        devices = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
        for route in ip.get_routes():
            if route["type"] not in (RTN_UNICAST, RTN_LOCAL):
                continue
            device = devices.get(route.get_attr("RTA_OIF"), "?")  # several ways have no device of their own
            if route["dst_len"]:
                found.append((f"{route.get_attr('RTA_DST')}/{route['dst_len']}", device))
            if via := route.get_attr("RTA_GATEWAY"):
                found.append((via, device))
    return found


def kind(name: str) -> str:
    """Return the kind of a link, as "veth" or "bridge"; empty if it has none or is not there."""

    def look() -> str:
        with _netlink() as ip:
            link = _link(ip, name)
            return "" if link is None else link.get(("linkinfo", "kind")) or ""

    return _apart(look)


def in_use(name: str) -> bool:
    """Whether a process is in the network namespace where the other end of this veth link is."""
    return _apart(lambda: _in_use(name))


def _in_use(name: str) -> bool:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ip:
        link = _link(ip, name)
        there = None if link is None else link.get("link_netnsid")
        if there is None:  # gone; or its other end was moved to the host
            return link is not None
        for pid in _one_of_each_namespace():
            try:
                if ip.get_netnsid(pid=pid)["nsid"] == there:
                    return True
            except NetlinkError as error:
                if error.code != errno.ESRCH:  # it has just ended
                    raise KernelError("RTM_GETNSID", error.code) from error
    return False


def _one_of_each_namespace() -> Iterable[int]:
    """Return a pid for each network namespace that has processes."""
    pids: dict[int, int] = {}
    for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]:
        try:
            pids[os.stat(f"/proc/{pid}/ns/net").st_ino] = pid
        except (FileNotFoundError, ProcessLookupError):  # ended, or a zombie
            continue
        except PermissionError:  # not ours to look into, ptrace(2); netlink answers all the same
            pids[-pid] = pid
    return pids.values()


def kind_known(kind: str) -> bool:
    """True if the kernel can make links of this kind (loading the module if it must). Makes none.

    The kind checks the address before anything is made, and this one is a multicast address: a
    kernel that has the kind answers EADDRNOTAVAIL, one that has not EOPNOTSUPP.
    """
    return _apart(lambda: _kind_known(kind))


def _kind_known(kind: str) -> bool:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ip:
        try:
            ip.link("add", ifname="ns-probe", kind=kind, address="01:00:00:00:00:00")
        except NetlinkError as error:
            return bool(error.code != errno.EOPNOTSUPP)
    raise KernelError(f"RTM_NEWLINK {kind}", 0, why="the kernel made a link with a multicast address")


def forget_connections(addresses: list[str]) -> None:
    """Remove the tracked connections of a sandbox that has gone.

    A client's UDP flow would otherwise keep going to its address, also when another sandbox has
    the published port by then. Through ctnetlink (conntrack(8)).
    """
    try:
        _apart(lambda: _forget_connections(addresses))
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # no nf_conntrack_netlink: they time out
            raise


def _forget_connections(addresses: list[str]) -> None:
    import socket

    from pyroute2 import NFCTSocket
    from pyroute2.netlink.nfnetlink.nfctsocket import IPS_DST_NAT, NFCTAttrTuple

    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # What the kernel is asked for: a host's whole table would take seconds to read. A kernel
        # that does not know these filters (before Linux 5.8 and 5.15) gives it all.
        wanted = (
            {"tuple_orig": NFCTAttrTuple(family=family, saddr=address)},
            {"tuple_orig": NFCTAttrTuple(family=family, daddr=address)},
            {"status": IPS_DST_NAT, "status_mask": IPS_DST_NAT},  # to a published port
        )
        with NFCTSocket(nfgen_family=family) as conntrack:
            for filtered in wanted:
                with _call("IPCTNL_MSG_CT_GET"):
                    entries = list(conntrack.dump(**filtered))
                for entry in entries:
                    origin, reply = (
                        NFCTAttrTuple.from_netlink(family, entry.get_attr(f"CTA_TUPLE_{way}"))
                        for way in ("ORIG", "REPLY")
                    )
                    if address in (origin.saddr, origin.daddr, reply.saddr):
                        _forget_connection(conntrack, origin)


def _forget_connection(conntrack: Any, origin: Any) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        conntrack.entry("del", tuple_orig=origin)
    except NetlinkError as error:
        if error.code != errno.ENOENT:  # it ended by itself meanwhile
            raise KernelError("IPCTNL_MSG_CT_DELETE", error.code) from error


def _netlink() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


class _call:
    """Turn what pyroute2 raises into a KernelError with the netlink message's name."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        from pyroute2.netlink.exceptions import NetlinkError

        if isinstance(error, NetlinkError):
            raise KernelError(self.call, error.code) from error


def _index(ip: Any, name: str) -> int | None:
    link = _link(ip, name)
    return None if link is None else int(link["index"])


def _link(ip: Any, name: str) -> Any:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return ip.link("get", ifname=name)[0]
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise KernelError(f"RTM_GETLINK {name}", error.code) from error


def delete(name: str, kind: str, mac: str) -> None:
    """Delete a link if it is the one we made: of this kind, with the address that we gave it."""
    _apart(lambda: _delete(name, kind, mac))


def _delete(name: str, kind: str, mac: str) -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with _netlink() as ip:
        link = _link(ip, name)
        if link is None or link.get("address") != mac or link.get(("linkinfo", "kind")) != kind:
            return
        try:
            ip.link("del", index=link["index"])
        except NetlinkError as error:
            if error.code != errno.ENODEV:  # it went with the sandbox's namespace just now
                raise KernelError(f"RTM_DELLINK {name}", error.code) from error


def _raise(ip: Any, name: str, addresses: list[str]) -> int:
    """Set a link up with these addresses and return its index."""
    index = _index(ip, name)
    if index is None:
        raise KernelError(f"RTM_GETLINK {name}", errno.ENODEV)
    with _call(f"RTM_SETLINK {name} up"):
        ip.link("set", index=index, state="up")
    for text in addresses:
        address, _, length = text.partition("/")
        flags = {"flags": IFA_F_NODAD} if ":" in address else {}
        with _call(f"RTM_NEWADDR {text} dev {name}"):
            ip.addr("replace", index=index, address=address, prefixlen=int(length), family=_family(address), **flags)
    return index


def _fix_neighbours(ip: Any, index: int, addresses: list[str], mac: str) -> None:
    """Say for good who has these addresses on a device, so that no other can answer for them.

    It is needed, too: a router asks for an IPv6 neighbour from its fe80:: address, which _quiet
    leaves our devices without.
    """
    for text in addresses:
        address = text.partition("/")[0]
        with _call(f"RTM_NEWNEIGH {address}"):
            ip.neigh("replace", dst=address, lladdr=mac, ifindex=index, state="permanent")


def _quiet(name: str) -> None:
    """No address but those we give, no route from advertisements, no packet from where no route leads."""
    sysctl.write(f"net/ipv4/conf/{name}/rp_filter", "1")
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):  # absent on a kernel without IPv6
        sysctl.write(f"net/ipv6/conf/{name}/accept_ra", "0")
        sysctl.write(f"net/ipv6/conf/{name}/addr_gen_mode", "1")  # IN6_ADDR_GEN_MODE_NONE: no fe80:: address


def _ipv6(name: str, addresses: list[str]) -> None:
    """Turn IPv6 of a device on if one of these is an IPv6 address, else off."""
    if os.path.exists(f"/proc/sys/net/ipv6/conf/{name}"):
        wanted = any(":" in address for address in addresses)
        sysctl.write(f"net/ipv6/conf/{name}/disable_ipv6", "0" if wanted else "1")


def _loopback(ip: Any, name: str, gateways: list[str]) -> None:
    """Let the host's own 127.0.0.1 and ::1 be ends of connections through this device.

    For IPv4 that is route_localnet. IPv6 has no such word: an answer to ::1 that comes in by this
    device finds no route, because loopback addresses are looked up on the device itself
    (RT6_LOOKUP_F_IFACE); so the device gets that route. Packets that bear ::1 on the wire are
    dropped by the kernel before, those with 127.0.0.0/8 by our rules.
    """
    sysctl.write(f"net/ipv4/conf/{name}/route_localnet", "1")
    if any(":" in gateway for gateway in gateways):
        with _call(f"RTM_NEWROUTE local ::1 dev {name}"):
            ip.route(
                "replace",
                dst="::1/128",
                oif=_index(ip, name),
                table=RT_TABLE_LOCAL,
                type="local",
                scope=0,
                priority=LOOPBACK_METRIC,
                family=_family("::1"),
            )


def _mtu(args: dict[str, Any]) -> dict[str, int]:
    return {"mtu": args["mtu"]} if args["mtu"] else {}


def _family(address: str) -> int:
    import socket

    return socket.AF_INET6 if ":" in address else socket.AF_INET
