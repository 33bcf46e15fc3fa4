"""Control groups of any process: where it is in each hierarchy, which limits hold and who set them, what is used.

cgroups(7), cgroup_namespaces(7); kernel documentation, admin-guide/cgroup-v2 and cgroup-v1.
"""

from __future__ import annotations

import os
from errno import EACCES, ENODATA, ENODEV, ENOENT, ENOTSUP, EOPNOTSUPP, EPERM

from nstool.errors import KernelError, SpecError
from nstool.frozen import Frozen
from nstool.inspect.covers import REACHED, covers
from nstool.inspect.limits import V1, V2, Bound, Level, tightest
from nstool.inspect.mounts import listing, root_mount
from nstool.inspect.proc import Proc, own_pid
from nstool.inspect.within import call
from nstool.plan.cgroups import UNIFIED
from nstool.sandbox.cgroups import Usage, usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_INITIAL = 4026531835  # PROC_CGROUP_INIT_INO, linux/proc_ns.h
_DELETED = " (deleted)"


class Hierarchy(Frozen):
    """One tree of cgroups. number: 0 for version 2. name: of a version 1 one without controllers, as "systemd".

    mount: where the caller finds it, "" if nowhere. top: the cgroup that it finds there, "/" for all. whole: nothing
    is above that. own: the caller's cgroup.
    """

    number: int
    version: int
    controllers: tuple[str, ...]
    name: str
    mount: str
    top: str
    whole: bool
    own: str


class Delegation(Frozen):
    """The topmost cgroup on the way that does not belong to root: its owner may make cgroups below. marked: by systemd.

    writable: files of it that are the owner's too, of those that the kernel says to delegate.
    """

    directory: str
    uid: int
    gid: int
    writable: tuple[str, ...]
    marked: bool


class Membership(Frozen):
    """A cgroup in one hierarchy.

    path: as the caller sees it. inside: as the process does, in its cgroup namespace; None if that is unknown.
    directory: where the caller finds it, "" if nowhere. removed: it has no directory any more. uid, gid: who owns the
    directory, None if it is not found. frozen: None where that is not told. processes: in this very cgroup, None where
    that is not told, as of a threaded one, whose processes its domain has.
    """

    hierarchy: Hierarchy
    path: str
    inside: str | None
    directory: str
    removed: bool
    uid: int | None
    gid: int | None
    frozen: bool | None
    processes: int | None
    delegation: Delegation | None


class Cgroups(Frozen):
    """The cgroups of a process, or of a thread of process tgid, or with pid 0 those that were named.

    limits: those that hold, each the tightest from the cgroup up to the top of what the caller sees. usage: of these
    cgroups, with what is below them. counted: in which directory, by controller ("unified": of version 2). notes:
    sentences of what cannot be seen. unread: why something is None.
    """

    pid: int
    tgid: int
    command: str
    namespace: int
    cgroups: tuple[Membership, ...]
    limits: tuple[Bound, ...]
    usage: Usage
    counted: dict[str, str]
    notes: tuple[str, ...]
    unread: dict[str, str]


class Node(Frozen):
    """One cgroup of a tree, in the order of a walk. depth: 0 for the one that the walk began with.

    processes: in this very one, None as in Membership; total: with those below. memory: bytes, pids: tasks,
    cpu_us: microseconds, all with what is below; None where nothing counts it.
    """

    path: str
    directory: str
    depth: int
    uid: int
    processes: int | None
    total: int
    memory: int | None
    pids: int | None
    cpu_us: int | None


def hierarchies() -> tuple[Hierarchy, ...]:
    """Return the hierarchies that there are, version 2 first, with where the caller finds them.

    A hierarchy is known by /proc/self/cgroup, so also one that is mounted nowhere. Mounts that are covered by others
    do not count. Of several mounts of one the one that shows the most is taken.
    """
    with Proc(own_pid()) as own:
        mounts = listing(own)
        states = covers(mounts, root_mount(own))
        whole = not os.path.exists("/proc/self/ns/cgroup") or own.inode("cgroup") == _INITIAL
        lines = _lines(own.read("cgroup"))
    found = []
    for number, words, path in lines:
        best: tuple[str, str] | None = None
        for mount in mounts:
            fits = (
                mount.type == "cgroup2" if number == 0 else mount.type == "cgroup" and words[0] in mount.super_options
            )
            if fits and states[mount.id][0] == REACHED and (best is None or len(mount.root) < len(best[1])):
                best = mount.target, mount.root
        target, top = best or ("", "")
        found.append(
            Hierarchy(
                number=number,
                version=1 if number else 2,
                controllers=_controllers(number, words, target),
                name=words[0].removeprefix("name=") if words and words[0].startswith("name=") else "",
                mount=target,
                top=top,
                whole=whole and top == "/",
                own=path,
            )
        )
    return tuple(sorted(found, key=lambda one: one.number))


