"""``nstool serve``: each connection has a sandbox of its own; generations follow each other, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _cffi_backend
import pytest

from nstool._native import lib
from nstool.sandbox import engine
from tests.support import kernel, serving
from tests.support.child import run_in_child
from tests.support.serving import DEADLINE, NSTOOL, ask, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

TCP = 'listen = ["tcp:127.0.0.1:0"]\n'
KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
# What a sandbox says of itself: its namespaces, its environment, its pid, its name, and what it has found in /tmp.
TELL = r"""
for kind in user mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$kind; done
echo "own $$"
echo "name $(cat /proc/sys/kernel/hostname) $(cat /etc/hostname) $(tail -n 1 /etc/hosts)"
echo "machine $(cat /etc/machine-id)"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "canary $NSTOOL_CANARY"
echo "tmp $(ls /tmp)"
touch /tmp/been-here
"""


def shell(script: str) -> str:
    """The line of a spec whose command is a shell script."""
    return f"command = ['/bin/sh', '-c', '''{script}''']"


def python(script: str) -> str:
    """The same of a Python program."""
    return f"command = ['/usr/bin/python3', '-c', '''{script}''']"


ECHO = """
import socketserver
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())
socketserver.ThreadingTCPServer.request_queue_size = 128
socketserver.ThreadingTCPServer(("127.0.0.1", 7000), Handler).serve_forever()
"""


# The same, as it comes.
ECHO_ALL = """
import socket
listening = socket.create_server(("127.0.0.1", 7000))
while True:
    with listening.accept()[0] as one:
        while data := one.recv(100):
            one.sendall(data)
"""


def fields(text: bytes) -> dict[str, str]:
    """What TELL has said, by its first word; the namespaces by kind."""
    lines = text.decode().splitlines()
    found = dict(zip(KINDS, lines))
    for line in lines[len(KINDS) :]:
        key, _, value = line.partition(" ")
        found[key] = value
    return found


@pytest.mark.vm
def test_each_connection_has_a_sandbox_of_its_own(name: str, tmp_path: Path) -> None:
    """All seven namespaces are its own, and nothing of what an earlier one did is there."""
    spec = write(tmp_path / "s.toml", TCP, shell(TELL + "echo end; read line"))
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        earlier = [fields(ask(port)) for _ in range(3)]
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        found = [fields(told(each)) for each in held]
        one.until(lambda s: s["ends"]["failed"] == 3, "at the end of input read says 1")
    for kind in KINDS:
        assert len({each[kind] for each in found}) == 3, kind
        assert not {each[kind] for each in found} & {os.readlink(f"/proc/self/ns/{kind}")}
    assert {each["tmp"] for each in (*earlier, *found)} == {""}


def told(connection: socket.socket) -> bytes:
    """What is said before the line "end"."""
    connection.settimeout(DEADLINE)
    data = b""
    while not data.endswith(b"end\n"):
        data += connection.recv(65536)
    return data


@pytest.mark.vm_full
@pytest.mark.vm
def test_what_is_live_at_the_same_time_is_apart(name: str, tmp_path: Path) -> None:
    """As the host sees them: other host ids, no capability, a filter, other cgroups; all attested by the words."""
    spec = write(tmp_path / "s.toml", TCP + "places = 3", shell("read line; echo $line"))
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        found = one.until(lambda s: s["live"] == 3, "three live")
        template = found["generations"][0]["pid"]
        inits = Path(f"/proc/{template}/task/{template}/children").read_text().split()
        assert len(inits) == 3
        seen = [commands(init) for init in inits]
        uids = {status["Uid"].split()[0] for status in seen}
        assert len(uids) == 3
        assert all(int(uid) >= 0x70000000 for uid in uids)
        for status in seen:
            assert (status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == (
                "0" * 16,
                "0" * 16,
                "1",
                "2",
            )
        assert len({Path(f"/proc/{init}/cgroup").read_text() for init in inits}) == 3
        for each in held:
            each.sendall(b"said\n")
            assert each.recv(100) == b"said\n"


def commands(init: str) -> dict[str, str]:
    """The status of the command of an init, once it has been executed."""
    end = time.monotonic() + DEADLINE
    while True:
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        if children and os.readlink(f"/proc/{children[0]}/exe").endswith(("dash", "busybox", "bash")):
            lines = Path(f"/proc/{children[0]}/status").read_text().splitlines()
            return dict(line.split(":\t", 1) for line in lines)
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("ready", [0, 2])
def test_what_varies_is_never_the_same_twice_in_a_row(name: str, tmp_path: Path, ready: int) -> None:
    """Ids, host name, pid and canary of consecutive sandboxes, cold ones and parked ones."""
    words = TCP + f'places = 3\nready = {ready}\nvary = ["ids", "hostname", "pid", "canary", "machine-id", "boot-id"]'
    with serving.serving(write(tmp_path / "s.toml", words, shell(TELL)), name) as one:
        answers = [ask(one.port()) for _ in range(8)]
        found = [fields(answer) for answer in answers]
    for before, after in zip(found, found[1:]):
        for key in ("own", "name", "canary", "machine", "boot"):
            assert before[key] != after[key], key
    assert all(re.fullmatch(rf"({name}-[0-9a-f]{{8}}) \1 127.0.1.1\t\1", each["name"]) for each in found)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each["machine"]) for each in found)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each["boot"]) for each in found)
    assert all(re.fullmatch(r"[0-9a-f]{32}", each["canary"]) for each in found)
    assert len({each["canary"] for each in found}) == 8


def test_ids_vary_as_the_host_sees_them(name: str, tmp_path: Path) -> None:
    """Two lives in a row of one place have no host id in common."""
    spec = write(tmp_path / "s.toml", TCP + 'places = 1\nvary = ["ids"]', shell("read line; echo $line"))
    seen = []
    with serving.serving(spec, name) as one:
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", one.port())) as client:
                found = one.until(
                    lambda s: s["live"] == 1 and s["generations"][0]["places"][0]["state"] == "serving", "one"
                )
                template = found["generations"][0]["pid"]
                init = Path(f"/proc/{template}/task/{template}/children").read_text().split()[0]
                seen.append(Path(f"/proc/{init}/uid_map").read_text().split()[1])
                client.sendall(b"x\n")
                assert client.recv(10) == b"x\n"
    assert all(before != after for before, after in zip(seen, seen[1:]))


def test_socket_shape_passes_the_connection_as_fd_3(name: str, tmp_path: Path) -> None:
    """As sd_listen_fds(3) has it; standard input and output are not the connection."""
    script = 'echo "$LISTEN_FDS $LISTEN_PID $$ $(readlink /proc/self/fd/0)" >&3; cat <&3 >&3'
    with serving.serving(write(tmp_path / "s.toml", TCP + 'shape = "socket"', shell(script)), name) as one:
        assert ask(one.port(), b"echoed") == b"1 2 2 /dev/null\nechoed"


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.parametrize("ready", [0, 2])
@pytest.mark.parametrize("init", ["true", "false"])
def test_every_kind_of_listener(name: str, tmp_path: Path, ready: int, init: str) -> None:
    """TCP by IPv4 and IPv6, Unix streams and packets, an abstract name; with and without init."""
    words = ["tcp:127.0.0.1:0", "tcp:[::1]:0", f"unix:{tmp_path}/u", f"seqpacket:{tmp_path}/q", f"unix:@{name}"]
    table = f"listen = {json.dumps(words)}\nready = {ready}"
    spec = write(tmp_path / "s.toml", table, "command = ['/bin/cat']", f"init = {init}")
    with serving.serving(spec, name) as one:
        assert one.status()["listening"][2:] == words[2:]
        assert ask(one.port(0), b"four") == b"four"
        with socket.create_connection(("::1", one.port(1))) as six:
            six.sendall(b"six")
            assert six.recv(10) == b"six"
        for address, type_ in (
            (f"{tmp_path}/u", socket.SOCK_STREAM),
            (f"{tmp_path}/q", socket.SOCK_SEQPACKET),
            (f"\0{name}", socket.SOCK_STREAM),
        ):
            with socket.socket(socket.AF_UNIX, type_) as unix:
                unix.settimeout(DEADLINE)
                unix.connect(address)
                unix.sendall(b"unix")
                assert unix.recv(10) == b"unix"
    assert not (tmp_path / "u").exists()
    assert not (tmp_path / "q").exists()


def run(*words: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(words, check=True)


NEIGHBOUR = """
import socket, sys
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    one.settimeout(30)
    one.bind(("fe80::77", 4711, 0, socket.if_nametoindex("inner")))
    one.sendto(sys.argv[1].encode(), ("fe80::1", int(sys.argv[2]), 0, socket.if_nametoindex("inner")))
    assert one.recv(99) == sys.argv[1].encode()
