"""A network namespace whole: beside ``ip -j``, ``ss``, ``nft -j`` and sysctl files read inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError
from nstool.inspect import nsfile
from nstool.inspect.net import Network, differing, network, settings
from nstool.sandbox.launch import launch
from nstool.spec.model import Spec
from tests.kernel.rows import boxes
from tests.support import kernel, processes

SERVER = """
import select, socket, sys
tcp = socket.create_server(("0.0.0.0", 8080))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); udp.bind(("::", 53))
unix = socket.socket(socket.AF_UNIX); unix.bind(b"\\0named"); unix.listen()
print("ready", flush=True)
if tcp in select.select([tcp, sys.stdin], [], [])[0]:
    peer, _ = tcp.accept()
    print("accepted", flush=True)
sys.stdin.read()
"""


def run(*words: str, pid: int = 0) -> str:
    """Return what a command prints, in the network namespace of a process."""
    inside = ["nsenter", "--net", f"--target={pid}", "--"] if pid else []
    done = subprocess.run([*inside, *words], capture_output=True, text=True)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


@contextmanager
def living(*before: str, code: str = "print('ready', flush=True); sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    """A Python program that says "ready" and waits, by default in a network namespace of its own."""
    command = [*(before or ("unshare", "--net")), sys.executable, "-c", f"import sys\n{code}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.communicate()


def of(pid: int | str) -> Network:
    with nsfile.named(str(pid), "net", "TARGET") as namespace:
        return network(namespace)


def device(found: Network, name: str) -> Any:
    return next(one for one in found.devices if one.name == name)


SETUP = """
ip link set lo up
ip link add near type veth peer name far netns {pid}
ip address add 10.9.0.1/24 dev near
ip address add fd09::1/64 dev near nodad
ip link set near up
ip link add bridge type bridge
ip link add left type veth peer name right
ip link set left master bridge
ip link add upper link near type macvlan
ip address add 10.8.0.1 peer 10.8.0.2 dev right
ip link set right up
ip route add blackhole 10.99.0.0/16
ip route add unreachable fd99::/64
ip route add 10.50.0.0/16 nexthop via 10.9.0.2 nexthop via 10.9.0.3
ip route add default via inet6 fe80::1 dev near table 77 metric 5
ip rule add not from 10.1.0.0/16 fwmark 0x7 lookup 77 priority 100
ip rule add to 10.2.0.0/16 iif near prohibit priority 101
ip -6 rule add from fd01::/64 ipproto 6 lookup 77 priority 102
ip neighbour add 10.9.0.7 lladdr 02:00:00:00:00:07 dev near
"""


def changed(found: Network) -> dict[str, str]:
    """Return the settings that differ, without those that a new namespace takes over from the host.

    The host forwards as long as some sandbox needs it, so that these may change at any moment. ip-sysctl,
    net.core.devconf_inherit_init_net.
    """
    assert found.sysctls is not None
    inherited = ("forwarding", "ip_forward", "accept_redirects")
    return {one.name: one.value for one in found.sysctls if one.name.rpartition("/")[2] not in inherited}


def set_up(pid: int) -> None:
    for line in SETUP.format(pid=pid).strip().splitlines():
        run(*line.split())


@pytest.mark.needs("root", "native", "veth", "bridge", "ip")
def test_devices_routes_rules_and_neighbours_are_those_of_ip(in_child: Callable[..., Any]) -> None:
    """Every device and address, every route of every table, every rule and every neighbour."""

    def act() -> tuple[Network, dict[str, Any]]:
        kernel.unshare(kernel.CLONE_NEWNET)
        with living() as other:
            set_up(other.pid)
            found = of(os.getpid())
            asked = {
                "links": json.loads(run("ip", "-j", "-d", "-s", "address")),
                "routes": [json.loads(run("ip", "-j", f, "route", "show", "table", "all")) for f in ("-4", "-6")],
                "rules": [json.loads(run("ip", "-j", f, "rule")) for f in ("-4", "-6")],
                "neighbours": json.loads(run("ip", "-j", "neighbour", "show", "nud", "all")),
            }
            return found, asked

    found, asked = in_child(act)
    assert [one.index for one in found.devices] == [link["ifindex"] for link in asked["links"]]
    for one, link in zip(found.devices, asked["links"]):
        assert (one.name, one.mtu, one.mac) == (link["ifname"], link["mtu"], link["address"])
        assert (one.up, one.state) == ("UP" in link["flags"], link["operstate"].lower())
        assert one.kind == link.get("linkinfo", {}).get("info_kind", "loopback")
        assert one.master == link.get("master", "")
        assert one.received["bytes"] == link["stats64"]["rx"]["bytes"]
        shown = [
            f"{a['local']} peer {a['address']}/{a['prefixlen']}" if "address" in a else f"{a['local']}/{a['prefixlen']}"
            for a in link["addr_info"]
        ]
        assert list(one.addresses) == shown
    assert device(found, "upper").peer.name == "near"
    assert {device(found, "left").peer.name, device(found, "right").peer.name} == {"left", "right"}

    for family, rows in zip(("inet", "inet6"), asked["routes"]):
        expected = sorted(route_of_ip(row) for row in rows)
        assert sorted(route(one) for one in found.routes if one.family == family) == expected
    for family, rows in zip(("inet", "inet6"), asked["rules"]):
        mine = [one for one in found.rules if one.family == family]
        assert [one.priority for one in mine] == [row["priority"] for row in rows]
    assert [(one.selector, one.action) for one in found.rules if 99 < one.priority < 200] == [
        ("not from 10.1.0.0/16 fwmark 0x7", "lookup 77"),
        ("from all to 10.2.0.0/16 iif near", "prohibit"),
        ("from fd01::/64 ipproto 6", "lookup 77"),
    ]
    mine = {(one.address, one.mac, one.device, one.state) for one in found.neighbours}
    assert ("10.9.0.7", "02:00:00:00:00:07", "near", "permanent") in mine
    for row in asked["neighbours"]:
        assert (row["dst"], row.get("lladdr", ""), row["dev"], row["state"][0].lower()) in mine


@pytest.mark.needs("root", "native", "ip")
@pytest.mark.parametrize(
    "words",
    [
        "not from all fwmark 0xca6c lookup 51820",
        "from all fwmark 0x1/0xff lookup 7",
        "from all fwmark 0/0xf lookup 7",
        "from all lookup main suppress_prefixlength 0",
        "from all lookup main suppress_ifgroup 3",
        "from all tun_id 5 lookup main",
    ],
)
def test_a_rule_is_told_whole(in_child: Callable[..., Any], words: str) -> None:
    """In the words of ip-rule(8): one that looks up what a mask or a length leaves is not one for all."""

    def act() -> tuple[str, list[str]]:
        kernel.unshare(kernel.CLONE_NEWNET)
        run("ip", "rule", "add", *words.split(), "priority", "99")
        with nsfile.own("net") as own:
            found = network(own).rules
        return run("ip", "rule", "show", "priority", "99"), [
            f"{one.selector} {one.action}" for one in found if one.priority == 99
        ]

    shown, told = in_child(act)
    assert told == [words]
    assert shown.split() == ["99:", *words.split()]


def route(one: Any) -> tuple[Any, ...]:
    return (one.type, one.destination, one.table, one.hops, one.source, one.metric, one.protocol, one.flags)


def route_of_ip(row: dict[str, Any]) -> tuple[Any, ...]:
    def gateway(hop: dict[str, Any]) -> str:
        return hop.get("gateway") or hop.get("via", {}).get("host", "")

    hops = row.get("nexthops") or ([row] if "dev" in row or "gateway" in row else [])
    return (
        row.get("type", "unicast"),
        row["dst"],
        row.get("table", "main"),
        tuple((gateway(hop), hop["dev"]) for hop in hops),
        row.get("prefsrc", ""),
        row.get("metric", 0),
        row.get("protocol", "boot"),
        tuple(sorted({flag for hop in (row, *hops) for flag in hop["flags"]})),
    )


@pytest.mark.needs("root", "native", "veth")
def test_the_other_end_is_found_with_who_lives_there(in_child: Callable[..., Any]) -> None:
    """From both sides; and by its file when no process is there; and said to be nowhere when it cannot be seen."""

    def act() -> list[Any]:
        kernel.unshare(kernel.CLONE_NEWNET)
        with living() as other, boxes.named_netns("only-a-file"):
            run("ip", "link", "add", "one", "type", "veth", "peer", "name", "inside", "netns", str(other.pid))
            run("ip", "link", "add", "two", "type", "veth", "peer", "name", "kept", "netns", "only-a-file")
            mine, theirs = of(os.getpid()), of(other.pid)
            named = of("only-a-file")
            inodes = [os.stat(path).st_ino for path in (f"/proc/{other.pid}/ns/net", "/run/netns/only-a-file")]
            return [mine, theirs, named, inodes, other.pid, os.getpid(), os.stat("/proc/self/ns/net").st_ino]

    mine, theirs, named, inodes, other, me, own = in_child(act)
    one, two = device(mine, "one").peer, device(mine, "two").peer
    assert (one.name, one.place.inode, one.place.processes) == ("inside", inodes[0], ((other, "python"),))
    assert one.index == device(theirs, "inside").index
    assert (two.name, two.place.inode, two.place.processes) == ("kept", inodes[1], ())
    assert two.place.files == ("/run/netns/only-a-file",)
    back = device(theirs, "inside").peer
    assert (back.name, back.place.inode) == ("one", own)
    assert me in [pid for pid, _ in back.place.processes]
    assert device(named, "kept").peer.name == "two"
    assert named.place.inode == inodes[1]


@pytest.mark.needs("root", "native", "veth")
def test_a_namespace_that_nobody_shows_is_said_so(in_child: Callable[..., Any]) -> None:
    """It is held by an fd alone."""

    def act() -> Any:
        kernel.unshare(kernel.CLONE_NEWNET)
        with living() as other:
            run("ip", "link", "add", "one", "type", "veth", "peer", "name", "gone", "netns", str(other.pid))
            held = os.open(f"/proc/{other.pid}/ns/net", os.O_RDONLY)
        try:
            return device(of(os.getpid()), "one").peer
        finally:
            os.close(held)

    peer = in_child(act)
    assert peer.place.inode is None
    assert peer.name == "gone"
    assert "no process and no mount" in peer.why


@pytest.mark.needs("root", "native", "ip")
def test_sockets_are_those_of_ss_with_their_owners() -> None:
    """Listening and connected, of a namespace joined from outside; the inner client's too."""
    with living("unshare", "--net", code=SERVER) as server:
        run("ip", "link", "set", "lo", "up", pid=server.pid)
        client_code = (
            "import socket; s = socket.create_connection(('127.0.0.1', 8080)); print('ready', flush=True)\n"
            "sys.stdin.read()"
        )
        with living("nsenter", "--net", f"--target={server.pid}", "--", code=client_code) as client:
            assert server.stdout
            assert server.stdout.readline() == "accepted\n"
            found = of(server.pid)
            rows = run("ss", "-Htuanp", pid=server.pid).splitlines()
    states = {"LISTEN": "listening", "ESTAB": "established", "UNCONN": "unconnected"}
    expected = set()
    for row in rows:
        type_, state, _, _, here, _, owner = row.split(None, 6)
        expected.add((type_, states[state], here.replace("*:", "[::]:"), int(owner.split("pid=")[1].split(",")[0])))
    mine = {
        (one.socket.type, one.socket.state, one.socket.local, one.owners[0].pid)
        for one in found.sockets
        if one.socket.family in ("inet", "inet6")
    }
    assert mine == expected
    assert {pid for *_, pid in mine} == {server.pid, client.pid}
    named = next(one for one in found.sockets if one.socket.local == "@named")
    assert (named.socket.state, named.owners[0].pid, named.owners[0].comm) == ("listening", server.pid, "python")


