"""The time namespace: offsets of the monotonic and boottime clocks. time_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, Step
from nstool.spec.model import Spec


def steps(spec: Spec, lease: Lease) -> tuple[Step, ...]:
    """Steps of the child before it execs init.

    A process stays in its time namespace until it execs (Linux 6.1) or forks, and the offsets can be
    written only as long as nobody is in the new one: so both come between clone and exec.
    """
    if spec.namespaces.time != "new":
        return ()
    wanted = spec.namespaces
    monotonic = lease.monotonic if wanted.monotonic_offset is None else wanted.monotonic_offset
    boottime = lease.boottime if wanted.boottime_offset is None else wanted.boottime_offset
    text = f"monotonic {monotonic} 0\nboottime {boottime} 0\n"
    return (
        Step(
            CHILD,
            "unshare",
            (uapi.CLONE_NEWTIME,),
            "a time namespace, entered at the next exec",
            man="time_namespaces(7)",
        ),
        Step(
            CHILD,
            "write_file",
            (uapi.AT_FDCWD, "/proc/self/timens_offsets", text, 0, 0),
            "its clocks, before the first process enters",
            man="time_namespaces(7)",
        ),
    )
