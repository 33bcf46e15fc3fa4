"""Follow a plan as it would run: where each actor is at each step, and what each step helps to make. Pure."""

from __future__ import annotations

from nstool import uapi
from nstool.kinds import KINDS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CALLERS, NEW, JOINED = "caller", "new", "joined"

Namespaces = dict[str, str]


# ---- namespaces ----


def namespaces(plan: Plan) -> tuple[Namespaces, ...]:
    """Return for each step {namespace type: "caller", "new" or "joined"} of its actor when it begins.

    The launcher stays where the caller is. The child is where clone3 puts it; what it unshares or
    joins of types that hold for children only (pid, time), itself gets later: time at its next exec
    (Linux 6.1), pid never, but the process that it clones does. namespaces(7), time_namespaces(7).
    """
    outside = dict.fromkeys(KINDS, CALLERS)
    inside, later, payload = dict(outside), dict[str, str](), dict[str, str]()
    found = []
    for step in plan.steps:
        if step.who == PAYLOAD and not payload:
            payload = dict(inside)
        place = {CHILD: inside, INIT: inside, PAYLOAD: payload}.get(step.who, outside)
        found.append(dict(place))
        if step.call == "clone3" and step.who == LAUNCHER:
            inside |= _changed(step, 0, NEW)
        elif step.call == "clone3":
            payload = inside | later | _changed(step, 0, NEW)
        elif step.call == "exec_init":
            inside |= {kind: later.pop(kind) for kind in ("time",) if kind in later}
        elif step.call in ("unshare", "setns"):
            change = _changed(step, 0, NEW) if step.call == "unshare" else _changed(step, 1, JOINED)
            later |= {kind: state for kind, state in change.items() if KINDS[kind].children}
            place |= {kind: state for kind, state in change.items() if not KINDS[kind].children}
    return tuple(found)


def _changed(step: Step, argument: int, state: str) -> Namespaces:
    flags = step.args[argument]
    assert isinstance(flags, int)
    return {name: state for name, kind in KINDS.items() if flags & kind.flag}


# ---- what a step helps to make ----


