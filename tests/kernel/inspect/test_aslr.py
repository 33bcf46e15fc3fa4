"""Randomised addresses: beside the maps of programs that run, and setarch(8). personality(2)."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls
from nstool.errors import KernelError
from nstool.inspect import aslr
from nstool.inspect.proc import Proc
from nstool.security.aslr import spread
from tests.kernel.rows import boxes
from tests.support import kernel
from tests.support.held import private_mounts
from tests.support.probes import REPOSITORY

pytestmark = pytest.mark.needs("native")

ADDR_NO_RANDOMIZE = 0x40000
CAT = ("cat", "/proc/self/maps")


def by_hand(text: str, exe: str) -> dict[str, int]:
    """Return where the program, its loader and the vdso lie, by the maps that the program shows of itself."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        start, name = int(line.split("-")[0], 16), line.split(None, 5)[5] if len(line.split(None, 5)) > 5 else ""
        for region, is_it in (("executable", name == exe), ("mappings", "/ld-" in name), ("vdso", name == "[vdso]")):
            if is_it:
                found.setdefault(region, start)
    return found


def test_without_randomisation_addresses_are_those_of_a_running_program() -> None:
    """setarch -R runs cat, which shows its own maps; the launches that never run lie at the same places."""
    text = subprocess.run(["setarch", "-R", *CAT], capture_output=True, text=True, check=True).stdout
    exe = re.search(r"^555\S+ .* (/\S+)$", text, re.MULTILINE)
    assert exe
    expected = by_hand(text, exe[1])
    found = aslr.measure(CAT, 3, value=ADDR_NO_RANDOMIZE)
    assert {name: found.regions[name].lowest for name in expected} == expected
    assert {one.varied for one in found.regions.values()} == {0}
    assert set(found.regions) == {"executable", "heap", "mappings", "vdso", "stack"}
    assert not found.persona.randomised
    assert found.tied == ()


def test_randomised_addresses_vary_as_those_of_running_programs() -> None:
    """The same bits vary, whether the program runs or not: 60 of each."""
    texts = [subprocess.run(CAT, capture_output=True, text=True, check=True).stdout for _ in range(60)]
    exe = re.search(r" (/\S+)$", texts[0], re.MULTILINE)
    assert exe
    places = [by_hand(text, exe[1]) for text in texts]
    found = aslr.measure(CAT, 60)
    for name in ("executable", "mappings", "vdso"):
        running, launched = spread([place[name] for place in places]), found.regions[name]
        assert running.lowest_bit == launched.lowest_bit == 12
        assert abs(running.span - launched.span) < 0.5
        assert launched.distinct > 50
    assert found.regions["stack"].lowest_bit == 4  # 16 bytes, as the ABI aligns it


@pytest.mark.needs("root")
def test_the_span_is_what_the_kernel_is_set_to() -> None:
    bits = int(Path("/proc/sys/vm/mmap_rnd_bits").read_text())
    found = aslr.measure(("true",), 150)
    assert bits - 0.5 < found.regions["mappings"].span <= bits
    assert bits - 0.5 < found.regions["executable"].span <= bits
    settings = aslr.settings()
    assert settings.rnd_bits == bits
    assert (
        settings.randomize
        == {0: "nothing", 1: "all but the heap", 2: "all"}[int(Path("/proc/sys/kernel/randomize_va_space").read_text())]
    )


@pytest.mark.needs("nsexec")
def test_a_program_that_is_not_position_independent_lies_fixed() -> None:
    found = aslr.measure((str(REPOSITORY / "nstool/nsexec"),), 20)
    assert found.regions["executable"].varied == 0
    assert found.regions["stack"].varied
    assert "mappings" not in found.regions  # it has no loader


