"""What a ``[service]`` table may say, checked before anything is done."""

from __future__ import annotations

import math

from nstool.errors import SpecError
from nstool.security import signals
from nstool.spec.check import key_path
from nstool.spec.service import Service
from nstool.spec.values import quoted, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Place

CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("stdio", "socket", "port", "python", "listener"),
    "life": ("connection", "client", "shared"),
    "stderr": ("log", "connection", "null"),
    "attest": ("generation", "each", "never"),
    "variant_order": ("turn", "random"),
}
VARY: tuple[str, ...] = (
    *("ids", "hostname", "pid", "canary", "machine-id", "boot-id"),
    *("port", "address", "clock"),
)
# Field: least, most, what it is. csrc/nstool.h has the limits of places and queue.
_RANGES: dict[str, tuple[float, float, str]] = {
    "places": (1, 1024, "sandboxes at once"),
    "ready": (0, 1024, "sandboxes that wait"),
    "queue": (0, 4096, "connections that wait"),
    "queue_timeout": (0, 86400, "seconds"),
    "idle": (0, 4_000_000, "seconds"),
    "start_timeout": (0.001, 86400, "seconds"),
    "life_connections": (0, 1 << 30, "connections"),
    "port": (0, 65535, "a port"),
    "wall": (0, 4_000_000, "seconds"),
    "grace": (0, 86400, "seconds"),
    "client_most": (0, 1024, "sandboxes of one client"),
    "client_rate": (0, 1_000_000, "connections a second"),
    "client_burst": (1, 1_000_000, "connections at once"),
    "client_prefix4": (1, 32, "bits of an IPv4 address"),
    "client_prefix6": (1, 128, "bits of an IPv6 address"),
    "renew_after": (0, 31_536_000, "seconds"),
    "renew_lives": (0, 1 << 53, "sandboxes"),
    "bandwidth": (0, 1 << 32, "bytes a second"),
    "backlog": (1, 65535, "connections that the kernel keeps"),
}
_BUSY = 1 << 16  # bytes
# Shapes whose command may have more than one connection, and for how many.
_LIVES = {"port": CHOICES["life"], "listener": ("connection", "shared")}
# Keys that bound or count connections.
_OF_CONNECTIONS = ("queue", "busy", "client_most", "client_rate", "life_connections")
# Why some shapes have no listener of datagrams.
NO_DATAGRAMS = {
    "port": 'datagrams are not relayed to a port: shape = "stdio"',
    "listener": 'a command with that socket could send to anybody from this host: shape = "stdio"',
}


def check_service(service: Service, place: Place = key_path) -> None:
    """Raise SpecError for what no service can be."""
    if not service.listen:
        raise SpecError('nobody can connect: listen = ["tcp:127.0.0.1:8080"]', place(("listen",)))
    for number, word in enumerate(service.listen):
        if word in service.listen[:number]:
            raise SpecError(f"{quoted(word)} is there twice", place(("listen", number)))
    for name, choices in CHOICES.items():
        value = getattr(service, name)
        if value not in choices:
            hint = suggest(value, choices)
            raise SpecError(f"{quoted(value)} is not one of {', '.join(choices)}{hint}", place((name,)))
    for name, (least, most, what) in _RANGES.items():
        value = getattr(service, name)
        if not least <= value <= most or math.isnan(value):
            raise SpecError(f"{value} is not from {least} to {most} {what}", place((name,)))
    _check_shape(service, place)
    if service.ready > service.places:
        raise SpecError(f"{service.ready} sandboxes cannot wait in {service.places} places", place(("ready",)))
    if len(service.busy.encode("utf-8", "surrogateescape")) > _BUSY:
        raise SpecError(f"more than {_BUSY} bytes", place(("busy",)))
    if service.metrics and not service.metrics.startswith(("tcp:", "unix:")):
        raise SpecError(
            f'{quoted(service.metrics)} is neither "tcp:ADDRESS:PORT" nor "unix:PATH": tcp:127.0.0.1:9100',
            place(("metrics",)),
        )
    for number, word in enumerate(service.vary):
        if word not in VARY:
            raise SpecError(
                f"{quoted(word)} is not one of {', '.join(VARY)}{suggest(word, VARY)}", place(("vary", number))
            )
    _check_variants(service, place)


def _check_variants(service: Service, place: Place) -> None:
    if service.commands and service.shape == "python":
        raise SpecError("a handler has no command: leave it out", place(("commands",)))
    if service.roots and service.commands and len(service.roots) != len(service.commands):
        raise SpecError(
            f"each command is that of the root at its place: {len(service.commands)} commands for "
            f"{len(service.roots)} roots",
            place(("commands",)),
        )


def _check_shape(service: Service, place: Place) -> None:
    relayed = service.shape == "port"
    if (service.shape == "python") != bool(service.handler):
        raise SpecError(
            'shape = "python" needs the file of the function: handler = "app.py"'
            if service.shape == "python"
            else 'only shape = "python" has one',
            place(("handler",)),
        )
    if relayed != bool(service.port) and not (relayed and "port" in service.vary):
        raise SpecError(
            'shape = "port" needs the port that the command listens on, inside: port = 80'
            if relayed
            else 'only with shape = "port" does the command listen on one',
            place(("port",)),
        )
    lives = _LIVES.get(service.shape, ("connection",))
    if service.life not in lives:
        raise SpecError(
            f'"{service.life}" needs a command that takes several connections: shape = "port"', place(("life",))
        )
    if service.shape in _LIVES and service.stderr == "connection":
        raise SpecError(f'no connection is a file of the command of shape = "{service.shape}"', place(("stderr",)))
    if service.bandwidth and not relayed:
        why = 'a connection that is the command\'s own goes past nstool: shape = "port"'
        raise SpecError(why, place(("bandwidth",)))
    for name in _OF_CONNECTIONS if service.shape == "listener" else ():
        if getattr(service, name):
            raise SpecError('with shape = "listener" nstool sees no connection: leave it out', place((name,)))
    for number, word in enumerate(service.listen):
        if word.startswith("udp:") and service.shape in NO_DATAGRAMS:
            raise SpecError(NO_DATAGRAMS[service.shape], place(("listen", number)))
    signals.number_of(service.stop_signal, place(("stop_signal",)))
