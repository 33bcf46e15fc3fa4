"""What of this process a command would inherit, and is to have only if its spec says so: to come before others."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NONE = (0, 0)
_USUAL = (os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_IDLE)


def give_up(rlimits: Mapping[str, tuple[int, int]]) -> None:
    """Give up real time where ``rtprio`` is 0, and a negative nice value where ``nice`` is. sched(7), nice(2).

    rlimits: of the spec; as these limits, with which nobody inside gets more, they are 0 by default.
    """
    policy = os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK
    if policy not in _USUAL and rlimits.get("rtprio") == _NONE:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if os.getpriority(os.PRIO_PROCESS, 0) < 0 and rlimits.get("nice") == _NONE:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
