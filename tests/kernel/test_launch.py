"""A launch is safe in any process, the command inherits nothing of it, and its end is reported as it was."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import gc
import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nstool.errors import KernelError, NstoolError, SandboxGone, SpecError
from nstool.kinds import KINDS
from nstool.sandbox import cgroups, engine, rundir
from nstool.sandbox.aio import AsyncSandbox, launch_async
from nstool.sandbox.launch import Exit, ending, launch, prepare, preview
from nstool.spec.model import Capabilities, Limits, Mount, Net, Root, Spec
from tests.support import kernel, leaks, plans, processes
from tests.support.probes import REPOSITORY
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
SECONDS = 120.0
FORWARDABLE = [n for n in range(1, 65) if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, 32, 33)]


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """The image of init is made once a process, and stays."""
    engine.image()


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A static program that says what it finds itself to be: tests/kernel/probe.c."""
    path = tmp_path_factory.mktemp("probe") / "probe"
    subprocess.run(["gcc", "-O1", "-static", "-o", path, Path(__file__).with_name("probe.c")], check=True)
    for directory in (path.parent, *path.parents[1:3]):
        directory.chmod(0o755)
    return str(path)


def small(name: str, *command: str, **changes: Any) -> Spec:
    """The default but for /proc, which is small, so that a launch is quick."""
    return plans.default(name).replace(command=command, proc_subset="pid", **changes)


def probing(name: str, probe: str, *words: str, **changes: Any) -> Spec:
    """A sandbox with nothing in it but the probe, which is its command."""
    mounts = (Mount("/probe", probe),)
    return plans.default(name).replace(command=("/probe", *words), root=Root(type="tmpfs"), mounts=mounts, **changes)


def told(spec: Spec, **streams: Any) -> dict[str, Any]:
    """What the probe says in a sandbox."""
    reader, writer = os.pipe()
    with launch(spec, stdout=writer, **streams) as sandbox:
        os.close(writer)
        with open(reader, "rb") as pipe:
            text = pipe.read()
        assert sandbox.wait().status == 0
    said: dict[str, Any] = json.loads(text)
    return said


def output(sandbox_of: Callable[..., Any], *words: Any) -> bytes:
    """What a command writes; sandbox_of(*words, stdout=fd) starts it."""
    reader, writer = os.pipe()
    with sandbox_of(*words, stdout=writer) as started:
        os.close(writer)
        with open(reader, "rb") as pipe:
            text = pipe.read()
        started.wait()
    return text


def until(condition: Callable[[], Any]) -> None:
    """Wait until something is so; fails after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.002)


# ---- the host process ----


@pytest.mark.needs("root")
def test_many_threads_at_once(in_child: InChild, workplace: Workplace, name: str) -> None:
    """Parallel launches have names, ids and cgroups of their own, and all is undone."""

    def one(number: int) -> tuple[str, int, tuple[str, ...], int]:
        with launch(small(f"{name}n{number}", "true")) as sandbox:
            return sandbox.name, sandbox.lease.uid_base, tuple(sandbox.cgroups.values()), sandbox.wait().status

    def act() -> list[Any]:
        barrier = threading.Barrier(8)
        with ThreadPoolExecutor(8, initializer=barrier.wait) as pool:
            return list(pool.map(one, range(32)))

    seen, left = in_child(plans.left_by, workplace, act, timeout=60)
    assert left == ""
    assert [row[3] for row in seen] == [0] * 32
    assert len({row[0] for row in seen}) == 32


@pytest.mark.needs("root")
def test_live_together_without_sharing(name: str) -> None:
    """Sandboxes that live at the same time share neither ids nor cgroups nor namespaces."""
    boxes = [launch(small(f"{name}n{number}", "sleep", "60")) for number in range(6)]
    try:
        ids = {box.lease.uid_base for box in boxes}
        cgroups = {path for box in boxes for path in box.cgroups.values()}
        inodes = {os.stat(f"/proc/{box.init_pid}/ns/{kind}").st_ino for box in boxes for kind in KINDS}
    finally:
        for box in boxes:
            box.close()
    assert len(ids) == 6
    assert len(cgroups) == 6 * len(set(boxes[0].cgroups.values()))
    assert len(inodes) == 6 * len(KINDS)


@pytest.mark.needs("root")
def test_several_processes_at_once(in_child: InChild, workplace: Workplace, name: str) -> None:
    """Launches of several processes, half of them of threads, do not disturb one another."""

    def launcher(number: int) -> int:
        with ThreadPoolExecutor(2) as pool:
            done = pool.map(lambda n: run(small(f"{name}n{number}n{n}", "true")).status, range(4))
            return sum(status != 0 for status in done)

    def act() -> list[int]:
        pids = []
        for number in range(4):
            pid = os.fork()
            if pid == 0:
                os._exit(launcher(number))
            pids.append(pid)
        return [os.waitpid(pid, 0)[1] for pid in pids]

    assert in_child(plans.left_by, workplace, act, timeout=60) == ([0] * 4, "")


NSTOOL = [sys.executable, "-m", "nstool.cli.main"]


def nstool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NSTOOL, *words], cwd=REPOSITORY, capture_output=True, text=True, check=True)


def run(spec: Spec, **streams: Any) -> Exit:
    with launch(spec, **streams) as sandbox:
        return sandbox.wait()


@pytest.mark.needs("root")
def test_launched_by_a_thread_that_ends(name: str) -> None:
    """A sandbox lives as long as the process that launched it, not as long as the thread."""
    made: list[Any] = []

    def act() -> None:
        made.append(threading.get_native_id())
        made.append(launch(small(name, "sleep", "60")))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    tid, sandbox = made
    with sandbox:
        until(lambda: not os.path.exists(f"/proc/self/task/{tid}"))
        sandbox.signal(signal.SIGUSR1)  # SIGKILL it would be, had it died with the thread
        assert sandbox.wait().signal == signal.SIGUSR1


@pytest.mark.needs("root")
@pytest.mark.parametrize("die_with_parent", [True, False])
def test_thread_without_init(name: str, run_dir: Path, die_with_parent: bool) -> None:
    """What the kernel would kill with the thread is refused, and nothing is done; what outlives it is launched."""
    spec = small(name, "sleep", "60", init=False, die_with_parent=die_with_parent)
    made: list[Any] = []

    def act() -> None:
        made.append(threading.get_native_id())
        try:
            made.append(launch(spec))
        except SpecError as error:
            made.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    tid, found = made
    if die_with_parent:
        assert isinstance(found, SpecError)
        assert "main thread" in str(found)
        assert not (run_dir / "sandboxes" / name).exists()
        found = launch(spec)
    with found as sandbox:
        until(lambda: not os.path.exists(f"/proc/self/task/{tid}"))
        with pytest.raises(TimeoutError):  # it was not killed
            sandbox.wait(0.1)


@pytest.mark.needs("root")
def test_in_an_asyncio_loop(in_child: InChild, name: str) -> None:
    """The loop goes on while a sandbox is made and waited for; its children and signals are its own."""

    async def act() -> tuple[int, list[int], int]:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        child = await asyncio.create_subprocess_exec("true")
        async with await launch_async(small(name, "sh", "-c", "exit 7")) as sandbox:
            specs = [small(f"{name}n{n}", "sh", "-c", f"exit {n}") for n in (1, 2)]
            several = await asyncio.gather(*map(launch_async, specs))
            statuses = [(await other.wait()).status for other in several]
            status = (await sandbox.wait()).status
        turning.cancel()
        assert turns > 10
        return status, statuses, await child.wait()

    assert in_child(lambda: asyncio.run(act())) == (7, [1, 2], 0)


@pytest.mark.needs("root")
def test_an_asyncio_sandbox_tells_what_it_is(in_child: InChild, name: str) -> None:
    """Name, pid and pidfd at once, addresses by await, while the loop runs on; the pidfd is readable at its end."""

    async def act() -> None:
        async with await launch_async(small(name, "sleep", "60")) as sandbox:
            assert (sandbox.name, init_of(sandbox.pidfd)) == (name, sandbox.sandbox.init_pid)
            processes.wait_exec(sandbox.pid, "sleep")
            reading = asyncio.create_task(sandbox.addresses())
            await asyncio.sleep(0)
            assert not reading.done()
            found = await reading
            assert found.inode == os.stat(f"/proc/{sandbox.pid}/ns/net").st_ino
            assert [link.name for link in found.links] == ["lo"]
            assert not select.select([sandbox.pidfd], [], [], 0)[0]
            sandbox.kill()
            assert select.select([sandbox.pidfd], [], [], SECONDS)[0]
            assert (await sandbox.wait()).signal == signal.SIGKILL

    in_child(lambda: asyncio.run(act()))


@pytest.mark.needs("root")
def test_in_a_large_process(in_child: InChild, name: str) -> None:
    """A process with 500 MB of touched memory launches, and none of it is init's."""

    def act() -> tuple[int, int]:
        ballast = bytearray(500 << 20)
        ballast[::4096] = b"x" * (len(ballast) // 4096)
        with launch(small(name, "sleep", "60")) as sandbox:
            return private_memory(sandbox.init_pid), len(ballast)

    private, _ = in_child(act)
    assert 0 < private < 1 << 20


def private_memory(pid: int) -> int:
    """Bytes of memory that a process shares with nobody. proc_pid_smaps(5)."""
    words = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(word[1]) << 10 for word in words if word[0] in ("Private_Clean:", "Private_Dirty:"))


