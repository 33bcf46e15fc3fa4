"""Cgroups: layouts of other hosts read from directories, and the steps that follow from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nstool.errors import NotSupported, SpecError
from nstool.plan import cgroups as plan
from nstool.plan.cgroups import CONTROLLERS, Controller, Layout
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, LAUNCHER, UNDO, Fd, Step
from nstool.sandbox import cgroups
from nstool.spec.model import Limits
from nstool.uapi import AT_FDCWD, AT_REMOVEDIR, O_CLOEXEC, O_DIRECTORY, O_PATH, O_WRONLY

LEASE = Lease("web", cgroup="nstool-web")
NONE = Limits(memory=0, pids=0, cpu=0)
MOUNT = "/sys/fs/cgroup"
SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SWAP_ON = SWAPS + "/swap.img file 2097148 0 -2\n"
COMPILED = "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t{memory}\npids\t0\t1\t1\ncpu\t0\t1\t1\n"


class Host:
    """A tree of files that stands for a host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 30
        self.write("/proc/self/mountinfo", "22 1 0:21 / /proc rw,relatime - proc proc rw\n")
        self.write("/proc/self/cgroup", "")
        self.write("/proc/cgroups", COMPILED.format(memory=1))
        self.write("/proc/swaps", SWAPS)

    def write(self, path: str, text: str) -> None:
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a") as stream:
            stream.write(text)

    def mount(self, path: str, kind: str, options: str, top: str = "/") -> None:
        self.number += 1
        line = f"{self.number} 22 0:{self.number} {top} {path} rw,nosuid shared:9 - {kind} {kind} rw{options}\n"
        self.write("/proc/self/mountinfo", line)
        (self.root / path[1:]).mkdir(parents=True, exist_ok=True)

    def version1(self, *hierarchies: str) -> None:
        for number, names in enumerate(hierarchies, 1):
            self.mount(f"{MOUNT}/{names}", "cgroup", f",{names}")
            self.write("/proc/self/cgroup", f"{number}:{names}:/\n")

    def version2(self, path: str = MOUNT, offered: str = "", own: str = "/") -> None:
        self.mount(path, "cgroup2", ",nsdelegate")
        self.write("/proc/self/cgroup", f"0::{own}\n")
        self.group(path, offered)

    def group(self, path: str, offered: str = "", enabled: str = "", procs: str = "") -> None:
        self.write(f"{path}/cgroup.controllers", offered)
        self.write(f"{path}/cgroup.subtree_control", enabled)
        self.write(f"{path}/cgroup.procs", procs)

    def layout(self) -> Layout:
        return cgroups.layout(str(self.root))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


# -------------------------------------------------------------------------------------- layout


def test_a_host_with_version_1_only(host: Host) -> None:
    """Controllers that share a hierarchy share its directory; blkio is called io."""
    host.version1("memory", "cpu,cpuacct", "pids", "blkio")
    layout = host.layout()
    assert set(layout.controllers) == set(CONTROLLERS)
    found = {name: (c.version, c.base, c.usable) for name, c in layout.controllers.items() if c.version}
    assert found == {
        "memory": (1, f"{MOUNT}/memory", True),
        "cpu": (1, f"{MOUNT}/cpu,cpuacct", True),
        "cpuacct": (1, f"{MOUNT}/cpu,cpuacct", True),
        "pids": (1, f"{MOUNT}/pids", True),
        "io": (1, f"{MOUNT}/blkio", True),
    }
    assert (layout.unified_mount, layout.unified_base) == ("", "")
    assert "not mounted" in layout.controllers["cpuset"].cause


def test_a_host_with_version_2_only(host: Host) -> None:
    """enabled tells what the top gives to its children already; the rest can be switched on there."""
    host.version2(offered="cpuset cpu io memory hugetlb pids")
    host.write(f"{MOUNT}/cgroup.subtree_control", "memory pids")
    host.write(f"{MOUNT}/cgroup.procs", "1\n")  # the real root may hold processes all the same
    layout = host.layout()
    assert {name: c.version for name, c in layout.controllers.items()} == {
        name: 0 if name in ("cpuacct", "devices", "freezer") else 2 for name in CONTROLLERS
    }
    assert [layout.controllers[name].enabled for name in ("memory", "pids", "cpu")] == [True, True, False]
    assert all(layout.controllers[name].usable for name in ("memory", "pids", "cpu"))
    assert layout.unified_base == MOUNT


