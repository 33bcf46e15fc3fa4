"""The objects of an IPC namespace: System V and POSIX, and the files in /dev/shm. sysvipc(7), mq_overview(7)."""

from __future__ import annotations

import os
from errno import EACCES, ENODEV, ENOENT, ENOSYS, ENOTDIR, EPERM

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.mounts import listing, mount_id, mounts
from nstool.inspect.proc import Proc, own_pid
from nstool.inspect.walk import kind_of, open_in_root
from nstool.inspect.within import call, refused
from nstool.sandbox.inside import Maps
from nstool.sandbox.ipc import LIMITS, read_plain
from nstool.security.idmap import parse_map, to_inside, to_outside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from nstool.spec.model import IdMap

_SHM_DEST = 0o1000  # <linux/shm.h>: to be removed at the last detach
_SHM_LOCKED = 0o2000
_MODE = 0o777


class Owner(Frozen):
    """Whose an object is, and who made it: ids of one user namespace, None for one that is not mapped there."""

    uid: int | None
    gid: int | None
    creator_uid: int | None
    creator_gid: int | None


class Segment(Frozen):
    """A System V shared memory segment. shmctl(2).

    mode: permission bits. size, resident, swapped: bytes. attached: how often it is attached. creator, last: pids of
    who made it and of who last attached or detached it, as the caller sees them, 0 for one that is not visible.
    removed: it goes with the last detach. owner: as the caller sees it; inside: as the process does. *time: seconds
    since 1970, 0 for never.
    """

    id: int
    key: int
    mode: int
    size: int
    resident: int
    swapped: int
    attached: int
    creator: int
    last: int
    removed: bool
    locked: bool
    owner: Owner
    inside: Owner
    attach_time: int
    detach_time: int
    change_time: int


class Semaphores(Frozen):
    """A set of System V semaphores. semctl(2). As Segment."""

    id: int
    key: int
    mode: int
    count: int
    owner: Owner
    inside: Owner
    operation_time: int
    change_time: int


class Queue(Frozen):
    """A System V message queue. bytes: in it. last_send, last_receive: pids. msgctl(2). As Segment."""

    id: int
    key: int
    mode: int
    bytes: int
    messages: int
    last_send: int
    last_receive: int
    owner: Owner
    inside: Owner
    send_time: int
    receive_time: int
    change_time: int


class PosixQueue(Frozen):
    """A POSIX message queue. name: with its slash.

    max_messages, max_size (bytes of a message), messages, bytes (in it), notified (the pid that waits for a signal or
    thread, 0 for none): None where the caller may not open it. owner: the creator is not recorded.
    """

    name: str
    mode: int
    max_messages: int | None
    max_size: int | None
    messages: int | None
    bytes: int | None
    notified: int | None
    owner: Owner
    inside: Owner


class ShmFile(Frozen):
    """What is in /dev/shm of the process: shm_open(3) makes NAME, sem_open(3) sem.NAME. size, allocated: bytes."""

    name: str
    kind: str
    mode: int
    size: int
    allocated: int
    owner: Owner
    inside: Owner


class Ipc(Frozen):
    """An IPC namespace, by one of its processes, or a thread of process tgid.

    namespace: inode. posix_queues: None where they may not be listed. shm_files: None where the process has no
    /dev/shm; they belong to its mount namespace, and others may see them. limits: text of each file of
    sandbox.ipc.LIMITS that the kernel has, numbers with blanks between. notes: sentences of what may be otherwise.
    unread: why something is None or missing, by its name.
    """

    pid: int
    tgid: int
    command: str
    namespace: int
    segments: tuple[Segment, ...]
    semaphores: tuple[Semaphores, ...]
    queues: tuple[Queue, ...]
    posix_queues: tuple[PosixQueue, ...] | None
    shm_files: tuple[ShmFile, ...] | None
    limits: dict[str, str]
    notes: tuple[str, ...]
    unread: dict[str, str]


def ipc(pid: int) -> Ipc:
    """Return the objects in the IPC namespace of a process, which for root may be any one.

    A child joins the namespace and reads /proc/sysvipc, which shows that of its reader, and an mqueue file system that
    is mounted nowhere. Nothing is changed. Raises ProcessGone; KernelError if the process is hidden or the namespace
    cannot be joined.
    """
    with Proc(pid) as proc:
        maps = Maps(*(parse_map(proc.read(name)) for name in ("uid_map", "gid_map")))
        read, joined = call(proc, "ipc", _read)
        own = proc.inode("ipc") == os.stat("/proc/self/ns/ipc").st_ino
        unread = dict(read.unread)
        notes: list[str] = []
        who = _Ids(maps, joined)
        posix = read.posix
        if posix is None and own:
            posix = _mounted_queues(unread, notes)
        return Ipc(
            pid=pid,
            tgid=proc.tgid(),
            command=proc.stat().comm,
            namespace=proc.inode("ipc"),
            segments=tuple(_segment(row, who) for row in _rows(read.shm)),
            semaphores=tuple(_semaphores(row, who) for row in _rows(read.sem)),
            queues=tuple(_queue(row, who) for row in _rows(read.msg)),
            posix_queues=None if posix is None else tuple(_posix(one, who) for one in posix),
            shm_files=_shm_files(proc, _Ids(maps, None), unread, notes),
            limits=read.limits,
            notes=tuple(notes),
            unread=unread,
        )


