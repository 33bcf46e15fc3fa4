"""The alarms of a service: what tells that a sandbox is attacked or sick, and what is done then.

The sandbox is ended, and the next generation takes the connections: a generation in which somebody has found a way is
not where the next client should be. So that nobody makes generations follow each other without a pause by alarms,
at most one in PAUSE seconds is made by them; sandboxes are ended and alarms counted meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
from time import monotonic
from typing import TYPE_CHECKING

from nstool.errors import NstoolError
from nstool.frozen import Frozen
from nstool.sandbox import cgroups
from nstool.service import attested, health
from nstool.service.lookout import Found, Lookout, Sandbox

if TYPE_CHECKING:
    from nstool.service.board import End, Place
    from nstool.service.generation import Generation
    from nstool.service.supervisor import Supervisor
    from nstool.spec.service import Service

PAUSE = 10.0  # seconds between two generations that alarms have made
EVERY = 1.0  # seconds between two looks at the sandboxes that serve
_BUSY_AGAIN = 600.0  # seconds before it is said again that a check was refused
LINES = 10  # of each kind of alarm that are said in PAUSE seconds


class Alarm(Frozen):
    """What has happened. kind: one of the spec's alarms, or "health". place: -1 of none. cause: a sentence."""

    kind: str
    place: int
    life: int
    client: str
    cause: str

    def describe(self) -> str:
        """Return it in one line."""
        if self.place < 0:
            return f"{self.kind}: {self.cause}"
        return f"{self.kind}: {self.cause}; place {self.place}, life {self.life}, client {self.client or 'none'}"


class _Track:
    """What was seen of a generation. ends: so many lives that are over. groups: of each place, its memory cgroup.

    kills: of each place, how many processes were killed there.
    """

    def __init__(self, groups: dict[int, dict[str, str]]) -> None:
        self.ends = 0
        self.groups = groups
        self.kills: dict[int, int] = {}


