"""Control groups from outside: what this host has, what a sandbox uses, ending and removing them. cgroups(7)."""

from __future__ import annotations

import os
import time
from errno import EBUSY, ENODEV, ENOENT, ENOTEMPTY

from nstool.errors import KernelError, NotSupported
from nstool.frozen import Frozen
from nstool.plan.cgroups import CONTROLLERS, UNIFIED, Controller, Layout, limit_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.spec.model import Limits

SECONDS = 5.0  # that dying processes may take to leave a cgroup
_PF_EXITING = 4  # of the flags in proc_pid_stat(5); include/linux/sched.h of the kernel


# ------------------------------------------------------------------------------------- layout


def layout(root: str = "") -> Layout:
    """Return where each controller is on this host, and where this process may make cgroups.

    Each controller is looked for by itself: a host may have some in version 1 and some in version 2.
    root: put before every path that is read, so that a tree in a directory can stand for a host;
    the paths in the result are without it.
    """
    mounts = _mounts(_read(f"{root}/proc/self/mountinfo"))
    own = own_paths(_read(f"{root}/proc/self/cgroup"))
    unified = mounts.get(UNIFIED, ("", "/"))
    base = _base(root, *unified, own.get(UNIFIED, "/")) if unified[0] else ""
    found = {}
    for name in CONTROLLERS:
        if name in mounts:
            found[name] = _version1(root, name, *mounts[name], own.get(name, "/"))
        elif unified[0]:
            found[name] = _version2(root, name, unified[0], base)
        else:
            found[name] = Controller(name, cause=_absent(root, name))
    return Layout(
        controllers=found,
        unified_mount=unified[0],
        unified_base=base if base and os.access(root + base, os.W_OK) else "",
        swap_accounting=_swap_accounting(root, found["memory"], unified[0] + own.get(UNIFIED, "/")),
        swap_on=len(_read(f"{root}/proc/swaps").splitlines()) > 1,
        tcp_apart=found["memory"].version == 1
        and os.path.exists(f"{root}{found['memory'].base}/memory.kmem.tcp.limit_in_bytes"),
    )


def _mounts(text: str) -> dict[str, tuple[str, str]]:
    """Return controller (UNIFIED for cgroup2) to (mount point, root within the hierarchy).

    proc_pid_mountinfo(5): ... root, mount point, options ..., "-", type, source, super options.
    The last mount of a hierarchy is the one that is seen.
    """
    found = {}
    for line in text.splitlines():
        if " - cgroup" not in line:  # a host has many other mounts
            continue
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        kind, _, options = after.split(" ", 2)
        place = _unescape(fields[4]), _unescape(fields[3])
        if kind == "cgroup2":
            found[UNIFIED] = place
        else:
            found.update({_name(option): place for option in options.split(",")})
    return found


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _name(controller: str) -> str:
    return "io" if controller == "blkio" else controller  # one name for both versions


