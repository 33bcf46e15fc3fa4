"""Walk a path as a process would, step by step; nothing on the way is opened, but by O_PATH. path_resolution(7)."""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ESRCH, EXDEV, errorcode

from nstool import syscalls, uapi
from nstool.closing import ByFd
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect import kernelfile
from nstool.inspect.mounts import mount_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nstool.inspect.proc import Proc
    from nstool.sandbox.mountinfo import Mount

MAX_LINKS = 40  # MAXSYMLINKS, linux/namei.h
PATH_MAX = 4096  # bytes with the final NUL, linux/limits.h
_CHUNK = 4000  # bytes of a path that is opened at once: one without symlinks may be longer than PATH_MAX
_PROC_ROOT_INODE = 1

_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Step(Frozen):
    """What one name of a path led to.

    path: without symlinks, below the root directory of the process; "" where it has none that can be told, behind a
    magic link. kind: "directory", "symlink" ... mount: id of the mount that it is on. link: what a symlink says.
    note: what was special.
    """

    path: str
    kind: str
    mount: int
    link: str = ""
    note: str = ""


class Refusal(Frozen):
    """Why a walk went no further. errno: as "ENOENT".

    at: how far it came, "" for what has no path. name: what was looked for there, "" for nothing: at itself is no
    directory, or the whole path is none that can be walked.
    """

    errno: str
    at: str
    name: str
    why: str


class Identity(Frozen):
    """What tells one file from all others while it lives; a bind of it on another mount differs by the mount alone."""

    device: int
    inode: int
    mount: int


def identity(fd: int) -> Identity:
    """Return what an fd refers to."""
    found = os.fstat(fd)
    return Identity(found.st_dev, found.st_ino, mount_id(fd))


def kind_of(mode: int) -> str:
    """Name the type of a file."""
    return _KINDS.get(stat.S_IFMT(mode), "nameless file")


class Walked(ByFd):
    """Where a walk ended. A context manager; fd: O_PATH, closed at the end; -1 where it was refused.

    names: the path without symlinks, by its names; None where it has none that can be told. own: a link that says
    something else to each reader, as /proc/self, was read for the process, so that openat2 would go another way.
    """

    def __init__(self) -> None:
        self.fd = -1
        self.names: list[str] | None = []
        self.steps: list[Step] = []
        self.refusal: Refusal | None = None
        self.own = False

    @property
    def path(self) -> str:
        """The path without symlinks, "" where it has none that can be told."""
        return "" if self.names is None else "/" + "/".join(self.names)


def open_in_root(root: int, path: str, flags: int) -> int:
    """Return an fd of a path, as the kernel walks it for who has this root directory; no magic link is followed."""
    return syscalls.open_within(root, path, flags, uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_NO_MAGICLINKS)


def open_names(root: int, names: Sequence[str]) -> int:
    """Return an O_PATH fd of what these names lead to below a directory; no symlink is followed, nor does it leave.

    Raises KernelError, ELOOP where one of them is a symlink by now.
    """
    fd = os.dup(root)
    for part in _parts(names):
        try:
            new = syscalls.openat2(
                fd,
                part,
                uapi.O_PATH | uapi.O_NOFOLLOW | uapi.O_CLOEXEC,
                resolve=uapi.RESOLVE_BENEATH | uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_MAGICLINKS,
            )
        finally:
            os.close(fd)
        fd = new
    return fd


def _parts(names: Sequence[str]) -> list[str]:
    parts: list[list[str]] = []
    room = 0
    for name in names:
        room -= len(os.fsencode(name)) + 1
        if room < 0:
            parts.append([])
            room = _CHUNK - len(os.fsencode(name)) - 1
        parts[-1].append(name)
    return ["/".join(part) for part in parts]


def names_of(root: int, fd: int) -> list[str] | None:
    """Return the names that lead from a directory to what an fd refers to.

    None if it is not there, or removed, or 4096 bytes deep.
    """
    # Both links are said by the kernel alike, whatever the mount namespace; they are believed only if they lead there.
    try:
        top, text = (os.readlink(f"/proc/self/fd/{number}") for number in (root, fd))
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        return None  # the kernel says no path of more than a page
    top = top.rstrip("/")
    if text != (top or "/") and not text.startswith(f"{top}/"):
        return None
    names = [name for name in text[len(top) :].split("/") if name]
    try:
        again = open_names(root, names)
    except KernelError:  # removed, or out of reach
        return None
    try:
        return names if identity(again) == identity(fd) else None
    finally:
        os.close(again)