class _Thing:
    """What an fd refers to: its name, the path where it is or gets attached, and the thing that it is a part of."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ""
        self.early = False  # attached in the old root, before the pivot
        self.part_of: _Thing | None = None

    def whole(self) -> _Thing:
        return self.part_of.whole() if self.part_of else self


def headings(plan: Plan) -> tuple[str, ...]:
    """Return for each step a few words for what it helps to make: "cgroups", "user namespace", "root", "/dev", …

    They follow from the steps alone: from the call, or from where the mount goes that an fd refers to.
    """
    things = _things(plan)
    cgroups = _cgroup_directories(plan)
    return tuple(_heading(step, thing, cgroups) for step, thing in zip(plan.steps, things))


def _things(plan: Plan) -> list[_Thing | None]:
    """Return for each step the thing that it makes or changes; its path is known once all steps are seen."""
    known: dict[str, _Thing] = {}
    found: list[_Thing | None] = []
    pivoted = False
    for step in plan.steps:
        fds = [arg for arg in step.args if isinstance(arg, Fd)]
        thing = known.get(fds[0].name) if fds else None
        if step.call in ("fsopen", "open_tree", "fsmount") and step.result:
            made = _Thing(step.result)
            if step.call == "fsmount" and thing is not None:
                thing.part_of = made
            known[step.result] = thing = made
        elif step.result:
            made = _Thing(step.result)
            made.path = _below(thing, str(step.args[1])) if step.call == "openat2" else ""
            known[step.result] = thing = made
        elif step.call == "move_mount" and thing is not None:
            at = known.get(fds[1].name) if len(fds) > 1 else None
            thing.path = at.path if at else str(step.args[3])
            thing.early = not pivoted
            if at:
                at.part_of = thing
        pivoted = pivoted or step.call == "pivot_root"
        found.append(thing)
    return found


def _below(directory: _Thing | None, path: str) -> str:
    if directory is None or path.startswith("/"):
        return path
    return f"{directory.path.rstrip('/')}/{path}"


def _cgroup_directories(plan: Plan) -> set[str]:
    return set(_cgroup_paths(plan))


def _cgroup_paths(plan: Plan) -> Iterator[str]:
    for step in plan.steps:
        if step.call == "openat2" and step.result == "cgroup":
            yield str(step.args[1])
        elif step.call == "openat2" and str(step.args[1]).endswith(("/cgroup.procs", "/tasks")):
            yield str(step.args[1]).rpartition("/")[0]


def _heading(step: Step, thing: _Thing | None, cgroups: set[str]) -> str:
    if step.who == UNDO:
        return "undo, the last one first"
    if step.call == "clone3":
        return "new namespaces" if step.who == LAUNCHER else "the command's process"
    if step.call in _BY_CALL:
        return _BY_CALL[step.call]
    if step.who == PAYLOAD:
        return _PAYLOAD.get(step.call, "process")
    path = _path(step)
    if path and any(path in (d, _above(d) + "/cgroup.subtree_control") or path.startswith(d + "/") for d in cgroups):
        return "cgroups"
    if step.call in ("setresuid", "setresgid", "setgroups"):
        return "user namespace"
    if step.call in ("setns", "unshare"):
        return _namespace_heading(step)
    if path.startswith("/proc/"):
        return _proc_heading(path)
    if thing is not None:
        return _thing_heading(thing.whole())
    return "init" if step.call in ("prctl", "capset") else "root"


def _path(step: Step) -> str:
    if step.args and step.args[0] == uapi.AT_FDCWD and isinstance(step.args[1], str):
        return step.args[1]
    return ""


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _namespace_heading(step: Step) -> str:
    flags = step.args[0] if step.call == "unshare" else step.args[1]
    names = [name for name, kind in KINDS.items() if isinstance(flags, int) and flags & kind.flag]
    if names == ["cgroup"] and step.call == "unshare":
        return "cgroups"
    if len(names) == 1:
        return f"{names[0]} namespace"
    return "new namespaces" if step.call == "unshare" else "namespaces to join"


def _proc_heading(path: str) -> str:
    if path.startswith("/proc/sys/net/"):
        return "network"
    if path.startswith(("/proc/sys/kernel/", "/proc/sys/fs/mqueue/")):
        return "ipc namespace"
    if "/ns/" in path:
        return "namespaces to join"
    return "time namespace" if path.endswith("/timens_offsets") else "init"


def _thing_heading(thing: _Thing) -> str:
    if thing.name in ("cover", "readonly"):
        return "masks"
    if thing.name.startswith(("cgroup", "procs_")):
        return "cgroups"
    if thing.name.startswith("ns_"):
        return "namespaces to join"
    if thing.name == "inet":
        return "network"
    if thing.name in ("ptmx", "tty"):
        return "terminal"
    if thing.name == "hold":
        return "files and covers, held in the old root"
    if thing.early or not thing.path or thing.name == "root":
        return "root"
    pieces = thing.path.split("/")
    return "/dev" if pieces[1:2] == ["dev"] else thing.path


_BY_CALL = {
    "external": "network",
    "socket": "network",
    "sethostname": "host name",
    "setdomainname": "host name",
    "write_proc": "user namespace",
    "spawn": "user namespace",
    "raise_ambient": "init",
    "exec_init": "init",
    "release": "go on",
    "wait": "go on",
    "seccomp": "system calls",
    "execve": "the command",
    "send_fd": "terminal",
}
_PAYLOAD = {
    "dup3": "file descriptors",
    "fcntl": "file descriptors",
    "close_range": "file descriptors",
    "setrlimit": "limits",
    "write": "cgroups",
    "drop_bounding": "credentials",
    "setgroups": "credentials",
    "setresuid": "credentials",
    "setresgid": "credentials",
    "capset": "credentials",
    "prctl": "credentials",
    "ioctl_int": "terminal",
}
