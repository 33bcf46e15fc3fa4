"""``nstool creds``: whose a process is, in the terms of any user namespace."""

from __future__ import annotations

from contextlib import nullcontext

import click

from nstool.errors import plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.console import Console

    from nstool.inspect.creds import Credentials, Id, Terms, UserNamespace

EPILOG = """\b
Examples:
  nstool creds 4711           ids of process 4711, as you see them and as it sees them itself
  nstool creds web            the same of the command of the sandbox web
  nstool creds 4711 --in 815  and in the terms of the user namespace of process 815
"""


@click.command("creds", epilog=EPILOG)
@click.argument("target", metavar="TARGET")
@click.option("--in", "where", default="", metavar="TARGET|FILE", help="In the terms of this user namespace too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(target: str, where: str, as_json: bool) -> int:
    """Show the user and group ids of TARGET, a pid or a sandbox's name, inside and outside its user namespace.

    Real, effective, saved and filesystem ids and the supplementary groups: as you see them, as the process
    itself does, and with --in in the terms of any user namespace below yours. An id without a map is shown by the
    kernel as the overflow id, 65534; that is told apart from a real 65534. Then the user namespaces from yours
    down to that of TARGET: who owns each, its maps, and its limits on namespaces and watches (/proc/sys/user).
    """
    from nstool.cli import answer
    from nstool.inspect import nsfile
    from nstool.inspect.creds import credentials
    from nstool.inspect.proc import process

    pid = process(target)
    with nsfile.named(where, "user", "--in") if where else nullcontext() as asked:
        found = credentials(pid, asked)
    if as_json:
        answer.show(found.asdict())
    else:
        _print(found)
    return 0


def _print(found: Credentials) -> None:
    from nstool.cli.console import cell, for_lines, heading

    console = for_lines()
    console.print(heading(found.pid, found.tid, found.comm))
    _ids(found, console)
    if found.threads:
        console.print(cell(f"note: other ids have its threads {' '.join(map(str, found.threads))}"))
    console.print()
    _spaces(found.chain, console)
    _limits(found.chain, console)
    for what, why in found.unread.items():
        console.print(cell(f"note: {_WHAT[what]}: {why}"))


_WHAT = {"chain": "not all of its user namespaces may be read", "its own": "its ids inside are unknown"}


def _ids(found: Credentials, console: Console) -> None:
    from nstool.cli.console import Table, cell

    heads: list[str] = []
    columns: dict[int | None, list[Terms]] = {}
    for terms in found.terms:
        columns.setdefault(terms.namespace, []).append(terms)
    for same in columns.values():
        heads.append(f"{' and '.join(terms.whose for terms in same)}, {_inode(same[0])}")
    table = Table("", *heads)
    shown = [same[0] for same in columns.values()]
    for what in ("uid", "gid"):
        for number, which in enumerate(("real", "effective", "saved", "filesystem")):
            row = (_words(getattr(terms, f"{what}s")[number]) for terms in shown)
            table.add_row(*map(cell, (f"{which} {what}", *row)))
    table.add_row(*map(cell, ("groups", *(_groups(terms.groups) for terms in shown))))
    console.print(table)


def _inode(terms: Terms) -> str:
    return "user namespace unknown" if terms.namespace is None else f"user:[{terms.namespace}]"


def _words(known: Id) -> str:
    if known.state == "unmapped":
        return f"not mapped (shows as {known.number})"
    if known.state == "unknown":
        return f"{known.number}, or not mapped: cannot be told from here"
    return f"{known.number} ({known.name})" if known.name else str(known.number)


def _groups(groups: tuple[Id, ...]) -> str:
    return ", ".join(map(_words, groups)) or "none"


def _spaces(chain: tuple[UserNamespace, ...], console: Console) -> None:
    from nstool.cli.console import Table, cell, cells

    table = Table("user namespaces", "owner", "uid map", "gid map", "setgroups")
    for space in chain:
        where = "  " * space.depth + f"user:[{space.inode}]"
        owner = "unknown" if space.owner is None else _words(space.owner)
        table.add_row(
            cell(where), cell(owner), cells(_map(space, "uid_map")), cells(_map(space, "gid_map")), cell(_denied(space))
        )
    console.print(table)


def _map(space: UserNamespace, name: str) -> str:
    lines = getattr(space, name)
    if lines is None:
        return f"unknown: {space.unread[name]}"
    if [line.count for line in lines] == [0xFFFFFFFF]:
        return "all ids as they are"
    return "\n".join(f"{line.inside} is {line.outside}, {plural(line.count, 'id')}" for line in lines) or "none"


def _denied(space: UserNamespace) -> str:
    return space.setgroups if space.setgroups is not None else "unknown"


def _limits(chain: tuple[UserNamespace, ...], console: Console) -> None:
    from nstool.cli.console import Table, cell

    table = Table("limits", *(f"user:[{space.inode}]" for space in chain))
    names = dict.fromkeys(name for space in chain for name in space.limits or ())
    for name in names:
        table.add_row(*map(cell, (name.removeprefix("max_"), *(_limit(space, name) for space in chain))))
    console.print(table)
    for space in chain:
        if "limits" in space.unread:
            console.print(cell(f"note: limits of user:[{space.inode}] unknown: {space.unread['limits']}"))


def _limit(space: UserNamespace, name: str) -> str:
    if space.limits is None:
        return "unknown"
    used = space.used.get(name)
    return f"{space.limits[name]}" + (f", at least {used} used" if used else "")
