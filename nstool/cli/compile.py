"""``nstool compile``: a plan in a file, for nsexec."""

from __future__ import annotations

import sys

import click

SHEBANG = 253  # BINPRM_BUF_SIZE of linux/binfmts.h, less "#!" and the end of the line
OTHERS = {"-o": True, "--output": True, "--shebang": True, "--force": False}


@click.command("compile", context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", metavar="FILE", help='Where to write it; "-": to standard output.')
@click.option("--shebang", metavar="PATH", help="Begin with #!PATH (of nsexec) and make the file executable.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[RUN OPTIONS] SPEC [-- ARGS]")
def command(words: tuple[str, ...], output: str | None, shebang: str | None, force: bool) -> int:
    """Write the plan of a spec to FILE; `nsexec FILE [ARGS]` runs it without Python.

    What needs Python at launch is refused, all of it at once: net.mode "veth" and "bridge" (make a network namespace
    beforehand and join it: net.mode = "join"), a root that is a tarball, an id-mapped mount or root, a kept upper
    layer (which is id-mapped too, as root), pass_fds, and terminal "always".
    """
    import os

    from nstool.cli import options
    from nstool.cli.write import write
    from nstool.errors import SpecError
    from nstool.sandbox.compiled import compile_spec
    from nstool.spec.places import Located

    spec, rest, place = options.parse(sys.argv[2:], OTHERS)
    path = rest.get("-o") or rest.get("--output")
    if not isinstance(path, str):
        raise SpecError("is needed: where the compiled plan goes", "-o FILE")
    with Located(place):
        data = compile_spec(spec)
    mode = 0o644
    line = rest.get("--shebang")
    if isinstance(line, str):
        if not line.startswith("/") or any(c.isspace() for c in line) or len(os.fsencode(line)) > SHEBANG:
            raise SpecError(
                f"needs the absolute path of nsexec, without white space, of at most {SHEBANG} bytes, execve(2)",
                "--shebang",
            )
        data, mode = os.fsencode(f"#!{line}\n") + data, 0o755
    write(path, data, mode, "--force" in rest)
    return 0
