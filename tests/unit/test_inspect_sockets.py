"""Lines of /proc/net as the kernel writes them. proc_pid_net(5)."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.inspect import sockets
from nstool.inspect.task import call_words

TCP = (
    "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000005 00:00000000 00000000  1000        0 12345 1 0 100 0 0 10 0"
)
TCP6 = (
    "   1: 00000000000000000000000001000000:0016 00000000000000000000000001000000:D431 01 00000010:00000000 "
    "02:000A 00000000     0        0 77 2 0 20 4 30 10 -1"
)
NETLINK = "000000004fbfb7b6 0   4711       00000551 0        16       0     2        0        4242     "
PACKET = "0000000000000000 3      3    0003   2     1 64     0      999"


def test_a_listening_socket() -> None:
    (found,) = sockets.inet([TCP], "inet", "tcp")
    assert found == sockets.Socket("inet", "tcp", "listening", "127.0.0.1:8080", "", 12345, 1000, 5, 0)


def test_a_connection() -> None:
    (found,) = sockets.inet([TCP6], "inet6", "tcp")
    assert (found.state, found.local, found.remote) == ("established", "[::1]:22", "[::1]:54321")
    assert (found.send_queue, found.inode) == (16, 77)


def test_netlink_and_packet() -> None:
    (found,) = sockets.netlink([NETLINK])
    assert (found.type, found.local, found.inode, found.uid, found.send_queue) == ("route", "4711", 4242, None, 16)
    (found,) = sockets.packet([PACKET])
    assert (found.type, found.local, found.inode) == ("raw", "protocol 0x0003 device 2", 999)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(1, 65535))
def test_addresses(address: object, port: int) -> None:
    packed = address.packed  # type: ignore[attr-defined]
    digits = "".join(f"{word:08X}" for word in struct.unpack(f"<{len(packed) // 4}I", packed))
    family = "inet" if len(packed) == 4 else "inet6"
    line = TCP.replace("0100007F:1F90", f"{digits}:{port:04X}")
    (found,) = sockets.inet([line], family, "tcp")
    shown = socket.inet_ntop(socket.AF_INET if family == "inet" else socket.AF_INET6, packed)
    assert found.local == (f"{shown}:{port}" if family == "inet" else f"[{shown}]:{port}")


def one(type_: str, local: str, remote: str, inode: int, peer: int = 0) -> sockets.Socket:
    return sockets.Socket("unix" if peer else "inet", type_, "", local, remote, inode, 0, 0, 0, peer)


def test_the_other_end_in_the_same_namespace() -> None:
    here, there = one("tcp", "10.0.0.1:1", "10.0.0.1:2", 5), one("tcp", "10.0.0.1:2", "10.0.0.1:1", 6)
    far, udp = one("tcp", "10.0.0.1:3", "192.0.2.1:4", 7), one("udp", "192.0.2.1:4", "10.0.0.1:3", 8)
    left, right = one("stream", "", "", 9, 10), one("stream", "", "", 10, 9)
    assert sockets.others((here, there, far, udp, left, right)) == {5: there, 6: here, 9: right, 10: left}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("running\n", ""),
        ("-1 0x7ffd 0x7f00\n", ""),
        ("202 0x7f 0x80 0x0 0x0 0x0 0xff 0x7ffd 0x7f00\n", "futex(0x7f, 0x80, 0x0, 0x0, 0x0, 0xff)"),
        ("457 0x1 0x2 0x3 0x4 0x5 0x6 0x7 0x8\n", "statmount(0x1, 0x2, 0x3, 0x4, 0x5, 0x6)"),
        ("99999 0x0 0x0 0x0 0x0 0x0 0x0 0x0 0x0\n", "call 99999(0x0, 0x0, 0x0, 0x0, 0x0, 0x0)"),
    ],
)
def test_a_system_call_in_words(text: str, words: str) -> None:
    assert call_words(text) == words
