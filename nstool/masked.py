"""Programs that we run for a step, and the signals that a terminal sends to our whole process group."""

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
