"""The process of ``nstool serve``: it makes the generations of a service, and lets one follow another.

No connection goes through it. It holds the listening sockets, as each template does: when it ends, the templates take
no more connections, which wait in the kernel's backlog, and finish those that they have; the next ``nstool serve`` of
the same name finds them, has their listeners, and goes on with a new generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from math import ceil, inf
from time import monotonic
from typing import Any

from nstool.errors import NstoolError, SpecError, plural
from nstool.frozen import Frozen
from nstool.masked import block
from nstool.plan.steps import Plan
from nstool.sandbox import engine, journal, rundir, sockets
from nstool.sandbox.sockets import SocketFile
from nstool.security import signals
from nstool.service import attested, channel, endpoint, ends, generation, health, listen, living, log, tied
from nstool.service.alarms import PAUSE, Alarms
from nstool.service.blueprint import Blueprint
from nstool.service.board import REFUSED, Board, Counts, End
from nstool.service.channel import BOARD, LOG
from nstool.service.endpoint import Endpoint
from nstool.service.ends import Ends
from nstool.service.generation import Generation
from nstool.service.listen import Listener
from nstool.service.log import Log
from nstool.service.said import Said
from nstool.spec.check_service import CONFIDES, FORGED, NO_DATAGRAMS, PROXIES

CONTROL = "control"
_LOOK = 0.2  # seconds between two looks at generations that are to end, or to be renewed
KEPT = 32  # generations that are gone, of which something is remembered
KEPT_ENDS = 20  # of each of them
_AGAIN = 10.0  # seconds before the same failure is said again, and before what has failed is tried again
_AGAIN_MOST = 300.0  # the longest of them where it fails again and again,
_AGAIN_NONE = 60.0  # and where nobody takes connections meanwhile
_SAID_AGAIN = 600.0  # seconds before it is said again that a generation cannot be made, or undone, and why
_SECOND = 1.0
_START = "start"
_AT_ONCE = "those that there are get SIGKILL at once"
_WEAKER = (
    "without CAP_BPF a sandbox can listen with its connection: at IPv4 behind tcp:[::], or at an address that a reload "
    'drops (docs/serve.md); run as root, or take a Unix socket or shape = "port"'
)
_OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
_READ = 30.0  # seconds for the spec to be read again
_ASKED = 10.0  # seconds for a request to come, and for its answer to be read
_MOST = 1 << 16  # bytes of a request


class Supervisor:
    """One service. ``run`` returns when it has ended; what it has made is undone then."""

    def __init__(
        self,
        blueprint: Blueprint,
        say: Callable[[str], None],
        relay: Callable[[str], None],
        load: Callable[[], Blueprint] | None = None,
        *,
        quiet: bool = False,
    ) -> None:
        """say: tells the operator what happens, one line. relay: tells him what commands say, lines with their ends.

        Neither waits or raises. load: reads the spec again; None where it is not to be had any more. quiet: what goes
        as it should is not said.
        """
        self.blueprint = blueprint
        self._load = load
        self.say = say
        self.news = (lambda _: None) if quiet else say  # of what goes as it should
        self.listeners: list[Listener] = []
        self.current: list[Generation] = []  # the templates that take connections, all of one number
        self.old: list[Generation] = []
        self.began = monotonic()
        self.rotations = 0  # generations that have followed another, also one that had ended
        self.past = _Past()
        self.alarms = Alarms(self)
        self.endpoint: Endpoint | None = None
        self.log = Log(say, relay)
        self.said = Said(say)
        self.stopping = False
        self._number = 0
        self._has_had_one = False  # a generation that took connections
        self._tried = 0.0  # when a generation was last begun
        self._replaced = -_AGAIN  # when one was last followed that had ended by itself
        self._rotating = asyncio.Lock()
        self._reading = asyncio.Lock()  # of the spec
        self._next: asyncio.Task[None] | None = None  # the rotation that waits to be begun
        self._reload: asyncio.Task[None] | None = None  # the same, with the spec read again
        self._failures = 0  # rotations in a row that have failed,
        self._pause, self._due = 0.0, 0.0  # seconds to the next, and when that is; who asks for one need not wait
        self._left: list[Generation] = []  # that are gone, of which something cannot be undone
        self._undone = 0.0  # when that was last tried
        self._stop = asyncio.Event()
        self._draining = False  # it was said that it stops
        self._killed = False  # those who were connected were ended at once
        self._ends = Ends(self.said)
        self._said_shut = -_AGAIN
        self._opened_again = -PAUSE
        self._addresses: dict[int, str] = {}  # of the listeners, by their fds
        self._unfound: set[int] = set()  # those whose file is gone, which was said

    # ---- its life ----

    async def run(self) -> None:
        """Serve until told to stop, also by SIGTERM or SIGINT; SIGHUP reads the spec again, for a new generation.

        Raises what the first generation meets; nothing is left then. The loop keeps the handlers to its end; other
        threads block all signals.
        """
        loop = self._loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(initializer=block))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._renew)
        for number in _OTHERS:  # they would end it, and let its templates go on without it
            loop.add_signal_handler(number, self._say_unknown, number)
        name = self._claim()
        try:
            journal.begin(name, (), spec={"service": True, "command": list(self.blueprint.spec.command)})
            _raise_files()
            await self._serve(name)
        finally:
            if not self.current and not self.stopping:
                self._leave_adopted()
            self._undo(name)

    def _claim(self) -> str:
        """Take the name, and return it. Raises SpecError, with where it is written, if it is taken."""
        try:
            return rundir.claim(self.blueprint.name)
        except SpecError as error:
            raise SpecError(error.message, self.blueprint.named) from None

    def _leave_adopted(self) -> None:
        """Let generations of before go on, as no other has come after them."""
        adopted = [one for one in self.old if one.blueprint is None]
        self.old = [one for one in self.old if one not in adopted]
        for one in adopted:
            self._unwatch(one)
            one.leave()

    async def _serve(self, name: str) -> None:
        self._adopt()
        self._open_listeners()
        if self.blueprint.service.shape != "port" and any(one.is_of_tcp for one in self.listeners) and tied.is_weaker():
            self.say(_WEAKER)
        self.endpoint = self._endpoint(self.blueprint)
        server = await self._control(name)
        try:
            self.alarms.begin()
            try:
                await self.rotate(_START)
            except (NstoolError, OSError):
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

    async def _control(self, name: str) -> asyncio.Server:
        """Hear what is asked."""
        where = channel.bound(name, CONTROL, socket.SOCK_STREAM)
        return await asyncio.start_unix_server(self._answer, sock=where, limit=_MOST)

    def stop(self) -> None:
        """Take no more connections, and end when those that there are have ended; at the second call, at once."""
        if self.stopping:
            self._end_at_once()
        self.stopping = True
        self._stop.set()

    def _end_at_once(self) -> None:
        if self._draining and not self._killed and self._has_live():
            self.news(f"told again to stop: {_AT_ONCE}")
        self._killed = self._killed or self._has_live()
        for one in self.alive():
            self._end(one, signal.SIGKILL)

    def _has_live(self) -> bool:
        """Whether somebody is connected."""
        return any(one.board is not None and one.counts().live for one in self.alive())

    def _end(self, one: Generation, number: int) -> None:
        """Send a signal to all sandboxes of a template; one that does not answer is ended itself, with them."""
        try:
            one.end(number)
        except (ProcessLookupError, NstoolError):
            one.ended = True

    def alive(self) -> list[Generation]:
        """Return all templates that there are, the current ones last."""
        return [*self.old, *self.current]

    def refusals(self) -> int:
        """Return how many clients were refused so far."""
        causes = [self.past.causes, *(one.counts().causes for one in self.alive() if one.board is not None)]
        return sum(each.get(name, 0) for each in causes for name in REFUSED)

    def _renew(self) -> None:
        if self._number and not self.stopping:  # else the first is being made, or none is wanted
            asyncio.get_running_loop().create_task(self._reload_or_say("SIGHUP"))

    def _say_unknown(self, number: signal.Signals) -> None:
        self.said.tell(("signal", number), f"{number.name} means nothing here: SIGHUP reads the spec again")

    async def _drain(self) -> None:
        self.news(f"stopping: no more connections{self._time_left()}")
        self._draining = True
        for one in self.current:
            self._retire(one)
        self.current = []
        for one in self.old:
            one.ends_at = one.ends_at or monotonic() + self.blueprint.service.grace
        while self.old or self._rotating.locked():
            await asyncio.sleep(_LOOK / 4)
            await self._look()

    def _time_left(self) -> str:
        """Say what becomes of those who are connected."""
        if self._killed:
            return f"; {_AT_ONCE}"
        if not self._has_live():
            return ""
        grace, number = self.blueprint.service.grace, self.blueprint.service.stop_signal
        name = signal.Signals(signals.number_of(number, "service.stop_signal")).name
        return f"; those that there are have {grace:g} s, then {name}, and SIGKILL {grace:g} s later"

    def _undo(self, name: str) -> None:
        failed: list[str] = []
        with contextlib.ExitStack() as parts:  # each is undone, whatever another meets; the last here is the first
            parts.callback(journal.undo, name, ())
            parts.callback(self.said.look, inf)
            parts.callback(self.log.close)
            if self.endpoint is not None:
                parts.callback(self.endpoint.close)
            parts.callback(listen.close_all, self.listeners)
            for one in self._left:
                parts.callback(_close_or_note, one.close, failed)
            for one in self.alive():
                parts.callback(_close_or_note, functools.partial(self._close, one), failed)
            self.old, self.current, self._left = [], [], []
        if failed:
            raise NstoolError("\n".join(failed))

    # ---- generations ----

    def _adopt(self) -> None:
        for one in generation.adopt(self.blueprint.name):
            assert one.channel is not None
            try:
                one.logs = one.channel.logs()
                held = one.channel.held()
            except (OSError, ProcessLookupError):
                one.close()
                continue
            self._number = max(self._number, one.number)
            self.blueprint.follow(one.recorded)
            one.board_fd = held.pop(BOARD, -1)
            if one.board_fd >= 0:
                one.board = Board(one.board_fd)
            if LOG in held:
                self.log.add(one.name, log.OWN, held.pop(LOG))
            self.log.follow(one)
            self._take_listeners(held, sockets.files_of(one.name))
            self.old.append(one)
            self._watch(one)
            if one.board is not None:
                self.alarms.adopt(one)
                self._ends.adopt(one)
            live = one.counts().live if one.board else 0
            self.news(f"generation {one.title} of before goes on with {plural(live, 'sandbox')}")

    def _take_listeners(self, held: dict[int, int], files: dict[str, SocketFile]) -> None:
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
            file = files.get(word.partition(":")[2])
            if file is not None:
                self._own(file)
            self.listeners.append(Listener(word, fd, file))

    def _open_listeners(self) -> None:
        """Open those of the spec that there are not yet, and let those go that it has no more."""
        service = self.blueprint.service
        kept = [one for one in self.listeners if one.word]
        gone = [one for one in self.listeners if not one.word]
        listen.close_all(gone)
        have = {one.word for one in kept}
        self.listeners = kept
        handed = service.shape != "port"
        if handed:
            listen.tie_all(kept)
        new = tuple(word for word in service.listen if word not in have)
        written = self.blueprint.listener_place
        self.listeners += listen.open_all(
            new, service.backlog, written, handed=handed, shards=service.shards, made=self._own
        )
        for one in self.listeners:
            if service.shape in NO_DATAGRAMS and one.type == socket.SOCK_DGRAM:
                raise SpecError(NO_DATAGRAMS[service.shape], written(one.word))
            if service.proxy and not one.where.startswith((*PROXIES, "systemd:")):
                raise SpecError(FORGED, written(one.word))
            if service.lease_net and service.shape != "port" and not one.where.startswith(("tcp:", "udp:")):
                raise SpecError(CONFIDES, written(one.word))
        self._addresses = {one.fd: one.where for one in self.listeners}

    def _endpoint(self, blueprint: Blueprint) -> Endpoint | None:
        place = blueprint.written(("service", "metrics"))
        return endpoint.opened(blueprint.service.metrics, blueprint.name, self.status, place, self._note)

    def _note(self, file: SocketFile) -> None:
        """Write into the journal that a socket's file is to be removed, also by who finds this service killed."""
        journal.add(self.blueprint.name, (file.undo,))

    def _own(self, file: SocketFile) -> None:
        """Do that, and let those connect who may."""
        self._note(file)
        listen.grant(file, self.blueprint.access)

    def _grant(self) -> None:
        """Let those connect who may, to all that there are."""
        for one in self.listeners:
            if one.file is not None:
                listen.grant(one.file, self.blueprint.access)

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
                shared = service.shards > 1
                new = listen.open_listener(where, service.backlog, place, shared=shared, made=self._own)
            except NstoolError as error:
                if monotonic() - self._said_shut >= _AGAIN:
                    self._said_shut = monotonic()
                    self.say(f"{where} was shut down by a sandbox, and nobody is heard there: {error}")
                continue
            listen.close_all([one])
            self.listeners[number] = new.replace(word=one.word)
            self._addresses[new.fd] = where
            opened.append(where)
        if opened:
            self._opened_again = monotonic()
            await self.rotate_or_say(f"a sandbox had shut down what was opened anew: {', '.join(opened)}")

    async def rotate(self, why: str) -> None:
        """Let a new generation take the connections from here on. Raises what it meets; the old one goes on then.

        One at most waits to be begun: who asks meanwhile gets that one.
        """
        await asyncio.shield(self._begin_to_rotate(why))

    def _begin_to_rotate(self, why: str) -> asyncio.Task[None]:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._rotate(why))
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())  # also if nobody waits
        return self._next

    async def _rotate(self, why: str) -> None:
        async with self._rotating:
            self._next = None
            try:
                await self._turn(why)
            except (NstoolError, OSError) as error:
                if why != _START and not self.stopping:
                    self.said.tell(("rotation", str(error)), f"no new generation ({why}): {error}", _SAID_AGAIN)
                raise

    async def reload(self, why: str) -> None:
        """Read the spec again, and let a generation of it take the connections. Raises what it meets; all stays then.

        Of those who ask at the same time one at most waits, as with ``rotate``.
        """
        if self._reload is None:
            self._reload = asyncio.get_running_loop().create_task(self._read_again_or_say(why))
            self._reload.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._reload)

    async def _read_again_or_say(self, why: str) -> None:
        """Do that; why it cannot be done is said, and raised to who has asked."""
        try:
            await self._read_again(why)
        except (NstoolError, OSError) as error:
            if not self.stopping:
                self.said.tell(("reload", why, str(error)), f"what was read before stays ({why}): {error}")
            raise

    async def _read_again(self, why: str) -> None:
        async with self._reading:
            self._reload = None
            blueprint = await self._read_spec()
            metrics = self.blueprint.service.metrics
            there = {metrics, *(one.word for one in self.listeners if one.is_there)}
            await asyncio.get_running_loop().run_in_executor(None, _try_addresses, blueprint, there)
            async with self._rotating:
                if self.stopping:
                    raise generation.Stopping
                await self._follow(blueprint, why)

    async def _read_spec(self) -> Blueprint:
        """Read the spec again. A file may never answer, as a FIFO: the thread that waits for it keeps nobody."""
        load, loop = self._load, asyncio.get_running_loop()
        if load is None:
            raise NstoolError("the spec was read from standard input, and cannot be read again")
        found: asyncio.Future[Blueprint] = loop.create_future()

        def read() -> None:
            block()
            try:
                told = functools.partial(_set, found, load())
            except Exception as error:
                told = functools.partial(_set, found, error)
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(told)

        threading.Thread(target=read, daemon=True).start()
        try:
            return await asyncio.wait_for(found, _READ)
        except TimeoutError:
            raise NstoolError(f"the spec is not read after {_READ:g} s: its file does not answer") from None

    async def _follow(self, blueprint: Blueprint, why: str) -> None:
        """Let a generation of another spec take the connections; who calls has the lock."""
        self._check_kept(blueprint)
        with contextlib.ExitStack() as back:
            gone, metrics = self._take_up(blueprint, back)
            await self._turn(f"the spec was read again, {why}")
            back.pop_all()
        self._grant()  # not before: a spec that is refused changes nothing of the files that there are
        listen.abandon(gone)
        if metrics is not self.endpoint:
            if self.endpoint is not None:
                self.endpoint.close()
            self.endpoint = metrics
        self.alarms.follow()

    def _check_kept(self, blueprint: Blueprint) -> None:
        """Raise SpecError for another spec that changes what stays as long as a service runs."""
        name = self.blueprint.name
        if blueprint.name != name:
            why = f"it runs as {name!r} until it ends, not as {blueprint.name!r}: stop it, nstool service stop {name}"
            raise SpecError(f"{why}, and start it again", blueprint.named)
        shapes = {blueprint.service.shape, self.blueprint.service.shape}
        if len(shapes) > 1 and "listener" in shapes:  # whether accept(2) waits is the same for all who have a socket
            why = 'a service that runs is not changed to or from shape = "listener": end it, and start it again'
            raise SpecError(why, blueprint.written(("service", "shape")))

    def _take_up(self, blueprint: Blueprint, back: contextlib.ExitStack) -> tuple[list[Listener], Endpoint | None]:
        """Have another spec, with the listeners it wants; back: undoes that. Returns those not wanted, its endpoint."""
        have, addresses, was = self.listeners, self._addresses, self.blueprint
        pauses = self._failures, self._pause, self._due

        def return_() -> None:
            listen.close_all([one for one in self.listeners if one not in have])
            self.listeners, self._addresses, self.blueprint = have, addresses, was
            self._failures, self._pause, self._due = pauses  # of the spec that stays none has failed

        back.callback(return_)
        self.blueprint = blueprint
        wanted, metrics = blueprint.service.listen, blueprint.service.metrics
        # A socket whose file is gone, or another's, is one that nobody finds: it is opened anew.
        self.listeners = [one for one in have if one.word in wanted and one.is_there]
        self._open_listeners()
        if blueprint.service.health_interval:
            health.target(self.listeners)
        if metrics == was.service.metrics:
            return [one for one in have if one not in self.listeners], self.endpoint
        new = self._endpoint(blueprint)
        if new is not None:
            back.callback(new.close)
        return [one for one in have if one not in self.listeners], new

    async def _reload_or_say(self, why: str) -> None:
        """Do that; why it cannot be done is said."""
        with contextlib.suppress(NstoolError, OSError):
            await self.reload(why)

    async def _turn(self, why: str) -> None:
        """Make a generation that takes the connections from here on; who calls has the lock."""
        if self.stopping:
            raise generation.Stopping
        self._tried = monotonic()
        number = self._free_number()
        try:
            made = await asyncio.get_running_loop().run_in_executor(None, self._made, number)
        except (NstoolError, OSError) as error:
            last = [self.log.forget(self.blueprint.name_of(number, n)) for n in range(self.blueprint.service.shards)]
            raise self._failed(error, "".join(last)) from None
        self._number = number
        before, self.current = self.current, made
        for one in made:
            self.log.follow(one)
            self._watch(one)
        if self.stopping:  # meanwhile: what it has taken goes on to its end
            before, self.current = [*before, *made], []
        else:
            self.rotations += self._has_had_one
            self._has_had_one = True
            tries = f"; before it {self._failures} could not be made" if self._failures else ""
            self.news(f"generation {number} takes connections ({why}){tries}")
        self._failures, self._pause, self._due = 0, 0.0, 0.0
        for one in [*before, *(old for old in self.old if not old.draining)]:
            self._retire(one)
            if self.stopping:
                one.ends_at = monotonic() + self.blueprint.service.grace

    def _free_number(self) -> int:
        """Return the number of the next generation: that of one that failed, if nothing of it is left.

        Else the next but one, so that it is even or odd as that would have been: Blueprint.varied.
        """
        number, above = self._number + 1, f"{rundir.path()}/sandboxes"
        shards = range(self.blueprint.service.shards)
        while any(os.path.lexists(f"{above}/{self.blueprint.name_of(number, shard)}") for shard in shards):
            number += 2
        return number

    def _failed(self, error: NstoolError | OSError, last: str) -> NstoolError | OSError:
        """Note that there is no new generation, and when one is tried that nobody asks for. Returns what to raise.

        last: what its template has said.
        """
        if isinstance(error, generation.Ended):
            error = NstoolError(f"{error}: {last or 'it has said nothing'}")
        self._failures += 1
        self._pause = min(max(_AGAIN, 2 * self._pause), _AGAIN_MOST if self.current else _AGAIN_NONE)
        self._due = monotonic() + self._pause
        return error

    def _made(self, number: int) -> list[Generation]:
        """Make all templates of a generation, and only then let them take connections."""
        variant, shards = self.blueprint.variant(), self.blueprint.service.shards
        hear = self._loop.call_soon_threadsafe  # pipes are heard where all else is
        made: list[Generation] = []
        with contextlib.ExitStack() as undone:
            for shard in range(shards):
                own = listen.of_shard(self.listeners, shard, shards)
                one = generation.make(
                    self.blueprint,
                    number,
                    shard,
                    variant,
                    heard=lambda name, fd: hear(self.log.add, name, log.OWN, fd),
                    listeners=own,
                    stopping=lambda: self.stopping,
                )
                undone.callback(one.close)
                made.append(one)
                for place, listener in enumerate(own):
                    one.listen(place, listener)
            if self.stopping:
                raise generation.Stopping
            for one in made:
                one.accept(True)
            undone.pop_all()
        return made

    async def rotate_or_say(self, why: str) -> None:
        """Do that; why it cannot be done is said."""
        with contextlib.suppress(NstoolError, OSError):
            await self.rotate(why)

    def _retire(self, one: Generation) -> None:
        one.draining = True
        try:
            one.accept(False)
        except ProcessLookupError:  # it has gone, and takes no more
            one.ended = True
        except NstoolError as error:
            self.say(f"generation {one.title} cannot be told to take no more: {error}")
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
        self.log.look()
        for one in self.alive():
            self._ends.look(one)
        self.said.look()
        self._look_at_files()
        for one in list(self.old):
            if one.ends_at and monotonic() > one.ends_at:
                one.ends_at = 0.0
                self._end(one, signals.number_of(service.stop_signal, "service.stop_signal"))
            if one.ended or one.board is None or _is_done(one.counts()):
                self._let_go(one)
        self._undo_left()
        current = self.current
        if self.stopping or self._rotating.locked() or self._next:
            return
        if service.shape == "listener" and current:
            await self._open_again()
        if monotonic() < self._due:
            return
        if len(current) < service.shards:
            if monotonic() - self._tried >= _AGAIN:
                await self.rotate_or_say("a template was missing")
        elif self._held() > service.places // 2 and monotonic() - self._tried >= PAUSE:
            await self.rotate_or_say("most places were left alone, as their memory is held by somebody")
        elif service.renew_after and monotonic() - current[0].began >= service.renew_after:
            await self.rotate_or_say(f"after {service.renew_after:g} s")
        elif service.renew_lives and self._lives() >= service.renew_lives and monotonic() - self._tried >= self._rest():
            await self.rotate_or_say(f"after {service.renew_lives} sandboxes")

    def _look_at_files(self) -> None:
        """Say which Unix sockets nobody can connect to any more, as their file is gone, once."""
        lost = {one.fd for one in self.listeners if not one.is_there}
        for fd in lost - self._unfound:
            again = f"nstool service reload {self.blueprint.name} opens it anew"
            self.say(f"{self._addresses[fd]}: its file is gone, or another's, and nobody can connect; {again}")
        self._unfound = lost

    def _held(self) -> int:
        """Return how many places of the current generation have no sandbox, but memory of their last one."""
        places = (place for one in self.current if one.board is not None for place in one.board.places())
        return sum(place.state == "held" for place in places)

    def _lives(self) -> int:
        """Return how many sandboxes of the current generation had a connection; of "listener" how many have ended."""
        service, found = self.blueprint.service, 0
        for counts in (one.counts() for one in self.current):
            if service.shape == "listener":
                ended = sum(count for cause, count in counts.causes.items() if cause not in REFUSED)
                found += ended - (service.attest != "never")  # the first
            else:
                found += counts.stages["waited"].count
        return found

    def _rest(self) -> float:
        """Return the seconds from a generation to the next that comes as enough sandboxes were there."""
        return PAUSE if self.blueprint.service.shape == "listener" else _SECOND

    def _let_go(self, one: Generation) -> None:
        """End a generation that is done. What cannot be undone of it is tried again, and keeps nobody."""
        self.old.remove(one)
        try:
            self._close(one)
        except (NstoolError, OSError) as error:
            self._left.append(one)
            self._undone = monotonic()
            self.say(f"generation {one.title} is gone, and not all that was made for it: {error}")

    def _undo_left(self) -> None:
        if monotonic() - self._undone < _AGAIN:
            return
        self._undone = monotonic()
        for one in list(self._left):
            try:
                one.close()
            except (NstoolError, OSError) as error:
                self.said.tell(("left", one.name), f"generation {one.title}: {error}", _SAID_AGAIN)
                continue
            self._left.remove(one)
            self.news(f"all that was made for generation {one.title} is gone")

    def _close(self, one: Generation) -> None:
        self._unwatch(one)
        try:
            self.alarms.forget(one)
            self._ends.forget(one)
            self.log.forget(one.name)
            if one.board is not None:
                self.past.add(one.counts())
            self.past.keep(one)
        finally:
            one.close()
        self.news(f"generation {one.title} is gone")

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
                self._replace()
            return
        if message is not None:
            self._hear(one, message)

    def _replace(self) -> None:
        """Let another generation come after a template that has ended by itself.

        At once; soon after another such one when enough time is over, as one that is missing, so that templates which
        cannot live are not made without a pause.
        """
        if monotonic() - self._replaced >= _AGAIN:
            self._replaced = monotonic()
            self._begin_to_rotate("the one before has ended")
        elif self._next is None and not self._rotating.locked():
            seconds = max(0, ceil(max(self._due, self._tried + _AGAIN) - monotonic()))
            who = "" if self.current else ", and nobody is served until then"
            at_once = f"nstool service rotate {self.blueprint.name} makes it at once"
            self.say(f"the next generation is made in {seconds} s, as the one before had ended, too{who}; {at_once}")

    def _hear(self, one: Generation, message: engine.Message) -> None:
        try:
            self._heard(one, message)
        except NstoolError as error:
            self.say(f"generation {one.title}: {error}")
        except ProcessLookupError:  # its channel tells that, too
            return

    def _heard(self, one: Generation, message: engine.Message) -> None:
        if message.type == engine.FAILED and message.step >= 0 and one.sandbox_plan is not None:
            self._say_failed(one, one.sandbox_plan, message)
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

    def _say_failed(self, one: Generation, plan: Plan, message: engine.Message) -> None:
        """Say which step was refused, and of whose sandbox."""
        kind = (message.step, message.error, message.detail)
        whose = ends.of_place(one, message.pid)
        self.said.tell(kind, f"generation {one.title}: no sandbox for {whose}: {generation.failed(plan, message)}")

    # ---- what is asked of it ----

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = json.dumps(await self._answered(reader)).encode() + b"\n"
        writer.transport.set_write_buffer_limits(0)  # drained is what the kernel has
        try:
            async with asyncio.timeout(_ASKED):
                writer.write(answer)
                await writer.drain()
        except OSError:  # he has gone, or does not read
            writer.transport.abort()
        writer.close()

    async def _answered(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        """Return the answer to a request; "exit" is with which status a command ends that has asked for what fails."""
        try:
            request = _asked(await asyncio.wait_for(reader.readline(), _ASKED))
        except (OSError, ValueError, RecursionError) as error:
            return {"error": f"no request: {str(error) or 'it does not come'}", "exit": 2}
        try:
            return await _REQUESTS[request["do"]](self, request)
        except SpecError as error:
            return {"error": str(error), "exit": 2}
        except (NstoolError, OSError) as error:
            return {"error": str(error), "exit": 125}

    async def _tell_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return self.status()

    async def _attest_as_asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """Attest the sandboxes that serve, in a thread: they may be many."""
        sandboxes = [each for one in self.alive() if one.board is not None for each in living.living(one)]
        compare = functools.partial(living.compare, sandboxes, read_filter=bool(request.get("filter")))
        found = await asyncio.get_running_loop().run_in_executor(None, compare)
        return {"sandboxes": [one.asdict() for one in found]}

    async def _rotate_as_asked(self, _: dict[str, Any]) -> dict[str, Any]:
        await self.rotate("asked for")
        return {"generation": self.current[0].number if self.current else 0}

    async def _reload_as_asked(self, _: dict[str, Any]) -> dict[str, Any]:
        await self.reload("asked for")
        return {"generation": self.current[0].number if self.current else 0}

    async def _stop_as_asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """Stop; who asks again, as who waits anew for the end, ends nobody's connection by it."""
        if not self.stopping:
            self.stop()
        if request.get("kill"):
            self.stop()
        return {"pid": os.getpid()}

    def status(self) -> dict[str, Any]:
        """Return all that is known of the service, as plain data."""
        from nstool.service.status import status

        return status(self)


_REQUESTS: dict[str, Callable[[Supervisor, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
    "status": Supervisor._tell_status,
    "attest": Supervisor._attest_as_asked,
    "rotate": Supervisor._rotate_as_asked,
    "reload": Supervisor._reload_as_asked,
    "stop": Supervisor._stop_as_asked,
}


def _try_addresses(blueprint: Blueprint, there: Collection[str]) -> None:
    """Raise what listening at the addresses of a spec would meet, but for those that are there.

    Not in the loop: who has an address is found in all processes of the host, which may take seconds.
    """
    for word, place, why, handed in listen.asked(blueprint):
        if word not in there:
            listen.attempt(word, place, why, handed=handed)


def _asked(line: bytes) -> dict[str, Any]:
    """Return the request that a line is. Raises ValueError, RecursionError."""
    request = json.loads(line) if line.strip() else {}
    asked = request.get("do") if isinstance(request, dict) else None
    if not isinstance(asked, str) or asked not in _REQUESTS:
        raise ValueError(f'{{"do": WHAT}} is one, where WHAT is one of {", ".join(_REQUESTS)}')
    found: dict[str, Any] = request
    return found


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


def _set(found: asyncio.Future[Blueprint], what: Blueprint | Exception) -> None:
    if found.done():  # nobody waits for it any more
        return
    if isinstance(what, Exception):
        found.set_exception(what)
    else:
        found.set_result(what)


def _close_or_note(close: Callable[[], None], failed: list[str]) -> None:
    try:
        close()
    except (NstoolError, OSError) as error:
        failed.append(str(error))


def _is_done(counts: Counts) -> bool:
    return not counts.accepting and not counts.live and not counts.queued


def _raise_files() -> None:
    """Let this process have as many files open as it may: it has one of each place of each generation."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _is_at(word: str, listener: Listener) -> bool:
    if word == "systemd":
        return False
    return listen.place_of(word) == listen.place_of_fd(listener.fd)
