"""The log of ``nstool serve``: what commands say has a name before it, how they end is said, and nobody floods it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nstool._native import lib
from nstool.errors import NstoolError
from nstool.sandbox import engine
from nstool.service import generation, log
from nstool.service.blueprint import Remains
from nstool.service.channel import BOARD, Channel
from nstool.service.supervisor import Supervisor
from nstool.spec.service import Service
from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, Serving, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
CAT = "command = ['/bin/cat']"


def shell(script: str) -> str:
    """The line of a spec whose command is a shell script."""
    return f"command = ['/bin/sh', '-c', '''{script}''']"


def until(one: Serving, text: str, times: int = 1) -> list[str]:
    """Wait until the log has a text so often; its lines."""
    end = time.monotonic() + DEADLINE
    while one.log.read_text().count(text) < times:
        assert time.monotonic() < end, one.log.read_text()
        time.sleep(0.02)
    return one.log.read_text().splitlines()


# ---- whose a line is ----


def test_no_line_of_a_sandbox_looks_like_one_of_the_service(name: str, tmp_path: Path) -> None:
    """Whatever it writes: each line begins with its place and life; what does not print is escaped."""
    forged = f"nstool: {name}: generation 99 takes connections"
    script = f"printf 'a\\n{forged}\\nb\\r{forged}\\n\\033[2K\\302\\205{forged}\\377\\n{forged}' >&2"
    with serving.serving(write(tmp_path / "s.toml", TCP, shell(script)), name) as one:
        ask(one.port())
        ask(one.port())
        lines = until(one, forged, 8)
    said = [line for line in lines if not line.startswith(f"nstool: {name}: ")]
    assert not [line for line in lines if line.startswith(forged)]
    for place, life in ((1, 2), (2, 3)):  # the first was attested
        whose = f"{name}.1[place {place}, life {life}]: "
        assert [line.removeprefix(whose) for line in said if line.startswith(whose)] == [
            "a",
            forged,
            f"b\\x0d{forged}",
            f"\\x1b[2K\\x85{forged}\\xff",
            forged,
        ]
    assert len(said) == 10


def test_each_line_of_a_message_says_whose_it_is(name: str, tmp_path: Path) -> None:
    """Also those of what a step was for, why it was refused, and what to do."""
    spec = write(tmp_path / "s.toml", TCP, CAT)
    with serving.serving(spec, name) as one:
        write(spec, TCP, "command = ['/bin/nosuch']")
        one.process.send_signal(signal.SIGHUP)
        lines = until(one, "remedy: ")
    assert [line for line in lines if not line.startswith(f"nstool: {name}: ")] == []


def test_each_line_begins_with_its_time_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    """What the service says and what commands say; in UTC, to the millisecond."""
    spec = write(tmp_path / "s.toml", TCP, shell("echo one >&2; printf two >&2; exit 3"))
    with serving.serving(spec, name, "--timestamps") as one:
        before = datetime.now(UTC)
        ask(one.port())
        until(one, "status 3")
        lines = until(one, "two")
    times = [datetime.strptime(line.partition(" ")[0], "%Y-%m-%dT%H:%M:%S.%f%z") for line in lines]
    assert times == sorted(times)
    assert {line[23:25] for line in lines} == {"Z "}
    [said] = [at for at, line in zip(times, lines, strict=True) if line.endswith(": one")]
    assert timedelta(milliseconds=-1) < said - before < timedelta(seconds=DEADLINE)


def test_quiet_is_what_goes_as_it_should(name: str, tmp_path: Path) -> None:
    """What does not is said: a spec that is refused, a command that fails, nobody who is served."""
    path = tmp_path / "s"
    words = f'listen = ["unix:{path}"]\n'
    spec = write(tmp_path / "s.toml", words, shell("exit 3"))
    log = tmp_path / "log"
    with log.open("ab") as out:
        process = subprocess.Popen([NSTOOL, "serve", "--quiet", "--name", name, str(spec)], stdout=out, stderr=out)
    one = Serving(name, process, log)
    end = time.monotonic() + DEADLINE
    while not path.exists():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)
    with socket.socket(socket.AF_UNIX) as client:
        while client.connect_ex(str(path)) == errno.ECONNREFUSED:  # it does not listen yet
            assert time.monotonic() < end, log.read_text()
        until(one, "status 3")
    one.tell("rotate")
    write(spec, words + "nosuch = 1\n", shell("exit 3"))
    process.send_signal(signal.SIGHUP)
    lines = until(one, "nosuch")
    for number in (3, 4):  # the second one is made later
        os.kill(one.until(lambda s: s["generations"], "one is there")["generations"][-1]["pid"], signal.SIGKILL)
        if number == 3:
            one.until(lambda s: s["generations"] and s["generations"][-1]["number"] == 3, "the next")
    lines = until(one, "nobody is served until then")
    shown = subprocess.run([NSTOOL, "service", "status", name], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "nobody takes connections" in shown
    assert serving.stop(one) == 0
    assert "takes connections (" not in log.read_text()
    assert "stopping" not in log.read_text()
    assert [line for line in lines if "is gone" in line] == []


def test_a_signal_that_means_nothing_ends_nothing(name: str, tmp_path: Path) -> None:
    """SIGUSR1 is how other servers are told to open their logs again."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        one.process.send_signal(signal.SIGUSR1)
        until(one, "SIGUSR1 means nothing here")
        assert ask(one.port(), b"still") == b"still"


