"""``nstool seccomp learn``: run a command, and write the list of system calls that is enough for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nstool.sandbox.launch import Sandbox
    from nstool.sandbox.tracing import Seen
    from nstool.security.seccomp_learned import Learned
    from nstool.security.seccomp_rules import Rules
    from nstool.spec.check import Place
    from nstool.spec.model import Spec

OTHERS = {"-o": True, "--output": True, "--force": False, "--add": False, "--json": False}


@click.command(
    "learn",
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  nstool seccomp learn -o calls.toml web.toml         run a spec, write the list
  nstool run --seccomp calls.toml web.toml            no more than it needs
  nstool seccomp learn --seccomp-action log -- ./web  what would be refused?
""",
)
@click.option("-o", "--output", metavar="FILE", help="Where to write the list; else to standard output at the end.")
@click.option("--add", is_flag=True, help="Add to the list in FILE: another run, other ways through the program.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, not a list.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] SPEC|-- COMMAND [ARGS]")
def learn(words: tuple[str, ...], output: str | None, add: bool, force: bool, as_json: bool) -> int:
    """Run a command as `nstool run` would, and write the list of the system calls that it makes.

    The command and its children are traced, ptrace(2), which slows them down. They run under the list that the spec
    asks for: what that refuses is refused, is told at the end, and is not in the list that is written. So this one is
    never looser. It has what the run has needed: run all that the program can do, with --add again and again.

    With --seccomp-action log what the list would refuse is made, told, and in the list.

    The exit status is the command's.
    """
    from nstool.cli import options

    spec, rest, place = options.parse(sys.argv[3:], OTHERS)
    path = rest.get("-o") or rest.get("--output")
    target = path if isinstance(path, str) else "-"
    _check(spec, rest, target)
    rules = _rules(spec, place)
    seen, status = _run(spec, rules, place)
    found = _learned(rules, seen)
    _tell(found)
    if "--json" in rest:
        from nstool.cli import answer

        answer.show({**found.asdict(), "status": status})
    else:
        _write(found, target, spec, "--add" in rest, "--force" in rest)
    return status


def _check(spec: Spec, rest: dict[str, str | bool], target: str) -> None:
    import os

    from nstool.errors import SpecError

    if "--json" in rest and target != "-":
        raise SpecError("prints, -o FILE writes: give one of them", "--json")
    if "--add" in rest and target == "-":
        raise SpecError("goes with -o FILE, the list that is added to", "--add")
    if os.path.splitext(target)[1] in (".json", ".bpf", ".kafel"):
        raise SpecError("what is learned is written in TOML: name it FILE.toml", target)
    if target != "-" and not os.path.isdir(os.path.dirname(target) or "."):
        raise SpecError("its directory does not exist", target)
    if target != "-" and os.path.exists(target) and not {"--add", "--force"} & rest.keys():
        raise SpecError("exists; --add adds to it, --force overwrites it", target)


def _rules(spec: Spec, place: Place) -> Rules:
    from nstool.errors import SpecError
    from nstool.security.seccomp_read import ours, rules_of
    from nstool.spec.places import Located

    with Located(place):
        found = rules_of(spec.seccomp, ours(spec.capabilities.bounding))
        if isinstance(found, bytes):
            raise SpecError("a compiled filter names no calls; learn under the list that it was made from", "seccomp")
    return found


def _run(spec: Spec, rules: Rules, place: Place) -> tuple[Seen, int]:
    """Run the command; the calls that were seen, and its exit status."""
    from nstool.cli.forward import Forward
    from nstool.sandbox.launch import Prepared, own_terminals
    from nstool.sandbox.tracing import Tracer
    from nstool.security.seccomp_learned import interest
    from nstool.spec.places import Located

    with Tracer(interest(rules, _numbers())) as tracer, Forward() as forward, Located(place):
        prepared = Prepared(spec, own_terminals(spec), listed=True, trace=tracer.attach)
        with prepared.launch() as sandbox:
            status = _follow(sandbox, forward)
        return tracer.result(), status


def _follow(sandbox: Sandbox, forward: object) -> int:
    from nstool.cli.forward import Forward

    assert isinstance(forward, Forward)
    forward.to(sandbox)
    if sandbox.terminal >= 0:
        from nstool.cli.relay import relay

        relay(sandbox, forward)
    return sandbox.wait().status


def _numbers() -> dict[str, int]:
    from nstool.security.seccomp import call_number
    from nstool.security.seccomp_lists import names

    return {name: call_number(name) for name in names()}


def _learned(rules: Rules, seen: Seen) -> Learned:
    from nstool.security.seccomp_bpf import X86_64
    from nstool.security.seccomp_learned import interest, learned

    numbers = _numbers()
    names = {number: name for name, number in numbers.items()}
    kept = interest(rules, numbers)
    calls = []
    for arch, number, values in seen:
        if arch != X86_64:  # it was killed for it
            continue
        args = [0] * 6
        for index, value in zip(kept.get(number, ()), values):
            args[index] = value
        calls.append((names.get(number, number), tuple(args)))
    return learned(rules, calls)


def _tell(found: Learned) -> None:
    """Say on standard error what is no part of the list, or would not be without action = log."""
    rows = (
        ("refused while it ran, and not in the list", found.refused),
        ("made and logged, for action = log; in the list", found.logged),
        ("calls that have no name here, and are not in the list", tuple(map(str, found.unknown))),
    )
    for what, calls in rows:
        if calls:
            click.echo(f"nstool: {what}: {', '.join(calls)}", err=True)


def _write(found: Learned, target: str, spec: Spec, add: bool, force: bool) -> None:
    import os

    from nstool.cli.write import write
    from nstool.security.seccomp_learned import text

    if add and os.path.exists(target):
        found, force = _added(found, target), True
    about = (
        f"System calls of {spec.command[0]!r}, as nstool has seen them: what it has made, and what any program needs."
    )
    write(target, text(found, about).encode(), 0o666, force)
    if target != "-":
        click.echo(f"nstool: {target}: {len(found.allow)} entries; nstool run --seccomp {target} uses it", err=True)


def _added(found: Learned, path: str) -> Learned:
    from nstool.errors import SpecError
    from nstool.security.seccomp_learned import entry
    from nstool.security.seccomp_lists import compares
    from nstool.security.seccomp_rules import ALLOW, Rule
    from nstool.spec.load import seccomp_words

    with open(path, encoding="utf-8") as file:
        words = seccomp_words(file.read(), path)
    if words.base != "empty" or words.action or words.errno:
        raise SpecError('is no list that learn has written: its base is not "empty"', path)
    old = {key: {entry(Rule(e.call, ALLOW, compares(e))) for e in getattr(words, key)} for key in ("allow", "refuse")}
    allow = old["allow"] | set(found.allow)
    allow -= {one for one in allow if "(" in one and one.partition("(")[0] in allow}
    return found.replace(allow=tuple(sorted(allow)), refuse=tuple(sorted(old["refuse"] | set(found.refuse))))
