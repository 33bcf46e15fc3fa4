"""The mounts of a process: what is said to be reached is what a walk of the kernel comes to, what is covered is not."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.inspect.covers import COVERED, OUTSIDE, REACHED
from nstool.inspect.mounts import Mounts, listing, mounts
from nstool.inspect.proc import Proc, ProcessGone
from nstool.inspect.propagation import graph
from tests.conftest import require
from tests.support import kernel, processes
from tests.support.held import held, own_user_namespace, private_mounts
from tests.support.probes import missing
from tests.support.waiting import waiting

Act = Callable[..., Any]

MS_SHARED, MS_SLAVE, MS_UNBINDABLE = 1 << 20, 1 << 19, 1 << 17
WEIRD = "/tmp/a b\tc\nd\\e\x1b[31m\f\u2028\x85\udcff[bold]"


def tmpfs(path: str) -> None:
    """Make a directory, if it is none, and mount a tmpfs on it."""
    os.makedirs(path, exist_ok=True)
    kernel.mount("tmpfs", path, "tmpfs")


def bind(source: str, target: str) -> None:
    os.makedirs(target, exist_ok=True)
    kernel.mount(source, target, flags=kernel.MS_BIND)


def lines(pid: int | str = "self") -> list[list[str]]:
    """Return the words of mountinfo, by hand."""
    return [
        line.split(" ")
        for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").split("\n")
        if line
    ]


def come_to(paths: list[str]) -> set[int]:
    """Return the ids of the mounts that the kernel comes to by these paths of the calling process."""
    found = set()
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH)
        except FileNotFoundError:  # its mount point is on a mount that is covered
            continue
        text = Path(f"/proc/self/fdinfo/{fd}").read_text()
        found.add(int(text.split("mnt_id:")[1].split()[0]))
        os.close(fd)
    return found


def by_target(found: Mounts) -> dict[str, list[tuple[str, int]]]:
    """Return state and coverer of each mount below /tmp, by its target."""
    ids = {entry.mount.id: position for position, entry in enumerate(found.mounts)}
    told: dict[str, list[tuple[str, int]]] = {}
    for entry in found.mounts:
        if entry.mount.target.startswith("/tmp/"):
            place = ids.get(entry.covered_by, -1) - ids[entry.mount.id] if entry.covered_by else 0
            told.setdefault(entry.mount.target, []).append((entry.state, place))
    return told


@pytest.mark.needs("root")
def test_mounts_agree_with_findmnt(in_child: Act) -> None:
    """Every mount with its parent, root, type, source, options and propagation, also of a namespace of its own."""

    def act() -> None:
        private_mounts()
        tmpfs("/tmp/a")
        kernel.mount("none", "/tmp/a", flags=MS_SHARED)
        bind("/tmp/a", "/tmp/a/b")
        bind("/etc", "/tmp/etc")

    def compare() -> tuple[list[Any], list[Any]]:
        columns = "ID,PARENT,MAJ:MIN,FSROOT,TARGET,VFS-OPTIONS,FSTYPE"
        with held(act) as pid:
            done = subprocess.run(
                ["findmnt", "-J", "-l", "-N", str(pid), "-o", columns], capture_output=True, check=True
            )
            theirs = [[str(value) for value in row.values()] for row in json.loads(done.stdout)["filesystems"]]
            found = mounts(pid)
            ours = [
                [str(m.id), str(m.parent), m.device, m.root, m.target, ",".join(m.options), m.type]
                for m in (entry.mount for entry in found.mounts)
            ]
            return ours, theirs

    ours, theirs = in_child(compare)
    assert sorted(ours) == sorted(theirs)


SCENES: dict[str, tuple[Callable[[], None], dict[str, list[tuple[str, int]]]]] = {
    "two on one directory": (
        lambda: [tmpfs("/tmp/a"), tmpfs("/tmp/a")],
        {"/tmp/a": [(COVERED, 1), (REACHED, 0)]},
    ),
    "below a directory that is covered later": (
        lambda: [tmpfs("/tmp/a/b"), tmpfs("/tmp/a/b/c/d"), tmpfs("/tmp/a")],
        {"/tmp/a/b": [(COVERED, 2)], "/tmp/a/b/c/d": [(COVERED, 1)], "/tmp/a": [(REACHED, 0)]},
    ),
    "on a mount that is covered later": (
        lambda: [tmpfs("/tmp/a"), tmpfs("/tmp/a/b"), tmpfs("/tmp/a"), tmpfs("/tmp/a/b")],
        {"/tmp/a": [(COVERED, 2), (REACHED, 0)], "/tmp/a/b": [(COVERED, 1), (REACHED, 0)]},
    ),
    "names that begin alike": (
        lambda: [tmpfs("/tmp/a"), tmpfs("/tmp/ab"), tmpfs("/tmp/ab/c")],
        {"/tmp/a": [(REACHED, 0)], "/tmp/ab": [(REACHED, 0)], "/tmp/ab/c": [(REACHED, 0)]},
    ),
    "moved over another": (
        lambda: [tmpfs("/tmp/a"), tmpfs("/tmp/a/b"), tmpfs("/tmp/c"), kernel.mount("/tmp/c", "/tmp/a", flags=1 << 13)],
        {"/tmp/a": [(COVERED, 2), (REACHED, 0)], "/tmp/a/b": [(COVERED, 1)]},
    ),
}


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", SCENES)
def test_what_covers_what(in_child: Act, name: str) -> None:
    """Each mount with its state, and how many lines below it in the list is the one that covers it."""
    scene, expected = SCENES[name]

    def act() -> Any:
        private_mounts()
        scene()
        return by_target(mounts(os.getpid()))

    assert in_child(act) == expected


@pytest.mark.needs("root")
def test_a_mount_over_the_root_is_not_entered(in_child: Act) -> None:
    """The walk of a path begins below it; what is mounted on it later is on the old root. path_resolution(7)."""

    def act() -> Any:
        private_mounts()
        kernel.mount("tmpfs", "/", "tmpfs")
        tmpfs("/tmp/a")
        own = mounts(os.getpid())
        over = [entry for entry in own.mounts if entry.mount.target == "/"][-1]
        reached = {entry.mount.id for entry in own.mounts if entry.state == REACHED}
        return reached == come_to([words[4] for words in lines()]), over.state, over.covered_by == own.root_mount

    assert in_child(act) == (True, COVERED, True)


def random_mounts(seed: int) -> None:
    """Mount, bind and move below /tmp at random, often on the same directories."""
    chance = random.Random(seed)
    names = ("a", "b", "a/a", "a/b", "b/a", "a/a/b", "ab")
    for _ in range(25):
        path, other = (f"/tmp/{chance.choice(names)}" for _ in range(2))
        os.makedirs(path, exist_ok=True)
        os.makedirs(other, exist_ok=True)
        try:
            how = chance.random()
            if how < 0.6:
                kernel.mount("tmpfs", path, "tmpfs")
            elif how < 0.8:
                kernel.mount(path, other, flags=kernel.MS_BIND | kernel.MS_REC)
            else:
                kernel.mount(path, other, flags=1 << 13)  # MS_MOVE
        except OSError:  # into itself, or no mount point: try another
            continue


@pytest.mark.needs("root")
@pytest.mark.parametrize("seed", range(4))
def test_reached_is_what_the_kernel_comes_to(in_child: Act, seed: int) -> None:
    """After random mounts, binds and moves: a mount is said to be reached if, and only if, its target leads to it."""

    def act() -> tuple[list[int], list[int], int]:
        private_mounts()
        for number in range(5):
            random_mounts(seed * 5 + number)
            found = mounts(os.getpid())
            told = {entry.mount.id for entry in found.mounts if entry.state == REACHED}
            true = come_to([entry.mount.target for entry in found.mounts]) & {e.mount.id for e in found.mounts}
            if told != true:
                return sorted(told - true), sorted(true - told), len(found.mounts)
        return [], [], len(found.mounts) - len(told)

    wrong, missing, covered = in_child(act)
    assert (wrong, missing) == ([], [])
    assert covered > 10


@pytest.mark.needs("root", "statmount")
def test_mounts_out_of_reach_of_a_changed_root(in_child: Act) -> None:
    """chroot to a plain directory: what is not below it is of the namespace still. listmount(2), Linux 6.11."""

    def act() -> None:
        private_mounts()
        tmpfs("/tmp/outside")
        tmpfs("/tmp/new/inside")
        os.chroot("/tmp/new")

    def look() -> Any:
        with held(act) as pid:
            found = mounts(pid)
            assert found.outside is not None
            inside = [(entry.mount.target, entry.state) for entry in found.mounts]
            outside = {entry.mount.target for entry in found.outside}
            states = {entry.state for entry in found.outside}
            root = next(entry for entry in found.outside if entry.mount.id == found.root_mount)
            unique = [entry.unique_id for entry in (*found.mounts, *found.outside)]
            return (
                inside,
                outside,
                states,
                root.mount.target,
                found.root,
                len(set(unique)) == len(unique),
                min(unique) > 0,
            )

    inside, outside, states, on, root, unique, told = in_child(look)
    assert inside == [("/inside", REACHED)]
    assert {"/", "/proc", "/tmp", "/tmp/outside"} <= outside
    assert "/tmp/new/inside" not in outside
    assert states == {OUTSIDE}
    assert (on, root) == ("/tmp", "/tmp/new")
    assert unique
    assert told


@pytest.mark.needs("root", "statmount_source")
def test_what_statmount_tells_is_what_mountinfo_tells(in_child: Act) -> None:
    """A mount out of reach has the fields that a process with the whole root reads in mountinfo."""

    def act() -> Any:
        private_mounts()
        os.mkdir("/tmp/new")
        tmpfs("/tmp/x")
        kernel.mount("none", "/tmp/x", flags=MS_SHARED)
        bind("/tmp/x", "/tmp/y")
        kernel.mount("none", "/tmp/y", flags=MS_SLAVE)
        kernel.mount("none", "/tmp/y", flags=kernel.MS_BIND | kernel.MS_REMOUNT | kernel.MS_RDONLY | 2 | 4 | 8)
        tmpfs("/tmp/z")
        kernel.mount("none", "/tmp/z", flags=MS_UNBINDABLE)
        os.mkdir("/tmp/flags")
        kernel.mount("a b", "/tmp/flags", "tmpfs", 1 | 16 | 128 | 1 << 25, "size=1m")  # ro, sync, dirsync, lazytime
        os.mkdir("/tmp/fuse")
        fuse = os.open("/dev/fuse", os.O_RDWR)
        kernel.mount("it", "/tmp/fuse", "fuse.sub", 0, f"fd={fuse},rootmode=40000,user_id=0,group_id=0")
        with held(lambda: os.chroot("/tmp/new")) as pid:
            theirs = {entry.mount.id: entry.mount for entry in mounts(pid).outside or ()}
        own = [entry.mount for entry in mounts(os.getpid()).mounts if entry.mount.target.startswith("/tmp/")]
        return [(theirs[mount.id], mount) for mount in own]

    pairs = in_child(act)
    assert [mount.target for mount, _ in pairs] == ["/tmp/x", "/tmp/y", "/tmp/z", "/tmp/flags", "/tmp/fuse"]
    for told, read in pairs:
        assert told == read


@pytest.mark.needs("root", "statmount_source")
def test_a_source_that_the_kernel_does_not_tell_is_unknown(in_child: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 6.13, here without what later ones add; after that a mount without a source has "none"."""
    statmount = syscalls.statmount

    def earlier(number: int, mnt_ns_id: int = 0) -> syscalls.Statmount:
        mask = uapi.STATMOUNT_MNT_NS_ID << 1
        return statmount(number, mask - 1 | uapi.STATMOUNT_MNT_OPTS, mnt_ns_id)

    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/x")
        os.mkdir("/tmp/new")
        with held(lambda: os.chroot("/tmp/new")) as pid:
            found = [mounts(pid)]
            monkeypatch.setattr(syscalls, "statmount", earlier)
            found.append(mounts(pid))
        return [((one.outside or ())[-1].mount.source, one.unread) for one in found]

    now, then = in_child(act)
    assert now == ("tmpfs", {})
    assert then[0] == ""
    assert "Linux 6.13" in then[1]["source"]


