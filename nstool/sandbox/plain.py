"""Values as bytes that can be read whoever has written them: JSON, where pickle would run what the writer wants.

What is no JSON value is a list with a word of its kind first. Records and errors are those of nstool that the reader
has loaded, by their name; made of values that are not checked, they may be wrong, and do nothing.
"""

from __future__ import annotations

import json
import sys

from nstool.errors import NstoolError
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LISTS = {"tuple": tuple, "list": list, "set": set, "frozenset": frozenset}
_ERRORS = (OSError, RuntimeError)


def dumps(value: object) -> bytes:
    """Return a value as bytes. Raises TypeError for one of another type, as a function."""
    return json.dumps(_plain(value)).encode()


def loads(data: bytes) -> Any:
    """Return the value that ``dumps`` was given, or another; named tuples come as tuples.

    Raises ValueError for what is none.
    """
    try:
        return _value(json.loads(data))
    except Exception as error:  # whatever a writer has thought of
        raise ValueError(f"no value of ours: {type(error).__name__}: {error}") from None


def _plain(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.decode("latin-1")]
    if isinstance(value, dict):
        return ["dict", *([_plain(key), _plain(one)] for key, one in value.items())]
    for name, kind in _LISTS.items():
        if isinstance(value, kind):
            return [name, *map(_plain, value)]
    if isinstance(value, (Frozen, NstoolError)):
        args: Any = value.__reduce__()[1]
        return ["nstool", type(value).__module__, type(value).__name__, *map(_plain, args)]
    for error in _ERRORS:
        if isinstance(value, error):
            args = value.__reduce__()[1]  # with the name of the file
            return [error.__name__, *map(_plain, args)]
    raise TypeError(f"a {type(value).__name__} cannot be told to another process")


def _value(plain: Any) -> Any:
    if not isinstance(plain, list):
        return plain
    name, *rest = plain
    if name == "bytes":
        return rest[0].encode("latin-1")
    if name == "dict":
        return {_value(key): _value(one) for key, one in rest}
    if name in _LISTS:
        return _LISTS[name](map(_value, rest))
    if name == "nstool":
        return _kind(rest[0], rest[1])(*map(_value, rest[2:]))
    error = next(error for error in _ERRORS if error.__name__ == name)
    return error(*map(_value, rest))


def _kind(module: str, name: str) -> type[Frozen] | type[NstoolError]:
    found = vars(sys.modules[module])[name]
    if not (isinstance(found, type) and issubclass(found, (Frozen, NstoolError))):
        raise TypeError(f"{module}.{name} is no record")
    return found
