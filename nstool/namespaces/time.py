"""The time namespace: offsets of the monotonic and boottime clocks. time_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, Fd, Step
from nstool.spec.model import Spec

OFFSETS = "/proc/self/timens_offsets"
NEW = "/proc/self/ns/time_for_children"
MAN = "time_namespaces(7)"


def steps(spec: Spec, lease: Lease) -> tuple[Step, ...]:
    """First steps of init: a time namespace, its clocks, which can be set until somebody is in it, and into it.

    A process whose children are to be in another time namespace cannot share its memory with one (EINVAL of clone3),
    as init does with the command until that execs.
    """
    if spec.namespaces.time != "new":
        return ()
    wanted = spec.namespaces
    monotonic = lease.monotonic if wanted.monotonic_offset is None else wanted.monotonic_offset
    boottime = lease.boottime if wanted.boottime_offset is None else wanted.boottime_offset
    text = f"monotonic {monotonic} 0\nboottime {boottime} 0\n"
    offsets = (uapi.AT_FDCWD, OFFSETS, text, 0, 0)
    new = (uapi.AT_FDCWD, NEW, uapi.O_RDONLY | uapi.O_CLOEXEC, 0, 0)
    return (
        Step(INIT, "unshare", (uapi.CLONE_NEWTIME,), "a time namespace, for now of later processes only", man=MAN),
        Step(INIT, "write_file", offsets, "its clocks, before the first process enters", man=MAN),
        Step(INIT, "openat2", new, "the new time namespace", result="timens", man=MAN),
        Step(INIT, "setns", (Fd("timens"), uapi.CLONE_NEWTIME), "be in it", man=MAN),
    )
