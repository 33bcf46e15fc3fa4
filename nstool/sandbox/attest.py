"""Attestation: what the kernel says of a process, read from outside, beside what its spec asks for.

A launch is attested when all is done but the exec: the command's process waits, and goes on only if every property
holds. Read are /proc/PID, the links of its namespaces, mountinfo and the files of its cgroups: never what the steps
of the plan have returned. Later a process may have tightened what it has; that holds too.

Not to be read from outside, so not compared: the securebits, the keyring, PR_SET_PDEATHSIG, the dumpable flag, and the
limits of the user namespace.
"""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT

from nstool import syscalls, uapi
from nstool.errors import KernelError, NotAttested, NstoolError, SandboxGone, no_process
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.namespaces import mnt, user
from nstool.plan import build, views
from nstool.plan.cgroups import UNIFIED, limit_files
from nstool.plan.cgroups import wanted as wanted_controllers
from nstool.plan.host import SCRATCH, Host
from nstool.plan.lease import Lease
from nstool.sandbox.cgroups import own_paths
from nstool.sandbox.mountinfo import unescape
from nstool.security import capabilities as caps
from nstool.security import rlimits
from nstool.spec.model import Landlock, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    # key of the spec, what it asks for, what is found, whether that holds; None: the kernel does not let us know.
    Row: TypeAlias = "tuple[str, str, str, bool | None]"

_READ = 1 << 16
_PAGE = 4096
_SELF_ONLY = "the kernel tells that only to the process itself, prctl(2)"
_UNTRACED = "you may not look into it, ptrace(2)"
_NAMED = "none but what the spec names"
_SHOWN = 5  # paths of a list
_UNLIMITED = (1 << 63) - 1 - _PAGE  # bytes: what version 1 says of memory without a limit, in whole pages


class Property(Frozen):
    """One property of a process. name: the key of the spec. holds: None if the kernel does not let us know."""

    name: str
    wanted: str
    found: str
    holds: bool | None


class Wanted(Frozen):
    """What a process is to have. lease: None when it is not known any more, and with it ids and clocks.

    name: of the sandbox, empty if it has none. cgroups: of the sandbox, controller to directory; own_cgroups: which
    the process is in, for limits of controllers that the sandbox has none of. waits: the process waits before its exec,
    nothing has run in it. beside: pid of the sandbox's init, for a command that is run in it later: the process has
    its namespaces, and what is the whole sandbox's is not looked at. template: pid of the template of a service's
    sandbox, whose namespaces are not the sandbox's; that of time is, but where ``clocks`` says between which offsets
    those of the sandbox are drawn.
    """

    spec: Spec
    host: Host
    name: str = ""
    lease: Lease | None = None
    cgroups: dict[str, str] = {}
    own_cgroups: dict[str, str] = {}
    waits: bool = True
    beside: int = 0
    template: int = 0
    clocks: dict[str, range] = {}


