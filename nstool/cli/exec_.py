"""``nstool exec``: a command in a running sandbox."""

from __future__ import annotations

import click

from nstool.cli.follow import follow
from nstool.errors import SpecError
from nstool.spec import values


@click.command("exec")
@click.option("--user", help="Run as this user of the sandbox: UID or NAME, or with a group UID:GID.", metavar="USER")
@click.option("--cwd", help="Working directory inside.", metavar="DIR")
@click.option("--env", multiple=True, help="Set a variable; the rest is as the spec says.", metavar="K=V")
@click.option("--terminal", type=click.Choice(["auto", "never", "always"]), help="A terminal of its own.")
@click.argument("name")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGS]")
def command(
    name: str, words: tuple[str, ...], user: str | None, cwd: str | None, env: tuple[str, ...], terminal: str | None
) -> int:
    """Run COMMAND in the running sandbox NAME.

    It joins all namespaces and cgroups of the sandbox and gets its credentials, limits and filters.
    """
    from nstool.cli.priority import give_up
    from nstool.sandbox.join import exec_by_name
    from nstool.spec.model import Limits

    give_up(Limits().rlimits)  # whatever the sandbox's spec keeps was its launcher's
    changes: dict[str, object] = {}
    try:
        if user is not None:
            changes["user"] = values.user(user)
        if env:
            changes["env"] = dict(values.pair(text) for text in env)
    except SpecError as error:
        raise SpecError(error.message, "--env" if "user" in changes or user is None else "--user") from None
    if cwd is not None:
        if not cwd.startswith("/"):
            raise SpecError(f'{values.quoted(cwd)} is relative; write it from "/" on', "--cwd")
        changes["cwd"] = cwd
    if terminal is not None:
        changes["terminal"] = terminal
    return follow(exec_by_name(name, words, changes))
