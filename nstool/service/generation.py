"""One generation of a service: a template and its places."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable
from time import monotonic, time

from nstool._native import lib
from nstool.errors import KernelError, NotSupported, NstoolError
from nstool.plan import encode
from nstool.plan import service as plans
from nstool.plan.cgroups import CgroupSteps
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import Plan, Step
from nstool.plan.template import program as whole
from nstool.sandbox import cgroups, engine, journal, leases, rundir
from nstool.sandbox.launch import ends_within, report
from nstool.service import attested, board, interpreter, orders, watched
from nstool.service.blueprint import Blueprint, titled
from nstool.service.channel import ANSWERS, DOOR, Channel, bound, connected
from nstool.service.listen import Listener
from nstool.spec.model import IdMap, Spec
from nstool.spec.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.rundir import Record

PINNED = 8  # a place is left alone while somebody holds such a part of its memory: one in so many
TRIAL = 30.0  # seconds for the sandbox that is attested to be ready; with a handler, which is imported, start_timeout
_LOOK = 0.1  # seconds between two looks whether that is still wanted
_LENT = 9  # files of a network namespace that is lent
_MORE = 128  # files besides those of places


# What of ``vary`` is in files of each sandbox's own.
_FILES = frozenset(("hostname", "machine-id", "boot-id", "clock"))


class Ended(NstoolError):
    """A template has ended before it had made a sandbox."""


class Stopping(NstoolError):
    """A service that ends makes no new generation."""

    def __init__(self) -> None:
        super().__init__("the service is stopping, and makes no new generation")


class Generation:
    """A template that runs, with its places. number: from 1. name: of its sandbox. shard: which of its number it is.

    blueprint, lease: None of one that a service before this one has made.
    """

    def __init__(
        self, name: str, number: int, blueprint: Blueprint | None = None, lease: Lease | None = None, shard: int = 0
    ) -> None:
        self.blueprint = blueprint
        self.number = number
        self.shard = shard
        self.lease = lease
        self.name = name
        self.process: engine.Process | None = None
        self.pid = 0  # of the template, as the caller sees it
        self.channel: Channel | None = None
        self.board_fd = -1
        self.board: board.Board | None = None
        self.logs: dict[int, int] = {}  # where it is read what its places say, until a Log has that
        self.pidfd = -1  # of one that another process has made
        self.began = monotonic()
        self.draining = False  # it takes no more connections
        self.ended = False  # by itself
        self.ends_at = 0.0  # when its sandboxes are told to end, of the monotonic clock; 0: they end by themselves
        self.fresh: tuple[watched.Seen, ...] = ()  # what is watched, in a sandbox whose command has not begun
        self.variant: tuple[Spec, Host] | None = None
        self.recorded: dict[str, object] = {}  # the spec of one that another process has made
        self.sandbox_plan: Plan | None = None
        self.bases: list[tuple[int, int]] = []
        self.groups: list[CgroupSteps] = []
        self.passed = 0  # fds that each command has from 3 on

    @property
    def title(self) -> str:
        """Its number, with that of its shard behind it if it is not the first."""
        return titled(self.number, self.shard)

    def accept(self, on: bool) -> None:
        """Let it take connections, or take no more."""
        assert self.channel is not None
        self.channel.ask(lib.NST_MSG_ACCEPT, "to accept", detail=int(on))

    def listen(self, number: int, listener: Listener) -> None:
        """Give it a listener."""
        assert self.channel is not None
        self.channel.ask(lib.NST_MSG_LISTEN, "a listener", detail=number, pid=listener.type, fds=(listener.fd,))

    def end(self, number: int, place: int = -1, pid: int = 0) -> None:
        """Send a signal to the command of a place, or of all; in the second case who waits for a place is refused.

        pid: as the board has it; who has the place later lives. Raises ProcessLookupError when the template has ended,
        NstoolError when it refuses.
        """
        assert self.channel is not None
        self.channel.ask(lib.NST_MSG_END, "to end a sandbox", detail=place, pid=pid, status=number)

    def release(self, place: int, pid: int) -> None:
        """Let the command of a place go on that has been attested; pid: as ``end`` has it."""
        assert self.channel is not None
        self.channel.send(lib.NST_MSG_RELEASE, detail=place, pid=pid)

    def counts(self) -> board.Counts:
        """Return what it has done."""
        assert self.board is not None
        return self.board.counts()

    def close(self) -> None:
        """End it and all its sandboxes, and undo what was made for it."""
        if self.process is not None:
            self.process.kill_and_reap()
            self.process = None
        elif self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            ends_within(self.pidfd, ANSWERS)
        self.leave()
        journal.undo(self.name)

    def leave(self) -> None:
        """Let it be: close what this process has of it."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.board is not None:
            self.board.close()
            self.board = None
        if self.board_fd >= 0:
            os.close(self.board_fd)
            self.board_fd = -1
        for fd in self.logs.values():
            os.close(fd)
        self.logs = {}


