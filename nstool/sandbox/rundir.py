"""The run directory: who may use it, which names are taken, which sandboxes live.

::

    RUN/                    /run/nstool, $XDG_RUNTIME_DIR/nstool, /tmp/nstool-UID, or $NSTOOL_RUN_DIR; mode 0700
    RUN/sandboxes/NAME/     one sandbox; the directory is the claim on the name
    RUN/sandboxes/NAME/journal
    RUN/sandboxes/.PID-START-TAG/   a claim in the making, renamed to NAME when its journal is in it
    RUN/ids/, RUN/nets/     leases (sandbox/leases.py)

Each of these is made when it is wanted and removed when nothing is in it, so it may go at any moment for
a process that has nothing in it yet: ``put`` makes it again.

The journal is lines of JSON that are only ever appended: first who made the sandbox, then what it
is, how it is undone (sandbox/journal.py), and its init. A line without its newline was cut off
when its writer was killed, and does not count.
"""

from __future__ import annotations

import fcntl
import os
from errno import EACCES, EBUSY, EDQUOT, EEXIST, EFBIG, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY, EPERM, EROFS
from time import time

from nstool.errors import KernelError, NotSupported, SandboxGone, SpecError
from nstool.frozen import Frozen
from nstool.sandbox import jsonl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FORMAT = 1  # of the journal
NAME_LENGTH = 63
_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_NAME_CHARS = _NAME_FIRST | frozenset("_.-")
_SUBDIRS = ("sandboxes", "ids", "nets")  # the first keeps the others: it has something of every claim


class Record(Frozen):
    """A sandbox in the run directory, as it was when it was read.

    pid: of the launcher. launcher_alive: that very process (pid, start time and boot) lives.
    init_pid: 0 until init runs; init_alive likewise. outlives: runs on without its
    launcher, die_with_parent = false; then the next nstool command after its end undoes it.
    cgroups: controller ("unified" for the cgroup2 directory) to absolute directory. created:
    seconds since 1970. spec: summary of the spec. here: False if it was made in another pid or
    time namespace, from where pids mean something else; then it counts as alive.
    rebooted: it was made before the host's last boot. seccomp: the filter of a list of system calls of its own.
    template: of a template of a service, what of that is to be known when nobody else can tell: service (its name),
    number, shard, shape, listening, stop_signal, grace; empty of others.
    """

    name: str
    path: str
    pid: int
    launcher_alive: bool
    init_pid: int
    init_start: int
    init_alive: bool
    outlives: bool
    cgroups: dict[str, str]
    created: float
    spec: dict[str, Any]
    here: bool
    rebooted: bool
    seccomp: bytes | None = None
    template: dict[str, Any] = {}

    @property
    def alive(self) -> bool:
        """Somebody looks after it: its launcher, or itself if it outlives that."""
        return self.launcher_alive or (self.outlives and self.init_alive)

    @property
    def state(self) -> str:
        """What it does.

        One of "starting", "running", "serving", "template" (of a service), "ending" (its launcher undoes it), "left
        behind", "elsewhere".
        """
        if not self.here:
            return "elsewhere"
        if not self.alive:
            return "left behind"
        if self.spec.get("service"):
            return "serving"
        if self.template and self.init_alive:
            return "template"
        return "running" if self.init_alive else "ending" if self.init_pid else "starting"

    @property
    def published(self) -> list[str]:
        """The published ports, as --publish takes them."""
        from nstool.spec.model import Publish
        from nstool.spec.values import publish_text

        return [publish_text(Publish(**port)) for port in self.spec.get("net", {}).get("publish", ())]


# ---------------------------------------------------------------------------------- directory


def path() -> str:
    """Return the run directory, which need not exist.

    Raises NotSupported if others could write in it, SpecError if NSTOOL_RUN_DIR is relative.
    """
    directory = wanted_path()
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        return directory
    except OSError as error:
        raise refused(error, f"lstat({directory!r})", "the run directory") from None
    if status.st_mode & 0o170722 != 0o040700 or status.st_uid != os.geteuid():
        raise _unsafe(directory, status)
    return directory


