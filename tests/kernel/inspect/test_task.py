"""A process whole: beside psutil, ps(1), chrt(1), taskset(1), and what the process knows of itself."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from nstool.errors import SandboxGone
from nstool.inspect import fds, sockets
from nstool.inspect.creds import credentials
from nstool.inspect.dumpable import is_dumpable
from nstool.inspect.fds import Fd
from nstool.inspect.proc import Proc, ProcessGone, real_name
from nstool.inspect.task import Card, card
from tests.kernel.rows import boxes
from tests.support import fuse, kernel
from tests.support.held import held
from tests.support.waiting import thread, waiting

SECONDS = 120.0

pytestmark = pytest.mark.needs("native")

CLONE_NEWPID = 0x20000000
# Imported first: the program may give up the right to read its library. At the end its children are waited for.
BEGIN = "import json, os, sys\n"
WAIT = """
print(json.dumps(told), flush=True)
sys.stdin.read()
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""


@contextmanager
def program(code: str, *before: str, **options: Any) -> Iterator[tuple[int, Any]]:
    """A Python program that sets ``told``, and then waits. Its pid and what it told."""
    command = [*before, sys.executable, "-c", BEGIN + code + WAIT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, close_fds=True, **options
    ) as process:
        assert process.stdout
        yield process.pid, json.loads(process.stdout.readline())
        process.communicate()


def by_fd(found: Card) -> dict[int, Fd]:
    assert found.fds is not None
    return {one.fd: one for one in found.fds}


# ---- kin ----


def test_kin_is_that_of_psutil() -> None:
    code = (
        "for _ in range(2):\n"
        "    if os.fork() == 0:\n"
        "        pid = os.fork(); os.read(0, 1); pid and os.wait(); os._exit(0)\n"
        "told = 0"
    )
    with program(code, process_group=0) as (pid, _):
        other = psutil.Process(pid)
        while len(other.children(recursive=True)) < 4:  # the grandchildren come in a moment
            continue
        found = card(pid)
        assert [one.pid for one in found.kin.ancestors] == [one.pid for one in other.parents()]
        children = {one.pid: len(one.children()) for one in other.children()}
        assert {one.pid: one.below for one in found.kin.children} == children
        assert sorted(children.values()) == [1, 1]
        assert (found.kin.group, found.kin.session) == (pid, os.getsid(pid))
        assert found.kin.terminal == ""
        assert found.kin.tracer is None
        assert abs(found.started - other.create_time()) < 2
        assert found.command == tuple(other.cmdline())
        assert (found.exe, found.cwd, found.root) == (other.exe(), other.cwd(), "/")


@pytest.mark.needs("strace")
def test_the_tracer_is_told() -> None:
    code = "import os\ntold = os.getpid()"
    with program(code, "strace", "-o", "/dev/null", "-e", "trace=none") as (tracer, traced):
        found = card(traced)
        assert found.kin.tracer is not None
        assert (found.kin.tracer.pid, found.kin.tracer.comm) == (tracer, "strace")


def orphan_of(subreaper: bool, forks: int) -> tuple[int, list[int], int, int, int]:
    """Say who would get the child of a process, end the process, and see who got it.

    Returns (Orphans.to, Orphans.first, who got it, the calling process, the child).
    """
    if subreaper:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe()
    end, keep = os.pipe()
    middle = os.fork()
    if middle == 0:
        for _ in range(forks - 1):
            if (pid := os.fork()) != 0:
                os.close(keep)
                os.waitpid(pid, 0)
                os.read(end, 1)
                os._exit(0)
        child = os.fork()
        if child == 0:
            os.close(keep)
            os.read(end, 1)
            os._exit(0)
        os.write(writer, f"{os.getpid()} {child}\n".encode())
        os.close(keep)
        signal.pause()
    os.close(end)
    with open(reader) as pipe:
        os.close(writer)
        parent, child = map(int, pipe.readline().split())
    orphans = card(parent).kin.orphans
    os.kill(parent, signal.SIGKILL)
    while (got := psutil.Process(child).ppid()) == parent:  # until the kernel has done it
        continue
    os.close(keep)
    os.waitpid(middle, 0)
    if got == os.getpid():
        os.waitpid(child, 0)
    return orphans.to or 0, list(orphans.first), got, os.getpid(), child


