"""What the examples of the chapters share: numbered steps, facts of the kernel, children, and checks that stop them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from errno import EPERM
from itertools import count

from nstool import Limits, NotSupported, uapi
from nstool.errors import KernelError
from nstool.kinds import KINDS
from nstool.syscalls import clone3, waitid

UID, GID = os.geteuid(), os.getegid()
ROOT = UID == 0
_numbers = count(1)


def begin(chapter: str) -> None:
    """Say which chapter this is, and as whom it runs."""
    who = "root" if ROOT else f"uid {UID}, an ordinary user: each new namespace comes with a user namespace"
    print(f"{chapter}\nas {who}")


def step(text: str) -> None:
    """Begin a numbered step."""
    print(f"\n{next(_numbers)}. {text}", flush=True)


def fact(name: str, value: object) -> None:
    """Print what the kernel says."""
    print(f"   {name:34} {value}", flush=True)


def check(true: bool, what: str) -> None:
    """Stop the example unless what it has just said is so."""
    if not true:
        sys.exit(f"surprise: {what}")


def namespaces(pid: int | str = "self") -> dict[str, str]:
    """Return type → "type:[inode]" as /proc/PID/ns has it. namespaces(7)."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS if os.path.lexists(f"/proc/{pid}/ns/{kind}")}


def read(path: str) -> str:
    """Return the text of a file, with single spaces."""
    with open(path, encoding="utf-8") as file:
        return " ".join(file.read().split())


def owned(flags: int) -> int:
    """Return the flags with a user namespace added for an ordinary user, who may make no other alone."""
    return flags if ROOT else flags | uapi.CLONE_NEWUSER


def in_child(act: Callable[[], None], flags: int = 0) -> None:
    """Run act in a child in new namespaces and wait for it. clone(2), waitid(2).

    What a process does to its namespaces cannot be undone; so it is a child's that ends.
    """
    sys.stdout.flush()
    child = clone3(flags | uapi.CLONE_PIDFD, child=act)
    ended = waitid(uapi.P_PIDFD, child.pidfd)
    os.close(child.pidfd)
    check(ended is not None and ended.status == 0, f"the child ended with {ended}")


def as_root_inside() -> None:
    """Map this process's own ids to 0 of its new user namespace, as an ordinary user; root has made none.

    Without a map the kernel refuses to make files (EOVERFLOW): they would have no owner. user_namespaces(7).
    """
    if ROOT:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {UID} 1\n"), ("gid_map", f"0 {GID} 1\n")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def refused(act: Callable[[], object], errno: int = EPERM) -> str:
    """Return the error of a call that the kernel must refuse with this errno."""
    try:
        act()
    except OSError as error:
        check(error.errno == errno, f"refused by {error}")
        return str(error).splitlines()[0]
    sys.exit("surprise: not refused")


def limits() -> Limits:
    """The limits of cgroups need a cgroup that the caller may make: root has one, others not everywhere."""
    return Limits(memory=64 << 20, pids=32) if ROOT else Limits(memory=0, pids=0, cpu=0)


PROGRAMS = ("usr", "bin", "sbin", "lib", "lib32", "lib64")  # directories of the host that its programs need


def is_directory(path: str) -> bool:
    """Return whether a path is a directory and no symlink to one: /bin is usr/bin where /usr is merged."""
    return os.path.isdir(path) and not os.path.islink(path)


def system(root: str) -> tuple[str, ...]:
    """Make in a directory what a root needs to use the host's programs; the host directories to bind into it."""
    for name in PROGRAMS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.mkdir(f"{root}/{name}")
    for name in ("proc", "dev", "tmp", "etc"):
        os.mkdir(f"{root}/{name}")
    return tuple(f"/{name}" for name in PROGRAMS if is_directory(f"/{name}"))


def run(main: Callable[[], None]) -> None:
    """Run an example; an error of nstool is a message and a status, as on the command line."""
    try:
        main()
    except (KernelError, NotSupported) as error:
        sys.exit(f"surprise: {error}")
    print("\nnothing is left behind")
