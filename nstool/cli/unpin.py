"""``nstool unpin``: let pinned namespaces go."""

from __future__ import annotations

import click


@click.command("unpin")
@click.argument("directory")
def command(directory: str) -> int:
    """Let the namespaces pinned in DIRECTORY go, and remove it."""
    from nstool.sandbox.pins import unpin

    for line in unpin(directory):
        click.echo(line)
    return 0
