"""What the commands of a service say on standard error: the lines of each place, with whose they are before them.

Each place has a pipe of its own, and so has the template itself for its zygote. So nobody reads what another says,
lines do not mix, and who floods loses lines of his own.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from nstool.errors import visible

if TYPE_CHECKING:
    from nstool.service.board import Board
    from nstool.service.generation import Generation

OWN = -1  # the place of what the template says by itself: its zygote, before there is a connection
RATE = 1 << 20  # bytes of the log a second: half is divided among the places, half is for whoever comes first
LINE = 4096  # bytes of a line; a longer one becomes several
BURST = 32 << 10  # bytes that each place may say at once, however little its share is
WAIT = 1.0  # seconds until a line is shown whose end does not come
PAUSE = 10.0  # seconds between two lines that say how much was dropped
_READ = 1 << 16
_PIPE = 1 << 20  # bytes that a pipe has at most. pipe(7)
_REST = 0.05  # seconds in which nobody is heard who has said too much


class Log:
    """The pipes of all templates. dropped: bytes that were read and not shown."""

    def __init__(self, say: Callable[[str], None], relay: Callable[[str], None]) -> None:
        """say: tells the operator what happens, one line. relay: tells him what commands say, lines with their ends."""
        self.dropped = 0
        self._relay = relay
        self._say = say
        self._said = -PAUSE
        self._sources: dict[int, _Source] = {}
        self._drops: Counter[str] = Counter()  # since that was said, of whom
        self._pool = _Bucket(RATE / 2)

    def follow(self, one: Generation) -> None:
        """Hear what the sandboxes of a template say. Its ``logs`` are closed here."""
        for place, fd in one.logs.items():
            self.add(one.name, place, fd, one.board)
        one.logs = {}

    def add(self, name: str, place: int, fd: int, board: Board | None = None) -> None:
        """Hear one pipe. name: of the template. board: tells which life a place has. fd: is closed here."""
        self._sources[fd] = _Source(name, place, fd, board)
        asyncio.get_running_loop().add_reader(fd, self._read, self._sources[fd])

    def forget(self, name: str) -> str:
        """Hear a template for the last time, which has ended. Returns the last line that it has said by itself."""
        last = ""
        for fd, source in [*self._sources.items()]:
            if source.name != name:
                continue
            for _ in range(_PIPE // _READ):  # who still writes does not keep us
                if not self._read(source):
                    break
            self._show_partial(source)
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
            del self._sources[fd]
            if source.place == OWN:
                last = source.last
        return last

    def look(self) -> None:
        """Show what waits for the end of its line and has waited enough, and say what was dropped."""
        now = monotonic()
        for source in [one for one in self._sources.values() if one.partial]:
            is_over = source.is_over()
            if is_over:
                self._read(source)
            if source.partial and (is_over or now - source.since >= WAIT):
                self._show_partial(source)
        self._say_dropped(now)

    def close(self) -> None:
        """Hear nobody any more."""
        for name in {one.name for one in self._sources.values()}:
            self.forget(name)
        self._say_dropped(inf)

    def _say_dropped(self, now: float) -> None:
        if not self._drops or now - self._said < PAUSE:
            return
        self._said = now
        [(most, _)] = self._drops.most_common(1)
        self._say(f"{self._drops.total()} bytes of what commands said were dropped, most of them of {most}")
        self._drops.clear()

    def _read(self, source: _Source) -> bool:
        """Hear what a pipe has; whether there may be more."""
        try:
            data = os.read(source.fd, _READ)
        except BlockingIOError:
            return False
        if not data:  # the template has ended
            asyncio.get_running_loop().remove_reader(source.fd)
            return False
        life, _ = source.now()
        if source.partial and life != source.life:
            self._show_partial(source)
        if not source.partial:
            source.since = monotonic()
        source.life = life
        data = source.partial + data
        whole = data.rfind(b"\n") + 1
        whole += max(0, len(data) - whole - 1) // LINE * LINE  # what has no end yet is a line at most
        source.partial = data[whole:]
        if not self._show(source, data[:whole]):
            loop = asyncio.get_running_loop()
            loop.remove_reader(source.fd)
            loop.call_later(_REST, self._hear_again, source)
        return True

    def _hear_again(self, source: _Source) -> None:
        if self._sources.get(source.fd) is source:
            asyncio.get_running_loop().add_reader(source.fd, self._read, source)

    def _show_partial(self, source: _Source) -> None:
        data, source.partial = source.partial, b""
        self._show(source, data)

    def _show(self, source: _Source, data: bytes) -> bool:
        """Show lines of one life, as far as its place may say so much; whether all were shown."""
        label, shown, at = source.label(), [], 0
        share = RATE / 2 / len(self._sources)
        while at < len(data):
            end = data.find(b"\n", at, at + LINE + 1)
            line = data[at : end if end >= 0 else at + LINE]
            text = f"{label}: {_text(line)}\n"
            size = max(len(text), len(line))
            if not source.bucket.take(size, share) and not self._pool.take(size, RATE / 2):
                break
            shown.append(text)
            at += len(line) + (end >= 0)
        if at < len(data):
            self.dropped += len(data) - at
            self._drops[label] += len(data) - at
        if source.place == OWN and data:
            source.last = _text(data.rstrip().rpartition(b"\n")[2][-LINE:])
        if shown:
            self._relay("".join(shown))
        return at >= len(data)


class _Source:
    """A pipe that is read. life: whose what is in ``partial`` was, a line without its end; since: when that began."""

    def __init__(self, name: str, place: int, fd: int, board: Board | None) -> None:
        self.name = name
        self.place = place
        self.fd = fd
        self.partial = b""
        self.since = 0.0
        self.life = 0
        self.last = ""
        self.bucket = _Bucket(BURST)
        self._board = board

    def now(self) -> tuple[int, bool]:
        """Return which life the place has or has had, and whether that goes on."""
        return self._board.life(self.place) if self._board is not None else (self.life, True)

    def is_over(self) -> bool:
        """Whether the life has ended of which ``partial`` is."""
        return self.now() != (self.life, True)

    def label(self) -> str:
        """Return whose it is."""
        return f"{self.name}[handler]" if self.place == OWN else f"{self.name}[place {self.place}, life {self.life}]"


class _Bucket:
    """What may be said. most: bytes at once."""

    def __init__(self, most: float) -> None:
        self._most = self._has = most
        self._at = monotonic()

    def take(self, size: int, rate: float) -> bool:
        """Take so many bytes, if it has them. rate: bytes a second that come in."""
        now = monotonic()
        self._has = min(max(self._most, rate), self._has + (now - self._at) * rate)
        self._at = now
        if size > self._has:
            return False
        self._has -= size
        return True


def _text(line: bytes) -> str:
    """Return a line so that nothing in it moves the cursor, or ends it. Bytes that are no UTF-8 are escaped too."""
    return visible(line.removesuffix(b"\r").decode("utf-8", "surrogateescape"))