@pytest.mark.needs("root")
def test_init_costs_less_than_a_mebibyte(name: str) -> None:
    """The memory that a running sandbox has to itself, but for the command's."""
    with launch(plans.default(name).replace(command=("sleep", "60"))) as sandbox:
        assert 0 < private_memory(sandbox.init_pid) < 1 << 20


_MASKS = ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")
STATE = (*_MASKS, "Threads", "Uid", "Gid", "Groups", "CapEff", "CapAmb", "CapInh")


def own_state() -> dict[str, str]:
    """What of this process a launch could have changed."""
    lines = Path("/proc/self/status").read_text().splitlines()
    state = {key: value for key, _, value in (line.partition(":") for line in lines) if key in STATE}
    state["dumpable"] = str(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
    state["umask"] = str(os.umask(0o77))
    os.umask(int(state["umask"]))
    for kind in KINDS:
        state[kind] = os.readlink(f"/proc/self/ns/{kind}")
    state["cwd"] = os.getcwd()
    state["cgroup"] = Path("/proc/self/cgroup").read_text()
    return state


@pytest.mark.needs("root", "gcc")
def test_signals_that_wait(in_child: InChild, name: str, probe: str) -> None:
    """Blocked, pending, ignored and handled signals stay as they were, and the command knows of none."""

    def act() -> tuple[Any, Any, dict[str, Any]]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM, signal.SIGCHLD, 40})
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), 40)
        before = own_state()
        said = told(probing(name, probe))
        after = own_state()
        for state in (before, after):
            state["ShdPnd"] = hex(int(state["ShdPnd"], 16) & ~(1 << 16))  # SIGCHLD, of init's own end
        return before, after, said["status"]

    before, after, status = in_child(act)
    assert after == before
    for mask in _MASKS:
        assert int(status[mask], 16) == 0, mask


@pytest.mark.needs("root")
def test_the_host_process_is_as_before(in_child: InChild, name: str) -> None:
    """Mask, dispositions, ids, capabilities, dumpable flag, umask, namespaces, cgroups and cwd."""

    def act() -> tuple[Any, Any]:
        before = own_state()
        run(small(name, "true"))
        return before, own_state()

    before, after = in_child(act)
    assert after == before
    assert before["dumpable"] == "1"


