"""A sandbox's user namespace is of a host id that the sandbox alone has: what is made in it does not count for root."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.plan.steps import Step
from nstool.sandbox.launch import Sandbox, launch, prepare
from nstool.service.attested import processes_of
from nstool.spec.model import IdMap, Limits, Spec
from tests.support import plans, processes, serving
from tests.support.services import DEADLINE, NSTOOL

InChild = Callable[..., Any]
pytestmark = pytest.mark.needs("native", "nsexec", "root", "timens", "cgroup_memory", "cgroup_pids")
NSEXEC = str(Path(sys.prefix) / "bin/nsexec")
FIRST = 0x6FFF0000  # of the host ids that compiled plans have, or that are leased
_libc = ctypes.CDLL(None, use_errno=True)


def owner(pid: int | str) -> int:
    """The host uid that owns a process's user namespace."""
    with open(f"/proc/{pid}/ns/user") as file:
        return syscalls.ns_get_owner_uid(file.fileno())


def owner_of(one: Sandbox) -> int:
    """The same of a sandbox whose command is sleeping."""
    processes.wait_exec(one.pid, "sleep")
    return owner(one.pid)


def sleeping(name: str, **changes: Any) -> Spec:
    return plans.default(name).replace(command=("sleep", "60"), proc_subset="pid", **changes)


# ---- who owns it ----


@pytest.mark.vm
def test_of_a_sandbox_it_is_its_own_first_id(name: str) -> None:
    """Each of two has another, also where the plan was made once."""
    with launch(sleeping(name)) as one:
        assert owner_of(one) == one.lease.uid_base >= FIRST
        prepared = prepare(sleeping(f"{name}b"))
        with prepared.launch() as other:
            assert owner_of(other) == other.lease.uid_base not in (one.lease.uid_base, 0)


def test_of_a_compiled_plan_too(name: str, tmp_path: Path) -> None:
    """nsexec makes it from the plan."""
    plan = tmp_path / "plan"
    words = ("--", "sh", "-c", "echo; read line")
    subprocess.run([NSTOOL, "compile", "-o", plan, "--name", name, *words], check=True)
    command = [NSEXEC, str(plan)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        (init,) = processes_of(process.pid)
        found = owner(init)
        process.stdin.close()
    assert found >= FIRST
    assert process.returncode == 1  # of read


def test_with_maps_of_ones_own_it_is_root(name: str) -> None:
    """Who has the mapped ids on the host would have all rights in there."""
    line = (IdMap(0, 300000, 2000),)
    with launch(sleeping(name, uid_map=line, gid_map=line)) as one:
        assert owner_of(one) == 0


def test_a_launcher_without_rights_over_others_stays_the_owner(in_child: InChild, name: str) -> None:
    """Over the sandbox it has them as its owner alone: it attests it, looks at it, and ends it."""

    def act() -> tuple[int, int]:
        known = syscalls.capget()
        less = known.effective & ~(1 << uapi.CAPABILITIES["sys_ptrace"])
        syscalls.capset(less, less, 0)
        with launch(sleeping(name)) as one:
            return owner_of(one), one.lease.uid_base

    found, leased = in_child(act)
    assert (found, leased >= FIRST) == (0, True)


def test_of_an_ordinary_user_it_is_the_user(as_user: InChild, name: str) -> None:
    """As whoever makes one without privilege."""
    spec = sleeping(name, limits=Limits(memory=0, pids=0, cpu=0))

    def act() -> tuple[int, int]:
        with launch(spec) as one:
            return owner_of(one), os.getuid()

    found, own = as_user(act)
    assert found == own != 0


def test_of_a_service_it_is_the_templates_own_id(name: str, tmp_path: Path) -> None:
    """Of the template, and of its sandboxes, which the template has made as its root."""
    spec = serving.write(tmp_path / "s.toml", 'listen = ["tcp:127.0.0.1:0"]\nready = 2', "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        found = one.until(lambda s: s["parked"] == 2, "ready")
        template = found["generations"][0]["pid"]
        with closing(socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE)):
            one.until(lambda s: s["live"] == 1, "one has a connection")
            inits = processes_of(template)
            owners = {owner(pid) for pid in inits}
        line = Path(f"/proc/{template}/uid_map").read_text().splitlines()[0].split()
        assert len(inits) >= 2
        assert owners == {owner(template)} == {int(line[1])}
        assert int(line[1]) >= FIRST


# ---- the launcher is what it was ----


def state() -> tuple[object, ...]:
    """What a change of ids changes of a thread, and of the process."""
    told = ctypes.c_int()
    _libc.prctl(2, ctypes.byref(told))  # PR_GET_PDEATHSIG
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    words = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "SigBlk")
    return (
        *(line for line in lines if line.startswith(words)),
        *(_libc.prctl(3), told.value),  # PR_GET_DUMPABLE
    )


