"""Capabilities of processes and files, beside what libcap's own tools and /proc say of the same."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nstool import syscalls, uapi
from nstool.errors import KernelError, SpecError
from nstool.inspect.caps import process_caps
from nstool.inspect.proc import ProcessGone
from nstool.security import capabilities, filecaps
from nstool.security.capabilities import CapSets
from nstool.security.filecaps import FileCaps
from tests.kernel.inspect.test_execve import enter_userns
from tests.kernel.test_security_tables import by_libcap, libcap
from tests.support import kernel
from tests.support.held import held
from tests.support.waiting import thread

InChild = Callable[..., Any]
KILL, NET_RAW = 1 << 5, 1 << 13
BASE = 100_000
MAP = f"0 {BASE} 5000\n"
pytestmark = pytest.mark.needs("native")
as_root = pytest.mark.needs("root")
with_libcap = pytest.mark.needs("capsh")


def tool(*words: object) -> str:
    """What a tool of libcap prints."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def nstool(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nstool.cli.main", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


# The text form


@with_libcap
@given(st.integers(0, (1 << 41) - 1))
@settings(max_examples=30, deadline=None)
def test_a_mask_is_decoded_as_by_capsh(mask: int) -> None:
    names = [f"cap_{name}" for name in capabilities.names(mask)]
    assert tool("capsh", f"--decode={mask:x}") == f"0x{mask:016x}={','.join(names)}"


MASKS = st.one_of(
    st.integers(0, (1 << 41) - 1),
    st.sampled_from([0, KILL, NET_RAW, (1 << 41) - 1, (1 << 41) - 2, 1 << 45, (1 << 41) - 1 & ~KILL]),
)


@given(st.builds(CapSets, MASKS, MASKS, MASKS))
@settings(max_examples=300, deadline=None)
def test_the_text_is_that_of_libcap_to_the_letter(sets: CapSets) -> None:
    """cap_to_text(3), whatever the sets, bits without a name included."""
    library = libcap()
    library.cap_init.restype = ctypes.c_void_p
    caps = ctypes.c_void_p(library.cap_init())
    for flag, mask in enumerate((sets.effective, sets.permitted, sets.inheritable)):
        for bit in range(64):
            if mask >> bit & 1:
                assert library.cap_set_flag(caps, flag, 1, ctypes.byref(ctypes.c_int(bit)), 1) == 0
    text = library.cap_to_text(caps, None).decode()
    library.cap_free(caps)
    last = capabilities.last_cap()
    assert capabilities.to_text(sets, last) == text
    assert capabilities.from_text(text, last) == sets


NAMES = st.sampled_from(["cap_kill", "cap_chown", "CAP_NET_RAW", "cap_bpf", "13", "all"])
CLAUSES = st.builds(
    lambda names, first, others: ",".join(names) + first + "".join(others),
    st.lists(NAMES, min_size=1, max_size=3),
    st.builds(lambda op, flags: op + flags, st.sampled_from("=+-"), st.sampled_from(["e", "ip", "eip", "p"])),
    st.lists(
        st.builds(lambda op, flags: op + flags, st.sampled_from("+-"), st.sampled_from(["e", "i", "ep"])), max_size=2
    ),
)