def test_what_is_launched_never_runs(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    aslr.measure(("touch", str(trace)), 5)
    assert not trace.exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("program", ["/bin/sh", "set-user-ID"])
@pytest.mark.orphans
@pytest.mark.needs("root")
def test_what_is_launched_never_runs_also_if_who_measures_is_killed(in_child: Callable[..., Any], program: str) -> None:
    """Its tracer's end lets a traced process go on, ptrace(2); a death signal is cleared where ids change, prctl(2)."""

    def act() -> bytes:
        private_mounts()
        path = "/tmp/program"
        Path(path).write_bytes(Path("/bin/sh").resolve().read_bytes())
        os.chown(path, 4711, 4711)
        os.chmod(path, 0o4755 if program == "set-user-ID" else 0o755)
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                aslr._layout = lambda proc: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, return-value]
                aslr.measure(("sh", "-c", f"echo it runs >/proc/self/fd/{writer}"), 1, executable=path)
            finally:
                os._exit(1)
        os.close(writer)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        with open(reader, "rb") as pipe:
            return pipe.read()

    assert in_child(act) == b""


def measured_and_killed_before(moment: str) -> bytes:
    """As ``measured_and_killed``, just before this call of what is launched, which it makes after that."""
    reader, writer = os.pipe()
    module, _, name = moment.partition(".")
    there = syscalls if module == "syscalls" else os
    real, getppid = getattr(there, name), os.getppid

    def prepare() -> None:
        here = os.getpid()

        def call(*args: Any) -> Any:
            if os.getpid() != here:
                os.write(writer, b"k")
                while getppid() == here:
                    pass
            return real(*args)

        setattr(there, name, call)

    def end(pid: int) -> None:
        os.read(reader, 1)
        os.kill(pid, signal.SIGKILL)

    return measured_and_killed(prepare, end)


def measured_and_killed(prepare: Callable[[], object], end: Callable[[int], object]) -> bytes:
    """Return what a measured program has written when its measurer is killed, and no process is left that could."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            prepare()
            aslr.measure(("sh", "-c", f"echo it runs >/proc/self/fd/{writer}"), 1_000)
        finally:
            os._exit(1)
    os.close(writer)
    end(pid)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    with open(reader, "rb") as pipe:
        assert select.select([pipe], [], [], 20)[0], "a launch is left, and waits"
        return pipe.read()


@pytest.mark.orphans
@pytest.mark.parametrize(
    "moment",
    [
        "os.getppid",
        "syscalls.prctl",
        "syscalls.ptrace",
        "os.kill",
        "syscalls.capget",
        "syscalls.capset",
        "os.execve",
    ],
)
def test_a_launch_ends_with_who_measures_whenever_that_is(in_child: Callable[..., Any], moment: str) -> None:
    assert in_child(measured_and_killed_before, moment) == b""


@pytest.mark.orphans
def test_a_launch_ends_with_who_measures_at_any_time(in_child: Callable[..., Any]) -> None:
    """One is killed at forty moments of the launches that follow one another."""

    def act() -> set[bytes]:
        reader, writer = os.pipe()

        def begin() -> None:
            os.write(writer, b"b")

        def end(pid: int, late: float) -> None:
            os.read(reader, 1)
            select.select([], [], [], late)
            os.kill(pid, signal.SIGKILL)

        return {measured_and_killed(begin, lambda pid, n=n: end(pid, n * 0.0007)) for n in range(40)}  # type: ignore[misc]

    assert in_child(act, timeout=120) == {b""}


def test_who_blocks_the_trap_signal_is_stopped_at_its_exec_too(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """What nstool is started by may have blocked it: a mask is inherited, and the signal then stops nobody."""
    trace = tmp_path / "ran"

    def act() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTRAP])
        return aslr.measure(("touch", str(trace)), 3).launches

    assert in_child(act) == 3
    assert not trace.exists()


@pytest.mark.needs("root")
def test_what_is_launched_has_no_rights(in_child: Callable[..., Any]) -> None:
    """Should it ever run: it is nobody, can gain nothing, and had only the right to execute what the caller may."""

    def act() -> tuple[list[str], bool]:
        private_mounts()
        path = Path("/tmp/program")
        path.write_bytes(Path("/bin/true").read_bytes())
        path.chmod(0o4700)
        seen: list[str] = []

        def look(proc: Proc) -> dict[str, int]:
            seen.append(proc.read("status"))
            return layout(proc)

        layout, aslr._layout = aslr._layout, look
        found = aslr.measure((str(path),), 2)
        return seen, bool(found.regions)

    (status, _), measured = in_child(act)
    rows = {name: text.strip() for name, _, text in (line.partition(":") for line in status.split("\n"))}
    assert measured
    assert rows["Name"] == "program"
    assert (rows["Uid"].split(), rows["Gid"].split(), rows["Groups"]) == (["65534"] * 4, ["65534"] * 4, "")
    assert {int(rows[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert rows["NoNewPrivs"] == "1"


def test_a_signal_that_comes_meanwhile_is_no_exec() -> None:
    """A stop by another signal shows the measuring program itself, not what it launches."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGWINCH, lambda *_: None); from nstool import syscalls;"
        "from nstool.inspect import aslr; old = syscalls.personality;"
        "syscalls.personality = lambda value: (os.kill(os.getpid(), signal.SIGWINCH), old(value))[1];"
        f"print(*[one.lowest for one in aslr.measure(('true',), 2, value={ADDR_NO_RANDOMIZE}).regions.values()])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    plain = aslr.measure(("true",), 2, value=ADDR_NO_RANDOMIZE)
    assert shown.split()[:4] == [str(one.lowest) for one in plain.regions.values()][:4]


