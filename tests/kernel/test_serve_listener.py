"""Services whose command has the listening sockets themselves, and accepts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, ask, write

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
SHAPE = 'shape = "listener"\n'
# Accepts on every socket that it has, answers one connection after the other, and stops when it is asked to.
SERVER = """
import os, select, signal, socket
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
listening = [socket.socket(fileno=3 + n) for n in range(int(os.environ["LISTEN_FDS"]))]
assert os.environ["LISTEN_PID"] == str(os.getpid())
def answer(said):
    return said
{more}
for one in listening:
    one.setblocking(False)
while not asked:
    for one in select.select(listening, [], [], 0.05)[0]:
        try:
            connection = one.accept()[0]
        except BlockingIOError:
            continue
        connection.setblocking(True)
        with connection:
            connection.sendall(answer(connection.recv(100)))
"""
WHO = """
def answer(said):
    return f"{os.readlink('/proc/self/ns/net')} {len(listening)} {sorted(os.listdir('/proc/self/fd'))}".encode()
"""
SHUT = """
def answer(said):
    if said == b"shut":
        for one in listening:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            one.shutdown(socket.SHUT_RDWR)
        os._exit(0)
    return said
"""


def server(more: str = "") -> str:
    return f"command = ['/usr/bin/python3', '-c', '''{SERVER.format(more=more)}''']"


def ask_at(path: Path, said: bytes = b"") -> bytes:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(DEADLINE)
        one.connect(str(path))
        one.sendall(said)
        one.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: one.recv(65536), b""))


def alive(one: serving.Serving) -> list[int]:
    """The lives of the current generation that serve."""
    places = one.status()["generations"][-1]["places"]
    return sorted(place["life"] for place in places if place["state"] == "serving")


@pytest.mark.vm_full
@pytest.mark.vm
def test_the_command_has_all_listeners(name: str, tmp_path: Path) -> None:
    """From fd 3 on, and nothing else; so many sandboxes as are to be ready share them, in namespaces of their own."""
    path = tmp_path / "u"
    words = f'listen = ["tcp:127.0.0.1:0", "unix:{path}", "seqpacket:{path}s"]\nready = 2\n'
    with serving.serving(write(tmp_path / "s.toml", words + SHAPE, server(WHO)), name) as one:
        one.until(lambda s: s["live"] == 2, "both run")
        found = set()
        end = time.monotonic() + DEADLINE
        while len(found) < 2:
            assert time.monotonic() < end
            found.add(ask(one.port(), b"x"))
            found.add(ask_at(path, b"x"))
        assert len(alive(one)) == 2
    for each in found:
        net, count, fds = each.decode().split(" ", 2)
        assert net != os.readlink("/proc/self/ns/net")
        assert count == "3"
        assert len(json.loads(fds.replace("'", '"'))) == 8  # 0 to 5, a connection, the listing


def test_nothing_is_said_of_connections_that_are_not_seen(name: str, tmp_path: Path) -> None:
    """Sandboxes accept; how many are connected, and to which, nobody knows here."""
    with serving.serving(write(tmp_path / "s.toml", TCP + SHAPE + "ready = 2", server()), name) as one:
        one.until(lambda s: s["live"] == 2, "two accept")
        assert ask(one.port(), b"x") == b"x"
        said = one.tell("status")
        assert (
            "now 2 of 4 places have a sandbox that accepts; so far 3 sandboxes begun, 0 rotations; nstool sees no"
            in said
        )
        listed = subprocess.run([NSTOOL, "service", "list"], capture_output=True, text=True, check=True).stdout
        [row] = [line for line in listed.splitlines() if line.strip().startswith(name)]
        assert "2 of 4  not seen" in row


def test_rotation_loses_no_connection(name: str, tmp_path: Path) -> None:
    """The kernel has one queue for both generations."""
    with serving.serving(write(tmp_path / "s.toml", TCP + SHAPE + "ready = 2", server()), name) as one:
        with serving.traffic(one.port(), 3) as found:
            for _ in range(8):
                one.tell("rotate")
        assert one.status()["rotations"] == 8
    assert found.wrong == []
    assert found.done > 100


def test_one_that_ends_is_followed_by_another(name: str, tmp_path: Path) -> None:
    """Not at once, so that one that cannot run does not keep the host busy."""
    more = "def answer(said):\n    asked.append(1)\n    return said"
    with serving.serving(write(tmp_path / "s.toml", TCP + SHAPE + 'attest = "never"', server(more)), name) as one:
        for number in range(4):
            assert ask(one.port(), b"%d" % number) == b"%d" % number
        found = one.until(lambda s: s["ends"]["exited"] == 4 and s["live"] == 1, "the fifth runs")
        assert found["lives"] == 5
    spec = write(tmp_path / "t.toml", TCP + SHAPE + 'attest = "never"', "command = ['/bin/false']")
    with serving.serving(spec, name) as one:
        time.sleep(1)
        assert 2 <= one.status()["ends"]["failed"] <= 12


def test_a_life_is_as_long_as_its_wall(name: str, tmp_path: Path) -> None:
    """It is asked to end, and the next takes its place."""
    spec = write(tmp_path / "s.toml", TCP + SHAPE + "wall = 0.3\ngrace = 60", server())
    with serving.serving(spec, name) as one:
        first: list[int] = []
        while not first:
            first = alive(one)
        found = one.until(lambda s: s["ends"]["overran"] >= 2, "two have overrun")
        assert found["ends"]["signalled"] == 0
        assert ask(one.port(), b"x") == b"x"
        one.until(lambda _: alive(one) not in ([], first), "another lives")


def test_who_does_not_end_when_asked_is_killed(name: str, tmp_path: Path) -> None:
    """By a rotation, after the time for that."""
    more = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with serving.serving(write(tmp_path / "s.toml", TCP + SHAPE + "grace = 0.2", server(more)), name) as one:
        assert ask(one.port(), b"x") == b"x"
        one.tell("rotate")
        one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the old one is gone")
        assert ask(one.port(), b"x") == b"x"


def test_when_the_service_is_killed_it_is_served_on(name: str, tmp_path: Path) -> None:
    """New connections too, for the commands accept; the next service takes the sockets over."""
    log = tmp_path / "log"
    one = serving.start(write(tmp_path / "s.toml", TCP + SHAPE, server()), name, log)
    port = one.port()
    assert ask(port, b"x") == b"x"
    template = one.status()["generations"][0]["pid"]
    one.process.kill()
    one.process.wait()
    assert ask(port, b"between") == b"between"
    spec = write(tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:{port}"]\n' + SHAPE, server())
    one = serving.start(spec, name, log)
    assert ask(port, b"after") == b"after"
    one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the old one is gone")
    os.waitpid(template, 0)  # it has come to the tests, a subreaper
    assert serving.stop(one) == 0


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.parametrize("kinds", ["tcp", "unix", "tcp unix"])
def test_one_that_is_shut_down_inside_is_opened_anew(name: str, tmp_path: Path, kinds: str) -> None:
    """At the same address, for the next generation, which is one for all of them."""
    path = tmp_path / "u"
    words = json.dumps([{"tcp": "tcp:127.0.0.1:0", "unix": f"unix:{path}"}[kind] for kind in kinds.split()])
    with serving.serving(write(tmp_path / "s.toml", f"listen = {words}\n" + SHAPE, server(SHUT)), name) as one:
        where = one.status()["listening"]

        def say(said: bytes, to: list[str]) -> list[bytes]:
            return [ask_at(path, said) if at.startswith("unix") else ask(int(at.rpartition(":")[2]), said) for at in to]

        assert set(say(b"x", where)) == {b"x"}
        with contextlib.suppress(OSError):
            say(b"shut", where[:1])  # which shuts all
        one.until(lambda s: s["rotations"] == 1, "another generation")
        assert set(say(b"y", where)) == {b"y"}
        assert one.status()["listening"] == where
        assert one.status()["rotations"] == 1
        assert f"opened anew: {', '.join(where)}" in one.log.read_text()


def test_who_shuts_it_down_makes_no_generations_without_a_pause(name: str, tmp_path: Path) -> None:
    more = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "listening[0].shutdown(socket.SHUT_RDWR)\nselect.select([], [], [])"
    )
    spec = write(tmp_path / "s.toml", TCP + SHAPE + 'grace = 0.1\nattest = "never"', server(more))
    with serving.serving(spec, name) as one:
        one.until(lambda s: s["rotations"] == 1, "the first was opened anew")
        time.sleep(2)
        assert one.status()["rotations"] == 1


def test_a_command_need_not_know_of_others(name: str, tmp_path: Path) -> None:
    """Its sockets wait in accept(2), as sd_listen_fds(3) gives them."""
    script = """