@pytest.mark.needs("root", "native", "nft")
def test_the_ruleset_is_that_of_nft() -> None:
    with living() as other:
        run("nft", "add table inet mine; add chain inet mine in { type filter hook input priority 0; }", pid=other.pid)
        run("nft", "add rule inet mine in tcp dport 22 drop", pid=other.pid)
        found = of(other.pid)
        assert list(found.nftables or ()) == json.loads(run("nft", "-j", "list", "ruleset", pid=other.pid))["nftables"]
        assert found.ruleset == run("nft", "list", "ruleset", pid=other.pid)
        assert "tcp dport 22 drop" in found.ruleset
    assert "dport 22" not in (of(os.getpid()).ruleset or "")


@pytest.mark.needs("root", "native", "ip")
def test_settings_that_differ_from_a_fresh_namespace() -> None:
    with living() as other:
        assert changed(of(other.pid)) == {}
        run("ip", "link", "add", "a.b", "type", "bridge", pid=other.pid)
        changes = {"net/ipv4/ip_default_ttl": "42", "net/ipv4/conf/a.b/log_martians": "1", "net/core/somaxconn": "77"}
        for name, value in changes.items():
            run("sh", "-c", f"echo {value} > /proc/sys/{name}", pid=other.pid)
        found = of(other.pid)
        assert changed(found) == changes
        with living() as fresh:
            for one in found.sysctls or ():
                if one.name not in changes:
                    continue
                model = one.name.replace("/a.b/", "/default/")
                assert one.fresh == run("cat", f"/proc/sys/{model}", pid=fresh.pid).strip()
        with nsfile.named(str(other.pid), "net", "") as namespace:
            values = settings(namespace)
        names = run("find", "/proc/sys/net", "-type", "f", "-perm", "/444", pid=other.pid).split()
        assert set(values) <= {name.removeprefix("/proc/sys/") for name in names}
        assert len(values) > 200
        assert values["net/ipv4/ip_default_ttl"] == "42"


