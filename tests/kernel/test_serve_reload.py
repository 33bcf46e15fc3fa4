"""A service that reads its spec again: by SIGHUP, or ``nstool service reload``."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from tests.support import serving
from tests.support.serving import DEADLINE, NSTOOL, ask, write

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
CAT = "command = ['/bin/cat']"
TAGGED = "command = ['/bin/sh', '-c', 'read line; echo new $line']"


def reload(one: serving.Serving) -> tuple[int, str]:
    done = subprocess.run([NSTOOL, "service", "reload", one.name], capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.parametrize("how", ["SIGHUP", "reload"])
def test_what_is_new_is_of_the_new_spec(name: str, tmp_path: Path, how: str) -> None:
    """Who is served goes on; not one connection is lost meanwhile."""
    spec = write(tmp_path / "s.toml", TCP, CAT)
    with serving.serving(spec, name) as one, socket.create_connection(("127.0.0.1", one.port()), DEADLINE) as live:
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        with serving.traffic(one.port(), 2) as found:
            write(spec, TCP + "places = 7", CAT)
            assert reload(one)[0] == 0
        assert (found.wrong, found.done > 0) == ([], True)
        write(spec, TCP + "places = 6", TAGGED)
        one.process.send_signal(signal.SIGHUP) if how == "SIGHUP" else reload(one)
        now = one.until(lambda s: s["generations"][-1]["number"] == 3, "the new one")
        assert ask(one.port(), b"line\n") == b"new line\n"
        assert now["generations"][-1]["size"] == 6
        live.sendall(b"y")
        assert live.recv(1) == b"y"
        one.tell("rotate")  # with what was read
        assert ask(one.port(), b"line\n") == b"new line\n"


def test_listeners_come_and_go(name: str, tmp_path: Path) -> None:
    """Those that stay have no gap; the endpoint of metrics moves, too."""
    a, b = tmp_path / "a", tmp_path / "b"
    spec = write(tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:0", "unix:{a}"]\nmetrics = "unix:{tmp_path}/m"', CAT)
    with serving.serving(spec, name) as one, socket.socket(socket.AF_UNIX) as live:
        port = one.port()
        live.settimeout(DEADLINE)
        live.connect(str(a))
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        old = psutil.Process(one.status()["generations"][0]["pid"])
        write(spec, f'listen = ["tcp:127.0.0.1:0", "unix:{b}"]\nmetrics = "tcp:127.0.0.1:0"', CAT)
        assert reload(one) == (0, "")
        found = one.status()
        assert found["listening"] == [f"tcp:127.0.0.1:{port}", f"unix:{b}"]
        assert ask(port, b"x") == b"x"
        assert (a.exists(), b.exists(), (tmp_path / "m").exists()) == (False, True, False)
        where = found["metrics"].removeprefix("tcp:")
        assert b"nstool_connections_total" in urlopen(f"http://{where}/metrics", timeout=DEADLINE).read()
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(b))
            client.sendall(b"y")
            assert client.recv(1) == b"y"
        before = sum(old.cpu_times()[:2])
        time.sleep(1)
        assert sum(old.cpu_times()[:2]) - before < 0.2  # it has the socket that was shut, and does not look at it
        live.sendall(b"z")
        assert live.recv(1) == b"z"


def test_a_socket_whose_file_is_gone_is_opened_anew(name: str, tmp_path: Path) -> None:
    """That nobody finds it is said at once; who is connected stays."""
    path = tmp_path / "a"
    spec = write(tmp_path / "s.toml", f'listen = ["unix:{path}"]', CAT)
    with serving.serving(spec, name) as one, socket.socket(socket.AF_UNIX) as live:
        live.settimeout(DEADLINE)
        live.connect(str(path))
        path.unlink()
        one.until(lambda _: f"unix:{path}: its file is gone" in one.log.read_text(), "it is said")
        assert reload(one) == (0, "")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(b"new")
            assert client.recv(9) == b"new"
        live.sendall(b"old")
        assert live.recv(9) == b"old"
        assert one.log.read_text().count("its file is gone") == 1
        path.unlink()
        path.touch()
        one.until(lambda _: one.log.read_text().count("its file is gone") == 2, "it is said again")
        status, said = reload(one)
        assert (status, "is a regular file" in said) == (125, True), said
        path.unlink()
        assert reload(one) == (0, "")
    assert not path.exists()


def test_who_may_connect_is_of_the_new_spec(name: str, tmp_path: Path) -> None:
    """Also to what stays; and of the old one where the new one cannot be taken up."""
    path = tmp_path / "u"
    listen = f'listen = ["unix:{path}"]\n'
    spec = write(tmp_path / "s.toml", listen + 'socket_mode = "0600"', CAT)
    with serving.serving(spec, name) as one:
        for mode, command, status, stays in (
            ("0640", "command = ['/bin/nosuch']", 125, 0o600),
            ("0660", CAT, 0, 0o660),
        ):
            write(spec, f'{listen}socket_mode = "{mode}"', command)
            assert reload(one)[0] == status
            assert path.stat().st_mode & 0o777 == stays


def test_who_may_connect_is_not_of_a_spec_that_is_refused(name: str, tmp_path: Path) -> None:
    """Where the spec that stays says nothing of that, the file has what bind(2) gave it."""
    path = tmp_path / "u"
    listen = f'listen = ["unix:{path}"]\n'
    spec = write(tmp_path / "s.toml", listen, CAT)
    with serving.serving(spec, name) as one:
        before = path.stat()
        write(spec, f'{listen}socket_mode = "0666"\nsocket_owner = "1234:1234"', "command = ['/bin/nosuch']")
        assert reload(one)[0] == 125
        assert path.stat() == before


# nstool whose look into all processes, for who has an address, makes a file and waits until there is another.
SLOW = """
import os, sys, time
began, go_on = sys.argv[1:3]
del sys.argv[1:3]
sys.path += {path!r}
import psutil
look = psutil.net_connections
def slow(kind):
    open(began, "w").close()
    while not os.path.exists(go_on):
        time.sleep(0.01)
    return look(kind)
