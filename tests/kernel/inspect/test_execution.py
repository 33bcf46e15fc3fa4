"""The facts that nstool reads for execve(2) are those by which the kernel then acts: asked first, executed afterwards.

Asked twice: by the process itself, and about it by root from outside.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nstool import syscalls, uapi
from nstool.errors import SpecError
from nstool.inspect.execution import Execution, execution, host, open_program, shares_fs, subject
from nstool.inspect.proc import ProcessGone
from nstool.security import filecaps
from nstool.security.filecaps import FileCaps
from nstool.security.predict import Process, predict
from nstool.spec.model import IdMap
from tests.kernel.inspect import executions
from tests.kernel.inspect.executions import ALICE, BOB, DEATH, NET_RAW, ROOT
from tests.kernel.inspect.test_execve import enter_userns
from tests.support import kernel, probes
from tests.support.child import run_in_child
from tests.support.held import held, private_mounts
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
pytestmark = [pytest.mark.vm, pytest.mark.vm_full, pytest.mark.needs("root", "native", "gcc")]
libc = ctypes.CDLL(None, use_errno=True)
BASE = 100_000
MAP = f"0 {BASE} 5000\n"
MAPS = (IdMap(0, BASE, 5000),)


class Place(NamedTuple):
    directory: Path
    probe: Path


@pytest.fixture(scope="module")
def place(workplace: Workplace) -> Iterator[Place]:
    with executions.directory(workplace, "execution") as directory:
        yield Place(directory, executions.build(directory))


def become(uid: int = ROOT, gid: int = 0, groups: tuple[int, ...] = (), bits: int = 0, keep: int = 0) -> None:
    """Be another user with capabilities of the mask: permitted, inheritable, ambient; then set the securebits."""
    syscalls.setgroups(groups)
    syscalls.setresgid(gid, gid, gid)
    syscalls.prctl(uapi.PR_SET_SECUREBITS, uapi.SECBIT_NO_SETUID_FIXUP)
    syscalls.setresuid(uid, uid, uid)
    full = executions.everything()
    syscalls.capset(full, full, keep)
    for number in range(41):
        if keep >> number & 1:
            syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, number)
    syscalls.prctl(uapi.PR_SET_SECUREBITS, bits)
    syscalls.capset(keep, keep, keep)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def as_root() -> None:
    """Stay who we are."""


def as_alice() -> None:
    become(ALICE, 1000, (3000,))


def with_an_ambient_capability() -> None:
    become(ALICE, 1000, keep=NET_RAW)


def without_the_right_of_root() -> None:
    become(ROOT, 0, bits=uapi.SECBIT_NOROOT, keep=NET_RAW)


def as_alice_with_no_new_privs() -> None:
    as_alice()
    syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)


def in_a_user_namespace() -> None:
    enter_userns(MAP, MAP)


def in_a_nested_user_namespace() -> None:
    enter_userns(MAP, MAP)
    enter_userns("0 1000 1000\n", "0 1000 1000\n")


WHO = (
    as_root,
    as_alice,
    with_an_ambient_capability,
    without_the_right_of_root,
    as_alice_with_no_new_privs,
    in_a_user_namespace,
    in_a_nested_user_namespace,
)


def own_mounts() -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)


def execute(path: str, report: int) -> None:
    """Execute a file; it, or in its place this function, writes what became of it to fd report."""
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, DEATH)
    os.dup2(report, 3)
    try:
        os.execv(path, [path])
    except OSError as error:
        os.write(3, f"errno {error.errno}\n".encode())


class Told(NamedTuple):
    """What was predicted by the process itself, what from outside, and what the kernel made of it."""

    inside: str
    outside: str
    kernel: str
    seen: Execution  # from outside


def ask_and_execute(prepare: Callable[[], object], path: str, maps: tuple[IdMap, ...] = ()) -> Told:
    """A child prepares itself and asks what execve of path will do; the caller asks about it; then it is done.

    maps: of the child's user namespace; it and the program tell ids as they are inside.
    """
    said, go, report = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for fd in (said[0], go[1], report[0]):
                os.close(fd)
            prepare()
            own = execution(path)
            bits = syscalls.prctl(uapi.PR_GET_SECUREBITS)
            os.write(said[1], f"{bits} {executions.said(own.prediction)}".encode())
            os.close(said[1])
            os.read(go[0], 1)
            execute(path, report[1])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    for fd in (said[1], go[0], report[1]):
        os.close(fd)
    try:
        with open(said[0]) as file:
            bits, _, inside = file.read().partition(" ")
        assert inside, "the child has failed"
        seen = execution(path, pid, {"securebits": int(bits)})
        outside = executions.said(seen.prediction, maps)
        os.close(go[1])
        with open(report[0]) as file:
            return Told(inside, outside, file.read().strip(), seen)
    finally:
        os.waitpid(pid, 0)


def agree(told: Told) -> None:
    assert told.inside == told.kernel
    assert told.outside == told.kernel


def maps_of(prepare: Callable[[], None]) -> tuple[IdMap, ...]:
    return {in_a_user_namespace: MAPS, in_a_nested_user_namespace: (IdMap(0, BASE + 1000, 1000),)}.get(prepare, ())


FILES: dict[str, tuple[int, int, int, FileCaps | None]] = {
    "plain": (0o755, ROOT, 0, None),
    "set-user-ID root": (0o4755, ROOT, 0, None),
    "set-user-ID mapped": (0o4755, BASE + 2000, BASE, None),
    "set-user-ID root inside": (0o4755, BASE, BASE, None),
    "set-group-ID": (0o2755, ROOT, 3000, None),
    "not readable": (0o711, ROOT, 0, None),
    "not executable": (0o644, ROOT, 0, None),
    "for the group only": (0o750, ROOT, 3000, None),
    "capabilities": (0o755, ROOT, 0, FileCaps(NET_RAW, effective=True)),
    "inheritable": (0o755, ROOT, 0, FileCaps(0, NET_RAW, effective=True)),
    "all, effective": (0o755, ROOT, 0, FileCaps((1 << 41) - 1, effective=True)),
    "of a namespace": (0o755, ROOT, 0, FileCaps(NET_RAW, effective=True, rootid=BASE, revision=3)),
    "of one below it": (0o755, ROOT, 0, FileCaps(NET_RAW, effective=True, rootid=BASE + 1000, revision=3)),
    "of another": (0o755, ROOT, 0, FileCaps(NET_RAW, effective=True, rootid=77777, revision=3)),
}


@pytest.fixture(scope="module")
def files(place: Place) -> dict[str, str]:
    """Path of a copy of each kind."""
    directory = place.directory / "files"
    directory.mkdir()
    return {
        kind: executions.copy(place.probe, directory / str(number), *how).path
        for number, (kind, how) in enumerate(FILES.items())
    }


@pytest.mark.parametrize("who", WHO, ids=lambda who: who.__name__)
@pytest.mark.parametrize("kind", FILES)
def test_all_facts_are_read(who: Callable[[], None], kind: str, files: dict[str, str]) -> None:
    """Ids, sets, securebits, maps and root ids of the process; owner, mode and capabilities of the file."""
    if who in (in_a_user_namespace, in_a_nested_user_namespace) and (reason := probes.missing("userns")):
        pytest.skip(reason)
    agree(ask_and_execute(who, files[kind], maps_of(who)))


def nosuid_below(place: Place, kind: str, flags: int) -> Callable[[], None]:
    def prepare() -> None:
        own_mounts()
        top = place.directory / kind
        kernel.mount("tmpfs", str(top), "tmpfs", flags)
        top.chmod(0o755)
        executions.copy(place.probe, top / "su", 0o4755, BOB)
        os.symlink(top / "su", top / "link")
        os.symlink(".", top / "here")
        become(ALICE, 1000)

    return prepare


@pytest.mark.parametrize(("kind", "flags"), [("suid", 0), ("nosuid", uapi.MS_NOSUID), ("noexec", uapi.MS_NOEXEC)])
@pytest.mark.parametrize("name", ["su", "link", "here/here/su"])
def test_mounts_are_those_of_the_process(place: Place, kind: str, flags: int, name: str) -> None:
    """A file that only the process sees, on a mount that is nosuid, noexec, or neither; by symbolic links too."""
    (place.directory / kind).mkdir(exist_ok=True)
    told = ask_and_execute(nosuid_below(place, kind, flags), str(place.directory / kind / name))
    agree(told)
    assert (
        told.kernel.split()[:3]
        == {
            "suid": ["ok", "1000", "2000"],
            "nosuid": ["ok", "1000", "1000"],
            "noexec": ["errno", "13"],
        }[kind][: 2 if kind == "noexec" else 3]
    )


def test_a_path_is_looked_up_below_the_root_of_the_process(place: Place) -> None:
    """In a chroot, where absolute symbolic links lead elsewhere than outside. chroot(2)."""
    root = place.directory / "root"
    (root / "bin").mkdir(parents=True)
    executions.copy(place.probe, root / "bin/su", 0o4755, BOB)
    os.symlink("/bin/su", root / "link")

    def prepare() -> None:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        (root / "proc").mkdir()
        kernel.mount("proc", str(root / "proc"), "proc")
        os.chroot(root)
        os.chdir("/")
        become(ALICE, 1000)

    told = ask_and_execute(prepare, "/link")
    agree(told)
    assert told.kernel.startswith("ok 1000 2000 2000 2000")


def test_a_mount_of_another_namespace_gives_nothing(place: Place) -> None:
    """Reached by a working directory in it. mnt_may_suid of fs/namespace.c."""
    top = place.directory / "foreign"
    top.mkdir()

    def elsewhere() -> None:
        nosuid_below(place, "foreign", 0)()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)

    with held(elsewhere) as pid:

        def prepare() -> None:
            os.chdir(f"/proc/{pid}/root{top}")
            become(ALICE, 1000)

        told = ask_and_execute(prepare, "./su")
    agree(told)
    assert told.kernel.startswith("ok 1000 1000")


def test_a_memfd_gives_nothing(place: Place, in_child: InChild) -> None:
    """It is on a mount that no mount namespace has. memfd_create(2)."""

    def act() -> tuple[str, str]:
        fd = os.memfd_create("su")
        os.write(fd, place.probe.read_bytes())
        os.fchown(fd, BOB, 0)
        os.fchmod(fd, 0o4755)
        path = f"/proc/self/fd/{os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)}"
        os.close(fd)
        predicted = execution(path)
        assert predicted.program.files[0].foreign
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.set_inheritable(int(path.rpartition("/")[2]), True)
            execute(path, writer)
            os._exit(0)
        os.close(writer)
        os.wait()
        with open(reader) as file:
            return executions.said(predicted.prediction), file.read().strip()

    predicted, told = in_child(act)
    assert predicted == told


@pytest.mark.needs("userns")
@pytest.mark.parametrize("revision", [2, 3])
def test_capabilities_set_in_a_user_namespace_count_in_it(place: Place, revision: int) -> None:
    """On a tmpfs of that namespace, whose attribute the host sees with the root id of it."""
    top = place.directory / f"own{revision}"
    top.mkdir()

    def prepare() -> None:
        enter_userns(MAP, MAP)
        own_mounts()
        kernel.mount("tmpfs", str(top), "tmpfs")
        caps = FileCaps(NET_RAW, effective=True, rootid=None if revision == 2 else 0, revision=revision)
        executions.copy(place.probe, top / "ping", 0o755, 0, 0, caps)
        become(ALICE, 1000)

    told = ask_and_execute(prepare, str(top / "ping"), MAPS)
    agree(told)
    assert told.kernel.split()[10] == f"{NET_RAW:x}"
    assert told.seen.program.files[0].caps == FileCaps(NET_RAW, effective=True, rootid=BASE, revision=3)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OBJ = 0xFFFFFFFF
LISTS = {
    "a named user may": [(1, 7, OBJ), (2, 5, ALICE), (4, 0, OBJ), (0x10, 5, OBJ), (0x20, 0, OBJ)],
    "a named user may not": [(1, 7, OBJ), (2, 0, ALICE), (4, 5, OBJ), (0x10, 5, OBJ), (0x20, 5, OBJ)],
    "the mask forbids it": [(1, 7, OBJ), (2, 7, ALICE), (4, 0, OBJ), (0x10, 4, OBJ), (0x20, 0, OBJ)],
    "one group may": [(1, 7, OBJ), (4, 0, OBJ), (8, 0, 1000), (8, 5, 3000), (0x10, 5, OBJ), (0x20, 0, OBJ)],
    "no group may, others may": [(1, 7, OBJ), (4, 0, OBJ), (8, 0, 1000), (0x10, 5, OBJ), (0x20, 5, OBJ)],
    "execute but not read": [(1, 7, OBJ), (2, 1, ALICE), (4, 0, OBJ), (0x10, 7, OBJ), (0x20, 0, OBJ)],
}


@pytest.mark.parametrize("kind", LISTS)
def test_access_control_lists_are_followed(kind: str, place: Place) -> None:
    """Of a file, as acl(5) has them."""
    path = place.directory / f"acl {kind}"
    executions.copy(place.probe, path, 0o750)
    os.setxattr(path, "system.posix_acl_access", acl(*LISTS[kind]))
    agree(ask_and_execute(as_alice, str(path)))


def test_a_directory_on_the_way_must_be_searched(place: Place) -> None:
    """Each of the path, and those that a symbolic link leads through."""
    closed = place.directory / "closed"
    closed.mkdir(0o700)
    executions.copy(place.probe, closed / "probe", 0o755)
    os.symlink(closed / "probe", place.directory / "way-in")
    for path in (closed / "probe", place.directory / "way-in"):
        told = ask_and_execute(as_root, str(path))
        agree(told)
        assert told.kernel.startswith("ok")
        seen = execution(str(path), changes={"uids": told.seen.prediction.before.uids.replace(filesystem=ALICE)})
        assert seen.prediction.error == 0  # root has CAP_DAC_READ_SEARCH
        alone = subject().process.sets.replace(effective=0)
        changes = {"uids": seen.subject.process.uids.replace(filesystem=ALICE), "sets": alone}
        assert execution(str(path), changes=changes).prediction.errno_name == "EACCES"


def test_an_attribute_that_the_kernel_does_not_understand(place: Place) -> None:
    """An empty one can be set; the file then cannot be executed, by nobody."""
    path = executions.copy(place.probe, place.directory / "damaged", 0o755).path
    os.setxattr(path, filecaps.NAME, b"")
    told = ask_and_execute(as_alice, path)
    agree(told)
    assert told.kernel == "errno 22"
    assert f"capabilities of {path}" in told.seen.unknown


# Scripts and formats


def script(path: Path, head: bytes, mode: int = 0o755, uid: int = 0) -> str:
    path.write_bytes(head)
    os.chown(path, uid, 0)
    path.chmod(mode)
    return str(path)


def test_the_bits_of_a_script_say_nothing_those_of_its_interpreter_do(place: Place) -> None:
    """execve(2): "Linux ignores the set-user-ID bit on scripts"."""
    suid = executions.copy(place.probe, place.directory / "interpreter", 0o4755, BOB).path
    ignored = script(place.directory / "ignored", f"#!{place.probe}\n".encode(), 0o4755, BOB)
    counts = script(place.directory / "counts", f"#! {suid} argument\n".encode())
    for path, euid in ((ignored, ALICE), (counts, BOB)):
        told = ask_and_execute(as_alice, path)
        agree(told)
        assert told.kernel.startswith(f"ok {ALICE} {euid}")


@pytest.mark.parametrize("length", range(4, 8))
def test_scripts_may_interpret_scripts_so_many_times(place: Place, length: int) -> None:
    """Five times; then it is ELOOP. exec_binprm of fs/exec.c."""
    last = str(place.probe)
    for number in range(length):
        last = script(place.directory / f"chain{length}-{number}", f"#!{last}\n".encode())
    told = ask_and_execute(as_root, last)
    agree(told)
    assert told.kernel.startswith("ok" if length <= 5 else "errno 40")


def test_an_interpreter_that_may_not_be_executed_is_refused(place: Place) -> None:
    closed = executions.copy(place.probe, place.directory / "closed-interpreter", 0o700).path
    for path in (
        script(place.directory / "no-right", f"#!{closed}\n".encode()),
        script(place.directory / "no-interpreter", b"#!/does/not/exist\n"),
        script(place.directory / "directory", b"#!/\n"),
        script(place.directory / "no-format", b"echo hello\n"),
        script(place.directory / "empty", b""),
        script(place.directory / "elf of another processor", elf_for(0xB7)),
        script(place.directory / "elf cut short", b"\x7fELF" + bytes(12)),
    ):
        told = ask_and_execute(as_alice, path)
        agree(told)
        assert told.kernel.startswith("errno")
        assert told.seen.prediction.why


def elf_for(machine: int) -> bytes:
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 64, 0, 0) + bytes(56)


def test_the_loader_must_be_there(place: Place) -> None:
    """A dynamic program needs the one that it names. ld.so(8)."""
    for name, loader, starts in (("good", "", "ok"), ("bad", "-Wl,--dynamic-linker=/does/not/exist", "errno 2")):
        path = str(place.directory / f"dynamic-{name}")
        flags = [loader] if loader else []
        subprocess.run(["gcc", "-O1", *flags, "-o", path, executions.SOURCE], check=True)
        told = ask_and_execute(as_alice, path)
        agree(told)
        assert told.kernel.startswith(starts)
        assert bool(told.seen.program.loader) == (name == "good")


BLANKS = st.text(alphabet=" \t", max_size=3)


@st.composite
def heads(draw: st.DrawFn, probe: str) -> bytes:
    """First lines as they are and as they should not be, many of them about as long as the kernel looks."""
    wide = draw(st.sampled_from([0, 0, 10, 240, 246, 247, 248, 249, 250, 251, 252, 253, 254, 255, 256, 257, 300]))
    before, after = draw(BLANKS), draw(BLANKS)
    path = probe
    room = wide - 2 - len(before) - len(path) - len(after)
    path = path.replace("/", "/" * (1 + max(0, room)), 1)
    tail = draw(
        st.sampled_from(["\n", "", "\0", " argument\n", " argument", "\0\n", "\n\n", " \n", "\t", "\0 x\n", "x\n"])
    )
    start = draw(st.sampled_from(["#!", "#!", "#!", "#!", "#", "# !", "#!\n", "#!\0"]))
    return f"{start}{before}{path}{after}{tail}".encode()


@settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])
@given(data=st.data())
def test_first_lines_are_read_as_the_kernel_reads_them(place: Place, data: st.DataObject) -> None:
    """Blanks, zero bytes, lines that are cut off after 255 bytes. execve(2), "Interpreter scripts"."""
    directory = place.directory / "lines"
    directory.mkdir(exist_ok=True)
    cases = data.draw(st.lists(heads(str(place.probe)), min_size=1, max_size=40))
    paths = [script(directory / str(number), head) for number, head in enumerate(cases)]
    process, system = subject().process.replace(no_new_privs=False), host()
    told = executions.run(place.probe, [executions.line(process, path) for path in paths])
    for head, path, kernel_says in zip(cases, paths, told):
        assert executions.said(predict(process, open_program(path)[0], system)) == kernel_says, head


def binfmt_misc_in_a_user_namespace() -> str:
    """Why binfmt_misc cannot be mounted in a user namespace here: Linux 6.7 can."""

    def mount() -> None:
        enter_userns(MAP, MAP)
        own_mounts()
        kernel.mount("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc")

    try:
        run_in_child(mount)
    except OSError as error:
        return str(error)
    return ""


@pytest.mark.needs("userns")
@pytest.mark.parametrize(
    "rule",
    [":nst:M::NSTx::{probe}:", ":nst:M::NSTx::{probe}:C", ":nst:M::NSTx::{probe}:F", ":nst:E::nst::{probe}:", None],
)
def test_formats_of_binfmt_misc_are_known(place: Place, rule: str | None) -> None:
    """By magic bytes and by extension; with the flag C the bits of the file count, else those of its interpreter.

    With the flag F it is not said for certain which file that is.
    """
    if reason := binfmt_misc_in_a_user_namespace():
        # Older kernels have one for the host, which is not a test's to change; there nothing may be said to be known.
        assert kernel.release() < (6, 7), reason
        return
    path = script(place.directory / "format.nst", b"NSTx" + bytes(300), 0o4755, BASE + BOB)
    os.chown(path, BASE + BOB, BASE)
    os.chmod(path, 0o4755)

    def prepare() -> None:
        enter_userns(MAP, MAP)
        own_mounts()
        kernel.mount("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc")
        if rule:
            Path("/proc/sys/fs/binfmt_misc/register").write_text(rule.format(probe=place.probe))
        become(ALICE, 1000)

    told = ask_and_execute(prepare, path, MAPS)
    agree(told)
    expected = f"ok {ALICE} {BOB if rule and rule.endswith('C') else ALICE}"
    assert told.kernel.startswith(expected if rule else "errno 8")
    assert (f"interpreter of {path}" in told.seen.unknown) == bool(rule and rule.endswith("F"))


def fifo_as_status(top: Path) -> None:
    os.mkfifo(top / "status")


def device_as_status(top: Path) -> None:
    (top / "status").touch()
    kernel.mount("/dev/zero", str(top / "status"), "", kernel.MS_BIND)


def fifo_as_format(top: Path) -> None:
    (top / "status").write_text("enabled")
    os.mkfifo(top / "one")


def nonsense_as_format(top: Path) -> None:
    (top / "status").write_text("enabled\n")
    (top / "one").write_text("enabled\ninterpreter /bin/x\noffset zz\n")


@pytest.mark.parametrize("lay", [fifo_as_status, device_as_status, fifo_as_format, nonsense_as_format])
def test_what_is_mounted_instead_of_binfmt_misc_is_not_opened(lay: Callable[[Path], None]) -> None:
    """Who has a mount namespace mounts what it likes there; for its reader that is no binfmt_misc, and unknown."""
    top = Path("/proc/sys/fs/binfmt_misc")

    def enter() -> None:
        private_mounts()
        kernel.mount("none", str(top), "tmpfs")
        lay(top)

    def act() -> tuple[str, str]:
        limit = 4 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with held(enter) as pid:
            program, unknown = open_program("/bin/true", pid)
        return program.files[0].path, unknown[str(top)]

    path, why = run_in_child(act, timeout=15)
    assert (path, why.partition(";")[0]) == ("/bin/true", "what is mounted there is no binfmt_misc")


@pytest.mark.needs("userns")
@pytest.mark.parametrize("what", ["/tmp/fifo", "/dev/zero"])
def test_what_covers_a_file_of_binfmt_misc_is_not_opened(what: str) -> None:
    if reason := binfmt_misc_in_a_user_namespace():
        assert kernel.release() < (6, 7), reason
        return

    def enter() -> None:
        enter_userns(MAP, MAP)
        own_mounts()
        kernel.mount("tmpfs", "/tmp", "tmpfs")
        os.mkfifo("/tmp/fifo")
        kernel.mount("none", "/proc/sys/fs/binfmt_misc", "binfmt_misc")
        kernel.mount(what, "/proc/sys/fs/binfmt_misc/status", "", kernel.MS_BIND)

    def act() -> dict[str, str]:
        limit = 4 << 30
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with held(enter) as pid:
            return open_program("/bin/true", pid)[1]

    assert "EXDEV" in run_in_child(act, timeout=15)["/proc/sys/fs/binfmt_misc"]


# The surroundings


@pytest.mark.parametrize("shared", [True, False])
def test_who_shares_the_filesystem_context_is_found(place: Place, files: dict[str, str], shared: bool) -> None:
    """A process with CLONE_FS makes set-user-ID files ordinary. check_unsafe_exec of fs/exec.c."""
    until, end = os.pipe()

    def prepare() -> None:
        if libc.syscall(56, ctypes.c_ulong((uapi.CLONE_FS if shared else 0) | signal.SIGCHLD), 0, 0, 0, 0) == 0:
            os.dup2(until, 0)
            os.closerange(3, 1000)
            os.read(0, 1)
            os._exit(0)
        as_alice()

    try:
        told = ask_and_execute(prepare, files["set-user-ID root"])
    finally:
        os.close(end)
        os.close(until)
        os.wait()  # the other one, which has come to us
    assert told.outside == told.kernel
    assert told.kernel.startswith(f"ok {ALICE} {ALICE if shared else ROOT}")
    assert told.seen.prediction.before.shares_fs == shared


@pytest.mark.parametrize("capable", [True, False])
def test_the_rights_of_a_tracer_are_read(capable: bool) -> None:
    """Whether it has CAP_SYS_PTRACE, which lets a set-user-ID file be executed as such. ptrace(2)."""

    def prepare() -> None:
        if not capable:
            full = executions.everything() & ~(1 << uapi.CAP_SYS_PTRACE)
            syscalls.capset(full, full, 0)
        pid = os.fork()
        if pid == 0:
            libc.ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        os.waitpid(pid, os.WUNTRACED)

    with held(prepare) as pid:
        traced = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        seen = subject(traced)
        assert seen.process.tracer == ("capable" if capable else "incapable")
        assert str(pid) in seen.unknown["tracer"]
        os.kill(traced, signal.SIGKILL)
    os.wait()  # the traced one, which has come to us


def test_what_the_kernel_does_not_tell_is_named() -> None:
    """The securebits of another process; with them given nothing is unknown."""
    with held(as_alice) as pid:
        assert list(execution("/bin/true", pid).unknown) == ["securebits"]
        assert execution("/bin/true", pid, {"securebits": 0}).unknown == {}
    assert execution("/bin/true").unknown == {}


def test_threads_that_differ_are_named() -> None:
    """capset(2) is of one thread: which one would call execve(2) nobody knows."""
    until, end = os.pipe()

    def prepare() -> None:
        def act() -> None:
            syscalls.capset(0, 0, 0)
            here.set()
            os.read(until, 1)

        here = threading.Event()
        threading.Thread(target=act, daemon=True).start()
        here.wait()

    try:
        with held(prepare) as pid:
            assert "thread" in execution("/bin/true", pid).unknown
    finally:
        os.close(until)
        os.close(end)


def test_a_filesystem_of_a_namespace_below_cannot_be_told(place: Place, in_child: InChild) -> None:
    """Root in the mount namespace of a container: whose a tmpfs there is, only the mount knows; it is said."""

    def act() -> dict[str, str]:
        def prepare() -> None:
            enter_userns(MAP, MAP)
            own_mounts()
            kernel.mount("tmpfs", "/mnt", "tmpfs")
            executions.copy(place.probe, Path("/mnt/su"), 0o4755)

        with held(prepare) as pid:
            fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
            syscalls.setns(fd, kernel.CLONE_NEWNS)
            os.close(fd)
            return execution("/mnt/su").unknown

    assert "filesystem of /mnt/su" in in_child(act)


def test_a_zombie_executes_nothing() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match="waits to be reaped"):
        execution("/bin/true", pid)
    os.waitpid(pid, 0)
    with pytest.raises(ProcessGone):
        execution("/bin/true", pid)


def test_a_file_that_is_not_there_is_a_bad_request() -> None:
    with pytest.raises(SpecError, match="there is no file /does/not/exist"):
        execution("/does/not/exist")


def test_an_ordinary_user_asks_for_itself(as_user: Callable[..., Any]) -> None:
    """Nothing is needed for it; about root's processes it is told what it cannot see."""

    def act() -> tuple[list[str], list[str], int, int]:
        own = execution("/bin/su")
        other = execution("/bin/su", os.getppid())
        assert own.prediction.after
        assert other.prediction.after
        return list(own.unknown), list(other.unknown), own.prediction.after.uids.effective, os.getuid()

    own, other, euid, uid = as_user(act)
    assert (euid, uid != 0) == (0, True)
    assert set(own) <= {"shares_fs"}
    assert {"user namespace", "securebits", "root"} <= set(other)


def test_sharing_is_asked_of_each_process_once() -> None:
    assert shares_fs()[0] is False


def test_the_mode_of_a_file_is_its_type_too(place: Place) -> None:
    found = open_program(str(place.directory))[0]
    assert stat.S_ISDIR(found.files[0].mode)
    assert predict(subject().process, found).errno_name == "EACCES"
    assert isinstance(subject().process, Process)
    assert filecaps.read(str(place.probe)) is None