def test_a_hybrid_host_is_read_controller_by_controller(host: Host) -> None:
    """memory in version 1, pids in version 2, cpu nowhere."""
    host.version1("memory")
    host.version2(f"{MOUNT}/unified", offered="pids")
    layout = host.layout()
    assert [layout.controllers[name].version for name in ("memory", "pids", "cpu")] == [1, 2, 0]
    assert layout.unified_base == f"{MOUNT}/unified"


def test_a_mount_point_with_a_space_is_read(host: Host) -> None:
    host.mount("/a b", "cgroup", ",pids")
    mountinfo = host.root / "proc/self/mountinfo"
    mountinfo.write_text(mountinfo.read_text().replace("/a b", "/a\\040b"))
    assert host.layout().controllers["pids"].base == "/a b"


def test_a_controller_that_is_switched_off_says_how(host: Host) -> None:
    host.version2(offered="pids")
    (host.root / "proc/cgroups").write_text(COMPILED.format(memory=0))
    layout = host.layout()
    assert "cgroup_disable=" in layout.controllers["memory"].cause
    assert "not mounted" in layout.controllers["cpu"].cause


def test_in_a_containers_cgroup_with_processes_nothing_can_be_switched_on(host: Host) -> None:
    """It looks like the top, but has cgroup.type: the rule "no internal processes" holds there."""
    host.version2(offered="memory pids")
    host.write(f"{MOUNT}/cgroup.type", "domain\n")
    host.write(f"{MOUNT}/cgroup.subtree_control", "pids")
    host.write(f"{MOUNT}/cgroup.procs", "1\n7\n")
    layout = host.layout()
    assert layout.controllers["pids"].usable
    assert not layout.controllers["memory"].usable
    assert "while processes are in it" in layout.controllers["memory"].cause


USER = f"{MOUNT}/user.slice/user-1000.slice/user@1000.service"


@pytest.fixture
def not_root(monkeypatch: pytest.MonkeyPatch, host: Host) -> set[str]:
    """The paths that an ordinary user may write; access(2) lets root write everything."""
    mine: set[str] = set()
    monkeypatch.setattr(os, "access", lambda path, mode: path.removeprefix(str(host.root)) in mine)
    return mine


def test_an_ordinary_user_gets_the_topmost_delegated_cgroup(host: Host, not_root: set[str]) -> None:
    """systemd's user@UID.service, where a controller that was not delegated is named."""
    own = f"{USER}/app.slice/run-1.scope"
    host.version2(offered="cpu memory pids", own=own.removeprefix(MOUNT))
    host.group(USER, "memory pids", "memory")
    host.write(f"{USER}/cgroup.type", "domain")
    for path in (own, f"{USER}/app.slice", USER):
        not_root |= {path, f"{path}/cgroup.procs"}
    layout = host.layout()
    assert layout.unified_base == USER
    assert {name: layout.controllers[name].usable for name in ("memory", "pids", "cpu")} == {
        "memory": True,
        "pids": True,
        "cpu": False,
    }
    assert layout.controllers["cpu"].cause == f"the cpu controller is not delegated to {USER}"


def test_an_ordinary_user_without_delegation_is_told_so(host: Host, not_root: set[str]) -> None:
    """The limits of the safe default are refused, never dropped, with both ways out."""
    host.version2(offered="cpu memory pids", own="/user.slice/session-3.scope")
    layout = host.layout()
    assert layout.unified_base == ""
    missing = plan.preflight(Limits(), layout)
    assert [error.what for error in missing] == ["limits.memory", "limits.pids", "limits.cpu"]
    assert "no cgroup is delegated to you" in missing[0].cause
    assert "--memory 0 --pids 0 --cpu 0" in missing[0].remedy
    assert "systemd-run --user --scope -p Delegate=yes" in missing[0].remedy
    with pytest.raises(NotSupported, match=r"limits\.memory"):
        plan.steps(Limits(), LEASE, layout)
    assert plan.steps(NONE, LEASE, layout) == plan.CgroupSteps((), (), (), None, {})


def test_an_ordinary_user_under_version_1(host: Host, not_root: set[str]) -> None:
    host.version1("memory", "pids", "cpu")
    missing = plan.preflight(Limits(), host.layout())
    assert [error.cause for error in missing] == [
        f"{MOUNT}/memory is not yours to write",
        f"{MOUNT}/pids is not yours to write",
        f"{MOUNT}/cpu is not yours to write",
    ]


