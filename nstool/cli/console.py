"""The console that tables are printed on, and the cells of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click
import rich.console
from rich.text import Text

from nstool.plan.describe import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


MANY = 300  # rows from which on a table is plain lines: rich measures and wraps each cell several times
WIDEST = 60  # to which a column of such lines is filled up


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


def for_lines() -> Console:
    """Return a console for tables: where it is no terminal that they go to, a row is a line, however long."""
    console = Console()
    return console if console.is_terminal else Console(width=10_000)


def heading(pid: int, tid: int, name: str) -> Text:
    """Return the title of what is told about a process or one of its threads."""
    from nstool.inspect.proc import title

    return cell(f"{title(pid, tid)} ({name})", "bold")


def printed_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, heading: bool = True) -> None:
    """Print a table of texts as they stand, each row on a line.

    One of many rows has no colours, and its columns are in line as far as their texts are not too long.
    """
    rows = list(rows)
    if len(rows) > MANY:
        click.echo("\n".join(_lines([columns, *rows] if heading else rows)))
        return
    from rich.table import Table

    table = Table(*columns, box=None, show_header=heading)
    for row in rows:
        table.add_row(*map(cell, row))
    for_lines().print(table)


def _lines(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    texts = [[printable(text) for text in row] for row in rows]
    widths = [min(max(map(len, column)), WIDEST) for column in zip(*texts)]
    for row in texts:
        yield (" " + "  ".join(text.ljust(width) for text, width in zip(row, widths))).rstrip()