@given(st.lists(st.one_of(CLAUSES, st.sampled_from(["=", "=ep", "=i"])), max_size=4).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_a_text_says_the_sets_that_libcap_reads(text: str) -> None:
    """cap_from_text(3)."""
    assert capabilities.from_text(text, capabilities.last_cap()) == by_libcap(text)


@with_libcap
@pytest.mark.parametrize(
    ("given", "printed"),
    [
        (("0000000000003000",), "0x0000000000003000=cap_net_admin,cap_net_raw\n"),
        (("0x20",), "0x0000000000000020=cap_kill\n"),
        (("net_raw,KILL", "cap_chown"), "0x0000000000002021=cap_chown,cap_kill,cap_net_raw\n"),
        (("45",), "0x0000200000000000=45\n"),
    ],
)
def test_masks_and_names_are_translated(given: tuple[str, ...], printed: str) -> None:
    assert nstool("caps", "text", *given).stdout == printed


def test_a_text_is_translated() -> None:
    done = nstool("caps", "text", "cap_net_raw=ep cap_kill+i")
    assert done.stdout.splitlines() == [
        "effective    0x0000000000002000 net_raw",
        "permitted    0x0000000000002000 net_raw",
        "inheritable  0x0000000000000020 kill",
        "as text      cap_kill=i cap_net_raw+ep",
    ]
    as_json = json.loads(nstool("caps", "text", "--json", "cap_net_raw=ep cap_kill+i").stdout)
    assert as_json["permitted"] == {"mask": NET_RAW, "names": ["net_raw"]}


@pytest.mark.parametrize("given", ["net_rav", "cap_kill=x", "0x", "+ep", ""])
def test_wrong_words_are_a_bad_request(given: str) -> None:
    done = nstool("caps", "text", given)
    assert done.returncode == (0 if given == "" else 2)
    assert "Traceback" not in done.stderr


# Processes


def status(path: str) -> dict[str, str]:
    with open(path) as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


@as_root
@with_libcap
def test_sets_are_those_of_getpcaps_and_proc() -> None:
    def prepare() -> None:
        syscalls.capset(KILL, KILL | NET_RAW, NET_RAW)
        syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAP_NET_RAW)
        syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)

    with held(prepare) as pid:
        found = process_caps(pid)
        sets, lines = found.main.sets, status(f"/proc/{pid}/status")
        assert {line: f"{getattr(sets, name):016x}" for name, line in capabilities.SETS.items()} == {
            line: lines[line] for line in capabilities.SETS.values()
        }
        assert tool("getpcaps", pid) == f"{pid}: {capabilities.to_text(sets, capabilities.last_cap())}"
        assert found.main.no_new_privs
        assert found.main.securebits is None
        assert "prctl(2)" in found.unknown["securebits"]
        shown = nstool("caps", "show", pid).stdout
        assert re.search(r"ambient +0x2000 net_raw", shown)
        assert re.search(r"no_new_privs +yes", shown)
        assert f"user:[{os.stat('/proc/self/ns/user').st_ino}]" in shown


@as_root
def test_the_bounding_set_is_told_by_what_is_missing() -> None:
    def prepare() -> None:
        syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_SYSLOG)
        syscalls.prctl(uapi.PR_CAPBSET_DROP, uapi.CAP_KILL)

    before = process_caps(os.getpid()).lacking
    with held(prepare) as pid:
        assert process_caps(pid).lacking == before | KILL | 1 << uapi.CAP_SYSLOG
        assert "missing from the bounding set: kill" in nstool("caps", "show", pid).stdout


@as_root
def test_every_thread_is_read() -> None:
    """A thread may have sets of its own: capset(2) is of one thread."""
    with thread(lambda: syscalls.capset(0, KILL, 0)) as tid:
        found = process_caps(os.getpid())
        other = next(one for one in found.threads if one.tid == tid)
        assert (found.main.tid, other.sets.permitted) == (os.getpid(), KILL)
        assert found.main.sets.permitted != KILL
        shown = nstool("caps", "show", os.getpid()).stdout
        assert f"thread {tid}" in shown.splitlines()[0]
        asked = process_caps(tid)  # asked for by the thread, that is the first
        assert (asked.pid, asked.tid, asked.main.sets.permitted) == (os.getpid(), tid, KILL)
        assert {one.tid for one in asked.threads} == {one.tid for one in found.threads}
        assert f"thread {tid} of process {os.getpid()}:" in nstool("caps", "show", tid).stdout.splitlines()[0]


@as_root
def test_ones_own_securebits_are_told_with_their_locks(in_child: InChild) -> None:
    def act() -> tuple[int | None, str]:
        syscalls.prctl(uapi.PR_SET_SECUREBITS, 0b1000_0011)
        return process_caps(os.getpid()).main.securebits, nstool("caps", "show").stdout

    bits, shown = in_child(act)
    assert bits == 0b1000_0011
    assert "noroot, locked" in shown
    assert "no_cap_ambient_raise is off, locked" in shown


@pytest.mark.needs("root", "userns")
def test_the_user_namespace_is_told() -> None:
    def prepare() -> None:
        enter_userns(MAP, MAP)
        enter_userns("0 1000 1000\n", "0 1000 1000\n")

    with held(prepare) as pid:
        userns = process_caps(pid).userns
        assert userns
        assert (userns.inode, userns.level) == (os.stat(f"/proc/{pid}/ns/user").st_ino, 2)
        assert (userns.initial, userns.own, userns.owner) == (False, False, BASE)
    own = process_caps(os.getpid()).userns
    assert own
    assert own.own


