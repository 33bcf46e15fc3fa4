"""What is said of a key that its table does not have: where it belongs, or which one it is near to."""

from __future__ import annotations

from nstool.frozen import Frozen
from nstool.spec import model
from nstool.spec.check import key_path
from nstool.spec.service import Service
from nstool.spec.values import nearest, quoted, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.spec.check import Path

# Tables that a spec has once. Not root: its keys (type, path, size) are words for much else.
_TABLES: dict[str, type[Frozen]] = {
    "limits": model.Limits,
    "net": model.Net,
    "namespaces": model.Namespaces,
    "capabilities": model.Capabilities,
    "ipc": model.Ipc,
    "landlock": model.Landlock,
    "seccomp": model.Seccomp,
    "service": Service,
}


def unknown_key(key: str, cls: type[Frozen], path: Path) -> str:
    """Return the message for a key that the table of cls at path does not have."""
    return f"unknown key {quoted(key)}{_hint(key, cls, path)}"


def _hint(key: str, cls: type[Frozen], path: Path) -> str:
    others = dict(_elsewhere(cls, path))
    if key in others:
        return f": it belongs {others[key]}"
    if not nearest(key, cls.__fields__) and (near := nearest(key, others)):
        return f'; did you mean "{near}", which belongs {others[near]}?'
    return suggest(key, cls.__fields__)


def _elsewhere(cls: type[Frozen], path: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of the other tables with where each belongs; where several have one, the last counts."""
    for name, table in reversed(_TABLES.items()):
        if table is not cls:
            yield from ((key, f"to [{name}]: {name}.{key}") for key in table.__fields__)
    if cls is not model.Spec:
        yield from ((key, f"to the spec itself, above {_header(path)}") for key in model.Spec.__fields__)


def _header(path: Path) -> str:
    """Return the header that begins a table in TOML: "[service]", "[[mounts]]"."""
    name = key_path(tuple(part for part in path if isinstance(part, str)))
    return f"[[{name}]]" if path and isinstance(path[-1], int) else f"[{name}]"
