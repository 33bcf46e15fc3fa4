"""The bare system calls: one function each, named and ordered as the kernel's.

Beside sandbox.engine the only importer of nstool._native (docs/adr/0008).
A wrapper converts its arguments, calls and checks; it has no policy. Refusals raise KernelError
with the call in words. Fds are plain ints that the caller owns; nothing is close-on-exec unless
the flag is given or the kernel always does it. Paths are str, bytes or os.PathLike.

The interpreter lock is released during every call. EINTR is retried where nothing can have been
done yet (openat2, waitid), after Python's signal handlers have run.
"""

from __future__ import annotations

import errno
import os
import sys

from nstool import uapi
from nstool._native import ffi, lib
from nstool.errors import KernelError, NotSupported, SpecError
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TypeAlias

    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Cloned(Frozen):
    """What clone3 and clone return: pid (0 in the child) and pidfd (-1 without CLONE_PIDFD, and in the child)."""

    pid: int
    pidfd: int


class CapSets(Frozen):
    """The capability sets of a thread, as masks of 1 << CAP_…. capabilities(7)."""

    effective: int
    permitted: int
    inheritable: int


class SyscallInfo(Frozen):
    """Where a tracee is in a system call. ptrace(2), PTRACE_GET_SYSCALL_INFO.

    op: PTRACE_SYSCALL_INFO_*. arch: AUDIT_ARCH_*. number, args: of the call, at its entry.
    """

    op: int
    arch: int
    number: int
    args: tuple[int, ...]


class Waited(Frozen):
    """A child's change of state. waitid(2).

    code: CLD_*. status: exit status for CLD_EXITED, else the signal. utime, stime: microseconds;
    maxrss: KiB; all three of the child and the children that it waited for.
    """

    pid: int
    uid: int
    code: int
    status: int
    utime: int
    stime: int
    maxrss: int


class Statmount(Frozen):
    """One mount as the kernel tells it; a field that was not asked for is 0 or "". statmount(2).

    mask: STATMOUNT_*, which fields are valid. *_id: unique ids, never used again; *_id_old: those
    of /proc/PID/mountinfo. mnt_attr: MOUNT_ATTR_*. mnt_propagation: MS_SHARED and the like.
    sb_source, fs_subtype ("sshfs" of fuse.sshfs): Linux 6.13. mnt_uidmap, mnt_gidmap: lines "inside
    outside count" of an id-mapped mount, outside as the caller's user namespace has it (Linux 6.15).
    """

    mask: int
    sb_dev_major: int
    sb_dev_minor: int
    sb_magic: int
    sb_flags: int
    fs_type: str
    mnt_id: int
    mnt_parent_id: int
    mnt_id_old: int
    mnt_parent_id_old: int
    mnt_attr: int
    mnt_propagation: int
    mnt_peer_group: int
    mnt_master: int
    propagate_from: int
    mnt_root: str
    mnt_point: str
    mnt_ns_id: int
    sb_source: str
    mnt_opts: str
    fs_subtype: str = ""
    mnt_uidmap: tuple[str, ...] = ()
    mnt_gidmap: tuple[str, ...] = ()


class MqAttr(Frozen):
    """A POSIX message queue. flags: O_NONBLOCK or 0. maxmsg: messages; msgsize: bytes of one. mq_getattr(3)."""

    flags: int
    maxmsg: int
    msgsize: int
    curmsgs: int


_STATMOUNT_LISTS = {"mnt_uidmap": uapi.STATMOUNT_MNT_UIDMAP, "mnt_gidmap": uapi.STATMOUNT_MNT_GIDMAP}
_STATMOUNT_STRINGS = {
    "fs_type": uapi.STATMOUNT_FS_TYPE,
    "mnt_root": uapi.STATMOUNT_MNT_ROOT,
    "mnt_point": uapi.STATMOUNT_MNT_POINT,
    "fs_subtype": uapi.STATMOUNT_FS_SUBTYPE,
    "sb_source": uapi.STATMOUNT_SB_SOURCE,
    "mnt_opts": uapi.STATMOUNT_MNT_OPTS,
}

# Flags of clone that cannot hold for a Python child: it would run in the parent's memory, or
# needs a pointer that only C can give.
_NOT_FROM_PYTHON = (
    uapi.CLONE_VM
    | uapi.CLONE_THREAD
    | uapi.CLONE_SIGHAND
    | uapi.CLONE_SETTLS
    | uapi.CLONE_PARENT_SETTID
    | uapi.CLONE_CHILD_SETTID
    | uapi.CLONE_CHILD_CLEARTID
)


def check(call: str, result: int, *args: object) -> int:
    """Return result, or raise KernelError with the call in words if it is a negative errno.

    An argument that is a pair (family, value) is printed by uapi.names or uapi.name: ("MS", 4096)
    as MS_BIND; the families "x" and "o" are numbers in hexadecimal and octal.
    """
    if result >= 0:
        return result
    raise KernelError(f"{call}({', '.join(map(_in_words, args))})", -result)


def _in_words(arg: object) -> str:
    if isinstance(arg, tuple):
        family, value = arg
        if family in ("x", "o"):
            return format(value, "#x" if family == "x" else "04o")
        return uapi.names(family, value) if family in uapi.FLAGS else uapi.name(family, value)
    if arg is None:
        return "NULL"
    if isinstance(arg, (str, bytes, os.PathLike)):
        return f'"{os.fsdecode(arg)}"'
    return "AT_FDCWD" if arg == uapi.AT_FDCWD else str(arg)


