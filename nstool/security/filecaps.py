"""File capabilities: the attribute security.capability of an executable, read, made, set and removed.

capabilities(7), section "File capabilities"; struct vfs_ns_cap_data of linux/capability.h.
"""

from __future__ import annotations

import os
import stat
import struct
from errno import EINVAL, ENODATA, ENOTSUP, EOVERFLOW, EPERM, EROFS

from nstool import uapi
from nstool.errors import KernelError, SpecError
from nstool.frozen import Frozen
from nstool.security import capabilities
from nstool.security.capabilities import CapSets
from nstool.uapi import CAP_LAST_CAP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

NAME = "security.capability"
_SIZES = {uapi.VFS_CAP_REVISION_1: 12, uapi.VFS_CAP_REVISION_2: 20, uapi.VFS_CAP_REVISION_3: 24}
_NO_ID = 0xFFFFFFFF


class FileCaps(Frozen):
    """Capabilities of a file. permitted, inheritable: masks. effective: one bit, for all that the process gains.

    rootid: the uid that is root of the user namespaces in which they count, as the reader's; None in revision 2, which
    counts in the initial one and everywhere below. revision: 1 (32 capabilities), 2 or 3. flags: bits that have no
    meaning yet, as they stand.
    """

    permitted: int = 0
    inheritable: int = 0
    effective: bool = False
    rootid: int | None = None
    revision: int = 2
    flags: int = 0


def parse(data: bytes) -> FileCaps:
    """Read the bytes of the attribute. Raises SpecError for what the kernel refuses: the wrong revision or size."""
    if len(data) < 4:
        raise SpecError(f"{NAME} has {len(data)} bytes, and at least its first 4 are needed; clear it and set it anew")
    (magic,) = struct.unpack_from("<I", data)
    revision = magic & uapi.VFS_CAP_REVISION_MASK
    if revision not in _SIZES:
        raise SpecError(f"{NAME} is of revision {revision >> 24}; there are 1, 2 and 3")
    if len(data) != _SIZES[revision]:
        raise SpecError(f"{NAME} of revision {revision >> 24} has {_SIZES[revision]} bytes, this one {len(data)}")
    words = struct.unpack(f"<{len(data) // 4}I", data)
    low, high = words[1:3], words[3:5] or (0, 0)
    return FileCaps(
        permitted=low[0] | high[0] << 32,
        inheritable=low[1] | high[1] << 32,
        effective=bool(magic & uapi.VFS_CAP_FLAGS_EFFECTIVE),
        rootid=words[5] if revision == uapi.VFS_CAP_REVISION_3 else None,
        revision=revision >> 24,
        flags=magic & ~(uapi.VFS_CAP_REVISION_MASK | uapi.VFS_CAP_FLAGS_EFFECTIVE),
    )


def pack(caps: FileCaps) -> bytes:
    """Return the bytes of the attribute; ``parse`` gives the same record back."""
    magic = caps.revision << 24 | caps.flags | (uapi.VFS_CAP_FLAGS_EFFECTIVE if caps.effective else 0)
    words = [magic, caps.permitted & _NO_ID, caps.inheritable & _NO_ID]
    if caps.revision > 1:
        words += [caps.permitted >> 32, caps.inheritable >> 32]
    if caps.revision == 3:
        words.append(caps.rootid or 0)
    return struct.pack(f"<{len(words)}I", *words)


def from_text(text: str, rootid: int | None = None, last: int = CAP_LAST_CAP) -> FileCaps:
    """Read the text form: "cap_net_raw=ep", "=" for the empty sets. setcap(8), cap_from_text(3).

    A file has one effective bit, so e is given for all that are p or i, or for none. rootid: makes revision 3.
    last: number of the last capability of the kernel. Raises SpecError.
    """
    sets = capabilities.from_text(text, last)
    both = sets.permitted | sets.inheritable
    if sets.effective not in (0, both):
        some = capabilities.names(sets.effective ^ both)
        raise SpecError(
            f"{text!r}: a file has one effective bit for all its capabilities, and {' '.join(some)} would differ; "
            "give e to all that have p or i, or to none"
        )
    if unknown := capabilities.names(both & ~capabilities.full(last)):
        raise SpecError(f"{text!r}: this kernel has no capability {' '.join(unknown)}; its last is number {last}")
    if rootid is not None and not 0 <= rootid < _NO_ID:
        raise SpecError(f"root id {rootid} is no user id; give one from 0 to {_NO_ID - 1}")
    revision = 2 if rootid is None else 3
    return FileCaps(sets.permitted, sets.inheritable, bool(sets.effective), rootid, revision)


