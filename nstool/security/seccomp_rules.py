"""A list of system calls as rules, whatever language it was written in: the first rule that matches decides. Pure."""

from __future__ import annotations

from nstool import uapi
from nstool.frozen import Frozen
from nstool.security.seccomp_arguments import ALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    # Bits that must have a value, by the argument: {1: (0xffffffff, 0x5412)}. All arguments must match.
    Cube = dict[int, tuple[int, int]]

ALLOW = uapi.SECCOMP_RET_ALLOW
LOG = uapi.SECCOMP_RET_LOG
TRACE = uapi.SECCOMP_RET_TRACE
ERRNO = uapi.SECCOMP_RET_ERRNO
TRAP = uapi.SECCOMP_RET_TRAP
KILL_PROCESS = uapi.SECCOMP_RET_KILL_PROCESS
KILL_THREAD = uapi.SECCOMP_RET_KILL_THREAD
NOTIFY = uapi.SECCOMP_RET_USER_NOTIF
FULL = uapi.SECCOMP_RET_ACTION_FULL
DATA = uapi.SECCOMP_RET_DATA

OPERATORS: Mapping[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
MOST_CUBES = 1024  # into which a rule may fall apart: each is some ten instructions of 4096


class TooMany(Exception):
    """A rule falls apart into more than MOST_CUBES parts."""


class Compare(Frozen):
    """One condition: (argument ``arg`` & ``mask``) ``op`` ``value``, as numbers without sign."""

    arg: int
    op: str
    value: int
    mask: int = ALL

    def holds(self, args: Sequence[int]) -> bool:
        """Whether it is true of these arguments; those that are not there are 0."""
        found = args[self.arg] & ALL if self.arg < len(args) else 0
        return OPERATORS[self.op](found & self.mask, self.value)


class Rule(Frozen):
    """What is answered to a system call of which all conditions hold.

    call: its name, or its number if it has none. action: SECCOMP_RET_* with its data. why: a sentence, or "".
    """

    call: str | int
    action: int
    where: tuple[Compare, ...] = ()
    why: str = ""


class Rules(Frozen):
    """A whole list. default: the answer where no rule matches. notes: what was left out of what was read, sentences."""

    default: int
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, call: str | int) -> tuple[Rule, ...]:
        """Return the rules of one call, up to the first without a condition, which is the last that matters."""
        return _decisive(rule for rule in self.rules if rule.call == call)

    def by_call(self) -> dict[str | int, tuple[Rule, ...]]:
        """Return ``of`` for all calls that are named."""
        found: dict[str | int, list[Rule]] = {}
        for rule in self.rules:
            found.setdefault(rule.call, []).append(rule)
        return {call: _decisive(rules) for call, rules in found.items()}

    def decide(self, call: str | int, args: Sequence[int] = ()) -> int:
        """Return what is answered to a call with these arguments."""
        for rule in self.of(call):
            if all(compare.holds(args) for compare in rule.where):
                return rule.action
        return self.default


