"""The default root and /proc: what the command sees of the host is its programs, and of /proc what is its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.errors import SpecError
from nstool.plan import identity, views
from nstool.spec.model import Capabilities, Ipc, Limits, Mount, Net, Root
from tests.kernel.rows import boxes
from tests.support import kernel
from tests.support.user import User

Act = Callable[..., Any]
pytestmark = pytest.mark.vm
LIMITED = Limits(memory=64 << 20, pids=77, cpu=0)


def host_with(*directories: str) -> None:
    """Give the caller a host of its own in which these directories are empty and can be written."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    for directory in directories:
        kernel.mount("none", directory, "tmpfs", data="mode=755")


# ---------------------------------------------------------------------------------------- files


def test_no_tmpfs_tells_of_the_hosts_memory(act: Act) -> None:
    """By itself one has as many inodes as half the pages that the host has."""
    found = act(boxes.shell, "stat -f -c '%T %c' / /dev /dev/shm /tmp /var/tmp /run").split()
    assert found[::2] == ["tmpfs"] * 6
    assert [int(number) for number in found[1::2]] == [1024, 1024, *[65536] * 4]


def test_nothing_of_the_host_but_its_programs(act: Act) -> None:
    """Every file that is found inside is of /usr, of the parts of /etc that programs read, or of the sandbox's own."""
    found = act(boxes.shell, "find / -xdev; find /run /tmp").splitlines()
    top = {path for path in found if path.count("/") == 1 and len(path) > 1}
    links = {f"/{name}" for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin")}
    assert (
        top
        <= {"/usr", "/etc", "/dev", "/proc", "/tmp", "/var", "/run", "/home", "/root", "/opt", "/srv", "/mnt"} | links
    )
    empty: tuple[str, ...] = (
        "/home",
        "/root",
        "/opt",
        "/srv",
        "/mnt",
        "/run",
        "/tmp",
        "/var/lib",
        "/var/log",
        "/var/cache",
    )
    assert [path for path in found for directory in empty if path.startswith(directory + "/")] == []
    etc = {path.split("/")[2] for path in found if path.startswith("/etc/")}
    assert set(identity.ETC) | {"ssl", "ld.so.cache", "mtab"} <= etc
    assert not etc & {"shadow", "fstab", "ssh", "subuid", "crontab", "cron.d", "sudoers", "systemd"}


def test_a_file_that_everybody_may_read_is_not_there(as_root: Act) -> None:
    """In whatever directory of the host, also one that nobody has thought of."""

    def look() -> str:
        host_with("/srv", "/opt")
        for path in ("/srv/secret", "/opt/secret"):
            Path(path).write_text("secret")
        return boxes.shell("cat /srv/secret /opt/secret 2>/dev/null || echo none")

    assert as_root(look) == "none\n"


def test_the_mounts_tell_nothing_of_the_host(act: Act) -> None:
    """No device, no path and no option of a file system of the host; nothing but what the sandbox has."""

    def look() -> dict[str, boxes.MountLine]:
        with boxes.box() as box:
            return boxes.mounts(box.pid)

    found = act(look)
    host = boxes.mounts("self")
    devices = {line.source for line in host.values() if line.source.startswith("/")}
    nodes = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}  # a user's are bound
    usr = found["/usr"].superblock
    if not any(word.startswith("lowerdir=/dev/layer") for word in usr):  # no user lays one over what has mounts below
        assert any(point.startswith("/usr/") for point in host)
        nodes |= {point for point in found if f"{point}/".startswith("/usr/")}
    kinds = {line.type for point, line in found.items() if point not in nodes}
    assert kinds <= {"tmpfs", "overlay", "proc", "devpts", "mqueue"}
    assert [line for line in found.values() if line.source in devices] == []
    assert {line.source for point, line in found.items() if point not in nodes} == {"none"}
    shown = [line for point, line in found.items() if line.type == "overlay" and point not in nodes]
    assert {word for line in shown for word in line.superblock if word.startswith("lowerdir=")} <= {
        f"lowerdir=/dev/layer{number}:/dev/dir" for number in range(9)
    }
    assert [line for line in shown if "ro" not in line.options or "nosuid" not in line.options] == []


