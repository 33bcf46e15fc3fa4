"""The HTTP endpoint of a service: /metrics for Prometheus, /status.json, and a page that shows what that says.

It runs in the loop of the supervisor, whose state it tells, with as much of HTTP as that needs: one GET or HEAD, its
answer, the end. Not http.server in threads: its timeouts are of each read, so that who sends a byte now and then keeps
a thread for ever, and a thread would read what the loop changes. Here one deadline holds for all of a connection, a
connection too many ends the oldest, and answers are made a few times a second however often they are asked for. The
connections of the service go to the templates, not through this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import socket
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from nstool.frozen import Frozen
from nstool.sandbox.sockets import SocketFile
from nstool.service import listen

MOST = 32  # connections at once
DEADLINE = 10.0  # seconds for all of one
HEAD = 8192  # bytes of a request
_REMEDIES = {HTTPStatus.MISDIRECTED_REQUEST: ": ask for it as localhost, or by its address"}
VERSION = 1  # of /status.json, as of the JSON of commands: nstool.cli.answer
_BACKLOG = 64
_FRESH = 0.25  # seconds for which an answer is given again
_PAUSE = 0.005  # seconds between two connections: who makes thousands gets little of the loop
_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t -~\x80-\xff]*)")
_NO_FRAMES = "frame-ancestors 'none'"
# The page says in itself what it may load: itself, and the status.
_POLICY = {"text/html; charset=utf-8": _NO_FRAMES}


class Answer(Frozen):
    """What is sent: status, type of the body, body."""

    status: HTTPStatus
    type: str
    body: bytes


class Request(Frozen):
    """A request that is well-formed. host: of its Host field, "" where it has none."""

    method: str
    path: str
    host: str


class Malformed(Exception):
    """What came is no request that is answered otherwise than by args[0], an HTTPStatus."""


class Endpoint:
    """A listening socket in the running loop, and its connections. Raises SpecError, KernelError."""

    def __init__(
        self,
        word: str,
        name: str,
        status: Callable[[], dict[str, Any]],
        place: str = "service.metrics",
        made: Callable[[SocketFile], None] = lambda file: None,
    ) -> None:
        """word: as of ``listen``. name: of the service. status: returns what is told of it. place: of the word.

        made: of open_listener.
        """
        from nstool.service.metrics import Metrics
        from nstool.service.page import page

        shown = page(name).encode()
        self._makers: dict[str, tuple[str, Callable[[], bytes]]] = {
            "/": ("text/html; charset=utf-8", lambda: shown),
            "/metrics": ("text/plain; version=0.0.4; charset=utf-8", Metrics(status).text),
            "/status.json": ("application/json", lambda: json.dumps({"version": VERSION, **status()}).encode()),
        }
        self._made: dict[str, tuple[float, bytes]] = {}
        self._open: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._listener = listen.open_listener(word, _BACKLOG, place, made=made, why=listen.METRICS)
        self._socket = socket.socket(fileno=self._listener.fd)
        self._socket.setblocking(False)
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    @property
    def where(self) -> str:
        """The address as the kernel has it."""
        return self._listener.where

    def close(self) -> None:
        """End it and all its connections."""
        asyncio.get_running_loop().remove_reader(self._socket)
        for task in (self._accepting, *self._open):
            task.cancel()
        self._socket.detach()
        listen.close_all([self._listener])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError):  # it has gone again; or no file is left for it: it waits
                connection, _ = await loop.sock_accept(self._socket)
                if len(self._open) >= MOST:
                    next(iter(self._open)).cancel()
                task = loop.create_task(self._converse(connection))
                self._open[task] = None
                task.add_done_callback(self._open.pop)
            await asyncio.sleep(_PAUSE)

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=HEAD)
        writer.transport.set_write_buffer_limits(0)  # drained is what the kernel has
        try:
            async with asyncio.timeout(DEADLINE):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()  # else what was not read would take the answer back. tcp(7)
        except (OSError, asyncio.IncompleteReadError):  # it went, or is too slow
            return
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        is_head = False
        try:
            request = await read(reader)
            is_head = request.method == "HEAD"
            self._check(request)
            kind, _ = self._makers[request.path]
            return _message(Answer(HTTPStatus.OK, kind, self._body(request.path)), is_head)
        except Malformed as error:
            status: HTTPStatus = error.args[0]
            text = f"{status.phrase}{_REMEDIES.get(status, '')}\n"
            return _message(Answer(status, "text/plain; charset=utf-8", text.encode()), is_head)

    def _check(self, request: Request) -> None:
        """Raise Malformed for what is not answered."""
        if not self._is_ours(request.host):
            raise Malformed(HTTPStatus.MISDIRECTED_REQUEST)
        if request.method not in ("GET", "HEAD"):
            raise Malformed(HTTPStatus.METHOD_NOT_ALLOWED)
        if request.path not in self._makers:
            raise Malformed(HTTPStatus.NOT_FOUND)

    def _is_ours(self, host: str) -> bool:
        """Whether a request may be meant for this host: at a loopback address a name is one that somebody made up.

        Else any page of the web could have its own name lead here, and a browser that shows it read what we say.
        """
        kind, _, rest = self.where.partition(":")
        if kind != "tcp" or not host or not _is_loopback(rest):
            return True
        return _is_loopback(host)

    def _body(self, path: str) -> bytes:
        made, body = self._made.get(path, (0.0, b""))
        if not body or monotonic() - made >= _FRESH:
            body = self._makers[path][1]()
            self._made[path] = (monotonic(), body)
        return body


def opened(
    word: str, name: str, status: Callable[[], dict[str, Any]], place: str, made: Callable[[SocketFile], None]
) -> Endpoint | None:
    """Return the endpoint of a service, None of one that has none. Arguments as of Endpoint."""
    return Endpoint(word, name, status, place, made) if word else None


async def read(reader: asyncio.StreamReader) -> Request:
    """Return what is asked. Raises Malformed.

    A line may end in a line feed alone, as who types it in ends it. RFC 9112, 2.2.
    """
    lines: list[bytes] = []
    left = HEAD
    try:
        while (line := await reader.readuntil(b"\n")) not in (b"\n", b"\r\n"):
            lines.append(line.removesuffix(b"\n").removesuffix(b"\r"))
            left -= len(line)
            if left < 0:
                raise Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    except asyncio.LimitOverrunError:
        raise Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    return _parsed(lines)


def _parsed(lines: list[bytes]) -> Request:
    """Return the request in these lines. RFC 9112. Raises Malformed."""
    first, *lines = lines or [b""]
    request = _REQUEST.fullmatch(first)
    fields = [_FIELD.fullmatch(line) for line in lines]
    hosts = [field[2].strip().decode("latin-1") for field in fields if field and field[1].lower() == b"host"]
    if request is None or None in fields or len(hosts) > 1:
        raise Malformed(HTTPStatus.BAD_REQUEST)
    path = request[2].partition(b"?")[0]
    return Request(request[1].decode(), path.decode(), "".join(hosts))


def _is_loopback(host: str) -> bool:
    """Whether HOST or HOST:PORT is an address of this host alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _message(answer: Answer, is_head: bool = False) -> bytes:
    fields = {
        "Content-Type": answer.type,
        "Content-Length": len(answer.body),
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Security-Policy": _POLICY.get(answer.type, f"default-src 'none'; {_NO_FRAMES}"),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        fields["Allow"] = "GET, HEAD"
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head if is_head else head + answer.body
