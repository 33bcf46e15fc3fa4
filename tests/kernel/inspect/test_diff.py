"""In what two processes differ: one difference is made at a time, and that one is found, with what it means."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nstool.inspect import reach
from nstool.inspect.against import against
from nstool.inspect.diff import DIFFERENT, UNKNOWN, Difference, Row, difference
from nstool.sandbox.facts import facts
from nstool.sandbox.launch import launch
from nstool.spec.load import from_dict
from tests.kernel.rows import boxes
from tests.support import actors, kernel, processes
from tests.support.held import private_mounts

pytestmark = pytest.mark.needs("root", "native")

READY = "print('ready', flush=True); sys.stdin.read()"


@contextmanager
def living(*before: str, code: str = "") -> Iterator[int]:
    """The pid of a Python program, started by other commands, that waits."""
    command = [*before, sys.executable, "-c", f"import os, sys\n{code}\n{READY}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield int(children[0]) if children else process.pid
        process.communicate()


def different(found: Difference) -> dict[tuple[str, str], Row]:
    return {(row.area, row.what): row for row in found.rows if row.state == DIFFERENT}


def test_two_alike_processes_are_alike() -> None:
    with living() as one, living() as other:
        found = difference(one, other)
        assert different(found) == {}
        assert found.alike
        assert (found.first, found.second) == (f"{one} (python)", f"{other} (python)")
        unknown = {row.what for row in found.rows if row.state == UNKNOWN}
        assert {"securebits", "Landlock"} <= unknown
        assert difference(os.getpid(), os.getpid()).alike


def forward(value: int) -> str:
    """A line of shell that sets ip_forward: what it is already set to would change nothing, and devices not either."""
    file = "/proc/sys/net/ipv4/ip_forward"
    return f"echo {1 - value} > {file}; echo {value} > {file}"


# What the second process does more, to what must differ, alone, and words of its meaning.
CHANGES: dict[str, tuple[tuple[str, ...], str, set[tuple[str, str]], str]] = {
    "net": (("unshare", "--net"), "", {("namespaces", "net")}, "neither reaches the other's devices"),
    "ipc": (("unshare", "--ipc"), "", {("namespaces", "ipc")}, "neither sees the other's System V objects"),
    "uts": (("unshare", "--uts"), "", {("namespaces", "uts")}, "a host name of its own"),
    "pid": (("unshare", "--pid", "--fork"), "", {("namespaces", "pid")}, "{one} sees {other}'s processes"),
    "cgroup": (("unshare", "--cgroup"), "", {("namespaces", "cgroup")}, "cgroup paths from another root"),
    "mnt": (("unshare", "--mount", "--propagation=unchanged"), "", {("namespaces", "mnt")}, "neither sees what"),
    "uid": (("setpriv", "--ruid=77"), "", {("ids", "uid")}, "open to each as its own user"),
    "gid": (("setpriv", "--regid=77", "--clear-groups"), "", {("ids", "gid")}, "as its own group"),
    "groups": (("setpriv", "--groups=55,66"), "", {("ids", "groups")}, "supplementary groups"),
    "bounding": (
        ("setpriv", "--bounding-set=-mknod,-net_raw"),
        "",
        {("capabilities", name) for name in ("mknod", "net_raw", "bounding", "permitted")},
        "{one} may read and forge packets",
    ),
    "no_new_privs": (("setpriv", "--no-new-privs"), "", {("confinement", "no_new_privs")}, "{other} gains nothing"),
    "aslr": (("setarch", "-R"), "", {("confinement", "randomised addresses")}, "knows the addresses"),
    "oom": (("choom", "-n", "77", "--"), "", {("confinement", "oom_score_adj")}, "{other} is killed before {one}"),
    "chroot": ((), "os.chroot('/usr')", {("confinement", "root directory")}, "absolute paths"),
    "rlimits": (
        ("prlimit", "--nofile=50", "--core=1:1"),
        "",
        {("limits", "nofile"), ("limits", "core")},
        "{other} may",
    ),
    "clock": (
        ("unshare", "--time", "--fork", "--monotonic=3600"),
        "",
        {("namespaces", "time"), ("settings", "clock monotonic")},
        "differ",
    ),
    "hostname": (
        ("unshare", "--uts", "sh", "-c", 'hostname other; exec "$@"', "sh"),
        "",
        {("namespaces", "uts"), ("settings", "host name")},
        "another name",
    ),
    "sysctl": (
        ("unshare", "--net", "sh", "-c", f'{forward(1)}; exec "$@"', "sh"),
        "",
        {
            ("namespaces", "net"),
            *(("settings", f"net/ipv4/{name}") for name in ("ip_forward", "conf/all/forwarding")),
            *(("settings", f"net/ipv4/conf/{name}") for name in ("default/forwarding", "lo/forwarding")),
            ("settings", "net/ipv4/conf/all/accept_redirects"),
        },
        "{other} forwards packets between its devices, {one} does not",
    ),
    "shmmax": (
        ("unshare", "--ipc", "sh", "-c", 'echo 77777 > /proc/sys/kernel/shmmax; exec "$@"', "sh"),
        "",
        {("namespaces", "ipc"), ("settings", "kernel/shmmax")},
        "other limits",
    ),
}


@pytest.mark.needs("timens", "cgroupns")
@pytest.mark.parametrize("case", CHANGES)
def test_one_difference_is_found_and_no_other(case: str) -> None:
    before, code, expected, words = CHANGES[case]
    # Both in a network or ipc namespace of the same kind, so that a new one differs in nothing of the host's.
    # It takes over whether the host forwards, which changes as other sandboxes come and go: so it is said.
    script = f'{forward(0)}; exec "$@"'
    outer = ("unshare", "--net", "sh", "-c", script, "sh") if case in ("net", "sysctl") else ()
    outer = ("unshare", "--ipc") if case in ("ipc", "shmmax") else outer
    if case == "net":
        before = outer
    with living(*outer) as one, living(*before, code=code) as other:
        found = difference(one, other)
        rows = different(found)
        # From another root other mounts and devices are seen, too.
        seen = {key for key in rows if case != "chroot" or key[0] not in ("mounts", "devices")}
        assert seen == expected
        assert not found.alike
        meanings = "; ".join(row.meaning for row in rows.values())
        assert words.format(one=one, other=other) in meanings
        back = different(difference(other, one))
        assert set(back) == set(rows)
        assert {key: (row.second, row.first) for key, row in back.items()} == {
            key: (row.first, row.second) for key, row in rows.items()
        }
        assert words.format(one=one, other=other) in "; ".join(row.meaning for row in back.values())


def test_capabilities_are_those_of_getpcaps() -> None:
    """What only one has, by an independent tool."""
    with living() as one, living("setpriv", "--bounding-set=-all,+chown,+kill") as other:
        rows = different(difference(one, other))
        texts = [
            subprocess.run(["getpcaps", str(pid)], capture_output=True, text=True, check=True) for pid in (one, other)
        ]
    assert texts[1].stdout.split()[-1] in ("cap_chown,cap_kill=ep", "cap_chown,cap_kill=ep\n")
    only_one = {what for area, what in rows if area == "capabilities"} - {"permitted", "bounding"}
    by_status = facts(os.getpid()).capabilities["effective"].names
    assert only_one == set(by_status) - {"chown", "kill"}
    assert rows["capabilities", "sys_admin"].meaning.startswith(f"{one} may mount")


def test_a_capability_in_a_user_namespace_reaches_that_only() -> None:
    with living("setpriv", "--bounding-set=-all", "--ruid=0") as one, living("unshare", "--user", "-r") as other:
        rows = different(difference(one, other))
    meaning = rows["capabilities", "sys_admin"].meaning
    assert meaning.startswith(f"{other} may mount")
    assert meaning.endswith("as far as it belongs to its user namespace")
    assert f"capabilities of {one} hold over {other}'s" in rows["namespaces", "user"].meaning
    assert "lets it do nothing" in rows["capabilities", "sys_module"].meaning
    assert "clock offsets of time namespaces" in rows["capabilities", "sys_time"].meaning


def below_root(namespaces: int, act: Callable[[], bool]) -> bool:
    """Return what comes of it as root of a user namespace with uids 100000 to 100009, in namespaces of that."""
    ready, go, done = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
            kernel.unshare(namespaces)
            os.write(done[1], b"yes" if act() else b"no")
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text("0 100000 10\n")
    os.write(go[1], b"x")
    os.waitpid(pid, 0)
    os.close(done[1])
    return {b"yes": True, b"no": False}[os.read(done[0], 3)]


def lock_a_segment_of_another(capable: Callable[[], None]) -> int:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setresuid(5, 5, 5)
        os.write(writer, bytes([LIBC.shmget(0x77, 4096, 0o1666)]))
        os._exit(0)
    segment = os.read(reader, 1)[0]
    os.wait()
    capable()
    return LIBC.shmctl(segment, 11, None)  # SHM_LOCK


def restart(capable: Callable[[], None]) -> int:
    init = os.fork()
    if init == 0:
        if (child := os.fork()) == 0:
            capable()
            LIBC.reboot(0x1234567)  # LINUX_REBOOT_CMD_RESTART
            os._exit(0)
        os.waitpid(child, 0)
        os._exit(0)
    return 0 if os.WIFSIGNALED(os.waitpid(init, 0)[1]) else -1  # it is init that ends


def set_offsets(capable: Callable[[], None]) -> int:
    capable()
    fd = os.open("/proc/self/timens_offsets", os.O_WRONLY)
    return LIBC.write(fd, b"monotonic 100 0", 15)


def take_a_lease(capable: Callable[[], None]) -> int:
    capable()
    return LIBC.fcntl(os.open("/tmp/of-another", os.O_RDONLY), 1024, fcntl.F_RDLCK)  # F_SETLEASE


def make_a_device(capable: Callable[[], None]) -> int:
    capable()
    return LIBC.mknod(b"/tmp/device", 0o20600, os.makedev(1, 3))


LIBC = ctypes.CDLL(None)
DONE_BY: dict[str, tuple[int, Callable[[Callable[[], None]], int], bool]] = {
    "ipc_lock": (0x08000000, lock_a_segment_of_another, True),
    "sys_boot": (0x20000000, restart, True),
    "sys_time": (0x80, set_offsets, True),
    "lease": (0, take_a_lease, False),
    "mknod": (0, make_a_device, False),
}


@pytest.mark.parametrize("name", DONE_BY)
def test_what_a_capability_does_in_a_user_namespace_below(in_child: Callable[..., Any], name: str) -> None:
    """Some of those that are about the whole host have a part there, which the kernel refuses without; others none."""
    namespaces, act, counts = DONE_BY[name]

    def refused(*names: str) -> bool:
        return not below_root(namespaces, lambda: act(partial(actors.capabilities, names)) >= 0)

    def act_twice() -> tuple[bool, bool]:
        private_mounts()
        os.chmod("/tmp", 0o1777)
        Path("/tmp/of-another").touch()
        os.chown("/tmp/of-another", 100005, 100005)
        return refused(name), refused()

    with_it, without = in_child(act_twice)
    assert without
    assert with_it != counts
    assert (name in reach.ELSEWHERE) == counts
    assert (name in reach.FIRST_ONLY) != counts


def test_a_capability_that_lets_nothing_in_a_user_namespace(tmp_path: Path) -> None:
    """The kernel refuses what root of a user namespace asks for by it."""
    assert "linux_immutable" in reach.FIRST_ONLY
    script = f"touch {tmp_path}/file && chattr +i {tmp_path}/file"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", script]
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_mounts_by_target_options_and_propagation() -> None:
    script = (
        "mount -t tmpfs -o size=1m,nosuid one /mnt; mount --bind /etc /srv; mount -o remount,bind,ro,noexec /srv;"
        'mount --make-shared /mnt; exec "$@"'
    )
    with (
        living("unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=1m,nosuid one /mnt; exec "$@"', "sh") as one,
        living("unshare", "--mount", "sh", "-c", script, "sh") as other,
    ):
        rows = {key: row for key, row in different(difference(one, other)).items() if key[0] == "mounts"}
        table = subprocess.run(
            ["findmnt", "--task", str(other), "--json", "--output", "TARGET,FSTYPE,PROPAGATION", "--list"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    by_findmnt = {row["target"]: row for row in json.loads(table)["filesystems"]}
    assert set(rows) == {("mounts", "/mnt"), ("mounts", "/srv")}
    # Two tmpfs of one kind are two file systems; what differs besides is told by the last row of that target.
    assert rows["mounts", "/mnt"].second.startswith("shared:")
    assert by_findmnt["/mnt"]["propagation"] == "shared"
    srv = rows["mounts", "/srv"]
    assert (srv.first, srv.second.split(" ")[0]) == ("", by_findmnt["/srv"]["fstype"])
    assert srv.meaning.startswith(f"{other} sees what is mounted there; {one} sees")


@pytest.mark.parametrize(
    ("option", "meaning"),
    [
        ("ro", "{other} can only read what lies there, {one} may change it"),
        ("noexec", "programs there can be executed by {one}, not by {other}"),
        ("nosuid", "set-user-ID files and file capabilities there work for {one}, not for {other}"),
        ("nodev", "device files there work for {one}, not for {other}"),
    ],
)
def test_one_option_of_a_mount(option: str, meaning: str) -> None:
    script = 'mount --bind /etc /srv; mount -o remount,bind,{} /srv; exec "$@"'
    with (
        living("unshare", "--mount", "sh", "-c", script.format("rw"), "sh") as one,
        living("unshare", "--mount", "sh", "-c", script.format(option), "sh") as other,
    ):
        rows = different(difference(one, other))
    assert set(rows) == {("namespaces", "mnt"), ("mounts", "/srv")}
    row = rows["mounts", "/srv"]
    assert (row.first, row.second, row.meaning) == ("", option, meaning.format(one=one, other=other))


def test_device_files_in_dev() -> None:
    script = 'mount -t tmpfs none /dev; mknod /dev/null c 1 5; mknod /dev/mine b 7 99; exec "$@"'
    with living("unshare", "--mount", "sh", "-c", script, "sh") as other:
        rows = {key[1]: row for key, row in different(difference(os.getpid(), other)).items() if key[0] == "devices"}
    assert (rows["/dev/null"].first, rows["/dev/null"].second) == ("c 1:3", "c 1:5")
    assert rows["/dev/null"].meaning == "the same name is another device"
    assert (rows["/dev/mine"].first, rows["/dev/mine"].second) == ("", "b 7:99")
    assert rows["/dev/mine"].meaning.startswith(f"{other} may open it")
    assert rows["/dev/zero"].second == ""


def test_no_name_adds_a_line() -> None:
    """Who makes mounts and device files may call them what it likes."""
    script = 'mount -t tmpfs none /dev; mknod "/dev/a\n  forged" b 7 99; mknod "/dev/b\x1b[31m" b 7 99; exec "$@"'
    with living("unshare", "--mount", "sh", "-c", script, "sh") as other:
        shown = boxes.nstool("diff", str(os.getpid()), str(other)).out
    assert "a\\n  forged" in shown
    assert not [line for line in shown.splitlines() if line.strip().startswith("forged")]
    assert "\x1b" not in shown


def test_a_dev_that_has_too_much_in_it_or_leads_astray() -> None:
    """Thousands of files are not looked at; a symlink for /dev leads within the root of the process."""
    script = 'mount -t tmpfs none /dev; (cd /dev; seq 5000 | xargs touch); exec "$@"'
    with living("unshare", "--mount", "sh", "-c", script, "sh") as other:
        rows = [row for row in difference(os.getpid(), other).rows if row.area == "devices"]
    assert [(row.state, row.meaning) for row in rows] == [(UNKNOWN, f"{other} has more than 4096 files there")]
    code = "os.chroot('/mnt'); os.chdir('/')"
    script = 'mount -t tmpfs none /mnt; cd /mnt; mkdir in; ln -s ../../../../in dev; mknod in/mine c 1 9; exec "$@"'
    with living("unshare", "--mount", "sh", "-c", script, "sh", code=code) as other:
        rows = [row for row in difference(os.getpid(), other).rows if row.area == "devices" and row.second]
    assert [(row.what, row.second) for row in rows] == [("/dev/mine", "c 1:9")]


@pytest.mark.needs("cgroup_pids", "cgroup_memory", "cgroup_cpu")
def test_limits_that_hold_are_the_strictest_on_the_way_up(workplace: Any) -> None:
    """A cgroup below a limited one, with a looser limit of its own: the upper holds."""
    from tests.support.probes import controller_root

    root = Path(controller_root("pids"))
    outer = root / workplace.new_name()
    inner = outer / "inner"
    inner.mkdir(parents=True)
    try:
        if (root / "cgroup.subtree_control").exists():
            (outer / "cgroup.subtree_control").write_text("+pids")
        (outer / "pids.max").write_text("55")
        (inner / "pids.max").write_text("77")
        with living() as one, living() as other:
            (inner / "cgroup.procs").write_text(str(other))
            row = different(difference(one, other))["cgroups", "pids"]
            assert row.second == "55"
            assert row.meaning == f"the cgroup of {other} may have fewer processes and threads than that of {one}"
    finally:
        inner.rmdir()
        outer.rmdir()


@pytest.mark.needs("user")
def test_an_ordinary_user_is_told_what_is_not_known(as_user: Callable[..., Any]) -> None:
    with living() as one:
        found: Difference = as_user(difference, one, one)
        assert found.alike
        unknown = {row.what: row.meaning for row in found.rows if row.state == UNKNOWN}
    assert {"user", "net", "/dev", "randomised addresses"} <= set(unknown)
    assert unknown["net"] == f"{one} may not be looked into: it runs as uid 0, and you have no CAP_SYS_PTRACE over it"


def test_kernel_threads_and_zombies_are_compared() -> None:
    assert difference(2, 3).alike
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        rows = {row.what: row for row in difference(os.getpid(), pid).rows}
    finally:
        os.waitpid(pid, 0)
    assert (rows["net"].state, rows["net"].meaning) == (UNKNOWN, f"{pid} has ended")
    assert rows["/dev"].state == UNKNOWN
    assert rows["no_new_privs"].state != UNKNOWN


# ---- a process and its spec ----

SPEC: dict[str, Any] = {
    "command": ["cat"],
    "hostname": "box",
    "user": "1000:1001",
    "groups": ["1002"],
    "env": {"A": "one two"},
    "cwd": "/tmp",
    "umask": "0027",
    "oom_score_adj": 300,
    "aslr": "off",
    "limits": {"memory": 0, "pids": 0, "cpu": 0, "rlimits": {"nofile": "100:200"}},
    "capabilities": {
        name: ["net_bind_service"] for name in ("effective", "permitted", "inheritable", "bounding", "ambient")
    },
    "net": {"sysctls": {"net.ipv4.ip_default_ttl": "42"}},
    "ipc": {"shmmax": 77777},
    "mounts": [{"source": "/etc", "target": "/mnt"}],
    "namespaces": {"boottime_offset": 3600},
    "mask_paths": ["/etc/hostname"],
}

# A key of the spec that is asked for otherwise, to the rows in which the process then departs from it.
DEPARTURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, set()),
    "hostname": ({"hostname": "other"}, {"hostname"}),
    "domainname": ({"domainname": "example"}, {"domainname"}),
    "user": ({"user": "1:2"}, {"uid", "gid"}),
    "groups": ({"groups": ["7"]}, {"groups"}),
    "env": ({"env": {"A": "x", "B": "y"}}, {"env A", "env B"}),
    "cwd": ({"cwd": "/"}, {"cwd"}),
    "umask": ({"umask": "0022"}, {"umask"}),
    "command": ({"command": ["cat", "-u"]}, {"command"}),
    "oom_score_adj": ({"oom_score_adj": 301}, {"oom_score_adj"}),
    "aslr": ({"aslr": "on"}, {"aslr"}),
    "personality": ({"personality": "linux32"}, {"personality"}),
    "rlimits": ({"limits": {"memory": 0, "pids": 0, "cpu": 0, "rlimits": {"nofile": "99:200"}}}, {"nofile"}),
    "limits": (
        {"limits": {"memory": "32M", "pids": 9, "cpu": 0.5, "rlimits": {"nofile": "100:200"}}},
        {"memory", "pids", "cpu", "seccomp default"},  # with a limit init answers sysinfo(2)
    ),
    "capabilities": (
        {"capabilities": {}},
        {"net_bind_service", "permitted", "inheritable", "bounding", "ambient"},
    ),
    "seccomp": ({"seccomp": "none"}, {"seccomp none"}),
    "no_new_privs": ({"no_new_privs": False, "seccomp": "none"}, {"no_new_privs", "seccomp none"}),
    "sysctls": ({"net": {"sysctls": {"net.ipv4.ip_default_ttl": "43"}}}, {"net/ipv4/ip_default_ttl"}),
    "net": ({"net": {"mode": "none"}}, {"lo"}),
    "net host": ({"net": "host"}, {"net"}),
    "ipc": ({"ipc": {"shmmax": 1, "msgmax": 2}}, {"kernel/shmmax", "kernel/msgmax"}),
    "mounts": (
        {"mounts": [{"source": "/etc", "target": "/mnt", "exec": False}, {"source": "/usr", "target": "/media"}]},
        {"/mnt", "/media"},
    ),
    "propagation of a mount": (
        {"mounts": [{"source": "/etc", "target": "/mnt", "propagation": "shared"}]},
        {"/mnt propagation"},
    ),
    "root": ({"root": {"type": "tmpfs"}}, {"/"}),
    "all of the host": ({"root": "/"}, {"/"}),
    "namespaces": ({"namespaces": {"ipc": "host", "cgroup": "host"}, "ipc": {}}, {"ipc", "cgroup"}),
    "clock": ({"namespaces": {"boottime_offset": 3601}}, {"clock boottime"}),
    "hidepid": ({"hidepid": "off"}, {"/proc hidepid"}),
    "readonly_paths": ({"readonly_paths": ["/tmp"]}, {"readonly_paths /tmp"}),
    "propagation": ({"mount_propagation": "shared"}, {"mount_propagation"}),
    "init": ({"init": False}, {"init"}),
    "next_pid": ({"next_pid": 77}, {"next_pid"}),
    "uid_map": ({"uid_map": ["0:1:5000"], "gid_map": ["0:1:5000"]}, {"uid_map", "gid_map"}),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[int]:
    """The command of one sandbox for all the departures."""
    null = os.open("/dev/null", os.O_WRONLY)
    reader, writer = os.pipe()
    try:
        with launch(from_dict({**SPEC, "terminal": "never"}), stdin=reader, stdout=null) as running:
            yield running.pid
            os.close(writer)
            writer = -1
            running.wait()
    finally:
        for fd in (null, reader, *([writer] if writer >= 0 else [])):
            os.close(fd)


@pytest.mark.needs("nsexec", "timens", "cgroupns")
@pytest.mark.parametrize("case", DEPARTURES)
def test_a_sandbox_is_what_its_spec_asks_for_and_departs_where_that_is_changed(case: str, sandbox: int) -> None:
    changes, expected = DEPARTURES[case]
    found = against(sandbox, from_dict({**SPEC, **changes}))
    rows = [row for row in found.rows if row.state == DIFFERENT]
    assert {row.what for row in rows} == expected
    assert all(row.meaning for row in rows)
    assert found.alike is (not expected)


@pytest.mark.needs("nsexec", "timens", "cgroupns")
def test_as_many_filters_may_be_other_filters(sandbox: int) -> None:
    """What each lets pass nobody is told; one more is another."""
    rows = {row.what: row for row in difference(sandbox, sandbox).rows}
    assert (rows["seccomp"].state, rows["seccomp"].first) == (UNKNOWN, "1 filter")
    assert different(difference(os.getpid(), sandbox))["confinement", "seccomp"].second == "1 filter"


def test_capabilities_beyond_a_spec_are_those_of_its_user_namespace() -> None:
    """Root of a user namespace has them all, and may not load code into the kernel."""
    with living("unshare", "--user", "--map-root-user") as pid:
        rows = {row.what: row for row in against(pid, from_dict({"command": ["cat"]})).rows}
    assert rows["sys_admin"].meaning.startswith("it may mount")
    assert rows["sys_admin"].meaning.endswith("as far as it belongs to its user namespace")
    assert rows["sys_module"].meaning == f"it {reach.NOTHING}"


@pytest.mark.needs("nsexec", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_limits_of_cgroups_are_compared(name: str) -> None:
    spec = from_dict(
        {"command": ["cat"], "name": name, "terminal": "never", "limits": {"memory": "32M", "pids": 9, "cpu": 0.5}}
    )
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_WRONLY)
    try:
        with launch(spec, stdin=reader, stdout=null) as running:
            processes.wait_exec(running.pid, "cat")
            assert different(against(running.pid, spec)) == {}
            looser = spec.replace(limits=spec.limits.replace(pids=10, cpu=0.25))
            assert {what for _, what in different(against(running.pid, looser))} == {"pids", "cpu"}
            os.close(writer)
            running.wait()
    finally:
        os.close(reader)
        os.close(null)


# ---- the command line ----


def test_exit_status_says_whether_they_are_alike(tmp_path: Path) -> None:
    with living() as one, living() as alike, living("unshare", "--uts", "prlimit", "--nofile=50") as other:
        same = boxes.nstool("diff", str(one), str(alike))
        assert same.status == 0
        assert "alike, as far as can be told" in same.out
        ran = boxes.nstool("diff", str(one), str(other))
        assert ran.status == 1
        assert "each has a host name of its own" in ran.out
        assert ran.lines[-1].startswith("2 differences; ")
        assert "System V" not in ran.out
        shown = boxes.nstool("diff", str(one), str(other), "--all")
        assert any(line.split()[:1] == ["ipc"] and line.rstrip().endswith("alike") for line in shown.lines)
        found = json.loads(boxes.nstool("diff", str(one), str(other), "--json").out)
        assert found["alike"] is False
        assert found["counts"]["different"] == 2
        assert {row["what"] for row in found["rows"] if row["state"] == "different"} == {"uts", "nofile"}
        spec = tmp_path / "some.toml"
        spec.write_text('command = ["cat"]\n')
        assert boxes.nstool("diff", str(one), str(spec)).status == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("{me}", "no-such"), "no sandbox 'no-such'"),
        (("4000000", "{me}"), "there is no process 4000000"),
        (("{me}", "no-such.toml"), "no-such.toml"),
        (("{me}", "{bad}"), "hostnam"),
        (("{me}",), "Missing argument"),
    ],
)
def test_bad_requests(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('command = ["cat"]\nhostnam = "x"\n')
    ran = boxes.nstool("diff", *(word.format(me=os.getpid(), bad=bad) for word in words))
    assert (ran.status, ran.out) == (2, "")
    assert text in ran.err


def test_the_command_has_a_word_for_each_side_of_every_row() -> None:
    """What one side lacks is "no" or "-"; no cell is left empty, for that would be read as something."""
    with living() as one, living("setpriv", "--bounding-set=-mknod,-net_raw,-chown") as other:
        rows = boxes.nstool("diff", str(one), str(other)).out.splitlines()
    told = {line.split()[0]: line.split()[1:3] for line in rows if line.startswith("   ")}
    assert [told[name] for name in ("mknod", "net_raw", "chown")] == [["yes", "no"]] * 3
