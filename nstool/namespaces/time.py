"""The time namespace: offsets of the monotonic and boottime clocks. time_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, Fd, Step
from nstool.spec.model import Spec

NEW = "/proc/self/ns/time_for_children"


def steps(spec: Spec, lease: Lease, who: str = CHILD) -> tuple[Step, ...]:
    """Steps of the child before it execs init; of who is cloned without an exec, before it enters.

    The offsets can be written only as long as nobody is in the new namespace, and the exec enters it (newer
    kernels) or does not (Linux 6.1): so both come between clone and exec.
    """
    if spec.namespaces.time != "new":
        return ()
    wanted = spec.namespaces
    monotonic = lease.monotonic if wanted.monotonic_offset is None else wanted.monotonic_offset
    boottime = lease.boottime if wanted.boottime_offset is None else wanted.boottime_offset
    text = f"monotonic {monotonic} 0\nboottime {boottime} 0\n"
    return (
        Step(
            who,
            "unshare",
            (uapi.CLONE_NEWTIME,),
            "a time namespace, for now of later processes only",
            man="time_namespaces(7)",
        ),
        Step(
            who,
            "write_file",
            (uapi.AT_FDCWD, "/proc/self/timens_offsets", text, 0, 0),
            "its clocks, before the first process enters",
            man="time_namespaces(7)",
        ),
    )


def enter_steps(spec: Spec) -> tuple[Step, ...]:
    """First steps of init: into its time namespace, where its exec has not put it there already.

    A process whose children are to be in another time namespace cannot share its memory with one (EINVAL of clone3),
    as init does with the command until that execs.
    """
    if spec.namespaces.time != "new":
        return ()
    args = (uapi.AT_FDCWD, NEW, uapi.O_RDONLY | uapi.O_CLOEXEC, 0, 0)
    return (
        Step(INIT, "openat2", args, "the new time namespace", result="timens", man="time_namespaces(7)"),
        Step(
            INIT,
            "setns",
            (Fd("timens"), uapi.CLONE_NEWTIME),
            "be in it, which exec does on newer kernels only",
            man="time_namespaces(7)",
        ),
    )
