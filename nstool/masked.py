"""Who takes no signals: programs that we run for a step, threads beside the one that has an answer to them."""

from __future__ import annotations

import _signal

from nstool.closing import Closing

_ENDING = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


class Masked(Closing):
    """Until it is closed, signals by which somebody wants an end wait, for this thread and for programs it starts.

    Else one to the group ends the program, not us: the step fails for a reason that is none, or is not undone.
    sigprocmask(2), fork(2): a child has the mask.
    """

    def __init__(self) -> None:
        self._before: set[int] | None = set(_signal.pthread_sigmask(_signal.SIG_BLOCK, _ENDING))

    def close(self) -> None:
        """Take them; also what has come meanwhile. Idempotent."""
        before, self._before = self._before, None
        if before is not None:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def block() -> None:
    """Let signals wait, for this thread and for what it starts: a process that ends leaves none that would take them.

    Python runs handlers in its main thread, but the kernel gives a signal to any thread that does not block it; at the
    end of the interpreter no handler is there any more, and such a signal would kill it. signal(7).
    """
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
