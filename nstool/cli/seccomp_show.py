"""``nstool seccomp show``, ``test`` and ``export``: what a list says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from nstool.cli import answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nstool.security.seccomp_rules import Rule, Rules
    from nstool.spec.model import Seccomp

JSON = click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
ALLOWED, REFUSED = 0, 1  # exit status of test


@click.command(
    "show",
    epilog="""\b
Examples:
  nstool seccomp show strict             what it allows, refuses, or decides by arguments, group by group
  nstool seccomp show docker.json        also what of a file has no meaning here
  nstool seccomp show web.toml --json    the list of a spec, for a program to read
""",
)
@click.argument("list_", metavar="LIST")
@JSON
def show(list_: str, json_wanted: bool) -> int:
    """Show what a list answers to each system call, by groups, and why.

    The word of a group, as @mount, stands for its calls in allow and refuse of [seccomp]. Of a compiled filter each
    call is asked with arguments of zero; what it answers after it has looked at them is said to depend on them.
    """
    found, place = listed(list_)
    notes: tuple[str, ...] = ()
    if isinstance(found, bytes):
        calls, default = _asked(found), ""
    else:
        calls, default, notes = _told(found), _action(found.default), found.notes
    if json_wanted:
        answer.show({"list": place, "default": default, "calls": calls, "notes": list(notes)})
        return 0
    _print(place, default, calls, notes)
    return 0


def listed(word: str) -> tuple[Rules | bytes, str]:
    """Return a LIST of the command line, and where it is from. Raises SpecError."""
    from nstool.errors import SpecError
    from nstool.security.seccomp_read import rules_of
    from nstool.spec.check import SECCOMP_BASES
    from nstool.spec.model import Seccomp
    from nstool.spec.values import quoted, seccomp_is_file, suggest

    if word in SECCOMP_BASES:
        return rules_of(word), word
    if not seccomp_is_file(word) and not os.path.isfile(word):
        raise SpecError(f"neither a list that there is nor a file{suggest(word, SECCOMP_BASES)}", quoted(word))
    words, caps = _of_spec(word)
    if words is None:
        return rules_of(os.path.join(os.getcwd(), word)), word
    from nstool.security.seccomp_read import ours

    name = words if isinstance(words, str) else "[seccomp]"
    assert isinstance(words, (str, Seccomp))
    return rules_of(words, ours(caps)), f"{name} of {word}"


def _of_spec(path: str) -> tuple[str | Seccomp | None, tuple[str, ...]]:
    """Return the list of a spec, and its capabilities; None for a file that is a list itself."""
    import tomllib

    from nstool.spec.model import Spec

    if not path.endswith(".toml"):
        return None, ()
    try:
        with open(path, "rb") as file:
            keys = set(tomllib.load(file))
    except (OSError, ValueError):  # said by who reads it
        return None, ()
    if not keys & (set(Spec.__fields__) - {"errno"}):
        return None, ()
    from nstool.spec.load import load

    spec = load(path)
    return spec.seccomp, spec.capabilities.bounding


def _told(rules: Rules) -> list[dict[str, Any]]:
    from nstool.security.seccomp import call_number
    from nstool.security.seccomp_lists import group_of
    from nstool.security.seccomp_rules import refuses

    found = []
    named = rules.by_call()
    for call, group in sorted(group_of().items(), key=lambda row: row[0]):
        own = named.get(call, ())
        final = rules.default if not own or own[-1].where else own[-1].action
        narrow = [rule for rule in own if rule.where]
        while narrow and narrow[-1].action == final:
            narrow.pop()
        why = own[-1].why if own and not own[-1].where else narrow[0].why if narrow else ""
        found.append(
            {
                "call": call,
                "number": call_number(call),
                "group": group,
                "answer": "by arguments" if narrow else _action(final),
                "otherwise": _action(final) if narrow else "",
                "allowed": not refuses(final) or any(not refuses(rule.action) for rule in narrow),
                "rules": [_rule(rule) for rule in narrow],
                "why": why,
            }
        )
    return found


def _asked(program: bytes) -> list[dict[str, Any]]:
    from nstool.security import seccomp_bpf
    from nstool.security.seccomp import call_number
    from nstool.security.seccomp_lists import group_of
    from nstool.security.seccomp_rules import refuses

    found = []
    for call, group in sorted(group_of().items()):
        number = call_number(call)
        action, looked = seccomp_bpf.asked(program, number)
        text = "by arguments" if looked else _action(action)
        row = {"call": call, "number": number, "group": group, "answer": text}
        otherwise = _action(action) if looked else ""
        found.append({**row, "otherwise": otherwise, "allowed": not refuses(action), "rules": [], "why": ""})
    return found


def _action(action: int) -> str:
    from nstool.security.seccomp_rules import action_text

    return action_text(action)


def _rule(rule: Rule) -> dict[str, str]:
    from nstool.security.seccomp_learned import condition

    where = ", ".join(condition(str(rule.call), compare) for compare in rule.where)
    return {"action": _action(rule.action), "where": where, "why": rule.why}


def _print(place: str, default: str, calls: list[dict[str, Any]], notes: Iterable[str]) -> None:
    from nstool.cli.console import Table, cell, for_lines

    colours = {"allow": "green", "log": "yellow", "by arguments": "yellow"}
    table = Table("group", "answer", "system calls", "why", below=(3,), fixed=(0, 1))
    last = ""
    for (group, text, why), names in _rows(calls).items():
        head = f"@{group}" if group != last else ""
        table.add_row(cell(head, "bold"), cell(text, colours.get(text, "red")), cell(" ".join(names)), cell(why, "dim"))
        last = group
    console = for_lines()
    console.print(cell(f"{place}{f': {default} to what is not named' if default else ''}", "bold"))
    console.print(table)
    for note in notes:
        console.print(cell(f"note: {note}"))


def _rows(calls: list[dict[str, Any]]) -> dict[tuple[str, str, str], list[str]]:
    """Return the calls of each (group, answer, why): first those without conditions, then these, then what is left."""
    from nstool.security.seccomp_lists import kinds

    found: dict[tuple[str, str, str], list[str]] = {}
    for group in kinds():
        own = [one for one in calls if one["group"] == group]
        narrow = [one for one in own if one["rules"] or one["answer"] == "by arguments"]
        for one in own:
            if one not in narrow:
                found.setdefault((group, one["answer"], one["why"]), []).append(one["call"])
        for one in narrow:
            for rule in one["rules"]:
                key = group, f"{rule['action']} if", rule["why"]
                found.setdefault(key, []).append(f"{one['call']}({rule['where']})")
        for one in narrow:
            otherwise = "else" if one["rules"] else "perhaps"
            found.setdefault((group, f"{otherwise} {one['otherwise']}", ""), []).append(one["call"])
    return found


@click.command(
    "test",
    epilog="""\b
