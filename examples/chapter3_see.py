"""Chapter 3 and 4, seen: every namespace of the host is found, also those in which no process is.

Book: 3.2 the files of /proc/PID/ns, 3.3 what keeps a namespace, 4.2 user namespaces own the others.
Man pages: namespaces(7), "Namespace lifetime"; ioctl_nsfs(2); lsns(8).
Run it as root or as anybody: ``.venv/bin/python examples/chapter3_see.py``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from show import ROOT, begin, check, fact, in_child, owned, run, step

from nstool import syscalls, uapi
from nstool.inspect.namespaces import Namespace, census
from nstool.inspect.words import pins_in_words


@contextmanager
def staying(act: Callable[[], None], flags: int) -> Iterator[int]:
    """A child in new namespaces that has called act and stays to the end of the block; its pid. clone(2)."""
    ready, tell = os.pipe()
    end, ending = os.pipe()

    def child() -> None:
        os.close(ending)
        act()
        os.write(tell, b"x")
        os.read(end, 1)

    cloned = syscalls.clone3(flags | uapi.CLONE_PIDFD, child=child)
    os.close(tell)
    check(os.read(ready, 1) == b"x", "the child has ended")
    try:
        yield cloned.pid
    finally:
        os.close(ending)
        syscalls.waitid(uapi.P_PIDFD, cloned.pidfd)
        for fd in (ready, end, cloned.pidfd):
            os.close(fd)


def find(inode: int) -> Namespace | None:
    """Return the network namespace as the census tells of it."""
    return next((ns for ns in census().namespaces if (ns.type, ns.inode) == ("net", inode)), None)


def gone(before: Namespace) -> bool:
    """Whether it is no more; its inode may be another's by now, its id (Linux 6.18) is never given again."""
    ns = find(before.inode)
    return ns is None or ns.id != before.id


def tell(what: str, inode: int) -> Namespace:
    """Say what keeps a network namespace."""
    ns = find(inode)
    if ns is None:
        raise SystemExit(f"surprise: {what} is not found")
    fact(what, f"{ns.name}, processes: {len(ns.pids)}, kept by {pins_in_words(ns) or 'nothing else'}")
    return ns


def with_a_process() -> None:
    step("A network namespace with a process: /proc/PID/ns tells of it, and lsns would too (3.2)")
    with staying(lambda: None, owned(uapi.CLONE_NEWNET)) as pid:
        ns = tell("a process", os.stat(f"/proc/{pid}/ns/net").st_ino)
        check(ns.pids == (pid,), "another process is in it")
        fact("its oldest process, its owner", f"{ns.oldest} ({ns.comm}), user:[{ns.owner}]")
        check(ns.owner == os.stat(f"/proc/{pid}/ns/user").st_ino, "its owner is not the child's user namespace")


def held_by_an_fd() -> None:
    step("The process ends, an fd stays: no link in any /proc/PID/ns, but one in /proc/PID/fd (3.3, namespaces(7))")
    with staying(lambda: None, owned(uapi.CLONE_NEWNET)) as pid:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    inode = os.fstat(fd).st_ino
    ns = tell("an fd only", inode)
    check([(pin.how, pin.pid, pin.fd) for pin in ns.pins] == [("fd", os.getpid(), fd)], "something else keeps it")
    os.close(fd)
    check(gone(ns), "the kernel keeps it")
    fact("the fd is closed", "gone")


def hidden_in_another_mount_namespace(path: str) -> None:
    step("A bind mount of its file keeps it, in a mount namespace that is not ours: here nothing is to be seen (3.3)")

    def bind() -> None:
        syscalls.mount("/proc/self/ns/net", path, None, uapi.MS_BIND, None)

    def hide() -> None:
        syscalls.mount("none", "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None)
        in_child(bind, uapi.CLONE_NEWNET)  # which ends, and leaves the mount

    with staying(hide, owned(uapi.CLONE_NEWNS)) as pid:
        fact("the file, seen from here", f"{os.stat(path).st_size} bytes, an ordinary file")
        inode = os.stat(f"/proc/{pid}/root{path}").st_ino
        ns = tell("a hidden bind mount", inode)
        check([(pin.how, pin.pid, pin.path) for pin in ns.pins] == [("mount", pid, path)], "something else keeps it")
        check(ns.pids == (), "a process is in it")
    check(gone(ns), "the kernel keeps it")


def the_owner_without_a_process() -> None:
    step("User namespaces own the others: one in which nobody is, is told of by what it owns (4.2, ioctl_nsfs(2))")
    with staying(lambda: None, uapi.CLONE_NEWUSER | uapi.CLONE_NEWNET) as pid:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    rows = {(ns.type, ns.inode): ns for ns in census().namespaces}
    net = rows["net", os.fstat(fd).st_ino]
    user = rows["user", net.owner or 0]
    fact("the network namespace's owner", f"{user.name}, processes: {len(user.pids)}, kept by {pins_in_words(user)}")
    fact("who made that, its parent", f"uid {user.owner_uid}, user:[{user.parent}]")
    check((user.pids, user.owner_uid) == ((), os.geteuid()), "somebody else made it, or is in it")
    check(user.parent == os.stat("/proc/self/ns/user").st_ino, "its parent is not ours")
    os.close(fd)


def what_is_not_seen() -> None:
    step("What may not be looked into is told, not guessed")
    notes = census().notes
    for note in notes:
        fact("note", note)
    check(ROOT or bool(notes), "an ordinary user may look into everything")


def main() -> None:
    begin("Chapter 3 and 4: see every namespace")
    with_a_process()
    held_by_an_fd()
    with tempfile.NamedTemporaryFile(prefix="nstool-") as file:
        hidden_in_another_mount_namespace(file.name)
    the_owner_without_a_process()
    what_is_not_seen()


if __name__ == "__main__":
    run(main)
