"""Look up names of users and groups in the root of the sandbox, not of the host. passwd(5), group(5)."""

from __future__ import annotations

import os

from nstool.errors import SpecError
from nstool.spec.model import Spec


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
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.rstrip("\n").split(":")
                if words[0] == name and len(words) > 3 and words[2].isdigit():
                    return words
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist, so {name!r} cannot be looked up: write numbers", place) from None
    raise SpecError(f"{path} has no {name!r}", place)
