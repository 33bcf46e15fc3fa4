"""A process that has done something to itself and stays, to be looked at."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nstool.sandbox.mountinfo import unescape
from tests.support import kernel


@contextmanager
def held(act: Callable[[], object]) -> Iterator[int]:
    """Yield the pid of a child that has done act and waits; it ends with the block, or with this process.

    What act raises is raised here.
    """
    reader, writer = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writer)
            os.close(told)
            try:
                act()
                message = b""
            except BaseException as error:
                message = pickle.dumps(error)
            os.write(tell, len(message).to_bytes(8, "little") + message)
            os.close(tell)
            os.read(reader, 1)
        finally:
            os._exit(0)
    os.close(reader)
    os.close(tell)
    try:
        with open(told, "rb") as pipe:  # by length: what act has forked may hold the other end
            length = pipe.read(8)
            message = pipe.read(int.from_bytes(length, "little"))
        assert length, "the child has ended"
        if message:
            raise pickle.loads(message)
        yield pid
    finally:
        os.close(writer)
        os.waitpid(pid, 0)


def private_mounts() -> None:
    """Enter a mount namespace of one's own, with an empty /tmp."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    # What others of this host have mounted there would be listed still, as covered.
    below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n") if b" /tmp/" in line]
    for target in below[::-1]:
        if target.startswith(b"/tmp/"):
            kernel.umount(unescape(os.fsdecode(target)), kernel.MNT_DETACH)
    kernel.mount("tmpfs", "/tmp", "tmpfs")


def own_user_namespace() -> None:
    """Enter a user namespace of one's own, as its root."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1\n")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1\n")
