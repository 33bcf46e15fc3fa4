"""Remove objects of an IPC namespace, and set its limits: by the calls of a child that has joined it. sysvipc(7)."""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import EACCES, EIDRM, EINVAL, ENOENT, EPERM

from nstool import syscalls
from nstool.errors import KernelError, SpecError
from nstool.frozen import Frozen
from nstool.namespaces.ipc import FILES
from nstool.sandbox.helper import shut
from nstool.sandbox.inside import call, open_namespace
from nstool.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    T = TypeVar("T")

KINDS = {
    "shm": "shared memory segment",
    "sem": "semaphore set",
    "msg": "message queue",
    "mq": "POSIX message queue",
}

# Name to file: those that a spec sets, and those that it leaves alone. proc_sys_kernel(5), mq_overview(7). The next ids
# are no limits, but of the same kind: -1, or what the next object is to have, for who restores a checkpoint.
LIMITS: dict[str, str] = FILES | {
    "shm_rmid_forced": "/proc/sys/kernel/shm_rmid_forced",
    "shm_next_id": "/proc/sys/kernel/shm_next_id",
    "sem_next_id": "/proc/sys/kernel/sem_next_id",
    "msg_next_id": "/proc/sys/kernel/msg_next_id",
    "mq_msg_default": "/proc/sys/fs/mqueue/msg_default",
    "mq_msgsize_default": "/proc/sys/fs/mqueue/msgsize_default",
}
_SIZES = ("shmmax", "msgmax", "msgmnb", "mq_msgsize_max", "mq_msgsize_default")  # bytes
_SEM = 4  # numbers in kernel.sem


class Object(Frozen):
    """An object to remove. kind: a key of KINDS. id: of a System V object. name: of a POSIX queue, with its slash."""

    kind: str
    id: int = -1
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name or self.id}"


class Change(Frozen):
    """A limit that was set. before, after: the text of its file, numbers with blanks between them."""

    name: str
    before: str
    after: str


def read_object(text: str) -> Object:
    """Read "shm:12", "sem:0", "msg:3" or "mq:/jobs". Raises SpecError."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        raise SpecError(
            f"{values.quoted(text)} names no object; write shm:ID, sem:ID, msg:ID or mq:/NAME, as nstool ipc lists them"
        )
    if kind == "mq":
        # mq_overview(7): a slash, and up to 255 bytes without one.
        if not rest.startswith("/") or "/" in rest[1:] or not 1 < len(os.fsencode(rest)) <= 256:
            raise SpecError(
                f"{values.quoted(rest)} is no name of a queue; a slash begins it, and 1 to 255 bytes follow"
            )
        return Object(kind, name=rest)
    if not (rest.isascii() and rest.isdecimal() and int(rest) < 1 << 31):
        raise SpecError(f"{values.quoted(rest)} is no id of a {KINDS[kind]}; nstool ipc lists them")
    return Object(kind, int(rest))


def read_limit(text: str) -> tuple[str, str]:
    """Read "shmmax=1M" or "kernel.shmmax=1048576"; the name, and the text for its file. Raises SpecError."""
    name, equals, value = text.partition("=")
    by_sysctl = {path.removeprefix("/proc/sys/").replace("/", "."): known for known, path in LIMITS.items()}
    key = by_sysctl.get(name, name)
    if key in LIMITS and not equals:
        raise SpecError(f"{key} has no value; write {key}=VALUE")
    if key not in LIMITS:
        hint = values.suggest(name, LIMITS)
        raise SpecError(f"{values.quoted(name)} is no limit of an ipc namespace; write LIMIT=VALUE{hint}")
    try:
        return key, _value(key, value)
    except SpecError as error:
        raise SpecError(f"{key}: {error.message}") from None


def _value(key: str, text: str) -> str:
    if key == "sem":
        numbers = text.split()
        if len(numbers) != _SEM:
            raise SpecError('write four numbers, "SEMMSL SEMMNS SEMOPM SEMMNI", proc_sys_kernel(5)')
        return " ".join(str(values.integer(number)) for number in numbers)
    if text.isascii() and text.isdecimal() and len(text) <= 20:  # an unsigned long, as shmmax by default
        return text
    return str(values.size(text) if key in _SIZES else values.integer(text))


def remove(objects: Sequence[Object], pid: int = 0) -> tuple[tuple[Object, KernelError], ...]:
    """Remove objects of a process's IPC namespace, or with 0 the caller's; return those that were refused, and why.

    A segment that is attached goes with its last detach, a POSIX queue that is open with its last close: its name, and
    the id of the segment, are gone at once for others. Raises SandboxGone, KernelError if the namespace cannot be
    joined: then nothing is removed.
    """
    return _inside(pid, _remove_all, objects)


def limit(limits: Mapping[str, str], pid: int = 0) -> tuple[Change, ...]:
    """Set limits of a process's IPC namespace, or with 0 the caller's, in their order; as ``read_limit`` gives them.

    Raises as ``remove``, and KernelError for the first that is refused; those before it are set.
    """
    if not pid:
        return _set_all(dict(limits))
    namespace = open_namespace(pid, "ipc")
    try:
        with _owner(namespace) as owner:
            return call({"ipc": namespace, **owner}, _set_all_as_root if owner else _set_all, dict(limits))
    finally:
        os.close(namespace)


@contextmanager
def _owner(namespace: int) -> Iterator[dict[str, int]]:
    """Give {"user": fd} of the user namespace that a namespace belongs to, nothing if that is the caller's own."""
    try:
        fd = syscalls.ns_get_userns(namespace)
    except KernelError as error:
        if error.errno != EPERM:  # neither the caller's nor below it: to join it will be refused, with the cause
            raise
        yield {}
        return
    try:
        own = os.fstat(fd).st_ino == os.stat("/proc/self/ns/user").st_ino
        yield {} if own else {"user": fd}
    finally:
        os.close(fd)


