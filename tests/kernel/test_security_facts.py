"""Facts beside what readlink, /proc and the system's tools say of a real process in namespaces of its own."""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.errors import SandboxGone
from nstool.kinds import INITIAL_USERNS
from nstool.sandbox.facts import Facts, Isolation, _Reader, isolation, why_hidden
from nstool.spec.model import IdMap
from tests.support import kernel
from tests.support.probes import REPOSITORY
from tests.support.user import User

AsUser = Callable[..., Any]
KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")
CAP_CHOWN, CAP_KILL = 1 << 0, 1 << 5

# Prepares itself, says so on stdout, and lives until its stdin is closed.
PREPARE = """
mount -t tmpfs -o ro,nosuid,size=64k "two words" "/mnt"
hostname a-box
ulimit -S -n 77; ulimit -c 0
echo 321 > /proc/self/oom_score_adj
exec setpriv --no-new-privs --inh-caps -all,+kill --ambient-caps -all,+kill --bounding-set -all,+kill,+chown \
    --groups 5,7 --securebits +noroot setarch --addr-no-randomize sh -c 'echo ready; read line'
"""
UNSHARE = ["unshare", "-mpfniuCT", "--mount-proc", "--monotonic", "86400", "--boottime", "3600", "--kill-child"]


class Boxed:
    """A process in new namespaces, held by its stdin; it is the child of the program that made them."""

    def __init__(self, command: list[str], id_map: str = "") -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.wait_until_ready()
        if id_map:
            for file in ("uid_map", "gid_map"):
                Path(f"/proc/{self.process.pid}/{file}").write_text(id_map)
            assert self.process.stdin
            self.process.stdin.write("mapped\n")
            self.process.stdin.flush()
            self.wait_until_ready()
        self.pid = int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    def wait_until_ready(self) -> None:
        assert self.process.stdout
        if self.process.stdout.readline() != "ready\n":
            self.close()
            raise AssertionError(f"{self.process.args} ended with status {self.process.returncode}")

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture
def boxed() -> Iterator[Boxed]:
    script = f"echo ready; read mapped; exec {shlex.join([*UNSHARE, 'sh', '-c', PREPARE])}"
    box = Boxed(["unshare", "-U", "sh", "-c", script], "0 0 1000")
    yield box
    box.close()


@pytest.fixture
def found(boxed: Boxed) -> Isolation:
    return isolation(boxed.pid)


pytestmark = pytest.mark.needs("root", "timens", "cgroupns", "native")