def test_lines_of_sandboxes_do_not_mix(name: str, tmp_path: Path) -> None:
    """A line is one, in however many parts it is written; one that does not end is shown after a while."""
    script = (
        "read a; printf $a >&2; echo; read b; printf $b >&2; echo; read c; echo $c >&2; printf waits >&2; echo; read d"
    )
    with serving.serving(write(tmp_path / "s.toml", TCP, shell(script)), name) as one:
        port = one.port()
        for tries in range(1, 30):
            clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(2)]
            begun = time.monotonic()
            for word in ("begun-", "more-", "ended"):
                for number, client in enumerate(clients):
                    client.sendall(f"{tries}.{number}{word}\n".encode())
                    assert client.recv(1) == b"\n"  # it is written
                time.sleep(0.1)  # it has looked
            in_time = time.monotonic() - begun < log.WAIT / 2
            lines = [line.rpartition(" ")[2] for line in until(one, "waits", 2 * tries)]
            for client in clients:
                client.close()
            if in_time:
                break
    for n in range(2):
        parts = [line for line in lines if line.startswith(f"{tries}.{n}")]
        assert parts == [f"{tries}.{n}begun-{tries}.{n}more-{tries}.{n}ended"]


def test_a_line_is_cut_where_it_is_too_long(name: str, tmp_path: Path) -> None:
    """Each part has its name before it, and nothing of it is lost."""
    with serving.serving(write(tmp_path / "s.toml", TCP, shell("printf %8192d-%04d 1 2 >&2; echo >&2")), name) as one:
        ask(one.port())
        lines = until(one, "-0002")
    parts = [line.partition("]: ")[2] for line in lines if line.startswith(f"{name}.1[place 1, life 2]: ")]
    assert [len(part) for part in parts] == [4096, 4096, 5]


