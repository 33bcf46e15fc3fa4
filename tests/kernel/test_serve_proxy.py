"""Services behind a load balancer, or a TLS terminator, which says whose a connection is."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from nstool._native import lib
from nstool.service.board import Board
from nstool.service.channel import BOARD
from tests.support import serving
from tests.support.proxied import SIGNATURE, header, tls
from tests.support.serving import DEADLINE, NSTOOL, write

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\nproxy = true\n'
CAT = "command = ['/bin/cat']"
TAGGED = """
import os, socket
tag = os.urandom(4).hex().encode()
listening = socket.create_server(("127.0.0.1", 7000))
while True:
    with listening.accept()[0] as one:
        one.sendall(tag + b" " + one.recv(99))
"""


def come(port: int, *parts: bytes) -> bytes:
    """Send these, one after the other, and return the whole answer; empty if it is refused."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as one, contextlib.suppress(OSError):
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            one.sendall(part)
        one.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: one.recv(65536), b""))
    return b""


def ended(connection: socket.socket) -> bytes:
    """What still comes until it is closed, or reset for what was not read."""
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1)
    return b""


def of(address: str, *fields: bytes, port: int = 4711) -> bytes:
    """The header of a client with this address."""
    return header((address, port, "2001:db8::2" if ":" in address else "198.51.100.2", 443), *fields)


@pytest.mark.parametrize("ready", [0, 2])
def test_the_sandbox_has_what_comes_behind_the_header(name: str, tmp_path: Path, ready: int) -> None:
    """All of it and nothing else, however it was cut; whose it is is told by the header."""
    with serving.serving(write(tmp_path / "s.toml", TCP + f"ready = {ready}", CAT), name) as one:
        port = one.port()
        assert come(port, of("192.0.2.1") + b"said") == b"said"
        assert come(port, *(bytes([byte]) for byte in of("2001:db8::1")), b"said") == b"said"
        assert come(port, of("192.0.2.1"), b"a" * 100_000) == b"a" * 100_000
        assert come(port, header(None), b"own") == b"own"
        found = one.until(lambda s: s["ends"]["exited"] == 4, "over")
    clients = [end["client"] for end in found["generations"][0]["ends"] if end["cause"] == "exited"]
    assert sorted(clients)[1:] == ["192.0.2.1:4711", "192.0.2.1:4711", "[2001:db8::1]:4711"]
    assert sorted(clients)[0].startswith("127.0.0.1:")


