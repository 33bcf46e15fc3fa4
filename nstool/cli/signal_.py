"""``nstool signal``: a signal for a sandbox's command."""

from __future__ import annotations

import click


@click.command("signal")
@click.argument("name")
@click.argument("number", metavar="SIGNAL", default="TERM")
def command(name: str, number: str) -> int:
    """Send SIGNAL (name or number, default TERM) to the command of the sandbox NAME. KILL ends all of it."""
    import os
    import signal

    from nstool import uapi
    from nstool.errors import SandboxGone, SpecError
    from nstool.sandbox import rundir
    from nstool.spec.values import suggest

    word = number.upper().removeprefix("SIG")
    known = {key.upper().removeprefix("SIG"): value for key, value in uapi.SIGNALS.items()}
    wanted = int(word) if word.isascii() and word.isdecimal() else known.get(word, 0)
    if word == "0":
        raise SpecError("0 is no signal, it asks whether a process lives; nstool ps tells that", "SIGNAL")
    if not 1 <= wanted <= 64:
        raise SpecError(f"no signal {number!r}{suggest(word, known)}", "SIGNAL")
    record = rundir.find_running(name)
    try:
        pidfd = os.pidfd_open(record.init_pid)
        try:
            if not rundir.is_alive(record.init_pid, record.init_start):
                raise ProcessLookupError
            signal.pidfd_send_signal(pidfd, wanted)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        raise SandboxGone(f"sandbox {name!r} has ended") from None
    return 0
