"""Capabilities: names, numbers, masks and the text form of libcap. capabilities(7)."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.uapi import CAP_LAST_CAP, CAPABILITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMES = {number: name for name, number in CAPABILITIES.items()}
_MAX = 64  # the kernel's sets are 64 bits wide

# The five sets of a process, in the order of capabilities(7), and their line in /proc/PID/status.
SETS: dict[str, str] = {
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}


class CapSets(Frozen):
    """The three sets that the text form can say, as masks."""

    effective: int = 0
    permitted: int = 0
    inheritable: int = 0


def number(name: str) -> int:
    """Return the number of one capability: "net_raw", "CAP_NET_RAW", or a decimal number below 64.

    Numbers are for capabilities that are newer than the table. Raises SpecError.
    """
    plain = name.strip().lower().removeprefix("cap_")
    if plain in CAPABILITIES:
        return CAPABILITIES[plain]
    if plain.isascii() and plain.isdecimal() and int(plain) < _MAX:
        return int(plain)
    raise SpecError(f"there is no capability {name!r}{_did_you_mean(plain)}; capabilities(7) lists them")


def mask(names: Iterable[str]) -> int:
    """Return the mask of several capabilities. Raises SpecError for an unknown name."""
    result = 0
    for name in names:
        result |= 1 << number(name)
    return result


def names(mask: int) -> tuple[str, ...]:
    """Return the names in a mask, in the kernel's order, without "cap_"; an unnamed bit as its number."""
    return tuple(_NAMES.get(bit, str(bit)) for bit in range(mask.bit_length()) if mask >> bit & 1)


def full(last: int = CAP_LAST_CAP) -> int:
    """Return the mask of all capabilities up to number ``last``."""
    return (1 << (last + 1)) - 1


def in_words(mask: int) -> str:
    """Return a set in words: "none", "all", "chown net_raw", or what a nearly full one lacks: "all but sys_admin"."""
    has, lacks = names(mask), names(full() & ~mask)
    if len(lacks) < len(has):
        return f"all but {' '.join(lacks)}" if lacks else "all"
    return " ".join(has) or "none"


def after_execve(sets: dict[str, int], *, root: bool, no_new_privs: bool) -> dict[str, int]:
    """Return the masks of the five sets after execve(2) of a file without capabilities of its own.

    root: uid 0 without the securebit noroot. capabilities(7), "Transformation of capabilities during execve()".
    """
    gained = sets["inheritable"] | sets["bounding"] if root else 0
    if no_new_privs:
        gained &= sets["permitted"]
    permitted = gained | sets["ambient"]
    return {**sets, "permitted": permitted, "effective": permitted if root else sets["ambient"]}


def last_cap(path: str = "/proc/sys/kernel/cap_last_cap") -> int:
    """Ask the running kernel for the number of its last capability. Linux 3.2."""
    with open(path) as file:
        return int(file.read())


def to_text(sets: CapSets, last: int = CAP_LAST_CAP) -> str:
    """Return the text form: "cap_kill,cap_net_raw=ep", "=ep" for everything, "=" for nothing. cap_from_text(3).

    The flags that most capabilities share are said first for all, then the exceptions.
    """
    by_flags: dict[str, list[int]] = {}
    for bit in range(last + 1):
        by_flags.setdefault(_flags(sets, bit), []).append(bit)
    base = max(by_flags, key=lambda flags: (len(by_flags[flags]), -len(flags)))
    clauses = [f"={base}"] if base or len(by_flags) == 1 else []
    for flags, bits in by_flags.items():
        if flags != base:
            clauses.append(",".join(_cap_name(bit) for bit in bits) + f"={flags}")
    return " ".join(clauses)


def from_text(text: str, last: int = CAP_LAST_CAP) -> CapSets:
    """Read the text form of cap_from_text(3): clauses ``[names|all](=|+|-)[eip]…`` set one after another.

    last: number of the last capability that "all" means. Raises SpecError.
    """
    values = {"e": 0, "p": 0, "i": 0}
    for clause in text.split():
        start = next((at for at, char in enumerate(clause) if char in "=+-"), len(clause))
        listed, actions = clause[:start], clause[start:]
        if not actions:
            raise SpecError(f"capability clause {clause!r} has no =, + or -; write it as cap_net_raw=ep")
        if not listed and actions[0] != "=":
            raise SpecError(f"capability clause {clause!r} names no capability; only = may stand alone")
        scope = full(last) if listed.lower() in ("", "all") else mask(listed.split(","))
        for at, char in enumerate(actions):
            if char in "=+-":
                action = char
                if char == "=":
                    if at:
                        raise SpecError(f"capability clause {clause!r}: = must be the first action")
                    for flag in values:
                        values[flag] &= ~scope
            elif char in values:
                values[char] = values[char] & ~scope if action == "-" else values[char] | scope
            else:
                raise SpecError(f"capability clause {clause!r}: {char!r} is no flag; the flags are e, i and p")
    return CapSets(values["e"], values["p"], values["i"])


def _flags(sets: CapSets, bit: int) -> str:
    chosen = (("e", sets.effective), ("i", sets.inheritable), ("p", sets.permitted))
    return "".join(flag for flag, value in chosen if value >> bit & 1)


def _cap_name(bit: int) -> str:
    return f"cap_{_NAMES[bit]}" if bit in _NAMES else str(bit)


def _did_you_mean(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, CAPABILITIES, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
