"""Words for what a census found: pins, users, commands."""

from __future__ import annotations

import os
from functools import cache

from nstool.inspect.namespaces import Namespace, Pin


def in_words(pin: Pin) -> str:
    """Return what keeps a namespace alive: "fd 5 of 123", "/run/netns/blue", "/run/x in mnt:[4026532281]"."""
    if pin.how == "mount":
        return pin.path if not pin.pid and pin.mnt == _own_mnt() else f"{pin.path} in mnt:[{pin.mnt}]"
    if pin.how == "thread":
        return f"thread {pin.tid} of {pin.pid}"
    if pin.how == "for_children":
        return f"for children of {pin.tid or pin.pid}"
    return f"{pin.how} {pin.namespace}" if pin.namespace else f"{pin.how} {pin.fd} of {pin.pid}"


def pins_in_words(ns: Namespace) -> str:
    """Return the pins of a namespace: of each sort the first, and how many others."""
    sorts: dict[str, list[Pin]] = {}
    for pin in ns.pins:
        sorts.setdefault(pin.how, []).append(pin)
    return ", ".join(_some(how, pins) for how, pins in sorts.items())


def _some(how: str, pins: list[Pin]) -> str:
    if how in ("child", "owned"):
        return f"{len(pins)} {'children' if how == 'child' and len(pins) > 1 else how}"
    places = list(dict.fromkeys(map(in_words, pins)))  # a mount may be on another of the same file: ip-netns(8) does so
    return f"{places[0]} +{len(places) - 1}" if len(places) > 1 else places[0]


def command(ns: Namespace) -> str:
    """Return the command line of the oldest process, or "[its name]" where it has none; empty for no process."""
    return " ".join(ns.command) if ns.command else f"[{ns.comm}]" if ns.oldest else ""


@cache
def user_name(uid: int | None) -> str:
    """Return the name of a user, or the number if it has none; empty for None."""
    import pwd

    try:
        return "" if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@cache
def _own_mnt() -> int:
    return os.stat("/proc/self/ns/mnt").st_ino
