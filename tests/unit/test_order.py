"""Order is knowledge: each constraint between steps as a test with its reason, and one whole plan as a list."""

from __future__ import annotations

from types import EllipsisType

import pytest

from nstool import uapi
from nstool.kinds import KINDS
from nstool.plan import build
from nstool.plan.host import Host, Shown, SubIds
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.spec.model import Capabilities, IdMap, Ipc, Landlock, Limits, Mount, Namespaces, Net, Root, Spec
from tests.unit.strategies import layout

LEASE = Lease("web", 100000, 100000, 65536, "nstool-web", "ns-0ad50002", "10.213.0.2/30", "10.213.0.1/30")
CWD = uapi.AT_FDCWD
MNT = "new mnt"
USER = "new user"
LEAVE = "leave the old root"

# ---- the plans that are looked at ----

ROOT_HOST = Host(
    proc_files={"kcore": False, "fs": True, "loadavg": False},
    sysctls={"kernel/ostype": "Linux\n", "net": ""},
    shown=(Shown("/bin", "link", "usr/bin"), Shown("/usr", "dir", layer=0, source="usr")),
    layers=("/",),
    root=frozenset({"/proc", "/dev", "/tmp", "/data"}),
    covered=("/root",),
    scratch=("/tmp",),
    cgroups=layout(1),
    source_kinds={"/srv/data": "dir"},
    targets={"/data": "dir", "/scratch": "dir"},
)
ORDINARY = ROOT_HOST.replace(uid=1000, gid=1000, groups=(1000,), capabilities=0, privileged=False, cgroups=None)
RANGE = (SubIds(100000, 65536),)
HELPED = ORDINARY.replace(newuidmap="/usr/bin/newuidmap", newgidmap="/usr/bin/newgidmap", subuid=RANGE, subgid=RANGE)

DEFAULT = Spec(command=("true",))
FREE = DEFAULT.replace(limits=Limits(memory=0, pids=0, cpu=0))
MOUNTED = FREE.replace(mounts=(Mount("/data", "/srv/data"),), mask_paths=("/data",), readonly_paths=("/data",))
JOINED = FREE.replace(namespaces=Namespaces(user="77", pid="77", net="77"), net=Net("join", "77"), proc="none")
ALL_JOINED = FREE.replace(
    namespaces=Namespaces(**dict.fromkeys(KINDS, "77")),  # type: ignore[arg-type]
    net=Net("join", "77"),
    proc="none",
    dev="none",
    tmp_size=0,
)

CASES: dict[str, tuple[Spec, Host]] = {
    "default": (DEFAULT, ROOT_HOST),
    "default, cgroup v2": (DEFAULT, ROOT_HOST.replace(cgroups=layout(2))),
    "default, cgroup v1 alone": (DEFAULT, ROOT_HOST.replace(cgroups=layout(1, unified=False))),
    "no init": (DEFAULT.replace(init=False), ROOT_HOST),
    "mounts": (MOUNTED, ROOT_HOST),
    "ipc limits, sysctls": (
        DEFAULT.replace(ipc=Ipc(msgmax=8192), net=Net(sysctls={"net.ipv4.ip_default_ttl": "65"})),
        ROOT_HOST,
    ),
    "veth": (DEFAULT.replace(net=Net("veth")), ROOT_HOST),
    "bridge": (DEFAULT.replace(net=Net("bridge")), ROOT_HOST),
    "terminal": (DEFAULT.replace(terminal="always"), ROOT_HOST),
    "fds": (DEFAULT.replace(pass_fds=(5, 9)), ROOT_HOST),
    "landlock, labels": (
        DEFAULT.replace(
            landlock=Landlock(read=("/etc",), execute=("/usr",), tcp_bind=(80,), scope=("signal",)),
            apparmor="web",
            selinux="u:r:t:s0",
            pass_fds=(9,),
        ),
        ROOT_HOST.replace(landlock=7, apparmor=True, profiles=("web",), selinux="valid"),
    ),
    "capabilities": (DEFAULT.replace(capabilities=Capabilities(*[("chown", "kill")] * 5)), ROOT_HOST),
    "writable root": (DEFAULT.replace(root=Root(writable=True)), ROOT_HOST),
    "directory root": (MOUNTED.replace(root=Root("directory", "/srv/root")), ROOT_HOST.replace(covered=(), scratch=())),
    "directory root without mount points": (
        FREE.replace(root=Root("directory", "/srv/root")),
        ROOT_HOST.replace(covered=(), scratch=(), top=(("usr", "dir", ""), ("bin", "link", "usr/bin"))),
    ),
    "tmpfs root": (MOUNTED.replace(root=Root("tmpfs")), ROOT_HOST.replace(covered=(), scratch=())),
    "overlay root": (
        MOUNTED.replace(root=Root("overlay", lower=("/srv/a", "/srv/b"))),
        ROOT_HOST.replace(covered=(), scratch=()),
    ),
    "own maps": (
        DEFAULT.replace(uid_map=(IdMap(1000, 5000, 1),), gid_map=(IdMap(1000, 5000, 1),)),
        ROOT_HOST,
    ),
    "user with newuidmap": (FREE, HELPED),
    "user with newuidmap, tmpfs root": (MOUNTED.replace(root=Root("tmpfs")), HELPED),
    "user with newuidmap, overlay root": (FREE.replace(root=Root("overlay", lower=("/srv/a",))), HELPED),
    "user with newuidmap, kept upper layer": (
        FREE.replace(root=Root("overlay", lower=("/srv/a",), upper="/home/me/upper", writable=True)),
        HELPED,
    ),
    "user with one id": (FREE, ORDINARY),
    "user with one id, no init": (FREE.replace(init=False), ORDINARY),
    "joins user, pid, net": (JOINED, ROOT_HOST),
    "joins all": (ALL_JOINED, ROOT_HOST),
    "joins net": (DEFAULT.replace(net=Net("join", "blue")), ROOT_HOST),
    "the host's namespaces": (
        FREE.replace(
            namespaces=Namespaces(**dict.fromkeys(KINDS, "host")),  # type: ignore[arg-type]
            net=Net("host"),
            proc="none",
            dev="none",
            tmp_size=0,
        ),
        ROOT_HOST,
    ),
}
PLANS: dict[str, Plan] = {name: build.plan(spec, host, LEASE) for name, (spec, host) in CASES.items()}