def test_who_says_nothing_of_himself_is_refused(name: str, tmp_path: Path) -> None:
    """Nothing of it comes to a sandbox; who does not go on is not waited for, and holds nobody up."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        slow = [open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(3)]
        slow[1].sendall(SIGNATURE[:5])
        slow[2].sendall(of("192.0.2.1")[:-1])
        for wrong in (b"GET / HTTP/1.0\r\n\r\n", SIGNATURE + b"\x31\x11\0\0", SIGNATURE, b""):
            assert come(port, wrong) == b""
        assert come(port, of("192.0.2.1"), b"x") == b"x"
        assert [ended(each) for each in slow] == [b""] * 3
        found = one.until(lambda s: s["refused"]["untold"] == 7, "all were refused")
        assert found["ends"]["exited"] == 1
        assert found["queued"] == 0


def test_many_that_do_not_go_on_leave_room(name: str, tmp_path: Path) -> None:
    """So many may be without a header at once; of more the first go, and who says who he is comes in at once."""
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        silent = [
            open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(300)
        ]
        assert come(port, of("192.0.2.1"), b"x") == b"x"
        assert [ended(each) for each in silent[:10]] == [b""] * 10
        silent[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent[-1].recv(1)
        found = one.until(lambda s: s["refused"]["untold"] == 300, "all are over")
        assert found["refused"]["busy"] == 0


def test_who_has_said_who_he_is_waits_for_a_place(name: str, tmp_path: Path) -> None:
    """There was one when he was taken: he is not refused for those who were quicker, also without a queue."""
    with serving.serving(write(tmp_path / "s.toml", TCP + "places = 2", CAT), name) as one, contextlib.ExitStack() as o:
        port = one.port()
        held = [o.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(12)]
        one.until(lambda s: s["queued"] == 12, "all were taken")
        for each in held:
            each.sendall(of("192.0.2.1") + b"x")
            each.shutdown(socket.SHUT_WR)
        assert [each.recv(9) for each in held] == [b"x"] * 12
        assert not any(one.status()["refused"].values())


def test_a_header_that_comes_while_parked_sandboxes_are_ended(name: str, tmp_path: Path) -> None:
    """When a generation is told to take no more: who was taken before is served, and by none of those."""
    words = TCP + "places = 20\nready = 10"
    one = serving.start(write(tmp_path / "s.toml", words, CAT), name, tmp_path / "log")
    port = one.port()
    with serving.killed(one) as template, contextlib.ExitStack() as open_:
        assert template.channel is not None
        fds = template.channel.held()
        template.board = Board(fds[BOARD])
        for fd in fds.values():
            os.close(fd)
        template.accept(True)
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(20)]
        end = time.monotonic() + DEADLINE
        while (template.counts().parked, template.counts().queued) != (10, 20):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(template.pid, signal.SIGSTOP)
        template.channel.send(lib.NST_MSG_ACCEPT, detail=0)
        for number, each in enumerate(held):
            each.sendall(of("192.0.2.1") + b"%d" % number)
            each.shutdown(socket.SHUT_WR)
        os.kill(template.pid, signal.SIGCONT)
        assert [each.recv(9) for each in held] == [b"%d" % number for number in range(20)]


def test_limits_are_of_who_the_header_names(name: str, tmp_path: Path) -> None:
    words = TCP + "client_most = 1\nqueue = 4"
    with serving.serving(write(tmp_path / "s.toml", words, CAT), name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as live:
            live.sendall(of("192.0.2.1") + b"x")
            assert live.recv(1) == b"x"
            assert come(port, of("192.0.2.1", port=9), b"y") == b""
            assert come(port, of("192.0.2.2"), b"z") == b"z"
        assert one.until(lambda s: s["live"] == 0, "over")["refused"]["client_most"] == 1


def test_an_address_of_ipv4_is_one_however_it_is_written(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP + "client_most = 1\nqueue = 4", CAT), name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as live:
            live.sendall(of("::ffff:192.0.2.1") + b"x")
            assert live.recv(1) == b"x"
            assert come(port, of("::ffff:203.0.113.9"), b"z") == b"z"
            assert come(port, of("192.0.2.1", port=9), b"y") == b""
        assert one.until(lambda s: s["live"] == 0, "over")["refused"]["client_most"] == 1


def test_who_goes_before_his_header_is_whole_leaves_room(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP, CAT), name) as one:
        port = one.port()
        for _ in range(300):
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
                client.sendall(of("192.0.2.1")[:20])
        assert come(port, of("192.0.2.1"), b"x") == b"x"
        assert one.until(lambda s: not s["queued"], "over")["refused"]["busy"] == 0


def test_a_client_is_a_certificate(name: str, tmp_path: Path) -> None:
    """Wherever it comes from; without one that the terminator has found to be good there is no sandbox."""
    words = TCP + 'client_by = "certificate"\nshape = "port"\nport = 7000\nlife = "client"'
    spec = write(tmp_path / "s.toml", words, f"command = ['/usr/bin/python3', '-c', '''{TAGGED}''']")
    with serving.serving(spec, name) as one:
        port = one.port()
        alice = [come(port, of(address, tls("alice")), b"hi") for address in ("192.0.2.1", "2001:db8::1")]
        bob = come(port, of("192.0.2.1", tls("bob")), b"hi")
        assert alice[0] == alice[1] != bob
        assert bob.endswith(b" hi")
        for fields in ((), (tls("alice", verify=1),), (tls("alice", client=1),), (tls(""),)):
            assert come(port, of("192.0.2.1", *fields), b"hi") == b""
        found = one.status()
        assert found["refused"]["untold"] == 4
        clients = {place["client"] for place in found["generations"][0]["places"]}
        assert len(clients) == 2
        assert all(client.startswith("certificate ") for client in clients)


def test_of_a_unix_socket(name: str, tmp_path: Path) -> None:
    """Which a terminator alone may be let to; a rotation takes none away that has not said whose it is."""
    path = tmp_path / "u"
    with serving.serving(write(tmp_path / "s.toml", f'listen = ["unix:{path}"]\nproxy = true', CAT), name) as one:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(DEADLINE)
            slow.connect(str(path))
            slow.sendall(of("192.0.2.7")[:20])
            one.until(lambda s: s["queued"] == 1, "it is there")
            one.tell("rotate")
            slow.sendall(of("192.0.2.7")[20:] + b"x")
            assert slow.recv(1) == b"x"
        one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the old one is gone")


def test_who_has_not_said_whose_he_is_keeps_no_service_from_its_end(name: str, tmp_path: Path) -> None:
    """Told twice it ends at once, and he is refused."""
    words = TCP + 'busy = "no more\\n"\ngrace = 60'
    one = serving.start(write(tmp_path / "s.toml", words, CAT), name, tmp_path / "log")
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as slow:
        slow.sendall(of("192.0.2.7")[:20])
        one.until(lambda s: s["queued"] == 1, "it is there")
        one.process.terminate()
        one.until(lambda s: s["stopping"], "told once")
        one.process.terminate()
        slow.settimeout(4)  # by itself it is refused after five
        assert slow.recv(99) == b"no more\n"
    assert one.process.wait(DEADLINE) == 0


def test_health_is_asked_as_the_balancer_asks(name: str, tmp_path: Path) -> None:
    words = TCP + 'health_interval = 0.1\nhealth_send = "ping\\n"\nhealth_expect = "ping"'
    with serving.serving(write(tmp_path / "s.toml", words, "command = ['/bin/head', '-n', '1']"), name) as one:
        found = one.until(lambda s: s["ends"]["exited"] >= 3, "it was asked")
        assert (found["rotations"], found["refused"]["untold"]) == (0, 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('listen = ["tcp:0.0.0.0:0"]\nproxy = true', "could say to be anybody"),
        ('listen = ["tcp:[::]:0"]\nproxy = true', "could say to be anybody"),
        ('listen = ["udp:127.0.0.1:0"]\nproxy = true', "could say to be anybody"),
        ('listen = ["unix:/run/x"]\nproxy = true\nshape = "listener"', "reads the header"),
        ('listen = ["unix:/run/x"]\nclient_by = "certificate"', "proxy = true"),
        ('listen = ["unix:/run/x"]\nproxy = true\nclient_by = "name"', "not one of address, certificate"),
    ],
)
def test_what_it_cannot_have_is_refused(tmp_path: Path, words: str, told: str) -> None:
    done = subprocess.run(
        [NSTOOL, "serve", str(write(tmp_path / "s.toml", words, CAT))], capture_output=True, text=True
    )
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
