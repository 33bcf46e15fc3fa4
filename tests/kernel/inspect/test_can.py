"""Who can act on whom: what nstool says before is what the kernel does. kill(2), ptrace(2), setns(2), …

Each prediction is compared with a real attempt, errno and all, of the process in question: no rule is trusted here.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import SpecError
from nstool.inspect import can
from nstool.inspect.proc import ProcessGone
from nstool.security import acts, seccomp
from nstool.security.verdict import Task, Verdict
from tests.support import actors, kernel
from tests.support.actors import NEWPID, NEWUSER, NEWUTS, ONE, OTHER, USER, Comparison, Try, World
from tests.support.held import held

InChild = Callable[..., Any]
NSTOOL = str(Path(sys.prefix) / "bin" / "nstool")
SECONDS = 600.0  # a virtual machine on a busy host is slow

pytestmark = pytest.mark.needs("root", "userns", "native")


def read(world: World) -> tuple[can.Reader, dict[str, Task]]:
    """What root reads of all actors."""
    reader = can.Reader()
    return reader, {name: reader.task(actor.pid) for name, actor in world.actors.items()}


def number_for(a: Task, b: Task) -> int:
    """The number that b has in a's pid namespace, by its NSpid; 0 if none."""
    there = a.pid_ns[0] in b.pid_ns if a.pid_ns and b.pid_ns else len(a.pids) <= len(b.pids)
    return b.pids[len(a.pids) - 1] if there else 0


def attempts(target: str, a: Task, b: Task, reader: can.Reader) -> list[Try]:
    """All that one process may try on another."""
    host = reader.host
    found: list[Try] = []
    if number := number_for(a, b):
        found = [
            (f"signal 0 to {target}", acts.signal(a, b, host), (actors.try_signal, number, 0)),
            (
                f"SIGCONT to {target}",
                acts.signal(a, b, host, signal.SIGCONT),
                (actors.try_signal, number, signal.SIGCONT),
            ),
            (f"prlimit {target}", acts.prlimit(a, b, host), (actors.try_prlimit, number)),
            (f"renice {target}", acts.renice(a, b, host), (actors.try_renice, number)),
            (f"ptrace {target}", acts.ptrace(a, b, host), (actors.try_ptrace, number)),
        ]
    if b.ended or b.kernel:
        return found  # their files are there, and empty
    for file in ("environ", "maps", "smaps_rollup", "mem"):
        verdict = acts.read(a, b, host, file, reader.owner(b.pid, file))
        found.append((f"read {file} of {target}", verdict, (actors.try_read, f"/proc/{b.pid}/{file}")))
    for link in ("ns/net", "root", "fd/0"):
        own = ("fd", reader.owner(b.pid, "fd")) if link == "fd/0" else ()
        verdict = acts.read(a, b, host, *own)
        found.append((f"readlink {link} of {target}", verdict, (actors.try_link, f"/proc/{b.pid}/{link}")))
    return found


def as_read_here(pids: dict[str, int]) -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """What the calling process would say of all pairs, as far as it may see: (what, answer, errno)."""
    reader = can.Reader()
    tasks = {name: reader.task(pid) for name, pid in pids.items()}
    return {
        (one, other): [(what, v.answer, v.errno) for what, v, _ in attempts(other, a, b, reader)]
        for one, a in tasks.items()
        for other, b in list(tasks.items())[::2]
    }


def act_on_processes() -> Any:
    """All actors on all actors; and what two readers who may not see everything would have said."""
    compared = Comparison()
    with World() as world:
        actors.people(world)
        actors.namespaces(world)
        reader, tasks = read(world)
        truth: dict[tuple[str, str, str], int] = {}
        for name, actor in world.actors.items():
            tries = [(other, row) for other, b in tasks.items() for row in attempts(other, tasks[name], b, reader)]
            answers = compared.ask(actor, [row for _, row in tries])
            truth.update({(name, other, row[0]): number for (other, row), number in zip(tries, answers)})
        pids = {name: actor.pid for name, actor in world.actors.items()}
        others = {name: world.actors[name].ask(as_read_here, pids) for name in ("user", "in root's, 0")}
        others["root of Linux 6.12"] = world.actors["root"].ask(without_pidfd_info, pids)
    return compared.result(), {name: compare_seen(seen, truth) for name, seen in others.items()}


