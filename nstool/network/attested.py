"""What the kernel says of a sandbox's link, beside what was asked for: by rtnetlink(7) and nft(8)."""

from __future__ import annotations

import errno

from nstool.errors import KernelError
from nstool.network import facts, firewall
from nstool.network.shared import Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from nstool.spec.model import Net

    Row = tuple[str, str, str, bool | None]


def rows(pid: int, net: Net, name: str) -> Iterator[Row]:
    """Yield the properties of the link of the sandbox ``name``, in which the process pid is.

    Each is its key, what is wanted, what is found, and whether that holds.
    """
    with Shared() as shared:
        user = next((one for one in shared.state.get(firewall.USERS, {}).values() if one["name"] == name), None)
    if user is None:
        yield "net", "rules for its link", "none", False
        return
    links = {link.name: link for link in facts.addresses(pid).links}
    eth0 = links.get("eth0")
    has = {_plain(address.partition("/")[0]) for address in eth0.addresses} if eth0 else set()
    own = {_plain(address) for address in user["addresses"]}
    lacking, other = sorted(own - has), sorted(has - own)
    yield "net", "eth0, up, with its addresses", _device(eth0, lacking), eth0 is not None and eth0.up and not lacking
    yield "net.address", "none but its own", " ".join(other) or "none but its own", not other
    yield _tables(bridged=user["bridged"])
    there = _has(firewall.keys(user))
    yield "net.isolated", "its rules are in the tables", "they are" if there else "some are not", there
    if user["isolated"]:
        opened = [address for address in user["addresses"] if _has([_open(address)])]
        yield "net.isolated", "isolated", f"open: {' '.join(opened)}" if opened else "isolated", not opened
    if net.mode == "bridge":
        yield _port(user)


def _plain(address: str) -> str:
    """Return an address in the one form that every tool writes. RFC 5952."""
    from ipaddress import ip_address

    return str(ip_address(address))


def _device(link: facts.Link | None, lacking: list[str]) -> str:
    if link is None:
        return "no eth0"
    return f"eth0, {'up' if link.up else 'down'}, " + (
        f"without {' '.join(lacking)}" if lacking else "with its addresses"
    )


def _open(address: str) -> str:
    return f"inet nstool open{'6' if ':' in address else '4'} {{ {address} }}"


def _has(elements: list[str]) -> bool:
    """Whether all these elements are in their sets."""
    try:
        firewall.apply("".join(f"get element {element}\n" for element in elements))
    except KernelError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _tables(*, bridged: bool) -> Row:
    """Compare the number of rules of each chain: what somebody took out or put in shows."""
    changed = []
    for family, text in (("inet", firewall.INET), *((("bridge", firewall.BRIDGE),) if bridged else ())):
        found = _rules(firewall.chains(family))
        changed += [f"{family} {chain}" for chain, number in _rules(text).items() if found.get(chain) != number]
    return "net.isolated", "every chain as it was made", " ".join(changed) or "every chain as it was made", not changed


def _rules(table: str) -> dict[str, int]:
    """Return chain to its number of rules, in the text of nft(8)."""
    found: dict[str, int] = {}
    chain = ""
    for line in map(str.strip, table.split("\n")):
        if line.startswith("chain "):
            chain = line.split()[1]
            found[chain] = 0
        elif line == "}":
            chain = ""
        elif chain and line and not line.startswith("#"):
            found[chain] += 1
    return found


def _port(user: dict[str, Any]) -> Row:
    from nstool.network.links import port_isolated

    isolated = port_isolated(user["link"])
    wanted = bool(user["isolated"])
    return "net.isolated", f"port isolated: {_yes(wanted)}", f"port isolated: {_yes(isolated)}", isolated == wanted


def _yes(value: bool) -> str:
    return "yes" if value else "no"