def put(make: Callable[..., object], *args: object) -> None:
    """Call ``make(*args)``, which puts something into the run directory; what it misses of that is made.

    Again and again: whoever has just taken the last thing out removes it.
    """
    while True:
        try:
            make(*args)
        except FileNotFoundError:
            _make(path())
            path()  # another may have made it meanwhile
        else:
            return


def _make(directory: str) -> None:
    for name in (directory, *(f"{directory}/{name}" for name in _SUBDIRS)):
        try:
            os.mkdir(name, 0o700)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno == ENOENT and name != directory:  # removed again
                return
            raise refused(error, f"mkdir({name!r}, 0700)", "the run directory") from None


def skeleton() -> tuple[str, ...]:
    """Return the directories that all sandboxes share, as they are to be removed, each if it is empty."""
    directory = path()
    return *(f"{directory}/{name}" for name in _SUBDIRS), directory


def tidy() -> None:
    """Remove what is empty of the run directory."""
    for directory in skeleton():
        if not remove_empty(directory):
            return


def remove_empty(directory: str) -> bool:
    """Remove a shared directory; False if something is in it, or if it is a mount or not ours to remove."""
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (ENOENT, ENOTEMPTY, EEXIST, EBUSY, EACCES, EPERM, EROFS):
            raise
        return error.errno == ENOENT
    return True


_CAUSES = {
    ENOENT: "the directory above it is not there",
    ENOTDIR: "a part of its path is no directory",
    EACCES: "the directory above it is not yours to write in, or to search",
    EPERM: "the file system takes no directories from you",
    EROFS: "it lies on a mount that is read-only",
    ENOSPC: "its file system has no free block or inode",
    EDQUOT: "your quota on its file system is used up",
}


def refused(error: OSError, call: str, why: str) -> KernelError:
    """Return the error of a call that the run directory needs, with what keeps it from being used."""
    if error.errno == EFBIG:  # a limit of the caller, not of the directory
        from nstool.plan.hints import explain
        from nstool.plan.steps import LAUNCHER, Step

        return KernelError(call, EFBIG, "", why, *explain(Step(LAUNCHER, "write", (), why), EFBIG))
    cause = _CAUSES.get(error.errno or 0)
    make_room = "make room there, or " if error.errno in (ENOSPC, EDQUOT) else ""
    return KernelError(
        call,
        error.errno or 0,
        why=why,
        causes=(cause,) if cause else (),
        remedies=(f"{make_room}set NSTOOL_RUN_DIR to a directory that you can make and write in",),
        checked=True,
    )


def removed(what: str, call: str, why: str) -> KernelError:
    """Return the error of a call that finds no more what this process has made itself."""
    return KernelError(
        call,
        ENOENT,
        why=why,
        causes=(f"{what} was removed meanwhile, by somebody else",),
        remedies=("start it again, and leave to nstool what lies there: it removes what is not used",),
        checked=True,
    )


def wanted_path() -> str:
    """Return where the run directory is or would be, which nobody has looked at yet."""
    chosen = os.environ.get("NSTOOL_RUN_DIR")
    if chosen:
        if not chosen.startswith("/"):  # it would be another one from another working directory
            raise SpecError(f'{chosen[:60]!r} is relative; write it from "/" on', "NSTOOL_RUN_DIR")
        return os.path.normpath(chosen)
    if os.geteuid() == 0:
        return "/run/nstool"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")  # a relative one is to be ignored: XDG Base Directory Specification
    return f"{runtime}/nstool" if runtime.startswith("/") else f"/tmp/nstool-{os.geteuid()}"


