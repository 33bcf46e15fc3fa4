"""Why a mount is refused: sources, targets, filesystems, attributes, propagation, the pivot."""

from __future__ import annotations

import os
from errno import EINVAL

from nstool import uapi
from nstool.detectors import rights
from nstool.detectors.creation import in_chroot, is_gone, namespace_gone, negated
from nstool.detectors.ids import is_mapped
from nstool.detectors.scene import Scene, is_below
from nstool.detectors.view import View
from nstool.plan.steps import INIT, PAYLOAD, Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.detectors.scene import Answer
    from nstool.sandbox.mountinfo import Mount

# Filesystems that have no FS_ALLOW_IDMAP in any kernel up to 6.18. mount_setattr(2).
NO_IDMAP: frozenset[str] = frozenset(
    (
        *("9p", "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "cifs", "configfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "fusectl", "mqueue", "nfs", "nfs4", "nsfs", "overlay", "proc", "pstore"),
        *("rpc_pipefs", "securityfs", "smb3", "sysfs", "tracefs", "vboxsf"),
    )
)
# What overlayfs refuses as upper layer: no whiteouts, no file handles or xattrs, or a stack too deep.
NO_UPPER: frozenset[str] = frozenset(
    (
        *("overlay", "nfs", "nfs4", "cifs", "smb3", "vfat", "msdos", "exfat", "iso9660", "squashfs", "erofs"),
        *("proc", "sysfs", "9p", "vboxsf"),
    )
)
# Filesystems with FS_USERNS_MOUNT.
IN_USERNS: tuple[str, ...] = (
    *("tmpfs", "ramfs", "proc", "sysfs", "mqueue", "devpts", "overlay", "cgroup", "cgroup2", "fuse", "bpf"),
    *("binfmt_misc",),
)
ATTRIBUTES = {
    uapi.MOUNT_ATTR_RDONLY: "ro",
    uapi.MOUNT_ATTR_NOSUID: "nosuid",
    uapi.MOUNT_ATTR_NODEV: "nodev",
    uapi.MOUNT_ATTR_NOEXEC: "noexec",
}
MS_FLAGS = {uapi.MS_RDONLY: "ro", uapi.MS_NOSUID: "nosuid", uapi.MS_NODEV: "nodev", uapi.MS_NOEXEC: "noexec"}


# ---- sources, on the host ----


def _source(scene: Scene) -> str:
    """The path of the host that the step opens or binds, empty if it works inside."""
    if scene.step.call == "mount":
        return scene.text("source") if scene.integer("flags") & uapi.MS_BIND else ""
    if scene.step.call in ("open_tree", "openat2", "mount_setattr"):
        opener = scene.opened_by(scene.arg("dirfd")) if scene.step.call == "mount_setattr" else scene.step
        inside = opener is not None and (opener.who == PAYLOAD or (opener.who == INIT and _pivoted(scene)))
        if opener is None or inside or not str(opener.args[1]).startswith("/"):
            return ""
        return str(opener.args[1])
    return ""


def _pivoted(scene: Scene) -> bool:
    return any(step.call in ("pivot_root", "chroot") for step in scene.before)


def source_missing(scene: Scene) -> Answer:
    """The source is not there on the host."""
    path = _source(scene)
    if not path or not is_gone(path) or scene.made_before(path) or namespace_gone(scene):
        return False
    if os.path.lexists(path):
        return {"path": path, "missing": f"{os.readlink(path)}, to which it points" if os.path.islink(path) else path}
    here = path
    while here != "/" and not os.path.lexists(os.path.dirname(here)):
        here = os.path.dirname(here)
    return {"path": path, "missing": here}


def source_loop(scene: Scene) -> Answer:
    """The source is a symlink that leads in a circle."""
    path = _source(scene)
    if not path:
        return False
    try:
        os.stat(path)
    except OSError as error:
        return error.errno == 40
    return False


