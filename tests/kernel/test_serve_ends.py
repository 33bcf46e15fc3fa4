"""``nstool serve`` leaves nothing, whenever and however it is told to end, and whoever does not listen to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from nstool.sandbox import rundir
from tests.support import serving
from tests.support.child import left_by_dead
from tests.support.serving import DEADLINE, NSTOOL, write

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
CAT = "command = ['/bin/cat']"
SLOW = """
import time
from nstool.service import handler
time.sleep(60)

@handler
def handle(connection):
    return
"""


def started(spec: Path, name: str, stderr: int) -> subprocess.Popen[bytes]:
    command = [NSTOOL, "serve", "--name", name, str(spec)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True)


def wait_for(path: Path) -> None:
    end = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.0005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("later", [0, 0.02, 0.05, 0.1])
def test_told_to_end_while_it_begins(name: str, tmp_path: Path, run_dir: Path, number: int, later: float) -> None:
    """From its record on, whatever it is making; also if it is told until it has ended."""
    process = started(write(tmp_path / "s.toml", TCP, CAT), name, subprocess.DEVNULL)
    wait_for(run_dir / "sandboxes" / name)
    time.sleep(later)
    end = time.monotonic() + DEADLINE
    while process.poll() is None:
        assert time.monotonic() < end
        os.killpg(process.pid, number)
        time.sleep(0.002)
    assert process.returncode == 0
    assert not run_dir.exists()


def test_signals_come_to_the_thread_that_has_an_answer_to_them(name: str, tmp_path: Path) -> None:
    """Another would be killed by one at the very end, when Python has taken its handlers back."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        one.tell("reload")  # by threads: one reads the spec, one makes the generation
        blocked = {
            int(task.name): int((task / "status").read_text().partition("SigBlk:")[2].split()[0], 16)
            for task in Path(f"/proc/{one.process.pid}/task").iterdir()
        }
    assert len(blocked) > 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        takes = [tid for tid, mask in blocked.items() if not mask & 1 << number - 1]
        assert takes == [one.process.pid]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_key_of_the_terminal_leaves_sandboxes_their_time(name: str, tmp_path: Path, number: int) -> None:
    """It comes to the whole process group, and service managers tell all processes, in which the templates are not."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = started(write(tmp_path / "s.toml", TCP + "grace = 60", CAT), name, out.fileno())
    one = serving.Serving(name, process, log)
    serving.wait(one, 0)
    template = one.status()["generations"][0]["pid"]
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        os.killpg(process.pid, number)
        os.kill(template, number)
        one.until(lambda s: s["stopping"], "it was told")
        live.sendall(b"y")
        assert live.recv(1) == b"y"
    assert process.wait(DEADLINE) == 0


def test_a_template_that_does_not_answer_is_ended(name: str, tmp_path: Path, run_dir: Path) -> None:
    """When the time of its sandboxes is over: somebody has stopped it, or it waits for ever."""
    one = serving.start(write(tmp_path / "s.toml", TCP + "grace = 0.1", CAT), name, tmp_path / "log")
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        os.kill(one.status()["generations"][0]["pid"], signal.SIGSTOP)
        one.process.terminate()
        assert one.process.wait(DEADLINE) == 0
        assert live.recv(1) == b""
    assert "cannot be told to take no more" in one.log.read_text()
    assert not run_dir.exists()


def test_a_service_that_ends_makes_no_generation(name: str, tmp_path: Path) -> None:
    """Who would be connected to it would be ended with it."""
    one = serving.start(write(tmp_path / "s.toml", TCP + 'attest = "never"\ngrace = 60', CAT), name, tmp_path / "log")
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        one.tell("stop")
        for what in ("rotate", "reload"):
            done = subprocess.run([NSTOOL, "service", what, name], capture_output=True, text=True)
            told = "nstool: the service is stopping, and makes no new generation\n"
            assert (done.returncode, done.stderr) == (125, told)
        live.sendall(b"y")
        assert live.recv(1) == b"y"
    assert one.process.wait(DEADLINE) == 0


def test_renewed_while_it_begins(name: str, tmp_path: Path, run_dir: Path) -> None:
    """SIGHUP before the first generation, which is the new one, does not end it."""
    log = tmp_path / "log"
    spec = write(tmp_path / "s.toml", TCP, CAT)
    with log.open("wb") as out:
        process = started(spec, name, out.fileno())
    wait_for(run_dir / "sandboxes" / name)
    process.send_signal(signal.SIGHUP)
    end = time.monotonic() + DEADLINE
    while b"takes connections" not in log.read_bytes():
        assert time.monotonic() < end
        assert process.poll() is None, log.read_text()
        time.sleep(0.01)
    process.terminate()
    assert process.wait(DEADLINE) == 0


def test_told_to_end_while_a_handler_is_loaded(name: str, tmp_path: Path, run_dir: Path) -> None:
    """However long that takes."""
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text(SLOW)
    process = started(
        write(tmp_path / "s.toml", TCP + 'shape = "python"\nhandler = "app.py"'), name, subprocess.DEVNULL
    )
    wait_for(run_dir / "sandboxes" / f"{name}.1" / "door")
    begun = time.monotonic()
    process.terminate()
    assert process.wait(DEADLINE) == 0
    assert time.monotonic() - begun < 30  # before it had given up by itself


@pytest.mark.parametrize("how", ["terminate", "stop"])
def test_nobody_reads_what_it_says(name: str, tmp_path: Path, run_dir: Path, how: str) -> None:
    """As with `nstool serve 2>&1 | head -1`: it serves on, and ends as ever."""
    reader, writer = os.pipe()
    process = started(write(tmp_path / "s.toml", TCP, "command = ['/bin/sh', '-c', 'echo x >&2; cat']"), name, writer)
    os.close(writer)
    said = b""
    while b"takes connections" not in said:
        more = os.read(reader, 4096)
        assert more
        said += more
    os.close(reader)
    one = serving.Serving(name, process, tmp_path / "s.toml")
    assert serving.ask(one.port(), b"x") == b"x"
    one.tell("rotate")
    assert serving.ask(one.port(), b"y") == b"y"
    if how == "stop":
        one.tell("stop")
    else:
        process.terminate()
    assert process.wait(DEADLINE) == 0
    assert not run_dir.exists()


def test_who_does_not_read_holds_nobody_up(name: str, tmp_path: Path) -> None:
    """A pipe that is full: the service answers and ends, and says what was missed when somebody reads again."""
    reader, writer = os.pipe()
    script = "printf %30000d 7 >&2; echo done"
    process = started(write(tmp_path / "s.toml", TCP, f'command = ["/bin/sh", "-c", "{script}"]'), name, writer)
    os.close(writer)
    one = serving.Serving(name, process, tmp_path / "s.toml")
    with open(reader, "rb") as said:
        assert b"takes connections" in said.readline()
        for _ in range(6):
            assert serving.ask(one.port()) == b"done\n"
        for _ in range(3):
            one.tell("rotate")
        lines = [said.readline()]
        while b"not written here" not in lines[-1]:
            one.tell("rotate")
            lines.append(said.readline())
        number = lines[-1].split()
        assert number[0] == b"nstool:"
        assert sum(line.count(b" ") for line in lines) < 6 * 29999
        assert int(number[1]) > 30_000
        process.terminate()
        assert process.wait(DEADLINE) == 0


@pytest.mark.orphans
def test_a_template_has_no_file_of_who_started_it(name: str, tmp_path: Path) -> None:
    """Who reads what the service says sees the end of that when the service is killed, not its sandboxes' end."""
    reader, writer = os.pipe()
    process = started(write(tmp_path / "s.toml", TCP, CAT), name, writer)
    os.close(writer)
    one = serving.Serving(name, process, tmp_path / "s.toml")
    with open(reader, "rb") as said:
        assert b"takes connections" in said.readline()
        template = one.status()["generations"][0]["pid"]
        with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
            live.sendall(b"x")
            assert live.recv(1) == b"x"
            assert {os.readlink(f"/proc/{template}/fd/{fd}") for fd in range(3)} == {"/dev/null"}
            process.kill()
            process.wait()
            assert said.read() == b""
            live.sendall(b"y")
            assert live.recv(1) == b"y"
    os.kill(template, signal.SIGKILL)
    os.waitpid(template, 0)
    assert subprocess.run([NSTOOL, "cleanup"], capture_output=True).returncode == 0


