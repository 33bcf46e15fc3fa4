"""``nstool caps``: capabilities of processes and files, and what execve(2) will make of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nstool.cli import caps_files, caps_predict, caps_show

if TYPE_CHECKING:
    from collections.abc import Iterable


class InOrder(click.Group):
    """A group that lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            from nstool.spec.values import suggest

            raise click.UsageError(f"no command {args[0]!r}{suggest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


COMMANDS: Iterable[click.Command] = (
    caps_show.show,
    caps_show.text,
    caps_predict.predict,
    caps_predict.after_setuid,
    caps_files.get,
    caps_files.set_,
    caps_files.clear,
    caps_files.scan,
)


@click.group(
    "caps",
    cls=InOrder,
    epilog="""\b
Examples:
  nstool caps show 1                       what may pid 1 do, each of its threads, and where?
  nstool caps predict --pid 1234 /bin/su   what would that process become by executing su, and why?
  nstool caps scan /usr                    which files below /usr give privilege?
""",
)
def command() -> None:
    """Show and explain capabilities: of processes, of files, and what becomes of them. capabilities(7)."""


for _command in COMMANDS:
    command.add_command(_command)
