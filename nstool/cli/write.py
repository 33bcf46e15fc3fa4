"""Write a file for the user."""

from __future__ import annotations

import os
import sys

from nstool.errors import SpecError


def write(path: str, data: bytes, mode: int, overwrite: bool) -> None:
    """Write a file that is not there yet, or with overwrite any; "-" is standard output.

    mode: permission bits of a new one, less the umask. Raises SpecError where it cannot be opened, OSError for a
    full disk: then nothing is left of a new one.
    """
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    # O_EXCL refuses what exists, also a dangling symlink.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        fd = os.open(path, flags, mode)
    except FileExistsError:
        raise SpecError("exists; --force overwrites it", path) from None
    except OSError as error:
        raise SpecError(error.strerror or str(error), path or "FILE") from None
    try:
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as error:
        if not overwrite:
            os.unlink(path)
        raise OSError(error.errno, error.strerror, path) from None