@pytest.mark.parametrize("pid", [2, 1])
def test_kernel_threads_and_init_are_shown(pid: int) -> None:
    if pid == 2 and not Path("/proc/2/comm").exists():
        pid = os.getppid()  # in a container there is no thread of the kernel to be seen
    lines = status(f"/proc/{pid}/status")
    assert process_caps(pid).main.sets.bounding == int(lines["CapBnd"], 16)
    assert nstool("caps", "show", pid).returncode == 0


def test_zombies_are_shown_and_what_is_gone_is_said() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_caps(pid).main.tid == pid
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGone):
        process_caps(pid)
    done = nstool("caps", "show", pid)
    assert (done.returncode, f"no process {pid}" in done.stderr) == (2, True)


def test_processes_that_end_while_they_are_read_are_gone(in_child: InChild) -> None:
    """Nothing but ProcessGone comes of it, and no thread of one of them is lost on the way."""

    def act() -> int:
        gone = 0
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            try:
                while True:
                    assert process_caps(pid).main.tid == pid
            except ProcessGone:
                gone += 1
        return gone

    assert in_child(act) == 50


def test_an_ordinary_user_sees_roots_sets(as_user: Callable[..., Any]) -> None:
    """The sets are open to all; the user namespace is not."""

    def act() -> tuple[bool, dict[str, str], int]:
        found = process_caps(1)
        return found.userns is None, found.unknown, nstool("caps", "show", 1).returncode

    hidden, unknown, code = as_user(act)
    assert hidden
    assert "userns" in unknown
    assert code == 0


# Files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(b"")
    path.chmod(0o755)
    return path


def getcap(path: Path) -> str:
    return tool("getcap", "-n", path).removeprefix(str(path)).strip()


TEXTS = ["cap_net_raw=ep", "cap_kill,cap_net_raw=p", "cap_kill=i cap_net_raw+p", "=", "=ep", "cap_bpf=eip"]


@as_root
@with_libcap
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("rootid", [None, 1000])
def test_what_setcap_sets_is_read_and_what_is_set_getcap_reads(file: Path, text: str, rootid: int | None) -> None:
    last = capabilities.last_cap()
    options = [] if rootid is None else ["-n", rootid]
    tool("setcap", *options, text, file)
    caps = filecaps.read(str(file))
    assert caps == filecaps.from_text(text, rootid, last)
    shown = getcap(file)
    os.removexattr(file, filecaps.NAME)
    filecaps.write(str(file), caps)
    assert getcap(file) == shown
    assert shown.replace(" [rootid=1000]", "") == filecaps.to_text(caps, last)
    assert f"{file} {shown}\n" == nstool("caps", "get", file).stdout
    assert filecaps.remove(str(file))
    assert (getcap(file), filecaps.read(str(file)), filecaps.remove(str(file))) == ("", None, False)


