"""Each protection that is taken away turns a check red: the checks can fail."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from nstool.plan import build
from nstool.plan.steps import Plan
from tests.kernel.adversary import run
from tests.kernel.adversary.base import PROTECTIONS, Answer
from tests.kernel.adversary.checks import GROUPS
from tests.kernel.adversary.conftest import Actor
from tests.kernel.adversary.mutations import MUTATIONS, Mutation
from tests.support import kernel
from tests.support.probes import REPOSITORY


def mutated(mutation: Mutation, program: str, words: dict[str, Any]) -> dict[str, Answer]:
    """Ask the named checks with the protection taken away. In a child: the plan is changed for the whole process."""
    if mutation.edit is not None:
        edit, plan = mutation.edit, build.plan

        def changed(*args: Any) -> Plan:
            made = plan(*args)
            return made.replace(steps=edit(made.steps))

        build.plan = changed
    group = GROUPS[mutation.group]
    checks = [check for check in group.checks if check.name in mutation.red]
    # Attested, it would not start: tests/kernel/test_attest.py.
    return run.measure(checks, program, group.words | words | mutation.words | {"attest": False})


CASES = [
    (mutation, who)
    for mutation in MUTATIONS
    for who in ("root", "user")
    if mutation.only in ("", who) and mutation.since <= kernel.release()
]


@pytest.mark.parametrize(
    ("mutation", "actor"), CASES, indirect=["actor"], ids=[f"{mutation.name}-{who}" for mutation, who in CASES]
)
def test_protection_off_check_red(mutation: Mutation, actor: Actor, program: str) -> None:
    """The checks that the mutation names do not hold."""
    found = actor.act(mutated, mutation, program, actor.words)
    assert set(run.red(GROUPS[mutation.group].checks, found)) == set(mutation.red)


def test_each_protection_is_taken_away() -> None:
    """At least one check of each is seen to fail; a mutation names checks that there are."""
    known = {(name, check.name): check for name, group in GROUPS.items() for check in group.checks}
    named = {known[mutation.group, name].protection for mutation in MUTATIONS for name in mutation.red}
    assert named == set(PROTECTIONS) == {check.protection for check in known.values()}
    assert len(known) == sum(len(group.checks) for group in GROUPS.values())  # names are not used twice


def test_the_document_is_current() -> None:
    """docs/adversary.md is what the tables say; `make docs` makes it."""
    path = REPOSITORY / "docs/make_adversary.py"
    assert (REPOSITORY / "docs/adversary.md").read_text() == runpy.run_path(str(path))["text"](), "run make docs"
