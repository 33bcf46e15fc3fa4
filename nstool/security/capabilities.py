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


class Sets(CapSets):
    """The five sets of a thread, as masks."""

    bounding: int = 0
    ambient: int = 0


def number(name: str) -> int:
    """Return the number of one capability: "net_raw", "CAP_NET_RAW", or a decimal number below 64.

    Numbers are for capabilities that are newer than the table. Raises SpecError.
    """
    plain = name.strip().lower().removeprefix("cap_")
    if plain in CAPABILITIES:
        return CAPABILITIES[plain]
    if plain.isascii() and plain.isdecimal() and int(plain) < _MAX:
        return int(plain)
    if len(plain) >= 8 and set(plain) <= set("0123456789abcdef"):
        raise SpecError(f"{name!r} is no capability; a mask begins with 0x, as 0x{plain}")
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
    if not mask:
        return "none"
    has, lacks = names(mask), names(full() & ~mask)
    if len(lacks) < len(has):
        return f"all but {' '.join(lacks)}" if lacks else "all"
    return " ".join(has)


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
    """Return the text form: "cap_kill,cap_net_raw=ep", "=ep" for everything, "=" for nothing. cap_to_text(3).

    The same as libcap's, which takes the flags that most capabilities share for all, then tells the exceptions from
    it, those with most flags first. last: number of the last capability that all are. Bits above it follow by number.
    """
    by_flags = _by_flags(sets, range(last + 1))
    base = max(range(len(_FLAGS)), key=lambda flags: (len(by_flags.get(flags, ())), -flags))
    clauses = [f"={_FLAGS[base]}"]
    for flags, bits in sorted(by_flags.items(), reverse=True):
        if flags != base:
            listed = ",".join(map(_cap_name, bits))
            gained, lost = _FLAGS[flags & ~base], _FLAGS[base & ~flags]
            clauses.append(listed + (f"+{gained}" if gained else "") + (f"-{lost}" if lost else ""))
    if clauses[0] == "=" and len(clauses) > 1:  # nothing for all: the first exception is said with = in its place
        clauses[:2] = [clauses[1].replace("+", "=")]
    for flags, bits in sorted(_by_flags(sets, range(last + 1, _MAX)).items(), reverse=True):
        if flags:
            clauses.append(f"{','.join(map(str, bits))}+{_FLAGS[flags]}")
    return " ".join(clauses)


def from_text(text: str, last: int = CAP_LAST_CAP) -> CapSets:
    """Read the text form of cap_from_text(3): clauses ``[names|all](=|+|-)[eip]…`` set one after another.

    last: number of the last capability that "all" means. Raises SpecError.
    """
    values = read_clauses(text, "eip", last)
    return CapSets(values["e"], values["p"], values["i"])


def sets_from_text(text: str, last: int = CAP_LAST_CAP) -> Sets:
    """Read all five sets: the text form with two flags more, b for the bounding set and a for the ambient one.

    At the start the bounding set is full and the others are empty, and only b changes it: "=ep" leaves it, and
    "cap_net_raw=eip cap_net_raw+a all-b cap_net_raw+b" gives all five sets one capability. Raises SpecError for what
    no process can have: an effective capability that is not permitted, an ambient one not permitted and inheritable.
    """
    values = read_clauses(text, "eipba", last, start={"b": full(last)}, kept="b")
    sets = Sets(values["e"], values["p"], values["i"], values["b"], values["a"])
    if wrong := names(sets.effective & ~sets.permitted):
        raise SpecError(f"effective, but not permitted: {' '.join(wrong)}; add p to them, as in cap_{wrong[0]}+ep")
    if wrong := names(sets.ambient & ~(sets.permitted & sets.inheritable)):
        raise SpecError(f"ambient, but not permitted and inheritable: {' '.join(wrong)}; cap_{wrong[0]}+pia adds all")
    return sets


def read_clauses(
    text: str, flags: str, last: int, start: dict[str, int] | None = None, kept: str = ""
) -> dict[str, int]:
    """Read clauses of the text form; return a mask for each of the flags, letters.

    start: masks that are not empty before. kept: flags that = leaves alone unless it names them. Raises SpecError.
    """
    values = dict.fromkeys(flags, 0) | (start or {})
    for clause in text.split():
        listed, actions = _split_clause(clause, flags)
        scope = _scope(listed, last)
        for action, letters in actions:
            for flag in flags if action == "=" else letters:
                if action == "=" and flag in kept and flag not in letters:
                    continue
                without = values[flag] & ~scope
                values[flag] = without if action == "-" or flag not in letters else without | scope
    return values


def _split_clause(clause: str, flags: str) -> tuple[str, list[tuple[str, str]]]:
    # "cap_kill=ep-i" is ("cap_kill", [("=", "ep"), ("-", "i")]).
    start = next((at for at, char in enumerate(clause) if char in "=+-"), len(clause))
    listed, rest = clause[:start], clause[start:]
    if not rest:
        raise SpecError(f"capability clause {clause!r} has no =, + or -; write it as cap_net_raw=ep")
    if not listed and rest[0] != "=":
        raise SpecError(f"capability clause {clause!r} names no capability; only = may stand alone")
    actions: list[tuple[str, str]] = []
    for char in rest:
        if char == "=" and actions:
            raise SpecError(f"capability clause {clause!r}: = must be the first action")
        if char in "=+-":
            actions.append((char, ""))
        elif char in flags:
            actions[-1] = (actions[-1][0], actions[-1][1] + char)
        else:
            raise SpecError(f"capability clause {clause!r}: {char!r} is no flag; there are {', '.join(flags)}")
    for action, letters in actions:
        if action != "=" and not letters:
            raise SpecError(f"capability clause {clause!r}: {action} is followed by no flag; there are {flags}")
    return listed, actions


def _scope(listed: str, last: int) -> int:
    # The mask of the names before the action; "all", or none at all, are those up to the last.
    if not listed:
        return full(last)
    words = listed.split(",")
    return mask(word for word in words if word.lower() != "all") | (
        full(last) if "all" in listed.lower().split(",") else 0
    )


# Flags as the text form writes them, by the number whose bits are 1 effective, 2 permitted, 4 inheritable.
_FLAGS = ("", "e", "p", "ep", "i", "ei", "ip", "eip")


def _by_flags(sets: CapSets, bits: Iterable[int]) -> dict[int, list[int]]:
    # The numbers of capabilities by which of the three sets they are in.
    found: dict[int, list[int]] = {}
    for bit in bits:
        one = (sets.effective >> bit & 1) | (sets.permitted >> bit & 1) << 1 | (sets.inheritable >> bit & 1) << 2
        found.setdefault(one, []).append(bit)
    return found


def _cap_name(bit: int) -> str:
    return f"cap_{_NAMES[bit]}" if bit in _NAMES else str(bit)


def _did_you_mean(name: str) -> str:
    from nstool.spec.values import nearest

    near = nearest(name, CAPABILITIES)
    return f"; did you mean {near!r}?" if near else ""
