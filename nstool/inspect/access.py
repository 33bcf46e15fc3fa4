"""What a process may do with a file, answered by the kernel to a child that has its ids and capabilities. access(2)."""

from __future__ import annotations

import os
from errno import EPERM, errorcode

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.walk import open_in_root
from nstool.sandbox.inside import call, shut
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
        return Access(unknown=f"the child that was to ask has not answered: {error.strerror}")
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
    try:
        foreign = os.fstat(userns).st_ino != os.stat("/proc/self/ns/user").st_ino
        caps = syscalls.capget().effective
        if not foreign:
            _take(theirs)
        elif caps >> uapi.CAP_SETUID & caps >> uapi.CAP_SETGID & 1:
            # Also ids without a map there.
            _take(theirs)
            permitted = syscalls.capget().permitted
            syscalls.capset(permitted, permitted, 0)
            syscalls.setns(userns, uapi.CLONE_NEWUSER)
        else:
            same = theirs == _who(_own_status())
            syscalls.setns(userns, uapi.CLONE_NEWUSER)
            if not same:
                _take(inside)
        if effective & ~syscalls.capget().permitted:
            raise KernelError("capset, with capabilities that you have not", EPERM)
        syscalls.capset(effective, effective, 0)
        shut()  # whose ids it has could trace it
    except KernelError as error:
        return Access(unknown=f"you may not take its ids and capabilities: {error.call}: {error.strerror}")
    return _ask(root, path)


def _take(who: _Who) -> None:
    # Ids of all kinds but those of the file system matter to nothing that is asked.
    now = _who(_own_status())
    if now == who and os.getresuid() == (who.uid,) * 3 and os.getresgid() == (who.gid,) * 3:
        return
    if who.uid is None or who.gid is None or None in who.groups:
        raise KernelError("setresuid, to an id that has no map there", EPERM)
    syscalls.prctl(uapi.PR_SET_KEEPCAPS, 1)
    if now.groups != who.groups:
        syscalls.setgroups([group for group in who.groups if group is not None])
    if os.getresgid() != (who.gid,) * 3:
        syscalls.setresgid(who.gid, who.gid, who.gid)
    if os.getresuid() != (who.uid,) * 3:
        syscalls.setresuid(who.uid, who.uid, who.uid)


def _ask(root: int, path: str) -> Access:
    try:
        fd = open_in_root(root, path, uapi.O_PATH | uapi.O_CLOEXEC)
    except KernelError as error:
        return Access(refused=errorcode.get(error.errno or 0, str(error.errno)))
    place = f"/proc/self/fd/{fd}"
    read, write, execute = (os.access(place, mode, effective_ids=True) for mode in (os.R_OK, os.W_OK, os.X_OK))
    return Access(read, write, execute)
