"""What this host can do: a list of features, each tried or read, with what to do about a no. And trial runs."""

from __future__ import annotations

import os
import shutil
from errno import ENOENT

from nstool import uapi
from nstool.errors import KernelError, NotSupported, NstoolError
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.plan.host import Host
    from nstool.plan.preflight import Problem
    from nstool.spec.model import Spec

YES, NO, LIMITED, UNKNOWN = "yes", "no", "limited", "unknown"
NOBODY = 65534
_TRIED = ("nft", "veth", "bridge", "vxlan", "macvlan", "ipvlan", "dummy", "wireguard", "netem")
_TO_THE_HOST = ("nft", "veth", "bridge", "vxlan", "macvlan", "ipvlan")  # of use with an end, or rules, in the host's


class Feature(Frozen):
    """One thing that a host can or cannot do. state: "yes", "no", "limited", "unknown".

    found: how it is known, and the details. remedy: what to do about a state that is not yes.
    """

    area: str
    name: str
    state: str
    found: str
    remedy: str = ""


# ---- trial runs ----


def run_trial(plan: Plan, given: dict[str, int] | None = None) -> KernelError | None:
    """Run a plan whose command is nowhere; None if every step before it was taken, else the step's error.

    The child ends by that last refusal; nothing of it is left. Threads of the caller do not matter.
    """
    from nstool.plan.template import program
    from nstool.sandbox import engine

    streams = {name: 0 for name in plan.given if name in ("stdin", "stdout", "stderr")}
    devnull = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        streams = dict.fromkeys(streams, devnull)
        process = engine.start(program(plan), {**streams, **(given or {})}, _no_external)
        try:
            return _ended(plan, process)
        finally:
            process.kill_and_reap()
    except KernelError as error:
        return error
    finally:
        os.close(devnull)


def _ended(plan: Plan, process: object) -> KernelError | None:
    from nstool.sandbox import engine

    assert isinstance(process, engine.Process)
    while (message := process.read()) is not None:
        if message.type == engine.FAILED:
            if plan.steps[message.step].call == "execve" and message.error == ENOENT:
                return None
            return engine.failed(plan, message.step, message.error, message.detail)
    return KernelError("nsexec", 0, why="the trial's child ended without a word: killed from outside")


def _no_external(name: str, args: object, pid: int) -> None:
    raise NstoolError(f"a trial makes no step of the network: {name}")


_END = Step(PAYLOAD, "execve", (("",), ("trial",), ()), "where a command would begin")
_RELEASE = (Step(LAUNCHER, "release", (), "go on"), Step(INIT, "wait", (), "until the maps are written"))


def try_steps(flags: int, *steps: Step, mapped: bool = False, as_user: bool = False) -> KernelError | None:
    """Take steps in a child in new namespaces; None if all were taken.

    flags: CLONE_NEW* of clone3. mapped: with CLONE_NEWUSER, id 0 inside is the caller. as_user: drop every
    privilege first, as an ordinary user has none.
    """
    drop = (
        Step(INIT, "setresgid", (NOBODY, NOBODY, NOBODY), "become an ordinary user"),
        Step(INIT, "setresuid", (NOBODY, NOBODY, NOBODY), "become an ordinary user"),
    )
    return run_trial(Plan((*_child(flags, mapped), *(drop if as_user else ()), *steps, _END), (), False))


def _child(flags: int, mapped: bool) -> tuple[Step, ...]:
    """Steps of a child in new namespaces that takes steps as init; mapped: as root of its user namespace."""
    own = bool(flags & uapi.CLONE_NEWUSER)
    maps = (
        Step(LAUNCHER, "write_proc", ("setgroups", "deny"), "as gid_map wants it without privilege"),
        Step(LAUNCHER, "write_proc", ("uid_map", f"0 {os.geteuid()} 1\n"), "the caller is root inside"),
        Step(LAUNCHER, "write_proc", ("gid_map", f"0 {os.getegid()} 1\n"), "the caller is root inside"),
    )
    become = Step(INIT, "setresuid", (0, 0, 0), "become root inside")
    return (
        Step(LAUNCHER, "clone3", (flags, -1, 0, 0), "a child to try it in"),
        *((Step(CHILD, "raise_ambient", ((1 << 41) - 1,), "over the next exec"),) if own else ()),
        Step(CHILD, "exec_init", (), "nsexec takes the steps"),
        *(maps if mapped else ()),
        *_RELEASE,
        *((become,) if mapped else ()),
    )


