"""Attest a sandbox, or a process, at any time after its launch: is it still what its spec asks for?"""

from __future__ import annotations

import os
from errno import ETIMEDOUT

from nstool.errors import KernelError, SandboxGone, SpecError, no_process, plural
from nstool.frozen import Frozen
from nstool.plan.build import command_filter
from nstool.plan.cgroups import UNIFIED, Layout
from nstool.plan.cgroups import wanted as wanted_controllers
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.sandbox import host, rundir
from nstool.sandbox.attest import Property, Wanted
from nstool.sandbox.attest import attest as properties
from nstool.sandbox.cgroups import own_paths
from nstool.sandbox.facts import uts_names
from nstool.sandbox.launch import ends_within, payload_pid, resolve
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.launch import Sandbox

_WALL = 0x40000000  # wait for a tracee that is no child, waitpid(2)
_CALLS = 480  # system calls of x86_64 that are compared by name
_LISTED = 5
_PATIENCE = 1.0  # seconds for a process to stop, which one in uninterruptible sleep does not


class Attestation(Frozen):
    """What was found. target: a sandbox's name or a pid, as it was given; pid: of the process that was read."""

    target: str
    pid: int
    properties: tuple[Property, ...]

    @property
    def holds(self) -> bool:
        """Whether nothing that could be read departs from what is wanted."""
        return all(one.holds is not False for one in self.properties)

    @property
    def failed(self) -> tuple[Property, ...]:
        """The properties that do not hold."""
        return tuple(one for one in self.properties if one.holds is False)


class _Target(Frozen):
    """What is attested. target: as it was given. name, cgroups, lease: of a sandbox, see Wanted."""

    target: str
    pid: int
    spec: Spec
    name: str = ""
    cgroups: dict[str, str] = {}
    lease: Lease | None = None


def attest(target: str | int | Sandbox, spec: Spec | None = None, *, read_filter: bool = False) -> Attestation:
    """Read back whether a process has every protection that a spec asks for; it may have more. proc(5).

    target: a sandbox, or the name of one, whose command is read, or a pid. spec: None for what it was made from.
    read_filter: compare the seccomp filter itself: it needs CAP_SYS_ADMIN, and stops the process for a moment by
    ptrace(2), PTRACE_SECCOMP_GET_FILTER. Raises SpecError, SandboxGone, KernelError for a filter that may not be read.
    """
    if isinstance(target, (str, int)):
        return _attest(_named_target(str(target), spec), read_filter=read_filter)
    pidfd = target.copy_of_pidfd()
    try:
        name = target.name
        one = _Target(name or str(target.pid), target.pid, spec or target.spec, name, target.cgroups, target.lease)
        found = _attest(one, read_filter=read_filter)
        if ends_within(pidfd, 0):  # what was read may be of another process with this pid
            raise SandboxGone(f"sandbox {name!r} has ended")
        return found
    finally:
        os.close(pidfd)


def _named_target(name: str, spec: Spec | None) -> _Target:
    """Return what a name or a pid stands for. Raises SpecError, SandboxGone."""
    record = rundir.find_running(name) if name in rundir.names() else None
    if record is not None and record.template:
        service = record.template["service"]
        raise SpecError(
            f"{name!r} is a template of the service {service!r}, and no sandbox: nstool service attest {service} "
            "attests those that it has made of it",
            "TARGET",
        )
    if record is not None:
        from nstool.spec.load import from_dict

        pid = payload_pid(record.init_pid) if record.spec.get("init", True) else record.init_pid
        return _Target(name, pid, from_dict(record.spec) if spec is None else spec, name, record.cgroups)
    if not (name.isascii() and name.isdecimal() and int(name)):
        raise SpecError(f"{name!r} is no pid, and there is no sandbox of this name; nstool ps lists them", "TARGET")
    if spec is None:
        raise SpecError("the spec is needed with which the process is compared", "SPEC")
    return _Target(name, int(name), spec)


def _attest(one: _Target, *, read_filter: bool) -> Attestation:
    spec = resolve(one.spec)
    facts = host.read(spec, ())
    wanted = Wanted(
        spec,
        facts,
        name=one.name,
        lease=one.lease,
        cgroups=one.cgroups,
        own_cgroups=_cgroups(one.pid, spec, facts.cgroups),
        waits=False,
    )
    found = properties(one.pid, wanted) + _hostname(one, spec) + filter_of(one.pid, spec, facts, read=read_filter)
    return Attestation(one.target, one.pid, found)


