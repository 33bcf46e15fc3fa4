"""How the addresses of processes are randomised: settings, a process's personality, and what launches show.

A launch is stopped at its exec, before its first instruction, looked at and killed: nothing of the program ever runs,
so what it would map itself (its heap's further parts, libraries, threads' stacks) is not seen. Of a dynamic program
the first mapping is that of its loader, below which everything else is mapped. proc_sys_kernel(5), personality(2).
"""

from __future__ import annotations

import os
import select
import signal
from errno import EPERM, ESRCH

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.proc import Proc
from nstool.sandbox.inside import refused
from nstool.security.aslr import Spread, spread, tied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_SETTING = {0: "nothing", 1: "all but the heap", 2: "all"}
# Fields of proc_pid_stat(5): where the stack began, where the heap begins.
_START_STACK, _START_BRK = 28, 47
REGIONS = ("executable", "heap", "mappings", "vdso", "stack")


class Settings(Frozen):
    """Of the host. randomize: "all", "all but the heap", "nothing". rnd_bits, rnd_compat_bits: of mmap's base, in
    pages, for 64 and 32 bit programs. legacy: mappings grow upwards. None where the reader may not read it.
    """

    randomize: str | None
    rnd_bits: int | None
    rnd_compat_bits: int | None
    legacy: bool | None


class Persona(Frozen):
    """The execution domain of a process. base: "linux", "linux32", or a number; flags: names. personality(2)."""

    value: int
    base: str
    flags: tuple[str, ...]

    @property
    def randomised(self) -> bool:
        """Whether addresses of the next exec are randomised, if the host's setting does it."""
        return not self.value & uapi.ADDR_NO_RANDOMIZE


class Process(Frozen):
    """A process that was asked for. layout: address by name of REGIONS; a region that it has not is left out."""

    pid: int
    comm: str
    persona: Persona
    layout: dict[str, int]


class Measured(Frozen):
    """What launches of a program show. regions: by name of REGIONS. tied: pairs that vary only together."""

    program: tuple[str, ...]
    launches: int
    persona: Persona
    regions: dict[str, Spread]
    tied: tuple[tuple[str, str], ...]


def settings() -> Settings:
    """Return what the host randomises."""
    randomize = _number("/proc/sys/kernel/randomize_va_space")
    legacy = _number("/proc/sys/vm/legacy_va_layout")
    return Settings(
        randomize=None if randomize is None else _SETTING.get(randomize, "all"),
        rnd_bits=_number("/proc/sys/vm/mmap_rnd_bits"),
        rnd_compat_bits=_number("/proc/sys/vm/mmap_rnd_compat_bits"),
        legacy=None if legacy is None else legacy != 0,
    )


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (PermissionError, FileNotFoundError):  # root's to read; or a kernel built without it
        return None


def persona(value: int) -> Persona:
    """Return a personality in words."""
    base = value & uapi.PER_MASK
    names = uapi.names("PERSONALITY", value & ~uapi.PER_MASK)
    known = {uapi.PER_LINUX: "linux", uapi.PER_LINUX32: "linux32"}
    return Persona(value, known.get(base, f"{base:#x}"), () if names == "0" else tuple(names.split("|")))


def process(pid: int) -> Process:
    """Read the personality and layout of a process. Raises ProcessGone, and KernelError where it may not be read."""
    with Proc(pid) as proc:
        try:
            value = int(proc.read("personality"), 16)
            layout = _layout(proc)
        except PermissionError as error:
            raise refused(pid, "personality", error, "how its addresses are randomised") from None
        return Process(pid, proc.stat().comm, persona(value), layout)


def _layout(proc: Proc) -> dict[str, int]:
    text = proc.read("stat")
    fields = text[text.rindex(") ") + 2 :].split()
    try:
        exe = proc.link("exe")
    except FileNotFoundError:  # a thread of the kernel
        return {}
    found = {"stack": int(fields[_START_STACK - 3]), "heap": int(fields[_START_BRK - 3])}
    for line in filter(None, proc.read("maps").split("\n")):  # not splitlines: of a path only the newline is escaped
        words = line.split(None, 5)
        start, name = int(words[0].partition("-")[0], 16), words[5] if len(words) > 5 else ""
        if name == exe:
            found.setdefault("executable", start)
        elif name == "[vdso]":
            found["vdso"] = start
        elif name.startswith("/"):
            found.setdefault("mappings", start)
    return {name: found[name] for name in REGIONS if found.get(name)}