"""


def test_clients_of_two_links_are_two(name: str, tmp_path: Path, in_child: Callable[..., Any]) -> None:
    """With the same address of their links and the same port; each hears its own sandbox."""
    spec = write(tmp_path / "s.toml", 'listen = ["udp:[::]:0"]', "command = ['/bin/cat']")

    def act() -> list[str]:
        kernel.unshare(kernel.CLONE_NEWNET)
        home = os.readlink("/proc/self/ns/net")
        with serving.serving(spec, name) as one, contextlib.ExitStack() as stack:
            links = []
            for link in ("left", "right"):
                other = stack.enter_context(subprocess.Popen(["unshare", "--net", "sleep", "60"]))
                stack.callback(other.kill)
                links.append(other)
                end = time.monotonic() + DEADLINE
                while os.readlink(f"/proc/{other.pid}/ns/net") == home:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                run("ip", "link", "add", link, "type", "veth", "peer", "inner", "netns", str(other.pid))
                run("ip", "address", "add", "fe80::1/64", "dev", link, "nodad")
                run("ip", "link", "set", link, "up")
                inside = ["nsenter", "--net", "-t", str(other.pid)]
                run(*inside, "ip", "address", "add", "fe80::77/64", "dev", "inner", "nodad")
                run(*inside, "ip", "link", "set", "inner", "up")
            port = one.status()["listening"][0].rpartition(":")[2]
            for number, other in enumerate(links):
                run("nsenter", "--net", "-t", str(other.pid), "/usr/bin/python3", "-c", NEIGHBOUR, f"n{number}", port)
            [found] = one.status()["generations"]
            return sorted(place["client"] for place in found["places"])

    assert in_child(act) == ["[fe80::77%2]:4711", "[fe80::77%3]:4711"]


@pytest.mark.vm_full
@pytest.mark.vm
def test_datagrams_have_a_sandbox_for_each_client(name: str, tmp_path: Path) -> None:
    """A client is known by its address; what it sends later comes to the same sandbox, until that ends."""
    script = "import os\nfor n in range(2): os.write(1, b'%d ' % n + os.read(0, 65536).upper())"
    spec = write(tmp_path / "s.toml", 'listen = ["udp:127.0.0.1:0"]', python(script))
    with serving.serving(spec, name) as one:
        for _ in range(2):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(DEADLINE)
                client.connect(("127.0.0.1", one.port()))
                for number in range(2):
                    client.send(b"ask")
                    assert client.recv(100) == b"%d ASK" % number
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["exited"] == 2


# ---- network namespaces that are lent ----


@pytest.mark.vm
def test_a_network_namespace_is_lent_while_nobody_uses_it(name: str, tmp_path: Path) -> None:
    """As many are made as sandboxes were live at once; no two live ones have the same."""
    spec = write(tmp_path / "s.toml", TCP + "places = 3\nlease_net = true", shell(TELL + "echo end; read line"))
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        for _ in range(6):
            ask(port)
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(3)]
        found = [fields(told(each)) for each in held]
        assert one.status()["nets"] == 3
    assert len({each["net"] for each in found}) == 3
    assert not {each["net"] for each in found} & {os.readlink("/proc/self/ns/net")}


# What uses the network namespace, and how.
USES = {
    "a connection over lo": """
one = socket.create_server(("127.0.0.1", 8000))
socket.create_connection(("127.0.0.1", 8000))""",
    "a datagram to nobody": "socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))",
    "an address that is not reached": "socket.socket(2, 1).connect_ex(('192.0.2.1', 9))",
    "IPv6": "socket.socket(10, 2).sendto(b'x', ('::1', 9))",
}


@pytest.mark.parametrize("use", USES)
def test_one_that_was_used_is_lent_to_nobody(name: str, tmp_path: Path, use: str) -> None:
    """Each sandbox that has used its network has had one of its own, in which it is the first."""
    script = "import socket\nprint(open('/proc/net/dev').read().split('lo:')[1].split()[1])\n" + USES[use]
    spec = write(tmp_path / "s.toml", TCP + "places = 1\nlease_net = true", python(script))
    with serving.serving(spec, name) as one:
        port = one.port()
        assert [ask(port).split() for _ in range(4)] == [[b"0"]] * 4
        assert one.until(lambda s: s["live"] == 0, "over")["nets"] >= 4


def test_only_the_one_that_was_used_is_lent_to_nobody(name: str, tmp_path: Path) -> None:
    """Of four places one uses its network each time: that one's is made anew, the others' stay."""
    script = """
import os, socket
said = os.read(0, 100)
if said == b"use":
    socket.socket(2, 2).sendto(b"x", ("127.0.0.1", 9))
os.write(1, os.readlink("/proc/self/ns/net").encode())
os.read(0, 100)
"""
    spec = write(tmp_path / "s.toml", TCP + "places = 4\nlease_net = true", python(script))
    made = []
    with serving.serving(spec, name) as one:
        port = one.port()
        for _ in range(3):
            with contextlib.ExitStack() as open_:
                held = [open_.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(4)]
                for number, each in enumerate(held):
                    each.sendall(b"use" if number == 2 else b"no")
                    assert each.recv(100).startswith(b"net:")
            made.append(one.until(lambda s: s["live"] == 0, "over")["nets"])
    assert made == [4, 5, 6]


# ---- limits ----


def test_a_client_has_only_so_many_and_is_told(name: str, tmp_path: Path) -> None:
    """client_most holds each client's; who is refused is told so, before the connection ends."""
    spec = write(tmp_path / "s.toml", TCP + 'client_most = 2\nbusy = "too many\\n"', "command = ['/bin/cat']")
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:
        port = one.port()
        for _ in range(2):
            held = open_.enter_context(socket.create_connection(("127.0.0.1", port)))
            held.sendall(b"x")
            assert held.recv(1) == b"x"
        assert ask(port, b"said before it was refused") == b"too many\n"
        found = one.status()
        assert found["refused"]["client_most"] == 1
        assert found["live"] == 2


def test_a_client_is_slowed_down(name: str, tmp_path: Path) -> None:
    """client_rate lets a burst pass and refuses what comes too fast after it."""
    spec = write(tmp_path / "s.toml", TCP + "client_rate = 0.001\nclient_burst = 3", "command = ['/bin/echo', 'in']")
    with serving.serving(spec, name) as one:
        answers = [_quiet(one.port()) for _ in range(5)]
        assert answers == [b"in\n"] * 3 + [b""] * 2
        assert one.status()["refused"]["client_rate"] == 2


