"""Health checks: a connection to the service as a client makes it, and whether the answer is the one expected."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nstool.errors import SpecError, escaped
from nstool.service import listen

if TYPE_CHECKING:
    from nstool.service.listen import Listener
    from nstool.spec.service import Service

_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"  # a PROXY header: of the balancer itself
_MOST = 1 << 20  # bytes of an answer in which what is expected is looked for
_BEGIN = (1 << 16) + 1  # of them are kept
_SHOWN = 60  # characters of a wrong one that are said


def target(listeners: Sequence[Listener]) -> Listener:
    """Return the listener that is asked: the first of streams. Raises SpecError where there is none."""
    for one in listeners:
        if one.type == socket.SOCK_STREAM:
            return one
    raise SpecError("none of the sockets that systemd has passed is one of streams", "service.health_interval")


async def failure(listener: Listener, service: Service, refusals: Callable[[], int]) -> str | None:
    """Ask once. Returns what is wrong, empty: nothing; None: it was refused as a client is, which tells neither.

    refusals: returns how many clients were refused so far.
    """
    answer = _Answer(os.fsencode(service.health_expect))
    busy, before = service.busy.encode("utf-8", "surrogateescape"), refusals()

    def is_refused() -> bool:
        return busy.startswith(answer.begin) and refusals() > before

    wrong = "no answer: the connection was closed"
    try:
        async with asyncio.timeout(service.health_timeout):
            await _hear(listener, service, answer, is_refused)
    except TimeoutError:  # a refused connection is closed at once
        wrong = f"no answer in {service.health_timeout:g} s"
        return "" if answer.is_right else answer.wrong(f" in {service.health_timeout:g} s", wrong)
    except (ConnectionResetError, BrokenPipeError) as error:
        wrong = f"no answer: {error.strerror}"
    except OSError as error:
        return f"no answer: {error.strerror or error}"
    if is_refused():
        return None
    return "" if answer.is_right else answer.wrong("", wrong)


class _Answer:
    """What is heard of an answer: its begin, how long it is, and whether what is expected has been in it."""

    def __init__(self, expected: bytes) -> None:
        self.begin = b""
        self.length = 0
        self.is_right = False
        self._expected = expected
        self._tail = b""

    def hear(self, data: bytes) -> None:
        """Hear more of it."""
        self.begin += data[: _BEGIN - len(self.begin)]
        self.length += len(data)
        tail = self._tail + data
        self.is_right = self.is_right or self._expected in tail
        self._tail = tail[-len(self._expected) :]

    def wrong(self, when: str, nothing: str) -> str:
        """Return what is wrong with it in words; nothing: where there was none."""
        if not self.length:
            return nothing
        text = self.begin[: 4 * _SHOWN].decode("utf-8", "surrogateescape").strip()
        shown = "".join(c if c.isprintable() else escaped(c) for c in text[:_SHOWN])
        return f'another answer than expected{when}: "{shown}{"…" if len(text) > _SHOWN else ""}"'


async def _hear(listener: Listener, service: Service, answer: _Answer, is_refused: Callable[[], bool]) -> None:
    """Ask, and hear until it is the right answer, or there is no more. is_refused: whether it may be no answer."""
    loop = asyncio.get_running_loop()
    family, address = listen.dialled(listener.fd)
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as one:
        await loop.sock_connect(one, address)
        if service.proxy:
            await loop.sock_sendall(one, _LOCAL)
        await loop.sock_sendall(one, os.fsencode(service.health_send))
        while answer.length < _MOST and (data := await loop.sock_recv(one, 1 << 16)):
            answer.hear(data)
            if answer.is_right and not is_refused():
                return
