"""All checks by group. A group is asked in one sandbox."""

from __future__ import annotations

from tests.kernel.adversary.base import Check
from tests.kernel.adversary.checks import identity

GROUPS: dict[str, tuple[Check, ...]] = {
    "identity": identity.CHECKS,
}
