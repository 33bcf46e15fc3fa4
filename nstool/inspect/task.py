"""A process whole: kin, state, signals, scheduling, limits and their use, open files, what confines it. proc(5).

What isolates it is sandbox.facts, read below the same directory. Not told by any kernel: which ancestor is a child
subreaper (prctl(2) tells a process its own attribute only), RLIMIT_MSGQUEUE's use, what its seccomp filters let pass.
"""

from __future__ import annotations

import os

from nstool import kinds, uapi
from nstool.errors import SandboxGone
from nstool.frozen import Frozen
from nstool.inspect import fds, nsfile
from nstool.inspect.dumpable import is_dumpable
from nstool.inspect.fds import Fd, Holder
from nstool.inspect.nsfile import why_hidden
from nstool.inspect.proc import Proc, ProcessGone, Stat, processes, real_name, state_text
from nstool.sandbox import inside
from nstool.sandbox.facts import CapabilitySet, Facts, facts
from nstool.security import capabilities, signals
from nstool.security.credentials import Ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from nstool.inspect.sockets import Socket

    T = TypeVar("T")

_PF_KTHREAD = 0x200000  # linux/sched.h, in the flags of proc_pid_stat(5)
_ENDED = tuple(state_text(state) for state in "ZXx")
_POLICIES = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline", 7: "ext"}  # sched(7)
_IO_CLASSES = {0: "none", 1: "realtime", 2: "best effort", 3: "idle"}  # ioprio_set(2)
_KIB = {"memlock": "VmLck", "as": "VmSize", "data": "VmData", "stack": "VmStk", "rss": "VmRSS"}  # lines of status
_NOT_COUNTED = {
    "msgqueue": "the kernel tells nobody",
    "locks": "not enforced since Linux 2.4.25",
    "fsize": "a limit of each file",
    "core": "a limit of each core dump",
    "rttime": "a limit of each stretch on the processor",
    "nice": "a limit, 20 - nice",
    "rtprio": "a limit",
}


class Relative(Frozen):
    """Another process. below: the number of its descendants."""

    pid: int
    comm: str
    state: str
    below: int = 0


class Orphans(Frozen):
    """Who gets the children of a process when it ends. PR_SET_CHILD_SUBREAPER(2const).

    to: who gets them for certain, or if none of ``first`` is a child subreaper; None: nobody, as they are killed.
    first: ancestors that come before, nearest first, of which that is not known. text: the same in words.
    """

    to: int | None
    first: tuple[int, ...]
    text: str


class Kin(Frozen):
    """Relations. ancestors: parent first, as far as the reader's pid namespace goes. children: of all its threads.

    group, session: pids of the leaders, 0 for one that is not visible. terminal: name, or "". tracer: who ptraces it.
    """

    ancestors: tuple[Relative, ...]
    children: tuple[Relative, ...]
    group: int
    session: int
    terminal: str
    tracer: Relative | None
    orphans: Orphans


class Thread(Frozen):
    """A thread. wchan: function of the kernel in which it sleeps, or "". call: system call that it is in, or "".

    pending, blocked: names of signals. policy, nice, rt_priority: sched(7). processor: where it ran last.
    namespaces (inode by kind), uids, gids, groups, capabilities (by set): only those that are others than the main
    thread's, for what they are of is each thread, and not the process.
    """

    tid: int
    comm: str
    state: str
    wchan: str
    call: str
    policy: str
    nice: int
    rt_priority: int
    processor: int
    affinity: str
    pending: tuple[str, ...]
    blocked: tuple[str, ...]
    namespaces: dict[str, int]
    uids: Ids | None
    gids: Ids | None
    groups: tuple[int, ...] | None
    capabilities: dict[str, CapabilitySet]


class Signals(Frozen):
    """Names of signals: waiting for the whole process, ignored, caught. queued of at most queue_limit of its user."""

    pending: tuple[str, ...]
    ignored: tuple[str, ...]
    caught: tuple[str, ...]
    queued: int
    queue_limit: int