def test_who_floods_loses_lines_of_his_own(name: str, tmp_path: Path) -> None:
    """Another's are all there; what was dropped is said and counted, also if nothing more is written."""
    flood = "while :; do yes | head -c 60000 >&2; done"
    script = f"read a; case $a in flood) {flood};; *) while read b; do echo said $b >&2; done;; esac"
    with serving.serving(write(tmp_path / "s.toml", TCP, shell(script)), name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as flooding:
            flooding.sendall(b"flood\n")
            until(one, ": y")
            one.until(lambda s: s["dropped"] > 0, "more than there may be")
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as other:
                other.sendall(b"speak\n")
                for number in range(300):
                    other.sendall(b"%d\n" % number)
                    if number % 30 == 0:
                        time.sleep(0.05)
                lines = until(one, "said 299\n")
            one.tell("stop", "--kill")
        assert one.process.wait(DEADLINE) == 0
    assert [line.split()[-1] for line in lines if ": said " in line] == [str(n) for n in range(300)]
    text = one.log.read_text()
    assert f"dropped, most of them of {name}.1[place 1, life 2]" in text
    assert one.log.stat().st_size < 64 << 20


def test_what_was_dropped_is_counted(name: str, tmp_path: Path) -> None:
    """By the status, for Prometheus, and in words; it is said though nothing more comes."""
    path = tmp_path / "metrics"
    script = "for n in $(seq 400); do yes 1234567 | head -c 60000 >&2; done; exit 0"
    words = TCP + f'metrics = "unix:{path}"'
    with serving.serving(write(tmp_path / "s.toml", words, shell(script)), name) as one:
        ask(one.port())
        until(one, "bytes of what commands said were dropped")
        dropped = one.status()["dropped"]
        assert dropped > 0
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
        assert f"{dropped} bytes of what commands said are not in the log" in one.tell("status")
    [number] = re.findall(r"^nstool_log_dropped_bytes_total\{.*\} (\S+)$", answer, re.M)
    assert float(number) == dropped


@pytest.mark.needs("userns")
def test_nobody_reads_what_another_says(as_user: Callable[..., Any], user: User, name: str) -> None:
    """Not even where all sandboxes are of one user, who may open what is his."""

    def act() -> tuple[bytes, str]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        maps = f'uid_map = ["1000:{user.uid}:1"]\ngid_map = ["1000:{user.gid}:1"]\ngroups = ["keep"]'
        script = "read a; case $a in steal) echo >&2; timeout 3 cat /proc/self/fd/2;; *) echo secret >&2;; esac"
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        listen = f'listen = ["unix:{path}/socket"]'
        (path / "s.toml").write_text(f"{shell(script)}\n{maps}\n{none}\n[service]\n{listen}\nplaces = 4\n")
        with serving.serving(path / "s.toml", name) as one, socket.socket(socket.AF_UNIX) as thief:
            thief.settimeout(DEADLINE)
            thief.connect(f"{path}/socket")
            thief.sendall(b"steal\n")
            for number in range(10):
                time.sleep(0.1)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(f"{path}/socket")
                    client.sendall(b"say\n")
                    assert client.recv(1) == b""
                until(one, "secret", number + 1)
            stolen = b"".join(iter(lambda: thief.recv(65536), b""))
            said = one.log.read_text()
        shutil.rmtree(path)
        return stolen, said

    stolen, said = as_user(act, timeout=4 * DEADLINE)
    assert b"secret" not in stolen
    assert said.count("]: secret\n") == 10


@pytest.mark.orphans
def test_what_is_said_while_there_is_no_service_is_heard_by_the_next(name: str, tmp_path: Path) -> None:
    """Nobody writes into a pipe without a reader meanwhile, in any of many places."""
    words = TCP + "places = 20"
    script = "while read a; do echo said $a >&2 || echo failed; echo on; done"
    spec = write(tmp_path / "s.toml", words, shell(script))
    one = serving.start(spec, name, tmp_path / "log")
    port = one.port()
    template = one.status()["generations"][0]["pid"]
    clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(18)]
    try:
        for client in clients:
            client.sendall(b"before\n")
            assert client.recv(10) == b"on\n"
        until(one, "said before", len(clients))
        one.process.kill()
        one.process.wait()
        for number, client in enumerate(clients):
            client.sendall(b"between-%d\n" % number)
            assert client.recv(10) == b"on\n"
        one = serving.start(spec, name, tmp_path / "log")
        lines = until(one, "said between", len(clients))
        clients[0].sendall(b"after\n")
        until(one, "said after")
    finally:
        for client in clients:
            client.close()
    one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
    os.waitpid(template, 0)  # it has come to the tests, a subreaper
    assert serving.stop(one) == 0
    found = {line for line in lines if "between" in line}
    assert found == {f"{name}.1[place {n + 1}, life {n + 2}]: said between-{n}" for n in range(len(clients))}


