"""Each cause of the catalogue that this kernel can be brought to: provoked for real, and named, and no other."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nstool import uapi
from nstool.errors import KernelError
from nstool.plan import hints
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step
from nstool.sandbox import features
from nstool.security import landlock
from nstool.service import listen
from nstool.spec.model import Limits, Mount, Net, Root, Spec
from tests.support import kernel, serving
from tests.support.child import run_in_child
from tests.support.probes import controller_root

pytestmark = [pytest.mark.vm, pytest.mark.needs("root", "native", "nsexec")]

InChild = Callable[..., Any]
USER, NET, NS, PID, IPC = (getattr(uapi, f"CLONE_NEW{n}") for n in ("USER", "NET", "NS", "PID", "IPC"))
CWD = uapi.AT_FDCWD
END = Step(PAYLOAD, "execve", (("",), ("x",), ()), "the end")


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """The sealed copy of nsexec, which a process keeps, is no leak."""
    from nstool.sandbox import engine

    engine.image()


def init(call: str, *args: Any, result: str = "") -> Step:
    return Step(INIT, call, args, "a step of the test", result)


def launcher(call: str, *args: Any, result: str = "") -> Step:
    return Step(LAUNCHER, call, args, "a step of the test", result)


def told(error: KernelError | None) -> tuple[str, ...]:
    """Return the errno's name, and the checked causes; or fail."""
    assert error is not None, "nothing was refused"
    assert error.checked, f"not checked: {error}"
    assert len(error.remedies) == len(error.causes)
    return (error.errno_name, *error.causes)


def cause(wanted: str, /, **words: object) -> str:
    """Return the cause of the row with this detector, filled in."""
    row = next(row for row in hints.ROWS if row.name == wanted)
    return hints.sentence(row.cause, words)


TREE = (
    uapi.AT_EMPTY_PATH | uapi.AT_RECURSIVE
)  # a host's mounts may be shared, and what is shared is no root to pivot to


def expect(error: KernelError | None, number: str, row: str, /, **words: object) -> None:
    """Check that exactly this row explains the error."""
    assert told(error) == (number, cause(row, **words))


def plan_of(flags: int, *steps: Step, maps: tuple[Step, ...] = (), before: tuple[Step, ...] = ()) -> KernelError | None:
    """Run a child with these maps and steps."""
    raised = (Step(CHILD, "raise_ambient", ((1 << 41) - 1,), ""),) if flags & USER else ()
    clone = launcher("clone3", flags, -1, 0, 0)
    go = (launcher("release"), init("wait"))
    plan = Plan((*before, clone, *raised, Step(CHILD, "exec_init", (), ""), *maps, *go, *steps, END), (), False)
    return features.run_trial(plan)


def maps(uid: str = "0 0 1\n", gid: str = "0 0 1\n", setgroups: bool = True) -> tuple[Step, ...]:
    deny = (launcher("write_proc", "setgroups", "deny"),) if setgroups else ()
    return (*deny, launcher("write_proc", "uid_map", uid), launcher("write_proc", "gid_map", gid))


def own_mounts() -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)


def own_userns(lines: str = "0 0 4294967295") -> None:
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text("0 0 1")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text("0 0 1")


# ---- processes and namespaces ----


@pytest.mark.vm_full
def test_no_privilege() -> None:
    """An ordinary user gets no uts namespace without a user namespace."""
    error = features.try_steps(0, init("unshare", uapi.CLONE_NEWUTS), as_user=True)
    # The launcher, root, cannot see from its own files what the child had lost.
    assert error is not None
    assert error.errno == errno.EPERM


@pytest.mark.vm_full
def test_no_privilege_of_the_caller(as_user: InChild) -> None:
    """The same, when it is the launcher that has none."""
    expect(as_user(features.try_steps, uapi.CLONE_NEWUTS), "EPERM", "no_privilege")


def test_namespace_limit_zero(in_child: InChild) -> None:
    """user.max_uts_namespaces is 0, in a user namespace of its own, which has these files to itself."""

    def act() -> KernelError | None:
        own_userns()
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")
        return features.try_steps(uapi.CLONE_NEWUTS)

    expect(in_child(act), "ENOSPC", "namespace_limit_zero", limit="user.max_uts_namespaces")


def test_namespace_limit_reached(in_child: InChild) -> None:
    """One uts namespace is allowed, and one is there."""

    def act() -> KernelError | None:
        own_userns()
        Path("/proc/sys/user/max_uts_namespaces").write_text("1")
        kernel.unshare(uapi.CLONE_NEWUTS)
        return features.try_steps(uapi.CLONE_NEWUTS)

    expect(in_child(act), "ENOSPC", "namespace_limit_reached", limit="user.max_uts_namespaces", allowed=1)


@pytest.mark.vm_full
def test_outer_filter(in_child: InChild) -> None:
    """The filter of an outer container answers clone3 with ENOSYS, as Docker's did."""

    def act() -> KernelError | None:
        import pyseccomp

        features.try_steps(0)  # makes the image, which needs no filtered call later
        filtered = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        filtered.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
        filtered.load()
        return features.try_steps(USER)

    expect(in_child(act), "ENOSYS", "outer_filter", name="clone3")


@pytest.mark.vm_full
def test_outer_filter_is_not_blamed_for_another_call(in_child: InChild) -> None:
    """A filter that refuses setns is there; the limit is what refuses clone3."""

    def act() -> KernelError | None:
        import pyseccomp

        own_userns()
        Path("/proc/sys/user/max_uts_namespaces").write_text("0")
        filtered = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        filtered.add_rule(pyseccomp.ERRNO(errno.EPERM), "setns")
        filtered.load()
        return features.try_steps(uapi.CLONE_NEWUTS)

    expect(in_child(act), "ENOSPC", "namespace_limit_zero", limit="user.max_uts_namespaces")


@pytest.mark.vm_full
def test_chrooted(in_child: InChild, tmp_path: Path) -> None:
    """The caller lives in a chroot that is no mount point."""

    def act() -> KernelError | None:
        features.try_steps(0, init("unshare", 1))  # imports all that an explanation needs
        own_mounts()
        (tmp_path / "proc").mkdir()
        (tmp_path / "dev").mkdir()
        kernel.mount("/proc", str(tmp_path / "proc"), "", kernel.MS_BIND | kernel.MS_REC)
        kernel.mount("/dev", str(tmp_path / "dev"), "", kernel.MS_BIND | kernel.MS_REC)
        os.chroot(tmp_path)
        os.chdir("/")
        return features.try_steps(USER)

    expect(in_child(act), "EPERM", "chrooted")


def test_process_limit(as_user: InChild) -> None:
    """RLIMIT_NPROC of the caller is 1, and it is one process itself."""

    def act() -> KernelError | None:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        return features.try_steps(USER)

    error = as_user(act)
    assert error is not None
    assert error.errno_name == "EAGAIN"
    assert "its RLIMIT_NPROC is 1" in error.cause
    assert error.checked


SLEEP = Spec(command=("sleep", "60"), env={"PATH": "/usr/bin:/bin"}, limits=Limits(memory=0, pids=0, cpu=0))


def refused_with(limit: int) -> KernelError:
    """What launching meets where the caller's RLIMIT_NPROC is this."""
    from nstool.sandbox.launch import launch

    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))
    with pytest.raises(KernelError) as caught, launch(SLEEP):
        pass
    return caught.value


@pytest.mark.vm_full
def test_sandbox_process_limit(in_child: InChild) -> None:
    """Root has as many processes as it likes, init and the command of its sandbox have not."""
    expect(in_child(refused_with, 1), "EAGAIN", "sandbox_process_limit", limit=1)


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
def test_process_limit_of_a_helper(as_user: InChild) -> None:
    """newuidmap needs two more processes than there are, the caller and init.

    Others of this user, another worker's, may have been there at the refusal, and be gone when it is looked into.
    """
    for _ in range(20):
        error = as_user(refused_with, 3)
        assert error.errno_name == "EAGAIN"
        if error.cause:
            break
    assert "its RLIMIT_NPROC is 3" in error.cause
    assert error.checked


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
def test_process_limit_counts_sandboxes(as_user: InChild) -> None:
    """The two processes of a sandbox have other ids, and count for the user who made it."""

    def act() -> KernelError | None:
        from nstool.sandbox.launch import launch

        with launch(SLEEP):
            resource.setrlimit(resource.RLIMIT_NPROC, (3, 3))
            return features.try_steps(USER)

    error = as_user(act)
    assert error is not None
    assert error.errno_name == "EAGAIN"
    assert "its RLIMIT_NPROC is 3" in error.cause
    assert error.checked


@pytest.mark.vm_full
@pytest.mark.parametrize("limit", [0, 200])
def test_file_size_limit(in_child: InChild, limit: int) -> None:
    """The journal cannot be begun, or breaks off where the limit is."""

    def act() -> KernelError:
        from nstool.sandbox.launch import launch

        sys.dont_write_bytecode = True  # which would be cut off
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(KernelError) as caught, launch(SLEEP):
            pass
        return caught.value

    error = in_child(act)
    expect(error, "EFBIG", "file_size_limit", limit=limit)
    assert error.call.endswith("/journal')")


@pytest.mark.vm_full
def test_file_size_limit_in_memory(in_child: InChild) -> None:
    """A file in memory has a size too: the copy of nsexec that init runs from."""

    def act() -> KernelError:
        from nstool.sandbox import engine

        sys.dont_write_bytecode = True
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
        engine._image = (-1, 0)
        with pytest.raises(KernelError) as caught:
            engine.image()
        return caught.value

    expect(in_child(act), "EFBIG", "file_size_limit", limit=8000)


