"""What the mode bits of a file let init and the command do, worked out from the plan. path_resolution(7)."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.detectors.scene import Scene
from nstool.frozen import Frozen
from nstool.plan.steps import CHILD, LAUNCHER, PAYLOAD

ACL = "system.posix_acl_access"
READ, WRITE, EXECUTE = 4, 2, 1


class Who(Frozen):
    """Ids on the host of a process of the plan. groups: all of them. overrides: CAP_DAC_* for ids that are mapped."""

    uid: int
    gid: int
    groups: frozenset[int]
    overrides: bool


def who(scene: Scene) -> Who | None:
    """Return who makes the step; None where an id has no place in the maps, or they are not known."""
    if scene.step.who in (LAUNCHER, CHILD):
        override = bool(scene.may("dac_override"))
        return Who(os.geteuid(), os.getegid(), frozenset((os.getegid(), *os.getgroups())), override)
    uid, gid, groups, overrides = os.geteuid(), os.getegid(), set(os.getgroups()), bool(scene.may("dac_override"))
    if scene.in_userns:
        overrides = True
    for step in scene.before:
        if step.who not in (scene.step.who, "init"):
            continue
        if step.call == "setresuid" and isinstance(step.args[1], int):
            found = scene.outside("uid_map", step.args[1])
            if found is None:
                return None
            uid = found
        elif step.call == "setresgid" and isinstance(step.args[1], int):
            found = scene.outside("gid_map", step.args[1])
            if found is None:
                return None
            gid = found
        elif step.call == "setgroups" and isinstance(step.args[0], bytes):
            data = step.args[0]
            inside = [int.from_bytes(data[n : n + 4], "little") for n in range(0, len(data), 4)]
            groups = {g for g in (scene.outside("gid_map", n) for n in inside) if g is not None}
        elif step.call == "capset" and step.who == PAYLOAD and isinstance(step.args[0], int):
            overrides = bool(step.args[0] >> uapi.CAPABILITIES["dac_override"] & 1)
    return Who(uid, gid, frozenset((gid, *groups)), overrides)


def allowed(scene: Scene, person: Who, path: str, bits: int, *, idmap: bool = False) -> bool | None:
    """Whether the mode bits of a host's path allow it; None where an ACL or a mapped mount decides.

    idmap: it is reached by an id-mapped mount, whose owners are ids inside.
    """
    try:
        status = os.stat(path)
    except OSError:  # gone, or hidden from the caller
        return None
    uid, gid = _owners(scene, status, idmap)
    if uid is None or gid is None:  # nobody's, which nobody writes: HAS_UNMAPPED_ID in fs/namei.c
        return False if bits & WRITE else None
    if person.overrides and _mapped(scene, uid, gid):
        wanted_x = bits & EXECUTE and not os.path.isdir(path)
        return bool(status.st_mode & 0o111) if wanted_x else True
    shift = _shift(person, uid, gid)
    if shift < 6 and _has_acl(path):
        return None
    return status.st_mode >> shift & bits == bits


def chmod(scene: Scene, person: Who, path: str, bits: int, *, idmap: bool = False) -> str:
    """Return the chmod(1) after which the mode bits would allow it; empty where they are not what refuses."""
    status = os.stat(path)
    uid, gid = _owners(scene, status, idmap)
    if uid is None or gid is None:
        return ""
    letters = "".join(letter for letter, bit in (("r", READ), ("w", WRITE), ("x", EXECUTE)) if bits & bit)
    return f"chmod {_CLASSES[_shift(person, uid, gid)]}+{letters} {path}"


def _owners(scene: Scene, status: os.stat_result, idmap: bool) -> tuple[int | None, int | None]:
    if idmap:
        return scene.outside("uid_map", status.st_uid), scene.outside("gid_map", status.st_gid)
    return status.st_uid, status.st_gid


_CLASSES = {6: "u", 3: "g", 0: "o"}


def _shift(person: Who, uid: int, gid: int) -> int:
    """Return where the bits of the class that counts for a person lie. inode(7)."""
    return 6 if person.uid == uid else 3 if gid in person.groups else 0


def _has_acl(path: str) -> bool:
    try:
        return bool(os.getxattr(path, ACL))
    except OSError:  # none, or a filesystem without
        return False


def _mapped(scene: Scene, uid: int, gid: int) -> bool:
    if not scene.in_userns:
        return True
    lines = (scene.maps("uid_map") or (), scene.maps("gid_map") or ())
    return all(any(o <= n < o + c for _, o, c in some) for some, n in zip(lines, (uid, gid)))


def closed_directory(scene: Scene, path: str) -> tuple[str, str] | None:
    """Return (inside, host) of the first directory on the way to a path inside that may not be searched."""
    person = who(scene)
    if person is None:
        return None
    above = [part for part in os.path.dirname(path).split("/") if part]
    for here in ("/" + "/".join(above[:count]) for count in range(len(above) + 1)):
        place = scene.view.locate(here)
        if place.attributes & uapi.MOUNT_ATTR_IDMAP or not place.host:
            continue
        if allowed(scene, person, place.host, EXECUTE) is False:
            return here, place.host
    return None