import socket
listening = socket.socket(fileno=3)
while True:
    with listening.accept()[0] as one:
        one.sendall(one.recv(9))
"""
    spec = write(
        tmp_path / "s.toml", TCP + SHAPE + "ready = 2", f"command = ['/usr/bin/python3', '-c', '''{script}''']"
    )
    with serving.serving(spec, name) as one:
        assert [ask(one.port(), b"x") for _ in range(4)] == [b"x"] * 4
        found = one.status()
        assert (found["live"], found["ends"]["failed"]) == (2, 0)


def test_one_of_systemd_cannot_be_opened_anew(name: str, tmp_path: Path) -> None:
    """Which is said, but not all the time."""
    spec = write(tmp_path / "s.toml", 'listen = ["systemd"]\n' + SHAPE, server(SHUT))
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as passed, log.open("wb") as out:
        port = passed.getsockname()[1]
        script = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {NSTOOL} serve --name {name} {spec} 3<&{passed.fileno()}"
        process = subprocess.Popen(["/bin/bash", "-c", script], pass_fds=[passed.fileno()], stdout=out, stderr=out)
    one = serving.Serving(name, process, log)
    serving.wait(one, 0)
    assert ask(port, b"x") == b"x"
    with contextlib.suppress(OSError):
        ask(port, b"shut")
    one.until(lambda _: "restart its .socket unit" in log.read_text(), "it is said")
    time.sleep(1)
    assert one.status()["rotations"] == 0
    assert log.read_text().count("restart its .socket unit") == 1
    assert serving.stop(one) == 0


def test_one_that_somebody_else_shuts_is_left_alone(name: str, tmp_path: Path) -> None:
    """A socket that is passed is others' too: its template does not ask it for connections without a pause."""
    spec = write(tmp_path / "s.toml", 'listen = ["systemd"]\n', "command = ['/bin/cat']")
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as passed:
        port = passed.getsockname()[1]
        script = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {NSTOOL} serve --name {name} {spec} 3<&{passed.fileno()}"
        with log.open("wb") as out:
            process = subprocess.Popen(["/bin/bash", "-c", script], pass_fds=[passed.fileno()], stdout=out, stderr=out)
        one = serving.Serving(name, process, log)
        serving.wait(one, 0)
        assert ask(port, b"x") == b"x"
        passed.shutdown(socket.SHUT_RDWR)
        template = psutil.Process(one.status()["generations"][0]["pid"])
        before = sum(template.cpu_times()[:2])
        time.sleep(1)
        assert sum(template.cpu_times()[:2]) - before < 0.2
    assert serving.stop(one) == 0