@pytest.mark.needs("root")
def test_signal_handlers_of_python_run_meanwhile(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A timer that fires all the time interrupts the launcher's calls, and harms none."""

    def act() -> tuple[set[int], bool]:
        fired = 0

        def handler(*_: object) -> None:
            nonlocal fired
            fired += 1

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        try:
            statuses = {run(small(name, "sh", "-c", "exit 5")).status for _ in range(12)}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return statuses, fired > 50

    assert in_child(plans.left_by, workplace, act) == (({5}, True), "")


def ignore_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def reap_in_handler() -> None:
    signal.signal(signal.SIGCHLD, lambda *_: plans.reap())


def reap_in_thread() -> None:
    def forever() -> None:
        while True:
            try:
                os.wait()
            except ChildProcessError:
                time.sleep(0.001)

    threading.Thread(target=forever, daemon=True).start()


REAPERS = (ignore_children, reap_in_handler, reap_in_thread)


@pytest.mark.needs("root")
@pytest.mark.parametrize("disturb", REAPERS)
def test_children_reaped_by_somebody_else(
    in_child: InChild, workplace: Workplace, name: str, disturb: Callable[[], None]
) -> None:
    """Init reports how the command ended, so that a host process may do with SIGCHLD what it likes."""

    def act() -> list[int]:
        disturb()
        return [run(small(name, "sh", "-c", f"exit {number}")).status for number in (0, 3, 4)]

    assert in_child(plans.left_by, workplace, act) == ([0, 3, 4], "")


@pytest.mark.needs("root")
@pytest.mark.parametrize("started", ["without init", "init killed", "exec, monitor killed"])
def test_status_that_somebody_else_has_taken(in_child: InChild, workplace: Workplace, name: str, started: str) -> None:
    """Where init cannot tell and another wait was first, each wait says so, and all is undone by the first."""

    def act() -> list[str]:
        ignore_children()
        said = []
        with suppress(NstoolError), launch(small(name, "sleep", "60", init=started != "without init")) as sandbox:
            waited = sandbox.exec("sleep", "60") if started.startswith("exec") else sandbox
            os.kill(init_of(waited.pidfd), signal.SIGKILL)
            for _ in range(2):
                with pytest.raises(NstoolError, match="taken by another wait") as caught:
                    waited.wait()
                said.append(str(caught.value))
            waited.close()
        return said

    said, left = in_child(plans.left_by, workplace, act)
    assert left == ""
    assert said[0] == said[1]
    assert ("use a sandbox with init" in said[0]) == (started == "without init")


@pytest.mark.needs("user", "userns", "newuidmap")
@pytest.mark.parametrize("disturb", REAPERS)
def test_helpers_reaped_by_somebody_else(as_user: InChild, name: str, disturb: Callable[[], None]) -> None:
    """Also what newuidmap and newgidmap said is known."""

    def act() -> int:
        disturb()
        return run(plans.subordinate(name).replace(command=("sh", "-c", "exit 6"))).status

    assert as_user(act) == 6


@pytest.mark.needs("root", "gcc")
@pytest.mark.parametrize("closed", range(8), ids=lambda bits: f"closed{bits:03b}")
def test_closed_standard_streams(in_child: InChild, name: str, probe: str, closed: int) -> None:
    """Whichever are closed, the command has /dev/null there, the others as they are, and nothing else."""

    def act() -> Any:
        reader, writer = os.pipe()
        files = [os.open("/dev/zero", os.O_RDWR) for _ in range(3)]
        for fd in range(3):
            if closed >> fd & 1:
                os.close(fd)
            else:
                os.dup2(files[fd], fd)
        with launch(probing(name, probe, "tell", "3"), pass_fds=(writer,)) as sandbox:
            os.close(writer)
            text = b""
            while block := os.read(reader, 4096):
                text += block
            assert sandbox.wait().status == 0
        return json.loads(text)["fds"]

    fds = in_child(act)
    wanted = {str(fd): "/dev/null" if closed >> fd & 1 else "/dev/zero" for fd in range(3)}
    assert {fd: target.removesuffix(" (deleted)") for fd, target in fds.items()} == wanted


@pytest.mark.needs("root")
def test_a_stream_that_is_given_must_be_open(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A number or a file that was closed is refused by its name, for a launch and for an exec; nothing is left."""

    def act() -> list[str]:
        said = []
        with open(os.devnull, "rb") as file:
            pass
        with launch(small(name, "sleep", "60")) as sandbox:
            for start in (
                lambda **streams: launch(small(f"{name}b", "true"), **streams),
                partial(sandbox.exec, "true"),
            ):
                for streams in ({"stdin": 98}, {"stdout": file}, {"stderr": 99}):
                    with pytest.raises(SpecError) as caught:
                        start(**streams)
                    said.append(str(caught.value))
        return said

    said, left = in_child(plans.left_by, workplace, act)
    assert left == ""
    assert [text.split(":")[0] for text in said] == ["stdin", "stdout", "stderr"] * 2
    assert said[2] == "stderr: fd 99 is not open in the launcher"


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.parametrize("mode", ["none", "veth"])
def test_exhausted_fd_table(in_child: InChild, workplace: Workplace, name: str, mode: str) -> None:
    """With ever more fds allowed, each of the calls that makes one fails in turn, in words; then it goes well."""
    wanted = small(name, "true").replace(net=Net(mode))

    def act() -> list[str]:
        run(wanted)
        os.close(first := os.dup(0))  # the lowest that is free
        check = leaks.LeakCheck(workplace)
        seen = []
        for limit in range(first, first + 40):
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                said = f"ended {run(wanted).status}"
            except KernelError as error:
                said = f"{error.errno}: {error}"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            if left := check.wait():
                said += f"; left {leaks.report(left)}"
                check = leaks.LeakCheck(workplace)
            seen.append(said)
        return seen

    seen = in_child(act, timeout=600)
    assert seen[-1] == "ended 0"
    refused = seen[: seen.index("ended 0")]
    assert len(refused) > 5
    assert set(seen[len(refused) :]) == {"ended 0"}
    for said in refused:
        assert said.startswith(f"{errno.EMFILE}: "), said
        assert "cause: " in said, said
        assert "ulimit -n" in said, said
        assert "left" not in said
    assert mode == "veth" or any("(launcher)" in said for said in refused), refused


@pytest.mark.needs("user", "userns")
def test_exhausted_processes(as_user: InChild, workplace: Workplace, name: str) -> None:
    """With ever more processes allowed, each clone is refused in turn; the error names it."""

    def act() -> list[str]:
        run(plans.single(name))
        check = leaks.LeakCheck(workplace)
        own = sum(process_owner(process.pid) == os.getuid() for process in processes.every())
        seen = []
        for limit in (1, *range(own, own + 60)):  # others of this user come and go
            pid = os.fork()  # a limit that is lowered cannot be raised again
            if pid == 0:
                resource.setrlimit(resource.RLIMIT_NPROC, (limit + 1, limit + 1))
                try:
                    said = f"ended {run(plans.single(name)).status}"
                except NstoolError as error:
                    said = str(error)
                (Path.home() / "said").write_text(said)
                os._exit(0)
            os.waitpid(pid, 0)
            seen.append((Path.home() / "said").read_text() + leaks.report(check.wait()))
            if seen[-1] == "ended 0":
                break
        (Path.home() / "said").unlink()
        return seen

    seen = as_user(act)
    assert seen[-1] == "ended 0"
    assert "clone3" in seen[0]
    assert all("EAGAIN" in said for said in seen[:-1])


def process_owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:  # it has just ended
        return -1


# ---- the command inherits nothing ----


@pytest.mark.needs("root", "gcc")
def test_nothing_is_inherited(in_child: InChild, name: str, probe: str) -> None:
    """Environment, cwd, fds, umask, signals, keyring, groups, terminal, nice: the spec's, or a fresh process's."""

    def act() -> tuple[dict[str, Any], int]:
        os.setsid()
        master, slave = os.openpty()
        fcntl_tty(slave)
        os.environ["SECRET"] = "of the caller"
        os.chdir("/usr")
        os.umask(0o007)
        os.setgroups([1, 2, 3])
        for fd in (os.open("/etc/passwd", os.O_RDONLY), os.open("/", os.O_RDONLY | os.O_DIRECTORY)):
            os.set_inheritable(fd, True)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        keyring = ctypes.CDLL(None).syscall(250, 1, None)  # keyctl(KEYCTL_JOIN_SESSION_KEYRING): one of its own
        said = told(probing(name, probe, seccomp="none", env={"GIVEN": "1"}, cwd="/dev"), stdin=slave, stderr=slave)
        assert master > 2  # its end would be a hang-up, and the end of this process
        return said, keyring

    said, keyring = in_child(act)
    assert said["environ"] == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GIVEN=1"]
    assert said["cwd"] == "/dev"
    assert list(said["fds"]) == ["0", "2"]  # and 1, on which it speaks
    status = said["status"]
    assert status["Umask"].strip() == "0022"
    assert status["Groups"].split() == []
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert [int(status[mask], 16) for mask in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    assert [int(status[f"Cap{letters}"], 16) for letters in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert status["NoNewPrivs"].strip() == "1"
    assert said["keyring"] > 0
    assert said["keyring"] != keyring
    assert said["tty"] == errno.ENXIO
    assert said["sid"] == said["pgrp"] == said["pid"] == 2
    assert said["death"] == signal.SIGKILL
    assert said["subreaper"] == 0
    assert said["securebits"] & 0b11 == 0b11  # noroot, and locked
    assert [said["limits"][number] for number in (4, 7, 8)] == [[1, 1], [1024, 1024], [65536, 65536]]
    for kind in KINDS:
        assert said["namespaces"][kind] != os.stat(f"/proc/self/ns/{kind}").st_ino


def fcntl_tty(fd: int) -> None:
    """Make a terminal the controlling one of this session. TIOCSCTTY."""
    import fcntl
    import termios

    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


@pytest.mark.needs("root")
@pytest.mark.parametrize("numbers", [(5, 3, 4), (4, 5, 3), (3, 4, 5), (61, 60, 62), (0, 2, 1), (3, 5, 0)])
def test_passed_fds_arrive_in_their_order(in_child: InChild, name: str, numbers: tuple[int, ...]) -> None:
    """From fd 3 on, in the order of the spec, also where their numbers are in each other's place."""

    def act() -> bytes:
        reader, writer = os.pipe()
        reader, writer = (high(fd) for fd in (reader, writer))
        for number in set(numbers):
            content = os.memfd_create("content")
            os.write(content, b"%d " % number)
            os.dup2(content, number)
        script = "for fd in 3 4 5; do cat /proc/self/fd/$fd; done; ls /proc/self/fd"
        null = high(os.open("/dev/null", os.O_RDWR))
        spec = plans.default(name).replace(command=("sh", "-c", script), pass_fds=numbers)
        with launch(spec, stdin=null, stdout=writer, stderr=null) as sandbox:
            os.close(writer)
            text = b""
            while block := os.read(reader, 4096):
                text += block
            sandbox.wait()
        return text

    words = in_child(act).decode().split()
    assert words[:3] == [str(number) for number in numbers]
    assert words[3:] == ["0", "1", "2", "3", "4", "5", "6"]  # 6: the directory that ls reads


def high(fd: int) -> int:
    """Move an fd out of the way."""
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 200)
    os.close(fd)
    return moved


# ---- init ----


@pytest.mark.needs("root", "gcc")
def test_init_reaps_orphans(name: str, probe: str) -> None:
    """Hundreds of processes whose parents have ended leave no zombie."""
    ready, go = os.pipe(), os.pipe()
    spec = probing(name, probe, "orphans", "300", limits=Limits(pids=1000))
    with launch(spec, stdin=go[0], stdout=ready[1]) as sandbox:
        assert os.read(ready[0], 100) == b"done\n"
        until(lambda: [p.pid for p in processes.descendants(sandbox.init_pid)] == [sandbox.pid])
        os.close(go[1])
        assert sandbox.wait().status == 0
    for fd in (*ready, go[0]):
        os.close(fd)


@pytest.mark.needs("root", "gcc")
def test_every_signal_is_forwarded(name: str, probe: str) -> None:
    """What is sent to the sandbox reaches the command, be it a real-time signal or one that faults send."""
    said, go = os.pipe(), os.pipe()
    with launch(probing(name, probe, "signals"), stdin=go[0], stdout=said[1]) as sandbox:
        assert os.read(said[0], 100) == b"ready\n"
        for number in FORWARDABLE:
            sandbox.signal(number)
            assert select.select([said[0]], [], [], SECONDS)[0], number
            assert os.read(said[0], 100) == b"%d\n" % number
        os.close(go[1])
        assert sandbox.wait().status == 0
    for fd in (*said, go[0]):
        os.close(fd)


@pytest.mark.needs("root")
def test_end_of_the_command_ends_all(name: str) -> None:
    """What the command has started ends with it, though it ignores all signals and is in another session."""
    reader, writer = os.pipe()
    script = "(trap '' HUP TERM INT; setsid sleep 60) & (trap '' HUP; sleep 60) & exit 4"
    with launch(small(name, "sh", "-c", script), stdout=writer, stderr=writer) as sandbox:
        os.close(writer)
        assert sandbox.wait().status == 4
        assert os.read(reader, 1) == b""  # nobody has its other end any more
    os.close(reader)


@pytest.mark.needs("root")
@pytest.mark.parametrize("code", [0, 1, 2, 125, 126, 127, 128, 137, 255])
def test_exit_code(name: str, code: int) -> None:
    """The command's own exit status is reported, whatever it is."""
    ended = run(small(name, "sh", "-c", f"exit {code}"))
    assert (ended.code, ended.signal, ended.core, ended.oom, ended.status) == (code, None, False, False, code)


@pytest.mark.needs("root")
@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 34, 64])
def test_death_by_signal(name: str, number: int) -> None:
    """The signal that ended the command is reported; no core by default."""
    ended = run(small(name, "sh", "-c", f"kill -{number} $$"))
    assert (ended.code, ended.signal, ended.core, ended.status) == (None, number, False, 128 + number)


