"""What is said in the log of sandboxes that have not ended as they should."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nstool.security import signals
from nstool.spec.varied import LOOPBACK

if TYPE_CHECKING:
    from nstool.service.board import End
    from nstool.service.generation import Generation
    from nstool.service.said import Said
    from nstool.spec.service import Service

_NO_START = "no_start"
BAD = frozenset(("failed", "signalled", "overran", "deaf", _NO_START))


class Ends:
    """The ends of all generations, of which each kind is said once in a while."""

    def __init__(self, said: Said, service: Service) -> None:
        self._said = said
        self._service = service
        self._seen: dict[str, int] = {}  # by the name of the template, how many lives were over

    def adopt(self, one: Generation) -> None:
        """Look at a generation that a service before this one has made, from now on."""
        assert one.board is not None
        self._seen[one.name], _ = one.board.ends(most=0)

    def look(self, one: Generation) -> None:
        """Say what has ended since the last look."""
        if one.board is None:
            return
        self._seen[one.name], found = one.board.ends(self._seen.get(one.name, 0))
        for end in found:
            # Which step was refused is told by the template, to the service that has made it: Supervisor._say_failed.
            if end.cause in BAD and (end.cause != _NO_START or one.sandbox_plan is None):
                self._said.tell((end.cause, end.status), f"generation {one.title}: {self._words(end)}; {whose(end)}")

    def forget(self, one: Generation) -> None:
        """Look at a generation for the last time."""
        self.look(one)
        self._seen.pop(one.name, None)

    def _words(self, end: End) -> str:
        if end.cause == "failed":
            return f"the command ended with status {end.status >> 8}"
        if end.cause == "signalled":
            return f"the command was ended by {signals.name(end.status & 0x7F)}"
        if end.cause == "overran":
            return f"the sandbox was ended, as it was served for {self._service.wall:g} s (wall)"
        if end.cause == "deaf":
            return f"the command does not listen at {self._where()} after {self._service.start_timeout:g} s"
        return "a sandbox could not be made"

    def _where(self) -> str:
        varies = self._service.vary
        port = "{port}" if "port" in varies else self._service.port
        return f"{'{address}' if 'address' in varies else LOOPBACK}:{port}"


def whose(end: End) -> str:
    """Return in words whose sandbox it was."""
    return f"place {end.place}, life {end.life}, client {end.client or 'none'}"


def of_place(one: Generation, place: int) -> str:
    """Return in words whose sandbox it was that could not be made, the last one of a place."""
    ends = one.board.ends()[1] if one.board is not None else ()
    found = [end for end in ends if end.place == place and end.cause == _NO_START]
    return whose(found[-1]) if found else f"place {place}"
