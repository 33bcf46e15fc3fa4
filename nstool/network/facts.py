"""Read what devices, addresses and routes a process's network namespace has, by rtnetlink(7)."""

from __future__ import annotations

import os

from nstool.frozen import Frozen


class Link(Frozen):
    """A network device. mac: empty if it has none. mtu: bytes. addresses: with prefix length."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    addresses: tuple[str, ...]


class Route(Frozen):
    """A route of the main table. destination: "default" or a network. gateway: empty if on the link."""

    destination: str
    gateway: str
    device: str


class Addresses(Frozen):
    """A network namespace. inode: as in /proc/PID/ns/net."""

    inode: int
    links: tuple[Link, ...]
    routes: tuple[Route, ...]


def text(value: str | bytes | None) -> str:
    """Return a string of netlink, "" for none. One that is no UTF-8, as a device may be named, comes as bytes."""
    return os.fsdecode(value or "")


def addresses(pid: int) -> Addresses:
    """Return the devices, addresses and routes that ``pid`` sees.

    The namespace is joined by a thread that is made for it, or, by an ordinary user, together with the user
    namespace that owns it, by a process; the caller's is not changed.
    Raises KernelError: ESRCH if there is no such process. PermissionError for a process of somebody else's.
    """
    from nstool.network.links import inside

    try:
        return inside(pid, _read)
    except PermissionError as error:
        found = _by_process(pid)
        if found is None:
            raise error
        return found


def _by_process(pid: int) -> Addresses | None:
    # A user namespace is joined by a process with one thread only, setns(2).
    from nstool.sandbox.inside import call

    try:
        with open(f"/proc/{pid}/ns/net", "rb") as net:
            return call({"net": net.fileno()}, _read)
    except OSError:  # the caller has an error of its own to tell
        return None


def _read() -> Addresses:
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        found: dict[int, list[str]] = {}
        for entry in ip.get_addr():
            # On a point-to-point link IFA_ADDRESS is the other end's.
            address = text(entry.get("local") or entry.get("address"))
            found.setdefault(entry["index"], []).append(f"{address}/{entry['prefixlen']}")
        links = tuple(
            Link(
                name=text(entry.get("ifname")),
                index=entry["index"],
                mac=text(entry.get("address")),
                mtu=entry.get("mtu"),
                up=bool(entry["flags"] & 1),  # IFF_UP
                addresses=tuple(found.get(entry["index"], ())),
            )
            for entry in ip.get_links()
        )
        names = {link.index: link.name for link in links}
        routes = tuple(
            Route(
                destination=f"{text(entry.get('dst'))}/{entry['dst_len']}" if entry["dst_len"] else "default",
                gateway=text(entry.get("gateway")),
                device=names.get(entry.get("oif"), ""),
            )
            for entry in ip.get_routes(table=254)
        )
    return Addresses(os.stat("/proc/thread-self/ns/net").st_ino, links, routes)
