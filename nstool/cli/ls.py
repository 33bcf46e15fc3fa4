"""``nstool ls``: every namespace of the host."""

from __future__ import annotations

import sys

import click

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.inspect import words
from nstool.inspect.namespaces import Census, Namespace, census
from nstool.inspect.where import Where
from nstool.kinds import KINDS
from nstool.plan.describe import printable
from nstool.spec.values import suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

SHOWN = ("type", "inode", "members", "pid", "user", "owner", "kept", "command")
ROOMY = 100  # columns of a terminal on which groups are shown too
NARROWEST = 8  # what a column of words is cut to at most, on a narrow terminal
TREES = ("owner", "parent")


class Field(Frozen):
    """What can be a column and part of a condition. kind: int, str or list."""

    kind: type
    of: Callable[[Namespace], Any]
    about: str


def _count(how: str) -> Callable[[Namespace], int]:
    return lambda ns: ns.count(how)


FIELDS: dict[str, Field] = {
    "type": Field(str, lambda ns: ns.type, f"one of {', '.join(KINDS)}"),
    "inode": Field(int, lambda ns: ns.inode, "its number in /proc/PID/ns while it lives"),
    "id": Field(int, lambda ns: ns.id, "never given again until reboot; Linux 6.18"),
    "members": Field(int, lambda ns: len(ns.pids), "number of processes in it"),
    "pids": Field(list, lambda ns: ns.pids, "all of them"),
    "tids": Field(list, words.tids, "all threads in it, which may have left their process's"),
    "pid": Field(int, lambda ns: ns.oldest or None, "the one that was started first"),
    "command": Field(str, words.command, "its command line, [its name] if it has none"),
    "commands": Field(str, words.commands, "those of all processes in it"),
    "group": Field(str, words.group, "the sandbox, container or service that pid is of, as the map names it"),
    "uid": Field(int, lambda ns: ns.uid, "its effective user id"),
    "user": Field(str, lambda ns: words.user_name(ns.uid), "the name of that"),
    "parent": Field(int, lambda ns: ns.parent, "inode, of user and pid namespaces"),
    "owner": Field(int, lambda ns: ns.owner, "inode of the user namespace that it belongs to"),
    "owner_uid": Field(int, lambda ns: ns.owner_uid, "user id of who made that (of a user namespace: who made it)"),
    "owner_user": Field(str, lambda ns: words.user_name(ns.owner_uid), "the name of that"),
    "kept": Field(str, words.pins_in_words, "what else keeps it alive"),
    "threads": Field(int, _count("thread"), "threads in it whose process is not"),
    "fds": Field(int, _count("fd"), "fds of processes that hold it"),
    "sockets": Field(int, _count("socket"), "sockets in it, of processes that are not"),
    "mounts": Field(int, _count("mount"), "bind mounts of its file, in all mount namespaces"),
    "paths": Field(list, lambda ns: tuple(dict.fromkeys(pin.path for pin in ns.pinned("mount"))), "their paths"),
    "for_children": Field(int, _count("for_children"), "processes whose later children will be in it"),
    "children": Field(int, _count("child"), "namespaces whose parent it is"),
    "owned": Field(int, _count("owned"), "namespaces that belong to it"),
}


