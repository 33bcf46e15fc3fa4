"""What a killed ``nstool serve`` has left is told of, and can be ended; no file of a socket stays."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.sandbox import rundir
from nstool.sandbox.launch import ends_within
from tests.support import plans, serving
from tests.support.serving import DEADLINE, NSTOOL, Serving, write
from tests.support.user import User

pytestmark = [
    pytest.mark.needs("native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"),
    pytest.mark.orphans,
]

CAT = "command = ['/bin/cat']"
GRACE = 60  # longer than what is ended at once takes on a busy machine
DEAF = """command = ['/bin/sh', '-c', "trap '' TERM; echo ready; while :; do sleep 1; done"]"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=4 * DEADLINE)


def connected(path: Path, said: bytes = b"x") -> socket.socket:
    """A connection to a Unix socket whose sandbox has answered."""
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(DEADLINE)
    one.connect(str(path))
    one.sendall(said)
    assert one.recv(10)
    return one


@contextlib.contextmanager
def killed(spec: Path, name: str, path: Path, clients: int = 1) -> Iterator[tuple[Serving, list[socket.socket]]]:
    """A service that was killed while it has clients; what it has left is killed at the end, if it still runs."""
    one = serving.start(spec, name, spec.with_suffix(".log"))
    template = one.status()["generations"][0]["pid"]
    with contextlib.ExitStack() as open_:
        live = [open_.enter_context(connected(path)) for _ in range(clients)]
        one.process.kill()
        one.process.wait()
        try:
            yield one, live
        finally:
            end_template(template)


