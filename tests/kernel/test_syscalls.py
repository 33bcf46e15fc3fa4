"""Each bare system call works, seen by another road, and is refused with the errno that its manual page gives."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.kinds import KINDS

InChild = Callable[..., Any]

NOBODY = 65534
ABSENT = "/nonexistent"
NO_KEY = 0x6E6F6E65
NO_PID = 1 << 30  # above every pid_max


def ns(kind: str, pid: int | str = "self") -> str:
    """Return a namespace as /proc has it, as uts:[4026531838]."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def status(field: str, pid: int | str = "self") -> list[str]:
    """Return the words of a field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1:]
    raise LookupError(field)


def mount_points(pid: int | str = "self") -> dict[str, list[str]]:
    """Return the words of /proc/PID/mountinfo by mount point; of several the last, which is on top."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {words[4]: words for words in map(str.split, lines)}


def open_ns(kind: str, pid: int | str = "self") -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def private_mounts() -> None:
    """Enter a mount namespace with an empty writable /tmp of its own."""
    syscalls.unshare(uapi.CLONE_NEWNS)
    syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE)
    syscalls.mount("tmpfs", "/tmp", "tmpfs")


class Waiting:
    """A child in namespaces of its own that waits until it is let go, with its pid and pidfd."""

    def __init__(self, flags: int) -> None:
        reader, self._writer = os.pipe()
        os.set_blocking(reader, True)

        def wait() -> None:
            os.close(self._writer)
            os.read(reader, 1)

        cloned = syscalls.clone3(flags | uapi.CLONE_PIDFD, child=wait)
        os.close(reader)
        self.pid, self.pidfd = cloned.pid, cloned.pidfd

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._writer)
        os.close(self.pidfd)
        os.waitpid(self.pid, 0)


# Processes


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", KINDS)
def test_clone3_makes_the_namespace(in_child: InChild, kind: str) -> None:
    """The child of clone3 is in a new namespace of the kind that was asked for and in no other new one."""

    def act() -> list[str]:
        with Waiting(KINDS[kind].flag) as child:
            return [name for name in KINDS if ns(name, child.pid) != ns(name)]

    assert in_child(act) == [kind]


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "time"])
def test_clone_makes_the_namespace(in_child: InChild, kind: str) -> None:
    """The child of clone, by which the flags but CLONE_NEWTIME can be given, is in the new namespace."""

    def act() -> tuple[str, int]:
        reader, writer = os.pipe()
        child = syscalls.clone(KINDS[kind].flag | uapi.SIGCHLD, child=lambda: os.write(writer, ns(kind).encode()) and 5)
        return os.read(reader, 100).decode(), exit_status(child.pid)

    inside, code = in_child(act)
    assert inside.startswith(f"{kind}:[")
    assert inside != ns(kind)
    assert code == 5


@pytest.mark.parametrize("call", [syscalls.clone3, lambda: syscalls.clone(uapi.SIGCHLD)], ids=["clone3", "clone"])
def test_clone_returns_twice(in_child: InChild, call: Callable[[], syscalls.Cloned]) -> None:
    """Without a callable the child goes on after the call, with pid 0, as after os.fork."""

    def act() -> tuple[int, int, int]:
        here = os.getpid()
        cloned = call()
        if cloned.pid == 0:
            os._exit(40 + (os.getppid() == here) + (cloned.pidfd == -1))
        return cloned.pid != here, exit_status(cloned.pid), cloned.pidfd

    assert in_child(act) == (True, 42, -1)


@pytest.mark.parametrize("call", [syscalls.clone3, syscalls.clone])
def test_child_of_clone_is_a_whole_python(in_child: InChild, call: Callable[..., syscalls.Cloned]) -> None:
    """The fork hooks have run, the child can start threads, and libc has its thread id."""

    def act() -> tuple[list[str], int]:
        seen: list[str] = []
        os.register_at_fork(
            before=lambda: seen.append("before"),
            after_in_parent=lambda: seen.append("parent"),
            after_in_child=lambda: seen.append("child"),
        )

        def child() -> int:
            thread = threading.Thread(target=lambda: seen.append("thread"))
            thread.start()
            thread.join()
            address = bytearray(8)
            syscalls.prctl(40, address)  # PR_GET_TID_ADDRESS: where libc keeps it
            known = ctypes.c_int.from_address(int.from_bytes(address, sys.byteorder)).value
            return 10 * (seen == ["before", "child", "thread"]) + (known == os.getpid())

        cloned = call(child=child)
        return seen, exit_status(cloned.pid)

    assert in_child(act) == (["before", "parent"], 11)


def test_hooks_run_also_when_clone_is_refused(in_child: InChild) -> None:
    """A refused clone3 leaves the parent as it was: what the first hook took the second gave back."""

    def act() -> list[str]:
        seen: list[str] = []
        os.register_at_fork(before=lambda: seen.append("before"), after_in_parent=lambda: seen.append("parent"))
        with pytest.raises(KernelError):
            syscalls.clone3(uapi.CLONE_DETACHED)
        return seen

    assert in_child(act) == ["before", "parent"]


def test_uncaught_exception_of_the_child_is_shown(in_child: InChild) -> None:
    """A callable that raises gives status 1 and its traceback, and never returns into the caller's code."""

    def act() -> tuple[int, str]:
        reader, writer = os.pipe()
        sys.stderr = open(writer, "w")  # noqa: SIM115
        cloned = syscalls.clone3(child=lambda: [][0])
        sys.stderr.close()
        with open(reader) as pipe:
            return exit_status(cloned.pid), pipe.read()

    code, text = in_child(act)
    assert code == 1
    assert "IndexError" in text


def test_child_ends_also_with_a_result_that_is_no_status(in_child: InChild) -> None:
    """A callable that returns something else than a number gives status 1, and does not return either."""

    def act() -> int:
        sys.excepthook = lambda *_: None
        return exit_status(syscalls.clone3(child=lambda: "text").pid)  # type: ignore[arg-type, return-value]

    assert in_child(act) == 1


def test_exit_of_the_child_keeps_its_status(in_child: InChild) -> None:
    """sys.exit in the callable ends the child with that status."""
    assert in_child(lambda: exit_status(syscalls.clone3(child=lambda: sys.exit(9)).pid)) == 9


def test_what_parent_and_child_print_is_written_once(in_child: InChild) -> None:
    """Text that the parent has buffered is not written again by the child; the child's is written."""

    def act() -> str:
        reader, writer = os.pipe()
        sys.stdout = open(writer, "w")  # noqa: SIM115
        print("parent")
        os.waitpid(syscalls.clone3(child=lambda: print("child")).pid, 0)
        sys.stdout.close()
        with open(reader) as pipe:
            return pipe.read()

    assert in_child(act) == "parent\nchild\n"


def test_pidfd_of_clone_refers_to_the_child(in_child: InChild) -> None:
    """With CLONE_PIDFD the parent has an fd, close-on-exec, of which fdinfo names the child."""

    def act(call: Callable[..., syscalls.Cloned], flags: int) -> tuple[bool, bool]:
        cloned = call(flags | uapi.CLONE_PIDFD, child=lambda: None)
        info = Path(f"/proc/self/fdinfo/{cloned.pidfd}").read_text().split()
        os.waitpid(cloned.pid, 0)
        return int(info[info.index("Pid:") + 1]) == cloned.pid, not os.get_inheritable(cloned.pidfd)

    assert in_child(act, syscalls.clone3, 0) == (True, True)
    assert in_child(act, syscalls.clone, uapi.SIGCHLD) == (True, True)


