"""Every namespace is found, whatever keeps it, and what is told of it is what lsns, ip and /proc say."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.cli.mounts import _hidden as hidden
from nstool.errors import KernelError, NotSupported, plural
from nstool.inspect import namespaces, nsfs
from nstool.inspect.map import host_map
from nstool.inspect.namespaces import Census, Namespace, Pin, census
from nstool.inspect.propagation import graph
from nstool.inspect.words import pins_in_words
from nstool.sandbox import facts
from tests.support import kernel, processes
from tests.support.waiting import in_pid_namespace, thread, waiting

pytestmark = pytest.mark.needs("root", "native")

KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")
ALL = (
    uapi.CLONE_NEWUSER
    | uapi.CLONE_NEWNS
    | uapi.CLONE_NEWNET
    | uapi.CLONE_NEWUTS
    | uapi.CLONE_NEWIPC
    | uapi.CLONE_NEWCGROUP
)


def inode(path: str) -> int:
    return os.stat(path).st_ino


def own(kind: str, pid: int | str = "self") -> int:
    return inode(f"/proc/{pid}/ns/{kind}")


def found(kind: str, number: int, all_: Census | None = None) -> Namespace | None:
    """Return the namespace as the census tells of it, None if it does not."""
    rows = [ns for ns in (all_ or census()).namespaces if (ns.type, ns.inode) == (kind, number)]
    assert len(rows) < 2
    return rows[0] if rows else None


def the(kind: str, number: int, all_: Census | None = None) -> Namespace:
    ns = found(kind, number, all_)
    assert ns is not None, f"{kind}:[{number}] was not found"
    return ns


def private() -> None:
    """Give the calling process a mount namespace whose mounts nobody else sees, with an empty /tmp."""
    kernel.unshare(uapi.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs")


def bind(source: str, target: str) -> None:
    with open(target, "x"):
        pass
    kernel.mount(source, target, flags=kernel.MS_BIND)


def new(kind: str) -> int:
    """Make a namespace that no process is in and return an fd of it, which alone keeps it."""
    flag = {"net": uapi.CLONE_NEWNET, "uts": uapi.CLONE_NEWUTS, "user": uapi.CLONE_NEWUSER, "mnt": uapi.CLONE_NEWNS}
    with waiting(kernel.unshare, flag[kind]) as (pid, _):
        return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)


def setns(pid: int, kind: str) -> None:
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    syscalls.setns(fd)
    os.close(fd)


def lsns() -> dict[tuple[str, int], int]:
    """Return the number of processes by (type, inode) as lsns(8) has it."""
    done = subprocess.run(["lsns", "--json", "--output", "NS,TYPE,NPROCS"], capture_output=True, check=True)
    return {(row["type"], int(row["ns"])): row["nprocs"] for row in json.loads(done.stdout)["namespaces"]}


# ---- compared with others ----


def test_lsns_finds_the_same_namespaces_with_the_same_counts(in_child: Callable[..., Any]) -> None:
    """In a pid namespace with boxes, threads and a zombie: type, inode, number of processes; lsns counts itself too."""

    def zombie() -> int:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return pid

    def act() -> tuple[dict[tuple[str, int], int], dict[tuple[str, int], int], int]:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                box, _ = stack.enter_context(waiting(kernel.unshare, ALL))
                for _ in range(2):
                    stack.enter_context(waiting(join, box))
            stack.enter_context(waiting(kernel.unshare, uapi.CLONE_NEWNET))
            stack.enter_context(waiting(zombie))
            ours = {(ns.type, ns.inode): len(ns.pids) for ns in census().namespaces}
            theirs = lsns()
        for kind in KINDS:
            theirs[kind, own(kind)] -= 1  # lsns itself
        return ours, theirs, own("user")

    ours, theirs, outside = in_child(in_pid_namespace, act)
    with_members = {key: number for key, number in ours.items() if number}
    assert with_members == {key: number for key, number in theirs.items() if number}
    assert set(theirs) <= set(ours)
    assert len([key for key in ours if key[0] == "user"]) == 4
    assert ours["user", outside] == 4  # this one, the net box, the zombie and its parent


def join(pid: int) -> None:
    """Enter all namespaces of a process but its pid and time namespaces."""
    fd = os.pidfd_open(pid)
    syscalls.setns(fd, ALL)
    os.close(fd)


def test_lsns_finds_nothing_on_the_host_that_is_not_found() -> None:
    """What lsns sees before and after is in the census."""

    def lines() -> set[str]:
        # lsns itself ends with status 1 when a process ends while it is read.
        while (done := subprocess.run(command, capture_output=True, text=True)).returncode:
            continue
        return set(done.stdout.splitlines())

    command = ["lsns", "--noheadings", "--raw", "--output", "NS,TYPE,PID"]
    before = lines()
    names = {(ns.type, ns.inode) for ns in census().namespaces}
    # With the same process: others on this host may meanwhile end one and make another with its inode.
    for line in before & lines():
        number, kind, _ = line.split()
        assert (kind, int(number)) in names, line


def test_members_are_those_of_proc(in_child: Callable[..., Any]) -> None:
    """In a pid namespace of its own: every link of every process, read by hand, and nothing else."""

    def act() -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        with waiting(kernel.unshare, ALL), waiting(kernel.unshare, uapi.CLONE_NEWUTS), waiting():
            by_hand: dict[str, list[int]] = {}
            for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
                for kind in KINDS:
                    by_hand.setdefault(os.readlink(f"/proc/{pid}/ns/{kind}"), []).append(pid)
            return by_hand, {ns.name: list(ns.pids) for ns in census().namespaces if ns.pids}

    by_hand, ours = in_child(in_pid_namespace, act)
    assert ours == by_hand
    assert len(ours) == 8 + 6 + 1


def test_the_oldest_member_is_told_whatever_its_pid(in_child: Callable[..., Any]) -> None:
    """Pids begin anew: the oldest has not the lowest then; lsns tells the lowest."""

    def act() -> tuple[int, int, tuple[str, ...], int]:
        def first() -> None:
            kernel.unshare(uapi.CLONE_NEWUTS)

        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write("500")
        with waiting(first) as (old, _):
            with open(f"/proc/{old}/stat") as file:
                begin = int(file.read().rpartition(")")[2].split()[19])
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write("100")
            while clock_ticks() <= begin:  # ten milliseconds
                pass
            with waiting(setns, old, "uts") as (young, _):
                ns = the("uts", own("uts", old))
                assert ns.pids == (young, old)
                with open(f"/proc/{old}/cmdline") as file:
                    command = tuple(file.read().split("\0")[:-1])
                assert ns.command == command
                return young, old, ns.command, ns.oldest

    young, old, command, oldest = in_child(in_pid_namespace, act)
    assert young < old == oldest
    assert command


def clock_ticks() -> int:
    """Return the time since boot in the unit of starttime."""
    with open("/proc/uptime") as file:
        return int(float(file.read().split()[0]) * os.sysconf("SC_CLK_TCK"))


@pytest.mark.needs("ip", "cached_paths")
def test_named_network_namespaces_of_ip_are_found(in_child: Callable[..., Any]) -> None:
    """ip netns add keeps them by a bind mount, without a process."""

    def act() -> None:
        private()
        kernel.mount("tmpfs", "/run", "tmpfs")
        for name in ("blue", "green"):
            subprocess.run(["ip", "netns", "add", name], check=True)
        names = json.loads(subprocess.run(["ip", "-j", "netns", "list"], capture_output=True, check=True).stdout)
        all_ = in_child(census)  # not the first process that sees them, but the one whose paths are told
        for row in names:
            path = f"/run/netns/{row['name']}"
            ns = the("net", inode(path), all_)
            assert ns.pids == ()
            assert Pin("mount", path=path, mnt=own("mnt")) in ns.pins
            assert (ns.owner, ns.owner_uid, ns.unread) == (own("user"), 0, {})
        assert sorted(row["name"] for row in names) == ["blue", "green"]

    in_child(act)


# ---- what keeps a namespace ----


@pytest.mark.parametrize("kind", ["net", "uts", "user", "mnt"])
def test_held_by_an_fd_only(in_child: Callable[..., Any], kind: str) -> None:
    def act() -> None:
        fd = new(kind)
        ns = the(kind, os.fstat(fd).st_ino)
        assert (ns.pids, ns.oldest, ns.command, ns.uid) == ((), 0, (), None)
        assert ns.pins == (Pin("fd", os.getpid(), fd=fd),)
        assert (ns.owner, ns.owner_uid) == (own("user"), 0)
        assert ns.parent == (own("user") if kind == "user" else None)
        number = os.fstat(fd).st_ino
        os.close(fd)
        assert found(kind, number) is None

    in_child(in_pid_namespace, act)  # others give the inodes again


@pytest.mark.needs("cached_paths")
def test_hidden_in_another_mount_namespace(in_child: Callable[..., Any]) -> None:
    """Bound where only another process sees it, at a path with a space, and with what ends lines for Python alone."""
    escaped = "/tmp/a\\040b\v\x1c\x85\u2028/net"
    path = "/tmp/a b\v\x1c\x85\u2028/net"

    def hide() -> int:
        private()
        os.mkdir(os.path.dirname(path))
        fd = new("net")
        bind(f"/proc/self/fd/{fd}", path)
        os.close(fd)
        return inode(path)

    def act() -> None:
        with waiting(hide) as (pid, number):
            ns = the("net", number)
            assert ns.pins == (Pin("mount", pid, path=path, mnt=own("mnt", pid)),)
            assert (ns.owner, ns.unread) == (own("user"), {})
            with open(f"/proc/{pid}/mountinfo") as file:
                assert f" net:[{number}] {escaped} " in file.read()
        assert found("net", number) is None

    in_child(in_pid_namespace, act)  # others give the inodes again


def test_a_process_with_the_whole_root_is_asked_for_mounts(in_child: Callable[..., Any]) -> None:
    """One in a chroot sees what is below it only; paths are told from the namespace's root, each mount once."""

    def hide() -> tuple[int, int]:
        private()
        os.mkdir("/tmp/jail")
        for name in ("outside", "jail/inside"):
            fd = new("uts")
            bind(f"/proc/self/fd/{fd}", f"/tmp/{name}")
            os.close(fd)
        return inode("/tmp/outside"), inode("/tmp/jail/inside")

    def jailed(pid: int) -> None:
        setns(pid, "mnt")
        os.chroot("/tmp/jail")

    def act() -> None:
        with contextlib.ExitStack() as stack:
            with waiting(hide) as (first, (outside, inside)):
                stack.enter_context(waiting(jailed, first))
                pid, _ = stack.enter_context(waiting(setns, first, "mnt"))
            all_ = census()
            mnt = own("mnt", pid)
            assert the("uts", outside, all_).pins == (Pin("mount", pid, path="/tmp/outside", mnt=mnt),)
            assert the("uts", inside, all_).pins == (Pin("mount", pid, path="/tmp/jail/inside", mnt=mnt),)

    in_child(act)


