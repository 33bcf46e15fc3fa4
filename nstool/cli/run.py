"""``nstool run``: a sandbox in the foreground."""

from __future__ import annotations

import sys

from nstool.cli import options
from nstool.cli.forward import FORWARDED, Forward
from nstool.sandbox import journal
from nstool.sandbox.launch import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import click

    command: click.Command


def main(argv: list[str]) -> int:
    """Run ``nstool run`` with these words after it; the exit status."""
    spec, _ = options.parse(argv)
    if journal.stale():
        journal.cleanup()
    with Forward() as forward:
        sandbox = launch(spec)
        try:
            from nstool.cli.supervise import become

            become(sandbox, FORWARDED - forward.ignored, forward.pending)
        except BaseException:
            sandbox.close()
            raise
    raise AssertionError("exec returns only by an error")


def __getattr__(name: str) -> object:
    # For --help and completion only: the running itself does without click.
    if name != "command":
        raise AttributeError(name)
    import click

    @click.command("run", params=options.click_options(), context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[SPEC] -- COMMAND [ARGS]")
    def run(words: tuple[str, ...], **_: object) -> int:
        """Run a command in a sandbox, in the foreground.

        nstool run [OPTIONS] -- COMMAND [ARGS], or nstool run [OPTIONS] SPEC.toml [-- ARGS].
        With neither file nor options the sandbox is the strictest there is; each option loosens one thing.
        """
        return main(sys.argv[2:])

    return run
