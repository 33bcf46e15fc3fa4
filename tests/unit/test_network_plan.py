"""The network's part of the plan: steps, files, sysctls. Pure: no build, no root."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, NstoolError, SpecError
from nstool.network import external, firewall, plan, ports
from nstool.plan.lease import Lease
from nstool.plan.steps import LAUNCHER, UNDO
from nstool.spec.model import Net, Publish

LEASE = Lease(
    name="web",
    link="ns-web",
    address="10.200.3.2/30",
    gateway="10.200.3.1/30",
    address6="fd77::3:2/126",
    gateway6="fd77::3:1/126",
)


def names(net: Net, who: str) -> list[str]:
    return [str(step.args[0]) for step in plan.steps(net, LEASE) if step.who == who]


def args(net: Net, name: str) -> dict[str, Any]:
    (found,) = [step.args[1] for step in plan.steps(net, LEASE) if step.args[0] == name]
    assert isinstance(found, dict)
    return found


def test_rules_come_before_the_link_and_the_bridge_last() -> None:
    """There is no moment in which the link is up without the rules; undo runs in reverse."""
    net = Net(mode="bridge")
    assert names(net, LAUNCHER) == ["forwarding_acquire", "nft_publish", "veth_create", "bridge_attach"]
    assert names(net, UNDO) == ["forwarding_release", "nft_unpublish", "veth_delete", "bridge_detach"]


@pytest.mark.parametrize("mode", ["none", "loopback", "host", "join"])
def test_modes_without_a_device_of_their_own_need_nothing_from_outside(mode: str) -> None:
    """Only veth and bridge have steps of the launcher."""
    assert plan.steps(Net(mode=mode, target="1"), LEASE) == ()


def test_steps_are_external_with_a_handler_and_json_arguments() -> None:
    """A journal writes the arguments as JSON and reads back the same; each name has its handler."""
    net = Net(mode="bridge", publish=(Publish(8080, 80),), routes=(("10.0.0.0/8", "10.200.3.1"),))
    for step in plan.steps(net, LEASE):
        name, values = step.args
        assert step.call == "external"
        assert name in external.HANDLERS
        assert json.loads(json.dumps(values)) == values


def test_undo_has_the_arguments_of_its_step() -> None:
    """What undoes a step knows what the step knew."""
    steps = plan.steps(Net(mode="bridge"), LEASE)
    made = [step.args[1] for step in steps if step.who == LAUNCHER]
    assert made == [step.args[1] for step in steps if step.who == UNDO]


@pytest.mark.parametrize(
    ("net", "families"),
    [
        (Net(), ["4", "6"]),
        (Net(ipv6=False), ["4"]),
        (Net(nat=False), None),
        (Net(nat=False, isolated=False), ["4", "6"]),
        (Net(nat=False, publish=(Publish(80, 80),)), ["4", "6"]),
        (Net(nat=False, publish=(Publish(80, 80, address="127.0.0.1"),)), None),
        (Net(nat=False, publish=(Publish(80, 80, address="::1"),)), None),
        (Net(nat=False, publish=(Publish(80, 80, address="192.0.2.1"),)), ["4"]),
        (Net(nat=False, publish=(Publish(80, 80, address="2001:db8::1"),)), ["6"]),
    ],
)
def test_forwarding_only_for_packets_of_other_machines(net: Net, families: list[str] | None) -> None:
    """The host reaches a sandbox without forwarding, so a port of its loopback alone needs none."""
    net = net.replace(mode="veth")
    if families is None:
        assert "forwarding_acquire" not in names(net, LAUNCHER)
    else:
        assert args(net, "forwarding_acquire") == {"link": "ns-web", "name": "web", "families": families}


def test_addresses_of_the_spec_come_before_the_lease() -> None:
    """And a gateway without length gets that of its address."""
    net = Net(mode="veth", address="172.20.0.5/24", gateway="172.20.0.1")
    assert plan.own_addresses(net, LEASE) == ("172.20.0.5/24", "172.20.0.1/24", "fd77::3:2/126", "fd77::3:1/126")
    assert plan.own_addresses(net.replace(ipv6=False), LEASE)[2:] == ("", "")


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("10.77.0.2/24", "10.77.0.1/24"),
        ("10.77.0.1/24", "10.77.0.2/24"),
        ("10.77.0.9/31", "10.77.0.8/31"),
        ("fd00:99::2/64", "fd00:99::1/64"),
    ],
)
def test_gateway_is_the_first_other_address_of_the_network(address: str, gateway: str) -> None:
    """Where the spec has an address alone: without one there would be no way out, and no published port."""
    net = Net(mode="veth", **{"address6" if ":" in address else "address": address})
    assert (address, gateway) in zip(plan.own_addresses(net, LEASE)[::2], plan.own_addresses(net, LEASE)[1::2])


def test_bridge_of_the_administrator_needs_address_and_gateway() -> None:
    """Who is the router of its network is not ours to guess."""
    assert plan.ours_to_choose(Net(mode="bridge"))
    assert plan.ours_to_choose(Net(mode="bridge", address="10.77.0.2/24"))
    assert not plan.ours_to_choose(Net(mode="bridge", address="10.77.0.2/24", gateway="10.77.0.1"))


def test_mac_addresses_are_local_unicast_and_follow_from_the_address() -> None:
    """IEEE 802: bit 0 of the first byte is the group bit, bit 1 the local bit."""
    for side in ("inside", "outside"):
        first = int(plan.mac_address(side, "10.200.3.2/30").split(":")[0], 16)
        assert first & 3 == 2
    assert plan.mac_address("inside", "10.200.3.2/30") == "02:4e:0a:c8:03:02"
    assert plan.mac_address("outside", "10.200.3.2/30") == "fe:4e:0a:c8:03:02"


@pytest.mark.parametrize(
    ("target", "path"),
    [("123", "/proc/123/ns/net"), ("/run/x", "/run/x"), ("blue", "/run/netns/blue")],
)
def test_target_is_a_pid_a_path_or_a_name(target: str, path: str) -> None:
    """As in ``ip netns`` and nsenter(1)."""
    assert plan.target(Net(mode="join", target=target)) == path


def test_no_target_is_an_error_with_its_place() -> None:
    """Not /run/netns/ itself."""
    with pytest.raises(SpecError, match=r"net\.target: .*needs a target"):
        plan.target(Net(mode="join"))


def test_sysctl_names_with_dots_and_with_slashes() -> None:
    """A device's name may hold a dot, so the form with slashes keeps them. sysctl(8)."""
    net = Net(sysctls={"net.ipv4.ip_default_ttl": "70", "net/ipv4/conf/eth0.1/rp_filter": "1"})
    assert plan.sysctls(net) == (("net/ipv4/ip_default_ttl", "70"), ("net/ipv4/conf/eth0.1/rp_filter", "1"))


