"""The services of examples/serve, each used by a real client of its own, in the default sandbox."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import exploit, services, serving
from tests.support.services import EXAMPLES
from tests.support.serving import DEADLINE, NSTOOL, Serving

PAGE = (EXAMPLES / "site/index.html").read_text()

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """examples/serve of a copy of the examples. The usual weight: else the other workers of the tests come first."""
    top = tmp_path / "examples"
    ignore = shutil.ignore_patterns("redis-data", "ssh-keys")  # of who uses this checkout
    for name in ("site", "services", "serve"):
        shutil.copytree(EXAMPLES / name, top / name, ignore=ignore)
    for spec in (top / "serve").glob("*.toml"):
        with spec.open("a") as file:
            file.write("\n[limits]\ncpu = 0\n")
    return top / "serve"


@contextlib.contextmanager
def serve(spec: Path, name: str, kind: str = "tcp") -> Iterator[tuple[Serving, int]]:
    """A service of a file, and the port of this host where it listens."""
    with serving.serving(spec, name, "--listen", f"{kind}:127.0.0.1:0") as one:
        yield one, one.port()


def curl(port: int, path: str = "/", *words: str) -> str:
    """Return what curl prints. Fails where the server says that it fails."""
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", str(DEADLINE), *words]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.needs("busybox", "curl")
def test_static(name: str, laid_out: Path) -> None:
    """Pages by two clients, each connection in another sandbox; what is not there is not found."""
    with serve(laid_out / "static.toml", name) as (one, port):
        before = one.status()["lives"]
        assert curl(port) == PAGE
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        client.request("GET", "/../../etc/passwd")
        answer = client.getresponse()
        assert answer.status in (400, 404)
        assert b"root:" not in answer.read()
        client.close()
        assert one.status()["lives"] == before + 2


def words_of(unit: Path) -> dict[str, list[str]]:
    """The words of a unit, by their names. systemd.syntax(7)."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def started_by_unit(unit: dict[str, list[str]], spec: Path, name: str, passed: list[socket.socket]) -> Serving:
    """What a unit runs, with the sockets of its .socket from fd 3 on, as systemd passes them. sd_listen_fds(3)."""
    log = spec.with_suffix(".log")
    [line] = unit["ExecStart"]
    line = line.replace("/usr/local/bin/nstool", NSTOOL).replace("/etc/nstool/web.toml", str(spec))
    line = line.replace("--name web", f"--name {name}")
    fds = [one.fileno() for one in passed]
    moved = " ".join(f"{number}<&{fd}" for number, fd in enumerate(fds, 3))
    script = f"export LISTEN_PID=$$ LISTEN_FDS={len(fds)}; exec {line} {moved}"
    with log.open("ab") as out:
        begun = log.stat().st_size
        process = subprocess.Popen(["/bin/bash", "-c", script], pass_fds=fds, stdout=out, stderr=out)
    one = Serving(name, process, log)
    serving.wait(one, begun)
    return one


