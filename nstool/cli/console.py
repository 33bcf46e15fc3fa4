"""The console that tables are printed on, and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click
import rich.console
from rich.text import Text

from nstool.plan.describe import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import ConsoleOptions, RenderResult

_LEAST = 16  # columns of a terminal to which a cell of words is folded before others are left out
_NARROWEST = 6  # to which any is, where there is no room at all
_BESIDE = 40  # to which what may go below its row is folded before it does
_INDENT = 8  # of what is put below a row


MANY = 300  # rows from which on a table is plain lines: rich measures and wraps each cell several times
WIDEST = 60  # to which a column of such lines is filled up


class Console(rich.console.Console):
    """A console whose reader may go away as that of any other output: rich's own ends the process with status 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


class Table:
    """A table that shortens nothing: what has no room is folded, or put below its row, or its column is left out.

    heads: a title a column; without any, the first row says how many there are. fixed: columns that say what a row is
    about, by number; they are folded last. below: those whose text goes below the row, across all of the width;
    with once, what rows that follow each other have alike there is said after the last of them alone. spare: those that
    are left out then, the last first; that is said.
    """

    def __init__(
        self,
        *heads: str | Text,
        fixed: Iterable[int] = (0,),
        below: Iterable[int] = (),
        spare: Iterable[int] = (),
        once: bool = False,
    ) -> None:
        self._heads = [cell(head) if isinstance(head, str) else head for head in heads]
        self._fixed = frozenset(fixed)
        self._below = tuple(below)
        self._spare = sorted(spare)
        self._once = once
        self._rows: list[Sequence[Text] | Text] = []

    @property
    def row_count(self) -> int:
        """How many rows it has."""
        return len(self._rows)

    def add_row(self, *row: str | Text) -> None:
        """Add a row; a text has its lines. What is missing at the end is empty."""
        self._rows.append([cells(one) if isinstance(one, str) else one for one in row])

    def add_line(self, text: str | Text) -> None:
        """Add a line that goes across all columns."""
        self._rows.append(cells(text) if isinstance(text, str) else text)

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        """Yield its lines. rich calls this."""
        count = len(self._heads) or max((len(row) for row in self._rows if not isinstance(row, Text)), default=0)
        rows = [row if isinstance(row, Text) else _filled(row, count) for row in self._rows]
        if any(head.plain for head in self._heads):
            rows.insert(0, _filled([Text.assemble(head, style="bold") for head in self._heads], count))
        natural = [0] * count
        for row in rows:
            if not isinstance(row, Text):
                natural = [max(width, _width(text)) for width, text in zip(natural, row)]
        room = options.max_width
        shown, widths = _layout(natural, room, self._fixed, self._below, self._spare)
        told = [row for row in rows[1:] if not isinstance(row, Text)]
        below = [n for n in self._below if n not in shown and any(row[n].plain for row in told)]
        for number, row in enumerate(rows):
            if isinstance(row, Text):
                yield from _across(row, room, console)
                continue
            yield from _lines([row[n] for n in shown], widths, console)
            after = rows[number + 1] if number + 1 < len(rows) else Text()
            if not self._once or isinstance(after, Text) or any(row[n].plain != after[n].plain for n in below):
                told_below = [row[n] for n in below if row[n].plain]
                together = Text("  ").join(told_below)
                for text in (together,) if together.cell_len <= room - _INDENT else told_below:
                    yield from _across(text, room, console, _INDENT)
        left_out = [self._heads[n].plain for n in self._spare if n not in shown]
        if left_out and self._rows:
            yield from _across(Text(f"not shown for want of room: {', '.join(left_out)}", style="dim"), room, console)


def _filled(row: Sequence[Text], columns: int) -> list[Text]:
    return [*row, *(Text() for _ in range(columns - len(row)))]


def _width(text: Text) -> int:
    plain = text.plain
    return len(plain) if plain.isascii() and "\n" not in plain else max(line.cell_len for line in text.split("\n"))