def _c_string(value: Path) -> bytes:
    encoded = os.fsencode(value)
    if b"\0" in encoded:  # C would see a shorter string than the caller
        raise SpecError(f"{encoded!r} has a zero byte, which ends a string for the kernel; remove it")
    return encoded


def _c_string_or_null(value: Path | None) -> Any:
    return ffi.NULL if value is None else _c_string(value)


def _id(value: int) -> int:
    return 0xFFFFFFFF if value == -1 else value


# Processes


def clone3(
    flags: int = 0,
    *,
    exit_signal: int = uapi.SIGCHLD,
    set_tid: Sequence[int] = (),
    cgroup: int = -1,
    child: Callable[[], int | None] | None = None,
) -> Cloned:
    """Fork into new namespaces. clone(2), Linux 5.3.

    flags: CLONE_*. exit_signal: 0 for none (wait with __WALL then). set_tid: the wanted pid in
    each pid namespace, innermost first (Linux 5.5). cgroup: fd of a cgroup directory, with
    CLONE_INTO_CGROUP (Linux 5.7). The pidfd, with CLONE_PIDFD, is close-on-exec.

    Returns twice, as os.fork does: Cloned.pid is 0 in the child, which goes on with a copy of
    everything; end it with os._exit or exec. With child given, the child calls it and exits with
    the status that it returns (None is 0; an uncaught exception is shown by sys.excepthook and
    is 1); then clone3 returns in the parent only.

    Python's fork hooks run (os.register_at_fork) and libc learns the new thread id. What a raw
    clone cannot do is free the locks that other threads hold in libc, malloc's first of all, so a
    process with more than one thread is refused, where os.fork would only be in doubt.
    A launch (nstool.sandbox) has no such limit: no Python runs in its child.

    Raises SpecError for flags under which the child would share Python's memory (CLONE_VM,
    CLONE_THREAD, CLONE_SIGHAND) or that need an address (CLONE_SETTLS, CLONE_*_SETTID,
    CLONE_CHILD_CLEARTID); NotSupported with threads; KernelError: EPERM without CAP_SYS_ADMIN or
    when user namespaces are refused, ENOSYS also from the filter of an outer container (use
    clone), EEXIST for a pid of set_tid in use, ENOSPC for the limits of namespaces(7).
    """
    _refuse_fork("clone3", flags)
    tids = ffi.new("int32_t[]", list(set_tid)) if set_tid else ffi.NULL
    pidfd = ffi.new("int *", -1)
    _flush(child)
    pid = lib.nst_clone3(flags, exit_signal, tids, len(set_tid), cgroup, pidfd)
    if pid == 0 and child is not None:
        _run_and_exit(child)
    check("clone3", pid, ("CLONE", flags))
    return Cloned(pid, pidfd[0])


def clone(flags: int = uapi.SIGCHLD, *, child: Callable[[], int | None] | None = None) -> Cloned:
    """Fork into new namespaces by the older call. clone(2).

    flags: CLONE_* below 1 << 32, and the exit signal in the low byte, so not CLONE_NEWTIME.
    Everything else is as for clone3, which some outer containers' filters refuse with ENOSYS.
    """
    if flags >> 32:
        raise SpecError(f"clone: {uapi.names('CLONE', flags >> 32 << 32)} needs clone3")
    _refuse_fork("clone", flags & ~uapi.CSIGNAL)
    pidfd = ffi.new("int *", -1)
    _flush(child)
    pid = lib.nst_clone(flags, pidfd)
    if pid == 0 and child is not None:
        _run_and_exit(child)
    check("clone", pid, ("CLONE", flags & ~uapi.CSIGNAL), ("SIG", flags & uapi.CSIGNAL))
    return Cloned(pid, pidfd[0])


def _refuse_fork(call: str, flags: int) -> None:
    if bad := flags & _NOT_FROM_PYTHON:
        raise SpecError(f"{call}: {uapi.names('CLONE', bad)} cannot hold for a child that runs Python; leave it out")
    if not single_threaded():
        raise NotSupported(
            f"{call} from Python",
            "this process has more than one thread, and the child would inherit the locks that the others hold",
            "call it before threads are started, or launch a sandbox, which runs no Python in the child",
        )


def _flush(child: object) -> None:
    # Else what the parent has buffered would be written twice: _run_and_exit flushes too.
    if child is not None:
        sys.stdout.flush()
        sys.stderr.flush()


def _run_and_exit(child: Callable[[], int | None]) -> NoReturn:
    status = 1
    try:
        status = int(child() or 0)
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            _flush(child)
        finally:
            os._exit(status & 0xFF)


