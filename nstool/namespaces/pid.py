"""The PID namespace: init, the next pid, subreaper, end with the parent. pid_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.steps import INIT, PAYLOAD, Step
from nstool.spec.model import Spec


def payload_steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of the payload about its place among processes."""
    steps = [Step(PAYLOAD, "setsid", (), "a session and process group of its own", man="setsid(2)")]
    if spec.subreaper:
        wanted = (uapi.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        steps.append(Step(PAYLOAD, "prctl", wanted, "orphans below it become its children"))
    return tuple(steps)


def death_steps(spec: Spec) -> tuple[Step, ...]:
    """The payload dies with its parent: set last, because a change of ids clears it. PR_SET_PDEATHSIG(2const)."""
    if not spec.die_with_parent:
        return ()
    wanted = (uapi.PR_SET_PDEATHSIG, 9, 0, 0, 0)
    return (Step(PAYLOAD, "prctl", wanted, "killed when its parent ends", man="prctl(2)"),)


def monitor_steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of an init that is not process 1 of a pid namespace: the kernel will not end its descendants."""
    if not spec.init or spec.namespaces.pid == "new":
        return ()
    wanted = (uapi.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return (Step(INIT, "prctl", wanted, "orphans of the sandbox come to init, which ends them when it ends"),)


def clone_step(spec: Spec) -> Step:
    """Init makes the payload."""
    return Step(INIT, "clone3", (0, -1, spec.next_pid, 0), "the process that becomes the command")