def _unsafe(directory: str, status: os.stat_result) -> NotSupported:
    kind = status.st_mode & 0o170000
    # What somebody has named may be of use to others. In our own place it is in the way; but in /tmp nobody but root
    # moves what is somebody else's. rename(2), EPERM.
    ours = not os.environ.get("NSTOOL_RUN_DIR") and os.geteuid() in (0, status.st_uid)
    remedy = "see whose it is and move it away, or " if ours else ""
    if kind == 0o120000:
        cause = "it is a symbolic link"
    elif kind in (0o020000, 0o060000):
        cause = "it is a device"
    elif kind != 0o040000:
        cause = "it is not a directory"
    elif status.st_uid != os.geteuid():
        cause = f"it belongs to uid {status.st_uid}, you are {os.geteuid()}"
    else:
        what = "others can write in it" if status.st_mode & 0o022 else "its owner has not all rights in it"
        cause = f"{what} (mode {status.st_mode & 0o7777:04o})"
        if not status.st_mode & 0o1000:  # sticky: everybody's on purpose, as /tmp
            remedy = "chmod 700 it if nobody else uses it, or "
    return NotSupported(
        f"run directory {directory}",
        cause,
        f"{remedy}set NSTOOL_RUN_DIR to a directory of your own with mode 0700",
    )


# ---------------------------------------------------------------------------------- processes


def starttime(pid: int) -> int:
    """Return when the process started, in clock ticks since boot; 0: it is gone or a zombie, -1: hidden.

    proc_pid_stat(5), field 22. With the pid it names a process for good, which a pid alone does not.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return _hidden_or_gone(pid)
    try:
        stat = os.read(fd, 4096)
    except ProcessLookupError:
        return 0
    finally:
        os.close(fd)
    fields = stat[stat.rindex(b")") + 2 :].split(b" ", 20)
    if fields[0] in b"ZX" and int(fields[17]) <= 1:  # a dead main thread with live others is a zombie too
        return 0
    return int(fields[19])


def _hidden_or_gone(pid: int) -> int:
    # /proc mounted with hidepid hides other users' processes, and one's own non-dumpable ones.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return 0
    except PermissionError:
        return -1
    return -1


def is_alive(pid: int, start: int) -> bool:
    """Whether the process with this pid and start time lives; one that is hidden, or was, counts as alive."""
    now = starttime(pid) if pid > 0 else 0
    return now == -1 or (now > 0 and start in (now, -1))


def maker(name: str) -> str:
    """Say who makes the sandbox ``name``: pid, start time, pid and time namespace, directory of the journal."""
    pid, start, (_, pidns, timens) = _identity()
    return f"{pid} {start} {pidns} {timens} {path()}/sandboxes/{name}"


def has_gone(maker: str) -> bool:
    """Whether that process has ended and its journal is gone, so that nobody else will undo the sandbox.

    False for a process of another pid or time namespace, which cannot be judged. The directory may be left out.
    """
    pid, start, pidns, timens, *directory = maker.split(" ", 4)
    if [int(pidns), int(timens)] != list(_identity()[2][1:]) or is_alive(int(pid), int(start)):
        return False
    return not any(map(os.path.lexists, directory))


_myself = (0, 0, ("", 0, 0))  # pid, start time, world: asked once a process, and again after a fork


def _identity() -> tuple[int, int, tuple[str, int, int]]:
    global _myself
    pid = os.getpid()
    if _myself[0] != pid:
        _myself = (pid, starttime(pid), _world())
    return _myself


def _world() -> tuple[str, int, int]:
    """Boot id, and the pid and time namespaces: where a pid and a start time mean what they meant."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        boot = os.read(fd, 64).strip().decode()
    finally:
        os.close(fd)
    try:
        clock = os.stat("/proc/self/ns/time").st_ino
    except FileNotFoundError:  # before Linux 5.6
        clock = 0
    return boot, os.stat("/proc/self/ns/pid").st_ino, clock


# -------------------------------------------------------------------------------------- names


def check_name(name: str, place: str = "name") -> None:
    """Raise SpecError unless name is one: lower case letters, digits, "_.-", at most 63, no sign first, not a pid."""
    if not name or name[0] not in _NAME_FIRST or not _NAME_CHARS.issuperset(name) or len(name) > NAME_LENGTH:
        from nstool.spec.values import quoted

        raise SpecError(
            f"{quoted(name)} cannot be the name of a sandbox: use lower case letters, digits and _ . -, "
            f"a letter or digit first, at most {NAME_LENGTH}",
            place,
        )
    if name.isdecimal():
        raise SpecError(f"{name!r} would be taken for a process id: put a letter into the name", place)


