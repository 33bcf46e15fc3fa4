"""Processes of chosen credentials and namespaces, each of which tries what it is asked to: what the kernel says.

A world is a process of root's in mount, uts and net namespaces of its own; its actors are its children. An actor is
made by a function that changes the calling process, and then does what it is asked until the world ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import resource
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

from tests.support import kernel

PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 8, 38, 24
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
SYS_CAPSET, SYS_SETRESUID, SYS_SETNS, SYS_GETTID = 126, 117, 308, 186
WALL = 0x40000000
CAPS = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "kill": 5, "net_bind_service": 10}
CAPS |= {"ipc_lock": 14, "sys_boot": 22, "sys_time": 25, "mknod": 27, "lease": 28}
CAPS |= {"sys_chroot": 18, "sys_ptrace": 19, "sys_admin": 21, "sys_nice": 23, "sys_resource": 24, "setuid": 7}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def call(number: int, *args: Any) -> int:
    """A system call by number; OSError if it is refused."""
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def refusal(act: Callable[[], object]) -> int:
    """The errno with which the kernel refuses act, 0 if it does not."""
    try:
        act()
    except OSError as error:
        return error.errno or -1
    return 0


# What makes an actor: changes of the calling process


def capabilities(effective: Sequence[str], permitted: Sequence[str] | None = None) -> None:
    """Keep only these capabilities. permitted: more than the effective ones."""
    masks = [sum(1 << CAPS[name] for name in names) for names in (effective, permitted or effective)]
    _capset(*masks)


def without(*names: str) -> None:
    """Lose these capabilities."""
    have = held()
    lost = sum(1 << CAPS[name] for name in names)
    _capset(have & ~lost, have & ~lost)


def held() -> int:
    """The effective set."""
    with open("/proc/thread-self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


def _capset(effective: int, permitted: int) -> None:
    header = struct.pack("Ii", 0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    data = struct.pack("6I", effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    call(SYS_CAPSET, header, data)


def become(uid: int, gid: int | None = None, keep: Sequence[str] = (), groups: Sequence[int] = ()) -> None:
    """Become this user, dumpable as after an exec, with a few capabilities kept."""
    kernel.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups(list(groups))
    gid = uid if gid is None else gid
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    capabilities(keep)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


def dumpable(value: int) -> None:
    kernel.prctl(kernel.PR_SET_DUMPABLE, value)


def fsuid(uid: int) -> None:
    _libc.setfsuid(uid)


def join(pid: int, flags: int) -> None:
    """Enter namespaces of a process."""
    fd = os.pidfd_open(pid)
    try:
        call(SYS_SETNS, fd, flags)
    finally:
        os.close(fd)


# What an actor tries


def try_kill_group(pgid: int) -> int:
    return refusal(lambda: os.kill(-pgid, 0))


def handle(*numbers: int) -> None:
    """Count these signals from now on."""
    for number in numbers:
        signal.signal(number, lambda got, _: received.append(got))


received: list[int] = []


def taken() -> list[int]:
    """The signals that were counted since the last time."""
    got = received[:]
    received.clear()
    return got


def child() -> int:
    """Start a child that waits for ever; its pid."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    return pid


def child_kills(pid: int, number: int) -> int:
    """What kill(2) says to a child of the caller."""
    helper = os.fork()
    if helper == 0:
        os._exit(try_signal(pid, number))
    return os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])


def try_signal(pid: int, number: int) -> int:
    return refusal(lambda: os.kill(pid, number))


def try_ptrace(pid: int) -> int:
    """PTRACE_SEIZE, and let go again."""
    if error := refusal(lambda: call(101, PTRACE_SEIZE, pid, 0, 0)):
        return error
    call(101, PTRACE_INTERRUPT, pid, 0, 0)
    os.waitpid(pid, WALL)
    call(101, PTRACE_DETACH, pid, 0, 0)
    return 0


def seize(pid: int) -> None:
    """Trace a process from now on."""
    call(101, PTRACE_SEIZE, pid, 0, 0)


