"""A function is called in another namespace by a child that gives nothing away and takes nothing from there."""

from __future__ import annotations

import ctypes
import errno
import locale
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import KernelError, SpecError
from nstool.inspect import access, nsfs
from nstool.inspect.proc import Proc, ProcessGone
from nstool.inspect.within import call
from nstool.sandbox import inside, plain
from nstool.sandbox.inside import open_namespace
from tests.support import kernel
from tests.support.held import held, own_user_namespace, private_mounts
from tests.support.waiting import thread

Act = Callable[..., Any]

CLONE_NEWUTS = 0x04000000


def name_them() -> None:
    kernel.unshare(CLONE_NEWUTS)
    syscalls.sethostname("there")


@pytest.mark.needs("root")
def test_it_is_called_there_and_the_caller_stays(in_child: Act) -> None:
    def act() -> Any:
        before = os.uname().nodename
        with held(name_them) as pid, Proc(pid) as proc:
            return call(proc, "uts", lambda: os.uname().nodename), os.uname().nodename == before

    assert in_child(act) == (("there", None), True)


def test_in_the_callers_own_namespace_nothing_is_joined(as_user: Act) -> None:
    def act() -> Any:
        with Proc(os.getpid()) as proc:
            return call(proc, "ipc", os.getppid), os.getpid()

    (parent, maps), own = as_user(act)
    assert (parent, maps) == (own, None)


def test_an_ordinary_user_joins_its_user_namespace_too(as_user: Act) -> None:
    """And is told the maps, as the caller sees them."""

    def act() -> Any:
        def enter() -> None:
            own_user_namespace()
            name_them()

        with held(enter) as pid, Proc(pid) as proc:
            value, maps = call(proc, "uts", lambda: (os.uname().nodename, os.getuid()))
            assert maps is not None
            return value, [(line.inside, line.outside) for line in maps.uid], os.getuid()

    value, lines, uid = as_user(act)
    assert value == ("there", 0)
    assert lines == [(0, uid)]


@pytest.fixture(params=["forked", "interpreter"])
def by_both(request: pytest.FixtureRequest, in_child: Act) -> Act:
    """``in_child``, in a process that has one thread, and in one that has more."""

    def act(function: Act) -> Any:
        with thread() if request.param == "interpreter" else nullcontext():
            assert syscalls.single_threaded() is (request.param == "forked")
            return function()

    return lambda function: in_child(act, function)


@pytest.mark.needs("user")
def test_nobody_may_trace_the_child(by_both: Act) -> None:
    """Whatever it joins, and if that is nothing: it has the caller's memory, or may take others' ids."""
    assert by_both(lambda: inside.call({}, syscalls.prctl, uapi.PR_GET_DUMPABLE)) == 0


@pytest.mark.needs("root")
def test_the_child_is_shut_after_it_has_gained_capabilities(by_both: Act) -> None:
    """Then the kernel forgets of a process that it ends with its parent, and fs.suid_dumpable decides who traces it."""

    def enter() -> None:
        os.setresuid(1234, 1234, 1234)
        kernel.unshare(kernel.CLONE_NEWUSER)

    def act() -> Any:
        with held(enter) as pid, open(f"/proc/{pid}/ns/user", "rb") as namespace:
            return inside.call({"user": namespace.fileno()}, _signal_at_end)

    assert by_both(act) == signal.SIGKILL


def _signal_at_end() -> int:
    number = ctypes.c_int()
    ctypes.CDLL(None).prctl(uapi.PR_GET_PDEATHSIG, ctypes.byref(number))
    return number.value


def _import() -> str:
    try:
        import colorsys
    except ImportError:
        return "refused"
    return colorsys.__name__


@pytest.mark.needs("root")
def test_the_child_takes_no_file_from_another_mount_namespace(by_both: Act) -> None:
    """The paths of modules and messages lead to what others have put there."""

    def act() -> Any:
        sys.modules.pop("colorsys", None)
        locale.setlocale(locale.LC_ALL, "C.UTF-8")

        def enter() -> None:
            private_mounts()
            for path in sys.path:
                if os.path.isdir(path):
                    kernel.mount("tmpfs", path, "tmpfs")
                    Path(path, "colorsys.py").write_text("raise SystemExit('imported')")

        with held(enter) as pid, Proc(pid) as proc:
            language = call(proc, "mnt", locale.setlocale, locale.LC_MESSAGES)[0]
            return call(proc, "mnt", _import)[0], language

    assert by_both(act) == ("refused", "C")


