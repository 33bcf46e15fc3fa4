"""Call a function in other namespaces: in a child, because what it joins it cannot leave. setns(2)."""

from __future__ import annotations

import os
from errno import EPERM

from nstool.errors import KernelError, NstoolError
from nstool.kinds import JOIN_ORDER, KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    T = TypeVar("T")

_SPAWNED = "import sys; sys.path[:] = sys.argv[2:]; from nstool.sandbox.elsewhere import spawned; spawned(sys.argv[1])"


def call(
    namespaces: Mapping[str, int], function: Callable[..., T], *args: object, owner: int = -1, keep: Iterable[int] = ()
) -> T:
    """Return what ``function(*args)`` returns in a child that has joined these namespaces.

    namespaces: fd by kind. owner: fd of the user namespace that they belong to: it is joined first where the caller
    may not join without, as an ordinary user may not. function: one of a module, for a caller that has threads is
    served by a fresh interpreter. args, the result and exceptions are pickled. keep: fds that the function uses.
    Raises KernelError for what may not be joined, and what the function raises.
    """
    from nstool import syscalls

    call_ = (dict(namespaces), owner, function, args)
    if syscalls.single_threaded():
        answer = _forked(call_)
    else:
        answer = _by_interpreter(call_, [*namespaces.values(), *keep, *([owner] if owner >= 0 else [])])
    result: T = _result(answer)
    return result


def _forked(call_: Any) -> bytes:
    from nstool.sandbox import spare

    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except BlockingIOError:
        os.close(reader)
        os.close(writer)
        raise spare.no_process("a child that joins namespaces") from None
    if pid == 0:
        try:
            os.close(reader)
            _write(writer, _answer(call_))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with open(reader, "rb") as pipe:
            return pipe.read()
    finally:
        os.waitpid(pid, 0)


def _by_interpreter(call_: Any, fds: Iterable[int]) -> bytes:
    import pickle
    import subprocess
    import sys

    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        command = [sys.executable, "-I", "-c", _SPAWNED, str(writer), *sys.path]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[writer, *fds])
        os.close(writer)
        with child:
            assert child.stdin
            child.stdin.write(pickle.dumps(call_))
            child.stdin.close()
            return pipe.read()


def spawned(writer: str) -> None:
    """Be the fresh interpreter: read the call from standard input, write what came of it to an fd."""
    import pickle
    import sys

    _write(int(writer), _answer(pickle.load(sys.stdin.buffer)))


def _answer(call_: Any) -> bytes:
    """Join and call; the pickled (result, exception)."""
    import pickle

    namespaces, owner, function, args = call_
    try:
        join(namespaces, owner)
        return pickle.dumps((function(*args), None))
    except (NstoolError, OSError) as error:
        return pickle.dumps((None, error))
    except BaseException as error:  # a bug, which must reach the caller in words
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


def join(namespaces: Mapping[str, int], owner: int = -1) -> None:
    """Join namespaces for good, their owner first where that is needed. Raises KernelError."""
    try:
        _join(namespaces)
    except KernelError as error:
        if error.errno != EPERM or owner < 0 or os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
            raise
        _join({"user": owner})
        _join(namespaces)


def _join(namespaces: Mapping[str, int]) -> None:
    from nstool import syscalls, uapi

    for kind in JOIN_ORDER:
        if kind in namespaces:
            if kind == "user":  # who has CAP_SYS_PTRACE in there shall not trace us (CVE-2016-9962)
                syscalls.prctl(uapi.PR_SET_DUMPABLE, 0)
            syscalls.setns(namespaces[kind], KINDS[kind].flag)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _result(answer: bytes) -> Any:
    import pickle

    if not answer:
        raise NstoolError("the child that joined the namespaces was killed before it answered")
    value, error = pickle.loads(answer)
    if error is not None:
        raise error
    return value
