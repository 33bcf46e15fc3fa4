"""Causes and remedies of a refused step. Filled from the catalogue."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Plan, Step


def explain(step: Step, errno: int, detail: int, plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return (causes, remedies, whether they were checked on this host)."""
    return (), (), False
