"""Why a file is refused: cgroup files and directories, sysctls, oom_score_adj, limits, keys, filters."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.detectors.scene import Scene, is_below
from nstool.plan.steps import LAUNCHER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.detectors.scene import Answer

OPEN, WRITE = 0, 1  # detail of write_file: which of its calls failed
ST_RDONLY = 1  # statvfs(3)


# ---- paths ----


def parent_missing(scene: Scene) -> Answer:
    """The directory in which something is made or opened is not there."""
    if not scene.by_launcher or str(scene.step.result).startswith("ns_"):  # a namespace is opened, and named by others
        return False
    parent = os.path.dirname(scene.path.rstrip("/"))
    if not parent or os.path.isdir(parent) or scene.made_before(parent):
        return False
    return {"directory": parent}


def not_writable(scene: Scene) -> Answer:
    """The caller may not write in the directory."""
    if not scene.by_launcher:
        return False
    parent = os.path.dirname(scene.path.rstrip("/"))
    if not os.path.isdir(parent):
        return False
    return {"directory": parent} if not os.access(parent, os.W_OK | os.X_OK) else False


def read_only_host(scene: Scene) -> Answer:
    """The directory lies on a mount that is read-only."""
    if not scene.by_launcher:
        return False
    parent = os.path.dirname(scene.path.rstrip("/"))
    if not os.path.isdir(parent):
        return False
    return {"directory": parent} if os.statvfs(parent).f_flag & ST_RDONLY else False


def not_ours_to_open(scene: Scene) -> Answer:
    """The file's mode does not let the caller open it as asked."""
    path = scene.path
    if not scene.by_launcher or not os.path.exists(path):
        return False
    writing = scene.step.call == "write_file" or scene.integer("flags") & uapi.O_ACCMODE != uapi.O_RDONLY
    return {"path": path} if not os.access(path, os.W_OK if writing else os.R_OK) else False


def already_there(scene: Scene) -> Answer:
    """Something of this name is there."""
    return {"path": scene.path} if scene.by_launcher and os.path.lexists(scene.path) else False


def no_space(scene: Scene) -> Answer:
    """The filesystem has no free block or inode."""
    if not scene.by_launcher or not scene.path:
        return None
    parent = os.path.dirname(scene.path.rstrip("/"))
    if not os.path.isdir(parent):
        return False
    state = os.statvfs(parent)
    full = (state.f_blocks and not state.f_bavail) or (state.f_files and not state.f_favail)
    return {"directory": parent} if full else False


# ---- cgroups ----


def is_cgroup(scene: Scene) -> bool:
    """Whether the step works in a cgroup hierarchy."""
    points = [m.target for m in scene.mounts if m.type in ("cgroup", "cgroup2")]
    return any(is_below(scene.path, point) for point in points)


def _cgroup_dir(scene: Scene) -> str:
    return os.path.dirname(scene.path)


def _switched_on(scene: Scene) -> list[str]:
    if not scene.path.endswith("/cgroup.subtree_control"):
        return []
    return [word[1:] for word in scene.text("data").split() if word.startswith("+")]


def inner_processes(scene: Scene) -> Answer:
    """Processes live in the cgroup whose controllers are to be switched on for its children."""
    if not _switched_on(scene):
        return False
    directory = _cgroup_dir(scene)
    procs = scene.read(f"{directory}/cgroup.procs")
    if procs is None:
        return None
    # The root of the hierarchy, which has no cgroup.type, may have processes.
    if not procs.strip() or not scene.exists(f"{directory}/cgroup.type"):
        return False
    return {"cgroup": directory, "pids": ", ".join(procs.split()[:5])}


def controller_not_delegated(scene: Scene) -> Answer:
    """The cgroup does not have the controller: its parent has not switched it on."""
    directory = _cgroup_dir(scene)
    have = (scene.read(f"{directory}/cgroup.controllers") or "").split()
    missing = [name for name in _switched_on(scene) if name not in have and _known(scene, name) != "v1"]
    return {"controllers": ", ".join(missing), "cgroup": directory} if missing else False