def without_pidfd_info(pids: dict[str, int]) -> Any:
    """As as_read_here, where no ioctl tells whether a process is dumpable."""
    can.is_dumpable = lambda pid, tgid: None  # of this actor, which ends with the test
    return as_read_here(pids)


def compare_seen(
    seen: dict[tuple[str, str], list[tuple[str, str, str]]], truth: dict[tuple[str, str, str], int]
) -> tuple[list[str], int, int]:
    """What a reader said wrongly, how often it knew, and how often it did not."""
    wrong, known, unknown = [], 0, 0
    for (one, other), rows in seen.items():
        for what, answer, errno in rows:
            if answer == "unknown" or (one, other, what) not in truth:
                unknown += 1
                continue
            known += 1
            number = truth[one, other, what]
            if (answer, errno) == ("no", "") and what.startswith("SIGCONT"):  # refused or dropped, one of the two
                continue
            if (answer == "yes" or errno.startswith("0")) != (number == 0):
                wrong.append(f"{one} -> {other}: {what} {answer} {errno}, the kernel said {number}")
    return wrong, known, unknown


def test_what_processes_may_do_to_one_another(in_child: InChild) -> None:
    """Signals, ptrace, /proc, limits and priorities, for every pair of over fifty kinds of processes.

    What an ordinary user says, or root in a user namespace, or root without PIDFD_GET_INFO, is true as well.
    """
    (counts, wrong, unknown), others = in_child(act_on_processes, timeout=SECONDS)
    assert (wrong, unknown) == ([], [])
    assert min(counts.values()) > 0
    assert sum(counts.values()) > 20_000
    assert {name: wrong for name, (wrong, _, _) in others.items()} == {name: [] for name in others}
    assert all(known > least for (_, known, _), least in zip(others.values(), (10_000, 1_000, 14_000))), others


FLAGS = {"user": NEWUSER, "mnt": kernel.CLONE_NEWNS, "uts": NEWUTS, "ipc": actors.NEWIPC, "pid": NEWPID}
FLAGS |= {"cgroup": actors.NEWCGROUP, "net": kernel.CLONE_NEWNET, "time": 0x80}
SETS = [*((kind,) for kind in FLAGS), ("user", "net"), ("user", "mnt", "pid"), ("net", "uts"), ("mnt", "uts")]
SETS.append(tuple(FLAGS))


def enter_namespaces() -> Any:
    compared = Comparison()
    with World() as world:
        actors.people(world)
        actors.namespaces(world)
        reader, tasks = read(world)
        targets = [name for name in tasks if name.startswith(("in ", "all ", "pid "))]
        targets += ["root", "user", "user, undumpable"]
        fds = [os.pidfd_open(tasks[name].pid) for name in targets]
        masks = [sum(FLAGS[kind] for kind in kinds) for kinds in SETS]
        for name, actor in world.actors.items():
            for target, row in zip(targets, actor.ask(actors.try_setns, masks, fds=fds)):
                if target == name:  # it is a child of its that tries
                    continue
                for kinds, number in zip(SETS, row):
                    verdict = acts.setns(tasks[name], tasks[target], kinds, reader.host)
                    compared.add(f"setns {','.join(kinds)}: {name} -> {target}", verdict, number)
        for fd in fds:
            os.close(fd)
    return compared.result()


def test_entering_namespaces(in_child: InChild) -> None:
    """setns(2), each type alone and several at once, in every direction."""
    counts, wrong, unknown = in_child(enter_namespaces, timeout=SECONDS)
    assert (wrong, unknown) == ([], [])
    assert {f"setns {','.join(kinds)}: {answer}" for kinds in SETS for answer in ("yes", "no")} <= set(counts)


