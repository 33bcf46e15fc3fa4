"""Rows N1, N2, N3, N5, N7: namespaces made in any subset, entered, kept; seen from inside and from outside."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError, SpecError
from nstool.kinds import KINDS
from nstool.sandbox.launch import launch
from nstool.spec.model import Capabilities, Namespaces, Net
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import processes
from tests.support.workplace import Workplace

pytestmark = pytest.mark.vm

HOST_NET = Net(mode="host")
LINKS = f"for n in {' '.join(boxes.NAMES)}; do readlink /proc/self/ns/$n; done"
NO_MOUNTS: dict[str, Any] = {"proc": "none", "dev": "none", "tmp_size": 0}


def without(*kinds: str) -> dict[str, Any]:
    """The words of a spec in which these namespaces are the host's, with what they entail."""
    words: dict[str, Any] = {"namespaces": boxes.shared(*kinds)}
    if "net" in kinds:
        words["net"] = HOST_NET
    if "mnt" in kinds:
        words |= {"proc": "none", "dev": "none", "tmp_size": 0}
    elif "pid" in kinds:
        words["proc"] = "bind"
    if "user" in kinds and os.geteuid() == 0:
        words["user"] = "65534:65534"
    return words


def differing(pid: int) -> set[str]:
    return {kind for kind in boxes.NAMES if boxes.inode(pid, kind) != boxes.inode("self", kind)}


def new_in(**words: Any) -> set[str]:
    """The namespaces of a sandbox that are not the caller's, seen from outside."""
    with boxes.box(**words) as box:
        return differing(box.pid)


def entered(*words: str) -> set[str]:
    """The namespaces of a sandbox that nstool enter goes into, seen by the command."""
    with boxes.box() as box:
        ran = boxes.nstool("enter", *words, str(box.pid), "--", "/bin/sh", "-c", LINKS)
        assert ran.status == 0, ran
        return {kind for kind, link in zip(boxes.NAMES, ran.lines, strict=True) if link == boxes.inode(box.pid, kind)}


# ------------------------------------------------------------------------------------ N1, N7


def test_all_eight_namespaces_are_new(act: Act) -> None:
    """By default, seen from outside, and by the inodes that the command itself sees."""

    def look() -> tuple[set[str], bool]:
        with boxes.box() as box:
            inside = box.ask(LINKS)
            return differing(box.pid), inside.split() == [boxes.inode(box.pid, kind) for kind in boxes.NAMES]

    assert act(look) == (set(boxes.NAMES), True)


@pytest.mark.parametrize("kind", boxes.NAMES)
def test_one_namespace_can_be_the_hosts(as_root: Act, kind: str) -> None:
    """A namespace that the spec calls "host" is the caller's, the others are new."""
    assert as_root(new_in, **without(kind)) == set(boxes.NAMES) - {kind}


@pytest.mark.parametrize("kind", [kind for kind in boxes.NAMES if kind != "user"])
def test_one_namespace_can_be_the_users(as_user: Act, kind: str) -> None:
    """The same for an ordinary user; without a user namespace nothing can be made."""
    assert as_user(new_in, **without(kind)) == set(boxes.NAMES) - {kind}


def test_an_ordinary_user_needs_a_user_namespace_for_the_others(as_user: Act) -> None:
    """The refusal is the kernel's, says the step, and nothing is left."""

    def ask() -> str:
        with pytest.raises(KernelError) as refused:
            launch(boxes.spec("true", **without("user")))
        return refused.value.call

    assert as_user(ask).startswith("clone3(")


@pytest.mark.parametrize("kind", ["uts", "net", "ipc", "pid"])
def test_only_one_namespace_is_new(as_root: Act, kind: str) -> None:
    """The other seven are the host's."""
    words = without(*(other for other in boxes.NAMES if other != kind))
    if kind == "net":
        words["net"] = Net()
    assert as_root(new_in, **words) == {kind}


def test_a_user_namespace_alone(act: Act) -> None:
    """The smallest sandbox of an ordinary user."""
    assert act(new_in, **without(*(other for other in boxes.NAMES if other != "user"))) == {"user"}


def test_no_namespace_is_new(as_root: Act) -> None:
    """Then it is a plain process with dropped rights."""

    def look() -> tuple[set[str], str]:
        with boxes.box(**without(*boxes.NAMES)) as box:
            return differing(box.pid), boxes.status(box.pid)["CapEff"]

    assert as_root(look) == (set(), "0" * 16)


