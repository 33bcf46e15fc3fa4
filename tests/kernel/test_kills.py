"""Whoever is killed, and whenever: nothing is left that the next command does not undo, and who survives says so."""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nstool.cli import main as cli
from nstool.cli import run as _run  # noqa: F401  imported before the forks
from nstool.plan.steps import CHILD, LAUNCHER, PAYLOAD, UNDO, Plan
from nstool.sandbox import engine, journal, rundir
from nstool.sandbox.launch import preview
from tests.support import kernel, leaks, plans, processes
from tests.support.probes import REPOSITORY
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
SECONDS = 60.0  # only what hangs takes as long, in an emulated machine too
CANNOT = 125


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """The image of init is made once a process, and stays."""
    engine.image()


class Launcher(NamedTuple):
    """A forked ``nstool run`` that blocks somewhere. output: its standard error."""

    pid: int
    output: int
    fifo: str

    def sandbox(self) -> list[processes.Process]:
        """The processes of the sandbox: init first, then the payload."""
        return processes.descendants(self.pid)

    def release(self) -> None:
        """Let it go on, if it is blocked by the FIFO."""
        os.close(os.open(self.fifo, os.O_RDONLY))  # waits until it gets there

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit status as a shell has it, and what it said."""
        text = b""
        while block := read_in_time(self.output):
            text += block
        os.close(self.output)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return (status if status >= 0 else 128 - status), text.decode()


def read_in_time(fd: int) -> bytes:
    """Return what can be read, b"" at the end of file. Fails after SECONDS."""
    assert select.select([fd], [], [], SECONDS)[0], "nothing was said in time"
    return os.read(fd, 4096)


def start(spec_words: tuple[str, ...], number: int, fifo: str) -> Launcher:
    """Fork a ``nstool run`` that blocks before the step with this number, and wait until it does."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            os.dup2(writer, 2)
            os.close(writer)
            with plans.blocking(number, fifo), open(2, "w", closefd=False) as sys.stderr:  # pytest's own is elsewhere
                status = cli.run(["run", "--terminal", "never", *spec_words])
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            status = 99
        os._exit(status)
    os.close(writer)
    seen = read_in_time(reader)
    assert seen == b"here\n", seen
    return Launcher(pid, reader, fifo)


def wait_dead(pidfds: list[int]) -> None:
    """Wait until all these processes have ended."""
    deadline = time.monotonic() + SECONDS
    for pidfd in pidfds:
        assert select.select([pidfd], [], [], max(0, deadline - time.monotonic()))[0], "a process did not end"


@contextmanager
def held(found: list[processes.Process]) -> Iterator[list[int]]:
    """Pidfds of these processes."""
    pidfds = [os.pidfd_open(process.pid) for process in found]
    try:
        yield pidfds
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def plan_and_check(name: str, words: tuple[str, ...], place: Workplace) -> tuple[Plan, leaks.LeakCheck]:
    """The plan of these words, and a check of all that is there before it is run."""
    from nstool.cli import options

    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    spec, *_ = options.parse(["--terminal", "never", *words], {})
    return preview(spec), leaks.LeakCheck(place)


def words_of(name: str, *more: str) -> tuple[str, ...]:
    return ("--name", name, "--proc-subset", "pid", *more, "--", "true")


Judge = Callable[[Launcher, str, leaks.LeakCheck], str]


@contextmanager
def anybodys(fifo: str) -> Iterator[None]:
    """A FIFO that the child can open, which is not root."""
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    try:
        yield
    finally:
        os.unlink(fifo)


def at_each_step(
    place: Workplace, name: str, fifo: str, words: tuple[str, ...], wanted: Callable[[Plan, int], bool], judge: Judge
) -> list[str]:
    """Block before each step that is wanted, let ``judge`` kill and look. Returns what was wrong."""
    plan, check = plan_and_check(name, words, place)
    wrong = []
    with anybodys(fifo):
        for number, step in enumerate(plan.steps):
            if step.who != UNDO and wanted(plan, number):
                where = f"before step {number + 1} ({step.who}) {step.call}"
                launcher = start(words, number, fifo)
                said = judge(launcher, step.who, check)
                if said:
                    wrong.append(f"{where}: {said}")
                left = check.wait()
                if left:
                    wrong.append(f"{where} left:\n{leaks.report(left)}")
                    break
    return wrong