def enter_with_a_thread(user: bool) -> list[tuple[str, str]]:
    """In the process itself, which has two threads: a child would have one. user: both are an ordinary user's."""
    there, here = os.pipe()
    target = os.fork()
    if target == 0:
        kernel.unshare((0 if user else NEWUSER) | kernel.CLONE_NEWNS | NEWUTS | 0x80)
        if user:
            actors.become(USER)
            actors.dumpable(1)
        os.close(here)
        signal.pause()
    os.close(here)
    os.read(there, 1)  # its end: the target is where it shall be
    os.close(there)
    if user:
        actors.become(USER)
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    reader = can.Reader()
    a, b = reader.task(os.getpid()), reader.task(target)
    fd = os.pidfd_open(target)
    compared = Comparison()
    for kinds in (("user",), ("mnt",), ("time",), ("user", "mnt")):
        verdict = acts.setns(a, b, kinds, reader.host)
        mask = sum(FLAGS[kind] for kind in kinds)
        compared.add(
            f"setns {','.join(kinds)}", verdict, actors.refusal(partial(actors.call, actors.SYS_SETNS, fd, mask))
        )
    several = acts.setns(a, b, ("mnt", "uts"), reader.host).answer
    end.set()
    thread.join()
    os.close(fd)
    os.kill(target, signal.SIGKILL)
    os.waitpid(target, 0)
    counts = [(what, str(n)) for what, n in compared.counts.items()]
    return [("wrong", line) for line in compared.wrong] + counts + [("mnt,uts", several)]


def test_entering_namespaces_with_a_thread(in_child: InChild) -> None:
    """EINVAL and EUSERS for who shares with a thread what is to change; with mnt and another type kernels differ."""
    assert dict(in_child(enter_with_a_thread, user=False)) == {
        "setns user: no": "1",
        "setns mnt: no": "1",
        "setns time: no": "1",
        "setns user,mnt: no": "1",
        "mnt,uts": "unknown",
    }


def test_entering_namespaces_with_a_thread_and_no_right(in_child: InChild) -> None:
    """Where both refuse it is EPERM for mnt, whose threads are counted last, and not for the others."""
    found = dict(in_child(enter_with_a_thread, user=True))
    assert found == {f"setns {kinds}: no": "1" for kinds in ("user", "mnt", "time", "user,mnt")} | {"mnt,uts": "no"}


def unusual_targets() -> Any:
    compared = Comparison()
    with World() as world:
        actors.people(world)
        actors.namespaces(world)
        kernel.mount("tmpfs", "/mnt", "tmpfs", data="mode=0755")
        roots, boxes, mine = (
            program(f"/mnt/{uid}", uid, mode) for uid, mode in ((0, 0o711), (100000, 0o711), (USER, 0o311))
        )
        box = world.actors["in root's"]
        user, new = partial(actors.become, USER), partial(kernel.unshare, NEWUSER)
        in_box = actors.does(partial(actors.join, box.pid, NEWUSER), partial(actors.become, 1000))
        own, below = actors.does(user, new), ("0 1000 1", "0 1000 1")
        started = {
            "readable": (world.actor("1", user), "/bin/sleep"),
            "root's": (world.actor("2", user), roots),
            "root's, in user's": (world.actor("3", own, ONE), roots),
            "mine, in user's": (world.actor("4", own, ONE, partial(actors.capabilities, ())), mine),
            "box's, in box": (world.actor("5", in_box), boxes),
            "root's, in box": (world.actor("6", in_box), roots),
            "box's, below box": (world.actor("7", actors.does(in_box, new), below, mapper=box), boxes),
        }
        pids = {name: world.execute(actor, path, "1000") for name, (actor, path) in started.items()}
        pids["a thread"] = world.actor("with a thread").ask(actors.start_thread, USER)
        pids["zombie"] = zombie = os.fork()
        if zombie == 0:
            os.setresuid(USER, USER, USER)
            os._exit(0)
        os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
        traced = world.actor("traced", user)
        pids["traced"] = traced.pid
        world.actors["root"].ask(actors.seize, traced.pid)
        reader = can.Reader()
        tasks = {name: reader.task(pid) for name, pid in pids.items()}
        kernel_thread = next((t for t in map(reader.task, (2,)) if t.kernel), None)
        if kernel_thread:  # else /proc is of a pid namespace of its own
            tasks["kernel thread"] = kernel_thread
        for actor in world.actors.values():
            if actor is not traced:  # that a signal has stopped
                a = reader.task(actor.pid)
                tries = [row for name, b in tasks.items() if a.tgid != b.tgid for row in attempts(name, a, b, reader)]
                compared.ask(actor, tries)
        os.waitpid(zombie, 0)
    memory = {name: [userns.initial for userns in task.mm_user_ns] for name, task in tasks.items() if name in started}
    return compared.result(), memory


