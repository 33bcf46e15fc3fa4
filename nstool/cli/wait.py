"""``nstool wait``: the end of a sandbox, and the exit status of its command."""

from __future__ import annotations

import os

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.waiting import Other

_ENDED = (
    "one that has ended is not listed any more: its status is in the file of --log (nstool run --detach --log FILE)"
)


@click.command("wait")
@click.argument("name")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer; exit status 124.")
def command(name: str, timeout: float | None) -> int:
    """Wait for the end of the sandbox NAME, made by whoever, and exit with the status of its command.

    128+n when signal n ended it; 124 when it still runs after --timeout; 125 when nobody noted how it ended, because
    its launcher was killed before.

    A sandbox that has ended before is not listed any more, and is not waited for: exit status 2. How one of
    nstool run --detach ended is the last line of the file of its --log FILE; without that, it is known to nobody.
    """
    from nstool.errors import NstoolError

    with _running(name) as sandbox:
        try:
            status = sandbox.wait(timeout)
        except TimeoutError as error:
            click.echo(f"nstool: {error}", err=True)
            return 124
    if status is None:
        raise NstoolError(f"sandbox {name!r} has ended; how is not known, for its launcher was killed before")
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _running(name: str) -> Other:
    from nstool.errors import SandboxGone
    from nstool.sandbox.waiting import Other

    try:
        return Other(name)
    except SandboxGone as error:
        raise SandboxGone(f"{error}; {_ENDED}") from None
