"""The zygote of a service: an interpreter with the handler loaded, which becomes a sandbox for each connection.

It runs in the template, started by csrc/serve with a socket to it as fd 3 and the memory of the plans as fd 4. For
each place that it is told it clones itself (csrc/copy.c): the copy is made a sandbox, and calls the handler.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import mmap
import os
import socket
import sys
import traceback

from nstool import service
from nstool._native import ffi, lib

_TEMPLATE, _PLANS, _CONNECTION = 3, 4, 3
_FDS = 16
_SIZE = ffi.sizeof("struct nst_message")
_SHARE = ffi.sizeof("struct nst_share")


def main() -> None:
    """Load the handler, and serve until the template has gone."""
    places, plan_size, path = os.environ.pop("NSTOOL_ZYGOTE").split(" ", 2)
    handler = _load(path)
    template = socket.socket(fileno=_TEMPLATE)
    memory = mmap.mmap(_PLANS, 0)
    plans = _Plans(memory, int(places), int(plan_size))
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        data, fds, _, _ = socket.recv_fds(template, _SIZE, _FDS)
        if not data:
            return
        asked = ffi.from_buffer("struct nst_message *", data)[0]
        place = int(asked.detail)
        pid = _copy(plans, place, fds, asked.status, home)
        if pid == 0:
            _serve(handler)
        for fd in fds:
            os.close(fd)
        words = {"type": lib.NST_MSG_STARTED, "detail": place, "pid": max(pid, 0), "error": max(-pid, 0)}
        template.send(ffi.buffer(ffi.new("struct nst_message *", words)))


class _Plans:
    """The memory that is shared with the template: the plan of each place, then what is shared of each."""

    def __init__(self, memory: mmap.mmap, places: int, plan_size: int) -> None:
        self.size = plan_size
        self._base = self.memory = ffi.from_buffer("uint8_t[]", memory)
        self.memory_size = len(memory)
        self._each = (plan_size + 7) & ~7
        self._shares = places * self._each

    def plan(self, place: int) -> object:
        return self._base + place * self._each

    def share(self, place: int) -> object:
        return ffi.cast("struct nst_share *", self._base + self._shares + place * _SHARE)


def _load(path: str) -> service.Handler:
    """Return the one function of a file that is the handler; leave, in words, where there is none to be had."""
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
        raise SystemExit(_told(error)) from None
    if len(service.registered) != 1:
        raise SystemExit(f"{name}: {len(service.registered)} functions have @handler, one must")
    [handler] = service.registered
    if wrong := _unfit(handler):
        raise SystemExit(f"{name}: {getattr(handler, '__name__', handler)} {wrong}: def handle(connection): ...")
    return handler


def _unfit(handler: service.Handler) -> str:
    """Return why a function cannot be called with a connection, and be done when it returns; else empty."""
    if inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
        return "is called, and not awaited or asked for more: make it a plain function"
    try:
        inspect.signature(handler).bind(None)
    except TypeError as error:
        return f"cannot be called with the connection alone ({error})"
    except ValueError:  # of C, without a signature
        return ""
    return ""


def _told(error: BaseException) -> str:
    """Return the traceback of an exception, without the frames of nstool and of the import system."""
    told = traceback.TracebackException.from_exception(error)
    at: traceback.TracebackException | None = told
    while at is not None:
        frames = [
            frame for frame in at.stack if not frame.filename.startswith("<frozen ") and frame.filename != __file__
        ]
        at.stack = traceback.StackSummary.from_list(frames)
        at = at.__cause__ or at.__context__
    return "".join(told.format()).rstrip("\n")


def _copy(plans: _Plans, place: int, fds: list[int], copied: int, home: int) -> int:
    """Clone this process as the sandbox of a place: the pid, or -errno; 0 in the copy. copied: enum nst_copied."""
    *slots, net, control = fds
    # os.fork cannot be told of namespaces; what it does around the fork for the interpreter is done here, as
    # PyOS_BeforeFork(3) says: with the interpreter locked, which cffi does not keep.
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = lib.nst_copy_process(
        plans.plan(place),
        plans.size,
        slots,
        len(slots),
        net if copied & lib.NST_COPY_NET else -1,
        home,
        control if copied & lib.NST_COPY_CONTROL else -1,
        plans.share(place),
        plans.memory,  # it is taken from the copy: it has the plans of all
        plans.memory_size,
    )
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return int(pid)


def _serve(handler: service.Handler) -> None:
    """Call the handler with the connection of this sandbox, and leave."""
    status = 1
    try:
        with socket.socket(fileno=_CONNECTION) as connection:
            handler(connection)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        print(_told(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