def _quiet(port: int) -> bytes:
    """The answer; nothing when the connection is closed at once."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as one:
        try:
            return b"".join(iter(lambda: one.recv(65536), b""))
        except ConnectionResetError:
            return b""


def test_the_queue_has_a_bound_and_a_deadline(name: str, tmp_path: Path) -> None:
    """With one place and a queue of one the third is refused, and the second when it has waited too long."""
    words = TCP + 'places = 1\nqueue = 1\nqueue_timeout = 3\nbusy = "later\\n"'
    spec = write(tmp_path / "s.toml", words, "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(b"x")
            assert first.recv(1) == b"x"
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as second:
                assert ask(port) == b"later\n"  # it was accepted after the second
                assert second.recv(100) == b"later\n"
        found = one.status()["refused"]
        assert (found["busy"], found["waited"]) == (1, 1)


@contextlib.contextmanager
def one_served_and_two_queued(one: serving.Serving) -> Iterator[list[socket.socket]]:
    """Connections to a service with one place, whose command echoes: the first has it."""
    port = one.port()
    with contextlib.ExitStack() as open_:
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(3)]
        held[0].sendall(b"0")
        assert held[0].recv(1) == b"0"
        for number, each in enumerate(held):
            each.sendall(b"%d" % number)
        one.until(lambda s: s["queued"] + s["refused"]["waited"] == 2, "two wait")
        yield held


@pytest.mark.parametrize("shape", ["stdio", "port"])
@pytest.mark.parametrize("how", ["rotate", "stop", "kill"])
def test_who_waits_when_a_generation_drains_is_served(name: str, tmp_path: Path, how: str, shape: str) -> None:
    """They were taken: by that generation, when it has a place, also without its service."""
    few = TCP + "places = 1\nqueue = 4\nqueue_timeout = 0\ngrace = 60\n"
    words = (few + 'shape = "port"\nport = 7000', python(ECHO_ALL))
    if shape == "stdio":
        words = (few, "command = ['/bin/cat']")
    spec = write(tmp_path / "s.toml", *words)
    one = serving.start(spec, name, tmp_path / "log")
    template = one.status()["generations"][0]["pid"]
    with one_served_and_two_queued(one) as held:
        one.process.kill() if how == "kill" else one.tell(how)
        for number, each in enumerate(held):
            assert each.recv(1) == b"%d" % number
            each.close()
    if how == "kill":
        one.process.wait()
        os.kill(template, signal.SIGKILL)
        os.waitpid(template, 0)
        assert subprocess.run([NSTOOL, "cleanup"], capture_output=True).returncode == 0
        return
    if how == "rotate":
        one.until(lambda s: [g["number"] for g in s["generations"]] == [2], "the old one is gone")
        one.process.terminate()
    assert one.process.wait(DEADLINE) == 0


def test_who_waits_when_the_time_to_end_is_over_is_refused(name: str, tmp_path: Path) -> None:
    """As who is served gets the signal."""
    words = TCP + 'places = 1\nqueue = 4\nqueue_timeout = 0\ngrace = 3\nstop_signal = "USR1"\nbusy = "no more\\n"'
    script = "trap 'echo asked; exit' USR1; while read line; do echo $line; done"
    one = serving.start(write(tmp_path / "s.toml", words, shell(script)), name, tmp_path / "log")
    with contextlib.ExitStack() as open_:
        held = [
            open_.enter_context(socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE)) for _ in range(3)
        ]
        held[0].sendall(b"hear\n")
        assert held[0].recv(10) == b"hear\n"
        one.until(lambda s: s["queued"] == 2, "two wait")
        one.process.terminate()
        assert [each.makefile("rb").read() for each in held] == [b"asked\n", b"no more\n", b"no more\n"]
    assert one.process.wait(DEADLINE) == 0


def test_who_waits_for_too_long_is_told_also_without_a_service(name: str, tmp_path: Path) -> None:
    """Where each sandbox is attested none is made then, and whoever waits has a deadline all the same."""
    words = TCP + 'places = 1\nqueue = 4\nqueue_timeout = 4\nattest = "each"\nbusy = "later\\n"'
    one = serving.start(write(tmp_path / "s.toml", words, "command = ['/bin/cat']"), name, tmp_path / "log")
    with one_served_and_two_queued(one) as held, serving.killed(one):
        assert [each.recv(100) for each in held[1:]] == [b"later\n", b"later\n"]


def test_who_is_attested_is_let_go_and_not_who_has_the_place_after_him(name: str, tmp_path: Path) -> None:
    """The answer names the process that was looked at."""
    words = TCP + 'places = 1\nattest = "each"'
    one = serving.start(write(tmp_path / "s.toml", words, "command = ['/bin/cat']"), name, tmp_path / "log")
    port = one.port()
    with serving.killed(one) as template:
        assert template.channel is not None
        template.accept(True)
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as client:
            client.sendall(b"x")
            ready = template.channel.receive(DEADLINE)
            assert ready is not None
            template.release(ready.detail, ready.pid + 1)
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(DEADLINE)
            template.release(ready.detail, ready.pid)
            assert client.recv(1) == b"x"


def test_without_a_queue_they_wait_in_the_kernel(name: str, tmp_path: Path) -> None:
    """With one place ten connections are served one after the other, and none is refused."""
    spec = write(tmp_path / "s.toml", TCP + "places = 1", "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        port = one.port()
        answers: list[bytes] = []
        threads = [threading.Thread(target=lambda n=n: answers.append(ask(port, b"%d" % n))) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [b"%d" % n for n in range(10)]
        assert sum(one.status()["refused"].values()) == 0


def test_who_overruns_is_ended(name: str, tmp_path: Path) -> None:
    """SIGTERM after wall seconds, SIGKILL after grace: also one that ignores the first; others go on."""
    script = "trap '' TERM; read line; [ \"$line\" = quick ] && echo done && exit; while :; do sleep 1; done"
    spec = write(tmp_path / "s.toml", TCP + "wall = 3\ngrace = 0.2", shell(script))
    with serving.serving(spec, name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as slow:
            slow.sendall(b"slow\n")
            assert ask(port, b"quick\n") == b"done\n"
            assert _ended(slow)
        ends = one.until(lambda s: s["live"] == 0, "over")["ends"]
        assert (ends["overran"], ends["exited"]) == (1, 1)


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_fork_bomb_starves_nobody(name: str, tmp_path: Path) -> None:
    """It has its own limit of tasks; the others are served meanwhile."""
    script = 'read line; [ "$line" = bomb ] || { echo fine; exit; }; b() { b | b & b; }; b'
    spec = write(tmp_path / "s.toml", TCP + "wall = 15\ngrace = 0.1", shell(script))
    with serving.serving(spec, name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port)) as bomb:
            bomb.sendall(b"bomb\n")
            assert [ask(port, b"x\n") for _ in range(5)] == [b"fine\n"] * 5
        one.until(lambda s: s["live"] == 0, "the bomb is gone")


# ---- generations ----


@pytest.mark.parametrize("shape", ["stdio", "port"])
def test_rotation_loses_no_connection(name: str, tmp_path: Path, shape: str) -> None:
    """Thousands of connections over dozens of rotations: each has its answer."""
    if shape == "stdio":
        count, rotations = 2000, 24
        spec = write(tmp_path / "s.toml", TCP + "places = 16", "command = ['/bin/cat']")
    else:
        count, rotations = 1000, 12
        words = TCP + 'shape = "port"\nport = 7000\nlife = "shared"\nplaces = 4'
        spec = write(tmp_path / "s.toml", words, python(ECHO))
    with serving.serving(spec, name) as one:
        with serving.traffic(one.port(), 4) as found:
            for _ in range(rotations):
                one.tell("rotate")
            end = time.monotonic() + 4 * DEADLINE
            while found.done < count and not found.wrong and time.monotonic() < end:
                time.sleep(0.05)
        assert one.status()["rotations"] == rotations
    assert found.wrong == []
    assert found.done >= count


@pytest.mark.needs("busybox")
def test_generations_have_the_roots_in_turn(name: str, tmp_path: Path) -> None:
    """Each of two directories is the root of every other generation; paths count from the file."""
    for root in ("a", "b"):
        for directory in ("bin", "proc", "dev", "tmp"):
            (tmp_path / root / directory).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", tmp_path / root / "bin/busybox")
        (tmp_path / root / "which").write_text(root)
    words = TCP + 'roots = ["./a", "./b"]'
    spec = write(tmp_path / "s.toml", words, "command = ['/bin/busybox', 'cat', '/which']")
    with serving.serving(spec, name) as one:
        found = [ask(one.port())]
        for _ in range(3):
            one.tell("rotate")
            found.append(ask(one.port()))
    assert found == [b"a", b"b", b"a", b"b"]


def test_a_generation_is_renewed_by_age_and_by_lives(name: str, tmp_path: Path) -> None:
    """After so many sandboxes, and after so many seconds, another takes over by itself."""
    spec = write(tmp_path / "s.toml", TCP + "renew_lives = 4", "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        port = one.port()
        for _ in range(5):
            assert ask(port, b"x") == b"x"
        one.until(lambda s: s["rotations"] >= 1, "renewed by lives")
    spec = write(tmp_path / "t.toml", TCP + "renew_after = 0.3", "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        one.until(lambda s: s["rotations"] >= 2, "renewed by age")


@pytest.mark.vm_full
@pytest.mark.vm
def test_when_the_service_is_killed_nothing_is_lost(name: str, tmp_path: Path) -> None:
    """A live connection goes on; new ones wait in the backlog until the next service, which takes both over."""
    spec = write(tmp_path / "s.toml", TCP + "places = 4", "command = ['/bin/cat']")
    log = tmp_path / "log"
    first = serving.start(spec, name, log)
    try:
        port = first.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as live:
            live.sendall(b"before")
            assert live.recv(10) == b"before"
            first.process.kill()
            first.process.wait()
            live.sendall(b"between")
            assert live.recv(10) == b"between"
            with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as waiting:
                waiting.sendall(b"waiting")
                waiting.shutdown(socket.SHUT_WR)
                waiting.settimeout(0.5)
                with pytest.raises(TimeoutError):
                    waiting.recv(10)
                waiting.settimeout(DEADLINE)
                first = serving.start(
                    write(
                        tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:{port}"]\nplaces = 4', "command = ['/bin/cat']"
                    ),
                    name,
                    log,
                )
                assert waiting.recv(10) == b"waiting"
            assert ask(port, b"after") == b"after"
            live.sendall(b"still")
            assert live.recv(10) == b"still"
            old, new = first.status()["generations"]
            assert (old["state"], new["state"]) == ("draining", "current")
        first.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
        os.waitpid(old["pid"], 0)  # it has come to the tests, a subreaper
    finally:
        assert serving.stop(first) == 0


@pytest.mark.parametrize("why", ["no command", "address in use"])
def test_where_the_next_service_fails_the_old_generation_goes_on(name: str, tmp_path: Path, why: str) -> None:
    """Its connections live, others wait, and who comes then takes them over."""
    path = tmp_path / "u"
    spec = write(tmp_path / "s.toml", f'listen = ["unix:{path}"]', "command = ['/bin/cat']")
    log = tmp_path / "log"
    one = serving.start(spec, name, log)
    template = one.status()["generations"][0]["pid"]
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.socket(socket.AF_UNIX) as live,
        socket.socket(socket.AF_UNIX) as waiting,
    ):
        live.settimeout(DEADLINE)
        live.connect(str(path))
        live.sendall(b"x")
        assert live.recv(1) == b"x"
        one.process.kill()
        one.process.wait()
        waiting.settimeout(DEADLINE)
        waiting.connect(str(path))
        waiting.sendall(b"z")
        more = f', "tcp:127.0.0.1:{taken.getsockname()[1]}"' if why == "address in use" else ""
        command = "/bin/cat" if more else "/no/such"
        listeners = f'listen = ["unix:{path}", "unix:{path}-new"{more}]'
        bad = write(tmp_path / "t.toml", listeners, f"command = ['{command}']")
        done = subprocess.run([NSTOOL, "serve", "--name", name, str(bad)], capture_output=True, text=True)
        assert path.exists()
        assert not Path(f"{path}-new").exists()
        assert done.returncode == (125 if more else 127), done.stderr
        live.sendall(b"y")
        assert live.recv(1) == b"y"
        one = serving.start(spec, name, log)
        assert waiting.recv(1) == b"z"
        live.sendall(b"w")
        assert live.recv(1) == b"w"
    one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
    os.waitpid(template, 0)
    assert serving.stop(one) == 0
    assert not path.exists()


def test_a_template_that_is_killed_is_replaced(name: str, tmp_path: Path) -> None:
    """Its sandboxes end with it; the next connection is served by another."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    with serving.serving(spec, name) as one:
        port = one.port()
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as live:
            live.sendall(b"x")
            assert live.recv(1) == b"x"
            os.kill(one.status()["generations"][0]["pid"], signal.SIGKILL)
            assert _ended(live)
        one.until(lambda s: s["generations"] and s["generations"][-1]["number"] == 2, "another")
        assert ask(port, b"again") == b"again"


