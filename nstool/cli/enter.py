"""``nstool enter``: a command in the namespaces of anything."""

from __future__ import annotations

import click

from nstool.cli import types_
from nstool.cli.follow import follow


@click.command("enter")
@click.option("--types", help="Only these, comma-separated: net,mnt,…; default: all that differ.", metavar="TYPES")
@click.option("--keep-ids", is_flag=True, help="Do not become root of a joined user namespace.")
@click.option("--cwd", default="", help="Working directory inside.", metavar="DIR")
@click.argument("target")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]")
def command(target: str, words: tuple[str, ...], types: str | None, keep_ids: bool, cwd: str) -> int:
    """Run COMMAND in the namespaces of TARGET, with your own rights; nothing is dropped or limited.

    From a terminal, where TARGET's mounts have a /dev/pts of their own, COMMAND gets a terminal of that.

    TARGET: a pid, the name of a sandbox, a namespace file, a directory made by `nstool pin`, or the
    name of a network namespace (as of `ip netns`).
    """
    from nstool.sandbox.join import enter

    return follow(enter(target, words, types_.read(types), keep_ids=keep_ids, cwd=cwd, own_terminal=True))
