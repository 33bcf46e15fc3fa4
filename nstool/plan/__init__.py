"""The plan: steps, their order, their encoding, how they are shown.

The package itself can be called, because ``from nstool import plan`` gives a package of this name:
``plan(spec)`` is ``nstool.sandbox.launch.preview(spec)``, the Plan that a launch would run.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Plan
    from nstool.spec.model import Spec


class _Callable(type(sys)):  # type: ignore[misc]
    def __call__(self, spec: Spec) -> Plan:
        from nstool.sandbox.launch import preview

        return preview(spec)


sys.modules[__name__].__class__ = _Callable
