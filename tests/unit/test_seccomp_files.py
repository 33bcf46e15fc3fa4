"""Files that are no lists: one message with the file, whatever they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nstool.errors import SpecError
from nstool.security.seccomp_read import rules_of


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody may ever write there."""
    path = tmp_path / "list.json"
    os.mkfifo(path)
    with pytest.raises(SpecError, match=r"list\.json: no plain file"):
        rules_of(str(path))


OCI = '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [%s]}'
WRONG = {
    "arches.json": OCI % '{"names": ["read"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": 5}}',
    "caps.json": OCI % '{"names": ["read"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": 7}}',
    "name.json": OCI % '{"name": ["kill"], "action": "SCMP_ACT_ERRNO"}',
    "action.json": OCI % '{"names": ["kill"], "action": ["x"]}',
    "default.json": '{"defaultAction": {}}',
    "deep.json": "[" * 50000,
    "deep.toml": "allow = " + "[" * 50000,
    "deep.kafel": "POLICY a { ALLOW { read { " + "(" * 3000 + "fd == 1" + ")" * 3000 + " } } } USE a DEFAULT KILL",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_has_the_wrong_form_is_refused(tmp_path: Path, name: str) -> None:
    """A value of another type, or what is nested without end, is a bad request as any."""
    path = tmp_path / name
    path.write_text(WRONG[name])
    with pytest.raises(SpecError) as refused:
        rules_of(str(path))
    assert name in str(refused.value)
