"""Every namespace of the host that can be found, with all that keeps each alive. namespaces(7)."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from errno import EACCES, EBADF, EINVAL, ENAMETOOLONG, ENOENT, EPERM, ESRCH

from nstool import kinds, uapi
from nstool.errors import KernelError, NotSupported, SandboxGone, plural
from nstool.frozen import Frozen
from nstool.inspect import nsfs
from nstool.inspect.nsfs import Fd
from nstool.inspect.patience import CAUSE, REMEDY, Turns
from nstool.inspect.proc import Proc, ProcessGone
from nstool.inspect.proc import pids as all_pids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nstool.sandbox.mountinfo import Mount

INITIAL_PIDNS = "pid:[4026531836]"  # PROC_PID_INIT_INO, linux/proc_ns.h
PINS = 16  # of one sort that are told of one process, or mount namespace, and a namespace
ROOTS = 16  # of the processes of a mount namespace from which its mounts are read
LARGE = 64  # open files of a process from which on it is asked whether another has the same
TOLD = 10  # numbers of processes in a note
DEEPEST = 8  # mount namespaces without a process, each bound in the one before

# Files of /proc/PID/ns: where a process is, and where its later children will be.
_OWN = tuple(kinds.KINDS)
_CHILDREN = tuple(kind.children_file for kind in kinds.KINDS.values() if kind.children)
# The threads of a process are always in the same of these: clone(2), unshare(2) and setns(2) see to it.
_OF_PROCESS = ("ns/user", "ns/pid", "ns/time")

_ENDED = "the process has ended meanwhile"
_HELD = f"the process does not let itself be read: {CAUSE}"
_NO_FD = "its file is covered by another mount, or cannot be reached without waiting for a filesystem"
_OUTSIDE = "its owner is outside your user namespace; only from there the kernel tells, ioctl_nsfs(2)"
_ABOVE = "it has no parent, or that is above what you may see from here, ioctl_nsfs(2)"


class Pin(Frozen):
    """What keeps a namespace alive beside the processes in it. namespaces(7), "Namespace lifetime".

    how: "thread": thread tid of pid is in it, the main thread is not. "for_children": what thread tid of pid forks will
    be in it. "fd": pid has it open. "socket": fd of pid is a socket of this network namespace, and pid is in another.
    "mount": bound to path in mount namespace mnt, as pid sees it. "child": namespace is a child of this one.
    "owned": namespace belongs to this user namespace.
    pid: 0 where mnt is the reader's or has no process. tid: 0 for the main thread, or all of them. fd: -1 for none.
    mnt: inode. namespace: as "net:[4026531840]".
    more: so many others of the same process and sort, or of the same mount namespace, are not listed.
    """

    how: str
    pid: int = 0
    tid: int = 0
    fd: int = -1
    path: str = ""
    mnt: int = 0
    namespace: str = ""
    more: int = 0


class Namespace(Frozen):
    """One namespace. inode: its name while it lives. id: never given again until reboot, Linux 6.18.

    pids: the processes in it, ascending; a zombie is in its user and pid namespace only.
    oldest: the one of them that was started first, 0 if there is none; often it made the namespace or was what that was
    made for, but the kernel does not record who made one. comm, command, uid: of the oldest; uid: the effective.
    parent: of a user or pid namespace, inode. owner: its user namespace, inode; of a user namespace, the parent.
    owner_uid: who made the user namespace, or of another type, its owner. Ids are as the reader sees them.
    pins: what else keeps it alive. unread: why one of the others is None or empty, by its name.
    """

    type: str
    inode: int
    id: int | None
    pids: tuple[int, ...]
    oldest: int
    comm: str
    command: tuple[str, ...]
    uid: int | None
    parent: int | None
    owner: int | None
    owner_uid: int | None
    pins: tuple[Pin, ...]
    unread: dict[str, str]

    @property
    def name(self) -> str:
        """As the links in /proc say it: "net:[4026531840]"."""
        return f"{self.type}:[{self.inode}]"

    def pinned(self, how: str) -> tuple[Pin, ...]:
        """Return the pins of one sort."""
        return tuple(pin for pin in self.pins if pin.how == how)

    def count(self, how: str) -> int:
        """Return how many pins of one sort there are, with those that are not listed."""
        return sum(1 + pin.more for pin in self.pins if pin.how == how)


class Process(Frozen):
    """A process that was looked into. threads: how many. start: clock ticks since boot.

    namespaces: inode by type, without those that a zombie has no more.
    """

    pid: int
    ppid: int
    comm: str
    state: str
    threads: int
    start: int
    namespaces: dict[str, int]


class Census(Frozen):
    """What was found. namespaces: in the order of kinds.KINDS, then by inode. processes: by pid.

    hidden: processes that could not be looked into: they are in no count. notes: what could not be seen, and what would
    be needed, one sentence each.
    """

    namespaces: tuple[Namespace, ...]
    processes: tuple[Process, ...]
    hidden: tuple[int, ...]
    notes: tuple[str, ...]


def census(turns: Turns | None = None) -> Census:
    """Return every namespace that is told of by a process, thread, fd, socket, bind mount, child or possession.

    Works for anybody, within what may be seen: ``Census.notes``. It is no snapshot: processes are read one after the
    other. Those that end meanwhile are left out, and so is a namespace that has gone by the time it is asked.
    Of sockets a copy is taken for a moment, pidfd_getfd(2). Mount namespaces without a process are joined by a child to
    read their mounts, setns(2).

    A process that does not let itself be read is left out after some seconds, and is one of the hidden. turns: knows
    of such ones; the caller's, to read on with it. What waited for it is a thread of the caller, until the process goes
    on or the caller ends.

    Not found: what only the kernel holds: an fd in flight (unix(7)) or of io_uring, a detached mount of a namespace's
    file, the pid, ipc or network namespace of a mounted proc, mqueue or sysfs, a pid namespace for children that has no
    init yet (its link is missing then); fds of a thread with a table of its own (CLONE_FILES); mounts outside the roots
    of all processes of a mount namespace, of which it may have ROOTS, else a note says so. Of what keeps one namespace
    in one way the first PINS of a process are told, and how many more there are.
    """
    reader = _Reader(turns or Turns())
    reader.turns.run(reader.read)
    return reader.found[-1]


def held_in_words(turns: Turns) -> tuple[str, ...]:
    """Return the note on processes that do not let themselves be read, none if there are none."""
    if not turns.held:
        return ()
    several = len(turns.held) > 1
    what = f"{len(turns.held)} processes do not let themselves" if several else "1 process does not let itself"
    numbers = ", ".join(map(str, (*turns.held,)[:TOLD])) + (", …" if len(turns.held) > TOLD else "")
    return (f"{what} be read, not at all or not to the end: {numbers}; the first: {CAUSE}; {REMEDY}",)


class _Entry:
    # A namespace while it is looked for.
    __slots__ = ("asked", "id", "inode", "name", "owner", "owner_uid", "parent", "pids", "pins", "type", "unread")

    def __init__(self, name: str) -> None:
        self.name = name
        self.type, _, rest = name.partition(":[")
        self.inode = int(rest[:-1])
        self.pids: list[int] = []
        self.pins: list[Pin] = []
        self.parent = self.owner = ""
        self.id: int | None = None
        self.owner_uid: int | None = None
        self.unread: dict[str, str] = {}
        self.asked = False

    def pinned(self, how: str) -> list[Pin]:
        return [pin for pin in self.pins if pin.how == how]


class _Held:
    # What keeps one namespace in one way: the first of them, and how many there are.
    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.first: list[Pin] = []
        self.count = 0

    def add(self, pin: Pin) -> None:
        self.count += 1
        if len(self.first) < PINS:
            self.first.append(pin)

    def of(self, pid: int, tid: int) -> _Held:
        """Return the same, of another process."""
        held = _Held()
        held.first = [pin.replace(pid=pid, tid=tid) for pin in self.first]
        held.count = self.count
        return held

    def pins(self) -> list[Pin]:
        more = self.count - len(self.first)
        return [*self.first[:-1], self.first[-1].replace(more=more)] if more else self.first


class _Table:
    # Open files of a process, which others may share.
    __slots__ = ("found", "pid", "tid")

    def __init__(self, pid: int, tid: int, found: dict[tuple[str, str], _Held]) -> None:
        self.pid = pid
        self.tid = tid
        self.found = found


class _Seen:
    # A process as it was read. links: the targets of _Reader.files, "" for none.
    __slots__ = ("comm", "links", "pid", "ppid", "start", "state", "threads")

    def __init__(self, pid: int, links: tuple[str, ...], stat: bytes) -> None:
        # The name may be anything, also ") R 1". proc_pid_stat(5): the third field comes behind it.
        name, _, rest = stat.rpartition(b") ")
        words = rest.split(b" ", 20)
        self.pid = pid
        self.links = links
        self.comm = os.fsdecode(name[name.index(b"(") + 1 :])
        self.state = words[0].decode()
        self.ppid = int(words[1])
        self.threads = int(words[17])
        self.start = int(words[19])


class _Reader:
    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.own, self.same_pids = _own_pid()
        self.entries: dict[str, _Entry] = {}  # by name
        self.new: list[_Entry] = []  # not asked yet
        self.asking: _Entry | None = None
        # What is still to be read: each goes on where it was, should a process not let itself be read.
        self.parts = [self.result, self.relate, self.read_mounts, self.list_mounts, self.place, self.read_processes]
        self.waiting = all_pids()[::-1]
        self.mounts: list[tuple[_Entry, list[tuple[int, int]]]] = []
        self.found: list[Census] = []
        self.seen: dict[int, _Seen] = {}
        self.sets: dict[tuple[str, ...], list[int]] = {}  # processes by their links: few sets, however many processes
        self.hidden: list[int] = []
        self.sockets: dict[str, str] = {}  # "socket:[1]" to the name of its network namespace, "" if that is not told
        self.unlisted = 0  # processes whose fds may not be listed
        self.shut: list[str] = []  # mount namespaces that were not joined
        self.rootless: dict[str, int] = {}  # mount namespaces to how many processes were not asked for mounts
        self.tables: list[_Table] = []  # large ones, in the order of kcmp(2)
        self.commands: dict[int, tuple[tuple[str, ...], int | None]] = {}
        there = set(os.listdir("/proc/self/ns"))
        self.files = tuple(f"ns/{name}" for name in (*_OWN, *_CHILDREN) if name in there)
        self.types = tuple(name for name in _OWN if name in there)  # of the first files
        self.net, self.mnt = self.types.index("net"), self.types.index("mnt")
        self.of_thread = tuple(n for n, file in enumerate(self.files) if file not in _OF_PROCESS)
        self.own_mnt = os.stat("/proc/self/ns/mnt").st_ino

    def entry(self, name: str) -> _Entry:
        found = self.entries.get(name)
        if found is None:
            self.turns.go_on()
            found = self.entries[name] = _Entry(name)
            self.new.append(found)
        return found

    def pin(self, name: str, pin: Pin) -> None:
        self.turns.go_on()
        self.entry(name).pins.append(pin)

    def read(self) -> None:
        while self.parts:
            self.parts[-1]()
            self.turns.go_on()
            self.parts.pop()

    # ---- processes, their threads and fds ----

    def read_processes(self) -> None:
        while self.waiting:
            self.turns.go_on()
            pid = self.waiting.pop()
            if not self.turns.may(pid):
                continue
            try:
                with Proc(pid) as proc:
                    self.read_process(proc)
            except (ProcessGone, FileNotFoundError, ProcessLookupError):  # has ended, or is just ending
                continue
            except PermissionError:
                self.turns.go_on()
                self.hidden.append(pid)

    def place(self) -> None:
        """Put the processes that were read into their namespaces."""
        for links, pids in self.sets.items():
            own = links[: len(self.types)]
            for name in filter(None, own):
                self.entry(name).pids += pids
            for name in links[len(self.types) :]:
                if name and name not in own:
                    self.entry(name).pins += [Pin("for_children", pid) for pid in pids]

    def read_process(self, proc: Proc) -> None:
        links = self.links(proc, self.files)
        seen = _Seen(proc.pid, links, proc.bytes("stat"))
        net, tid = links[self.net], 0
        if seen.threads > 1:
            alive = self.read_threads(proc, links)
            if not net and alive:  # the main thread has ended before the others, which keep the fds
                net, tid = _link(proc, f"task/{alive}/ns/net"), alive
        if net:
            self.read_fds(proc, tid, net)
        self.turns.go_on()
        self.seen[proc.pid] = seen
        self.sets.setdefault(links, []).append(proc.pid)

    def links(self, proc: Proc, files: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple([os.readlink(file, dir_fd=proc.fd) for file in files])
        except (FileNotFoundError, ProcessLookupError):
            # A zombie has few of them, a thread that has ended none; pid_for_children waits for the namespace's init.
            return tuple([_link(proc, file) for file in files])

    def read_threads(self, proc: Proc, main: tuple[str, ...]) -> int:
        """Pin what the other threads are in; return one of them that lives, 0 for none."""
        files = [self.files[n] for n in self.of_thread]
        usual = tuple([main[n] for n in self.of_thread])
        alive = 0
        for task in proc.list("task"):
            if task == str(proc.pid):
                continue
            links = self.links(proc, tuple([f"task/{task}/{file}" for file in files]))
            if links[0]:
                alive = int(task)
            if links != usual:
                for file, name, other in zip(files, links, usual):
                    if name and name != other:
                        how = "for_children" if file.endswith("_for_children") else "thread"
                        self.pin(name, Pin(how, proc.pid, int(task)))
        return alive

    def read_fds(self, proc: Proc, tid: int, net: str) -> None:
        try:
            directory = proc.open(f"task/{tid}/fd" if tid else "fd", os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            self.unlisted += 1
            return
        with Fd(directory):
            try:
                numbers = os.listdir(directory)
            except (FileNotFoundError, ProcessLookupError):  # ended meanwhile; what was reaped is gone
                proc.check()
                return
            table = None
            if len(numbers) > LARGE and self.same_pids:
                table, place = self.table_of(proc.pid, tid)
            if table:
                found = table.found
            else:
                found = self.read_table(proc, tid, directory, numbers)
                if len(numbers) > LARGE and self.same_pids:
                    self.turns.go_on()
                    self.tables.insert(place, _Table(proc.pid, tid, found))
        for (how, name), held in found.items():
            if how == "fd" or name != net:
                own = held if not table else held.of(proc.pid, tid)
                self.turns.go_on()
                self.entry(name).pins += own.pins()

    def table_of(self, pid: int, tid: int) -> tuple[_Table | None, int]:
        """Return what was read of the table of open files that the process shares with another, clone(2).

        And where it is, or would be, among the tables.
        """
        from nstool import syscalls

        low, high = 0, len(self.tables)
        while low < high:
            middle = (low + high) // 2
            table = self.tables[middle]
            order = -1
            if self.turns.may(pid, table.pid):
                with suppress(KernelError):  # one has ended; you may not look into one; a kernel without kcmp
                    order = syscalls.kcmp(tid or pid, table.tid or table.pid, uapi.KCMP_FILES)
            self.turns.go_on()
            if order < 0:
                del self.tables[middle]
                high -= 1
                continue
            if order == 0:
                return table, middle
            low, high = (low, middle) if order == 1 else (middle + 1, high)
        return None, low

    def read_table(self, proc: Proc, tid: int, directory: int, numbers: list[str]) -> dict[tuple[str, str], _Held]:
        found: dict[tuple[str, str], _Held] = {}
        sockets = []
        for number in numbers:
            try:
                target = os.readlink(number, dir_fd=directory)
            except (FileNotFoundError, ProcessLookupError):  # closed meanwhile
                continue
            except OSError as error:
                if error.errno != ENAMETOOLONG:  # the path of a file in directories that are more than a page deep
                    raise
                continue
            what, bracket, _ = target.partition(":[")
            if not bracket:
                continue
            if what == "socket":
                sockets.append((int(number), target))
            elif what in kinds.KINDS:
                _hold(found, "fd", target, Pin("fd", proc.pid, tid, int(number)))
        if sockets and self.same_pids:
            self.read_sockets(proc, tid, sockets, found)
        return found

    def read_sockets(
        self, proc: Proc, tid: int, sockets: list[tuple[int, str]], found: dict[tuple[str, str], _Held]
    ) -> None:
        pidfd = -1
        try:
            for number, target in sockets:
                if target not in self.sockets:
                    if pidfd < 0:
                        pidfd = _pidfd(proc, tid)
                    told = self.network(pidfd, number, target)
                    if told is None and pidfd >= 0:
                        continue
                    self.turns.go_on()
                    self.sockets[target] = told or ""
                if name := self.sockets[target]:
                    _hold(found, "socket", name, Pin("socket", proc.pid, tid, number))
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def network(self, pidfd: int, number: int, target: str) -> str | None:
        """Return the network namespace of a socket of another process, "" where that is refused.

        None where the process has it no more: closed, ended, or the number is another file's by now.
        """
        from nstool import syscalls

        try:
            with Fd(syscalls.pidfd_getfd(pidfd, number)) as socket:
                if os.readlink(f"/proc/self/fd/{socket}") != target:
                    return None
                fd = fcntl.ioctl(socket, uapi.SIOCGSKNS)
        except OSError as error:
            if error.errno in (EBADF, ESRCH):
                return None
            if error.errno in (EPERM, EACCES):  # by ptrace(2); by a security module
                return ""
            raise
        with Fd(fd):
            entry = self.entry(f"net:[{os.fstat(fd).st_ino}]")
            self.ask(entry, fd)
        return entry.name

    # ---- bind mounts ----

    def list_mounts(self) -> None:
        """Find the processes and threads of which mounts are to be read."""
        tasks: dict[str, list[tuple[int, int]]] = {}
        for links, pids in self.sets.items():
            if name := links[self.mnt]:  # a zombie has none
                found = tasks.setdefault(name, [])
                found += [(pid, 0) for pid in pids]
                if self.own in pids:  # paths are told best from the reader's root
                    found.insert(0, (self.own, 0))
        for name, entry in self.entries.items():
            if entry.type == "mnt" and not entry.pids:
                tasks[name] = [(pin.pid, pin.tid) for pin in entry.pinned("thread")]
        self.mounts = [(self.entries[name], found) for name, found in tasks.items()][::-1]

    def read_mounts(self) -> None:
        """Pin what is bound in the mount namespaces of processes and threads."""
        while self.mounts:
            self.read_mounts_of(*self.mounts[-1])
            self.mounts.pop()

    def read_mounts_of(self, entry: _Entry, tasks: list[tuple[int, int]]) -> None:
        # Whose root is the namespace's own sees all; without one, each other root shows what is below it. Who is in it
        # chooses how many roots there are, and how many mounts.
        views: dict[str, tuple[int, int, list[Mount]]] = {}
        others = 0
        for pid, tid in tasks:
            if not self.turns.may(pid):
                continue
            try:
                with Proc(pid, tid) as proc:
                    root = proc.root()
                    if root in views:
                        continue
                    if len(views) == ROOTS and root != "/":
                        others += 1
                        continue
                    mounts = _bound(proc)
                    if proc.inode("mnt") != entry.inode:  # has moved meanwhile
                        continue
            except ProcessGone:
                continue
            except OSError as error:
                if error.errno in (ENOENT, ESRCH, EINVAL, EACCES):  # a zombie by now, or has other credentials by now
                    continue
                raise
            view = (0 if pid == self.own else pid, tid, mounts)
            if root == "/":
                views, others = {root: view}, 0
                break
            views[root] = view
        found: dict[tuple[str, str], _Held] = {}
        known: set[int] = set()
        for pid, tid, mounts in views.values():
            for mount in mounts:
                if mount.id not in known:
                    known.add(mount.id)
                    _hold(found, "mount", mount.root, Pin("mount", pid, tid, path=mount.target, mnt=entry.inode))
        self.turns.go_on()
        if others:
            self.rootless[entry.name] = others
        for (_, name), held in found.items():
            self.entry(name).pins += held.pins()

    def visit(self, entry: _Entry, fd: int, depth: int) -> None:
        """Pin what is bound in a mount namespace in which no process is."""
        if depth == DEEPEST:
            self.shut.append(entry.name)
            return
        with nsfs.Visitor(fd) as pid:
            if not pid:
                self.shut.append(entry.name)
                return
            try:
                with Proc(pid) as proc:
                    mounts = _bound(proc)
            except (ProcessGone, PermissionError):  # hidepid hides what cannot be dumped, too
                self.shut.append(entry.name)
                return
            held: dict[tuple[str, str], _Held] = {}
            for mount in mounts:
                _hold(held, "mount", mount.root, Pin("mount", path=mount.target, mnt=entry.inode))
            for (_, name), places in held.items():
                self.turns.go_on()
                found = self.entry(name)
                found.pins += places.pins()
                for place in places.first:
                    if not found.asked:
                        inner = nsfs.open_bound(f"/proc/{pid}/root", place.path, found.inode)
                        if inner >= 0:
                            with Fd(inner):
                                self.ask(found, inner, depth + 1)

    # ---- what the namespaces themselves tell ----

    def relate(self) -> None:
        """Ask every namespace for its owner and parent; those that nothing else tells of are found by this."""
        if self.asking:  # by a way that leads over a process that is held
            self.new.append(self.asking)
        while self.new:
            self.turns.go_on()
            entry = self.asking = self.new.pop()
            fd = -1 if entry.asked else next(self.ways(entry), -1)
            if fd >= 0:
                with Fd(fd):
                    self.ask(entry, fd)
        self.asking = None

    def ways(self, entry: _Entry) -> Iterator[int]:
        """Yield an fd of a namespace, the caller's, for each way to it that still leads there."""
        for path in self.links_to(entry):
            try:
                fd = nsfs.open_link(path, entry.inode)
            except OSError as error:
                if error.errno in (ENOENT, ESRCH, EACCES):  # ended, or has other credentials by now
                    continue
                raise
            if fd >= 0:
                yield fd
        for pin in entry.pinned("mount"):
            if (pin.pid or pin.mnt == self.own_mnt) and self.turns.may(pin.pid):
                fd = nsfs.open_bound(f"{_task(pin)}/root", pin.path, entry.inode)
                if fd >= 0:
                    yield fd

    def links_to(self, entry: _Entry) -> Iterator[str]:
        for pid in entry.pids:
            if self.turns.may(pid):
                yield f"/proc/{pid}/ns/{entry.type}"
        files = {"thread": f"ns/{entry.type}", "for_children": f"ns/{entry.type}_for_children", "fd": "fd"}
        for pin in entry.pins:
            if pin.how in files and self.turns.may(pin.pid):
                yield f"{_task(pin)}/{files[pin.how]}" + (f"/{pin.fd}" if pin.fd >= 0 else "")

    def ask(self, entry: _Entry, fd: int, depth: int = 0) -> None:
        """Ask a namespace by an fd, which stays open, and those that it names."""
        self.turns.go_on()
        if entry.asked:
            return
        entry.asked = True
        entry.id = nsfs.unique_id(fd)
        if entry.type in ("user", "pid"):
            entry.parent = self.kin(nsfs.parent(fd), entry.type)
            if not entry.parent and entry.name not in (kinds.INITIAL_USERNS, INITIAL_PIDNS):
                entry.unread["parent"] = _ABOVE
        if entry.type == "user":
            entry.owner_uid = nsfs.owner_uid(fd)
        else:
            entry.owner = self.kin(nsfs.owner(fd), "user")
            if not entry.owner:
                entry.unread["owner"] = entry.unread["owner_uid"] = _OUTSIDE
        if entry.type == "mnt" and not entry.pids and not entry.pinned("thread"):
            self.visit(entry, fd, depth)

    def kin(self, fd: int, kind: str) -> str:
        if fd < 0:
            return ""
        with Fd(fd):
            entry = self.entry(f"{kind}:[{os.fstat(fd).st_ino}]")
            self.ask(entry, fd)
        return entry.name

    # ---- the result ----

    def result(self) -> None:
        # A bind mount keeps what it binds, though no fd may be had of it; all else that could not be asked has gone.
        found = []
        kept: dict[str, list[Pin]] = {}
        for entry in self.entries.values():
            if not entry.asked and entry.pinned("mount"):
                entry.unread = dict.fromkeys(("id", "parent", "owner", "owner_uid"), _NO_FD)
            elif not entry.asked:
                continue
            found.append(entry)
            if entry.owner:
                kept.setdefault(entry.owner, []).append(Pin("owned", namespace=entry.name))
            if entry.parent:
                kept.setdefault(entry.parent, []).append(Pin("child", namespace=entry.name))
        order = {kind: number for number, kind in enumerate(kinds.KINDS)}
        found.sort(key=lambda entry: (order[entry.type], entry.inode))
        # Here a process may not let itself be read, too.
        namespaces = tuple([self.namespace(entry, kept.get(entry.name, ())) for entry in found])
        notes = tuple(self.notes())
        hidden = tuple(sorted({*self.hidden, *self.turns.held}))
        self.turns.go_on()
        self.found.append(Census(namespaces, self.processes(), hidden, notes))

    def namespace(self, entry: _Entry, kept: Sequence[Pin]) -> Namespace:
        pids = tuple(sorted(entry.pids))
        unread = entry.unread
        oldest, comm = 0, ""
        command: tuple[str, ...] = ()
        uid: int | None = None
        if pids:
            first = min([self.seen[pid] for pid in pids], key=_age)
            oldest, comm = first.pid, first.comm
            command, uid = self.command(first)
            if uid is None:
                why = _HELD if first.pid in self.turns.held else _ENDED
                unread = unread | {"command": why, "uid": why}
        owner = self.entries[entry.owner] if entry.owner else None
        parent = self.entries[entry.parent].inode if entry.parent else None
        return Namespace(
            type=entry.type,
            inode=entry.inode,
            id=entry.id,
            pids=pids,
            oldest=oldest,
            comm=comm,
            command=command,
            uid=uid,
            parent=parent,
            owner=owner.inode if owner else parent if entry.type == "user" else None,
            owner_uid=owner.owner_uid if owner else entry.owner_uid,
            pins=(*entry.pins, *kept),
            unread=unread,
        )

    def command(self, seen: _Seen) -> tuple[tuple[str, ...], int | None]:
        """Return the command line and the effective user id of a process; None for that if it has ended."""
        found = self.commands.get(seen.pid)
        if found is None and not self.turns.may(seen.pid):
            return (), None
        if found is None:
            try:
                with Proc(seen.pid) as proc:
                    found = proc.command(), int(proc.status()["Uid"].split()[1])
                    if _Seen(seen.pid, (), proc.bytes("stat")).start != seen.start:  # a later one with its pid
                        found = (), None
            except ProcessGone:
                found = (), None
            self.commands[seen.pid] = found
        return found

    def processes(self) -> tuple[Process, ...]:
        tables: dict[tuple[str, ...], dict[str, int]] = {}  # shared by the processes of a set
        for links in self.sets:
            tables[links] = {kind: self.entries[name].inode for kind, name in zip(self.types, links) if name}
        return tuple(
            [
                Process(seen.pid, seen.ppid, seen.comm, seen.state, seen.threads, seen.start, tables[seen.links])
                for seen in self.seen.values()
            ]
        )

    def notes(self) -> Iterator[str]:
        if self.hidden:
            yield (
                f"{len(self.hidden)} of {len(self.hidden) + len(self.seen)} processes could not be looked into, and"
                f" are left out; {self.why()}"
            )
        yield from held_in_words(self.turns)
        if self.unlisted:
            whose = plural(self.unlisted, "process")
            yield f"the fds of {whose} may not be listed; run with CAP_DAC_READ_SEARCH, as root does"
        if refused := sum(not name for name in self.sockets.values()):
            yield (
                f"{refused} of {len(self.sockets)} sockets did not tell their network namespace; run with"
                " CAP_SYS_PTRACE, and with CAP_NET_ADMIN over the user namespaces that own the networks"
            )
        if self.shut:
            yield (
                f"what is bound in mount namespaces without a process is not known of {', '.join(self.shut)}; run with"
                " CAP_SYS_ADMIN and CAP_SYS_CHROOT"
            )
        for name, processes in self.rootless.items():
            yield (
                f"what is bound in {name} is told as {ROOTS} of its processes see it; {processes} have other roots than"
                " those"
            )
        if not self.same_pids:
            yield "/proc is of a pid namespace above yours: sockets are not asked for their network; look from there"
        elif os.readlink("/proc/self/ns/pid") != INITIAL_PIDNS:
            yield "processes outside your pid namespace are not seen; look from the host"
        if _hides_processes():
            yield "/proc is mounted with hidepid=: processes of others may not even be listed; run with CAP_SYS_PTRACE"

    def why(self) -> str:
        from nstool.sandbox.facts import why_hidden

        for pid in self.hidden:
            if not self.turns.may(pid):
                continue
            try:
                cause, remedy = why_hidden(pid)
            except SandboxGone:  # ended meanwhile
                continue
            return f"{pid}: {cause}; {remedy}"
        return "they have ended meanwhile, or do not let themselves be read"