@pytest.mark.parametrize(
    "name", ["kernel.hostname", "net", "net.", "net..ipv4", "net/../kernel/x", "net/ipv4/./x", "net.ipv4.a b", "/net/x"]
)
def test_sysctl_that_is_not_of_the_network_is_refused(name: str) -> None:
    """Nothing outside /proc/sys/net is written, by no spelling."""
    with pytest.raises(SpecError, match=r"net\.sysctls"):
        plan.sysctls(Net(sysctls={name: "1"}))


@pytest.mark.parametrize("value", ["", "1\n2", "a\0b"])
def test_sysctl_value_is_one_line(value: str) -> None:
    """The kernel would take the first line and say nothing."""
    with pytest.raises(SpecError, match="is no value"):
        plan.sysctls(Net(sysctls={"net.ipv4.ip_default_ttl": value}))


@pytest.mark.parametrize(
    ("resolv_conf", "uplink", "servers"),
    [
        ("nameserver 192.0.2.53\nsearch x\n# nameserver 1.1.1.1\n", "", ("192.0.2.53",)),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.53\n", ("192.0.2.53",)),
        ("nameserver ::1\nnameserver fe80::1%eth0\nnameserver\n", "", ()),
        ("nameserver 127.0.0.1\nnameserver 2001:db8::53\n", "nameserver 192.0.2.53\n", ("2001:db8::53",)),
        ("".join(f"nameserver 192.0.2.{n}\n" for n in range(1, 6)), "", ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
        ("", "", ()),
    ],
)
def test_nameservers_that_a_sandbox_can_reach(resolv_conf: str, uplink: str, servers: tuple[str, ...]) -> None:
    """No loopback address, none with a device of the host in it, at most MAXNS."""
    assert plan.nameservers(resolv_conf, uplink) == servers


def test_files_of_a_veth_sandbox() -> None:
    """The host's servers unless the spec has some; the own name on the own addresses; extra lines last."""
    net = Net(mode="veth", hosts=(("192.0.2.9", "db"),))
    files = plan.files(net, LEASE, "web", ("192.0.2.53",))
    assert files["/etc/resolv.conf"] == "nameserver 192.0.2.53\n"
    assert files["/etc/hosts"].splitlines() == [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "10.200.3.2\tweb",
        "fd77::3:2\tweb",
        "192.0.2.9\tdb",
    ]
    assert plan.files(net.replace(dns=("9.9.9.9",)), LEASE, "web", ("192.0.2.53",))["/etc/resolv.conf"] == (
        "nameserver 9.9.9.9\n"
    )


@pytest.mark.parametrize("mode", ["none", "loopback", "join", "host"])
def test_files_without_a_link(mode: str) -> None:
    """The root's stay, but for what the spec has a key for; the own name is an address of lo."""
    net = Net(mode=mode)
    assert plan.files(net, LEASE, "web", ("192.0.2.53",)) == {}
    assert plan.files(net.replace(dns=("9.9.9.9",)), LEASE, "web") == {"/etc/resolv.conf": "nameserver 9.9.9.9\n"}
    hosts = plan.files(net.replace(hosts=(("192.0.2.9", "db"),)), LEASE, "web")
    assert hosts.keys() == {"/etc/hosts"}
    assert hosts["/etc/hosts"].endswith("127.0.1.1\tweb\n192.0.2.9\tdb\n")


def test_plan_imports_nothing_heavy() -> None:
    """It is on the path of every launch (docs/adr/0003-import-cost.md)."""
    names = "typing enum dataclasses re pathlib json msgspec inspect signal subprocess ipaddress pyroute2 psutil"
    code = f"import sys; import nstool.network.plan; print(*[m for m in {names!r}.split() if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def user(**changes: Any) -> dict[str, Any]:
    made = args(Net(mode="veth", publish=(Publish(8080, 80), Publish(53, 5353, "udp", "127.0.0.1"))), "nft_publish")
    return {**made, "maker": "12 34 56 78 /run/nstool/sandboxes/web", **changes}


def test_elements_of_a_sandbox() -> None:
    """All that the tables know of it, family by family."""
    assert firewall.elements(user()) == [
        'inet nstool links { "ns-web" comment "web 12 34 56 78" }',
        'inet nstool source4 { "ns-web" . 10.200.3.2 }',
        "inet nstool sandbox4 { 10.200.3.2 }",
        "inet nstool nat4 { 10.200.3.2 }",
        "inet nstool publish4 { tcp . 8080 : 10.200.3.2 . 80 }",
        "inet nstool publish4_at { 127.0.0.1 . udp . 53 : 10.200.3.2 . 5353 }",
        'inet nstool source6 { "ns-web" . fd77::3:2 }',
        "inet nstool sandbox6 { fd77::3:2 }",
        "inet nstool nat6 { fd77::3:2 }",
        "inet nstool publish6 { tcp . 8080 : fd77::3:2 . 80 }",
    ]
    assert "inet nstool open4 { 10.200.3.2 }" in firewall.elements(user(isolated=False))
    assert "inet nstool publish4 { tcp . 8080 }" in firewall.keys(user())


def test_ruleset_without_users_removes_the_tables() -> None:
    """``add`` before ``delete``: it is no error that there is none. The bridge's only where one was made."""
    assert firewall.ruleset({}) == "add table inet nstool\ndelete table inet nstool\n"
    assert "delete table bridge nstool" in firewall.ruleset({"bridge_table": True})


def test_claim_refuses_what_another_sandbox_has() -> None:
    """Before any socket is bound: all addresses overlap each one of the same family, TCP not UDP."""
    taken = user(name="first", publish=[["tcp", "", 8080, 80]])
    with pytest.raises(Exception, match="in use by sandbox first"):
        ports.claim(user(publish=[["tcp", "127.0.0.1", 8080, 80]]), [taken])
    only6 = user(name="first", publish=[["tcp", "::1", 8080, 80]])
    assert not any(
        ports._overlap(a, b)
        for a in ports._endpoints(user(publish=[["tcp", "127.0.0.1", 8080, 80], ["udp", "", 8080, 80]]))
        for b in ports._endpoints(only6)
    )


def test_nft_that_is_killed_has_no_errno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it ended is said instead."""
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\nkill -SEGV $$\n")
    nft.chmod(0o755)
    monkeypatch.setattr(firewall, "nft_path", lambda: str(nft))
    with pytest.raises(NstoolError, match="nft -j list table inet nstool was killed by signal 11"):
        firewall.listing("inet")


def test_nft_that_others_interrupt_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINTR, which nft ends with when the ruleset changes under its eyes, is no failure; others are."""
    nft = tmp_path / "nft"
    count = tmp_path / "count"
    nft.write_text(
        f"#!/bin/sh\necho >> {count}\n"
        f'[ "$(wc -l < {count})" -gt 2 ] && exit 0\n'
        'echo "netlink: Error: cache initialization failed: Interrupted system call" >&2\nexit 1\n'
    )
    nft.chmod(0o755)
    monkeypatch.setattr(firewall, "nft_path", lambda: str(nft))
    firewall.apply("")
    assert count.read_text().count("\n") == 3
    nft.write_text(f'#!/bin/sh\necho >> {count}\necho "Error: No such file or directory" >&2\nexit 1\n')
    with pytest.raises(KernelError):
        firewall.apply("")
    assert count.read_text().count("\n") == 4
