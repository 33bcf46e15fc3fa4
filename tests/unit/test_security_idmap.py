"""Id maps: subordinate ids, translation, what the kernel and newuidmap would refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import NotSupported, SpecError
from nstool.security import idmap
from nstool.spec.model import IdMap

SUBUID = """\
# who may have what
alice:100000:1000
bob:200000:65536
1000:300000:70000
broken:12
alice:x:5
alice:400000:0
"""

ID = st.integers(min_value=0, max_value=idmap.ID_LIMIT - 1)


def maps_of(pieces: list[tuple[int, int]], gap: int) -> tuple[IdMap, ...]:
    """Build a map without overlaps from (gap before, count) pieces."""
    lines, inside, outside = [], 0, gap
    for before, count in pieces:
        lines.append(IdMap(inside + before, outside + 2 * before, count))
        inside, outside = inside + before + count, outside + 2 * before + count
    return tuple(lines)


MAPS = st.builds(
    maps_of,
    st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 100_000)), min_size=1, max_size=20),
    st.integers(0, 100_000),
)


def test_subids_by_name_and_by_uid() -> None:
    """A user's ranges, in the order of the file; lines that newuidmap cannot read give nothing."""
    assert idmap.owned(idmap.parse_subids(SUBUID), 1000, "alice") == (
        idmap.SubIds("alice", 100000, 1000),
        idmap.SubIds("1000", 300000, 70000),
    )
    assert idmap.owned(idmap.parse_subids(SUBUID), 2000, "broken") == ()


def test_rootless_map_puts_the_own_id_first() -> None:
    """Id 0 inside is the user; the rest comes from several ranges in order."""
    assert idmap.rootless_map(1000, "alice", SUBUID, 65536) == (
        IdMap(0, 1000, 1),
        IdMap(1, 100000, 1000),
        IdMap(1001, 300000, 64535),
    )


def test_rootless_map_can_put_the_own_id_elsewhere() -> None:
    """As with keep-id: the user is itself inside, and the ranges lie around it."""
    assert idmap.rootless_map(1000, "bob", SUBUID, 2000, own_id=100, own_inside=500) == (
        IdMap(0, 200000, 500),
        IdMap(500, 100, 1),
        IdMap(501, 200500, 1499),
    )


def test_rootless_map_can_leave_the_own_id_out() -> None:
    """Then nothing inside is the user outside."""
    assert idmap.rootless_map(9, "bob", SUBUID, 65536, own_inside=None) == (IdMap(0, 200000, 65536),)


def test_rootless_map_of_one_id_needs_no_subids() -> None:
    """The same as single_map."""
    assert idmap.rootless_map(1000, "carol", "", 1) == idmap.single_map(0, 1000)


def test_too_few_subids_are_an_error() -> None:
    """With the number that is there, the file, and the command that gives more; never fewer ids in silence."""
    with pytest.raises(NotSupported) as caught:
        idmap.rootless_map(7, "bob", SUBUID, 65538, file="/etc/subgid")
    assert "/etc/subgid gives bob 65536 subordinate ids; 65537 are needed" in str(caught.value)
    assert "--add-subgids" in caught.value.remedy


@given(st.integers(1, 3000), st.data())
def test_rootless_map_covers_each_id_once(count: int, data: st.DataObject) -> None:
    """All ids inside from 0 on, nothing twice, and newuidmap takes it."""
    inside = data.draw(st.none() | st.integers(0, count - 1))
    text = "u:5000:700\nu:9000:2\nu:20000:5000\n"
    maps = idmap.rootless_map(1000, "u", text, count, own_inside=inside)
    idmap.check_map(maps)
    assert [line.inside for line in maps] == [0, *(line.inside + line.count for line in maps)][: len(maps)]
    assert sum(line.count for line in maps) == count
    assert idmap.to_inside(maps, 1000) == inside
    assert idmap.refused_by_newidmap(maps, 1000, "u", text) == ()


@given(MAPS, st.integers(0, 3_000_000))
def test_translation_there_and_back(maps: tuple[IdMap, ...], inside: int) -> None:
    """An id that is mapped comes back as itself; one that is not is None."""
    outside = idmap.to_outside(maps, inside)
    if outside is None:
        assert not any(line.inside <= inside < line.inside + line.count for line in maps)
    else:
        assert idmap.to_inside(maps, outside) == inside


def test_translation_at_the_edges() -> None:
    """The first and last id of a range are in it, their neighbours are not."""
    maps = (IdMap(10, 500, 5),)
    assert [idmap.to_outside(maps, at) for at in (9, 10, 14, 15)] == [None, 500, 504, None]
    assert [idmap.to_inside(maps, at) for at in (499, 500, 504, 505)] == [None, 10, 14, None]


@given(MAPS)
def test_map_text_gives_the_map_back(maps: tuple[IdMap, ...]) -> None:
    """Writing and reading are inverse."""
    assert idmap.parse_map(idmap.format_map(maps)) == maps


def test_map_text_is_the_kernels() -> None:
    """One line a range; /proc shows it with columns."""
    assert idmap.format_map((IdMap(0, 1000, 1), IdMap(1, 100000, 65535))) == "0 1000 1\n1 100000 65535\n"
    assert idmap.parse_map("         0          0 4294967295\n") == (IdMap(0, 0, 4294967295),)


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ((), "is empty"),
        ((IdMap(0, 0, 0),), "is empty"),
        ((IdMap(-1, 0, 1),), "leaves the ids"),
        ((IdMap(0, 4294967295, 1),), "leaves the ids"),
        ((IdMap(1, 0, 4294967295),), "leaves the ids"),
        ((IdMap(0, 100, 10), IdMap(9, 200, 1)), "overlap inside, at id 9"),
        ((IdMap(20, 109, 1), IdMap(0, 100, 10)), "overlap outside, at id 109"),
        (tuple(IdMap(i, i, 1) for i in range(341)), "341 ranges"),
        (tuple(IdMap(4000000000 + i, 3000000000 + i, 1) for i in range(200)), "bytes"),
    ],
)
def test_maps_that_the_kernel_refuses(maps: tuple[IdMap, ...], message: str) -> None:
    """Each is named before anything is done."""
    with pytest.raises(SpecError, match=message):
        idmap.check_map(maps, "gid_map")


def test_the_whole_id_range_is_a_valid_map() -> None:
    """The initial user namespace has it."""
    idmap.check_map((IdMap(0, 0, 4294967295),))
    idmap.check_map((IdMap(0, 100, 10), IdMap(10, 110, 1)))


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        (IdMap(0, 1000, 1), False),
        (IdMap(0, 1000, 2), True),
        (IdMap(0, 100000, 1000), False),
        (IdMap(0, 100000, 1001), True),
        (IdMap(0, 100999, 1), False),
        (IdMap(0, 99999, 1), True),
        (IdMap(0, 0, 1), True),
        (IdMap(0, 250000, 10), True),
        (IdMap(0, 500005, 10), False),
    ],
)
def test_what_newuidmap_refuses(line: IdMap, refused: bool) -> None:
    """Own single id, or within one's ranges; adjoining ranges count as one."""
    text = SUBUID + "alice:500000:10\nalice:500010:5\n"
    assert idmap.refused_by_newidmap((line,), 1000, "alice", text) == ((line,) if refused else ())
