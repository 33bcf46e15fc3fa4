"""The tests' own tools: a child's result, needs that are not met, NSTOOL_MUST_RUN."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import probes, processes
from tests.support.child import ChildFailed
from tests.support.workplace import Workplace, claim_slice, remove_tree

REPOSITORY = Path(__file__).resolve().parents[2]

InChild = Callable[..., Any]


def test_result_comes_from_another_process(in_child: InChild) -> None:
    """The function runs in a child of this process, and its result comes back."""
    assert in_child(lambda: (os.getppid(), os.getpid() != os.getppid())) == (os.getpid(), True)


def test_large_result_comes_back_whole(in_child: InChild) -> None:
    """A result larger than a pipe's buffer is not cut."""
    assert in_child(lambda size: b"x" * size, 1 << 20) == b"x" * (1 << 20)


def test_exception_comes_with_the_childs_traceback(in_child: InChild) -> None:
    """The exception is the child's own, and says where in the child it was raised."""

    def fail_here() -> None:
        raise PermissionError(1, "no")

    with pytest.raises(PermissionError, match="no") as caught:
        in_child(fail_here)
    assert "in fail_here" in caught.value.__notes__[0]


def test_exception_that_cannot_be_pickled_is_named(in_child: InChild) -> None:
    """Such an exception arrives as ChildFailed with its repr."""

    class Local(Exception):
        pass

    def fail() -> None:
        raise Local("inside")

    with pytest.raises(ChildFailed, match=re.escape("Local('inside')")):
        in_child(fail)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ended by SIGKILL"),
        (lambda: os._exit(3), "exited with status 3"),
    ],
)
def test_end_without_a_result_is_an_error(in_child: InChild, end: Callable[[], None], words: str) -> None:
    """A child that dies says how, not None."""
    with pytest.raises(ChildFailed, match=words):
        in_child(end)


def test_late_child_is_killed_with_its_descendants(in_child: InChild) -> None:
    """At the timeout neither the child nor its own child stays."""
    reader, writer = os.pipe()

    def hang() -> None:
        grandchild = os.fork()
        if grandchild:
            os.write(writer, str(grandchild).encode())
        signal.pause()

    with pytest.raises(ChildFailed, match=r"killed after 0\.3 s"):
        in_child(hang, timeout=0.3)
    os.close(writer)
    with open(reader) as pipe:  # ends when all holders of the other end are gone
        grandchild = int(pipe.read())
    end = time.monotonic() + 10
    while (process := processes.read(grandchild)) is not None and process.state != "Z":
        assert time.monotonic() < end, "it lives on"  # its files are closed before it is a zombie
        os.sched_yield()


def test_grandchild_that_lives_on_does_not_delay_the_result(in_child: InChild) -> None:
    """The result counts when the child ends, also while a grandchild holds the pipe."""
    reader, writer = os.pipe()

    def leave_one_behind() -> int:
        os.close(writer)
        if os.fork() == 0:
            os.read(reader, 1)  # until the test closes its end
            os._exit(0)
        return 7

    assert in_child(leave_one_behind, timeout=5) == 7
    os.close(writer)
    os.close(reader)


def test_names_differ_between_workers_and_runs(tmp_path: Path) -> None:
    """No two test processes use the same sandbox names, networks or host ids."""
    places = [Workplace(tmp_path / f"nst-{run}", f"gw{n % 2}", n) for n, run in enumerate(("1f", "1f", "20", "20"))]
    assert len({place.new_name() for place in places}) == 4
    assert len({str(place.nets) for place in places}) == 4
    assert len({place.ids for place in places}) == 4


def test_a_slice_is_one_processs_alone(workplace: Workplace) -> None:
    """Whatever runs tests here: each has networks and ids of its own, until it ends."""
    (first, one), (second, other) = claim_slice(), claim_slice()
    with one, other:
        taken = [Workplace(workplace.base, workplace.worker, part) for part in (first, second)]
        assert len({place.ids for place in (workplace, *taken)}) == 3


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("/sys/fs/cgroup/nstool/nstool-t0x1f-3-abc", True),
        ("/sys/fs/cgroup/nstool/nstool-t1x1f-3-abc", False),
        ("ns-0ad5f004", True),  # 10.213.240.4, of this worker's slice
        ("ns-0ad5f404", False),
        ("ip saddr 172.29.240.6 accept", True),
        ("ns-br0", False),
    ],
)
def test_what_is_left_is_laid_at_the_right_door(tmp_path: Path, text: str, own: bool) -> None:
    """A name or address tells which worker made a thing; what tells nothing is no worker's."""
    assert Workplace(tmp_path / "nst-1f", "gw0", 60).is_own(text) is own


def test_every_probe_gives_an_answer() -> None:
    """Each probe runs on this host and gives a reason or none; none raises."""
    answers = {name: probes.missing(name) for name in probes.PROBES}
    assert all(answer == "" or answer.startswith(f"needs {name}: ") for name, answer in answers.items())


def run_pytest(directory: Path, test: str, **env: str) -> str:
    """Run a test file of its own with this conftest.py; return what pytest prints."""
    (directory / "conftest.py").write_text("from tests.conftest import *\n")
    (directory / "test_it.py").write_text(test)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NSTOOL_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", directory, directory],
        env={**inherited, "PYTHONPATH": str(REPOSITORY), **env},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


UNMET = """
import pytest
from tests.support import probes

@probes.probe
def moon():
    return "it is not up; wait"

@pytest.mark.needs("moon")
def test_by_moonlight(): pass
"""


def test_unmet_need_skips_and_says_why(tmp_path: Path) -> None:
    """The reason of the probe stands at the end of the run, with the test."""
    printed = run_pytest(tmp_path, UNMET)
    assert "1 x needs moon: it is not up; wait\n    test_it.py::test_by_moonlight\n" in printed
    assert "1 skipped" in printed


@pytest.mark.parametrize("test", [UNMET, "import pytest\npytest.skip('whole file', allow_module_level=True)\n"])
def test_every_skip_fails_where_all_must_run(tmp_path: Path, test: str) -> None:
    """NSTOOL_MUST_RUN=1 makes of each skip, of a test or of a file, a failure that keeps the reason."""
    printed = run_pytest(tmp_path, test, NSTOOL_MUST_RUN="1")
    assert "skipped, but NSTOOL_MUST_RUN=1 is set: " in printed
    assert " skipped in " not in printed
    assert "1 failed" in printed or "1 error" in printed


def test_unknown_need_stops_the_run(tmp_path: Path) -> None:
    """A misspelt need is an error, not a test that never runs."""
    printed = run_pytest(tmp_path, "import pytest\n@pytest.mark.needs('rooot')\ndef test_it(): pass\n")
    assert "needs ['rooot'], which tests/support/probes.py does not know" in printed


def test_a_tree_deeper_than_pythons_recursion_is_removed(tmp_path: Path) -> None:
    """One that a killed run has left must not keep all others from starting."""
    deep = tmp_path / "deep"
    deep.mkdir()
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(deep)
    assert not deep.exists()
