"""Chapter 8, IPC: objects of System V and POSIX, one set a namespace; listed, removed and limited from outside.

Book: 8.1 System V IPC, 8.2 POSIX message queues, 8.3 the structure of IPC namespaces and their interface files.
Man pages: ipc_namespaces(7), sysvipc(7), mq_overview(7), shmget(2), semget(2), msgget(2), proc_sys_kernel(5).
The same on the command line: nstool ipc, nstool ipc rm, nstool ipc limit.
Run it as root or as anybody: ``.venv/bin/python examples/chapter8_ipc.py``.
"""

from __future__ import annotations

import os

from show import as_root_inside, begin, check, fact, in_child, namespaces, owned, read, refused, run, step

from nstool import syscalls, uapi
from nstool.inspect.ipc import ipc
from nstool.sandbox.ipc import limit, read_object, remove

ENOSPC = 28
MAKE = uapi.IPC_CREAT | 0o600


def objects() -> None:
    """Make one object of each kind; the POSIX queue as a file of an mqueue file system."""
    syscalls.shmget(uapi.IPC_PRIVATE, 65536, MAKE)
    syscalls.semget(0x1234, 3, MAKE)
    syscalls.msgget(0x1234, MAKE)
    syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE)
    syscalls.mount("mqueue", "/tmp", "mqueue")
    os.close(os.open("/tmp/jobs", os.O_CREAT | os.O_RDWR, 0o600))


def names(pid: int) -> list[str]:
    """Return the objects in the ipc namespace of a process, as nstool ipc rm takes them."""
    found = ipc(pid)
    return [
        *(f"shm:{one.id}" for one in found.segments),
        *(f"sem:{one.id}" for one in found.semaphores),
        *(f"msg:{one.id}" for one in found.queues),
        *(f"mq:{one.name}" for one in found.posix_queues or ()),
    ]


def one_set_a_namespace() -> None:
    step("A new namespace is empty; what is made in it is seen in it alone (8.1, 8.2, ipc_namespaces(7))")

    def child() -> None:
        as_root_inside()
        fact("ipc namespace of the child", namespaces()["ipc"])
        fact("objects there", names(os.getpid()) or "none")
        objects()
        fact("after making some", " ".join(names(os.getpid())))
        fact("semaphores of key 0x1234", f"id {syscalls.semget(0x1234, 3)}")

    in_child(child, owned(uapi.CLONE_NEWIPC | uapi.CLONE_NEWNS))
    keys = read("/proc/sysvipc/sem").split()
    fact("semaphores of key 0x1234 outside", "there" if str(0x1234) in keys else "none")


def from_outside() -> None:
    step("Listed and removed from outside, by a process that joins the namespace (8.3, setns(2))")
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        os.close(go[1])
        as_root_inside()
        objects()
        os.write(ready[1], b"r")
        os.read(go[0], 1)

    started = syscalls.clone3(owned(uapi.CLONE_NEWIPC | uapi.CLONE_NEWNS) | uapi.CLONE_PIDFD, child=child)
    os.close(ready[1])
    os.close(go[0])
    check(os.read(ready[0], 1) == b"r", "the child has ended")
    segment = ipc(started.pid).segments[0]
    fact("the segment", f"{segment.size} bytes, made by {'the child' if segment.creator == started.pid else 'another'}")
    fact("its owner is you, and inside", segment.inside.uid)
    check(segment.owner.uid == os.geteuid(), f"the owner is {segment.owner}")
    wanted = [read_object(text) for text in names(started.pid)]
    fact("removed", " ".join(map(str, wanted)))
    check(remove(wanted, started.pid) == (), "something was not removed")
    fact("left", names(started.pid) or "none")
    (_, why), *_ = remove([read_object("sem:7")], started.pid)
    fact("sem:7", why.cause)
    change = limit({"shmmni": "1"}, started.pid)[0]
    fact("shmmni inside", change.after)
    fact("shmmni outside", "another" if read("/proc/sys/kernel/shmmni") != "1" else "the same")
    os.close(go[1])
    ended = syscalls.waitid(uapi.P_PIDFD, started.pidfd)
    os.close(started.pidfd)
    os.close(ready[0])
    check(ended is not None and ended.status == 0, f"the child ended with {ended}")


def limits() -> None:
    step("A limit holds for what is made later, and for its namespace alone (8.3, proc_sys_kernel(5))")

    def child() -> None:
        as_root_inside()
        limit({"msgmni": "2"})
        for _ in range(2):
            syscalls.msgget(uapi.IPC_PRIVATE, MAKE)
        fact("a third queue", refused(lambda: syscalls.msgget(uapi.IPC_PRIVATE, MAKE), ENOSPC))

    in_child(child, owned(uapi.CLONE_NEWIPC))


def main() -> None:
    begin("Chapter 8, IPC")
    one_set_a_namespace()
    from_outside()
    limits()


if __name__ == "__main__":
    run(main)
