"""Run a function in a forked child, because what a test does to its namespaces cannot be undone."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from tests.support import kernel, processes

T = TypeVar("T")

SECONDS = 120.0  # only what hangs takes as long, in an emulated machine too


class ChildFailed(AssertionError):
    """The child ended, or had to be ended, without a result; or its exception cannot be pickled."""


def run_in_child(func: Callable[..., T], *args: Any, timeout: float = SECONDS, **kwargs: Any) -> T:
    """Return ``func(*args, **kwargs)`` as computed in a forked child.

    The result and any exception come back by pickle; the exception is raised here with the child's
    traceback as a note. timeout: seconds, then the child and its descendants are killed.
    Raises ChildFailed when the child ended by a signal, by its own exit, or ran out of time.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _act(writer, func, args, kwargs)
    os.close(writer)
    with open(reader, "rb", buffering=0) as pipe:
        result: T = _result(pid, pipe.fileno(), timeout)
        return result


def _act(writer: int, func: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    # A test process that is killed must not leave its children running.
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        message = pickle.dumps((func(*args, **kwargs), None, ""))
    except BaseException as error:  # also SystemExit and pytest's outcomes: all must reach the parent
        text = traceback.format_exc()
        try:
            message = pickle.dumps((None, error, text))
            pickle.loads(message)
        except Exception:
            message = pickle.dumps((None, ChildFailed(repr(error)), text))
    with contextlib.suppress(OSError, ValueError):  # the function may have closed them
        sys.stdout.flush()
        sys.stderr.flush()
    view = memoryview(len(message).to_bytes(8, "little") + message)
    while view:
        view = view[os.write(writer, view) :]
    os._exit(0)


def _result(pid: int, reader: int, timeout: float) -> Any:
    data, in_time = _receive(pid, reader, time.monotonic() + timeout)
    if not in_time:
        processes.kill_tree(pid)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not in_time:
        raise ChildFailed(f"the child was killed after {timeout:g} s without a result")
    if len(data) < 8 or len(data) - 8 < int.from_bytes(data[:8], "little"):
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        raise ChildFailed(f"the child {how} before it gave a result")
    value, error, text = pickle.loads(data[8:])
    if error is not None:
        error.add_note(f"In the child:\n{text}")
        raise error
    return value


def _receive(pid: int, reader: int, deadline: float) -> tuple[bytes, bool]:
    """Return what the child wrote, and whether it ended in time.

    The end of the child counts, not the end of the pipe: a grandchild may hold its other end.
    """
    data = b""
    ended = False
    pidfd = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while True:
            # Once the child has ended, all that it wrote is there: one more look without waiting.
            wait = 0.0 if ended else max(0.0, deadline - time.monotonic())
            ready = dict(poll.poll(wait * 1000))
            if reader in ready:
                block = os.read(reader, 1 << 16)
                data += block
                if not block:
                    poll.unregister(reader)  # a closed pipe is ready for ever
            elif ended:
                return data, True
            elif pidfd in ready:
                ended = True
                poll.unregister(pidfd)
            else:
                return data, False
    finally:
        os.close(pidfd)


def left_by_dead(func: Callable[[], object]) -> None:
    """Do what a launcher does, in one that is killed right after."""
    pid = os.fork()
    if pid == 0:
        try:
            func()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def in_processes(number: int, func: Callable[[], list[str]]) -> list[list[str]]:
    """Run func in so many processes at once; return the lines of each."""
    start, go = os.pipe()
    children = []
    for _ in range(number):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(go)
                os.read(start, 1)
                with open(writer, "w") as file:
                    file.write("\n".join(func()))
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        children.append((pid, reader))
    os.close(start)
    os.close(go)
    found = []
    for pid, reader in children:
        with open(reader) as file:
            found.append(file.read().splitlines())
        assert os.waitpid(pid, 0)[1] == 0
    return found
