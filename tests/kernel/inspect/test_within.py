"""A function is called in another namespace by a child that gives nothing away and takes nothing from there."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError, SpecError
from nstool.inspect.proc import Proc, ProcessGone
from nstool.inspect.within import call
from nstool.sandbox.inside import call_in, open_namespace
from tests.support import kernel
from tests.support.held import held, own_user_namespace, private_mounts

Act = Callable[..., Any]

CLONE_NEWUTS = 0x04000000


def name_them() -> None:
    kernel.unshare(CLONE_NEWUTS)
    syscalls.sethostname("there")


@pytest.mark.needs("root")
def test_it_is_called_there_and_the_caller_stays(in_child: Act) -> None:
    def act() -> Any:
        before = os.uname().nodename
        with held(name_them) as pid, Proc(pid) as proc:
            return call(proc, "uts", lambda: os.uname().nodename), os.uname().nodename == before

    assert in_child(act) == (("there", None), True)


def test_in_the_callers_own_namespace_nothing_is_joined(as_user: Act) -> None:
    def act() -> Any:
        with Proc(os.getpid()) as proc:
            return call(proc, "ipc", os.getppid), os.getpid()

    (parent, maps), own = as_user(act)
    assert (parent, maps) == (own, None)


def test_an_ordinary_user_joins_its_user_namespace_too(as_user: Act) -> None:
    """And is told the maps, as the caller sees them."""

    def act() -> Any:
        def enter() -> None:
            own_user_namespace()
            name_them()

        with held(enter) as pid, Proc(pid) as proc:
            value, maps = call(proc, "uts", lambda: (os.uname().nodename, os.getuid()))
            assert maps is not None
            return value, [(line.inside, line.outside) for line in maps.uid], os.getuid()

    value, lines, uid = as_user(act)
    assert value == ("there", 0)
    assert lines == [(0, uid)]


@pytest.mark.needs("root")
def test_the_child_cannot_be_traced_and_imports_nothing(in_child: Act) -> None:
    """It has the caller's memory, and the paths of modules lead to what others have put there."""

    def act() -> Any:
        sys.modules.pop("colorsys", None)

        def enter() -> None:
            private_mounts()
            for path in sys.path:
                if os.path.isdir(path):
                    kernel.mount("tmpfs", path, "tmpfs")
                    Path(path, "colorsys.py").write_text("raise SystemExit('imported')")

        def look() -> tuple[int, str]:
            try:
                import colorsys

                return -1, colorsys.__name__
            except ImportError:
                return syscalls.prctl(uapi.PR_GET_DUMPABLE), "refused"

        with held(enter) as pid, Proc(pid) as proc:
            return call(proc, "mnt", look)[0]

    assert in_child(act) == (0, "refused")


def test_what_is_raised_is_raised_here() -> None:
    def fail() -> None:
        raise SpecError("bad", "place")

    with Proc(os.getpid()) as proc, pytest.raises(SpecError, match="place: bad"):
        call(proc, "uts", fail)


def test_long_answers_come_whole() -> None:
    with Proc(os.getpid()) as proc:
        value, _ = call(proc, "uts", lambda: "x" * (1 << 20))
    assert len(value) == 1 << 20


def test_a_child_that_is_killed_is_an_error() -> None:
    with Proc(os.getpid()) as proc, pytest.raises(KernelError, match="ended before it answered"):
        call(proc, "uts", lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_a_child_that_exits_is_an_error() -> None:
    """It never goes on with the caller's program."""
    with Proc(os.getpid()) as proc, pytest.raises(KernelError, match="ended before it answered"):
        call(proc, "uts", sys.exit)


def test_what_cannot_be_pickled_is_an_error() -> None:
    with Proc(os.getpid()) as proc, pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        call(proc, "uts", lambda: lambda: 0)


def test_who_is_not_there() -> None:
    with pytest.raises(Exception, match="there is no process 4194305"):
        open_namespace(4194305, "ipc")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Proc(pid) as proc:
        with pytest.raises(ProcessGone, match="has ended"):
            call(proc, "ipc", os.getpid)
        os.waitpid(pid, 0)
        with pytest.raises(ProcessGone, match="there is no process"):
            call(proc, "ipc", os.getpid)


@pytest.mark.needs("root")
def test_no_fd_and_no_child_is_left(in_child: Act) -> None:
    def act() -> Any:
        with held(name_them) as pid:
            namespace = open_namespace(pid, "uts")
            before = os.listdir("/proc/self/fd")
            for _ in range(3):
                call_in(namespace, "uts", os.getpid)
            after = os.listdir("/proc/self/fd")
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return before == after

    assert in_child(act)
