"""One protection taken away, and the checks that must then turn red: so that they are known to be able to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nstool.plan.steps import Plan, Step
from nstool.spec.model import Capabilities

Edit = Callable[[tuple[Step, ...]], tuple[Step, ...]]


class Mutation(NamedTuple):
    """words: changes of the spec. edit: of the steps of the plan. red: at least these checks do not hold then."""

    name: str
    group: str
    red: tuple[str, ...]
    words: dict[str, Any] = {}
    edit: Edit | None = None
    only: str = ""


def without(*calls: str, who: str = "", args: object = None) -> Edit:
    """Leave out the steps with these calls; who, args: only those of a role, with this first argument."""

    def edit(steps: tuple[Step, ...]) -> tuple[Step, ...]:
        kept = tuple(
            step
            for step in steps
            if step.call not in calls or (who and step.who != who) or (args is not None and step.args[0] != args)
        )
        assert kept != steps, f"the plan has no step {calls}"
        return kept

    return edit


def applied(edit: Edit, plan: Plan) -> Plan:
    return plan.replace(steps=edit(plan.steps))


_KILL = ("kill",)
MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "no filter",
        "identity",
        ("filtered", "no-new-user-by-unshare", "no-new-user-by-clone", "no-new-user-by-clone3"),
        {"seccomp": "none"},
    ),
    Mutation(
        "a capability",
        "identity",
        tuple(f"no-capability-{name}" for name in ("inh", "prm", "eff", "bnd", "amb")),
        {"capabilities": Capabilities(_KILL, _KILL, _KILL, _KILL, _KILL)},
    ),
)
