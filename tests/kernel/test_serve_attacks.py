"""Attacks on ``nstool serve`` from inside a sandbox and by clients: what does not get through stays so."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.service import tied
from tests.support import serving
from tests.support.serving import DEADLINE, ask, write

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'


def python(script: str) -> str:
    """The line of a spec whose command is a Python program."""
    return f"command = ['/usr/bin/python3', '-c', '''{script}''']"


# ---- the connection, a socket of the host's network ----

# Disconnect the connection; then what each test does with the socket "one", in the host's network namespace.
DISCONNECT = """
import ctypes, os, socket
kept = os.fdopen(os.dup(2), "w")
one = socket.socket(fileno=0)
def disconnect():
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(one.fileno(), b"\\0" * 16, 16) == 0, os.strerror(ctypes.get_errno())
one.settimeout(2)
"""
ELSEWHERE = {
    "connect": "one.connect(('127.0.0.1', PORT))",
    "bind": "one.setsockopt(1, 2, 1); one.bind(('127.0.0.2', own)); one.connect(('127.0.0.1', PORT))",
    "same port": "one.setsockopt(1, 2, 1); one.bind(('127.0.0.1', own)); one.connect(('127.0.0.1', PORT))",
    "unlock": "one.setsockopt(1, 27, 0); one.connect(('127.0.0.1', PORT))",
}


@pytest.mark.vm
@pytest.mark.parametrize("way", ELSEWHERE)
def test_a_connection_cannot_be_connected_to_the_host(name: str, tmp_path: Path, way: str) -> None:
    """A sandbox without network does not get at a service of the host by the socket that it was given."""
    with socket.create_server(("127.0.0.1", 0)) as host:
        host.settimeout(0)
        script = f"PORT = {host.getsockname()[1]}\n{DISCONNECT}\nown = one.getsockname()[1]\ndisconnect()\n"
        script += f"try:\n    {ELSEWHERE[way]}\n    print('reached', file=kept, flush=True)\n"
        script += "except OSError as error:\n    print('not reached', error, file=kept, flush=True)\n"
        with serving.serving(write(tmp_path / "s.toml", TCP, python(script)), name) as one:
            with contextlib.suppress(ConnectionResetError):
                ask(one.port())
            one.until(lambda s: s["ends"]["exited"] == 1, "over")
            one.until(lambda _: "reached" in one.log.read_text(), "tried")
            assert "not reached" in one.log.read_text()
        with pytest.raises(BlockingIOError):
            host.accept()


def test_a_connection_cannot_be_made_to_listen_on_the_host(name: str, tmp_path: Path) -> None:
    """Nor does it let anybody in there."""
    script = DISCONNECT + "\ndisconnect()\none.listen(8)\nprint('port', one.getsockname()[1], file=kept, flush=True)\n"
    script += "one.settimeout(15)\none.accept()\nprint('accepted', file=kept, flush=True)\n"
    with serving.serving(write(tmp_path / "s.toml", TCP, python(script)), name) as one:
        with contextlib.suppress(ConnectionResetError):
            ask(one.port())
        one.until(lambda _: "port " in one.log.read_text(), "listens")
        port = int(one.log.read_text().split("port ")[1].split()[0])
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=1)
        one.until(lambda s: s["ends"]["failed"] == 1, "over")
        assert "accepted" not in one.log.read_text()


# Listen with the connection at "where", as soon as nobody else does.
TAKE = """
import time
while True:
    try:
        one.bind(where)
        one.listen(8)
        break
    except OSError:
        time.sleep(0.01)
print("it listens", file=kept, flush=True)
one.settimeout(None)
one.accept()[0].sendall(b"taken")
"""


def taken(port: int) -> bytes:
    """What a sandbox says at that port, nothing if nobody can connect there."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.settimeout(DEADLINE)
            return client.recv(9)
    except (TimeoutError, ConnectionRefusedError):
        return b""


@pytest.mark.vm
@pytest.mark.parametrize("shape", ["stdio", "listener"])
def test_a_connection_by_ipv6_does_not_take_that_port_of_ipv4(name: str, tmp_path: Path, shape: str) -> None:
    """A sandbox has the port for both, as a socket that it binds may hear both; it hears nobody by it."""
    script = DISCONNECT + "\nwhere = '::ffff:0.0.0.0', one.getsockname()[1]\none.recv(1)\ndisconnect()\n"
    script += "one.setsockopt(41, 26, 0)\n"
    if shape == "listener":
        script = script.replace("fileno=0)", "fileno=3).accept()[0]")
    words = f'listen = ["tcp:[::]:0"]\nshape = "{shape}"'
    with serving.serving(write(tmp_path / "s.toml", words, python(script + TAKE)), name) as one:
        port = one.port()
        with socket.create_connection(("::1", port), timeout=DEADLINE) as client:
            client.sendall(b"x")
            one.until(lambda _: "it listens" in one.log.read_text(), "it listens")
            assert taken(port) == b""


