"""The leak check finds what it is there to find."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel, leaks, probes
from tests.support.probes import REPOSITORY, controller_root
from tests.support.workplace import Workplace

InChild = Callable[..., Any]


def kinds(left: leaks.Snapshot) -> dict[str, str]:
    """Return what was found, all of one kind in one text."""
    return {kind: "; ".join(things.values()) for kind, things in left.items()}


def leaked_by(place: Workplace, act: Callable[[], object], seconds: float = 0) -> dict[str, str]:
    """Do something that leaves something behind; return what the leak check finds of it."""
    check = leaks.LeakCheck(place)
    act()
    return kinds(check.wait(seconds))


def test_nothing_is_found_where_nothing_was_left(workplace: Workplace) -> None:
    """A file that was closed and a process that was waited for are no leaks."""

    def act() -> None:
        open("/dev/null").close()
        subprocess.run(["true"], check=True)

    assert leaked_by(workplace, act) == {}


def test_open_fd_is_found(workplace: Workplace, in_child: InChild) -> None:
    """An fd left open is named with its target."""
    found = in_child(leaked_by, workplace, lambda: os.open("/dev/null", os.O_RDONLY))
    assert list(found) == ["file descriptor"]
    assert "/dev/null" in found["file descriptor"]


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "60"])


def test_process_is_found_and_ended(workplace: Workplace) -> None:
    """A process left running is named with its command line, and tidied away."""
    check = leaks.LeakCheck(workplace)
    process = sleeper()
    left = check.wait(0)
    assert "sleep 60" in kinds(left)["process"]
    check.tidy(left)
    assert check.wait() == {}
    process.wait()  # for Popen: it was waited for above


def test_orphan_of_a_dead_child_is_found(workplace: Workplace, in_child: InChild) -> None:
    """The child that started it is gone, and it has come to this process."""
    check = leaks.LeakCheck(workplace)
    in_child(lambda: sleeper().pid)
    left = check.wait(0)
    assert "sleep 60" in kinds(left)["process"]
    check.tidy(left)


def dead_orphan() -> None:
    """Leave a child to this process's parent, and end it."""
    ready, release = os.pipe()
    if os.fork() == 0:
        os.close(release)
        os.read(ready, 1)  # until the parent has ended
        os._exit(0)


@pytest.mark.orphans
def test_dead_orphan_is_found_and_reaped(workplace: Workplace, in_child: InChild) -> None:
    """A zombie is a leak, but for a test that is marked as killing launchers."""
    check = leaks.LeakCheck(workplace)
    in_child(dead_orphan)
    ((pid, _),) = check.new()["process"]
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert "zombie" in kinds(check.wait(0))["process"]
    assert check.wait(0, orphans=True) == {}


