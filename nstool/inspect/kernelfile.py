"""Read files that the kernel makes, where others may have mounted something else over them: never that. openat2(2)."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, EMEDIUMTYPE

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.inspect.nsfs import Fd

_MOST = 64 << 10  # bytes


def read(directory: int, name: str, kind: int) -> bytes:
    """Return the content of a file of the mount that a directory is on, by a path without symlinks below it.

    directory: O_PATH fd. kind: of the filesystem that it has to be, as uapi.PROC_SUPER_MAGIC. A fifo, a device, a file
    of another filesystem is not opened. Raises KernelError: EXDEV for what is on another mount, EMEDIUMTYPE for what is
    no regular file of that kind, EINVAL for more than 64 KiB; OSError.
    """
    resolve = uapi.RESOLVE_BENEATH | uapi.RESOLVE_NO_XDEV | uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_MAGICLINKS
    with Fd(syscalls.openat2(directory, name, os.O_PATH | os.O_CLOEXEC, resolve=resolve)) as place:
        if not stat.S_ISREG(os.fstat(place).st_mode) or syscalls.fstatfs_type(place) != kind:
            raise KernelError(f'open("{name}")', EMEDIUMTYPE)
        fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            text = file.read(_MOST + 1)
    if len(text) > _MOST:
        raise KernelError(f'read("{name}")', EINVAL)
    return text
