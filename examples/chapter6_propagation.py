"""Chapter 6, MNT, seen from outside: which mounts are reached, who hears of whose, one file under two paths.

Book: 6.2 the mount tree, 6.3 shared subtrees, 6.5 path names. Man pages: mount_namespaces(7), listmount(2),
path_resolution(7), proc_pid_mountinfo(5). The same on the command line: nstool mounts, nstool path.
Run it as root or as anybody: ``.venv/bin/python examples/chapter6_propagation.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from show import as_root_inside, begin, check, fact, in_child, owned, run, step

from nstool import syscalls, uapi
from nstool.inspect.mounts import mounts
from nstool.inspect.paths import from_host, locate
from nstool.inspect.propagation import graph


def own_tmp() -> None:
    """Be root of one's namespaces, with an empty /tmp that nobody hears of."""
    as_root_inside()
    syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE)
    tmpfs("/tmp")


def tmpfs(path: str) -> None:
    os.makedirs(path, exist_ok=True)
    syscalls.mount("tmpfs", path, "tmpfs", 0, "size=64k")


def bind(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    syscalls.mount(source, target, None, uapi.MS_BIND)


def staying(act: Callable[[], None], flags: int, look: Callable[[int], None]) -> None:
    """Start a child in new namespaces that does something and waits; look at it, then let it go."""
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        os.close(go[1])
        act()
        os.write(ready[1], b"r")
        os.read(go[0], 1)

    started = syscalls.clone3(flags | uapi.CLONE_PIDFD, child=child)
    os.close(ready[1])
    os.close(go[0])
    try:
        check(os.read(ready[0], 1) == b"r", "the child has ended")
        look(started.pid)
    finally:
        os.close(go[1])
        ended = syscalls.waitid(uapi.P_PIDFD, started.pidfd)
        os.close(started.pidfd)
        os.close(ready[0])
    check(ended is not None and ended.status == 0, f"the child ended with {ended}")


def covered() -> None:
    step("A mount on a mount: both are in mountinfo, and a path comes to the upper one (6.2)")

    def child() -> None:
        own_tmp()
        tmpfs("/tmp/a/b")
        tmpfs("/tmp/a")
        tmpfs("/tmp/a")
        told = {}
        for number, entry in enumerate(mounts(os.getpid()).mounts):
            if entry.mount.target.startswith("/tmp/"):
                told[f"{entry.mount.target}, mount {number}"] = entry.state
        for name, state in told.items():
            fact(name, state)
        check(list(told.values()) == ["covered", "covered", "reached"], "another one is reached")

    in_child(child, owned(uapi.CLONE_NEWNS))


def who_hears() -> None:
    step("Peers, a slave, and a slave that has peers itself: the groups of two namespaces together (6.3)")

    def child() -> None:
        own_tmp()
        tmpfs("/tmp/a")
        syscalls.mount(None, "/tmp/a", None, uapi.MS_SHARED)
        bind("/tmp/a", "/tmp/peer")
        bind("/tmp/a", "/tmp/both")
        syscalls.mount(None, "/tmp/both", None, uapi.MS_SLAVE)
        syscalls.mount(None, "/tmp/both", None, uapi.MS_SHARED)

        def copy() -> None:
            syscalls.mount(None, "/tmp/a", None, uapi.MS_SLAVE)

        staying(copy, uapi.CLONE_NEWNS, show_groups)

    in_child(child, owned(uapi.CLONE_NEWNS))


def show_groups(pid: int) -> None:
    found = graph([os.getpid(), pid])
    here = found.namespaces[0].namespace
    groups = sorted(found.groups, key=lambda group: group.master)
    names = {group.id: f"group {number}" for number, group in enumerate(groups, 1)}
    for group in groups:
        places = [f"{m.target}{'' if m.namespace == here else ' (copy)'}" for m in group.members]
        fact(f"{names[group.id]}, members", " ".join(places))
        fact(f"{names[group.id]}, slaves", " ".join(f"{m.target} (copy)" for m in group.slaves) or "none")
        fact(f"{names[group.id]}, is a slave of", names.get(group.master, "nobody"))
    first, second = groups
    check(second.master == first.id and len(first.slaves) == 1, "somebody else hears")


def two_names() -> None:
    step("One file, two paths: what a path of another process is here, and where it has a file of ours (6.5)")

    def child() -> None:
        own_tmp()
        os.makedirs("/tmp/data/logs")
        with open("/tmp/data/logs/today", "w", encoding="ascii") as file:
            file.write("x")
        tmpfs("/tmp/elsewhere")
        os.symlink("../mnt/logs", "/tmp/data/link")

        def other() -> None:
            bind("/tmp/data", "/mnt")
            os.chroot("/")
            os.chdir("/mnt")
            tmpfs("/tmp")

        staying(other, uapi.CLONE_NEWNS, show_paths)

    in_child(child, owned(uapi.CLONE_NEWNS))


def show_paths(pid: int) -> None:
    there = locate(pid, "link/today")
    for number, one in enumerate(there.found.steps, 1):
        fact(f"step {number}", f"{one.path}{' is a symlink to ' + one.link if one.link else ''}")
    fact("link/today of the other is", there.found.path)
    fact("here it is", " ".join(seen.path for seen in there.here if not seen.why))
    back = from_host(pid, "/tmp/data/logs/today")
    fact("our file is there", " ".join(seen.path for seen in back.there if not seen.why))
    fact("and not", next(f"{seen.path}: covered" for seen in back.there if "covered" in seen.why))
    hidden = from_host(pid, "/tmp/elsewhere")
    fact("our /tmp/elsewhere is not there", "; ".join(seen.why.partition(" by ")[0] for seen in hidden.there))
    check([seen.path for seen in there.here if not seen.why] == ["/tmp/data/logs/today"], "it is somewhere else")
    check(bool(hidden.why_not), "what is covered is seen")


def main() -> None:
    begin("Chapter 6, MNT: propagation and paths")
    covered()
    who_hears()
    two_names()


if __name__ == "__main__":
    run(main)
