"""``nstool caps show`` and ``nstool caps text``: the capabilities of a process; masks, names and texts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from nstool.cli import answer
from nstool.cli.caps_words import of_set, say_set, sets_as_json

if TYPE_CHECKING:
    from rich.console import Console

    from nstool.inspect.caps import ProcessCaps, ThreadCaps, UserNamespace
    from nstool.security.capabilities import CapSets


@click.command(
    "show",
    epilog="""\b
Examples:
  nstool caps show              what this shell's commands have, its securebits included
  nstool caps show 1234         a process with each of its threads
  nstool caps show web --json   the command of the sandbox "web", for a program to read
""",
)
@click.argument("target", metavar="[PID|NAME]", required=False)
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
def show(target: str | None, json_wanted: bool) -> int:
    """Show the capability sets of a process and of its threads, and the user namespace in which they hold.

    PID is a process or thread, NAME a sandbox, whose command is meant. Without either it is nstool itself, which has
    what the shell has given it. Threads that differ from the first are shown beside it. The kernel tells a process only
    its own securebits, so those of another are unknown.
    """
    from nstool.cli.console import for_lines
    from nstool.inspect.caps import process_caps
    from nstool.inspect.proc import own_pid, process

    found = process_caps(process(target) if target else own_pid())
    if json_wanted:
        answer.show(_as_json(found))
        return 0
    render(found, for_lines())
    return 0


def render(found: ProcessCaps, console: Console) -> None:
    """Print the table: one row a fact, one column for each kind of thread."""
    from nstool.cli.console import Table, cell, cells
    from nstool.security import capabilities

    kinds = _kinds(found)
    table = Table("", *(_title(found, threads, len(kinds) > 1) for threads in kinds))
    rows: dict[str, list[str]] = {}
    for threads in kinds:
        one = threads[0]
        for name in capabilities.SETS:
            rows.setdefault(name, []).append(say_set(getattr(one.sets, name), mask_too=True))
        rows.setdefault("as text", []).append(capabilities.to_text(one.sets, capabilities.last_cap()))
        rows.setdefault("uid", []).append(_ids(one.uids))
        rows.setdefault("gid", []).append(_ids(one.gids))
        rows.setdefault("securebits", []).append(_securebits(found, one))
        rows.setdefault("no_new_privs", []).append("yes" if one.no_new_privs else "no")
    for name, texts in rows.items():
        table.add_row(cell(name), *(cells(text, "green" if text != texts[0] else "") for text in texts))
    console.print(table)
    lacking = " ".join(capabilities.names(found.lacking)) or "nothing"
    console.print(cell(f"missing from the bounding set: {lacking}"))
    console.print(cell(f"they hold in {_where(found)}"))


def _kinds(found: ProcessCaps) -> list[list[ThreadCaps]]:
    # Threads by what they have: the main thread's kind first.
    kinds: dict[object, list[ThreadCaps]] = {}
    for thread in found.threads:
        same = (thread.uids, thread.gids, thread.sets, thread.no_new_privs)
        kinds.setdefault(same, []).append(thread)
    return list(kinds.values())


def _title(found: ProcessCaps, threads: list[ThreadCaps], several: bool) -> str:
    if threads[0].tid == found.tid:
        from nstool.inspect.proc import title

        more = f" and {len(threads) - 1} other threads" if threads[1:] else ""
        return f"{title(found.pid, found.tid)}: {found.command}{more}"
    shown = ", ".join(f"{thread.tid}: {thread.command}" for thread in threads[:3])
    return f"thread {shown}" + (f" and {len(threads) - 3} more" if threads[3:] else "")


def _ids(ids: Any) -> str:
    numbers = (ids.real, ids.effective, ids.saved, ids.filesystem)
    if len(set(numbers)) == 1:
        return str(ids.real)
    return "real {}, effective {}, saved {}, filesystem {}".format(*numbers)


def _securebits(found: ProcessCaps, thread: ThreadCaps) -> str:
    from nstool.security import securebits

    if thread.securebits is None:
        return f"unknown: {found.unknown['securebits']}"
    set_ = securebits.names(thread.securebits)
    lines = [name + (", locked" if f"{name}_locked" in set_ else "") for name in set_ if not name.endswith("_locked")]
    for name in (name.removesuffix("_locked") for name in set_ if name.endswith("_locked")):
        if name not in set_:
            lines.append(f"{name} is off, locked")
    return "\n".join(lines) or "none"


def _where(found: ProcessCaps) -> str:
    if found.userns is None:
        return f"an unknown user namespace: {found.unknown['userns']}"
    return f"user:[{found.userns.inode}], {describe(found.userns)}"


def describe(userns: UserNamespace) -> str:
    """Say what a user namespace is to the reader, and so what capabilities in it are worth."""
    if userns.initial:
        return "the initial user namespace: over everything on this host"
    where = (
        "your own" if userns.own else f"{userns.level} below the highest that you may see" if userns.level else "one"
    )
    return f"{where}, made by uid {userns.owner}: over what belongs to it and to those below, and nothing else"


def _as_json(found: ProcessCaps) -> dict[str, Any]:
    from nstool.security import securebits

    threads = []
    for thread in found.threads:
        bits = thread.securebits
        threads.append(
            {
                **thread.asdict(),
                "sets": sets_as_json(thread.sets),
                "securebits": None if bits is None else {"mask": bits, "names": list(securebits.names(bits))},
            }
        )
    return {**found.asdict(), "threads": threads, "lacking": of_set(found.lacking)}


@click.command(
    "text",
    epilog="""\b