def claim(name: str = "") -> str:
    """Take a name for this process and return it; an empty one is made up (8 hex digits).

    What a dead launcher left under the name is undone first. Raises SpecError if it is taken.
    """
    if name:
        check_name(name)
    sandboxes = path() + "/sandboxes"
    tag = _tag()
    pid, start, world = _identity()
    boot, pidns, timens = world
    draft = f"{sandboxes}/.{pid}-{start}-{tag}"
    try:
        put(os.mkdir, draft, 0o700)
    except OSError as error:
        raise refused(error, f"mkdir({draft!r}, 0700)", "take the sandbox's name") from None
    try:
        _append(draft, f'["nstool",{FORMAT},{pid},{start},"{boot}",{pidns},{timens},{time():.3f}]\n', os.O_CREAT)
        while not _rename(draft, f"{sandboxes}/{name or tag}"):
            if name:
                _make_free(name)
            else:
                tag = _tag()
    except BaseException:
        _remove_draft(draft)
        raise
    return name or tag


def _tag() -> str:
    """Return 8 hexadecimal digits that are no number in decimal, which would be taken for a process id."""
    while (tag := os.urandom(4).hex()).isdecimal():
        pass
    return tag


def _rename(draft: str, final: str) -> bool:
    # A directory can replace an empty one only: one that its owner is just removing.
    try:
        os.rename(draft, final)
    except FileNotFoundError:
        raise removed(draft, f"rename({draft!r}, {final!r})", "take the sandbox's name") from None
    except OSError as error:
        if error.errno in (EEXIST, ENOTEMPTY, ENOTDIR):  # the last: a stray file, of which reading it tells
            return False
        raise
    return True


def check_free(name: str) -> None:
    """Raise SpecError if a running sandbox has this name, or if it is none."""
    check_name(name)
    record = read(name)
    if record is not None and record.alive:
        raise SpecError(f"{name!r} is the name of {_holder(record)}", "name")


def _holder(record: Record) -> str:
    """Return what has a name, and what is to be done to have it."""
    if record.state == "serving":
        return (
            f"a running service (process {record.pid}): stop it, nstool service stop {record.name}, or choose another "
            "name, --name"
        )
    holder = (
        f"process {record.pid}" if record.launcher_alive else f"init {record.init_pid}, which outlives its launcher"
    )
    return f"a running sandbox ({holder}): stop that one or choose another, --name"


def _make_free(name: str) -> None:
    check_free(name)
    from nstool.sandbox import journal

    journal.clean(name)


def _remove_draft(draft: str) -> None:
    for remove, what in ((os.unlink, f"{draft}/journal"), (os.rmdir, draft)):
        try:
            remove(what)
        except FileNotFoundError:  # never made, or renamed
            continue
    tidy()


# ----------------------------------------------------------------------------------- registry


def append(name: str, text: str) -> None:
    """Append whole lines to the sandbox's journal."""
    _append(f"{path()}/sandboxes/{name}", text)


_JOURNAL = "the journal, which tells how the sandbox is undone"


def _append(directory: str, text: str, flags: int = 0) -> None:
    path = f"{directory}/journal"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        try:
            data = text.encode()
            while data:  # once; if not all of it goes, the next call says why
                data = data[os.write(fd, data) :]
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise removed(directory, f"write({path!r})", _JOURNAL) from None
    except OSError as error:
        raise refused(error, f"write({path!r})", _JOURNAL) from None


def names() -> list[str]:
    """Return the names that are taken, in no order; empty when the run directory does not exist."""
    return [name for name in entries() if name[0] != "."]


def entries() -> list[str]:
    """Return the names that are taken and the drafts of claims (with a dot first)."""
    directory = wanted_path()
    try:
        found = os.listdir(directory + "/sandboxes")
    except FileNotFoundError:
        if os.path.lexists(directory):  # empty, or not one that is used
            path()
        return []
    except OSError as error:
        path()
        raise refused(error, f"listdir({directory + '/sandboxes'!r})", "find the sandboxes") from None
    if found:
        path()  # somebody else's directory is refused here
    return found


def lines(name: str) -> list[bytes]:
    """Return the whole lines of the sandbox's journal. Raises FileNotFoundError, NotSupported if it is no journal."""
    path()
    return _read_journal(name, -1).split(b"\n")[:-1]  # the last part is empty, or was cut off