def test_sockets_and_pipes_of_the_host_lead_to_nobody(as_root: Act) -> None:
    """In /usr, which is shown: connecting finds nobody, and what is written to a FIFO stays inside."""

    def look() -> tuple[str, bytes, str]:
        host_with("/usr/local")
        os.mkfifo("/usr/local/fifo")
        os.chmod("/usr/local/fifo", 0o666)
        reader = os.open("/usr/local/fifo", os.O_RDWR | os.O_NONBLOCK)
        server = socket.socket(socket.AF_UNIX)
        server.bind("/usr/local/socket")
        os.chmod("/usr/local/socket", 0o777)
        server.listen()
        script = "import socket; socket.socket(socket.AF_UNIX).connect('/usr/local/socket')"
        refused = boxes.run("/usr/bin/python3", "-c", script)
        assert boxes.run("sh", "-c", "echo out <>/usr/local/fifo 1>&0").status == 0
        try:
            heard = os.read(reader, 9)
        except BlockingIOError:
            heard = b""
        return refused.err.splitlines()[-1], heard, boxes.shell("stat -c %F /usr/local/*")

    refused, heard, kinds = as_root(look)
    assert refused == "ConnectionRefusedError: [Errno 111] Connection refused"
    assert heard == b""
    assert kinds == "fifo\nsocket\n"


@pytest.mark.needs("root", "native", "nsexec", "user")
@pytest.mark.parametrize("who", ["root", "user"])
def test_what_is_mounted_in_the_programs_is_shown(who: str, in_child: Act, user: User, tmp_path: Path) -> None:
    """A directory and a file; as they are, read-only."""
    (tmp_path / "file").write_text("a file that is mounted\n")

    def look() -> boxes.Ran:
        host_with("/usr/local")
        Path("/usr/local/note").write_text("a directory that is mounted\n")
        os.chmod("/usr/local/note", 0o644)
        kernel.mount(str(tmp_path / "file"), "/usr/lib/os-release", flags=kernel.MS_BIND)
        if who == "user":
            user.become()
        script = "cat /usr/local/note /usr/lib/os-release; ! touch /usr/local/new 2>/dev/null"
        return boxes.run("sh", "-c", script)

    expected = "a directory that is mounted\na file that is mounted\n"
    assert in_child(look) == (0, expected, "")


@pytest.mark.needs("root", "native", "nsexec", "user")
@pytest.mark.parametrize("who", ["root", "user"])
def test_files_beside_a_mount_are_what_they_are(who: str, in_child: Act, user: User, tmp_path: Path) -> None:
    """In /etc, as containers have it: a user's sandbox gets copies, for no overlay may be laid there."""
    (tmp_path / "name").write_text("the host's name\n")

    def look() -> tuple[str, str]:
        host_with()
        kernel.mount(str(tmp_path / "name"), "/etc/hostname", flags=kernel.MS_BIND)
        if who == "user":
            user.become()
        with boxes.box() as box:
            mount = boxes.mounts(box.pid).get("/etc/ld.so.cache")
            said = box.ask("md5sum < /etc/ld.so.cache; cat /etc/hostname; hostname")
            return said, mount.type if mount else ""

    said, kind = in_child(look)
    total, *names = said.splitlines()
    assert total == sum_of("/etc/ld.so.cache")
    assert names[0] == names[1] != "the host's name"
    assert kind == ("overlay" if who == "root" else "")


def sum_of(path: str) -> str:
    with open(path, "rb") as file:
        return subprocess.run(["md5sum"], stdin=file, capture_output=True, text=True, check=True).stdout.strip()


def test_accounts_names_and_ids_are_its_own(act: Act) -> None:
    """Two sandboxes have two machine ids and two boot ids, and neither has the host's."""

    def look() -> list[list[str]]:
        script = "cat /etc/machine-id /proc/sys/kernel/random/boot_id /etc/hostname; hostname; id -un; getent passwd"
        return [boxes.shell(script).splitlines() for _ in range(2)]

    one, two = act(look)
    assert not set(one[:3]) & set(two[:3])
    assert re.fullmatch("[0-9a-f]{32}", one[0])
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", one[1])
    assert one[1] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert one[2] == one[3]
    assert one[4] == "user"
    accounts = {line.split(":")[0] for line in one[5:]}
    assert accounts == {"root", "daemon", "bin", "mail", "www-data", "nobody", "user"}


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_the_file_of_the_command_is_shown_and_nothing_beside_it(as_root: Act, mode: int, tmp_path: Path) -> None:
    """Where it is named, also in a directory that the sandbox's ids may not enter, and in a private one as /tmp."""

    def look(directory: str) -> boxes.Ran:
        os.makedirs(directory)
        os.chmod(directory, mode)
        tool = f"{directory}/tool"
        shutil.copy(shutil.which("ls") or "", tool)
        os.chmod(tool, 0o755)
        Path(f"{directory}/beside").write_text("")
        return boxes.run(tool, "-l", directory)

    def look_at_both() -> list[boxes.Ran]:
        host_with("/srv")
        return [look("/srv/deep/er"), look(f"{tmp_path}/deep")]

    for ran in as_root(look_at_both):
        assert (ran.status, ran.err) == (0, "")
        names = [line.split()[-1] for line in ran.lines if not line.startswith("total")]
        assert names == ["tool"]


