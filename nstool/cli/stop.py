"""``nstool stop``: end a sandbox, if need be by force."""

from __future__ import annotations

import click


@click.command("stop")
@click.argument("name")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long the command has after SIGTERM.",
)
def command(name: str, timeout: float) -> int:
    """End the sandbox NAME: SIGTERM to its command, SIGKILL to all of it after --timeout; wait until it is undone."""
    from nstool.sandbox.waiting import Other

    with Other(name) as sandbox:
        if sandbox.stop(timeout):
            click.echo(f"nstool: {name} did not end within {timeout:g} s of SIGTERM, and was killed", err=True)
    return 0
