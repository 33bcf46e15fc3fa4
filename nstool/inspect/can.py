"""Who can act on whom: the facts that the kernel would ask, read from /proc and nsfs, and the verdict. proc(5).

``security.verdict``, ``acts`` and ``files`` have the rules and are pure; here they are given what this host shows. A
``Reader`` keeps what it has read of user namespaces: make one for each look, not one for ever.

Limits. Nothing shows a Landlock domain, what a seccomp filter or a security module's policy says, PR_SET_PTRACER, the
device controller's program, or who else shares A's file system attributes (CLONE_FS). What an executed file needs
beside itself, its interpreter or libraries, is not followed. A thread is judged by its own credentials: name its tid.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ELOOP, ENODATA, EOPNOTSUPP, EPERM, errorcode
from functools import cached_property

from nstool import kinds, syscalls, uapi
from nstool.errors import KernelError, SpecError
from nstool.inspect import within
from nstool.inspect.dumpable import is_dumpable
from nstool.inspect.mounts import listing, mount_id
from nstool.inspect.proc import Proc, ProcessGone, processes
from nstool.inspect.walk import Refusal, Step, Walked, Walker
from nstool.sandbox.facts import why_hidden
from nstool.security import acts, files, idmap
from nstool.security.access import AclEntry, parse_acl
from nstool.security.files import Inode, Walk
from nstool.security.verdict import INITIAL, OUTSIDE, Cred, Host, Ns, Task, UserNs, Verdict
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nstool.sandbox.mountinfo import Mount

_EVERY = ((0, 0xFFFFFFFF),)
_TRIES = 10  # to read a process while it does not change its rights
_RIGHTS = ("Name", "Uid", "Gid", "Groups", "NSpid", "CapPrm", "CapEff", "NoNewPrivs", "Seccomp", "TracerPid")
_PF_KTHREAD = 0x00200000  # of the flags in proc_pid_stat(5)
_PORT_START = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def signal(a: int, b: int, number: int = 0) -> Verdict:
    """May process a send b this signal? number: 0 asks for the permission alone. Raises ProcessGone."""
    reader = Reader()
    return acts.signal(reader.task(a), reader.task(b), reader.host, number)


def kill_group(a: int, b: int, number: int = 0) -> Verdict:
    """May process a signal the process group of b? Raises ProcessGone."""
    reader = Reader()
    return acts.kill_group(reader.task(a), reader.group(b), reader.task(b), reader.host, number)


def ptrace(a: int, b: int) -> Verdict:
    """May process a attach to b by ptrace(2)? Raises ProcessGone."""
    reader = Reader()
    return acts.ptrace(reader.task(a), reader.task(b), reader.host)


def read(a: int, b: int, file: str = "") -> Verdict:
    """May process a look into b: its environment, memory, open files? file: one of acts.PROC_FILES, or empty.

    Raises ProcessGone, SpecError for another file.
    """
    if file and file not in acts.PROC_FILES:
        from nstool.spec.values import suggest

        raise SpecError(f"{file!r} is no file of a process that needs this right{suggest(file, acts.PROC_FILES)}")
    reader = Reader()
    return acts.read(reader.task(a), reader.task(b), reader.host, file, reader.owner(b, file) if file else None)


def setns(a: int, b: int, types: Iterable[str] = ()) -> Verdict:
    """May process a enter these namespaces of b, all at once? types: empty for those in which the two differ.

    Raises ProcessGone, SpecError for an unknown type, or if they differ in none.
    """
    from nstool.sandbox.join import check_types

    wanted = tuple(types)
    check_types(wanted)
    reader = Reader()
    one, other = reader.task(a), reader.task(b)
    if not wanted and not (wanted := _different(one, other)):
        raise SpecError(f"process {a} is in all namespaces of process {b} already; name those to ask about", "--types")
    return acts.setns(one, other, wanted, reader.host)


def prlimit(a: int, b: int) -> Verdict:
    """May process a read or set the resource limits of b? Raises ProcessGone."""
    reader = Reader()
    return acts.prlimit(reader.task(a), reader.task(b), reader.host)


def renice(a: int, b: int) -> Verdict:
    """May process a make b nicer? Raises ProcessGone."""
    reader = Reader()
    return acts.renice(reader.task(a), reader.task(b), reader.host)


def may_open(a: int, path: str, want: str = "read") -> Verdict:
    """May process a open the file at this path, as a sees it? want: "read", "write", "exec".

    Raises ProcessGone, SpecError if there is no such file.
    """
    reader = Reader()
    walk = reader.walk(a, path, changes=want == "write")
    return files.may_open(reader.task(a), walk, want, reader.host)


def chown(a: int, path: str, uid: int | None = None, gid: int | None = None) -> Verdict:
    """May process a give the file to this user and group, as the caller numbers them? None for both: to any user."""
    reader = Reader()
    return files.chown(reader.task(a), reader.walk(a, path, changes=True), reader.host, uid, gid)


def chmod(a: int, path: str) -> Verdict:
    """May process a change the mode of the file?"""
    reader = Reader()
    return files.chmod(reader.task(a), reader.walk(a, path, changes=True), reader.host)


def delete(a: int, path: str) -> Verdict:
    """May process a remove this name?"""
    reader = Reader()
    return files.delete(reader.task(a), reader.walk(a, path, changes=True, follow=False), reader.host)


def mount(a: int) -> Verdict:
    """May process a mount in its mount namespace?"""
    reader = Reader()
    return acts.mount(reader.task(a), reader.host)


def sethostname(a: int) -> Verdict:
    """May process a set the names of its uts namespace?"""
    reader = Reader()
    return acts.sethostname(reader.task(a), reader.host)


def bind_port(a: int, port: int) -> Verdict:
    """May process a bind a socket to this TCP or UDP port? Raises ProcessGone, SpecError for no port."""
    if not 0 <= port <= 0xFFFF:
        raise SpecError(f"{port} is no port: they are 0 to 65535")
    reader = Reader()
    return acts.bind_port(reader.task(a), port, reader.port_start(a), reader.host)


def _different(a: Task, b: Task) -> tuple[str, ...]:
    return tuple(
        kind
        for kind in kinds.KINDS
        if kind not in a.namespaces or kind not in b.namespaces or a.namespaces[kind].inode != b.namespaces[kind].inode
    )


class Reader:
    """Reads processes and files, as far as the caller may. What may not be seen is None, its reason in ``unread``."""

    def __init__(self) -> None:
        self._user_ns: dict[int, UserNs] = {}
        self._own = os.stat("/proc/self/ns/user").st_ino

    @cached_property
    def host(self) -> Host:
        """What holds for the whole host and for this reader."""
        scope = _text("/proc/sys/kernel/yama/ptrace_scope")
        lsms = _text("/sys/kernel/security/lsm")
        blurred = () if self._own == INITIAL.inode else (_number("overflowuid"), _number("overflowgid"))
        return Host(
            yama=int(scope) if scope else None,
            lsms=tuple(lsms.split(",")) if lsms else None,
            permissive=_text("/sys/fs/selinux/enforce") == "0",
            protected_symlinks=_text("/proc/sys/fs/protected_symlinks") == "1",
            profilers=_release() >= (6, 15) or None,
            blurred=blurred,
        )

    def task(self, pid: int) -> Task:
        """Read one process, or a thread by its tid. Raises ProcessGone."""
        task = self._read(pid)
        if "namespaces.user" not in task.unread or task.ended:
            return task
        looks = acts.access(self._read(os.getpid()), task, self.host, "READ_FSCREDS")
        return task.replace(guarded=all(check.passed for check in looks))

    def _read(self, pid: int) -> Task:
        with Proc(pid) as proc:
            for _ in range(_TRIES):
                try:
                    before = proc.status()
                    task = _TaskReader(self, proc, before).task()
                    now = proc.status()
                except (FileNotFoundError, ProcessLookupError):  # of a file that is there while the process is
                    proc.check()
                    raise
                if _rights(before) == _rights(now):
                    break  # else it has changed its rights meanwhile: what was read is of two processes, as it were
            proc.check()
            return task

    def group(self, pid: int) -> tuple[Task, ...]:
        """Read the processes of the process group of pid that are to be seen, that one first. Raises ProcessGone."""
        with Proc(pid) as proc:
            pgrp = proc.stat().pgrp
        members = [self.task(pid)]
        for proc in processes() if pgrp else ():
            try:
                if proc.stat().pgrp == pgrp and proc.pid != pid:
                    members.append(self.task(proc.pid))
            except (ProcessGone, PermissionError):  # ended meanwhile; or hidden, hidepid of proc(5)
                continue
        return tuple(members)

    def owner(self, pid: int, file: str) -> tuple[int, int, int] | None:
        """Mode, uid and gid of a file below /proc/PID; None for a link, whose mode nobody asks. Raises ProcessGone."""
        with Proc(pid) as proc:
            try:
                found = os.stat(file, dir_fd=proc.fd, follow_symlinks=False)
            except (FileNotFoundError, ProcessLookupError):
                proc.check()
                raise SpecError(f"process {pid} has no {file} under this kernel") from None
            return None if stat.S_ISLNK(found.st_mode) else (found.st_mode, found.st_uid, found.st_gid)

    def user_ns(self, fd: int) -> UserNs:
        """The user namespace of an nsfs fd, with those above it. Closes fd. ioctl_nsfs(2)."""
        try:
            inode = os.fstat(fd).st_ino
            if inode not in self._user_ns:
                parent = None
                if inode not in (INITIAL.inode, self._own):
                    parent = self.user_ns(syscalls.ns_get_parent(fd))
                owner = syscalls.ns_get_owner_uid(fd)
                self._user_ns[inode] = UserNs(inode, owner, parent, inode == INITIAL.inode)
            return self._user_ns[inode]
        finally:
            os.close(fd)

    @property
    def in_initial(self) -> bool:
        """Whether the reader is in the initial user namespace, where every id has a number."""
        return self._own == INITIAL.inode

    @property
    def own_user_ns(self) -> int:
        """Inode of the reader's user namespace."""
        return self._own

    def port_start(self, pid: int) -> int | None:
        """net.ipv4.ip_unprivileged_port_start where the process is; None if the caller may not go there."""
        with Proc(pid) as proc:
            try:
                if proc.inode("net") == os.stat("/proc/thread-self/ns/net").st_ino:
                    return _port_start()
                return within.call(proc, "net", _port_start)[0]
            except (KernelError, PermissionError):
                return None
            except (FileNotFoundError, ProcessGone):
                proc.check()
                return None  # a zombie

    def walk(self, pid: int, path: str, *, follow: bool = True, changes: bool = False) -> Walk:
        """Go the way of a path below the root of the process, and look at what is on it. path_resolution(7).

        follow: a symlink at the end too. changes: read FS_IOC_GETFLAGS of the last two, for which they are opened.
        Raises ProcessGone, SpecError if the path is not absolute or leads to nothing.
        """
        if not path.startswith("/"):
            raise SpecError("is not absolute; write it as A sees it, from its root directory", path)
        with Proc(pid) as proc:
            try:
                root = proc.open("root", os.O_PATH | os.O_DIRECTORY)
            except PermissionError:
                cause, _ = why_hidden(pid)
                return Walk(path, (), None, f"A's root directory may not be seen by you: {cause}")
            except FileNotFoundError:
                return Walk(path, (), None, "A is a zombie and has no root directory")
            try:
                with Proc(os.getpid()) as own:
                    mounts = _Mounts(listing(proc), listing(own))
                looker = _Looker(proc, root, mounts)
                return _whole(looker, path, changes=changes) if follow else _name(looker, path, changes=changes)
            finally:
                os.close(root)