def program(path: str, owner: int, mode: int) -> str:
    """A program that its users may not read, unless they are its owner: it makes them undumpable. execve(2)."""
    shutil.copy("/bin/sleep", path)
    os.chown(path, owner, owner)
    os.chmod(path, mode)
    return path


def test_unusual_targets(in_child: InChild) -> None:
    """Who executes what it may not read, threads with ids of their own, a zombie, who is traced, a kernel thread.

    Memory belongs to a user namespace above when the program's owner has no id in the process's own: would_dump.
    """
    (_, wrong, unknown), memory = in_child(unusual_targets, timeout=SECONDS)
    assert (wrong, unknown) == ([], [])
    assert memory == {
        "readable": [],
        "root's": [True],
        "root's, in user's": [True],
        "mine, in user's": [False],
        "box's, in box": [False],
        "root's, in box": [True],
        "box's, below box": [False],
    }


def act_alone() -> Any:
    compared = Comparison()
    with World() as world:
        actors.people(world)
        actors.namespaces(world)
        net, start = partial(kernel.unshare, kernel.CLONE_NEWNET), partial(actors.port_start, 80)
        world.actor("user, own ports", actors.does(net, start, partial(actors.become, USER)))
        reader, tasks = read(world)
        for name, actor in world.actors.items():
            a = tasks[name]
            begin = reader.port_start(actor.pid)
            tries: list[Try] = [
                ("mount", acts.mount(a, reader.host), (actors.try_mount,)),
                ("sethostname", acts.sethostname(a, reader.host), (actors.try_sethostname,)),
            ]
            for port in (0, 79, 80, 1023, 1024):
                verdict = acts.bind_port(a, port, begin, reader.host)
                tries.append((f"bind {port}", verdict, (actors.try_bind, port)))
            compared.ask(actor, tries)
    return compared.result()


def test_what_processes_may_do_to_their_namespaces(in_child: InChild) -> None:
    """mount(2), sethostname(2), bind(2), where ip_unprivileged_port_start differs too."""
    counts, wrong, unknown = in_child(act_alone)
    assert (wrong, unknown) == ([], [])
    assert {"mount: yes", "mount: no", "bind 80: yes", "bind 80: no", "bind 0: yes"} <= set(counts)


def kill_groups() -> Any:
    compared = Comparison()
    with World() as world:
        actors.people(world)
        first = {}
        for group, makes in {
            "root's": (lambda: None, lambda: None),
            "mixed": (lambda: None, partial(actors.become, USER)),
            "user's": (partial(actors.become, USER), partial(actors.become, OTHER)),
        }.items():
            first[group] = world.actor(f"first of {group}", actors.does(partial(os.setpgid, 0, 0), makes[0]))
            join = partial(os.setpgid, 0, first[group].pid)
            world.actor(f"second of {group}", actors.does(join, makes[1]))
        actors.namespaces(world)
        reader, tasks = read(world)
        groups = {group: reader.group(leader.pid) for group, leader in first.items()}
        for name, actor in world.actors.items():
            tries: list[Try] = []
            for group, members in groups.items():
                verdict = acts.kill_group(tasks[name], members, tasks[f"first of {group}"], reader.host)
                level = len(tasks[name].pids) - 1
                pgid = (*members[0].pgids, 0, 0)[level] or 999_999  # no group has that number where it is not seen
                tries.append((f"group {group}", verdict, (actors.try_kill_group, pgid)))
            compared.ask(actor, tries)
        sizes = {group: len(members) for group, members in groups.items()}
    return compared.result(), sizes


