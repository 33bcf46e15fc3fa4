"""Attestation of the sandboxes of a service that serve, whenever somebody asks for it."""

from __future__ import annotations

from typing import Any

from nstool.errors import SandboxGone
from nstool.frozen import Frozen
from nstool.inspect.attested import filter_of
from nstool.sandbox.attest import Property, Wanted, attest
from nstool.sandbox.launch import payload_pid
from nstool.service import attested
from nstool.service.generation import Generation

_BEFORE = "an nstool serve before this one has made it: what its spec was is not known any more"


class Living(Frozen):
    """A sandbox that serves, and what is wanted of it: None if that is not known.

    template: pid. inner: pid of its init, as the template knows it. generation, shard, place, life: numbers.
    """

    template: int
    inner: int
    generation: int
    shard: int
    place: int
    life: int
    client: str
    wanted: Wanted | None


class Attested(Frozen):
    """What was found of one. pid: of its command. why: what kept it from being compared, else empty."""

    generation: int
    shard: int
    place: int
    life: int
    client: str
    pid: int
    properties: tuple[Property, ...] = ()
    why: str = ""

    def asdict(self) -> dict[str, Any]:
        """Return it as plain data. holds: None where nothing is known."""
        known = [one.holds for one in self.properties]
        return {**super().asdict(), "holds": None if self.why else False not in known}


def living(generation: Generation) -> list[Living]:
    """Return those of a generation, with what they are to have. They go on meanwhile, and may end."""
    assert generation.board is not None
    found = []
    for place in generation.board.places():
        if place.state != "serving" or not place.pid:
            continue
        wanted = None
        if generation.blueprint is not None:
            wanted = attested.wanted_of(generation, place.number).replace(waits=False)
        found.append(
            Living(
                generation.pid,
                place.pid,
                generation.number,
                generation.shard,
                place.number,
                place.life,
                place.client,
                wanted,
            )
        )
    return found


def compare(sandboxes: list[Living], *, read_filter: bool) -> list[Attested]:
    """Read back of each whose command has begun whether it has what is wanted; those that have ended are left out.

    read_filter: also its seccomp filter, for which it is stopped for a moment. ptrace(2) wants one thread for that.
    """
    inits = {one: attested.inits_of(one) for one in {each.template for each in sandboxes}}
    plans = {one: _plans(one) for one in inits}
    found = []
    for each in sandboxes:
        init = inits[each.template].get(each.inner, 0)
        told = _compared(each, init, plans[each.template], read_filter) if init else None
        if told is not None:
            found.append(told)
    return found


def _plans(template: int) -> set[bytes]:
    try:
        return attested.plans_of(template)
    except (FileNotFoundError, ProcessLookupError):  # it has ended, and its sandboxes with it
        return set()


def _compared(one: Living, init: int, plans: set[bytes], read_filter: bool) -> Attested | None:
    told = Attested(one.generation, one.shard, one.place, one.life, one.client, 0)
    try:
        pid = _command(one, init)
        told = told.replace(pid=pid)
        if one.wanted is None:
            return told.replace(why=_BEFORE)
        if not attested.has_begun(init, plans):
            return None
        properties = attest(pid, one.wanted)
        filters = filter_of(pid, one.wanted.spec, one.wanted.host, read=read_filter)
        if _command(one, init) != pid:  # what was read may be of another process that has its number
            return None
    except (FileNotFoundError, ProcessLookupError, SandboxGone):
        return None
    return told.replace(properties=(*properties, *filters))


def _command(one: Living, init: int) -> int:
    """Return the pid of its command, which is its init if it has none. Raises SandboxGone, FileNotFoundError."""
    has_init = one.wanted is None or one.wanted.spec.init
    pid = payload_pid(init) if has_init else init
    with open(f"/proc/{init}/status", "rb") as file:
        if attested.inner_pid(file.read(), one.template) != one.inner:
            raise SandboxGone("another process has the number of its init")
    return pid
