"""Plans that are changed on their way to the kernel, and plans kept for comparison. Alone here it imports nstool.

The engine gets its plan from ``nstool.plan.build.plan``; a test puts a function of its own in between,
so that all around the changed step is the real thing: lease, journal, C, undo.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from nstool import uapi
from nstool.network.external import HANDLERS
from nstool.plan import build, join
from nstool.plan.steps import INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step
from nstool.plan.template import Program
from nstool.sandbox import engine, journal
from nstool.spec.model import IdMap, Limits, Mount, Net, Publish, Root, Spec
from tests.support import kernel, leaks
from tests.support.workplace import TEST_NAME, Workplace

Change = Callable[[Plan], Plan]

NO_FD = 1 << 20
EBADF, ENOENT, ENOEXEC, EINVAL, EREMOTEIO = 9, 2, 8, 22, 121
BUSYBOX = "/bin/busybox"
NO_CGROUPS = Limits(memory=0, pids=0, cpu=0)

# ---- the sandboxes that are made step by step ----


def default(name: str) -> Spec:
    """The safe default, whole."""
    return Spec(command=("true",), name=name, terminal="never")


def veth(name: str, port: int = 0) -> Spec:
    """A link, a published port, NAT, limits of memory, tasks and cpu."""
    net = Net(mode="veth", publish=(Publish(port or free_port(), 80),))
    return default(name).replace(net=net, limits=Limits(cpu=0.5), proc_subset="pid")


def tmpfs(name: str) -> Spec:
    """An empty root with binds, a terminal of its own, limits of ipc, a chosen pid."""
    mounts = (Mount(BUSYBOX, BUSYBOX), Mount("/data", type="tmpfs"), Mount("/etc/hostname", "/etc/hostname"))
    return default(name).replace(
        command=(BUSYBOX, "true"),
        root=Root(type="tmpfs"),
        mounts=mounts,
        terminal="always",
        proc_subset="pid",
        next_pid=77,
        subreaper=True,
        mask_paths=("/etc/hostname",),
        readonly_paths=("/data",),
    )


def overlay(name: str, directory: str) -> Spec:
    """An overlay over a directory, which has no more than busybox; changes are thrown away."""
    place = os.path.join(directory, "bin")
    if not os.path.exists(place):
        os.chmod(directory, 0o755)  # who looks into the layer is nobody in particular there
        os.mkdir(place)
        shutil.copy(BUSYBOX, place)
    return default(name).replace(
        command=(BUSYBOX, "true"), root=Root(type="overlay", lower=(directory,), writable=True), proc_subset="pid"
    )


def subordinate(name: str) -> Spec:
    """The default as an ordinary user with newuidmap has it."""
    return default(name).replace(limits=NO_CGROUPS, proc_subset="pid")


def single(name: str) -> Spec:
    """The default as an ordinary user without newuidmap has it: one id."""
    return subordinate(name).replace(uid_map=(IdMap(1000, os.getuid(), 1),), gid_map=(IdMap(1000, os.getgid(), 1),))


def cleaned(name: str = "") -> tuple[journal.Cleaned, ...]:
    """Return what ``journal.cleanup`` undoes, but what another worker's killed nsexec has left, which has no journal.

    name: of the test's own sandboxes.
    """
    return tuple(one for one in journal.cleanup() if not TEST_NAME.search(one.name) or (name and name in one.name))


def own_lines(name: str, said: str) -> str:
    """Return what ``nstool cleanup`` has said, but for the lines of what another worker's killed nsexec has left."""
    lines = [line for line in said.splitlines() if name in line or not TEST_NAME.search(line)]
    return "nothing to clean up" if said and not lines else "\n".join(lines)


def free_port() -> int:
    """Return a TCP port that nobody listens on, if it can be one that the kernel gives nobody who asks for any."""
    import random
    import socket

    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10000, max(first, 20000))
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


# ---- changing a plan on its way ----


@contextlib.contextmanager
def changed(change: Change) -> Iterator[list[Plan]]:
    """While in it, every plan that is made is changed; yields the list of the changed plans."""
    made: list[Plan] = []

    def wrap(function: Callable[..., Plan]) -> Callable[..., Plan]:
        def planned(*args: Any, **kwargs: Any) -> Plan:
            made.append(change(function(*args, **kwargs)))
            return made[-1]

        return planned

    before = (build.plan, join.into_sandbox, join.into_namespaces)
    build.plan, join.into_sandbox, join.into_namespaces = (wrap(function) for function in before)
    try:
        yield made
    finally:
        build.plan, join.into_sandbox, join.into_namespaces = before


class Given(NamedTuple):
    """What the engine was given: the plan, and the fd of each name that the caller brings."""

    plan: Plan
    fds: dict[str, int]


