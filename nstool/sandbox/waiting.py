"""The end of a sandbox that another process looks after: wait for it, or bring it about."""

from __future__ import annotations

import os
import select
import signal
import time

from nstool.errors import NstoolError, SandboxGone
from nstool.sandbox import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_NOTED = 10.0  # seconds, in which who looks after it writes how it ended, and undoes it
_PAUSE = 0.01


class Other:
    """A running sandbox of another process, by its name. A context manager; leaving it lets go, and ends nothing.

    Raises SandboxGone if there is none of this name, NotSupported if it was made in another pid namespace.
    """

    def __init__(self, name: str) -> None:
        record = rundir.find_running(name)
        self.name = name
        try:
            self._journal = os.open(f"{record.path}/journal", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _gone(name) from None
        try:
            self._pidfd = os.pidfd_open(record.init_pid)
        except ProcessLookupError:
            os.close(self._journal)
            raise _gone(name) from None
        if not rundir.is_alive(record.init_pid, record.init_start):  # the pid is another process's by now
            self.close()
            raise _gone(name)

    def signal(self, number: int) -> None:
        """Send a signal to its init, which forwards it to the command; SIGKILL ends all of it. Raises SandboxGone."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            raise _gone(self.name) from None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of its command and return its status as wait(2) gives it.

        None if nobody noted it: its launcher was killed, or the sandbox outlived it. timeout: seconds; raises
        TimeoutError.
        """
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError(f"sandbox {self.name!r} still runs after {timeout:g} s")
        end = time.monotonic() + _NOTED
        while time.monotonic() < end:
            # In this order: what was written before the journal was removed, or before its writer ended, is read.
            removed = os.fstat(self._journal).st_nlink == 0
            lines = self._lines()
            nobody = removed or not rundir.made_by_the_living(self.name, lines)
            lines = self._lines() if nobody else lines
            noted = next((line for line in lines if line.startswith(b'{"ended":')), b"")
            if noted:
                return int(rundir.decode(self.name, noted)["ended"])
            if nobody:
                break
            time.sleep(_PAUSE)
        return None

    def _lines(self) -> list[bytes]:
        size = os.fstat(self._journal).st_size
        return os.pread(self._journal, size, 0).split(b"\n")[:-1]

    def stop(self, timeout: float) -> bool:
        """End it: SIGTERM, and SIGKILL if it still runs after ``timeout`` seconds. Whether that was needed.

        Returns when it is undone, and its name free. Raises NstoolError if its launcher does not undo it.
        """
        self.signal(signal.SIGTERM)
        killed = False
        try:
            self.wait(timeout)
        except TimeoutError:
            killed = True
            try:
                self.signal(signal.SIGKILL)
            except SandboxGone:  # just now, by itself
                killed = False
            self.wait()
        end = time.monotonic() + _NOTED
        while os.fstat(self._journal).st_nlink:
            if time.monotonic() > end or not rundir.made_by_the_living(self.name, self._lines()):
                raise NstoolError(f"sandbox {self.name!r} has ended, but nobody undoes it: `nstool cleanup` does")
            time.sleep(_PAUSE)
        return killed

    def close(self) -> None:
        """Let go of it. Idempotent."""
        for name in ("_journal", "_pidfd"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _gone(name: str) -> SandboxGone:
    return SandboxGone(f"sandbox {name!r} has ended")