def kill_launcher(launcher: Launcher, who: str, check: leaks.LeakCheck) -> str:
    """Kill the launcher: its sandbox ends by itself, and cleaning up undoes the rest."""
    with held(launcher.sandbox()) as pidfds:
        os.kill(launcher.pid, signal.SIGKILL)
        if who == CHILD:
            launcher.release()
        wait_dead(pidfds)
    status, text = launcher.end()
    plans.reap()
    journal.cleanup()
    return "" if (status, text) == (137, "") else f"status {status}, {text}"


def kill_init(launcher: Launcher, who: str, check: leaks.LeakCheck) -> str:
    """Kill init: the launcher undoes all and says it."""
    found = launcher.sandbox()
    os.kill(found[0].pid, signal.SIGKILL)
    if who == LAUNCHER:
        launcher.release()
    status, text = launcher.end()
    plans.reap()
    if status == CANNOT and "init was killed by signal 9 before the command ran" in text:
        return ""
    return f"status {status}, {text}"


def kill_payload(launcher: Launcher, who: str, check: leaks.LeakCheck) -> str:
    """Kill the payload before it is the command: that is how the command ended."""
    os.kill(launcher.sandbox()[1].pid, signal.SIGKILL)
    status, text = launcher.end()
    return "" if (status, text) == (137, "") else f"status {status}, {text}"


def cloned(plan: Plan, number: int) -> bool:
    """Whether init exists before this step."""
    return number > plans.index(plan, LAUNCHER, "clone3")


