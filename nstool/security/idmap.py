"""Id maps: the lines of uid_map and gid_map, and the subordinate ids they may come from.

user_namespaces(7), section "User and group ID mappings"; subuid(5), newuidmap(1). Pure: the caller reads the files.
"""

from __future__ import annotations

from nstool.errors import NotSupported, SpecError
from nstool.frozen import Frozen
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ID_LIMIT = 0xFFFFFFFF  # the last 32-bit id, (uid_t) -1, means "no change" and can be no one's id
MAX_LINES = 340  # UID_GID_MAP_MAX_EXTENTS, Linux 4.15
MAX_BYTES = 4095  # the kernel takes the map in one write of less than a page


class SubIds(Frozen):
    """One line of /etc/subuid: ``count`` ids from ``first`` belong to ``owner``, a user name or a decimal uid."""

    owner: str
    first: int
    count: int


def parse_subids(text: str) -> tuple[SubIds, ...]:
    """Read the text of /etc/subuid or /etc/subgid. subuid(5).

    A line that is not name:first:count gives nobody anything, as with newuidmap(1), and is left out.
    """
    lines = (line.strip().split(":") for line in text.splitlines())
    return tuple(
        SubIds(words[0], int(words[1]), int(words[2]))
        for words in lines
        if len(words) == 3 and words[0] and not words[0].startswith("#") and all(map(_is_number, words[1:]))
    )


def owned(ranges: Iterable[SubIds], uid: int, name: str) -> tuple[SubIds, ...]:
    """Return the ranges of one user, in the order of the file, whether it says the name or the uid.

    /etc/subgid names users too: a user's group ids are looked up by the user, not by a group.
    """
    return tuple(line for line in ranges if line.count > 0 and line.owner in (name, str(uid)))


def rootless_map(
    uid: int,
    name: str,
    subuid_text: str,
    count: int,
    *,
    own_id: int | None = None,
    own_inside: int | None = 0,
    file: str = "/etc/subuid",
) -> tuple[IdMap, ...]:
    """Choose the map of an ordinary user: ids 0 to count - 1 inside, the user's own id and subordinate ids outside.

    uid, name: of the user. subuid_text: content of ``file``. own_id: the id outside that is the user's own; its uid,
    or its gid for a gid_map. own_inside: what the own id is inside; None leaves it out of the map.
    Raises NotSupported when the file gives the user too few ids: ``single_map`` needs none.
    """
    own_id = uid if own_id is None else own_id
    if own_inside is not None and not 0 <= own_inside < count:
        raise SpecError(f"id {own_inside} is not among the {count} ids inside")
    ranges = owned(parse_subids(subuid_text), uid, name)
    wanted = count if own_inside is None else count - 1
    available = sum(line.count for line in ranges)
    if available < wanted:
        raise NotSupported(
            f"a map of {count} ids for user {name}",
            f"{file} gives {name} {available} subordinate ids; {wanted} are needed",
            f"let the administrator run usermod --add-sub{'g' if 'gid' in file else 'u'}ids FIRST-LAST {name}, "
            "or ask for one id only",
        )
    gaps = ((0, count),) if own_inside is None else ((0, own_inside), (own_inside + 1, count))
    maps = _fill(gaps, ranges)
    if own_inside is not None:
        maps = [*maps, IdMap(own_inside, own_id, 1)]
    return tuple(sorted(maps, key=lambda line: line.inside))


def single_map(inside: int, outside: int) -> tuple[IdMap, ...]:
    """Return the map of one id: what an ordinary user may write without newuidmap(1)."""
    return (IdMap(inside, outside, 1),)


def to_outside(maps: Iterable[IdMap], inside: int) -> int | None:
    """Translate an id inside to the id outside; None if it is not mapped."""
    for line in maps:
        if line.inside <= inside < line.inside + line.count:
            return line.outside + inside - line.inside
    return None


def to_inside(maps: Iterable[IdMap], outside: int) -> int | None:
    """Translate an id outside to the id inside; None if it is not mapped (it shows as the overflow id, 65534)."""
    for line in maps:
        if line.outside <= outside < line.outside + line.count:
            return line.inside + outside - line.outside
    return None


def format_map(maps: Iterable[IdMap]) -> str:
    """Return the text to write to uid_map or gid_map: a line "inside outside count" for each range."""
    return "".join(f"{line.inside} {line.outside} {line.count}\n" for line in maps)


def parse_map(text: str) -> tuple[IdMap, ...]:
    """Read the text of /proc/PID/uid_map or gid_map. ``outside`` is as the reader's own namespace sees it."""
    return tuple(IdMap(*map(int, line.split())) for line in text.splitlines())


def check_map(maps: Sequence[IdMap], what: str = "uid_map") -> None:
    """Raise SpecError for what the kernel would refuse with EINVAL: empty or overlapping ranges, ids over 32 bits.

    what: the key in the spec, for the message.
    """
    if not maps:
        raise SpecError(f"{what} is empty; give at least one range")
    if len(maps) > MAX_LINES or len(format_map(maps)) > MAX_BYTES:
        raise SpecError(f"{what} has {len(maps)} ranges; the kernel takes {MAX_LINES} in at most {MAX_BYTES} bytes")
    for line in maps:
        _check_range(line, what)
    for side in ("inside", "outside"):
        _check_overlap(maps, side, what)


def refused_by_newidmap(
    maps: Iterable[IdMap], uid: int, name: str, subid_text: str, own_id: int | None = None
) -> tuple[IdMap, ...]:
    """Return the ranges that newuidmap(1) would refuse this user: neither its own single id nor subordinate ids.

    A range may cross from one subordinate range into the next if the two adjoin.
    """
    own_id = uid if own_id is None else own_id
    ranges = owned(parse_subids(subid_text), uid, name)
    return tuple(
        line
        for line in maps
        if not (line.count == 1 and line.outside == own_id) and not _covered(line.outside, line.count, ranges)
    )


def _fill(gaps: Iterable[tuple[int, int]], ranges: Iterable[SubIds]) -> list[IdMap]:
    # Lay the subordinate ranges one after another into the gaps [start, end) of the ids inside.
    maps = []
    left = [(line.first, line.count) for line in ranges]
    for start, end in gaps:
        while start < end:
            first, count = left.pop(0)
            used = min(count, end - start)
            maps.append(IdMap(start, first, used))
            if used < count:
                left.insert(0, (first + used, count - used))
            start += used
    return maps


def _covered(first: int, count: int, ranges: Sequence[SubIds]) -> bool:
    while count > 0:
        line = next((r for r in ranges if r.first <= first < r.first + r.count), None)
        if line is None:
            return False
        covered = line.first + line.count - first
        first, count = first + covered, count - covered
    return True


def _check_range(line: IdMap, what: str) -> None:
    text = f"{line.inside}:{line.outside}:{line.count}"
    if line.count < 1:
        raise SpecError(f"{what}: range {text} is empty; the count must be at least 1")
    if min(line.inside, line.outside) < 0 or max(line.inside, line.outside) + line.count > ID_LIMIT:
        raise SpecError(f"{what}: range {text} leaves the ids 0 to {ID_LIMIT - 1}")


def _check_overlap(maps: Sequence[IdMap], side: str, what: str) -> None:
    ranges = sorted((getattr(line, side), line.count) for line in maps)
    for (first, count), (following, _) in zip(ranges, ranges[1:]):
        if first + count > following:
            raise SpecError(f"{what}: two ranges overlap {side}, at id {following}; give each id once")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