@pytest.mark.needs("cgroup_pids")
def test_pids_limit(in_child: InChild, name: str) -> None:
    """The caller's own cgroup allows one task."""
    directory = Path(controller_root("pids"), f"nstool-{name}")

    def act() -> KernelError | None:
        (directory / "cgroup.procs").write_text("0")
        (directory / "pids.max").write_text("1")
        return features.try_steps(0)

    directory.mkdir()
    try:
        expect(in_child(act), "EAGAIN", "pids_limit", cgroup=str(directory), allowed=1)
    finally:
        directory.rmdir()


@pytest.mark.vm_full
@pytest.mark.needs("cgroup_pids", "veth", "nft")
@pytest.mark.parametrize("allowed", [1, 2])
def test_pids_limit_of_a_link(in_child: InChild, name: str, allowed: int) -> None:
    """Where init and nft(8) do not fit beside the caller, nothing is begun, and check says so too."""
    directory = Path(controller_root("pids"), f"nstool-{name}")

    def act() -> list[KernelError]:
        from nstool.sandbox.launch import launch

        (directory / "cgroup.procs").write_text("0")
        (directory / "pids.max").write_text(str(allowed))
        with pytest.raises(KernelError) as caught, launch(SLEEP.replace(net=Net(mode="veth"))):
            pass
        with pytest.raises(KernelError) as by_check:
            features.problems(SLEEP.replace(net=Net(mode="veth")))
        return [caught.value, by_check.value]

    directory.mkdir()
    try:
        for error in in_child(act):
            expect(error, "EAGAIN", "pids_limit", cgroup=str(directory), allowed=allowed)
    finally:
        directory.rmdir()


def in_new_pidns(act: Callable[[], Any]) -> Any:

    kernel.unshare(uapi.CLONE_NEWPID)
    return run_in_child(act)


@pytest.mark.vm_full
@pytest.mark.needs("memfd_noexec")
def test_memfd_noexec(in_child: InChild) -> None:
    """vm.memfd_noexec, which each pid namespace has for itself, is 1."""

    def act() -> KernelError | None:
        from nstool.sandbox import engine

        Path("/proc/sys/vm/memfd_noexec").write_text("1")
        engine._image = (-1, 0)
        return features.try_steps(0)

    expect(in_child(in_new_pidns, act), "EACCES", "memfd_noexec", value=1)


def test_timens_offset_range() -> None:
    """An offset that takes a clock below zero is refused."""
    text = "monotonic -1000000000 0\n"
    step = Step(CHILD, "write_file", (CWD, "/proc/self/timens_offsets", text, 0, 0), "")
    clone, end = launcher("clone3", 0, -1, 0, 0), Step(CHILD, "exec_init", (), "")
    enter = Step(CHILD, "unshare", (uapi.CLONE_NEWTIME,), "")
    go = (launcher("release"), init("wait"))
    error = features.run_trial(Plan((clone, enter, step, end, *go, END), (), False))
    number, said = told(error)
    assert number == "ERANGE"
    assert said.startswith("-1000000000 s take the monotonic clock")


def joined(path: str, kind: int, flags: int = 0) -> KernelError | None:
    opened = launcher("openat2", CWD, path, uapi.O_CLOEXEC, 0, 0, result="ns")
    return plan_of(flags, init("setns", Fd("ns"), kind), before=(opened,), maps=maps() if flags else ())


@pytest.mark.vm_full
def test_not_a_namespace() -> None:
    """A net namespace is joined as a uts namespace; a plain file as one."""
    path = "/proc/self/ns/net"
    words = {"is": "a net namespace", "type": "uts"}
    expect(joined(path, uapi.CLONE_NEWUTS), "EINVAL", "not_a_namespace", path=path, **words)
    words = {"is": "no namespace", "type": "uts"}
    expect(joined("/etc/passwd", uapi.CLONE_NEWUTS), "EINVAL", "not_a_namespace", path="/etc/passwd", **words)


def test_owned_elsewhere() -> None:
    """A new user namespace has no power over the host's network namespace."""
    path = "/proc/self/ns/net"
    expect(joined(path, NET, USER), "EPERM", "owned_elsewhere", path=path)


@pytest.mark.vm_full
def test_own_userns_joined() -> None:
    """One cannot join the user namespace that one lives in."""
    expect(joined("/proc/self/ns/user", USER), "EINVAL", "own_userns_joined")


@pytest.mark.vm_full
def test_namespace_gone() -> None:
    """No such process, no such named namespace: the path is named, once."""
    for path in ("/proc/4194305/ns/net", "/run/netns/nstool-no-such"):
        error = joined(path, NET)
        assert cause("namespace_gone", path=path) in told(error)


@pytest.mark.needs("root", "landlock")
def test_process_hidden(in_child: Callable[..., Any]) -> None:
    """A process that may not be looked into is not said to be gone."""
    pid = os.getpid()

    def join_it() -> tuple[str, ...]:
        kernel.landlock()
        return told(joined(f"/proc/{pid}/ns/net", NET))

    number, *causes = in_child(join_it)
    assert number == "EACCES"
    (why,) = causes
    assert why.startswith(f"you may not look into process {pid}: it is protected by a security module")


# ---- Landlock ----

