"""Leases: a name, host ids and addresses that no other sandbox of this host has at the same time.

Ids and networks are symbolic links in the run directory, named by what is leased and pointing to
the name of the sandbox: symlink(2) takes one and says whose it is in a single call that only one
caller wins. A lease ends when its sandbox is undone; that of a killed launcher by ``nstool cleanup``.

Host ids come from 0x70000000 to 0x7FFDFFFF, in ranges of 65536 (4094 of them). systemd's table of
ids (UIDS-GIDS) has that as unused, and login accounts, /etc/subuid and container ranges lie below.
``NSTOOL_IDS=FIRST-LAST`` sets another pool. Ranges that /etc/passwd, /etc/group, /etc/subuid or
/etc/subgid speak of are left out.

Networks are /30 of 10.213.0.0/16 or 172.29.0.0/16 (``NSTOOL_NETS=NET/BITS,...`` sets others); what
the host has a route into is left out. The IPv6 network of the same lease is the /126 of
fd6e:7374:6f6f:: that ends in the IPv4 network.
"""

from __future__ import annotations

import os
from time import CLOCK_BOOTTIME, CLOCK_MONOTONIC, clock_gettime, time

from nstool.errors import NotSupported, SpecError
from nstool.plan.lease import Lease
from nstool.sandbox import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from typing import Any

    from nstool.spec.model import Spec

ID_COUNT = 65536
ID_POOL = (0x70000000, 0x7FFDFFFF)
NET_POOLS = "10.213.0.0/16,172.29.0.0/16"
ULA = "fd6e:7374:6f6f"  # "nstool" in ASCII, but the l
NET_MODES = ("veth", "bridge")  # the modes of spec.net that need addresses

Range = tuple[int, int]  # first and last, both inside


def take(spec: Spec) -> Lease:
    """Lease what this spec needs to itself: name, host ids, cgroup name, addresses.

    Raises SpecError if the name is taken, NotSupported if a pool is used up. Give it back by
    ``journal.undo(lease.name, steps, lease)``.
    """
    name = rundir.claim(spec.name)
    try:
        fields: dict[str, Any] = {"name": name, "cgroup": cgroup_name(name), **ids(), **clocks()}
        if spec.namespaces.user == "new" and not spec.uid_map:
            fields["uid_base"], fields["gid_base"], fields["count"] = take_ids(name)
        if spec.net.mode in NET_MODES and spec.namespaces.net == "new":
            fields.update(take_net(name))
        return Lease(**fields)
    except BaseException:
        from nstool.sandbox import journal

        journal.undo(name, ())
        raise


def probe(spec: Spec) -> None:
    """Raise what ``take`` would raise now, but for the name: nobody who wants that is to meet us."""
    from nstool.sandbox import journal

    lease = take(spec.replace(name=""))
    journal.undo(lease.name, (), lease)


_unregistered = Lease(name="")


def unregistered() -> Lease:
    """Return the lease of a sandbox that has nothing to itself but its clocks: for each second the same."""
    global _unregistered
    now = clocks()
    lease = _unregistered
    if lease.monotonic != now["monotonic"] or lease.boottime != now["boottime"]:
        lease = _unregistered = Lease(name="", **ids(), **now)  # type: ignore[arg-type]
    return lease


def ids() -> dict[str, str]:
    """Return the fields machine_id and boot_id of a lease. machine-id(5), random(4)."""
    digits = os.urandom(16).hex()
    return {
        "machine_id": os.urandom(16).hex(),
        "boot_id": "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
    }


def clocks() -> dict[str, int]:
    """Return the fields monotonic, boottime and begin of a lease: offsets that make these clocks begin at zero."""
    return {
        "begin": int(time()),
        "monotonic": -int(clock_gettime(CLOCK_MONOTONIC)),
        "boottime": -int(clock_gettime(CLOCK_BOOTTIME)),
    }


