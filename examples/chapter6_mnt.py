"""Chapter 6, MNT: the tree of mounts, what is shared of it, roots of every kind, path names, overlay.

Book: 6.2 the mount tree, 6.3 shared subtrees, 6.4 the structure of MNT namespaces, 6.5 path names,
6.6 the interface files, 6.7 the overlay filesystem. Man pages: mount_namespaces(7), mount(2), open_tree(2),
move_mount(2), mount_setattr(2), pivot_root(2), proc_pid_mountinfo(5).
Run it as root or as anybody: ``.venv/bin/python examples/chapter6_mnt.py``.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from show import (
    GID,
    PROGRAMS,
    ROOT,
    UID,
    as_root_inside,
    begin,
    check,
    fact,
    in_child,
    is_directory,
    limits,
    namespaces,
    owned,
    refused,
    run,
    step,
    system,
)

from nstool import IdMap, Mount, Root, Spec, launch, syscalls, uapi
from nstool.sandbox.mountinfo import Mount as Line
from nstool.sandbox.mountinfo import read_mounts

EROFS = 30


def mounts(pid: int | str = "self") -> tuple[Line, ...]:
    """Return the mounts that a process sees."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        return read_mounts(file.read())


def targets() -> list[str]:
    return [mount.target for mount in mounts()]


def the_tree() -> None:
    step("The tree of mounts of this process (6.2, 6.6, proc_pid_mountinfo(5))")
    root = next(mount for mount in mounts() if mount.target == "/")
    fact("mnt namespace", namespaces()["mnt"])
    fact("number of mounts", len(mounts()))
    fact("the root", f"mount {root.id} of {root.source}, {root.type}, {','.join(root.options)}, {root.propagation}")


def a_copy() -> None:
    step("A new mount namespace is a copy of the tree; what is then mounted in it is seen in it alone (6.4)")

    def child() -> None:
        as_root_inside()
        syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None)
        before = len(mounts())
        syscalls.mount("tmpfs", "/tmp", "tmpfs", uapi.MS_NOSUID | uapi.MS_NODEV, "size=64k")
        fact("mnt namespace of the child", namespaces()["mnt"])
        fact("mounts there, before and after", (before, len(mounts())))
        fact("entries of /tmp", os.listdir("/tmp"))
        check(len(mounts()) == before + 1 and os.listdir("/tmp") == [], "the mount is not there")

    before = len(mounts())
    in_child(child, owned(uapi.CLONE_NEWNS))
    fact("mounts here, as before", len(mounts()))
    check(len(mounts()) == before, "the mount is seen outside")


PROPAGATION = {"shared": uapi.MS_SHARED, "slave": uapi.MS_SLAVE, "private": uapi.MS_PRIVATE}


def shared_subtrees() -> None:
    step("Propagation: two namespaces with copies of one mount; who sees what the other mounts there (6.3)")

    def child() -> None:
        as_root_inside()
        syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None)
        syscalls.mount("tmpfs", "/tmp", "tmpfs", 0, "size=64k")
        for kind in PROPAGATION:
            os.mkdir(f"/tmp/{kind}")
            two_copies(kind, f"/tmp/{kind}")

    in_child(child, owned(uapi.CLONE_NEWNS))


def two_copies(kind: str, path: str) -> None:
    """Mount a shared tmpfs, give a child a copy of this kind, mount on both sides, say who sees what."""
    syscalls.mount("tmpfs", path, "tmpfs", 0, "size=64k")
    syscalls.mount(None, path, None, uapi.MS_SHARED, None)
    os.mkdir(f"{path}/ours")
    os.mkdir(f"{path}/theirs")
    ready, go = os.pipe(), os.pipe()

    def copy() -> None:
        os.close(go[1])
        syscalls.mount(None, path, None, PROPAGATION[kind], None)
        line = next(mount for mount in mounts() if mount.target == path)
        syscalls.mount("tmpfs", f"{path}/theirs", "tmpfs", 0, "size=64k")
        os.write(ready[1], b"r")
        os.read(go[0], 1)  # the other side has mounted
        seen = f"{path}/ours" in targets()
        os.write(ready[1], b"y" if seen else b"n")
        fact(f"{kind}: mountinfo of the copy", line.propagation)

    child = syscalls.clone3(uapi.CLONE_NEWNS | uapi.CLONE_PIDFD, child=copy)
    os.close(ready[1])
    os.close(go[0])
    os.read(ready[0], 1)
    back = f"{path}/theirs" in targets()
    syscalls.mount("tmpfs", f"{path}/ours", "tmpfs", 0, "size=64k")
    os.write(go[1], b"g")
    forth = os.read(ready[0], 1) == b"y"
    ended = syscalls.waitid(uapi.P_PIDFD, child.pidfd)
    for fd in (ready[0], go[1], child.pidfd):
        os.close(fd)
    fact(f"{kind}: the copy sees ours", forth)
    fact(f"{kind}: we see the copy's", back)
    check(ended is not None and ended.status == 0, f"the child ended with {ended}")
    check((forth, back) == {"shared": (True, True), "slave": (True, False), "private": (False, False)}[kind], kind)