def single_threaded() -> bool:
    """Return whether this process has one thread, threads outside Python counted. unshare(2), CLONE_THREAD."""
    return bool(lib.nst_single_threaded())


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. unshare(2).

    flags: CLONE_NEW*, CLONE_FS, CLONE_FILES, CLONE_SYSVSEM. New pid and time namespaces hold for
    later children only. Raises KernelError: EINVAL also for CLONE_NEWUSER in a process with
    threads, EPERM without CAP_SYS_ADMIN or in a chroot, ENOSPC for the limits of namespaces(7).
    """
    check("unshare", lib.nst_unshare(flags), ("CLONE", flags))


def setns(fd: int, nstype: int = 0) -> None:
    """Join the namespace that fd refers to. setns(2).

    fd: nsfs or pidfd, stays open. nstype: CLONE_NEW* mask; required with a pidfd (Linux 5.8).
    Raises KernelError: EINVAL also when the caller has threads (mnt, user) or is in that user
    namespace already.
    """
    check("setns", lib.nst_setns(fd, nstype), fd, ("CLONE", nstype))


def pidfd_open(pid: int, flags: int = 0) -> int:
    """Return an fd, close-on-exec, that refers to process pid. pidfd_open(2), Linux 5.3.

    flags: PIDFD_NONBLOCK, PIDFD_THREAD. Raises KernelError: ESRCH; EINVAL or ENOENT for a thread.
    """
    return check("pidfd_open", lib.nst_pidfd_open(pid, flags), pid, ("PIDFD", flags))


def landlock_abi() -> int:
    """Return the version of Landlock that the running kernel has, or a negative errno. landlock_create_ruleset(2).

    ENOSYS: not built in, or before Linux 5.13. EOPNOTSUPP: built in, and not switched on at boot.
    """
    return int(lib.nst_landlock_abi())


def pidfd_getfd(pidfd: int, fd: int, flags: int = 0) -> int:
    """Return a duplicate, close-on-exec, of another process's fd. pidfd_getfd(2), Linux 5.6.

    Raises KernelError: EPERM when the caller may not ptrace the process, EBADF, ESRCH.
    """
    return check("pidfd_getfd", lib.nst_pidfd_getfd(pidfd, fd, flags), pidfd, fd, flags)


def pidfd_send_signal(pidfd: int, sig: int, flags: int = 0) -> None:
    """Send a signal to the process that pidfd refers to. pidfd_send_signal(2), Linux 5.1.

    sig: 0 only asks whether it could be sent. flags: PIDFD_SIGNAL_* (Linux 6.9).
    Raises KernelError: ESRCH when it has ended and been waited for.
    """
    result = lib.nst_pidfd_send_signal(pidfd, sig, flags)
    check("pidfd_send_signal", result, pidfd, ("SIG", sig), None, ("PIDFD_SIGNAL", flags))


def waitid(idtype: int, id: int, options: int = uapi.WEXITED) -> Waited | None:
    """Wait for a child's change of state; None with WNOHANG when there is none. waitid(2).

    idtype: P_PIDFD (Linux 5.4), P_PID, P_PGID, P_ALL. options: WEXITED, WSTOPPED, WCONTINUED,
    WNOHANG, WNOWAIT. Raises KernelError: ECHILD when it is not the caller's child or has been
    waited for; EAGAIN for a PIDFD_NONBLOCK one that runs still.
    """
    waited = ffi.new("struct nst_waited *")
    while (result := lib.nst_waitid(idtype, id, options, waited)) == -errno.EINTR:
        pass  # the interpreter has run the signal's handler by now, which may have raised
    check("waitid", result, ("P", idtype), id, ("WAIT", options))
    if waited.pid == 0:
        return None
    return Waited(waited.pid, waited.uid, waited.code, waited.status, waited.utime, waited.stime, waited.maxrss)


def ptrace(request: int, pid: int = 0, addr: int = 0, data: int = 0) -> int:
    """Begin to be traced, or act on a traced thread; return what it returns. ptrace(2).

    request: PTRACE_*, those that take numbers. Raises KernelError: EPERM when the caller is traced already, or may
    not trace; ESRCH when pid is not a stopped tracee of the calling thread.
    """
    return check("ptrace", lib.nst_ptrace(request, pid, addr, data), ("PTRACE", request), pid, addr, data)


def seccomp_filter(pid: int, index: int) -> bytes | None:
    """Return a seccomp filter of a stopped tracee: an array of struct sock_filter; None past the last. ptrace(2).

    index: 0 is the newest. Raises KernelError: EACCES without CAP_SYS_ADMIN in the first user namespace, or to who has
    a filter himself; EIO from a kernel without CONFIG_CHECKPOINT_RESTORE.
    """
    arguments = "PTRACE_SECCOMP_GET_FILTER", pid, index
    number = lib.nst_ptrace(uapi.PTRACE_SECCOMP_GET_FILTER, pid, index, 0)
    if number == -errno.ENOENT:
        return None
    check("ptrace", number, *arguments)
    program = ffi.new("uint8_t[]", 8 * number)
    where = int(ffi.cast("uintptr_t", program))
    check("ptrace", lib.nst_ptrace(uapi.PTRACE_SECCOMP_GET_FILTER, pid, index, where), *arguments)
    return bytes(program)


def ptrace_geteventmsg(pid: int) -> int:
    """Return what goes with the event that a tracee has stopped for: the pid of a new child. ptrace(2).

    Raises KernelError: ESRCH when pid is not a stopped tracee of the calling thread.
    """
    message = ffi.new("uint64_t *")
    ptrace(uapi.PTRACE_GETEVENTMSG, pid, 0, int(ffi.cast("uintptr_t", message)))
    return int(message[0])


def ptrace_get_syscall_info(pid: int) -> SyscallInfo:
    """Return the system call that a tracee is stopped at. ptrace(2); Linux 5.3.

    Raises KernelError: ESRCH when pid is not a stopped tracee of the calling thread.
    """
    words = ffi.new("uint64_t[11]")  # struct ptrace_syscall_info: op and arch, two pointers, nr and six arguments
    ptrace(uapi.PTRACE_GET_SYSCALL_INFO, pid, ffi.sizeof(words), int(ffi.cast("uintptr_t", words)))
    return SyscallInfo(words[0] & 0xFF, words[0] >> 32, words[3], tuple(words[4:10]))


# Mounts


def mount(
    source: Path | None, target: Path, fstype: str | None = None, flags: int = 0, data: str | None = None
) -> None:
    """Mount, or change a mount. mount(2).

    flags: MS_*. Raises KernelError: EPERM without CAP_SYS_ADMIN over the mount namespace, or for
    flags that are locked; EINVAL, EBUSY, ENODEV (no such file system) and many more.
    """
    result = lib.nst_mount(
        _c_string_or_null(source), _c_string(target), _c_string_or_null(fstype), flags, _c_string_or_null(data)
    )
    check("mount", result, source, target, fstype, ("MS", flags), data)


def umount(target: Path) -> None:
    """Unmount. umount(2)."""
    check("umount", lib.nst_umount2(_c_string(target), 0), target)


def umount2(target: Path, flags: int = 0) -> None:
    """Unmount. flags: MNT_DETACH, MNT_FORCE, MNT_EXPIRE, UMOUNT_NOFOLLOW. umount(2).

    Raises KernelError: EBUSY, EINVAL (not a mount point, or locked by a user namespace).
    """
    check("umount2", lib.nst_umount2(_c_string(target), flags), target, ("UMOUNT", flags))


def pivot_root(new_root: Path, put_old: Path) -> None:
    """Make new_root the root of the mount namespace, the old one mounted on put_old. pivot_root(2).

    Raises KernelError: EINVAL when new_root is no mount point, its parent is shared, put_old is not
    below it or the old root is rootfs; EBUSY when new_root is on the current root.
    """
    result = lib.nst_pivot_root(_c_string(new_root), _c_string(put_old))
    check("pivot_root", result, new_root, put_old)


def chroot(path: Path) -> None:
    """Change the caller's root directory; the working directory stays where it is. chroot(2)."""
    check("chroot", lib.nst_chroot(_c_string(path)), path)