@pytest.mark.parametrize("target", ["/data/deep", "/etc/app.conf", "/opt/app", "/tmp/x"])
def test_a_place_for_a_mount_is_made(act: Act, target: str) -> None:
    source = "/etc/passwd" if target.endswith(".conf") else "/etc/ssl"

    def look() -> str:
        return boxes.shell(f"stat -c %F {target}", mounts=(Mount(target, source),))

    assert act(look) == ("regular file\n" if target.endswith(".conf") else "directory\n")


def test_in_what_is_the_hosts_no_place_is_made(act: Act) -> None:
    ran = act(boxes.nstool_run, "--mount", "/etc:/usr/nowhere", "--", "true")
    assert (ran.status, "/usr/nowhere does not exist in the root" in ran.err) == (2, True)
    assert not os.path.exists("/usr/nowhere")


def test_it_is_read_only_or_a_scratch_one_where_that_is_asked_for(act: Act) -> None:
    def look(writable: bool) -> boxes.Ran:
        return boxes.run("sh", "-c", "touch /etc/new /usr/new; ls /etc/new", root=Root(writable=writable), user="0:0")

    closed, opened = act(look, False), act(look, True)
    assert (closed.status, closed.err.count("Read-only file system")) == (2, 2)
    assert (opened.status, opened.err.count("Read-only file system")) == (0, 1)
    assert not os.path.exists("/etc/new")


# ---------------------------------------------------------------------------------------- /proc


def test_no_file_of_proc_says_what_the_hosts_says(act: Act) -> None:
    """Whatever files this kernel has: shut, empty, or another text."""
    script = 'cd /proc; for f in *; do [ -f $f ] && echo "== $f" && cat $f 2>/dev/null; done; true'
    texts = act(boxes.shell, script).split("== ")[1:]
    inside = {name: rest for name, _, rest in (text.partition("\n") for text in texts)}
    assert {"kmsg", "kallsyms", "interrupts"} <= inside.keys()
    said = {name for name, text in inside.items() if text}  # without a limit there is no other memory than the host's
    assert said - {"mounts"} == {
        *("cpuinfo", "devices", "filesystems", "loadavg", "meminfo", "stat", "swaps", "uptime", "version")
    }
    same = {name for name in said if inside[name] == Path(f"/proc/{name}").read_text()}
    assert same <= {"swaps"}  # a heading, where the host has none


def test_no_directory_of_proc_has_what_the_hosts_has(act: Act) -> None:
    """Processes are its own; net is of its network; sys is looked at below; all else is empty."""
    script = "cd /proc; for f in [a-z]*; do [ -d $f ] && echo $f $(ls -A $f | wc -l); done; true"
    found = dict(line.split() for line in act(boxes.shell, script).splitlines())
    assert {name for name, count in found.items() if count != "0"} == {
        *("net", "self", "thread-self", "sys", "sysvipc")  # of its own ipc namespace
    }


@pytest.mark.needs("cgroup_memory")
def test_sysinfo_says_what_the_limits_say(as_root: Act, tmp_path: Path) -> None:
    """Memory, swap, load and uptime by sysinfo(2), also in a thread, of a later command, of one with capabilities."""
    program = """
import ctypes, threading
def ask():
    words = (ctypes.c_ulong * 14)()
    assert ctypes.CDLL(None).sysinfo(words) == 0
    print(words[0] < 60, *words[1:6], words[8], words[9], words[10] & 0xffff)
ask(); thread = threading.Thread(target=ask); thread.start(); thread.join()
assert ctypes.CDLL(None, use_errno=True).sysinfo(8) == -1
print(ctypes.get_errno())
"""
    said = "True 0 0 0 67108864 67108864 0 0 1\n"

    def look(later: str) -> list[str]:
        words = ("python3", "-c", program)
        with boxes.box(limits=LIMITED) as box, open(later, "w+b") as file:
            assert box.sandbox.exec(*words, stdout=file.fileno()).wait().status == 0
        capable = boxes.run(*words, limits=LIMITED, capabilities=Capabilities(*[("net_raw",)] * 5))
        return [boxes.run(*words, limits=LIMITED).out, Path(later).read_text(), capable.out]

    assert as_root(look, str(tmp_path / "later")) == [f"{said}{said}14\n"] * 3


