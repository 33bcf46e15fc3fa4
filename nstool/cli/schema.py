"""``nstool schema``: print the JSON Schema of a spec file."""

from __future__ import annotations

from importlib.resources import files

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of a spec file, for editors and validators."""
    click.echo(files("nstool.spec").joinpath("schema.json").read_text("utf-8"), nl=False)
