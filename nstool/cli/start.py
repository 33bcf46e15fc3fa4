"""Where the command ``nstool`` begins: while modules are imported, SIGINT ends it as it ends any program."""

from __future__ import annotations

import _signal


def main() -> None:
    """Run the command line and exit. Python's KeyboardInterrupt comes with cli/main.py, which has an answer to it."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else it is ignored, and stays so
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from nstool.cli.main import main

    main()
