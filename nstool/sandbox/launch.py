"""Launch a spec: check, lease, plan, journal, run; and the Sandbox that comes of it."""

from __future__ import annotations

import os
import sys
from _stat import S_ISDIR
from _thread import RLock, allocate_lock, get_native_id

from nstool.closing import Closing, is_open
from nstool.errors import NstoolError, SandboxGone, SpecError
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.plan import build
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import Plan
from nstool.plan.template import TOKENS, Program, Template, speaks_of_tokens
from nstool.plan.template import program as whole
from nstool.sandbox import cgroups, engine, host, journal, leases, rundir, spare
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from nstool.network.facts import Addresses
    from nstool.sandbox.join import Joined


# What preparing, taking a lease and undoing have open at the same time, and some more; nft(8) and netlink need pipes.
_SPARE_FDS = 6
_SPARE_FDS_LINKED = 16
_TELLS = 5.0  # seconds for init to tell that the command's process has ended
_LONGEST = (1 << 31) - 1  # milliseconds that poll(2) takes


class Exit(Frozen):
    """How a sandbox ended. code: exit status, or None when signal ended it. core: a core was dumped.

    oom: the kernel killed something in the sandbox for lack of memory; None: not known, its memory cgroup was
    removed. What somebody moved out of that cgroup is not counted. init_killed: init itself was
    killed, so nothing is known of the command. utime, stime: seconds; maxrss: KiB (getrusage(2)).
    """

    code: int | None
    signal: int | None = None
    core: bool = False
    oom: bool | None = False
    init_killed: bool = False
    utime: float = 0.0
    stime: float = 0.0
    maxrss: int = 0

    @property
    def status(self) -> int:
        """The exit status as a shell gives it: 128+n for signal n."""
        return self.code if self.code is not None else 128 + (self.signal or 0)

    @property
    def wait_status(self) -> int:
        """The status as wait(2) gives it."""
        return (self.code or 0) << 8 | (self.signal or 0) | self.core << 7


class _Context:
    """What external steps are told, see network.external.Context."""

    def __init__(
        self,
        lease: Lease,
        interruptible: AbstractContextManager[object] | None,
        trace: Callable[[int], None] | None = None,
    ) -> None:
        self.lease = lease
        self.trace = trace
        self.interruptible = interruptible
        self.pid = 0
        self.held: list[Any] = []


