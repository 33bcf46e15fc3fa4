"""Read the facts of this host that a plan needs: nstool.plan.host.Host."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ENOENT
from functools import cache
from itertools import takewhile

from nstool import uapi
from nstool.errors import NotSupported, SpecError
from nstool.kinds import INITIAL_USERNS, KINDS
from nstool.namespaces import system_root
from nstool.plan import identity, views
from nstool.plan.host import COVERED, SCRATCH, Host, Shown, SubIds
from nstool.sandbox import cgroups
from nstool.sandbox import shown as shown_parts
from nstool.spec.model import Landlock, Mount, Spec
from nstool.spec.values import nearest, quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RESOLV_CONF = "/etc/resolv.conf"
# Where systemd-resolved keeps the servers it asks, when resolv.conf names itself. systemd-resolved(8).
UPLINK = "/run/systemd/resolve/resolv.conf"
LOWEST = (5, 12)  # the first Linux with mount_setattr(2), the youngest call that every launch makes


def read(spec: Spec, terminals: tuple[int, ...] = ()) -> Host:
    """Return the facts for this spec. terminals: which of fds 0, 1, 2 are terminals.

    Raises SpecError for a path of the spec that is not there, NotSupported for a kernel that is too old.
    """
    if problem := too_old():
        raise problem
    uid, gid, groups = os.geteuid(), os.getegid(), tuple(os.getgroups())
    capabilities = effective_capabilities()
    privileged = bool(capabilities >> 21 & 1)  # CAP_SYS_ADMIN
    check_root(spec)
    _check_reach(spec)
    _check_joins(spec)
    network = spec.net.mode in ("veth", "bridge")
    directory = spec.root.path if spec.root.type == "directory" else ""
    prefix = directory.rstrip("/")
    exist = _directories(spec)
    shown, layers, command = shown_parts.read(spec, privileged) if spec.root.type == "system" else ((), (), None)
    return Host(
        uid=uid,
        gid=gid,
        groups=groups,
        capabilities=capabilities,
        last_cap=_last_cap(),
        privileged=privileged,
        **_proc(spec),
        root=exist,
        covered=_real((*COVERED, *_left_out(spec))) if spec.root.type == "host" else (),
        scratch=_real(SCRATCH) if spec.root.type == "host" else (),
        shown=shown,
        layers=layers,
        command=command,
        top=_top(directory, spec, exist) if directory else (),
        source_kinds=_source_kinds(spec),
        targets=_targets(prefix, spec, shown) if spec.root.type in ("system", "host", "directory") else {},
        roots=_roots() if spec.root.type == "tarball" else "",
        cgroups=cgroups.layout(),
        nameservers=_nameservers() if network else (),
        resolver=_read(RESOLV_CONF) if shown and spec.net.mode in ("host", "join") else "",
        resolv_conf=_resolv_conf(prefix) if (network or spec.net.dns) and spec.root.type != "system" else RESOLV_CONF,
        terminals=terminals,
        term=os.environ.get("TERM", ""),
        **_security(spec),
        seccomp=_filter(spec),
        unotify=unotify(),
        **_limits(spec, capabilities),
        randomize_va_space=int(_read("/proc/sys/kernel/randomize_va_space") or 2) if spec.aslr == "on" else 2,
        **({} if privileged else _helpers(uid)),
    )


def _filter(spec: Spec) -> bytes | None:
    """Return the filter of a list that does not come with nstool, compiled. Raises SpecError."""
    from nstool.security import seccomp

    if isinstance(spec.seccomp, str) and spec.seccomp in seccomp.FILTERS:
        return None
    from nstool.security.seccomp_read import ours, program_of  # late: most launches have no list of their own

    try:
        return program_of(spec.seccomp, ours(spec.capabilities.bounding))
    except SpecError as error:
        key, file = ("seccomp", spec.seccomp) if isinstance(spec.seccomp, str) else ("seccomp.base", spec.seccomp.base)
        if error.place == file:  # all of it, and no line in it
            raise SpecError(f"{file}: {error.message}", key) from None
        raise SpecError(error.message, error.place or "seccomp") from None


def _limits(spec: Spec, capabilities: int) -> dict[str, Any]:
    """Return the hard limits of this process that are lower than the spec's, and whether it may give more."""
    import resource

    hard = {}
    for name, (_, asked) in spec.limits.rlimits.items():
        own = resource.getrlimit(uapi.RLIMITS[name])[1]
        if own != resource.RLIM_INFINITY and not 0 <= asked <= own:
            hard[name] = own
    may = bool(hard) and capabilities >> uapi.CAP_SYS_RESOURCE & 1
    return {"hard": hard, "raises": bool(may and os.readlink("/proc/self/ns/user") == INITIAL_USERNS)}


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(takewhile(str.isdecimal, minor)))


