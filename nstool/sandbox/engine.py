"""The engine's door: give an encoded plan to C, run the external steps, take the report."""

from __future__ import annotations

import fcntl
import os
from _thread import allocate_lock

from nstool._native import ffi, lib
from nstool.errors import KernelError, NstoolError
from nstool.frozen import Frozen
from nstool.plan.steps import Plan, Step
from nstool.plan.template import Program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nstool.namespaces.user import Maps

IMAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "nsexec")
_SEALS = 0xF  # F_SEAL_SEAL | SHRINK | GROW | WRITE, memfd_create(2)
_MFD = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_MESSAGE_SIZE = ffi.sizeof("struct nst_message")
_FIONREAD = 0x541B  # ioctl_tty(2); asm-generic/ioctls.h

# What a launch works with, to be used again: clearing 64 kB of stack each time costs more than keeping them. As many as
# there ever were launches at the same time. Taking from a list and appending to it are atomic.
_idle: list[tuple[Any, Any]] = []
_image: tuple[int, int] = (-1, 0)  # fd and inode of the sealed copy of nsexec
_image_lock = allocate_lock()


def image() -> int:
    """Return the fd of a sealed copy of nsexec in memory, made once a process. memfd_create(2).

    Init runs from it: nothing inside can write the file that the host runs (CVE-2019-5736).
    """
    global _image
    fd = _known_image()
    if fd < 0:
        with _image_lock:
            fd = _known_image()  # another thread may have made it meanwhile
            if fd < 0:
                fd = _make_image()
                _image = (fd, os.fstat(fd).st_ino)
    return fd


def _known_image() -> int:
    fd, inode = _image
    try:
        return fd if fd >= 0 and os.fstat(fd).st_ino == inode else -1
    except OSError:  # somebody closed all fds, as a daemon does: make it anew
        return -1