@pytest.mark.needs("root")
def test_core_dump_is_reported(name: str) -> None:
    """Where the spec allows a core and there is room for it, it is said that there is one."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith(("/", "@")):
        pytest.skip(f"cores of this host go elsewhere: {pattern}")
    limits = Limits(rlimits={"core": (-1, -1)})
    ended = run(small(name, "sh", "-c", "kill -SEGV $$", cwd="/tmp", limits=limits))
    assert (ended.signal, ended.core) == (signal.SIGSEGV, True)


@pytest.mark.needs("root")
def test_usage_of_resources(name: str) -> None:
    """Time and memory of the command are those that the kernel counted."""
    loop = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    ended = run(small(name, "sh", "-c", loop))
    assert 0.01 < ended.utime < 10
    assert 500 < ended.maxrss < 100_000


@pytest.mark.needs("root", "cgroup_memory")
def test_lack_of_memory_is_reported(name: str) -> None:
    """What the kernel killed for lack of memory is told from other kills."""
    hog = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
    ended = run(small(name, *hog, limits=Limits(memory=30 << 20)))
    assert (ended.signal, ended.oom) == (signal.SIGKILL, True)
    ended = run(small(name, "sh", "-c", "kill -9 $$"))
    assert (ended.signal, ended.oom) == (signal.SIGKILL, False)


def move_out(paths: Iterable[str]) -> None:
    """Put all processes of these cgroups into those at the top, as somebody by hand."""
    for path in paths:
        for pid in cgroups.processes(path):
            Path(path).parent.joinpath("cgroup.procs").write_text(str(pid))


def remove_cgroups(paths: Iterable[str]) -> None:
    """Move all processes out, and remove the cgroups."""
    move_out(paths)
    for path in set(paths):
        os.rmdir(path)


def take_limits_away(paths: Iterable[str]) -> None:
    """Let it have as many tasks as there are."""
    for path in paths:
        if os.path.exists(f"{path}/pids.max"):
            Path(path, "pids.max").write_text("max")


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids")
@pytest.mark.parametrize(
    ("act", "oom", "notes"),
    [
        (list, False, ()),
        # One line a hierarchy, with all its controllers before the word: in version 2 they have one.
        (remove_cgroups, None, (r"its (\w+, )*memory\b.* cgroup /.* was removed", r"its (\w+, )*pids\b.* cgroup /.*")),
        (move_out, False, (r"moved out of its (\w+, )*memory\b.* cgroup /", r"its (\w+, )*pids\b.* cgroup /")),
        (take_limits_away, False, ("pids.max is max, and was made 256",)),
    ],
    ids=["untouched", "removed", "moved out", "no limits"],
)
def test_cgroups_that_somebody_changed(
    name: str, act: Callable[[Iterable[str]], None], oom: bool | None, notes: tuple[str, ...]
) -> None:
    """The end is told and undone as ever; a count that is gone is not "none"; ``nstool show`` says what it is."""
    with launch(small(name, "sleep", "60")) as sandbox:
        act(sandbox.cgroups.values())
        shown = json.loads(nstool("show", "--json", name).stdout)["notes"]
        sandbox.kill()
        ended = sandbox.wait()
    assert (ended.signal, ended.oom) == (signal.SIGKILL, oom)
    assert bool(shown) == bool(notes), shown
    assert all(any(re.search(note, line) for line in shown) for note in notes), shown


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids")
def test_a_command_that_ends_was_not_moved_out_of_its_cgroups(name: str) -> None:
    """It is in none of them any more, dead and then gone, and that is no change that somebody made."""
    with launch(small(name, "sleep", "60", init=False)) as sandbox:
        paths, pid = sandbox.cgroups, sandbox.pid
        sandbox.kill()
        assert select.select([sandbox.pidfd], [], [], SECONDS)[0]
        assert not any(pid in cgroups.processes(path) for path in paths.values())
        assert cgroups.departures(paths, sandbox.spec.limits, pid) == []
        sandbox.wait()
    assert not any(map(os.path.exists, paths.values()))
    assert cgroups.departures(paths, sandbox.spec.limits, pid) == []


@pytest.mark.needs("root", "cgroup_memory")
def test_supervisor_says_when_it_cannot_know_of_a_lack_of_memory(name: str) -> None:
    """``nstool run`` with its memory cgroup removed meanwhile."""
    words = ("run", "--name", name, "--", "sh", "-c", "echo runs; read line")
    pipe = subprocess.PIPE
    with subprocess.Popen([*NSTOOL, *words], cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        remove_cgroups([rundir.find(name).cgroups["memory"]])
        _, text = process.communicate(b"\n")
    assert process.returncode == 0
    assert text == b"nstool: whether the sandbox lacked memory is not known: its memory cgroup was removed\n"


# ---- commands that join ----


@pytest.mark.needs("root", "gcc")
def test_exec_is_as_the_first_command(name: str, probe: str) -> None:
    """All namespaces, cgroups, ids, capabilities, filters, limits and the rest are those of the first command."""
    reader, writer = os.pipe()
    go = os.pipe()
    spec = probing(name, probe, "signals")
    same = ("status", "limits", "namespaces", "environ", "cwd", "securebits", "death", "keyring", "tty", "dumpable")
    first = told(spec.replace(name=f"{name}b", command=("/probe",)))
    with launch(spec, stdin=go[0], stdout=writer) as sandbox:
        assert os.read(reader, 100) == b"ready\n"
        second = json.loads(output(sandbox.exec, "/probe"))
        inside = {kind: os.stat(f"/proc/{sandbox.pid}/ns/{kind}").st_ino for kind in KINDS}
        cgroups = Path(f"/proc/{sandbox.pid}/cgroup").read_text()
        with sandbox.exec("/probe", "signals", stdin=go[0], stdout=writer) as other:
            assert os.read(reader, 100) == b"ready\n"
            (payload,) = processes.descendants(init_of(other.pidfd))
            assert Path(f"/proc/{payload.pid}/cgroup").read_text() == cgroups
    for fd in (reader, writer, *go):
        os.close(fd)
    assert second["namespaces"] == inside
    for said in (first, second):
        said["namespaces"] = {}
        said["keyring"] = said["keyring"] > 0
    assert {key: second[key] for key in same} == {key: first[key] for key in same}


def init_of(pidfd: int) -> int:
    """The pid behind a pidfd."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