def test_cleanup_undoes_what_was_killed(name: str, tmp_path: Path, run_dir: Path) -> None:
    """Service and template killed: the next command undoes cgroups, leases and records."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    one = serving.start(spec, name, tmp_path / "log")
    template = one.status()["generations"][0]["pid"]
    one.process.kill()
    one.process.wait()
    os.kill(template, signal.SIGKILL)
    os.waitpid(template, 0)  # it has come to the tests, a subreaper
    done = subprocess.run([NSTOOL, "cleanup"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not run_dir.exists() or not list((run_dir / "sandboxes").iterdir())


# ---- lives of several connections ----

HTTP = """
import http.server, uuid
TAG = uuid.uuid4().hex
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(TAG.encode())
http.server.HTTPServer(("127.0.0.1", 7000), Handler).serve_forever()
"""
GET = b"GET / HTTP/1.0\r\n\r\n"


def tag(port: int, source: str = "127.0.0.1") -> bytes:
    """What tells one life of the HTTP service from another. source: the client's address."""
    with socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0)) as one:
        one.sendall(GET)
        return b"".join(iter(lambda: one.recv(65536), b"")).rpartition(b"\r\n")[2]


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.parametrize(("life", "lives"), [("connection", 4), ("client", 2), ("shared", 1)])
def test_lives_of_a_command_that_listens(name: str, tmp_path: Path, life: str, lives: int) -> None:
    """Two connections each of two clients are four lives, two, or one."""
    words = TCP + f'shape = "port"\nport = 7000\nlife = "{life}"'
    with serving.serving(write(tmp_path / "s.toml", words, python(HTTP)), name) as one:
        port = one.port()
        tags = [tag(port, source) for source in ("127.0.0.1", "127.0.0.2") for _ in range(2)]
        assert len(set(tags)) == lives
        assert all(re.fullmatch(rb"[0-9a-f]{32}", each) for each in tags)