def source_closed(scene: Scene) -> Answer:
    """A directory above the source may not be searched by who opens it."""
    path = _source(scene)
    if not path:
        return False
    person = rights.who(scene)
    here = ""
    for part in [p for p in os.path.dirname(path).split("/") if p]:
        here += "/" + part
        if person is not None and rights.allowed(scene, person, here, rights.EXECUTE) is False:
            return {"directory": here, "path": path, "uid": person.uid}
    return False


def source_unbindable(scene: Scene) -> Answer:
    """The source lies on a mount that is unbindable."""
    path = _source(scene)
    mount = scene.mount_of(path) if path else None
    return {"point": mount.target} if mount is not None and "unbindable" in mount.propagation else False


def source_locked(scene: Scene) -> Answer:
    """Mounts below the source are locked in a user namespace, so that it is bound with them or not at all."""
    path = _source(scene)
    if not path or (scene.by_caller and scene.initial_userns is not False):
        return False
    if scene.integer("flags") & (uapi.AT_RECURSIVE | uapi.MS_REC):
        return False
    below = [mount.target for mount in scene.mounts_below(path)]
    return {"path": path, "below": ", ".join(below[:3])} if below else False


# ---- targets, inside ----


def _inside(scene: Scene) -> str:
    """The path inside that the step opens, empty if it works on the host."""
    if scene.step.call != "openat2" or scene.step.who != INIT or not scene.integer("resolve"):
        return ""
    directory = scene.arg("dirfd")
    if isinstance(directory, Fd):
        base = _place_of(scene, directory.name) or scene.opened_path(directory)
        return f"{base}/{scene.text('path')}" if base else ""
    return scene.path


def _place_of(scene: Scene, name: str) -> str:
    """Where the tree of an fd is attached, looking at the steps before this one."""
    for number in range(len(scene.before) - 1, -1, -1):
        step = scene.before[number]
        if step.call == "move_mount" and step.args[0] == Fd(name) and isinstance(step.args[2], Fd):
            to = step.args[2].name
            opened = next((s for s in reversed(scene.before[:number]) if s.result == to), None)
            return str(opened.args[1]) if opened is not None and str(opened.args[1]).startswith("/") else ""
    return ""


def _view_before(scene: Scene) -> View:
    return View(scene.before)


def target_missing(scene: Scene) -> Answer:
    """The mount target is not in the sandbox's root, and the root is not one to make it in."""
    path = _inside(scene)
    if not path:
        return False
    view = _view_before(scene)
    place = view.locate(path)
    if place.kind != "absent":
        return None if place.kind == "unknown" else False
    if view.locate(place.missing).there:  # and no directory
        return False
    return {"path": path, "missing": place.missing, "host": _hosted(place.host)}


def _hosted(host: str) -> str:
    return host or "the sandbox's own root"


def target_symlink(scene: Scene) -> Answer:
    """A symlink lies on the way to the target, and none is followed when mounting."""
    path = _inside(scene)
    if not path:
        return False
    place = _view_before(scene).locate(path)
    if not place.links:
        return None if place.kind == "unknown" else False
    return {"path": path, "link": place.links[0][0], "to": place.links[0][1], "real": place.path}


def target_not_directory(scene: Scene) -> Answer:
    """A component of the path is a file, a device, a pipe or a socket."""
    path = _inside(scene) or (scene.path if _makes_inside(scene) else "")
    if not path:
        return False
    view = _view_before(scene)
    place = view.locate(path)
    if not place.missing or view.locate(place.missing).kind not in ("file", "other"):
        return False
    return {"path": path, "file": place.missing}


