"""The plans of services: what a template's id maps can hold."""

from __future__ import annotations

import pytest

from nstool.plan import service
from nstool.plan.host import Host
from nstool.spec.model import Spec

COUNT = 65536


def maps(*ranges: int) -> list[tuple[int, int, int]]:
    """The lines of the map of a template that has these ranges, by their number in the pool."""
    bases = tuple((0x7000_0000 + number * COUNT,) * 2 for number in ranges)
    found = service.template_maps(Spec(command=("x",)), Host(privileged=True), bases, COUNT)
    assert found.uid == found.gid
    return [(one.inside // COUNT, (one.outside - 0x7000_0000) // COUNT, one.count // COUNT) for one in found.uid]


def test_neighbours_have_one_line_of_a_map() -> None:
    """Range n begins at n times its size inside, whatever lies together outside."""
    assert maps(9, 2, 3, 4, 7, 6, 5) == [(0, 9, 1), (1, 2, 3), (4, 7, 1), (5, 6, 1), (6, 5, 1)]
    assert maps(7, *range(1000, 2024)) == [(0, 7, 1), (1, 1000, 1024)]


@pytest.mark.parametrize(("step", "fits"), [(1, 1000), (2, 164)])
def test_as_many_ranges_as_a_map_has_room_for(step: int, fits: int) -> None:
    """A map is written at once, as less than a page: user_namespaces(7)."""
    bases = tuple((0x7000_0000 + number * step * COUNT,) * 2 for number in range(1000))
    assert service.fitting(bases, COUNT) == fits

    def size(ranges: int) -> int:
        lines = service.template_maps(Spec(command=("x",)), Host(privileged=True), bases[:ranges], COUNT).uid
        return len("".join(f"{one.inside} {one.outside} {one.count}\n" for one in lines))

    assert size(fits) <= 4095
    assert fits == len(bases) or size(fits + 1) > 4095


def test_no_more_lines_than_a_map_has() -> None:
    """Short ones, too."""
    assert service.fitting(tuple((number * 2, number * 2) for number in range(1000)), 1) == 340
