"""Show a plan: as a table, as JSON."""

from __future__ import annotations

import msgspec

from nstool.errors import errno_name
from nstool.kinds import KINDS
from nstool.plan import track
from nstool.plan.calls import CALLS
from nstool.plan.describe import LONGEST, arguments, call_text, man
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Literal

    from rich.console import Console
    from rich.table import Table

Row = tuple[str, str, str, str, str, str]

VERSION = 1  # of the JSON document; a key may be added, none changes its meaning under the same number

# Arguments that are bytes by nature: always hex in JSON, also when they look like text.
_BINARY = {("ioctl", "arg"), ("seccomp", "filter"), ("setgroups", "list")}

_ONE_LINE = 160  # columns from which on a step fits on one line
_CALL = 100  # columns that calls have where nothing is cut, and longer ones go beyond; and what says why
_WHY = 60
_HEAD: Row = ("#", "who", "ns", "call", "why", "man page")
_COLOURS = {LAUNCHER: "cyan", CHILD: "magenta", INIT: "green", PAYLOAD: "yellow", UNDO: "red"}
# One letter a namespace type, in the order of kinds: lower case for a new one, upper case for a joined one.
LETTERS = {"user": "u", "mnt": "m", "pid": "p", "net": "n", "uts": "h", "ipc": "i", "cgroup": "c", "time": "t"}


# ---- JSON ----


def json(plan: Plan) -> bytes:
    """Return the plan as a JSON document; ``document`` tells its keys."""
    return msgspec.json.format(msgspec.json.encode(document(plan)))


def document(plan: Plan) -> dict[str, Any]:
    """Return the whole plan as plain JSON values; ``load`` makes the same plan of it.

    nstool_plan: version of this format. name: of the sandbox. init, die_with_parent: as in the spec.
    given: names of the fds that the caller brings. steps: see ``rows``.
    """
    return {
        "nstool_plan": VERSION,
        "name": plan.name,
        "init": plan.init,
        "die_with_parent": plan.die_with_parent,
        "given": list(plan.given),
        "steps": rows(plan),
    }


def rows(plan: Plan) -> list[dict[str, Any]]:
    """Return each step as plain JSON values.

    step: number, from 1. who: launcher, child, init, payload or undo. group: what it helps to make.
    namespaces: type to "caller", "new" or "joined", of the actor when the step begins. call: name.
    args: parameter to value: a number, text, null, a list of texts, {"fd": NAME} for an fd that an
    earlier step opened, {"hex": DIGITS} for bytes that are no text. words: parameter to the value
    with the names of flags. result: name of the fd that it returns. ignore: errno that is no
    failure. text: the call as one line. why: sentence. man: page.
    An external step has call "external" and args {"name": ..., "args": {...}}.
    """
    inside, groups = track.namespaces(plan), track.headings(plan)
    return [
        {
            "step": number,
            "who": step.who,
            "group": group,
            "namespaces": where,
            "call": step.call,
            "args": _args(step),
            "words": arguments(step),
            "result": step.result,
            "ignore": step.ignore,
            "text": _json_text(call_text(step)),
            "why": _json_text(step.why),
            "man": man(step),
        }
        for number, (step, where, group) in enumerate(zip(plan.steps, inside, groups), 1)
    ]


def _args(step: Step) -> dict[str, Any]:
    if step.call == "external":
        return {"name": step.args[0], "args": step.args[1]}
    return {
        name: _value(value, (step.call, name) in _BINARY)
        for (name, _), value in zip(CALLS[step.call].params, step.args)
    }


def _value(value: object, binary: bool = False) -> object:
    if isinstance(value, Fd):
        return {"fd": value.name}
    if isinstance(value, tuple):
        return [_value(v) for v in value]
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    if isinstance(value, bytes):
        return {"hex": value.hex()} if binary or not _is_text(value) else value.decode()
    return value


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return all(char.isprintable() or char in "\n\t" for char in text)


def _json_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def load(document: dict[str, Any]) -> Plan:
    """Return the plan of a document. Bytes come back as text where they are text: the engine takes both."""
    steps = []
    for row in document["steps"]:
        if row["call"] == "external":
            args: tuple[Any, ...] = (row["args"]["name"], row["args"]["args"])
        else:
            args = tuple(_load(row["args"][name]) for name, _ in CALLS[row["call"]].params)
        fields = (row[name] for name in ("why", "result", "ignore", "man"))
        steps.append(Step(row["who"], row["call"], args, *fields))
    return Plan(tuple(steps), tuple(document["given"]), document["init"], document["die_with_parent"], document["name"])


def _load(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_load(v) for v in value)
    if isinstance(value, dict):
        return Fd(value["fd"]) if "fd" in value else bytes.fromhex(value["hex"])
    return value