def by_hand() -> None:
    step("A root by hand, by fd: open_tree, mount_setattr, move_mount, pivot_root (6.5)")

    def child() -> None:
        as_root_inside()
        syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_PRIVATE, None)
        tree = syscalls.open_tree(
            uapi.AT_FDCWD, "/usr", uapi.OPEN_TREE_CLONE | uapi.OPEN_TREE_CLOEXEC | uapi.AT_RECURSIVE
        )
        flags = uapi.AT_EMPTY_PATH | uapi.AT_RECURSIVE
        syscalls.mount_setattr(tree, "", flags, attr_set=uapi.MOUNT_ATTR_RDONLY | uapi.MOUNT_ATTR_NOSUID)
        fact("a detached copy of /usr", f"fd {tree}, read-only; it has no path yet")
        syscalls.move_mount(tree, "", uapi.AT_FDCWD, "/tmp", uapi.MOVE_MOUNT_F_EMPTY_PATH)
        os.fchdir(tree)
        syscalls.pivot_root(".", ".")  # the old root is stacked on the new one ...
        syscalls.umount2(".", uapi.MNT_DETACH)  # ... and goes
        os.chdir("/")
        fact("the root is now /usr", " ".join(sorted(os.listdir("/"))[:6]))
        check("bin" in os.listdir("/") and not os.path.exists("/usr/bin"), "the old root is still there")
        fact("writing to it", refused(lambda: os.mkdir("/new"), EROFS))

    in_child(child, owned(uapi.CLONE_NEWNS))


def output(spec: Spec) -> list[str]:
    """Run a spec and return the words that it prints."""
    out = os.memfd_create("out")
    with launch(spec, stdout=out) as sandbox:
        ended = sandbox.wait()
    words = os.pread(out, 4096, 0).decode().split()
    os.close(out)
    check(ended.status == 0, f"{spec.command} ended with {ended}")
    return words


def roots(directory: str) -> None:
    step("The kinds of root that nstool gives: the host's, an empty one with binds, a directory, an overlay")
    base = f"{directory}/base"
    os.mkdir(base)
    Path(base, "hello").write_text("from the directory\n")
    usr = tuple(Mount(target=path, source=path) for path in system(base))
    tools = tuple(Mount(target=f"/{name}", source=f"/{name}") for name in PROGRAMS if os.path.isdir(f"/{name}"))
    plain = Spec(command=("ls", "/"), limits=limits())
    fact("host", " ".join(output(plain)[:8]) + " ...")
    fact("host, what /home and /root show", output(plain.replace(command=("ls", "-A", "/home", "/root"))))
    empty = plain.replace(root=Root(type="tmpfs"), mounts=tools)
    fact("tmpfs with binds", " ".join(output(empty)))
    tree = plain.replace(root=Root(type="directory", path=base), mounts=usr)
    fact("directory", " ".join(output(tree)))
    check(output(tree.replace(command=("cat", "/hello"))) == ["from", "the", "directory"], "another directory")
    write = ("sh", "-ec", "rm /hello; echo changed > /hello; cat /hello")
    layers = Root(type="overlay", lower=(base,), writable=True)
    changed = output(plain.replace(root=layers, mounts=usr, command=write, user="0:0"))
    fact("overlay, a file replaced inside", changed)
    fact("the layer below, afterwards", Path(base, "hello").read_text().strip())
    check(changed == ["changed"], "the file was not replaced")
    check(Path(base, "hello").read_text() == "from the directory\n", "the lower layer was written")