def unmounted() -> tuple[str, ...]:
    """Return the controllers that are in no hierarchy, neither of version 1 nor of version 2. /proc/cgroups.

    Where version 2 is mounted what it does without a controller of that name is not among them.
    """
    trees = hierarchies()
    used = {name for one in trees for name in one.controllers}
    if any(one.version == 2 and one.mount for one in trees):
        used |= _WITHOUT_CONTROLLER
    with open("/proc/cgroups", "rb") as file:
        rows = [line.split() for line in file.read().decode().splitlines() if not line.startswith("#")]
    names = {"blkio": "io"}  # in version 2
    return tuple(row[0] for row in rows if row[1] == "0" and names.get(row[0], row[0]) not in used)


# perf_event is in version 2 if it is in no other, and is not listed; cpu.stat counts time, eBPF programs decide about
# devices, and every cgroup has cgroup.freeze.
_WITHOUT_CONTROLLER = {"perf_event", "cpuacct", "devices", "freezer"}


def cgroups(pid: int) -> Cgroups:
    """Return the cgroups of a process: of its main thread, whose cgroup in version 2 is that of all but threaded ones.

    Raises ProcessGone. Nothing is hidden from an ordinary user but what the process itself sees in its namespace.
    """
    with Proc(pid) as proc:
        unread: dict[str, str] = {}
        lines = {number: path for number, _, path in _lines(proc.read("cgroup"))}
        inside = _inside(proc, lines, unread)
        trees = [one for one in hierarchies() if one.number in lines]
        members = tuple(_membership(one, lines[one.number], inside.get(one.number)) for one in trees)
        namespace = _namespace(proc)
        return _described(members, (pid, proc.tgid()), proc.stat().comm, namespace, unread)


def named(path: str) -> Cgroups:
    """Return a cgroup by its directory, or by its path: then of all hierarchies that have it. Raises SpecError."""
    trees = hierarchies()
    directory = os.path.realpath(path)
    places = [one for one in trees if one.mount and _below(directory, one.mount) is not None]
    if places and os.path.isdir(directory):
        # Of mounts within each other the innermost is meant.
        tree = max(places, key=lambda one: len(one.mount))
        rest = _below(directory, tree.mount) or ""
        members: tuple[Membership, ...] = (_membership(tree, _joined(tree.top, rest), None),)
    else:
        wanted = "/" + os.path.normpath(path).strip("/.")
        members = tuple(one for one in (_membership(tree, wanted, None) for tree in trees) if one.directory)
    if not members:
        raise SpecError(
            f"{path} is neither the directory of a cgroup nor its path in a hierarchy; nstool cgroups --tree lists all",
            "TARGET",
        )
    return _described(members, (0, 0), "", 0, {})


def tree(member: Membership | Hierarchy) -> tuple[Node, ...]:
    """Return a cgroup and all below it, or all of a hierarchy that the caller sees, but for those removed meanwhile."""
    if isinstance(member, Hierarchy):
        directory, path = member.mount, member.top
    else:
        directory, path = member.directory, member.path
    return tuple(_nodes(directory, path)) if directory else ()


# ---- what /proc says ----


def _lines(text: str) -> Iterator[tuple[int, tuple[str, ...], str]]:
    # "4:memory:/a/b"; no name of a cgroup has a newline.
    for line in text.split("\n"):
        if line:
            number, words, path = line.split(":", 2)
            yield int(number), tuple(words.split(",")) if words else (), path


def _controllers(number: int, words: tuple[str, ...], mount: str) -> tuple[str, ...]:
    if number:
        return tuple(word for word in words if not word.startswith("name="))
    return tuple(read(f"{mount}/cgroup.controllers").split()) if mount else ()


