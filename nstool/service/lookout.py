"""Which sandboxes that serve have changed a watched file. Each look is a thread's: what is inside may make it wait."""

from __future__ import annotations

import os
from threading import Thread
from time import monotonic

from nstool.errors import SandboxGone
from nstool.frozen import Frozen
from nstool.masked import block
from nstool.service import attested, watched
from nstool.service.watched import Seen

STUCK = 5.0  # seconds that a look at one sandbox may take
_LEFT = 8  # threads that still wait in sandboxes which have been ended; with so many none is begun


class Sandbox(Frozen):
    """A sandbox that serves. template: pid. pid: as the template knows it. fresh: what it had before its command."""

    template: int
    place: int
    life: int
    pid: int
    client: str
    fresh: tuple[Seen, ...]


class Found(Frozen):
    """A sandbox of which something has changed, and what."""

    sandbox: Sandbox
    what: str


class _Known(Frozen):
    """What was seen of a sandbox before. pid, pidns: of its init, and its namespace's identity. told: it was Found."""

    life: int
    pid: int
    pidns: tuple[int, int]
    seen: tuple[Seen, ...]
    told: bool = False


class Lookout:
    """Looks at the watched paths of many sandboxes, again and again."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._look: _Look | None = None
        self._left: list[_Look] = []
        self._rest = 0.0  # until then none is begun
        self._known: dict[tuple[int, int], _Known] = {}

    def begin(self, sandboxes: list[Sandbox]) -> None:
        """Begin to look at sandboxes, unless a look is under way, too many were left, or the last took long.

        Then it rests as long as that took, so that looking has half of a processor at most.
        """
        self._left = [one for one in self._left if one.thread.is_alive()]
        if self._look is None and len(self._left) < _LEFT and monotonic() >= self._rest:
            self._look = _Look(self._paths, sandboxes, self._known)

    def found(self) -> list[Found]:
        """Return what was found since, once a look is over or does not go on. Raises what it has met."""
        look = self._look
        if look is None:
            return []
        if look.thread.is_alive():
            at = look.stuck_at()
            if at is None:
                return []
            self._look = None
            self._left.append(look)
            return [Found(at, f"its files could not be looked at in {STUCK:g} s")]
        self._look = None
        if look.error is not None:
            raise look.error
        self._rest = monotonic() + look.took
        self._known = look.known
        return look.found


class _Look:
    """One look at each sandbox, in a thread that nobody waits for."""

    def __init__(self, paths: tuple[str, ...], sandboxes: list[Sandbox], known: dict[tuple[int, int], _Known]) -> None:
        self.known: dict[tuple[int, int], _Known] = {}
        self.found: list[Found] = []
        self.error: Exception | None = None
        self._at: tuple[Sandbox, float] | None = None  # where it is, and since when; one object: two threads see it
        self.took = 0.0  # seconds
        self._paths = paths
        self._sandboxes = sandboxes
        self._before = known
        self._inits: dict[int, dict[int, int]] = {}
        self._plans: dict[int, set[bytes]] = {}
        self.thread = Thread(target=self._run, name="lookout", daemon=True)
        self.thread.start()

    def stuck_at(self) -> Sandbox | None:
        """Return the sandbox at which it has been for too long."""
        at = self._at
        return at[0] if at is not None and monotonic() - at[1] > STUCK else None

    def _run(self) -> None:
        block()
        begun = monotonic()
        try:
            for one in self._sandboxes:
                self._at = one, monotonic()
                self._look_at(one)
            self._at = None
            self.took = monotonic() - begun
        except Exception as error:
            self.error = error

    def _look_at(self, one: Sandbox) -> None:
        key = one.template, one.place
        before = self._before.get(key)
        if before is not None and before.life != one.life:
            before = None
        try:
            pid = before.pid if before else self._pid(one)
            known, what = self._compared(one, pid, before)
        except (FileNotFoundError, ProcessLookupError, SandboxGone):
            return  # it has ended, or does not begin yet
        self.known[key] = known
        if what and not (before and before.told):
            self.found.append(Found(one, what))

    def _pid(self, one: Sandbox) -> int:
        """Return the pid of the init of a sandbox whose command has begun. Raises SandboxGone."""
        if one.template not in self._inits:
            self._inits[one.template] = attested.inits_of(one.template)
            self._plans[one.template] = attested.plans_of(one.template)
        pid = self._inits[one.template].get(one.pid)
        if pid is None:
            raise SandboxGone("it has ended")
        if not attested.has_begun(pid, self._plans[one.template]):
            raise SandboxGone("its command has not begun")
        return pid

    def _compared(self, one: Sandbox, pid: int, before: _Known | None) -> tuple[_Known, str]:
        """Return what is seen of a sandbox now, and what of it has changed."""
        process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            status = os.stat("ns/pid", dir_fd=process)
            pidns = status.st_dev, status.st_ino
            if pidns != (before.pidns if before else pidns) or not (before or _is_init(process, one)):
                raise SandboxGone("another process has its number")
            try:
                seen = _looked(process, self._paths)
                what = _difference(before.seen, seen, "exact") if before else _difference(one.fresh, seen, "alike")
            except watched.TooMany as error:
                seen, what = (before.seen if before else ()), str(error)
            os.stat("root", dir_fd=process)  # else it has ended meanwhile, and its mounts went one by one
        finally:
            os.close(process)
        told = bool(what) or bool(before and before.told)
        return _Known(one.life, pid, pidns, seen, told), what


def _looked(process: int, paths: tuple[str, ...]) -> tuple[Seen, ...]:
    root = os.open("root", os.O_PATH | os.O_CLOEXEC, dir_fd=process)
    try:
        return watched.look(root, paths)
    finally:
        os.close(root)


def _difference(before: tuple[Seen, ...], now: tuple[Seen, ...], how: str) -> str:
    names = [b.path for a, b in zip(before, now) if getattr(a, how) != getattr(b, how)]
    return f"changed: {', '.join(names)}" if names else ""


def _is_init(process: int, one: Sandbox) -> bool:
    with open(os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as file:
        return attested.inner_pid(file.read(), one.template) == one.pid
