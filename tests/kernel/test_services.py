"""The services of examples/services run in the default sandbox, each used by a real client of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import http_load, processes, services
from tests.support.plans import free_port
from tests.support.services import DEADLINE, EXAMPLES, NO_LIMITS, NSTOOL, WEIGHT, Running
from tests.support.user import User

HERE = EXAMPLES / "services"
PAGE = (EXAMPLES / "site/index.html").read_text()
FIRST_LEASED = 0x70000000
NET = ("veth", "nft", "nat")
LIMITED = ("cgroup_memory", "cgroup_pids")
PROGRAMS = {
    "nginx": ("nginx",),
    "redis": ("redis_server", "redis_cli"),
    "python_web_app": ("debian_python",),
    "git_clone": ("git",),
    "compile": ("gcc",),
    "node": ("node",),
    "java": ("javac",),
    "sshd": ("sshd", "ssh"),
}
LINKED = ("nginx", "python_web_app", "node", "java", "sshd")

pytestmark = pytest.mark.needs("native", "nsexec", "timens", "cgroupns", "overlay")


def needs(service: str) -> pytest.MarkDecorator:
    """What a service needs to run as its file says: as root."""
    return pytest.mark.needs("root", *LIMITED, *(NET if service in LINKED else ()), *PROGRAMS[service])


def each(*names: str) -> Any:
    """Parametrize by these services, each with its needs."""
    return pytest.mark.parametrize("service", [pytest.param(name, marks=needs(name)) for name in names])


@pytest.fixture
def laid_out(tmp_path: Path) -> Path:
    """A copy of the examples, with data, keys and a repository that belong to 1000."""
    return services.lay_out(tmp_path, 1000)


# ---- clients ----


def connected(port: int) -> socket.socket:
    """A connection, or OSError: what is sent before the link is up is lost, and TCP repeats it after a second."""
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def get(url: str, data: bytes | None = None) -> str:
    """Return the answer, also one that says no; "" while nobody listens."""
    where = urlsplit(url)
    with contextlib.suppress(OSError, http.client.HTTPException), connected(where.port or 80) as peer:
        client = http.client.HTTPConnection(where.netloc)
        client.sock = peer
        client.request("POST" if data else "GET", where.path, data)
        return client.getresponse().read().decode()
    return ""


def redis(directory: Path, *words: str) -> str:
    """Return what redis-cli prints, with the socket in a directory."""
    command = ["redis-cli", "-s", "redis-data/redis.sock", *words]  # a whole path could be too long: unix(7)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=DEADLINE)
    return done.stdout.strip()


def banner(port: int) -> bytes:
    """Return what a server says first."""
    with contextlib.suppress(OSError), connected(port) as peer:
        return peer.recv(64)
    return b""


def ssh(top: Path, port: int, *words: str, key: str = "id") -> subprocess.CompletedProcess[str]:
    """Log in with a key, with nothing of the caller's own settings."""
    options = ("IdentitiesOnly=yes", "BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={top}/known")
    command = ["ssh", "-F", "none", "-i", str(top / key), "-p", str(port)]
    command += [word for option in options for word in ("-o", option)]
    where = [] if words and words[0].startswith("-") else ["user@127.0.0.1"]
    return subprocess.run(
        [*command, *where, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE
    )


def published(spec: Path) -> int:
    """Return the port of the host that a spec publishes."""
    return int(services.read(spec)["net"]["publish"][0].split(":")[1])


# ---- what is seen from outside ----


def assert_hardened(service: Running) -> None:
    """All processes of the service, as the host sees them: leased ids, no capability, no_new_privs, a filter."""
    inside = [p for p in processes.descendants(service.process.pid) if not p.comm.endswith("nsexec")]
    statuses = [(process, status_of(process.pid)) for process in inside]
    assert any(status for _, status in statuses)
    for process, status in statuses:
        if not status:
            continue
        assert {int(word) >= FIRST_LEASED for word in status["Uid"].split()} == {True}, process
        assert (status["CapBnd"], status["CapEff"]) == ("0" * 16, "0" * 16), process
        assert (status["NoNewPrivs"], int(status["Seccomp"])) == ("1", 2), process


def status_of(pid: int) -> dict[str, str]:
    """Return the lines of a process's status file; nothing when it has ended, as a connection's processes do."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return dict(line.rstrip("\n").split(":\t", 1) for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return {}


# ---- as root, the file as it is ----


@needs("nginx")
@pytest.mark.xdist_group("port-8481")
def test_nginx(name: str) -> None:
    """Static files over many connections that are kept alive, from two workers; a clean end."""
    spec = HERE / "nginx.toml"
    url = f"http://127.0.0.1:{published(spec)}"
    with services.running(name, spec) as service:
        service.until(lambda: get(f"{url}/") == PAGE)
        assert http_load.load(f"{url}/index.html", 32, 10) == {"connections": 32, "bodies": [PAGE]}
        text = (EXAMPLES / "site/namespaces.txt").read_text()
        assert get(f"{url}/namespaces.txt") == text
        with pytest.raises(ValueError, match="404"):
            http_load.ask(f"{url}/nowhere", 1)
        assert_hardened(service)
        assert service.stop() == 0
        assert service.log.read_text().count("\n") == 1  # the 404


@needs("python_web_app")
@pytest.mark.xdist_group("port-8482")
def test_python_web_app(name: str) -> None:
    """Threads, sockets, and a database that many write to at once."""
    spec = HERE / "python_web_app.toml"
    url = f"http://127.0.0.1:{published(spec)}/"
    with services.running(name, spec) as service:
        service.until(lambda: json.loads(get(url) or "{}") == {"texts": 0, "words": 0})
        assert http_load.load(url, 8, 5, "three little words") == {"connections": 8, "bodies": ['{"words": 3}\n']}
        assert json.loads(get(url)) == {"texts": 40, "words": 120}
        assert_hardened(service)
        assert service.stop() == 128 + 15  # no handler of SIGTERM


@needs("node")
@pytest.mark.xdist_group("port-8483")
def test_node(name: str) -> None:
    """An event loop, a pool of threads, compiled code."""
    spec = HERE / "node.toml"
    url = f"http://127.0.0.1:{published(spec)}/secret"
    with services.running(name, spec) as service:
        service.until(lambda: get(url) != "")
        answer = get(url)
        assert len(bytes.fromhex(answer)) == 32
        assert http_load.load(url, 16, 10) == {"connections": 16, "bodies": [answer]}
        assert_hardened(service)


@needs("java")
@pytest.mark.xdist_group("port-8484")
def test_java(name: str) -> None:
    """Compiled and served by the JVM, whose heap is a quarter of the sandbox's memory, not of the host's."""
    spec = HERE / "java.toml"
    url = f"http://127.0.0.1:{published(spec)}/"
    with services.running(name, spec) as service:
        service.until(lambda: get(url) != "")
        told = http_load.load(url, 8, 5)
        (answer,) = told["bodies"]
        heap, processors = map(int, re.findall("[0-9]+", answer))
        assert (told["connections"], processors) == (8, len(os.sched_getaffinity(0)))
        assert 110 <= heap <= 128  # of 512; some collectors keep a part of it to themselves
        assert_hardened(service)


@needs("redis")
def test_redis(name: str, laid_out: Path) -> None:
    """Data are saved in the foreground and by a fork, belong to 1000 on the disk, and are there under other ids."""
    data = laid_out / "redis-data"
    with services.running(f"{name}a", laid_out / "redis.toml") as service:
        service.until(lambda: redis(laid_out, "ping") == "PONG")
        assert redis(laid_out, "set", "one", "1") == "OK"
        assert redis(laid_out, "save") == "OK"
        assert [(path.name, path.stat().st_uid) for path in data.glob("*.rdb")] == [("dump.rdb", 1000)]
        assert redis(laid_out, "set", "two", "2") == "OK"
        assert redis(laid_out, "bgsave") == "Background saving started"
        service.until(lambda: "rdb_bgsave_in_progress:0" in redis(laid_out, "info", "persistence"))
        assert "rdb_last_bgsave_status:ok" in redis(laid_out, "info", "persistence")
        (data / "dump.rdb").rename(data / "kept.rdb")  # what BGSAVE wrote, not what the end writes
        assert_hardened(service)
        assert service.stop() == 0
        # Of what redis warns at its start only what holds for the host is left: vm.overcommit_memory.
        warnings = [line for line in service.log.read_text().splitlines() if "WARNING" in line or "maxclients" in line]
        assert [line for line in warnings if "overcommit" not in line] == []
    (data / "kept.rdb").rename(data / "dump.rdb")
    with services.running(f"{name}b", laid_out / "redis.toml") as service:
        service.until(lambda: redis(laid_out, "ping") == "PONG")
        assert [redis(laid_out, "get", key) for key in ("one", "two")] == ["1", "2"]


@needs("git_clone")
@pytest.mark.parametrize("words", [(), ("--no-local",)], ids=["copied", "packed"])
def test_git_clone(laid_out: Path, words: tuple[str, ...]) -> None:
    """Cloned from a read-only repository of another owner, which is trusted by its name alone."""
    done = run(laid_out / "git_clone.toml", *words)
    assert (done.returncode, done.stderr.strip().splitlines()[0]) == (0, "Cloning into '/tmp/nstool'..."), done.stderr
    spec = services.read(laid_out / "git_clone.toml")
    spec["command"] = ["sh", "-c", f"{' '.join(spec['command'])} && cat /tmp/nstool/file && git -C /tmp/nstool fsck"]
    done = run(services.write(laid_out / "git_clone.toml", spec))
    assert (done.returncode, done.stdout) == (0, "cloned\n"), done.stderr


@needs("compile")
def test_compile() -> None:
    """A C program is compiled and runs."""
    done = run(HERE / "compile.toml")
    assert (done.returncode, done.stdout) == (0, "78498 primes below 1000000\n"), done.stderr


def run(spec: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a spec to its end, from another directory."""
    command = [NSTOOL, "run", *WEIGHT, str(spec), *(("--", *words) if words else ())]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, cwd="/")


