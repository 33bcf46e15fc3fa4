"""Cgroups of this host: the planned steps, made for real, hold a real process; seen from outside."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nstool.errors import NotSupported
from nstool.plan import cgroups as plan
from nstool.plan.cgroups import UNIFIED, CgroupSteps, Layout
from nstool.plan.lease import Lease
from nstool.plan.steps import Step
from nstool.sandbox import cgroups, journal, leases, rundir
from nstool.spec.model import Limits
from tests.support import kernel, plans, probes
from tests.support.child import left_by_dead

NONE = Limits(memory=0, pids=0, cpu=0)
MIB = 1 << 20

pytestmark = pytest.mark.needs("root")


def make(step: Step) -> int:
    """Make one launcher step of cgroups here, and return the fd that it opens."""
    if step.call == "mkdirat":
        os.mkdir(str(step.args[1]), int(step.args[2]))  # type: ignore[arg-type]
    elif step.call == "write_file":
        cgroups._write(str(step.args[1]), step.args[2].decode())  # type: ignore[union-attr]
    else:
        assert step.call == "openat2"
        return os.open(str(step.args[1]), int(step.args[2]))  # type: ignore[arg-type]
    return -1


class Box:
    """The cgroups of one sandbox, with processes in it."""

    def __init__(self, name: str, limits: Limits, layout: Layout) -> None:
        self.steps: CgroupSteps = plan.steps(limits, Lease(name, cgroup=leases.cgroup_name(name)), layout)
        self.cgroups = self.steps.cgroups
        self.children: list[int] = []
        self.fds: dict[str, int] = {}
        for step in self.steps.launcher:
            fd = make(step)
            if fd >= 0:
                self.fds[step.result] = fd

    def start(self, func: Callable[[], object]) -> int:
        """Start a process in the cgroups, by the init steps; a unified one is entered by its path."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.enter()
                func()
                code = 0
            finally:
                os._exit(code)
        self.children.append(pid)
        return pid

    def enter(self) -> None:
        if self.steps.result:
            (Path(self.cgroups[UNIFIED]) / "cgroup.procs").write_text("0")
        for step in self.steps.init:
            os.write(self.fds[step.args[0].name], step.args[1])  # type: ignore[union-attr, arg-type]

    def status(self, pid: int) -> int:
        """Wait for a process: exit status, or minus the signal."""
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def close(self) -> None:
        for fd in self.fds.values():
            os.close(fd)
        for step in reversed(self.steps.undo):
            journal.undo_step(step)
        for pid in self.children:
            os.waitpid(pid, 0)


@pytest.fixture
def box(name: str) -> Iterator[Callable[..., Box]]:
    boxes: list[Box] = []

    def open_box(limits: Limits, layout: Layout | None = None) -> Box:
        boxes.append(Box(f"{name}{len(boxes) or ''}", limits, layout or cgroups.layout()))
        return boxes[-1]

    yield open_box
    for each in boxes:
        each.close()
        assert not [path for path in each.cgroups.values() if os.path.exists(path)]


def version1_only() -> Layout:
    return cgroups.layout().replace(unified_mount="", unified_base="")


# --------------------------------------------------------------------------------------- facts


@pytest.mark.parametrize("name", ["memory", "pids", "cpu", "cpuset", "io"])
def test_layout_finds_a_controller_where_it_is_mounted(name: str) -> None:
    """Each where the mount table has it, whichever version."""
    found = cgroups.layout().controllers[name]
    mount = (
        probes.controller_root("blkio") or probes.controller_root("io")
        if name == "io"
        else probes.controller_root(name)
    )
    assert found.mount == mount
    assert bool(found.version) == bool(mount)


# -------------------------------------------------------------------------------------- limits


@pytest.mark.needs("cgroup_memory")
def test_a_memory_hog_is_killed_at_the_limit(box: Callable[..., Box]) -> None:
    """By the kernel, without pushing anything into swap; usage tells of it and of the peak."""
    sandbox = box(NONE.replace(memory=32 * MIB))
    pid = sandbox.start(lambda: bytearray(256 * MIB).count(1))
    assert sandbox.status(pid) == -signal.SIGKILL
    used = cgroups.usage(sandbox.cgroups)
    assert used.oom_kills == 1
    assert used.memory_peak
    assert 16 * MIB < used.memory_peak <= 32 * MIB


@pytest.mark.needs("cgroup_memory")
def test_meeting_the_memory_limit_is_counted(box: Callable[..., Box]) -> None:
    """Where swap is allowed too, it is the limit of memory that is met first, also when reclaim then helps."""
    sandbox = box(NONE.replace(memory=16 * MIB, swap=512 * MIB))
    sandbox.status(sandbox.start(lambda: bytearray(64 * MIB).count(1)))
    assert cgroups.usage(sandbox.cgroups).memory_failures


