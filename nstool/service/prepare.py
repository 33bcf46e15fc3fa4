"""A service made ready from its spec: read, checked, and compared with this host. Nothing is made."""

from __future__ import annotations

from pathlib import Path

from nstool.sandbox.launch import resolve
from nstool.service import handed, interpreter
from nstool.service.generation import Blueprint
from nstool.spec import load
from nstool.spec.check_service import check_name, check_service
from nstool.spec.implied import implied
from nstool.spec.places import Located
from nstool.spec.varied import variant_place, variants

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Path as KeyPath
    from nstool.spec.check import Place


def prepared(file: str, name: str = "", listen: tuple[str, ...] = ()) -> Blueprint:
    """Return what all generations of the service in a file have in common.

    name: of the service; "": of the spec, or its file's. listen: where instead. Raises SpecError, NotSupported.
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
    chosen = name or spec.name or (Path(file).stem if file != "-" else "service")
    check_name(chosen, "--name" if name or not spec.name else place(("name",)))
    return Blueprint(chosen, tuple(ready), service, place)


def _or_option(place: Place) -> Place:
    """Return what tells where a key is written, where --listen says what ``listen`` would."""

    def written(path: KeyPath) -> str:
        return "--listen" if path[:2] == ("service", "listen") else place(path)

    return written
