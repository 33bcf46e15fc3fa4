"""The HTTP endpoint of a service over real sockets: what it answers, and whom a bad client hurts: nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, SpecError
from nstool.service import endpoint
from nstool.service.board import CAUSES, REFUSED, STAGES
from nstool.service.endpoint import Endpoint, Malformed, Request, read

LOCAL = "tcp:127.0.0.1:0"


def told(**changes: Any) -> dict[str, Any]:
    """Return the status of a service that has done nothing."""
    levels = ("uptime", "places", "live", "parked", "queued")
    counts = dict.fromkeys((*levels, "accepted", "lives", "nets", "rotations", "dropped"), 0)
    latency = {"count": 0, "sum": 0, "buckets": [0] * 128}
    causes = dict.fromkeys(CAUSES, 0)
    return {
        "name": "web",
        **counts,
        "generations": [],
        "ends": {name: count for name, count in causes.items() if name not in REFUSED},
        "refused": {name: causes[name] for name in REFUSED},
        "alarms": {"oom": 0},
        "latencies": dict.fromkeys(STAGES, latency),
        **changes,
    }


def run(act: Callable[[Endpoint], Awaitable[None]], word: str = LOCAL, status: Callable[[], Any] = told) -> None:
    """Run act with an endpoint, and look that nothing is left of this in the loop."""

    async def whole() -> None:
        one = Endpoint(word, "web", status)
        try:
            async with asyncio.timeout(30):
                await act(one)
        finally:
            one.close()
        async with asyncio.timeout(30):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def connected(one: Endpoint) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an endpoint."""
    kind, _, rest = one.where.partition(":")
    if kind == "unix":
        reader, writer = await asyncio.open_unix_connection(rest)
    else:
        host, _, port = rest.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(one: Endpoint, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Return status, fields and body of the answer to these bytes; the other side ends the connection."""
    async with connected(one) as (reader, writer):
        writer.write(request)
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


def get(path: str, *fields: str, method: str = "GET") -> bytes:
    """Return the bytes of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", *fields, "", ""]).encode()


# ---- what is asked ----


def parse(head: bytes) -> Request:
    """Read a request that comes at once, and no more after it."""

    async def act() -> Request:
        reader = asyncio.StreamReader()
        reader.feed_data(head)
        reader.feed_eof()
        return await read(reader)

    return asyncio.run(act())


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (get("/"), ("GET", "/", "")),
        (get("/metrics?a=b&c", "Host: a:1"), ("GET", "/metrics", "a:1")),
        (get("/x", "hOST:  b \t", "Accept: */*"), ("GET", "/x", "b")),
        (b"HEAD / HTTP/1.0\r\n\r\n", ("HEAD", "/", "")),
        (b"GET /metrics HTTP/1.0\n\n", ("GET", "/metrics", "")),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", ("GET", "/", "a")),
    ],
)
def test_a_request_is_read(head: bytes, expected: tuple[str, str, str]) -> None:
    request = parse(head)
    assert (request.method, request.path, request.host) == expected


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET http://a/ HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"\nGET / HTTP/1.1\n\n",
        get("/", "no colon"),
        get("/", " folded: 1"),
        get("/", "space : 1"),
        get("/", "a: \0"),
        get("/", "Host: a", "Host: b"),
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse(head)
    assert caught.value.args[0] == 400