Examples:
  nstool seccomp test default unshare 0x10000000       a new user namespace?
  nstool seccomp test strict socket AF_INET SOCK_RAW   a raw socket?
  nstool seccomp test web.json 462                     a call by its number
""",
)
@click.argument("list_", metavar="LIST")
@click.argument("call", metavar="CALL")
@click.argument("args", metavar="[ARGS...]", nargs=-1, type=click.UNPROCESSED)
@JSON
def test(list_: str, call: str, args: tuple[str, ...], json_wanted: bool) -> int:
    """Say what the filter of a list answers to a system call with these arguments, by running the compiled filter.

    ARGS are numbers, or constants of the kernel as AF_INET or "SOCK_STREAM|SOCK_CLOEXEC"; those that are not given are
    0. The exit status is 0 if the call goes through to the kernel, 1 if not; 2 means that it could not be asked.
    """
    from nstool.security import seccomp, seccomp_bpf
    from nstool.security.seccomp_rules import refuses

    found, place = listed(list_)
    number, name = _call(call)
    values = _arguments(args)
    program = seccomp.guarded(found) if isinstance(found, bytes) else seccomp.compile_rules(found)
    action = seccomp_bpf.answer(program, number, values)
    why = "" if isinstance(found, bytes) else _why(found, name, values, action)
    if json_wanted:
        told = {"list": place, "call": name, "number": number, "args": list(values), "answer": _action(action)}
        answer.show({**told, "allowed": not refuses(action), "why": why})
    else:
        click.echo(f"{_action(action)}{f': {why}' if why else ''}")
    return REFUSED if refuses(action) else ALLOWED


def _call(word: str) -> tuple[int, str]:
    from nstool.errors import SpecError
    from nstool.security.seccomp import call_name, call_number
    from nstool.security.seccomp_bpf import X32
    from nstool.security.seccomp_lists import check_entry
    from nstool.spec.model import SeccompCall

    if word.isascii() and word.isdecimal() and len(word) <= 10:
        number = int(word)
        return number, call_name(number) if number < X32 else f"call {number}"
    if wrong := check_entry(SeccompCall(word), groups=False):
        raise SpecError(wrong, "CALL")
    return call_number(word), word


def _arguments(words: Sequence[str]) -> tuple[int, ...]:
    from nstool.errors import SpecError
    from nstool.spec.values import constant

    if len(words) > 6:
        raise SpecError(f"a system call has at most six, {len(words)} are given", "ARGS")
    try:
        values = tuple(constant(word) for word in words)
    except SpecError as error:
        raise SpecError(error.message, "ARGS") from None
    for value in values:
        if not -(1 << 63) <= value < 1 << 64:
            raise SpecError(f"{value} does not fit into 64 bits", "ARGS")
    return values


def _why(rules: Rules, name: str, args: tuple[int, ...], action: int) -> str:
    from nstool.security.seccomp_bpf import X32
    from nstool.security.seccomp_learned import condition

    call: str | int = name if not name.startswith("call ") else int(name.removeprefix("call "))
    if isinstance(call, int) and call >= X32:
        return "a call of another ABI"
    for rule in rules.of(call):
        if rule.action == action and all(compare.holds(args) for compare in rule.where):
            where = ", ".join(condition(str(rule.call), compare) for compare in rule.where)
            return "; ".join(part for part in (rule.why, where) if part)
    return "no condition of it holds" if rules.of(call) else "not named in the list"


@click.command(
    "export",
    epilog="""\b
