"""Several templates of one generation take connections at the same time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
CAT = "command = ['/bin/cat']"


def lives(found: dict[str, Any]) -> list[int]:
    """So many sandboxes each template has begun, but those that were tried first."""
    return [one["lives"] - 1 for one in found["generations"]]


def test_the_kernel_distributes_connections(name: str, tmp_path: Path) -> None:
    """Each template has its part of them, and of the places."""
    spec = write(tmp_path / "s.toml", TCP + "shards = 3\nplaces = 8\nready = 1", CAT)
    with serving.serving(spec, name) as one:
        port = one.port()
        for number in range(90):
            assert ask(port, b"%d" % number) == b"%d" % number
        found = one.until(lambda s: s["live"] == 0, "over")
        text = one.tell("status")
    assert [(each["number"], each["shard"]) for each in found["generations"]] == [(1, 0), (1, 1), (1, 2)]
    assert len({each["pid"] for each in found["generations"]}) == 3
    assert len(found["listening"]) == 1
    assert all(count > 5 for count in lives(found))
    assert found["ends"]["exited"] == found["accepted"] == 90
    assert found["parked"] == 1
    assert text.count("current") == 3
    with serving.serving(write(tmp_path / "t.toml", TCP + "shards = 3\nplaces = 8", CAT), name) as one:
        held = [socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) for _ in range(60)]
        found = one.until(lambda s: s["live"] == 8, "all places are taken")
        assert [len(each["places"]) for each in found["generations"]] == [3, 3, 2]
        assert [each["size"] for each in found["generations"]] == [3, 3, 2]
        for each in held:
            each.close()


def test_rotation_loses_no_connection(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP + "shards = 2\nplaces = 8", CAT), name) as one:
        with serving.traffic(one.port(), 3) as found:
            for _ in range(6):
                one.tell("rotate")
        told = one.until(lambda s: len(s["generations"]) == 2, "the old ones are gone")
        assert {each["number"] for each in told["generations"]} == {7}
        assert told["rotations"] == 6
    assert found.wrong == []
    assert found.done > 50


def test_the_next_service_has_all_sockets(name: str, tmp_path: Path) -> None:
    """Who waits in any of them is served, whether it has as many templates, fewer or more."""
    log = tmp_path / "log"
    spec = write(tmp_path / "s.toml", TCP + "shards = 2", CAT)
    one = serving.start(spec, name, log)
    port = one.port()
    for shards in (3, 1, 2):
        templates = [each["pid"] for each in one.status()["generations"]]
        assert ask(port, b"x") == b"x"
        one.process.kill()
        one.process.wait()
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(12)]
        for each in waiting:
            each.sendall(b"waits")
            each.shutdown(socket.SHUT_WR)
        words = f'listen = ["tcp:127.0.0.1:{port}"]\nshards = {shards}'
        one = serving.start(write(tmp_path / "s.toml", words, CAT), name, log)
        for each in waiting:
            assert each.recv(10) == b"waits"
            each.close()
        found = one.until(lambda s, n=shards: len(s["generations"]) == n, "the old ones are gone")
        assert [each["shard"] for each in found["generations"]] == list(range(shards))
        for pid in templates:
            os.waitpid(pid, 0)  # they have come to the tests, a subreaper
    assert serving.stop(one) == 0


def test_one_that_is_killed_is_followed_with_its_generation(name: str, tmp_path: Path) -> None:
    """What waited in its socket is taken by who comes next."""
    with serving.serving(write(tmp_path / "s.toml", TCP + "shards = 2", CAT), name) as one:
        port = one.port()
        os.kill(one.status()["generations"][1]["pid"], signal.SIGKILL)
        for number in range(20):
            assert ask(port, b"%d" % number) == b"%d" % number
        found = one.until(lambda s: {g["number"] for g in s["generations"]} == {2}, "another generation")
        assert len(found["generations"]) == 2


def test_one_that_cannot_be_made_yet_is_made_later(name: str, tmp_path: Path) -> None:
    """Until then its socket is heard by nobody; who waits there is served when it is there."""
    shown = tmp_path / "shown"
    shown.mkdir()
    spec = write(tmp_path / "s.toml", TCP + "shards = 2", CAT, f'mounts = ["{shown}:/srv"]')
    with serving.serving(spec, name) as one:
        port = one.port()
        shown.rename(tmp_path / "hidden")
        os.kill(one.status()["generations"][1]["pid"], signal.SIGKILL)
        one.until(lambda _: "no new generation" in one.log.read_text(), "it was tried")
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(12)]
        for each in waiting:
            each.sendall(b"x")
        (tmp_path / "hidden").rename(shown)
        for each in waiting:
            assert each.recv(1) == b"x"
            each.close()
        found = one.until(lambda s: len(s["generations"]) == 2, "both are there")
        assert [each["state"] for each in found["generations"]] == ["current"] * 2
        assert "a template was missing" in one.log.read_text()


def test_a_unix_socket_is_one(name: str, tmp_path: Path) -> None:
    """It has no port to be shared: the templates take from it in turn."""
    path = tmp_path / "u"
    with serving.serving(write(tmp_path / "s.toml", f'listen = ["unix:{path}"]\nshards = 2', CAT), name) as one:
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(DEADLINE)
                client.connect(str(path))
                client.sendall(b"x")
                assert client.recv(1) == b"x"
        assert sum(lives(one.status())) == 20
        assert one.status()["listening"] == [f"unix:{path}"]


def test_datagrams_of_a_client_come_to_one(name: str, tmp_path: Path) -> None:
    script = "import os\nfor n in range(3): os.write(1, b'%d' % n + os.read(0, 99))"
    words = 'listen = ["udp:127.0.0.1:0"]\nshards = 2'
    spec = write(tmp_path / "s.toml", words, f"command = ['/usr/bin/python3', '-c', '''{script}''']")
    with serving.serving(spec, name) as one:
        port = one.port()
        for _ in range(6):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(DEADLINE)
                client.connect(("127.0.0.1", port))
                for number in range(3):
                    client.send(b"x")
                    assert client.recv(9) == b"%dx" % number
            one.until(lambda s: s["live"] == 0, "over")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("shards = 9\n", "have no 4 places to share"),
        ("shards = 65\n", "not from 1 to 64"),
        ("shards = 2\nclient_most = 1\n", "each counts for itself"),
        ("shards = 2\nclient_rate = 1\n", "each counts for itself"),
        ('shards = 2\nlife = "shared"\nshape = "port"\nport = 80\n', "each counts for itself"),
    ],
)
def test_what_it_cannot_have_is_refused(tmp_path: Path, words: str, told: str) -> None:
    done = subprocess.run(
        [NSTOOL, "serve", str(write(tmp_path / "s.toml", TCP + words, CAT))], capture_output=True, text=True
    )
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_user_has_ids_for_one(as_user: Callable[..., Any], user: User, name: str) -> None:
    def act() -> tuple[int, str]:
        spec = user.home / f"{name}.toml"
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        spec.write_text(f'{CAT}\n{none}\n[service]\nlisten = ["unix:@{name}"]\nplaces = 4\nshards = 2\n')
        done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
        spec.unlink()
        return done.returncode, done.stderr

    status, told = as_user(act)
    assert (status, "leave shards out" in told) == (125, True), told
