"""THE table of what differences mean: every thing that can differ has its sentence."""

from __future__ import annotations

from string import Formatter

import pytest

from nstool import kinds, uapi
from nstool.inspect import reach
from nstool.security import capabilities

TABLES = {name: table for name, table in vars(reach).items() if name.isupper() and isinstance(table, dict)}


def test_every_type_capability_set_and_limit_has_a_sentence() -> None:
    assert set(reach.NAMESPACES) == set(kinds.KINDS)
    assert set(reach.CAPABILITIES) == set(uapi.CAPABILITIES)
    assert {*reach.SETS, "effective"} == set(capabilities.SETS)
    assert set(reach.RLIMITS) == set(uapi.RLIMITS)


@pytest.mark.parametrize("name", TABLES)
def test_sentences_name_the_sides_and_nothing_else(name: str) -> None:
    for sentence in TABLES[name].values():
        fields = {field for _, field, _, _ in Formatter().parse(sentence) if field is not None}
        assert fields <= {"one", "other"}, sentence
        assert sentence
        assert not sentence.endswith(".")


def test_capabilities_of_the_first_user_namespace_are_capabilities() -> None:
    assert set(uapi.CAPABILITIES) > reach.FIRST_ONLY
    assert {"sys_module", "mknod"} <= reach.FIRST_ONLY  # examples of user_namespaces(7)
    assert reach.FIRST_ONLY.isdisjoint({"sys_admin", "net_admin", "chown", "kill", "setuid", "sys_ptrace"})
    assert set(uapi.CAPABILITIES) > reach.ELSEWHERE.keys()
    assert reach.FIRST_ONLY.isdisjoint(reach.ELSEWHERE)