def open_tree(dirfd: int, path: Path, flags: int = 0) -> int:
    """Return an O_PATH fd of a mount, or of a copy of it. open_tree(2), Linux 5.2.

    flags: OPEN_TREE_CLOEXEC, OPEN_TREE_CLONE (a detached copy, with AT_RECURSIVE of the mounts
    below as well), AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT.
    Raises KernelError: EPERM for a copy without CAP_SYS_ADMIN; EINVAL for a copy of a detached
    tree of another mount namespace.
    """
    return check("open_tree", lib.nst_open_tree(dirfd, _c_string(path), flags), dirfd, path, ("OPEN_TREE", flags))


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int = 0) -> None:
    """Attach a detached mount, or move a mount. move_mount(2), Linux 5.2.

    flags: MOVE_MOUNT_*; MOVE_MOUNT_F_EMPTY_PATH with the fd of fsmount or open_tree and "".
    """
    result = lib.nst_move_mount(from_dirfd, _c_string(from_path), to_dirfd, _c_string(to_path), flags)
    check("move_mount", result, from_dirfd, from_path, to_dirfd, to_path, ("MOVE_MOUNT", flags))


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int = 0,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change attributes of a mount, with AT_RECURSIVE of the mounts below too. mount_setattr(2), Linux 5.12.

    flags: AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT. attr_set, attr_clr:
    MOUNT_ATTR_*; to set an access time setting clear MOUNT_ATTR__ATIME. propagation: MS_PRIVATE
    and the like, or 0. userns_fd: with MOUNT_ATTR_IDMAP.
    Raises KernelError: EPERM for a locked attribute; EINVAL for an unknown one, or an id map on a
    mount that is attached or whose file system has none.
    """
    result = lib.nst_mount_setattr(dirfd, _c_string(path), flags, attr_set, attr_clr, propagation, userns_fd)
    words = ("MOUNT_ATTR", attr_set), ("MOUNT_ATTR", attr_clr), ("MS", propagation)
    check("mount_setattr", result, dirfd, path, ("AT", flags), *words, userns_fd)


def fsopen(fsname: str, flags: int = 0) -> int:
    """Return an fd to configure a new file system with. fsopen(2), Linux 5.2.

    flags: FSOPEN_CLOEXEC. Raises KernelError: ENODEV (no such file system), EPERM.
    """
    return check("fsopen", lib.nst_fsopen(_c_string(fsname), flags), fsname, ("FSOPEN", flags))


def fspick(dirfd: int, path: Path, flags: int = 0) -> int:
    """Return an fd to reconfigure the file system at path with. fspick(2), Linux 5.2. flags: FSPICK_*."""
    return check("fspick", lib.nst_fspick(dirfd, _c_string(path), flags), dirfd, path, ("FSPICK", flags))


def fsconfig(fd: int, cmd: int, key: str | None = None, value: Path | None = None, aux: int = 0) -> None:
    """Set a parameter of a file system, or create or reconfigure it. fsconfig(2), Linux 5.2.

    FSCONFIG_SET_FLAG key · SET_STRING key value · SET_BINARY key value (bytes; aux is their
    length, set here) · SET_PATH, SET_PATH_EMPTY key value and aux a dirfd · SET_FD key and aux
    the fd · CMD_CREATE, CMD_CREATE_EXCL, CMD_RECONFIGURE alone.
    Raises KernelError: EINVAL, the reason of which fscontext_log(fd) tells; EPERM, EBUSY.
    """
    if cmd == uapi.FSCONFIG_SET_BINARY and isinstance(value, bytes):
        content, aux = ffi.from_buffer(value), len(value)
    else:
        content = ffi.NULL if value is None else ffi.new("char[]", _c_string(value))
    result = lib.nst_fsconfig(fd, cmd, _c_string_or_null(key), content, aux)
    check("fsconfig", result, fd, ("FSCONFIG", cmd), key, value, aux)


def fsmount(fd: int, flags: int = 0, attr_flags: int = 0) -> int:
    """Return an O_PATH fd of a detached mount of the file system that fsconfig created. fsmount(2), Linux 5.2.

    flags: FSMOUNT_CLOEXEC. attr_flags: MOUNT_ATTR_*.
    Raises KernelError: EPERM also when a proc or sysfs mount would show more than those there are.
    """
    result = lib.nst_fsmount(fd, flags, attr_flags)
    return check("fsmount", result, fd, ("FSMOUNT", flags), ("MOUNT_ATTR", attr_flags))


def fscontext_log(fd: int) -> tuple[str, ...]:
    """Return and forget the kernel's messages on an fsopen or fspick fd, as "e tmpfs: Unknown parameter 'x'".

    The first letter is e, w or i for error, warning or information. fsconfig(2).
    """
    messages: list[str] = []
    while True:
        try:
            message = os.read(fd, 8192)
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            return tuple(messages)
        messages.append(os.fsdecode(message).rstrip("\n"))


def statmount(mnt_id: int, mask: int | None = None, mnt_ns_id: int = 0) -> Statmount:
    """Ask what is known of a mount. statmount(2), Linux 6.8.

    mnt_id: unique id (listmount, STATX_MNT_ID_UNIQUE). mask: STATMOUNT_*; None for all that
    Statmount has. mnt_ns_id: of another mount namespace (ns_get_mntns_id); 0 for the caller's.
    Raises KernelError: ENOENT, EPERM when it is not below the caller's root, ENOSYS.
    """
    if mask is None:
        mask = (uapi.STATMOUNT_MNT_NS_ID << 1) - 1 | uapi.STATMOUNT_MNT_OPTS | uapi.STATMOUNT_SB_SOURCE
        mask |= uapi.STATMOUNT_FS_SUBTYPE | uapi.STATMOUNT_MNT_UIDMAP | uapi.STATMOUNT_MNT_GIDMAP
    size = 4096
    while True:
        buffer = ffi.new("char[]", size)
        result = lib.nst_statmount(mnt_id, mnt_ns_id, mask, buffer, size)
        if result != -errno.EOVERFLOW:
            break
        size *= 2
    check("statmount", result, mnt_id, ("STATMOUNT", mask), mnt_ns_id)
    known = ffi.cast("struct nst_statmount *", buffer)
    strings = buffer + ffi.sizeof("struct nst_statmount")
    fields: dict[str, Any] = {}
    for field in Statmount.__fields__:
        value = getattr(known, field)
        if field in _STATMOUNT_STRINGS:
            there = known.mask & _STATMOUNT_STRINGS[field]
            value = os.fsdecode(ffi.string(strings + value)) if there else ""
        elif field in _STATMOUNT_LISTS:
            there = known.mask & _STATMOUNT_LISTS[field]
            value = _strings(strings + value, getattr(known, f"{field}_num")) if there else ()
        fields[field] = value
    return Statmount(**fields)


def _strings(at: Any, count: int) -> tuple[str, ...]:
    # So many strings, one behind the other, each ended by NUL.
    found = []
    for _ in range(count):
        text = ffi.string(at)
        found.append(os.fsdecode(text))
        at += len(text) + 1
    return tuple(found)


def listmount(
    mnt_id: int = uapi.LSMT_ROOT, mnt_ns_id: int = 0, last_mnt_id: int = 0, flags: int = 0
) -> tuple[int, ...]:
    """Return the unique ids of all mounts below mnt_id, without it. listmount(2), Linux 6.8.

    mnt_id: LSMT_ROOT for the namespace's root mount. last_mnt_id: begin after this one.
    flags: LISTMOUNT_REVERSE (Linux 6.11). Asks until the kernel has no more.
    """
    page = ffi.new("uint64_t[]", 512)
    found: list[int] = []
    while True:
        result = lib.nst_listmount(mnt_id, mnt_ns_id, last_mnt_id, page, len(page), flags)
        count = check("listmount", result, mnt_id, mnt_ns_id, last_mnt_id, ("LISTMOUNT", flags))
        found += ffi.unpack(page, count)
        if count < len(page):
            return tuple(found)
        last_mnt_id = found[-1]


# Files


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Return an fd of path, with a say in how path is walked. openat2(2), Linux 5.6.

    flags: O_* (O_CLOEXEC is not implied). mode: with O_CREAT or O_TMPFILE only. resolve: RESOLVE_*.
    Raises KernelError: EXDEV when the path leaves what RESOLVE_BENEATH or RESOLVE_NO_XDEV allow,
    ELOOP for a link that is not allowed, EINVAL for any unknown bit.
    """
    name = _c_string(path)
    while (result := lib.nst_openat2(dirfd, name, flags, mode, resolve)) == -errno.EINTR:
        pass  # a fifo waits for its other end; the interpreter has run the signal's handler by now
    return check("openat2", result, dirfd, path, ("O", flags), ("o", mode), ("RESOLVE", resolve))