@pytest.mark.vm_full
@pytest.mark.vm
def test_a_connection_does_not_take_an_address_that_is_dropped(name: str, tmp_path: Path) -> None:
    """Nobody comes to a sandbox that was quicker than the next who listens there."""
    script = DISCONNECT + "\nwhere = one.getsockname()\none.recv(1)\ndisconnect()\n" + TAKE
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spec = write(tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:{port}", "tcp:127.0.0.2:0"]', python(script))
    with serving.serving(spec, name) as one, socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
        client.sendall(b"x")
        one.until(lambda s: s["live"] == 1, "it has a sandbox")
        write(spec, 'listen = ["tcp:127.0.0.2:0"]', python(script))
        one.tell("reload")
        one.until(lambda _: "it listens" in one.log.read_text(), "it listens")
        assert taken(port) == b""


@pytest.mark.vm_full
@pytest.mark.vm
def test_a_connection_does_not_listen_beside_the_service(name: str, tmp_path: Path) -> None:
    """Templates share an address; a sandbox with their uid on the host does not have it, too."""
    script = (
        DISCONNECT
        + """
if one.recv(3) == b"bad":
    where = one.getsockname()
    disconnect()
    one.setsockopt(1, 15, 1)
    try:
        one.bind(where)
        one.listen(8)
        print("it listens", file=kept, flush=True)
    except OSError as error:
        print("it cannot:", error, file=kept, flush=True)
    one.settimeout(None)
    while True:
        one.accept()[0].sendall(b"taken")
one.sendall(b"served")
"""
    )
    words = ('uid_map = ["1000:0:1"]', 'gid_map = ["1000:0:1"]', python(script))
    with serving.serving(write(tmp_path / "s.toml", TCP + "shards = 2\nplaces = 8", *words), name) as one:
        port = one.port()
        with contextlib.suppress(ConnectionResetError):
            ask(port, b"bad")
        one.until(lambda _: "it " in one.log.read_text(), "it has tried")
        assert "it cannot: [Errno 98]" in one.log.read_text()
        assert {ask(port, b"say") for _ in range(30)} == {b"served"}


# Names and addresses of the interfaces that a socket knows of. netdevice(7)
INTERFACES = """
import ctypes, fcntl, os, socket, struct
one = socket.socket(fileno=FD)
buffer = ctypes.create_string_buffer(4096)
ifconf = struct.pack("i4xQ", len(buffer), ctypes.addressof(buffer))
try:
    fcntl.ioctl(one, 0x8912, ifconf)
    said = b"told " + buffer.value
except OSError as error:
    said = b"refused %d" % error.errno
os.write(OUT, said)
"""


@pytest.mark.parametrize("shape", ["stdio", "socket", "listener"])
@pytest.mark.parametrize(
    "seccomp",
    [
        *("", 'seccomp = "strict"', 'seccomp = "none"', '[seccomp]\nallow = ["ioctl(cmd == 0x8912)"]'),
        '[seccomp]\nrefuse = ["ioctl(cmd == 0x5401)", "getppid"]',
    ],
)
def test_a_connection_does_not_tell_of_the_hosts_interfaces(
    name: str, tmp_path: Path, shape: str, seccomp: str
) -> None:
    """By a list that says so, which a word of the spec takes away."""
    ends = {"stdio": (0, 1), "socket": (3, 3), "listener": (3, 9)}
    script = INTERFACES.replace("FD", str(ends[shape][0])).replace("OUT", str(ends[shape][1]))
    if shape == "listener":
        script = script.replace("\nbuffer", "\nclient = one.accept()[0]\nos.dup2(client.fileno(), 9)\nbuffer", 1)
        script += "client.shutdown(1)"
    table = seccomp if seccomp.startswith("[") else ""
    spec = tmp_path / "s.toml"
    words = [python(script), "" if table else seccomp, table, "[limits]", "cpu = 0", "[service]"]
    spec.write_text("\n".join((*words, TCP, f'places = 4\nshape = "{shape}"\n')))
    with serving.serving(spec, name) as one:
        said = ask(one.port())
    assert said == (b"told lo" if "none" in seccomp or "allow" in seccomp else b"refused 1")


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "[::1]", "[::]"])
def test_what_is_for_a_listener_is_heard(name: str, tmp_path: Path, address: str) -> None:
    """Connections of all kinds of addresses go on as ever."""
    spec = write(tmp_path / "s.toml", f'listen = ["tcp:{address}:0"]', "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        where = "::1" if ":" in address else "127.0.0.1"
        with socket.create_connection((where, one.port()), timeout=DEADLINE) as client:
            client.sendall(b"x" * 100000)
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(65536), b"")) == b"x" * 100000


