"""What of a service varies: consecutive sandboxes, and consecutive generations, share none of what was asked to."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported, NstoolError
from nstool.sandbox import attest, host
from nstool.sandbox.attest import Wanted
from nstool.service import generation
from nstool.service.blueprint import Blueprint
from nstool.service.orders import DECIMAL, RANDOM, Vary
from nstool.spec.model import Limits, Spec
from nstool.spec.service import Service
from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
ALL = ("ids", "hostname", "pid", "canary", "machine-id", "boot-id", "port", "address", "clock")
UNLIMITED = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
# What a command tells of itself, as JSON: on its standard output, or to who connects to the port that it was told.
FACTS = r"""
import json, os, socket, sys, time
def read(path):
    with open(path) as file:
        return file.read().strip()
def facts():
    uptime = float(read("/proc/uptime").split()[0])
    btime = next(int(row.split()[1]) for row in read("/proc/stat").splitlines() if row.startswith("btime "))
    return {
        "hostname": [os.uname().nodename, read("/etc/hostname")],
        "pid": os.getpid(),
        "canary": os.environ.get("NSTOOL_CANARY", ""),
        "machine-id": read("/etc/machine-id"),
        "boot-id": read("/proc/sys/kernel/random/boot_id"),
        "uptime": uptime,
        "monotonic": time.monotonic(),
        "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "began": time.time() - uptime,
        "btime": btime,
        "uts": os.readlink("/proc/self/ns/uts"),
        "time": os.readlink("/proc/self/ns/time"),
    }
"""
RELAYED = (
    FACTS
    + r"""
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
connection = server.accept()[0]
told = {**facts(), "address": server.getsockname()[0], "port": server.getsockname()[1], "env": os.environ["WHERE"]}
connection.sendall(json.dumps(told).encode() + b"\n")
connection.recv(1)
"""
)
WHERE = 'env = {WHERE = "{address}:{port} {port ${port} {other} {{port}}"}'
SAID = FACTS + "print(json.dumps(facts()), flush=True)\nsys.stdin.read(1)"
ACCEPTS = (
    FACTS
    + r"""
