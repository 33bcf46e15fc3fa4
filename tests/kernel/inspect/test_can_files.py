"""What a process may do to files: what nstool says before is what the kernel does. path_resolution(7), acl(5).

Each prediction is compared with a real attempt, errno and all, of the process in question: no rule is trusted here.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from errno import ETXTBSY
from pathlib import Path
from typing import Any

import pytest

from nstool import syscalls, uapi
from nstool.errors import SpecError
from nstool.inspect import can
from nstool.security import files
from tests.support import actors, kernel
from tests.support.actors import OTHER, THIRD, USER, Comparison, Try, World

InChild = Callable[..., Any]
SECONDS = 600.0  # a virtual machine on a busy host is slow

pytestmark = pytest.mark.needs("root", "userns", "native")

Acl = list[tuple[int, int, int]]  # tag, perm, id, as the xattr has them
OWNER, NAMED_USER, GROUP, NAMED_GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF
MODES = (0o000, 0o400, 0o200, 0o100, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001, 0o640, 0o607, 0o070, 0o755)
OWNERS = ((0, 0), (USER, USER), (OTHER, USER), (0, THIRD), (100000, 100000), (101000, 0))
FLAGS = {"ro": kernel.MS_RDONLY, "noexec": 0x8, "nodev": 0x4, "nosymfollow": 0x100}  # of binds of the grid
SEEN = ("0-0-755", f"{USER}-{USER}-755", "null", "socket", "link")  # what is tried through those


def set_acl(path: str, entries: Acl) -> None:
    data = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, "system.posix_acl_access", data)


def acls() -> list[Acl]:
    """Named users and groups, with masks that take something or everything away; an id of a user namespace."""
    found: list[Acl] = [[(OWNER, 4, NOBODY), (GROUP, 2, NOBODY), (OTHERS, 0, NOBODY)]]
    for mask in (7, 4, 2, 0):
        named = [(NAMED_USER, 6, USER), (NAMED_USER, 7, 101000), (GROUP, 4, NOBODY)]
        found.append([(OWNER, 6, NOBODY), *named, (MASK, mask, NOBODY), (OTHERS, 4, NOBODY)])
        groups = [(GROUP, 0, NOBODY), (NAMED_GROUP, 2, OTHER), (NAMED_GROUP, 5, THIRD)]
        found.append([(OWNER, 0, NOBODY), *groups, (MASK, mask, NOBODY), (OTHERS, 7, NOBODY)])
    return found


def make(path: str, uid: int, gid: int, mode: int, acl: Acl | None = None) -> str:
    """An empty file."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    if acl:
        set_acl(path, acl)
    return path


def make_grid(top: str) -> list[str]:
    """Files of all modes and owners, with ACLs, in directories that not everybody may search; what is no file."""
    found = [make(f"{top}/{uid}-{gid}-{mode:03o}", uid, gid, mode) for uid, gid in OWNERS for mode in MODES]
    for number, acl in enumerate(acls()):
        found += [make(f"{top}/acl{number}-{uid}", uid, gid, 0o600, acl) for uid, gid in OWNERS[:3]]
    for uid, gid in OWNERS:
        for mode in (0o700, 0o710, 0o701, 0o070):
            directory = f"{top}/in-{uid}-{gid}-{mode:o}"
            os.mkdir(directory)
            found += [make(f"{directory}/file", USER, USER, 0o644), directory]
            os.chown(directory, uid, gid)
            os.chmod(directory, mode)
    os.mkdir(f"{top}/listed", 0o700)
    found.append(make(f"{top}/listed/file", OTHER, OTHER, 0o604))
    search = [(OWNER, 7, NOBODY), (NAMED_USER, 1, USER), (GROUP, 0, NOBODY), (MASK, 1, NOBODY), (OTHERS, 0, NOBODY)]
    set_acl(f"{top}/listed", search)
    os.mknod(f"{top}/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.chmod(f"{top}/null", 0o666)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{top}/socket")
    os.symlink("listed/file", f"{top}/link")
    os.symlink(f"{top}/link", f"{top}/link to link")
    found += [f"{top}/{name}" for name in ("null", "socket", "link", "link to link", "listed/../listed/file")]
    for flag in FLAGS:
        os.mkdir(f"{top}/{flag}")
        found += [f"{top}/{flag}/{name}" for name in SEEN]
    return found


