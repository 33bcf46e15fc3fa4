"""What a number of launches shows of an address: pure rules."""

from __future__ import annotations

import random
from math import exp, factorial, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.security.aslr import _mean_at_most, entropy_at_least, most_shown, spread, tied


def test_what_is_fixed_has_no_bits() -> None:
    found = spread([0x400000] * 50)
    assert (found.bits, found.distinct, found.span, found.lowest_bit, found.highest_bit) == (0, 1, 0.0, -1, -1)
    assert found.at_least == 0.0


def test_bits_that_varied() -> None:
    found = spread([0x1000, 0x3000, 0x9000])
    assert (found.varied, found.bits, found.lowest_bit, found.highest_bit) == (0xA000, 2, 13, 15)
    assert (found.lowest, found.highest, found.distinct) == (0x1000, 0x9000, 3)


def test_a_carry_changes_bits_and_not_the_span() -> None:
    """One random bit at a base of all ones: all bits above change with it."""
    found = spread([0x7FFFF000, 0x80000000] * 20)
    assert found.bits == 20
    assert found.span == 1.0


@pytest.mark.parametrize("seen", range(40))
def test_the_bound_of_the_mean_is_that_of_poisson(seen: int) -> None:
    """Seeing so few has a chance of one in twenty there."""
    mean = _mean_at_most(seen)
    chance = sum(exp(-mean) * mean**count / factorial(count) for count in range(seen + 1))
    assert chance == pytest.approx(0.05, rel=0.02)


def test_no_more_is_shown_than_launches_can_show() -> None:
    assert most_shown(200) == pytest.approx(log2(200 * 199 / 2 / 2.995732))
    assert entropy_at_least(200, 5) < entropy_at_least(200, 1) < most_shown(200)
    assert entropy_at_least(1, 0) == 0.0


@pytest.mark.parametrize("bits", [3, 6, 10])
def test_the_bound_holds_in_nineteen_of_twenty_cases(bits: int) -> None:
    """Addresses of known entropy, 500 times: what is said to be there at least is there."""
    chance = random.Random(bits)
    wrong = close = 0
    for _ in range(500):
        found = spread([0x7F0000000000 + (chance.getrandbits(bits) << 12) for _ in range(100)])
        wrong += found.at_least > bits
        close += found.at_least > bits - 2
    assert wrong <= 40  # 25 expected
    if bits < 10:
        assert close == 500


@given(st.lists(st.integers(0, (1 << 47) - 1), min_size=1, max_size=60), st.integers(0, 1 << 47))
def test_a_base_changes_neither_span_nor_entropy(offsets: list[int], base: int) -> None:
    one, other = spread(offsets), spread([base + offset for offset in offsets])
    assert (one.distinct, one.at_least) == (other.distinct, other.at_least)
    assert one.span == pytest.approx(other.span)
    assert 0 <= one.at_least <= most_shown(len(offsets)) or one.at_least == 0


def test_regions_that_vary_together() -> None:
    regions = {"a": [1, 5, 9], "b": [11, 15, 19], "c": [1, 5, 10], "fixed": [3, 3, 3], "also": [4, 4, 4]}
    assert tied(regions) == (("a", "b"),)