def tag_as(path: Path, uid: int) -> bytes:
    """What the HTTP server says to this user, over a Unix socket."""

    def act() -> bytes:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(DEADLINE)
            one.connect(str(path))
            try:
                one.sendall(GET)
                return b"".join(iter(lambda: one.recv(65536), b"")).rpartition(b"\r\n\r\n")[2]
            except (BrokenPipeError, ConnectionResetError):
                return b"refused"

    found: bytes = run_in_child(act)
    return found


@pytest.mark.vm_full
@pytest.mark.vm
def test_a_client_of_a_unix_socket_is_a_user(name: str, tmp_path: Path) -> None:
    """By who made the connection: each has a sandbox, and so many connections in a time."""
    path = tmp_path / "u"
    words = (
        f'listen = ["unix:{path}"]\nshape = "port"\nport = 7000\nlife = "client"\nclient_burst = 3\nclient_rate = 0.001'
    )
    with serving.serving(write(tmp_path / "s.toml", words, python(HTTP)), name) as one:
        for part in (tmp_path, *tmp_path.parents):
            part.stat().st_mode & 0o5 == 0o5 or part.chmod(0o755)
        path.chmod(0o666)
        mine = [tag_as(path, 0) for _ in range(2)]
        others = [tag_as(path, 54321) for _ in range(3)]
        assert len({*mine, *others}) == 2
        assert {place["client"] for place in one.status()["generations"][0]["places"]} >= {"uid 0", "uid 54321"}
        assert tag_as(path, 54321) in (b"", b"refused")
        assert tag_as(path, 0) == mine[0] == mine[1]
        assert one.status()["refused"]["client_rate"] == 1


def test_whose_a_connection_is_the_next_service_is_asked_too(name: str, tmp_path: Path) -> None:
    """Taken, but its user not told yet, when the service is killed: it waits for the next."""
    path = tmp_path / "u"
    spec = write(tmp_path / "s.toml", f'listen = ["unix:{path}"]\nclient_most = 1', "command = ['/bin/cat']")
    log = tmp_path / "log"
    one = serving.start(spec, name, log)
    template = one.status()["generations"][0]["pid"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE)
        files = Path(f"/proc/{template}/fd")
        before = len(list(files.iterdir()))
        one.process.send_signal(signal.SIGSTOP)
        client.connect(str(path))
        client.sendall(b"x")
        end = time.monotonic() + DEADLINE
        while len(list(files.iterdir())) == before:
            assert time.monotonic() < end
            time.sleep(0.01)
        one.process.kill()
        one.process.wait()
        one = serving.start(spec, name, log)
        assert client.recv(1) == b"x"
    one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
    os.waitpid(template, 0)
    assert serving.stop(one) == 0


def test_many_of_a_unix_socket_while_the_service_does_not_answer(name: str, tmp_path: Path) -> None:
    """So many are asked for at once; more wait in the kernel's backlog, and none is forgotten."""
    path = tmp_path / "u"
    words = f'listen = ["unix:{path}"]\nclient_most = 600\nqueue = 300\nqueue_timeout = 0'
    with (
        serving.serving(write(tmp_path / "s.toml", words, "command = ['/bin/cat']"), name) as one,
        contextlib.ExitStack() as open_,
    ):
        one.process.send_signal(signal.SIGSTOP)
        clients = [open_.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(300)]
        for client in clients:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.shutdown(socket.SHUT_WR)
        assert not select.select(clients, [], [], 0.5)[0]
        one.process.send_signal(signal.SIGCONT)
        assert {client.recv(1) for client in clients} == {b""}
        found = one.until(lambda s: not s["queued"] and not s["live"], "all are over")
    assert not any(found["refused"].values())
    assert found["ends"]["exited"] == 300


def test_who_was_asked_for_waits_for_a_place(name: str, tmp_path: Path) -> None:
    """He was taken when there was one: he is not refused for those who were quicker, also without a queue."""
    path = tmp_path / "u"
    spec = write(
        tmp_path / "s.toml", f'listen = ["unix:{path}"]\nclient_most = 99\nplaces = 2', shell("cat; sleep 0.05")
    )
    with serving.serving(spec, name) as one, contextlib.ExitStack() as open_:
        clients = [open_.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(20)]
        for client in clients:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
        assert [client.recv(9) for client in clients] == [b"x"] * 20
        assert not any(one.status()["refused"].values())


def test_whose_a_connection_is_by_the_answer_to_its_own_question(name: str, tmp_path: Path) -> None:
    """Another's, of before, by a service that has gone, is not taken for it."""
    path = tmp_path / "u"
    spec = write(tmp_path / "s.toml", f'listen = ["unix:{path}"]\nclient_most = 1', "command = ['/bin/cat']")
    with (
        serving.killed(serving.start(spec, name, tmp_path / "log")) as template,
        socket.socket(socket.AF_UNIX) as client,
    ):
        template.accept(True)
        client.connect(str(path))
        client.sendall(b"x")
        channel = template.channel
        assert channel is not None
        channel.socket.settimeout(DEADLINE)
        data, fds, _, _ = socket.recv_fds(channel.socket, 4096, 1)
        asked = engine.decode(data)
        assert asked.type == lib.NST_MSG_WHOSE
        os.close(fds[0])
        channel.send(lib.NST_MSG_WHOSE, detail=asked.detail, step=asked.step - 1)
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(DEADLINE)
        channel.send(lib.NST_MSG_WHOSE, detail=asked.detail, step=asked.step)
        assert client.recv(1) == b"x"


def test_whose_a_connection_is_with_no_file_left(name: str, tmp_path: Path) -> None:
    """The service cannot take it to ask the kernel: it says so, and the client is refused."""
    path = tmp_path / "u"
    words = f'listen = ["unix:{path}"]\nclient_most = 9'
    with serving.serving(write(tmp_path / "s.toml", words, shell("echo said")), name) as one:
        pid = one.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), usual[1]))
        assert ask_at(path) == b""
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert ask_at(path) == b"said\n"
        assert one.status()["refused"]["busy"] == 1


def test_a_client_that_is_idle_long_enough_begins_anew(name: str, tmp_path: Path) -> None:
    """Its life ends idle seconds after its last connection."""
    words = TCP + 'shape = "port"\nport = 7000\nlife = "client"\nidle = 0.3'
    with serving.serving(write(tmp_path / "s.toml", words, python(HTTP)), name) as one:
        port = one.port()
        first = tag(port)
        one.until(lambda s: s["live"] == 0, "idle")
        assert tag(port) != first
        assert one.status()["ends"]["idle"] >= 1


def test_a_command_that_ends_before_it_listens_has_failed(name: str, tmp_path: Path) -> None:
    """It is not taken for one that nobody needs any more."""
    spec = write(tmp_path / "s.toml", TCP + 'shape = "port"\nport = 7000', shell("exit 3"))
    with serving.serving(spec, name) as one:
        with contextlib.suppress(ConnectionResetError):
            assert ask(one.port()) == b""
        found = one.until(lambda s: sum(s["ends"].values()) == 2, "over")["ends"]
    assert (found["failed"], found["stopped"]) == (1, 1)


def test_a_command_that_ends_at_once_is_begun_less_and_less_often(name: str, tmp_path: Path) -> None:
    """By itself: for a client one is made, as ever."""
    words = TCP + 'shape = "port"\nport = 7000\nlife = "shared"\nready = 2\nattest = "never"'
    with serving.serving(write(tmp_path / "s.toml", words, shell("exit 1")), name) as one:
        time.sleep(2.5)
        assert 4 <= one.status()["lives"] <= 12


