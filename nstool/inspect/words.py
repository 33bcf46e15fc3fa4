"""Words for what a census found: pins, users, commands."""

from __future__ import annotations

import os
from functools import cache

from nstool.errors import NstoolError, SandboxGone
from nstool.inspect.namespaces import Namespace, Pin
from nstool.inspect.proc import Proc


def in_words(pin: Pin) -> str:
    """Return what keeps a namespace alive: "fd 5 of 123", "fd 6 (a socket) of 123", "/run/x in mnt:[4026532281]"."""
    if pin.how == "mount":
        return pin.path if not pin.pid and pin.mnt == _own_mnt() else f"{pin.path} in mnt:[{pin.mnt}]"
    if pin.how == "thread":
        return f"thread {pin.tid} of {pin.pid}"
    if pin.how == "for_children":
        return f"for children of {pin.tid or pin.pid}"
    if pin.namespace:
        return f"{pin.how} {pin.namespace}"
    return f"fd {pin.fd}{' (a socket)' if pin.how == 'socket' else ''} of {pin.pid}"


def pins_in_words(ns: Namespace) -> str:
    """Return the pins of a namespace: of each sort the first, and how many others."""
    sorts: dict[str, list[Pin]] = {}
    for pin in ns.pins:
        sorts.setdefault(pin.how, []).append(pin)
    return "; ".join(_some(how, pins) for how, pins in sorts.items())


def _some(how: str, pins: list[Pin]) -> str:
    if how in ("child", "owned"):
        return f"{len(pins)} {'children' if how == 'child' and len(pins) > 1 else how}"
    places = list(dict.fromkeys(map(in_words, pins)))  # a mount may be on another of the same file: ip-netns(8) does so
    others = len(places) - 1 + sum(pin.more for pin in pins)
    return f"{places[0]}, and {others} more" if others else places[0]


def command(ns: Namespace) -> str:
    """Return the command line of the oldest process, or "[its name]" where it has none; empty for no process."""
    return " ".join(ns.command) if ns.command else f"[{ns.comm}]" if ns.oldest else ""


def commands(ns: Namespace) -> str:
    """Return the command lines of all processes in a namespace, "[the name]" of those that have none."""
    return ", ".join(filter(None, map(_command_of, ns.pids)))


@cache
def _command_of(pid: int) -> str:
    try:
        with Proc(pid) as proc:
            return " ".join(proc.command()) or f"[{proc.stat().comm}]"
    except (SandboxGone, PermissionError):  # it has ended meanwhile; it has other credentials by now
        return ""


def tids(ns: Namespace) -> tuple[int, ...]:
    """Return the threads in a namespace: of its processes, and those that have left theirs."""
    found = {pin.tid for pin in ns.pinned("thread")}
    for pid in ns.pids:
        try:
            with Proc(pid) as proc:
                listed = proc.list("task")
        except (SandboxGone, PermissionError):
            continue
        found.update(int(tid) for tid in listed if len(listed) == 1 or _is_in(ns, pid, int(tid)))
    return tuple(sorted(found))


def _is_in(ns: Namespace, pid: int, tid: int) -> bool:
    try:
        with Proc(pid, tid) as thread:
            return thread.inode(ns.type) == ns.inode
    except (SandboxGone, FileNotFoundError, PermissionError):  # it has ended
        return False


def group(ns: Namespace) -> str:
    """Return the name of the sandbox, container or service that the oldest process is of, "" if it is of none.

    As the map has it: by the cgroup; a sandbox of the reader's own also without one, by its record.
    """
    from nstool.inspect.map import made_by

    if not ns.oldest:
        return ""
    if ns.oldest in (names := _sandboxes()):
        return names[ns.oldest]
    try:
        with Proc(ns.oldest) as proc:
            if proc.inode(ns.type) != ns.inode:  # it has left, or has ended and another has its number
                return ""
            return made_by(line.split(":", 2)[2] for line in proc.read("cgroup").split("\n") if line)[1]
    except (SandboxGone, OSError):  # it has ended; its path is too long; it has other credentials by now
        return ""


@cache
def _sandboxes() -> dict[int, str]:
    # First processes of sandboxes that run, by the records in the reader's run directory.
    from nstool.sandbox import rundir

    try:
        records = rundir.list_sandboxes([])
    except NstoolError:  # a run directory that cannot be trusted has no names
        return {}
    return {one.init_pid: one.name for one in records if one.here and one.init_alive and one.init_pid}


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
