"""One process or thread in /proc, held by its directory: a later one with its number is never mixed in. proc(5)."""

from __future__ import annotations

import os
from errno import ENAMETOOLONG

from nstool.closing import ByFd
from nstool.errors import KernelError, NotSupported, SandboxGone, SpecError, no_process
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Iterator
    from typing import NoReturn

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "in uninterruptible sleep",
    "T": "stopped by a signal",
    "t": "stopped by its tracer",
    "Z": "zombie",
    "X": "dead",
    "x": "dead",
    "K": "waking to be killed",
    "W": "waking",
    "P": "parked",
    "I": "idle thread of the kernel",
}


def title(pid: int, tid: int) -> str:
    """Return what a process or one of its threads is called in sentences."""
    return f"process {pid}" if tid == pid else f"thread {tid} of process {pid}"


def whose(name: str, pid: int, tgid: int) -> str:
    """Return who has something: "cat (4711)", "worker (thread 4712 of process 4711)"."""
    return f"{name} ({pid if pid == tgid else title(tgid, pid)})"


def state_text(state: str) -> str:
    """Return a state of a task, which /proc has as a letter, in words."""
    return _STATES.get(state, state)


class ProcessGone(SandboxGone):
    """The process that was named does not exist, or has ended while it was read. Exit status 2."""


class Hidden(KernelError, PermissionError):
    """All files of a process are refused, hidepid=noaccess of proc(5): with the cause and what to do."""


class Stat(Frozen):
    """What /proc/PID/stat tells, the numbers that are of use here. proc_pid_stat(5).

    comm: up to 15 bytes, of a thread of the kernel up to 63, whatever is in them, and not escaped as in the
    status file. state: one letter, see ``state_text``. ppid, pgrp, session, tpgid: in the reader's pid namespace, 0 for
    what is not visible there. tty: device number. starttime: clock ticks since boot. exit_code: of who has ended, as
    wait(2) gives it; 0 also for who may not know it.
    """

    pid: int
    comm: str
    state: str
    ppid: int
    pgrp: int
    session: int
    tty: int
    tpgid: int
    flags: int
    utime: int
    stime: int
    priority: int
    nice: int
    num_threads: int
    starttime: int
    exit_signal: int
    processor: int
    rt_priority: int
    policy: int
    exit_code: int

    @property
    def state_text(self) -> str:
        """The state in words."""
        return state_text(self.state)


# Fields of proc_pid_stat(5) by their number there, from the third on.
_FIELDS = {
    "ppid": 4,
    "pgrp": 5,
    "session": 6,
    "tty": 7,
    "tpgid": 8,
    "flags": 9,
    "utime": 14,
    "stime": 15,
    "priority": 18,
    "nice": 19,
    "num_threads": 20,
    "starttime": 22,
    "exit_signal": 38,
    "processor": 39,
    "rt_priority": 40,
    "policy": 41,
    "exit_code": 52,
}


def real_name(status: dict[str, str]) -> str:
    """Return the name of a task from its status, where the kernel escapes two characters."""
    name, *rest = status["Name"].split("\\\\")
    return "\\".join(part.replace("\\n", "\n") for part in (name, *rest))


