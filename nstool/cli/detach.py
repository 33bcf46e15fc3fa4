"""``nstool run --detach``: the supervisor goes into the background once the command runs."""

from __future__ import annotations

import os
import sys

from nstool.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 65536


def detached(log: str, run: Callable[[int, Callable[[str], None]], int]) -> int:
    """Run in a background process of its own session; the exit status of the foreground.

    log: file that takes the command's output, appended. run(output, started)
    launches with the fd output for stderr and supervises; it calls started(name) when the command runs,
    or returns a status after saying why on stderr.
    """
    try:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise SpecError(f"{log or 'empty name'}: {error.strerror}", "--log") from None
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return _foreground(reader, child)
    try:
        os.close(reader)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(writer, 2)  # until the command runs, messages go to who started us
        os.set_inheritable(writer, False)

        def started(name: str) -> None:
            os.write(writer, f"\0{name}".encode())
            os.dup2(output, 2)
            os.close(writer)

        os._exit(run(output, started))
    finally:
        os._exit(125)


def _foreground(reader: int, child: int) -> int:
    data = b""
    with open(reader, "rb", buffering=0) as pipe:
        while chunk := pipe.read(_CHUNK):
            data += chunk
    text, started, name = data.decode("utf-8", "replace").partition("\0")
    if text:
        sys.stderr.write(text)
    if started:
        print(name)
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
