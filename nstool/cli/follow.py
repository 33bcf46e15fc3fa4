"""Follow a command in the foreground: signals, terminal, exit status."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.join import Joined


def follow(joined: Joined) -> int:
    """Relay and forward until the command has ended; its exit status."""
    from nstool.cli.forward import Forward

    with Forward() as forward, joined:
        forward.to(joined)
        if joined.terminal >= 0:
            from nstool.cli.relay import relay

            relay(joined, forward)
        return joined.wait().status