psutil.net_connections = slow
exec(open({nstool!r}).read())
"""


def test_who_has_an_address_is_found_while_the_service_serves(name: str, tmp_path: Path) -> None:
    """On a host with many processes that takes seconds; connections and questions are not kept."""
    spec, log = write(tmp_path / "s.toml", TCP, CAT), tmp_path / "log"
    began, go_on = tmp_path / "began", tmp_path / "go on"
    slow = SLOW.format(path=sys.path, nstool=NSTOOL)
    with log.open("wb") as out, contextlib.ExitStack() as stack:
        command = [sys.executable, "-IS", "-c", slow, began, go_on, "serve", "--name", name, spec]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        one = serving.Serving(name, process, log)
        stack.callback(serving.stop, one)
        serving.wait(one, 0)
        port = one.port()
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        write(spec, f'listen = ["tcp:127.0.0.1:{taken}"]', CAT)
        asking = stack.enter_context(
            subprocess.Popen([NSTOOL, "service", "reload", name], stderr=subprocess.PIPE, text=True)
        )
        stack.callback(go_on.touch)
        one.until(lambda _: began.exists(), "it is looked who has the address")
        assert ask(port, b"served") == b"served"
        assert asking.poll() is None
        go_on.touch()
        _, said = asking.communicate(timeout=DEADLINE)
        assert (asking.returncode, f"has 127.0.0.1:{taken}" in said) == (125, True), said


def test_what_cannot_be_reloaded_delays_nothing(name: str, tmp_path: Path) -> None:
    """The next generation of what stays comes when it is due, however often another was refused."""
    spec = write(tmp_path / "s.toml", TCP + "renew_after = 3", CAT)
    with serving.serving(spec, name) as one:
        write(spec, TCP, "command = ['/bin/nosuch']")
        assert [reload(one)[0] for _ in range(2)] == [125, 125]
        begun = time.monotonic()
        one.until(lambda s: s["generations"][-1]["number"] >= 2, "it is renewed")
        assert time.monotonic() - begun < 9  # a failure of its own would be tried again after ten seconds


BAD = {
    "a key": ("placs = 3", CAT, 2, "s.toml:7: service.placs"),
    "a command": ("places = 3", "command = ['/bin/nosuch']", 125, "nosuch"),
    "a shape": ('shape = "listener"', CAT, 2, "s.toml:7: service.shape"),
    "a port": ('listen = ["tcp:127.0.0.1:{taken}"]', CAT, 125, "in use"),
    "a path and no command": ('listen = ["unix:{path}"]', "command = ['/bin/nosuch']", 125, "nosuch"),
    "a name": ("places = 3", "name = 'other'\n" + CAT, 2, "{spec}:1: name: it runs as '{name}' until"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_taken_up_changes_nothing(name: str, tmp_path: Path, what: str) -> None:
    """It is said to who has asked, and in the log; the service goes on as it was."""
    service, command, status, told = BAD[what]
    spec = write(tmp_path / "s.toml", TCP, CAT)
    log = tmp_path / "log"
    words = [] if what == "a name" else ["--name", name]
    with log.open("wb") as out, contextlib.ExitStack() as stack:
        if what == "a name":
            spec = write(tmp_path / f"{name}.toml", TCP, CAT)
        process = subprocess.Popen([NSTOOL, "serve", *words, str(spec)], stdout=out, stderr=out)
        one = serving.Serving(name, process, log)
        stack.callback(serving.stop, one)
        serving.wait(one, 0)
        before = one.status()
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        bad = service.format(taken=taken, path=tmp_path / "path")
        write(spec, bad if "listen =" in bad else TCP + bad, command)
        found = reload(one)
        told = told.format(name=name, spec=spec)
        assert (found[0], told in found[1]) == (status, True), found
        begin = f"nstool: {name}: what was read before stays (asked for): "
        [said] = [line for line in log.read_text().splitlines() if "asked for" in line]
        assert said == begin + found[1].removeprefix("nstool: ").splitlines()[0]
        process.send_signal(signal.SIGHUP)
        one.until(lambda _: "(SIGHUP)" in log.read_text(), "it is said")
        assert told in log.read_text().partition("(SIGHUP)")[2]
        assert ask(one.port(), b"x") == b"x"
        now = one.status()
        assert not (tmp_path / "path").exists()
        assert now["listening"] == before["listening"]
        assert [g["number"] for g in now["generations"]] == [1]
        fds = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
        one.tell("rotate")
        assert ask(one.port(), b"x") == b"x"
        assert len([fd for fd in fds if fd.startswith("socket:")]) < 12
    assert process.returncode == 0


def test_alarms_are_those_of_the_new_spec(name: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "s.toml", TCP, CAT)
    with serving.serving(spec, name) as one:
        assert one.status()["alarms"] == {}
        health = (
            'health_interval = 0.1\nhealth_send = "x"\nhealth_expect = "y"\nhealth_failures = 1\nhealth_timeout = 0.5'
        )
        write(spec, TCP + health, CAT)
        assert reload(one)[0] == 0
        one.until(lambda s: s["alarms"]["health"] >= 1, "it is checked")
        write(spec, TCP, CAT)
        assert reload(one)[0] == 0
        count = one.status()["alarms"]["health"]
        assert ask(one.port(), b"x") == b"x"
        assert one.status()["alarms"]["health"] == count


def test_what_came_by_standard_input_cannot_be_read_again(name: str, tmp_path: Path) -> None:
    spec = write(tmp_path / "s.toml", TCP, CAT)
    log = tmp_path / "log"
    with spec.open("rb") as text, log.open("wb") as out:
        process = subprocess.Popen([NSTOOL, "serve", "--name", name, "-"], stdin=text, stdout=out, stderr=out)
    one = serving.Serving(name, process, log)
    serving.wait(one, 0)
    found = reload(one)
    assert (found[0], "standard input" in found[1]) == (125, True)
    assert serving.stop(one) == 0


# As nstool, but that it waits half a second for a spec to be read.
IMPATIENT = """
from nstool.cli.start import main
from nstool.service import supervisor
supervisor._READ = 0.5
main()
"""


@pytest.mark.parametrize("patient", [True, False])
def test_a_spec_that_does_not_answer_holds_nobody_up(name: str, tmp_path: Path, patient: bool) -> None:
    """A FIFO that nobody writes to, or a mount that hangs: the service goes on, tells it in the end, and ends."""
    spec, log = write(tmp_path / "s.toml", TCP, CAT), tmp_path / "log"
    program = [NSTOOL] if patient else [sys.executable, "-c", IMPATIENT]
    with log.open("wb") as out:
        process = subprocess.Popen([*program, "serve", "--name", name, str(spec)], stdout=out, stderr=out)
    one = serving.Serving(name, process, log)
    try:
        serving.wait(one, 0)
        spec.unlink()
        os.mkfifo(spec)
        process.send_signal(signal.SIGHUP)
        if patient:
            one.until(lambda _: threads(process.pid) > 1, "it reads")
        else:
            one.until(lambda _: "what was read before stays (SIGHUP): the spec is not read" in log.read_text(), "told")
        one.tell("rotate")
        assert ask(one.port(), b"x") == b"x"
        process.terminate()
        assert process.wait(DEADLINE / 10) == 0
    finally:
        process.kill()
        process.wait()


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
