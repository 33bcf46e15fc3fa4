"""Rows E1 (none, loopback, join) and E3 (sysctls); links to the outside are tested apart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, SpecError
from nstool.sandbox.launch import launch
from nstool.spec.model import Namespaces, Net, Publish
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import plans

DEVICES = "ls /proc/sys/net/ipv4/conf; ip -brief link 2>/dev/null"
UP = "ip -brief address show lo"

pytestmark = [pytest.mark.vm, pytest.mark.needs("ip")]


def devices(pid: int) -> list[str]:
    """The devices in a process's network namespace, by another road than ours. proc_pid_net(5)."""
    rows = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return [row.split(":")[0].strip() for row in rows]


def test_loopback_is_the_default(act: Act) -> None:
    """lo alone, up, with its addresses; a connection to itself works."""

    def look() -> tuple[list[str], str, str]:
        with boxes.box() as box:
            link = box.ask(UP)
            served = box.ask(
                "busybox nc -lp 4321 -e true & for n in $(busybox seq 100); do busybox sleep 0.1; "
                "busybox nc -w 2 127.0.0.1 4321 </dev/null && break; done; echo $?"
            )
            return devices(box.pid), link, served.splitlines()[-1]

    found, link, served = act(look)
    assert found == ["lo"]
    assert "127.0.0.1/8" in link
    assert served == "0"


def test_none_has_no_device_that_is_up(act: Act) -> None:
    """Not even the loopback."""

    def look() -> tuple[list[str], str, str]:
        with boxes.box(net=Net(mode="none")) as box:
            return devices(box.pid), box.ask(UP), box.ask("busybox nc -w 1 127.0.0.1 1; echo $?")

    found, link, refused = act(look)
    assert found == ["lo"]
    assert "DOWN" in link
    assert "127.0.0.1" not in link
    assert "unreachable" in refused


@pytest.mark.parametrize("mode", ["none", "loopback", "host"])
def test_names_are_known_without_a_link(act: Act, mode: str) -> None:
    """The own name, too; what has no key stays as the root has it."""
    net, shared = Net(mode=mode, hosts=(("192.0.2.9", "db"),)), Namespaces(net="host" if mode == "host" else "new")

    def look() -> tuple[str, str]:
        with boxes.box(net=net, namespaces=shared, hostname="web") as box:
            return box.ask("cat /etc/hosts"), box.ask("cat /etc/resolv.conf 2>/dev/null || echo none")

    hosts, servers = act(look)
    assert hosts.splitlines()[2:] == ["127.0.1.1\tweb", "192.0.2.9\tdb"]
    assert servers == (Path("/etc/resolv.conf").read_text() if mode == "host" else "none\n")


def test_name_servers_are_those_asked_for(act: Act) -> None:
    """In a sandbox that joins a network, or makes its own way out, they are what dns says."""

    def look() -> str:
        with boxes.box(net=Net(dns=("192.0.2.53", "::1"))) as box:
            return box.ask("cat /etc/resolv.conf")

    assert act(look) == "nameserver 192.0.2.53\nnameserver ::1\n"


def test_host_is_the_callers(act: Act) -> None:
    """A word that a reviewer sees: --net host."""
    ran = act(boxes.nstool_run, "--net", "host", "--", "readlink", "/proc/self/ns/net")
    assert ran == (0, boxes.inode("self", "net") + "\n", "")


def test_the_network_of_a_sandbox_is_joined_by_pid(as_root: Act) -> None:
    """Two sandboxes that share a user namespace and a network see one loopback."""

    def look() -> tuple[bool, bool]:
        words: dict[str, Any] = {"namespaces": Namespaces(user="host"), "user": "65534:65534"}
        with boxes.box(**words) as first, boxes.box(net=Net(mode="join", target=str(first.pid)), **words) as second:
            same = [boxes.inode(first.pid, kind) == boxes.inode(second.pid, kind) for kind in ("net", "uts")]
            return same[0], same[1]

    assert as_root(look) == (True, False)


def test_the_network_of_a_sandbox_is_joined_by_name(as_root: Act) -> None:
    """The name by which nstool exec finds it."""

    def look() -> tuple[str, str]:
        with boxes.box() as first:
            words = ["--net", f"join:{first.sandbox.name}", "--", "readlink", "/proc/self/ns/net"]
            return boxes.nstool("run", *words).out.strip(), boxes.inode(first.pid, "net")

    joined, its_own = as_root(look)
    assert joined == its_own


@pytest.mark.parametrize("target", ["{}", "/run/netns/{}"])
def test_a_named_network_is_joined(as_root: Act, name: str, target: str) -> None:
    """By name or by file, by the default sandbox: its user namespace is a new one."""

    def join() -> bool:
        with boxes.named_netns(name):
            words = ["--net", "join:" + target.format(name)]
            ran = boxes.nstool("run", *words, "--", "stat", "-Lc", "%i", "/proc/self/ns/net")
            return ran == (0, f"{os.stat(f'/run/netns/{name}').st_ino}\n", "")

    assert as_root(join)


def test_joining_leaves_the_caller_where_it_is(as_root: Act, name: str) -> None:
    """The launching thread goes into the other network for its child only, also when a later step fails."""

    def look() -> list[bool]:
        before = boxes.inode("thread-self", "net")
        same = []
        with boxes.named_netns(name):
            joined = Net(mode="join", target=name)
            with boxes.box(net=joined):
                same.append(boxes.inode("thread-self", "net") == before)
            bad = Namespaces(boottime_offset=-(10**9))  # refused in the child
            with pytest.raises(KernelError):
                launch(boxes.spec("true", net=joined, namespaces=bad))
            same.append(boxes.inode("thread-self", "net") == before)
            with pytest.raises(KernelError):
                launch(boxes.spec("/no/such", net=joined))
        return [*same, boxes.inode("thread-self", "net") == before]

    assert as_root(look) == [True, True, True]