def open_within(dirfd: int, path: Path, flags: int, resolve: int) -> int:
    """Return an fd as openat2 does, with RESOLVE_IN_ROOT or RESOLVE_BENEATH in resolve; only that it is asked again.

    EAGAIN says that something was renamed or mounted, anywhere, while ".." was walked. Where that goes on it is raised.
    """
    for _ in range(1000):
        try:
            return openat2(dirfd, path, flags, resolve=resolve)
        except KernelError as error:
            if error.errno != errno.EAGAIN:
                raise
    return openat2(dirfd, path, flags, resolve=resolve)


def fstatfs_type(fd: int) -> int:
    """Return the kind of filesystem that an fd is on, *_MAGIC: f_type of fstatfs(2). fd: may be an O_PATH one."""
    return check("fstatfs", lib.nst_fstatfs_type(fd), fd)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close fds first to last, both included. close_range(2), Linux 5.9.

    flags: CLOSE_RANGE_CLOEXEC (mark them instead, Linux 5.11), CLOSE_RANGE_UNSHARE.
    """
    check("close_range", lib.nst_close_range(first, last, flags), first, last, ("CLOSE_RANGE", flags))


# What belongs to the caller


def sethostname(name: str | bytes) -> None:
    """Set the host name of the caller's uts namespace, at most 64 bytes. sethostname(2)."""
    encoded = os.fsencode(name)
    check("sethostname", lib.nst_sethostname(encoded, len(encoded)), encoded, len(encoded))


