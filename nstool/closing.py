"""What holds files or processes, and lets go of them at the end of its block."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


def is_open(fd: int) -> bool:
    """Whether this process has a file by that number."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class Closing:
    """A context manager: leaving it closes it."""

    def close(self) -> None:
        """Let go of all. Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ByFd(Closing):
    """What is held by one file. fd: its own, -1 once closed."""

    fd: int

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)