def python_service(path: Path, code: str, *words: str) -> Path:
    """Write a service with this handler."""
    path.chmod(0o755)
    (path / "app.py").write_text(code)
    return write(path / "s.toml", TCP + "\n".join(('shape = "python"', 'handler = "app.py"', *words)))


HANDLER = """
import sys
from nstool.service import handler
print("nstool: I am loaded", file=sys.stderr)

@handler
def handle(connection):
    print("I am called", file=sys.stderr)
"""


def test_a_handler_says_what_is_wrong_with_it(name: str, tmp_path: Path) -> None:
    """In the log as the handler; who asks for a generation is told the last line of it, and in which status it ends."""
    with serving.serving(python_service(tmp_path, HANDLER), name) as one:
        ask(one.port())
        until(one, f"{name}.1[place 1, life 2]: I am called\n")
        assert f"\n{name}.1[handler]: nstool: I am loaded\n" in f"\n{one.log.read_text()}"
        (tmp_path / "app.py").write_text("import nosuchmodule")
        done = subprocess.run([NSTOOL, "service", "rotate", name], capture_output=True, text=True)
        assert done.returncode == 125
        told = f"the interpreter ended while it imported {tmp_path}/app.py: ModuleNotFoundError: No module named"
        assert done.stderr.startswith(f"nstool: {tmp_path}/s.toml:")
        assert done.stderr.endswith(f": service.handler: {told} 'nosuchmodule'\n")
        assert told in one.log.read_text().partition("no new generation (asked for): ")[2]
        assert f"{name}.2[handler]: Traceback (most recent call last):\n" in one.log.read_text()
        (tmp_path / "app.py").write_text(HANDLER)
        assert one.tell("rotate") == "generation 2\n"  # which nobody has had
        assert "generation 2 takes connections (asked for); before it 1 could not be made" in one.log.read_text()


# ---- how many files ----


@pytest.mark.parametrize("enough", [True, False])
def test_files_of_many_places(name: str, tmp_path: Path, enough: bool) -> None:
    """The soft limit is raised for them; where the hard one does not allow so many, that is said."""
    spec = write(tmp_path / "s.toml", TCP + "places = 30", shell("echo said >&2"))
    log = tmp_path / "log"
    limits = (64, 4096) if enough else (64, 200)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [NSTOOL, "serve", "--name", name, str(spec)],
            stdin=subprocess.DEVNULL,
            stderr=out,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
        )
    if not enough:
        assert process.wait(DEADLINE) == 125
        assert log.read_text().startswith("nstool: 30 places: not possible on this host\ncause: this process needs ")
        assert "RLIMIT_NOFILE is 200\nremedy: take fewer places, or raise the limit" in log.read_text()
        return
    one = Serving(name, process, log)
    try:
        serving.wait(one, 0)
        ask(one.port())
        until(one, "]: said\n")
    finally:
        assert serving.stop(one) == 0


# ---- how sandboxes end ----


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 3", "the command ended with status 3"),
        ("kill -SEGV $$", "the command was ended by SIGSEGV"),
        ("kill -KILL $$", "the command was ended by SIGKILL"),
        ("a=xx; while :; do a=$a$a; done", "the command was killed for lack of memory (limits.memory is 16M)"),
    ],
)
def test_an_end_that_is_none_is_said(name: str, tmp_path: Path, script: str, told: str) -> None:
    """The first of a kind at once, with whose it was; of others then and at the end how many there were."""
    spec = write(tmp_path / "s.toml", TCP, shell(script), limits='memory = "16M"')
    one = serving.start(spec, name, tmp_path / "log")
    port = one.port()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        address = "{}:{}".format(*client.getsockname())
        client.recv(1)
    lines = until(one, told)
    assert lines[-1] == f"nstool: {name}: generation 1: {told}; place 1, life 2, client {address}"
    for _ in range(4):
        ask(port)
    assert serving.stop(one) == 0
    last = [line for line in one.log.read_text().splitlines() if told in line][1:]
    assert len(last) == 1
    assert last[0].startswith(f"nstool: {name}: 4 times more, the last: generation 1: {told}; place 1, life 6, client ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "start_timeout = 2",
            "the command does not listen at 127.0.0.1:7000 after 2 s; place 1, life 2, client 127.",
        ),
        (
            'start_timeout = 2\nvary = ["port"]',
            "the command does not listen at 127.0.0.1:{port} after 2 s; place 1, life 2, client 127.",
        ),
    ],
)
def test_a_command_that_does_not_listen_is_said(name: str, tmp_path: Path, words: str, told: str) -> None:
    """Its clients are reset, and would wonder."""
    relayed = TCP + f'shape = "port"\nport = 7000\n{words}'
    with serving.serving(write(tmp_path / "s.toml", relayed, shell("sleep 60; : {port}")), name) as one:
        with contextlib.suppress(ConnectionResetError):
            assert ask(one.port(), b"x") == b""
        until(one, told)