ALL_FILES = landlock.handled(1)
NO_NEW_PRIVS = Step(PAYLOAD, "prctl", (uapi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "")
RESTRICT = Step(PAYLOAD, "landlock_restrict_self", (Fd("r"), 0), "")


def ruleset(fs: int = ALL_FILES, net: int = 0, scoped: int = 0) -> Step:
    return Step(PAYLOAD, "landlock_create_ruleset", (fs, net, scoped), "", "r")


def allow(path: str, bits: int) -> tuple[Step, ...]:
    opened = Step(PAYLOAD, "openat2", (CWD, path, uapi.O_PATH | uapi.O_CLOEXEC, 0, 0), "", "p")
    rule = (Fd("r"), uapi.LANDLOCK_RULE_PATH_BENEATH, bits, Fd("p"), 0)
    return opened, Step(PAYLOAD, "landlock_add_rule", rule, "")


@pytest.mark.needs("root", "landlock")
def test_landlock_too_old() -> None:
    """A plan of a later kernel: a right, and a field, that this one does not know."""
    abi = kernel.landlock_abi()
    expect(plan_of(0, ruleset(1 << 60)), "EINVAL", "landlock_too_old", abi=abi)
    number = "E2BIG" if abi < landlock.NET else "EINVAL"  # the field itself is new there
    expect(plan_of(0, ruleset(1, 1 << 60)), number, "landlock_too_old", abi=abi)


@pytest.mark.needs("root", "landlock")
def test_landlock_right_of_directories() -> None:
    """A file has nothing that could be listed."""
    error = plan_of(0, ruleset(), *allow("/etc/passwd", landlock.mask(("read_file", "read_dir", "make_reg"))))
    expect(error, "EINVAL", "landlock_right_of_directories", path="/etc/passwd", rights="read_dir, make_reg")


@pytest.mark.needs("root", "landlock")
def test_landlock_path_missing() -> None:
    """What the rule is for is not inside; the first that lacks is named."""
    error = plan_of(0, ruleset(), *allow("/nstool-no/such", 1))
    expect(error, "ENOENT", "landlock_path_missing", path="/nstool-no/such", missing="/nstool-no")


@pytest.mark.needs("root", "landlock")
def test_landlock_magic_link() -> None:
    """A link of /proc/PID leads out of any tree, so that it is not followed; what is beside it can be named."""

    def opened(path: str) -> KernelError | None:
        args = (CWD, path, uapi.O_PATH | uapi.O_CLOEXEC, 0, uapi.RESOLVE_NO_MAGICLINKS)
        return plan_of(0, Step(PAYLOAD, "openat2", args, "", "p"))

    for path in ("/proc/self/root", "/proc/thread-self/cwd/x", "/proc/self/exe"):
        expect(opened(path), "ELOOP", "landlock_magic_link", path=path)
    assert opened("/proc/self/status") is None


@pytest.mark.needs("root", "landlock")
def test_spec_fd_limit() -> None:
    """The command's limit holds when Landlock's paths are opened: it is named, not that of the launcher."""
    limit = Step(PAYLOAD, "setrlimit", (uapi.RLIMIT_NOFILE, 3, 3), "")
    expect(plan_of(0, limit, ruleset()), "EMFILE", "spec_fd_limit", limit=3)


@pytest.mark.needs("root", "landlock")
def test_landlock_path_closed(tmp_path: Path) -> None:
    """A directory above it is not the command's to search."""
    closed = tmp_path / "closed"
    (closed / "x").mkdir(parents=True)
    closed.chmod(0o700)
    for above in (tmp_path, *tmp_path.parents):
        if above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    ids = (Step(PAYLOAD, "setresuid", (12345, 12345, 12345), ""), Step(PAYLOAD, "capset", (0, 0, 0), ""))
    error = plan_of(0, *ids, ruleset(), *allow(f"{closed}/x", 1))
    expect(error, "EACCES", "landlock_path_closed", directory=str(closed), uid=12345)


@pytest.mark.needs("root", "landlock")
def test_landlock_layers(in_child: InChild) -> None:
    """Sixteen domains are in one another, and no more. landlock_restrict_self(2)."""

    def act() -> KernelError | None:
        for _ in range(16):
            kernel.landlock()
        return plan_of(0, ruleset(1 << 9), RESTRICT)

    expect(in_child(act), "E2BIG", "landlock_layers", layers=16)


@pytest.mark.needs("root", "landlock")
def test_landlock_without_privilege() -> None:
    """Neither no_new_privs nor CAP_SYS_ADMIN; with the one or the other there is no error."""
    powerless = Step(PAYLOAD, "capset", (0, 0, 0), "")
    expect(plan_of(0, ruleset(), powerless, RESTRICT), "EPERM", "landlock_without_privilege")
    assert plan_of(0, ruleset(), RESTRICT) is None
    assert plan_of(0, ruleset(), powerless, NO_NEW_PRIVS, RESTRICT) is None


@pytest.mark.needs("root", "landlock")
@pytest.mark.parametrize("allowed", [(), ("read_file",), ("execute",)])
def test_landlock_no_execute(allowed: tuple[str, ...]) -> None:
    """A program is executed and read: with one right of the two it is refused; with both it runs.

    The program is asked for by a symlink, where there is one.
    """
    path = "/bin/true"
    real = os.path.realpath(path)
    rules = allow("/usr", landlock.mask(allowed)) if allowed else ()
    steps = (ruleset(), *rules, RESTRICT, Step(PAYLOAD, "execve", ((path,), ("true",), ()), ""))
    error = executed(*steps)
    shown = f", which is {real} inside" if real != path else ""
    assert cause("landlock_no_execute", file=path, **{"as": shown}) in told(error)
    assert told(error)[0] == "EACCES"
    both = allow("/", landlock.mask(("read_file", "execute")))
    assert executed(ruleset(), *both, RESTRICT, steps[-1]) is None


def executed(*steps: Step) -> KernelError | None:
    """Run steps that end in an execve; the error, or None if the program was executed."""
    error = features.run_trial(
        Plan((launcher("clone3", 0, -1, 0, 0), Step(CHILD, "exec_init", (), ""), *steps), (), False)
    )
    assert error is not None
    return error if error.errno else None  # without init a trial that executes something ends without a word


def set_tid(pid: int, flags: int) -> KernelError | None:
    steps = (*features._child(flags, mapped=False), init("clone3", 0, -1, pid, 0), END)
    return features.run_trial(Plan(steps, (), True))


def test_pid_taken() -> None:
    """Pid 1 of a new pid namespace is init's."""
    expect(set_tid(1, USER | PID), "EEXIST", "pid_taken", pid=1, holder="init of the sandbox")


def test_set_tid_not_allowed() -> None:
    """A new user namespace may not choose pids in the host's pid namespace."""
    expect(set_tid(31999, USER), "EPERM", "set_tid_not_allowed")


@pytest.mark.vm_full
def test_set_tid_too_high() -> None:
    """No pid is above kernel.pid_max."""
    highest = int(Path("/proc/sys/kernel/pid_max").read_text())
    pid = max(highest, 1 << 22)
    expect(set_tid(pid, USER | PID), "EINVAL", "set_tid_too_high", pid=pid, highest=highest)


@pytest.mark.vm_full
def test_pidns_dead(in_child: InChild) -> None:
    """The pid namespace for children has lost its first process."""

    def act() -> KernelError | None:
        kernel.unshare(uapi.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return features.try_steps(0)

    expect(in_child(act), "ENOMEM", "pidns_dead", what="its first process")


def test_fd_limit(in_child: InChild) -> None:
    """EMFILE names the limit, where no file can be opened to look it up."""

    def act() -> KernelError | None:
        features.try_steps(0, init("unshare", 1))
        held = [os.dup(0) for _ in range(20)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 2, max(held) + 2))
        return features.try_steps(0)

    error = in_child(act)
    assert error is not None
    assert error.errno_name == "EMFILE"
    assert error.cause.startswith(cause("fd_limit").partition(" (")[0])
    assert error.checked


# ---- ids ----


@pytest.mark.vm_full
def test_map_needs_privilege(as_user: InChild) -> None:
    """An ordinary user maps one id, its own."""

    def act() -> tuple[KernelError | None, int]:
        uid = os.getuid()
        return plan_of(USER, maps=maps(uid=f"0 {uid} 2\n")), uid

    error, uid = as_user(act)
    expect(error, "EPERM", "map_needs_privilege", file="uid_map", own=uid, capability="CAP_SETUID")


def test_setgroups_not_denied(as_user: InChild) -> None:
    """An unprivileged gid_map waits for deny in setgroups."""

    def act() -> KernelError | None:
        return plan_of(USER, maps=maps(f"0 {os.getuid()} 1\n", f"0 {os.getgid()} 1\n", setgroups=False))

    expect(as_user(act), "EPERM", "setgroups_not_denied")


@pytest.mark.vm_full
def test_map_written_twice() -> None:
    """A map is written once."""
    again = launcher("write_proc", "uid_map", "0 0 1\n")
    expect(plan_of(USER, maps=(*maps(), again)), "EPERM", "map_written_twice")


@pytest.mark.vm_full
def test_setgroups_too_late() -> None:
    """After gid_map it cannot be denied."""
    late = launcher("write_proc", "setgroups", "deny")
    expect(plan_of(USER, maps=(*maps(setgroups=False), late)), "EPERM", "setgroups_too_late")


def test_map_of_root(in_child: InChild) -> None:
    """Host id 0 is mapped by CAP_SETFCAP only."""

    def act() -> KernelError | None:
        from nstool import syscalls

        caps = syscalls.capget()
        less = caps.effective & ~(1 << uapi.CAP_SETFCAP)
        syscalls.capset(less, caps.permitted, 0)
        return plan_of(USER, maps=maps())

    expect(in_child(act), "EPERM", "map_of_root")


@pytest.mark.vm_full
def test_map_outside_own(in_child: InChild) -> None:
    """A nested namespace maps only what its parent has."""

    def act() -> KernelError | None:
        own_userns()
        return plan_of(USER, maps=maps(uid="0 5 1\n"))

    number, *causes = told(in_child(act))
    assert number == "EPERM"
    assert cause("map_outside_own", file="uid_map", first=5, last=5) in causes


@pytest.mark.vm_full
def test_map_malformed() -> None:
    """Ranges overlap."""
    number, said = told(plan_of(USER, maps=maps(uid="0 1000 10\n5 2000 10\n")))
    assert (number, "overlap" in said) == ("EINVAL", True)


def test_not_dumpable(as_user: InChild) -> None:
    """Root owns the files of a process that is not dumpable."""

    def act() -> KernelError | None:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        text = b"0\n"
        return features.run_trial(
            Plan(
                (launcher("write_file", CWD, "/proc/self/oom_score_adj", text, 0, 0), *features._child(0, False), END),
                (),
                False,
            )
        )

    number, *causes = told(as_user(act))
    assert number == "EACCES"
    assert cause("not_dumpable") in causes


def spawned(*argv: str) -> KernelError | None:
    return plan_of(USER, maps=(launcher("spawn", argv),))


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
def test_newuidmap_refusals(as_user: InChild, user: Any, tmp_path: Path) -> None:
    """Each way in which the helper can be there and not help is told from the others."""
    copy = Path(user.home, "newuidmap")
    shutil.copy(shutil.which("newuidmap") or "", copy)
    copy.chmod(0o755)
    try:
        expect(
            as_user(spawned, str(copy), "{pid}", "0", str(user.subuid[0]), "1"),
            "EPERM",
            "helper_not_setuid",
            helper=copy,
        )
    finally:
        copy.unlink()
    expect(as_user(spawned, "/no/newuidmap", "{pid}"), "ENOENT", "helper_missing", helper="/no/newuidmap")
    real = str(shutil.which("newuidmap"))
    error = as_user(spawned, real, "{pid}", "0", "1", "5")
    expect(error, "EPERM", "ids_not_subordinate", file="/etc/subuid", range="1-5", user=user.name)


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
def test_helper_no_new_privs(as_user: InChild, user: Any) -> None:
    """A caller with no_new_privs gets no help from set-user-ID programs."""

    def act() -> KernelError | None:
        kernel.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)
        return spawned(str(shutil.which("newuidmap")), "{pid}", "0", str(user.subuid[0]), "1")

    expect(as_user(act), "EPERM", "helper_no_new_privs")


@pytest.mark.needs("newuidmap")
def test_helper_nosuid(in_child: InChild, user: Any, tmp_path: Path) -> None:
    """A set-user-ID helper on a mount with nosuid."""
    path = tmp_path / "newuidmap"

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", uapi.MS_NOSUID, "mode=755")
        for parent in tmp_path.parents:
            if not parent.stat().st_mode & stat.S_IXOTH:
                pytest.fail(f"{parent} is closed")
        shutil.copy(shutil.which("newuidmap") or "", path)
        path.chmod(0o4755)
        user.become()
        return spawned(str(path), "{pid}", "0", str(user.subuid[0]), "1")

    closed = [p for p in (tmp_path, *tmp_path.parents) if not p.stat().st_mode & stat.S_IXOTH]
    for parent in closed:
        parent.chmod(parent.stat().st_mode | stat.S_IXOTH)
    try:
        expect(in_child(act), "EPERM", "helper_nosuid", helper=path)
    finally:
        for parent in closed:
            parent.chmod(parent.stat().st_mode & ~stat.S_IXOTH)


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
def test_user_has_no_account(in_child: InChild, user: Any) -> None:
    """newuidmap stops for a uid without an account."""

    def act() -> KernelError | None:
        nobodys = user._replace(uid=654321)
        nobodys.become()
        os.setresuid  # noqa: B018
        return spawned(str(shutil.which("newuidmap")), "{pid}", "0", "654321", "1")

    number, *causes = told(in_child(act))
    assert number == "EPERM"
    assert cause("user_has_no_account", uid=654321) in causes