class Sandbox(Closing):
    """A running sandbox. A context manager: leaving it ends the sandbox and undoes all that was made.

    pid: of the command, in the terms of the caller's pid namespace. init_pid: of its init.
    pidfd: of init; stays the sandbox's. name, spec, plan, lease: what it was made from.
    Safe from several threads.
    """

    def __init__(
        self, spec: Spec, program: Program, lease: Lease, process: engine.Process, context: _Context, cg: dict[str, str]
    ) -> None:
        self.spec = spec
        self.lease = lease
        self.cgroups = cg
        self.seccomp: bytes | None = None  # the filter of a list of its own, as it was when the launch read it
        self.terminal = -1  # master of the sandbox's terminal, the caller's to relay; closed by close()
        self._program = program
        self._process = process
        self._context = context
        self._exit: Exit | None = None
        self._undone = False
        self._lock = allocate_lock()
        self._fds = RLock()  # held while they are used or closed; a signal handler may come in between
        self._pid = 0
        self._maker = os.getpid()

    @property
    def name(self) -> str:
        """The name by which `nstool exec` and others find it."""
        return self.lease.name

    @property
    def program(self) -> Program:
        """What the engine ran."""
        return self._program

    @property
    def control(self) -> int:
        """The launcher's end of the control socket."""
        return self._process.control

    @property
    def held(self) -> list[Any]:
        """Sockets that hold published ports for as long as it lives."""
        return self._context.held

    @property
    def plan(self) -> Plan:
        """The plan that made it."""
        return self._program.plan

    @property
    def init_pid(self) -> int:
        """Pid of init, or of the command when there is no init."""
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """Pidfd of init; poll it for readability to learn of the end. pidfd_open(2)."""
        return self._process.pidfd

    @property
    def pid(self) -> int:
        """Pid of the command as the caller sees it. Raises SandboxGone when it has ended."""
        if not self.spec.init:
            return self._process.pid
        if not self._pid:
            self._pid = payload_pid(self._process.pid)
        return self._pid

    @property
    def ended(self) -> bool:
        """Whether its end is known already."""
        return self._exit is not None

    @property
    def addresses(self) -> Addresses:
        """The links, addresses and routes of its network namespace, read from there. Raises SandboxGone."""
        from nstool.network.facts import addresses

        pidfd = self.copy_of_pidfd()
        try:
            try:
                found = addresses(self.init_pid)
            except OSError:  # of a process that has ended: ESRCH, ENOENT, or EACCES
                if ends_within(pidfd, 0):
                    raise self._gone() from None
                raise
            if ends_within(pidfd, 0):  # what was read may be of another process with this pid
                raise self._gone()
            return found
        finally:
            os.close(pidfd)

    def signal(self, number: int) -> None:
        """Send a signal to the command (init forwards it). SIGKILL and SIGSTOP reach it alone too.

        Raises SandboxGone when it has ended.
        """
        try:
            with self._fds:
                self._process.signal(number)
        except ProcessLookupError:
            raise self._gone() from None

    def _gone(self) -> SandboxGone:
        return SandboxGone(f"sandbox {self.name!r} has ended")

    def kill(self) -> None:
        """End everything in it at once: init is killed, and the kernel kills the rest."""
        import _signal

        if self.spec.init and self.spec.namespaces.pid != "new":
            self._kill_command()
            return
        with self._fds:
            if self._process.pidfd >= 0:
                try:
                    _signal.pidfd_send_signal(self._process.pidfd, 9)
                except ProcessLookupError:  # it has ended by itself
                    return

    def _kill_command(self) -> None:
        # A monitor is no init, with which all others die: it stays to reap the command.
        try:
            self.signal(9)
        except SandboxGone:
            return

    def wait(self, timeout: float | None = None) -> Exit:
        """Wait for the end, undo what was made, and return how the command ended.

        timeout: seconds; raises TimeoutError. Called again, it returns the same.
        """
        check_timeout(timeout)
        if self._exit is None and timeout is not None and not self._ends_within(timeout):
            raise still_runs(f"sandbox {self.name!r}", timeout)
        with self._lock:
            if self._exit is None:
                self._exit = ending(self._process, self.cgroups)
            self._undo()
            if self._exit is None:
                raise status_taken(f"sandbox {self.name!r}", self._process)
            return self._exit

    def copy_of_pidfd(self) -> int:
        """Return another fd of ``pidfd``, above the standard streams: another thread that waits may close the one.

        Raises SandboxGone when that has happened.
        """
        with self._fds:
            if self._process.pidfd < 0:
                raise self._gone()
            return above_streams(self._process.pidfd)

    def _ends_within(self, timeout: float) -> bool:
        try:
            pidfd = self.copy_of_pidfd()
        except SandboxGone:
            return True
        try:
            return ends_within(pidfd, timeout)
        finally:
            os.close(pidfd)

    def _undo(self) -> None:
        if self._undone:
            return
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        with self._fds:
            self._process.close()
        if self._exit is not None and self.name:
            journal.ended(self.name, self._exit.wait_status)
        undo(self._program, self.lease, self._context)
        self._undone = True

    def close(self) -> None:
        """End the sandbox if it runs, and undo what was made. Idempotent."""
        if not self._undone:
            self.kill()
            self.wait()

    def exec(
        self,
        *command: str,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Joined:
        """Run another command in the sandbox, with its credentials and hardening.

        stdin, stdout, stderr: as of ``launch``. user, cwd: other ones than the spec's; user: "uid", "uid:gid", or names
        of the sandbox. env: variables that are set besides the spec's.
        Raises SpecError (nothing done), SandboxGone when it has ended, KernelError for a step that was refused.
        """
        from nstool.sandbox.join import exec_into

        changes: dict[str, object] = {"user": user, "cwd": cwd, "env": env}
        changes = {key: value for key, value in changes.items() if value is not None}
        return exec_into(self, command, changes, (stdin, stdout, stderr))

    def __del__(self) -> None:
        # A copy in a forked process ends nothing; at the end of the process the sandbox ends by itself.
        if self._undone or self._maker != os.getpid() or sys.is_finalizing():
            return
        import warnings

        try:
            text = f"{self!r} was forgotten and is ended: close it, or use it in a with block"
            warnings.warn(text, ResourceWarning, stacklevel=2, source=self)
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Sandbox {self.name} init {self.init_pid}{' ended' if self._exit else ''}>"


def ending(process: engine.Process, groups: dict[str, str]) -> Exit | None:
    """Wait for the end and return how the command ended; None when another wait has taken the status.

    groups: the cgroups of the sandbox, which know whether the kernel killed something.
    """
    told = None
    if process.program.init:
        process.await_end()
        for _ in range(engine.LATE):
            message = process.read()
            if message is None:
                break
            if message.type == engine.EXITED:
                told = message
    status = process.reap()
    if told is not None:
        status = told.status
    if status is None:
        return None
    number = status & 0x7F
    return Exit(
        None if number else status >> 8 & 0xFF,
        number or None,
        bool(status & 0x80),
        cgroups.oom_killed(groups),
        process.program.init and told is None and number > 0,
        *((told.utime_us / 1e6, told.stime_us / 1e6, told.maxrss_kb) if told else ()),
    )


def status_taken(what: str, process: engine.Process) -> NstoolError:
    """Return the error for a command of which ``ending`` does not know how it ended."""
    return NstoolError(
        f"{what} has ended, but its status was taken by another wait in this process: wait for children by pid only"
        + ("" if process.program.init else ", or use a sandbox with init")
    )


def check_timeout(timeout: float | None) -> None:
    """Raise TypeError for what is no time to wait."""
    if timeout is not None and not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds or None, not {timeout!r}")


def still_runs(what: str, timeout: float | None) -> TimeoutError:
    """Return the error of a ``wait`` that was too short."""
    return TimeoutError(f"{what} still runs after {timeout} s")


def ends_within(pidfd: int, timeout: float) -> bool:
    """Wait so many seconds for the end of a process; whether it has ended. pidfd_open(2)."""
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(min(max(timeout, 0) * 1000, _LONGEST)))