def test_a_command_that_never_listens_is_ended(name: str, tmp_path: Path) -> None:
    """The client is let go, and the reason is counted."""
    words = TCP + 'shape = "port"\nport = 7000\nstart_timeout = 2'
    with serving.serving(write(tmp_path / "s.toml", words, "command = ['/bin/sleep', '1000']"), name) as one:
        assert _quiet(one.port()) == b""
        assert one.until(lambda s: s["live"] == 0, "ended")["ends"]["deaf"] == 1


def test_much_data_goes_through_a_relay(name: str, tmp_path: Path) -> None:
    """Megabytes both ways, a half-closed connection, a client that reads slowly: every byte arrives."""
    words = TCP + 'shape = "port"\nport = 7000'
    spec = write(tmp_path / "s.toml", words, python(ECHO))
    data = os.urandom(1 << 20) * 8
    with serving.serving(spec, name) as one:
        assert ask(one.port(), data) == data


def test_bandwidth_is_bounded_either_way(name: str, tmp_path: Path) -> None:
    """For all connections of a sandbox together, and all that was sent comes."""
    words = TCP + 'shape = "port"\nport = 7000\nlife = "client"\nbandwidth = "256k"'
    data = os.urandom(1 << 18)  # a second
    with serving.serving(write(tmp_path / "s.toml", words, python(ECHO)), name) as one:
        port = one.port()
        assert ask(port, b"up") == b"up"  # it listens
        begun = time.monotonic()
        answers: dict[int, bytes] = {}

        def client(number: int, source: str) -> None:
            with socket.create_connection(("127.0.0.1", port), DEADLINE, (source, 0)) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                answers[number] = b"".join(iter(lambda: connection.recv(65536), b""))

        clients = [threading.Thread(target=client, args=(n, f"127.0.0.{1 + n // 2}")) for n in range(4)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
        lasted = time.monotonic() - begun
    assert answers == dict.fromkeys(range(4), data)
    # Two times a second to each of two sandboxes, less what they may have at once; what comes back goes beside that.
    assert lasted >= 2 - 65536 / (1 << 18)


SENDS = """
import socket, threading
listening = socket.create_server(("127.0.0.1", 7000))
def send(one):
    try:
        while True:
            one.sendall(bytes(65536))
    except OSError:
        pass
while True:
    threading.Thread(target=send, args=(listening.accept()[0],), daemon=True).start()
"""


def test_connections_share_the_bandwidth_of_their_sandbox(name: str, tmp_path: Path) -> None:
    """None has it all, whoever came first."""
    words = TCP + 'shape = "port"\nport = 7000\nlife = "shared"\nbandwidth = "256k"'
    received = [0] * 4
    with (
        serving.serving(write(tmp_path / "s.toml", words, python(SENDS)), name) as one,
        contextlib.ExitStack() as open_,
    ):
        port = one.port()
        held = [open_.enter_context(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)) for _ in range(4)]
        while sum(received) < 1 << 20:
            for each in select.select(held, [], [])[0]:
                received[held.index(each)] += len(each.recv(65536))
        for each in held:
            each.close()
        one.tell("stop")
        one.process.terminate()
    assert min(received) > max(received) / 5


# ---- a Python function ----

HANDLER = """
import os, random, sys
from nstool.service import handler

SECRET = []

@handler
def handle(connection):
    said = connection.recv(100).decode()
    if said == "fail":
        raise RuntimeError("as it was told")
    if said == "exit":
        sys.exit(3)
    SECRET.append(said)
    ids = f"{os.getpid()} {os.getuid()} {os.geteuid()} {sorted(os.listdir('/proc/self/fd'))}"
    words = [ids, os.readlink("/proc/self/ns/net"), str(random.random()), " ".join(SECRET)]
    words.append(open("/proc/self/status").read())
    connection.sendall("|".join(words).encode())
"""


def python_service(path: Path, *words: str) -> Path:
    """Write a service whose handler is HANDLER."""
    path.chmod(0o755)
    (path / "app.py").write_text(HANDLER)
    return write(path / "s.toml", TCP + "\n".join(('shape = "python"', 'handler = "app.py"', *words)))


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.parametrize("ready", [0, 2])
def test_a_function_is_called_in_a_sandbox_for_each_connection(name: str, tmp_path: Path, ready: int) -> None:
    """Process 1 of its own namespaces, without rights; nothing that one call has changed is there for the next."""
    with serving.serving(python_service(tmp_path, f"ready = {ready}"), name) as one:
        port = one.port()
        answers = [ask(port, b"said%d" % n).decode().split("|") for n in range(6)]
        ends = one.until(lambda s: s["live"] == 0, "over")["ends"]
    assert ends["exited"] == 6
    for number, (ids, net, _, secret, status) in enumerate(answers):
        # 3 is the connection, 4 the listing itself
        assert ids == "1 1000 1000 ['0', '1', '2', '3', '4']"
        assert net != os.readlink("/proc/self/ns/net")
        assert secret == f"said{number}"
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status
    assert len({answer[2] for answer in answers}) == 6  # random numbers are not those of the interpreter's copy


@pytest.mark.vm_full
@pytest.mark.vm
def test_a_function_has_a_network_namespace_that_is_lent(name: str, tmp_path: Path) -> None:
    """Two at the same time have two, neither the interpreter's; afterwards the next have these again."""
    with serving.serving(python_service(tmp_path, "lease_net = true", "places = 2"), name) as one:
        port = one.port()
        template = one.status()["generations"][0]["pid"]
        with contextlib.ExitStack() as open_:
            held = [open_.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2)]
            one.until(lambda s: s["live"] == 2, "both")
            children = Path(f"/proc/{template}/task/{template}/children").read_text().split()
            together = [os.readlink(f"/proc/{pid}/ns/net") for pid in children]
            for each in held:
                each.sendall(b"x")
        homes = {os.readlink("/proc/self/ns/net"), os.readlink(f"/proc/{template}/ns/net")}
        later = {ask(port, b"x").decode().split("|")[1] for _ in range(4)}
        assert one.status()["nets"] == 2
    assert len(together) == 3  # with the interpreter
    assert len(set(together) - homes) == 2
    assert later <= set(together) - homes


def test_a_file_whose_threads_never_rest_is_served_all_the_same(name: str, tmp_path: Path) -> None:
    """They have no part in a copy, and hold nothing there that the copy waits for."""
    spec = python_service(tmp_path)
    busy = """
import logging, threading

def works():
    while True:
        sum(range(1000))

def logs():
    while True:
        logging.getLogger("busy").debug("on and on")

for one in (works, logs):
    threading.Thread(target=one, daemon=True).start()
"""
    (tmp_path / "app.py").write_text(
        f"{busy}\n{HANDLER}".replace("SECRET.append", "logging.error('called'), SECRET.append")
    )
    with serving.serving(spec, name) as one:
        assert all(ask(one.port(), b"x").startswith(b"1 1000") for _ in range(40))
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["exited"] == 40


def test_what_a_file_has_opened_is_nobodys(name: str, tmp_path: Path) -> None:
    """What a copy writes to it is lost, and does not reach what it has opened itself."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text("""
import os, socket
from nstool.service import handler

log = os.memfd_create("log")
others = [os.open("/dev/zero", os.O_RDONLY) for _ in range(3)]

@handler
def handle(connection):
    copies = [connection.dup() for _ in range(6)]
    os.write(log, b"a secret line")
    connection.sendall(f"{log} {sorted(copy.fileno() for copy in copies)}".encode())
