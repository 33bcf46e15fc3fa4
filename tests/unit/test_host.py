"""Facts of the host that need no kernel of their own to be tested: its version."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from nstool.errors import NotSupported
from nstool.sandbox import host
from nstool.spec.model import Spec


@pytest.mark.parametrize("release", ["5.11.22", "5.10.0-46-amd64", "4.19.0"])
def test_a_kernel_that_is_too_old_is_told_before_anything(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """By its version, with the one that is needed."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    with pytest.raises(NotSupported) as refused:
        host.read(Spec(command=("true",)))
    assert refused.value.what == "Linux " + ".".join(release.split(".")[:2])
    assert refused.value.remedy == "run Linux 5.12 or later"


@pytest.mark.parametrize("release", ["5.12.0", "5.12-rc1", "6.1.0-56-amd64", "6.18.44-x", "10.0"])
def test_a_kernel_that_is_new_enough(monkeypatch: pytest.MonkeyPatch, release: str) -> None:
    """Whatever its distribution has appended."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    assert host.too_old() is None