class Proc(ByFd):
    """The directory of a process, /proc/PID, or of a thread, /proc/PID/task/TID. A context manager.

    What it reads is of that very process: ProcessGone is raised once that has ended and been reaped. Whatever else the
    kernel refuses is an OSError, PermissionError most often: ``sandbox.facts.why_hidden`` tells why; Hidden, which is
    one and tells it, where not even its status may be read.
    """

    def __init__(self, pid: int, tid: int = 0) -> None:
        self.pid = pid
        self.tid = tid or pid
        path = f"/proc/{pid}/task/{tid}" if tid else f"/proc/{pid}"
        try:
            # Where hidepid=noaccess refuses all that is in it, it can be held all the same.
            self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            raise self.gone() from None

    def gone(self) -> ProcessGone:
        """Return the error that says it has ended."""
        return ProcessGone(no_process(title(self.pid, self.tid)))

    def bytes(self, name: str) -> bytes:
        """Return the content of a file of the process. FileNotFoundError: this kernel has no such file."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, "rb") as file:
                return file.read()
        except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
            self._explain(error)

    def lines(self, name: str) -> Iterator[builtins.bytes]:
        """Yield the lines of a file of the process, however many there are."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            with open(fd, "rb", buffering=1 << 16) as file:
                yield from file
        except (FileNotFoundError, ProcessLookupError):
            self.check()
            raise

    def read(self, name: str) -> str:
        """Return the text of a file of the process; bytes that are no UTF-8 as os.fsdecode gives them."""
        return os.fsdecode(self.bytes(name))

    def link(self, name: str) -> str:
        """Return what a symbolic link of the process says, as "net:[4026531840]" for ns/net."""
        try:
            return os.readlink(name, dir_fd=self.fd)
        except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
            self._explain(error)

    def root(self) -> str:
        """Return the root directory as the reader sees it, "" if its path is longer than a page."""
        try:
            return self.link("root")
        except OSError as error:
            if error.errno != ENAMETOOLONG:
                raise
            return ""

    def list(self, name: str) -> list[str]:
        """Return the entries of a directory of the process, as "task" or "fd", in the order of the kernel."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                return os.listdir(fd)
            finally:
                os.close(fd)
        except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
            self._explain(error)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return an fd of a file of the process, as ns/net; the caller's to close."""
        try:
            return os.open(name, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
            self._explain(error)

    def inode(self, kind: str) -> int:
        """Return the inode of the process's namespace of this kind, which names it while it lives. namespaces(7)."""
        text = self.link(f"ns/{kind}")
        return int(text[text.index("[") + 1 : -1])

    def status(self) -> dict[str, str]:
        """Return the lines of the status file by their key. proc_pid_status(5)."""
        # Not splitlines: of all that it takes for the end of a line the kernel escapes but the newline in a name.
        rows = (line.partition(":") for line in self.read("status").split("\n") if line)
        return {key: value.strip() for key, _, value in rows}

    def stat(self) -> Stat:
        """Return what the stat file tells."""
        text = self.read("stat")
        pid, _, rest = text.partition(" (")
        comm, _, rest = rest.rpartition(") ")
        words = rest.split()
        return Stat(pid=int(pid), comm=comm, state=words[0], **{name: int(words[n - 3]) for name, n in _FIELDS.items()})

    def command(self) -> tuple[str, ...]:
        """Return the argument vector, as the process shows it; empty for a thread of the kernel or a zombie."""
        text = self.read("cmdline")
        return tuple(text.removesuffix("\0").split("\0")) if text else ()

    def tgid(self) -> int:
        """Return the pid of its process: its own number, unless it was opened by that of a thread."""
        return int(self.status()["Tgid"])

    def check(self) -> None:
        """Raise ProcessGone if it has ended and been reaped, Hidden if the reader may not even know that."""
        try:
            os.stat("stat", dir_fd=self.fd)
        except (FileNotFoundError, ProcessLookupError):
            raise self.gone() from None
        except PermissionError as error:
            raise self._hidden(error) from None

    def _explain(self, error: OSError) -> NoReturn:
        # Of what has been refused: why, if it is not this one file.
        self.check()
        raise error

    def _hidden(self, error: OSError) -> Hidden:
        from nstool.sandbox.facts import why_hidden

        cause, remedy = why_hidden(self.pid)
        call = f'open("/proc/{self.pid}/stat")'
        return Hidden(
            call,
            error.errno or 0,
            why="to look at the process",
            causes=(f"you may not look into process {self.pid}: {cause}",),
            remedies=(remedy,),
            checked=True,
        )


def own_pid() -> int:
    """Return the caller's pid as /proc has it, which may be that of another pid namespace than the caller's.

    Raises NotSupported where it has none there.
    """
    try:
        return int(os.readlink("/proc/self"))
    except FileNotFoundError:
        raise _no_numbers() from None


def pids() -> list[int]:
    """Return the processes of the reader's pid namespace that may be seen, in ascending order."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def of_own_namespace() -> bool:
    """Whether /proc is mounted for the reader's own pid namespace, so that its numbers are the reader's."""
    try:
        with open("/proc/self/status") as file:
            row = next(line for line in file if line.startswith("NSpid:"))
    except FileNotFoundError:  # the reader has no number there
        return False
    return len(row.split()) == 2  # the numbers begin at the namespace of /proc and end at the reader's own


def check_numbers() -> None:
    """Raise NotSupported unless a number of the reader's names the same process in /proc. pid_namespaces(7)."""
    if not of_own_namespace():
        raise _no_numbers()


def _no_numbers() -> NotSupported:
    if os.path.lexists("/proc/self"):  # which is there also for who has no number
        cause = "the /proc that is mounted here belongs to another pid namespace than yours, whose numbers mean others"
    else:
        cause = "no proc file system is mounted on /proc"
    return NotSupported(
        "numbers of processes",
        cause,
        "mount one of your own, in a mount namespace of your own: unshare --mount --mount-proc, or nstool enter",
    )


def processes() -> Iterator[Proc]:
    """Yield each process, open while the caller has it; those that end meanwhile are left out."""
    for pid in pids():
        try:
            proc = Proc(pid)
        except ProcessGone:  # between the listing and now
            continue
        with proc:
            yield proc


def process(target: str, otherwise: str = "") -> int:
    """Return the pid that TARGET means on every command line: of a process or thread, or of a sandbox: its command.

    otherwise: what else was looked for, for the message. Raises SpecError, SandboxGone, Hidden; NotSupported where the
    numbers of /proc are others' than the reader's.
    """
    from nstool.sandbox import rundir
    from nstool.sandbox.join import pid_of
    from nstool.sandbox.launch import payload_pid

    check_numbers()
    if pid := pid_of(target):
        with Proc(pid) as proc:
            proc.check()
        return pid
    if not target:
        raise SpecError("a TARGET is empty; give a pid or the name of a sandbox")
    record = rundir.find_running(target, f", and it is no pid{otherwise}")
    return payload_pid(record.init_pid) if record.spec.get("init", True) else record.init_pid