@pytest.mark.needs("root")
def test_exec_has_an_end_of_its_own(name: str) -> None:
    """Its exit status is its own, and the sandbox goes on."""
    with launch(small(name, "sleep", "60")) as sandbox:
        with sandbox.exec("sh", "-c", "exit 9") as command:
            assert command.wait().status == 9
        with sandbox.exec("sh", "-c", "kill -USR1 $$") as command:
            assert command.wait().signal == signal.SIGUSR1
        with sandbox.exec("sleep", "60") as command:
            command.signal(signal.SIGUSR2)
            assert command.wait().signal == signal.SIGUSR2
        with sandbox.exec("sleep", "60") as command:
            pidfd = os.pidfd_open(init_of(command.pidfd))
        assert command.wait().signal == signal.SIGKILL
        assert select.select([pidfd], [], [], 0)[0]
        os.close(pidfd)
        sandbox.signal(signal.SIGTERM)
        assert sandbox.wait().signal == signal.SIGTERM


@pytest.mark.needs("root")
def test_exec_has_settings_of_its_own(name: str) -> None:
    """User, directory and variables besides those of the sandbox, whose command keeps its own."""
    script = "id -u; id -g; pwd; echo $A $B $C"
    with launch(small(name, "sleep", "60", env={"A": "1", "B": "2"})) as sandbox:
        settings = {"user": "33:34", "cwd": "/etc", "env": {"B": "3", "C": "4"}}
        assert output(partial(sandbox.exec, **settings), "sh", "-c", script).split() == b"33 34 /etc 1 3 4".split()
        assert output(sandbox.exec, "sh", "-c", script).split() == b"1000 1000 / 1 2".split()