def _inside(pid: int, function: Callable[..., T], *args: object) -> T:
    if not pid:
        return function(*args)
    namespace = open_namespace(pid, "ipc")
    try:
        return call({"ipc": namespace}, function, *args)
    finally:
        os.close(namespace)


def _set_all_as_root(limits: Mapping[str, str]) -> tuple[Change, ...]:
    # No capability helps: the kernel asks whether it is uid 0 of the owner that writes. ipc/ipc_sysctl.c
    parent = os.getppid()
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        if error.errno not in (EINVAL, EPERM):  # EINVAL: it maps no 0; the limit may be another's, or is refused
            raise
    shut(parent)  # other ids have let others trace it
    return _set_all(limits)


def _set_all(limits: Mapping[str, str]) -> tuple[Change, ...]:
    return tuple(_set(name, value) for name, value in limits.items())


def _remove_all(objects: Sequence[Object]) -> tuple[tuple[Object, KernelError], ...]:
    refused = []
    for one in objects:
        try:
            _remove(one)
        except KernelError as error:
            refused.append((one, _explained(one, error)))
    return tuple(refused)


def _remove(one: Object) -> None:
    if one.kind == "mq":
        syscalls.mq_unlink(one.name)
    elif one.kind == "shm":
        syscalls.shmctl(one.id)
    elif one.kind == "sem":
        syscalls.semctl(one.id)
    else:
        syscalls.msgctl(one.id)


def _explained(one: Object, error: KernelError) -> KernelError:
    kind = KINDS[one.kind]
    cause = remedy = ""
    if error.errno in (EINVAL, EIDRM, ENOENT):
        cause, remedy = (
            f"there is no {kind} {one.name or one.id} in this ipc namespace",
            "nstool ipc lists those there are",
        )
    elif error.errno in (EPERM, EACCES):
        cause = f"the {kind} is another user's, and you have no CAP_SYS_ADMIN over the ipc namespace"
        if one.kind == "mq":
            cause = "the queue is another user's, and you have no CAP_FOWNER"
        remedy = "run as its owner, or as root"
    return KernelError(
        error.call,
        error.errno or 0,
        why=f"to remove {one}",
        causes=(cause,) if cause else (),
        remedies=(remedy,) if remedy else (),
        checked=bool(cause),
    )


def _set(name: str, value: str) -> Change:
    path = LIMITS[name]
    before = _numbers(path)
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(f"{value}\n".encode())
    except OSError as error:
        raise _refused_limit(name, value, error) from None
    return Change(name, before, _numbers(path))


def _refused_limit(name: str, value: str, error: OSError) -> KernelError:
    causes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    if error.errno == EINVAL:
        causes, remedies = (f"{value} is out of the range that this kernel allows",), ("choose another value",)
    elif error.errno in (EACCES, EPERM):
        causes = (
            "only uid 0 of the user namespace that owns the ipc namespace may set its limits: you may not "
            "become it, or it maps none",
            "/proc/sys is read-only here",
        )
        remedies = ("run as root, or as who made that user namespace, with a map of 0", "mount /proc/sys writable")
    return KernelError(
        f'write("{LIMITS[name]}", "{value}")', error.errno or 0, why=f"to set {name}", causes=causes, remedies=remedies
    )


def _numbers(path: str) -> str:
    return " ".join(read_plain(path).split())


def read_plain(path: str) -> str:
    """Return the text of a file of the kernel that has ASCII only. For children: a codec may need an import."""
    with open(path, "rb") as file:
        return file.read().decode("ascii")
