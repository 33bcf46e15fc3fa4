"""What a ``[service]`` table may say, checked before anything is done."""

from __future__ import annotations

import math

from nstool.errors import SpecError
from nstool.security import signals
from nstool.spec.check import key_path
from nstool.spec.service import Service
from nstool.spec.values import nearest, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Place

CHOICES: dict[str, tuple[str, ...]] = {
    "shape": ("stdio", "socket", "port", "python", "listener"),
    "life": ("connection", "client", "shared"),
    "stderr": ("log", "connection", "null"),
    "attest": ("generation", "each", "never"),
    "variant_order": ("turn", "random"),
    "client_by": ("address", "certificate"),
}
VARY: tuple[str, ...] = (
    *("ids", "hostname", "pid", "canary", "machine-id", "boot-id"),
    *("port", "address", "clock"),
)
ALARMS: tuple[str, ...] = ("oom", "violation", "files")
WATCHED = 64  # paths
# Field: least, most, what it is. csrc/nstool.h has the limits of places and queue.
RANGES: dict[str, tuple[float, float, str]] = {
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
    "shards": (1, 64, "templates"),
    "bandwidth": (0, 1 << 32, "bytes a second"),
    "health_interval": (0, 86400, "seconds"),
    "health_timeout": (0.001, 86400, "seconds"),
    "health_failures": (1, 1_000_000, "failures"),
    "backlog": (1, 65535, "connections that the kernel keeps"),
}
_TEXT = 1 << 16  # bytes
_TEXTS = ("busy", "health_send", "health_expect")
_WORDS = {"vary": VARY, "alarms": ALARMS}
_STREAMS = ("tcp:", "unix:", "systemd")
_FILES = ("unix:/", "seqpacket:/")
_OF_FILES = ("socket_mode", "socket_owner")
_KERNELS = ("/proc", "/sys")  # what is there changes by itself
# Shapes whose command may have more than one connection, and for how many.
_LIVES = {"port": CHOICES["life"], "listener": ("connection", "shared")}
_SEVERAL = ("client", "shared")
# Keys that bound or count connections.
_OF_CONNECTIONS = ("queue", "busy", "client_most", "client_rate", "life_connections")
# Where others than processes of this host do not connect.
PROXIES = ("tcp:127.", "tcp:[::1]:", "unix:")
FORGED = (
    "who connects there could say to be anybody: listen where the balancer alone comes, unix:/run/web.sock or "
    "tcp:127.0.0.1:8080"
)
CONFIDES = (
    "by a Unix socket a sandbox can give its client an open file of its /proc/self/net, who then watches the next "
    "client's connections in that network: leave lease_net out, or listen at tcp: and udp: only"
)
# Keys by which several connections belong together.
_OF_CLIENTS = ("client_most", "client_rate", "life")
# Why some shapes have no listener of datagrams.
NO_DATAGRAMS = {
    "port": 'datagrams are not relayed to a port: shape = "stdio"',
    "listener": 'a command with that socket could send to anybody from this host: shape = "stdio"',
}


def check_name(name: str, place: str) -> None:
    """Raise SpecError for a name that a template of another service could have."""
    start, _, end = name.rpartition(".")
    if start and end and all(word.isascii() and word.isdecimal() for word in end.split("-", 1)):
        raise SpecError(
            f"{quoted(name)} would be the name of generation {end} of a service {quoted(start)}: let it not end in a "
            f"dot and a number, {start}-{end}",
            place,
        )


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
            raise SpecError(_not_one_of(value, choices), place((name,)))
    for name, (least, most, what) in RANGES.items():
        value = getattr(service, name)
        if not least <= value <= most or math.isnan(value):
            raise SpecError(f"{value} is not from {least} to {most} {what}", place((name,)))
    _check_files(service, place)
    _check_shape(service, place)
    _check_idle_words(service, place)
    if service.ready > service.places:
        raise SpecError(f"{service.ready} sandboxes cannot wait in {service.places} places", place(("ready",)))
    if service.shards > service.places:
        raise SpecError(f"{service.shards} templates have no {service.places} places to share", place(("shards",)))
    for name in _OF_CLIENTS if service.shards > 1 else ():
        if getattr(service, name) not in (0, "connection"):
            why = "connections of one client come to all shards, and each counts for itself: leave one of the two out"
            raise SpecError(why, place((name,)))
    for name in _TEXTS:
        if len(getattr(service, name).encode("utf-8", "surrogateescape")) > _TEXT:
            raise SpecError(f"more than {_TEXT} bytes", place((name,)))
    if service.metrics and not service.metrics.startswith(("tcp:", "unix:")):
        raise SpecError(
            f'{quoted(service.metrics)} is neither "tcp:ADDRESS:PORT" nor "unix:PATH": tcp:127.0.0.1:9100',
            place(("metrics",)),
        )
    for name, known in _WORDS.items():
        for number, word in enumerate(getattr(service, name)):
            if word not in known:
                raise SpecError(_not_one_of(word, known), place((name, number)))
            if word in getattr(service, name)[:number]:
                raise SpecError(f"{quoted(word)} is there twice", place((name, number)))
    _check_watch(service, place)
    _check_health(service, place)
    _check_proxy(service, place)
    _check_variants(service, place)


