"""Ids in the terms of nested user namespaces: pure rules. user_namespaces(7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.inspect.creds import MAPPED, UNKNOWN, UNMAPPED, Id, below, compose, seen
from nstool.security.idmap import to_inside, to_outside
from nstool.spec.model import IdMap

FULL = (IdMap(0, 0, 0xFFFFFFFF),)
OVERFLOW = 65534


@pytest.mark.parametrize(
    ("number", "own", "state"),
    [
        (0, FULL, MAPPED),
        (OVERFLOW, FULL, MAPPED),  # the first namespace has every id: it is a real one
        (OVERFLOW, (IdMap(0, 1000, 1),), UNMAPPED),
        (OVERFLOW, (IdMap(0, 1000, 65536),), UNKNOWN),
        (OVERFLOW, (), UNMAPPED),
        (7, (IdMap(0, 1000, 65536),), MAPPED),
    ],
)
def test_the_overflow_id_may_be_a_real_one(number: int, own: tuple[IdMap, ...], state: str) -> None:
    assert seen(number, own, OVERFLOW) == Id(number, state)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        (Id(1005, MAPPED, "bob"), Id(5, MAPPED)),
        (Id(5, MAPPED), Id(OVERFLOW, UNMAPPED)),
        (Id(OVERFLOW, UNMAPPED), Id(OVERFLOW, UNMAPPED)),
        (Id(OVERFLOW, UNKNOWN), Id(OVERFLOW, UNKNOWN)),  # 65534 outside is an id inside
        (Id(OVERFLOW, MAPPED), Id(64534, MAPPED)),
    ],
)
def test_an_id_in_a_namespace_below(known: Id, found: Id) -> None:
    assert below(known, (IdMap(0, 1000, 65536),), OVERFLOW) == found


def test_what_may_be_no_id_is_none_below_a_map_without_it() -> None:
    assert below(Id(OVERFLOW, UNKNOWN), (IdMap(0, 1000, 10),), OVERFLOW) == Id(OVERFLOW, UNMAPPED)


@given(st.data())
def test_two_maps_one_after_the_other_are_one(data: st.DataObject) -> None:
    """Every id comes out the same, whether it goes through two maps or through the composed one."""
    above, start = [], 0
    for count in data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=4)):
        above.append(IdMap(start, 1000 * (9 - len(above)), count))
        start += count + data.draw(st.integers(0, 3))
    inner, start = [], 0
    for line in above:
        first = data.draw(st.integers(0, line.count - 1))
        count = data.draw(st.integers(1, line.count - first))
        inner.append(IdMap(start, line.inside + first, count))
        start += count
    composed = compose(tuple(inner), tuple(above))
    for number in range(start + 2):
        between = to_outside(inner, number)
        outside = None if between is None else to_outside(above, between)
        assert to_outside(composed, number) == outside
        if outside is not None:
            assert to_inside(composed, outside) == number