@needs("sshd")
@pytest.mark.xdist_group("port-8422")
def test_sshd(name: str, laid_out: Path) -> None:
    """A key logs in, runs a command, gets a terminal and files; another key does not; sshd's own filter is on ours."""
    spec = laid_out / "sshd.toml"
    top = laid_out.parents[1]
    port = published(spec)
    with services.running(name, spec) as service:
        service.until(lambda: banner(port).startswith(b"SSH-2.0-"))
        done = ssh(top, port, "id -un; tty; exit 7")
        assert (done.returncode, done.stdout) == (7, "user\nnot a tty\n"), done.stderr
        done = ssh(top, port, "-tt", "user@127.0.0.1", "tty; echo $SSH_TTY; ls -l $(tty)")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[:4] == ["/dev/pts/0", "/dev/pts/0", "crw--w----", "1"]
        assert_hardened(service)
        assert filters_before_login(service, port) == {2, 3}  # init's, the list, and sshd's own
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(top / "other")], check=True)
        refused = ssh(top, port, "true", key="other")
        assert refused.returncode == 255
        assert "Permission denied (publickey)" in refused.stderr
        assert fetched(top, port, "/etc/passwd").startswith("root:x:0:")


def filters_before_login(service: Running, port: int) -> set[int]:
    """Return how many seccomp filters sshd's processes have while a client has not yet said who it is."""
    with connected(port) as connection:
        assert connection.recv(64)  # the process that talks to the network is there
        connection.sendall(b"SSH-2.0-test\r\n")
        assert connection.recv(1)  # its first message: after it has put itself in its filter
        found = set()
        for process in processes.descendants(service.process.pid):
            if process.comm.startswith("sshd") and (status := status_of(process.pid)):
                found.add(int(status["Seccomp_filters"]))
        return found


