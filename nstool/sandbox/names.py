"""Look up names of users and groups in the root of the sandbox, not of the host. passwd(5), group(5)."""

from __future__ import annotations

import os
import stat
from errno import ENOENT

from nstool.errors import KernelError, SpecError
from nstool.sandbox.host import check_root
from nstool.spec.model import Spec

_MOST = 16 << 20  # bytes of a passwd or group file


def lookup(spec: Spec) -> Spec:
    """Return the spec with numbers for names in ``user`` and ``groups``. Raises SpecError for an unknown one."""
    check_root(spec)
    user, _, group = spec.user.partition(":")
    uid, gid = _number(user), _number(group)
    if uid is None:
        row = _row(spec, "passwd", user, "user")
        uid, login = int(row[2]), int(row[3])
        gid = login if not group else gid
    if gid is None:
        gid = int(_row(spec, "group", group, "user")[2]) if group else uid
    groups = tuple(g if g == "keep" or g.isdecimal() else _row(spec, "group", g, "groups")[2] for g in spec.groups)
    return spec.replace(user=f"{uid}:{gid}", groups=groups)


def _is_id(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 10


def _number(word: str) -> int | None:
    return int(word) if word.isdecimal() else None


def _row(spec: Spec, file: str, name: str, place: str) -> list[str]:
    """Return the line of a name in etc/passwd or etc/group of the root, in words."""
    where, text = (
        _tarball(spec, file, name, place) if spec.root.type == "tarball" else _directory(spec, file, name, place)
    )
    for line in text.decode("utf-8", "replace").splitlines():
        words = line.split(":")
        if words[0] == name and len(words) > 3:
            if all(_is_id(word) for word in (words[2:4] if file == "passwd" else words[2:3])):
                return words
            raise SpecError(f"{where}: the line of {name!r} has no id where one belongs, {file}(5)", place)
    raise SpecError(f"{where} has no {name!r}", place)


def _tarball(spec: Spec, file: str, name: str, place: str) -> tuple[str, bytes]:
    from nstool.sandbox import tarball

    where = f"etc/{file} in {spec.root.path}"
    text = tarball.content(spec.root.path, f"etc/{file}", spec.root.size, _MOST)
    if text is None:
        raise SpecError(f"{where} does not exist, so {name!r} cannot be looked up: write numbers", place)
    return where, text


def _directory(spec: Spec, file: str, name: str, place: str) -> tuple[str, bytes]:
    """Return path and content in a root that may be hostile: a plain file, no symlink on its way."""
    from nstool import syscalls, uapi

    root = _root(spec, file)
    path = f"{root}/etc/{file}"
    directory = os.open(root or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = syscalls.openat2(directory, f"etc/{file}", flags, 0, uapi.RESOLVE_IN_ROOT | uapi.RESOLVE_NO_SYMLINKS)
    except KernelError as error:
        why = "does not exist" if error.errno == ENOENT else f"cannot be opened: {error.strerror}"
        raise SpecError(f"{path} {why}, so {name!r} cannot be looked up: write numbers", place) from None
    finally:
        os.close(directory)
    with open(fd, "rb") as stream:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST:
            raise SpecError(f"{path} is no plain file of at most {_MOST} bytes: write numbers for {name!r}", place)
        return path, stream.read(_MOST)


def _root(spec: Spec, file: str) -> str:
    root = spec.root
    if root.type == "directory":
        return root.path.rstrip("/")
    if root.type == "overlay":  # the topmost layer that has it is the one that is seen
        layers = [*([root.upper] if root.upper else []), *root.lower]
        return next((d for d in layers if os.path.lexists(f"{d}/etc/{file}")), root.lower[0])
    if root.type in ("system", "host"):
        return ""
    raise SpecError(f"a root of type {root.type} has no {file} file to look {spec.user!r} up in: write numbers", "user")
