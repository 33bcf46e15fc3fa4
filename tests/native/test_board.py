"""The board of a template: what Python reads is what csrc/nstool.h says that the template writes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool._native import ffi, lib
from nstool.service import board

IPV4 = bytes([192, 0, 2, 1]) + bytes(12) + (4711).to_bytes(2, "big") + bytes([2, 0])
IPV6 = bytes.fromhex("20010db8000000000000000000000001") + (443).to_bytes(2, "big") + bytes([10, 0])
UNIX = bytes(18) + bytes([1, 0])


@pytest.fixture
def written() -> Iterator[tuple[Any, board.Board]]:
    """A board as C sees it, and the same as Python does."""
    fd = board.create()
    shared = mmap.mmap(fd, board.SIZE)
    seen = board.Board(fd)
    yield ffi.from_buffer("struct nst_board *", shared), seen
    seen.close()
    os.close(fd)


def test_the_board_has_the_size_of_the_struct() -> None:
    """And so many causes, stages, buckets, ends and places."""
    assert ffi.sizeof("struct nst_board") == board.SIZE
    assert len(board.CAUSES) == lib.NST_CAUSES
    assert len(board.bounds()) == lib.NST_BUCKETS


def test_causes_stand_in_the_order_of_the_enum() -> None:
    by_number = {
        lib.NST_EXITED: "exited",
        lib.NST_STATUS: "failed",
        lib.NST_SIGNALLED: "signalled",
        lib.NST_NO_START: "no_start",
        lib.NST_OVERRAN: "overran",
        lib.NST_STOPPED: "stopped",
        lib.NST_BUSY: "busy",
        lib.NST_WAITED: "waited",
        lib.NST_MANY: "client_most",
        lib.NST_FAST: "client_rate",
        lib.NST_IDLE: "idle",
        lib.NST_DEAF: "deaf",
        lib.NST_UNTOLD: "untold",
    }
    assert tuple(by_number[number] for number in range(lib.NST_CAUSES)) == board.CAUSES
    assert (*board.CAUSES[lib.NST_BUSY : lib.NST_FAST + 1], board.CAUSES[lib.NST_UNTOLD]) == board.REFUSED


def test_each_count_is_read_where_it_is_written(written: tuple[Any, board.Board]) -> None:
    memory, seen = written
    memory.accepting, memory.queued, memory.live, memory.parked = 1, 2, 3, 4
    memory.lives, memory.accepted, memory.nets = 1 << 40, (1 << 40) + 1, 5
    for n in range(len(board.CAUSES)):
        memory.causes[n] = 100 + n
    for stage in range(len(board.STAGES)):
        memory.sums[stage] = 1000 + stage
        for n in range(len(board.bounds())):
            memory.buckets[stage][n] = 10000 * stage + n
    counts = seen.counts()
    assert (counts.accepting, counts.queued, counts.live, counts.parked) == (True, 2, 3, 4)
    assert (counts.lives, counts.accepted, counts.nets) == (1 << 40, (1 << 40) + 1, 5)
    assert counts.causes == {name: 100 + n for n, name in enumerate(board.CAUSES)}
    for stage, name in enumerate(board.STAGES):
        expected = tuple(10000 * stage + n for n in range(len(board.bounds())))
        assert counts.stages[name] == board.Histogram(expected, 1000 + stage)


def test_places_are_read_where_they_are_written(written: tuple[Any, board.Board]) -> None:
    """The empty ones are left out, and those beyond the number of places."""
    memory, seen = written
    memory.n_places = lib.NST_PLACES
    last = lib.NST_PLACES - 1
    for n, state, client in ((1, 1, bytes(20)), (5, 2, IPV4), (last, 3, IPV6)):
        place = memory.places[n]
        place.state, place.pid, place.life, place.since, place.turn = state, 10 + n, 20 + n, n * 10**9, 7
        ffi.memmove(place.client, client, len(client))
    assert seen.places() == (
        board.Place(1, "parked", 11, 21, 1.0, ""),
        board.Place(5, "serving", 15, 25, 5.0, "192.0.2.1:4711"),
        board.Place(last, "ending", 10 + last, 20 + last, float(last), "[2001:db8::1]:443"),
    )
    memory.n_places = 5
    assert [place.number for place in seen.places()] == [1]


def test_ends_are_read_where_they_are_written(written: tuple[Any, board.Board]) -> None:
    """From the ring, the oldest first; what has been written over is gone."""
    memory, seen = written
    assert seen.ends() == (0, ())
    total = lib.NST_ENDS + 3
    for n in range(total):
        end = memory.ends[n % lib.NST_ENDS]
        end.life, end.begin, end.end, end.status = n, n * 10**9, (n + 1) * 10**9, 3 << 8
        end.place, end.cause, end.listener = n % 64, lib.NST_STATUS, 1
        ffi.memmove(end.client, UNIX, len(UNIX))
        for stage in range(4):
            end.microseconds[stage] = stage + n
    memory.n_ends = total
    number, ends = seen.ends()
    assert (number, [end.life for end in ends]) == (total, list(range(3, total)))
    n = total - 1
    newest = board.End(n, n, n + 1, n % 64, "failed", 3 << 8, 1, "unix", (n, n + 1, n + 2, n + 3))
    assert seen.ends(most=1) == (total, (newest,))
    assert [end.life for end in seen.ends(since=total - 2)[1]] == [total - 2, total - 1]
    assert seen.ends(since=total) == (total, ())


def test_what_never_began_has_neither_place_nor_listener(written: tuple[Any, board.Board]) -> None:
    memory, seen = written
    memory.ends[0].place = memory.ends[0].listener = 0xFFFF_FFFF
    memory.ends[0].cause = lib.NST_BUSY
    memory.n_ends = 1
    _, (end,) = seen.ends()
    assert (end.place, end.listener, end.cause) == (-1, -1, "busy")


def test_a_board_cannot_be_made_smaller() -> None:
    """Nor larger: who reads it through its memory is never ended by SIGBUS."""
    fd = board.create()
    try:
        for size in (0, board.SIZE - 1, board.SIZE + 1):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)
