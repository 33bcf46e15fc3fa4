"""The relay between a terminal of a sandbox and the streams of the caller waits for none of them alone. pty(7)."""

from __future__ import annotations

import array
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs("root", "native", "nsexec")

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
SECONDS = 120  # only what hangs takes as long, in an emulated machine too
LINES = 40_000
# Sends its terminal to who listens at /srv/s, and ends when that has been looked at.
SEND = """
import array, os, socket
s = socket.socket(socket.AF_UNIX)
s.connect("/srv/s")
s.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [os.open("/dev/tty", os.O_RDWR)]))])
s.recv(1)
print("sent", flush=True)
"""


@pytest.fixture(params=["run", "exec"])
def words(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> Iterator[list[str]]:
    """The beginning of a command line whose command gets a terminal: of the supervisor, and of who waits for exec.

    /srv inside is tmp_path.
    """
    tmp_path.chmod(0o755)
    run = [NSTOOL, "run", "--name", name, "--mount", f"{tmp_path}:/srv"]
    if request.param == "run":
        yield [*run, "--terminal", "always"]
        return
    with subprocess.Popen([*run, "--", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE) as box:
        assert box.stdout is not None
        assert box.stdout.readline() == b"ready\n"
        yield [NSTOOL, "exec", name, "--terminal", "always"]
        subprocess.run([NSTOOL, "stop", name], check=True)


def test_what_goes_both_ways_does_not_stop_either(words: list[str], tmp_path: Path) -> None:
    """More goes in than a terminal holds while more comes out than a pipe holds: nothing of it is lost."""
    (tmp_path / "in").write_text("".join(f"{n:07}\n" for n in range(LINES)))
    command = [*words, "--", "sh", "-c", "stty -echo; echo; exec cat"]
    with open(tmp_path / "in") as lines:
        done = subprocess.run(command, stdin=lines, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [int(line) for line in done.stdout.split() if line.isdecimal()][-LINES:] == list(range(LINES))


def test_a_reader_that_goes_away_ends_the_command(words: list[str]) -> None:
    """Its terminal hangs up, as when a window is closed."""
    with subprocess.Popen([*words, "--", "yes"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.read(2) == b"y\r"
        run.stdout.close()
        assert run.wait(SECONDS) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_reader_that_does_not_read_keeps_no_signal_back(words: list[str], number: int) -> None:
    with subprocess.Popen([*words, "--", "yes"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stdout.read(1) == b"y"
        run.send_signal(number)
        assert run.wait(SECONDS) == 128 + number


def test_output_that_is_lost_is_told(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*words, "--", "echo", "x"], stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 125
    assert b"standard output" in done.stderr


def test_who_keeps_the_terminal_is_not_waited_for(words: list[str], tmp_path: Path) -> None:
    """The command has given its terminal to somebody outside, and what it wrote is out."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        (tmp_path / "s").chmod(0o777)
        server.listen()
        command = [*words, "--", "/usr/bin/python3", "-c", SEND]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as run:
            end, _ = server.accept()
            with end:
                _, ancillary, _, _ = end.recvmsg(1, socket.CMSG_LEN(4))
                fds = array.array("i", ancillary[0][2])
                try:
                    assert os.isatty(fds[0])
                    end.send(b"x")
                    assert run.stdout is not None
                    assert run.stdout.read() == b"sent\r\n"
                    assert run.wait(SECONDS) == 0
                finally:
                    os.close(fds[0])
