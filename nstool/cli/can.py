"""``nstool can``: whether one process may act on another, or on a file; and by which rule of the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.tree import Tree

    from nstool.security.verdict import Check, Verdict

STATUS = {"yes": 0, "no": 1, "unknown": 3}

# Action to (what OBJECT is, the options that it takes).
ACTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "signal": ("TARGET", ("--signal",)),
    "kill-group": ("TARGET", ("--signal",)),
    "ptrace": ("TARGET", ()),
    "read": ("TARGET", ("--file",)),
    "setns": ("TARGET", ("--types",)),
    "prlimit": ("TARGET", ()),
    "renice": ("TARGET", ()),
    "open": ("FILE", ()),
    "write": ("FILE", ()),
    "exec": ("FILE", ()),
    "delete": ("FILE", ()),
    "chmod": ("FILE", ()),
    "chown": ("FILE", ("--owner",)),
    "bind-port": ("PORT", ()),
    "mount": ("", ()),
    "sethostname": ("", ()),
}

EPILOG = """\b
What can be asked:
  nstool can A signal B       may A send it a signal? (kill-group: its group)
  nstool can A ptrace B       attach to it: debug, read and write its memory?
  nstool can A read B         see what /proc/B shows to few: environ, maps, ns?
  nstool can A setns B        enter its namespaces?
  nstool can A prlimit B      change its limits? (renice: its priority)
  nstool can A open FILE      open it to read? (write: to write, exec: execute)
  nstool can A delete FILE    remove the name? (chmod: change its mode)
  nstool can A chown FILE     give it to another user or group?
  nstool can A bind-port N    bind a TCP or UDP socket to the port?
  nstool can A mount          mount where it is? (sethostname: name its host)

\b
Examples:
  nstool can web signal 1 --signal KILL
                              may the command of sandbox web kill init?
  nstool can 4711 read web --file environ
                              may process 4711 read web's environment?
  nstool can $$ setns web --types net
                              may this shell enter web's network?