@pytest.mark.vm_full
def test_id_not_mapped() -> None:
    """Only mapped ids can be taken; groups likewise."""
    expect(
        features.try_steps(USER, init("setresuid", 5, 5, 5), mapped=True),
        "EINVAL",
        "id_not_mapped",
        id=5,
        map="uid_map",
    )
    error = plan_of(USER, init("setgroups", (7).to_bytes(4, "little")), maps=maps(setgroups=False))
    expect(error, "EINVAL", "id_not_mapped", id=7, map="gid_map")


@pytest.mark.vm_full
def test_setgroups_denied() -> None:
    """After deny nobody inside sets groups."""
    error = features.try_steps(USER, init("setgroups", b""), mapped=True)
    expect(error, "EPERM", "setgroups_denied")


@pytest.mark.vm_full
def test_ids_need_capability(as_user: InChild) -> None:
    """Without a user namespace an ordinary user stays who it is."""
    error = as_user(features.try_steps, 0, init("setresuid", 0, 0, 0))
    expect(error, "EPERM", "ids_need_capability", capability="CAP_SETUID")


@pytest.mark.vm_full
def test_fsid_not_mapped(tmp_path: Path) -> None:
    """Who makes a directory needs an id in the maps."""
    mount = init("mount", "none", str(tmp_path), "tmpfs", 0, None)
    private = init("mount", None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None)
    mkdir = init("mkdirat", CWD, str(tmp_path / "d"), 0o755)
    error = plan_of(USER | NS, private, mount, mkdir, maps=maps("7 70000 1\n", "7 70000 1\n"))
    expect(error, "EOVERFLOW", "fsid_not_mapped")


@pytest.mark.vm_full
def test_capabilities_that_the_caller_lacks(as_user: InChild) -> None:
    """capset, the bounding set and the securebits of an ordinary user."""
    admin = 1 << uapi.CAP_SYS_ADMIN
    error = as_user(features.try_steps, 0, init("capset", admin, admin, 0))
    expect(error, "EPERM", "not_permitted", capabilities="CAP_SYS_ADMIN")
    expect(as_user(features.try_steps, 0, init("drop_bounding", 0)), "EPERM", "no_setpcap")
    error = as_user(features.try_steps, 0, init("prctl", uapi.PR_SET_SECUREBITS, 1, 0, 0, 0))
    expect(error, "EPERM", "no_setpcap")


@pytest.mark.vm_full
def test_not_in_bounding(in_child: InChild) -> None:
    """What is outside of the bounding set does not become inheritable."""

    def act() -> KernelError | None:
        from nstool import syscalls

        syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_SYS_TIME)
        caps = syscalls.capget()
        without = caps.effective & ~(1 << uapi.CAP_SETPCAP)
        syscalls.capset(caps.effective & without, caps.permitted & without, 0)
        return features.try_steps(0, init("capset", without & 1, without & 1, 1 << uapi.CAP_SYS_TIME))

    number, *causes = told(in_child(act))
    assert number == "EPERM"
    assert cause("not_in_bounding", capabilities="CAP_SYS_TIME") in causes


@pytest.mark.vm_full
def test_securebits_locked(in_child: InChild) -> None:
    """Locked bits stay."""

    def act() -> KernelError | None:
        from nstool import syscalls

        syscalls.prctl(uapi.PR_SET_SECUREBITS, uapi.SECBIT_NO_SETUID_FIXUP | uapi.SECBIT_NO_SETUID_FIXUP_LOCKED)
        return features.try_steps(0, init("prctl", uapi.PR_SET_SECUREBITS, 0, 0, 0, 0))

    expect(in_child(act), "EPERM", "securebits_locked", have="0xc")


# ---- mounts ----


def tree(path: str, flags: int = uapi.OPEN_TREE_CLONE) -> Step:
    return init("open_tree", CWD, path, flags | uapi.OPEN_TREE_CLOEXEC, result="tree")


def new_fs(fstype: str, **options: str) -> tuple[Step, ...]:
    steps = [init("fsopen", fstype, 1, result="fs")]
    steps += [init("fsconfig", Fd("fs"), uapi.FSCONFIG_SET_STRING, k, v, 0) for k, v in options.items()]
    steps += [init("fsconfig", Fd("fs"), uapi.FSCONFIG_CMD_CREATE, None, None, 0)]
    return (*steps, init("fsmount", Fd("fs"), 1, 0, result="mount"))


@pytest.mark.vm_full
def test_sources(tmp_path: Path, in_child: InChild) -> None:
    """A source that is missing, in a circle, or unbindable."""
    path = str(tmp_path / "a/b")
    expect(features.try_steps(NS, tree(path)), "ENOENT", "source_missing", path=path, missing=str(tmp_path / "a"))
    (tmp_path / "loop").symlink_to("loop")
    expect(features.try_steps(NS, tree(str(tmp_path / "loop"))), "ELOOP", "source_loop")

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", 0, "")
        kernel.mount("none", str(tmp_path), "", uapi.MS_UNBINDABLE)
        return features.try_steps(0, tree(str(tmp_path)))

    expect(in_child(act), "EINVAL", "source_unbindable", point=str(tmp_path))


@pytest.mark.vm_full
def test_source_closed(as_user: InChild, user: Any) -> None:
    """A directory above the source is closed to who opens it."""
    closed = Path(user.home, "closed")
    (closed / "in").mkdir(parents=True)
    closed.chmod(0o700)
    try:
        error = as_user(features.try_steps, USER | NS, tree(str(closed / "in")), mapped=True)
        expect(error, "EACCES", "source_closed", directory=str(closed), path=str(closed / "in"), uid=user.uid)
    finally:
        shutil.rmtree(closed)


def test_source_locked() -> None:
    """In a user namespace / is bound with what is mounted below it, or not at all."""
    number, said = told(features.try_steps(USER | NS, tree("/"), mapped=True))
    assert number == "EINVAL"
    assert said.startswith("/ has mounts below it (")


