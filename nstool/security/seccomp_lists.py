"""The lists that come with nstool, their groups, and a table of words that changes one, as rules."""

from __future__ import annotations

import errno
from functools import cache

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.security import seccomp_table as table
from nstool.security.seccomp_arguments import ALL, arguments, looked_at
from nstool.security.seccomp_rules import (
    ALLOW,
    KILL_PROCESS,
    LOG,
    Compare,
    Rule,
    Rules,
    errno_action,
    refuses,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nstool.spec.model import Seccomp, SeccompCall

BUILT_IN: tuple[str, ...] = ("default", "strict", "none", "empty")
ABSENT = errno_action(errno.ENOSYS)  # as a kernel without the call answers, whatever refused calls get
REFUSED = errno_action(errno.EPERM)


class Kind(Frozen):
    """A word for several calls, @name. calls: with all arguments. conditional: as ALLOWED_ARGUMENTS has them."""

    name: str
    why: str
    calls: tuple[str, ...]
    conditional: tuple[str, ...] = ()


@cache
def kinds() -> dict[str, Kind]:
    """Return all groups by their words."""
    found = {}
    for group in (*table.ALLOWED, *table.REFUSED, *table.MISSING, *table.WHOLE):
        found[group.name] = Kind(group.name, group.why, group.names, table.CONDITIONAL.get(group.name, ()))
    return found


@cache
def names() -> frozenset[str]:
    """Return the names of all system calls of x86_64."""
    plain = (name for kind in kinds().values() for name in (*kind.calls, *kind.conditional))
    return frozenset(plain)


@cache
def group_of() -> dict[str, str]:
    """Return the group of each call, as "mount"."""
    found: dict[str, str] = {}
    for group in (*table.ALLOWED, *table.REFUSED, *table.MISSING):
        found |= dict.fromkeys((*group.names, *table.CONDITIONAL.get(group.name, ())), group.name)
    return found


def _rule(rule: table.Rule, action: int) -> Rule:
    where = [Compare(index, "==", value, mask) for index, mask, value in rule.where]
    where += [Compare(index, "!=", value, mask) for index, mask, value in rule.but]
    return Rule(rule.call, action if rule.answer is None else errno_action(rule.answer), tuple(where), rule.why)


def _plain(groups: Iterable[table.Group], action: int, leave: frozenset[str] = frozenset()) -> Iterator[Rule]:
    for group in groups:
        for name in group.names:
            if name not in leave:
                yield Rule(name, action, (), group.why)


def _absent() -> tuple[Rule, ...]:
    newer = (Rule(number, ABSENT, (), "newer than the list") for number in table.UNKNOWN_NUMBERS)
    return (*_plain(table.MISSING, ABSENT), *newer)


def _first(base: str, refused: int) -> tuple[Rule, ...]:
    """What a list refuses by its arguments, whatever it allows."""
    rows = {"default": table.REFUSED_ARGUMENTS, "strict": table.STRICT_REFUSED_ARGUMENTS}.get(base, ())
    return tuple(_rule(rule, refused) for rule in rows)


def strict_refusals() -> tuple[table.Group, ...]:
    """Return what "strict" refuses of what "default" allows, whole groups with their calls."""
    whole = {group.name: group.calls for group in table.ALLOWED}
    return tuple(group.replace(calls=group.calls or whole[group.name]) for group in table.STRICT_REFUSED)


def _rest(base: str, refused: int) -> tuple[Rule, ...]:
    if base == "none":
        return ()
    if base == "empty":
        return (*_absent(), *_plain((*table.ALLOWED, *table.REFUSED), refused))
    less = strict_refusals() if base == "strict" else ()
    arguments = table.STRICT_ARGUMENTS if base == "strict" else table.ALLOWED_ARGUMENTS
    left = frozenset(name for group in less for name in group.names)
    return (
        *_plain(table.ALLOWED, ALLOW, left),
        *(_rule(rule, ALLOW) for rule in arguments),
        *_absent(),
        *_plain((*less, *table.REFUSED), refused),
    )


def built_in(base: str, refused: int = REFUSED) -> Rules:
    """Return a list that comes with nstool. refused: what is answered to a call that it does not allow."""
    return Rules(ALLOW if base == "none" else refused, (*_first(base, refused), *_rest(base, refused)))


def refusal(words: Seccomp) -> int | None:
    """Return the action for refused calls that the words name, None if they leave it to the list."""
    if words.action in ("kill", "log"):
        return KILL_PROCESS if words.action == "kill" else LOG
    if words.action or words.errno:
        return errno_action(getattr(errno, words.errno or "EPERM"))
    return None


def changed(words: Seccomp, read: Rules | None = None) -> Rules:
    """Return the list that a table of the spec asks for. read: of its base, where that is a file.

    Entries with conditions come before those without, calls before groups, what is refused before what is allowed: the
    narrower word counts, and of two the safer one.
    """
    asked = refusal(words)
    refused = REFUSED if asked is None else asked
    if read is None:
        first, rest, default = _first(words.base, refused), _rest(words.base, refused), refused
        if words.base == "none":
            default = ALLOW
    else:
        first, rest, default = (), read.rules, read.default
        if asked is not None:
            rest = tuple(rule.replace(action=_instead(rule.action, asked)) for rule in rest)
            default = asked if refuses(default) else default
    rules = (
        *_entries(words.refuse, "narrow", refused),
        *_entries(words.allow, "narrow", ALLOW),
        *first,
        *_entries(words.refuse, "call", refused),
        *_entries(words.allow, "call", ALLOW),
        *_entries(words.refuse, "group", refused),
        *_entries(words.allow, "group", ALLOW, refused),
        *rest,
    )
    return Rules(default, rules, read.notes if read else ())


def _instead(action: int, asked: int) -> int:
    # What says that the kernel has no such call stays: libraries fall back by it, and would not by anything else.
    return asked if refuses(action) and action != ABSENT else action


def _entries(entries: Iterable[SeccompCall], kind: str, action: int, refused: int = REFUSED) -> Iterator[Rule]:
    verb = "allow" if action == ALLOW else "refuse"
    for entry in entries:
        why = f"{verb}: {entry.call}"
        own = "narrow" if entry.where else "group" if entry.call.startswith("@") else "call"
        if own != kind:
            continue
        if own == "group":
            yield from _group(kinds()[entry.call[1:]], action, refused, why)
        else:
            yield Rule(entry.call, action, compares(entry), why)


def _group(kind: Kind, action: int, refused: int, why: str) -> Iterator[Rule]:
    for name in kind.calls:
        yield Rule(name, action, (), why)
    for name in kind.conditional:
        if action != ALLOW:
            yield Rule(name, action, (), why)
            continue
        for rows, answer in ((table.REFUSED_ARGUMENTS, refused), (table.ALLOWED_ARGUMENTS, action)):
            yield from (_rule(rule, answer).replace(why=f"{why}: {rule.why}") for rule in rows if rule.call == name)


def compares(entry: SeccompCall) -> tuple[Compare, ...]:
    """Return the conditions of an entry: values and masks in the bits of the argument that the kernel looks at."""
    found = []
    for where in entry.where:
        bits = looked_at(entry.call, where.arg)
        mask = where.mask & ALL & bits if where.mask else bits
        found.append(Compare(where.arg, where.op, where.value & (bits if where.value < 0 else ALL), mask))
    return tuple(found)


def check_entry(entry: SeccompCall, groups: bool = True) -> str:
    """Return what is wrong with an entry of allow or refuse, empty if nothing is."""
    from nstool.spec.values import quoted, suggest

    if entry.call.startswith("@") and groups:
        if entry.call[1:] not in kinds():
            return f"there is no group {quoted(entry.call)}{suggest(entry.call, (f'@{name}' for name in kinds()))}"
        return "a group has no arguments; name a system call" if entry.where else ""
    if entry.call.startswith("@"):
        what = "a group" if entry.call[1:] in kinds() else "no call"
        return f"{quoted(entry.call)} is {what}: name one system call"
    if entry.call not in names():
        hint = suggest(entry.call, (*names(), *(f"@{name}" for name in kinds())))
        return f"{quoted(entry.call)} is no system call of x86_64, syscalls(2){hint if 'mean' in hint else ''}"
    for where, compare in zip(entry.where, compares(entry)):
        known = arguments(entry.call)
        if not 0 <= where.arg < (len(known) or 6):
            has = ", ".join(f"{number} {name}" for number, (name, _) in enumerate(known)) or "0 to 5"
            return f"{entry.call} has no argument {where.arg}; it has {has}"
        if compare.op == "==" and compare.value & ~compare.mask:
            return (
                f"argument {where.arg} of {entry.call} is never {where.value:#x}: the kernel looks at the bits "
                f"{looked_at(entry.call, where.arg):#x}, and the mask leaves {compare.mask:#x}"
            )
    return ""


def check_words(words: Seccomp) -> None:
    """Raise SpecError, with the key as its place, for what contradicts itself in a table of the spec."""
    if words.errno and words.action not in ("", "errno"):
        raise SpecError(f'errno goes with action = "errno"; with "{words.action}" no call fails', "errno")
    if (words.errno and not words.errno.startswith("E")) or not hasattr(errno, words.errno or "EPERM"):
        from nstool.spec.values import quoted, suggest

        raise SpecError(
            f"{quoted(words.errno)} is no errno, errno(3){suggest(words.errno, errno.errorcode.values())}", "errno"
        )
    refused = {(entry.call, compares(entry)) for entry in words.refuse}
    for number, entry in enumerate(words.allow):
        if (entry.call, compares(entry)) in refused:
            raise SpecError(f"{entry.call} is in refuse too; write it in one of them", f"allow[{number}]")