def own_paths(text: str) -> dict[str, str]:
    """Return controller (UNIFIED for cgroup2) to the path of a process, of its cgroup file: id:controllers:path."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update({_name(controller) or UNIFIED: path for controller in controllers.split(",")})
    return paths


def _absent(root: str, name: str) -> str:
    rows = [line.split() for line in _read(f"{root}/proc/cgroups").splitlines() if not line.startswith("#")]
    if name in [_name(row[0]) for row in rows if row[3:] == ["0"]]:
        return f"the {name} controller is switched off by cgroup_disable= on the kernel's command line"
    return f"the {name} controller is not mounted, neither as version 1 nor with cgroup2 (/proc/self/mountinfo)"


def _version1(root: str, name: str, mount: str, top: str, own: str) -> Controller:
    # Root makes its cgroups at the mount's top; others where they are, if somebody gave them that directory.
    base = mount
    if not os.access(root + base, os.W_OK):
        base = _below(mount, top, own)
    writable = os.access(root + base, os.W_OK)
    return Controller(
        name, 1, mount, base, enabled=True, usable=writable, cause="" if writable else f"{base} is not yours to write"
    )


def _version2(root: str, name: str, mount: str, base: str) -> Controller:
    if name not in _read(f"{root}{mount}/cgroup.controllers").split():
        return Controller(name, cause=_absent(root, name))
    enabled = name in _read(f"{root}{base}/cgroup.subtree_control").split()
    cause = ""
    if not os.access(root + base, os.W_OK):
        cause = f"{base} is not yours to write: no cgroup is delegated to you"
    elif name not in _read(f"{root}{base}/cgroup.controllers").split():
        cause = f"the {name} controller is not delegated to {base}"
    elif not enabled and os.path.exists(f"{root}{base}/cgroup.type") and _read(f"{root}{base}/cgroup.procs").strip():
        # The rule "no internal processes"; the real root, which has no cgroup.type, is free of it.
        cause = f"the {name} controller cannot be switched on for the children of {base} while processes are in it"
    return Controller(name, 2, mount, base, enabled=enabled, usable=not cause, cause=cause)


def _base(root: str, mount: str, top: str, own: str) -> str:
    """Return the directory of the cgroup2 tree in which this process may make cgroups.

    The mount's top for root; for others the topmost writable one above their own, which is what
    systemd (Delegate=yes, or user@UID.service) or a container gave them. Their own if there is none.
    """
    if os.access(root + mount, os.W_OK):
        return mount
    path = base = _below(mount, top, own)
    while len(path) > len(mount) and _may_attach(root + path):
        base = path
        path = path[: path.rindex("/")]
    return base


def _may_attach(directory: str) -> bool:
    return os.access(directory, os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _below(mount: str, top: str, own: str) -> str:
    # A container's mount shows a part of the hierarchy (top), and own is as seen from the cgroup namespace.
    if top != "/" and own.startswith(top):
        own = own[len(top) :]
    return (mount + own).rstrip("/")


def _swap_accounting(root: str, memory: Controller, own: str) -> bool:
    if memory.version == 1:
        return os.path.exists(f"{root}{memory.base}/memory.memsw.limit_in_bytes")
    # The top of version 2 has no such file, and no cgroup has it without swap in the kernel.
    candidates = [own] + [f"{memory.base}/{entry}" for entry in _listdir(f"{root}{memory.base}")]
    if any(os.path.exists(f"{root}{path}/memory.swap.max") for path in candidates):
        return True
    return not any(os.path.exists(f"{root}{path}/memory.max") for path in candidates) and os.path.exists(
        f"{root}/proc/swaps"
    )


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    """Return a small file's text; empty if it is not there, or of a cgroup that was just removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as file:
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        if error.errno not in (ENOENT, ENODEV):
            raise
        return ""


# -------------------------------------------------------------------------------------- usage


class Usage(Frozen):
    """What the processes of a sandbox use and have used. None: no controller of this sandbox counts it.

    memory, memory_peak: bytes, with page cache. oom_kills: processes killed at the memory limit;
    memory_failures: times the limit was met, also where reclaim then helped (version 1 of newer
    kernels misses those at the limit of memory and swap together). pids: tasks now;
    pids_failures: forks refused. cpu_us: microseconds of cpu; throttled: periods in which the cpu
    quota was used up, throttled_us: microseconds waited for that.
    """

    memory: int | None = None
    memory_peak: int | None = None
    oom_kills: int | None = None
    memory_failures: int | None = None
    pids: int | None = None
    pids_failures: int | None = None
    cpu_us: int | None = None
    throttled: int | None = None
    throttled_us: int | None = None


def usage(cgroups: dict[str, str]) -> Usage:
    """Return what a sandbox uses. cgroups: as in its Record, controller to directory."""
    return Usage(**_memory(cgroups), **_pids(cgroups), **_cpu(cgroups))


def oom_killed(cgroups: dict[str, str]) -> bool | None:
    """Whether something was killed at the sandbox's memory limit; None if its memory cgroup was removed."""
    if "memory" not in cgroups:
        return False
    kills = oom_kills(cgroups)
    return None if kills is None else kills > 0


def oom_kills(cgroups: dict[str, str]) -> int | None:
    """Return how many processes were killed for lack of memory, of the sandbox or of the host; None: not counted."""
    path = cgroups.get("memory")
    if path is None:
        return None
    table = _table(f"{path}/memory.oom_control") or _table(f"{path}/memory.events")  # version 1, version 2
    return table.get("oom_kill")


def charged_files(cgroups: dict[str, str]) -> tuple[str, ...]:
    """Return the files that tell how much memory is charged to a sandbox's cgroup, and what for; none if none do."""
    path = cgroups.get("memory")
    for name in ("memory.usage_in_bytes", "memory.current"):  # version 1, version 2
        if path is not None and os.path.exists(f"{path}/{name}"):
            return f"{path}/{name}", f"{path}/memory.stat"
    return ()


