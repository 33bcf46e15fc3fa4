"""Signals: names of masks and numbers. signal(7)."""

from __future__ import annotations

from nstool.uapi import SIGNALS

_NAMES = {number: name for name, number in SIGNALS.items()}
_FIRST, _LAST = 34, 64  # SIGRTMIN as libc has it, SIGRTMAX; libc keeps 32 and 33 for its threads, nptl(7)


def name(number: int) -> str:
    """Return the name of a signal: "SIGTERM", "SIGRTMIN+1"; of one that has none "SIG32"."""
    if number in _NAMES:
        return _NAMES[number]
    if number == _LAST:
        return "SIGRTMAX"
    if _FIRST <= number < _LAST:
        return f"SIGRTMIN+{number - _FIRST}" if number > _FIRST else "SIGRTMIN"
    return f"SIG{number}"


def number_of(text: str, place: str) -> int:
    """Return the number of a signal, given by name, with or without SIG, or number. Raises SpecError."""
    from nstool.errors import SpecError
    from nstool.spec.values import quoted, suggest

    word = text.upper().removeprefix("SIG")
    known = {key.upper().removeprefix("SIG"): value for key, value in SIGNALS.items()}
    wanted = int(word) if word.isascii() and word.isdecimal() else known.get(word, 0)
    if word == "0":
        raise SpecError("0 is no signal, it asks whether a process lives; nstool ps tells that", place)
    if not 1 <= wanted <= 64:
        raise SpecError(f"no signal {quoted(text)}{suggest(word, known)}", place)
    return wanted


def names(mask: int) -> tuple[str, ...]:
    """Return the names in a mask in which signal n is bit n - 1, as /proc/PID/status has it, lowest first."""
    return tuple(name(bit + 1) for bit in range(mask.bit_length()) if mask >> bit & 1)
