"""``nstool caps predict`` and ``nstool caps after-setuid``: what becomes of rights, by which rules and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nstool.cli import answer
from nstool.cli.caps_words import placed, say_set, sets_as_json
from nstool.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from nstool.inspect.execution import Subject
    from nstool.security.credentials import Ids
    from nstool.security.predict import Prediction, Process, System
    from nstool.spec.model import IdMap

SETS_HELP = (
    "The sets to start from instead of its own: clauses as of setcap, with b for the bounding and a for the ambient "
    'set: "=ep", "cap_net_raw=pi cap_net_raw+a all-b cap_net_raw+b". The bounding set is full unless b says else. '
    "May be repeated: the clauses follow one another."
)
IDS_HELP = "{} to start from, as the process gives them: one for all, or REAL:EFFECTIVE[:SAVED[:FILESYSTEM]]."


def _options(function: Callable[..., int]) -> Callable[..., int]:
    # What both commands take.
    for option in reversed(
        (
            click.option("--pid", metavar="PID|NAME", help="The process that is to do it; else it is nstool itself."),
            click.option("--sets", multiple=True, metavar="TEXT", help=SETS_HELP),
            click.option("--securebits", metavar="BIT,...", help='Its securebits, "" for none: noroot,keep_caps …'),
            click.option("--kernel", metavar="RELEASE", help="Rules of this kernel, as 6.12, not of the running one."),
            click.option(
                "--suid-dumpable", type=click.IntRange(0, 2), help="Value of fs.suid_dumpable to reckon with."
            ),
            click.option("--json", "json_wanted", is_flag=True, help="Print JSON."),
        )
    ):
        function = option(function)
    return function


@click.command(
    "predict",
    epilog="""\b
Examples:
  nstool caps predict /bin/su                               what would I become by executing su?
  nstool caps predict --pid web /usr/bin/ping               and the command of the sandbox "web"?
  nstool caps predict --sets = --uid 1000 --nnp /bin/su     an ordinary user with no_new_privs
  nstool caps predict --sets "cap_net_raw=pi cap_net_raw+a" --uid 1000 /bin/ls   an ambient capability