def _hostname(one: _Target, spec: Spec) -> tuple[Property, ...]:
    """Return the host name of a process beside what a spec gives it; nothing if it gives none.

    That of a named sandbox is its name if the spec says none; the spec may have another name (--name).
    """
    wanted = spec.hostname or (one.name[:64] if spec.name else "")
    if spec.namespaces.uts != "new" or not wanted:
        return ()
    pid = one.pid
    try:
        proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SandboxGone(no_process(pid)) from None
    try:
        found, _ = uts_names(proc)
    except FileNotFoundError:
        raise SandboxGone(no_process(pid)) from None
    except OSError as error:
        return (Property("hostname", wanted, f"its uts namespace may not be joined: {error.strerror}", None),)
    finally:
        os.close(proc)
    return (Property("hostname", wanted, found, found == wanted),)


def filter_of(pid: int, spec: Spec, facts: Host, *, read: bool) -> tuple[Property, ...]:
    """Return the seccomp filter of a process beside what a spec asks for; nothing if it asks for none.

    read: as ``attest`` has read_filter; else it is not known.
    """
    program = command_filter(spec, facts)
    if not program:
        return ()
    return (_filter(pid, program) if read else _unread(program),)


def _cgroups(pid: int, spec: Spec, layout: Layout | None) -> dict[str, str]:
    """Return controller to directory of the cgroups that a process is in, of those that its limits need."""
    if layout is None:
        return {}
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            paths = own_paths(file.read())
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(no_process(pid)) from None
    found = {}
    for name in wanted_controllers(spec.limits):
        controller = layout.controllers[name]
        path = paths.get(name if controller.version == 1 else UNIFIED)
        if path is not None:
            found[name] = controller.mount + path.rstrip("/")
    return found


def _named(program: bytes) -> str:
    from nstool.security.seccomp_bpf import INSTRUCTION

    return f"the filter itself, {len(program) // INSTRUCTION} instructions"


def _unread(wanted: bytes) -> Property:
    return Property("seccomp", _named(wanted), "not asked for: --filter, read_filter=True", None)


def _filter(pid: int, wanted: bytes) -> Property:
    try:
        found = filters(pid)
    except KernelError as error:
        why = "root alone may read it, CAP_SYS_ADMIN and CAP_SYS_PTRACE" if os.geteuid() else "it may not be traced"
        return Property("seccomp", _named(wanted), f"{why}: {error.errno_name}", None)
    if wanted in found:
        return Property("seccomp", _named(wanted), "that filter", True)
    refused = {name for program in found for name in _refused(program)}
    looser = [name for name in _refused(wanted) if name not in refused]
    shown = " ".join(looser[:_LISTED]) + (f" and {len(looser) - _LISTED} more" if len(looser) > _LISTED else "")
    others = plural(len(found), "other filter")
    return Property("seccomp", _named(wanted), others + (f", allowing {shown}" if looser else ""), False)


def _refused(program: bytes) -> list[str]:
    """Return the calls that a filter refuses, as far as that shows with no arguments."""
    from nstool.security.seccomp import call_name
    from nstool.security.seccomp_bpf import answer
    from nstool.security.seccomp_rules import refuses

    return [call_name(number) for number in range(_CALLS) if refuses(answer(program, number))]


def filters(pid: int) -> tuple[bytes, ...]:
    """Return the seccomp filters of a process, the newest first: each an array of struct sock_filter. ptrace(2).

    The process is stopped for a moment. Raises KernelError: EPERM to who may not trace it, EACCES without
    CAP_SYS_ADMIN, ETIMEDOUT when it does not stop within a second: it is in uninterruptible sleep.
    """
    from nstool import syscalls, uapi

    syscalls.ptrace(uapi.PTRACE_SEIZE, pid)
    syscalls.ptrace(uapi.PTRACE_INTERRUPT, pid)
    _await_stop(pid)  # who does not stop cannot be let go either, but by the end of this thread
    try:
        found: list[bytes] = []
        while (program := syscalls.seccomp_filter(pid, len(found))) is not None:
            found.append(program)
        return tuple(found)
    finally:
        syscalls.ptrace(uapi.PTRACE_DETACH, pid)


def _await_stop(pid: int) -> None:
    import time

    end = time.monotonic() + _PATIENCE
    while True:
        reported, status = os.waitpid(pid, os.WNOHANG | _WALL)
        if reported and os.WIFSTOPPED(status):
            return
        if reported:
            raise SandboxGone(no_process(pid))
        if time.monotonic() > end:
            raise KernelError("ptrace(PTRACE_INTERRUPT)", ETIMEDOUT, why=f"process {pid} does not stop")
        time.sleep(0.001)