def _make_image() -> int:
    source = os.open(IMAGE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = _memfd("nsexec")
        if fd < 3:  # a standard stream is closed; it must not become the image
            low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
            os.close(low)
        try:
            while os.sendfile(fd, source, None, 1 << 20):
                continue
        except OSError as error:
            raise _no_image("sendfile(nsexec)", error) from None
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return fd
    finally:
        os.close(source)


def _memfd(name: str) -> int:
    try:
        return os.memfd_create(name, _MFD)
    except OSError as error:
        raise _no_image(f'memfd_create("{name}")', error) from None


def _no_image(call: str, error: OSError) -> KernelError:
    from nstool.plan.hints import explain

    causes, remedies, checked = explain(Step("launcher", "memfd_create", (), ""), error.errno or 0)
    why = "a sealed copy of nsexec, which init runs from"
    return KernelError(call, error.errno or 0, "", why, causes, remedies, checked)


class Message(Frozen):
    """What init told: type is one of FAILED, STARTED, EXITED, FD, READY. See struct nst_message."""

    type: int
    step: int
    error: int
    detail: int
    pid: int
    status: int
    utime_us: int
    stime_us: int
    maxrss_kb: int


FAILED: int = lib.NST_MSG_FAILED
STARTED: int = lib.NST_MSG_STARTED
EXITED: int = lib.NST_MSG_EXITED
FD: int = lib.NST_MSG_FD
READY: int = lib.NST_MSG_READY
# Messages that are read after init's end: its own are among the first, as many as a socket holds, unix(7). Whoever else
# holds its end of the socket could send for ever.
LATE = 4096
_LOOK_AGAIN = 500  # milliseconds, after which it is looked at what could keep init from ending


class Process:
    """The new process: pid and pidfd of init (or of the command itself), and its control socket.

    Owns its two fds; ``close`` closes them, which ends a sandbox that dies with its parent.
    """

    def __init__(self, program: Program, pid: int, pidfd: int, control: int) -> None:
        self.program = program
        self.pid = pid
        self.pidfd = pidfd
        self.control = control

    def read(self) -> Message | None:
        """Wait for the next message; None when the socket is closed: by an exec, init's end, or us.

        What is no message, of a command that has got at init's socket, has a type of no meaning, 0 if it is empty.
        """
        while self.control >= 0:
            try:
                data = os.read(self.control, _MESSAGE_SIZE)
            except ConnectionResetError:  # init ended with something of ours unread; what it told comes after this
                continue
            except BlockingIOError:  # after await_end: it was the last
                return None
            # Without init the other end is closed by the exec: no command has it.
            return None if not data and (not self.program.init or self._closed()) else _decode(data)
        return None

    def _closed(self) -> bool:
        """Whether nothing was read because the other end is closed, not because of an empty packet. unix(7)."""
        import select

        poll = select.poll()
        poll.register(self.control, 0)
        hangup = any(events & select.POLLHUP for _, events in poll.poll(0))
        return hangup and not any(fcntl.ioctl(self.control, _FIONREAD, bytes(4)))

    def await_end(self) -> None:
        """Wait until the process has ended; ``read`` does not wait any more then, whoever else has init's socket."""
        if self.pidfd < 0:
            return
        import select

        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        while not poll.poll(_LOOK_AGAIN):
            _reap_adopted(self.pid)
        if self.control >= 0:
            os.set_blocking(self.control, False)

    @property
    def sends_fd(self) -> bool:
        """Whether init sends an fd: the master of the sandbox's terminal."""
        return "ptmx" in self.program.slots

    def receive(self) -> tuple[Message | None, int]:
        """As ``read``, with the fd that came along, or -1."""
        import _socket  # not socket, which imports enum and selectors

        end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(self.control))
        try:
            try:
                data, ancillary, _, _ = end.recvmsg(_MESSAGE_SIZE, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # as in read: said once, before what init told
                data, ancillary, _, _ = end.recvmsg(_MESSAGE_SIZE, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
        finally:
            end.close()
        fds = [int.from_bytes(payload[:4], "little", signed=True) for _, _, payload in ancillary]
        return (None if not data and self._closed() else _decode(data)), (fds[0] if fds else -1)

    def signal(self, number: int) -> None:
        """Send a signal to the command: init does it, who knows it by a pid that cannot be another's.

        Raises ProcessLookupError when it has ended, ValueError for a number that is no signal.
        """
        if not 0 < number <= 64:
            raise ValueError(f"{number} is no signal")
        if self.control < 0 or self.pidfd < 0:
            raise ProcessLookupError
        if not self.program.init:
            import _signal  # the C half of signal, which does not import enum

            _signal.pidfd_send_signal(self.pidfd, number)
            return
        self._send(lib.NST_MSG_SIGNAL, number)

    def tells_within(self, seconds: float) -> bool:
        """Wait so long for a message, or for the end of the other side; whether it came."""
        import select

        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def release(self) -> None:
        """Let the payload go on from its attest step. Raises ProcessLookupError when it has ended."""
        self._send(lib.NST_MSG_RELEASE, 0)

    def _send(self, kind: int, detail: int) -> None:
        import _socket

        message = ffi.new("struct nst_message *", {"type": kind, "detail": detail})
        end = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(self.control))
        try:
            end.send(ffi.buffer(message), _socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise ProcessLookupError from None
        finally:
            end.close()

    def close(self) -> None:
        """Close both fds. Idempotent."""
        for name in ("control", "pidfd"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)

    def kill_and_reap(self) -> None:
        """SIGKILL the process and wait for its end, then close."""
        if self.pidfd >= 0:
            import _signal  # the C half of signal, which does not import enum

            try:
                _signal.pidfd_send_signal(self.pidfd, 9)
            except ProcessLookupError:  # it has been reaped already
                self.close()
                return
            self.reap()
        self.close()

    def reap(self) -> int | None:
        """Wait for the process to end; its status as of wait(2), None if another has reaped it or it is closed."""
        if self.pidfd < 0:
            return None
        try:
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        except ChildProcessError:  # a SIGCHLD handler of the host's takes it, or has taken it
            import select

            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll()
            return None
        if info is None:
            return None
        return info.si_status << 8 if info.si_code == os.CLD_EXITED else info.si_status


def _reap_adopted(init: int) -> None:
    """Reap dead children of ours in the pid namespace of this init, which cannot end before. pid_namespaces(7).

    They come to a caller that is a child subreaper, or process 1, when the monitor of an exec was killed from outside.
    """
    try:
        inside = os.stat(f"/proc/{init}/ns/pid").st_ino
        if inside == os.stat("/proc/self/ns/pid").st_ino:
            return
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as file:
                children = [int(word) for word in file.read().split()]
            for pid in children:
                if pid != init and os.stat(f"/proc/{pid}/ns/pid").st_ino == inside:
                    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except (OSError, ValueError):  # one has just gone, or may not be looked at: the next time tells
        return


def decode(data: bytes) -> Message:
    """Return the message in the bytes of one packet."""
    m = ffi.from_buffer("struct nst_message *", data)[0]
    return Message(m.type, m.step, m.error, m.detail, m.pid, m.status, m.utime_us, m.stime_us, m.maxrss_kb)


def _decode(data: bytes) -> Message:
    return decode(data.ljust(_MESSAGE_SIZE, b"\0"))


def check(data: bytes) -> None:
    """Raise NstoolError unless data is a plan that C would run."""
    failure = ffi.new("struct nst_failure *")
    if lib.nst_plan_check(ffi.from_buffer(data), len(data), failure) < 0:
        raise NstoolError(f"not a compiled plan: step {failure.step + 1}, reason {failure.detail}")


def start(
    program: Program,
    given: Mapping[str, int],
    external: Callable[[str, object, int], None],
    cloned: Callable[[int], None] = lambda pid: None,
) -> Process:
    """Run the launcher's steps of a program and return the new process, which may still be at its own steps.

    given: fd of each name in the plan's ``given``. external(name, args, pid)
    makes an external step. cloned(pid) is told of the new process at the first external step after clone.
    Raises KernelError for a step that the kernel refused; nothing of the new process is left then.
    """
    data = program.data
    if not program.checked:
        check(data)
        program.checked = True
    launch, stack = _idle.pop() if _idle else (ffi.new("struct nst_launch *"), ffi.new("uint8_t[]", lib.NST_STACK))
    buffer = ffi.from_buffer(data)
    launch.plan, launch.size, launch.stack, launch.image = buffer, len(data), stack, image()
    for name, fd in given.items():
        launch.slots[program.slots[name]] = fd
    lib.nst_launch_begin(launch)
    try:
        while (result := lib.nst_launch_run(launch)) == 1:
            step = program.plan.steps[launch.next]
            try:
                external(step.args[0], step.args[1], launch.pid)
            except OSError as error:
                raise _external_failed(program.plan, launch.next, error) from error
            launch.next += 1
        if result < 0:
            lib.nst_launch_close(launch)  # where fds have run out, explaining needs a few
            raise failed(program.plan, launch.failure.step, launch.failure.error, launch.failure.detail)
        if launch.pid:
            cloned(launch.pid)
    except BaseException:
        if launch.pid:
            report = _early_report(program, launch.control) or _early_end(launch.pidfd)
            lib.nst_launch_kill(launch)
            if report is not None:
                raise report from None
        raise
    finally:
        lib.nst_launch_close(launch)
    process = Process(program, launch.pid, launch.pidfd, launch.control)
    _idle.append((launch, stack))
    return process


def userns(maps: Maps) -> int:
    """Make a user namespace with these maps and no process in it; an fd of it, the caller's to close.

    For mounts that show the host's owners under a sandbox's ids: mount_setattr(2), MOUNT_ATTR_IDMAP.
    Raises KernelError: EPERM without CAP_SETUID and CAP_SETGID over the ids outside.
    """
    from nstool.namespaces.user import text

    fd: int = lib.nst_userns(text(maps.uid).encode(), text(maps.gid).encode())
    if fd < 0:
        raise KernelError(
            "clone3(CLONE_NEWUSER)", -fd, why="a user namespace with the sandbox's id maps, for id-mapped mounts"
        )
    return fd


def _early_report(program: Program, control: int) -> KernelError | None:
    # Init may have failed first: then its report says more than the launcher's broken socket.
    if control < 0:
        return None
    import select

    poll = select.poll()
    poll.register(control, select.POLLIN)
    if not poll.poll(0):
        return None
    try:
        data = os.read(control, _MESSAGE_SIZE)
    except ConnectionResetError:  # said once, before what init told
        data = os.read(control, _MESSAGE_SIZE)
    if len(data) < _MESSAGE_SIZE:
        return None
    message = decode(data)
    return failed(program.plan, message.step, message.error, message.detail) if message.type == FAILED else None


def _early_end(pidfd: int) -> NstoolError | None:
    # A dead init makes the launcher's next step fail, with an errno that tells nothing.
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(0):
        return None
    try:
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # a SIGCHLD handler of the host's took it
        return ended_early(None)
    if info is None or info.si_code == os.CLD_EXITED:  # by itself it ends when its exec has failed
        return None
    return ended_early(info.si_status)


def ended_early(status: int | None) -> NstoolError:
    """Return the error of an init that ended without a word. status: as wait(2) gives it, None if unknown."""
    how = f"was killed by signal {status & 0x7F}" if status and status & 0x7F else "ended"
    return NstoolError(
        f"the sandbox's init {how} before the command ran\n"
        "possible cause: killed from outside; or by the kernel, when limits.memory is too low for the start itself\n"
        "remedy: raise limits.memory (--memory), a small command needs 1M; else look at dmesg, and start it again"
    )


def _external_failed(plan: Plan, index: int, error: OSError) -> KernelError:
    """The error of an external step: what its handler met, with the step's place in the plan."""
    named = failed(plan, index, error.errno or 0, 0)
    if not isinstance(error, KernelError):
        return named
    causes, remedies = (error.causes, error.remedies) if error.causes else (named.causes, named.remedies)
    checked = error.checked if error.causes else named.checked
    why = "; ".join(part for part in (named.why, error.why) if part)
    return KernelError(f"{error.call} in {named.call}", named.errno or 0, named.step, why, causes, remedies, checked)


def in_short(step: Step) -> Step:
    """Return a step as errors quote it: without the values of the environment, which may be secrets."""
    if step.call != "execve":
        return step
    paths, argv, environment = step.args
    assert isinstance(paths, tuple)
    assert isinstance(environment, tuple)
    return step.replace(args=((*paths[:1], *("…" for _ in paths[1:2])), argv, tuple("…" for _ in environment[:1])))


def failed(plan: Plan, index: int, errno: int, detail: int) -> KernelError:
    """Return the error of the step with this index: which of how many, which call, why, checked causes."""
    from nstool.plan.describe import call_text
    from nstool.plan.hints import explain

    total = sum(step.who != "undo" for step in plan.steps)
    if not 0 <= index < len(plan.steps):
        return KernelError("launch", errno, why="between the steps of the plan")
    step = plan.steps[index]
    causes, remedies, checked = explain(step, errno, detail, plan)
    call = call_text(in_short(step), detail)
    where = f"step {index + 1} of {total} ({step.who})"
    return KernelError(call, errno, where, step.why, causes, remedies, checked)