class _Ids:
    """Ids as the child that read them saw them, as the caller sees them, and as the process does."""

    def __init__(self, process: Maps, joined: Maps | None) -> None:
        self.process = process
        self.joined = joined

    def owners(self, uid: int, gid: int, cuid: int | None, cgid: int | None) -> tuple[Owner, Owner]:
        uids, gids = [(number, "uid") for number in (uid, cuid)], [(number, "gid") for number in (gid, cgid)]
        (u, cu), (g, cg) = ([self._outside(*pair) for pair in pairs] for pairs in (uids, gids))
        return Owner(u, g, cu, cg), Owner(
            self._inside(u, self.process.uid),
            self._inside(g, self.process.gid),
            self._inside(cu, self.process.uid),
            self._inside(cg, self.process.gid),
        )

    def _outside(self, number: int | None, kind: str) -> int | None:
        if number is None or self.joined is None:
            return number
        lines: Sequence[IdMap] = getattr(self.joined, kind)
        return to_outside(lines, number)

    @staticmethod
    def _inside(number: int | None, lines: Sequence[IdMap]) -> int | None:
        return None if number is None else to_inside(lines, number)


# ---- in the child ----


class _Entry(Frozen):
    name: str
    mode: int
    uid: int
    gid: int
    attr: syscalls.MqAttr | None
    text: str


class _Read(Frozen):
    shm: str
    sem: str
    msg: str
    posix: tuple[_Entry, ...] | None
    limits: dict[str, str]
    unread: dict[str, str]


def _read() -> _Read:
    unread: dict[str, str] = {}
    texts = {}
    for name in ("shm", "sem", "msg"):
        try:
            texts[name] = read_plain(f"/proc/sysvipc/{name}")
        except FileNotFoundError:
            texts[name] = ""
            unread[name] = "no /proc/sysvipc: this kernel has no System V IPC, or /proc is masked"
    return _Read(**texts, posix=_posix_queues(unread), limits=_limits(), unread=unread)


def _limits() -> dict[str, str]:
    found = {}
    for name, path in LIMITS.items():
        try:
            found[name] = " ".join(read_plain(path).split())
        except FileNotFoundError:  # this kernel lacks it, or was built without POSIX queues
            continue
    return found


def _posix_queues(unread: dict[str, str]) -> tuple[_Entry, ...] | None:
    # A new mount shows the queues of the ipc namespace that it is made in; it is attached nowhere and goes with its fd.
    try:
        syscalls.unshare(uapi.CLONE_NEWNS)
        context = syscalls.fsopen("mqueue", uapi.FSOPEN_CLOEXEC)
        try:
            syscalls.fsconfig(context, uapi.FSCONFIG_CMD_CREATE)
            top = syscalls.fsmount(context, uapi.FSMOUNT_CLOEXEC, uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NODEV)
        finally:
            os.close(context)
    except KernelError as error:
        if error.errno in (ENODEV, ENOSYS):
            unread["posix_queues"] = "this kernel has no POSIX message queues"
        elif error.errno in (EPERM, EACCES):
            unread["posix_queues"] = "you have no CAP_SYS_ADMIN over the ipc namespace, to mount an mqueue file system"
        else:
            raise
        return None
    try:
        return tuple(_entries(top))
    finally:
        os.close(top)


def _entries(top: int) -> Iterator[_Entry]:
    directory = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
    try:
        for name in sorted(os.listdir(directory)):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                attr, text = _look(directory, name)
            except FileNotFoundError:  # removed meanwhile
                continue
            yield _Entry(f"/{name}", found.st_mode & _MODE, found.st_uid, found.st_gid, attr, text)
    finally:
        os.close(directory)


def _look(directory: int, name: str) -> tuple[syscalls.MqAttr | None, str]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return None, ""
    with open(fd, "rb", buffering=0) as file:
        return syscalls.mq_getattr(fd), file.read().decode("ascii")


# ---- in the caller ----


