"""Paths of a process: what is found is what a process that is there finds; hostile trees are walked and not opened."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError
from nstool.inspect.paths import Here, There, from_host, locate
from nstool.inspect.proc import ProcessGone
from tests.kernel.inspect.test_mounts import WEIRD, bind, nstool, tmpfs
from tests.support import kernel
from tests.support.child import run_in_child
from tests.support.held import held, own_user_namespace, private_mounts
from tests.support.probes import missing

Act = Callable[..., Any]

MS_NOSYMFOLLOW = 256


def chroot(path: str) -> Callable[[], None]:
    """Return what makes a directory the root and working directory."""

    def act() -> None:
        os.chroot(path)
        os.chdir("/")

    return act


def pivot(path: str) -> None:
    """Enter a mount namespace in which this directory is the root and nothing else is mounted."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount(path, path, flags=kernel.MS_BIND | kernel.MS_REC)
    os.chdir(path)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", kernel.MNT_DETACH)
    os.chdir("/")


def asked_there(pid: int, path: str) -> tuple[int, int] | str:
    """Return (device, inode) of what the process itself finds, or the errno: by a shell that has its root and cwd."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            root, cwd = (os.open(f"/proc/{pid}/{name}", os.O_PATH) for name in ("root", "cwd"))
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(cwd)
            try:
                found = os.stat(path)
                answer = f"{found.st_dev} {found.st_ino}"
            except OSError as error:
                answer = os.strerror(error.errno or 0)
            os.write(writer, answer.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    device, _, inode = text.partition(" ")
    return (int(device), int(inode)) if device.isdecimal() else text


def said(found: There) -> tuple[int, int] | str:
    """Return the same of what was located."""
    if found.found.refusal is not None:
        return os.strerror(getattr(errno, found.found.refusal.errno))
    file = found.found.file
    assert file is not None
    major, minor = map(int, file.device.split(":"))
    return os.makedev(major, minor), file.inode


def hostile_tree() -> None:
    """Make below /tmp/r all that a path may meet."""
    os.makedirs("/tmp/r/a/b/c")
    os.makedirs("/tmp/r/etc")
    for name in ("passwd", "etc/passwd", "a/b/c/file"):
        Path("/tmp/r", name).write_text(name)
    links = {
        "up": "../../../../../etc/passwd",
        "absolute": "/etc/passwd",
        "relative": "a/b/../b/c/file",
        "directory": "a/b/",
        "loop": "loop",
        "ping": "pong",
        "pong": "/ping",
        "dangling": "nothing/there",
        "a/b/back": "..",
        "dot": ".",
        "link0": "a",
        "slow": "a/b/c/file/",
    }
    for name, target in links.items():
        os.symlink(target, f"/tmp/r/{name}")
    for number in range(1, 50):
        os.symlink(f"link{number - 1}", f"/tmp/r/link{number}")
    os.mkfifo("/tmp/r/fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("/tmp/r/socket")
    tmpfs("/tmp/r/m")
    tmpfs("/tmp/r/m/n")
    Path("/tmp/r/m/n/file").write_text("on a mount")
    os.symlink("/m/n/../../etc", "/tmp/r/m/n/out")
    tmpfs("/tmp/r/stack")
    Path("/tmp/r/stack/below").touch()
    tmpfs("/tmp/r/stack")
    Path("/tmp/r/stack/above").touch()
    os.makedirs("/tmp/r/nosym")
    kernel.mount("tmpfs", "/tmp/r/nosym", "tmpfs", MS_NOSYMFOLLOW)
    os.symlink("x", "/tmp/r/nosym/link")
    bind("/tmp/r/etc", "/tmp/r/bound")


WALKS = [
    *(
        "/",
        "//",
        "/.",
        "/..",
        "/../../etc/passwd",
        "/etc/passwd",
        "/etc//./passwd",
        "/etc/passwd/",
        "/etc/passwd/.",
        "/etc/",
    ),
    *(
        "/up",
        "/absolute",
        "/relative",
        "/directory",
        "/directory/c/file",
        "/loop",
        "/ping",
        "/dangling",
        "/a/b/back/b/c/file",
    ),
    *("/dot/dot/dot/a", "/link0", "/link39", "/link40", "/link41", "/link49", "/slow", "/fifo", "/fifo/", "/socket"),
    *("/m", "/m/n/file", "/m/n/out/passwd", "/m/n/../..", "/m/n/../../a", "/stack/above", "/stack/below", "/stack/.."),
    *(
        "/nosym/link",
        "/bound/passwd",
        "/bound/../passwd",
        "/nothing",
        "/a/nothing/x",
        "/a/" + "x" * 255,
        "/a/" + "x" * 256,
    ),
    *(
        "a/b",
        "a/b/../../etc/passwd",
        "../a",
        ".",
        "..",
        "./fifo",
        "nothing",
        "/" + "./" * 2047,
        "/" + "./" * 2047 + "a",
    ),
    *("/a/b/c/" + "../c/" * 700 + "file", "/" + "x/" * 2000),
]


@pytest.mark.needs("root")
@pytest.mark.parametrize("enter", ["chroot to a mount", "chroot to a directory", "a namespace of its own"])
def test_every_path_is_what_the_process_finds(in_child: Act, enter: str) -> None:
    """The same inode, or the same errno, as a process with that root and working directory gets from stat(2)."""
    ways = {"chroot to a mount": chroot("/tmp/r"), "chroot to a directory": chroot("/tmp/r")}

    def act() -> list[Any]:
        private_mounts()
        if enter != "chroot to a directory":
            tmpfs("/tmp/r")
        hostile_tree()
        with held(ways.get(enter, lambda: pivot("/tmp/r"))) as pid:
            differ = []
            for path in WALKS:
                told, true = said(locate(pid, path)), asked_there(pid, path)
                if told != true:
                    differ.append((path[:40], told, true))
            return differ

    assert in_child(act) == []


@pytest.mark.needs("root")
def test_a_root_with_something_mounted_over_it(in_child: Act) -> None:
    """ "/.." enters that, "/" does not: as the kernel has it."""

    def act() -> list[Any]:
        private_mounts()
        tmpfs("/tmp/r")
        Path("/tmp/r/old").touch()

        def over() -> None:
            chroot("/tmp/r")()
            kernel.mount("tmpfs", "/", "tmpfs")

        with held(over) as pid:
            paths = ("/", "/..", "/old", "/../old", "/../..")
            return [
                (said(locate(pid, path)) == asked_there(pid, path), said(locate(pid, path)) == said(locate(pid, "/")))
                for path in paths
            ]

    found = in_child(act)
    assert [same for same, _ in found] == [True] * 5
    assert [top for _, top in found] == [True, False, False, False, False]


@pytest.mark.needs("root")
def test_the_steps_of_a_walk(in_child: Act) -> None:
    """Each symlink with what it says, each mount that was entered, and where one would see the file."""

    def act() -> Any:
        private_mounts()
        hostile_tree()
        with held(chroot("/tmp/r")) as pid:
            found = locate(pid, "/m/n/out/../absolute")
            steps = [(step.path, step.kind, step.link) for step in found.found.steps]
            mounts = len({step.mount for step in found.found.steps})
            return steps, mounts, found.found.path, found.found.in_file_system, [(s.path, s.why) for s in found.here]

    steps, mounts, path, inside, here = in_child(act)
    assert steps == [
        ("/m", "directory", ""),
        ("/m/n", "directory", ""),
        ("/m/n/out", "symlink", "/m/n/../../etc"),
        ("/m", "directory", ""),
        ("/m/n", "directory", ""),
        ("/etc", "directory", ""),
        ("/absolute", "symlink", "/etc/passwd"),
        ("/etc", "directory", ""),
        ("/etc/passwd", "file", ""),
    ]
    assert mounts == 3
    assert path == "/etc/passwd"
    assert inside == "/r/etc/passwd"
    assert here == [("/tmp/r/etc/passwd", ""), ("/tmp/r/bound/passwd", "")]


@pytest.mark.needs("root")
def test_both_ways_agree(in_child: Act) -> None:
    """What the process has at a path is found from here at the path that was said, and back again."""

    def act() -> Any:
        private_mounts()
        hostile_tree()
        with held(lambda: pivot("/tmp/r")) as pid:
            told = {}
            for path in ("/etc/passwd", "/m/n/file", "/stack/above", "/"):
                there = locate(pid, path)
                visible = [seen.path for seen in there.here if not seen.why]
                back = {seen.path for own in visible for seen in from_host(pid, own).there if not seen.why}
                told[path] = visible, sorted(back)
            return told

    told = in_child(act)
    assert told["/etc/passwd"] == (["/tmp/r/etc/passwd", "/tmp/r/bound/passwd"], ["/bound/passwd", "/etc/passwd"])
    assert told["/m/n/file"] == (["/tmp/r/m/n/file"], ["/m/n/file"])
    assert told["/stack/above"] == (["/tmp/r/stack/above"], ["/stack/above"])
    assert told["/"] == (["/tmp/r"], ["/"])


@pytest.mark.needs("root")
def test_why_a_file_is_not_seen(in_child: Act) -> None:
    """Covered there; mounted there, but other parts of it; mounted, but out of reach; not mounted at all; not there."""

    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/fs")
        os.makedirs("/tmp/fs/part/x/deep/down")
        os.makedirs("/tmp/fs/other")
        tmpfs("/tmp/elsewhere")
        tmpfs("/tmp/r")
        bind("/tmp/fs/part", "/tmp/r/part")
        tmpfs("/tmp/cover")

        def cover() -> None:
            chroot("/tmp/r")()
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("tmpfs", "/part", "tmpfs")

        def between() -> None:
            chroot("/tmp/r")()
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("tmpfs", "/part/x", "tmpfs")

        with held(chroot("/tmp/r")) as plain, held(cover) as covered, held(between) as inner:
            return [
                why_not(inner, "/tmp/fs/part/x"),
                why_not(inner, "/tmp/fs/part/x/deep/down"),
                why_not(plain, "/tmp/fs/part/x"),
                why_not(covered, "/tmp/fs/part/x"),
                why_not(plain, "/tmp/fs/other"),
                why_not(plain, "/tmp/elsewhere"),
                why_not(plain, "/tmp/nothing"),
            ]

    inner, below, seen, covered, other, elsewhere, nothing = in_child(act)
    assert "/part/x: it is covered there by mount" in inner
    assert "on /part/x" in inner
    assert "/part/x/deep/down: it is covered on the way by mount" in below
    assert "on /part/x" in below
    assert seen == ["/part/x"]
    assert "/part/x: this mount is covered by mount" in covered
    assert "on /part" in covered
    if not missing("statmount"):  # which tells of those outside too
        assert "/tmp/fs/part/x: this mount is not below its root directory" in covered
        assert "this mount is not below its root directory" in other
        assert "this mount is not below its root directory" in elsewhere
    assert nothing == "there is no such file here"


def why_not(pid: int, path: str) -> Any:
    found = from_host(pid, path)
    return found.why_not or [seen.path for seen in found.there if not seen.why]


@pytest.mark.needs("root")
def test_what_is_not_mounted_there(in_child: Act) -> None:
    def act() -> Any:
        private_mounts()
        tmpfs("/tmp/r")
        with held(lambda: pivot("/tmp/r")) as pid:
            tmpfs("/tmp/new")
            bind("/tmp/r", "/tmp/again")
            os.mkdir("/tmp/r/sub")
            return why_not(pid, "/tmp/new"), why_not(pid, "/tmp/again/sub"), why_not(pid, "/proc/version")

    new, again, proc = in_child(act)
    assert "is not mounted in the mount namespace of the process" in new
    assert new.startswith("its file system tmpfs tmpfs (0:")
    assert again == ["/sub"]
    assert "proc proc" in proc


@pytest.mark.needs("root", "overlay")
def test_overlays(in_child: Act) -> None:
    """Layers of any name; a file of a lower layer is seen through the overlay until it is copied up."""

    def act() -> Any:
        private_mounts()
        lower, upper = "/tmp/lo:w er", "/tmp/up"
        for path in (lower, upper, "/tmp/work", "/tmp/r"):
            os.mkdir(path)
        for name in ("kept", "changed", "removed"):
            Path(lower, name).write_text(name)
        os.symlink("/etc", f"{lower}/dir")
        options = f"lowerdir={lower.replace(':', chr(92) + ':')},upperdir={upper},workdir=/tmp/work"
        kernel.mount("overlay", "/tmp/r", "overlay", 0, options)
        Path("/tmp/r/changed").write_text("by the overlay")
        os.unlink("/tmp/r/removed")
        os.unlink("/tmp/r/dir")
        os.mkdir("/tmp/r/dir")
        Path("/tmp/r/dir/passwd").touch()
        with held(lambda: pivot("/tmp/r")) as pid:
            there = locate(pid, "/kept")
            layers = [(layer.role, layer.path, layer.there) for layer in there.found.layers]
            through = {
                name: [(s.path, s.why.partition(",")[0]) for s in from_host(pid, f"{lower}/{name}").through]
                for name in ("kept", "changed", "removed")
            }
            linked = [(layer.path, layer.there) for layer in locate(pid, "/dir/passwd").found.layers]
            up = [(s.path, s.why) for s in from_host(pid, f"{upper}/changed").through]
            merged = [seen.path for seen in from_host(pid, "/tmp/r/kept").there]
            return (
                layers,
                linked,
                through,
                up,
                merged,
                [seen.path for seen in there.here],
                from_host(pid, f"{lower}/kept").why_not,
            )

    layers, linked, through, up, merged, here, why = in_child(act)
    assert layers == [("upper", "/tmp/up/kept", False), ("lower", "/tmp/lo:w er/kept", True)]
    assert through["kept"] == [("/kept", "")]
    assert through["changed"] == [("/changed", "a layer above has another of that name")]
    assert through["removed"] == [("/removed", "a layer above says it is removed")]
    assert linked == [("/tmp/up/dir/passwd", True), ("/tmp/lo:w er/dir/passwd", False)]
    assert up == [("/changed", "")]
    assert merged == ["/kept"]
    assert here == ["/tmp/r/kept"]
    assert why == ""


@pytest.mark.needs("root", "lowerdirs")
def test_layers_given_one_by_one_have_names_as_they_are(in_child: Act) -> None:
    """No character of them is special: not what is between layers elsewhere, nor what escapes that. fsconfig(2)."""

    def act() -> Any:
        private_mounts()
        os.mkdir("/tmp/r")
        overlay = syscalls.fsopen("overlay")
        for name in ("a\\b", "c:d", "e\\:f"):
            os.mkdir(f"/tmp/{name}")
            Path(f"/tmp/{name}/file").touch()
            syscalls.fsconfig(overlay, uapi.FSCONFIG_SET_STRING, "lowerdir+", f"/tmp/{name}")
        syscalls.fsconfig(overlay, uapi.FSCONFIG_CMD_CREATE)
        mounted = syscalls.fsmount(overlay)
        syscalls.move_mount(mounted, "", uapi.AT_FDCWD, "/tmp/r", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        return [(layer.path, layer.there) for layer in locate(os.getpid(), "/tmp/r/file").found.layers]

    assert in_child(act) == [(f"/tmp/{name}/file", True) for name in ("a\\b", "c:d", "e\\:f")]


@pytest.mark.needs("root")
@pytest.mark.parametrize("what", ["/tmp/fifo", "/dev/zero"])
def test_what_covers_a_file_of_proc_is_not_opened(in_child: Act, what: str) -> None:
    """A reader of a fifo would wait for ever, one of /dev/zero read for ever."""

    def enter() -> None:
        private_mounts()
        os.mkfifo("/tmp/fifo")
        kernel.mount(what, f"/proc/{os.getpid()}/stat", flags=kernel.MS_BIND)

    def act() -> Any:
        limit = 4 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with held(enter) as pid:
            refusal = locate(pid, "/proc/self/status").found.refusal
            assert refusal is not None
            return refusal.errno, refusal.name

    assert in_child(act, timeout=15) == ("ENOENT", "self")


@pytest.mark.needs("root")
def test_links_of_proc_are_those_of_the_process(in_child: Act) -> None:
    """/proc/self is the process in its pid namespace, whoever asks; a magic link is jumped through, not read."""

    def act() -> Any:
        private_mounts()
        reader, writer = os.pipe()
        kernel.unshare(0x20000000)  # CLONE_NEWPID, for children

        def inside() -> None:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("proc", "/proc", "proc")
            os.chdir("/tmp")

        with held(inside) as pid:
            status = locate(pid, "/proc/self/status")
            thread = locate(pid, "/proc/thread-self")
            cwd = locate(pid, "/proc/self/cwd/..")
            pipe = locate(pid, f"/proc/self/fd/{reader}")
            os.write(writer, b"x")
            assert pipe.found.file is not None
            return (
                status.found.path,
                thread.found.path,
                cwd.found.path,
                (pipe.found.path, pipe.found.file.kind, pipe.found.file.inode == os.fstat(reader).st_ino),
                [step.note for step in status.found.steps],
                status.access.unknown,
            )

    status, thread, cwd, pipe, notes, unknown = in_child(act)
    assert status == "/proc/1/status"
    assert thread == "/proc/1/task/1"
    assert cwd == "/"
    assert pipe == ("", "fifo", True)
    assert notes == ["", "as the process reads it", "", ""]
    assert "says something else to each" in unknown


@pytest.mark.needs("root")
def test_proc_of_a_pid_namespace_above_has_the_process_by_its_number_there(in_child: Act) -> None:
    """Not by that in its own namespace, which is another process's: 1 is the init of the one above."""

    def act() -> Any:
        kernel.unshare(0x20000000)  # CLONE_NEWPID, for children
        with held(lambda: None) as pid:
            return pid, locate(pid, "/proc/self").found.path

    pid, path = in_child(act)
    assert path == f"/proc/{pid}"