@pytest.mark.needs("root")
def test_set_tid_chooses_the_pid(in_child: InChild) -> None:
    """A process gets the pid that set_tid names in its namespace, and EEXIST when it is taken."""

    def act() -> tuple[list[str], int | None]:
        syscalls.unshare(uapi.CLONE_NEWPID)
        reader, writer = os.pipe()
        first = syscalls.clone3(child=lambda: in_first(writer))
        code = exit_status(first.pid)
        return os.read(reader, 100).decode().split(), code

    def in_first(writer: int) -> int:
        second = syscalls.clone3(set_tid=(77,), child=lambda: os.write(writer, str(os.getpid()).encode()) and 0)
        os.waitpid(second.pid, 0)
        try:
            syscalls.clone3(set_tid=(1,), child=lambda: None)
        except KernelError as error:
            return int(error.errno or 0)
        return 0

    assert in_child(act) == (["77"], errno.EEXIST)


@pytest.mark.needs("root", "cgroup2")
def test_clone3_puts_the_child_into_the_cgroup(in_child: InChild) -> None:
    """With CLONE_INTO_CGROUP the child begins in the cgroup of the fd, as /proc/PID/cgroup tells."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    root = next(words[1] for words in map(str.split, lines) if words[2] == "cgroup2")
    name = f"nstool-test-{os.getpid()}"
    directory = Path(root, name)
    directory.mkdir()
    try:

        def act() -> list[str]:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            reader, writer = os.pipe()

            def child() -> None:
                os.write(writer, Path("/proc/self/cgroup").read_bytes())

            os.waitpid(syscalls.clone3(uapi.CLONE_INTO_CGROUP, cgroup=fd, child=child).pid, 0)
            return os.read(reader, 10000).decode().splitlines()

        assert any(line.startswith("0::") and line.endswith(f"/{name}") for line in in_child(act))
    finally:
        directory.rmdir()


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", KINDS)
def test_unshare_makes_the_namespace(in_child: InChild, kind: str) -> None:
    """unshare changes the namespace of the kind, for pid and time that of later children, and no other."""

    def act() -> list[str]:
        before = {file: os.readlink(f"/proc/self/ns/{file}") for file in os.listdir("/proc/self/ns")}
        syscalls.unshare(KINDS[kind].flag)
        if kind == "pid":  # the link has no target until the first process has been there
            os.waitpid(syscalls.clone3(child=lambda: None).pid, 0)
        return [file for file in before if os.readlink(f"/proc/self/ns/{file}") != before[file]]

    assert in_child(act) == [KINDS[kind].children_file]


@pytest.mark.needs("root")
def test_setns_joins_by_namespace_and_by_pidfd(in_child: InChild) -> None:
    """setns takes an nsfs fd of one namespace, or a pidfd and a mask of several."""

    def act() -> tuple[bool, bool, bool]:
        with Waiting(uapi.CLONE_NEWNET | uapi.CLONE_NEWUTS | uapi.CLONE_NEWIPC) as child:
            syscalls.setns(open_ns("net", child.pid), uapi.CLONE_NEWNET)
            one = ns("net") == ns("net", child.pid) and ns("uts") != ns("uts", child.pid)
            syscalls.setns(child.pidfd, uapi.CLONE_NEWUTS | uapi.CLONE_NEWIPC)
            return one, ns("uts") == ns("uts", child.pid), ns("ipc") == ns("ipc", child.pid)

    assert in_child(act) == (True, True, True)


def test_pidfd_signals_and_waits(in_child: InChild) -> None:
    """A signal sent by pidfd ends the child, and waitid by pidfd tells so, once."""

    def act() -> tuple[object, syscalls.Waited | None, int, bool]:
        pid = syscalls.clone3(child=signal.pause).pid
        pidfd = syscalls.pidfd_open(pid)
        running = syscalls.waitid(uapi.P_PIDFD, pidfd, uapi.WEXITED | uapi.WNOHANG)
        syscalls.pidfd_send_signal(pidfd, uapi.SIGUSR1)
        ended = syscalls.waitid(uapi.P_PIDFD, pidfd)
        with pytest.raises(KernelError) as caught:
            syscalls.waitid(uapi.P_PIDFD, pidfd)
        assert ended is not None
        return running, ended.replace(utime=0, stime=0, maxrss=0), caught.value.errno or 0, ended.pid == pid

    running, ended, again, same = in_child(act)
    assert running is None
    assert ended == syscalls.Waited(ended.pid, os.getuid(), uapi.CLD_KILLED, uapi.SIGUSR1, 0, 0, 0)
    assert same
    assert again == errno.ECHILD


def test_waitid_tells_what_the_child_used(in_child: InChild) -> None:
    """Exit status, memory and time of a child come with waitid; a Python child has more than 1 MiB."""

    def act() -> syscalls.Waited | None:
        def child() -> int:
            block = bytearray(32 << 20)
            block[::4096] = b"x" * len(block[::4096])
            return 3

        return syscalls.waitid(uapi.P_PID, syscalls.clone3(child=child).pid)

    waited = in_child(act)
    assert (waited.code, waited.status) == (uapi.CLD_EXITED, 3)
    assert 32 << 10 < waited.maxrss < 1 << 20
    assert 0 < waited.utime + waited.stime < 10_000_000


def test_waitid_goes_on_after_a_signal(in_child: InChild) -> None:
    """A handler of Python's runs while waitid waits, and waitid then waits on."""

    def act() -> tuple[list[int], int]:
        reader, writer = os.pipe()
        handled: list[int] = []

        def let_go(number: int, _: object) -> None:
            handled.append(number)
            os.write(writer, b"x")

        signal.signal(signal.SIGALRM, let_go)
        pid = syscalls.clone3(uapi.CLONE_CLEAR_SIGHAND, child=lambda: len(os.read(reader, 1))).pid
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # one may come before the call
        waited = syscalls.waitid(uapi.P_PID, pid)
        assert waited is not None
        return set(handled), waited.status

    assert in_child(act) == ({signal.SIGALRM}, 1)


def test_pidfd_getfd_gives_the_same_file(in_child: InChild) -> None:
    """The fd that comes out of another process is the file that it has open."""

    def act() -> tuple[bool, bool]:
        reader, writer = os.pipe()
        with Waiting(0) as child:
            fd = syscalls.pidfd_getfd(child.pidfd, reader)
            os.write(writer, b"x")
            return os.path.sameopenfile(fd, reader), os.read(fd, 1) == b"x"

    assert in_child(act) == (True, True)


# Mounts