def make(
    blueprint: Blueprint,
    number: int,
    shard: int,
    variant: tuple[Spec, Host],
    *,
    heard: Callable[[str, int], object],
    listeners: list[Listener],
    stopping: Callable[[], bool],
) -> Generation:
    """Make one template of a generation, which takes no connections yet.

    variant: of the blueprint. heard: is given its name and where it is read what it says by itself, to be closed there.
    listeners: that it will have. stopping: whether it is not wanted any more, asked while its first sandbox begins.
    Raises KernelError, NotAttested, NotSupported, Ended; nothing is left then.
    """
    service = blueprint.part(shard)
    spec, facts = variant
    lease = leases.take(spec.replace(name=blueprint.name_of(number, shard)))
    generation = Generation(lease.name, number, blueprint, lease, shard)
    generation.passed = blueprint.passed(len(listeners))
    generation.variant = spec, facts
    try:
        _make(generation, service, spec, facts, heard, listeners, stopping)
    except BaseException as error:
        generation.close()
        if isinstance(error, ProcessLookupError):
            raise Ended(_ended_early(blueprint, generation.name)) from None
        raise
    return generation


def _ended_early(blueprint: Blueprint, name: str) -> str:
    """Return why a template has ended before it had made a sandbox."""
    service = blueprint.service
    if service.shape != "python":
        return f"the template {name} ended before it had made a sandbox"
    more = ', and stderr = "null" lets nobody read why' if service.stderr == "null" else ""
    return (
        f"{blueprint.written(('service', 'handler'))}: the interpreter ended while it imported {service.handler}{more}"
    )


