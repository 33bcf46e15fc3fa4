"""Forward signals to what runs in the foreground."""

from __future__ import annotations

import _signal

from nstool.errors import SandboxGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Target(Protocol):
        def signal(self, number: int) -> None: ...


# Not those that cannot be caught, those that speak of this process itself (a fault, a child's end),
# those of job control, which stop and continue the launcher, SIGPIPE, which Python ignores, SIGWINCH,
# which belongs to the terminal, and the two that the C library's threads use.
FORWARDED = frozenset(range(1, 65)) - {
    _signal.SIGKILL,
    _signal.SIGSTOP,
    _signal.SIGCHLD,
    _signal.SIGSEGV,
    _signal.SIGBUS,
    _signal.SIGILL,
    _signal.SIGFPE,
    _signal.SIGTRAP,
    _signal.SIGSYS,
    _signal.SIGPIPE,
    _signal.SIGTSTP,
    _signal.SIGTTIN,
    _signal.SIGTTOU,
    _signal.SIGCONT,
    _signal.SIGWINCH,
    32,
    33,
}


# Those by which somebody wants an end.
_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


class Interrupted(BaseException):
    """A signal wants an end of what we prepare. number: of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Forward:
    """Signal handlers that pass each signal on; what comes before there is somebody is kept.

    ignored: those that were ignored when we were started (by nohup), and stay so. asked: one that wants an end has
    gone to the target. interruptible: a context manager
    for what may take long before there is somebody: a signal that wants an end raises Interrupted in it, once.
    """

    def __init__(self) -> None:
        self.target: Target | None = None
        self.pending: list[int] = []
        self.asked = False
        self.interruptible = _Interruptible(self)
        self.ignored = frozenset(n for n in FORWARDED if _signal.getsignal(n) == _signal.SIG_IGN)

    def __enter__(self) -> Forward:
        for number in FORWARDED - self.ignored:
            _signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number in FORWARDED - self.ignored:
            _signal.signal(number, _signal.SIG_DFL)

    def _handle(self, number: int, _: object) -> None:
        if self.target is None:
            self.pending.append(number)
            self.interruptible.check()
            return
        self.asked |= number in _ENDING
        try:
            self.target.signal(number)
        except SandboxGone:  # it has just ended: its status says so
            return

    def to(self, target: Target) -> None:
        """From now on signals go there, those that came before first."""
        self.target = target
        for number in self.pending:
            self._handle(number, None)


class _Interruptible:
    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._entered = False

    def __enter__(self) -> None:
        self._entered = True
        self.check()

    def __exit__(self, *_: object) -> None:
        self._entered = False

    def check(self) -> None:
        number = next((n for n in self._forward.pending if n in _ENDING), 0)
        if self._entered and number:
            self._entered = False  # what is undone now is not interrupted by another
            raise Interrupted(number)
