"""Watching a service: what is counted is what happened, in each of the forms in which it is told."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import pty
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nstool.cli.service import ask
from nstool.errors import SpecError
from nstool.service import channel
from nstool.service.page import page
from tests.support import kernel
from tests.support import serving as services
from tests.support.probes import REPOSITORY
from tests.support.serving import DEADLINE, NSTOOL, Serving
from tests.support.waiting import in_pid_namespace

pytestmark = pytest.mark.needs("root", "native", "nsexec")

# Says that it is there, and does as it is told: "ok" ends with 0, "fail" with 3, and nothing waits.
SCRIPT = """echo here; read word; case "$word" in fail) exit 3;; *) exit 0;; esac"""


def spec(**service: object) -> str:
    """Return the spec of such a service, with an endpoint on a free port."""
    words: dict[str, object] = {
        "listen": ["tcp:127.0.0.1:0"],
        "metrics": "tcp:127.0.0.1:0",
        "places": 4,  # of ids, a test process has ranges for 63
        "attest": "never",  # else one sandbox of each generation is counted that nobody was connected to
        "grace": 0.1,
        **service,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in words.items()]
    return "\n".join([f"command = {json.dumps(['/bin/sh', '-c', SCRIPT])}", "[service]", *lines, ""])


@contextmanager
def serving(name: str, text: str) -> Iterator[Serving]:
    """A service with this spec for the time of a block."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "spec.toml")
        file.write_text(text)
        with services.serving(file, name) as one:
            yield one


def address(where: str) -> tuple[str, int]:
    """Return the address in "tcp:ADDRESS:PORT"."""
    _, host, port = where.split(":")
    return host, int(port)


def dial(one: Serving) -> socket.socket:
    """Return a connection to a service."""
    return socket.create_connection(address(one.status()["listening"][0]), timeout=DEADLINE)


