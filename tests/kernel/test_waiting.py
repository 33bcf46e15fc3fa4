"""The end of a sandbox, told to and brought about by a process that has not made it: nstool wait, nstool stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nstool.errors import NstoolError, SandboxGone
from nstool.sandbox import rundir
from nstool.sandbox.launch import launch
from nstool.sandbox.waiting import Other
from tests.support import plans

pytestmark = pytest.mark.needs("root", "native", "nsexec")

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
SECONDS = 120
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1; done"


def nstool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=SECONDS, check=False)


@contextmanager
def foreground(name: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A sandbox of `nstool run`, whose command has written a line and goes on when it reads one."""
    line = [NSTOOL, "run", "--name", name, *words]
    with subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        yield run


def links(pid: int) -> set[str]:
    """What the fds of a process are."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found


@contextmanager
def waiting(name: str) -> Iterator[subprocess.Popen[str]]:
    """`nstool wait`, once it waits."""
    with subprocess.Popen([NSTOOL, "wait", name], stderr=subprocess.PIPE, text=True) as wait:
        while "anon_inode:[pidfd]" not in links(wait.pid):
            time.sleep(0.01)
        yield wait


ENDS = [
    ("exit 0", 0),
    ("exit 7", 7),
    ("exit 255", 255),
    ("kill -9 $$", 137),
    ("kill -TERM $$", 143),
    ("kill -SEGV $$", 139),
]


@pytest.mark.parametrize(("end", "status"), ENDS)
@pytest.mark.parametrize("words", [[], ["--no-init"], ["--share", "pid"]], ids=" ".join)
def test_wait_gives_the_status_of_the_command(name: str, words: list[str], end: str, status: int) -> None:
    """As the shell that launched it gets it; without init pid 1 is spared its own signals, pid_namespaces(7)."""
    if words == ["--no-init"] and end.startswith("kill"):
        words = [*words, "--share", "pid"]
    command = ("sh", "-c", f"echo ready; read x; {end}")
    with foreground(name, *words, "--", *command) as run, waiting(name) as wait, Other(name) as sandbox:
        with pytest.raises(TimeoutError, match="still runs after 0 s"):
            sandbox.wait(0)
        run.communicate("\n", timeout=SECONDS)
        told = sandbox.wait(SECONDS)
        assert told is not None
        code = os.waitstatus_to_exitcode(told)
        assert wait.wait(SECONDS) == run.returncode == status == (code if code >= 0 else 128 - code)


@pytest.mark.needs("veth", "nft")
def test_wait_is_told_also_where_python_undoes(name: str) -> None:
    with (
        foreground(name, "--net", "veth", "--", "sh", "-c", "echo ready; read x; exit 9") as run,
        Other(name) as sandbox,
    ):
        run.communicate("\n", timeout=SECONDS)
        assert sandbox.wait(SECONDS) == 9 << 8


def test_wait_for_a_sandbox_of_the_library(name: str) -> None:
    """Its maker has to wait too: that is what reaps init, and notes the end."""
    with launch(plans.default(name).replace(command=("sleep", "60"))) as box, Other(name) as sandbox:
        box.signal(signal.SIGUSR1)
        assert box.wait().signal == signal.SIGUSR1
        assert sandbox.wait(SECONDS) == signal.SIGUSR1


@pytest.mark.orphans
def test_nobody_notes_the_end_when_the_launcher_was_killed(name: str) -> None:
    """Neither of one that ends with it, nor of one that outlives it."""
    with foreground(name, "--", "sh", "-c", "echo ready; read x") as run, Other(name) as sandbox:
        run.kill()
        assert sandbox.wait(SECONDS) is None
    run.wait()
    with foreground(name, "--no-die-with-parent", "--", "sh", "-c", "echo ready; exec sleep 60") as run:
        run.kill()
    with Other(name) as sandbox, waiting(name) as wait:
        sandbox.signal(signal.SIGTERM)
        assert wait.stderr is not None
        assert wait.stderr.read().endswith("how is not known, for its launcher was killed before\n")
        assert wait.wait(SECONDS) == 125
    assert nstool("cleanup").returncode == 0


def test_the_status_of_one_that_ends_meanwhile_is_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when it was looked for, and is not when the wait begins."""
    pidfd_open = os.pidfd_open
    with foreground(name, "--", "sh", "-c", "echo ready; read x; exit 7") as run:

        def late(pid: int) -> int:
            pidfd = pidfd_open(pid)
            run.communicate("\n", timeout=SECONDS)
            return pidfd

        monkeypatch.setattr(os, "pidfd_open", late)
        with Other(name) as sandbox:
            assert sandbox.wait(SECONDS) == 7 << 8
            with pytest.raises(SandboxGone):
                sandbox.signal(signal.SIGTERM)