"""


@click.command("can", epilog=EPILOG)
@click.argument("subject", metavar="A")
@click.argument("action", type=click.Choice(tuple(ACTIONS)), metavar="ACTION")
@click.argument("object_", metavar="[B|FILE|PORT]", required=False)
@click.option("--signal", "name", help="Of signal, kill-group: this signal, by name or number; else any.")
@click.option("--file", help="Of read: this file of /proc/B, as environ or mem; else the right to look alone.")
@click.option("--types", help="Of setns: these namespaces, comma-separated; else those that differ.", metavar="TYPES")
@click.option("--owner", help="Of chown: the new owner, in numbers as you see them; else any.", metavar="[UID][:GID]")
@click.option("--long", is_flag=True, help="Show every rule that was looked at, also of the checks that are passed.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all checks and rules, in the kernel's order.")
def command(
    subject: str,
    action: str,
    object_: str | None,
    name: str | None,
    file: str | None,
    types: str | None,
    owner: str | None,
    long: bool,
    as_json: bool,
) -> int:
    """Say whether A may do something, and by which rule of the kernel. Nothing is tried.

    A and B are a pid, a tid, or the name of a sandbox: its command. ACTION is signal, kill-group, ptrace, read, setns,
    prlimit or renice with B; open, write, exec, delete, chmod or chown with a FILE, an absolute path as A sees it;
    bind-port with a PORT; mount; or sethostname. The answer is yes (exit status 0), no (1), or unknown (3), then with
    what would tell; 2 and 125 mean that it could not be asked.
    """
    options = {"--signal": name, "--file": file, "--types": types, "--owner": owner}
    _check(action, object_, options)
    verdict = _ask(subject, action, object_ or "", options)
    if as_json:
        from nstool.cli import answer

        answer.show(verdict.report())
    else:
        show(verdict, long=long)
    return STATUS[verdict.answer]


def _check(action: str, object_: str | None, options: dict[str, str | None]) -> None:
    what, takes = ACTIONS[action]
    if what and not object_:
        raise click.UsageError(f"{action} needs a {what}: nstool can A {action} {what}")
    if object_ and not what:
        raise click.UsageError(f"{action} takes nothing after it, and {object_!r} was given")
    for option, value in options.items():
        if value is not None and option not in takes:
            of = ", ".join(name for name, (_, its) in ACTIONS.items() if option in its)
            raise click.UsageError(f"{option} goes with {of}, not with {action}")


def _ask(subject: str, action: str, object_: str, options: dict[str, str | None]) -> Verdict:
    from nstool.inspect import can
    from nstool.inspect.proc import process

    a = process(subject)
    if ACTIONS[action][0] == "TARGET":
        b = process(object_)
        number = _signal(options["--signal"])
        about: dict[str, Callable[[], Verdict]] = {
            "signal": lambda: can.signal(a, b, number),
            "kill-group": lambda: can.kill_group(a, b, number),
            "ptrace": lambda: can.ptrace(a, b),
            "read": lambda: can.read(a, b, options["--file"] or ""),
            "setns": lambda: can.setns(a, b, _types(options["--types"])),
            "prlimit": lambda: can.prlimit(a, b),
            "renice": lambda: can.renice(a, b),
        }
        return about[action]()
    uid, gid = _owner(options["--owner"])
    alone: dict[str, Callable[[], Verdict]] = {
        "open": lambda: can.may_open(a, object_, "read"),
        "write": lambda: can.may_open(a, object_, "write"),
        "exec": lambda: can.may_open(a, object_, "exec"),
        "delete": lambda: can.delete(a, object_),
        "chmod": lambda: can.chmod(a, object_),
        "chown": lambda: can.chown(a, object_, uid, gid),
        "bind-port": lambda: can.bind_port(a, _port(object_)),
        "mount": lambda: can.mount(a),
        "sethostname": lambda: can.sethostname(a),
    }
    return alone[action]()


def _signal(text: str | None) -> int:
    if text is None:
        return 0
    from nstool.security.signals import number_of

    return number_of(text, "--signal")


def _types(text: str | None) -> tuple[str, ...]:
    from nstool.cli import types_

    return types_.read(text)


def _port(text: str) -> int:
    from nstool.errors import SpecError

    if not (text.isascii() and text.isdecimal()) or len(text) > 5:
        raise SpecError(f"{text!r} is no port: a number from 0 to 65535", "PORT")
    return int(text)


def _owner(text: str | None) -> tuple[int | None, int | None]:
    from nstool.errors import SpecError

    if text is None:
        return None, None
    uid, _, gid = text.partition(":")
    for word in (uid, gid):
        if word and not (word.isascii() and word.isdecimal() and len(word) <= 10 and int(word) < 0xFFFFFFFF):
            raise SpecError(
                f"{word!r} is no id: a number from 0 to 4294967294; names differ from root to root", "--owner"
            )
    if not uid and not gid:
        raise SpecError("names neither a user nor a group; write 1000, 1000:1000 or :1000", "--owner")
    return int(uid) if uid else None, int(gid) if gid else None


def show(verdict: Verdict, *, long: bool = False) -> None:
    """Print the answer, then the checks: of those passed the rule that held, of the others all rules and facts."""
    from rich.tree import Tree

    from nstool.cli.console import cell, for_lines

    colour = {"yes": "green", "no": "red", "unknown": "yellow"}[verdict.answer]
    tree = Tree(cell(_headline(verdict), f"bold {colour}"), guide_style="dim")
    aside = [] if long else [check for check in verdict.checks if check.aside and check.passed]
    for check in verdict.checks:
        if check not in aside:
            _branch(tree, check, long or not check.passed)
    if aside:
        tree.add(cell(f"yes {', '.join(dict.fromkeys(check.function for check in aside))}", "dim"))
    console = for_lines()
    console.print(tree)
    for heading, texts in (("would tell", verdict.needs), ("unless", verdict.unless), ("note", verdict.notes)):
        for text in texts:
            console.print(cell(f"{heading}: {text}"))


def _headline(verdict: Verdict) -> str:
    verb = {"yes": "may", "no": "may not", "unknown": "perhaps may"}[verdict.answer]
    b = f" B = {verdict.target}" if verdict.target[:1].isdecimal() else f" {verdict.target}" if verdict.target else ""
    errno = f": {verdict.errno}" if verdict.errno else ""
    return f"{verdict.answer}: A = {verdict.subject} {verb} {verdict.action}{b}{errno}"


def _branch(tree: Tree, check: Check, whole: bool) -> None:
    from nstool.cli.console import cell
    from nstool.security.verdict import word

    held = next((rule for rule in check.rules if rule.holds), None)
    if held is not None and not whole:
        text = held.why or f"{held.question} {'; '.join(held.facts) or 'yes'}"
        tree.add(cell(f"yes {check.function}, {check.man}: {text}"))
        return
    branch = tree.add(cell(f"{word(check.passed)} {check.function}, {check.man}: {check.question}"))
    for rule in check.rules:
        leaf = branch.add(cell(f"{word(rule.holds)} {rule.function}: {rule.question}"))
        for fact in rule.facts:
            leaf.add(cell(fact, "dim"))
