"""Rows P2 and P4: an init, the next pid, a subreaper, an end with the parent."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from nstool import uapi
from nstool.errors import SpecError
from nstool.plan.steps import INIT, Plan, Step
from nstool.sandbox.launch import launch
from nstool.spec.model import Capabilities
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import plans, processes

pytestmark = pytest.mark.vm


def test_init_is_pid_1_and_the_command_its_child(act: Act) -> None:
    """Inside: pid 1 is nsexec, the command's parent. Outside: NSpid of both has two levels. proc_pid_status(5)."""

    def look() -> tuple[str, str, list[str], list[str]]:
        with boxes.box(hidepid="off") as box:
            inside = box.ask("cat /proc/1/comm; echo $PPID $$")
            levels = [boxes.status(pid)["NSpid"].split() for pid in (box.sandbox.init_pid, box.pid)]
            assert [level[0] for level in levels] == [str(box.sandbox.init_pid), str(box.pid)]
            return (*inside.splitlines(), levels[0][1:], levels[1][1:])  # type: ignore[return-value]

    comm, pids, first, second = act(look)
    assert comm != "sh"
    parent, own = pids.split()
    assert parent == "1"
    assert (first, second) == (["1"], [own])


def test_without_init_the_command_is_pid_1(act: Act) -> None:
    """init = false."""

    def look() -> tuple[str, list[str]]:
        with boxes.box(init=False) as box:
            return box.ask("echo $$"), boxes.status(box.pid)["NSpid"].split()[1:]

    assert act(look) == ("1\n", ["1"])


@pytest.mark.parametrize("number", [2, 77, 30000])
def test_the_next_pid_is_chosen(act: Act, number: int) -> None:
    """Inside it is the command's own; outside the last level of NSpid. clone(2), set_tid."""

    def look() -> tuple[str, str]:
        with boxes.box(next_pid=number) as box:
            return box.ask("echo $$").strip(), boxes.status(box.pid)["NSpid"].split()[-1]

    assert act(look) == (str(number), str(number))


@pytest.mark.parametrize(
    ("words", "place"), [({"next_pid": 1}, "next_pid"), ({"next_pid": 5, "init": False}, "next_pid")]
)
def test_a_pid_that_is_taken_is_refused(act: Act, words: dict[str, object], place: str) -> None:
    """Pid 1 is init's, and without init the command's."""

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", **words))
        return refused.value.place

    assert act(ask) == place


def test_a_subreaper_gets_the_orphans(act: Act) -> None:
    """The command, not init, is the new parent of a grandchild whose parent ended. PR_SET_CHILD_SUBREAPER(2const)."""
    script = "(busybox sleep 100 & echo $! > /tmp/pid); p=$(cat /tmp/pid); grep PPid /proc/$p/status; echo $$; kill $p"

    def look(subreaper: bool) -> list[str]:
        with boxes.box(subreaper=subreaper) as box:
            parent, own = box.ask(script).splitlines()[:2]
            return [parent.split()[1], own]

    parent, own = act(look, True)
    assert parent == own
    assert act(look, False)[0] == "1"


DIE = """
import sys
from nstool.sandbox.launch import launch
from nstool.spec.model import Limits, Spec
spec = Spec(command=("busybox", "sleep", "1000"), limits=Limits(memory=0, pids=0, cpu=0), name=sys.argv[1])
sandbox = launch(spec)
print(sandbox.init_pid, sandbox.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.orphans
def test_it_dies_with_its_parent(act: Act, name: str) -> None:
    """The launcher is killed: init and command end, and the next nstool command undoes the rest."""
    import subprocess
    import sys

    from nstool.sandbox import journal
    from tests.support.probes import REPOSITORY

    def kill() -> bool:
        words = [sys.executable, "-c", DIE, name]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as launcher:
            assert launcher.stdout is not None
            pids = [int(word) for word in launcher.stdout.readline().split()]
            pidfds = [os.pidfd_open(pid) for pid in pids]
            launcher.kill()
            launcher.wait()
        poll = select.poll()
        ended = 0
        for pidfd in pidfds:
            poll.register(pidfd, select.POLLIN)
            ended += bool(poll.poll(60000))
            poll.unregister(pidfd)
            os.close(pidfd)
        journal.cleanup()
        return ended == 2

    assert act(kill)


@pytest.mark.orphans
def test_pdeathsig_is_set_on_the_command_itself(act: Act) -> None:
    """Also without a pid namespace, where no init takes everything down; then it is the monitor's end that counts."""
    words = {"namespaces": boxes.shared("pid"), "proc": "none"}

    def look() -> bool:
        with boxes.box(**words) as box:
            pidfd = os.pidfd_open(box.pid)
            try:
                os.kill(box.sandbox.init_pid, signal.SIGKILL)
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                return bool(poll.poll(60000))
            finally:
                os.close(pidfd)

    assert act(look)


