"""The plans of services: what a template's id maps can hold."""

from __future__ import annotations

import pytest

from nstool.errors import NotSupported
from nstool.plan import service
from nstool.plan.host import Host
from nstool.spec.model import Spec

COUNT = 65536


def maps(places: int) -> int:
    """How many lines the map of a template with so many places has."""
    bases = tuple((0x7000_0000 + number * COUNT,) * 2 for number in range(places + 1))
    return len(service.template_maps(Spec(command=("x",)), Host(privileged=True), bases, COUNT).uid)


def test_as_many_ranges_as_a_map_has_room_for() -> None:
    """A map is written at once, as less than a page, and has so many lines: user_namespaces(7)."""
    assert maps(64) == 65
    with pytest.raises(NotSupported, match="at most 4095 bytes"):
        maps(200)
    with pytest.raises(NotSupported, match="at most 340 lines"):
        maps(340)