@pytest.mark.needs("root")
def test_mount_and_umount_show_in_mountinfo(in_child: InChild) -> None:
    """mount adds a line to mountinfo with the file system and its flags, umount and umount2 take it away."""

    def act() -> tuple[list[str], bool, bool]:
        private_mounts()
        os.mkdir("/tmp/a")
        syscalls.mount("here", "/tmp/a", "tmpfs", uapi.MS_RDONLY | uapi.MS_NOSUID, "size=64k")
        words = mount_points()["/tmp/a"]
        syscalls.umount(b"/tmp/a")
        after = "/tmp/a" in mount_points()
        syscalls.mount("here", Path("/tmp/a"), "tmpfs")
        with open("/tmp/a/file", "w"):  # a busy one goes by MNT_DETACH alone
            syscalls.umount2("/tmp/a", uapi.MNT_DETACH | uapi.UMOUNT_NOFOLLOW)
        return words, after, "/tmp/a" in mount_points()

    words, after_umount, after_umount2 = in_child(act)
    assert {"ro", "nosuid"} <= set(words[5].split(","))
    assert words[-3:-1] == ["tmpfs", "here"]
    assert "size=64k" in words[-1]
    assert not after_umount
    assert not after_umount2


@pytest.mark.needs("root")
def test_new_mount_calls_make_a_mount(in_child: InChild) -> None:
    """fsopen, fsconfig, fsmount and move_mount together mount what statvfs then measures."""

    def act() -> tuple[int, int, list[str]]:
        private_mounts()
        os.mkdir("/tmp/a")
        fs = syscalls.fsopen("tmpfs", uapi.FSOPEN_CLOEXEC)
        syscalls.fsconfig(fs, uapi.FSCONFIG_SET_STRING, "size", "1m")
        syscalls.fsconfig(fs, uapi.FSCONFIG_SET_FLAG, "ro")
        syscalls.fsconfig(fs, uapi.FSCONFIG_CMD_CREATE)
        tree = syscalls.fsmount(fs, uapi.FSMOUNT_CLOEXEC, uapi.MOUNT_ATTR_NODEV)
        flags = fcntl.fcntl(tree, fcntl.F_GETFD) | fcntl.fcntl(fs, fcntl.F_GETFD)
        syscalls.move_mount(tree, "", uapi.AT_FDCWD, "/tmp/a", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        size = os.statvfs("/tmp/a")
        words = mount_points()["/tmp/a"]
        return size.f_blocks * size.f_frsize, flags, [words[5], words[-1]]

    size, flags, (mount_options, fs_options) = in_child(act)
    assert size == 1 << 20
    assert flags == fcntl.FD_CLOEXEC
    assert "nodev" in mount_options.split(",")
    assert "ro" in fs_options.split(",")


@pytest.mark.needs("root")
def test_fspick_reconfigures(in_child: InChild) -> None:
    """A file system that is mounted changes its size by fspick and FSCONFIG_CMD_RECONFIGURE."""

    def act() -> int:
        private_mounts()
        fs = syscalls.fspick(uapi.AT_FDCWD, "/tmp", uapi.FSPICK_CLOEXEC)
        syscalls.fsconfig(fs, uapi.FSCONFIG_SET_STRING, "size", "2m")
        syscalls.fsconfig(fs, uapi.FSCONFIG_CMD_RECONFIGURE)
        size = os.statvfs("/tmp")
        return size.f_blocks * size.f_frsize

    assert in_child(act) == 2 << 20


@pytest.mark.needs("root")
def test_fsconfig_takes_fds_and_paths(in_child: InChild) -> None:
    """FSCONFIG_SET_PATH and SET_FD reach the kernel with their key; which file systems know them is theirs."""

    def act() -> list[int]:
        fs = syscalls.fsopen("tmpfs")
        refused = []
        for cmd, value, aux in (
            (uapi.FSCONFIG_SET_PATH, "/", uapi.AT_FDCWD),
            (uapi.FSCONFIG_SET_FD, None, fs),
            (uapi.FSCONFIG_SET_BINARY, b"\0\1", 0),
        ):
            with pytest.raises(KernelError) as caught:
                syscalls.fsconfig(fs, cmd, "bogus", value, aux)
            refused.append(caught.value.errno or 0)
        return [*refused, len(syscalls.fscontext_log(fs))]

    assert in_child(act) == [errno.EINVAL] * 3 + [3]


@pytest.mark.needs("root")
def test_fscontext_log_tells_the_reason(in_child: InChild) -> None:
    """What the kernel has against a parameter is read from the fd, once."""

    def act() -> tuple[tuple[str, ...], tuple[str, ...]]:
        fs = syscalls.fsopen("tmpfs")
        with pytest.raises(KernelError):
            syscalls.fsconfig(fs, uapi.FSCONFIG_SET_STRING, "bogus", "1")
        return syscalls.fscontext_log(fs), syscalls.fscontext_log(fs)

    assert in_child(act) == (("e tmpfs: Unknown parameter 'bogus'",), ())


@pytest.mark.needs("root")
def test_open_tree_copies_a_mount(in_child: InChild) -> None:
    """A copy by OPEN_TREE_CLONE is the same file system, mounted a second time by move_mount."""

    def act() -> tuple[bool, bool]:
        private_mounts()
        os.mkdir("/tmp/a")
        Path("/tmp/file").touch()
        tree = syscalls.open_tree(uapi.AT_FDCWD, "/tmp", uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC)
        syscalls.move_mount(tree, "", uapi.AT_FDCWD, "/tmp/a", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        return os.path.samefile("/tmp/file", "/tmp/a/file"), "/tmp/a" in mount_points()

    assert in_child(act) == (True, True)


@pytest.mark.needs("root")
def test_mount_setattr_changes_attributes(in_child: InChild) -> None:
    """attr_set makes a mount read-only for writers, attr_clr writable again, propagation shared."""

    def act() -> tuple[str, bool, str]:
        private_mounts()
        syscalls.mount_setattr(uapi.AT_FDCWD, "/tmp", attr_set=uapi.MOUNT_ATTR_RDONLY | uapi.MOUNT_ATTR_NOEXEC)
        options = mount_points()["/tmp"][5]
        with pytest.raises(OSError, match="Read-only file system"):
            Path("/tmp/x").touch()
        syscalls.mount_setattr(
            uapi.AT_FDCWD,
            "/tmp",
            uapi.AT_RECURSIVE,
            attr_set=uapi.MOUNT_ATTR_NOATIME,
            attr_clr=uapi.MOUNT_ATTR_RDONLY | uapi.MOUNT_ATTR__ATIME,
            propagation=uapi.MS_SHARED,
        )
        Path("/tmp/x").touch()
        return options, os.path.exists("/tmp/x"), " ".join(mount_points()["/tmp"][5:7])

    before, written, after = in_child(act)
    assert {"ro", "noexec"} <= set(before.split(","))
    assert written
    assert "rw" in after
    assert "noatime" in after
    assert "shared:" in after


@pytest.mark.needs("root", "idmap_tmpfs")
def test_mount_setattr_maps_ids(in_child: InChild) -> None:
    """A detached copy with MOUNT_ATTR_IDMAP shows files with the ids of the user namespace."""

    def act() -> tuple[int, int]:
        private_mounts()
        os.mkdir("/tmp/a")
        Path("/tmp/file").touch()
        with Waiting(uapi.CLONE_NEWUSER) as child:
            Path(f"/proc/{child.pid}/uid_map").write_text("0 100000 10")
            Path(f"/proc/{child.pid}/gid_map").write_text("0 100000 10")
            userns = open_ns("user", child.pid)
            tree = syscalls.open_tree(uapi.AT_FDCWD, "/tmp", uapi.OPEN_TREE_CLONE)
            syscalls.mount_setattr(tree, "", uapi.AT_EMPTY_PATH, attr_set=uapi.MOUNT_ATTR_IDMAP, userns_fd=userns)
            syscalls.move_mount(tree, "", uapi.AT_FDCWD, "/tmp/a", uapi.MOVE_MOUNT_F_EMPTY_PATH)
            return os.stat("/tmp/file").st_uid, os.stat("/tmp/a/file").st_uid

    assert in_child(act) == (0, 100000)


@pytest.mark.needs("root", "statmount_maps")
def test_statmount_tells_the_map_of_a_mount(in_child: InChild) -> None:
    """The lines of the map, in order; other mounts have none. Linux 6.15."""

    def act() -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
        private_mounts()
        with Waiting(uapi.CLONE_NEWUSER) as child:
            Path(f"/proc/{child.pid}/uid_map").write_text("0 5000 1000\n1000 70000 1\n")
            Path(f"/proc/{child.pid}/gid_map").write_text("0 6000 1\n")
            with open(open_ns("user", child.pid)) as userns:
                fd = syscalls.open_tree(uapi.AT_FDCWD, "/tmp", uapi.OPEN_TREE_CLONE)
                syscalls.mount_setattr(
                    fd, "", uapi.AT_EMPTY_PATH, attr_set=uapi.MOUNT_ATTR_IDMAP, userns_fd=userns.fileno()
                )
        syscalls.move_mount(fd, "", uapi.AT_FDCWD, "/tmp", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        told = [syscalls.statmount(mount) for mount in syscalls.listmount()][-2:]
        return [(mount.fs_type, mount.mnt_uidmap, mount.mnt_gidmap) for mount in told]

    assert in_child(act) == [("tmpfs", (), ()), ("tmpfs", ("0 5000 1000", "1000 70000 1"), ("0 6000 1",))]


@pytest.mark.needs("root")
def test_pivot_root_changes_the_root(in_child: InChild) -> None:
    """After pivot_root / is the new tree and the old one is where it was put."""

    def act() -> tuple[list[str], bool]:
        private_mounts()
        os.mkdir("/tmp/old")
        Path("/tmp/new").touch()
        syscalls.pivot_root("/tmp", "/tmp/old")
        os.chdir("/")
        return sorted(os.listdir("/")), os.path.exists("/old/proc/self")

    assert in_child(act) == (["new", "old"], True)


@pytest.mark.needs("root")
def test_chroot_changes_the_root(in_child: InChild) -> None:
    """After chroot / is the directory."""

    def act() -> list[str]:
        private_mounts()
        os.mkdir("/tmp/inside")
        syscalls.chroot("/tmp")
        return os.listdir("/")

    assert in_child(act) == ["inside"]


@pytest.mark.needs("root", "statmount")
def test_statmount_and_listmount_agree_with_mountinfo(in_child: InChild) -> None:
    """listmount lists the mounts of mountinfo, and statmount tells the same of each."""

    def act() -> tuple[list[Any], list[Any], bool]:
        private_mounts()
        syscalls.mount("source", "/tmp", "tmpfs", uapi.MS_NODEV)
        told = [syscalls.statmount(mount) for mount in syscalls.listmount()]
        there = [words.split() for words in Path("/proc/self/mountinfo").read_text().splitlines()]
        by_kernel = [(m.mnt_id_old, m.mnt_parent_id_old, m.mnt_point, m.mnt_root, m.fs_type) for m in told]
        by_proc = [(int(w[0]), int(w[1]), w[4], w[3], w[w.index("-") + 1]) for w in there]
        return sorted(by_kernel), sorted(by_proc), told[-1].mnt_attr & uapi.MOUNT_ATTR_NODEV == uapi.MOUNT_ATTR_NODEV

    by_kernel, by_proc, nodev = in_child(act)
    assert by_kernel == by_proc
    assert nodev


@pytest.mark.needs("root", "mntns_ids")
def test_listmount_asks_until_all_are_there(in_child: InChild) -> None:
    """More mounts than the kernel gives at once are all listed, and one of another namespace can be asked for."""

    def act() -> tuple[int, int, bool]:
        private_mounts()
        for number in range(600):
            os.mkdir(f"/tmp/{number}")
            syscalls.mount("/tmp", f"/tmp/{number}", None, uapi.MS_BIND)
        mounts = syscalls.listmount()
        below = syscalls.listmount(last_mnt_id=mounts[99])
        with Waiting(uapi.CLONE_NEWNS) as child:
            other = syscalls.ns_get_mntns_id(open_ns("mnt", child.pid))
            theirs = syscalls.listmount(mnt_ns_id=other)
            same = syscalls.statmount(theirs[-1], mnt_ns_id=other).mnt_ns_id == other
        lines = len(Path("/proc/self/mountinfo").read_text().splitlines())
        return len(set(mounts)) - lines, len(mounts) - len(below), same and len(theirs) == len(mounts)

    difference, skipped, other = in_child(act)
    assert difference == 0
    assert skipped == 100
    assert other


@pytest.mark.needs("root", "statmount_source")
def test_statmount_asks_again_with_more_room(in_child: InChild) -> None:
    """Strings that do not fit the first buffer are there in full."""

    def act() -> str:
        private_mounts()
        syscalls.mount("s" * 4000, "/tmp", "tmpfs")
        return syscalls.statmount(syscalls.listmount()[-1]).sb_source

    assert in_child(act) == "s" * 4000


# Files


def test_openat2_walks_inside_a_root(in_child: InChild, tmp_path: Path) -> None:
    """With RESOLVE_IN_ROOT an absolute link is followed inside the directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("inside")
    (tmp_path / "link").symlink_to("/etc/passwd")
    directory = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = syscalls.openat2(directory, "link", uapi.O_RDONLY | uapi.O_CLOEXEC, resolve=uapi.RESOLVE_IN_ROOT)
        with open(fd) as file:
            assert file.read() == "inside"
            assert not os.get_inheritable(fd)
        new = syscalls.openat2(directory, "new", uapi.O_CREAT | uapi.O_WRONLY | uapi.O_EXCL, 0o600)
        os.close(new)
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    finally:
        os.close(directory)


def test_openat2_goes_on_after_a_signal(in_child: InChild, tmp_path: Path) -> None:
    """A signal during the wait for a fifo's other end is handled, and the open goes on."""

    def act() -> bool:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        other: list[int] = []

        def open_other_end(*_: object) -> None:
            other.append(os.open(fifo, os.O_RDWR))

        signal.signal(signal.SIGALRM, open_other_end)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)  # one may come before the call
        fd = syscalls.openat2(uapi.AT_FDCWD, fifo, uapi.O_RDONLY)
        return os.path.sameopenfile(fd, other[0])

    assert in_child(act) is True


def test_close_range_closes_and_marks(in_child: InChild) -> None:
    """The fds of the range are closed, or with CLOSE_RANGE_CLOEXEC marked; their neighbours are not."""

    def act() -> tuple[list[bool], list[bool]]:
        base = 100
        for fd in range(base, base + 4):
            os.dup2(1, fd, inheritable=True)
        syscalls.close_range(base + 1, base + 2, uapi.CLOSE_RANGE_CLOEXEC)
        marked = [not os.get_inheritable(fd) for fd in range(base, base + 4)]
        syscalls.close_range(base + 1, base + 2)
        return marked, [os.path.exists(f"/proc/self/fd/{fd}") for fd in range(base, base + 4)]

    assert in_child(act) == ([False, True, True, False], [True, False, False, True])


# What belongs to the caller


@pytest.mark.needs("root")
def test_names_of_the_uts_namespace(in_child: InChild) -> None:
    """Host and domain name change inside a new uts namespace, and not outside."""

    def act() -> tuple[str, str]:
        syscalls.unshare(uapi.CLONE_NEWUTS)
        syscalls.sethostname("box")
        syscalls.setdomainname(b"example")
        return os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()

    before = os.uname().nodename
    assert in_child(act) == ("box", "example\n")
    assert os.uname().nodename == before


def test_personality_changes_what_uname_says(in_child: InChild) -> None:
    """PER_LINUX32 makes uname say i686, and the one before is returned."""

    def act() -> tuple[int, int, str, str]:
        before = syscalls.personality(uapi.PER_QUERY)
        returned = syscalls.personality(uapi.PER_LINUX32 | uapi.ADDR_NO_RANDOMIZE)
        return before, returned, os.uname().machine, Path("/proc/self/personality").read_text().strip()

    before, returned, machine, shown = in_child(act)
    assert before == returned
    assert machine == "i686"
    assert int(shown, 16) == uapi.PER_LINUX32 | uapi.ADDR_NO_RANDOMIZE


@pytest.mark.needs("root")
def test_ids_change_for_the_calling_thread_alone(in_child: InChild) -> None:
    """The raw calls change ids of one thread; -1 keeps one; the other threads stay as they were."""

    def act() -> tuple[list[list[str]], list[list[str]]]:
        seen: list[list[str]] = []

        def change() -> None:
            syscalls.setgroups([7, 8])
            syscalls.setresgid(1, 2, 3)
            syscalls.setresgid(-1, 1, -1)
            syscalls.setresuid(4, 5, 6)
            seen.extend(status(field, f"self/task/{threading.get_native_id()}") for field in ("Uid", "Gid", "Groups"))

        thread = threading.Thread(target=change)
        thread.start()
        thread.join()
        return seen, [status("Uid"), status("Gid")]

    changed, others = in_child(act)
    assert changed == [["4", "5", "6", "5"], ["1", "1", "3", "1"], ["7", "8"]]
    assert others == [["0"] * 4, ["0"] * 4]


@pytest.mark.needs("root")
def test_file_system_ids_change_alone(in_child: InChild) -> None:
    """By them no user gains a right to signal the thread: real, effective and saved ids stay."""

    def act() -> list[list[str]]:
        syscalls.setfsgid(8)
        syscalls.setfsuid(7)
        return [status("Uid"), status("Gid")]

    assert in_child(act) == [["0", "0", "0", "7"], ["0", "0", "0", "8"]]


@pytest.mark.needs("root")
def test_as_many_groups_as_are_given(in_child: InChild) -> None:
    def act() -> list[str]:
        syscalls.setgroups(range(1000, 1100))
        return status("Groups")

    assert in_child(act) == [str(number) for number in range(1000, 1100)]


def test_the_kind_of_a_filesystem() -> None:
    with open("/proc/self/stat") as file:
        assert syscalls.fstatfs_type(file.fileno()) == uapi.PROC_SUPER_MAGIC


@pytest.mark.needs("root")
def test_capabilities_are_those_of_proc(in_child: InChild) -> None:
    """capget reads what /proc/PID/status shows, and capset changes it, above bit 31 too."""

    def act() -> tuple[list[int], list[int]]:
        wanted = 1 << uapi.CAP_CHECKPOINT_RESTORE | 1 << uapi.CAP_KILL
        syscalls.capset(1 << uapi.CAP_KILL, wanted, 1 << uapi.CAP_CHECKPOINT_RESTORE)
        read = syscalls.capget()
        assert syscalls.capget(os.getpid()) == read
        shown = [int(status(field)[0], 16) for field in ("CapEff", "CapPrm", "CapInh")]
        return [read.effective, read.permitted, read.inheritable], shown

    read, shown = in_child(act)
    assert read == shown == [1 << 5, 1 << 40 | 1 << 5, 1 << 40]


def test_prctl_takes_numbers_and_buffers(in_child: InChild) -> None:
    """Numbers and addresses reach prctl: the name shows in comm, no_new_privs in status."""
    other = pytest.importorskip("prctl")

    def act() -> tuple[str, bytes, int, list[str], bool]:
        syscalls.prctl(uapi.PR_SET_NAME, b"a-name\0")
        name = bytearray(16)
        syscalls.prctl(uapi.PR_GET_NAME, name)
        before = syscalls.prctl(uapi.PR_GET_NO_NEW_PRIVS)
        syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)
        return (
            Path("/proc/self/comm").read_text(),
            bytes(name).rstrip(b"\0"),
            before,
            status("NoNewPrivs"),
            bool(other.get_no_new_privs()),
        )

    assert in_child(act) == ("a-name\n", b"a-name", 0, ["1"], True)


@pytest.mark.needs("root")
def test_prctl_agrees_with_python_prctl(in_child: InChild) -> None:
    """Bounding set, securebits and ambient set are seen alike by another implementation."""
    other = pytest.importorskip("prctl")

    def act() -> list[bool]:
        syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_MKNOD)
        syscalls.prctl(uapi.PR_SET_SECUREBITS, uapi.SECBIT_NOROOT | uapi.SECBIT_NOROOT_LOCKED)
        caps = syscalls.capget()
        syscalls.capset(caps.effective, caps.permitted, 1 << uapi.CAP_NET_RAW)
        syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAP_NET_RAW)
        return [
            not other.capbset_read(other.CAP_MKNOD),
            other.get_securebits() == uapi.SECBIT_NOROOT | uapi.SECBIT_NOROOT_LOCKED,
            int(status("CapAmb")[0], 16) == 1 << uapi.CAP_NET_RAW,
        ]

    assert in_child(act) == [True, True, True]