def _types(context: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value not in KINDS:
            raise click.BadParameter(f"no namespace type {value!r}{suggest(value, KINDS)}", context, param)
    return values


def _fields(option: str, text: str, signs: str) -> Iterator[tuple[str, str]]:
    """Yield (sign, name) for each word of "a,-b". Raises SpecError."""
    for word in text.split(","):
        sign = word[:1] if word[:1] and word[0] in signs else ""
        if word[len(sign) :] not in FIELDS:
            raise SpecError(f"no column {word[len(sign) :]!r}{suggest(word[len(sign) :], FIELDS)}", option)
        yield sign, word[len(sign) :]


_COLUMNS = "\n".join(f"  {name:12} {field.about}" for name, field in FIELDS.items())
_HELP = f"""List the namespaces of the host, also those without a process: what keeps them, whose they are.

TYPE: user, mnt, pid, net, uts, ipc, cgroup, time; all without one. Namespaces are found by processes, their threads,
open files and sockets, by bind mounts in any mount namespace, by their children and by what they own.

Without privilege your own processes are looked into; notes say what could not be seen.

CONDITION: comparisons of columns (== != < <= > >= in, not in), joined by and, or, not and brackets; numbers, words,
none for what there is not. `in` looks in a list, in brackets, or for a part of a word: 'nginx' in command. A column
alone asks whether there is any.

Columns:

\b
{_COLUMNS}
"""


@click.command(
    "ls",
    help=_HELP,
    epilog="""\b
Examples:
  nstool ls net                           all network namespaces
  nstool ls --where 'members == 0'        those without a process, and what keeps them
  nstool ls --where '1234 in pids'        those that process 1234 is in
  nstool ls --where '1235 in tids'        those that thread 1235 is in
  nstool ls --where "group == 'web'"      those of the sandbox web
  nstool ls --where "'nginx' in commands" those with a process of nginx
  nstool ls --tree                        what belongs to which user namespace
  nstool ls pid --tree parent             which pid namespace was made in which
  nstool ls net --raw --columns inode     for a script: fields with a tab between them
""",
)
@click.argument("types", nargs=-1, metavar="[TYPE]...", callback=_types)
@click.option("--where", metavar="CONDITION", help="Only those for which this is true, as 'members == 0'.")
@click.option(
    "--tree",
    is_flag=False,
    flag_value="owner",
    metavar="[owner|parent]",
    help="As a tree: below the user namespace that owns it, or the namespace that it was made in.",
)
@click.option("--columns", metavar="LIST", help="Show these, comma-separated; +LIST: these too.")
@click.option("--sort", metavar="LIST", help="Sort by these columns; with - before one, the greatest first.")
@click.option("--raw", is_flag=True, help="For scripts: no headings, nothing shortened, a tab between fields.")
@click.option("--no-headings", "-n", is_flag=True, help="Leave the headings away.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    types: tuple[str, ...],
    where: str | None,
    tree: str | None,
    columns: str | None,
    sort: str | None,
    raw: bool,
    no_headings: bool,
    as_json: bool,
) -> int:
    """Do what _HELP says."""
    _refuse_pointless(types, tree, columns, raw, as_json)
    names = _columns(columns, tree)
    keys = [(sign, name) for sign, name in _fields("--sort", sort, "-")] if sort is not None else []
    condition = None
    if where is not None:
        condition = Where(
            where, {name: field.kind for name, field in FIELDS.items()}, {"type": tuple(KINDS)}, "--where"
        )
    found = census()
    wanted = [ns for ns in found.namespaces if _wanted(ns, types, tree, condition)]
    _sort(wanted, keys)
    if columns is None and not raw and not as_json and _has_room() and any(map(words.group, wanted)):
        names.insert(names.index("command"), "group")
    if as_json:
        _print_json(found, wanted)
    else:
        rows = _tree(found, wanted, names, tree, keys) if tree else _table(wanted, names)
        _print(rows, ["namespace", *names] if tree else names, not no_headings, raw)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    return 0


def _refuse_pointless(types: tuple[str, ...], tree: str | None, columns: str | None, raw: bool, as_json: bool) -> None:
    if tree not in (None, "owner", "parent"):
        raise SpecError(f"takes owner or parent, not {tree!r}; types go before it", "--tree")
    without = [kind for kind in types if kind not in ("user", "pid")]
    if tree == "parent" and without:
        raise SpecError(f"a {without[0]} namespace has no parent; user and pid have, the others have owners", "--tree")
    if tree and raw:
        raise SpecError("cannot be together with --raw; the columns owner and parent say the same", "--tree")
    if as_json and (tree or columns is not None or raw):
        option = "--tree" if tree else "--raw" if raw else "--columns"
        raise SpecError("has no effect with --json, which has every field; leave it away", option)


def _columns(text: str | None, tree: str | None) -> list[str]:
    hidden = ("type", "inode", tree) if tree else ()
    shown = [name for name in SHOWN if name not in hidden]
    if text is None:
        return shown
    names = [name for _, name in _fields("--columns", text.removeprefix("+"), "")]
    return shown + [name for name in names if name not in shown] if text.startswith("+") else names


def _has_room() -> bool:
    import shutil

    return not sys.stdout.isatty() or shutil.get_terminal_size().columns >= ROOMY


def _wanted(ns: Namespace, types: tuple[str, ...], tree: str | None, condition: Where | None) -> bool:
    if ns.type not in (types or (("user", "pid") if tree == "parent" else KINDS)):
        return False
    return condition is None or condition({name: FIELDS[name].of(ns) for name in condition.uses})


def _sort(namespaces: list[Namespace], keys: list[tuple[str, str]]) -> None:
    # By the least important first: sorting is stable. What there is not comes last either way.
    for sign, name in reversed(keys):
        of = FIELDS[name].of
        values = {ns.name: of(ns) for ns in namespaces}
        known = [ns for ns in namespaces if values[ns.name] is not None]
        unknown = [ns for ns in namespaces if values[ns.name] is None]
        known.sort(key=lambda ns: values[ns.name], reverse=bool(sign))
        namespaces[:] = known + unknown


def _print_json(found: Census, wanted: list[Namespace]) -> None:
    from nstool.cli import answer

    rows = [
        ns.asdict()
        | {"members": len(ns.pids), "user": words.user_name(ns.uid), "owner_user": words.user_name(ns.owner_uid)}
        | {"group": words.group(ns)}
        | {"pins": [pin.changed() for pin in ns.pins]}
        for ns in wanted
    ]
    answer.show({"namespaces": rows, "hidden": found.hidden, "notes": found.notes})


# ---- rows ----


def _table(namespaces: Sequence[Namespace], names: list[str]) -> list[list[str]]:
    fields = [FIELDS[name].of for name in names]
    return [[_text(of(ns)) for of in fields] for ns in namespaces]


def _tree(
    found: Census, wanted: list[Namespace], names: list[str], tree: str, keys: list[tuple[str, str]]
) -> list[list[str]]:
    """Return the rows of a forest; what stands above a wanted one is shown too, or there would be no tree."""
    by_name = {ns.name: ns for ns in found.namespaces}
    shown = {ns.name: ns for ns in wanted}
    for ns in wanted:
        above = by_name.get(_above(ns, tree))
        while above is not None and above.name not in shown:
            shown[above.name] = above
            above = by_name.get(_above(above, tree))
    below: dict[str, list[Namespace]] = {}
    rows = list(shown.values())
    # What belongs to a user namespace comes before the user namespaces below it, which may be long.
    order = {kind: number for number, kind in enumerate((*(kind for kind in KINDS if kind != "user"), "user"))}
    rows.sort(key=lambda ns: (order[ns.type], ns.inode))
    _sort(rows, keys)
    for ns in rows:
        below.setdefault(_above(ns, tree), []).append(ns)
    fields = [FIELDS[name].of for name in names]
    lines: list[list[str]] = []

    def add(ns: Namespace, lead: str, branch: str, rest: str) -> None:
        lines.append([f"{lead}{branch}{ns.name}", *(_text(of(ns)) for of in fields)])
        children = below.get(ns.name, [])
        for number, child in enumerate(children, 1):
            last = number == len(children)
            add(child, lead + rest, "└─ " if last else "├─ ", "   " if last else "│  ")

    for top in below.get("", []):
        add(top, "", "", "")
    return lines


def _above(ns: Namespace, tree: str) -> str:
    """Return the name of the namespace that this one is below in the tree, "" for none that is known."""
    if tree == "parent" or ns.type == "user":
        return f"{ns.type}:[{ns.parent}]" if ns.parent else ""
    return f"user:[{ns.owner}]" if ns.owner else ""


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


# ---- printing ----


def _print(rows: list[list[str]], names: Sequence[str], headings: bool, raw: bool) -> None:
    lines = [[printable(text) for text in row] for row in rows]
    if raw:
        text = "\n".join("\t".join(line) for line in lines)
    else:
        right = [name in FIELDS and FIELDS[name].kind is int for name in names]
        words = [number for number, name in enumerate(names) if name in FIELDS and FIELDS[name].kind is str]
        text = _aligned([list(names), *lines] if headings else lines, right, words)
    encoding = sys.stdout.encoding or "utf-8"
    # A terminal that knows no UTF-8 gets what it knows.
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), nl=bool(text))