def _read_journal(name: str, size: int) -> bytes:
    journal = f"{wanted_path()}/sandboxes/{name}/journal"
    try:
        # A pipe in its place is not waited for.
        fd = os.open(journal, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(size) or b""
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _stray(name, f"{journal}: {error.strerror}") from None


def _stray(entry: str, cause: str) -> NotSupported:
    return NotSupported(
        f"sandbox {entry}", cause, f"nstool has not made it so: remove {wanted_path()}/sandboxes/{entry}"
    )


def read(name: str) -> Record | None:
    """Return the record of a sandbox, alive or not; None if there is none (or it is being removed)."""
    try:
        journal = lines(name)
    except FileNotFoundError:
        return None
    header = _header(name, journal)
    info: dict[str, Any] = {}
    init = (0, 0)
    for line in journal[1:]:
        if line.startswith(b'{"sandbox":'):
            info = decode(name, line)["sandbox"]
        elif line.startswith(b'{"init":'):
            init = decode(name, line)["init"]
    here, rebooted = header.here, header.rebooted
    return Record(
        name=name,
        path=f"{path()}/sandboxes/{name}",
        pid=header.pid,
        launcher_alive=header.alive,
        init_pid=init[0],
        init_start=init[1],
        init_alive=init[0] > 0 and not rebooted and (not here or is_alive(init[0], init[1])),
        outlives=info.get("outlives", False),
        cgroups=info.get("cgroups", {}),
        created=header.created,
        spec=info.get("spec", {}),
        here=here,
        rebooted=rebooted,
        seccomp=bytes.fromhex(info["seccomp"]) if "seccomp" in info else None,
        template=info.get("template", {}),
    )


def launcher_alive(name: str) -> bool:
    """Whether the launcher of this sandbox lives; reads no more than its journal's first line."""
    try:
        return _header(name, _read_journal(name, 512).split(b"\n", 1)[:-1]).alive
    except FileNotFoundError:  # being removed, or removed up to the last step
        return False


def made_by_the_living(name: str, journal: list[bytes]) -> bool:
    """Whether the launcher that these lines of a sandbox's journal speak of lives, or cannot be judged from here."""
    return _header(name, journal).alive


class _Header(Frozen):
    pid: int = 0
    start: int = 0
    boot: str = ""
    pidns: int = 0
    timens: int = 0
    created: float = 0.0
    alive: bool = False
    here: bool = True
    rebooted: bool = True


def _header(name: str, journal: list[bytes]) -> _Header:
    """Judge the journal's first line: ["nstool",1,PID,START,"BOOT",PIDNS,TIMENS,CREATED]."""
    if not journal:  # it was written before the directory got its name: the host went down before it was on disk
        return _Header()
    words = journal[0].decode("ascii", "replace").strip("[]").split(",")
    try:
        if words[0] != '"nstool"' or int(words[1]) != FORMAT:
            raise _damaged(name)
        _, _, pid, start, boot, pidns, timens, created = words
        seen = _Header(int(pid), int(start), boot.strip('"'), int(pidns), int(timens), float(created))
    except ValueError:
        raise _damaged(name) from None
    my_boot, my_pidns, my_timens = _identity()[2]
    if seen.boot != my_boot:
        return seen
    if (seen.pidns, seen.timens) != (my_pidns, my_timens):
        return seen.replace(alive=True, here=False, rebooted=False)
    return seen.replace(alive=is_alive(seen.pid, seen.start), rebooted=False)


def decode(name: str, line: bytes) -> Any:
    """Return the value of one line of a sandbox's journal. Raises NotSupported if it is damaged."""
    try:
        return jsonl.decode(line)
    except ValueError:
        raise _damaged(name) from None


def _damaged(name: str) -> NotSupported:
    return NotSupported(
        f"sandbox {name}",
        f"its journal {path()}/sandboxes/{name}/journal is damaged or was written by another version of nstool",
        "undo it with that version, or remove its directory if nothing of it is left",
    )


def draft_is_dead(draft: str) -> bool:
    """Whether a claim in the making (".PID-START-TAG") has lost its process. Raises NotSupported if it is none."""
    pid, start, *tag = draft[1:].split("-")[:3] if draft.count("-") == 2 else ("", "", "")
    if not (tag and _is_number(pid) and _is_number(start)):
        raise _stray(draft, f"{wanted_path()}/sandboxes/{draft} is no sandbox, nor one in the making")
    return not is_alive(int(pid), int(start))


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) <= 20