def changed(uids: tuple[int, int, int], dumpable: int, ambient: bool) -> None:
    """Have these ids with all capabilities, all but one of them effective, and a parent-death signal."""
    known = syscalls.capget()
    _libc.prctl(8, 1)  # PR_SET_KEEPCAPS
    syscalls.setresuid(*uids)
    inheritable = known.permitted if ambient else 0
    syscalls.capset(known.permitted & ~(1 << uapi.CAPABILITIES["sys_boot"]), known.permitted, inheritable)
    if ambient:
        assert _libc.prctl(47, 2, uapi.CAPABILITIES["chown"], 0, 0) == 0  # PR_CAP_AMBIENT_RAISE
    _libc.prctl(4, dumpable)  # PR_SET_DUMPABLE
    _libc.prctl(1, int(signal.SIGUSR1))  # PR_SET_PDEATHSIG


@pytest.mark.vm
@pytest.mark.parametrize(
    ("uids", "dumpable", "ambient"),
    [((0, 0, 0), 1, False), ((0, 0, 0), 0, True), ((1000, 0, 0), 1, False), ((0, 0, 1000), 1, True)],
)
def test_the_launcher_is_as_before(
    in_child: InChild, name: str, uids: tuple[int, int, int], dumpable: int, ambient: bool
) -> None:
    """Ids, capabilities, the dumpable flag and the parent-death signal are what they were, also after a failure."""

    def act() -> tuple[object, object, object, int]:
        changed(uids, dumpable, ambient)
        before, spec = state(), sleeping(name, limits=plans.NO_CGROUPS)
        with launch(spec) as one:
            found, during = owner_of(one), state()
        refused = plans.changed(lambda plan: plan.replace(steps=tuple(map(with_no_pid, plan.steps))))
        with refused, pytest.raises(OSError, match="clone3"):
            launch(spec)
        return before, during, state(), found

    before, during, after, found = in_child(act)
    assert before == during == after
    assert found >= FIRST


def with_no_pid(step: Step) -> Step:
    """clone3 with a pid that no kernel has."""
    if step.call != "clone3" or not step.args[3]:
        return step
    return step.replace(args=(*step.args[:2], 1 << 22, step.args[3]))


def test_other_threads_are_never_somebody_else(in_child: InChild, name: str) -> None:
    """While many threads launch, another one and its files in /proc are root's; the process stays dumpable."""

    def act() -> tuple[set[tuple[object, ...]], tuple[object, ...], tuple[object, ...], list[int]]:
        before = state()
        seen: set[tuple[object, ...]] = set()
        over, statuses = threading.Event(), list[int]()

        def look() -> None:
            while not over.is_set():
                seen.add((os.getresuid(), os.stat(f"/proc/self/task/{threading.get_native_id()}").st_uid))

        def start(number: int) -> None:
            for turn in range(6):
                with launch(sleeping(f"{name}n{number}x{turn}").replace(command=("true",))) as one:
                    statuses.append(one.wait().status)

        looker = threading.Thread(target=look)
        looker.start()
        threads = [threading.Thread(target=start, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        looker.join()
        return seen, before, state(), statuses

    seen, before, after, statuses = in_child(act, timeout=60)
    assert seen == {((0, 0, 0), 0)}
    assert before == after
    assert statuses == [0] * 24


TOGETHER = """
import ctypes, sys, threading
from nstool import Limits, Spec, launch
spec = Spec(command=("true",), terminal="never", limits=Limits(memory=0, pids=0, cpu=0))
def start():
    with launch(spec) as one:
        print(one.wait().status)
start()
threads = [threading.Thread(target=start) for _ in range(3)]
for one in threads:
    one.start()
for one in threads:
    one.join()
print("dumpable", ctypes.CDLL(None).prctl(3))
"""


@pytest.mark.needs("strace")
def test_launches_at_once_leave_the_dumpable_flag(run_dir: Path) -> None:
    """None takes for the flag what another has made of it for a moment, which strace makes long."""
    slowly = ("strace", "-f", "-qq", "-o", "/dev/null", "--inject=setresuid:delay_exit=50000")
    command = [*slowly, sys.executable, "-c", TOGETHER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE * 4)
    assert (done.stdout.split(), done.stderr) == (["0"] * 4 + ["dumpable", "1"], "")


# ---- what is used up ----

HOLD = """
import ctypes
libc = ctypes.CDLL(None)
number = 0
while libc.inotify_init1(0) >= 0:
    number += 1
print(number, flush=True)
input()
"""


@contextmanager
def taken(name: str) -> Iterator[int]:
    """For the time of a block one sandbox has all instances of inotify that the kernel gives it: how many."""
    command = [NSTOOL, "run", "--name", name, "--ucount", "inotify_instances=unlimited", "--", "python3", "-c", HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.write(b"\n")
            process.stdin.close()
            assert process.wait(DEADLINE) == 0


def test_one_sandbox_leaves_inotify_to_root_and_to_others(name: str) -> None:
    """Also one that has all that a user may have of the host."""
    most = int(Path("/proc/sys/user/max_inotify_instances").read_text())
    with taken(f"{name}a") as first:
        fd = _libc.inotify_init1(0)
        assert fd >= 0, os.strerror(ctypes.get_errno())
        os.close(fd)
        with taken(f"{name}b") as second:
            assert first == second == most
