"""Run a command in a running sandbox, or in the namespaces of a process."""

from __future__ import annotations

import os
import stat

from nstool.closing import Closing
from nstool.errors import KernelError, SandboxGone, SpecError, no_process
from nstool.kinds import KINDS
from nstool.plan import join
from nstool.plan.template import program
from nstool.sandbox import engine, host, rundir
from nstool.sandbox.launch import (
    Exit,
    above_streams,
    check_timeout,
    ending,
    ends_within,
    given_streams,
    own_terminals,
    report,
    status_taken,
    still_runs,
)
from nstool.spec.model import Root, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.plan.host import Host
    from nstool.plan.steps import Plan
    from nstool.sandbox.launch import Sandbox
    from nstool.spec.check import Place


class Joined(Closing):
    """A command that runs in a sandbox or in joined namespaces. A context manager; leaving it ends the command."""

    def __init__(self, process: engine.Process, terminal: int) -> None:
        self.terminal = terminal
        self._process = process
        self._exit: Exit | None = None

    @property
    def pidfd(self) -> int:
        """Pidfd of the monitor, which ends when the command has."""
        return self._process.pidfd

    def signal(self, number: int) -> None:
        """Send a signal to the command. Raises SandboxGone when it has ended."""
        try:
            self._process.signal(number)
        except ProcessLookupError:
            raise SandboxGone("the command has ended") from None

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end of the command and return how it ended. timeout: seconds; raises TimeoutError."""
        check_timeout(timeout)
        if self._exit is None:
            if timeout is not None and self._process.pidfd >= 0 and not ends_within(self._process.pidfd, timeout):
                raise still_runs("the command", timeout)
            self._exit = ending(self._process, {})
            self._close_fds()
            if self._exit is None:
                raise status_taken("the command", self._process)
        return self._exit

    def close(self) -> None:
        """End the command if it runs. Idempotent."""
        if self._process.pidfd >= 0:
            # The monitor sees its control socket close and kills the command.
            os.close(self._process.control)
            self._process.control = -1
            self._process.reap()
            self._exit = Exit(None, 9)
            self._close_fds()

    def _close_fds(self) -> None:
        self._process.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1


def different(pid: int) -> frozenset[str]:
    """Return the namespace types in which a process differs from the caller. namespaces(7)."""
    found = set()
    for name in KINDS:
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/{name}")
            if theirs != os.readlink(f"/proc/self/ns/{name}"):
                found.add(name)
        except FileNotFoundError as error:
            if os.path.exists(f"/proc/{pid}"):
                continue  # a type that this kernel lacks
            raise SandboxGone(f"process {pid} has ended") from error
        except PermissionError as error:
            from nstool.sandbox.facts import why_hidden

            cause, remedy = why_hidden(pid)
            raise KernelError(
                f'readlink("/proc/{pid}/ns/{name}")',
                error.errno or 0,
                why="which namespaces the process is in",
                causes=(f"you may not look into process {pid}: {cause}, ptrace(2)",),
                remedies=(remedy,),
                checked=True,
            ) from None
    return frozenset(found)


def _target(pid: int, cgroups: dict[str, str]) -> join.Target:
    kinds = different(pid)
    with open(f"/proc/{pid}/setgroups", "rb") as file:
        denied = file.read().startswith(b"deny")
    with open(f"/proc/{pid}/uid_map", "rb") as file:
        has_root = any(line.split()[0] == b"0" for line in file)
    return join.Target(kinds, cgroups, denied, has_root)


def _exec_in(
    spec: Spec,
    changes: dict[str, object],
    init_pid: int,
    pidfd: int,
    cgroups: dict[str, str],
    seccomp: bytes | None,
    place: Place,
    streams: tuple[int | None, int | None, int | None] = (None, None, None),
) -> Joined:
    """Run a command in the sandbox of this init, which was made from spec.

    changes: what the command has of its own, fields of a spec; env: variables besides the spec's.
    seccomp: the filter that the sandbox was started with, where its list is one of its own.
    pidfd: of init, above the standard streams; closed here. Raises SpecError, SandboxGone when it has ended,
    KernelError for a step that was refused.
    """
    from nstool.spec.check import check

    opened = [pidfd]
    try:
        if isinstance(env := changes.get("env"), dict):
            changes = {**changes, "env": spec.env | env}
        spec = spec.replace(pass_fds=(), **changes)
        check(spec, place)
        if "user" in changes:
            try:
                spec = spec.replace(user=_numbers(init_pid, spec.user, place(("user",))))
            except (OSError, SpecError):
                if ends_within(pidfd, 0):  # so nothing was there to be read
                    raise _gone(init_pid) from None
                raise
        given = given_streams(streams, opened)
        asked = Spec(proc="none", landlock=spec.landlock, apparmor=spec.apparmor, selinux=spec.selinux)
        facts = host.read(asked, own_terminals(spec, streams)).replace(seccomp=seccomp)
        plan = join.into_sandbox(spec, facts, _target(init_pid, cgroups))
        if ends_within(pidfd, 0):  # what was read may be of another process with this pid
            raise _gone(init_pid)
        given["target"] = pidfd
        return _start(plan, given, _attest(spec, facts, cgroups, init_pid))
    finally:
        for fd in opened:
            os.close(fd)


def _gone(init_pid: int) -> SandboxGone:
    return SandboxGone(f"the sandbox of init {init_pid} has ended")


def _attest(spec: Spec, facts: Host, cgroups: dict[str, str], init_pid: int) -> Callable[[int], None] | None:
    if not spec.attest:
        return None
    from nstool.sandbox import attest  # late: as for a launch

    wanted = attest.Wanted(spec, facts, cgroups=cgroups, beside=init_pid)
    return lambda pid: attest.check(pid, wanted)


def _start(plan: Plan, given: dict[str, int], attest: Callable[[int], None] | None = None) -> Joined:
    process = engine.start(program(plan), given, _no_external)
    return Joined(process, report(process, attest))


def _no_external(name: str, args: object, pid: int) -> None:
    raise AssertionError(f"a plan that joins has no external step, but {name}")


def exec_by_name(name: str, command: tuple[str, ...], changes: dict[str, object]) -> Joined:
    """Run a command in the sandbox of this name, made by whatever process. changes: as of ``_exec_in``."""
    from nstool.spec.load import from_dict

    record = rundir.find_running(name)
    rundir.check_sandbox(record)
    spec = from_dict(record.spec | {"command": list(command)}).replace(terminal="auto")
    pidfd = _pidfd_of(record)
    known = (record.init_pid, pidfd, record.cgroups, record.seccomp)
    return _exec_in(spec, changes, *known, lambda path: f"--{path[0]}")


def _pidfd_of(record: rundir.Record) -> int:
    """Return a pidfd of the sandbox's init, above the standard streams. Raises SandboxGone."""
    try:
        low = os.pidfd_open(record.init_pid)
    except ProcessLookupError:
        raise _gone(record.init_pid) from None
    pidfd = above_streams(low)
    os.close(low)
    if not rundir.is_alive(record.init_pid, record.init_start):  # the pid is another process's by now
        os.close(pidfd)
        raise _gone(record.init_pid)
    return pidfd