def list_sandboxes(strays: list[NotSupported] | None = None) -> tuple[Record, ...]:
    """Return all sandboxes of this user, alive and not, by name. strays: takes what cannot be read as one."""
    records: list[Record] = []
    for entry in sorted(entries()):
        try:
            if entry[0] == ".":
                draft_is_dead(entry)
            elif record := read(entry):
                records.append(record)
        except NotSupported as error:
            if strays is not None:
                strays.append(error)
    return tuple(records)


def find(name: str, otherwise: str = "") -> Record:
    """Return the live sandbox of this name. Raises SandboxGone if it does not exist or has ended.

    otherwise: what else the name could have been, for the message.
    """
    check_name(name)
    record = read(name) if name in names() else None
    if record is None:
        others = ", ".join(sorted(names())) or "none"
        raise SandboxGone(
            f"there is no sandbox {name!r}{otherwise}; {'sandboxes ' * bool(otherwise)}there are: {others}"
        )
    if not record.alive:
        raise SandboxGone(f"sandbox {name!r} has ended; `nstool cleanup` undoes what it left")
    return record


def find_running(name: str, otherwise: str = "") -> Record:
    """As ``find``, of one whose init is there. Raises SandboxGone also while it is made, NotSupported elsewhere."""
    record = find(name, otherwise)
    if not record.here:
        raise NotSupported(
            f"sandbox {name}",
            "it was made in another pid or time namespace, whose pids and start times mean others here",
            "run the command there",
        )
    if record.spec.get("service"):
        raise SpecError(f"{name!r} is a service: nstool service status|attest|reload|rotate|stop {name}", "NAME")
    if not record.init_alive:
        raise SandboxGone(f"sandbox {name!r} {'has just ended' if record.init_pid else 'is not running yet'}")
    return record


def check_sandbox(record: Record) -> None:
    """Raise SpecError for a template of a service: it has no command, and is the service's to end."""
    service = record.template.get("service")
    if service:
        raise SpecError(
            f"{record.name!r} is a template of the service {service!r}, which makes its sandboxes: nstool service "
            f"rotate {service} lets another follow it, nstool service stop {service} ends them all",
            "NAME",
        )


# --------------------------------------------------------------------------------------- lock


def lock(name: str, *, wait: bool = True) -> int:
    """Lock a sandbox's directory and return its fd; -1 if it is gone, or locked and ``wait`` is False.

    Who undoes a sandbox holds its lock, so that two do not. ``unlock`` gives it back.
    """
    directory = f"{path()}/sandboxes/{name}"
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise _stray(name, f"{directory}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), os.stat(directory)):
            return fd
    except (FileNotFoundError, BlockingIOError):  # removed by who had the lock; or held by another
        os.close(fd)
        return -1
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)  # removed and made anew meanwhile: not the one that was meant
    return -1


def unlock(fd: int) -> None:
    """Give a lock back. Explicitly: a fork of this process may hold a copy of the fd a while longer."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def remove(name: str, fd: int) -> None:
    """Remove a locked sandbox's directory, the journal last. fd: from ``lock``.

    Only files directly in it: a directory in it may be a mount of something else. Raises OSError.
    """
    directory = f"{path()}/sandboxes/{name}"
    for entry in sorted(os.listdir(fd), key="journal".__eq__):
        try:
            os.unlink(entry, dir_fd=fd)
        except IsADirectoryError:
            os.rmdir(entry, dir_fd=fd)
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (ENOTEMPTY, EEXIST):  # the name is claimed anew since it was empty
            raise
    tidy()


def remove_draft(draft: str) -> None:
    """Remove what is left of a claim in the making, its process being dead."""
    _remove_draft(f"{path()}/sandboxes/{draft}")