class Scheduling(Frozen):
    """Of the main thread, sched(7). autogroup: (name, nice). weights: cgroup files. io: ioprio_set(2)."""

    policy: str
    nice: int
    rt_priority: int
    affinity: str
    autogroup: tuple[str, int] | None
    weights: dict[str, str]
    io: str | None
    user_seconds: float
    system_seconds: float


class Limit(Frozen):
    """A resource limit, -1 for unlimited, in the units of getrlimit(2). used: None where not known, and note why."""

    name: str
    soft: int
    hard: int
    used: int | None
    note: str = ""


class Card(Frozen):
    """A process whole, or one of its threads with what is the process's.

    tid: of the thread, or pid. What belongs to a thread is that thread's: name, state, ids, capabilities, namespaces,
    scheduling, and what may be its own, as directories and files.
    ended: of a zombie: how it ended, and who is to wait for it; else "". exit_status: the same as wait(2) gives it,
    None where not known. started: seconds since 1970. exe, cwd, root: as readlink(2) has them, None where they may not
    be read. shared: by kind of namespace, with whom of "parent", "init" (process 1), "you", and of a thread "process"
    (its main thread) it is shared.
    dumpable: "yes", "no", "unknown", and why. fds: None where they may not be read; hidden: processes whose files
    the reader may not see, who may be other ends. environment: None unless asked for. unread: why, by name.
    """

    pid: int
    tid: int
    comm: str
    command: tuple[str, ...]
    state: str
    ended: str
    exit_status: int | None
    kernel_thread: bool
    started: float
    exe: str | None
    cwd: str | None
    root: str | None
    kin: Kin
    threads: tuple[Thread, ...]
    signals: Signals
    scheduling: Scheduling
    limits: tuple[Limit, ...]
    fds: tuple[Fd, ...] | None
    hidden: int
    facts: Facts
    shared: dict[str, tuple[str, ...]]
    dumpable: tuple[str, str]
    environment: tuple[str, ...] | None
    unread: dict[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether it is there only to be waited for."""
        return self.exit_status is not None or "exit status" in self.unread


class _Row(Frozen):
    # What one pass over all processes notes of each.
    pid: int
    comm: str
    ppid: int
    state: str
    uid: str  # real
    threads: int
    levels: int  # pid namespaces it has a number in
    innermost: int  # its number in the last of them


def card(pid: int, *, environment: bool = False) -> Card:
    """Read a process whole, or a thread by its tid. environment: its environment too. Raises ProcessGone, Hidden."""
    with Proc(pid) as proc:
        reader = _Reader(proc)
        found = reader.card(environment)
        proc.check()
        return found


class _Reader:
    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self.status = proc.status()
        self.stat = proc.stat()
        self.pid, self.tid = int(self.status["Tgid"]), proc.tid
        self.main = self.status  # of the main thread
        if self.tid != self.pid:
            with Proc(self.pid) as process, Proc(self.pid, self.tid) as thread:
                self.main = process.status()
                self.stat = thread.stat()  # that of /proc/TID counts for the process
        self.unread: dict[str, str] = {}
        self.rows = _census()
        self.kernel_thread = bool(self.stat.flags & _PF_KTHREAD)
        self.threads = self.read_threads()
        # Of a process whose main thread has ended, the others live on.
        living = self.tid == self.pid and any(one.state not in _ENDED for one in self.threads)
        self.has_ended = self.stat.state in "ZX" and not living

    def card(self, environment: bool) -> Card:
        known = facts(self.tid, directory=self.proc.fd)
        opened, hidden = self.fds()
        exit_status = self.exit_status()
        return Card(
            pid=self.pid,
            tid=self.tid,
            comm=self.stat.comm,
            command=self.proc.command(),
            state=self.stat.state_text,
            ended=self.how_it_ended(exit_status),
            exit_status=exit_status,
            kernel_thread=self.kernel_thread,
            started=_boot_time() + self.stat.starttime / os.sysconf("SC_CLK_TCK"),
            exe=self.try_to("exe", lambda: self.proc.link("exe")),
            cwd=self.try_to("cwd", lambda: self.proc.link("cwd")),
            root=self.try_to("root", lambda: self.proc.link("root")),
            kin=self.kin(),
            threads=self.threads,
            signals=self.signals(),
            scheduling=self.scheduling(known),
            limits=self.limits(known, opened),
            fds=opened,
            hidden=hidden,
            facts=known,
            shared=self.shared(known),
            dumpable=self.dumpable(known),
            environment=self.environment() if environment else None,
            unread=self.unread,
        )

    def try_to(self, name: str, get: Callable[[], T]) -> T | None:
        # What may not be read is missing with its reason; that the process has ended is an error.
        try:
            return get()
        except PermissionError:
            cause, remedy = why_hidden(self.tid)
            self.unread[name] = f"{cause}; {remedy}"
        except (FileNotFoundError, ProcessLookupError):
            self.unread[name] = "a thread of the kernel has none" if self.kernel_thread else "it has ended"
        except OSError as error:
            self.unread[name] = str(error.strerror)
        return None

    # ---- the end ----

    def exit_status(self) -> int | None:
        if not self.has_ended:
            return None
        try:
            self.proc.link("ns/user")  # of the same right as the number, which is 0 without it
        except PermissionError:
            cause, remedy = why_hidden(self.tid)
            self.unread["exit status"] = f"{cause}; {remedy}"
            return None
        except FileNotFoundError:
            return None
        return self.stat.exit_code

    def how_it_ended(self, exit_status: int | None) -> str:
        if self.stat.state not in "ZX":
            return ""
        if not self.has_ended:
            return "its main thread has ended, others have not"
        how = "how it ended is unknown" if exit_status is None else end_words(exit_status)
        parent = self.rows.get(int(self.status["PPid"]))
        who = f", process {parent.pid} ({parent.comm})," if parent else ""
        return f"{how}; its parent{who} has not waited for it yet"

    # ---- kin ----

    def kin(self) -> Kin:
        children: dict[int, list[_Row]] = {}
        for row in self.rows.values():
            children.setdefault(row.ppid, []).append(row)
        tracer = int(self.status["TracerPid"])
        return Kin(
            ancestors=tuple(_relative(row) for row in self.ancestors()),
            children=tuple(_relative(row, _below(row.pid, children)) for row in children.get(self.pid, ())),
            group=self.stat.pgrp,
            session=self.stat.session,
            terminal=self.terminal(),
            tracer=self.relative(tracer) if tracer else None,
            orphans=self.orphans(),
        )

    def orphans(self) -> Orphans:
        if self.kernel_thread:
            return Orphans(None, (), "none: a thread of the kernel")
        if self.has_ended:
            return Orphans(None, (), "none: it has ended, and its children have gone to others")
        return orphans(self.own_row(), self.ancestors())

    def own_row(self) -> _Row:
        return _row(self.pid, self.main)

    def ancestors(self) -> list[_Row]:
        found = []
        pid = int(self.status["PPid"])
        while (row := self.rows.get(pid)) is not None and row not in found:
            found.append(row)
            pid = row.ppid
        return found

    def relative(self, pid: int) -> Relative:
        row = self.rows.get(pid)
        return _relative(row) if row else Relative(pid, "", "ended meanwhile")

    def terminal(self) -> str:
        if not self.stat.tty:
            return ""
        import psutil

        try:
            name = psutil.Process(self.pid).terminal()
        except psutil.Error:
            name = None
        return name or f"device {os.major(self.stat.tty)}:{os.minor(self.stat.tty)}"

    # ---- threads and signals ----

    def read_threads(self) -> tuple[Thread, ...]:
        with Proc(self.pid) as main:
            self.main_namespaces = _inodes(main)
        found = []
        for tid in sorted(map(int, self.proc.list("task"))):
            try:
                with Proc(self.pid, tid) as thread:
                    found.append(self.thread(thread))
                    thread.check()
            except ProcessGone:
                continue
        return tuple(found)

    def thread(self, thread: Proc) -> Thread:
        stat, status = thread.stat(), thread.status()
        wchan = self.try_to("wchan", lambda: thread.read("wchan")) or ""
        return Thread(
            tid=thread.tid,
            comm=stat.comm,
            state=stat.state_text,
            wchan="" if wchan == "0" else wchan,
            call="" if self.kernel_thread else self.call(thread),
            policy=_policy(stat),
            nice=stat.nice,
            rt_priority=stat.rt_priority,
            processor=stat.processor,
            affinity=status["Cpus_allowed_list"],
            pending=signals.names(int(status["SigPnd"], 16)),
            blocked=signals.names(int(status["SigBlk"], 16)),
            **self.own_of_thread(thread, status),
        )

    def own_of_thread(self, thread: Proc, status: dict[str, str]) -> dict[str, Any]:
        # What it has otherwise than the main thread.
        def other(key: str) -> bool:
            return status[key] != self.main[key]

        main = self.main_namespaces
        inodes = _inodes(thread) if thread.tid != self.pid and main else {}
        sets = {name: int(status[key], 16) for name, key in capabilities.SETS.items() if other(key)}
        return {
            "namespaces": {kind: inode for kind, inode in inodes.items() if main.get(kind) != inode},
            "uids": Ids(*map(int, status["Uid"].split())) if other("Uid") else None,
            "gids": Ids(*map(int, status["Gid"].split())) if other("Gid") else None,
            "groups": tuple(map(int, status["Groups"].split())) if other("Groups") else None,
            "capabilities": {name: CapabilitySet(mask, capabilities.names(mask)) for name, mask in sets.items()},
        }

    def call(self, thread: Proc) -> str:
        return self.try_to("system calls", lambda: call_words(thread.read("syscall"))) or ""

    def signals(self) -> Signals:
        queued, limit = map(int, self.status["SigQ"].split("/"))
        pending, ignored, caught = (signals.names(int(self.status[key], 16)) for key in ("ShdPnd", "SigIgn", "SigCgt"))
        return Signals(pending, ignored, caught, queued, limit)

    # ---- scheduling and limits ----

    def scheduling(self, known: Facts) -> Scheduling:
        ticks = os.sysconf("SC_CLK_TCK")
        names = ("cpu.weight", "cpu.shares", "cpu.max", "cpuset.cpus")
        limits = {name: text for group in known.cgroups for name, text in group.limits.items() if name in names}
        return Scheduling(
            policy=_policy(self.stat),
            nice=self.stat.nice,
            rt_priority=self.stat.rt_priority,
            affinity=self.status["Cpus_allowed_list"],
            autogroup=self.try_to("autogroup", lambda: _autogroup(self.proc.read("autogroup"))),
            weights=limits,
            io=self.io(),
            user_seconds=self.stat.utime / ticks,
            system_seconds=self.stat.stime / ticks,
        )

    def io(self) -> str | None:
        import psutil

        if self.tid != self.pid:
            self.unread["io"] = "it is asked of main threads only"
            return None
        try:
            class_, level = psutil.Process(self.pid).ionice()
        except psutil.AccessDenied:
            self.unread["io"] = "ioprio_get(2) refuses"
            return None
        except psutil.NoSuchProcess:
            raise self.proc.gone() from None
        return _IO_CLASSES[int(class_)] + (f" {level}" if int(class_) in (1, 2) else "")

    def limits(self, known: Facts, opened: tuple[Fd, ...] | None) -> tuple[Limit, ...]:
        used: dict[str, tuple[int | None, str]] = {name: (None, why) for name, why in _NOT_COUNTED.items()}
        for name, key in _KIB.items():
            words = self.status.get(key, "").split()
            used[name] = (int(words[0]) << 10, "") if words else (None, "it has no memory of its own")
        used["cpu"] = (int(sum((self.stat.utime, self.stat.stime)) / os.sysconf("SC_CLK_TCK")), "")
        used["sigpending"] = (int(self.status["SigQ"].split("/")[0]), "of all processes of its user")
        uid = self.own_row().uid
        tasks = sum(row.threads for row in self.rows.values() if row.uid == uid)
        used["nproc"] = (tasks, f"processes and threads of uid {uid} that you see")
        if opened is None:
            used["nofile"] = (None, "its open files may not be read")
        else:
            highest = f"the highest is {opened[-1].fd}, and must be below the limit" if opened else ""
            used["nofile"] = (len(opened), highest)
        return tuple(Limit(name, *pair, *used[name]) for name, pair in known.rlimits.items())

    # ---- files ----

    def fds(self) -> tuple[tuple[Fd, ...] | None, int]:
        opened = self.try_to("fds", lambda: fds.read(self.proc))
        if not opened:
            return opened, 0
        mates = self.sockets() if any(one.kind == "socket" for one in opened) else {}
        wanted = {one.key for one in opened if one.kind in ("pipe", "eventfd", "socket")}
        wanted |= {f"socket:[{other.inode}]" for _, other in mates.values() if other is not None}
        found, hidden = fds.holders(wanted)
        spaces = _Spaces(self.proc)
        return tuple(self.with_others(one, mates, found, spaces) for one in opened), hidden

    def sockets(self) -> dict[str, tuple[Socket, Socket | None]]:
        """Return key → (socket, its other end) of the process's network namespace."""
        from nstool.inspect import sockets

        def read() -> tuple[Socket, ...]:
            with nsfile.of_process(self.proc, "net") as net:
                return inside.call({"net": net.fd}, sockets.read)

        there = self.try_to("sockets", read) or ()
        mates = sockets.others(there)
        return {f"socket:[{one.inode}]": (one, mates.get(one.inode)) for one in there if one.inode}

    def with_others(
        self,
        one: Fd,
        mates: dict[str, tuple[Socket, Socket | None]],
        found: dict[str, list[Holder]],
        spaces: _Spaces,
    ) -> Fd:
        if one.kind == "namespace":
            return one.replace(detail=spaces.whose(one.target))
        if one.kind == "socket":
            if one.key not in mates:
                why = self.unread.get("sockets")
                return one.replace(detail=f"unknown: {why}" if why else "not in the lists of its network namespace")
            known, other = mates[one.key]
            far = found.get(f"socket:[{other.inode}]", []) if other else []
            return one.replace(detail=socket_words(known, other), others=tuple(far))
        if one.kind == "pipe":
            far = [h for h in found[one.key] if _is_other_end(one.mode, h.mode) and (h.pid, h.fd) != (self.pid, one.fd)]
            return one.replace(others=tuple(far))
        if one.kind == "eventfd":
            far = [h for h in found.get(one.key, []) if (h.pid, h.fd) != (self.pid, one.fd)]
            return one.replace(others=tuple(far))
        return one

    # ---- the rest ----

    def shared(self, known: Facts) -> dict[str, tuple[str, ...]]:
        if not known.namespaces and not self.kernel_thread and self.stat.state not in "ZX":
            self.unread["namespaces"] = why_hidden(self.tid)[0]
        others = {"parent": int(self.status["PPid"]), "init": 1, "you": os.getpid()}
        found: dict[str, tuple[str, ...]] = {}
        inodes = {who: self.inodes(who, pid) for who, pid in others.items() if pid and pid != self.pid}
        if self.tid != self.pid:
            inodes["process"] = self.main_namespaces
        for kind, inode in known.namespaces.items():
            found[kind] = tuple(who for who, theirs in inodes.items() if theirs.get(kind) == inode)
        if self.proc.status()["PPid"] != self.status["PPid"]:  # it has ended, and its number may be another's
            found = {kind: tuple(who for who in shared if who != "parent") for kind, shared in found.items()}
        return found

    def inodes(self, who: str, pid: int) -> dict[str, int]:
        found = {}
        try:
            with Proc(pid) as other:
                for kind in kinds.KINDS:
                    try:
                        found[kind] = other.inode(kind)
                    except FileNotFoundError:  # it has ended but for its status
                        continue
        except PermissionError:
            self.unread[f"namespaces of {who}"] = why_hidden(pid)[0]
        except SandboxGone:  # it shares nothing any more
            return {}
        return found

    def dumpable(self, known: Facts) -> tuple[str, str]:
        if self.kernel_thread:
            return "no", "a thread of the kernel has no memory of its own"
        if self.has_ended:
            return "no", "it has ended"
        if self.pid == os.getpid():
            from nstool import syscalls

            value = syscalls.prctl(uapi.PR_GET_DUMPABLE)
            return ("yes", "") if value == 1 else ("no", f"PR_GET_DUMPABLE is {value}")
        told = is_dumpable(self.pid, self.pid)
        if told is not None:
            return "yes" if told else "no", "PIDFD_GET_INFO tells it"
        # The files of an undumpable process belong to root of the user namespace that its memory is of. proc(5)
        try:
            file = os.stat("stat", dir_fd=self.proc.fd)
        except ProcessLookupError:
            return "no", "it has ended"
        owner, own = (file.st_uid, file.st_gid), (known.uids.effective, known.gids.effective)
        if owner != own:
            return "no", f"its files in /proc belong to {_ids(owner)}, not to its own {_ids(own)}"
        mapped = [{line.inside: line.outside for line in lines} for lines in (known.uid_map, known.gid_map)]
        if own == (0, 0):
            return "unknown", "it runs as root, to whom its files in /proc belong either way"
        if own == (mapped[0].get(0), mapped[1].get(0)):
            who = f"root of its user namespace, for you {_ids(own)}"
            return "unknown", f"it runs as {who}, to whom its files in /proc belong either way"
        if own[0] == _overflow_uid() and own[0] not in mapped[0].values():
            return "unknown", "its uid has no number in your user namespace, nor has the owner of its files in /proc"
        return "yes", f"its files in /proc belong to its {_ids(own)}"

    def environment(self) -> tuple[str, ...] | None:
        text = self.try_to("environment", lambda: self.proc.read("environ"))
        return None if text is None else tuple(word for word in text.split("\0") if word)


def _row(pid: int, status: dict[str, str]) -> _Row:
    numbers = status["NSpid"].split()
    return _Row(
        pid=pid,
        comm=real_name(status),
        ppid=int(status["PPid"]),
        state=status["State"][0],
        uid=status["Uid"].split()[0],
        threads=int(status["Threads"]),
        levels=len(numbers),
        innermost=int(numbers[-1]),
    )


def _inodes(proc: Proc) -> dict[str, int]:
    # Those that may be read.
    found = {}
    for kind in kinds.KINDS:
        try:
            found[kind] = proc.inode(kind)
        except (FileNotFoundError, PermissionError):  # it has ended but for its status; it is not the reader's to see
            continue
    return found


def _ids(ids: tuple[int, int]) -> str:
    return f"uid {ids[0]}, gid {ids[1]}"


def _overflow_uid() -> int:
    with open("/proc/sys/kernel/overflowuid") as file:
        return int(file.read())


def end_words(status: int) -> str:
    """Return a status of wait(2) in words."""
    if not os.WIFSIGNALED(status):
        return f"it exited with status {os.WEXITSTATUS(status)}"
    dumped = ", and dumped core" if os.WCOREDUMP(status) else ""
    return f"it was killed by {signals.name(os.WTERMSIG(status))}{dumped}"


def _census() -> dict[int, _Row]:
    found = {}
    for proc in processes():
        try:
            found[proc.pid] = _row(proc.pid, proc.status())
        except (ProcessGone, ProcessLookupError, PermissionError):  # ended; or hidden, hidepid of proc(5)
            continue
    return found


def _relative(row: _Row, below: int = 0) -> Relative:
    return Relative(row.pid, row.comm, state_text(row.state), below)


def _below(pid: int, children: dict[int, list[_Row]]) -> int:
    count, left = 0, [pid]
    while left:
        rows = children.get(left.pop(), ())
        count += len(rows)
        left += [row.pid for row in rows]
    return count


def orphans(row: _Row, ancestors: list[_Row]) -> Orphans:
    """Return who gets the children of a process: the rule of the kernel, with what is not known left open.

    The nearest ancestor in the same pid namespace that is a child subreaper, else process 1 of that namespace.
    """
    if row.innermost == 1:
        return Orphans(None, (), "none: it is process 1 of its pid namespace, and all in there are killed with it")
    same = []
    for above in ancestors:
        if above.levels != row.levels:  # in a pid namespace further out: the kernel looks no further
            break
        same.append(above)
    last = next((above for above in same if above.innermost == 1), None)
    to = None if last is None else last.pid
    where = "process 1 of its pid namespace" if to in (None, 1) else f"process {to}, process 1 of its pid namespace"
    first = [above for above in same if above.innermost != 1]
    mine = next((at for at, above in enumerate(first) if above.pid == os.getpid()), None)
    if mine is not None:  # the one ancestor of which it can be known
        if _is_subreaper():
            to, where, first = os.getpid(), "you, a child subreaper", first[:mine]
        else:
            del first[mine]
    if not first:
        return Orphans(to, (), f"its children would go to {where}")
    listed = ", ".join(f"{above.pid} ({above.comm})" for above in first)
    text = (
        f"its children would go to the first of its ancestors {listed} that is a child subreaper (unknown: the kernel "
        f"tells that only to each itself), else to {where}"
    )
    return Orphans(to, tuple(above.pid for above in first), text)


def _is_subreaper() -> bool:
    from nstool import syscalls

    value = bytearray(4)
    syscalls.prctl(uapi.PR_GET_CHILD_SUBREAPER, value)
    return any(value)


def _policy(stat: Stat) -> str:
    return _POLICIES.get(stat.policy, str(stat.policy))


def _autogroup(text: str) -> tuple[str, int] | None:
    words = text.split()  # "/autogroup-25 nice 0"; empty where the scheduler has it switched off
    return (words[0].lstrip("/"), int(words[2])) if len(words) == 3 else None


def _boot_time() -> float:
    import psutil

    return psutil.boot_time()


def call_words(text: str) -> str:
    """Return what /proc/PID/syscall says, in words: "futex(0x7f…, 0x80, …)", "" when it is not in a call."""
    from nstool.security.seccomp import call_name

    words = text.split()
    if words[0] in ("running", "-1"):
        return ""
    return f"{call_name(int(words[0]))}({', '.join(words[1:7])})"


def socket_words(one: Socket, other: Socket | None) -> str:
    """Return a socket in words: "tcp 127.0.0.1:80, listening"."""
    name = f"{one.family} {one.type}" if one.family in ("unix", "netlink", "packet") else one.type
    ends = " to ".join(end for end in (one.local, one.remote) if end)
    if other is not None and other.local and one.family == "unix":
        ends += f" to {other.local}"
    return f"{name} {ends}".rstrip() + f", {one.state}"


def _is_other_end(mine: str, theirs: str) -> bool:
    # Of a pipe that is open for both, everybody is the other end. pipe(7), fifo(7)
    return mine == "rw" or theirs == "rw" or theirs != mine


class _Spaces:
    """Whose the namespaces are that a process holds by fds."""

    def __init__(self, proc: Proc) -> None:
        self.proc = proc
        self._living: dict[str, int] | None = None

    def whose(self, target: str) -> str:
        kind = target.partition(":")[0]
        for who, pid in (("its own", self.proc.pid), ("yours", os.getpid()), ("that of process 1", 1)):
            try:
                if os.readlink(f"/proc/{pid}/ns/{kind}") == target:
                    return f"the {kind} namespace, {who}"
            except OSError:  # not readable, or ended: then it cannot be told by that one
                continue
        pid = self.living().get(target, 0)
        return (
            f"a {kind} namespace, in which process {pid} is"
            if pid
            else f"a {kind} namespace, of which you see no process"
        )

    def living(self) -> dict[str, int]:
        """Return "net:[INODE]" → the first process in it, of those that may be read."""
        if self._living is None:
            self._living = {}
            for proc in processes():
                for kind in kinds.KINDS:
                    try:
                        self._living.setdefault(proc.link(f"ns/{kind}"), proc.pid)
                    except (OSError, SandboxGone):
                        continue
        return self._living