def kinds_differ(scene: Scene) -> Answer:
    """A directory is mounted on a file, or a file on a directory."""
    source, to = scene.arg("from_dirfd"), scene.arg("to_dirfd")
    if not isinstance(source, Fd) or not isinstance(to, Fd):
        return False
    view = _view_before(scene)
    tree, directory = view.trees.get(source.name), view.places.get(to.name, "")
    if tree is None or not directory or tree.fstype == "unknown":
        return None
    target = f"{directory.rstrip('/')}/{scene.text('to_path')}".rstrip("/")
    if "" in tree.made:
        kind = tree.made[""].kind
    elif tree.hosts:
        kind = "dir" if os.path.isdir(tree.hosts[0]) else "file"
    else:
        kind = "dir"
    there = view.locate(target).kind
    if there in ("unknown", "absent"):
        return None
    if (kind == "dir") == (there == "dir"):
        return False
    words = {"dir": "a directory"}
    return {"source": words.get(kind, "a file"), "target": target, "is": words.get(there, "a file")}


def mount_limit(scene: Scene) -> Answer:
    """The mount namespace would have more mounts than fs.mount-max."""
    most = scene.number("/proc/sys/fs/mount-max")
    if most is None:
        return None
    count = len(scene.mounts)
    return {"most": most, "count": count} if count * 2 > most else False


def target_shared(scene: Scene) -> Answer:
    """A mount namespace can be pinned only on a mount that is not shared."""
    source = scene.text("source") or scene.opened_path(scene.arg("from_dirfd"))
    if not source.endswith("/ns/mnt"):
        return False
    target = scene.text("target") or scene.text("to_path")
    mount = scene.mount_of(os.path.dirname(target)) if target else None
    if mount is None:
        return None
    return {"target": target, "point": mount.target} if "shared:" in mount.propagation else False


def not_a_mount_point(scene: Scene) -> Answer:
    """What is to be changed is no mount point of the caller's namespace."""
    target = scene.text("target")
    flags = scene.integer("flags")
    if scene.step.call != "mount" or not flags & (uapi.MS_REMOUNT | _PROPAGATION) or not target:
        return False
    if target == "/":
        return in_chroot(scene)
    return not any(mount.target == target for mount in scene.mounts)


_PROPAGATION = uapi.MS_PRIVATE | uapi.MS_SLAVE | uapi.MS_SHARED | uapi.MS_UNBINDABLE


# ---- filesystems ----


def filesystem_absent(scene: Scene) -> Answer:
    """The kernel has no filesystem of this name (a module may have to be loaded)."""
    fstype, text = scene.fstype, scene.read("/proc/filesystems")
    if not fstype or text is None:
        return None if fstype else False
    return {"fstype": fstype} if fstype not in [line.split("\t")[-1] for line in text.splitlines()] else False


def proc_too_revealing(scene: Scene) -> Answer:
    """Parts of the caller's /proc are covered, and the kernel gives no fresh one that would uncover them."""
    return _too_revealing(scene, "proc", "/proc")


def sysfs_too_revealing(scene: Scene) -> Answer:
    """Parts of the caller's /sys are covered or read-only, and the kernel gives no fresh one that is not."""
    return _too_revealing(scene, "sysfs", "/sys")


def _too_revealing(scene: Scene, fstype: str, point: str) -> Answer:
    if scene.fstype != fstype or not (scene.new_userns or scene.initial_userns is False):
        return False
    if not scene.mounts:
        return None
    whole = [m for m in scene.mounts if m.type == fstype and m.root == "/"]
    if not whole:
        return {"what": f"there is no whole {point} to be seen"}
    for mount in whole:
        covers = _covers(scene, mount)
        if not covers:
            return False
    return {"what": f"{', '.join(covers[:3])} {'is' if len(covers) == 1 else 'are'} covered or read-only"}


# Directories of proc and sysfs that are empty by themselves: a mount on one hides nothing (MNT_LOCKED on an
# "is_empty_dir_inode", fs/namespace.c mnt_already_visible).
_EMPTY: frozenset[str] = frozenset(
    (
        *("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd", "/sys/fs/cgroup", "/sys/fs/bpf", "/sys/fs/pstore"),
        *("/sys/fs/fuse/connections", "/sys/fs/selinux", "/sys/fs/smackfs", "/sys/kernel/debug"),
        *("/sys/kernel/tracing", "/sys/kernel/config", "/sys/kernel/security", "/sys/firmware/efi/efivars"),
    )
)