def _numbers(pid: int, user: str, place: str) -> str:
    """Return "uid:gid" for a user, names as the root of the process has them. Raises SpecError, also if not mapped."""
    from nstool.sandbox import names

    try:
        found = names.lookup(Spec(user=user, root=Root(type="directory", path=f"/proc/{pid}/root"))).user
    except SpecError as error:
        raise SpecError(error.message, place) from None
    for kind, number in zip(("uid", "gid"), map(int, found.split(":"))):
        with open(f"/proc/{pid}/{kind}_map", encoding="ascii") as file:
            ranges = [(int(first), int(count)) for first, _, count in map(str.split, file)]
        if not any(first <= number < first + count for first, count in ranges):
            there = ", ".join(f"{first} to {first + count - 1}" for first, count in ranges)
            raise SpecError(f"{kind} {number} is not in the sandbox's {kind}_map: {there}", place)
    return found


# ---- enter: namespaces of anything, with the caller's rights ----


def check_types(types: tuple[str, ...]) -> None:
    """Raise SpecError for a name that is no namespace type."""
    unknown = [name for name in types if name not in KINDS]
    if unknown:
        from nstool.spec.values import quoted, suggest

        raise SpecError(f"no namespace type {quoted(unknown[0])}{suggest(unknown[0], KINDS)}", "--types")


def pid_of(target: str) -> int:
    """Return the pid that a target is, 0 if it is no number. Raises SpecError if there is no such process."""
    if not (target.isascii() and target.isdecimal()):
        return 0
    number = target.lstrip("0") or "0"  # which may have more digits than int() takes
    if not os.path.isdir(f"/proc/{number}"):
        raise SpecError(no_process(number))
    return int(number)


