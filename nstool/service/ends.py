"""What is said in the log of sandboxes that have not ended as they should."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from nstool.errors import plural
from nstool.sandbox import cgroups
from nstool.security import signals
from nstool.spec.values import size_text
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

    def __init__(self, said: Said) -> None:
        self._said = said
        self._seen: dict[str, int] = {}  # by the name of the template, how many lives were over
        self._held: dict[str, frozenset[int]] = {}  # and in which places memory of their last sandbox was held
        self._bad: dict[str, int] = {}  # how many of those were told of, or said to be too many for that
        self._kills: dict[tuple[str, int], int] = {}  # of a place, how many were killed for lack of memory

    def adopt(self, one: Generation) -> None:
        """Look at a generation that a service before this one has made, from now on."""
        assert one.board is not None
        self._bad[one.name] = _bad(one)
        self._seen[one.name], _ = one.board.ends(most=0)

    def look(self, one: Generation) -> None:
        """Say what has ended since the last look."""
        if one.board is None:
            return
        bad = _bad(one)
        self._seen[one.name], found = one.board.ends(self._seen.get(one.name, 0))
        told = self._bad.get(one.name, 0) + sum(end.cause in BAD and end.cause != _NO_START for end in found)
        if bad > told:  # of so many in so short a time the last alone are remembered
            text = "ended as they should not, too fast to be told of; nstool service status counts them"
            self._said.tell(("many", one.name), f"generation {one.title}: {plural(bad - told, 'sandbox')} more {text}")
        self._bad[one.name] = max(bad, told)
        for end in found:
            # Which step was refused is told by the template, to the service that has made it: Supervisor._say_failed.
            if end.cause in BAD and (end.cause != _NO_START or one.sandbox_plan is None):
                words = self._out_of_memory(end, one) or _words(end, one)
                self._said.tell((end.cause, words), f"generation {one.title}: {words}; {whose(end)}")
        before = self._held.get(one.name, frozenset())
        held = self._held[one.name] = frozenset(place.number for place in one.board.places() if place.state == "held")
        for place in sorted(held - before):
            text = f"somebody has memory of a sandbox that has ended; place {place} is left alone as long"
            self._said.tell("held", f"generation {one.title}: {text}")

    def _out_of_memory(self, end: End, one: Generation) -> str:
        # The counter is of the place, so that the next sandbox there may be meant, if that ends the same way at once.
        if end.cause != "signalled" or end.status & 0x7F != signal.SIGKILL or end.place >= len(one.groups):
            return ""
        kills = cgroups.oom_kills(one.groups[end.place].cgroups) or 0
        before = self._kills.get((one.name, end.place), 0)
        self._kills[one.name, end.place] = kills
        if kills <= before or one.variant is None:
            return ""
        return f"the command was killed for lack of memory (limits.memory is {size_text(one.variant[0].limits.memory)})"

    def forget(self, one: Generation) -> None:
        """Look at a generation for the last time."""
        self.look(one)
        self._kills = {key: kills for key, kills in self._kills.items() if key[0] != one.name}
        self._seen.pop(one.name, None)
        self._bad.pop(one.name, None)
        self._held.pop(one.name, None)


def _bad(one: Generation) -> int:
    return sum(count for cause, count in one.counts().causes.items() if cause in BAD and cause != _NO_START)


def _words(end: End, one: Generation) -> str:
    service = one.blueprint.service if one.blueprint else None  # what one of before was made by is not known any more
    if end.cause == "failed":
        return f"the command ended with status {end.status >> 8}"
    if end.cause == "signalled":
        return f"the command was ended by {signals.name(end.status & 0x7F)}"
    if end.cause == "overran":
        return f"the sandbox was ended, as it was served for {f'{service.wall:g} s' if service else 'too long'} (wall)"
    if end.cause == "deaf":
        where = f" at {_where(service)} after {service.start_timeout:g} s" if service else ""
        return f"the command does not listen{where}"
    return "a sandbox could not be made"


def _where(service: Service) -> str:
    port = "{port}" if "port" in service.vary else service.port
    return f"{'{address}' if 'address' in service.vary else LOOPBACK}:{port}"


def whose(end: End) -> str:
    """Return in words whose sandbox it was."""
    return f"place {end.place}, life {end.life}, client {end.client or 'none'}"


def of_place(one: Generation, place: int) -> str:
    """Return in words whose sandbox it was that could not be made, the last one of a place."""
    ends = one.board.ends()[1] if one.board is not None else ()
    found = [end for end in ends if end.place == place and end.cause == _NO_START]
    return whose(found[-1]) if found else f"place {place}"
