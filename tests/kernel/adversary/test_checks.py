"""A sandbox with the defaults isolates: every check of checks/ holds, for root's and for an ordinary user's."""

from __future__ import annotations

import pytest

from tests.kernel.adversary import run
from tests.kernel.adversary.checks import GROUPS
from tests.kernel.adversary.conftest import Actor


@pytest.mark.parametrize("group", GROUPS)
def test_it_holds(group: str, actor: Actor, program: str) -> None:
    """Each check of the group; those that do not are named, with what came instead."""
    checks = [check for check in GROUPS[group] if check.only in ("", actor.name)]
    found = actor.act(run.measure, checks, program, actor.words)
    assert run.red(checks, found) == {}
    assert len(found) == len(checks)  # each has a name of its own
