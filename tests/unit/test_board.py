"""Histograms of a board, and the words of a client's address: arithmetic, without a board."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.service.board import Histogram, address, bounds


@given(st.integers(0, 1 << 32))
def test_a_time_lies_below_the_bound_of_its_bucket(us: int) -> None:
    """As C finds the bucket from the bits of a number, so the bound of it is found by Python."""
    log = us.bit_length() - 1
    number = us if us < 8 else (log - 1) * 4 + (us >> (log - 2) & 3)
    edges = (0, *bounds())
    assert edges[number] <= us < edges[number + 1]


def test_bounds_grow_by_a_quarter_at_most() -> None:
    edges = bounds()
    assert edges[:8] == (1, 2, 3, 4, 5, 6, 7, 8)
    assert all(a < b <= a * 1.25 for a, b in zip(edges[8:], edges[9:]))


def test_the_document_names_the_bounds() -> None:
    """docs/json.md, for who reads the buckets of a latency."""
    text = (Path(__file__).resolve().parents[2] / "docs/json.md").read_text("utf-8")
    listed = re.search(r"the bounds are 1 to 8, then four to a doubling: ([\d, ]+) and so on", text)
    assert listed is not None
    assert tuple(map(int, listed[1].split(", "))) == bounds()[8:17]
    assert f"list of {len(bounds())} numbers" in text


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({}, 0.5, 0.0),
        ({3: 1}, 0.5, 4.0),
        ({0: 50, 5: 50}, 0.5, 1.0),
        ({0: 50, 5: 51}, 0.5, 6.0),
        ({0: 98, 7: 2}, 0.99, 8.0),
        ({0: 99, 7: 1}, 0.99, 1.0),
    ],
)
def test_a_quantile_is_the_bound_of_its_bucket(counts: dict[int, int], share: float, expected: float) -> None:
    histogram = Histogram(tuple(counts.get(n, 0) for n in range(128)), 0)
    assert histogram.count == sum(counts.values())
    assert histogram.quantile(share) == expected


@pytest.mark.parametrize(
    ("family", "ip", "expected"),
    [
        (2, "7f000001", "127.0.0.1:8080"),
        (10, "20010db8000000000000000000000001", "[2001:db8::1]:8080"),
        (1, "", "unix"),
        (0, "", ""),
        (77, "ffff", ""),
    ],
)
def test_a_client_is_told_in_words(family: int, ip: str, expected: str) -> None:
    client = bytes.fromhex(ip).ljust(16, b"\0") + (8080).to_bytes(2, "big") + bytes([family, 0])
    assert address(client) == expected
