"""A root from a tarball: unpacked strictly into a directory of the sandbox's own, removed with it. tar(5).

Where: ``/var/lib/nstool/roots/NAME`` for root, because /run lies in memory; ``RUN/roots/NAME`` for
others, and where NSTOOL_RUN_DIR says where. ``roots`` has mode 0700, so that no set-user-ID file in a
tree is within anybody's reach. The owners are those of the tarball, as the sandbox's ids, for an ordinary
user too (sandbox/mapped.py); where its sandbox has one id only, all files are the user's own.

What is refused, with the member named: absolute names, "..", a name or hard link that leads over a
symlink of the tarball, device nodes (those below /dev are left out where the sandbox has its own
/dev), ids that the id maps lack, and more bytes than ``root.size``, headers included, of which one
member has no more than 1 MiB, for they are read at once. Symlinks stay as they are: nothing here
follows one, and inside they lead nowhere but into the root.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext, suppress
from errno import EBUSY, EEXIST, EISDIR, ELOOP, EMLINK, ENAMETOOLONG, ENOENT, ENOTDIR

from nstool.errors import NotSupported, NstoolError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from io import BufferedReader
    from typing import IO, Any, Self

_BLOCK = 512  # bytes of a header; a directory that no member describes counts as much
_HEADERS = 1 << 20  # bytes that the headers of one member have at most: tarfile takes them into memory
# The first bytes of a file, and the module of Python that reads such files.
_COMPRESSIONS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\0", "lzma"),
    (b"\x5d\0\0", "lzma"),
    (b"\x28\xb5\x2f\xfd", "compression.zstd"),  # Python 3.14
)
_LAST_TIME = 1 << 33  # seconds: what ext4 with 128-byte inodes and XFS can hold is less, and they clamp it
_NO_ID = (1 << 32) - 1  # (uid_t)-1, chown(2)
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def directory() -> str:
    """Return the directory of unpacked trees, of mode 0700; it need not exist."""
    from nstool.sandbox import rundir

    if os.geteuid() == 0 and not os.environ.get("NSTOOL_RUN_DIR"):
        return "/var/lib/nstool/roots"
    return rundir.path() + "/roots"


def unpack(context: Any, args: dict[str, Any]) -> None:
    """Unpack args["path"] into the new directory args["directory"]; context.interruptible is entered meanwhile, if any.

    size: bytes at most. keep_owners: chown what is unpacked; uids, gids: lines of the id maps (inside, outside,
    count), empty for ids as they are; idmaps: of an ordinary user who does so, as sandbox/mapped.py wants them.
    own_dev: leave device nodes below /dev out. places: (path, "dir" or "file") of what the sandbox mounts; made where
    they are missing.
    Raises SpecError for a tarball that is refused, NotSupported for a compression that Python lacks.
    """
    with context.interruptible or nullcontext():
        _call("_unpack", args)


def _call(function: str, args: dict[str, Any]) -> None:
    if args.get("idmaps"):
        from nstool.sandbox import mapped

        mapped.call(__name__, function, args, args["idmaps"])
    else:
        globals()[function](args)


def _unpack(args: dict[str, Any]) -> None:
    while not _made(args["directory"]):  # whoever removes the last tree there removes the directory
        continue
    try:
        root = os.open(args["directory"], _DIR_FLAGS)
        try:
            with _opened(args["path"], args["size"]) as archive:
                _Tree(root, args, archive).unpack()
        finally:
            os.close(root)
    except FileNotFoundError:
        from nstool.sandbox import rundir

        raise rundir.removed(args["directory"], f"open({args['directory']!r})", "unpack the tarball there") from None


def _made(directory: str) -> bool:
    """Make the directory of one tree; False if the one of all trees was removed meanwhile."""
    roots, name = os.path.split(directory)
    os.makedirs(roots, 0o700, exist_ok=True)
    try:
        os.chmod(roots, 0o700)
        _sweep(roots, name)
        os.mkdir(directory, 0o755)
    except FileNotFoundError:
        return False
    return True


def look_through(path: str, size: int) -> None:
    """Raise SpecError for a tarball that is damaged or larger than ``size`` bytes, NotSupported as ``unpack``."""
    with _opened(path, size) as archive:
        for _ in archive.members():
            pass


def content(path: str, name: str, size: int, most: int) -> bytes | None:
    """Return the content of a file as unpacking would leave it, None if there is none.

    name: as "etc/passwd". size: bytes of the whole tree at most. Raises SpecError for what is no plain file of at
    most ``most`` bytes, and as ``unpack``.
    """
    found: bytes | None = None
    wanted = _Tree.cut(name)
    with _opened(path, size) as archive:
        for member in archive.members():
            if _Tree.cut(member.name) != wanted:
                continue
            if not member.isreg() or member.size > most:
                raise archive.refused(member, f"it is no plain file of at most {most} bytes")
            with archive.content(member) as file:
                found = file.read()  # of several the last counts
    return found


@contextmanager
def _opened(path: str, size: int) -> Iterator[_Archive]:
    """Open a tarball whose tree has at most ``size`` bytes; what is wrong with its bytes is a SpecError."""
    with _plain(path) as file, _decompressed(path, file) as stream:
        try:
            yield _Archive(path, size, stream)
        except Exception as error:
            if not _tells_of_damage(error):
                raise
            why = "too many headers of one member" if isinstance(error, RecursionError) else error
            raise SpecError(f"{path} is damaged, or no tarball: {why}", "root.path") from None


def _tells_of_damage(error: Exception) -> bool:
    """Whether tarfile, or what decompresses, raises this for bytes that it does not expect."""
    from tarfile import TarError

    if isinstance(error, NstoolError):
        return False
    if isinstance(error, OSError):  # gzip and bz2 have one without errno
        return error.errno is None
    kinds = (EOFError, ValueError, OverflowError, RecursionError)
    return isinstance(error, (TarError, *kinds, *_compression_errors()))


def remove(context: object, args: dict[str, Any]) -> bool:
    """Remove an unpacked tree; False if it is gone already. mapped: files of subordinate ids are in it.

    Raises NstoolError for any other directory: the arguments may be from a journal that somebody else has written.
    """
    from nstool.sandbox import host, rundir

    roots, name = os.path.split(args["directory"])
    if roots != directory() or name in ("", ".", ".."):
        raise NstoolError(f"{args['directory']} is no unpacked tree of a sandbox: it is not in {directory()}")
    there = os.path.isdir(args["directory"])
    if there:
        idmaps = host.subordinate_maps() if args["mapped"] else []
        _call("_remove", {"directory": args["directory"], "idmaps": idmaps})
    if rundir.remove_empty(roots):
        rundir.remove_empty(os.path.dirname(roots))
    return there


def _remove(args: dict[str, Any]) -> None:
    _remove_tree(args["directory"])


HANDLERS = {"tarball_unpack": unpack, "tarball_remove": remove}


def sweep() -> list[str]:
    """Remove the trees of sandboxes that are no more: a reboot takes the journals, but not these. Their names."""
    roots = directory()
    left = _left(roots) if os.path.isdir(roots) else []
    for name in left:
        remove(None, {"directory": f"{roots}/{name}", "mapped": True})
    return left


def _left(roots: str, own: str = "") -> list[str]:
    # own: a name that we have just claimed, so that what is there under it is of one before.
    from nstool.sandbox import rundir

    trees = os.listdir(roots)
    names = rundir.names()  # after the trees: a name is claimed before its tree is made
    return [name for name in trees if name not in names or name == own]


def _sweep(roots: str, own: str) -> None:
    for name in _left(roots, own):
        with suppress(PermissionError):  # subordinate ids own it: cleanup has them, and the next sandbox with them
            _remove_tree(f"{roots}/{name}")


def _remove_tree(path: str) -> None:
    """Remove a directory and all below it; it may be hostile, and deeper than fds, the stack or PATH_MAX go.

    One directory is open at a time, entered over no symlink and left by "..", which must be where it was entered from.
    """
    fd = _open_to_empty(path)
    try:
        on_the_way: list[tuple[str, os.stat_result, list[str]]] = []  # name, its parent, what is still to do there
        left = _remove_files(fd)
        while left or on_the_way:
            if left:
                name = left.pop()
                on_the_way.append((name, os.fstat(fd), left))
                fd = _go(fd, name)
                left = _remove_files(fd)
            else:
                name, parent, left = on_the_way.pop()
                fd = _go(fd, "..")
                if not os.path.samestat(os.fstat(fd), parent):
                    raise OSError(EBUSY, "somebody moves directories in it", path)
                os.rmdir(name, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(path)


def _go(fd: int, name: str) -> int:
    """Open a directory to empty it and close the one where it is; that stays open if this fails."""
    there = _open_to_empty(name, fd)
    os.close(fd)
    return there


def _open_to_empty(name: str, parent: int | None = None) -> int:
    # An ordinary user's own directory may deny its owner: such a tree is its own to open.
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        itself = f"/proc/self/fd/{path}"
        if os.fstat(path).st_mode & 0o700 != 0o700:
            os.chmod(itself, 0o700)
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(path)


def _remove_files(fd: int) -> list[str]:
    """Remove what is no directory from an open one; the names of the directories in it."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=fd)
    return directories