def _covers(scene: Scene, whole: Mount) -> list[str]:
    found = [
        m.target for m in scene.mounts if m.parent == whole.id and m.target != whole.target and m.target not in _EMPTY
    ]
    return found or ([whole.target] if "ro" in whole.options else [])


def proc_of_foreign_pidns(scene: Scene) -> Answer:
    """A fresh /proc shows the pid namespace, which belongs to another user namespace than the sandbox's."""
    if scene.fstype != "proc" or not scene.new_userns:
        return False
    return not scene.clone_flags & uapi.CLONE_NEWPID


def sysfs_of_foreign_netns(scene: Scene) -> Answer:
    """A fresh /sys shows the network namespace, which belongs to another user namespace than the sandbox's."""
    if scene.fstype != "sysfs" or not scene.new_userns:
        return False
    return not scene.clone_flags & uapi.CLONE_NEWNET


def mqueue_of_foreign_ipcns(scene: Scene) -> Answer:
    """A fresh mqueue shows the ipc namespace, which belongs to another user namespace than the sandbox's."""
    if scene.fstype != "mqueue" or not scene.new_userns:
        return False
    return not scene.clone_flags & uapi.CLONE_NEWIPC


def option_id_unmapped(scene: Scene) -> Answer:
    """An id in the mount options has no place in the map of the user namespace."""
    if not scene.new_userns:
        return False
    for key in ("gid", "uid"):
        value = scene.options.get(key, "")
        if value.isdecimal() and scene.outside(f"{key}_map", int(value)) is None:
            return {"option": f"{key}={value}", "map": f"{key}_map"}
    return False


def joined_option_id_unmapped(scene: Scene) -> Answer:
    """An id in the mount options has no place in the map of the user namespace that is joined."""
    if scene.new_userns or not scene.joined_userns:
        return False
    answer: Answer = False
    for key in ("gid", "uid"):
        value = scene.options.get(key, "")
        if not value.isdecimal():
            continue
        text = scene.of_joined_userns(f"{key}_map")
        if text is None:
            answer = None
        elif not is_mapped(int(value), text):
            return {"option": f"{key}={value}", "map": f"{key}_map"}
    return answer


def proc_option_unknown(scene: Scene) -> Answer:
    """This kernel's proc does not know an option: names for hidepid, and subset, are of Linux 5.8."""
    if scene.fstype != "proc" or not scene.options or scene.release == (0, 0) or scene.release >= (5, 8):
        return False
    names = [f"{k}={v}" for k, v in scene.options.items() if k == "subset" or (k == "hidepid" and not v.isdecimal())]
    return {"option": names[0]} if names else False


def overlay_upper_unfit(scene: Scene) -> Answer:
    """The upper layer lies on a filesystem that overlayfs does not take for it."""
    if scene.fstype != "overlay":
        return False
    opened = next((s for s in scene.before if s.call == "open_tree" and s.result == "upper"), None)
    if opened is None:
        return False
    mount = scene.mount_of(str(opened.args[1]))
    if mount is None:
        return None
    return {"path": str(opened.args[1]), "fstype": mount.type} if mount.type in NO_UPPER else False


def overlay_layers_overlap(scene: Scene) -> Answer:
    """One layer of the overlay lies in another, or is the same."""
    if scene.fstype != "overlay":
        return False
    options = scene.options
    layers = (*options.get("lowerdir", "").split(":"), os.path.dirname(options.get("upperdir", "")))
    names = {os.path.basename(layer) for layer in layers}
    paths = [str(s.args[1]) for s in scene.before if s.call == "open_tree" and s.result in names]
    for number, inner in enumerate(paths):
        for outer in (*paths[:number], *paths[number + 1 :]):
            if is_below(os.path.realpath(inner), os.path.realpath(outer)):
                return {"inner": inner, "outer": outer}
    return False