def kinds(name: str, value: str) -> set[str]:
    """The namespace types that a case has with this value, "join" standing for any that is joined."""
    spec = CASES[name][0]
    found = {kind: getattr(spec.namespaces, kind) for kind in KINDS}
    if spec.net.mode == "join":
        found["net"] = "join"
    return {kind for kind, v in found.items() if v == value or (value == "join" and v not in ("new", "host"))}


def where(condition: str) -> pytest.MarkDecorator:
    """Run a test for each plan of which this holds: "new mnt", "join", "init", "" for all."""
    word, _, kind = condition.partition(" ")
    names = [
        name
        for name, (spec, _) in CASES.items()
        if not word
        or (word == "new" and kind in kinds(name, "new"))
        or (word == "join" and kinds(name, "join"))
        or (word == "init" and spec.init)
    ]
    assert names
    return pytest.mark.parametrize("plan", [PLANS[name] for name in names], ids=names)


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("plan", [PLANS[name] for name in names], ids=names)


# ---- finding steps ----

Pattern = object | EllipsisType


def _fits(step: Step, who: str, call: str, args: tuple[Pattern, ...]) -> bool:
    if (step.who, step.call) != (who, call):
        return False
    for want, got in zip(args, step.args):
        if isinstance(want, str) and want.startswith("<"):
            if not isinstance(got, Fd) or not f"<{got.name}>".startswith(want):
                return False
        elif want is not ... and want != got:
            return False
    return True


def at(plan: Plan, who: str, call: str, *args: Pattern) -> list[int]:
    """Where such steps are. args: from the first on; ``...`` is any, "<x>" an fd, "<x" one whose name begins so."""
    return [number for number, step in enumerate(plan.steps) if _fits(step, who, call, args)]


def one(plan: Plan, who: str, call: str, *args: Pattern) -> int:
    """Where the only such step is."""
    found = at(plan, who, call, *args)
    assert len(found) == 1, f"{len(found)} steps are {who} {call}{args}"
    return found[0]


def every(plan: Plan, who: str) -> list[int]:
    return [number for number, step in enumerate(plan.steps) if step.who == who]


def flags(plan: Plan, number: int) -> int:
    value = plan.steps[number].args[0]
    assert isinstance(value, int)
    return value


def in_order(*places: int | list[int]) -> None:
    """Every step of one place comes before every step of the next; no place is empty."""
    lists = [[place] if isinstance(place, int) else place for place in places]
    assert all(lists), f"nothing at place {lists.index([])}"
    for first, second in zip(lists, lists[1:]):
        assert max(first) < min(second), (first, second)


# ---- clone and namespaces ----


@where(USER)
def test_user_namespace_is_made_first(plan: Plan) -> None:
    """One clone3 makes the user namespace and the others: the kernel makes it first, so that it owns them.

    clone(2): "CLONE_NEWUSER ... is performed first"; who made them apart would lack rights over one.
    """
    made = flags(plan, one(plan, LAUNCHER, "clone3"))
    new = kinds(next(name for name, p in PLANS.items() if p is plan), "new")
    assert made & uapi.CLONE_NEWUSER
    assert made == sum(KINDS[name].flag for name in new - {"time", "cgroup"})
    for who in (CHILD, INIT, PAYLOAD):
        assert not any(flags(plan, n) & uapi.CLONE_NEWUSER for n in at(plan, who, "unshare"))


@only("joins user, pid, net")
def test_new_namespaces_are_made_in_the_joined_user_namespace(plan: Plan) -> None:
    """Where the user namespace is joined, the new ones are made after joining, by unshare: so they belong to it."""
    assert flags(plan, one(plan, LAUNCHER, "clone3")) == 0
    made = [n for n in at(plan, INIT, "unshare") if flags(plan, n) & uapi.CLONE_NEWNS]
    in_order(one(plan, INIT, "setns", "<ns_user"), made)


@where("join")
def test_all_namespaces_are_opened_before_one_is_joined(plan: Plan) -> None:
    """Joining changes what a path means (mnt) and what one may open (user): so all are opened first. setns(2)."""
    opened = [n for n, step in enumerate(plan.steps) if step.result.startswith("ns_")]
    joined = [n for n, step in enumerate(plan.steps) if step.call == "setns" and step.who == INIT]
    assert len(opened) >= 1
    in_order(opened, one(plan, LAUNCHER, "clone3"), joined or [len(plan.steps)])
    assert all(plan.steps[n].who == LAUNCHER for n in opened)


@only("joins all", "joins user, pid, net")
def test_user_is_joined_first_and_mnt_last(plan: Plan) -> None:
    """The joined user namespace gives the rights to join those that it owns; after mnt, no path is the caller's."""
    names = [step.args[0].name for step in plan.steps if step.call == "setns" and isinstance(step.args[0], Fd)]
    inside = [name for name, step in zip(names, [s for s in plan.steps if s.call == "setns"]) if step.who == INIT]
    if inside[0] == "timens":  # its own, made outside
        del inside[0]
    assert inside[0] == "ns_user"
    if "ns_mnt" in inside:
        assert inside[-1] == "ns_mnt"


@only("joins all", "joins user, pid, net")
def test_nobody_traces_a_process_that_joins_a_user_namespace(plan: Plan) -> None:
    """It is undumpable before, and again after it has taken an id there, which may reset it (CVE-2016-9962)."""
    undumpable = at(plan, INIT, "prctl", uapi.PR_SET_DUMPABLE, 0)
    in_order(undumpable[0], one(plan, INIT, "setns", Fd("ns_user")), at(plan, INIT, "setresuid")[0], undumpable[1])
    assert undumpable[1] == at(plan, INIT, "setresuid")[0] + 1


@where("new time")
def test_clocks_are_set_before_anybody_is_in_their_namespace(plan: Plan) -> None:
    """Offsets can be written only until the first process enters.

    By init: in its own memory its file in /proc belongs to it, whoever the launcher was as it made it. It enters at
    once, or it would be refused a child that shares its memory.
    """
    in_order(
        one(plan, CHILD, "exec_init"),
        one(plan, INIT, "unshare", uapi.CLONE_NEWTIME),
        one(plan, INIT, "write_file", CWD, "/proc/self/timens_offsets"),
        one(plan, INIT, "openat2", CWD, "/proc/self/ns/time_for_children"),
        one(plan, INIT, "setns", Fd("timens"), uapi.CLONE_NEWTIME),
        [*at(plan, INIT, "setns")[1:], *at(plan, INIT, "fchdir"), *at(plan, INIT, "clone3")],
    )


