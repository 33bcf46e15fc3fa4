"""Alarms of ``nstool serve``: what raises one, what is done then, and what is none."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.service import alarms, generation, health, watched
from nstool.service.listen import Listener
from nstool.service.lookout import STUCK
from nstool.spec.service import Service
from tests.support import fuse, kernel, serving
from tests.support.serving import DEADLINE, NSTOOL, Serving, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
# It executes each line that it is sent, and answers.
ACT = """
import ctypes, os, signal, sys, time
for line in sys.stdin:
    exec(line)
    print("ok", flush=True)
"""
COMMAND = f"command = ['/usr/bin/python3', '-c', '''{ACT}''']"
SMALL = 'memory = "48M"'
KILL = 'seccomp.action = "kill"'
EAT = "pid = os.fork()\nif not pid: b'x' * (1 << 30)\nos.waitpid(pid, 0)"
VIOLATE = "ctypes.CDLL(None).syscall(165, 0, 0, 0, 0, 0)"  # mount(2)
WATCH = 'alarms = ["files"]\nwatch = ["/srv"]'
ON_TMPFS = 'mounts = ["tmpfs:/srv"]'


def dial(one: Serving) -> socket.socket:
    return socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE)


def do(connection: socket.socket, code: str) -> bytes:
    """Let a sandbox execute something; what it answers, nothing when it has ended."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(f"exec({code!r})\n".encode())
        return connection.recv(100)
    return b""


