"""``nstool cleanup``: undo what killed launchers have left."""

from __future__ import annotations

import click


@click.command("cleanup")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> int:
    """Undo what sandboxes have left whose launcher was killed; say what was done."""
    from nstool.sandbox import journal, rundir, strays

    cleaned = journal.cleanup()
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode([c.asdict() for c in cleaned]))
        return 0
    for sandbox in cleaned:
        click.echo(f"{sandbox.name}: {'; '.join(sandbox.done) or 'nothing was left but its name'}")
    if not cleaned:
        click.echo("nothing to clean up")
    if note := strays.note(rundir.list_sandboxes()):
        click.echo(note, err=True)
    return 0