def get(where: str, path: str) -> str:
    """Return the body of the answer of an endpoint."""
    with closing(http.client.HTTPConnection(*address(where), timeout=DEADLINE)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
    assert answer.status == 200, body
    return body


def metrics(name: str, where: str) -> dict[str, float]:
    """Return the samples of /metrics: "NAME" or "NAME LABEL" with the label's value to the number."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(get(where, "/metrics")):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("service") == name
            key = " ".join((sample.name, *(labels[name] for name in sorted(labels))))
            assert key not in found
            found[key] = sample.value
    return found


def expect(one: Serving, expected: dict[str, float]) -> dict[str, float]:
    """Wait until the samples are these, and all others of the same names 0; return all."""
    names = {key.partition(" ")[0] for key in expected}
    found: dict[str, float] = {}

    def is_so(told: dict[str, Any]) -> bool:
        found.update(metrics(one.name, told["metrics"]))
        wanted = {key: expected.get(key, 0) for key in found if key.partition(" ")[0] in names}
        return expected.keys() <= wanted.keys() and all(found[key] == value for key, value in wanted.items())

    one.until(is_so, f"{expected}")
    return found


def here(connection: socket.socket) -> socket.socket:
    """Wait until the command has said that it is there."""
    assert connection.recv(100) == b"here\n"
    return connection


def tell(connection: socket.socket, word: str) -> None:
    """Tell the command how to end, and wait for that."""
    connection.sendall(f"{word}\n".encode())
    assert connection.recv(100) == b""


def connect(one: Serving, stack: ExitStack, count: int) -> list[socket.socket]:
    """Return so many connections, each with a command that is there."""
    return [here(stack.enter_context(dial(one))) for _ in range(count)]


def refused(one: Serving) -> None:
    """Connect and be refused."""
    with dial(one) as connection:
        assert connection.recv(100) == b""


# ---- counts ----


def test_ends_and_refusals_are_counted(name: str) -> None:
    """Of nine connections three are refused, two fail, four do not; a stage has as many times as got there."""
    with serving(name, spec(client_most=2)) as one, ExitStack() as stack:
        failing = connect(one, stack, 2)
        for _ in range(3):
            refused(one)
        expect(one, {"nstool_serving": 2, "nstool_refused_total client_most": 3})
        for connection in failing:
            tell(connection, "fail")
        expect(one, {"nstool_serving": 0})
        for number in range(4):
            tell(connect(one, stack, 1)[0], "ok")
            expect(one, {"nstool_ends_total exited": number + 1, "nstool_ends_total failed": 2})
        found = expect(
            one,
            {
                "nstool_connections_total": 9,
                "nstool_sandboxes_total": 6,
                "nstool_refused_total client_most": 3,
                "nstool_ends_total exited": 4,
                "nstool_ends_total failed": 2,
                "nstool_serving": 0,
                "nstool_parked": 0,
                "nstool_queued": 0,
                "nstool_rotations_total": 0,
                "nstool_generations current": 1,
            },
        )
        told = one.status()
    for stage in ("waited", "first_step", "executed", "gone"):
        assert found[f"nstool_stage_seconds_count {stage}"] == 6
        assert told["latencies"][stage]["count"] == sum(told["latencies"][stage]["buckets"]) == 6
        assert found[f"nstool_stage_seconds_sum {stage}"] == told["latencies"][stage]["sum"] / 1e6
    assert found["nstool_stage_seconds_sum gone"] >= found["nstool_stage_seconds_sum executed"] > 0
    assert [end["cause"] for end in told["generations"][0]["ends"]] == ["client_most"] * 3 + ["failed"] * 2 + [
        "exited"
    ] * 4
    assert {end["status"] for end in told["generations"][0]["ends"] if end["cause"] == "failed"} == {3 << 8}


def test_a_histogram_is_that_of_its_times(name: str) -> None:
    """Cumulative, up to all of them; each time of an end lies below the bounds that count it, and above the others."""
    with serving(name, spec()) as one, ExitStack() as stack:
        for _ in range(5):
            tell(connect(one, stack, 1)[0], "ok")
        found = expect(one, {"nstool_ends_total exited": 5})
        ends = one.status()["generations"][0]["ends"]
    for stage, place in (("waited", 0), ("first_step", 1), ("executed", 2)):
        times = [end["times"][place] for end in ends]
        buckets = {
            key.split()[1]: value for key, value in found.items() if re.match(rf"nstool_\w+_bucket \S+ {stage}", key)
        }
        assert buckets.pop("+Inf") == 5
        assert len(buckets) > 20
        assert buckets == {edge: sum(us < float(edge) * 1e6 for us in times) for edge in buckets}
        assert found[f"nstool_stage_seconds_sum {stage}"] == pytest.approx(sum(times) / 1e6, abs=5e-6)


@pytest.mark.parametrize("kind", ["udp", "port"])
def test_the_first_byte_of_a_life_is_timed(name: str, kind: str, tmp_path: Path) -> None:
    """Where the template relays it; with what it waited, which is before that."""
    script = "import os, time; time.sleep(0.05); os.write(1, os.read(0, 100))"
    words: dict[str, object] = {"listen": ["udp:127.0.0.1:0"]}
    if kind == "port":
        words = {"shape": "port", "port": 7000}
        script = """
import socket, time
one = socket.create_server(("127.0.0.1", 7000))
while connection := one.accept()[0]:
    time.sleep(0.05)
    connection.sendall(connection.recv(100))
    connection.close()"""
    table = spec(**words).replace(json.dumps(SCRIPT), json.dumps(script)).replace('"/bin/sh"', '"/usr/bin/python3"')
    with serving(name, table) as one:
        type_ = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, type_) as client:
            client.settimeout(DEADLINE)
            client.connect(("127.0.0.1", one.port()))
            client.sendall(b"x")
            assert client.recv(10) == b"x"
        found = one.until(lambda s: s["generations"][0]["ends"], "over")
    waited, _, executed, byte = found["generations"][0]["ends"][0]["times"]
    assert 0 < waited < executed < byte
    assert byte >= 50_000
    assert found["latencies"]["first_byte"]["count"] == 1


def test_a_life_that_is_too_long_has_overrun(name: str) -> None:
    with serving(name, spec(wall=3)) as one, ExitStack() as stack:
        for connection in connect(one, stack, 2):
            assert connection.recv(100) == b""
        expect(one, {"nstool_ends_total overran": 2, "nstool_connections_total": 2, "nstool_sandboxes_total": 2})


def test_levels_are_those_of_the_moment(name: str) -> None:
    """Two serve, one waits in the queue, a fourth is refused; when one ends the one that waits has its place."""
    with serving(name, spec(places=2, queue=1, queue_timeout=3600)) as one, ExitStack() as stack:
        first, _ = connect(one, stack, 2)
        waiting = stack.enter_context(dial(one))
        levels = {"nstool_places": 2, "nstool_serving": 2, "nstool_parked": 0}
        expect(one, {**levels, "nstool_queued": 1, "nstool_refused_total busy": 0})
        refused(one)
        expect(one, {**levels, "nstool_queued": 1, "nstool_refused_total busy": 1})
        tell(first, "ok")
        here(waiting)
        expect(one, {**levels, "nstool_queued": 0, "nstool_ends_total exited": 1})


def test_what_had_no_connection_has_no_times(name: str) -> None:
    """Not the sandbox that is tried, nor one that is parked; that has lived as long as it was there."""
    with serving(name, spec(ready=1, attest="generation")) as one:
        expect(one, {"nstool_parked": 1})
        time.sleep(0.5)
        template = one.status()["generations"][0]["pid"]
        [parked] = Path(f"/proc/{template}/task/{template}/children").read_text().split()
        os.kill(int(parked), signal.SIGKILL)
        expect(one, {"nstool_ends_total signalled": 1, "nstool_ends_total stopped": 1})
        told = one.status()
    assert [found["count"] for found in told["latencies"].values()] == [0] * 5
    [end] = [end for end in told["generations"][0]["ends"] if end["cause"] == "signalled"]
    assert end["end"] - end["begin"] >= 0.5


def test_parked_sandboxes_are_a_level(name: str) -> None:
    with serving(name, spec(places=4, ready=3)) as one, ExitStack() as stack:
        expect(one, {"nstool_parked": 3, "nstool_serving": 0, "nstool_sandboxes_total": 3})
        connect(one, stack, 2)
        expect(one, {"nstool_parked": 2, "nstool_serving": 2, "nstool_sandboxes_total": 4})


def test_counts_go_on_over_generations(name: str) -> None:
    """What a generation that is gone has counted is not lost, and it is remembered with its last lives."""
    with serving(name, spec()) as one, ExitStack() as stack:
        tell(connect(one, stack, 1)[0], "fail")
        (old,) = connect(one, stack, 1)
        one.tell("rotate")
        connect(one, stack, 1)
        both = {"nstool_generations current": 1, "nstool_generations draining": 1}
        counts = {"nstool_connections_total": 3, "nstool_sandboxes_total": 3, "nstool_rotations_total": 1}
        expect(one, {**both, **counts, "nstool_serving": 2, "nstool_ends_total failed": 1})
        tell(old, "ok")
        ends = {"nstool_ends_total failed": 1, "nstool_ends_total exited": 1}
        found = expect(one, {"nstool_generations current": 1, **counts, **ends, "nstool_serving": 1})
        told = one.status()
    assert found["nstool_stage_seconds_count gone"] == 2
    assert [(gone["number"], gone["lives"]) for gone in told["gone"]] == [(1, 2)]
    assert [end["cause"] for end in told["gone"][0]["ends"]] == ["failed", "exited"]
    assert [(gen["number"], gen["state"], gen["lives"]) for gen in told["generations"]] == [(2, "current", 1)]


def test_who_is_attested_first_is_counted_as_stopped(name: str) -> None:
    """Nobody was connected to it, so that there is no time since a connection."""
    with serving(name, spec(attest="generation")) as one:
        counts = {"nstool_connections_total": 0, "nstool_sandboxes_total": 1, "nstool_ends_total stopped": 1}
        found = expect(one, counts)
    stages = ("waited", "first_step", "executed", "first_byte", "gone")
    assert [found[f"nstool_stage_seconds_count {stage}"] for stage in stages] == [0] * 5


def test_every_metric_is_in_the_document(name: str) -> None:
    """With each value of its label; and no other is."""
    document = (REPOSITORY / "docs/serve.md").read_text("utf-8").partition("| metric | what |\n|---|---|\n")[2]
    told = document.partition("\n\n")[0]
    alarms = {"alarms": ["oom", "violation", "files"], "watch": ["/etc/passwd"]}
    text = spec(**alarms, health_interval=60, health_expect="here")
    with serving(name, f'seccomp.action = "kill"\n{text}') as one:
        samples = metrics(name, one.status()["metrics"])
    names = {re.sub(r"_(bucket|sum|count)$", "", key.split()[0]) for key in samples}
    assert names == set(re.findall(r"`(nstool_\w+)", told))
    labels = {key.split()[-1] for key in samples if " " in key}
    assert [label for label in labels if f"`{label}`" not in told] == []


def test_a_service_without_metrics_listens_for_none(name: str) -> None:
    with serving(name, spec(metrics="")) as one:
        assert one.status()["metrics"] == ""
        assert listening(one.process.pid) == {one.status()["listening"][0]}


def listening(pid: int) -> set[str]:
    """Return where a process listens for TCP over IPv4, by its fds and /proc/net/tcp."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:  # closed meanwhile
            continue
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    ports = [int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]
    return {f"tcp:127.0.0.1:{port}" for port in ports}


# ---- the forms in which it is told ----


def shown(one: Serving) -> tuple[str, dict[str, str]]:
    """The line of counts of ``nstool service status``, and the row of its one generation by the heads of the table."""
    lines = [line.strip() for line in one.tell("status").splitlines()]
    [counts] = [line for line in lines if line.startswith("now ")]
    at = next(n for n, line in enumerate(lines) if line.startswith("generation "))
    heads, row = (re.split(r"  +", line) for line in lines[at : at + 2])
    return counts, dict(zip(heads, row, strict=True))


def test_status_says_what_is_now_and_what_was_so_far(name: str, tmp_path: Path) -> None:
    """Sandboxes that were begun, those that live, and those that have a connection are told apart."""
    words = 'listen = ["tcp:127.0.0.1:0"]\nready = 1'
    with services.serving(services.write(tmp_path / "s.toml", words, "command = ['/bin/cat']"), name) as one:
        with socket.create_connection(("127.0.0.1", one.port()), DEADLINE) as live:
            live.sendall(b"x")
            assert live.recv(1) == b"x"
            one.until(lambda s: (s["live"], s["parked"]) == (1, 1), "one serves, one is parked")
            counts, row = shown(one)
        assert counts == (
            "now 1 of 4 places have a connection, 1 sandbox parked, 0 queued; "
            "so far 1 connection, 3 sandboxes begun, 0 rotations"
        )
        assert (row["begun"], row["live"]) == ("3", "2")


def test_json_is_the_same_over_http_and_on_the_command_line(name: str) -> None:
    """But for what passes meanwhile."""

    def still(value: Any) -> Any:
        moving = ("time", "uptime", "age", "ago")
        if isinstance(value, dict):
            return {key: still(inner) for key, inner in value.items() if key not in moving}
        return [still(inner) for inner in value] if isinstance(value, list) else value

    with serving(name, spec(ready=1)) as one, ExitStack() as stack:
        tell(connect(one, stack, 1)[0], "ok")
        expect(one, {"nstool_ends_total exited": 1, "nstool_parked": 1})
        assert still(json.loads(get(one.status()["metrics"], "/status.json"))) == still(one.status())


def test_a_unix_socket_takes_the_same_requests(name: str, tmp_path: Path) -> None:
    """And is gone with the service."""
    path = tmp_path / "metrics.sock"
    with serving(name, spec(metrics=f"unix:{path}")) as one:
        assert one.status()["metrics"] == f"unix:{path}"
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            connection.settimeout(DEADLINE)
            connection.connect(str(path))
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            with connection.makefile("rb") as file:
                assert file.read().startswith(b"HTTP/1.1 200 OK\r\n")
    assert not path.exists()


@pytest.mark.orphans
def test_the_next_service_has_the_endpoint_of_a_killed_one(name: str, tmp_path: Path) -> None:
    """Its socket, and what the generation that it takes over has counted, and counts from then on."""
    file, path = tmp_path / "spec.toml", tmp_path / "m.sock"
    file.write_text(spec(metrics=f"unix:{path}"))
    killed = services.start(file, name, tmp_path / "log")
    with ExitStack() as stack:
        tell(connect(killed, stack, 1)[0], "fail")
        (held,) = connect(killed, stack, 1)
        killed.process.kill()
        killed.process.wait()
        with services.serving(file, name) as one:
            tell(held, "ok")
            one.until(lambda told: told["ends"]["exited"] == 1 and len(told["generations"]) == 1, "it is gone")
            text = over(path, "/metrics").decode()
    for sample in ('connections_total{service="NAME"} 2.0', 'ends_total{cause="failed",service="NAME"} 1.0'):
        assert f"nstool_{sample.replace('NAME', name)}\n" in text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("udp:127.0.0.1:9100", "spec.toml:4: service.metrics"),
        ("tcp:localhost:9100", "service.metrics"),
        ("unix:/nowhere/at/all/m.sock", "bind(unix:/nowhere/at/all/m.sock)"),
    ],
)
def test_an_endpoint_that_is_not_to_be_had_is_told(name: str, word: str, said: str, tmp_path: Path) -> None:
    """Before there is a service, of which nothing is left."""
    file = tmp_path / "spec.toml"
    file.write_text(spec(metrics=word))
    done = subprocess.run(
        [NSTOOL, "serve", "--name", name, str(file)], capture_output=True, text=True, timeout=DEADLINE
    )
    assert done.returncode in (2, 125)
    assert said in done.stderr
    assert "takes connections" not in done.stderr