def directory_root(tmp_path: Path) -> Path:
    """Return a root directory of /bin/busybox and few others, open to all."""
    root = tmp_path / "root"
    for name in ("bin", "etc", "proc", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    return root


def launched(spec: Spec) -> KernelError:
    """Launch a spec that the kernel refuses, and return the error."""
    from nstool.sandbox.launch import launch

    limits = spec.limits.replace(memory=0, pids=0, cpu=0)
    with pytest.raises(KernelError) as caught, launch(spec.replace(limits=limits, env={"PATH": "/bin"})):
        pass
    return caught.value


@pytest.mark.vm_full
def test_targets(tmp_path: Path) -> None:
    """A target that is missing, behind a symlink, or below a file: where the root is the plan's own."""
    root = directory_root(tmp_path)
    (root / "link").symlink_to("etc")
    (root / "etc/file").write_text("")
    opened = launcher("open_tree", CWD, str(root), uapi.OPEN_TREE_CLONE | uapi.AT_RECURSIVE, result="root")
    private = launcher("mount_setattr", Fd("root"), "", TREE, 0, 0, uapi.MS_PRIVATE, -1)
    flags = uapi.O_PATH | uapi.O_CLOEXEC
    resolve = uapi.RESOLVE_NO_SYMLINKS | uapi.RESOLVE_IN_ROOT

    def target(path: str) -> KernelError | None:
        return plan_of(
            NS,
            init("mount", None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None),
            init("move_mount", Fd("root"), "", CWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH),
            init("fchdir", Fd("root")),
            init("pivot_root", ".", "."),
            init("mkdirat", CWD, "/link", 0o755).replace(ignore=errno.EEXIST),  # it is there, and no directory
            init("openat2", CWD, path, flags, 0, resolve, result="at"),
            before=(opened, private),
        )

    expect(target("/no/x"), "ENOENT", "target_missing", path="/no/x", missing="/no", host=str(root / "no"))
    words = {"path": "/link", "link": "/link", "to": "etc", "real": "/etc"}
    expect(target("/link"), "ELOOP", "target_symlink", **words)
    expect(target("/etc/file/x"), "ENOTDIR", "target_not_directory", path="/etc/file/x", file="/etc/file")
    os.mkfifo(root / "etc/pipe")
    expect(target("/etc/pipe/x"), "ENOTDIR", "target_not_directory", path="/etc/pipe/x", file="/etc/pipe")


@pytest.mark.parametrize("inner", ["root/etc", "root"])
def test_overlay_layers_overlap(tmp_path: Path, inner: str) -> None:
    """A layer within another one, or the same again."""
    root = directory_root(tmp_path)
    layers = (str(tmp_path / inner), str(root))
    spec = Spec(command=("/bin/busybox", "true"), root=Root("overlay", lower=layers))
    expect(launched(spec), "ELOOP", "overlay_layers_overlap", inner=layers[0], outer=layers[1])


@pytest.mark.vm_full
@pytest.mark.parametrize("source", ["", "/file"])
def test_target_below_a_file_of_a_mount(tmp_path: Path, source: str) -> None:
    """Where places to mount on are made, none is made below a file; check says the same before, once."""
    root = directory_root(tmp_path)
    (root / "etc/file").write_text("")
    own = (Mount("/tmp/d", str(root / "etc")), Mount("/tmp/d/file/x", f"{root}/etc{source}"))
    spec = Spec(command=("/bin/busybox", "true"), root=Root("directory", str(root)), mounts=own)
    expect(launched(spec), "ENOTDIR", "target_not_directory", file="/tmp/d/file")
    limits = spec.limits.replace(memory=0, pids=0, cpu=0)
    assert [p.cause for p in features.problems(spec.replace(limits=limits))] == [
        cause("target_not_directory", file="/tmp/d/file")
    ]


@pytest.mark.vm_full
def test_place_to_mount_on_below_a_pipe(tmp_path: Path) -> None:
    """It is made where nothing is: what stands in its way is named."""
    root = directory_root(tmp_path)
    os.mkfifo(root / "pipe")
    scratch = Mount("/pipe/x", type="tmpfs", writable=True)
    spec = Spec(command=("/bin/busybox", "true"), root=Root("directory", str(root), writable=True), mounts=(scratch,))
    expect(launched(spec), "ENOTDIR", "target_not_directory", file="/pipe")


@pytest.mark.vm_full
def test_root_that_may_not_be_entered(tmp_path: Path) -> None:
    """By init, whose ids do not own it; by the command, where init may all."""
    root = directory_root(tmp_path)
    root.chmod(0o700)
    spec = Spec(command=("/bin/busybox", "true"), root=Root("directory", str(root)))
    error = launched(spec)
    assert error is not None
    uid = error.cause.partition("host uid ")[2].partition(",")[0]
    expect(error, "EACCES", "root_closed", directory=str(root), uid=uid)
    shared = spec.replace(namespaces=spec.namespaces.replace(user="host"), user="1000:1000", cwd="/etc")
    assert told(launched(shared)) == ("EACCES", "/ cannot be searched by host uid 1000, which the command runs as")


@pytest.mark.vm_full
def test_kinds_differ(tmp_path: Path) -> None:
    """A directory is not mounted on a file."""
    (tmp_path / "file").write_text("")
    error = features.try_steps(
        NS,
        init("mount", None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None),
        tree("/etc"),
        init("openat2", CWD, str(tmp_path / "file"), uapi.O_PATH, 0, 0, result="at"),
        init("move_mount", Fd("tree"), "", Fd("at"), "", uapi.MOVE_MOUNT_F_EMPTY_PATH | uapi.MOVE_MOUNT_T_EMPTY_PATH),
    )
    words = {"source": "a directory", "target": str(tmp_path / "file"), "is": "a file"}
    assert error is not None
    assert error.errno_name in ("EINVAL", "ENOTDIR")
    assert cause("kinds_differ", **words) in error.causes


def test_target_shared(in_child: InChild, tmp_path: Path) -> None:
    """A mount namespace is not pinned on a shared mount."""

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", 0, "")
        kernel.mount("none", str(tmp_path), "", uapi.MS_SHARED)
        (tmp_path / "pin").write_text("")
        return features.try_steps(
            0, init("mount", "/proc/self/ns/mnt", str(tmp_path / "pin"), None, uapi.MS_BIND, None)
        )

    expect(in_child(act), "EINVAL", "target_shared", target=str(tmp_path / "pin"), point=str(tmp_path))


@pytest.mark.vm_full
def test_not_a_mount_point(tmp_path: Path) -> None:
    """Propagation is a thing of mount points."""
    error = features.try_steps(NS, init("mount", None, str(tmp_path), None, uapi.MS_PRIVATE, None))
    expect(error, "EINVAL", "not_a_mount_point")


@pytest.mark.vm_full
def test_filesystem_absent() -> None:
    """No kernel has it."""
    error = features.try_steps(NS, init("fsopen", "nosuchfs", 1, result="fs"))
    expect(error, "ENODEV", "filesystem_absent", fstype="nosuchfs")


def test_too_revealing(in_child: InChild) -> None:
    """Where parts of /proc or /sys are covered, a user namespace gets no fresh one."""

    def act(fstype: str, path: str, flags: int) -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", path, "tmpfs", uapi.MS_RDONLY, "")
        return features.try_steps(USER | NS | PID | NET, *new_fs(fstype), mapped=True)

    number, *causes = told(in_child(act, "proc", "/proc/sys", 0))
    assert number == "EPERM"
    assert causes == [cause("proc_too_revealing", what="/proc/sys is covered or read-only")]
    number, *causes = told(in_child(act, "sysfs", "/sys/kernel", 0))
    assert number == "EPERM"
    start, _, end = cause("sysfs_too_revealing").partition("<what>")
    assert (causes[0].startswith(start), causes[0].endswith(end), len(causes)) == (True, True, 1)
    assert "/sys/kernel" in causes[0]


def test_filesystems_of_foreign_namespaces() -> None:
    """proc, sysfs and mqueue show a namespace, which must be the user namespace's own."""
    error = features.try_steps(USER | NS, *new_fs("proc"), mapped=True)
    expect(error, "EPERM", "proc_of_foreign_pidns")
    error = features.try_steps(USER | NS, *new_fs("sysfs"), mapped=True)
    expect(error, "EPERM", "sysfs_of_foreign_netns")
    error = features.try_steps(USER | NS, *new_fs("mqueue"), mapped=True)
    expect(error, "EPERM", "mqueue_of_foreign_ipcns")


def test_filesystem_options() -> None:
    """An id that is not mapped, as devpts' gid=5; a value that is none; a filesystem of the host alone."""
    error = features.try_steps(USER | NS, *new_fs("devpts", gid="5"), mapped=True)
    expect(error, "EINVAL", "option_id_unmapped", option="gid=5", map="gid_map")
    error = features.try_steps(USER | NS, *new_fs("tmpfs", size="much"), mapped=True)
    expect(error, "EINVAL", "option_value", fstype="tmpfs", option="size=much")
    error = features.try_steps(USER | NS, *new_fs("devtmpfs"), mapped=True)
    expect(error, "EPERM", "filesystem_not_in_userns", fstype="devtmpfs")


@pytest.mark.vm_full
def test_ids_that_a_joined_user_namespace_lacks(in_child: InChild) -> None:
    """Its map is the one that counts, not the caller's own: for devpts' gid=5, and for the command's user."""

    def act() -> tuple[KernelError | None, ...]:
        up, down = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(down[1])
            own_userns()
            os.write(up[1], b".")
            os.read(down[0], 1)
            os._exit(0)
        os.read(up[0], 1)
        opened = launcher("openat2", CWD, f"/proc/{pid}/ns/user", uapi.O_CLOEXEC, 0, 0, result="ns")
        entered = (init("setns", Fd("ns"), USER), init("setresuid", 0, 0, 0), init("unshare", NS))
        wanted = (new_fs("devpts", gid="5"), new_fs("tmpfs", size="much"), (init("setresgid", 7, 7, 7),))
        errors = tuple(plan_of(0, *entered, *steps, before=(opened,)) for steps in wanted)
        os.close(down[1])
        os.waitpid(pid, 0)
        return errors

    devpts, tmpfs, ids = in_child(act)
    expect(devpts, "EINVAL", "joined_option_id_unmapped", option="gid=5", map="gid_map")
    expect(tmpfs, "EINVAL", "option_value", fstype="tmpfs", option="size=much")
    expect(ids, "EINVAL", "id_not_mapped", id=7, map="gid_map")


def test_no_mount_privilege(as_user: InChild) -> None:
    """An ordinary user mounts nothing without a user namespace."""
    expect(as_user(features.try_steps, 0, init("fsopen", "tmpfs", 1, result="fs")), "EPERM", "no_mount_privilege")


def idmapped(path: str, who: str = LAUNCHER) -> KernelError | None:
    from nstool.namespaces.user import Maps
    from nstool.sandbox import engine
    from nstool.spec.model import IdMap

    lines = (IdMap(0, 100000, 65536),)
    fd = engine.userns(Maps(lines, lines, "launcher"))
    try:
        steps = (
            Step(who, "open_tree", (CWD, path, uapi.OPEN_TREE_CLONE), "", result="tree"),
            Step(
                who,
                "mount_setattr",
                (Fd("tree"), "", uapi.AT_EMPTY_PATH, uapi.MOUNT_ATTR_IDMAP, 0, 0, Fd("userns")),
                "",
            ),
        )
        outside = steps if who == LAUNCHER else ()
        child = features._child(USER | NS if who == INIT else 0, mapped=who == INIT)
        inside = steps if who == INIT else ()
        return features.run_trial(Plan((*outside, *child, *inside, END), ("userns",), False), {"userns": fd})
    finally:
        os.close(fd)


def test_idmaps(in_child: InChild, tmp_path: Path) -> None:
    """A filesystem without, a mapper without privilege over it, a mount that is mapped already."""
    expect(idmapped("/proc"), "EINVAL", "idmap_not_supported", fstype="proc", point="/proc")
    expect(idmapped("/etc", INIT), "EPERM", "idmap_needs_privilege")


def test_locked_flags(in_child: InChild, tmp_path: Path) -> None:
    """A user namespace does not make a read-only mount writable."""

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", uapi.MS_RDONLY, "")
        remount = uapi.MS_REMOUNT | uapi.MS_BIND
        return features.try_steps(USER | NS, init("mount", None, str(tmp_path), None, remount, None), mapped=True)

    expect(in_child(act), "EPERM", "locked_flags", flags="ro", point=str(tmp_path))


def test_overlay_upper_unfit(tmp_path: Path, in_child: InChild) -> None:
    """An overlay is no upper layer of another."""

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", 0, "mode=755")
        for name in "luwm":
            (tmp_path / name).mkdir()
        data = f"lowerdir={tmp_path}/l,upperdir={tmp_path}/u,workdir={tmp_path}/w"
        kernel.mount("none", str(tmp_path / "m"), "overlay", 0, data)
        for name in "uw":
            (tmp_path / "m" / name).mkdir()
        upper = init("open_tree", CWD, str(tmp_path / "m"), 0, result="upper")
        layers = {"lowerdir": f"{tmp_path}/l", "upperdir": f"{tmp_path}/m/u", "workdir": f"{tmp_path}/m/w"}
        return features.try_steps(0, upper, *new_fs("overlay", **layers))

    expect(in_child(act), "EINVAL", "overlay_upper_unfit", path=str(tmp_path / "m"), fstype="overlay")


@pytest.mark.vm_full
def test_upper_not_writable(tmp_path: Path) -> None:
    """The upper layer belongs to somebody else than the sandbox's root."""
    upper = launcher("open_tree", CWD, str(tmp_path), uapi.OPEN_TREE_CLONE, result="upper")
    become = (init("setresgid", 0, 0, 0), init("setresuid", 0, 0, 0))
    lines = maps("0 1879048192 10\n", "0 1879048192 10\n", setgroups=False)
    error = plan_of(USER | NS, *become, init("mkdirat", Fd("upper"), "upper", 0o755), before=(upper,), maps=lines)
    expect(error, "EACCES", "upper_not_writable", path=str(tmp_path), uid=1879048192)


@pytest.mark.vm_full
def test_making_in_the_root(tmp_path: Path) -> None:
    """A read-only root, and one that belongs to somebody else."""
    mkdir = init("mkdirat", CWD, "/nstool-test-dir", 0o755)
    opened = launcher("open_tree", CWD, "/", uapi.OPEN_TREE_CLONE | uapi.AT_RECURSIVE, result="root")
    private = launcher("mount_setattr", Fd("root"), "", TREE, 0, 0, uapi.MS_PRIVATE, -1)
    ro = launcher("mount_setattr", Fd("root"), "", TREE, uapi.MOUNT_ATTR_RDONLY, 0, uapi.MS_PRIVATE, -1)
    pivot = (
        init("mount", None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None),
        init("move_mount", Fd("root"), "", CWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH),
        init("fchdir", Fd("root")),
        init("pivot_root", ".", "."),
    )
    expect(plan_of(NS, *pivot, mkdir, before=(opened, ro)), "EROFS", "root_read_only", path="/")
    become = init("setresuid", 0, 0, 0)
    lines = maps("0 1879048192 10\n", "0 1879048192 10\n", setgroups=False)
    error = plan_of(USER | NS, init("setresgid", 0, 0, 0), become, *pivot, mkdir, before=(opened, private), maps=lines)
    expect(error, "EACCES", "root_not_writable", path="/", host="/", uid=1879048192)


@pytest.mark.vm_full
def test_no_mknod(tmp_path: Path) -> None:
    """A user namespace makes no device nodes."""
    node = init("mknodat", CWD, str(tmp_path / "null"), uapi.S_IFCHR | 0o666, 259)
    expect(features.try_steps(USER | NS, node, mapped=True), "EPERM", "no_mknod")


@pytest.mark.vm_full
def test_device_cgroup(in_child: InChild, tmp_path: Path, name: str) -> None:
    """The devices cgroup of version 1 says no."""
    mount = next(
        (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if "devices" in line), ""
    )
    if not mount:
        pytest.skip("no devices controller of cgroup version 1")
    directory = Path(mount, f"nstool-{name}")

    def act() -> KernelError | None:
        (directory / "devices.deny").write_text("a")
        (directory / "devices.allow").write_text("c 1:3 rw")
        (directory / "cgroup.procs").write_text("0")
        node = launcher("mknodat", CWD, str(tmp_path / "null"), uapi.S_IFCHR | 0o666, 259)
        return features.run_trial(Plan((node, *features._child(0, False), END), (), False))

    directory.mkdir()
    try:
        expect(in_child(act), "EPERM", "device_cgroup", device="1:3")
    finally:
        directory.rmdir()


# ---- cgroups, sysctls, limits ----


def outside(*steps: Step) -> KernelError | None:
    """Take steps of the launcher."""
    return features.run_trial(Plan((*steps, *features._child(0, False), END), (), False))


def put(path: Path | str, data: str, flags: int = 0) -> Step:
    return launcher("write_file", CWD, str(path), data.encode(), flags, 0o644)


@pytest.fixture
def cgroup2(name: str) -> Any:
    """A cgroup2 directory of its own."""
    mount = next(
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
    )
    path = Path(mount, f"nstool-{name}")
    path.mkdir()
    yield path
    for below in sorted(path.glob("*/"), reverse=True):
        below.rmdir()
    path.rmdir()


@pytest.mark.needs("cgroup2")
def test_controllers(cgroup2: Path, in_child: InChild) -> None:
    """A controller that nobody has, that is not handed down, that version 1 has, that meets processes."""
    control = cgroup2 / "cgroup.subtree_control"
    error = outside(put(control, "+nosuch"))
    assert cause("controller_absent", controllers="nosuch") in told(error)
    have = (cgroup2.parent / "cgroup.controllers").read_text().split()
    held = [line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:] if line.split()[1] != "0"]
    if "memory" in held and "memory" not in have:
        error = outside(put(control, "+memory"))
        expect(error, told(error)[0], "controller_in_version1", controllers="memory")
    inner = cgroup2 / "inner"
    inner.mkdir()
    spare = next((c for c in have if c not in (cgroup2.parent / "cgroup.subtree_control").read_text().split()), "")
    if spare:
        error = outside(put(control, f"+{spare}"))
        expect(error, "ENOENT", "controller_not_delegated", controllers=spare, cgroup=cgroup2)


