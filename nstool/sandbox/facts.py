"""Facts: what isolates a process, read back from /proc beside the same facts of the caller.

Nothing here looks at a spec or a plan: what was asked for can be compared with what is. proc(5).
"""

from __future__ import annotations

import os
from errno import EINVAL
from functools import partial

from nstool import kinds, uapi
from nstool.errors import SandboxGone, no_process
from nstool.frozen import Frozen
from nstool.sandbox.mountinfo import Mount, read_mounts
from nstool.security import capabilities, idmap, securebits
from nstool.security.credentials import Ids
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

_SECCOMP_MODES = {0: "disabled", 1: "strict", 2: "filter"}

# Files of a cgroup that hold a limit, version 2 and version 1. Those that a hierarchy has are read.
_LIMIT_FILES = (
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "cpuset.cpus",
    "memory.limit_in_bytes",
    "memory.memsw.limit_in_bytes",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
    "cpu.shares",
)


# Where the same hierarchy says how much of a limit is used.
_USAGE_FILES = {
    "memory.max": "memory.current",
    "memory.swap.max": "memory.swap.current",
    "pids.max": "pids.current",
    "memory.limit_in_bytes": "memory.usage_in_bytes",
    "memory.memsw.limit_in_bytes": "memory.memsw.usage_in_bytes",
}


class CapabilitySet(Frozen):
    """One of the five sets. names: without "cap_", in the kernel's order."""

    mask: int
    names: tuple[str, ...]


class Cgroup(Frozen):
    """Membership in one hierarchy. controllers: empty for version 2. cgroups(7).

    path: as /proc/PID/cgroup shows it to the reader. directory: where the reader finds it, empty if nowhere.
    limits: content of the limit files there. usage: bytes or tasks that are in use of some, by the same names.
    """

    version: int
    controllers: tuple[str, ...]
    path: str
    directory: str
    limits: dict[str, str]
    usage: dict[str, int]


class Memory(Frozen):
    """Memory of one process, KiB. private: what would be freed if it ended. /proc/PID/smaps_rollup."""

    private: int
    proportional: int
    resident: int
    swapped: int


class Facts(Frozen):
    """One process, as its reader sees it, or one thread: of process tgid.

    namespaces: inode by kind, absent where it may not be read. uid_map, gid_map: outside as the reader sees it.
    pids: its pid in each pid namespace from the reader's down to its own. securebits: names.
    time_offsets: nanoseconds added to a clock for its children, by clock. rlimits: (soft, hard), -1 for unlimited.
    aslr: what is randomised of its address space: "all", "all but the heap", "nothing". personality(2).
    addresses: what the caller knew of its network; None if it was not asked.
    unread: why a fact is None or missing, by its name.
    """

    pid: int
    tgid: int
    command: str
    namespaces: dict[str, int]
    uid_map: tuple[IdMap, ...]
    gid_map: tuple[IdMap, ...]
    setgroups: str | None
    uids: Ids
    gids: Ids
    groups: tuple[int, ...]
    capabilities: dict[str, CapabilitySet]
    securebits: tuple[str, ...] | None
    no_new_privs: bool
    seccomp: str
    seccomp_filters: int | None
    lsm: str | None
    mounts: tuple[Mount, ...] | None
    pids: tuple[int, ...]
    cgroups: tuple[Cgroup, ...]
    hostname: str | None
    domainname: str | None
    time_offsets: dict[str, int] | None
    rlimits: dict[str, tuple[int, int]]
    oom_score_adj: int
    aslr: str | None
    memory: Memory | None
    addresses: tuple[str, ...] | None
    unread: dict[str, str]

    @property
    def root(self) -> Mount | None:
        """The mount that is "/" for this process: the last one made there."""
        return next((mount for mount in reversed(self.mounts or ()) if mount.target == "/"), None)

    @property
    def covered(self) -> frozenset[int]:
        """The ids of the mounts that no path leads to, for others lie on them or on the way."""
        from nstool.inspect.covers import COVERED, covers

        listed = self.mounts or ()
        ids = {mount.id for mount in listed}
        # Where the root directory is that of no mount, chroot(2), the mount that it is on is not listed.
        top = next((m.id if m.target == "/" else m.parent for m in listed if m.parent not in ids), 0)
        return frozenset(number for number, (state, _) in covers(listed, top).items() if state == COVERED)


