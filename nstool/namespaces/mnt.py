"""The mount namespace: the root, /proc, /dev, scratch directories, binds. mount_namespaces(7).

The order is the point of this file:

1. every source on the host is opened as a detached tree while the host's paths still mean something;
2. the new root is attached and pivoted to, the old root staying stacked below it, because the kernel
   gives a user namespace a fresh /proc only where it can still see a whole one (mount_too_revealing);
3. what goes into the new root is mounted by fd: targets are opened without following a symlink, and
   cannot lie outside, because the process lives in the new root already;
4. the old root is let go, last.
"""

from __future__ import annotations

from nstool import uapi
from nstool.errors import NotSupported, SpecError
from nstool.frozen import Frozen
from nstool.namespaces import mounting, system_root
from nstool.namespaces.proc_views import SYS, Views
from nstool.namespaces.user import TTY, Maps, is_inside
from nstool.plan.host import SCRATCH, Host, Shown
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, LAUNCHER, UNDO, Fd, Step
from nstool.spec.model import IdMap, Mount, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROPAGATION = {
    "private": uapi.MS_PRIVATE,
    "slave": uapi.MS_SLAVE,
    "shared": uapi.MS_SHARED,
    "unbindable": uapi.MS_UNBINDABLE,
}
# Device nodes that carry no state of the host: null(4), random(4), full(4), tty(4). mknod(2).
DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# Where the launcher's old root holds what is built before the pivot; it goes with the old root.
HOLD = "/dev"
_SMALL = 256 << 10  # bytes for what else is there


# What is planned: a sandbox from nothing to its command; or, of a service, what all its sandboxes have in common (their
# template), and what each has to itself: /proc, and all in which it can write.
WHOLE, TEMPLATE, EACH = "whole", "template", "each"
# Where the hold of a template is: an empty directory of /proc for ever, so that a mount there hides nothing of it from
# the kernel (mount_too_revealing), and that goes out of sight when a sandbox mounts its own /proc.
TEMPLATE_HOLD = "/proc/sys/fs/binfmt_misc"
PTS: dict[str, str] = {"newinstance": "", "ptmxmode": "0666", "mode": "0620"}  # of a devpts
# Of the sandbox's own /dev/pts: kernel.pty.max counts those of the host and of all sandboxes together.
MOST_TERMINALS = 64
OWN_FILES = "own"  # in it: the files that one sandbox has of its own
COMMAND = "command"  # in it: the command's file, where each sandbox mounts something of its own above that


class Parts(Frozen):
    """The steps of the mount namespace: before clone, inside before the pivot, inside after it; undo at the end."""

    before: tuple[Step, ...] = ()
    sources: tuple[Step, ...] = ()
    root: tuple[Step, ...] = ()
    inside: tuple[Step, ...] = ()
    last: tuple[Step, ...] = ()
    undo: tuple[Step, ...] = ()


def parts(
    spec: Spec,
    host: Host,
    maps: Maps | None,
    files: dict[str, str],
    lease: Lease,
    hostname: str = "",
    stage: str = WHOLE,
    varied: bool = False,
) -> Parts:
    """Plan the mount namespace. files: path inside → content of small generated files. hostname: "" if not its own.

    stage: WHOLE, TEMPLATE; for EACH see ``each``. varied: of a template, whose sandboxes have files of their own.
    Raises SpecError for a mount that has no place in the root, NotSupported for what this host cannot do.
    """
    opener = LAUNCHER if host.privileged else INIT
    userns = "userns" if opener == LAUNCHER and maps is not None else ""
    opened: list[Step] = []
    inside: list[Step] = []
    early: list[Step] = []
    name = lease.name
    views = Views(spec, host, lease, hostname, shared=stage == TEMPLATE)
    root = _root(spec, host, opener, opened, userns, name)
    if spec.root.type == "system":
        inside += system_root.furnish(host, files)
        files = {}
    own = _own(spec, host) if stage == TEMPLATE else ()
    inside += _proc(spec, host, opener, opened, stage)
    inside += _dev(spec, host, maps, opener, opened, stage)
    inside += _scratch(spec, host, stage)
    closed, opened_up = _closed(spec, host)
    inside += opened_up
    kept: list[Step] = []
    for number, mount in enumerate(spec.mounts):
        _check_above(spec, mount, number, host)
        if mount.type == "overlay":
            early += _overlay_mount(spec, mount, number, opener, opened, userns)
        if _is_below(mount.target, own):
            if mount.type in _FROM_OUTSIDE:
                if mount.type == "bind":
                    _bind(spec, mount, f"mount{number}", opener, opened, userns)
                kept.append(_keep(number, mount))
        elif stage == TEMPLATE and mount.type not in _FROM_OUTSIDE:
            inside += _place(spec, mount, number, host, "dir")
        else:
            inside += _mount(spec, mount, number, host, opener, opened, userns)
    if host.command is not None and _is_below(host.command.path, own):
        kept += _keep_command(host.command)
    else:
        inside += _command(host)
    inside += _files({path: text for path, text in files.items() if not _is_below(path, own)}, files, spec, host)
    covered = _covered(spec, host, closed)
    if stage == WHOLE:
        inside += views.cover()
    inside += _cover([(path, is_directory) for path, is_directory in covered if not _is_below(path, own)])
    inside += _readonly(spec, host, own, whole=stage == WHOLE)
    keeps = _kept_kinds(spec, host, own) | ({OWN_FILES: "dir"} if varied else {})
    hold = _hold(spec, host, files, views, bool(covered), keeps)
    before = (*_unpack(spec, host, maps, name), *(s for s in opened if s.who == LAUNCHER))
    sources = tuple(s for s in opened if s.who == INIT)
    last = _last(spec, host, sum(step.call == "fsmount" for step in opened_up))
    if stage == TEMPLATE and spec.proc == "private" and hold:
        last = [*kept, _stow(), *last]
    return Parts(
        before,
        sources,
        (_propagation(spec), *hold, *early, *root),
        tuple(inside),
        tuple(last),
        _remove(spec, host, maps, name),
    )


