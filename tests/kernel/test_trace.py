"""The plan is what is done: strace sees each step, in its order, made by its actor, with its arguments."""

from __future__ import annotations

import errno
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nstool.plan.calls import CALLS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.sandbox.launch import launch, preview
from tests.support import plans
from tests.support.probes import REPOSITORY
from tests.support.user import User

AT_FDCWD = -100
F_SETFD, F_GETFL, F_DUPFD_CLOEXEC = 2, 3, 1030
O_WRONLY, O_CLOEXEC = 1, 0x80000
CLONE_VM, CLONE_VFORK, CLONE_PIDFD, CLONE_INTO_CGROUP = 0x100, 0x4000, 0x1000, 0x200000000
CLONE_CHILD_CLEARTID = 0x200000
SIGKILL, SIGSTOP = 9, 19
MSG_NOSIGNAL = 0x4000
MSG_DONTWAIT = 0x40
FUTEX_WAIT, FUTEX_WAKE = 0, 1
RELEASE = struct.pack("<I", 1)
ANY = object()

# What the engine does besides its steps, by actor: to hand over, to let go of fds, to wait.
_HAND_OVER = ("socketpair", "pidfd_open", "getpid", "memfd_create", "writev", "lseek", "mmap", "munmap")
BOOKKEEPING: dict[str, frozenset[str]] = {
    LAUNCHER: frozenset((*_HAND_OVER, "rt_sigprocmask", "close", "fcntl")),
    INIT: frozenset(("close", "mmap")),
    PAYLOAD: frozenset(("close",)),
}
# What it does around a clone as another user: to be again what it was.
BECOMING = frozenset(("capget", "getresuid", "setfsuid", "prctl", "getppid"))
# What it does around the exec of init: to keep the fds that init needs, and to make init ready.
TAKE_OVER = frozenset(("rt_sigaction", "rt_sigprocmask", "read", "mmap", "munmap", "close", "close_range", "fcntl"))


# ---- what strace writes ----


class Call(NamedTuple):
    """One system call as strace -X raw -xx writes it. result: or -errno. pid: of a clone, as strace sees it."""

    name: str
    args: list[Any]
    result: int
    pid: int

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))}) = {self.result}"


class Words(int):
    """A value written as parts joined by "|". words: the parts."""

    words: list[int]


LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\w+|\?)(.*)")
TRANSLATED = re.compile(r"/\* (\d+) in strace's PID NS \*/")
TOKEN = re.compile(r"[^][{}(),= ]+")


def number(text: str) -> int:
    """Return a number in C's notation."""
    return int(text, 8 if re.fullmatch("0[0-7]+", text) else 0)


def parse_line(line: str) -> Call | None:
    """Return the call of a line, or None for a line that is about something else, or a call without end."""
    match = LINE.fullmatch(line)
    if match is None or match[3] == "?":
        return None
    refused = re.match(r" (E\w+)", match[4])
    result = -getattr(errno, refused[1]) if refused else number(match[3])
    translated = TRANSLATED.search(match[4])
    try:
        args = Parser(match[2]).items("")
    except (LookupError, SyntaxError):  # a call of Python's own, of a shape that no step has
        args = [match[2]]
    return Call(match[1], args, result, int(translated[1]) if translated else result)


