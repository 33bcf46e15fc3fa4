"""``nstool run --detach``: the supervisor goes into the background once the command runs."""

from __future__ import annotations

import os
import stat
import sys
from errno import ENXIO

from nstool.cli.forward import Forward
from nstool.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.cli.supervise import Log

_CHUNK = 65536


def detached(log: str, size: int, run: Callable[[int, Callable[[str], None], Log | None], int]) -> int:
    """Run in a background process of its own session; the exit status of the foreground.

    log: file that takes the command's output, appended. size: bytes that it may have, 0 for no limit.
    run(output, started, log) launches with the fd output for stderr and supervises; it calls started(name) when the
    command runs, or returns a status after saying why on stderr.
    """
    try:
        # Not waiting for the reader of a pipe; the command may.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        output = os.open(log, flags, 0o640)
        os.set_blocking(output, True)
    except OSError as error:
        if error.errno == ENXIO:
            why = f"{log} is a pipe that nobody reads, or a socket: start who reads it before, or name a file"
            raise SpecError(why, "--log") from None
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
        streams, limited = _limited(output, size)
        os.dup2(streams, 1)
        os.dup2(writer, 2)  # until the command runs, messages go to who started us
        os.set_inheritable(writer, False)

        def started(name: str) -> None:
            os.write(writer, f"\0{name}".encode())
            os.dup2(output, 2)
            os.close(writer)

        os._exit(run(streams, started, limited))
    finally:
        os._exit(125)


def _limited(output: int, size: int) -> tuple[int, Log | None]:
    """Return what the command writes to, and what the supervisor copies from there to a file that keeps its output.

    So the command has no fd of the file either, by which it could empty it.
    """
    if not size or not stat.S_ISREG(os.fstat(output).st_mode):
        return output, None
    from nstool.cli.supervise import Log

    if (has := os.fstat(output).st_size) >= size:
        sys.stderr.write(
            f"nstool: warning: the log has {has} bytes already, of {size} that it may have, so that nothing is added: "
            "empty it, or --log-size\n"
        )
    reader, writer = os.pipe()
    return writer, Log(reader, output, size)


class _Child:
    """Who takes the signals that come until the command runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)  # not waited for yet, so it is no other's


def _foreground(reader: int, child: int) -> int:
    data = b""
    with open(reader, "rb", buffering=0) as pipe, Forward() as forward:
        forward.to(_Child(child))
        while chunk := pipe.read(_CHUNK):
            data += chunk
    text, started, name = data.decode("utf-8", "replace").partition("\0")
    if text:
        sys.stderr.write(text)
    if started:
        print(name)
        return 0
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status