class _Seen:
    """The files of a process in /proc, held by the directory: no other process with its number is read."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        if os.readlink("/proc/self") != str(os.getpid()):
            raise NstoolError(
                "/proc is of another pid namespace than this process, so that nothing can be attested\n"
                "remedy: mount a /proc of yours, or attest = false (--no-attest)"
            )
        try:
            self.fd = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SandboxGone(no_process(pid)) from None

    def read(self, name: str) -> str:
        return _text(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd))

    def gone(self) -> bool:
        """Whether the process has ended and been waited for."""
        try:
            self.read("stat")
        except (FileNotFoundError, ProcessLookupError):
            return True
        return False

    def inode(self, kind: str) -> int:
        return _inode(os.readlink(f"ns/{kind}", dir_fd=self.fd))

    def status(self) -> Callable[[str], str]:
        """Return what gives the value of a line of the status file. proc_pid_status(5)."""
        text = self.read("status")
        return lambda key: text.partition(f"\n{key}:\t")[2].partition("\n")[0]

    def close(self) -> None:
        os.close(self.fd)


def _inode(link: str) -> int:
    """Return the number in what a link of /proc/PID/ns says, as "ipc:[4026531839]": half the price of a stat."""
    return int(link.partition("[")[2][:-1])


def _text(fd: int) -> str:
    """Return what is in a file that is open for reading, and close it."""
    try:
        data = os.read(fd, _READ)
        while more := os.read(fd, _READ):
            data += more
    finally:
        os.close(fd)
    return os.fsdecode(data)


def attest(pid: int, wanted: Wanted) -> tuple[Property, ...]:
    """Return every property of a process beside what is wanted. Raises SandboxGone when it has ended."""
    return tuple(Property(*row) for row in _rows(pid, wanted))


def check(pid: int, wanted: Wanted) -> None:
    """Raise NotAttested unless a process has every property that is wanted, SandboxGone when it has ended."""
    if failed := [Property(*row) for row in _rows(pid, wanted) if row[3] is False]:
        raise NotAttested(tuple((one.name, one.wanted, one.found) for one in failed))


def _rows(pid: int, wanted: Wanted) -> list[Row]:
    seen = _Seen(pid)
    try:
        parts = _OF_A_COMMAND if wanted.beside else _PARTS
        rows = [row for part in parts for row in part(seen, wanted)]
        seen.read("stat")
        return rows
    except KernelError:  # it says by itself what could not be read
        raise
    except OSError as error:
        if seen.gone():
            raise SandboxGone(no_process(pid)) from error
        why = "to be compared with what the spec asks for"
        raise KernelError(f"read of {error.filename}", error.errno or 0, why=why) from error
    finally:
        seen.close()


def _row(name: str, wanted: object, found: object) -> Row:
    return name, str(wanted), str(found), wanted == found


# ---- namespaces and ids ----


def _joined(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    for kind in KINDS:
        try:
            inode = seen.inode(kind)
            theirs = _inode(os.readlink(f"/proc/{wanted.beside}/ns/{kind}"))
        except PermissionError:
            yield f"namespaces.{kind}", "the sandbox's", _UNTRACED, None
            continue
        yield f"namespaces.{kind}", "the sandbox's", "the sandbox's" if inode == theirs else "another", inode == theirs


def _namespaces(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    joined = build.joins(spec)
    for kind in KINDS:
        key = f"namespaces.{kind}"
        asked = getattr(spec.namespaces, kind)
        if kind == "net" and spec.net.mode == "host":
            asked = "host"
        try:
            inode = seen.inode(kind)
        except PermissionError:
            yield key, asked, _UNTRACED, None
            continue
        if kind in joined:
            yield _row(key, os.stat(joined[kind]).st_ino, inode)
        else:
            # The command is in what the launcher's thread has for children.
            own = _inode(os.readlink(f"/proc/thread-self/ns/{'time_for_children' if kind == 'time' else kind}"))
            found = "host" if inode == own else "new"
            if wanted.template and asked == found == "new" and (kind != "time" or wanted.clocks):
                above = _inode(os.readlink(f"/proc/{wanted.template}/ns/{kind}"))
                found = "the template's" if inode == above else found
            yield _row(key, asked, found)
    if wanted.waits and wanted.lease is not None and (asked := user.owner(spec, wanted.host, wanted.lease.uid_base)):
        if wanted.template:  # it is of the template, and that of who is the template's root
            asked = _owner(f"/proc/{wanted.template}/ns/user")
        yield _row("owner of the user namespace", asked, _owner(f"/proc/{seen.pid}/ns/user"))


def _owner(path: str) -> int:
    """Return the host uid that owns a user namespace, which what is made in there counts for. ioctl_nsfs(2)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return syscalls.ns_get_owner_uid(fd)
    finally:
        os.close(fd)


