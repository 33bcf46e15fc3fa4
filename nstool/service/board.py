"""The board of a template: counts, latencies and lives, in memory that it shares with who looks. csrc/nstool.h."""

from __future__ import annotations

import mmap
import os
import socket
import sys
from struct import Struct

from nstool.frozen import Frozen

_HEAD = Struct("<6I 3Q")
CAUSES: tuple[str, ...] = (
    *("exited", "failed", "signalled", "no_start", "overran", "stopped"),
    *("busy", "waited", "client_most", "client_rate"),
    *("idle", "deaf", "untold"),
)
REFUSED: tuple[str, ...] = (*CAUSES[6:10], "untold")
STAGES: tuple[str, ...] = ("waited", "first_step", "executed", "first_byte", "gone")
STATES: tuple[str, ...] = ("empty", "parked", "serving", "ending", "held")
_BUCKETS = 128
_N_ENDS = 1024
_MOST = 1024  # places
_HAS_UID = 4
_NAMED = 255
_COUNTS = Struct(f"<{len(CAUSES)}Q{len(STAGES)}Q")
_STAGE = Struct(f"<{_BUCKETS}Q")
_LAST = Struct("<Q")
_END = Struct("<Qqq IIiI 20s 4I 2I 4x")
_PLACE = Struct("<IiQq20sI")
_COUNTS_AT = _HEAD.size
_BUCKETS_AT = _COUNTS_AT + _COUNTS.size
_LAST_AT = _BUCKETS_AT + len(STAGES) * _STAGE.size
_ENDS_AT = _LAST_AT + _LAST.size
_PLACES_AT = -(-(_ENDS_AT + _N_ENDS * _END.size) // 8) * 8
SIZE = _PLACES_AT + 1024 * _PLACE.size
_AF_INET, _AF_INET6 = 2, 10


class Histogram(Frozen):
    """Times in microseconds. counts: by bucket, whose upper bounds are ``bounds()``; total: their sum."""

    counts: tuple[int, ...]
    total: int

    @property
    def count(self) -> int:
        """How many times were noted."""
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Return the time below which this share of them lies, as the upper bound of its bucket; 0 of none."""
        wanted, seen = share * self.count, 0
        for bound, count in zip(bounds(), self.counts):
            seen += count
            if count and seen >= wanted:
                return float(bound)
        return 0.0


class Place(Frozen):
    """A place of a template. state: parked, serving, ending, or held: it has no sandbox, but memory of its last.

    pid: as the template sees it, 0 for none. life: number of its life. since: seconds since 1970, of its connection.
    client: its address and port.
    """

    number: int
    state: str
    pid: int
    life: int
    since: float
    client: str


class End(Frozen):
    """A life that is over, or a connection that was refused: then life is 0.

    begin, end: seconds since 1970. place, listener: numbers, -1 of none. cause: one of CAUSES. status: a wait status
    as wait(2) gives it: the exit status times 256, or the number of the signal, and 128 more with a core dump. times:
    microseconds from the connection to a place, the first step, the exec, the first byte; 0 of what it did not get to.
    """

    life: int
    begin: float
    end: float
    place: int
    cause: str
    status: int
    listener: int
    client: str
    times: tuple[int, ...]


class Counts(Frozen):
    """What a template has done: as it is at this moment, and since it began."""

    accepting: bool
    queued: int
    live: int
    parked: int
    lives: int
    accepted: int
    nets: int
    causes: dict[str, int]
    stages: dict[str, Histogram]


def bounds() -> tuple[int, ...]:
    """Return the upper bounds of the buckets, microseconds: 1 to 8, then four to a doubling."""
    found = [n + 1 for n in range(8)]
    for n in range(8, _BUCKETS):
        doubling, quarter = n // 4 + 1, n % 4
        found.append((1 << doubling) + (quarter + 1) * (1 << (doubling - 2)))
    return tuple(found)


def create() -> int:
    """Return an fd of an empty board, which nobody can make smaller. memfd_create(2)."""
    import fcntl

    fd = os.memfd_create("board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


class Board:
    """A board that is looked at. fd: stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def counts(self) -> Counts:
        """Return what is counted. Accepting is read first, then queued, then live: csrc/serve/board.c."""
        _, _, accepting, queued, live, parked, lives, accepted, nets = _HEAD.unpack_from(self._map, 0)
        words = _COUNTS.unpack_from(self._map, _COUNTS_AT)
        stages = {
            name: Histogram(_STAGE.unpack_from(self._map, _BUCKETS_AT + n * _STAGE.size), words[len(CAUSES) + n])
            for n, name in enumerate(STAGES)
        }
        causes = dict(zip(CAUSES, words))
        return Counts(bool(accepting), queued, live, parked, lives, accepted, nets, causes, stages)

    def places(self) -> tuple[Place, ...]:
        """Return the places that are not empty."""
        found = []
        for number in range(self.size):
            state, pid, life, since, client, _ = _PLACE.unpack_from(self._map, _PLACES_AT + number * _PLACE.size)
            if 0 < state < len(STATES):
                found.append(Place(number, STATES[state], pid, life, since / 1e9, address(client)))
        return tuple(found)

    @property
    def size(self) -> int:
        """How many places there are."""
        places: int = _HEAD.unpack_from(self._map, 0)[1]
        return min(places, _MOST)

    def life(self, number: int) -> tuple[int, bool]:
        """Return the number of the last life that a place has had, and whether it still has that."""
        state, _, life, *_ = _PLACE.unpack_from(self._map, _PLACES_AT + number * _PLACE.size)
        return life, bool(state)

    def turn(self, number: int) -> int:
        """Return how many lives a place has had before the one in it."""
        turn: int = _PLACE.unpack_from(self._map, _PLACES_AT + number * _PLACE.size)[-1]
        return turn

    def ends(self, since: int = 0, most: int = _N_ENDS) -> tuple[int, tuple[End, ...]]:
        """Return how many lives are over, and the last of those after the first ``since``, of what is remembered."""
        (last,) = _LAST.unpack_from(self._map, _LAST_AT)
        found = []
        for number in range(max(since, last - most), last):
            life, begin, end, place, cause, status, listener, client, *rest = _END.unpack_from(
                self._map, _ENDS_AT + number % _N_ENDS * _END.size
            )
            name = CAUSES[cause] if cause < len(CAUSES) else "unknown"
            where = -1 if place == 0xFFFF_FFFF else place
            heard = -1 if listener == 0xFFFF_FFFF else listener
            times = tuple(rest[:4])
            found.append(End(life, begin / 1e9, end / 1e9, where, name, status, heard, address(client), times))
        return last, tuple(found)

    def close(self) -> None:
        """Let the memory go."""
        self._map.close()


def address(client: bytes) -> str:
    """Return a client in words: "192.0.2.1:4711", "[2001:db8::1]:4711", "[fe80::1%2]:4711" of the link of that number,
    "uid 1000", "unix", "" for none.

    Who has a certificate is "certificate" and a number, which stands for its name as long as the template lives.
    """
    family, port = client[18], int.from_bytes(client[16:18], "big")
    if family == _AF_INET:
        return f"{socket.inet_ntop(socket.AF_INET, client[:4])}:{port}"
    if family == _AF_INET6:
        link = int.from_bytes(client[4:8], sys.byteorder) if client[0] == 0xFE and client[1] & 0xC0 == 0x80 else 0
        of_link = client[:4] + bytes(4) + client[8:16] if link else client[:16]
        return f"[{socket.inet_ntop(socket.AF_INET6, of_link)}{f'%{link}' if link else ''}]:{port}"
    if family == socket.AF_UNIX and client[_HAS_UID]:
        return f"uid {int.from_bytes(client[:4], 'little')}"
    if family == _NAMED:
        return f"certificate {client[:8].hex()}"
    return "unix" if family == socket.AF_UNIX else ""
