"""Attestation of a service's sandbox: what the kernel says of it, and whether it would find its command."""

from __future__ import annotations

import errno
import os
import stat

from nstool import syscalls, uapi
from nstool.detectors.scene import Scene
from nstool.errors import KernelError, SandboxGone
from nstool.plan import build
from nstool.plan.describe import call_text
from nstool.plan.hints import explain
from nstool.plan.lease import Lease
from nstool.plan.preflight import foreseen
from nstool.plan.steps import Plan
from nstool.sandbox import inside
from nstool.sandbox.attest import Wanted, check
from nstool.sandbox.engine import in_short
from nstool.sandbox.launch import payload_pid
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.service.generation import Generation


_GONE = "the sandbox that was to be attested has ended"


def attest(generation: Generation, place: int, inner: int, *, first: bool = False) -> int:
    """Attest the sandbox of a place, whose init the template knows by this pid. Returns its pid.

    first: of its generation, of which it is also asked whether its user may execute the command.
    Raises NotAttested, KernelError for a command that is not there, SandboxGone.
    """
    assert generation.blueprint is not None
    assert generation.variant is not None
    variant, facts = generation.variant
    wanted = wanted_of(generation, place)
    init = _outer(generation.pid, inner)
    spec = wanted.spec
    try:
        pid = payload_pid(init) if spec.init else init
        check(pid, wanted)
        number = _looked_up(pid, spec, _as_user if first else _is_executable)
        if number or first:
            planned = build.plan(variant, facts, wanted.lease or Lease(name=""))
            _raise_refused(planned, number, generation.blueprint.place(generation.variant, ("command",)))
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(_GONE) from None
    return init


def wanted_of(generation: Generation, place: int) -> Wanted:
    """Return what the sandbox is to have that is in a place now, before its command's exec."""
    blueprint = generation.blueprint
    assert blueprint is not None
    assert generation.lease is not None
    assert generation.board is not None
    assert generation.variant is not None
    variant, facts = generation.variant
    spec = blueprint.sandbox_spec(variant, generation.passed)
    spec = spec.replace(pass_fds=tuple(range(3, 3 + generation.passed)))
    made = generation.lease.replace(count=blueprint.sized.count)
    lease: Lease | None = None  # ids of the template's own user, of which each has a part, or all the same
    ranges = blueprint.sized.ranges
    own = 1 + place * ranges + generation.board.turn(place) % ranges
    if len(generation.bases) > own:
        uid, gid = generation.bases[own]
        lease = made.replace(uid_base=uid, gid_base=gid)
    return Wanted(
        spec,
        facts,
        name=spec.hostname,
        lease=lease,
        cgroups=generation.groups[place].cgroups,
        template=generation.pid,
        clocks=blueprint.clocks(generation.number, generation.lease),
    )


# ---- whether its command can be executed, asked while it waits before its exec ----


def _looked_up(pid: int, spec: Spec, how: Callable[[int, int, tuple[str, ...]], int]) -> int:
    """Return 0 if a process would find its command in its root, else the errno that execve(2) would have."""
    paths = build.candidates(spec.command[0], spec.env.get("PATH", build.PATH))
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    try:
        return how(pid, root, tuple(os.path.join(spec.cwd or "/", path) for path in paths))
    finally:
        os.close(root)


def _is_executable(pid: int, root: int, paths: tuple[str, ...]) -> int:
    """Look whether one of them is there, and anybody may execute it."""
    return _first_of(root, paths, lambda fd: bool(os.fstat(fd).st_mode & 0o111))


def _as_user(pid: int, root: int, paths: tuple[str, ...]) -> int:
    """Ask the kernel whether the process may execute one of them: in a child that has its user and its groups."""
    user = inside.open_namespace(pid, "user")
    try:
        return inside.call({"user": user}, may_execute, pid, root, paths, keep=(root,))
    finally:
        os.close(user)


