"""``nstool plan``: the exact steps that run would take."""

from __future__ import annotations

import sys

import click

OTHERS = {"--json": False, "--sh": False, "--long": False}


@click.command("plan", context_settings={"ignore_unknown_options": True})
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every step with its arguments.")
@click.option("--sh", "as_shell", is_flag=True, help="Print an equivalent shell script.")
@click.option("--long", "long_", is_flag=True, help="Do not shorten.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] SPEC [-- ARGS]")
def command(words: tuple[str, ...], as_json: bool, as_shell: bool, long_: bool) -> int:
    """Show the ordered steps of a launch: who, which call with which arguments, why, man page.

    Takes what `nstool run` takes. Nothing is done; ids, name and addresses are those that the next
    launch could get.
    """
    from nstool.cli import options
    from nstool.plan import render
    from nstool.sandbox.launch import preview

    argv = sys.argv[2:]
    spec, _ = options.parse(argv, OTHERS)
    plan = preview(spec)
    if as_json:
        click.echo(render.json(plan))
    elif as_shell:
        click.echo(render.shell(plan, spec), nl=False)
    else:
        render.table(plan, long_)
    return 0