def _whole(looker: _Looker, path: str, *, changes: bool) -> Walk:
    with looker.walk(path) as walked:
        if walked.refusal is not None:
            return _refused(looker, path, walked.refusal)
        return Walk(path, tuple(looker.seen), looker.look(walked.fd, walked.path or path, changes=changes))


def _name(looker: _Looker, path: str, *, changes: bool) -> Walk:
    # What the last name is, a symlink as such.
    above, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise SpecError("does not end with a name", path)
    with looker.walk(above or "/") as walked:
        if walked.refusal is not None:
            return _refused(looker, path, walked.refusal)
        directory = looker.look(walked.fd, walked.path or above, changes=changes)
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=walked.fd)
        except PermissionError:
            refusal = Refusal(errorcode[EACCES], directory.path, name, "you may not search it")
            looker.seen.append(directory)
            return _refused(looker, path, refusal)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SpecError(f"{error.strerror}, from the root directory of A", path) from None
        try:
            inode = looker.look(fd, f"{directory.path.rstrip('/')}/{name}", changes=changes)
        finally:
            os.close(fd)
        return Walk(path, (*looker.seen, directory), inode)


def _refused(looker: _Looker, path: str, refusal: Refusal) -> Walk:
    # What the rules refuse A too is theirs to say; else it is only the reader who comes no further.
    unfollowed = any(stat.S_ISLNK(inode.mode) and inode.nosymfollow for inode in looker.seen[-1:])
    if refusal.errno == errorcode[EACCES] or (refusal.errno == errorcode[ELOOP] and unfollowed):
        return Walk(path, tuple(looker.seen), None, f"{refusal.name} in {refusal.at}: {refusal.why}")
    number = next((number for number, name in errorcode.items() if name == refusal.errno), 0)
    raise SpecError(f"{os.strerror(number)}, from the root directory of A", path)