_FROM_OUTSIDE = ("bind", "overlay")  # what can only be opened while the host's paths mean something


def each(
    spec: Spec,
    host: Host,
    maps: Maps | None,
    files: dict[str, str],
    lease: Lease,
    hostname: str = "",
    varied: dict[str, str] | None = None,
) -> Parts:
    """Plan what one sandbox of a service mounts in its copy of the template's namespace. Arguments as of ``parts``.

    varied: path inside → content of files that the template has too, and that say something else in each sandbox.
    """
    views = Views(spec, host, lease, hostname, shared=True)
    own = _own(spec, host)
    steps: list[Step] = []
    steps += _proc(spec, host, INIT, [], EACH)
    steps += _dev(spec, host, maps, INIT, [], EACH)
    steps += _scratch(spec, host, EACH)
    for number, mount in enumerate(spec.mounts):
        if _is_below(mount.target, own):
            if mount.type in _FROM_OUTSIDE:
                copy = (Fd("hold"), f"mount{number}", mounting.CLONE_TREE | mounting.RECURSIVE)
                why = f"the template's copy of what is mounted on {mount.target}"
                steps.append(Step(INIT, "open_tree", copy, why, result=f"mount{number}"))
                steps += _place(spec, mount, number, host, _kind(mount, host))
                steps += _attach(mount, number)
            else:
                steps += _mount(spec, mount, number, host, INIT, [], "")
        elif mount.type not in _FROM_OUTSIDE:
            steps += _mount(spec, mount, number, host, INIT, [], "", places=False)
    if host.command is not None and _is_below(host.command.path, own):
        steps += _kept_command(host.command)
    steps += _files({path: text for path, text in files.items() if _is_below(path, own)}, files, spec, host)
    if spec.proc == "private":
        steps += views.cover(each=True)
    covered = _covered(spec, host, ())
    steps += _cover([(path, is_directory) for path, is_directory in covered if _is_below(path, own)])
    steps += _readonly(spec, host, own, whole=False, each=True)
    steps += _vary(varied or {})
    if any(Fd("hold") in step.args for step in steps):
        where = (uapi.AT_FDCWD, TEMPLATE_HOLD, uapi.O_PATH | uapi.O_CLOEXEC, 0, mounting.NO_LINKS)
        why = "what the template has made for its sandboxes"
        steps.insert(0, Step(INIT, "openat2", where, why, result="hold"))
    for number, mount in enumerate(spec.mounts):
        if mount.propagation and mount.type not in _FROM_OUTSIDE:
            why = f"{mount.target} is {mount.propagation}, as asked for"
            propagation = PROPAGATION[mount.propagation]
            steps.append(
                mounting.attributes(INIT, f"mount{number}", 0, why, propagation=propagation, recursive=mount.recursive)
            )
    return Parts(inside=tuple(steps))


