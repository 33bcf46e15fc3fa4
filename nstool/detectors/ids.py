"""Why ids are refused: uid_map and gid_map, newuidmap, setresuid, setgroups, capabilities, securebits."""

from __future__ import annotations

import os
import stat

from nstool import uapi
from nstool.detectors.scene import Scene, argv_map, parse_map
from nstool.plan.steps import LAUNCHER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.detectors.scene import Answer

ST_NOSUID = 2  # statvfs(3)


def _is_map(scene: Scene) -> str:
    name = scene.text("file")
    return name if name in ("uid_map", "gid_map") else ""


def _lines(scene: Scene) -> tuple[tuple[int, int, int], ...]:
    return parse_map(scene.text("data"))


def _capability(scene: Scene) -> str:
    return "setuid" if scene.text("file") == "uid_map" else "setgid"


# ---- uid_map, gid_map, setgroups ----


def map_written_twice(scene: Scene) -> Answer:
    """An earlier step writes the same map: a map can be written once."""
    name = _is_map(scene)
    if not name:
        return False
    return any(s.call == "write_proc" and s.args[0] == name for s in scene.before) or any(
        s.call == "spawn" and isinstance(s.args[0], tuple) and s.args[0][0].endswith(f"new{name[:3]}map")
        for s in scene.before
    )


def map_needs_privilege(scene: Scene) -> Answer:
    """Without CAP_SETUID outside, only one's own id can be mapped, alone."""
    name = _is_map(scene)
    if not name:
        return False
    may = scene.may(_capability(scene))
    if may is not False:
        return None if may is None else False
    own = scene.ids("Uid" if name == "uid_map" else "Gid")[1]
    lines = _lines(scene)
    if len(lines) == 1 and lines[0][1:] == (own, 1):
        return False
    return {"file": name, "own": own, "capability": f"CAP_{_capability(scene).upper()}"}


def setgroups_not_denied(scene: Scene) -> Answer:
    """Without CAP_SETGID outside, gid_map is taken only once setgroups says deny."""
    if scene.text("file") != "gid_map":
        return False
    if any(s.call == "write_proc" and s.args[0] == "setgroups" for s in scene.before):
        return False
    may = scene.may("setgid")
    return None if may is None else not may


def setgroups_too_late(scene: Scene) -> Answer:
    """setgroups can no longer be denied once gid_map has been written."""
    if scene.text("file") != "setgroups":
        return False
    return any(s.call == "write_proc" and s.args[0] == "gid_map" for s in scene.before)


def map_of_root(scene: Scene) -> Answer:
    """Since Linux 5.12 host id 0 is mapped only by who has CAP_SETFCAP."""
    if _is_map(scene) != "uid_map" or not any(o <= 0 < o + n for _, o, n in _lines(scene)):
        return False
    may = scene.may("setfcap")
    return None if may is None else not may


def map_outside_own(scene: Scene) -> Answer:
    """An id outside is not mapped in the caller's own user namespace."""
    name = _is_map(scene)
    if not name:
        return False
    own = parse_map(scene.read(f"/proc/self/{name}") or "")
    if not own:
        return None
    for _, outside, count in _lines(scene):
        if not any(i <= outside and outside + count <= i + n for i, _, n in own):
            return {"file": name, "first": outside, "last": outside + count - 1}
    return False


def map_malformed(scene: Scene) -> Answer:
    """The map is empty, has overlapping ranges, ids over 32 bits or too many lines."""
    name = _is_map(scene)
    if not name:
        return False
    from nstool.errors import SpecError
    from nstool.security.idmap import check_map
    from nstool.spec.model import IdMap

    try:
        check_map([IdMap(*line) for line in _lines(scene)], name)
    except SpecError as error:
        return {"problem": error.message}
    lines = len(_lines(scene))
    if lines > 5 and (0, 0) < scene.release < (4, 15):
        return {"problem": f"{name} has {lines} ranges, and this kernel takes 5"}
    return False


def hidepid(scene: Scene) -> Answer:
    """/proc of the caller is mounted with hidepid, so that the new process's files are not to be seen."""
    mount = next((m for m in reversed(scene.mounts) if m.target == "/proc"), None)
    if mount is None:
        return None if scene.mounts else False
    for option in (*mount.options, *mount.super_options):
        if option.startswith("hidepid=") and option not in ("hidepid=0", "hidepid=off"):
            return {"option": option}
    return False


def not_dumpable(scene: Scene) -> Answer:
    """The caller is not dumpable, so root owns its files in /proc."""
    try:
        owner = os.stat(scene.root + "/proc/self/mem").st_uid
    except OSError:  # no /proc
        return None
    own = scene.ids("Uid")
    if not own or own[1] == 0:
        return False
    return owner != own[1]


