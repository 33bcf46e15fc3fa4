"""The ``[service]`` table: how connections come to the sandboxes of a spec. Plain frozen data, no checks."""

from __future__ import annotations

from nstool.frozen import Frozen

# Keys that are seconds: "10m" says them too.
SECONDS = (
    *("idle", "start_timeout", "queue_timeout", "wall", "grace"),
    *("renew_after", "health_interval", "health_timeout"),
)


class Service(Frozen):
    """``[service]`` of a spec for ``nstool serve``: each connection gets a sandbox of its own.

    listen: "tcp:ADDRESS:PORT", "udp:ADDRESS:PORT", "unix:PATH", "seqpacket:PATH", "systemd" for the sockets that it
    passes.
    socket_mode, socket_owner: of the file of a Unix socket of ``listen``: permission bits, None: what the umask leaves
    of 0777; "user:group", "user" (with its first group) or ":group", names or numbers, "": of who runs the service.
    shape: "stdio" (the connection is standard input and output, as of inetd), "socket" (it is fd 3, LISTEN_FDS),
    "python" (no command, but the function that ``handler`` names, a file with @handler of nstool.service),
    "port" (the command listens on ``port`` of its own loopback; connections are relayed to it), "listener" (it has the
    listening sockets from fd 3 on, and accepts). With "port", {port} and {address} in the words of the command and in
    the values of its environment stand for where it listens.
    life: of a sandbox: "connection"; with shape "port" also "client" (all connections of one client, an address or the
    user of a Unix socket, until it is idle seconds without any) and "shared" (all connections of all).
    life_connections: it has had enough of them then. start_timeout: seconds for the command to listen,
    or for the file of a handler to be imported.
    stop_signal: asks a command to end.
    stderr: where standard error goes: "log" (of the service), "connection", "null".
    places: sandboxes at once. ready: of these wait for a connection, all made but the exec.
    queue: connections that wait for a place, at most queue_timeout seconds; 0: they wait in the kernel's backlog.
    busy: what a refused client is sent. wall: longest life of a sandbox, seconds; grace: from SIGTERM to SIGKILL.
    client_most: sandboxes of one client at once. client_rate: its connections a second, after a first client_burst.
    client_prefix4, client_prefix6: bits of an address that are one client. bandwidth: bytes a second that are relayed
    to a sandbox, and as many from it, of shape "port"; 0: no limit.
    renew_after: seconds after which the next generation takes over; renew_lives: sandboxes after which it does.
    vary: what differs from one sandbox to the next, not only from one generation to the next: "ids", "hostname",
    "pid", "machine-id", "boot-id", "canary" (a random word in the variable NSTOOL_CANARY), "port" and "address" (where
    the command of shape "port" listens), "clock" (when the monotonic and boottime clocks began).
    lease_net: a place keeps its network namespace for the next sandbox, as long as none has used it in any way that
    shows; making one is the dearest part of a sandbox.
    roots: roots of the service, as of ``root``, of which each generation has one. commands: the same of ``command``;
    with both, each command is that of the root at its place. variant_order: "turn", "random" (never one twice in a
    row).
    attest: "generation" (a sandbox of each generation, before that gets connections), "each", "never".
    alarms: what tells that a sandbox is attacked or sick: it is ended then, and the next generation takes over. "oom"
    (a process of it was killed for lack of memory), "violation" (its command ended by SIGSYS), "files" (what ``watch``
    names has changed). watch: absolute paths inside.
    health_interval: seconds between two connections that the service makes to itself; 0: none. health_send is said, and
    an answer has to come in health_timeout seconds that has health_expect in it, empty: any. health_failures in a row
    are an alarm of the whole generation.
    backlog: connections that the kernel keeps until they are taken. 0: no limit, where nothing else is said.
    proxy: each connection begins with a PROXY header, version 2, which says from where it is: of a load balancer or a
    TLS terminator, which alone can connect. client_by: what tells clients apart, "address", or with proxy
    "certificate", by its name.
    shards: templates that take connections at the same time, each with its part of the places; the kernel distributes
    connections among them.
    metrics: "tcp:ADDRESS:PORT" or "unix:PATH", where HTTP tells of the service: /metrics for Prometheus, /status.json,
    a page. "": nowhere.
    """

    listen: tuple[str, ...]
    socket_mode: int | None = None
    socket_owner: str = ""
    shape: str = "stdio"
    handler: str = ""
    life: str = "connection"
    life_connections: int = 0
    port: int = 0
    idle: float = 60.0
    start_timeout: float = 30.0
    stop_signal: str = "TERM"
    stderr: str = "log"
    places: int = 64
    ready: int = 0
    queue: int = 0
    queue_timeout: float = 5.0
    busy: str = ""
    wall: float = 0.0
    grace: float = 5.0
    client_most: int = 0
    client_rate: float = 0.0
    client_burst: int = 10
    client_prefix4: int = 32
    client_prefix6: int = 64
    renew_after: float = 0.0
    renew_lives: int = 0
    vary: tuple[str, ...] = ()
    lease_net: bool = False
    roots: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ()
    variant_order: str = "turn"
    attest: str = "generation"
    alarms: tuple[str, ...] = ()
    watch: tuple[str, ...] = ()
    health_interval: float = 0.0
    health_timeout: float = 5.0
    health_failures: int = 3
    health_send: str = ""
    health_expect: str = ""
    backlog: int = 1024
    metrics: str = ""
    shards: int = 1
    proxy: bool = False
    client_by: str = "address"
    bandwidth: int = 0
