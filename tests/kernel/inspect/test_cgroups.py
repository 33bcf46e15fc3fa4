"""Limits that are said to hold are those that the kernel keeps; who is said to set them has set them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import SpecError
from nstool.inspect.cgroups import Cgroups, cgroups, hierarchies, named, tree, unmounted
from nstool.inspect.limits import Bound
from nstool.inspect.proc import ProcessGone
from nstool.inspect.task import card
from tests.kernel.inspect.test_mounts import nstool
from tests.support import kernel, probes
from tests.support.held import held, private_mounts

Act = Callable[..., Any]

CLONE_NEWCGROUP = 0x02000000
MIB = 1 << 20


class Nest:
    """Cgroups within each other, of one controller or of version 2 without any: top, top/a, top/a/b."""

    def __init__(self, name: str, controller: str) -> None:
        found = {kind: point for point, kind, _ in probes.cgroup_mounts()}
        self.mount = probes.controller_root(controller) if controller else found["cgroup2"]
        self.version = 2 if os.path.exists(f"{self.mount}/cgroup.controllers") else 1
        self.top = f"{self.mount}/nstool-{name}"
        self.directories = [self.top, f"{self.top}/a", f"{self.top}/a/b"]
        self.switch = Path(self.mount, "cgroup.subtree_control")
        self.switched = ""
        if self.version == 2 and controller and controller not in self.switch.read_text().split():
            self.switched = controller
        for directory in self.directories:
            if self.version == 2 and controller:
                Path(os.path.dirname(directory), "cgroup.subtree_control").write_text(f"+{controller}")
            os.mkdir(directory)

    def write(self, level: int, file: str, text: str) -> None:
        Path(self.directories[level], file).write_text(text)

    def read(self, level: int, file: str) -> str:
        return Path(self.directories[level], file).read_text().strip()

    def path(self, level: int) -> str:
        return self.directories[level].removeprefix(self.mount)

    def enter(self, level: int = 2) -> None:
        """Move the calling process into one."""
        Path(self.directories[level], "cgroup.procs").write_text("0")

    def close(self) -> None:
        for directory in reversed(self.directories):
            if os.path.exists(directory):
                os.rmdir(directory)
        if self.switched:
            with contextlib.suppress(OSError):  # busy: somebody else uses it by now
                self.switch.write_text(f"-{self.switched}")


@pytest.fixture
def nest(name: str) -> Iterator[Callable[[str], Nest]]:
    """Make cgroups that go with the test, once no process is in them."""
    made: list[Nest] = []

    def make(controller: str = "") -> Nest:
        made.append(Nest(f"{name}{len(made) or ''}", controller))
        return made[-1]

    yield make
    for one in made:
        one.close()


def takes_processes() -> str:
    """The controller of a Nest each of which takes processes: in version 2 one that has a controller for those below it
    takes none, cgroups(7).
    """
    return "" if probes.missing("cgroup_v1") else "pids"


def bound(found: Cgroups, name: str) -> Bound:
    return next(one for one in found.limits if one.name == name)


# ---- hierarchies ----


def test_hierarchies_are_those_of_findmnt() -> None:
    """Mount point, version, controllers; and the caller's own cgroup as /proc/self/cgroup has it."""
    done = subprocess.run(
        ["findmnt", "-J", "-l", "-t", "cgroup,cgroup2", "-o", "TARGET,FSTYPE,OPTIONS"], capture_output=True
    )
    theirs = {row["target"]: row for row in json.loads(done.stdout)["filesystems"]}
    found = hierarchies()
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    assert [(one.number, one.own) for one in found] == sorted((int(number), path) for number, _, path in own)
    for one in found:
        if one.mount:
            row = theirs[one.mount]
            assert row["fstype"] == ("cgroup2" if one.version == 2 else "cgroup")
            assert one.version == 2 or set(one.controllers) <= set(row["options"].split(","))
    assert {one.mount for one in found if one.mount} == set(theirs)