def trial(spec: Spec, host: Host) -> KernelError | None:
    """Take all steps of a spec that change nothing outside, up to the command, which is not executed."""
    from nstool.plan import build
    from nstool.plan.preflight import LEASE, trial_plan, trial_spec
    from nstool.sandbox import engine
    from nstool.sandbox import host as facts

    reduced = trial_spec(spec)
    if reduced.root != spec.root or reduced.mounts != spec.mounts:
        host = facts.read(reduced)
    plan = trial_plan(build.plan(reduced, host.replace(cgroups=None), LEASE))
    if "userns" not in plan.given:
        return run_trial(plan)
    fd = engine.userns(build.maps(reduced, host, LEASE))
    try:
        return run_trial(plan, {"userns": fd})
    finally:
        os.close(fd)


def problems(spec: Spec) -> tuple[Problem, ...]:
    """Return what this host cannot do of a spec: facts, detectors, a trial run, and what is leased.

    Raises SpecError for a bad spec, a name that is taken, fds to pass that are not open, a damaged tarball. What is
    in a tarball is not looked for: a command that it lacks is told by the launch.
    """
    from nstool.plan import preflight
    from nstool.sandbox import host as facts
    from nstool.sandbox import rundir, tarball
    from nstool.sandbox.launch import check_open, resolve
    from nstool.spec.check import check

    check(spec)
    check_open(spec.pass_fds)
    if spec.name:
        rundir.check_free(spec.name)
    resolved = resolve(spec)
    try:
        host = facts.read(resolved)
        if spec.root.type == "tarball":
            tarball.look_through(spec.root.path, spec.root.size)
    except NotSupported as error:
        return (preflight.problem(error),)
    return preflight.check(resolved, host, trial) or tuple(_leased(resolved, host))


def notes(spec: Spec) -> tuple[str, ...]:
    """Return what of a spec without ``problems`` will not be as it reads: sentences that begin with the key."""
    from nstool.plan import preflight
    from nstool.sandbox import host as facts
    from nstool.sandbox.launch import resolve

    resolved = resolve(spec)
    return preflight.notes(resolved, facts.read(resolved))


def _leased(spec: Spec, host: Host) -> Iterator[Problem]:
    """Yield why what a launch would lease, ids and a network, cannot be had."""
    from nstool.plan import preflight
    from nstool.sandbox import leases
    from nstool.sandbox.launch import is_registered

    try:
        if is_registered(spec, host):
            leases.probe(spec)
    except NotSupported as error:
        yield preflight.problem(error)
    except KernelError as error:
        yield preflight.refusal(error)


# ---- the list ----


def features() -> tuple[Feature, ...]:
    """Return what this host can do for the caller, in groups. Tries in children; changes nothing that stays."""
    return tuple(feature for group in GROUPS for feature in group())


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:  # absent, or not ours to read
        return None


def _tried(area: str, name: str, error: KernelError | None, found: str, remedy: str = "") -> Feature:
    if error is None:
        return Feature(area, name, YES, found)
    said = f"{error.call.partition('(')[0]}: {error.errno_name}"
    if error.cause:
        said += f"; {'' if error.checked else 'possibly '}{error.cause}"
    return Feature(area, name, NO, said, error.remedy or remedy)


def _host() -> Iterator[Feature]:
    from nstool.sandbox.host import too_old

    name = os.uname()
    old = too_old()
    said = f"{name.release} {name.machine} (uname)" + (f"; {old.cause}" if old else "")
    yield Feature("host", "kernel", NO if old else YES, said, old.remedy if old else "")
    lsm = _read("/sys/kernel/security/lsm")
    yield Feature(
        "host",
        "security modules",
        YES if lsm else UNKNOWN,
        lsm.replace(",", ", ") if lsm else "/sys/kernel/security/lsm is not there or not yours to read",
        "" if lsm else "as root: mount -t securityfs none /sys/kernel/security",
    )


