"""Files in a sandbox that are not to change, looked at from outside: stat(2) and the names in directories.

Paths are walked by openat2(2) from the sandbox's root: no link leads out of it, and no file is opened but directories,
so that a FIFO or a device is never waited for. What is below a path is not followed over links or other mounts.
"""

from __future__ import annotations

import errno
import os
import stat
from hashlib import blake2b

from nstool import syscalls, uapi
from nstool.errors import SpecError
from nstool.frozen import Frozen

MOST = 4096  # files and directories of one sandbox
DEPTH = 32  # directories below each other
_TOP = uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_NO_MAGICLINKS
_BELOW = uapi.RESOLVE_BENEATH | uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_XDEV
_DIRECTORY = uapi.O_RDONLY | uapi.O_DIRECTORY | uapi.O_NOFOLLOW | uapi.O_CLOEXEC
# What says that we lack something, or that others rename without a pause, not how the file is.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)


class Seen(Frozen):
    """What was seen of a watched path. alike: the same of each new sandbox of a generation: names, kinds, permissions,
    sizes. exact: the same as long as nothing is changed: owners and times, too. Both are hashes.
    """

    path: str
    alike: bytes
    exact: bytes


class TooMany(Exception):
    """There is more below the watched paths than is looked at; args[0] says what."""


def fresh(pid: int, paths: tuple[str, ...]) -> tuple[Seen, ...]:
    """Return what a sandbox has whose command has not begun. Raises SpecError if there is more than is looked at."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        return look(root, paths)
    except TooMany as error:
        raise SpecError(f"{error}: name less of it", "service.watch") from None
    finally:
        os.close(root)


def look(root: int, paths: tuple[str, ...]) -> tuple[Seen, ...]:
    """Return what is at the watched paths below a root. Raises TooMany."""
    walk = _Walk()
    return tuple(walk.seen(root, path) for path in paths)


class _Walk:
    """One look at all paths of a sandbox."""

    def __init__(self) -> None:
        self._left = MOST

    def seen(self, root: int, path: str) -> Seen:
        self._path = path
        self._alike, self._exact = blake2b(digest_size=16), blake2b(digest_size=16)
        fd = self._opened(root, path, uapi.O_PATH | uapi.O_NOFOLLOW | uapi.O_CLOEXEC, _TOP)
        if fd >= 0:
            try:
                if self._is_directory("", fd):
                    self._enter(fd, ".", 0)
            finally:
                os.close(fd)
        return Seen(path, self._alike.digest(), self._exact.digest())

    def _opened(self, at: int, path: str, flags: int, resolve: int) -> int:
        """Return an fd, or -1 and note why there is none: that is how the file is. EXDEV: another mount."""
        try:
            return syscalls.open_within(at, path, flags, resolve)
        except OSError as error:
            self._refused(error)
            return -1

    def _refused(self, error: OSError) -> None:
        if error.errno in _OURS:
            raise error
        self._add(self._alike, error.errno)
        self._add(self._exact, error.errno)

    def _enter(self, at: int, name: str, depth: int) -> None:
        fd = self._opened(at, name, _DIRECTORY, _BELOW)
        if fd < 0:
            return
        try:
            if depth > DEPTH:
                raise TooMany(f"{self._path} is deeper than {DEPTH} directories")
            for below in self._names(fd):
                if self._is_directory(below, fd):
                    self._enter(fd, below, depth + 1)
        finally:
            os.close(fd)
        self._add(self._alike, "..")
        self._add(self._exact, "..")

    def _names(self, fd: int) -> list[str]:
        names = []
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    self._left -= 1
                    if self._left < 0:
                        raise TooMany(f"more than {MOST} files below {self._path} and what is watched before it")
                    names.append(entry.name)
        except OSError as error:  # that is how it is
            self._refused(error)
        return sorted(names)  # their order is that of making in a tmpfs

    def _is_directory(self, name: str, at: int) -> bool:
        """Note how a file is that at has, or at itself; whether it is a directory."""
        try:
            one = os.stat(name, dir_fd=at, follow_symlinks=False) if name else os.fstat(at)
        except OSError as error:
            self._refused(error)
            return False
        is_directory = stat.S_ISDIR(one.st_mode)
        size = one.st_size if stat.S_ISREG(one.st_mode) or stat.S_ISLNK(one.st_mode) else 0
        # An overlay may give a directory another number when it has forgotten the first: Documentation/filesystems.
        number = 0 if is_directory else one.st_ino
        self._add(self._alike, name, one.st_mode, size)
        owner = (one.st_uid, one.st_gid)
        times = (one.st_mtime_ns, one.st_ctime_ns)
        self._add(self._exact, name, one.st_mode, size, one.st_dev, number, *owner, *times)
        return is_directory

    def _add(self, digest: blake2b, *words: object) -> None:
        digest.update(repr(words).encode("utf-8", "surrogateescape"))