def mount_over(top: str) -> list[str]:
    """Binds of the grid that take something away; filesystems that are read-only, an overlay, an id-mapped mount."""
    for name, flag in FLAGS.items():
        kernel.mount(top, f"{top}/{name}", flags=kernel.MS_BIND)
        kernel.mount("none", f"{top}/{name}", flags=kernel.MS_BIND | kernel.MS_REMOUNT | flag)
    found = []
    for name in ("still", "over", "moved", "lower"):
        os.mkdir(f"{top}/{name}")
        kernel.mount("tmpfs", f"{top}/{name}", "tmpfs", data="mode=0755")
        for uid, gid in OWNERS:
            for mode in (0o700, 0o604, 0o060) if name != "moved" or uid < USER else ():
                found.append(make(f"{top}/{name}/{uid}-{gid}-{mode:o}", uid, gid if name != "moved" else 0, mode))
    kernel.mount("none", f"{top}/still", flags=kernel.MS_REMOUNT | kernel.MS_RDONLY)
    for name in ("upper", "work"):
        os.mkdir(f"{top}/over/{name}")
    layers = f"lowerdir={top}/lower,upperdir={top}/over/upper,workdir={top}/over/work"
    kernel.mount("overlay", f"{top}/over", "overlay", data=layers)
    return found


def open_files() -> Any:
    compared = Comparison()
    with World() as world:
        kernel.mount("tmpfs", "/mnt", "tmpfs", data="mode=0755")
        tried = make_grid("/mnt") + mount_over("/mnt")
        for name, flag in (("immutable", "+i"), ("append", "+a")) if kernel.release() >= (6, 6) else ():  # of tmpfs
            tried.append(make(f"/mnt/{name}", USER, USER, 0o666))
            subprocess.run(["chattr", flag, f"/mnt/{name}"], check=True)
        actors.people(world)
        actors.namespaces(world)
        if kernel.release() >= (6, 3):  # which can id-map a tmpfs
            map_ids("/mnt/moved", world.actors["in root's"].pid)
        reader = can.Reader()
        walks: dict[tuple[int, str], files.Walk] = {}  # by mount namespace and path
        for actor in world.actors.values():
            a = reader.task(actor.pid)
            tries: list[Try] = []
            for path in tried:
                key = (a.namespaces["mnt"].inode, path)
                walk = walks[key] = walks.get(key) or reader.walk(actor.pid, path, changes=True)
                for want, way in (("read", actors.try_open), ("write", actors.try_write), ("exec", actors.try_exec)):
                    tries.append((f"{want}: {path}", files.may_open(a, walk, want, reader.host), (way, path)))
            compared.ask(actor, tries)
    return compared.result()


def map_ids(path: str, pid: int) -> None:
    """Put an id-mapped mount over a directory, with the map of a process's user namespace. mount_setattr(2)."""
    tree = syscalls.open_tree(uapi.AT_FDCWD, path, uapi.OPEN_TREE_CLONE)
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    syscalls.mount_setattr(tree, "", uapi.AT_EMPTY_PATH, attr_set=uapi.MOUNT_ATTR_IDMAP, userns_fd=userns)
    syscalls.move_mount(tree, "", uapi.AT_FDCWD, path, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)
    os.close(userns)


@pytest.mark.needs("overlay")
def test_opening_files(in_child: InChild) -> None:
    """Modes, ACLs, directories on the way, symlinks, devices, flags of mounts, an overlay, an id-mapped mount."""
    counts, wrong, unknown = in_child(open_files, timeout=SECONDS)
    assert (wrong, unknown) == ([], [])
    assert {f"{want}: {answer}" for want in ("read", "write", "exec") for answer in ("yes", "no")} == set(counts)
    assert sum(counts.values()) > 30_000


def changes() -> Iterator[tuple[str, int, int, tuple[int, int], int]]:
    """What to try on a file of which owner and group, in a directory of which owner and mode."""
    for uid, gid in ((0, 0), (USER, USER), (USER, OTHER), (101000, 101000), (100000, 0)):
        yield "chmod", uid, gid, (0, 0), 0o755
        yield "chown", uid, gid, (0, 0), 0o755
        for owner, mode in (((USER, USER), 0o700), ((OTHER, OTHER), 0o1777), ((USER, 0), 0o1770), ((0, 0), 0o777)):
            yield "delete", uid, gid, owner, mode


def inside(pid: int, kind: str, number: int | None) -> int:
    """The number that an id has in the user namespace of a process, by its map; -2 if it has none."""
    if number is None:
        return NOBODY  # which chown(2) leaves as it is
    with open(f"/proc/{pid}/{kind}_map") as file:
        for line in file:
            first, outside, count = map(int, line.split())
            if outside <= number < outside + count:
                return first + number - outside
    return -2