def _namespaces() -> Iterator[Feature]:
    root = os.geteuid() == 0
    for kind in KINDS.values():
        limit = _read(f"/proc/sys/user/max_{kind.name}_namespaces") or "?"
        if not os.path.exists(f"/proc/self/ns/{kind.name}"):
            yield Feature("namespaces", kind.name, NO, f"no /proc/self/ns/{kind.name}", "run a kernel that has it")
            continue
        here = _try_kind(kind.flag, with_userns=not root)
        who = "root" if root else "this user, in a user namespace"
        feature = _tried("namespaces", kind.name, here, f"made by {who}; at most {limit} (user.max_*)")
        if root:
            other = _try_kind(kind.flag, with_userns=True, as_user=True)
            if here is None and other is not None:
                said = f"made by root, not by an ordinary user: {other.errno_name}; {other.cause}"
                feature = Feature("namespaces", kind.name, LIMITED, said, other.remedy)
            elif here is None:
                said = f"made by root, and by an ordinary user in a user namespace; at most {limit} (user.max_*)"
                feature = Feature("namespaces", kind.name, YES, said)
        yield feature
    for name in ("kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns"):
        value = _read("/proc/sys/" + name.replace(".", "/"))
        closed = value == ("0" if name.endswith("clone") else "1")
        if value is not None:
            state = LIMITED if closed else YES
            open_ = "1" if name.endswith("clone") else "0"
            remedy = f"as root: sysctl -w {name}={open_}" if closed else ""
            yield Feature("namespaces", f"sysctl {name}", state, value, remedy)
    error = _try_set_tid()
    yield _tried("namespaces", "choosing a pid", error, "clone3 with set_tid in a new pid namespace")


def _try_kind(flag: int, with_userns: bool, as_user: bool = False) -> KernelError | None:
    # One way for all: unshare knows every type, and clone3 knows no time namespace.
    wanted = flag | (uapi.CLONE_NEWUSER if with_userns else 0)
    return try_steps(0, Step(INIT, "unshare", (wanted,), "the new namespace"), as_user=as_user)


def _try_set_tid() -> KernelError | None:
    chosen = Step(INIT, "clone3", (0, -1, 77, 0), "a process with pid 77")
    return run_trial(Plan((*_child(uapi.CLONE_NEWUSER | uapi.CLONE_NEWPID, mapped=False), chosen, _END), (), True))


def _mount_steps(*steps: Step) -> tuple[Step, ...]:
    private = uapi.MS_REC | uapi.MS_PRIVATE
    return (Step(INIT, "mount", (None, "/", None, private, None), "nothing is seen outside"), *steps)


def _mounts() -> Iterator[Feature]:
    flags = uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS | uapi.CLONE_NEWPID
    new_api = (
        Step(INIT, "fsopen", ("tmpfs", 1), "a new filesystem", "fs"),
        Step(INIT, "fsconfig", (Fd("fs"), uapi.FSCONFIG_CMD_CREATE, None, None, 0), "make it"),
        Step(INIT, "fsmount", (Fd("fs"), 1, 0), "a mount", "mount"),
        Step(
            INIT, "mount_setattr", (Fd("mount"), "", uapi.AT_EMPTY_PATH, uapi.MOUNT_ATTR_RDONLY, 0, 0, -1), "attributes"
        ),
        Step(INIT, "open_tree", (uapi.AT_FDCWD, "/", uapi.OPEN_TREE_CLONE | uapi.AT_RECURSIVE), "a tree", "tree"),
    )
    error = try_steps(flags, *_mount_steps(*new_api), mapped=True)
    said = "fsopen, fsmount, mount_setattr, open_tree taken"
    yield _tried("mounts", "mount API by fd", error, said, "nstool needs Linux 5.12")
    proc = (
        Step(INIT, "fsopen", ("proc", 1), "a new proc", "fs"),
        Step(INIT, "fsconfig", (Fd("fs"), uapi.FSCONFIG_SET_STRING, "hidepid", "invisible", 0), "hidepid"),
        Step(INIT, "fsconfig", (Fd("fs"), uapi.FSCONFIG_CMD_CREATE, None, None, 0), "make it"),
        Step(INIT, "fsmount", (Fd("fs"), 1, 0), "a mount", "proc"),
    )
    error = try_steps(flags, *_mount_steps(*proc), mapped=True)
    yield _tried("mounts", "fresh /proc in a user namespace", error, "made, with hidepid=invisible", 'proc = "bind"')
    layers = (
        Step(INIT, "mount", ("none", "/tmp", "tmpfs", 0, None), "a place"),
        *(Step(INIT, "mkdirat", (uapi.AT_FDCWD, f"/tmp/{name}", 0o755), "a layer") for name in ("l", "u", "w", "m")),
        Step(
            INIT,
            "mount",
            ("none", "/tmp/m", "overlay", 0, "lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w,userxattr"),
            "the overlay",
        ),
    )
    error = try_steps(flags, *_mount_steps(*layers), mapped=True)
    yield _tried("mounts", "overlayfs in a user namespace", error, "mounted, on tmpfs", "modprobe overlay; Linux 5.11")
    yield _idmapped()