Examples:
  nstool seccomp export default -o nstool.json         for docker run --security-opt seccomp=nstool.json
  nstool seccomp export web.toml --format bpf -o web.bpf
  nstool seccomp export strict --format c              struct sock_filter, for a program of yours
""",
)
@click.argument("list_", metavar="LIST")
@click.option("--format", "form", type=click.Choice(["oci", "bpf", "c"]), default="oci", help="The language; else oci.")
@click.option("-o", "--output", metavar="FILE", default="-", help="Where to write it; else to standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def export(list_: str, form: str, output: str, force: bool) -> int:
    """Write a list as OCI JSON, as compiled BPF, or as C.

    OCI JSON decides alike wherever it is read: conditions there have no order, so those of a call are taken apart until
    no two meet. A compiled filter can be written as BPF or C alone.
    """
    import json
    import os
    import sys

    from nstool.cli.write import write
    from nstool.errors import SpecError
    from nstool.security import seccomp, seccomp_oci

    wrong = {"oci": (".toml", ".bpf", ".c"), "bpf": (".toml", ".json", ".c"), "c": (".toml", ".json", ".bpf")}[form]
    if os.path.splitext(output)[1] in wrong:
        raise SpecError(f"its name says another format than --format {form}, and so it would be read", output)
    found, place = listed(list_)
    if form == "oci":
        if isinstance(found, bytes):
            raise SpecError("is a compiled filter, which cannot be turned back into names: --format bpf or c", place)
        data = (json.dumps(seccomp_oci.write(found), indent=2) + "\n").encode()
    else:
        data = seccomp.guarded(found) if isinstance(found, bytes) else seccomp.compile_rules(found)
        if form == "c":
            data = _as_c(data).encode()
        elif output == "-" and sys.stdout.isatty():
            raise SpecError("a compiled filter is no text: -o FILE", "--format bpf")
    write(output, data, 0o666, force)
    return 0


def _as_c(program: bytes) -> str:
    from nstool.security.seccomp_bpf import instructions

    rows = "".join(f"\t{{{code:#04x}, {jt}, {jf}, {k:#010x}}},\n" for code, jt, jf, k in instructions(program))
    return f"/* linux/filter.h */\nstatic const struct sock_filter filter[] = {{\n{rows}}};\n"
