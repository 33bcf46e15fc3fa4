"""A sandbox with the defaults isolates: every check of checks/ holds, for root's and for an ordinary user's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.adversary import run
from tests.kernel.adversary.base import Answer, Check, answer
from tests.kernel.adversary.checks import GROUPS
from tests.kernel.adversary.conftest import Actor
from tests.support.workplace import Workplace

CASES = [(name, who) for name, group in GROUPS.items() for who in ("root", "user") if group.only in ("", who)]


@pytest.mark.parametrize(("group", "actor"), CASES, indirect=["actor"])
def test_it_holds(group: str, actor: Actor, program: str) -> None:
    """Each check of the group; those that do not are named, with what came instead."""
    checks = [check for check in GROUPS[group].checks if check.only in ("", actor.name)]
    found = actor.act(run.measure, checks, program, GROUPS[group].words | actor.words)
    assert run.red(checks, found) == {}
    assert len(found) == len(checks)  # each has a name of its own


BIN = Path(sys.prefix) / "bin"
NO_LIMITS = ("--memory", "0", "--pids", "0", "--cpu", "0")


def of_a_command_line(how: str, checks: list[Check], program: str, directory: Path, user: bool) -> dict[str, Answer]:
    """Ask all questions of a sandbox that `nstool run` makes, or nsexec of a compiled plan."""
    words = [*(NO_LIMITS if user else ()), "--", program]
    command = [str(BIN / "nstool"), "run", *words]
    if how == "compiled":
        plan = str(directory / "plan")
        subprocess.run([str(BIN / "nstool"), "compile", "-o", plan, *words], check=True)
        command = [str(BIN / "nsexec"), plan]
    questions = "".join("\t".join(check.ask) + "\n" for check in checks if not callable(check.ask))
    done = subprocess.run(command, input=questions, capture_output=True, text=True, check=True, timeout=120)
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    return {check.name: answer(row) for check, row in zip(checks, rows, strict=True)}


@pytest.mark.parametrize("how", ["run", "compiled"])
def test_it_holds_of_the_command_line(how: str, actor: Actor, program: str, workplace: Workplace) -> None:
    """The same questions, as far as they need no look from outside. A compiled plan has the host's clocks."""
    directory = workplace.own / "adversary-plans"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o777)
    checks = [
        check
        for group in GROUPS.values()
        if not group.words
        for check in group.checks
        if check.only in ("", actor.name) and not callable(check.ask)
        if how == "run" or check.protection != "time"
    ]
    found = actor.act(of_a_command_line, how, checks, program, directory, actor.name == "user")
    shutil.rmtree(directory)
    assert len(found) == len(checks) > 150
    assert run.red(checks, found) == {}
