"""The console that tables are printed on, and the cells of them."""

from __future__ import annotations

from typing import NoReturn

import rich.console
from rich.text import Text

from nstool.plan.describe import printable


class Console(rich.console.Console):
    """A console whose reader may go away as that of any other output: rich's own ends the process with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def cell(text: str, style: str = "") -> Text:
    """Return what may come from inside as it stands: rich takes no markup from it, the terminal no escape sequence."""
    return Text(printable(text), style=style)


def cells(text: str, style: str = "") -> Text:
    """As ``cell``, of several lines."""
    return Text("\n").join(cell(line, style) for line in text.split("\n"))
