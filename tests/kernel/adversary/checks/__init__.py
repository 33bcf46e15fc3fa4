"""All checks by group. A group is asked in one sandbox."""

from __future__ import annotations

from typing import Any, NamedTuple

from nstool.spec.model import Limits, Root
from tests.kernel.adversary.base import Check
from tests.kernel.adversary.checks import files, identity, ipc, kernel, limits, proc, processes


class Group(NamedTuple):
    """words: what the spec of its sandbox says besides the command, where a check needs it. only: as of a check."""

    checks: tuple[Check, ...]
    words: dict[str, Any] = {}
    only: str = ""


_FEW: dict[str, Any] = {"limits": Limits(memory=limits.MEMORY, pids=limits.PIDS)}
_ROOT: dict[str, Any] = {"user": "0:0"}  # uid 0 inside, whom no mode of a file stops

GROUPS: dict[str, Group] = {
    "identity": Group(identity.CHECKS),
    "files": Group(files.CHECKS),
    "files-as-root": Group(files.AS_ROOT, _ROOT),
    "proc": Group(proc.CHECKS),
    "proc-as-root": Group(proc.AS_ROOT, _ROOT),
    "kernel": Group(kernel.CHECKS),
    "processes": Group(processes.CHECKS),
    "processes-as-root": Group(processes.AS_ROOT, _ROOT),
    "ipc": Group(ipc.CHECKS),
    "limits": Group(limits.DEFAULTS),
    "writable-root": Group(limits.WRITABLE, {**_ROOT, "root": Root(writable=True)}),
    "tasks": Group(limits.TASKS, _FEW, "root"),
    "buffers": Group(limits.BUFFERS, _FEW, "root"),
    **{check.name: Group((check,), _FEW, "root") for check in limits.MEMORY_REACHED},
}
