"""``nstool compile``: a plan in a file, for nsexec."""

from __future__ import annotations

import sys

import click

OTHERS = {"-o": True, "--output": True, "--shebang": True, "--force": False}


@click.command("compile", context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", metavar="FILE", help="Where to write it.")
@click.option("--shebang", metavar="PATH", help="Begin with #!PATH (of nsexec) and make the file executable.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] SPEC [-- ARGS]")
def command(words: tuple[str, ...], output: str | None, shebang: str | None, force: bool) -> int:
    """Write the plan of a spec to FILE; `nsexec FILE [ARGS]` runs it without Python.

    What needs Python at launch (a veth pair, nftables) is refused by name: make a network namespace
    beforehand and join it (net.mode = "join").
    """
    import os

    from nstool.cli import options
    from nstool.cli.places import Located
    from nstool.errors import SpecError
    from nstool.sandbox.compiled import compile_spec

    spec, rest, place = options.parse(sys.argv[2:], OTHERS)
    path = rest.get("-o") or rest.get("--output")
    if not isinstance(path, str):
        raise SpecError("is needed: where the compiled plan goes", "-o FILE")
    with Located(place):
        data = compile_spec(spec)
    mode = 0o644
    line = rest.get("--shebang")
    if isinstance(line, str):
        if not line.startswith("/") or "\n" in line:
            raise SpecError("needs the absolute path of nsexec", "--shebang")
        data, mode = f"#!{line}\n".encode() + data, 0o755
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if rest.get("--force") else os.O_EXCL)
    try:
        with open(os.open(path, flags, mode), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise SpecError("exists; --force overwrites it", path) from None
    except OSError as error:
        raise SpecError(error.strerror or str(error), path) from None
    return 0
