"""The packet filter of a socket that listens, and of its connections. socket(7), bpf(2), linux/filter.h."""

from __future__ import annotations

import os
import socket
from _struct import Struct  # what struct is made of
from errno import ENOSYS, EPERM

from nstool import syscalls
from nstool._native import ffi
from nstool.errors import KernelError

_CLASSIC = Struct("<HBBI")  # struct sock_filter: code, where true, where false, value
_PROGRAM = Struct("<H6xQ")  # struct sock_fprog
_EXTENDED = Struct("<BBhi")  # struct bpf_insn: code, registers, where to, value
_LOAD_8, _LOAD_16, _LOAD_32, _AND, _EQUAL, _RETURN = 0x30, 0x28, 0x20, 0x54, 0x15, 0x06  # the loads are of both
_COPY, _SET, _SET_64, _FIELD_64, _FIELD_32 = 0xBF, 0xB7, 0x18, 0x79, 0x61
_CALL, _EXIT, _EQUAL_64, _SAME_64, _OTHER_32 = 0x85, 0x95, 0x15, 0x1D, 0x56
_GET_COOKIE = 46  # BPF_FUNC_get_socket_cookie
_SOCKET, _STATE = 168, 72  # where they are: __sk_buff.sk, bpf_sock.state
_LISTENS = 10  # TCP_LISTEN
_FLAGS, _SYN, _SYN_ACK = 13, 0x02, 0x12  # where the flags of TCP are; who asks for a connection, the answer: RFC 9293
_NETWORK = -0x100000  # SKF_NET_OFF: from the header of IP; else from that of TCP
_ALL = 0xFFFF_FFFF  # bytes of a packet that are kept
_ATTACH_FILTER, _LOCK_FILTER, _ATTACH_BPF, _COOKIE = 26, 44, 50, 57
_NONE = (EPERM, ENOSYS)  # of bpf(2): who may not, or a kernel that was built without
_ONLY_ROOT = (
    ("this kernel lets root only do that",),
    ('run as root, listen on a Unix socket, or take shape = "port", which relays',),
)


def tie(one: socket.socket, place: str, *, needed: bool = True) -> None:
    """Let a socket that listens, and each connection of it, hear only what is for its address, for ever.

    A connection is a socket of this network namespace, in the hands of a sandbox. It could be disconnected there, and
    connected to anybody here, or listen (connect(2), AF_UNSPEC). It would have another port then, or another address
    with this one, or beside the service: so no connection hears who asks for one, nor anything when it listens. A
    listening socket itself may keep the port: so the answer to a connection that it asks for is heard by neither.
    needed: False where connections are relayed, and never given away. Raises KernelError.
    """
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if one.getsockopt(socket.SOL_SOCKET, _LOCK_FILTER):  # one that systemd keeps, and that a service has had before
        return
    try:
        try:
            _attach_extended(one)
        except OSError as error:
            if error.errno not in _NONE:
                raise
            _attach_classic(one)
        one.setsockopt(socket.SOL_SOCKET, _LOCK_FILTER, 1)
    except OSError as error:
        if error.errno == EPERM and not needed:
            return
        why = "without it a sandbox connects the connection that it is given to other services of this host"
        hints = _ONLY_ROOT if error.errno == EPERM else ()
        call = error.call if isinstance(error, KernelError) else "setsockopt(SO_ATTACH_FILTER)"
        raise KernelError(call, error.errno or 0, place, why, *hints) from None


def is_weaker() -> bool:
    """Whether ``tie`` has a filter here that does not tell the socket that listens from its connections."""
    try:
        os.close(syscalls.bpf_socket_filter(_EXTENDED.pack(_SET, 0, 0, 0) + _EXTENDED.pack(_EXIT, 0, 0, 0)))
    except KernelError as error:
        return error.errno in _NONE
    return False