def test_what_ends_as_it_should_is_not_said(name: str, tmp_path: Path) -> None:
    """By itself, or as it was told to; who is served for too long is."""
    one = serving.start(write(tmp_path / "s.toml", TCP + "wall = 3\ngrace = 0.2", CAT), name, tmp_path / "log")
    port = one.port()
    ask(port, b"x")
    one.until(lambda s: s["ends"]["exited"] == 1, "it has ended")
    one.tell("rotate")
    assert "place" not in one.log.read_text()
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        assert client.recv(1) == b""
    until(one, "the sandbox was ended, as it was served for 3 s (wall); place 1, life 2, client 127.0.0.1:")
    assert serving.stop(one) == 0


# ---- generations that cannot be made ----


def test_one_that_cannot_be_made_is_not_tried_without_a_pause(name: str, tmp_path: Path) -> None:
    """The same failure is said once; its number is that of the one that is made in the end."""
    shown = tmp_path / "shown"
    shown.mkdir()
    spec = write(tmp_path / "s.toml", TCP + "renew_after = 0.5", CAT, f'mounts = ["{shown}:/srv"]')
    with serving.serving(spec, name) as one:
        shown.rename(tmp_path / "hidden")
        until(one, "no new generation (after 0.5 s): ")
        before = int(re.findall(r"generation (\d+) takes", one.log.read_text())[-1])
        time.sleep(3)
        text = one.log.read_text()
        assert text.count("no new generation") == 1
        (tmp_path / "hidden").rename(shown)
        lines = until(one, f"generation {before + 1} takes connections")
        told = f"generation {before + 1} takes connections (after 0.5 s); before it 1 could not be made"
        assert any(line.endswith(told) for line in lines)


def test_nobody_makes_generations_without_an_end(name: str, tmp_path: Path) -> None:
    """Neither the first sandbox nor those that are ready count as lives; a hundred wishes are one, or two."""
    words = TCP + "renew_lives = 2\nready = 3"
    with serving.serving(write(tmp_path / "s.toml", words, CAT), name) as one:
        one.until(lambda s: s["parked"] == 3, "they are ready")
        time.sleep(1.5)
        assert one.status()["rotations"] == 0
        for _ in range(2):
            ask(one.port(), b"x")
        one.until(lambda s: s["rotations"] == 1, "they were served")
        for _ in range(100):
            one.process.send_signal(signal.SIGHUP)
            time.sleep(0.002)
        begun = one.status()["rotations"]
        assert int(one.tell("rotate").split()[1]) <= begun + 4
        time.sleep(1)
        assert one.status()["rotations"] <= begun + 4


def test_listening_commands_that_end_at_once_are_not_renewed_without_a_pause(name: str, tmp_path: Path) -> None:
    """As lives they count when they have ended."""
    words = TCP + 'shape = "listener"\nrenew_lives = 1'
    with serving.serving(write(tmp_path / "s.toml", words, shell("exit 1")), name) as one:
        one.until(lambda s: s["ends"]["failed"] >= 5, "some have ended")
        time.sleep(1)
        assert one.status()["rotations"] == 0