def test_unmounted_controllers_are_in_no_hierarchy() -> None:
    """Those of /proc/cgroups that no version 1 has, without those of cgroup.controllers and what that never lists."""
    rows = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    unified = next((point for point, kind, _ in probes.cgroup_mounts() if kind == "cgroup2"), "")
    there = Path(unified, "cgroup.controllers").read_text().replace("io", "blkio").split() if unified else []
    unlisted = ["perf_event", "cpuacct", "devices", "freezer"] if unified else []
    expected = {row[0] for row in rows if row[1] == "0"} - {*there, *unlisted}
    assert set(unmounted()) == expected
    note = f"note: in no hierarchy: {' '.join(unmounted())}"
    assert (note in nstool("cgroups")[1].splitlines()) == bool(expected)


@pytest.mark.needs("root")
def test_a_hierarchy_that_is_covered_is_mounted_nowhere(in_child: Act) -> None:
    """What cannot be reached by its path is not taken for it; limits are then unknown, and said to be."""

    def act() -> Any:
        private_mounts()
        mount = hierarchies()[0].mount
        kernel.mount("tmpfs", mount, "tmpfs")
        found = cgroups(os.getpid())
        return (
            hierarchies()[0].mount,
            found.cgroups[0].directory,
            [note for note in found.notes if "is mounted nowhere" in note],
        )

    mount, directory, notes = in_child(act)
    assert (mount, directory) == ("", "")
    assert len(notes) == 1
    assert "its limits are unknown" in notes[0]


# ---- limits that hold ----


@pytest.mark.needs("root", "cgroup_memory")
@pytest.mark.parametrize(
    ("values", "holds", "level"),
    [((64, 128, 0), 64, 0), ((128, 64, 0), 64, 1), ((0, 0, 64), 64, 2), ((64, 64, 64), 64, 0), ((0, 0, 0), None, None)],
)
def test_the_tightest_memory_limit(
    in_child: Act, nest: Callable[[str], Nest], values: tuple[int, ...], holds: int | None, level: int | None
) -> None:
    """As the kernel says it in memory.stat of version 1; version 2 says it nowhere."""
    one = nest("memory")
    file = "memory.max" if one.version == 2 else "memory.limit_in_bytes"
    for number, value in enumerate(values):
        if value:
            one.write(number, file, str(value * MIB))

    def act() -> Any:
        with held(one.enter) as pid:
            return bound(cgroups(pid), file), one.read(2, "memory.stat")

    found, stat = in_child(act)
    assert found.value == (holds * MIB if holds else None)
    assert found.directory == ("" if level is None else one.directories[level])
    assert found.own == (values[2] * MIB if values[2] else None)
    if holds:
        assert found.used is not None
        assert 0 <= found.used <= holds * MIB
        if one.version == 1:
            assert f"hierarchical_memory_limit {holds * MIB}" in stat