def controller_in_version1(scene: Scene) -> Answer:
    """The controller is in use in a hierarchy of version 1, so version 2 cannot have it."""
    wanted = _switched_on(scene) or _controller_of(scene)
    found = [name for name in wanted if _known(scene, name) == "v1"]
    if not found or (not _switched_on(scene) and not _below_cgroup2(scene)):
        return False
    return {"controllers": ", ".join(found)}


def controller_absent(scene: Scene) -> Answer:
    """The kernel has no such controller, or it is switched off at boot."""
    wanted = _switched_on(scene) or _controller_of(scene)
    found = [name for name in wanted if _known(scene, name) == "absent"]
    return {"controllers": ", ".join(found)} if found else False


def _controller_of(scene: Scene) -> list[str]:
    name, dot, _ = os.path.basename(scene.path).partition(".")
    return [name] if dot and name != "cgroup" and is_cgroup(scene) else []


def _below_cgroup2(scene: Scene) -> bool:
    return any(m.type == "cgroup2" and is_below(scene.path, m.target) for m in scene.mounts)


def _known(scene: Scene, name: str) -> str:
    """Where a controller is: "v1", "v2", "absent", or "" if that is not to be read."""
    old = "blkio" if name == "io" else name
    for mount in scene.mounts:
        if mount.type == "cgroup" and old in mount.super_options:
            return "v1"
    for mount in scene.mounts:
        if mount.type == "cgroup2" and name in (scene.read(f"{mount.target}/cgroup.controllers") or "").split():
            return "v2"
    text = scene.read("/proc/cgroups")
    if text is None:
        return ""
    rows = {line.split()[0]: line.split()[3] for line in text.splitlines() if not line.startswith("#")}
    return "absent" if rows.get(old, "0") == "0" else ""


def cgroup_file_missing(scene: Scene) -> Answer:
    """The cgroup is there, and has no file of this name: its controller is not switched on there."""
    directory = _cgroup_dir(scene)
    if not is_cgroup(scene) or not scene.exists(os.path.dirname(directory)):
        return False
    name = os.path.basename(scene.path)
    # The sandbox's own directory is gone by now: what its parent's children have is told by another child.
    siblings = _listdir(scene, os.path.dirname(directory))
    seen = [s for s in siblings if scene.exists(f"{os.path.dirname(directory)}/{s}/cgroup.procs")]
    if not seen:
        return None
    if any(scene.exists(f"{os.path.dirname(directory)}/{s}/{name}") for s in seen):
        return False
    return {"file": name, "cgroup": os.path.dirname(directory)}


def _listdir(scene: Scene, path: str) -> list[str]:
    try:
        return os.listdir(scene.root + path)
    except OSError:  # gone, or not ours
        return []


def cgroup_depth(scene: Scene) -> Answer:
    """A cgroup above allows no more descendants, or no deeper ones."""
    if not is_cgroup(scene):
        return False
    directory = os.path.dirname(scene.path.rstrip("/"))
    while len(directory) > 1:
        allowed = scene.number(f"{directory}/cgroup.max.descendants")
        used = dict(li.split() for li in (scene.read(f"{directory}/cgroup.stat") or "").splitlines() if " " in li)
        if allowed is not None and int(used.get("nr_descendants", "0")) >= allowed:
            return {"cgroup": directory, "file": "cgroup.max.descendants", "allowed": allowed}
        if scene.number(f"{directory}/cgroup.max.depth") == 0:
            return {"cgroup": directory, "file": "cgroup.max.depth", "allowed": 0}
        directory = os.path.dirname(directory)
    return False


def cpuset_empty(scene: Scene) -> Answer:
    """A cgroup of version 1 takes no process before it has cpus and memory nodes."""
    opened = scene.path
    directory = os.path.dirname(opened)
    found = [m for m in scene.mounts if m.type == "cgroup" and "cpuset" in m.super_options]
    if not found or not is_below(opened, found[0].target):
        return False
    for name in ("cpuset.cpus", "cpuset.mems"):
        text = scene.read(f"{directory}/{name}")
        if text is not None and not text.strip():
            return {"file": name, "cgroup": directory}
    return None