def test_what_cannot_be_undone_ends_no_service(name: str, tmp_path: Path, run_dir: Path) -> None:
    """It is said, and tried again; live sandboxes go on."""
    one = serving.start(write(tmp_path / "s.toml", TCP, CAT), name, tmp_path / "log")
    foreign = run_dir / "sandboxes" / f"{name}.1" / "foreign"
    (foreign / "more").mkdir(parents=True)
    one.tell("rotate")
    until(one, "generation 1 is gone, and not all that was made for it: ")
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        shutil.rmtree(foreign)
        until(one, "all that was made for generation 1 is gone")
        live.sendall(b"y")
        assert live.recv(1) == b"y"
    assert serving.stop(one) == 0
    assert not run_dir.exists()


# ---- a template that ends by itself ----


def kill_template(one: Serving) -> None:
    """Kill the template that takes connections, and wait until that is said."""
    number, pid = next((g["number"], g["pid"]) for g in one.status()["generations"] if g["state"] == "current")
    os.kill(pid, signal.SIGKILL)
    until(one, f"generation {number} has ended by itself")


def test_a_generation_that_follows_one_that_had_ended_is_counted(name: str, tmp_path: Path) -> None:
    """It has followed another, as one has that was asked for."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        kill_template(one)
        until(one, "generation 2 takes connections (the one before has ended)")
        assert one.status()["rotations"] == 1
        one.tell("rotate")
        assert one.status()["rotations"] == 2


def test_the_second_template_that_dies_soon_waits_and_that_is_said(name: str, tmp_path: Path) -> None:
    """With how long, and what makes the next generation at once, which does."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        port = one.port()
        kill_template(one)
        until(one, "generation 2 takes connections")
        kill_template(one)
        until(one, "nobody is served until then")
        found = re.search(
            r"the next generation is made in (\d+) s, .*; nstool (service rotate .*) makes", one.log.read_text()
        )
        assert found is not None, one.log.read_text()
        assert 1 <= int(found[1]) <= 10
        assert found[2] == f"service rotate {name}"
        one.tell("rotate")
        assert ask(port, b"x") == b"x"


def test_of_a_template_that_has_gone_nothing_is_said_without_its_cause() -> None:
    """It takes no more connections, and is not told to."""
    said: list[str] = []
    service = Service(listen=(), shape="stdio")
    supervisor = Supervisor(Remains("web", service), said.append, said.append)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    one = generation.Generation("web.1", 1)
    one.channel = Channel(ours)
    supervisor._retire(one)
    one.channel.close()
    assert (one.ended, one.draining, supervisor.old) == (True, True, [one])
    assert said == []


# ---- what a service and a template are asked ----


def asked(run_dir: Path, name: str, said: bytes) -> bytes:
    """What a service answers at its control socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(DEADLINE)
        one.connect(str(run_dir / "sandboxes" / name / "control"))
        one.sendall(said)
        return b"".join(iter(lambda: one.recv(65536), b""))


def test_what_is_no_request_is_answered(name: str, tmp_path: Path, run_dir: Path) -> None:
    """Each with an error, and no traceback in the log."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        for said in (
            b"[1]\n",
            b'"x"\n',
            b"7\n",
            b"null\n",
            b"[" * 30000 + b"\n",
            b'{"do":' * 9000 + b"\n",
            b"\xff\n",
            b'{"do": ["status"]}\n',
            b'{"do": "x"}\n',
            b"x" * 100_000,
        ):
            assert asked(run_dir, name, said).startswith(b'{"error": "no request: '), said[:20]
        assert one.status()["rotations"] == 0
        assert "Traceback" not in one.log.read_text()


def test_who_does_not_read_an_answer_is_left(name: str, tmp_path: Path, run_dir: Path) -> None:
    """After ten seconds: more than a socket holds is answered, by ends of generations that are not gone."""
    words = TCP + 'client_most = 1\nplaces = 2\nattest = "never"'
    with serving.serving(write(tmp_path / "s.toml", words, CAT), name) as one:
        port, held = one.port(), []
        for _ in range(12):
            held.append(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            held[-1].sendall(b"x")
            assert held[-1].recv(1) == b"x"
            for _ in range(100):
                ask(port)
            one.tell("rotate")
        files = Path(f"/proc/{one.process.pid}/fd")
        before = len(list(files.iterdir()))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(run_dir / "sandboxes" / name / "control"))
            client.sendall(b'{"do": "status"}\n')
            end = time.monotonic() + DEADLINE
            while len(list(files.iterdir())) == before:
                assert time.monotonic() < end
                time.sleep(0.01)
            while len(list(files.iterdir())) > before:
                assert time.monotonic() < end
                time.sleep(0.1)
            client.settimeout(DEADLINE)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert not answer.endswith(b"}\n")
        for each in held:
            each.close()


