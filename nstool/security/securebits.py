"""Securebits: names and masks, each with its lock. capabilities(7), section "The securebits flags"."""

from __future__ import annotations

from nstool import uapi
from nstool.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SECUREBITS: dict[str, int] = {
    "noroot": uapi.SECBIT_NOROOT,
    "noroot_locked": uapi.SECBIT_NOROOT_LOCKED,
    "no_setuid_fixup": uapi.SECBIT_NO_SETUID_FIXUP,
    "no_setuid_fixup_locked": uapi.SECBIT_NO_SETUID_FIXUP_LOCKED,
    "keep_caps": uapi.SECBIT_KEEP_CAPS,
    "keep_caps_locked": uapi.SECBIT_KEEP_CAPS_LOCKED,
    "no_cap_ambient_raise": uapi.SECBIT_NO_CAP_AMBIENT_RAISE,
    "no_cap_ambient_raise_locked": uapi.SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED,
}

_BY_BIT = {value: name for name, value in SECUREBITS.items()}


def mask(names: Iterable[str]) -> int:
    """Return the mask of several securebits: "noroot", "NOROOT_LOCKED", "secbit_keep_caps". Raises SpecError."""
    result = 0
    for name in names:
        plain = name.strip().lower().removeprefix("secbit_").replace("-", "_")
        if plain not in SECUREBITS:
            raise SpecError(f"there is no securebit {name!r}; there are {', '.join(SECUREBITS)}")
        result |= SECUREBITS[plain]
    return result


def names(mask: int) -> tuple[str, ...]:
    """Return the names in a mask, lowest bit first; a bit newer than the table as "bit_8"."""
    bits = (1 << at for at in range(mask.bit_length()))
    return tuple(_BY_BIT.get(bit, f"bit_{bit.bit_length() - 1}") for bit in bits if mask & bit)


def with_locks(mask: int) -> int:
    """Return the mask with the lock of every bit in the table: what is set stays set, what is clear stays clear."""
    locks = (value for name, value in SECUREBITS.items() if name.endswith("_locked"))
    return mask | sum(locks)


def changeable(mask: int) -> tuple[str, ...]:
    """Return the names of the flags that a process with this mask can still change: those without their lock."""
    flags = (name for name in SECUREBITS if not name.endswith("_locked"))
    return tuple(name for name in flags if not mask & SECUREBITS[f"{name}_locked"])