@pytest.mark.needs("cgroup_memory")
def test_below_the_limit_nobody_is_killed(box: Callable[..., Box]) -> None:
    sandbox = box(NONE.replace(memory=128 * MIB))
    assert sandbox.status(sandbox.start(lambda: bytearray(32 * MIB).count(1))) == 0
    assert cgroups.usage(sandbox.cgroups).oom_kills == 0


@pytest.mark.needs("cgroup_pids")
@pytest.mark.orphans
def test_a_fork_bomb_stops_at_the_limit(box: Callable[..., Box]) -> None:
    """fork is refused with EAGAIN, and no more tasks are counted than allowed."""
    sandbox = box(NONE.replace(pids=20))
    reader, writer = os.pipe()

    def bomb() -> None:
        try:
            while True:
                if os.fork() == 0:
                    signal.pause()
        except BlockingIOError:
            os.write(writer, b"!")
        signal.pause()

    sandbox.start(bomb)
    assert select.select([reader], [], [], 10)[0]
    os.close(reader)
    os.close(writer)
    used = cgroups.usage(sandbox.cgroups)
    assert used.pids == 20
    assert used.pids_failures
    assert len(cgroups.processes(sandbox.cgroups["pids"])) == 20


@pytest.mark.needs("cgroup_cpu")
def test_a_busy_process_is_throttled(box: Callable[..., Box]) -> None:
    """At a fifth of a core it gets no more than that, however busy the host is, and the kernel counts the waits."""
    sandbox = box(NONE.replace(cpu=0.2))
    started = time.monotonic()

    def most() -> float:
        """Seconds of cpu that a fifth allows by now, and what can be used of it in advance."""
        return 0.2 * (time.monotonic() - started) + 0.05

    def burn() -> None:
        # Where others leave it less than a fifth, it is not throttled: until they do.
        while time.process_time() < 0.15 or (cgroups.usage(sandbox.cgroups).throttled_us or 0) < 100_000:
            assert time.monotonic() - started < 120
        assert time.process_time() <= most()

    assert sandbox.status(sandbox.start(burn)) == 0
    used = cgroups.usage(sandbox.cgroups)
    assert used.throttled
    if UNIFIED in sandbox.cgroups:
        assert used.cpu_us
        assert 0.1 < used.cpu_us / 1e6 <= most()


@pytest.mark.needs("cgroup_v1", "userns")
def test_a_process_enters_from_its_own_user_namespace(box: Callable[..., Box]) -> None:
    """By the launcher's fds, though it may not write the files itself: the opener's rights count."""
    sandbox = box(Limits(), version1_only())
    reader, writer = os.pipe()

    def enter() -> None:
        kernel.unshare(kernel.CLONE_NEWUSER)
        sandbox.enter()
        os.write(writer, b"!")
        signal.pause()

    pid = os.fork()
    if pid == 0:
        try:
            enter()
        finally:
            os._exit(1)
    sandbox.children.append(pid)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    lines = Path(f"/proc/{pid}/cgroup").read_text()
    own = os.path.basename(sandbox.cgroups["pids"])
    assert lines.count(own) == len(sandbox.steps.init)


def test_usage_counts_nothing_that_is_not_there() -> None:
    assert cgroups.usage({}) == cgroups.Usage()
    assert cgroups.usage({"memory": "/nonexistent", "pids": "/nonexistent"}) == cgroups.Usage()


# ------------------------------------------------------------------------- freeze, kill, remove


@pytest.mark.needs("cgroup2")
def test_a_frozen_process_stands_still_until_it_is_thawed(box: Callable[..., Box]) -> None:
    sandbox = box(NONE)
    ours, theirs = os.pipe(), os.pipe()

    def echo() -> None:
        while True:
            os.write(theirs[1], os.read(ours[0], 1))

    sandbox.start(echo)
    os.write(ours[1], b"a")
    assert os.read(theirs[0], 1) == b"a"
    cgroups.freeze(sandbox.cgroups)
    os.write(ours[1], b"b")
    assert select.select([theirs[0]], [], [], 0.1)[0] == []
    cgroups.thaw(sandbox.cgroups)
    assert os.read(theirs[0], 1) == b"b"
    for fd in (*ours, *theirs):
        os.close(fd)


def test_freezing_without_cgroup2_is_refused_with_a_remedy() -> None:
    with pytest.raises(NotSupported, match="mount cgroup2"):
        cgroups.freeze({"pids": "/sys/fs/cgroup/pids/nstool-x"})