def _namespace(proc: Proc) -> int:
    try:
        return proc.inode("cgroup")
    except (PermissionError, FileNotFoundError):  # hidden; or a zombie, or a kernel without
        return 0


def _inside(proc: Proc, own: dict[int, str], unread: dict[str, str]) -> dict[int, str]:
    # The file shows paths below the root of its reader's namespace: a child joins that of the process.
    try:
        if not os.path.exists("/proc/self/ns/cgroup") or proc.inode("cgroup") == _own_namespace():
            return own
        text, _ = call(proc, "cgroup", _membership_of, proc.fd, keep=(proc.fd,))
    except FileNotFoundError:
        unread["inside"] = "a process that has ended is in no cgroup namespace any more"
    except (PermissionError, KernelError) as error:
        why = error.cause if isinstance(error, KernelError) else "you may not look into the process, ptrace(2)"
        unread["inside"] = why or str(error.strerror)
    else:
        return {number: path for number, _, path in _lines(text)}
    return {}


def _membership_of(proc: int) -> str:
    # Of /proc/PID/cgroup, of a process that has this directory.
    with open(os.open("cgroup", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc), "rb") as file:
        return os.fsdecode(file.read())


def _own_namespace() -> int:
    return os.stat("/proc/self/ns/cgroup").st_ino


# ---- one cgroup ----


def _membership(tree: Hierarchy, path: str, inside: str | None) -> Membership:
    directory, removed = _directory(tree, path), False
    try:
        found = os.stat(directory) if directory else None
    except FileNotFoundError:
        found, removed, directory = None, True, ""
    return Membership(
        hierarchy=tree,
        path=path,
        inside=inside,
        directory=directory,
        removed=removed,
        uid=found.st_uid if found else None,
        gid=found.st_gid if found else None,
        frozen=_frozen(directory) if directory else None,
        processes=_count(directory) if directory else None,
        delegation=_delegation(_chain(tree, directory)) if directory else None,
    )


def _directory(tree: Hierarchy, path: str) -> str:
    rest = _below(path, tree.top) if tree.mount else None
    # A cgroup beside the root of the caller's namespace is shown as /../beside, and has no directory here.
    if rest is None or ".." in rest.split("/"):
        return ""
    return _joined(tree.mount, rest)


def _below(path: str, top: str) -> str | None:
    # What of the path is below top, "" for top itself; None if it is elsewhere.
    if path == top:
        return ""
    top = top.rstrip("/")
    return path[len(top) :] if path.startswith(f"{top}/") else None


def _joined(top: str, rest: str) -> str:
    return (top.rstrip("/") + rest) or "/"


def _chain(tree: Hierarchy, directory: str) -> list[str]:
    # The directory and those above it, up to the mount.
    found = [directory]
    while len(found[-1]) > len(tree.mount):
        found.append(found[-1][: found[-1].rindex("/")])
    return found


def _frozen(directory: str) -> bool | None:
    events = dict(line.split() for line in read(f"{directory}/cgroup.events").splitlines())
    if "frozen" in events:
        return events["frozen"] == "1"
    state = read(f"{directory}/freezer.state").strip()
    return state == "FROZEN" if state else None


def _count(directory: str) -> int | None:
    try:
        return len(_text(f"{directory}/cgroup.procs").split())
    except OSError as error:
        if error.errno not in (EACCES, EPERM, *_NO_TEXT):
            raise
        return None


def _delegation(chain: Sequence[str]) -> Delegation | None:
    owned = []
    for directory in chain:
        try:
            found = os.stat(directory)
        except FileNotFoundError:
            continue
        if found.st_uid != 0:
            owned.append((directory, found.st_uid, found.st_gid))
    if not owned:
        return None
    directory, uid, gid = owned[-1]
    files = read("/sys/kernel/cgroup/delegate").split() or ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]
    return Delegation(
        directory, uid, gid, tuple(name for name in files if _owner(f"{directory}/{name}") == uid), _marked(directory)
    )


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except FileNotFoundError:  # a controller that is not there
        return None


def _marked(directory: str) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        try:
            return os.getxattr(directory, name) == b"1"
        except OSError as error:
            if error.errno not in (ENODATA, ENOTSUP, EOPNOTSUPP, ENOENT):
                raise
    return False


# ---- limits ----


