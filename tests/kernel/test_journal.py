"""Cleaning up after a killed launcher: its init, told from a stranger with the same pid."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported
from nstool.plan.steps import UNDO, Step
from nstool.sandbox import journal, rundir
from tests.support import kernel
from tests.support.child import left_by_dead


@pytest.fixture
def init() -> Iterator[tuple[int, int]]:
    """pid and pidfd of a process that stands for the init of a sandbox."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    fd = os.pidfd_open(pid)
    yield pid, fd
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)
    os.waitpid(pid, 0)


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def test_the_init_of_a_dead_launcher_is_killed(name: str, run_dir: Path, init: tuple[int, int]) -> None:
    def launch() -> None:
        rundir.claim(name)
        journal.begin(name, ())
        journal.started(name, init[0])

    left_by_dead(launch)
    assert not has_ended(init[1])
    assert journal.cleanup() == (journal.Cleaned(name, (f"killed init {init[0]}",)),)
    assert has_ended(init[1])
    assert not run_dir.exists()


def test_a_stranger_with_the_pid_of_init_is_not_killed(name: str, init: tuple[int, int]) -> None:
    """The start time tells them apart."""

    def launch() -> None:
        rundir.claim(name)
        journal.begin(name, ())
        rundir.append(name, f'{{"init":[{init[0]},{rundir.starttime(init[0]) - 1}]}}\n')

    left_by_dead(launch)
    assert journal.cleanup() == (journal.Cleaned(name, ()),)
    assert not has_ended(init[1])


@pytest.mark.needs("root")
def test_who_is_hidden_by_proc_is_not_taken_for_dead(in_child: Callable[..., Any]) -> None:
    """With hidepid, another user's process looks like none; only a signal tells them apart. proc(5)."""

    def act() -> tuple[bool, int, int]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", data="hidepid=2")
        os.setgroups(())
        os.setresgid(54322, 54322, 54322)  # group 0 sees all, unless gid= says otherwise
        os.setresuid(54322, 54322, 54322)
        return os.path.exists("/proc/1"), rundir.starttime(1), rundir.starttime(2**22 + 1)

    assert in_child(act) == (False, -1, 0)


@pytest.mark.needs("root")
def test_anothers_run_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a harmless looking one: its owner could change what root then undoes."""
    directory = tmp_path / "run"
    directory.mkdir(0o755)
    os.chown(directory, 12345, 12345)

    monkeypatch.setenv("NSTOOL_RUN_DIR", str(directory))
    with pytest.raises(NotSupported, match="belongs to uid 12345, you are 0"):
        rundir.claim("web")


@pytest.mark.needs("root", "native")
def test_a_mount_is_undone(name: str, in_child: Callable[..., Any], tmp_path: Path) -> None:
    """And one that is gone already, or whose target is gone, is done."""
    target = tmp_path / "mnt"
    target.mkdir()
    step = Step(UNDO, "umount2", (str(target), 0), "the mount")

    def act() -> tuple[object, ...]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("none", str(target), "tmpfs")
        rundir.claim(name)
        journal.begin(name, [step])
        first = journal.undo(name)
        second = journal.undo_step(step)
        target.rmdir()
        return first, second, journal.undo_step(step), os.path.exists(rundir.path())

    assert in_child(act) == (("the mount",), False, False, False)
