"""A service made ready from its spec: read, checked, and compared with this host. Nothing is made."""

from __future__ import annotations

from pathlib import Path

from nstool.errors import NotSupported, SpecError
from nstool.plan import preflight
from nstool.plan.preflight import Problem
from nstool.sandbox import features, rundir
from nstool.sandbox.launch import resolve
from nstool.service import handed, interpreter
from nstool.service import preflight as preflight_of_service
from nstool.service.blueprint import Blueprint
from nstool.spec import load
from nstool.spec.check_service import check_name, check_service
from nstool.spec.implied import implied
from nstool.spec.places import Located, written
from nstool.spec.varied import variant_place, variants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Path as KeyPath
    from nstool.spec.check import Place


def prepared(file: str, name: str | None = None, listen: tuple[str, ...] = ()) -> Blueprint:
    """Return what all generations of the service in a file have in common.

    name: of the service; None: of the spec, or its file's. listen: where instead. Raises SpecError, NotSupported.
    """
    loaded, service = load.read_service(file)
    place = loaded.place
    if listen:
        service = service.replace(listen=listen)
        place = _or_option(place)
        check_service(service, lambda path: place(("service", *path)))
    spec = implied(loaded.spec, loaded.given)
    if service.shape == "python":
        spec = interpreter.prepared(spec, service, place)
    ready = []
    for number, one in enumerate(variants(spec, service, place)):
        with Located(variant_place(service, number, place)):
            ready.append(handed.prepared(resolve(one), service))
    own = spec.name or (Path(file).stem if file != "-" else "service")
    chosen = own if name is None else name
    named = "--name" if name is not None else place(("name",)) if spec.name else file
    _check_name(chosen, named, of_file=name is None and not spec.name)
    return Blueprint(chosen, tuple(ready), service, place, named)


def _check_name(name: str, place: str, *, of_file: bool) -> None:
    """Raise SpecError for what cannot be the name of a service. of_file: nobody has said it, the file is called so."""
    try:
        rundir.check_name(name, place)
        check_name(name, place)
    except SpecError as error:
        remedy = '; give it another than the file has: --name NAME, or name = "NAME" in the spec' if of_file else ""
        raise SpecError(error.message + remedy, place) from None


def problems(file: str, name: str | None, listen: tuple[str, ...]) -> tuple[tuple[Problem, ...], list[str]]:
    """Return what this host cannot do of the service in a file, and notes, as of nstool check; nothing is made.

    Its addresses, its handler's file and the words of its commands; and of each of its roots and commands facts, the
    catalogue's detectors, and a trial of the steps. name, listen: as ``prepared`` has them. Raises SpecError.
    """
    try:
        blueprint = prepared(file, name, listen)
    except NotSupported as error:
        return (preflight.problem(error),), []
    found: list[Problem] = list(preflight_of_service.problems(blueprint))
    notes: list[str] = []
    for number, (spec, host) in enumerate(blueprint.variants):
        place = variant_place(blueprint.service, number, blueprint.written)
        with Located(place):
            met = preflight.check(spec, host, features.trial)
            told = () if met or found else preflight.notes(spec, host)
        # What a step meets begins with words, not with a key; of several commands, each is named by its line.
        named = {"the command": place(("command",))} if blueprint.service.commands else {}
        found += (p.replace(what=named.get(p.what, p.what) if p.call else written(p.what, place)) for p in met)
        notes += (written(note, place) for note in told)
    return tuple(dict.fromkeys(found)), list(dict.fromkeys(notes))


def _or_option(place: Place) -> Place:
    """Return what tells where a key is written, where --listen says what ``listen`` would."""

    def where(path: KeyPath) -> str:
        return "--listen" if path[:2] == ("service", "listen") else place(path)

    return where