def _described(
    members: tuple[Membership, ...], ids: tuple[int, int], command: str, namespace: int, unread: dict[str, str]
) -> Cgroups:
    limits: list[Bound] = []
    places: dict[str, str] = {}
    notes = []
    for one in members:
        what = ", ".join(one.hierarchy.controllers) or one.hierarchy.name or "version 2"
        if one.removed:
            notes.append(
                f"the {what} cgroup {one.path.removesuffix(_DELETED)} was removed: nothing is limited or counted there"
            )
        elif not one.directory:
            where = "is mounted nowhere" if not one.hierarchy.mount else "is not below what is mounted here"
            notes.append(f"the {what} cgroup {one.path} {where}: its limits are unknown")
        else:
            limits += _limits(one)
            places |= _places(one)
            if not one.hierarchy.whole and one.hierarchy.controllers:
                notes.append(f"limits of {what} above {one.hierarchy.mount} cannot be seen from here")
    return Cgroups(
        pid=ids[0],
        tgid=ids[1],
        command=command,
        namespace=namespace,
        cgroups=members,
        limits=tuple(limits),
        usage=usage(places),
        counted=places,
        notes=tuple(notes),
        unread=unread,
    )


def _limits(member: Membership) -> Iterator[Bound]:
    chain = _chain(member.hierarchy, member.directory)
    for rule in V2 if member.hierarchy.version == 2 else V1:
        if rule.controller not in member.hierarchy.controllers:
            continue
        files = rule.files
        levels: list[Level] = []
        for directory in chain:
            levels.append(Level(directory, {name: read(f"{directory}/{name}").strip() for name in files}))
            if rule.flat:
                break
        yield from tightest(rule, levels)


def _places(member: Membership) -> dict[str, str]:
    # As sandbox.cgroups.usage wants them: controller to directory.
    if member.hierarchy.version == 1:
        return {{"blkio": "io"}.get(name, name): member.directory for name in member.hierarchy.controllers}
    found = {UNIFIED: member.directory}
    counts = {"memory": "memory.current", "pids": "pids.current", "cpu": "cpu.stat"}
    for name, file in counts.items():
        if name in member.hierarchy.controllers and os.path.exists(f"{member.directory}/{file}"):
            found[name] = member.directory
    return found


# ---- trees ----


def _nodes(top: str, path: str) -> Iterator[Node]:
    # Depth first without recursion; totals from the leaves up.
    order: list[tuple[str, int]] = []
    todo = [(top, 0)]
    while todo:
        directory, depth = todo.pop()
        order.append((directory, depth))
        try:
            with os.scandir(directory) as entries:
                below = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except (FileNotFoundError, PermissionError):  # removed; or not to be listed
            continue
        todo += [(name, depth + 1) for name in reversed(below)]
    counts = {directory: _count(directory) for directory, _ in order}
    totals = {directory: count or 0 for directory, count in counts.items()}
    for directory, depth in reversed(order):
        if depth:
            totals[directory[: directory.rindex("/")]] += totals[directory]
    for directory, depth in order:
        uid = _owner(directory)
        if uid is None:
            continue
        yield Node(
            path=_joined(path, directory[len(top) :]),
            directory=directory,
            depth=depth,
            uid=uid,
            processes=counts[directory],
            total=totals[directory],
            memory=_first(directory, "memory.current", "memory.usage_in_bytes"),
            pids=_first(directory, "pids.current"),
            cpu_us=_cpu(directory),
        )


def _first(directory: str, *names: str) -> int | None:
    for name in names:
        text = read(f"{directory}/{name}").strip()
        if text.isdecimal():
            return int(text)
    return None


def _cpu(directory: str) -> int | None:
    for line in read(f"{directory}/cpu.stat").splitlines():
        if line.startswith("usage_usec "):
            return int(line.split()[1])
    nanoseconds = _first(directory, "cpuacct.usage")
    return None if nanoseconds is None else nanoseconds // 1000


def read(path: str) -> str:
    """Return the text of a file of a cgroup, "" if it has none of that name, or was removed, or is threaded."""
    try:
        return _text(path)
    except OSError as error:
        if error.errno not in _NO_TEXT:
            raise
        return ""


_NO_TEXT = (ENOENT, ENODEV, EOPNOTSUPP)


def _text(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        return file.read().decode("utf-8", "surrogateescape")