@as_root
@with_libcap
@given(
    st.builds(
        FileCaps,
        permitted=st.integers(0, (1 << 41) - 1),
        inheritable=st.integers(0, (1 << 41) - 1),
        effective=st.booleans(),
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sets_are_written_as_getcap_reads_them(file: Path, caps: FileCaps) -> None:
    filecaps.write(str(file), caps)
    assert filecaps.read(str(file)) == caps
    last = capabilities.last_cap()
    if caps.permitted | caps.inheritable or not caps.effective:
        assert getcap(file) == filecaps.to_text(caps, last)


@as_root
@with_libcap
def test_files_on_the_command_line(file: Path) -> None:
    """All are done, whatever one of them says; the status is of one that failed."""
    link = file.with_name("link")
    link.symlink_to(file)
    done = nstool("caps", "set", "cap_net_raw=ep", link, file.parent, file, "/does/not/exist")
    assert done.returncode == 2
    assert done.stdout == f"{file} cap_net_raw=ep\n"
    assert "is a symbolic link, which is not followed" in done.stderr
    assert "is no regular file" in done.stderr
    assert "there is no file /does/not/exist; give the path of one" in done.stderr
    assert getcap(file) == "cap_net_raw=ep"
    done = nstool("caps", "set", "--rootid", 7, "--json", "cap_kill=ei", file)
    assert json.loads(done.stdout)["files"][0]["capabilities"]["rootid"] == 7
    assert nstool("caps", "clear", file).stdout == f"{file} none\n"


@pytest.mark.parametrize("text", ["cap_kill=e", "cap_kil=p", "cap_kill", "63=p"])
def test_wrong_capabilities_of_a_file_are_a_bad_request(text: str, file: Path) -> None:
    done = nstool("caps", "set", text, file)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nstool: TEXT: ")
    done = nstool("caps", "set", "--rootid", "-1", "cap_kill=p", file)
    assert done.returncode == 2


def set_raw(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = nstool("caps", "set", "cap_net_raw=p", *words)
    assert done.returncode == status, done.stderr
    return done


@as_root
def test_a_way_that_others_may_change_is_refused(file: Path) -> None:
    """A directory or file that is another's, or that others may write; in /tmp they may not rename what is ours."""
    way, target = file.parent / "way", file.parent / "way" / "in" / "file"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"")
    for path, uid, mode in ((way, 1000, 0o755), (way, 0, 0o777), (target.parent, 1000, 0o700), (target, 1000, 0o755)):
        before = path.stat()
        os.chown(path, uid, 0)
        path.chmod(mode)
        done = set_raw(target, status=2)
        why = "belongs to user 1000" if uid else "can be written by everybody"
        assert done.stderr.startswith(f"nstool: {target}: {path} {why}")
        assert "--anyway" in done.stderr
        assert nstool("caps", "clear", target).returncode == 2
        assert filecaps.read(str(target)) is None
        os.chown(path, 0, 0)
        path.chmod(before.st_mode)
    os.chown(way, 0, 1000)
    way.chmod(0o775)
    assert "can be written by group 1000" in set_raw(target, status=2).stderr
    assert set_raw("--anyway", target).stdout == f"{target} cap_net_raw=p\n"
    way.chmod(0o1777)
    assert set_raw(target).stderr == ""
    command = [sys.executable, "-m", "nstool.cli.main", "caps", "clear", "file"]
    done = subprocess.run(command, cwd=target.parent, capture_output=True, text=True)
    assert done.stdout == f"{target} none\n"


@as_root
def test_no_directory_on_the_way_is_a_symbolic_link_unless_said(file: Path) -> None:
    """And with the word the path is told that the file really has; what /proc has of such is never followed."""
    directory = file.parent / "directory"
    directory.mkdir()
    target = directory / "file"
    target.write_bytes(b"")
    (file.parent / "link").symlink_to("directory")
    (file.parent / "again").symlink_to(file.parent / "link")
    (file.parent / "round").symlink_to("round")
    done = set_raw(file.parent / "again" / "file", status=2)
    assert "is a symbolic link, which is not followed" in done.stderr
    assert str(target) in done.stderr
    done = set_raw("--follow", file.parent / "again" / "file")
    assert done.stdout == f"{target} cap_net_raw=p\n"
    assert json.loads(set_raw("--follow", "--json", file.parent / "link" / "file").stdout)["files"][0]["path"] == str(
        target
    )
    with open(target) as held:
        assert nstool("caps", "set", "=", "--follow", f"/proc/{os.getpid()}/fd/{held.fileno()}").returncode != 0
    assert set_raw("--follow", file.parent / "round", status=2).stdout == ""
    os.lchown(file.parent / "link", 1000, 1000)  # the link is another's, and the directory that it is in is not


@as_root
def test_other_names_of_a_file_are_told(file: Path) -> None:
    os.link(file, file.with_name("other"))
    assert set_raw(file).stderr == f"note: {file} is one of 2 names of the file\n"


@as_root
def test_who_exchanges_a_directory_for_a_link_reaches_no_other_file(file: Path) -> None:
    """Whatever is said: what is changed is a file that the way led to without a link."""
    theirs, own = file.parent / "theirs", file.parent / "own"
    for directory in (theirs / "a", own):
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"")
    (theirs / "b").symlink_to(own)
    os.chown(theirs, 1000, 1000)
    stop, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end)
            libc = ctypes.CDLL(None)
            while not select.select([stop], [], [], 0)[0]:
                libc.renameat2(-100, os.fsencode(theirs / "a"), -100, os.fsencode(theirs / "b"), 2)
        finally:
            os._exit(0)
    try:
        for _ in range(200):
            with contextlib.suppress(SpecError, NotADirectoryError):
                filecaps.write(str(theirs / "a" / "file"), FileCaps(NET_RAW))
        assert filecaps.read(str(own / "file")) is None
    finally:
        os.close(end)
        os.close(stop)
        os.waitpid(pid, 0)


