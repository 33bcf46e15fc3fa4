"""The end of a sandbox that another process looks after: wait for it, or bring it about."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

from nstool.closing import Closing
from nstool.errors import NstoolError, SandboxGone
from nstool.sandbox import rundir

_NOTED = 10.0  # seconds, in which who looks after it writes how it ended, and undoes it
_PAUSE = 0.01
_GRACE = 1.0  # seconds that init has for its own end, once its command was killed


class Other(Closing):
    """A running sandbox of another process, by its name. A context manager; leaving it lets go, and ends nothing.

    Raises SandboxGone if there is none of this name, NotSupported if it was made in another pid namespace.
    """

    def __init__(self, name: str) -> None:
        record = rundir.find_running(name)
        self.name = name
        self._record = record
        self._init = record.init_pid if record.spec.get("init", True) else 0
        try:
            self._journal = os.open(f"{record.path}/journal", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise _gone(name) from None
        try:
            self._pidfd = os.pidfd_open(record.init_pid)
        except ProcessLookupError:
            os.close(self._journal)
            raise _gone(name) from None
        started = rundir.starttime(record.init_pid)
        if started > 0 and record.init_start not in (started, -1):  # the pid is another process's by now
            self.close()
            raise _gone(name)

    def signal(self, number: int) -> None:
        """Send a signal to the command. Raises SandboxGone, SpecError for a template of a service."""
        rundir.check_sandbox(self._record)
        try:
            if self._init and number in (signal.SIGKILL, signal.SIGSTOP):
                self._signal_past_init(number)
            else:
                signal.pidfd_send_signal(self._pidfd, number)  # init forwards it
        except (ProcessLookupError, SandboxGone):
            raise _gone(self.name) from None

    def _signal_past_init(self, number: int) -> None:
        # Nothing catches these two, so that init would take them for itself.
        from nstool.sandbox.launch import payload_pid

        pid = payload_pid(self._init)
        pidfd = os.pidfd_open(pid)
        try:
            # Both pids may have become others' before the pidfd was there.
            signal.pidfd_send_signal(self._pidfd, 0)
            if payload_pid(self._init) != pid:
                raise ProcessLookupError
            signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def kill(self) -> None:
        """Kill its init, with which a pid namespace of its own ends. Raises SandboxGone."""
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
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

        SIGKILL is for the command first, with which init ends all of it, and for init if that does not.

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
            self._await_init()
        end = time.monotonic() + _NOTED
        while os.fstat(self._journal).st_nlink:
            if time.monotonic() > end or not rundir.made_by_the_living(self.name, self._lines()):
                raise NstoolError(f"sandbox {self.name!r} has ended, but nobody undoes it: `nstool cleanup` does")
            time.sleep(_PAUSE)
        return killed

    def _await_init(self) -> None:
        """Wait until init has ended after its command, and end it if that takes too long."""
        try:
            self.wait(_GRACE)
        except TimeoutError:
            with suppress(SandboxGone):
                self.kill()
            self.wait()

    def close(self) -> None:
        """Let go of it. Idempotent."""
        for name in ("_journal", "_pidfd"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)


def _gone(name: str) -> SandboxGone:
    return SandboxGone(f"sandbox {name!r} has ended")
