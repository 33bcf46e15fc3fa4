"""Processes as /proc shows them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import NamedTuple


class Process(NamedTuple):
    """One line of /proc/PID/stat. start: clock ticks since boot; with the pid it names a process for good."""

    pid: int
    comm: str
    state: str
    ppid: int
    start: int

    def __str__(self) -> str:
        words = f"pid {self.pid} ({self.comm}), child of {self.ppid}"
        return f"{words}, a zombie that was not waited for" if self.state == "Z" else f"{words}, state {self.state}"


def read(pid: int) -> Process | None:
    """Return the process, or None when there is none. proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read().decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return None
    comm = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    return Process(pid, comm, fields[0], int(fields[1]), int(fields[19]))


def wait_exec(pid: int, comm: str) -> None:
    """Wait until /proc shows a process as the program that it executes, which is a moment after its exec is known."""
    deadline = time.monotonic() + 60
    while (process := read(pid)) is None or process.comm != comm:
        assert time.monotonic() < deadline, process
        time.sleep(0.001)


def every() -> list[Process]:
    """Return all processes of this PID namespace."""
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdecimal())
    return [process for process in found if process is not None]


def descendants(pid: int) -> list[Process]:
    """Return the children of pid, their children and so on, parents first."""
    children: dict[int, list[Process]] = {}
    for process in every():
        children.setdefault(process.ppid, []).append(process)
    found: list[Process] = []
    parents = [pid]
    while parents:
        for child in children.get(parents.pop(0), []):
            found.append(child)
            parents.append(child.pid)
    return found


def kill_tree(pid: int) -> None:
    """Kill pid and all its descendants. Waiting for pid is left to its parent."""
    for process in [*descendants(pid), *filter(None, [read(pid)])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