def _ids(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec, status = wanted.spec, seen.status()
    maps = _maps(wanted) if spec.namespaces.user == "new" else None
    found = [_map(seen.read(name)) for name in ("uid_map", "gid_map")]
    if maps is not None:
        for name, asked, lines in zip(("uid_map", "gid_map"), (maps.uid, maps.gid), found):
            yield _row(name, _map(user.text(asked)), lines)
        if maps.how == "single":
            yield _row("setgroups", "deny", seen.read("setgroups").strip())
    elif spec.namespaces.user == "new":
        for name, lines, asked in zip(("uid_map", "gid_map"), found, (spec.uid_map, spec.gid_map)):
            if not asked:
                yield _row(name, "without id 0 of the host", _without_root(lines))
    numbers = zip(("uid", "gid"), user.ids(spec), found, (status("Uid"), status("Gid")))
    for name, number, lines, text in numbers:
        inside = {_inside(lines, int(word)) for word in text.split()}
        yield _row("user", f"{name} {number}", f"{name} {' '.join(map(str, sorted(inside, key=str)))}")
    if spec.groups != ("keep",):
        # Its own group among them gives nothing more: where setgroups(2) is denied it stays.
        own = str(user.ids(spec)[1])
        groups = {str(_inside(found[1], int(word))) for word in status("Groups").split()} - {own}
        yield _row("groups", " ".join(sorted({*spec.groups} - {own})), " ".join(sorted(groups)))
    yield from _confinement(status, wanted)


def _maps(wanted: Wanted) -> user.Maps | None:
    return user.maps(wanted.spec, wanted.host, wanted.lease) if wanted.lease else None


def _map(text: str) -> str:
    lines = [line.split() for line in text.split("\n") if line]
    return ", ".join(
        ":".join(line) for line in sorted(lines, key=lambda line: int(line[0]))
    )  # the kernel sorts long ones


def _inside(lines: str, outside: int) -> object:
    for line in lines.split(", "):
        first, start, count = map(int, line.split(":"))
        if start <= outside < start + count:
            return first + outside - start
    return "not mapped"


def _without_root(lines: str) -> str:
    return lines if any(line.split(":")[1] == "0" for line in lines.split(", ")) else "without id 0 of the host"


# ---- what confines it ----


def _confinement(status: Callable[[str], str], wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    known = wanted.host.all_capabilities
    sets = {name: caps.mask(getattr(spec.capabilities, name)) & known for name in caps.SETS}
    if not wanted.waits:
        sets = _after_exec(spec, sets)
    for name, line in caps.SETS.items():
        asked, found = sets[name], int(status(line), 16)
        # What the launcher has not itself is in no bounding set; later any set may have got smaller.
        fewer = name == "bounding" or not wanted.waits
        holds = not found & ~asked if fewer else found == asked
        yield f"capabilities.{name}", caps.in_words(asked), caps.in_words(found), holds
    if spec.no_new_privs:
        yield _row("no_new_privs", "1", status("NoNewPrivs"))
    if spec.seccomp != "none" and wanted.host.seccomp != b"":  # a list of one's own may allow everything
        with open("/proc/thread-self/status") as file:  # a filter of this thread's is the command's too
            own = int(file.read().partition("\nSeccomp_filters:\t")[2].partition("\n")[0])
        filters = own + 1 + build.answers_sysinfo(spec, wanted.host)
        found = int(status("Seccomp_filters"))
        holds = found == filters if wanted.waits else found >= filters
        yield (
            "seccomp",
            f"mode 2, filters {filters}",
            f"mode {status('Seccomp')}, filters {found}",
            holds and (status("Seccomp") == "2"),
        )


def _after_exec(spec: Spec, sets: dict[str, int]) -> dict[str, int]:
    root = user.ids(spec)[0] == 0 and "noroot" not in spec.securebits
    return caps.after_execve(sets, root=root, no_new_privs=spec.no_new_privs)


def _process(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    if spec.oom_score_adj:
        yield _row("oom_score_adj", str(spec.oom_score_adj), seen.read("oom_score_adj").strip())
    if spec.aslr == "on" or spec.personality:
        yield from _personality(seen, spec)
    if spec.namespaces.time == "new" and not wanted.beside:
        yield from _clocks(seen, wanted)
    if not wanted.waits:
        return
    group, session, terminal = seen.read("stat").rpartition(") ")[2].split(" ")[2:5]
    yield _row("session", f"{seen.pid} {seen.pid}", f"{group} {session}")
    own = bool(build.terminals(spec, wanted.host))
    yield _row("terminal", "its own" if own else "none", _terminal(int(terminal)))
    open_ = 3 + len(spec.pass_fds) + 1  # the last is the engine's, which closes at exec
    try:
        number = os.stat("fd", dir_fd=seen.fd).st_size or len(os.listdir(f"/proc/{seen.pid}/fd"))  # Linux 6.2
    except PermissionError:
        yield "pass_fds", f"{open_} open", _UNTRACED, None
        return
    yield _row("pass_fds", f"{open_} open", f"{number} open")


def _terminal(device: int) -> str:
    if not device:
        return "none"
    return "its own" if 136 <= device >> 8 & 0xFFF <= 143 else f"device {device >> 8 & 0xFFF}"  # pts(4)


def _personality(seen: _Seen, spec: Spec) -> Iterator[Row]:
    try:
        persona = int(seen.read("personality"), 16)
    except PermissionError:
        yield "personality", spec.personality or spec.aslr, _UNTRACED, None
        return
    if spec.aslr == "on":
        yield _row("aslr", "on", "off" if persona & uapi.ADDR_NO_RANDOMIZE else "on")
    if spec.personality:
        yield _row("personality", spec.personality, "linux32" if persona & 0xFF == uapi.PER_LINUX32 else "linux")


def _clocks(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    found = dict(line.split(maxsplit=1) for line in seen.read("timens_offsets").split("\n") if line)
    for clock in ("monotonic", "boottime"):
        key, offset = f"namespaces.{clock}_offset", found[clock].split()[0]
        if drawn := wanted.clocks.get(clock):
            yield key, f"one of {drawn[0]}, {drawn[1]} to {drawn[-1]}", offset, int(offset) in drawn
            continue
        asked = getattr(wanted.spec.namespaces, f"{clock}_offset")
        if asked is None:
            if wanted.lease is None:
                continue
            asked = getattr(wanted.lease, clock)
        yield _row(key, str(asked), offset)


# ---- limits ----


def _limits(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    if spec.limits.rlimits:
        lines = seen.read("limits").split("\n")
        limits = build.limits_for(spec, wanted.host) if wanted.waits else spec.limits.rlimits
        for name, asked in limits.items():
            found = _rlimit(lines, name)
            # Later the soft limit may have been raised, up to the hard one.
            holds = found == asked if wanted.waits else _is_most(found[1], asked[1])
            yield f"limits.rlimits.{name}", rlimits.describe(asked), rlimits.describe(found), holds
    paths = own_paths(seen.read("cgroup"))
    for name, directory in wanted.cgroups.items():
        path = paths.get(name) or paths.get(UNIFIED, "")
        yield _row(f"cgroup {name}", os.path.basename(directory), os.path.basename(path))
    layout = wanted.host.cgroups
    if wanted.beside or layout is None:
        return
    groups = {**wanted.own_cgroups, **wanted.cgroups}
    for name in wanted_controllers(spec.limits):
        if name not in groups:
            yield f"limits {name}", "limited", "no cgroup of it", False
    for path, text in limit_files(spec.limits, layout, groups).items():
        try:
            found_ = _text(os.open(path, os.O_RDONLY | os.O_CLOEXEC)).strip()
        except FileNotFoundError:  # the root of a hierarchy has none
            found_ = "none"
        yield _limit(os.path.basename(path), text.strip(), found_)


def _limit(name: str, asked: str, found: str) -> Row:
    if found.isdecimal() and int(found) >= _UNLIMITED:
        found = "unlimited"
    if asked.isdecimal() and found.isdecimal():  # of memory the kernel takes whole pages
        return f"limits {name}", asked, found, 0 <= int(asked) - int(found) < _PAGE
    return _row(f"limits {name}", asked, found)


# Names in /proc/PID/limits, proc_pid_limits(5).
_RLIMITS = {
    "cpu": "Max cpu time",
    "fsize": "Max file size",
    "data": "Max data size",
    "stack": "Max stack size",
    "core": "Max core file size",
    "rss": "Max resident set",
    "nproc": "Max processes",
    "nofile": "Max open files",
    "memlock": "Max locked memory",
    "as": "Max address space",
    "locks": "Max file locks",
    "sigpending": "Max pending signals",
    "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority",
    "rtprio": "Max realtime priority",
    "rttime": "Max realtime timeout",
}


def _rlimit(lines: list[str], name: str) -> tuple[int, int]:
    start = _RLIMITS[name]
    soft, hard = next(line for line in lines if line.startswith(start))[len(start) :].split()[:2]
    return tuple(-1 if word == "unlimited" else int(word) for word in (soft, hard))  # type: ignore[return-value]


def _is_most(found: int, asked: int) -> bool:
    return asked == -1 or 0 <= found <= asked


# ---- mounts ----


class _Mounts:
    """The mounts of a process by target, and which of them lack a restriction."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.super_options: dict[str, str] = {}
        self.writable: list[str] = []
        self.suid: list[str] = []
        self.dev: list[str] = []
        self.carried: list[str] = []  # propagated to or from elsewhere
        for line in text.split("\n"):
            if line:
                self._add(line.split(" "))

    def _add(self, words: list[str]) -> None:
        dash = words.index("-", 6)
        target = words[4] if "\\" not in words[4] else unescape(words[4])
        options = words[5].split(",")
        self.types[target] = words[dash + 1]
        self.super_options[target] = words[dash + 3]
        if options[0] != "ro" and words[dash + 3].split(",", 1)[0] != "ro":
            self.writable.append(target)
        if "nosuid" not in options:
            self.suid.append(target)
        if "nodev" not in options:
            self.dev.append(target)
        if dash > 6:
            self.carried.append(target)


def _mounts(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    if spec.namespaces.mnt != "new":
        return
    mounts = _Mounts(seen.read("mountinfo"))
    asked = {"system": "tmpfs", "tmpfs": "tmpfs", "overlay": "overlay"}.get(spec.root.type)
    if asked:
        yield _row("root", asked, mounts.types["/"])
    yield _all_but("set-user-ID on", mounts.suid, _places(spec, "suid"))
    yield _all_but("device files on", mounts.dev, ("/dev", *_places(spec, "dev")))
    yield _all_but("writable", mounts.writable, _writable(spec))
    if spec.mount_propagation == "private":
        yield _all_but("propagation of", mounts.carried, tuple(_plain(m.target) for m in spec.mounts if m.propagation))
    for mount in spec.mounts:
        is_there = mount.type if mount.type != "bind" else "bound"
        found = mounts.types.get(_plain(mount.target), "nothing")
        yield _row(f"mounts {mount.target}", is_there, "bound" if found != "nothing" and is_there == "bound" else found)
    if spec.dev == "private" and "/dev/pts" not in _targets(spec) and "/dev/pts" in mounts.types:
        options = mounts.super_options["/dev/pts"].split(",")
        yield _row("terminals", f"max={mnt.MOST_TERMINALS}", next((o for o in options if o.startswith("max=")), "any"))
    if spec.tmp_size:
        yield from _sizes(spec, wanted.host, mounts)
    yield from _covers(spec, wanted.host, mounts)
    covered = {_plain(path) for path in spec.mask_paths}
    if spec.proc == "private" and not any(_is_in(path, "/proc") for path in (*covered, *_targets(spec))):
        yield from _proc(spec, mounts)


def _plain(path: str) -> str:
    """Return a path as mountinfo has it."""
    return "/" + os.path.normpath(path).lstrip("/")


def _targets(spec: Spec) -> list[str]:
    return [_plain(mount.target) for mount in spec.mounts]


def _all_but(what: str, found: list[str], allowed: tuple[str, ...]) -> Row:
    others = [path for path in found if not any(_is_in(path, place) for place in allowed)]
    return f"mounts {what}", _NAMED, _some(others) or _NAMED, not others


def _some(paths: list[str]) -> str:
    """Return paths in a line, the first few of many."""
    rest = len(paths) - _SHOWN
    return " ".join(paths[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _is_in(path: str, place: str) -> bool:
    """Whether a path is a place, or lies in it; a place that ends with a dot does not count what lies in it."""
    if place.endswith("/."):
        return path == place[:-2] or (path == "/" and place == "/.")
    return path == place or path.startswith(place.rstrip("/") + "/")


def _places(spec: Spec, word: str) -> tuple[str, ...]:
    return tuple(_plain(mount.target) for mount in spec.mounts if getattr(mount, word))


def _writable(spec: Spec) -> tuple[str, ...]:
    own = ["/proc/.", "/dev/pts/.", "/dev/shm/.", "/dev/mqueue/.", *(f"{path}/." for path in SCRATCH)]
    own += [f"/dev/{name}/." for name in ("null", "zero", "full", "random", "urandom", "tty")]  # bound, of a user
    own += [f"/{name}" for name in ("proc", "dev") if getattr(spec, name) == "bind"]
    if spec.root.writable or spec.root.type == "tarball":
        own.append("/" if spec.root.type in ("host", "directory") else "/.")
    for mount in spec.mounts:
        if mount.writable or mount.type not in ("bind", "overlay", "proc"):
            own.append(_plain(mount.target))
    return tuple(own)


def _sizes(spec: Spec, host: Host, mounts: _Mounts) -> Iterator[Row]:
    own = {*_targets(spec), *(_plain(path) for path in spec.mask_paths)}
    paths = (*mnt.scratch_paths(spec, host), *(("/dev/shm",) if spec.dev == "private" else ()))
    for path in paths:
        if path in own:
            continue
        found = "nothing"
        if path in mounts.types:
            options = dict(word.partition("=")[::2] for word in mounts.super_options[path].split(","))
            found = f"{mounts.types[path]} of {options.get('size', 'no size')}"
        pages = -(-spec.tmp_size // _PAGE) * _PAGE
        yield _row(f"tmp_size {path}", f"tmpfs of {pages >> 10}k", found)


def _covers(spec: Spec, host: Host, mounts: _Mounts) -> Iterator[Row]:
    used = _targets(spec)
    covered = [_plain(path) for path in (*spec.mask_paths, *spec.readonly_paths)]
    if spec.root.type == "host":
        covered += host.covered
    if spec.proc != "none" and not spec.proc_subset and not any(_is_in(path, "/proc") for path in used):
        covered += [f"/proc/{name}" for name in views.hidden(spec, host)]
        covered.append("/proc/sys")
    masked = [f"{path}/" for path in map(_plain, spec.mask_paths) if path in mounts.types]  # nor what lies below
    shown = [path for path in covered if path not in mounts.types and not path.startswith(tuple(masked))]
    yield "covered paths", "all covered", f"not covered: {_some(shown)}" if shown else "all covered", not shown


def _proc(spec: Spec, mounts: _Mounts) -> Iterator[Row]:
    yield _row("proc", "proc", mounts.types.get("/proc", "nothing"))
    options = dict(word.partition("=")[::2] for word in mounts.super_options.get("/proc", "").split(","))
    yield _row("hidepid", spec.hidepid, options.get("hidepid", "off"))
    if spec.proc_subset:
        yield _row("proc_subset", spec.proc_subset, options.get("subset", "all"))


def _labels(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    """Compare the labels, which the exec gives: while it waits the kernel tells nobody which."""
    if wanted.waits:
        return
    for module, file in (("apparmor", "attr/apparmor/current"), ("selinux", "attr/current")):
        asked = getattr(wanted.spec, module)
        if not asked:
            continue
        from nstool.plan.labels import has_label  # late: most have none

        try:
            found = seen.read(file).strip("\n\0")
        except OSError as error:  # EINVAL: another module has the file
            if error.errno not in (ENOENT, EINVAL):
                raise
            found = "none"
        yield module, asked, found, has_label(module, asked, found)


def _untold(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    """What the kernel tells nobody else: later it is said that it is not known."""
    spec = wanted.spec
    if wanted.waits:
        return
    yield "securebits", " ".join(spec.securebits) or "none", _SELF_ONLY, None
    yield "die_with_parent", str(spec.die_with_parent).lower(), _SELF_ONLY, None
    if spec.namespaces.user == "new" and (ucounts := {k: v for k, v in spec.limits.ucounts.items() if v != -1}):
        asked = " ".join(f"{name}={most}" for name, most in sorted(ucounts.items()))
        yield "limits.ucounts", asked, "the kernel tells that only inside the user namespace, namespaces(7)", None
    yield "keyring", spec.keyring, "the kernel tells nobody which session keyring another has", None
    if spec.landlock != Landlock():
        yield "landlock", "restricted", "the kernel tells nobody who is in which domain, landlock(7)", None


def _net(seen: _Seen, wanted: Wanted) -> Iterator[Row]:
    spec = wanted.spec
    if spec.net.mode in ("none", "loopback") and spec.namespaces.net == "new" and not wanted.waits:
        yield _alone(seen.pid, spec)
    if spec.net.mode in ("veth", "bridge") and wanted.name:
        from nstool.network import attested  # late: most sandboxes have no link

        yield from attested.rows(seen.pid, spec.net, wanted.name)


def _alone(pid: int, spec: Spec) -> Row:
    """Compare the devices that are up with lo, or with none. rtnetlink(7)."""
    from nstool.network.facts import addresses  # late: at a launch the namespace is new

    asked = "lo" if spec.net.mode == "loopback" else "none"
    try:
        up = sorted(link.name for link in addresses(pid).links if link.up)
    except OSError as error:
        return "net devices that are up", asked, f"its network may not be looked into: {error.strerror}", None
    return "net devices that are up", asked, " ".join(up) or "none", set(up) <= {asked}


_PARTS: tuple[Callable[[_Seen, Wanted], Iterator[Row]], ...] = (
    _namespaces,
    _ids,
    _process,
    _limits,
    _mounts,
    _labels,
    _net,
    _untold,
)
_OF_A_COMMAND = (_joined, _ids, _process, _limits)
