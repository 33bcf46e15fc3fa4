"""``nstool init``: write a commented starter spec."""

from __future__ import annotations

import os
from importlib.resources import files

import click

from nstool.errors import SpecError


@click.command()
@click.argument("file", default="nstool.toml", required=False)
@click.option("--force", is_flag=True, help="Overwrite the file if there is one.")
def init(file: str, force: bool) -> None:
    """Write a commented starter spec to FILE (nstool.toml), or to standard output for "-"."""
    text = files("nstool.spec").joinpath("starter.toml").read_text("utf-8")
    if file == "-":
        click.echo(text, nl=False)
        return
    # O_EXCL refuses what exists, also a dangling symlink.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with open(os.open(file, flags, 0o666), "w", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise SpecError("exists; --force overwrites it", file) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise SpecError(getattr(error, "strerror", None) or str(error), file) from None
    click.echo(f"{file} written; try: nstool run {file}")