def status(pid: int | str, line: str) -> list[str]:
    """Return the words of a line of /proc/PID/status."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(row.split()[1:] for row in rows if row.startswith(f"{line}:"))


@pytest.mark.parametrize("kind", KINDS)
def test_namespaces_are_those_of_readlink(kind: str, found: Isolation) -> None:
    """Inodes of both sides, and that they differ."""
    for facts in (found.inside, found.outside):
        assert f"{kind}:[{facts.namespaces[kind]}]" == os.readlink(f"/proc/{facts.pid}/ns/{kind}")
    assert found.differs[kind] is True


def test_shared_namespaces_do_not_differ(found: Isolation) -> None:
    """A process beside itself."""
    assert isolation(os.getpid()).differs == dict.fromkeys(KINDS, False)


def test_identity(found: Isolation) -> None:
    """Maps, ids, groups, pids."""
    inside = found.inside
    assert inside.uid_map == inside.gid_map == (IdMap(0, 0, 1000),)
    assert found.outside.uid_map[0] == IdMap(*map(int, Path("/proc/self/uid_map").read_text().split()))
    assert inside.setgroups == "allow"
    assert inside.groups == (5, 7)
    assert (inside.uids.real, inside.gids.filesystem) == (0, 0)
    assert inside.pids == (inside.pid, 1) == tuple(map(int, status(inside.pid, "NSpid")))
    assert found.outside.pid == os.getpid()


def test_capabilities(found: Isolation) -> None:
    """The five sets by mask and name, as set by setpriv(1)."""
    sets = found.inside.capabilities
    assert sets["ambient"].mask == sets["inheritable"].mask == CAP_KILL
    assert sets["bounding"].mask == CAP_KILL | CAP_CHOWN
    assert sets["bounding"].names == ("chown", "kill")
    for name, line in {"effective": "CapEff", "permitted": "CapPrm", "bounding": "CapBnd"}.items():
        for facts in (found.inside, found.outside):
            assert facts.capabilities[name].mask == int(status(facts.pid, line)[0], 16)


def test_confinement(found: Isolation) -> None:
    """no_new_privs, seccomp, limits, score; securebits are unknown with the reason."""
    inside = found.inside
    assert inside.no_new_privs is True
    assert found.outside.no_new_privs is bool(int(status("self", "NoNewPrivs")[0]))
    assert (inside.seccomp, inside.seccomp_filters) == ("disabled", 0)
    assert inside.rlimits["nofile"][0] == 77
    assert inside.rlimits["core"] == (0, 0)
    assert inside.rlimits["cpu"] == (-1, -1)
    assert inside.oom_score_adj == 321
    assert inside.aslr == "nothing"
    assert inside.securebits is None
    assert "only its own" in inside.unread["securebits"]
    assert found.outside.securebits == ()


def test_surroundings(found: Isolation) -> None:
    """Host name and clocks of the inside, seen from outside."""
    assert found.inside.hostname == "a-box"
    assert found.outside.hostname == socket.gethostname()
    assert found.inside.time_offsets == {"monotonic": 86400 * 10**9, "boottime": 3600 * 10**9}
    assert found.outside.time_offsets == {"monotonic": 0, "boottime": 0}


def test_mounts_are_those_of_findmnt(found: Isolation) -> None:
    """Each target, type and source in order; names with a space; what is read-only."""
    command = ["findmnt", "--task", str(found.inside.pid), "--list", "--noheadings", "--json", "-o", "ID,TARGET,FSTYPE"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["filesystems"]
    mounts = found.inside.mounts
    assert mounts is not None
    assert [(m.id, m.target, m.type) for m in mounts] == [(row["id"], row["target"], row["fstype"]) for row in listed]
    last = mounts[-1]
    assert (last.target, last.source, last.type, last.read_only) == ("/mnt", "two words", "tmpfs", True)
    assert "nosuid" in last.options
    assert found.inside.root is not None
    assert found.inside.root.target == "/"
    assert found.inside.root.propagation == "private"


def test_covered_mounts_are_those_that_no_path_leads_to(found: Isolation) -> None:
    """Whoever opens the target gets another mount, as the kernel tells of the fd; proc_pid_fdinfo(5)."""
    for facts in (found.inside, found.outside):
        for mount in facts.mounts or ():
            reached = mount_at(f"/proc/{facts.pid}/root{mount.target}") == mount.id
            assert (mount.id in facts.covered) is not reached, mount
    both = [mount.id for mount in found.inside.mounts or () if mount.target == "/proc"]
    assert [number in found.inside.covered for number in both] == [True, False]


def mount_at(path: str) -> int:
    """Return the id of the mount that a path leads to, 0 if it leads nowhere."""
    try:
        fd = os.open(path, os.O_PATH)
    except FileNotFoundError:
        return 0
    words = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
    os.close(fd)
    return int(words[words.index("mnt_id:") + 1])


def test_cgroups_and_their_limits(found: Isolation) -> None:
    """A line of /proc/PID/cgroup each; limits are the content of the files in a directory that has this process."""
    lines = Path(f"/proc/{found.inside.pid}/cgroup").read_text().splitlines()
    assert [group.path for group in found.inside.cgroups] == [line.split(":", 2)[2] for line in lines]
    placed = [group for group in found.inside.cgroups if group.directory]
    assert placed
    for group in placed:
        assert str(found.inside.pid) in Path(group.directory, "cgroup.procs").read_text().split()
        for name, value in group.limits.items():
            assert Path(group.directory, name).read_text().strip() == value


@pytest.mark.needs("cgroup_pids")
def test_limit_of_a_cgroup_is_found(boxed: Boxed, name: str) -> None:
    """A limit set in a new cgroup is read back."""
    from tests.support.probes import controller_root

    directory = Path(controller_root("pids"), name)
    directory.mkdir()
    try:
        (directory / "pids.max").write_text("17")
        (directory / "cgroup.procs").write_text(str(boxed.pid))
        groups = isolation(boxed.pid).inside.cgroups
        found = [(g.limits["pids.max"], g.usage["pids.max"]) for g in groups if "pids.max" in g.limits]
        assert found == [("17", 1)]
    finally:
        boxed.close()
        directory.rmdir()


def test_memory_is_private_and_less_than_resident(found: Isolation) -> None:
    """KiB, of /proc/PID/smaps_rollup."""
    memory = found.inside.memory
    assert memory is not None
    assert 0 < memory.private < memory.resident < 10_000
    rss = next(row for row in Path(f"/proc/{found.inside.pid}/smaps_rollup").read_text().splitlines() if "Rss" in row)
    assert memory.resident == int(rss.split()[1])


def test_seccomp_filters_are_counted() -> None:
    """One filter of nstool's, seen from outside."""
    code = (
        "import sys; from nstool import syscalls, uapi; from nstool.security.seccomp import load_filter; "
        "syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1); syscalls.seccomp_set_mode_filter(load_filter('default')); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == "ready\n"
        inside = isolation(process.pid).inside
        process.stdin.close()
    assert (inside.seccomp, inside.seccomp_filters, inside.no_new_privs) == ("filter", 1, True)


def test_ended_process_is_gone() -> None:
    """Also a pid that never was."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    for pid in (process.pid, 4194304):
        with pytest.raises(SandboxGone, match=f"no process {pid}"):
            isolation(pid)


def test_end_while_reading_is_no_missing_fact() -> None:
    """What cannot be read because the process has just ended is an error, not an unreadable fact."""
    with subprocess.Popen(["sleep", "60"]) as process:
        proc = os.open(f"/proc/{process.pid}", os.O_DIRECTORY)
        process.kill()
        process.wait()
        try:
            with pytest.raises((FileNotFoundError, ProcessLookupError)):
                _Reader(process.pid, proc).namespaces()
        finally:
            os.close(proc)


def test_thread_of_the_kernel_has_facts() -> None:
    """It has no memory of its own, which is unknown with a reason and not an error."""
    inside = isolation(2).inside
    assert (inside.command, inside.memory) == ("kthreadd", None)
    assert "memory" in inside.unread


@pytest.mark.needs("user", "userns")
def test_ordinary_user_sees_its_own_box(as_user: AsUser, user: User) -> None:
    """An ordinary user reads all of a process in its own user namespace: also the host name."""

    def look() -> tuple[Facts, str]:
        script = "hostname mine; echo ready; read line"
        box = Boxed(["unshare", "-Urmpfiu", "--mount-proc", "sh", "-c", script])
        try:
            return isolation(box.pid).inside, os.readlink(f"/proc/{box.pid}/ns/uts")
        finally:
            box.close()

    facts, uts = as_user(look)
    assert facts.hostname == "mine"
    assert f"uts:[{facts.namespaces['uts']}]" == uts
    assert facts.uid_map == (IdMap(0, user.uid, 1),)
    assert facts.setgroups == "deny"


@pytest.mark.needs("user")
def test_unreadable_facts_have_a_reason(as_user: AsUser, boxed: Boxed) -> None:
    """An ordinary user may not read root's namespaces: they are missing, with the reason, and nothing is guessed."""
    found = as_user(isolation, boxed.pid)
    assert found.inside.namespaces == {}
    assert found.differs == dict.fromkeys(KINDS)
    assert found.inside.hostname is None
    assert found.inside.unread["namespaces.mnt"] == "Permission denied"
    assert found.inside.no_new_privs is True


@pytest.mark.needs("user")
def test_show_says_why_it_may_not_read(as_user: AsUser, boxed: Boxed, user: User) -> None:
    """The cause as it is checked: whose process it is, and that the capability is missing."""
    shown = as_user(run_show, str(boxed.pid))
    assert shown.returncode == 0
    assert (
        f"note: not all of process {boxed.pid} may be read: it runs as uid 0, and you have no CAP_SYS_PTRACE over it; "
        "run as root, or as the user whose process it is"
    ) in shown.stdout
    assert "may be read" not in as_user(lambda: run_show(str(os.getpid()))).stdout


def without(*names: str) -> None:
    """Take capabilities out of this process's effective and permitted sets."""
    header, data = CapHeader(0x20080522, 0), (CapData * 2)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(ctypes.byref(header), data) == 0
    for name in names:
        word, bit = divmod(uapi.CAPABILITIES[name], 32)
        data[word].effective &= ~(1 << bit)
        data[word].permitted &= ~(1 << bit)
    assert libc.capset(ctypes.byref(header), data) == 0


class CapHeader(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class CapData(ctypes.Structure):
    """struct __user_cap_data_struct."""

    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


def hidden(pid: int, prepare: Callable[[], None]) -> str:
    """Why pid is hidden from a process so prepared; the kernel refuses to show it."""
    prepare()
    with pytest.raises(PermissionError):
        os.readlink(f"/proc/{pid}/ns/net")
    return why_hidden(pid)[0]


@pytest.mark.needs("root")
def test_missing_capabilities_are_named(in_child: Callable[..., Any]) -> None:
    """The capabilities that the other has more hide it, where CAP_SYS_PTRACE is not there to make up for them."""
    cause = in_child(hidden, os.getpid(), lambda: without("net_admin", "sys_ptrace"))
    assert cause == "it has CAP_NET_ADMIN, CAP_SYS_PTRACE, which you have not, and you have no CAP_SYS_PTRACE over it"


@pytest.mark.needs("root", "landlock")
def test_a_security_module_is_blamed_with_ptrace(in_child: Callable[..., Any]) -> None:
    """In the first user namespace nothing else is left."""
    cause = in_child(hidden, os.getpid(), kernel.landlock)
    assert "protected by a security module (Landlock," in cause
    first = os.readlink("/proc/self/ns/user") == INITIAL_USERNS
    assert ("is in a user namespace" in cause) != first


@pytest.mark.needs("user")
def test_an_undumpable_process_is_hidden_from_its_own_user(as_user: AsUser) -> None:
    """It has the same ids and no capability more."""

    def look() -> str:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        reader, writer = os.pipe()
        if os.fork() == 0:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            os.write(writer, hidden(os.getppid(), lambda: None).encode())
            os._exit(0)
        os.wait()
        return os.read(reader, 4096).decode()

    assert as_user(look).startswith("it has made itself undumpable")


def test_facts_are_plain_json(found: Isolation) -> None:
    """asdict goes through json and back unchanged."""
    data = found.asdict()
    assert json.loads(json.dumps(data)) == data
    assert data["inside"]["capabilities"]["ambient"]["names"] == ["kill"]


def run_show(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``nstool show`` as its own program."""
    command = [sys.executable, "-m", "nstool.cli.main", "show", *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_show_prints_both_sides(boxed: Boxed) -> None:
    """Each fact that the table promises, inside beside outside."""
    shown = run_show(str(boxed.pid), "--mounts")
    assert (shown.returncode, shown.stderr) == (0, "")
    rows = {line.strip().partition("  ")[0]: line for line in shown.stdout.splitlines()}
    for kind in KINDS:
        assert os.readlink(f"/proc/{boxed.pid}/ns/{kind}") in rows[kind]
        assert os.readlink(f"/proc/self/ns/{kind}") in rows[kind]
    assert "0 is 0, 1000 ids" in rows["uid map"]
    assert "chown kill" in rows["bounding"]
    assert f"{boxed.pid} > 1" in rows["pids"]
    assert "a-box" in rows["host name"]
    assert socket.gethostname() in rows["host name"]
    assert "monotonic +86400 s" in rows["clocks"]
    assert "127.0.0.1/8" in rows["addresses"]
    assert any("two words" in line and " ro " in line for line in shown.stdout.splitlines())


def test_show_cuts_nothing_off(boxed: Boxed, found: Isolation) -> None:
    """A program that reads it gets each row as a line; on a narrow terminal what is too long is folded."""
    from rich.console import Console

    from nstool.cli.show import render, render_mounts

    shown = run_show(str(boxed.pid), "--mounts").stdout
    rows = [line.split() for line in shown.splitlines() if line.split()]
    for line in Path(f"/proc/{boxed.pid}/mountinfo").read_text().splitlines():
        _, _, _, _, target, options, *_ = line.split()
        assert (target, options.removeprefix("ro,").removeprefix("rw,")) in [(row[0], row[-1]) for row in rows]
    assert "covered" in next(row for row in rows if row[0] == "/proc")
    output = io.StringIO()
    render(found, Console(file=output, width=60))
    render_mounts(found, Console(file=output, width=60))
    assert "…" not in output.getvalue()


def test_show_marks_what_is_covered(boxed: Boxed) -> None:
    """A mount that no path leads to is told from the one that covers it, and is not counted as writable."""
    before = run_show(str(boxed.pid)).stdout.splitlines()
    into = ["nsenter", "-t", str(boxed.pid), "-m"]
    for options in (["-t", "tmpfs", "under"], ["-t", "tmpfs", "-o", "ro", "over"]):
        subprocess.run([*into, "mount", *options, "/mnt"], check=True)
    shown = run_show(str(boxed.pid), "--mounts").stdout.splitlines()
    assert [line.split()[1:4] for line in shown if line.startswith(" /mnt ")] == [
        ["covered", "tmpfs", "two"],
        ["covered", "tmpfs", "under"],
        ["ro", "tmpfs", "over"],
    ]
    all_before, writable_before, covered_before = counted(before)
    assert counted(shown) == (all_before + 2, writable_before, covered_before + 2)


def counted(lines: list[str]) -> tuple[int, ...]:
    """The mounts of the inside, as a table counts them: all, the writable, the covered."""
    row = next(line for line in lines if line.startswith("   mounts "))
    return tuple(map(int, re.findall(r"\d+", row)[:3]))


def test_show_prints_json(boxed: Boxed) -> None:
    """The facts, with the addresses of both sides."""
    data = json.loads(run_show(str(boxed.pid), "--json").stdout)
    assert data["inside"]["hostname"] == "a-box"
    assert data["inside"]["addresses"] == ["lo"]
    assert any("127.0.0.1/8" in link for link in data["outside"]["addresses"])


def test_show_of_nothing_is_a_mistake() -> None:
    """One message, status 2."""
    for word in ("4194304", "no-such-sandbox"):
        shown = run_show(word)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert len(shown.stderr.splitlines()) == 1


def test_names_from_inside_cannot_write_to_the_terminal(found: Isolation) -> None:
    """An escape sequence in a name is shown, not sent; brackets are no markup."""
    from rich.console import Console

    from nstool.cli.show import render

    output = io.StringIO()
    wicked = found.inside.replace(hostname="\x1b]0;x\x07[red]", command="\x1b[2J")
    render(found.replace(inside=wicked), Console(file=output, width=200))
    assert "\x1b" not in output.getvalue()
    assert "\\x1b]0;x\\x07[red]" in output.getvalue()
