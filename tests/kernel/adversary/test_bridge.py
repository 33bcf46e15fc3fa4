"""Two sandboxes on one bridge: what one of them sends, by hand and with all rights in its network, is not heard.

The sender is taken to have CAP_NET_RAW and CAP_NET_ADMIN, which no sandbox has by default: it writes whole frames.
"""

from __future__ import annotations

import re
import socket
import struct
from ipaddress import ip_address

import pytest

from tests.kernel.test_network import TCP, UDP, Lab, Sandbox, in_lab, joined, sh

pytestmark = pytest.mark.needs("root", "ip", "nft", "veth", "bridge", "ipv6")

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
PORT = 9999
FALSE_ROUTER, FALSE_PREFIX = "fe80::bad", "2001:db8:bad::"


def mac_of(pid: int) -> str:
    match = re.search(r"link/ether (\S+)", sh("ip link show eth0", pid))
    assert match
    return match[1]


def raw_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv6(source: str, target: str, kind: int, payload: bytes, at: int) -> bytes:
    """An IPv6 packet; the checksum of its payload is put at this offset. RFC 8200."""
    addresses = ip_address(source).packed + ip_address(target).packed
    total = checksum(addresses + struct.pack("!II", len(payload), kind) + payload)
    payload = payload[:at] + struct.pack("!H", total) + payload[at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(payload), kind, 255) + addresses + payload


def router_advertisement(mac: str) -> bytes:
    """With a prefix to make addresses of, and its sender as the default router. RFC 4861."""
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + ip_address(FALSE_PREFIX).packed
    text = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\1\1" + raw_mac(mac) + prefix
    return ipv6(FALSE_ROUTER, ALL_NODES, 58, text, 2)


def neighbour_advertisement(source: str, about: str, mac: str) -> bytes:
    text = struct.pack("!BBHI", 136, 0, 0, 0x2000_0000) + ip_address(about).packed + b"\2\1" + raw_mac(mac)
    return ipv6(source, ALL_NODES, 58, text, 2)


def arp(about: str, mac: str, to: str, to_mac: str) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
    return head + raw_mac(mac) + ip_address(about).packed + raw_mac(to_mac) + ip_address(to).packed


def datagram(source: str, target: str) -> bytes:
    return ipv6(source, target, 17, struct.pack("!HHHH", PORT, PORT, 12, 0) + b"text", 6)


