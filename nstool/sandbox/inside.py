"""Call a function in another namespace: in a child, because what has been joined cannot be left. setns(2)."""

from __future__ import annotations

import os
from errno import EIO, EPERM

from nstool import syscalls, uapi
from nstool.errors import KernelError, SandboxGone
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.sandbox.facts import why_hidden
from nstool.security.idmap import parse_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeVar

    from nstool.spec.model import IdMap

    T = TypeVar("T")


class Maps(Frozen):
    """The id maps of a user namespace; outside is as the reader sees it."""

    uid: tuple[IdMap, ...]
    gid: tuple[IdMap, ...]


def refused(pid: int, name: str, error: OSError, why: str) -> KernelError:
    """Return the error for a file of a process that the kernel does not let the caller open, with the checked cause.

    name: of the file in /proc/PID, as "ns/ipc". why: what it was for. Raises SandboxGone if the process has ended.
    """
    try:
        cause, remedy = why_hidden(pid)
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(f"process {pid} has ended") from None
    return KernelError(
        f'open("/proc/{pid}/{name}")',
        error.errno or 0,
        why=why,
        causes=(f"you may not look into process {pid}: {cause}, ptrace(2)",),
        remedies=(remedy,),
        checked=True,
    )


def open_namespace(pid: int, kind: str) -> int:
    """Return an fd of a process's namespace of this kind. Raises SandboxGone, KernelError if the process is hidden."""
    try:
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError as error:
        raise refused(pid, f"ns/{kind}", error, f"to look into its {kind} namespace") from None
    except (FileNotFoundError, ProcessLookupError):
        if kind in KINDS and not os.path.exists(f"/proc/self/ns/{kind}"):
            raise
        raise SandboxGone(f"there is no process {pid}, or it has ended; ps -e lists those that there are") from None


def call_in(namespace: int, kind: str, function: Callable[[], T]) -> tuple[T, Maps | None]:
    """Return what a function returns or raises in the namespace of this kind that an fd refers to, called in a child.

    The user namespace that owns it is joined too where the caller has the privilege only there, as an ordinary user
    in one of its own: then its maps are returned as well, because the kernel translates ids for the child. The result
    comes back by pickle. The function must not import: paths may lead to what others have put there. Raises
    KernelError if the namespace may not be joined.
    """
    import pickle

    answers, child_answers = os.pipe()
    child_waits, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        _act(namespace, kind, function, child_answers, child_waits, (answers, go))
    try:
        os.close(child_answers)
        os.close(child_waits)
        with open(answers, "rb") as pipe:
            # While the child waits, its maps can be read as they are seen from here.
            maps = _maps(pid) if pipe.read(1) == b"u" else None
            os.close(go)
            go = -1
            data = pipe.read()
    finally:
        if go >= 0:
            os.close(go)
        os.waitpid(pid, 0)
    if not data:
        raise KernelError(f"{kind} namespace", EIO, why="the child that was to join it has ended before it answered")
    value, error = pickle.loads(data)
    if error is not None:
        raise error
    result: T = value
    return result, maps


def _maps(pid: int) -> Maps:
    def read(name: str) -> tuple[IdMap, ...]:
        with open(f"/proc/{pid}/{name}") as file:
            return parse_map(file.read())

    return Maps(read("uid_map"), read("gid_map"))


def _act(
    namespace: int, kind: str, function: Callable[[], object], answers: int, waits: int, others: tuple[int, int]
) -> NoReturn:
    import pickle

    try:
        try:
            message = pickle.dumps((_there(namespace, kind, function, answers, waits, others), None))
        except Exception as error:
            message = pickle.dumps((None, error))
        view = memoryview(message)
        while view:
            view = view[os.write(answers, view) :]
    finally:
        os._exit(0)  # whatever happens, the caller's program goes on in the parent alone


def _there(
    namespace: int, kind: str, function: Callable[[], T], answers: int, waits: int, others: tuple[int, int]
) -> T:
    import sys

    for fd in others:
        os.close(fd)
    # Where it goes, others may trace it and choose what is at the paths of modules: it must not be traced, though it
    # has all of its parent's memory (CVE-2016-9962), and must import nothing.
    syscalls.prctl(uapi.PR_SET_DUMPABLE, 0)
    sys.meta_path[:] = [one for one in sys.meta_path if getattr(one, "__name__", "") == "BuiltinImporter"]
    joined = b"-"
    try:
        joined = _join(namespace, kind)
    finally:
        os.write(answers, joined)
    os.read(waits, 1)  # the end of the file: the parent has read the maps, or is gone
    return function()


def _join(namespace: int, kind: str) -> bytes:
    # b"u" if the user namespace was joined too.
    if _same(namespace, kind):
        return b"-"
    try:
        syscalls.setns(namespace, KINDS[kind].flag)
        return b"-"
    except KernelError as error:
        if error.errno != EPERM:
            raise
        refusal = KernelError(
            error.call,
            EPERM,
            why=f"to look into the {kind} namespace",
            causes=("you have no CAP_SYS_ADMIN over the user namespace that owns it",),
            remedies=("run as root, or as the user who made that user namespace",),
        )
    try:
        owner = syscalls.ns_get_userns(namespace)
        if _same(owner, "user"):
            raise refusal
        syscalls.setns(owner, uapi.CLONE_NEWUSER)
        syscalls.setns(namespace, KINDS[kind].flag)
        return b"u"
    except KernelError:
        raise refusal from None


def _same(namespace: int, kind: str) -> bool:
    return os.fstat(namespace).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
