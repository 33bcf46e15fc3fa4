"""Whose a process is, in the terms of any user namespace; the user namespaces above it. credentials(7).

What is not told: the names that a container has for its ids, and what each single user has used of the limits: the
kernel counts by namespace and user and tells nobody. ``used`` counts the namespaces in which processes live.
"""

from __future__ import annotations

import os
from errno import EACCES, EPERM

from nstool import kinds
from nstool.errors import KernelError, SandboxGone, SpecError
from nstool.frozen import Frozen
from nstool.inspect import nsfile
from nstool.inspect.nsfile import Namespace
from nstool.inspect.proc import Proc, ProcessGone, processes, real_name
from nstool.sandbox import inside
from nstool.security import idmap
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Maps = tuple[IdMap, ...]

MAPPED, UNMAPPED, UNKNOWN = "mapped", "unmapped", "unknown"
LIMITS = "/proc/sys/user"
_KTHREADD = 2  # it is in the first namespaces, which count for nobody
_FIXED_INODES = range(0xEFFFFFF0, 0xF0000000)  # of the first namespaces, linux/nsfs.h; net and mnt since Linux 6.18
_ALL_IDS = idmap.ID_LIMIT


class Id(Frozen):
    """A user or group id in the terms of one user namespace.

    number: as the kernel shows it there: the overflow id for one that is not mapped. state: "mapped"; "unmapped";
    "unknown": it may be either, which the reader cannot tell. name: that the reader has for it, or "".
    """

    number: int
    state: str
    name: str = ""


class Terms(Frozen):
    """The ids of a process in one user namespace. whose: "yours", "its own" or "asked for". credentials(7).

    namespace: inode; None where it may not be read. uids, gids: real, effective, saved, filesystem.
    """

    whose: str
    namespace: int | None
    uids: tuple[Id, Id, Id, Id]
    gids: tuple[Id, Id, Id, Id]
    groups: tuple[Id, ...]


class UserNamespace(Frozen):
    """A user namespace on the way from the reader's down to a process's. user_namespaces(7).

    depth: 0 is the reader's. owner: who made it, in the reader's terms. uid_map, gid_map: outside in the reader's
    terms; of the reader's own: in those of the one above. limits: the files of /proc/sys/user as read inside.
    used: at least so many namespaces made in it or below, by the name of the limit.
    unread: why something is None, by its name.
    """

    depth: int
    inode: int
    owner: Id | None
    uid_map: tuple[IdMap, ...] | None
    gid_map: tuple[IdMap, ...] | None
    setgroups: str | None
    limits: dict[str, int] | None
    used: dict[str, int]
    unread: dict[str, str]


class Credentials(Frozen):
    """Whose a process or thread is. terms: the reader's, its own namespace's, and what was asked for.

    threads: those of the process whose ids are others. chain: from the reader's user namespace down to its own; only
    the reader's where the rest may not be read. unread: why.
    """

    pid: int
    tid: int
    comm: str
    terms: tuple[Terms, ...]
    threads: tuple[int, ...]
    chain: tuple[UserNamespace, ...]
    unread: dict[str, str]


class _View:
    """How the reader sees ids: its own maps, and what an id that it has not looks like. proc_sys_kernel(5)."""

    def __init__(self) -> None:
        self.maps = {what: _own_map(what) for what in ("uid", "gid")}
        self.overflow = {what: int(_text(f"/proc/sys/kernel/overflow{what}")) for what in ("uid", "gid")}

    def id(self, what: str, number: int) -> Id:
        """Return what an id that the kernel has shown to the reader is."""
        return seen(number, self.maps[what], self.overflow[what])

    def inside(self, what: str, known: Id, maps: Iterable[IdMap]) -> Id:
        """Return an id of the reader's in a namespace below, with those maps."""
        return below(known, maps, self.overflow[what])