def _mounted_queues(unread: dict[str, str], notes: list[str]) -> tuple[_Entry, ...] | None:
    # Who may not mount one may see one that is mounted, as /dev/mqueue by systemd. Whose it is the kernel does not
    # tell; who enters an ipc namespace mounts its own after that, so that the last comes first.
    for entry in reversed(mounts(own_pid()).mounts):
        if entry.mount.type == "mqueue" and not entry.covered_by and entry.mount.root == "/":
            top = os.open(entry.mount.target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = tuple(_entries(top))
            except PermissionError:
                continue
            finally:
                os.close(top)
            del unread["posix_queues"]
            notes.append(
                f"POSIX queues are those on {entry.mount.target}: of the ipc namespace in which that was mounted"
            )
            return found
    return None


def _rows(text: str) -> Iterator[dict[str, int]]:
    # The columns are named by the first line; a newer kernel may add one. perms is octal.
    head, *lines = text.splitlines() or [""]
    names = head.split()
    for line in lines:
        words = dict(zip(names, line.split()))
        yield {name: int(word, 8 if name == "perms" else 10) for name, word in words.items()}


def _common(row: dict[str, int], number: str, who: _Ids) -> dict[str, Any]:
    # What each System V object has, struct ipc_perm. number: the column of its id.
    owner, inside = who.owners(row["uid"], row["gid"], row["cuid"], row["cgid"])
    return {
        "id": row[number],
        "key": row["key"] & 0xFFFFFFFF,
        "mode": row["perms"] & _MODE,
        "owner": owner,
        "inside": inside,
        "change_time": row["ctime"],
    }


def _segment(row: dict[str, int], who: _Ids) -> Segment:
    return Segment(
        **_common(row, "shmid", who),
        size=row["size"],
        resident=row["rss"],
        swapped=row["swap"],
        attached=row["nattch"],
        creator=row["cpid"],
        last=row["lpid"],
        removed=bool(row["perms"] & _SHM_DEST),
        locked=bool(row["perms"] & _SHM_LOCKED),
        attach_time=row["atime"],
        detach_time=row["dtime"],
    )


def _semaphores(row: dict[str, int], who: _Ids) -> Semaphores:
    return Semaphores(
        **_common(row, "semid", who),
        count=row["nsems"],
        operation_time=row["otime"],
    )


def _queue(row: dict[str, int], who: _Ids) -> Queue:
    return Queue(
        **_common(row, "msqid", who),
        bytes=row["cbytes"],
        messages=row["qnum"],
        last_send=row["lspid"],
        last_receive=row["lrpid"],
        send_time=row["stime"],
        receive_time=row["rtime"],
    )


def _posix(entry: _Entry, who: _Ids) -> PosixQueue:
    owner, inside = who.owners(entry.uid, entry.gid, None, None)
    # "QSIZE:5 NOTIFY:0 SIGNO:0 NOTIFY_PID:0"; mq_overview(7). NOTIFY means something only with a pid.
    words = dict(word.partition(":")[::2] for word in entry.text.split())
    return PosixQueue(
        name=entry.name,
        mode=entry.mode,
        max_messages=entry.attr.maxmsg if entry.attr else None,
        max_size=entry.attr.msgsize if entry.attr else None,
        messages=entry.attr.curmsgs if entry.attr else None,
        bytes=int(words["QSIZE"]) if "QSIZE" in words else None,
        notified=int(words["NOTIFY_PID"]) if "NOTIFY_PID" in words else None,
        owner=owner,
        inside=inside,
    )


def _shm_files(proc: Proc, who: _Ids, unread: dict[str, str], notes: list[str]) -> tuple[ShmFile, ...] | None:
    # Below the root directory of the process, whatever symlinks are there; nothing in it is opened.
    try:
        root = proc.open("root", os.O_PATH | os.O_DIRECTORY)
    except PermissionError as error:
        raise refused(proc, "root", error, "to look into its /dev/shm") from None
    try:
        directory = open_in_root(root, "/dev/shm", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except KernelError as error:
        if error.errno in (ENOENT, ENOTDIR):
            unread["shm_files"] = "the process has no /dev/shm"
        else:
            unread["shm_files"] = f"you may not list /dev/shm of the process: {error.strerror}"
        return None
    finally:
        os.close(root)
    try:
        types = {mount.id: mount.type for mount in listing(proc)}
        found = types.get(mount_id(directory), "")
        if found != "tmpfs":
            notes.append(
                f"/dev/shm of the process is no tmpfs, but {found or 'a directory of its root'}: shm_overview(7)"
            )
        return tuple(_shm_entries(directory, who))
    finally:
        os.close(directory)


def _shm_entries(directory: int, who: _Ids) -> Iterator[ShmFile]:
    for name in sorted(os.listdir(directory)):
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:  # removed meanwhile
            continue
        owner, inside = who.owners(found.st_uid, found.st_gid, None, None)
        yield ShmFile(
            name=name,
            kind=kind_of(found.st_mode),
            mode=found.st_mode & 0o7777,
            size=found.st_size,
            allocated=found.st_blocks * 512,
            owner=owner,
            inside=inside,
        )