def _decisive(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    found = []
    for rule in rules:
        found.append(rule)
        if not rule.where:
            break
    return tuple(found)


def errno_action(number: int) -> int:
    """Return the action that makes a call fail with an errno."""
    return ERRNO | number & DATA


def refuses(action: int) -> bool:
    """Whether a call does not go through to the kernel."""
    return action & FULL not in (ALLOW, LOG)


def action_text(action: int) -> str:
    """Return an action in words: "allow", "errno EPERM", "kill process"."""
    import errno

    kind, data = action & FULL, action & DATA
    names = {ALLOW: "allow", LOG: "log", KILL_PROCESS: "kill process", KILL_THREAD: "kill thread", NOTIFY: "notify"}
    if kind == ERRNO:
        return f"errno {errno.errorcode.get(data, data)}" if data else "not done, as if it were"
    if kind in (TRAP, TRACE):
        return f"{'trap' if kind == TRAP else 'trace'}{f' {data}' if data else ''}"
    return names.get(kind, f"{action:#x}, which acts as kill process")


# ---- conditions as cubes: each of some bits with a value, so that any two can be met, or taken from each other ----


def is_plain(rule: Rule) -> bool:
    """Whether libseccomp can say the conditions as they are: one an argument, masks with "==" alone."""
    once = len({compare.arg for compare in rule.where}) == len(rule.where)
    return once and all(
        compare.mask == ALL or (compare.op == "==" and not compare.value & ~compare.mask) for compare in rule.where
    )


def cubes(where: Sequence[Compare]) -> list[Cube]:
    """Return cubes of which exactly one holds where all conditions hold, and else none. Raises TooMany."""
    found: list[Cube] = [{}]
    for compare in where:
        parts = [{compare.arg: part} for part in _parts(compare)]
        found = _few(both for cube in found for part in parts for both in met(cube, part))
    return found


def without(whole: Iterable[Cube], taken: Cube) -> list[Cube]:
    """Return what is left of disjoint cubes where another one does not hold, disjoint too. Raises TooMany."""
    return _few(part for cube in whole for part in _without(cube, taken))


def _few(found: Iterable[Cube]) -> list[Cube]:
    kept: list[Cube] = []
    for cube in found:
        if len(kept) == MOST_CUBES:
            raise TooMany
        kept.append(cube)
    return kept


def _parts(compare: Compare) -> list[tuple[int, int]]:
    mask, value = compare.mask, compare.value
    if compare.op == "==":
        return [(mask, value)] if value & ~mask == 0 else []
    if compare.op == "!=":
        return [*_below(mask, value), *_above(mask, value)] if value & ~mask == 0 else [(0, 0)]
    if compare.op in ("<", "<="):
        return _below(mask, value + (compare.op == "<="))
    return _above(mask, value - (compare.op == ">="))


def _bits(mask: int) -> Iterator[int]:
    """Yield the bits from the highest that a number or a mask may have on."""
    for number in range(max(mask.bit_length(), 1) - 1, -1, -1):
        yield 1 << number


def _below(mask: int, value: int) -> list[tuple[int, int]]:
    """Return (mask, value) of the disjoint parts in which argument & mask < value."""
    if value > mask:
        return [(0, 0)]
    found: list[tuple[int, int]] = []
    fixed = same = 0
    for bit in _bits(mask | value):
        if value & bit:  # equal so far, and 0 here: less
            found.append((fixed | bit & mask, same))
            if not mask & bit:  # it is 0 in any case, so it can never be equal
                return found
            same |= bit
        fixed |= bit & mask
    return found


def _above(mask: int, value: int) -> list[tuple[int, int]]:
    """Return (mask, value) of the disjoint parts in which argument & mask > value."""
    if value < 0:
        return [(0, 0)]
    found: list[tuple[int, int]] = []
    fixed = same = 0
    for bit in _bits(mask | value):
        if value & bit:
            if not mask & bit:  # it can be neither equal nor more from here on
                return found
            same |= bit
        elif mask & bit:
            found.append((fixed | bit, same | bit))
        fixed |= bit & mask
    return found


def met(one: Cube, other: Cube) -> Iterator[Cube]:
    """Yield the cube in which both hold, if there is one."""
    both = dict(one)
    for arg, (mask, value) in other.items():
        had, was = both.get(arg, (0, 0))
        if (value ^ was) & mask & had:
            return
        both[arg] = mask | had, value | was
    yield both


def _without(cube: Cube, taken: Cube) -> Iterator[Cube]:
    """Yield disjoint cubes: where the one holds and the other does not."""
    if not any(True for _ in met(cube, taken)):
        yield cube
        return
    rest = dict(cube)
    for arg, (mask, value) in taken.items():
        had, was = rest.get(arg, (0, 0))
        for bit in _bits(mask & ~had):
            if mask & ~had & bit:
                yield {**rest, arg: (had | bit, was | ~value & bit)}
                had, was = had | bit, was | value & bit
        rest[arg] = had, was


def compares(cube: Cube) -> tuple[Compare, ...]:
    """Return a cube as conditions that libseccomp can say."""
    return tuple(Compare(arg, "==", value, mask) for arg, (mask, value) in sorted(cube.items()) if mask)