@pytest.mark.orphans
def test_the_status_of_one_that_has_ended_is_in_its_log(name: str, tmp_path: Path) -> None:
    """It is not listed any more, and nobody can wait for it: the message says where the status is."""
    log = tmp_path / "log"
    tmp_path.chmod(0o755)
    os.mkfifo(tmp_path / "end")
    words = ("run", "--detach", "--log", str(log), "--name", name, "--mount", f"{tmp_path}:/srv")
    started = nstool(*words, "--", "sh", "-c", "read x < /srv/end; exit 3")
    assert started.returncode == 0, started.stderr
    with waiting(name) as wait:
        (tmp_path / "end").write_text("\n")
        assert wait.wait(SECONDS) == 3
    while name in rundir.names():
        time.sleep(0.01)
    done = nstool("wait", name)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "; one that has ended is not listed any more: its status is in the file of --log "
        "(nstool run --detach --log FILE)\n"
    )
    assert log.read_text().splitlines()[-1] == f"nstool: {name} ended with exit status 3"


def test_wait_gives_up(name: str) -> None:
    with foreground(name, "--", "sh", "-c", "echo ready; read x") as run:
        done = nstool("wait", "--timeout", "0.01", name)
        assert (done.returncode, done.stderr) == (124, f"nstool: sandbox {name!r} still runs after 0.01 s\n")
        run.communicate("\n", timeout=SECONDS)


def test_who_is_not_there_is_not_waited_for(name: str) -> None:
    for command in ("wait", "stop"):
        done = nstool(command, name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"nstool: there is no sandbox {name!r}; there are: ")
    assert nstool("wait", "--timeout", "-1", name).returncode == 2


def test_stop_ends_it_and_its_name_is_free(name: str, run_dir: Path) -> None:
    with foreground(name, "--", "sh", "-c", "echo ready; exec sleep 60") as run:
        done = nstool("stop", name)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert not (run_dir / "sandboxes" / name).exists()
        assert run.wait(SECONDS) == 143


@pytest.mark.parametrize("words", [[], ["--no-init"]], ids=" ".join)
def test_stop_kills_who_does_not_listen(name: str, words: list[str]) -> None:
    with foreground(name, *words, "--", "sh", "-c", STUBBORN) as run:
        begin = time.monotonic()
        done = nstool("stop", "--timeout", "0.3", name)
        assert time.monotonic() - begin >= 0.3
        told = f"nstool: {name} did not end within 0.3 s of SIGTERM, and was killed\n"
        assert (done.returncode, done.stderr) == (0, told)
        assert run.wait(SECONDS) == 137
        assert run.stderr is not None
        assert run.stderr.read() == ""


def test_stop_says_when_nobody_undoes(name: str) -> None:
    """One of the library whose maker does not wait is ended, and stays in the registry."""
    with launch(plans.default(name).replace(command=("sleep", "60"))) as box, Other(name) as sandbox:
        os.kill(box.init_pid, signal.SIGSTOP)  # nothing of it can run on, so the signals wait, but SIGKILL
        with pytest.raises(NstoolError, match="nobody undoes it"):
            patience(sandbox)


def patience(sandbox: Other) -> None:
    from nstool.sandbox import waiting

    before, waiting._NOTED = waiting._NOTED, 0.2
    try:
        sandbox.stop(0.1)
    finally:
        waiting._NOTED = before


def test_the_next_of_the_same_name_is_another(name: str) -> None:
    """Who waited for the first is told of the first; nothing of the second is touched."""
    with foreground(name, "--", "sh", "-c", "echo ready; read x; exit 3") as run:
        first = Other(name)
        run.communicate("\n", timeout=SECONDS)
    with first, foreground(name, "--", "sh", "-c", "echo ready; read x") as run:
        with pytest.raises(SandboxGone):
            first.signal(signal.SIGKILL)
        assert first.wait(0) == 3 << 8
        assert rundir.find_running(name).alive
        run.communicate("\n", timeout=SECONDS)


@pytest.mark.orphans
@pytest.mark.parametrize(
    ("end", "said"), [("exit 3", "ended with exit status 3"), ("kill -9 $$", "was ended by signal 9")]
)
def test_the_log_of_a_detached_one_says_how_it_ended(name: str, tmp_path: Path, end: str, said: str) -> None:
    log = tmp_path / "log"
    words = ("run", "--detach", "--log", str(log), "--name", name, "--", "sh", "-c", f"echo working; sleep 0.2; {end}")
    assert nstool(*words).returncode == 0
    nstool("wait", name)
    while name in rundir.names():  # the end is told of in the journal first
        time.sleep(0.01)
    assert log.read_text() == f"working\nnstool: {name} {said}\n"
