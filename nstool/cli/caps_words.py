"""How the commands of ``nstool caps`` write sets, and read what is common to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from nstool.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def of_set(mask: int) -> dict[str, Any]:
    """Return a set as JSON has it."""
    from nstool.security import capabilities

    return {"mask": mask, "names": list(capabilities.names(mask))}


def sets_as_json(sets: Any) -> dict[str, Any]:
    """Return the sets of a record by name."""
    return {name: of_set(getattr(sets, name)) for name in sets.__fields__}


def say_set(mask: int, mask_too: bool = False) -> str:
    """Return the names of a set; of a nearly full one those that are missing."""
    from nstool.security import capabilities

    names = capabilities.names(mask)
    lacking = capabilities.names(capabilities.full(capabilities.last_cap()) & ~mask)
    text = " ".join(names) or "none"
    if len(lacking) < len(names):
        text = f"all but {' '.join(lacking)}" if lacking else "all"
    return f"{mask:#x} {text}" if mask_too and mask else text


def placed(place: str, read: Callable[..., T], *args: object) -> T:
    """Call read; what is wrong with its arguments is said of the option or argument that they come from."""
    try:
        return read(*args)
    except SpecError as error:
        raise SpecError(error.message, error.place or place) from None