def port_start(port: int) -> None:
    """Let everybody bind ports from this one on, in the network namespace of the caller."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "w") as file:
        file.write(str(port))


def try_read(path: str) -> int:
    return refusal(lambda: os.close(os.open(path, os.O_RDONLY)))


def try_list(path: str) -> int:
    return refusal(lambda: os.listdir(path))


def try_link(path: str) -> int:
    return refusal(lambda: os.readlink(path))


def try_write(path: str) -> int:
    return refusal(lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))


def try_open(path: str) -> int:
    return refusal(lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))


def try_exec(path: str) -> int:
    """An empty file: where execve(2) is permitted it fails with ENOEXEC, and the process goes on."""
    error = refusal(lambda: os.execv(path, [path]))
    return 0 if error == errno.ENOEXEC else error


def try_prlimit(pid: int) -> int:
    return refusal(lambda: resource.prlimit(pid, resource.RLIMIT_CORE))


def try_renice(pid: int) -> int:
    return refusal(lambda: os.setpriority(os.PRIO_PROCESS, pid, 0))


def try_mount() -> int:
    return refusal(lambda: kernel.mount("none", "/", flags=kernel.MS_PRIVATE))


def try_sethostname() -> int:
    name = os.fsencode(os.uname().nodename)
    return refusal(lambda: call(170, name, len(name)))


def try_bind(port: int) -> int:
    with socket.socket() as sock:
        return refusal(lambda: sock.bind(("0.0.0.0", port)))


def try_chown(path: str, uid: int, gid: int) -> int:
    return refusal(lambda: os.chown(path, uid, gid))


def try_chmod(path: str) -> int:
    return refusal(lambda: os.chmod(path, 0o600))


def try_delete(path: str) -> int:
    return refusal(lambda: os.unlink(path))


def all_of(tries: list[tuple[Any, ...]]) -> list[int]:
    """Try all of these, (function, arguments...), in one go."""
    return [function(*args) for function, *args in tries]


def try_setns(masks: list[int], fds: list[int]) -> list[list[int]]:
    """For each pidfd and mask, what setns(2) says, in children: one ends when it has joined a user namespace.

    Having joined another type changes nothing that setns asks later.
    """
    wanted = [(fd, mask) for fd in fds for mask in masks]
    answers: list[int] = []
    while len(answers) < len(wanted):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for fd, mask in wanted[len(answers) :]:
                error = refusal(lambda fd=fd, mask=mask: call(SYS_SETNS, fd, mask))  # type: ignore[misc]
                os.write(writer, struct.pack("i", error))
                if not error and mask & kernel.CLONE_NEWUSER:
                    break
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answers += [number for (number,) in struct.iter_unpack("i", pipe.read())]
        os.waitpid(pid, 0)
    size = len(masks)
    return [answers[at : at + size] for at in range(0, len(answers), size)]


def start_thread(uid: int) -> int:
    """Start a thread that has another uid than the process; its tid."""
    told: list[int] = []
    here = threading.Event()

    def wait() -> None:
        call(SYS_SETRESUID, uid, uid, uid)
        told.append(call(SYS_GETTID))
        here.set()
        threading.Event().wait()

    threading.Thread(target=wait, daemon=True).start()
    here.wait()
    return told[0]


def write_map(pid: int, uid_map: str, gid_map: str) -> None:
    """Write the id maps of a process's new user namespace."""
    for name, text in (("uid_map", uid_map), ("gid_map", gid_map)):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


# The two sides