connection = socket.socket(fileno=3).accept()[0]
connection.sendall(json.dumps({**facts(), "told": os.environ["LISTEN_PID"]}).encode() + b"\n")
"""
)
HANDLER = FACTS + (
    "from nstool.service import handler\n"
    "@handler\n"
    "def handle(connection):\n"
    "    connection.sendall(json.dumps(facts()).encode() + b'\\n')\n"
    "    connection.recv(1)\n"
)


def command(script: str, *words: str) -> str:
    """The line of a spec whose command is a Python program."""
    return f"command = {json.dumps(['/usr/bin/python3', '-c', script, *words])}"


RELAY = command(RELAYED, "{address}", "{port}")


def vary(*words: str) -> str:
    """The lines of a table."""
    return f"vary = {json.dumps(words)}\n"


def look(one: serving.Serving) -> dict[str, Any]:
    """Connect; what the command tells, and what the host sees of it meanwhile: its ids, and its clocks."""
    template = one.status()["generations"][-1]["pid"]
    with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE) as client:
        data = b""
        while not data.endswith(b"\n"):
            data += (part := client.recv(65536))
            assert part, one.log.read_text()
        found: dict[str, Any] = json.loads(data)
        for pid in Path(f"/proc/{template}/task/{template}/children").read_text().split():
            if os.readlink(f"/proc/{pid}/ns/uts") == found["uts"]:
                found["ids"] = [Path(f"/proc/{pid}/{kind}_map").read_text().split()[1] for kind in ("uid", "gid")]
                found["clock"] = Path(f"/proc/{pid}/timens_offsets").read_text().split()[1::3]
                found["seen"] = os.readlink(f"/proc/{pid}/ns/time")
        client.sendall(b"x")
        assert client.recv(1) == b""
    found["template"] = [os.readlink(f"/proc/{pid}/ns/time") for pid in (template, "self")]
    one.until(lambda s: s["live"] == 0, "over")  # or its place is not the one that is left
    return found


def generations(spec: Path, name: str, each: int = 3, count: int = 3) -> tuple[list[list[dict[str, Any]]], Any]:
    """What the sandboxes of some generations tell, one after the other; and the status at the end."""
    with serving.serving(spec, name) as one:
        found = []
        for number in range(count):
            if number:
                one.tell("rotate")
            found.append([look(one) for _ in range(each)])
        return found, one.status()


def values(found: dict[str, Any], word: str) -> set[str]:
    """All that a word makes vary of a sandbox: none of these may be there again."""
    value = found[word]
    return {str(each) for each in value} if isinstance(value, list) else {str(value)}


def check_apart(found: list[list[dict[str, Any]]], words: tuple[str, ...]) -> None:
    """No two sandboxes in a row, and no two generations in a row, have one value of a word in common."""
    for word in words:
        each = [values(one, word) for several in found for one in several]
        assert not [pair for pair in zip(each, each[1:]) if pair[0] & pair[1]], word
        all_ = [set().union(*(values(one, word) for one in several)) for several in found]
        assert not [pair for pair in zip(all_, all_[1:]) if pair[0] & pair[1]], word


def check_forms(found: list[list[dict[str, Any]]], name: str, status: dict[str, Any]) -> None:
    """What was told is what was promised, inside and seen from outside."""
    for one in (one for several in found for one in several):
        assert re.fullmatch(rf"{name}-[0-9a-f]{{8}}", one["hostname"][0])
        assert one["hostname"][0] == one["hostname"][1]
        assert re.fullmatch(r"[0-9a-f]{32}", one["machine-id"])
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one["boot-id"])
        assert re.fullmatch(r"[0-9a-f]{32}", one["canary"])
        assert 10000 <= one["port"] < 60000
        assert all(100 <= int(octet) < 255 for octet in one["address"].removeprefix("127.").split("."))
        port = one["port"]
        assert one["env"] == f"{one['address']}:{port} {{port ${{port}} {{other}} {{{port}}}"
        check_clock(one)
    executed = status["latencies"]["executed"]
    assert executed["count"] >= 9
    assert executed["mean"] < DEADLINE * 1e6  # not by the clock of the sandbox


def check_clock(one: dict[str, Any]) -> None:
    """Its time namespace is its own, its clocks began an hour to 31 days ago, and all that tells of them agrees."""
    assert one["time"] == one["seen"]
    assert one["time"] not in one["template"]
    assert 3600 <= one["uptime"] < 31 * 86400
    assert abs(one["boottime"] - one["uptime"]) < 60
    assert -1 < one["uptime"] - one["monotonic"] < 60
    assert abs(one["btime"] - one["began"]) < 60


@pytest.mark.parametrize("ready", [0, 2])
@pytest.mark.parametrize("init", ["true", "false"])
def test_all_words_at_once(name: str, tmp_path: Path, ready: int, init: str) -> None:
    """Three sandboxes of each of three generations, cold and parked; without init there is no other pid than 1."""
    words = ALL if init == "true" else tuple(word for word in ALL if word != "pid")
    table = TCP + f'shape = "port"\nplaces = 3\nready = {ready}\n' + vary(*words)
    found, status = generations(write(tmp_path / "s.toml", table, RELAY, WHERE, f"init = {init}"), name)
    check_apart(found, words)
    check_forms(found, name, status)


@pytest.mark.parametrize("ready", [0, 1])
def test_one_place_never_has_the_same_twice(name: str, tmp_path: Path, ready: int) -> None:
    """The life before was in the same place: what it left there is not given again."""
    table = TCP + f'shape = "port"\nplaces = 1\nready = {ready}\n' + vary(*ALL)
    found, _ = generations(write(tmp_path / "s.toml", table, RELAY, WHERE), name, each=4, count=2)
    check_apart(found, ALL)


@pytest.mark.needs("userns", "newuidmap")
@pytest.mark.parametrize(("init", "ready"), [("true", 0), ("false", 2)])
def test_all_words_of_a_users_service(
    as_user: Callable[..., Any], user: User, name: str, init: str, ready: int
) -> None:
    """The range of /etc/subuid is divided among two generations, too."""
    words = ALL if init == "true" else tuple(word for word in ALL if word != "pid")

    def act() -> Any:
        path = Path(tempfile.mkdtemp(dir=user.home))
        table = TCP + f'shape = "port"\nplaces = 3\nready = {ready}\n' + vary(*words)
        lines = (RELAY, WHERE, f"init = {init}", UNLIMITED, "[service]", table)
        (path / "s.toml").write_text("\n".join(lines))
        found = generations(path / "s.toml", name)
        shutil.rmtree(path)
        return found

    found, status = as_user(act, timeout=6 * DEADLINE)
    check_apart(found, words)
    check_forms(found, name, status)


@pytest.mark.needs("userns")
def test_the_one_id_of_a_user_cannot_vary(as_user: Callable[..., Any], user: User, name: str) -> None:
    """Who has no range of ids has the own one for all sandboxes: said, with what to do."""

    def act() -> str:
        host._helpers = lambda uid: {}  # as where /etc/subuid does not name the user
        spec = Spec(command=("/bin/cat",), limits=Limits(memory=0, pids=0, cpu=0))
        try:
            Blueprint(name, (spec,), Service(listen=("tcp:127.0.0.1:0",), vary=("ids",)))
        except NotSupported as error:
            return str(error)
        return ""

    assert "--add-subuids" in as_user(act)


def test_one_spec_works_both_ways(name: str, tmp_path: Path) -> None:
    """Without vary the placeholders are the port of the spec and 127.0.0.1; of another shape they are nothing."""
    spec = write(tmp_path / "s.toml", TCP + 'shape = "port"\nport = 7007', RELAY, WHERE)
    with serving.serving(spec, name) as one:
        found = [look(one) for _ in range(2)]
    assert [(each["address"], each["port"]) for each in found] == [("127.0.0.1", 7007)] * 2
    assert found[0]["env"] == "127.0.0.1:7007 {port ${port} {other} {7007}"
    words = json.dumps(["/bin/sh", "-c", 'echo "$0 $1 $WHERE"', "{port}", "{address}"])
    with serving.serving(write(tmp_path / "t.toml", TCP, f"command = {words}", WHERE), name) as one:
        assert ask(one.port()) == b"{port} {address} {address}:{port} {port ${port} {other} {{port}}\n"


def test_only_the_address_varies_of_a_fixed_port(name: str, tmp_path: Path) -> None:
    """One of the two can vary without the other."""
    spec = write(tmp_path / "s.toml", TCP + 'shape = "port"\nport = 7007\n' + vary("address"), RELAY, WHERE)
    found, _ = generations(spec, name, each=3, count=1)
    assert {one["port"] for one in found[0]} == {7007}
    check_apart(found, ("address",))


def test_a_life_of_many_connections_has_one_port(name: str, tmp_path: Path) -> None:
    """All connections of a shared life go to where its command listens, the next life's elsewhere."""
    script = (
        "import socket, sys\nserver = socket.create_server((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n    with server.accept()[0] as one: one.sendall(repr(server.getsockname()).encode())"
    )
    table = TCP + 'shape = "port"\nlife = "shared"\nlife_connections = 3\n' + vary("port", "address")
    with serving.serving(write(tmp_path / "s.toml", table, command(script, "{address}", "{port}")), name) as one:
        found = [ask(one.port()) for _ in range(9)]
    lives = [set(found[at : at + 3]) for at in range(0, 9, 3)]
    assert [len(life) for life in lives] == [1, 1, 1]
    assert len(set.union(*lives)) == 3