def setdomainname(name: str | bytes) -> None:
    """Set the NIS domain name of the caller's uts namespace, at most 64 bytes. setdomainname(2)."""
    encoded = os.fsencode(name)
    check("setdomainname", lib.nst_setdomainname(encoded, len(encoded)), encoded, len(encoded))


def personality(persona: int) -> int:
    """Set the execution domain and return the one before; PER_QUERY only returns it. personality(2).

    persona: PER_LINUX or PER_LINUX32, and flags as ADDR_NO_RANDOMIZE. Of the calling thread.
    """
    return check("personality", lib.nst_personality(persona), ("x", persona))


def setresuid(ruid: int, euid: int, suid: int) -> None:
    """Set real, effective and saved user id of the calling thread; -1 keeps one. setresuid(2).

    The raw call. libc's, and os.setresuid, change all threads of the process: nptl(7). It drops
    capabilities as capabilities(7), section "Effect of user ID changes", has it.
    Raises KernelError: EPERM, EINVAL for an id without a map in the user namespace.
    """
    check("setresuid", lib.nst_setresuid(_id(ruid), _id(euid), _id(suid)), ruid, euid, suid)


def setresgid(rgid: int, egid: int, sgid: int) -> None:
    """Set real, effective and saved group id of the calling thread; -1 keeps one. setresuid(2).

    The raw call, as setresuid. Raises KernelError: EPERM, EINVAL.
    """
    check("setresgid", lib.nst_setresgid(_id(rgid), _id(egid), _id(sgid)), rgid, egid, sgid)


def setfsuid(fsuid: int) -> None:
    """Set the user id by which the calling thread is given access to files. setfsuid(2).

    The kernel reports no error: KernelError, EPERM, is raised where the id has not been taken, also for one without a
    map in the user namespace. Real, effective and saved id stay, and with them who may signal the thread.
    """
    check("setfsuid", lib.nst_setfsuid(_id(fsuid)), fsuid)


def setfsgid(fsgid: int) -> None:
    """Set the group id by which the calling thread is given access to files; as ``setfsuid``. setfsgid(2)."""
    check("setfsgid", lib.nst_setfsgid(_id(fsgid)), fsgid)


def setgroups(groups: Sequence[int]) -> None:
    """Set the supplementary groups of the calling thread. setgroups(2).

    The raw call, as setresuid. Raises KernelError: EPERM without CAP_SETGID or when
    /proc/PID/setgroups says deny; EINVAL for more than 65536 or an id without a map.
    """
    check("setgroups", lib.nst_setgroups(len(groups), list(groups)), len(groups), list(groups[:32]))


