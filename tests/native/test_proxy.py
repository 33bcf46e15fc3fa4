"""The PROXY header of a balancer, as C reads it: anybody may have written it."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool._native import ffi, lib
from tests.support.proxied import header, tls

V4 = ("192.0.2.1", 4711, "198.51.100.2", 443)
V6 = ("2001:db8::1", 4711, "2001:db8::2", 443)


def read(data: bytes) -> tuple[int, tuple[int, bytes, int, bytes]]:
    """What it is long, and what it says: family, address, port, name."""
    kept = ffi.from_buffer(data)
    found = ffi.new("struct nst_proxy *")
    length = lib.nst_proxy_header(kept, len(data), found)
    name = bytes(data[found.name : found.name + found.name_size])
    port = int.from_bytes(bytes(found.port), "big")
    return length, (found.family, bytes(found.address), port, name)


@pytest.mark.parametrize(("family", "where"), [(socket.AF_INET, V4), (socket.AF_INET6, V6)])
def test_whose_it_is(family: int, where: tuple[str, int, str, int]) -> None:
    data = header(where) + b"GET / HTTP/1.0"
    length, said = read(data)
    assert data[length:] == b"GET / HTTP/1.0"
    assert said == (family, socket.inet_pton(family, where[0]).ljust(16, b"\0"), 4711, b"")


def test_of_the_balancer_itself() -> None:
    """Nothing is said of it, whatever addresses come along."""
    assert read(header(None)) == (16, (0, bytes(16), 0, b""))
    assert read(header(V4, command=0x20))[1] == (0, bytes(16), 0, b"")


def test_the_name_of_a_certificate() -> None:
    """Only of one that was shown and verified; other fields are stepped over."""
    assert read(header(V4, tls("alice")))[1][3] == b"alice"
    assert read(header(V4, b"\x05\0\x02ab", tls("alice"), b"\x30\0\0"))[1][3] == b"alice"
    assert read(header(V4, tls("alice", verify=1)))[1][3] == b""
    assert read(header(V4, tls("alice", client=1)))[1][3] == b""
    assert read(header(V4, tls("alice", client=5)))[1][3] == b"alice"  # of the session
    assert read(header(V4, tls("")))[1][3] == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n",
        header(V4).replace(b"QUIT", b"QUIP"),
        header(V4, command=0x31),
        header(V4, command=0x22),
        header(V4, kind=0x12),
        header(V4, kind=0x31),
        header(V4, kind=0x21),
        header(V4, b"\x04" + struct.pack(">H", 5000) + bytes(5000)),
    ],
)
def test_what_is_none(data: bytes) -> None:
    """Another protocol, version, command or family; an address that is cut short; too long."""
    assert read(data) == (-1, (0, bytes(16), 0, b""))


@given(st.integers(0, 200))
def test_until_it_is_whole_more_has_to_come(cut: int) -> None:
    data = header(V6, tls("somebody with a long name"))
    assert read(data[:cut])[0] == (0 if cut < len(data) else len(data))


@given(st.binary(max_size=300), st.sampled_from([V4, V6]))
def test_a_name_lies_in_the_header(fields: bytes, where: tuple[str, int, str, int]) -> None:
    """Whatever fields come."""
    data = header(where, fields)
    found = ffi.new("struct nst_proxy *")
    assert lib.nst_proxy_header(ffi.from_buffer(data), len(data), found) == len(data)
    assert found.name + found.name_size <= len(data)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_name_lies_in_its_field(inside: bytes, behind: bytes) -> None:
    """No field of what comes behind the one of TLS is taken for a part of it."""
    field = struct.pack(">BHBI", 0x20, 5 + len(inside), 3, 0) + inside
    data = header(V4, field, behind)
    found = ffi.new("struct nst_proxy *")
    assert lib.nst_proxy_header(ffi.from_buffer(data), len(data), found) == len(data)
    end = len(header(V4)) + len(field)
    assert found.name + found.name_size <= end


@given(st.binary(min_size=1, max_size=200))
def test_anything(data: bytes) -> None:
    length, _ = read(data)
    assert -1 <= length <= len(data)


def test_siphash_is_the_one_of_the_paper() -> None:
    """Its own test vector, appendix A."""
    key0, key1 = struct.unpack("<2Q", bytes(range(16)))
    assert lib.nst_siphash(key0, key1, bytes(range(15)), 15) == 0xA129CA6149BE45E5