@pytest.mark.parametrize("way", ["connect(3, struct.pack('16x'), 16)", "shutdown(3, 2)"])
def test_it_cannot_be_connected_to_the_host(name: str, tmp_path: Path, way: str) -> None:
    """The socket is one of the host's network, and may keep its port; but it hears no answer."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(2)
        more = f"""
def answer(said):
    import ctypes, struct
    one = listening[0]
    libc = ctypes.CDLL(None)
    libc.{way}
    one.setblocking(True)
    one.settimeout(1)
    try:
        one.connect(("127.0.0.1", {other.getsockname()[1]}))
    except OSError as error:
        return type(error).__name__.encode()
    return b"connected"
"""
        with serving.serving(write(tmp_path / "s.toml", TCP + SHAPE, server(more)), name) as one:
            assert ask(one.port(), b"x") == b"TimeoutError"
            with pytest.raises(TimeoutError):
                other.accept()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('listen = ["udp:127.0.0.1:0"]\n', "could send to anybody"),
        (TCP + 'life = "client"\n', "several connections"),
        (TCP + "queue = 3\n", "sees no connection"),
        (TCP + "client_most = 3\n", "sees no connection"),
        (TCP + 'busy = "x"\n', "sees no connection"),
        (TCP + "life_connections = 3\n", "sees no connection"),
        (TCP + 'stderr = "connection"\n', "no connection is a file"),
        (TCP + "port = 80\n", 'only with shape = "port"'),
        (TCP + "ready = 9\n", "cannot wait in 4 places"),
    ],
)
def test_what_it_cannot_have_is_refused(tmp_path: Path, words: str, told: str) -> None:
    spec = write(tmp_path / "s.toml", words + SHAPE, "command = ['/bin/cat']")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_passed_socket_of_datagrams_is_refused(name: str, tmp_path: Path) -> None:
    """Known only when it is there: systemd's."""
    spec = write(tmp_path / "s.toml", 'listen = ["systemd"]\n' + SHAPE, "command = ['/bin/cat']")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        script = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {NSTOOL} serve --name {name} {spec} 3<&{one.fileno()}"
        words = ["/bin/bash", "-c", script]
        done = subprocess.run(words, pass_fds=[one.fileno()], capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, "could send to anybody" in done.stderr) == (2, True), done.stderr
