"""Services: each connection gets a sandbox of its own, made for it and destroyed after it.

A service can be a Python function, in a file that the spec names (shape = "python")::

    from nstool.service import handler

    @handler
    def handle(connection):  # a connected socket.socket; called in a fresh sandbox for each
        connection.sendall(b"hello\\n")
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Handler = Callable[[socket.socket], object]

registered: list[Handler] = []


def handler(function: Handler) -> Handler:
    """Make a function the service: it is called with each connection, in a sandbox of its own. Returns the function."""
    registered.append(function)
    return function
