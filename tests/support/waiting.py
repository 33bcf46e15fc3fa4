"""Processes and threads that have done something and wait, to be looked at; a host of few processes to look at."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tests.support import kernel
from tests.support.child import SECONDS, run_in_child

CLONE_NEWPID = 0x20000000


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


@contextlib.contextmanager
def thread(act: Callable[[], object] = lambda: None) -> Iterator[int]:
    """A thread of this process that has called act and waits for the end of the block: its tid.

    What act raises is raised here.
    """
    here, end = threading.Event(), threading.Event()
    told: list[int] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            told.append(threading.get_native_id())
            act()
        except BaseException as error:
            failed.append(error)
        here.set()
        end.wait()

    one = threading.Thread(target=run)
    one.start()
    here.wait()
    try:
        if failed:
            raise failed[0]
        yield told[0]
    finally:
        end.set()
        one.join()


def in_pid_namespace(act: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return what act returns as the first process of a pid namespace with a /proc of its own.

    So nothing comes and goes but what act makes, and all of that ends with it. The caller must be a child: it moves.
    seconds: that act may take.
    """

    def first() -> Any:
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc")
        return act()

    kernel.unshare(CLONE_NEWPID | kernel.CLONE_NEWNS)
    return run_in_child(first, timeout=seconds)