def overlay_in_userns(scene: Scene) -> Answer:
    """User namespaces mount overlayfs since Linux 5.11 only."""
    if scene.fstype != "overlay" or not scene.new_userns or scene.release == (0, 0):
        return False
    return scene.release < (5, 11)


def filesystem_not_in_userns(scene: Scene) -> Answer:
    """The filesystem is not one that a user namespace may mount."""
    fstype = scene.fstype
    if not fstype or scene.by_caller or fstype in IN_USERNS:
        return False
    return {"fstype": fstype}


def no_mount_privilege(scene: Scene) -> Answer:
    """Mounting needs CAP_SYS_ADMIN in the user namespace of the mount namespace, which the caller has not."""
    return negated(scene.may("sys_admin")) if scene.by_caller else False


def option_value(scene: Scene) -> Answer:
    """The step sets one option: the filesystem does not take this value."""
    if scene.step.call != "fsconfig" or scene.integer("cmd") not in (uapi.FSCONFIG_SET_FLAG, uapi.FSCONFIG_SET_STRING):
        return False
    if option_id_unmapped(scene) or proc_option_unknown(scene) or overlay_upper_unfit(scene):
        return False
    if (joined := joined_option_id_unmapped(scene)) is not False:
        return False if joined else None
    value = scene.text("value")
    return {"option": f"{scene.text('key')}={value}" if value else scene.text("key"), "fstype": scene.fstype}


# ---- attributes ----


def _wants_idmap(scene: Scene) -> bool:
    return _idmap(scene.integer("attr_set"))


def _idmap(attributes: object) -> bool:
    return isinstance(attributes, int) and bool(attributes & uapi.MOUNT_ATTR_IDMAP)


def idmap_not_supported(scene: Scene) -> Answer:
    """The filesystem, or one mounted below it, has no id-mapped mounts."""
    path = _source(scene)
    if not _wants_idmap(scene) or not path:
        return False
    mount = scene.mount_of(path)
    if mount is None:
        return None
    mounts = [mount, *(scene.mounts_below(path) if scene.integer("flags") & uapi.AT_RECURSIVE else ())]
    from nstool.sandbox import idmapped

    unknown = False
    for one in mounts:
        if one.type not in NO_IDMAP:
            refused = idmapped.refusal(one.target)
            unknown = unknown or (refused is not None and refused.errno != EINVAL)
            if refused is None or refused.errno != EINVAL:
                continue
        return {"path": path, "fstype": one.type, "point": one.target}
    return None if unknown else False


def idmap_needs_privilege(scene: Scene) -> Answer:
    """Who maps the ids of a mount needs CAP_SYS_ADMIN over the filesystem, not only over the mount."""
    if not _wants_idmap(scene):
        return False
    if scene.step.who == INIT and scene.new_userns:
        return True
    return negated(scene.may("sys_admin"))


def idmapped_already(scene: Scene) -> Answer:
    """A mount can be id-mapped once."""
    path = _source(scene)
    mount = scene.mount_of(path) if path and _wants_idmap(scene) else None
    return {"point": mount.target} if mount is not None and "idmapped" in mount.options else False


def locked_flags(scene: Scene) -> Answer:
    """A flag that is to go is locked: the mount came with it from a more privileged namespace."""
    path = _source(scene) or scene.text("target")
    if scene.step.call == "mount_setattr":
        cleared = {name for bit, name in ATTRIBUTES.items() if scene.integer("attr_clr") & bit}
    elif scene.step.call == "mount" and scene.integer("flags") & uapi.MS_REMOUNT:
        cleared = {name for bit, name in MS_FLAGS.items() if not scene.integer("flags") & bit}
    else:
        return False
    if not path or not (scene.new_userns or scene.initial_userns is False):
        return False
    mount = scene.mount_of(path)
    if mount is None:
        return None
    kept = sorted(cleared & set(mount.options))
    return {"flags": ", ".join(kept), "point": mount.target} if kept else False


# ---- the root ----


