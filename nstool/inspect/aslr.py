"""How the addresses of processes are randomised: settings, a process's personality, and what launches show.

A launch is stopped at its exec, before its first instruction, looked at and killed: nothing of the program ever runs,
so what it would map itself (its heap's further parts, libraries, threads' stacks) is not seen. It would run without any
rights, where they may be given up: set-user-ID bits do not count. Of a dynamic program the first mapping is that of its
loader, below which everything else is mapped. proc_sys_kernel(5), personality(2).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from errno import EPERM, ESRCH

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.proc import Proc, Stat
from nstool.sandbox.inside import refused
from nstool.security.aslr import Spread, spread, tied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_SETTING = {0: "nothing", 1: "all but the heap", 2: "all"}
# Fields of proc_pid_stat(5): where the stack began, where the heap begins.
_START_STACK, _START_BRK = 28, 47
_NOBODY = 65534
REGIONS = ("executable", "heap", "mappings", "vdso", "stack")


class Settings(Frozen):
    """Of the host. randomize: "all", "all but the heap", "nothing". rnd_bits, rnd_compat_bits: of mmap's base, in
    pages, for 64 and 32 bit programs. legacy: mappings grow upwards. None where the reader may not read it, or the
    kernel has it not. unread: why it may not be read, by the name of the sysctl.
    """

    randomize: str | None
    rnd_bits: int | None
    rnd_compat_bits: int | None
    legacy: bool | None
    unread: dict[str, str]


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
    """A process that was asked for, or a thread of process tgid.

    layout: address by name of REGIONS; a region that it has not is left out. why_none: why it has none at all, or "".
    """

    pid: int
    tgid: int
    comm: str
    persona: Persona
    layout: dict[str, int]
    why_none: str


class Measured(Frozen):
    """What launches of a program show. regions: by name of REGIONS. tied: pairs that vary only together."""

    program: tuple[str, ...]
    launches: int
    persona: Persona
    regions: dict[str, Spread]
    tied: tuple[tuple[str, str], ...]


def settings() -> Settings:
    """Return what the host randomises."""
    unread: dict[str, str] = {}
    randomize = _number("kernel.randomize_va_space", unread)
    legacy = _number("vm.legacy_va_layout", unread)
    return Settings(
        randomize=None if randomize is None else _SETTING.get(randomize, "all"),
        rnd_bits=_number("vm.mmap_rnd_bits", unread),
        rnd_compat_bits=_number("vm.mmap_rnd_compat_bits", unread),
        legacy=None if legacy is None else legacy != 0,
        unread=unread,
    )


def _number(name: str, unread: dict[str, str]) -> int | None:
    try:
        with open(f"/proc/sys/{name.replace('.', '/')}") as file:
            return int(file.read())
    except FileNotFoundError:  # a kernel built without it
        return None
    except PermissionError:
        unread[name] = "the kernel lets root of the host alone read it; run as root"
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
        stat = proc.stat()
        return Process(pid, proc.tgid(), stat.comm, persona(value), layout, "" if layout else _why_none(stat))


def _why_none(stat: Stat) -> str:
    if stat.state in "ZX":
        return "it has ended, and has no memory any more; of its other threads, if any, each has it still"
    return "a thread of the kernel has no memory of its own"


def _layout(proc: Proc) -> dict[str, int]:
    text = proc.read("stat")
    fields = text[text.rindex(") ") + 2 :].split()
    try:
        exe = proc.link("exe")
    except FileNotFoundError:  # a thread of the kernel, a zombie
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
    # Opened once: a number in /proc may become another process's, and who has no rights may not follow it.
    try:
        open_file = os.open(executable, os.O_PATH | os.O_CLOEXEC) if executable else -1
    except OSError as error:
        raise KernelError(f'execve("{path}")', error.errno or 0) from None
    try:
        for _ in range(launches):
            layouts.append(_launch(path, command, value, open_file))
    finally:
        if open_file >= 0:
            os.close(open_file)
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


def _launch(path: str, command: Sequence[str], value: int | None, open_file: int) -> dict[str, int]:
    reader, writer = os.pipe()
    pid = 0
    try:
        try:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                _exec_traced(f"/proc/self/fd/{open_file}" if open_file >= 0 else path, command, value, writer, parent)
        finally:
            os.close(writer)
        if not _stops(pid, signal.SIGSTOP):
            pid = 0
            raise _failure(os.read(reader, 100), path)
        # From now on it goes with us, also if we are killed: else it would be let go, and run. The stop at its exec is
        # an event: a mere SIGTRAP, without that option, would not stop one who blocks it.
        syscalls.ptrace(uapi.PTRACE_SETOPTIONS, pid, 0, uapi.PTRACE_O_EXITKILL | uapi.PTRACE_O_TRACEEXEC)
        syscalls.ptrace(uapi.PTRACE_CONT, pid)
        if not _stops(pid, signal.SIGTRAP | uapi.PTRACE_EVENT_EXEC << 8):
            pid = 0
            raise _failure(os.read(reader, 100), path)
        return _layout_of(pid, path)
    finally:
        os.close(reader)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _stops(pid: int, wanted: int) -> bool:
    # Whether it comes to this stop, a signal and an event, or else ends. Signals that come meanwhile it never gets.
    while os.WIFSTOPPED(status := os.waitpid(pid, os.WUNTRACED)[1]):
        if status >> 8 == wanted:
            return True
        syscalls.ptrace(uapi.PTRACE_CONT, pid)
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


def _exec_traced(path: str, command: Sequence[str], value: int | None, writer: int, parent: int) -> NoReturn:
    # It stops twice: by itself, to be bound to its tracer; then the kernel stops it at its exec. Until it is bound the
    # death signal is, which a change of ids clears. What fails is told: "call errno".
    call = "prctl"
    try:
        syscalls.prctl(uapi.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before
            os._exit(127)
        call = "ptrace"
        syscalls.ptrace(uapi.PTRACE_TRACEME)
        os.kill(os.getpid(), signal.SIGSTOP)
        call = "personality"
        if value is not None:
            syscalls.personality(value)
        call = "prctl"
        _become_nobody()
        call = "execve"
        os.execve(path, list(command), dict(os.environ))
    except OSError as error:
        os.write(writer, f"{call} {error.errno}".encode())
    finally:
        os._exit(127)


def _become_nobody() -> None:
    # To be measured needs no rights: should it ever run, then with none. What is kept is lost by the exec: the right to
    # execute what the caller may.
    caps = syscalls.capget().effective
    if caps >> uapi.CAP_SETPCAP & 1:
        with suppress(KernelError):  # EINVAL: this kernel has no more
            for number in range(64):
                syscalls.prctl(uapi.PR_CAPBSET_DROP, number)
        bits = syscalls.prctl(uapi.PR_GET_SECUREBITS) | uapi.SECBIT_NOROOT | uapi.SECBIT_NOROOT_LOCKED
        with suppress(KernelError):  # locked otherwise; then no_new_privs alone keeps the exec from giving any
            syscalls.prctl(uapi.PR_SET_SECUREBITS, bits)
    if all(caps >> cap & 1 for cap in (uapi.CAP_SETUID, uapi.CAP_SETGID, uapi.CAP_SYS_PTRACE)):  # else not to be read
        with suppress(KernelError):  # nobody has no map in this user namespace
            syscalls.prctl(uapi.PR_SET_KEEPCAPS, 1)
            syscalls.setgroups([])
            syscalls.setresgid(_NOBODY, _NOBODY, _NOBODY)
            syscalls.setresuid(_NOBODY, _NOBODY, _NOBODY)
    kept = syscalls.capget().permitted & 1 << uapi.CAP_DAC_OVERRIDE
    syscalls.capset(kept, kept, 0)
    syscalls.prctl(uapi.PR_SET_DUMPABLE, 0)
    syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)


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
