"""``nstool task``: a process whole."""

from __future__ import annotations

import click

from nstool.errors import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from nstool.inspect.fds import Fd
    from nstool.inspect.task import Card, Limit, Relative, Thread

    Rows = list[tuple[str, str]]

EPILOG = """\b
Examples:
  nstool task 4711          all of process 4711 on a page
  nstool task web --fds     of the command of the sandbox web, with every open file
  nstool task 4711 --json   for programs; all of it, also what the page shortens
"""

_OVERFLOW = 65534  # what the kernel shows of an id that has no number for the reader
_MOST = 12  # threads or relatives that are shown


@click.command("task", epilog=EPILOG)
@click.argument("target", metavar="TARGET")
@click.option("--fds", "list_fds", is_flag=True, help="List the open files, with who holds the other ends.")
@click.option("--env", "environment", is_flag=True, help="List the environment it was started with.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(target: str, list_fds: bool, environment: bool, as_json: bool) -> int:
    """Show all that the kernel tells of TARGET, a pid, a tid or a sandbox's name.

    Its relatives and who would get its children; threads with what each waits for; signals by name; scheduling;
    limits and what is used of them; open files by kind; what confines it, and with whom it shares its namespaces.
    What you may not see is said to be so, with the reason. Of a thread, what threads have of their own is its own.
    """
    from nstool.cli import answer
    from nstool.inspect.proc import process
    from nstool.inspect.task import card

    found = card(process(target), environment=environment)
    if as_json:
        answer.show(found.asdict())
        return 0
    from nstool.cli.console import for_lines

    console = for_lines()
    _head(found, console)
    _kin(found, console)
    _threads(found, console)
    for title, rows in _sections(found).items():
        _section(title, rows, console)
    _limits(found.limits, console)
    _files(found, console, all_=list_fds)
    if environment:
        lines = (_or_why(found, "environment", None),) if found.environment is None else found.environment
        _section("environment", [("", line) for line in lines], console)
    _notes(found, console)
    return 0


def _head(found: Card, console: Console) -> None:
    from datetime import datetime

    from nstool.cli.console import heading

    console.print(heading(found.pid, found.tid, found.comm).append(f", {found.state}"))
    started = datetime.fromtimestamp(found.started).astimezone().isoformat(" ", "seconds")
    ids = found.facts
    _rows(
        [
            *([("ended", found.ended)] if found.ended else []),
            (
                "command",
                " ".join(found.command) or ("a thread of the kernel" if found.kernel_thread else "none any more"),
            ),
            ("program", _or_why(found, "exe", found.exe)),
            ("directory", _or_why(found, "cwd", found.cwd)),
            ("root", _or_why(found, "root", found.root)),
            ("started", started),
            ("effective ids", f"{_id('uid', ids.uids.effective)}, {_id('gid', ids.gids.effective)}"),
        ],
        console,
    )


def _id(what: str, number: int) -> str:
    if number != _OVERFLOW:
        return f"{what} {number}"
    with open(f"/proc/self/{what}_map") as file:
        ranges = [[int(word) for word in line.split()] for line in file]
    if (
        any(first <= number < first + count for first, _, count in ranges)
        and len(ranges) == 1
        and ranges[0][2] > 1 << 31
    ):
        return f"{what} {number}"  # all ids have a number here, and this one is its own
    return (
        f"{what} {number} (the overflow id: it has no number in your user namespace, or is {number}; see nstool creds)"
    )


def _or_why(found: Card, name: str, value: str | None) -> str:
    if value is not None:
        return value
    return "none any more" if found.has_ended else f"unknown: {_why(found, name)}"


def _why(found: Card, name: str) -> str:
    """Return why something is not known; what is the same of many things is left to one note."""
    why = found.unread[name]
    return _SEE if why.split(";")[0] == _hidden(found) else why


_SEE = "see the note"


def _hidden(found: Card) -> str:
    """Return why the process may not be looked into, "" if it may."""
    causes = [why.split(";")[0] for why in found.unread.values()]
    most = max(causes, key=causes.count, default="")
    return most if causes.count(most) >= 3 else ""


def _kin(found: Card, console: Console) -> None:
    from rich.tree import Tree

    from nstool.cli.console import cell

    kin = found.kin
    top = Tree("", hide_root=True)
    node = top
    for relative in reversed(kin.ancestors):
        node = node.add(cell(_relative(relative)))
    node = node.add(cell(f"{found.pid} {found.comm}", "bold"))  # of a thread: its process, by the thread's name
    for child in kin.children[:_MOST]:
        node.add(cell(_relative(child)))
    if len(kin.children) > _MOST:
        node.add(cell(f"and {len(kin.children) - _MOST} more"))
    console.print(cell("kin", "bold"))
    console.print(top)
    rows = [
        ("group, session", f"{kin.group or 'none here'}, {kin.session or 'none here'}"),
        ("terminal", kin.terminal or "none"),
        ("tracer", _relative(kin.tracer) if kin.tracer else _no_tracer(found)),
        *([] if found.has_ended else [("orphans", kin.orphans.text)]),
    ]
    _rows(rows, console)


def _relative(one: Relative) -> str:
    below = f", {one.below} below" if one.below else ""
    return f"{one.pid} {one.comm} ({one.state}{below})"


def _no_tracer(found: Card) -> str:
    return "one that is not visible here" if found.state == "stopped by its tracer" else "none"


def _threads(found: Card, console: Console) -> None:
    from nstool.cli.console import Table, cell

    heads = ["threads", "name", "state", "waits in", "system call", "policy", "cpu", "signals waiting"]
    others = {one.tid: text for one in found.threads if (text := _otherwise(one))}
    table = Table(*heads, *(["not as the process"] if others else []), below=(4, 8) if others else (4,), spare=(5, 6))
    first = found.threads[:_MOST]
    shown = [*first, *[one for one in found.threads[_MOST:] if one.tid in others][:_MOST]]
    for one in shown:
        policy = f"{one.policy} {one.rt_priority or one.nice}"
        pending = " ".join(one.pending)
        row = (str(one.tid), one.comm, one.state, one.wchan, one.call, policy, str(one.processor), pending)
        table.add_row(*map(cell, row), *([cell(others.get(one.tid, ""))] if others else []))
    console.print(table)
    if len(found.threads) > len(shown):
        console.print(f" and {len(found.threads) - len(shown)} threads more, which --json shows")


def _otherwise(one: Thread) -> str:
    # What a thread has otherwise than the main thread.
    words = [f"{kind}:[{inode}]" for kind, inode in one.namespaces.items()]
    for what, ids in (("uid", one.uids), ("gid", one.gids)):
        if ids is not None:
            numbers = (ids.real, ids.effective, ids.saved, ids.filesystem)
            words.append(f"{what} {numbers[0] if len(set(numbers)) == 1 else '/'.join(map(str, numbers))}")
    if one.groups is not None:
        words.append(f"groups {' '.join(map(str, one.groups)) or 'none'}")
    words += [f"{name} capabilities {_capabilities(set_.mask)}" for name, set_ in one.capabilities.items()]
    return ", ".join(words)


def _sections(found: Card) -> dict[str, Rows]:
    return {
        "signals": _signals(found),
        "scheduling": _scheduling(found),
        "confinement": _confinement(found),
        "namespaces": _namespaces(found),
        "cgroups": [
            ("version 2" if one.version == 2 else ",".join(one.controllers), one.path) for one in found.facts.cgroups
        ],
    }


def _namespaces(found: Card) -> Rows:
    from nstool.kinds import KINDS

    inodes, unread = found.facts.namespaces, found.facts.unread
    if "namespaces" in found.unread:
        return [("all", f"unknown: {_why(found, 'namespaces')}")]
    if found.has_ended:
        return [(kind, f"{kind}:[{inodes[kind]}]{_shared(found, kind)}") for kind in KINDS if kind in inodes] + [
            ("others", "none any more, as it has ended")
        ]
    return [
        (kind, f"{kind}:[{inodes[kind]}]{_shared(found, kind)}")
        if kind in inodes
        else (kind, f"unknown: {found.ended or unread[f'namespaces.{kind}']}")
        for kind in KINDS
    ]


def _signals(found: Card) -> Rows:
    known = found.signals
    blocked = {one.blocked for one in found.threads}
    return [
        ("waiting", _set(known.pending)),
        ("blocked", _set(blocked.pop()) if len(blocked) == 1 else "differs from thread to thread, see --json"),
        ("ignored", _set(known.ignored)),
        ("caught", _set(known.caught)),
        ("queued", f"{known.queued} of at most {known.queue_limit} of its user"),
    ]


def _set(names: tuple[str, ...]) -> str:
    # A nearly full set is told by what it lacks.
    from nstool.security import signals

    lacking = [name for name in signals.names((1 << 64) - 1) if name not in names]
    if len(lacking) < 32:
        return f"all but {' '.join(lacking)}" if lacking else "all"
    return _words(names)


def _scheduling(found: Card) -> Rows:
    known = found.scheduling
    weights = ", ".join(f"{name} {text}" for name, text in known.weights.items())
    autogroup = f"{known.autogroup[0]}, nice {known.autogroup[1]}" if known.autogroup else "none"
    return [
        (
            "policy",
            f"{known.policy}, " + (f"priority {known.rt_priority}" if known.rt_priority else f"nice {known.nice}"),
        ),
        ("processors", known.affinity),
        ("autogroup", autogroup),
        ("of its cgroups", weights or "none"),
        ("i/o", known.io or f"unknown: {found.unread.get('io', '')}"),
        ("time used", f"{known.user_seconds:.2f} s in user mode, {known.system_seconds:.2f} s in the kernel"),
    ]


def _confinement(found: Card) -> Rows:
    known = found.facts
    dumpable, why = found.dumpable
    filters = f", {plural(known.seccomp_filters, 'filter')}" if known.seccomp_filters else ""
    return [
        ("capabilities", _capabilities(known.capabilities["effective"].mask)),
        ("no_new_privs", "yes" if known.no_new_privs else "no"),
        ("seccomp", f"{known.seccomp}{filters}"),
        ("LSM label", known.lsm or f"unknown: {known.unread.get('lsm', 'none')}"),
        ("dumpable", f"{dumpable}: {why}" if why else dumpable),
        (
            "securebits",
            _words(known.securebits) if known.securebits is not None else f"unknown: {known.unread['securebits']}",
        ),
    ]


def _capabilities(mask: int) -> str:
    # A nearly full set is told by what it lacks.
    from nstool.security.capabilities import full, names

    lacking = names(full() & ~mask)
    if len(lacking) < len(names(mask)):
        return f"all but {' '.join(lacking)}" if lacking else "all"
    return _words(names(mask))


def _shared(found: Card, kind: str) -> str:
    with_ = found.shared[kind]
    return f", shared with {', '.join(with_)}" if with_ else ""


def _limits(limits: tuple[Limit, ...], console: Console) -> None:
    from nstool.cli.console import Table, cell
    from nstool.security.rlimits import describe, unit

    table = Table("limits", "soft:hard", "used", "")
    for one in limits:
        used = "" if one.used is None else str(one.used)
        table.add_row(*map(cell, (f"{one.name} {unit(one.name)}", describe((one.soft, one.hard)), used, one.note)))
    console.print(table)


def _files(found: Card, console: Console, *, all_: bool) -> None:
    from collections import Counter

    from nstool.cli.console import cell

    if found.fds is None:
        console.print(cell(f"open files unknown: {_why(found, 'fds')}"))
        return
    counts = Counter(one.kind for one in found.fds)
    _section("open files", [(kind, str(number)) for kind, number in counts.most_common()], console)
    if all_:
        _fds(found.fds, console)
        if found.hidden:
            console.print(f" others may be among {plural(found.hidden, 'process')} whose files you may not see")


def _fds(fds: tuple[Fd, ...], console: Console) -> None:
    from nstool.cli.console import Table, cell

    table = Table("fd", "kind", "mode", "what", "", "other end", below=(5,))
    for one in fds:
        others = ", ".join(f"{holder.pid} {holder.comm} fd {holder.fd}" for holder in one.others)
        table.add_row(
            *map(cell, (str(one.fd), one.kind, one.mode or "path", one.target, one.detail or one.unread, others))
        )
    console.print(table)


def _words(words: Iterable[str]) -> str:
    return " ".join(words) or "none"


def _section(title: str, rows: Rows, console: Console) -> None:
    from nstool.cli.console import cell

    console.print(cell(title, "bold"))
    _rows(rows or [("", "none")], console)


def _rows(rows: Rows, console: Console) -> None:
    from nstool.cli.console import Table, cell

    table = Table()
    for name, text in rows:
        table.add_row(cell(f"  {name}"), cell(text))
    console.print(table)


def _notes(found: Card, console: Console) -> None:
    from nstool.cli.console import cell

    hidden = _hidden(found)
    if hidden:
        whole = max((why for why in found.unread.values() if why.split(";")[0] == hidden), key=len)
        console.print(cell(f"note: it may not be looked into, so that much is unknown: {whole}"))
    others = [one for one in found.threads if _otherwise(one)]
    if others and found.tid == found.pid:
        tids = ", ".join(str(one.tid) for one in others[:_MOST]) + (", …" if others[_MOST:] else "")
        words = {
            "namespaces": any(one.namespaces for one in others),
            "ids": any(ids is not None for one in others for ids in (one.uids, one.gids, one.groups)),
            "capabilities": any(one.capabilities for one in others),
        }
        has = f"thread {tids} has" if len(others) == 1 else f"threads {tids} have"
        what = ", ".join(word for word, is_so in words.items() if is_so)
        console.print(cell(f"note: its {has} other {what} than its main thread, whose are shown; ask by tid"))
    shown = {"exe", "cwd", "root", "fds", "io", "environment", "namespaces"}
    shown |= {what for what, why in found.unread.items() if why.split(";")[0] == hidden}
    notes = {why for what, why in found.unread.items() if what not in shown}
    for why in sorted(notes):
        what = ", ".join(sorted(name for name, text in found.unread.items() if text == why and name not in shown))
        console.print(cell(f"note: unknown: {what}: {why}"))