@pytest.mark.needs("root")
def test_namespaces_of_several_owners(by_both: Act) -> None:
    """Each is joined; one that the caller is in is not."""

    def act() -> Any:
        with held(name_them) as pid, Proc(pid) as proc, Proc(os.getpid()) as own:
            fds = {"uts": proc.open("ns/uts"), "net": own.open("ns/net")}
            return inside.call(fds, os.uname)[1]

    assert by_both(act) == "there"


def test_what_is_raised_is_raised_here(by_both: Act) -> None:
    def act() -> str:
        with pytest.raises(SpecError) as caught:
            inside.call({}, _fail, SpecError("bad", "place"))
        return str(caught.value)

    assert by_both(act) == "place: bad"


def _fail(error: BaseException) -> None:
    raise error


def test_a_bug_comes_in_words(by_both: Act) -> None:
    def act() -> str:
        with pytest.raises(RuntimeError) as caught:
            inside.call({}, _fail, KeyError("missing"))
        return str(caught.value)

    assert by_both(act) == "KeyError: 'missing'"


def test_long_requests_and_answers_come_whole(by_both: Act) -> None:
    assert by_both(lambda: len(inside.call({}, bytes.upper, b"x" * (1 << 20)))) == 1 << 20


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()], ids=["exits", "interrupted"])
def test_a_child_that_ends_is_an_error(by_both: Act, error: BaseException) -> None:
    """It never goes on with the caller's program."""

    def act() -> str:
        with pytest.raises(KernelError) as caught:
            inside.call({}, _fail, error)
        return caught.value.why

    assert "ended before it answered" in by_both(act)


def test_a_child_that_is_killed_is_an_error(by_both: Act) -> None:
    def act() -> str:
        with pytest.raises(KernelError) as caught:
            inside.call({}, signal.raise_signal, signal.SIGKILL)
        return caught.value.why

    assert "ended before it answered" in by_both(act)


def test_a_child_that_never_answers_is_ended(by_both: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "_MOST_SECONDS", 1.0)

    def act() -> Any:
        reader, writer = os.pipe()
        with pytest.raises(KernelError) as caught:
            inside.call({}, os.read, reader, 1, keep=(reader,))
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        os.close(writer)
        return caught.value.errno

    assert by_both(act) == errno.ETIMEDOUT


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_child_that_is_stopped_is_an_error(by_both: Act, number: int) -> None:
    """Whoever may do that keeps nobody waiting, and has nothing left of it; the key of a terminal stops no child."""

    def act() -> str:
        try:
            inside.call({}, signal.raise_signal, number)
        except KernelError as error:
            with pytest.raises(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            return error.why
        return "answered"

    assert by_both(act) == (
        "somebody in there has stopped the child that was to look there" if number == signal.SIGSTOP else "answered"
    )


@pytest.mark.needs("root")
def test_root_of_a_user_namespace_that_stops_who_looks_there_gains_nothing(by_both: Act) -> None:
    """It has CAP_KILL over all that has joined it, user_namespaces(7): the caller sees the stop and ends the child."""

    def act() -> Any:
        told, tell = os.pipe()
        seen, see = os.pipe()

        def enter() -> None:
            os.setresgid(12345, 12345, 12345)
            os.setresuid(12345, 12345, 12345)
            kernel.unshare(kernel.CLONE_NEWUSER)

        def attack() -> None:
            enter()
            os.write(see, b"r")
            pid = int(os.read(told, 20))
            os.kill(pid, signal.SIGSTOP)

        attacker = os.fork()
        if attacker == 0:
            try:
                attack()
            finally:
                os._exit(0)
        os.read(seen, 1)
        with open(f"/proc/{attacker}/ns/user", "rb") as namespace, pytest.raises(KernelError) as caught:
            inside.call({"user": namespace.fileno()}, _tell_pid_and_wait, tell, see, keep=(tell, see))
        os.waitpid(attacker, 0)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return caught.value.why

    assert "has stopped the child" in by_both(act)


def _tell_pid_and_wait(tell: int, other: int) -> None:
    os.write(tell, str(os.getpid()).encode())
    signal.pause()


@pytest.mark.needs("root")
def test_whose_rights_are_asked_for_may_not_signal_who_asks(in_child: Act) -> None:
    """The child takes the ids of the file system alone, so that the others' owner has no say; and it stays shut."""

    def act() -> Any:
        told, tell = os.pipe()
        answer, say = os.pipe()
        attacker = os.fork()
        if attacker == 0:
            try:
                os.close(tell)
                _be_12345()
                while number := os.read(told, 20):
                    try:
                        os.kill(int(number), signal.SIGSTOP)
                        os.write(say, b"stopped it")
                    except PermissionError:
                        os.write(say, b"may not")
            finally:
                os._exit(0)

        def look(root: int, path: str) -> access.Access:
            os.write(tell, str(os.getpid()).encode())
            shut = (_signal_at_end(), syscalls.prctl(uapi.PR_GET_DUMPABLE))
            return access.Access(unknown=f"{os.read(answer, 20)!r} {shut} {asked(root, path)}")

        asked, access._ask = access._ask, look
        found = []
        for enter in (_be_12345, lambda: (_be_12345(), own_user_namespace())):
            with held(enter) as pid, Proc(pid) as proc, nsfs.Fd(os.open("/", os.O_PATH)) as root:
                found.append(access.access(proc, root, "/etc/shadow").unknown)
        os.close(tell)
        os.waitpid(attacker, 0)
        return found

    expected = f"{b'may not'!r} {(9, 0)} {access.Access(False, False, False)}"
    by_user, by_owner = in_child(act)
    assert by_user == expected
    assert "somebody in there has stopped the child" in by_owner  # who has made a user namespace has CAP_KILL over it


def _be_12345() -> None:
    os.setgroups([])
    os.setresgid(12345, 12345, 12345)
    os.setresuid(12345, 12345, 12345)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)


