"""What every test against the real kernel is held to: it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import kernel, leaks, probes
from tests.support.workplace import Workplace


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> Iterator[None]:
    """Orphans of the tests come to this process, where they are found, not to the host's init. prctl(2)."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    if not probes.missing("native", "nsexec"):
        from nstool.sandbox import engine

        engine.image()  # made once a process and kept: no test's leak
    yield
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, workplace: Workplace, subreaper: None) -> Iterator[None]:
    """Fail the test that leaves something behind, and say what."""
    check = leaks.LeakCheck(workplace)
    yield
    left = check.wait(orphans=request.node.get_closest_marker("orphans") is not None)
    if left:
        check.tidy(left)
        pytest.fail(f"the test left behind:\n{leaks.report(left)}", pytrace=False)
