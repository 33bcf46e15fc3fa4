"""Rows C1 and C3: memory, pids and cpu hold for what really uses them; a cgroup namespace of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.sandbox.cgroups import usage
from nstool.sandbox.launch import launch
from nstool.spec.model import Limits
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import probes
from tests.support.user import User

pytestmark = pytest.mark.vm

MIB = 1 << 20
# Allocates and touches: awk doubles a string until it is beyond any limit here.
HOG = "busybox awk 'BEGIN { s = \"x\"; while (length(s) < 200 * 1024 * 1024) s = s s; print length(s) }'"
FORKS = "i=0; while [ $i -lt 40 ]; do busybox sleep 5 & i=$((i+1)); done; echo started $i"


def values(box: boxes.Box, name: str, *files: str) -> list[str]:
    """Contents of the first of these files that the sandbox's cgroup has: version 1 and 2 name them differently."""
    path = Path(box.sandbox.cgroups[name])
    return next((path / file).read_text().split() for file in files if (path / file).exists())


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_the_limits_are_in_the_cgroups(as_root: Act) -> None:
    """As the kernel tells them, with the command in the cgroup; all gone afterwards."""

    def look() -> tuple[Any, ...]:
        limits = Limits(memory=64 * MIB, pids=20, cpu=0.5)
        with boxes.box(limits=limits) as box:
            paths = dict(box.sandbox.cgroups)
            for path in paths.values():
                assert str(box.pid) in Path(path, "cgroup.procs").read_text().split()
            memory = values(box, "memory", "memory.limit_in_bytes", "memory.max")
            pids = values(box, "pids", "pids.max")
            cpu = Path(paths["cpu"])
            if (cpu / "cpu.max").exists():
                quota, period = map(int, (cpu / "cpu.max").read_text().split())
            else:
                quota, period = (int((cpu / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return memory, pids, quota / period, [path for path in paths.values() if os.path.exists(path)]

    assert as_root(look) == ([str(64 * MIB)], ["20"], 0.5, [])


@pytest.mark.needs("root", "cgroup_memory")
def test_a_memory_hog_is_killed(as_root: Act) -> None:
    """The command line says why; with a higher limit the same command runs through."""

    def hog(memory: str) -> boxes.Ran:
        return boxes.nstool("run", "--memory", memory, "--", "sh", "-c", HOG)

    killed = as_root(hog, "24M")
    assert (killed.status, killed.out) == (137, "")
    assert "for lack of memory (limits.memory is 24M)" in killed.err
    through = as_root(hog, "700M")
    assert (through.status, through.out) == (0, f"{256 * MIB}\n"), through


@pytest.mark.needs("root", "cgroup_pids")
def test_a_fork_bomb_is_stopped(as_root: Act) -> None:
    """fork(2) is refused at the limit, inside only."""
    ran = as_root(boxes.nstool, "run", "--pids", "10", "--", "sh", "-c", FORKS)
    assert "fork" in ran.err
    assert "Resource temporarily unavailable" in ran.err or "Cannot fork" in ran.err
    assert "started 40" not in ran.out
    through = as_root(boxes.nstool, "run", "--pids", "100", "--", "sh", "-c", FORKS)
    assert through.out == "started 40\n"


@pytest.mark.needs("root", "cgroup_cpu")
def test_a_cpu_hog_is_slowed(as_root: Act) -> None:
    """With a fifth of a core a loop gets at most about a fifth of the time."""

    def burn() -> float:
        limits = Limits(memory=0, pids=0, cpu=0.2)
        script = "busybox timeout 1 sh -c 'while :; do :; done'"
        started = time.monotonic()
        with launch(boxes.spec("sh", "-c", script, limits=limits)) as sandbox:
            ended = sandbox.wait()
        return (ended.utime + ended.stime) / (time.monotonic() - started)

    assert as_root(burn) < 0.35


@pytest.mark.needs("root", "cgroup_cpu")
def test_by_default_the_host_has_the_cpu_first(as_root: Act) -> None:
    """Where both want one cpu, a loop inside gets about a tenth of what a loop outside gets; alone it gets all."""

    def compete() -> float:
        os.setsid()  # else it shares its weight with all of this session, sched(7), "The autogroup feature"
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with boxes.box(limits=Limits(memory=0, pids=0)) as box:
            box.ask("while :; do :; done &")
            before = usage(box.sandbox.cgroups).cpu_us or 0
            mine = time.process_time()
            while time.process_time() < mine + 0.3:
                pass
            return ((usage(box.sandbox.cgroups).cpu_us or 0) - before) / 300_000

    assert as_root(compete) < 0.4


@pytest.mark.needs("root")
def test_zero_is_no_limit(as_root: Act) -> None:
    """A word that a reviewer sees; then there is no cgroup of that controller."""

    def look() -> set[str]:
        with boxes.box(limits=Limits(memory=0, pids=0, cpu=0)) as box:
            return {"memory", "pids", "cpu"} & set(box.sandbox.cgroups)

    assert as_root(look) == set()


@pytest.mark.needs("root", "cgroup_memory")
def test_a_limit_below_what_a_start_needs(as_root: Act) -> None:
    """One clear message, nothing left."""
    refused = as_root(boxes.nstool, "check", "--memory", "4k", "--", "true")
    assert refused.status == 2
    assert refused.err.startswith("nstool: --memory: 4096 bytes are too few")
    ran = as_root(boxes.nstool, "run", "--memory", "128k", "--", "true")
    assert ran.status in (125, 137), ran
    assert "memory" in ran.err
    assert ran.status == 137 or "\nremedy: raise limits.memory" in ran.err


# ---------------------------------------------------------------------------------------- C3


@pytest.mark.needs("cgroupns")
def test_it_sees_itself_at_the_root(as_root: Act) -> None:
    """Inside, /proc/self/cgroup says "/" for each hierarchy that the sandbox is in; outside it says where."""

    def look() -> tuple[dict[str, str], dict[str, str], list[str]]:
        with boxes.box(limits=Limits(memory=64 * MIB, pids=20, cpu=0.5)) as box:
            inside, outside = (
                {line.split(":")[1]: line.split(":", 2)[2] for line in text.splitlines()}
                for text in (box.ask("cat /proc/self/cgroup"), Path(f"/proc/{box.pid}/cgroup").read_text())
            )
            return inside, outside, list(box.sandbox.cgroups)

    inside, outside, used = as_root(look)
    for name in used:
        key = next((key for key in outside if name in key.split(",")), "")  # "" is version 2
        assert inside[key] == "/"
        assert "nstool-" in outside[key]


@pytest.mark.needs("cgroupns")
def test_a_shared_cgroup_namespace_shows_where_it_is(as_root: Act) -> None:
    """The counterpart: with the host's namespace the path is the host's."""

    def look() -> str:
        with boxes.box(limits=Limits(memory=64 * MIB), namespaces=boxes.shared("cgroup")) as box:
            return box.ask("cat /proc/self/cgroup")

    assert "nstool-" in as_root(look)


# --------------------------------------------------------------------- as an ordinary user


Give = Callable[..., Path]


@pytest.fixture
def give(user: User) -> Iterator[Give]:
    """``give(directory)``: make a cgroup that is the user's own, as an administrator does; where to be in it.

    With theirs=False it stays root's.
    """
    if reason := probes.missing("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu"):
        pytest.skip(reason)
    made: list[Path] = []

    def act(path: Path, theirs: bool = True) -> Path:
        # Of version 2, who has children with controllers has no processes: they are in a child.
        places = [path, path / "own"] if theirs and (path.parent / "cgroup.subtree_control").exists() else [path]
        for place in places:
            place.mkdir()
            made.append(place)
            for file in ("", "cgroup.procs", "tasks", "cgroup.subtree_control", "cgroup.threads"):
                if theirs and (place / file).exists():
                    os.chown(place / file, user.uid, user.gid)
        return places[-1]

    yield act
    deadline = time.monotonic() + 5
    for path in reversed(made):
        while path.exists() and time.monotonic() < deadline:
            try:
                path.rmdir()
            except OSError:  # its last process is just ending
                continue


def hierarchies() -> list[Path]:
    """The tops of all that the default's limits need."""
    points = {probes.controller_root(controller) for controller in ("memory", "pids", "cpu")}
    return [*map(Path, sorted(points | {point for point, kind, _ in probes.cgroup_mounts() if kind == "cgroup2"}))]


def be_in(places: list[Path], user: User) -> None:
    """Enter these cgroups, and become the user."""
    for place in places:
        (place / "cgroup.procs").write_text(str(os.getpid()))
    user.become()


def test_limits_hold_in_a_delegated_cgroup(in_child: Act, user: User, name: str, give: Give) -> None:
    """An ordinary user with cgroups of their own gets the default's limits, and they hold."""
    delegated = [top / f"delegated-{name}" for top in hierarchies()]
    places = [give(path) for path in delegated]

    def act() -> tuple[Any, ...]:
        be_in(places, user)
        plain = boxes.nstool("run", "--", "id", "-u")
        hog = boxes.nstool("run", "--memory", "24M", "--", "sh", "-c", HOG)
        forks = boxes.nstool("run", "--pids", "10", "--", "sh", "-c", FORKS)
        with boxes.box(limits=Limits(memory=32 * MIB, cpu=0.5)) as box:
            inside = [Path(path).parent in delegated for path in box.sandbox.cgroups.values()]
            assert values(box, "memory", "memory.limit_in_bytes", "memory.max") == [str(32 * MIB)]
        left = [str(below) for path in delegated for below in path.iterdir() if below.is_dir() and below not in places]
        return plain, hog.status, "lack of memory" in hog.err, "started 40" in forks.out, inside, left

    plain, status, told, started, inside, left = in_child(act)
    assert plain == (0, "1000\n", "")
    assert (status != 0, told, started) == (True, True, False)
    assert all(inside)
    assert left == []


def test_delegation_of_one_controller_is_not_enough(in_child: Act, user: User, name: str, give: Give) -> None:
    """What is missing is named: nothing is dropped in silence."""
    memory = Path(probes.controller_root("memory"))
    places = [give(top / f"delegated-{name}") for top in hierarchies() if top != memory]
    if not places:  # version 2 alone: a cgroup whose parent does not hand memory on
        few = give(memory / f"few-{name}", theirs=False)
        (few / "cgroup.subtree_control").write_text("+pids +cpu")
        places = [give(few / "mine")]

    def act() -> boxes.Ran:
        be_in(places, user)
        return boxes.nstool("run", "--", "id", "-u")

    ran = in_child(act)
    assert ran.status == 125, ran
    assert "limits.memory" in ran.err
    assert "limits.pids" not in ran.err
