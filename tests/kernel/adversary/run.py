"""Ask checks in one sandbox: the probe is its command, and answers line by line; what is outside is read meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from nstool.sandbox.launch import Sandbox, launch
from nstool.spec.model import Spec
from tests.kernel.adversary.base import Answer, Check, answer

HERE = Path(__file__).parent
SOURCES = ("probe.c", "special.c")


def build(directory: Path) -> str:
    """Compile the probe, without libraries that a root would have to have; return its path."""
    program = directory / "adversary-probe"
    sources = [str(HERE / name) for name in SOURCES]
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-static", "-o", program, *sources], check=True)
    return str(program)


class View(NamedTuple):
    """What the outside can look at while the sandbox stands."""

    sandbox: Sandbox
    pid: int
    program: str

    def file(self, path: str) -> Answer:
        """The content of a file outside."""
        return Answer(text=Path(path).read_text())


def measure(checks: Iterable[Check], program: str, words: dict[str, Any]) -> dict[str, Answer]:
    """Return what comes of each check in one sandbox of the defaults. words: changes of the spec."""
    spec = Spec(**{"command": (program,), **words})
    inner_in, to = os.pipe()
    answers, inner_out = os.pipe()
    with open(answers) as reader, open(to, "w", buffering=1) as writer:
        try:
            sandbox = launch(spec, stdin=inner_in, stdout=inner_out)
        finally:
            os.close(inner_in)
            os.close(inner_out)
        with sandbox:
            found = {}
            for check in checks:
                if callable(check.ask):
                    found[check.name] = check.ask(View(sandbox, sandbox.pid, program))
                    continue
                writer.write("\t".join(check.ask) + "\n")
                line = reader.readline()
                assert line, f"{check.name}: the probe has ended"
                found[check.name] = answer(json.loads(line))
            writer.close()
            assert sandbox.wait(20).status == 0
            return found


def red(checks: Iterable[Check], found: dict[str, Answer]) -> dict[str, str]:
    """Return the checks that do not hold: name to what came instead."""
    return {
        check.name: f"{found[check.name]}, but it {check.expected.words}"
        for check in checks
        if check.name in found and not check.expected.test(found[check.name])
    }