class Attack:
    """One sandbox's frames to another on the same bridge."""

    def __init__(self, lab: Lab, box: Sandbox, victim: Sandbox) -> None:
        self.box, self.victim = box, victim
        self.gateway4, self.gateway6 = (text.partition("/")[0] for text in (box.lease.gateway, box.lease.gateway6))
        self.mac, self.victim_mac = mac_of(box.pid), mac_of(victim.pid)
        self.server = lab.server(victim.pid, UDP, "::", PORT)
        self.host = lab.server(0, UDP, "::", PORT)
        self.wire = joined(box.pid, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        self.wire.bind(("eth0", 0))
        lab.stack.callback(self.wire.close)
        sh("echo 0 > /proc/sys/net/ipv4/neigh/eth0/locktime", victim.pid)
        self.know_the_gateway(lab)

    def know_the_gateway(self, lab: Lab) -> None:
        """Let the victim have entries for its gateway, that could be changed."""
        for address in (self.gateway4, self.gateway6):
            client = lab.socket(self.victim.pid, UDP, address)
            client.connect((address, 9))
            client.send(b"x")
        command = "for n in 1 2 3 4 5 6 7 8 9; do ip neigh | grep -q REACHABLE || sleep 0.1; done; ip neigh"
        sh(command, self.victim.pid)

    def send(self, packet: bytes, kind: int, to: str) -> None:
        self.wire.send(raw_mac(to) + raw_mac(self.mac) + struct.pack("!H", kind) + packet)

    def everything(self) -> None:
        ipv6_, arp_ = 0x86DD, 0x0806
        for to in (ALL_NODES_MAC, self.victim_mac):
            self.send(router_advertisement(self.mac), ipv6_, to)
            self.send(neighbour_advertisement(self.box.ip6, self.gateway6, self.mac), ipv6_, to)
            self.send(datagram(self.box.ip6, ALL_NODES), ipv6_, to)
            self.send(datagram(FALSE_ROUTER, ALL_NODES), ipv6_, to)
        self.send(datagram(self.box.ip6, self.victim.ip6), ipv6_, self.victim_mac)
        for to in (self.victim_mac, "ff:ff:ff:ff:ff:ff"):
            self.send(arp(self.gateway4, self.mac, self.victim.ip4, self.victim_mac), arp_, to)

    def heard(self) -> set[str]:
        """What of it has come to the victim, or to the host."""
        told = set()
        if FALSE_PREFIX in sh("ip -6 addr", self.victim.pid) or FALSE_ROUTER in sh("ip -6 route", self.victim.pid):
            told.add("router")
        if FALSE_PREFIX in sh("ip -6 addr") or FALSE_ROUTER in sh("ip -6 route"):
            told.add("router of the host")
        for version, gateway in (("4", self.gateway4), ("6", self.gateway6)):
            if self.mac in sh(f"ip neigh show {gateway}", self.victim.pid):
                told.add(f"neighbour {version}")
        for name, server in (("datagram", self.server), ("datagram to the host", self.host)):
            server.settimeout(0.3)
            try:
                server.recv(9)
                told.add(name)
            except TimeoutError:
                continue
        return told

    def heard_of(self, wanted: set[str]) -> set[str]:
        """The same, after so many packets that what is wanted has come; empty if it does not."""
        told: set[str] = set()
        for _ in range(50):
            self.everything()
            told |= self.heard()
            if wanted <= told:
                return told
        return set()


def boxes(lab: Lab, **words: bool) -> Attack:
    return Attack(lab, lab.sandbox(1, mode="bridge", **words), lab.sandbox(2, mode="bridge", **words))


@in_lab
def test_nothing_of_it_is_heard(lab: Lab) -> None:
    """Router and neighbour advertisements, ARP, datagrams to all nodes or to the other's address."""
    attack = boxes(lab)
    attack.everything()
    assert attack.heard() == set()


@in_lab
def test_without_rules_it_would_be(lab: Lab) -> None:
    """The mutation: without tables, isolated ports and accept_ra = 0 the same frames do what they are to do."""
    attack = boxes(lab)
    sh("nft flush ruleset")
    for number in (1, 2):
        sh(f"bridge link set dev ns-t{number} isolated off")
    pid = attack.victim.pid
    sh(
        "cd /proc/sys/net/ipv6/conf/eth0; echo 1 > accept_ra; echo 1 > autoconf; ip -6 a a fe80::2/64 dev eth0 nodad",
        pid,
    )
    attack.know_the_gateway(lab)
    assert attack.heard_of({"router", "neighbour 4", "neighbour 6", "datagram"})


@in_lab
def test_who_is_not_isolated_takes_no_router(lab: Lab) -> None:
    """isolated = false lets the two speak; a router's word is not taken all the same."""
    attack = boxes(lab, isolated=False)
    told = attack.heard_of({"datagram"})
    assert not {"router", "router of the host"} & told


@in_lab
def test_services_of_the_host_are_not_found_by_multicast(lab: Lab) -> None:
    """By no address of the bridge, by none that means all; one that is open is found."""
    server4, server6 = lab.server(0, UDP, "0.0.0.0", 5353), lab.server(0, TCP, "::", 9001)
    for isolated in (True, False):
        box = lab.sandbox(1 + (not isolated), mode="bridge", isolated=isolated)
        gateway, gateway6 = (text.partition("/")[0] for text in (box.lease.gateway, box.lease.gateway6))
        if not isolated:
            lab.ask(box.pid, gateway, 5353, server4)
            lab.ask(box.pid, gateway6, 9001, server6)
            continue
        for address in (gateway, "255.255.255.255", box.lease.address.rpartition(".")[0] + ".255", "224.0.0.251"):
            client = lab.socket(box.pid, UDP)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.sendto(b"hello", (address, 5353))
        assert lab.refused(box.pid, gateway, 5353, server4)
        assert lab.refused(box.pid, gateway6, 9001, server6)