@pytest.mark.needs("root")
@pytest.mark.orphans
@pytest.mark.xdist_group("kills-1")
def test_launcher_killed_at_every_step(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The sandbox ends at once, and ``nstool cleanup`` undoes cgroups, leases and the run directory."""
    fifo = str(workplace.own / "fifo")
    every = lambda plan, number: True  # noqa: E731
    assert in_child(at_each_step, workplace, name, fifo, words_of(name), every, kill_launcher, timeout=300) == []


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.orphans
@pytest.mark.xdist_group("kills-2")
def test_launcher_with_a_network_killed(in_child: InChild, workplace: Workplace, name: str) -> None:
    """Also links, firewall rules and published ports, before and after each of the steps that make them."""

    def around_external(plan: Plan, number: int) -> bool:
        return any(step.call == "external" for step in plan.steps[max(0, number - 1) : number + 1])

    fifo = str(workplace.own / "fifo")
    words = words_of(name, "--net", "veth", "--publish", f"{plans.free_port()}:80")
    assert in_child(at_each_step, workplace, name, fifo, words, around_external, kill_launcher, timeout=300) == []


@pytest.mark.needs("root")
@pytest.mark.orphans
@pytest.mark.xdist_group("kills-2")
def test_init_killed_at_every_step(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The launcher says so, undoes all, and ends with status 125: there was no command yet."""

    def before_command(plan: Plan, number: int) -> bool:
        return cloned(plan, number) and number <= plans.index(plan, PAYLOAD, "execve")

    fifo = str(workplace.own / "fifo")
    assert in_child(at_each_step, workplace, name, fifo, words_of(name), before_command, kill_init, timeout=300) == []


@pytest.mark.needs("root")
@pytest.mark.orphans
@pytest.mark.xdist_group("kills-1")
def test_payload_killed_at_every_step(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The command was killed, so the status is 137, and nothing is left."""

    def payloads(plan: Plan, number: int) -> bool:
        return plan.steps[number].who == PAYLOAD

    fifo = str(workplace.own / "fifo")
    assert in_child(at_each_step, workplace, name, fifo, words_of(name), payloads, kill_payload, timeout=300) == []


# ---- once it runs, and from outside ----


NSTOOL = [sys.executable, "-m", "nstool.cli.main"]
SLEEP = ("--", "sleep", "1000")


def nstool(*words: str, **options: Any) -> subprocess.Popen[str]:
    """Start nstool; its output is piped."""
    pipe = subprocess.PIPE
    return subprocess.Popen([*NSTOOL, *words], cwd=REPOSITORY, text=True, stdout=pipe, stderr=pipe, **options)


def run_sleeping(name: str, *words: str) -> subprocess.Popen[str]:
    """Start ``nstool run`` with a command that says that it runs and then sleeps; the launcher knows it too."""
    launcher = nstool("run", "--name", name, *words, "--", "sh", "-c", "echo runs; exec sleep 1000")
    assert launcher.stdout is not None
    assert read_in_time(launcher.stdout.fileno()) == b"runs\n"
    deadline = time.monotonic() + SECONDS
    while not Path(f"/proc/{launcher.pid}/cmdline").read_bytes().startswith(b"nsexec:supervise"):
        assert time.monotonic() < deadline
        os.sched_yield()
    return launcher


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the end: exit status as a shell has it, and what it said on standard error."""
    _, text = process.communicate(timeout=SECONDS)
    status = process.returncode
    return (status if status >= 0 else 128 - status), text


@pytest.mark.needs("root")
@pytest.mark.orphans
@pytest.mark.parametrize(("victim", "said"), [(0, "nstool: the sandbox's init was killed from outside\n"), (1, "")])
def test_killed_while_it_runs(in_child: InChild, workplace: Workplace, name: str, victim: int, said: str) -> None:
    """Init or the command is killed: the status is 137, and of init it is said."""

    def act() -> tuple[int, str]:
        launcher = run_sleeping(name)
        os.kill(processes.descendants(launcher.pid)[victim].pid, signal.SIGKILL)
        return finished(launcher)

    assert in_child(plans.left_by, workplace, act) == ((137, said), "")


def kill_running(name: str, *words: str) -> None:
    """Start a sandbox and kill its launcher; its processes end by themselves."""
    launcher = run_sleeping(name, *words)
    with held(processes.descendants(launcher.pid)) as pidfds:
        assert len(pidfds) >= 2
        launcher.kill()
        wait_dead(pidfds)
    assert finished(launcher) == (137, "")


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.orphans
def test_cleanup_undoes_what_a_killed_launcher_left(in_child: InChild, workplace: Workplace, name: str) -> None:
    """``nstool cleanup`` says what it has undone; a second one has nothing to do."""

    def act() -> tuple[str, str]:
        kill_running(name, "--net", "veth", "--publish", f"{plans.free_port()}:80")
        first, second = nstool("cleanup").communicate()[0], nstool("cleanup").communicate()[0]
        return first, second

    (first, second), left = in_child(plans.left_by, workplace, act)
    assert first.startswith(f"{name}: ")
    assert "cgroup" in first
    assert "link" in first
    assert plans.own_lines(name, second) == "nothing to clean up"
    assert left == ""


@pytest.mark.needs("root")
@pytest.mark.orphans
def test_next_run_undoes_what_a_killed_launcher_left(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A plain ``nstool run`` cleans up first, whatever the name of its own sandbox."""

    def act() -> tuple[int, str]:
        kill_running(name)
        return finished(nstool("run", "--name", f"{name}b", "--", "true"))

    assert in_child(plans.left_by, workplace, act) == ((0, ""), "")


@pytest.mark.needs("root")
@pytest.mark.orphans
def test_parent_of_the_launcher_killed(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The launcher does not depend on who started it: the sandbox runs on, and ends when it is told to."""
    script = 'exec 3<&0; "$@" <&3 & echo $!; wait'  # a shell gives its background jobs /dev/null

    def act() -> bytes:
        command = ("sh", "-c", "echo runs; read line; echo $line")
        words = ["sh", "-c", script, "sh", *NSTOOL, "run", "--name", name, "--", *command]
        reader, writer = os.pipe()
        shell = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stdin=reader)
        assert shell.stdout is not None
        out = shell.stdout.fileno()
        said = b""
        while said.count(b"\n") < 2:
            said += read_in_time(out)
        number, runs = said.splitlines()
        launcher = int(number)
        assert runs == b"runs"
        shell.kill()
        shell.wait()
        os.write(writer, b"go on\n")
        said = read_in_time(out)
        os.waitpid(launcher, 0)
        os.close(reader)
        os.close(writer)
        shell.stdout.close()
        return said

    assert in_child(plans.left_by, workplace, act) == (b"go on\n", "")


@pytest.mark.needs("root")
@pytest.mark.orphans
def test_launcher_stopped(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A launcher that is stopped is alive: nobody cleans up after it, and it finds the end when it goes on."""

    def act() -> tuple[str, tuple[int, str]]:
        launcher = run_sleeping(name)
        init, payload = processes.descendants(launcher.pid)
        launcher.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, launcher.pid, os.WSTOPPED)
        cleaned = nstool("cleanup").communicate()[0]
        assert processes.read(payload.pid) is not None
        with held([init]) as pidfds:
            os.kill(payload.pid, signal.SIGTERM)
            wait_dead(pidfds)
        launcher.send_signal(signal.SIGCONT)
        return cleaned, finished(launcher)

    (cleaned, ended), left = in_child(plans.left_by, workplace, act)
    assert plans.own_lines(name, cleaned) == "nothing to clean up"
    assert (ended, left) == ((143, ""), "")


@pytest.mark.needs("root")
@pytest.mark.orphans
def test_two_cleanups_at_once(in_child: InChild, workplace: Workplace, name: str) -> None:
    """Each thing is undone by one of them, and neither stumbles over the other."""

    def act() -> list[tuple[int, str]]:
        for letter in "abc":
            kill_running(name + letter)
        return [finished(cleaning) for cleaning in [nstool("cleanup"), nstool("cleanup"), nstool("cleanup")]]

    assert in_child(plans.left_by, workplace, act) == ([(0, "")] * 3, "")


@pytest.mark.needs("root")
@pytest.mark.orphans
def test_cleanup_while_a_sandbox_of_the_same_name_starts(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The new sandbox gets the dead one's name, and is not cleaned up with it."""

    def act() -> list[tuple[int, str]]:
        ended = []
        for _ in range(4):
            kill_running(name)
            started = [nstool("cleanup"), nstool("run", "--name", name, "--", "true"), nstool("cleanup")]
            ended += [finished(process) for process in started]
        return ended

    assert in_child(plans.left_by, workplace, act, timeout=300) == ([(0, "")] * 12, "")


# ---- somebody removes the run directory by hand ----


class Removed(NamedTuple):
    """What is removed while a sandbox runs: of the run directory by its glob patterns; the shared state too."""

    patterns: tuple[str, ...]
    shared: bool = False


REMOVED = {
    "its entry": Removed(("sandboxes/*",)),
    "the run directory": Removed(("*",)),
    "everything": Removed(("*",), shared=True),
}
SHARED = Path("/run/nstool")


def own_host() -> None:
    """Be on a host of one's own: network and /run are this process's. The run directory is elsewhere."""
    kernel.unshare(kernel.CLONE_NEWNET | kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/run", "tmpfs")
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path(f"/proc/sys/net/{switch}").write_text("0")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def on_own_host(place: Workplace, act: Callable[[], Any]) -> tuple[Any, str]:
    """Do something on a host of its own; what it returned, and what it left behind."""
    own_host()
    return plans.left_by(place, act)


def network_traces() -> tuple[str, ...]:
    """What a sandbox with a link could leave on the host."""
    words = ("ip -o link", "nft list ruleset", "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding")
    shown = [subprocess.run(word.split(), check=True, capture_output=True, text=True).stdout for word in words]
    return (*shown, " ".join(map(str, sorted(SHARED.glob("network-*")))))


def remove(run: Path, removed: Removed) -> None:
    for top, patterns in ((run, removed.patterns), (SHARED, ("network-*",) if removed.shared else ())):
        for pattern in patterns:
            for path in top.glob(pattern):
                shutil.rmtree(path)


NET = {mode: ("--net", mode, "--memory", "64M") for mode in ("veth", "bridge")}


@pytest.mark.needs("root", "veth", "bridge", "nft")
@pytest.mark.orphans
@pytest.mark.parametrize("mode", NET)
@pytest.mark.parametrize("removed", REMOVED)
def test_end_of_a_sandbox_whose_run_directory_was_removed(
    in_child: InChild, workplace: Workplace, name: str, removed: str, mode: str
) -> None:
    """Its launcher undoes it all the same; another that runs meanwhile is as it was."""

    def act() -> tuple[int, str, str]:
        before = network_traces()
        port = str(plans.free_port())
        launcher = run_sleeping(name, *NET[mode], "--publish", f"{port}:80")
        remove(workplace.run, REMOVED[removed])
        other = run_sleeping(f"{name}b", *NET[mode])
        os.kill(processes.descendants(launcher.pid)[1].pid, signal.SIGTERM)
        status, text = finished(launcher)
        rules = network_traces()[1]
        wrong = "" if rules.count("comment") >= 1 and f"{name} " not in rules and f"{name}b " in rules else rules
        os.kill(processes.descendants(other.pid)[1].pid, signal.SIGTERM)
        assert finished(other) == (143, "")
        if network_traces() != before:
            wrong += f"{network_traces()}"
        journal.cleanup()  # the leases
        return status, text, wrong

    assert in_child(on_own_host, workplace, act) == ((143, "", ""), "")


@pytest.mark.needs("root", "veth", "bridge", "nft")
@pytest.mark.orphans
@pytest.mark.parametrize("mode", NET)
@pytest.mark.parametrize("removed", REMOVED)
def test_launcher_killed_and_its_run_directory_removed(
    in_child: InChild, workplace: Workplace, name: str, removed: str, mode: str
) -> None:
    """``nstool cleanup`` undoes links, rules, forwarding, the bridge and cgroups by what the kernel has of them."""

    def act() -> tuple[str, str]:
        before = network_traces()
        kill_running(name, *NET[mode], "--publish", f"{plans.free_port()}:80")
        remove(workplace.run, REMOVED[removed])
        first, second = finished_cleanup(), finished_cleanup()
        assert network_traces() == before
        return first, second

    (first, second), left = in_child(on_own_host, workplace, act)
    assert name in first
    assert "cgroup" in first
    assert plans.own_lines(name, second) == "nothing to clean up"
    assert left == ""


def wait_running(name: str) -> rundir.Record:
    """Wait until the sandbox's command has begun to sleep; its record."""
    deadline = time.monotonic() + SECONDS
    while True:
        record = rundir.read(name)
        if record and [p.comm for p in processes.descendants(record.init_pid)] == ["sleep"]:
            return record
        assert time.monotonic() < deadline, record
        time.sleep(0.01)


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.orphans
@pytest.mark.parametrize("detach", [(), ("--detach",)], ids=["foreground", "detached"])
def test_sandbox_that_outlives_its_launcher(
    in_child: InChild, workplace: Workplace, name: str, detach: tuple[str, ...]
) -> None:
    """die_with_parent = false: no command ends it, all commands find it, and the first after its end undoes it."""

    def act() -> None:
        before = network_traces()
        words = ("run", *detach, "--no-die-with-parent", "--name", name, *NET["veth"], *SLEEP)
        with open(os.devnull, "w") as null:  # its streams are the command's, too
            launcher = subprocess.Popen([*NSTOOL, *words], cwd=REPOSITORY, stdout=null, stderr=null)
        record = wait_running(name)
        init = processes.read(record.init_pid)
        assert init is not None
        os.kill(record.pid, signal.SIGKILL)
        launcher.wait(SECONDS)
        for command in (("cleanup",), ("run", "--", "true"), ("exec", name, "--", "true")):
            assert finished(nstool(*command)) == (0, ""), command
        listed = nstool("ps")
        assert re.search(rf"{name} +running .* {record.pid} \(ended\) ", listed.communicate()[0])
        assert network_traces() != before
        with held([init]) as pidfds:
            assert finished(nstool("signal", name, "KILL")) == (0, "")
            wait_dead(pidfds)
        finished_cleanup()
        assert network_traces() == before

    assert in_child(on_own_host, workplace, act) == (None, "")


def finished_cleanup() -> str:
    """Run ``nstool cleanup``; what it printed."""
    done = nstool("cleanup")
    out, text = done.communicate(timeout=SECONDS)
    assert (done.returncode, text) == (0, "")
    return out


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.orphans
def test_detached_sandbox_outlives_its_run_directory(in_child: InChild, workplace: Workplace, name: str) -> None:
    """It keeps its rules, its link, its ids and network while it lives; a cleanup takes nothing of it."""

    def act() -> None:
        before = network_traces()
        launcher = nstool("run", "--detach", "--name", name, *NET["veth"], *SLEEP)
        assert finished(launcher) == (0, "")
        init = rundir.find(name).init_pid
        during = network_traces()
        (lease,) = (workplace.run / "nets").iterdir()
        for path in (workplace.run / "sandboxes").iterdir():
            shutil.rmtree(path)
        status, text = finished(nstool("cleanup"))
        assert (status, f"still run: {name} (init {init});" in text) == (0, True), text
        assert network_traces() == during
        assert lease.is_symlink()
        assert list((workplace.run / "ids").iterdir()) != []
        supervisor = processes.read(init)
        assert supervisor is not None
        with held([supervisor]) as pidfds:
            os.kill(supervisor.ppid, signal.SIGKILL)
            wait_dead(pidfds)
        finished_cleanup()
        assert network_traces() == before

    assert in_child(on_own_host, workplace, act) == (None, "")


# ---- all at once ----

PROCESSES, LAUNCHES = 4, 15
LATEST = 1.2  # seconds after the fork: a launch with a link takes half of that where all processors are busy


def make_tarball(path: str) -> str:
    """A root that has no more than busybox."""
    with tarfile.open(path, "w") as tar:
        tar.add(plans.BUSYBOX, "bin/busybox")
        for name in ("proc", "dev", "tmp", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return path


def fork_cli(*words: str, said: str = os.devnull) -> int:
    """Fork a nstool whose output is added to a file; its pid."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            file = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            for fd in (1, 2):
                os.dup2(file, fd)
            sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # pytest's own are elsewhere
            status = cli.run([*words])
        finally:
            os._exit(status)
    return pid


def launch_and_kill(name: str, first_port: int, tarball: str, said: str, seed: str) -> int:
    """Launch sandboxes one after the other and kill each launcher at some moment, also of the end; how many failed."""
    chance = random.Random(seed)
    failed = 0
    for number in range(LAUNCHES):
        words = ["--name", f"{name}n{number}", "--terminal", "never", "--memory", "64M", "--pids", "16"]
        words += ["--net", chance.choice(["veth", "bridge"]), "--publish", f"{first_port + number}:80"]
        if chance.random() < 0.5:
            words += ["--root", tarball]
        launcher = fork_cli("run", *words, "--", plans.BUSYBOX, "sleep", chance.choice(["0", "60"]), said=said)
        pidfd = os.pidfd_open(launcher)
        alone = True
        if not select.select([pidfd], [], [], chance.random() * LATEST)[0]:
            alone = chance.random() < 0.5
            if not alone:
                processes.kill_tree(launcher)  # init and the command with it: it may have seen that first
            os.kill(launcher, signal.SIGKILL)
        os.close(pidfd)
        status = os.waitpid(launcher, 0)[1]
        failed += alone and status not in (0, signal.SIGKILL)
    return failed


@pytest.mark.needs("root", "veth", "bridge", "nft")
@pytest.mark.orphans
def test_many_launchers_killed_at_any_moment(
    in_child: InChild, workplace: Workplace, name: str, tmp_path: Path
) -> None:
    """Links, bridge, ports, limits and unpacked roots of 60 launches, with cleanups at work meanwhile.

    One more cleanup undoes all; a sandbox that is never killed keeps what it has.
    """
    seed = os.urandom(4).hex()
    tarball = make_tarball(str(tmp_path / "root.tar"))
    said = tmp_path / "said"

    def act() -> tuple[str, bool]:
        before = network_traces()
        stays = run_sleeping(f"{name}s", *NET["bridge"], "--publish", "7000:80")
        workers = []
        for number in range(PROCESSES):
            pid = os.fork()
            if pid == 0:
                status = 99
                try:
                    port = 7001 + LAUNCHES * number
                    status = launch_and_kill(f"{name}p{number}", port, tarball, str(said), f"{seed}{number}")
                finally:
                    os._exit(status)
            workers.append(pid)
        cleanups = []
        while os.waitid(os.P_PID, workers[0], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            cleaning = fork_cli("cleanup"), fork_cli("cleanup")
            cleanups += [os.waitpid(pid, 0)[1] for pid in cleaning]
        failed = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]
        assert set(cleanups) == {0}, seed
        assert failed == [0] * PROCESSES, (seed, said.read_text())
        of_stays = [p.pid for p in processes.descendants(stays.pid)]
        with held([p for p in processes.descendants(os.getpid()) if p.pid not in (stays.pid, *of_stays)]) as pidfds:
            wait_dead(pidfds)
        plans.reap()
        finished_cleanup()
        rules = network_traces()[1]
        wrong = "" if name in rules.replace(f"{name}s", "") else "ok"
        os.kill(of_stays[1], signal.SIGTERM)
        assert finished(stays) == (143, "")
        assert network_traces() == before, seed
        return wrong, rules.count("comment") > 0

    assert in_child(on_own_host, workplace, act, timeout=300) == (("ok", True), ""), seed
