"""``nstool serve``: put a service behind sandboxes, one for each connection."""

from __future__ import annotations

import asyncio
import os
import select
from functools import partial
from signal import SIG_BLOCK, SIGHUP, SIGINT, SIGTERM, pthread_sigmask

import click

EPILOG = """\b
Examples:
  nstool serve web.toml                 until SIGTERM; SIGHUP reads the spec again
  nstool service status web             from another terminal
"""


@click.command("serve", epilog=EPILOG)
@click.argument("spec")
@click.option("--name", default="", metavar="NAME", help="Of the service.  [default: of the spec, or its file's]")
@click.option("--listen", multiple=True, metavar="WHERE", help="Listen there instead: tcp:127.0.0.1:8080, ...")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def command(spec: str, name: str, listen: tuple[str, ...], quiet: bool) -> int:
    """Give each connection a sandbox of its own, made for it and destroyed after it.

    SPEC is a spec with a [service] table, - for standard input: who listens where, and how many sandboxes there may be.
    """
    from nstool.cli.run import clean_up
    from nstool.service.listen import check_passed
    from nstool.service.prepare import prepared
    from nstool.service.supervisor import Supervisor

    read = partial(prepared, spec, name, listen)
    blueprint = read()
    check_passed(blueprint.service.listen, blueprint.listener_place)
    clean_up()
    errors = Errors()

    def say(text: str) -> None:
        if not quiet:
            errors.tell(blueprint.name, text)

    async def serve() -> None:
        try:
            await Supervisor(blueprint, say, errors.write, None if spec == "-" else read).run()
        finally:  # it ends anyhow, and nothing is left: with its status
            pthread_sigmask(SIG_BLOCK, (SIGTERM, SIGINT, SIGHUP))

    asyncio.run(serve())
    return 0


class Errors:
    """Standard error for a service: who does not read it, or has gone, holds nobody up; what he missed is counted."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self._missed = 0
        self._ended = True  # the last line that was written

    def tell(self, name: str, text: str) -> None:
        """Write what a service says: before each line stands whose it is."""
        self.write("".join(f"nstool: {name}: {line}\n" for line in text.split("\n")))

    def write(self, text: str) -> None:
        """Write some lines, or count them."""
        data = text.encode(errors="backslashreplace")
        end = b"" if self._ended else b"\n"
        if self._missed and self._takes(
            b"%snstool: %d bytes were not written here: nobody read\n" % (end, self._missed)
        ):
            self._missed = 0
        # So much a pipe takes at once if poll says that it takes anything: pipe(7).
        for part in (data[at : at + select.PIPE_BUF] for at in range(0, len(data), select.PIPE_BUF)):
            if self._missed or not self._takes(part):
                self._missed += len(part)

    def _takes(self, data: bytes) -> bool:
        try:
            taken = bool(self._poll.poll(0)) and os.write(2, data) == len(data)
        except OSError:
            return False
        if taken:
            self._ended = data.endswith(b"\n")
        return taken