def seen(number: int, own_map: Maps, overflow: int) -> Id:
    """Return what an id is that the kernel shows to a reader with this map: the overflow id may stand for another."""
    if number != overflow or sum(line.count for line in own_map) == _ALL_IDS:  # whose map has all has no other
        return Id(number, MAPPED)
    return Id(number, UNMAPPED if idmap.to_outside(own_map, overflow) is None else UNKNOWN)


def below(known: Id, maps: Iterable[IdMap], overflow: int) -> Id:
    """Return an id of the reader's in the terms of a namespace below. maps: outside in the reader's terms."""
    number = None if known.state == UNMAPPED else idmap.to_inside(maps, known.number)
    if number is None:  # what is not mapped in a namespace above is in none below
        return Id(overflow, UNMAPPED)
    return Id(number, MAPPED) if known.state == MAPPED else Id(overflow, UNKNOWN)


def compose(maps: Maps, above: Maps) -> Maps:
    """Return a map whose outside is in the terms of the one above, in the terms of that one's outside.

    The kernel takes a line only if all its ids lie in one line of the map above.
    """
    found = []
    for line in maps:
        outside = idmap.to_outside(above, line.outside)
        found.append(IdMap(line.inside, _ALL_IDS if outside is None else outside, line.count))
    return tuple(found)


def credentials(tid: int, asked: Namespace | None = None) -> Credentials:
    """Read whose a process or thread is, and the user namespaces from the reader's down to its own.

    asked: a user namespace in whose terms its ids are wanted too. Raises ProcessGone; SpecError for a namespace that
    is neither the reader's nor below it.
    """
    view = _View()
    unread: dict[str, str] = {}
    with Proc(tid) as proc:
        status = proc.status()
        yours = _yours(view, status)
        spaces = _chain(proc, unread)
        try:
            terms = [yours]
            if _is_below(spaces):
                inode = spaces[-1].inode if spaces else None
                terms.append(_terms(view, yours, "its own", inode, _maps_of(proc)))
            else:
                unread["its own"] = "its user namespace is not seen to be below yours, so its map has other terms"
            chain = _describe(spaces, view, proc)
        finally:
            for space in spaces:
                space.close()
        if asked is not None:
            terms.append(_asked(view, yours, asked))
        pid = int(status["Tgid"])
        found = Credentials(pid, tid, real_name(status), tuple(terms), _others(pid, status), chain, unread)
        proc.check()
        return found


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


def _own_map(what: str) -> Maps:
    return idmap.parse_map(_text(f"/proc/thread-self/{what}_map"))


def _maps_of(proc: Proc) -> dict[str, Maps]:
    return {what: idmap.parse_map(proc.read(f"{what}_map")) for what in ("uid", "gid")}


def _yours(view: _View, status: dict[str, str]) -> Terms:
    import grp
    import pwd

    def name(what: str, known: Id) -> Id:
        if known.state != MAPPED:
            return known
        try:
            text = pwd.getpwuid(known.number).pw_name if what == "uid" else grp.getgrgid(known.number).gr_name
        except KeyError:
            return known
        return known.replace(name=text)

    def ids(what: str, key: str) -> tuple[Id, ...]:
        return tuple(name(what, view.id(what, int(word))) for word in status[key].split())

    own = os.stat("/proc/thread-self/ns/user").st_ino
    return Terms("yours", own, _four(ids("uid", "Uid")), _four(ids("gid", "Gid")), ids("gid", "Groups"))


def _four(ids: tuple[Id, ...]) -> tuple[Id, Id, Id, Id]:
    real, effective, saved, filesystem = ids
    return real, effective, saved, filesystem


def _terms(view: _View, yours: Terms, whose: str, inode: int | None, maps: dict[str, Maps]) -> Terms:
    if inode is not None and inode == yours.namespace:
        return yours.replace(whose=whose)

    def ids(what: str, known: Iterable[Id]) -> tuple[Id, ...]:
        return tuple(view.inside(what, id_, maps[what]) for id_ in known)

    groups = ids("gid", yours.groups)
    return Terms(whose, inode, _four(ids("uid", yours.uids)), _four(ids("gid", yours.gids)), groups)


