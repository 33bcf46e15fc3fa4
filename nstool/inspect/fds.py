"""The open files of processes, by kind, and who else holds them. proc_pid_fd(5), proc_pid_fdinfo(5).

To read another's takes the right to trace it, ptrace(2). What can only be asked of the file itself is not asked:
opening it could have an effect.
"""

from __future__ import annotations

import os
import stat
from errno import ENAMETOOLONG, ENOENT

from nstool import uapi
from nstool.frozen import Frozen
from nstool.inspect.proc import Proc, ProcessGone, processes
from nstool.kinds import KINDS
from nstool.security import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_CLOCKS = {0: "realtime", 1: "monotonic", 7: "boottime", 8: "realtime alarm", 9: "boottime alarm"}
_NAMES = {"eventpoll": "epoll"}  # as man pages call them
_FILE_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symlink",
}


class Holder(Frozen):
    """A process that has a file open. fd: its number there. mode: "r", "w", "rw" or "" (O_PATH)."""

    pid: int
    comm: str
    fd: int
    mode: str


class Fd(Frozen):
    """An open file. kind: "file", "socket", "pipe", "eventfd", "pidfd", "namespace"… target: as readlink(2) has it.

    mode: as of Holder. flags: the rest of open(2), by name. key: names the very object; of eventfds the kernel's
    number. detail: what fdinfo tells of it, in words. others: who holds the other end, or the same eventfd.
    unread: why it cannot be said what it is, where it cannot; then kind is "unknown" unless the target tells.
    """

    fd: int
    kind: str
    target: str
    mode: str
    flags: str
    detail: str
    key: str = ""
    others: tuple[Holder, ...] = ()
    unread: str = ""


def read(proc: Proc) -> tuple[Fd, ...]:
    """Return the open files of a process, by number. PermissionError where they may not be read."""
    found = []
    for number in sorted(map(int, proc.list("fd"))):
        try:
            found.append(_fd(proc, number))
        except FileNotFoundError:  # closed meanwhile
            continue
    return tuple(found)


def _fd(proc: Proc, number: int) -> Fd:
    target = _target(proc, number)
    info = _info(proc.read(f"fdinfo/{number}"))
    flags = int(info["flags"][0], 8)
    file, unread = _stat(proc, number)
    kind = _kind(target, file)
    key = f"eventfd:{info['eventfd-id'][0]}" if "eventfd-id" in info else target
    rest = flags & ~uapi.O_ACCMODE & ~0o100000  # O_LARGEFILE says nothing
    return Fd(
        fd=number,
        kind=kind,
        target=target,
        mode=mode(flags),
        flags=uapi.names("O", rest) if rest else "",
        detail=_detail(kind, target, info, file),
        key=key,
        unread=unread,
    )


def _stat(proc: Proc, number: int) -> tuple[os.stat_result | None, str]:
    # The filesystem is asked, which may refuse: one of FUSE all but who has mounted it.
    try:
        return os.stat(f"fd/{number}", dir_fd=proc.fd), ""
    except FileNotFoundError:
        raise
    except PermissionError:
        return None, "its filesystem does not let you ask; one of FUSE is for who has mounted it"
    except OSError as error:
        return None, f"its filesystem does not answer: {error.strerror}"


def _target(proc: Proc, number: int) -> str:
    try:
        return proc.link(f"fd/{number}")
    except OSError as error:
        if error.errno != ENAMETOOLONG:  # what is longer than a page the kernel does not show
            raise
        return "a path of more than 4095 bytes"


def mode(flags: int) -> str:
    """Return what may be done by the flags of open(2): "r", "w", "rw", "" for neither."""
    if flags & uapi.O_PATH:
        return ""
    return {uapi.O_RDONLY: "r", uapi.O_WRONLY: "w", uapi.O_RDWR: "rw"}.get(flags & uapi.O_ACCMODE, "")


def _info(text: str) -> dict[str, list[str]]:
    # A key may come several times: tfd of epoll, "inotify wd".
    found: dict[str, list[str]] = {}
    for line in filter(None, text.split("\n")):
        key, _, value = line.partition(":")
        found.setdefault(key, []).append(value.strip())
    return found


