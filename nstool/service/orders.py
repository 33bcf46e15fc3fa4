"""What a template is told: the plan of its sandboxes, what varies, and its limits, as csrc/serve reads it. Pure."""

from __future__ import annotations

import os
from _struct import Struct  # what struct is made of

from nstool.errors import NstoolError
from nstool.frozen import Frozen
from nstool.security import signals
from nstool.spec.service import Service

_MAGIC = 0x3150534E
_HEADER = Struct("<36I")  # struct nst_service
_VARY = Struct("<IIIIqqQII")  # struct nst_vary
HEX, DECIMAL, BINARY = 1, 2, 3
BY_PLACE, BY_LIFE, RANDOM = 0, 1, 2
USE_PORT, USE_OCTET = 1, 2  # enum nst_use
SHAPES = {"stdio": 0, "socket": 0, "port": 1, "python": 2, "listener": 3}  # enum nst_shape
PROXIED = ((False, "address"), (True, "address"), (True, "certificate"))  # enum nst_proxied
LIVES = ("connection", "client", "shared")  # enum nst_life


class Vary(Frozen):
    """What takes the place of ``token`` in a plan, sandbox by sandbox. See struct nst_vary.

    token: the bytes as they are in the plan, of which ``width`` (0: all) vary from ``at`` on. source: BY_PLACE,
    BY_LIFE, or RANDOM and above, one number a draw. format: HEX, DECIMAL, BINARY. value: first + step * n, where n is
    what the source gives below count. use: what the template does with it, USE_PORT, USE_OCTET and above; 0: nothing.
    """

    token: bytes
    source: int
    format: int
    first: int = 0
    step: int = 1
    count: int = 1
    at: int = 0
    width: int = 0
    use: int = 0


def records(plan: bytes, varied: tuple[Vary, ...]) -> bytes:
    """Return the table of what varies. Raises NstoolError for a token that the plan has not."""
    made = []
    for vary in varied:
        at = plan.find(vary.token)
        if at < 0:
            raise NstoolError(f"a bug of nstool: {vary.token!r} is not in the plan of the sandbox")
        while at >= 0:
            where = (at + vary.at, vary.width or len(vary.token))
            value = (vary.first, vary.step, vary.count)
            made.append(_VARY.pack(vary.source, vary.format, *where, *value, vary.use, 0))
            at = plan.find(vary.token, at + len(vary.token))
    return b"".join(made)


def encode(
    service: Service,
    plan: bytes,
    varied: tuple[Vary, ...],
    *,
    fds: int,
    passed: int,
    pinned: int = 0,
    zygote: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> bytes:
    """Return the orders. plan: encoded, of one sandbox, with ``passed`` fds from 3 on; fds: how many each place has.

    pinned: bytes that may outlive a sandbox in its memory cgroup, 0 where each place has no fds of that. zygote: argv,
    environment.
    """
    started = b"".join(b"".join(os.fsencode(word) + b"\0" for word in words) + b"\0" for words in zygote)
    table = records(plan, varied)
    busy = service.busy.encode()
    plan_at = _HEADER.size
    vary_at = plan_at + -(-len(plan) // 8) * 8
    busy_at = vary_at + len(table)
    header = _HEADER.pack(
        _MAGIC,
        busy_at + len(busy) + len(started),
        plan_at,
        len(plan),
        vary_at,
        len(table) // _VARY.size,
        busy_at,
        len(busy),
        service.places,
        fds,
        passed,
        connection_mask(service) & 0b111,
        service.ready or int(service.shape == "listener"),
        service.queue,
        milliseconds(service.queue_timeout),
        milliseconds(service.wall),
        milliseconds(service.grace),
        service.client_most,
        round(service.client_rate * 1000),
        service.client_burst,
        service.client_prefix4,
        service.client_prefix6,
        service.attest == "each",
        SHAPES[service.shape],
        LIVES.index(service.life),
        service.port,
        milliseconds(service.idle),
        milliseconds(service.start_timeout),
        service.life_connections,
        signals.number_of(service.stop_signal, "service.stop_signal"),
        service.lease_net,
        busy_at + len(busy),
        -(-service.bandwidth // 1024),
        PROXIED.index((service.proxy, service.client_by)),
        pinned >> 10,
        0,
    )
    return header + plan.ljust(vary_at - plan_at, b"\0") + table + busy + started


def connection_mask(service: Service) -> int:
    """Return the mask of a command's fds that are the connection."""
    if service.shape in ("port", "listener"):
        return 0
    passed = service.shape in ("socket", "python")
    return (0b1000 if passed else 0b011) | (0b100 if service.stderr == "connection" else 0)


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, at least one of what is not nothing."""
    return max(1, round(seconds * 1000)) if seconds else 0