def test_the_words_of_the_command_line(act: Act) -> None:
    """--share and --namespaces say the same as the spec."""

    def look() -> list[str]:
        words = ["--share", "uts,ipc", "--namespaces", "time=host"]
        ran = boxes.nstool_run(*words, "--", "sh", "-c", "cd /proc/self/ns; readlink uts ipc time")
        assert ran.status == 0, ran
        return ran.lines

    assert act(look) == [boxes.inode("self", kind) for kind in ("uts", "ipc", "time")]


def test_a_namespace_of_another_process_is_joined(as_root: Act) -> None:
    """A pid or a file in place of "new"; the rest is made anew."""

    def look() -> tuple[bool, bool, bool]:
        with boxes.box() as first:
            # The user namespace too: joining asks for rights in the one that owns the others.
            owner = str(first.pid)
            words = Namespaces(user=owner, pid=owner, uts=owner, ipc=f"/proc/{owner}/ns/ipc")
            with boxes.box(namespaces=words, proc="none") as second:
                same = [boxes.inode(first.pid, kind) == boxes.inode(second.pid, kind) for kind in ("uts", "ipc", "net")]
                return same[0], same[1], same[2]

    assert as_root(look) == (True, True, False)


def test_root_joins_without_the_user_namespace(as_root: Act) -> None:
    """uts, ipc, net and cgroup of another sandbox, in a user namespace of its own: the launcher joins for the child."""

    def look() -> set[str]:
        with boxes.box() as first:
            pid = str(first.pid)
            words = Namespaces(uts=pid, ipc=pid, net=pid, cgroup=pid)
            with boxes.box(namespaces=words, net=Net(mode="join", target=pid)) as second:
                return {kind for kind in boxes.NAMES if boxes.inode(first.pid, kind) == boxes.inode(second.pid, kind)}

    assert as_root(look) == {"uts", "ipc", "net", "cgroup"}


def test_a_joined_user_namespace_owns_no_new_pid_namespace(as_root: Act) -> None:
    """That would be made before joining, so it is refused before anything is done."""

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", namespaces=Namespaces(user="1")))
        return refused.value.place

    assert as_root(ask) == "namespaces.user"


def test_all_that_a_joined_user_namespace_asks_for_is_told_at_once(as_user: Act) -> None:
    """Without privilege that is a time namespace too, whose offsets would be the joined one's to write."""

    def ask(**kinds: str) -> str:
        with boxes.box() as box, pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", namespaces=Namespaces(user=str(box.pid), **kinds), proc="none"))
        return refused.value.message

    assert as_user(ask).endswith('share the host\'s: pid = "host", time = "host"')
    assert as_user(ask, pid="host").endswith('share the host\'s: time = "host"')


@pytest.mark.parametrize("kind", ["user", "uts", "net"])
def test_a_sandbox_is_joined_by_its_name(as_user: Act, kind: str) -> None:
    """In place of the pid of its init; another name is none, and one near to a word is taken for that."""

    def join() -> tuple[str, str, str]:
        with boxes.box() as box:
            kinds = f"user={{0}},pid=host,time=host,{kind}={{0}}" if kind != "user" else "user={0},pid=host,time=host"
            words = ("--user", "0:0", "--", "readlink", f"/proc/self/ns/{kind}")
            joined = boxes.nstool_run("--namespaces", kinds.format(box.sandbox.name), *words)
            missed = boxes.nstool_run("--namespaces", "user=hots", *words)
            assert joined.status == 0, joined
            return joined.out, boxes.inode(box.pid, kind) + "\n", missed.err

    joined, wanted, missed = as_user(join)
    assert joined == wanted
    assert missed.startswith('nstool: --namespaces: "hots" is neither "new" nor "host" nor a path, a pid or a sandbox')
    assert 'did you mean "host"?' in missed


