"""The numbers of a task at each level of nested pid namespaces, and their translation. pid_namespaces(7).

A task has a number in its own pid namespace and in each one above, in none below and none beside. The levels are
counted from the reader's namespace down; those above it the kernel does not show.
"""

from __future__ import annotations

import os
from errno import ENOTTY, ESRCH

from nstool import syscalls
from nstool.closing import Closing
from nstool.errors import KernelError, NotSupported, SandboxGone
from nstool.frozen import Frozen
from nstool.inspect import nsfile
from nstool.inspect.nsfile import Namespace
from nstool.inspect.proc import Proc, ProcessGone, check_numbers, pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How translate finds out: by ioctl_nsfs(2), Linux 6.11, or by reading the NSpid lines of all tasks.
ROADS = ("ioctl", "NSpid")


class Level(Frozen):
    """The numbers of a task in one pid namespace. proc_pid_status(5), NStgid, NSpid, NSpgid, NSsid.

    depth: 0 is the reader's. namespace: inode; None where it may not be read. tid: of the thread; pid: of its process.
    pgid, sid: of its process group and session; 0 where the leader is outside and has no number here.
    init: process 1 of the namespace as a pid of the reader's; None where not known.
    """

    depth: int
    namespace: int | None
    tid: int
    pid: int
    pgid: int
    sid: int
    init: int | None


class Numbers(Frozen):
    """A task at each level, the reader's first. tid: as asked for; pid: of its process; unread: why, by what."""

    tid: int
    pid: int
    comm: str
    levels: tuple[Level, ...]
    unread: dict[str, str]


class Translation(Frozen):
    """A number of pid namespace ``source`` in pid namespace ``target``, both inodes.

    tid: the task's number in target, 0 for none; pid: that of its process. here: its number for the reader.
    reason: why it has none in target, else "". road: one of ROADS, by which it was found.
    """

    number: int
    source: int
    target: int
    tid: int
    pid: int
    here: int
    comm: str
    reason: str
    road: str


def numbers(tid: int) -> Numbers:
    """Return the numbers of a process or thread of the reader's pid namespace. Raises ProcessGone, NotSupported."""
    check_numbers()
    unread: dict[str, str] = {}
    with Proc(tid) as proc:
        status = proc.status()
        tids, tgids, pgids, sids = (_row(status, key) for key in ("NSpid", "NStgid", "NSpgid", "NSsid"))
        deeper = len(tids) - 1  # the first is the reader's
        namespaces: list[int | None] = [_own_inode(), *[None] * deeper]
        inits: list[int | None] = [1, *[None] * deeper]
        try:
            with _Chain(nsfile.of_process(proc, "pid")) as chain:
                namespaces[:] = chain.inodes
                inits = [_init(namespace) for namespace in chain.namespaces]
        except KernelError as error:
            unread["namespace"] = error.cause
        comm = proc.stat().comm
        levels = map(Level, range(len(tids)), namespaces, tids, tgids, pgids, sids, inits)
        return Numbers(tid, tgids[0], comm, tuple(levels), unread)


def translate(number: int, source: Namespace, target: Namespace, road: str = "") -> Translation:
    """Translate the number of a task in one pid namespace to its number in another.

    road: one of ROADS; "" for the first that this kernel has. Raises ProcessGone if no task has the number in source,
    or none that the reader can see; KernelError where it cannot be told, with the cause.
    """
    check_numbers()
    if road != "NSpid":
        try:
            return _by_ioctl(number, source, target)
        except KernelError as error:
            if error.errno != ENOTTY or road:  # ENOTTY: Linux before 6.11
                raise
    return _by_nspid(number, source, target)


def _own_inode() -> int:
    return os.stat("/proc/thread-self/ns/pid").st_ino


def _row(status: dict[str, str], key: str) -> list[int]:
    return [int(word) for word in status[key].split()]


