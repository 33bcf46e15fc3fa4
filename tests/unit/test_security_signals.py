"""Names of signals, beside those that Python has. signal(7)."""

from __future__ import annotations

import signal

from hypothesis import given
from hypothesis import strategies as st

from nstool.security import signals

PYTHON = {number.value: number.name for number in signal.Signals}


def test_names_are_those_of_the_library() -> None:
    """Python has an alias for some: SIGABRT is SIGIOT too."""
    for number, name in PYTHON.items():
        assert getattr(signal, signals.name(number)) == number if number != 64 else name == "SIGRTMAX"
    assert signals.name(35) == "SIGRTMIN+1"
    assert signals.name(32) == "SIG32"


@given(st.sets(st.integers(1, 64)))
def test_a_mask_gives_its_names_in_order(numbers: set[int]) -> None:
    mask = sum(1 << (number - 1) for number in numbers)
    assert signals.names(mask) == tuple(signals.name(number) for number in sorted(numbers))
    assert len(set(signals.names(mask))) == len(numbers)
