"""``nstool service attest``: whether the sandboxes that serve still have what the spec asks for."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, Serving, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
CAT = "command = ['/bin/cat']"
# Handed the connection, the listening socket, or called with it: each says what it is told.
HANDED = "import socket; one = socket.socket(fileno=3); one.sendall(one.recv(1)); one.recv(1)"
LISTENING = """import socket
while True:
    one = socket.socket(fileno=3).accept()[0]
    one.sendall(one.recv(1))
    one.recv(1)
"""
FUNCTION = """
from nstool.service import handler

@handler
def handle(connection):
    connection.sendall(connection.recv(1))
    connection.recv(1)
"""


def python(script: str) -> str:
    return f"command = {json.dumps(['/usr/bin/python3', '-c', script])}"


def attest(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NSTOOL, "service", "attest", name, *words], capture_output=True, text=True)


def attested(name: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = attest(name, "--json", *words)
    return done.returncode, json.loads(done.stdout)["sandboxes"]


def pids_max(pid: int) -> Path:
    """The file with the limit of tasks of the cgroup that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    groups = dict(line.split(":", 2)[1:] for line in lines)
    where = "/sys/fs/cgroup/pids" + groups["pids"] if "pids" in groups else "/sys/fs/cgroup" + groups[""]
    return Path(where, "pids.max")


@contextlib.contextmanager
def served(one: Serving) -> Iterator[socket.socket]:
    """Be somebody whose sandbox's command runs."""
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        yield live


@pytest.mark.vm
@pytest.mark.parametrize(
    ("shape", "command"),
    [
        ("stdio", CAT),
        ("socket", python(HANDED)),
        ("listener", python(LISTENING)),
        ("python", ""),
    ],
)
def test_those_that_serve_have_what_the_spec_asks_for(name: str, tmp_path: Path, shape: str, command: str) -> None:
    """By what root can read, the filter's instructions too."""
    words = f'shape = "{shape}"\nplaces = 2'
    if shape == "python":
        tmp_path.chmod(0o755)
        (tmp_path / "app.py").write_text(FUNCTION)
        words += '\nhandler = "app.py"'
    with serving.serving(write(tmp_path / "s.toml", TCP + words, command), name) as one:
        with served(one):
            status, found = attested(name, "--filter")
            living = [place for place in one.status()["generations"][0]["places"] if place["state"] == "serving"]
            head = attest(name).stdout.splitlines()[0]
        told = [(each["place"], each["life"], each["client"], each["generation"], each["shard"]) for each in found]
        assert told == [(each["number"], each["life"], each["client"], 1, 0) for each in living]
        assert status == 0
        client = "" if shape == "listener" else f", {found[0]['client']}"
        assert head.startswith(f"process {found[0]['pid']} of generation 1{client}: ")
        assert all(each["holds"] is True and each["why"] == "" for each in found)
        names = {row["name"] for each in found for row in each["properties"] if row["holds"]}
        assert {"namespaces.net", "uid_map", "capabilities.bounding", "limits pids.max", "seccomp"} <= names


def test_what_one_lacks_is_told_and_whose_it_is(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        with served(one), served(one):
            _, (first, second) = attested(name)
            pids_max(second["pid"]).write_text("max")
            status, found = attested(name)
            lines = attest(name)
            every = attest(name, "--all")
        assert status == lines.returncode == every.returncode == 1
        assert [(each["pid"], each["holds"]) for each in found] == [(first["pid"], True), (second["pid"], False)]
        [lacks] = [row for row in found[1]["properties"] if row["holds"] is False]
        assert (lacks["name"], lacks["found"]) == ("limits pids.max", "max")
        head, *rest = lines.stdout.splitlines()
        assert head.startswith(f"process {second['pid']} of generation 1, {second['client']}: lacks 1 property; ")
        assert [line for line in rest if "does not hold" in line]
        assert rest[-1] == "not attested: 1 of 2 sandboxes"
        assert lines.stdout.count("not asked for: --filter") == 1
        assert "  holds" not in lines.stdout
        assert "  holds" in every.stdout


def test_those_that_have_ended_and_those_that_wait_are_left_out(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP + "ready = 1", CAT), name) as one:
        with served(one):
            assert len(attested(name)[1]) == 1
        one.until(lambda s: s["live"] == 0, "it is over")
        assert attested(name) == (0, [])
        assert attest(name).stdout == f"no sandbox of {name} serves now\n"


