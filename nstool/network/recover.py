"""Read back from the kernel what the shared state says, when somebody has removed its file.

The nft tables hold it: the elements are the arguments of nft_publish, the comments say whose they are
and what the sysctls were before. A bridge is known to be ours by its MAC address.
"""

from __future__ import annotations

from nstool.errors import NotSupported
from nstool.network import firewall, links
from nstool.network.plan import from_outside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PROTOCOLS = {"6": "tcp", "17": "udp"}  # where there is no /etc/protocols


def state() -> dict[str, Any]:
    """Return the shared state as the kernel shows it; empty when nothing of ours is there."""
    tables = _tables()
    users = _users(tables)
    forwarding: dict[str, Any] = {}
    for family in "46":
        wanting = {link: user["maker"] for link, user in users.items() if _forwards(user, family)}
        if wanting:
            before = [pair for pair in _before(tables) if pair[0].startswith(f"net/ipv{family}/")]
            forwarding[family] = {"links": wanting, "before": before}
    found = {
        firewall.USERS: users,
        firewall.FORWARDING: forwarding,
        firewall.BRIDGED: "bridge ports" in tables,
        links.BRIDGES: _bridges(users),
    }
    return {key: value for key, value in found.items() if value}


def _tables() -> dict[str, list[Any]]:
    """Return "FAMILY SET" → elements as libnftables-json(5) has them, of all our sets and maps."""
    import json

    try:
        texts = [firewall.listing(family) for family in ("inet", "bridge")]
    except NotSupported:  # no nft, so we have made no tables
        return {}
    listed = [entry for text in texts if text for entry in json.loads(text)["nftables"]]
    things = [thing for entry in listed for kind, thing in entry.items() if kind in ("set", "map")]
    return {f"{thing['family']} {thing['name']}": thing.get("elem", []) for thing in things}


def _rows(tables: dict[str, list[Any]], name: str) -> Iterator[tuple[list[str], list[str], str]]:
    """Yield (words of the key, words of the value, comment) of each element of a set or map."""
    for element in tables.get(name, []):
        key, value = element if isinstance(element, list) else (element, None)
        comment = ""
        if isinstance(key, dict) and "elem" in key:
            key, comment = key["elem"]["val"], key["elem"].get("comment", "")
        yield _words(key), _words(value), comment


def _words(value: Any) -> list[str]:
    parts = value["concat"] if isinstance(value, dict) else [] if value is None else [value]
    return [str(part) for part in parts]


def _users(tables: dict[str, list[Any]]) -> dict[str, Any]:
    """Return link → the arguments of its nft_publish, with the maker."""
    users = {}
    macs = dict(key for key, _, _ in _rows(tables, "bridge mac"))
    isolated = {key[0] for key, _, _ in _rows(tables, "bridge isolated")}
    for where, bridged in (("inet links", False), ("bridge ports", True)):
        source = "bridge source" if bridged else "inet source"
        for (link,), _, comment in _rows(tables, where):
            name, _, maker = comment.partition(" ")
            own = [key[1] for v in "46" for key, _, _ in _rows(tables, source + v) if key[0] == link]
            users[link] = {
                "link": link,
                "name": name,
                "maker": maker,
                "device": _device(tables, own) if bridged else link,
                "bridged": bridged,
                "mac": macs.get(link, ""),
                "addresses": own,
                "nat": _has(tables, "nat", own),
                "isolated": link in isolated if bridged else not _has(tables, "open", own),
                "publish": _published(tables, own),
            }
    return users


def _device(tables: dict[str, list[Any]], addresses: list[str]) -> str:
    found = (key[0] for v in "46" for key, _, _ in _rows(tables, f"inet source{v}") if key[1] in addresses)
    return next(found, "")


def _has(tables: dict[str, list[Any]], what: str, addresses: list[str]) -> bool:
    return any(key[0] in addresses for v in "46" for key, _, _ in _rows(tables, f"inet {what}{v}"))


def _published(tables: dict[str, list[Any]], addresses: list[str]) -> list[list[Any]]:
    """Return [protocol, address or empty, port of the host, port inside] of what leads to these addresses."""
    found = []
    for name in ("publish4", "publish6", "publish4_at", "publish6_at"):
        for (*at, protocol, port), (address, inside), _ in _rows(tables, f"inet {name}"):
            one = [_PROTOCOLS.get(protocol, protocol), at[0] if at else "", int(port), int(inside)]
            if address in addresses and one not in found:  # on every address: once for each family
                found.append(one)
    return found


def _forwards(user: dict[str, Any], family: str) -> bool:
    if not any((":" in address) == (family == "6") for address in user["addresses"]):
        return False
    return user["nat"] or not user["isolated"] or any(from_outside(at, family) for _, at, _, _ in user["publish"])


def _before(tables: dict[str, list[Any]]) -> list[list[str]]:
    rows = sorted((int(key[0]), comment) for key, _, comment in _rows(tables, "inet before"))
    return [comment.split(" = ") for _, comment in rows]


def _bridges(users: dict[str, Any]) -> dict[str, Any]:
    """Return our bridges: those with the MAC address that we give, or that a recovered sandbox is a port of."""
    found = {}
    for name, mac in links.with_our_mac().items():
        ports = sorted(link for link, user in users.items() if user["device"] == name and user["bridged"])
        if ports or (name not in users and links.kind(name) == "bridge"):
            found[name] = {"mac": mac, "ports": ports}
    return found