def to_text(caps: FileCaps, last: int = CAP_LAST_CAP) -> str:
    """Return the text form as getcap(8) prints it, without the root id."""
    effective = caps.permitted | caps.inheritable if caps.effective else 0
    return capabilities.to_text(CapSets(effective, caps.permitted, caps.inheritable), last)


def read(path: str | bytes | int) -> FileCaps | None:
    """Return the capabilities of a file, None if it has none. A symbolic link is not followed; path may be an fd.

    The kernel shows a root id as an id of the reader's user namespace, and one that is root of the reader's or of one
    above as revision 2. Raises KernelError: EOVERFLOW for a root id that has no number here, EINVAL for revision 1 and
    for bytes that it does not understand.
    """
    name, follow = (f"/proc/self/fd/{path}", True) if isinstance(path, int) else (path, False)
    try:
        return parse(os.getxattr(name, NAME, follow_symlinks=follow))
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):  # ENOTSUP: the filesystem has no such attributes
            return None
        _refused("getxattr", os.fsdecode(name), error)


def write(path: str | bytes | int, caps: FileCaps) -> None:
    """Set the capabilities of a regular file; those that it had are replaced. CAP_SETFCAP is needed.

    path: as ``hold`` takes it, but whoever owns the directories on the way; or an fd of that.
    In a user namespace that did not mount the filesystem the kernel makes revision 3 of revision 2, the root id being
    the namespace's. Raises SpecError for what is no regular file, KernelError.
    """
    fd = path if isinstance(path, int) else hold(path, anyway=True)
    try:
        os.setxattr(f"/proc/self/fd/{fd}", NAME, pack(caps))
    except OSError as error:
        _refused("setxattr", _name(path), error)
    finally:
        if fd != path:
            os.close(fd)


def remove(path: str | bytes | int) -> bool:
    """Take the capabilities from a regular file; return whether it had any. CAP_SETFCAP is needed.

    path: as of ``write``. Raises SpecError for what is no regular file, KernelError.
    """
    fd = path if isinstance(path, int) else hold(path, anyway=True)
    try:
        os.removexattr(f"/proc/self/fd/{fd}", NAME)
    except OSError as error:
        if error.errno in (ENODATA, ENOTSUP):
            return False
        _refused("removexattr", _name(path), error)
    finally:
        if fd != path:
            os.close(fd)
    return True


def _name(path: str | bytes | int) -> str:
    return real_path(path) if isinstance(path, int) else os.fsdecode(path)


def real_path(fd: int) -> str:
    """Return the path that an open file has by now, with " (deleted)" behind it if it has none."""
    return os.readlink(f"/proc/self/fd/{fd}")


def hold(path: str | bytes, *, follow: bool = False, anyway: bool = False) -> int:
    """Return an fd of a regular file that nobody else can have put in the place of another; the caller's, O_PATH.

    Nobody but the caller and root may own or write the file and each directory on the way, from the working directory
    or behind "/"; of a directory with the sticky bit, as /tmp, others may be writers. anyway: they may all the same.
    follow: symbolic links are followed, but not those of /proc that are none, as /proc/PID/exe. Raises SpecError.
    """
    name = os.fsdecode(path)
    fd, strange = _walk(name, follow)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise SpecError(f"{name} is no regular file; only one that can be executed has capabilities")
        if strange and not anyway:
            raise SpecError(f"{name}: {strange[0]}, and may exchange what is there for a file of yours; {_ANYWAY}")
    except BaseException:
        os.close(fd)
        raise
    return fd


_LINKS = 40  # that are followed, as by the kernel, path_resolution(7)
_ANYWAY = "copy the file to a directory of yours, or say that you mean it: --anyway"


