"""``nstool serve``: put a service behind sandboxes, one for each connection."""

from __future__ import annotations

import asyncio
import os
import select
from datetime import UTC, datetime
from functools import partial

import click

EPILOG = """\b
Examples:
  nstool serve web.toml                 until SIGTERM; SIGHUP reads the spec again
  nstool service status web             from another terminal
"""


@click.command("serve", epilog=EPILOG)
@click.argument("spec")
@click.option("--name", metavar="NAME", help="Of the service.  [default: of the spec, or its file's]")
@click.option("--listen", multiple=True, metavar="WHERE", help="Listen there instead; may be given several times.")
@click.option("--timestamps", is_flag=True, help="Begin each line of the log with the time, where no journal adds it.")
@click.option("--quiet", is_flag=True, help="Do not say what goes as it should.")
def command(spec: str, name: str | None, listen: tuple[str, ...], timestamps: bool, quiet: bool) -> int:
    """Give each connection a sandbox of its own, made for it and destroyed after it.

    SPEC is a spec with a [service] table, - for standard input: who listens where, and how many sandboxes there may be.
    """
    from nstool.cli.priority import give_up
    from nstool.cli.run import clean_up
    from nstool.masked import block
    from nstool.service.listen import check_passed
    from nstool.service.prepare import prepared
    from nstool.service.supervisor import Supervisor

    read = partial(prepared, spec, name, listen)
    blueprint = read()
    check_passed(blueprint.service.listen, blueprint.listener_place)
    clean_up()
    give_up(blueprint.spec.limits.rlimits)
    errors = Errors(timestamps)

    say = partial(errors.tell, blueprint.name)

    async def serve() -> None:
        try:
            await Supervisor(blueprint, say, errors.write, None if spec == "-" else read, quiet=quiet).run()
        finally:  # it ends anyhow, and nothing is left: with its status
            block()

    asyncio.run(serve())
    return 0


class Errors:
    """Standard error for a service: who does not read it, or has gone, holds nobody up; what he missed is counted."""

    def __init__(self, timestamps: bool = False) -> None:
        """timestamps: each line begins with when it is written, in UTC (RFC 3339)."""
        self._timestamps = timestamps
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self._missed = 0
        self._ended = True  # the last line that was written

    def tell(self, name: str, text: str) -> None:
        """Write what a service says: before each line stands whose it is."""
        self.write("".join(f"nstool: {name}: {line}\n" for line in text.split("\n")))

    def write(self, text: str) -> None:
        """Write some lines with their ends, or count them."""
        data = self._stamped(text)
        if self._missed:
            missed = self._stamped(f"nstool: {self._missed} bytes were not written here: nobody read\n")
            if self._takes(missed if self._ended else b"\n" + missed):
                self._missed = 0
        # So much a pipe takes at once if poll says that it takes anything: pipe(7).
        for part in (data[at : at + select.PIPE_BUF] for at in range(0, len(data), select.PIPE_BUF)):
            if self._missed or not self._takes(part):
                self._missed += len(part)

    def _stamped(self, text: str) -> bytes:
        if self._timestamps:
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            text = "".join(f"{now} {line}\n" for line in text.removesuffix("\n").split("\n"))
        return text.encode(errors="backslashreplace")

    def _takes(self, data: bytes) -> bool:
        try:
            taken = bool(self._poll.poll(0)) and os.write(2, data) == len(data)
        except OSError:
            return False
        if taken:
            self._ended = data.endswith(b"\n")
        return taken