def payload_pid(init_pid: int) -> int:
    """Return the pid of init's child, the command. proc_tid_children(5). Raises SandboxGone."""
    try:
        with open(f"/proc/{init_pid}/task/{init_pid}/children", "rb") as file:
            children = file.read().split()
    except (FileNotFoundError, ProcessLookupError):
        children = []
    if not children:
        raise SandboxGone(f"the sandbox of init {init_pid} has ended")
    return int(children[0])  # the first that it made; orphans come after it


def launch(
    spec: Spec,
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    pass_fds: tuple[int, ...] | None = None,
) -> Sandbox:
    """Make the sandbox of a spec and return it once its command runs.

    stdin, stdout, stderr: fds for the command, None for the caller's own, of which closed ones become /dev/null.
    Raises SpecError (nothing done), NotSupported (nothing done), KernelError (all undone).
    """
    from nstool.spec.check import check_is_spec

    check_is_spec(spec)
    streams = (stdin, stdout, stderr)
    own = own_terminals(spec, streams)
    if pass_fds is not None:
        spec = spec.replace(pass_fds=pass_fds)
    return Prepared(spec, own).launch(stdin=stdin, stdout=stdout, stderr=stderr)


def own_terminals(spec: Spec, streams: tuple[int | None, ...] = (None, None, None)) -> tuple[int, ...]:
    """Return which of the caller's standard streams are terminals that the spec has relayed."""
    return tuple(n for n, fd in enumerate(streams) if fd is None and os.isatty(n)) if spec.terminal == "auto" else ()


def prepare(spec: Spec) -> Prepared:
    """Check and plan a spec once, to launch it many times. Raises as ``launch``.

    Its facts of the host are those of now: prepare again when the root or the mounts have changed.
    The command gets no terminal of its own unless the spec says always.
    """
    return Prepared(spec, ())


