"""``nstool signal``: a signal for a sandbox's command."""

from __future__ import annotations

import click


@click.command("signal")
@click.argument("name")
@click.argument("number", metavar="SIGNAL", default="TERM")
def command(name: str, number: str) -> int:
    """Send SIGNAL (name or number, default TERM) to the command of the sandbox NAME.

    When the command ends, as by KILL, the whole sandbox does.
    """
    from nstool.sandbox.waiting import Other
    from nstool.security.signals import number_of

    wanted = number_of(number, "SIGNAL")
    with Other(name) as sandbox:
        sandbox.signal(wanted)
    return 0