def is_over(connection: socket.socket) -> bool:
    """Wait for the end of a sandbox by its connection, which nobody else has."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


def having(one: Serving, connection: socket.socket) -> tuple[int, int, str]:
    """Return the place, the life and the client of the sandbox that has a connection."""
    client = "{}:{}".format(*connection.getsockname())
    places = [place for each in one.status()["generations"] for place in each["places"]]
    [found] = [place for place in places if place["client"] == client]
    return found["number"], found["life"], client


def raised(one: Serving, kind: str, count: int = 1) -> dict[str, Any]:
    return one.until(lambda s: s["alarms"][kind] >= count, kind)


def renewed(one: Serving) -> dict[str, Any]:
    return one.until(lambda s: s["rotations"] >= 1, "the next generation takes over")


# ---- each alarm alone ----


def test_a_child_that_is_killed_for_lack_of_memory(name: str, tmp_path: Path) -> None:
    """Its parent, the command, would go on: it is ended, and so are no others; the next generation takes over."""
    spec = write(tmp_path / "s.toml", TCP + 'alarms = ["oom"]', COMMAND, limits=SMALL)
    with serving.serving(spec, name) as one, dial(one) as other, dial(one) as hungry:
        assert do(other, "") == do(hungry, "") == b"ok\n"
        place, life, client = having(one, hungry)
        do(hungry, EAT)
        assert is_over(hungry)
        assert renewed(one)["alarms"] == {"oom": 1}
        assert do(other, "") == b"ok\n"
        with dial(one) as third:
            assert do(third, "") == b"ok\n"
        [line] = [line for line in one.log.read_text().splitlines() if "alarm in generation 1" in line]
        assert f"oom: 1 process killed for lack of memory; place {place}, life {life}, client {client}" in line
        assert "(alarm: oom: 1 process" in one.log.read_text()
        assert "alarms: 1 oom" in one.tell("status")


def test_a_command_that_is_killed_for_lack_of_memory(name: str, tmp_path: Path) -> None:
    """Nothing is left to be ended; the life that is over is told, also if its place has another already."""
    spec = write(tmp_path / "s.toml", TCP + 'alarms = ["oom"]\nplaces = 1', COMMAND, limits=SMALL)
    with serving.serving(spec, name) as one, dial(one) as hungry, dial(one) as next_one:
        assert do(hungry, "b'x' * (1 << 30)") == b""
        assert do(next_one, "") == b"ok\n"
        raised(one, "oom")
        renewed(one)
        assert do(next_one, "") == b"ok\n"
        client = "{}:{}".format(*hungry.getsockname())
        assert f"place 0, life 2, client {client}" in one.log.read_text()


def test_a_call_that_is_not_allowed(name: str, tmp_path: Path) -> None:
    """By a list whose action is to kill."""
    spec = write(tmp_path / "s.toml", TCP + 'alarms = ["violation"]', COMMAND, KILL)
    with serving.serving(spec, name) as one, dial(one) as bad:
        assert do(bad, "") == b"ok\n"
        place, life, client = having(one, bad)
        assert do(bad, VIOLATE) == b""
        assert renewed(one)["alarms"] == {"violation": 1}
        assert f"violation: ended by SIGSYS; place {place}, life {life}, client {client}" in one.log.read_text()


# ---- files ----

# What is done in a sandbox, or to what it sees from outside. /srv/w has a file, a directory with one in it, and a link.
CHANGES = {
    "cut off": "os.truncate('/srv/w/file', 1)",
    "written in place": "fd = os.open('/srv/w/file', os.O_RDWR); os.write(fd, b'F'); os.close(fd)",
    "made": "os.mknod('/srv/w/new')",
    "made below": "os.mknod('/srv/w/deep/er/new')",
    "removed": "os.unlink('/srv/w/deep/er/file')",
    "renamed": "os.rename('/srv/w/file', '/srv/w/elif')",
    "a directory instead": "os.unlink('/srv/w/file'); os.mkdir('/srv/w/file')",
    "a FIFO instead": "os.unlink('/srv/w/file'); os.mkfifo('/srv/w/file')",
    "a link out instead": "os.unlink('/srv/w/file'); os.symlink('/proc/1/root/etc/passwd', '/srv/w/file')",
    "a link up instead": "os.rename('/srv/w', '/srv/v'); os.symlink('../../../../../..', '/srv/w')",
    "many": "os.mkdir('/srv/d'); [os.mkdir(f'/srv/d/{n}') for n in range(5000)]; os.rename('/srv/d', '/srv/w/d')",
    "deep": "[os.mkdir('/srv' + n * '/d') for n in range(1, 60)]; os.rename('/srv/d', '/srv/w/d')",
    "permissions": "os.chmod('/srv/w/deep/er', 0o700)",
    "owner": "os.chown('/srv/w/deep/er/file', 77, 77)",
    "times": "os.utime('/srv/w/file', (0, 0))",
}
TOLD = {"many": "more than 4096 files below /srv/w", "deep": "/srv/w is deeper than 32"}


@pytest.fixture
def srv(tmp_path: Path) -> Path:
    """A directory that sandboxes may write in."""
    tmp_path.chmod(0o755)
    found = tmp_path / "srv"
    (found / "w/deep/er").mkdir(parents=True)
    for path in (found / "w/file", found / "w/deep/er/file"):
        path.write_text("file")
        path.chmod(0o666)
    (found / "w/link").symlink_to("file")
    for path in (found, found / "w", found / "w/deep", found / "w/deep/er"):
        path.chmod(0o777)
    return found


def settled(one: Serving) -> None:
    """Wait until all sandboxes that there are were looked at: twice, as one may just have been begun with."""
    for _ in range(2):
        count = one.status()["alarms"]["files"]
        with dial(one) as other:
            assert do(other, "open('/tmp/canary', 'x')") == b"ok\n"
            assert is_over(other)
        assert raised(one, "files", count + 1)["alarms"]["files"] == count + 1


@pytest.mark.parametrize("how", ["written in place", "a directory instead", "a link up instead", "many", "times"])
def test_a_watched_file_changes(name: str, tmp_path: Path, srv: Path, how: str) -> None:
    """Inside, or outside where that is seen inside: the sandbox is ended, and the service answers on."""
    words = TCP + 'alarms = ["files"]\nwatch = ["/srv/w", "/tmp/canary"]'
    spec = write(tmp_path / "s.toml", words, COMMAND, f'mounts = ["{srv}:/srv:rw"]')
    with serving.serving(spec, name) as one, dial(one) as bad:
        assert do(bad, "") == b"ok\n"
        settled(one)
        assert do(bad, "") == b"ok\n"
        if how == "times":
            exec(CHANGES[how].replace("/srv", str(srv)))
        else:
            assert do(bad, CHANGES[how]) in (b"ok\n", b"")
        assert is_over(bad)
        raised(one, "files", 3)
        assert f"files: {TOLD.get(how, 'changed: /srv/w;')}" in one.log.read_text()


def test_a_change_before_the_first_look_is_found(name: str, tmp_path: Path) -> None:
    """It is compared with the first sandbox of its generation, which has had no command. Others go on."""
    spec = write(tmp_path / "s.toml", TCP + WATCH, COMMAND, ON_TMPFS)
    with serving.serving(spec, name) as one, dial(one) as good, dial(one) as bad:
        assert do(bad, "open('/srv/new', 'x')") == do(good, "") == b"ok\n"
        client = "{}:{}".format(*bad.getsockname())
        assert is_over(bad)
        told = renewed(one)
        assert told["alarms"] == {"files": 1}
        assert do(good, "") == b"ok\n"
        ends = [end for each in told["generations"] for end in each["ends"] if end["client"] == client]
        [(place, life)] = [(end["place"], end["life"]) for end in ends]
        assert f"files: changed: /srv; place {place}, life {life}, client {client}" in one.log.read_text()


NOTHING = {
    "each differs": 'vary = ["ids", "hostname", "pid", "machine-id", "boot-id", "canary"]',
    "parked": "ready = 2",
    "each attested": 'attest = "each"',
    "nets are lent": "lease_net = true",
}


@pytest.mark.parametrize(("way", "init"), [*zip(NOTHING, ("true", "false", "true", "false"))])
def test_who_changes_nothing_is_left_alone(name: str, tmp_path: Path, way: str, init: str) -> None:
    """However sandboxes differ, whatever was not there yet at the first look, and whatever is read."""
    words = f'{TCP}alarms = ["files"]\nwatch = ["/etc", "/usr/bin", "/srv", "/no/such", "/tmp/canary"]\n{NOTHING[way]}'
    spec = write(tmp_path / "s.toml", words, f"init = {init}", COMMAND, ON_TMPFS)
    with serving.serving(spec, name) as one, dial(one) as good, dial(one) as other:
        for connection in (good, other):
            code = "[open(f'/etc/{n}').read() for n in ('passwd', 'hosts')]; os.listdir('/srv')"
            assert do(connection, code) == b"ok\n"
        settled(one)
        assert do(good, "") == do(other, "") == b"ok\n"
        assert one.status()["alarms"] == {"files": 2}


def test_sandboxes_that_are_being_made_are_not_looked_at(name: str, tmp_path: Path) -> None:
    """Many of them, while looks go on: what is not mounted yet has not changed."""
    mounts = ", ".join(f'"tmpfs:/tmp/{n}"' for n in range(200))
    words = f'{TCP}places = 16\nalarms = ["files"]\nwatch = ["/tmp/199", "/etc"]'
    spec = write(tmp_path / "s.toml", words, "command = ['/bin/cat']", f"mounts = [{mounts}]")
    with serving.serving(spec, name) as one:
        port, end, served = one.port(), time.monotonic() + 6, [0]

        def load() -> None:
            while time.monotonic() < end or served[0] <= 20:
                assert ask(port, b"x") == b"x"
                served[0] += 1

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told = one.status()
        assert told["lives"] > 20
        assert told["alarms"] == {"files": 0}, one.log.read_text()


def test_a_function_is_watched_too(name: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text(
        "from nstool.service import handler\n@handler\ndef handle(connection):\n"
        "    while line := connection.recv(100):\n        exec(line)\n        connection.sendall(b'ok')\n"
    )
    spec = write(tmp_path / "s.toml", TCP + 'shape = "python"\nhandler = "app.py"\n' + WATCH, ON_TMPFS)
    with serving.serving(spec, name) as one, dial(one) as good, dial(one) as bad:
        good.sendall(b"1")
        assert good.recv(10) == b"ok"
        bad.sendall(b"open('/srv/new', 'x')")
        assert bad.recv(10) == b"ok"
        assert is_over(bad)
        assert raised(one, "files")["alarms"] == {"files": 1}
        good.sendall(b"1")
        assert good.recv(10) == b"ok"


@pytest.mark.needs("userns", "newuidmap")
def test_a_users_service_is_watched(as_user: Callable[..., Any], user: User, name: str) -> None:
    """Files and violations need no right that a user has not."""

    def act() -> dict[str, int]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        words = 'alarms = ["files", "violation"]\nwatch = ["/srv"]\nplaces = 4'
        listen = f'listen = ["unix:{path}/socket"]'
        (path / "s.toml").write_text(f"{COMMAND}\n{ON_TMPFS}\n{KILL}\n{none}\n[service]\n{listen}\n{words}\n")
        with serving.serving(path / "s.toml", name) as one:
            for code in ("open('/srv/new', 'x')", VIOLATE):
                with socket.socket(socket.AF_UNIX) as bad:
                    bad.settimeout(DEADLINE)
                    bad.connect(str(path / "socket"))
                    do(bad, code)
                    assert is_over(bad)
            raised(one, "files")
            found: dict[str, int] = raised(one, "violation")["alarms"]
        shutil.rmtree(path)
        return found

    assert as_user(act, timeout=4 * DEADLINE) == {"files": 1, "violation": 1}


# ---- looking itself ----


def seen(root: Path, *paths: str) -> tuple[watched.Seen, ...]:
    fd = os.open(root, os.O_PATH)
    try:
        return watched.look(fd, paths)
    finally:
        os.close(fd)


@pytest.mark.parametrize("how", CHANGES)
def test_every_change_is_seen(srv: Path, how: str) -> None:
    """Of a file, a directory, or what is below one: and not where nothing was changed."""
    before = seen(srv, "/w")
    assert seen(srv, "/w") == before
    exec(CHANGES[how].replace("/srv", str(srv)))
    if how in TOLD:
        with pytest.raises(watched.TooMany, match=TOLD[how].replace("/srv", "")):
            seen(srv, "/w")
    else:
        assert seen(srv, "/w")[0].exact != before[0].exact


@pytest.mark.parametrize("target", ["{out}", "../../../../../../{out}", "/proc/self/root/{out}", "/proc/self/cwd"])
def test_no_link_leads_out(tmp_path: Path, target: str) -> None:
    """A link above a watched path is walked in the sandbox; what changes where it would lead outside is not seen."""
    (tmp_path / "root").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "root" / "link").symlink_to(target.format(out=tmp_path / "out"))
    (tmp_path / "out" / "file").write_text("1")
    before = seen(tmp_path / "root", "/link/file", "/link")
    (tmp_path / "out" / "file").write_text("22")
    assert seen(tmp_path / "root", "/link/file", "/link") == before
    (tmp_path / "root" / "link").unlink()
    after = seen(tmp_path / "root", "/link/file", "/link")
    assert after[0] == before[0]  # it was not there before, and is not now
    assert after[1] != before[1]


def test_a_link_below_a_watched_path_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to("../out")
    (tmp_path / "out").mkdir()
    before = seen(tmp_path / "root", "/")
    (tmp_path / "out" / "new").touch()
    assert seen(tmp_path / "root", "/") == before


def test_nothing_is_waited_for(tmp_path: Path) -> None:
    """A FIFO without its other end, a socket, a device: each is looked at, none is opened."""
    os.mkfifo(tmp_path / "fifo")
    os.mknod(tmp_path / "tty", 0o600 | 0o020000, os.makedev(5, 0))
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
    before = seen(tmp_path, "/fifo", "/tty", "/socket", "/")
    assert seen(tmp_path, "/fifo", "/tty", "/socket", "/") == before
    assert len({each.alike for each in before}) == 4


@pytest.mark.parametrize("error", [errno.ENOENT, errno.EIO])
def test_a_directory_that_cannot_be_read_is_a_change(srv: Path, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """It is not taken for the end of the sandbox, nor is nobody looked at for it: whoever is inside may bring it on."""
    before = seen(srv, "/w")
    real = os.scandir

    def late(fd: int) -> Any:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/er"):
            raise OSError(error, os.strerror(error))
        return real(fd)

    monkeypatch.setattr(os, "scandir", late)
    assert seen(srv, "/w")[0].exact != before[0].exact


def test_another_mount_is_not_entered(tmp_path: Path, in_child: Callable[..., Any]) -> None:
    """That there is one is a change; what is on it is not."""

    def act() -> tuple[bool, bool]:
        fuse.private()
        os.makedirs("/tmp/root/below")
        first = seen(Path("/tmp/root"), "/")
        kernel.mount("tmpfs", "/tmp/root/below", "tmpfs")
        second = seen(Path("/tmp/root"), "/")
        Path("/tmp/root/below/file").touch()
        os.utime("/tmp/root/below", ns=(0, 0))
        third = seen(Path("/tmp/root"), "/")
        return first[0].alike != second[0].alike, second[0].alike == third[0].alike

    assert in_child(act) == (True, True)


NAMED = r"ctypes.CDLL(None).prctl(15, bytes((255, 254, 10, 58, 9)), 0, 0, 0)"  # PR_SET_NAME: no UTF-8, a line's end


def test_a_name_of_any_bytes_hurts_nobody(name: str, tmp_path: Path) -> None:
    """A command that is process 1 of its sandbox calls itself what it likes: it is looked at, and others are."""
    words = TCP + 'alarms = ["files"]\nwatch = ["/srv", "/tmp/canary"]'
    with serving.serving(write(tmp_path / "s.toml", words, "init = false", COMMAND, ON_TMPFS), name) as one:
        with dial(one) as named:
            assert do(named, NAMED) == b"ok\n"
            settled(one)
            assert do(named, "os.mknod('/srv/new')") == b"ok\n"
            assert is_over(named)
        assert raised(one, "files", 3)["alarms"] == {"files": 3}


def test_only_who_is_meant_is_ended(name: str, tmp_path: Path) -> None:
    """An alarm names the process in the place: who has the place after it lives."""
    with serving.serving(write(tmp_path / "s.toml", TCP, COMMAND), name) as one, dial(one) as live:
        assert do(live, "") == b"ok\n"
        [place] = one.status()["generations"][0]["places"]
        [template] = generation.adopt(name)
        try:
            template.end(signal.SIGKILL, place["number"], place["pid"] + 1)
            assert do(live, "") == b"ok\n"
            template.end(signal.SIGKILL, place["number"], place["pid"])
            assert is_over(live)
        finally:
            assert template.channel is not None
            template.channel.close()
            os.close(template.pidfd)


def test_a_filesystem_that_does_not_answer(name: str, tmp_path: Path) -> None:
    """The sandbox is ended as one that hides something; nobody else waits for it."""
    tmp_path.chmod(0o755)
    file = tmp_path / "file"
    file.touch()
    silent = threading.Event()
    server = fuse.mount(str(file))
    answering = threading.Thread(target=answer, args=(server, silent))
    answering.start()
    try:
        spec = write(
            tmp_path / "s.toml",
            TCP + 'alarms = ["files"]\nwatch = ["/srv/file"]\nattest = "never"',
            COMMAND,
            f'mounts = ["{file}:/srv/file"]',
        )
        with serving.serving(spec, name) as one, dial(one) as bad:
            assert do(bad, "") == b"ok\n"
            silent.set()
            end = time.monotonic() + DEADLINE
            while one.status()["alarms"] == {"files": 0}:
                begun = time.monotonic()
                assert ask(one.port()) == b""
                assert time.monotonic() - begun < STUCK
                assert time.monotonic() < end
            assert is_over(bad)
            assert f"its files could not be looked at in {STUCK:g} s" in one.log.read_text()
            os.close(server)  # with it the filesystem ends, and who waits there
            server = -1
    finally:
        silent.set()
        if server >= 0:
            os.close(server)
        kernel.umount(str(file))
        answering.join()


def answer(server: int, silent: threading.Event) -> None:
    """Answer what is asked of a filesystem that is one file, until it is silent. linux/fuse.h"""
    attributes = struct.pack("<6Q10I", *(1, 0, 0, 0, 0, 0), *(0, 0, 0, 0o100644, 1, 0, 0, 0, 512, 0))
    while True:
        try:
            request = os.read(server, 1 << 20)
        except OSError:  # it was closed, or unmounted
            return
        _, what, unique, _ = struct.unpack_from("<IIQQ", request)
        if what == fuse.INIT:
            fuse._reply(server, unique, struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 10, 10, 4096, 1, 0, 0, *[0] * 8))
        elif silent.is_set():
            continue
        elif what == 3:  # FUSE_GETATTR
            fuse._reply(server, unique, struct.pack("<QII", 0, 0, 0) + attributes)
        else:
            fuse._reply(server, unique, b"", -38)


# ---- health ----

# What the command does is what the file /state/now of the host says.
ASKED = """
import sys, time
line = sys.stdin.readline()
state = open("/state/now").read()
if state == "silent":
    time.sleep(100)
