"""Say before anything is done what of a spec's network this host cannot do."""

from __future__ import annotations

import os

from nstool.errors import KernelError, NotSupported
from nstool.sandbox import spare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nstool.spec.model import Net

CAP_NET_ADMIN = 12
SHORTEST = 8  # bits of a network that is looked at
STATUS = "/proc/thread-self/status"
BRIDGE_NF_CALL = "net/bridge/bridge-nf-call-ip6tables"


def preflight(net: Net, status: str = STATUS) -> Iterator[NotSupported]:
    """Yield what this host cannot do of ``net``, each with its checked cause and a remedy.

    Asks the kernel, changes nothing. status: the file with this thread's capabilities.
    """
    if net.mode not in ("veth", "bridge"):
        return
    problems = [*privilege(net, status), *_pyroute2(net)]
    yield from problems
    if problems:  # the rest asks the kernel through what is missing
        return
    yield from overlaps(net)
    yield from _kinds(net)
    yield from _nftables(net)
    yield from _ipv6(net)
    yield from _bridge(net)
    yield from _loopback(net)
    yield from _ports(net)


def _mode(net: Net) -> str:
    return f'net.mode "{net.mode}"'


def privilege(net: Net, status: str = STATUS) -> Iterator[NotSupported]:
    """Yield why this thread may not make links and rules, if it may not.

    Raises KernelError where there is no room for the processes that it takes.
    """
    with open(status, encoding="ascii") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    if not int(effective.split()[1], 16) >> CAP_NET_ADMIN & 1:
        cause = "links and rules in the host's network namespace need CAP_NET_ADMIN, which this process has not"
        also = "" if not net.publish else " and no net.publish: take [net] out of the file"
        yield NotSupported(_mode(net), cause, f'run as root, or use net.mode "loopback"{also}')
    spare.need_processes(2)  # init, and nft or a thread


def overlaps(net: Net) -> Iterator[NotSupported]:
    """Yield which network of the spec the host has a way into already: its own packets there would go to the sandbox.

    A bridge of the administrator's gets no address from us, so all may be as it is.
    """
    wanted = [(key, getattr(net, key)) for key in ("address", "address6") if getattr(net, key)]
    if not wanted or (net.mode == "bridge" and _is_administrators(net)):
        return
    from ipaddress import ip_interface, ip_network

    from nstool.network.links import reached
    from nstool.network.plan import bridge_name

    own = bridge_name(net) if net.mode == "bridge" else ""
    others = [(ip_network(network), device) for network, device in reached() if device != own]
    others.sort(key=lambda other: other[0].prefixlen)  # the widest says most
    for key, text in wanted:
        network = ip_interface(text).network
        for other, device in others:
            # As short as that are what VPNs write for "default": 0.0.0.0/1, 2000::/3.
            if other.version == network.version and other.prefixlen >= SHORTEST and other.overlaps(network):
                cause = f"its network {network} overlaps {other}, which this host reaches by {device}"
                remedy = f"choose a network that the host has no way into (ip route), or leave {key} out for a free one"
                yield NotSupported(f'net.{key} "{text}"', cause, remedy)
                break


def _is_administrators(net: Net) -> bool:
    from nstool.network.links import names, with_our_mac
    from nstool.network.plan import bridge_name

    name = bridge_name(net)
    return name in names() and name not in with_our_mac()


def _pyroute2(net: Net) -> Iterator[NotSupported]:
    from importlib.util import find_spec

    if find_spec("pyroute2") is None:
        yield NotSupported(_mode(net), "the Python package pyroute2 is not installed", "pip install pyroute2")


def _kinds(net: Net) -> Iterator[NotSupported]:
    from nstool.network.links import kind_known

    for kind in ("veth", "bridge") if net.mode == "bridge" else ("veth",):
        if not kind_known(kind):
            cause = f"this kernel has no links of kind {kind}"
            yield NotSupported(_mode(net), cause, f"`modprobe {kind}`, or a kernel with CONFIG_{kind.upper()}")


def _nftables(net: Net) -> Iterator[NotSupported]:
    from nstool.network import firewall

    try:
        firewall.apply(firewall.INET + (firewall.BRIDGE if net.mode == "bridge" else ""), "--check")
    except NotSupported as error:
        yield error
    except KernelError as error:
        cause = f"the kernel refuses nstool's nftables rules: {error.why}"
        yield NotSupported(_mode(net), cause, "load nf_tables, nft_nat, nft_fib_inet, nft_masq and nft_reject_inet")


def _ipv6(net: Net) -> Iterator[NotSupported]:
    if net.ipv6 and not os.path.exists("/proc/sys/net/ipv6"):
        yield NotSupported("net.ipv6", "IPv6 is off on this host (no /proc/sys/net/ipv6)", "net.ipv6 = false")


def _bridge(net: Net) -> Iterator[NotSupported]:
    from nstool.network.links import check_bridge
    from nstool.network.plan import bridge_name, ours_to_choose
    from nstool.network.shared import Shared

    if net.mode != "bridge":
        return
    with Shared() as shared:
        try:
            check_bridge(shared, bridge_name(net), allocated=ours_to_choose(net))
        except NotSupported as error:
            yield error


def _loopback(net: Net) -> Iterator[NotSupported]:
    """A port of ::1 alone on a bridge, where br_netfilter gets in the way (docs/network.md)."""
    try:
        with open(f"/proc/sys/{BRIDGE_NF_CALL}", encoding="ascii") as file:
            called = file.read().strip() == "1"
    except FileNotFoundError:  # no br_netfilter, or not loaded
        called = False
    if called and net.mode == "bridge" and any(port.address == "::1" for port in net.publish):
        cause = f"sysctl {BRIDGE_NF_CALL} is 1, so answers bear ::1 on the bridge, where the kernel drops them"
        yield NotSupported("net.publish on ::1", cause, 'publish on 127.0.0.1, or use net.mode "veth"')


def _ports(net: Net) -> Iterator[NotSupported]:
    """Claim each port alone, so that every one that is taken is named, and free it again."""
    from nstool.network import firewall, ports
    from nstool.network.shared import Shared

    addresses = ["0.0.0.0", "::"] if net.ipv6 else ["0.0.0.0"]
    if not net.publish:
        return
    with Shared() as shared:
        others = list(shared.state.get(firewall.USERS, {}).values())
    for port in net.publish:
        wanted: dict[str, Any] = {
            "addresses": addresses,
            "publish": [[port.protocol, port.address, port.host, port.inside]],
        }
        try:
            ports.release(ports.claim(wanted, others))
        except NotSupported as error:
            yield error