def _idmapped() -> Feature:
    area, name = "mounts", "id-mapped mounts"
    if os.geteuid() != 0:
        return Feature(area, name, NO, "they need CAP_SYS_ADMIN over the filesystem", "run as root")
    from nstool.sandbox import idmapped

    found = "made of this host's /; each filesystem decides for itself"
    remedy = "a filesystem with id-mapped mounts (ext4, xfs, btrfs, tmpfs since 6.3)"
    return _tried(area, name, idmapped.refusal("/"), found, remedy)


def _cgroups() -> Iterator[Feature]:
    from nstool.plan.cgroups import VERSION1, Controller
    from nstool.sandbox.cgroups import layout

    found = layout()
    remedy = "start in a cgroup of your own: systemd-run --user --scope -p Delegate=yes nstool run ..."
    if found.unified_base:
        yield Feature("cgroups", "cgroup2", YES, f"cgroups are made in {found.unified_base}")
    elif found.unified_mount:
        yield Feature("cgroups", "cgroup2", LIMITED, f"{found.unified_mount} is not yours to write in", remedy)
    else:
        yield Feature("cgroups", "cgroup2", NO, "not mounted (/proc/self/mountinfo)", "mount -t cgroup2 none DIRECTORY")
    yield from _cgroup_files(found.unified_base)
    for controller in found.controllers.values():
        assert isinstance(controller, Controller)
        if found.unified_mount and not controller.version and controller.name in VERSION1:
            continue  # version 2 has the same in another form
        if controller.usable:
            how = "switched on" if controller.enabled else "can be switched on"
            said = f"version {controller.version}, {how} in {controller.base}"
            yield Feature("cgroups", controller.name, YES, said)
        else:
            state = LIMITED if controller.version else NO
            yield Feature("cgroups", controller.name, state, controller.cause, remedy if controller.version else "")


def _cgroup_files(base: str) -> Iterator[Feature]:
    # The top of the hierarchy has neither file, so a cgroup is made for the look, and removed.
    wanted = (("cgroup.kill", "Linux 5.14"), ("cgroup.freeze", "Linux 5.2"))
    if not base:
        for name, _ in wanted:
            yield Feature("cgroups", name, UNKNOWN, "no place to make a cgroup2 directory to look in")
        return
    path = f"{base}/nstool-check-{os.urandom(4).hex()}"
    os.mkdir(path)
    try:
        for name, since in wanted:
            there = os.path.exists(f"{path}/{name}")
            said = "cgroups made there have it" if there else "cgroups made there lack it"
            yield Feature("cgroups", name, YES if there else NO, said, "" if there else since)
    finally:
        os.rmdir(path)


def _security() -> Iterator[Feature]:
    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    if actions is None:
        yield Feature("security", "seccomp", NO, "no /proc/sys/kernel/seccomp", "a kernel with CONFIG_SECCOMP_FILTER")
    else:
        yield Feature("security", "seccomp", YES, f"actions: {actions}")
    yield from _landlock()
    yield from _labels()
    randomised = _read("/proc/sys/kernel/randomize_va_space")
    bad = randomised == "0"
    remedy = "as root: sysctl -w kernel.randomize_va_space=2" if bad else ""
    said = f"kernel.randomize_va_space is {randomised}; {'without' if randomised == '1' else 'also'} the heap"
    said = "kernel.randomize_va_space is 0" if bad else said
    yield Feature("security", "address randomisation", NO if bad else YES, said, remedy)
    noexec = _read("/proc/sys/vm/memfd_noexec")
    bad = noexec not in (None, "0")
    remedy = "as root: sysctl -w vm.memfd_noexec=0"
    said = f"vm.memfd_noexec is {noexec}" if noexec is not None else "tried: init runs from it"
    yield Feature("security", "executing a memfd", NO if bad else YES, said, remedy if bad else "")


