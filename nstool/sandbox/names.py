"""Look up names of users and groups in the root of the sandbox, not of the host. passwd(5), group(5)."""

from __future__ import annotations

import os
import stat
from errno import ENOENT

from nstool.errors import KernelError, SpecError
from nstool.spec.model import Spec

_MOST = 16 << 20  # bytes of a passwd or group file


def lookup(spec: Spec) -> Spec:
    """Return the spec with numbers for names in ``user`` and ``groups``. Raises SpecError for an unknown one."""
    root = _root(spec)
    user, _, group = spec.user.partition(":")
    uid, gid = _number(user), _number(group)
    if uid is None:
        row = _row(f"{root}/etc/passwd", user, "user")
        uid, login = int(row[2]), int(row[3])
        gid = login if not group else gid
    if gid is None:
        gid = int(_row(f"{root}/etc/group", group, "user")[2]) if group else uid
    groups = tuple(g if g == "keep" or g.isdigit() else _row(f"{root}/etc/group", g, "groups")[2] for g in spec.groups)
    return spec.replace(user=f"{uid}:{gid}", groups=groups)


def _number(word: str) -> int | None:
    return int(word) if word.isdigit() else None


def _root(spec: Spec) -> str:
    if spec.root.type == "directory":
        return spec.root.path.rstrip("/")
    if spec.root.type == "overlay":
        return next((d for d in spec.root.lower if os.path.exists(f"{d}/etc/passwd")), spec.root.lower[0])
    if spec.root.type == "host":
        return ""
    raise SpecError(
        f"a root of type {spec.root.type} has no passwd file to look {spec.user!r} up in: write numbers", "user"
    )


def _row(path: str, name: str, place: str) -> list[str]:
    for line in _text(path, name, place).splitlines():
        words = line.split(":")
        if words[0] == name and len(words) > 3 and words[2].isdigit():
            return words
    raise SpecError(f"{path} has no {name!r}", place)


def _text(path: str, name: str, place: str) -> str:
    """Return the text of a passwd or group file of a root that may be hostile: a plain file, no symlink on its way."""
    from nstool import syscalls, uapi

    root, _, below = path.rpartition("/etc/")
    directory = os.open(root or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = syscalls.openat2(directory, f"etc/{below}", flags, 0, uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_NO_SYMLINKS)
    except KernelError as error:
        why = "does not exist" if error.errno == ENOENT else f"cannot be opened: {error.strerror}"
        raise SpecError(f"{path} {why}, so {name!r} cannot be looked up: write numbers", place) from None
    finally:
        os.close(directory)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            raise SpecError(f"{path} is no plain file of at most {_MOST} bytes: write numbers for {name!r}", place)
        return file.read(_MOST).decode("utf-8", "replace")
