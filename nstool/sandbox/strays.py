"""Sandboxes of this run directory that run and have no record in it: somebody removed it. proc_pid_exe(5)."""

from __future__ import annotations

import os

from nstool.sandbox import leases, rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_EXE = "/memfd:nsexec (deleted)"  # what csrc/launch.c executes for every init


def note(records: Iterable[rundir.Record]) -> str:
    """Return a sentence about the sandboxes of this run directory that none of the records is of; empty for none.

    They are known by the names of their cgroups; not found is one without cgroups, or without init.
    """
    known = {record.name for record in records}
    mark = leases.cgroup_mark()
    found = ((pid, _name(pid, mark)) for pid in os.listdir("/proc") if pid.isdecimal())
    # A sandbox of a service is called as its template, with the number of its place: that has the record.
    lost = [f"{name} (init {pid})" for pid, name in found if name and not {name, name.rpartition(".")[0]} & known]
    if not lost:
        return ""
    return (
        f"note: {rundir.wanted_path()} has lost the record of sandboxes that still run: {', '.join(lost)}; "
        "kill the init of one, and its launcher undoes it"
    )


def _name(pid: str, mark: str) -> str:
    """Return the name of the sandbox that a process is the init of, if it was made with this run directory."""
    try:
        if os.readlink(f"/proc/{pid}/exe") != _EXE:
            return ""
        with open(f"/proc/{pid}/cgroup") as file:
            groups = [line.rstrip("\n").rpartition("/")[2] for line in file]
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # ended, the kernel's own, or not ours to look at
        return ""
    # leases.cgroup_name: nstool-NAME-XXXXXX, the mark, the launcher's pid
    before = next((group.partition(mark)[0] for group in groups if mark in group), "")
    return before.removeprefix("nstool-").rpartition("-")[0]
