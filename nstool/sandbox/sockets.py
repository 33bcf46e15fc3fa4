"""The file of a Unix socket that listens: which one it is, and its removal when nobody has it any more. unix(7)."""

from __future__ import annotations

import os
import socket
from typing import Any

from nstool.frozen import Frozen
from nstool.plan.steps import UNDO, Step
from nstool.sandbox import journal


class SocketFile(Frozen):
    """A file that a socket was bound to. dev, ino: by which it is known; another's may have come to its path since."""

    path: str
    dev: int
    ino: int

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to it."""
        try:
            status = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == (self.dev, self.ino)

    def remove(self) -> bool:
        """Remove it; False where it is gone, or anybody has the socket."""
        if not self.is_there or not is_dead(self.path):
            return False
        os.unlink(self.path)
        return True

    @property
    def undo(self) -> Step:
        """The step that removes it, for the journal."""
        return Step(UNDO, "external", ("unix_socket", self.asdict()), f"remove socket {self.path}")


def is_dead(path: str) -> bool:
    """Whether no process has the socket of a file any more.

    Nobody is connected for that: where there is one, the kernel refuses a socket of another type, EPROTOTYPE.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
        try:
            one.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # somebody has it, or it cannot be told
            return False
    return False


def files_of(name: str) -> dict[str, SocketFile]:
    """Return the files of sockets that the journal of a sandbox tells of, by their paths."""
    args: list[Any] = [step.args[1] for step in journal.read_undo(name) if step.args[0] == "unix_socket"]
    return {one["path"]: SocketFile(**one) for one in args}


def _remove(context: object, args: dict[str, Any]) -> bool:
    return SocketFile(**args).remove()


HANDLERS = {"unix_socket": _remove}