def child_gone(scene: Scene) -> Answer:
    """The new process had ended by then; whoever ended it (the OOM killer, a signal) left no word."""
    return None


# ---- newuidmap ----


def _helper(scene: Scene) -> tuple[str, tuple[str, ...]]:
    argv = scene.arg("argv")
    return (argv[0], argv) if isinstance(argv, tuple) and argv else ("", ())


def helper_missing(scene: Scene) -> Answer:
    """The helper program is not there."""
    path, _ = _helper(scene)
    return {"helper": path} if path and not os.path.exists(path) else False


def has_privilege_bits(path: str) -> bool:
    """Whether a program is set-user-ID root or has file capabilities. capabilities(7)."""
    mode = os.stat(path)
    if mode.st_mode & stat.S_ISUID and mode.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:  # no such attribute, or a filesystem without any
        return False


def helper_not_setuid(scene: Scene) -> Answer:
    """The helper is neither set-user-ID root nor has file capabilities."""
    path, _ = _helper(scene)
    if not path or not os.path.exists(path) or scene.may("setuid"):
        return False
    return False if has_privilege_bits(path) else {"helper": path}


def helper_nosuid(scene: Scene) -> Answer:
    """The helper lies on a mount with nosuid, which takes its privileges away."""
    path, _ = _helper(scene)
    if not path or not os.path.exists(path) or scene.may("setuid"):
        return False
    return {"helper": path} if os.statvfs(path).f_flag & ST_NOSUID else False


def helper_no_new_privs(scene: Scene) -> Answer:
    """The caller has no_new_privs, so that no program gains privileges."""
    return scene.status("NoNewPrivs") == "1"


def ids_not_subordinate(scene: Scene) -> Answer:
    """A range is not the caller's by /etc/subuid or /etc/subgid."""
    path, argv = _helper(scene)
    kind = "uid" if path.endswith("newuidmap") else "gid" if path.endswith("newgidmap") else ""
    if not kind:
        return False
    uids, gids = scene.ids("Uid"), scene.ids("Gid")
    file = f"/etc/sub{kind}"
    text = scene.read(file)
    if not uids or text is None:
        return {"file": file, "range": "any", "user": uids[0] if uids else "?"} if uids else None
    from nstool.security.idmap import refused_by_newidmap
    from nstool.spec.model import IdMap

    user = user_name(scene, uids[0])
    lines = [IdMap(*line) for line in argv_map(argv)]
    own = uids[0] if kind == "uid" else gids[0]
    refused = refused_by_newidmap(lines, uids[0], user, text, own)
    if not refused:
        return False
    first = refused[0]
    return {"file": file, "range": f"{first.outside}-{first.outside + first.count - 1}", "user": user}


def user_name(scene: Scene, uid: int) -> str:
    """Return the login name of a uid, or the number where it has no account. passwd(5)."""
    for line in (scene.read("/etc/passwd") or "").splitlines():
        words = line.split(":")
        if len(words) > 2 and words[2] == str(uid):
            return words[0]
    return str(uid)


def helper_killed(scene: Scene) -> Answer:
    """The helper was ended by a signal."""
    return {"signal": scene.detail & 0x7F} if scene.detail & 0x7F else False


def user_has_no_account(scene: Scene) -> Answer:
    """newuidmap looks the caller up in the passwd database and stops where there is no such user."""
    uids = scene.ids("Uid")
    if not uids:
        return None
    import pwd

    try:
        pwd.getpwuid(uids[0])
    except KeyError:
        return {"uid": uids[0]}
    return False


# ---- ids of the process ----


def is_mapped(number: int, text: str) -> bool:
    """Whether an id inside is in a map, as /proc/PID/uid_map has it."""
    return any(first <= number < first + count for first, _, count in parse_map(text))


def _wanted_ids(scene: Scene) -> tuple[str, tuple[int, ...]]:
    if scene.step.call == "setgroups":
        data = scene.arg("list")
        packed = data if isinstance(data, bytes) else b""
        return "gid_map", tuple(int.from_bytes(packed[n : n + 4], "little") for n in range(0, len(packed), 4))
    if scene.step.call == "fchownat":
        return "uid_map", (scene.integer("uid"),)
    kind = "uid_map" if scene.step.call == "setresuid" else "gid_map"
    return kind, tuple(value for value in scene.step.args if isinstance(value, int))