def _plain(path: str) -> BufferedReader:
    """Open a tarball. Raises SpecError for what is no plain file: a pipe would be waited for, a device has no end."""
    import stat

    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}", "root.path") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise SpecError(f"{path} is no plain file: name a tarball: .tar, .tar.gz, .tar.xz", "root.path")
    return file


def _decompressed(path: str, file: BufferedReader) -> Any:
    """Return a stream of what an open tarball holds: the file itself, or one that decompresses it."""
    import importlib

    head = file.peek(_BLOCK)[:_BLOCK]
    what = f"root.path: unpacking {path}"
    if head.startswith(b"\x04\x22\x4d\x18"):
        raise NotSupported(what, "Python cannot read lz4", f"unlz4 {path}, and name the .tar")
    module = next((module for magic, module in _COMPRESSIONS if head.startswith(magic)), "")
    if not module or head[257:262] == b"ustar":
        return file
    try:
        return importlib.import_module(module).open(file, "rb")
    except ImportError:
        remedy = f"decompress {path}, and name the .tar"
        raise NotSupported(what, f"this Python has no module {module}", remedy) from None


def _compression_errors() -> tuple[type[Exception], ...]:
    import zlib

    try:
        from lzma import LZMAError
    except ImportError:  # a Python built without it
        return (zlib.error,)
    return zlib.error, LZMAError