def measure(command: Sequence[str], launches: int, *, value: int | None = None, executable: str = "") -> Measured:
    """Launch a program so many times, never letting it run, and return what its addresses show.

    executable: path of the file, else the first word is looked up in PATH. value: its personality; None for the
    caller's. Raises KernelError: of execve(2), or of ptrace(2) where that is not allowed.
    """
    path = executable or _found(command[0])
    seen: dict[str, list[int]] = {}
    layouts = []
    for _ in range(launches):
        layouts.append(_launch(path, command, value))
    for layout in layouts:
        for name, address in layout.items():
            seen.setdefault(name, []).append(address)
    whole = {name: seen[name] for name in REGIONS if len(seen.get(name, ())) == launches}
    used = syscalls.personality(uapi.PER_QUERY) if value is None else value
    regions = {name: spread(addresses) for name, addresses in whole.items()}
    return Measured(tuple(command), launches, persona(used), regions, tied(whole))


def _found(name: str) -> str:
    from errno import ENOENT
    from shutil import which

    path = name if "/" in name else which(name)
    if path is None:
        cause, remedy = f"no directory of PATH has a program {name}", "give the path of one that there is"
        raise KernelError(f'execve("{name}")', ENOENT, causes=(cause,), remedies=(remedy,), checked=True)
    if not os.path.exists(path):
        cause, remedy = f"there is no file {path}", "give the path of one that there is"
        raise KernelError(f'execve("{path}")', ENOENT, causes=(cause,), remedies=(remedy,), checked=True)
    return path


def _launch(path: str, command: Sequence[str], value: int | None) -> dict[str, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _exec_traced(path, command, value, writer)
    os.close(writer)
    lives = True
    try:
        lives = _stopped(pid, signal.SIGSTOP)
        if lives:
            # From now on it goes with us, also if we are killed: else it would be let go, and run.
            syscalls.ptrace(uapi.PTRACE_SETOPTIONS, pid, 0, uapi.PTRACE_O_EXITKILL)
            syscalls.ptrace(uapi.PTRACE_CONT, pid)
            lives = _stopped(pid, signal.SIGTRAP)
        if not lives:
            raise _failure(os.read(reader, 100), path)
        return _layout_of(pid, path)
    finally:
        os.close(reader)
        if lives:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _stopped(pid: int, by: int) -> bool:
    # Whether it has come to the stop with this signal, or else ended. Others that come meanwhile it gets.
    while os.WIFSTOPPED(status := os.waitpid(pid, os.WUNTRACED)[1]):
        if os.WSTOPSIG(status) == by:
            return True
        syscalls.ptrace(uapi.PTRACE_CONT, pid, 0, os.WSTOPSIG(status))
    return False


def _layout_of(pid: int, path: str) -> dict[str, int]:
    try:
        with Proc(pid) as proc:
            return _layout(proc)
    except PermissionError as error:
        raise KernelError(
            f'open("/proc/{pid}/maps")',
            error.errno or EPERM,
            causes=(f"you may execute {path} but not read it, so that its processes may not be looked into",),
            remedies=("run as root, or measure another program",),
            checked=True,
        ) from None


def _exec_traced(path: str, command: Sequence[str], value: int | None, writer: int) -> NoReturn:
    # It stops twice: by itself, to be bound to its tracer; then the kernel stops it at its exec, with SIGTRAP. Until it
    # is bound the death signal is, which an exec may clear. What fails is told: "call errno".
    call = "prctl"
    try:
        syscalls.prctl(uapi.PR_SET_PDEATHSIG, signal.SIGKILL)
        answers = select.poll()
        answers.register(writer, 0)
        if answers.poll(0):  # nobody reads: the tracer was killed before
            os._exit(127)
        call = "ptrace"
        syscalls.ptrace(uapi.PTRACE_TRACEME)
        os.kill(os.getpid(), signal.SIGSTOP)
        call = "personality"
        if value is not None:
            syscalls.personality(value)
        call = "execve"
        os.execve(path, list(command), dict(os.environ))
    except OSError as error:
        os.write(writer, f"{call} {error.errno}".encode())
    finally:
        os._exit(127)


def _failure(told: bytes, path: str) -> KernelError:
    call, _, number = told.decode().partition(" ")
    if call != "ptrace":
        return KernelError(f'{call or "execve"}("{path}")', int(number or ESRCH))
    return KernelError(
        "ptrace(PTRACE_TRACEME)",
        int(number),
        why="to stop each launch before its first instruction",
        causes=("a seccomp filter or a security module forbids to be traced, or this process is traced itself",),
        remedies=("measure outside of the sandbox; sysctl kernel.yama.ptrace_scope below 3",),
    )
