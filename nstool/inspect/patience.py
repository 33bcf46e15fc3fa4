"""Reading of processes of which one may never let itself be read: it is left out, or said to be the cause.

While a process is in execve(2) the kernel lets whoever reads stat, maps, ns/* and other files of it wait, and only a
fatal signal ends that wait. It lasts for ever where the execve has to close a file of a filesystem that does not
answer: everybody may mount one of FUSE in a user namespace. So what must go on is read by a thread, which is left
behind where it waits; it is no more than that, and ends with the process.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident, start_new_thread
from contextlib import suppress
from time import monotonic, sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

SECONDS = 2.0  # of one and the same wait for a process, until that is left out
SOON = 0.5  # the same, once there were so many that it is no chance:
MANY = 8
LOOK = 0.1  # seconds between two looks at a reader
CAUSE = "it is in execve(2), which does not end: a filesystem (FUSE) does not answer it"
REMEDY = "end the process that serves that filesystem"


class LeftBehind(BaseException):
    """Raised in a thread that waited too long: another one reads on in its place."""


class Turns:
    """Processes are read in turn; where one does not let itself be read, the reading goes on behind it.

    held: those processes, in the order in which they were found.
    """

    def __init__(self) -> None:
        self.held: dict[int, None] = {}
        self._at: tuple[int, ...] = ()
        self._reader = get_ident()
        self._tastings = 0

    def may(self, *pids: int) -> bool:
        """Say that these processes will be read now; return False if one is held, which must not be."""
        self.go_on()
        if self.held and not self.held.keys().isdisjoint(pids):
            return False
        self._at = pids
        return True

    def go_on(self) -> None:
        """Raise LeftBehind in a thread whose work another one does by now: to be called before anything is noted."""
        if get_ident() != self._reader:
            raise LeftBehind

    def run(self, step: Callable[[], Any]) -> None:
        """Call step, again after each process that is held: it goes on where it was, and asks ``may`` of each process.

        Raises what step raises.
        """
        while (at := self._run(step)) is not None:
            self.held |= dict.fromkeys(at)
            # To wait for each alone is too long if there are many; not each time, as a look at all costs something too.
            if len(self.held) >= 1 << self._tastings:
                self._tastings += 1
                self.held |= dict.fromkeys(_taste())

    def _run(self, step: Callable[[], Any]) -> tuple[int, ...] | None:
        # Return the processes at which step does not go on; None when it is done.
        done = allocate_lock()
        failed: list[BaseException] = []
        place: list[str] = []

        def read() -> None:
            self._reader = get_ident()
            try:
                place.append(_place())
                step()
            except BaseException as error:
                failed.append(error)
            finally:
                done.release()

        before = self._reader
        self._at = ()
        done.acquire()
        try:
            start_new_thread(read, ())
        except RuntimeError:  # no more threads for this user or cgroup: then it is read without a way out
            read()
            place.clear()
        wait = Wait()
        try:
            while not done.acquire(timeout=LOOK):
                if place and self._at and _seconds(place[0], wait) >= (SOON if len(self.held) > MANY else SECONDS):
                    return self._at
        finally:
            self._reader = before
        # It is about to end; until it has, the kernel takes the process for one with threads: clone3(2), unshare(2).
        while place and os.path.exists(place[0]):
            sleep(0.0001)
        if failed:
            raise failed[0]
        return None


class Wait:
    """How long a thread of this process is in one and the same wait that only a fatal signal ends."""

    def __init__(self) -> None:
        self._state: tuple[bytes, ...] = ()
        self._since = 0.0

    def seconds(self, place: str) -> float:
        """Return for how long it is known to be, 0 if it is not. place: as "/proc/1/task/2"."""
        with open(f"{place}/status", "rb") as file:
            # The number of its switches says whether it has run since.
            state = tuple([line for line in file if line.startswith((b"State:", b"voluntary"))])
        if not any(b"\tD" in line for line in state):
            state = ()
        if not state or state != self._state:
            self._state, self._since = state, monotonic()
        return monotonic() - self._since


def _place() -> str:
    return f"/proc/{os.readlink('/proc/thread-self')}"


def _taste() -> list[int]:
    """Return the processes that are held now, all asked at once, by threads of a child that is then ended."""
    answer, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(tell, b" ".join([b"%d" % pid for pid in _held_now()]))
        finally:
            os._exit(0)
    os.close(tell)
    with open(answer, "rb") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return [int(word) for word in found.split()]


def _held_now() -> Sequence[int]:
    left = set()  # those that have not answered
    places: dict[int, tuple[str, Wait]] = {}

    def taste(pid: int) -> None:
        places[pid] = _place(), Wait()
        with suppress(OSError):  # ended, or not ours to look at: it has answered
            os.readlink(f"/proc/{pid}/ns/user")
        left.discard(pid)

    for name in os.listdir("/proc"):
        if name.isdecimal():
            left.add(int(name))
            try:
                start_new_thread(taste, (int(name),))
            except RuntimeError:  # no more threads for this user or cgroup; those that are left out are met one by one
                break
    end = monotonic() + SECONDS
    while left and monotonic() < end:
        sleep(LOOK)
        for pid in left & places.keys():
            _seconds(*places[pid])
    return [pid for pid in left & places.keys() if _seconds(*places[pid]) > SECONDS / 2]


def _seconds(place: str, wait: Wait) -> float:
    try:
        return wait.seconds(place)
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended, or is just ending
        return 0.0


def waited_for(place: str) -> int:
    """Return the process whose file in /proc a thread of this process waits for, 0 if it waits for none.

    place: of the thread, as "/proc/1/task/2". proc_pid_syscall(5).
    """
    try:
        with open(f"{place}/syscall") as file:
            words = [int(word, 16) for word in file.read().split()[1:3]]
    except (OSError, ValueError):  # it runs by now; no such file in this kernel, or not to be read here
        return 0
    for word in words:  # an fd, or where a path is
        kind, _, rest = (_file(place, word) or _memory(place, word)).removeprefix("/").partition("/")
        number = rest.partition("/")[0]
        if kind == "proc" and number.isdecimal():
            return int(number)
    return 0


def _file(place: str, number: int) -> str:
    try:
        return os.readlink(f"{place}/fd/{number}")
    except OSError:  # no fd
        return ""


def _memory(place: str, address: int) -> str:
    try:
        with open(f"{place}/mem", "rb", buffering=0) as file:
            return os.fsdecode(os.pread(file.fileno(), 64, address).partition(b"\0")[0])
    except (OSError, OverflowError):  # no address
        return ""
