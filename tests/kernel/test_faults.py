"""Whatever step fails: the error names that step, and nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from errno import EIO
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, NstoolError
from nstool.network.external import HANDLERS
from nstool.plan.steps import INIT, UNDO, Plan, Step
from nstool.sandbox import engine, journal
from nstool.sandbox.compiled import compile_spec
from nstool.sandbox.launch import launch, preview
from nstool.spec.model import Net, Publish, Spec
from tests.support import leaks, plans
from tests.support.probes import REPOSITORY
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
MakeSpec = Callable[[str], Spec]


def every(step: Step) -> bool:
    return True


def fail_each(place: Workplace, name: str, make: MakeSpec, wanted: Callable[[Step], bool] = every) -> list[str]:
    """Launch as often as the plan has steps, each time with another step refused. Returns what was wrong."""
    spec = make(name)
    with launch(spec) as sandbox:
        sandbox.wait()
    return fail_steps(place, preview(spec), lambda: launch(spec).close(), wanted)


def fail_steps(
    place: Workplace, plan: Plan, act: Callable[[], object], wanted: Callable[[Step], bool] = every
) -> list[str]:
    """Run this plan by ``act``, each time with another of its steps refused. Returns what was wrong."""
    total = sum(step.who != UNDO for step in plan.steps)
    check = leaks.LeakCheck(place)
    wrong = []
    for number, planned in enumerate(plan.steps[:total]):
        if not wanted(planned):
            continue
        where = f"step {number + 1} of {total} ({planned.who})"
        _, errno = plans.refused_step(planned)
        try:
            with plans.refusing(number):
                act()
            wrong.append(f"{where} {planned.call}: no error")
        except KernelError as error:
            if (error.step, error.errno) != (where, errno):
                wrong.append(f"{where} {planned.call}: {error}")
        except Exception as error:
            wrong.append(f"{where} {planned.call}: {error!r}")
        if left := check.wait():
            wrong.append(f"{where} {planned.call} left:\n{leaks.report(left)}")
            check.tidy(left)
            check = leaks.LeakCheck(place)
    return wrong


@pytest.mark.needs("root")
@pytest.mark.xdist_group("faults-1")
def test_default(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The safe default, each of its steps refused once."""
    assert in_child(fail_each, workplace, name, plans.default, timeout=300) == []


@pytest.mark.needs("root", "veth", "nft", "ip", "cgroup_cpu")
@pytest.mark.parametrize(
    "who",
    [
        pytest.param(INIT, marks=pytest.mark.xdist_group("faults-0")),
        pytest.param("others", marks=pytest.mark.xdist_group("faults-1")),
    ],
)
def test_veth_and_limits(in_child: InChild, workplace: Workplace, name: str, who: str) -> None:
    """A sandbox with a link, firewall rules and limits: also the external steps. In two halves."""

    def wanted(step: Step) -> bool:
        return (step.who == INIT) == (who == INIT)

    assert in_child(fail_each, workplace, name, plans.veth, wanted, timeout=600) == []


@pytest.mark.needs("root", "busybox")
@pytest.mark.xdist_group("faults-2")
def test_tmpfs_root_and_terminal(in_child: InChild, workplace: Workplace, name: str) -> None:
    """An empty root, binds, a terminal of its own, and what few specs ask for."""
    assert in_child(fail_each, workplace, name, plans.tmpfs, timeout=300) == []


@pytest.mark.needs("root", "busybox", "overlay")
@pytest.mark.xdist_group("faults-2")
def test_overlay_root(in_child: InChild, workplace: Workplace, name: str, tmp_path: Path) -> None:
    """An overlay with layers and work directory."""

    def make(name: str) -> Spec:
        return plans.overlay(name, str(tmp_path))

    assert in_child(fail_each, workplace, name, make, timeout=300) == []