def _own_pid() -> tuple[int, bool]:
    """Return the number that /proc has for the reader, and whether all its numbers are those that the reader uses.

    They are not where /proc was mounted in a pid namespace above. pid_namespaces(7), "/proc and PID namespaces".
    """
    try:
        with open("/proc/self/status") as file:
            numbers = next(line.split()[1:] for line in file if line.startswith("NSpid:"))
    except FileNotFoundError:
        raise NotSupported(
            "looking at processes",
            "/proc is not mounted, or is of a pid namespace that you are not in",
            "mount one: mount -t proc proc /proc",
        ) from None
    return int(numbers[0]), len(numbers) == 1


def _link(proc: Proc, file: str) -> str:
    try:
        return proc.link(file)
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _pidfd(proc: Proc, tid: int) -> int:
    # -1 where this kernel has none of a thread. The pid may be another's by now: then the directory is dead.
    try:
        pidfd = _thread(tid) if tid else os.pidfd_open(proc.pid)
    except ProcessLookupError:
        proc.check()
        raise
    try:
        proc.check()
    except ProcessGone:
        if pidfd >= 0:
            os.close(pidfd)
        raise
    return pidfd


def _thread(tid: int) -> int:
    # Of a process whose main thread has ended another has the fds.
    try:
        return os.pidfd_open(tid, uapi.PIDFD_THREAD)
    except OSError as error:
        if error.errno != EINVAL:  # before Linux 6.9; there no socket of it tells
            raise
        return -1


def _hold(found: dict[tuple[str, str], _Held], how: str, name: str, pin: Pin) -> None:
    held = found.get((how, name))
    if held is None:
        held = found[how, name] = _Held()
    held.add(pin)


def _bound(proc: Proc) -> list[Mount]:
    # Bind mounts of namespace files: their root is the name, "net:[4026531840]". proc_pid_mountinfo(5)
    lines = [line for line in proc.lines("mountinfo") if b" - nsfs " in line]
    if not lines:
        return []
    from nstool.sandbox.mountinfo import read_mounts

    return list(read_mounts(os.fsdecode(b"".join(lines))))


def _task(pin: Pin) -> str:
    return f"/proc/{pin.pid}/task/{pin.tid}" if pin.tid else f"/proc/{pin.pid or 'self'}"


def _age(seen: _Seen) -> tuple[int, int]:
    return seen.start, seen.pid


def _hides_processes() -> bool:
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if effective >> uapi.CAP_SYS_PTRACE & 1:
        return False
    with open("/proc/self/mountinfo") as file:
        return any(" /proc " in line and "hidepid=" in line for line in file)