@pytest.mark.needs("root", "cgroup_pids")
def test_the_tightest_limit_of_tasks_is_where_fork_fails(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """A process in the lowest cgroup gets as many children as the limit that is said to hold leaves it."""
    one = nest("pids")
    for level, value in enumerate(("9", "6", "30")):
        one.write(level, "pids.max", value)

    def enter() -> None:
        one.enter()
        made = []
        reader, writer = os.pipe()
        try:
            while len(made) < 40:
                pid = os.fork()
                if pid == 0:
                    os.close(writer)
                    os.read(reader, 1)
                    os._exit(0)
                made.append(pid)
        except BlockingIOError:
            os.close(writer)
        for pid in made:
            os.waitpid(pid, 0)
        if len(made) != 5:
            raise AssertionError(f"{len(made)} children")

    def act() -> Any:
        with held(enter) as pid:
            found = cgroups(pid)
            return bound(found, "pids.max"), found.usage, one.read(1, "pids.current")

    found, used, current = in_child(act)
    assert (found.value, found.directory, found.own) == (6, one.directories[1], 30)
    assert (str(found.used), used.pids) == (current, 1)


@pytest.mark.needs("root", "cgroup_cpu")
def test_the_tightest_quota(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """In processors, whatever the period; with how often it was met."""
    one = nest("cpu")
    if one.version == 2:
        one.write(0, "cpu.max", "150000 200000")
        one.write(1, "cpu.max", "25000 50000")
    else:
        for level, (quota, period) in enumerate((("150000", "200000"), ("25000", "50000"))):
            one.write(level, "cpu.cfs_period_us", period)
            one.write(level, "cpu.cfs_quota_us", quota)

    def act() -> Any:
        with held(one.enter) as pid:
            return cgroups(pid)

    found = in_child(act)
    limit = bound(found, "cpu.max" if one.version == 2 else "cpu.cfs_quota_us")
    assert (limit.value, limit.directory, limit.own) == (0.5, one.directories[1], None)
    assert found.usage.throttled is not None
    assert found.counted["cpu"] == one.directories[2]


@pytest.mark.needs("root", "cgroup_cpu")
def test_the_weight_of_a_task_is_that_of_its_cgroup(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """What nstool task shows of its scheduling."""
    one = nest("cpu")
    file = "cpu.weight" if one.version == 2 else "cpu.shares"
    one.write(2, file, "37")

    def act() -> Any:
        with held(one.enter) as pid:
            return card(pid).scheduling.weights

    assert in_child(act)[file] == "37"


@pytest.mark.needs("root", "cgroup_cpuset")
def test_the_processors_that_are_left(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """As sched_getaffinity(2) says of a process in it."""
    one = nest("cpuset")
    first = str(min(os.sched_getaffinity(0)))
    mems = (
        Path("/sys/devices/system/node/online").read_text().strip()
        if os.path.exists("/sys/devices/system/node")
        else "0"
    )
    every = Path("/sys/devices/system/cpu/online").read_text().strip()
    for level in range(3) if one.version == 1 else (1,):
        one.write(level, "cpuset.cpus", every if level == 0 else first)
        if one.version == 1:
            one.write(level, "cpuset.mems", mems)

    def act() -> Any:
        with held(one.enter) as pid:
            return bound(cgroups(pid), "cpuset.cpus"), os.sched_getaffinity(pid)

    found, allowed = in_child(act)
    assert {int(found.value)} == allowed
    assert found.directory == (one.directories[1] if len(os.sched_getaffinity(0)) > 1 else "")


@pytest.mark.needs("root", "cgroup2")
def test_a_limit_of_version_2(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """Of huge pages, the one controller that a host with both versions has there; then switched off for the lowest."""
    mount = next(point for point, kind, _ in probes.cgroup_mounts() if kind == "cgroup2")
    there = Path(mount, "cgroup.controllers").read_text().split()
    name = next((name for name in ("hugetlb", "pids") if name in there), "")
    assert name, f"no controller of version 2 to try this with, only {there}"
    file = {"pids": "pids.max", "hugetlb": "hugetlb.2MB.max"}[name]
    one = nest(name)
    one.write(0, file, str(4 * MIB))
    one.write(1, file, str(2 * MIB))

    def act() -> Bound:
        with held(one.enter) as pid:
            return bound(cgroups(pid), file)

    found = in_child(act)
    assert (found.value, found.directory, found.own) == (2 * MIB, one.directories[1], None)
    one.write(2, file, "0")
    found = in_child(act)
    assert (found.value, found.directory, found.own) == (0, one.directories[2], 0)
    one.write(1, "cgroup.subtree_control", f"-{name}")
    assert not os.path.exists(f"{one.directories[2]}/{file}")
    found = in_child(act)
    assert (found.value, found.directory, found.own) == (2 * MIB, one.directories[1], None)


# ---- where a process is ----


@pytest.mark.needs("root", "cgroupns")
def test_what_a_process_sees_in_its_namespace(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """Its cgroup is the root when it makes the namespace, wherever it goes then: as it reads it itself."""
    one = nest(takes_processes())
    number = next(tree.number for tree in hierarchies() if tree.mount == one.mount)

    def look(enter: Callable[[], None]) -> Any:
        reader, writer = os.pipe()

        def act() -> None:
            enter()
            text = Path("/proc/self/cgroup").read_text()
            os.write(
                writer,
                next(line.split(":", 2)[2] for line in text.splitlines() if line.startswith(f"{number}:")).encode(),
            )

        with held(act) as pid:
            found = next(member for member in cgroups(pid).cgroups if member.hierarchy.number == number)
        os.close(writer)
        return found.path.removeprefix(one.path(0)), found.inside, os.read(reader, 4096).decode(), found.directory

    def plain() -> None:
        one.enter(1)

    def own() -> None:
        one.enter(1)
        kernel.unshare(CLONE_NEWCGROUP)

    def below() -> None:
        own()
        one.enter(2)

    def above() -> None:
        # Opened before: from within, a hierarchy that is mounted with nsdelegate lets nobody leave the namespace.
        with open(f"{one.directories[0]}/cgroup.procs", "w") as procs:
            own()
            procs.write("0")

    told = in_child(lambda: [look(enter) for enter in (plain, own, below, above)])
    assert [inside for _, inside, _, _ in told] == [text for _, _, text, _ in told]
    assert [(path, inside) for path, inside, _, _ in told] == [
        ("/a", one.path(1)),
        ("/a", "/"),
        ("/a/b", "/b"),
        ("", "/.."),
    ]
    assert [directory for _, _, _, directory in told] == [one.directories[level] for level in (1, 1, 2, 0)]


@pytest.mark.needs("root", "cgroupns")
def test_from_within_a_namespace_what_is_above_is_not_seen(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """A mount that shows a part of the hierarchy: the limits there are read, and that there may be others is said."""
    one = nest("pids")
    one.write(0, "pids.max", "10")
    one.write(1, "pids.max", "20")
    options = next(options for point, _, options in probes.cgroup_mounts() if point == one.mount)

    def act() -> Any:
        one.enter(1)
        kernel.unshare(CLONE_NEWCGROUP)
        private_mounts()
        kind = (
            ("cgroup2", "")
            if one.version == 2
            else ("cgroup", next(o for o in options if o in ("pids", "name=systemd")))
        )
        kernel.umount(one.mount)
        kernel.mount("cgroup", one.mount, kind[0], 0, kind[1])
        found = cgroups(os.getpid())
        mine = next(member for member in found.cgroups if member.hierarchy.mount == one.mount)
        with held(lambda: os.write(root, b"0")) as pid:
            other = next(m for m in cgroups(pid).cgroups if m.hierarchy.number == mine.hierarchy.number)
            limit = bound(found, "pids.max")
            return (
                mine.path,
                mine.directory,
                mine.hierarchy.whole,
                limit.value,
                limit.directory,
                found.notes,
                other.path,
                other.directory,
            )

    root = os.open(f"{one.mount}/cgroup.procs", os.O_WRONLY)

    path, directory, whole, value, setter, notes, other, nowhere = in_child(act)
    os.close(root)
    assert (path, directory, whole) == ("/", one.mount, False)
    assert (value, setter) == (20, one.mount)
    assert any("above" in note and "cannot be seen from here" in note for note in notes)
    assert (other, nowhere) == ("/../..", "")


@pytest.mark.needs("root", "cgroup2")
def test_a_frozen_cgroup(in_child: Act, nest: Callable[[str], Nest]) -> None:
    one = nest("")

    def act() -> Any:
        with held(one.enter) as pid:
            told = []
            for text in ("1", "0"):
                one.write(1, "cgroup.freeze", text)
                while f"frozen {text}" not in one.read(2, "cgroup.events"):
                    continue
                told.append(next(member.frozen for member in cgroups(pid).cgroups if member.hierarchy.version == 2))
            return told

    assert in_child(act) == [True, False]


@pytest.mark.needs("root", "cgroup2")
def test_a_cgroup_that_was_removed(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """In version 2 a zombie stays in it by name, and nothing holds any more. cgroups(7)."""
    one = nest("")

    def act() -> Any:
        pid = os.fork()
        if pid == 0:
            try:
                one.enter()
            finally:
                os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        before = next(member for member in cgroups(pid).cgroups if member.hierarchy.mount == one.mount)
        os.rmdir(one.directories[2])
        found = cgroups(pid)
        after = next(member for member in found.cgroups if member.hierarchy.mount == one.mount)
        os.waitpid(pid, 0)
        return before.removed, before.directory, after.removed, after.directory, found.notes, found.unread

    before, directory, after, nowhere, notes, unread = in_child(act)
    assert (before, directory) == (False, one.directories[2])
    assert (after, nowhere) == (True, "")
    assert any(f"{one.path(2)} was removed" in note for note in notes)
    assert "a process that has ended" in unread["inside"]


@pytest.mark.needs("root")
def test_delegation(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """The topmost cgroup that is not root's, with those of its files that are its owner's too."""
    one = nest(takes_processes())
    os.chown(one.directories[1], 4711, 4712)
    os.chown(f"{one.directories[1]}/cgroup.procs", 4711, 4712)
    os.chown(one.directories[2], 4711, 4712)
    os.setxattr(one.directories[2], "trusted.delegate", b"1")  # of the topmost alone it says something

    def act() -> Any:
        with held(lambda: one.enter(0)) as other, held(one.enter) as pid:
            pick = lambda pid: next(m for m in cgroups(pid).cgroups if m.hierarchy.mount == one.mount)  # noqa: E731
            return pick(pid).delegation, (pick(pid).uid, pick(pid).gid), pick(other).delegation

    found, owner, none = in_child(act)
    assert (found.directory, found.uid, found.gid) == (one.directories[1], 4711, 4712)
    assert found.writable == ("cgroup.procs",)
    assert not found.marked
    assert owner == (4711, 4712)
    assert none is None
    os.setxattr(one.directories[1], "trusted.delegate", b"1")
    assert in_child(act)[0].marked


# ---- trees and names ----


@pytest.mark.needs("root")
def test_the_tree_counts_processes(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """As the files say by hand; each with those below it."""
    one = nest("pids")
    first = 0 if one.version == 1 else 2  # cgroups(7): in version 2 no process is where a controller is given on

    def act() -> Any:
        with held(lambda: one.enter(first)), held(one.enter), held(one.enter):
            nodes = tree(named(one.top).cgroups[0])
            by_hand = [len(Path(directory, "cgroup.procs").read_text().split()) for directory in one.directories]
            whole = tree(next(h for h in hierarchies() if h.mount == one.mount))
            return nodes, by_hand, [node for node in whole if node.directory.startswith(one.top)], whole[0]

    nodes, by_hand, again, top = in_child(act)
    assert [node.processes for node in nodes] == by_hand == ([1, 0, 2] if first == 0 else [0, 0, 3])
    assert [node.total for node in nodes] == ([3, 2, 2] if first == 0 else [3, 3, 3])
    assert [node.pids for node in nodes] == [node.total for node in nodes]
    assert [node.path for node in nodes] == [one.path(level) for level in range(3)]
    assert [node.depth for node in nodes] == [0, 1, 2]
    assert [node.replace(depth=0) for node in again] == [node.replace(depth=0) for node in nodes]
    assert (top.path, top.depth) == ("/", 0)
    assert top.total >= 3 + len(os.listdir("/proc/self/task"))


@pytest.mark.needs("root", "cgroup2")
def test_a_threaded_cgroup_has_no_list_of_processes(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """EOPNOTSUPP for cgroup.procs: how many have threads there is not told, and not none; their domain has them."""
    one = nest("")
    one.write(2, "cgroup.type", "threaded")

    def enter() -> None:
        one.enter(1)
        one.write(2, "cgroup.threads", "0")

    def act() -> Any:
        with held(enter) as pid:
            inside = next(member for member in cgroups(pid).cgroups if member.hierarchy.mount == one.mount)
            return tree(named(one.top).cgroups[0]), inside, nstool("cgroups", one.top, "--tree")[1]

    nodes, inside, shown = in_child(act)
    assert [(node.processes, node.total) for node in nodes] == [(0, 1), (1, 1), (None, 0)]
    assert (inside.directory, inside.processes) == (one.directories[2], None)
    assert shown.splitlines()[-1].split()[:2] == ["b", "?"]


@pytest.mark.needs("root")
def test_a_cgroup_by_its_name(nest: Callable[[str], Nest]) -> None:
    """By its directory it is one; by its path all hierarchies that have it; a link to the directory will do."""
    one, two = nest("pids"), nest("memory")
    by_directory = named(one.directories[1])
    assert [member.directory for member in by_directory.cgroups] == [one.directories[1]]
    assert (by_directory.pid, by_directory.command) == (0, "")
    by_path = named(one.path(1))
    assert [member.directory for member in by_path.cgroups] == [one.directories[1]]
    twin = f"{two.mount}/{os.path.basename(one.top)}"  # itself where both controllers are in one hierarchy
    os.makedirs(twin, exist_ok=True)
    try:
        both = {member.directory for member in named(one.path(0)).cgroups}
    finally:
        if twin != one.top:
            os.rmdir(twin)
    assert both == {one.top, twin}
    assert {member.directory for member in named("/").cgroups} == {h.mount for h in hierarchies() if h.mount}
    with pytest.raises(SpecError, match="neither the directory of a cgroup nor its path"):
        named("/no/such/cgroup")
    with pytest.raises(SpecError, match="neither"):
        named("/etc")


def test_ended_processes() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGone):
        cgroups(pid)


def test_a_thread_of_the_kernel_is_in_cgroups() -> None:
    assert [member.path for member in cgroups(2).cgroups if member.hierarchy.version == 2] == ["/"]


def test_an_ordinary_user_sees_the_same(as_user: Act) -> None:
    """But for what a process of others sees in a namespace of its own: that it is in the same one cannot be told."""

    def act() -> Any:
        return cgroups(1), cgroups(os.getpid())

    theirs, own = as_user(act)
    assert [member.directory for member in theirs.cgroups if member.hierarchy.mount and not member.removed]
    assert "you may not look into" in theirs.unread["inside"]
    assert own.unread == {}
    assert [member.inside for member in own.cgroups] == [member.path for member in own.cgroups]


# ---- the command ----


@pytest.mark.needs("root", "cgroup_pids")
def test_the_command(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """A table, JSON, and trees of both."""
    one = nest("pids")
    one.write(1, "pids.max", "7")

    def act() -> Any:
        with held(one.enter) as pid:
            views = [
                nstool("cgroups", str(pid), *words) for words in ([], ["--tree"], ["--json"], ["--tree", "--json"])
            ]
            return [*views, nstool("cgroups"), nstool("cgroups", "--json"), nstool("cgroups", one.directories[1])]

    table, nodes, told, tree_json, every, every_json, by_name = in_child(act)
    assert all(
        (status, err) == (0, "") for status, _, err in (table, nodes, told, tree_json, every, every_json, by_name)
    )
    row = next(line.split() for line in table[1].splitlines() if line.startswith(" pids.max"))
    assert row == ["pids.max", "7", "1", "unlimited", one.directories[1]]
    assert one.path(2) in nodes[1]
    limits = {limit["name"]: limit for limit in json.loads(told[1])["limits"]}
    assert (limits["pids.max"]["value"], limits["pids.max"]["directory"]) == (7, one.directories[1])
    assert any(
        entry["cgroups"][0]["path"] == one.path(2) for entry in json.loads(tree_json[1])["trees"] if entry["cgroups"]
    )
    assert one.mount in every[1]
    assert one.mount in [entry["mount"] for entry in json.loads(every_json[1])["hierarchies"]]
    assert one.directories[1] in by_name[1]


@pytest.mark.needs("root")
def test_names_of_any_kind(in_child: Act, nest: Callable[[str], Nest]) -> None:
    """No escape sequence of a name comes to a terminal, and none ends a line."""
    one = nest("pids")
    weird = f"{one.directories[2]}/a\x1b[31m\r\u2028[bold]"
    os.mkdir(weird)

    def act() -> Any:
        with held(lambda: Path(weird, "cgroup.procs").write_text("0")) as pid:
            return nstool("cgroups", str(pid)), nstool("cgroups", str(pid), "--tree"), cgroups(pid)

    try:
        table, nodes, found = in_child(act)
    finally:
        os.rmdir(weird)
    for status, out, err in (table, nodes):
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        assert "[bold]" in out
    assert weird in [member.directory for member in found.cgroups]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/no/such/cgroup"], "neither the directory of a cgroup"),
        (["4194305"], "there is no process 4194305"),
        (["no-such-box"], "no-such-box"),
    ],
)
def test_bad_requests(words: list[str], message: str) -> None:
    status, out, err = nstool("cgroups", *words)
    assert (status, out) == (2, "")
    assert message in err


@pytest.mark.needs("root")
def test_what_is_mounted_nowhere_is_told_in_whole_sentences(in_child: Act) -> None:
    """Neither a place nor a part of it is named, and no limit is denied that was not seen."""

    def act() -> Any:
        private_mounts()
        subprocess.run(["umount", "--lazy", "--recursive", "/sys/fs/cgroup"], check=True)
        return nstool("cgroups"), nstool("cgroups", "--tree"), nstool("cgroups", str(os.getpid()))

    told, nodes, own = in_child(act)
    for line in told[1].splitlines()[1:]:
        assert line.startswith("note: ") or " nowhere     nothing " in line
    assert all(line.endswith(", mounted nowhere") for line in nodes[1].splitlines())
    assert "no limit is to be seen" in own[1]
