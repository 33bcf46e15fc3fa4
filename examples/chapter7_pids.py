"""Chapter 7, PID: one process, a number in each namespace from its own up; what is seen from where.

Book: 7.1 process ids, 7.2 the structure of PID namespaces, 7.3 ids of processes, threads, groups and sessions,
7.4 translating them. Man pages: pid_namespaces(7), proc_pid_status(5), ioctl_nsfs(2), credentials(7).
Run it as root or as anybody: ``.venv/bin/python examples/chapter7_pids.py``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from show import as_root_inside, begin, check, fact, in_child, limits, namespaces, owned, run, step

from nstool import Spec, launch, uapi
from nstool.inspect import nsfile
from nstool.inspect.pids import ROADS, numbers, translate


def nested(levels: int, act: Callable[[], None]) -> None:
    """Run act so many pid namespaces further in; each is process 1 there."""
    if levels == 0:
        act()
        return

    flags = uapi.CLONE_NEWPID if os.getpid() == 1 else owned(uapi.CLONE_NEWPID)  # inside we have all capabilities

    def child() -> None:
        if flags & uapi.CLONE_NEWUSER:
            as_root_inside()
        nested(levels - 1, act)

    in_child(child, flags)


def first() -> None:
    step("The first process of a new pid namespace is process 1 inside, and another number outside (7.1, 7.2)")
    told, tell = os.pipe()

    def child() -> None:
        fact("getpid() inside", os.getpid())
        fact("getppid() inside", f"{os.getppid()}  the parent has no number there")
        check((os.getpid(), os.getppid()) == (1, 0), "it is not process 1, or sees its parent")
        os.write(tell, os.readlink("/proc/self").encode())  # /proc is still that of the namespace above

    in_child(child, owned(uapi.CLONE_NEWPID))
    fact("in the /proc of the namespace above", "another number" if os.read(told, 20) != b"1" else "1")
    for fd in (told, tell):
        os.close(fd)


def three_levels() -> None:
    step("Three levels deep: a number at each level, in /proc/PID/status and by nstool.inspect.pids (7.2, 7.3)")
    ready, tell = os.pipe()
    end, stop = os.pipe()

    def deepest() -> None:
        os.setsid()  # a session and process group of its own
        here = threading.Event()
        thread = threading.Thread(target=lambda: (here.set(), os.read(end, 1)))
        thread.start()
        here.wait()
        os.write(tell, b"x")
        thread.join()

    outer = os.fork()
    if outer == 0:
        os.close(stop)  # ours is the only one: when we close it, they end
        try:
            nested(3, deepest)
        finally:
            os._exit(0)
    os.close(tell)
    check(os.read(ready, 1) == b"x", "no process got so deep")
    pid = outer
    for _ in range(3):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            pid = int(file.read())
    look(pid)
    both_ways(pid)
    beside(pid)
    for fd in (stop, end, ready):
        os.close(fd)
    check(os.waitpid(outer, 0)[1] == 0, "a level ended badly")


def look(pid: int) -> None:
    with open(f"/proc/{pid}/status") as file:
        rows = {line.split()[0]: line.split()[1:] for line in file if line.startswith("NS")}
    found = numbers(pid)
    for depth, level in enumerate(found.levels):
        group = f"group {level.pgid or 'none here'}, session {level.sid or 'none here'}"
        who = "as we see it" if depth == 0 else f"{level.pid}, {group}"
        fact(f"level {depth}", who)
    fact("NSpid has as many numbers", len(rows["NSpid:"]))
    check([str(level.pid) for level in found.levels] == rows["NSpid:"], "NSpid says otherwise")
    check([str(level.sid) for level in found.levels] == rows["NSsid:"], "NSsid says otherwise")
    check(found.levels[-1].namespace == int(namespaces(pid)["pid"][5:-1]), "another namespace")
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task") if name != str(pid)]
    innermost = numbers(threads[0]).levels[-1]
    fact("its thread, inside", f"tid {innermost.tid} of process {innermost.pid}")


def both_ways(pid: int) -> None:
    step("A number of one namespace in the terms of another, both ways, and by both roads (7.4, ioctl_nsfs(2))")
    with nsfile.named(str(pid), "pid", "") as inner, nsfile.own("pid") as own:
        up = translate(1, inner, own)
        fact("1 in there is, here", "the process that we started" if up.tid == pid else up.tid)
        down = translate(pid, own, inner)
        fact("and that is, in there", down.tid)
        check((up.tid, down.tid) == (pid, 1), "the two ways do not agree")
        for road in ROADS[1:]:  # the ioctls are of Linux 6.11
            other = translate(1, inner, own, road)
            check(other.tid == up.tid, f"by {road} it is {other.tid}")
        fact("by reading NSpid of all tasks", "the same")


def beside(pid: int) -> None:
    step("Who is not in a namespace, nor below it, has no number there (7.2)")
    with nsfile.named(str(pid), "pid", "") as inner, nsfile.own("pid") as own:
        found = translate(os.getpid(), own, inner)
    fact("we, in there", f"no number: it {found.reason.partition(', and ')[2].partition('] ')[2]}")
    check(found.tid == 0, "there is one")


def with_nstool() -> None:
    step("With nstool: the command of a sandbox, outside and inside (`nstool pid NAME`)")
    with launch(Spec(command=("sleep", "60"), limits=limits())) as sandbox:
        levels = numbers(sandbox.pid).levels
        fact("levels", len(levels))
        fact("its number inside", levels[-1].pid)
        fact("its init is inside", "1" if levels[-1].init == sandbox.init_pid else "another")
        check(levels[0].pid == sandbox.pid and levels[-1].pid != 1, "init is not process 1")


def main() -> None:
    begin("Chapter 7, PID")
    first()
    three_levels()
    with_nstool()


if __name__ == "__main__":
    run(main)
