"""Sandboxes without a record: inits that no journal of the run directory names. proc_pid_exe(5)."""

from __future__ import annotations

import os

from nstool.sandbox import rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_EXE = "/memfd:nsexec (deleted)"  # what csrc/launch.c executes for every init


def note(records: Iterable[rundir.Record]) -> str:
    """Return a sentence about the inits that the caller may look at and none of the records is of; or nothing.

    Not found: a sandbox without an init or without a pid namespace of its own.
    """
    known = {pid for record in records for pid in (record.init_pid, record.pid)}
    pids = [name for name in os.listdir("/proc") if name.isdecimal() and _is_strange_init(int(name), known)]
    if not pids:
        return ""
    return (
        f"note: {rundir.wanted_path()} has no record of the sandboxes of these inits, which run: {', '.join(pids)}; "
        "they are another user's, or of another NSTOOL_RUN_DIR, or their records were removed: "
        "then kill the init, and its launcher undoes the sandbox"
    )


def _is_strange_init(pid: int, known: Collection[int]) -> bool:
    try:
        if os.readlink(f"/proc/{pid}/exe") != _EXE:
            return False
        with open(f"/proc/{pid}/status") as file:
            status = dict(row.rstrip("\n").split(":\t", 1) for row in file if ":\t" in row)
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, the kernel's own, or not ours to look at
        return False
    pids = status["NSpid"].split()  # one, or not 1 at last: the monitor of an exec or enter
    return len(pids) > 1 and pids[-1] == "1" and pid not in known and int(status["PPid"]) not in known
