"""The sockets of a network namespace, as /proc/net lists them, and the peers of UNIX sockets. proc_pid_net(5), unix(7).

Not in these lists, so never found: AF_VSOCK, SCTP, MPTCP as such (its TCP subflows are there), Bluetooth and the like.
"""

from __future__ import annotations

import os
import socket

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_TCP_STATES = (
    "unknown",
    "established",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "unconnected",
    "close-wait",
    "last-ack",
    "listening",
    "closing",
    "syn-recv",
)
_UNIX_TYPES = {1: "stream", 2: "dgram", 5: "seqpacket"}
_UNIX_STATES = {1: "connected", 2: "connecting", 7: "unconnected", 10: "listening"}  # those of TCP
_SHOW_UID = 0x40  # UDIAG_SHOW_UID, linux/unix_diag.h, Linux 5.3
_PACKET_TYPES = {2: "dgram", 3: "raw", 10: "packet"}
# netlink(7), linux/netlink.h
_NETLINK = {
    0: "route",
    2: "usersock",
    4: "sock_diag",
    5: "nflog",
    6: "xfrm",
    7: "selinux",
    8: "iscsi",
    9: "audit",
    10: "fib_lookup",
    11: "connector",
    12: "netfilter",
    14: "dnrtmsg",
    15: "kobject_uevent",
    16: "generic",
    18: "scsitransport",
    19: "ecryptfs",
    20: "rdma",
    21: "crypto",
    22: "smc",
}
_INET = {
    "tcp": ("inet", "tcp"),
    "tcp6": ("inet6", "tcp"),
    "udp": ("inet", "udp"),
    "udp6": ("inet6", "udp"),
    "udplite": ("inet", "udplite"),
    "udplite6": ("inet6", "udplite"),
    "raw": ("inet", "raw"),
    "raw6": ("inet6", "raw"),
    "icmp": ("inet", "icmp"),
    "icmp6": ("inet6", "icmp"),
}


class Socket(Frozen):
    """A socket of a network namespace.

    family: "inet", "inet6", "unix", "packet", "netlink". type: "tcp", "udp", "raw", "stream", or the protocol of
    netlink. local, remote: "ADDRESS:PORT", "[ADDRESS]:PORT", a path, "@name" for an abstract one; "" for none. Of
    raw and icmp the port is the protocol. inode: 0 when no process has it: any more (time-wait), or not yet (to be
    accepted). uid: of the owner, as the reader sees it; None where the kernel does not tell. peer: inode of the other
    end of a UNIX socket, else 0.
    """

    family: str
    type: str
    state: str
    local: str
    remote: str
    inode: int
    uid: int | None
    receive_queue: int
    send_queue: int
    peer: int = 0


def read() -> tuple[Socket, ...]:
    """Return the sockets of the calling thread's network namespace."""
    found: list[Socket] = []
    for name, (family, type_) in _INET.items():
        found += inet(_lines(name), family, type_)
    found += unix()
    found += packet(_lines("packet"))
    found += netlink(_lines("netlink"))
    return tuple(found)


def _lines(name: str) -> list[str]:
    try:
        with open(f"/proc/thread-self/net/{name}", encoding="utf-8", errors="surrogateescape") as file:
            return file.read().split("\n")[1:-1]
    except FileNotFoundError:  # the kernel is built without that protocol
        return []


def inet(lines: Iterable[str], family: str, type_: str) -> Iterator[Socket]:
    """Read the lines of /proc/net/tcp and its like, without their heading."""
    for line in lines:
        words = line.split()
        send, receive = (int(word, 16) for word in words[4].split(":"))
        yield Socket(
            family=family,
            type=type_,
            state=_TCP_STATES[int(words[3], 16)] if int(words[3], 16) < len(_TCP_STATES) else words[3],
            local=_address(words[1], family),
            remote="" if set(words[2]) <= set("0:") else _address(words[2], family),
            inode=int(words[9]),
            uid=int(words[7]),
            receive_queue=receive,
            send_queue=send,
        )


