"""The external steps of the network as a shell script makes them: iproute2, nft, /proc/sys. Pure.

Each form takes the arguments of its step and returns (lines, tools, functions of the script).
"""

from __future__ import annotations

from shlex import quote as _quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Form = tuple[list[str], tuple[str, ...], tuple[str, ...]]

# What the handlers of nstool/network do beyond the commands.
ABSENT: dict[str, tuple[str, ...]] = {
    "forwarding_acquire": (
        "forwarding is not counted: it is off again at the end although another sandbox may need it",
    ),
    "nft_publish": ("published ports are not held by a socket: another program may bind them too",),
    "nft_unpublish": ("tracked connections of the sandbox are not forgotten: they time out",),
}


def _forwarding_acquire(args: dict[str, Any]) -> Form:
    return [f"forward {family}" for family in args["families"]], (), ("forward",)


def _forwarding_release(_: dict[str, Any]) -> Form:
    return ["put_back"], (), ("put_back",)


def _nft_publish(args: dict[str, Any]) -> Form:
    from nstool.network import firewall

    tables = firewall.INET + (firewall.BRIDGE if args["bridged"] else "")
    rules = tables + "".join(f"add element {line}\n" for line in firewall.elements(args))
    for family in ("inet", "bridge"):
        rules = rules.replace(f"{family} nstool ", f"{family} {_table(args)} ")
    return ["nft -f - <<'RULES'", *rules.rstrip("\n").split("\n"), "RULES"], ("nft",), ()


def _nft_unpublish(args: dict[str, Any]) -> Form:
    families = ["inet", *(["bridge"] if args["bridged"] else [])]
    return [f"nft delete table {family} {_table(args)} 2>/dev/null" for family in families], ("nft",), ()


def _table(args: dict[str, Any]) -> str:
    # Not nstool's own table: that one belongs to the sandboxes that nstool runs.
    return "nstool_sh_" + "".join(c if c.isalnum() else "_" for c in args["link"])


def _veth_create(args: dict[str, Any]) -> Form:
    from nstool.network.plan import DEVICE

    link = _quote(args["link"])
    mtu = f"mtu {args['mtu']} " if args["mtu"] else ""
    gateways = args["gateways"] if args["routed"] else []
    lines = [
        f"ip link add {link} address {_quote(args['link_mac'])} {mtu}type veth \\",
        f'    peer name {DEVICE} address {_quote(args["mac"])} {mtu}netns "$pid"',
        *_configure(args["link"], gateways),
    ]
    if args["routed"]:
        lines += _neighbours(args["link"], args["addresses"], args["mac"])
    if gateways and args["publish"]:
        lines += _loopback(args["link"], gateways)
    inside = _configure(DEVICE, args["addresses"])
    if args["routed"]:
        inside += _neighbours(DEVICE, args["gateways"], args["link_mac"])
    routes = [*args["routes"], *(["default", gateway.partition("/")[0]] for gateway in args["gateways"])]
    inside += [f"ip{_six(via)} route add {_quote(target)} via {_quote(via)} dev {DEVICE}" for target, via in routes]
    lines += ["nsenter --net=\"/proc/$pid/ns/net\" sh -eu <<'INSIDE'", *inside, "INSIDE"]
    return lines, ("ip", "nsenter"), ()


def _veth_delete(args: dict[str, Any]) -> Form:
    link = _quote(args["link"])
    # It may go with the sandbox's network namespace at any moment; what stays is tried again, to say why.
    return (
        [f"ip link delete {link} 2>/dev/null || [ ! -e /sys/class/net/{link} ] || ip link delete {link}"],
        ("ip",),
        (),
    )


def _bridge_attach(args: dict[str, Any]) -> Form:
    name, link = _quote(args["bridge"]), _quote(args["link"])
    own = [
        f"ip link add {name} address {_quote(args['bridge_mac'])} type bridge",
        'echo made >"$work/bridge"',
        *_configure(args["bridge"], args["gateways"]),
        *(_loopback(args["bridge"], args["gateways"]) if args["publish"] else []),
    ]
    if args["allocated"]:  # with an address of ours the bridge must be ours
        lines = [f"if [ ! -e /sys/class/net/{name} ]; then", *(f"    {line}" for line in own), "fi"]
        lines += _neighbours(args["bridge"], args["addresses"], args["mac"])
    else:
        lines = [f"if [ ! -e /sys/class/net/{name} ]; then"]
        lines += [f"    {line}" for line in (*own, *_neighbours(args["bridge"], args["addresses"], args["mac"]))]
        lines.append("fi")
    isolated = "on" if args["isolated"] else "off"
    lines += [f"ip link set {link} master {name}", f"ip link set {link} type bridge_slave isolated {isolated}"]
    return lines, ("ip",), ()


def _bridge_detach(args: dict[str, Any]) -> Form:
    name = _quote(args["bridge"])
    lines = [f'if [ -e "$work/bridge" ]; then ip link delete {name}; else']
    for address in args["addresses"]:
        lines.append(f"    ip{_six(address)} neighbour delete {_quote(address)} dev {name} 2>/dev/null")
    return [*lines, "    :", "fi"], ("ip",), ()


def _configure(device: str, addresses: list[str]) -> list[str]:
    """No address but those given, no route from advertisements, no packet from where no route leads; then up."""
    name = _quote(device)
    off = 0 if any(":" in address for address in addresses) else 1
    lines = [
        f"echo 1 >/proc/sys/net/ipv4/conf/{name}/rp_filter",
        f"if [ -d /proc/sys/net/ipv6/conf/{name} ]; then",
        f"    echo 0 >/proc/sys/net/ipv6/conf/{name}/accept_ra",
        f"    echo 1 >/proc/sys/net/ipv6/conf/{name}/addr_gen_mode",
        f"    echo {off} >/proc/sys/net/ipv6/conf/{name}/disable_ipv6",
        "fi",
        f"ip link set {name} up",
    ]
    for address in addresses:
        nodad = " nodad" if ":" in address else ""
        lines.append(f"ip address replace {_quote(address)} dev {name}{nodad}")
    return lines


def _neighbours(device: str, addresses: list[str], mac: str) -> list[str]:
    plain = [_quote(text.partition("/")[0]) for text in addresses]
    return [f"ip neighbour replace {a} lladdr {_quote(mac)} dev {_quote(device)} nud permanent" for a in plain]


def _loopback(device: str, gateways: list[str]) -> list[str]:
    from nstool.network.links import LOOPBACK_METRIC

    name = _quote(device)
    lines = [f"echo 1 >/proc/sys/net/ipv4/conf/{name}/route_localnet"]
    if any(":" in gateway for gateway in gateways):
        lines.append(f"ip -6 route replace local ::1/128 dev {name} table local metric {LOOPBACK_METRIC}")
    return lines


def _six(address: str) -> str:
    return " -6" if ":" in address else ""


FORMS: dict[str, Callable[[dict[str, Any]], Form]] = {
    "forwarding_acquire": _forwarding_acquire,
    "forwarding_release": _forwarding_release,
    "nft_publish": _nft_publish,
    "nft_unpublish": _nft_unpublish,
    "veth_create": _veth_create,
    "veth_delete": _veth_delete,
    "bridge_attach": _bridge_attach,
    "bridge_detach": _bridge_detach,
}