# ---- the table ----


def table(plan: Plan, long: bool = False, console: Console | None = None) -> None:
    """Print the plan as a table on stdout: one line a step from 160 columns on, else two.

    long: shorten nothing. What is no terminal gets a line a step with nothing cut off, or COLUMNS columns.
    """
    import os

    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False)
    piped = not console.is_terminal and not os.environ.get("COLUMNS")
    given = f"; given by the caller: {', '.join(plan.given)}" if plan.given else ""
    letters = ", ".join(f"{LETTERS[name]} {name}" for name in KINDS)
    first = f"plan {plan.name}: {len(plan.steps)} steps{given}"
    second = f"ns, the actor's namespaces: {letters}; small is new, capital joined, - the caller's"
    lines = _Lines(plan, console.width, long or piped)
    if piped:
        for line in (first, second, *lines.plain(plan)):
            console.print(Text(line), soft_wrap=True)
        return
    console.print(Text(first, style="bold"))
    console.print(Text(second, style="dim"))
    console.print(lines.grid([_HEAD], "dim"))
    for group, rows in lines.groups(plan):
        console.print(Text(group, style="bold"))
        console.print(lines.grid(rows))


def _groups(plan: Plan) -> list[tuple[str, int, int]]:
    """Return (heading, number of its first step, number of its last step) in order."""
    groups: list[tuple[str, int, int]] = []
    for number, heading in enumerate(track.headings(plan), 1):
        if groups and groups[-1][0] == heading:
            groups[-1] = (heading, groups[-1][1], number)
        else:
            groups.append((heading, number, number))
    return groups


class _Lines:
    """The rows of a table and the widths of its columns, which all groups share."""

    def __init__(self, plan: Plan, width: int, long: bool) -> None:
        longest = 1 << 30 if long else LONGEST
        self.long = long
        self.rows: list[Row] = [
            (str(number), step.who, code(where), _call(step, longest), step.why, man(step))
            for number, (step, where) in enumerate(zip(plan.steps, track.namespaces(plan)), 1)
        ]
        self.number = len(str(len(plan.steps)))
        self.man = max((len(row[5]) for row in self.rows), default=0)
        rest = width - self.number - 8 - 8 - 3 * 2
        self.one_line = width >= _ONE_LINE
        self.call = (rest - self.man - 2 * 2) * 3 // 5 if self.one_line else rest
        self.why = rest - self.man - 2 * 2 - self.call

    def groups(self, plan: Plan) -> Iterator[tuple[str, list[Row]]]:
        """Yield (heading, rows of its steps) in order."""
        for group, first, last in _groups(plan):
            yield f"{group} ({first}-{last})" if last > first else f"{group} ({first})", self.rows[first - 1 : last]

    def plain(self, plan: Plan) -> Iterator[str]:
        """Yield the head and all groups as text, a line a step."""
        yield self._plain(_HEAD)
        for group, rows in self.groups(plan):
            yield group
            yield from map(self._plain, rows)

    def _plain(self, row: Row) -> str:
        number, who, where, call, why, page = row
        return f"{number:>{self.number}}  {who:<8}  {where:<8}  {call:<{_CALL}}  {why:<{_WHY}}  {page}"

    def grid(self, rows: list[Row], style: str = "") -> Table:
        """Return rows as something that rich prints."""
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        grid.add_column(width=self.number, justify="right", style="dim")
        grid.add_column(width=8)
        grid.add_column(width=8, style="dim")
        # Two lines a step: there is room to wrap, so nothing is cut.
        cut = self.one_line and not self.long
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if cut else "fold"
        grid.add_column(width=self.call, overflow=overflow, no_wrap=cut)
        if self.one_line:
            grid.add_column(width=self.why, overflow=overflow, no_wrap=cut)
            grid.add_column(width=self.man, style="dim", no_wrap=True)
        for number, who, where, call, why, page in rows:
            head = (number, Text(who, style=_COLOURS.get(who, style)), where)
            if self.one_line:
                grid.add_row(*head, Text(call), Text(why), page, style=style)
            else:
                grid.add_row(*head, Text.assemble(call, "\n", (f"{why}  {page}", "dim")), style=style)
        return grid


def _call(step: Step, longest: int) -> str:
    ignored = f"  [{errno_name(step.ignore)} is no failure]" if step.ignore else ""
    return call_text(step, longest=longest) + ignored


def code(where: dict[str, str]) -> str:
    """Return the namespaces of an actor in eight letters, as "umpnhi--"."""
    shape = {track.NEW: str.lower, track.JOINED: str.upper}
    return "".join(shape[where[name]](letter) if where[name] in shape else "-" for name, letter in LETTERS.items())