@where(USER)
def test_capabilities_outlive_the_exec_of_init(plan: Plan) -> None:
    """A uid that has no map yet loses its capabilities at exec unless they are ambient: before exec_init.

    And the maps come after it: the child has the launcher's memory, so that the launcher waits for its exec.
    """
    maps = [*at(plan, LAUNCHER, "write_proc"), *at(plan, LAUNCHER, "spawn")]
    in_order(one(plan, CHILD, "raise_ambient"), one(plan, CHILD, "exec_init"), maps)


# ---- cgroups ----


@only("default", "default, cgroup v2", "default, cgroup v1 alone", "no init", "veth")
def test_cgroups_are_entered_before_their_namespace_is_made(plan: Plan) -> None:
    """A cgroup namespace has its root where its maker is at that moment. cgroup_namespaces(7)."""
    clone = one(plan, LAUNCHER, "clone3")
    made = one(plan, INIT, "unshare", uapi.CLONE_NEWCGROUP)
    entered = at(plan, INIT, "write", "<cgroup_procs")
    into = plan.steps[clone].args[1]
    assert entered or into == Fd("cgroup")
    in_order(entered or [clone], made)


@only("default", "default, cgroup v2", "default, cgroup v1 alone")
def test_limits_are_set_before_anybody_is_in_the_cgroup(plan: Plan) -> None:
    """The directory, its limits, the fd to enter it by, then the process: it is never without its limits."""
    in_order(
        at(plan, LAUNCHER, "mkdirat", CWD),
        at(plan, LAUNCHER, "write_file", CWD),
        [n for n, step in enumerate(plan.steps) if step.result.startswith("cgroup")],
        one(plan, LAUNCHER, "clone3"),
    )


@where("")
def test_undo_is_listed_in_the_order_of_making(plan: Plan) -> None:
    """Undo runs from the last to the first, so that what was made last goes first. All undo steps come last."""
    made = [plan.steps[n].args[1] for n in at(plan, LAUNCHER, "mkdirat", CWD)]
    assert [plan.steps[n].args[1] for n in at(plan, UNDO, "unlinkat", CWD)] == made
    if undo := every(plan, UNDO):
        assert undo == list(range(undo[0], len(plan.steps)))


# ---- id maps ----


@where("")
def test_init_waits_for_the_launcher(plan: Plan) -> None:
    """The first that init does is to wait; the last that the launcher does is to release it.

    Where the launcher has nothing to do for it, neither: each costs a sleep and a wake-up.
    """
    launchers = every(plan, LAUNCHER)
    meanwhile = [n for n in launchers if n > one(plan, LAUNCHER, "clone3") and plan.steps[n].call != "setns"]
    if not meanwhile:
        assert not at(plan, INIT, "wait")
        return
    assert one(plan, INIT, "wait") == every(plan, INIT)[0]
    assert one(plan, LAUNCHER, "release") == launchers[-1]


@where(USER)
def test_maps_are_written_before_anything_needs_an_owner(plan: Plan) -> None:
    """Before its maps are written a process owns nothing and can take no id: maps, then release, then ids."""
    maps = [*at(plan, LAUNCHER, "write_proc", "uid_map"), *at(plan, LAUNCHER, "write_proc", "gid_map")]
    maps = maps or at(plan, LAUNCHER, "spawn")
    assert len(maps) == 2
    in_order(maps, one(plan, LAUNCHER, "release"))
    ids = [*at(plan, INIT, "setresuid"), *at(plan, PAYLOAD, "setresuid")]
    in_order(maps, one(plan, INIT, "wait"), ids)


@only("user with one id", "user with one id, no init")
def test_setgroups_is_denied_before_gid_map(plan: Plan) -> None:
    """Without privilege the kernel takes a gid_map only once setgroups(2) is denied. user_namespaces(7)."""
    in_order(
        one(plan, LAUNCHER, "write_proc", "setgroups", "deny"),
        one(plan, LAUNCHER, "write_proc", "uid_map"),
        one(plan, LAUNCHER, "write_proc", "gid_map"),
    )
    assert not at(plan, INIT, "setgroups")
    assert not at(plan, PAYLOAD, "setgroups")


@only("user with newuidmap", "user with newuidmap, tmpfs root", "default", "overlay root")
def test_init_becomes_root_before_it_makes_a_file(plan: Plan) -> None:
    """What init makes belongs to its ids; unmapped ones cannot own anything (EOVERFLOW)."""
    made = [n for call in ("mkdirat", "write_file", "symlinkat", "fsmount") for n in at(plan, INIT, call)]
    there = ("/proc/self/oom_score_adj", "/proc/self/timens_offsets")
    made = [n for n in made if plan.steps[n].args[1] not in there]
    in_order(one(plan, INIT, "setresgid", 0), one(plan, INIT, "setgroups"), one(plan, INIT, "setresuid", 0), made)


# ---- network ----


@only("veth", "bridge")
def test_rules_stand_before_the_link(plan: Plan) -> None:
    """The firewall's rules come before the link, so that there is no moment with the one and without the other."""
    names = [step.args[0] for step in plan.steps if (step.who, step.call) == (LAUNCHER, "external")]
    assert names.index("nft_publish") < names.index("veth_create")
    undone = [step.args[0] for step in plan.steps if (step.who, step.call) == (UNDO, "external")]
    assert undone.index("nft_unpublish") < undone.index("veth_delete"), "undo runs in reverse: the link goes first"


@only("veth", "bridge")
def test_link_is_moved_while_init_waits(plan: Plan) -> None:
    """The link needs the network namespace of the new process, and the command needs the link."""
    in_order(
        one(plan, LAUNCHER, "clone3"), one(plan, LAUNCHER, "external", "veth_create"), one(plan, LAUNCHER, "release")
    )