def _check_files(service: Service, place: Place) -> None:
    for name in _OF_FILES:
        if getattr(service, name) not in (None, "") and not any(word.startswith(_FILES) for word in service.listen):
            why = "none of listen is a socket with a file: unix:/run/web.sock; of systemd's, the .socket unit says it"
            raise SpecError(why, place((name,)))
    mode = service.socket_mode
    if mode is not None and not 0 <= mode <= 0o777:
        raise SpecError(f'0{mode:o} is not from 0 to 0777: "0660"', place(("socket_mode",)))


def _not_one_of(word: str, known: tuple[str, ...]) -> str:
    near = nearest(word, known)
    return f"{quoted(word)} is not one of {', '.join(known)}" + (f'; did you mean "{near}"?' if near else "")


def _check_idle_words(service: Service, place: Place) -> None:
    """Raise SpecError for a word that changes nothing, as what it is about is not asked for."""
    client = service.client_most or service.client_rate or service.life == "client"
    connected = any(not word.startswith("udp:") for word in service.listen)
    # Else who comes waits in the kernel's backlog. A life of several connections takes them while it has room.
    refuses = service.queue or service.client_most or service.client_rate or service.proxy or service.life in _SEVERAL
    needs = {
        "queue": (connected, 'datagrams do not wait: it is of connections, a listener "tcp:" or "unix:"'),
        "busy": (
            refuses and connected,
            "nobody is refused, all wait in the kernel's backlog: queue = 16, or client_most = 4"
            if connected
            else 'who sends datagrams and is refused hears nothing: a listener "tcp:" or "unix:"',
        ),
        "queue_timeout": (service.queue, "nobody waits without a queue: queue = 16"),
        "client_burst": (service.client_rate, "it is of a rate: client_rate = 5"),
        "client_prefix4": (client, "nothing is counted by client: client_most = 4"),
        "client_prefix6": (client, "nothing is counted by client: client_most = 4"),
        "life_connections": (service.life != "connection", 'a life has one connection: life = "client"'),
        "variant_order": (service.roots or service.commands, "there is one root and one command: roots, commands"),
        "idle": (
            service.life == "client" or any(word.startswith(("udp:", "systemd")) for word in service.listen),
            'it is of clients with more than a connection: life = "client", or a listener "udp:"',
        ),
        "health_timeout": (service.health_interval, "nobody asks: health_interval = 10"),
        "health_failures": (service.health_interval, "nobody asks: health_interval = 10"),
    }
    for name, (asked, why) in needs.items():
        if not asked and getattr(service, name) != Service.__defaults__[name]:
            raise SpecError(f"it does nothing: {why}", place((name,)))
    if service.lease_net and service.shape != "port":
        for number, word in enumerate(service.listen):
            if word.startswith(("unix:", "seqpacket:")):
                raise SpecError(CONFIDES, place(("listen", number)))


def _check_watch(service: Service, place: Place) -> None:
    if service.watch and "files" not in service.alarms:
        raise SpecError('nobody looks at it: alarms = ["files"]', place(("watch",)))
    if "files" in service.alarms and not service.watch:
        raise SpecError('"files" needs what is not to change: watch = ["/etc/passwd"]', place(("alarms",)))
    if len(service.watch) > WATCHED:
        raise SpecError(f"more than {WATCHED} paths", place(("watch",)))
    for number, path in enumerate(service.watch):
        at = place(("watch", number))
        if not path.startswith("/") or "\0" in path:
            raise SpecError(f"{quoted(path)} is no absolute path inside: /etc/passwd", at)
        parts = path.split("/")
        if path != "/" and (".." in parts or "." in parts or "" in parts[1:]):
            raise SpecError(f'{quoted(path)}: write it without ".", ".." and empty parts', at)
        if f"/{parts[1]}" in _KERNELS:
            raise SpecError(f"{quoted(path)} is the kernel's, and changes by itself", at)


def _check_health(service: Service, place: Place) -> None:
    texts = [name for name in ("health_send", "health_expect") if getattr(service, name)]
    if not service.health_interval:
        if texts:
            raise SpecError("nobody asks: health_interval = 10", place((texts[0],)))
        return
    at = place(("health_interval",))
    if not texts:
        raise SpecError(
            "a connection is taken by the kernel, however the service is: say what it is asked, health_send = "
            '"PING\\r\\n", or what it says by itself, health_expect = "SSH-"',
            at,
        )
    if not any(word.startswith(_STREAMS) for word in service.listen):
        raise SpecError('it connects as a client, and there is no stream to connect to: "tcp:" or "unix:"', at)


def _check_proxy(service: Service, place: Place) -> None:
    if service.client_by == "certificate" and not service.proxy:
        why = "a TLS terminator tells whose it is, in the PROXY header: proxy = true"
        raise SpecError(why, place(("client_by",)))
    if service.proxy and service.shape == "listener":
        raise SpecError("the command accepts by itself, and reads the header: leave it out", place(("proxy",)))
    for number, word in enumerate(service.listen if service.proxy else ()):
        if not word.startswith((*PROXIES, "systemd")):
            raise SpecError(FORGED, place(("listen", number)))


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