def namespace_files(target: str, types: tuple[str, ...]) -> tuple[dict[str, str], int]:
    """Return (type → file, pid or 0) for a pid, a namespace file, a directory of pinned ones, or a named netns.

    types: the wanted ones, empty for all that differ from the caller's. Raises SpecError.
    """
    check_types(types)
    if not target:
        raise SpecError("is empty", "TARGET")
    if pid := pid_of(target):
        kinds = different(pid)
        return {name: f"/proc/{pid}/ns/{name}" for name in (types or kinds) if name in kinds}, pid
    if os.path.isdir(target):
        found = {name: os.path.join(target, name) for name in KINDS if os.path.exists(os.path.join(target, name))}
        missing = [name for name in types if name not in found]
        if missing or not found:
            raise SpecError(
                f"holds no pinned {missing[0] if missing else 'namespace'}; `nstool pin` makes them", target
            )
        return {name: path for name, path in found.items() if not types or name in types}, 0
    if target in rundir.names():
        record = rundir.find_running(target)
        rundir.check_sandbox(record)
        return namespace_files(str(record.init_pid), types)
    path = target if "/" in target else f"/run/netns/{target}"
    if not os.path.exists(path) and os.path.exists(target):
        path = target
    if not os.path.exists(path):
        raise SpecError(
            f"neither a pid, nor a file, nor a sandbox, nor a named network namespace ({path} does not exist)",
            target,
        )
    kind = file_type(path)
    if types and types != (kind,):
        raise SpecError(f"is a {kind} namespace, not {', '.join(types)}", target)
    return {kind: path}, 0


def file_type(path: str) -> str:
    """Return the type of a namespace file. ioctl_nsfs(2), NS_GET_NSTYPE. Raises SpecError if it is none."""
    from nstool import syscalls

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO without a writer must not stop us
    try:
        flag = syscalls.ns_get_nstype(fd)
    except KernelError:
        raise SpecError("is not a namespace file; see namespaces(7)", path) from None
    finally:
        os.close(fd)
    return next(name for name, kind in KINDS.items() if kind.flag == flag)


def _maps_root(pid: int) -> bool:
    # Where it cannot be seen (a file), it is tried: the kernel says if there is no id 0.
    if not pid:
        return True
    with open(f"/proc/{pid}/uid_map", "rb") as file:
        return any(line.split()[0] == b"0" for line in file)


def _has_terminals(root: str) -> bool:
    """Whether a root has a devpts of its own, in which everybody may open a terminal. pts(4)."""
    try:
        status = os.stat(f"{root}/dev/pts/ptmx")
    except OSError:  # none, or not ours to see: the command gets the streams as they are
        return False
    return stat.S_ISCHR(status.st_mode) and status.st_mode & 0o666 == 0o666


def enter(
    target: str,
    command: tuple[str, ...],
    types: tuple[str, ...] = (),
    *,
    keep_ids: bool = False,
    cwd: str = "",
    own_terminal: bool = False,
) -> Joined:
    """Run a command in the namespaces of a target with the caller's own rights. nsenter(1).

    target: pid, namespace file, directory of pinned namespaces, or name of a network namespace.
    keep_ids: do not become id 0 of a joined user namespace. own_terminal: where a stream is a terminal and the
    target's root has a devpts of its own, the command gets one of that: ``Joined.terminal``, the caller's to relay.
    """
    if not command or not command[0]:
        raise SpecError("the name of the command is empty", "COMMAND")
    files, pid = namespace_files(target, types)
    root = f"/proc/{pid}/root" if pid and "mnt" in files else ""
    ids = (0, 0) if "user" in files and not keep_ids and _maps_root(pid) else None
    terminal = tuple(fd for fd in (0, 1, 2) if own_terminal and os.isatty(fd)) if root and _has_terminals(root) else ()
    plan = join.into_namespaces(
        command, files, dict(os.environ), root=root, ids=ids, cwd=cwd or ("/" if root else ""), terminal=terminal
    )
    opened: list[int] = []
    try:
        return _start(plan, given_streams((None, None, None), opened))
    finally:
        for fd in opened:
            os.close(fd)


def exec_into(
    sandbox: Sandbox,
    command: tuple[str, ...],
    changes: dict[str, object],
    streams: tuple[int | None, int | None, int | None],
) -> Joined:
    """Run a command in a sandbox of this process. changes: fields of its spec that the command has of its own."""
    from nstool.spec.check import key_path

    if not command or not isinstance(command[0], str):
        what = f"{command[0]!r} is no word" if command else "there is none"
        raise SpecError(f'{what}; write one argument a word: exec("id", "-u"), exec(*words)', "command")
    changes = {"command": command, **changes}
    pidfd = sandbox.copy_of_pidfd()
    known = (sandbox.init_pid, pidfd, sandbox.cgroups, sandbox.seccomp)
    return _exec_in(sandbox.spec, changes, *known, key_path, streams)