def changing(actor: actors.Actor, reader: can.Reader, place: str) -> Iterator[Try]:
    """Attempts on files of its own, for what succeeds changes them."""
    a = reader.task(actor.pid)
    for number, (what, uid, gid, owner, mode) in enumerate(changes()):
        directory = f"{place}-{number}"
        os.mkdir(directory)
        new = [(USER, None), (OTHER, None), (101000, None), (None, OTHER), (None, uid), (uid, gid)]
        for n, (new_uid, new_gid) in enumerate(new if what == "chown" else new[:1]):
            path = make(f"{directory}/{n}", uid, gid, 0o644)
            os.chown(directory, *owner)
            os.chmod(directory, mode)
            walk = reader.walk(actor.pid, path, changes=True)
            if what == "delete":
                yield (
                    f"delete: {walk.steps[-1]}/{walk.last}",
                    files.delete(a, walk, reader.host),
                    (actors.try_delete, path),
                )
            elif what == "chmod":
                yield f"chmod: {walk.last}", files.chmod(a, walk, reader.host), (actors.try_chmod, path)
            else:
                ids = (inside(actor.pid, "uid", new_uid), inside(actor.pid, "gid", new_gid))
                verdict = files.chown(a, walk, reader.host, new_uid, new_gid)
                if -2 in ids:  # it has no number to say it with
                    assert verdict.answer == "no"
                else:
                    yield f"chown: {walk.last} to {new_uid}:{new_gid}", verdict, (actors.try_chown, path, *ids)


def change_files() -> Any:
    compared = Comparison()
    with World() as world:
        kernel.mount("tmpfs", "/mnt", "tmpfs", data="mode=0777")
        actors.people(world)
        actors.namespaces(world)
        reader = can.Reader()
        for number, actor in enumerate(world.actors.values()):
            compared.ask(actor, list(changing(actor, reader, f"/mnt/{number}")))
    return compared.result()


def test_changing_files(in_child: InChild) -> None:
    """chown(2), chmod(2), unlink(2), sticky directories too."""
    counts, wrong, unknown = in_child(change_files, timeout=SECONDS)
    assert (wrong, unknown) == ([], [])
    assert {f"{what}: {answer}" for what in ("chown", "chmod", "delete") for answer in ("yes", "no")} == set(counts)


def test_a_path_is_that_of_the_process(in_child: InChild) -> None:
    """Below its root directory, out of which neither ".." nor an absolute symlink leads."""

    def act() -> tuple[str, str, str]:
        with World() as world:
            kernel.mount("tmpfs", "/mnt", "tmpfs", data="mode=0755")
            os.mkdir("/mnt/root")
            make("/mnt/root/inside", 0, 0, 0o600)
            os.symlink("/../../inside", "/mnt/root/link")
            actor = world.actor("in a root of its own", lambda: (os.chroot("/mnt/root"), os.chdir("/")))
            reader = can.Reader()
            walk = reader.walk(actor.pid, "/link")
            try:
                outside = str(reader.walk(actor.pid, "/mnt/root/inside"))
            except SpecError as error:
                outside = str(error)
            assert walk.last is not None
            return walk.last.path, outside, can.may_open(actor.pid, "/../inside").answer

    path, outside, answer = in_child(act)
    assert (path, answer) == ("/inside", "yes")
    assert "No such file or directory" in outside


def test_what_the_reader_may_not_see_is_unknown(as_user: Callable[..., Any]) -> None:
    """An ordinary user knows of its own processes, and says what it cannot know of another's."""

    def act() -> list[str]:
        mine = can.may_open(os.getpid(), "/etc/shadow")
        theirs = can.may_open(os.getppid(), "/etc/passwd")
        return [mine.answer, theirs.answer, " ".join(check.sentence for check in theirs.deciding), *theirs.needs]

    mine, theirs, why, needs = as_user(act)
    assert (mine, theirs, needs) == ("no", "unknown", "a look by root")
    assert "root directory may not be seen by you: it runs as uid 0" in why


def test_files_of_proc_are_said_to_have_rules_of_their_own() -> None:
    me = os.getpid()
    for path in ("/proc/sys/kernel/ostype", "/proc/self/comm"):
        verdict = can.may_open(me, path, "write")
        assert (verdict.answer, verdict.deciding[0].function) == ("unknown", "inode_permission")
    verdict = can.may_open(me, "/proc/self/root/etc/passwd")
    assert (verdict.answer, verdict.deciding[0].function) == ("unknown", "pick_link")


def test_a_busy_file_is_said_to_be_hidden(tmp_path: Path) -> None:
    """Nothing tells of a file whether it is executed, or open for writing: then ETXTBSY turns a yes round."""
    path = tmp_path / "program"
    path.write_bytes(Path("/bin/sleep").read_bytes())
    path.chmod(0o755)
    me = os.getpid()
    verdicts = {want: can.may_open(me, str(path), want) for want in ("read", "write", "exec")}
    with subprocess.Popen([path, "1000"]) as process:
        try:
            while os.readlink(f"/proc/{process.pid}/exe") != str(path):
                continue
            refused = [actors.try_write(str(path)), actors.try_open(str(path))]
        finally:
            process.kill()
    with path.open("ab"):
        refused.append(actors.try_exec(str(path)))
    assert refused == [ETXTBSY, 0, ETXTBSY]
    assert [verdict.answer for verdict in verdicts.values()] == ["yes"] * 3
    hidden = {want: any("ETXTBSY" in text for text in verdict.unless) for want, verdict in verdicts.items()}
    assert hidden == {"read": False, "write": True, "exec": True}