def test_a_pid_is_what_listen_pid_says(name: str, tmp_path: Path) -> None:
    """sd_listen_fds(3) compares them as numbers, of which a 0 in front would be octal."""
    script = 'printf "%s %s" "$LISTEN_PID" "$$" >&3'
    spec = write(
        tmp_path / "s.toml", TCP + 'shape = "socket"\n' + vary("pid"), f"command = {['/bin/sh', '-c', script]}"
    )
    with serving.serving(spec, name) as one:
        found = [ask(one.port()).decode().split() for _ in range(4)]
    assert all(told == own for told, own in found)
    assert all(before != after for before, after in zip(found, found[1:]))


def test_a_sandbox_that_accepts_itself_varies(name: str, tmp_path: Path) -> None:
    """One that has the listening socket is followed by another, which has nothing of it."""
    words = ("hostname", "pid", "canary", "machine-id", "boot-id", "clock")
    spec = write(tmp_path / "s.toml", TCP + 'shape = "listener"\n' + vary(*words), command(ACCEPTS))
    with serving.serving(spec, name) as one:
        port = one.port()
        found = [json.loads(ask(port)) for _ in range(5)]
    assert [each["told"] for each in found] == [str(each["pid"]) for each in found]
    check_apart([[{**each, "clock": each["time"] + str(each["btime"])} for each in found]], words)


