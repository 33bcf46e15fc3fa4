"""``nstool signal``: a signal for a sandbox's command."""

from __future__ import annotations

import click


def number_of(text: str, place: str) -> int:
    """Return the number of a signal, given by name, with or without SIG, or number. Raises SpecError."""
    from nstool import uapi
    from nstool.errors import SpecError
    from nstool.spec.values import quoted, suggest

    word = text.upper().removeprefix("SIG")
    known = {key.upper().removeprefix("SIG"): value for key, value in uapi.SIGNALS.items()}
    wanted = int(word) if word.isascii() and word.isdecimal() else known.get(word, 0)
    if word == "0":
        raise SpecError("0 is no signal, it asks whether a process lives; nstool ps tells that", place)
    if not 1 <= wanted <= 64:
        raise SpecError(f"no signal {quoted(text)}{suggest(word, known)}", place)
    return wanted


@click.command("signal")
@click.argument("name")
@click.argument("number", metavar="SIGNAL", default="TERM")
def command(name: str, number: str) -> int:
    """Send SIGNAL (name or number, default TERM) to the command of the sandbox NAME.

    When the command ends, as by KILL, the whole sandbox does.
    """
    from nstool.sandbox.waiting import Other

    wanted = number_of(number, "SIGNAL")
    with Other(name) as sandbox:
        sandbox.signal(wanted)
    return 0
