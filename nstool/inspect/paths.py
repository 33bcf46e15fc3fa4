"""What a path of a process is for its caller, and what a file of the caller is for the process. path_resolution(7)."""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, ENOENT, ENOTDIR

from nstool import uapi
from nstool.closing import Closing
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.access import Access, access
from nstool.inspect.covers import COVERED, OUTSIDE, REACHED
from nstool.inspect.mounts import Mounts, mount_id, of
from nstool.inspect.nsfs import Fd
from nstool.inspect.overlay import layers_of
from nstool.inspect.proc import Proc, own_pid
from nstool.inspect.walk import PATH_MAX, Refusal, Step, Walked, Walker, identity, kind_of, open_in_root, open_names
from nstool.inspect.within import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.inspect.mounts import Mounted
    from nstool.sandbox.mountinfo import Mount

_TRIES = 3  # to walk a tree that changes
_NO_PATH = "it was reached by a magic link, so it may have no path, and is not looked for elsewhere"
_NO_CWD = "the working directory is not below the root directory, or was removed: it has no path"
_NOT_FOLLOWED = (
    "you may not follow the symlink yourself, by fs.protected_symlinks or a security module; what is said is where it"
    " leads, proc_sys_fs(5)"
)
_CHANGED = "the tree changes while it is walked: what is said here may be true no more"


class File(Frozen):
    """What stat(2) tells. kind: "file", "directory", "fifo" ... mode: permission bits. size: bytes.

    uid, gid: as the caller sees them.
    """

    kind: str
    device: str
    inode: int
    mode: int
    uid: int
    gid: int
    size: int


class Seen(Frozen):
    """A path at which a file should be seen, by the mounts there. mount: id. why: why it is not seen, "" if it is."""

    path: str
    mount: int
    why: str = ""


class Layer(Frozen):
    """A directory that an overlay is made of, as its mount options name it, and the same file in it.

    role: "upper" or "lower", in the order in which the overlay looks. there: whether the caller finds the file at this
    path; the options are the words of who mounted it, whose paths may be others than the caller's.
    """

    role: str
    path: str
    there: bool


class Located(Frozen):
    """A file, looked for by a path.

    asked: the path. path: where the walk ended, without symlinks, below the root of whoever's path it is; "" where
    that has no path. steps: one a name. refusal: why the walk ended before, None if it did not. mount: that
    the file is on, None where it is on none of those listed. in_file_system: its path there, from the top of the file
    system; "" where it cannot be told. layers: of an overlay. notes: sentences, of what may be wrong here.
    """

    asked: str
    path: str
    steps: tuple[Step, ...]
    refusal: Refusal | None
    file: File | None
    mount: Mount | None
    in_file_system: str
    layers: tuple[Layer, ...]
    notes: tuple[str, ...]


class There(Frozen):
    """A path of a process, or of a thread of process tgid.

    found: the file. here: where the caller has the same one. access: of the process.
    """

    pid: int
    tgid: int
    command: str
    found: Located
    here: tuple[Seen, ...]
    access: Access


class Here(Frozen):
    """A file of the caller. found: by the caller's path. there: paths at which the process has the same file.

    why_not: one sentence where it has it nowhere. through: overlays of the process that have it in a layer.
    access: of the process, by the first path at which it has it.
    """

    pid: int
    tgid: int
    command: str
    found: Located
    there: tuple[Seen, ...]
    through: tuple[Seen, ...]
    why_not: str
    access: Access


def locate(pid: int, path: str) -> There:
    """Return what a path of a process is. A relative one begins at its working directory.

    The walk is the caller's own, with its rights, from /proc/PID/root: symlinks lead where they lead the process,
    /proc/self to the process; a file is never opened, but with O_PATH. What changes meanwhile is walked again, three
    times. A network or FUSE file system that does not answer keeps the caller waiting, as it would the process.
    Raises ProcessGone, KernelError if the caller may not look into the process.
    """
    with Side(Proc(pid)) as side, Side(Proc(own_pid())) as own:
        found, fd = side.find(path)
        try:
            here = tuple(own.places(found, fd)) if fd >= 0 else ()
            rights = side.rights(path, found)
        finally:
            if fd >= 0:
                os.close(fd)
        return There(pid, side.facts.tgid, side.facts.command, found, here, rights)


