"""Say before anything is done what of a spec this host cannot do, with the detectors that explain failures."""

from __future__ import annotations

from nstool.errors import KernelError, NotSupported
from nstool.frozen import Frozen
from nstool.plan.describe import call_text
from nstool.plan.lease import Lease
from nstool.plan.steps import LAUNCHER, UNDO, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nstool.detectors.scene import Scene
    from nstool.plan.host import Host
    from nstool.spec.model import Mount, Spec

    Trial = Callable[[Spec, Host], KernelError | None]

# Values that no sandbox gets: the plan is made to be looked at only.
LEASE = Lease(
    name="check",
    uid_base=0x7FFE0000,
    gid_base=0x7FFE0000,
    cgroup="nstool-check",
    link="ns-check",
    address="10.213.255.254/30",
    gateway="10.213.255.253/30",
    address6="fd6e:7374:6f6f::2/126",
    gateway6="fd6e:7374:6f6f::1/126",
)


class Problem(Frozen):
    """One thing that this host cannot do. what: of the spec, or the step's purpose. call: the step, or empty.

    checked: the cause has been seen on this host; otherwise causes that remain possible are named.
    """

    what: str
    cause: str
    remedy: str
    call: str = ""
    checked: bool = True

    def __str__(self) -> str:
        lines = [f"{self.what}: not possible on this host"]
        if self.call:
            lines.append(f"step: {self.call}")
        if self.cause:
            lines.append(f"{'cause' if self.checked else 'possible cause'}: {self.cause}")
        if self.remedy:
            lines.append(f"remedy: {self.remedy}")
        return "\n".join(lines)


def check(spec: Spec, host: Host, trial: Trial | None = None, root: str = "") -> tuple[Problem, ...]:
    """Return what this host cannot do of a spec that spec.check has passed; empty when all can be done.

    host: the facts, from sandbox.host.read. trial: runs the spec's steps in a child that never executes the
    command, where only trying tells (sandbox.features.trial); None for none. Its error counts when no detector
    has seen a problem. root: put before the paths of /proc and /sys that detectors read.
    Raises SpecError for what does not fit together, as a launch does.
    """
    from nstool.plan.build import plan

    problems = [*_limits(spec, host), *_network(spec)]
    # What these two have answered is taken out, so that the plan can be made and the rest looked at.
    reduced = spec
    if host.cgroups is not None and any(p.what.startswith("limits.") for p in problems):
        reduced = reduced.replace(limits=spec.limits.replace(memory=0, swap=0, pids=0, cpu=0))
    try:
        planned = plan(reduced, host, LEASE)
    except NotSupported as error:
        return (*problems, problem(error))
    problems += predict(planned, root)
    if trial is not None and not problems:
        refused = trial(reduced, host)
        if refused is not None:
            problems.append(refusal(refused))
    return tuple(dict.fromkeys(problems))


def refusal(error: KernelError) -> Problem:
    """Return a refused call as a problem."""
    cause = error.cause or f"the kernel refuses it when it is tried: {error.errno_name}"
    return Problem(error.why, cause, error.remedy, error.call, error.checked)


def notes(spec: Spec, host: Host) -> tuple[str, ...]:
    """Return which writable binds and roots of a spec that this host can do the command cannot write, and what to do.

    And which rights of Landlock this kernel is too old to refuse. Sentences that begin with the key. Owners and mode
    bits have to decide what can be written; of an ACL nothing is said.
    """
    from nstool.detectors import rights
    from nstool.detectors.scene import Scene
    from nstool.plan.build import plan

    planned = plan(spec, host, LEASE)
    scene = Scene(next(step for step in planned.steps if step.call == "execve"), plan=planned)
    person = rights.who(scene)
    found = [*_landlock_notes(spec, host), *_root_notes(spec)]
    for number, mount in enumerate(spec.mounts):
        if person is None or mount.type != "bind" or not mount.writable:
            continue
        bits = rights.WRITE | (rights.EXECUTE if host.source_kinds.get(mount.source) == "dir" else 0)
        if rights.allowed(scene, person, mount.source, bits, idmap=mount.idmap) is False:
            whose, ways = _owners(spec, host, mount, person.uid)
            ways.append(rights.chmod(scene, person, mount.source, bits, idmap=mount.idmap))
            remedy = ", or ".join(filter(None, ways))
            found.append(f"mounts[{number}]: the command cannot write {mount.source}: {whose}; {remedy}")
    return tuple(found)


def _root_notes(spec: Spec) -> tuple[str, ...]:
    uid = spec.user.partition(":")[0]
    if not spec.root.writable or spec.root.type == "directory":
        return ()
    if uid == "0" or "dac_override" in spec.capabilities.effective:
        return ()
    return (
        f"root.writable: what is in the root belongs to uid 0 inside, and the command is uid {uid}: it writes where "
        'modes let others do so; user = "0:0" (--user 0:0) is that user, without a capability and none of the host\'s',
    )


