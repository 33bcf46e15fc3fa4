"""What of a service its sandboxes do not show: addresses, the handler's file, words of the command. Nobody listens."""

from __future__ import annotations

from errno import EADDRINUSE

from nstool.errors import KernelError, NotSupported
from nstool.plan import preflight
from nstool.plan.preflight import Problem
from nstool.sandbox import rundir
from nstool.service import generation, listen
from nstool.service.blueprint import Blueprint
from nstool.spec.varied import misspelt, variant_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def problems(blueprint: Blueprint) -> Iterator[Problem]:
    """Yield what serve would meet before, or beside, the first sandbox."""
    yield from _name(blueprint)
    yield from _addresses(blueprint)
    yield from _files(blueprint)
    yield from _handler(blueprint)
    yield from _placeholders(blueprint)


def _name(blueprint: Blueprint) -> Iterator[Problem]:
    """A service of this name may run: it is checked for its next generation."""
    one = rundir.read(blueprint.name)
    if one is not None and one.alive and one.state != "serving":
        remedy = f"choose another, --name NAME, or end that: nstool stop {one.name}"
        yield Problem(blueprint.named, f"{one.name!r} is the name of a running sandbox", remedy)


def _files(blueprint: Blueprint) -> Iterator[Problem]:
    try:
        generation.check_files(blueprint)
    except NotSupported as error:
        yield preflight.problem(error)


def _addresses(blueprint: Blueprint) -> Iterator[Problem]:
    for word, place, why, handed in listen.asked(blueprint):
        try:
            listen.attempt(word, place, why, handed=handed)
        except KernelError as error:
            if error.errno != EADDRINUSE or not listen.is_of(blueprint.name, word):
                yield preflight.refusal(error).replace(what=place)


def _handler(blueprint: Blueprint) -> Iterator[Problem]:
    file = blueprint.service.handler
    if not file:
        return
    with open(file, "rb") as source:
        text = source.read()
    try:
        compile(text, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        at = f"{file}:{error.lineno}" if error.lineno else file
        yield Problem(
            blueprint.written(("service", "handler")), f"{at}: {error.msg}", "correct it: Python cannot read it"
        )
    except ValueError as error:  # a NUL byte
        yield Problem(blueprint.written(("service", "handler")), f"{file}: {error}", "write it as text")


def _placeholders(blueprint: Blueprint) -> Iterator[Problem]:
    service = blueprint.service
    for number, (spec, _) in enumerate(blueprint.variants if service.shape == "port" else ()):
        place = variant_place(service, number, blueprint.written)
        for path, word, known in misspelt(spec):
            yield Problem(
                place(path),
                f"{{{word}}} stands for nothing, and the command gets it as it is",
                f"write {{{known}}}; {{port}} and {{address}} stand for where it is to listen",
            )
