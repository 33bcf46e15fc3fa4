"""``python -m nstool.cli.finish NAME FD STATUS``: undo a sandbox that has ended, for its supervisor.

Signals that would end it are blocked by csrc/supervise.c.
"""

from __future__ import annotations

import os
import sys

from nstool.cli.main import CANNOT, report
from nstool.errors import NstoolError
from nstool.sandbox import journal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Step


def main(name: str, fd: str, status: str) -> int:
    """Undo the sandbox; the exit status of its command, or 125 when something could not be undone.

    fd: a file with the undo steps as the journal has them, or -1: then they are those in the journal.
    """
    try:
        journal.undo(name, _steps(name, int(fd)))
    except (NstoolError, OSError) as error:
        report(error)
        return CANNOT
    return int(status)


def _steps(name: str, fd: int) -> tuple[Step, ...] | None:
    if fd < 0:
        return None
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb") as file:
        return journal.undo_steps(name, file)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
