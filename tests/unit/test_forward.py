"""Signals that come before there is somebody to pass them to."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import pytest

from nstool.cli.forward import Forward, Interrupted


def test_a_signal_that_wants_an_end_interrupts() -> None:
    """Once: what is undone after it is not interrupted by the next; all are kept."""
    with Forward() as forward:
        with pytest.raises(Interrupted) as interrupted, forward.interruptible:
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.value.number == signal.SIGTERM
        assert forward.pending == [signal.SIGTERM, signal.SIGINT]


def test_a_signal_from_before_interrupts() -> None:
    """What takes long is not begun then."""
    with Forward() as forward:
        os.kill(os.getpid(), signal.SIGHUP)
        began = False
        with suppress(Interrupted), forward.interruptible:
            began = True
        assert not began


def test_other_signals_are_kept() -> None:
    """They are for the command."""
    with Forward() as forward, forward.interruptible:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert forward.pending == [signal.SIGUSR1]