@pytest.mark.needs("busybox", "curl")
def test_the_units(name: str, laid_out: Path, tmp_path: Path) -> None:
    """What nstool-web.service runs takes the sockets of nstool-web.socket; in a restart connections wait."""
    unit, path = words_of(laid_out / "nstool-web.service"), tmp_path / "socket"
    sockets = words_of(laid_out / "nstool-web.socket")["ListenStream"]
    assert [one.rpartition(":")[0] for one in sockets] == ["127.0.0.1", ""]
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        port = tcp.getsockname()[1]
        # Above those that they become: the shell moves them one after the other.
        high = [socket.socket(fileno=fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 20)) for one in (tcp, unix)]
        with high[0], high[1]:
            one = started_by_unit(unit, laid_out / "static.toml", name, high)
            assert curl(port) == PAGE
            assert curl(80, "/", "--unix-socket", str(path)) == PAGE
            assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
            one.process.send_signal(signal.SIGHUP)
            one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the next has taken over")
            assert serving.stop(one) == 0
            with subprocess.Popen(["curl", "--silent", f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE) as waiting:
                assert path.exists()
                one = started_by_unit(unit, laid_out / "static.toml", name, high)
                assert waiting.stdout is not None
                assert waiting.stdout.read().decode() == PAGE
            assert serving.stop(one) == 0
            assert path.exists()


@pytest.mark.needs("nginx", "curl")
def test_nginx_shared(name: str, laid_out: Path) -> None:
    """One sandbox has all connections; after a rotation another has, and an open connection stays where it is."""
    with serve(laid_out / "nginx_shared.toml", name) as (one, port):
        assert [curl(port) for _ in range(3)] == [PAGE] * 3
        first = one.status()
        assert first["live"] == 1
        held = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        held.request("GET", "/")
        assert held.getresponse().read().decode() == PAGE
        for _ in range(2):
            one.tell("rotate")
            assert [curl(port) for _ in range(3)] == [PAGE] * 3
        held.request("GET", "/namespaces.txt")  # by the first generation, which drains
        assert held.getresponse().read() == (EXAMPLES / "site/namespaces.txt").read_bytes()
        assert first["generations"][0]["number"] in [each["number"] for each in one.status()["generations"]]
        held.close()
        found = one.until(lambda s: len(s["generations"]) == 1, "the others are gone")
        assert found["rotations"] == 2
        assert not any(found["refused"].values())


@pytest.mark.needs("nginx", "curl")
def test_nginx(name: str, laid_out: Path) -> None:
    """Each connection has an nginx of its own, also while another is open."""
    with serve(laid_out / "nginx.toml", name) as (one, port):
        held = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
        held.request("GET", "/")
        assert held.getresponse().read().decode() == PAGE
        assert one.status()["live"] == 1
        before = one.status()["lives"]
        assert [curl(port) for _ in range(2)] == [PAGE] * 2
        assert one.status()["lives"] == before + 2
        held.request("GET", "/style.css")
        assert held.getresponse().read() == (EXAMPLES / "site/style.css").read_bytes()
        held.close()


# ---- Redis ----


def redis_cli(port: int, *words: str) -> str:
    """What redis-cli prints; its address is 127.0.0.1."""
    done = subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=DEADLINE)
    return (done.stdout or done.stderr).strip()


def resp(port: int, source: str, *words: str) -> bytes:
    """What Redis answers to a client of another address, which redis-cli cannot have."""
    said = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
    with socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0)) as one:
        one.sendall(said)
        one.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: one.recv(65536), b""))


@pytest.mark.needs("redis_server", "redis_cli")
def test_redis(name: str, laid_out: Path) -> None:
    """A client finds again what it has set; another sees nothing of it, nor can it end the first one's server."""
    with serve(laid_out / "redis.toml", name) as (one, port):
        assert redis_cli(port, "set", "key", "of the first") == "OK"
        assert redis_cli(port, "get", "key") == "of the first"
        assert resp(port, "127.0.0.2", "GET", "key") == b"$-1\r\n"
        assert resp(port, "127.0.0.2", "SET", "key", "of the second") == b"+OK\r\n"
        assert redis_cli(port, "get", "key") == "of the first"
        assert resp(port, "127.0.0.2", "GET", "key") == b"$13\r\nof the second\r\n"
        assert one.status()["live"] == 2
        assert resp(port, "127.0.0.2", "SHUTDOWN", "NOSAVE") == b""
        one.until(lambda s: s["live"] == 1, "the second one's is gone")
        assert resp(port, "127.0.0.2", "GET", "key") == b"$-1\r\n"
        assert redis_cli(port, "get", "key") == "of the first"


@pytest.mark.needs("redis_server", "redis_cli")
def test_redis_has_no_place_for_a_fifth(name: str, laid_out: Path) -> None:
    """Who finds all places taken is told so in Redis's own words; those who have one keep it."""
    with serve(laid_out / "redis.toml", name) as (_, port):
        for number in range(2, 6):
            assert resp(port, f"127.0.0.{number}", "SET", "who", str(number)) == b"+OK\r\n"
        assert redis_cli(port, "get", "who") == "ERR all places are taken"
        for number in range(2, 6):
            assert resp(port, f"127.0.0.{number}", "GET", "who") == b"$1\r\n%d\r\n" % number