def rows(pid: int, template: int, clocks: dict[str, range]) -> dict[str, bool | None]:
    """What an attestation says of the time namespace and the clocks of a process."""
    wanted = Wanted(
        Spec(command=("x",)), host.read(Spec(command=("x",))), waits=False, template=template, clocks=clocks
    )
    return {row.name: row.holds for row in attest.attest(pid, wanted) if "_offset" in row.name or "time" in row.name}


@pytest.mark.parametrize("own", [True, False])
def test_clocks_are_attested(name: str, tmp_path: Path, own: bool) -> None:
    """A sandbox with the time namespace of its template, or with other offsets than can be drawn, is not let go on."""
    spec = write(tmp_path / "s.toml", TCP + (vary("clock") if own else ""), command(SAID), "init = false")
    with serving.serving(spec, name) as one, socket.create_connection(("127.0.0.1", one.port())) as client:
        client.settimeout(DEADLINE)
        client.recv(1)
        template = one.status()["generations"][0]["pid"]
        (pid,) = Path(f"/proc/{template}/task/{template}/children").read_text().split()
        monotonic, boottime = map(int, Path(f"/proc/{pid}/timens_offsets").read_text().split()[1::3])
        right = {"monotonic": range(monotonic, monotonic + 9, 2), "boottime": range(boottime, boottime + 9, 2)}
        wrong = {clock: range(one.start + 1, one.stop, 2) for clock, one in right.items()}
        assert rows(int(pid), template, right) == {
            "namespaces.time": own,
            "namespaces.monotonic_offset": True,
            "namespaces.boottime_offset": True,
        }
        assert rows(int(pid), template, wrong)["namespaces.monotonic_offset"] is False
        client.sendall(b"x")


# What a template would use where it has no room for it, or has no use for it: fields of a Vary, and the shape.
WRONG = {
    "no such use": ({"use": 5}, "port"),
    "a port that is too large": ({"use": 1, "first": 65535, "step": 1, "count": 2}, "port"),
    "a port below 0": ({"use": 1, "first": -1}, "port"),
    "a port that falls": ({"use": 1, "first": 9, "step": -5, "count": 3}, "port"),
    "a part of an address that is too large": ({"use": 2, "first": 250, "step": 1, "count": 7}, "port"),
    "a port by overflow": ({"use": 1, "first": 1, "step": 2, "count": 1 << 63}, "port"),
    "a port of no server": ({"use": 1, "first": 80}, "stdio"),
}


@pytest.mark.parametrize("kind", [*WRONG, ""])
def test_wrong_orders_are_refused(in_child: Callable[..., Any], name: str, kind: str) -> None:
    """A template checks what it is told before it uses it: EINVAL; what is right is taken."""
    fields, shape = WRONG.get(kind, ({"use": 1, "first": 10000, "step": 2, "count": 9}, "port"))
    port = {"port": 80} if shape == "port" else {}

    def act() -> str:
        spec = Spec(command=("/bin/cat", "one word that varies"), limits=Limits(cpu=0))
        service = Service(listen=("tcp:127.0.0.1:0",), shape=shape, places=1, **port)
        blueprint = Blueprint(name, (spec,), service)
        token = Vary(b"one word that varies", RANDOM, DECIMAL, width=5, **fields)
        varied = blueprint.varied
        blueprint.varied = lambda *words: (*varied(*words), token)  # type: ignore[method-assign]
        try:
            generation.make(
                blueprint, 1, 0, blueprint.variant(), heard=lambda name, fd: None, listeners=[], stopping=bool
            ).close()
        except NstoolError as error:
            return str(error)
        return ""

    wanted = "the template refuses its orders: errno 22" if kind else ""
    assert in_child(act) == wanted


