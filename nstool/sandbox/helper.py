"""A child that others may stop or kill, as it has their ids or is in their user namespace: never waited for blindly.

kill(2): a process may be signalled by who has its real or saved user id, or CAP_KILL in its user namespace.
"""

from __future__ import annotations

import os
import select
import time
from errno import ECHILD, EIO, ETIMEDOUT

from nstool import syscalls, uapi
from nstool.closing import Closing
from nstool.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Readable(Protocol):
        def fileno(self) -> int: ...


_GLANCE = 50  # milliseconds between looks at whether it has been stopped, of which the kernel tells nobody who polls


class Helper(Closing):
    """Holds a child by its pidfd, and ends it with the block.

    what: that it is for, for errors. seconds: that its answers may take, all together.
    """

    def __init__(self, pid: int, what: str, seconds: float) -> None:
        self.pid = pid
        self.what = what
        self.end = time.monotonic() + seconds
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError:
            os.kill(pid, uapi.SIGKILL)  # not waited for, its number stays its own
            os.waitpid(pid, 0)
            raise

    def wait_for(self, file: _Readable) -> None:
        """Wait until a pipe or socket can be read, also when it has ended.

        Raises KernelError: EIO if the child has been stopped or killed by another, ETIMEDOUT; it is killed then.
        """
        poll = select.poll()
        poll.register(file, select.POLLIN)
        poll.register(self.pidfd, select.POLLIN)
        while not (ready := dict(poll.poll(_GLANCE))):
            if self.is_stopped():
                self.kill()
                raise KernelError(self.what, EIO, why="somebody in there has stopped the child that was to look there")
            if time.monotonic() > self.end:
                self.kill()
                raise KernelError(self.what, ETIMEDOUT, why="the child that was to look there has given no answer")
        if file.fileno() not in ready and not poll_now(file):
            raise KernelError(self.what, EIO, why="the child that was to look there has ended before it answered")

    def is_stopped(self) -> bool:
        """Return whether it has been stopped by a signal."""
        try:
            return syscalls.waitid(uapi.P_PIDFD, self.pidfd, uapi.WSTOPPED | uapi.WNOHANG) is not None
        except KernelError as error:
            if error.errno != ECHILD:  # ECHILD: it has ended, and a SIGCHLD handler of the host's has taken it
                raise
            return False

    def kill(self) -> None:
        """Kill it, if it has not ended."""
        import _signal

        try:
            _signal.pidfd_send_signal(self.pidfd, uapi.SIGKILL)
        except ProcessLookupError:  # it has been waited for
            return

    def close(self) -> None:
        """Kill it and wait for its end. Idempotent."""
        if self.pidfd >= 0:
            self.kill()
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:  # a SIGCHLD handler of the host's has taken it
                return
            finally:
                os.close(self.pidfd)
                self.pidfd = -1


def poll_now(file: _Readable) -> bool:
    """Return whether a pipe or socket can be read at once, or has ended."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


def shut(parent: int) -> None:
    """Let nobody trace the calling process, a helper, and have it end with its parent.

    To be called again after each change of ids, capabilities or user namespace, by which the kernel forgets both.
    parent: its pid, as os.getppid() was when the parent lived for certain.
    """
    syscalls.prctl(uapi.PR_SET_DUMPABLE, 0)
    syscalls.prctl(uapi.PR_SET_PDEATHSIG, uapi.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)