def fetched(top: Path, port: int, path: str) -> str:
    """Return a file from inside, by sftp."""
    options = ["-F", "none", "-i", str(top / "id"), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no"]
    options += ["-o", f"UserKnownHostsFile={top}/known", "-P", str(port), "-b", "-"]
    subprocess.run(
        ["sftp", *options, "user@127.0.0.1"],
        input=f"get {path} {top}/fetched\n",
        check=True,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    return (top / "fetched").read_text()


# ---- the fewest words ----


def right_answer(service: str, url: str) -> bool:
    """Return whether a web service answers yet. Raises WrongAnswer."""
    answer = get(url, b"two words" if service == "python_web_app" else None)
    right = {"nginx": answer == PAGE, "python_web_app": answer == '{"words": 2}\n', "node": len(answer) == 65}
    return services.is_right(answer, right[service])


def serves(service: str, directory: Path, port: int) -> Callable[[], bool]:
    """Return what tells whether a service does what it is for."""
    if service == "redis":
        return lambda: redis(directory, "set", "one", "1") == redis(directory, "save") == "OK"
    if service == "sshd":
        return lambda: banner(port) != b"" and ssh(directory.parents[1], port, "echo in").stdout == "in\n"
    return lambda: right_answer(service, f"http://127.0.0.1:{port}/")


@each("nginx", "python_web_app", "node", "redis", "sshd")
def test_each_word_is_needed(name: str, service: str, laid_out: Path) -> None:
    """With the whole spec the service serves; without any one of its words it ends, or serves nobody."""
    spec = laid_out / f"{service}.toml"
    port = free_port()
    words = services.on_port(services.read(spec), port)
    probe = serves(service, laid_out, port)
    with services.running(name, services.write(spec, words)) as one:
        seconds = one.until(probe)
    served = []
    for place, fewer in services.without_each(words):
        with (
            services.running(name, services.write(spec, fewer)) as one,
            contextlib.suppress(services.Ended, services.WrongAnswer, TimeoutError),
        ):
            one.until(probe, 1.5 * seconds)
            served.append(place)
    assert served == []


@each("git_clone", "compile")
def test_each_word_of_a_job_is_needed(service: str, laid_out: Path) -> None:
    """With the whole spec the job ends well; without any one of its words it does not."""
    spec = laid_out / f"{service}.toml"
    words = services.read(spec)
    assert run(services.write(spec, words)).returncode == 0
    others = {place: run(services.write(spec, fewer)) for place, fewer in services.without_each(words)}
    assert len(others) == 2
    assert [place for place, done in others.items() if done.returncode == 0 or "nstool: " in done.stderr] == []


# ---- as an ordinary user ----


@pytest.fixture
def home(user: User, name: str) -> Iterator[Path]:
    """The copy in a directory of the user's, all of which is theirs."""
    top = user.home / f"{name}-examples"
    directory = services.lay_out(top, user.uid)
    for path in (top, *top.rglob("*")):
        os.chown(path, user.uid, user.gid)
    yield directory
    shutil.rmtree(top)


USER = pytest.mark.needs("user", "userns", "newuidmap")
PORTS = {"nginx": 8080, "python_web_app": 8080, "node": 8080}


@USER
@pytest.mark.parametrize("service", [pytest.param(name, marks=pytest.mark.needs(*PROGRAMS[name])) for name in PORTS])
def test_as_ordinary_user(as_user: Callable[..., Any], name: str, service: str, home: Path) -> None:
    """Without [net], which needs root, an ordinary user's service is reached from its own network namespace."""

    def serve() -> dict[str, Any]:
        spec = home / f"{service}.toml"
        words = services.read(spec)
        del words["net"]
        client = [NSTOOL, "enter", name, "--types", "user,net", "--", sys.executable, http_load.__file__]
        client += ["http://127.0.0.1:8080/", "4", "3", *(["two words"] if service == "python_web_app" else [])]
        answers: list[dict[str, Any]] = []

        def probe() -> bool:
            done = subprocess.run(client, capture_output=True, text=True, timeout=DEADLINE)
            answers[:] = [json.loads(done.stdout)] if done.returncode == 0 else []
            return done.returncode == 0

        with services.running(name, services.write(spec, words), *NO_LIMITS) as one:
            one.until(probe)
        return answers[0]

    answer = as_user(serve, timeout=DEADLINE)
    assert answer["connections"] == 4
    expected = {"nginx": PAGE, "python_web_app": '{"words": 2}\n'}
    assert answer["bodies"] == [expected[service]] if service in expected else len(answer["bodies"][0]) == 65


@USER
@pytest.mark.parametrize(
    ("service", "said"),
    [
        pytest.param("git_clone", "", marks=pytest.mark.needs("git")),
        pytest.param("compile", "78498 primes below 1000000\n", marks=pytest.mark.needs("gcc")),
    ],
)
def test_job_as_ordinary_user(as_user: Callable[..., Any], service: str, said: str, home: Path) -> None:
    """The file as it is."""

    def job() -> tuple[int, str, str]:
        done = subprocess.run(
            [NSTOOL, "run", *NO_LIMITS, str(home / f"{service}.toml")],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return done.returncode, done.stdout, done.stderr

    status, out, errors = as_user(job, timeout=DEADLINE)
    assert (status, out) == (0, said), errors


@USER
@pytest.mark.needs(*PROGRAMS["redis"])
def test_redis_as_ordinary_user(as_user: Callable[..., Any], name: str, user: User, home: Path) -> None:
    """With the options that its comment names, the data are the user's own."""

    def serve() -> tuple[str, int]:
        options = [f"--{kind}-map=1000:{number}:1" for kind, number in (("uid", user.uid), ("gid", user.gid))]
        options += ["--mount", f"{home}/redis-data:/var/lib/redis:rw", *NO_LIMITS]
        with services.running(name, home / "redis.toml", *options) as one:
            one.until(lambda: redis(home, "ping") == "PONG")
            redis(home, "set", "one", "1")
            said = redis(home, "bgsave")
            one.until((home / "redis-data/dump.rdb").exists)
        return said, (home / "redis-data/dump.rdb").stat().st_uid

    assert as_user(serve, timeout=DEADLINE) == ("Background saving started", user.uid)


@USER
@pytest.mark.orphans  # ssh does not wait for its ProxyCommand
@pytest.mark.needs(*PROGRAMS["sshd"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("user@box", "id -un; tty || true"), "user\nnot a tty\n"),
        (("-tt", "user@box", "tty; stat -c %U:%G $(tty)"), "/dev/pts/0\nuser:user\n"),
    ],
    ids=["command", "terminal"],
)
def test_sshd_as_ordinary_user(
    as_user: Callable[..., Any], user: User, home: Path, words: tuple[str, ...], said: str
) -> None:
    """Each connection has a sandbox of its own, and no link: sshd -i speaks on its standard streams."""

    def login() -> tuple[int, str, str]:
        spec = services.read(home / "sshd.toml")
        del spec["net"]
        file = services.write(home / "sshd.toml", spec)
        ids = f"--uid-map 1000:{user.uid}:1 --gid-map 1000:{user.gid}:1 --mount {home}/ssh-keys:/etc/ssh/keys"
        proxy = f"{NSTOOL} run {' '.join(NO_LIMITS)} {ids} {file} -- -i"
        done = ssh(home.parents[1], 22, "-o", f"ProxyCommand={proxy}", *words)
        return done.returncode, done.stdout.replace("\r", ""), done.stderr

    status, out, errors = as_user(login, timeout=DEADLINE)
    assert (status, out) == (0, said), errors