@pytest.mark.parametrize("how", ["run --net join:{}", "enter {} --types net"])
def test_a_remedy_for_a_network_of_another_user_namespace_works(as_user: Act, how: str) -> None:
    """What run and enter say to add, added, joins; check says the same before, and then that all can be done."""

    def ask() -> tuple[str, str]:
        with boxes.box() as box:
            command, *words = how.format(box.pid).split()
            options = ("--memory=0", "--pids=0", "--cpu=0", "--user=0:0") if command == "run" else ()
            link = ("--", "readlink", "/proc/self/ns/net")
            refused = boxes.nstool(command, *options, *words, *link)
            assert refused.status == 125, refused
            remedy = re.search(r"--(types|namespaces) [a-z0-9=,]+", refused.err)
            assert remedy, refused
            if command == "run":
                assert remedy[0] in boxes.nstool("check", *options, *words, *link).out
                told = boxes.nstool("check", *options, *words, *remedy[0].split(), *link)
                assert told == (0, "this host can do all of it\n", "")
            else:
                words = words[:1]
            return boxes.nstool(command, *options, *words, *remedy[0].split(), *link).out, boxes.inode(box.pid, "net")

    joined, wanted = as_user(ask)
    assert joined == wanted + "\n"


def test_a_joined_namespace_must_be_of_the_type(as_root: Act) -> None:
    """An ipc file where a uts one belongs is refused before anything is done, and so is what is no namespace."""

    def ask(path: str) -> SpecError:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", user="65534:65534", namespaces=Namespaces(user="host", uts=path)))
        return refused.value

    error = as_root(ask, "/proc/self/ns/ipc")
    assert error.place == "namespaces.uts"
    assert error.message.startswith("/proc/self/ns/ipc is a namespace of type ipc, not uts")
    assert as_root(ask, "/etc/hostname").message.startswith("/etc/hostname is no namespace")
    assert as_root(ask, "/nowhere/uts").message.startswith("/nowhere/uts: No such file or directory")


@pytest.mark.needs("timens")
def test_clocks_have_their_offsets(act: Act) -> None:
    """The uptime inside is the host's plus the offset; timens_offsets of the payload shows both. time_namespaces(7)."""
    words = Namespaces(monotonic_offset=86400, boottime_offset=864000)

    def look() -> tuple[float, list[list[str]]]:
        with boxes.box(namespaces=words) as box:
            inside = float(box.ask("cat /proc/uptime").split()[0])
            shown = Path(f"/proc/{box.pid}/timens_offsets").read_text().splitlines()
            return inside - time.clock_gettime(time.CLOCK_BOOTTIME), [line.split() for line in shown]

    difference, shown = act(look)
    assert abs(difference - 864000) < 5
    assert shown == [["monotonic", "86400", "0"], ["boottime", "864000", "0"]]


@pytest.mark.needs("timens")
def test_offsets_of_the_command_line(act: Act) -> None:
    """--time-offset moves the clocks of the sandbox, not those of the host."""

    def look() -> float:
        ran = boxes.nstool_run("--time-offset", "10d", "--", "cat", "/proc/uptime")
        assert ran.status == 0, ran
        return float(ran.out.split()[0]) - time.clock_gettime(time.CLOCK_BOOTTIME)

    assert abs(act(look) - 864000) < 5


@pytest.mark.needs("timens")
def test_a_clock_cannot_start_below_zero(as_root: Act) -> None:
    """The kernel refuses the offset, and the error names the step."""

    def ask() -> str:
        with pytest.raises(KernelError) as refused:
            launch(boxes.spec("true", namespaces=Namespaces(boottime_offset=-(10**9))))
        return str(refused.value)

    assert "timens_offsets" in as_root(ask)


# ------------------------------------------------------------------------------------ N2, N3


def test_the_caller_moves_into_new_namespaces(as_root: Act) -> None:
    """unshare: the caller's links change, but for pid and time, which hold for children only. unshare(2)."""

    def move() -> tuple[set[str], set[str]]:
        before = {kind: boxes.inode("self", kind) for kind in boxes.NAMES}
        flags = 0
        for kind in KINDS.values():
            flags |= kind.flag
        syscalls.unshare(flags)
        moved = {kind for kind in boxes.NAMES if boxes.inode("self", kind) != before[kind]}
        later = {kind for kind in ("pid", "time") if _for_children(kind) != before[kind]}
        return moved, later

    moved, later = as_root(move)
    assert moved == set(boxes.NAMES) - {"pid", "time"}
    assert later == {"time", "pid"}


def _for_children(kind: str) -> str:
    # pid_for_children cannot be read until the namespace has a first process.
    if kind == "pid" and os.fork() == 0:
        os._exit(0)
    if kind == "pid":
        os.wait()
    try:
        return os.readlink(f"/proc/self/ns/{kind}_for_children")
    except FileNotFoundError:  # its init has ended: it was a new one
        return ""