class Alarms:
    """The alarms of one service. counts: of each kind that is watched for."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.counts: dict[str, int] = {}
        self._watch_for(supervisor.blueprint.service)
        self._tracks: dict[Generation, _Track] = {}
        self._lookout = Lookout(supervisor.blueprint.service.watch)
        self._looked = 0.0
        self._renewal = _Renewal(supervisor)
        self._said = _Said(supervisor)
        self._checks: asyncio.Task[None] | None = None

    def _watch_for(self, service: Service) -> None:
        self._kinds = service.alarms
        kinds = (*service.alarms, "health") if service.health_interval else service.alarms
        self.counts = dict.fromkeys(kinds, 0) | self.counts

    def follow(self) -> None:
        """Watch for what the spec wants that was read again. Counts stay; what has happened before is not new."""
        self._watch_for(self._supervisor.blueprint.service)
        self._lookout = Lookout(self._supervisor.blueprint.service.watch)
        for one in self._generations():
            assert one.board is not None
            track = self._track(one)
            track.ends, _ = one.board.ends(most=0)
            track.kills = {place: cgroups.oom_kills(group) or 0 for place, group in track.groups.items()}
        self.end()
        self.begin()

    def begin(self) -> None:
        """Begin with health checks, if there are any. Raises SpecError where there is nothing to connect to."""
        if self._supervisor.blueprint.service.health_interval:
            health.target(self._supervisor.listeners)
            self._checks = asyncio.get_running_loop().create_task(self._check())

    def end(self) -> None:
        """Check no more."""
        if self._checks is not None:
            self._checks.cancel()
            self._checks = None

    def adopt(self, one: Generation) -> None:
        """Watch a generation that a service before this one has made, from now on.

        Who serves there is all who ever will. What ended before is not known to be new.
        """
        assert one.board is not None
        groups = {}
        if "oom" in self._kinds:
            inits = attested.inits_of(one.pid)
            groups = {place.number: cgroups.memory_of(inits.get(place.pid, 0)) for place in one.board.places()}
        track = self._tracks[one] = _Track(groups)
        track.ends, _ = one.board.ends(most=0)
        track.kills = {place: cgroups.oom_kills(group) or 0 for place, group in groups.items()}

    def look(self) -> None:
        """Look at what has ended since the last look, and now and then at all that serves; do what is to be done."""
        if self._checks is not None and self._checks.done():
            self._checks.result()  # it never ends by itself: this raises what it has met
        is_due = monotonic() - self._looked >= EVERY
        if is_due:
            self._looked = monotonic()
        if self._kinds:
            for one in self._generations():
                self._look_at(one, is_due)
            self._look_at_files(is_due)
        self._renewal.look()

    def forget(self, one: Generation) -> None:
        """Look at a generation for the last time, which has ended."""
        if self._kinds and one.board is not None:
            self._look_at(one, True)
        self._tracks.pop(one, None)

    def _generations(self) -> list[Generation]:
        return [one for one in self._supervisor.alive() if one.board is not None]

    # ---- lives that are over, and their memory ----

    def _look_at(self, one: Generation, is_due: bool) -> None:
        assert one.board is not None
        track = self._track(one)
        track.ends, ends = one.board.ends(track.ends)
        lives = [end for end in ends if end.life]
        if "violation" in self._kinds:
            for end in lives:
                if end.status & 0x7F == signal.SIGSYS:
                    self._raise(one, Alarm("violation", end.place, end.life, end.client, "ended by SIGSYS"))
        if "oom" in self._kinds and (lives or is_due):
            self._look_at_memory(one, track, lives, is_due)

    def _track(self, one: Generation) -> _Track:
        if one not in self._tracks:
            self._tracks[one] = _Track({n: group.cgroups for n, group in enumerate(one.groups)})
        return self._tracks[one]

    def _look_at_memory(self, one: Generation, track: _Track, lives: list[End], is_due: bool) -> None:
        assert one.board is not None
        serving = {place.number: place for place in one.board.places()}
        for place in {end.place for end in lives} | (set(serving) if is_due else set()):
            kills = cgroups.oom_kills(track.groups.get(place, {}))
            more = (kills or 0) - track.kills.get(place, 0)
            if more <= 0:
                continue
            track.kills[place] = kills or 0
            # The counter is of the place. Of those that had it since it was read the last time, it was most likely one
            # that was killed; else the last that has ended, so that nobody is ended for who was there before him.
            ended = [end for end in lives if end.place == place]
            ended.sort(key=lambda end: end.status & 0x7F == signal.SIGKILL and end.cause == "signalled")
            words = f"{more} process{'es' if more > 1 else ''} killed for lack of memory"
            if ended:
                self._raise(one, Alarm("oom", place, ended[-1].life, ended[-1].client, words))
            elif place in serving:
                now = serving[place]
                self._raise(one, Alarm("oom", place, now.life, now.client, words), now)

    # ---- files ----

    def _look_at_files(self, is_due: bool) -> None:
        try:
            for found in self._lookout.found():
                self._raise_changed(found)
        except (OSError, NstoolError) as error:
            self._said.say(f"files cannot be looked at: {error}", "files")
        if is_due and "files" in self._kinds:
            self._lookout.begin([each for one in self._generations() for each in self._sandboxes(one)])

    def _sandboxes(self, one: Generation) -> list[Sandbox]:
        assert one.board is not None
        if one.blueprint is not None and one.blueprint.service.watch != self._supervisor.blueprint.service.watch:
            return []  # it was made for other paths
        places = [place for place in one.board.places() if place.state != "parked" and place.pid > 0]
        return [Sandbox(one.pid, n.number, n.life, n.pid, n.client, one.fresh) for n in places]

    def _raise_changed(self, found: Found) -> None:
        box = found.sandbox
        alarm = Alarm("files", box.place, box.life, box.client, found.what)
        for one in self._generations():
            if one.pid == box.template and one.board is not None:
                running = [place for place in one.board.places() if (place.number, place.life) == (box.place, box.life)]
                self._raise(one, alarm, *running)

    # ---- health ----

    async def _check(self) -> None:
        service, failures = self._supervisor.blueprint.service, 0
        while True:
            await asyncio.sleep(service.health_interval)
            current = self._supervisor.current
            if not current or self._supervisor.stopping:
                failures = 0
                continue
            # Asked for each time: a listener may have been opened anew.
            target = health.target(self._supervisor.listeners)
            wrong = await health.failure(target, service, self._supervisor.refusals)
            if current is not self._supervisor.current:  # it is not known who has answered
                failures = 0
            elif wrong is None:
                self._supervisor.said.tell("busy", "health: the service is busy, and has refused a check", _BUSY_AGAIN)
            elif not wrong:
                if failures:
                    self._supervisor.news("health: it answers again")
                failures = 0
            else:
                failures += 1
                if failures == 1:
                    self._supervisor.say(f"health: {wrong}")
                if failures >= service.health_failures and not self._renewal.is_wanted(current[0]):
                    self._raise(current[0], Alarm("health", -1, 0, "", f"{failures} times in a row: {wrong}"))
                    failures = 0

    # ---- what is done ----

    def _raise(self, one: Generation, alarm: Alarm, running: Place | None = None) -> None:
        self.counts[alarm.kind] += 1
        self._said.say(f"alarm in generation {one.title}: {alarm.describe()}", alarm.kind)
        if running is not None:
            try:
                one.end(signal.SIGKILL, running.number, running.pid)
            except (ProcessLookupError, NstoolError) as error:
                self._supervisor.say(f"its sandbox cannot be ended: {str(error) or 'the template has ended'}")
        self._renewal.want(one, alarm)


class _Renewal:
    """The next generation that an alarm wants, and when it is made."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._wanted: Generation | None = None  # the one to be followed
        self._why: list[Alarm] = []
        self._last = -PAUSE
        self._task: asyncio.Task[None] | None = None

    def want(self, one: Generation, alarm: Alarm) -> None:
        """Want another generation after this one, if it is the one that takes connections."""
        if one not in self._supervisor.current:
            return
        if self._wanted is None or self._wanted.number != one.number:
            self._wanted, self._why = one, []
        if alarm.kind not in [other.kind for other in self._why]:
            self._why.append(alarm)

    def is_wanted(self, one: Generation) -> bool:
        """Whether another is to follow this generation."""
        return self._wanted is not None and self._wanted.number == one.number

    def look(self) -> None:
        """Make it, once none was made for an alarm for PAUSE seconds."""
        one = self._wanted
        if one is None or monotonic() - self._last < PAUSE or (self._task and not self._task.done()):
            return
        if self._task is not None:
            self._task.result()
        if one not in self._supervisor.current or self._supervisor.stopping:
            self._wanted = None
            return
        self._last = monotonic()
        self._task = asyncio.get_running_loop().create_task(self._renew(one))

    async def _renew(self, one: Generation) -> None:
        why = self._why
        await self._supervisor.rotate_or_say(f"alarm: {why[0].describe()}")
        if one not in self._supervisor.current and "health" in [alarm.kind for alarm in why]:
            for other in self._supervisor.old:
                if other.number == one.number:
                    other.ends_at = monotonic() + self._supervisor.blueprint.service.grace


class _Said:
    """What was said of alarms: of each kind LINES in PAUSE seconds, and then how many there were."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._since: dict[str, float] = {}
        self._lines: dict[str, int] = {}

    def say(self, text: str, kind: str) -> None:
        """Say one line, or count it."""
        now = monotonic()
        if now - self._since.get(kind, -PAUSE) >= PAUSE:
            missed = self._lines.get(kind, 0) - LINES
            if missed > 0:
                self._supervisor.say(f"alarm: {missed} times more {kind}")
            self._since[kind], self._lines[kind] = now, 0
        self._lines[kind] += 1
        if self._lines[kind] <= LINES:
            self._supervisor.say(text)
