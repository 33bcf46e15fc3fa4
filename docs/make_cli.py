"""Make docs/cli.md: the help of every command, and what all commands have in common.

``make docs`` runs it; tests/unit/test_docs.py fails when the file is not what this prints.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from nstool.cli.group import group
from nstool.cli.main import COMMANDS

WIDTH = 110
HEAD = """\
# The command line

`nstool COMMAND --help` prints what is below. Where a NAME of a sandbox is asked for, it is the one in the
spec, or the made-up one that `nstool ps` lists.

## Exit status

| status | meaning |
|---|---|
| the command's own; 128+n when signal n ended it | `run`, `exec`, `enter`, `nsexec`: it ran |
| 0 | the other commands: done |
| 2 | a bad spec, option or name: one message on stderr, nothing was done |
| 125 | it could not be done, or `check` found what this host cannot do; what was begun is undone |
| 126, 127 | the command was found but cannot be executed; was not found |

## Environment

| variable | meaning |
|---|---|
| `NSTOOL_RUN_DIR` | The run directory instead of `/run/nstool`, `$XDG_RUNTIME_DIR/nstool` or `/tmp/nstool-UID`. |
| `NSTOOL_IDS` | `FIRST-LAST`: the host ids that sandboxes of root lease, in ranges of 65536. |
| `NSTOOL_NETS` | `NET/BITS,...`: the IPv4 networks that sandboxes lease, in /30. |
| `NSTOOL_DEBUG` | Set: a bug of nstool is shown with its traceback. |

This file is made by `make docs` from `nstool/cli`.
"""


class _Context(click.Context):
    """Writes help of one width, whatever terminal asks."""

    def __init__(self, command: click.Command, **named: Any) -> None:
        super().__init__(
            command, **{**command.context_settings, **named, "terminal_width": WIDTH, "max_content_width": WIDTH}
        )


def text() -> str:
    """Return the whole of docs/cli.md."""
    top = _Context(group, info_name="nstool")
    parts = [HEAD, f"\n## nstool\n\n```text\n{group.get_help(top)}\n```\n"]
    for name, (_, sentence) in COMMANDS.items():
        command = group.get_command(top, name)
        assert command is not None
        context = _Context(command, info_name=name, parent=top)
        parts.append(f"\n## nstool {name}\n\n{sentence}\n\n```text\n{command.get_help(context)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(text())
