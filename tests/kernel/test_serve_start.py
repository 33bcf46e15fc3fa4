"""What ``nstool serve`` refuses before it serves: in words, by line, with a remedy, and with nothing done."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nstool.sandbox import journal, leases, rundir
from nstool.spec.model import Spec
from tests.support import serving
from tests.support.serving import NSTOOL, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

SOON = 60.0  # seconds in which what is wrong is said
TCP = 'listen = ["tcp:127.0.0.1:0"]\n'


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory below /tmp, over which each sandbox mounts its own, open to all."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def script(path: Path, text: str, mode: int = 0o755) -> Path:
    """Make a script of the shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


def serve(spec: Path, *options: str, cwd: Path | None = None) -> tuple[int, str]:
    """Serve a spec that cannot be: the status, and what was said."""
    command = [NSTOOL, "serve", *options, str(spec)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            said = process.communicate(timeout=SOON)[1]
        except subprocess.TimeoutExpired:
            process.terminate()
            raise AssertionError(process.communicate()[1]) from None
    assert "Traceback" not in said
    return process.returncode, said


# ---- the command ----


@pytest.mark.parametrize("several", [False, True])
def test_a_commands_own_file_is_shown(name: str, tmp_path: Path, scratch: Path, several: bool) -> None:
    """As nstool run shows it, also below /tmp, of which each sandbox has its own; of each command of several."""
    files = [script(scratch / f"{word}.sh", f"echo {word}; ls /tmp/{scratch.name}") for word in ("one", "two")]
    words = f"commands = [['{files[0]}'], ['{files[1]}']]" if several else ""
    spec = write(tmp_path / "s.toml", TCP + words, "" if several else f"command = ['{files[0]}']")
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b"one\none.sh\n"
        if several:
            one.tell("rotate")
            assert ask(one.port()) == b"two\ntwo.sh\n"


def test_a_command_that_is_not_inside_is_told_as_of_run(name: str, tmp_path: Path) -> None:
    """The line, each directory that was looked into, the working directory from which it counts, the remedy."""
    script(tmp_path / "here.sh", "echo here")
    for word, told in {
        "nosuchprogram": ("looked for: /usr/local/sbin/nosuchprogram, /usr/local/bin/nosuchprogram", "env = {PATH"),
        "./here.sh": ("which is / inside, and there is no /here.sh", "--mount"),
    }.items():
        spec = write(tmp_path / "s.toml", TCP, "", f"command = ['{word}']")
        status, said = serve(spec, "--name", name, cwd=tmp_path)
        assert status == 127
        assert f"{spec}:2: command, execve(" in said
        assert all(each in said for each in told), said
    spec = write(
        tmp_path / "s.toml", TCP, "command = ['./here.sh']", 'cwd = "/srv/at"', f"mounts = ['{tmp_path}:/srv/at']"
    )
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b"here\n"


@pytest.mark.parametrize(
    ("mode", "closed", "told"),
    [
        (0o700, 0o755, "has mode 0700, which does not let host uid"),
        (0o755, 0o700, "cannot be searched by host uid"),
    ],
)
def test_a_command_that_its_user_may_not_execute_is_refused(
    name: str, tmp_path: Path, scratch: Path, mode: int, closed: int, told: str
) -> None:
    """Asked before anybody connects, of the kernel and as that user; with the cause and the remedy."""
    script(scratch / "prog.sh", "echo here", mode)
    scratch.chmod(closed)
    spec = write(tmp_path / "s.toml", TCP, "command = ['/srv/at/prog.sh']", f"mounts = ['{scratch}:/srv/at']")
    status, said = serve(spec, "--name", name)
    assert (status, f"{spec}:1: command, execve(" in said, told in said) == (126, True, True), said
    assert "remedy: chmod" in said


def allow(path: Path, uid: int, bits: int) -> None:
    """Give a file an access list that has an entry for one user. acl(5), linux/posix_acl_xattr.h."""
    mode = path.stat().st_mode
    own, group, other = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    entries = [(0x01, own, -1), (0x02, bits, uid), (0x04, group, -1), (0x10, group | bits, -1), (0x20, other, -1)]
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", data)


def test_an_access_list_decides_as_the_kernel_does(name: str, tmp_path: Path, scratch: Path) -> None:
    """Who may by the mode may not by the list, and the other way round."""
    prog = script(scratch / "prog.sh", "echo here")
    maps = ["uid_map = ['0:2000000000:65536']", "gid_map = ['0:2000000000:65536']"]
    mount = f"mounts = ['{scratch}:/srv/at']"
    spec = write(tmp_path / "s.toml", TCP, "command = ['/srv/at/prog.sh']", mount, *maps)
    allow(prog, 2000001000, 0)
    assert serve(spec, "--name", name)[0] == 126
    prog.chmod(0o700)
    allow(prog, 2000001000, 5)
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b"here\n"


@pytest.mark.needs("userns")
@pytest.mark.parametrize("mapped", [pytest.param(False, marks=pytest.mark.needs("newuidmap")), True])
def test_a_users_command_is_looked_at_as_its_user(
    as_user: Callable[..., Any], user: User, name: str, mapped: bool
) -> None:
    """Of an ordinary user's service: what the user may execute, ids of the range may not."""

    def act() -> tuple[int, str]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        maps = f'uid_map = ["1000:{user.uid}:1"]\ngid_map = ["1000:{user.gid}:1"]\ngroups = ["keep"]' if mapped else ""
        script(path / "prog.sh", "echo here", 0o700)
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        listen = f'listen = ["unix:{path}/socket"]\nplaces = 4'
        spec = path / "s.toml"
        spec.write_text(f"command = ['/srv/prog.sh']\nmounts = ['{path}:/srv']\n{maps}\n{none}\n[service]\n{listen}\n")
        try:
            if not mapped:
                return serve(spec, "--name", name)
            with serving.serving(spec, name):
                return 0, ""
        finally:
            shutil.rmtree(path)

    status, said = as_user(act, timeout=4 * SOON)
    assert status == (0 if mapped else 126), said


def test_a_proc_that_is_not_its_own_is_refused(tmp_path: Path) -> None:
    """The id maps of sandboxes are written by it."""
    status, said = serve(write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']", 'proc = "bind"'))
    assert (status, "proc: the id maps" in said) == (2, True), said


# ---- places ----

FIRST, RANGE = 0xA000_0000, 65536  # where no other test has its ids


def pool(monkeypatch: pytest.MonkeyPatch, ranges: int) -> None:
    """Let there be so many ranges of host ids for all sandboxes."""
    monkeypatch.setenv("NSTOOL_IDS", f"{FIRST}-{FIRST + ranges * RANGE - 1}")


def test_many_places_have_ids_in_a_row(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the map of their template has few lines, and a generation of as many has room beside it."""
    pool(monkeypatch, 802)
    spec = write(tmp_path / "s.toml", TCP + "places = 400", "command = ['/bin/cat']", limits="memory = 0\npids = 0")
    with serving.serving(spec, name) as one:
        for _ in range(2):
            template = one.status()["generations"][-1]["pid"]
            assert len(Path(f"/proc/{template}/uid_map").read_text().splitlines()) < 20
            assert ask(one.port(), b"said") == b"said"
            one.tell("rotate")


def test_as_many_places_as_there_are_ids_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two generations, which live side by side; the largest number that works is said, and does."""
    pool(monkeypatch, 21)
    spec = write(tmp_path / "s.toml", TCP + "places = 10", "command = ['/bin/cat']")
    status, said = serve(spec, "--name", name)
    assert (status, f"{spec}:7: service.places: 10 places of a generation and of the next need 22" in said) == (
        2,
        True,
    ), said
    assert ("places = 9" in said, "vary" in said) == (True, False), said
    spec.write_text(spec.read_text() + 'vary = ["ids"]\n')
    status, said = serve(spec, "--name", name)
    assert (status, "places = 4, or leave" in said) == (2, True), said
    for places, words in ((9, ""), (4, 'vary = ["ids"]')):
        with serving.serving(write(spec, TCP + f"places = {places}\n{words}", "command = ['/bin/cat']"), name) as one:
            one.tell("rotate")
            assert ask(one.port(), b"said") == b"said"


def test_places_whose_ids_would_lie_too_scattered_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have each second range: an id map has no room for so many lines. The number that is said works."""
    pool(monkeypatch, 400)
    holder = leases.take(Spec(name=f"{name}h"))
    try:
        directory = Path(rundir.path(), "ids")
        for number in range(0, 400, 2):
            with contextlib.suppress(FileExistsError):
                os.symlink(holder.name, directory / str(FIRST + number * RANGE))
        words = ("command = ['/bin/cat']",)
        spec = write(tmp_path / "s.toml", TCP + "places = 180", *words, limits="memory = 0\npids = 0")
        status, said = serve(spec, "--name", name)
        assert (status, f"{spec}:8: service.places: each of 180 places" in said) == (2, True), said
        assert "scattered" in said
        found = re.search(r"places = (\d+), or free some", said)
        assert found is not None
        assert 100 < int(found[1]) < 180
        for places, status in ((int(found[1]) + 1, 2), (int(found[1]), 0)):
            spec.write_text(re.sub("places = .*", f"places = {places}", spec.read_text()))
            if status:
                assert serve(spec, "--name", name)[0] == status
            else:
                with serving.serving(spec, name) as one:
                    assert ask(one.port(), b"said") == b"said"
    finally:
        journal.undo(holder.name, ())


@pytest.mark.needs("userns", "newuidmap")
def test_a_user_is_told_for_how_many_places_the_range_is_enough(
    as_user: Callable[..., Any], user: User, name: str
) -> None:
    """A part of it for each, in which the command's user is; the number that is said works."""

    def act() -> tuple[int, str]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        spec = path / "s.toml"
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        listen = f'listen = ["unix:{path}/socket"]\nplaces = 300'
        spec.write_text(f"command = ['/bin/cat']\n{none}\n[service]\n{listen}\n")
        try:
            status, said = serve(spec, "--name", name)
            found = re.search(r"places = (\d+), or take a smaller user", said)
            if found is None or status != 2 or f"{spec}:8: service.places" not in said:
                return status, said
            spec.write_text(spec.read_text().replace("places = 300", f"places = {found[1]}"))
            with serving.serving(spec, name):
                return 0, said
        finally:
            shutil.rmtree(path)

    status, said = as_user(act, timeout=4 * SOON)
    assert (status, '"ids"' in said) == (0, False), said


# ---- listeners ----


@pytest.mark.parametrize(
    ("listen", "more", "told"),
    [
        ("tcp:127.0.0.1:PORT", "", "service.listen[0], bind(tcp:127.0.0.1:PORT): Address already in use (EADDRINUSE)"),
        ("tcp:127.0.0.1:PORT", "shards = 2", "service.listen[0], bind(tcp:127.0.0.1:PORT)"),
        ("tcp:127.0.0.1:0", 'metrics = "tcp:127.0.0.1:PORT"', "service.metrics, bind(tcp:127.0.0.1:PORT)"),
    ],
)
def test_who_has_an_address_is_said(name: str, tmp_path: Path, listen: str, more: str, told: str) -> None:
    """With the line of the key, the process, and what to do; of shards, too, which share a port among them."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as one:
        port = str(one.getsockname()[1])
        words = f'listen = ["{listen}"]\nplaces = 4\n{more}'.replace("PORT", port)
        spec = write(tmp_path / "s.toml", words, "command = ['/bin/cat']")
        status, said = serve(spec, "--name", name)
    line = 8 if "metrics" in more else 6
    assert (status, f"{spec}:{line}: {told.replace('PORT', port)}" in said) == (125, True), said
    assert f"cause: process {os.getpid()} (" in said
    assert "remedy: stop that, or listen elsewhere" in said
    purpose = "where its metrics are asked for" if "metrics" in more else "where connections come in"
    assert f"purpose: {purpose}\n" in said


def test_an_address_of_an_option_is_said_of_the_option(name: str, tmp_path: Path) -> None:
    """It is in no line of the spec."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    status, said = serve(spec, "--name", name, "--listen", "unix:/proc/no/socket")
    assert (status, "nstool: --listen, bind(unix:/proc/no/socket)" in said) == (125, True), said
    status, said = serve(spec, "--name", name, "--listen", "unix:socket")
    assert (status, 'nstool: --listen: "unix:socket" needs an absolute path' in said) == (2, True), said


@pytest.mark.parametrize(
    ("words", "line", "told"),
    [
        ('listen = ["tcp:127.0.0.1"]', 6, 'service.listen[0]: "tcp:127.0.0.1" needs a port'),
        ('listen = [\n  "unix:@a",\n  "unix:b"]', 8, 'service.listen[1]: "unix:b" needs an absolute path'),
        (TCP + 'metrics = "tcp:localhost:1"', 7, 'service.metrics: "tcp:localhost:1" needs an address'),
        ('listen = ["tcp:127.0.0.1:99"]\nmetrics = "tcp:0.0.0.0:99"', 7, 'is at the address of "tcp:127.0.0.1:99"'),
        (
            'listen = ["tcp:[::1]:99", "tcp:[::0001]:99"]',
            6,
            'service.listen[1]: "tcp:[::0001]:99" is at the address of',
        ),
        ('listen = ["unix:/run/a", "seqpacket:/run/a"]', 6, "is at the address of"),
    ],
)
def test_words_that_say_no_address_of_their_own_are_refused(tmp_path: Path, words: str, line: int, told: str) -> None:
    """Before anything is done, by line."""
    status, said = serve(spec := write(tmp_path / "s.toml", words, "command = ['/bin/cat']"))
    assert (status, f"{spec}:{line}: service." in said, told in said) == (2, True, True), said


def test_words_that_say_others_are_not(name: str, tmp_path: Path) -> None:
    """Ports that the kernel chooses, one for each protocol and family, abstract names of each type."""
    words = [
        "tcp:127.0.0.1:0",
        "tcp:127.0.0.2:0",
        "udp:127.0.0.1:0",
        "tcp:[::1]:0",
        f"unix:@{name}",
        f"seqpacket:@{name}",
    ]
    with serving.serving(write(tmp_path / "s.toml", f"listen = {words}", "command = ['/bin/cat']"), name) as one:
        assert len(one.status()["listening"]) == len(words)


def unconnected(family: int, type_: int, listens: bool) -> socket.socket:
    """A socket that is bound, and may listen."""
    one = socket.socket(family, type_)
    one.bind(("127.0.0.1", 0) if family == socket.AF_INET else "")
    if listens:
        one.listen()
    return one


def half_a_pair() -> socket.socket:
    """One end of two that are connected."""
    one, other = socket.socketpair()
    other.close()
    return one


def connected_udp() -> socket.socket:
    """One of UDP that has a peer."""
    one = unconnected(socket.AF_INET, socket.SOCK_DGRAM, False)
    one.connect(("127.0.0.1", 9))
    return one


@pytest.mark.parametrize(
    ("passed", "count", "told"),
    [
        (lambda: unconnected(socket.AF_INET, socket.SOCK_STREAM, False), 1, "SOCK_STREAM that does not listen"),
        (lambda: unconnected(socket.AF_UNIX, socket.SOCK_SEQPACKET, False), 1, "SOCK_SEQPACKET that does not listen"),
        (half_a_pair, 1, "AF_UNIX, SOCK_STREAM that does not listen"),
        (lambda: unconnected(socket.AF_UNIX, socket.SOCK_DGRAM, False), 1, "AF_UNIX, SOCK_DGRAM; one of TCP or UDP"),
        (connected_udp, 1, "AF_INET, SOCK_DGRAM that has a peer"),
        (lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), 1, "AF_NETLINK, SOCK_RAW; one of TCP or UDP"),
        (functools.partial(open, "/dev/null"), 1, "fd 3 is /dev/null; a socket that listens is expected"),
        (lambda: unconnected(socket.AF_INET, socket.SOCK_STREAM, True), 2, "says 2, and fd 4 is not open"),
    ],
)
def test_what_is_passed_and_does_not_listen_is_refused(
    name: str, tmp_path: Path, passed: Callable[[], Any], count: int, told: str
) -> None:
    """Which fd it is, what it is, and what is expected; before anything is done."""
    spec = write(tmp_path / "s.toml", 'listen = ["systemd"]', "command = ['/bin/cat']")
    with passed() as one:
        begin = f"export LISTEN_PID=$$ LISTEN_FDS={count}; exec {NSTOOL} serve --name {name} {spec} 3<&{one.fileno()}"
        words = ["/bin/bash", "-c", f"{begin} {one.fileno()}<&-" if one.fileno() != 3 else begin]
        done = subprocess.run(words, pass_fds=[one.fileno()], capture_output=True, text=True, timeout=SOON)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr
    assert f'{spec}:6: service.listen[0]: "systemd": LISTEN_FDS says' in done.stderr


# ---- lines ----


@pytest.mark.parametrize(
    ("words", "service", "told"),
    [
        ('net = "bridge"', "", '2: net.mode: "bridge" is made for one sandbox'),
        ('user = "nobody-there"', "", "2: user: "),
        ('mounts = ["/no/such:/srv"]', "", "2: mounts[0].source: "),
        ('root = "/no/such"', "", "2: root.path: /no/such does not exist"),
        ("pass_fds = [5]", "", "2: pass_fds: "),
        ("", 'roots = ["/usr",\n "/no/such"]', "10: service.roots[1]: /no/such does not exist"),
        ("", 'shape = "python"\nhandler = "no.py"', "1: command: a handler has no command"),
        ("", "plces = 2", "9: service.plces: unknown key"),
    ],
)
def test_what_no_service_has_is_told_by_line(tmp_path: Path, words: str, service: str, told: str) -> None:
    """Also what only this host tells, and what is in a list of the service's."""
    status, said = serve(
        spec := write(tmp_path / "s.toml", TCP + "places = 4\n" + service, "command = ['/bin/cat']", words)
    )
    assert (status, f"nstool: {spec}:{told}" in said) == (2, True), said


# ---- a name that is taken ----


@pytest.mark.parametrize("how", ["option", "key", "file"])
def test_the_name_of_a_running_service_is_told_where_it_stands(name: str, tmp_path: Path, how: str) -> None:
    """With what ends that service; where the name is that of the file, the file."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    named = write(tmp_path / "t.toml", TCP, "command = ['/bin/cat']", f'name = "{name}"')
    same = write(tmp_path / f"{name}.toml", TCP, "command = ['/bin/cat']")
    words, place = {
        "option": ((spec, "--name", name), "--name"),
        "key": ((named,), f"{named}:2: name"),
        "file": ((same,), f"{same}"),
    }[how]
    with serving.serving(spec, name) as one:
        status, said = serve(*words)
        holder = f"a running service (process {one.process.pid})"
        remedy = f"stop it, nstool service stop {name}, or choose another name, --name"
        assert (status, said) == (2, f"nstool: {place}: {name!r} is the name of {holder}: {remedy}\n")


# ---- words that do nothing, and words that contradict each other ----

PORT = 'shape = "port"\nport = 80\n'


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("queue_timeout = 1", "queue_timeout: it does nothing: nobody waits without a queue"),
        ("client_burst = 3", "client_burst: it does nothing"),
        ("client_prefix4 = 24", "client_prefix4: it does nothing"),
        ("client_prefix6 = 48", "client_prefix6: it does nothing"),
        ("life_connections = 2", "life_connections: it does nothing: a life has one connection"),
        ('variant_order = "random"', "variant_order: it does nothing"),
        ("idle = 5", "idle: it does nothing"),
        (PORT + 'idle = 5\nlife = "shared"', "idle: it does nothing"),
        ("health_timeout = 1", "health_timeout: it does nothing: nobody asks"),
        ("health_failures = 1", "health_failures: it does nothing: nobody asks"),
        ('busy = "no"', "busy: it does nothing: nobody is refused"),
        ('busy = "no"\nready = 1', "busy: it does nothing: nobody is refused"),
        ("roots = []", "roots: none is there"),
        ("commands = []", "commands: none is there"),
        ('vary = ["ids", "pid", "ids"]', 'vary[2]: "ids" is there twice'),
        ('alarms = ["oom", "oom"]', 'alarms[1]: "oom" is there twice'),
        ('alarms = ["violation"]', "alarms[0]: no system call ends in SIGSYS"),
    ],
)
def test_a_word_that_does_nothing_is_refused(tmp_path: Path, words: str, told: str) -> None:
    """By line, with what it needs: nobody is to believe that it does something."""
    last = words.partition(" =")[0] if PORT not in words else "idle"
    spec = tmp_path / "s.toml"
    spec.write_text(f"command = ['/bin/cat']\n[service]\n{TCP}{words}\nplaces = 4\n")
    line = next(n for n, text in enumerate(spec.read_text().splitlines(), 1) if text.startswith(last))
    status, said = serve(spec)
    assert (status, f"nstool: {spec}:{line}: service.{told}" in said) == (2, True), said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("queue = 3", "queue: it does nothing: datagrams do not wait"),
        ('client_most = 1\nbusy = "no"', "busy: it does nothing: who sends datagrams and is refused hears nothing"),
    ],
)
def test_what_is_of_connections_does_nothing_with_datagrams(tmp_path: Path, words: str, told: str) -> None:
    """Where there are no other listeners, check and serve refuse it by line."""
    spec = write(tmp_path / "s.toml", f'listen = ["udp:127.0.0.1:0"]\n{words}', "command = ['/bin/cat']")
    line = 6 + len(words.splitlines())
    for status, said in (serve(spec), checked(spec)):
        assert (status, f"nstool: {spec}:{line}: service.{told}" in said) == (2, True), said


@pytest.mark.parametrize(
    "words",
    [
        "queue = 3",
        "client_most = 1",
        "client_rate = 2",
        "proxy = true",
        PORT + 'life = "client"',
        PORT + 'life = "shared"',
    ],
)
def test_where_somebody_is_refused_he_may_be_told(tmp_path: Path, words: str) -> None:
    """Each of these refuses connections by itself."""
    spec = write(tmp_path / "s.toml", f'{TCP}{words}\nbusy = "no"', "command = ['/bin/cat']")
    assert checked(spec)[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        'seccomp.action = "kill"',
        'seccomp = {base = "LIST"}',
    ],
)
def test_a_list_that_kills_has_violations(name: str, tmp_path: Path, words: str) -> None:
    """By its action, or in the file that it is."""
    (tmp_path / "list.json").write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"}]}'
    )
    words = words.replace("LIST", str(tmp_path / "list.json"))
    spec = write(tmp_path / "s.toml", TCP + 'alarms = ["violation"]', "command = ['/bin/cat']", words)
    with serving.serving(spec, name) as one:
        assert ask(one.port(), b"said") == b"said"


@pytest.mark.parametrize(
    ("words", "service", "told"),
    [
        ("", 'listen = ["tcp:127.0.0.1:0", "unix:@lent"]', "service.listen[1]: by a Unix socket a sandbox can give"),
        ("", 'listen = ["seqpacket:@lent"]', "service.listen[0]: by a Unix socket a sandbox can give"),
        ('mounts = ["/srv:/srv:rw"]', TCP, "mounts[0]: sandboxes meet there"),
        ('root = {type = "directory", path = "/srv", writable = true}', TCP, "root.writable: sandboxes meet there"),
    ],
)
def test_a_network_is_not_lent_to_who_can_be_watched_in_it(tmp_path: Path, words: str, service: str, told: str) -> None:
    """By an open file of it that a sandbox has given away: who came before watches who comes after."""
    status, said = serve(
        spec := write(tmp_path / "s.toml", f"{service}\nlease_net = true", "command = ['/bin/cat']", words)
    )
    assert (status, f"nstool: {spec}:" in said, told in said) == (2, True, True), said
    assert "/proc/self/net" in said


def test_a_network_is_not_lent_at_a_passed_unix_socket(name: str, tmp_path: Path) -> None:
    """Of which is known only when it is there."""
    spec = write(tmp_path / "s.toml", 'listen = ["systemd"]\nlease_net = true', "command = ['/bin/cat']")
    with unconnected(socket.AF_UNIX, socket.SOCK_STREAM, True) as one:
        begin = f"export LISTEN_PID=$$ LISTEN_FDS=1; exec {NSTOOL} serve --name {name} {spec} 3<&{one.fileno()}"
        words = ["/bin/bash", "-c", begin]
        done = subprocess.run(words, pass_fds=[one.fileno()], capture_output=True, text=True, timeout=SOON)
    assert (done.returncode, "by a Unix socket a sandbox can give" in done.stderr) == (2, True), done.stderr


def test_a_network_is_lent_where_the_connection_is_not_the_commands(name: str, tmp_path: Path) -> None:
    """What is relayed are bytes."""
    words = f'listen = ["unix:@{name}"]\nlease_net = true\nshape = "port"\nport = 7000'
    listens = "import socket\nsocket.create_server(('127.0.0.1', 7000)).accept()[0].sendall(b'here')"
    spec = write(tmp_path / "s.toml", words, f'command = [\'/usr/bin/python3\', \'-c\', """{listens}"""]')
    with serving.serving(spec, name), socket.socket(socket.AF_UNIX) as one:
        one.settimeout(SOON)
        one.connect(f"\0{name}")
        assert one.recv(10) == b"here"


# ---- handlers ----

AT_HANDLER = "from nstool.service import handler\n@handler\n"


def function(tmp_path: Path, code: str, *words: str, file: str = "app.py") -> Path:
    """The spec of a service that is a function in a file with this text."""
    tmp_path.chmod(0o755)
    (tmp_path / file).write_text(code)
    return write(tmp_path / "s.toml", "\n".join((f'{TCP}shape = "python"\nhandler = "{file}"', *words)))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            "import nosuch",
            "line 1, in <module>\n{at}    import nosuch\n{at}ModuleNotFoundError: No module named 'nosuch'",
        ),
        ("def f(", "SyntaxError: '(' was never closed"),
        ("try:\n    1/0\nexcept ZeroDivisionError:\n    import nosuch", "During handling of the above exception"),
        ("import sys\nsys.exit(4)", "app.py ended the interpreter that imported it: sys.exit(4)"),
        (f"{AT_HANDLER}def f(): ...", "app.py: f cannot be called with the connection alone (too many positional"),
        (f"{AT_HANDLER}def f(a, b): ...", "app.py: f cannot be called with the connection alone (missing"),
        (f"{AT_HANDLER}class C: ...", "app.py: C cannot be called with the connection alone"),
        (f"{AT_HANDLER}async def f(c): ...", "app.py: f is called, and not awaited"),
        (f"{AT_HANDLER}def f(c): yield", "app.py: f is called, and not awaited or asked for more"),
        ("", "app.py: 0 functions have @handler, one must"),
    ],
)
def test_a_file_without_a_handler_is_told_in_its_own_words(name: str, tmp_path: Path, code: str, told: str) -> None:
    """The frames of the file and of what it imports, no others; one sentence where it is no exception."""
    spec = function(tmp_path, code)
    status, said = serve_told(spec, name)
    assert (status, told.format(at=f"{name}.1[handler]: ") in said) == (125, True), said
    assert f"nstool: {spec}:7: service.handler: the interpreter ended while it imported {tmp_path}/app.py" in said
    assert "zygote.py" not in said
    assert "<frozen" not in said


def serve_told(spec: Path, name: str) -> tuple[int, str]:
    """The same of a service whose file has a traceback of its own."""
    done = subprocess.run(
        [NSTOOL, "serve", "--name", name, str(spec)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "code", ["def f(c): ...", "def f(c, more=1): ...", "def f(*all): ...", "class C:\n    def __init__(self, c): ..."]
)
def test_what_can_be_called_with_a_connection_is_a_handler(name: str, tmp_path: Path, code: str) -> None:
    """Whatever else it can be called with."""
    with serving.serving(function(tmp_path, AT_HANDLER + code), name) as one:
        assert ask(one.port()) == b""
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["exited"] == 1


def test_a_handler_that_raises_is_told_without_our_frames(name: str, tmp_path: Path) -> None:
    """In the log, from the function on."""
    with serving.serving(function(tmp_path, AT_HANDLER + "def f(c): raise RuntimeError('as told')"), name) as one:
        assert ask(one.port()) == b""
        one.until(lambda s: s["ends"]["failed"] == 1, "over")
    said = one.log.read_text()
    assert "in f\n" in said
    assert "RuntimeError: as told" in said
    assert "zygote.py" not in said


def test_a_file_that_is_none_of_python_is_refused(tmp_path: Path) -> None:
    """By its name, which the import goes by."""
    status, said = serve(spec := function(tmp_path, AT_HANDLER + "def f(c): ...", file="app.txt"))
    assert (status, f"{spec}:7: service.handler: {tmp_path}/app.txt is no file of Python" in said) == (2, True), said


def test_a_handler_has_start_timeout_to_be_imported(name: str, tmp_path: Path) -> None:
    """Then it is said what took so long; with more, it may."""
    code = f"import time\ntime.sleep(2)\n{AT_HANDLER}def f(c): ..."
    spec = function(tmp_path, code, "start_timeout = 0.5")
    begun = time.monotonic()
    status, said = serve(spec, "--name", name)
    assert time.monotonic() - begun < 15
    assert (status, "is not ready after 0.5 s" in said, "start_timeout" in said) == (125, True, True), said
    assert f"{spec}:7: service.handler" in said
    with serving.serving(function(tmp_path, code, "start_timeout = 60"), name) as one:
        assert ask(one.port()) == b""


# ---- nstool check ----


def checked(spec: Path, *options: str) -> tuple[int, str]:
    """What nstool check says of the spec of a service, and its status."""
    done = subprocess.run([NSTOOL, "check", *options, str(spec)], capture_output=True, text=True, timeout=SOON)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_service_is_checked_as_it_is_begun(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serve refuses, check refuses, by the same words; and what the first sandbox would meet. Nothing is made."""
    there = sorted(run_dir.rglob("*")) if run_dir.exists() else []
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    assert checked(spec) == (0, "this host can do all of it\n")
    spec = write(tmp_path / "s.toml", 'listen = ["tcp:127.0.0.1"]', "command = ['/bin/cat']")
    assert checked(spec) == serve(spec)
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']", 'user = "nobody-there"')
    assert checked(spec) == serve(spec)
    spec = write(tmp_path / "s.toml", TCP + "places = 9", "command = ['/bin/cat']")
    with monkeypatch.context() as patch:
        pool(patch, 12)
        assert checked(spec) == serve(spec)
        assert checked(spec)[0] == 2
    spec = function(tmp_path, "", file="app.txt")
    assert checked(spec) == serve(spec)
    spec = write(tmp_path / "s.toml", TCP + "commands = [['/bin/cat'],\n['/no/such']]")
    status, said = checked(spec)
    assert (status, f"{spec}:7: service.commands[1]: not possible on this host" in said) == (125, True), said
    status, said = checked(spec, "--json")
    assert (status, json.loads(said)["ok"], len(json.loads(said)["problems"])) == (125, False, 1)
    assert (sorted(run_dir.rglob("*")) if run_dir.exists() else []) == there


def test_an_address_that_is_not_to_be_had_is_foreseen(name: str, tmp_path: Path) -> None:
    """Of listen and of metrics, each with its line; a file of a socket that nobody has any more is none."""
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
        words = [
            "tcp:192.0.2.1:7114",
            f"unix:{tmp_path}/no/such/socket",
            f"seqpacket:{tmp_path}/file",
            f"unix:{tmp_path}/dead",
            "unix:@nstool-test-free",
            "udp:127.0.0.1:0",
        ]
        port = one.getsockname()[1]
        metrics = f'metrics = "tcp:127.0.0.1:{port}"'
        listen = "listen = [\n" + ",\n".join(f'"{word}"' for word in words) + "]\n"
        status, said = checked(write(tmp_path / f"{name}.toml", listen + metrics, "command = ['/bin/cat']"))
        assert (tmp_path / "dead").is_socket()
    told = [part.splitlines() for part in said.split("\n\n")]
    at, line = f"{tmp_path}/{name}.toml", 7
    assert status == 125
    assert [part[0] for part in told] == [
        f"{at}:{line}: service.listen[0]: not possible on this host",
        f"{at}:{line + 1}: service.listen[1]: not possible on this host",
        f"{at}:{line + 2}: service.listen[2]: not possible on this host",
        f"{at}:{line + 6}: service.metrics: not possible on this host",
    ]
    assert [part[2] for part in told] == [
        "cause: no interface of this host has the address 192.0.2.1",
        f"cause: {tmp_path}/no is not there",
        f"cause: {tmp_path}/file is a regular file",
        f"cause: process {os.getpid()} ({psutil.Process().name()}) has 127.0.0.1:{port}",
    ]


@pytest.mark.parametrize("listen", ["tcp:127.0.0.1:PORT", "udp:127.0.0.1:PORT", "unix:PATH", "unix:@nstool-test-own"])
def test_a_running_service_has_its_addresses_itself(name: str, tmp_path: Path, listen: str) -> None:
    """Its spec is checked as before it was begun; under another name its addresses are taken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = listen.replace("PORT", str(port)).replace("PATH", f"{tmp_path}/socket")
    spec = write(tmp_path / f"{name}.toml", f'listen = ["{words}"]', "command = ['/bin/cat']")
    with serving.serving(spec, name):
        assert checked(spec) == (0, "this host can do all of it\n")
        status, said = checked(shutil.copy(spec, tmp_path / "another.toml"))
        assert (status, f"cause: the service {name} has " in said) == (125, True), said
        assert f"remedy: nstool service stop {name}, or listen elsewhere" in said


@pytest.mark.orphans
def test_names_files_and_rights_are_foreseen(
    name: str, tmp_path: Path, scratch: Path, as_user: Callable[..., Any]
) -> None:
    """A name that a sandbox has, more places than files, and what only root may give away; by the options of serve."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    subprocess.run([NSTOOL, "run", "--detach", "--name", name, "--", "sleep", "1000"], check=True)
    status, said = checked(spec, "--name", name)
    assert (status, f"{name!r} is the name of a running sandbox" in said) == (125, True), said
    subprocess.run([NSTOOL, "stop", name], check=True)
    assert checked(spec, "--name", name, "--listen=unix:@nstool-test-free") == (0, "this host can do all of it\n")
    status, said = checked(spec, "--name", "", "--listen=unix:@nstool-test-free")
    assert (status, said.startswith("nstool: --name: ")) == (2, True), said
    many = write(tmp_path / "many.toml", TCP + "places = 20", "command = ['/bin/cat']")
    done = subprocess.run(["prlimit", "--nofile=100", NSTOOL, "check", str(many)], capture_output=True, text=True)
    assert (done.returncode, "its RLIMIT_NOFILE is 100" in done.stdout) == (125, True), done
    own = write(scratch / "own.toml", TCP, "command = ['/bin/cat']", limits="memory = 0\npids = 0")
    status, said = as_user(checked, own)
    assert (status, 'shape = "port"' in said) == (125, True), said


def test_a_life_that_is_shorter_than_a_look_keeps_nobody_from_a_start(name: str, tmp_path: Path) -> None:
    """The first sandbox, which is looked at, ends when that is done."""
    spec = write(tmp_path / "s.toml", TCP + "wall = 0.001\ngrace = 0", "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        one.until(lambda s: s["ends"]["stopped"] == 1, "it has ended")


def test_a_handler_that_does_not_compile_is_foreseen(tmp_path: Path) -> None:
    """With its line; it is not run."""
    spec = function(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert checked(spec)[0] == 0
    assert not (tmp_path / "ran").exists()
    spec = function(tmp_path, "x = 1\ndef f(:\n    pass\n")
    status, said = checked(spec)
    assert status == 125
    assert re.search(
        r"service\.handler: not possible on this host\ncause: .*\.py:\d+: invalid syntax\nremedy: ", said
    ), said


def test_a_misspelt_placeholder_is_foreseen(tmp_path: Path) -> None:
    """In a word of the command, and in its environment; what awk(1) or a shell writes so is none."""
    words = TCP + 'shape = "port"\nport = 80'
    command = "command = ['/bin/cat', 'a', '--port={prot}', 'awk {print} ${port} {port} {x}']"
    spec = write(tmp_path / "s.toml", words, command, "env = { A = '{adress}' }")
    status, said = checked(spec)
    assert status == 125
    assert [part.splitlines()[:3] for part in said.split("\n\n")] == [
        [
            f"{spec}:1: command[2]: not possible on this host",
            "cause: {prot} stands for nothing, and the command gets it as it is",
            "remedy: write {port}; {port} and {address} stand for where it is to listen",
        ],
        [
            f"{spec}:2: env.A: not possible on this host",
            "cause: {adress} stands for nothing, and the command gets it as it is",
            "remedy: write {address}; {port} and {address} stand for where it is to listen",
        ],
    ]


def test_a_file_whose_name_no_service_can_have(tmp_path: Path) -> None:
    """The file is named, and how the service gets another name; by that it is as good as any."""
    spec = write(tmp_path / "My Service.toml", TCP, "command = ['/bin/cat']")
    status, said = checked(spec)
    assert (status, said) == serve(spec)
    assert (status, f'nstool: {spec}: "My Service" cannot be the name of a sandbox: ' in said) == (2, True), said
    assert 'give it another than the file has: --name NAME, or name = "NAME" in the spec' in said


# ---- its table ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("[services]", '2: services: unknown key "services": the table of a service is [service]'),
        ("[Service]", '2: Service: unknown key "Service": the table of a service is [service]'),
        ("[[service]]", "2: service: a spec is of one service: write [service], not [[service]]"),
        ('service = "web"', "2: service: [service] is a table, not"),
        ('hostname = "web"', " no service: a [service] table with listen"),
        (
            '[service]\nlisten = ["unix:@a"]\nshape = "inetd"',
            '4: service.shape: "inetd" is not one of stdio, socket, port, python, listener\n',
        ),
        ('[service]\nlisten = ["unix:@a"]\nvary = ["hostnam"]', 'port, address, clock; did you mean "hostname"?\n'),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, words: str, told: str) -> None:
    """The key that was written, the one that was meant, and each choice once."""
    spec = tmp_path / "s.toml"
    spec.write_text(f"command = ['/bin/cat']\n{words}\n")
    status, said = serve(spec)
    assert (status, told in said, str(spec) in said) == (2, True, True), said
