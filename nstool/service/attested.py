"""Attestation of a service's sandbox: what the kernel says of it, and whether it would find its command."""

from __future__ import annotations

import errno
import os
import stat

from nstool import syscalls, uapi
from nstool.errors import KernelError, SandboxGone
from nstool.plan.build import PATH, candidates
from nstool.plan.describe import call_text
from nstool.plan.hints import explain
from nstool.plan.lease import Lease
from nstool.plan.steps import PAYLOAD, Step
from nstool.sandbox.attest import Wanted, check
from nstool.sandbox.launch import payload_pid
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.service.generation import Generation


_GONE = "the sandbox that was to be attested has ended"


def attest(generation: Generation, place: int, inner: int) -> int:
    """Attest the sandbox of a place, whose init the template knows by this pid. Returns its pid.

    Raises NotAttested, KernelError for a command that is not there, SandboxGone.
    """
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
    groups = generation.groups[place]
    wanted = Wanted(
        spec,
        facts,
        name=spec.hostname,
        lease=lease,
        cgroups=groups.cgroups,
        template=generation.pid,
        clocks=blueprint.clocks(generation.number, generation.lease),
    )
    init = _outer(generation.pid, inner)
    try:
        pid = payload_pid(init) if spec.init else init
        check(pid, wanted)
        _check_command(pid, spec)
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(_GONE) from None
    return init


def _check_command(pid: int, spec: Spec) -> None:
    """Raise KernelError where a process that waits before its exec would not find its command. execve(2)."""
    paths = candidates(spec.command[0], spec.env.get("PATH", PATH))
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
    number = errno.ENOENT
    try:
        for path in paths:
            try:
                fd = syscalls.openat2(root, path, uapi.O_PATH | uapi.O_CLOEXEC, resolve=uapi.RESOLVE_IN_ROOT)
            except OSError:
                continue
            mode = os.fstat(fd).st_mode
            os.close(fd)
            if stat.S_ISREG(mode) and mode & 0o111:
                return
            number = errno.EACCES
    finally:
        os.close(root)
    step = Step(PAYLOAD, "execve", (paths[:1], spec.command, ()), "the command")
    raise KernelError(call_text(step), number, "", step.why, *explain(step, number))


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