def test_below_a_chroot_where_nobody_sees_more(in_child: Callable[..., Any]) -> None:
    """The only processes of a mount namespace are in chroots: what each sees is found, and told once."""

    def prepare() -> tuple[int, ...]:
        private()
        for name in ("one", "two"):
            os.mkdir(f"/tmp/{name}")
            fd = new("uts")
            bind(f"/proc/self/fd/{fd}", f"/tmp/{name}/ns")
            os.close(fd)
        return own("mnt"), inode("/tmp/one/ns"), inode("/tmp/two/ns")

    def jailed(pid: int, name: str) -> None:
        setns(pid, "mnt")
        os.chroot(f"/tmp/{name}")

    def act() -> None:
        with contextlib.ExitStack() as jails:
            with waiting(prepare) as (pid, (mnt, *numbers)):
                pids = [jails.enter_context(waiting(jailed, pid, name))[0] for name in ("one", "two", "")]
            all_ = census()
            for pid, number in zip(pids[:2], numbers):
                ns = the("uts", number, all_)
                assert (ns.pins, ns.owner) == ((Pin("mount", pid, path="/ns", mnt=mnt),), own("user"))

    in_child(act)


@pytest.mark.needs("cached_paths")
def test_in_a_mount_namespace_without_a_process(in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount namespace that an fd keeps; bound in it a second, which is nowhere else; bound in that, a network.

    It is joined to be read; nobody is left in it.
    """

    def inner() -> int:
        kernel.unshare(uapi.CLONE_NEWNS)
        fd = new("net")
        bind(f"/proc/self/fd/{fd}", "/tmp/net")
        os.close(fd)
        return inode("/tmp/net")

    def outer() -> tuple[int, int, int]:
        private()
        with open("/tmp/mnt", "x"):
            pass
        while True:
            with waiting(inner) as (child, net):
                try:
                    kernel.mount(f"/proc/{child}/ns/mnt", "/tmp/mnt", flags=kernel.MS_BIND)
                except OSError as error:
                    # Only a younger one may be bound, by its id; each processor gives ids from a stock of its own.
                    if error.errno != errno.EINVAL:
                        raise
                    os.unlink("/tmp/net")
                    continue
                return own("mnt"), inode("/tmp/mnt"), net

    def act() -> None:
        with waiting(outer) as (pid, (outside, inside, net)):
            fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        all_ = census()
        assert the("mnt", outside, all_).pins == (Pin("fd", os.getpid(), fd=fd),)
        assert the("mnt", inside, all_).pins == (Pin("mount", path="/tmp/mnt", mnt=outside),)
        assert the("net", net, all_).pins == (Pin("mount", path="/tmp/net", mnt=inside),)
        for kind, number in (("mnt", outside), ("mnt", inside), ("net", net)):
            ns = the(kind, number, all_)
            assert (ns.pids, ns.owner, ns.unread) == ((), own("user"), {})
        with monkeypatch.context() as patched:  # one in another, and so on, ends somewhere, and that is said
            patched.setattr(namespaces, "DEEPEST", 1)
            all_ = census()
            assert the("mnt", inside, all_).pins == (Pin("mount", path="/tmp/mnt", mnt=outside),)
            assert found("net", net, all_) is None
            assert [note for note in all_.notes if f"is not known of mnt:[{inside}]" in note]
        os.close(fd)
        assert found("net", net) is None

    in_child(in_pid_namespace, act)  # others give the inodes again


def test_a_thread_elsewhere_is_told(in_child: Callable[..., Any]) -> None:
    """A thread that has moved keeps namespaces of its own; its process counts where the main thread is."""

    def act() -> None:
        with thread(lambda: kernel.unshare(uapi.CLONE_NEWNET | uapi.CLONE_NEWUTS | uapi.CLONE_NEWPID)) as tid:
            all_ = census()
            for kind in ("net", "uts"):
                ns = the(kind, inode(f"/proc/self/task/{tid}/ns/{kind}"), all_)
                assert (ns.pids, ns.pins) == ((), (Pin("thread", os.getpid(), tid),))
                assert os.getpid() in the(kind, own(kind), all_).pids

    in_child(act)


def test_a_process_whose_main_thread_has_ended(in_child: Callable[..., Any]) -> None:
    """The others live on: their namespaces are told as theirs, and their fds are looked at, sockets from Linux 6.9."""

    def act() -> None:
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            kernel.unshare(uapi.CLONE_NEWUTS)
            fd = new("net")
            back = os.open("/proc/self/ns/net", os.O_RDONLY)
            kernel.unshare(uapi.CLONE_NEWNET)
            abroad, sock = own("net"), socket.socket()
            syscalls.setns(back)

            def rest() -> None:
                tid = threading.get_native_id()
                while processes.read(os.getpid()).state != "Z":  # type: ignore[union-attr]
                    pass
                os.write(
                    tell,
                    struct.pack("6Q", tid, own("uts", "thread-self"), os.fstat(fd).st_ino, fd, abroad, sock.fileno()),
                )
                signal.pause()

            threading.Thread(target=rest).start()
            ctypes.CDLL(None).syscall(60, 0)  # exit(2) of this thread alone
        tid, uts, net, fd, abroad, sock = struct.unpack("6Q", os.read(told, 48))
        all_ = census()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert the("uts", uts, all_).pins == (Pin("thread", pid, tid),)
        assert the("net", net, all_).pins == (Pin("fd", pid, tid, fd),)
        assert pid in the("user", own("user"), all_).pids
        if threads:
            assert the("net", abroad, all_).pins == (Pin("socket", pid, tid, sock),)
        else:
            assert any("sockets did not tell" in note for note in all_.notes)

    try:
        os.close(os.pidfd_open(os.getpid(), uapi.PIDFD_THREAD))
        threads = True
    except OSError:  # EINVAL before Linux 6.9
        threads = False
    in_child(act)


def test_a_socket_keeps_its_network(in_child: Callable[..., Any]) -> None:
    """A socket stays in the network namespace where it was made, though the process has left. SIOCGSKNS."""

    def act() -> None:
        back = os.open("/proc/self/ns/net", os.O_RDONLY)
        kernel.unshare(uapi.CLONE_NEWNET)
        number, sock = own("net"), socket.socket()
        syscalls.setns(back)
        os.close(back)
        with waiting() as (heir, _):
            ns = the("net", number)
            assert set(ns.pins) == {Pin("socket", pid, fd=sock.fileno()) for pid in (os.getpid(), heir)}
            assert (ns.pids, ns.owner) == ((), own("user"))
        sock.close()
        assert found("net", number) is None

    in_child(in_pid_namespace, act)  # others give the inodes again


@pytest.mark.parametrize("instead", ["closed", "another"])
def test_a_socket_that_is_closed_meanwhile_is_told_of_the_next(
    in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, instead: str
) -> None:
    """The first process has closed it before it is asked, or has another at its number; the second has it still."""
    getfd = syscalls.pidfd_getfd

    def act() -> None:
        back = os.open("/proc/self/ns/net", os.O_RDONLY)
        other = socket.socket()
        kernel.unshare(uapi.CLONE_NEWNET)
        number, sock = own("net"), socket.socket()
        syscalls.setns(back)
        os.close(back)
        first = iter([9999 if instead == "closed" else other.fileno()])

        def late(pidfd: int, fd: int) -> int:
            return getfd(pidfd, next(first, fd) if fd == sock.fileno() else fd)

        with waiting() as (heir, _):
            monkeypatch.setattr(syscalls, "pidfd_getfd", late)
            all_ = census()
            assert list(first) == []
            assert the("net", number, all_).pins == (Pin("socket", heir, fd=sock.fileno()),)
            assert not [note for note in all_.notes if "did not tell" in note]

    in_child(in_pid_namespace, act)


def test_children_to_come_keep_a_namespace(in_child: Callable[..., Any]) -> None:
    """unshare(CLONE_NEWTIME), and CLONE_NEWPID whose init has ended: nobody is in them."""

    def prepare() -> tuple[int, int]:
        kernel.unshare(uapi.CLONE_NEWPID | uapi.CLONE_NEWTIME)
        init = os.fork()
        if init == 0:
            os._exit(0)
        os.waitpid(init, 0)
        return own("pid_for_children"), own("time_for_children")

    def act() -> None:
        with waiting(prepare) as (pid, numbers):
            all_ = census()
            for kind, number in zip(("pid", "time"), numbers):
                ns = the(kind, number, all_)
                assert (ns.pids, ns.pins) == ((), (Pin("for_children", pid),))
                assert number != own(kind, pid)
                assert ns.parent == (own("pid") if kind == "pid" else None)

    in_child(act)


def test_parents_and_owners_without_a_process(in_child: Callable[..., Any]) -> None:
    """Two user namespaces, one in the other: the outer has no process, and is told of by the inner alone."""

    def nest() -> tuple[int, int, int]:
        kernel.unshare(uapi.CLONE_NEWUSER)
        kernel.map_root()  # who has no id there may make no other
        outer = own("user")
        kernel.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWNET)
        return outer, own("user"), own("net")

    def act() -> None:
        with waiting(nest) as (pid, (outer, inner, net)):
            all_ = census()
            top = the("user", outer, all_)
            assert (top.pids, top.parent, top.owner, top.owner_uid) == ((), own("user"), own("user"), 0)
            assert top.pins == (Pin("child", namespace=f"user:[{inner}]"),)
            assert the("user", inner, all_).pins == (Pin("owned", namespace=f"net:[{net}]"),)
            assert (the("user", inner, all_).parent, the("net", net, all_).owner) == (outer, inner)
            assert the("net", net, all_).pids == (pid,)
            assert Pin("child", namespace=f"user:[{outer}]") in the("user", own("user"), all_).pins

    in_child(act)


def test_a_zombie_is_in_its_user_and_pid_namespace_only(in_child: Callable[..., Any]) -> None:
    def act() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        all_ = census()
        process = next(process for process in all_.processes if process.pid == pid)
        assert (process.state, set(process.namespaces)) == ("Z", {"user", "pid"})
        for kind in KINDS:
            assert (pid in the(kind, own(kind), all_).pids) is (kind in ("user", "pid"))
        os.waitpid(pid, 0)

    in_child(act)


# ---- places that lead elsewhere, or nowhere ----


def test_a_covered_file_is_told_with_what_is_not_known(in_child: Callable[..., Any]) -> None:
    """The bind mount is there, and keeps the namespace; a mount above it hides its file."""

    def cover() -> int:
        private()
        os.mkdir("/tmp/dir")
        fd = new("net")
        bind(f"/proc/self/fd/{fd}", "/tmp/dir/net")
        os.close(fd)
        number = inode("/tmp/dir/net")
        kernel.mount("tmpfs", "/tmp/dir", "tmpfs")
        return number

    def act() -> None:
        with waiting(cover) as (pid, number):
            ns = the("net", number)
            assert ns.pins == (Pin("mount", pid, path="/tmp/dir/net", mnt=own("mnt", pid)),)
            assert ns.owner is None
            assert set(ns.unread) == {"id", "parent", "owner", "owner_uid"}
            assert "covered by another mount" in ns.unread["owner"]

    in_child(act)


def test_a_filesystem_that_never_answers_is_not_waited_for(in_child: Callable[..., Any]) -> None:
    """Who may mount FUSE can lay a path through it that stops whoever walks it; a reader of all must not."""

    def trap() -> tuple[int, int]:
        private()
        os.mkdir("/tmp/trap")
        fuse = os.open("/dev/fuse", os.O_RDWR)
        kernel.mount("trap", "/tmp/trap", "fuse", 0, f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other")
        server = threading.Thread(target=serve, args=(fuse,), daemon=True)
        server.start()
        fd = new("net")
        kernel.mount(f"/proc/self/fd/{fd}", "/tmp/trap/net", flags=kernel.MS_BIND)
        number = os.fstat(fd).st_ino
        os.close(fd)
        stop.set()
        return number, fuse

    stop = threading.Event()

    def serve(fuse: int) -> None:
        """Answer the first questions, so that there is a file to bind to; then none any more. fuse(4)."""
        attributes = struct.pack("6Q10I", 2, 0, 0, 0, 0, 0, 0, 0, 0, 0o100644, 1, 0, 0, 0, 512, 0)
        root = struct.pack("6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o040755, 2, 0, 0, 0, 512, 0)
        while True:
            request = os.read(fuse, 1 << 17)
            if stop.is_set():
                return
            _, opcode, unique, node = struct.unpack_from("IIQQ", request)
            if opcode == 26:  # INIT: version 7.31
                body = struct.pack("4I2H10I", 7, 31, 0, 0, 0, 0, 4096, 0, *[0] * 8)
            elif opcode == 1:  # LOOKUP: a file, to be asked for again each time
                body = struct.pack("4Q2I", 2, 0, 0, 0, 0, 0) + attributes
            elif opcode == 3:  # GETATTR
                body = struct.pack("Q2I", 0, 0, 0) + (root if node == 1 else attributes)
            else:
                os.write(fuse, struct.pack("IiQ", 16, -errno.ENOSYS, unique))
                continue
            os.write(fuse, struct.pack("IiQ", 16 + len(body), 0, unique) + body)

    def act() -> None:
        with waiting(trap) as (pid, (number, _)):
            reader = os.fork()
            if reader == 0:
                status = 1
                try:
                    ns = the("net", number)
                    assert ns.pins == (Pin("mount", pid, path="/tmp/trap/net", mnt=own("mnt", pid)),)
                    assert "without waiting" in ns.unread["owner"]
                    status = 0
                finally:
                    os._exit(status)
            pidfd = os.pidfd_open(reader)
            ended, _, _ = select.select([pidfd], [], [], 60)
            os.kill(reader, signal.SIGKILL)
            assert ended, "the reader waits for a filesystem"
            assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
            os.close(pidfd)

    in_child(act)


def test_paths_longer_than_a_page_stop_nobody(in_child: Callable[..., Any]) -> None:
    """The kernel refuses to tell them (ENAMETOOLONG), of open files and of roots: bound there is found all the same."""

    def hide() -> int:
        private()
        os.chdir("/tmp")
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        os.open(".", os.O_RDONLY)
        fd = new("uts")
        bind(f"/proc/self/fd/{fd}", "ns")
        number = os.fstat(fd).st_ino
        os.close(fd)
        os.chroot(".")
        return number

    def act() -> None:
        with waiting(hide) as (pid, number):
            with pytest.raises(OSError, match="File name too long"):
                os.readlink(f"/proc/{pid}/root")
            ns = the("uts", number)
            assert (ns.pins, ns.owner) == ((Pin("mount", pid, path="/ns", mnt=own("mnt", pid)),), own("user"))
            assert host_map().cards[pid].root == ""

    in_child(act)


def test_what_a_link_leads_to_by_now_is_not_opened(tmp_path: Any) -> None:
    """A fifo would stop who opens it, a device might act: only the wanted namespace is opened."""
    os.mkfifo(tmp_path / "fifo")
    link = tmp_path / "link"
    link.symlink_to("fifo")
    assert nsfs.open_link(str(link), own("net")) == -1
    assert nsfs.open_link("/proc/self/ns/uts", own("net")) == -1
    (tmp_path / "file").touch()
    assert nsfs.open_link(str(tmp_path / "file"), inode(str(tmp_path / "file"))) == -1  # by chance, the same number
    fd = nsfs.open_link("/proc/self/ns/net", own("net"))
    assert os.fstat(fd).st_ino == own("net")
    os.close(fd)
    link.unlink()
    link.symlink_to("/proc/self/ns/net")
    fd = nsfs.open_bound("/", "/proc/self/ns/net", own("net"))
    assert fd == -1  # by a magic link
    assert nsfs.open_bound(str(tmp_path), "/link", own("net")) == -1  # out of the root


# ---- processes that come and go ----


def test_processes_that_come_and_go_disturb_nothing(in_child: Callable[..., Any]) -> None:
    """Some make namespaces and end all the time; each census is whole, and what stays is told the same each time."""

    def short_life() -> None:
        if os.fork() == 0:
            thread = threading.Thread(target=kernel.unshare, args=(uapi.CLONE_NEWUTS,))
            thread.start()
            thread.join()
        else:
            kernel.unshare(ALL & ~uapi.CLONE_NEWNET | uapi.CLONE_NEWPID)
            os.fork()

    def churn() -> None:
        os.nice(19)  # on one processor they would leave little of it to who looks
        for _ in range(2):
            if os.fork() == 0:
                while True:
                    pid = os.fork()
                    if pid == 0:
                        try:
                            short_life()
                        finally:
                            os._exit(0)
                    os.waitpid(pid, 0)

    def act() -> tuple[int, int]:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        with waiting(kernel.unshare, ALL) as (box, _), waiting(join, box) as (second, _):
            numbers = {kind: own(kind, box) for kind in KINDS}
            with waiting(churn):
                seen: set[str] = set()
                names: set[str] = set()
                rounds = 0
                while rounds < 40 or (rounds < 4000 and len(seen) == len(names)):
                    rounds += 1
                    all_ = census()
                    for kind, number in numbers.items():
                        ns = the(kind, number, all_)
                        assert {box, second} <= set(ns.pids)
                        if kind not in ("pid", "time"):
                            assert (ns.pids, ns.oldest) == ((box, second), box)
                    names = {ns.name for ns in all_.namespaces}
                    seen |= names
                    for ns in all_.namespaces:
                        for above in (f"user:[{ns.owner}]" if ns.owner else "", *(pin.namespace for pin in ns.pins)):
                            assert not above or above in names
                        assert ns.pids or ns.pins
            return len(seen), len(names)

    seen, last = in_child(in_pid_namespace, act)
    assert seen > last  # others were met on the way


# ---- rights ----


def real_uid(pid: int) -> int | None:
    """The real user id of a process, None of one that has ended. proc_pid_status(5)."""
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("\nUid:")[1].split()[0])
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_an_ordinary_user_is_told_what_could_not_be_seen(as_user: Callable[..., Any]) -> None:
    """Its own processes are looked into; the others are counted, and the first is told with the remedy."""

    def act() -> None:
        all_ = census()
        assert os.getpid() in {process.pid for process in all_.processes}
        assert 0 not in {real_uid(process.pid) for process in all_.processes}
        assert 1 in all_.hidden
        note = all_.notes[0]
        assert note.startswith(f"{len(all_.hidden)} of {len(all_.hidden) + len(all_.processes)} processes")
        assert "run as root" in note or "CAP_SYS_PTRACE" in note
        for kind in KINDS:
            assert the(kind, own(kind), all_).pids

    as_user(act)


def test_a_hidden_process_that_ends_meanwhile_is_not_asked_why(
    as_user: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next that is there is told with the cause; if none is, that is said. No process that has gone is an error."""
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    why = facts.why_hidden
    late = {"first": lambda pid: why(gone if pid == 1 else pid), "all": lambda pid: why(gone)}

    def act(who: str) -> str:
        monkeypatch.setattr(facts, "why_hidden", late[who])
        shown = hidden((1, 2))
        return "; ".join((census().notes[0], shown))

    assert "run as root" in as_user(act, "first")
    text = as_user(act, "all")
    assert "they have ended meanwhile" in text
    assert "2 processes could not be looked into, and ended meanwhile" in text


def notes_of(text: str) -> list[str]:
    return [note for note in census().notes if text in note]


def as_nobody(*keep: int) -> None:
    """Become an ordinary user, with these capabilities alone."""
    if keep:
        kernel.prctl(uapi.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    mask = sum(1 << number for number in keep)
    syscalls.capset(mask, mask, 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def test_hidden_processes_are_not_even_counted_and_that_is_said(in_child: Callable[..., Any]) -> None:
    """hidepid=, which whoever may look into all does not meet. proc(5)."""

    def act() -> None:
        kernel.mount("proc", "/proc", "proc", 0, "hidepid=invisible")
        with waiting():
            assert not notes_of("hidepid")
            as_nobody(uapi.CAP_KILL)
            assert len(notes_of("hidepid")) == 1
            assert len(census().processes) == 1

    in_child(in_pid_namespace, act)


def test_processes_that_are_listed_and_no_more_are_hidden_ones(in_child: Callable[..., Any]) -> None:
    """hidepid=noaccess: others are in the list, and nothing of them may be opened. They are counted, with the cause."""

    def act() -> None:
        kernel.mount("proc", "/proc", "proc", 0, "hidepid=noaccess")
        with waiting() as (pid, _):
            as_nobody(uapi.CAP_KILL)
            all_ = census()
            assert all_.hidden == graph().hidden == (pid,)
            assert [process.pid for process in all_.processes] == [os.getpid()]
            assert "left out; 2: /proc is mounted with hidepid=noaccess" in all_.notes[0]

    in_child(in_pid_namespace, act)


@pytest.mark.parametrize("hidepid", ["noaccess", "invisible"])
def test_a_visitor_that_is_hidden_is_no_error(in_child: Callable[..., Any], hidepid: str) -> None:
    """Who may join a mount namespace and not trace the child that has joined: what is bound there is not known."""

    def act() -> None:
        kernel.mount("proc", "/proc", "proc", 0, f"hidepid={hidepid}")
        fd = new("mnt")
        as_nobody(uapi.CAP_SYS_ADMIN, uapi.CAP_SYS_CHROOT)
        number = os.fstat(fd).st_ino
        assert [f"mnt:[{number}]" in note for note in notes_of("mount namespaces without a process")] == [True]

    in_child(in_pid_namespace, act)


def test_fds_that_may_not_be_listed_are_counted(in_child: Callable[..., Any]) -> None:
    """CAP_SYS_PTRACE shows the namespaces, and not the directory of the fds, which is its owner's."""

    def act() -> None:
        with waiting() as (pid, _):
            as_nobody(uapi.CAP_SYS_PTRACE, uapi.CAP_KILL)
            all_ = census()
            assert pid in the("net", own("net"), all_).pids
            number = len(all_.processes) - 1
            notes = [note for note in all_.notes if "may not be listed" in note]
            assert notes == [
                f"the fds of {plural(number, 'process')} may not be listed; run with CAP_DAC_READ_SEARCH, as root does"
            ]

    in_child(in_pid_namespace, act)


@pytest.mark.needs("userns")
def test_a_mount_namespace_that_may_not_be_joined_is_named(in_child: Callable[..., Any]) -> None:
    """An ordinary user holds one: what is bound in it stays unknown, and that is said."""

    def act() -> None:
        as_nobody()
        with waiting(kernel.unshare, uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS) as (pid, _):
            fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        ns = the("mnt", os.fstat(fd).st_ino)
        assert ns.pins == (Pin("fd", os.getpid(), fd=fd),)
        assert [ns.name in note for note in notes_of("mount namespaces without a process")] == [True]

    in_child(act)


@pytest.mark.needs("userns")
def test_from_inside_a_user_namespace_what_is_outside_stays_unknown(in_child: Callable[..., Any]) -> None:
    """The kernel tells nothing of what is not below: owner and parent are unknown, with the reason."""

    def act() -> None:
        kernel.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWNET)
        all_ = census()
        user = the("user", own("user"), all_)
        assert user.parent is None
        assert "above" in user.unread["parent"]
        assert the("net", own("net"), all_).owner == own("user")
        uts = the("uts", own("uts"), all_)
        assert (uts.owner, uts.owner_uid) == (None, None)
        assert "outside your user namespace" in uts.unread["owner"]

    in_child(act)


def test_the_first_namespaces_have_no_parent_and_that_is_known() -> None:
    """user and pid of the host: no reason is told, because nothing is unknown."""
    for kind in ("user", "pid"):
        ns = the(kind, own(kind))
        if ns.inode in (4026531837, 4026531836):
            assert (ns.parent, ns.unread) == (None, {})


def test_a_pid_namespace_says_that_the_host_is_not_seen(in_child: Callable[..., Any]) -> None:
    notes = in_child(in_pid_namespace, lambda: census().notes)
    assert any("outside your pid namespace" in note for note in notes)


def test_a_proc_of_a_pid_namespace_above_is_read_by_its_numbers(in_child: Callable[..., Any]) -> None:
    """They are not those of pidfd_open(2): no socket of another process is asked in error; the visitor is found."""

    def act() -> tuple[int, tuple[str, ...], bool]:
        number = int(os.readlink("/proc/self"))
        assert number != os.getpid()
        fd = new("mnt")
        all_ = census()
        held = the("mnt", os.fstat(fd).st_ino, all_)
        assert held.pins == (Pin("fd", number, fd=fd),)
        assert number in the("net", own("net"), all_).pids
        return os.getpid(), all_.notes, any(pin.how == "socket" for ns in all_.namespaces for pin in ns.pins)

    def outer() -> Any:
        from tests.support.child import run_in_child

        kernel.unshare(uapi.CLONE_NEWPID)
        return run_in_child(act)

    pid, notes, sockets = in_child(outer)
    assert pid == 1
    assert any("/proc is of a pid namespace above yours" in note for note in notes)
    assert not any("outside your pid namespace" in note or "mount namespaces without" in note for note in notes)
    assert not sockets


def test_without_proc_it_is_said_what_to_do(in_child: Callable[..., Any]) -> None:
    def act() -> None:
        private()
        kernel.mount("tmpfs", "/proc", "tmpfs")
        with pytest.raises(NotSupported, match="mount -t proc proc /proc"):
            census()

    in_child(act)


def test_ids_are_those_of_the_ioctl() -> None:
    """NS_GET_ID, where the kernel has it."""
    with open("/proc/self/ns/uts") as file:
        try:
            number = syscalls.ns_get_id(file.fileno())
        except KernelError:  # before Linux 6.18
            number = None
    assert the("uts", own("uts")).id == number


def test_one_namespace_held_many_times_is_told_of_by_some_and_a_number(in_child: Callable[..., Any]) -> None:
    """Each process tells the first, and how many more there are; who shares a table of files tells the same."""

    def hold() -> tuple[int, int, list[int]]:
        fd = new("net")
        number = os.fstat(fd).st_ino
        for _ in range(499):
            os.dup(fd)
        with socket.socket() as abroad:
            kernel.unshare(uapi.CLONE_NEWNET)
            for _ in range(300):
                os.dup(abroad.fileno())
        sharers = [sharing_files() for _ in range(3)]
        sockets = [
            fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}").find("socket:") > 0
        ]
        return number, len(sockets), sharers

    def act() -> None:
        lists: list[int] = []
        read = namespaces._Reader.read_table
        with pytest.MonkeyPatch.context() as patch, waiting(hold) as (pid, (number, sockets, sharers)):
            patch.setattr(
                namespaces._Reader, "read_table", lambda *words: (lists.append(words[1].pid), read(*words))[1]
            )
            all_ = census()
            for kind_number, how, many in ((number, "fd", 500), (own("net"), "socket", sockets)):
                ns = the("net", kind_number, all_)
                for process in (pid, *sharers):
                    pins = [pin for pin in ns.pinned(how) if pin.pid == process]
                    assert len(pins) == namespaces.PINS
                    assert len({pin.fd for pin in pins}) == len(pins)
                    assert [pin.more for pin in pins] == [0] * (namespaces.PINS - 1) + [many - namespaces.PINS]
                assert ns.count(how) == 4 * many
            assert {pid, *sharers} & set(lists) == {pid}
            assert pins_in_words(the("net", number, all_)).endswith(", and 1999 more")

    in_child(in_pid_namespace, act)


def sharing_files() -> int:
    """Make a child that shares the caller's open files, and waits. clone(2)"""
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(ctypes.c_long(56), ctypes.c_ulong(0x400 | signal.SIGCHLD), *[ctypes.c_ulong(0)] * 4)
    if pid == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        while True:
            signal.pause()
    return int(pid)


def test_roots_without_end_are_some_and_a_note(in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is in a mount namespace chooses how many roots its processes have; each shows what is below it."""
    monkeypatch.setattr(namespaces, "ROOTS", 3)

    def root(depth: int) -> None:
        os.chroot("/tmp/" + "d/" * depth)
        os.chdir("/")

    def hide() -> None:
        private()
        os.makedirs("/tmp/" + "d/" * 8)
        bind("/proc/self/ns/net", "/tmp/d/d/d/d/d/d/d/d/net")
        ready, tell = os.pipe()
        for depth in range(1, 9):
            if os.fork() == 0:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                root(depth)
                os.write(tell, b".")
                while True:
                    signal.pause()
        told = b""
        while len(told) < 8:
            told += os.read(ready, 8)
        root(8)

    def act() -> None:
        with waiting(hide) as (pid, _):
            all_ = census()
            mnt = own("mnt", pid)
            assert sum(pin.mnt == mnt for pin in the("net", own("net"), all_).pins) == 1
            (note,) = (note for note in all_.notes if "other roots" in note)
            assert f"mnt:[{mnt}] is told as 3 of its processes see it; 5 have other roots" in note

    in_child(in_pid_namespace, act)


def test_a_namespace_bound_many_times_is_told_of_by_some_and_a_number(in_child: Callable[..., Any]) -> None:
    """The paths of the first, and how many more there are."""

    def hide() -> None:
        private()
        for name in range(100):
            bind("/proc/self/ns/uts", f"/tmp/{name}")

    def act() -> None:
        with waiting(hide) as (pid, _):
            ns = the("uts", own("uts"))
            pins = [pin for pin in ns.pinned("mount") if pin.mnt == own("mnt", pid)]
            assert (len(pins), pins[-1].more) == (namespaces.PINS, 100 - namespaces.PINS)

    in_child(in_pid_namespace, act)