@pytest.mark.needs("root")
def test_exec_in_an_asyncio_loop_has_settings_of_its_own(in_child: InChild, name: str) -> None:
    """The same arguments as of the synchronous one."""

    async def act() -> list[int]:
        script = 'test $(id -u) = 33 && test "$PWD $A" = "/etc 1" && exit 4'
        async with await launch_async(small(name, "sleep", "60")) as sandbox:
            own = await sandbox.exec("sh", "-c", script, user="33", cwd="/etc", env={"A": "1"})
            return [own.status, (await sandbox.exec("sh", "-c", script)).status]

    assert in_child(lambda: asyncio.run(act())) == [4, 1]


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ((), {}, r'command: there is none; .* exec\("id", "-u"\)'),
        ((["id"],), {}, r"command: \['id'\] is no word; .* exec\(\*words\)"),
        (("id", 1), {}, r"command\[1\]: must be of type str, not int"),
        (("",), {}, "command.*: the name of the command is empty"),
        (("id",), {"cwd": "etc"}, 'cwd: .*"etc" is relative'),
        (("id",), {"user": "nobody-of-this-name"}, "user: .*/etc/passwd has no 'nobody-of-this-name'"),
        (("id",), {"user": "99999999"}, "user: uid 99999999 is not in the sandbox's uid_map"),
        (("id",), {"env": "A=1"}, r"env: must be of type dict\[str, str\]"),
    ],
)
def test_exec_refuses_what_makes_no_sense(
    in_child: InChild, name: str, words: Any, settings: Any, message: str
) -> None:
    """A SpecError says what, and the sandbox goes on."""

    def act() -> str:
        with launch(small(name, "sleep", "60")) as sandbox:
            with pytest.raises(SpecError) as caught:
                sandbox.exec(*words, **settings)
            assert sandbox.exec("true").wait().status == 0
        return str(caught.value)

    assert re.match(message, in_child(act))