def may_execute(pid: int, root: int, paths: tuple[str, ...]) -> int:
    """Become the user that a process is, and ask that; in a child in its user namespace, which ids are those of."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))
    groups = [int(word) for word in fields["Groups"].split()]
    capabilities = int(fields["CapEff"], 16)
    if sorted(groups) != sorted(os.getgroups()):  # else they cannot always be set: user_namespaces(7), setgroups
        syscalls.setgroups(groups)
    syscalls.setresgid(gid, gid, gid)
    syscalls.setresuid(uid, uid, uid)
    syscalls.capset(capabilities, capabilities, 0)
    return _first_of(root, paths, lambda fd: os.access(f"/proc/self/fd/{fd}", os.X_OK, effective_ids=True))


def _first_of(root: int, paths: tuple[str, ...], executable: Callable[[int], bool]) -> int:
    number = errno.ENOENT
    for path in paths:
        try:
            fd = syscalls.open_within(root, path, uapi.O_PATH | uapi.O_CLOEXEC, uapi.RESOLVE_IN_ROOT)
        except KernelError as error:
            if error.errno == errno.EACCES:
                number = errno.EACCES
            continue
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode) and executable(fd):
                return 0
        finally:
            os.close(fd)
        number = errno.EACCES
    return number


def _raise_refused(planned: Plan, number: int, place: str) -> None:
    """Raise KernelError for a command that would be refused, by errno or by what the catalogue foresees.

    planned: the same sandbox in one piece, of which the catalogue's detectors know what it sees.
    """
    step = next(step for step in planned.steps if step.call == "execve")
    if number:
        raise KernelError(call_text(in_short(step)), number, place, step.why, *explain(step, number, 0, planned))
    for problem, number in foreseen(Scene(step, plan=planned)):
        raise KernelError(
            call_text(in_short(step)), number, place, step.why, (problem.cause,), (problem.remedy,), problem.checked
        )


def _outer(template: int, inner: int) -> int:
    """Return the pid of a child of the template here. proc_pid_status(5), NSpid. Raises SandboxGone."""
    found = inits_of(template).get(inner)
    if found is None:
        raise SandboxGone(_GONE)
    return found


def inits_of(template: int) -> dict[int, int]:
    """Return the pids of the inits of a template's sandboxes here, by those by which the template knows them."""
    found = {}
    for child in processes_of(template):
        try:
            with open(f"/proc/{child}/status", "rb") as file:
                inner = inner_pid(file.read(), template)
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[inner] = child
    found.pop(0, None)
    return found


def inner_pid(status: bytes, template: int) -> int:
    """Return the pid by which a template knows a child of its own; 0 of another process. proc_pid_status(5).

    status: that file; the name in it is what the process likes, any bytes but a line's end.
    """
    fields = dict(line.split(b":\t", 1) for line in status.split(b"\n") if b":\t" in line)
    numbers = fields.get(b"NSpid", b"").split()
    # It is 1 in its own pid namespace, and the template's number of it stands before that.
    return int(numbers[-2]) if fields.get(b"PPid") == b"%d" % template and len(numbers) > 1 else 0


def processes_of(template: int) -> list[int]:
    """Return the pids of the inits of a template's sandboxes. proc_tid_children(5)."""
    try:
        with open(f"/proc/{template}/task/{template}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


# ---- whether its command has begun ----


def plans_of(template: int) -> set[bytes]:
    """Return which files a template has its plans in: a sandbox lets them go when its command begins."""
    return _shared(template)


def has_begun(init: int, plans: set[bytes]) -> bool:
    """Whether the command was executed, or the copy of a zygote is about to call its function.

    Until then the template's plans are in its memory, in which no sandbox can have them later. An init keeps them:
    its command is its child. Raises SandboxGone where it has none yet.
    """
    return not _shared(init) & plans or not _shared(payload_pid(init)) & plans


def _shared(pid: int) -> set[bytes]:
    """Return what files are in the memory of a process and others', by device and inode. proc_pid_maps(5)."""
    with open(f"/proc/{pid}/maps", "rb") as file:
        lines = [line.split(None, 5) for line in file]
    return {b" ".join(line[3:5]) for line in lines if line[1].endswith(b"s")}
