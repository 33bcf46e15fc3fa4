"""Seccomp lists as containers have them: JSON of the OCI runtime, and of Docker and Podman, in and out.

https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp; includes, excludes and archMap are
those of moby and containers/common. As with libseccomp, behind runc, a rule of a call without conditions counts before
those with, and two conditions on one argument are alternatives. Of rules of one kind that differ the first one counts.
Otherwise than there, an argument is compared in the bits that the kernel looks at: no rule is got around by the others.
"""

from __future__ import annotations

import errno
from typing import Any

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.security import seccomp_lists as lists
from nstool.security import seccomp_rules as r
from nstool.security.seccomp_arguments import ALL, looked_at
from nstool.security.seccomp_rules import Compare, Rule, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ACTIONS = {
    "SCMP_ACT_KILL": r.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": r.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": r.KILL_PROCESS,
    "SCMP_ACT_TRAP": r.TRAP,
    "SCMP_ACT_ERRNO": r.ERRNO,
    "SCMP_ACT_TRACE": r.TRACE,
    "SCMP_ACT_LOG": r.LOG,
    "SCMP_ACT_ALLOW": r.ALLOW,
}
OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "==",
}
_NATIVE = ("SCMP_ARCH_X86_64", "SCMP_ARCH_NATIVE")
_ARCHITECTURES = ("amd64", "x86_64")  # as includes and excludes call it: Go's name
_LIST = {
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "architectures",
    "archMap",
    "syscalls",
    "flags",
    "listenerPath",
    "listenerMetadata",
}
_CALL = {"name", "names", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"}
_ARG = {"index", "value", "valueTwo", "op"}
_FILTER = {"caps", "arches", "minKernel"}


class Here(Frozen):
    """What includes and excludes ask for. caps: of the command's bounding set, lower case. release: of the kernel."""

    caps: frozenset[str] = frozenset()
    release: tuple[int, int] = (6, 1)


def read(data: object, here: Here) -> Rules:
    """Return the rules in a list that json has read, or in a config.json with one. Raises SpecError, place: the key."""
    if isinstance(data, dict) and "ociVersion" in data:
        linux = data.get("linux")
        data = linux.get("seccomp") if isinstance(linux, dict) else None
        if data is None:
            raise SpecError("the container has no list of system calls", "linux.seccomp")
    table = _table(data, "", _LIST)
    foreign = _foreign(table)
    if flags := [flag for flag in _strings(table, "flags") if flag != "SECCOMP_FILTER_FLAG_TSYNC"]:
        raise SpecError(f"{flags[0]} is not supported: nstool loads filters without flags", "flags")
    if table.get("listenerPath"):
        raise SpecError("there is no listener here that would answer for SCMP_ACT_NOTIFY", "listenerPath")
    default = _action(table, "defaultAction", ("defaultErrnoRet", "defaultErrno"), "")
    rules: list[Rule] = []
    unknown: list[str] = []
    for number, item in enumerate(_array(table, "syscalls", "")):
        rules += _rules(item, f"syscalls[{number}]", here, unknown, default)
    # A rule without conditions counts whatever stands with it, as with libseccomp.
    rules.sort(key=lambda rule: bool(rule.where))
    notes = [f"no system calls of x86_64, left out: {' '.join(dict.fromkeys(unknown))}"] if unknown else []
    if foreign:
        notes.append(f"calls of other architectures kill, those of the list too: {' '.join(foreign)}")
    return Rules(default, tuple(rules), tuple(notes))


def _foreign(table: dict[str, Any]) -> list[str]:
    """Return the other architectures that a list is for. Raises SpecError if it is not for this one."""
    named, mapped = list(_strings(table, "architectures")), list[str]()
    for number, item in enumerate(_array(table, "archMap", "")):
        place = f"archMap[{number}]"
        entry = _table(item, place, {"architecture", "subArchitectures"})
        mapped.append(str(entry.get("architecture", "")))
        if mapped[-1] in _NATIVE:
            named += [mapped[-1], *_strings(entry, "subArchitectures", place)]
    native = set(named) & set(_NATIVE)
    if (named or mapped) and not native:
        key = "architectures" if "architectures" in table else "archMap"
        raise SpecError(f"the list is for {', '.join(named or mapped)}, and this is SCMP_ARCH_X86_64", key)
    return sorted(set(named) - native)


def _rules(item: object, place: str, here: Here, unknown: list[str], default: int) -> Iterator[Rule]:
    table = _table(item, place, _CALL)
    if not _applies(table, place, here):
        return
    action = _action(table, "action", ("errnoRet", "errno"), place)
    names = _strings(table, "names", place) + ([table["name"]] if table.get("name") else [])
    if not names:
        raise SpecError("names no system call", f"{place}.names")
    alternatives = _alternatives(table, place)
    why = str(table.get("comment", ""))
    for name in names:
        if name not in lists.names():
            if r.refuses(action) and not r.refuses(default) and _is_nowhere(str(name)):
                raise _no_call(str(name), f"{place}.names")
            unknown.append(str(name))
            continue
        for where in alternatives:
            yield Rule(name, action, tuple(_as_the_kernel(name, compare) for compare in where), why)


def _no_call(name: str, place: str) -> SpecError:
    from nstool.spec.values import quoted, suggest

    known = suggest(name, lists.names())
    return SpecError(f"{quoted(name)} is no system call, so that the list would not refuse what is meant{known}", place)


def _is_nowhere(name: str) -> bool:
    """Whether no architecture has a system call of this name, as far as libseccomp knows; it has negative stand-ins."""
    from pyseccomp import Arch, resolve_syscall

    return int(resolve_syscall(Arch.X86, name)) == -1


def _applies(table: dict[str, Any], place: str, here: Here) -> bool:
    included, excluded = (_table(table.get(key) or {}, f"{place}.{key}", _FILTER) for key in ("includes", "excludes"))
    if included.get("arches") and not set(included["arches"]) & set(_ARCHITECTURES):
        return False
    if set(excluded.get("arches") or ()) & set(_ARCHITECTURES):
        return False
    if not _caps(included) <= here.caps or _caps(excluded) & here.caps:
        return False
    since = _release(included.get("minKernel"), f"{place}.includes.minKernel")
    until = _release(excluded.get("minKernel"), f"{place}.excludes.minKernel")
    return (not since or here.release >= since) and (not until or here.release < until)


def _caps(table: dict[str, Any]) -> frozenset[str]:
    return frozenset(str(name).lower().removeprefix("cap_") for name in table.get("caps") or ())


def _release(value: object, place: str) -> tuple[int, ...]:
    if not value:
        return ()
    words = str(value).split(".")
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        raise SpecError(f'{value!r} is no release of Linux; it is written as "4.8"', place)
    return tuple(map(int, words))


def _alternatives(table: dict[str, Any], place: str) -> list[tuple[Compare, ...]]:
    found = []
    for number, item in enumerate(_array(table, "args", place)):
        found.append(_compare(_table(item, f"{place}.args[{number}]", _ARG), f"{place}.args[{number}]"))
    if len({compare.arg for compare in found}) < len(found):
        return [(compare,) for compare in found]
    return [tuple(found)]


def _compare(table: dict[str, Any], place: str) -> Compare:
    op = table.get("op")
    if op not in OPERATORS:
        raise _unknown(op, OPERATORS, f"{place}.op")
    index = _number(table, "index", f"{place}.index", 5)
    value = _number(table, "value", f"{place}.value", ALL)
    if op != "SCMP_CMP_MASKED_EQ":
        return Compare(index, OPERATORS[op], value)
    # The mask is the first: (argument & value) == valueTwo.
    return Compare(index, "==", _number(table, "valueTwo", f"{place}.valueTwo", ALL) & value, value)


def _as_the_kernel(call: str, compare: Compare) -> Compare:
    bits = looked_at(call, compare.arg)
    high = ALL & ~bits
    value = compare.value & bits if compare.value & high == high else compare.value  # a negative int
    return compare.replace(mask=compare.mask & bits, value=value)


def _action(table: dict[str, Any], key: str, numbers: tuple[str, str], place: str) -> int:
    name = table.get(key)
    at = f"{place}.{key}" if place else key
    if name in ("SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE"):
        who = "a listener" if name == "SCMP_ACT_NOTIFY" else "a tracer"
        raise SpecError(f"{name} needs {who}, which nstool is not: choose another action", at)
    if name not in ACTIONS:
        raise _unknown(name, ACTIONS, at)
    action = ACTIONS[name]
    if action != r.ERRNO:
        return action
    number = table.get(numbers[0])
    if number is None and table.get(numbers[1]):
        number = getattr(errno, str(table[numbers[1]]), None)
        if not isinstance(number, int):
            raise SpecError(f"{table[numbers[1]]!r} is no errno, errno(3)", f"{place}.{numbers[1]}".lstrip("."))
    if number is None:
        number = errno.EPERM
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 4095:
        raise SpecError(f"{number!r} is no errno; it is a number from 0 to 4095", f"{place}.{numbers[0]}".lstrip("."))
    return r.errno_action(number)


def _unknown(word: object, known: Collection[str], place: str) -> SpecError:
    from nstool.spec.values import quoted, suggest

    return SpecError(f"{quoted(word)} is unknown{suggest(str(word), known)}", place)


def _table(value: object, place: str, keys: Collection[str]) -> dict[str, Any]:
    from nstool.spec.values import kind_of, quoted, suggest

    if not isinstance(value, dict):
        raise SpecError(f"expected an object, got {kind_of(value)}", place)
    for key in value:
        if key not in keys:
            raise SpecError(f"unknown key {quoted(key)}{suggest(key, keys)}", place)
    return value


def _array(table: dict[str, Any], key: str, place: str) -> list[Any]:
    from nstool.spec.values import kind_of

    value = table.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise SpecError(f"expected an array, got {kind_of(value)}", f"{place}.{key}".lstrip("."))
    return value


def _strings(table: dict[str, Any], key: str, place: str = "") -> list[str]:
    found = _array(table, key, place)
    if any(not isinstance(item, str) for item in found):
        raise SpecError("expected an array of strings", f"{place}.{key}".lstrip("."))
    return found


def _number(table: dict[str, Any], key: str, place: str, most: int) -> int:
    value = table.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise SpecError(f"{value!r} is no number from 0 to {most}", place)
    return value


# ---- out ----

_NAMES = {action: name for name, action in ACTIONS.items()}


def write(rules: Rules) -> dict[str, Any]:
    """Return a list as OCI JSON that decides alike, under runc too. Raises SpecError for what that cannot say.

    Conditions there have no order and no "not", so those of a call are taken apart until no two meet.
    """
    groups: dict[tuple[int, tuple[Compare, ...]], list[str]] = {}
    for call, own in rules.by_call().items():
        if isinstance(call, int):  # JSON names calls, and this one has no name yet
            continue
        for action, where in _apart(str(call), own, rules.default):
            groups.setdefault((action, where), []).append(call)
    default, code = _said(rules.default)
    return {
        "defaultAction": default,
        **({"defaultErrnoRet": code} if code is not None else {}),
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [_entry(names, action, where) for (action, where), names in groups.items()],
    }


def _apart(call: str, own: tuple[Rule, ...], default: int) -> list[tuple[int, tuple[Compare, ...]]]:
    """Return (action, conditions) of a call, of which no two hold at once; what has the default is left out."""
    final = default if own[-1].where else own[-1].action
    narrow = [rule for rule in own if rule.where]
    while narrow and narrow[-1].action == final:
        narrow.pop()
    if not narrow:
        return [(final, ())] if final != default else []
    if final == default and all(map(r.is_plain, narrow)) and _in_any_order(narrow):
        return [(rule.action, rule.where) for rule in narrow]
    found: list[tuple[int, tuple[Compare, ...]]] = []
    try:
        left: list[r.Cube] = [{}]
        for rule in narrow:
            for cube in r.cubes(rule.where):
                if rule.action != default:
                    found += [(rule.action, r.compares(met)) for one in left for met in r.met(one, cube)]
                left = r.without(left, cube)
                if len(found) > r.MOST_CUBES:
                    raise r.TooMany
        if final != default:
            found += [(final, r.compares(part)) for part in left]
    except r.TooMany:
        raise SpecError(f"OCI JSON cannot say the conditions of {call} in fewer than {r.MOST_CUBES} rules") from None
    return found


def _in_any_order(rules: list[Rule]) -> bool:
    """Whether rules decide alike in whatever order: they have one action, or no two of them can hold at once."""
    if len({rule.action for rule in rules}) == 1:
        return True
    if any(compare.op != "==" for rule in rules for compare in rule.where):
        return False
    cubes = [{compare.arg: (compare.mask, compare.value) for compare in rule.where} for rule in rules]
    return not any(next(r.met(one, other), None) for number, one in enumerate(cubes) for other in cubes[:number])


def _said(action: int) -> tuple[str, int | None]:
    kind, data = action & r.FULL, action & r.DATA
    if kind not in _NAMES or (data and kind != r.ERRNO):
        raise SpecError(f"OCI JSON has no action {r.action_text(action)}")
    return _NAMES[kind], data if kind == r.ERRNO else None


def _entry(names: list[str], action: int, where: tuple[Compare, ...]) -> dict[str, Any]:
    name, code = _said(action)
    entry: dict[str, Any] = {"names": sorted(names), "action": name}
    if code is not None:
        entry["errnoRet"] = code
    if where:
        entry["args"] = [_argument(compare) for compare in where]
    return entry


def _argument(compare: Compare) -> dict[str, Any]:
    if compare.mask != ALL:
        found = {"value": compare.mask, "valueTwo": compare.value, "op": "SCMP_CMP_MASKED_EQ"}
    else:
        names = {text: name for name, text in OPERATORS.items() if name != "SCMP_CMP_MASKED_EQ"}
        found = {"value": compare.value, "op": names[compare.op]}
    return {"index": compare.arg, **found}