def _wanted(one: socket.socket) -> list[tuple[int, int, int]]:
    """Return what packets for the address of a socket have: load, offset, value."""
    address, port = one.getsockname()[:2]
    data = socket.inet_pton(one.family, address)
    at = _NETWORK + (16 if one.family == socket.AF_INET else 24)
    wanted = [(_LOAD_16, 2, port)]
    if any(data):  # else all addresses have this port
        wanted += [(_LOAD_32, at + n, int.from_bytes(data[n : n + 4], "big")) for n in range(0, len(data), 4)]
    return wanted


def _attach_classic(one: socket.socket) -> None:
    """By a filter that knows nothing of the socket whose packet it is: what asks for a connection is heard by all."""
    wanted = _wanted(one)
    left = 2 * len(wanted)
    code = _CLASSIC.pack(_LOAD_8, 0, 0, _FLAGS) + _CLASSIC.pack(_AND, 0, 0, _SYN_ACK)
    code += _CLASSIC.pack(_EQUAL, left + 1, 0, _SYN_ACK)
    for load, offset, value in wanted:
        left -= 2
        code += _CLASSIC.pack(load, 0, 0, offset & 0xFFFF_FFFF) + _CLASSIC.pack(_EQUAL, 0, left + 1, value)
    code += _CLASSIC.pack(_RETURN, 0, 0, _ALL) + _CLASSIC.pack(_RETURN, 0, 0, 0)
    kept = ffi.from_buffer(code)
    program = _PROGRAM.pack(len(code) // _CLASSIC.size, int(ffi.cast("uintptr_t", kept)))
    one.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _attach_extended(one: socket.socket) -> None:
    """By one that tells the socket that listens from its connections: each socket has a cookie of its own."""
    cookie = int.from_bytes(one.getsockopt(socket.SOL_SOCKET, _COOKIE, 8), "little")
    program = syscalls.bpf_socket_filter(_extended(cookie, _wanted(one)))
    try:
        one.setsockopt(socket.SOL_SOCKET, _ATTACH_BPF, program)
    finally:
        os.close(program)


def _extended(cookie: int, wanted: list[tuple[int, int, int]]) -> bytes:
    """Return its program. Loads of packets are to register 0 and need the packet in 6; calls keep 6 to 9."""
    rows: list[tuple[int, int, int | None, int]] = [
        (_COPY, 0x16, 0, 0),
        (_CALL, 0, 0, _GET_COOKIE),
        (_SET_64, 0x02, 0, _signed(cookie & _ALL)),
        (0, 0, 0, _signed(cookie >> 32)),
        (_SAME_64, 0x20, len(_OF_CONNECTIONS), 0),
        *_OF_CONNECTIONS,
        (_LOAD_8, 0, 0, _FLAGS),
        (_AND, 0, 0, _SYN_ACK),
        (_EQUAL_64, 0, None, _SYN_ACK),
    ]
    for load, offset, value in wanted:
        rows += [(load, 0, 0, offset), (_OTHER_32, 0, None, _signed(value))]
    rows += [(_SET, 0, 0, -1), (_EXIT, 0, 0, 0), (_SET, 0, 0, 0), (_EXIT, 0, 0, 0)]
    drop = len(rows) - 2
    return b"".join(
        _EXTENDED.pack(code, registers, drop - n - 1 if to is None else to, value)
        for n, (code, registers, to, value) in enumerate(rows)
    )


# Of all but the socket that listens: nothing where it listens, too, and nothing that asks for a connection. The number
# of a jump that is None goes to where the packet is dropped.
_OF_CONNECTIONS: tuple[tuple[int, int, int | None, int], ...] = (
    (_FIELD_64, 0x61, _SOCKET, 0),
    (_EQUAL_64, 0x01, None, 0),
    (_FIELD_32, 0x10, _STATE, 0),
    (_EQUAL_64, 0x00, None, _LISTENS),
    (_LOAD_8, 0, 0, _FLAGS),
    (_AND, 0, 0, _SYN_ACK),
    (_EQUAL_64, 0, None, _SYN),
)


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
