"""A name server for one client: it reads questions and writes A records of a table. RFC 1035."""

from __future__ import annotations

import os
import socket
import struct
import sys
from pathlib import Path

HEADER = struct.Struct("!6H")  # id, flags, and how many questions, answers, authorities, additional records
ANSWER, RECURSION_DESIRED, OPCODE = 0x8400, 0x0100, 0x7800  # ANSWER: a response, authoritative
FORMAT_ERROR, NO_SUCH_NAME, NOT_IMPLEMENTED = 1, 3, 4
A, IN, TTL = 1, 1, 300
POINTER = b"\xc0\x0c"  # to the name of the question, which is behind the header

Names = dict[str, list[str]]


def names(path: Path) -> Names:
    """Return the addresses of each name of a file of lines "NAME ADDRESS"."""
    found: Names = {}
    for line in path.read_text().splitlines():
        name, address = line.split()
        found.setdefault(name.lower(), []).append(address)
    return found


def question(data: bytes) -> tuple[str, int, int, bytes]:
    """Return name, type and class of what is asked, and the bytes of it. Raises ValueError."""
    labels, at = [], HEADER.size
    while at < len(data) and 0 < data[at] < 64:
        labels.append(data[at + 1 : at + 1 + data[at]].decode("ascii"))
        at += 1 + data[at]
    if at + 5 > len(data) or data[at]:
        raise ValueError("no name with a type and a class behind it")
    kind, class_ = struct.unpack_from("!2H", data, at + 1)
    return ".".join(labels).lower(), kind, class_, data[HEADER.size : at + 5]


def answer(data: bytes, known: Names) -> bytes:
    """Return what is answered to a datagram; nothing to what is no question."""
    if len(data) < HEADER.size:
        return b""
    number, flags, count, *_ = HEADER.unpack_from(data)
    if flags & 0x8000:
        return b""  # an answer: two servers would never be done with each other
    echoed = ANSWER | flags & (OPCODE | RECURSION_DESIRED)
    if flags & OPCODE:
        return HEADER.pack(number, echoed | NOT_IMPLEMENTED, 0, 0, 0, 0)
    try:
        if count != 1:
            raise ValueError(f"{count} questions")
        name, kind, class_, asked = question(data)
    except ValueError:
        return HEADER.pack(number, echoed | FORMAT_ERROR, 0, 0, 0, 0)
    addresses = known.get(name, []) if (kind, class_) == (A, IN) else []
    code = 0 if name in known else NO_SUCH_NAME
    records = [POINTER + struct.pack("!2HIH", A, IN, TTL, 4) + socket.inet_aton(each) for each in addresses]
    return HEADER.pack(number, echoed | code, 1, len(records), 0, 0) + asked + b"".join(records)


if __name__ == "__main__":
    table = names(Path(sys.argv[1]))
    while True:
        if told := answer(os.read(0, 65535), table):
            os.write(1, told)
