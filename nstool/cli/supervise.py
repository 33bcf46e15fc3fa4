"""Become the supervisor: once a sandbox runs in the foreground, Python has done its part.

This process execs nsexec (csrc/supervise.c), which needs a few pages of memory instead of ten MB: it
forwards signals, relays the terminal, waits, undoes. Where undoing is more than removing files, it
runs Python again for that (nstool.cli.finish).
"""

from __future__ import annotations

import _signal
import fcntl
import os
import sys
from _struct import Struct  # what struct is made of

from nstool.errors import SandboxGone
from nstool.frozen import Frozen
from nstool.sandbox import engine, journal, leases, rundir
from nstool.sandbox.launch import Sandbox
from nstool.spec.values import size_text
from nstool.uapi import AT_REMOVEDIR

_ORDERS = Struct("<II iiiiiiiiii QQ 64s")  # struct nst_orders, csrc/nstool.h
_MAGIC = 0x3150534E
_TCGETS = 0x5401
# What undoing in Python needs of the environment: the run directory's place, and where nft(8) is.
_ENVIRONMENT = ("NSTOOL_RUN_DIR", "NSTOOL_DEBUG", "XDG_RUNTIME_DIR", "PATH", "HOME", "LANG", "LC_ALL")
_VIOLATION = (
    "nstool: the command made a system call that is not allowed, which ended it (SIGSYS); "
    "nstool seccomp learn --seccomp-action log tells which\n"
)


class Log(Frozen):
    """A log file of limited size. output: the pipe that the command writes to; file: fd; size: bytes."""

    output: int
    file: int
    size: int


def become(
    sandbox: Sandbox, signals: frozenset[int], pending: list[int], *, detached: bool, log: Log | None = None
) -> None:
    """Exec the supervisor of this sandbox; returns only by raising OSError.

    signals: those that are forwarded. pending: came before, and are forwarded first. detached: nobody gets its
    status, so it says on standard error, which is the log, how the command ended.
    """
    outer = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1) if sandbox.terminal >= 0 else -1
    out = next((fd for fd in (1, 2, 0) if os.isatty(fd)), 1)
    termios = _raw(outer) if outer >= 0 else b""
    source = 0 if outer < 0 or os.isatty(0) else -1
    if sandbox.terminal >= 0:
        from nstool.cli.relay import own

        source, out = own(source, os.O_RDONLY), own(out, os.O_WRONLY)
    if log is not None:
        out = log.file
    in_python = any(step.call != "unlinkat" for step in sandbox.program.undo)
    undo = _undo_memfd(sandbox) if in_python else -1
    words = _orders(sandbox, undo, detached)
    if log is not None:
        cut = f"\nnstool: {sandbox.name}: the log is cut here, it has {size_text(log.size)} (--log-size)\n"
        words.append(b"c" + os.fsencode(cut))
    text = b"".join(word + b"\0" for word in words)
    caught = (*signals, _signal.SIGWINCH, _signal.SIGCHLD)
    head = _ORDERS.pack(
        _MAGIC,
        len(text),
        sandbox.init_pid,
        sandbox.pidfd,
        sandbox.control,
        sandbox.terminal,
        outer,
        source,
        out,
        sandbox.spec.init,
        in_python,
        log.output if log is not None else -1,
        sum(1 << (number - 1) for number in set(caught)),
        log.size if log is not None else 0,
        termios,
    )
    orders = os.memfd_create("orders", os.MFD_CLOEXEC)
    os.write(orders, head + text)
    os.lseek(orders, 0, os.SEEK_SET)
    held = [socket.fileno() for socket in sandbox.held]
    if in_python:
        held.append(undo)
    # From here on a signal waits, and the supervisor finds it pending after the exec.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, caught)
    for number in pending:
        try:
            sandbox.signal(number)
        except SandboxGone:  # an earlier one has ended it: its status says so
            break
    relayed: tuple[int, ...] = () if sandbox.terminal < 0 else (sandbox.terminal, source, out)
    _let_go_of_streams((*relayed, outer) if relayed else ())
    if log is not None:
        relayed = (log.output, log.file)
    for fd in (orders, sandbox.pidfd, sandbox.control, *held, *(fd for fd in relayed if fd >= 0)):
        fcntl.fcntl(fd, fcntl.F_SETFD, 0)
    os.execve(engine.IMAGE, ["nsexec:supervise", str(orders), sandbox.name or "-"], {})


def _let_go_of_streams(relayed: tuple[int, ...]) -> None:
    """Keep no copy of the command's input and output: who reads the output waits for the last writer."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1):
        if fd not in relayed and not (relayed and os.isatty(fd)):
            os.dup2(null, fd)


def _raw(outer: int) -> bytes:
    """Put the caller's terminal into raw mode; its settings before, as TCGETS gives them. termios(3)."""
    from nstool.cli.relay import make_raw

    before = fcntl.ioctl(outer, _TCGETS, bytes(64))
    make_raw(outer)
    return before


def _undo_memfd(sandbox: Sandbox) -> int:
    """An fd of the undo steps, for Python at the end: the journal may have been removed by then."""
    fd = os.memfd_create("undo", os.MFD_CLOEXEC)
    os.write(fd, journal.undo_text(sandbox.program.undo))
    return fd


def _orders(sandbox: Sandbox, undo: int, detached: bool) -> list[bytes]:
    """The words of the orders. undo: fd of the undo steps where undoing needs Python."""
    words: list[tuple[str, str]] = []
    name = sandbox.name
    if name:
        directory = f"{rundir.path()}/sandboxes/{name}"
        words += [("l", directory), ("j", f"{directory}/journal")]
        if detached:
            words.append(("n", name))
        for step in reversed(sandbox.program.undo):
            if step.call == "unlinkat":
                words.append(("d" if step.args[2] == AT_REMOVEDIR else "f", str(step.args[1])))
        words += [("f", link) for link in leases.links(sandbox.lease)]
        words += [("f", f"{directory}/journal"), ("d", directory)]
        words += [("t", shared) for shared in rundir.skeleton()]
        words += [("p", word) for word in (sys.executable, "-I", "-m", "nstool.cli.finish", name, str(undo))]
        words += [("e", f"{key}={os.environ[key]}") for key in _ENVIRONMENT if key in os.environ]
    memory = sandbox.cgroups.get("memory")
    if memory:
        counts = next((f for f in ("memory.oom_control", "memory.events") if os.path.exists(f"{memory}/{f}")), "")
        limit = size_text(sandbox.spec.limits.memory)
        message = f"nstool: something in the sandbox was killed for lack of memory (limits.memory is {limit})\n"
        words += [("o", f"{memory}/{counts}"), ("k", "oom_kill"), ("m", message)]
    if sandbox.spec.seccomp != "none":
        words.append(("s", _VIOLATION))
    return [letter.encode() + os.fsencode(word) for letter, word in words]