print({"well": "I am well", "sick": "I am sick"}.get(state, ""), end="\\n" if state != "gone" else "", flush=True)
time.sleep(100 if line == "stay\\n" else 0)
"""
HEALTH = """
health_interval = 0.2
health_timeout = {}
health_failures = {}
health_send = "how are you\\n"
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "now").write_text("well")
    return tmp_path / "state"


def asked(path: Path, state: Path, words: str, failures: int = 2, seconds: float = 60) -> Path:
    """The spec of a service that is asked. seconds: for an answer."""
    command = f"command = ['/usr/bin/python3', '-c', '''{ASKED}''']"
    return write(path / "s.toml", HEALTH.format(seconds, failures) + words, command, f'mounts = ["{state}:/state"]')


WRONG = {
    "sick": "another answer than expected",
    "silent": "no answer in 2 s",
    "gone": "no answer: the connection was closed",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_service_that_begins_to_fail(name: str, tmp_path: Path, state: Path, how: str) -> None:
    """Another answer, none, or an end: the next generation takes over, and the old one's sandboxes have their grace."""
    words = TCP + 'health_expect = "well"\ngrace = 4'
    with serving.serving(asked(tmp_path, state, words, seconds=2), name) as one, dial(one) as live:
        live.sendall(b"stay\n")
        assert live.recv(100) == b"I am well\n"
        told = one.until(lambda s: s["accepted"] > 4, "it is asked")
        assert (told["alarms"], told["rotations"]) == ({"health": 0}, 0)
        (state / "now").write_text(how)
        raised(one, "health")
        begun = time.monotonic()
        (state / "now").write_text("well")
        renewed(one)
        assert is_over(live)
        assert time.monotonic() - begun > 2
        before = one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
        after = one.until(lambda s: s["accepted"] > before["accepted"] + 2, "it is asked again")
        assert after["alarms"] == before["alarms"]
        assert one.log.read_text().count("alarm in generation 1: health") == 1
        assert f"alarm in generation 1: health: 2 times in a row: {WRONG[how]}" in one.log.read_text()


def test_a_service_that_stays_sick_is_one_alarm_for_each_generation(name: str, tmp_path: Path, state: Path) -> None:
    """As long as the next one waits for its pause nothing new is told."""
    with serving.serving(asked(tmp_path, state, TCP + 'health_expect = "well"'), name) as one:
        (state / "now").write_text("sick")
        one.until(lambda s: s["alarms"]["health"] >= 2, "the second generation is sick, too")
        time.sleep(2)
        assert one.log.read_text().count("alarm in generation 2: health") == 1


@pytest.mark.parametrize("where", ["tcp:0.0.0.0:0", "tcp:[::]:0", "unix:{}/socket", "unix:@{}"])
def test_every_address_is_asked(name: str, tmp_path: Path, state: Path, where: str) -> None:
    """Those for all addresses by loopback; the first that has streams."""
    at = where.format(name if "@" in where else tmp_path)
    words = f'listen = ["udp:127.0.0.1:0", "{at}"]\nhealth_expect = "well"'
    with serving.serving(asked(tmp_path, state, words), name) as one:
        told = one.until(lambda s: s["ends"]["exited"] > 3, "it is asked, and answers")
        assert told["alarms"] == {"health": 0}
        assert "no answer" not in one.log.read_text()


def test_failures_that_are_not_in_a_row_are_no_alarm(name: str, tmp_path: Path, state: Path) -> None:
    """More of them than are an alarm, with answers between them."""
    with serving.serving(asked(tmp_path, state, TCP + 'health_expect = "well"', 20), name) as one:
        for _ in range(3):
            for now, said in (("sick", "another answer"), ("well", "answers again")):
                count = one.log.read_text().count(said)
                (state / "now").write_text(now)
                one.until(lambda _, n=count, said=said: one.log.read_text().count(said) > n, said)
        told = one.status()
        assert (told["alarms"], told["rotations"]) == ({"health": 0}, 0)


def test_without_an_expectation_any_byte_is_an_answer(name: str, tmp_path: Path, state: Path) -> None:
    with serving.serving(asked(tmp_path, state, TCP), name) as one:
        (state / "now").write_text("sick")
        count = one.status()["accepted"]
        one.until(lambda s: s["accepted"] > count + 4, "it is asked")
        assert one.status()["alarms"] == {"health": 0}
        (state / "now").write_text("gone")
        raised(one, "health")


def asked_once(said: bytes, stays: bool, refused: int = 0, **words: Any) -> str | None:
    """What a check finds of a server that says something, and then stays, or closes the connection.

    refused: so many clients are refused meanwhile.
    """
    service = Service(listen=(), health_send="x", health_timeout=0.5, **words)
    refusals = [7]

    def serve(server: socket.socket) -> None:
        with server.accept()[0] as one, contextlib.suppress(ConnectionResetError):
            one.recv(100)
            refusals.append(7 + refused)
            one.sendall(said)
            if stays:
                one.recv(1)  # until who asks has gone

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(DEADLINE)
        serving_one = threading.Thread(target=serve, args=(server,))
        serving_one.start()
        try:
            return asyncio.run(health.failure(Listener("", server.fileno()), service, lambda: refusals[-1]))
        finally:
            serving_one.join()


@pytest.mark.parametrize(
    ("said", "stays", "told"),
    [
        (b"I am well", True, ""),
        (b"I am well", False, ""),
        (b"", True, "no answer in 0.5 s"),
        (b"", False, "no answer: the connection was closed"),
        (b"sick\n", True, 'another answer than expected in 0.5 s: "sick"'),
        (b"sick\n", False, 'another answer than expected: "sick"'),
        (b"a\nb\x1b[2K\xff", False, r'another answer than expected: "a\x0ab\x1b[2K\xff"'),
        (b"x" * 100_000, True, f'another answer than expected in 0.5 s: "{"x" * 60}…"'),
    ],
)
def test_a_wrong_answer_is_told_apart_from_none(said: bytes, stays: bool, told: str) -> None:
    """With its begin, of which nothing moves the cursor; also where the connection stays."""
    assert asked_once(said, stays, health_expect="well") == told


@pytest.mark.parametrize(
    ("said", "stays", "refused", "busy", "expect", "told"),
    [
        (b"", False, 1, "", "", None),
        (b"", False, 1, "no room\n", "", None),
        (b"no room\n", False, 1, "no room\n", "well", None),
        (b"no room\n", False, 1, "no room\n", "", None),
        (b"no r", False, 1, "no room\n", "", None),
        (b"", False, 0, "no room\n", "", "no answer: the connection was closed"),
        (b"", True, 1, "no room\n", "", "no answer in 0.5 s"),
        (b"no room\n", False, 0, "no room\n", "well", 'another answer than expected: "no room"'),
        (b"no room at all\n", False, 1, "no room\n", "well", 'another answer than expected: "no room at all"'),
        (b"sick", False, 1, "", "well", 'another answer than expected: "sick"'),
        (b"I am well", True, 1, "no room\n", "well", ""),
        (b"no", True, 1, "no room\n", "", ""),
    ],
)
def test_a_refusal_is_told_apart_from_an_answer(
    said: bytes, stays: bool, refused: int, busy: str, expect: str, told: str | None
) -> None:
    """The service has refused somebody meanwhile, and nothing came but what it says then, and an end."""
    assert asked_once(said, stays, refused, busy=busy, health_expect=expect) == told


def served(one: Serving) -> socket.socket:
    """A client that is served, where one may be: who comes while a check is there is refused."""
    end = time.monotonic() + DEADLINE
    while True:
        client = dial(one)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            client.sendall(b"stay\n")
            if client.recv(100).startswith(b"I am "):
                return client
        client.close()
        assert time.monotonic() < end, one.log.read_text()


@pytest.mark.parametrize(("how", "failures", "busy"), [("well", 2, ""), ("sick", 1000, "well, there is no room\\n")])
def test_a_check_that_is_refused_is_neither_a_failure_nor_an_answer(
    name: str, tmp_path: Path, state: Path, how: str, failures: int, busy: str
) -> None:
    """A busy service has no alarm, and one that is sick has not answered again, whatever it says to who is refused."""
    words = TCP + f'health_expect = "well"\nclient_most = 1\nbusy = "{busy}"'
    with serving.serving(asked(tmp_path, state, words, failures), name) as one:
        (state / "now").write_text(how)
        one.until(lambda _: how == "well" or "health: another answer" in one.log.read_text(), "it is sick")
        with served(one):
            count = one.status()["refused"]["client_most"]
            told = one.until(
                lambda s: s["refused"]["client_most"] > count + 5 or s["alarms"]["health"], "checks are refused"
            )
            said = one.log.read_text()
        assert (told["alarms"], told["rotations"]) == ({"health": 0}, 0)
        assert said.count("health: ") == 1 + (how == "sick"), said
        assert "health: the service is busy, and has refused a check" in said


# ---- what is no alarm ----

ENDS = {
    "killed by itself": "os.kill(os.getpid(), 9)",
    "another signal": "os.kill(os.getpid(), 6)",
    "a child's violation": "pid = os.fork()\nif not pid: os.kill(os.getpid(), 31)\nos.waitpid(pid, 0)\nos._exit(2)",
    "memory that is refused": "try: b'x' * (1 << 60)\nexcept (MemoryError, OverflowError): os._exit(3)",
    "much memory": "b'x' * (16 << 20)\nos._exit(0)",
    "too long": "time.sleep(100)",
}


def test_other_ends_are_none(name: str, tmp_path: Path) -> None:
    """Whoever is killed by somebody else than the kernel for its memory, told to end, or ends by another signal."""
    words = TCP + 'alarms = ["oom", "violation", "files"]\nwatch = ["/etc"]\nwall = 3\ngrace = 0.2'
    with serving.serving(write(tmp_path / "s.toml", words, COMMAND, KILL, limits=SMALL), name) as one:
        for code in ENDS.values():
            with dial(one) as each:
                do(each, code)
                assert is_over(each)
        one.until(lambda s: sum(s["ends"].values()) == len(ENDS) + 1, "all are over")
        with dial(one) as each:
            assert do(each, "") == b"ok\n"
            one.tell("stop")
            assert is_over(each)
        one.process.wait(DEADLINE)
        assert "alarm" not in one.log.read_text()


# ---- what is done, and how often ----


def test_alarms_do_not_make_generations_follow_each_other_without_a_pause(name: str, tmp_path: Path) -> None:
    """Each is counted, and no more than some lines are said; of a generation that is old anyhow they want no other."""
    spec = write(tmp_path / "s.toml", TCP + 'alarms = ["violation"]', COMMAND, KILL)
    with serving.serving(spec, name) as one, dial(one) as old:
        assert do(old, "") == b"ok\n"
        port, begun, count = one.port(), time.monotonic(), 0
        while one.log.read_text().count("takes connections") < 3:
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as bad:
                assert do(bad, VIOLATE) == b""
            count += 1
        assert time.monotonic() - begun > alarms.PAUSE
        told = raised(one, "violation", count)
        assert (told["alarms"], told["rotations"]) == ({"violation": count}, 2)
        assert count > 2 * alarms.LINES
        said = one.log.read_text().count("alarm in generation")
        assert alarms.LINES <= said <= 3 * alarms.LINES
        one.until(lambda s: [n["number"] for n in s["generations"]] == [1, 3], "the second is gone")
        assert do(old, VIOLATE) == b""
        raised(one, "violation", count + 1)
        one.until(lambda s: len(s["generations"]) == 1, "the first is gone")
        assert one.status()["rotations"] == 2


def test_without_alarms_nothing_is_done(name: str, tmp_path: Path) -> None:
    with serving.serving(write(tmp_path / "s.toml", TCP, COMMAND, KILL), name) as one:
        with dial(one) as bad:
            assert do(bad, VIOLATE) == b""
        told = one.until(lambda s: s["ends"]["signalled"] == 1, "over")
        assert (told["alarms"], told["rotations"]) == ({}, 0)
        assert "alarms" not in one.tell("status")


@pytest.mark.orphans
def test_sandboxes_of_a_service_that_was_killed_are_watched(name: str, tmp_path: Path) -> None:
    """The next service does that, from then on; what has happened between the two is not told."""
    words = 'alarms = ["oom", "violation", "files"]\nwatch = ["/srv", "/tmp/canary"]\nplaces = 8\n'
    spec = write(tmp_path / "s.toml", TCP + words, COMMAND, KILL, ON_TMPFS, limits=SMALL)
    log = tmp_path / "log"
    one = serving.start(spec, name, log)
    try:
        with contextlib.ExitStack() as stack:
            port = one.port()
            live = [stack.enter_context(dial(one)) for _ in range(5)]
            assert {do(each, "") for each in live} == {b"ok\n"}
            template = one.status()["generations"][0]["pid"]
            one.process.kill()
            one.process.wait()
            between, hungry, bad, writer, good = live
            assert do(between, VIOLATE) == b""
            write(spec, f'listen = ["tcp:127.0.0.1:{port}"]\n{words}', COMMAND, KILL, ON_TMPFS, limits=SMALL)
            one = serving.start(spec, name, log)
            assert one.status()["alarms"] == {"oom": 0, "violation": 0, "files": 0}
            do(hungry, EAT)
            assert is_over(hungry)
            assert do(bad, VIOLATE) == b""
            raised(one, "violation")
            assert one.status()["rotations"] == 0
            settled(one)
            assert do(writer, "open('/srv/new', 'x')") == b"ok\n"
            assert is_over(writer)
            assert do(good, "") == b"ok\n"
            assert raised(one, "files", 3)["alarms"] == {"oom": 1, "violation": 1, "files": 3}
        one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
        os.waitpid(template, 0)  # it has come to the tests, a subreaper
    finally:
        assert serving.stop(one) == 0


# ---- what is refused ----


@pytest.mark.parametrize(
    ("words", "key", "told"),
    [
        ('alarms = ["ooom"]', "alarms[0]", 'not one of oom, violation, files; did you mean "oom"?'),
        ('alarms = ["files"]', "alarms", '"files" needs what is not to change: watch'),
        ('watch = ["/etc"]', "watch", 'alarms = ["files"]'),
        ('alarms = ["files"]\nwatch = ["/etc", "srv"]', "watch[1]", "no absolute path"),
        ('alarms = ["files"]\nwatch = ["/etc/../srv"]', "watch[0]", "write it without"),
        ('alarms = ["files"]\nwatch = ["/proc/sys"]', "watch[0]", "the kernel's"),
        ('alarms = ["files"]\nwatch = [' + 65 * '"/etc",' + "]", "watch", "more than 64 paths"),
        ('alarms = "oom"', "alarms", "expected"),
        ("health_interval = 10", "health_interval", "say what it is asked"),
        ('health_interval = -1\nhealth_send = "x"', "health_interval", "not from 0 to 86400"),
        ('health_interval = 1\nhealth_send = "x"\nhealth_timeout = 0', "health_timeout", "not from 0.001"),
        ('health_interval = 1\nhealth_send = "x"\nhealth_failures = 0', "health_failures", "not from 1"),
        ('health_interval = 1\nhealth_send = "' + 70000 * "x" + '"', "health_send", "more than 65536 bytes"),
        ('health_expect = "x"', "health_expect", "health_interval = 10"),
        ("health_intervall = 1", "health_intervall", "did you mean"),
    ],
)
def test_a_bad_key_is_refused_by_line(tmp_path: Path, words: str, key: str, told: str) -> None:
    """One message that names the file, the line and the key; status 2; nothing is done."""
    spec = tmp_path / "s.toml"
    spec.write_text(f"command = ['/bin/cat']\n[service]\n{TCP}{words}\n")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    name = key.partition("[")[0]
    line = next(n for n, each in enumerate(spec.read_text().splitlines(), 1) if each.startswith(f"{name} ="))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"nstool: {spec}:{line}: service.{key}: "), done.stderr
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("service", "limits", "told"),
    [
        (TCP + 'alarms = ["oom"]', "memory = 0", "service.alarms[0]: memory is counted only where it is limited"),
        (TCP + 'alarms = ["files"]\nwatch = ["/usr"]', "", "service.watch: more than 4096 files below /usr"),
        ('listen = ["udp:127.0.0.1:0"]\nhealth_interval = 1\nhealth_send = "x"', "", "no stream to connect to"),
    ],
)
def test_what_cannot_be_watched_is_refused(name: str, tmp_path: Path, service: str, limits: str, told: str) -> None:
    """Before anybody can connect."""
    spec = write(tmp_path / "s.toml", service, "command = ['/bin/cat']", limits=limits)
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