def unotify() -> bool:
    """Whether this kernel has SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV. Linux 5.19; seccomp(2)."""
    return _release() >= (5, 19)


def too_old() -> NotSupported | None:
    """Return why this kernel is too old for any launch, if it is. uname(2)."""
    release = _release()
    if release >= LOWEST:
        return None
    wanted = ".".join(map(str, LOWEST))
    return NotSupported(
        f"Linux {release[0]}.{release[1]}",
        f"nstool makes every mount by file descriptors, which Linux has completely since {wanted}: mount_setattr(2)",
        f"run Linux {wanted} or later",
    )


def _security(spec: Spec) -> dict[str, Any]:
    """What this kernel has of the security modules that the spec asks for; nothing is asked for another spec."""
    facts: dict[str, Any] = {}
    if spec.landlock != Landlock():
        from nstool import syscalls

        facts["landlock"] = syscalls.landlock_abi()
    if spec.apparmor or spec.selinux:
        from nstool.sandbox import lsm

        facts |= lsm.facts(spec)
    return facts


def _left_out(spec: Spec) -> tuple[str, ...]:
    """Return what the spec wants no part of, and the host's root would show."""
    return tuple(path for path, how in (("/proc", spec.proc), ("/dev", spec.dev)) if how == "none")


def check_root(spec: Spec) -> None:
    """Raise SpecError for a root that is not there, or is not what its type says."""
    root = spec.root
    wanted = [("root.path", root.path, root.type == "directory")] if root.path else []
    wanted += [(f"root.lower[{n}]", path, True) for n, path in enumerate(root.lower)]
    wanted += [("root.upper", root.upper, True)] if root.upper else []
    for key, path, directory in wanted:
        if not os.path.exists(path):
            near = nearest(os.path.basename(path), ("system", "host", "tmpfs"))
            hint = f", did you mean {quoted(near)}?" if near else ""
            raise SpecError(f"{path} does not exist on this host{hint}", key)
        if root.type == "tarball" and not os.path.isfile(path):
            raise SpecError(f"{path} is no plain file: name a tarball: .tar, .tar.gz, .tar.xz", key)
        if directory and not os.path.isdir(path):
            raise SpecError(f"{path} is no directory; a root from a file is a tarball: .tar, .tar.gz, .tar.xz", key)
        if directory and os.path.realpath(path).split("/")[1] == "proc":
            raise SpecError(f"{path} lies in /proc, where directories come and go with processes; choose another", key)


def _check_joins(spec: Spec) -> None:
    """Raise SpecError for a namespace to join that is not there, is none, or is of another type."""
    from nstool.plan.build import joins

    for kind, path in joins(spec).items():
        # namespaces.net implies net.target, not the other way round.
        key = "net.target" if kind == "net" and spec.namespaces.net == "new" else f"namespaces.{kind}"
        try:
            found = _namespace_type(path)
        except PermissionError:  # the launch says whose it is
            continue
        except OSError as error:
            name = spec.net.target if path == f"/run/netns/{spec.net.target}" else ""
            raise SpecError(_no_namespace(kind, path, error, name), key) from None
        if found != kind:
            what = f"a namespace of type {found}, not {kind}" if found else "no namespace"
            raise SpecError(
                f"{path} is {what}; name a file such as /proc/PID/ns/{kind}, lsns -t {kind} lists them", key
            )


def _no_namespace(kind: str, path: str, error: OSError, name: str) -> str:
    if name and isinstance(error, FileNotFoundError):
        return f"no sandbox and no named network namespace is called {name!r}; nstool ps and ip netns list them"
    lists = f"lsns -t {kind} lists those that have one"
    words = path.split("/")
    if path.startswith("/proc/") and words[2].isdecimal() and not os.path.exists(f"/proc/{words[2]}"):
        return f"there is no process {words[2]}; {lists}"
    if path.startswith("/run/netns/"):
        return f"{path}: {error.strerror}; ip netns lists the names that there are"
    return f"{path}: {error.strerror}; {lists}"


def _namespace_type(path: str) -> str:
    """Return the type of a namespace file, empty if it is none. ioctl_nsfs(2). Raises OSError."""
    if os.stat(path).st_dev != os.stat("/proc/self/ns/mnt").st_dev:  # all lie on nsfs, and nothing else does
        return ""
    from nstool import syscalls

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        flag = syscalls.ns_get_nstype(fd)
    finally:
        os.close(fd)
    return next(name for name, kind in KINDS.items() if kind.flag == flag)


def effective_capabilities() -> int:
    """Return the effective capability mask of the calling thread. proc_pid_status(5)."""
    with open("/proc/thread-self/status", "rb") as file:
        for line in file:
            if line.startswith(b"CapEff:"):
                return int(line[7:], 16)
    raise SpecError("/proc/thread-self/status has no CapEff: mount a proc file system on /proc")


def _check_reach(spec: Spec) -> None:
    """Raise SpecError for what lets the command write where nstool keeps what it will do for us when that has ended."""
    from nstool.network.shared import RUN
    from nstool.sandbox import leases, rundir, tarball

    root = spec.root
    # Ids that are leased own nothing on the host, and the directories in question are their owner's alone.
    leased = spec.namespaces.user == "new" and not spec.uid_map and leases.are_apart()
    reached = []
    for number, mount in enumerate(spec.mounts):
        if mount.writable and (mount.idmap or not leased):
            reached += [(mount.source, f"mounts[{number}].source"), (mount.upper, f"mounts[{number}].upper")]
    if root.writable and (root.idmap or not leased) and root.type in ("directory", "host", "overlay"):
        reached += [({"directory": root.path, "host": "/"}.get(root.type, ""), "root"), (root.upper, "root.upper")]
    reached = [(path, place) for path, place in reached if path]
    if not reached:
        return
    own = (rundir.wanted_path(), *((RUN, os.path.dirname(tarball.directory())) if os.geteuid() == 0 else ()))
    kept = {os.path.realpath(path) for path in own}
    hidden = (*_real((*COVERED, *(SCRATCH if spec.tmp_size else ()))),) if root.type == "host" else ()
    for path, place in reached:
        real = os.path.realpath(path)
        for directory in kept:
            if real == "/" and any(directory.startswith(f"{above}/") for above in hidden):
                continue
            if os.path.commonpath((real, directory)) in (real, directory):
                raise SpecError(
                    f"{path} would let the command write in {directory}, from which nstool undoes sandboxes: "
                    "mount a directory that is apart from it, make it read-only, or set NSTOOL_RUN_DIR elsewhere",
                    place,
                )


def _last_cap() -> int:
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        return int(file.read())


def _kind(path: str) -> str:
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return "dir" if stat.S_ISDIR(mode) else "link" if stat.S_ISLNK(mode) else "file"


def _is_closed(entry: os.DirEntry[str], spec: Spec) -> bool:
    """Whether a file of /proc is the host's root's alone, and nobody inside is that: then it needs no cover."""
    if spec.namespaces.user != "new" or any(line.outside == 0 for line in (*spec.uid_map, *spec.gid_map)):
        return False
    mode = entry.stat(follow_symlinks=False).st_mode
    return stat.S_ISREG(mode) and not mode & 0o007


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno not in (ENOENT, EINVAL):
            raise
        raise SpecError(f"{path} was a symlink a moment ago: somebody changes the root, try again", "root") from None


def _proc(spec: Spec) -> dict[str, Any]:
    """The facts that the views of /proc are made of."""
    if spec.proc == "none" or spec.proc_subset:
        return {}
    with os.scandir("/proc") as entries:
        there = [entry for entry in entries if not (entry.name.isdecimal() or entry.is_symlink())]
    found = {entry.name: entry.is_dir() for entry in there if not _is_closed(entry, spec)}
    for name in (*views.SHOWN, "sys", *((views.SHOWN_IPC,) if spec.namespaces.ipc == "new" else ())):
        found.pop(name, None)
    for number, name in enumerate(spec.proc_show):
        if name != "sys" and name not in found and not any(entry.name == name for entry in there):
            raise SpecError(
                f"/proc has no {name!r} that would be hidden; nstool plan shows what is", f"proc_show[{number}]"
            )
    system = os.uname()
    settings = {path: _setting(path) for path in views.SETTINGS}
    live = (*views.LIVE, *(f"kernel/{name}" for name in views.IPC))
    return {
        "proc_files": found,
        "sysctls": {path: text for path, text in settings.items() if text}
        | {path: "" for path in live if os.path.exists(f"/proc/sys/{path}")},
        "processors": len(os.sched_getaffinity(0)),
        "cpuinfo": _cpuinfo(),
        "release": system.release,
        "version": system.version,
    }


def _setting(path: str) -> str:
    try:
        fd = os.open(f"/proc/sys/{path}", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):  # not of this kernel, or nobody's to read
        return ""
    try:
        return os.read(fd, 4096).decode("utf-8", "replace")
    finally:
        os.close(fd)


@cache
def _cpuinfo() -> str:
    # Of the first processor: of a machine with hundreds the whole takes milliseconds.
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return "".join(takewhile(str.strip, file))


def _real(paths: tuple[str, ...]) -> tuple[str, ...]:
    # Where they really lie: a plan follows no symlink.
    return tuple(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.isdir(path)))


def _directories(spec: Spec) -> frozenset[str]:
    """Which paths that a plan may mount on are directories of the root; of an overlay: in the topmost layer with it."""
    root = spec.root
    upper = (f"{root.upper}/upper",) if root.upper else ()
    roots = {"host": ("",), "directory": (root.path.rstrip("/"),), "overlay": (*upper, *root.lower)}.get(root.type, ())
    wanted = ("/proc", "/dev", *SCRATCH, *(m.target for m in spec.mounts), *spec.mask_paths)
    return frozenset(
        path for path in wanted if next(filter(None, (_found(layer, path, "") for layer in roots)), "") == "dir"
    )


def _targets(prefix: str, spec: Spec, shown: tuple[Shown, ...]) -> dict[str, str]:
    """What the targets of mounts, masks and read-only paths are, in the root or in the mount that they lie in."""

    def lies(path: str) -> str:
        if spec.root.type == "system" and not shown_parts.is_shown(path, shown):
            file = path.startswith("/etc/") and path.removeprefix("/etc/") in identity.ETC
            kind = "file" if file else "dir" if path in ("/", *system_root.DIRECTORIES) else ""
            return _target("", path, spec.mounts, kind)
        return _target(prefix, path, spec.mounts)

    found = {path: lies(path) for path in ("/proc", "/dev", *(m.target for m in spec.mounts))}
    mounted = {
        mount.target: "dir" if mount.type != "bind" or os.path.isdir(mount.source) else "file" for mount in spec.mounts
    }
    for path in (*spec.mask_paths, *spec.readonly_paths):
        found[path] = mounted.get(path) or lies(path)
    return found


def _target(prefix: str, path: str, mounts: tuple[Mount, ...], alone: str | None = None) -> str:
    """alone: the answer where no mount is above, if it is known."""
    above = [mount for mount in mounts if path.startswith(mount.target.rstrip("/") + "/")]
    if above:
        mount = max(above, key=lambda mount: len(mount.target))
        if mount.type != "bind":
            return _UNKNOWN
        return _found(mount.source.rstrip("/"), path[len(mount.target.rstrip("/")) :], mount.target)
    return _found(prefix, path, "") if alone is None else alone