@only("ipc limits, sysctls")
def test_kernel_settings_are_written_before_proc_sys_is_read_only(plan: Plan) -> None:
    """The files of /proc/sys are those of the writer's namespaces, and nobody inside writes them later."""
    written = [n for n in at(plan, INIT, "write_file", CWD) if str(plan.steps[n].args[1]).startswith("/proc/sys/")]
    assert len(written) == 4
    in_order(one(plan, INIT, "wait"), written, at(plan, INIT, "move_mount", "<cover>", ..., "<proc>", "sys"))


# ---- mounts ----


@where(MNT)
def test_propagation_is_cut_before_anything_is_mounted(plan: Plan) -> None:
    """A mount made while the tree is shared would show on the host. mount_namespaces(7)."""
    in_order(one(plan, INIT, "mount", None, "/"), [*at(plan, INIT, "move_mount"), one(plan, INIT, "pivot_root")])


@where(MNT)
def test_sources_are_opened_before_the_pivot(plan: Plan) -> None:
    """What lies on the host is opened, as a detached tree, while the host's paths still mean something."""
    pivot = one(plan, INIT, "pivot_root")
    inside = [plan.steps[n].args[1] for n in at(plan, INIT, "open_tree", CWD) if n > pivot]
    spec = next(CASES[name][0] for name, p in PLANS.items() if p is plan)
    assert set(inside) <= {*spec.readonly_paths}, "after the pivot only the sandbox's own paths are opened"
    if opened := at(plan, LAUNCHER, "open_tree"):
        in_order(opened, one(plan, LAUNCHER, "clone3"))


@where(MNT)
def test_new_root_is_entered_then_pivoted_to(plan: Plan) -> None:
    """The tree is attached, stood in, and becomes the root by pivot_root(".", "."), which stacks the old one on it."""
    pivot = one(plan, INIT, "pivot_root", ".", ".")
    in_order(one(plan, INIT, "move_mount", "<root>", "", CWD, "/"), one(plan, INIT, "fchdir", "<root>"), pivot)


@where(MNT)
def test_old_root_goes_last(plan: Plan) -> None:
    """While the old root is there a user namespace sees a whole /proc, without which it gets no fresh one
    (mount_too_revealing); afterwards no path leads back, so nothing may be left to mount.
    """
    leave = one(plan, INIT, "umount2", ".", uapi.MNT_DETACH)
    in_order(one(plan, INIT, "pivot_root"), leave)
    in_order([*at(plan, INIT, "move_mount"), *at(plan, INIT, "fsopen")], leave)
    assert plan.steps[leave + 1].call == "chdir", "the working directory is the old root until then"
    assert plan.steps[leave + 1].args == ("/",)


@where(MNT)
def test_fresh_proc_is_made_after_the_pivot_and_before_the_old_root_goes(plan: Plan) -> None:
    """In between both are there: the new root to mount it on, the old one that allows it."""
    if proc := at(plan, INIT, "fsopen", "proc"):
        in_order(one(plan, INIT, "pivot_root"), proc, one(plan, INIT, "umount2"))


@only("tmpfs root", "overlay root", "directory root without mount points", "user with newuidmap, tmpfs root")
def test_root_of_its_own_is_read_only_when_it_is_furnished(plan: Plan) -> None:
    """Mount points are made in it, so it becomes read-only at the end of all mounts."""
    closed = one(plan, INIT, "mount_setattr", "<root>", "", ..., uapi.MOUNT_ATTR_RDONLY)
    in_order([*at(plan, INIT, "mkdirat", CWD), *at(plan, INIT, "move_mount")], closed, at(plan, INIT, "clone3"))


@only("default", "mounts", "user with newuidmap", "tmpfs root")
def test_dev_is_read_only_when_all_is_in_it(plan: Plan) -> None:
    """Nodes and links are made, pts, shm and mqueue mounted, then nothing is added to /dev."""
    closed = one(plan, INIT, "mount_setattr", "<dev>", "", ..., uapi.MOUNT_ATTR_RDONLY)
    inside = [n for name in ("pts", "shm", "mqueue", "dev_") for n in at(plan, INIT, "move_mount", f"<{name}")]
    in_order(at(plan, INIT, "move_mount", "<dev>"), inside, closed)


@only("mounts", "tmpfs root", "overlay root", "directory root")
def test_mounts_of_the_spec_come_before_what_covers(plan: Plan) -> None:
    """A masked or read-only path holds for what is mounted there too."""
    in_order(
        at(plan, INIT, "move_mount", "<mount"),
        at(plan, INIT, "move_mount", "<cover"),
        at(plan, INIT, "move_mount", "<readonly"),
    )


@where(MNT)
def test_targets_are_opened_where_they_are_used(plan: Plan) -> None:
    """Each mount goes onto the fd that the step before has opened without following a symlink."""
    for number in at(plan, INIT, "move_mount", ..., "", "<at"):
        target = plan.steps[number - 1]
        assert (target.call, target.result) == ("openat2", "at")


@only("overlay root", "user with newuidmap, overlay root")
def test_layers_are_mounted_before_the_overlay_is_made(plan: Plan) -> None:
    """overlayfs takes paths: the layers are attached in the old root, before the pivot leaves it behind."""
    in_order(
        one(plan, INIT, "move_mount", "<hold", "", CWD, "/dev"),
        [*at(plan, INIT, "move_mount", "<lower"), *at(plan, INIT, "move_mount", "<upper")],
        one(plan, INIT, "fsopen", "overlay"),
        one(plan, INIT, "pivot_root"),
    )


@only("default", "mounts", "user with newuidmap")
def test_covers_are_made_in_the_old_root(plan: Plan) -> None:
    """A tree can be copied only from a mount: the cover's own is attached in the old root and goes with it."""
    in_order(
        one(plan, INIT, "move_mount", "<hold"),
        one(plan, INIT, "pivot_root"),
        at(plan, INIT, "open_tree", "<hold"),
        one(plan, INIT, "umount2"),
    )


@only("user with newuidmap", "user with one id")
def test_who_may_not_mknod_opens_the_nodes_of_the_host_first(plan: Plan) -> None:
    """An ordinary user cannot make device nodes: the host's are opened before the pivot and bound after it."""
    in_order(
        at(plan, INIT, "open_tree", CWD, "/dev/null"),
        one(plan, INIT, "pivot_root"),
        at(plan, INIT, "move_mount", "<dev_"),
    )
    assert not at(plan, INIT, "mknodat")