def _kind(target: str, file: os.stat_result | None) -> str:
    if target.startswith("anon_inode:"):
        word = target.removeprefix("anon_inode:").strip("[]")
        return _NAMES.get(word, word)
    word, bracket, _ = target.partition(":[")
    if bracket and not target.startswith("/"):
        return "namespace" if word in KINDS else word
    if target.startswith("/memfd:"):
        return "memfd"
    if file is None:
        return "unknown"
    if target.startswith(("/dev/pts/", "/dev/tty")) and stat.S_ISCHR(file.st_mode):
        return "terminal"
    return _FILE_KINDS.get(stat.S_IFMT(file.st_mode), "file")


def _detail(kind: str, target: str, info: dict[str, list[str]], file: os.stat_result | None) -> str:
    if file and kind in ("file", "memfd"):
        return f"{file.st_size} bytes" + (f", at {info['pos'][0]}" if info["pos"][0] != "0" else "")
    if file and kind in ("device", "block device"):
        return f"{os.major(file.st_rdev)}:{os.minor(file.st_rdev)}"
    if kind == "eventfd":
        return f"count {int(info['eventfd-count'][0], 16)}"
    if kind == "epoll":
        watched = sorted({int(line.split()[0]) for line in info.get("tfd", ())})
        return f"waits for fds {', '.join(map(str, watched))}" if watched else "waits for nothing"
    if kind == "timerfd":
        return _timer(info)
    if kind == "signalfd":
        return " ".join(signals.names(int(info["sigmask"][0], 16))) or "no signal"
    if kind == "pidfd":
        return _pidfd(int(info["Pid"][0]))
    for key, what in (("inotify wd", "watches"), ("fanotify ino", "marks"), ("prog_type", ""), ("map_type", "")):
        if key in info:
            return f"{len(info[key])} {what}" if what else f"{key.replace('_', ' ')} {info[key][0]}"
    return ""


def _timer(info: dict[str, list[str]]) -> str:
    def seconds(key: str) -> float:
        whole, nanoseconds = info[key][0].strip("()").split(",")
        return int(whole) + int(nanoseconds) / 1e9

    clock = int(info["clockid"][0])
    value, interval = seconds("it_value"), seconds("it_interval")
    when = f"in {value:.3f} s" if value else "disarmed"
    return f"{_CLOCKS.get(clock, f'clock {clock}')}, {when}" + (f", then every {interval:g} s" if interval else "")


def _pidfd(pid: int) -> str:
    if pid < 0:
        return "of a process that has ended"
    if pid == 0:
        return "of a process that is not visible in your pid namespace"
    try:
        with Proc(pid) as proc:
            return f"of process {pid} ({proc.stat().comm})"
    except ProcessGone:
        return f"of process {pid}, which has ended"


# ---- who holds what ----


def holders(keys: Collection[str]) -> tuple[dict[str, list[Holder]], int]:
    """Return who has these open: {key: [Holder]}, and how many processes may not be looked into. One pass over all.

    keys: as Fd.key, of sockets and pipes "socket:[INODE]" and "pipe:[INODE]".
    """
    found: dict[str, list[Holder]] = {key: [] for key in keys}
    eventfds = any(key.startswith("eventfd:") for key in keys)
    hidden = 0
    for proc in processes() if keys else ():
        try:
            _note(proc, found, eventfds=eventfds)
        except PermissionError:
            hidden += 1
        except (ProcessGone, FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return found, hidden


def _note(proc: Proc, found: dict[str, list[Holder]], *, eventfds: bool) -> None:
    directory = proc.open("fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in os.listdir(directory):
            try:
                key = os.readlink(name, dir_fd=directory)
                if eventfds and key == "anon_inode:[eventfd]":
                    key = f"eventfd:{_info(proc.read(f'fdinfo/{name}')).get('eventfd-id', ['?'])[0]}"
                if key in found:
                    bits = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
                    how = ("r" if bits & stat.S_IRUSR else "") + ("w" if bits & stat.S_IWUSR else "")
                    found[key].append(Holder(proc.pid, proc.stat().comm, int(name), how))
            except OSError as error:
                if error.errno not in (ENOENT, ENAMETOOLONG):  # closed meanwhile; a path longer than a page
                    raise
    finally:
        os.close(directory)
