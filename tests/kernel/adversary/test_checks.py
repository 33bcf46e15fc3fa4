"""A sandbox with the defaults isolates: every check of checks/ holds, for root's and for an ordinary user's."""

from __future__ import annotations

import pytest

from tests.kernel.adversary import run
from tests.kernel.adversary.checks import GROUPS
from tests.kernel.adversary.conftest import Actor

CASES = [(name, who) for name, group in GROUPS.items() for who in ("root", "user") if group.only in ("", who)]


@pytest.mark.parametrize(("group", "actor"), CASES, indirect=["actor"])
def test_it_holds(group: str, actor: Actor, program: str) -> None:
    """Each check of the group; those that do not are named, with what came instead."""
    checks = [check for check in GROUPS[group].checks if check.only in ("", actor.name)]
    found = actor.act(run.measure, checks, program, GROUPS[group].words | actor.words)
    assert run.red(checks, found) == {}
    assert len(found) == len(checks)  # each has a name of its own