def test_the_network_is_joined_together_with_its_user_namespace(act: Act) -> None:
    """The namespaces that are new belong to the joined user namespace; the network is the joined one all the same."""

    def look() -> tuple[str, str]:
        with boxes.box() as first:
            owner = str(first.pid)
            words = Namespaces(user=owner, pid=owner, time="host")
            with boxes.box(namespaces=words, proc="none", net=Net(mode="join", target=owner)) as second:
                return boxes.inode(second.pid, "net"), boxes.inode(first.pid, "net")

    joined, its_own = act(look)
    assert joined == its_own


def test_a_network_of_root_is_closed_to_users(as_root: Act, as_user: Act, name: str) -> None:
    """setns(2) asks for CAP_SYS_ADMIN in the user namespace that owns it."""

    def ask() -> str:
        with pytest.raises(KernelError) as refused:
            launch(boxes.spec("true", net=Net(mode="join", target=name)))
        return refused.value.call

    def made_by_root() -> str:
        with boxes.named_netns(name):
            return as_user(ask)  # type: ignore[no-any-return]

    assert as_root(made_by_root).startswith("setns(")


# ---------------------------------------------------------------------------------------- E3


def test_sysctls_are_the_namespaces_own(act: Act) -> None:
    """The value holds inside; the host's is as before."""
    names = {
        "net.ipv4.ip_unprivileged_port_start": "80",
        "net.ipv4.conf.all.forwarding": "1",
        "net.ipv4.ip_default_ttl": "77",
    }
    files = {name: Path("/proc/sys/" + name.replace(".", "/")) for name in names}
    before = {name: file.read_text() for name, file in files.items()}

    def look() -> list[str]:
        with boxes.box(net=Net(sysctls=names)) as box:
            assert {name: file.read_text() for name, file in files.items()} == before
            return [box.ask(f"cat {file}").strip() for file in files.values()]

    assert act(look) == list(names.values())


def test_a_sysctl_takes_effect(act: Act) -> None:
    """Port 80 is open to a command without capabilities where ip_unprivileged_port_start allows it, else not."""

    def serve(seconds: int, **sysctls: str) -> str:
        net = Net(sysctls={name.replace("_dot_", "."): value for name, value in sysctls.items()})
        return boxes.run("/bin/sh", "-c", f"busybox timeout {seconds} busybox nc -lp 80; echo $?", net=net).err

    assert "Permission denied" in act(serve, 60)
    assert act(serve, 1, net_dot_ipv4_dot_ip_unprivileged_port_start="80") in ("", "Terminated\n")


@pytest.mark.vm_full
@pytest.mark.needs("nft")
def test_a_published_port_can_be_bound(as_root: Act) -> None:
    """Also one below 1024, by a command without capabilities; the ports below the lowest of them stay closed."""

    def serve(seconds: int, port: int) -> str:
        net = Net(mode="veth", publish=(Publish(plans.free_port(), 80),))
        return boxes.run("/bin/sh", "-c", f"busybox timeout {seconds} busybox nc -lp {port}; echo $?", net=net).err

    assert as_root(serve, 1, 80) in ("", "Terminated\n")
    assert "Permission denied" in as_root(serve, 60, 79)


def test_sysctls_of_the_command_line(act: Act) -> None:
    """--sysctl NAME=VALUE."""
    words = ["--sysctl", "net.ipv4.ip_default_ttl=99"]
    assert act(boxes.nstool_run, *words, "--", "cat", "/proc/sys/net/ipv4/ip_default_ttl") == (0, "99\n", "")


@pytest.mark.parametrize(
    ("name", "net"), [("kernel.hostname", Net()), ("net.core.somaxconn", Net(mode="host")), ("net..x", Net())]
)
def test_sysctls_that_are_not_of_the_namespace(act: Act, name: str, net: Net) -> None:
    """Only net.*, and only in a new network namespace: the host's are never written."""

    def ask() -> str:
        words = Namespaces(net="host" if net.mode == "host" else "new")
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", net=net.replace(sysctls={name: "1"}), namespaces=words))
        return refused.value.place

    assert "net.sysctls" in act(ask)


def test_a_sysctl_that_does_not_exist(act: Act) -> None:
    """The kernel's refusal names the file."""
    ran = act(boxes.nstool_run, "--sysctl", "net.ipv4.no_such=1", "--", "true")
    assert ran.status == 125, ran
    assert "/proc/sys/net/ipv4/no_such" in ran.err


def test_addresses_are_read_from_its_namespace(act: Act) -> None:
    """Those of the sandbox and not the caller's; an ordinary user reads those of their own."""

    def look() -> tuple[list[str], tuple[str, ...], bool, int, int]:
        with boxes.box() as box:
            found = box.sandbox.addresses
            (lo,) = found.links
            return [lo.name], lo.addresses, lo.up, found.inode, os.stat(f"/proc/{box.pid}/ns/net").st_ino

    names, addresses, up, inode, its_own = act(look)
    assert (names, up, inode) == (["lo"], True, its_own)
    assert "127.0.0.1/8" in addresses
