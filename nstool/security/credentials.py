"""The ids of a process. credentials(7)."""

from __future__ import annotations

from nstool.frozen import Frozen


class Ids(Frozen):
    """Four user or group ids of a process, as the reader's user namespace sees them. credentials(7)."""

    real: int
    effective: int
    saved: int
    filesystem: int
