"""A process held by its directory in /proc: read whole, or said to be gone; never another one. proc(5)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from nstool import uapi
from nstool.inspect.proc import Proc, ProcessGone, Stat, pids, processes
from tests.kernel.rows import boxes
from tests.support import kernel
from tests.support.child import run_in_child
from tests.support.held import held
from tests.support.waiting import thread

SECONDS = 120.0


@contextmanager
def sleeping(name: str = "") -> Iterator[int]:
    """A child that waits for the end of a pipe; name: what it calls itself. prctl(2), PR_SET_NAME."""

    def act() -> None:
        if name:
            Path("/proc/self/comm").write_text(name)

    with held(act) as pid:
        yield pid


@pytest.mark.parametrize("name", ["plain", "a b", ") R 1 2 (", "(", "tab\tümläut"])
def test_stat_is_read_whatever_the_process_calls_itself(name: str) -> None:
    with sleeping(name) as pid, Proc(pid) as proc:
        stat = proc.stat()
        assert (stat.pid, stat.comm, stat.ppid) == (pid, name, os.getpid())
        assert (stat.pgrp, stat.session) == (os.getpgid(pid), os.getsid(pid))
        assert (
            abs(stat.starttime / os.sysconf("SC_CLK_TCK") - (psutil.Process(pid).create_time() - psutil.boot_time()))
            < 2
        )
        assert stat.state_text in ("sleeping", "running")


@pytest.mark.parametrize("end", ["\v", "\f", "\x1c", "\x85", "\u2028", "\r"])
def test_a_name_adds_no_line_to_the_status(end: str) -> None:
    """What ends a line for Python and not for the kernel stays in the name. proc_pid_status(5)."""
    with sleeping(f"a{end}Fake: 1") as pid, Proc(pid) as proc:
        status = proc.status()
        assert status["Name"] == f"a{end}Fake: 1"
        assert "Fake" not in status


def test_stat_agrees_with_psutil() -> None:
    with Proc(os.getpid()) as proc:
        stat, other = proc.stat(), psutil.Process()
        assert stat.num_threads == other.num_threads()
        assert stat.nice == other.nice()
        assert stat.policy == os.sched_getscheduler(0)
        assert list(proc.command()) == other.cmdline()


def test_a_process_that_has_ended_is_gone() -> None:
    with sleeping() as pid:
        proc = Proc(pid)
    with proc:
        for read in (proc.stat, proc.status, proc.command, proc.check):
            with pytest.raises(ProcessGone, match=f"no process {pid}, or it has ended"):
                read()
        for read_name in (proc.read, proc.link, proc.list, proc.open):
            with pytest.raises(ProcessGone):
                read_name("fd")
    with pytest.raises(ProcessGone):
        Proc(pid)


def test_a_later_process_with_its_pid_is_not_read(in_child: Callable[..., Any]) -> None:
    """The next process is given the same pid; what was opened of the first stays gone. pid_namespaces(7)."""

    def act() -> tuple[int, str, str]:
        kernel.unshare(uapi.CLONE_NEWPID | uapi.CLONE_NEWNS)
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
                kernel.mount("proc", "/proc", "proc")
                with sleeping("first") as first:
                    proc = Proc(first)
                with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                    file.write(str(first - 1))
                with sleeping("second") as second, Proc(second) as now:
                    try:
                        old = proc.stat().comm
                    except ProcessGone:
                        old = "gone"
                    os.write(writer, f"{second - first} {old} {now.stat().comm}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as pipe:
            distance, old, new = pipe.read().split()
        os.wait()
        return int(distance), old, new

    assert in_child(act) == (0, "gone", "second")


def test_a_zombie_is_there_until_it_is_reaped() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Proc(pid) as proc:
        assert proc.stat().state_text == "zombie"
        assert proc.command() == ()
        os.waitpid(pid, 0)
        with pytest.raises(ProcessGone):
            proc.status()


def test_a_file_that_the_kernel_lacks_is_no_ended_process() -> None:
    with Proc(os.getpid()) as proc, pytest.raises(FileNotFoundError):
        proc.read("no-such-file")


def test_a_thread_is_read_as_a_thread() -> None:
    """Its own name and ids; ended, it is said to be a thread that is gone."""
    with thread(lambda: Path("/proc/thread-self/comm").write_text("worker")) as tid:
        proc = Proc(os.getpid(), tid)
        assert proc.stat().comm == "worker"
        assert proc.status()["Tgid"] == str(os.getpid())
    with proc:
        while os.path.exists(f"/proc/self/task/{tid}"):  # joined a moment before the kernel has let it go
            continue
        with pytest.raises(ProcessGone, match=f"no thread {tid} of process {os.getpid()}"):
            proc.stat()


def test_processes_are_those_of_proc() -> None:
    seen: dict[int, Stat] = {}
    for proc in processes():
        try:
            seen[proc.pid] = proc.stat()
        except ProcessGone:
            continue
    assert os.getpid() in seen
    assert set(seen) <= set(pids()) | {pid for pid in seen if not psutil.pid_exists(pid)}
    assert sorted(seen) == list(seen)


def test_an_inode_names_the_namespace() -> None:
    with Proc(os.getpid()) as proc:
        assert proc.inode("net") == os.stat("/proc/self/ns/net").st_ino


def test_what_may_not_be_read_is_a_permission_error(as_user: Callable[..., Any]) -> None:
    def act() -> str:
        with Proc(1) as proc:
            try:
                return proc.link("ns/net")
            except PermissionError as error:
                return type(error).__name__

    assert as_user(act) == "PermissionError"


def test_kernel_threads_have_no_command() -> None:
    done = subprocess.run(["ps", "--ppid", "2", "-o", "pid="], capture_output=True, text=True, check=False)
    for pid in done.stdout.split()[:1]:
        with Proc(int(pid)) as proc:
            assert proc.command() == ()


@pytest.mark.needs("root", "user")
def test_processes_that_hidepid_lists_and_hides_are_left_out(
    in_child: Callable[..., Any], as_user: Callable[..., Any]
) -> None:
    """With hidepid=1 the directories of others are there and may not be opened. proc(5)."""

    def look() -> Any:
        me = str(os.getpid())
        words = (("task", me), ("creds", me), ("pid", me), ("can", me, "kill-group", me), ("net", me), ("task", "1"))
        return os.listdir("/proc"), [boxes.nstool(*row) for row in words]

    def act() -> Any:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", data="hidepid=1")
        return as_user(look, timeout=SECONDS)

    listed, told = in_child(act, timeout=2 * SECONDS)
    assert "1" in listed
    assert [(ran.status, ran.err) for ran in told[:5]] == [(0, "")] * 5, told
    assert (told[5].status, "/proc is mounted with hidepid=noaccess" in told[5].err) == (125, True)


NAMING = (
    *(
        f"{name} 1"
        for name in ("task", "creds", "pid", "caps show", "net", "mounts", "ipc --in", "cgroups", "show", "aslr")
    ),
    "diff 1 2",
    "can 1 read 2",
    "path 1 /",
)


def ask_all() -> list[boxes.Ran]:
    return [boxes.nstool(*line.split()) for line in NAMING]


@pytest.mark.needs("root")
def test_numbers_of_another_pid_namespace_are_refused_by_all(in_child: Callable[..., Any]) -> None:
    """In a pid namespace of one's own, below the /proc of another, process 1 is not process 1. pid_namespaces(7)."""

    def act() -> list[boxes.Ran]:
        kernel.unshare(uapi.CLONE_NEWPID)
        return run_in_child(ask_all, timeout=SECONDS)

    for ran in in_child(act, timeout=2 * SECONDS):
        assert (ran.status, ran.out) == (125, ""), ran
        assert "cause: the /proc that is mounted here belongs to another pid namespace than yours" in ran.err
        assert "remedy: mount one of your own" in ran.err