@pytest.mark.skipif(not os.path.exists("/proc/keys"), reason="needs /proc/keys: build with CONFIG_KEYS and _PROC_KEYS")
def test_keyring_is_new(in_child: InChild) -> None:
    """The session keyring that was joined is listed by /proc/keys under its serial number and name."""

    def act() -> list[list[str]]:
        first = syscalls.keyctl_join_session_keyring()
        second = syscalls.keyctl_join_session_keyring("nstool-test")
        lines = Path("/proc/keys").read_text().splitlines()
        assert first != second
        return [line.split()[7:9] for line in lines if int(line.split()[0], 16) == second]

    assert in_child(act) == [["keyring", "nstool-test:"]]


@pytest.mark.needs("root", "seccomp")
def test_seccomp_filter_refuses(in_child: InChild) -> None:
    """A program made by libseccomp refuses the call it names and no other, and status shows the mode."""
    pyseccomp = pytest.importorskip("pyseccomp")

    def act() -> tuple[str, list[str], int, int]:
        rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        rules.add_rule(pyseccomp.ERRNO(errno.EXFULL), "sethostname")
        fd = os.memfd_create("program")
        with open(fd, "w+b") as file:
            rules.export_bpf(file)
            file.seek(0)
            program = file.read()
        syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)
        returned = syscalls.seccomp_set_mode_filter(program, uapi.SECCOMP_FILTER_FLAG_LOG)
        with pytest.raises(OSError, match="Exchange full") as caught:
            socket.sethostname("box")
        listener = syscalls.seccomp_set_mode_filter(program, uapi.SECCOMP_FILTER_FLAG_NEW_LISTENER)
        return os.readlink(f"/proc/self/fd/{listener}"), status("Seccomp"), returned, caught.value.errno or 0

    link, mode, returned, refused = in_child(act)
    assert link == "anon_inode:seccomp notify"
    assert mode == ["2"]
    assert returned == 0
    assert refused == errno.EXFULL


