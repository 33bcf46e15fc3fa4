"""The click group of all sub-commands, each loaded when it is needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
from click.exceptions import Exit

from nstool.cli import foreign
from nstool.cli.main import COMMANDS, READER_GONE, interrupts
from nstool.spec.values import quoted, suggest


class LazyGroup(click.Group):
    """Sub-commands come from COMMANDS: module to import, attribute ``command`` or the name."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:  # click's own answer is status 1
            raise Exit(READER_GONE) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise Exit(READER_GONE) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(COMMANDS[name][0])
        interrupts()
        command = getattr(module, "command", None) or getattr(module, name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            said = foreign.command(args[0])
            more = f"; {said}" if said else suggest(args[0], COMMANDS)
            raise click.UsageError(f"no command {quoted(args[0])}{more}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nstool", message="nstool %(version)s")
def group() -> None:
    """Sandboxes from Linux namespaces: plan them, run them, look into them."""
