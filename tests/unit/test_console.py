"""Tables: nothing is shortened, whatever the width; what has no room goes below its row or is said to be left out."""

from __future__ import annotations

import io

import pytest

from nstool.cli import ls
from nstool.cli.console import Console, Table, cell
from nstool.errors import plural

PATH = "/sys/fs/cgroup/memory/a-cgroup-with-a-long-name/below"
HEADS = ("id", "path", "options", "state", "what it is")
ROWS = (("1", PATH, "rw,relatime", "shared", "words that go on for longer than any terminal is wide, " * 3), ("2", "/"))


def printed(table: Table, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue().splitlines()


def table(**how: object) -> Table:
    made = Table(*HEADS, **how)  # type: ignore[arg-type]
    for row in ROWS:
        made.add_row(*map(cell, row))
    return made


@pytest.mark.parametrize("width", range(24, 240, 9))
def test_nothing_is_shortened_and_no_line_ends_in_blanks(width: int) -> None:
    """Of each cell every character is there, at any width, in lines that fit."""
    lines = printed(table(fixed=(0, 1), below=(4,)), width)
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    text = "".join(lines)
    for word in ("rw,relatime", "shared", PATH, "terminal"):
        assert all(text.count(letter) >= word.count(letter) for letter in word)
    assert "…" not in text


def test_a_wide_terminal_gets_a_line_a_row() -> None:
    lines = printed(table(), 400)
    assert len(lines) == 3
    assert lines[2] == " 2   /"


def test_what_has_no_room_goes_below_its_row() -> None:
    lines = printed(table(fixed=(0, 1), below=(4,)), 80)
    at = next(number for number, line in enumerate(lines) if PATH in line)
    assert lines[at + 1].startswith("        words that go on")
    assert lines[1].split() == ["what", "it", "is"]


def test_columns_left_out_are_named() -> None:
    lines = printed(table(fixed=(0, 1), spare=(2, 3, 4)), 64)
    assert lines[0].split() == ["id", "path"]
    assert lines[-1] == " not shown for want of room: options, state, what it is"


def test_what_rows_have_alike_below_them_is_said_once() -> None:
    made = Table("", "what it means", below=(1,), once=True)
    for name in ("one", "two"):
        made.add_row(name, "the same of both, in more words than go beside them on a line")
    lines = printed(made, 40)
    assert [line.strip() for line in lines[2:5]] == ["one", "two", "the same of both, in more words"]


def test_lines_of_a_cell_stay_lines() -> None:
    made = Table("a", "b")
    made.add_row("1\n2", "x")
    made.add_line("across")
    assert printed(made, 80) == [" a  b", " 1  x", " 2", " across"]


@pytest.mark.parametrize(
    ("number", "what", "words"),
    [(1, "process", "1 process"), (2, "process", "2 processes"), (0, "id", "0 ids"), (3, "directory", "3 directories")],
)
def test_one_of_a_thing_is_not_told_as_several(number: int, what: str, words: str) -> None:
    assert plural(number, what) == words


def test_a_narrow_list_of_namespaces_cuts_the_command_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree, numbers and paths stay whole; of the words the last gives way first."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    names = ["namespace", "pid", "user", "paths", "command"]
    row = ["│  │  └─ user:[4026532180]", "4711", "somebody-else", "/run/netns/blue", "a command that is long"]
    words = [number for number, name in enumerate(names) if name in ls.FIELDS and ls.FIELDS[name].kind is str]
    _, line = ls._aligned([names, row], [False, True, False, False, False], words).splitlines()
    assert line.split("  ")[-1] == "a comma…"
    assert "user:[4026532180]" in line
    assert "/run/netns/blue" in line
    assert "somebod…" in line
