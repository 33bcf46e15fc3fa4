"""PROXY headers, version 2, as a load balancer or a TLS terminator sends them."""

from __future__ import annotations

import socket
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def header(where: tuple[str, int, str, int] | None, *fields: bytes, command: int = 0x21, kind: int = 0) -> bytes:
    """Return a header: from an address and port, to an address and port. where: None for the balancer's own."""
    if where is None:
        return SIGNATURE + b"\x20\0\0\0"
    source, port, target, to = where
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    body = socket.inet_pton(family, source) + socket.inet_pton(family, target) + struct.pack(">2H", port, to)
    body += b"".join(fields)
    kind = kind or (0x21 if family == socket.AF_INET6 else 0x11)
    return SIGNATURE + struct.pack(">BBH", command, kind, len(body)) + body


def tls(name: str, *, client: int = 3, verify: int = 0) -> bytes:
    """Return the field that says whose certificate was shown. client: bits of it. verify: 0 of one that is good."""
    common = name.encode()
    inside = struct.pack(">BI", client, verify) + b"\x21\0\x07TLSv1.3" + struct.pack(">BH", 0x22, len(common)) + common
    return struct.pack(">BH", 0x20, len(inside)) + inside