# ---- what is answered ----


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (get("/"), 200),
        (get("/metrics"), 200),
        (get("/status.json"), 200),
        (get("/status.json", "Host: localhost:9100"), 200),
        (get("/status.json", "Host: [::1]:9100"), 200),
        (get("/status.json", "Host: 127.1.2.3"), 200),
        (get("/status.json", "Host: rebound.example:9100"), 421),
        (get("/status.json", "Host: 192.0.2.1"), 421),
        (get("/status.json", "Host: ["), 421),
        (get("/status.json/"), 404),
        (get("/../etc/passwd"), 404),
        (get("//"), 404),
        (get("/", method="POST"), 405),
        (get("/", method="OPTIONS"), 405),
        (b"nonsense\r\n\r\n", 400),
        (get("/", "a: " + "b" * endpoint.HEAD), 431),
        (b"x" * (1 << 17), 431),
        (get("/", *["a: b"] * (endpoint.HEAD // 6)), 431),
    ],
)
def test_each_request_has_its_status(request_: bytes, expected: int) -> None:
    async def act(one: Endpoint) -> None:
        status, fields, body = await answer(one, request_)
        assert status == expected
        assert int(fields["Content-Length"]) == len(body) > 0
        assert fields.get("Allow") == ("GET, HEAD" if expected == 405 else None)

    run(act)


@pytest.mark.parametrize("word", ["unix:{}/m.sock", "tcp:[::1]:0", LOCAL])
def test_it_listens_where_a_service_does(word: str, tmp_path: Path) -> None:
    """And removes the socket that it has made."""

    async def act(one: Endpoint) -> None:
        assert (await answer(one, get("/metrics")))[0] == 200

    run(act, word.format(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_name_leads_to_a_socket_that_is_no_loopback_address(tmp_path: Path) -> None:
    """The check of Host is for those that a browser of this host reaches as its own."""

    async def act(one: Endpoint) -> None:
        assert (await answer(one, get("/", "Host: metrics.example")))[0] == 200

    run(act, f"unix:{tmp_path}/m.sock")
    run(act, "tcp:0.0.0.0:0")


def test_an_address_that_is_not_to_be_had_is_told(tmp_path: Path) -> None:
    for word, error in (("unix:relative", SpecError), (f"unix:{tmp_path}/none/m.sock", KernelError)):
        with pytest.raises(error, match=r"service\.metrics"):
            run(lambda one: asyncio.sleep(0), word)


def test_head_is_the_answer_without_its_body() -> None:
    async def act(one: Endpoint) -> None:
        _, fields, body = await answer(one, get("/metrics"))
        assert await answer(one, get("/metrics", method="HEAD")) == (200, fields, b"")
        for request, status in ((get("/no", method="HEAD"), 404), (get("/", "Host: x.example", method="HEAD"), 421)):
            assert (await answer(one, request))[::2] == (status, b"")
        assert body

    run(act)


def test_the_status_is_what_the_service_says() -> None:
    async def act(one: Endpoint) -> None:
        _, fields, body = await answer(one, get("/status.json"))
        assert fields["Content-Type"] == "application/json"
        assert json.loads(body) == {"version": 1, **told(live=5)}

    run(act, status=lambda: told(live=5))


def test_answers_carry_what_keeps_others_out() -> None:
    """Nothing frames or caches them, and another page of the web reads none."""

    async def act(one: Endpoint) -> None:
        for path in ("/", "/metrics", "/status.json", "/none"):
            _, fields, _ = await answer(one, get(path, "Origin: http://rebound.example"))
            assert "frame-ancestors 'none'" in fields["Content-Security-Policy"]
            assert fields["X-Content-Type-Options"] == "nosniff"
            assert fields["Cache-Control"] == "no-store"
            assert fields["Cross-Origin-Resource-Policy"] == "same-origin"
            assert [name for name in fields if name.startswith("Access-Control")] == []

    run(act)


def test_the_page_names_nothing_elsewhere() -> None:
    """Its own policy lets nothing in but its script, its style and answers of its own server; a name is text in it."""
    from nstool.service.page import page

    text = page("<b>web")
    assert "<h1>&lt;b&gt;web</h1>" in text
    assert "<b>web" not in text
    assert re.findall(r"(?:https?:)?//[a-z]", re.sub(r"// [^\n]*", "", text)) == []
    assert re.findall(r"\b(?:src|href)=[^\n>]*", text) == ['href="data:,"']
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert re.sub(r"'sha256-[^']*'", "HASH", policy[1]) == (
        "default-src 'none'; style-src HASH; script-src HASH; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    assert "innerHTML" not in text


# ---- clients that do harm ----


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that is over at once."""
    monkeypatch.setattr(endpoint, "DEADLINE", 0.05)


@pytest.mark.parametrize("sent", [b"", b"GET / HT", get("/")[:-2]])
def test_who_does_not_finish_a_request_is_let_go(short: None, sent: bytes) -> None:
    async def act(one: Endpoint) -> None:
        assert await connection_end(one, sent) == b""

    run(act)


async def connection_end(one: Endpoint, sent: bytes) -> bytes:
    """Return what comes until the other side ends the connection, which is not ended here."""
    async with connected(one) as (reader, writer):
        writer.write(sent)
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""


def test_who_sends_a_byte_now_and_then_is_let_go_too(short: None) -> None:
    """The deadline is of all of a connection, not of a read."""

    async def act(one: Endpoint) -> None:
        async with connected(one) as (reader, writer):
            while not reader.at_eof():
                writer.write(b"G")
                with contextlib.suppress(TimeoutError, ConnectionError):
                    await asyncio.wait_for(reader.read(1), 0.01)
                if reader.exception():
                    return

    run(act)


def test_who_does_not_read_the_answer_is_let_go(short: None) -> None:
    """Of an answer that no buffer takes; what is not sent is dropped."""

    async def act(one: Endpoint) -> None:
        async with connected(one) as (reader, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(get("/status.json"))
            while one._open or not one._made:
                await asyncio.sleep(0.01)
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            got = 0
            with contextlib.suppress(ConnectionResetError):
                while data := await reader.read(1 << 20):
                    got += len(data)
            assert got < size

    size = 32 << 20
    run(act, status=lambda: told(name="w" * size))


def test_one_too_many_ends_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """So those that say nothing keep nobody out."""
    monkeypatch.setattr(endpoint, "MOST", 3)

    async def act(one: Endpoint) -> None:
        async with contextlib.AsyncExitStack() as stack:
            idle = []
            for _ in range(3):
                idle.append(await stack.enter_async_context(connected(one)))
                while len(one._open) < len(idle):
                    await asyncio.sleep(0.001)
            assert (await answer(one, get("/metrics")))[0] == 200
            with contextlib.suppress(ConnectionResetError):
                assert await idle[0][0].read() == b""
            for _, writer in idle[1:]:
                writer.write(get("/metrics"))
            for reader, _ in idle[1:]:
                assert (await reader.read()).startswith(b"HTTP/1.1 200 ")

    run(act)


def test_an_answer_is_made_once_for_many_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FRESH", 1e6)
    asked = []

    def status() -> dict[str, Any]:
        asked.append(1)
        return told()

    async def act(one: Endpoint) -> None:
        answers = await asyncio.gather(*(answer(one, get("/status.json")) for _ in range(20)))
        assert {status for status, _, _ in answers} == {200}

    run(act, status=status)
    assert len(asked) == 1


def test_an_answer_is_made_anew_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FRESH", 0.0)
    numbers = iter(range(9))

    async def act(one: Endpoint) -> None:
        lives = [json.loads((await answer(one, get("/status.json")))[2])["live"] for _ in range(2)]
        assert lives == [0, 1]

    run(act, status=lambda: told(live=next(numbers)))


def test_its_end_ends_its_connections() -> None:
    async def act() -> None:
        one = Endpoint(LOCAL, "web", told)
        async with connected(one) as (reader, _):
            while not one._open:
                await asyncio.sleep(0.001)
            one.close()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            with pytest.raises(OSError, match=r"."):
                await answer(one, get("/"))

    asyncio.run(act())
