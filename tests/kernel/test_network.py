"""The network of sandboxes, between real network namespaces: a host, sandboxes, a machine outside."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import multiprocessing
import os
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nstool.errors import KernelError, NotSupported
from nstool.network import facts, links, sysctl
from nstool.network import plan as network
from nstool.network.external import HANDLERS
from nstool.network.preflight import preflight
from nstool.network.shared import Shared
from nstool.plan.lease import Lease
from nstool.plan.steps import LAUNCHER, UNDO
from nstool.sandbox.launch import prepare
from nstool.spec.model import Limits, Net, Publish, Spec
from tests.support import kernel, plans
from tests.support.child import run_in_child
from tests.support.workplace import entries

pytestmark = pytest.mark.needs("root", "ip", "nft", "veth", "bridge", "nat", "ipv6")

TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
HOST4, HOST6 = "192.0.2.1", "2001:db8::1"
OUTSIDE4, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
WAIT = 20.0  # seconds until a packet that should come counts as lost
NEVER = 0.3  # seconds in which a packet that should not come would have come


def sh(command: str, pid: int = 0) -> str:
    """Run a command, in the network namespace of ``pid`` if given, and return what it prints."""
    words = (["nsenter", "-t", str(pid), "-n"] if pid else []) + ["sh", "-ec", command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def joined(pid: int, function: Callable[[], Any]) -> Any:
    """Call a function in a thread that has joined the network namespace of ``pid``."""
    from pyroute2 import netns

    result: list[Any] = []

    def act() -> None:
        with open(f"/proc/{pid}/ns/net", "rb") as file:
            netns.setns(file.fileno())
        result.append(function())

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    return result[0]


def wait_up(pid: int) -> None:
    """Wait until the links of the host and of pid take packets, which the kernel sees to a moment after they are up."""
    deadline = time.monotonic() + 60
    for where in (0, pid):
        while any("LOWER_UP" in line and " state DOWN " in line for line in sh("ip -o link", where).splitlines()):
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Sandbox:
    """A network namespace with what the external steps gave it."""

    def __init__(self, lab: Lab, number: int, net: Net) -> None:
        self.pid = lab.namespace()
        subnet, hosts = ("10.201.0", 24) if net.mode == "bridge" else (f"10.200.{number}", 30)
        self.lease = Lease(
            name=f"box{number}",
            link=f"ns-t{number}",
            address=f"{subnet}.{number + 1 if net.mode == 'bridge' else 2}/{hosts}",
            gateway=f"{subnet}.1/{hosts}",
            address6=f"fd77:{subnet.split('.')[1]}::{number + 1:x}/64"
            if net.mode == "bridge"
            else f"fd77:0:0:{number:x}::2/126",
            gateway6=f"fd77:{subnet.split('.')[1]}::1/64" if net.mode == "bridge" else f"fd77:0:0:{number:x}::1/126",
        )
        self.context = SimpleNamespace(pid=self.pid, held=[])
        self.steps = network.steps(net, self.lease)
        self.ip4 = self.lease.address.partition("/")[0]
        self.ip6 = self.lease.address6.partition("/")[0]

    def make(self) -> None:
        self._run(LAUNCHER, self.steps, self.context)
        wait_up(self.pid)

    def undo(self, context: object = None) -> None:
        """Undo from the steps' arguments alone, as they come out of a journal."""
        self._run(UNDO, self.steps[::-1], context)

    def _run(self, who: str, steps: Any, context: object) -> None:
        for step in steps:
            if step.who == who:
                name, args = step.args
                HANDLERS[name](context, json.loads(json.dumps(args)))


