"""The rights of a process, thread by thread: capability sets, no_new_privs, and the user namespace they hold in.

capabilities(7), proc_pid_status(5), user_namespaces(7).
"""

from __future__ import annotations

import os
import threading
from errno import EPERM

from nstool import kinds, syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.proc import Proc, ProcessGone, title
from nstool.sandbox.facts import why_hidden
from nstool.security import capabilities
from nstool.security.capabilities import Sets
from nstool.security.credentials import Ids


class ThreadCaps(Frozen):
    """The rights of one thread. sets: masks. securebits: a mask, None where unknown. no_new_privs: prctl(2)."""

    tid: int
    command: str
    uids: Ids
    gids: Ids
    sets: Sets
    no_new_privs: bool
    securebits: int | None = None


class UserNamespace(Frozen):
    """Where capabilities hold. inode: its name while it lives. owner: uid that made it, as the reader's.

    initial: it is the first one, above all others. level: how many are above it, as far as the reader may see.
    own: it is the reader's. Over what belongs to a namespace above, its capabilities say nothing.
    """

    inode: int
    owner: int
    initial: bool
    level: int
    own: bool


class ProcessCaps(Frozen):
    """A process and its threads, the one that was asked for first, tid: the main one, unless another was.

    lacking: mask of what no thread's exec can ever gain again. userns: None where it may not be read. unknown: why, by
    the name of the fact.
    """

    pid: int
    tid: int
    command: str
    threads: tuple[ThreadCaps, ...]
    lacking: int
    userns: UserNamespace | None
    unknown: dict[str, str]

    @property
    def main(self) -> ThreadCaps:
        """The thread that was asked for, or the one whose id is that of the process."""
        return self.threads[0]


def process_caps(pid: int) -> ProcessCaps:
    """Read the rights of a process and of each of its threads. Raises ProcessGone.

    pid: or the tid of one of its threads, which is then the first. A thread that ends meanwhile is left out. The
    securebits are known of the calling thread alone.
    """
    with Proc(pid) as asked, Proc(int(asked.status()["Tgid"])) as proc:
        asked.check()  # else the number of its process might be another's by now
        return _process_caps(proc, pid)


def _process_caps(proc: Proc, asked: int) -> ProcessCaps:
    unknown: dict[str, str] = {}
    main = _thread(proc)
    others = []
    for tid in sorted(int(name) for name in proc.list("task")):
        if tid != proc.pid:
            try:
                with Proc(proc.pid, tid) as thread:
                    others.append(_thread(thread))
            except ProcessGone:
                continue
    proc.check()
    threads = tuple(sorted((main, *others), key=lambda thread: thread.tid != asked))
    if threads[0].tid != asked:
        raise ProcessGone(f"there is no {title(proc.pid, asked)} any more")
    if any(thread.securebits is None for thread in threads):
        unknown["securebits"] = "the kernel tells a thread only its own, prctl(2)"
    try:
        userns = _user_namespace(proc)
    except PermissionError:
        proc.check()
        userns = None
        unknown["userns"] = "; ".join(why_hidden(proc.pid))
    lacking = capabilities.full(capabilities.last_cap()) & ~threads[0].sets.bounding
    return ProcessCaps(proc.pid, asked, threads[0].command, threads, lacking, userns, unknown)


def _thread(proc: Proc) -> ThreadCaps:
    status = proc.status()
    own = proc.tid == threading.get_native_id()
    return ThreadCaps(
        tid=proc.tid,
        command=proc.read("comm").rstrip("\n"),
        uids=Ids(*map(int, status["Uid"].split())),
        gids=Ids(*map(int, status["Gid"].split())),
        sets=Sets(**{name: int(status[line], 16) for name, line in capabilities.SETS.items()}),
        no_new_privs=status["NoNewPrivs"] == "1",
        securebits=syscalls.prctl(uapi.PR_GET_SECUREBITS) if own else None,
    )


def _user_namespace(proc: Proc) -> UserNamespace:
    initial, own = kinds.INITIAL_USERNS, os.stat("/proc/self/ns/user").st_ino
    fd = proc.open("ns/user")
    try:
        inode, owner, level = os.fstat(fd).st_ino, syscalls.ns_get_owner_uid(fd), 0
        while True:
            try:
                parent = syscalls.ns_get_parent(fd)
            except KernelError as error:
                if error.errno != EPERM:  # EPERM: what is above the reader's own, or above the first
                    raise
                break
            os.close(fd)
            fd, level = parent, level + 1
        return UserNamespace(inode, owner, f"user:[{inode}]" == initial, level, inode == own)
    finally:
        os.close(fd)
