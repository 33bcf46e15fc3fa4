"""Pictures: DOT text, and what Graphviz makes of it. dot(1)."""

from __future__ import annotations

import os

from nstool.errors import NotSupported, SpecError
from nstool.plan.describe import printable

_DOT = (".dot", ".gv")
_DRAWN = (".svg", ".png", ".pdf")
_SECONDS = 300.0  # that dot may take


def label(text: str) -> str:
    """Return a quoted string of DOT, each line of the text on a line of its own, left aligned; whatever is in it."""
    # Within quotes of DOT a backslash may begin an escape, & an entity of HTML.
    lines = (
        printable(line).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in text.split("\n")
    )
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
    to_file(path, drawn(dot, kind) if kind in _DRAWN else dot.encode(), 0o666, overwrite)


def drawn(dot: str, kind: str) -> bytes:
    """Return what Graphviz makes of DOT. kind: ".svg", ".png" or ".pdf". Raises NotSupported if it cannot."""
    import subprocess

    what, instead = f"a picture as {kind[1:]}", "write DOT: a name that ends with .dot"
    try:
        done = subprocess.run(["dot", f"-T{kind[1:]}"], input=dot.encode(), capture_output=True, timeout=_SECONDS)
    except FileNotFoundError:
        cause = "there is no dot, the program of Graphviz that draws it"
        raise NotSupported(what, cause, f"install graphviz, or {instead}") from None
    except subprocess.TimeoutExpired:
        raise NotSupported(what, f"dot took more than {_SECONDS:g} s", instead) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"it ended with status {done.returncode}"
        raise NotSupported(what, f"dot failed: {reason}", instead)
    return done.stdout