# ioctl


@pytest.mark.needs("root")
def test_objects_of_the_ipc_namespace_come_and_go(in_child: InChild) -> None:
    """What the calls make is listed in /proc/sysvipc until they remove it; a queue's file and sizes likewise."""

    def ids(kind: str) -> list[int]:
        return [int(line.split()[1]) for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]]

    def act() -> tuple[Any, ...]:
        private_mounts()
        syscalls.unshare(uapi.CLONE_NEWIPC)
        syscalls.mount("mqueue", "/tmp", "mqueue")
        flags = uapi.IPC_CREAT | 0o600
        made = {
            "shm": syscalls.shmget(uapi.IPC_PRIVATE, 4096, flags),
            "sem": syscalls.semget(0x1234, 3, flags),
            "msg": syscalls.msgget(0x1234, flags | uapi.IPC_EXCL),
        }
        again = syscalls.semget(0x1234, 3), syscalls.msgget(0x1234)
        queue = os.open("/tmp/jobs", os.O_CREAT | os.O_RDWR)
        attr = syscalls.mq_getattr(queue)
        before = {kind: ids(kind) for kind in made}, os.listdir("/tmp")
        syscalls.shmctl(made["shm"])
        syscalls.semctl(made["sem"])
        syscalls.msgctl(made["msg"])
        syscalls.mq_unlink("/jobs")
        after = {kind: ids(kind) for kind in made}, os.listdir("/tmp")
        limits = [int(Path(f"/proc/sys/fs/mqueue/{name}_default").read_text()) for name in ("msg", "msgsize")]
        return made, again, before, after, [attr.maxmsg, attr.msgsize, attr.curmsgs, attr.flags], limits

    made, again, before, after, attr, limits = in_child(act)
    assert again == (made["sem"], made["msg"])
    assert before == ({kind: [number] for kind, number in made.items()}, ["jobs"])
    assert after == ({"shm": [], "sem": [], "msg": []}, [])
    assert attr == [*limits, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_nstype_is_the_clone_flag(kind: str) -> None:
    """NS_GET_NSTYPE of a namespace's fd is its flag in the table of kinds."""
    fd = open_ns(kind)
    try:
        assert syscalls.ns_get_nstype(fd) == KINDS[kind].flag
    finally:
        os.close(fd)


@pytest.mark.needs("root")
def test_owner_and_parent_of_namespaces(in_child: InChild) -> None:
    """The owner of a uts namespace and the parents of user and pid namespaces are those of /proc."""

    def act() -> list[bool]:
        with Waiting(uapi.CLONE_NEWUSER | uapi.CLONE_NEWUTS | uapi.CLONE_NEWPID) as child:
            owner = syscalls.ns_get_userns(open_ns("uts", child.pid))
            user_parent = syscalls.ns_get_parent(open_ns("user", child.pid))
            pid_parent = syscalls.ns_get_parent(open_ns("pid", child.pid))
            return [
                os.path.sameopenfile(owner, open_ns("user", child.pid)),
                os.path.sameopenfile(user_parent, open_ns("user")),
                os.path.sameopenfile(pid_parent, open_ns("pid")),
                not os.get_inheritable(owner),
            ]

    assert in_child(act) == [True] * 4


@pytest.mark.needs("root")
def test_owner_uid_is_the_creators(in_child: InChild) -> None:
    """A user namespace belongs to the user id that made it."""

    def act() -> int:
        os.setresuid(1234, 1234, 1234)
        syscalls.prctl(uapi.PR_SET_DUMPABLE, 1)  # else /proc/PID of the child is root's
        with Waiting(uapi.CLONE_NEWUSER) as child:
            return syscalls.ns_get_owner_uid(open_ns("user", child.pid))

    assert in_child(act) == 1234
    fd = open_ns("user")
    try:
        assert syscalls.ns_get_owner_uid(fd) == 0
    finally:
        os.close(fd)


@pytest.mark.needs("root", "pid_ioctls")
def test_pids_are_translated(in_child: InChild) -> None:
    """The four translations agree with NSpid of /proc/PID/status, in both directions."""

    def act() -> tuple[list[int], list[int]]:
        with Waiting(uapi.CLONE_NEWPID) as child:
            fd = open_ns("pid", child.pid)
            outside, inside = map(int, status("NSpid", child.pid))
            translated = [
                syscalls.ns_get_pid_from_pidns(fd, inside),
                syscalls.ns_get_tgid_from_pidns(fd, inside),
                syscalls.ns_get_pid_in_pidns(fd, outside),
                syscalls.ns_get_tgid_in_pidns(fd, outside),
            ]
            return translated, [outside, outside, inside, inside]

    translated, expected = in_child(act)
    assert translated == expected
    assert expected[2] == 1


@pytest.mark.needs("root", "ns_ids")
def test_ids_of_namespaces_differ(in_child: InChild) -> None:
    """Two namespaces have two ids, and a mount namespace the same by both ioctls."""

    def act() -> tuple[bool, bool]:
        with Waiting(uapi.CLONE_NEWNS) as child:
            ours, theirs = open_ns("mnt"), open_ns("mnt", child.pid)
            by_mnt = syscalls.ns_get_mntns_id(ours), syscalls.ns_get_mntns_id(theirs)
            return by_mnt == (syscalls.ns_get_id(ours), syscalls.ns_get_id(theirs)), by_mnt[0] != by_mnt[1]

    assert in_child(act) == (True, True)


@pytest.mark.needs("pidfd_ioctls")
def test_pidfd_gives_namespaces(in_child: InChild) -> None:
    """PIDFD_GET_*_NAMESPACE opens each namespace of a process without /proc."""

    def act() -> list[str]:
        pidfd = syscalls.pidfd_open(os.getpid())
        wrong = []
        for kind in KINDS:
            fd = syscalls.ioctl(pidfd, getattr(uapi, f"PIDFD_GET_{kind.upper()}_NAMESPACE"))
            if not os.path.sameopenfile(fd, open_ns(kind)):
                wrong.append(kind)
        return wrong

    assert in_child(act) == []


# Refusals: each call once at least with the errno of its manual page. personality has none.

AS_ROOT: dict[str, tuple[Callable[[], object], int]] = {
    "clone3, unknown flag": (lambda: syscalls.clone3(1 << 60, child=lambda: None), errno.EINVAL),
    "clone3, no such cgroup": (lambda: syscalls.clone3(uapi.CLONE_INTO_CGROUP, cgroup=9999), errno.EBADF),
    "clone3, pid without namespace": (lambda: syscalls.clone3(set_tid=(5, 6, 7, 8), child=lambda: None), errno.EINVAL),
    "clone, namespace and CLONE_FS": (lambda: syscalls.clone(uapi.CLONE_NEWNS | uapi.CLONE_FS), errno.EINVAL),
    "unshare, no flag of unshare": (lambda: syscalls.unshare(uapi.CLONE_PIDFD), errno.EINVAL),
    "setns, no fd": (lambda: syscalls.setns(-1), errno.EBADF),
    "setns, wrong type": (lambda: syscalls.setns(open_ns("net"), uapi.CLONE_NEWUTS), errno.EINVAL),
    "setns, own user namespace": (lambda: syscalls.setns(open_ns("user")), errno.EINVAL),
    "pidfd_open": (lambda: syscalls.pidfd_open(NO_PID), errno.ESRCH),
    "pidfd_getfd": (lambda: syscalls.pidfd_getfd(syscalls.pidfd_open(os.getpid()), 9999), errno.EBADF),
    "bpf, no such instruction": (lambda: syscalls.bpf_socket_filter(bytes(8)), errno.EINVAL),
    "kcmp": (lambda: syscalls.kcmp(NO_PID, NO_PID, 0), errno.ESRCH),
    "pidfd_send_signal": (lambda: syscalls.pidfd_send_signal(syscalls.pidfd_open(os.getpid()), 99), errno.EINVAL),
    "waitid": (lambda: syscalls.waitid(uapi.P_PID, 1), errno.ECHILD),
    "ptrace, no tracee": (lambda: syscalls.ptrace(uapi.PTRACE_CONT, os.getppid()), errno.ESRCH),
    "ptrace, no event": (lambda: syscalls.ptrace_geteventmsg(os.getppid()), errno.ESRCH),
    "ptrace, no call": (lambda: syscalls.ptrace_get_syscall_info(os.getppid()), errno.ESRCH),
    "mount, no target": (lambda: syscalls.mount("x", ABSENT, "tmpfs"), errno.ENOENT),
    "mount, no file system": (lambda: syscalls.mount("x", "/tmp", "nosuchfs"), errno.ENODEV),
    "umount": (lambda: syscalls.umount(ABSENT), errno.ENOENT),
    "umount2": (lambda: syscalls.umount2("/proc/self", uapi.MNT_DETACH), errno.EINVAL),
    "pivot_root": (lambda: syscalls.pivot_root("/", "/"), errno.EBUSY),
    "chroot": (lambda: syscalls.chroot("/dev/null"), errno.ENOTDIR),
    "open_tree": (lambda: syscalls.open_tree(uapi.AT_FDCWD, ABSENT), errno.ENOENT),
    "move_mount": (lambda: syscalls.move_mount(uapi.AT_FDCWD, "/proc/self", uapi.AT_FDCWD, "/tmp"), errno.EINVAL),
    "mount_setattr": (lambda: syscalls.mount_setattr(uapi.AT_FDCWD, "/", attr_set=1 << 60), errno.EINVAL),
    "fsopen": (lambda: syscalls.fsopen("nosuchfs"), errno.ENODEV),
    "fspick": (lambda: syscalls.fspick(uapi.AT_FDCWD, ABSENT), errno.ENOENT),
    "fsconfig": (lambda: syscalls.fsconfig(syscalls.fsopen("tmpfs"), uapi.FSCONFIG_SET_FLAG, "bogus"), errno.EINVAL),
    "fsmount": (lambda: syscalls.fsmount(syscalls.fsopen("tmpfs")), errno.EINVAL),
    "statmount": (lambda: syscalls.statmount(1 << 60), errno.ENOENT),
    "listmount": (lambda: syscalls.listmount(1 << 60), errno.ENOENT),
    "openat2, beneath": (
        lambda: syscalls.openat2(uapi.AT_FDCWD, "/etc", uapi.O_PATH, resolve=uapi.RESOLVE_BENEATH),
        errno.EXDEV,
    ),
    "openat2, magic link": (
        lambda: syscalls.openat2(uapi.AT_FDCWD, "/proc/self/fd/1", 0, resolve=uapi.RESOLVE_NO_MAGICLINKS),
        errno.ELOOP,
    ),
    "fstatfs": (lambda: syscalls.fstatfs_type(-1), errno.EBADF),
    "close_range": (lambda: syscalls.close_range(10, 5), errno.EINVAL),
    "sethostname": (lambda: syscalls.sethostname("x" * 65), errno.EINVAL),
    "setdomainname": (lambda: syscalls.setdomainname("x" * 65), errno.EINVAL),
    "setgroups": (lambda: syscalls.setgroups([1] * 65537), errno.EINVAL),
    "capget": (lambda: syscalls.capget(NO_PID), errno.ESRCH),
    "capset": (lambda: syscalls.capset(1 << uapi.CAP_KILL, 0, 0), errno.EPERM),
    "prctl": (lambda: syscalls.prctl(uapi.PR_SET_PDEATHSIG, 999), errno.EINVAL),
    "keyctl": (lambda: syscalls.keyctl_join_session_keyring(".reserved"), errno.EPERM),
    "seccomp": (lambda: syscalls.seccomp_set_mode_filter(b""), errno.EINVAL),
    "shmget": (lambda: syscalls.shmget(uapi.IPC_PRIVATE, 0, uapi.IPC_CREAT), errno.EINVAL),
    "semget": (lambda: syscalls.semget(NO_KEY, 1), errno.ENOENT),
    "msgget": (lambda: syscalls.msgget(NO_KEY), errno.ENOENT),
    "shmctl": (lambda: syscalls.shmctl(-1), errno.EINVAL),
    "semctl": (lambda: syscalls.semctl(-1), errno.EINVAL),
    "msgctl": (lambda: syscalls.msgctl(-1), errno.EINVAL),
    "mq_unlink": (lambda: syscalls.mq_unlink("/absent"), errno.ENOENT),
    "mq_unlink, without its slash": (lambda: syscalls.mq_unlink("absent"), errno.EINVAL),
    "mq_unlink, too long": (lambda: syscalls.mq_unlink("/" + "x" * 256), errno.ENAMETOOLONG),
    "mq_getattr": (lambda: syscalls.mq_getattr(os.open("/dev/null", os.O_RDONLY)), errno.EBADF),
    "ioctl": (lambda: syscalls.ioctl(os.open("/dev/null", os.O_RDONLY), uapi.NS_GET_USERNS), errno.ENOTTY),
    "ns_get_parent, no parent": (lambda: syscalls.ns_get_parent(open_ns("user")), errno.EPERM),
    "ns_get_parent, no such type": (lambda: syscalls.ns_get_parent(open_ns("net")), errno.EINVAL),
    "ns_get_userns": (lambda: syscalls.ns_get_userns(open_ns("user")), errno.EPERM),
    "ns_get_nstype": (lambda: syscalls.ns_get_nstype(os.open("/dev/null", os.O_RDONLY)), errno.ENOTTY),
    "ns_get_owner_uid": (lambda: syscalls.ns_get_owner_uid(open_ns("net")), errno.EINVAL),
    "ns_get_mntns_id": (lambda: syscalls.ns_get_mntns_id(open_ns("net")), errno.EINVAL),
    "ns_get_id": (lambda: syscalls.ns_get_id(os.open("/dev/null", os.O_RDONLY)), errno.ENOTTY),
    "ns_get_pid_from_pidns": (lambda: syscalls.ns_get_pid_from_pidns(open_ns("pid"), NO_PID), errno.ESRCH),
    "ns_get_tgid_from_pidns": (lambda: syscalls.ns_get_tgid_from_pidns(open_ns("pid"), NO_PID), errno.ESRCH),
    "ns_get_pid_in_pidns": (lambda: syscalls.ns_get_pid_in_pidns(open_ns("net"), 1), errno.EINVAL),
    "ns_get_tgid_in_pidns": (lambda: syscalls.ns_get_tgid_in_pidns(open_ns("net"), 1), errno.EINVAL),
}

# Of those that a kernel may lack: without the call, or the ioctl, there is another errno.
NEEDS = {
    "statmount": ("statmount",),
    "listmount": ("statmount",),
    "ns_get_mntns_id": ("mntns_ids",),
    "ns_get_pid_from_pidns": ("pid_ioctls",),
    "ns_get_tgid_from_pidns": ("pid_ioctls",),
    "ns_get_pid_in_pidns": ("pid_ioctls",),
    "ns_get_tgid_in_pidns": ("pid_ioctls",),
}

AS_NOBODY: dict[str, tuple[Callable[[], object], int]] = {
    "clone3": (lambda: syscalls.clone3(uapi.CLONE_NEWUTS, child=lambda: None), errno.EPERM),
    "clone": (lambda: syscalls.clone(uapi.CLONE_NEWUTS | uapi.SIGCHLD, child=lambda: None), errno.EPERM),
    "unshare": (lambda: syscalls.unshare(uapi.CLONE_NEWNET), errno.EPERM),
    "pidfd_getfd": (lambda: syscalls.pidfd_getfd(syscalls.pidfd_open(1), 0), errno.EPERM),
    "pidfd_send_signal": (lambda: syscalls.pidfd_send_signal(syscalls.pidfd_open(1), 0), errno.EPERM),
    "mount": (lambda: syscalls.mount("x", "/tmp", "tmpfs"), errno.EPERM),
    "umount2": (lambda: syscalls.umount2("/tmp"), errno.EPERM),
    "pivot_root": (lambda: syscalls.pivot_root("/", "/"), errno.EPERM),
    "chroot": (lambda: syscalls.chroot("/"), errno.EPERM),
    "open_tree": (lambda: syscalls.open_tree(uapi.AT_FDCWD, "/", uapi.OPEN_TREE_CLONE), errno.EPERM),
    "move_mount": (lambda: syscalls.move_mount(uapi.AT_FDCWD, "/proc", uapi.AT_FDCWD, "/tmp"), errno.EPERM),
    "mount_setattr": (lambda: syscalls.mount_setattr(uapi.AT_FDCWD, "/proc"), errno.EPERM),
    "fsopen": (lambda: syscalls.fsopen("tmpfs"), errno.EPERM),
    "fspick": (lambda: syscalls.fspick(uapi.AT_FDCWD, "/proc"), errno.EPERM),
    "sethostname": (lambda: syscalls.sethostname("box"), errno.EPERM),
    "setdomainname": (lambda: syscalls.setdomainname("box"), errno.EPERM),
    "setresuid": (lambda: syscalls.setresuid(0, 0, 0), errno.EPERM),
    "setresgid": (lambda: syscalls.setresgid(0, 0, 0), errno.EPERM),
    "setfsuid": (lambda: syscalls.setfsuid(0), errno.EPERM),
    "setfsgid": (lambda: syscalls.setfsgid(0), errno.EPERM),
    "setgroups": (lambda: syscalls.setgroups([0]), errno.EPERM),
    "capset": (lambda: syscalls.capset(1, 1, 0), errno.EPERM),
    "prctl": (lambda: syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_KILL), errno.EPERM),
    "seccomp": (lambda: syscalls.seccomp_set_mode_filter(bytes.fromhex("060000000000ff7f")), errno.EACCES),
}