def test_signals_to_process_groups(in_child: InChild) -> None:
    """One member that may be signalled is enough; and the group must have a number where the sender is."""
    (counts, wrong, unknown), sizes = in_child(kill_groups)
    assert (wrong, unknown) == ([], [])
    assert sizes == {"root's": 2, "mixed": 2, "user's": 2}
    assert {f"group {group}: {answer}" for group in sizes for answer in ("yes", "no")} <= set(counts)


def signal_init() -> list[tuple[str, str, list[int]]]:
    """(what, the prediction, what init got) for signals from inside and outside; it is killed at last."""
    found = []
    with World() as world:
        init = world.actor("init", partial(kernel.unshare, NEWPID), forks=True)
        root = world.actor("outside")
        init.ask(actors.handle, signal.SIGUSR1)
        init.ask(actors.child)
        reader = can.Reader()
        b, outside = reader.task(init.pid), reader.task(root.pid)
        with open(f"/proc/{init.pid}/task/{init.pid}/children") as file:
            inside = reader.task(int(file.read()))
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGSTOP):
            verdict = acts.signal(inside, b, reader.host, number)
            assert init.ask(actors.child_kills, 1, number) == 0
            found.append((f"inside {number.name}", verdict.answer, init.ask(actors.taken)))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            verdict = acts.signal(outside, b, reader.host, number)
            assert root.ask(actors.try_signal, init.pid, number) == 0
            found.append((f"outside {number.name}", verdict.answer, init.ask(actors.taken)))
        verdict = acts.signal(outside, b, reader.host, signal.SIGKILL)
        pidfd = os.pidfd_open(init.pid)
        assert root.ask(actors.try_signal, init.pid, signal.SIGKILL) == 0
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        found.append(("outside SIGKILL", verdict.answer, [len(poll.poll(10_000))]))
        os.close(pidfd)
    return found


def test_signals_to_init(in_child: InChild) -> None:
    """Of a pid namespace: kill(2) succeeds, and what init has no handler for is dropped; from above KILL counts."""
    assert in_child(signal_init) == [
        ("inside SIGTERM", "no", []),
        ("inside SIGUSR1", "yes", [signal.SIGUSR1]),
        ("inside SIGKILL", "no", []),
        ("inside SIGSTOP", "no", []),
        ("outside SIGTERM", "no", []),
        ("outside SIGUSR1", "yes", [signal.SIGUSR1]),
        ("outside SIGKILL", "yes", [1]),
    ]


def filtered() -> list[tuple[str, tuple[str, ...]]]:
    from nstool import syscalls

    with World() as world:
        load = partial(syscalls.seccomp_set_mode_filter, seccomp.load_filter("default"))
        no_new_privs = partial(kernel.prctl, actors.PR_SET_NO_NEW_PRIVS, 1)
        world.actor("filtered", actors.does(no_new_privs, load))
        world.actor("user", partial(actors.become, USER))
        reader, tasks = read(world)
        verdicts = [
            acts.signal(tasks[one], tasks[other], reader.host)
            for one, other in (("filtered", "user"), ("user", "filtered"))
        ]
        verdicts.append(acts.mount(tasks["filtered"], reader.host))
        return [(verdict.answer, verdict.needs) for verdict in verdicts]


@pytest.mark.needs("seccomp")
def test_a_seccomp_filter_of_the_actor_makes_a_yes_unknown(in_child: InChild) -> None:
    """And leaves a no a no; a filter of the target is nothing to it."""
    needs = ("A's seccomp filter, which nothing shows: only A, trying it, can tell",)
    assert in_child(filtered) == [("unknown", needs), ("no", ()), ("unknown", needs)]