def root_is_rootfs(scene: Scene) -> Answer:
    """The caller's root is the initial ramfs, which cannot be pivoted away."""
    mount = next((m for m in reversed(scene.mounts) if m.target == "/"), None)
    return None if mount is None else mount.type == "rootfs"


def _makes_inside(scene: Scene) -> bool:
    if scene.step.who != INIT or not scene.path.startswith("/"):
        return False
    return scene.step.call != "write_file" or bool(scene.integer("flags") & uapi.O_CREAT)


def root_read_only(scene: Scene) -> Answer:
    """The sandbox's root is read-only where the step makes something."""
    if not _makes_inside(scene):
        return False
    view = _view_before(scene)
    if view.locate(scene.path).there:
        return False
    place = view.locate(os.path.dirname(scene.path.rstrip("/")))
    if place.kind == "unknown":
        return None
    if place.attributes & uapi.MOUNT_ATTR_RDONLY:
        return {"path": place.path}
    mount = scene.mount_of(place.host) if place.host else None
    return {"path": place.path} if mount is not None and mount.read_only else False


def root_not_writable(scene: Scene) -> Answer:
    """The directory belongs to somebody else than the sandbox's root, who may not write in it."""
    if not _makes_inside(scene) or upper_not_writable(scene):
        return False
    view = _view_before(scene)
    if view.locate(scene.path).there:
        return False
    place = view.locate(os.path.dirname(scene.path.rstrip("/")))
    person = rights.who(scene)
    if not scene.errno and (isinstance(scene.arg("dirfd"), Fd) or _has_overlay(scene)):
        return None  # before it is made: what is written to an overlay goes to its upper layer
    if not place.host or person is None or place.attributes & uapi.MOUNT_ATTR_IDMAP:
        return None
    if rights.allowed(scene, person, place.host, rights.WRITE | rights.EXECUTE) is not False:
        return False
    return {"path": place.path, "host": place.host, "uid": person.uid}


def _has_overlay(scene: Scene) -> bool:
    return any(step.call == "fsopen" and step.args[0] == "overlay" for step in scene.before)


def upper_not_writable(scene: Scene) -> Answer:
    """The upper layer of an overlay is a directory in which the sandbox's root may not write."""
    fd = scene.arg("dirfd")
    opened = scene.opened_by(fd)
    if not isinstance(fd, Fd) or not fd.name.endswith("upper") or opened is None or opened.call != "open_tree":
        return False
    mapped = any(s.call == "mount_setattr" and s.args[0] == fd and _idmap(s.args[3]) for s in scene.before)
    person = rights.who(scene)
    if mapped or person is None:
        return None
    path = str(opened.args[1])
    if rights.allowed(scene, person, path, rights.WRITE | rights.EXECUTE) is not False:
        return False
    return {"path": path, "uid": person.uid}


def no_mknod(scene: Scene) -> Answer:
    """Device nodes are made with CAP_MKNOD in the first user namespace only."""
    if not scene.by_caller:
        return True
    if scene.initial_userns is False:
        return True
    return negated(scene.may("mknod"))


def device_cgroup(scene: Scene) -> Answer:
    """The device controller of cgroups (version 1) does not let the caller make the node."""
    mount = next((m for m in scene.mounts if m.type == "cgroup" and "devices" in m.super_options), None)
    if mount is None:
        return None
    for line in (scene.read("/proc/self/cgroup") or "").splitlines():
        _, names, path = line.split(":", 2)
        if "devices" in names.split(","):
            text = scene.read(f"{mount.target}{path}/devices.list")
            if text is None:
                return None
            dev = scene.integer("dev")
            wanted = (f"{dev >> 8}:{dev & 0xFF}", f"{dev >> 8}:*", "*:*")
            rules = [line.split() for line in text.splitlines()]
            allowed = any(len(r) == 3 and r[0] in "ac" and r[1] in wanted and "m" in r[2] for r in rules)
            if allowed:  # in a cgroup that allows all but some, the list does not show which
                return False if path == "/" else None
            return {"device": wanted[0]}
    return None
