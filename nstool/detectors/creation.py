"""Why a process or a namespace cannot be made: clone3, unshare, setns, exec of init."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.detectors.scene import Scene, is_below
from nstool.kinds import KINDS
from nstool.plan.steps import INIT, PAYLOAD, Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nstool.detectors.scene import Answer

# CLONE_NEW* to the name of its limit below /proc/sys/user. namespaces(7).
LIMITS = {kind.flag: f"max_{kind.name}_namespaces" for kind in KINDS.values()}
APPARMOR_USERNS = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


def _asks_userns(scene: Scene) -> bool:
    return bool(scene.integer("flags") & uapi.CLONE_NEWUSER) and scene.by_caller


def userns_sysctl(scene: Scene) -> Answer:
    """kernel.unprivileged_userns_clone is 0 and the caller has no CAP_SYS_ADMIN."""
    if not _asks_userns(scene):
        return False
    if scene.number("/proc/sys/kernel/unprivileged_userns_clone") != 0:
        return False
    return negated(scene.may("sys_admin"))


def apparmor_userns(scene: Scene) -> Answer:
    """AppArmor takes the capabilities in new user namespaces from programs without a profile for them."""
    if scene.number(APPARMOR_USERNS) != 1 or not scene.new_userns:
        return False
    if scene.may("sys_admin"):
        return False
    label = scene.read("/proc/self/attr/apparmor/current") or scene.read("/proc/self/attr/current") or ""
    # A profile of its own may say "userns,": that cannot be read from here.
    return True if label.strip("\0\n ") in ("unconfined", "") else None


def no_privilege(scene: Scene) -> Answer:
    """No user namespace is asked for, and the caller has no CAP_SYS_ADMIN."""
    flags = scene.integer("flags")
    if not scene.by_caller or flags & uapi.CLONE_NEWUSER or not flags & _any_namespace():
        return False
    return negated(scene.may("sys_admin"))


def chrooted(scene: Scene) -> Answer:
    """The caller lives in a chroot, where the kernel makes no user namespace."""
    if scene.step.call in ("clone3", "unshare") and not _asks_userns(scene):
        return False
    return in_chroot(scene)


def in_chroot(scene: Scene) -> Answer:
    """Whether the caller's root is not that of its mount namespace."""
    if scene.mounts and not any(mount.target == "/" for mount in scene.mounts):
        return True
    if scene.link("/proc/1/ns/mnt") != scene.link("/proc/self/ns/mnt") or not scene.link("/proc/1/ns/mnt"):
        return None
    try:
        return not os.path.samestat(os.stat(scene.root + "/proc/1/root"), os.stat(scene.root + "/"))
    except OSError:  # not ours to look at
        return None


def outer_filter(scene: Scene) -> Answer:
    """A seccomp filter that the caller has inherited answers this call."""
    if scene.status("Seccomp") == "0":
        return False
    refused = filtered(scene.step.call)
    return {"name": scene.step.call} if refused else refused


def filtered(call: str) -> bool | None:
    """Whether a seccomp filter refuses a call, asked with arguments that the kernel itself refuses otherwise.

    A filter comes before the kernel looks at the arguments, so another errno than the kernel's own is the filter's.
    """
    from errno import EBADF, EINVAL, EOPNOTSUPP

    try:
        from nstool import syscalls
    except ImportError:  # not built
        return None
    from nstool.errors import KernelError, NotSupported

    probes: dict[str, tuple[Callable[[], object], tuple[int, ...]]] = {
        "unshare": (lambda: syscalls.unshare(uapi.CLONE_NEWUSER | 1), (EINVAL,)),
        "setns": (lambda: syscalls.setns(-1, 0), (EBADF,)),
        "open_tree": (lambda: syscalls.open_tree(-1, "", 1 << 30), (EINVAL,)),
        "openat2": (lambda: syscalls.openat2(-1, "x", 1 << 62), (EINVAL,)),
        "close_range": (lambda: syscalls.close_range(2, 1), (EINVAL,)),
        "pidfd_open": (lambda: syscalls.pidfd_open(-1), (EINVAL,)),
        "personality": (lambda: syscalls.personality(0xFFFFFFFF), ()),
        "ioctl": (lambda: syscalls.ioctl(-1, 0), (EBADF, EOPNOTSUPP)),
        # These two flags exclude each other, which the kernel sees before it makes anything. clone(2).
        "clone3": (lambda: syscalls.clone3(uapi.CLONE_NEWUSER | uapi.CLONE_FS), (EINVAL,)),
    }
    if call not in probes:
        return None
    function, own = probes[call]
    try:
        function()
    except KernelError as error:
        return error.errno not in own
    except NotSupported:  # clone3 from a process with threads
        return None
    return False