""")
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b"5 [4, 9, 10, 11, 12, 13]"


@pytest.mark.parametrize("word", ["SIGTERM", "SIGALRM", "SIGUSR1"])
def test_a_function_ends_by_a_signal(name: str, tmp_path: Path, word: str) -> None:
    """Although it is process 1."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text(f"""
import os, signal, time
from nstool.service import handler

@handler
def handle(connection):
    os.kill(os.getpid(), signal.{word})
    time.sleep(30)
""")
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b""
        ends = one.until(lambda s: s["live"] == 0, "over")["generations"][0]["ends"]
    assert [end["status"] for end in ends if end["cause"] == "failed"] == [128 + signal.Signals[word] << 8]


def test_a_function_has_the_interpreter_that_nstool_has(name: str, tmp_path: Path) -> None:
    """With its own library, not with one of that name that the host has too."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text("""
import os, ssl, sys
from nstool.service import handler

@handler
def handle(connection):
    own = [name for name in ("LD_BIND_NOW", "NSTOOL_ZYGOTE") if name in os.environ]
    connection.sendall(f"{sys.version}{own}".encode())
""")
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == f"{sys.version}[]".encode()


def test_a_child_of_a_function_draws_random_numbers_of_its_own(name: str, tmp_path: Path) -> None:
    """Its pid is not the interpreter's, by which OpenSSL knows a copy."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text("""
import os, ssl
from nstool.service import handler

ssl.RAND_bytes(8)

@handler
def handle(connection):
    if os.fork() == 0:
        connection.sendall(ssl.RAND_bytes(16))
        os._exit(0)
    os.wait()
""")
    with serving.serving(spec, name) as one:
        assert len({ask(one.port()) for _ in range(4)}) == 4


def test_a_lock_of_a_function_is_its_threads(name: str, tmp_path: Path) -> None:
    """glibc writes into a mutex which thread has it: not the interpreter's, which a thread of the copy could be."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text("""
import ctypes, threading
from nstool.service import handler

@handler
def handle(connection):
    mutex = ctypes.create_string_buffer(64)  # PTHREAD_MUTEX_INITIALIZER is all zero: lock, count, owner
    assert ctypes.CDLL(None).pthread_mutex_lock(mutex) == 0
    connection.sendall(f"{int.from_bytes(mutex.raw[8:12], 'little')} {threading.get_native_id()}".encode())
""")
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == b"1 1"


def test_a_burst_of_calls_waits(name: str, tmp_path: Path) -> None:
    """What the interpreter has not made yet waits in the backlog; nobody is sent away."""
    python_service(tmp_path)
    words = 'shape = "python"\nhandler = "app.py"\nplaces = 400\nbacklog = 1024\nattest = "never"'
    maps = [f'{kind}_map = ["0:65532:1", "1000:65533:1"]' for kind in ("uid", "gid")]
    spec = write(tmp_path / "s.toml", TCP + words, *maps)
    with serving.serving(spec, name) as one:
        port = one.port()
        clients = [socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) for _ in range(400)]
        for client in clients:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            with client:
                assert client.recv(100).startswith(b"1 1000")
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["exited"] == 400


def test_a_function_has_the_libraries_that_nstool_has(name: str, tmp_path: Path) -> None:
    """Of its environment, also where the interpreter itself knows others, or none."""
    code = "import _cffi_backend, os\nfrom nstool.service import handler\n\n@handler\ndef handle(connection):\n"
    code += "    connection.sendall(str(os.stat(_cffi_backend.__file__).st_ino).encode())\n"
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text(code)
    with serving.serving(spec, name) as one:
        assert ask(one.port()) == str(os.stat(_cffi_backend.__file__).st_ino).encode()


def test_a_function_that_fails_is_told_and_counted(name: str, tmp_path: Path) -> None:
    """Its traceback is in the log, its status counts, and the next is called all the same."""
    with serving.serving(python_service(tmp_path), name) as one:
        port = one.port()
        assert [ask(port, b"fail"), ask(port, b"exit")] == [b"", b""]
        assert ask(port, b"fine").startswith(b"1 1000")
        assert one.until(lambda s: s["live"] == 0, "over")["ends"]["failed"] == 2
        end = time.monotonic() + DEADLINE
        while "RuntimeError: as it was told" not in one.log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert "RuntimeError: as it was told" in one.log.read_text()


def test_without_its_zygote_a_generation_is_replaced(name: str, tmp_path: Path) -> None:
    """The interpreter killed, the next generation has another."""
    with serving.serving(python_service(tmp_path), name) as one:
        port = one.port()
        template = one.status()["generations"][0]["pid"]
        zygote = Path(f"/proc/{template}/task/{template}/children").read_text().split()[0]
        os.kill(int(zygote), signal.SIGKILL)
        one.until(lambda s: s["generations"] and s["generations"][-1]["number"] == 2, "another")
        assert ask(port, b"again").startswith(b"1 1000")


def test_a_zygote_that_is_stopped_does_not_hold_an_end_up(name: str, tmp_path: Path) -> None:
    """Not where it is asked for a copy, and does not answer."""
    one = serving.start(python_service(tmp_path), name, tmp_path / "log")
    template = one.status()["generations"][0]["pid"]
    zygote = int(Path(f"/proc/{template}/task/{template}/children").read_text().split()[0])
    try:
        os.kill(zygote, signal.SIGSTOP)
        with socket.create_connection(("127.0.0.1", one.port()), timeout=DEADLINE):
            one.until(lambda s: s["live"] == 1, "it is asked")
            one.tell("stop", "--kill")
            assert one.process.wait(DEADLINE / 10) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(zygote, signal.SIGKILL)
        one.process.wait()


@pytest.mark.parametrize(
    ("code", "told"),
    [("", "0 functions have @handler"), ("import nosuchmodule", "nosuchmodule"), ("1/0", "ZeroDivisionError")],
)
def test_a_file_without_a_handler_is_no_service(name: str, tmp_path: Path, code: str, told: str) -> None:
    """What is wrong with the file is said before anybody connects."""
    spec = python_service(tmp_path)
    (tmp_path / "app.py").write_text(code)
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert done.returncode == 125
    assert told in done.stderr


def test_a_file_that_cannot_be_read_inside_is_refused(tmp_path: Path) -> None:
    """Nobody inside is its owner: said before anything is done, with what to do."""
    spec = python_service(tmp_path)
    tmp_path.chmod(0o700)
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert (done.returncode, "chmod o+rx" in done.stderr) == (2, True), done.stderr


# ---- as an ordinary user ----


def ask_at(path: Path) -> bytes:
    """The whole answer of a Unix socket."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(DEADLINE)
        one.connect(str(path))
        return b"".join(iter(lambda: one.recv(65536), b""))