def in_landlock() -> Any:
    """(errno of attaching, the prediction, its unless) of an actor in a domain; what a reader in one says of root."""
    with World() as world:
        confined = world.actor(
            "confined", actors.does(partial(kernel.prctl, actors.PR_SET_NO_NEW_PRIVS, 1), kernel.landlock)
        )
        free, other = world.actor("free"), world.actor("other")
        reader, tasks = read(world)
        verdict = acts.ptrace(tasks["confined"], tasks["free"], reader.host)
        seen = confined.ask(as_read_here, {"free": free.pid, "other": other.pid, "confined": confined.pid})
        return (
            confined.ask(actors.try_ptrace, free.pid),
            verdict.answer,
            verdict.unless,
            [row[1] for row in seen["other", "free"] if row[0] == "ptrace free"],
            [row[1] for row in seen["free", "confined"] if row[0] == "ptrace confined"],
        )


@pytest.mark.needs("landlock")
def test_landlock_is_said_to_be_hidden(in_child: InChild) -> None:
    """Nothing shows a domain, so a yes says so; a reader who meets one itself knows that it does not know."""
    errno, answer, unless, of_free, of_confined = in_child(in_landlock)
    assert errno != 0
    assert answer == "yes"
    assert any("Landlock" in text for text in unless)
    assert of_free == ["unknown"]
    assert of_confined == ["yes"]


def test_a_process_that_has_ended_is_gone() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    for ask in (partial(can.signal, pid, 1), partial(can.signal, os.getpid(), pid), partial(can.mount, pid)):
        with pytest.raises(ProcessGone, match=f"no process {pid}, or it has ended"):
            ask()


def test_processes_that_end_meanwhile_are_gone_or_answered() -> None:
    """Whatever file is the first that is no more."""
    me = os.getpid()
    answers = set()
    for number in range(60):
        pid = os.fork()
        if pid == 0:
            for _ in range(number * 100):
                continue
            os._exit(0)
        reaper = threading.Timer(number / 20_000, os.waitpid, (pid, 0))
        reaper.start()
        try:
            for ask in (can.ptrace, can.signal, can.read, can.kill_group):
                answers |= {ask(me, pid).answer, ask(pid, me).answer}
            answers |= {can.may_open(pid, "/etc/passwd", "write").answer, can.bind_port(pid, 80).answer}
        except ProcessGone:
            answers.add("gone")
        reaper.join()
    assert answers
    assert answers <= {"gone", "yes", "no", "unknown"}


