"""Undo what the shared state says of sandboxes that have gone: nobody else will when their journal was removed.

A sandbox has gone when its launcher has ended, its link leads nowhere, and there is no journal by which
the next command with its run directory would undo it: this may be another's.
"""

from __future__ import annotations

from nstool.network import firewall, links, sysctl
from nstool.sandbox import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nstool.network.shared import Shared


Done = dict[str, list[str]]  # name of a sandbox, or of a device where that is not known → sentences


def cleanup() -> Done:
    """Look through the state and the kernel for what has no sandbox any more, and undo it."""
    from nstool.network import recover
    from nstool.network.shared import Shared

    with Shared() as shared:
        _merge(shared, recover.state())
        done = reap(shared)
        for link, mac in links.with_our_mac().items():
            if (
                link not in shared.state.get(firewall.USERS, {})
                and links.kind(link) == "veth"
                and not links.in_use(link)
            ):
                links.delete(link, "veth", mac)
                done.setdefault(link, []).append(f"removed link {link}")
        if firewall.USERS not in shared.state and firewall.remove_tables():
            done.setdefault("nft", []).append("removed table nstool")
        return done


def _merge(shared: Shared, seen: dict[str, Any]) -> None:
    """Add to the state what is in the kernel alone."""
    before = repr(shared.state)
    for key, value in seen.items():
        shared.state[key] = value | shared.state.get(key, {}) if isinstance(value, dict) else value
    if repr(shared.state) != before:
        shared.save()


def reap(shared: Shared) -> Done:
    """Take the entries of sandboxes that have gone out of the state, and undo what they stand for."""
    state = shared.state
    done: Done = {}
    present = links.names()
    users = dict(state.get(firewall.USERS, {}))
    for link, user in users.items():
        if _has_gone(link, user["maker"], present):
            done.setdefault(user["name"] or link, []).extend(_undo(shared, user))
    for family, record in list(state.get(firewall.FORWARDING, {}).items()):
        for link in [link for link, maker in record["links"].items() if _has_gone(link, maker, present)]:
            if sysctl.release(shared, link, family):
                firewall.refresh(shared)
                name = users[link]["name"] if link in users else link
                done.setdefault(name, []).append(f"undo: forwarding of IPv{family}")
    for name, record in list(state.get(links.BRIDGES, {}).items()):
        if not record["ports"]:
            links.delete(name, "bridge", record["mac"])
            del state[links.BRIDGES][name]
            shared.save()
            done.setdefault(name, []).append(f"removed bridge {name}")
    return done


def _has_gone(link: str, maker: str, present: set[str]) -> bool:
    # A maker that is not known (an element without a comment) is no launcher that could still be at it.
    if maker and not rundir.has_gone(maker):
        return False
    return link not in present or not links.in_use(link)


def _undo(shared: Shared, user: dict[str, Any]) -> list[str]:
    link = user["link"]
    mac = links.with_our_mac().get(link)
    if mac:  # its namespace is kept by somebody, but nobody is in it
        links.delete(link, "veth", mac)
    firewall.remove(shared, link)
    links.forget_connections(user["addresses"])
    if user["bridged"]:
        links.bridge_detach(shared, {"link": link, "bridge": user["device"], "addresses": user["addresses"]})
    return [f"undo: link {link}, rules and published ports"]
