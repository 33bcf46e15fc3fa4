"""``nstool init``: write a commented starter spec."""

from __future__ import annotations

from importlib.resources import files

import click

from nstool.cli.write import write


@click.command()
@click.argument("file", default="nstool.toml", required=False)
@click.option("--force", is_flag=True, help="Overwrite the file if there is one.")
def init(file: str, force: bool) -> None:
    """Write a commented starter spec to FILE (nstool.toml), or to standard output for "-"."""
    text = files("nstool.spec").joinpath("starter.toml").read_bytes()
    write(file, text, 0o666, force)
    if file != "-":
        click.echo(f"{file} written; try: nstool run {file}")
