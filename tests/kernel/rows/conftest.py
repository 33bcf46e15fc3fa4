"""What the tests of the rows share: each test's sandboxes bear its name, and each may act as root or as a user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import require
from tests.kernel.rows import boxes

Act = Callable[..., Any]


@pytest.fixture(autouse=True)
def named(name: str) -> None:
    """The sandboxes of a test bear a name of its own."""
    boxes.name_boxes(name)


@pytest.fixture
def as_root(in_child: Act) -> Act:
    """``as_root(func, *args)``: as in_child, where the tests run as root."""
    require("root", "native", "nsexec")
    return in_child


@pytest.fixture(params=["root", "user"])
def act(request: pytest.FixtureRequest) -> Act:
    """``act(func, *args)``: what func returns in a child that is root, and in another test, an ordinary user."""
    if request.param == "root":
        return request.getfixturevalue("as_root")  # type: ignore[no-any-return]
    require("native", "nsexec", "userns")
    return request.getfixturevalue("as_user")  # type: ignore[no-any-return]
