"""A filesystem of FUSE that does not answer, as everybody may mount one in a user namespace. fuse(4)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterator

from tests.support import kernel

CLONE_NEWUTS = 0x04000000
INIT, OPEN, FLUSH = 26, 14, 25


def mount(place: str, user: int = 0) -> int:
    """Mount one at a path, a file or a directory; return the fd of its server, with whose end it ends.

    user: who alone may look at it; others, root too, get EACCES.
    """
    server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    mode = "40000" if os.path.isdir(place) else "100644"
    kernel.mount("x", place, "fuse", data=f"fd={server},rootmode={mode},user_id={user},group_id=0")
    return server


def private() -> None:
    """Give the calling process a mount namespace of its own, with an empty /tmp."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs")


@contextlib.contextmanager
def to_be_held(number: int = 1) -> Iterator[tuple[list[int], Callable[[], None]]]:
    """Processes that wait, and what has them call execve(2), in which they are until the end of the block.

    Each is in mount and UTS namespaces of its own, and has a file of such a filesystem open, which the kernel closes
    there and is not answered about.
    """
    answer, tell = os.pipe()
    gate, open_gate = os.pipe()
    server = os.fork()
    if server == 0:
        try:
            os.close(answer)
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            _serve(number, tell, gate)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        with open(answer) as pipe:
            pids = [int(word) for word in pipe.readline().split()]
            assert len(pids) == number

            def hold() -> None:
                os.write(open_gate, b"." * number)
                assert pipe.readline() == "held\n"

            yield pids, hold
    finally:
        os.close(gate)
        os.close(open_gate)
        os.kill(server, signal.SIGKILL)  # with its server the filesystem ends
        os.waitpid(server, 0)


@contextlib.contextmanager
def held_in_execve(number: int = 1) -> Iterator[list[int]]:
    """As ``to_be_held``, from the beginning of the block: their pids."""
    with to_be_held(number) as (pids, hold):
        hold()
        yield pids


def _serve(number: int, tell: int, gate: int) -> None:
    private()
    with open("/tmp/file", "x"):
        pass
    fuse = mount("/tmp/file")
    pids = [_child(gate, fuse) for _ in range(number)]
    opened = closed = 0
    while closed < number:
        request = os.read(fuse, 1 << 20)
        _, what, unique, _ = struct.unpack_from("<IIQQ", request)
        if what == INIT:
            _reply(fuse, unique, struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 10, 10, 4096, 1, 0, 0, *[0] * 8))
        elif what == OPEN:
            _reply(fuse, unique, struct.pack("<QII", 1, 0, 0))
            opened += 1
            if opened == number:
                os.write(tell, (" ".join(map(str, pids)) + "\n").encode())
        elif what == FLUSH:
            closed += 1
        else:
            _reply(fuse, unique, b"", -errno.ENOSYS)
    os.write(tell, b"held\n")
    while True:
        signal.pause()


def _child(gate: int, fuse: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                os.open("/tmp/file", os.O_RDONLY | os.O_CLOEXEC)
                os.close(fuse)
                kernel.unshare(kernel.CLONE_NEWNS | CLONE_NEWUTS)
                os.read(gate, 1)
                os.execv("/bin/sleep", ["sleep", "1000"])
        finally:
            os._exit(1)
    return pid


def _reply(fuse: int, unique: int, body: bytes, error: int = 0) -> None:
    os.write(fuse, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