def test_a_device_is_compared_with_the_default_of_a_fresh_one() -> None:
    fresh = {"net/ipv4/conf/default/rp_filter": "0", "net/ipv4/conf/lo/rp_filter": "2", "net/core/x": "1"}
    # What the kernel sets by itself is no setting: of a device without neighbours, and where no group has a number.
    fresh |= {"net/ipv6/conf/default/accept_dad": "1", "net/ipv4/ping_group_range": "65534 65534"}
    values = {
        "net/ipv6/conf/eth0/accept_dad": "-1",
        "net/ipv6/conf/eth1/accept_dad": "0",
        "net/ipv4/ping_group_range": "1 0",
        "net/ipv4/conf/eth0/rp_filter": "1",
        "net/ipv4/conf/eth1/rp_filter": "0",
        "net/ipv4/conf/lo/rp_filter": "2",
        "net/core/x": "2",
        "net/core/of_the_host": "5",
    }
    assert [(one.name, one.value, one.fresh) for one in differing(values, fresh)] == [
        ("net/core/x", "2", "1"),
        ("net/ipv4/conf/eth0/rp_filter", "1", "0"),
        ("net/ipv6/conf/eth1/accept_dad", "0", "1"),
    ]


@pytest.mark.needs("root", "native", "ip")
def test_counters_are_those_of_snmp() -> None:
    with living() as other:
        run("ip", "link", "set", "lo", "up", pid=other.pid)
        assert "Udp" not in of(other.pid).counters
        run(
            sys.executable,
            "-c",
            "import socket; s = socket.socket(2, 2); s.sendto(b'x', ('127.0.0.1', 9))",
            pid=other.pid,
        )
        counters = of(other.pid).counters
        assert (counters["Udp"]["OutDatagrams"], counters["Udp"]["NoPorts"]) == (1, 1)