class _TaskReader:
    """Reads one task below its directory in /proc."""

    def __init__(self, reader: Reader, proc: Proc, status: dict[str, str]) -> None:
        self.reader = reader
        self.proc = proc
        self.status = status
        self.unread: dict[str, str] = {}

    def task(self) -> Task:
        status = self.status
        stat_ = self.proc.stat()
        kernel = bool(stat_.flags & _PF_KTHREAD)
        user_ns = self.user_ns()
        cred = _cred(status, user_ns)
        uid_map = self.map("uid_map")
        dumpable, by = self.dumpable(cred, user_ns, uid_map, kernel)
        return Task(
            pid=self.proc.pid,
            tgid=int(status["Tgid"]),
            comm=stat_.comm,
            cred=cred,
            kernel=kernel,
            ended=stat_.state in "ZXx",
            init=_numbers(status["NStgid"])[-1:] == (1,),
            dumpable=dumpable,
            dumpable_by=by,
            mm_user_ns=() if dumpable else self.mm_user_ns(user_ns, uid_map),
            pids=_numbers(status["NSpid"]),
            pgids=_numbers(status["NSpgid"]),
            pid_ns=self.pid_ns(),
            pgrp=stat_.pgrp,
            session=stat_.session,
            threads=int(status["Threads"]),
            ancestors=self.ancestors(stat_.ppid) if self.reader.host.yama == 1 else (),
            tracer=int(status["TracerPid"]),
            blocked=int(status["SigBlk"], 16),
            ignored=int(status["SigIgn"], 16),
            caught=int(status["SigCgt"], 16),
            no_new_privs=status.get("NoNewPrivs") == "1",
            seccomp=int(status.get("Seccomp", "0")),
            label=self.label(),
            uids=self.ranges(uid_map, user_ns),
            gids=self.ranges(self.map("gid_map"), user_ns),
            namespaces=self.namespaces(),
            unread=self.unread,
        )

    def open_ns(self, name: str) -> int:
        """An fd of the namespace, -1 if it may not be seen or is no more."""
        try:
            return self.proc.open(f"ns/{name}")
        except FileNotFoundError:  # a zombie has left it, or the kernel lacks the type
            return -1
        except PermissionError as error:
            self.unread[f"namespaces.{name}"] = str(error.strerror)
            return -1

    def user_ns(self) -> UserNs | None:
        fd = self.open_ns("user")
        if fd >= 0:
            return self.reader.user_ns(fd)
        # Only one namespace can have the map of the initial one without root's will: that one.
        if self.reader.in_initial and [(m.inside, m.outside, m.count) for m in self.map("uid_map")] == [
            (0, *_EVERY[0])
        ]:
            self.unread["user_ns"] = "taken to be the initial one, for it has the uid_map of that"
            return INITIAL
        return None

    def map(self, name: str) -> tuple[IdMap, ...]:
        return idmap.parse_map(self.proc.read(name))

    def ranges(self, lines: Iterable[IdMap], user_ns: UserNs | None) -> tuple[tuple[int, int], ...] | None:
        if user_ns is None and not self.reader.in_initial:
            return None  # in the reader's own the file would show the ids of the one above
        if user_ns is not None and user_ns.inode == self.reader.own_user_ns:
            return _EVERY  # what the reader sees at all has an id there
        return tuple((line.outside, line.count) for line in lines if line.outside < idmap.ID_LIMIT)

    def pid_ns(self) -> tuple[int, ...]:
        fd = self.open_ns("pid")
        found = []
        while fd >= 0:
            found.append(os.fstat(fd).st_ino)
            try:
                parent = syscalls.ns_get_parent(fd)
            except KernelError as error:
                if error.errno != EPERM:
                    raise
                parent = -1  # the reader's own, and the end of what it may see
            finally:
                os.close(fd)
            fd = parent
        return tuple(found)

    def namespaces(self) -> dict[str, Ns]:
        found = {}
        for kind in kinds.KINDS:
            fd = self.open_ns(kind)
            if fd < 0:
                continue
            inode = os.fstat(fd).st_ino
            if kind == "user":
                found[kind] = Ns(inode, self.reader.user_ns(fd))
                continue
            try:
                found[kind] = Ns(inode, self.reader.user_ns(syscalls.ns_get_userns(fd)))
            except KernelError as error:
                if error.errno != EPERM:
                    raise
                found[kind] = Ns(inode, OUTSIDE)
            finally:
                os.close(fd)
        return found

    def label(self) -> str | None:
        try:
            return self.proc.read("attr/current").rstrip("\n\0")
        except FileNotFoundError:  # a kernel without security modules
            return ""
        except OSError as error:
            if error.errno in (EINVAL, EOPNOTSUPP):  # no module of this kernel labels processes
                return ""
            self.unread["label"] = str(error.strerror)
            return None

    def ancestors(self, parent: int) -> tuple[int, ...]:
        found: list[int] = []
        while parent:
            found.append(parent)
            try:
                with Proc(parent) as proc:
                    parent = proc.stat().ppid
            except ProcessGone:  # its children have another parent by now
                break
        return tuple(found)

    def dumpable(
        self, cred: Cred, user_ns: UserNs | None, uid_map: tuple[IdMap, ...], kernel: bool
    ) -> tuple[bool | None, str]:
        """Whether it is dumpable, None if that is unknown, and how that is known."""
        if kernel:
            return None, "it has no memory of its own"
        told = is_dumpable(self.proc.pid, int(self.status["Tgid"]))
        if told is not None:
            return told, f"PIDFD_GET_INFO tells that it is{'' if told else ' not'}"
        # Files of a process belong to its effective ids, of one that is not dumpable to a root. proc_pid(5)
        file = os.stat("status", dir_fd=self.proc.fd)
        shown = f"its files in /proc belong to uid {file.st_uid}, gid {file.st_gid}"
        if (file.st_uid, file.st_gid) != (cred.euid, cred.egid):
            return False, shown
        if user_ns is None or not self.reader.in_initial:
            return None, shown
        # Of a namespace between its own and the initial one nothing tells who is root.
        between = user_ns.parent is not None and not user_ns.parent.initial
        roots = {(0, 0), (_root(uid_map), _root(self.map("gid_map")))}
        return (None if between or (cred.euid, cred.egid) in roots else True), shown

    def mm_user_ns(self, user_ns: UserNs | None, uid_map: tuple[IdMap, ...]) -> tuple[UserNs | None, ...]:
        """The user namespaces in which it may have executed its program last: its own, or one above.

        Its files in /proc belong to the root of that one, which leaves some out.
        """
        if user_ns is None:
            return (None,)
        owner = os.stat("status", dir_fd=self.proc.fd).st_uid
        line = list(user_ns.line())
        if not self.reader.in_initial:
            return (*line, OUTSIDE)
        if len(line) > 1 and owner != 0:
            line = line[:-1]
        if len(line) > 1 and owner != _root(uid_map):
            line = line[1:]
        return tuple(line)