def test_orphans_go_to_the_reader_that_is_a_subreaper(in_child: Callable[..., Any]) -> None:
    """Known for certain: the reader is the one ancestor whose attribute can be read."""
    to, first, got, reader, _ = in_child(orphan_of, True, 1)
    assert (to, first) == (reader, [])
    assert got == reader


@pytest.mark.needs("root")
def test_who_else_may_be_a_subreaper_is_left_open(in_child: Callable[..., Any]) -> None:
    """Between the reader and the process there is another ancestor; it is named, and here it is none."""
    to, first, got, reader, _ = in_child(orphan_of, True, 2)
    assert to == got == reader
    assert len(first) == 1


def test_a_reader_that_is_no_subreaper_is_left_out(in_child: Callable[..., Any]) -> None:
    """The test process above it is one, which the reader cannot know: it is among those that may be."""
    _, first, got, reader, child = in_child(orphan_of, False, 1)
    if got == os.getpid():
        os.waitpid(child, 0)
    assert reader not in first
    assert got in first


@pytest.mark.needs("root")
def test_process_1_of_a_pid_namespace_leaves_no_orphans() -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with program("import os\ntold = int(os.readlink('/proc/self'))", *command) as (outer, inside):
        assert inside == 1
        (inner,) = psutil.Process(outer).children()
        assert "killed with it" in card(inner.pid).kin.orphans.text
        # Its parent is in the namespace above: those that come before process 1 are above that.
        assert outer in [one.pid for one in card(inner.pid).kin.ancestors]