# ---- the terminal ----


@only("terminal")
def test_terminal_is_made_in_its_own_devpts(plan: Plan) -> None:
    """Mounted, opened, unlocked, its other side taken, the master sent and closed; all before the command."""
    in_order(
        one(plan, INIT, "move_mount", "<pts"),
        one(plan, INIT, "openat2", CWD, "/dev/pts/ptmx"),
        one(plan, INIT, "ioctl", "<ptmx", uapi.TIOCSPTLCK),
        one(plan, INIT, "ioctl_int", "<ptmx", uapi.TIOCGPTPEER),
        one(plan, INIT, "fchownat", "<tty"),
        one(plan, INIT, "send_fd", "<ptmx"),
        one(plan, INIT, "close", "<ptmx"),
        one(plan, INIT, "clone3"),
    )


@only("terminal")
def test_terminal_controls_a_session_of_its_own(plan: Plan) -> None:
    """Only the leader of a session without a terminal can take one. ioctl_tty(2), TIOCSCTTY."""
    in_order(one(plan, PAYLOAD, "setsid"), one(plan, PAYLOAD, "ioctl_int", "<tty", uapi.TIOCSCTTY))


# ---- the command ----


@where("")
def test_signals_are_reset_first(plan: Plan) -> None:
    """Until then all are blocked, so that no handler of anybody's runs in a half-made process."""
    hold = at(plan, PAYLOAD, "futex_wait")
    assert [*hold, one(plan, PAYLOAD, "reset_signals")] == every(plan, PAYLOAD)[: len(hold) + 1]


@where("")
def test_fds_are_put_in_place_before_the_others_are_closed(plan: Plan) -> None:
    """The standard streams and the passed fds first; then all others are closed, before a path inside is followed.

    A link to /proc/self/fd/N in the root would lead through one that is open to what it is open to (CVE-2024-21626).
    """
    closed = one(plan, PAYLOAD, "close_range")
    in_order(at(plan, PAYLOAD, "dup3"), closed, one(plan, PAYLOAD, "chdir"), one(plan, PAYLOAD, "execve"))
    assert plan.steps[closed].args[1:] == (0xFFFF_FFFF, 0)
    opened = {step.result for step in plan.steps[closed:] if step.who == PAYLOAD}  # by Landlock's steps
    used = {arg.name for s in plan.steps[closed:] if s.who == PAYLOAD for arg in s.args if isinstance(arg, Fd)}
    assert used <= opened


@where("init")
def test_init_has_closed_all_before_the_payload_goes_on(plan: Plan) -> None:
    """Who may trace init gets at its fds as soon as the command runs."""
    closed = one(plan, INIT, "close_range", 3, 0xFFFF_FFFF, 0)
    in_order(at(plan, INIT, "clone3"), closed, at(plan, INIT, "futex_wake"))


@only("fds")
def test_passed_fds_are_moved_out_of_the_way_first(plan: Plan) -> None:
    """Put at once in its place, one fd would overwrite another that is still to be moved."""
    in_order(at(plan, PAYLOAD, "fcntl", ..., uapi.F_DUPFD_CLOEXEC), at(plan, PAYLOAD, "dup3"))


@where(USER)
def test_ids_are_changed_groups_first(plan: Plan) -> None:
    """setgroups and setresgid need CAP_SETGID, which setresuid may take: credentials(7)."""
    groups = at(plan, PAYLOAD, "setgroups")
    gid, uid = one(plan, PAYLOAD, "setresgid"), one(plan, PAYLOAD, "setresuid")
    in_order(*([groups] if groups else []), gid, uid)


@where(USER)
def test_capabilities_are_dropped_after_what_needs_them(plan: Plan) -> None:
    """The bounding set, ids, the ambient set and the securebits need capabilities: then the final capset.

    CAP_SETPCAP for PR_CAPBSET_DROP and PR_SET_SECUREBITS, CAP_SETUID for the ids. capabilities(7).
    """
    final = at(plan, PAYLOAD, "capset")[-1]
    in_order(one(plan, PAYLOAD, "drop_bounding"), one(plan, PAYLOAD, "setresuid"), final)
    in_order(one(plan, PAYLOAD, "prctl", uapi.PR_SET_SECUREBITS), final)
    in_order(at(plan, PAYLOAD, "prctl", uapi.PR_CAP_AMBIENT), final)


@where(USER)
def test_permitted_set_is_kept_over_the_change_of_ids(plan: Plan) -> None:
    """Without PR_SET_KEEPCAPS the change from uid 0 empties the permitted set. capabilities(7)."""
    in_order(
        one(plan, PAYLOAD, "prctl", uapi.PR_SET_KEEPCAPS, 1),
        one(plan, PAYLOAD, "setresuid"),
        one(plan, PAYLOAD, "prctl", uapi.PR_SET_KEEPCAPS, 0),
        one(plan, PAYLOAD, "prctl", uapi.PR_SET_SECUREBITS),
    )


@only("capabilities")
def test_ambient_set_is_raised_before_securebits_forbid_it(plan: Plan) -> None:
    """SECBIT_NO_CAP_AMBIENT_RAISE ends all raising; and PR_CAP_AMBIENT_RAISE needs the capability inheritable."""
    raised = at(plan, PAYLOAD, "prctl", uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE)
    assert len(raised) == 2
    in_order(at(plan, PAYLOAD, "capset")[0], raised, one(plan, PAYLOAD, "prctl", uapi.PR_SET_SECUREBITS))


@where(USER)
def test_limits_are_raised_while_it_is_allowed(plan: Plan) -> None:
    """A hard limit above the inherited one needs CAP_SYS_RESOURCE. getrlimit(2)."""
    in_order(at(plan, PAYLOAD, "setrlimit"), one(plan, PAYLOAD, "setresuid"))


@where("")
def test_working_directory_is_entered_with_the_commands_rights(plan: Plan) -> None:
    """A directory that the command may not enter is no place to put it: after ids and capabilities."""
    in_order(at(plan, PAYLOAD, "capset"), one(plan, PAYLOAD, "chdir"), one(plan, PAYLOAD, "execve"))