@pytest.mark.vm_full
@pytest.mark.vm
@pytest.mark.needs("cgroup_memory")
def test_who_leaves_sysinfo_by_a_signal_is_not_written_to(as_root: Act) -> None:
    """Signals come all the time: the call may fail with EINTR, but then init writes nothing any more."""
    program = """
import ctypes, signal, time
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00005)
sysinfo, size, late = ctypes.CDLL(None).sysinfo, 112, 0
begun, count = time.monotonic(), 0
while count < 30000 and time.monotonic() < begun + 10:
    count += 1
    buffer = ctypes.create_string_buffer(size)
    if sysinfo(buffer) != 0:
        ctypes.memset(buffer, 0x55, size)
        end = time.perf_counter() + 0.00005
        while time.perf_counter() < end:
            pass
        late += buffer.raw != bytes([0x55]) * size
print(late)
"""
    assert as_root(boxes.run, "python3", "-c", program, limits=LIMITED).out == "0\n"


def test_sysinfo_is_the_hosts_where_a_word_says_so(as_root: Act) -> None:
    def look() -> str:
        words = {"limits": LIMITED, "proc_show": ("meminfo",)}
        return boxes.shell("busybox free | sed -n 2p; cat /proc/meminfo | sed -n 1p", **words)

    first, second = as_root(look).splitlines()
    assert first.split()[1] == second.split()[1]
    assert int(first.split()[1]) > 65536


def test_what_is_the_hosts_roots_alone_is_shut_to_root_inside(as_root: Act) -> None:
    """It has no cover: its mode is 0400 and its owner nobody inside, whatever capability who asks has."""
    closed = [name for name in os.listdir("/proc") if os.path.isfile(f"/proc/{name}") and not name.isdecimal()]
    closed = [name for name in closed if not os.stat(f"/proc/{name}").st_mode & 0o007]
    assert "kmsg" in closed
    every = Capabilities(*[tuple(uapi.CAPABILITIES)] * 5)

    def look() -> str:
        words = {"user": "0", "capabilities": every, "securebits": (), "seccomp": "none"}
        return boxes.shell("cd /proc; for f in *; do [ -f $f ] && cat $f >/dev/null 2>&1 || echo $f; done", **words)

    assert set(closed) <= set(as_root(look).split())


@pytest.mark.needs("cgroup_memory", "cgroup_pids")
def test_proc_says_what_the_limits_say(as_root: Act) -> None:
    def look() -> str:
        script = "free -k | sed -n 2p; nproc; uptime; grep -c ^cpu[0-9] /proc/stat; cat /proc/sys/kernel/threads-max"
        return boxes.shell(script, limits=LIMITED)

    memory, processors, uptime, counted, threads = as_root(look).splitlines()
    assert memory.split()[1] == str(64 << 10)
    assert int(processors) == int(counted) == len(os.sched_getaffinity(0))
    assert "load average: 0.00, 0.00, 0.00" in uptime
    assert threads == "77"


def test_settings_are_those_that_programs_ask_and_its_own(act: Act) -> None:
    """Of /proc/sys; what is of its namespaces is live, and nothing can be written."""

    def look() -> tuple[list[str], str, str]:
        with boxes.box(
            user="0:0", ipc=Ipc(shmmax=4444), net=Net(sysctls={"net.ipv4.ip_default_ttl": "42"}), hostname="box"
        ) as box:
            files = box.ask("cd /proc/sys; find . -type f ! -path './net/*' ! -path './fs/mqueue/*'").splitlines()
            own = box.ask("cd /proc/sys; cat kernel/shmmax net/ipv4/ip_default_ttl kernel/hostname")
            wrote = box.ask(
                "cd /proc/sys; for f in kernel/shmmax net/ipv4/ip_default_ttl kernel/pid_max; do echo 1 > $f; done"
            )
            return files, own, wrote

    files, own, wrote = act(look)
    ipc = {f"./kernel/{name}" for name in views.IPC}
    more = {f"./kernel/{name}" for name in ("random/uuid", "random/boot_id", "hostname", "domainname", "threads-max")}
    assert set(files) <= {f"./{name}" for name in views.SETTINGS} | ipc | more
    assert "./kernel/cap_last_cap" in files
    assert own == "4444\n42\nbox\n"
    assert wrote.count("Read-only file system") == 3


def test_what_is_named_is_shown_as_the_host_has_it(act: Act) -> None:
    def look() -> tuple[str, str, str]:
        with boxes.box(proc_show=("version", "sys")) as box:
            return (
                box.ask("cat /proc/version"),
                box.ask("cat /proc/sys/kernel/core_pattern"),
                box.ask("cat /proc/cmdline"),
            )

    version, pattern, cmdline = act(look)
    assert version == Path("/proc/version").read_text()
    assert pattern == Path("/proc/sys/kernel/core_pattern").read_text()
    assert cmdline == ""


def test_a_name_that_proc_has_not_is_refused(act: Act) -> None:
    def look() -> str:
        with pytest.raises(SpecError) as refused:
            boxes.run("true", proc_show=("stat", "nonsense"))
        return str(refused.value)

    assert act(look).startswith("proc_show[1]: /proc has no 'nonsense' that would be hidden")