@pytest.mark.needs("redis_server", "redis_cli")
def test_redis_begins_anew_after_a_rotation(name: str, laid_out: Path) -> None:
    """A connection that is open keeps its server and data; the client's next one finds neither."""
    with serve(laid_out / "redis.toml", name) as (one, port):
        assert redis_cli(port, "set", "key", "old") == "OK"
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as held, held.makefile("rb") as lines:
            held.sendall(b"PING\r\n")  # it is connected, not only waiting to be
            assert lines.readline() == b"+PONG\r\n"
            one.tell("rotate")
            assert redis_cli(port, "get", "key") == ""
            held.sendall(b"GET key\r\n")
            assert (lines.readline(), lines.readline()) == (b"$3\r\n", b"old\r\n")
        one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")


# ---- an app behind HTTP ----


@pytest.mark.needs("debian_python", "curl")
def test_calculator(name: str, laid_out: Path) -> None:
    """What it answers comes of what is posted; what cannot be computed, or is too long, is refused."""
    with serve(laid_out / "calculator.toml", name) as (one, port):
        told = json.loads(curl(port, "/", "--data", "1 2 3.5 9.5"))
        assert told == {"count": 4, "sum": 16.0, "mean": 4.0, "median": 2.75}
        for data, status in ((b"one two", 400), (b"", 400), (b"x" * 8, 400)):
            assert posted(port, data, str(len(data))) == status
        assert posted(port, b"", str(1 << 40)) == 413
        assert json.loads(curl(port, "/", "--data", "7"))["sum"] == 7
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["failed"] == 0


def posted(port: int, data: bytes, length: str) -> int:
    """Return the status of the answer."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        client.request("POST", "/", data, {"Content-Length": length})
        return client.getresponse().status
    finally:
        client.close()


# ---- a challenge ----


@contextlib.contextmanager
def player(port: int) -> Iterator[tuple[socket.socket, Any]]:
    """A connection, and a file to read lines from."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as one, one.makefile("rb") as lines:
        yield one, lines


def guess(connection: socket.socket, lines: Any, number: int) -> str:
    """Guess, and return what is said to it."""
    connection.sendall(b"%d\n" % number)
    said: bytes = lines.readline()
    return said.decode().removeprefix("? ").strip()


def solved(port: int) -> str:
    """Find the number by halving; return what is said at last."""
    with player(port) as (connection, lines):
        if not lines.readline().startswith(b"A number from 1 to 1000000"):
            return ""
        low, high, said = 1, 1_000_000, "higher"
        while said in ("higher", "lower"):
            middle = (low + high) // 2
            said = guess(connection, lines, middle)
            low, high = (middle + 1, high) if said == "higher" else (low, middle - 1)
        return said


@pytest.mark.needs("debian_python")
def test_challenge_is_solved(name: str, laid_out: Path) -> None:
    """By halving; the flag is what the file says. Who guesses once only does not get it."""
    with serve(laid_out / "challenge.toml", name) as (_, port):
        assert solved(port) == (laid_out / "flag.txt").read_text().strip()
        with player(port) as (connection, lines):
            lines.readline()
            assert [guess(connection, lines, 0) for _ in range(20)][:19] == ["higher"] * 19
            assert re.fullmatch(r"It was \d+\.", lines.readline().decode().strip() or "It was 0.")


@pytest.mark.needs("debian_python")
def test_challenge_limits_a_player(name: str, laid_out: Path) -> None:
    """Two at once, and five before it gets slow: beyond either it is said, and another player goes on."""
    banner = b"Not so fast: try again later.\n"
    with serve(laid_out / "challenge.toml", name) as (one, port), contextlib.ExitStack() as open_:
        first = [open_.enter_context(player(port)) for _ in range(2)]
        for _, lines in first:
            assert lines.readline().startswith(b"A number")
        with player(port) as (_, lines):
            assert lines.read() == banner
        assert one.status()["refused"]["client_most"] == 1
        while not one.status()["refused"]["client_rate"]:
            with player(port) as (_, lines):
                assert lines.read() == banner
        with socket.create_connection(("127.0.0.1", port), DEADLINE, ("127.0.0.2", 0)) as other:
            assert other.recv(8) == b"A number"
        for connection, lines in first:
            assert guess(connection, lines, 0) == "higher"


