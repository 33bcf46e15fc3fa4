"""Make docs/cli.md: the help of every command, and what all commands have in common.

``make docs`` runs it; tests/unit/test_docs.py fails when the file is not what this prints.
"""

from __future__ import annotations

import inspect
import sys

import click

from nstool.cli.group import group
from nstool.cli.main import COMMANDS
from nstool.cli.options import OPTIONS, Option
from nstool.spec.check import CHOICES

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
| `NSTOOL_RUN_DIR` | Run directory, else `/run/nstool`, `$XDG_RUNTIME_DIR/nstool`, `/tmp/nstool-UID`; gone when empty. |
| `NSTOOL_IDS` | `FIRST-LAST`: the host ids that sandboxes of root lease, in ranges of 65536. |
| `NSTOOL_NETS` | `NET/BITS,...`: the IPv4 networks that sandboxes lease, in /30. |
| `NSTOOL_DEBUG` | Set: a bug of nstool is shown with its traceback. |

This file is made by `make docs` from `nstool/cli`.
"""


def commands() -> dict[str, click.Command]:
    """Return the sub-commands by name, those of a group after it: "caps", "caps show"."""
    found = {}
    with click.Context(group, info_name="nstool") as context:
        for name in COMMANDS:
            command = group.get_command(context, name)
            assert command is not None
            found[name] = command
            if isinstance(command, click.Group):
                for below in command.list_commands(context):
                    sub = command.get_command(context, below)
                    assert sub is not None
                    found[f"{name} {below}"] = sub
    return found


def usage(command: click.Command) -> str:
    """Return what follows the name of a command: "[OPTIONS] NAME"."""
    words = ["[OPTIONS]"] if any(isinstance(param, click.Option) for param in command.params) else []
    for param in command.params:
        if isinstance(param, click.Argument):
            plain = param.metavar or str(param.name).upper()
            words.append(plain if param.required or plain.startswith(("[", "--")) else f"[{plain}]")
    return " ".join(words)


def paragraphs(text: str | None) -> list[str]:
    """Return the paragraphs of a help text, each in one line; one whose lines are kept has its line breaks."""
    found = []
    for part in inspect.cleandoc(text or "").split("\n\n"):
        kept = part.lstrip("\n").startswith("\b\n")
        found.append(part.replace("\b\n", "").strip("\n") if kept else " ".join(part.split()))
    return [part for part in found if part]


def options(name: str, command: click.Command) -> list[tuple[str, str]]:
    """Return (option with its value, sentence) of each option of a command."""
    found = [(run_option(option), option.description) for option in OPTIONS] if name == "run" else []
    table = {option.name for option in OPTIONS} if name == "run" else set()
    for option in command.params:
        if isinstance(option, click.Option) and option.opts[0] not in table:
            choices = "|".join(option.type.choices) if isinstance(option.type, click.Choice) else ""
            value = f" {option.metavar or choices}".rstrip()
            about = option.help or ""
            if option.show_default:
                about += f"  [default: {option.default:g}]"
            found.append((", ".join([*option.opts, *option.secondary_opts]) + value, about))
    return found


def run_option(option: Option) -> str:
    """Return an option of run with what its value is."""
    if option.how == "flag":
        return f"{option.name}, {option.opposite}"
    owner, _, field = option.key.rpartition(".")
    choices = CHOICES.get(f"{(owner or 'spec').capitalize()}.{field}", ())
    return f"{option.name} {'|'.join(word for word in choices if word) or option.metavar}"


def text() -> str:
    """Return the whole of docs/cli.md."""
    parts = [HEAD]
    for name, command in commands().items():
        mark = "##" + "#" * name.count(" ")
        parts.append(f"\n{mark} nstool {name}\n\n`nstool {name} {usage(command)}`\n".replace(" `\n", "`\n"))
        parts += [_block(paragraph) for paragraph in paragraphs(command.help)]
        rows = [f"| `{tag}` | {about} |" for tag, about in options(name, command)]
        if rows:
            rows = [_escaped(row) for row in rows]
            parts.append("\n| option | |\n|---|---|\n" + "\n".join(rows) + "\n")
        parts += [_block(paragraph) for paragraph in paragraphs(command.epilog)]
    return "".join(parts)


def _block(paragraph: str) -> str:
    return f"\n```text\n{paragraph}\n```\n" if "\n" in paragraph else f"\n{paragraph}\n"


def _escaped(row: str) -> str:
    # A bar within a cell, as in a choice, would end it.
    cells = row.removeprefix("| ").removesuffix(" |").split(" | ")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(text())
