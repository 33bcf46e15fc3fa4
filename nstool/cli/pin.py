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

    They stay until `nstool unpin DIRECTORY`; `nstool enter DIRECTORY -- COMMAND` uses them, and so does
    `nstool run --net join:DIRECTORY -- COMMAND`. A network namespace is kept without its link to the host: addresses,
    routes and published ports of veth and bridge go when the sandbox ends. Who joins a pinned user namespace needs
    a pid namespace that is there already, which a pin does not keep: --namespaces user=DIRECTORY,pid=host.
    """
    from nstool.sandbox.pins import pin

    for line in pin(target, directory, types_.read(types)):
        click.echo(line)
    return 0
