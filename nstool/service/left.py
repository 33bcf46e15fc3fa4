"""What a killed ``nstool serve`` has left: its generations, which go on without it; told of, and ended."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from nstool.errors import plural
from nstool.sandbox import rundir
from nstool.sandbox.rundir import Record
from nstool.sandbox.sockets import SocketFile
from nstool.service import board, generation
from nstool.service.blueprint import Remains
from nstool.service.channel import BOARD, DOOR, Channel, connected
from nstool.service.generation import Generation
from nstool.service.supervisor import Supervisor
from nstool.spec.service import Service

_BOARD = "/memfd:board (deleted)"


def left() -> dict[str, list[Record]]:
    """Return the templates that go on without their service, by its name, of each the newest last."""
    records = rundir.list_sandboxes()
    served = {one.name for one in records if one.launcher_alive}
    found: dict[str, list[Record]] = {}
    for one in records:
        name = one.template.get("service", "")
        if name and name not in served and one.here and one.init_alive and not one.launcher_alive:
            found.setdefault(name, []).append(one)
    for same in found.values():
        same.sort(key=lambda one: (one.template["number"], one.template["shard"]))
    return found


def describe(name: str, records: list[Record]) -> str:
    """Return a sentence about what is left of a service."""
    numbers = sorted({one.template["number"] for one in records})
    word, goes = ("generation", "goes") if len(numbers) == 1 else ("generations", "go")
    accepts = "they accept on" if records[-1].template["shape"] == "listener" else "nobody is accepted"
    return (
        f"its nstool serve was killed; {word} {', '.join(map(str, numbers))} {goes} on with "
        f"{plural(status(name, records)['live'], 'sandbox')}, {accepts}; start it again, or nstool service stop {name}"
    )


def status(name: str, records: list[Record]) -> dict[str, Any]:
    """Return what ``status`` tells of a service, of what is left of it."""
    ender = Ender(name, records, print, print)
    ender.old = [_looked_at(one) for one in records]
    try:
        told = ender.status()
    finally:
        for one in ender.old:
            one.leave()
    where = dict.fromkeys(where for one in records for where in one.template["listening"])
    generations = [{**one, "state": "left"} for one in told["generations"]]
    places = sum(one["size"] for one in generations if one["number"] == records[-1].template["number"])
    known = {"uptime": None, "listening": list(where), "places": places, "generations": generations}
    return {**told, **known, "killed": True}


def _looked_at(record: Record) -> Generation:
    """Return a generation with its board, where that can be had, and not connected to."""
    one = generation.found(record)
    try:
        one.board_fd = _board_of(record.init_pid)
    except PermissionError:  # an ordinary user's; he can ask it, which makes it his to tell what comes meanwhile
        one.board_fd = _asked(record.name)
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return one
    if one.board_fd >= 0:
        one.board = board.Board(one.board_fd)
    return one


def _board_of(pid: int) -> int:
    """Return an fd of the board of a template, -1 if it has none. proc_pid_fd(5)."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path) == _BOARD:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return -1


def _asked(name: str) -> int:
    try:
        channel = Channel(connected(name, DOOR, socket.SOCK_SEQPACKET))
    except OSError:  # it ends
        return -1
    try:
        held = channel.held()
    except (OSError, ProcessLookupError):  # or does not answer
        return -1
    finally:
        channel.close()
    found = held.pop(BOARD, -1)
    for fd in held.values():
        os.close(fd)
    return found


class Ender(Supervisor):
    """Takes over what a killed service has left, and ends it as that would have been told to end."""

    def __init__(
        self,
        name: str,
        records: list[Record],
        say: Callable[[str], None],
        relay: Callable[[str], None],
        *,
        at_once: bool = False,
    ) -> None:
        """records: as of ``left``. at_once: the sandboxes that there are have no time. The others: of a Supervisor."""
        known = records[-1].template
        service = Service(listen=(), **{key: known[key] for key in ("shape", "stop_signal", "grace")})
        super().__init__(Remains(name, service), say, relay)
        self._at_once = at_once

    async def _serve(self, name: str) -> None:
        self._adopt()
        server = await self._control(name)
        try:
            self.current, self.old = self.old, []
            self.stop()
            if self._at_once:
                self.stop()
            await self._drain()
        finally:
            server.close()

    def _take_listeners(self, held: dict[int, int], files: dict[str, SocketFile]) -> None:
        """Take none: when the last that has one has ended, its record tells which file is to be removed."""
        for fd in held.values():
            os.close(fd)

    def _made(self, number: int) -> list[Generation]:
        raise generation.Stopping
