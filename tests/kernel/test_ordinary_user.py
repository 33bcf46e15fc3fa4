"""The ordinary user of the tests is one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel
from tests.support.probes import REPOSITORY
from tests.support.user import User
from tests.support.workplace import Workplace

AsUser = Callable[..., Any]


def status_lines(*names: str) -> dict[str, str]:
    """Return lines of /proc/self/status."""
    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    return {name: lines[name] for name in names}


@pytest.mark.needs("root")
def test_has_no_privilege_left(as_user: AsUser, user: User) -> None:
    """All four ids are the user's, and no capability, group or environment of root's is left."""
    assert as_user(status_lines, "Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb") == {
        "Uid": "\t".join([str(user.uid)] * 4),
        "Gid": "\t".join([str(user.gid)] * 4),
        "Groups": f"{user.gid} ",
        "CapPrm": "0" * 16,
        "CapEff": "0" * 16,
        "CapAmb": "0" * 16,
    }
    assert as_user(os.environ.get, "NSTOOL_RUN_DIR") is None


def test_has_subordinate_ids(user: User) -> None:
    """newuidmap lets the user map at least the 65536 ids that a container takes."""
    assert user.subuid[0] > 0
    assert min(user.subuid[1], user.subgid[1]) >= 65536


def test_can_write_at_home_and_in_the_runtime_directory(as_user: AsUser, user: User, workplace: Workplace) -> None:
    """Both directories are the user's own, and the current one is home."""

    def write() -> tuple[str, int]:
        path = Path(os.environ["XDG_RUNTIME_DIR"], "probe")
        path.touch()
        owner = path.stat().st_uid
        path.unlink()
        return os.getcwd(), owner

    assert as_user(write) == (str(user.home), user.uid)
    assert user.runtime == workplace.user_runtime


def test_can_run_this_interpreter(as_user: AsUser) -> None:
    """Also where it is installed below a directory that is closed to the user."""

    def run() -> str:
        code = "import nstool.frozen, msgspec; print(msgspec.__name__)"
        done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
        return done.stdout + done.stderr

    assert as_user(run) == "msgspec\n"


@pytest.mark.needs("userns")
def test_can_make_a_user_namespace_and_map_itself(as_user: AsUser, user: User) -> None:
    """The process may write its own maps, as one that a login shell started."""

    def become_root_inside() -> int:
        uid = os.getuid()
        kernel.unshare(kernel.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        return os.getuid()

    assert as_user(become_root_inside) == 0