def refusal(call: Callable[[], object]) -> tuple[int, str]:
    """Return errno and call of the KernelError that the call must raise."""
    try:
        call()
    except KernelError as error:
        return error.errno or 0, error.call
    raise AssertionError("the kernel did not refuse")


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.needs(*NEEDS.get(case, ()))) for case in AS_ROOT]
)
def test_refused_with_the_errno_of_the_manual(in_child: InChild, case: str) -> None:
    """What is wrong even for root is refused with the errno of the manual page, and the error names the call."""

    def act() -> tuple[int, str]:
        private_mounts()  # whatever happens, the host's mounts stay
        syscalls.unshare(uapi.CLONE_NEWUTS | uapi.CLONE_NEWIPC)
        return refusal(AS_ROOT[case][0])

    number, call = in_child(act)
    assert errno.errorcode[number] == errno.errorcode[AS_ROOT[case][1]]
    assert call.partition("(")[0] == case.partition(",")[0] or call.startswith("ioctl(")


@pytest.mark.needs("root")
@pytest.mark.parametrize("case", AS_NOBODY)
def test_refused_to_an_ordinary_user(in_child: InChild, case: str) -> None:
    """What needs a capability is refused to a user without any."""

    def act() -> tuple[int, str]:
        become_nobody()
        return refusal(AS_NOBODY[case][0])

    number, call = in_child(act)
    assert errno.errorcode[number] == errno.errorcode[AS_NOBODY[case][1]]
    assert call.partition("(")[0] == case