def limit_below_use(scene: Scene) -> Answer:
    """A memory limit is below what the cgroup uses already."""
    if os.path.basename(scene.path) not in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        return False
    used = scene.number(f"{_cgroup_dir(scene)}/memory.usage_in_bytes")
    wanted = scene.text("data").strip()
    return None if used is None or not wanted.isdecimal() else used > int(wanted)


def cgroup_value(scene: Scene) -> Answer:
    """The file is there and open: what is left to refuse is the value."""
    if scene.detail != WRITE or not is_cgroup(scene) or _switched_on(scene):
        return False
    return {"file": os.path.basename(scene.path), "value": scene.text("data").strip()}


# ---- sysctls ----


def is_sysctl(scene: Scene) -> bool:
    """Whether the step writes below /proc/sys."""
    return scene.step.call == "write_file" and scene.path.startswith("/proc/sys/")


def _name(scene: Scene) -> str:
    return scene.path.removeprefix("/proc/sys/").replace("/", ".")


def sysctl_absent(scene: Scene) -> Answer:
    """This kernel has no such sysctl, in the caller's namespaces either."""
    if not is_sysctl(scene) or scene.exists(scene.path):
        return False
    return {"name": _name(scene)}


def _is_of_ipc(scene: Scene) -> bool:
    """Whether a sysctl is one that each IPC namespace has: ipc_namespaces(7)."""
    return _name(scene).startswith(("kernel.sem", "kernel.shm", "kernel.msg", "fs.mqueue."))


def sysctl_of_nobody(scene: Scene) -> Answer:
    """The limits of an IPC namespace are set by uid 0 of its user namespace, and that has none."""
    if not is_sysctl(scene) or not _is_of_ipc(scene) or not scene.new_userns:
        return False
    return {"name": _name(scene)} if scene.outside("uid_map", 0) is None else False


def sysctl_not_namespaced(scene: Scene) -> Answer:
    """The sysctl is the host's: it is there outside, and a namespace has none of its own, or may not write it."""
    if not is_sysctl(scene) or not scene.exists(scene.path) or scene.by_caller or sysctl_of_nobody(scene):
        return False
    return {"name": _name(scene)}


def sysctl_value(scene: Scene) -> Answer:
    """The file could be opened: what is refused is the value."""
    if not is_sysctl(scene) or scene.detail != WRITE:
        return False
    return {"name": _name(scene), "value": scene.text("data").strip()}


def proc_sys_read_only(scene: Scene) -> Answer:
    """/proc/sys of the caller is mounted read-only, as outer containers do."""
    if not scene.path.startswith("/proc/sys"):
        return False
    mount = scene.mount_of("/proc/sys")
    return None if mount is None else "ro" in mount.options


def oom_score_lower(scene: Scene) -> Answer:
    """Without CAP_SYS_RESOURCE the score does not fall below what a privileged process has set."""
    if (scene.path or scene.text("file")).rpartition("/")[2] != "oom_score_adj":
        return False
    own, wanted = scene.number("/proc/self/oom_score_adj"), scene.text("data").strip()
    if own is None or scene.may("sys_resource"):
        return None if own is None else False
    return {"own": own, "wanted": wanted} if int(wanted) < own else False


# ---- limits, keys, filters ----


def hard_limit(scene: Scene) -> Answer:
    """Without CAP_SYS_RESOURCE in the first user namespace a hard limit cannot rise."""
    import resource

    number, hard = scene.integer("resource"), scene.integer("hard")
    own = resource.getrlimit(number)[1]
    own = uapi.RLIM_INFINITY if own == resource.RLIM_INFINITY else own
    hard = hard & uapi.RLIM_INFINITY
    if hard <= own:
        return False
    outside = scene.step.who == LAUNCHER or not scene.new_userns
    if outside and scene.initial_userns and scene.may("sys_resource"):
        return False
    if any(step.call == "setrlimit" and step.args[0] == number for step in scene.before):  # it was raised
        return False
    return {"limit": uapi.name("RLIMIT", number), "own": own, "more": _AND_NR_OPEN if _is_above_nr_open(scene) else ""}


