"""The console that tables are printed on."""

from __future__ import annotations

from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """A console whose reader may go away as that of any other output: rich's own ends the process with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError
