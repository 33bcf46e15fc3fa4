"""What a process has beside what a spec asks for, as far as facts of the kernel can tell.

The reader is taken to stand where the launcher stood: "new" is a namespace that is not the reader's, "host" is the
reader's. Facts are of now: a process may have changed its ids, limits, directory or mounts since it was started.
Not compared, because it lies outside of the process or leaves no trace: published ports, NAT and isolation of net,
names in resolv.conf and hosts, id-mapped mounts, sizes of tmpfs, passed files, the terminal.
"""

from __future__ import annotations

import os

from nstool import kinds
from nstool.errors import KernelError, SandboxGone
from nstool.inspect import reach
from nstool.inspect.diff import (
    ALIKE,
    DIFFERENT,
    UNKNOWN,
    Difference,
    Row,
    Side,
    map_words,
    mount_words,
    reaches,
    read_ipc,
    set_words,
    within,
)
from nstool.namespaces.ipc import FILES as IPC_FILES
from nstool.plan.build import answers_sysinfo
from nstool.plan.host import Host
from nstool.plan.labels import has_label
from nstool.sandbox.host import unotify
from nstool.security import capabilities, idmap, rlimits, securebits
from nstool.spec.model import Landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nstool.sandbox.mountinfo import Mount
    from nstool.spec.model import Mount as Wanted
    from nstool.spec.model import Spec

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SELF_ONLY = "the kernel tells that only to the process itself, prctl(2)"

# What it means when the process departs from what was asked for, by the key of the spec.
_MEANING: dict[str, str] = {
    "user": "it acts as somebody else than was meant",
    "groups": "files are open to it, or shut, by groups that were not meant",
    "map": "its ids are others outside than was meant",
    "capabilities": "it may do more, or less, than was meant",
    "no_new_privs": "set-user-ID files and file capabilities may give it privileges",
    "seccomp": "it may make other system calls than was meant",
    "hostname": "its programs see another name",
    "limits": "it may use more, or less, than was meant",
    "label": "its security module allows it more, or less, than was meant",
    "oom_score_adj": "it is killed sooner or later than was meant when memory runs out",
    "aslr": "its addresses are easier, or harder, to guess",
    "personality": "uname(2) names another machine",
    "clock": "its clocks show other times since boot",
    "mounts": "it sees other files there, or may do other things with them",
    "propagation": "mounts are carried in or out otherwise than was meant",
    "net": "its network is not what was meant",
    "sysctl": "its network stack behaves otherwise than was meant",
    "ipc": "it may have more, or fewer, System V objects and POSIX queues than was meant",
    "env": "it was started with another value, or none",
    "cwd": "relative paths lead elsewhere; it may have changed its directory itself",
    "umask": "its new files have other permissions; it may have changed that itself",
    "command": "it is another program: it may have executed one itself",
    "init": "orphans are reaped, or signals handled, otherwise than was meant",
    "next_pid": "it has another number inside",
}


def against(pid: int, spec: Spec, name: str = "the spec") -> Difference:
    """Compare a process with what a spec asks for. Raises ProcessGone, SpecError."""
    from nstool.sandbox.launch import resolve

    spec = resolve(spec)
    with Side(pid) as side:
        rows = tuple(row for check in _CHECKS for row in check(spec, side))
        side.proc.check()
        return Difference(name, side.title, rows)


def _row(area: str, what: str, wanted: str, found: str, meaning: str) -> Row:
    alike = wanted == found
    return Row(area, what, wanted, found, ALIKE if alike else DIFFERENT, "" if alike else _MEANING[meaning])


def _unknown(area: str, what: str, wanted: str, why: str) -> Row:
    return Row(area, what, wanted, "", UNKNOWN, why)


# ---- namespaces and ids ----


