"""Relay between the caller's terminal and the sandbox's own one."""

from __future__ import annotations

import _signal
import fcntl
import os
import select
import termios
import tty
from errno import EAGAIN, EIO, ENOTTY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Relayed(Protocol):
        """What has a terminal to relay: a sandbox, or a command that joined one."""

        terminal: int

        @property
        def pidfd(self) -> int: ...


_CHUNK = 65536


def relay(sandbox: Relayed) -> None:
    """Copy both ways until the command has ended and its output is out.

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
        _copy(sandbox, master, out, wake_read)
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


def _copy(sandbox: Relayed, master: int, out: int, wake: int) -> None:
    poll = select.poll()
    poll.register(master, select.POLLIN)
    poll.register(sandbox.pidfd, select.POLLIN)
    poll.register(wake, select.POLLIN)
    if os.isatty(0) or not os.isatty(out):  # without any terminal the input is read all the same
        poll.register(0, select.POLLIN)
    while True:
        ready = dict(poll.poll())
        if wake in ready:
            os.read(wake, 64)
        if 0 in ready:
            data = os.read(0, _CHUNK)
            if data:
                _write(master, data)
            else:  # the caller's terminal has hung up
                poll.unregister(0)
        if master in ready and not _from_master(master, out):
            return
        if sandbox.pidfd in ready and master not in ready:
            return


def _from_master(master: int, out: int) -> bool:
    try:
        data = os.read(master, _CHUNK)
    except OSError as error:
        if error.errno == EIO:  # the last process has closed the other side, pts(4)
            return False
        raise
    _write(out, data)
    return bool(data)


def _write(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except OSError as error:
            if error.errno != EAGAIN:
                raise
            select.select([], [fd], [])
