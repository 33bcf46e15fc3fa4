"""Processes that have done something and wait, to be looked at from outside."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import kernel


@contextlib.contextmanager
def waiting(act: Callable[..., Any] = lambda: None, *args: Any) -> Iterator[tuple[int, Any]]:
    """A child that has called act(*args) and waits to be killed at the end of the block: its pid, what act returned.

    What act leaves open stays so until then; what it leaves running is act's to end. Raises AssertionError with the
    traceback of act.
    """
    result, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(result)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            answer = pickle.dumps((act(*args), ""))
        except BaseException:
            answer = pickle.dumps((None, traceback.format_exc()))
        with open(told, "wb") as file:
            file.write(len(answer).to_bytes(8, "little") + answer)
        while True:
            signal.pause()
    os.close(told)
    try:
        with open(result, "rb") as pipe:  # by length: what act has forked may hold the other end
            value, error = pickle.loads(pipe.read(int.from_bytes(pipe.read(8), "little")))
        assert not error, error
        yield pid, value
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
