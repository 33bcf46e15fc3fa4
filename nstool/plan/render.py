"""Show a plan: as a table, as JSON, as a shell script."""

from __future__ import annotations

from typing import Any

import msgspec

from nstool.plan.calls import CALLS
from nstool.plan.describe import call_text, man
from nstool.plan.steps import INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step

NAMESPACES = {
    LAUNCHER: "the caller's",
    "child": "new ones, in the launcher's memory",
    INIT: "new ones",
    PAYLOAD: "new ones",
    UNDO: "the caller's",
}


def rows(plan: Plan) -> list[dict[str, Any]]:
    """Return each step as plain JSON values; undo steps are numbered on."""
    return [
        {
            "step": number,
            "who": step.who,
            "namespaces": NAMESPACES[step.who],
            "call": step.call,
            "args": _args(step),
            "result": step.result,
            "ignore": step.ignore,
            "text": call_text(step),
            "why": step.why,
            "man": man(step),
        }
        for number, step in enumerate(plan.steps, 1)
    ]


def _args(step: Step) -> dict[str, Any]:
    if step.call == "external":
        return {"name": step.args[0], "args": step.args[1]}
    return {name: _value(value) for (name, _), value in zip(CALLS[step.call].params, step.args)}


def _value(value: object) -> object:
    if isinstance(value, Fd):
        return {"fd": value.name}
    if isinstance(value, bytes):
        try:
            return value.decode("ascii") if value.isascii() and value.decode().isprintable() else {"hex": value.hex()}
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    return list(value) if isinstance(value, tuple) else value


def json(plan: Plan) -> bytes:
    """Return the plan as JSON."""
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "name": plan.name,
                "init": plan.init,
                "die_with_parent": plan.die_with_parent,
                "given": list(plan.given),
                "steps": rows(plan),
            }
        )
    )


def table(plan: Plan, long: bool = False) -> None:
    """Print the plan as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    shown.add_column("#", justify="right", style="dim")
    shown.add_column("who")
    shown.add_column("call", overflow="fold" if long else "ellipsis", no_wrap=not long, ratio=3)
    shown.add_column("why", overflow="fold" if long else "ellipsis", no_wrap=not long, ratio=2)
    shown.add_column("man page", style="dim", no_wrap=True)
    colours = {LAUNCHER: "cyan", "child": "magenta", INIT: "green", PAYLOAD: "yellow", UNDO: "red"}
    for row in rows(plan):
        colour = colours[row["who"]]
        call = Text(row["text"] + (f"  [{row['ignore']} ignored]" if row["ignore"] else ""))
        shown.add_row(str(row["step"]), Text(row["who"], style=colour), call, Text(row["why"]), row["man"])
    console = Console()
    if not console.is_terminal and not long:
        console = Console(width=200)
    console.print(shown)