@pytest.mark.needs("root")
def test_nothing_is_opened(in_child: Act) -> None:
    """A fifo has neither reader nor writer afterwards, a socket no connection: all fds are O_PATH."""

    def act() -> bool:
        private_mounts()
        hostile_tree()
        with held(chroot("/tmp/r")) as pid:
            fd = os.open("/tmp/r/fifo", os.O_RDONLY | os.O_NONBLOCK)
            found = locate(pid, "/fifo")
            there = from_host(pid, "/tmp/r/fifo")
            # Had anybody opened it for writing and gone, this would be the end of the file, and readable.
            import select

            poll = select.poll()
            poll.register(fd, select.POLLIN | select.POLLHUP)
            assert found.found.file is not None
            return found.found.file.kind == "fifo" and there.why_not == "" and not poll.poll(0)

    assert in_child(act)


@pytest.mark.needs("root")
def test_a_tree_that_changes(in_child: Act) -> None:
    """A symlink that is a directory at times: the answer is one of the two, never a mix, never outside the root."""

    def act() -> Any:
        private_mounts()
        os.makedirs("/tmp/r/one/dir")
        os.makedirs("/tmp/r/two/dir")
        Path("/tmp/secret").touch()
        for name in ("one", "two"):
            Path(f"/tmp/r/{name}/dir/file").touch()
        os.symlink("one", "/tmp/r/turn")
        os.symlink("../../../../../../secret", "/tmp/r/out")
        stop, writer = os.pipe()
        os.set_blocking(stop, False)
        turner = os.fork()
        if turner == 0:
            try:
                turn(stop)
            finally:
                os._exit(0)
        with held(chroot("/tmp/r")) as pid:
            paths = {locate(pid, "/turn/dir/../dir/file").found.path for _ in range(30)}
            out = {locate(pid, "/moving/out").found.path for _ in range(30)}
        os.write(writer, b"x")
        os.waitpid(turner, 0)
        return paths, out

    paths, out = in_child(act)
    assert paths <= {"/one/dir/file", "/two/dir/file"}
    assert all("secret" not in path for path in out)


