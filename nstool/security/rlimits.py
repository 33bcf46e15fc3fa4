"""Resource limits: names, units and the text "soft:hard". getrlimit(2)."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.uapi import RLIMITS

UNLIMITED = -1  # RLIM_INFINITY in the spec

_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MICROSECONDS = {"": 1, "us": 1, "ms": 1000, "s": 1_000_000}
_PLAIN = {"": 1}

# What the number of each resource counts; the others count things and take no unit.
_UNITS: dict[str, tuple[str, dict[str, int]]] = {
    **dict.fromkeys(("fsize", "data", "stack", "core", "rss", "memlock", "as", "msgqueue"), ("bytes", _SIZES)),
    "cpu": ("seconds", _SECONDS),
    "rttime": ("microseconds", _MICROSECONDS),
}


def unit(name: str) -> str:
    """Return what the limit counts: "bytes", "seconds", "microseconds", or "" for a plain number."""
    return _UNITS.get(resource(name), ("", _PLAIN))[0]


def resource(name: str) -> str:
    """Return the spec's word for a resource: "nofile" for "RLIMIT_NOFILE". Raises SpecError."""
    plain = name.strip().lower().removeprefix("rlimit_")
    if plain not in RLIMITS:
        raise SpecError(f"there is no resource limit {name!r}; there are {', '.join(RLIMITS)}")
    return plain


def number(name: str) -> int:
    """Return the RLIMIT_* number. Raises SpecError for an unknown name."""
    return RLIMITS[resource(name)]


def parse(name: str, text: str | int) -> tuple[int, int]:
    """Read "soft:hard", or one value for both, of the named resource.

    A value is a number with an optional unit ("64k" and "1GiB" for bytes, "5m" for CPU seconds, "20ms" for
    rttime) or "unlimited". Returns (soft, hard), -1 for unlimited. Raises SpecError, also when soft exceeds hard.
    """
    soft_text, colon, hard_text = str(text).partition(":")
    soft = _value(name, soft_text)
    hard = _value(name, hard_text) if colon else soft
    if hard != UNLIMITED and (soft == UNLIMITED or soft > hard):
        raise SpecError(f"limit {resource(name)}: the soft limit {soft_text} exceeds the hard limit {hard_text}")
    return soft, hard


def describe(limit: tuple[int, int]) -> str:
    """Return (soft, hard) as "soft:hard", the form that ``parse`` reads."""
    return ":".join("unlimited" if value == UNLIMITED else str(value) for value in limit)


def _value(name: str, text: str) -> int:
    plain = text.strip().lower()
    if plain in ("unlimited", "infinity", "-1"):
        return UNLIMITED
    counts, units = _UNITS.get(resource(name), ("things", _PLAIN))
    digits = plain.rstrip("abcdefghijklmnopqrstuvwxyz ")
    suffix = plain[len(digits) :].strip()
    if units is _SIZES and suffix[:1] in tuple("kmgt") and suffix[1:] in ("b", "ib"):
        suffix = suffix[0]
    if not (digits.isascii() and digits.isdecimal()) or suffix not in units:
        known = ", ".join(word for word in units if word)
        hint = f" with one of the units {known}" if known else ""
        raise SpecError(f"limit {resource(name)}: {text!r} is no number of {counts}{hint}, nor 'unlimited'")
    value = int(digits) * units[suffix]
    if value >= 1 << 63:
        raise SpecError(f"limit {resource(name)}: {text!r} is too large; write 'unlimited'")
    return value
