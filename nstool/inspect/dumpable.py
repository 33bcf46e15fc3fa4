"""Whether a process is dumpable, where the kernel tells it of another. prctl(2), PR_SET_DUMPABLE."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, ENOENT, ENOSYS, ENOTTY, ESRCH

from nstool import uapi


def is_dumpable(pid: int, tgid: int) -> bool | None:
    """Whether a process is dumpable, of a thread by its tid: PIDFD_INFO_COREDUMP, Linux 6.16. None if it does not."""
    import fcntl

    try:
        fd = os.pidfd_open(pid, 0 if pid == tgid else uapi.PIDFD_THREAD)
    except OSError as error:
        if error.errno in (EINVAL, ENOENT, ENOSYS, ESRCH):  # a thread before Linux 6.9; the caller checks for its end
            return None
        raise
    try:
        info = bytearray(struct.pack("Q", uapi.PIDFD_INFO_COREDUMP).ljust(uapi.PIDFD_INFO_SIZE_VER1, b"\0"))
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in (EINVAL, ENOTTY, ESRCH):  # older than Linux 6.13, or 6.16
            return None
        raise
    finally:
        os.close(fd)
    answered = struct.unpack_from("Q", info)[0] & uapi.PIDFD_INFO_COREDUMP
    mask = struct.unpack_from("I", info, 64)[0] if answered else 0
    return None if not mask else bool(mask & uapi.PIDFD_COREDUMP_USER)


# _IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info): its size tells the kernel which of the structs is meant.
_PIDFD_GET_INFO = 3 << 30 | uapi.PIDFD_INFO_SIZE_VER1 << 16 | 0xFF << 8 | 11