def _namespaces(spec: Spec, side: Side) -> Iterator[Row]:
    from nstool.plan.build import namespace_path

    for kind in kinds.KINDS:
        wanted = getattr(spec.namespaces, kind)
        if kind == "net" and spec.net.mode in ("join", "host"):
            wanted = spec.net.target if spec.net.mode == "join" else "host"
            if wanted and "/" not in wanted and not wanted.isdecimal() and wanted != "host":
                wanted = f"/run/netns/{wanted}"
        inode = side.facts.namespaces.get(kind)
        if inode is None:
            yield _unknown("namespaces", kind, wanted, f"it may not be looked into: {side.hidden}")
            continue
        own = os.stat(f"/proc/self/ns/{kind}").st_ino
        found = "host" if inode == own else "new"
        if wanted not in ("new", "host"):
            try:
                same = os.stat(namespace_path(kind, wanted)).st_ino == inode
            except OSError as error:
                yield _unknown("namespaces", kind, wanted, f"what it was to join is not to be seen: {error.strerror}")
                continue
            found = wanted if same else f"{kind}:[{inode}]"
        alike = wanted == found
        whose = "are those of the host" if found == "host" else "are its own" if wanted == "host" else "are another's"
        meaning = "" if alike else f"{kinds.KINDS[kind].isolates} {whose}"
        yield Row("namespaces", kind, wanted, found, ALIKE if alike else DIFFERENT, meaning)


def _ids(spec: Spec, side: Side) -> Iterator[Row]:
    from nstool.namespaces.user import ids

    for what, wanted, maps in zip(("uid", "gid"), ids(spec), (side.facts.uid_map, side.facts.gid_map)):
        outside = getattr(side.facts, f"{what}s")
        found = {idmap.to_inside(maps, number) for number in outside.asdict().values()}
        shown = " ".join("not mapped" if number is None else str(number) for number in sorted(found, key=str))
        yield _row("ids", what, str(wanted), shown, "user")
    if spec.groups != ("keep",):
        inside = (idmap.to_inside(side.facts.gid_map, number) for number in side.facts.groups)
        groups = " ".join(sorted("not mapped" if number is None else str(number) for number in inside))
        yield _row("ids", "groups", " ".join(sorted(spec.groups)), groups, "groups")
    for what in ("uid_map", "gid_map"):
        lines = getattr(spec, what)
        if lines:
            yield _row("ids", what, map_words(lines), map_words(getattr(side.facts, what)), "map")


# ---- capabilities and confinement ----


def _capabilities(spec: Spec, side: Side) -> Iterator[Row]:
    from nstool.namespaces.user import ids

    wanted = {name: capabilities.mask(getattr(spec.capabilities, name)) for name in capabilities.SETS}
    known = capabilities.full(capabilities.last_cap())
    bits = securebits.mask(spec.securebits)
    root = ids(spec)[0] == 0 and not bits & securebits.SECUREBITS["noroot"]
    sets = capabilities.after_execve(wanted, root=root, no_new_privs=spec.no_new_privs)
    for name, mask in sets.items():
        asked, found = mask & known, side.facts.capabilities[name].mask
        if name == "effective" and asked != found:
            yield from _effective(asked, found, side)
        else:
            yield _row("capabilities", name, set_words(asked), set_words(found), "capabilities")
    yield _unknown("capabilities", "securebits", " ".join(spec.securebits) or "none", _SELF_ONLY)


def _effective(asked: int, found: int, side: Side) -> Iterator[Row]:
    for name in capabilities.names(asked ^ found):
        if found & capabilities.mask((name,)):
            yield Row("capabilities", name, "", "yes", DIFFERENT, f"it {reaches(side, name)}")
        else:
            can = reach.CAPABILITIES.get(name, reach.NEW_CAPABILITY)
            yield Row("capabilities", name, "yes", "", DIFFERENT, f"it may not {can}")


def _confinement(spec: Spec, side: Side) -> Iterator[Row]:
    known = side.facts
    yield _row("confinement", "no_new_privs", _yes(spec.no_new_privs), _yes(known.no_new_privs), "no_new_privs")
    own = _own_filters()
    more = 0 if spec.seccomp == "none" else 1 + answers_sysinfo(spec, Host(unotify=unotify()))
    # A filter of the launcher's is the command's too.
    wanted = "disabled" if own + more == 0 else f"{own + more} filter{'s' if own + more > 1 else ''}"
    found = known.seccomp if known.seccomp != "filter" else f"{known.seccomp_filters} filter"
    found += "s" if known.seccomp == "filter" and known.seccomp_filters != 1 else ""
    which = spec.seccomp if isinstance(spec.seccomp, str) else "list"
    yield _row("confinement", f"seccomp {which}", wanted, found, "seccomp")
    yield from _modules(spec, side)
    score = spec.oom_score_adj or known.oom_score_adj  # 0 leaves the launcher's
    yield _row("confinement", "oom_score_adj", str(score), str(known.oom_score_adj), "oom_score_adj")
    if spec.aslr:
        if known.aslr is None:
            yield _unknown("confinement", "aslr", spec.aslr, f"it may not be looked into: {side.hidden}")
        else:
            yield _row("confinement", "aslr", spec.aslr, "off" if known.aslr == "nothing" else "on", "aslr")
    if spec.personality:
        try:
            base = int(side.proc.read("personality"), 16) & 0xFF
            yield _row(
                "confinement", "personality", spec.personality, "linux32" if base == 8 else "linux", "personality"
            )
        except PermissionError:
            yield _unknown("confinement", "personality", spec.personality, f"it may not be looked into: {side.hidden}")
    for what, value in (("die_with_parent", spec.die_with_parent), ("subreaper", spec.subreaper)):
        yield _unknown("confinement", what, _yes(value), _SELF_ONLY)
    yield _unknown("confinement", "keyring", spec.keyring, "the kernel tells nobody which session keyring another has")


def _modules(spec: Spec, side: Side) -> Iterator[Row]:
    if spec.landlock != Landlock():
        yield _unknown("confinement", "Landlock", "yes", "the kernel tells nobody who is in which domain, landlock(7)")
    label = side.facts.lsm
    for what in ("apparmor", "selinux"):
        wanted = getattr(spec, what)
        if wanted and label is None:
            yield _unknown("confinement", what, wanted, side.unread("lsm"))
        elif wanted:
            found = label or ""
            yield _row("confinement", what, wanted, wanted if has_label(what, wanted, found) else found, "label")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _own_filters() -> int:
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) for line in file if line.startswith("Seccomp_filters:")), 0)


# ---- limits ----


def _limits(spec: Spec, side: Side) -> Iterator[Row]:
    wanted, found = spec.limits, side.limits
    if wanted.memory:
        memory = wanted.memory // _PAGE * _PAGE
        yield _limit("memory", memory, found)
        if "memory and swap" in found:
            yield _limit("memory and swap", memory + wanted.swap // _PAGE * _PAGE, found)
        elif "swap" in found:
            yield _limit("swap", wanted.swap // _PAGE * _PAGE, found)
    if wanted.pids:
        yield _limit("pids", wanted.pids, found)
    if wanted.cpu:
        yield _limit("cpu", wanted.cpu, found)
    elif wanted.cpu is None:
        small = {"cpu.weight": "cpu.weight 10", "cpu.shares": "cpu.shares 102"}  # a tenth, plan.cgroups
        asked = small.get(side.weight.split(" ")[0], "cpu.weight 10")
        yield _row("cgroups", "cpu weight", asked, side.weight, "limits")
    for name, pair in wanted.rlimits.items():
        yield _row("limits", name, rlimits.describe(pair), rlimits.describe(side.facts.rlimits[name]), "limits")


def _limit(what: str, wanted: float, limits: dict[str, float]) -> Row:
    found = f"{round(limits[what], 3):.15g}" if what in limits else "unlimited"
    return _row("cgroups", what, f"{wanted:.15g}", found, "limits")


# ---- names, clocks, the process itself ----


def _names(spec: Spec, side: Side) -> Iterator[Row]:
    if spec.namespaces.uts != "new":
        return
    for what, fact, wanted in (
        ("hostname", "hostname", spec.hostname or spec.name[:64]),
        ("domainname", "domainname", spec.domainname or "(none)"),
    ):
        found = getattr(side.facts, fact)
        if found is None:
            yield _unknown("settings", what, wanted, side.unread("hostname"))
        elif wanted:
            yield _row("settings", what, wanted, found, "hostname")


def _clocks(spec: Spec, side: Side) -> Iterator[Row]:
    offsets = side.facts.time_offsets
    for clock in ("monotonic", "boottime"):
        seconds = getattr(spec.namespaces, f"{clock}_offset")
        if seconds is None or spec.namespaces.time != "new":
            continue
        if offsets is None:
            yield _unknown("settings", f"clock {clock}", f"{seconds:+g} s", side.unread("time_offsets"))
        else:
            yield _row("settings", f"clock {clock}", f"{seconds:+g} s", f"{offsets[clock] / 1e9:+g} s", "clock")


def _process(spec: Spec, side: Side) -> Iterator[Row]:
    status = side.proc.status()
    yield _row("process", "command", " ".join(spec.command), " ".join(side.proc.command()), "command")
    if "Umask" in status:  # a zombie has none
        yield _row("process", "umask", f"{spec.umask:04o}", status["Umask"], "umask")
    if spec.namespaces.pid == "new":
        innermost = side.facts.pids[-1]
        yield _row("process", "init", _yes(spec.init), _yes(innermost != 1), "init")
        if spec.next_pid:
            yield _row("process", "next_pid", str(spec.next_pid), str(innermost), "next_pid")
    try:
        yield _row("process", "cwd", spec.cwd, side.proc.link("cwd"), "cwd")
        words = (word.partition("=") for word in side.proc.read("environ").split("\0"))
        environment = {key: value for key, _, value in words if key}
    except (PermissionError, FileNotFoundError):
        yield _unknown("process", "cwd, env", "", f"it may not be looked into: {side.hidden}")
        return
    for key, value in spec.env.items():
        yield _row("process", f"env {key}", value, environment.get(key, ""), "env")


# ---- mounts ----


def _mounts(spec: Spec, side: Side) -> Iterator[Row]:
    if spec.namespaces.mnt != "new":
        return
    if side.facts.mounts is None:
        yield _unknown("mounts", "mounts", "", side.unread("mounts"))
        return
    seen = {mount.target: mount for mount in side.facts.mounts}
    yield from _root(spec, seen)
    for wanted in spec.mounts:
        yield from _mount(wanted, seen.get(wanted.target), spec)
        if wanted.type == "bind" and wanted.target in seen:
            yield _source(wanted, side)
    yield from _own_file_systems(spec, seen)
    for what, paths in (("mask_paths", spec.mask_paths), ("readonly_paths", spec.readonly_paths)):
        for path in paths:
            mount = seen.get(path)
            words = "nothing mounted" if mount is None else "ro" if mount.read_only else "rw"
            yield _row("mounts", f"{what} {path}", "ro", words, "mounts")


def _root(spec: Spec, seen: dict[str, Mount]) -> Iterator[Row]:
    mount = seen.get("/")
    if mount is None:
        yield _row("mounts", "/", spec.root.type, "nothing mounted", "mounts")
        return
    found = _root_type(seen, {mount.target for mount in spec.mounts})
    # The tree of a directory, a tarball or the host is on any file system.
    asked = spec.root.type if spec.root.type in ("system", "tmpfs", "overlay") or found == "system" else found
    yield _row("mounts", "/", asked, found, "mounts")
    if spec.root.type != "tarball" and not spec.root.writable:
        yield _row("mounts", "/", "ro", "ro" if mount.read_only else "rw", "mounts")
    yield _row("mounts", "mount_propagation", spec.mount_propagation, _kind(mount), "propagation")


def _root_type(seen: dict[str, Mount], asked: set[str]) -> str:
    """Return "system" for a root that shows programs of the host as the default does, else its file system."""
    programs = "/usr" in seen and "/usr" not in asked
    return "system" if programs and seen["/"].type == "tmpfs" else seen["/"].type


def _kind(mount: Mount) -> str:
    """Return the propagation as the spec names it."""
    words = mount.propagation.split(",")
    for start, kind in (("shared:", "shared"), ("master:", "slave"), ("unbindable", "unbindable")):
        if any(word.startswith(start) for word in words):
            return kind
    return "private"


def _mount(wanted: Wanted, mount: Mount | None, spec: Spec) -> Iterator[Row]:
    if mount is None:
        yield _row("mounts", wanted.target, wanted.type, "nothing mounted", "mounts")
        return
    if wanted.type != "bind":
        yield _row("mounts", wanted.target, wanted.type, mount.type, "mounts")
    asked = ["ro" if wanted.type == "bind" and not wanted.writable else ""]
    asked += [word for word, allowed in (("nosuid", wanted.suid), ("nodev", wanted.dev)) if not allowed]
    asked += ["noexec"] if not wanted.exec else []
    asked += ["nosymfollow"] if not wanted.symlinks else []
    has = {*mount.options, *(["ro"] if mount.read_only else [])}
    lacking = [word for word in asked if word and word not in has]
    words = ",".join(word for word in asked if word) or "no restriction"
    found = words if not lacking else f"{mount_words(mount)}: without {','.join(lacking)}"
    yield _row("mounts", wanted.target, words, found, "mounts")
    if wanted.propagation and wanted.propagation != spec.mount_propagation:
        yield _row("mounts", f"{wanted.target} propagation", wanted.propagation, _kind(mount), "propagation")


def _source(wanted: Wanted, side: Side) -> Row:
    """Compare what is mounted with what was to be: the same file by another path."""
    from nstool import syscalls, uapi

    what = f"{wanted.target} source"
    try:
        asked = os.stat(wanted.source)
        root = side.proc.open("root", os.O_PATH | os.O_DIRECTORY)
        try:
            flags = os.O_PATH | os.O_CLOEXEC
            found = syscalls.openat2(root, wanted.target.lstrip("/") or ".", flags, 0, uapi.RESOLVE_IN_ROOT)
        finally:
            os.close(root)
    except OSError as error:
        return _unknown("mounts", what, wanted.source, f"it, or the file inside, is not to be seen: {error.strerror}")
    try:
        status = os.fstat(found)
    finally:
        os.close(found)
    same = (asked.st_dev, asked.st_ino) == (status.st_dev, status.st_ino)
    return _row("mounts", what, wanted.source, wanted.source if same else "another file", "mounts")


def _own_file_systems(spec: Spec, seen: dict[str, Mount]) -> Iterator[Row]:
    proc = seen.get("/proc")
    if not any(wanted.target == "/proc" for wanted in spec.mounts):
        if spec.proc == "none":
            yield _row("mounts", "/proc", "none", proc.type if proc else "none", "mounts")
        else:
            yield _row("mounts", "/proc", "proc", proc.type if proc else "nothing mounted", "mounts")
    if proc is not None and spec.proc == "private":
        options = dict(word.partition("=")[::2] for word in proc.super_options)
        yield _row("mounts", "/proc hidepid", spec.hidepid, options.get("hidepid", "off"), "mounts")
        yield _row("mounts", "/proc subset", spec.proc_subset, options.get("subset", ""), "mounts")
    dev = seen.get("/dev")
    if spec.dev == "private" and not any(wanted.target == "/dev" for wanted in spec.mounts):
        yield _row("mounts", "/dev", "tmpfs", dev.type if dev else "nothing mounted", "mounts")


# ---- network and ipc ----


def _net(spec: Spec, side: Side) -> Iterator[Row]:
    if spec.namespaces.net != "new" or spec.net.mode in ("join", "host"):
        return
    from nstool.network.facts import addresses

    try:
        links = {link.name: link for link in addresses(side.pid).links}
    except OSError as error:
        yield _unknown("net", "devices", spec.net.mode, f"its network may not be looked into: {error.strerror}")
        return
    lo = links.get("lo")
    up = "up" if lo is not None and lo.up else "down"
    yield _row("net", "lo", "down" if spec.net.mode == "none" else "up", up, "net")
    linked = spec.net.mode in ("veth", "bridge")
    yield _row("net", "devices", "lo eth0" if linked else "lo", " ".join(sorted(links, reverse=True)), "net")
    eth0 = links.get("eth0")
    for wanted in (spec.net.address, spec.net.address6) if linked else ():
        if wanted:
            yield _row("net", "address", wanted, wanted if eth0 and wanted in eth0.addresses else "none such", "net")
    if spec.net.mtu and eth0:
        yield _row("net", "mtu", str(spec.net.mtu), str(eth0.mtu), "net")
    if spec.net.sysctls:
        from nstool.inspect.net import read_sysctls

        wanted_ = {name.replace(".", "/"): value for name, value in spec.net.sysctls.items()}
        yield from _settings("net", wanted_, read_sysctls, side, "sysctl")


def _ipc(spec: Spec, side: Side) -> Iterator[Row]:
    asked = {IPC_FILES[key].removeprefix("/proc/sys/"): value for key, value in spec.ipc.asdict().items() if value}
    if asked and spec.namespaces.ipc == "new":
        wanted = {name: " ".join(str(value).split()) for name, value in asked.items()}
        yield from _settings("ipc", wanted, read_ipc, side, "ipc")


def _settings(
    kind: str, wanted: dict[str, str], read: Callable[[], dict[str, str]], side: Side, meaning: str
) -> Iterator[Row]:
    try:
        found = within(side.proc, kind, read)
    except (KernelError, SandboxGone) as error:
        yield _unknown("settings", f"sysctls of {kind}", "", str(error).splitlines()[0])
        return
    for name, value in wanted.items():
        yield _row("settings", name, " ".join(value.split()), found.get(name, "no such setting"), meaning)


_CHECKS: tuple[Callable[[Spec, Side], Iterable[Row]], ...] = (
    _process,
    _namespaces,
    _ids,
    _capabilities,
    _confinement,
    _mounts,
    _limits,
    _net,
    _ipc,
    _names,
    _clocks,
)
