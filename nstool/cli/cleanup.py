"""``nstool cleanup``: undo what killed launchers have left."""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.sandbox.rundir import Record

# How what there may be hundreds of begins in the words of the journal, and what it is.
_KINDS = {"remove cgroup ": "cgroups", "released id ": "ranges of ids"}
_FEW = 4  # of one kind are each named


@click.command("cleanup")
@click.option("--long", "long_", is_flag=True, help="Name each thing, also where there are many of one kind.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, always with all.")
def command(long_: bool, as_json: bool) -> int:
    """Undo what sandboxes have left whose launcher was killed; say what was done.

    What goes on without its nstool serve is told, and left: nstool service stop ends it.
    """
    from nstool.sandbox import journal, rundir, strays

    cleaned = journal.cleanup()
    records = rundir.list_sandboxes()
    left = _left(records)
    done = dict.fromkeys(left, ()) | {one.name: one.done for one in cleaned}
    if as_json:
        from nstool.cli import answer

        answer.show(
            {"sandboxes": [{"name": name, "done": what, "left": left.get(name, "")} for name, what in done.items()]}
        )
    else:
        _print(done, left, long_=long_)
    if note := strays.note(records):
        click.echo(note, err=True)
    return 0


def _print(done: dict[str, tuple[str, ...]], left: dict[str, str], *, long_: bool) -> None:
    for name, what in done.items():
        words = [*(what if long_ else _summary(what)), *([left[name]] if name in left else [])]
        click.echo(f"{name}: {'; '.join(words) or 'nothing was left but its name'}")
    if not done:
        click.echo("nothing to clean up")


def _left(records: Iterable[Record]) -> dict[str, str]:
    """Return what killed services have left that goes on: name of the service to a sentence."""
    if not any(one.template and not one.launcher_alive for one in records):
        return {}
    from nstool.service import left

    return {name: left.describe(name, templates) for name, templates in left.left().items()}


def _summary(done: Iterable[str]) -> list[str]:
    """Return what was done, of many things of one kind their number."""
    kinds: dict[str, list[str]] = {}
    for line in done:
        kinds.setdefault(next((start for start in _KINDS if line.startswith(start)), line), []).append(line)
    words = []
    for start, lines in kinds.items():
        many = len(lines) > _FEW and start in _KINDS
        words += [f"{start.split()[0]} {len(lines)} {_KINDS[start]}"] if many else lines
    return words