def _aligned(lines: list[list[str]], right: Sequence[bool], words: Sequence[int]) -> str:
    """Return lines of columns, numbers at the right; on a terminal the columns of words are cut to fit, the last first.

    Numbers, paths and the tree are never cut.
    """
    if not lines:
        return ""
    widths = [max(map(_width, column)) for column in zip(*lines)]
    if sys.stdout.isatty():
        import shutil

        room = shutil.get_terminal_size().columns
        for number in words:  # first at once: a command line may have megabytes
            widths[number] = min(widths[number], max(room, NARROWEST))
        excess = sum(widths) + 2 * (len(widths) - 1) - room
        for number in reversed(words):
            less = max(0, min(excess, widths[number] - NARROWEST))
            widths[number] -= less
            excess -= less
    rows = []
    for line in lines:
        cells = [_padded(text, width, at_right) for text, width, at_right in zip(line, widths, right)]
        rows.append("  ".join(cells).rstrip())
    return "\n".join(rows)


def _padded(text: str, width: int, at_right: bool) -> str:
    text = text or "-"
    if _width(text) > width:
        text = f"{_beginning(text, width - 1)}…"
    room = " " * (width - _width(text))
    return room + text if at_right else text + room


def _beginning(text: str, width: int) -> str:
    """Return as much of a text as takes no more columns of a terminal than this."""
    if text.isascii():
        return text[:width]
    for number, char in enumerate(text):
        width -= _width_of(char)
        if width < 0:
            return text[:number]
    return text


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return (len(text) or 1) if text.isascii() else sum(map(_width_of, text))  # what is empty is shown as a dash


def _width_of(char: str) -> int:
    from unicodedata import combining, east_asian_width

    return 0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1