@pytest.mark.needs("root")
@pytest.mark.xdist_group("faults-2")
def test_without_init(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The command is PID 1 itself: nobody but it could report."""

    def make(name: str) -> Spec:
        return plans.default(name).replace(init=False, proc_subset="pid")

    assert in_child(fail_each, workplace, name, make, timeout=300) == []


@pytest.mark.needs("user", "userns", "newuidmap")
@pytest.mark.xdist_group("faults-1")
def test_ordinary_user(as_user: InChild, workplace: Workplace, name: str) -> None:
    """An ordinary user with the helpers that write maps of several ids."""
    assert as_user(fail_each, workplace, name, plans.subordinate, timeout=300) == []


@pytest.mark.needs("user", "userns")
@pytest.mark.xdist_group("faults-1")
def test_ordinary_user_with_one_id(as_user: InChild, workplace: Workplace, name: str) -> None:
    """An ordinary user who maps their own id alone."""
    assert as_user(fail_each, workplace, name, plans.single, timeout=300) == []


@pytest.mark.needs("root", "bridge", "nft")
@pytest.mark.xdist_group("faults-2")
def test_bridge(in_child: InChild, workplace: Workplace, name: str) -> None:
    """The steps that the launcher makes in Python for a sandbox on a bridge, each refused once."""

    def make(name: str) -> Spec:
        return plans.veth(name).replace(net=Net(mode="bridge", publish=(Publish(plans.free_port(), 80),)))

    def external(step: Step) -> bool:
        return step.call == "external"

    assert in_child(fail_each, workplace, name, make, external, timeout=300) == []


@pytest.mark.needs("root")
@pytest.mark.xdist_group("faults-2")
def test_exec_into_a_sandbox(in_child: InChild, workplace: Workplace, name: str) -> None:
    """A command that joins: whichever step fails, the sandbox stays as it was, and nothing else is there."""

    def act() -> list[str]:
        engine.image()
        with launch(plans.default(name).replace(command=("sleep", "60"))) as sandbox:
            with plans.changed(lambda plan: plan) as made:
                sandbox.exec("true").wait()
            wrong = fail_steps(workplace, made[-1], lambda: sandbox.exec("true").close())
            sandbox.signal(signal.SIGUSR1)
            assert sandbox.wait().signal == signal.SIGUSR1
        return wrong

    assert in_child(act, timeout=300) == []


@pytest.mark.needs("root", "veth", "nft")
@pytest.mark.xdist_group("faults-2")
def test_what_cannot_be_undone_is_kept_for_the_next_try(in_child: InChild, workplace: Workplace, name: str) -> None:
    """An undo step that fails stops no other; the error names it, and a cleanup undoes the rest."""

    def refuse(_context: object, _args: object) -> None:
        raise OSError(EIO, "not now")

    def act() -> tuple[str, list[str], str]:
        spec = plans.veth(name)
        launch(spec).close()
        check = leaks.LeakCheck(workplace)
        unpublish = HANDLERS["nft_unpublish"]
        pid = os.fork()
        if pid == 0:
            HANDLERS["nft_unpublish"] = refuse
            try:
                launch(spec).close()
            except NstoolError as error:
                Path(workplace.own, "said").write_text(str(error))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert HANDLERS["nft_unpublish"] is unpublish
        said = Path(workplace.own, "said").read_text()
        Path(workplace.own, "said").unlink()
        kinds = sorted(check.new())
        journal.cleanup()
        return said, kinds, leaks.report(check.wait())

    said, kinds, left = in_child(act, timeout=60)
    assert "1 not undone" in said
    assert "not now" in said
    assert "nstool cleanup" in said
    assert kinds == ["firewall", "run directory"]  # and neither link nor cgroup
    assert left == ""


# ---- another road: strace makes the system calls fail ----

# The command's own, or such that going on without them is right.
UNNEEDED = frozenset(
    (
        "getppid",
        "setfsuid",
        "close",
        "munmap",
        "rt_sigprocmask",
        "rt_sigaction",
        "exit_group",
        "getpid",
        "ppoll",
        "wait4",
    )
)
UNDOING = frozenset(("unlinkat",))
# The last of these are made when the command runs already: to have fds out of the way, and to report its end.
# recvfrom is refused to launcher and init at once, so that the one does not hear what the other says.
# By the second setresuid the launcher is root again: that is tried until it goes well.
LENIENT = frozenset(("setresuid", "fcntl", "close_range", "read", "sendto", "recvfrom"))


@pytest.mark.needs("root", "strace", "nsexec")
@pytest.mark.xdist_group("faults-1")
def test_every_kind_of_system_call_refused(in_child: InChild, workplace: Workplace, name: str, tmp_path: Path) -> None:
    """Each kind of call that a compiled plan makes, refused the first and the last time: said in words, all undone."""
    file = tmp_path / "plan"
    file.write_bytes(compile_spec(plans.default(name)))
    counts = calls_before_command(tmp_path / "trace", str(file))
    assert {"clone3", "mkdirat", "mount_setattr", "execveat", "pivot_root", "seccomp", "execve"} <= set(counts)

    def act() -> list[str]:
        check = leaks.LeakCheck(workplace)
        wrong = []
        for call, count in counts.items():
            for when in {1, count}:
                inject = f"--inject={call}:error=EPERM:when={when}"
                done = run_nsexec(str(file), "-f", "-qq", "-o", "/dev/null", inject)
                refused = done.returncode in (2, 125, 126, 127) and done.stderr.startswith("nsexec: ")
                if not refused and call not in LENIENT:
                    wrong.append(f"{call} {when}: status {done.returncode}, {done.stderr!r}")
                if left := check.wait():
                    wrong.append(f"{call} {when} left:\n{leaks.report(left)}")
                    return wrong
        return wrong

    wrong = in_child(act, timeout=300)
    assert not wrong, "\n".join(wrong)


@pytest.mark.needs("root", "strace", "nsexec")
def test_list_of_children_that_cannot_be_opened(
    in_child: InChild, workplace: Workplace, name: str, tmp_path: Path
) -> None:
    """Init, which could not end what the command leaves, does not run it: the step that made it a subreaper fails."""
    spec = plans.default(name).replace(command=("echo", "ran"), proc="bind")
    file = tmp_path / "plan"
    file.write_bytes(compile_spec(spec.replace(namespaces=spec.namespaces.replace(pid="host"))))
    trace = tmp_path / "trace"

    def act() -> subprocess.CompletedProcess[str]:
        inject = ("-P", "/proc/thread-self/children", "--inject=openat:error=EACCES")
        return run_nsexec(str(file), "-f", "-o", str(trace), *inject)

    done, left = in_child(plans.left_by, workplace, act)
    assert trace.read_text().count("(INJECTED)") == 1
    assert (done.returncode, done.stdout) == (125, "")
    assert re.search(r"^nsexec: step \d+ of \d+, prctl: EACCES;", done.stderr, re.MULTILINE)
    assert left == ""


def run_nsexec(file: str, *strace: str) -> subprocess.CompletedProcess[str]:
    """Run a compiled plan below strace."""
    words = ["strace", *strace, str(REPOSITORY / "nstool/nsexec"), file]
    return subprocess.run(words, capture_output=True, text=True, timeout=20)


def calls_before_command(prefix: Path, file: str) -> dict[str, int]:
    """Return each system call that launcher, init and payload make, with how often one of them makes it."""
    assert run_nsexec(file, "-ff", "-o", str(prefix)).returncode == 0
    counts: dict[str, int] = {}
    for path in prefix.parent.glob(prefix.name + ".*"):
        own: dict[str, int] = {}
        for line in path.read_text().splitlines():
            match = re.match(r"(\w+)\(", line)
            if match and match[1] not in UNNEEDED | UNDOING:
                own[match[1]] = own.get(match[1], 0) + 1
            if match and match[1] == "execve" and '["true"]' in line and line.endswith("= 0"):
                break  # from here on it is the command
        for call, count in own.items():
            counts[call] = max(counts.get(call, 0), count)
    return counts
