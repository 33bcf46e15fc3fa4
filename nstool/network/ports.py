"""Claim published ports on the host, and name who has a port that is taken."""

from __future__ import annotations

from nstool.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable
    from typing import Any

REMEDY = "publish another port of the host, or stop what uses this one"


def claim(user: dict[str, Any], others: Iterable[dict[str, Any]]) -> list[socket.socket]:
    """Bind the published ports of a sandbox on the host and return the sockets.

    user, others: arguments of the step nft_publish. The sockets get no data, for the packets are
    redirected before; while one is open, nobody else can bind the port, and bind(2) is what decides
    between two that want it at once. Raises NotSupported, with the owner, when one is taken.
    """
    wanted = list(_endpoints(user))
    for other in others:
        for endpoint in wanted:
            if any(_overlap(endpoint, taken) for taken in _endpoints(other)):
                raise _taken(endpoint, f"sandbox {other['name']}")
    sockets: list[socket.socket] = []
    try:
        for endpoint in wanted:
            sockets.append(_bind(endpoint))
    except BaseException:
        release(sockets)
        raise
    return sockets


def release(sockets: list[socket.socket]) -> None:
    """Close the sockets of ``claim``."""
    while sockets:
        sockets.pop().close()


def _endpoints(user: dict[str, Any]) -> Iterable[tuple[str, str, int]]:
    """Yield (protocol, address, port) for each family that a published port is on."""
    versions = {":" in address for address in user["addresses"]}
    for protocol, address, port, _ in user["publish"]:
        if address:
            yield protocol, address, port
        else:
            yield from ((protocol, "::" if six else "0.0.0.0", port) for six in sorted(versions))


def _overlap(a: tuple[str, str, int], b: tuple[str, str, int]) -> bool:
    same_kind = (a[0], a[2], ":" in a[1]) == (b[0], b[2], ":" in b[1])
    return same_kind and (a[1] == b[1] or a[1] in ("::", "0.0.0.0") or b[1] in ("::", "0.0.0.0"))


def _bind(endpoint: tuple[str, str, int]) -> socket.socket:
    import errno

    try:
        return _bound(endpoint, reuse=False)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            why = f"{endpoint[1]} is not an address of this host"
            raise NotSupported(
                f"net.publish {_text(endpoint)}", why, "publish on an address that `ip addr` shows"
            ) from error
        if error.errno != errno.EADDRINUSE:
            raise NotSupported(f"net.publish {_text(endpoint)}", f"bind: {error.strerror}", REMEDY) from error
        owner = _owner(endpoint)
    if owner or endpoint[0] != "tcp":
        raise _taken(endpoint, owner or "a socket whose process cannot be seen from here")
    # Nobody listens: an ended connection of an earlier service waits in TIME-WAIT, tcp(7).
    try:
        return _bound(endpoint, reuse=True)
    except OSError as error:
        raise _taken(endpoint, "a socket whose process cannot be seen from here") from error


def _bound(endpoint: tuple[str, str, int], *, reuse: bool) -> socket.socket:
    import socket

    protocol, address, port = endpoint
    six = ":" in address
    sock = socket.socket(
        socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    )
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def _owner(endpoint: tuple[str, str, int]) -> str:
    """Return "pid 123 (command)" of the process that has the port, empty if there is none to be seen."""
    import psutil

    protocol, _, port = endpoint
    for connection in psutil.net_connections(protocol):
        if connection.laddr and connection.laddr.port == port and connection.pid and not _connected(connection):
            try:
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.NoSuchProcess:  # it ended between the two looks
                continue
    return ""


def _connected(connection: Any) -> bool:
    """True for an end of a TCP connection: it keeps its port from nobody who listens."""
    return connection.status in ("ESTABLISHED", "TIME_WAIT", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK")


def _taken(endpoint: tuple[str, str, int], owner: str) -> NotSupported:
    return NotSupported(f"net.publish {_text(endpoint)}", f"{_text(endpoint)} of the host is in use by {owner}", REMEDY)


def _text(endpoint: tuple[str, str, int]) -> str:
    protocol, address, port = endpoint
    return f"[{address}]:{port}/{protocol}" if ":" in address else f"{address}:{port}/{protocol}"