""",
)
@click.argument("file")
@_options
@click.option("--uid", metavar="IDS", help=IDS_HELP.format("User ids"))
@click.option("--gid", metavar="IDS", help=IDS_HELP.format("Group ids"))
@click.option("--groups", metavar="GID,...", help='Its supplementary groups, "" for none.')
@click.option("--no-new-privs/--new-privs", "--nnp", "no_new_privs", default=None, help="Whether no_new_privs is set.")
@click.option(
    "--shares-fs/--own-fs",
    default=None,
    help="Whether another process shares its root and working directory, clone(2) CLONE_FS.",
)
@click.option(
    "--tracer",
    type=click.Choice(["none", "incapable", "capable"]),
    help="Whether it is traced, by one without or with CAP_SYS_PTRACE over it.",
)
def predict(file: str, json_wanted: bool, **options: Any) -> int:
    """Predict what a process becomes by executing FILE: ids, the five sets, securebits, AT_SECURE, dumpability.

    Nothing is executed. Every rule that decides something is shown with its formula, as capabilities(7) writes it, and
    with the numbers of this process and file. P is the process, F the file, a dash (') marks what is after. Looked at
    are mode, owner, file capabilities, "#!" lines, binfmt_misc, the loader, the mount and the user namespace.

    FILE is named as the process names it: a relative one is relative to its working directory. What the kernel does not
    tell, as the securebits of another process, is said below "unknown", with what was taken for it; options say it.
    Security modules (SELinux, AppArmor) are not asked.
    """
    from nstool.inspect.execution import execution, host, subject

    pid = _pid(options["pid"])
    changes = _changes(subject(pid), options)
    if not pid:  # it stands for what a shell starts, which shares its directories with nobody
        changes.setdefault("shares_fs", False)
    found = execution(file, pid, changes, _system(host(), options))
    if json_wanted:
        program = {
            "files": [one.asdict() for one in found.program.files],
            "loader": found.program.loader.asdict() if found.program.loader else None,
        }
        answer.show({**_as_json(found.subject, found.prediction), "program": program, "unknown": found.unknown})
        return 0
    from nstool.cli.console import cell, for_lines

    console = for_lines()
    what = ", by ".join(one.path for one in found.program.files)
    console.print(cell(f"{_who(found.subject, options)} executes {what}", "bold"), soft_wrap=True)
    render(found.prediction, console)
    _print_unknown(found.unknown, console)
    return 0


@click.command(
    "after-setuid",
    epilog="""\b
Examples:
  nstool caps after-setuid --uid 1000:1000:1000                   root becomes user 1000: what is left?
  nstool caps after-setuid --uid 1000:1000:1000 --securebits keep_caps
  nstool caps after-setuid --uid=-1:1000:-1                       only the effective id
  nstool caps after-setuid --fsuid 1000                           setfsuid(2), as file servers do
""",
)
@_options
@click.option("--from", "start", metavar="IDS", help=IDS_HELP.format("User ids"))
@click.option(
    "--uid", metavar="R:E:S", help="The ids of setresuid(2), -1 for one that stays; one number for all three."
)
@click.option("--fsuid", type=int, metavar="UID", help="The id of setfsuid(2).")
def after_setuid(json_wanted: bool, start: str | None, uid: str | None, fsuid: int | None, **options: Any) -> int:
    """Predict the capability sets of a process after a change of its user ids: setresuid(2), setfsuid(2).

    Shows each rule of capabilities(7), "Effect of user ID changes on capabilities", that applies: what is cleared when
    no id of 0 is left, what follows the effective and the filesystem id, SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP.
    setuid(2) with CAP_SETUID is R:E:S with three times the same id, without it -1:E:-1.
    """
    from nstool.inspect.execution import host, subject
    from nstool.security.predict import after_setfsuid, after_setresuid

    if (uid is None) == (fsuid is None):
        raise click.UsageError("give either --uid R:E:S, for setresuid(2), or --fsuid UID, for setfsuid(2)")
    who = subject(_pid(options["pid"]))
    process = who.process.replace(**_changes(who, {**options, "uid": start, "place": "--from"}))
    system = _system(host(), options)
    if fsuid is not None:
        found = after_setfsuid(process, fsuid, system)
        what = f"setfsuid({fsuid})"
    else:
        wanted = placed("--uid", _three, uid)
        found = after_setresuid(process, *wanted, system=system)
        what = "setresuid({}, {}, {})".format(*wanted)
    unknown = {key: text for key, text in who.unknown.items() if key != "securebits" or options["securebits"] is None}
    if json_wanted:
        answer.show({**_as_json(who, found), "unknown": unknown})
        return 0
    from nstool.cli.console import cell, for_lines

    console = for_lines()
    console.print(cell(f"{_who(who, {**options, 'uid': start})} calls {what}", "bold"), soft_wrap=True)
    render(found, console)
    _print_unknown(unknown, console)
    return 0


# Reading the options


def _pid(target: str | None) -> int:
    from nstool.inspect.proc import process

    return process(target) if target else 0


def _changes(who: Subject, options: dict[str, Any]) -> dict[str, Any]:
    # The fields of Process that the options give, others than its own.
    from nstool.security import capabilities, securebits

    process = who.process
    changes: dict[str, Any] = {}
    if options["sets"]:
        last = capabilities.last_cap()
        changes["sets"] = placed("--sets", capabilities.sets_from_text, " ".join(options["sets"]), last)
    if options["securebits"] is not None:
        words = [word for word in options["securebits"].split(",") if word.strip()]
        changes["securebits"] = placed("--securebits", securebits.mask, words)
    if options.get("uid") is not None:
        changes["uids"] = placed(options.get("place", "--uid"), _ids, options["uid"], process.uid_map)
    if options.get("gid") is not None:
        changes["gids"] = placed("--gid", _ids, options["gid"], process.gid_map)
    if options.get("groups") is not None:
        words = [word for word in options["groups"].split(",") if word.strip()]
        changes["groups"] = tuple(placed("--groups", _outside, word, process.gid_map) for word in words)
    for name in ("no_new_privs", "shares_fs"):
        if options.get(name) is not None:
            changes[name] = options[name]
    if options.get("tracer") is not None:
        changes["tracer"] = options["tracer"].replace("none", "")
    return changes


def _system(system: System, options: dict[str, Any]) -> System:
    if options["suid_dumpable"] is not None:
        system = system.replace(suid_dumpable=options["suid_dumpable"])
    if options["kernel"] is not None:
        system = system.replace(release=placed("--kernel", _release, options["kernel"]))
    return system


def _release(text: str) -> tuple[int, int]:
    words = text.split(".")[:2]
    if len(words) < 2 or not all(word.isascii() and word.isdecimal() for word in words):
        raise SpecError(f"{text!r} is no release of a kernel; write it as 6.12")
    return int(words[0]), int(words[1])


def _number(text: str) -> int:
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise SpecError(f"{text!r} is no id; give a number")
    return int(text)


def _outside(text: str, maps: Sequence[IdMap]) -> int:
    # The reader's number of an id that the process gives.
    from nstool.security.idmap import to_outside

    number = _number(text)
    outside = to_outside(maps, number)
    if outside is None:
        raise SpecError(f"id {number} is not mapped in the user namespace of the process: it can have no such id")
    return outside


def _ids(text: str, maps: Sequence[IdMap]) -> Ids:
    from nstool.security.credentials import Ids

    given = [_outside(word, maps) for word in text.split(":")]
    if len(given) > 4:
        raise SpecError(f"{text!r} has {len(given)} ids; a process has four: REAL:EFFECTIVE:SAVED:FILESYSTEM")
    real, effective = given[0], given[min(1, len(given) - 1)]
    saved, filesystem = given[2] if len(given) > 2 else effective, given[3] if len(given) > 3 else effective
    return Ids(real, effective, saved, filesystem)


def _three(text: str) -> tuple[int, int, int]:
    given = [_number(word) for word in text.split(":")]
    if len(given) == 1:
        given *= 3
    if len(given) != 3 or min(given) < -1:
        raise SpecError(f"{text!r} are no three ids; write them as REAL:EFFECTIVE:SAVED, -1 for one that stays")
    return given[0], given[1], given[2]


# Showing it


def _who(who: Subject, options: dict[str, Any]) -> str:
    name = f"process {who.pid} ({who.command})"
    return f"a process such as {name}, but as the options say," if options["sets"] or options["uid"] else name


def render(found: Prediction, console: Console) -> None:
    """Print the rules with formulas and numbers, then the outcome: before beside after, what changes in green."""
    from nstool.cli.console import Table, cell

    rules = Table()
    for rule in found.rules:
        rules.add_row(cell(rule.name, "bold"), cell(rule.formula))
        rules.add_row("", cell(rule.numbers))
    if found.rules:
        console.print(rules)
    if found.after is None:
        console.print(cell(f"it fails: {found.errno_name}: {found.why}", "red"), soft_wrap=True)
        return
    table = Table("", "before", "after")
    before, after = _rows(found.before), _rows(found.after)
    for name, text in before.items():
        table.add_row(cell(name), cell(text), cell(after[name], "green" if text != after[name] else ""))
    for name, text in _outcome(found).items():
        table.add_row(cell(name), "", cell(text))
    console.print(table)


def _rows(process: Process) -> dict[str, str]:
    from nstool.security import capabilities, securebits

    rows = {}
    for what, ids, maps in (("uid", process.uids, process.uid_map), ("gid", process.gids, process.gid_map)):
        for name in ids.__fields__:
            rows[f"{name} {what}"] = _id(getattr(ids, name), maps)
    rows |= {name: say_set(getattr(process.sets, name), mask_too=True) for name in capabilities.SETS}
    rows["securebits"] = " ".join(securebits.names(process.securebits)) or "none"
    rows["no_new_privs"] = "yes" if process.no_new_privs else "no"
    return rows


def _id(id: int, maps: Sequence[IdMap]) -> str:
    from nstool.security.idmap import to_inside

    own = to_inside(maps, id)
    if own == id:
        return str(id)
    return f"{'not mapped' if own is None else own} (outside {id})"


def _outcome(found: Prediction) -> dict[str, str]:
    dumpable = {0: "0: no core dump, /proc/PID belongs to root", 1: "1: yes", 2: "2: only root reads the core dump"}
    secure = {"AT_SECURE": "1: ld.so ignores LD_PRELOAD and the like" if found.secure else "0"}
    return {
        **(secure if found.path else {}),  # only execve(2) has a path
        "dumpable": "as before" if found.dumpable is None else dumpable[found.dumpable],
        "death signal": "stays, if there is one" if found.death_signal else "cleared, PR_SET_PDEATHSIG of prctl(2)",
    }


def _print_unknown(unknown: dict[str, str], console: Console) -> None:
    from nstool.cli.console import cell

    for name, text in unknown.items():
        console.print(cell(f"unknown: {name}: {text}"), soft_wrap=True)


def _as_json(who: Subject, found: Prediction) -> dict[str, Any]:
    sides = {"before": found.before, "after": found.after}
    return {
        "pid": who.pid,
        "command": who.command,
        "userns": who.userns,
        **{key: side and {**side.asdict(), "sets": sets_as_json(side.sets)} for key, side in sides.items()},
        "rules": [rule.asdict() for rule in found.rules],
        "error": found.error,
        "errno_name": found.errno_name,
        "why": found.why,
        "secure": found.secure,
        "dumpable": found.dumpable,
        "death_signal": found.death_signal,
        "path": found.path,
    }