def _landlock_notes(spec: Spec, host: Host) -> tuple[str, ...]:
    if not host.landlock:
        return ()
    from nstool.plan import landlock

    return landlock.notes(spec, host)


def _owners(spec: Spec, host: Host, mount: Mount, outside: int) -> tuple[str, list[str]]:
    """Return whose a bind is, and how it becomes the command's. outside: the command's uid on the host."""
    import os

    uid, _, gid = spec.user.partition(":")
    status = os.stat(mount.source)
    leased = LEASE.uid_base <= outside < LEASE.uid_base + LEASE.count  # another one each time
    whose = f"it belongs to uid {status.st_uid} with mode {status.st_mode & 0o7777:04o}"
    if status.st_uid == (int(uid) if mount.idmap else outside):
        return whose, []
    if mount.idmap:
        return f"{whose}, and the command runs as uid {uid}", [f"chown {uid}:{gid or uid} {mount.source}"]
    if leased:
        return f"{whose}, and uid {uid} inside is one that the host does not use", [
            f"add idmap and chown {uid}:{gid or uid} {mount.source}"
        ]
    whose += f", and uid {uid} inside is uid {outside} of the host"
    if status.st_uid == host.uid and not host.privileged:
        return whose, [f"map your own ids: --uid-map {uid}:{host.uid}:1 --gid-map {gid or uid}:{host.gid}:1"]
    return whose, [f"{'' if host.privileged else 'as root: '}chown {outside} {mount.source}"]


def predict(plan: Plan, root: str = "") -> tuple[Problem, ...]:
    """Return the problems that the catalogue's detectors see in a plan before it is run, each cause once."""
    from nstool.detectors.scene import Scene

    first = Scene(plan.steps[0], plan=plan, root=root)
    found: dict[tuple[str, str], Problem] = {}
    for step in plan.steps:
        if step.who == UNDO or step.call == "external":
            continue
        for problem, _ in foreseen(first.at(step)):
            found.setdefault((problem.cause, problem.remedy), problem)
    return tuple(found.values())


def foreseen(scene: Scene) -> Iterator[tuple[Problem, int]]:
    """Yield the problems that the catalogue's detectors see in a step before it is made, each with its first errno."""
    import errno

    from nstool.plan.hints import ROWS, sentence

    step = scene.step
    for row in ROWS:
        if not row.predicts or step.call not in row.calls or _harmless(step, row.errnos):
            continue
        answer = row.detector(scene)
        if answer:
            cause, remedy = sentence(row.cause, answer), sentence(row.remedy, answer)
            yield Problem(step.why, cause, remedy, call_text(step)), getattr(errno, row.errnos[0])


def _harmless(step: Step, errnos: tuple[str, ...]) -> bool:
    import errno

    return any(getattr(errno, name) == step.ignore for name in errnos)


def _limits(spec: Spec, host: Host) -> Iterator[Problem]:
    from nstool.plan.cgroups import preflight, together

    if host.cgroups is not None and (missing := preflight(spec.limits, host.cgroups)):
        yield problem(together(missing))


def _network(spec: Spec) -> Iterator[Problem]:
    from nstool.network.preflight import preflight

    for missing in preflight(spec.net):
        yield problem(missing)


def problem(error: NotSupported) -> Problem:
    """Return an exception that a check has raised as a problem."""
    return Problem(error.what, error.cause, error.remedy)


def trial_spec(spec: Spec) -> Spec:
    """Return the spec with what would change something outside of the trial's own child left out.

    Cgroups, links, kept layers, writable host trees, passed fds, terminals; nobody attests. The command is looked for
    by the detectors, and never executed.
    """
    root = spec.root
    if root.type == "tarball" or (root.writable and root.type in ("host", "directory")):
        root = type(root)()
    elif root.type == "overlay":
        root = root.replace(upper="")
    net = spec.net
    if net.mode in ("veth", "bridge"):
        net = type(net)(mode="loopback", sysctls=net.sysctls)
    # In another root are neither the places of the mounts nor the working directory.
    mounts = tuple(m for m in spec.mounts if not m.upper) if root == spec.root else ()
    cwd = spec.cwd if root == spec.root else "/"
    limits = spec.limits.replace(memory=0, swap=0, pids=0, cpu=0)
    landlock = spec.landlock
    if (root, mounts) != (spec.root, spec.mounts):
        landlock = landlock.replace(read=None, write=None, execute=None, rules=(), flags=())
    without = {"pass_fds": (), "terminal": "never", "attest": False}
    return spec.replace(root=root, net=net, mounts=mounts, cwd=cwd, limits=limits, landlock=landlock, **without)


def trial_plan(plan: Plan) -> Plan:
    """Return the plan whose command is a path that nothing has, so that it ends where the command would begin."""
    steps = tuple(
        step.replace(args=(("",), *step.args[1:])) if step.call == "execve" else step
        for step in plan.steps
        if step.who != UNDO and not (step.call == "external" and step.who == LAUNCHER)
    )
    return plan.replace(steps=steps)
