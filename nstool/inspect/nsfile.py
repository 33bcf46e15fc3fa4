"""A namespace that is named by a process, a sandbox or a file, held by an fd. namespaces(7), ioctl_nsfs(2)."""

from __future__ import annotations

import os
from errno import EPERM

from nstool.closing import ByFd
from nstool.errors import KernelError, SandboxGone, SpecError
from nstool.inspect.proc import Proc, of_own_namespace, process
from nstool.kinds import KINDS
from nstool.sandbox.inside import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Namespace(ByFd):
    """A namespace, held by ``fd``, so that its inode stays its own. A context manager.

    pid: of the process by which it was named, 0 for a file. name: what the user called it.
    """

    def __init__(self, fd: int, kind: str, pid: int = 0, name: str = "") -> None:
        self.fd = fd
        self.kind = kind
        self.pid = pid
        self.inode = os.fstat(fd).st_ino
        self.name = name

    def __str__(self) -> str:
        return f"{self.kind}:[{self.inode}]"

    def parent(self) -> Namespace | None:
        """Return the parent of a user or pid namespace; None at the top of what the reader may see."""
        from nstool import syscalls

        return self._above(syscalls.ns_get_parent, self.kind)

    def owner(self) -> Namespace | None:
        """Return the user namespace that this one belongs to; None where that is not the reader's or below it."""
        from nstool import syscalls

        return self._above(syscalls.ns_get_userns, "user")

    def _above(self, ask: Callable[[int], int], kind: str) -> Namespace | None:
        try:
            return Namespace(ask(self.fd), kind)
        except KernelError as error:
            if error.errno != EPERM:
                raise
            return None


def own(kind: str) -> Namespace:
    """Return the namespace of this kind that the reader is in."""
    return Namespace(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC), kind, os.getpid())


def of_process(proc: Proc, kind: str) -> Namespace:
    """Return the namespace of a process. Raises KernelError with the cause where that may not be read."""
    try:
        fd = proc.open(f"ns/{kind}")
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(f"process {proc.pid} has ended, and is in no {kind} namespace any more") from None
    except PermissionError as error:
        if kind == "pid" and of_own_namespace() and len(proc.status()["NSpid"].split()) == 1:
            return own(kind)
        raise refused(proc.pid, f"ns/{kind}", error, f"which {kind} namespace it is in") from None
    return Namespace(fd, kind, proc.pid)


def why_hidden(pid: int) -> tuple[str, str]:
    """Return (cause, remedy) of what the kernel has refused of a process. Raises SandboxGone if it has ended."""
    from nstool.sandbox import facts

    return facts.why_hidden(pid)


# What is said to have been looked at of what is no pid and no sandbox.
_ELSEWHERE = ", no file here, and no name in /run/netns, where `ip netns` has them"


def named(target: str, kind: str, place: str) -> Namespace:
    """Return the namespace of this kind that TARGET means on a command line.

    target: a pid, a sandbox's name, a namespace file; for net also the name of one in /run/netns. place: the option
    or argument, for messages. Raises SpecError, SandboxGone, KernelError.
    """
    if not target:
        raise SpecError("is empty; give a pid, the name of a sandbox, or a namespace file", place)
    path = _path(target, kind)
    if path:
        return _file(path, kind, place)
    try:
        pid = process(target, _ELSEWHERE if kind == "net" else ", and there is no such file")
    except SpecError as error:
        raise SpecError(error.message, place if place.startswith("--") else "") from None
    with Proc(pid) as proc:
        found = of_process(proc, kind)
    found.name = target
    return found


def _path(target: str, kind: str) -> str:
    # Of a number and of a sandbox's name: "".
    from nstool.sandbox import rundir

    if "/" in target:
        return target
    if (target.isascii() and target.isdecimal()) or target in rundir.names():
        return ""
    if kind == "net" and os.path.exists(f"/run/netns/{target}"):
        return f"/run/netns/{target}"
    return target if os.path.exists(target) else ""


def _file(path: str, kind: str, place: str) -> Namespace:
    from nstool import syscalls

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO without a writer must not stop us
    except PermissionError as error:
        raise SpecError(
            f"{path} may not be opened by you: {error.strerror}; run as its owner, or as root", place
        ) from None
    except OSError as error:
        raise SpecError(f"{path} cannot be opened: {error.strerror}", place) from None
    try:
        flag = syscalls.ns_get_nstype(fd)
    except KernelError:
        os.close(fd)
        raise SpecError(f"{path} is no namespace file, namespaces(7); as /proc/PID/ns/{kind} is", place) from None
    found = next((name for name, row in KINDS.items() if row.flag == flag), f"{flag:#x}")
    if found != kind:
        os.close(fd)
        raise SpecError(f"{path} is a {found} namespace; a {kind} namespace is asked for", place)
    return Namespace(fd, kind, name=path)
