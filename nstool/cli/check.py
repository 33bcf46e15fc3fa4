"""``nstool check``: what of a spec this host cannot do; alone, what this host can do at all."""

from __future__ import annotations

import sys

import click

from nstool.cli.main import CANNOT
from nstool.errors import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.preflight import Problem
    from nstool.sandbox.features import Feature
    from nstool.spec.check import Place

OTHERS = {"--json": False}
_KEYS = {"execve": "command", "chdir": "cwd"}  # of steps that are made for one key
STYLES = {"yes": "green", "limited": "yellow", "unknown": "yellow", "no": "red"}


@click.command("check", context_settings={"ignore_unknown_options": True})
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] [SPEC] [-- CMD ARGS]")
def command(words: tuple[str, ...], as_json: bool) -> int:
    """Say what of a spec this host cannot do, each with its cause and remedy; without one, list what it can.

    Takes what `nstool run` takes, or the spec of a service, with the --name and --listen of `nstool serve`. Nothing is
    done that stays: facts are read, and the steps are tried in a child that ends before the command. The addresses of a
    service are bound for a moment, and nobody listens; of a handler the file is compiled, and not run. A note tells of
    a writable mount or root that the command cannot write, and of rights of Landlock that this kernel cannot refuse.
    Exit status: 0 all can be done, 125 something cannot, 2 bad spec.
    """
    from nstool.sandbox import features
    from nstool.spec import load

    # Click takes "--" away, which options.parse needs.
    argv = sys.argv[2:]
    asked = [word for word in argv if word != "--json"]
    service = _service(asked)
    if service and load.is_service(service[0]):
        from nstool.service import prepare

        return _show_problems(*prepare.problems(*service), as_json)
    if asked:
        from nstool.cli import options
        from nstool.spec.places import Located, written

        spec, _, place = options.parse(argv, OTHERS)
        with Located(place):
            found = features.problems(spec)
            notes = () if found else features.notes(spec)
        located = (p.replace(what=_what(p, place)) for p in found)
        return _show_problems(tuple(located), [written(note, place) for note in notes], as_json)
    return _show_features(features.features(), as_json)


def _what(problem: Problem, place: Place) -> str:
    """Return what a problem is of, with where that is written; what a step meets begins with words, not with a key."""
    from nstool.spec.places import written

    if not problem.call:
        return written(problem.what, place)
    key = _KEYS.get(problem.call.partition("(")[0])
    return place((key,)) if key else problem.what


def _service(words: list[str]) -> tuple[str, str | None, tuple[str, ...]] | None:
    """Return file, name and listeners if the words are such as nstool serve takes."""
    files: list[str] = []
    found: dict[str, list[str]] = {"--name": [], "--listen": []}
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in found:
            found[option].append(value if equals else next(rest, ""))
        elif word.startswith("-") and word != "-":
            return None
        else:
            files.append(word)
    if len(files) != 1:
        return None
    return files[0], found["--name"][-1] if found["--name"] else None, tuple(found["--listen"])


def _show_problems(problems: tuple[Problem, ...], notes: list[str], as_json: bool) -> int:
    if as_json:
        from nstool.cli import answer

        told = {"ok": not problems, "problems": [p.asdict() for p in problems], "notes": notes}
        answer.show(told)
    elif problems:
        click.echo("\n\n".join(map(str, problems)))
    else:
        click.echo("this host can do all of it")
        for note in notes:
            click.echo(f"note: {visible(note)}")
    return CANNOT if problems else 0


def _show_features(features: tuple[Feature, ...], as_json: bool) -> int:
    if as_json:
        from nstool.cli import answer

        answer.show({"features": [feature.asdict() for feature in features]})
        return 0
    from nstool.cli.console import Table, cell, for_lines

    console = for_lines()
    table = Table("feature", "", "found by", "what to do", fixed=(0, 1))
    area = ""
    for feature in features:
        if feature.area != area:
            area = feature.area
            table.add_row(cell(area, "bold"), "", "", "")
        state = cell(feature.state, STYLES[feature.state])
        table.add_row(cell(f"  {feature.name}"), state, cell(feature.found), cell(feature.remedy))
    console.print(table)
    return 0