@where("")
def test_death_signal_is_set_after_the_ids(plan: Plan) -> None:
    """A change of ids or capabilities clears PR_SET_PDEATHSIG. PR_SET_PDEATHSIG(2const)."""
    death = one(plan, PAYLOAD, "prctl", uapi.PR_SET_PDEATHSIG)
    in_order([*at(plan, PAYLOAD, "setresuid"), *at(plan, PAYLOAD, "capset")], death)


@where("")
def test_filter_is_last_but_attestation_and_exec(plan: Plan) -> None:
    """The filter may forbid any of the steps before it, and needs no_new_privs, seccomp(2).

    What is attested is the whole: nothing comes after it but the exec.
    """
    filter_ = one(plan, PAYLOAD, "seccomp")
    in_order(one(plan, PAYLOAD, "prctl", uapi.PR_SET_NO_NEW_PRIVS), filter_)
    assert every(plan, PAYLOAD)[-3:] == [filter_, one(plan, PAYLOAD, "attest"), one(plan, PAYLOAD, "execve")]


@only("landlock, labels")
def test_landlock_comes_between_no_new_privs_and_the_filter(plan: Plan) -> None:
    """Without no_new_privs it is refused, landlock_restrict_self(2); and the filter may forbid its calls.

    Its paths are opened with the command's ids, after all fds of others are closed, and before it restricts: the
    ruleset of files would refuse what it does not name.
    """
    in_order(
        [*at(plan, PAYLOAD, "setresuid"), *at(plan, PAYLOAD, "capset"), *at(plan, PAYLOAD, "close_range")],
        one(plan, PAYLOAD, "prctl", uapi.PR_SET_NO_NEW_PRIVS),
        one(plan, PAYLOAD, "landlock_create_ruleset"),
        [*at(plan, PAYLOAD, "openat2", CWD), *at(plan, PAYLOAD, "landlock_add_rule")],
        one(plan, PAYLOAD, "landlock_restrict_self"),
        one(plan, PAYLOAD, "seccomp"),
    )


@only("landlock, labels")
def test_labels_are_asked_for_before_anything_can_be_in_the_way(plan: Plan) -> None:
    """/proc is opened outside, for inside may be none; the fd is used before a passed one takes its number.

    And before no_new_privs. A change of ids keeps what is asked for; execve(2) makes it so. apparmor(7), setexeccon(3).
    """
    asked = [one(plan, PAYLOAD, "write_file", "<attr_proc>", f"thread-self/attr/{n}exec") for n in ("apparmor/", "")]
    in_order(
        one(plan, LAUNCHER, "openat2", CWD, "/proc"),
        one(plan, LAUNCHER, "clone3"),
        asked,
        [*at(plan, PAYLOAD, "fcntl"), *at(plan, PAYLOAD, "dup3")],
        one(plan, PAYLOAD, "close_range"),
        one(plan, PAYLOAD, "prctl", uapi.PR_SET_NO_NEW_PRIVS),
        one(plan, PAYLOAD, "execve"),
    )
    assert [plan.steps[n].args[2] for n in asked] == ["exec web", "u:r:t:s0"]


# ---- init ----


@where("init")
def test_init_is_closed_to_the_command_before_it_runs(plan: Plan) -> None:
    """Undumpable before the command exists: nobody inside traces init or reads what it has."""
    in_order(at(plan, INIT, "prctl", uapi.PR_SET_DUMPABLE, 0)[0], one(plan, INIT, "clone3"))


@where("init")
def test_init_gives_up_its_rights_before_the_command_runs(plan: Plan) -> None:
    """The payload is a copy of init with all its rights, so they go after the clone; and before its first step."""
    last = every(plan, INIT)[-1]
    dropped = [*at(plan, INIT, "prctl", uapi.PR_SET_NO_NEW_PRIVS), *at(plan, INIT, "capset")]
    in_order(one(plan, INIT, "clone3"), dropped, one(plan, INIT, "futex_wake"), one(plan, PAYLOAD, "futex_wait"))
    assert one(plan, INIT, "futex_wake") == last
    assert one(plan, PAYLOAD, "futex_wait") == every(plan, PAYLOAD)[0]


@only(*(name for name, (spec, host) in CASES.items() if build.answers_sysinfo(spec, host)))
def test_init_is_asked_before_the_command_is_there(plan: Plan) -> None:
    """The command inherits the filter: it is loaded before the clone, with init's CAP_SYS_ADMIN."""
    asked = one(plan, INIT, "seccomp", 0x28)
    in_order(asked, one(plan, INIT, "answer_sysinfo", "<sysinfo>"), one(plan, INIT, "clone3"))


@only("no init", "user with one id, no init")
def test_without_init_the_payload_follows_in_the_same_process(plan: Plan) -> None:
    """What init does is done before the first step of the payload, and nothing after."""
    assert not at(plan, INIT, "clone3")
    in_order(every(plan, INIT), every(plan, PAYLOAD))


@where("")
def test_roles_follow_one_another(plan: Plan) -> None:
    """Launcher, one clone3, the child until exec_init, init and launcher, the payload in one row. csrc/plan.c."""
    clone, inited = one(plan, LAUNCHER, "clone3"), one(plan, CHILD, "exec_init")
    payload = every(plan, PAYLOAD)
    assert every(plan, CHILD) == list(range(clone + 1, inited + 1))
    assert payload == list(range(payload[0], payload[-1] + 1))
    in_order(inited, every(plan, INIT))


# ---- the whole ----


def in_words(step: Step) -> str:
    """Who, call, and the arguments that tell most: names and fds, or numbers where there is nothing else."""

    def word(arg: object) -> str:
        if isinstance(arg, Fd):
            return f"<{arg.name}>"
        if isinstance(arg, bytes):
            return "bytes"
        return "text" if isinstance(arg, str) and len(arg) > 50 else repr(arg)

    args: list[object] = [arg for arg in step.args if arg and not isinstance(arg, int)]
    words = [word(arg) for arg in args[:3]] or [str(arg) for arg in step.args[:3]]
    if step.call in ("clone3", "unshare"):
        words = [uapi.names("CLONE", flags) for flags in step.args[:1] if isinstance(flags, int)]
    if step.call == "prctl":
        words = [uapi.name("PR", option) for option in step.args[:1] if isinstance(option, int)]
    if step.call == "execve":
        words = [word(step.args[1])]
    return " ".join([f"{step.who:<8}", step.call, *words, *([f"-> {step.result}"] if step.result else [])])