def test_bad_clients_of_the_endpoint_hurt_nobody(name: str) -> None:
    """While more connections than it keeps say nothing or nonsense: the service serves, and its metrics are told."""
    with serving(name, spec()) as one, ExitStack() as stack:
        where = address(one.status()["metrics"])
        for number in range(80):
            bad = stack.enter_context(socket.create_connection(where, timeout=DEADLINE))
            bad.sendall((b"", b"GET /metr", b"\0" * 100, b"POST /metrics HTTP/1.1\r\n\r\n")[number % 4])
        tell(connect(one, stack, 1)[0], "ok")
        expect(one, {"nstool_ends_total exited": 1})
        assert one.status()["accepted"] == 1


def test_list_has_the_services_that_run(name: str) -> None:
    """And says of one that does not answer that it does not; a sandbox is no service."""
    with serving(name, spec(places=7)) as one, serving(f"{name}b", spec()) as other:
        os.kill(other.process.pid, signal.SIGSTOP)
        try:
            done = subprocess.run([NSTOOL, "service", "list", "--json"], capture_output=True, text=True, check=True)
            shown = subprocess.run([NSTOOL, "service", "list"], capture_output=True, text=True, check=True).stdout
        finally:
            os.kill(other.process.pid, signal.SIGCONT)
        told = one.status()
    first, second = json.loads(done.stdout)["services"]
    assert (first["name"], first["pid"], first["generation"]) == (name, one.process.pid, 1)
    assert (first["listening"], first["metrics"]) == (told["listening"], told["metrics"])
    assert (first["places"], first["live"], first["unanswered"]) == (7, 0, "")
    assert (second["name"], second["pid"], second["listening"]) == (f"{name}b", other.process.pid, None)
    assert "does not answer" in second["unanswered"]
    assert [line.split()[0] for line in shown.splitlines()] == ["name", name, f"{name}b"]