@pytest.mark.needs("cgroup2")
def test_cgroup_depth(cgroup2: Path) -> None:
    """A cgroup that allows no descendants."""
    (cgroup2 / "cgroup.max.descendants").write_text("0")
    error = outside(launcher("mkdirat", CWD, str(cgroup2 / "x"), 0o755))
    words = {"cgroup": cgroup2, "file": "cgroup.max.descendants", "allowed": 0}
    expect(error, "EAGAIN", "cgroup_depth", **words)


@pytest.mark.needs("cgroup_pids")
def test_cgroup_files(name: str) -> None:
    """A value that is none, a file that is not there."""
    directory = Path(controller_root("pids"), f"nstool-{name}")
    directory.mkdir()
    try:
        error = outside(put(directory / "pids.max", "many"))
        expect(error, "EINVAL", "cgroup_value", file="pids.max", value="many")
        error = outside(put(directory / "pids.nosuch", "1"))
        expect(error, "ENOENT", "cgroup_file_missing", file="pids.nosuch", cgroup=directory.parent)
    finally:
        directory.rmdir()


@pytest.mark.vm_full
def test_cpuset_empty(in_child: InChild, name: str) -> None:
    """A cpuset of version 1 without cpus takes no process."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mount = next((line.split()[4] for line in lines if " - cgroup " in line and "cpuset" in line.split()[-1]), "")
    if not mount:
        pytest.skip("no cpuset controller of cgroup version 1")
    directory = Path(mount, f"nstool-{name}")

    directory.mkdir()
    try:
        error = outside(put(directory / "cgroup.procs", "0"))
        expect(error, "ENOSPC", "cpuset_empty", cgroup=directory, file="cpuset.cpus")
    finally:
        directory.rmdir()


@pytest.mark.needs("cgroup2")
def test_cgroup_not_delegated(as_user: InChild, user: Any, cgroup2: Path) -> None:
    """A cgroup of one's own is not entered without the common ancestor's cgroup.procs."""
    os.chown(cgroup2, user.uid, user.gid)
    os.chown(cgroup2 / "cgroup.procs", user.uid, user.gid)
    opened = launcher("openat2", CWD, str(cgroup2), uapi.O_PATH | uapi.O_DIRECTORY, 0, 0, result="cgroup")
    clone = launcher("clone3", 0, Fd("cgroup"), 0, 0)
    plan = Plan((opened, clone, *features._child(0, False)[1:], END), (), False)
    expect(as_user(features.run_trial, plan), "EACCES", "cgroup_not_delegated", cgroup=cgroup2.parent)


@pytest.mark.vm_full
def test_paths_outside(as_user: InChild, in_child: InChild, tmp_path: Path, user: Any) -> None:
    """A directory that is missing, not ours, read-only, or full; a name that is taken; a file that is not ours."""
    path = str(tmp_path / "no/x")
    expect(outside(launcher("mkdirat", CWD, path, 0o755)), "ENOENT", "parent_missing", directory=tmp_path / "no")
    error = as_user(outside, launcher("mkdirat", CWD, "/etc/nstool-x", 0o755))
    expect(error, "EACCES", "not_writable", directory="/etc")
    expect(outside(launcher("mkdirat", CWD, "/etc", 0o755)), "EEXIST", "already_there", path="/etc")
    expect(as_user(outside, put("/etc/passwd", "")), "EACCES", "not_ours_to_open", path="/etc/passwd")

    def act(flags: int, data: str, step: Step) -> KernelError | None:
        own_mounts()
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", flags, data)
        return outside(step)

    make = launcher("mkdirat", CWD, str(tmp_path / "x"), 0o755)
    expect(in_child(act, uapi.MS_RDONLY, "", make), "EROFS", "read_only_host", directory=tmp_path)
    expect(in_child(act, 0, "nr_inodes=1", make), "ENOSPC", "no_space", directory=tmp_path)


def test_sysctls(in_child: InChild) -> None:
    """One that is not there, one with a wrong value, one of the host, and a read-only /proc/sys."""
    base = "/proc/sys/net/core"
    inside = init("write_file", CWD, f"{base}/nosuch", b"1", 0, 0)
    expect(features.try_steps(NET, inside), "ENOENT", "sysctl_absent", name="net.core.nosuch")
    inside = init("write_file", CWD, f"{base}/somaxconn", b"some", 0, 0)
    expect(features.try_steps(NET, inside), "EINVAL", "sysctl_value", name="net.core.somaxconn", value="some")
    same = Path("/proc/sys/kernel/panic").read_bytes()
    inside = init("write_file", CWD, "/proc/sys/kernel/panic", same, 0, 0)
    lines = maps("0 1879048192 1\n", "0 1879048192 1\n", setgroups=False)
    error = plan_of(USER | NET, init("setresuid", 0, 0, 0), inside, maps=lines)
    expect(error, "EACCES", "sysctl_not_namespaced", name="kernel.panic")
    lines = maps("1000 1879048192 1\n", "1000 1879048192 1\n", setgroups=False)
    inside = init("write_file", CWD, "/proc/sys/kernel/shmmax", b"1", 0, 0)
    error = plan_of(USER | uapi.CLONE_NEWIPC, init("setresuid", 1000, 1000, 1000), inside, maps=lines)
    expect(error, "EACCES", "sysctl_of_nobody", name="kernel.shmmax")

    def act() -> KernelError | None:
        own_mounts()
        kernel.mount("/proc/sys", "/proc/sys", "", kernel.MS_BIND)
        kernel.mount("none", "/proc/sys", "", uapi.MS_REMOUNT | kernel.MS_BIND | uapi.MS_RDONLY)
        return features.try_steps(NET, init("write_file", CWD, f"{base}/somaxconn", b"10", 0, 0))

    expect(in_child(act), "EROFS", "proc_sys_read_only")


@pytest.mark.vm_full
def test_oom_score_lower(as_user: InChild) -> None:
    """An ordinary user does not go below what a privileged process has set."""

    def act() -> tuple[KernelError | None, str]:
        return outside(put("/proc/self/oom_score_adj", "-1000\n")), Path("/proc/self/oom_score_adj").read_text()

    error, own = as_user(act)
    expect(error, "EACCES", "oom_score_lower", own=int(own), wanted=-1000)


def test_limits(as_user: InChild) -> None:
    """A hard limit above one's own; above fs.nr_open; a soft one above the hard."""

    def act() -> KernelError | None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        return features.try_steps(0, init("setrlimit", uapi.RLIMIT_NOFILE, 50, 200))

    expect(as_user(act), "EPERM", "hard_limit", limit="RLIMIT_NOFILE", own=100)
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    error = features.try_steps(0, init("setrlimit", uapi.RLIMIT_NOFILE, 1, most + 1))
    assert error is not None
    assert "fs.nr_open" in error.cause + error.remedy  # whether this root may raise a hard limit is of the host

    def above_both() -> KernelError | None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        return features.try_steps(0, init("setrlimit", uapi.RLIMIT_NOFILE, 50, most + 1))

    error = as_user(above_both)
    expect(error, "EPERM", "hard_limit", limit="RLIMIT_NOFILE", own=100)
    assert error is not None
    assert error.remedy.count("ask for no more") == 1
    assert error.remedy.endswith("of a unit, and before that fs.nr_open: as root, sysctl -w fs.nr_open=NUMBER")
    expect(features.try_steps(0, init("setrlimit", uapi.RLIMIT_CPU, 20, 10)), "EINVAL", "soft_above_hard")


