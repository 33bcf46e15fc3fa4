"""Which mounts a walk of a path comes to, and which are covered by others. Pure. path_resolution(7)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nstool.sandbox.mountinfo import Mount

REACHED = "reached"
COVERED = "covered"
OUTSIDE = "outside"  # not below the root directory of the process


def covers(listed: Sequence[Mount], root: int) -> dict[int, tuple[str, int]]:
    """Return for each mount, by id, its state and the id of the mount that covers it.

    listed: as mountinfo has them; root: id of the mount that the root directory is on. The walk of a path begins
    at the root directory itself, so a mount over "/" is never entered (but by "/.."), and all on it is covered by the
    old root; everywhere else a walk enters whatever is mounted on the directory that it comes to. path_resolution(7).
    """
    children: dict[int, dict[str, int]] = {}
    for mount in listed:
        if mount.id != root:
            children.setdefault(mount.parent, {})[mount.target] = mount.id
    by_id = {mount.id: mount for mount in listed}
    entered: dict[int, int] = {root: 0}  # id → what keeps the walk to its target from coming through it, 0 if nothing

    def keeper(mount: Mount) -> int:
        # Ancestors first, without recursion: a stack of mounts may be deeper than Python's.
        line: dict[int, Mount] = {}
        while mount.id not in entered:
            line[mount.id] = mount
            above = by_id.get(mount.parent)
            if above is None or above.id in line:
                entered[mount.parent] = 0  # the mount of a root directory that is no mount's root
                break
            mount = above
        for one in reversed(line.values()):
            entered[one.id] = entered[one.parent] or _in_the_way(one, children[one.parent], by_id, root)
        return entered[next(iter(line), mount.id)]

    found = {}
    for mount in listed:
        cover = keeper(mount) or (0 if mount.id == root else children.get(mount.id, {}).get(mount.target, 0))
        found[mount.id] = (COVERED if cover else REACHED, cover)
    return found


def _in_the_way(mount: Mount, siblings: dict[str, int], by_id: dict[int, Mount], root: int) -> int:
    # The mount on its parent that the walk from the parent's root to its target enters before.
    parent = by_id.get(mount.parent)
    if mount.parent == root and mount.target == "/":
        return root
    top = parent.target if parent is not None else "/"
    for place in _on_the_way(top, mount.target):
        there = siblings.get(place)
        if there == mount.id:
            return 0
        if there is not None and not (place == "/" and (parent is None or parent.id == root)):
            return there
    return 0


def _on_the_way(top: str, target: str) -> Iterable[str]:
    # "/a", "/a/b/c": "/a", "/a/b", "/a/b/c".
    yield top
    at = len(top) if top != "/" else 0
    while at < len(target):
        at = target.find("/", at + 1)
        if at < 0:
            at = len(target)
        if target[:at] != top:
            yield target[:at]