def _address(text: str, family: str) -> str:
    # Words of 32 bits in the order of the machine, which is little endian here; the port is in the usual order.
    digits, port = text.split(":")
    words = [int(digits[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(digits), 8)]
    shown = socket.inet_ntop(socket.AF_INET if family == "inet" else socket.AF_INET6, b"".join(words))
    return f"{shown}:{int(port, 16)}" if family == "inet" else f"[{shown}]:{int(port, 16)}"


def packet(lines: Iterable[str]) -> Iterator[Socket]:
    """Read the lines of /proc/net/packet. local: the protocol and the index of the device, 0 for all. packet(7)."""
    for line in lines:
        _, _, type_, protocol, device, _, memory, uid, inode = line.split()
        kind = _PACKET_TYPES.get(int(type_), type_)
        local = f"protocol 0x{protocol} device {device}"
        yield Socket("packet", kind, "open", local, "", int(inode), int(uid), int(memory), 0)


def netlink(lines: Iterable[str]) -> Iterator[Socket]:
    """Read the lines of /proc/net/netlink. local: the port id, 0 for the kernel's own. netlink(7)."""
    for line in lines:
        words = line.split()
        protocol = _NETLINK.get(int(words[1]), words[1])
        yield Socket("netlink", protocol, "open", words[2], "", int(words[9]), None, int(words[4]), int(words[5]))


def unix() -> tuple[Socket, ...]:
    """Return the UNIX sockets of the calling thread's network namespace, with their peers. sock_diag(7).

    Not from /proc/net/unix, whose lines a name with a newline in it can forge.
    """
    from pyroute2.netlink import diag

    class Message(diag.unix_diag_msg):  # type: ignore[misc]
        # Names as they are: pyroute2 drops the zero byte that begins an abstract one.
        nla_map = (
            ("UNIX_DIAG_NAME", "cdata"),
            ("UNIX_DIAG_VFS", "hex"),
            ("UNIX_DIAG_PEER", "uint32"),
            ("UNIX_DIAG_ICONS", "hex"),
            ("UNIX_DIAG_RQLEN", "unix_diag_rqlen"),
            ("UNIX_DIAG_MEMINFO", "hex"),
            ("UNIX_DIAG_SHUTDOWN", "uint8"),
            ("UNIX_DIAG_UID", "uint32"),
        )

    show = diag.UDIAG_SHOW_NAME | diag.UDIAG_SHOW_PEER | diag.UDIAG_SHOW_RQLEN | _SHOW_UID
    with diag.DiagSocket() as socket_:
        socket_.bind()
        socket_.marshal.msg_map = {socket.AF_UNIX: Message}
        return tuple(map(_unix, socket_.get_sock_stats(family=socket.AF_UNIX, show=show)))


def _unix(row: Any) -> Socket:
    queues = row.get_attr("UNIX_DIAG_RQLEN")
    return Socket(
        family="unix",
        type=_UNIX_TYPES.get(row["udiag_type"], str(row["udiag_type"])),
        state=_UNIX_STATES.get(row["udiag_state"], str(row["udiag_state"])),
        local=_unix_name(row.get_attr("UNIX_DIAG_NAME") or b""),
        remote="",
        inode=row["udiag_ino"],
        uid=row.get_attr("UNIX_DIAG_UID"),
        receive_queue=queues["udiag_rqueue"] if queues else 0,
        send_queue=queues["udiag_wqueue"] if queues else 0,
        peer=row.get_attr("UNIX_DIAG_PEER") or 0,
    )


def _unix_name(name: bytes) -> str:
    # An abstract one begins with a zero byte and may have more; a path ends with one. unix(7)
    if name[:1] == b"\0":
        return "@" + os.fsdecode(name[1:])
    return os.fsdecode(name.partition(b"\0")[0])


def others(sockets: Iterable[Socket]) -> dict[int, Socket]:
    """Return inode → the other end in the same network namespace: of UNIX sockets, and of connections to oneself."""
    sockets = tuple(sockets)
    by_inode = {one.inode: one for one in sockets if one.inode}
    by_ends = {(one.type, *map(_plain, (one.local, one.remote))): one for one in sockets if one.remote}
    found = {}
    for one in sockets:
        ends = map(_plain, (one.remote, one.local))
        other = by_inode.get(one.peer) if one.peer else by_ends.get((one.type, *ends))
        if other is not None and one.inode and (one.peer or one.remote):
            found[one.inode] = other
    return found


def _plain(end: str) -> str:
    # A server that listens on [::] has clients of IPv4 too, whose addresses it sees mapped. ipv6(7)
    address, _, port = end.rpartition(":")
    return f"{address[8:-1]}:{port}" if address.startswith("[::ffff:") and "." in address else end