def _chain(proc: Proc, unread: dict[str, str]) -> list[Namespace]:
    """Return the user namespaces from the topmost that the reader may see down to the process's, for the caller."""
    try:
        found = [nsfile.of_process(proc, "user")]
    except KernelError as error:
        unread["chain"] = error.cause
        return []
    while above := found[0].parent():
        found.insert(0, above)
    return found


def _is_below(spaces: list[Namespace]) -> bool:
    with nsfile.own("user") as own:
        first = f"user:[{own.inode}]" == kinds.INITIAL_USERNS  # all are below that one
        return first or (bool(spaces) and spaces[0].inode == own.inode)


def _asked(view: _View, yours: Terms, asked: Namespace) -> Terms:
    if asked.inode == yours.namespace:
        return yours.replace(whose="asked for")
    spaces = [Namespace(os.dup(asked.fd), "user")]
    try:
        while above := spaces[0].parent():
            spaces.insert(0, above)
        if spaces[0].inode != yours.namespace:
            raise SpecError(f"{asked} is neither your user namespace nor below it: its ids have no names here", "--in")
        maps: dict[str, Maps] | None = None
        for space in spaces[1:]:
            maps = _look(space, maps)[0]
        assert maps is not None
        return _terms(view, yours, "asked for", asked.inode, maps)
    except KernelError as error:
        if asked.pid and error.errno in (EACCES, EPERM):  # it has a process, whose maps all may read
            with Proc(asked.pid) as proc:
                return _terms(view, yours, "asked for", asked.inode, _maps_of(proc))
        raise
    finally:
        for space in spaces:
            space.close()


def _others(pid: int, status: dict[str, str]) -> tuple[int, ...]:
    # Ids are a thread's own; libc keeps them alike, the kernel does not. nptl(7)
    found = []
    with Proc(pid) as process:
        for name in process.list("task"):
            try:
                with Proc(pid, int(name)) as thread:
                    other = thread.status()
            except ProcessGone:
                continue
            if any(other[key] != status[key] for key in ("Uid", "Gid", "Groups")):
                found.append(int(name))
    return tuple(found)


# ---- user namespaces ----


def _describe(spaces: list[Namespace], view: _View, proc: Proc) -> tuple[UserNamespace, ...]:
    if not spaces or spaces[0].inode != os.stat("/proc/thread-self/ns/user").st_ino:
        spaces = []
    with nsfile.own("user") as own:
        used = _used([space.inode for space in spaces] or [own.inode])
        found = [_own_space(own, view, used)]
    maps: dict[str, Maps] | None = None
    for depth, space in enumerate(spaces[1:], 1):
        one, maps = _space(depth, space, maps, view, used, proc if space is spaces[-1] else None)
        found.append(one)
    return tuple(found)


def _own_space(own: Namespace, view: _View, used: dict[int, dict[str, int]]) -> UserNamespace:
    _, _, setgroups, limits = inside_look()
    return UserNamespace(
        depth=0,
        inode=own.inode,
        owner=_owner(own, view),
        uid_map=view.maps["uid"],
        gid_map=view.maps["gid"],
        setgroups=setgroups,
        limits=limits,
        used=used[own.inode],
        unread={},
    )