@pytest.mark.needs("root", "native", "veth", "ip")
def test_names_of_devices_are_any_bytes() -> None:
    """Of its own, of another end, in a route and a rule: in show, in net and its JSON, as os.fsdecode has them."""
    name, peer = b"\xff\xfe-v", b"p\xe4\xff"
    shown = os.fsdecode(name)

    def ip(pid: int, *words: str | bytes) -> None:
        subprocess.run(["nsenter", "--net", f"--target={pid}", "--", "ip", *words], check=True)

    with living() as one, living() as two:
        ip(one.pid, "link", "add", name, "type", "veth", "peer", "name", peer, "netns", str(two.pid))
        ip(one.pid, "link", "set", name, "up")
        ip(one.pid, "address", "add", "10.9.8.7/24", "dev", name)
        ip(one.pid, "rule", "add", "iif", name, "table", "77")
        ip(two.pid, "link", "set", peer, "up")
        found = of(one.pid)
        (veth,) = (device for device in found.devices if device.kind == "veth")
        assert (veth.name, veth.peer.name) == (shown, os.fsdecode(peer))
        assert shown in {device for route in found.routes for _, device in route.hops}
        assert any(f"iif {shown}" in rule.selector for rule in found.rules)
        as_json = json.loads(boxes.nstool("net", str(one.pid), "--json").out)
        assert shown in {device["name"] for device in as_json["devices"]}
        assert "10.9.8.7/24" in boxes.nstool("net", str(one.pid)).out
        inside = json.loads(boxes.nstool("show", str(one.pid), "--json").out)["inside"]
        assert any(line.startswith(f"{shown} 10.9.8.7/24") for line in inside["addresses"])
        assert "10.9.8.7/24" in boxes.nstool("show", str(one.pid)).out