def test_a_late_answer_is_not_taken_for_the_next(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that was stopped answers the question that nobody waits for any more, and then the next."""
    one = serving.start(write(tmp_path / "s.toml", TCP, CAT), name, tmp_path / "log")
    one.process.kill()
    one.process.wait()
    [template] = generation.adopt(name)
    assert template.channel is not None
    try:
        monkeypatch.setattr(generation, "ANSWERS", 0.2)
        os.kill(template.pid, signal.SIGSTOP)
        with pytest.raises(NstoolError, match="does not answer: to accept"):
            template.accept(False)
        os.kill(template.pid, signal.SIGCONT)
        monkeypatch.setattr(generation, "ANSWERS", DEADLINE)
        with pytest.raises(NstoolError, match="refuses a listener"):
            template.channel.ask(lib.NST_MSG_LISTEN, "a listener", detail=0)
        template.accept(False)
    finally:
        template.close()
        os.waitpid(template.pid, 0)
        subprocess.run([NSTOOL, "cleanup"], check=True, capture_output=True)


PTRACE_SINGLESTEP, PTRACE_ATTACH, PTRACE_DETACH = 9, 16, 17


def ptrace(request: int, pid: int) -> None:
    """Call ptrace(2) without an address or data."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(request, pid, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def test_a_connection_that_is_there_is_always_seen(name: str, tmp_path: Path) -> None:
    """Step by step of a template that drains: what waits is live before it waits no more, or it would seem done."""
    words = f'listen = ["unix:{tmp_path}/u"]\nclient_most = 1'
    one = serving.start(write(tmp_path / "s.toml", words, CAT), name, tmp_path / "log")
    one.process.kill()
    one.process.wait()
    [template] = generation.adopt(name)
    channel = template.channel
    assert channel is not None
    try:
        held = channel.held()
        template.board_fd = held.pop(BOARD)
        for fd in held.values():
            os.close(fd)
        template.board = generation.board.Board(template.board_fd)
        end = time.monotonic() + DEADLINE
        while template.counts().live:  # the one that was tried
            assert time.monotonic() < end
        template.accept(True)
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(f"{tmp_path}/u")
            data, fds, _, _ = socket.recv_fds(channel.socket, 1024, 1)  # it asks whose that is
            asked = engine.decode(data)
            assert (asked.type, len(fds)) == (lib.NST_MSG_WHOSE, 1)
            os.close(fds[0])
            template.accept(False)
            end = time.monotonic() + DEADLINE
            while (counts := template.counts()).accepting:
                assert time.monotonic() < end
            assert (counts.queued, counts.live) == (1, 0)
            ptrace(PTRACE_ATTACH, template.pid)
            os.waitpid(template.pid, 0)
            channel.send(lib.NST_MSG_WHOSE, detail=asked.detail, step=asked.step, status=0)
            seen = []
            while not seen or seen[-1] != (0, 1):
                assert time.monotonic() < end
                ptrace(PTRACE_SINGLESTEP, template.pid)
                os.waitpid(template.pid, 0)
                counts = template.counts()
                if (now := (counts.queued, counts.live)) not in seen:
                    seen.append(now)
            ptrace(PTRACE_DETACH, template.pid)
            assert seen == [(1, 0), (1, 1), (0, 1)]
            client.sendall(b"x")
            assert client.recv(1) == b"x"
    finally:
        template.close()
        os.waitpid(template.pid, 0)
        subprocess.run([NSTOOL, "cleanup"], check=True, capture_output=True)
        (tmp_path / "u").unlink(missing_ok=True)