@pytest.mark.parametrize("swaps", [SWAPS, SWAP_ON])
def test_swap_accounting_of_version_1(host: Host, swaps: str) -> None:
    (host.root / "proc/swaps").write_text(swaps)
    host.version1("memory", "pids", "cpu")
    assert not host.layout().swap_accounting
    assert host.layout().swap_on == (swaps == SWAP_ON)
    assert bool(plan.preflight(Limits(), host.layout())) == (swaps == SWAP_ON)
    host.write(f"{MOUNT}/memory/memory.memsw.limit_in_bytes", "1")
    assert host.layout().swap_accounting
    assert plan.preflight(Limits(), host.layout()) == ()


def test_swap_accounting_of_version_2_shows_in_any_cgroup_below_the_top(host: Host) -> None:
    host.version2(offered="memory pids")
    host.write(f"{MOUNT}/system.slice/memory.max", "max")
    assert not host.layout().swap_accounting
    host.write(f"{MOUNT}/system.slice/memory.swap.max", "max")
    assert host.layout().swap_accounting


# --------------------------------------------------------------------------------------- steps


def made(version: int, *, accounting: bool = True, enabled: bool = True, unified: str = MOUNT) -> Layout:
    """A layout with memory, pids and cpu in one version, all usable."""
    found = {name: Controller(name, cause=f"no {name}") for name in CONTROLLERS}
    for name in ("memory", "pids", "cpu"):
        base = f"{MOUNT}/{name}" if version == 1 else MOUNT
        found[name] = Controller(name, version, base, base, enabled=enabled, usable=True)
    return Layout(found, unified, unified, swap_accounting=accounting)


def written(steps: tuple[Step, ...]) -> dict[str, str]:
    return {
        str(s.args[1]): s.args[2].decode() for s in steps if s.call == "write_file" and isinstance(s.args[2], bytes)
    }


def test_the_steps_of_version_2_in_order() -> None:
    """Switch on, make, limit, open; clone3 enters, so that init has nothing to do."""
    path = f"{MOUNT}/nstool-web"
    steps = plan.steps(Limits(memory=1 << 20, pids=10, cpu=1.5), LEASE, made(2, enabled=False))
    write = O_WRONLY | O_CLOEXEC
    assert [(s.call, s.args) for s in steps.launcher] == [
        ("write_file", (AT_FDCWD, f"{MOUNT}/cgroup.subtree_control", b"+memory +pids +cpu", write, 0)),
        ("mkdirat", (AT_FDCWD, path, 0o755)),
        ("write_file", (AT_FDCWD, f"{path}/memory.max", b"1048576", write, 0)),
        ("write_file", (AT_FDCWD, f"{path}/memory.swap.max", b"0", write, 0)),
        ("write_file", (AT_FDCWD, f"{path}/pids.max", b"10", write, 0)),
        ("write_file", (AT_FDCWD, f"{path}/cpu.max", b"150000 100000", write, 0)),
        ("openat2", (AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0)),
    ]
    assert {s.who for s in steps.launcher} == {LAUNCHER}
    assert steps.launcher[-1].result == "cgroup"
    assert steps.result == Fd("cgroup")
    assert steps.init == ()
    assert [(s.who, s.call, s.args) for s in steps.undo] == [(UNDO, "unlinkat", (AT_FDCWD, path, AT_REMOVEDIR))]
    assert steps.cgroups == dict.fromkeys(("memory", "pids", "cpu", "unified"), path)


def test_the_steps_of_a_hybrid_host() -> None:
    """init enters each version 1 cgroup by an fd that the launcher opened; undo takes each away."""
    steps = plan.steps(Limits(memory=1 << 20, pids=10, cpu=0), LEASE, made(1, unified=f"{MOUNT}/unified"))
    paths = [f"{MOUNT}/{name}/nstool-web" for name in ("memory", "pids", "unified")]
    assert [s.args[1] for s in steps.launcher if s.call == "mkdirat"] == paths
    opened = {s.result: s.args[1] for s in steps.launcher if s.call == "openat2"}
    assert opened == {
        "cgroup_procs_memory": f"{paths[0]}/tasks",
        "cgroup_procs_pids": f"{paths[1]}/tasks",
        "cgroup": paths[2],
    }
    assert [(s.who, s.call, s.args) for s in steps.init] == [
        (INIT, "write", (Fd("cgroup_procs_memory"), b"0")),
        (INIT, "write", (Fd("cgroup_procs_pids"), b"0")),
    ]
    assert [s.args[1] for s in steps.undo] == paths