@pytest.mark.needs("root", "native", "ip")
def test_a_named_namespace_by_its_name_and_its_file(in_child: Callable[..., Any]) -> None:
    def act() -> list[Any]:
        with boxes.named_netns("blue"):
            run("ip", "-n", "blue", "link", "set", "lo", "up")
            return [of("blue"), of("/run/netns/blue"), os.stat("/run/netns/blue").st_ino]

    by_name, by_file, inode = in_child(act)
    assert by_name.place.inode == by_file.place.inode == inode
    assert by_name.place.files == ("/run/netns/blue",)
    assert device(by_name, "lo").up


@pytest.mark.needs("native", "user", "userns", "ip")
def test_an_ordinary_user_sees_a_namespace_of_its_own_user_namespace(as_user: Callable[..., Any]) -> None:
    def act() -> list[Any]:
        with living("unshare", "--user", "--map-root-user", "--net") as other:
            inside = ["nsenter", "--user", "--net", "--preserve-credentials", f"--target={other.pid}", "--"]
            subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
            subprocess.run([*inside, "nft", "add table inet mine"], check=True)
            return [of(other.pid), os.stat(f"/proc/{other.pid}/ns/user").st_ino]

    found, owner = as_user(act)
    assert device(found, "lo").addresses == ("127.0.0.1/8", "::1/128")
    assert found.owner == owner
    assert "table inet mine" in (found.ruleset or "")
    assert changed(found) == {}


@pytest.mark.needs("native", "nsexec", "user", "userns", "newuidmap")
def test_an_ordinary_user_sees_the_network_of_its_sandbox(as_user: Callable[..., Any]) -> None:
    """Its user namespace has a root of its own, as whom nft runs."""

    def act() -> Network:
        with launch(Spec(command=("sleep", "30"), limits=boxes.UNLIMITED)) as sandbox:
            processes.wait_exec(sandbox.pid, "sleep")
            return of(sandbox.pid)

    found = as_user(act)
    assert [one.name for one in found.devices if one.up] == ["lo"]
    assert found.ruleset == ""
    assert found.unread == {}


@pytest.mark.needs("root", "native", "user")
def test_an_ordinary_user_is_told_why_it_may_not(as_user: Callable[..., Any], in_child: Callable[..., Any]) -> None:
    """A process of root may not be looked at; a namespace file may be opened, but not joined."""

    def refused(target: str) -> str:
        try:
            of(target)
        except KernelError as error:
            return error.cause
        return "not refused"

    with living() as other:
        assert "it runs as uid 0" in as_user(refused, str(other.pid))

    def with_a_file() -> str:
        with boxes.named_netns("blue"):
            return as_user(refused, "blue")

    assert "in which you have no CAP_SYS_ADMIN" in in_child(with_a_file)