@pytest.mark.needs("cgroup_pids")
@pytest.mark.parametrize("layout", [cgroups.layout, pytest.param(version1_only, marks=pytest.mark.needs("cgroup_v1"))])
@pytest.mark.orphans
def test_a_fork_bomb_is_killed_to_the_last(box: Callable[..., Box], layout: Callable[[], Layout]) -> None:
    """By cgroup.kill, and without it: children that are made while others are killed get none of their own."""
    sandbox = box(NONE.replace(pids=60), layout())
    reader, writer = os.pipe()

    def bomb() -> None:
        os.write(writer, b"!")
        while True:
            try:
                os.fork()
            except BlockingIOError:
                continue

    sandbox.start(bomb)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    os.close(writer)
    cgroups.kill_all(sandbox.cgroups.values())
    assert [cgroups.processes(path) for path in sandbox.cgroups.values()] == [[]] * len(sandbox.cgroups)


@pytest.mark.needs("cgroup2")
def test_one_write_kills_all(box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is cgroup.kill nobody is looked for and killed by pid, which a fast forker could outrun."""
    sandbox = box(NONE)
    ready, report = os.pipe()

    def wait() -> None:
        os.write(report, b"!")
        signal.pause()

    pid = sandbox.start(wait)
    assert os.read(ready, 1) == b"!"
    os.close(ready)
    os.close(report)
    monkeypatch.setattr(cgroups, "_kill_once", lambda path: None)
    cgroups.kill_all([sandbox.cgroups[UNIFIED]])
    assert sandbox.status(pid) == -signal.SIGKILL


@pytest.mark.needs("cgroup_v1")
def test_without_cgroup_kill_forks_are_stopped_first(box: Callable[..., Box]) -> None:
    sandbox = box(NONE.replace(pids=20), version1_only())
    path = sandbox.cgroups["pids"]
    cgroups.kill_all([path])
    if not os.path.exists(f"{path}/cgroup.kill"):
        assert Path(path, "pids.max").read_text() == "0\n"


@pytest.mark.needs("cgroup_pids")
def test_a_cgroup_is_removed_with_what_is_in_and_below_it(box: Callable[..., Box]) -> None:
    """Processes and cgroups that the sandbox made inside; twice is no error."""
    sandbox = box(NONE.replace(pids=20))
    reader, writer = os.pipe()

    def nest() -> None:
        for path in set(sandbox.cgroups.values()):
            os.makedirs(f"{path}/a/b")
            Path(f"{path}/a/b/cgroup.procs").write_text("0")
        os.write(writer, b"!")
        signal.pause()

    pid = sandbox.start(nest)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    for path in set(sandbox.cgroups.values()):
        assert os.path.isdir(f"{path}/a/b")
        assert cgroups.remove(path)
        assert not os.path.exists(path)
        assert not cgroups.remove(path)
    assert sandbox.status(pid) == -signal.SIGKILL


# ------------------------------------------------------------------------------------- journal


@pytest.mark.needs("cgroup_pids")
@pytest.mark.orphans
def test_what_a_killed_launcher_left_in_its_cgroups_is_killed_and_removed(name: str, run_dir: Path) -> None:
    """Processes that no pid in the record names: only the cgroups tell which they are."""
    steps = plan.steps(Limits(), Lease(name, cgroup=leases.cgroup_name(name)), cgroups.layout())
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        try:
            rundir.claim(name)
            journal.begin(name, steps.undo, cgroups=steps.cgroups)
            for step in steps.launcher:
                make(step)
            child = os.fork()
            for path in steps.cgroups.values() if child == 0 else ():
                Path(path, "cgroup.procs").write_text("0")
            if child == 0:
                os.write(writer, b"!")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    os.close(writer)
    (child,) = cgroups.processes(steps.cgroups["pids"])
    pidfd = os.pidfd_open(child)
    assert plans.cleaned(name) == ()  # its launcher lives
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert [cleaned.name for cleaned in plans.cleaned(name)] == [name]
    assert select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)
    assert not [path for path in steps.cgroups.values() if os.path.exists(path)]
    assert not run_dir.exists()


@pytest.mark.needs("cgroup2")
def test_an_empty_cgroup_without_journal_is_removed_with_those_below_it(name: str, run_dir: Path) -> None:
    """But not with somebody in one of them, whoever that is."""
    base = Path(cgroups.layout().unified_base)
    left_by_dead(lambda: (base / leases.cgroup_name(name) / "a" / "b").mkdir(parents=True))
    (top,) = base.glob(f"nstool-{name}-*")
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        (top / "a" / "b" / "cgroup.procs").write_text(str(pid))
        (top / "c" / "d").mkdir(parents=True)
        (top / "a" / "e").mkdir()
        assert plans.cleaned(name) == ()
        assert all((top / below).is_dir() for below in ("a/b", "c/d", "a/e"))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert plans.cleaned(name) == (journal.Cleaned(top.name, (f"removed {top}",)),)
    assert not top.exists()