def id_not_mapped(scene: Scene) -> Answer:
    """The id has no place in the map of the user namespace."""
    kind, wanted = _wanted_ids(scene)
    pairs = [(kind, number) for number in wanted]
    if scene.step.call == "fchownat":
        pairs.append(("gid_map", scene.integer("gid")))
    for name, number in pairs:
        if scene.new_userns and scene.maps(name) is not None:
            unmapped = scene.outside(name, number) is None
        elif scene.new_userns:
            unmapped = True  # no map is written at all
        else:
            text = scene.of_joined_userns(name) if scene.joined_userns else scene.read(f"/proc/self/{name}")
            unmapped = text is not None and not is_mapped(number, text)
        if unmapped:
            return {"id": number, "map": name}
    return False


def setgroups_denied(scene: Scene) -> Answer:
    """setgroups(2) is denied in the user namespace, by the plan or already in the caller's."""
    if any(s.call == "write_proc" and s.args[0] == "setgroups" for s in scene.before):
        return True
    return (scene.read("/proc/self/setgroups") or "").strip() == "deny"


def joined_setgroups_denied(scene: Scene) -> Answer:
    """setgroups(2) is denied in the user namespace that is joined."""
    if not scene.joined_userns:
        return False
    text = scene.of_joined_userns("setgroups")
    return None if text is None else text.strip() == "deny"


def ids_need_capability(scene: Scene) -> Answer:
    """Without a user namespace of its own, the ids of a process are changed by CAP_SETUID and CAP_SETGID only."""
    if scene.in_userns:
        return False
    name = "setuid" if scene.step.call == "setresuid" else "setgid"
    may = scene.may(name)
    if may is not False:
        return None if may is None else False
    kind, wanted = _wanted_ids(scene)
    own = scene.ids("Uid" if kind == "uid_map" else "Gid")
    if scene.step.call != "setgroups" and set(wanted) <= set(own[:3]):
        return False
    return {"capability": f"CAP_{name.upper()}"}


def fsid_not_mapped(scene: Scene) -> Answer:
    """Who makes the file has an id that the user namespace, or the filesystem, has no number for."""
    if scene.step.who == LAUNCHER or not scene.new_userns:
        return False
    became = any(s.call == "setresuid" and s.who == scene.step.who for s in scene.before)
    if became:
        return None
    return scene.outside("uid_map", 0) is None or scene.outside("gid_map", 0) is None or None


# ---- capabilities ----


def not_permitted(scene: Scene) -> Answer:
    """A wanted capability is not in the caller's permitted set, and there is no new user namespace to give it."""
    if scene.in_userns:
        return False
    have = scene.status("CapPrm")
    if not have:
        return None
    wanted = scene.integer("effective") | scene.integer("permitted")
    if scene.step.call == "prctl" and scene.integer("option") == uapi.PR_CAP_AMBIENT:
        wanted = 1 << scene.integer("arg3") if scene.integer("arg2") == uapi.PR_CAP_AMBIENT_RAISE else 0
    missing = wanted & ~int(have, 16)
    names = [f"CAP_{name.upper()}" for name, number in uapi.CAPABILITIES.items() if missing >> number & 1]
    return {"capabilities": ", ".join(names)} if names else False


def not_in_bounding(scene: Scene) -> Answer:
    """A wanted inheritable capability is outside the bounding set of the caller."""
    have = scene.status("CapBnd")
    if not have or scene.in_userns:
        return False if scene.in_userns else None
    missing = scene.integer("inheritable") & ~int(have, 16) & ~int(scene.status("CapInh") or "0", 16)
    names = [f"CAP_{name.upper()}" for name, number in uapi.CAPABILITIES.items() if missing >> number & 1]
    return {"capabilities": ", ".join(names)} if names else False


def no_setpcap(scene: Scene) -> Answer:
    """Without CAP_SETPCAP neither the bounding set nor the securebits can be changed."""
    if scene.in_userns:
        return False
    if scene.step.call == "prctl" and scene.integer("option") != uapi.PR_SET_SECUREBITS:
        return False
    may = scene.may("setpcap")
    return None if may is None else not may


def securebits_locked(scene: Scene) -> Answer:
    """The caller's securebits are locked in another state."""
    if scene.step.call != "prctl" or scene.integer("option") != uapi.PR_SET_SECUREBITS or scene.in_userns:
        return False
    have = _own_securebits()
    if have is None:
        return None
    locked = (have >> 1 & 0x55) | (have & 0xAA)  # each lock stands above its bit
    return {"have": f"{have:#x}"} if (have ^ scene.integer("arg2")) & locked else False


def _own_securebits() -> int | None:
    try:
        from nstool import syscalls
    except ImportError:  # not built
        return None
    return int(syscalls.prctl(uapi.PR_GET_SECUREBITS))
