"""Keep namespaces alive without a process: bind mounts of their files. namespaces(7), mount(2)."""

from __future__ import annotations

import os
from stat import S_ISREG

from nstool import syscalls, uapi
from nstool.errors import KernelError, NotSupported, SpecError
from nstool.kinds import KINDS
from nstool.sandbox import host, rundir
from nstool.sandbox.join import check_types, different, pid_of


def pin(target: str, directory: str, types: tuple[str, ...] = ()) -> list[str]:
    """Bind the namespaces of a pid or of a sandbox's init into a new directory. Returns sentences.

    types: the wanted ones; empty for all that differ from the caller's, but pid, in which nothing can be
    made once its init has ended, and mnt, whose file can be bound only into a mount namespace older than
    itself that does not propagate into it: these two only when asked for. Linux 6.18 numbers mount namespaces a
    processor at a time and compares the numbers, so that of two from different processors it may take either for older.
    All or none: what was bound is let go when one cannot be.
    """
    check_types(types)
    pid = pid_of(target) or rundir.find_running(target, ", and it is no pid").init_pid
    if not host.effective_capabilities() >> uapi.CAP_SYS_ADMIN & 1:
        raise NotSupported(
            "pinning a namespace",
            "mount(2) needs CAP_SYS_ADMIN, which you do not have",
            "pin as root, or keep a process in it",
        )
    wanted = types or tuple(name for name in KINDS if name in different(pid) and name not in ("mnt", "pid"))
    if not wanted:
        raise SpecError(f"process {pid} is in no namespace of its own, so there is nothing to keep", target)
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        raise SpecError("exists already: pin makes a new directory", directory) from None
    except FileNotFoundError:
        raise SpecError("its parent directory does not exist", directory or "DIRECTORY") from None
    except OSError as error:
        raise SpecError(f"cannot be made: {error.strerror}", directory) from None
    done: list[str] = []
    try:
        for name in wanted:
            path = os.path.join(directory, name)
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))
            source = f"/proc/{pid}/ns/{name}"
            inode = os.readlink(source)
            syscalls.mount(source, path, None, uapi.MS_BIND, None)
            done.append(f"{inode} is kept by {path}")
    except KernelError as error:
        _release(directory)
        if error.errno == 22 and "mnt" in wanted:
            raise NotSupported(
                f"pinning mnt of {target} in {directory}",
                "a mnt namespace can be bound only into an older one, and not where the mount would propagate into it",
                "pin it in a private mount: mount --bind DIR DIR; mount --make-private DIR",
            ) from None
        raise
    except BaseException:
        _release(directory)
        raise
    return done


def unpin(directory: str) -> list[str]:
    """Let the namespaces pinned in a directory go and remove it. Returns sentences.

    Raises SpecError, with nothing done, when it holds nothing or anything else.
    """
    if not os.path.isdir(directory):
        raise SpecError("is no directory", directory or "DIRECTORY")
    names = sorted(os.listdir(directory))
    if not names:
        raise SpecError("holds no pinned namespace: not touched", directory)
    for name in names:
        # A namespace's file has no size, nor has that which it was bound to, left alone by a reboot.
        status = os.lstat(os.path.join(directory, name))
        if name not in KINDS or not S_ISREG(status.st_mode) or status.st_size:
            raise SpecError(f"holds {name!r}, which pin has not made: not touched", directory)
    return _release(directory)


def _release(directory: str) -> list[str]:
    done = []
    for name in KINDS:
        path = os.path.join(directory, name)
        if not os.path.lexists(path):
            continue
        try:
            syscalls.umount2(path, uapi.MNT_DETACH | uapi.UMOUNT_NOFOLLOW)
            done.append(f"{path}: let go")
        except KernelError as error:
            if error.errno != 22:  # EINVAL: nothing was bound there
                raise
        os.unlink(path)
    os.rmdir(directory)
    return done