@pytest.mark.needs("root")
@pytest.mark.parametrize("ended", [True, False])
def test_terminal_of_an_exec_is_closed_with_it(name: str, ended: bool) -> None:
    """Whether the command has ended by itself or is ended by leaving."""
    with launch(small(name, "sleep", "60", terminal="always")) as sandbox:
        with sandbox.exec("sleep", "0" if ended else "60") as command:
            master = command.terminal
            assert os.isatty(master)
            if ended:
                command.wait()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(master)


@pytest.mark.needs("root")
def test_exec_ends_with_the_sandbox(name: str) -> None:
    """When the sandbox ends, so do the commands that came into it later."""
    with launch(small(name, "sleep", "60")) as sandbox, sandbox.exec("sleep", "60") as command:
        sandbox.kill()
        assert command.wait().signal == signal.SIGKILL
        assert sandbox.wait().signal == signal.SIGKILL


# ---- the Sandbox object ----


@pytest.mark.needs("root")
def test_wait_of_several_threads(name: str) -> None:
    """All that wait learn the same; later calls too, and after the end nothing can be signalled."""
    with launch(small(name, "sh", "-c", "read line; exit 3"), stdin=(pipe := os.pipe())[0]) as sandbox:
        with ThreadPoolExecutor(5) as pool:
            waiting = [pool.submit(sandbox.wait, timeout) for timeout in (None, None, 20, 20, None)]
            with pytest.raises(TimeoutError):
                sandbox.wait(0.01)
            os.close(pipe[1])
            seen = [future.result() for future in waiting]
        os.close(pipe[0])
        assert len(set(seen)) == 1
        assert sandbox.wait() == sandbox.wait(0) == seen[0]
        assert seen[0].code == 3
        with pytest.raises(NstoolError, match="has ended"):
            sandbox.signal(signal.SIGTERM)
        sandbox.kill()
        sandbox.close()


@pytest.mark.needs("root")
def test_waits_have_a_timeout(in_child: InChild, name: str) -> None:
    """TimeoutError while it runs, the Exit when it has ended in time, TypeError for no number of seconds: all alike."""

    async def act() -> None:
        (reader, writer), (own, others) = os.pipe(), os.pipe()
        script = ("sh", "-c", "read line; exit 3")
        async with await launch_async(small(name, *script), stdin=reader) as sandbox:
            command = sandbox.sandbox.exec(*script, stdin=own)
            waits = (command.wait, sandbox.sandbox.wait, sandbox.wait)
            for wait in waits:
                for timeout in (-1, 0, 0.01):
                    with pytest.raises(TimeoutError, match=rf"still runs after {timeout} s"):
                        await done(wait(timeout))
                with pytest.raises(TypeError, match="timeout is a number of seconds or None, not 'x'"):
                    await done(wait("x"))
            for end, wait in zip((others, writer, reader), waits):
                os.close(end)
                assert (await done(wait(float("inf")))).code == 3
            assert [(await done(wait(0))).code for wait in waits] == [3, 3, 3]
        os.close(own)

        async with await launch_async(small(f"{name}b", "true")) as sandbox:
            select.select([sandbox.pidfd], [], [], SECONDS)
            assert (await sandbox.wait(0)).code == 0  # has ended, though nobody has waited yet

    async def done(waited: Any) -> Exit:
        return waited if isinstance(waited, Exit) else await waited

    in_child(lambda: asyncio.run(act()))


@pytest.mark.needs("root")
@pytest.mark.parametrize("reaped", [False, True])
def test_after_the_end_it_is_gone(name: str, reaped: bool) -> None:
    """Addresses and further commands are of a sandbox that runs, before and after its end was waited for."""
    with launch(small(name, "true")) as sandbox:
        assert select.select([sandbox.pidfd], [], [], SECONDS)[0]
        if reaped:
            sandbox.wait()
        for ask in (lambda: sandbox.addresses, lambda: sandbox.exec("id"), lambda: sandbox.exec("id", user="33")):
            with pytest.raises(SandboxGone, match="has ended"):
                ask()
        with pytest.raises(SandboxGone, match="has ended"):
            asyncio.run(AsyncSandbox(sandbox).addresses())


@pytest.mark.parametrize("start", [launch, prepare, preview, lambda spec: asyncio.run(launch_async(spec))])
def test_only_a_spec_is_launched(start: Callable[[Any], Any]) -> None:
    """Anything else is refused with what is wanted."""
    with pytest.raises(SpecError, match=r"^a Spec is wanted, not str: Spec\(command="):
        start("ls")


