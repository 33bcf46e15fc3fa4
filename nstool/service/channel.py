"""How a service tells its templates what to do: messages over a socket, and files that listen in their directories."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from time import monotonic

from nstool._native import ffi, lib
from nstool.errors import NstoolError
from nstool.sandbox import engine, rundir

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

ANSWERS = 10.0  # seconds for a template to answer
BOARD, LOG = -1, -2
DOOR = "door"
_AT_ONCE = 64  # questions whose a connection is
_SIZE = ffi.sizeof("struct nst_message")
_FDS = 16  # that come with one message


class Channel:
    """A connection to a template: messages of one size, with fds. Owns its socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._late: list[engine.Message] = []
        self._owed = 0  # answers that nobody waits for any more, which come before that of the next question

    def send(
        self, kind: int, *, detail: int = 0, pid: int = 0, status: int = 0, step: int = 0, fds: tuple[int, ...] = ()
    ) -> None:
        """Send one message. Raises ProcessLookupError when the template has ended, NstoolError if it does not read."""
        words = {"type": kind, "detail": detail, "pid": pid, "status": status, "step": step}
        data = bytes(ffi.buffer(ffi.new("struct nst_message *", words)))
        self.socket.settimeout(ANSWERS)
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds), socket.MSG_NOSIGNAL)
            else:
                self.socket.send(data, socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise ProcessLookupError from None
        except TimeoutError:
            raise NstoolError("the template does not read what it is told") from None

    def ask(self, kind: int, what: str, **words: object) -> None:
        """Send one message and wait until it is done. Raises NstoolError when it is refused."""
        self.send(kind, **words)  # type: ignore[arg-type]
        answer = self._answer(what)
        if answer.type != lib.NST_MSG_DONE:
            raise NstoolError(f"the template refuses {what}: errno {answer.error}")

    def _answer(self, what: str) -> engine.Message:
        end = monotonic() + ANSWERS
        while True:
            message = self.receive(max(0.0, end - monotonic()))
            if message is None and monotonic() < end:
                continue
            if message is None:
                self._owed += 1
                raise NstoolError(f"the template does not answer: {what}")
            if _is_answer(message):
                return message
            self._late.append(message)

    def late(self) -> list[engine.Message]:
        """Return what came meanwhile."""
        found, self._late = self._late, []
        return found

    def receive(self, timeout: float) -> engine.Message | None:
        """Return the next message, None when none comes in time. Raises ProcessLookupError at the template's end.

        It answers whose connections are that come along.
        """
        end = monotonic() + timeout
        for _ in range(_AT_ONCE):
            self.socket.settimeout(max(0.0, end - monotonic()))
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, 1)
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionResetError:
                raise ProcessLookupError from None
            if not data:
                raise ProcessLookupError
            message = engine.decode(data)
            if self._owed and _is_answer(message):
                self._owed -= 1
                continue
            if message.type != lib.NST_MSG_WHOSE:
                return message
            if fds:
                self.send(lib.NST_MSG_WHOSE, detail=message.detail, step=message.step, status=_user_of(fds[0]))
            else:  # no file was left for it
                self.send(lib.NST_MSG_WHOSE, detail=message.detail, step=message.step, pid=-1)
        return None  # others have their turn

    def logs(self) -> dict[int, int]:
        """Return where it is read what the places of a template say, by their numbers. To be asked before ``held``."""
        found: dict[int, int] = {}
        self.socket.settimeout(ANSWERS)
        while True:
            self.send(lib.NST_MSG_LOGS, detail=len(found))
            data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, _FDS)
            if not data:
                raise ProcessLookupError
            found |= enumerate(fds, len(found))
            if not fds:
                break
        for place, fd in [*found.items()]:
            if not stat.S_ISFIFO(os.fstat(fd).st_mode):  # stderr = "null"
                os.close(found.pop(place))
        return found

    def held(self) -> dict[int, int]:
        """Return fds of what the template holds: its listeners by number, at BOARD its board, at LOG its log's end.

        From then on it tells this service what happens.
        """
        self.send(lib.NST_MSG_FETCH)
        found: dict[int, int] = {}
        self.socket.settimeout(ANSWERS)
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, _SIZE, 1)
            if not data:
                raise ProcessLookupError
            message = engine.decode(data)
            if message.type == lib.NST_MSG_HELD and fds:
                found[message.detail] = fds[0]
            elif message.type in (lib.NST_MSG_DONE, lib.NST_MSG_FAILED):
                return found

    def close(self) -> None:
        """Close the socket; the template takes no connections any more if this was by which it was told to."""
        self.socket.close()


def _is_answer(message: engine.Message) -> bool:
    return bool(message.type == lib.NST_MSG_DONE or (message.type == lib.NST_MSG_FAILED and message.step < 0))


def _user_of(connection: int) -> int:
    """Return who has made a connection by a Unix socket, and close it here. unix(7), SO_PEERCRED."""
    with socket.socket(fileno=connection) as one:
        credentials = one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little", signed=True)


def bound(name: str, file: str, type_: int) -> socket.socket:
    """Return a Unix socket that listens in the directory of a sandbox."""

    def begin(one: socket.socket, path: str) -> None:
        one.bind(path)
        one.listen(16)

    return _in_directory(name, file, type_, begin)


def connected(name: str, file: str, type_: int) -> socket.socket:
    """Return a connection to a socket in the directory of a sandbox. Raises OSError where nobody listens."""
    return _in_directory(name, file, type_, socket.socket.connect)


def _in_directory(name: str, file: str, type_: int, begin: Callable[[socket.socket, str], None]) -> socket.socket:
    # By the directory's fd: its path may be longer than unix(7) allows.
    directory = os.open(f"{rundir.path()}/sandboxes/{name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    one = socket.socket(socket.AF_UNIX, type_ | socket.SOCK_CLOEXEC)
    try:
        begin(one, f"/proc/self/fd/{directory}/{file}")
    except BaseException:
        one.close()
        raise
    finally:
        os.close(directory)
    return one