def own_ids(spec: Spec) -> Spec:
    """Return the spec with an ordinary user's own ids as 1000 inside: so files that are kept belong to that user."""
    if ROOT:
        return spec
    own = {"uid_map": (IdMap(1000, UID, 1),), "gid_map": (IdMap(1000, GID, 1),)}
    return spec.replace(user="1000:1000", groups=("keep",), **own)


def kept(directory: str) -> None:
    step("An overlay whose upper layer is kept: what the sandbox changed is there afterwards (6.7)")
    base, upper = f"{directory}/base", f"{directory}/upper"
    os.mkdir(upper)
    usr = tuple(Mount(target=f"/{name}", source=f"/{name}") for name in PROGRAMS if is_directory(f"/{name}"))
    root = Root(type="overlay", lower=(base,), upper=upper, writable=True)
    command = ("sh", "-ec", "echo kept > /new; rm /hello")
    output(own_ids(Spec(command=command, root=root, mounts=usr, user="0:0", limits=limits())))
    below = {str(path.relative_to(upper)): path for path in Path(upper).rglob("*")}
    new, removed = below["upper/new"], below["upper/hello"]
    fact("upper/new", new.read_text().strip())
    fact("upper/hello", f"character device {removed.lstat().st_rdev}: the whiteout of what was removed")
    check(new.read_text() == "kept\n" and removed.is_char_device(), "the changes are not there")
    check(Path(base, "hello").exists(), "the lower layer was written")


def binds(directory: str) -> None:
    step("Binds: read-only unless the spec says writable; owners shown as the sandbox's with idmap (mount_setattr(2))")
    data = f"{directory}/data"
    os.mkdir(data)
    Path(data, "mine").write_text("mine\n")
    script = "stat -c %u /tmp/data/mine; (echo x > /tmp/data/new) 2>/dev/null && echo written || echo refused"
    spec = Spec(command=("sh", "-c", script), limits=limits(), user="0:0")
    to = Mount(target="/tmp/data", source=data)
    told = {}
    for words, mount in (
        ("read-only", to),
        ("writable", to.replace(writable=True)),
        ("writable, idmap", to.replace(writable=True, idmap=True)),
    ):
        if mount.idmap and not ROOT:
            fact(words, "left out: an id-mapped mount needs CAP_SYS_ADMIN over the filesystem")
            continue
        told[words] = output(spec.replace(mounts=(mount,)))
        fact(words, f"owner inside {told[words][0]}, a new file: {told[words][1]}")
        Path(data, "new").unlink(missing_ok=True)
    check(told["read-only"][1] == "refused", "a read-only bind was written to")
    check(not ROOT or told["writable, idmap"] == ["0", "written"], "the owner is not mapped")


def path_names() -> None:
    step("One path, two files: /proc/PID/root leads into another process's tree (6.5, proc_pid_root(5))")
    with launch(Spec(command=("sleep", "60"), limits=limits())) as sandbox:
        root = f"/proc/{sandbox.pid}/root"
        for path in ("/usr", "/etc/passwd", "/tmp", "/proc"):
            ours, theirs = os.stat(path), os.stat(root + path)
            same = ours.st_mtime_ns == theirs.st_mtime_ns  # an overlay has numbers of its own
            fact(path, "the same one" if same else "another one inside")
            check(same == (path == "/usr"), f"{path} is {'the same' if same else 'another'}")
        mine, inside = mounts(), mounts(sandbox.pid)
        fact("mounts of the sandbox", len(inside))
        fact("of them writable", " ".join(sorted(m.target for m in inside if not m.read_only)))
        check(not {m.id for m in mine} & {m.id for m in inside}, "a mount of ours is the sandbox's too")


def main() -> None:
    begin("Chapter 6, MNT")
    the_tree()
    a_copy()
    shared_subtrees()
    by_hand()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        roots(directory)
        kept(directory)
        binds(directory)
        remove_work(directory)
    path_names()
    # Others may mount at the same time; ours would lie below the directory that we worked in.
    check(not any(target.startswith(directory) for target in targets()), "a mount of ours is left")


def remove_work(directory: str) -> None:
    """Make overlay's work directory removable for its owner: the kernel makes it with mode 0."""
    for path in Path(directory).rglob("work/work"):
        os.chmod(path, 0o700)


if __name__ == "__main__":
    run(main)