@pytest.mark.orphans
def test_it_cleans_up_after_others(name: str, tmp_path: Path, run_dir: Path) -> None:
    """As nstool run does: what killed launchers have left."""
    left_by_dead(lambda: rundir.claim(f"{name}a"))
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name):
        assert not (run_dir / "sandboxes" / f"{name}a").exists()


@pytest.mark.orphans
def test_cleanup_leaves_a_template_that_outlives_its_service_its_cgroups(
    name: str, tmp_path: Path, run_dir: Path
) -> None:
    """Empty ones of places too, though their names tell of a dead launcher; with the template they go."""
    one = serving.start(write(tmp_path / "s.toml", TCP, CAT), name, tmp_path / "log")
    template = one.status()["generations"][0]["pid"]
    one.process.kill()
    one.process.wait()
    journal = (run_dir / "sandboxes" / f"{name}.1" / "journal").read_text().splitlines()
    groups = [Path(line.split('"unlinkat",[-100,"')[1].split('"')[0]) for line in journal if "unlinkat" in line]
    assert len(groups) >= 5
    assert all(path.is_dir() for path in groups)
    subprocess.run([NSTOOL, "cleanup"], check=True, capture_output=True)
    assert all(path.is_dir() for path in groups)
    os.kill(template, signal.SIGKILL)
    os.waitpid(template, 0)
    subprocess.run([NSTOOL, "cleanup"], check=True, capture_output=True)
    assert not any(path.exists() for path in groups)