@pytest.mark.needs("root")
def test_orphans_stay_in_their_pid_namespace() -> None:
    """The ancestors outside of it are no candidates, whatever they are: process 1 of the namespace gets them."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", '"$@"; true', "sh"]
    with program("told = os.getpid()", *command) as (outer, inside):
        (init,) = psutil.Process(outer).children()
        (inner,) = init.children()
        assert inside == 2
        orphans = card(inner.pid).kin.orphans
        assert (orphans.to, orphans.first) == (init.pid, ())


# ---- state, threads, signals ----


def test_threads_and_what_they_wait_for() -> None:
    code = (
        "import os, threading, time\n"
        "r, w = os.pipe()\n"
        "def wait():\n"
        "    with open('/proc/thread-self/comm', 'w') as file: file.write('reader')\n"
        "    tids.append(threading.get_native_id()); ready.set(); os.read(r, 1)\n"
        "tids, ready = [], threading.Event()\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
        "ready.wait(); told = [tids[0], r]"
    )
    with program(code) as (pid, (tid, fd)):
        while f" {tid} " not in subprocess.run(
            ["ps", "-L", "-o", "lwp,state", "-p", str(pid)], capture_output=True, text=True
        ).stdout.replace("\n", " "):
            continue
        while (found := {one.tid: one for one in card(pid).threads})[tid].call.partition("(")[0] != "read":
            continue
        assert set(found) == {thread.id for thread in psutil.Process(pid).threads()}
        assert found[tid].comm == "reader"
        assert found[tid].call.startswith(f"read({fd:#x}, ")
        assert "pipe" in found[tid].wchan
        assert found[tid].state == "sleeping"


def test_signals_are_named_as_the_process_knows_them() -> None:
    code = (
        "import os, signal, threading\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMIN + 2, signal.SIGUSR2])\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "os.kill(os.getpid(), signal.SIGRTMIN + 2)\n"
        "signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)\n"
        "told = [sorted(signal.sigpending()), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]"
    )
    with program(code) as (pid, (pending, blocked)):
        found = card(pid)
        assert found.signals.pending == ("SIGUSR1", "SIGRTMIN+2")
        assert found.threads[0].pending == ("SIGUSR2",)
        assert len(pending) == 3
        assert found.threads[0].blocked == ("SIGUSR1", "SIGUSR2", "SIGRTMIN+2")
        assert len(blocked) == 3
        assert {"SIGHUP", "SIGPIPE"} <= set(found.signals.ignored)  # Python ignores the second
        assert {"SIGTERM", "SIGINT"} <= set(found.signals.caught)
        assert found.signals.queued >= 3


def test_a_stopped_process_and_a_zombie() -> None:
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    stopped = card(pid)
    assert stopped.state == "stopped by a signal"
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    zombie = card(pid)
    os.waitpid(pid, 0)
    assert (zombie.state, zombie.command, zombie.dumpable) == ("zombie", (), ("no", "it has ended"))
    assert zombie.unread["exe"] == "it has ended"
    with pytest.raises(ProcessGone):
        card(pid)


def test_a_zombie_says_how_it_ended_and_who_is_to_wait() -> None:
    """Nothing that it had is unknown: it is no more."""
    for end, words in (
        (lambda: os._exit(3), "it exited with status 3"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "it was killed by SIGTERM"),
    ):
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with Proc(os.getpid()) as own:
            parent = f"process {os.getpid()} ({own.stat().comm})"
        found = card(pid)
        lines = boxes.nstool("task", str(pid)).lines
        _, status = os.waitpid(pid, 0)
        assert found.exit_status == status
        assert found.ended == f"{words}; its parent, {parent}, has not waited for it yet"
        shown = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
        assert shown["ended"] == found.ended
        assert shown["others"] == "none any more, as it has ended"
        assert "orphans" not in shown
        assert not any("No such file" in line for line in lines)


@pytest.mark.needs("user")
def test_how_a_zombie_of_another_has_ended_is_not_told(as_user: Callable[..., Any]) -> None:
    """The kernel says 0 to who may not know, which is none of the ways to end."""
    pid = os.fork()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        told = as_user(lambda: card(pid).replace(limits=()))
    finally:
        os.waitpid(pid, 0)
    if os.geteuid() == 0:
        assert told.exit_status is None
        assert told.ended.startswith("how it ended is unknown; its parent")
        assert "it runs as uid 0" in told.unread["exit status"]
    else:
        assert told.exit_status == 3 << 8


def test_a_process_whose_main_thread_has_ended_lives() -> None:
    code = (
        "import ctypes, threading, time\n"
        "def end():\n"
        "    while open(f'/proc/self/task/{os.getpid()}/stat').read().rpartition(') ')[2][0] != 'Z': pass\n"
        "    print(json.dumps(threading.get_native_id()), flush=True)\n"
        "    sys.stdin.read(); os._exit(0)\n"
        "threading.Thread(target=end).start()\n"
        "ctypes.CDLL(None).syscall(93 if os.uname().machine == 'aarch64' else 60, 0)\n"  # exit(2), of the thread alone
        "told = 0"
    )
    with program(code) as (pid, tid):
        found, thread_ = card(pid), card(tid)
        assert (found.state, found.ended, found.has_ended) == (
            "zombie",
            "its main thread has ended, others have not",
            False,
        )
        assert "its children would go to" in found.kin.orphans.text
        assert (
            next(one for one in found.threads if one.tid == tid).namespaces["net"]
            == os.stat("/proc/self/ns/net").st_ino
        )
        assert (thread_.pid, thread_.tid, thread_.ended) == (pid, tid, "")


@pytest.mark.needs("root")
def test_a_thread_with_namespaces_and_ids_of_its_own(in_child: Callable[..., Any]) -> None:
    """In the card of its process it stands out; by its tid it is a thread, and what it has of its own is shown."""

    def leave() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        Path("/proc/thread-self/comm").write_text("worker")
        ctypes.CDLL(None).setfsuid(44)  # libc makes the other ids the same for all threads

    def act() -> tuple[Any, ...]:
        pid = os.getpid()
        with thread(leave) as tid:
            net = os.stat(f"/proc/self/task/{tid}/ns/net").st_ino
            shown = [boxes.nstool("task", str(number)) for number in (pid, tid)]
            return pid, tid, net, card(pid), card(tid), *shown

    pid, tid, net, process, one, shown, by_tid = in_child(act, timeout=SECONDS)
    row = next(row for row in process.threads if row.tid == tid)
    assert row.namespaces == {"net": net}
    assert row.uids is not None
    assert (row.uids.real, row.uids.effective, row.uids.filesystem, row.gids) == (0, 0, 44, None)
    assert "dac_override" in process.facts.capabilities["effective"].names
    assert "dac_override" not in row.capabilities["effective"].names
    assert all(
        (row.namespaces, row.uids, row.gids, row.groups, row.capabilities) == ({}, None, None, None, {})
        for row in process.threads
        if row.tid != tid
    )
    assert process.facts.namespaces["net"] == os.stat("/proc/self/ns/net").st_ino
    assert f"note: its thread {tid} has other namespaces, ids, capabilities than its main thread" in shown.out
    assert any(f" net:[{net}], uid 0/0/0/44, " in line for line in shown.lines)
    assert (one.pid, one.tid, one.comm) == (pid, tid, "worker")
    assert (one.facts.namespaces["net"], one.facts.uids.filesystem, one.kin.ancestors) == (
        net,
        44,
        process.kin.ancestors,
    )
    assert "process" not in one.shared["net"]
    assert "process" in one.shared["uts"]
    assert by_tid.lines[0] == f"thread {tid} of process {pid} (worker), sleeping"


@pytest.mark.parametrize("name", ["a\nb", "back\\n", "two\\\\n", "\\"])
def test_names_are_real(name: str) -> None:
    """Not as the status file has them, which escapes newlines and backslashes. proc_pid_status(5)."""
    with held(lambda: Path("/proc/self/comm").write_text(name)) as pid, held(lambda: None) as other:
        assert card(pid).comm == name
        with Proc(pid) as proc:
            assert real_name(proc.status()) == name
        assert credentials(pid).comm == name
        names = {one.pid: one.comm for one in card(os.getpid()).kin.children}
        assert names[pid] == name
        assert other in names


def test_a_thread_of_the_kernel() -> None:
    found = card(2)
    assert (found.comm, found.kernel_thread, found.command) == ("kthreadd", True, ())
    assert found.threads[0].call == ""
    assert found.dumpable[0] == "no"


# ---- scheduling and limits ----


@pytest.mark.needs("root")
def test_scheduling_is_that_of_chrt_taskset_and_ionice() -> None:
    before = ["ionice", "-c", "2", "-n", "6", "taskset", "-c", "0", "chrt", "--rr", "7"]
    with program("told = 0", *before) as (pid, _):
        found = card(pid).scheduling
        assert (found.policy, found.rt_priority, found.affinity) == ("rr", 7, "0")
        assert found.io == "best effort 6"
        chrt = subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True).stdout
        assert "SCHED_RR" in chrt
        assert card(pid).threads[0].rt_priority == 7
    with program("told = 0", "nice", "-n", "7", "chrt", "--batch", "0") as (pid, _):
        found = card(pid).scheduling
        assert (found.policy, found.nice, found.rt_priority) == ("batch", os.getpriority(os.PRIO_PROCESS, pid), 0)
        assert found.nice == 7


def test_autogroup_is_that_of_its_session() -> None:
    text = Path("/proc/self/autogroup").read_text() if Path("/proc/self/autogroup").exists() else ""
    found = card(os.getpid()).scheduling.autogroup
    if text:
        assert found is not None
        assert f"/{found[0]} nice {found[1]}\n" == text
    else:
        assert found is None


@pytest.mark.needs("root")
def test_limits_and_what_is_used_of_them() -> None:
    code = (
        "import ctypes, mmap, os, threading\n"
        "os.setresuid(54321, 54321, 54321)\n"
        "held = mmap.mmap(-1, 1 << 16)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(held))\n"
        "assert ctypes.CDLL(None).mlock(ctypes.c_void_p(address), ctypes.c_size_t(12288)) == 0\n"
        "end = threading.Event()\n"
        "for _ in range(2): threading.Thread(target=end.wait, daemon=True).start()\n"
        "opened = [os.open('/dev/null', os.O_RDONLY) for _ in range(4)]\n"
        "os.dup2(opened[0], 77)\n"
        "told = len(os.listdir('/proc/self/task'))"
    )
    with program(code, "prlimit", "--nofile=100:200", "--memlock=65536", "--cpu=1000") as (pid, tasks):
        found = {limit.name: limit for limit in card(pid).limits}
        assert tasks == 3
        assert (found["nofile"].soft, found["nofile"].hard) == (100, 200)
        assert found["nofile"].used == len(os.listdir(f"/proc/{pid}/fd"))
        assert "the highest is 77" in found["nofile"].note
        assert (found["memlock"].soft, found["memlock"].used) == (65536, 12288)
        assert found["nproc"].used == tasks
        assert found["cpu"].soft == 1000
        assert found["as"].used == psutil.Process(pid).memory_info().vms
        assert found["msgqueue"].used is None
        assert len(found) == 16


# ---- open files ----

OPEN = """
import ctypes, select, signal, socket, struct
libc = ctypes.CDLL(None)
event = os.eventfd(3)
epoll = select.epoll(); epoll.register(event); epoll.register(0)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, struct.pack("qqqq", 5, 0, 500, 0), None)
pidfd = os.pidfd_open(os.getppid())
sig = libc.signalfd(-1, struct.pack("Q", 1 << (signal.SIGTERM - 1)) + bytes(120), 0)
notify = libc.inotify_init(); libc.inotify_add_watch(notify, b"/", 2); libc.inotify_add_watch(notify, b"/proc", 2)
mem = os.memfd_create("things"); os.write(mem, b"12345")
net = os.open("/proc/self/ns/net", os.O_RDONLY)
path = os.open("/etc", os.O_PATH | os.O_DIRECTORY)
append = os.open("/dev/null", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
named = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); named.bind(b"\\0nstool-" + str(os.getpid()).encode())
named.listen()
read_end, write_end = os.pipe()
both = os.pipe()
left, right = socket.socketpair()
if os.fork() == 0:
    for fd in (read_end, left.fileno(), event + 0):
        if fd != event: os.close(fd)
    os.read(0, 1)
    os._exit(0)