def test_filter_without_privilege() -> None:
    """Without CAP_SYS_ADMIN and without no_new_privs no filter is loaded."""
    allow = (0x06).to_bytes(2, "little") + bytes(2) + (0x7FFF0000).to_bytes(4, "little")
    error = features.try_steps(0, init("capset", 0, 0, 0), init("seccomp", 0, allow))
    expect(error, "EACCES", "filter_without_privilege")


@pytest.mark.needs("cgroup_memory")
def test_listener_outside(in_child: InChild) -> None:
    """The caller's own filter has a listener, as in a container whose manager answers some calls."""

    def act() -> KernelError | None:
        from nstool import syscalls
        from nstool.sandbox.launch import launch

        allow = (0x06).to_bytes(2, "little") + bytes(2) + (0x7FFF0000).to_bytes(4, "little")
        syscalls.seccomp_set_mode_filter(allow, uapi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        with pytest.raises(KernelError) as caught, launch(Spec(command=("true",))):
            pass
        return caught.value

    error = in_child(act)
    assert error is not None
    expect(error, "EBUSY", "listener_outside")
    assert "--proc-show meminfo" in error.remedy


# ---- the command ----


def script(root: Path, name: str, text: str, mode: int = 0o755) -> None:
    (root / "bin" / name).write_text(text)
    (root / "bin" / name).chmod(mode)


def refused(root: Path, *command: str, **changes: Any) -> KernelError:
    return launched(Spec(command=command, root=Root(type="directory", path=str(root)), **changes))


@pytest.mark.vm_full
def test_command_not_there(tmp_path: Path) -> None:
    """Nowhere; on the host alone; a symlink to nowhere; below a file."""
    root = directory_root(tmp_path)
    expect(refused(root, "nosuch"), "ENOENT", "command_nowhere", command="nosuch", searched="/bin/nosuch")
    words = {"command": "/bin/sh", "path": "/bin/sh", "real": os.path.realpath("/bin/sh")}
    expect(refused(root, "/bin/sh"), "ENOENT", "command_on_host_only", **words)
    (root / "bin/l").symlink_to("/opt/no")
    words = {"link": "/bin/l", "target": "/opt/no", "missing": "/opt"}
    assert cause("dangling_link", **words) in told(refused(root, "l"))
    error = refused(root, "/bin/busybox/x")
    expect(error, "ENOENT", "directory_on_path", path="/bin/busybox/x", file="/bin/busybox")


@pytest.mark.vm_full
def test_relative_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for in the working directory inside, which is named; how to bring in a file of the caller's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hi").write_text("#!/bin/sh\n")
    for command, cwd, path in (("./hi", "/", "/hi"), ("a/b", "/etc", "/etc/a/b")):
        error = launched(Spec(command=(command,), cwd=cwd))
        expect(error, "ENOENT", "command_relative", command=command, cwd=cwd, path=path)
        assert (f"--mount {tmp_path} --cwd {tmp_path}" in error.remedy) is (command == "./hi")


@pytest.mark.vm_full
def test_relative_command_from_where_the_caller_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who enters no mount namespace stays in the caller's working directory."""
    from nstool.sandbox.join import enter

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KernelError) as caught:
        enter("/proc/self/ns/uts", ("./hi",))
    words = {"command": "./hi", "cwd": str(tmp_path), "path": str(tmp_path / "hi")}
    expect(caught.value, "ENOENT", "command_relative", **words)


@pytest.mark.vm_full
def test_covered(tmp_path: Path) -> None:
    """A command, and a working directory, below a directory of the host that the sandbox covers."""
    (tmp_path / "hi").write_text("#!/bin/sh\n")
    host = Spec(command=("true",), root=Root(type="host"))
    for spec in (host.replace(command=(f"{tmp_path}/hi",)), host.replace(cwd=str(tmp_path))):
        path = spec.command[0] if spec.cwd == "/" else spec.cwd
        expect(launched(spec), "ENOENT", "covered", path=path, directory="/tmp")
    expect(launched(Spec(command=("true",), cwd=str(tmp_path))), "ENOENT", "directory_on_host_only", path=str(tmp_path))
    nowhere = launched(Spec(command=(f"{tmp_path}/no",)))
    expect(nowhere, "ENOENT", "command_nowhere", command=f"{tmp_path}/no", searched=f"{tmp_path}/no")


def test_interpreters(tmp_path: Path) -> None:
    """A script's interpreter, a carriage return behind it, an ELF loader: not in the root."""
    root = directory_root(tmp_path)
    script(root, "a", "#! /bin/nosuch -x\n")
    expect(refused(root, "a"), "ENOENT", "interpreter_missing", file="/bin/a", interpreter="/bin/nosuch")
    script(root, "b", "#!/bin/busybox\r\n")
    expect(refused(root, "b"), "ENOENT", "dos_line_ends", file="/bin/b", interpreter="/bin/busybox")
    shutil.copy("/bin/true", root / "bin/c")
    error = refused(root, "c")
    assert error.errno_name == "ENOENT"
    assert error.checked
    assert error.cause.startswith(cause("loader_missing", file="/bin/c").partition("<loader>")[0] + "/lib")


@pytest.mark.vm_full
def test_not_executable(tmp_path: Path) -> None:
    """No x bit; a directory; a closed directory above; a mount without exec; a script that cannot be read."""
    root = directory_root(tmp_path)
    script(root, "a", "#!/bin/busybox sh\n", 0o644)
    expect(refused(root, "a"), "EACCES", "not_executable", file="/bin/a", mode="0644", uid="any user")
    expect(refused(root, "/etc"), "EACCES", "not_a_file", path="/etc", kind="a directory")
    (root / "closed").mkdir(mode=0o700)
    shutil.copy("/bin/busybox", root / "closed/busybox")
    error = refused(root, "/closed/busybox")
    assert error.checked
    said = cause("parent_closed", directory="/closed", host=f"{root}/closed")
    assert error.cause.startswith(said.partition("<uid>")[0])
    (tmp_path / "more").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "more/x")
    mount = Mount("/tmp", str(tmp_path / "more"), exec=False)
    expect(
        refused(root, "/tmp/x", mounts=(mount,)), "EACCES", "noexec_mount", file="/tmp/x", how="the plan mounts it so"
    )


def test_made_to_be_read() -> None:
    """A file of the root that nstool makes itself is no program: said of the refusal, and before it."""
    for path in ("/etc/passwd", "/etc/group"):
        spec = Spec(command=(path,))
        expect(launched(spec), "EACCES", "made_to_be_read", file=path, mode="0444")
        assert [p.cause for p in features.problems(spec)] == [cause("made_to_be_read", file=path, mode="0444")]


