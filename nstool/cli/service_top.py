"""The look of ``nstool service top``: on a terminal one that changes, else one below the other."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import Any

import click
from rich.live import Live

from nstool.cli.console import for_lines
from nstool.cli.service import SOON, ask, what_is_left
from nstool.cli.service_shown import watched
from nstool.errors import SpecError


def look(name: str, interval: float, times: int) -> None:
    """Show a service every so many seconds until it ends; times: at most so often, 0: without end.

    Raises SpecError if it does not run at first.
    """
    first = ask(name, "status", SOON)
    console = for_lines()
    if console.is_terminal:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            ended = _follow(first, interval, times, lambda found: live.update(watched(found), refresh=True))
    else:
        ended = _follow(first, interval, times, lambda found: console.print(watched(found), ""))
    if ended:
        click.echo(what_is_left(name) or f"{name} has ended")


def _follow(found: dict[str, Any], interval: float, times: int, show: Callable[[dict[str, Any]], None]) -> bool:
    """Show what was found and what is found from then on; whether the service has ended."""
    looks = 0
    while True:
        show(found)
        looks += 1
        if looks == times:
            return False
        sleep(interval)
        try:
            found = ask(found["name"], "status", SOON)
        except SpecError:
            return True
