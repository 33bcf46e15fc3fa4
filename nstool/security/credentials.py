"""Whom the kernel takes a thread for: ids, capability sets, securebits, and the user namespace they hold in.

credentials(7), capabilities(7), user_namespaces(7).
"""

from __future__ import annotations

from nstool.frozen import Frozen
from nstool.security import idmap
from nstool.security.capabilities import Sets
from nstool.spec.model import IdMap

EVERY_ID = (IdMap(0, 0, idmap.ID_LIMIT),)  # the map of the initial user namespace


class Ids(Frozen):
    """Four user or group ids of a process, as the reader's user namespace sees them. credentials(7)."""

    real: int
    effective: int
    saved: int
    filesystem: int


class Credentials(Frozen):
    """What the kernel decides by. All ids are as the reader's user namespace has them, not the thread's own.

    groups: supplementary. securebits: mask of SECBIT_*. uid_map, gid_map: of the thread's user namespace, their
    outside being the reader's ids. owners: ids that are uid 0 of the thread's user namespace or of one above it, up to
    what the reader knows.
    """

    uids: Ids
    gids: Ids
    groups: tuple[int, ...] = ()
    sets: Sets = Sets()
    securebits: int = 0
    uid_map: tuple[IdMap, ...] = EVERY_ID
    gid_map: tuple[IdMap, ...] = EVERY_ID
    owners: tuple[int, ...] = (0,)

    @property
    def root(self) -> int | None:
        """The id that is uid 0 in the thread's user namespace; None where that is not mapped."""
        return idmap.to_outside(self.uid_map, 0)

    def maps(self, uid: int, gid: int) -> bool:
        """Whether both ids have a number in the thread's user namespace."""
        return idmap.to_inside(self.uid_map, uid) is not None and idmap.to_inside(self.gid_map, gid) is not None

    def in_group(self, gid: int) -> bool:
        """Whether a group is its own for access to files: that of the filesystem id, or a supplementary one."""
        return gid == self.gids.filesystem or gid in self.groups