@pytest.mark.orphans
def test_orphan_that_dies_meanwhile_is_reaped(
    workplace: Workplace, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A living one is a leak, until it is dead."""
    check = leaks.LeakCheck(workplace)
    pid = in_child(lambda: sleeper().pid)
    assert kinds(check.wait(0, orphans=True)).keys() == {"process"}
    monkeypatch.setattr(leaks.time, "sleep", lambda _: os.kill(pid, signal.SIGKILL))
    assert check.wait(orphans=True) == {}


@pytest.mark.needs("root")
def test_mount_is_found_and_detached(workplace: Workplace, in_child: InChild) -> None:
    """A mount left in this mount namespace is named, and detached where it lies in our directory."""

    def act() -> tuple[dict[str, str], leaks.Snapshot]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        check = leaks.LeakCheck(workplace)
        kernel.mount("leaked", str(workplace.own), "tmpfs")
        left = check.wait(0)
        check.tidy(left)
        return kinds(left), check.wait(0)

    assert in_child(act) == ({"mount": f"tmpfs leaked on {workplace.own}"}, {})


@pytest.mark.needs("cgroup_pids")
def test_cgroup_is_found(workplace: Workplace, name: str) -> None:
    """A cgroup of a sandbox of ours is named with its path."""
    path = Path(controller_root("pids"), f"nstool-{name}-0")
    try:
        assert leaked_by(workplace, path.mkdir) == {"cgroup": str(path)}
    finally:
        path.rmdir()


@pytest.mark.needs("ip", "veth")
def test_link_is_found(workplace: Workplace) -> None:
    """A network device of a sandbox of ours is named."""
    link = f"ns-{int(workplace.nets[0].network_address):08x}"
    try:
        found = leaked_by(workplace, lambda: ip("link", "add", link, "type", "veth", "peer", "name", f"{link}p"))
        assert link in found["link"]
    finally:
        ip("link", "delete", link)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.mark.needs("nft")
def test_firewall_rule_is_found(workplace: Workplace, name: str, in_child: InChild) -> None:
    """A rule and a set element of a sandbox of ours are named; the table, which is everybody's, by none."""
    address = workplace.nets[0][2]
    rules = (
        f"add chain inet nstool {name}; add rule inet nstool {name} ip saddr {address} counter accept; "
        f"add element inet nstool known {{ {address} }}"
    )

    def act() -> dict[str, str]:
        kernel.unshare(kernel.CLONE_NEWNET)
        nft("add table inet nstool; add set inet nstool known { type ipv4_addr; }")
        return leaked_by(workplace, lambda: nft(rules))

    found = in_child(act)
    assert list(found) == ["firewall"]
    assert f"chain inet nstool {name}" in found["firewall"]
    assert "rule inet nstool" in found["firewall"]
    assert re.search(rf'element of set inet nstool known \d+: "{address}"', found["firewall"])


def nft(rules: str) -> None:
    subprocess.run(["nft", rules], check=True)


def test_run_directory_entry_is_found(workplace: Workplace, name: str) -> None:
    """A sandbox's directory in the run directory is named, and the empty ones round it."""
    own = workplace.run / "sandboxes" / name
    try:
        found = leaked_by(workplace, lambda: own.mkdir(parents=True))["run directory"]
    finally:
        for directory in (own, own.parent, workplace.run):
            directory.rmdir()
    assert str(own) in found
    assert str(workplace.run) in found


def test_what_goes_by_itself_in_time_is_no_leak(workplace: Workplace) -> None:
    """The check gives the kernel time for what is just ending."""
    check = leaks.LeakCheck(workplace)
    fd = os.open("/dev/null", os.O_RDONLY)
    assert list(check.new()) == ["file descriptor"]
    threading.Timer(0.1, os.close, [fd]).start()
    assert check.wait() == {}


LEAKY = """
import os, subprocess
from tests.support import leaks

leaks.SECONDS = 1

def test_leaves_an_fd(): os.open("/dev/null", os.O_RDONLY)
def test_leaves_a_process(): globals().update(kept=subprocess.Popen(["sleep", "61"]))
def test_leaves_nothing(): pass
"""


def start_pytest(directory: Path, text: str) -> subprocess.Popen[str]:
    """A run of its own of this one file of tests."""
    (directory / "conftest.py").write_text("from tests.conftest import *\nfrom tests.kernel.conftest import *\n")
    (directory / "test_it.py").write_text(text)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NSTOOL_", "PYTEST_"))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--rootdir",
        directory,
        directory,
    ]
    environment = {**inherited, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


@pytest.mark.xdist_group("runs-in-runs")  # each undoes what one that was killed has left
def test_leaky_test_is_reported(tmp_path: Path) -> None:
    """In a whole run each test that leaves something fails by name, and the next one does not suffer for it."""
    with start_pytest(tmp_path, LEAKY) as run:
        assert run.stdout is not None
        text = run.stdout.read()
    assert "3 passed, 2 errors" in text
    assert re.search(r"ERROR at teardown of test_leaves_an_fd _+\nthe test left behind:\n.* -> /dev/null", text)
    assert re.search(r"ERROR at teardown of test_leaves_a_process _+\nthe test left behind:\n.*sleep 61", text)


KILLED = """
import os, pathlib
from nstool import Spec, launch
from tests.support import leaks

leaks.SECONDS = 1

def test_waits(name):
    pathlib.Path(__file__).with_name("name").write_text(name + " " + os.environ["NSTOOL_TEST_DIR"])
    with launch(Spec(command=("sleep", "61"), name=name)) as box:
        os.kill(os.getpid(), SIGNAL)
        box.wait()
"""


@pytest.mark.orphans
@pytest.mark.xdist_group("runs-in-runs")
@pytest.mark.needs("root", "native", "nsexec", "cgroup_pids")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM, as of timeout(1), lets it undo; after SIGKILL the next run does, before it removes the run directory."""
    with start_pytest(tmp_path, KILLED.replace("SIGNAL", str(int(number)))) as run:
        assert run.stdout is not None
        run.stdout.read()
    name, base = (tmp_path / "name").read_text().split()
    left = [
        Path(path)
        for point, _, _ in probes.cgroup_mounts()
        for path, _, _ in os.walk(point)
        if f"/nstool-{name}-" in path
    ]
    assert bool(left) == Path(base).exists() == (number == signal.SIGKILL)
    with start_pytest(tmp_path, "def test_nothing(): pass") as run:
        assert run.stdout is not None
        assert "1 passed" in run.stdout.read()
    assert not Path(base).exists()
    assert not any(path.exists() for path in left)


@pytest.mark.needs("root", "nft")
def test_the_table_of_a_script_is_found_and_removed(workplace: Workplace) -> None:
    """No journal tells of it, as a script of `nstool plan --sh` has none."""
    table = f"nstool_sh_ns_{int(workplace.nets[0].network_address) + 1:08x}"
    address = workplace.nets[0].network_address + 2
    check = leaks.LeakCheck(workplace)
    rules = ("table inet {0}", "set inet {0} s {{ type ipv4_addr; }}", "element inet {0} s {{ {1} }}")
    for rule in (rule.format(table, address) for rule in rules):
        subprocess.run(["nft", f"add {rule}"], check=True)
    left = check.wait(0)
    assert table in leaks.report(left)
    check.tidy(left)
    assert check.wait(0) == {}
