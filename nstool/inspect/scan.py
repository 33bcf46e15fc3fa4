"""Files below a directory that give privilege to who executes them: set-user-ID, set-group-ID, file capabilities.

Fast (one look and one list of attributes a file), in bounded memory, and safe in directories that others write to: each
is opened from its parent without following symbolic links, and what is reported has been read by its fd.
"""

from __future__ import annotations

import os
import stat
from errno import E2BIG, EACCES, EINVAL, ELOOP, ENOENT, ENOTDIR, ENOTSUP, EOVERFLOW

from nstool.errors import KernelError, NotSupported
from nstool.frozen import Frozen
from nstool.security import filecaps
from nstool.security.filecaps import FileCaps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 10_000  # sub-directories of one directory that are remembered before they are entered
OPEN = 64  # directories on the way down that are kept open; those above are found again by ".."
LONG = 3800  # bytes of a path that leave room for a name, path_resolution(7): PATH_MAX is 4096
TELL = 2000  # files between two calls of progress


class Privileged(Frozen):
    """A regular file that makes an execve(2) change ids or capabilities. uid, gid: as the reader's.

    caps: its file capabilities. caps_unread: why the kernel does not show them. nosuid: its mount makes it ordinary.
    """

    path: str
    mode: int
    uid: int
    gid: int
    caps: FileCaps | None = None
    caps_unread: str = ""
    nosuid: bool = False

    @property
    def set_user_id(self) -> bool:
        """Whether it is executed as its owner."""
        return bool(self.mode & stat.S_ISUID)

    @property
    def set_group_id(self) -> bool:
        """Whether it is executed with its group; without the execute bit of the group the other bit says nothing."""
        return self.mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP


class Unread(Frozen):
    """A directory that has not been looked into, or not to its end, or an entry of one, and why."""

    path: str
    why: str


class Scan:
    """Iterate over what there is below a directory: Privileged and Unread, as they are found.

    all_filesystems: enter other filesystems too; else their mount points are counted (elsewhere), as find -xdev.
    progress: called now and then with this object, whose files, directories, elsewhere and found tell how far it is.
    The directory may be a symbolic link; below it none is followed. Raises OSError if it cannot be opened itself.

    Memory is bounded by the depth: at most BATCH names of sub-directories each. A directory that is moved elsewhere
    meanwhile is reported; files made meanwhile may be missed, as by any search.
    """

    def __init__(
        self,
        directory: str,
        *,
        all_filesystems: bool = False,
        progress: Callable[[Scan], None] | None = None,
    ) -> None:
        self.directory = directory
        self.all_filesystems = all_filesystems
        self.progress = progress
        self.files = self.directories = self.elsewhere = self.found = self.unread = 0
        self._without_attributes: set[int] = set()  # devices whose filesystem has none

    def __iter__(self) -> Iterator[Privileged | Unread]:
        if not os.path.exists("/proc/self/fd"):
            raise NotSupported("asking files for their attributes", "/proc is not mounted", "mount -t proc proc /proc")
        top = _Directory(os.open(self.directory, _FLAGS), self.directory)
        self.directories += 1
        way = [top]  # from the top down to where we are
        try:
            while way:
                here = way[-1]
                for item in self._read(here, way):
                    self.found += isinstance(item, Privileged)
                    self.unread += isinstance(item, Unread)
                    yield item
                if here.waiting:
                    following = self._enter(way, here.waiting.pop())
                elif not here.at_end:
                    continue
                else:
                    following = self._leave(way)
                if following:
                    self.unread += 1
                    yield following
        finally:
            for directory in way:
                directory.close()

    def _read(self, here: _Directory, way: list[_Directory]) -> Iterator[Privileged | Unread]:
        # Look at the entries, up to the end or until enough sub-directories wait.
        try:
            for entry in here.entries():
                try:
                    found = self._look(here, entry, way)
                except FileNotFoundError:  # gone meanwhile
                    continue
                except OSError as error:
                    if error.errno == EACCES and not os.access(".", os.X_OK, dir_fd=here.fd, effective_ids=True):
                        raise
                    yield Unread(_path(way, entry.name), _why(error))
                    continue
                if found:
                    yield found
                if len(here.waiting) >= BATCH:
                    return
        except OSError as error:
            here.end()
            why = str(error.strerror)
            if error.errno == EACCES:
                why = f"{why}: its names may be read, but not what they are (no x for you in its mode)"
            yield Unread(_path(way), why)

    def _look(self, here: _Directory, entry: os.DirEntry[str], way: list[_Directory]) -> Privileged | None:
        info = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            self.files += 1
            if self.progress and self.files % TELL == 0:
                self.progress(self)
            if info.st_mode & (stat.S_ISUID | stat.S_ISGID) or self._has_caps(here.fd, entry.name, info.st_dev):
                return _privileged(here.fd, entry.name, _path(way, entry.name))
        elif kind == stat.S_IFDIR:
            if info.st_dev == here.device or self.all_filesystems:
                here.waiting.append(entry.name)
            else:
                self.elsewhere += 1
        return None

    def _has_caps(self, directory: int, name: str, device: int) -> bool:
        if device in self._without_attributes:
            return False
        try:
            # By the directory that is held: at its path there may be another one by now.
            return filecaps.NAME in os.listxattr(f"/proc/self/fd/{directory}/{name}", follow_symlinks=False)
        except OSError as error:
            if error.errno == ENOTSUP:
                self._without_attributes.add(device)
            elif error.errno == E2BIG:  # more names than the kernel lists, so that this one is asked for
                return True
            elif error.errno not in (ENOENT, ENOTDIR, ELOOP):  # gone, or exchanged for another meanwhile
                raise
            return False

    def _enter(self, way: list[_Directory], name: str) -> Unread | None:
        above = way[-1]
        try:
            following = _Directory(os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=above.fd), name, above)
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile, or no directory any more
            return None
        except OSError as error:
            return None if error.errno == ELOOP else Unread(_path(way, name), str(error.strerror))
        if following.device != above.device and not self.all_filesystems:  # mounted since it was listed
            following.close()
            self.elsewhere += 1
            return None
        self.directories += 1
        way.append(following)
        if len(way) > OPEN and way[-OPEN].at_end:
            way[-OPEN].close_fd()
        return None

    def _leave(self, way: list[_Directory]) -> Unread | None:
        here = way.pop()
        lost = None
        try:
            while way and way[-1].fd < 0 and not _reopen(way, here):
                lost = lost or Unread(_path(way), "it was moved elsewhere while it was searched")
                way.pop()
            return lost
        finally:
            here.close()


