"""The default root: the programs of the host and what they need, and nothing else of it. mount_namespaces(7).

A tmpfs, with /usr and what leads there, the parts of /etc that programs read, and a passwd, hosts, machine-id … of the
sandbox's own. What is the host's is shown through a read-only overlay: its mounts tell neither a path nor a device of
the host, and the sockets and FIFOs in it lead to nobody. overlayfs.rst.
"""

from __future__ import annotations

from nstool import uapi
from nstool.namespaces import mounting
from nstool.plan.host import Host, Shown
from nstool.plan.steps import INIT, Fd, Step

SIZE = "1m"  # of the tmpfs: places to mount on, and small files
ATTRIBUTES = mounting.SAFE | uapi.MOUNT_ATTR_RDONLY
# The directories that others are mounted in or that programs look for; symlinks with where they lead.
DIRECTORIES = ("/etc", "/var", "/var/cache", "/var/lib", "/var/log", "/home", "/root", "/opt", "/srv", "/mnt")
LINKS = {"/var/run": "/run", "/var/lock": "/run/lock", "/etc/mtab": "/proc/self/mounts"}


def layers(host: Host) -> tuple[str, ...]:
    """Return the names of what is kept in the old root for it: the layers, and the overlays of each."""
    return tuple(name for n in range(len(host.layers)) for name in (f"layer{n}", f"shown{n}"))


def sources(host: Host, opener: str) -> list[Step]:
    """The steps that open what is shown of the host."""
    steps = []
    # A user namespace copies no mount without those on it. Of an overlay they are no part.
    recursive = opener == INIT
    bound = [
        part
        for part in (*host.shown, host.command)
        if part and part.kind != "link" and part.layer < 0 and part.content is None
    ]
    trees = [(f"layer{number}", path) for number, path in enumerate(host.layers)]
    trees += [(_bound(part), part.source) for part in bound]
    for name, path in trees:
        steps.append(mounting.tree(opener, path, name, f"what is shown of {path} of the host", recursive=recursive))
        steps.append(
            mounting.attributes(opener, name, ATTRIBUTES, "only read", propagation=uapi.MS_PRIVATE, recursive=recursive)
        )
    return steps


def early(host: Host, hold: str) -> list[Step]:
    """The steps before the pivot: each layer as an overlay, attached in hold."""
    steps = []
    for number in range(len(host.layers)):
        layer, shown = f"layer{number}", f"shown{number}"
        steps.append(_hold(layer, hold, "a layer must be a mount of this namespace"))
        # overlayfs wants two layers where nothing is written; the second is empty.
        options = {"lowerdir": f"{hold}/{layer}:{hold}/dir"}
        steps += mounting.filesystem("overlay", shown, options, ATTRIBUTES, "its mount tells nothing of the host")
        steps.append(_hold(shown, hold, "attach it: parts of it are bound"))
    return steps


def root(host: Host, size: int) -> list[Step]:
    """The step that makes the root itself, which is empty still."""
    options = {"mode": "755", "size": str(size) if size else SIZE}
    return mounting.filesystem("tmpfs", "root", options, mounting.SAFE, "an empty root in memory")


def furnish(host: Host, files: dict[str, str]) -> list[Step]:
    """The steps after the pivot: what the root is made of. files: path → content of those that are made."""
    steps = []
    made: set[str] = set()
    for path in DIRECTORIES:
        steps += _directories(path, made)
    for path, link in LINKS.items():
        steps.append(Step(INIT, "symlinkat", (link, Fd("root"), path[1:]), "as every Linux system has it"))
    for shown in host.shown:
        steps += _show(shown, made)
    for path, content in files.items():
        steps += _directories(path.rpartition("/")[0], made)
        write = (Fd("root"), path[1:], content, uapi.O_CREAT, 0o444)
        steps.append(Step(INIT, "write_file", write, f"the content of {path}"))
    return steps


def part(shown: Shown) -> tuple[str, list[Step]]:
    """The name of the mount of a part, and the steps that make it: of an overlay, a copy."""
    if shown.layer < 0:
        return _bound(shown), []
    flags = mounting.CLONE_TREE | (uapi.AT_SYMLINK_NOFOLLOW if shown.source else mounting.EMPTY)
    source = (Fd(f"shown{shown.layer}"), shown.source, flags)
    return "part", [Step(INIT, "open_tree", source, f"{shown.path} of the host", result="part")]


def _bound(shown: Shown) -> str:
    return f"bound {shown.path}"


def _show(shown: Shown, made: set[str]) -> list[Step]:
    inside = shown.path[1:]
    # A mount below another part has its place there.
    steps = [] if shown.below else _directories(shown.path.rpartition("/")[0], made)
    if shown.kind == "link":
        return [*steps, Step(INIT, "symlinkat", (shown.link, Fd("root"), inside), "a symlink of the host")]
    if shown.content is not None:
        write = (Fd("root"), inside, shown.content, uapi.O_CREAT, 0o444)
        return [*steps, Step(INIT, "write_file", write, f"a copy of {shown.path} of the host")]
    name, copy = part(shown)
    steps += copy
    if not shown.below:
        if shown.kind == "dir":
            steps += _directories(shown.path, made)
        else:
            place = (Fd("root"), inside, b"", uapi.O_CREAT, 0o444)
            steps.append(Step(INIT, "write_file", place, "a place to bind a file"))
    where = (Fd(name), "", Fd("root"), inside, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return [*steps, Step(INIT, "move_mount", where, f"show {shown.path}")]


def _directories(path: str, made: set[str]) -> list[Step]:
    steps = []
    for part in mounting.parents(path):
        if part not in made:
            made.add(part)
            steps.append(Step(INIT, "mkdirat", (Fd("root"), part[1:], 0o755), "a directory of the root"))
    return steps


def _hold(name: str, hold: str, why: str) -> Step:
    where = (Fd(name), "", uapi.AT_FDCWD, f"{hold}/{name}", uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return Step(INIT, "move_mount", where, why)
