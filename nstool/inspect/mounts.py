"""The mounts of a process: which are reached by path, which are covered and by what, which are out of its reach.

mount_namespaces(7), proc_pid_mountinfo(5), statmount(2), listmount(2).
"""

from __future__ import annotations

import os
import select
from errno import EINVAL, ENOENT, ENOSYS, ENOTTY, EPERM

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.covers import OUTSIDE, covers
from nstool.inspect.peers import Propagation, propagation
from nstool.inspect.proc import Proc
from nstool.inspect.within import ended, refused
from nstool.sandbox import inside
from nstool.sandbox.mountinfo import Mount, read_mounts
from nstool.security.idmap import parse_map

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nstool.spec.model import IdMap
    from nstool.syscalls import Statmount

_TRIES = 10  # to read a list of mounts that changes


class Mounted(Frozen):
    """One mount, as a process has it.

    mount: of mountinfo; for one out of its reach the target is below the root of the namespace, "" where that cannot
    be said, and before Linux 6.13 the source is "" and the type of FUSE "fuse" alone. state: REACHED, its target leads
    to it; COVERED, another mount lies over it or over a directory on the way, so that only a process that is in it
    already uses it; OUTSIDE, not below the root directory of the process. covered_by: id of the mount that lies over
    it, 0 for none. Both are of paths: an open file or working directory reaches whatever it was opened on.
    unique_id: never used again, 0 where the kernel tells none (Linux 6.8). idmapped: owners are shown through a map
    (Linux 5.12). uid_map, gid_map: that map, outside as the caller's user namespace has it; None where the kernel tells
    none (Linux 6.15).
    """

    mount: Mount
    state: str
    covered_by: int
    propagation: Propagation
    unique_id: int
    idmapped: bool
    uid_map: tuple[IdMap, ...] | None
    gid_map: tuple[IdMap, ...] | None


class Mounts(Frozen):
    """The mounts that a process has.

    pid: as asked for; tgid: of its process, which for a thread is another. namespace: inode. root: its root directory
    as the caller's /proc/PID/root says it, "" if that is too long. root_mount: id of the mount that this directory is
    on; no mount of the list where a directory was made the root that is no mount's root, chroot(2). mounts: those below
    that directory, in the kernel's order. outside: the others of its namespace. unread: why something is None or
    missing, by its name.
    """

    pid: int
    tgid: int
    command: str
    namespace: int
    root: str
    root_mount: int
    mounts: tuple[Mounted, ...]
    outside: tuple[Mounted, ...] | None
    unread: dict[str, str]

    def by_id(self) -> dict[int, Mounted]:
        """Return all mounts by their id."""
        return {entry.mount.id: entry for entry in (*self.mounts, *(self.outside or ()))}


def mounts(pid: int) -> Mounts:
    """Return the mounts of a process.

    What only newer kernels or more privilege tell is None, with the reason in ``unread``. Raises ProcessGone also for
    a zombie, which has no mounts any more; KernelError if the caller may not look into the process.
    """
    with Proc(pid) as proc:
        return of(proc)


def of(proc: Proc) -> Mounts:
    """As ``mounts``, of a process that is held."""
    unread: dict[str, str] = {}
    told: dict[int, Statmount] | None = None

    def look() -> None:
        nonlocal told
        unread.clear()
        told = _statmounts(proc, unread)

    try:
        for _ in range(_TRIES):
            root = root_mount(proc)
            listed = listing(proc, look)
            if root_mount(proc) == root:
                break
        namespace, top = proc.inode("mnt"), proc.root()
    except FileNotFoundError:  # but for a zombie, all processes have these files
        raise ended(proc) from None
    if not top:
        unread["root"] = "it is deeper than the 4096 bytes that the kernel says of a path"
    states = covers(listed, root)
    outside = None
    if told is not None:
        below = {mount.id for mount in listed}
        others = [one for number, one in told.items() if number not in below]
        # Of a mount that has none, the kernel tells as little as of any before it told sources.
        sources = any(one.mask & uapi.STATMOUNT_SB_SOURCE for one in told.values())
        if others and not sources:
            unread["source"] = "Linux 6.13 and later tell the source of a mount that is out of reach, statmount(2)"
        nameless = "none" if sources else ""
        outside = tuple(_mounted(_from_statmount(one, nameless), (OUTSIDE, 0), one, unread) for one in others)
    found = tuple(_mounted(mount, states[mount.id], (told or {}).get(mount.id), unread) for mount in listed)
    return Mounts(
        pid=proc.pid,
        tgid=proc.tgid(),
        command=proc.stat().comm,
        namespace=namespace,
        root=top,
        root_mount=root,
        mounts=found,
        outside=outside,
        unread=unread,
    )