def turn(stop: int) -> None:
    """Point the symlink to and fro, and move a directory with a link in it out of the root and back."""
    os.mkdir("/tmp/r/moving")
    os.symlink("../../../secret", "/tmp/r/moving/out")
    while True:
        for target in ("two", "one"):
            os.symlink(target, "/tmp/r/next")
            os.rename("/tmp/r/next", "/tmp/r/turn")
            os.rename("/tmp/r/moving", "/tmp/moving")
            os.rename("/tmp/moving", "/tmp/r/moving")
        try:
            os.read(stop, 1)
            return
        except BlockingIOError:
            continue


@pytest.mark.needs("root")
def test_a_symlink_that_the_caller_may_not_follow(in_child: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sticky directory of everybody's those of others are followed by no one: nothing changes, and it is said.

    proc_sys_fs(5), protected_symlinks. Where that is off it stays so, for it holds for the whole host: then what the
    kernel would answer is put into its mouth.
    """
    protected = Path("/proc/sys/fs/protected_symlinks").read_text() == "1\n"

    def refuse(*_: object) -> int:
        raise KernelError("openat2", errno.EACCES)

    def act() -> Any:
        private_mounts()
        os.chmod("/tmp", 0o1777)
        Path("/tmp/file").touch()
        os.symlink("file", "/tmp/link")
        os.lchown("/tmp/link", 4711, 4711)
        with held(lambda: None) as pid:
            found = locate(pid, "/tmp/link")
        return asked_there(os.getpid(), "/tmp/link"), found.found.path, found.found.notes, rights(found)[3]

    if not protected:
        monkeypatch.setattr("nstool.inspect.paths.open_in_root", refuse)
    own, path, notes, refused = in_child(act)
    assert (own == "Permission denied", refused) == (protected, "EACCES" if protected else "")
    assert path == "/tmp/file"
    assert [("protected_symlinks" in note, "changes" in note) for note in notes] == [(True, False)]


@pytest.mark.needs("root")
def test_working_directories_without_a_path(in_child: Act) -> None:
    """Removed, or outside of the root: relative paths are walked all the same, and it is said that there is no path."""

    def act() -> Any:
        private_mounts()
        os.makedirs("/tmp/r/x")
        os.makedirs("/tmp/gone")
        Path("/tmp/file").touch()

        def removed() -> None:
            os.chdir("/tmp/gone")
            os.rmdir("/tmp/gone")

        def outside() -> None:
            os.chdir("/tmp")
            os.chroot("/tmp/r")

        def covered() -> None:
            os.mkdir("/tmp/c")
            Path("/tmp/c/file").touch()
            os.chdir("/tmp/c")
            tmpfs("/tmp/c")
            Path("/tmp/c/file").touch()

        with held(removed) as one, held(outside) as two, held(covered) as three:
            asked = [(one, "."), (two, "file"), (two, "r/x"), (two, "../tmp/r/../r"), (three, "file")]
            found = [(locate(pid, path).found, said(locate(pid, path)), asked_there(pid, path)) for pid, path in asked]
            return [(ours == theirs, told.path, list(told.notes)) for told, ours, theirs in found]

    told = in_child(act)
    without = ["the working directory is not below the root directory, or was removed: it has no path"]
    assert told == [(True, "", without)] * 3 + [(True, "/", []), (True, "", without)]


@pytest.mark.needs("root")
def test_a_path_longer_than_the_kernel_takes_at_once(in_child: Act) -> None:
    """A working directory more than 4096 bytes deep is walked from; its path no link of the kernel says."""

    def act() -> Any:
        private_mounts()
        os.chdir("/tmp")
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("file").touch()
        found = locate(os.getpid(), "file")
        assert found.found.refusal is None
        return said(found) == (os.stat("file").st_dev, os.stat("file").st_ino), len(found.found.path)

    same, length = in_child(act)
    assert same
    assert length == 0


# ---- what the process may do ----


def rights(found: There | Here) -> tuple[Any, ...]:
    access = found.access
    return access.read, access.write, access.execute, access.refused, access.unknown


def tried_by(uid: int, groups: list[int], path: str) -> tuple[bool, bool, bool]:
    """Return what access(2) says to a process with these ids and no capabilities."""

    def act() -> tuple[bool, bool, bool]:
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        return os.access(path, os.R_OK), os.access(path, os.W_OK), os.access(path, os.X_OK)

    return run_in_child(act)


@pytest.mark.needs("root")
def test_access_is_that_of_the_process(in_child: Act) -> None:
    """Ids, groups and capabilities are the process's, not the caller's: compared with access(2) by such a process."""

    def act() -> Any:
        private_mounts()
        os.chmod("/tmp", 0o755)
        modes = {"mine": 0o600, "all": 0o644, "group": 0o070, "program": 0o711, "secret": 0o600}
        owners = {"mine": (4711, 1), "group": (0, 4712), "all": (0, 0), "program": (0, 0), "secret": (0, 0)}
        for name, mode in modes.items():
            Path(f"/tmp/{name}").touch()
            os.chmod(f"/tmp/{name}", mode)
            os.chown(f"/tmp/{name}", *owners[name])
        os.makedirs("/tmp/closed/inside")
        os.chmod("/tmp/closed", 0o700)

        def become() -> None:
            os.setgroups([4712])
            os.setresgid(4711, 4711, 4711)
            os.setresuid(4711, 4711, 4711)

        with held(become) as pid:
            told = {name: rights(locate(pid, f"/tmp/{name}"))[:3] for name in modes}
            true = {name: tried_by(4711, [4712], f"/tmp/{name}") for name in modes}
            return told, true, rights(locate(pid, "/tmp/closed/inside")), rights(from_host(pid, "/tmp/closed/inside"))

    told, true, closed, back = in_child(act)
    assert told == true
    assert told["group"] == (True, True, True)
    assert closed == back == (None, None, None, "EACCES", "")


@pytest.mark.needs("root")
def test_access_in_a_user_namespace(in_child: Act) -> None:
    """Its capabilities hold only over inodes whose owners are mapped there. user_namespaces(7)."""

    def act() -> Any:
        private_mounts()
        os.chmod("/tmp", 0o755)
        for name, uid in (("host", 0), ("mapped", 200005)):
            Path(f"/tmp/{name}").touch()
            os.chmod(f"/tmp/{name}", 0)
            os.chown(f"/tmp/{name}", uid, uid)
        ready, go = os.pipe()
        done, mapped = os.pipe()

        def inside() -> None:
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(go, b"x")
            os.read(done, 1)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)

        mapper = os.fork()
        if mapper == 0:
            try:
                os.read(ready, 1)
                children = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
                pid = next(int(number) for number in children if int(number) != os.getpid())
                for kind in ("uid", "gid"):
                    Path(f"/proc/{pid}/{kind}_map").write_text("0 200000 1000\n")
                os.write(mapped, b"x")
            finally:
                os._exit(0)
        with held(inside) as pid:
            found = {name: rights(locate(pid, f"/tmp/{name}")) for name in ("host", "mapped")}
            os.waitpid(mapper, 0)
            return found

    found = in_child(act)
    assert found["host"] == (False, False, False, "", "")
    assert found["mapped"][:2] == (True, True)


def test_ordinary_user(as_user: Act) -> None:
    """A process of one's own, in a user namespace of its own; one of somebody else's is refused with the reason."""

    def act() -> Any:
        Path("secret").write_text("x")
        os.chmod("secret", 0o600)
        home = os.getcwd()

        def enter() -> None:
            own_user_namespace()
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount(home, "/mnt", flags=kernel.MS_BIND)
            kernel.mount("tmpfs", home, "tmpfs")

        with held(enter) as pid:
            seen = from_host(pid, "secret")
            there = locate(pid, "/mnt/secret")
            passwd = locate(pid, "/etc/passwd")
            try:
                locate(1, "/etc/passwd")
            except KernelError as error:
                told = str(error)
            os.unlink("secret")
            return (
                [(place.path.replace(home, "HOME"), bool(place.why)) for place in seen.there],
                rights(seen),
                [place.path.replace(home, "HOME") for place in there.here],
                rights(passwd),
                told,
            )

    there, own, here, passwd, told = as_user(act)
    assert ("/mnt/secret", False) in there
    assert ("HOME/secret", True) in there
    assert own == (True, True, False, "", "")
    assert here == ["HOME/secret"]
    assert passwd == (True, False, False, "", "")
    assert "you may not look into process 1" in told


# ---- the command ----


@pytest.mark.needs("root")
def test_names_of_any_kind(in_child: Act) -> None:
    """No escape sequence of a name comes to the terminal, and JSON has it whole."""

    def act() -> Any:
        private_mounts()
        tmpfs(WEIRD)
        os.symlink("x\x1b[2J", f"{WEIRD}/link")
        own = str(os.getpid())
        views = [
            nstool("path", own, f"{WEIRD}/link"),
            nstool("path", own, "--from-host", WEIRD),
            nstool("path", own, WEIRD),
        ]
        return views, json.loads(nstool("path", own, WEIRD, "--json")[1])["found"]["path"]

    (link, back, plain), path = in_child(act)
    assert [status for status, _, _ in (link, back, plain)] == [1, 0, 0]
    assert all("\x1b" not in out + err for _, out, err in (link, back, plain))
    assert "ENOENT" in link[1]
    assert path == WEIRD


@pytest.mark.needs("root")
def test_it_is_said_where_a_walk_ended(in_child: Act) -> None:
    """By a path, where that has one: a working directory that was removed is not the root."""

    def act() -> list[str]:
        private_mounts()
        Path("/tmp/file").touch()
        os.mkdir("/tmp/gone")

        def removed() -> None:
            os.chdir("/tmp/gone")
            os.rmdir("/tmp/gone")

        with held(removed) as pid:
            paths = ("x", "/tmp/x/y", "/tmp/file/", "/" * 4096)
            return [nstool("path", str(pid), path)[1].splitlines()[-1] for path in paths]

    assert in_child(act) == [
        "no file: ENOENT at x in a directory without a path: there is no such name in it",
        "no file: ENOENT at x in /tmp: there is no such name in it",
        "no file: ENOTDIR at /tmp/file: it is no directory",
        "no file: ENAMETOOLONG: it has 4096 bytes, and 4095 are the most",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1"], "either a PATH of TARGET, or --from-host"),
        (["1", "/", "--from-host", "/"], "either a PATH of TARGET, or --from-host"),
        (["4194305", "/"], "there is no process 4194305"),
        ([], "TARGET"),
    ],
)
def test_bad_requests(words: list[str], message: str) -> None:
    status, out, err = nstool("path", *words)
    assert (status, out) == (2, "")
    assert message in err


def test_ended_and_ending_processes() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match="has not waited for it yet"):
        locate(pid, "/")
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGone, match="there is no process"):
        from_host(pid, "/")


def test_status_says_whether_it_leads_somewhere() -> None:
    """0, or 1 for a path that leads nowhere and a file that is not seen."""
    own = str(os.getpid())
    assert nstool("path", own, "/")[0] == 0
    assert nstool("path", own, "/nothing/here")[0] == 1
    assert nstool("path", own, "--from-host", "/nothing/here")[0] == 1
    done = subprocess.run(["stat", "-c", "%i", "/etc"], capture_output=True, text=True, check=True)
    assert f"inode {done.stdout.strip()}\n" in nstool("path", own, "/etc")[1]