class Prepared:
    """A spec that is checked and planned; each launch takes only what the sandbox has to itself. Thread-safe."""

    def __init__(
        self,
        spec: Spec,
        terminals: tuple[int, ...],
        *,
        listed: bool = False,
        trace: Callable[[int], None] | None = None,
    ) -> None:
        """listed: in the registry in any case, for others to find it by its name.

        trace: is given the pid of init, which waits, to trace it and what it makes; may raise KernelError.
        """
        from nstool.spec.check import check

        check(spec)
        self._spare = _SPARE_FDS_LINKED if spec.net.mode in leases.NET_MODES else _SPARE_FDS
        spare.need(self._spare)
        self.spec = spec = resolve(spec)
        self._trace = trace
        self._host = facts = host.read(spec, terminals).replace(traced=trace is not None)
        if spec.net.mode in leases.NET_MODES:
            from nstool.network.preflight import overlaps, privilege

            for problem in (*privilege(spec.net), *overlaps(spec.net)):  # before anything is leased or journalled
                from nstool.plan import preflight

                self._plan(preflight.LEASE)  # what is wrong with the spec itself comes first, as in check
                raise problem
        # What is derived from an address cannot be filled in afterwards; making the link costs far more.
        # Nor is an external step's part; unpacking costs far more, too.
        self._template = None if _is_linked(spec) or speaks_of_tokens(spec) else Template(self._plan)
        self._cgroup_paths = build.cgroup_paths(spec, facts, TOKENS)
        self._registered = listed or is_registered(spec, facts)

    def _plan(self, lease: Lease) -> Plan:
        return build.plan(self.spec, self._host, lease)

    def launch(
        self,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        pass_fds: tuple[int, ...] | None = None,
        interruptible: AbstractContextManager[object] | None = None,
    ) -> Sandbox:
        """Make one sandbox; as the function ``launch``.

        interruptible: entered for what may take long; an exception there ends it, and all is undone.
        One without a name that makes nothing outside and has no ids of its own is in no registry, unless it
        was to be listed: only its maker knows of it.
        """
        _check_thread(self.spec)
        if self._registered:
            spare.need(self._spare)
        lease = leases.take(self.spec) if self._registered else leases.unregistered()
        context = _Context(lease, interruptible, self._trace)
        opened: list[int] = []
        program: Program | None = None
        try:
            try:
                program = self._template.fill(lease) if self._template else whole(self._plan(lease))
                groups = self._cgroups(lease)
                if self._registered:
                    outlives = not self.spec.die_with_parent
                    journal.begin(
                        lease.name,
                        program.undo,
                        cgroups=groups,
                        spec=self.spec.changed(),
                        outlives=outlives,
                        seccomp=self._host.seccomp,
                    )
                given = _given(self.spec, program, (stdin, stdout, stderr), pass_fds, opened, self._host, lease)
                process = engine.start(
                    program, given, lambda name, args, pid: _external(context, name, args, pid), self._cloned(lease)
                )
                terminal = report(process, self._attest(lease, groups))
            finally:
                for fd in opened:
                    os.close(fd)
        except BaseException:
            undo(program, lease, context)
            raise
        sandbox = Sandbox(self.spec, program, lease, process, context, groups)
        sandbox.terminal = terminal
        sandbox.seccomp = self._host.seccomp
        return sandbox

    def _attest(self, lease: Lease, groups: dict[str, str]) -> Callable[[int], None] | None:
        if not self.spec.attest:
            return None
        from nstool.sandbox import attest  # late: who wants none loads none

        wanted = attest.Wanted(self.spec, self._host, lease.name, lease, groups)
        return lambda pid: attest.check(pid, wanted)

    def _cgroups(self, lease: Lease) -> dict[str, str]:
        return {name: path.replace(TOKENS.cgroup, lease.cgroup) for name, path in self._cgroup_paths.items()}

    def _cloned(self, lease: Lease) -> Callable[[int], None]:
        return lambda pid: journal.started(lease.name, pid) if self._registered else None