def _rights(status: dict[str, str]) -> list[object]:
    return [status["State"][:1] in "ZX", *(status.get(key) for key in _RIGHTS)]


def _root(lines: tuple[IdMap, ...]) -> int:
    # The global root where the namespace has none, as task_dump_owner has it.
    outside = idmap.to_outside(lines, 0)
    return 0 if outside is None else outside


def _cred(status: dict[str, str], user_ns: UserNs | None) -> Cred:
    uid, euid, suid, fsuid = _numbers(status["Uid"])
    gid, egid, sgid, fsgid = _numbers(status["Gid"])
    return Cred(
        uid=uid,
        euid=euid,
        suid=suid,
        fsuid=fsuid,
        gid=gid,
        egid=egid,
        sgid=sgid,
        fsgid=fsgid,
        groups=_numbers(status["Groups"]),
        effective=int(status["CapEff"], 16),
        permitted=int(status["CapPrm"], 16),
        user_ns=user_ns,
    )


class _Mounts:
    """The mounts of a process, and those of the reader: a root that is no mount point is on one that is not listed."""

    def __init__(self, *lists: Sequence[Mount]) -> None:
        self.listed = {mount.id: mount for mount in lists[0]}
        self.by_id = {mount.id: mount for mounts in reversed(lists) for mount in mounts}
        # Of another mount of the same filesystem all but the mount's own options is true too.
        self.by_device = {mount.device: mount.replace(options=()) for mounts in reversed(lists) for mount in mounts}

    def find(self, number: int, device: int) -> Mount | None:
        """The mount with this id, or one that tells of its filesystem; None if nothing does."""
        return self.by_id.get(number) or self.by_device.get(f"{os.major(device)}:{os.minor(device)}")