@pytest.mark.needs("root")
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_visitor_that_is_stopped_or_killed_is_none(in_child: Act, number: int) -> None:
    def act() -> Any:
        syscalls.setns = lambda fd, nstype=0: signal.raise_signal(number)  # type: ignore[assignment]
        with open("/proc/self/ns/mnt", "rb") as namespace, nsfs.Visitor(namespace.fileno()) as pid:
            found = pid
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return found

    assert in_child(act, timeout=60) == 0


@pytest.mark.needs("root")
def test_a_visitor_that_is_stopped_later_is_ended_too(in_child: Act) -> None:
    def act() -> Any:
        with open("/proc/self/ns/mnt", "rb") as namespace, nsfs.Visitor(namespace.fileno()) as pid:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return pid > 0

    assert in_child(act, timeout=60)


@pytest.mark.parametrize("said", [b"\x80\x04N.", b"[", b'["tuple", ["nstool", "os", "system", "exit"], null]', b"1"])
def test_an_answer_that_is_none_is_an_error(in_child: Act, said: bytes) -> None:
    """Who has taken the child over says what it likes: nothing of that is executed."""

    def act() -> str:
        plain.dumps = lambda value: said
        with pytest.raises(KernelError) as caught:
            inside.call({}, os.getpid)
        return caught.value.why

    assert in_child(act) == "what the child that was to look there has said is no answer"


def test_who_has_its_children_taken_by_the_kernel_may_ask_too(by_both: Act) -> None:
    """A host program that ignores SIGCHLD, or waits for all children, takes the child from its caller."""

    def act() -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return inside.call({}, abs, -7)

    assert by_both(act) == 7


@pytest.mark.orphans
def test_the_child_ends_with_its_caller(by_both: Act) -> None:
    """Even one that is killed while the child waits for what never comes."""

    def act() -> bool:
        reader, writer = os.pipe()
        ours, theirs = os.pipe()
        caller = os.fork()
        if caller == 0:
            try:
                os.close(ours)
                inside.call({}, _tell_and_wait, theirs, reader, keep=(theirs, reader))
            finally:
                os._exit(1)
        os.close(theirs)
        with open(ours, "rb") as pipe:
            assert pipe.read(1) == b"t"
            os.kill(caller, signal.SIGKILL)
            os.waitpid(caller, 0)
            ended: bool = pipe.read() == b""  # the child had the other end
        os.close(writer)
        return ended

    assert by_both(act)


def _tell_and_wait(tell: int, wait: int) -> None:
    os.write(tell, b"t")
    os.read(wait, 1)


def test_what_cannot_be_told_is_an_error(in_child: Act) -> None:
    def act() -> str:
        with pytest.raises(RuntimeError) as caught:
            inside.call({}, lambda: lambda: 0)
        return str(caught.value)

    assert "a function cannot be told" in in_child(act)


def test_who_is_not_there() -> None:
    with pytest.raises(Exception, match="there is no process 4194305"):
        open_namespace(4194305, "ipc")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Proc(pid) as proc:
        with pytest.raises(ProcessGone, match="has ended"):
            call(proc, "ipc", os.getpid)
        os.waitpid(pid, 0)
        with pytest.raises(ProcessGone, match="there is no process"):
            call(proc, "ipc", os.getpid)


@pytest.mark.needs("root")
def test_no_fd_and_no_child_is_left(by_both: Act) -> None:
    def act() -> Any:
        with held(name_them) as pid:
            namespace = open_namespace(pid, "uts")
            before = os.listdir("/proc/self/fd")
            for _ in range(3):
                inside.call({"uts": namespace}, os.getpid)
            after = os.listdir("/proc/self/fd")
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        return before == after

    assert by_both(act)
