"""Python functions as services: what a sandbox needs of the interpreter, and how its zygote is started."""

from __future__ import annotations

import os
import sys
from glob import glob

import nstool
from nstool.errors import SpecError
from nstool.plan.build import PATH
from nstool.spec.model import Mount, Spec
from nstool.spec.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Place

# Where the interpreter, its libraries, nstool and the handler's directory are inside: no path of the host shows.
PLACE = "/opt/nstool"
_VARIABLE = "NSTOOL_ZYGOTE"


def prepared(spec: Spec, service: Service, place: Place) -> Spec:
    """Return the spec with the interpreter for its command, and with what that needs. Raises SpecError."""
    if spec.command:
        raise SpecError("a handler has no command: leave it out", place(("command",)))
    at = place(("service", "handler"))
    if not os.path.isfile(service.handler):
        raise SpecError(f"no file {service.handler}", at)
    if not service.handler.endswith(".py"):
        raise SpecError(f"{service.handler} is no file of Python: the name of one ends in .py", at)
    _check_readable(os.path.dirname(service.handler), 0o005, "o+rx", at)
    _check_readable(service.handler, 0o004, "o+r", at)
    own = _mounts(service)
    return spec.replace(command=(executable(),), init=False, mounts=(*own, *spec.mounts))


def _check_readable(path: str, bits: int, words: str, place: str) -> None:
    # Inside nobody is its owner, nor in its group: those ids of the host are not there.
    if os.stat(path).st_mode & bits != bits:
        raise SpecError(f"{path} is shown inside, where its owner's id is not: chmod {words}", place)


def _mounts(service: Service) -> tuple[Mount, ...]:
    # Where it is: an interpreter without site.py does not know of its environment.
    import _cffi_backend  # type: ignore[import-untyped]

    package = os.path.dirname(os.path.abspath(nstool.__file__))
    shown = {
        f"{PLACE}/lib/nstool": package,
        f"{PLACE}/site": os.path.dirname(os.path.abspath(_cffi_backend.__file__)),
        f"{PLACE}/handler": os.path.dirname(os.path.abspath(service.handler)),
    }
    if not _is_systems():
        shown[f"{PLACE}/python"] = sys.base_prefix
    return tuple(Mount(target, source) for target, source in shown.items())


def _is_systems() -> bool:
    """Whether the interpreter is one that the default root shows."""
    return sys.base_prefix == "/usr"


def executable() -> str:
    """Return the path of the interpreter inside."""
    own = os.path.realpath(sys.executable)
    return own if _is_systems() else f"{PLACE}/python/bin/{os.path.basename(own)}"


def _libraries() -> dict[str, str]:
    # An interpreter of its own may find its library by a path of the host; another of that name is not the same.
    own = not _is_systems() and bool(glob(f"{sys.base_prefix}/lib/libpython*"))
    return {"LD_LIBRARY_PATH": f"{PLACE}/python/lib"} if own else {}


def started(service: Service, spec: Spec, plan_size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return argv and environment of the zygote. plan_size: bytes of the plan of a sandbox."""
    argv = (executable(), "-s", "-c", "from nstool.service.zygote import main; main()")
    own = {
        "PATH": PATH,
        "PYTHONPATH": f"{PLACE}/lib:{PLACE}/site",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_BIND_NOW": "nstool",
        **_libraries(),
        **spec.env,
        _VARIABLE: f"{service.places} {plan_size} {PLACE}/handler/{os.path.basename(service.handler)}",
    }
    return argv, tuple(f"{name}={value}" for name, value in own.items())