@pytest.mark.needs("root")
def test_leaving_the_context_ends_it(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The end of the with block ends the sandbox, also by an exception, and undoes all that was made."""

    def act() -> list[bool]:
        ended = []
        for error in (None, RuntimeError("of the block")):
            with suppress(RuntimeError), launch(small(name, "sleep", "60")) as sandbox:
                pidfd = os.pidfd_open(sandbox.init_pid)
                if error:
                    raise error
            ended.append(bool(select.select([pidfd], [], [], 0)[0]))
            os.close(pidfd)
        return ended

    assert in_child(plans.left_by, workplace, act) == ([True, True], "")


@pytest.mark.needs("root")
def test_forgotten_sandbox_is_ended_with_a_warning(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A sandbox that nobody holds any more is ended and undone, and a ResourceWarning names it."""

    def act() -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            sandbox = launch(small(name, "sleep", "60"))
            del sandbox
            gc.collect()
        return [str(warning.message) for warning in seen if warning.category is ResourceWarning]

    said, left = in_child(plans.left_by, workplace, act)
    assert left == ""
    assert len(said) == 1
    assert name in said[0]


@pytest.mark.needs("root")
def test_copy_in_a_fork_does_not_end_it(name: str) -> None:
    """A forked process that ends, or forgets its copy, does nothing to the sandbox of its parent."""
    sandbox = launch(small(name, "sleep", "60"))
    with sandbox:
        pid = os.fork()
        if pid == 0:
            try:
                sandbox.__del__()  # as the end of the last reference does
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        sandbox.signal(signal.SIGUSR1)
        assert sandbox.wait().signal == signal.SIGUSR1


# ---- a command that gets at init's socket ----

# Takes init's end once init has put it at fd 0, sends one empty packet, and fills the socket.
STEAL = """
import ctypes, os, socket
init, fd = os.pidfd_open(1), -1
while fd < 0 or not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
    fd = ctypes.CDLL(None).syscall(438, init, 0, 0)  # pidfd_getfd
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
end.send(b"", socket.MSG_DONTWAIT)
try:
    for packet in range(100_000):
        end.send(b"x" * 9, socket.MSG_DONTWAIT)
except BlockingIOError:
    print("full", flush=True)
os._exit(7)
"""


@pytest.mark.needs("root")
def test_a_command_that_fills_inits_socket_hangs_nobody(in_child: InChild, workplace: Workplace, name: str) -> None:
    """Nobody reads before wait: init ends all the same, and its end tells the status; then it is told by init's own."""

    def act() -> tuple[bytes, Exit]:
        reader, writer = os.pipe()
        sets = Capabilities(*[("sys_ptrace",)] * 5)
        spec = plans.default(name).replace(
            command=("/usr/bin/python3", "-c", STEAL), capabilities=sets, seccomp="none", user="0:0"
        )
        with launch(spec, stdout=writer) as sandbox:
            os.close(writer)
            with open(reader, "rb") as pipe:
                text = pipe.read()
            assert sandbox._ends_within(SECONDS)
            return text, sandbox.wait()

    text, ended = in_child(act)
    assert (text, ended.code, ended.signal, ended.init_killed) == (b"full\n", 7, None, False)


@pytest.mark.needs("root")
def test_nstool_run_ends_with_a_command_that_fills_inits_socket(name: str) -> None:
    """The supervisor takes no empty packet for the end of the socket."""
    words = ("run", "--name", name, "--cap", "sys_ptrace", "--seccomp", "none", "--", "/usr/bin/python3", "-c", STEAL)
    nstool = [sys.executable, "-m", "nstool.cli.main", *words]
    assert subprocess.run(nstool, cwd=REPOSITORY, timeout=SECONDS, check=False).returncode == 7


@pytest.mark.needs("root")
def test_an_empty_packet_is_not_the_end_of_the_socket(in_child: InChild, workplace: Workplace, name: str) -> None:
    """What init tells after it is read: how many seconds the command took, which its status does not tell."""

    def act() -> Exit:
        sets = Capabilities(*[("sys_ptrace",)] * 5)
        once = STEAL.replace("100_000", "0").replace("7)", "7)\n")
        spec = plans.default(name).replace(
            command=("/usr/bin/python3", "-c", once), capabilities=sets, seccomp="none", user="0:0"
        )
        with launch(spec) as sandbox:
            return sandbox.wait()

    ended = in_child(act)
    assert ended.code == 7
    assert ended.maxrss > 0


# Takes init's end from outside, and sends for as long as anybody reads.
FLOOD = """
import ctypes, os, socket, sys
init, fd = os.pidfd_open(int(sys.argv[1])), -1
while fd < 0 or not os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
    fd = ctypes.CDLL(None).syscall(438, init, 0, 0)  # pidfd_getfd
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
print("going", flush=True)
while True:
    try:
        end.send(b"x" * 9, socket.MSG_DONTWAIT)
    except BlockingIOError:
        continue
    except (BrokenPipeError, ConnectionResetError):
        break
"""


@contextmanager
def flooded(init: int) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", FLOOD, str(init)], stdout=subprocess.PIPE) as flood:
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"going\n"
        yield
        assert flood.wait(SECONDS) == 0  # the other end is closed


def test_messages_without_end_are_not_read_for_ever() -> None:
    """Each read finds another one, as of a sender that is faster than this process; the status is that of the end."""

    class Flooded(engine.Process):
        def read(self) -> engine.Message:
            return engine.decode(bytes(64))

        def reap(self) -> int:
            return 7 << 8

    program = SimpleNamespace(init=True)
    assert ending(Flooded(program, 1, -1, -1), {}) == Exit(7)  # type: ignore[arg-type]


@pytest.mark.needs("root")
def test_who_sends_for_ever_on_inits_socket_hangs_nobody(in_child: InChild, name: str) -> None:
    """Neither the library nor the supervisor reads on for ever when init has ended."""

    def by_library() -> int:
        with launch(small(name, "sleep", "60")) as sandbox, flooded(sandbox.init_pid):
            sandbox.signal(signal.SIGUSR1)
            return sandbox.wait().status  # of init, whose word may find no room

    def by_command() -> int:
        words = ("run", "--name", name, "--", "sh", "-c", "echo ready; exec sleep 60")
        with subprocess.Popen([sys.executable, "-m", "nstool.cli.main", *words], cwd=REPOSITORY, stdout=-1) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"ready\n"
            with flooded(rundir.find(name).init_pid):
                run.send_signal(signal.SIGUSR1)
                return run.wait(SECONDS)

    assert in_child(by_library) == 128 + signal.SIGUSR1
    assert in_child(by_command) == 128 + signal.SIGUSR1


@pytest.mark.needs("root")
def test_a_subreaper_is_not_waited_for_by_its_own_sandbox(in_child: InChild, name: str) -> None:
    """The monitor of an exec is killed, so its command comes to the caller, and init ends only when it is reaped."""

    def act() -> tuple[int | None, int]:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        bystander = os.fork()  # a dead child of the caller's own, which it waits for itself
        if bystander == 0:
            os._exit(3)
        sandbox = launch(small(name, "sleep", "60"))
        with sandbox.exec("sleep", "60") as joined:
            os.kill(joined._process.pid, signal.SIGKILL)
            sandbox.close()
        return sandbox.wait().signal, os.waitstatus_to_exitcode(os.waitpid(bystander, 0)[1])

    assert in_child(act, timeout=SECONDS) == (signal.SIGKILL, 3)
