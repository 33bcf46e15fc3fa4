"""Cleaning up after a killed launcher: its init, told from a stranger with the same pid."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported, NstoolError
from nstool.sandbox import journal, rundir, tarball
from tests.support import kernel, plans
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
    assert plans.cleaned(name) == (journal.Cleaned(name, (f"killed init {init[0]}",)),)
    assert has_ended(init[1])
    assert not run_dir.exists()


def test_a_stranger_with_the_pid_of_init_is_not_killed(name: str, init: tuple[int, int]) -> None:
    """The start time tells them apart."""

    def launch() -> None:
        rundir.claim(name)
        journal.begin(name, ())
        rundir.append(name, f'{{"init":[{init[0]},{rundir.starttime(init[0]) - 1}]}}\n')

    left_by_dead(launch)
    assert plans.cleaned(name) == (journal.Cleaned(name, ()),)
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


FORGED = {
    "a file is written": ("write_file", [-100, "/file", {"$bytes": b"x".hex()}, os.O_TRUNC, 0o600]),
    "a file is removed": ("unlinkat", [-100, "/file", 0]),
    "a file is removed by its directory": ("unlinkat", [-100, "/file", 0x200]),
    "a mount is detached": ("umount2", ["/tree", 2]),
    "another tree is removed": ("external", ["tarball_remove", {"directory": "/tree", "mapped": False}]),
    "the trees' own directory is removed": ("external", ["tarball_remove", {"directory": "ROOTS/..", "mapped": False}]),
    "a program is run": (
        "external",
        ["tarball_remove", {"directory": "/tree", "idmaps": [["/program", [[0, 1]]]] * 2}],
    ),
    "a link of others is removed": ("external", ["veth_delete", {"link": "lo", "link_mac": "00:00:00:00:00:00"}]),
    "unknown": ("external", ["remove_everything", {}]),
    "no arguments": ("external", []),
    "none of ours": ("execve", ["/program"]),
}


@pytest.mark.needs("root", "native")
@pytest.mark.parametrize("what", FORGED)
def test_a_forged_journal_makes_us_do_nothing(run_dir: Path, name: str, tmp_path: Path, what: str) -> None:
    """Whoever can write in the run directory has no more done than a sandbox has undone."""
    (tmp_path / "file").write_text("precious")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("precious")
    (tmp_path / "program").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "program").chmod(0o755)
    left_by_dead(lambda: rundir.claim(name))
    text = json.dumps({"undo": [*FORGED[what], "forged"]})
    text = text.replace('"/', f'"{tmp_path}/').replace("ROOTS", tarball.directory())
    with open(run_dir / "sandboxes" / name / "journal", "a") as file:
        file.write(text + "\n")
    before = sorted(tmp_path.rglob("*"))
    if what == "a link of others is removed":
        assert [one.name for one in plans.cleaned(name)] == [name]  # one that is not ours is left alone
        assert os.path.exists("/sys/class/net/lo")
    else:
        with pytest.raises(NstoolError, match=f"sandbox {name}"):
            journal.cleanup()
        (run_dir / "sandboxes" / name / "journal").unlink()
        journal.cleanup()
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == (tmp_path / "tree/file").read_text() == "precious"


REACHING = [
    ["--user", "0", "--mount", "ABOVE:/tmp/x:rw,idmap"],
    ["--uid-map", "1000:0:1", "--gid-map", "1000:0:1", "--mount", "ABOVE:/tmp/x:rw"],
    ["--share", "user", "--mount", "RUN/sandboxes:/tmp/x:rw"],
    ["--share", "user", "--mount", "LINK:/tmp/x:rw"],
    ["--share", "user", "--root", "ABOVE", "--writable"],
    ["--share", "user", "--root", "/usr:/etc", "--upper", "ABOVE", "--writable"],
]


@pytest.mark.needs("root", "native", "nsexec")
@pytest.mark.parametrize("words", REACHING, ids=lambda words: " ".join(words[-2:]))
def test_no_sandbox_writes_where_journals_are(run_dir: Path, tmp_path: Path, words: list[str]) -> None:
    """What could be reached with rights of the run directory's owner is refused; a directory beside it is not."""
    link = tmp_path / "link"
    link.symlink_to(run_dir.parent)
    names = {"ABOVE": str(run_dir.parent), "RUN": str(run_dir), "LINK": str(link)}
    for old, new in names.items():
        words = [word.replace(old, new) for word in words]
    nstool = [str(Path(sys.prefix) / "bin/nstool"), "run"]
    done = subprocess.run([*nstool, *words, "--", "true"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"would let the command write in {run_dir}, from which nstool undoes sandboxes" in done.stderr
    mount = ["--user", "0", "--mount", f"{tmp_path}:/tmp/x:rw,idmap"]
    done = subprocess.run([*nstool, *mount, "--", "true"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