WHOLE = r"""
launcher mkdirat '/sys/fs/cgroup/memory/x/nstool-web'
launcher mkdirat '/sys/fs/cgroup/pids/x/nstool-web'
launcher mkdirat '/sys/fs/cgroup/cpu/x/nstool-web'
launcher mkdirat '/sys/fs/cgroup/unified/x/nstool-web'
launcher write_file text bytes
launcher write_file '/sys/fs/cgroup/pids/x/nstool-web/pids.max' bytes
launcher write_file '/sys/fs/cgroup/cpu/x/nstool-web/cpu.shares' bytes
launcher openat2 '/sys/fs/cgroup/memory/x/nstool-web/tasks' -> cgroup_procs_memory
launcher openat2 '/sys/fs/cgroup/pids/x/nstool-web/tasks' -> cgroup_procs_pids
launcher openat2 '/sys/fs/cgroup/cpu/x/nstool-web/tasks' -> cgroup_procs_cpu
launcher openat2 '/sys/fs/cgroup/unified/x/nstool-web' -> cgroup
launcher open_tree '/' -> layer0
launcher mount_setattr <layer0>
launcher fsopen 'tmpfs' -> fs
launcher fsconfig <fs> 'mode' '755'
launcher fsconfig <fs> 'size' '64k'
launcher fsconfig <fs> 'nr_inodes' '1024'
launcher fsconfig <fs>
launcher fsmount <fs> -> dev
launcher mknodat <dev> 'null'
launcher fchmodat <dev> 'null'
launcher mknodat <dev> 'zero'
launcher fchmodat <dev> 'zero'
launcher mknodat <dev> 'full'
launcher fchmodat <dev> 'full'
launcher mknodat <dev> 'random'
launcher fchmodat <dev> 'random'
launcher mknodat <dev> 'urandom'
launcher fchmodat <dev> 'urandom'
launcher mknodat <dev> 'tty'
launcher fchmodat <dev> 'tty'
launcher symlinkat '/proc/self/fd' <dev> 'fd'
launcher symlinkat '/proc/self/fd/0' <dev> 'stdin'
launcher symlinkat '/proc/self/fd/1' <dev> 'stdout'
launcher symlinkat '/proc/self/fd/2' <dev> 'stderr'
launcher symlinkat 'pts/ptmx' <dev> 'ptmx'
launcher mkdirat <dev> 'pts'
launcher mkdirat <dev> 'shm'
launcher mkdirat <dev> 'mqueue'
launcher clone3 CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWUSER|CLONE_NEWPID|CLONE_NEWNET
child    raise_ambient 53219819
child    exec_init
launcher write_proc 'uid_map' '0 100000 65536\n'
launcher write_proc 'gid_map' '0 100000 65536\n'
launcher write_proc 'oom_score_adj' '500\n'
launcher release
init     wait
init     unshare CLONE_NEWTIME
init     write_file '/proc/self/timens_offsets' 'monotonic 0 0\nboottime 0 0\n'
init     openat2 '/proc/self/ns/time_for_children' -> timens
init     setns <timens>
init     write <cgroup_procs_memory> bytes
init     write <cgroup_procs_pids> bytes
init     write <cgroup_procs_cpu> bytes
init     unshare CLONE_NEWCGROUP
init     setresgid 0 0 0
init     setgroups b''
init     setresuid 0 0 0
init     sethostname 'web'
init     setdomainname '(none)'
init     socket 2 524290 0 -> inet
init     ioctl <inet> bytes
init     write_file '/proc/sys/user/max_inotify_instances' '16\n'
init     write_file '/proc/sys/user/max_inotify_watches' '8192\n'
init     mount '/'
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '755'
init     fsconfig <fs> 'size' '286720'
init     fsconfig <fs> 'nr_inodes' '1024'
init     fsconfig <fs>
init     fsmount <fs> -> hold
init     mkdirat <hold> 'dir'
init     write_file <hold> 'file'
init     write_file <hold> 'view-loadavg' '0.00 0.00 0.00 1/1 1\n'
init     mkdirat <hold> 'real'
init     mkdirat <hold> 'sys'
init     mkdirat <hold> 'sys/kernel'
init     mkdirat <hold> 'sys/kernel/random'
init     mkdirat <hold> 'sys/net'
init     write_file <hold> 'sys/kernel/ostype' 'Linux\n'
init     write_file <hold> 'sys/kernel/random/boot_id' '\n'
init     write_file <hold> 'sys/kernel/hostname' 'web\n'
init     write_file <hold> 'sys/kernel/domainname' '(none)\n'
init     write_file <hold> 'sys/kernel/threads-max' '256\n'
init     mkdirat <hold> 'layer0'
init     mkdirat <hold> 'shown0'
init     move_mount <hold> '/dev'
init     mount_setattr <hold>
init     move_mount <layer0> '/dev/layer0'
init     fsopen 'overlay' -> fs
init     fsconfig <fs> 'lowerdir' '/dev/layer0:/dev/dir'
init     fsconfig <fs>
init     fsmount <fs> -> shown0
init     move_mount <shown0> '/dev/shown0'
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '755'
init     fsconfig <fs> 'size' '1m'
init     fsconfig <fs> 'nr_inodes' '1024'
init     fsconfig <fs>
init     fsmount <fs> -> root
init     move_mount <root> '/'
init     fchdir <root>
init     pivot_root '.' '.'
init     mkdirat <root> 'etc'
init     mkdirat <root> 'var'
init     mkdirat <root> 'var/cache'
init     mkdirat <root> 'var/lib'
init     mkdirat <root> 'var/log'
init     mkdirat <root> 'home'
init     mkdirat <root> 'root'
init     mkdirat <root> 'opt'
init     mkdirat <root> 'srv'
init     mkdirat <root> 'mnt'
init     symlinkat '/run' <root> 'var/run'
init     symlinkat '/run/lock' <root> 'var/lock'
init     symlinkat '/proc/self/mounts' <root> 'etc/mtab'
init     symlinkat 'usr/bin' <root> 'bin'
init     open_tree <shown0> 'usr' -> part
init     mkdirat <root> 'usr'
init     move_mount <part> <root> 'usr'
init     write_file <root> 'etc/passwd' text
init     write_file <root> 'etc/group' text
init     write_file <root> 'etc/nsswitch.conf' text
init     write_file <root> 'etc/hosts' text
init     write_file <root> 'etc/machine-id' '\n'
init     write_file <root> 'etc/hostname' 'web\n'
init     fsopen 'proc' -> fs
init     fsconfig <fs> 'hidepid' 'invisible'
init     fsconfig <fs>
init     fsmount <fs> -> proc
init     mkdirat '/proc'
init     openat2 '/proc' -> at
init     move_mount <proc> <at>
init     mkdirat '/dev'
init     openat2 '/dev' -> at
init     move_mount <dev> <at>
init     fsopen 'devpts' -> fs
init     fsconfig <fs> 'newinstance'
init     fsconfig <fs> 'ptmxmode' '0666'
init     fsconfig <fs> 'mode' '0620'
init     fsconfig <fs> 'max' '64'
init     fsconfig <fs> 'gid' '5'
init     fsconfig <fs>
init     fsmount <fs> -> pts
init     openat2 <dev> 'pts' -> at
init     move_mount <pts> <at>
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '1777'
init     fsconfig <fs> 'size' '67108864'
init     fsconfig <fs> 'nr_inodes' '65536'
init     fsconfig <fs>
init     fsmount <fs> -> shm
init     openat2 <dev> 'shm' -> at
init     move_mount <shm> <at>
init     fsopen 'mqueue' -> fs
init     fsconfig <fs>
init     fsmount <fs> -> mqueue
init     openat2 <dev> 'mqueue' -> at
init     move_mount <mqueue> <at>
init     mount_setattr <dev>
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '1777'
init     fsconfig <fs> 'size' '67108864'
init     fsconfig <fs> 'nr_inodes' '65536'
init     fsconfig <fs>
init     fsmount <fs> -> scratch0
init     openat2 '/tmp' -> at
init     move_mount <scratch0> <at>
init     mkdirat '/var'
init     openat2 '/var' -> parent
init     mkdirat <parent> 'tmp'
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '1777'
init     fsconfig <fs> 'size' '67108864'
init     fsconfig <fs> 'nr_inodes' '65536'
init     fsconfig <fs>
init     fsmount <fs> -> scratch1
init     openat2 '/var/tmp' -> at
init     move_mount <scratch1> <at>
init     mkdirat '/run'
init     fsopen 'tmpfs' -> fs
init     fsconfig <fs> 'mode' '755'
init     fsconfig <fs> 'size' '67108864'
init     fsconfig <fs> 'nr_inodes' '65536'
init     fsconfig <fs>
init     fsmount <fs> -> scratch2
init     openat2 '/run' -> at
init     move_mount <scratch2> <at>
init     open_tree <hold> 'file' -> cover
init     move_mount <cover> <proc> 'kcore'
init     open_tree <hold> 'dir' -> cover
init     move_mount <cover> <proc> 'fs'
init     open_tree <hold> 'view-loadavg' -> cover
init     move_mount <cover> <proc> 'loadavg'
init     open_tree <proc> 'sys' -> real
init     move_mount <real> <hold> 'real'
init     open_tree <hold> 'sys' -> cover
init     move_mount <cover> <proc> 'sys'
init     open_tree <real> 'net' -> live
init     mount_setattr <live>
init     move_mount <live> <proc> 'sys/net'
init     umount2 '.'
init     chdir '/'
init     mount_setattr <root>
init     prctl PR_SET_DUMPABLE
init     seccomp bytes -> sysinfo
init     answer_sysinfo <sysinfo>
init     clone3 0
init     close_range 3 4294967295 0
init     prctl PR_SET_NO_NEW_PRIVS
init     capset 524320 524320 0
init     futex_wake
payload  futex_wait
payload  reset_signals
payload  dup3 <stdin>
payload  dup3 <stdout>
payload  dup3 <stderr>
payload  own_null
payload  setsid
payload  close_range 3 4294967295 0
payload  keyctl 1 None
payload  umask 18
payload  personality 0
payload  setrlimit 4 1 1
payload  setrlimit 8 65536 65536
payload  setrlimit 12 262144 262144
payload  setrlimit 13 0 0
payload  setrlimit 7 1024 1024
payload  setrlimit 14 0 0
payload  setrlimit 11 1024 1024
payload  drop_bounding 0
payload  setgroups b''
payload  prctl PR_SET_KEEPCAPS
payload  setresgid 1000 1000 1000
payload  setresuid 1000 1000 1000
payload  prctl PR_SET_DUMPABLE
payload  prctl PR_SET_KEEPCAPS
payload  capset 256 256 0
payload  prctl PR_CAP_AMBIENT
payload  prctl PR_SET_SECUREBITS
payload  capset 0 0 0
payload  chdir '/'
payload  prctl PR_SET_PDEATHSIG
payload  prctl PR_SET_NO_NEW_PRIVS
payload  seccomp bytes
payload  attest
payload  execve ('true',)
undo     unlinkat '/sys/fs/cgroup/memory/x/nstool-web'
undo     unlinkat '/sys/fs/cgroup/pids/x/nstool-web'
undo     unlinkat '/sys/fs/cgroup/cpu/x/nstool-web'
undo     unlinkat '/sys/fs/cgroup/unified/x/nstool-web'
"""


def test_whole_plan() -> None:
    """The default, on a host with one masked file and one masked directory in /proc and one covered directory.

    Nothing else is done, and nothing in another order.
    """
    plan = PLANS["default"]
    assert "\n".join(map(in_words, plan.steps)) == WHOLE.strip()


def test_a_mount_on_a_file_of_names_comes_before_it() -> None:
    """What the spec says of /etc/hosts is not covered by the generated one."""
    spec = FREE.replace(net=Net("veth"))
    mounted = spec.replace(mounts=(Mount("/etc/hosts", "/srv/data"),))
    host = ROOT_HOST.replace(targets={"/etc/hosts": "file"}, source_kinds={"/srv/data": "file"})
    made = "the content of /etc/hosts"
    assert [made in [step.why for step in build.plan(one, host, LEASE).steps] for one in (spec, mounted)] == [
        True,
        False,
    ]
