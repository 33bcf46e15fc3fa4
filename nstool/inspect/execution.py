"""What execve(2) would find, the thread that calls, the file with its interpreters, the host; and what comes of it.

The rules are those of nstool.security.predict; here they get their facts, from /proc, the file and its attributes. What
cannot be read is named, and what was taken instead: nothing is guessed in silence.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, EINVAL, ELOOP, ENODATA, ENOEXEC, ENOTSUP, EOVERFLOW, EPERM, ESRCH

from nstool import syscalls, uapi
from nstool.closing import Closing
from nstool.errors import KernelError, SpecError, plural
from nstool.frozen import Frozen
from nstool.inspect import kernelfile
from nstool.inspect.caps import process_caps
from nstool.inspect.nsfs import Fd
from nstool.inspect.proc import Proc, ProcessGone, pids, processes
from nstool.sandbox.facts import why_hidden
from nstool.sandbox.mountinfo import Mount, read_mounts
from nstool.security import access, binfmt, capabilities, filecaps, idmap
from nstool.security.credentials import Ids
from nstool.security.predict import File, Prediction, Process, Program, System, predict
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Filesystems that can be mounted in a user namespace, and so belong to one; all others belong to the initial one.
# FS_USERNS_MOUNT in the sources of Linux.
_OF_USERNS = {
    "tmpfs",
    "ramfs",
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "devpts",
    "mqueue",
    "overlay",
    "binfmt_misc",
    "bpf",
}
_NO_ID = 0xFFFFFFFF
_MISC = "/proc/sys/fs/binfmt_misc"


class Subject(Frozen):
    """A thread as one that could call execve(2). userns: inode of its user namespace, 0 if it may not be read.

    unknown: what could not be read, and what was taken for it, by what it is.
    """

    pid: int
    command: str
    userns: int
    process: Process
    unknown: dict[str, str]


class Execution(Frozen):
    """An execve(2) that has not been made: who, what, where, and what would come of it. unknown: as in Subject."""

    subject: Subject
    program: Program
    system: System
    prediction: Prediction
    unknown: dict[str, str]


def execution(
    path: str, pid: int = 0, changes: dict[str, Any] | None = None, system: System | None = None
) -> Execution:
    """Return what would come of an execve(2) of a file by a process.

    pid: of the process, 0 for the calling one. path: as that process names it, a relative one from its working
    directory. changes: fields of Process that are to be others than they are. system: default is this host.
    Raises ProcessGone, SpecError for a path that is not there, OSError for one that the reader may not reach.
    """
    changes = changes or {}
    who = subject(pid)
    process = who.process.replace(**changes)
    where = system or host()
    program, unread = open_program(path, pid)
    unknown = {**{key: text for key, text in who.unknown.items() if key not in changes}, **unread}
    found = predict(process, program, where)
    if not process.shares_fs and "shares_fs" not in changes:
        other = predict(process.replace(shares_fs=True), program, where)
        if other.rules != found.rules:  # else nobody need be asked
            shares, why = shares_fs(pid)
            process = process.replace(shares_fs=shares)
            found = predict(process, program, where)
            unknown |= {"shares_fs": why} if why else {}
    return Execution(who.replace(process=process), program, where, found, unknown)


def host() -> System:
    """Return what of this host counts for execve(2)."""
    with open("/proc/sys/fs/suid_dumpable") as file:
        suid_dumpable = int(file.read())
    with open("/proc/cmdline") as file:
        words = file.read().split()
    major, minor = os.uname().release.split(".")[:2]
    release = int(major), int("".join(char for char in minor if char.isdecimal()))
    return System(capabilities.last_cap(), suid_dumpable, "no_file_caps" not in words, release)


# The thread


def subject(pid: int = 0) -> Subject:
    """Read a process as one that could call execve(2); 0 is the calling one. Raises ProcessGone."""
    with Proc(pid or os.getpid()) as proc:
        status = proc.status()
        if status["State"].startswith("Z"):
            raise ProcessGone(f"process {proc.pid} has ended, and waits to be reaped: it executes nothing more")
        unknown: dict[str, str] = {}
        namespaces = _UserNamespaces(proc)
        unknown |= namespaces.unknown
        securebits = 0
        if pid in (0, os.getpid()):
            securebits = syscalls.prctl(uapi.PR_GET_SECUREBITS)
        else:
            unknown["securebits"] = "the kernel tells a process only its own, prctl(2); taken as none"
            if int(status["Threads"]) > 1 and _threads_differ(proc.pid):
                unknown["thread"] = f"its threads do not all have the same rights; those of thread {proc.pid} taken"
        tracer = ""
        if int(status["TracerPid"]):
            tracer, why = _tracer(int(status["TracerPid"]), namespaces)
            unknown |= {"tracer": why} if why else {}
        process = Process(
            uids=Ids(*map(int, status["Uid"].split())),
            gids=Ids(*map(int, status["Gid"].split())),
            groups=tuple(map(int, status["Groups"].split())),
            sets=capabilities.Sets(**{name: int(status[line], 16) for name, line in capabilities.SETS.items()}),
            securebits=securebits,
            uid_map=namespaces.map("uid_map"),
            gid_map=namespaces.map("gid_map"),
            owners=namespaces.owners(),
            no_new_privs=status["NoNewPrivs"] == "1",
            tracer=tracer,
        )
        return Subject(proc.pid, proc.read("comm").rstrip("\n"), namespaces.inode, process, unknown)


def _threads_differ(pid: int) -> bool:
    threads = process_caps(pid).threads
    return len({(thread.uids, thread.gids, thread.sets, thread.no_new_privs) for thread in threads}) > 1


class _UserNamespaces:
    # The user namespace of a process and those above it, as the reader can tell them.

    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self.unknown: dict[str, str] = {}
        self.own = os.stat("/proc/self/ns/user").st_ino
        self.texts = {name: proc.read(name) for name in ("uid_map", "gid_map")}
        try:
            self.chain = _chain(proc.open("ns/user"))
        except PermissionError:
            # Who may not look: its maps are open to all, and another namespace with the same maps is one by chance.
            with open("/proc/self/uid_map") as file:
                same = file.read() == self.texts["uid_map"]
            self.chain = [self.own] if same else []
            what = "yours, which has the same uid_map" if same else "one below yours"
            self.unknown["user namespace"] = f"{why_hidden(proc.pid)[0]}; taken as {what}"
        self.inode = self.chain[0] if self.chain and "user namespace" not in self.unknown else 0

    @property
    def is_own(self) -> bool:
        return self.chain[:1] == [self.own]

    def map(self, name: str) -> tuple[IdMap, ...]:
        # The outside in the text is the reader's, except in the reader's own namespace, where it is the parent's.
        lines = idmap.parse_map(self.texts[name])
        if self.is_own:
            return tuple(IdMap(line.inside, line.inside, line.count) for line in lines)
        return tuple(line for line in lines if line.outside != _NO_ID)

    def owners(self) -> tuple[int, ...]:
        # Which of the reader's ids are uid 0 of the process's namespace or of one above it.
        found = {0}
        root = idmap.to_outside(self.map("uid_map"), 0)
        if root is not None:
            found.add(root)
        between = set(self.chain[1 : self.chain.index(self.own)] if self.own in self.chain else self.chain[1:])
        for proc in processes() if between else ():  # a namespace shows its map only by a process in it
            try:
                inode = proc.inode("user")
                if inode in between:
                    between.remove(inode)
                    uid = idmap.to_outside(idmap.parse_map(proc.read("uid_map")), 0)
                    found |= {uid} if uid is not None else set()
            except (OSError, ProcessGone):  # of what may not be read nothing is learnt
                continue
            if not between:
                break
        if between:
            self.unknown["owners"] = (
                f"{len(between)} user namespaces above its own have no process to read their uid_map by; "
                "file capabilities with one of their root ids are taken as those of others"
            )
        with open("/proc/self/uid_map") as file:
            above = idmap.parse_map(file.read())
        parent = idmap.to_inside(above, 0)  # uid 0 of the namespace above the reader's
        if parent is not None:
            found.add(parent)
        return tuple(sorted(found))


def _chain(fd: int) -> list[int]:
    # Inodes of a user namespace and of those above it, as far as the reader may see; fd is closed.
    found = []
    while fd >= 0:
        try:
            found.append(os.fstat(fd).st_ino)
            parent = syscalls.ns_get_parent(fd)
        except KernelError as error:
            if error.errno != EPERM:  # EPERM: above the reader's own
                raise
            parent = -1
        finally:
            os.close(fd)
        fd = parent
    return found


def _tracer(pid: int, namespaces: _UserNamespaces) -> tuple[str, str]:
    # Whether it has CAP_SYS_PTRACE over the namespace; and what is not known of that.
    try:
        with Proc(pid) as proc:
            effective = int(proc.status()["CapEff"], 16)
            above = proc.inode("user") in namespaces.chain
    except (PermissionError, ProcessGone):
        return (
            "incapable",
            f"the rights of process {pid}, which traces it, may not be read; taken as without CAP_SYS_PTRACE",
        )
    capable = above and effective >> uapi.CAP_SYS_PTRACE & 1
    why = f"process {pid} traces it: what it may do now is taken for what it might when it began to"
    return "capable" if capable else "incapable", why


def shares_fs(pid: int = 0) -> tuple[bool, str]:
    """Return whether another process shares root, working directory and umask with this one, and what is not known.

    clone(2), CLONE_FS. All processes are asked about, once each. kcmp(2).
    """
    own, refused = pid or os.getpid(), 0
    for other in pids():
        if other == own:
            continue
        try:
            if syscalls.kcmp(own, other, uapi.KCMP_FS) == 0:
                return True, ""
        except KernelError as error:
            if error.errno not in (EPERM, ESRCH):
                return (
                    False,
                    f"kcmp(2) does not tell whether another process shares its root: {error.strerror}; taken as no",
                )
            refused += error.errno == EPERM
    if refused:
        return (
            False,
            f"{plural(refused, 'process')} may not be asked whether they share its root (CLONE_FS); taken as no",
        )
    return False, ""


# The file


def open_program(path: str, pid: int = 0) -> tuple[Program, dict[str, str]]:
    """Read a file and its interpreters as execve(2) of a process would open them; and what could not be read.

    Raises SpecError for a path that is not there, OSError for one that the reader may not reach, ProcessGone.
    """
    with _View(pid) as view:
        try:
            fd = view.open(path)
        except (FileNotFoundError, NotADirectoryError):
            hint = "give its path, as `command -v NAME` prints it"
            raise SpecError(f"there is no file {path}{view.where}; {hint}") from None
        return _Walk(view).run(path, fd), view.unknown


class _View(Closing):
    # Where a process finds files: its root, working directory and mounts.

    def __init__(self, pid: int) -> None:
        self.unknown: dict[str, str] = {}
        self.where = ""
        self.root = self.cwd = -1
        self.proc = Proc(pid or os.getpid())
        try:
            if pid not in (0, os.getpid()):
                self.look(pid)
            self.mounts = {mount.id: mount for mount in read_mounts(self.proc.read("mountinfo"))}
            self.owner_known = self.in_owner()
        except BaseException:
            self.close()
            raise

    def look(self, pid: int) -> None:
        try:
            self.root = self.proc.open("root", os.O_PATH)
            self.cwd = self.proc.open("cwd", os.O_PATH)
            same = self.proc.inode("mnt") == os.stat("/proc/self/ns/mnt").st_ino
        except PermissionError:
            cause, remedy = why_hidden(pid)
            self.unknown["root"] = f"its root, mounts and working directory: {cause}; taken as yours. {remedy}"
            self.close_dirs()
            self.proc.close()
            self.proc = Proc(os.getpid())
            return
        if same and _same_place(self.root, "/"):
            os.close(self.root)
            self.root = -1
        else:
            self.where = f" below the root of process {pid}"

    def in_owner(self) -> bool:
        # Whether the process is in the user namespace that owns its mounts, or in one below: so its filesystems are
        # of a namespace that it is in. user_namespaces(7), "Interaction of user namespaces and other types".
        try:
            fd = self.proc.open("ns/mnt")
        except PermissionError:
            return True
        try:
            owner = syscalls.ns_get_userns(fd)
        except KernelError as error:
            if error.errno != EPERM:  # EPERM: it is above the reader's own
                raise
            return True
        finally:
            os.close(fd)
        inode = os.fstat(owner).st_ino
        os.close(owner)
        return inode in _chain(self.proc.open("ns/user"))

    def open(self, path: str, flags: int = os.O_PATH) -> int:
        path = path or "."  # as an interpreter without a name is for the kernel
        if self.root < 0:
            if self.cwd >= 0 and not os.path.isabs(path):
                return os.open(path, flags | os.O_CLOEXEC, dir_fd=self.cwd)
            return os.open(path, flags | os.O_CLOEXEC)
        absolute = os.path.isabs(path)  # a relative one may not lead out of the working directory here
        directory, resolve = (self.root, uapi.RESOLVE_IN_ROOT) if absolute else (self.cwd, uapi.RESOLVE_BENEATH)
        try:
            return syscalls.open_within(directory, path, flags | os.O_CLOEXEC, resolve)
        except KernelError as error:  # as os.open has it
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from None

    def formats(self) -> tuple[binfmt.Format, ...]:
        # Who has a mount namespace may have mounted there what looks like it: that is not opened.
        try:
            top = self.open(_MISC, os.O_PATH | os.O_DIRECTORY)
        except OSError:  # where it is not there nothing is registered, or what is cannot be read
            return ()
        with Fd(top):
            kind = syscalls.fstatfs_type(top)
            if kind == uapi.PROC_SUPER_MAGIC:  # it is not mounted
                return ()
            if kind != uapi.BINFMTFS_MAGIC:
                self.unknown[_MISC] = "what is mounted there is no binfmt_misc; taken as one with nothing registered"
                return ()
            try:
                return self.registered(top)
            except (OSError, ValueError) as error:
                self.unknown[_MISC] = f"it cannot be read: {error}; taken as one with nothing registered"
                return ()

    def registered(self, top: int) -> tuple[binfmt.Format, ...]:
        if kernelfile.read(top, "status", uapi.BINFMTFS_MAGIC).strip() != b"enabled":
            return ()
        with Fd(os.open(f"/proc/self/fd/{top}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            names = sorted(name for name in os.listdir(fd) if name not in ("status", "register"))
        texts = {name: kernelfile.read(top, name, uapi.BINFMTFS_MAGIC) for name in names}
        found = (binfmt.parse_format(name, os.fsdecode(text)) for name, text in texts.items())
        return tuple(format for format in found if format)

    def close_dirs(self) -> None:
        for fd in (self.root, self.cwd):
            if fd >= 0:
                os.close(fd)
        self.root = self.cwd = -1

    def close(self) -> None:
        self.close_dirs()
        self.proc.close()


def _same_place(fd: int, path: str) -> bool:
    other = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.path.sameopenfile(fd, other) and _mount_id(fd) == _mount_id(other)
    finally:
        os.close(other)


def _mount_id(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


class _Walk:
    # From a file to the interpreter of its first line, and on to a program, as the kernel goes.

    def __init__(self, view: _View) -> None:
        self.view = view
        self.files: list[File] = []
        self.source = -1

    def run(self, path: str, fd: int) -> Program:
        formats = self.view.formats()
        while True:
            try:
                self.files.append(self.facts(path, fd))
                following, error, why = self.look(path, fd, formats)
                if error or not following:
                    return self.program(error, why)
                if following.is_loader:
                    return self.with_loader(path, following.name)
            finally:
                os.close(fd)
            try:
                fd = self.view.open(following.name)
            except OSError as refused:
                what = f"{path} names {following.name} as its interpreter"
                return self.program(refused.errno or 0, f"{what}: {refused.strerror}")
            path = following.name

    def look(self, path: str, fd: int, formats: Iterable[binfmt.Format]) -> tuple[_Next | None, int, str]:
        # What is opened after this file, or how it fails, or neither: it is a program.
        if len(self.files) - 1 > binfmt.DEPTH:
            return None, ELOOP, f"more than {binfmt.DEPTH} interpreters, each one a script with the next"
        if not stat.S_ISREG(self.files[-1].mode):
            return None, EACCES, f"{path} is no regular file"
        try:
            content = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            self.view.unknown[path] = "its content may not be read; taken as an ELF program without a loader, no script"
            return None, 0, ""
        try:
            head = os.pread(content, binfmt.HEAD, 0)
            for format in formats:
                if format.recognises(path, head):
                    if "C" in format.flags:
                        self.source = len(self.files) - 1
                    if "F" in format.flags:
                        self.view.unknown[f"interpreter of {path}"] = (
                            f"binfmt_misc holds the file that was {format.interpreter} when its format was registered "
                            "(flag F), whoever may reach it now; taken as what the process finds by that name"
                        )
                    return _Next(format.interpreter), 0, ""
            interpreter = binfmt.interpreter(head)
            if interpreter is not None:
                return _Next(os.fsdecode(interpreter)), 0, ""
            why, loader = binfmt.elf(head, lambda offset, size: os.pread(content, size, offset))
            if why:
                return None, ENOEXEC, f"{path}: {why}"
            return (_Next(os.fsdecode(loader), is_loader=True) if loader else None), 0, ""
        finally:
            os.close(content)

    def program(self, error: int = 0, why: str = "", loader: File | None = None) -> Program:
        return Program(tuple(self.files), loader, error, why, self.source)

    def with_loader(self, path: str, name: str) -> Program:
        try:
            fd = self.view.open(name)
        except OSError as refused:
            return self.program(refused.errno or 0, f"{path} needs the loader {name}: {refused.strerror}")
        try:
            return self.program(loader=self.facts(name, fd))
        finally:
            os.close(fd)

    def facts(self, path: str, fd: int) -> File:
        info = os.fstat(fd)
        flags = os.fstatvfs(fd).f_flag
        caps, caps_error = self.caps(path, fd)
        return File(
            mode=info.st_mode,
            uid=info.st_uid,
            gid=info.st_gid,
            acl=_acl(fd),
            path=path,
            caps=caps,
            caps_error=caps_error,
            nosuid=bool(flags & os.ST_NOSUID),
            noexec=bool(flags & os.ST_NOEXEC),
            foreign=self.foreign(fd),
            outside=self.outside(path, fd),
            directories=self.directories(path, fd),
        )

    def caps(self, path: str, fd: int) -> tuple[filecaps.FileCaps | None, int]:
        try:
            return filecaps.read(fd), 0
        except KernelError as error:
            if error.errno == EOVERFLOW:
                self.view.unknown[f"capabilities of {path}"] = (
                    "they count in a user namespace whose root has no number here, and so not for the process"
                )
                return None, 0
            if error.errno == EINVAL:
                self.view.unknown[f"capabilities of {path}"] = (
                    "the kernel shows none: they are of revision 1, which it takes, or damaged; taken as damaged"
                )
                return None, EINVAL
            raise

    def foreign(self, fd: int) -> bool:
        # A process whose root is within a mount does not see that mount in its list.
        number = _mount_id(fd)
        if number in self.view.mounts:
            return False
        root = self.view.root if self.view.root >= 0 else os.open("/", os.O_PATH | os.O_CLOEXEC)
        try:
            return number != _mount_id(root)
        finally:
            if root != self.view.root:
                os.close(root)

    def outside(self, path: str, fd: int) -> bool:
        mount: Mount | None = self.view.mounts.get(_mount_id(fd))
        kind = mount.type if mount else ""
        if not self.view.owner_known and (kind in _OF_USERNS or kind.startswith("fuse")):
            self.view.unknown[f"filesystem of {path}"] = (
                f"whether this {kind} was mounted in a user namespace that the process is not in, which the kernel "
                "does not tell; taken as no. If it was, set-user-ID bits and file capabilities do not count"
            )
        return False

    def directories(self, path: str, fd: int) -> tuple[access.Inode, ...]:
        # Those of the path as it is given and, where the reader has the same root, those that symbolic links lead to.
        names = dict.fromkeys(_parents(path))
        if self.view.root < 0:
            names |= dict.fromkeys(_parents(os.readlink(f"/proc/self/fd/{fd}")))
        found = []
        for name in names:
            try:
                directory = self.view.open(name, os.O_PATH | os.O_DIRECTORY)
            except OSError:  # (deleted) has no directory; another one that the reader may not reach has let it through
                continue
            try:
                info = os.fstat(directory)
                found.append(access.Inode(info.st_mode, info.st_uid, info.st_gid, _acl(directory)))
            finally:
                os.close(directory)
        return tuple(dict.fromkeys(found))


class _Next(Frozen):
    # What is opened after a file: the interpreter of a script, or the loader of a program.
    name: str
    is_loader: bool = False


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    above = ["/".join(parts[: count + 1]) or "/" for count in range(len(parts))]
    return above if os.path.isabs(path) else [".", *above]


def _acl(fd: int) -> tuple[access.AclEntry, ...]:
    try:
        return access.parse_acl(os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access"))
    except OSError as error:
        if error.errno not in (ENODATA, ENOTSUP):
            raise
        return ()