_UNKNOWN = "dir"


def _found(prefix: str, path: str, shown: str) -> str:
    """What a path below prefix is, no symlink followed, as in Host.targets. shown: prefix as it is inside."""
    parts = [part for part in path.split("/") if part]
    kind = "dir"
    for length in range(1, len(parts) + 1):
        below = "/" + "/".join(parts[:length])
        try:
            kind = _kind(prefix + below)
        except PermissionError:  # not ours to look at: the launch will see
            return _UNKNOWN
        if kind == "link":
            return f"link {shown}{below}"
        if not kind:
            return ""
    return kind


def _roots() -> str:
    from nstool.sandbox.tarball import directory

    return directory()


def _top(directory: str, spec: Spec, exist: frozenset[str]) -> tuple[tuple[str, str, str], ...]:
    """Entries of a root directory that lacks a mount point at its top; empty when it lacks none."""
    needed = {"/proc"} if spec.proc != "none" else set()
    needed |= {"/dev"} if spec.dev != "none" else set()
    needed |= {"/" + mount.target.split("/")[1] for mount in spec.mounts}
    if spec.root.writable or all(path in exist or _kind(directory + path) == "dir" for path in needed):
        return ()
    entries = []
    for name in sorted(os.listdir(directory)):
        kind = _kind(f"{directory}/{name}")
        if ("/" + name in needed or "/" + name in SCRATCH) and kind != "dir":
            continue  # a directory takes its place
        entries.append((name, kind, _link(f"{directory}/{name}") if kind == "link" else ""))
    return tuple(entries)


def _source_kinds(spec: Spec) -> dict[str, str]:
    kinds = {}
    for number, mount in enumerate(spec.mounts):
        if mount.type == "bind":
            if not os.path.lexists(mount.source):
                raise SpecError(f"{mount.source} does not exist on this host", f"mounts[{number}].source")
            kinds[mount.source] = "dir" if os.path.isdir(mount.source) else "file"
    return kinds


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:  # a host without it
        return ""


def _nameservers() -> tuple[str, ...]:
    from nstool.network import plan

    return plan.nameservers(_read(RESOLV_CONF), _read(UPLINK))


def _resolv_conf(prefix: str) -> str:
    # A symlink of the root is followed inside the root, as a resolver inside would.
    path = RESOLV_CONF
    for _ in range(8):
        if _kind(prefix + path) != "link":
            break
        link = _link(prefix + path)
        path = os.path.normpath(link if link.startswith("/") else os.path.join(os.path.dirname(path), link))
    return path


def subordinate_maps() -> list[Any]:
    """Return how an ordinary user gets at files of a sandbox's ids, as sandbox/mapped.py wants it; empty for root."""
    if os.geteuid() == 0:
        return []
    facts = _helpers(os.geteuid())
    pairs = (("newuidmap", "subuid"), ("newgidmap", "subgid"))
    if not all(facts[helper] and facts[ids] for helper, ids in pairs):
        return []
    return [(facts[helper], [(ids.first, ids.count) for ids in facts[field]]) for helper, field in pairs]


def _helpers(uid: int) -> dict[str, Any]:
    """What an ordinary user has for maps of several ids: newuidmap(1), subuid(5)."""
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:  # a uid without an account, as in many containers
        name = str(uid)
    facts: dict[str, Any] = {}
    for field, path in (("subuid", "/etc/subuid"), ("subgid", "/etc/subgid")):
        ranges = []
        for line in _read(path).splitlines():
            words = line.split(":")
            if len(words) == 3 and words[0] in (name, str(uid)) and words[1].isdecimal() and words[2].isdecimal():
                ranges.append(SubIds(int(words[1]), int(words[2])))
        facts[field] = tuple(ranges)
    for program in ("newuidmap", "newgidmap"):
        facts[program] = next(
            (f"{d}/{program}" for d in ("/usr/bin", "/bin", "/usr/local/bin") if os.access(f"{d}/{program}", os.X_OK)),
            "",
        )
    return facts
