"""Where the keys of a spec were written: also for errors that are found long after it was read."""

from __future__ import annotations

from nstool.errors import NotSupported, SpecError
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from nstool.spec.check import Path, Place


class Located:
    """A context manager: errors that name a key of the spec say where it was written instead."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (SpecError, NotSupported)):
            raise located(error, self._place) from None


def located(error: SpecError | NotSupported, place: Place) -> SpecError | NotSupported:
    """Return the error with the place where its key was written."""
    if isinstance(error, SpecError):
        return SpecError(error.message, written(error.place, place))
    return NotSupported(written(error.what, place), error.cause, error.remedy)


def written(text: str, place: Place) -> str:
    """Return a text that begins with a key path, ``net.target "lab"``, with the key's place put there."""
    import re

    key = re.match(r'[a-z_0-9]+(\.[\w-]+|\."[^"]*"|\[\d+\])*(?=$|[ :])', text)
    if key is None:
        return text
    parts = re.findall(r'\[(\d+)\]|"([^"]*)"|([\w-]+)', key[0])
    path: Path = tuple(int(number) if number else quoted or bare for number, quoted, bare in parts)
    return place(path) + text[key.end() :] if path[0] in Spec.__fields__ else text
