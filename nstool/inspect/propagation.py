"""Who tells whom of new mounts, across the mount namespaces of the host or of some processes.

mount_namespaces(7), section "SHARED SUBTREES".
"""

from __future__ import annotations

from nstool.errors import KernelError
from nstool.frozen import Frozen
from nstool.inspect.mounts import listing
from nstool.inspect.peers import Group, View, groups, propagation
from nstool.inspect.proc import Proc, ProcessGone, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.sandbox.mountinfo import Mount

_CANDIDATES = 4  # processes of a namespace that are asked, should the first ones end meanwhile
_ENDED = (ProcessGone, FileNotFoundError, ProcessLookupError)  # waited for, or not


class Graph(Frozen):
    """namespaces: in the order of their lowest pid. groups: by id. hidden: pids that may not be looked into."""

    namespaces: tuple[View, ...]
    groups: tuple[Group, ...]
    hidden: tuple[int, ...]


def graph(pids: Iterable[int] = ()) -> Graph:
    """Return the peer groups of the mount namespaces of these processes; of all that may be read if none is named.

    A mount namespace without a process (kept by a file or an fd alone) is not seen. For a process that is named,
    raises ProcessGone, or KernelError if it is hidden.
    """
    views, hidden = _named(pids) if pids else _all()
    return Graph(views, groups(views), hidden)


def _named(pids: Iterable[int]) -> tuple[tuple[View, ...], tuple[int, ...]]:
    found: dict[int, _Seen] = {}
    for pid in pids:
        with Proc(pid) as proc:
            mounts = listing(proc)
            seen = found.setdefault(proc.inode("mnt"), _Seen())
            seen.processes += 1
            seen.add(proc, mounts)
    return tuple(seen.view(namespace) for namespace, seen in found.items()), ()


def _all() -> tuple[tuple[View, ...], tuple[int, ...]]:
    # One process is asked for each root directory of a namespace: what it lists is below that.
    roots: dict[int, dict[str, list[int]]] = {}
    found: dict[int, _Seen] = {}
    hidden = []
    for proc in processes():
        try:
            namespace, root = proc.inode("mnt"), proc.root()
        except PermissionError:
            hidden.append(proc.pid)
            continue
        except _ENDED:
            continue
        found.setdefault(namespace, _Seen()).processes += 1
        candidates = roots.setdefault(namespace, {}).setdefault(root, [])
        if len(candidates) < _CANDIDATES:
            candidates.append(proc.pid)
    for namespace, by_root in roots.items():
        for _, candidates in sorted(by_root.items()):  # "/" first: it lists the most
            for pid in candidates:
                try:
                    with Proc(pid) as proc:
                        if proc.inode("mnt") == namespace:
                            found[namespace].add(proc, listing(proc))
                            break
                except (*_ENDED, PermissionError, KernelError):  # or hidden by now
                    continue
    return tuple(seen.view(namespace) for namespace, seen in found.items() if seen.pid), tuple(hidden)


class _Seen:
    """What has been read of a namespace so far."""

    def __init__(self) -> None:
        self.pid = 0
        self.command = ""
        self.processes = 0
        self.mounts: dict[int, Mount] = {}

    def add(self, proc: Proc, mounts: Iterable[Mount]) -> None:
        if not self.pid:
            self.pid, self.command = proc.pid, proc.stat().comm
        for mount in mounts:
            self.mounts.setdefault(mount.id, mount)

    def view(self, namespace: int) -> View:
        ties = [propagation(mount) for mount in self.mounts.values()]
        return View(
            namespace=namespace,
            pid=self.pid,
            command=self.command,
            processes=self.processes,
            private=sum(not (tie.peer_group or tie.master or tie.unbindable) for tie in ties),
            unbindable=sum(tie.unbindable for tie in ties),
            mounts=tuple(self.mounts.values()),
        )