def test_an_ordinary_user_unshares_a_user_namespace_first(as_user: Act) -> None:
    """Alone a uts namespace is refused, with a user namespace it is made. user_namespaces(7)."""

    def move() -> tuple[int | None, set[str]]:
        before = {kind: boxes.inode("self", kind) for kind in boxes.NAMES}
        with pytest.raises(KernelError) as refused:
            syscalls.unshare(uapi.CLONE_NEWUTS)
        syscalls.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWUTS)
        return refused.value.errno, {kind for kind in boxes.NAMES if boxes.inode("self", kind) != before[kind]}

    assert as_user(move) == (1, {"user", "uts"})


@pytest.mark.parametrize("kinds", ["net", "uts,ipc", ""])
def test_enter_the_namespaces_of_a_pid(as_root: Act, kinds: str) -> None:
    """Those that are named, or all that differ; the rest stays the caller's."""
    words = ["--types", kinds] if kinds else []
    assert as_root(entered, *words) == set(kinds.split(",") if kinds else boxes.NAMES)


def test_an_ordinary_user_enters_what_is_theirs(as_user: Act) -> None:
    """The user namespace first gives the rights for the others. setns(2)."""
    assert as_user(entered) == set(boxes.NAMES)


def _until(condition: Any) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
    return False


def test_enter_a_namespace_file(as_root: Act) -> None:
    """The type is that of the file."""

    def enter() -> bool:
        with boxes.box() as box:
            ran = boxes.nstool(
                "enter", f"/proc/{box.pid}/ns/uts", "--", "readlink", "/proc/self/ns/uts", "/proc/self/ns/net"
            )
            assert ran.status == 0, ran
            return ran.out.split() == [boxes.inode(box.pid, "uts"), boxes.inode("self", "net")]

    assert as_root(enter)


@pytest.mark.needs("ip")
def test_enter_a_named_network_namespace(as_root: Act, name: str) -> None:
    """One that ip netns made."""

    def enter() -> bool:
        with boxes.named_netns(name):
            ran = boxes.nstool("enter", name, "--", "stat", "-Lc", "%i", "/proc/self/ns/net")
            return ran == (0, f"{os.stat(f'/run/netns/{name}').st_ino}\n", "")

    assert as_root(enter)


@pytest.mark.vm_full
def test_the_status_of_an_entered_command(as_root: Act) -> None:
    """As a shell gives it: the command's own, 127 for none, 126 for one that cannot be run, 128+n for a signal."""

    def enter() -> list[int]:
        with boxes.box() as box:
            pid = str(box.pid)
            commands = (["sh", "-c", "exit 7"], ["/nowhere"], ["/etc/passwd"], ["sh", "-c", "kill -9 $$"])
            return [boxes.nstool("enter", "--types", "uts", pid, "--", *command).status for command in commands]

    assert as_root(enter) == [7, 127, 126, 128 + signal.SIGKILL]


def test_syscalls_setns_by_pidfd(as_root: Act) -> None:
    """The library's bare call, with several types at once. Linux 5.8."""

    def enter() -> bool:
        with boxes.box() as box:
            pidfd = syscalls.pidfd_open(box.pid)
            try:
                syscalls.setns(pidfd, uapi.CLONE_NEWUTS | uapi.CLONE_NEWIPC | uapi.CLONE_NEWNET)
            finally:
                os.close(pidfd)
            return all(boxes.inode("self", kind) == boxes.inode(box.pid, kind) for kind in ("uts", "ipc", "net"))

    assert as_root(enter)


def in_namespace_of(box: boxes.Box, candidates: list[processes.Process]) -> list[int]:
    """Those that are in the user namespace of the box; some may just be ending."""
    found = []
    for process in candidates:
        try:
            if boxes.inode(process.pid, "user") == boxes.inode(box.pid, "user"):
                found.append(process.pid)
        except FileNotFoundError:
            continue
    return found


