"""What is said of something that happens again and again: at once, and then now and then how often."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import monotonic

PAUSE = 10.0  # seconds between two lines of one kind


class Said:
    """The lines of each kind: the first is said at once, what follows in a pause at its end, as a number."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._told: dict[Hashable, _Told] = {}

    def tell(self, kind: Hashable, text: str, pause: float = PAUSE) -> None:
        """Say one line, or count it. pause: seconds; that of the first line of a kind holds."""
        self.look()
        told = self._told.get(kind)
        if told is None:
            self._told[kind] = _Told(pause)
            self._say(text)
            return
        told.more += 1
        told.text = text

    def look(self, now: float | None = None) -> None:
        """Say what was counted in pauses that are over. now: of the monotonic clock; infinite at the end of all."""
        now = monotonic() if now is None else now
        for kind, told in [*self._told.items()]:
            if now < told.until:
                continue
            if told.more:
                self._say(f"{'once' if told.more == 1 else f'{told.more} times'} more, the last: {told.text}")
                self._told[kind] = _Told(told.pause)
            else:
                del self._told[kind]


class _Told:
    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.until = monotonic() + pause
        self.more = 0
        self.text = ""  # the last
