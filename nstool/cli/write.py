"""Write a file for the user."""

from __future__ import annotations

import os
import stat
import sys
from errno import EISDIR

from nstool.errors import SpecError


def write(path: str, data: bytes, mode: int, overwrite: bool) -> None:
    """Write a file that is not there yet, or with overwrite in the place of one; "-" is standard output.

    mode: permission bits, less the umask. What is replaced is a regular file, by a new one, so that whoever owns or has
    opened the old one has nothing of it; a device is written to; a symbolic link is not followed. Raises SpecError
    where it cannot be opened, OSError for a full disk: then nothing is left of a new one, and the old one is as it was.
    """
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SpecError(error.strerror or str(error), path or "FILE") from None
    try:
        _write(directory, path, data, mode, overwrite)
    finally:
        os.close(directory)


def _write(directory: int, path: str, data: bytes, mode: int, overwrite: bool) -> None:
    name = os.path.basename(path)
    device = overwrite and _is_device(directory, path)
    replace = overwrite and not device
    # O_EXCL refuses what exists, also a dangling symlink.
    flags = os.O_NOFOLLOW if device else os.O_CREAT | os.O_EXCL
    written = f".nstool-{os.urandom(8).hex()}" if replace else name
    try:
        fd = os.open(written, os.O_WRONLY | os.O_CLOEXEC | flags, mode, dir_fd=directory)
    except FileExistsError:
        raise SpecError("exists; --force overwrites it", path) from None
    except OSError as error:
        raise SpecError(error.strerror or str(error), path or "FILE") from None
    try:
        with open(fd, "wb") as file:
            file.write(data)
        if replace:
            os.rename(written, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError as error:
        if not device:
            os.unlink(written, dir_fd=directory)
        raise OSError(error.errno, error.strerror, path) from None


def _is_device(directory: int, path: str) -> bool:
    """Whether it is a character device, as /dev/null. Raises SpecError for what is neither that nor a regular file."""
    try:
        found = os.stat(os.path.basename(path), dir_fd=directory, follow_symlinks=False).st_mode
    except OSError:  # it is not there; what else there may be is said when it is opened
        return False
    if stat.S_ISLNK(found):
        raise SpecError("is a symbolic link, which is not followed; name the file", path)
    if stat.S_ISDIR(found):
        raise SpecError(os.strerror(EISDIR), path)
    if not stat.S_ISREG(found) and not stat.S_ISCHR(found):
        raise SpecError("is no regular file", path)
    return stat.S_ISCHR(found)