def from_host(pid: int, path: str) -> Here:
    """Return where a process has a file of the caller, or why it has it nowhere.

    A file is the same if it is the same inode of the same mounted file system; copies and hard links are not looked
    for. Raises as ``locate``.
    """
    with Side(Proc(pid)) as side, Side(Proc(own_pid())) as own:
        found, fd = own.find(path)
        try:
            there = tuple(side.places(found, fd)) if fd >= 0 else ()
            through = tuple(side.through_overlays(found, fd)) if fd >= 0 else ()
        finally:
            if fd >= 0:
                os.close(fd)
        seen = next((one for one in (*there, *through) if not one.why), None)
        rights = access(side.proc, side.root, seen.path) if seen else Access(unknown="it has no path to it")
        why_not = "" if seen else side.why_not(found, there)
        return Here(pid, side.facts.tgid, side.facts.command, found, there, through, why_not, rights)


class Side(Closing):
    """One of the two that have paths, the process or the caller. A context manager: leaving it closes all, proc too."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self._fds: list[int] = []
        try:
            self.facts: Mounts = of(proc)
            self.root, self.cwd = self._open("root"), self._open("cwd")
            self.mounts: dict[int, Mounted] = self.facts.by_id() | self._unlisted()
            mounts = {number: entry.mount for number, entry in self.mounts.items()}
            self.walker = Walker(proc, self.root, self.cwd, mounts)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str) -> int:
        try:
            self._fds.append(self.proc.open(name, os.O_PATH | os.O_DIRECTORY))
        except PermissionError as error:
            raise refused(self.proc, name, error, "the directory from which its paths begin") from None
        return self._fds[-1]

    def close(self) -> None:
        """Close all."""
        while self._fds:
            os.close(self._fds.pop())
        self.proc.close()

    def absolute(self, path: str) -> str:
        """Return a path of this side as an absolute one, "" if the working directory has none or it gets too long."""
        if path.startswith("/"):
            return path
        if self.walker.cwd_names is None:
            return ""
        whole = "/".join(("", *self.walker.cwd_names, path))
        return whole if len(os.fsencode(whole)) < PATH_MAX else ""

    def rights(self, path: str, found: Located) -> Access:
        """Return what the process may do by this path, which led to what was found."""
        whole = self.absolute(path)
        if not whole:
            return Access(unknown="its working directory has no path, or a path of more than 4095 bytes")
        if any(step.note for step in found.steps):
            return Access(unknown="a link on the way says something else to each who reads it")
        return access(self.proc, self.root, whole)

    # ---- a path of this side ----

    def find(self, path: str) -> tuple[Located, int]:
        """Return what a path is, and an O_PATH fd of it, the caller's to close; -1 where it leads nowhere."""
        for attempt in range(_TRIES):
            with self.walker.walk(path) as walked:
                doubt = "" if walked.own else self._doubt(path, walked)
                if doubt != _CHANGED or attempt == _TRIES - 1:
                    found = self._located(path, walked, (doubt,) if doubt else ())
                    return found, os.dup(walked.fd) if walked.fd >= 0 else -1
        raise AssertionError("the last attempt returns")

    def _doubt(self, path: str, walked: Walked) -> str:
        # The kernel walks the whole path at once; nothing can change in between. What to say if it ends elsewhere.
        whole = self.absolute(path)
        if not whole or not path or len(os.fsencode(path)) >= PATH_MAX:
            return ""
        try:
            fd = open_in_root(self.root, whole, uapi.O_PATH | uapi.O_CLOEXEC)
        except KernelError as error:
            if walked.refusal is not None:
                return ""
            # Directories were walked with the same rights, symlinks were read and not followed.
            return _NOT_FOLLOWED if error.errno == EACCES and any(step.link for step in walked.steps) else _CHANGED
        try:
            return "" if walked.fd >= 0 and identity(fd) == identity(walked.fd) else _CHANGED
        finally:
            os.close(fd)

    def _located(self, path: str, walked: Walked, notes: tuple[str, ...]) -> Located:
        file = mount = None
        inside = ""
        layers: tuple[Layer, ...] = ()
        if walked.fd >= 0:
            file = _file(walked.fd)
            number = mount_id(walked.fd)
            mount = self.mounts[number].mount if number in self.mounts else None
            if mount is not None and walked.names is not None:
                inside = self.in_file_system(mount, walked.path)
                layers = tuple(_layers(mount, inside)) if inside else ()
            if walked.names is None:
                notes = (*notes, _NO_PATH if path.startswith("/") or self.walker.cwd_names is not None else _NO_CWD)
        return Located(path, walked.path, tuple(walked.steps), walked.refusal, file, mount, inside, layers, notes)

    def _unlisted(self) -> dict[int, Mounted]:
        # The mount of a root directory that is no mount's root is not in mountinfo. Where the kernel does not list what
        # is out of reach, it may be in the caller's.
        known = {entry.mount.id for entry in (*self.facts.mounts, *(self.facts.outside or ()))}
        if self.facts.root_mount in known or self.facts.namespace != os.stat("/proc/self/ns/mnt").st_ino:
            return {}
        with Proc(own_pid()) as own:
            mine = {entry.mount.id: entry.replace(state=OUTSIDE, covered_by=0) for entry in of(own).mounts}
        return {number: entry for number, entry in mine.items() if number == self.facts.root_mount}

    def in_file_system(self, mount: Mount, path: str) -> str:
        """Return a path without symlinks, which is on this mount, from the top of the file system; "" if unknown."""
        listed = self.mounts.get(mount.id)
        if listed is not None and listed.state != OUTSIDE:
            top, target = mount.root, mount.target
        elif mount.id == self.facts.root_mount and self.facts.root:
            # Its target is below the root of the namespace (or of the caller), as is what /proc/PID/root says.
            path = self.facts.root.rstrip("/") + path
            top, target = mount.root, mount.target
        else:
            return ""
        if not target or not _is_below(path, target):
            return ""
        rest = path[len(target.rstrip("/")) :].rstrip("/")
        return (top.rstrip("/") + rest) or "/"

    # ---- a file of the other side ----

    def places(self, found: Located, fd: int) -> Iterator[Seen]:
        """Yield the paths at which this side should have a file of the other, and whether it has it there."""
        if found.mount is None or not found.in_file_system:
            return
        wanted = os.fstat(fd)
        inside = found.in_file_system
        for entry in self.mounts.values():
            mount, top, target, state = entry.mount, entry.mount.root, entry.mount.target, entry.state
            if mount.device != found.mount.device:
                continue
            if mount.id == self.facts.root_mount and state == OUTSIDE:
                # A directory is the root that is no mount's root: what is below it is seen all the same.
                below = self.in_file_system(mount, "/")
                if below and _is_below(inside, below):
                    top, target, state = below, "/", REACHED
            if not _is_below(inside, top):
                continue
            path = (target.rstrip("/") + inside[len(top.rstrip("/")) :].rstrip("/")) or "/"
            if state == OUTSIDE:
                yield Seen(path, mount.id, "this mount is not below its root directory")
            else:
                yield Seen(path, mount.id, self._missed(entry, path, wanted))

    def _missed(self, entry: Mounted, path: str, wanted: os.stat_result) -> str:
        # Why the file is not seen at the path where this mount has it; "" if it is.
        if entry.state == COVERED:
            return f"this mount is covered by {self._name(entry.covered_by)}"
        seen = self._look(entry, path)
        if isinstance(seen, str):
            return seen
        found, over = seen
        if over != entry.mount.id:
            return f"it is covered there by {self._name(over)}"
        same = (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
        return "" if same else "another file has that name by now"

    def _look(self, entry: Mounted, path: str) -> tuple[os.stat_result, int] | str:
        # A file by a path without symlinks, with the id of its mount; or why there is none on this mount.
        names = [name for name in path.split("/") if name]
        try:
            fd = open_names(self.root, names)
        except KernelError as error:
            why = _NOT_OPENED.get(error.errno or 0, str(error.strerror))
            return self._covered_way(entry, names) or why
        try:
            return os.fstat(fd), mount_id(fd)
        finally:
            os.close(fd)

    def _covered_way(self, entry: Mounted, names: list[str]) -> str:
        # What lies on a directory of the way, below the target of the mount; "" if nothing.
        first = len([name for name in entry.mount.target.split("/") if name])
        for count in range(len(names) - 1, first - 1, -1):
            try:
                with Fd(open_names(self.root, names[:count])) as fd:
                    over = mount_id(fd)
            except KernelError:  # this one is not there either
                continue
            return "" if over == entry.mount.id else f"it is covered on the way by {self._name(over)}"
        return ""

    def _name(self, number: int) -> str:
        entry = self.mounts.get(number)
        return f"mount {number} on {entry.mount.target}" if entry else f"mount {number}"

    def through_overlays(self, found: Located, fd: int) -> Iterator[Seen]:
        """Yield the paths at which overlays of this side show a file of the caller's that is in one of their layers."""
        if not found.path:
            return
        wanted = os.fstat(fd)
        for entry in self.mounts.values():
            if entry.mount.type != "overlay" or entry.state == OUTSIDE:
                continue
            above: list[str] = []
            for role, directory in layers_of(entry.mount):
                top = entry.mount.root.rstrip("/")
                rest = found.path[len(directory.rstrip("/")) :]
                if _is_below(found.path, directory) and _is_below(rest or "/", entry.mount.root):
                    path = (entry.mount.target.rstrip("/") + rest[len(top) :]) or "/"
                    why = next(filter(None, (_hidden(layer, rest) for layer in above)), "")
                    yield Seen(path, entry.mount.id, why or self._shown(entry, path, wanted, role))
                above.append(directory)

    def _shown(self, entry: Mounted, path: str, wanted: os.stat_result, role: str) -> str:
        if entry.state == COVERED:
            return f"this overlay is covered by {self._name(entry.covered_by)}"
        seen = self._look(entry, path)
        if isinstance(seen, str):
            return seen
        # A file of the upper layer is shown, under whichever inode number; of a lower one the number is kept where
        # all layers are on one file system: overlayfs, "Inode properties".
        if role == "upper" or seen[0].st_ino == wanted.st_ino:
            return ""
        return "what is shown has another inode: it is another file, or the layers are of several file systems"

    def why_not(self, found: Located, places: tuple[Seen, ...]) -> str:
        """Return why this side has a file of the other nowhere."""
        if found.refusal is not None:
            return "there is no such file here"
        if found.mount is None or not found.in_file_system:
            return "it is on no mount of yours that has a path"
        what = f"{found.mount.type} {found.mount.source} ({found.mount.device})"
        of_it = [entry for entry in self.mounts.values() if entry.mount.device == found.mount.device]
        if places:
            return f"its file system {what} is mounted there, but: {'; '.join(f'{s.path}: {s.why}' for s in places)}"
        if of_it:
            parts = ", ".join(f"{entry.mount.root} on {entry.mount.target or '?'}" for entry in of_it[:5])
            more = f" and {len(of_it) - 5} more" if len(of_it) > 5 else ""
            return f"of its file system {what} only other parts are mounted there: {parts}{more}"
        unknown = "" if self.facts.outside is not None else ", below its root directory"
        return f"its file system {what} is not mounted in the mount namespace of the process{unknown}"


_NOT_OPENED = {
    ENOENT: "there is no such name there",
    ENOTDIR: "a directory on the way is none there",
    ELOOP: "a directory on the way is a symlink there",
    EACCES: "you have no search permission on a directory on the way",
}


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


def _file(fd: int) -> File:
    found = os.fstat(fd)
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    return File(
        kind_of(found.st_mode),
        device,
        found.st_ino,
        found.st_mode & 0o7777,
        found.st_uid,
        found.st_gid,
        found.st_size,
    )


def _layers(mount: Mount, inside: str) -> Iterator[Layer]:
    if mount.type != "overlay":
        return
    for role, directory in layers_of(mount):
        found = _in_layer(directory, inside)
        yield Layer(role, directory.rstrip("/") + inside, found is not None and not _is_whiteout(found))


def _in_layer(directory: str, path: str) -> os.stat_result | None:
    # Below a layer an overlay follows no symlink, and whoever laid it out may have made some that lead anywhere.
    if not os.path.isabs(directory):
        return None
    names = [name for name in path.split("/") if name]
    try:
        with Fd(os.open(directory, os.O_PATH | os.O_CLOEXEC)) as top, Fd(open_names(top, names)) as place:
            return os.fstat(place)
    except OSError:  # whatever it is, the caller does not find it there
        return None


def _is_whiteout(found: os.stat_result) -> bool:
    # "This has been removed": overlayfs, "whiteouts and opaque directories".
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _hidden(layer: str, path: str) -> str:
    # Why a file of a layer below is not seen through this one; "" if it is.
    found = _in_layer(layer, path)
    if found is None:
        return ""
    place = layer.rstrip("/") + path
    return f"a layer above {'says it is removed' if _is_whiteout(found) else 'has another of that name'}, {place}"