def kernel_too_old(scene: Scene) -> Answer:
    """The call is younger than this kernel."""
    since = {"clone3": (5, 3), "openat2": (5, 6), "close_range": (5, 9), "mount_setattr": (5, 12)}
    since.update(dict.fromkeys(("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount"), (5, 2)))
    since.update(pidfd_open=(5, 3), seccomp=(3, 17), setns=(3, 0))
    wanted = since.get(scene.step.call)
    if wanted is None or scene.release == (0, 0):
        return None
    if scene.release >= wanted:
        return False
    return {"release": _dotted(scene.release), "since": _dotted(wanted)}


def _dotted(release: tuple[int, int]) -> str:
    return f"{release[0]}.{release[1]}"


# ---- limits ----


def namespace_limit_zero(scene: Scene) -> Answer:
    """A limit of user.max_*_namespaces is 0: the type is switched off."""
    for flag, name in LIMITS.items():
        if scene.integer("flags") & flag and scene.number(f"/proc/sys/user/{name}") == 0:
            return {"limit": f"user.{name}"}
    return False


def namespace_limit_reached(scene: Scene) -> Answer:
    """As many namespaces of a type are seen as user.max_*_namespaces allows; None where fewer are seen.

    The count is for each user and each user namespace on the way up, of which the outer are not seen.
    """
    for flag, limit in LIMITS.items():
        if not scene.integer("flags") & flag:
            continue
        allowed = scene.number(f"/proc/sys/user/{limit}")
        if allowed and len(_namespaces(scene, limit.split("_")[1])) >= allowed:
            return {"limit": f"user.{limit}", "allowed": allowed}
    return None


def _namespaces(scene: Scene, kind: str) -> set[str]:
    found = {scene.link(f"/proc/{pid}/ns/{kind}") for pid in _pids(scene)}
    return found - {""}


def _pids(scene: Scene) -> Iterator[str]:
    return (name for name in os.listdir(f"{scene.root}/proc") if name.isdecimal())


def nested_too_deep(scene: Scene) -> Answer:
    """User and pid namespaces nest 32 deep; how deep the caller lives is seen only at the top."""
    if not scene.integer("flags") & (uapi.CLONE_NEWUSER | uapi.CLONE_NEWPID):
        return False
    return False if scene.initial_userns else None


def process_limit(scene: Scene) -> Answer:
    """RLIMIT_NPROC of the caller is used up by the processes of its user, and of its user's sandboxes."""
    if scene.may("sys_resource") or scene.may("sys_admin"):
        return False
    limit = scene.soft_limit("Max processes")
    if limit is None:
        return False
    uid, used = scene.ids("Uid")[0], 0
    owned = _subordinate(scene, uid) if scene.release >= (5, 14) else ()  # since then counted for the maker, too
    for pid in _pids(scene):
        lines = dict(li.split(":", 1) for li in (scene.read(f"/proc/{pid}/status") or "").splitlines() if ":" in li)
        whose = int((lines.get("Uid") or "-1").split()[0])
        if whose == uid or any(first <= whose < first + count for first, count in owned):
            used += int(lines.get("Threads", "1"))
    needed = _needed(scene)
    return {"limit": limit, "used": used, "uid": uid, "needed": needed} if used + needed > limit else False