def memory_of(pid: int) -> dict[str, str]:
    """Return "memory" to the memory cgroup that a process is in; nothing if it has ended, or there is no controller."""
    mounts = _mounts(_read("/proc/self/mountinfo"))
    try:
        own = own_paths(_read(f"/proc/{pid}/cgroup"))
    except ProcessLookupError:  # it ends while it is read
        return {}
    for name in ("memory", UNIFIED):
        if name in mounts and name in own:
            return {"memory": _below(*mounts[name], own[name])}
    return {}


def departures(cgroups: dict[str, str], limits: Limits, pid: int) -> list[str]:
    """Return how a running sandbox is no longer limited as it was made to be, sentences.

    cgroups: as in its Record. pid: of a process that should be in all of them; none if it is ending.
    """
    found = []
    for path in dict.fromkeys(cgroups.values()):
        names = ", ".join(name for name, directory in cgroups.items() if directory == path)
        if not os.path.isdir(path):
            found.append(f"its {names} cgroup {path} was removed: nothing is limited or counted there")
        elif pid not in processes(path):
            found.append(f"it was moved out of its {names} cgroup {path}: nothing is limited or counted there")
    for file, wanted in limit_files(limits, layout(), cgroups).items():
        now = _read(file).strip()
        if now and not _same(now, wanted):
            found.append(f"{file} is {now}, and was made {wanted}")
    # Looked at last: whoever ends leaves its cgroups first, and they are removed then.
    return [] if _is_ending(pid) else found


