"""The zygote of a service: an interpreter with the handler loaded, which becomes a sandbox for each connection.

It runs in the template, started by csrc/serve with a socket to it as fd 3 and the memory of the plans as fd 4. For
each place that it is told it clones itself (csrc/copy.c): the copy is made a sandbox, and calls the handler. What has
been written to before is shared with every copy, what is written to afterwards costs each a page: so little is
imported here, and what a copy will do has been done before.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys

from nstool import service
from nstool._native import lib
from nstool.closing import is_open

TYPE_CHECKING = False
if TYPE_CHECKING:
    import types

_TEMPLATE, _PLANS, _CONNECTION = 3, 4, 3
_FIRST = 5  # fd of those that the file opens
_MOST = 4096  # fds that are looked for
# A copy is process 1, for which the kernel drops a signal that has no handler: signal(7), pid_namespaces(7).
_FATAL = (
    *(signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM),
    *(signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGXCPU),
)
_REHEARSALS = 16  # after so many the interpreter has made its code as fast as it gets, and its caches are full


def main() -> None:
    """Load the handler, and serve until the template has gone."""
    places, plan_size, path = os.environ.pop("NSTOOL_ZYGOTE").split(" ", 2)
    if os.environ.get("LD_BIND_NOW") == "nstool":  # for this interpreter alone: nothing is looked up in its copies
        del os.environ["LD_BIND_NOW"]
    handler = _load(path)
    _check(handler, os.path.basename(path))
    opened = [fd for fd in range(_FIRST, min(os.sysconf("SC_OPEN_MAX"), _MOST)) if is_open(fd)]
    for number in _FATAL:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, _: os._exit(128 + number))
    for _ in range(_REHEARSALS):
        _rehearse()
    gc.collect()
    gc.freeze()
    told = lib.nst_zygote(_TEMPLATE, _PLANS, int(places), int(plan_size))
    if told == 0:
        _stand_in(opened)
        os._exit(_answer(handler, _CONNECTION))
    if told < 0:
        raise SystemExit(f"this interpreter cannot be copied for connections: {os.strerror(-told)}")


def _load(path: str) -> service.Handler:
    """Return the one function of a file that is the handler; leave, in words, where there is none to be had."""
    import importlib.util

    sys.path.insert(0, os.path.dirname(path))
    name = os.path.basename(path)
    found = importlib.util.spec_from_file_location("handler", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["handler"] = module
    try:
        found.loader.exec_module(module)
    except SystemExit as error:
        raise SystemExit(f"{name} ended the interpreter that imported it: sys.exit({error.code!r})") from None
    except BaseException as error:
        _tell(error)
        raise SystemExit(1) from None
    if len(service.registered) != 1:
        raise SystemExit(f"{name}: {len(service.registered)} functions have @handler, one must")
    return service.registered[0]


def _check(handler: service.Handler, name: str) -> None:
    """Leave, in words, if a function cannot be called with a connection, and be done when it returns."""
    child = os.fork()  # what is imported for this alone stays out of every copy
    if child == 0:
        wrong = _unfit(handler)
        if wrong:
            function = getattr(handler, "__name__", handler)
            print(f"{name}: {function} {wrong}: def handle(connection): ...", file=sys.stderr, flush=True)
        os._exit(1 if wrong else 0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit(1)


def _unfit(handler: service.Handler) -> str:
    import inspect

    if inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
        return "is called, and not awaited or asked for more: make it a plain function"
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        return f"cannot be called with the connection alone ({error})"
    except ValueError:  # of C, without a signature
        return ""
    return ""


def _tell(error: BaseException) -> None:
    """Print the traceback of an exception, without the frames of nstool and of imports before the handler's."""
    frame: types.TracebackType | None = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(("<frozen ", __file__)):
        frame = frame.tb_next
    sys.__excepthook__(type(error), error.with_traceback(frame), frame)


def _stand_in(fds: list[int]) -> None:
    """Put /dev/null where the file had something open: who writes to it must not write to what comes to lie there."""
    if not fds:
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in fds:
        os.dup2(null, fd, inheritable=False)
    os.close(null)


def _rehearse() -> None:
    """Do what a copy does with a connection, with one that nobody hears."""
    here, there = socket.socketpair()
    with there:
        there.send(b"\n")
        _answer(_echo, here.detach())


def _echo(connection: socket.socket) -> None:
    connection.sendall(connection.recv(1))


def _answer(handler: service.Handler, connection: int) -> int:
    """Call the handler with a connection, which is closed then, and return the status to leave with."""
    status = 1
    try:
        with socket.socket(fileno=connection) as peer:
            handler(peer)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        _tell(error)
    sys.stdout.flush()
    sys.stderr.flush()
    return status
