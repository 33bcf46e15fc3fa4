"""The cgroup namespace: the sandbox's own cgroup looks like the root. cgroup_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.steps import INIT, Step
from nstool.spec.model import Spec


def steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of init, once it is in its cgroups: the namespace's root is where its maker is at that moment."""
    if spec.namespaces.cgroup != "new":
        return ()
    why = "its own cgroup looks like the root of the tree"
    return (Step(INIT, "unshare", (uapi.CLONE_NEWCGROUP,), why, man="cgroup_namespaces(7)"),)