# ---- roots and commands ----


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A directory with three roots, which say which they are."""
    for root in ("a", "b", "c"):
        for directory in ("bin", "proc", "dev", "tmp"):
            (tmp_path / root / directory).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", tmp_path / root / "bin/busybox")
        (tmp_path / root / "which").write_text(root)
    return tmp_path


def rotated(spec: Path, name: str, count: int) -> list[str]:
    """The answers of so many generations."""
    with serving.serving(spec, name) as one:
        found = [ask(one.port()).decode().strip()]
        for _ in range(count - 1):
            one.tell("rotate")
            found.append(ask(one.port()).decode().strip())
    return found


def commands(*words: str) -> str:
    """The line of a table with a command that says each of these words."""
    return f"commands = {json.dumps([['/bin/busybox', 'sh', '-c', f'cat /which; echo {word}'] for word in words])}"


@pytest.mark.needs("busybox")
def test_commands_go_with_their_roots_in_turn(name: str, roots: Path) -> None:
    """Pairs: the command of a generation is the one at the place of its root; roots without a slash count, too."""
    spec = write(roots / "s.toml", TCP + 'roots = ["a", "./b", "c"]\n' + commands("1", "2", "3"))
    assert rotated(spec, name, 4) == ["a1", "b2", "c3", "a1"]


@pytest.mark.needs("busybox")
def test_generations_have_the_roots_at_random(name: str, roots: Path) -> None:
    """Never the same twice in a row, each of them, and not in turn."""
    table = 'roots = ["a", "b", "c"]\nvariant_order = "random"\n' + commands("1", "2", "3")
    found = rotated(write(roots / "s.toml", TCP + table), name, 24)
    assert {*found} == {"a1", "b2", "c3"}
    assert all(before != after for before, after in zip(found, found[1:]))
    assert any(before == after for before, after in zip(found, found[2:]))


def test_a_generation_that_cannot_be_made_counts_for_none(name: str, tmp_path: Path) -> None:
    """The one after it has other numbers than the last that could, and the turn goes on."""
    good = json.dumps(["/usr/bin/python3", "-c", RELAYED, "{address}", "{port}"])
    table = TCP + 'shape = "port"\n' + vary("port") + f'commands = [{good}, ["/no/such", "{{port}}"]]'
    with serving.serving(write(tmp_path / "s.toml", table, WHERE), name) as one:
        found = [look(one)["port"]]
        for _ in range(3):
            done = subprocess.run([NSTOOL, "service", "rotate", name], capture_output=True, text=True)
            assert "/no/such" in done.stderr
            one.tell("rotate")
            found.append(look(one)["port"])
    assert all(before % 2 != after % 2 for before, after in zip(found, found[1:])), found


@pytest.mark.parametrize("order", ["random", "turn"])
def test_the_next_service_draws_another_than_the_last(name: str, tmp_path: Path, order: str) -> None:
    """A generation that goes on when its service is killed is the one before the first of the next."""
    table = TCP + f'variant_order = "{order}"\n' + 'commands = [["/bin/echo", "a"], ["/bin/echo", "b"]]\nready = 1'
    spec = write(tmp_path / "s.toml", table)
    found, templates = [], []
    for _ in range(8):
        one = serving.start(spec, name, tmp_path / "log")
        found.append(ask(one.port()))
        templates.append(one.status()["generations"][-1]["pid"])
        one.process.kill()
        one.process.wait()
    one = serving.start(spec, name, tmp_path / "log")
    assert serving.stop(one) == 0
    for template in templates:
        os.waitpid(template, 0)  # it has come to the tests, a subreaper
    assert all(before != after for before, after in zip(found, found[1:])), found


def test_commands_of_one_root(name: str, tmp_path: Path) -> None:
    """Several programs of the same service, without roots; placeholders and what else varies hold of each."""
    other = command(RELAYED + "# the other", "{address}", "{port}")
    table = TCP + 'shape = "port"\n' + vary("port", "pid") + f"commands = [{RELAY[10:]}, {other[10:]}]"
    found, _ = generations(write(tmp_path / "s.toml", table, WHERE), name, each=2)
    check_apart(found, ("port", "pid"))


def test_one_that_is_alone_is_drawn_each_time(name: str, tmp_path: Path) -> None:
    """At random of one: that."""
    table = TCP + 'commands = [["/bin/echo", "one"]]\nvariant_order = "random"'
    assert rotated(write(tmp_path / "s.toml", table), name, 3) == ["one"] * 3


# ---- what can be together ----

CLOCKED = ("ids", "hostname", "machine-id", "boot-id", "clock")
# Table, other lines, words: each is begun for real, and what was asked to vary does.
LEGAL: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "stdio": ("", (), (*CLOCKED, "pid", "canary")),
    "stdio, parked": ("ready = 2", (), (*CLOCKED, "pid", "canary")),
    "stdio without init": ("", ("init = false",), (*CLOCKED, "canary")),
    "stdio without init, parked": ("ready = 2", ("init = false",), (*CLOCKED, "canary")),
    "lent networks": ("lease_net = true", (), (*CLOCKED, "pid", "canary")),
    "each attested": ('attest = "each"', (), (*CLOCKED, "pid", "canary")),
    "each attested, parked": ('attest = "each"\nready = 2', ("init = false",), (*CLOCKED, "canary")),
    "not attested": ('attest = "never"', (), (*CLOCKED, "pid", "canary")),
    "the host's network": ("", ('net = "host"',), (*CLOCKED, "pid", "canary")),
    "the kernel's /proc/stat": ("", ('proc_show = ["stat"]',), ("clock", "boot-id")),
    "the kernel's /proc/sys": ("", ('proc_show = ["sys"]',), ("clock", "boot-id")),
    "root inside": ("", ('user = "0:0"',), (*CLOCKED, "pid", "canary")),
    "a name of its own": ("", ('hostname = "box"',), ("hostname",)),
    "relayed, each attested": ('shape = "port"\nattest = "each"', (WHERE,), ALL),
    "relayed, lent networks": ('shape = "port"\nlease_net = true', (WHERE,), ALL),
    "relayed, not attested": ('shape = "port"\nattest = "never"\nready = 2', (WHERE,), ALL),
    "a function": ('shape = "python"\nhandler = "app.py"', (), CLOCKED),
    "a function, parked": ('shape = "python"\nhandler = "app.py"\nready = 2', (), CLOCKED),
    "a function, each attested": ('shape = "python"\nhandler = "app.py"\nattest = "each"', (), CLOCKED),
    "a function, lent networks": ('shape = "python"\nhandler = "app.py"\nlease_net = true', (), CLOCKED),
}


@pytest.mark.parametrize("kind", LEGAL)
def test_what_can_be_together(name: str, tmp_path: Path, kind: str) -> None:
    """Every legal combination serves, and varies."""
    table, lines, words = LEGAL[kind]
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text(HANDLER)
    run = () if "python" in table else (RELAY,) if "port" in table else (command(SAID),)
    table = TCP + f"places = 3\n{table}\n" + vary(*words)
    found, _ = generations(write(tmp_path / "s.toml", table, *run, *lines), name, count=2)
    check_apart(found, words)
    for one in (one for several in found for one in several if "clock" in words):
        check_clock(one)


PORT = 'shape = "port"\nport = 80\n'
# Table, other lines, where, what is said.
REFUSED: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "port of no server": (vary("port"), (RELAY,), "vary[0]", 'only the command of shape = "port"'),
    "address of no server": (vary("ids", "address"), (RELAY,), "vary[1]", "only the command"),
    "a port that nobody knows": (
        'shape = "port"\n' + vary("port"),
        (command("", "{address} ${port}"),),
        "vary[0]",
        "{port} in a word of command",
    ),
    "an address that nobody knows": (PORT + vary("address"), (command("", "{port}"),), "vary[0]", "write {address}"),
    "a port that is the program's name": (
        'shape = "port"\n' + vary("port"),
        ("command = ['/bin/{port}']",),
        "vary[0]",
        "would not know it",
    ),
    "a port of the host": (PORT + vary("port"), (RELAY, 'net = "host"'), "vary[0]", "others listen"),
    "an address without a network": (PORT + vary("address"), (RELAY, 'net = "none"'), "vary[0]", "others listen"),
    "no port": ('shape = "port"\n' + vary("address"), (RELAY,), "service", "needs the port"),
    "clocks of the host": (
        vary("clock"),
        (command(""), "namespaces = {time = 'host'}"),
        "vary[0]",
        "time_namespaces(7)",
    ),
    "clocks that are set": (
        vary("clock"),
        (command(""), "namespaces = {boottime_offset = 5}"),
        "vary[0]",
        "boottime_offset",
    ),
    "ids that are mapped": (vary("ids"), (command(""), 'uid_map = ["0:100000:65536"]'), "vary[0]", "uid_map"),
    "the host's name": (vary("hostname"), (command(""), "namespaces = {uts = 'host'}"), "vary[0]", "uts_namespaces(7)"),
    "a pid that is set": (vary("pid"), (command(""), "next_pid = 77"), "vary[0]", "next_pid"),
    "a pid without init": (vary("pid"), (command(""), "init = false"), "vary[0]", "without init"),
    "a machine id of another root": (
        vary("machine-id"),
        (command(""), 'root = "/"'),
        "vary[0]",
        "only the default root",
    ),
    "a machine id of another variant": (
        vary("machine-id") + 'roots = ["system", "/"]',
        (command(""),),
        "vary[0]",
        "only the default root",
    ),
    "a machine id that is mounted": (
        vary("machine-id"),
        (command(""), 'mounts = ["/etc/machine-id:/etc/machine-id"]'),
        "vary[0]",
        "mounts",
    ),
    "a boot id without /proc": (vary("boot-id"), (command(""), 'proc = "bind"'), "vary[0]", 'proc = "private"'),
    "a boot id without /proc/sys": (vary("boot-id"), (command(""), 'proc_subset = "pid"'), "vary[0]", "proc_subset"),
    "a function's pid": ('shape = "python"\nhandler = "app.py"\n' + vary("pid"), (), "vary[0]", "process 1"),
    "a function's canary": ('shape = "python"\nhandler = "app.py"\n' + vary("canary"), (), "vary[0]", "interpreter"),
    "a function's port": ('shape = "python"\nhandler = "app.py"\n' + vary("port"), (), "vary[0]", "only the command"),
    "a word that there is not": (vary("clocks"), (command(""),), "vary[0]", 'did you mean "clock"'),
    "an order that there is not": ('variant_order = "radnom"', (command(""),), "variant_order", '"random"'),
    "more commands than roots": (
        'roots = ["/", "system"]\n' + commands("1"),
        (),
        "commands",
        "1 commands for 2 roots",
    ),
    "a command besides": (commands("1"), (command(""),), "command", "service.commands says"),
    "commands of a function": (
        'shape = "python"\nhandler = "app.py"\n' + commands("1"),
        (),
        "commands",
        "a handler has no command",
    ),
    "a command that is empty": ('commands = [["/bin/true"], []]', (), "commands[1]", "no command"),
    "a command that is text": ('commands = [["/bin/true"], "true"]', (), "commands[1]", "write a list"),
    "a command that names no port": (
        'shape = "port"\n' + vary("port") + 'commands = [["/bin/true", "{port}"], ["/bin/true"]]',
        (),
        "vary[0]",
        "would not know it",
    ),
    "a root that is not there": ('roots = ["/", "/no/such"]', (command(""),), "roots[1]", "does not exist"),
    "a root that is empty": ('roots = ["/", ""]', (command(""),), "roots[1]", "an empty root"),
    "a root that is no tarball": ('roots = ["/", "/no/such.tar"]', (command(""),), "roots[1]", "does not exist"),
    "a root that is a file": ('roots = ["/", "/etc/passwd"]', (command(""),), "roots[1]", "is no directory"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_together_is_refused_by_line(name: str, tmp_path: Path, kind: str) -> None:
    """One message with the file, the line and the key; status 2; nothing is done."""
    table, lines, where, told = REFUSED[kind]
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text(HANDLER)
    spec = write(tmp_path / "s.toml", TCP + table, *lines)
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    found = re.match(rf"nstool: {re.escape(str(spec))}:(\d+): (?:service\.|)?(\S+): ", done.stderr)
    assert found, done.stderr
    assert found[2] == where or where == "service", done.stderr
    key = found[2].partition("[")[0]
    assert key in spec.read_text().splitlines()[int(found[1]) - 1] or key == "port"
    assert "Traceback" not in done.stderr