class Channel:
    """Messages and fds between a world and one of its actors."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        data = pickle.dumps(message)
        socket.send_fds(self.sock, [len(data).to_bytes(8, "little")], list(fds))
        self.sock.sendall(data)

    def receive(self) -> tuple[Any, list[int]]:
        size, fds, _, _ = socket.recv_fds(self.sock, 8, 200)
        if not size:
            raise EOFError
        data = b""
        while len(data) < int.from_bytes(size, "little"):
            data += self.sock.recv(1 << 20)
        return pickle.loads(data), fds


class Actor:
    """One process. pid: as the world numbers it. tid: of a thread of its own that is meant instead, if any."""

    def __init__(self, name: str, pid: int, channel: Channel) -> None:
        self.name = name
        self.pid = pid
        self.channel = channel

    def ask(self, function: Callable[..., Any], *args: Any, fds: Sequence[int] = ()) -> Any:
        """What the function returns when the actor calls it."""
        self.channel.send((function, args), fds)
        (kind, value), _ = self.channel.receive()
        if kind == "error":
            raise AssertionError(f"{self.name}: {value}")
        return value

    def __repr__(self) -> str:
        return self.name


class World:
    """Makes actors. A context manager: all of them end with it."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.children: list[int] = []
        self.targets: list[int] = []

    def __enter__(self) -> World:
        os.setsid()  # a session with a number, which the first process of a virtual machine has not
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | NEWUTS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors.values():
            actor.channel.sock.close()
        for pid in self.targets:
            os.kill(pid, signal.SIGKILL)
        for pid in (*self.children, *self.targets):
            os.waitpid(pid, 0)

    def actor(
        self,
        name: str,
        make: Callable[[], object] = lambda: None,
        maps: tuple[str, str] | None = None,
        then: Callable[[], object] = lambda: None,
        mapper: Actor | None = None,
        forks: bool = False,
    ) -> Actor:
        """Start an actor. make: changes it. maps: then written into its new user namespace, by root or mapper.

        then: what it does in that one. forks: what serves is a child of the changed process: new pid namespaces.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for other in self.actors.values():
                other.channel.sock.close()
            _act(Channel(theirs), make, then, maps is not None, forks)
        theirs.close()
        self.children.append(pid)
        channel = Channel(ours)
        if maps is not None:
            self._await(name, channel)
            if mapper:
                mapper.ask(write_map, pid, *maps)
            else:
                write_map(pid, *maps)
            channel.send("mapped")
        child = self._await(name, channel)
        self.actors[name] = Actor(name, child or pid, channel)
        return self.actors[name]

    def _await(self, name: str, channel: Channel) -> int:
        (kind, value), _ = channel.receive()
        assert kind == "ready", f"{name}: {value}"
        return int(value)

    def execute(self, actor: Actor, *command: str) -> int:
        """Let an actor execute a program; its pid. It acts no more, and is killed at the end of the world."""
        actor.channel.send((os.execv, (command[0], list(command))))
        try:
            answer = actor.channel.receive()
        except EOFError:  # the other end has closed: on exec
            answer = None
        assert answer is None, f"{actor}: {answer}"
        self.actors.pop(actor.name).channel.sock.close()
        self.children.remove(actor.pid)
        self.targets.append(actor.pid)
        return actor.pid


def _act(
    channel: Channel, make: Callable[[], object], then: Callable[[], object], mapped: bool, forks: bool
) -> NoReturn:
    try:
        make()
        if mapped:
            channel.send(("ready", 0))
            channel.receive()
        then()
        if forks and (pid := os.fork()):
            channel.send(("ready", pid))
            channel.sock.close()
            os.waitpid(pid, 0)
            os._exit(0)
        if not forks:
            channel.send(("ready", 0))
        _serve(channel)
    except EOFError:
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(("error", repr(error)))
    os._exit(0)


def _serve(channel: Channel) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        (function, args), fds = channel.receive()
        try:
            answer = ("done", function(*args, fds) if fds else function(*args))
        except BaseException as error:
            answer = ("error", repr(error))
        for fd in fds:
            os.close(fd)
        channel.send(answer)


# Who is there

USER, OTHER, THIRD = 40001, 40002, 40003
RANGE = ("0 100000 65536", "0 100000 65536")
ONE = (f"0 {USER} 1", f"0 {USER} 1")
NEWUSER, NEWPID, NEWUTS, NEWCGROUP, NEWIPC = kernel.CLONE_NEWUSER, 0x20000000, 0x04000000, 0x02000000, 0x08000000
ALL_BUT_USER = NEWPID | NEWUTS | NEWCGROUP | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | NEWIPC


def does(*acts: Callable[[], object]) -> Callable[[], None]:
    """One after the other."""

    def act() -> None:
        for one in acts:
            one()

    return act


def people(world: World) -> None:
    """Root and ordinary users, with more and fewer capabilities, in set-user-id like states, undumpable."""
    add = world.actor
    add("root")
    add("root without kill", partial(without, "kill"))
    add("root without ptrace", partial(without, "sys_ptrace"))
    add("root without admin", partial(without, "sys_admin", "sys_chroot"))
    add("root without any", partial(capabilities, ()))
    add("root, ptrace permitted", partial(capabilities, (), ("sys_ptrace", "kill")))
    add("root without any, undumpable", does(partial(capabilities, ()), partial(dumpable, 0)))
    add("root, undumpable", partial(dumpable, 0))
    add("user", partial(become, USER))
    add("user again", partial(become, USER))
    add("other", partial(become, OTHER))
    add("user, other group", partial(become, USER, OTHER))
    add("user, two groups", partial(become, USER, groups=(OTHER, THIRD)))
    add("user, own session", does(partial(become, USER), os.setsid))
    add("user, undumpable", does(partial(become, USER), partial(dumpable, 0)))
    add("user, just dropped", does(partial(os.setresgid, USER, USER, USER), partial(os.setresuid, USER, USER, USER)))
    add("user, no_new_privs", does(partial(become, USER), partial(kernel.prctl, PR_SET_NO_NEW_PRIVS, 1)))
    for name in ("kill", "sys_ptrace", "sys_admin", "sys_nice", "sys_resource", "net_bind_service"):
        if held() >> CAPS[name] & 1:  # root in a container may lack one
            add(f"user with {name}", partial(become, USER, keep=(name,)))
    for name in ("chown", "dac_override", "dac_read_search", "fowner"):
        add(f"other with {name}", partial(become, OTHER, keep=(name,)))
    add("other, ptrace and search", partial(become, OTHER, keep=("sys_ptrace", "dac_read_search")))
    add("user, kill permitted", does(partial(become, USER, keep=("kill",)), partial(capabilities, (), ("kill",))))
    gid = partial(os.setresgid, USER, USER, USER)
    for ids in ((USER, OTHER, USER), (USER, USER, OTHER), (USER, 0, 0), (USER, USER, 0), (OTHER, USER, USER)):
        add(f"user {ids}", does(gid, partial(os.setresuid, *ids), partial(dumpable, 1)))
    add("root, egid", does(partial(os.setresgid, 0, USER, USER), partial(dumpable, 1)))
    add("root, fsuid", does(partial(fsuid, USER), partial(dumpable, 1)))


def namespaces(world: World) -> None:
    """User namespaces below, beside and below one another; who enters one; pid namespaces, all namespaces."""
    add = world.actor
    new = partial(kernel.unshare, NEWUSER)

    def mine(uid: int) -> Callable[[], None]:
        return does(partial(become, uid), new)

    child = add("in user's", mine(USER), ONE)
    into_child = partial(join, child.pid, NEWUSER)
    add("in user's, powerless", mine(USER), ONE, partial(capabilities, ()))
    add("in user's second", mine(USER), ONE)
    add("in other's", mine(OTHER), (f"0 {OTHER} 1", f"0 {OTHER} 1"))
    add("in user's, root entered", into_child)
    add("in user's, user entered", does(partial(become, USER), into_child))
    add("in user's, below", does(partial(become, USER), into_child, new), ("0 0 1", "0 0 1"), mapper=child)
    box = add("in root's", new, RANGE, partial(dumpable, 1))
    into_box = partial(join, box.pid, NEWUSER)
    add("in root's, 0", new, RANGE, partial(become, 0, keep=("kill", "sys_ptrace", "sys_admin")))
    add("in root's, 0 undumpable", new, RANGE, does(partial(become, 0), partial(dumpable, 0)))
    add("in root's, 1000", into_box, then=partial(become, 1000))
    add("in root's, 1000 undumpable", into_box, then=does(partial(become, 1000), partial(dumpable, 0)))
    add("in root's, 1001 with kill", into_box, then=partial(become, 1001, keep=("kill", "dac_override")))
    for uid in (1000, 1001):
        maps = (f"0 {uid} 1", f"0 {uid} 1")
        add(f"in root's, {uid}'s own", does(into_box, partial(become, uid), new), maps, mapper=box)
    add("host's 101000", partial(become, 101000))
    every = partial(kernel.unshare, NEWUSER | ALL_BUT_USER)
    add("pid namespace, root", partial(kernel.unshare, NEWPID), forks=True)
    add("all namespaces, user", does(partial(become, USER), every), ONE, forks=True)
    add("all namespaces, root", every, RANGE, partial(become, 0, keep=tuple(CAPS)), forks=True)
    add("all namespaces, no user", partial(kernel.unshare, ALL_BUT_USER), forks=True)


class Verdict(Protocol):
    """What is compared: of nstool.security.verdict.Verdict."""

    @property
    def answer(self) -> str: ...
    @property
    def errno(self) -> str: ...
    @property
    def reasons(self) -> tuple[str, ...]: ...


TELLS_ALL = kernel.release() >= (6, 16)  # PIDFD_GET_INFO tells who is dumpable, and CAP_PERFMON reads memory's files
Try = tuple[str, Verdict, tuple[Any, ...]]  # what it is, the prediction, (function, arguments…) for all_of


class Comparison:
    """Predictions beside what the kernel said. wrong, unknown: sentences; counts: by kind and answer."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.unknown: list[str] = []

    def ask(self, actor: Actor, tries: list[Try]) -> list[int]:
        """Let the actor try all of it, and compare; the errnos."""
        answers: list[int] = actor.ask(all_of, [row for _, _, row in tries])
        for (what, verdict, _), number in zip(tries, answers):
            self.add(f"{what}: {actor.name}", verdict, number)
        return answers

    def add(self, what: str, verdict: Verdict, number: int) -> None:
        """Compare one."""
        self.counts[f"{what.split(':')[0]}: {verdict.answer}"] += 1
        said = errno.errorcode.get(number, "0")
        if verdict.answer == "unknown":
            if TELLS_ALL or not any(text in str(verdict.reasons) for text in ("is B dumpable", "is it a profiler")):
                self.unknown.append(f"{what}: {verdict.reasons}, the kernel said {said}")
        elif (verdict.answer, verdict.errno) == ("no", "") and not TELLS_ALL and said != "0":
            return  # for one of two reasons, which may have different errnos
        elif (verdict.errno or "0").split(",")[0] != said:  # "0, but it is dropped": kill(2) tells nobody
            self.wrong.append(f"{what}: {verdict.answer} {verdict.errno} {verdict.reasons}, the kernel said {said}")

    def result(self) -> tuple[dict[str, int], list[str], list[str]]:
        """(counts, wrong, unknown)."""
        return dict(self.counts), self.wrong, self.unknown