# ---- other sandboxes, and the template ----

LOOK = r"""
import ctypes, os
libc = ctypes.CDLL(None)
if os.read(0, 1) == b"w":
    os.write(1, b"waits")
    os.read(0, 1)
for line in open("/proc/self/mountinfo").read().splitlines()[::-1]:
    if line.split()[4].startswith("/proc"):
        libc.umount2(line.split()[4].encode(), 2)
print(sorted({pid for pid in os.listdir("/proc") if pid.isdecimal()} - {os.readlink("/proc/self")}))
"""


def test_below_its_proc_there_is_nobody_else(name: str, tmp_path: Path) -> None:
    """With CAP_SYS_ADMIN and no filter a sandbox unmounts its /proc, and in the template's sees itself only."""
    words = ('capabilities = ["SYS_ADMIN", "SYS_PTRACE"]', 'seccomp = "none"', 'hidepid = "off"', python(LOOK))
    with serving.serving(write(tmp_path / "s.toml", TCP, *words), name) as one, socket.socket() as other:
        other.settimeout(DEADLINE)
        other.connect(("127.0.0.1", one.port()))
        other.sendall(b"w")
        assert other.recv(10) == b"waits"
        assert ask(one.port(), b"x") == b"[]\n"


# ---- datagrams ----


def test_where_all_places_are_taken_their_clients_are_heard(name: str, tmp_path: Path) -> None:
    """Others, as many as there are, take no datagram from a client that has a sandbox."""
    script = "import os\nwhile True: os.write(1, os.read(0, 65536).upper())"
    spec = write(tmp_path / "s.toml", 'listen = ["udp:127.0.0.1:0"]\nplaces = 1', python(script))
    with serving.serving(spec, name) as one, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", one.port()))
        one.until(lambda s: s["live"] == 0, "the one that was tried is over")
        for number in range(3):
            client.send(b"ask%d" % number)
            assert client.recv(100) == b"ASK%d" % number
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                other.sendto(b"other", ("127.0.0.1", one.port()))
        assert one.until(lambda s: s["refused"]["busy"] == 3, "refused")["live"] == 1


def test_a_client_of_datagrams_has_no_more_time_than_others(name: str, tmp_path: Path) -> None:
    """What bounds a life bounds that of a sandbox, too, whose client goes on sending."""
    script = "import os\nwhile True: os.write(1, os.read(0, 65536))"
    words = 'listen = ["udp:127.0.0.1:0"]\nwall = 0.5\ngrace = 0.1'
    with serving.serving(write(tmp_path / "s.toml", words, python(script)), name) as one:
        port = one.port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:

            def over(status: dict[str, dict[str, int]]) -> bool:
                client.sendto(b"still here", ("127.0.0.1", port))
                return bool(status["ends"]["overran"])

            one.until(over, "it overran")


def test_a_weaker_filter_is_said(name: str, tmp_path: Path, as_user: Callable[..., Any]) -> None:
    """Of a service that gives connections of TCP away; root has the better one here, nobody else."""
    assert (tied.is_weaker(), as_user(tied.is_weaker)) == (False, True)
    said: list[str] = []
    for weaker, listen, more in ((True, TCP, ""), (False, TCP, ""), (True, TCP, 'shape = "port"\nport = 80')):
        code = f"from nstool.service import tied\ntied.is_weaker = lambda: {weaker}\n"
        code += "from nstool.cli.start import main\nmain()"
        log = tmp_path / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-c", code, "serve", "--name", name]
            spec = write(tmp_path / "s.toml", listen + more, python("pass"))
            process = subprocess.Popen([*command, str(spec)], stdout=out, stderr=out)
        one = serving.Serving(name, process, log)
        serving.wait(one, 0)
        assert serving.stop(one) == 0
        said.append(log.read_text())
    assert ["without CAP_BPF" in text for text in said] == [True, False, False]


# ---- what one leaves for the next ----


def test_a_flow_label_is_not_handed_down(name: str, tmp_path: Path) -> None:
    """A label of IPv6 outlives its socket: a network namespace that has one is lent to nobody."""
    script = r"""
import socket, struct
print(len(open("/proc/net/ip6_flowlabel").read().splitlines()))
one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
request = socket.inet_pton(socket.AF_INET6, "::1") + struct.pack("!I", 0x12345)
request += struct.pack("BBHHHI", 0, 255, 1, 0, 60, 0)  # IPV6_FL_A_GET, of anybody, to be made; it stays for 60 s
one.setsockopt(socket.IPPROTO_IPV6, 32, request)
"""
    allowed = 'seccomp.allow = ["setsockopt(level == 41, optname == 32)"]'
    spec = write(tmp_path / "s.toml", TCP + "places = 1\nlease_net = true", python(script), allowed)
    with serving.serving(spec, name) as one:
        assert [ask(one.port()) for _ in range(3)] == [b"1\n"] * 3
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["exited"] == 3


