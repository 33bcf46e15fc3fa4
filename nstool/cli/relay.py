"""Relay between the caller's terminal and the sandbox's own one."""

from __future__ import annotations

import _signal
import fcntl
import os
import select
import stat
import termios
import tty
from errno import EIO, ENOTTY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from nstool.cli.forward import Forward

    class Relayed(Protocol):
        """What has a terminal to relay: a sandbox, or a command that joined one."""

        terminal: int

        @property
        def pidfd(self) -> int: ...


_PORTION = 4096  # PIPE_BUF, pipe(7)
_LATE = 100  # milliseconds, in which what a command has written last is there to be read


def relay(sandbox: Relayed, forward: Forward) -> None:
    """Copy both ways until the command has ended and its output is out, or nobody takes that and an end was asked for.

    The caller's terminal is in raw mode meanwhile, so that ^C and ^Z mean what they mean inside; it
    is put back whatever happens. Its size is passed on, now and when it changes.
    """
    master = sandbox.terminal
    outer = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1)
    out = next((fd for fd in (1, 2, 0) if os.isatty(fd)), 1)
    before = termios.tcgetattr(outer) if outer >= 0 else None
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def resized(_number: int, _frame: object) -> None:
        if outer >= 0:
            _copy_size(outer, master)
        os.write(wake_write, b"w")

    old = _signal.signal(_signal.SIGWINCH, resized)
    try:
        if outer >= 0:
            _copy_size(outer, master)
        if outer >= 0:
            make_raw(outer)
        both = _Relay(sandbox, out, wake_read, forward)
        try:
            both.run()
        finally:
            both.close()
    finally:
        _signal.signal(_signal.SIGWINCH, old)
        if before is not None:
            termios.tcsetattr(outer, termios.TCSADRAIN, before)
        os.close(wake_read)
        os.close(wake_write)


def make_raw(outer: int) -> None:
    """Put the caller's terminal into raw mode: what input and output mean is settled in the sandbox's own.

    A terminal that is not the input is read by others: only its output passes unchanged. termios(3), OPOST.
    """
    try:
        if os.tcgetpgrp(outer) != os.getpgrp():
            return  # in the background it would stop us
    except OSError as error:
        if error.errno != ENOTTY:  # it controls another session, and never stops us
            raise
    if os.isatty(0):
        tty.setraw(outer, termios.TCSANOW)
        return
    mode = termios.tcgetattr(outer)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(outer, termios.TCSANOW, mode)


def _copy_size(source: int, target: int) -> None:
    size = fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8))
    fcntl.ioctl(target, termios.TIOCSWINSZ, size)


def own(fd: int, flags: int) -> int:
    """Return an fd for the same terminal or pipe that does not block: the description of ``fd`` is others' too.

    The fd itself where that cannot be had; then a portion is written when poll(2) says that something is taken.
    """
    if fd < 0 or not (stat.S_ISFIFO(mode := os.fstat(fd).st_mode) or stat.S_ISCHR(mode)):
        return fd
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # it is another user's; or a pipe without a reader, of which writing tells
        return fd


class _Flow:
    """One direction: what was read from source and is not written to target yet. source -1: nothing more comes."""

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.data = b""

    def fill(self) -> bool:
        """Read what is there; False at the end."""
        try:
            self.data = os.read(self.source, _PORTION)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != EIO:  # the last process has closed the other side, pts(4)
                raise
        if not self.data:
            self.source = -1
        return bool(self.data)

    def drain(self) -> None:
        """Write some of it. Raises OSError."""
        try:
            self.data = self.data[os.write(self.target, self.data) :]
        except BlockingIOError:
            return


class _Relay:
    """Both directions. Never blocks in one; who holds the terminal when the command has ended is not waited for."""

    def __init__(self, sandbox: Relayed, out: int, wake: int, forward: Forward) -> None:
        self.sandbox = sandbox
        self.wake = wake
        self.forward = forward
        self.ended = False
        self.streams = 0 if os.isatty(0) or not os.isatty(out) else -1, out  # without any terminal input is read too
        source, output = own(self.streams[0], os.O_RDONLY), own(out, os.O_WRONLY)
        os.set_blocking(sandbox.terminal, False)
        self.inward, self.outward = _Flow(source, sandbox.terminal), _Flow(sandbox.terminal, output)

    def run(self) -> None:
        while self._step():
            continue

    def close(self) -> None:
        for fd, given in zip((self.inward.source, self.outward.target), self.streams):
            if fd not in (given, -1):
                os.close(fd)

    def _step(self) -> bool:
        inward, outward, master = self.inward, self.outward, self.sandbox.terminal
        # Nothing is waited for that cannot be used: an end of the other side is told again and again.
        wanted = {self.wake: select.POLLIN}
        if not self.ended:
            wanted[self.sandbox.pidfd] = select.POLLIN
            if not inward.data and inward.source >= 0:
                wanted[inward.source] = select.POLLIN
        if events := (0 if outward.data else select.POLLIN) | (select.POLLOUT if inward.data else 0):
            wanted[master] = events
        if outward.data:
            wanted[outward.target] = select.POLLOUT
        poll = select.poll()
        for fd, what in wanted.items():
            poll.register(fd, what)
        ready = dict(poll.poll(_LATE if self.ended else None))
        if self.wake in ready:
            os.read(self.wake, 64)
        if inward.source in ready and not inward.fill():
            inward.data = b"\4"  # what the end of input is on a terminal, termios(3) VEOF
        if outward.data and outward.target in ready:
            outward.drain()
        if inward.data and ready.get(master, 0) & ~select.POLLIN:
            try:
                inward.drain()
            except OSError as error:
                if error.errno != EIO:  # nobody has the other side open
                    raise
                inward.source, inward.data = -1, b""
        if not outward.data and ready.get(master, 0) & ~select.POLLOUT and not outward.fill():
            return False
        if self.ended:  # its output is out, or nobody takes it, and who waits for us wants no more
            return bool(ready) or (bool(outward.data) and not self.forward.asked)
        if self.sandbox.pidfd in ready:
            self.ended, inward.data = True, b""
        return True
