"""Look on while a sandbox's command runs, and tell which system calls it and its children make. ptrace(2).

A process of its own traces: it waits for nobody's children but those that it traces, and its end ends them. The command
runs under its own filter: a call is seen before that answers, and nothing is let through that the filter refuses.
"""

from __future__ import annotations

import os
import signal
from errno import EPERM, ESRCH

from nstool import syscalls, uapi
from nstool.errors import KernelError, NstoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    # (architecture, number, the arguments that matter) of each call that was made.
    Seen = set[tuple[int, int, tuple[int, ...]]]

_WALL = 0x40000000  # __WALL, waitpid(2): threads too
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_CHILD = (uapi.PTRACE_EVENT_FORK, uapi.PTRACE_EVENT_VFORK, uapi.PTRACE_EVENT_CLONE)
_OPTIONS = (
    uapi.PTRACE_O_TRACESYSGOOD
    | uapi.PTRACE_O_TRACEFORK
    | uapi.PTRACE_O_TRACEVFORK
    | uapi.PTRACE_O_TRACECLONE
    | uapi.PTRACE_O_TRACEEXEC
    | uapi.PTRACE_O_EXITKILL
)
MOST = 4096  # different calls and arguments that are kept; one more says that there were more


class Tracer:
    """A process that traces; ``attach`` is for ``Prepared(trace=...)``. A context manager: leaving it ends the process.

    interest: the arguments that matter, by the number of the call; of other calls none is kept.
    Made before there are threads, for it forks.
    """

    def __init__(self, interest: Mapping[int, tuple[int, ...]]) -> None:
        down, self._down = os.pipe2(os.O_CLOEXEC)
        self._up, up = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._down)
            os.close(self._up)
            _serve(down, up, interest)
        os.close(down)
        os.close(up)

    def attach(self, pid: int) -> None:
        """Have init traced, and all that comes of it. Raises KernelError: EPERM where that is forbidden."""
        os.write(self._down, f"{pid}\n".encode())
        told = self._line()
        if told:
            raise KernelError(
                f"ptrace(PTRACE_SEIZE, {pid})",
                int(told),
                why="the system calls of the command are to be seen",
                causes=_causes(int(told)),
                remedies=("run it as root, or where kernel.yama.ptrace_scope is 1 or 0",),
            )

    def result(self) -> Seen:
        """Wait for the end of all that was traced; return the calls. Raises NstoolError if they are not all known."""
        import json

        with open(self._up, "rb", closefd=False) as file:
            data = file.read()
        if not data:
            raise NstoolError("the process that looked on was killed; nothing was learned")
        seen = {(arch, number, tuple(args)) for arch, number, args in json.loads(data)}
        if len(seen) > MOST:
            raise NstoolError(
                f"more than {MOST} different system calls and arguments, of which not all were kept: nothing was "
                "learned; run less of the program at a time, and add"
            )
        return seen

    def _line(self) -> bytes:
        data = bytearray()
        while not data.endswith(b"\n"):
            if not (byte := os.read(self._up, 1)):
                raise NstoolError("the process that was to look on was killed")
            data += byte
        return bytes(data).strip()

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._down)
        os.close(self._up)
        try:
            os.kill(self._pid, signal.SIGKILL)  # what it traces ends with it
        finally:
            os.waitpid(self._pid, 0)


def _causes(errno: int) -> tuple[str, ...]:
    if errno != EPERM:
        return ()
    return ("you may not trace: kernel.yama.ptrace_scope, a security module, or another tracer forbids it, ptrace(2)",)


def _serve(down: int, up: int, interest: Mapping[int, tuple[int, ...]]) -> None:
    # In the child: it has nothing to do with the terminal, and tells by bytes alone.
    import json

    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        if line := os.read(down, 32):  # one write, far shorter than a pipe's portion
            pid = int(line)
            try:
                syscalls.ptrace(uapi.PTRACE_SEIZE, pid, 0, _OPTIONS)
            except KernelError as error:
                os.write(up, f"{error.errno}\n".encode())
            else:
                os.write(up, b"\n")
                seen = _follow(pid, interest)
                with open(up, "wb") as file:
                    file.write(json.dumps(sorted(seen)).encode())
        status = 0
    finally:
        os._exit(status)


def _follow(init: int, interest: Mapping[int, tuple[int, ...]]) -> Seen:
    """Trace until nobody is left; what is made before the command has begun is nstool's own, and not kept."""
    seen: Seen = set()
    recorded: set[int] = set()
    known = {init}
    early: set[int] = set()  # children that have stopped before their parent's event has told of them
    while True:
        try:
            pid, status = os.waitpid(-1, _WALL)
        except ChildProcessError:
            return seen
        if not os.WIFSTOPPED(status):
            known.discard(pid)
            recorded.discard(pid)
            continue
        number, event = os.WSTOPSIG(status), status >> 16
        if event == uapi.PTRACE_EVENT_STOP and pid not in known:
            early.add(pid)
            continue
        try:
            if number == _SYSCALL_STOP:
                _note(pid, interest, seen)
            elif event == uapi.PTRACE_EVENT_EXEC:
                recorded.add(pid)
            elif event in _CHILD:
                child = syscalls.ptrace_geteventmsg(pid)
                known.add(child)
                if pid in recorded:
                    recorded.add(child)
                if child in early:
                    early.discard(child)
                    _go_on(child, child in recorded, 0)
            if event == uapi.PTRACE_EVENT_STOP and number in _STOPS:
                syscalls.ptrace(uapi.PTRACE_LISTEN, pid)
            else:
                _go_on(pid, pid in recorded, 0 if event or number == _SYSCALL_STOP else number)
        except KernelError as error:
            if error.errno != ESRCH:  # it was killed meanwhile
                raise


def _go_on(pid: int, recorded: bool, number: int) -> None:
    syscalls.ptrace(uapi.PTRACE_SYSCALL if recorded else uapi.PTRACE_CONT, pid, 0, number)


def _note(pid: int, interest: Mapping[int, tuple[int, ...]], seen: Seen) -> None:
    info = syscalls.ptrace_get_syscall_info(pid)
    if info.op == uapi.PTRACE_SYSCALL_INFO_ENTRY and len(seen) <= MOST:
        args = tuple(info.args[index] for index in interest.get(info.number, ()))
        seen.add((info.arch, info.number, args))
