"""The process of ``nstool serve``: it makes the generations of a service, and lets one follow another.

No connection goes through it. It holds the listening sockets, as each template does: when it ends, the templates take
no more connections, which wait in the kernel's backlog, and finish those that they have; the next ``nstool serve`` of
the same name finds them, has their listeners, and goes on with a new generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from nstool.errors import NstoolError, SpecError, visible
from nstool.frozen import Frozen
from nstool.plan.steps import Plan
from nstool.sandbox import engine, journal, rundir
from nstool.security import signals
from nstool.service import attested, endpoint, generation, listen
from nstool.service.alarms import PAUSE, Alarms
from nstool.service.board import Board, Counts, End
from nstool.service.generation import BOARD, LOG, Blueprint, Generation
from nstool.service.listen import Listener
from nstool.spec.check_service import CONFIDES, FORGED, NO_DATAGRAMS, PROXIES

CONTROL = "control"
LOG_RATE = 1 << 20  # bytes a second of what commands say; what is more is dropped, and counted
_LOOK = 0.2  # seconds between two looks at generations that are to end, or to be renewed
KEPT = 32  # generations that are gone, of which something is remembered
KEPT_ENDS = 20  # of each of them
_AGAIN = 10.0  # seconds before the same failure is said again, and before what has failed is tried again
_MOST = 1 << 16  # bytes of a request


class Supervisor:
    """One service. ``run`` returns when it has ended; what it has made is undone then."""

    def __init__(self, blueprint: Blueprint, say: Callable[[str], None], relay: Callable[[str], None]) -> None:
        """say: tells the operator what happens, one line. relay: tells him what commands say, lines with their ends.

        Neither waits or raises.
        """
        self.blueprint = blueprint
        self.say = say
        self._relay = relay
        self.listeners: list[Listener] = []
        self.current: list[Generation] = []  # the templates that take connections, all of one number
        self.old: list[Generation] = []
        self.began = monotonic()
        self.rotations = 0
        self.past = _Past()
        self.alarms = Alarms(self)
        self.endpoint: endpoint.Endpoint | None = None
        self.stopping = False
        self._number = 0
        self._tried = 0.0  # when a generation was last begun
        self._rotating = asyncio.Lock()
        self._stop = asyncio.Event()
        self._pipe = (-1, -1)
        self._allowance = float(LOG_RATE)
        self._dropped = 0
        self._logged = monotonic()
        self._said: dict[tuple[int, int, int], tuple[float, int]] = {}
        self._taken: set[int] = set()  # fds of listeners that a service before had
        self._said_shut = -_AGAIN
        self._opened_again = -PAUSE
        self._addresses: dict[int, str] = {}  # of the listeners, by their fds

    # ---- its life ----

    async def run(self) -> None:
        """Serve until told to stop, also by SIGTERM or SIGINT; SIGHUP makes a new generation.

        Raises what the first generation meets; nothing is left then. The loop keeps the handlers to its end.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._renew)
        name = rundir.claim(self.blueprint.name)
        try:
            journal.begin(name, (), spec={"service": True, "command": list(self.blueprint.spec.command)})
            self._pipe = _log_pipe()
            await self._serve(name)
        finally:
            kept = self._leave_adopted() if not self.current and not self.stopping else False
            self._undo(name, kept=kept)

    def _leave_adopted(self) -> bool:
        """Let generations of before go on, as no other has come after them; whether there are any."""
        adopted = [one for one in self.old if one.blueprint is None]
        self.old = [one for one in self.old if one not in adopted]
        for one in adopted:
            self._unwatch(one)
            one.leave()
        return bool(adopted)

    async def _serve(self, name: str) -> None:
        self._follow_log(self._pipe[0])
        self._adopt()
        self._open_listeners()
        metrics = self.blueprint.service.metrics
        place = self.blueprint.written(("service", "metrics"))
        self.endpoint = endpoint.opened(metrics, self.blueprint.name, self.status, place)
        server = await asyncio.start_unix_server(
            self._answer, sock=generation.bound(name, CONTROL, socket.SOCK_STREAM), limit=_MOST
        )
        try:
            self.alarms.begin()
            try:
                await self.rotate("start")
            except NstoolError:
                if not self.stopping:
                    raise
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _LOOK)
                await self._look()
            await self._drain()
        finally:
            self.alarms.end()
            server.close()

    def stop(self) -> None:
        """Take no more connections, and end when those that there are have ended; told twice, at once."""
        if self.stopping:
            for one in self.alive():
                self._end(one, signal.SIGKILL)
        self.stopping = True
        self._stop.set()

    def _end(self, one: Generation, number: int) -> None:
        """Send a signal to all sandboxes of a template; one that does not answer is ended itself, with them."""
        try:
            one.end(number)
        except (ProcessLookupError, NstoolError):
            one.ended = True

    def alive(self) -> list[Generation]:
        """Return all templates that there are, the current ones last."""
        return [*self.old, *self.current]

    def _renew(self) -> None:
        if self.current and not self.stopping:  # else one is being made, or none is wanted
            asyncio.get_running_loop().create_task(self.rotate_or_say("SIGHUP"))

    async def _drain(self) -> None:
        self.say("stopping: no more connections; those that there are go on to their end")
        for one in self.current:
            self._retire(one)
        self.current = []
        for one in self.old:
            one.ends_at = one.ends_at or monotonic() + self.blueprint.service.grace
        while self.old:
            await asyncio.sleep(_LOOK / 4)
            await self._look()

    def _undo(self, name: str, *, kept: bool) -> None:
        """kept: others have the listeners that were taken over, too."""
        failed: list[str] = []
        with contextlib.ExitStack() as parts:  # each is undone, whatever another meets; the last here is the first
            parts.callback(journal.undo, name, ())
            for fd in self._pipe:
                if fd >= 0:
                    parts.callback(os.close, fd)
            if self.endpoint is not None:
                parts.callback(self.endpoint.close)
            parts.callback(listen.close_all, [one for one in self.listeners if one.fd in self._taken], kept=kept)
            parts.callback(listen.close_all, [one for one in self.listeners if one.fd not in self._taken])
            for one in self.alive():
                parts.callback(self._close_or_note, one, failed)
            self.old, self.current = [], []
        if failed:
            raise NstoolError("\n".join(failed))

    def _close_or_note(self, one: Generation, failed: list[str]) -> None:
        try:
            self._close(one)
        except NstoolError as error:
            failed.append(str(error))

    # ---- generations ----

    def _adopt(self) -> None:
        for one in generation.adopt(self.blueprint.name):
            assert one.channel is not None
            try:
                held = one.channel.held()
            except (OSError, ProcessLookupError):
                one.close()
                continue
            self._number = max(self._number, one.number)
            self.blueprint.follow(one.recorded)
            one.board_fd = held.pop(BOARD, -1)
            if one.board_fd >= 0:
                one.board = Board(one.board_fd)
            log = held.pop(LOG, -1)
            if log >= 0:
                self._follow_log(log)
            self._take_listeners(held)
            self.old.append(one)
            self._watch(one)
            if one.board is not None:
                self.alarms.adopt(one)
            live = one.counts().live if one.board else 0
            self.say(f"generation {one.title} of before goes on with {live} sandboxes")

    def _take_listeners(self, held: dict[int, int]) -> None:
        known = {_identity(one.fd) for one in self.listeners}
        for fd in held.values():
            if _identity(fd) in known:
                os.close(fd)
                continue
            known.add(_identity(fd))
            one = Listener("", fd)
            if listen.is_shut(one):  # by a sandbox; it is opened anew
                listen.give_up(one)
                os.close(fd)
                continue
            word = next((word for word in self.blueprint.service.listen if _is_at(word, one)), "")
            path = word.partition(":")[2] if word.startswith(("unix:/", "seqpacket:/")) else ""
            self.listeners.append(Listener(word, fd, path))
            self._taken.add(fd)

    def _open_listeners(self) -> None:
        """Open those of the spec that there are not yet, and let those go that it has no more."""
        service = self.blueprint.service
        kept = [one for one in self.listeners if one.word]
        gone = [one for one in self.listeners if not one.word]
        listen.close_all(gone)
        self._taken -= {one.fd for one in gone}
        have = {one.word for one in kept}
        self.listeners = kept
        handed = service.shape != "port"
        if handed:
            listen.tie_all(kept)
        new = tuple(word for word in service.listen if word not in have)
        self.listeners += listen.open_all(
            new, service.backlog, self.blueprint.listener_place, handed=handed, shards=service.shards
        )
        for one in self.listeners:
            if service.shape in NO_DATAGRAMS and one.type == socket.SOCK_DGRAM:
                raise SpecError(NO_DATAGRAMS[service.shape], self.blueprint.listener_place(one.word))
            if service.proxy and not one.where.startswith((*PROXIES, "systemd:")):
                raise SpecError(FORGED, self.blueprint.listener_place(one.word))
            if service.lease_net and service.shape != "port" and not one.where.startswith(("tcp:", "udp:")):
                raise SpecError(CONFIDES, self.blueprint.listener_place(one.word))
        self._addresses = {one.fd: one.where for one in self.listeners}

    async def _open_again(self) -> None:
        """Open listeners anew that a sandbox has shut down which has them itself, for the next generation.

        No more often than alarms make one, for the same reason.
        """
        if monotonic() - self._opened_again < PAUSE:
            return
        opened: list[str] = []
        for number, one in enumerate(self.listeners):
            if not listen.is_shut(one):
                continue
            where, service = self._addresses[one.fd], self.blueprint.service
            try:
                if one.word == "systemd":
                    raise NstoolError("restart its .socket unit")
                listen.give_up(one)
                place = self.blueprint.listener_place(one.word)
                new = listen.open_listener(where, service.backlog, place, shared=service.shards > 1)
            except NstoolError as error:
                if monotonic() - self._said_shut >= _AGAIN:
                    self._said_shut = monotonic()
                    self.say(f"{where} was shut down by a sandbox, and nobody is heard there: {error}")
                continue
            self._taken.discard(one.fd)
            listen.close_all([one], kept=True)  # its path is that of the new one
            self.listeners[number] = new.replace(word=one.word)
            self._addresses[new.fd] = where
            opened.append(where)
        if opened:
            self._opened_again = monotonic()
            await self.rotate_or_say(f"a sandbox had shut down what was opened anew: {', '.join(opened)}")

    async def rotate(self, why: str) -> None:
        """Let a new generation take the connections from here on. Raises what it meets; the old one goes on then."""
        async with self._rotating:
            self._tried = monotonic()
            self._number += 1
            number = self._number
            loop = asyncio.get_running_loop()
            try:
                made = await loop.run_in_executor(None, self._made, number)
            except BaseException:
                self._number += 1  # the next has what this one would have had, even or odd numbers: Blueprint.varied
                raise
            before, self.current = self.current, made
            for one in made:
                self._watch(one)
            if self.stopping:  # meanwhile: what it has taken goes on to its end
                before, self.current = [*before, *made], []
            else:
                self.rotations += bool(before)
                self.say(f"generation {number} takes connections ({why})")
            for one in [*before, *(old for old in self.old if not old.draining)]:
                self._retire(one)
                if self.stopping:
                    one.ends_at = monotonic() + self.blueprint.service.grace

    def _made(self, number: int) -> list[Generation]:
        """Make all templates of a generation, and only then let them take connections."""
        variant, shards = self.blueprint.variant(), self.blueprint.service.shards
        made: list[Generation] = []
        with contextlib.ExitStack() as undone:
            for shard in range(shards):
                own = listen.of_shard(self.listeners, shard, shards)
                one = generation.make(
                    self.blueprint,
                    number,
                    shard,
                    variant,
                    log=self._pipe,
                    listeners=len(own),
                    stopping=lambda: self.stopping,
                )
                undone.callback(one.close)
                made.append(one)
                for place, listener in enumerate(own):
                    one.listen(place, listener)
            if self.stopping:
                raise NstoolError("told to stop")
            for one in made:
                one.accept(True)
            undone.pop_all()
        return made

    async def rotate_or_say(self, why: str) -> None:
        """Do that, or say why it cannot be done."""
        try:
            await self.rotate(why)
        except (NstoolError, OSError) as error:
            self.say(f"no new generation: {error}")

    def _retire(self, one: Generation) -> None:
        one.draining = True
        try:
            one.accept(False)
        except (ProcessLookupError, NstoolError) as error:
            one.ended = isinstance(error, ProcessLookupError)
            self.say(f"generation {one.title} cannot be told to take no more: {error or 'it has ended'}")
        if one not in self.old:
            self.old.append(one)

    def _hear_late(self) -> None:
        """Hear what templates told while they were asked for something."""
        for one in self.alive():
            for message in one.channel.late() if one.channel else ():
                self._hear(one, message)

    async def _look(self) -> None:
        service = self.blueprint.service
        self._hear_late()
        self.alarms.look()
        for one in list(self.old):
            if one.ends_at and monotonic() > one.ends_at:
                one.ends_at = 0.0
                self._end(one, signals.number_of(service.stop_signal, "service.stop_signal"))
            if one.ended or one.board is None or _is_done(one.counts()):
                self._close(one)
                self.old.remove(one)
        current = self.current
        if self.stopping or self._rotating.locked():
            return
        if len(current) < service.shards and monotonic() - self._tried >= _AGAIN:
            await self.rotate_or_say("a template was missing")
            return
        if not current:
            return
        if service.shape == "listener":
            await self._open_again()
        if service.renew_after and monotonic() - current[0].began >= service.renew_after:
            await self.rotate_or_say(f"after {service.renew_after:g} s")
        elif service.renew_lives and sum(one.counts().lives for one in current) >= service.renew_lives:
            await self.rotate_or_say(f"after {service.renew_lives} sandboxes")

    def _close(self, one: Generation) -> None:
        self._unwatch(one)
        try:
            self.alarms.forget(one)
            if one.board is not None:
                self.past.add(one.counts())
            self.past.keep(one)
        finally:
            one.close()
        self.say(f"generation {one.title} is gone")

    def _watch(self, one: Generation) -> None:
        assert one.channel is not None
        asyncio.get_running_loop().add_reader(one.channel.socket.fileno(), self._told, one)

    def _unwatch(self, one: Generation) -> None:
        if one.channel is not None and one.channel.socket.fileno() >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(one.channel.socket.fileno())

    def _told(self, one: Generation) -> None:
        """Hear what a template tells by itself: of sandboxes that could not be made, or that wait to be attested."""
        assert one.channel is not None
        try:
            message = one.channel.receive(0)
        except NstoolError as error:
            self.say(f"generation {one.title}: {error}")
            return
        except ProcessLookupError:
            self._unwatch(one)
            one.ended = True
            self.say(f"generation {one.title} has ended by itself")
            if one in self.current and not self.stopping:
                self.current = [other for other in self.current if other is not one]
                self.old.append(one)
                asyncio.get_running_loop().create_task(self.rotate_or_say("the one before has ended"))
            return
        if message is not None:
            self._hear(one, message)

    def _hear(self, one: Generation, message: engine.Message) -> None:
        try:
            self._heard(one, message)
        except NstoolError as error:
            self.say(f"generation {one.title}: {error}")
        except ProcessLookupError:  # its channel tells that, too
            return

    def _heard(self, one: Generation, message: engine.Message) -> None:
        if message.type == engine.FAILED and message.step >= 0 and one.sandbox_plan is not None:
            self._say_failed(one.sandbox_plan, message)
        elif message.type == engine.READY and one.blueprint is None:
            self.say(
                f"a sandbox of generation {one.title}, of before, was ended: what its spec was is not known any more"
            )
            one.end(signal.SIGKILL, message.detail, message.pid)
        elif message.type == engine.READY:
            try:
                attested.attest(one, message.detail, message.pid)
            except NstoolError as error:
                self.say(f"a sandbox was ended before its command: {error}")
                one.end(signal.SIGKILL, message.detail, message.pid)
            else:
                one.release(message.detail, message.pid)

    def _say_failed(self, plan: Plan, message: engine.Message) -> None:
        """Say which step was refused; the same again only after a while, with how often it was."""
        key = (message.step, message.error, message.detail)
        now = monotonic()
        said, times = self._said.get(key, (-_AGAIN, 0))
        if now - said < _AGAIN:
            self._said[key] = (said, times + 1)
            return
        self._said[key] = (now, 0)
        more = f"{times} times more since: " if times else ""
        self.say(f"no sandbox: {more}{generation.failed(plan, message)}")

    # ---- what commands say ----

    def _follow_log(self, fd: int) -> None:
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._log, fd)

    def _log(self, fd: int) -> None:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            asyncio.get_running_loop().remove_reader(fd)
            return
        now = monotonic()
        self._allowance = min(LOG_RATE, self._allowance + (now - self._logged) * LOG_RATE)
        self._logged = now
        if len(data) > self._allowance:
            self._dropped += len(data)
            return
        if self._dropped:
            self.say(f"{self._dropped} bytes of what the commands said were dropped: more than {LOG_RATE} a second")
            self._dropped = 0
        self._allowance -= len(data)
        self._relay("".join(visible(line) + "\n" for line in data.decode("utf-8", "replace").splitlines()))

    # ---- what is asked of it ----

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), 10)
            answer = await self._do(json.loads(line) if line.strip() else {})
        except (ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            answer = {"error": f"no request: {error}"}
        except (NstoolError, OSError) as error:
            answer = {"error": str(error)}
        with contextlib.suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        asked = request.get("do")
        if asked == "status":
            return self.status()
        if asked == "rotate":
            await self.rotate("asked for")
            return {"generation": self.current[0].number if self.current else 0}
        if asked == "stop":
            self.stop()
            return {}
        raise SpecError(f"no request {asked!r}")

    def status(self) -> dict[str, Any]:
        """Return all that is known of the service, as plain data."""
        from nstool.service.status import status

        return status(self)


class Gone(Frozen):
    """A generation that is gone. began, ended: of the monotonic clock. ends: its last lives."""

    number: int
    began: float
    ended: float
    lives: int
    ends: tuple[End, ...]


class _Past:
    """The counts of generations that are gone, and of the last of them what they were. gone: the newest last."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []
        self.causes: dict[str, int] = {}
        self.accepted = 0
        self.lives = 0
        self.nets = 0
        self.stages: dict[str, tuple[list[int], int]] = {}

    def keep(self, one: Generation) -> None:
        """Keep what one was that goes."""
        lives = one.counts().lives if one.board else 0
        ends = one.board.ends(most=KEPT_ENDS)[1] if one.board else ()
        self.gone = [*self.gone, Gone(one.number, one.began, monotonic(), lives, ends)][-KEPT:]

    def add(self, counts: Counts) -> None:
        """Add those of one that goes."""
        self.accepted += counts.accepted
        self.lives += counts.lives
        self.nets += counts.nets
        for cause, count in counts.causes.items():
            self.causes[cause] = self.causes.get(cause, 0) + count
        for stage, histogram in counts.stages.items():
            have, total = self.stages.get(stage, ([0] * len(histogram.counts), 0))
            together = [a + b for a, b in zip(have, histogram.counts)]
            self.stages[stage] = (together, total + histogram.total)


def _is_done(counts: Counts) -> bool:
    return not counts.accepting and not counts.live and not counts.queued


def _log_pipe() -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)  # who says too much loses it, and waits for nobody
    return reading, writing


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _is_at(word: str, listener: Listener) -> bool:
    if word == "systemd":
        return False
    return listen.place_of(word) == listen.place_of_fd(listener.fd)
