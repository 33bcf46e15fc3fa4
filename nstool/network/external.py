"""The external steps of the network, by name, as the launcher runs them while the child waits.

Undo handlers need their arguments alone: another process runs them from the journal when the
launcher was killed. What is not there counts as undone.
"""

from __future__ import annotations

from nstool.network import firewall, links, ports, reap, sysctl
from nstool.network.shared import Shared
from nstool.sandbox import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    class Context(Protocol):
        """What the launcher tells a handler. Undo handlers get None when the launcher has gone.

        pid: of the child as the launcher sees it. held: what must live as long as the sandbox has
        its published ports (sockets); the launcher keeps the list, nft_unpublish empties it.
        """

        @property
        def pid(self) -> int: ...
        @property
        def held(self) -> list[Any]: ...


def forwarding_acquire(_: Context, args: dict[str, Any]) -> None:
    """Turn forwarding on, if it is not, for as long as this sandbox needs it."""
    with Shared() as shared:
        for family in args["families"]:
            sysctl.acquire(shared, args["link"], family, rundir.maker(args["name"]))


def forwarding_release(_: Context | None, args: dict[str, Any]) -> None:
    """Put back what was before, if no other sandbox needs forwarding."""
    with Shared() as shared:
        back = [sysctl.release(shared, args["link"], family) for family in args["families"]]
        if any(back):
            firewall.refresh(shared)


def nft_publish(context: Context, args: dict[str, Any]) -> None:
    """Claim the published ports and put the sandbox into the nft tables."""
    with Shared() as shared:
        reap.reap(shared)  # first, so that the ports of a sandbox that has gone are free
        others = shared.state.get(firewall.USERS, {}).values()
        context.held.extend(ports.claim(args, others))
        firewall.add(shared, args | {"maker": rundir.maker(args["name"])})


def nft_unpublish(context: Context | None, args: dict[str, Any]) -> None:
    """Take the sandbox out of the nft tables and free its ports."""
    with Shared() as shared:
        if firewall.remove(shared, args["link"]):
            links.forget_connections(args["addresses"])
        reap.reap(shared)
    if context is not None:
        ports.release(context.held)


def veth_create(context: Context, args: dict[str, Any]) -> None:
    """Make the link between the host and the child."""
    links.veth_create(context.pid, args)


def veth_delete(_: Context | None, args: dict[str, Any]) -> None:
    """Remove the link between the host and the child."""
    links.veth_delete(args)


def bridge_attach(_: Context, args: dict[str, Any]) -> None:
    """Put the link on its bridge."""
    with Shared() as shared:
        links.bridge_attach(shared, args)


def bridge_detach(_: Context | None, args: dict[str, Any]) -> None:
    """Take the link off its bridge."""
    with Shared() as shared:
        links.bridge_detach(shared, args)


HANDLERS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    handler.__name__: handler
    for handler in (
        forwarding_acquire,
        forwarding_release,
        nft_publish,
        nft_unpublish,
        veth_create,
        veth_delete,
        bridge_attach,
        bridge_detach,
    )
}