class _Chain(Closing):
    """A pid namespace and those above it that the reader may see, the topmost first, all held by fds."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespaces = [namespace]
        while above := self.namespaces[0].parent():
            self.namespaces.insert(0, above)

    @property
    def inodes(self) -> list[int]:
        return [namespace.inode for namespace in self.namespaces]

    def close(self) -> None:
        for namespace in self.namespaces:
            namespace.close()


def _inodes(namespace: Namespace) -> list[int]:
    # As _Chain, of a namespace that stays the caller's.
    with _Chain(Namespace(os.dup(namespace.fd), "pid")) as chain:
        return chain.inodes


def _init(namespace: Namespace) -> int | None:
    with nsfile.own("pid") as own:
        try:
            return translate(1, namespace, own).tid or None
        except (ProcessGone, KernelError, PermissionError):  # it has ended, and the rest is about to; or hidepid
            return None


# ---- by ioctl ----


def _by_ioctl(number: int, source: Namespace, target: Namespace) -> Translation:
    own = _own_inode()
    here = number if source.inode == own else _ask(syscalls.ns_get_pid_from_pidns, source, number)
    if not here:
        raise ProcessGone(_nobody(number, source, own))
    try:
        with Proc(here) as proc:
            # The number may have gone to another task before it was opened; now it cannot any more.
            if source.inode != own and _ask(syscalls.ns_get_pid_from_pidns, source, number) != here:
                raise proc.gone()
            status = proc.status()
            if target.inode == own:
                tid, pid = here, int(status["Tgid"])
            else:
                tid = _ask(syscalls.ns_get_pid_in_pidns, target, here)
                pid = _ask(syscalls.ns_get_tgid_in_pidns, target, here)
            reason = "" if tid else _why_not(proc, target)
            comm = proc.stat().comm
    except ProcessGone:
        raise ProcessGone(_nobody(number, source, own)) from None
    return Translation(number, source.inode, target.inode, tid, pid, here, comm, reason, "ioctl")


def _ask(call: Callable[[int, int], int], namespace: Namespace, number: int) -> int:
    try:
        return call(namespace.fd, number)
    except KernelError as error:
        if error.errno != ESRCH:
            raise
        return 0


def _nobody(number: int, source: Namespace, own: int) -> str:
    text = f"no process or thread has the number {number} in {source}"
    if own not in _inodes(source):
        return f"{text}, or it is in no namespace below yours and you do not see it"
    return f"{text}, or it has ended"


def _why_not(proc: Proc, target: Namespace) -> str:
    try:
        with _Chain(nsfile.of_process(proc, "pid")) as chain:
            inodes = chain.inodes
    except KernelError as error:
        return f"the process is neither in {target} nor in one below it; in which may not be read: {error.cause}"
    theirs = _inodes(target)
    lives = f"it lives in pid:[{inodes[-1]}]"
    if inodes[-1] in theirs:
        return f"{lives}, and {target} is nested below that: a process has numbers in its own namespace and above"
    common = [inode for inode in inodes if inode in theirs]
    if common:
        return f"{lives}, and {target} is another branch below pid:[{common[-1]}]: neither sees the other's processes"
    return f"{lives}, and {target} is neither yours nor below yours: nothing there is shown to you"


# ---- by NSpid lines ----


def _by_nspid(number: int, source: Namespace, target: Namespace) -> Translation:
    own = _own_inode()
    for namespace in (source, target):
        if own not in _inodes(namespace):
            raise NotSupported(
                f"numbers of {namespace}",
                "it is neither your pid namespace nor below it, and the NSpid lines begin at yours",
                "Linux 6.11 and later can, or ask from there",
            )
    for proc in (Proc(number),) if source.inode == own else _with_number(number, source):
        with proc:
            status = proc.status()
            tids, tgids = _row(status, "NSpid"), _row(status, "NStgid")
            depth = len(_inodes(target)) - 1
            found = depth == 0 or (len(tids) > depth and _is_at(proc, target, depth))
            reason = "" if found else _why_not(proc, target)
            comm = proc.stat().comm
            tid, pid = (tids[depth], tgids[depth]) if found else (0, 0)
            return Translation(number, source.inode, target.inode, tid, pid, tids[0], comm, reason, "NSpid")
    raise ProcessGone(_nobody(number, source, own))


def _with_number(number: int, source: Namespace) -> Iterator[Proc]:
    """Yield the task that has this number in the namespace. All processes are asked first, then all threads."""
    depth = len(_inodes(source)) - 1
    refused: list[OSError] = []
    for pid, tid in _leaders_then_threads(depth):
        try:
            with Proc(pid, tid) as proc:
                tids = _row(proc.status(), "NSpid")
                if len(tids) > depth and tids[depth] == number and _is_at(proc, source, depth):
                    yield proc  # held: opened anew it might be another
                    return
        except SandboxGone:  # between the listing and now
            continue
        except (KernelError, PermissionError) as error:  # another may be the one
            refused.append(error)
    if refused:
        raise refused[0]


def _leaders_then_threads(depth: int) -> Iterator[tuple[int, int]]:
    # (pid, 0), then (pid, tid) of the other threads, of the processes that are in namespaces so deep.
    there = pids()
    yield from ((pid, 0) for pid in there)
    for pid in there:
        try:
            with Proc(pid) as process:
                if len(_row(process.status(), "NSpid")) > depth:
                    yield from ((pid, int(tid)) for tid in process.list("task") if int(tid) != pid)
        except (ProcessGone, PermissionError):  # said already of the process itself
            continue


def _is_at(proc: Proc, namespace: Namespace, depth: int) -> bool:
    """Whether the task's namespace at this depth is the one. Raises KernelError where that may not be read."""
    with _Chain(nsfile.of_process(proc, "pid")) as chain:
        return chain.inodes[depth] == namespace.inode