def _walk(path: str, follow: bool) -> tuple[int, list[str]]:
    """Return an fd of what is at path, and what of the way belongs to others, in words."""
    strange: list[str] = []
    names = _names(path)
    links = 0
    fd = os.open("/" if path.startswith("/") else ".", os.O_PATH | os.O_CLOEXEC)
    try:
        if not path.startswith("/"):
            strange += _others(fd, directory=True)
        while names:
            name = names.pop()
            try:
                following = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            if stat.S_ISLNK(os.fstat(following).st_mode):
                links += 1
                try:
                    target = _target(fd, following, name, path, follow and links <= _LINKS)
                finally:
                    os.close(following)
                names += _names(target)
                following = os.open("/", os.O_PATH | os.O_CLOEXEC) if target.startswith("/") else os.dup(fd)
            else:
                strange += _others(following, directory=bool(names))
            os.close(fd)
            fd = following
    except BaseException:
        os.close(fd)
        raise
    return fd, strange


def _names(path: str) -> list[str]:
    # The last first. A "/" at the end asks for a directory.
    return [name for name in (path + "." if path.endswith("/") else path).split("/")[::-1] if name]


def _target(directory: int, link: int, name: str, path: str, follow: bool) -> str:
    from nstool import syscalls

    if not follow:
        try:
            other = f": {os.path.realpath(path)}"
        except OSError:  # exchanged for no link meanwhile
            other = ""
        text = f"{path}: {real_path(link)} is a symbolic link, which is not followed"
        raise SpecError(f"{text}; name the file{other}, or say --follow")
    # One of /proc that only looks like one, as /proc/PID/root, is refused: ELOOP.
    os.close(syscalls.openat2(directory, name, os.O_PATH | os.O_CLOEXEC, 0, uapi.RESOLVE_NO_MAGICLINKS))
    return os.readlink("", dir_fd=link)


def _others(fd: int, *, directory: bool) -> list[str]:
    info = os.fstat(fd)
    own = (0, os.geteuid())
    if info.st_uid not in own:
        return [f"{real_path(fd)} belongs to user {info.st_uid}, who is neither you nor root"]
    if directory and info.st_mode & stat.S_ISVTX:
        return []
    by_group = info.st_mode & stat.S_IWGRP and (info.st_gid not in (0, os.getegid()) or _has_acl(fd))
    if by_group or info.st_mode & stat.S_IWOTH:
        who = f"group {info.st_gid} or an access control list" if by_group else "everybody"
        return [f"{real_path(fd)} can be written by {who}"]
    return []


def _has_acl(fd: int) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{fd}")
    except OSError as error:
        if error.errno != ENOTSUP:  # the filesystem has none
            raise
        return False


def _refused(call: str, path: str, error: OSError) -> NoReturn:
    errno = error.errno or 0
    causes, remedies, checked = _why(call, errno)
    raise KernelError(f'{call}("{path}", "{NAME}")', errno, "", "", causes, remedies, checked) from None


def _why(call: str, errno: int) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    # (causes, remedies, whether looked at and found so). xattr(7), cap_convert_nscap of security/commoncap.c.
    if errno == EPERM:
        with open("/proc/thread-self/status") as file:
            effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
        if not effective >> uapi.CAP_SETFCAP & 1:
            return ("you have no CAP_SETFCAP",), ("run as root, or in a user namespace that maps the owner",), True
        return (
            ("the file is immutable or append-only", "its owner or group is not mapped in your user namespace"),
            ("look with lsattr, chattr -i", "do it from the user namespace above"),
            False,
        )
    table = {
        ENOTSUP: ("the filesystem has no attributes of security", "copy the file to one that has, as ext4, xfs, tmpfs"),
        EROFS: ("the filesystem is mounted read-only", "remount it, or copy the file to another"),
        EOVERFLOW: (
            "its root id has no number in your user namespace, so that they count in another one",
            "look from the user namespace above",
        ),
        EINVAL: (
            "the root id is not mapped in your user namespace, or not in that of the filesystem",
            "give one that /proc/self/uid_map has inside",
        ),
    }
    if call == "getxattr":
        table[EINVAL] = (
            "they are damaged, or of revision 1, which the kernel does not show",
            "clear them, set them anew",
        )
    if errno not in table:
        return (), (), False
    cause, remedy = table[errno]
    return (cause,), (remedy,), errno in (ENOTSUP, EROFS, EOVERFLOW)
