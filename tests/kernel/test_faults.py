"""Whatever step fails: the error names that step, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError
from nstool.plan.steps import UNDO
from nstool.sandbox.launch import launch, preview
from nstool.spec.model import Spec
from tests.support import leaks, plans
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
MakeSpec = Callable[[str], Spec]


def fail_each(place: Workplace, name: str, make: MakeSpec) -> list[str]:
    """Launch as often as the plan has steps, each time with another step refused. Returns what was wrong."""
    spec = make(name)
    with launch(spec) as sandbox:
        sandbox.wait()
    plan = preview(spec)
    total = sum(step.who != UNDO for step in plan.steps)
    check = leaks.LeakCheck(place)
    wrong = []
    for number in range(total):
        step, errno = plans.refused_step(plan.steps[number])
        where = f"step {number + 1} of {total} ({step.who})"
        try:
            with plans.refusing(number):
                launch(spec).close()
            wrong.append(f"{where} {step.call}: no error")
        except KernelError as error:
            if (error.step, error.errno) != (where, errno):
                wrong.append(f"{where} {step.call}: {error}")
        except Exception as error:
            wrong.append(f"{where} {step.call}: {error!r}")
        left = check.wait()
        if left:
            wrong.append(f"{where} {step.call} left:\n{leaks.report(left)}")
            check.tidy(left)
            check = leaks.LeakCheck(place)
    return wrong


@pytest.mark.needs("root")
@pytest.mark.xdist_group("faults-1")
def test_default(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The safe default, each of its steps refused once."""
    assert in_child(fail_each, workplace, name, plans.default, timeout=120) == []


@pytest.mark.needs("root", "veth", "nft", "ip", "cgroup_cpu")
@pytest.mark.xdist_group("faults-1")
def test_veth_and_limits(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A sandbox with a link, firewall rules and limits: also the external steps."""
    assert in_child(fail_each, workplace, name, plans.veth, timeout=120) == []


@pytest.mark.needs("root", "busybox")
@pytest.mark.xdist_group("faults-2")
def test_tmpfs_root_and_terminal(in_child: InChild, workplace: Workplace, name: str) -> None:
    """An empty root, binds, a terminal of its own, and what few specs ask for."""
    assert in_child(fail_each, workplace, name, plans.tmpfs, timeout=120) == []


@pytest.mark.needs("root", "busybox", "overlay")
@pytest.mark.xdist_group("faults-2")
def test_overlay_root(in_child: InChild, workplace: Workplace, name: str, tmp_path: Path) -> None:
    """An overlay with layers and work directory."""

    def make(name: str) -> Spec:
        return plans.overlay(name, str(tmp_path))

    assert in_child(fail_each, workplace, name, make, timeout=120) == []


@pytest.mark.needs("root")
@pytest.mark.xdist_group("faults-2")
def test_without_init(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The command is PID 1 itself: nobody but it could report."""

    def make(name: str) -> Spec:
        return plans.default(name).replace(init=False, proc_subset="pid")

    assert in_child(fail_each, workplace, name, make, timeout=120) == []


@pytest.mark.needs("user", "userns", "newuidmap")
@pytest.mark.xdist_group("faults-1")
def test_ordinary_user(as_user: InChild, workplace: Workplace, name: str) -> None:
    """An ordinary user with the helpers that write maps of several ids."""
    assert as_user(fail_each, workplace, name, plans.subordinate, timeout=120) == []


@pytest.mark.needs("user", "userns")
@pytest.mark.xdist_group("faults-1")
def test_ordinary_user_with_one_id(as_user: InChild, workplace: Workplace, name: str) -> None:
    """An ordinary user who maps their own id alone."""
    assert as_user(fail_each, workplace, name, plans.single, timeout=120) == []