def _needed(scene: Scene) -> int:
    # Processes: a helper has one that waits for it.
    return 2 if scene.step.call == "spawn" else 1


def _subordinate(scene: Scene, uid: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of /etc/subuid that a user owns: (first, count)."""
    from nstool.detectors.ids import user_name
    from nstool.security.idmap import owned, parse_subids

    ranges = owned(parse_subids(scene.read("/etc/subuid") or ""), uid, user_name(scene, uid))
    return tuple((line.first, line.count) for line in ranges)


def sandbox_process_limit(scene: Scene) -> Answer:
    """Init and the command are counted by themselves too, where the caller's capabilities lift no RLIMIT_NPROC."""
    if scene.by_launcher or not scene.new_userns:
        return False
    limit = scene.soft_limit("Max processes")
    return {"limit": limit} if limit is not None and limit < 2 else False


def pids_limit(scene: Scene) -> Answer:
    """A cgroup above the caller has so many tasks that its pids.max allows no more."""
    for directory in _own_cgroups(scene, "pids"):
        allowed, used = scene.number(f"{directory}/pids.max"), scene.number(f"{directory}/pids.current")
        if allowed is not None and used is not None and used + _needed(scene) > allowed:
            return {"cgroup": directory, "allowed": allowed}
    return False


def sandbox_pids_limit(scene: Scene) -> Answer:
    """The pids limit of the plan leaves no room for init and the command."""
    for step in scene.steps:
        if step.call == "write_file" and str(step.args[1]).endswith("/pids.max"):
            data = step.args[2]
            allowed = int(data) if isinstance(data, bytes) and data.strip().isdigit() else 0
            if 0 < allowed < (2 if scene.plan.init else 1):
                return {"allowed": allowed}
    return False


def _own_cgroups(scene: Scene, controller: str) -> Iterator[str]:
    """Yield the caller's cgroup directories that may have files of a controller, up to the mount."""
    mounts = {}
    for mount in scene.mounts:
        if mount.type == "cgroup2":
            mounts[""] = mount.target
        elif mount.type == "cgroup" and controller in mount.super_options:
            mounts[controller] = mount.target
    for line in (scene.read("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        key = controller if controller in names.split(",") else names
        if key in mounts:
            point = mounts[key]
            here = f"{point}{path}".rstrip("/")
            while len(here) > len(point):
                yield here
                here = os.path.dirname(here)


def host_task_limit(scene: Scene) -> Answer:
    """The whole host has as many tasks as kernel.pid_max or kernel.threads-max allows."""
    words = (scene.read("/proc/loadavg") or "").split()
    if len(words) < 4 or "/" not in words[3]:
        return None
    tasks = int(words[3].partition("/")[2])
    for name in ("pid_max", "threads-max"):
        allowed = scene.number(f"/proc/sys/kernel/{name}")
        if allowed is not None and tasks >= allowed - 1:
            return {"limit": f"kernel.{name}", "allowed": allowed}
    return False


def out_of_memory(scene: Scene) -> Answer:
    """The host has hardly any memory left."""
    for line in (scene.read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1])
            return {"available": available >> 10} if available < 16 << 10 else False
    return None


def file_size_limit(scene: Scene) -> Answer:
    """The caller has an RLIMIT_FSIZE; without one, the file is larger than its filesystem takes."""
    limit = scene.soft_limit("Max file size")
    return False if limit is None else {"limit": limit}


def fd_limit(scene: Scene) -> Answer:
    """EMFILE of these calls has one cause; asked without a file, of which there may be none to open. open(2)."""
    return False if spec_fd_limit(scene) else {"limit": os.sysconf("SC_OPEN_MAX")}


def spec_fd_limit(scene: Scene) -> Answer:
    """The command's own limit on open files holds already, and leaves no room for a step after it."""
    set_ = [s for s in scene.before if (s.who, s.call) == (PAYLOAD, "setrlimit") and s.args[0] == uapi.RLIMIT_NOFILE]
    return {"limit": set_[-1].args[1]} if set_ and scene.step.who == PAYLOAD else False


def host_fd_limit(scene: Scene) -> Answer:
    """The whole host has as many files open as fs.file-max allows; it may have had them, and not any more. open(2)."""
    words = (scene.read("/proc/sys/fs/file-nr") or "").split()
    return {"allowed": words[2]} if len(words) == 3 and int(words[0]) >= int(words[2]) else None


# ---- flags and pids ----


def type_not_built(scene: Scene) -> Answer:
    """The kernel was built without a type of namespace."""
    for kind in KINDS.values():
        if scene.integer("flags") & kind.flag and not scene.exists(f"/proc/self/ns/{kind.name}"):
            return {"type": kind.name, "option": _BUILD[kind.name]}
    return False


_BUILD = {
    "user": "CONFIG_USER_NS",
    "mnt": "CONFIG_NAMESPACES",
    "pid": "CONFIG_PID_NS",
    "net": "CONFIG_NET_NS",
    "uts": "CONFIG_UTS_NS",
    "ipc": "CONFIG_IPC_NS",
    "cgroup": "CONFIG_CGROUPS",
    "time": "CONFIG_TIME_NS",
}


def pid_taken(scene: Scene) -> Answer:
    """The wanted pid belongs to a process: init is 1 in a new pid namespace; others are in /proc."""
    wanted = scene.integer("set_tid")
    if not wanted:
        return False
    if scene.clone_flags & uapi.CLONE_NEWPID:
        return {"pid": wanted, "holder": "init of the sandbox"} if wanted == 1 else False
    if scene.exists(f"/proc/{wanted}"):
        return {"pid": wanted, "holder": f"a process of the host (/proc/{wanted})"}
    return None


def set_tid_not_allowed(scene: Scene) -> Answer:
    """Who chooses a pid needs CAP_CHECKPOINT_RESTORE in the user namespace that owns the pid namespace."""
    if not scene.integer("set_tid"):
        return False
    own_pidns, own_userns = scene.clone_flags & uapi.CLONE_NEWPID, scene.new_userns
    if own_pidns:
        return False
    if own_userns:
        return True
    may = (scene.may("checkpoint_restore"), scene.may("sys_admin"))
    return None if None in may else not any(may)


def set_tid_too_high(scene: Scene) -> Answer:
    """The wanted pid lies above kernel.pid_max."""
    wanted, highest = scene.integer("set_tid"), scene.number("/proc/sys/kernel/pid_max")
    if highest is None:
        return None
    return {"pid": wanted, "highest": highest} if wanted >= highest else False


def pidns_dead(scene: Scene) -> Answer:
    """The pid namespace for children has lost its init: nothing can be made in it any more."""
    for step in scene.steps:
        if step.call == "setns" and step.args[1] == uapi.CLONE_NEWPID and isinstance(step.args[0], Fd):
            path = next((str(s.args[1]) for s in scene.steps if s.result == step.args[0].name), "")
            pid = path.split("/")[2] if path.startswith("/proc/") else ""
            if pid.isdecimal():
                return {"what": f"process {pid}"} if not scene.exists(f"/proc/{pid}") else None
            return {"what": "its first process"} if path else None  # ENOMEM of a joined one says just this
    if not scene.exists("/proc/self/ns/pid"):
        return None
    children, own = scene.link("/proc/self/ns/pid_for_children"), scene.link("/proc/self/ns/pid")
    if children == own:
        return False
    if not children:  # readlink refuses a pid namespace that has no first process (yet, or any more)
        return {"what": "its first process"}
    alive = any(scene.link(f"/proc/{pid}/ns/pid") == children for pid in _pids(scene))
    return False if alive else {"what": "its first process"}


def cgroup_gone(scene: Scene) -> Answer:
    """The cgroup that clone3 starts the process in has been removed meanwhile."""
    path = scene.opened_path(scene.arg("cgroup"))
    return {"cgroup": path} if path and not scene.exists(path) else False


def cgroup_has_controllers(scene: Scene) -> Answer:
    """Processes cannot enter a cgroup whose children have controllers switched on (no internal processes)."""
    here = scene.opened_path(scene.arg("cgroup"))
    if not here:
        return False
    controllers = (scene.read(f"{here}/cgroup.subtree_control") or "").strip()
    return {"cgroup": here, "controllers": controllers} if controllers else None  # it may be gone by now


def cgroup_not_delegated(scene: Scene) -> Answer:
    """To move a process one must be able to write cgroup.procs of the common ancestor too."""
    path = scene.opened_path(scene.arg("cgroup"))
    if not path:
        return False
    top = next((m.target for m in scene.mounts if m.type == "cgroup2" and is_below(path, m.target)), "")
    if not top:
        return None
    own = next(iter(_own_cgroups(scene, "")), top)
    common = os.path.commonpath((path, own))
    return {"cgroup": common} if not os.access(f"{scene.root}{common}/cgroup.procs", os.W_OK) else False


def security_module(scene: Scene) -> Answer:
    """A security module that mediates is on: what it refuses is in its audit log, not to be seen from here."""
    names = []
    if (scene.read("/sys/fs/selinux/enforce") or "").strip() == "1":
        names.append("SELinux")
    if (scene.read("/sys/module/apparmor/parameters/enabled") or "").startswith("Y"):
        names.append("AppArmor")
    if (scene.read("/sys/fs/smackfs/load2")) is not None:
        names.append("Smack")
    return None if names else False


def memfd_noexec(scene: Scene) -> Answer:
    """The noexec policy of memfd_create forbids to execute what is in memory."""
    value = scene.number("/proc/sys/vm/memfd_noexec")
    return {"value": value} if value else False


def timens_offset_range(scene: Scene) -> Answer:
    """An offset takes a clock below zero."""
    if not scene.text("path").endswith("/timens_offsets"):
        return False
    uptime = (scene.read("/proc/uptime") or "").split()
    for line in scene.text("data").splitlines():
        words = line.split()
        if uptime and len(words) == 3 and float(uptime[0]) + int(words[1]) < 0:
            return {"clock": words[0], "offset": words[1], "uptime": int(float(uptime[0]))}
    return False


# ---- joining ----


def not_a_namespace(scene: Scene) -> Answer:
    """The file that is joined is no namespace, or one of another type."""
    found = _nstype(scene)
    if found is None:
        return None
    wanted = scene.integer("nstype")
    names = {kind.flag: kind.name for kind in KINDS.values()}
    if not wanted or found == wanted:
        return False
    words = f"a {names[found]} namespace" if found else "no namespace"
    return {"path": _ns_path(scene), "is": words, "type": names[wanted]}


def _ns_path(scene: Scene) -> str:
    """Return the file of the namespace; empty for one of the sandbox's own, which only it can look at."""
    opening = scene.step if scene.step.call == "openat2" else scene.opened_by(scene.arg("fd"))
    path = scene.path if opening is scene.step else scene.opened_path(scene.arg("fd"))
    return "" if opening and opening.who == INIT and path.startswith("/proc/self/") else path


def _nstype(scene: Scene) -> int | None:
    """Return the CLONE_NEW* of the namespace file, 0 if it is none, None if it cannot be asked."""
    return _ask(_ns_path(scene), "ns_get_nstype")


def _ask(path: str, question: str) -> int | None:
    try:
        from nstool import syscalls
    except ImportError:  # not built
        return None
    from nstool.errors import KernelError

    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(getattr(syscalls, question)(fd))
    except KernelError as error:
        return 0 if error.errno == 25 else -(error.errno or 0)  # ENOTTY: a file, but no namespace
    finally:
        os.close(fd)


def owned_elsewhere(scene: Scene) -> Answer:
    """The namespace belongs to a user namespace in which the joiner has no capabilities, or it has none in its own."""
    path = _ns_path(scene)
    owner = _ask(path, "ns_get_userns")
    if owner is None or owner == 0:
        return None
    answer: Answer = {"path": path, "do": _how_to_join(scene, path)}
    if owner < 0:  # EPERM: the owner is not below the caller's user namespace
        return answer if owner == -1 else None
    joined = scene.joined_userns
    try:
        same = _same(owner, joined or "/proc/self/ns/user")
    finally:
        os.close(owner)
    if joined:  # all capabilities there, and in those below
        return False if same else None
    if scene.in_userns:
        return answer  # the owner existed before the sandbox's own user namespace
    if scene.integer("nstype") == uapi.CLONE_NEWUSER:  # joined by right over itself, as its maker has
        return None
    may = scene.may("sys_admin")  # which it takes over one's own namespace too
    return answer if may is False else False if may and same else None


def _same(one: int | str, other: str) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:  # gone, or not ours to look at
        return False


def _how_to_join(scene: Scene, path: str) -> str:
    """Return how a namespace of a process, or a pinned one, is joined: together with its user namespace."""
    as_root = "run as root and share the user namespace with the host (--share user)"
    directory, name = os.path.split(path)
    user = f"{directory}/user"
    if scene.joined_userns or name not in KINDS or not os.path.lexists(user) or _same(user, "/proc/self/ns/user"):
        return as_root
    if not scene.clone_flags:  # nstool enter
        joins = [step.args[1] for step in scene.steps if step.call == "setns"]
        types = ",".join(kind.name for kind in KINDS.values() if kind.flag in (uapi.CLONE_NEWUSER, *joins))
        return f"join that user namespace too: --types {types}"
    words = path.split("/")
    whose = words[2] if path.startswith("/proc/") else directory
    # New ones of these types would not belong to that user namespace.
    others = "".join(f",{kind}=host" for kind in ("pid", "time") if scene.clone_flags & KINDS[kind].flag)
    return f"join that user namespace too (--namespaces user={whose}{others}), or {as_root}"


def own_userns_joined(scene: Scene) -> Answer:
    """The user namespace to join is the one that the caller lives in."""
    if scene.integer("nstype") != uapi.CLONE_NEWUSER:
        return False
    try:
        return os.path.samestat(os.stat(_ns_path(scene)), os.stat("/proc/self/ns/user"))
    except OSError:  # gone by now
        return None


def namespace_gone(scene: Scene) -> Answer:
    """The namespace file, or the process that it belonged to, is not there."""
    path = scene.path
    looks = (path.startswith("/proc/") and "/ns/" in path) or path.startswith("/run/netns/")
    if not looks:
        return False
    return {"path": path} if is_gone(path) else False


def is_gone(path: str) -> bool:
    """Whether nothing is at a path, or at what it points to; not where that may not be looked at."""
    try:
        os.stat(path)
    except PermissionError:
        return False
    except OSError:
        return True
    return False


def process_hidden(scene: Scene) -> Answer:
    """The kernel does not let the caller look into the process whose namespace is wanted."""
    words = scene.path.split("/")
    if words[:2] != ["", "proc"] or words[3:4] != ["ns"] or not words[2].isdecimal():
        return False
    try:
        os.stat(scene.path)
    except PermissionError:
        from nstool.sandbox.facts import why_hidden

        why, do = why_hidden(int(words[2]))
        return {"pid": words[2], "why": why, "do": do}
    except OSError:  # gone
        return False
    return False


def _any_namespace() -> int:
    flags = 0
    for kind in KINDS.values():
        flags |= kind.flag
    return flags


def negated(answer: bool | None) -> bool | None:
    """Return not answer; None stays None."""
    return None if answer is None else not answer