def _landlock() -> Iterator[Feature]:
    from nstool import syscalls
    from nstool.security import landlock

    abi = syscalls.landlock_abi()
    if abi <= 0:
        said = landlock.absent(abi, "")
        yield Feature("security", "Landlock", NO, said.cause, said.remedy)
        return
    yield Feature("security", "Landlock", YES, f"ABI {abi} (landlock_create_ruleset)")
    for since, what in landlock.BROUGHT.items():
        remedy = "" if abi >= since else f"Linux {landlock.LINUX[since]}"
        name = f"Landlock ABI {since}: {what}"
        yield Feature("security", name, YES if abi >= since else NO, f"the kernel's ABI is {abi}", remedy)


def _labels() -> Iterator[Feature]:
    from nstool.sandbox import lsm

    if lsm.apparmor():
        loaded = lsm.profiles()
        said = f"{lsm.APPARMOR} is Y" + ("" if loaded is None else f"; profiles loaded: {len(loaded)}")
        yield Feature("security", "AppArmor", YES, said)
    else:
        remedy = "a kernel that has it, booted with apparmor=1 security=apparmor"
        yield Feature("security", "AppArmor", NO, f"{lsm.APPARMOR} is not Y", remedy)
    enforce = _read(f"{lsm.SELINUX}/enforce")
    if enforce is not None:
        yield Feature("security", "SELinux", YES, "enforcing" if enforce == "1" else "permissive: it refuses nothing")
    else:
        remedy = "a kernel and a policy that have it, booted with selinux=1 security=selinux"
        yield Feature("security", "SELinux", NO, f"no {lsm.SELINUX}/enforce", remedy)


def _processes() -> Iterator[Feature]:
    from nstool import syscalls

    steps = (
        ("pidfd_open", 0, "Linux 5.3"),
        ("pidfd of a thread", uapi.PIDFD_THREAD, "Linux 6.9"),
    )
    for name, flags, remedy in steps:
        try:
            os.close(syscalls.pidfd_open(os.getpid(), flags))
        except KernelError as error:
            yield Feature("processes", name, NO, error.errno_name, remedy)
        else:
            yield Feature("processes", name, YES, "tried on this process")
    fd = syscalls.pidfd_open(os.getpid())
    try:
        os.close(syscalls.ioctl(fd, uapi.PIDFD_GET_UTS_NAMESPACE))
        yield Feature("processes", "namespaces of a pidfd", YES, "ioctl PIDFD_GET_*_NAMESPACE")
    except KernelError as error:
        yield Feature("processes", "namespaces of a pidfd", NO, error.errno_name, "Linux 6.11")
    finally:
        os.close(fd)


def _ids() -> Iterator[Feature]:
    from nstool.detectors import ids
    from nstool.detectors.scene import Scene

    for name in ("newuidmap", "newgidmap"):
        path = shutil.which(name, path="/usr/bin:/bin:/usr/local/bin")
        if path is None:
            yield Feature("ids", name, NO, "not in /usr/bin, /bin, /usr/local/bin", "apt-get install uidmap")
            continue
        scene = Scene(Step(LAUNCHER, "spawn", ((path, "{pid}"),), ""))
        bits = ids.has_privilege_bits(path)
        nosuid = bool(os.statvfs(path).f_flag & ids.ST_NOSUID)
        if not bits:
            remedy = f"as root: chmod u+s {path}"
            yield Feature("ids", name, NO, f"{path} is neither set-user-ID root nor has file capabilities", remedy)
        elif nosuid:
            yield Feature("ids", name, NO, f"{path} lies on a mount with nosuid", "put it on a mount without nosuid")
        elif ids.helper_no_new_privs(scene):
            yield Feature("ids", name, NO, "this process has no_new_privs", "start nstool outside of what set it")
        else:
            yield Feature("ids", name, YES, path)
    user = ids.user_name(Scene(Step(LAUNCHER, "spawn", ((),), "")), os.getuid())
    for file in ("/etc/subuid", "/etc/subgid"):
        yield _subordinate(file, user)


def _subordinate(file: str, user: str) -> Feature:
    from nstool.security.idmap import owned, parse_subids

    ranges = owned(parse_subids(_read(file) or ""), os.getuid(), user)
    if ranges:
        said = ", ".join(f"{line.first}-{line.first + line.count - 1}" for line in ranges)
        few = sum(line.count for line in ranges) < 65536
        remedy = f"65536 ids are usual: usermod --add-sub{file[-3:]}s FIRST-LAST {user}" if few else ""
        return Feature("ids", file, LIMITED if few else YES, f"{user}: {said}", remedy)
    if os.geteuid() == 0:
        return Feature("ids", file, YES, "no range for root, which needs none: it leases unused host ids")
    remedy = f"as root: usermod --add-sub{file[-3:]}s 100000-165535 {user}"
    return Feature("ids", file, NO, f"no range for {user}: sandboxes get one id only", remedy)