def end_template(template: int) -> None:
    """Kill what a killed service has left, if it is there, and what was made for it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(template, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(template, 0)
    assert run("cleanup").returncode == 0


def spec_of(tmp_path: Path, *words: str, command: str = CAT) -> tuple[Path, Path]:
    """A spec with a Unix socket, and where that is."""
    path = tmp_path / "socket"
    return write(tmp_path / "s.toml", "\n".join((f'listen = ["unix:{path}"]', *words)), command), path


def test_top_of_one_that_is_killed_says_what_goes_on(name: str, tmp_path: Path) -> None:
    spec, path = spec_of(tmp_path)
    one = serving.start(spec, name, spec.with_suffix(".log"))
    template = one.status()["generations"][0]["pid"]
    command = [NSTOOL, "service", "top", name, "--interval", "0.1"]
    with connected(path), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout is not None
        assert top.stdout.readline().startswith(f"{name}: ")
        one.process.kill()
        one.process.wait()
        last = top.stdout.read().splitlines()[-1]
        end_template(template)
    assert last.startswith(f"service '{name}' does not run: its nstool serve was killed; generation 1 goes on with 1 ")
    assert top.returncode == 0


def test_it_is_told_of(name: str, tmp_path: Path) -> None:
    """By status, list, rotate and cleanup, also as JSON, before and after the record of the service is gone."""
    spec, path = spec_of(tmp_path)
    sentence = (
        "its nstool serve was killed; generation 1 goes on with 1 sandbox, nobody is accepted; start it again, or "
        f"nstool service stop {name}"
    )
    with killed(spec, name, path) as (_, [live]):
        for _ in range(2):
            done = run("service", "status", name)
            assert (done.returncode, done.stdout.splitlines()[-1]) == (1, sentence), done
            done = run("service", "status", name, "--json")
            found = json.loads(done.stdout)
            assert (done.returncode, found["killed"], found["live"], found["places"]) == (1, True, 1, 4)
            assert (found["listening"], found["uptime"]) == ([f"unix:{path}"], None)
            assert [(one["state"], len(one["places"])) for one in found["generations"]] == [("left", 1)]
            listed = json.loads(run("service", "list", "--json").stdout)["services"]
            [row] = [one for one in listed if one["name"] == name]
            assert (row["killed"], row["pid"], row["live"], row["unanswered"]) == (True, None, 1, sentence)
            assert name in run("service", "list").stdout
            for words in (("rotate", name), ("top", name)):
                done = run("service", *words)
                assert (done.returncode, sentence in done.stderr) == (2, True), done
            done = run("cleanup")
            assert (done.returncode, plans.own_lines(name, done.stdout)) == (0, f"{name}: {sentence}")
        rows = json.loads(run("cleanup", "--json").stdout)["sandboxes"]
        assert [row for row in rows if name in row["name"]] == [{"name": name, "done": [], "left": sentence}]
        live.sendall(b"y")
        assert live.recv(1) == b"y"


def test_it_is_ended(name: str, tmp_path: Path, run_dir: Path) -> None:
    """The sandboxes have the seconds of grace, then the signal that their spec says; nothing is left then."""
    script = "trap 'echo asked; exit' USR1; while read line; do echo $line; done"
    words = ("grace = 3", 'stop_signal = "USR1"', f'metrics = "unix:{tmp_path}/metrics"')
    spec, path = spec_of(tmp_path, *words, command=f'command = ["/bin/sh", "-c", "{script}"]')
    one = serving.start(spec, name, tmp_path / "log")
    with connected(path, b"line\n") as live:
        one.process.kill()
        one.process.wait()
        begun = time.monotonic()
        with subprocess.Popen([NSTOOL, "service", "stop", name], stderr=subprocess.PIPE, text=True) as stop:
            assert stop.stderr is not None
            said = ""
            while "stopping" not in said:
                said += stop.stderr.readline()
            live.sendall(b"more\n")
            assert live.recv(10) == b"more\n"
            assert live.recv(10) == b"asked\n"
            assert time.monotonic() - begun >= 2.9
            said += stop.stderr.read()
        assert stop.returncode == 0
    assert "have 3 s, then SIGUSR1, and SIGKILL 3 s later" in said
    assert "generation 1 is gone" in said
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "s.toml"]
    assert not run_dir.exists()
    assert run("service", "status", name).returncode == 2


@pytest.mark.parametrize("how", ["--kill", "another", "signal"])
def test_it_is_ended_at_once(name: str, tmp_path: Path, run_dir: Path, how: str) -> None:
    """With --kill, also by another command than that which waits, or by the key that interrupts that."""
    spec, path = spec_of(tmp_path, f"grace = {GRACE}", command=DEAF)
    one = serving.start(spec, name, tmp_path / "log")
    with connected(path) as live:
        one.process.kill()
        one.process.wait()
        words = [NSTOOL, "service", "stop", name, *(["--kill"] if how == "--kill" else [])]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as stop:
            assert stop.stderr is not None
            while how != "--kill" and "stopping" not in stop.stderr.readline():
                pass
            if how == "another":
                assert one.status()["stopping"]
                assert run("service", "rotate", name).returncode == 125
                assert run("service", "stop", name).returncode == 0
                live.sendall(b"y")
                assert one.status()["live"] == 1
                assert run("service", "stop", name, "--kill").returncode == 0
            elif how == "signal":
                stop.send_signal(signal.SIGINT)
            begun = time.monotonic()
            assert stop.wait(DEADLINE) == 0
            assert time.monotonic() - begun < GRACE / 2
        with contextlib.suppress(ConnectionResetError):  # it has not read what was said
            assert live.recv(10) == b""
    assert not path.exists()
    assert not run_dir.exists()


def test_all_generations_and_shards_are_ended(name: str, tmp_path: Path, run_dir: Path) -> None:
    """Also one of before that had not yet finished."""
    spec, path = spec_of(tmp_path, "shards = 2")
    one = serving.start(spec, name, tmp_path / "log")
    with connected(path) as live:
        one.tell("rotate")
        one.until(lambda s: len(s["generations"]) == 3, "the other shard of the first is gone")
        one.process.kill()
        one.process.wait()
        done = run("service", "status", name)
        assert "generations 1, 2 go on with 1 sandbox," in done.stdout
        assert run("service", "stop", name, "--kill").returncode == 0
        assert live.recv(1) == b""
    assert not path.exists()
    assert not run_dir.exists()


def left_alone(name: str, tmp_path: Path) -> tuple[Path, int]:
    """Kill a service that has no client: its socket, and the pid of the template that goes on."""
    spec, path = spec_of(tmp_path)
    one = serving.start(spec, name, tmp_path / "log")
    template: int = one.status()["generations"][0]["pid"]
    one.process.kill()
    one.process.wait()
    return path, template


def test_a_template_that_does_not_answer_is_ended(name: str, tmp_path: Path, run_dir: Path) -> None:
    """Somebody has stopped it."""
    path, template = left_alone(name, tmp_path)
    os.kill(template, signal.SIGSTOP)
    assert run("service", "status", name).returncode == 1
    assert run("service", "stop", name).returncode == 0
    assert not path.exists()
    assert not run_dir.exists()


# A service that is killed when its template runs and has no orders and no door yet.
EARLY = """
import os, signal
from nstool.cli.start import main
from nstool.service import generation
generation._door = lambda name: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def test_a_template_that_nobody_can_reach_ends(name: str, tmp_path: Path, run_dir: Path) -> None:
    """Its service was killed before it had told it anything."""
    spec, path = spec_of(tmp_path)
    command = [sys.executable, "-c", EARLY, "serve", "--name", name, str(spec)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    [template] = [one.init_pid for one in rundir.list_sandboxes() if one.name == f"{name}.1"]
    try:
        with open(os.pidfd_open(template)) as pidfd:
            assert ends_within(pidfd.fileno(), DEADLINE / 10)
    finally:
        end_template(template)
    assert not path.exists()
    assert not run_dir.exists()


def test_a_service_that_runs_is_waited_for(name: str, tmp_path: Path, run_dir: Path) -> None:
    """With --wait nothing is left when the command returns; --timeout gives up before; --kill ends it at once."""
    spec, path = spec_of(tmp_path, f"grace = {GRACE}")
    one = serving.start(spec, name, tmp_path / "log")
    with connected(path) as live:
        done = run("service", "stop", name, "--timeout", "1")
        assert (done.returncode, "--wait" in done.stderr) == (2, True)
        done = run("service", "stop", name, "--wait", "--timeout", "3")
        assert (done.returncode, "still ends after 3 s" in done.stderr) == (124, True), done
        assert f"have {GRACE} s, then SIGTERM, and SIGKILL {GRACE} s later" in one.log.read_text()
        live.sendall(b"y")
        assert live.recv(1) == b"y"
        [row] = [one for one in json.loads(run("service", "list", "--json").stdout)["services"] if one["name"] == name]
        assert (row["generation"], row["stopping"], row["killed"]) == (None, True, False)
        [shown] = [line for line in run("service", "list").stdout.splitlines() if line.strip().startswith(name)]
        assert "  stopping  " in shown
        done = run("service", "stop", name, "--wait", "--timeout", "0.3")
        assert done.returncode == 124
        live.sendall(b"z")
        assert live.recv(1) == b"z"
        with subprocess.Popen([NSTOOL, "service", "stop", name, "--wait", "--kill"]) as stop:
            assert one.process.wait(DEADLINE) == 0
        assert stop.returncode == 0
    assert "told again to stop: those that there are get SIGKILL at once" in one.log.read_text()
    assert not run_dir.exists()
    one = serving.start(spec, name, tmp_path / "at_once")
    with connected(path) as live:
        begun = time.monotonic()
        assert run("service", "stop", name, "--kill").returncode == 0
        assert one.process.wait(DEADLINE) == 0
        assert "stopping: no more connections; those that there are get SIGKILL at once\n" in one.log.read_text()
        assert "have" not in one.log.read_text()
        assert live.recv(1) == b""
        assert time.monotonic() - begun < GRACE / 2
    done = run("service", "stop", name, "--wait")
    assert (done.returncode, "no service" in done.stderr) == (2, True), done


def test_one_that_is_stopped_is_not_waited_for(name: str, tmp_path: Path) -> None:
    """The time-out holds for its answer, too; what it was told it does when it goes on."""
    spec, _ = spec_of(tmp_path)
    one = serving.start(spec, name, tmp_path / "log")
    one.process.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        done = run("service", "stop", name, "--wait", "--timeout", "0.5")
        assert time.monotonic() - begun < 8
    finally:
        one.process.send_signal(signal.SIGCONT)
    assert (done.returncode, "SIGCONT" in done.stderr, "it was asked, stop" in done.stderr) == (124, True, True), done
    assert one.process.wait(DEADLINE) == 0


@pytest.mark.parametrize("word", ["list", "status", "stop"])
def test_who_asks_undoes_what_is_left_of_all(name: str, tmp_path: Path, run_dir: Path, word: str) -> None:
    """Of a service and its template that were both killed nobody is there to ask."""
    path, template = left_alone(name, tmp_path)
    with open(os.pidfd_open(template)) as pidfd:
        os.kill(template, signal.SIGKILL)
        assert ends_within(pidfd.fileno(), DEADLINE)
    done = run("service", word, *([] if word == "list" else [name]))
    assert done.returncode == (0 if word == "list" else 2), done
    assert not path.exists()
    assert not run_dir.exists()


@pytest.mark.needs("userns")
def test_a_users_is_ended(as_user: Callable[..., Any], user: User, name: str) -> None:
    """He sees what it has left, and ends it."""

    def act() -> tuple[str, int, list[str]]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        spec = path / "s.toml"
        spec.write_text(f'{CAT}\n{none}\n[service]\nlisten = ["unix:{path}/socket"]\nplaces = 4\n')
        one = serving.start(spec, name, path / "log")
        with connected(path / "socket"):
            one.process.kill()
            one.process.wait()
            told = str(run("service", "status", name))
            status = run("service", "stop", name, "--kill").returncode
        left = sorted(each.name for each in path.iterdir())
        shutil.rmtree(path)
        return told, status, left

    told, status, left = as_user(act, timeout=4 * DEADLINE)
    assert "goes on with 1 sandbox, nobody is accepted" in told
    assert (status, left) == (0, ["log", "s.toml"])


# ---- commands for sandboxes, and a template ----


def test_commands_for_sandboxes_tell_what_a_template_is(name: str, tmp_path: Path) -> None:
    """They do nothing, and say which command is meant; those that look, look."""
    spec, _ = spec_of(tmp_path)
    with serving.serving(spec, name) as one:
        template = f"{name}.1"
        for words in (("stop", template), ("signal", template), ("exec", template, "--", "/bin/true")):
            done = run(*words)
            assert (done.returncode, f"nstool service stop {name} ends" in done.stderr) == (2, True), done
        done = run("enter", template, "--", "/bin/true")
        assert (done.returncode, f"nstool service rotate {name}" in done.stderr) == (2, True), done
        done = run("attest", template)
        assert (done.returncode, f"nstool service attest {name}" in done.stderr, done.stdout) == (2, True, ""), done
        assert run("show", template).returncode == 0
        rows = {each["name"]: each for each in json.loads(run("ps", "--json").stdout)["sandboxes"]}
        assert (rows[name]["state"], rows[template]["state"]) == ("serving", "template")
        assert rows[template]["template"]["service"] == name
        assert rows[name]["template"] == {}
        assert [g["number"] for g in one.status()["generations"]] == [1]


@pytest.mark.parametrize("word", ["web.1", "web.12-3"])
def test_no_service_is_called_as_a_template_of_another(tmp_path: Path, word: str) -> None:
    """By whatever its name is said."""
    spec, _ = spec_of(tmp_path)
    named = write(tmp_path / "t.toml", spec.read_text().partition("[service]\n")[2], f'name = "{word}"', CAT)
    same = tmp_path / f"{word}.toml"
    same.write_text(spec.read_text())
    for words, place in (
        (("--name", word, str(spec)), "--name"),
        ((str(named),), f"{named}:1: name"),
        ((str(same),), f"nstool: {same}: "),
    ):
        done = run("serve", *words)
        assert done.returncode == 2
        assert place in done.stderr
        assert f'"{word}" would be the name of generation' in done.stderr


# ---- the files of sockets ----


def test_cleanup_removes_sockets(name: str, tmp_path: Path, run_dir: Path) -> None:
    """That of the metrics when the service is killed, that of a listener when its last template is."""
    metrics = tmp_path / "metrics"
    spec, path = spec_of(tmp_path, f'metrics = "unix:{metrics}"')
    one = serving.start(spec, name, tmp_path / "log")
    one.tell("rotate")
    one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the first is gone")
    template = one.status()["generations"][0]["pid"]
    assert path.exists()
    one.process.kill()
    one.process.wait()
    assert f"remove socket {metrics}" in run("cleanup").stdout
    assert (path.exists(), metrics.exists()) == (True, False)
    os.kill(template, signal.SIGKILL)
    os.waitpid(template, 0)
    said = run("cleanup").stdout
    assert f"remove socket {path}" in said
    assert not path.exists()
    assert not run_dir.exists()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_anothers_socket_is_left_alone(name: str, tmp_path: Path, how: str) -> None:
    """Who has come to its path since: one that listens, one that is dead, and a file that is none."""
    others = tmp_path / "file", tmp_path / "dead", tmp_path / "listens"
    words = ", ".join(f'"unix:{path}"' for path in others)
    one = serving.start(write(tmp_path / "s.toml", f"listen = [{words}]", CAT), name, tmp_path / "log")
    template = one.status()["generations"][0]["pid"]
    for path in others:
        path.unlink()
    others[0].write_text("mine")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(others[1]))
    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(str(others[2]))
        listens.listen()
        if how == "stop":
            assert serving.stop(one) == 0
        else:
            one.process.kill()
            one.process.wait()
            os.kill(template, signal.SIGKILL)
            os.waitpid(template, 0)
            assert run("cleanup").returncode == 0
        assert all(path.exists() for path in others)
        listens.settimeout(0)
        with pytest.raises(BlockingIOError):  # and nobody has knocked there
            listens.accept()


def test_a_summary_of_many_and_each_by_name(name: str, tmp_path: Path) -> None:
    """Of many cgroups and ranges the number is told; --long and --json name each."""
    spec, _ = spec_of(tmp_path, "places = 8")
    said = {}
    for option in ("", "--long", "--json"):
        one = serving.start(spec, name, tmp_path / "log")
        template = one.status()["generations"][0]["pid"]
        one.process.kill()
        one.process.wait()
        os.kill(template, signal.SIGKILL)
        os.waitpid(template, 0)
        said[option] = run("cleanup", *([option] if option else [])).stdout
    assert "cgroups; released 9 ranges of ids" in said[""]
    assert all(len(line) < 300 for line in said[""].splitlines())
    assert said["--long"].count("remove cgroup /") >= 8
    [done] = [each["done"] for each in json.loads(said["--json"])["sandboxes"] if each["name"] == f"{name}.1"]
    assert sum(line.startswith("released id ") for line in done) == 9
    assert rundir.names() == []
