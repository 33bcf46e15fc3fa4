"""Much output fills neither the disk nor the memory of who takes it. nstool run --log, --log-size."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes

pytestmark = [pytest.mark.needs("root", "native", "nsexec"), pytest.mark.orphans]

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
SECONDS = 60
LIMIT = 64 << 10
CUT = "nstool: {}: the log is cut here, it has 64K (--log-size)\n"


def start(name: str, log: Path, *command: str, size: str = "64K", options: tuple[str, ...] = ()) -> int:
    """Start a detached sandbox; return a pidfd of its supervisor."""
    words = [NSTOOL, "run", "--detach", "--name", name, "--log", str(log), *options]
    subprocess.run([*words, "--log-size", size, "--", *command], check=True, stdout=subprocess.DEVNULL)
    listed = subprocess.run([NSTOOL, "ps", "--json"], check=True, capture_output=True, text=True).stdout
    record = next(row for row in json.loads(listed)["sandboxes"] if row["name"] == name)
    return os.pidfd_open(record["launcher_pid"])


def run_to_the_end(name: str, log: Path, *command: str, **words: Any) -> None:
    """Start a detached sandbox whose command waits for the end of this, and wait for that of its supervisor."""
    log.parent.chmod(0o755)
    os.mkfifo(log.with_name("end"))
    pidfd = start(name, log, *command, options=("--mount", f"{log.parent}:/srv"), **words)
    log.with_name("end").write_text("")
    wait_end(pidfd)


def wait_end(pidfd: int) -> None:
    """Wait for the end of the supervisor, who writes last."""
    try:
        assert select.select([pidfd], [], [], SECONDS)[0], "the supervisor still runs"
    finally:
        os.close(pidfd)


def stop(name: str, pidfd: int) -> None:
    subprocess.run([NSTOOL, "signal", name, "KILL"], check=True)
    wait_end(pidfd)


def wait_until_cut(log: Path, name: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not log.read_text().endswith(CUT.format(name)):
        assert time.monotonic() < deadline, log.stat()
        time.sleep(0.01)  # nothing tells of a file's end


def test_a_log_has_a_size(name: str, tmp_path: Path) -> None:
    """Output without end: the file stops there and says so once, and the command is not stopped by it."""
    log = tmp_path / "log"
    pidfd = start(name, log, "yes")
    wait_until_cut(log, name)
    size = log.stat().st_size
    time.sleep(0.1)
    assert log.stat().st_size == size == LIMIT + len("\n" + CUT.format(name))
    stop(name, pidfd)
    text = log.read_text()
    assert text == "y\n" * (LIMIT // 2) + "\n" + CUT.format(name) + f"nstool: {name} was ended by signal 9\n"


def test_a_log_that_is_emptied_goes_on(name: str, tmp_path: Path) -> None:
    """As logrotate(8) does with copytruncate."""
    log = tmp_path / "log"
    pidfd = start(name, log, "yes")
    wait_until_cut(log, name)
    os.truncate(log, 0)
    wait_until_cut(log, name)
    assert log.stat().st_size == LIMIT + len("\n" + CUT.format(name))
    stop(name, pidfd)


def test_a_log_is_whole(name: str, tmp_path: Path) -> None:
    """All of both streams, in their order, also when the command ends at once; it is appended."""
    log = tmp_path / "log"
    log.write_text("before\n")
    script = "seq 3000; echo error >&2; seq 3"
    run_to_the_end(name, log, "sh", "-c", f"{script}; read x < /srv/end || true")
    lines = "".join(f"{n}\n" for n in range(1, 3001))
    assert log.read_text() == f"before\n{lines}error\n1\n2\n3\nnstool: {name} ended with exit status 0\n"


def test_the_command_has_no_fd_of_the_log(name: str, tmp_path: Path) -> None:
    """It can neither empty the file, nor write over what it has said."""
    log = tmp_path / "log"
    script = "import os; os.write(1, b'evidence '); os.truncate(1, 0) if os.fstat(1).st_mode & 0o100000 else None"
    script += "; print(os.readlink('/proc/self/fd/1').split(':')[0], flush=True); open('/srv/end').read()"
    run_to_the_end(name, log, "/usr/bin/python3", "-c", script)
    assert log.read_text().startswith("evidence pipe\n")


def test_without_a_limit_there_is_none(name: str, tmp_path: Path) -> None:
    """--log-size 0; the file is the command's own stream then."""
    log = tmp_path / "log"
    run_to_the_end(name, log, "sh", "-c", "yes | head -c 200000; read x < /srv/end", size="0")
    assert log.stat().st_size > 200000


def test_who_outlives_its_supervisor_writes_itself(name: str, tmp_path: Path) -> None:
    """A pipe would have no reader then: a limit is refused."""
    words = [NSTOOL, "run", "--detach", "--no-die-with-parent", "--log", str(tmp_path / "log"), "--log-size", "1M"]
    done = subprocess.run([*words, "--", "true"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nstool: --log-size: a command that outlives its supervisor")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--log-size", "1M"), "--log-size: goes with --detach"),
        (("--detach", "--log-size", "1M"), "--log-size: goes with --log"),
        (("--detach", "--log", "/dev/null", "--log-size", "many"), '--log-size: "many" is not a size'),
        (("--detach", "--log", "/dev/null", "--log-size", "99999999T"), "--log-size: no file is that large"),
    ],
)
def test_what_is_no_size_is_refused(words: tuple[str, ...], says: str) -> None:
    done = subprocess.run([NSTOOL, "run", *words, "--", "true"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"nstool: {says}")


@pytest.mark.parametrize("terminal", ["never", "always"])
def test_output_that_nobody_reads_takes_no_memory(name: str, terminal: str) -> None:
    """The pipe or the terminal is full, and the command waits; who relays holds no more than a few pages."""
    words = [NSTOOL, "run", "--name", name, "--terminal", terminal, "--", "yes"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.read(1) == b"y"
        processes.wait_exec(run.pid, "nsexec")
        time.sleep(0.5)  # in which it would grow
        pids = [run.pid, *(process.pid for process in processes.descendants(run.pid))]
        resident = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4 for pid in pids]
        run.terminate()
        run.wait(SECONDS)
    assert max(resident) < 4096  # KiB