def test_the_pid_namespace_shows_no_other_process(act: Act) -> None:
    """/proc inside has the sandbox's processes only, the host's has them all."""

    def look() -> tuple[str, bool]:
        with boxes.box(hidepid="off", user="0:0") as box:
            return box.ask("cd /proc; ls -d [0-9]* | wc -l"), Path(f"/proc/{box.pid}").exists()

    count, outside = act(look)
    assert int(count) <= 5
    assert outside


@pytest.mark.needs("userns")
def test_init_is_closed_before_the_command_begins(act: Act) -> None:
    """However long init takes to give up its rights, a command that could trace it finds it without them."""

    def slow(plan: Plan) -> Plan:
        at = next(n for n, s in enumerate(plan.steps) if s.who == INIT and s.call == "clone3") + 1
        nothing = Step(INIT, "prctl", (uapi.PR_SET_DUMPABLE, 0, 0, 0, 0), "a test")
        return plan.replace(steps=(*plan.steps[:at], *(nothing,) * 2000, *plan.steps[at:]))

    def look() -> boxes.Ran:
        with plans.changed(slow):
            own = Capabilities(*[("sys_ptrace",)] * 5)
            return boxes.run("cat", "/proc/1/status", capabilities=own, hidepid="off")

    ran = act(look)
    found = dict(line.split(":", 1) for line in ran.lines if ":" in line)
    keep = f"{1 << uapi.CAPABILITIES['kill']:016x}"
    assert (found["CapPrm"].strip(), found["CapBnd"].strip(), found["NoNewPrivs"].strip()) == (keep, "0" * 16, "1"), ran
    assert found["Seccomp"].strip() == "2"


@pytest.mark.needs("userns")
def test_init_has_no_directory_open_when_the_command_begins(act: Act) -> None:
    """Who may trace it would get out by one. What is open are the engine's own fds, and the streams for a moment."""
    script = "for fd in /proc/1/fd/*; do echo $fd; test -d $fd/ && echo directory $fd; done; true"

    def look() -> boxes.Ran:
        own = Capabilities(*[("sys_ptrace",)] * 5)
        return boxes.run("sh", "-c", script, capabilities=own, hidepid="off", user="0:0")

    ran = act(look)
    assert "/proc/1/fd/0" in ran.lines, ran
    assert "directory" not in ran.out


# ------------------------------------------------- P2 as an ordinary user; as root: tests/kernel/test_launch.py


def test_init_of_a_user_reaps_orphans(as_user: Act) -> None:
    """A grandchild whose parent has ended becomes init's, and leaves no zombie."""

    def look() -> str:
        with boxes.box(hidepid="off", user="0:0") as box:
            box.ask("(true & true & true &) ; (busybox sleep 0.01 &)")
            box.ask("busybox sleep 0.3")
            zombies = "z=$(grep -l '^State:.Z' /proc/[0-9]*/status) || break"
            return box.ask(f'for n in $(seq 100); do {zombies}; busybox sleep 0.1; done; printf "$z"')

    assert as_user(look) == ""


def test_all_of_a_user_ends_with_the_command(as_user: Act) -> None:
    """What the command left running is killed when it ends: nothing of the namespace is left outside."""

    def look() -> list[int]:
        with boxes.box() as box:
            box.ask("busybox sleep 1000 & busybox sleep 1000 & busybox setsid busybox sleep 1000 &")
            inside = [process.pid for process in processes.descendants(box.sandbox.init_pid)]
            assert len(inside) >= 4
        return [pid for pid in inside if os.path.exists(f"/proc/{pid}")]

    assert as_user(look) == []


@pytest.mark.parametrize(
    ("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("true", 0)]
)
def test_how_the_command_of_a_user_ended(as_user: Act, script: str, status: int) -> None:
    """The exit status as a shell has it."""
    assert as_user(boxes.nstool_run, "--", "sh", "-c", script).status == status


def test_signals_of_a_user_are_forwarded(as_user: Act) -> None:
    """The library's signal reaches the command, which handles it."""

    def send() -> int:
        reader, writer = os.pipe()
        script = "trap 'exit 42' USR1; echo ready; while :; do busybox sleep 0.01; done"
        with launch(boxes.spec("/bin/sh", "-c", script), stdout=writer) as sandbox:
            os.close(writer)
            os.read(reader, 16)
            os.close(reader)
            sandbox.signal(signal.SIGUSR1)
            return sandbox.wait(10).status

    assert as_user(send) == 42