class Lab:
    """A host of our own to act on: network and /run are this process's, all else is below it."""

    def __init__(self) -> None:
        kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/run", "tmpfs")
        # A new network namespace begins with the host's own settings, which another test may have changed.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        sh("ip link set lo up")
        self.processes: list[subprocess.Popen[str]] = []
        self.stack = contextlib.ExitStack()
        self.stack.callback(self._end)

    def _end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def namespace(self) -> int:
        """Return the pid of a process in a new network namespace."""
        words = ["unshare", "-n", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    @functools.cached_property
    def outside(self) -> int:
        """The pid of a process on another machine, one link away from the host."""
        pid = self.namespace()
        sh(f"""ip link add uplink type veth peer name eth0 netns {pid}; ip link set uplink addrgenmode none
            ip addr add {HOST4}/24 dev uplink; ip addr add {HOST6}/64 dev uplink nodad; ip link set uplink up""")
        sh(f"ip addr add {OUTSIDE4}/24 dev eth0; ip addr add {OUTSIDE6}/64 dev eth0 nodad; ip link set eth0 up", pid)
        wait_up(pid)
        return pid

    def sandbox(self, number: int = 1, **net: Any) -> Sandbox:
        sandbox = Sandbox(self, number, Net(**{"mode": "veth", **net}))
        sandbox.make()
        self.stack.callback(sandbox.undo, sandbox.context)
        return sandbox

    def socket(self, where: int, kind: int, address: str = "") -> socket.socket:
        """Return a socket in the namespace of pid ``where``, 0 for the host, of the family of address."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made: socket.socket = (
            joined(where, lambda: socket.socket(family, kind)) if where else socket.socket(family, kind)
        )
        made.settimeout(WAIT)
        self.stack.callback(made.close)
        return made

    def server(self, where: int, kind: int, address: str, port: int) -> socket.socket:
        server = self.socket(where, kind, address)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((address, port))
        if kind == TCP:
            server.listen()
        return server

    def ask(self, where: int, address: str, port: int, server: socket.socket, timeout: float = WAIT) -> str:
        """Say hello from ``where`` to address, expect it at the server, and the answer back.

        Return the client's address as the server sees it. Raises OSError if any of it fails.
        """
        kind = server.type
        client = self.socket(where, kind, address)
        client.settimeout(timeout)
        server.settimeout(timeout)
        client.connect((address, port))
        client.sendall(b"hello")
        if kind == TCP:
            end, peer = server.accept()
            with end:
                assert end.recv(9) == b"hello"
                end.sendall(b"answer")
                assert client.recv(9) == b"answer"
        else:
            data, peer = server.recvfrom(9)
            assert data == b"hello"
            server.sendto(b"answer", peer)
            assert client.recv(9) == b"answer"
        return str(peer[0])

    def refused(self, where: int, address: str, port: int, server: socket.socket) -> bool:
        """True if nothing that ``where`` sends to address gets to the server."""
        with pytest.raises(OSError):  # noqa: PT011, refused, unreachable or lost
            self.ask(where, address, port, server, timeout=NEVER)
        server.setblocking(False)
        try:
            server.accept() if server.type == TCP else server.recv(9)
        except BlockingIOError:
            return True
        return False


def in_lab(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a child that has a Lab of its own."""

    @functools.wraps(test)
    def run(**kwargs: Any) -> None:
        def act() -> None:
            lab = Lab()
            with lab.stack:
                test(lab, **kwargs)

        run_in_child(act)

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for a fixture "lab"
    run.__signature__ = _without_lab(test)  # type: ignore[attr-defined]
    return run


def _without_lab(test: Callable[..., None]) -> Any:
    import inspect

    signature = inspect.signature(test)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def traces() -> dict[str, str]:
    """All that the network room could leave on a host."""
    paths = [
        os.path.join(top, name)
        for family in ("ipv4", "ipv6")
        for top, _, names in os.walk(f"/proc/sys/net/{family}")
        for name in names
        if name in ("ip_forward", "forwarding", "accept_ra", "route_localnet", "accept_redirects", "rp_filter")
    ]
    values = {path: open(path).read() for path in sorted(paths)}  # noqa: SIM115
    return {
        "links": sh("ip -o link | sed 's/@.*//'"),
        "addresses": sh("ip -o addr show scope global | awk '{print $2, $4}'"),
        "routes": sh("ip route show table all; ip -6 route show table all"),
        "rules": sh("nft list ruleset"),
        "run": " ".join(entries("/run")) + ":" + " ".join(entries("/run/nstool")),
        **values,
    }


PORTS = (
    Publish(8080, 80),
    Publish(5353, 53, "udp"),
)


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@pytest.mark.parametrize("kind", [TCP, UDP])
@in_lab
def test_published_port_is_reached_from_everywhere(lab: Lab, kind: int, mode: str) -> None:
    """By 127.0.0.1 and ::1, by the host's own addresses, and from another machine; TCP and UDP."""
    outside = lab.outside
    box = lab.sandbox(mode=mode, publish=PORTS)
    published, inside = (8080, 80) if kind == TCP else (5353, 53)
    four = lab.server(box.pid, kind, "0.0.0.0", inside)
    six = lab.socket(box.pid, kind, "::")
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.bind(("::", inside))
    if kind == TCP:
        six.listen()
    assert lab.ask(outside, HOST4, published, four) == OUTSIDE4
    assert lab.ask(outside, HOST6, published, six) == OUTSIDE6
    assert lab.ask(0, "127.0.0.1", published, four) == box.lease.gateway.partition("/")[0]
    assert lab.ask(0, HOST4, published, four) == HOST4
    bridge_netfilter(False)
    assert lab.ask(0, "::1", published, six) == box.lease.gateway6.partition("/")[0]
    assert lab.ask(0, HOST6, published, six) == HOST6


def bridge_netfilter(on: bool) -> None:
    """Set whether bridged packets go through the inet chains too; nothing if br_netfilter is absent."""
    for family in ("iptables", "ip6tables", "arptables"):
        if os.path.exists(f"/proc/sys/net/bridge/bridge-nf-call-{family}"):
            sysctl.write(f"net/bridge/bridge-nf-call-{family}", str(int(on)))


@pytest.mark.needs("br_netfilter")
@in_lab
def test_ipv6_loopback_on_a_bridge_is_refused_where_it_cannot_work(lab: Lab) -> None:
    """br_netfilter translates the answer to ::1 before the kernel looks for that address on the wire."""
    net = Net(mode="bridge", publish=(Publish(8080, 80, address="::1"),))
    bridge_netfilter(False)
    assert list(preflight(net)) == []
    bridge_netfilter(True)
    (found,) = preflight(net)
    assert "bridge-nf-call-ip6tables" in found.cause


@in_lab
def test_port_published_on_one_address_is_on_no_other(lab: Lab) -> None:
    """``address`` of a published port is where it can be reached; forwarding stays off for loopback."""
    outside = lab.outside
    box = lab.sandbox(publish=(Publish(8080, 80, address="127.0.0.1"), Publish(8080, 80, address="::1")), nat=False)
    four = lab.server(box.pid, TCP, "0.0.0.0", 80)
    lab.ask(0, "127.0.0.1", 8080, four)
    assert lab.refused(0, HOST4, 8080, four)
    assert lab.refused(outside, HOST4, 8080, four)
    assert sysctl.read("net/ipv4/ip_forward") == "0"
    assert sysctl.read("net/ipv6/conf/all/forwarding") == "0"


@in_lab
def test_packet_from_outside_to_127_0_0_1_reaches_no_published_port(lab: Lab) -> None:
    """A neighbour that writes 127.0.0.1 on its packets gets at nothing that is published for the host alone."""
    outside = lab.outside
    box = lab.sandbox(publish=(Publish(5353, 53, "udp"),))
    server = lab.server(box.pid, UDP, "0.0.0.0", 53)
    mac = json.loads(sh("ip -j link show uplink"))[0]["address"]
    raw = joined(outside, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    lab.stack.callback(raw.close)
    raw.bind(("eth0", 0x0800))
    for target, text in (("127.0.0.1", b"attack"), (HOST4, b"proper")):
        raw.send(udp_frame(mac, target, text))
    assert server.recv(9) == b"proper"  # the first that came


def udp_frame(mac: str, target: str, data: bytes) -> bytes:
    """Return an Ethernet frame with a UDP packet from OUTSIDE4 to port 5353 of target. RFC 768, RFC 791."""
    udp = struct.pack("!HHHH", 4000, 5353, 8 + len(data), 0) + data
    ends = socket.inet_aton(OUTSIDE4) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0) + ends
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = struct.pack("!H", ~total & 0xFFFF)
    return bytes.fromhex(mac.replace(":", "")) + b"\2\0\0\0\0\1\x08\x00" + header[:10] + checksum + header[12:] + udp


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@in_lab
def test_nat_leads_out_under_the_address_of_the_host(lab: Lab, mode: str) -> None:
    """The outside sees the host's address, IPv4 and IPv6; it has no route to the sandbox's."""
    outside = lab.outside
    box = lab.sandbox(mode=mode)
    assert lab.ask(box.pid, OUTSIDE4, 7000, lab.server(outside, TCP, OUTSIDE4, 7000)) == HOST4
    assert lab.ask(box.pid, OUTSIDE6, 7000, lab.server(outside, TCP, OUTSIDE6, 7000)) == HOST6
    assert lab.ask(box.pid, OUTSIDE4, 7001, lab.server(outside, UDP, OUTSIDE4, 7001)) == HOST4


@in_lab
def test_without_nat_there_is_no_way_out(lab: Lab) -> None:
    """nat = false: not even a packet without an answer gets out, though the host forwards for another."""
    outside = lab.outside
    lab.sandbox(2)
    box = lab.sandbox(1, nat=False)
    sh("ip route add 10.200.0.0/16 via 192.0.2.1", outside)
    assert lab.refused(box.pid, OUTSIDE4, 7000, lab.server(outside, TCP, OUTSIDE4, 7000))
    assert lab.refused(box.pid, OUTSIDE4, 7001, lab.server(outside, UDP, OUTSIDE4, 7001))


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@pytest.mark.parametrize("isolated", [True, False])
@in_lab
def test_isolated_sandbox_reaches_neither_host_nor_sandboxes(lab: Lab, isolated: bool, mode: str) -> None:
    """By no address of the host, by no published port of another; with isolated = false by all."""
    assert lab.outside
    bridge_netfilter(False)
    box = lab.sandbox(1, mode=mode, isolated=isolated)
    other = lab.sandbox(2, mode=mode, isolated=isolated, publish=PORTS)
    host4, host6 = lab.server(0, TCP, "0.0.0.0", 9000), lab.server(0, TCP, "::", 9001)
    their4, their6 = lab.server(other.pid, TCP, "0.0.0.0", 80), lab.server(other.pid, UDP, "::", 53)
    gateway, gateway6 = (text.partition("/")[0] for text in (box.lease.gateway, box.lease.gateway6))
    for address, port, server in (
        (gateway, 9000, host4),
        (HOST4, 9000, host4),
        (gateway6, 9001, host6),
        (HOST6, 9001, host6),
        (other.ip4, 80, their4),
        (other.ip6, 53, their6),
        (HOST4, 8080, their4),
        (HOST6, 5353, their6),
    ):
        if isolated:
            assert lab.refused(box.pid, address, port, server), (address, port)
        else:
            lab.ask(box.pid, address, port, server)


@in_lab
def test_isolation_on_a_bridge_holds_against_an_open_neighbour(lab: Lab) -> None:
    """The bridge's own isolated flag lets an isolated port talk to one that is not; the rules do not."""
    bridge_netfilter(False)
    box, other = lab.sandbox(1, mode="bridge"), lab.sandbox(2, mode="bridge", isolated=False)
    assert lab.refused(box.pid, other.ip4, 80, lab.server(other.pid, TCP, "0.0.0.0", 80))
    assert lab.refused(other.pid, box.ip4, 80, lab.server(box.pid, TCP, "0.0.0.0", 80))


@in_lab
def test_sandbox_is_not_reached_from_outside_but_by_published_ports(lab: Lab) -> None:
    """A neighbour of the host that sets a route to the sandbox's address gets nothing through."""
    outside = lab.outside
    box = lab.sandbox(publish=PORTS)
    sh("ip route add 10.200.0.0/16 via 192.0.2.1", outside)
    server = lab.server(box.pid, TCP, "0.0.0.0", 80)
    assert lab.refused(outside, box.ip4, 80, server)
    lab.ask(outside, HOST4, 8080, server)


@in_lab
def test_metadata_service_is_out_of_reach(lab: Lab) -> None:
    """169.254.169.254 gives out a cloud host's credentials; its name server at port 53 is let through."""
    outside = lab.outside
    sh("ip addr add 169.254.169.254/16 dev eth0", outside)
    sh("ip route add 169.254.0.0/16 dev uplink src 192.0.2.1")
    box = lab.sandbox()
    assert lab.refused(box.pid, "169.254.169.254", 80, lab.server(outside, TCP, "0.0.0.0", 80))
    lab.ask(box.pid, "169.254.169.254", 53, lab.server(outside, UDP, "169.254.169.254", 53))


@pytest.mark.parametrize(
    "address", ["168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]
)
@in_lab
def test_so_are_those_of_other_clouds(lab: Lab, address: str) -> None:
    """The first is a name server, too."""
    outside, length = lab.outside, 128 if ":" in address else 32
    sh(f"ip addr add {address}/{length} dev eth0 {'nodad' if length == 128 else ''}", outside)
    sh(f"ip route add {address}/{length} via {OUTSIDE6 if length == 128 else OUTSIDE4}")
    box = lab.sandbox(ipv6=True)
    assert lab.refused(box.pid, address, 80, lab.server(outside, TCP, address, 80))
    if address == "168.63.129.16":
        lab.ask(box.pid, address, 53, lab.server(outside, UDP, address, 53))
    assert lab.ask(0, address, 81, lab.server(outside, TCP, address, 81))


@pytest.mark.parametrize("whose", ["the host's", "a sandbox's"])
@pytest.mark.parametrize("version", [4, 6])
@in_lab
def test_a_sandbox_has_no_port_of_the_hosts_addresses(lab: Lab, whose: str, version: int) -> None:
    """It cannot get what another machine sends to a service of the host, or to a published port: CVE-2021-3773."""
    outside, port = lab.outside, 5353
    host, away, every = (HOST4, OUTSIDE4, "0.0.0.0") if version == 4 else (HOST6, OUTSIDE6, "::")
    if whose == "the host's":
        service = lab.server(0, UDP, every, port)
    else:
        victim = lab.sandbox(2, ipv6=True, publish=(Publish(port, port, "udp"),))
        service = lab.server(victim.pid, UDP, every, port)
    box = lab.sandbox(1, ipv6=True)
    peer, attacker = lab.server(outside, UDP, away, port), lab.server(box.pid, UDP, every, port)
    attacker.sendto(b"knock", (away, port))
    _, seen = peer.recvfrom(9)
    assert (seen[0], seen[1] >= 61000) == (host, True)
    peer.sendto(b"secret", (host, port))
    assert service.recvfrom(9)[0] == b"secret"
    attacker.setblocking(False)
    with pytest.raises(BlockingIOError):
        attacker.recv(9)


@in_lab
def test_connections_of_a_sandbox_are_so_many_at_most(lab: Lab) -> None:
    """The host's table of connections has room for others."""
    outside = lab.outside
    box, other = lab.sandbox(1), lab.sandbox(2)
    away = lab.socket(box.pid, UDP)
    for number in range(9000):
        away.sendto(b"x", (OUTSIDE4, 1000 + number))
    assert 8192 <= int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text()) <= 8192 + 10
    assert lab.refused(box.pid, OUTSIDE4, 80, lab.server(outside, TCP, OUTSIDE4, 80))
    lab.ask(other.pid, OUTSIDE4, 81, lab.server(outside, TCP, OUTSIDE4, 81))


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@in_lab
def test_spoofed_source_address_is_dropped(lab: Lab, mode: str) -> None:
    """A sandbox that may change its addresses still sends under no other: not free, not another's."""
    lab.sandbox(2, mode=mode)
    box = lab.sandbox(1, mode=mode, isolated=False)
    if mode == "veth":
        sysctl.write("net/ipv4/conf/ns-t1/rp_filter", "0")  # a second guard, and not the one to see here
    server = lab.server(0, UDP, "0.0.0.0", 9000)
    prefix = box.ip4.rpartition(".")[0]
    for spoofed in (f"{prefix}.99", "10.200.2.2", "10.201.0.3", "8.8.8.8"):
        sh(f"ip addr add {spoofed}/32 dev eth0", box.pid)
        client = lab.socket(box.pid, UDP)
        client.bind((spoofed, 0))
        client.sendto(b"spoofed", (box.lease.gateway.partition("/")[0], 9000))
    client = lab.socket(box.pid, UDP)
    client.bind((box.ip4, 0))
    client.sendto(b"proper", (box.lease.gateway.partition("/")[0], 9000))
    assert server.recv(9) == b"proper"


@in_lab
def test_spoofed_mac_address_is_dropped_on_a_bridge(lab: Lab) -> None:
    """The bridge would learn another sandbox's address at this port and hand over its packets."""
    box = lab.sandbox(1, mode="bridge", isolated=False)
    server = lab.server(0, UDP, "0.0.0.0", 9000)
    client = lab.socket(box.pid, UDP)
    client.connect(("10.201.0.1", 9000))
    client.send(b"before")
    assert server.recv(9) == b"before"
    for mac, text in (("02:00:00:00:00:77", b"spoofed"), (network.mac_address("inside", box.lease.address), b"proper")):
        sh(f"ip link set eth0 address {mac}", box.pid)
        client.send(text)
    assert server.recv(9) == b"proper"


@in_lab
def test_sandbox_cannot_send_to_loopback_addresses_of_the_host(lab: Lab) -> None:
    """route_localnet opens 127.0.0.0/8 to a device; the rules close it again, also when not isolated."""
    box = lab.sandbox(isolated=False, publish=PORTS)
    assert sysctl.read("net/ipv4/conf/ns-t1/route_localnet") == "1"
    sh(
        "sysctl -qw net.ipv4.conf.eth0.route_localnet=1; ip rule add pref 0 lookup 77; ip rule del pref 0 lookup local",
        box.pid,
    )
    sh("ip rule add pref 9 lookup local; ip route add 127.0.0.9/32 via 10.200.1.1 src 10.200.1.2 table 77", box.pid)
    server = lab.server(0, UDP, "0.0.0.0", 9000)
    sh("ip addr add 127.0.0.9/32 dev lo")
    client = lab.socket(box.pid, UDP)
    client.bind((box.ip4, 0))
    client.sendto(b"attack", ("127.0.0.9", 9000))
    client.sendto(b"proper", ("10.200.1.1", 9000))
    assert server.recv(9) == b"proper"


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@pytest.mark.parametrize("gone", [False, True])
@in_lab
def test_undo_leaves_nothing_also_when_run_twice(lab: Lab, gone: bool, mode: str) -> None:
    """Links, addresses, rules, sysctls, files are as before; also when the sandbox went first."""
    assert lab.outside
    before = traces()
    box = lab.sandbox(mode=mode, publish=PORTS)
    during = traces()
    assert {"links", "addresses", "rules", "run", "/proc/sys/net/ipv4/ip_forward"} <= {
        key for key, value in before.items() if during[key] != value
    }
    if gone:
        lab.processes[-1].kill()
        lab.processes[-1].wait()
    box.undo()
    assert traces() == before
    box.undo()
    assert traces() == before


@in_lab
def test_every_prefix_of_the_steps_can_be_undone(lab: Lab) -> None:
    """A launcher killed after any step leaves what its journal undoes, step not done or done."""
    assert lab.outside
    before = traces()
    box = Sandbox(lab, 1, Net(mode="bridge", publish=PORTS))
    made = [step for step in box.steps if step.who == LAUNCHER]
    assert len(made) == 4
    for count in range(len(made)):
        for step in made[:count]:
            HANDLERS[step.args[0]](SimpleNamespace(pid=box.pid, held=box.context.held), step.args[1])
        box.undo(box.context)
        assert traces() == before, f"after {count} steps"


@in_lab
def test_undo_takes_no_link_of_another(lab: Lab) -> None:
    """A device that bears the name by chance is left alone: what is ours is known by its address."""
    sh("ip link add ns-t1 type veth peer name other")
    box = Sandbox(lab, 1, Net(mode="veth"))
    box.undo()
    assert "ns-t1@other" in sh("ip -o link")


@in_lab
def test_port_in_use_names_the_owner_and_nothing_is_done(lab: Lab) -> None:
    """A process by pid and command, another sandbox by name; by preflight and by the step itself."""
    assert lab.outside
    lab.server(0, TCP, "127.0.0.1", 8080)
    before = traces()
    me = rf"in use by pid {os.getpid()} \("
    with pytest.raises(NotSupported, match=me):
        lab.sandbox(publish=PORTS)
    Sandbox(lab, 1, Net(mode="veth", publish=PORTS)).undo()
    assert traces() == before
    (found,) = preflight(Net(mode="veth", publish=PORTS))
    assert f"pid {os.getpid()}" in found.cause
    assert "0.0.0.0:8080/tcp" in found.what


@in_lab
def test_port_of_another_sandbox_names_it(lab: Lab) -> None:
    """Also when its launcher has gone and nobody holds the port bound; also on one address of all."""
    box = lab.sandbox(1, publish=PORTS)
    for sock in box.context.held:
        sock.close()
    other = Sandbox(lab, 2, Net(mode="veth", publish=(Publish(8080, 81, address="127.0.0.1"),)))
    with pytest.raises(NotSupported, match="in use by sandbox box1"):
        other.make()
    other.undo()
    lab.ask(0, "127.0.0.1", 8080, lab.server(box.pid, TCP, "0.0.0.0", 80))


@in_lab
def test_published_port_is_held_until_undone(lab: Lab) -> None:
    """Nobody else binds it meanwhile: it would wait in vain for packets that go to the sandbox."""
    box = lab.sandbox(publish=PORTS)
    for kind, port in ((TCP, 8080), (UDP, 5353)):
        with pytest.raises(OSError, match="in use"):
            lab.server(0, kind, "0.0.0.0", port)
    box.undo(box.context)
    for kind, port in ((TCP, 8080), (UDP, 5353)):
        lab.server(0, kind, "0.0.0.0", port)


@in_lab
def test_port_with_an_ended_connection_can_be_published(lab: Lab) -> None:
    """TIME-WAIT of a service that was there before keeps no port."""
    server = lab.server(0, TCP, "127.0.0.1", 8080)
    client = lab.socket(0, TCP)
    client.connect(("127.0.0.1", 8080))
    end, _ = server.accept()
    end.close()  # the side that closes first waits
    client.close()
    server.close()
    assert "TIME-WAIT" in sh("ss -Htan sport = 8080")
    box = lab.sandbox(publish=PORTS)
    lab.ask(0, "127.0.0.1", 8080, lab.server(box.pid, TCP, "0.0.0.0", 80))


@in_lab
def test_address_that_is_not_the_hosts_is_refused(lab: Lab) -> None:
    """Publishing on an address of somebody else would never be reached."""
    (found,) = preflight(Net(mode="veth", publish=(Publish(8080, 80, address="198.51.100.1"),)))
    assert "198.51.100.1 is not an address of this host" in found.cause


@in_lab
@pytest.mark.parametrize(
    ("net", "other"),
    [
        (Net(mode="veth", address="192.0.2.77/24", gateway="192.0.2.2"), "192.0.2.0/24"),
        (Net(mode="bridge", address="192.0.2.77/24", gateway="192.0.2.2"), "192.0.2.0/24"),
        (Net(mode="veth", address="203.0.113.6/30"), "203.0.113.7/32"),
        (Net(mode="veth", address="10.5.1.2/30"), "10.5.0.0/16"),
        (Net(mode="veth", address6="2001:db8::77/64"), "2001:db8::/64"),
    ],
)
def test_network_that_the_host_reaches_otherwise_is_refused(lab: Lab, net: Net, other: str) -> None:
    """A second way there would take the host's packets: before anything is done, by check and run alike."""
    assert lab.outside
    sh("ip addr add 203.0.113.7/32 dev lo; ip route add 10.5.0.0/16 via 192.0.2.2; ip route add 0.0.0.0/1 dev uplink")
    before = traces()
    (found,) = preflight(net)
    assert f"overlaps {other}" in found.cause
    with pytest.raises(NotSupported) as refused:
        prepare(Spec(command=("true",), net=net, limits=Limits(memory=0, pids=0, cpu=0)))
    assert str(refused.value) == str(found)
    assert traces() == before
    assert not list(preflight(Net(mode="veth", address="10.6.1.2/30")))


@in_lab
def test_udp_client_of_an_ended_sandbox_gets_to_its_successor(lab: Lab) -> None:
    """The tracked flow of a client that goes on sending must not lead to the old address."""
    outside = lab.outside
    client = lab.socket(outside, UDP)
    client.connect((HOST4, 5353))
    for number in (1, 2):
        box = lab.sandbox(number, publish=PORTS)
        server = lab.server(box.pid, UDP, "0.0.0.0", 53)
        client.send(b"hello")
        assert server.recv(9) == b"hello"
        box.undo(box.context)


@in_lab
def test_only_the_connections_of_a_sandbox_that_has_gone_are_forgotten(lab: Lab) -> None:
    """Its own to the world, those to its address, those to its published port, IPv4 and IPv6; nobody else's."""
    outside = lab.outside
    box = lab.sandbox(publish=PORTS)
    for any_, host, out, own in (("0.0.0.0", HOST4, OUTSIDE4, box.ip4), ("::", HOST6, OUTSIDE6, box.ip6)):
        inside = lab.server(box.pid, UDP, any_, 53)
        lab.ask(outside, host, 5353, inside)
        lab.ask(0, own, 53, inside)
        lab.ask(box.pid, out, 53, lab.server(outside, UDP, out, 53))
        lab.ask(outside, host, 9000, lab.server(0, UDP, host, 9000))
    others = {(OUTSIDE4, HOST4, 9000), (OUTSIDE6, HOST6, 9000)}
    assert len(tracked() - others) == 6
    box.undo(box.context)
    assert tracked() == others


def tracked() -> set[tuple[str, str, int]]:
    """From where to where the kernel tracks UDP flows, by the first packet of each: addresses and port."""
    from pyroute2 import NFCTSocket
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    with NFCTSocket(nfgen_family=socket.AF_UNSPEC) as conntrack:
        origins = [
            NFCTAttrTuple.from_netlink(entry["nfgen_family"], entry.get_attr("CTA_TUPLE_ORIG"))
            for entry in conntrack.dump()
        ]
    return {(one.saddr, one.daddr, one.dport) for one in origins if one.proto == socket.IPPROTO_UDP}


@in_lab
def test_forwarding_goes_off_with_the_last_that_needs_it(lab: Lab) -> None:
    """And what the host had set by device comes back with it."""
    assert lab.outside
    sysctl.write("net/ipv4/conf/uplink/forwarding", "1")
    sysctl.write("net/ipv6/conf/uplink/accept_ra", "1")
    before = traces()
    first, second = lab.sandbox(1), lab.sandbox(2)
    assert sysctl.read("net/ipv6/conf/uplink/accept_ra") == "2"
    first.undo()
    assert sysctl.read("net/ipv4/ip_forward") == sysctl.read("net/ipv6/conf/all/forwarding") == "1"
    second.undo()
    assert traces() == before
    assert sysctl.read("net/ipv4/conf/uplink/forwarding") == "1"


@in_lab
def test_forwarding_that_was_on_stays_on(lab: Lab) -> None:
    """The host is a router without us."""
    sysctl.write("net/ipv4/ip_forward", "1")
    lab.sandbox().undo()
    assert sysctl.read("net/ipv4/ip_forward") == "1"


@in_lab
def test_flushed_ruleset_is_made_anew_by_the_next_change(lab: Lab) -> None:
    """``nft flush ruleset``, as a firewall service does at reload, takes our table; the next one brings all back."""
    assert lab.outside
    before = traces()
    boxes = [lab.sandbox(1, publish=PORTS)]
    sh("nft flush ruleset")
    boxes.append(lab.sandbox(2))
    lab.ask(0, "127.0.0.1", 8080, lab.server(boxes[0].pid, TCP, "0.0.0.0", 80))
    assert lab.refused(boxes[0].pid, "10.200.1.1", 9000, lab.server(0, TCP, "0.0.0.0", 9000))
    sh("nft flush ruleset")
    for box in boxes:
        box.undo(box.context)
    after = traces()
    assert after == before


@in_lab
def test_rules_of_others_stay(lab: Lab) -> None:
    """Our table comes and goes; the rest of the ruleset is the administrator's."""
    sh("nft add table inet mine; nft add chain inet mine c '{ type filter hook input priority 0; }'")
    before = sh("nft list ruleset")
    box = lab.sandbox(publish=PORTS)
    assert before.strip() in sh("nft list ruleset")
    box.undo()
    assert sh("nft list ruleset") == before


def host_bridge() -> None:
    """Make a bridge that is not nstool's, with a port whose address it bears; none with routes that come later."""
    sh("""ip link add br0 type bridge
        ip link add d0 address 52:54:00:00:00:01 type veth peer d1; ip link set d0 master br0
        for link in br0 d0 d1; do ip link set $link addrgenmode none; done
        ip addr add 172.20.0.1/24 dev br0; ip link set br0 up; ip link set d0 up; ip link set d1 up""")


@in_lab
def test_bridge_of_the_host_is_used_but_not_kept(lab: Lab) -> None:
    """A bridge that was there gets a port and stays as it was; our addresses are not for it."""
    host_bridge()
    (found,) = preflight(Net(mode="bridge", bridge="br0"))
    assert "was there before" in found.cause
    (found,) = preflight(Net(mode="bridge", bridge="br0", address="172.20.0.5/24"))
    assert "was there before" in found.cause
    assert not list(preflight(Net(mode="bridge", bridge="br0", address="172.20.0.5/24", gateway="172.20.0.1")))
    before = traces()
    box = lab.sandbox(
        mode="bridge", bridge="br0", address="172.20.0.5/24", gateway="172.20.0.1", ipv6=False, isolated=False
    )
    assert "52:54:00:00:00:01" in sh("ip -o link show br0")
    box_server = lab.server(box.pid, TCP, "0.0.0.0", 80)
    lab.ask(0, "172.20.0.5", 80, box_server)
    lab.ask(box.pid, "172.20.0.1", 9000, lab.server(0, TCP, "0.0.0.0", 9000))
    box.undo()
    assert traces() == before


@in_lab
def test_isolation_holds_on_a_bridge_of_the_host(lab: Lab) -> None:
    """The host's own services are out of reach also where the bridge is not ours."""
    host_bridge()
    box = lab.sandbox(mode="bridge", bridge="br0", address="172.20.0.5/24", gateway="172.20.0.1", ipv6=False)
    lab.ask(0, "172.20.0.5", 80, lab.server(box.pid, TCP, "0.0.0.0", 80))
    assert lab.refused(box.pid, "172.20.0.1", 9000, lab.server(0, TCP, "0.0.0.0", 9000))


@in_lab
def test_bridge_goes_with_its_last_port(lab: Lab) -> None:
    """Made by the first, kept for the second."""
    first, second = lab.sandbox(1, mode="bridge"), lab.sandbox(2, mode="bridge")
    first.undo()
    assert "ns-br0" in sh("ip -o link")
    lab.ask(0, second.ip4, 80, lab.server(second.pid, TCP, "0.0.0.0", 80))
    second.undo()
    assert "ns-br0" not in sh("ip -o link")


@in_lab
def test_parallel_launches_do_not_disturb_one_another(lab: Lab) -> None:
    """Four processes make and undo sandboxes at once; one that stays keeps its network; nothing is left."""
    assert lab.outside
    before = traces()
    stays = lab.sandbox(9, publish=PORTS)
    server = lab.server(stays.pid, TCP, "0.0.0.0", 80)
    boxes = [Sandbox(lab, number, Net(mode="bridge" if number % 2 else "veth")) for number in range(1, 5)]

    def work(box: Sandbox) -> None:
        for _ in range(4):
            box.make()
            box.undo(box.context)

    workers = [multiprocessing.get_context("fork").Process(target=work, args=(box,)) for box in boxes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    lab.ask(lab.outside, HOST4, 8080, server)
    stays.undo(stays.context)
    assert traces() == before


@in_lab
def test_killed_holder_of_the_lock_frees_it(lab: Lab) -> None:
    """SIGKILL in the middle of a change keeps nobody waiting, and what was recorded is undone."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with Shared() as shared:
            shared.state["forwarding"] = {"4": {"links": {"ns-t1": ""}, "before": [["net/ipv4/ip_forward", "0"]]}}
            shared.save()
            os.write(writer, b"locked")
            threading.Event().wait()
    assert os.read(reader, 9) == b"locked"
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    sysctl.write("net/ipv4/ip_forward", "1")
    HANDLERS["forwarding_release"](None, {"link": "ns-t1", "name": "box1", "families": ["4"]})
    assert sysctl.read("net/ipv4/ip_forward") == "0"
    assert not os.path.exists("/run/nstool")


# ---- what nobody undoes: the journal was removed by hand ----


def launched_and_killed(lab: Lab, number: int, **net: Any) -> Sandbox:
    """A sandbox whose launcher was killed, and whose journal is in no run directory."""
    box = Sandbox(lab, number, Net(**{"mode": "veth", **net}))
    pid = os.fork()
    if pid == 0:
        box.make()
        os.kill(os.getpid(), 9)
    assert os.waitpid(pid, 0)[1] == 9
    return box


def end(lab: Lab, box: Sandbox) -> None:
    """End the processes of a sandbox, and wait until its link has gone with its namespace."""
    process = next(process for process in lab.processes if process.pid == box.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60  # the kernel removes namespaces one after the other, those of others too
    while box.lease.link in links.names():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


REMOVED = {"nothing": (), "the state": ("network-*",), "all": ("*",)}


@pytest.mark.parametrize("removed", REMOVED)
@pytest.mark.parametrize("mode", ["veth", "bridge"])
@pytest.mark.parametrize("way", ["cleanup", "launch", "end"])
@in_lab
def test_sandbox_without_a_journal_is_undone_by_the_next(lab: Lab, way: str, mode: str, removed: str) -> None:
    """Rules, ports, forwarding, bridge; and nothing of one that lives, whose files are gone as well."""
    assert lab.outside
    sysctl.write("net/ipv4/conf/uplink/forwarding", "1")
    before = traces()
    dead = launched_and_killed(lab, 1, mode=mode, publish=PORTS)
    stays = lab.sandbox(2, mode=mode, publish=(Publish(8081, 80),))
    other = lab.sandbox(3) if way == "end" else None
    end(lab, dead)
    for pattern in REMOVED[removed]:
        for path in Path("/run/nstool").glob(pattern):
            shutil.rmtree(path)
    if way == "cleanup":
        cleaned = {one.name for one in plans.cleaned()}
        assert cleaned == {"box1"}
    elif other is not None:
        other.undo(other.context)
    else:
        other = lab.sandbox(3, publish=PORTS)  # the same ports
        other.undo(other.context)
    rules = sh("nft list ruleset")
    assert dead.ip4 not in rules
    assert dead.lease.link not in rules
    lab.ask(lab.outside, HOST4, 8081, lab.server(stays.pid, TCP, "0.0.0.0", 80))
    assert lab.refused(stays.pid, "10.200.1.1", 9000, lab.server(0, TCP, "0.0.0.0", 9000))
    stays.undo(stays.context)
    assert traces() == before


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@in_lab
def test_last_sandbox_without_a_journal_is_cleaned_up(lab: Lab, mode: str) -> None:
    """Nothing but the kernel knows of it, and what the sysctls were before; a second cleanup finds nothing."""
    assert lab.outside
    sysctl.write("net/ipv4/conf/uplink/forwarding", "1")
    sysctl.write("net/ipv6/conf/uplink/accept_ra", "1")
    before = traces()
    end(lab, launched_and_killed(lab, 1, mode=mode, publish=PORTS, isolated=False))
    assert traces() != before
    for path in Path("/run/nstool").iterdir():
        shutil.rmtree(path)
    assert [one.name for one in plans.cleaned()] == ["box1"]
    assert traces() == before
    assert plans.cleaned() == ()


@in_lab
def test_sandbox_with_a_journal_is_left_to_its_run_directory(lab: Lab) -> None:
    """Another run directory's cleanup undoes it by its journal; of a living one nothing is touched either."""
    Path("/run/other/sandboxes/box1").mkdir(parents=True)
    os.chmod("/run/other", 0o700)
    mine = os.environ["NSTOOL_RUN_DIR"]
    os.environ["NSTOOL_RUN_DIR"] = "/run/other"
    box = launched_and_killed(lab, 1, publish=PORTS)
    end(lab, box)
    os.environ["NSTOOL_RUN_DIR"] = mine
    before = traces()
    assert plans.cleaned() == ()
    assert traces() == before
    os.rmdir("/run/other/sandboxes/box1")
    assert [one.name for one in plans.cleaned()] == ["box1"]


@in_lab
def test_link_of_a_kept_namespace_goes_with_its_sandbox(lab: Lab) -> None:
    """Its last process has ended, and a file of the namespace is open somewhere: that does not make it live."""
    before = traces()
    box = launched_and_killed(lab, 1)
    with open(f"/proc/{box.pid}/ns/net", "rb"):
        assert plans.cleaned() == ()  # a process is in it
        process = next(process for process in lab.processes if process.pid == box.pid)
        process.kill()
        process.wait()
        assert box.lease.link in links.names()
        assert [one.name for one in plans.cleaned()] == ["box1"]
        assert traces() == before


@in_lab
def test_what_is_ours_and_nobodys_is_removed(lab: Lab) -> None:
    """A bridge without ports, a link and a table that neither state nor sandbox has; not what merely looks like it."""
    before = traces()
    sh("""ip link add ns-br7 address fe:4e:0a:d5:00:01 type bridge; nft add table bridge nstool
        nft add table inet nstool; nft add chain inet nstool forward""")
    pid = lab.namespace()
    sh(f"ip link add ns-dead address fe:4e:0a:d5:00:05 type veth peer name eth0 netns {pid}")
    assert {one.name for one in plans.cleaned()} == {"ns-br7", "nft"}  # the link leads to a process
    with open(f"/proc/{pid}/ns/net", "rb"):
        lab.processes[-1].kill()
        lab.processes[-1].wait()
        assert {one.name for one in plans.cleaned()} == {"ns-dead"}
    assert traces() == before
    sh("ip link add ns-other type veth peer name other; ip link add br0 type bridge; nft add table inet mine")
    before = traces()
    assert plans.cleaned() == ()
    assert traces() == before


@pytest.mark.parametrize("mode", ["veth", "bridge"])
@pytest.mark.parametrize("text", ["", "{", "\0\0"])
@in_lab
def test_damaged_state_is_made_anew(lab: Lab, text: str, mode: str) -> None:
    """From the kernel, as a removed one; it does not have where the journal is, nor a MAC address that no rule has."""
    assert lab.outside
    before = traces()
    box = lab.sandbox(mode=mode, publish=(*PORTS, Publish(53, 53, address="127.0.0.1")))
    (state,) = Path("/run/nstool").glob("network-*/state.json")
    good = json.loads(state.read_text())
    state.write_text(text)
    with Shared() as shared:
        assert shared.recovered
        for user in (*good["rules"].values(), *shared.state["rules"].values()):
            user["maker"] = " ".join(user["maker"].split(" ")[:4])
            user["mac"] = user["mac"] if user["bridged"] else ""
            user["publish"].sort()
        for record in (*good["forwarding"].values(), *shared.state["forwarding"].values()):
            record["links"] = sorted(record["links"])
        assert shared.state == good
    box.undo(box.context)
    assert traces() == before


@in_lab
def test_mtu_and_routes_are_as_asked(lab: Lab) -> None:
    """Read by ip(8); and no address of the kernel's own choosing, no waiting for duplicates."""
    box = lab.sandbox(mtu=1400, routes=(("203.0.113.0/24", "10.200.1.1"),))
    assert "203.0.113.0/24 via 10.200.1.1 dev eth0" in sh("ip route", box.pid)
    assert "default via 10.200.1.1" in sh("ip route", box.pid)
    assert "default via fd77:0:0:1::1" in sh("ip -6 route", box.pid)
    for pid, name in ((box.pid, "eth0"), (0, "ns-t1")):
        (link,) = json.loads(sh(f"ip -j addr show dev {name}", pid))
        assert link["mtu"] == 1400
        assert [a["local"] for a in link["addr_info"]] == (
            ["10.200.1.2", "fd77:0:0:1::2"] if pid else ["10.200.1.1", "fd77:0:0:1::1"]
        )
        assert not any(a.get("tentative") for a in link["addr_info"])


@in_lab
def test_ipv6_can_be_left_out(lab: Lab) -> None:
    """ipv6 = false: no address, and IPv6 off on both ends."""
    box = lab.sandbox(ipv6=False)
    assert sh("ip -6 addr show dev eth0", box.pid) == ""
    assert sysctl.read("net/ipv6/conf/ns-t1/disable_ipv6") == "1"
    assert sysctl.read("net/ipv6/conf/all/forwarding") == "0"


@in_lab
def test_addresses_of_a_process_are_what_ip_shows(lab: Lab) -> None:
    """Devices, addresses and routes inside, while this thread stays in its namespace."""
    here = os.stat("/proc/thread-self/ns/net").st_ino
    box = lab.sandbox()
    found = facts.addresses(box.pid)
    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    assert found.inode == os.stat(f"/proc/{box.pid}/ns/net").st_ino != here
    shown = json.loads(sh("ip -j addr", box.pid))
    assert [(one.name, one.index, one.mtu) for one in found.links] == [
        (one["ifname"], one["ifindex"], one["mtu"]) for one in shown
    ]
    assert {one.name: set(one.addresses) for one in found.links} == {
        one["ifname"]: {f"{a['local']}/{a['prefixlen']}" for a in one["addr_info"]} for one in shown
    }
    assert facts.Route("default", "10.200.1.1", "eth0") in found.routes
    assert all(one.up for one in found.links)


@in_lab
def test_addresses_of_no_process_is_esrch(lab: Lab) -> None:
    """A pid that is not there is an error with its errno."""
    with pytest.raises(KernelError, match="ESRCH"):
        facts.addresses(2**22 + 1)


@in_lab
def test_steps_run_where_an_event_loop_runs(lab: Lab) -> None:
    """A host process with asyncio may launch from its loop's thread."""

    async def act() -> None:
        box = lab.sandbox(mode="bridge", publish=PORTS)
        assert facts.addresses(box.pid).links
        assert not list(preflight(Net(mode="veth")))
        box.undo(box.context)

    before = traces()
    asyncio.run(act())
    assert traces() == before


@in_lab
def test_kinds_of_links_are_found_without_making_one(lab: Lab) -> None:
    """The kernel is asked; nothing is made."""
    before = sh("ip -o link")
    assert links.kind_known("veth")
    assert links.kind_known("bridge")
    assert not links.kind_known("nonsense")
    assert sh("ip -o link") == before


@pytest.fixture(scope="module", autouse=True)
def _import_once() -> None:
    """Imported before the forks, or each child would import it again."""
    import pyroute2  # noqa: F401
