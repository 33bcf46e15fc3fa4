"""The probe, built once, and who launches."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from nstool.spec.model import Limits
from tests.conftest import require
from tests.kernel.adversary import run
from tests.support.workplace import Workplace

Act = Callable[..., Any]


@pytest.fixture(scope="session")
def program(workplace: Workplace) -> str:
    """The path of the probe. One of the workers builds it."""
    require("gcc")
    with open(workplace.base / "adversary.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workplace.base / "adversary-probe").exists():
            run.build(workplace.base)
    return str(workplace.base / "adversary-probe")


class Actor(NamedTuple):
    """Who launches, how to act as them, and what their specs need to say."""

    name: str
    act: Act
    words: dict[str, Any]


@pytest.fixture(params=["root", "user"])
def actor(request: pytest.FixtureRequest, name: str) -> Actor:
    """Root with nothing but the defaults; an ordinary user, who has no cgroup of their own, without limits."""
    if request.param == "root":
        require("root", "native", "nsexec")
        return Actor("root", request.getfixturevalue("in_child"), {"name": name})
    require("native", "nsexec", "userns")
    return Actor("user", request.getfixturevalue("as_user"), {"name": name, "limits": Limits(memory=0, pids=0, cpu=0)})