@pytest.mark.needs("native", "user")
def test_an_ordinary_user_on_its_own_network(as_user: Callable[..., Any]) -> None:
    """What is open to all is shown; the firewall is not, with the reason."""
    found = as_user(lambda: of(os.getpid()))
    assert device(found, "lo").kind == "loopback"
    assert found.ruleset is None
    assert "CAP_NET_ADMIN" in found.unread["nftables"]


@pytest.mark.needs("root", "native", "user", "veth")
def test_an_ordinary_user_is_told_what_the_other_end_takes(
    as_user: Callable[..., Any], in_child: Callable[..., Any]
) -> None:
    """The name of a device in a namespace that is not the reader's to administer is not told, nor who is there."""

    def look() -> list[Any]:
        return [
            boxes.nstool("net", target, "--json")
            for target in (str(os.getpid()), "/proc/self/ns/net", f"/proc/{os.getpid()}/ns/net")
        ]

    def act() -> list[Any]:
        kernel.unshare(kernel.CLONE_NEWNET)
        with living() as other:
            run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two", "netns", str(other.pid))
            return as_user(look, timeout=120.0)

    for ran in in_child(act, timeout=240.0):
        assert (ran.status, ran.err) == (0, "")
        peer = next(one["peer"] for one in json.loads(ran.out)["devices"] if one["name"] == "one")
        assert (peer["name"], peer["place"]["inode"]) == ("", None)
        assert "its name takes CAP_NET_ADMIN in its namespace, as root has it" in peer["why"]


@pytest.mark.needs("root", "native", "veth")
def test_root_of_a_user_namespace_further_in_is_told_so_too(in_child: Callable[..., Any]) -> None:
    """The network belongs to a user namespace above: that is no reason to name the reader's own as its owner."""

    def act() -> Any:
        kernel.unshare(kernel.CLONE_NEWNET)
        with living() as other:
            run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two", "netns", str(other.pid))
            command = (*boxes.NSTOOL, "net", "/proc/self/ns/net", "--json")
            return run("unshare", "-Urpf", "--mount-proc", *command)

    found = json.loads(in_child(act, timeout=120.0))
    peer = next(one["peer"] for one in found["devices"] if one["name"] == "one")
    assert (peer["name"], peer["place"]["inode"]) == ("", None)
    assert found["owner"] is None
    assert "neither yours nor below it" in found["unread"]["owner"]


@pytest.mark.needs("root", "native", "veth")
def test_command_line() -> None:
    with living("unshare", "--net", code=SERVER) as other:
        run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two", pid=other.pid)
        shown = boxes.nstool("net", str(other.pid))
        assert (shown.status, shown.err) == (0, "")
        assert shown.lines[0] == f"{os.readlink(f'/proc/{other.pid}/ns/net')}, with process {other.pid} python"
        assert any(" two, here " in line for line in shown.lines)
        assert any(line.split()[:3] == ["tcp", "listening", "0.0.0.0:8080"] for line in shown.lines)
        assert "@named" not in shown.out
        assert "@named" in boxes.nstool("net", str(other.pid), "--all").out
        found = json.loads(boxes.nstool("net", f"/proc/{other.pid}/ns/net", "--json").out)
        assert {one["name"] for one in found["devices"]} >= {"lo", "one", "two"}
    bad = boxes.nstool("net", "no-such")
    assert (bad.status, bad.out) == (2, "")
    assert "no sandbox 'no-such'" in bad.err
    assert boxes.nstool("net", "/proc/self/ns/uts").err.startswith(
        "nstool: TARGET: /proc/self/ns/uts is a uts namespace"
    )


@pytest.mark.needs("native")
def test_a_zombie_has_no_network() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        ran = boxes.nstool("net", str(pid))
    finally:
        os.waitpid(pid, 0)
    assert (ran.status, ran.err) == (2, f"nstool: process {pid} has ended, and is in no net namespace any more\n")
    assert Path("/proc/self").exists()