def test_each_call_is_refused_once() -> None:
    """No wrapper that returns what the kernel says is left out of the two tables."""
    named = {case.partition(",")[0] for case in (*AS_ROOT, *AS_NOBODY)} | {"ioctl"}
    public = {
        name
        for name, value in vars(syscalls).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == syscalls.__name__
    }
    records = {"Cloned", "CapSets", "Waited", "Statmount", "MqAttr", "SyscallInfo"}
    own = {"check", "landlock_abi", "single_threaded", "fscontext_log", "personality"}
    renamed = {
        "keyctl_join_session_keyring": "keyctl",
        "seccomp_set_mode_filter": "seccomp",
        "fstatfs_type": "fstatfs",
        "open_within": "openat2",
        "bpf_socket_filter": "bpf",
    }
    renamed |= dict.fromkeys(("ptrace_geteventmsg", "ptrace_get_syscall_info", "seccomp_filter"), "ptrace")
    assert {renamed.get(name, name) for name in public - records - own} <= named


@pytest.fixture
def renaming(tmp_path: Path) -> Iterator[None]:
    """Somebody renames a file all the time, anywhere."""
    (tmp_path / "renamed").touch()
    pid = os.fork()
    if pid == 0:
        while True:
            os.rename(tmp_path / "renamed", tmp_path / "again")
            os.rename(tmp_path / "again", tmp_path / "renamed")
    yield
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.needs("processors")
def test_a_path_is_walked_again_where_somebody_renames(tmp_path: Path, renaming: None) -> None:
    """openat2 says EAGAIN now and then, of a path with ".." in it; open_within does not."""
    (tmp_path / "a/b").mkdir(parents=True)
    root = os.open(tmp_path, os.O_PATH)
    words = "a/b/../../a/b/..", uapi.O_PATH | uapi.O_CLOEXEC

    def open_until_refused() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            os.close(syscalls.openat2(root, *words, resolve=uapi.RESOLVE_IN_ROOT))

    with pytest.raises(KernelError) as refused:
        open_until_refused()
    assert refused.value.errno == errno.EAGAIN
    for _ in range(3000):
        os.close(syscalls.open_within(root, *words, uapi.RESOLVE_IN_ROOT))
    os.close(root)