def test_controllers_of_one_hierarchy_share_a_directory_and_an_fd() -> None:
    layout = made(1, unified="")
    both = {name: layout.controllers[name].replace(base=f"{MOUNT}/both") for name in ("memory", "pids", "cpu")}
    steps = plan.steps(Limits(), LEASE, layout.replace(controllers={**layout.controllers, **both}))
    assert [s.args[1] for s in steps.launcher if s.call == "mkdirat"] == [f"{MOUNT}/both/nstool-web"]
    assert len(steps.init) == 1
    assert steps.result is None


def test_no_limit_means_no_limit_is_written() -> None:
    """Only the directory that ends all processes at once is left."""
    for version in (1, 2):
        steps = plan.steps(NONE, LEASE, made(version))
        assert written(steps.launcher) == {}
        assert steps.cgroups == {"unified": f"{MOUNT}/nstool-web"}


@pytest.mark.parametrize(
    ("version", "file", "weight"), [(1, "cpu/nstool-web/cpu.shares", "102"), (2, "nstool-web/cpu.weight", "10")]
)
def test_by_default_the_rest_of_the_host_has_the_cpu_first(version: int, file: str, weight: str) -> None:
    """A tenth of the usual weight and no quota: nothing is slowed while nobody else wants the cpu."""
    text = written(plan.steps(Limits(), LEASE, made(version)).launcher)
    assert {path: value for path, value in text.items() if "/cpu." in path} == {f"{MOUNT}/{file}": weight}


@pytest.mark.parametrize(("swap", "both"), [(0, "1000000"), (500, "1000500")])
def test_version_1_limits_memory_and_swap_together(swap: int, both: str) -> None:
    """Memory first: the kernel refuses a sum that is below the memory limit."""
    steps = plan.steps(Limits(memory=1000000, swap=swap, pids=0, cpu=0), LEASE, made(1))
    path = f"{MOUNT}/memory/nstool-web"
    assert list(written(steps.launcher).items()) == [
        (f"{path}/memory.limit_in_bytes", "1000000"),
        (f"{path}/memory.memsw.limit_in_bytes", both),
    ]


def test_without_swap_accounting_only_memory_is_written_when_the_host_does_not_swap() -> None:
    steps = plan.steps(Limits(), LEASE, made(2, accounting=False))
    assert f"{MOUNT}/nstool-web/memory.swap.max" not in written(steps.launcher)
    with pytest.raises(NotSupported, match=r"limits\.swap"):
        plan.steps(Limits(), LEASE, made(2, accounting=False).replace(swap_on=True))


@pytest.mark.parametrize(
    ("cores", "period", "quota"), [(2, "100000", "200000"), (0.5, "100000", "50000"), (0.002, "1000000", "2000")]
)
def test_cpu_quota_and_period(cores: float, period: str, quota: str) -> None:
    """A quota below 1 ms, which the kernel refuses, gets a longer period."""
    limits = NONE.replace(cpu=cores)
    assert list(written(plan.steps(limits, LEASE, made(1)).launcher).values()) == [period, quota]
    assert list(written(plan.steps(limits, LEASE, made(2)).launcher).values()) == [f"{quota} {period}"]


def test_a_cpu_limit_that_no_kernel_takes_is_a_bad_spec() -> None:
    with pytest.raises(SpecError, match=r"^limits\.cpu: .*0\.001"):
        plan.steps(NONE.replace(cpu=0.0001), LEASE, made(2))


def test_every_missing_controller_is_named() -> None:
    """All of them, and none that no limit needs."""
    layout = made(2).replace(controllers={name: Controller(name, cause=f"no {name}") for name in CONTROLLERS})
    missing = plan.preflight(Limits(cpu=1.0), layout)
    assert [(error.what, error.cause) for error in missing] == [
        ("limits.memory", "no memory"),
        ("limits.pids", "no pids"),
        ("limits.cpu", "no cpu"),
    ]
    assert plan.preflight(NONE, layout) == ()
