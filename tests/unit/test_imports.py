"""What modules import: pure rooms need no compiled module, and the way of `nstool run` stays cheap."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nstool"
PUBLIC = {"Addresses", "AsyncSandbox", "Joined", "Prepared", "launch", "plan", "syscalls", "uapi"}
PURE_ROOMS = ("spec", "plan")
PURE_MODULES = ("frozen", "closing", "errors", "kinds", "uapi", "security.verdict", "security.acts", "security.files")
CHEAP = (
    "frozen",
    "closing",
    "errors",
    "kinds",
    "uapi",
    "plan.calls",
    "plan.steps",
    "plan.lease",
    "spec.model",
    "cli.start",
)
COSTLY = {
    "typing",
    "enum",
    "dataclasses",
    "re",
    "pathlib",
    "json",
    "msgspec",
    "click",
    "inspect",
    "signal",
    "subprocess",
}
COSTLY |= {"asyncio", "pyroute2", "rich", "psutil", "cffi", "pyseccomp"}


def modules_of(room: str) -> list[str]:
    """Return the names of the modules in a room of the package, below ``nstool.``."""
    files = sorted((PACKAGE / room).rglob("*.py"))
    parts = [file.relative_to(PACKAGE).with_suffix("").parts for file in files]
    return [".".join(part for part in words if part != "__init__") for words in parts]


def in_fresh_interpreter(code: str) -> list[str]:
    """Run code in a new interpreter of this environment; return the list that it prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", [*PURE_MODULES, *(name for room in PURE_ROOMS for name in modules_of(room))])
def test_pure_module_imports_without_the_compiled_one(module: str) -> None:
    """Specs and plans can be made where nothing is built: with nstool._native barred, the module imports."""
    code = f"import sys; sys.modules['nstool._native'] = None; import nstool.{module}; print('[]')"
    assert in_fresh_interpreter(code) == []


@pytest.mark.parametrize("module", CHEAP)
def test_module_on_the_way_of_run_imports_nothing_costly(module: str) -> None:
    """It brings in no module of the list that a bare interpreter of the same environment lacks."""
    code = (
        "import sys; before = set(sys.modules); "
        f"import nstool.{module}; new = sorted(set(sys.modules) - before); "
        "import json; print(json.dumps(new))"
    )
    new = in_fresh_interpreter(code)
    assert f"nstool.{module}" in new
    assert COSTLY.isdisjoint(new)


def exported(tree: ast.Module) -> set[str]:
    """Return what a type checker takes as public of a module: ``import X as X`` and what is assigned (PEP 484)."""
    found: set[str] = set()
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.asname == alias.name}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_public_names_are_the_same_for_type_checkers() -> None:
    """What nstool loads when it is asked for is what mypy --strict lets a program import."""
    text = (PACKAGE / "__init__.py").read_text("utf-8")
    names = set(in_fresh_interpreter("import json, nstool; print(json.dumps(nstool.__all__))"))
    assert names == exported(ast.parse(text))
    assert names >= PUBLIC


def test_package_alone_imports_nothing() -> None:
    """What is public is loaded when it is first used, not before."""
    code = "import json, sys, nstool; print(json.dumps([name for name in sys.modules if name.startswith('nstool.')]))"
    assert in_fresh_interpreter(code) == []
