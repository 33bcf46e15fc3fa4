"""The few calls that the tests need of the kernel themselves, by another road than nstool's."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
STATMOUNT_SB_SOURCE = 0x200
STATMOUNT_SUPPORTED_MASK = 0x1000
STATMOUNT_MNT_UIDMAP = 0x2000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def release() -> tuple[int, int]:
    """Return the kernel's version as (6, 1). uname(2)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces. unshare(2)."""
    _check("unshare", _libc.unshare(ctypes.c_int(flags)))


def map_root() -> None:
    """Map root of the host to root of the user namespace that the caller, root, has just made. user_namespaces(7)."""
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a filesystem, or bind, or change propagation. mount(2)."""
    words = [os.fsencode(word) for word in (source, target, fstype)]
    _check(f"mount {target}", _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)))


def umount(target: str, flags: int = 0) -> None:
    """Detach a mount. umount(2)."""
    _check(f"umount {target}", _libc.umount2(os.fsencode(target), ctypes.c_int(flags)))


def is_cached(path: str) -> bool:
    """Whether the kernel can walk a path by what it has in memory alone. openat2(2), RESOLVE_CACHED."""
    how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, 0x20)
    for _ in range(100):  # it also gives up where somebody mounts or renames meanwhile
        fd = _libc.syscall(ctypes.c_long(437), ctypes.c_int(-100), os.fsencode(path), how, ctypes.c_size_t(len(how)))
        if fd >= 0:
            os.close(fd)
            return True
        if ctypes.get_errno() != errno.EAGAIN:
            _check(f"openat2 {path}", fd)
    return False


def listmount() -> tuple[int, ...]:
    """Return the ids of the first mounts of the caller's namespace, a hundred at most. listmount(2), Linux 6.8."""
    request = struct.pack("=2I2Q", 24, 0, 0xFFFFFFFFFFFFFFFF, 0)  # LSMT_ROOT
    found = (ctypes.c_uint64 * 100)()
    count = _libc.syscall(ctypes.c_long(458), request, found, ctypes.c_size_t(len(found)), ctypes.c_uint(0))
    return tuple(found[: _check("listmount", count)])


def statmount(mnt_id: int, mask: int) -> tuple[int, int]:
    """Return what is told of a mount, as a mask, and with STATMOUNT_SUPPORTED_MASK what could be. statmount(2)."""
    request = struct.pack("=2I2Q", 24, 0, mnt_id, mask)
    told = ctypes.create_string_buffer(4096)
    _check("statmount", _libc.syscall(ctypes.c_long(457), request, told, ctypes.c_size_t(len(told)), ctypes.c_uint(0)))
    known, supported = struct.unpack_from("=8xQ128xQ", told)
    return known, supported if known & STATMOUNT_SUPPORTED_MASK else 0


def prctl(option: int, value: int) -> None:
    """Set one attribute of the calling process. prctl(2)."""
    _check("prctl", _libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(word) for word in (value, 0, 0, 0))))


def landlock_abi() -> int:
    """Return the version of Landlock, negative where there is none. landlock_create_ruleset(2)."""
    return int(_libc.syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def landlock() -> None:
    """Put the calling process into a Landlock domain: it may not look into processes outside. landlock(7)."""
    make_sock = ctypes.c_uint64(1 << 9)  # one right that is handled
    fd = _check("ruleset", _libc.syscall(ctypes.c_long(444), ctypes.byref(make_sock), ctypes.c_size_t(8), 0))
    _check("restrict", _libc.syscall(ctypes.c_long(446), ctypes.c_int(fd), 0))
    os.close(fd)