def _make(
    generation: Generation,
    service: Service,
    spec: Spec,
    facts: Host,
    heard: Callable[[str, int], object],
    listeners: list[Listener],
    stopping: Callable[[], bool],
) -> None:
    blueprint, lease = generation.blueprint, generation.lease
    assert blueprint is not None
    assert lease is not None
    sized = blueprint.sized
    bases = generation.bases = [(lease.uid_base, lease.gid_base)]
    if not plans.owns_ids(spec, facts) and facts.privileged:
        wanted = service.places * sized.ranges
        bases += [(base, base) for base in leases.take_ranges(lease.name, wanted)]
        fits = plans.fitting(tuple(bases), sized.count) - 1
        if fits < wanted:
            raise blueprint.scattered((spec, facts), wanted - fits, free=len(bases) > wanted)
    groups = generation.groups = [
        plans.place_cgroups(spec, facts, lease, lease.replace(cgroup=leases.cgroup_name(f"{lease.name}.{place}")))
        for place in range(service.places)
    ]
    check_files(blueprint)
    shown = spec if spec.hostname else spec.replace(hostname=blueprint.name[:64])
    idmaps = plans.template_maps(spec, facts, tuple(bases), sized.count)
    plan = plans.template(shown, facts, lease, idmaps, varied=bool(_FILES & {*service.vary}))
    program = whole(plan)
    undo = (*program.undo, *(step for group in groups for step in group.undo))
    # Without an init, as it has no command: it is the process that there is.
    files = tuple(one.file.undo for one in listeners if one.file is not None)
    plain = spec.replace(init=False).changed()
    template = _recorded(generation, service, listeners)
    journal.begin(lease.name, (*undo, *files), spec=plain, outlives=True, template=template)
    opened: list[list[int]] = []
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    admin = -1
    above = plans.template_cgroup(spec, facts, lease)
    try:
        given = {"stdin": null, "stdout": null, "stderr": null}
        generation.process = process = engine.start(
            program, given, _external(generation), lambda pid: journal.started(lease.name, pid)
        )
        report(process)
        generation.pid = process.pid
        for group in groups:
            opened.append(_run(group.launcher))
        for path in (path for group in (above, *groups) for path in plans.delegated(group)):
            if facts.privileged:
                os.chown(path, _root_of(idmaps.uid), _root_of(idmaps.gid))
        generation.channel = channel = Channel(socket.socket(fileno=os.dup(process.control)))
        generation.board_fd = board.create()
        generation.board = board.Board(generation.board_fd)
        one = plans.sandbox(
            blueprint.sandbox_spec(spec, generation.passed),
            facts,
            blueprint.sandbox_lease(lease),
            orders.connection_mask(service),
            service.vary,
            passed=generation.passed,
            leased=service.lease_net,
        )
        data = encode.encode(one)
        fds = len(plans.place_fds(groups[0]))
        charged = [cgroups.charged_files(group.cgroups) for group in groups]
        pinned = spec.limits.memory // PINNED if charged[0] else 0
        zygote = interpreter.started(service, spec, len(data)) if service.shape == "python" else ((), ())
        varied = blueprint.varied(data, generation.number, lease)
        words = orders.encode(service, data, varied, fds=fds, passed=generation.passed, pinned=pinned, zygote=zygote)
        admin = _door(lease.name)
        memory = os.memfd_create("orders", os.MFD_CLOEXEC)
        try:
            os.write(memory, words)
            reading, writing = _pipe()
            heard(lease.name, reading)
            given_fds = (memory, generation.board_fd, admin, null, reading, writing)
            try:
                channel.ask(lib.NST_MSG_CONFIGURE, "its orders", status=len(words), fds=given_fds)
            finally:
                os.close(writing)
        finally:
            os.close(memory)
        for place, own in enumerate(opened):
            own += [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in charged[place] if pinned]
            if service.stderr == "null":
                channel.ask(lib.NST_MSG_PLACE, "a place", detail=place, fds=(null, null, *own))
                continue
            generation.logs[place], writing = _pipe()
            try:
                ends = (writing, generation.logs[place])
                channel.ask(lib.NST_MSG_PLACE, "a place", detail=place, fds=(*ends, *own))
            finally:
                os.close(writing)
        _try(generation, one, stopping)
    finally:
        os.close(null)
        if admin >= 0:
            os.close(admin)
        for own in opened:
            for fd in own:
                os.close(fd)


def _pipe() -> tuple[int, int]:
    """Return the ends of a pipe, reading and writing: who says too much loses it, and waits for nobody."""
    return os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)


def check_files(blueprint: Blueprint) -> None:
    """Raise NotSupported where a template, or nstool serve, which raises its soft limit, may not have enough files."""
    service = blueprint.service
    spec, facts = blueprint.variants[0]
    lease = Lease(name=blueprint.name, cgroup=blueprint.name)
    each = len(plans.place_fds(plans.place_cgroups(spec, facts, lease, lease)))
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(os.listdir("/proc/self/fd")) + service.places * (each + 1)
    there = service.places * (each + 3 + _LENT * service.lease_net)
    for need, whose in ((here, "this process"), (there, "the template")):
        if need + _MORE > limit:
            raise NotSupported(
                f"{service.places} places",
                f"{whose} needs {need + _MORE} open files for them, and its RLIMIT_NOFILE is {limit}",
                "take fewer places, or raise the limit: ulimit -n, LimitNOFILE= of a unit",
            )


def _recorded(generation: Generation, service: Service, listeners: list[Listener]) -> dict[str, object]:
    """Return what the record of a template says of its service. rundir.Record."""
    assert generation.blueprint is not None
    return {
        "service": generation.blueprint.name,
        "number": generation.number,
        "shard": generation.shard,
        "shape": service.shape,
        "listening": [one.where for one in listeners],
        "stop_signal": service.stop_signal,
        "grace": service.grace,
    }


def _root_of(lines: tuple[IdMap, ...]) -> int:
    """Return the id on the host of a template's id 0; the caller's where it has none. Lines of its map."""
    return next((line.outside for line in lines if line.inside == 0), 0)