class _Headers:
    """A stream as tarfile reads it: of ``left`` bytes at most, for it takes all headers of a member into memory."""

    def __init__(self, path: str, stream: Any) -> None:
        self.path = path
        self.stream = stream
        self.left = _HEADERS
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            why = f"at byte {self.tell()} a header of {size} bytes begins; those of one member have {_HEADERS} at most"
            raise SpecError(f"{self.path} is refused: {why}", "root.path")
        self.left -= size
        return self.stream.read(size)  # type: ignore[no-any-return]


def _member_type() -> type[tarfile.TarInfo]:
    """Return tarfile's member, to which a damaged header is an error; TarFile.next() takes a later one for the end."""
    import tarfile as tar
    from tarfile import HeaderError, ReadError, TarFile, TarInfo

    ends = (tar.EOFHeaderError, tar.EmptyHeaderError)  # type: ignore[attr-defined]  # blocks of zeros, or nothing more

    class Member(TarInfo):
        @classmethod
        def fromtarfile(cls, tarfile: TarFile) -> Self:
            try:
                return super().fromtarfile(tarfile)
            except ends:
                raise
            except HeaderError as error:
                raise ReadError(f"{error} at byte {tarfile.offset}") from None

    return Member


class _Archive:
    """The members of a tarball, each looked at before anybody uses it. size: bytes of its tree at most."""

    def __init__(self, path: str, size: int, stream: Any) -> None:
        import tarfile

        self.path = path
        self.size = size
        self.left = size
        self.headers = _Headers(path, stream)
        self.tar = tarfile.TarFile(path, fileobj=self.headers, tarinfo=_member_type())  # type: ignore[arg-type]

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield each member in turn. Raises SpecError for one that no tree can have."""
        from tarfile import PAX_FIELDS

        before = -1
        while (member := self.tar.next()) is not None:
            self.check(member, before)
            before = self.tar.offset
            self.take((_HEADERS - self.headers.left) // _BLOCK * _BLOCK, member)
            self.take(member.size if member.isreg() else 0, member)
            yield member
            # What tarfile keeps of the members that have been.
            self.tar.members = []  # type: ignore[attr-defined]
            self.tar.pax_headers = {key: text for key, text in self.tar.pax_headers.items() if key in PAX_FIELDS}
            self.headers.left = _HEADERS

    def check(self, member: tarfile.TarInfo, before: int) -> None:
        from math import isfinite
        from tarfile import SUPPORTED_TYPES

        if member.type not in SUPPORTED_TYPES:
            raise self.refused(member, f"type {member.type!r} is none that a root can have")
        if member.size < 0 or self.tar.offset <= before:
            raise self.refused(member, "its size is less than 0")
        if not isfinite(member.mtime):
            raise self.refused(member, f"its time is no number of seconds: {member.mtime}")
        end = 0
        holes: Any = member.sparse  # (start, length) of what is no hole
        for start, length in holes or ():
            if length and not end <= start <= start + length <= member.size:
                raise self.refused(member, "the map of its holes contradicts itself")
            end = start + length

    def content(self, member: tarfile.TarInfo) -> IO[bytes]:
        """Return the content of a file that members() has just yielded."""
        self.headers.left = member.size
        file = self.tar.extractfile(member)
        assert file is not None
        return file

    def take(self, size: int, member: tarfile.TarInfo | str) -> None:
        """Count bytes of the tree that a member makes."""
        self.left -= size
        if self.left < 0:
            why = f"with it the tree is larger than root.size = {self.size} bytes; allow more (--root-size)"
            raise self.refused(member, why)

    def refused(self, member: tarfile.TarInfo | str, why: str) -> SpecError:
        name = member if isinstance(member, str) else member.name
        return SpecError(f"{self.path}: member {name!r} is refused: {why}", "root.path")


class _Tree:
    """One tree that is being unpacked below an open directory."""

    def __init__(self, root: int, args: dict[str, Any], archive: _Archive) -> None:
        self.root = root
        self.archive = archive
        self.refused = archive.refused
        self.keep_owners: bool = args["keep_owners"]
        self.own_dev: bool = args["own_dev"]
        self.places = [(self.cut(path), kind) for path, kind in args["places"]]
        self.maps = (args["uids"], args["gids"])
        self.directories: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []

    def unpack(self) -> None:
        os.fchmod(self.root, 0o755)  # whatever the umask
        if self.keep_owners:
            os.fchown(self.root, *self.mapped(0, 0, None))
        for member in self.archive.members():
            parts = self.parts(member, member.name)
            try:
                self.member(member, parts)
            except OSError as error:
                if error.errno in (ENAMETOOLONG, EMLINK):
                    raise self.refused(
                        member, f"the filesystem of the roots does not take it: {error.strerror}"
                    ) from None
                if error.errno == ENOENT and self.leads_nowhere(member):
                    raise self.refused(member, f"what it links to, {member.linkname!r}, is not there") from None
                if error.errno not in (ELOOP, ENOTDIR, EEXIST, EISDIR):
                    raise
                raise self.refused(member, f"its place is taken by something else ({error.strerror})") from None
        for place, kind in self.places:
            self.make_place(place, kind)
        # Modes and times of directories last: a read-only one must take its files first.
        for parts, member in reversed(self.directories):
            self.attributes(self.open(member, parts), member)

    def leads_nowhere(self, member: tarfile.TarInfo) -> bool:
        """Whether ENOENT is of what a link names, not of a tree that somebody has removed."""
        return (member.islnk() or member.issym()) and os.fstat(self.root).st_nlink > 0

    def make_place(self, parts: tuple[str, ...], kind: str) -> None:
        # No member is a symlink on the way: that was refused. An ordinary user's sandbox could not make it later.
        directory = self.open("/".join(parts), parts if kind == "dir" else parts[:-1], make=True)
        flags = os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if kind == "file":
                os.close(os.open(parts[-1], flags, 0o644, dir_fd=directory))
        finally:
            os.close(directory)

    def parts(self, member: tarfile.TarInfo, name: str) -> tuple[str, ...]:
        """Return the components of a name in the tarball. Raises SpecError if it could lead out."""
        found = self.cut(name)
        if name.startswith("/"):
            raise self.refused(member, f"{name!r} is absolute")
        if ".." in found:
            raise self.refused(member, f'{name!r} contains ".."')
        if "\0" in name:
            raise self.refused(member, "a NUL byte in a name")
        return found

    @staticmethod
    def cut(name: str) -> tuple[str, ...]:
        return tuple(part for part in name.split("/") if part not in ("", "."))

    def member(self, member: tarfile.TarInfo, parts: tuple[str, ...]) -> None:
        if member.isdir():
            os.close(self.open(member, parts, make=True))
            member.pax_headers = {}  # may be large, and is kept with it
            self.directories.append((parts, member))
            return
        if not parts:
            raise self.refused(member, "only a directory can be the root")
        if member.isdev() and not member.isfifo():
            if self.own_dev and parts[0] == "dev":
                return
            raise self.refused(member, "a device node; a sandbox gets its own in /dev")
        parent = self.open(member, parts[:-1], make=True)
        try:
            self.entry(member, parent, parts)
        finally:
            os.close(parent)

    def entry(self, member: tarfile.TarInfo, parent: int, parts: tuple[str, ...]) -> None:
        name = parts[-1]
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)  # a later member takes the place of an earlier one
        if member.islnk():
            linked = self.parts(member, member.linkname)
            if not linked:
                raise self.refused(member, "a hard link to the root")
            source = self.open(member, linked[:-1])
            try:
                os.link(linked[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            finally:
                os.close(source)
        elif member.issym():
            if any(place[: len(parts)] == parts for place, _ in self.places):
                raise self.refused(member, "a symlink where the sandbox mounts something")
            os.symlink(member.linkname, name, dir_fd=parent)
            if self.keep_owners:
                os.chown(name, *self.owner(member), dir_fd=parent, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            self.attributes(
                os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent), member
            )
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=parent)
            self.content(member, fd)
            self.attributes(fd, member)

    def content(self, member: tarfile.TarInfo, fd: int) -> None:
        import shutil

        with self.archive.content(member) as source, open(fd, "wb", closefd=False) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def open(self, member: tarfile.TarInfo | str, parts: tuple[str, ...], make: bool = False) -> int:
        """Return an fd of a directory in the tree, over no symlink; make: what is missing. member: for whom."""
        fd = os.dup(self.root)
        for part in parts:
            try:
                made = make and self.make(fd, part, member)
                below = os.open(part, _DIR_FLAGS, dir_fd=fd)
            except OSError as error:
                if error.errno in (ELOOP, ENOTDIR):
                    why = f"{part!r} on its way is a symlink or a file of the tarball"
                    raise self.refused(member, why) from None
                raise
            finally:
                os.close(fd)
            fd = below
            if made:
                os.fchmod(fd, 0o755)  # whatever the umask
        return fd

    def make(self, parent: int, name: str, member: tarfile.TarInfo | str) -> bool:
        """Make a directory that no member describes, if it is missing; whether it was."""
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            return False
        self.archive.take(_BLOCK, member)
        if self.keep_owners:
            os.chown(name, *self.mapped(0, 0, None), dir_fd=parent, follow_symlinks=False)
        return True

    def owner(self, member: tarfile.TarInfo) -> tuple[int, int]:
        return self.mapped(member.uid, member.gid, member)

    def mapped(self, uid: int, gid: int, member: tarfile.TarInfo | None) -> tuple[int, int]:
        """Return the host ids of ids inside; member None: of a directory that no member describes."""
        outside = []
        for number, lines, what in ((uid, self.maps[0], "user"), (gid, self.maps[1], "group")):
            if lines:
                line = next((line for line in lines if line[0] <= number < line[0] + line[2]), None)
                if line is None and member is None:  # what no member owns is the first id's
                    line = (number, lines[0][1], 1)
                if line is None:
                    assert member is not None
                    raise self.refused(member, f"{what} id {number} is not in the {what[0]}id_map")
                number = line[1] + number - line[0]
            elif not 0 <= number < _NO_ID:
                assert member is not None
                raise self.refused(member, f"{number} is no {what} id")
            outside.append(number)
        return outside[0], outside[1]

    def attributes(self, fd: int, member: tarfile.TarInfo) -> None:
        """Set owner, mode and time of an open file and close it. The mode after chown(2), which clears set-user-ID."""
        try:
            if self.keep_owners:
                os.fchown(fd, *self.owner(member))
            os.fchmod(fd, member.mode & 0o7777)
            os.utime(fd, (min(max(member.mtime, 0), _LAST_TIME),) * 2)
        finally:
            os.close(fd)