@pytest.mark.parametrize(
    ("value", "base", "flags", "randomised"),
    [
        (0, "linux", (), True),
        (0x0040000, "linux", ("ADDR_NO_RANDOMIZE",), False),
        (0x0020008, "linux32", ("UNAME26",), True),
        (0x4000000 | 0x100000 | 0x400000, "linux", ("MMAP_PAGE_ZERO", "READ_IMPLIES_EXEC", "STICKY_TIMEOUTS"), True),
        (0x6, "0x6", (), True),
    ],
)
def test_personality_in_words(value: int, base: str, flags: tuple[str, ...], randomised: bool) -> None:
    found = aslr.persona(value)
    assert (found.base, found.flags, found.randomised) == (base, flags, randomised)


def test_a_process_and_launches_of_its_program() -> None:
    command = ["setarch", "-R", sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        found = aslr.process(process.pid)
        text = Path(f"/proc/{process.pid}/maps").read_text()
        heap = re.search(r"^(\w+)-\w+ .* \[heap\]$", text, re.MULTILINE)
        shown = json.loads(boxes.nstool("aslr", str(process.pid), "--launches", "3", "--json").out)
        process.communicate()
    assert found.persona.flags == ("ADDR_NO_RANDOMIZE",)
    assert found.layout["executable"] == 0x555555554000
    assert heap
    assert found.layout["heap"] == int(heap[1], 16)
    assert shown["measured"]["persona"]["flags"] == ["ADDR_NO_RANDOMIZE"]
    assert shown["measured"]["regions"]["executable"]["lowest"] == 0x555555554000
    assert shown["process"]["pid"] == process.pid


@pytest.mark.needs("root")
def test_settings_that_may_not_be_read_are_unknown(in_child: Callable[..., Any]) -> None:
    """As where /proc/sys is masked: that nothing is randomised would be false."""

    def act() -> Any:
        private_mounts()
        kernel.mount("none", "/proc/sys", "tmpfs")
        ran = boxes.nstool("aslr", "--launches", "2")
        assert ran.out, ran
        return aslr.settings(), ran.lines[0]

    settings, line = in_child(act)
    assert {value for name, value in settings.asdict().items() if name != "unread"} == {None}
    assert line.startswith("host: unknown what is randomised")


def test_maps_with_any_path(tmp_path: Path) -> None:
    """What ends a line for Python does not for the kernel, which escapes the newline alone."""
    program = tmp_path / "a\x0b\r\x1c\u2028b"
    program.write_bytes(Path("/usr/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen(["setarch", "-R", program, "1000"]) as process:
        try:
            while os.readlink(f"/proc/{process.pid}/exe") != str(program):
                continue
            while "executable" not in (layout := aslr.process(process.pid).layout):  # its exec is not at its end
                continue
            assert layout["executable"] == 0x555555554000
        finally:
            process.kill()


@pytest.mark.needs("root")
def test_a_thread_of_the_kernel_has_no_addresses() -> None:
    assert aslr.process(2).layout == {}
    ran = boxes.nstool("aslr", "2", "--launches", "2")
    assert (ran.status, "launches" in ran.out) == (0, False)
    assert "nothing is measured: a thread of the kernel has no memory of its own" in ran.lines


def test_a_zombie_has_no_addresses() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        ran = boxes.nstool("aslr", str(pid), "--launches", "2")
    finally:
        os.waitpid(pid, 0)
    assert (ran.status, "launches" in ran.out) == (0, False)
    assert any(line.startswith("nothing is measured: it has ended") for line in ran.lines)


@pytest.mark.needs("root", "user")
def test_an_ordinary_user_measures_and_is_told_what_it_may_not(as_user: Callable[..., Any]) -> None:
    def act() -> tuple[int, Any, str, list[str]]:
        found = aslr.measure(("true",), 10)
        lines = boxes.nstool("aslr", "--launches", "2").lines
        try:
            aslr.process(1)
        except KernelError as error:
            return found.regions["stack"].distinct, aslr.settings().rnd_bits, error.cause, lines
        return 0, 0, "not refused", lines

    distinct, rnd_bits, cause, lines = as_user(act)
    assert "note: vm.mmap_rnd_bits unknown: the kernel lets root of the host alone read it; run as root" in lines
    assert distinct > 5
    assert rnd_bits is None
    assert "you may not look into process 1" in cause


@pytest.mark.needs("root", "user")
def test_a_program_that_may_only_be_executed(as_user: Callable[..., Any], tmp_path: Path) -> None:
    """Its processes are not dumpable: the message says so, not that the kernel is broken."""

    def act() -> str:
        try:
            aslr.measure(("/usr/local/only-x",), 2)
        except KernelError as error:
            return error.cause
        return "not refused"

    def with_the_file() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("none", "/usr/local", "tmpfs", data="mode=0755")
        Path("/usr/local/only-x").write_bytes(Path("/usr/bin/true").read_bytes())
        os.chmod("/usr/local/only-x", 0o711)
        return as_user(act)

    from tests.support.child import run_in_child

    assert "may execute /usr/local/only-x but not read it" in run_in_child(with_the_file)


@pytest.mark.needs("strace")
def test_who_is_traced_cannot_be_measured() -> None:
    """strace -f traces each launch already: ptrace(2) refuses a second tracer, and the error says what to do."""
    done = subprocess.run(
        ["strace", "-f", "-o", "/dev/null", "-e", "trace=none", *boxes.NSTOOL, "aslr", "--launches", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, **boxes.PATH},
    )
    assert done.returncode == 125
    assert "ptrace(PTRACE_TRACEME): Operation not permitted (EPERM)" in done.stderr
    assert "this process is traced itself" in done.stderr


def test_command_line() -> None:
    shown = boxes.nstool("aslr", "--launches", "20", "--", "ls", "-l", "--all")
    assert (shown.status, shown.err) == (0, "")
    assert "20 launches of ls -l --all, personality linux" in shown.out
    assert "2^-19" in shown.out
    assert [line.split()[0] for line in shown.lines if line.strip().startswith(("exec", "heap", "stack"))] == [
        "executable",
        "heap",
        "stack",
    ]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("--", "no-such-program"), 127, 'execve("no-such-program"): No such file'),
        (("--", "/etc/passwd"), 126, 'execve("/etc/passwd"): Permission denied'),
        (("--",), 2, "COMMAND is empty"),
        (("1", "--", "true"), 2, "give a TARGET or a COMMAND, not both"),
        (("no-such",), 2, "no sandbox 'no-such'"),
        (("--launches", "1"), 2, "--launches"),
    ],
)
def test_bad_requests(words: tuple[str, ...], status: int, text: str) -> None:
    ran = boxes.nstool("aslr", *words)
    assert (ran.status, ran.out) == (status, "")
    assert text in ran.err
