"""``nstool ps``: the sandboxes of this user."""

from __future__ import annotations

import click

from nstool.errors import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.errors import NotSupported
    from nstool.sandbox.rundir import Record


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """List the sandboxes: name, state, pid of init, launcher, age, command."""
    from nstool.sandbox import leases, rundir, strays

    unread: list[NotSupported] = []
    records = rundir.list_sandboxes(unread)
    if as_json:
        import json  # not msgspec, which takes no command that is not UTF-8

        click.echo(json.dumps([r.asdict() | {"alive": r.alive, "state": r.state} for r in records]))
    else:
        _print(records)
    for stray in (*unread, *leases.strays()):
        click.echo(f"note: {visible(stray.cause)}; {visible(stray.remedy)}", err=True)
    if note := strays.note(records):
        click.echo(note, err=True)
    return 0


def _print(records: tuple[Record, ...]) -> None:
    import time

    from rich.table import Table

    from nstool.cli.console import cell, for_lines

    table = Table("name", "state", "init", "launcher", "age", "command", box=None)
    for r in records:
        age = f"{max(0, int(time.time() - r.created))} s"
        words = r.spec.get("command", ())
        row = (r.name, r.state, str(r.init_pid or ""), str(r.pid), age, " ".join(map(str, words)))
        table.add_row(*map(cell, row))
    for_lines().print(table)