_AND_NR_OPEN = ", and before that fs.nr_open: as root, sysctl -w fs.nr_open=NUMBER"


def above_nr_open(scene: Scene) -> Answer:
    """No limit of open files can be above fs.nr_open; of one above the own hard limit, that row says so."""
    return False if hard_limit(scene) else _is_above_nr_open(scene)


def _is_above_nr_open(scene: Scene) -> Answer:
    if scene.integer("resource") != uapi.RLIMIT_NOFILE:
        return False
    most = scene.number("/proc/sys/fs/nr_open")
    hard = scene.integer("hard") & uapi.RLIM_INFINITY
    return None if most is None else {"most": most} if hard > most else False


def soft_above_hard(scene: Scene) -> Answer:
    """The soft limit is above the hard one."""
    return scene.integer("soft") & uapi.RLIM_INFINITY > scene.integer("hard") & uapi.RLIM_INFINITY


def key_quota(scene: Scene) -> Answer:
    """The user has as many keys, or bytes in keys, as kernel.keys allows."""
    uid = scene.outside("uid_map", 0) if scene.new_userns else None
    uids = {uid} if uid is not None else set(scene.ids("Uid")[:1])
    for line in (scene.read("/proc/key-users") or "").splitlines():
        owner, _, rest = line.partition(":")
        words = rest.split()  # usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes. keyrings(7)
        if len(words) == 4 and owner.strip().isdecimal() and int(owner) in uids:
            for word, what in ((words[2], "keys"), (words[3], "bytes in keys")):
                used, _, most = word.partition("/")
                if int(used) >= int(most):
                    return {"uid": owner.strip(), "what": what, "most": most}
    return None


def keys_absent(scene: Scene) -> Answer:
    """The kernel was built without key management."""
    return not scene.exists("/proc/keys") and not scene.exists("/proc/key-users")


def seccomp_absent(scene: Scene) -> Answer:
    """The kernel was built without seccomp filters."""
    return not scene.exists("/proc/sys/kernel/seccomp/actions_avail")


def filter_without_privilege(scene: Scene) -> Answer:
    """A filter is loaded by who has no_new_privs or CAP_SYS_ADMIN in its user namespace."""
    no_new_privs = (uapi.PR_SET_NO_NEW_PRIVS, 1)
    if any(s.call == "prctl" and s.args[:2] == no_new_privs and s.who == scene.step.who for s in scene.before):
        return False
    capset = [s for s in scene.before if s.call == "capset" and s.who == scene.step.who]
    if not capset:
        return None
    effective = capset[-1].args[0]
    return isinstance(effective, int) and not effective >> uapi.CAPABILITIES["sys_admin"] & 1


def no_room_for_filters(scene: Scene) -> Answer:
    """The kernel compiles filters always, and has no memory for that left; how much is used is told nowhere."""
    if scene.number("/proc/sys/net/core/bpf_jit_enable") == 0:  # then a filter is interpreted, and takes none
        return False
    limit = scene.number("/proc/sys/net/core/bpf_jit_limit")  # only root may read it
    return {"most": "sysctl net.core.bpf_jit_limit" if limit is None else f"{limit} bytes"}


def listener_outside(scene: Scene) -> Answer:
    """A filter of the caller's has a listener already; a process has one at most."""
    return scene.status("Seccomp_filters") not in ("", "0")


def other_end_gone(scene: Scene) -> Answer:
    """The other process of the launch has ended; what ended it is not told here."""
    return None


def same_filesystem(scene: Scene) -> Answer:
    """Both paths of a rename or link lie on one filesystem and one mount: then EXDEV is Landlock's."""
    paths = [arg for arg in scene.step.args if isinstance(arg, str)]
    if len(paths) != 2:
        return None
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    if not all(os.path.isdir(parent) for parent in parents):
        return None
    if os.stat(parents[0]).st_dev != os.stat(parents[1]).st_dev:
        return False
    mounts = [scene.mount_of(parent) for parent in parents]
    return mounts[0] == mounts[1]
