"""``nstool pid``: the numbers of a task in nested pid namespaces, and their translation."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.inspect.nsfile import Namespace
    from nstool.inspect.pids import Numbers, Translation

EPILOG = """\b
Examples:
  nstool pid 4711                  which numbers has process (or thread) 4711 here and further in
  nstool pid 1 --ns web            which process of mine is process 1 of the sandbox web
  nstool pid 4711 --to web         which number has my process 4711 in there
  nstool pid 4711 --to kept/pid    the same of a namespace that `nstool pin --types pid 815 kept` has kept
  nstool pid 7 --ns 4711 --to 815  a number from one container in the terms of another
"""

NOT_THERE = 1


@click.command("pid", epilog=EPILOG)
@click.argument("number", metavar="N")
@click.option(
    "--ns", "source", default="", metavar="TARGET", help="N is a number of this pid namespace; default: yours."
)
@click.option("--to", "target", default="", metavar="TARGET", help="Say the number in this pid namespace only.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(number: str, source: str, target: str, as_json: bool) -> int:
    """Show the numbers of process or thread N in its pid namespace and in each one above, as far up as yours.

    A process has one number a pid namespace: in its own and in those above it, none in others. TARGET names a
    pid namespace: by a pid of one of its processes, by a sandbox's name, or by a namespace file. N may be a
    sandbox's name too: its command.

    With --to, the exit status is 1 if the process has no number there; the reason is printed.
    """
    from nstool.inspect import nsfile
    from nstool.inspect.proc import check_numbers

    check_numbers()
    with _namespace(source, "--ns") as from_, _namespace(target, "--to") as to:
        tid = _number(number, source)
        if target:
            return _translate(tid, from_, to, as_json)
        with nsfile.own("pid") as own:
            here = _here(tid, from_, own)
        return _show(here, as_json)


def _namespace(target: str, place: str) -> Namespace:
    from nstool.inspect import nsfile

    return nsfile.named(target, "pid", place) if target else nsfile.own("pid")


def _number(number: str, source: str) -> int:
    from nstool.errors import SpecError
    from nstool.inspect.proc import process

    if number.isascii() and number.isdecimal():
        value = int(number.lstrip("0")[:20] or "0")
        if 0 < value < 1 << 22:  # PID_MAX_LIMIT, linux/threads.h
            return value
        raise SpecError(f"{number} is no number of a process: those are 1 to {(1 << 22) - 1}", "N")
    if source:
        raise SpecError(f"{number!r} is no number; with --ns, N is a number of that pid namespace", "N")
    return process(number)


def _here(number: int, source: Namespace, own: Namespace) -> int:
    """Return the number in the reader's namespace."""
    from nstool.inspect.pids import translate

    return number if source.inode == own.inode else translate(number, source, own).tid


def _translate(number: int, source: Namespace, target: Namespace, as_json: bool) -> int:
    from nstool.cli import answer
    from nstool.inspect.pids import translate
    from nstool.plan.describe import printable

    found = translate(number, source, target)
    if as_json:
        answer.show(found.asdict())
    else:
        click.echo(printable(_sentence(found)))
    return 0 if found.tid else NOT_THERE


def _sentence(found: Translation) -> str:
    what = f"{found.number} in pid:[{found.source}] ({found.comm})"
    if not found.tid:
        return f"{what} is not visible in pid:[{found.target}]: {found.reason}"
    thread = "" if found.tid == found.pid else f", a thread of process {found.pid} there"
    return f"{what} is {found.tid} in pid:[{found.target}]{thread}"


def _show(tid: int, as_json: bool) -> int:
    from nstool.cli import answer
    from nstool.inspect.pids import numbers

    found = numbers(tid)
    if as_json:
        answer.show(found.asdict())
    else:
        _print(found)
    return 0


def _print(found: Numbers) -> None:
    from nstool.cli.console import Table, cell, for_lines, heading

    console = for_lines()
    console.print(heading(found.pid, found.tid, found.comm))
    table = Table("", "pid namespace", "pid", "tid", "pgid", "sid", "its init", fixed=range(4))
    last = len(found.levels) - 1
    for level in found.levels:
        where = ("yours, " if level.depth == 0 else "") + ("its own" if level.depth == last else "")
        namespace = "unknown" if level.namespace is None else f"pid:[{level.namespace}]"
        init = "" if level.init is None else f"{level.init} here" if level.depth else "1"
        leaders = (str(number or "none here") for number in (level.pgid, level.sid))
        row = (where.rstrip(", ") or f"level {level.depth}", namespace, str(level.pid), str(level.tid), *leaders, init)
        table.add_row(*map(cell, row))
    console.print(table)
    for what, why in found.unread.items():
        console.print(cell(f"note: {what} unknown: {why}"))
