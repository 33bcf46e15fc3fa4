"""Fixtures and hooks of all tests: needs, children, the ordinary user, names, what was skipped and why."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import settings

from tests.support import child, probes, user
from tests.support import workplace as workplaces
from tests.support.workplace import Workplace

MUST_RUN = os.environ.get("NSTOOL_MUST_RUN") == "1"
WORKPLACE = pytest.StashKey[Workplace]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*names): run only where these probes of tests/support/probes.py agree")
    config.addinivalue_line("markers", "vm: runs under other kernels too, make test-vm; no skip is allowed there")
    config.addinivalue_line(
        "markers", "vm_full: with vm, but only by VM_FULL=1: alike under each kernel, or one lacks its needs"
    )
    config.addinivalue_line("markers", "orphans: kills a launcher on purpose; dead orphans are no leak")
    # How long one example takes depends on what else the machine does.
    settings.register_profile("nstool", deadline=None)
    settings.load_profile("nstool")
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    if not worker:
        _end_in_order()
        user.undo_killed()
        user.remove_stale()
    if worker or not config.getoption("numprocesses", None):  # the process that runs tests
        _ignore_for_itself_alone()
    config.stash[WORKPLACE] = workplaces.open_workplace(worker)


def _end_in_order() -> None:
    """Let SIGTERM, as of timeout(1), end the run as ^C does: what it has made is undone. Not in what it forks."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def _ignore_for_itself_alone() -> None:
    """Let no child inherit that signals are ignored, as under nohup(1) or in the background: sh(1) cannot trap them."""
    ignored = [number for number in (signal.SIGHUP, signal.SIGINT) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda number, frame: None)  # execve(2) makes the default of a handler
        os.register_at_fork(after_in_child=lambda number=number: signal.signal(number, signal.SIG_DFL))


def pytest_unconfigure(config: pytest.Config) -> None:
    place = config.stash.get(WORKPLACE, None)
    if place is not None and not place.worker:
        for own in place.base.iterdir():  # of tests that failed, and of workers that were killed
            user.undo(own)
        user.remove_user(place)
        workplaces.close_workplace(place)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a need that no probe has: it would never be met, or never be asked."""
    unknown = [name for mark in item.iter_markers("needs") for name in mark.args if name not in probes.PROBES]
    if unknown:
        raise pytest.UsageError(f"{item.nodeid} needs {unknown}, which tests/support/probes.py does not know")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of n parts of the tests: NSTOOL_SHARD="2/3" is the second of three.

    NSTOOL_ONE_OF_EACH=1: before that, of a test that takes many values keep one, another for each test.
    """
    number, _, parts = os.environ.get("NSTOOL_SHARD", "1/1").partition("/")
    kept = _one_of_each(items) if os.environ.get("NSTOOL_ONE_OF_EACH") == "1" else items
    kept = kept[int(number) - 1 :: int(parts)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _one_of_each(items: list[pytest.Item]) -> list[pytest.Item]:
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return [same[crc32(test.encode()) % len(same)] for test, same in tests.items()]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def require(*names: str) -> None:
    """Skip the test that runs, with the reason, unless these needs are met."""
    if reason := probes.missing(*names):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    return _skips_fail((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    return _skips_fail((yield))


def _skips_fail(report: Any) -> Any:
    if MUST_RUN and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but NSTOOL_MUST_RUN=1 is set: {_reason(report)}"
    return report


def _reason(report: Any) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return str(reason).removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was skipped and why, each reason once."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reasons.setdefault(_reason(report), []).append(report.nodeid)
    terminalreporter.section("skipped, and why" if reasons else "nothing was skipped")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{len(tests)} x {reason}")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")


@pytest.fixture(scope="session")
def workplace(pytestconfig: pytest.Config) -> Workplace:
    """The directories, names and networks of this test process."""
    return pytestconfig.stash[WORKPLACE]


@pytest.fixture
def name(workplace: Workplace) -> str:
    """A sandbox name that nobody else uses; for several, append letters to it."""
    return workplace.new_name()


@pytest.fixture
def run_dir(workplace: Workplace) -> Path:
    """The run directory of this test process, as NSTOOL_RUN_DIR says it."""
    return workplace.run


@pytest.fixture
def in_child() -> Callable[..., Any]:
    """``in_child(func, *args)``: what func returns or raises in a forked child; see run_in_child."""
    return child.run_in_child


@pytest.fixture(name="user", scope="session")
def ordinary_user(workplace: Workplace) -> user.User:
    """An ordinary user with ranges in /etc/subuid and /etc/subgid: the caller, or one made for this run."""
    require("user")
    return user.get_user(workplace)


@pytest.fixture
def as_user(user: user.User) -> Callable[..., Any]:
    """``as_user(func, *args)``: what func returns or raises in a child that is the ordinary user, in its home."""
    return user.run