Examples:
  nstool caps text 0000000000003000           the names of a mask, as /proc/PID/status has it
  nstool caps text net_admin,net_raw          the mask of some names
  nstool caps text "cap_net_raw=ep cap_kill+i" the three sets that a text says
""",
)
@click.argument("words", nargs=-1, required=True, metavar="MASK|NAMES|TEXT")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
def text(words: tuple[str, ...], json_wanted: bool) -> int:
    """Translate capabilities between masks, names and the text form of libcap, whichever is given.

    MASK is 0x… or 16 hexadecimal digits. NAMES are with or without "cap_", in either case, or numbers, separated by
    commas or blanks. TEXT has clauses as setcap(8) and cap_from_text(3) take them: names, then =, + or -, then flags of
    e (effective), i (inheritable), p (permitted).
    """
    from nstool.security import capabilities

    last = capabilities.last_cap()
    given = " ".join(words).strip()
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9a-fA-F]{16}", given):
        _print_mask(int(given, 16), json_wanted)
    elif any(char in given for char in "=+-"):
        _print_text(capabilities.from_text(given, last), last, json_wanted)
    else:
        listed = [word for word in re.split(r"[,\s]+", given) if word]
        for word in listed:
            if word.isdecimal():
                click.echo(
                    f"note: {word} is taken as the number of a capability, bit {word}; a mask begins with 0x", err=True
                )
        everything = capabilities.full(last) if "all" in listed else 0
        _print_mask(capabilities.mask(word for word in listed if word != "all") | everything, json_wanted)
    return 0


def _print_mask(mask: int, json_wanted: bool) -> None:
    from nstool.security import capabilities

    if json_wanted:
        answer.show(of_set(mask))
        return
    listed = ",".join(f"cap_{name}" if not name.isdecimal() else name for name in capabilities.names(mask))
    click.echo(f"0x{mask:016x}={listed}")


def _print_text(sets: CapSets, last: int, json_wanted: bool) -> None:
    from nstool.security import capabilities

    canonical = capabilities.to_text(sets, last)
    if json_wanted:
        answer.show({**sets_as_json(sets), "text": canonical})
        return
    for name in sets.__fields__:
        click.echo(f"{name:12} 0x{getattr(sets, name):016x} {say_set(getattr(sets, name))}")
    click.echo(f"{'as text':12} {canonical}")