def test_of_a_service_before_it_is_not_known_what_was_asked_for(name: str, tmp_path: Path) -> None:
    """Its own are told beside that, and the exit status speaks of them."""
    first = serving.start(write(tmp_path / "s.toml", TCP, CAT), name, tmp_path / "log")
    port, template = first.port(), first.status()["generations"][0]["pid"]
    with served(first):
        first.process.kill()
        first.process.wait()
        killed = attest(name)
        assert killed.returncode == 2
        assert "its nstool serve was killed" in killed.stderr
        second = serving.start(write(tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:{port}"]', CAT), name, first.log)
        with served(second):
            status, (old, new) = attested(name)
            lines = attest(name).stdout.splitlines()
    assert (status, old["holds"], new["holds"]) == (0, None, True)
    assert old["properties"] == []
    assert old["why"].startswith("an nstool serve before this one has made it")
    assert lines[-1] == "attested: 1 of 2 sandboxes, in all that can be read"
    second.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
    os.waitpid(template, 0)  # it has come to the tests, a subreaper
    assert serving.stop(second) == 0


def test_another_way_to_ask_names_this_one(name: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "s.toml", TCP, CAT)
    with serving.serving(spec, name) as one, served(one):
        pid = str(attested(name)[1][0]["pid"])
        for words, told in (
            ((pid, str(spec)), "nstool service attest NAME"),
            ((f"{name}.1",), f"nstool service attest {name} "),
            ((name,), f"nstool service status|attest|reload|rotate|stop {name}"),
        ):
            done = subprocess.run([NSTOOL, "attest", *words], capture_output=True, text=True)
            assert (done.returncode, told in done.stderr) == (2, True), done


@pytest.mark.parametrize("who", ["root", pytest.param("user", marks=pytest.mark.needs("userns", "newuidmap"))])
def test_what_varies_is_what_was_drawn(as_user: Callable[..., Any], user: User, name: str, who: str) -> None:
    """Ids and clocks of each sandbox; a filter is read by root alone."""

    def act() -> list[tuple[int, list[dict[str, Any]]]]:
        path = Path(tempfile.mkdtemp(dir=user.home if who == "user" else None))
        words = f'listen = ["unix:{path}/u"]\nvary = ["ids", "hostname", "pid", "clock", "machine-id"]\nready = 1'
        limits = "memory = 0\npids = 0"
        with (
            serving.serving(write(path / "s.toml", words, CAT, limits=limits), name),
            contextlib.ExitStack() as clients,
        ):
            for _ in range(2):
                one = clients.enter_context(socket.socket(socket.AF_UNIX))
                one.settimeout(DEADLINE)
                one.connect(f"{path}/u")
                one.sendall(b"x")
                assert one.recv(1) == b"x"
            found = [attested(name), attested(name, "--filter")]
        shutil.rmtree(path)
        return found

    plain, filtered = as_user(act, timeout=3 * DEADLINE) if who == "user" else act()
    assert plain[0] == filtered[0] == 0
    for each in (*plain[1], *filtered[1]):
        assert each["holds"] is True
    maps = {row["found"] for each in plain[1] for row in each["properties"] if row["name"] == "uid_map"}
    assert len(plain[1]) == 2
    assert len(maps) == (2 if who == "root" else 1)  # of a user's own range it is looked at that nobody is id 0
    told = [row for each in filtered[1] for row in each["properties"] if row["wanted"].startswith("the filter itself")]
    assert [row["holds"] for row in told] == [True if who == "root" else None] * 2
