"""The examples for GitHub and GitLab: of their schemas, and of nothing that the Makefile does not have."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SCHEMAS = {"github.yml": "vendor.github-workflows", "gitlab.yml": "vendor.gitlab-ci"}
READ_BY = ("Makefile", "vagrant/test", "vagrant/Vagrantfile", "tests/vm/boot", "tests/vm/run.py")


def read(name: str) -> Any:
    return YAML(typ="safe").load(ROOT / "examples/ci" / name)


def found(value: object, *keys: str) -> Iterator[Any]:
    """Everything that stands under one of these keys, however deep."""
    for key, below in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()):
        if key in keys:
            yield below
        yield from found(below, *keys)


def commands(name: str) -> list[str]:
    """The lines of shell in an example."""
    each = found(read(name), "run", "script", "before_script")
    return [line for lines in each for line in ([lines] if isinstance(lines, str) else lines)]


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples/ci").iterdir()))
def test_an_example_has_the_schema_of_its_service(name: str) -> None:
    """As check-jsonschema brings it along."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[name]]
    done = subprocess.run([*check, str(ROOT / "examples/ci" / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_an_example_runs_what_there_is(name: str) -> None:
    """Its lines are of the shell, its targets the Makefile's, and somebody reads its variables."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    readers = "".join((ROOT / path).read_text() for path in READ_BY)
    made = [line.split() for line in commands(name) if "make " in line and "install" not in line]
    assert [words[words.index("make") + 1] for words in made] == ["test-vm", "vagrant-test"]
    variables = {word.partition("=")[0] for words in made for word in words if "=" in word}
    variables |= {key for each in found(read(name), "env", "variables") for key in each}
    assert variables
    for variable in variables:
        assert re.search(rf"\b{variable}\b", readers), variable
    for words in made:
        assert words[words.index("make") + 1] in targets
    for line in commands(name):
        subprocess.run(["bash", "-n", "-c", re.sub(r"\$\{\{.*?\}\}", "x", line)], check=True)