def _is_linked(spec: Spec) -> bool:
    return spec.net.mode in leases.NET_MODES or spec.root.type == "tarball"


def is_registered(spec: Spec, facts: Host) -> bool:
    """Whether the sandbox of a spec has something to itself, so that it leases it and is in the run directory."""
    own_ids = facts.privileged and spec.namespaces.user == "new" and not spec.uid_map
    return bool(spec.name or _is_linked(spec) or own_ids or build.cgroup_paths(spec, facts, TOKENS))


def _check_thread(spec: Spec) -> None:
    """Raise SpecError where the command would end with the calling thread. PR_SET_PDEATHSIG(2const)."""
    if not spec.init and spec.die_with_parent and get_native_id() != os.getpid():
        raise SpecError(
            "without init and with die_with_parent the command would be killed when this thread ends, not the process: "
            "launch it from the main thread (not with launch_async), keep init, or set die_with_parent = false",
            "init",
        )


def preview(spec: Spec) -> Plan:
    """Return the plan that ``launch`` would run next; nothing is done, what is leased is given back."""
    from nstool.spec.check import check

    check(spec)
    own = own_terminals(spec)
    spec = resolve(spec)
    lease = leases.take(spec)
    try:
        return build.plan(spec, host.read(spec, own), lease)
    finally:
        journal.undo(lease.name, (), lease)


def resolve(spec: Spec) -> Spec:
    """Return the spec with numbers for names: users and groups from the root, sandboxes whose namespaces are joined."""
    spec = _resolve_joins(spec)
    words = spec.user.split(":")
    if all(word.isdecimal() for word in (*words, *(g for g in spec.groups if g != "keep"))):
        return spec
    from nstool.sandbox.names import lookup
    from nstool.spec.check import check

    found = lookup(spec)
    check(found)  # what depends on the number
    return found


def _resolve_joins(spec: Spec) -> Spec:
    """Return the spec with the pid of init for the name of a sandbox, and with the file in a directory of pins."""
    changes = {}
    for kind in KINDS:
        value = getattr(spec.namespaces, kind)
        if value not in ("new", "host") and kind != "net":
            changes[kind] = _joined(kind, value, f"namespaces.{kind}")
    if spec.net.mode == "join":
        target = _joined("net", spec.net.target, "net.target")
        spec = spec.replace(net=spec.net.replace(target=target))
        if spec.namespaces.net != "new":  # it says the same
            changes["net"] = target
    return spec.replace(namespaces=spec.namespaces.replace(**changes)) if changes else spec


def _joined(kind: str, value: str, key: str) -> str:
    if value.isdecimal():
        return value
    if "/" not in value:
        if kind == "net" and os.path.exists(f"/run/netns/{value}"):
            return value
        if value in rundir.names():
            return str(rundir.find_running(value).init_pid)
    if os.path.isdir(value):
        path = os.path.abspath(f"{value}/{kind}")
        if not os.path.lexists(path):
            raise SpecError(f"{value} holds no pinned {kind} namespace; `nstool pin` makes them", key)
        return path
    if "/" not in value and kind != "net":
        from nstool.spec.values import quoted, suggest

        known = suggest(value, ("new", "host", *rundir.names()))
        raise SpecError(f'{quoted(value)} is neither "new" nor "host" nor a path, a pid or a sandbox{known}', key)
    return value


def undo(program: Program | None, lease: Lease, context: _Context | None) -> None:
    """Undo what the program has made outside, and give the lease back."""
    if lease.name:
        journal.undo(lease.name, program.undo if program else (), lease)
    if context is not None and context.held:
        from nstool.network import ports

        ports.release(context.held)


def _external(context: _Context, name: str, args: object, pid: int) -> None:
    if pid and not context.pid:
        context.pid = pid
        journal.started(context.lease.name, pid)
    if name == "trace":
        assert context.trace is not None
        context.trace(pid)
        return
    journal.handler(name)(context, args)


