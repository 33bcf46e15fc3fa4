"""Make a list of the system calls that a command has made, none looser than the list that it ran under. Pure."""

from __future__ import annotations

from nstool.frozen import Frozen
from nstool.security.seccomp_arguments import ALL, arguments, looked_at
from nstool.security.seccomp_rules import LOG, Rule, Rules, action_text, refuses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.security.seccomp_rules import Compare

# In every list: the launch, what any program does on its way out, and what the kernel lets a signal do.
ALWAYS = ("execve", "exit", "exit_group", "read", "restart_syscall", "rt_sigreturn", "write")


class Learned(Frozen):
    """What was learned. allow, refuse: entries as of [seccomp]. refused: calls that the list did not let through, with
    its answer. logged: calls that were made and logged. unknown: numbers without a name.
    """

    allow: tuple[str, ...]
    refuse: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    unknown: tuple[int, ...] = ()


def interest(rules: Rules, number: dict[str, int]) -> dict[int, tuple[int, ...]]:
    """Return the arguments that matter to a list, by the number of the call. number: of each name."""
    found = {}
    for call, own in rules.by_call().items():
        indices = sorted({compare.arg for rule in own for compare in rule.where})
        if indices:
            found[number[call] if isinstance(call, str) else call] = tuple(indices)
    return found


def learned(rules: Rules, seen: Iterable[tuple[str | int, tuple[int, ...]]]) -> Learned:
    """Return what is enough for the calls that were seen, with all six arguments, under these rules."""
    allow: set[str] = {name for name in ALWAYS if not refuses(rules.decide(name))}
    refuse: set[str] = set()
    refused: dict[str, str] = {}
    logged: set[str] = set()
    unknown: set[int] = set()
    for call, args in seen:
        rule = _matching(rules, call, args)
        action = rule.action if rule else rules.default
        if isinstance(call, int):
            unknown.add(call)
        elif refuses(action):
            refused[call] = action_text(action)
        else:
            if action == LOG:
                logged.add(call)
            if rule and rule.where:
                allow.add(entry(rule))
            else:  # whatever its arguments, but for those that are refused
                allow.add(call)
                refuse |= {entry(other) for other in rules.of(call) if other.where and _is_refused(other.action)}
    # A call that is allowed whatever its arguments needs no entry for some of them.
    narrow = {text for text in allow if "(" in text and text.partition("(")[0] in allow}
    return Learned(
        tuple(sorted(allow - narrow)),
        tuple(sorted(refuse - allow)),  # what was made and logged is allowed
        tuple(f"{call} ({text})" for call, text in sorted(refused.items())),
        tuple(sorted(logged)),
        tuple(sorted(unknown)),
    )


def _is_refused(action: int) -> bool:
    """Whether a list refuses, or would but for action = log."""
    return refuses(action) or action == LOG


def _matching(rules: Rules, call: str | int, args: tuple[int, ...]) -> Rule | None:
    for rule in rules.of(call):
        if all(compare.holds(args) for compare in rule.where):
            return rule
    return None


def entry(rule: Rule) -> str:
    """Return a rule as an entry of allow or refuse: "socket(family == 0x1)"."""
    if not rule.where:
        return str(rule.call)
    return f"{rule.call}({', '.join(condition(str(rule.call), compare) for compare in rule.where)})"


def condition(call: str, compare: Compare) -> str:
    """Return one condition as an entry has it."""
    known = arguments(call)
    name = known[compare.arg][0] if compare.arg < len(known) else str(compare.arg)
    masked = "" if compare.mask in (looked_at(call, compare.arg), ALL) else f" & {compare.mask:#x}"
    value = str(compare.value) if compare.value < 10 else f"{compare.value:#x}"
    return f"{name}{masked} {compare.op} {value}"


def text(found: Learned, about: str) -> str:
    """Return a file for ``--seccomp``: TOML. about: what was run, for its first lines."""
    lines = [*(f"# {line}" for line in about.splitlines()), 'base = "empty"', *_array("allow", found.allow)]
    if found.refuse:
        lines += _array("refuse", found.refuse)
    return "\n".join(lines) + "\n"


def _array(key: str, entries: tuple[str, ...]) -> list[str]:
    from textwrap import wrap

    plain = " ".join(f'"{one}",' for one in entries if "(" not in one)
    return [
        f"{key} = [",
        *(f"  {line}" for line in wrap(plain, 110, break_on_hyphens=False)),
        *(f'  "{one}",' for one in entries if "(" in one),
        "]",
    ]