def _space(
    depth: int,
    space: Namespace,
    above: dict[str, Maps] | None,
    view: _View,
    used: dict[int, dict[str, int]],
    proc: Proc | None,
) -> tuple[UserNamespace, dict[str, Maps] | None]:
    """Describe a namespace below the reader's. above: the maps of its parent, None for the reader's own."""
    unread: dict[str, str] = {}
    maps: dict[str, Maps] | None = None
    setgroups: str | None = None
    limits: dict[str, int] | None = None
    try:
        maps, setgroups, limits = _look(space, above)
    except KernelError as error:
        reason = f"you may not join it ({error.strerror}): that takes CAP_SYS_ADMIN in it, as its owner has it"
        unread["limits"] = reason
        if proc is None:
            unread |= {"uid_map": reason, "gid_map": reason, "setgroups": reason}
    if proc is not None:  # the process itself tells, and of the very moment
        maps = _maps_of(proc)
        setgroups = proc.read("setgroups").strip()
    found = UserNamespace(
        depth=depth,
        inode=space.inode,
        owner=_owner(space, view),
        uid_map=maps["uid"] if maps else None,
        gid_map=maps["gid"] if maps else None,
        setgroups=setgroups,
        limits=limits,
        used=used[space.inode],
        unread=unread,
    )
    return found, maps


def _owner(space: Namespace, view: _View) -> Id:
    from nstool import syscalls

    return view.id("uid", syscalls.ns_get_owner_uid(space.fd))


def _look(space: Namespace, above: dict[str, Maps] | None) -> tuple[dict[str, Maps], str, dict[str, int]]:
    """Return maps (outside in the reader's terms), setgroups and limits of a namespace below, by joining it."""
    uid, gid, setgroups, limits = inside.call({"user": space.fd}, inside_look)
    # Who reads its own map sees it in the terms of the namespace above.
    maps = {"uid": idmap.parse_map(uid), "gid": idmap.parse_map(gid)}
    if above is not None:
        maps = {what: compose(lines, above[what]) for what, lines in maps.items()}
    return maps, setgroups, limits


def inside_look() -> tuple[str, str, str, dict[str, int]]:
    """Return the texts of uid_map, gid_map and setgroups of the calling process, and its namespace's limits."""
    texts = (_text(f"/proc/self/{name}") for name in ("uid_map", "gid_map", "setgroups"))
    limits = {name: int(_text(f"{LIMITS}/{name}")) for name in sorted(os.listdir(LIMITS))}
    uid_map, gid_map, setgroups = texts
    return uid_map, gid_map, setgroups.strip(), limits


def _used(wanted: list[int]) -> dict[int, dict[str, int]]:
    """Count the namespaces that processes live in, for the user namespaces they were made in and those above.

    wanted: inodes of user namespaces. Each namespace is counted once, however many processes are in it.
    """
    counts: dict[int, dict[str, int]] = {inode: {} for inode in wanted}
    known = _initial()
    parents: dict[int, list[int]] = {}  # of a user namespace: itself and all above
    for proc in processes():
        for kind in kinds.KINDS:
            try:
                inode = proc.inode(kind)
                if inode in known:
                    continue
                known.add(inode)
                with nsfile.of_process(proc, kind) as namespace:
                    makers = _makers(namespace, parents)
            except (SandboxGone, OSError):  # ended, or not the reader's to look at
                continue
            for maker in makers:
                if maker in counts:
                    name = f"max_{kind}_namespaces"
                    counts[maker][name] = counts[maker].get(name, 0) + 1
    return counts


def _initial() -> set[int]:
    """Return the inodes of the namespaces that the kernel began with; where they are not seen, what may be them."""
    try:
        with Proc(_KTHREADD) as proc:
            stat = proc.stat()
            if (stat.comm, stat.ppid) == ("kthreadd", 0):
                return {proc.inode(kind) for kind in kinds.KINDS}
    except (SandboxGone, OSError):  # not in the first pid namespace, or not the reader's to look at
        pass
    with Proc(os.getpid()) as own:
        return {own.inode(kind) for kind in kinds.KINDS} | set(_FIXED_INODES)


def _makers(namespace: Namespace, parents: dict[int, list[int]]) -> list[int]:
    # The user namespaces whose limits it counts for: the one it was made in, and those above.
    ask: Callable[[], Namespace | None] = namespace.parent if namespace.kind == "user" else namespace.owner
    above = ask()
    if above is None:
        return []
    with above:
        if above.inode not in parents:
            parents[above.inode] = [above.inode, *_makers(above, parents)]
        return parents[above.inode]
