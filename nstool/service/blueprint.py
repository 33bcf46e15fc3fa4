"""What all generations of a service have in common: its spec, and what varies from sandbox to sandbox."""

from __future__ import annotations

import os

from nstool.errors import NotSupported, SpecError
from nstool.frozen import Frozen
from nstool.namespaces import user
from nstool.plan import service as plans
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.sandbox import host, leases
from nstool.service import listen, together
from nstool.service.listen import Access, access
from nstool.service.orders import BINARY, BY_PLACE, DECIMAL, HEX, RANDOM, USE_OCTET, USE_PORT, Vary
from nstool.service.together import CANARY
from nstool.spec.check import MAX_ID_LINES, key_path
from nstool.spec.model import Spec
from nstool.spec.places import Located
from nstool.spec.service import Service
from nstool.spec.varied import LOOPBACK, filled, variant_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Path, Place

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


class Sized(Frozen):
    """What each place of a service needs: how many ranges of ids, of how many ids.

    spans: how many times that for all places there is, for generations that have the same ids.
    """

    ranges: int
    count: int
    spans: int


class Blueprint:
    """What all generations of a service have in common: its spec, resolved, and the facts of this host."""

    def __init__(
        self, name: str, specs: tuple[Spec, ...], service: Service, place: Place = key_path, named: str = "name"
    ) -> None:
        """specs: its variants, resolved. place: tells where a key is written. named: where its name is.

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
        self.named = named
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
        return f"{self.name}.{titled(number, shard)}"

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
        self.named = "NAME"
        self.spec = Spec()
        self.service = service
        self.access = Access()


def titled(number: int, shard: int) -> str:
    """Return how a template is called: its number, with that of its shard behind it if it is not the first."""
    return f"{number}-{shard}" if shard else f"{number}"
