"""One generation of a service: a template, its places, and the channel by which it is told what to do."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable
from time import monotonic, time

from nstool._native import ffi, lib
from nstool.errors import KernelError, NotSupported, NstoolError, SpecError
from nstool.frozen import Frozen
from nstool.namespaces import user
from nstool.plan import encode
from nstool.plan import service as plans
from nstool.plan.cgroups import CgroupSteps
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import Plan, Step
from nstool.plan.template import program as whole
from nstool.sandbox import cgroups, engine, host, journal, leases, rundir
from nstool.sandbox.launch import ends_within, report
from nstool.service import attested, board, interpreter, listen, orders, together, watched
from nstool.service.listen import Access, Listener, access
from nstool.service.orders import BINARY, BY_PLACE, DECIMAL, HEX, RANDOM, USE_OCTET, USE_PORT, Vary
from nstool.service.together import CANARY
from nstool.spec.check import MAX_ID_LINES, key_path
from nstool.spec.model import IdMap, Spec
from nstool.spec.places import Located
from nstool.spec.service import Service
from nstool.spec.varied import LOOPBACK, filled, variant_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.rundir import Record
    from nstool.spec.check import Path, Place

ANSWERS = 10.0  # seconds for a template to answer
PINNED = 8  # a place is left alone while somebody holds such a part of its memory: one in so many
TRIAL = 30.0  # seconds for the sandbox that is attested to be ready; with a handler, which is imported, start_timeout
_AT_ONCE = 64  # questions whose a connection is
_LOOK = 0.1  # seconds between two looks whether that is still wanted
_TURNS = 2  # ranges of ids that each place has where ids vary: two lives in a row have none in common
_SPANS = 2  # and a user's range is divided again: two generations in a row have none in common
_PID_TOKEN = 4194217
_PID_WORD_TOKEN = "\x01pid\x01"  # 5 characters
# What is drawn, first and last. As many digits each, so that none begins with a 0, which some would read as octal.
_PIDS = (10000, 31999)
_PORTS = (10000, 59999)
_OCTETS = (100, 254)  # of the address, but the first
# Seconds that a sandbox's clocks are ahead of its generation's: at least, and by so many more at most.
_AHEAD = (3600, 30 * 86400)
_ID_TOKEN = 1999999901
_NAME_TOKEN = "nstooltk"  # 8 characters
_MACHINE_TOKEN = "nstool-token-machine-id-of-a-box"  # 32 characters
_BOOT_TOKENS = ("nstltok0", "tok1", "tok2", "tok3", "nstool-tok-4")  # the parts of a boot id, as random(4) has it
_CANARY_TOKEN = "nstool-token-canary-of-a-sandbox"  # 32 characters
_PORT_TOKEN = "\x01port"  # 5 characters
_ADDRESS_TOKEN = "127.\x01o1.\x01o2.\x01o3"
_MONOTONIC_TOKEN = -19999999902  # 12 characters
_BOOTTIME_TOKEN = -19999999903
_BEGIN_TOKEN = 1999999904
BOARD, LOG = -1, -2
_SIZE = ffi.sizeof("struct nst_message")
_FDS = 16  # that come with one message
_LENT = 9  # files of a network namespace that is lent
_MORE = 128  # files besides those of places


# What of ``vary`` is in files of each sandbox's own.
_FILES = frozenset(("hostname", "machine-id", "boot-id", "clock"))


class Ended(NstoolError):
    """A template has ended before it had made a sandbox."""


class Sized(Frozen):
    """What each place of a service needs: how many ranges of ids, of how many ids.

    spans: how many times that for all places there is, for generations that have the same ids.
    """

    ranges: int
    count: int
    spans: int


class Channel:
    """A connection to a template: messages of one size, with fds. Owns its socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._late: list[engine.Message] = []
        self._owed = 0  # answers that nobody waits for any more, which come before that of the next question

    def send(
        self, kind: int, *, detail: int = 0, pid: int = 0, status: int = 0, step: int = 0, fds: tuple[int, ...] = ()
    ) -> None:
        """Send one message. Raises ProcessLookupError when the template has ended, NstoolError if it does not read."""
        words = {"type": kind, "detail": detail, "pid": pid, "status": status, "step": step}
        data = bytes(ffi.buffer(ffi.new("struct nst_message *", words)))
        self.socket.settimeout(ANSWERS)
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds), socket.MSG_NOSIGNAL)
            else:
                self.socket.send(data, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise ProcessLookupError from None
        except TimeoutError:
            raise NstoolError("the template does not read what it is told") from None

    def ask(self, kind: int, what: str, **words: object) -> None:
        """Send one message and wait until it is done. Raises NstoolError when it is refused."""
        self.send(kind, **words)  # type: ignore[arg-type]
        answer = self._answer(what)
        if answer.type != lib.NST_MSG_DONE:
            raise NstoolError(f"the template refuses {what}: errno {answer.error}")

    def _answer(self, what: str) -> engine.Message:
        end = monotonic() + ANSWERS
        while True:
            message = self.receive(max(0.0, end - monotonic()))
            if message is None and monotonic() < end:
                continue
            if message is None:
                self._owed += 1
                raise NstoolError(f"the template does not answer: {what}")
            if _is_answer(message):
                return message
            self._late.append(message)

    def late(self) -> list[engine.Message]:
        """Return what came meanwhile."""
        found, self._late = self._late, []
        return found

    def receive(self, timeout: float) -> engine.Message | None:
        """Return the next message, None when none comes in time. Raises ProcessLookupError at the template's end.

        It answers whose connections are that come along.
        """
        end = monotonic() + timeout
        for _ in range(_AT_ONCE):
            self.socket.settimeout(max(0.0, end - monotonic()))
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, 1)
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionResetError:
                raise ProcessLookupError from None
            if not data:
                raise ProcessLookupError
            message = engine.decode(data)
            if self._owed and _is_answer(message):
                self._owed -= 1
                continue
            if message.type != lib.NST_MSG_WHOSE:
                return message
            if fds:
                self.send(lib.NST_MSG_WHOSE, detail=message.detail, step=message.step, status=_user_of(fds[0]))
            else:  # no file was left for it
                self.send(lib.NST_MSG_WHOSE, detail=message.detail, step=message.step, pid=-1)
        return None  # others have their turn

    def logs(self) -> dict[int, int]:
        """Return where it is read what the places of a template say, by their numbers. To be asked before ``held``."""
        found: dict[int, int] = {}
        self.socket.settimeout(ANSWERS)
        while True:
            self.send(lib.NST_MSG_LOGS, detail=len(found))
            data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, _FDS)
            if not data:
                raise ProcessLookupError
            found |= enumerate(fds, len(found))
            if not fds:
                break
        for place, fd in [*found.items()]:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):  # stderr = "null"
                os.close(found.pop(place))
        return found

    def held(self) -> dict[int, int]:
        """Return fds of what the template holds: its listeners by number, at BOARD its board, at LOG its log's end.

        From then on it tells this service what happens.
        """
        self.send(lib.NST_MSG_FETCH)
        found: dict[int, int] = {}
        self.socket.settimeout(ANSWERS)
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, 1)
            if not data:
                raise ProcessLookupError
            message = engine.decode(data)
            if message.type == lib.NST_MSG_HELD and fds:
                found[message.detail] = fds[0]
            elif message.type in (lib.NST_MSG_DONE, lib.NST_MSG_FAILED):
                return found

    def close(self) -> None:
        """Close the socket; the template takes no connections any more if this was by which it was told to."""
        self.socket.close()


