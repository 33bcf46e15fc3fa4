"""Health checks: a connection to the service as a client makes it, and whether the answer is the one expected."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nstool.errors import SpecError
from nstool.service import listen

if TYPE_CHECKING:
    from nstool.service.listen import Listener
    from nstool.spec.service import Service

_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"  # a PROXY header: of the balancer itself
_MOST = 1 << 20  # bytes of an answer in which what is expected is looked for


def target(listeners: Sequence[Listener]) -> Listener:
    """Return the listener that is asked: the first of streams. Raises SpecError where there is none."""
    for one in listeners:
        if one.type == socket.SOCK_STREAM:
            return one
    raise SpecError("none of the sockets that systemd has passed is one of streams", "service.health_interval")


async def failure(listener: Listener, service: Service) -> str:
    """Ask once. Returns what is wrong, empty: nothing."""
    try:
        async with asyncio.timeout(service.health_timeout):
            return await _asked(listener, service)
    except TimeoutError:
        return f"no answer in {service.health_timeout:g} s"
    except OSError as error:
        return f"no answer: {error.strerror or error}"


async def _asked(listener: Listener, service: Service) -> str:
    loop = asyncio.get_running_loop()
    family, address = listen.dialled(listener.fd)
    expected = os.fsencode(service.health_expect)
    tail, length = b"", 0
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as one:
        await loop.sock_connect(one, address)
        if service.proxy:
            await loop.sock_sendall(one, _LOCAL)
        await loop.sock_sendall(one, os.fsencode(service.health_send))
        while length < _MOST and (data := await loop.sock_recv(one, 1 << 16)):
            length += len(data)
            tail += data
            if expected in tail:
                return ""
            tail = tail[-len(expected) :]
    return "another answer than expected" if length else "no answer: the connection was closed"