def _layout(
    natural: Sequence[int], room: int, fixed: frozenset[int], below: Sequence[int], spare: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return which columns are shown, and their widths."""
    shown = list(range(len(natural)))
    least = [width if n in fixed else min(width, _LEAST) for n, width in enumerate(natural)]
    beside = [min(width, _BESIDE) if n in below else width for n, width in enumerate(natural)]

    def excess(widths: Iterable[int]) -> int:
        return sum(width + 2 for width in widths) - 1 - room

    if excess(beside) > 0:
        shown = [n for n in shown if n not in below]
    else:
        least = [beside[n] if n in below else width for n, width in enumerate(least)]
    for n in reversed(spare):
        if excess(least[n] for n in shown) > 0:
            shown.remove(n)
    widths = {n: min(natural[n], room) for n in shown}
    for floor in (least, [_NARROWEST] * len(natural)):
        while (over := excess(widths.values())) > 0:
            wide = [n for n in shown if widths[n] > floor[n]]
            if not wide:
                break
            widest = max(wide, key=widths.__getitem__)
            second = max((widths[n] for n in wide if n != widest), default=0)
            widths[widest] = max(floor[widest], widths[widest] - over, min(second, widths[widest] - 1))
    return shown, list(widths.values())


def _lines(row: Sequence[Text], widths: Sequence[int], console: rich.console.Console) -> Iterable[Text]:
    parts = [
        text.split("\n", allow_blank=True) if _width(text) <= width else text.wrap(console, width, overflow="fold")
        for text, width in zip(row, widths)
    ]
    for number in range(max((len(part) for part in parts), default=0)):
        line, at = Text(no_wrap=True, overflow="ignore"), 0
        for part, width in zip(parts, widths):
            if number < len(part) and part[number].plain:
                line.append(" " * (at + 1 - line.cell_len)).append_text(part[number])
            at += width + 2
        line.rstrip()
        yield line


def _across(text: Text, room: int, console: rich.console.Console, indent: int = 1) -> Iterable[Text]:
    own = len(text.plain) - len(text.plain.lstrip())
    for line in text[own:].wrap(console, max(room - indent - own, _NARROWEST), overflow="fold") if text.plain else ():
        line.rstrip()
        yield Text.assemble(" " * (indent + own), line, no_wrap=True, overflow="ignore")


def cell(text: str, style: str = "") -> Text:
    """Return what may come from inside as it stands: rich takes no markup from it, the terminal no escape sequence."""
    return Text(printable(text), style=style)


def cells(text: str, style: str = "") -> Text:
    """As ``cell``, of several lines."""
    return Text("\n").join(cell(line, style) for line in text.split("\n"))


def for_lines() -> Console:
    """Return a console for tables: where it is no terminal that they go to, a row is a line, however long."""
    console = Console()
    return console if console.is_terminal else Console(width=1 << 24)


def heading(pid: int, tid: int, name: str) -> Text:
    """Return the title of what is told about a process or one of its threads."""
    from nstool.inspect.proc import title

    return cell(f"{title(pid, tid)} ({name})", "bold")


def printed_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    heading: bool = True,
    fixed: Iterable[int] = (0,),
    below: Iterable[int] = (),
    spare: Iterable[int] = (),
) -> None:
    """Print a table of texts as they stand, each row on a line if there is room.

    One of many rows has no colours, and its columns are in line as far as their texts are not too long.
    """
    rows = list(rows)
    if len(rows) > MANY:
        click.echo("\n".join(_plain_lines([columns, *rows] if heading else rows)))
        return
    table = Table(*(columns if heading else ()), fixed=fixed, below=below, spare=spare)
    for row in rows:
        table.add_row(*map(cell, row))
    for_lines().print(table)


def _plain_lines(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    texts = [[printable(text) for text in row] for row in rows]
    widths = [min(max(map(len, column)), WIDEST) for column in zip(*texts)]
    for row in texts:
        yield (" " + "  ".join(text.ljust(width) for text, width in zip(row, widths))).rstrip()