@pytest.mark.needs("debian_python")
def test_challenge_ends_who_takes_too_long(name: str, laid_out: Path) -> None:
    """A try has 60 seconds, here one: then its connection ends."""
    spec = laid_out / "challenge.toml"
    assert spec.read_text().count("wall = 60 ") == 1
    spec.write_text(spec.read_text().replace("wall = 60 ", "wall = 1 "))
    with serve(spec, name) as (one, port):
        with player(port) as (_, lines):
            lines.read()
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["overran"] == 1


# ---- a name server ----


def asked(client: socket.socket, name: str, kind: int = 1) -> tuple[int, list[str]]:
    """Ask as a resolver does; return the code and the addresses of the answer."""
    number = secrets.randbelow(1 << 16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    client.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!2H", kind, 1))
    data = client.recv(65536)
    heard, flags, questions, answers, _, _ = struct.unpack_from("!6H", data)
    assert (heard, flags & 0x8100, questions) == (number, 0x8100, 1)
    at, found = 12 + len(labels) + 4, []
    for _ in range(answers):
        kind, class_, _, size = struct.unpack_from("!2HIH", data, at + 2)
        assert (data[at : at + 2], kind, class_, size) == (b"\xc0\x0c", 1, 1, 4)
        found.append(socket.inet_ntoa(data[at + 12 : at + 16]))
        at += 16
    assert at == len(data)
    return flags & 15, found


@pytest.mark.needs("debian_python")
def test_dns(name: str, laid_out: Path) -> None:
    """Addresses of a table; a name that is not there, a type that is not, and no question; one sandbox a client."""
    spec = laid_out / "dns.toml"
    assert spec.read_text().count("idle = 5 ") == 1
    spec.write_text(spec.read_text().replace("idle = 5 ", "idle = 600 "))  # it is to last as long as the test
    with serve(spec, name, "udp") as (one, port), contextlib.ExitStack() as open_:
        clients = [open_.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        for client in clients:
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", port))
            assert asked(client, "www.example.test") == (0, ["192.0.2.80"])
            assert asked(client, "MAIL.example.test") == (0, ["192.0.2.25", "192.0.2.26"])
            assert asked(client, "www.example.test", 28) == (0, [])
            assert asked(client, "no.example.test") == (3, [])
            client.send(b"\x12\x34" + b"\0" * 10)
            assert client.recv(512) == b"\x12\x34\x84\x01" + b"\0" * 8
        found = one.status()
        assert (found["live"], found["accepted"]) == (2, 2)


# ---- sshd ----


def ssh(top: Path, port: int, *words: str, key: str = "id") -> list[str]:
    """The command of a login, with nothing of the caller's own settings."""
    options = ("IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={top}/known")
    command = ["ssh", "-F", "none", "-i", str(top / key), "-p", str(port), "user@127.0.0.1", *words]
    return [*command[:1], *(word for option in options for word in ("-o", option)), *command[1:]]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE)


def make_keys(laid_out: Path, tmp_path: Path) -> None:
    """Make what the comment of sshd.toml tells to make, and two keys: one to log in by, and another."""
    keys = laid_out / "ssh-keys/inside"
    keys.mkdir(parents=True)
    keys.parent.chmod(0o700)
    for key in (keys / "host_key", tmp_path / "id", tmp_path / "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    (tmp_path / "id.pub").rename(keys / "authorized_keys")
    for path in keys.iterdir():
        path.chmod(0o644)


@pytest.mark.needs("sshd", "ssh")
def test_sshd(name: str, laid_out: Path, tmp_path: Path) -> None:
    """A key logs in, another does not; each login is alone, also while another lasts, and leaves nothing."""
    make_keys(laid_out, tmp_path)
    with serve(laid_out / "sshd.toml", name) as (one, port):
        said = run(ssh(tmp_path, port, "id -un; grep CapEff /proc/self/status; echo mine >/tmp/file; ls /tmp"))
        assert (said.returncode, said.stdout.split()) == (0, ["user", "CapEff:", "0" * 16, "file"]), said.stderr
        command = ssh(tmp_path, port, "echo mine >/tmp/held; echo on; read line; cat /tmp/held")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as held:
            assert held.stdout is not None
            assert held.stdout.readline() == "on\n"
            said = run(ssh(tmp_path, port, "ls /tmp; cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))
            assert said.returncode == 0, said.stderr
            assert "held" not in said.stdout
            told, _ = held.communicate("\n", DEADLINE)
            assert told == "mine\n"
        terminal = run([*ssh(tmp_path, port)[:1], "-tt", *ssh(tmp_path, port, "tty")[1:]])
        assert re.match(r"/dev/pts/\d", terminal.stdout), terminal.stderr
        refused = run(ssh(tmp_path, port, "id", key="other"))
        assert (refused.returncode, "Permission denied (publickey)" in refused.stderr) == (255, True), refused.stderr
        one.until(lambda s: s["live"] == 0, "over")


# ---- the words ----


def has_page(_: Serving, port: int, _top: Path) -> bool:
    done = subprocess.run(["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/"], capture_output=True, text=True)
    return done.stdout == PAGE


def has_sum(_: Serving, port: int, _top: Path) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return posted(port, b"1", "1") == 200
    return False


def has_flag(_: Serving, port: int, _top: Path) -> bool:
    with contextlib.suppress(OSError):
        return solved(port).startswith("flag{")
    return False


def has_address(one: Serving, port: int, _top: Path) -> bool:
    """Waits for an answer, or until the command has failed: a datagram is not refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        client.connect(("127.0.0.1", port))
        client.send(b"\x12\x34" + b"\0" * 10)  # no question: also that is answered only by who has read its table
        while not one.status()["ends"]["failed"]:
            with contextlib.suppress(TimeoutError):
                return client.recv(512).startswith(b"\x12\x34\x84\x01")
    return False


def has_login(_: Serving, port: int, top: Path) -> bool:
    return run(ssh(top, port, "true")).returncode == 0


PROBES = {
    "static": (has_page, "busybox", "curl"),
    "nginx_shared": (has_page, "nginx", "curl"),
    "nginx": (has_page, "nginx", "curl"),
    "calculator": (has_sum, "debian_python"),
    "challenge": (has_flag, "debian_python"),
    "dns": (has_address, "debian_python"),
    "sshd": (has_login, "sshd", "ssh"),
}


@pytest.mark.parametrize("example", [pytest.param(name, marks=pytest.mark.needs(*p[1:])) for name, p in PROBES.items()])
def test_each_word_is_needed(name: str, example: str, laid_out: Path, tmp_path: Path) -> None:
    """The service answers; without one of its mounts, or its shape or port, it does not, or does not start."""
    if example == "sshd":
        make_keys(laid_out, tmp_path)
    spec = laid_out / f"{example}.toml"
    words, probe = services.read(spec), PROBES[example][0]
    less = [words, *({**words, "mounts": [m for m in words["mounts"] if m != mount]} for mount in words["mounts"])]
    for key in ("shape", "port"):
        if key in words["service"]:
            less.append({**words, "service": {k: v for k, v in words["service"].items() if k != key}})
    answers = []
    listen = f"{'udp' if example == 'dns' else 'tcp'}:127.0.0.1:0"
    for each in less:
        changed = services.write(spec, each)
        log = changed.with_suffix(".log")
        try:
            one = serving.start(changed, name, log, "--listen", listen)
        except AssertionError:  # it does not start
            answers.append(False)
            continue
        try:
            answers.append(probe(one, one.port(), tmp_path))
        finally:
            assert serving.stop(one) == 0, log.read_text()
    assert answers == [True] + [False] * (len(less) - 1)


# ---- one with a hole ----


def fired(what: str, mark: str, host: dict[str, Any]) -> bytes:
    """A line that makes examples/serve/vulnerable.py run tests/support/exploit.py."""
    source = base64.b64encode(Path(exploit.__file__).read_bytes()).decode()
    start = f'import base64; exec(compile(base64.b64decode("{source}"), "exploit", "exec"))'
    words = ["/usr/bin/python3", "-c", start, what, mark, json.dumps(host)]
    return f"greet you; exec {shlex.join(words)}\n".encode()


class Client:
    """A connection to the vulnerable service from an address."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0))
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()

    def say(self, line: bytes) -> bytes:
        """Say a line, and return the one that is said to it."""
        self.socket.sendall(line)
        heard: bytes = self.lines.readline()
        return heard

    def notes(self) -> list[bytes]:
        """What this connection has noted."""
        self.socket.sendall(b"notes\n")
        return list(iter(self.lines.readline, b"end\n"))

    def fire(self, what: str, mark: str, host: dict[str, Any]) -> dict[str, Any]:
        """Fire the exploit, and return what it tells."""
        assert self.say(fired(what, mark, host)) == b"Hello you\n"
        found: dict[str, Any] = json.loads(self.lines.readline())
        return found


def addresses() -> list[str]:
    """The IPv4 addresses of this host's interfaces."""
    done = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True)
    return re.findall(r"inet (\S+?)/", done.stdout)


def marked(mark: str) -> list[str]:
    """The processes of this host that bear a mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


@contextlib.contextmanager
def bystander(mark: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Things of this host that must not be reached: where they are, and who has come to them."""
    came: list[str] = []

    def watch(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()
                came.append(str(server.getsockname()))

    with (
        socket.create_server(("", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        subprocess.Popen(["sleep", "infinity"]) as process,
    ):
        unix.bind(f"\0bystander-{mark}")
        unix.listen()
        watchers = [threading.Thread(target=watch, args=(each,)) for each in (tcp, unix)]
        for each in watchers:
            each.start()
        where = {"tcp": tcp.getsockname()[1], "abstract": f"bystander-{mark}", "pid": process.pid}
        try:
            yield where, came
            assert process.poll() is None
        finally:
            process.kill()
            for server in (tcp, unix):
                server.shutdown(socket.SHUT_RDWR)
            for each in watchers:
                each.join()


@pytest.mark.needs("debian_python", "ip")
def test_whoever_breaks_in_is_alone(name: str, laid_out: Path) -> None:
    """The exploit runs, takes what is in its sandbox and breaks all of it; nobody else notices, then or later."""
    mark = f"mark-{secrets.token_hex(8)}"
    its, theirs = (b"SECRET-" + secrets.token_hex(16).encode() for _ in range(2))
    before = os.uname().nodename
    with (
        serve(laid_out / "vulnerable.toml", name) as (one, port),
        bystander(mark) as (where, came),
        Client(port) as victim,
    ):
        host = {**where, "port": port, "addresses": addresses()}
        assert victim.say(b"note " + theirs + b"\n") == b"noted\n"
        with Client(port) as earlier:
            clean = earlier.fire("look", "-", host)

        with Client(port, "127.0.0.2") as attacker, Client(port, "127.0.0.2") as second:
            assert attacker.say(b"note " + its + b"\n") == b"noted\n"
            assert second.say(b"note x\n") == b"noted\n"
            with Client(port, "127.0.0.2") as third:
                assert third.lines.read() == b"busy\n"  # it cannot take all places
            found = attacker.fire("attack", mark, host)
            assert set(found["look"]["files"]) >= {f"{top}/{mark}" for top in exploit.WRITABLE}
            assert len([each for each in found["look"]["unix"] if mark in each]) == exploit.LEFT
            assert found["look"]["shm"]
            assert len(found["look"]["tcp"]) == len(exploit.PORTS)
            assert found["secrets"] == [its.decode()]  # it finds what can be found, and that is its own
            assert [what for what, how in found["tries"].items() if how == "done"] == []
            assert len(found["tries"]) > 20
            assert len(marked(mark)) > exploit.LEFT
            assert victim.notes() == [theirs + b"\n"]
            with Client(port) as same_time:
                assert same_time.fire("look", "-", host) == clean
            assert second.fire("look", "-", host)["files"] == ["/tmp/notes"]
            attacker.socket.sendall(b"go on\n")
            assert attacker.lines.read() == b""  # it has killed what it could, and that was its own end
            assert second.notes() == [b"x\n"]

        one.until(lambda s: s["live"] == 1, "the victim's alone")
        assert marked(mark) == []
        assert victim.notes() == [theirs + b"\n"]
        with Client(port, "127.0.0.2") as later:
            assert later.fire("look", "-", host) == clean
            assert later.notes() == []
        assert came == []
        assert os.uname().nodename == before
        assert not [top for top in exploit.WRITABLE if Path(top, mark).exists()]
        assert one.status()["generations"][0]["number"] == 1  # the template was not reached either