@as_root
def test_hostile_names_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    name = b"\x1b[31m\xff\n[bold]"
    path = os.fsencode(tmp_path) + b"/" + name
    Path(os.fsdecode(path)).write_bytes(b"")
    done = nstool("caps", "get", os.fsdecode(path))
    assert "\x1b" not in done.stdout
    assert done.stdout.count("\n") == 1
    assert json.loads(nstool("caps", "get", "--json", os.fsdecode(path)).stdout)["files"][0]["path"] == os.fsdecode(
        path
    )


@pytest.mark.needs("user")
def test_an_ordinary_user_may_not_set_them_and_is_told_why(as_user: Callable[..., Any]) -> None:
    def act() -> tuple[str, str, bool]:
        Path("mine").write_bytes(b"")
        try:
            filecaps.write("mine", FileCaps(NET_RAW))
        except KernelError as error:
            return error.errno_name, error.cause, error.checked
        return "", "", False

    assert as_user(act) == ("EPERM", "you have no CAP_SETFCAP", True)


@pytest.mark.needs("root", "userns")
def test_in_a_user_namespace_revision_3_is_made(file: Path, in_child: InChild) -> None:
    """By the kernel, with the root id of the namespace, which inside is not seen and outside is."""
    os.chown(file, BASE, BASE)
    file.parent.chmod(0o755)
    for directory in file.parents:
        if directory.stat().st_uid == 0 and not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)

    def act() -> tuple[FileCaps | None, str]:
        enter_userns(MAP, MAP)
        filecaps.write(str(file), FileCaps(NET_RAW))
        inside = filecaps.read(str(file))
        try:
            filecaps.write(str(file), FileCaps(NET_RAW, rootid=4_000_000, revision=3))
        except KernelError as error:
            return inside, error.errno_name
        return inside, ""

    assert in_child(act) == (FileCaps(NET_RAW), "EINVAL")
    assert filecaps.read(str(file)) == FileCaps(NET_RAW, rootid=BASE, revision=3)


@pytest.mark.needs("root", "userns")
def test_root_ids_without_a_number_here_are_said(file: Path, in_child: InChild) -> None:
    os.setxattr(file, filecaps.NAME, filecaps.pack(FileCaps(NET_RAW, rootid=77_777, revision=3)))
    fd = os.open(file, os.O_PATH)

    def act() -> str:
        enter_userns("0 100000 5\n", "0 100000 5\n")
        try:
            filecaps.read(fd)
        except KernelError as error:
            return f"{error.errno_name}: {error.cause}"
        return ""

    try:
        assert "EOVERFLOW: its root id has no number" in in_child(act)
    finally:
        os.close(fd)


@as_root
@pytest.mark.parametrize("data", [b"\0", b"\1\0\0\2" + bytes(15), b"\1\0\0\4" + bytes(16)])
def test_the_kernel_takes_no_bytes_that_are_refused(file: Path, data: bytes) -> None:
    with pytest.raises(SpecError):
        filecaps.parse(data)
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(file, filecaps.NAME, data)


