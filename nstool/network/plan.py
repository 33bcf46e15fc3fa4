"""What the network of a sandbox needs from outside: external steps, files, sysctls. Pure."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.plan.steps import LAUNCHER, UNDO, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.lease import Lease
    from nstool.spec.model import Net

DEVICE = "eth0"  # name of the sandbox's device inside
DEFAULT_BRIDGE = "ns-br0"
OUTSIDE_MAC = "fe:4e:"  # how the MAC addresses of the host's ends of links and of our bridges begin
MAX_NAMESERVERS = 3  # MAXNS of resolv.conf(5)


def steps(net: Net, lease: Lease) -> tuple[Step, ...]:
    """Return the external steps of ``net``: the launcher's, in order, then the UNDO step of each.

    The rules come before the link, so that there is no moment in which the sandbox's link is up
    without them; the undoing runs in reverse order and so takes the link away first.
    """
    if net.mode not in ("veth", "bridge"):
        return ()
    pairs = [_forwarding(net, lease), _rules(net, lease), _veth(net, lease)]
    if net.mode == "bridge":
        pairs.append(_bridge(net, lease))
    made = (Step(LAUNCHER, "external", (do, args), why) for do, _, args, why in pairs if args)
    undone = (Step(UNDO, "external", (undo, args), f"undo: {why}") for _, undo, args, why in pairs if args)
    return (*made, *undone)


def _forwarding(net: Net, lease: Lease) -> tuple[str, str, dict[str, object], str]:
    addresses = own_addresses(net, lease)[::2]
    wanted = [v for v, address in zip("46", addresses, strict=True) if address and _needs_forwarding(net, v)]
    args: dict[str, object] = {"link": lease.link, "name": lease.name, "families": wanted} if wanted else {}
    return "forwarding_acquire", "forwarding_release", args, "let the host forward packets for the sandbox, ip(7)"


def _rules(net: Net, lease: Lease) -> tuple[str, str, dict[str, object], str]:
    address, _, address6, _ = own_addresses(net, lease)
    args: dict[str, object] = {
        "link": lease.link,
        "name": lease.name,
        "device": bridge_name(net) if net.mode == "bridge" else lease.link,
        "bridged": net.mode == "bridge",
        "mac": mac_address("inside", address or address6),
        "addresses": [a.partition("/")[0] for a in (address, address6) if a],
        "nat": net.nat,
        "isolated": net.isolated,
        "publish": [[p.protocol, p.address, p.host, p.inside] for p in net.publish],
    }
    return "nft_publish", "nft_unpublish", args, "isolation, NAT and published ports of the sandbox, nft(8)"


def _veth(net: Net, lease: Lease) -> tuple[str, str, dict[str, object], str]:
    address, gateway, address6, gateway6 = own_addresses(net, lease)
    args: dict[str, object] = {
        "link": lease.link,
        "mac": mac_address("inside", address or address6),
        "link_mac": mac_address("outside", address or address6),
        "mtu": net.mtu,
        "addresses": [a for a in (address, address6) if a],
        "gateways": [g for g in (gateway, gateway6) if g],
        "routes": [[destination, via] for destination, via in net.routes],
        "routed": net.mode == "veth",
        "publish": bool(net.publish),
    }
    return "veth_create", "veth_delete", args, "the sandbox's link to the host with its addresses and routes, veth(4)"


def _bridge(net: Net, lease: Lease) -> tuple[str, str, dict[str, object], str]:
    address, gateway, address6, gateway6 = own_addresses(net, lease)
    args: dict[str, object] = {
        "link": lease.link,
        "bridge": bridge_name(net),
        "bridge_mac": mac_address("outside", gateway or gateway6 or address or address6),
        "mac": mac_address("inside", address or address6),
        "addresses": [a.partition("/")[0] for a in (address, address6) if a],
        "gateways": [g for g in (gateway, gateway6) if g],
        "allocated": ours_to_choose(net),
        "isolated": net.isolated,
        "publish": bool(net.publish),
    }
    return "bridge_attach", "bridge_detach", args, "put the link on the bridge, which is made if absent, bridge(8)"


def bridge_name(net: Net) -> str:
    """Return the name of the bridge that mode "bridge" uses."""
    return net.bridge or DEFAULT_BRIDGE


def own_addresses(net: Net, lease: Lease) -> tuple[str, str, str, str]:
    """Return (address, gateway, address6, gateway6), each with its prefix length or empty.

    What the spec says comes before what was allocated. A gateway without prefix length gets that
    of its address.
    """
    address, gateway = _pair(net.address, net.gateway) if net.address else (lease.address, lease.gateway)
    address6, gateway6 = _pair(net.address6, net.gateway6) if net.address6 else (lease.address6, lease.gateway6)
    return (address, gateway, address6, gateway6) if net.ipv6 else (address, gateway, "", "")


def _pair(address: str, gateway: str) -> tuple[str, str]:
    gateway = gateway or first_other(address)
    return address, gateway if "/" in gateway else f"{gateway}/{address.partition('/')[2]}"


def first_other(address: str) -> str:
    """Return the first address of a network that is not the one given with its length; empty if it has none."""
    from ipaddress import ip_interface

    own = ip_interface(address)
    return next((str(host) for host in own.network.hosts() if host != own.ip), "")


def ours_to_choose(net: Net) -> bool:
    """Whether an address or a gateway is left to us, which on a bridge of the administrator's it cannot be."""
    given = [gateway for address, gateway in ((net.address, net.gateway), (net.address6, net.gateway6)) if address]
    return not given or "" in given


