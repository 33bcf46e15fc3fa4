"""The service of benchmarks/serving.py as a function."""

from __future__ import annotations

import socket

from nstool.service import handler

ANSWER = b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


@handler
def handle(connection: socket.socket) -> None:
    """Answer as tiny_http does."""
    connection.recv(4096)
    connection.sendall(ANSWER)