def listing(proc: Proc, also: Callable[[], None] = lambda: None) -> tuple[Mount, ...]:
    """Return the mounts that mountinfo lists for a process, in its order, all as they are at one moment.

    also: called after each reading, for what is to be of the same moment. Raises ProcessGone, KernelError as
    ``mounts``. Where mounts come and go faster than they are read, ten times in a row, a list is taken in which each
    has its parent, though it may be of several moments.
    """
    try:
        fd = proc.open("mountinfo")
    except PermissionError as error:
        raise refused(proc, "mountinfo", error, "which mounts the process has") from None
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise ended(proc) from None
    with open(fd, "rb") as file:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)  # mounts have changed since the open, or since the last poll
        for attempt in range(10 * _TRIES):
            file.seek(0)
            found = read_mounts(os.fsdecode(file.read()))
            also()
            if not poll.poll(0) or (attempt >= _TRIES and _is_whole(found)):
                break
    return found


def _is_whole(listed: Sequence[Mount]) -> bool:
    # The one parent that is not in the list is that of the root, or the root where no mount's root is made that.
    return len({mount.parent for mount in listed} - {mount.id for mount in listed}) <= 1


def root_mount(proc: Proc, name: str = "root") -> int:
    """Return the id of the mount that the root directory of a process is on, or with "cwd" its working directory."""
    try:
        fd = proc.open(name, os.O_PATH)
    except PermissionError as error:
        raise refused(proc, name, error, "the directory from which its paths begin") from None
    try:
        return mount_id(fd)
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """Return the id of the mount that an fd of the caller is on, as in mountinfo. proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def _mounted(mount: Mount, state: tuple[str, int], told: Statmount | None, unread: dict[str, str]) -> Mounted:
    idmapped = "idmapped" in mount.options
    uid_map = gid_map = None
    if idmapped:
        if told is not None and told.mask & uapi.STATMOUNT_MNT_UIDMAP:
            uid_map, gid_map = (parse_map("\n".join(lines)) for lines in (told.mnt_uidmap, told.mnt_gidmap))
        else:
            unread.setdefault("uid_map", unread.get("outside", "Linux 6.15 and later tell the map of a mount"))
    return Mounted(
        mount=mount,
        state=state[0],
        covered_by=state[1],
        propagation=propagation(mount),
        unique_id=told.mnt_id if told else 0,
        idmapped=idmapped,
        uid_map=uid_map,
        gid_map=gid_map,
    )


# ---- statmount ----


def _statmounts(proc: Proc, unread: dict[str, str]) -> dict[int, Statmount] | None:
    # All mounts of the process's namespace by the id of mountinfo, also those out of its reach.
    try:
        fd = proc.open("ns/mnt")
    except PermissionError as error:
        raise refused(proc, "ns/mnt", error, "which mounts its namespace has") from None
    try:
        return _told(fd, unread)
    except KernelError as error:
        if error.errno == ENOSYS:
            unread["outside"] = "Linux 6.8 and later list the mounts of a namespace, listmount(2)"
        elif error.errno == EPERM:
            unread["outside"] = (
                "you have no CAP_SYS_ADMIN over the user namespace that owns its mount namespace, listmount(2)"
            )
        else:
            raise
        return None
    finally:
        os.close(fd)


def _told(fd: int, unread: dict[str, str]) -> dict[int, Statmount]:
    try:
        return _all_of(syscalls.ns_get_mntns_id(fd))
    except KernelError as error:
        # ENOTTY before Linux 6.11. ENOENT where the root mount is older than the namespace, as one that was prepared
        # and then moved there: the kernel looks for it among the younger ones (grab_requested_root, fs/namespace.c).
        if error.errno not in (ENOTTY, ENOENT):
            raise
    found, maps = inside.call_with_maps({"mnt": fd}, _all_of)
    if maps is None:
        return found
    unread["uid_map"] = "it is told below the user namespace that owns the mount namespace only"
    hidden = uapi.STATMOUNT_MNT_UIDMAP | uapi.STATMOUNT_MNT_GIDMAP
    return {number: one.replace(mask=one.mask & ~hidden) for number, one in found.items()}


def _all_of(namespace: int = 0) -> dict[int, Statmount]:
    # Of a namespace by its id, or the caller's own.
    found = {}
    for number in syscalls.listmount(mnt_ns_id=namespace):
        try:
            told = syscalls.statmount(number, mnt_ns_id=namespace)
        except KernelError as error:
            if error.errno == ENOENT:  # unmounted since
                continue
            raise
        found[told.mnt_id_old] = told
    return found


_ATTRIBUTES = {
    uapi.MOUNT_ATTR_NOSUID: "nosuid",
    uapi.MOUNT_ATTR_NODEV: "nodev",
    uapi.MOUNT_ATTR_NOEXEC: "noexec",
    uapi.MOUNT_ATTR_NODIRATIME: "nodiratime",
    uapi.MOUNT_ATTR_NOSYMFOLLOW: "nosymfollow",
    uapi.MOUNT_ATTR_IDMAP: "idmapped",
}
_ATIME = {uapi.MOUNT_ATTR_RELATIME: ("relatime",), uapi.MOUNT_ATTR_NOATIME: ("noatime",)}
# In the order of mountinfo; statmount tells no other.
_SUPER_FLAGS = {uapi.MS_SYNCHRONOUS: "sync", uapi.MS_DIRSYNC: "dirsync", uapi.MS_LAZYTIME: "lazytime"}


def _from_statmount(told: Statmount, nameless: str) -> Mount:
    # As mountinfo would have it. nameless: the source of what has none that is told.
    nearest = told.propagate_from if told.propagate_from != told.mnt_master else 0  # said only where it says more
    ties = {"shared": told.mnt_peer_group, "master": told.mnt_master, "propagate_from": nearest}
    groups = [f"{word}:{number}" for word, number in ties.items() if number]
    if told.mnt_propagation & uapi.MS_UNBINDABLE:
        groups.append("unbindable")
    options = [
        "ro" if told.mnt_attr & uapi.MOUNT_ATTR_RDONLY else "rw",
        *(word for flag, word in _ATTRIBUTES.items() if told.mnt_attr & flag),
        *_ATIME.get(told.mnt_attr & uapi.MOUNT_ATTR__ATIME, ()),
    ]
    super_options = [
        "ro" if told.sb_flags & uapi.MS_RDONLY else "rw",
        *(word for flag, word in _SUPER_FLAGS.items() if told.sb_flags & flag),
        *filter(None, told.mnt_opts.split(",")),
    ]
    return Mount(
        id=told.mnt_id_old,
        parent=told.mnt_parent_id_old,
        device=f"{told.sb_dev_major}:{told.sb_dev_minor}",
        root=told.mnt_root,
        target=told.mnt_point,
        options=tuple(options),
        propagation=",".join(groups) or "private",
        type=f"{told.fs_type}.{told.fs_subtype}" if told.fs_subtype else told.fs_type,
        source=told.sb_source or nameless,
        super_options=tuple(super_options),
    )
