"""scripts/packages installs without starting anything: tried with a real apt-get, in a copy of the host's root."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel
from tests.support.probes import REPOSITORY

pytestmark = pytest.mark.needs("root", "overlay", "apt_get")

CONTROL = """Package: nstool-probe
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: a service that says when it is started
"""
UNIT = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
SCRIPT = """#!/bin/sh
### BEGIN INIT INFO
# Provides: nstool-probe
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
echo "$1" >> /started
"""
POSTINST = """#!/bin/sh
set -e
deb-systemd-helper enable nstool-probe.service
update-rc.d nstool-probe defaults
invoke-rc.d nstool-probe start
"""
POLICY = "#!/bin/sh\n# the host's own\nexit 0\n"


def make_repository(top: Path) -> None:
    """A repository of apt with one package, top/repo, and nothing else to install from."""
    files = {
        "DEBIAN/control": CONTROL,
        "DEBIAN/postinst": POSTINST,
        "usr/lib/systemd/system/nstool-probe.service": UNIT,
        "etc/init.d/nstool-probe": SCRIPT,
    }
    for name, text in files.items():
        path = top / "probe" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    package = top / "repo/probe.deb"
    package.parent.mkdir()
    subprocess.run(["dpkg-deb", "--build", str(top / "probe"), str(package)], check=True, capture_output=True)
    data = package.read_bytes()
    entry = f"{CONTROL}Filename: ./probe.deb\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    (top / "repo/Packages").write_text(entry)
    for path in (top / "etc/apt/sources.list.d").glob("*"):
        path.unlink()
    (top / "etc/apt/sources.list").write_text("deb [trusted=yes] file:/repo ./\n")


def enter_copy() -> None:
    """Make the host's root one whose changes go with this process."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/mnt", "tmpfs")
    for name in ("upper", "work", "root"):
        os.mkdir(f"/mnt/{name}")
    kernel.mount("none", "/mnt/root", "overlay", 0, "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work")
    for name in ("proc", "dev"):
        kernel.mount(f"/{name}", f"/mnt/root/{name}", "", kernel.MS_BIND | kernel.MS_REC)
    script = (REPOSITORY / "scripts/packages").read_bytes()
    os.chroot("/mnt/root")
    os.chdir("/")
    Path("/packages").write_bytes(script)
    Path("/packages").chmod(0o755)


def install(words: tuple[str, ...], killed: str) -> dict[str, object]:
    """Return what there is after ``scripts/packages WORDS nstool-probe``. killed: what one before that left behind."""
    enter_copy()
    make_repository(Path("/"))
    policy = Path("/usr/sbin/policy-rc.d")
    policy.write_text(POLICY)
    policy.chmod(0o755)
    if killed:
        policy.rename(f"{policy}.kept-by-nstool")
        policy.write_text(killed)
    done = subprocess.run(["/packages", *words, "nstool-probe", "nstool-nowhere"], capture_output=True, text=True)
    return {
        "status": done.returncode,
        "said": done.stderr,
        "installed": Path("/etc/init.d/nstool-probe").exists(),
        "started": Path("/started").exists(),
        "at boot": Path("/etc/systemd/system/multi-user.target.wants/nstool-probe.service").is_symlink(),
        "in rc2.d": [path.name[0] for path in Path("/etc/rc2.d").glob("*nstool-probe")],
        "policy": policy.read_text() == POLICY and sorted(path.name for path in policy.parent.glob("policy-rc.d*")),
    }


@pytest.mark.parametrize(
    ("words", "killed", "runs"),
    [((), "", True), (("--idle",), "", False), (("--idle",), "# made by nstool's scripts/packages\n", False)],
    ids=["as apt-get does it", "idle", "after one that was killed"],
)
def test_no_service_is_started(in_child: Callable[..., Any], words: tuple[str, ...], killed: str, runs: bool) -> None:
    """--idle: neither now nor at boot, and who decides that on the host does so again afterwards."""
    found = in_child(install, words, killed, timeout=120)
    assert "could not install nstool-nowhere\n" in found.pop("said")
    assert found == {
        "status": 0,
        "installed": True,
        "started": runs,
        "at boot": runs,
        "in rc2.d": ["S" if runs else "K"],
        "policy": ["policy-rc.d"],
    }