_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Directory:
    # One directory on the way down. waiting: names of sub-directories that are still to be entered. at_end: all its
    # entries have been looked at. Its fd may be closed then, and is had again when the way comes back.

    def __init__(self, fd: int, name: str, above: _Directory | None = None) -> None:
        self.fd = fd
        self.name = name
        info = os.fstat(fd)
        self.device, self.inode = info.st_dev, info.st_ino
        self.waiting: list[str] = []
        self.at_end = False
        self._entries: os._ScandirIterator[str] | None = None
        self.path: str = ""  # while it is short enough for the kernel
        if above is None:
            self.path = name.rstrip("/") or "/"
        elif above.path and len(os.fsencode(above.path)) < LONG:
            self.path = f"{above.path.rstrip('/')}/{name}"

    def entries(self) -> Iterator[os.DirEntry[str]]:
        """Go on with its entries, after those that have been had."""
        if self.at_end:
            return
        if self._entries is None:
            self._entries = os.scandir(self.fd)
        for entry in self._entries:  # noqa: UP028, yield from would end it where the reader pauses
            yield entry
        self.end()

    def end(self) -> None:
        self.at_end = True
        if self._entries:
            self._entries.close()

    def close_fd(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        self.end()
        self.close_fd()


def _reopen(way: list[_Directory], below: _Directory) -> bool:
    # Find the last directory of the way again: above the one that we come from, else by the names from the top.
    wanted = way[-1]
    for names in ([".."], [directory.name for directory in way[1:]]):
        fd = os.dup(below.fd if names == [".."] else way[0].fd)
        try:
            for name in names:
                following = os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=fd)
                os.close(fd)
                fd = following
            info = os.fstat(fd)
            if (info.st_dev, info.st_ino) == (wanted.device, wanted.inode):
                wanted.fd, fd = fd, -1
                return True
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ELOOP, EACCES):  # no longer on the way
                raise
        finally:
            if fd >= 0:
                os.close(fd)
    return False


def _why(error: OSError) -> str:
    why = str(error.strerror)
    if error.errno == EACCES:
        return f"{why}: what it is may not be asked; that is so of a FUSE filesystem which another user has mounted"
    return why


def _privileged(directory: int, name: str, path: str) -> Privileged | None:
    # Read by an fd, so that all of it is of one file. None: it is gone, or another one by now.
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        info = os.fstat(fd)
        caps, unread = None, ""
        try:
            caps = filecaps.read(fd)
        except KernelError as error:
            if error.errno not in (EOVERFLOW, EINVAL):
                raise
            unread = error.cause if error.errno == EOVERFLOW else "they are of revision 1, or damaged"
        if not stat.S_ISREG(info.st_mode) or not (info.st_mode & (stat.S_ISUID | stat.S_ISGID) or caps or unread):
            return None
        nosuid = bool(os.fstatvfs(fd).f_flag & os.ST_NOSUID)
        return Privileged(path, info.st_mode, info.st_uid, info.st_gid, caps, unread, nosuid)
    finally:
        os.close(fd)


def _path(way: list[_Directory], name: str = "") -> str:
    # Made when it is needed: on a very deep way all paths together would be large.
    return (
        "/".join([way[0].path.rstrip("/"), *(directory.name for directory in way[1:]), *([name] if name else [])])
        or "/"
    )