class Isolation(Frozen):
    """A process beside the one that looks. differs: by kind of namespace; None where it may not be read."""

    inside: Facts
    outside: Facts
    differs: dict[str, bool | None]


def isolation(
    pid: int, addresses: Sequence[str] | None = None, outside_addresses: Sequence[str] | None = None
) -> Isolation:
    """Read what isolates a process, and the same of the calling one.

    addresses, outside_addresses: of the two network namespaces, if the caller has asked for them.
    Raises SandboxGone if there is no such process or it ends meanwhile.
    """
    inside = facts(pid, addresses)
    outside = facts(os.getpid(), outside_addresses)
    return Isolation(inside, outside, {kind: _differs(kind, inside, outside) for kind in kinds.KINDS})


def facts(pid: int, addresses: Sequence[str] | None = None, directory: int = -1) -> Facts:
    """Read the facts of one process. Raises SandboxGone if there is none, or it ends meanwhile.

    directory: fd of its directory in /proc, if the caller has it open; it stays open.
    """
    try:
        # All files are read below one directory fd: a later process with the same pid is never mixed in.
        proc = os.dup(directory) if directory >= 0 else os.open(f"/proc/{pid}", os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _Reader(pid, proc).facts(addresses)
        finally:
            os.close(proc)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise SandboxGone(no_process(pid)) from error


def why_hidden(pid: int) -> tuple[str, str]:
    """Return why the kernel does not let the caller look into a process, and what to do. ptrace(2), access mode check.

    To be asked after it has refused: (cause, remedy), two sentences.
    """
    try:
        own, theirs = (_status(path) for path in ("/proc/thread-self/status", f"/proc/{pid}/status"))
    except (FileNotFoundError, ProcessLookupError):
        raise SandboxGone(f"process {pid} has ended") from None
    except PermissionError:
        return (
            "/proc is mounted with hidepid=noaccess, and you have no CAP_SYS_PTRACE over it, proc(5)",
            "run as root, or as the user whose process it is",
        )
    have = int(own["CapEff"], 16)
    if have >> uapi.CAPABILITIES["sys_ptrace"] & 1:
        # All user namespaces are below the first one, over which the capability holds.
        first = os.readlink("/proc/self/ns/user") == kinds.INITIAL_USERNS
        more = "" if first else ", or is in a user namespace that is not below yours"
        return (
            f"it is protected by a security module (Landlock, SELinux, …), whatever your CAP_SYS_PTRACE{more}",
            "the audit log may tell which",
        )
    for what, key in (("uid", "Uid"), ("gid", "Gid")):
        mine = own[key].split()[3]  # that of the file system is compared with the other's first three
        other = next((number for number in theirs[key].split()[:3] if number != mine), "")
        if other:
            return (
                f"it runs as {what} {other}, and you have no CAP_SYS_PTRACE over it",
                "run as root, or as the user whose process it is",
            )
    more_caps = capabilities.names(int(theirs["CapPrm"], 16) & ~have)
    if more_caps:
        shown = ", ".join(f"CAP_{name.upper()}" for name in more_caps[:3]) + (", …" if more_caps[3:] else "")
        cause = f"it has {shown}, which you have not"
    else:
        cause = "it has made itself undumpable, or is in a user namespace that is not below yours"
    return f"{cause}, and you have no CAP_SYS_PTRACE over it", "run with CAP_SYS_PTRACE, as root has it"


def _status(path: str) -> dict[str, str]:
    with open(path) as file:
        return _colon_table(file.read())


def _differs(kind: str, inside: Facts, outside: Facts) -> bool | None:
    if kind not in inside.namespaces or kind not in outside.namespaces:
        return None
    return inside.namespaces[kind] != outside.namespaces[kind]


class _Reader:
    """Reads the files of one process and notes what may not be read."""

    def __init__(self, pid: int, proc: int) -> None:
        self.pid = pid
        self.proc = proc
        self.unread: dict[str, str] = {}

    def facts(self, addresses: Sequence[str] | None) -> Facts:
        status = _colon_table(self.read("status"))
        uts = self.uts()
        return Facts(
            pid=self.pid,
            tgid=int(status["Tgid"]),
            command=self.read("comm").rstrip("\n"),
            namespaces=self.namespaces(),
            uid_map=idmap.parse_map(self.read("uid_map")),
            gid_map=idmap.parse_map(self.read("gid_map")),
            setgroups=self.try_to("setgroups", lambda: self.read("setgroups").strip()),
            uids=Ids(*map(int, status["Uid"].split())),
            gids=Ids(*map(int, status["Gid"].split())),
            groups=tuple(map(int, status["Groups"].split())),
            capabilities={name: _capability_set(status[line]) for name, line in capabilities.SETS.items()},
            securebits=self.securebits(),
            no_new_privs=status["NoNewPrivs"] == "1",
            seccomp=_SECCOMP_MODES[int(status["Seccomp"])],
            seccomp_filters=self.seccomp_filters(status),
            lsm=self.lsm(),
            mounts=self.try_to("mounts", lambda: read_mounts(self.read("mountinfo"))),
            pids=tuple(map(int, status["NSpid"].split())),
            cgroups=_cgroups(self.read("cgroup")),
            hostname=uts[0] if uts else None,
            domainname=uts[1] if uts else None,
            time_offsets=self.try_to("time_offsets", lambda: _time_offsets(self.read("timens_offsets"))),
            rlimits=_rlimits(self.read("limits")),
            oom_score_adj=int(self.read("oom_score_adj")),
            aslr=self.try_to("aslr", lambda: _aslr(int(self.read("personality"), 16))),
            memory=self.try_to("memory", lambda: _memory(self.read("smaps_rollup"))),
            addresses=None if addresses is None else tuple(addresses),
            unread=self.unread,
        )

    def read(self, name: str) -> str:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.proc)
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    def try_to(self, fact: str, get: Callable[[], T]) -> T | None:
        # What may not be read is missing with its reason; that the process has ended is an error.
        try:
            return get()
        except OSError as error:
            os.stat("stat", dir_fd=self.proc)  # raises if it has ended; a thread of the kernel or a zombie lives on
            self.unread[fact] = str(error.strerror)
            return None

    def namespaces(self) -> dict[str, int]:
        inodes = {}
        for kind in kinds.KINDS:
            inode = self.try_to(f"namespaces.{kind}", partial(self.inode, kind))
            if inode is not None:
                inodes[kind] = inode
        return inodes

    def inode(self, kind: str) -> int:
        return os.stat(f"ns/{kind}", dir_fd=self.proc).st_ino

    def securebits(self) -> tuple[str, ...] | None:
        if self.pid != os.getpid():
            self.unread["securebits"] = "the kernel tells a process only its own, prctl(2)"
            return None
        from nstool import syscalls

        return securebits.names(syscalls.prctl(uapi.PR_GET_SECUREBITS))

    def seccomp_filters(self, status: dict[str, str]) -> int | None:
        if "Seccomp_filters" not in status:
            self.unread["seccomp_filters"] = "Linux 5.9 and later tell it"
            return None
        return int(status["Seccomp_filters"])

    def lsm(self) -> str | None:
        label = self.try_to("lsm", self.label)
        if self.unread.get("lsm") == os.strerror(EINVAL):
            self.unread["lsm"] = "no security module of this kernel labels processes"
        return label

    def label(self) -> str:
        try:
            return self.read("attr/current").rstrip("\n\0")
        except OSError as error:
            if error.errno != EINVAL:
                raise
        # That file is of the first module that labels processes; AppArmor has one of its own beside it.
        try:
            return self.read("attr/apparmor/current").rstrip("\n\0")
        except FileNotFoundError:  # a kernel without AppArmor
            raise OSError(EINVAL, os.strerror(EINVAL)) from None

    def uts(self) -> tuple[str, str] | None:
        return self.try_to("hostname", lambda: uts_names(self.proc))


