"""Without a pid namespace of its own: whatever a command starts ends with its sandbox, all the same."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from nstool.sandbox import engine
from nstool.sandbox.launch import Sandbox, launch
from nstool.spec.model import Spec
from tests.support import kernel, plans, processes
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
SECONDS = 60.0
# A daemon, forked twice and in a session of its own, says its pid; then the command itself sleeps.
DAEMON = 'setsid sh -c "sleep 987 >&- & echo \\$!"; exec sleep 986 >&-'

LOOP = "perl -e 'while (1) { fork and exit }' >&- &"


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """The image of init is made once a process, and stays."""
    engine.image()


def sharing(name: str, script: str = DAEMON, **changes: Any) -> Spec:
    """A sandbox with the host's pids, and no limits."""
    spec = Spec(command=("sh", "-c", script), name=name, terminal="never", limits=plans.NO_CGROUPS)
    return spec.replace(**{"namespaces": spec.namespaces.replace(pid="host"), "proc": "bind", **changes})


def no_cgroups() -> None:
    """Be where no cgroups are: nothing but the parent tells whose a process is."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if os.geteuid() == 0:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.umount("/sys/fs/cgroup", kernel.MNT_DETACH)


def alone(place: Workplace, act: Callable[[], Any]) -> tuple[Any, str]:
    """Do something where no cgroups are; what it returned, and what it left behind."""
    no_cgroups()
    return plans.left_by(place, act)


def start(spec: Spec) -> tuple[Sandbox, list[str]]:
    """Launch it, and read the words that it says until it closes its output, or says an empty line."""
    reader, writer = os.pipe()
    sandbox = launch(spec, stdout=writer)
    os.close(writer)
    said = b""
    while not said.endswith(b"\n\n") and select.select([reader], [], [], SECONDS)[0]:
        block = os.read(reader, 1 << 16)
        if not block:
            break
        said += block
    os.close(reader)
    return sandbox, said.decode().split()


def ends(pidfds: list[int]) -> bool:
    """Whether all these processes have ended, or do so in time."""
    return all(select.select([pidfd], [], [], SECONDS)[0] for pidfd in pidfds)


def finish(sandbox: Sandbox) -> None:
    os.kill(sandbox.pid, signal.SIGTERM)


ENDS: dict[str, Callable[[Sandbox], None]] = {"ends": finish, "kill": Sandbox.kill, "close": Sandbox.close}


def ended_by(spec: Spec, end: Callable[[Sandbox], None]) -> tuple[bool, int | None, bool]:
    """Whether the daemon was a child of init, how the sandbox ended, and whether the daemon is dead at once."""
    no_cgroups()
    sandbox, (pid,) = start(spec)
    assert sandbox.cgroups == {}
    daemon = processes.read(int(pid))
    assert daemon is not None
    pidfd = os.pidfd_open(daemon.pid)
    try:
        end(sandbox)
        exited = sandbox.wait()
        return daemon.ppid == sandbox.init_pid, exited.signal, bool(select.select([pidfd], [], [], 0)[0])
    finally:
        os.close(pidfd)


@pytest.mark.needs("root", "nsexec")
@pytest.mark.parametrize("die_with_parent", [True, False])
@pytest.mark.parametrize("way", ENDS)
def test_daemon_ends_with_the_sandbox(in_child: InChild, name: str, way: str, die_with_parent: bool) -> None:
    """When the end is told, it is dead."""
    number = signal.SIGTERM if way == "ends" else signal.SIGKILL
    spec = sharing(name, die_with_parent=die_with_parent)
    assert in_child(ended_by, spec, ENDS[way]) == (True, number, True)


@pytest.mark.needs("userns", "nsexec")
@pytest.mark.parametrize("way", ENDS)
def test_daemon_of_an_ordinary_user_ends_with_the_sandbox(as_user: InChild, name: str, way: str) -> None:
    """Init needs no privilege for it."""
    number = signal.SIGTERM if way == "ends" else signal.SIGKILL
    assert as_user(ended_by, sharing(name), ENDS[way]) == (True, number, True)


@pytest.mark.needs("root", "nsexec")
@pytest.mark.parametrize("proc", ["bind", "none"])
def test_daemon_ends_whatever_proc_is_inside(in_child: InChild, name: str, proc: str) -> None:
    """Init has the list of its children from before its root was changed."""
    assert in_child(ended_by, sharing(name, proc=proc), Sandbox.kill) == (True, signal.SIGKILL, True)


@pytest.mark.needs("root", "nsexec")
@pytest.mark.orphans
@pytest.mark.parametrize("die_with_parent", [True, False])
def test_daemon_of_a_killed_launcher(in_child: InChild, workplace: Workplace, name: str, die_with_parent: bool) -> None:
    """With die_with_parent it ends at once, without when the command does; no other nstool command is needed."""

    def act() -> tuple[bool, bool]:
        reader, writer = os.pipe()
        launcher = os.fork()
        if launcher == 0:
            sandbox, (pid,) = start(sharing(name, die_with_parent=die_with_parent))
            os.write(writer, f"{sandbox.pid} {pid} {sandbox.init_pid}\n".encode())
            signal.pause()
        command, daemon, init = map(int, os.read(reader, 99).split())
        os.close(reader)
        os.close(writer)
        pidfds = [os.pidfd_open(pid) for pid in (command, daemon, init)]
        os.kill(launcher, signal.SIGKILL)
        os.waitpid(launcher, 0)
        if not die_with_parent:
            assert not select.select(pidfds, [], [], 0.2)[0]
            os.kill(command, signal.SIGTERM)
        try:
            return ends(pidfds), [one.name for one in plans.cleaned(name)] == [name]
        finally:
            for pidfd in pidfds:
                os.close(pidfd)

    assert in_child(alone, workplace, act) == ((True, True), "")


@pytest.mark.needs("root", "nsexec")
@pytest.mark.parametrize(
    "script",
    [
        f"{LOOP} {LOOP} echo; echo; exec sleep 986 >&-",
        f"{LOOP.replace('fork', 'select undef, undef, undef, .01; fork')} echo; echo; exec sleep 986 >&-",
        "setsid sh -c \"for n in $(seq 700 | tr '\\n' ' '); do sleep 987 >&- & done\"; echo; echo; exec sleep 986 >&-",
    ],
    ids=["fork loop", "slow fork loop", "700 daemons"],
)
def test_many_and_ever_new_processes_are_ended(in_child: InChild, workplace: Workplace, name: str, script: str) -> None:
    """Processes that fork and end in a loop, so that nobody can list them; and more than one list holds."""

    def act() -> int | None:
        sandbox, _ = start(sharing(name, script))
        sandbox.kill()
        return sandbox.wait().signal

    assert in_child(alone, workplace, act) == (signal.SIGKILL, "")


@pytest.mark.needs("root", "nsexec")
def test_only_descendants_are_ended(in_child: InChild, name: str) -> None:
    """Neither a neighbour with the same ids, nor what another command in the sandbox has started."""

    def act() -> list[bool]:
        no_cgroups()
        neighbour = os.fork()
        if neighbour == 0:
            signal.pause()
        sandbox, _ = start(sharing(name, user="0:0", namespaces=Spec().namespaces.replace(pid="host", user="host")))
        sandbox.exec("sh", "-c", "sleep 985 >&- 2>&- & echo").wait()
        known = (neighbour, sandbox.init_pid)
        left = [p for p in processes.descendants(os.getpid()) if p.ppid == os.getpid() and p.pid not in known]
        sandbox.close()
        pids = [neighbour, *(process.pid for process in left)]
        alive = [process is not None and process.state != "Z" for process in map(processes.read, pids)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return alive

    assert in_child(act) == [True, True]


@pytest.mark.needs("root")
def test_without_init_the_cgroup_ends_the_daemon(in_child: InChild, name: str) -> None:
    """There is no subreaper then, so it ends when the sandbox is undone."""

    def act() -> tuple[int | None, bool]:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        sandbox, (pid,) = start(sharing(name, init=False))
        pidfd = os.pidfd_open(int(pid))
        try:
            sandbox.kill()
            return sandbox.wait().signal, ends([pidfd])
        finally:
            os.close(pidfd)
            plans.reap()

    assert in_child(act) == (signal.SIGKILL, True)
