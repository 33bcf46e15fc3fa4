"""``nstool pin``: keep namespaces alive without a process."""

from __future__ import annotations

import click

from nstool.cli import types_


@click.command("pin")
@click.option("--types", help="Only these, comma-separated: net,uts,…; default: all but pid and mnt.", metavar="TYPES")
@click.argument("target")
@click.argument("directory")
def command(target: str, directory: str, types: str | None) -> int:
    """Keep the namespaces of TARGET (a pid or a sandbox's name) as files in DIRECTORY, which is made.

    They stay until `nstool unpin DIRECTORY`; `nstool enter DIRECTORY -- COMMAND` uses them.
    """
    from nstool.sandbox.pins import pin

    for line in pin(target, directory, types_.read(types)):
        click.echo(line)
    return 0
