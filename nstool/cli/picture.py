"""Pictures: DOT text, and what Graphviz makes of it. dot(1)."""

from __future__ import annotations

import os

from nstool.errors import NotSupported, SpecError
from nstool.plan.describe import printable

_DOT = (".dot", ".gv")
_DRAWN = (".svg", ".png", ".pdf")


def label(text: str) -> str:
    """Return a quoted string of DOT, each line of the text on a line of its own, left aligned; whatever is in it."""
    lines = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return '"' + "".join(f"{line}\\l" for line in lines) + '"'


def check(path: str) -> None:
    """Raise SpecError unless the name of the file says which kind of picture it is to be."""
    if path != "-" and os.path.splitext(path)[1] not in (*_DOT, *_DRAWN):
        raise SpecError(f"the name must end with one of {' '.join((*_DOT, *_DRAWN))}; - prints DOT", "--output")


def write(path: str, dot: str, overwrite: bool) -> None:
    """Write a picture: DOT as it is, or drawn by Graphviz, as the ending of the file's name says; "-" prints DOT.

    Raises SpecError as ``cli.write``, NotSupported where Graphviz is missing or fails.
    """
    from nstool.cli.write import write as to_file

    check(path)
    kind = os.path.splitext(path)[1]
    data = dot.encode("utf-8", "backslashreplace")
    to_file(path, _drawn(data, kind) if kind in _DRAWN else data, 0o666, overwrite)


def _drawn(data: bytes, kind: str) -> bytes:
    import subprocess

    try:
        done = subprocess.run(["dot", f"-T{kind[1:]}"], input=data, capture_output=True, check=False)
    except FileNotFoundError:
        raise NotSupported(
            f"a picture as {kind}",
            "there is no dot, the program of Graphviz that draws it",
            "install graphviz, or write DOT: a name that ends with .dot",
        ) from None
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise NotSupported(f"a picture as {kind}", f"dot failed: {reason}", "write DOT: a name that ends with .dot")
    return done.stdout