os.close(write_end); right.close()
told = dict(event=event, epoll=epoll.fileno(), timer=timer, pidfd=pidfd, sig=sig, notify=notify, mem=mem, net=net,
            path=path, append=append, listener=listener.fileno(), client=client.fileno(), server=server.fileno(),
            named=named.fileno(), pipe=read_end, left=left.fileno(), both=both,
            address=listener.getsockname()[1], port=client.getsockname()[1])
"""


def test_open_files_by_kind_with_their_other_ends() -> None:
    with program(OPEN) as (pid, told):
        (child,) = psutil.Process(pid).children()
        found = card(pid)
        files = by_fd(found)
        assert {str(fd) for fd in files} == set(os.listdir(f"/proc/{pid}/fd"))
        for fd, one in files.items():
            assert one.target == os.readlink(f"/proc/{pid}/fd/{fd}")

        def what(name: str) -> tuple[str, str, str]:
            one = files[told[name]]
            return one.kind, one.mode, one.detail

        assert what("event") == ("eventfd", "rw", "count 3")
        assert what("epoll") == ("epoll", "rw", f"waits for fds 0, {told['event']}")
        kind, _, detail = what("timer")
        assert kind == "timerfd"
        assert detail.startswith("monotonic, in 49")
        assert detail.endswith("then every 5 s")
        me = Path("/proc/self/comm").read_text().strip()
        assert what("pidfd") == ("pidfd", "rw", f"of process {os.getpid()} ({me})")
        assert what("sig") == ("signalfd", "rw", "SIGTERM")
        assert what("notify") == ("inotify", "r", "2 watches")
        assert what("mem") == ("memfd", "rw", "5 bytes, at 5")
        assert what("net") == ("namespace", "r", "the net namespace, its own")
        assert what("path")[:2] == ("directory", "")
        assert what("append") == ("device", "w", "1:3")
        assert files[told["append"]].flags == "O_APPEND|O_CLOEXEC"
        address, port = f"127.0.0.1:{told['address']}", f"127.0.0.1:{told['port']}"
        assert what("listener") == ("socket", "rw", f"tcp {address}, listening")
        assert what("client") == ("socket", "rw", f"tcp {port} to {address}, established")
        assert what("named") == ("socket", "rw", f"unix stream @nstool-{pid}, listening")
        # Both processes have both ends of the connection, which fork has copied.
        assert {(one.pid, one.fd) for one in files[told["client"]].others} == {
            (who, told["server"]) for who in (pid, child.pid)
        }
        assert [one.pid for one in files[told["pipe"]].others] == [child.pid]
        assert [one.pid for one in files[told["left"]].others] == [child.pid]
        # Of a pipe the other end of who reads is who writes, in both processes, and not who reads too.
        for mine, theirs in (told["both"], told["both"][::-1]):
            assert {(one.pid, one.fd) for one in files[mine].others} == {(who, theirs) for who in (pid, child.pid)}
        assert {(one.pid, one.fd) for one in files[told["event"]].others} == {(child.pid, told["event"])}


@pytest.mark.needs("root")
def test_files_of_other_kinds_are_told_by_what_is_in_them() -> None:
    """Marks of fanotify(7), the type of a map of bpf(2), a timer that is not set."""
    libc = ctypes.CDLL(None, use_errno=True)
    marks = libc.fanotify_init(0x1, os.O_RDONLY)
    for path in (b"/etc/passwd", b"/etc/group"):
        libc.fanotify_mark(marks, 0x1, ctypes.c_uint64(0x20), -100, path)  # FAN_MARK_ADD, FAN_OPEN
    array = struct.pack("IIII", 2, 4, 8, 1).ljust(128, b"\0")  # BPF_MAP_TYPE_ARRAY: sizes of key and value, entries
    table = libc.syscall(321, 0, array, 128)
    timer = libc.timerfd_create(7, os.O_CLOEXEC)
    try:
        files = by_fd(card(os.getpid()))
        assert (files[marks].kind, files[marks].detail) == ("fanotify", "2 marks")
        assert (files[table].kind, files[table].detail) == ("bpf-map", "map type 2")
        assert (files[timer].kind, files[timer].detail) == ("timerfd", "boottime, disarmed")
    finally:
        for fd in (marks, table, timer):
            os.close(fd)


def test_the_client_of_a_server_for_both_versions_of_ip() -> None:
    """Who listens on [::] sees a client of IPv4 at a mapped address, which is the same end. ipv6(7)"""
    with (
        socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener,
        socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client,
        listener.accept()[0] as server,
    ):
        files = by_fd(card(os.getpid()))
        assert [one.fd for one in files[client.fileno()].others] == [server.fileno()]
        assert [one.fd for one in files[server.fileno()].others] == [client.fileno()]


@pytest.mark.needs("root", "fuse")
def test_one_file_that_may_not_be_asked_hides_no_other(in_child: Callable[..., Any]) -> None:
    """A file of FUSE, which refuses even root its stat: it is listed, and so are all others."""

    def hold() -> tuple[int, int]:
        fuse.private()
        os.mkdir("/tmp/fuse")
        fuse.mount("/tmp/fuse", user=1000)
        return os.open("/tmp/fuse", os.O_PATH), os.open("/dev/null", os.O_RDONLY)

    def act() -> tuple[Card, int, int, str]:
        with waiting(hold) as (pid, (one, other)):
            text = subprocess.run([*boxes.NSTOOL, "task", str(pid), "--fds"], capture_output=True, text=True).stdout
            return card(pid), one, other, text

    found, one, other, text = in_child(act)
    files = by_fd(found)
    assert (files[one].kind, files[one].target, files[one].mode) == ("unknown", "/tmp/fuse", "")
    assert "FUSE" in files[one].unread
    assert (files[other].kind, files[other].unread) == ("device", "")
    assert "fds" not in found.unread
    assert re.search(rf"{one} +unknown +path +/tmp/fuse +its filesystem", text)


@pytest.mark.needs("root")
def test_namespace_fds_say_whose_they_are() -> None:
    with program("told = 0", "unshare", "--net") as (other, _):
        code = f"import os\ntold = [os.open('/proc/{other}/ns/net', 0), os.open('/proc/{os.getpid()}/ns/uts', 0)]"
        with program(code, "unshare", "--uts") as (pid, (net, uts)):
            files = by_fd(card(pid))
            assert files[net].detail == f"a net namespace, in which process {other} is"
            assert files[uts].detail == "the uts namespace, yours"


@pytest.mark.needs("root")
def test_sockets_are_those_of_its_network_namespace() -> None:
    """The process listens in a namespace of its own; and holds a socket that was made outside."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as outside:
        code = (
            "import socket, sys\nhere = socket.socket(); here.bind(('0.0.0.0', 4711)); here.listen()\n"
            "told = here.fileno()"
        )
        with program(code, "unshare", "--net", pass_fds=[outside.fileno()]) as (pid, here):
            files = by_fd(card(pid))
            assert files[here].detail == "tcp 0.0.0.0:4711, listening"
            assert files[outside.fileno()].detail == "not in the lists of its network namespace"