def _given(
    spec: Spec,
    program: Program,
    streams: tuple[int | None, ...],
    pass_fds: tuple[int, ...] | None,
    opened: list[int],
    facts: Host,
    lease: Lease,
) -> dict[str, int]:
    given: dict[str, int] = {}
    given |= given_streams(streams, opened)
    passed = spec.pass_fds if pass_fds is None else pass_fds
    if len(passed) != len(spec.pass_fds):
        raise SpecError(f"the spec was prepared for {len(spec.pass_fds)} fds, {len(passed)} are given", "pass_fds")
    check_open(passed)
    given |= {f"pass{number}": fd for number, fd in enumerate(passed)}
    if "userns" in program.slots:
        fd = engine.userns(build.maps(spec, facts, lease))
        opened.append(fd)
        given["userns"] = fd
    return given


def check_open(passed: tuple[int, ...]) -> None:
    """Raise SpecError if one of the fds to pass is not open here."""
    for number, fd in enumerate(passed):
        if not is_open(fd):
            raise SpecError(f"fd {fd} is not open in the launcher", f"pass_fds[{number}]")


def given_streams(streams: tuple[int | None, ...], opened: list[int]) -> dict[str, int]:
    """Return the fds of the three standard streams; the caller's own become /dev/null where they are closed.

    opened: fds to close later. Raises SpecError for one that is given and not open.
    """
    given = {}
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = streams[number]
        fd = number if stream is None else _fileno(stream, name)
        mode = _mode(fd)
        if S_ISDIR(mode):
            raise SpecError(
                f"fd {fd} is a directory, by which the command would reach the files round it: "
                "pass it by pass_fds if that is meant",
                name,
            )
        if not mode:
            if stream is not None:
                raise SpecError(f"fd {fd} is not open in the launcher", name)
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            fd = above_streams(null)
            os.close(null)
            opened.append(fd)
        if fd <= 2 and fd != number:  # a stream in another's place would be overwritten before it is moved
            fd = above_streams(fd)
            opened.append(fd)
        given[name] = fd
    return given


def _fileno(stream: object, name: str) -> int:
    try:
        fd = stream if isinstance(stream, int) else getattr(stream, "fileno", lambda: None)()
    except (OSError, ValueError):  # a file that is closed, or that has no fd
        fd = None
    if not isinstance(fd, int) or fd < 0:
        raise SpecError(f"{stream!r} is neither an open fd nor a file; for a pipe use os.pipe()", name)
    return fd


def above_streams(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _mode(fd: int) -> int:
    """Return the mode of what an fd is open on, 0 if it is not open."""
    try:
        return os.fstat(fd).st_mode
    except OSError:
        return 0


def _attested(process: engine.Process, attest: Callable[[int], None]) -> None:
    """Attest the process that waits before its exec, and let it go on; of one that has ended the next message tells."""
    try:
        attest(payload_pid(process.pid) if process.program.init else process.pid)
        process.release()
    except (SandboxGone, ProcessLookupError) as error:
        if not process.tells_within(_TELLS):
            why = "the command's process waits to be attested, and cannot be found: is /proc of another pid namespace?"
            raise NstoolError(f"{why}\nremedy: mount a /proc of yours, or attest = false (--no-attest)") from error


def report(process: engine.Process, attest: Callable[[int], None] | None = None) -> int:
    """Wait until the command runs. Returns the terminal's master or -1.

    attest: called with the pid of the command's process when that waits before its exec; an exception ends it.
    Raises KernelError for a step that was refused, NstoolError if init was killed; the process is gone then.
    """
    terminal = -1
    try:
        while True:
            message, fd = process.receive() if terminal < 0 and process.sends_fd else (process.read(), -1)
            if message is None:
                if process.program.init:
                    raise engine.ended_early(process.reap())
                return terminal
            if message.type == engine.FD:
                terminal = fd
            elif message.type == engine.READY and attest is not None:
                _attested(process, attest)
                attest = None
            elif message.type == engine.FAILED:
                raise engine.failed(process.program.plan, message.step, message.error, message.detail)
            else:  # STARTED, or what only a command that runs can have sent
                return terminal
    except BaseException:
        if terminal >= 0:
            os.close(terminal)
        process.kill_and_reap()
        raise