@pytest.mark.needs("strace")
@pytest.mark.parametrize("how", ["enter", "enter --keep-ids", "run"])
def test_who_comes_in_is_looked_into_by_nobody_there(as_root: Act, how: str) -> None:
    """Not even where its process is seen and may be traced: it still has the host's root then (CVE-2016-9962)."""
    delay = ("strace", "-f", "-o", os.devnull, "-e", "trace=setns", "-e", "inject=setns:delay_exit=2000000:when=1")

    def look() -> tuple[str, str]:
        own = Capabilities(*[("sys_ptrace",)] * 5)
        words = without("pid") | {"user": "0:0", "capabilities": own, "seccomp": "none"}
        with boxes.box(**words) as box:
            target = {"run": ("run", "--namespaces", f"user={box.pid}", "--share", "pid,time", "--user", "0:0", "--")}
            command = target.get(how, (*how.split(), str(box.pid), "--"))
            tracer = subprocess.Popen([*delay, *boxes.NSTOOL, *command, "true"], env={**os.environ, **boxes.PATH})
            deadline = time.monotonic() + 20
            while not (joined := in_namespace_of(box, processes.descendants(tracer.pid))):
                assert time.monotonic() < deadline
            seen = box.ask(f"ls /proc/{joined[0]}/root/ /proc/{joined[0]}/fd/")
            own_processes = box.ask("ls /proc/$$/root/")
            tracer.wait(30)
            return seen, own_processes

    seen, own_processes = as_root(look)
    assert "usr" in own_processes
    assert seen.count("Permission denied") == 2, seen


# ---------------------------------------------------------------------------------------- N5


@pytest.fixture
def place(workplace: Workplace) -> Path:
    """A directory that does not exist yet."""
    return workplace.own / "pins"


@pytest.mark.vm_full
def test_pinned_namespaces_outlive_their_processes(as_root: Act, place: Path) -> None:
    """They are files then, entered by nstool enter, and gone with unpin."""

    def keep() -> None:
        with boxes.box(hostname="kept") as box:
            wanted = {kind: boxes.inode(box.pid, kind) for kind in ("uts", "net", "ipc")}
            ran = boxes.nstool("pin", "--types", "uts,net,ipc", str(box.pid), str(place))
            assert ran.status == 0, ran
            assert sorted(os.listdir(place)) == ["ipc", "net", "uts"]
        try:
            # Another road than nstool: the inode of the file, which the links named.
            assert {kind: f"{kind}:[{os.stat(place / kind).st_ino}]" for kind in wanted} == wanted
            ran = boxes.nstool("enter", str(place), "--", "/bin/sh", "-c", "hostname; readlink /proc/self/ns/net")
            assert ran == (0, f"kept\n{wanted['net']}\n", "")
        finally:
            gone = boxes.nstool("unpin", str(place))
        assert gone.status == 0, gone
        assert not place.exists()
        assert str(place) not in boxes.mounts("self")

    as_root(keep)


@pytest.mark.vm_full
def test_a_sandbox_is_pinned_by_its_name(as_root: Act, place: Path) -> None:
    """All that differ but mnt and pid; those with a user namespace are entered too."""

    def keep() -> None:
        with boxes.box(hostname="byname") as box:
            ran = boxes.nstool("pin", box.sandbox.name, str(place))
            assert ran.status == 0, ran
            owner = boxes.inode(box.pid, "user")
        try:
            assert sorted(os.listdir(place)) == sorted(set(boxes.NAMES) - {"mnt", "pid"})
            script = "hostname; readlink /proc/self/ns/user"
            ran = boxes.nstool("enter", "--types", "user,uts", str(place), "--", "/bin/sh", "-c", script)
            assert ran == (0, f"byname\n{owner}\n", "")
        finally:
            assert boxes.nstool("unpin", str(place)).status == 0

    as_root(keep)


def test_pinned_namespaces_are_joined_by_run(as_root: Act, place: Path) -> None:
    """By the directory: what lies there for the type; a type that is not there is named."""

    def join() -> None:
        with boxes.box(hostname="pinned") as box:
            assert boxes.nstool("pin", box.sandbox.name, str(place)).status == 0
            wanted = [boxes.inode(box.pid, kind) for kind in ("user", "net", "uts")]
        try:
            link = ("--user", "0:0", "--", "readlink", *(f"/proc/self/ns/{kind}" for kind in ("user", "net", "uts")))
            assert boxes.nstool_run("--net", f"join:{place}", *link).lines[1] == wanted[1]
            all_three = boxes.nstool_run("--namespaces", f"user={place},net={place},uts={place},pid=host", *link)
            assert all_three == (0, "".join(f"{inode}\n" for inode in wanted), "")
            refused = boxes.nstool_run("--namespaces", f"pid={place}", "--proc", "none", *link)
            assert refused.err.startswith(f"nstool: --namespaces: {place} holds no pinned pid namespace")
            refused = boxes.nstool_run("--namespaces", f"user={place}", *link)
            assert refused.err.endswith('share the host\'s: pid = "host"\n')
        finally:
            assert boxes.nstool("unpin", str(place)).status == 0

    as_root(join)


