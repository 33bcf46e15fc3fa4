"""Follow a plan as it would run: where each actor is at each step, and what each step helps to make. Pure."""

from __future__ import annotations

from nstool import uapi
from nstool.kinds import KINDS
from nstool.namespaces import time
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

CALLERS, NEW, JOINED = "caller", "new", "joined"
JOINING = "namespaces to join"

Namespaces = dict[str, str]


# ---- namespaces ----


def namespaces(plan: Plan) -> tuple[Namespaces, ...]:
    """Return for each step {namespace type: "caller", "new" or "joined"} of its actor when it begins.

    The launcher stays where the caller is. The child is where clone3 puts it; what it unshares of types
    that hold for children only (pid, time), and a pid namespace that it joins, the process gets that it clones,
    and itself the time namespace when it joins its own. namespaces(7), time_namespaces(7).
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
        elif step.call == "unshare":
            change = _changed(step, 0, NEW)
            later |= {kind: state for kind, state in change.items() if KINDS[kind].children}
            place |= {kind: state for kind, state in change.items() if not KINDS[kind].children}
        elif step.call == "setns":
            change = _changed(step, 1, JOINED)
            later |= {kind: state for kind, state in change.items() if kind == "pid"}
            place |= {kind: later.pop(kind, state) for kind, state in change.items() if kind != "pid"}
    return tuple(found)


def _changed(step: Step, argument: int, state: str) -> Namespaces:
    flags = step.args[argument]
    assert isinstance(flags, int)
    return {name: state for name, kind in KINDS.items() if flags & kind.flag}


# ---- what a step helps to make ----


class _Thing:
    """What an fd refers to.

    path: where it is, or gets attached; early: in the old root, before the pivot. what: a heading
    that is sure already. source: path of the tree that it is a copy of. whole: what it is a part of.
    """

    def __init__(self, path: str = "", what: str = "") -> None:
        self.path = path
        self.what = what
        self.early = False
        self.source = ""
        self.whole = self


def headings(plan: Plan) -> tuple[str, ...]:
    """Return for each step a few words for what it helps to make: "cgroups", "user namespace", "root", "/dev", …

    They follow from the steps alone: from the call, or from where the mount goes that an fd refers
    to. The names of fds do not matter, for a compiled plan has none.
    """
    things = _things(plan)
    cgroups = set(_cgroup_directories(plan))
    return tuple(_heading(step, thing, cgroups) for step, thing in zip(plan.steps, things))


def _things(plan: Plan) -> list[_Thing | None]:
    """Return for each step the thing that it makes or changes; its path is known once all steps are seen."""
    known: dict[str, _Thing] = {}
    found: list[_Thing | None] = []
    joined = {step.args[0].name for step in plan.steps if step.call == "setns" and isinstance(step.args[0], Fd)}
    pivoted = False
    for step in plan.steps:
        fds = [arg for arg in step.args if isinstance(arg, Fd)]
        thing = known.get(fds[0].name) if fds else None
        if step.call == "move_mount" and thing is not None:
            target = known.get(fds[1].name) if len(fds) > 1 else None
            thing.path, thing.early = (target.path if target else str(step.args[3])), not pivoted
            if target:
                target.whole = thing
        elif step.result:
            made = _made(step, thing)
            if step.result in joined:
                made.what = "time namespace" if made.path == time.NEW else JOINING
            known[step.result] = thing = made
        pivoted = pivoted or step.call == "pivot_root"
        found.append(thing)
    return found


def _made(step: Step, thing: _Thing | None) -> _Thing:
    """Return the thing that a step's result refers to. thing: what the step's first fd refers to."""
    if step.call == "openat2":
        path = _below(thing, str(step.args[1]))
        return _Thing(path, "terminal" if path.endswith("/ptmx") else "")
    made = _Thing(what={"socket": "network", "ioctl_int": "terminal"}.get(step.call, ""))
    if step.call == "open_tree":
        made.source = _below(thing, str(step.args[1]))
    elif step.call == "fsmount" and thing is not None:
        thing.whole = made
    return made


def _below(directory: _Thing | None, path: str) -> str:
    if directory is None or path.startswith("/"):
        return path
    return f"{directory.path.rstrip('/')}/{path}"


def _cgroup_directories(plan: Plan) -> Iterator[str]:
    """The directories that the end removes, and those with a file that a process writes itself into."""
    written = {step.args[0].name for step in plan.steps if step.call == "write" and isinstance(step.args[0], Fd)}
    for step in plan.steps:
        if step.who == UNDO and step.call == "unlinkat":
            yield _path(step)
        elif step.call == "openat2" and step.result in written:
            yield _above(_path(step))


def _heading(step: Step, thing: _Thing | None, cgroups: set[str]) -> str:
    if step.who == UNDO:
        return "undo, the last one first"
    if step.call == "clone3":
        return "new namespaces" if step.who == LAUNCHER else "the command's process"
    if step.call == "write_proc" and step.args[0] == "oom_score_adj":
        return "init"
    if step.call in _BY_CALL:
        return _BY_CALL[step.call]
    if step.who == PAYLOAD:
        return _PAYLOAD.get(step.call, "process")
    path = thing.whole.path if thing else _path(step)
    if any(path in (d, _above(d) + "/cgroup.subtree_control") or path.startswith(d + "/") for d in cgroups):
        return "cgroups"
    if step.call in ("setresuid", "setresgid", "setgroups"):
        return "user namespace"
    if step.call in ("setns", "unshare"):
        return thing.what if thing and thing.what else _namespace_heading(step)
    if thing is not None:
        return _thing_heading(thing.whole)
    if path.startswith("/proc/"):
        return _proc_heading(path)
    return "init" if step.call in ("prctl", "capset") else "root"


def _path(step: Step) -> str:
    if step.args and step.args[0] == uapi.AT_FDCWD and isinstance(step.args[1], str):
        return step.args[1]
    return ""


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _namespace_heading(step: Step) -> str:
    names = list(_changed(step, 0 if step.call == "unshare" else 1, NEW))
    if names == ["cgroup"] and step.call == "unshare":
        return "cgroups"
    if len(names) == 1 and step.call == "unshare":
        return f"{names[0]} namespace"
    return "new namespaces" if step.call == "unshare" else JOINING


def _proc_heading(path: str) -> str:
    if path.startswith("/proc/sys/net/"):
        return "network"
    if path.startswith(("/proc/sys/kernel/", "/proc/sys/fs/mqueue/")):
        return "ipc namespace"
    return "time namespace" if path.endswith("/timens_offsets") else "init"


def _thing_heading(thing: _Thing) -> str:
    if thing.what:
        return thing.what
    if not thing.path or thing.path == "/":
        return "root"
    if thing.early:
        return "kept in the old root"
    # A cover is a copy of what the old root keeps; what is bound over itself becomes read-only.
    if thing.source == thing.path or thing.source.endswith(("/dir", "/file")):
        return "masks"
    return "/dev" if thing.path.startswith("/dev/") else thing.path


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
    "futex_wake": "go on",
    "futex_wait": "go on",
    "attest": "attestation",
    "serve": "service",
    "receive": "service",
    "answer_sysinfo": "system calls",
    "seccomp": "system calls",
    "landlock_create_ruleset": "Landlock",
    "landlock_add_rule": "Landlock",
    "landlock_restrict_self": "Landlock",
    "execve": "the command",
    "send_fd": "terminal",
}
_PAYLOAD = {
    "dup3": "file descriptors",
    "own_null": "file descriptors",
    "fcntl": "file descriptors",
    "close_range": "file descriptors",
    "setrlimit": "limits",
    "write": "cgroups",
    "write_file": "label",
    "openat2": "Landlock",
    "drop_bounding": "credentials",
    "setgroups": "credentials",
    "setresuid": "credentials",
    "setresgid": "credentials",
    "capset": "credentials",
    "prctl": "credentials",
    "ioctl_int": "terminal",
}