def _vary(files: dict[str, str]) -> list[Step]:
    """Small files of one sandbox's own, bound over those of the template."""
    if not files:
        return []
    flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
    options = {"mode": "755", "size": "64k"}
    steps = mounting.filesystem("tmpfs", OWN_FILES, options, flags, "files of this sandbox's own")
    for number, (path, content) in enumerate(files.items()):
        made = (Fd(OWN_FILES), str(number), content, uapi.O_CREAT, 0o444)
        steps.append(Step(INIT, "write_file", made, f"the content of {path}"))
    where = (Fd(OWN_FILES), "", Fd("hold"), OWN_FILES, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    steps.append(Step(INIT, "move_mount", where, "a tree is copied only from a mount"))
    steps.append(mounting.attributes(INIT, OWN_FILES, uapi.MOUNT_ATTR_RDONLY, "nobody writes there", recursive=False))
    for number, path in enumerate(files):
        copy = (Fd("hold"), f"{OWN_FILES}/{number}", mounting.CLONE_TREE)
        steps.append(Step(INIT, "open_tree", copy, "a copy of it", result="varied"))
        steps += [mounting.target(path, "at", "where it goes"), mounting.attach("varied", "at", f"bind {path}")]
    return steps


def _own(spec: Spec, host: Host) -> tuple[str, ...]:
    """Where each sandbox of a service mounts something of its own, so that nothing of the template shows below."""
    own = [*scratch_paths(spec, host)]
    if spec.proc == "private":
        own.append("/proc")
    if spec.dev == "private":
        own += ["/dev/pts", "/dev/shm", "/dev/mqueue"]
    return (*own, *(mount.target for mount in spec.mounts if mount.type not in _FROM_OUTSIDE))


def _is_below(path: str, own: tuple[str, ...]) -> bool:
    return any(_below(path, directory) for directory in own)


def _kind(mount: Mount, host: Host) -> str:
    return host.source_kinds.get(mount.source, "dir") if mount.type == "bind" else "dir"


def _kept_kinds(spec: Spec, host: Host, own: tuple[str, ...]) -> dict[str, str]:
    """What the hold of a template keeps for its sandboxes: name to "dir" or "file"."""
    command = {COMMAND: "file"} if host.command is not None and _is_below(host.command.path, own) else {}
    return command | {
        f"mount{number}": _kind(mount, host)
        for number, mount in enumerate(spec.mounts)
        if mount.type in _FROM_OUTSIDE and _is_below(mount.target, own)
    }


def _keep(number: int, mount: Mount) -> Step:
    where = (Fd(f"mount{number}"), "", Fd("hold"), f"mount{number}", uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return Step(INIT, "move_mount", where, f"keep it for the sandboxes, which have {mount.target} to themselves")


def _stow() -> Step:
    where = (Fd("hold"), "", uapi.AT_FDCWD, TEMPLATE_HOLD, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return Step(INIT, "move_mount", where, "where the sandboxes find it, until each mounts its own /proc over it")


def _propagation(spec: Spec) -> Step:
    # A shared mount here would carry our mounts to the host; a slave still gets the host's.
    flags = uapi.MS_REC | (uapi.MS_SLAVE if spec.mount_propagation == "slave" else uapi.MS_PRIVATE)
    return Step(
        INIT, "mount", (None, "/", None, flags, None), "no mount made here is seen outside", man="mount_namespaces(7)"
    )


def _hold(
    spec: Spec, host: Host, files: dict[str, str], views: Views, covers: bool, kept: dict[str, str]
) -> list[Step]:
    """A small tmpfs in the old root with what is bound into the new one: a tree is copied only from a mount."""
    layers = [layer for prefix, lower in _overlays(spec) for layer in _layer_names(prefix, lower)]
    layers += system_root.layers(host)
    covers = covers or bool(host.layers) or bool(views)
    if not (files or covers or layers or kept):
        return []
    flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
    steps = mounting.filesystem(
        "tmpfs", "hold", {"mode": "755", "size": str(_SMALL + views.size())}, flags, "files made for this sandbox"
    )
    if covers:
        steps.append(Step(INIT, "mkdirat", (Fd("hold"), "dir", 0o555), "the empty directory to cover with"))
        steps.append(
            Step(INIT, "write_file", (Fd("hold"), "file", b"", uapi.O_CREAT, 0o444), "the empty file to cover with")
        )
    steps += views.hold()
    for number, (path, content) in enumerate(files.items()):
        made = (Fd("hold"), f"file{number}", content, uapi.O_CREAT, 0o444)
        steps.append(Step(INIT, "write_file", made, f"the content of {path}"))
    for name in layers:
        steps.append(Step(INIT, "mkdirat", (Fd("hold"), name, 0o755), "a place for a layer of an overlay"))
    for name, kind in kept.items():
        if kind == "dir":
            steps.append(Step(INIT, "mkdirat", (Fd("hold"), name, 0o755), "a place for what the sandboxes mount"))
        else:
            empty = (Fd("hold"), name, b"", uapi.O_CREAT, 0o444)
            steps.append(Step(INIT, "write_file", empty, "a place for what the sandboxes mount"))
    where = (Fd("hold"), "", uapi.AT_FDCWD, HOLD, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    steps.append(Step(INIT, "move_mount", where, "attach it: it goes away with the old root"))
    steps.append(mounting.attributes(INIT, "hold", uapi.MOUNT_ATTR_RDONLY, "nobody writes there", recursive=False))
    return steps


def _may_make(spec: Spec, host: Host, path: str) -> bool:
    """Whether the place for a mount is made when it is missing."""
    if any(_below(path, made) for made in _made(spec, host)):
        return True
    return _own_root(spec, host) and not _is_bound(host, path)


def _is_bound(host: Host, path: str) -> bool:
    # Whether the path lies in an entry of a root that is built of its entries: nothing is made in those.
    if any(path == part.path or _below(path, part.path) for part in host.shown):
        return True
    first = path.split("/")[1]
    return any(name == first and kind == "dir" for name, kind, _ in host.top)


def _check_own(path: str, host: Host) -> None:
    # A root that is not built anew must not lead elsewhere with /proc and /dev.
    if host.targets.get(path, "").startswith("link ") and not host.top:
        raise SpecError(
            f"{path} of the root is a symlink, so that nothing can be mounted there: make it a directory, or leave the "
            "root read-only, then a directory takes its place",
            "root",
        )


def _own_root(spec: Spec, host: Host) -> bool:
    # Whether mount points may be made: the root is ours alone, or the spec makes it writable.
    return spec.root.type in ("system", "tmpfs", "overlay", "tarball") or spec.root.writable or bool(host.top)


def _below(path: str, directory: str) -> bool:
    return path.startswith(directory.rstrip("/") + "/")


# ---- the root ----


def _root(spec: Spec, host: Host, opener: str, opened: list[Step], userns: str, name: str) -> list[Step]:
    root = spec.root
    if root.idmap and not userns:
        raise _no_idmap("root.idmap")
    if root.type == "system":
        opened += system_root.sources(host, opener)
        size = root.size if root.writable else 0
        return [*system_root.early(host, HOLD), *system_root.root(host, size), *_pivot()]
    if root.type == "tmpfs":
        options = {"mode": "755", "size": str(root.size)}
        return [*mounting.filesystem("tmpfs", "root", options, mounting.SAFE, "an empty root in memory"), *_pivot()]
    if root.type == "overlay":
        layers = _overlay("", root.lower, root.upper, root.size, root.idmap, opener, opened, userns)
        return [
            *layers,
            *mounting.filesystem(
                "overlay", "root", _layer_options("", root.lower), mounting.SAFE, "the layers as one tree"
            ),
            *_pivot(),
        ]
    attributes = mounting.SAFE | (0 if root.writable or root.type == "tarball" else uapi.MOUNT_ATTR_RDONLY)
    attributes |= uapi.MOUNT_ATTR_IDMAP if root.idmap else 0
    path = {"host": "/", "directory": root.path}.get(root.type) or f"{host.roots}/{name}"
    why = f"root {'writable' if root.writable else 'read-only'}, no set-user-ID, no device nodes"
    mapped = userns if root.idmap else ""
    propagation = _first(spec.mount_propagation)

    def finished(tree: str) -> Step:
        return mounting.attributes(opener, tree, attributes, why, propagation=propagation, userns=mapped)

    if host.top:
        return _shadow(path, host, opener, opened, finished)
    whose = "a private copy of the host's mounts" if root.type == "host" else "the tree that becomes the root"
    opened += [mounting.tree(opener, path, "root", whose), finished("root")]
    return _pivot()


# By which an ordinary user with a range in /etc/subuid is the command's user; without one this is the default.
_OWNER = "--uid-map 1000:$(id -u):1 --gid-map 1000:$(id -g):1"


def _no_idmap(what: str) -> NotSupported:
    return NotSupported(
        what,
        "mount_setattr(2) with MOUNT_ATTR_IDMAP needs CAP_SYS_ADMIN over the filesystem, which a user has not",
        f"run as root, or drop idmap and be the owner of your files inside too: {_OWNER}",
    )


def _pivot() -> list[Step]:
    attach = (Fd("root"), "", uapi.AT_FDCWD, "/", uapi.MOVE_MOUNT_F_EMPTY_PATH)
    why = "it becomes the root; the old one is stacked on it until the last mount is made"
    return [
        Step(INIT, "move_mount", attach, "attach the new root"),
        Step(INIT, "fchdir", (Fd("root"),), "stand in the new root"),
        Step(INIT, "pivot_root", (".", "."), why),
    ]


def _shadow(directory: str, host: Host, opener: str, opened: list[Step], finished: Callable[[str], Step]) -> list[Step]:
    """A root directory that lacks mount points: a tmpfs with each of its entries bound in; nothing is made in it.

    The entries are copied from where the directory is: before Linux 6.15 a copy that is not attached cannot be copied.
    """
    flags = uapi.O_PATH | uapi.O_DIRECTORY | uapi.O_CLOEXEC
    opened.append(Step(opener, "openat2", (uapi.AT_FDCWD, directory, flags, 0, 0), "the root directory", result="tree"))
    steps = mounting.filesystem(
        "tmpfs",
        "root",
        {"mode": "755", "size": "64k"},
        mounting.SAFE,
        "the root lacks mount points, so a root of its entries",
    )
    steps += _pivot()
    for number, (name, kind, link) in enumerate(host.top):
        path = f"/{name}"
        if kind == "link":
            steps.append(Step(INIT, "symlinkat", (link, uapi.AT_FDCWD, path), "a symlink of the root"))
            continue
        fd = f"top{number}"
        opened.append(
            Step(
                opener,
                "open_tree",
                (Fd("tree"), name, mounting.CLONE_TREE | mounting.RECURSIVE | uapi.AT_SYMLINK_NOFOLLOW),
                "an entry of the root",
                result=fd,
            )
        )
        opened.append(finished(fd))
        if kind == "dir":
            steps.append(Step(INIT, "mkdirat", (uapi.AT_FDCWD, path, 0o755), "a directory of the root"))
        else:
            steps.append(
                Step(INIT, "write_file", (uapi.AT_FDCWD, path, b"", uapi.O_CREAT, 0o444), "a file of the root")
            )
        steps += [mounting.target(path, "at", "where it goes"), mounting.attach(fd, "at", "bind it")]
    return steps


def _overlays(spec: Spec) -> list[tuple[str, tuple[str, ...]]]:
    """The overlays of the spec: (prefix of the names of its layers, lower directories)."""
    found = [("", spec.root.lower)] if spec.root.type == "overlay" else []
    return found + [(f"m{n}_", m.lower) for n, m in enumerate(spec.mounts) if m.type == "overlay"]


def _layer_names(prefix: str, lower: tuple[str, ...]) -> list[str]:
    return [*(f"{prefix}lower{n}" for n in range(len(lower))), f"{prefix}upper"]


def _overlay(
    prefix: str,
    lower: tuple[str, ...],
    upper: str,
    size: int,
    idmap: bool,
    opener: str,
    opened: list[Step],
    userns: str,
) -> list[Step]:
    """The layers of an overlay attached to known paths of the old root. overlayfs.rst."""
    steps: list[Step] = []
    *names, top = _layer_names(prefix, lower)
    for name, path in zip(names, lower):
        mapped = userns if idmap else ""
        flags = mounting.SAFE | uapi.MOUNT_ATTR_RDONLY | (uapi.MOUNT_ATTR_IDMAP if mapped else 0)
        opened.append(mounting.tree(opener, path, name, "a layer of the overlay"))
        opened.append(
            mounting.attributes(opener, name, flags, "a layer is only read", propagation=uapi.MS_PRIVATE, userns=mapped)
        )
        steps.append(_layer(name))
    if upper:
        # The ids on disk are those inside, so that the next sandbox, with other ids, owns the changes too.
        flags = mounting.SAFE | (uapi.MOUNT_ATTR_IDMAP if userns else 0)
        opened.append(mounting.tree(opener, upper, top, "the layer that keeps the changes"))
        opened.append(
            mounting.attributes(
                opener, top, flags, "no set-user-ID, no devices", propagation=uapi.MS_PRIVATE, userns=userns
            )
        )
    else:
        options = {"mode": "755", "size": str(size)}
        steps += mounting.filesystem(
            "tmpfs", top, options, mounting.SAFE, "the layer of changes, thrown away with the sandbox"
        )
    steps.append(_layer(top))
    for name in ("upper", "work"):
        steps.append(
            Step(
                INIT,
                "mkdirat",
                (Fd(top), name, 0o755),
                "overlayfs wants both on one filesystem",
                ignore=mounting.EEXIST,
            )
        )
    return steps


def _layer_options(prefix: str, lower: tuple[str, ...]) -> dict[str, str]:
    *names, top = _layer_names(prefix, lower)
    return {
        "lowerdir": ":".join(f"{HOLD}/{name}" for name in names),
        "upperdir": f"{HOLD}/{top}/upper",
        "workdir": f"{HOLD}/{top}/work",
        "userxattr": "",  # trusted.* attributes need privilege in the first user namespace
    }


def _layer(name: str) -> Step:
    where = (Fd(name), "", uapi.AT_FDCWD, f"{HOLD}/{name}", uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return Step(INIT, "move_mount", where, "a layer must be a mount of this namespace")


# ---- a tarball ----


def _unpack(spec: Spec, host: Host, maps: Maps | None, name: str) -> tuple[Step, ...]:
    if spec.root.type != "tarball":
        return ()
    owned = maps is not None and maps.how != "single"
    args: dict[str, object] = {
        "path": spec.root.path,
        "directory": f"{host.roots}/{name}",
        "size": spec.root.size,
        "uids": [list(line) for line in lines(maps.uid)] if maps and owned else [],
        "gids": [list(line) for line in lines(maps.gid)] if maps and owned else [],
        "keep_owners": host.privileged or owned,
        "idmaps": _idmaps(host, maps),
        "own_dev": spec.dev in ("private", "nodes"),
        "places": [[path, host.source_kinds.get(source, "dir")] for path, source in _places(spec)],
    }
    return (Step(LAUNCHER, "external", ("tarball_unpack", args), f"a tree of this sandbox's own, of {spec.root.path}"),)


def _idmaps(host: Host, maps: Maps | None) -> list[object]:
    """How an ordinary user gets at files of the sandbox's ids: newuidmap, newgidmap, and the ids that are its own."""
    if maps is None or maps.how != "helper":
        return []
    pairs = ((host.newuidmap, host.subuid), (host.newgidmap, host.subgid))
    return [[program, [[ids.first, ids.count] for ids in ranges]] for program, ranges in pairs]


def _places(spec: Spec) -> list[tuple[str, str]]:
    """Where something is mounted in an unpacked root, and the source of a bind: (path, source)."""
    own = [path for path, how in (("/proc", spec.proc), ("/dev", spec.dev)) if how != "none"]
    scratch = SCRATCH if spec.tmp_size else ()
    return [*((path, "") for path in (*own, *scratch)), *((mount.target, mount.source) for mount in spec.mounts)]


def lines(maps: tuple[IdMap, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return id map lines as plain numbers: inside, outside, count."""
    return tuple((line.inside, line.outside, line.count) for line in maps)


def _remove(spec: Spec, host: Host, maps: Maps | None, name: str) -> tuple[Step, ...]:
    if spec.root.type != "tarball":
        return ()
    args: dict[str, object] = {"directory": f"{host.roots}/{name}", "mapped": bool(_idmaps(host, maps))}
    return (Step(UNDO, "external", ("tarball_remove", args), f"remove the unpacked tree {args['directory']}"),)


# ---- what every sandbox has ----


def _bound(name: str, opener: str, opened: list[Step]) -> None:
    """Open the host's own /proc or /dev, which the spec asks for, as a tree of this name."""
    flags = uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NOEXEC | (uapi.MOUNT_ATTR_NODEV if name == "proc" else 0)
    opened.append(mounting.tree(opener, f"/{name}", name, f"the host's own /{name}"))
    opened.append(mounting.attributes(opener, name, flags, "no set-user-ID, no programs", propagation=uapi.MS_PRIVATE))


def _proc(spec: Spec, host: Host, opener: str, opened: list[Step], stage: str) -> list[Step]:
    if spec.proc == "none" or (spec.proc == "bind" and stage == EACH):
        return []
    if spec.proc == "bind":
        _bound("proc", opener, opened)
    _check_own("/proc", host)
    steps: list[Step] = []
    if spec.proc == "private":
        options = {}
        why = "a /proc of this pid namespace; processes of other users are hidden"
        if stage == TEMPLATE:
            why = "a whole /proc, without which the kernel gives a user namespace no other (mount_too_revealing)"
            # A sandbox with CAP_SYS_ADMIN may unmount its own, below which this one is, with the processes of all.
            options["hidepid"] = "invisible"
        else:
            if spec.hidepid != "off":
                options["hidepid"] = spec.hidepid
            if spec.proc_subset:
                options["subset"] = spec.proc_subset
        flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
        steps += mounting.filesystem("proc", "proc", options, flags, why)
    if _own_root(spec, host) and stage != EACH:
        steps += mounting.make_directories(["/proc"])
    steps += [mounting.target("/proc", "at", "where it goes"), mounting.attach("proc", "at", "mount /proc")]
    return steps


def _closed(spec: Spec, host: Host) -> tuple[tuple[str, ...], list[Step]]:
    """Directories of the host that are closed: the paths to cover, and the steps for those that are mounted in.

    A directory of the host is covered by an empty one; where a mount goes into it, by a small tmpfs,
    in which the places to mount on can be made.
    """
    if spec.root.type != "host":
        return (), []
    used = [path for path in host.covered if any(_below(mount.target, path) for mount in spec.mounts)]
    itself = {mount.target for mount in spec.mounts}
    steps: list[Step] = []
    for number, path in enumerate(used):
        options = {"mode": "755", "size": "64k"}
        flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
        steps += mounting.filesystem(
            "tmpfs", f"closed{number}", options, flags, f"{path} of the host does not show, what is mounted there does"
        )
        steps += [
            mounting.target(path, "at", "where it goes"),
            mounting.attach(f"closed{number}", "at", f"mount {path}"),
        ]
    return tuple(path for path in host.covered if path not in used and path not in itself), steps


def _made(spec: Spec, host: Host) -> tuple[str, ...]:
    """The directories that are empty and the sandbox's own, so that places to mount on can be made below them."""
    tmpfs = tuple(mount.target for mount in spec.mounts if mount.type == "tmpfs")
    return (*scratch_paths(spec, host), *tmpfs, *(host.covered if spec.root.type == "host" else ()))


def _covered(spec: Spec, host: Host, closed: tuple[str, ...]) -> list[tuple[str, bool]]:
    """What is covered: (path, whether it is a directory)."""
    wanted = [(path, True) for path in closed]
    for number, path in enumerate(spec.mask_paths):
        _check_protected(path, f"mask_paths[{number}]", host)
        wanted.append((path, _is_directory(path, spec, host)))
    return wanted


def _is_directory(path: str, spec: Spec, host: Host) -> bool:
    """Whether a path of the finished root is a directory: one of the root, or one that the plan makes."""
    if path in host.targets:
        return host.targets[path] == "dir"
    if path in host.root or path in ("/dev", "/proc", *SCRATCH):
        return True
    for mount in spec.mounts:
        if mount.target == path:
            return mount.type != "bind" or host.source_kinds.get(mount.source) == "dir"
        if mount.target.startswith(path + "/"):
            return True
    return False


def _check_protected(path: str, place: str, host: Host) -> None:
    found = host.targets.get(path, "dir")
    if not found:
        raise SpecError(f"{path} does not exist in the root, so there is nothing to protect: leave it out", place)
    if found.startswith("link "):
        raise SpecError(
            f"{path} leads over the symlink {found[5:]}; no symlink is followed: write where it leads", place
        )


def _cover(wanted: list[tuple[str, bool]]) -> list[Step]:
    """Cover what is not to be seen: files with an empty file, directories with an empty directory."""
    steps: list[Step] = []
    for path, is_directory in wanted:
        source = (Fd("hold"), "dir" if is_directory else "file", mounting.CLONE_TREE)
        steps.append(Step(INIT, "open_tree", source, "a copy of the cover", result="cover"))
        steps.append(mounting.target(path, "at", "what is covered"))
        steps.append(mounting.attach("cover", "at", f"{path} tells of the host or acts on it: covered"))
    return steps


def _readonly(spec: Spec, host: Host, own: tuple[str, ...], *, whole: bool, each: bool = False) -> list[Step]:
    # whole: of a whole sandbox; else of a template, or of each of its sandboxes.
    steps: list[Step] = []
    wanted: list[tuple[Fd | int, str]] = []
    shows_sys = spec.proc != "none" and not spec.proc_subset and SYS in spec.proc_show
    if shows_sys and (whole or each == (spec.proc == "private")):
        wanted.append((Fd("proc"), SYS))
    for number, path in enumerate(spec.readonly_paths):
        _check_protected(path, f"readonly_paths[{number}]", host)
        if each == _is_below(path, own):
            wanted.append((uapi.AT_FDCWD, path))
    for directory, name in wanted:
        source = (directory, name, mounting.CLONE_TREE | mounting.RECURSIVE)
        steps.append(Step(INIT, "open_tree", source, "a copy of it", result="readonly"))
        flags = uapi.MOUNT_ATTR_RDONLY | mounting.SAFE | (uapi.MOUNT_ATTR_NOEXEC if name == SYS else 0)
        steps.append(mounting.attributes(INIT, "readonly", flags, "read-only"))
        steps.append(mounting.target(name, "at", "where it is", directory))
        steps.append(mounting.attach("readonly", "at", f"{name} can only be read"))
    return steps


def _dev(spec: Spec, host: Host, maps: Maps | None, opener: str, opened: list[Step], stage: str) -> list[Step]:
    if spec.dev == "none" or (stage == EACH and spec.dev != "private"):
        return []
    if stage == EACH:
        return [mounting.target("/dev", "dev", "the template's"), *_dev_mounts(spec, maps)]
    _check_own("/dev", host)
    if spec.dev == "bind":
        _bound("dev", opener, opened)
        places = mounting.make_directories(["/dev"]) if _own_root(spec, host) else []
        return [*places, mounting.target("/dev", "at", "where it goes"), mounting.attach("dev", "at", "mount /dev")]
    flags = uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NOEXEC
    steps: list[Step] = []
    make: list[Step] = mounting.filesystem(
        "tmpfs", "dev", {"mode": "755", "size": "64k"}, flags, "a /dev of its own", who=opener
    )
    for name, (major, minor) in DEVICES.items():
        if opener == LAUNCHER:
            node = (Fd("dev"), name, uapi.S_IFCHR | 0o666, major << 8 | minor)
            make.append(
                Step(LAUNCHER, "mknodat", node, "a node without state of the host: a user namespace may not make it")
            )
            make.append(Step(LAUNCHER, "fchmodat", (Fd("dev"), name, 0o666), "whatever the umask"))
        else:
            opened.append(
                mounting.tree(
                    INIT,
                    f"/dev/{name}",
                    f"dev_{name}",
                    "the host's node: a user namespace may not make one",
                    recursive=False,
                )
            )
            opened.append(
                mounting.attributes(
                    INIT,
                    f"dev_{name}",
                    flags,
                    "no set-user-ID, no programs",
                    propagation=uapi.MS_PRIVATE,
                    recursive=False,
                )
            )
            make.append(Step(INIT, "write_file", (Fd("dev"), name, b"", uapi.O_CREAT, 0o666), "where it goes"))
    below = ("pts", "shm", "mqueue") if spec.dev == "private" else ()
    for name, link in DEV_LINKS.items():
        if below or name != "ptmx":
            make.append(Step(opener, "symlinkat", (link, Fd("dev"), name), "as every Linux system has it"))
    for name in below:
        make.append(Step(opener, "mkdirat", (Fd("dev"), name, 0o755), "a place to mount on"))
    if opener == LAUNCHER:
        opened += make
    else:
        steps += make
    if _own_root(spec, host):
        steps += mounting.make_directories(["/dev"])
    steps += [mounting.target("/dev", "at", "where it goes"), mounting.attach("dev", "at", "mount /dev")]
    if opener == INIT:
        for name in DEVICES:
            steps += [
                mounting.target(name, "at", "its place", Fd("dev")),
                mounting.attach(f"dev_{name}", "at", f"bind /dev/{name}"),
            ]
    if spec.dev == "private" and stage == WHOLE:
        steps += _dev_mounts(spec, maps)
    steps.append(mounting.attributes(INIT, "dev", uapi.MOUNT_ATTR_RDONLY, "nothing is added to /dev", recursive=False))
    return steps


def _dev_mounts(spec: Spec, maps: Maps | None) -> list[Step]:
    # What lies in /dev as filesystems of their own.
    steps: list[Step] = []
    options = {**PTS, "max": str(MOST_TERMINALS)}
    if maps is None or is_inside(maps.gid, TTY):
        options["gid"] = str(TTY)
    no = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
    steps += mounting.filesystem(
        "devpts", "pts", options, uapi.MOUNT_ATTR_NOSUID | uapi.MOUNT_ATTR_NOEXEC, "terminals of its own"
    )
    steps += [mounting.target("pts", "at", "where it goes", Fd("dev")), mounting.attach("pts", "at", "mount /dev/pts")]
    size = str(spec.tmp_size or Spec.tmp_size)  # for the kernel 0 is no limit
    steps += mounting.filesystem("tmpfs", "shm", {"mode": "1777", "size": size}, no, "POSIX shared memory of its own")
    steps += [mounting.target("shm", "at", "where it goes", Fd("dev")), mounting.attach("shm", "at", "mount /dev/shm")]
    if spec.namespaces.ipc == "new":
        steps += mounting.filesystem("mqueue", "mqueue", {}, no, "POSIX message queues of this ipc namespace")
        steps += [
            mounting.target("mqueue", "at", "where it goes", Fd("dev")),
            mounting.attach("mqueue", "at", "mount /dev/mqueue"),
        ]
    return steps


def scratch_paths(spec: Spec, host: Host) -> tuple[str, ...]:
    """Where a scratch directory is mounted: where the root has one, or where one can be made that is not kept.

    What an overlay lacks below its top may lie in a directory of a layer in which the ids inside make nothing.
    """
    if spec.tmp_size == 0:
        return ()
    root = spec.root.type
    paths = {"tmpfs": ("/tmp",), "host": host.scratch}.get(root, SCRATCH)
    targets = {mount.target for mount in spec.mounts}
    makes = root == "overlay" or bool(host.top)
    return tuple(
        path
        for path in paths
        if path not in targets
        and (root in ("system", "host", "tmpfs", "tarball") or path in host.root or (makes and path.count("/") == 1))
    )


def _scratch(spec: Spec, host: Host, stage: str) -> list[Step]:
    steps: list[Step] = []
    flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC
    for number, path in enumerate(scratch_paths(spec, host)):
        name = f"scratch{number}"
        if spec.root.type != "host" and path not in host.root and stage != EACH:
            steps += mounting.make_directories(mounting.parents(path))
        if stage == TEMPLATE:
            continue
        mode = "755" if path == "/run" else "1777"
        steps += mounting.filesystem(
            "tmpfs", name, {"mode": mode, "size": str(spec.tmp_size)}, flags, f"an empty {path} of its own"
        )
        steps += [mounting.target(path, "at", "where it goes"), mounting.attach(name, "at", f"mount {path}")]
    return steps


def _command(host: Host) -> list[Step]:
    """The command's file, where the default root would not have it."""
    if host.command is None:
        return []
    name, copy = system_root.part(host.command)
    return _show_command(host.command.path, name, copy)


def _show_command(path: str, name: str, copy: list[Step]) -> list[Step]:
    return [
        *mounting.make_file(path),
        *copy,
        mounting.target(path, "at", "where it goes"),
        mounting.attach(name, "at", f"show {path}, the command"),
    ]


def _keep_command(command: Shown) -> list[Step]:
    name, copy = system_root.part(command)
    where = (Fd(name), "", Fd("hold"), COMMAND, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    why = f"keep it for the sandboxes, each of which has the directories above {command.path} to itself"
    return [*copy, Step(INIT, "move_mount", where, why)]


def _kept_command(command: Shown) -> list[Step]:
    copy = (Fd("hold"), COMMAND, mounting.CLONE_TREE)
    opened = Step(INIT, "open_tree", copy, "the template's copy of the command's file", result=COMMAND)
    return _show_command(command.path, COMMAND, [opened])


def _files(wanted: dict[str, str], files: dict[str, str], spec: Spec, host: Host) -> list[Step]:
    """Small generated files: bound over what the root has, so that the root itself is not changed.

    files: all that are in the hold, of which the wanted ones are bound.
    """
    steps: list[Step] = []
    for number, path in enumerate(files):
        if path not in wanted:
            continue
        fd = f"file{number}"
        if _may_make(spec, host, path):
            steps += mounting.make_file(path)
        steps.append(Step(INIT, "open_tree", (Fd("hold"), fd, mounting.CLONE_TREE), "a copy of it", result=fd))
        steps += [mounting.target(path, "at", "where it goes", follow=True), mounting.attach(fd, "at", f"bind {path}")]
    return steps


# ---- the mounts of the spec ----


def _flags(mount: Mount) -> int:
    return (
        (0 if mount.writable else uapi.MOUNT_ATTR_RDONLY)
        | (0 if mount.suid else uapi.MOUNT_ATTR_NOSUID)
        | (0 if mount.dev else uapi.MOUNT_ATTR_NODEV)
        | (0 if mount.exec else uapi.MOUNT_ATTR_NOEXEC)
        | (0 if mount.symlinks else uapi.MOUNT_ATTR_NOSYMFOLLOW)
    )


def _mount(
    spec: Spec,
    mount: Mount,
    number: int,
    host: Host,
    opener: str,
    opened: list[Step],
    userns: str,
    places: bool = True,
) -> list[Step]:
    # places: the place is made where it is missing.
    name = f"mount{number}"
    steps: list[Step] = []
    if mount.type == "bind":
        _bind(spec, mount, name, opener, opened, userns)
    elif mount.type != "overlay":
        options = {}
        if mount.type == "tmpfs":
            options = {"mode": f"{mount.mode:o}", "size": str(mount.size or spec.tmp_size)}
        elif mount.type == "devpts":
            options = PTS
        flags = _flags(mount if mount.type == "proc" else mount.replace(writable=True))
        steps += mounting.filesystem(mount.type, name, options, flags, f"a {mount.type} on {mount.target}")
    if places:
        steps += _place(spec, mount, number, host, _kind(mount, host))
    return [*steps, *_attach(mount, number)]


def _place(spec: Spec, mount: Mount, number: int, host: Host, kind: str) -> list[Step]:
    """Make the place of a mount where it may be made; refuse one that has none."""
    steps = []
    if _may_make(spec, host, mount.target):
        steps = (
            mounting.make_directories(mounting.parents(mount.target))
            if kind == "dir"
            else mounting.make_file(mount.target)
        )
    if not any(_below(mount.target, made) for made in _made(spec, host)):
        _check_target(spec, mount, number, kind, host)
    return steps


def _attach(mount: Mount, number: int) -> list[Step]:
    return [
        mounting.target(mount.target, "at", "where it goes"),
        mounting.attach(f"mount{number}", "at", f"mount {mount.target}"),
    ]


def _overlay_mount(spec: Spec, mount: Mount, number: int, opener: str, opened: list[Step], userns: str) -> list[Step]:
    """An overlay that is no root: made before the pivot, while the paths of its layers mean something."""
    if mount.idmap and not userns:
        raise _no_idmap(f"an id-mapped overlay on {mount.target}")
    prefix = f"m{number}_"
    size = mount.size or spec.tmp_size
    layers = _overlay(prefix, mount.lower, mount.upper, size, mount.idmap, opener, opened, userns)
    options = _layer_options(prefix, mount.lower)
    return [
        *layers,
        *mounting.filesystem(
            "overlay", f"mount{number}", options, _flags(mount), f"layers as one tree for {mount.target}"
        ),
    ]


def _first(word: str) -> int:
    # A copy of a shared mount is a peer of the host's: made private first, shared gets a peer group of its own.
    return uapi.MS_SLAVE if word == "slave" else uapi.MS_PRIVATE


def _bind(spec: Spec, mount: Mount, name: str, opener: str, opened: list[Step], userns: str) -> None:
    if mount.idmap and not userns:
        raise _no_idmap(f"mounts[{spec.mounts.index(mount)}].idmap")
    propagation = PROPAGATION[mount.propagation] if mount.propagation else _first(spec.mount_propagation)
    set_ = _flags(mount) | (uapi.MOUNT_ATTR_IDMAP if mount.idmap else 0)
    opened.append(mounting.tree(opener, mount.source, name, f"the source of {mount.target}", mount.recursive))
    mapped = userns if mount.idmap else ""
    opened.append(
        mounting.attributes(
            opener, name, set_, _words(mount), propagation=propagation, recursive=mount.recursive, userns=mapped
        )
    )


def _check_above(spec: Spec, mount: Mount, number: int, host: Host) -> None:
    """Refuse a target below another mount that is a file."""
    for other, above in enumerate(spec.mounts):
        is_file = above.type == "bind" and host.source_kinds.get(above.source) == "file"
        if is_file and _below(mount.target, above.target):
            raise SpecError(
                f"{mount.target} cannot lie below {above.target}: mounts[{other}] puts a file there, {above.source}",
                f"mounts[{number}].target",
            )


def _check_target(spec: Spec, mount: Mount, number: int, kind: str, host: Host) -> None:
    """Refuse a mount that has no place: nothing is made in a root that is not the sandbox's own."""
    found = host.targets.get(mount.target, kind)
    place = f"mounts[{number}].target"
    if found.startswith("link "):
        raise SpecError(
            f"{mount.target} leads over the symlink {found[5:]}; no symlink is followed: write where it leads", place
        )
    if not found and not _may_make(spec, host, mount.target):
        raise SpecError(
            f"{mount.target} does not exist in the root, which is not written to: make it there, choose a target below "
            "/tmp or /run, or take a root in which it can be made (an overlay, or writable = true)",
            place,
        )
    if found and found != kind:
        words = {"dir": "a directory", "file": "a file"}
        raise SpecError(f"{mount.target} is {words[found]}, but what is mounted there is {words[kind]}", place)


def _words(mount: Mount) -> str:
    words = ["writable" if mount.writable else "read-only"]
    words += [
        w
        for w, on in (
            ("set-user-ID", mount.suid),
            ("devices", mount.dev),
            ("no exec", not mount.exec),
            ("id-mapped", mount.idmap),
        )
        if on
    ]
    return ", ".join(words)


def _last(spec: Spec, host: Host, closed: int) -> list[Step]:
    steps = [
        Step(INIT, "umount2", (".", uapi.MNT_DETACH), "let the old root go: no path leads back to the host"),
        Step(INIT, "chdir", ("/",), "stand in the new root"),
    ]
    if spec.mount_propagation in ("shared", "unbindable"):
        flags = PROPAGATION[spec.mount_propagation] | uapi.MS_REC
        why = "propagation as asked for, of all mounts"
        steps.append(Step(INIT, "mount", (None, "/", None, flags, None), why, man="mount_namespaces(7)"))
    for number, mount in enumerate(spec.mounts):
        if mount.propagation and (mount.type != "bind" or spec.mount_propagation in ("shared", "unbindable")):
            propagation = PROPAGATION[mount.propagation]
            why = f"{mount.target} is {mount.propagation}, as asked for"
            steps.append(
                mounting.attributes(INIT, f"mount{number}", 0, why, propagation=propagation, recursive=mount.recursive)
            )
    for number in range(closed):
        steps.append(
            mounting.attributes(
                INIT, f"closed{number}", uapi.MOUNT_ATTR_RDONLY, "nothing is added there", recursive=False
            )
        )
    if (spec.root.type in ("system", "tmpfs", "overlay", "tarball") or host.top) and not spec.root.writable:
        steps.append(
            mounting.attributes(
                INIT, "root", uapi.MOUNT_ATTR_RDONLY, "the root is read-only now that it is furnished", recursive=False
            )
        )
    return steps
