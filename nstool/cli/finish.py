"""``python -m nstool.cli.finish NAME STATUS``: undo a sandbox that has ended, for its supervisor."""

from __future__ import annotations

import sys

from nstool.cli.main import CANNOT, report
from nstool.errors import NstoolError
from nstool.sandbox import journal


def main(name: str, status: str) -> int:
    """Undo the sandbox; the exit status of its command, or 125 when something could not be undone."""
    try:
        journal.undo(name)
    except (NstoolError, OSError) as error:
        report(error)
        return CANNOT
    return int(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