@pytest.mark.needs("root", "statmount_maps")
def test_an_idmapped_mount_has_its_map(in_child: Act) -> None:
    """Linux 6.15 tells the map; the mount is marked from 5.12 on."""

    def act() -> Any:
        private_mounts()
        with held(lambda: kernel.unshare(kernel.CLONE_NEWUSER)) as pid:
            for kind in ("uid", "gid"):
                Path(f"/proc/{pid}/{kind}_map").write_text("0 100000 1000\n5000 7 1\n")
            userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
            tree = syscalls.open_tree(uapi.AT_FDCWD, "/tmp", uapi.OPEN_TREE_CLONE)
            syscalls.mount_setattr(tree, "", uapi.AT_EMPTY_PATH, attr_set=uapi.MOUNT_ATTR_IDMAP, userns_fd=userns)
        os.mkdir("/tmp/m")
        syscalls.move_mount(tree, "", uapi.AT_FDCWD, "/tmp/m", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        return [(e.mount.target, e.idmapped, e.uid_map, e.gid_map) for e in mounts(os.getpid()).mounts[-2:]]

    plain, mapped = in_child(act)
    assert plain == ("/tmp", False, None, None)
    assert mapped[:2] == ("/tmp/m", True)
    assert [(line.inside, line.outside, line.count) for line in mapped[2]] == [(0, 100000, 1000), (5000, 7, 1)]
    assert mapped[3] == mapped[2]


@pytest.mark.needs("root")
def test_names_of_any_kind(in_child: Act) -> None:
    """What the kernel escapes, and what it does not, comes out as it was; no view lets it through to a terminal."""

    def act() -> Any:
        private_mounts()
        tmpfs(WEIRD)
        kernel.mount("none", WEIRD, flags=MS_SHARED)
        with held(lambda: None) as pid:
            target = mounts(pid).mounts[-1].mount.target
            views = [
                nstool("mounts", str(pid), *words)
                for words in ([], ["--tree"], ["--propagation"], ["--propagation", "-o", "-"])
            ]
            told = json.loads(nstool("mounts", str(pid), "--json")[1])["mounts"][-1]["mount"]["target"]
            return target, told, views

    target, told, views = in_child(act)
    assert target == told == WEIRD
    for status, out, err in views:
        assert (status, err) == (0, "")
        assert "\x1b" not in out
        assert "[bold]" in out


@pytest.mark.needs("root")
def test_a_list_that_changes_is_read_again(in_child: Act) -> None:
    """The kernel gives it in pages; what is mounted, moved or unmounted between them is noticed. poll(2), POLLPRI."""

    def act() -> list[list[str]]:
        private_mounts()
        tmpfs("/tmp/a")
        changes = [
            lambda: tmpfs("/tmp/b"),
            lambda: [os.mkdir("/tmp/c"), kernel.mount("/tmp/b", "/tmp/c", flags=1 << 13)],  # MS_MOVE
            lambda: kernel.umount("/tmp/a"),
        ]
        told = []
        for change in changes:
            pending = [change]
            with Proc(os.getpid()) as proc:
                listed = listing(proc, lambda pending=pending: pending.pop()() if pending else None)  # type: ignore[misc]
            told.append([mount.target for mount in listed if mount.target.startswith("/tmp/")])
        return told

    assert in_child(act) == [["/tmp/a", "/tmp/b"], ["/tmp/a", "/tmp/c"], ["/tmp/c"]]


@pytest.mark.needs("root")
def test_a_list_that_never_stands_still(in_child: Act) -> None:
    """It is taken as it is in the end, whole as far as one can see."""

    def act() -> tuple[int, int]:
        private_mounts()
        reads = []

        def change() -> None:
            reads.append(1)
            kernel.mount("tmpfs", "/tmp", "tmpfs")
            kernel.umount("/tmp")

        with Proc(os.getpid()) as proc:
            listed = listing(proc, change)
        return len(listed) - len(lines()), len(reads)

    assert in_child(act) == (0, 11)


def sandbox_mounts() -> tuple[set[int], set[int], Mounts]:
    """Return the mounts of a sandbox as its mountinfo has them, as they are told, and what else is told."""
    from nstool import Limits, Spec, launch

    with launch(Spec(command=("sleep", "60"), limits=Limits(memory=0, pids=0, cpu=0))) as box:
        processes.wait_exec(box.pid, "sleep")
        found = mounts(box.pid)
        return {int(words[0]) for words in lines(box.pid)}, {entry.mount.id for entry in found.mounts}, found


@pytest.mark.needs("nsexec", "user", "userns", "newuidmap")
@pytest.mark.parametrize("who", ["root", "user"])
def test_a_sandbox(in_child: Act, as_user: Act, who: str) -> None:
    """Its root mount is older than its namespace, so that the kernel lists it to those only who are in it.

    Before Linux 6.8 there are the mounts of mountinfo, and why no others.
    """
    if who == "root":
        require("root")
    listed, told, found = (in_child if who == "root" else as_user)(sandbox_mounts)
    assert told == listed
    assert found.root == "/"
    if missing("statmount"):
        assert found.outside is None
        assert "Linux 6.8" in found.unread["outside"]
    else:
        assert found.outside == ()
        assert "outside" not in found.unread
        assert all(entry.unique_id for entry in found.mounts)


# ---- propagation ----


@pytest.mark.needs("root")
def test_the_graph_says_who_hears(in_child: Act) -> None:
    """What is mounted in a member is then seen in exactly the mounts that the arrows lead to."""

    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/a")
        kernel.mount("none", "/tmp/a", flags=MS_SHARED)
        os.mkdir("/tmp/a/new")
        bind("/tmp/a", "/tmp/peer")
        bind("/tmp/a", "/tmp/slave")
        kernel.mount("none", "/tmp/slave", flags=MS_SLAVE)
        bind("/tmp/a", "/tmp/both")
        kernel.mount("none", "/tmp/both", flags=MS_SLAVE)
        kernel.mount("none", "/tmp/both", flags=MS_SHARED)
        bind("/tmp/both", "/tmp/below")
        kernel.mount("none", "/tmp/below", flags=MS_SLAVE)
        bind("/tmp/a", "/tmp/private")
        kernel.mount("none", "/tmp/private", flags=kernel.MS_PRIVATE)

        def other() -> None:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("none", "/tmp/peer", flags=MS_SLAVE)
            kernel.umount("/tmp/below")

        with held(other) as pid:
            found = graph([os.getpid(), pid])
            hears = {group.id: heard(found, group.id) for group in found.groups}
            told = {}
            for group in found.groups:
                if not group.members:
                    continue
                first = next(m for m in group.members if m.namespace == found.namespaces[0].namespace)
                tmpfs(f"{first.target}/new")
                told[group.id] = {
                    (view.namespace, words[4].removesuffix("/new"))
                    for view, who in zip(found.namespaces, (os.getpid(), pid))
                    for words in lines(who)
                    if words[4].endswith("/new")
                }
                kernel.umount(f"{first.target}/new")
            return hears, told, [view.processes for view in found.namespaces]

    hears, told, counts = in_child(act)
    assert len(told) == 2
    assert {number: hears[number] for number in told} == told
    assert counts == [1, 1]


def heard(found: Any, number: int) -> set[tuple[int, str]]:
    """Return (namespace, target) of all mounts to which a mount in this group comes, by the arrows."""
    group = next(group for group in found.groups if group.id == number)
    reached = {(member.namespace, member.target) for member in (*group.members, *group.slaves)}
    for below in found.groups:
        if below.master == number:
            reached |= heard(found, below.id)
    return reached


@pytest.mark.needs("root")
def test_a_master_that_is_not_seen(in_child: Act) -> None:
    """Its mounts are in a namespace that is not asked; the nearest known above it is what propagate_from says."""

    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/a")
        kernel.mount("none", "/tmp/a", flags=MS_SHARED)
        bind("/tmp/a", "/tmp/root/top")
        bind("/tmp/a", "/tmp/between")
        for flags in (MS_SLAVE, MS_SHARED):
            kernel.mount("none", "/tmp/between", flags=flags)
        bind("/tmp/between", "/tmp/root/slave")
        kernel.mount("none", "/tmp/root/slave", flags=MS_SLAVE)
        with held(lambda: os.chroot("/tmp/root")) as pid:
            texts = {words[4]: words[6 : words.index("-")] for words in lines(pid)}
            return texts, [group.asdict() for group in graph([pid]).groups]

    texts, found = in_child(act)
    top = int(texts["/top"][0].removeprefix("shared:"))
    master, nearest = (int(word.partition(":")[2]) for word in texts["/slave"])
    assert nearest == top
    told = {
        group["id"]: (group["master"], group["nearest"], [m["target"] for m in group["members"]]) for group in found
    }
    assert told == {top: (0, False, ["/top"]), master: (top, True, [])}
    assert [m["target"] for group in found for m in group["slaves"]] == ["/slave"]


@pytest.mark.needs("root")
def test_the_whole_host(in_child: Act) -> None:
    """Without names: every mount namespace of a process that may be looked into, each with all its mounts."""

    def act() -> Any:
        private_mounts()
        with held(lambda: os.chroot("/tmp")) as pid:
            found = graph()
            inode = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            views = {view.namespace: view for view in found.namespaces}
            return len(views) == len(found.namespaces), views[inode].processes, len(views[inode].mounts) - len(lines())

    assert in_child(act) == (True, 2, 0)


@pytest.mark.needs("root")
def test_a_root_deeper_than_a_page_stops_nobody(in_child: Act) -> None:
    """The kernel refuses to say its path (ENAMETOOLONG); the mounts of the host are told all the same."""

    def act() -> Any:
        private_mounts()

        def deep() -> None:
            kernel.unshare(kernel.CLONE_NEWNS)
            os.chdir("/tmp")
            for _ in range(20):
                os.mkdir("d" * 250)
                os.chdir("d" * 250)
            os.mkdir("x")
            kernel.mount("tmpfs", "x", "tmpfs")
            os.chroot(".")

        with held(deep) as pid:
            with pytest.raises(OSError, match="File name too long"):
                os.readlink(f"/proc/{pid}/root")
            inode = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            (view,) = (view for view in graph().namespaces if view.namespace == inode)
            return [mount.target for mount in view.mounts], mounts(pid).root, mounts(pid).unread["root"]

    assert in_child(act) == (["/x"], "", "it is deeper than the 4096 bytes that the kernel says of a path")


# ---- who may not be asked ----


@pytest.mark.needs("statmount_source")
def test_ordinary_user_sees_its_own_namespaces(as_user: Act) -> None:
    """Also what is out of reach, since it owns the user namespace that the mount namespace belongs to."""

    def act() -> Any:
        def enter() -> None:
            own_user_namespace()
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("tmpfs", "/tmp", "tmpfs")
            os.mkdir("/tmp/x")
            os.chroot("/tmp/x")

        with held(enter) as pid:
            found = mounts(pid)
            return len(found.mounts), [entry.mount.target for entry in found.outside or ()][-1], found.unread

    assert as_user(act) == (0, "/tmp", {})


def test_ordinary_user_sees_no_process_of_others(as_user: Act) -> None:
    """The message says why and what to do; the whole host's graph counts what is hidden."""

    def act() -> Any:
        try:
            mounts(1)
        except KernelError as error:
            return str(error), len(graph().hidden), graph([os.getpid()]).hidden
        raise AssertionError

    text, hidden, own = as_user(act)
    assert "you may not look into process 1" in text
    assert "remedy: run as root" in text
    assert hidden > 0
    assert own == ()


def test_ended_and_ending_processes(in_child: Act) -> None:
    def act() -> list[str]:
        def refusal() -> str:
            with pytest.raises(ProcessGone) as caught:
                mounts(pid)
            return str(caught.value)

        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        zombie = refusal()
        os.waitpid(pid, 0)
        return [zombie, refusal()]

    zombie, gone = in_child(act)
    assert "its parent has not waited for it yet" in zombie
    assert "there is no process" in gone


@pytest.mark.needs("root")
def test_a_thread_of_the_kernel_has_mounts() -> None:
    assert mounts(2).mounts


# ---- the command ----


def nstool(*words: str, **environment: str) -> tuple[int, str, str]:
    """Run the command line in a process of its own; (status, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "nstool.cli.main", *words],
        capture_output=True,
        env=os.environ | environment,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one TARGET"),
        (["1", "2"], "give one TARGET"),
        (["1", "--tree", "--propagation"], "two views"),
        (["1", "-o", "x.svg"], "--output draws --propagation"),
        (["--propagation", "-o", "x.jpeg"], "--output: the name must end with one of"),
        (["--propagation", "-o", "/nonexistent/x.dot"], "/nonexistent/x.dot: No such file"),
        (["4194305"], "there is no process 4194305"),
    ],
)
def test_bad_requests(words: list[str], message: str) -> None:
    status, out, err = nstool("mounts", *words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") <= 2


def test_a_picture_without_graphviz(tmp_path: Path) -> None:
    """DOT needs no other program; what does is refused by name, and no file is left."""
    own = str(os.getpid())
    status, _, err = nstool("mounts", own, "--propagation", "-o", str(tmp_path / "x.svg"), PATH="/nonexistent")
    assert status == 125
    assert "there is no dot" in err
    assert "install graphviz" in err
    assert list(tmp_path.iterdir()) == []
    target = tmp_path / "x.dot"
    assert nstool("mounts", own, "--propagation", "-o", str(target), PATH="/nonexistent")[0] == 0
    assert target.read_text().startswith("digraph propagation {")
    status, _, err = nstool("mounts", own, "--propagation", "-o", str(target))
    assert (status, "exists; --force overwrites it" in err) == (2, True)
    assert nstool("mounts", own, "--propagation", "-o", str(target), "--force")[0] == 0


@pytest.mark.needs("dot", "root")
def test_graphviz_draws_the_graph(in_child: Act, tmp_path: Path) -> None:
    """Every peer group is in the picture, whatever the names of its mounts."""

    def act() -> Any:
        private_mounts()
        tmpfs(WEIRD.replace('"', ""))
        tmpfs('/tmp/"quoted\\"&lt;')
        for path in (WEIRD, '/tmp/"quoted\\"&lt;'):
            kernel.mount("none", path, flags=MS_SHARED)
        with held(lambda: None) as pid:
            os.mkdir("/tmp/out")
            status = nstool("mounts", str(pid), "--propagation", "-o", "/tmp/out/x.svg")[0]
            return status, Path("/tmp/out/x.svg").read_text(), [group.id for group in graph([pid]).groups]

    status, text, numbers = in_child(act)
    assert status == 0
    assert text.rstrip().endswith("</svg>")
    assert [number for number in numbers if f"peer group {number}<" not in text] == []
    texts = [element.text or "" for element in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert any('/tmp/"quoted\\\\"&lt;' in line for line in texts)


def test_many_deep_mounts_are_lines_in_no_time(in_child: Callable[..., Any]) -> None:
    """Who is looked at chooses how many there are and how deep; all of them are shown, as a table and as a tree."""

    def many() -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", "/tmp", "tmpfs")
        os.chdir("/tmp")
        for _ in range(300):
            os.mkdir("deep-down")
            kernel.mount("tmpfs", "deep-down", "tmpfs")
            os.chdir("deep-down")
        for _ in range(1500):
            kernel.mount("tmpfs", ".", "tmpfs")

    def act() -> None:
        with waiting(many) as (pid, _):
            with open(f"/proc/{pid}/mountinfo") as file:
                ids = [line.split()[0] for line in file]
            begin = sum(os.times()[2:4])  # CPU of the children
            assert nstool("mounts", str(os.getpid()))[0] == 0
            few = sum(os.times()[2:4]) - begin  # how long that is depends on the machine, which may be emulated
            status, out, _ = nstool("mounts", str(pid))
            assert (status, [line.split()[0] for line in out.splitlines()[1 : len(ids) + 1]]) == (0, ids)
            assert out.splitlines()[0].split()[:3] == ["id", "on", "mounted"]
            status, tree, _ = nstool("mounts", str(pid), "--tree")
            assert status == 0
            assert sum("── " in line for line in tree.splitlines()) == len(ids)
            lines = {line.lstrip("│ ├└─").split("  ")[0]: line for line in tree.splitlines()}
            assert lines["/tmp/deep-down/deep-down"].index("/tmp") == lines["/tmp/deep-down"].index("/tmp") + 4
            assert sum(os.times()[2:4]) - begin < 20 * few

    in_child(act, timeout=60)
