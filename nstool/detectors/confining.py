"""Why Landlock, AppArmor or SELinux is not to be had, or refuses the command."""

from __future__ import annotations

import os
import re
from errno import ENOSYS, EOPNOTSUPP

from nstool import uapi
from nstool.detectors import executing, files, rights
from nstool.detectors.scene import Scene, is_below
from nstool.plan.steps import PAYLOAD, Fd
from nstool.security import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.detectors.scene import Answer

APPARMOR, SELINUX = "attr/apparmor/exec", "thread-self/attr/exec"
LAYERS = 16  # LANDLOCK_MAX_NUM_LAYERS


# ---- Landlock ----


def _abi() -> int:
    from nstool import syscalls

    return syscalls.landlock_abi()


def landlock_absent(scene: Scene) -> Answer:
    """The kernel has no Landlock."""
    return _abi() == -ENOSYS


def landlock_off(scene: Scene) -> Answer:
    """The kernel has Landlock, and was booted without it."""
    return _abi() == -EOPNOTSUPP


def landlock_too_old(scene: Scene) -> Answer:
    """The plan, made on another host, has bits that this kernel's ABI does not know."""
    abi = _abi()
    if abi <= 0:
        return False
    if scene.step.call == "landlock_restrict_self":
        return {"abi": abi} if scene.integer("flags") and abi < landlock.LOG else False
    fs, net, scoped = (scene.integer(name) for name in ("handled_access_fs", "handled_access_net", "scoped"))
    known = uapi.LANDLOCK_ACCESS_NET_BIND_TCP | uapi.LANDLOCK_ACCESS_NET_CONNECT_TCP if abi >= landlock.NET else 0
    scopes = sum(landlock.SCOPES.values()) if abi >= landlock.SCOPE else 0
    beyond = fs & ~landlock.handled(abi) or net & ~known or scoped & ~scopes
    return {"abi": abi} if beyond else False


def landlock_path_missing(scene: Scene) -> Answer:
    """A path that a rule is for is not inside."""
    if scene.step.who != PAYLOAD:
        return False
    place = scene.view.locate(scene.text("path"))
    if place.kind not in ("absent", "loop"):
        return None if place.kind == "unknown" and not landlock_magic_link(scene) else False
    return {"path": scene.text("path"), "missing": place.missing or "an endless loop of symlinks"}


_MAGIC = re.compile(r"/proc/[^/]+/(task/[^/]+/)?(root|cwd|exe|fd/[^/]+|ns/[^/]+|map_files/[^/]+)(/|$)")


def landlock_magic_link(scene: Scene) -> Answer:
    """The path has a link of /proc/PID in it, which leads to what a process has, not to a path."""
    if scene.step.who != PAYLOAD:
        return False
    path = scene.text("path")
    return {"path": path} if _MAGIC.match(os.path.normpath(path)) else False


def landlock_path_closed(scene: Scene) -> Answer:
    """A directory above a path that a rule is for cannot be searched by the command."""
    if scene.step.who != PAYLOAD:
        return False
    closed = rights.closed_directory(scene, scene.text("path"))
    person = rights.who(scene)
    return {"directory": closed[0], "uid": person.uid} if closed and person else False


def landlock_right_of_directories(scene: Scene) -> Answer:
    """A rule for a file has rights that only a directory has."""
    path = scene.opened_path(scene.arg("parent_fd"))
    beyond = scene.integer("allowed_access") & ~landlock.mask(landlock.OF_FILES)
    if not path or not beyond:
        return False
    place = scene.view.locate(path)
    if place.kind == "unknown":
        return None
    names = ", ".join(name for name, bit in landlock.FS.items() if beyond & bit)
    return {"path": path, "rights": names} if place.kind in ("file", "other") else False


def landlock_layers(scene: Scene) -> Answer:
    """The process is in as many domains as there can be: the only meaning of E2BIG. landlock_restrict_self(2)."""
    return {"layers": LAYERS}


def landlock_without_privilege(scene: Scene) -> Answer:
    """A process without no_new_privs and CAP_SYS_ADMIN may not restrict itself."""
    return files.filter_without_privilege(scene)


def landlock_no_execute(scene: Scene) -> Answer:
    """No rule lets the command, its interpreter or its loader be executed."""
    handled = 0
    for step in scene.before:
        if step.call == "landlock_create_ruleset" and step.who == PAYLOAD and isinstance(step.args[0], int):
            handled |= step.args[0]
    if not handled & uapi.LANDLOCK_ACCESS_FS_EXECUTE:
        return False
    needed = uapi.LANDLOCK_ACCESS_FS_EXECUTE | uapi.LANDLOCK_ACCESS_FS_READ_FILE
    for name in executing.executed(scene):
        place = scene.view.locate(name)
        if place.kind == "file" and needed & ~_allowed(scene, place.path):
            shown = "" if name == place.path else f", which is {place.path} inside"
            return {"file": name, "real": place.path, "as": shown}
    return False


def _allowed(scene: Scene, path: str) -> int:
    """Return the rights that the rules of the plan add up to at a path inside."""
    found, opened = 0, ""
    for step in scene.before:
        if step.who != PAYLOAD:
            continue
        if step.call == "openat2":
            opened = scene.view.locate(str(step.args[1])).path
        elif step.call == "landlock_add_rule" and isinstance(step.args[3], Fd) and is_below(path, opened):
            found |= step.args[2] if isinstance(step.args[2], int) else 0
    return found


# ---- labels ----


def apparmor_profile_missing(scene: Scene) -> Answer:
    """No profile of this name is loaded: the kernel finds none for the label that is written."""
    if not scene.text("path").endswith(APPARMOR) or scene.detail != 1:
        return False
    return {"profile": scene.text("data").partition(" ")[2]}


def apparmor_no_attribute(scene: Scene) -> Answer:
    """/proc has no attributes of AppArmor's."""
    return scene.text("path").endswith(APPARMOR) and scene.detail == 0 and not scene.exists("/proc/self/attr/apparmor")


def selinux_context_unknown(scene: Scene) -> Answer:
    """The policy has no such context."""
    if not scene.text("path").endswith(SELINUX) or not scene.exists("/sys/fs/selinux/enforce"):
        return False
    return {"context": scene.text("data")}


def selinux_absent(scene: Scene) -> Answer:
    """No module takes a context there."""
    return scene.text("path").endswith(SELINUX) and not scene.exists("/sys/fs/selinux/enforce")


def _asked(scene: Scene, end: str) -> str:
    """Return the label that an earlier step of the payload asks for, empty if none does."""
    for step in scene.before:
        if step.call == "write_file" and step.who == PAYLOAD and str(step.args[1]).endswith(end):
            return str(step.args[2])
    return ""


def apparmor_confined_already(scene: Scene) -> Answer:
    """Who is confined may, under no_new_privs, only stack another profile on its own."""
    wanted = _asked(scene, APPARMOR)
    own = (scene.read("/proc/self/attr/apparmor/current") or "").strip("\0\n")
    nnp = any(s.call == "prctl" and s.args[0] == uapi.PR_SET_NO_NEW_PRIVS and s.who == PAYLOAD for s in scene.before)
    if not wanted or wanted.startswith("stack ") or not nnp or not own or own.startswith("unconfined"):
        return False
    profile = wanted.partition(" ")[2]
    return False if own.partition(" (")[0] in profile.split("//&") else {"own": own, "profile": profile}


def selinux_transition(scene: Scene) -> Answer:
    """The policy decides whether the command may enter the context: its audit log says so, nothing else."""
    return None if _asked(scene, SELINUX) else False