class Parser:
    """Values as strace writes them: numbers, strings in hex, [lists], {structures}, as int, bytes, list, dict."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"\{WIF\w+\(s\) && \w+\(s\) == (\w+)[^}]*\}", r"\1", text)  # wait(2): what it is about
        self.text = re.sub(r" /\* .*? \*/", "", text)
        self.at = 0

    def peek(self) -> str:
        while self.text.startswith(" ", self.at):
            self.at += 1
        return self.text[self.at : self.at + 1]

    def items(self, end: str) -> list[Any]:
        found = []
        while (char := self.peek()) != end:
            if char == ",":
                self.at += 1
            else:
                found.append(self.value())
        self.at += len(end)
        return found

    def value(self) -> Any:
        char = self.peek()
        if named := re.compile(r"\w+=(?!=)").match(self.text, self.at):  # as clone(child_stack=NULL, ...)
            self.at = named.end()
            char = self.peek()
        if char == '"':
            end = self.text.index('"', self.at + 1)
            data = bytes.fromhex(self.text[self.at + 1 : end].replace("\\x", ""))
            self.at = end + 1
            return data
        if char in "[{~":
            self.at += 1
            found: Any = self.items("]") if char == "[" else self.fields() if char == "{" else ("not", self.value())
        else:
            found = self.word()
        if self.text.startswith(" => ", self.at):  # what the kernel wrote there
            self.at += 4
            return [found, self.value()]
        return found

    def word(self) -> Any:
        match = TOKEN.match(self.text, self.at)
        if match is None:
            raise SyntaxError(self.text[self.at : self.at + 40])
        self.at = match.end()
        if self.text.startswith("(", self.at):
            self.at += 1
            return (match[0], *self.items(")"))
        if match[0] == "NULL":
            return None
        try:
            words = [number(word) for word in match[0].split("|")]
        except ValueError:
            return match[0]
        total = Words(0)
        for word in words:
            total = Words(total | word)
        total.words = words
        return total

    def fields(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.peek() != "}":
            if self.text[self.at] == ",":
                self.at += 1
                continue
            match = re.compile(r"(\w+)=").match(self.text, self.at)
            if match is None:
                found[str(len(found))] = self.value()
            else:
                self.at = match.end()
                found[match[1]] = self.value()
        self.at += 1
        return found


def read_trace(prefix: Path) -> dict[int, list[Call]]:
    """Return pid → its calls, of ``strace -ff -o prefix``."""
    found = {}
    for path in prefix.parent.glob(prefix.name + ".*"):
        calls = map(parse_line, path.read_text().splitlines())
        found[int(path.suffix[1:])] = [call for call in calls if call is not None]
    return found


# ---- matching ----


class Mismatch(AssertionError):
    """The trace is not what the plan says."""


def _awaits_exec(call: Call) -> bool:
    # After its last step init waits until the payload has exec'ed: that is no step.
    return call.name == "futex" and call.args[1:3] == [FUTEX_WAIT, 1]


class Actor:
    """The calls of one process, taken one after the other. slots: name → fd, as this process knows them."""

    def __init__(self, who: str, calls: list[Call], slots: dict[str, int]) -> None:
        self.who = who
        self.calls = [call for call in calls if not _awaits_exec(call)]
        self.slots = dict(slots)
        self.at = 0
        self.between = BOOKKEEPING[who]

    def take(self, step: Step, name: str, *args: Any, anything_before: bool = False) -> Call:
        """Return the next call, which must be this one; only bookkeeping may come before it."""
        while self.at < len(self.calls):
            call = self.calls[self.at]
            self.at += 1
            if call.name == name and matches(args, call.args):
                return call
            if not anything_before and call.name not in self.between:
                raise Mismatch(f"{step} of {self.who}: wanted {name}{args}, but it did {call}")
        raise Mismatch(f"{step} of {self.who}: {name}{args} is not in the trace")

    def fd(self, value: Any) -> int:
        return self.slots[value.name] if isinstance(value, Fd) else value


def matches(wanted: Any, seen: Any) -> bool:
    """Whether a seen value is the wanted one; lists may be longer than what is wanted of them, dicts too."""
    if wanted is ANY:
        return True
    if isinstance(wanted, (tuple, list)):
        return isinstance(seen, list) and len(seen) >= len(wanted) and all(map(matches, wanted, seen))
    if isinstance(wanted, dict):
        return isinstance(seen, dict) and all(matches(value, seen.get(key, 0)) for key, value in wanted.items())
    if isinstance(wanted, int) and isinstance(seen, int):
        return (wanted - seen) % (1 << 64) == 0
    return bool(wanted == seen)


def raw(value: Any) -> Any:
    """Text as the kernel sees it."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