def cgroup_name(name: str) -> str:
    """Return a cgroup name that no other run directory uses for its sandbox of this name.

    It says whose it is where no journal tells of it any more: the run directory, and the launcher's
    pid, who may be about to enter it.
    """
    return f"nstool-{name}-{os.urandom(3).hex()}{cgroup_mark()}-{os.getpid():012}"


def cgroup_mark() -> str:
    """Return what cgroup names of this run directory have before the pid; a sandbox's name has no "+"."""
    mark = 0x811C9DC5  # FNV-1a: each module of the library that has a checksum costs more to load than this
    for byte in os.fsencode(rundir.wanted_path()):
        mark = (mark ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"+{mark:08x}"


# ---------------------------------------------------------------------------------------- ids

_TRIES = 16


def take_ids(name: str, count: int = ID_COUNT) -> tuple[int, int, int]:
    """Lease ``count`` (at most 65536) host ids for the sandbox ``name``: first uid, first gid, count.

    An ordinary user gets the range of /etc/subuid and /etc/subgid, which all of the user's
    sandboxes share (newuidmap(1) allows no other), or their own id alone: count 1.
    Raises NotSupported when none is free.
    """
    if os.geteuid() != 0:
        return _subordinate(count)
    if not 0 < count <= ID_COUNT:
        raise SpecError(f"{count} host ids: one lease is 1 to {ID_COUNT}; write uid_map and gid_map for more")
    directory = rundir.path() + "/ids"
    slots = _id_slots()
    for base in _at_random(slots):
        if _take_link(f"{directory}/{base}", name):
            return base, base, count
    raise NotSupported(
        "host ids of its own",
        f"all {len(slots)} ranges of {ID_COUNT} ids are leased ({directory})",
        "run `nstool cleanup`, stop sandboxes, or set NSTOOL_IDS=FIRST-LAST to a larger pool",
    )


def _at_random(slots: range | list[int]) -> Iterator[int]:
    # So that ids are not used again soon and takers do not meet: some anywhere, for a service has a long row of them,
    # then all, from anywhere on.
    for _ in range(_TRIES):
        yield slots[int.from_bytes(os.urandom(4), "little") % len(slots)]
    first = int.from_bytes(os.urandom(4), "little") % len(slots)
    yield from slots[first:]
    yield from slots[:first]


def take_ranges(name: str, number: int) -> list[int]:
    """Lease so many ranges of ID_COUNT host ids for root's sandbox ``name``: their first ids.

    Fewer if no more are free. Those that lie together are taken together, the longest rows first, so that a map has few
    lines for them.
    """
    directory = rundir.path() + "/ids"
    found: list[int] = []
    while len(found) < number:
        leased = {int(entry) for entry in _entries(directory) if entry.isdecimal()}
        rows = free_rows(_id_slots(), leased)
        if not rows:
            break
        wanted = number - len(found)
        starts = [row[at : at + wanted] for row in rows for at in range(len(row) - wanted + 1)]
        chosen = starts[int.from_bytes(os.urandom(4), "little") % len(starts)] if starts else max(rows, key=len)
        found += [base for base in chosen if _take_link(f"{directory}/{base}", name)]
    return found


def free_rows(slots: Iterable[int], leased: Collection[int]) -> list[range]:
    """Return the rows of neighbouring ranges that are not leased, by their first ids. Pure."""
    rows: list[range] = []
    for base in slots:
        if base in leased:
            continue
        if rows and rows[-1].stop == base:
            rows[-1] = range(rows[-1].start, base + ID_COUNT, ID_COUNT)
        else:
            rows.append(range(base, base + ID_COUNT, ID_COUNT))
    return rows


def count_ranges() -> int:
    """Return how many ranges of ID_COUNT host ids there are for root's sandboxes, leased or not."""
    return len(_id_slots())


def _take_link(path: str, name: str) -> bool:
    try:
        rundir.put(os.symlink, name, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise rundir.refused(error, f"symlink({name!r}, {path!r})", "take a lease") from None
    return True


_ID_FILES = ("/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid")
# The usable slots, and from which state of the files and of the environment they were made.
_id_cache: tuple[object, range | list[int]] = (None, range(0))


def _id_slots() -> range | list[int]:
    global _id_cache
    # The user namespace too: what was read in one is not mapped in another.
    state = (
        os.environ.get("NSTOOL_IDS"),
        os.stat("/proc/self/ns/user").st_ino,
        *[_version(path) for path in _ID_FILES],
    )
    if _id_cache[0] != state:
        taken = [used for path in _ID_FILES for used in ids_in(_text(path), path.startswith("/etc/sub"))]
        mapped = [extent[0] for extent in _id_map(_text("/proc/self/uid_map"))]
        _id_cache = (state, id_slots(_id_pool(state[0]), taken, mapped))  # type: ignore[arg-type]
    return _id_cache[1]


def _version(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_ino, status.st_size


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:  # a host without subordinate ids
        return ""


def id_slots(pool: Range, taken: Iterable[Range], mapped: Iterable[Range]) -> range | list[int]:
    """Return the first ids of the ranges of the pool that nobody has and this user namespace maps. Pure.

    Raises NotSupported if there is none.
    """
    first = -(-pool[0] // ID_COUNT) * ID_COUNT
    slots: range | list[int] = range(first, pool[1] - ID_COUNT + 2, ID_COUNT)
    for low, high in taken:
        if low <= pool[1] and high >= pool[0]:
            slots = [base for base in slots if high < base or low >= base + ID_COUNT]
    extents = list(mapped)
    if not any(low <= pool[0] and pool[1] <= high for low, high in extents):
        slots = [base for base in slots if any(low <= base and base + ID_COUNT - 1 <= high for low, high in extents)]
    if not slots:
        raise NotSupported(
            "host ids of its own",
            f"no range of {ID_COUNT} ids in {pool[0]}-{pool[1]} is free of other users and mapped in this "
            "user namespace (/etc/subuid, /proc/self/uid_map)",
            "set NSTOOL_IDS=FIRST-LAST to ids that nobody uses, or write uid_map and gid_map in the spec",
        )
    return slots


def ids_in(text: str, subordinate: bool) -> Iterator[Range]:
    """Yield the ids that passwd(5) or group(5) text names, or subuid(5) text if ``subordinate``. Pure."""
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) < 3 or not fields[2].isdecimal():  # a comment, or "+" for NIS
            continue
        number = int(fields[2])
        if not subordinate:
            yield number, number
        elif fields[1].isdecimal() and number:
            yield int(fields[1]), int(fields[1]) + number - 1


def _id_map(text: str) -> list[tuple[Range, int]]:
    # Lines of /proc/PID/uid_map: inside, outside, count.
    extents = [[int(word) for word in line.split()] for line in text.splitlines()]
    return [((inside, inside + count - 1), outside) for inside, outside, count in extents]


def _id_pool(chosen: str | None) -> Range:
    if not chosen:
        return ID_POOL
    try:
        first, last = (int(word, 0) for word in chosen.split("-"))
    except ValueError:
        first, last = 0, 0
    if not ID_COUNT <= first < last < 0xFFFFFFFF:
        raise SpecError(f"{chosen[:60]!r} is not FIRST-LAST with {ID_COUNT} <= FIRST < LAST < 4294967295", "NSTOOL_IDS")
    return first, last


def are_apart() -> bool:
    """Whether the ids that a sandbox gets by itself are none of the caller's: leased ones, or subordinate ones."""
    return os.geteuid() == 0 or _subordinate(1)[0] != os.geteuid()


def _subordinate(count: int) -> tuple[int, int, int]:
    uid, gid = os.geteuid(), os.getegid()
    uids, gids = (_first_range(path, uid) for path in ("/etc/subuid", "/etc/subgid"))
    if not uids or not gids:
        return uid, gid, 1
    return uids[0], gids[0], min(count, uids[1] - uids[0] + 1, gids[1] - gids[0] + 1)


def _first_range(path: str, uid: int) -> Range | None:
    # The largest range of this user, who stands there by name or by number.
    text = _text(path)
    import pwd

    try:
        owners = (pwd.getpwuid(uid).pw_name, str(uid))
    except KeyError:  # no such account, as in many containers
        owners = (str(uid), str(uid))
    own = "\n".join(line for line in text.splitlines() if line.split(":")[0] in owners)
    return max(ids_in(own, True), key=lambda ids: ids[1] - ids[0], default=None)


# ----------------------------------------------------------------------------------- networks


def take_net(name: str) -> dict[str, str]:
    """Lease a network for the sandbox ``name``: the fields link, address, gateway, address6, gateway6.

    gateway is the host's end, address the sandbox's. Raises NotSupported when none is free.
    """
    directory = rundir.path() + "/nets"
    chosen = os.environ.get("NSTOOL_NETS") or NET_POOLS
    routed = routes(_text("/proc/net/route"))
    routes6 = _text("/proc/net/ipv6_route")
    for low, high in pools(chosen):
        size = (high - low + 1) // 4
        start = int.from_bytes(os.urandom(4), "little") % size
        for turn in range(size):
            network = low + (start + turn) % size * 4
            blocking = next((route for route in routed if route[0] <= network + 3 and route[1] >= network), None)
            if blocking and blocking[0] <= low and blocking[1] >= high:
                break  # the whole pool
            if blocking or _net6(network).replace(":", "") in routes6:
                continue
            if _take_link(f"{directory}/{dotted(network)}", name):
                return net_fields(network)
    raise NotSupported(
        "a network of its own",
        f"every /30 of {chosen} is leased ({directory}) or routed by this host (/proc/net/route)",
        "set NSTOOL_NETS=NET/BITS to a private network that nobody uses here, or write net.address and net.gateway",
    )


def net_fields(network: int) -> dict[str, str]:
    """Return the fields of a Lease for one IPv4 /30, given as a number. Pure."""
    prefix6 = f"{ULA}:0:0:0:{network >> 16:x}"
    return {
        "link": f"ns-{network:08x}",
        "gateway": f"{dotted(network + 1)}/30",
        "address": f"{dotted(network + 2)}/30",
        "gateway6": f"{prefix6}:{(network & 0xFFFF) + 1:x}/126",
        "address6": f"{prefix6}:{(network & 0xFFFF) + 2:x}/126",
    }


def _net6(network: int) -> str:
    # As /proc/net/ipv6_route writes it.
    return f"{ULA}:000000000000{network:08x}"


def dotted(address: int) -> str:
    """Return an IPv4 address from its number. Pure."""
    return ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))


def pools(text: str) -> list[Range]:
    """Return the IPv4 networks of "NET/BITS,..." as (first, last) addresses. Pure. Raises SpecError."""
    found = []
    for word in text.split(","):
        address, _, bits = word.strip().partition("/")
        octets = [int(octet) for octet in address.split(".") if _below(octet, 256)]
        if len(octets) != 4 or address.count(".") != 3 or not _below(bits, 31) or int(bits) < 8:
            raise SpecError(f"{word[:60]!r} is not an IPv4 network of 8 to 30 bits, as 10.213.0.0/16", "NSTOOL_NETS")
        low = int.from_bytes(bytes(octets), "big")
        size = 1 << 32 - int(bits)
        low -= low % size
        found.append((low, low + size - 1))
    return found


def _below(text: str, most: int) -> bool:
    return text.isdecimal() and len(text) <= 3 and int(text) < most


def routes(text: str) -> list[Range]:
    """Return the networks in /proc/net/route text, the default route left out. Pure. proc_net(5)."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split("\t", 8)
        mask = _swapped(fields[7])
        if mask:
            low = _swapped(fields[1]) & mask
            found.append((low, low | mask ^ 0xFFFFFFFF))
    return found


def _swapped(word: str) -> int:
    return int.from_bytes(bytes.fromhex(word), "little")  # the host's byte order


# ------------------------------------------------------------------------------------ release


def links(lease: Lease) -> tuple[str, ...]:
    """Return the symbolic links that hold a lease's ids and network."""
    directory = rundir.path()
    found = []
    if os.geteuid() == 0 and lease.uid_base:
        found.append(f"{directory}/ids/{lease.uid_base}")
    if lease.link:
        found.append(f"{directory}/nets/{dotted(int(lease.link[3:], 16))}")
    return tuple(found)


def release(lease: Lease) -> None:
    """Give a lease's ids and network back; the name goes with the sandbox's directory. Idempotent."""
    for link in links(lease):
        _release_link(link, lease.name)


def release_all(name: str) -> list[str]:
    """Give back all that the sandbox ``name`` leases, found by looking; what it was, sentences."""
    directory = rundir.path()
    return [
        f"released {kind[:-1]} {entry}"
        for kind in ("ids", "nets")
        for entry in _entries(f"{directory}/{kind}")
        if _is_lease(f"{directory}/{kind}/{entry}") and _release_link(f"{directory}/{kind}/{entry}", name)
    ]


def release_orphans() -> None:
    """Give back leases whose sandbox has no directory, and that nobody uses: somebody removed that by hand."""
    directory = rundir.path()
    for kind in ("ids", "nets"):
        for entry in _entries(f"{directory}/{kind}"):
            if not _is_lease(f"{directory}/{kind}/{entry}"):
                continue
            owner = _owner(f"{directory}/{kind}/{entry}")
            if owner and not os.path.lexists(f"{directory}/sandboxes/{owner}") and not _in_use(kind, entry):
                _release_link(f"{directory}/{kind}/{entry}", owner)


def strays() -> list[NotSupported]:
    """Return what lies among the leases and is none."""
    directory = rundir.wanted_path()
    paths = [f"{directory}/{kind}/{entry}" for kind in ("ids", "nets") for entry in _entries(f"{directory}/{kind}")]
    return [
        NotSupported(f"lease {path}", f"{path} is no lease", f"nstool has not made it so: remove {path}")
        for path in paths
        if os.path.lexists(path) and not _is_lease(path)
    ]


def _is_lease(path: str) -> bool:
    """Whether it is a symbolic link with the name of a range of ids or of a network."""
    kind, name = path.rsplit("/", 2)[1:]
    words = [name] if kind == "ids" else name.split(".")
    numbers = len(words) == (1 if kind == "ids" else 4) and all(w.isascii() and w.isdecimal() for w in words)
    return numbers and len(name) <= 15 and (kind == "ids" or max(map(int, words)) < 256) and os.path.islink(path)


def _in_use(kind: str, entry: str) -> bool:
    """Whether a link has this network, or a process has ids of the range that begins here."""
    if kind == "nets":
        network = int.from_bytes(bytes(map(int, entry.split("."))), "big")
        return os.path.exists(f"/proc/sys/net/ipv4/conf/{net_fields(network)['link']}")
    base = int(entry)
    for pid in os.listdir("/proc"):
        if pid.isdecimal() and base <= _uid(pid) < base + ID_COUNT and rundir.starttime(int(pid)):
            return True
    return False


def _uid(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:  # it has just ended
        return -1


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:  # nothing of this kind was ever leased here
        return []


def _owner(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def _release_link(path: str, name: str) -> bool:
    # Only one's own: after an interrupted undo the same lease may be another's already.
    if _owner(path) != name:
        return False
    os.unlink(path)
    return True
