"""The JSON of the commands that look: an object with its version, and one rule for names and for what there is not.

docs/adr/0014-json-of-what-is-read.md says why, docs/json.md lists the keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1  # a higher one when a key goes, or means something else; keys may be added

# Numbers of processes: 0 is none's.
PIDS = frozenset({"pid", "tid", "ppid", "pgid", "sid", "init", "init_pid", "launcher_pid"})


def show(value: Mapping[str, object]) -> None:
    """Print an answer as JSON."""
    click.echo(text(value))


def text(value: Mapping[str, object]) -> str:
    """Return an answer as JSON; bytes of names that are no UTF-8 as \\udcNN, which json reads back."""
    import json  # not msgspec, which takes no text that is not UTF-8

    return json.dumps({"version": VERSION, **_ruled(value)}, indent=2)


def _ruled(value: Mapping[str, object]) -> dict[str, object]:
    return {name(key, isinstance(inner, str)): _plain(key, inner) for key, inner in value.items()}


def name(key: str, is_text: bool) -> str:
    """Return the key under which a value is shown: a command is a list of arguments, a text is the kernel's comm."""
    return "comm" if key == "command" and is_text else key


def _plain(key: str, value: object) -> object:
    if key == "unread":  # its keys name fields
        return value
    if isinstance(value, dict):
        return _ruled(value)
    if isinstance(value, (list, tuple)):
        return [_plain("", one) for one in value]
    return None if key in PIDS and value == 0 and value is not False else value
