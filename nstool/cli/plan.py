"""``nstool plan``: the exact steps that run would take."""

from __future__ import annotations

import os
import sys

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Plan

OTHERS = {"--json": False, "--sh": False, "--long": False}


@click.command("plan", context_settings={"ignore_unknown_options": True})
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every step with its arguments.")
@click.option("--sh", "as_shell", is_flag=True, help="Print an equivalent shell script.")
@click.option("--long", "long_", is_flag=True, help="Do not shorten; what is no terminal gets everything anyway.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] SPEC [-- ARGS]")
def command(words: tuple[str, ...], as_json: bool, as_shell: bool, long_: bool) -> int:
    """Show the ordered steps of a launch: who, which call with which arguments, why, man page.

    Takes what `nstool run` takes, or a FILE of `nstool compile`. Nothing is done; ids, name and
    addresses are those that the next launch could get.

    --json: one document, whose key nstool_plan is the version of the format; every step with step, who,
    group, namespaces, call, args (values; bytes as {"hex": ...}, fds as {"fd": NAME}), words (the same with
    the names of flags), result, ignore, text, why, man.

    --sh: runs with sh, util-linux and coreutils; what it does not do is listed at its start.
    """
    from nstool.cli.console import Console
    from nstool.errors import SpecError
    from nstool.plan import render
    from nstool.plan.shell import script

    if as_json and as_shell:
        raise SpecError("is one form, --json another: give one of them", "--sh")
    plan = _plan(sys.argv[2:])
    if as_json:
        click.echo(render.json(plan))
    elif as_shell:
        click.echo(script.write(plan), nl=False)
    else:
        render.table(plan, long_, Console(highlight=False))
    return 0


def _plan(words: list[str]) -> Plan:
    from nstool.cli import options
    from nstool.sandbox.launch import preview
    from nstool.spec.places import Located

    plain = [word for word in words if word not in OTHERS]
    if len(plain) == 1 and (data := _compiled(plain[0])):
        from nstool.errors import NstoolError, SpecError
        from nstool.plan.encode import decode

        try:
            return decode(data)
        except NstoolError as error:
            raise SpecError(str(error), plain[0]) from None
    spec, _, place = options.parse(words, OTHERS)
    with Located(place):
        return preview(spec)


def _compiled(path: str) -> bytes:
    """Return the content of a file that `nstool compile` wrote, nothing of another."""
    from nstool.plan.encode import MAGIC

    magic = MAGIC.to_bytes(4, "little")
    try:
        if not os.path.isfile(path):  # a pipe gives what it holds once, and a device may have no end
            return b""
        with open(path, "rb") as file:
            line = file.readline(512)
            head = file.read(4) if line.startswith(b"#!") else line
            if not head.startswith(magic):
                return b""
            file.seek(0)
            return file.read()
    except (OSError, ValueError):  # not a file to read: a word of the spec, which says what is wrong with it
        return b""
