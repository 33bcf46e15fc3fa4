"""The small pieces that the steps of a mount namespace are made of. mount_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.steps import INIT, Fd, Step

EEXIST = 17
EMPTY = uapi.AT_EMPTY_PATH
RECURSIVE = uapi.AT_RECURSIVE
CLONE_TREE = uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC
BY_FD = uapi.MOVE_MOUNT_F_EMPTY_PATH | uapi.MOVE_MOUNT_T_EMPTY_PATH
# After the pivot "/" is the new root, so nothing outside can be reached; no symlink of a hostile
# root is followed either, so a mount lies where the spec says.
NO_LINKS = uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_NO_MAGICLINKS | uapi.RESOLVE_IN_ROOT
SAFE = uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NODEV


def tree(who: str, path: str, name: str, why: str, recursive: bool = True) -> Step:
    flags = CLONE_TREE | (RECURSIVE if recursive else 0)
    return Step(who, "open_tree", (uapi.AT_FDCWD, path, flags), why, result=name)


def attributes(
    who: str,
    name: str,
    set_: int,
    why: str,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = True,
    userns: str = "",
) -> Step:
    flags = EMPTY | (RECURSIVE if recursive else 0)
    fd: Fd | int = Fd(userns) if userns else -1
    return Step(who, "mount_setattr", (Fd(name), "", flags, set_, clear, propagation, fd), why)


def target(path: str, name: str, why: str, directory: Fd | int = uapi.AT_FDCWD, follow: bool = False) -> Step:
    resolve = uapi.RESOLVE_IN_ROOT if follow else NO_LINKS
    return Step(INIT, "openat2", (directory, path, uapi.O_PATH | uapi.O_CLOEXEC, 0, resolve), why, result=name)


def attach(name: str, target: str, why: str) -> Step:
    return Step(INIT, "move_mount", (Fd(name), "", Fd(target), "", BY_FD), why)


def filesystem(
    fstype: str, name: str, options: dict[str, str], attributes: int, why: str, who: str = INIT
) -> list[Step]:
    """A new filesystem as a detached mount: fsopen, its options, create, fsmount."""
    context = "fs"
    if fstype == "tmpfs" and "size" in options and "nr_inodes" not in options:
        options = {**options, "nr_inodes": str(_inodes(options["size"]))}
    steps = [Step(who, "fsopen", (fstype, uapi.FSOPEN_CLOEXEC), why, result=context)]
    for key, value in options.items():
        kind = uapi.FSCONFIG_SET_STRING if value else uapi.FSCONFIG_SET_FLAG
        args = (Fd(context), kind, key, value or None, 0)
        steps.append(Step(who, "fsconfig", args, f"{key}={value}" if value else key))
    create = (Fd(context), uapi.FSCONFIG_CMD_CREATE, None, None, 0)
    steps.append(Step(who, "fsconfig", create, f"make the {fstype}"))
    mounted = (Fd(context), uapi.FSMOUNT_CLOEXEC, attributes)
    steps.append(Step(who, "fsmount", mounted, "a mount of it, not attached yet", result=name))
    return steps


def _inodes(size: str) -> int:
    # Else the kernel makes it half the pages of the host's memory, which statfs(2) tells. tmpfs(5)
    shift = {"k": 10, "m": 20, "g": 30}.get(size[-1], 0)
    return max(1024, (int(size[:-1] if shift else size) << shift) // 1024)


def parents(path: str) -> list[str]:
    pieces = [p for p in path.split("/") if p]
    return ["/" + "/".join(pieces[:i]) for i in range(1, len(pieces) + 1)]


def make_directories(paths: list[str]) -> list[Step]:
    # No parent is reached over a symlink: one of a hostile root could lead anywhere.
    steps: list[Step] = []
    for path in paths:
        parent, _, name = path.rpartition("/")
        if parent:
            steps.append(target(parent, "parent", "no symlink is followed"))
        directory = Fd("parent") if parent else uapi.AT_FDCWD
        where = (directory, name if parent else path, 0o755)
        steps.append(Step(INIT, "mkdirat", where, "a place to mount on", ignore=EEXIST))
    return steps


def make_file(path: str) -> list[Step]:
    parent, _, name = path.rpartition("/")
    flags = uapi.O_CREAT | uapi.O_EXCL
    made = (Fd("parent"), name, b"", flags, 0o444)
    return [
        *make_directories(parents(path)[:-1]),
        target(parent or "/", "parent", "no symlink is followed"),
        Step(INIT, "write_file", made, "a place to bind a file", ignore=EEXIST),
    ]
