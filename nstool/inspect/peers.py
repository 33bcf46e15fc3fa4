"""Peer groups of mounts, their masters and slaves. Pure. mount_namespaces(7), section "SHARED SUBTREES"."""

from __future__ import annotations

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from nstool.sandbox.mountinfo import Mount


class Propagation(Frozen):
    """To which mounts it tells what is mounted on it, and of which it hears.

    peer_group, master: numbers of peer groups, the same on the whole host; 0 for none. propagate_from: the nearest
    group above the master of which the process has a mount, where it has none of the master's. unbindable: private,
    and no bind copies it.
    """

    peer_group: int = 0
    master: int = 0
    propagate_from: int = 0
    unbindable: bool = False


class View(Frozen):
    """One mount namespace, as its processes have it.

    pid, command: one of its processes. processes: how many were seen in it. private, unbindable: mounts that neither
    tell nor hear. mounts: the others are in the groups; all are here, those below any root directory of its processes.
    """

    namespace: int
    pid: int
    command: str
    processes: int
    private: int
    unbindable: int
    mounts: tuple[Mount, ...]


class Member(Frozen):
    """One mount. namespace: inode of its mount namespace. target: below the root of the process that was asked."""

    namespace: int
    mount: int
    target: str


class Group(Frozen):
    """A peer group: its members tell each other of mounts and unmounts, and each slave, which tells nothing back.

    slaves: mounts that are slaves and no one's peers; groups that are slaves say so themselves. master: the group that
    this one is a slave of, 0 for none. members: empty where the group is known only from its slaves: its mounts are in
    namespaces that were not read, or below no root directory. Then master is the nearest group above it that a process
    with a slave has a mount of (propagate_from), and others may be between: nearest is True.
    """

    id: int
    members: tuple[Member, ...]
    slaves: tuple[Member, ...]
    master: int
    nearest: bool


def propagation(mount: Mount) -> Propagation:
    """Read the optional fields of mountinfo: "shared:5,master:3"."""
    words = dict((word.partition(":")[::2]) for word in mount.propagation.split(","))
    numbers = {key: int(words.get(name, 0)) for key, name in _GROUPS.items()}
    return Propagation(unbindable="unbindable" in words, **numbers)


_GROUPS = {"peer_group": "shared", "master": "master", "propagate_from": "propagate_from"}


def groups(views: Sequence[View]) -> tuple[Group, ...]:
    """Return the peer groups of these namespaces."""
    members: dict[int, list[Member]] = {}
    slaves: dict[int, list[Member]] = {}
    masters: dict[int, int] = {}
    nearest: dict[int, int] = {}
    for view in views:
        for mount in view.mounts:
            ties = propagation(mount)
            member = Member(view.namespace, mount.id, mount.target)
            if ties.peer_group:
                members.setdefault(ties.peer_group, []).append(member)
                masters[ties.peer_group] = ties.master
            elif ties.master:
                slaves.setdefault(ties.master, []).append(member)
            if ties.propagate_from:
                nearest[ties.master] = ties.propagate_from
    known = {*members, *slaves, *masters.values(), *nearest, *nearest.values()} - {0}
    return tuple(
        Group(
            id=number,
            members=tuple(members.get(number, ())),
            slaves=tuple(slaves.get(number, ())),
            master=masters[number] if number in masters else nearest.get(number, 0),
            nearest=number not in masters and number in nearest,
        )
        for number in sorted(known)
    )