def test_one_pass_finds_all_holders() -> None:
    reader, writer = os.pipe()
    key = os.readlink(f"/proc/self/fd/{reader}")
    try:
        found, _ = fds.holders({key, "socket:[1]"})
    finally:
        os.close(reader)
        os.close(writer)
    assert {(one.pid, one.fd, one.mode) for one in found[key]} == {
        (os.getpid(), reader, "r"),
        (os.getpid(), writer, "w"),
    }


def test_a_file_whose_path_is_longer_than_the_kernel_shows(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """Its link cannot be read; the file is shown all the same, and others' files are still found."""

    def act() -> tuple[Fd, bool]:
        os.chdir(tmp_path)
        for _ in range(40):
            os.mkdir("x" * 200)
            os.chdir("x" * 200)
        deep = os.open(".", os.O_RDONLY)
        reader, writer = os.pipe()
        key = os.readlink(f"/proc/self/fd/{reader}")
        found, _ = fds.holders({key})
        with Proc(os.getpid()) as proc:
            one = next(one for one in fds.read(proc) if one.fd == deep)
        return one, sorted(holder.fd for holder in found[key] if holder.pid == os.getpid()) == [reader, writer]

    one, both = in_child(act)
    assert (one.kind, one.target) == ("directory", "a path of more than 4095 bytes")
    assert both
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


def test_sockets_are_those_of_ss() -> None:
    import socket

    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        datagram.bind(("127.0.0.1", 0))
        wanted = {os.fstat(one.fileno()).st_ino: one for one in (listener, datagram)}
        found = {one.inode: one for one in sockets.read() if one.inode in wanted}
        rows = subprocess.run(["ss", "-Htunape"], capture_output=True, text=True, check=True).stdout.splitlines()
        for inode, one in found.items():
            words = next(row for row in rows if f"ino:{inode} " in row).split()
            assert (words[0], words[4]) == (one.type, one.local)
        assert len(found) == 2


@pytest.mark.parametrize(
    "name", [b"\0plain", b"\0a\nb 0001 \xff", b"nasty\n0000: 00000002 00000000 00010000 0001 01 7 x"]
)
def test_unix_sockets_whatever_their_name(name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of /proc/net/unix could be forged by a newline in the name; the kernel's own list cannot."""
    import socket

    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(name)
        inode = os.fstat(one.fileno()).st_ino
        all_ = sockets.read()
    found = next(socket_ for socket_ in all_ if socket_.inode == inode)
    assert os.fsencode(found.local) == (b"@" + name[1:] if name[:1] == b"\0" else name)
    assert 7 not in [socket_.inode for socket_ in all_ if socket_.family == "unix"]


# ---- what confines it ----


@pytest.mark.needs("root")
def test_with_whom_it_shares_its_namespaces() -> None:
    code = "import os, subprocess, sys\ntold = 0"
    with program(code, "unshare", "--uts", "sh", "-c", 'unshare --net "$@"; true', "sh") as (shell, _):
        (child,) = psutil.Process(shell).children()
        shared = card(child.pid).shared
        assert shared["uts"] == ("parent",)
        assert shared["net"] == ()
        assert {"parent", "you"} <= set(shared["ipc"])
        other = {kind: os.readlink(f"/proc/{child.pid}/ns/{kind}") for kind in shared}
        assert [kind for kind in shared if "you" in shared[kind]] == [
            kind for kind, link in other.items() if link == os.readlink(f"/proc/self/ns/{kind}")
        ]


@pytest.mark.needs("user")
@pytest.mark.parametrize(("value", "answer"), [(0, "no"), (1, "yes")])
@pytest.mark.parametrize("older", [True, False])
def test_whether_a_process_is_dumpable(
    as_user: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, value: int, answer: str, older: bool
) -> None:
    """The kernel tells it since Linux 6.16; before, who owns its files does, but for root's."""
    newer = is_dumpable(os.getpid(), os.getpid()) is not None and not older
    if older:
        monkeypatch.setattr("nstool.inspect.task.is_dumpable", lambda pid, tgid: None)

    def act() -> tuple[str, str]:
        code = f"import ctypes\nctypes.CDLL(None).prctl(4, {value}, 0, 0, 0)\ntold = 0"
        with program(code) as (pid, _):
            return card(pid).dumpable

    found, why = as_user(act)
    assert found == answer
    assert ("PIDFD_GET_INFO" if newer else "its files in /proc belong to") in why
    if os.geteuid() == 0:
        assert act()[0] == (answer if newer else "unknown")
    assert card(os.getpid()).dumpable == ("yes", "")


@pytest.mark.needs("user", "userns")
def test_root_of_a_user_namespace_is_said_to_be_that(
    as_user: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 6.16 nothing tells whether it is dumpable; why not is said in the reader's ids."""
    monkeypatch.setattr("nstool.inspect.task.is_dumpable", lambda pid, tgid: None)

    def act() -> Any:
        with program("told = 0", "unshare", "--user", "--map-root-user") as (pid, _):
            return card(pid).dumpable, os.getuid(), os.getgid()

    (answer, why), uid, gid = as_user(act)
    assert answer == "unknown"
    assert why.startswith(f"it runs as root of its user namespace, for you uid {uid}, gid {gid}, to whom its files")


def test_environment_only_if_asked_for() -> None:
    with program("told = 0", env={"ONE": "two words", "PYTHONPATH": ""}) as (pid, _):
        assert card(pid).environment is None
        assert "ONE=two words" in (card(pid, environment=True).environment or ())


@pytest.mark.needs("user", "root")
def test_an_ordinary_user_on_a_process_of_root(as_user: Callable[..., Any]) -> None:
    """What is open to all is told; what is not has its reason."""
    with program("told = 0") as (pid, _):
        found: Card = as_user(card, pid, environment=True)
        assert found.comm.startswith("python")
        assert found.kin.ancestors[0].pid == os.getpid()
        assert found.limits[7].soft > 0
        assert (found.exe, found.fds, found.environment) == (None, None, None)
        for name in ("exe", "fds", "environment", "system calls"):
            assert "it runs as uid 0" in found.unread[name]
        assert found.facts.namespaces == {}


def test_command_line() -> None:
    """Names from inside cannot drive the terminal; the page has all sections."""
    code = "import os\nopen('/proc/self/comm', 'w').write('\\x1b[31m[red]')\ntold = os.open('/etc/passwd', 0)"
    with program(code, env={"A": "\x1b[7m"}) as (pid, fd):
        shown = boxes.nstool("task", str(pid), "--fds", "--env")
        assert (shown.status, shown.err) == (0, "")
        assert "\x1b" not in shown.out
        assert "\\x1b[31m[red]" in shown.lines[0]
        for title in ("kin", "threads", "signals", "scheduling", "confinement", "namespaces", "limits", "open files"):
            assert any(line.strip().startswith(title) for line in shown.lines), title
        assert any(line.split()[:3] == [str(fd), "file", "r"] for line in shown.lines)
        found = json.loads(boxes.nstool("task", str(pid), "--json").out)
        assert found["pid"] == pid
        assert found["environment"] is None
    gone = boxes.nstool("task", str(pid))
    assert (gone.status, gone.err.startswith(f"nstool: there is no process {pid}")) == (2, True)


def test_processes_that_come_and_go_are_no_error() -> None:
    """Cards are read while children start and end all the time."""
    end = time.monotonic() + 1.0
    child = os.fork()
    if child == 0:
        while time.monotonic() < end:
            if (pid := os.fork()) == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        os._exit(0)
    seen = 0
    try:
        while time.monotonic() < end:
            for row in psutil.Process(child).children():
                try:
                    assert card(row.pid).kin.ancestors[0].pid == child
                    seen += 1
                except SandboxGone:
                    continue
    finally:
        os.waitpid(child, 0)
    with Proc(os.getpid()) as proc:
        assert proc.stat().pid == os.getpid()
