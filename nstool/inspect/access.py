"""What a process may do with a file, answered by the kernel to a child that has its ids and capabilities. access(2)."""

from __future__ import annotations

import os
from errno import EPERM, errorcode

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.walk import open_in_root
from nstool.sandbox.helper import shut
from nstool.sandbox.inside import call
from nstool.security.idmap import parse_map, to_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nstool.inspect.proc import Proc
    from nstool.spec.model import IdMap


class Access(Frozen):
    """read, write, execute (or search): None where the walk itself is refused. refused: with which errno, as "EACCES".

    unknown: why it could not be found out, "" where it could.
    """

    read: bool | None = None
    write: bool | None = None
    execute: bool | None = None
    refused: str = ""
    unknown: str = ""


class _Who(Frozen):
    """Whose rights a walk is made with: numbers of one user namespace, None for one that is not mapped there."""

    uid: int | None
    gid: int | None
    groups: tuple[int | None, ...]


def access(proc: Proc, root: int, path: str) -> Access:
    """Return what a process may do with an absolute path, walked from its root directory (an O_PATH fd).

    A child takes the process's file system ids, groups, effective capabilities and user namespace, walks the path and
    asks. Security modules (Landlock, SELinux, AppArmor) and seccomp filters of the process are not asked. What
    the caller has not the privilege to become is unknown, with the reason.
    """
    try:
        userns = proc.open("ns/user")
    except PermissionError:
        return Access(unknown="you may not look into its user namespace")
    try:
        status = proc.status()
        theirs = _who(status)
        inside = _inside(theirs, *(parse_map(proc.read(name)) for name in ("uid_map", "gid_map")))
        effective = int(status["CapEff"], 16)
        return call({}, _as_other, root, path, userns, theirs, inside, effective, keep=(root, userns))
    except KernelError as error:
        return Access(unknown=f"the child that was to ask has not answered: {error.why or error.strerror}")
    finally:
        os.close(userns)


def _own_status() -> dict[str, str]:
    with open("/proc/thread-self/status", "rb") as file:
        rows = (line.partition(":") for line in os.fsdecode(file.read()).split("\n") if line)
        return {key: value.strip() for key, _, value in rows}


def _who(status: dict[str, str]) -> _Who:
    groups = tuple(sorted(map(int, status["Groups"].split())))
    return _Who(int(status["Uid"].split()[3]), int(status["Gid"].split()[3]), groups)


def _inside(who: _Who, uid_map: Sequence[IdMap], gid_map: Sequence[IdMap]) -> _Who:
    uid, gid = to_inside(uid_map, who.uid or 0), to_inside(gid_map, who.gid or 0)
    return _Who(uid, gid, tuple(to_inside(gid_map, group or 0) for group in who.groups))


def _as_other(root: int, path: str, userns: int, theirs: _Who, inside: _Who, effective: int) -> Access:
    parent = os.getppid()
    try:
        foreign = os.fstat(userns).st_ino != os.stat("/proc/self/ns/user").st_ino
        caps = syscalls.capget().effective
        if not foreign:
            _take(theirs, parent)
        elif caps >> uapi.CAP_SETUID & caps >> uapi.CAP_SETGID & 1:
            # Also ids without a map there.
            _take(theirs, parent)
            permitted = syscalls.capget().permitted
            syscalls.capset(permitted, permitted, 0)
            syscalls.setns(userns, uapi.CLONE_NEWUSER)
            shut(parent)
        else:
            same = theirs == _who(_own_status())
            syscalls.setns(userns, uapi.CLONE_NEWUSER)
            shut(parent)
            if not same:
                _take(inside, parent)
        if effective & ~syscalls.capget().permitted:
            raise KernelError("capset, with capabilities that you have not", EPERM)
        syscalls.capset(effective, effective, 0)
        shut(parent)
    except KernelError as error:
        return Access(unknown=f"you may not take its ids and capabilities: {error.call}: {error.strerror}")
    return _ask(root, path)


def _take(who: _Who, parent: int) -> None:
    # The ids of the file system are all that counts for what is asked; the others stay, so that whose ids they are may
    # neither signal nor trace who asks. (A filesystem of FUSE looks at all, and may refuse one to whom it belongs.)
    now = _who(_own_status())
    if now == who:
        return
    if who.uid is None or who.gid is None or None in who.groups:
        raise KernelError("setfsuid, to an id that has no map there", EPERM)
    if now.groups != who.groups:
        syscalls.setgroups([group for group in who.groups if group is not None])
    if now.gid != who.gid:
        syscalls.setfsgid(who.gid)
    if now.uid != who.uid:
        syscalls.setfsuid(who.uid)
    shut(parent)


def _ask(root: int, path: str) -> Access:
    try:
        fd = open_in_root(root, path, uapi.O_PATH | uapi.O_CLOEXEC)
    except KernelError as error:
        return Access(refused=errorcode.get(error.errno or 0, str(error.errno)))
    place = f"/proc/self/fd/{fd}"
    read, write, execute = (os.access(place, mode, effective_ids=True) for mode in (os.R_OK, os.W_OK, os.X_OK))
    return Access(read, write, execute)
