"""Programs that run for a step do not end by a signal to the whole process group: the launcher does, and undoes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.masked import Masked
from nstool.network import firewall
from nstool.plan.steps import LAUNCHER, Plan, Step
from nstool.sandbox import features, mapped

InChild = Callable[..., Any]

pytestmark = pytest.mark.needs("native", "nsexec")

ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that writes its signal mask beside itself."""
    file = tmp_path / "program"
    # No shell: dash begins with a mask of its own.
    file.write_text(
        f"#!{sys.executable} -IS\nwith open('/proc/self/status') as status, open('{tmp_path}/mask', 'a') as mask:\n"
        "    mask.writelines(line for line in status if line.startswith('SigBlk:'))\n"
    )
    file.chmod(0o755)
    tmp_path.chmod(0o777)
    return file


def masks(text: str) -> list[set[int]]:
    """The signals of each line SigBlk. proc_pid_status(5)."""
    lines = [line for line in text.splitlines() if line.startswith("SigBlk:")]
    return [{n for n in range(1, 65) if int(line.split()[1], 16) >> (n - 1) & 1} for line in lines]


def test_they_wait_and_come_afterwards(in_child: InChild) -> None:
    def act() -> list[str]:
        said: list[str] = []
        signal.signal(signal.SIGTERM, lambda *_: said.append("told"))
        masked = Masked()
        os.kill(os.getpid(), signal.SIGTERM)
        said.append("later")
        masked.close()
        masked.close()
        return said

    assert in_child(act) == ["later", "told"]


def test_what_was_blocked_stays_so(in_child: InChild) -> None:
    def act() -> set[int]:
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP, signal.SIGUSR1})
        with Masked():
            pass
        return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    assert in_child(act) == {signal.SIGHUP, signal.SIGUSR1}


def test_nft(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "nft_path", lambda: str(program))
    firewall.apply("")
    (found,) = masks((program.parent / "mask").read_text())
    assert found >= ENDING


@pytest.mark.needs("root")
def test_newuidmap_of_a_launch(program: Path) -> None:
    steps = list(features._child(uapi.CLONE_NEWUSER, True))
    maps = next(number for number, step in enumerate(steps) if step.call == "write_proc")
    steps.insert(maps, Step(LAUNCHER, "spawn", ((str(program),),), "a helper"))
    assert features.run_trial(Plan((*steps, features._END), (), False)) is None
    (found,) = masks((program.parent / "mask").read_text())
    assert found >= ENDING


@pytest.mark.needs("root")
def test_a_function_for_the_sandboxs_ids(program: Path) -> None:
    """The helpers have the mask, and so has the function."""
    status = mapped.call("linecache", "getlines", "/proc/self/status", [(str(program), []), (str(program), [])])
    found = masks((program.parent / "mask").read_text())
    assert len(found) == 2
    assert all(mask >= ENDING for mask in found)
    assert masks("".join(status))[0] >= ENDING