@pytest.mark.needs("userns")
def test_a_user_can_relay(as_user: Callable[..., Any], user: User, name: str) -> None:
    """TCP to a command's port: no connection is given away, so nothing is asked of the kernel for it."""

    def act() -> bytes:
        path = Path(tempfile.mkdtemp(dir=user.home))
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        relayed = 'shape = "port"\nport = 7000'
        (path / "s.toml").write_text(f"{python(ECHO)}\n{none}\n[service]\n{TCP}places = 4\n{relayed}\n")
        with serving.serving(path / "s.toml", name) as one:
            answer = ask(one.port(), b"said")
        shutil.rmtree(path)
        return answer

    assert as_user(act, timeout=4 * DEADLINE) == b"said"


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.needs("userns")
@pytest.mark.parametrize("mapped", [pytest.param(False, marks=pytest.mark.needs("newuidmap")), True])
def test_a_user_can_serve(as_user: Callable[..., Any], user: User, name: str, mapped: bool) -> None:
    """With parts of the range of /etc/subuid, or with the one id that the user has: without limits, and attested."""

    def act() -> tuple[list[dict[str, str]], str]:
        path = Path(tempfile.mkdtemp(dir=user.home))
        maps = f'uid_map = ["1000:{user.uid}:1"]\ngid_map = ["1000:{user.gid}:1"]\ngroups = ["keep"]' if mapped else ""
        spec = path / "s.toml"
        none = "[limits]\nmemory = 0\npids = 0\ncpu = 0"
        # A kernel may let root only tie a TCP connection to its address: nstool/service/listen.py, tie.
        listen = f'listen = ["unix:{path}/socket"]'
        spec.write_text(f"{shell(TELL)}\n{maps}\n{none}\n[service]\n{listen}\nplaces = 4\n")
        with serving.serving(spec, name) as one:
            found = [fields(ask_at(path / "socket")) for _ in range(5)]
        shutil.rmtree(path)
        return found, one.name

    found, _ = as_user(act, timeout=4 * DEADLINE)
    assert {each["tmp"] for each in found} == {""}
    assert all(each["net"] != os.readlink("/proc/self/ns/net") for each in found)


def test_limits_of_a_users_service_are_refused(as_user: Callable[..., Any], user: User, name: str) -> None:
    """With the cause, and with what to write."""

    def act() -> tuple[int, str]:
        spec = user.home / f"{name}.toml"
        spec.write_text(f"command = ['/bin/cat']\n[service]\n{TCP}places = 4\n")
        done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
        spec.unlink()
        return done.returncode, done.stderr

    status, told = as_user(act)
    assert (status, "memory = 0" in told) == (125, True), told


# ---- what is refused ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "listen"),
        ('listen = ["tcp:localhost:80"]', "needs an address"),
        ('listen = ["tcp:[fe80::1]:80"]', "is an address of one link alone, where no service listens: tcp:[::]:80 for"),
        ('listen = ["udp:[fe80::1%lo]:80"]', "is an address of one link alone"),
        ('listen = ["udp:224.0.0.1:80"]', "is an address of a group, where no service listens: udp:0.0.0.0:80 for"),
        ('listen = ["tcp:127.0.0.1:99999"]', "needs a port"),
        ('listen = ["http:127.0.0.1:80"]', "is no listener"),
        ('listen = ["unix:relative"]', "absolute path"),
        (TCP + 'shape = "inetd"', "not one of stdio, socket, port, python"),
        (TCP + "places = 0", "not from 1 to 1024"),
        (TCP + "places = 2\nready = 3", "cannot wait in 2 places"),
        (TCP + 'life = "client"', 'shape = "port"'),
        (TCP + 'bandwidth = "1M"', 'shape = "port"'),
        (TCP + 'bandwidth = "8G"', "bytes a second"),
        (TCP + 'vary = ["uid"]', "not one of ids"),
        (TCP + 'shape = "python"', "needs the file"),
        (TCP + 'handler = "a.py"', 'only shape = "python"'),
        (TCP + "plces = 2", "did you mean"),
        (TCP + 'stop_signal = "TERMM"', "no signal"),
        (TCP + 'places = "many"', "expected"),
    ],
)
def test_a_bad_table_is_refused_by_line(tmp_path: Path, words: str, told: str) -> None:
    """One message that names the file, the line and the key; status 2; nothing is done."""
    spec = tmp_path / "s.toml"
    spec.write_text(f"command = ['/bin/cat']\n[service]\n{words}\n")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert str(spec) in done.stderr or "service.listen" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ('net = "bridge"', "net.mode"),
        ("root = {type = 'tmpfs', writable = true}", "throw-away"),
        ("namespaces = {user = 'host'}", "namespaces.user"),
        ("pass_fds = [5]", "pass_fds"),
        ('proc = "none"', "proc: the id maps"),
        ('mounts = ["/srv:/srv:idmap"]', "mounts[0].idmap"),
        ("root = {type = 'directory', path = '/srv', idmap = true}", "root.idmap"),
        ("root = {type = 'overlay', lower = ['/usr'], upper = '/tmp', writable = true}", "root.upper"),
    ],
)
def test_a_spec_that_no_service_can_have_is_refused(tmp_path: Path, words: str, told: str) -> None:
    """What would be shared by all sandboxes, or is made for one at a time."""
    spec = tmp_path / "s.toml"
    spec.write_text(f"command = ['/bin/cat']\n{words}\n[service]\n{TCP}\n")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("words", "service", "told"),
    [
        ('net = "host"', 'shape = "port"\nport = 80', "3: net"),
        ('env = {NSTOOL_CANARY = "x"}', 'vary = ["canary"]', "3: env.NSTOOL_CANARY"),
    ],
)
def test_what_does_not_go_with_the_service_is_refused_by_line(
    tmp_path: Path, words: str, service: str, told: str
) -> None:
    """Where it is written, also if it is what the [service] table asks for that it does not go with."""
    spec = tmp_path / "s.toml"
    spec.write_text(f"# a service\ncommand = ['/bin/cat']\n{words}\n[service]\n{TCP}{service}\n")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert (done.returncode, f"{spec}:{told}" in done.stderr) == (2, True), done.stderr


def test_an_address_in_use_is_said(name: str, tmp_path: Path) -> None:
    """Which listener, and the errno."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = write(
            tmp_path / "s.toml", f'listen = ["tcp:127.0.0.1:{taken.getsockname()[1]}"]', "command = ['/bin/cat']"
        )
        done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert done.returncode == 125
    assert "EADDRINUSE" in done.stderr


def test_a_command_that_is_not_there_is_said_before_anybody_connects(name: str, tmp_path: Path) -> None:
    """The first sandbox is tried: a service that cannot be is none."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/no/such/command']")
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert done.returncode in (125, 127)
    assert "/no/such/command" in done.stderr


def test_run_does_not_take_a_service(tmp_path: Path) -> None:
    """The other way round is told, too."""
    spec = write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']")
    done = subprocess.run([NSTOOL, "run", str(spec)], capture_output=True, text=True)
    assert (done.returncode, "nstool serve" in done.stderr) == (2, True), done.stderr
    spec.write_text("command = ['/bin/cat']\n")
    done = subprocess.run([NSTOOL, "serve", str(spec)], capture_output=True, text=True)
    assert (done.returncode, "[service]" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    "words", [("exec", "NAME", "--", "true"), ("stop", "NAME"), ("signal", "NAME"), ("show", "NAME")]
)
def test_what_is_for_sandboxes_is_told_that_it_is_a_service(name: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    """And with what it is steered; it goes on."""
    with serving.serving(write(tmp_path / "s.toml", TCP, "command = ['/bin/cat']"), name) as one:
        command = [NSTOOL, *(name if word == "NAME" else word for word in words)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, "nstool service" in done.stderr) == (2, True), done.stderr
        assert ask(one.port(), b"on") == b"on"


def test_what_commands_say_is_in_the_log(name: str, tmp_path: Path) -> None:
    """Standard error is no part of the connection, and a flood of it stops nobody."""
    script = 'read line; echo "said $line" >&2; [ $line = flood ] && head -c 30000000 /dev/zero >&2; echo over'
    with serving.serving(write(tmp_path / "s.toml", TCP, shell(script)), name) as one:
        assert ask(one.port(), b"words\n") == b"over\n"
        assert ask(one.port(), b"flood\n") == b"over\n"
        end = time.monotonic() + DEADLINE
        while "said words" not in one.log.read_text() and time.monotonic() < end:
            time.sleep(0.05)
        assert "said words" in one.log.read_text()
        assert one.log.stat().st_size < 8 << 20
