"""Files of namespaces, wherever they are: opened without harm, asked for their kin. ioctl_nsfs(2)."""

from __future__ import annotations

import fcntl
import os
import struct
from errno import EAGAIN, ENOTTY
from functools import cache

from nstool import uapi
from nstool.errors import KernelError

TRIES = 8  # at a path, while others mount and unmount
_MOST_SECONDS = 60.0  # that a visitor may take to join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class Fd:
    """An fd that is closed where its block ends."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> int:
        return self.number

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.number)


@cache
def _device() -> int:
    # Of nsfs, which all files of namespaces are on.
    return os.stat("/proc/self/ns/user").st_dev


def open_link(path: str, inode: int) -> int:
    """Return an fd of the namespace that a magic link leads to, as /proc/PID/ns/net or /proc/PID/fd/5; the caller's.

    -1 if it leads to anything else by now: that may be a device or a fifo, and is not opened. Raises OSError where the
    link may not be followed or the process has ended.
    """
    with Fd(os.open(path, os.O_PATH | os.O_CLOEXEC)) as place:
        return _reopen(place, inode)


def open_bound(root: str, path: str, inode: int) -> int:
    """Return an fd of the namespace that is bound to path below root, as /proc/PID/root; the caller's, -1 for none.

    The paths of a container are laid out by who is in it: no link leads out of the root, and no filesystem is waited
    for, as one of FUSE that never answers. openat2(2), RESOLVE_CACHED.
    """
    try:
        with Fd(os.open(root, os.O_PATH | os.O_CLOEXEC)) as top, Fd(_walk(top, path)) as place:
            return _reopen(place, inode)
    except OSError:  # ended, let go, hidden, not to be had without waiting: whatever it is, there is no fd
        return -1


def _walk(top: int, path: str) -> int:
    from nstool import syscalls

    resolve = uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_CACHED  # the first refuses magic links, too
    for _ in range(TRIES):
        try:
            return syscalls.openat2(top, path, os.O_PATH | os.O_CLOEXEC, 0, resolve)
        except KernelError as error:  # would have to wait, or somebody has just mounted something anywhere
            if error.errno != EAGAIN:
                raise
            refused = error
    raise refused


def _reopen(place: int, inode: int) -> int:
    status = os.fstat(place)
    if status.st_ino != inode or status.st_dev != _device():
        return -1
    return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)


def owner(fd: int) -> int:
    """Return an fd of the user namespace that owns a namespace, -1 where the kernel does not tell; the caller's."""
    return _related(fd, uapi.NS_GET_USERNS)


def parent(fd: int) -> int:
    """Return an fd of the parent of a user or pid namespace, -1 where it has none that is told; the caller's."""
    return _related(fd, uapi.NS_GET_PARENT)


def _related(fd: int, request: int) -> int:
    # Not by syscalls: where nothing is told a census asks thousands of times, and an error there is made of words.
    try:
        return fcntl.ioctl(fd, request)
    except PermissionError:
        return -1


def owner_uid(fd: int) -> int:
    """Return the user who made a user namespace, as an id of the reader's: 65534 if it has none there."""
    return _number(fd, uapi.NS_GET_OWNER_UID, "I")


def unique_id(fd: int) -> int | None:
    """Return the number of a namespace that is never given again until reboot, None before Linux 6.18."""
    try:
        return _number(fd, uapi.NS_GET_ID, "Q")
    except OSError as error:
        if error.errno != ENOTTY:
            raise
        return None


def _number(fd: int, request: int, layout: str) -> int:
    buffer = bytearray(struct.calcsize(layout))
    fcntl.ioctl(fd, request, buffer)
    return int(struct.unpack(layout, buffer)[0])


class Visitor:
    """A child that has joined a mount namespace and waits there, so that /proc/PID of it shows what is mounted.

    A context manager: gives the child's number in /proc, 0 where it may not join; leaving it ends the child.
    """

    def __init__(self, fd: int) -> None:
        from nstool.sandbox.helper import Helper

        answer, tell = os.pipe()
        wait, self._go = os.pipe()
        pid = os.fork()
        if pid == 0:
            _visit(fd, tell, wait, self._go)
        os.close(tell)
        os.close(wait)
        with open(answer, "rb", buffering=0) as pipe:
            self._child = Helper(pid, "mnt namespace", _MOST_SECONDS)
            try:
                self._child.wait_for(pipe)
                self._number = int(pipe.read(20) or 0)
            except KernelError:  # somebody there has stopped or killed it: it is not looked into
                self._number = 0

    def __enter__(self) -> int:
        return self._number

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._go)
        self._child.close()


def _visit(fd: int, tell: int, wait: int, go: int) -> None:
    from nstool import syscalls
    from nstool.sandbox.helper import shut

    try:
        os.close(go)
        parent = os.getppid()  # if it has ended before this, reading ends below
        number = os.readlink("/proc/self")  # there may be no /proc where it goes, or another
        # It has all of its parent's memory: where it goes, nobody may trace it (CVE-2016-9962), and it imports nothing.
        shut(parent)
        syscalls.setns(fd, uapi.CLONE_NEWNS)
        shut(parent)
        os.write(tell, number.encode())
        os.close(tell)
        os.read(wait, 1)  # until the parent closes its end, or is no more
    finally:
        os._exit(0)