@pytest.mark.vm_full
def test_formats_and_sizes(tmp_path: Path) -> None:
    """Neither program nor script; another machine's; arguments that are too long."""
    root = directory_root(tmp_path)
    script(root, "a", "echo hi\n")
    words = {"file": "/bin/a", "what": "neither a program nor a script with #!"}
    expect(refused(root, "a"), "ENOEXEC", "no_format", **words)
    program = bytearray((root / "bin/busybox").read_bytes())
    program[18] = 183  # EM_AARCH64
    (root / "bin/arm").write_bytes(program)
    (root / "bin/arm").chmod(0o755)
    expect(refused(root, "arm"), "ENOEXEC", "other_machine", file="/bin/arm", machine=183)
    error = refused(root, "busybox", "x" * 131072)
    expect(error, "E2BIG", "argument_too_long", what="argv[1]", size=131073, most=131072)


@pytest.mark.vm_full
def test_being_written(tmp_path: Path) -> None:
    """The file is open for writing."""
    root = directory_root(tmp_path)
    with open(root / "bin/busybox", "r+b"):
        expect(refused(root, "busybox"), "ETXTBSY", "being_written", file="/bin/busybox", pid=os.getpid())


@pytest.mark.vm_full
def test_interpreter_loop(tmp_path: Path) -> None:
    """A script that is its own interpreter."""
    root = directory_root(tmp_path)
    script(root, "a", "#!/bin/a\n")
    expect(refused(root, "a"), "ELOOP", "interpreter_loop", file="/bin/a")


@pytest.mark.vm_full
def test_working_directory(tmp_path: Path) -> None:
    """Missing, a file, closed."""
    root = directory_root(tmp_path)
    expect(refused(root, "busybox", cwd="/no/x"), "ENOENT", "directory_missing", missing="/no")
    for cwd in ("/bin/busybox", "/bin/busybox/x/y"):
        expect(refused(root, "busybox", cwd=cwd), "ENOTDIR", "directory_is_file", file="/bin/busybox")
    (root / "closed").mkdir(mode=0o700)
    error = refused(root, "busybox", cwd="/closed")
    assert error.checked
    assert error.cause.startswith(cause("directory_closed", directory="/closed").partition("<uid>")[0])


# ---- listeners of services ----


def listened(word: str, place: str = "") -> KernelError | None:
    """Try to listen there."""
    try:
        one = listen.open_listener(word, 16, place, handed=False)
    except KernelError as error:
        return error
    listen.close_all([one])
    return None


HOLD = """
import socket, sys
family, type_, address = eval(sys.argv[1])
with socket.socket(family, type_) as one:
    one.bind(address)
    if type_ != socket.SOCK_DGRAM:
        one.listen()
    print(one.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(family: int, type_: int, address: object) -> Iterator[tuple[str, str]]:
    """A process that has a socket there: what is said of it, and the port."""
    command = [sys.executable, "-c", HOLD, repr((int(family), int(type_), address))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield f"process {process.pid} ({psutil.Process(process.pid).name()})", port


@pytest.mark.vm_full
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_taken(kind: str, address: str) -> None:
    """By this process, or by another, at the same address or at all of them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    loopback = ("::1" if ":" in address else "127.0.0.1", 0)
    shown = f"[{address}]" if ":" in address else address
    with socket.socket(family, type_) as one:
        one.bind(loopback)
        if kind == "tcp":
            one.listen()
        where = f"{shown}:{one.getsockname()[1]}"
        expect(listened(f"{kind}:{where}"), "EADDRINUSE", "listens_itself", where=where)
    with holder(family, type_, loopback) as (who, port):
        where = f"{shown}:{port}"
        expect(listened(f"{kind}:{where}"), "EADDRINUSE", "taken", who=who, where=where)
    assert listened(f"{kind}:{where}") is None


@pytest.mark.vm_full
def test_a_port_of_a_process_that_is_not_to_be_seen(as_user: InChild) -> None:
    """Root's, for an ordinary user."""
    with holder(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)) as (_, port):
        where = f"127.0.0.1:{port}"
        expect(as_user(listened, f"tcp:{where}"), "EADDRINUSE", "taken_by_hidden", where=where)


@pytest.mark.vm_full
def test_a_port_that_only_root_may_have(as_user: InChild) -> None:
    """Below those that all may have; the sysctl says where they begin."""
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first > 1:
        error = as_user(listened, f"tcp:127.0.0.1:{first - 1}")
        expect(error, "EACCES", "port_for_the_privileged", port=first - 1, first=first)


@pytest.mark.vm_full
@pytest.mark.parametrize(("address", "all_"), [("192.0.2.1", "0.0.0.0"), ("[2001:db8::1]", "[::]")])
def test_an_address_of_others(address: str, all_: str) -> None:
    """Of documentation, RFC 5737 and 3849: of no interface here."""
    error = listened(f"tcp:{address}:7000")
    expect(error, "EADDRNOTAVAIL", "address_of_others", address=address.strip("[]"))
    assert error is not None
    assert f"at {all_} for all" in error.remedy


@pytest.mark.vm_full
@pytest.mark.parametrize("kind", ["unix", "seqpacket"])
def test_a_path_that_is_taken(kind: str, name: str, tmp_path: Path, as_user: InChild) -> None:
    """By somebody who listens there, by something else than a socket; in no directory, or in one that is closed."""
    path = str(tmp_path / "socket")
    type_, other = socket.SOCK_STREAM, socket.SOCK_SEQPACKET
    if kind == "seqpacket":
        type_, other = other, type_
    for where, address in ((path, path), (f"@{name}", f"\0{name}")):
        with contextlib.ExitStack() as both:
            if where != path:  # who has the same name of another type is older, and in nobody's way
                both.enter_context(holder(socket.AF_UNIX, other, address))
            who, _ = both.enter_context(holder(socket.AF_UNIX, type_, address))
            expect(listened(f"{kind}:{where}"), "EADDRINUSE", "taken", who=who, where=where)
    assert listened(f"{kind}:{path}") is None  # what nobody listens at is removed
    for make, what in ((Path.touch, "a regular file"), (Path.mkdir, "a directory"), (os.mkfifo, "a pipe")):
        other = tmp_path / what.replace(" ", "-")
        make(other)  # type: ignore[operator]
        expect(listened(f"{kind}:{other}"), "EADDRINUSE", "path_is_no_socket", path=other, kind=what)
    missing = tmp_path / "no"
    error = listened(f"{kind}:{missing}/such/socket")
    expect(error, "ENOENT", "path_without_directory", missing=missing, what="is not there")
    assert error is not None
    assert error.remedy == f"make it: mkdir -p {missing}/such"
    file = tmp_path / "a-regular-file"
    expect(listened(f"{kind}:{file}/s"), "ENOTDIR", "path_without_directory", missing=file, what="is no directory")
    words: dict[str, object] = {"directory": "/etc", "mode": f"{os.stat('/etc').st_mode & 0o7777:04o}"}
    error = as_user(listened, f"{kind}:/etc/nstool-socket")
    assert error is not None
    expect(error, "EACCES", "path_in_closed_directory", uid=re.findall(r"uid (\d+)", error.cause)[0], **words)


@pytest.mark.vm_full
def test_a_port_that_was_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd passes it, while the spec names the address itself."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with socket.create_server(("127.0.0.1", 0)) as one:
        error = listened(f"tcp:127.0.0.1:{one.getsockname()[1]}")
    expect(error, "EADDRINUSE", "passed")
    assert error is not None
    assert 'listen = ["systemd"]' in error.remedy


@pytest.mark.vm_full
@pytest.mark.needs("root")
def test_a_path_on_a_filesystem_without_room(tmp_path: Path, in_child: InChild) -> None:
    """Mounted read-only, or full of files."""

    def look() -> tuple[KernelError | None, ...]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", str(tmp_path), "tmpfs", data="nr_inodes=1,size=4k")
        full = listened(f"unix:{tmp_path}/s")
        kernel.mount("none", str(tmp_path), flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)
        with pytest.raises(KernelError) as foreseen:
            listen.attempt(f"unix:{tmp_path}/s", "spec", listen.CONNECTIONS)
        assert foreseen.value.errno == errno.EROFS
        return full, listened(f"unix:{tmp_path}/s")

    full, read_only = in_child(look)
    expect(full, "ENOSPC", "path_on_full", directory=tmp_path, blocks=1, files=0)
    expect(read_only, "EROFS", "path_on_read_only", directory=tmp_path)


@pytest.mark.vm_full
@pytest.mark.needs("native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids")
def test_left_by_a_service(name: str, tmp_path: Path) -> None:
    """Also where connections are shared among shards: while it serves, and when it was killed."""
    spec = serving.write(tmp_path / "s.toml", 'listen = ["tcp:127.0.0.1:0"]\nshards = 2', "command = ['/bin/cat']")
    one = serving.start(spec, name, tmp_path / "log")
    where = f"127.0.0.1:{one.port()}"
    templates = [each["pid"] for each in one.status()["generations"]]
    shared = {"shared": True, "first": True}
    try:
        with pytest.raises(KernelError) as refused_:
            listen.open_listener(f"tcp:{where}", 16, "", **shared)  # type: ignore[arg-type]
        expect(refused_.value, "EADDRINUSE", "taken", who=f"the service {name}", where=where)
        one.process.kill()
        one.process.wait()
        words = {"service": name, "generation": f"{name}.1"}
        expect(listened(f"tcp:{where}"), "EADDRINUSE", "left_by_a_service", **words)
    finally:
        for each in templates:
            os.kill(each, signal.SIGKILL)
            os.waitpid(each, 0)  # it has come to the tests, a subreaper
        subprocess.run([serving.NSTOOL, "cleanup"], check=True, capture_output=True)
    assert listened(f"tcp:{where}") is None
