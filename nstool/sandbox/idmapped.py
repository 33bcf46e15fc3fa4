"""Whether a filesystem takes id-mapped mounts: tried, on a copy of the mount that nobody sees. mount_setattr(2)."""

from __future__ import annotations

import os

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.namespaces.user import Maps
from nstool.sandbox import engine
from nstool.spec.model import IdMap

_MAP = (IdMap(0, 0x7FFE0000, 65536),)


def refusal(path: str) -> KernelError | None:
    """Return why the mount at a path takes no map of ids: EINVAL: its filesystem; EPERM: the caller; None: it does."""
    fds: list[int] = []
    try:
        fds.append(engine.userns(Maps(_MAP, _MAP, "launcher")))
        fds.append(syscalls.open_tree(uapi.AT_FDCWD, path, uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC))
        syscalls.mount_setattr(fds[1], "", uapi.AT_EMPTY_PATH, attr_set=uapi.MOUNT_ATTR_IDMAP, userns_fd=fds[0])
    except KernelError as error:
        return error
    finally:
        for fd in fds:
            os.close(fd)
    return None