@pytest.mark.needs("root")
def test_without_proc_nothing_is_said_to_have_ended(in_child: Callable[..., Any]) -> None:
    def act() -> list[boxes.Ran]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("none", "/proc", "tmpfs")
        return [*ask_all(), boxes.nstool("caps", "show")]

    for ran in in_child(act, timeout=2 * SECONDS):
        assert (ran.status, ran.out) == (125, ""), ran
        assert "cause: no proc file system is mounted on /proc" in ran.err


@pytest.mark.needs("root", "user")
def test_a_process_that_hidepid_hides_is_told_alike_by_all(
    in_child: Callable[..., Any], as_user: Callable[..., Any]
) -> None:
    def act() -> Any:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", data="hidepid=1")
        return as_user(ask_all, timeout=SECONDS)

    for ran in in_child(act, timeout=2 * SECONDS):
        assert (ran.status, ran.out) == (125, ""), ran
        assert "cause: you may not look into process 1: /proc is mounted with hidepid=noaccess" in ran.err
        assert "remedy: run as root, or as the user whose process it is" in ran.err


@pytest.mark.needs("root", "native")
def test_a_thread_is_one_for_all(in_child: Callable[..., Any]) -> None:
    """By its tid it is taken, said to be a thread, and what it has of its own is its own."""

    def act() -> Any:
        pid = str(os.getpid())
        with thread(lambda: kernel.unshare(uapi.CLONE_NEWNET)) as tid:
            net = os.readlink(f"/proc/self/task/{tid}/ns/net")
            named = {"1": str(tid), "2": pid}
            lines = [" ".join(named.get(word, word) for word in line.split()) for line in NAMING]
            told = {line: boxes.nstool(*line.split()) for line in lines}
            asked = json.loads(boxes.nstool("caps", "show", str(tid), "--json").out)
            return pid, str(tid), net, told, asked

    pid, tid, net, told, asked = in_child(act, timeout=SECONDS)
    for line, ran in told.items():
        assert (ran.status, ran.err) == (1 if line.startswith("diff") else 0, ""), (line, ran)
        assert f"thread {tid} of process {pid}" in ran.out, (line, ran.out)
    assert told[f"net {tid}"].lines[0].startswith(net)
    assert net in told[f"task {tid}"].out
    assert net.partition("[")[2].rstrip("]") in told[f"diff {tid} {pid}"].out
    assert (asked["pid"], asked["tid"], asked["threads"][0]["tid"]) == (int(pid), int(tid), int(tid))