def _door(name: str) -> int:
    """Make the socket by which a template is found again when its service was killed."""
    return bound(name, DOOR, socket.SOCK_SEQPACKET).detach()


def _external(generation: Generation) -> Callable[[str, object, int], None]:
    class Context:
        lease = generation.lease
        interruptible = None

    def act(name: str, args: object, pid: int) -> None:
        journal.handler(name)(Context(), args)

    return act


def _run(steps: tuple[Step, ...]) -> list[int]:
    """Make the cgroups of one place: the launcher's steps, by Python. Returns the fds that they open."""
    found: list[int] = []
    for step in steps:
        args = step.args
        path = str(args[1])
        try:
            if step.call == "mkdirat":
                os.mkdir(path, 0o755)
            elif step.call == "write_file":
                assert isinstance(args[2], bytes)
                fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, args[2])
                finally:
                    os.close(fd)
            else:
                assert step.call == "openat2", step
                assert isinstance(args[2], int)
                found.append(os.open(path, args[2]))
        except OSError as error:
            from nstool.plan.describe import call_text
            from nstool.plan.hints import explain

            for fd in found:
                os.close(fd)
            raise KernelError(
                call_text(step), error.errno or 0, "", step.why, *explain(step, error.errno or 0)
            ) from None
    return found


def failed(plan: Plan, message: engine.Message) -> KernelError:
    """Return the error of a sandbox that a template could not make."""
    return engine.failed(plan, message.step, message.error, message.detail)


def _try(generation: Generation, plan: Plan, stopping: Callable[[], bool]) -> None:
    """Make one sandbox that nobody is connected to, and attest it before the generation gets connections."""
    assert generation.blueprint is not None
    service = generation.blueprint.service
    generation.sandbox_plan = plan
    if service.attest == "never":
        return
    channel = generation.channel
    assert channel is not None
    channel.ask(lib.NST_MSG_TRY, "a first sandbox")
    seconds = service.start_timeout if service.shape == "python" else TRIAL
    end = monotonic() + seconds
    waiting = channel.late()
    while True:
        message = waiting.pop(0) if waiting else channel.receive(_LOOK)
        if stopping():
            raise Stopping
        if message is None and monotonic() > end:
            raise NstoolError(_late(generation.blueprint, generation.name, seconds))
        if message is None:
            continue
        if message.type == lib.NST_MSG_FAILED:
            raise failed(plan, message)
        if message.type == lib.NST_MSG_READY:
            init = attested.attest(generation, message.detail, message.pid, first=True)
            if service.watch:
                generation.fresh = watched.fresh(init, service.watch)
            channel.ask(lib.NST_MSG_END, "to end it", detail=message.detail, status=9)
            return


def found(record: Record) -> Generation:
    """Return the generation that a record of a template is of, not yet connected to."""
    one = Generation(record.name, record.template["number"], shard=record.template["shard"])
    one.pid = record.init_pid
    one.recorded = record.spec
    one.began = monotonic() - max(0.0, time() - record.created)
    return one


def _late(blueprint: Blueprint, name: str, seconds: float) -> str:
    """Return why a generation is given up whose first sandbox is not ready after so many seconds."""
    text = f"the first sandbox of {name} is not ready after {seconds:g} s"
    if blueprint.service.shape != "python":
        return text
    at, file = blueprint.written(("service", "handler")), blueprint.service.handler
    return f"{at}: {text}: {file} is imported before it, and may take longer if start_timeout says so"


def adopt(blueprint_name: str) -> list[Generation]:
    """Return the generations that a service of this name has left, which still run; the newest last.

    Their listeners are asked of them by ``Channel.held``.
    """
    adopted = []
    for record in rundir.list_sandboxes():
        if record.template.get("service") != blueprint_name or not (record.here and record.init_alive):
            continue
        try:
            connection = connected(record.name, DOOR, socket.SOCK_SEQPACKET)
        except OSError:  # it ends
            continue
        one = found(record)
        one.channel = Channel(connection)
        one.pidfd = os.pidfd_open(record.init_pid)
        adopted.append(one)
    return sorted(adopted, key=lambda one: (one.number, one.shard))