def test_a_mount_namespace_is_pinned_where_it_can_be(as_root: Act, tmp_path: Path) -> None:
    """In a private mount, which does not propagate into it: then its root is entered without a process."""
    from tests.support import kernel

    def keep() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # else the younger may count as the older: pins.pin
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        place = tmp_path / "pins"
        with boxes.box(hostname="m") as box:
            ran = boxes.nstool("pin", "--types", "mnt", str(box.pid), str(place))
            assert ran.status == 0, ran
            wanted = boxes.inode(box.pid, "mnt")
        ran = boxes.nstool(
            "enter", str(place), "--", "/bin/sh", "-c", "readlink /proc/self/ns/mnt; ls -A /home; touch /usr/x"
        )
        assert boxes.nstool("unpin", str(place)).status == 0
        assert ran.out.split() in ([], [wanted]), ran  # /proc of its dead pid namespace may show nothing
        assert "Read-only file system" in ran.err

    as_root(keep)


def test_a_process_is_pinned_by_pid(as_root: Act, place: Path) -> None:
    """Any process, not only ours."""
    as_root(lambda: None)
    sleeper = subprocess.Popen(["unshare", "--uts", "sleep", "100"])
    try:
        assert _until(lambda: processes.read(sleeper.pid).comm == "sleep")  # type: ignore[union-attr]
        ran = as_root(boxes.nstool, "pin", str(sleeper.pid), str(place))
        assert ran.status == 0, ran
        assert os.listdir(place) == ["uts"]
    finally:
        sleeper.kill()
        sleeper.wait()
        if place.exists():
            assert as_root(boxes.nstool, "unpin", str(place)).status == 0


def test_an_ordinary_user_cannot_pin(as_user: Act) -> None:
    """A bind mount needs CAP_SYS_ADMIN: the message says so, and no directory is left."""

    def ask() -> tuple[boxes.Ran, bool]:
        with boxes.box() as box:
            return boxes.nstool("pin", str(box.pid), "pins"), os.path.exists("pins")

    ran, left = as_user(ask)
    assert ran.status == 125, ran
    assert "CAP_SYS_ADMIN" in ran.err
    assert not left


def test_an_ordinary_user_pins_where_the_kernel_allows_it(as_user: Act) -> None:
    """In a user and a mount namespace of their own, where CAP_SYS_ADMIN counts."""

    def ask() -> tuple[str, str, boxes.Ran, bool]:
        uid = os.getuid()
        syscalls.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS)
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        with subprocess.Popen(["unshare", "--uts", "sh", "-c", "echo up; read x"], stdin=-1, stdout=-1) as child:
            assert child.stdout is not None
            assert child.stdin is not None
            child.stdout.readline()
            wanted = boxes.inode(child.pid, "uts")
            made = boxes.nstool("pin", str(child.pid), "kept")
            assert made.status == 0, made
            child.stdin.close()
        inside = boxes.nstool("enter", "kept", "--", "readlink", "/proc/self/ns/uts").out.strip()
        return wanted, inside, boxes.nstool("unpin", "kept"), os.path.exists("kept")

    wanted, inside, ended, left = as_user(ask)
    assert inside == wanted
    assert ended.status == 0, ended
    assert not left


def test_a_mount_namespace_without_proc_is_joined(as_root: Act) -> None:
    """Who is killed first for lack of memory is said by the launcher's /proc: a joined root may have none."""

    def look() -> tuple[str, str, str]:
        with boxes.box(proc="none") as first:
            joined = Namespaces(user="host", mnt=str(first.pid))
            with boxes.box(namespaces=joined, user="65534:65534", **NO_MOUNTS) as second:
                score = Path(f"/proc/{second.pid}/oom_score_adj").read_text().strip()
                return boxes.inode(first.pid, "mnt"), boxes.inode(second.pid, "mnt"), score

    first, second, score = as_root(look)
    assert (first, score) == (second, "500")