def test_who_changes_its_rights_meanwhile_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its ids would be those before, and its namespaces and files those after."""
    go, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.read(go[0], 1)
            kernel.unshare(NEWUTS)
            actors.become(USER)
            os.write(done[1], b"x")
            signal.pause()
        finally:
            os._exit(0)
    namespaces = can._TaskReader.namespaces
    told: list[bytes] = []

    def change_first(reader: Any) -> Any:
        if not told:
            os.write(go[1], b"x")
            told.append(os.read(done[0], 1))
        return namespaces(reader)

    monkeypatch.setattr(can._TaskReader, "namespaces", change_first)
    try:
        task = can.Reader().task(pid)
        assert task.namespaces["uts"].inode == os.stat(f"/proc/{pid}/ns/uts").st_ino
        assert (task.cred.uid, task.cred.effective) == (USER, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (*go, *done):
            os.close(fd)


def test_a_zombie_acts_no_more() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    verdicts = [can.signal(pid, 1), can.mount(pid), can.may_open(pid, "/etc/passwd"), can.bind_port(pid, 80)]
    assert [verdict.answer for verdict in verdicts] == ["no"] * 4
    assert can.read(os.getpid(), pid).answer == "no"
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda me: can.read(me, me, "envrion"), 'did you mean "environ"'),
        (lambda me: can.setns(me, me, ("nte",)), "nte"),
        (lambda me: can.setns(me, me), "in all namespaces"),
        (lambda me: can.bind_port(me, 65536), "0 to 65535"),
        (lambda me: can.may_open(me, "etc/passwd"), "not absolute"),
        (lambda me: can.may_open(me, "/etc/no-such-file"), "No such file"),
        (lambda me: can.may_open(me, "/etc/passwd/x"), "Not a directory"),
    ],
)
def test_bad_requests_say_what_is_wrong(ask: Callable[[int], Verdict], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ask(os.getpid())


# The command


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([NSTOOL, "can", *words], capture_output=True, text=True, timeout=60)


@pytest.fixture
def other() -> Any:
    """The pid of a process of another user."""
    with held(lambda: actors.become(OTHER)) as pid:
        yield str(pid)


def test_command_answers_by_its_exit_status(other: str) -> None:
    """0 yes, 1 no; and 3, as where a filesystem decides by itself."""
    me = str(os.getpid())
    assert [run(me, "signal", other).returncode, run(other, "signal", me).returncode] == [0, 1]
    unknown = run(me, "write", "/proc/sys/kernel/ostype")
    assert (unknown.returncode, unknown.stdout.split(":")[0]) == (3, "unknown")
    assert "would tell: trying it: proc decides by itself" in unknown.stdout
    done = run(other, "ptrace", me)
    assert done.stdout.startswith(f"no: A = {other} (")
    assert "EPERM" in done.stdout.splitlines()[0]
    assert "CAP_SYS_PTRACE is not in A's effective set" in done.stdout
    assert done.stderr == ""


def test_command_prints_json(other: str) -> None:
    """All that was looked at, in order, each with its answer and facts."""
    done = run(other, "write", "/etc/passwd", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["answer"], report["errno"]) == (1, "no", "EACCES")
    last = report["checks"][-1]
    assert (last["function"], last["passed"]) == ("generic_permission", False)
    assert [rule["function"] for rule in last["rules"]] == ["acl_permission_check", "capable_wrt_inode_uidgid"]
    assert f"A: fsuid {OTHER}, groups {OTHER}" in last["rules"][0]["facts"]
    assert json.loads(run(other, "mount", "--json").stdout)["answer"] == "no"


def test_command_shows_passed_checks_whole_on_demand(other: str) -> None:
    short, long = run(str(os.getpid()), "signal", other).stdout, run(str(os.getpid()), "signal", other, "--long").stdout
    assert "no kill_ok_by_cred" not in short
    assert "no kill_ok_by_cred: is A's real or effective uid B's real or saved one?" in long


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("signal",), "signal needs a TARGET"),
        (("mount", "/mnt"), "mount takes nothing after it"),
        (("steal", "1"), "'steal' is not one of"),
        (("signal", "1", "--signal", "KIL"), '--signal: no signal "KIL"; did you mean "KILL"'),
        (("signal", "1", "--types", "net"), "--types goes with setns, not with signal"),
        (("setns", "1", "--types", ""), "--types: names no namespace type"),
        (("bind-port", "http"), "PORT: 'http' is no port"),
        (("chown", "/etc/passwd", "--owner", "bob"), "--owner: 'bob' is no id"),
        (("chown", "/etc/passwd", "--owner", ":"), "--owner: names neither"),
        (("open", "passwd"), "passwd: is not absolute"),
        (("read", "1", "--file", "shadow"), "'shadow' is no file of a process"),
        (("signal", "no-such-box"), "no-such-box"),
    ],
)
def test_command_refuses_bad_requests(words: tuple[str, ...], message: str) -> None:
    """One message that names the option or argument, and status 2."""
    done = run(str(os.getpid()), *words)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_command_shows_names_harmlessly(in_child: InChild) -> None:
    """A process may call itself what it likes."""

    def act() -> str:
        with open("/proc/self/comm", "w") as file:
            file.write("\x1b[31m[bold]x")
        return run(str(os.getpid()), "signal", str(os.getpid())).stdout

    text = in_child(act)
    assert "\x1b" not in text
    assert "[bold]x" in text