class Walker:
    """Walks for one process, from its root or working directory.

    root, cwd: O_PATH fds, the caller's. mounts: by id, those of the process. cwd_names: of the working directory below
    the root; None if it is not there. The walk is made with the caller's rights, not those of the process.
    """

    def __init__(self, proc: Proc, root: int, cwd: int, mounts: Mapping[int, Mount]) -> None:
        self.proc = proc
        self.root = root
        self.cwd = cwd
        self.cwd_names = names_of(root, cwd)
        self.mounts = mounts
        self.at_last = False  # whether the name that is looked up is the last of the whole path
        self._top = identity(root)

    def walk(self, path: str) -> Walked:
        """Follow a path to its end, its last symlink too. Raises KernelError for errors that are no answer."""
        walked = Walked()
        length = len(os.fsencode(path))
        if length == 0 or length >= PATH_MAX:
            if length:
                walked.refusal = _refusal(
                    ENAMETOOLONG, "", "", f"it has {length} bytes, and {PATH_MAX - 1} are the most"
                )
            else:
                walked.refusal = _refusal(ENOENT, "", "", "the empty path is no file's")
            return walked
        absolute = path.startswith("/")
        walked.fd = os.dup(self.root if absolute else self.cwd)
        walked.names = [] if absolute else _copied(self.cwd_names)
        try:
            self._follow(walked, path)
        except BaseException:
            walked.close()
            raise
        if walked.refusal is not None:
            walked.close()
        return walked

    def _follow(self, walked: Walked, path: str) -> None:
        todo = path.split("/")[::-1]
        links = 0
        while todo and walked.refusal is None:
            name = todo.pop()
            self.at_last = not any(other not in ("", ".") for other in todo)
            if not stat.S_ISDIR(os.fstat(walked.fd).st_mode):
                walked.refusal = _refusal(ENOTDIR, walked.path, name)
            elif name == "..":
                self._up(walked)
            elif name not in ("", "."):
                link = self._down(walked, name)
                if link is None:
                    continue
                links += 1
                if links > MAX_LINKS:
                    walked.refusal = _refusal(ELOOP, walked.path, name, f"more than {MAX_LINKS} symlinks on the way")
                    return
                if link.startswith("/"):
                    _go(walked, os.dup(self.root), [])
                todo += link.split("/")[::-1]

    def _up(self, walked: Walked) -> None:
        names = walked.names
        try:
            if names is not None:
                # At the top it stays there, but enters what is mounted over the root directory, as the kernel does.
                fd = self._beyond_top() if not names else open_names(self.root, names[:-1])
                _go(walked, fd, names[:-1])
            elif identity(walked.fd) == self._top:
                _go(walked, self._beyond_top(), [])
            else:
                flags = uapi.O_PATH | uapi.O_DIRECTORY | uapi.O_CLOEXEC
                _go(walked, syscalls.openat2(walked.fd, "..", flags), None)
                if identity(walked.fd) == self._top:
                    walked.names = []
        except KernelError as error:
            walked.refusal = _refusal(error.errno or 0, walked.path, "..")

    def _beyond_top(self) -> int:
        return open_in_root(self.root, "..", uapi.O_PATH | uapi.O_DIRECTORY | uapi.O_CLOEXEC)

    def _down(self, walked: Walked, name: str) -> str | None:
        # Go to a name of the directory; what a symlink says, if it is one: then the walk stays where it was.
        try:
            fd = syscalls.openat2(
                walked.fd,
                name,
                uapi.O_PATH | uapi.O_NOFOLLOW | uapi.O_CLOEXEC,
                resolve=uapi.RESOLVE_BENEATH | uapi.RESOLVE_NO_MAGICLINKS,
            )
        except KernelError as error:
            walked.refusal = _refusal(error.errno or 0, walked.path, name)
            return None
        names = None if walked.names is None else [*walked.names, name]
        path = "" if names is None else "/" + "/".join(names)
        kind, mount = kind_of(os.fstat(fd).st_mode), mount_id(fd)
        if kind != "symlink":
            walked.steps.append(Step(path, kind, mount))
            _go(walked, fd, names)
            return None
        try:
            return self._link(walked, fd, Step(path, kind, mount), name)
        finally:
            os.close(fd)

    def _link(self, walked: Walked, fd: int, step: Step, name: str) -> str | None:
        mount = self.mounts.get(step.mount)
        of_proc = mount is not None and mount.type == "proc"
        if of_proc and name in ("self", "thread-self") and os.fstat(walked.fd).st_ino == _PROC_ROOT_INODE:
            return self._self(walked, step, name)
        try:
            step = step.replace(link=os.readlink("", dir_fd=fd))
        except OSError as error:
            why = "you may not look into the process that this link is of, ptrace(2)" if error.errno == EACCES else ""
            walked.refusal = _refusal(error.errno or 0, walked.path, name, why)
            return None
        if of_proc and self._is_magic(walked.fd, name):
            self._jump(walked, step.replace(note="a magic link: what it says is not walked"), name)
            return None
        walked.steps.append(step)
        if mount is not None and "nosymfollow" in mount.options:
            walked.refusal = _refusal(ELOOP, walked.path, name, "its mount is nosymfollow: no symlink is followed")
            return None
        return step.link

    def _is_magic(self, directory: int, name: str) -> bool:
        try:
            os.close(
                syscalls.openat2(directory, name, uapi.O_PATH | uapi.O_CLOEXEC, resolve=uapi.RESOLVE_NO_MAGICLINKS)
            )
        except KernelError as error:
            return error.errno == ELOOP
        return False

    def _jump(self, walked: Walked, step: Step, name: str) -> None:
        walked.own = True
        walked.steps.append(step)
        try:
            fd = syscalls.openat2(walked.fd, name, uapi.O_PATH | uapi.O_CLOEXEC)
        except KernelError as error:
            walked.refusal = _refusal(error.errno or 0, walked.path, name)
            return
        _go(walked, fd, names_of(self.root, fd))
        walked.steps.append(Step(walked.path, kind_of(os.fstat(fd).st_mode), mount_id(fd)))

    def _self(self, walked: Walked, step: Step, name: str) -> str | None:
        # To whoever reads it, it says the reader; here it is the process.
        walked.own = True
        number = self._number(walked.fd)
        if not number:
            walked.refusal = _refusal(
                ENOENT, walked.path, name, "the process is not in the pid namespace of this proc, or covered there"
            )
            return None
        link = number if name == "self" else f"{number}/task/{number}"
        walked.steps.append(step.replace(link=link, note="as the process reads it"))
        return link

    def _number(self, directory: int) -> str:
        # Its pid in the pid namespace that this proc file system shows: the one of its pids that is the same process.
        start = self.proc.stat().starttime
        for number in reversed(self.proc.status().get("NSpid", "").split()):
            try:
                text = kernelfile.read(directory, f"{number}/stat", uapi.PROC_SUPER_MAGIC)
            except (FileNotFoundError, ProcessLookupError):
                continue
            except KernelError as error:
                if error.errno not in (ENOENT, ESRCH, EXDEV):  # EXDEV: something is mounted over it there
                    raise
                continue
            fields = text.rpartition(b") ")[2].split()
            if int(fields[19]) == start:
                return number
        return ""


def _go(walked: Walked, fd: int, names: list[str] | None) -> None:
    walked.close()
    walked.fd = fd
    walked.names = names


def _copied(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


_WHY = {
    ENOENT: "there is no such name in it",
    ENOTDIR: "it is no directory",
    EACCES: "you have no search permission on the directory",
    ELOOP: "too many symlinks",
    ENAMETOOLONG: "a name has at most 255 bytes, a path 4095",
}


def _refusal(number: int, at: str, name: str, why: str = "") -> Refusal:
    return Refusal(errorcode.get(number, str(number)), at, name, why or _WHY.get(number, os.strerror(number)))