# ---- the network, in a network namespace that is thrown away ----


def _network() -> Iterator[Feature]:
    from nstool.sandbox.host import effective_capabilities

    host = effective_capabilities() >> uapi.CAPABILITIES["net_admin"] & 1
    for name, error in _try_links().items():
        how = "a masquerading rule was made" if name == "nft" else "made"
        if error and name == "nft":
            yield Feature("network", name, NO, error, "apt-get install nftables; modprobe nf_tables nft_masq")
        elif error:
            module = "sch_netem" if name == "netem" else name
            yield Feature("network", name, NO, error, f"as root: modprobe {module}, or a kernel that has it")
        elif host or name not in _TO_THE_HOST:
            yield Feature("network", name, YES, f"{how} in a network namespace that was thrown away")
        else:
            said = f"{how} in a network namespace of one's own; the host's takes CAP_NET_ADMIN"
            yield Feature("network", name, LIMITED, said, "run as root what is to have a link to the host")


def _try_links() -> dict[str, str]:
    """Return each kind of link to why it cannot be made, "" if it can: asked in a child that makes them."""
    import json
    import sys

    from nstool.plan.template import program
    from nstool.sandbox import engine

    reader, writer = os.pipe()
    devnull = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    user = os.geteuid() != 0
    code = f"import sys; sys.path[:0] = {sys.path!r}; from nstool.sandbox.features import make_links; make_links()"
    python = (sys.executable, "-I", "-S", "-c", code)
    plan = Plan(
        (
            *_child(uapi.CLONE_NEWNET | (uapi.CLONE_NEWUSER if user else 0), mapped=user),
            Step(PAYLOAD, "dup3", (Fd("devnull"), 0, 0), "nothing to read"),
            Step(PAYLOAD, "dup3", (Fd("answer"), 1, 0), "where the answer goes"),
            Step(PAYLOAD, "execve", ((sys.executable,), python, ("LC_ALL=C",)), "make links"),
        ),
        ("devnull", "answer"),
        False,
    )
    try:
        process = engine.start(program(plan), {"devnull": devnull, "answer": writer}, _no_external)
    except KernelError as error:
        os.close(writer)
        os.close(reader)
        return dict.fromkeys(_TRIED, f"no network namespace to try it in: {error.errno_name}; {error.cause}")
    finally:
        os.close(devnull)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    process.reap()
    process.close()
    return dict(json.loads(text)) if text else dict.fromkeys(_TRIED, "the child that tried it failed")


def make_links() -> None:
    """Make one link of each kind in this (throw-away) network namespace; print why not, as JSON."""
    import json

    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    found = {}
    with IPRoute() as ip:

        def tried(name: str, **words: object) -> None:
            try:
                ip.link("add", **words) if name != "netem" else ip.tc("add", "netem", **words)
                found[name] = ""
            except NetlinkError as error:
                found[name] = os.strerror(error.code)

        tried("dummy", ifname="d0", kind="dummy")
        tried("veth", ifname="v0", kind="veth", peer="v1")
        tried("bridge", ifname="b0", kind="bridge")
        index = {link.get("ifname"): link["index"] for link in ip.get_links()}
        lower = index.get("v0") or index.get("d0") or 1
        tried("vxlan", ifname="x0", kind="vxlan", vxlan_id=1)
        tried("macvlan", ifname="m0", kind="macvlan", link=lower)
        tried("ipvlan", ifname="i0", kind="ipvlan", link=index.get("v1") or lower)
        tried("wireguard", ifname="w0", kind="wireguard")
        tried("netem", index=lower, delay=1000)
    found["nft"] = _try_nft()
    print(json.dumps({name: found[name] for name in _TRIED}))


def _try_nft() -> str:
    import subprocess

    path = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin")
    if path is None:
        return "nft is not installed"
    rules = "table inet t { chain c { type nat hook postrouting priority 100; masquerade; }; }"
    done = subprocess.run([path, "-f", "-"], input=rules, capture_output=True, text=True)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["nft failed"])[0]


GROUPS = (_host, _namespaces, _ids, _mounts, _cgroups, _processes, _security, _network)