def capget(pid: int = 0) -> CapSets:
    """Return the capability sets of thread pid, 0 for the caller. capget(2). Raises KernelError: ESRCH."""
    effective, permitted, inheritable = (ffi.new("uint64_t *") for _ in range(3))
    check("capget", lib.nst_capget(pid, effective, permitted, inheritable), pid)
    return CapSets(effective[0], permitted[0], inheritable[0])


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets of the calling thread, as masks of 1 << CAP_…. capget(2).

    Raises KernelError: EPERM for a permitted one that was not, an effective one that is not
    permitted, or an inheritable one that is outside permitted and bounding set.
    """
    result = lib.nst_capset(effective, permitted, inheritable)
    check("capset", result, ("x", effective), ("x", permitted), ("x", inheritable))


def prctl(
    option: int,
    arg2: int | bytes | bytearray = 0,
    arg3: int | bytes | bytearray = 0,
    arg4: int | bytes | bytearray = 0,
    arg5: int | bytes | bytearray = 0,
) -> int:
    """Set or get an attribute, of the calling thread for most options. prctl(2).

    option: PR_*. bytes and bytearray are passed by address, for PR_SET_NAME b"name" and
    PR_GET_NAME bytearray(16); they must have the length that the option reads or writes.
    """
    args = (arg2, arg3, arg4, arg5)
    buffers = [ffi.NULL if isinstance(arg, int) else ffi.from_buffer(arg) for arg in args]
    numbers = [
        arg & 0xFFFFFFFFFFFFFFFF if isinstance(arg, int) else int(ffi.cast("uintptr_t", buffer))
        for arg, buffer in zip(args, buffers, strict=True)
    ]
    return check("prctl", lib.nst_prctl(option, *numbers), ("PR", option), *args)


def kcmp(pid1: int, pid2: int, type: int, idx1: int = 0, idx2: int = 0) -> int:
    """Return 0 if two threads share a resource of the kernel, else 1, 2 or 3: how the two are ordered. kcmp(2).

    type: KCMP_*. Raises KernelError: EPERM when the caller may not ptrace both, ESRCH, ENOSYS without CONFIG_KCMP.
    """
    return check("kcmp", lib.nst_kcmp(pid1, pid2, type, idx1, idx2), pid1, pid2, ("KCMP", type), idx1, idx2)


def keyctl_join_session_keyring(name: str | None = None) -> int:
    """Leave the session keyring for a new one, or one of that name; return its serial number. keyctl(2)."""
    result = lib.nst_keyctl_join_session_keyring(_c_string_or_null(name))
    return check("keyctl", result, ("KEYCTL", uapi.KEYCTL_JOIN_SESSION_KEYRING), name)


def seccomp_set_mode_filter(program: bytes, flags: int = 0) -> int:
    """Install a seccomp filter for the calling thread, for ever. seccomp(2).

    program: BPF instructions of 8 bytes (struct sock_filter), as libseccomp exports them. flags:
    SECCOMP_FILTER_FLAG_*. Returns 0; the listening fd, close-on-exec, for NEW_LISTENER; or, for
    TSYNC, the id of a thread that could not follow, and nothing is installed.
    Raises KernelError: EACCES without no_new_privs or CAP_SYS_ADMIN, EINVAL for a program that is
    empty, too long (4096) or wrong.
    """
    if len(program) % 8:
        raise SpecError(f"a seccomp program is made of 8 byte instructions, this one has {len(program)} bytes")
    result = lib.nst_seccomp_set_mode_filter(ffi.from_buffer(program), len(program) // 8, flags)
    return check(
        "seccomp", result, ("SECCOMP", uapi.SECCOMP_SET_MODE_FILTER), ("SECCOMP_FILTER_FLAG", flags), len(program) // 8
    )


_BPF_TRIES = 100  # a signal while the program is looked at ends that with EAGAIN: bpf_check() in kernel/bpf/verifier.c


def bpf_socket_filter(program: bytes) -> int:
    """Load a filter for packets of sockets; return its fd, close-on-exec. bpf(2), BPF_PROG_LOAD.

    program: eBPF instructions of 8 bytes (struct bpf_insn). To be attached with SO_ATTACH_BPF, socket(7).
    Raises KernelError: EPERM without CAP_BPF where kernel.unprivileged_bpf_disabled is not 0, ENOSYS of a kernel
    without it, EINVAL or EACCES for a program that the kernel does not take; EAGAIN where signals do not end.
    """
    for _ in range(_BPF_TRIES):
        found: int = lib.nst_bpf_socket_filter(ffi.from_buffer(program), len(program) // 8)
        if found != -errno.EAGAIN:
            break
    return check("bpf", found, len(program) // 8)


# Objects of the caller's ipc namespace


def shmget(key: int, size: int, shmflg: int = 0) -> int:
    """Make or find a System V shared memory segment; return its id. shmget(2).

    key: IPC_PRIVATE for a new one. size: bytes. shmflg: IPC_CREAT, IPC_EXCL and the permission bits.
    Raises KernelError: EEXIST, ENOENT, EACCES; EINVAL for a size that shmmax does not allow; ENOSPC
    for shmmni or shmall.
    """
    words = ("IPC", shmflg & ~0o777), ("o", shmflg & 0o777)
    return check("shmget", lib.nst_shmget(key, size, shmflg), key, size, *words)


def semget(key: int, nsems: int, semflg: int = 0) -> int:
    """Make or find a set of nsems System V semaphores; return its id. semget(2). As shmget."""
    words = ("IPC", semflg & ~0o777), ("o", semflg & 0o777)
    return check("semget", lib.nst_semget(key, nsems, semflg), key, nsems, *words)


def msgget(key: int, msgflg: int = 0) -> int:
    """Make or find a System V message queue; return its id. msgget(2). As shmget."""
    return check("msgget", lib.nst_msgget(key, msgflg), key, ("IPC", msgflg & ~0o777), ("o", msgflg & 0o777))


def shmctl(shmid: int, cmd: int = uapi.IPC_RMID) -> None:
    """Mark a segment to go when the last process has detached it. shmctl(2), IPC_RMID.

    Raises KernelError: EINVAL or EIDRM when there is none; EPERM for who neither owns nor made it
    and has no CAP_SYS_ADMIN.
    """
    check("shmctl", lib.nst_shmctl(shmid, cmd), shmid, ("IPC_CMD", cmd), None)


def semctl(semid: int, semnum: int = 0, cmd: int = uapi.IPC_RMID) -> None:
    """Remove a set of semaphores; who waits for one is woken with EIDRM. semctl(2), IPC_RMID. As shmctl."""
    check("semctl", lib.nst_semctl(semid, semnum, cmd), semid, semnum, ("IPC_CMD", cmd))


def msgctl(msqid: int, cmd: int = uapi.IPC_RMID) -> None:
    """Remove a queue and its messages; who waits at it is woken with EIDRM. msgctl(2), IPC_RMID. As shmctl."""
    check("msgctl", lib.nst_msgctl(msqid, cmd), msqid, ("IPC_CMD", cmd), None)


def mq_unlink(name: str | bytes) -> None:
    """Remove the name of a POSIX message queue, as "/jobs"; who has it open keeps it. mq_unlink(3).

    Raises KernelError: EINVAL without the slash, ENOENT, EACCES or EPERM (it is another user's),
    ENAMETOOLONG above 255 bytes.
    """
    check("mq_unlink", lib.nst_mq_unlink(_c_string(name)), name)


def mq_getattr(mqdes: int) -> MqAttr:
    """Return the sizes of a queue, and how many messages are in it. mq_getattr(3).

    mqdes: from mq_open(3), or of its file in an mqueue file system. Raises KernelError: EBADF.
    """
    attr = ffi.new("struct nst_mq_attr *")
    check("mq_getattr", lib.nst_mq_getattr(mqdes, attr), mqdes)
    return MqAttr(attr.flags, attr.maxmsg, attr.msgsize, attr.curmsgs)


# ioctl


def ioctl(fd: int, request: int, arg: int = 0) -> int:
    """Make an ioctl that takes a number; return what it returns. ioctl(2).

    arg is never an address here: fcntl.ioctl does those.
    """
    return check("ioctl", lib.nst_ioctl(fd, request, arg), fd, ("IOCTL", request), arg)


def ns_get_userns(fd: int) -> int:
    """Return an fd, close-on-exec, of the user namespace that owns this namespace. ioctl_ns(2).

    Raises KernelError: EPERM when that is outside the caller's user namespace.
    """
    return ioctl(fd, uapi.NS_GET_USERNS)


def ns_get_parent(fd: int) -> int:
    """Return an fd, close-on-exec, of the parent of a user or pid namespace. ioctl_ns(2).

    Raises KernelError: EPERM at the top of what the caller may see, EINVAL for other types.
    """
    return ioctl(fd, uapi.NS_GET_PARENT)


def ns_get_nstype(fd: int) -> int:
    """Return the CLONE_NEW* flag of a namespace. ioctl_ns(2). Raises KernelError: ENOTTY for another file."""
    return ioctl(fd, uapi.NS_GET_NSTYPE)


def ns_get_owner_uid(fd: int) -> int:
    """Return the owner of a user namespace, as an id of the caller's. ioctl_ns(2).

    65534 when it has none there. Raises KernelError: EINVAL for other types.
    """
    return _ioctl_get("uint32_t *", lib.nst_ioctl_get_u32, fd, uapi.NS_GET_OWNER_UID)


def ns_get_mntns_id(fd: int) -> int:
    """Return the id of a mount namespace, as statmount and listmount take it. Linux 6.11."""
    return _ioctl_get("uint64_t *", lib.nst_ioctl_get_u64, fd, uapi.NS_GET_MNTNS_ID)


def ns_get_id(fd: int) -> int:
    """Return the id of a namespace of any type, never used again until reboot. Linux 6.18."""
    return _ioctl_get("uint64_t *", lib.nst_ioctl_get_u64, fd, uapi.NS_GET_ID)


def _ioctl_get(ctype: str, call: Callable[[int, int, Any], int], fd: int, request: int) -> int:
    value = ffi.new(ctype)
    check("ioctl", call(fd, request, value), fd, ("IOCTL", request))
    return int(value[0])


def ns_get_pid_from_pidns(fd: int, pid: int) -> int:
    """Return the caller's number of the thread that is pid in pid namespace fd. Linux 6.11.

    Raises KernelError: ESRCH, EINVAL for other types of namespaces, ENOTTY on older kernels.
    """
    return ioctl(fd, uapi.NS_GET_PID_FROM_PIDNS, pid)


def ns_get_tgid_from_pidns(fd: int, pid: int) -> int:
    """Return the caller's number of the process of the thread that is pid in pid namespace fd. Linux 6.11."""
    return ioctl(fd, uapi.NS_GET_TGID_FROM_PIDNS, pid)


def ns_get_pid_in_pidns(fd: int, pid: int) -> int:
    """Return the number in pid namespace fd of the thread that is pid for the caller. Linux 6.11."""
    return ioctl(fd, uapi.NS_GET_PID_IN_PIDNS, pid)


def ns_get_tgid_in_pidns(fd: int, pid: int) -> int:
    """Return the number in pid namespace fd of the process of the thread that is pid for the caller. Linux 6.11."""
    return ioctl(fd, uapi.NS_GET_TGID_IN_PIDNS, pid)