def _is_answer(message: engine.Message) -> bool:
    return bool(message.type == lib.NST_MSG_DONE or (message.type == lib.NST_MSG_FAILED and message.step < 0))


def _user_of(connection: int) -> int:
    """Return who has made a connection by a Unix socket, and close it here. unix(7), SO_PEERCRED."""
    with socket.socket(fileno=connection) as one:
        credentials = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little", signed=True)


class Blueprint:
    """What all generations of a service have in common: its spec, resolved, and the facts of this host."""

    def __init__(self, name: str, specs: tuple[Spec, ...], service: Service, place: Place = key_path) -> None:
        """specs: its variants, resolved. place: tells where a key is written.

        Raises SpecError for what a service cannot have.
        """
        listen.check(service, place)
        for number, spec in enumerate(specs):
            together.check(spec, service, variant_place(service, number, place))
        self._variants = tuple(
            _with_facts(spec, service, variant_place(service, number, place)) for number, spec in enumerate(specs)
        )
        self._place = place
        self.name = name
        self.spec = specs[0]
        self.service = service
        self.access = access(service, place)
        self._last = -1  # the variant that was begun last

    def variant(self) -> tuple[Spec, Host]:
        """Return the spec of a generation that is begun, with its root and command, and what the host is for that."""
        count = len(self._variants)
        further = 1
        if self.service.variant_order == "random" and count > 1:  # any but the last
            further += int.from_bytes(os.urandom(8), "little") % (count - 1 if self._last >= 0 else count)
        self._last = (self._last + further) % count
        return self._variants[self._last]

    def follow(self, recorded: dict[str, object]) -> None:
        """Note which variant a generation of before has, as its record says: the next is another."""
        for number, (spec, _) in enumerate(self._variants):
            own = spec.changed()
            if all(own.get(key) == recorded.get(key) for key in ("root", "command")):
                self._last = number

    @property
    def variants(self) -> tuple[tuple[Spec, Host], ...]:
        """Its specs, each with what the host is for it."""
        return self._variants

    def written(self, path: Path) -> str:
        """Return where a key is written."""
        return self._place(path)

    def listener_place(self, word: str) -> str:
        """Return where a word of ``listen`` is written."""
        return self._place(("service", "listen", self.service.listen.index(word)))

    def place(self, variant: tuple[Spec, Host], path: Path) -> str:
        """Return where a key of a variant is written."""
        return variant_place(self.service, self._variants.index(variant), self._place)(path)

    def scattered(self, variant: tuple[Spec, Host], lacking: int, *, free: bool) -> SpecError:
        """Return why a template has so many ranges of ids too few just now. free: there are some, but not in a row."""
        service, ranges = self.service, self.sized.ranges
        most = service.places - -(-lacking // ranges) * service.shards
        why = (
            f"those that are free lie so scattered that an id map, of at most {MAX_ID_LINES} lines and "
            f"{plans.MAX_ID_BYTES} bytes (user_namespaces(7)), has no room for all"
            if free
            else "others have leased too many of what NSTOOL_IDS says"
        )
        remedy = f"{_fewer(service, most)}, or free some: nstool cleanup, or stop other sandboxes and services"
        return SpecError(
            f"each of {service.places} places needs host ids of its own, and {why}: {remedy}",
            self.place(variant, ("service", "places")),
        )

    @property
    def sized(self) -> Sized:
        """How many ranges of ids there are for each place, and how large one is."""
        return _sized(self.service)

    def name_of(self, number: int, shard: int) -> str:
        """Return the name of the sandbox of a template."""
        return f"{self.name}.{_title(number, shard)}"

    def part(self, shard: int) -> Service:
        """Return what one template of a generation has of the service: its part of what is counted."""
        service = self.service
        counted = {name: getattr(service, name) for name in ("places", "ready", "queue")}
        n = service.shards
        return service.replace(**{name: count // n + (shard < count % n) for name, count in counted.items()})

    def passed(self, listeners: int) -> int:
        """Return how many fds a command has from 3 on, where the service has so many listeners."""
        return {"socket": 1, "python": 1, "listener": listeners}.get(self.service.shape, 0)

    def sandbox_spec(self, variant: Spec, passed: int) -> Spec:
        """Return the spec of one sandbox of a generation, with tokens for what varies. passed: fds from 3 on."""
        spec = variant.replace(name="")
        if self.service.shape == "port":
            port = _PORT_TOKEN if "port" in self.service.vary else str(self.service.port)
            spec = filled(spec, port, _ADDRESS_TOKEN if "address" in self.service.vary else LOOPBACK)
        env = dict(spec.env)
        if "canary" in self.service.vary:
            env[CANARY] = _CANARY_TOKEN
        if passed and self.service.shape != "python":
            env |= {"LISTEN_FDS": str(passed), "LISTEN_PID": str(2 if spec.init else 1)}
            if self.service.shape == "socket":
                env["LISTEN_FDNAMES"] = "connection"
            if "pid" in self.service.vary:
                env["LISTEN_PID"] = _PID_WORD_TOKEN
        if "hostname" in self.service.vary:
            spec = spec.replace(hostname=f"{(spec.hostname or self.name)[:55]}-{_NAME_TOKEN}")
        elif not spec.hostname:
            spec = spec.replace(hostname=self.name[:64])
        if "pid" in self.service.vary:
            spec = spec.replace(next_pid=_PID_TOKEN)
        return spec.replace(env=env, attest=self.service.attest != "never", die_with_parent=True)

    def sandbox_lease(self, lease: Lease) -> Lease:
        """Return the lease of one sandbox of a generation that has this one, with tokens for what varies."""
        lease = lease.replace(
            count=self.sized.count,
            uid_base=_ID_TOKEN,
            gid_base=_ID_TOKEN,
            machine_id=_MACHINE_TOKEN,
            boot_id="-".join(_BOOT_TOKENS),
        )
        if "clock" not in self.service.vary:
            return lease
        return lease.replace(monotonic=_MONOTONIC_TOKEN, boottime=_BOOTTIME_TOKEN, begin=_BEGIN_TOKEN)

    def clocks(self, number: int, lease: Lease) -> dict[str, range]:
        """Return the offsets, in seconds, that the clocks of a generation's sandboxes are drawn from, where they vary.

        The boottime clock is never less ahead than the monotonic one: that of no machine is.
        """
        found: dict[str, range] = {}
        ahead, most = _AHEAD
        for clock in ("monotonic", "boottime") if "clock" in self.service.vary else ():
            base = getattr(lease, clock)
            first = base + ahead + (base + ahead + number) % 2
            found[clock] = range(first, first + most, 2)
            ahead = first - base
        return found

    def varied(self, data: bytes, number: int, lease: Lease) -> tuple[Vary, ...]:
        """Return what varies in an encoded plan of one sandbox. number, lease: of the generation.

        Two generations in a row have no number in common: even ones draw even numbers, odd ones odd numbers.
        """
        sized, words = self.sized, self.service.vary
        found = []
        if str(_ID_TOKEN).encode() in data:
            first = 1 + number % sized.spans * self.service.places * sized.ranges
            step = sized.count
            value = {"first": first * step, "step": step, "count": sized.ranges}
            found.append(Vary(str(_ID_TOKEN).encode(), BY_PLACE, DECIMAL, **value))
        if "hostname" in words:
            found.append(Vary(_NAME_TOKEN.encode(), RANDOM, HEX))
        if "canary" in words:
            found.append(Vary(_CANARY_TOKEN.encode(), RANDOM + 1, HEX))
        if _MACHINE_TOKEN.encode() in data:
            found.append(Vary(_MACHINE_TOKEN.encode(), RANDOM + 3, HEX))
        if "-".join(_BOOT_TOKENS).encode() in data:
            found += [Vary(word.encode(), RANDOM + 4 + n, HEX) for n, word in enumerate(_BOOT_TOKENS)]
        if "pid" in words:
            found.append(Vary(_PID_TOKEN.to_bytes(8, "little"), RANDOM + 2, BINARY, **_drawn(_PIDS, number)))
            if _PID_WORD_TOKEN.encode() in data:
                found.append(Vary(_PID_WORD_TOKEN.encode(), RANDOM + 2, DECIMAL, **_drawn(_PIDS, number)))
        if "port" in words:
            found.append(Vary(_PORT_TOKEN.encode(), RANDOM + 9, DECIMAL, use=USE_PORT, **_drawn(_PORTS, number)))
        if "address" in words:
            for octet in range(3):
                where = {"at": 4 + 4 * octet, "width": 3, "use": USE_OCTET + octet, **_drawn(_OCTETS, number)}
                found.append(Vary(_ADDRESS_TOKEN.encode(), RANDOM + 10 + octet, DECIMAL, **where))
        if "clock" in words:
            found += _clocks(data, self.clocks(number, lease), lease)
        return tuple(found)


def _drawn(bounds: tuple[int, int], number: int) -> dict[str, int]:
    """Return first, step and count of the numbers from one to another that a generation draws from."""
    first = bounds[0] + (bounds[0] + number) % 2
    return {"first": first, "step": 2, "count": (bounds[1] - first) // 2 + 1}


def _clocks(data: bytes, bounds: dict[str, range], lease: Lease) -> list[Vary]:
    """Return what varies of the clocks: their offsets, and when they began, which /proc/stat tells."""
    boot = bounds["boottime"]
    begin = lease.begin + lease.boottime - boot.start
    told = {
        _MONOTONIC_TOKEN: bounds["monotonic"],
        _BOOTTIME_TOKEN: boot,
        _BEGIN_TOKEN: range(begin, begin - boot.step * len(boot), -boot.step),
    }
    return [
        Vary(str(token).encode(), RANDOM + 13, DECIMAL, first=one.start, step=one.step, count=len(one))
        for token, one in told.items()
        if str(token).encode() in data
    ]


def _with_facts(spec: Spec, service: Service, where: Place) -> tuple[Spec, Host]:
    """Return a variant with what the host is for it. where: tells where a key of it is written."""
    with Located(where):
        facts = host.read(spec, ())
        plans.check(spec, facts)
    _check_user(spec, facts, service, where)
    if facts.privileged and not plans.owns_ids(spec, facts):
        _check_pool(service, where)
    return spec, facts


def _sized(service: Service) -> Sized:
    turns, spans = (_TURNS, _SPANS) if "ids" in service.vary else (1, 1)
    if os.geteuid() == 0:
        return Sized(turns, leases.ID_COUNT, 1)  # each generation has ids of its own
    # A user's range is what there is: each has a part of it.
    return Sized(turns, leases.take_ids("")[2] // (service.places * turns * spans + 1), spans)


def _check_pool(service: Service, where: Place) -> None:
    """Raise SpecError for more places than this host has ranges of ids for, also while two generations live."""
    ranges, there = _sized(service).ranges, leases.count_ranges()
    needed = 2 * (service.places * ranges + service.shards)
    if needed > there:
        most = (there // 2 - service.shards) // ranges
        raise SpecError(
            f"{service.places} places of a generation and of the next need {needed} ranges of {leases.ID_COUNT} ids, "
            f"and there are {there} for all sandboxes: {_fewer(service, most)}, or set NSTOOL_IDS=FIRST-LAST to more",
            where(("service", "places")),
        )


def _fewer(service: Service, most: int) -> str:
    """Return what to write, where there are ids for so many places at most."""
    words = f"places = {most}" if most > 0 else "not one place is to be had"
    return f'{words}, or leave "ids" out of vary, as each has two ranges with it' if "ids" in service.vary else words


def _check_user(spec: Spec, facts: Host, service: Service, where: Place) -> None:
    """Raise NotSupported, SpecError for what a service of an ordinary user cannot have."""
    if facts.privileged:
        return
    if any((spec.limits.memory, spec.limits.pids, spec.limits.cpu != 0)):
        raise NotSupported(
            "limits of each sandbox",
            "a process starts in a cgroup of another user's only as root, and the template has ids of its own",
            "run it as root, or say that there are none: [limits] memory = 0, pids = 0, cpu = 0",
        )
    if service.shards > 1:
        raise NotSupported(
            f"{service.shards} templates at the same time",
            "each would have all of your range of ids, so that sandboxes of two have the same",
            "run it as root, or leave shards out",
        )
    if "ids" in service.vary and plans.owns_ids(spec, facts):
        raise NotSupported(
            'vary = ["ids"]',
            "you have no range of ids in /etc/subuid and /etc/subgid, so that all sandboxes have your own",
            "have an administrator give you one, usermod(8) --add-subuids and --add-subgids, or leave it out",
        )
    sized, ids = _sized(service), 1 + max(user.ids(spec))
    if not plans.owns_ids(spec, facts) and ids > sized.count:
        all_ids = leases.take_ids("")[2]
        most = (all_ids // ids - 1) // (sized.ranges * sized.spans)
        raise SpecError(
            f"each of {service.places} places has {sized.count} of the {all_ids} ids of your range in /etc/subuid and "
            f"/etc/subgid, and the command needs {ids}: {_fewer(service, most)}, or take a smaller user, "
            'user = "1:1", or map ids by uid_map and gid_map',
            where(("service", "places")),
        )


class Remains(Blueprint):
    """What is known of a service of which only generations are left: no more are made."""

    def __init__(self, name: str, service: Service) -> None:
        """service: as far as it holds for those that there are."""
        self._variants = ()
        self.name = name
        self.spec = Spec()
        self.service = service
        self.access = Access()


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
        return _title(self.number, self.shard)

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


def _title(number: int, shard: int) -> str:
    return f"{number}-{shard}" if shard else f"{number}"


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
    _check_files(service, len(plans.place_fds(groups[0])))
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


def _check_files(service: Service, each: int) -> None:
    """Raise NotSupported where a template, or this process, may not have so many files open. each: of a place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = len(os.listdir("/proc/self/fd")) + service.places * (each + 1)
    there = service.places * (each + 3 + _LENT * service.lease_net)
    for need, limit, whose in ((here, soft, "this process"), (there, hard, "the template")):
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


def bound(name: str, file: str, type_: int) -> socket.socket:
    """Return a Unix socket that listens in the directory of a sandbox."""

    def begin(one: socket.socket, path: str) -> None:
        one.bind(path)
        one.listen(16)

    return _in_directory(name, file, type_, begin)


def connected(name: str, file: str, type_: int) -> socket.socket:
    """Return a connection to a socket in the directory of a sandbox. Raises OSError where nobody listens."""
    return _in_directory(name, file, type_, socket.socket.connect)


def _in_directory(name: str, file: str, type_: int, begin: Callable[[socket.socket, str], None]) -> socket.socket:
    # By the directory's fd: its path may be longer than unix(7) allows.
    directory = os.open(f"{rundir.path()}/sandboxes/{name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    one = socket.socket(socket.AF_UNIX, type_ | socket.SOCK_CLOEXEC)
    try:
        begin(one, f"/proc/self/fd/{directory}/{file}")
    except BaseException:
        one.close()
        raise
    finally:
        os.close(directory)
    return one


DOOR = "door"


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
            raise NstoolError("told to stop")
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