def _is_ending(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & _PF_EXITING)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _same(now: str, wanted: str) -> bool:
    # Bytes of memory are rounded to whole pages.
    page = os.sysconf("SC_PAGE_SIZE")
    return now == wanted or (wanted.isdecimal() and now == str(int(wanted) // page * page))


def _memory(cgroups: dict[str, str]) -> dict[str, int | None]:
    path = cgroups.get("memory")
    if path is None:
        return {}
    if os.path.exists(f"{path}/memory.limit_in_bytes"):
        return {
            "memory": _number(f"{path}/memory.usage_in_bytes"),
            "memory_peak": _number(f"{path}/memory.max_usage_in_bytes"),
            "oom_kills": oom_kills(cgroups),
            "memory_failures": _sum(f"{path}/memory.failcnt", f"{path}/memory.memsw.failcnt"),
        }
    events = _table(f"{path}/memory.events")
    return {
        "memory": _number(f"{path}/memory.current"),
        "memory_peak": _number(f"{path}/memory.peak"),  # Linux 5.19
        "oom_kills": oom_kills(cgroups),
        "memory_failures": events.get("max"),
    }


def _pids(cgroups: dict[str, str]) -> dict[str, int | None]:
    path = cgroups.get("pids")
    if path is None:
        return {}
    return {"pids": _number(f"{path}/pids.current"), "pids_failures": _table(f"{path}/pids.events").get("max")}


def _cpu(cgroups: dict[str, str]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    if UNIFIED in cgroups:  # counts also without a cpu controller of version 2
        found["cpu_us"] = _table(f"{cgroups[UNIFIED]}/cpu.stat").get("usage_usec")
    elif "cpuacct" in cgroups:
        nanoseconds = _number(f"{cgroups['cpuacct']}/cpuacct.usage")
        found["cpu_us"] = None if nanoseconds is None else nanoseconds // 1000
    if "cpu" in cgroups:
        stat = _table(f"{cgroups['cpu']}/cpu.stat")
        nanoseconds = stat.get("throttled_time")  # version 1
        found["throttled"] = stat.get("nr_throttled")
        found["throttled_us"] = stat.get("throttled_usec") if nanoseconds is None else nanoseconds // 1000
    return found


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _sum(*paths: str) -> int | None:
    # With no swap allowed, the limit of memory and swap together is met first, and counts by itself.
    found = [number for number in map(_number, paths) if number is not None]
    return sum(found) if found else None


def _table(path: str) -> dict[str, int]:
    rows = [line.split() for line in _read(path).splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdecimal()}


# ------------------------------------------------------------------------- freeze, kill, remove


def freeze(cgroups: dict[str, str]) -> None:
    """Stop all processes of a sandbox where they are, and wait until they stand. Raises NotSupported."""
    _set_frozen(cgroups, "1")


def thaw(cgroups: dict[str, str]) -> None:
    """Let the processes of a frozen sandbox go on. Raises NotSupported."""
    _set_frozen(cgroups, "0")


def _set_frozen(cgroups: dict[str, str], state: str) -> None:
    path = cgroups.get(UNIFIED, "")
    if not path or not os.path.exists(f"{path}/cgroup.freeze"):
        raise NotSupported(
            "freezing a sandbox",
            "it is in no cgroup2 directory with cgroup.freeze (Linux 5.2)",
            "mount cgroup2 (on any directory, also beside version 1) and start the sandbox again",
        )
    import select

    with open(f"{path}/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        _write(f"{path}/cgroup.freeze", state)
        deadline = time.monotonic() + SECONDS
        while f"frozen {state}" not in events.read().decode().splitlines():
            if time.monotonic() > deadline:
                raise KernelError(f"write {path}/cgroup.freeze", EBUSY, causes=("a process does not come to stand",))
            poll.poll(100)
            events.seek(0)


def kill_all(paths: Iterable[str]) -> None:
    """SIGKILL every process in these cgroups and below, until none is left.

    One write to cgroup.kill (version 2, Linux 5.14) where there is one, which a fork bomb cannot
    outrun; for version 1 with pids.max at 0 where that is. Raises KernelError (EBUSY) if some do
    not die in SECONDS.
    """
    wanted = [path for path in paths if os.path.isdir(path)]
    for path in wanted:
        if os.path.exists(f"{path}/cgroup.kill"):
            _write(f"{path}/cgroup.kill", "1")
        elif os.path.exists(f"{path}/pids.max"):
            _write(f"{path}/pids.max", "0")
    deadline = time.monotonic() + SECONDS
    pause = 0.0002
    while left := [pid for path in wanted for pid in processes(path)]:
        for path in wanted:
            _kill_once(path)
        if time.monotonic() > deadline:
            raise KernelError(
                f"kill {', '.join(wanted)}",
                EBUSY,
                causes=(f"processes {left[:10]} do not die (uninterruptible sleep?)",),
                remedies=("look at /proc/PID/stack, then run `nstool cleanup`",),
            )
        time.sleep(pause)  # nothing in version 1 tells when a cgroup gets empty
        pause = min(2 * pause, 0.02)


def _kill_once(path: str) -> None:
    """Kill the processes in and below one cgroup, and no other that got the pid of one meanwhile."""
    pidfds = {}
    try:
        for pid in processes(path):
            try:
                pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        if not pidfds:
            return
        import signal

        for pid in processes(path):  # again: who is in it now is the one that the pidfd holds
            if pid in pidfds:
                try:
                    signal.pidfd_send_signal(pidfds[pid], signal.SIGKILL)
                except ProcessLookupError:
                    continue
    finally:
        for fd in pidfds.values():
            os.close(fd)


def processes(path: str) -> list[int]:
    """Return the pids in a cgroup and below it; 0 for one of another pid namespace is left out."""
    found = []
    for directory in _tree(path):
        found += [int(line) for line in _procs(directory) if line != "0"]
    return found


def _procs(directory: str) -> list[str]:
    return _read(f"{directory}/cgroup.procs").split()


def _tree(path: str) -> list[str]:
    """Return a cgroup's directory and all below it, the deepest first."""
    found: list[str] = []
    try:
        entries = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    for entry in entries:
        found += _tree(entry)
    return [*found, path]


def remove(path: str) -> bool:
    """Remove a cgroup and those below it, killing what is inside; False if it was gone already.

    Raises KernelError (EBUSY) if it does not get empty in SECONDS.
    """
    if _rmdir_tree(path):
        return True
    if not os.path.exists(path):
        return False
    kill_all([path])
    deadline = time.monotonic() + SECONDS
    pause = 0.0002
    while not _rmdir_tree(path):
        if not os.path.exists(path):
            return True
        if time.monotonic() > deadline:
            raise KernelError(
                f"rmdir({path!r})",
                EBUSY,
                causes=("processes die slowly in it, or another program puts new ones there",),
                remedies=(f"look at {path}/cgroup.procs, then run `nstool cleanup`",),
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return True


def remove_empty(path: str) -> bool:
    """Remove a cgroup and those below it if nobody is in any, also of another pid namespace; whether that was so."""
    return not any(map(_procs, _tree(path))) and _rmdir_tree(path)


def _rmdir_tree(path: str) -> bool:
    """Remove a cgroup and all below it; False if one is busy, or nothing is there."""
    tree = _tree(path)
    for directory in tree:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (EBUSY, ENOTEMPTY):
                return False
            raise
    return bool(tree)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