class _Looker(Walker):
    """A walker that looks at the directories which are searched and the symlinks which are followed."""

    def __init__(self, proc: Proc, root: int, mounts: _Mounts) -> None:
        super().__init__(proc, root, root, mounts.listed)
        self.all_mounts = mounts
        self.seen: list[Inode] = []

    def look(self, fd: int, path: str, *, changes: bool) -> Inode:
        """Return what an fd refers to. changes: with its FS_IOC_GETFLAGS."""
        found = os.fstat(fd)
        mount = self.all_mounts.find(mount_id(fd), found.st_dev)
        flags = os.fstatvfs(fd).f_flag
        options = mount.options if mount else ()
        immutable, append = _flags(fd, found.st_mode) if changes else (False, False)
        return Inode(
            path=path,
            mode=found.st_mode,
            uid=found.st_uid,
            gid=found.st_gid,
            acl=() if stat.S_ISLNK(found.st_mode) else _acl(fd),
            immutable=immutable,
            append=append,
            fstype=mount.type if mount else "",
            read_only="ro" in options if options else bool(flags & os.ST_RDONLY),
            sb_read_only="ro" in mount.super_options if mount else bool(flags & os.ST_RDONLY),
            noexec=bool(flags & os.ST_NOEXEC),
            nodev=bool(flags & os.ST_NODEV),
            nosymfollow="nosymfollow" in options,
            idmapped="idmapped" in options,
        )

    def _up(self, walked: Walked) -> None:
        self.seen.append(self.look(walked.fd, walked.path, changes=False))
        super()._up(walked)

    def _down(self, walked: Walked, name: str) -> str | None:
        self.seen.append(self.look(walked.fd, walked.path, changes=False))
        return super()._down(walked, name)

    def _link(self, walked: Walked, fd: int, step: Step, name: str) -> str | None:
        self.seen.append(self.look(fd, step.path, changes=False).replace(trailing=self.at_last))
        return super()._link(walked, fd, step, name)

    def _jump(self, walked: Walked, step: Step, name: str) -> None:
        # Whether it may be followed is asked of the process that it is of.
        self.seen[-1] = self.seen[-1].replace(magic=True)
        walked.refusal = Refusal(errorcode[EACCES], walked.path, name, "it is a magic link")