@as_root
def test_a_read_only_mount_and_a_filesystem_without_attributes_say_so(tmp_path: Path, in_child: InChild) -> None:
    def act() -> list[str]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", str(tmp_path), "tmpfs")
        (tmp_path / "file").write_bytes(b"")
        kernel.mount("none", str(tmp_path), "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)
        found = []
        for path in (str(tmp_path / "file"), f"/proc/{os.getpid()}/status"):
            try:
                filecaps.write(path, FileCaps(NET_RAW))
            except KernelError as error:
                found.append(error.cause)
        return found

    assert in_child(act) == ["the filesystem is mounted read-only", "the filesystem has no attributes of security"]


# Predictions on the command line


@as_root
def test_a_prediction_is_shown_with_rules_and_numbers() -> None:
    done = nstool("caps", "predict", "--sets", "=", "--uid", "1000", "--gid", "1000", "/bin/su")
    assert done.returncode == 0
    assert re.search(r"set-user-ID +P'\(euid\) = F\(owner\)", done.stdout)
    assert re.search(r"effective uid +1000 +0 *\n", done.stdout)
    assert re.search(r"AT_SECURE +1", done.stdout)
    as_json = json.loads(nstool("caps", "predict", "--json", "--sets", "=", "--uid", "1000", "--nnp", "/bin/su").stdout)
    assert as_json["after"]["uids"] == dict.fromkeys(("real", "effective", "saved", "filesystem"), 1000)
    assert as_json["rules"][0]["name"] == "no_new_privs"
    assert as_json["program"]["files"][0]["path"] == "/bin/su"
    assert as_json["unknown"] == {}


@as_root
def test_a_failure_is_predicted_not_an_error(file: Path) -> None:
    file.write_bytes(Path("/bin/true").read_bytes())
    filecaps.write(str(file), FileCaps(NET_RAW, effective=True))
    done = nstool("caps", "predict", "--sets", "all-b", file)
    assert done.returncode == 0
    assert "it fails: EPERM:" in done.stdout
    assert json.loads(nstool("caps", "predict", "--json", "--sets", "all-b", file).stdout)["errno_name"] == "EPERM"


def test_a_change_of_ids_is_predicted() -> None:
    options = ["--sets", "=ep cap_kill+i", "--from", "0"]
    done = nstool("caps", "after-setuid", *options, "--uid", "1000:1000:1000", "--json")
    assert json.loads(done.stdout)["after"]["sets"]["permitted"]["mask"] == 0
    done = nstool("caps", "after-setuid", *options, "--uid", "1000", "--securebits", "keep_caps", "--json")
    assert json.loads(done.stdout)["after"]["sets"]["permitted"]["mask"] == capabilities.full(capabilities.last_cap())
    done = nstool("caps", "after-setuid", *options, "--fsuid", "1000")
    assert "P'(effective) = P(effective) & ~FS" in done.stdout


WRONG = {
    ("predict", "--sets", "cap_kill=e", "/bin/su"): "--sets: effective, but not permitted",
    ("predict", "--securebits", "no_root", "/bin/su"): "--securebits: there is no securebit",
    ("predict", "--uid", "a", "/bin/su"): "--uid: 'a' is no id",
    ("predict", "--uid", "1:2:3:4:5", "/bin/su"): "--uid: '1:2:3:4:5' has 5 ids",
    ("predict", "--gid", "4294967295", "/bin/su"): "--gid: id 4294967295 is not mapped",
    ("predict", "--groups", "x", "/bin/su"): "--groups: 'x' is no id",
    ("predict", "--kernel", "new", "/bin/su"): "--kernel: 'new' is no release",
    ("predict", "/does/not/exist"): "there is no file /does/not/exist",
    ("predict", "--pid", "4194304", "/bin/su"): "no process 4194304",
    ("after-setuid", "--from", "1:x", "--uid", "1"): "--from: 'x' is no id",
    ("after-setuid", "--uid", "1:2"): "--uid: '1:2' are no three ids",
    ("after-setuid",): "give either --uid",
    ("after-setuid", "--uid", "1", "--fsuid", "1"): "give either --uid",
    ("sho",): "no command 'sho'; did you mean \"show\"?",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_words_are_told_with_their_place(words: tuple[str, ...]) -> None:
    done = nstool("caps", *words)
    assert done.returncode == 2
    assert WRONG[words] in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.needs("root")
def test_of_a_link_the_file_that_it_leads_to_is_told(tmp_path: Path) -> None:
    """Named too, and the same as of the file itself; a link that leads nowhere is a bad request."""
    file, link, loop = tmp_path / "file", tmp_path / "link", tmp_path / "loop"
    file.touch()
    link.symlink_to(file)
    loop.symlink_to(loop)
    assert nstool("caps", "set", "cap_net_raw=ep", file).returncode == 0
    assert nstool("caps", "get", link).stdout == f"{link} -> {file} cap_net_raw=ep\n"
    found = json.loads(nstool("caps", "get", "--json", link).stdout)
    assert str(file) in str(found)
    done = nstool("caps", "get", loop)
    assert (done.returncode, done.stderr) == (
        2,
        f"nstool: the symbolic link {loop} leads to no file; name one that there is\n",
    )


def test_a_decimal_number_is_said_to_be_that_of_a_capability() -> None:
    done = nstool("caps", "text", "10")
    assert done.stdout == "0x0000000000000400=cap_net_bind_service\n"
    assert "bit 10; a mask begins with 0x" in done.stderr