@contextlib.contextmanager
def recorded(file: IO[bytes] | None = None) -> Iterator[list[Given]]:
    """While in it, all that the engine is given is kept in the list, and pickled into the file at once."""
    given: list[Given] = []
    start = engine.start

    def keep(program: Program, fds: Any, *args: Any, **kwargs: Any) -> engine.Process:
        given.append(Given(program.plan, dict(fds)))
        if file is not None:
            pickle.dump(tuple(given[-1]), file)
            file.flush()
        return start(program, fds, *args, **kwargs)

    engine.start = keep  # type: ignore[assignment]
    try:
        yield given
    finally:
        engine.start = start


def index(plan: Plan, who: str, call: str) -> int:
    """Return where the first such step is."""
    return next(i for i, step in enumerate(plan.steps) if (step.who, step.call) == (who, call))


def _replaced(plan: Plan, number: int, *steps: Step) -> Plan:
    return plan.replace(steps=(*plan.steps[:number], *steps, *plan.steps[number + 1 :]))


# ---- a step that the kernel refuses ----


def refused_step(step: Step) -> tuple[Step, int]:
    """Return a step of the same actor that the kernel refuses, and the errno."""
    if step.call == "external":
        return step.replace(args=("refuse", {})), EREMOTEIO
    if step.call == "clone3":  # a pid that no kernel has, clone(2), set_tid
        return step.replace(args=(*step.args[:2], 1 << 22, step.args[3])), EINVAL
    if step.call == "exec_init":
        return step, ENOEXEC  # the image is what is bad, see refusing()
    if step.call == "execve":
        return step.replace(args=(("/nowhere", "/not/there"), *step.args[1:])), ENOENT
    return step.replace(call="openat2", args=(NO_FD, "x", 0, 0, 0), ignore=0), EBADF


@contextlib.contextmanager
def refusing(number: int) -> Iterator[list[Plan]]:
    """While in it, the step with this index is refused, in every plan that is made."""

    def refuse(plan: Plan) -> Plan:
        step = plan.steps[number]
        if step.call == "exec_init":
            engine.image = lambda: bad_image
        return _replaced(plan, number, refused_step(step)[0])

    def handler(_context: object, _args: object) -> None:
        raise OSError(EREMOTEIO, os.strerror(EREMOTEIO))

    image = engine.image
    bad_image = os.memfd_create("bad")
    HANDLERS["refuse"] = handler
    try:
        with changed(refuse) as made:
            yield made
    finally:
        del HANDLERS["refuse"]
        engine.image = image
        os.close(bad_image)


# ---- a step that blocks ----


def block_before(plan: Plan, number: int, fifo: str) -> Plan:
    """Return the plan with steps before this one that write a line to standard error and then block.

    The launcher and the child block in the open of a FIFO, until somebody opens it for reading; init and
    the payload until the launcher ends.
    """
    who = plan.steps[number].who
    here = Step(who, "write", (Fd("stderr"), b"here\n"), "a test")
    steps: tuple[Step, ...]
    if who == LAUNCHER:
        steps = (Step(who, "external", ("block", {"fifo": fifo}), "a test"),)
    elif who in (INIT, PAYLOAD):
        steps = (here, Step(who, "wait", (), "a test"))
    else:
        steps = (here, Step(who, "write_file", (uapi.AT_FDCWD, fifo, b"", 0, 0), "a test"))
    return _replaced(plan, number, *steps, plan.steps[number])


def _block(_context: object, args: dict[str, Any]) -> None:
    os.write(2, b"here\n")
    os.close(os.open(args["fifo"], os.O_WRONLY))


@contextlib.contextmanager
def blocking(number: int, fifo: str) -> Iterator[list[Plan]]:
    """While in it, every plan that is made blocks before the step with this index."""
    HANDLERS["block"] = _block
    try:
        with changed(lambda plan: block_before(plan, number, fifo)) as made:
            yield made
    finally:
        del HANDLERS["block"]


# ---- what an act leaves behind, seen by a child of the test ----


def left_by(place: Workplace, act: Callable[[], Any]) -> tuple[Any, str]:
    """Do something as a child subreaper; what it returned, and what it left behind. prctl(2)."""
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    engine.image()
    check = leaks.LeakCheck(place)
    result = act()
    return result, leaks.report(check.wait(orphans=True))


def reap() -> None:
    """Wait for all children that are dead, orphans that came to this process among them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:  # none is left
        return


# ---- a command whose plans are kept ----


def main() -> None:
    """``python -m tests.support.plans FILE USER WORD...``: nstool with these words; what its engine got goes to FILE.

    USER: an ordinary user to become first, pickled, in hex; or "-".
    """
    from nstool.cli.main import run

    path, user, *words = sys.argv[1:]
    with open(path, "wb") as file:
        if user != "-":
            pickle.loads(bytes.fromhex(user)).become()
        with recorded(file):  # a launcher in the foreground does not come back from here
            sys.exit(run(words))


if __name__ == "__main__":
    main()