def _flags(fd: int, mode: int) -> tuple[bool | None, bool | None]:
    # (immutable, append-only), None where they may not be read. FS_IOC_GETFLAGS(2const)
    import fcntl

    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return False, False
    try:
        opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # whatever forbids it, the flags stay unknown
        return None, None
    try:
        answer = fcntl.ioctl(opened, uapi.FS_IOC_GETFLAGS, bytes(8))
    except OSError as error:
        if error.errno in (EACCES, EPERM):
            return None, None
        return False, False  # ENOTTY, EOPNOTSUPP: this filesystem has no such flags
    finally:
        os.close(opened)
    flags = int.from_bytes(answer[:4], "little")
    return bool(flags & uapi.FS_IMMUTABLE_FL), bool(flags & uapi.FS_APPEND_FL)


def _acl(fd: int) -> tuple[AclEntry, ...]:
    try:
        return parse_acl(os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access"))
    except OSError as error:
        if error.errno in (ENODATA, EOPNOTSUPP, EACCES, EPERM):
            return ()
        raise


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _number(name: str) -> int:
    return int(_text(f"/proc/sys/kernel/{name}"))


def _port_start() -> int:
    with open(_PORT_START) as file:
        return int(file.read())


def _release() -> tuple[int, ...]:
    # Trying it would need CAP_PERFMON. An older kernel may have it too, so that is not known.
    return tuple(int(word) for word in os.uname().release.split(".")[:2] if word.isdecimal())


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except (FileNotFoundError, PermissionError):  # the module is not there, or /sys is not mounted
        return ""