def test_list_of_no_service_is_empty() -> None:
    done = subprocess.run([NSTOOL, "service", "list", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"version": 1, "services": []}


# ---- top ----


def test_top_prints_each_look_where_there_is_no_terminal(name: str) -> None:
    """So often as it is told; who is served, and how the last have ended."""
    with serving(name, spec()) as one, ExitStack() as stack:
        tell(connect(one, stack, 1)[0], "fail")
        expect(one, {"nstool_ends_total failed": 1})
        (served,) = connect(one, stack, 1)
        client = f"127.0.0.1:{served.getsockname()[1]}"
        shown = one.tell("top", "--count", "2", "--interval", "0.1")
    looks = shown.split(f"{name}: ")[1:]
    assert len(looks) == 2
    for look in looks:
        assert "ends: 1 failed\n" in look
        assert re.search(rf"^ {re.escape(client)} +\d+ s +serving +1 +\d+ +2$", look, re.MULTILINE)
        assert re.search(r"^ \d+ s ago +failed +127\.0\.0\.1:\d+ +1 +1 ", look, re.MULTILINE)


def test_top_of_no_service_says_so(name: str) -> None:
    done = subprocess.run([NSTOOL, "service", "top", name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no service '{name}' runs" in done.stderr


def test_top_ends_with_its_service(name: str) -> None:
    with serving(name, spec()) as one:
        command = [NSTOOL, "service", "top", name, "--interval", "0.1"]
        top = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert top.stdout is not None
        assert top.stdout.readline().startswith(f"{name}: ")
        one.tell("stop")
        rest, _ = top.communicate(timeout=DEADLINE)
        one.process.wait(DEADLINE)
    assert rest.endswith(f"\n{name} has ended\n")
    assert top.returncode == 0


def test_a_service_that_ends_before_it_answers_runs_no_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has read what it is asked, and its socket is closed then."""
    client, service = socket.socketpair()
    monkeypatch.setattr(channel, "connected", lambda *_: client)
    service.shutdown(socket.SHUT_WR)
    with service, pytest.raises(SpecError, match="no service"):
        ask(name, "status")


def test_top_on_a_terminal_is_ended_by_its_interrupt_key(name: str) -> None:
    """The screen that was there before is back then, with its cursor."""
    with serving(name, spec()):
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(NSTOOL, [NSTOOL, "service", "top", name, "--interval", "0.1"])
        with open(terminal, "r+b", buffering=0) as file:
            shown = b""
            while shown.count(f"{name}: ".encode()) < 2:
                shown += file.read(4096)
            file.write(b"\x03")
            shown += rest_of(file)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert (shown.count(b"\x1b[?1049h"), shown.count(b"\x1b[?1049l")) == (1, 1)
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"Traceback" not in shown


def rest_of(file: Any) -> bytes:
    """Return what comes until a terminal's other side is closed, which is EIO."""
    found = b""
    try:
        while data := file.read(4096):
            found += data
    except OSError:
        return found
    return found


# ---- the page ----

FRAME = b"""<!doctype html><iframe src="/" width="360" height="800" style="border: 0"></iframe><script>
setTimeout(() => {
  const inner = document.querySelector("iframe").contentDocument;
  document.title = `${inner.title} ${inner.documentElement.scrollWidth}`;
}, 5000);
</script>"""


def browsed(directory: Path, path: str, answer: Callable[[str], bytes]) -> tuple[str, list[str]]:
    """Return what a page has become after ten seconds of its own time, and what it has asked for.

    In a network namespace where nothing is but the server of these answers. path: of the page. answer: returns all of
    an answer to the request for a path, its head too. The caller must be a child: it moves.
    """
    kernel.unshare(kernel.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.wfile.write(answer(self.path))
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory}/profile"]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}{path}"
        command = ["chromium", *options, "--virtual-time-budget=10000", "--dump-dom", url]
        dom = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True).stdout
        server.shutdown()
    return dom, asked


def over(path: Path, asked: str) -> bytes:
    """Return all of the answer to a GET over a Unix socket."""
    with closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(path))
        connection.sendall(f"GET {asked} HTTP/1.1\r\n\r\n".encode())
        with connection.makefile("rb") as file:
            return file.read()


def until(path: Path, asked: str, holds: Callable[[bytes], bool]) -> bytes:
    """Return the first answer of which something holds: one is given again for a while."""
    end = time.monotonic() + DEADLINE
    while not holds(answer := over(path, asked)):
        assert time.monotonic() < end, answer
    return answer


def text_of(html: str) -> str:
    """Return what is between the tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


@pytest.mark.needs("chromium", "ip")
def test_the_page_shows_generations_come_and_go(name: str, tmp_path: Path, in_child: Callable[..., Any]) -> None:
    """While it is looked at: the first drains when the second comes, and is gone when its last connection is.

    It asks for nothing but itself and the status, and needs no other network.
    """
    path = tmp_path / "m.sock"
    with serving(name, spec(metrics=f"unix:{path}")) as one, ExitStack() as stack:
        (held,) = connect(one, stack, 1)
        looks: Counter[str] = Counter()

        def answer(asked: str) -> bytes:
            looks[asked] += 1
            if asked == "/status.json" and looks[asked] == 3:
                one.tell("rotate")
                return until(path, asked, lambda told: b'"draining"' in told)
            if asked == "/status.json" and looks[asked] == 5:
                tell(held, "fail")
                return until(path, asked, lambda told: b'"draining"' not in told)
            return over(path, asked)

        dom, asked = in_child(in_pid_namespace, lambda: browsed(tmp_path, "/", answer))
    assert set(asked) == {"/", "/status.json"}
    shown = re.findall(r'class="generation" data-number="(\d+)" data-state="(\w+)"', dom)
    assert shown == [("1", "gone"), ("2", "current")]
    events = dom.partition('<ol id="events"')[2].partition("</ol>")[0]
    assert re.findall(r"generation \d [a-z ]+", events) == [
        "generation 1 is gone",
        "generation 2 takes connections",
        "generation 1 drains",
    ]
    last = text_of(dom.partition('<table id="last"')[2].partition("</table>")[0])
    assert re.search(r" 1 1 failed status 3 127\.0\.0\.1:\d+ \d ", last)
    assert f"<title>{name}: 0 serving</title>" in dom
    assert 'id="silent" role="alert" hidden' in dom


EVIL = "<img src=x onerror=\"document.title='seized'\">"


def busy() -> dict[str, Any]:
    """Return the status of a service with all that makes a page wide, and hostile texts."""
    places = [
        {"number": n, "state": state, "pid": 9, "life": n, "since": 0.0, "client": f"[2001:db8:1:2:3:4:5:6]:{n} {EVIL}"}
        for n, state in enumerate(("parked", "serving", "ending") * 30)
    ]
    end = {"life": 7, "begin": 1.0, "end": 2.0, "place": 3, "cause": EVIL, "status": 9, "listener": 0, "client": EVIL}
    latency = {"count": 1 << 40, "sum": 1, "buckets": [], "mean": 1e9, "p50": 1e9, "p90": 1e9, "p99": 1e9}
    causes = {"exited": 1 << 40, EVIL: 0}
    generations = [
        {"number": n, "state": "draining", "age": 1e6, "lives": 1 << 40, "places": places, "ends": [end] * 20}
        for n in range(10)
    ]
    return {
        "name": "busy",
        "listening": [f"unix:/{'long' * 25}", EVIL],
        "generations": generations,
        "gone": [{"number": 99, "age": 5.0, "ago": 1.0, "lives": 3, "ends": [end]}],
        "latencies": dict.fromkeys(("waited", "first_step", "executed", "first_byte", "gone"), latency),
        "ends": causes,
        "refused": causes,
        "alarms": causes,
        "stopping": True,
        **dict.fromkeys(
            ("time", "uptime", "live", "parked", "queued", "accepted", "lives", "rotations", "dropped"), 1 << 40
        ),
        "places": 128,
    }


@pytest.mark.needs("chromium", "ip")
def test_the_page_fits_a_telephone_and_takes_texts_as_texts(tmp_path: Path, in_child: Callable[..., Any]) -> None:
    """360 pixels are enough for the page, whose tables are moved by themselves, and no text becomes markup."""
    answers = {
        "/frame": ("text/html", FRAME),
        "/": ("text/html", page("busy").encode()),
        "/status.json": ("application/json", json.dumps(busy()).encode()),
    }

    def answer(asked: str) -> bytes:
        kind, body = answers.get(asked, ("text/plain", b"none"))
        return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    framed, _ = in_child(in_pid_namespace, lambda: browsed(tmp_path, "/frame", answer))
    width = re.search(rf"<title>busy: {1 << 40} serving (\d+)</title>", framed)
    assert width is not None, framed
    assert 300 < int(width[1]) <= 360
    dom, asked = in_child(in_pid_namespace, lambda: browsed(tmp_path, "/", answer))
    assert set(asked) == {"/", "/status.json"}
    assert dom.count("&lt;img src=x") > 10 * 60
    assert "<img" not in dom
