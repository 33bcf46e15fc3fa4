"""``nstool diff``: in what two processes differ, or a process from a spec."""

from __future__ import annotations

import os

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.inspect.diff import Difference, Row

EPILOG = """\b
Examples:
  nstool diff 4711 815         in what two processes differ, and what that means
  nstool diff web $$           the command of the sandbox web beside your shell
  nstool diff web web.toml     what the sandbox has beside what its spec asks for
  nstool diff 1 815 --all      what they have alike, too
"""

DIFFERENT = 1
_MOST = 8  # things that are listed of which the same is said
_TITLES = {
    "process": "the process",
    "net": "network",
    "namespaces": "namespaces",
    "ids": "ids, as you see them",
    "capabilities": "capabilities",
    "confinement": "confinement",
    "mounts": "mounts",
    "cgroups": "cgroups and the limits that hold",
    "devices": "device files",
    "limits": "resource limits",
    "settings": "names, clocks and settings of the kernel",
}


@click.command("diff", epilog=EPILOG)
@click.argument("first", metavar="TARGET")
@click.argument("second", metavar="TARGET|SPEC")
@click.option("--all", "all_", is_flag=True, help="Show what is alike too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, always with all.")
def command(first: str, second: str, all_: bool, as_json: bool) -> int:
    """Say in what two processes differ, and what each difference means for what they can reach.

    TARGET is a pid or a sandbox's name. Compared are namespaces, ids, capabilities, what confines them, mounts with
    their propagation, cgroups and the limits that hold, device files, resource limits, and settings of the kernel.
    SPEC is a file (.toml or .json): then TARGET is compared with what the spec asks for.

    The exit status is 0 if they are alike, 1 if they differ. What the kernel tells nobody, as the securebits of
    another process, is listed as not known and counts as neither.
    """
    from nstool.cli import answer

    found = _of_spec(first, second) if _is_spec(second) else _of_processes(first, second)
    if as_json:
        from nstool.inspect.diff import counted

        answer.show({**found.asdict(), "alike": found.alike, "counts": counted(found.rows)})
    else:
        _print(found, all_=all_)
    return 0 if found.alike else DIFFERENT


def _is_spec(word: str) -> bool:
    if word.endswith((".toml", ".json")) or "/" in word:
        return True
    from nstool.sandbox import rundir

    is_target = word.isdecimal() or word in rundir.names()
    return not is_target and os.path.isfile(word)


def _of_processes(first: str, second: str) -> Difference:
    from nstool.inspect.diff import difference
    from nstool.inspect.proc import process

    return difference(process(first), process(second))


def _of_spec(target: str, path: str) -> Difference:
    from nstool.inspect.against import against
    from nstool.inspect.proc import process
    from nstool.spec.load import load

    return against(process(target), load(path), path)


def _print(found: Difference, *, all_: bool) -> None:
    from nstool.cli.console import Table, cell, for_lines
    from nstool.inspect.diff import ALIKE, DIFFERENT, UNKNOWN, counted

    console = for_lines()
    shown = [row for row in found.rows if row.state == DIFFERENT or (all_ and row.state == ALIKE)]
    table = Table("", found.first, found.second, "what it means", below=(3,), once=True)
    area = ""
    for same in _alike(_by_path(shown)):
        if same[0].area != area:
            area = same[0].area
            table.add_line(cell(_TITLES.get(area, area), "bold"))
        listed = same if all_ else same[:_MOST]
        for row in listed:
            style = "" if row.state == ALIKE else "green"
            sides = (_side(row, text, len(same) > 1) for text in (row.first, row.second))
            meaning = _meaning(row) if row.state == DIFFERENT else "alike"
            table.add_row(cell(f"  {row.what}"), *(cell(text, style) for text in sides), cell(meaning))
        if len(same) > len(listed):
            table.add_line(cell(f"  and {len(same) - len(listed)} more of which the same is said; --all lists them"))
    if table.row_count:
        console.print(table)
    for what, why in _unknown(found.rows):
        console.print(cell(f"not known: {what}: {why}"))
    numbers = counted(found.rows)
    count = numbers[DIFFERENT]
    differ = f"{count} difference{'s' if count > 1 else ''}"
    verdict = "alike, as far as can be told" if found.alike else differ
    console.print(cell(f"{verdict}; {numbers[ALIKE]} things alike, {numbers[UNKNOWN]} not known"))


def _unknown(rows: tuple[Row, ...]) -> list[tuple[str, str]]:
    from nstool.inspect.diff import UNKNOWN

    found: dict[str, list[str]] = {}
    for row in rows:
        if row.state == UNKNOWN:
            found.setdefault(row.meaning, []).append(row.what)
    return [(", ".join(what), why) for why, what in found.items()]


def _by_path(rows: list[Row]) -> list[Row]:
    """Return the rows; of the options of a mount that the same side has alone one is made: "ro nosuid nodev"."""
    found: dict[object, Row] = {}
    for row in rows:
        alone = row.area == "mounts" and not (row.first and row.second) and " " not in row.first + row.second
        key = (row.what, bool(row.first), row.state) if alone else len(found)
        before = found.get(key)
        if before is not None:
            first, second = (f"{a} {b}".strip() for a, b in ((before.first, row.first), (before.second, row.second)))
            row = row.replace(first=first, second=second, meaning=f"{before.meaning}; {row.meaning}")
        found[key] = row
    return list(found.values())


def _meaning(row: Row) -> str:
    """Return what a row means; whose a capability is, its columns say."""
    name, _, rest = row.meaning.partition(" ")
    return rest if row.area == "capabilities" and "yes" in (row.first, row.second) and name.isdecimal() else row.meaning


def _alike(rows: list[Row]) -> list[list[Row]]:
    """Return the rows in groups of which the same is said."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        # Who has what the other lacks is a part of what is said.
        lacking = ("first" if row.first else "", "second" if row.second else "")
        key = (row.area, row.state, row.meaning, *lacking, "" if row.meaning else row.what)
        found.setdefault(key, []).append(row)
    return list(found.values())


def _side(row: Row, text: str, among_several: bool) -> str:
    """Return a side of a row; "no" or "-" for what it has not."""
    if not text:
        return "no" if "yes" in (row.first, row.second) else "-"
    # What is mounted there has its options in brackets; among others that only one side has its type is enough.
    alone = among_several and row.area == "mounts" and not (row.first and row.second) and "(" in text
    return text.split(" ")[0] if alone else text
