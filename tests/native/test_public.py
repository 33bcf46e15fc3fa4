"""What the package offers by name is there."""

from __future__ import annotations

import builtins
import inspect
import re
from pathlib import Path

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

import nstool

LIBRARY = Path(__file__).resolve().parents[2] / "docs/library.md"


@pytest.mark.parametrize("name", nstool.__all__)
def test_public_name_is_there(name: str) -> None:
    """Each can be had as an attribute of the package."""
    assert getattr(nstool, name).__name__.rpartition(".")[2] == name


def test_types_of_the_library_can_be_imported() -> None:
    """Each class that docs/library.md names is one of the package: a program can write it in an annotation."""
    named = set(re.findall(r"`(?:a )?([A-Z][A-Za-z]*[a-z])`", LIBRARY.read_text("utf-8")))
    assert {"AsyncSandbox", "Addresses", "Joined", "Prepared"} <= named <= set(nstool.__all__) | set(dir(builtins))


def test_asynchronous_ones_take_the_same() -> None:
    """Arguments are spelt out, so that a wrong one is found by a type checker; asyncio's are those of the others."""
    for one, other in ((nstool.launch, nstool.launch_async), (nstool.Sandbox.exec, nstool.AsyncSandbox.exec)):
        found = [[(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()] for f in (one, other)]
        assert found[0] == found[1]
        assert inspect.Parameter.VAR_KEYWORD not in {kind for _, kind, _ in found[0]}