# What it does to its standard error, and how that is. fcntl(2)
PIPE = """
import fcntl, os
if os.read(0, 9) == b"set":
    fcntl.fcntl(2, 1031, 4096)
    fcntl.fcntl(2, fcntl.F_SETFL, os.O_DIRECT)
print(fcntl.fcntl(2, 1032), fcntl.fcntl(2, fcntl.F_GETFL) == os.O_WRONLY | os.O_NONBLOCK)
"""


def test_a_pipe_is_as_it_was_for_the_next(name: str, tmp_path: Path) -> None:
    """Its size and flags, which are those of a file that all sandboxes of a place have."""
    with serving.serving(write(tmp_path / "s.toml", TCP + "places = 1", python(PIPE)), name) as one:
        port = one.port()
        assert ask(port, b"set") == b"4096 False\n"
        one.until(lambda s: s["live"] == 0, "it is over")
        assert ask(port, b"look") == b"65536 True\n"


# ---- a Python function ----


def test_a_function_has_no_plan_of_another(name: str, tmp_path: Path) -> None:
    """The memory by which the template says what the next sandboxes are is in no copy of the interpreter."""
    tmp_path.chmod(0o755)
    (tmp_path / "app.py").write_text("""
from nstool.service import handler

@handler
def handle(connection):
    connection.sendall(open("/proc/self/maps", "rb").read())
""")
    words = TCP + 'shape = "python"\nhandler = "app.py"'
    with serving.serving(write(tmp_path / "s.toml", words), name) as one:
        found = ask(one.port())
        assert b"stack" in found
        assert b"memfd" not in found
        assert [line for line in found.splitlines() if line.split()[1] == b"rw-s"] == []


def test_who_is_refused_is_not_listened_to_for_long(name: str, tmp_path: Path) -> None:
    """He hears why; what he says meanwhile is thrown away, a little at a time and not much in all."""
    words = TCP + 'client_most = 1\nbusy = "busy\\n"'
    with serving.serving(write(tmp_path / "s.toml", words, "command = ['/bin/cat']"), name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as live:
            live.sendall(b"x")
            assert live.recv(1) == b"x"
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as refused:
                assert refused.recv(9) == b"busy\n"
                said = 0
                with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                    while said < 1 << 30:
                        said += refused.send(bytes(65536))
    assert said < 32 << 20  # with what two sockets hold


# Says how much memory it has before it allocates more; or makes a file of memory that its client gets, and ends.
KEEPS = """
import array, os, socket
one = socket.socket(fileno=os.dup(0))
if one.recv(9) == b"keep":
    fd = os.memfd_create("kept")
    for _ in range(40):
        os.write(fd, bytes(1 << 20))
    one.sendmsg([b"kept"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
else:
    bytearray(35 << 20)[::4096] = bytes([1]) * (35 << 20 >> 12)
    one.sendall(b"ok")
"""


@pytest.mark.vm
def test_memory_that_outlives_its_sandbox_is_nobody_elses(name: str, tmp_path: Path) -> None:
    """A file of memory that was sent out is charged to its place: nobody is put there while somebody has it."""
    path = tmp_path / "u"
    words = f'listen = ["unix:{path}"]\nplaces = 2'
    spec = write(tmp_path / "s.toml", words, python(KEEPS), limits='memory = "64M"')
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:

        def said(what: bytes) -> socket.socket:
            client = open_.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(what)
            return client

        keeper = said(b"keep")
        assert select.select([keeper], [], [], DEADLINE)[0]
        one.until(lambda s: [p["state"] for g in s["generations"] for p in g["places"]] == ["held"], "it is held")
        assert [said(b"more").recv(9) for _ in range(4)] == [b"ok"] * 4
        one.until(lambda s: s["live"] == 0, "their sandboxes are over")
        keeper.close()
        one.until(lambda s: not s["generations"][0]["places"], "it is free")
        assert one.status()["ends"]["signalled"] == 0
        one.until(lambda _: "somebody has memory of a sandbox" in one.log.read_text(), "it is said")
        keepers = [said(b"keep") for _ in range(2)]
        one.until(lambda s: s["generations"][-1]["number"] == 2, "the next generation")
        assert said(b"more").recv(9) == b"ok"
        for keeper in keepers:
            keeper.close()