class Comparison:
    """Walks through a plan and a trace at the same time."""

    def __init__(self, plan: Plan, trace: dict[int, list[Call]], launcher: int, given: dict[str, int]) -> None:
        self.plan = plan
        self.trace = trace
        self.launcher = Actor(LAUNCHER, trace[launcher], given)
        self.init = self.payload = self.launcher
        self.init_pid = 0
        self.free = True  # the launcher is Python here: what it does is not the plan's

    def run(self) -> None:
        """Raise Mismatch unless each actor did its steps, all of them, in order, and nothing else in between."""
        for step in self.plan.steps:
            if step.who == UNDO:
                continue
            actor = {LAUNCHER: self.launcher, CHILD: self.init, INIT: self.init, PAYLOAD: self.payload}[step.who]
            if step.call == "external":
                self.free = True
                continue
            special = getattr(self, f"do_{step.call}", None)
            if special is not None:
                call = special(actor, step)
            else:
                call = self.take(actor, step, step.call, *self.plain(actor, step))
            if step.result:
                if step.ignore and call.result == -step.ignore:
                    raise Mismatch(f"{step} was left out: take a spec in which it is not")
                actor.slots[step.result] = call.result
            if call.result < 0 and call.result != -step.ignore and step.call != "drop_bounding":
                raise Mismatch(f"{step} failed: {call}")
        later = self.launcher.calls[self.launcher.at :]
        released = sum(call.name == "sendto" and call.args[2] == 64 for call in later)  # not one of netlink
        if released != sum(step.call == "attest" for step in self.plan.steps):
            raise Mismatch(f"the launcher released somebody {released} times after its steps")
        if self.payload.calls[self.payload.at - 1].name != "execve":
            raise Mismatch("there is more to the payload than the plan says")
        if self.plan.init:  # nothing comes between the last step of init and its report
            self.take(self.init, Step(INIT, "report", (), ""), "sendto", ANY, ANY, 64, MSG_NOSIGNAL | MSG_DONTWAIT)

    def take(self, actor: Actor, step: Step, name: str, *args: Any) -> Call:
        free = actor is self.launcher and self.free
        call = actor.take(step, name, *args, anything_before=free)
        if actor is self.launcher:
            self.free = False
        return call

    def plain(self, actor: Actor, step: Step) -> list[Any]:
        kinds = CALLS[step.call].kinds
        return [actor.fd(value) if kind == "f" else raw(value) for kind, value in zip(kinds, step.args)]

    # ---- the calls that are not one system call of the same name ----

    def do_openat2(self, actor: Actor, step: Step) -> Call:
        dirfd, path, flags, mode, resolve = self.plain(actor, step)
        return self.take(actor, step, "openat2", dirfd, path, {"flags": flags, "mode": mode, "resolve": resolve}, 24)

    def do_mount_setattr(self, actor: Actor, step: Step) -> Call:
        fd, path, flags, attr_set, attr_clr, propagation, userns = self.plain(actor, step)
        attr = {
            "attr_set": attr_set,
            "attr_clr": attr_clr,
            "propagation": propagation,
            "userns_fd": max(userns, 0),
        }
        return self.take(actor, step, "mount_setattr", fd, path, flags, attr, 32)

    def do_prctl(self, actor: Actor, step: Step) -> Call:
        call = self.take(actor, step, "prctl", step.args[0])
        if not matches(call.args, list(step.args)):  # strace leaves out what an option does not use
            raise Mismatch(f"{step}: {call}")
        return call

    def write_out(self, actor: Actor, step: Step, opened: Call, data: Any) -> Call:
        written = self.take(actor, step, "write", opened.result, data, len(data))
        closed = self.take(actor, step, "close", opened.result)
        return written if written.result != len(data) else closed

    def do_write_file(self, actor: Actor, step: Step) -> Call:
        dirfd, path, data, flags, mode = self.plain(actor, step)
        how = (O_WRONLY | O_CLOEXEC | flags, *([mode] if flags & 0o100 else []))
        return self.write_out(actor, step, self.take(actor, step, "openat", dirfd, path, *how), data)

    def do_write_proc(self, actor: Actor, step: Step) -> Call:
        name, data = map(raw, step.args)
        path = b"/proc/%d/%s" % (self.init_pid, name)
        return self.write_out(actor, step, self.take(actor, step, "openat", AT_FDCWD, path, O_WRONLY | O_CLOEXEC), data)

    def do_write(self, actor: Actor, step: Step) -> Call:
        fd, data = self.plain(actor, step)
        return self.take(actor, step, "write", fd, data, len(data))

    def do_sethostname(self, actor: Actor, step: Step) -> Call:
        name = raw(step.args[0])
        return self.take(actor, step, step.call, name, len(name))

    do_setdomainname = do_sethostname

    def do_ioctl(self, actor: Actor, step: Step) -> Call:
        fd, request, data = self.plain(actor, step)
        if request == 0x8914:  # SIOCSIFFLAGS, netdevice(7)
            name, flags = struct.unpack_from("16sH", data)
            return self.take(actor, step, "ioctl", fd, request, {"ifr_name": name.rstrip(b"\0"), "ifr_flags": flags})
        return self.take(actor, step, "ioctl", fd, request, [int.from_bytes(data[:4], "little")])

    def do_ioctl_int(self, actor: Actor, step: Step) -> Call:
        return self.take(actor, step, "ioctl", *self.plain(actor, step))

    def do_setgroups(self, actor: Actor, step: Step) -> Call:
        groups = list(memoryview(raw(step.args[0])).cast("I")) if step.args[0] else []
        return self.take(actor, step, "setgroups", len(groups), groups)

    def do_capset(self, actor: Actor, step: Step) -> Call:
        call = self.take(actor, step, "capset", {"version": 0x20080522, "pid": 0})
        seen = [cap_mask(call.args[1][name]) for name in ("effective", "permitted", "inheritable")]
        if seen != list(step.args):
            raise Mismatch(f"{step}: {call}")
        return call

    def do_raise_ambient(self, actor: Actor, step: Step) -> Call:
        header = {"version": 0x20080522, "pid": 0}
        before = self.take(actor, step, "capget", header)
        call = self.take(actor, step, "capset", header)
        permitted = cap_mask(before.args[1]["permitted"])
        assert isinstance(step.args[0], int)
        wanted = permitted & step.args[0]
        if cap_mask(call.args[1]["inheritable"]) != wanted | cap_mask(before.args[1]["inheritable"]):
            raise Mismatch(f"{step}: {call}")
        for number in bits(wanted):
            call = self.take(actor, step, "prctl", 47, 2, number)
        return call

    def do_drop_bounding(self, actor: Actor, step: Step) -> Call:
        assert isinstance(step.args[0], int)
        for number in bits(~step.args[0] & (1 << 64) - 1):
            call = self.take(actor, step, "prctl", 24, number)
            if call.result == -errno.EINVAL:  # past the last that this kernel has
                break
        return call

    def do_seccomp(self, actor: Actor, step: Step) -> Call:
        flags, program = self.plain(actor, step)
        call = self.take(actor, step, "seccomp", 1, flags, {"len": len(program) // 8})
        seen = [(code, *(jumps or (0, 0)), k) for _, code, k, *jumps in call.args[2]["filter"]]  # BPF_STMT, BPF_JUMP
        if seen != list(struct.iter_unpack("<HBBI", program)):
            raise Mismatch("another filter was loaded")
        return call

    def do_setrlimit(self, actor: Actor, step: Step) -> Call:
        resource, soft, hard = step.args
        of = self.init_pid if step.who == LAUNCHER else 0
        return self.take(actor, step, "prlimit64", of, resource, {"rlim_cur": soft, "rlim_max": hard}, None)

    def do_dup3(self, actor: Actor, step: Step) -> Call:
        old, new, flags = self.plain(actor, step)
        if old == new:
            return self.take(actor, step, "fcntl", old, F_SETFD, 0)
        return self.take(actor, step, "dup3", old, new, flags)

    def do_close_range(self, actor: Actor, step: Step) -> Call:
        """In pieces, between which lie the engine's own fds: at most the socket, and of init two more."""
        first, last, flags = self.plain(actor, step)
        kept = 3 if step.who == INIT else 1
        while True:
            call = self.take(actor, step, "close_range", ANY, ANY, flags)
            kept -= call.args[0] - first
            first = call.args[1] + 1
            if call.args[0] > call.args[1] or kept < 0 or call.result < 0:
                raise Mismatch(f"{step}: {call}")
            if first > last:
                return call

    def do_reset_signals(self, actor: Actor, step: Step) -> Call:
        for number in range(1, 65):
            if number not in (SIGKILL, SIGSTOP):
                self.take(actor, step, "rt_sigaction", number, {"sa_handler": 0, "sa_mask": [], "sa_flags": 0})
        return self.take(actor, step, "rt_sigprocmask", 2, [], None, 8)

    def do_own_null(self, actor: Actor, step: Step) -> Call:
        call = Call("statx", [], 0, 0)
        for fd in range(3):
            call = self.take(actor, step, "statx", fd, b"", ANY, 1, ANY)
            found = call.args[4]
            if (found["stx_mode"] & 0o170000, found["stx_rdev_major"], found["stx_rdev_minor"]) == (0o020000, 1, 3):
                flags = self.take(actor, step, "fcntl", fd, F_GETFL).result
                own = self.take(actor, step, "openat", AT_FDCWD, b"/dev/null", flags & 0o6003)
                self.take(actor, step, "dup3", own.result, fd, 0)
                call = self.take(actor, step, "close", own.result)
        return call

    def do_clone3(self, actor: Actor, step: Step) -> Call:
        flags, cgroup, tid, owner = step.args
        assert isinstance(flags, int)
        how = CLONE_VFORK | CLONE_PIDFD if actor is self.launcher else CLONE_CHILD_CLEARTID
        wanted: dict[str, Any] = {"flags": flags | CLONE_VM | how, "set_tid": [tid] if tid else 0}
        if actor is self.launcher and isinstance(cgroup, Fd):
            wanted["flags"] |= CLONE_INTO_CGROUP
            wanted["cgroup"] = actor.slots[cgroup.name]
        if owner:
            actor.between |= BECOMING
            self.take(actor, step, "setresuid", owner, owner, 0)
            self.take(actor, step, "capset", ANY, ANY)
        call = self.take(actor, step, "clone3", ANY)
        if owner:
            self.take(actor, step, "setresuid", 0, 0, 0)
            self.take(actor, step, "capset", ANY, ANY)
            actor.between = BOOKKEEPING[LAUNCHER]
        seen = call.args[0][0] if isinstance(call.args[0], list) else call.args[0]
        if not matches(wanted, seen):
            raise Mismatch(f"{step}: {call}")
        if actor is self.launcher:
            self.init_pid = call.result
            self.init = Actor(INIT, self.trace[call.pid], actor.slots)
        else:
            self.payload = Actor(PAYLOAD, self.trace[call.pid], actor.slots)
        return call

    def do_exec_init(self, actor: Actor, step: Step) -> Call:
        actor.between = TAKE_OVER
        return self.take(actor, step, "execveat", ANY, b"", [b"nsexec:init", ANY], [], 0x1000)

    def do_wait(self, actor: Actor, step: Step) -> Call:
        call = self.take(actor, step, "recvfrom", ANY, ANY, 64)
        actor.between = BOOKKEEPING[actor.who]
        if not call.args[1].startswith(RELEASE):
            raise Mismatch(f"{step}: {call}")
        return call

    def do_release(self, actor: Actor, step: Step) -> Call:
        call = self.take(actor, step, "sendto", ANY, ANY, 64, MSG_NOSIGNAL)
        if not call.args[1].startswith(RELEASE):
            raise Mismatch(f"{step}: {call}")
        return call

    def do_attest(self, actor: Actor, step: Step) -> Call:
        self.take(actor, step, "write", ANY, ANY, 64)
        call = self.take(actor, step, "read", ANY, ANY, 64)
        if not call.args[1].startswith(RELEASE):
            raise Mismatch(f"{step}: {call}")
        return call

    def do_answer_sysinfo(self, actor: Actor, step: Step) -> Call:
        moved = self.take(actor, step, "fcntl", actor.fd(step.args[0]), F_DUPFD_CLOEXEC, ANY)
        actor.slots[step.args[0].name] = moved.result
        return moved._replace(result=0)

    def do_futex_wake(self, actor: Actor, step: Step) -> Call:
        return self.take(actor, step, "futex", ANY, FUTEX_WAKE, 1)

    def do_futex_wait(self, actor: Actor, step: Step) -> Call:
        coming = (call.name for call in actor.calls[actor.at :] if call.name not in actor.between)
        if next(coming, "") != "futex":
            return Call("futex", [], 0, 0)  # it was open already, which is looked at before
        call = self.take(actor, step, "futex", ANY, FUTEX_WAIT, 0, ANY)
        return call._replace(result=0) if call.result == -errno.EAGAIN else call  # it was open by then

    def do_send_fd(self, actor: Actor, step: Step) -> Call:
        fd = {"cmsg_level": 1, "cmsg_type": 1, "cmsg_data": [actor.fd(step.args[0])]}
        return self.take(actor, step, "sendmsg", ANY, {"msg_control": [fd]}, MSG_NOSIGNAL)

    def do_execve(self, actor: Actor, step: Step) -> Call:
        paths, argv, envp = step.args
        assert isinstance(paths, tuple)
        assert isinstance(argv, tuple)
        assert isinstance(envp, tuple)
        for path in paths:
            call = self.take(actor, step, "execve", raw(path), list(map(raw, argv)), list(map(raw, envp)))
            if call.result == 0:
                break
        return call

    def do_spawn(self, actor: Actor, step: Step) -> Call:
        assert isinstance(step.args[0], tuple)
        call = self.take(actor, step, "clone")
        argv = [raw(str(self.init_pid) if word == "{pid}" else word) for word in step.args[0]]
        # A copy of the launcher waits for the one that execs: it is nobody's to reap.
        (copy,) = (c for c in self.trace[call.pid] if c.name == "clone")
        Actor(LAUNCHER, [c for c in self.trace[copy.pid] if c.name == "execve"], {}).take(step, "execve", argv[0], argv)
        ended = self.take(actor, step, "wait4", call.pid)
        return call._replace(result=0) if ended.result == call.pid else ended


def cap_mask(seen: Any) -> int:
    """The 64 bits of a capability set, which strace writes as two words."""
    low, high = (*seen.words, 0)[:2]
    return int(low | high << 32)


def bits(mask: int) -> Iterator[int]:
    return (number for number in range(64) if mask >> number & 1)


# ---- tracing ----


class Traced(NamedTuple):
    """A command of nstool: the plan that its engine was given, with the fds, and the trace."""

    plan: Plan
    fds: dict[str, int]
    trace: dict[int, list[Call]]
    launcher: int


def trace_nstool(directory: Path, *words: str, user: User | None = None) -> Traced:
    """Run nstool with these words below strace; it must succeed."""
    kept = directory / "plans"
    kept.touch()
    if user is not None:
        os.chown(kept, user.uid, user.gid)
    prefix = directory / "trace"
    strace = ["strace", "-ff", "-v", "-s", "1000000", "-X", "raw", "-xx", "--decode-pids=pidns", "-o", str(prefix)]
    command = [
        sys.executable,
        "-m",
        "tests.support.plans",
        str(kept),
        pickle.dumps(user).hex() if user else "-",
        *words,
    ]
    run = subprocess.run([*strace, *command], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    trace = read_trace(prefix)
    launcher = next(
        pid for pid, calls in trace.items() if calls[0].name == "execve" and b"tests.support.plans" in calls[0].args[1]
    )
    plan, fds = pickle.loads(kept.read_bytes())
    return Traced(plan, fds, trace, launcher)


def compare(traced: Traced) -> None:
    """Raise Mismatch unless the trace is that of the plan."""
    Comparison(traced.plan, traced.trace, traced.launcher, traced.fds).run()


RUN = ("run", "--terminal", "never")


@pytest.mark.needs("root", "strace")
def test_safe_default(tmp_path: Path, name: str) -> None:
    """``nstool run -- true`` does what the plan says. Without any one of the steps the plan would be another."""
    traced = trace_nstool(tmp_path, *RUN, "--name", name, "--", "true")
    compare(traced)
    steps = [step for step in traced.plan.steps if step.who != UNDO]
    assert len(steps) > 150
    assert {step.who for step in steps} == {LAUNCHER, CHILD, INIT, PAYLOAD}
    hold = next(i for i, step in enumerate(steps) if step.call == "futex_wait")
    if fits(traced, (*steps[:hold], *steps[hold + 1 :])):  # init was faster: the wait makes no call
        del steps[hold]
    # But for the first: what comes before it is the launcher's own affair.
    unnoticed = [step for i, step in enumerate(steps) if fits(traced, (*steps[:i], *steps[i + 1 :]))]
    assert unnoticed == steps[:1]
    for i, (step, other) in enumerate(pairwise(steps)):
        if step.who == other.who and step != other:
            assert not fits(traced, (*steps[:i], other, step, *steps[i + 2 :])), (step, other)


def fits(traced: Traced, steps: tuple[Step, ...]) -> bool:
    """Whether the trace could be that of these steps."""
    try:
        compare(traced._replace(plan=traced.plan.replace(steps=steps)))
    except (Mismatch, KeyError):  # KeyError: an fd that no step has opened
        return False
    return True


def calls_of(traced: Traced) -> set[str]:
    return {step.call if step.call != "external" else str(step.args[0]) for step in traced.plan.steps}


@pytest.mark.needs("root", "strace", "veth", "nft")
def test_link_and_published_port(tmp_path: Path, name: str) -> None:
    """With a link, firewall rules, generated files and a limit of cpu."""
    words = ("--net", "veth", "--publish", f"{plans.free_port()}:80", "--cpu", "0.5")
    traced = trace_nstool(tmp_path, *RUN, "--name", name, *words, "--", "true")
    compare(traced)
    assert calls_of(traced) >= {"nft_publish", "veth_create", "write_file"}


TMPFS_SPEC = """
command = ["/bin/busybox", "true"]
root.type = "tmpfs"
domainname = "example"
personality = "linux32"
next_pid = 77
subreaper = true
securebits = ["keep_caps_locked"]
user = "1000:1001"
groups = ["4", "5"]
ipc.shmmni = 16

[capabilities]
effective = ["chown"]
permitted = ["chown"]
inheritable = ["chown"]
bounding = ["chown"]
ambient = ["chown"]

[[mounts]]
target = "/bin/busybox"
source = "/bin/busybox"

[[mounts]]
target = "/data"
type = "tmpfs"
"""


@pytest.mark.needs("root", "strace", "busybox")
def test_tmpfs_root_and_words_that_few_use(tmp_path: Path, name: str) -> None:
    """With an empty root, binds, a pid, groups, capabilities and a personality that the spec chooses."""
    spec = tmp_path / "spec.toml"
    spec.write_text(TMPFS_SPEC)
    traced = trace_nstool(tmp_path, *RUN, "--name", name, str(spec))
    compare(traced)
    assert calls_of(traced) >= {"personality", "fsmount", "setgroups", "capset"}


@pytest.mark.needs("user", "userns", "strace", "root")
@pytest.mark.parametrize("helpers", [pytest.param(True, marks=pytest.mark.needs("newuidmap")), False])
def test_ordinary_user(tmp_path: Path, name: str, user: User, helpers: bool) -> None:
    """As an ordinary user: the maps are written by newuidmap and newgidmap, or are of one id. (strace is root.)"""
    one_id = () if helpers else ("--uid-map", f"1000:{user.uid}:1", "--gid-map", f"1000:{user.gid}:1")
    words = ("--name", name, "--memory", "0", "--pids", "0", "--cpu", "0", *one_id)
    traced = trace_nstool(tmp_path, *RUN, *words, "--", "true", user=user)
    compare(traced)
    assert calls_of(traced) >= ({"spawn"} if helpers else {"write_proc"})


@pytest.mark.needs("root", "strace")
def test_exec_into_a_sandbox(tmp_path: Path, name: str) -> None:
    """``nstool exec``: joining, entering the cgroups, and the same hardening."""
    spec = plans.default(name).replace(command=("sleep", "60"))
    with launch(spec):
        traced = trace_nstool(tmp_path, "exec", "--terminal", "never", name, "--", "true")
    compare(traced)
    assert calls_of(traced) >= {"setns", "seccomp", "capset"}


@pytest.mark.needs("root")
def test_shown_plan_is_the_one_that_runs(name: str) -> None:
    """``nstool plan`` shows what ``nstool run`` does, but for the ids and names that are leased for each launch."""
    spec = plans.default(name)
    shown = preview(spec)
    with plans.recorded() as given, launch(spec) as sandbox:
        assert sandbox.plan == given[0].plan
    (plan, _) = given[0]
    assert [like(step) for step in shown.steps] == [like(step) for step in plan.steps]


def like(step: Step) -> str:
    """A step without what is leased: host ids, random ids and ends of names, where its clocks begin."""
    text = re.sub(r"(nstool-[\w.-]+-)[0-9a-f]{6}", r"\1", repr(step))
    text = re.sub(r"(monotonic|boottime) -?\d+ \d+|(btime) \d+", r"\1\2", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", "random", text)
    text = re.sub(r"('clone3', args=\(.*, \d+), \d+\)", r"\1, ID)", text)
    return re.sub(r"\b0 \d+ 65536", "0 ID 65536", text)