def uts_names(proc: int) -> tuple[str, str]:
    """Return host name and domain name in the uts namespace of the process whose /proc directory this is. setns(2)."""
    if _same_namespace(proc, "uts"):
        return _own_uts_names()
    from nstool.sandbox.inside import call

    namespace = os.open("ns/uts", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return call({"uts": namespace}, _own_uts_names)
    finally:
        os.close(namespace)


def _own_uts_names() -> tuple[str, str]:
    with open("/proc/sys/kernel/domainname") as file:
        return os.uname().nodename, file.read().rstrip("\n")


def _same_namespace(proc: int, kind: str) -> bool:
    return os.stat(f"ns/{kind}", dir_fd=proc).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino


def _colon_table(text: str) -> dict[str, str]:
    # Not splitlines(): a process may have what else ends a line for it, as \v, in its name.
    rows = (line.partition(":") for line in text.split("\n") if line)
    return {key: value.strip() for key, _, value in rows}


def _capability_set(text: str) -> CapabilitySet:
    mask = int(text, 16)
    return CapabilitySet(mask, capabilities.names(mask))


def _time_offsets(text: str) -> dict[str, int]:
    rows = (line.split() for line in text.splitlines())
    return {clock: int(seconds) * 1_000_000_000 + int(nanoseconds) for clock, seconds, nanoseconds in rows}


def _rlimits(text: str) -> dict[str, tuple[int, int]]:
    # The lines come in the order of the numbers, after a heading; the first column is 26 wide, the others 21.
    rows = zip(uapi.RLIMITS, text.splitlines()[1:])
    return {name: (_limit(line[26:47].strip()), _limit(line[47:68].strip())) for name, line in rows}


def _limit(text: str) -> int:
    return -1 if text == "unlimited" else int(text)


def _memory(text: str) -> Memory:
    rows = (line.split() for line in text.splitlines()[1:])
    sizes = {row[0].rstrip(":"): int(row[1]) for row in rows}
    private = sizes["Private_Clean"] + sizes["Private_Dirty"]
    return Memory(private, sizes["Pss"], sizes["Rss"], sizes["Swap"])


def _aslr(personality: int) -> str:
    with open("/proc/sys/kernel/randomize_va_space") as file:
        here = int(file.read())
    if personality & uapi.ADDR_NO_RANDOMIZE or not here:
        return "nothing"
    return "all but the heap" if here == 1 else "all"


def _cgroups(text: str) -> tuple[Cgroup, ...]:
    with open("/proc/self/mountinfo") as file:
        mounts = [mount for mount in read_mounts(file.read()) if mount.type in ("cgroup", "cgroup2")]
    found = []
    for line in filter(None, text.split("\n")):  # not splitlines(), as above: the name of a cgroup
        number, controllers, path = line.split(":", 2)
        version = 2 if number == "0" else 1
        names = tuple(controllers.split(",")) if controllers else ()
        directory = _cgroup_directory(version, names, path, mounts)
        limits = _files(directory, {name: name for name in _LIMIT_FILES})
        usage = _files(directory, _USAGE_FILES)
        found.append(Cgroup(version, names, path, directory, limits, {name: int(usage[name]) for name in usage}))
    return tuple(found)


def _cgroup_directory(version: int, controllers: tuple[str, ...], path: str, mounts: Sequence[Mount]) -> str:
    # A hierarchy may be mounted from below its top; a path that is not below that is not to be seen here.
    for mount in mounts:
        belongs = mount.type == "cgroup2" if version == 2 else controllers[0] in mount.super_options
        top = mount.root.rstrip("/")
        if belongs and (path == top or path.startswith(f"{top}/")):
            return (mount.target + path[len(top) :]).rstrip("/")
    return ""


def _files(directory: str, files: dict[str, str]) -> dict[str, str]:
    """Return the contents of those files of a cgroup that are there, by the keys of ``files``."""
    found = {}
    for key, name in files.items() if directory else ():
        try:
            with open(f"{directory}/{name}") as file:
                found[key] = file.read().strip()
        except FileNotFoundError:  # this hierarchy has not got the controller, or the top cgroup has no limits
            continue
    return found