def _needs_forwarding(net: Net, version: str) -> bool:
    """True if packets of other machines pass. The host's own reach the sandbox without forwarding."""
    return net.nat or not net.isolated or any(from_outside(p.address, version) for p in net.publish)


def from_outside(address: str, version: str) -> bool:
    """Whether a port published on this address, or on all if empty, is reached from other machines.

    version: "4" or "6", of IP.
    """
    if not address:
        return True
    if version == "6":
        return ":" in address and address != "::1"
    return ":" not in address and not address.startswith("127.")


def mac_address(side: str, address: str) -> str:
    """Return the MAC address of the end of a link that has this address.

    It follows from the address so that undo recognises its own link, and needs no state for it.
    side: "inside" or "outside". Locally administered, unicast (IEEE 802, U/L bit). A bridge takes
    the lowest address of its ports, so the outside is as high as can be: a bridge of the host's
    that we add a port to keeps its own.
    """
    from ipaddress import ip_interface

    last = ip_interface(address).packed[-4:]
    return ":".join(f"{byte:02x}" for byte in (0x02 if side == "inside" else 0xFE, 0x4E, *last))


def target(net: Net) -> str:
    """Return the namespace file that mode "join" joins: of a pid, a path, or a name below /run/netns."""
    if not net.target:
        raise SpecError('mode "join" needs a target: a pid, a namespace file or the name of a netns', "net.target")
    if net.target.isdecimal():
        return f"/proc/{net.target}/ns/net"
    if "/" in net.target:
        return net.target
    return f"/run/netns/{net.target}"


def sysctls(net: Net) -> tuple[tuple[str, str], ...]:
    """Return (path below /proc/sys, value) of every sysctl of the spec. sysctl(8).

    A name with a slash keeps its dots, as in sysctl(8): "net/ipv4/conf/eth0.1/rp_filter".
    Raises SpecError for a name that is not net.*: the others belong to no network namespace.
    """
    return tuple((_sysctl_path(name), _sysctl_value(name, value)) for name, value in net.sysctls.items())


def _sysctl_path(name: str) -> str:
    path = name if "/" in name else name.replace(".", "/")
    parts = path.split("/")
    if parts[0] != "net" or len(parts) < 3:
        raise SpecError(f"{name!r} does not belong to a network namespace; only net.* does", "net.sysctls")
    if any(part in ("", ".", "..") for part in parts) or not all(c.isalnum() or c in "-_./" for c in path):
        raise SpecError(f"{name!r} is no name of a sysctl, as net.ipv4.ip_default_ttl", "net.sysctls")
    return path


def _sysctl_value(name: str, value: str) -> str:
    if not value or "\n" in value or "\0" in value:
        raise SpecError(f"{name}: {value!r} is no value; write one line of text", "net.sysctls")
    return value


def nameservers(resolv_conf: str, uplink: str = "") -> tuple[str, ...]:
    """Return the name servers of a host that a sandbox can reach too, at most three.

    resolv_conf: text of the host's /etc/resolv.conf. uplink: text of
    /run/systemd/resolve/resolv.conf, used when the first names loopback addresses only, such as
    127.0.0.53 of systemd-resolved(8), which is the sandbox's own loopback inside.
    """
    return (_reachable(resolv_conf) or _reachable(uplink))[:MAX_NAMESERVERS]


def _reachable(text: str) -> tuple[str, ...]:
    words = [line.split() for line in text.splitlines()]
    servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    # A zone ("fe80::1%eth0") names a device of the host, which the sandbox has not.
    return tuple(s for s in servers if not s.startswith("127.") and s != "::1" and "%" not in s)


def files(net: Net, lease: Lease, hostname: str, servers: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the text of /etc/resolv.conf and /etc/hosts of the sandbox, by path.

    servers: what ``nameservers`` found on the host; the spec's ``dns`` comes before it. Without a link of
    the sandbox's own the files of the root stay, but for the one whose key is written.
    """
    linked = net.mode in ("veth", "bridge")
    made = {}
    if linked or net.dns:
        made["/etc/resolv.conf"] = "".join(f"nameserver {server}\n" for server in net.dns or servers)
    if linked or net.hosts:
        made["/etc/hosts"] = _hosts(net, lease, hostname)
    return made


def _hosts(net: Net, lease: Lease, hostname: str) -> str:
    lines = [("127.0.0.1", "localhost"), ("::1", "localhost ip6-localhost ip6-loopback")]
    addresses = own_addresses(net, lease)[::2] if net.mode in ("veth", "bridge") else ()
    own = [address.partition("/")[0] for address in addresses if address]
    if hostname and hostname != "localhost":
        lines += [(address, hostname) for address in own or ["127.0.1.1"]]
    lines += net.hosts
    return "".join(f"{address}\t{name}\n" for address, name in lines)
