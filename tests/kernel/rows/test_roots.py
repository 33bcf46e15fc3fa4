"""Rows M1 and M5: every kind of root, also hostile ones; changes that are thrown away, and changes that are kept."""

from __future__ import annotations

import copy
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from errno import ENOENT, ENOTDIR
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, NotSupported, SpecError
from nstool.sandbox import rundir, tarball
from nstool.sandbox.launch import launch
from nstool.spec.model import IdMap, Mount, Root
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support.probes import REPOSITORY
from tests.support.user import User
from tests.support.workplace import Workplace, entries

pytestmark = [pytest.mark.vm, pytest.mark.needs("busybox")]

APPLETS = ("sh", "cat", "ls", "touch", "stat", "mkdir", "rm", "grep", "id", "echo", "mount")


@pytest.fixture
def place(workplace: Workplace) -> Iterator[Path]:
    """A directory that everybody can pass."""
    directory = workplace.own / "roots-of-tests"
    directory.mkdir()
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def make_tree(directory: Path) -> Path:
    """A root with a shell, /etc, and no mount points."""
    (directory / "bin").mkdir(parents=True)
    (directory / "etc").mkdir()
    shutil.copy(os.path.realpath(str(shutil.which("busybox"))), directory / "bin/busybox")
    for name in APPLETS:
        (directory / "bin" / name).symlink_to("busybox")
    (directory / "etc/release").write_text("test\n")
    for path in (directory, directory / "bin", directory / "etc"):
        path.chmod(0o755)
    return directory


@pytest.fixture
def tree(place: Path) -> Path:
    return make_tree(place / "tree")


def listing(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --------------------------------------------------------------------------------- the host's own


def test_the_hosts_root_is_read_only(act: Act) -> None:
    """Nothing of it can be written, by root inside either; what is below /tmp is the sandbox's own."""

    def look() -> tuple[set[str], str, str]:
        with boxes.box(user="0:0") as box:
            options = boxes.mounts(box.pid)["/"].options
            return options, box.ask("touch /usr/x /etc/x /x"), box.ask("touch /tmp/x && ls /tmp")

    options, refused, own = act(look)
    assert {"ro", "nosuid", "nodev"} <= options
    assert refused.count("Read-only file system") == 3
    assert own == "x\n"


# -------------------------------------------------------------------------------------- directory


def test_a_directory_without_mount_points(act: Act, tree: Path) -> None:
    """/proc, /dev, /tmp are there, the tree's own entries too, and nothing was made in the tree."""
    before = listing(tree)
    script = "ls / ; cat /etc/release; ls -d /proc/self /dev/null; touch /etc/x"
    ran = act(boxes.run, "sh", "-c", script, root=Root("directory", str(tree)))
    assert ran.lines == ["bin", "dev", "etc", "proc", "run", "tmp", "test", "/dev/null", "/proc/self"]
    assert "Read-only file system" in ran.err
    assert listing(tree) == before


def test_a_directory_with_mount_points(act: Act, tree: Path) -> None:
    """Then the root is the tree itself: the device and inode that stat tells from outside."""
    for name in ("proc", "dev", "tmp"):
        (tree / name).mkdir()
    status = tree.stat()

    def look() -> tuple[str, str]:
        with boxes.box("sh", root=Root("directory", str(tree))) as box:
            return box.ask("stat -c %d:%i /"), box.ask("ls -d /run 2>&1")

    inside, absent = act(look)
    assert inside == f"{status.st_dev}:{status.st_ino}\n"
    assert "No such file" in absent


def test_a_mount_goes_where_a_directory_root_has_nothing(act: Act, tree: Path) -> None:
    """A new entry at the top can be made, below an entry of the tree it cannot: that is refused by name."""
    good = Mount("/data/deep", "/usr/share/misc")
    assert "magic" in act(boxes.shell, "ls /data/deep", root=Root("directory", str(tree)), mounts=(good,))

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("sh", root=Root("directory", str(tree)), mounts=(Mount("/etc/deep", "/usr"),)))
        return str(refused.value)

    assert "/etc/deep does not exist" in act(ask)


def test_a_writable_directory_is_written_to(as_root: Act, tree: Path) -> None:
    """With the owners of the map, or, id-mapped, with the ids inside."""
    base = 0x6F000000
    maps = (IdMap(0, base, 65536),)
    words: dict[str, Any] = {"uid_map": maps, "gid_map": maps, "user": "0:0"}

    def write(script: str, idmap: bool) -> str:
        return boxes.shell(script, root=Root("directory", str(tree), writable=True, idmap=idmap), **words)

    as_root(write, "echo mapped > /etc/mapped; stat -c %u /etc/mapped", True)
    assert (tree / "etc/mapped").read_text() == "mapped\n"
    assert (tree / "etc/mapped").stat().st_uid == 0
    for path in (tree, tree / "etc", tree / "proc", tree / "dev"):
        os.chown(path, base, base)
    as_root(write, "echo plain > /etc/plain", False)
    assert (tree / "etc/plain").stat().st_uid == base


HOSTILE: dict[str, Callable[[Path], None]] = {
    "proc": lambda root: (root / "proc").symlink_to("/etc"),
    "dev": lambda root: (root / "dev").symlink_to("../../../../../.."),
    "tmp": lambda root: (root / "tmp").symlink_to("/var/tmp"),
    "run": lambda root: (root / "run").symlink_to("../../../../../../tmp"),
    "proc is a file": lambda root: (root / "proc").write_text(""),
    "dev is dangling": lambda root: (root / "dev").symlink_to("/no/such"),
}


FDS = (*range(3, 16), 60, 61, 100, 101)  # where the engine, or the plan, puts what it opens


@pytest.mark.vm_full
def test_no_path_of_a_hostile_root_leads_out_through_an_fd(act: Act, tree: Path) -> None:
    """Neither the working directory nor the command is found behind a link to /proc/self/fd (CVE-2024-21626)."""
    for number in FDS:
        (tree / f"cwd{number}").symlink_to(f"/proc/self/fd/{number}")
        (tree / f"sh{number}").symlink_to(f"/proc/self/fd/{number}/../../../../../../../bin/sh")
    root = Root("directory", str(tree))

    def errors(words: dict[str, str]) -> list[int]:
        found = []
        for number in FDS:
            command, cwd = (word.format(number) for word in (words["command"], words["cwd"]))
            with pytest.raises(KernelError) as refused:
                launch(boxes.spec(command, root=root, cwd=cwd))
            assert refused.value.call.startswith(words["call"])
            found.append(refused.value.errno)
        return found

    for words in (
        {"command": "/bin/sh", "cwd": "/cwd{}", "call": "chdir("},
        {"command": "/bin/sh", "cwd": "/proc/self/fd/{}", "call": "chdir("},
        {"command": "/sh{}", "cwd": "/", "call": "execve("},
        {"command": "/proc/self/fd/{}/../bin/sh", "cwd": "/", "call": "execve("},
    ):
        assert set(act(errors, words)) <= {ENOENT, ENOTDIR}, words


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_root_leads_nowhere(act: Act, tree: Path, what: str) -> None:
    """A symlink in the place of a mount point: a directory takes its place, nothing outside is mounted over or made."""
    HOSTILE[what](tree)
    before = listing(tree)

    def look() -> tuple[dict[str, str], str]:
        with boxes.box("sh", root=Root("directory", str(tree))) as box:
            found = {point: line.type for point, line in boxes.mounts(box.pid).items()}
            return found, box.ask("ls -ld /proc /dev /tmp | grep -c ^d")

    found, directories = act(look)
    assert {point: found[point] for point in ("/proc", "/dev", "/tmp")} == {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/tmp": "tmpfs",
    }
    assert directories == "3\n"
    assert listing(tree) == before


@pytest.mark.parametrize("what", ["proc", "dev"])
def test_a_hostile_writable_root_is_refused(act: Act, tree: Path, what: str) -> None:
    """There nothing can take the symlink's place: said before anything is done."""
    HOSTILE[what](tree)
    before = listing(tree)
    ran = act(boxes.nstool_run, "--root", str(tree), "--writable", "--", "sh")
    assert ran.status == 2, ran
    assert f"/{what} of the root is a symlink" in ran.err
    assert listing(tree) == before


def test_a_hostile_root_does_not_redirect_a_mount(act: Act, tree: Path) -> None:
    """A target that leads over a symlink of the root is refused; also in an overlay, where the kernel finds it."""
    (tree / "data").symlink_to("../../../../../../tmp")
    mount = Mount("/data/made-by-nstool", "/usr")

    def ask(root: Root) -> str:
        with pytest.raises((SpecError, KernelError)) as refused:
            launch(boxes.spec("sh", root=root, mounts=(mount,)))
        return str(refused.value)

    assert "symlink" in act(ask, Root("directory", str(tree)))
    assert "symlink" in act(ask, Root("directory", str(tree), writable=True)).lower()
    assert "symbolic link" in act(ask, Root("overlay", lower=(str(tree),))).lower()
    assert not os.path.exists("/tmp/made-by-nstool")


def test_a_root_that_is_not_there(act: Act) -> None:
    """One message, nothing done."""
    ran = act(boxes.nstool_run, "--root", "/no/such/root", "--", "sh")
    assert ran.status in (2, 125), ran
    assert "/no/such/root" in ran.err
    assert "Traceback" not in ran.err
    assert "bug" not in ran.err


KINDS = ("host", "directory", "overlay", "tmpfs")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1 << 20, 0])
def test_a_writable_root_has_scratch_directories_too(act: Act, tree: Path, kind: str, size: int) -> None:
    """/tmp is private, and the command's to write; with tmp_size 0 it is the root's own."""
    for name in ("proc", "dev", "tmp"):
        (tree / name).mkdir()
    roots = {
        "host": Root(writable=True),
        "directory": Root("directory", str(tree), writable=True),
        "overlay": Root("overlay", lower=(str(tree),), writable=True),
        "tmpfs": Root("tmpfs", writable=True),
    }
    busybox = os.path.realpath(str(shutil.which("busybox")))
    mounts = tuple(Mount(f"/bin/{name}", busybox) for name in ("sh", "touch", "cat")) if kind == "tmpfs" else ()

    def look() -> tuple[bool, str]:
        with boxes.box("sh", root=roots[kind], mounts=mounts, tmp_size=size) as box:
            found = boxes.mounts(box.pid).get("/tmp")  # which may be a mount of the host's root, too
            own = found is not None and "size=1024k" in found.superblock
            return own, box.ask("touch /tmp/scratch-of-a-test && echo made") if own else ""

    assert act(look) == ((True, "made\n") if size else (False, ""))
    assert not os.path.exists("/tmp/scratch-of-a-test")
    assert not os.path.exists(tree / "tmp/scratch-of-a-test")


# ------------------------------------------------------------------------------------------ tmpfs


def test_an_empty_root_with_binds(act: Act) -> None:
    """Only what is bound is there; read-only unless the spec says otherwise."""
    busybox = os.path.realpath(str(shutil.which("busybox")))
    mounts = tuple(Mount(f"/bin/{name}", busybox) for name in ("sh", "ls", "touch"))
    script = "ls / /bin; touch /x; touch /tmp/y && ls /tmp"
    ran = act(boxes.run, "/bin/sh", "-c", script, root=Root("tmpfs"), mounts=mounts)
    assert ran.lines == ["/:", "bin", "dev", "proc", "tmp", "", "/bin:", "ls", "sh", "touch", "y"]
    assert "Read-only file system" in ran.err
    ran = act(
        boxes.run, "/bin/sh", "-c", "touch /x; ls /x", root=Root("tmpfs", writable=True), mounts=mounts, user="0:0"
    )
    assert ran == (0, "/x\n", "")


# ---------------------------------------------------------------------------------------- overlay


def test_an_overlay_of_several_directories(act: Act, tree: Path, place: Path) -> None:
    """The first layer is the top; none of them is written to."""
    top = place / "top"
    (top / "etc").mkdir(parents=True)
    (top / "etc/release").write_text("top\n")
    before = listing(tree), listing(top)
    root = Root("overlay", lower=(str(top), str(tree)))
    assert act(boxes.shell, "cat /etc/release; ls /bin/sh", root=root) == "top\n/bin/sh\n"
    assert (listing(tree), listing(top)) == before


def test_an_overlay_goes_without_a_scratch_directory_that_cannot_be_made(act: Act, tree: Path) -> None:
    """Its layer has /var, which belongs to nobody inside, and no /var/tmp: nothing is made there; /tmp is made."""
    (tree / "var").mkdir()
    root = Root("overlay", lower=(str(tree),))
    assert act(boxes.shell, "touch /tmp/x; ls /tmp /var", root=root) == "/tmp:\nx\n\n/var:\n"
    (tree / "var/tmp").mkdir()
    assert act(boxes.shell, "touch /var/tmp/x; ls /var/tmp", root=root) == "x\n"


def test_changes_are_thrown_away(act: Act, tree: Path) -> None:
    """A writable overlay without an upper layer: written inside, not there for the next, nor in the lower layer."""
    root = Root("overlay", lower=(str(tree),), writable=True)
    before = listing(tree)
    assert act(boxes.run, "sh", "-c", "echo new > /new; cat /new", root=root, user="0:0").out == "new\n"
    assert act(boxes.run, "sh", "-c", "cat /new", root=root, user="0:0").status == 1
    assert listing(tree) == before


def test_a_thrown_away_layer_has_a_size(act: Act, tree: Path) -> None:
    """root.size."""
    root = Root("overlay", lower=(str(tree),), writable=True, size=1 << 20)
    ran = act(boxes.run, "sh", "-c", "cat /dev/zero > /big; stat -c %s /big", root=root, user="0:0")
    assert "No space left" in ran.err
    assert int(ran.out) <= 1 << 20


def test_a_read_only_overlay_stays_so(act: Act, tree: Path) -> None:
    """writable = false is the default for it too."""
    ran = act(boxes.run, "touch", "/new", root=Root("overlay", lower=(str(tree),)), user="0:0")
    assert "Read-only file system" in ran.err


def test_kept_changes_belong_to_the_next_sandbox_too(as_root: Act, tree: Path, place: Path) -> None:
    """Each has other host ids, but on disk the owners are those inside: 0 and 1000."""
    upper = place / "upper"
    upper.mkdir()
    root = Root("overlay", lower=(str(tree),), upper=str(upper), writable=True, idmap=True)

    def go(script: str, user: str) -> str:
        return boxes.shell(script, root=root, user=user)

    as_root(go, "mkdir -m 777 /spot; echo one > /spot/root; rm /etc/release", "0:0")
    as_root(go, "echo two > /spot/user; cat /spot/root", "1000:1000")
    seen = as_root(
        go, "stat -c '%n %u' /spot/root /spot/user; echo three >> /spot/user; cat /spot/user; ls /etc", "1000:1000"
    )
    assert seen == "/spot/root 0\n/spot/user 1000\ntwo\nthree\n"
    owners = {path.name: path.stat().st_uid for path in (upper / "upper/spot").iterdir()}
    assert owners == {"root": 0, "user": 1000}
    assert (tree / "etc/release").exists()
    assert (tree / "etc/release").read_text() == "test\n"


@pytest.mark.needs("newuidmap")
def test_an_ordinary_user_keeps_changes(as_user: Act, user: User, tree: Path) -> None:
    """Without any map in the spec: root inside is the user on disk, the others are of /etc/subuid, every time."""

    def go() -> tuple[str, list[int]]:
        os.mkdir("layer")
        try:
            root = Root("overlay", lower=(str(tree),), upper=os.path.abspath("layer"), writable=True)
            boxes.shell("mkdir -m 777 /spot; echo one > /spot/root", root=root, user="0:0")
            boxes.shell("echo two > /spot/user", root=root)
            seen = boxes.shell("stat -c %u /spot/*; cat /spot/*", root=root)
            first = os.stat("layer/upper/spot/user").st_uid - 1000
            return seen, [os.stat("layer/upper/spot/root").st_uid - os.getuid(), first]
        finally:
            subprocess.run(["chmod", "-R", "u+rwX", "layer/work"], check=True)  # overlayfs makes work/work with mode 0
            shutil.rmtree("layer")

    seen, (root, first) = as_user(go)
    assert seen == "0\n1000\none\ntwo\n"
    assert root == 0
    assert first == user.subuid[0] - 1  # id 0 is the user, so the range begins with 1


def test_an_upper_layer_that_is_not_the_users_own_is_told_so(as_user: Act, tree: Path) -> None:
    """run and check name the same cause, and a remedy that needs no privilege."""

    def go() -> list[boxes.Ran]:
        limits = ("--memory", "0", "--pids", "0", "--cpu", "0")
        words = (*limits, "--root", f"{tree}:/usr", "--writable", "--upper", f"{tree}/etc")
        return [boxes.nstool(command, *words, "--", "true") for command in ("run", "check")]

    for ran in as_user(go):
        text = ran.out + ran.err
        assert ran.status == 125
        assert f"cause: the upper layer {tree}/etc is not writable for host uid" in text
        assert "remedy: take a directory of your own, and leave uid_map and gid_map out" in text
        assert text.count("cause: ") == 1


def test_an_ordinary_user_keeps_changes_with_their_own_id(as_user: Act, tree: Path) -> None:
    """With the own id mapped to root inside, a directory of one's own is the upper layer."""

    def go() -> tuple[str, int]:
        os.mkdir("upper")
        try:
            words: dict[str, Any] = {
                "root": Root("overlay", lower=(str(tree),), upper=os.path.abspath("upper"), writable=True),
                "uid_map": (IdMap(0, os.getuid(), 1),),
                "gid_map": (IdMap(0, os.getgid(), 1),),
                "user": "0:0",
            }
            boxes.shell("echo kept > /kept", **words)
            return boxes.shell("cat /kept", **words), os.stat("upper/upper/kept").st_uid - os.getuid()
        finally:
            subprocess.run(["chmod", "-R", "u+rwX", "upper"], check=True)  # overlayfs makes work/work with mode 0
            shutil.rmtree("upper")

    assert as_user(go) == ("kept\n", 0)


def test_an_id_mapped_root_needs_rights(as_user: Act, tree: Path) -> None:
    """Told with the reason, before anything is done."""

    def ask() -> str:
        with pytest.raises(NotSupported) as refused:
            launch(boxes.spec("sh", root=Root("directory", str(tree), idmap=True)))
        return str(refused.value)

    assert "CAP_SYS_ADMIN" in as_user(ask)


# ---------------------------------------------------------------------------------------- tarball


def member(name: str, content: str = "", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    info.size = fields.get("size", len(content))
    return info, content.encode()


def make_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], tree: Path | None = None, mode: str = "w") -> Path:
    """Write a tarball of a tree, with its owners as root, and of further members."""

    def as_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        return info

    quick = {"w:gz": {"compresslevel": 1}, "w:bz2": {"compresslevel": 1}, "w:xz": {"preset": 0}}.get(mode, {})
    with tarfile.open(path, mode, **quick) as tar:  # type: ignore[call-overload]
        if tree is not None:
            tar.add(tree, ".", filter=as_root)
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    path.chmod(0o644)
    return path


def roots() -> Path:
    return Path(rundir.path(), "roots")


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")]
)
def test_a_tarball_is_a_root(act: Act, tree: Path, place: Path, suffix: str, mode: str) -> None:
    """In each compression; read-only; unpacked for this sandbox, and gone with it."""
    path = make_tar(place / f"root.{suffix}", tree=tree, mode=mode)

    def look() -> tuple[str, str, list[str], list[str]]:
        with boxes.box("sh", root=Root("tarball", str(path))) as box:
            during = entries(roots())
            answer = box.ask("cat /etc/release; ls /"), box.ask("touch /new")
            assert during == [box.sandbox.name]
        return (*answer, during, entries(roots()))

    shown, refused, during, after = act(look)
    assert shown.split() == ["test", "bin", "dev", "etc", "proc", "run", "tmp", "var"]
    assert "Read-only file system" in refused
    assert len(during) == 1
    assert after == []


@pytest.mark.vm_full
def test_check_says_of_a_tarball_what_run_does(act: Act, tree: Path, place: Path) -> None:
    """What nobody has unpacked yet is not said to be missing; size is told, and what else the host lacks."""
    (tree / "work").mkdir()
    path = make_tar(place / "root.tar", tree=tree)
    root = ("--root", str(path), "--cwd", "/work", "--mount", "/usr:/bin/usr")
    no_limits = ("--memory", "0", "--pids", "0", "--cpu", "0")

    def both(*words: str) -> tuple[boxes.Ran, boxes.Ran]:
        return boxes.nstool("check", *no_limits, *words), boxes.nstool_run(*words)

    fine = boxes.Ran(0, "this host can do all of it\n", ""), boxes.Ran(0, "test\n", "")
    assert act(both, *root, "--", "/bin/cat", "/etc/release") == fine
    checked, ran = act(both, *root, "--root-size", "1k", "--", "/bin/cat")
    assert checked == ran
    assert (ran.status, "root.size" in ran.err) == (2, True)
    checked = act(both, *root, "--mount", "/nowhere:/bin/x", "--", "/bin/cat")[0]
    assert checked.status != 0
    assert (checked.out + checked.err).count("/nowhere") >= 1
    assert "roots/" not in checked.out + checked.err


def test_check_of_a_writable_root_looks_into_it(act: Act, tree: Path) -> None:
    """The working directory is that of the root, not of the host."""
    (tree / "only-here").mkdir()
    ran = act(boxes.nstool, "check", "--root", str(tree), "--writable", "--cwd", "/only-here", "--", "/bin/cat")
    assert "only-here" not in ran.out


@pytest.mark.vm_full
def test_the_command_line_knows_a_tarball(act: Act, tree: Path, place: Path) -> None:
    """--root x.tar.gz; a second time too."""
    path = make_tar(place / "root.tar.gz", tree=tree, mode="w:gz")
    for _ in range(2):
        ran = act(boxes.nstool_run, "--root", str(path), "--", "cat", "/etc/release")
        assert ran == (0, "test\n", "")


@pytest.mark.needs("newuidmap")
def test_the_owners_are_those_of_the_tarball(act: Act, tree: Path, place: Path) -> None:
    """As ids inside; outside they are the sandbox's host ids, never those of the tarball. Nothing of them is left."""
    path = make_tar(
        place / "root.tar",
        member("home", type=tarfile.DIRTYPE, mode=0o700, uid=1000, gid=7),
        member("home/f", "x", uid=1000, gid=7),
        tree=tree,
    )

    def look() -> tuple[str, int, int]:
        with boxes.box("sh", root=Root("tarball", str(path))) as box:
            outside = os.stat(roots() / box.sandbox.name / "home").st_uid
            base = int(Path(f"/proc/{box.pid}/uid_map").read_text().split()[1])
            told = box.ask("stat -c %u:%g:%a / /etc /home /home/f")
        assert entries(roots()) == []
        return told, outside, base

    inside, outside, base = act(look)
    assert inside == "0:0:755\n0:0:755\n1000:7:700\n1000:7:644\n"
    assert outside == base + 1000


def own_id() -> dict[str, Any]:
    """Changes of a spec: the caller's ids and no others, which needs no newuidmap(1)."""
    uids, gids = (IdMap(0, os.geteuid(), 1),), (IdMap(0, os.getegid(), 1),)
    return {"uid_map": uids, "gid_map": gids, "groups": ("keep",)}


@pytest.mark.needs("newuidmap")
@pytest.mark.parametrize("ids", ["several ids", "one id"])
def test_a_writable_tarball_is_changed_for_itself(act: Act, tree: Path, place: Path, ids: str) -> None:
    """The tarball is not, and nothing is left of what was made in it."""
    path = make_tar(place / "root.tar", tree=tree)
    before = path.read_bytes()

    def change() -> tuple[str, int, list[str]]:
        words: dict[str, Any] = {"root": Root("tarball", str(path), writable=True), "user": "0:0"}
        words |= own_id() if ids == "one id" else {}
        script = "echo new > /etc/new; mkdir -p /a/b; echo > /a/b/c; rm /etc/release; cat /etc/new"
        made = boxes.shell(script, **words)
        return made, boxes.run("cat", "/etc/new", **words).status, entries(roots())

    assert act(change) == ("new\n", 1, [])
    assert path.read_bytes() == before


@pytest.mark.vm_full
@pytest.mark.needs("newuidmap")
@pytest.mark.parametrize("ids", ["several ids", "one id"])
def test_a_deep_tree_is_removed(act: Act, tree: Path, place: Path, ids: str) -> None:
    """Deeper than the stack, PATH_MAX and the open files go; also with directories that deny their owner."""
    closed = member("c", type=tarfile.DIRTYPE, mode=0), member("c/c", type=tarfile.DIRTYPE, mode=0o500)
    inside = member("c/c/f", "x"), member("c/s", type=tarfile.SYMTYPE, linkname="/etc")
    path = make_tar(place / "root.tar", member("d/" * 5000, type=tarfile.DIRTYPE), *closed, *inside, tree=tree)

    def go() -> tuple[boxes.Ran, list[str]]:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        words: dict[str, Any] = {"root": Root("tarball", str(path)), "user": "0:0"}
        words |= own_id() if ids == "one id" else {}
        return boxes.run("echo", **words), entries(roots())

    assert act(go) == ((0, "\n", ""), [])


def test_links_of_every_kind(act: Act, tree: Path, place: Path) -> None:
    """Hard links inside, symlinks whatever they say: inside they lead into the root."""
    members = (
        member("etc/hard", type=tarfile.LNKTYPE, linkname="etc/release"),
        member("etc/absolute", type=tarfile.SYMTYPE, linkname="/etc/release"),
        member("etc/up", type=tarfile.SYMTYPE, linkname="../../../../../../etc/release"),
        member("etc/pipe", type=tarfile.FIFOTYPE),
        member("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
    )
    path = make_tar(place / "root.tar", *members, tree=tree)
    script = "cat /etc/hard /etc/absolute /etc/up; stat -c %h /etc/hard; ls -l /etc/pipe | grep -c ^p"
    assert act(boxes.shell, script, root=Root("tarball", str(path))) == "test\ntest\ntest\n2\n1\n"


TAR_HOSTILE = {
    "absolute name": ([member("/tmp/nstool-evil", "x")], "absolute"),
    "upwards": ([member("../../nstool-evil", "x")], '".."'),
    "upwards inside": ([member("etc/../../nstool-evil", "x")], '".."'),
    "through a symlink": (
        [member("way", type=tarfile.SYMTYPE, linkname="/tmp"), member("way/nstool-evil", "x")],
        "symlink",
    ),
    "through a relative symlink": (
        [member("way", type=tarfile.SYMTYPE, linkname="../.."), member("way/nstool-evil", "x")],
        "symlink",
    ),
    "a directory over a symlink": (
        [member("way", type=tarfile.SYMTYPE, linkname="/tmp"), member("way", type=tarfile.DIRTYPE, mode=0o777)],
        "symlink",
    ),
    "hard link upwards": ([member("evil", type=tarfile.LNKTYPE, linkname="../../../../../../etc/passwd")], '".."'),
    "absolute hard link": ([member("evil", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "absolute"),
    "hard link through a symlink": (
        [
            member("way", type=tarfile.SYMTYPE, linkname="/etc"),
            member("evil", type=tarfile.LNKTYPE, linkname="way/passwd"),
        ],
        "symlink",
    ),
    "device node": ([member("etc/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=0)], "device node"),
    "symlink for /proc": ([member("proc", type=tarfile.SYMTYPE, linkname="etc")], "mounts something"),
    "too large": ([member("big", "x" * 100_000)], "root.size"),
    "too many": ([member(f"f{number}") for number in range(200)], "root.size"),
    "a file over a directory": ([member("etc", "x")], "place is taken"),
    "hard link to nothing": ([member("etc/g", type=tarfile.LNKTYPE, linkname="etc/none")], "'etc/none', is not there"),
    "symlink without a target": ([member("etc/g", type=tarfile.SYMTYPE)], "'', is not there"),
}


def point_to(victim: Path, entry: tuple[tarfile.TarInfo, bytes]) -> tuple[tarfile.TarInfo, bytes]:
    """Return the member with its symlink to /tmp led to the victim instead."""
    info, content = entry
    if info.linkname == "/tmp":
        info = copy.copy(info)
        info.linkname = str(victim)
    return info, content


@pytest.mark.vm_full
@pytest.mark.parametrize("what", TAR_HOSTILE)
def test_a_hostile_tarball_is_refused(act: Act, place: Path, what: str) -> None:
    """With the member named, status 2, and nothing is left or made outside."""
    members, message = TAR_HOSTILE[what]
    victim = place / "victim"  # stands for a directory of the host, which a broken check would change
    victim.mkdir()
    before = victim.stat()
    members = [point_to(victim, m) for m in members]
    path = make_tar(place / "root.tar", member("etc", type=tarfile.DIRTYPE, mode=0o755), member("etc/f", "x"), *members)
    words = ["--root", str(path), "--root-size", "60k"]

    def ask() -> tuple[boxes.Ran, list[str]]:
        return boxes.nstool_run(*words, "--", "sh"), entries(roots())

    ran, left = act(ask)
    assert ran.status == 2, ran
    assert message in ran.err
    assert "member" in ran.err
    assert left == []
    assert (victim.stat().st_uid, victim.stat().st_mode) == (before.st_uid, before.st_mode)
    for directory in (victim, place, place.parent, roots().parent):
        assert not Path(directory, "nstool-evil").exists()


@pytest.mark.vm_full
@pytest.mark.parametrize("content", [b"", b"no tar at all", b"\x1f\x8b\x08damaged", b"\x28\xb5\x2f\xfd zstd"])
def test_what_is_no_tarball_is_refused(act: Act, place: Path, content: bytes) -> None:
    """One message; zstd says what to do where Python cannot read it."""
    path = place / "root.tar"
    path.write_bytes(content)
    path.chmod(0o644)
    ran = act(boxes.nstool_run, "--root", str(path), "--", "sh")
    assert ran.status in (2, 125), ran
    assert str(path) in ran.err
    assert "Traceback" not in ran.err
    assert "bug" not in ran.err


def raw_header(name: str, kind: bytes, size: int) -> bytes:
    """One header block, of any size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(records: dict[str, str], content: bytes = b"", kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A pax header, and the file that it speaks of."""
    text = b""
    for key, value in records.items():
        record = f" {key}={value}\n".encode()
        length = len(record) + len(str(len(record)))
        text += str(length + (len(str(length)) > len(str(len(record))))).encode() + record
    blocks = [raw_header("x", kind, len(text)), text, raw_header("f", tarfile.REGTYPE, len(content)), content]
    return b"".join(block.ljust(-(-len(block) // 512) * 512, b"\0") for block in blocks)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
DAMAGED = {
    "time is no number": pax({"mtime": "nan"}),
    "time without end": pax({"mtime": "inf"}),
    "negative size": pax({"size": "-4096"}),
    "no id": pax({"uid": "-1"}),
    "map of letters": pax({"GNU.sparse.map": "a,b"}, b"x"),
    "map outside": pax({"GNU.sparse.map": "5,-3,0,90", "GNU.sparse.size": "9"}, b"x"),
    "junk for a map": pax(SPARSE, b"junk\n1\n"),
    "map without an end": pax(SPARSE, b"9" * 512),
    "long number": pax({"GNU.sparse.size": "9" * 5000}),
    "large pax header": raw_header("x", tarfile.XHDTYPE, 3 << 30),
    "large global header": raw_header("x", tarfile.XGLTYPE, 2 << 20),
    "large name": raw_header("x", tarfile.GNUTYPE_LONGNAME, 2 << 20),
    "many headers": pax({"comment": "x"})[:1024] * 900,
    "many pax bytes": pax({"comment": "x" * 30_000}) * 3,
    "name too long": pax({"path": "n" * 300}),
    "implied directories": pax({"path": "d/" * 2000 + "f"}),
    "unknown type": raw_header("f", b"Z", 0),
    "junk for a header": b"junk".ljust(512, b"j"),
    "false checksum": raw_header("f", tarfile.REGTYPE, 0).replace(b"f", b"g", 1),
}


@pytest.mark.vm_full
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_tarball_is_refused(as_root: Act, place: Path, what: str) -> None:
    """By run, and where a name is looked up in it: one message, status 2, and no more memory than its headers need."""
    path = place / "root.tar"
    path.write_bytes(raw_header("etc", tarfile.DIRTYPE, 0) + DAMAGED[what] + bytes(1 << 21))
    words = ["--root", str(path), "--root-size", "60k"]

    def ask() -> tuple[list[boxes.Ran], list[str]]:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        return [boxes.nstool_run(*words, *more, "--", "/f") for more in ([], ["--user", "web"])], entries(roots())

    (plain, named), left = as_root(ask)
    assert (plain.status, named.status, left) == (2, 2, []), (plain, named)
    assert plain.err.startswith("nstool: --root: ")
    assert named.err.startswith(
        ("nstool: --root: ", "nstool: --user: etc/passwd in ")
    )  # of owners and places it asks not
    assert (plain.err.count("\n"), named.err.count("\n")) == (1, 1)


@pytest.mark.vm_full
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_a_tarball_is_a_plain_file(act: Act, place: Path, kind: str) -> None:
    """Nobody waits for a writer, or for the end of a device."""
    path = place / "root.tar"
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "directory": os.mkdir}[kind](path)
    for words in (("run",), ("plan", "--user", "web"), ("check",)):
        ran = act(boxes.nstool, *words, "--root", str(path), "--", "/x")
        assert ran.status == 2
        assert ran.err.startswith(f"nstool: --root: {path} is no plain file")


def test_an_id_beyond_the_map_is_refused(as_root: Act, place: Path) -> None:
    """The member and the id are named."""
    path = make_tar(place / "root.tar", member("f", "x", uid=70000))

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("sh", root=Root("tarball", str(path))))
        return str(refused.value)

    message = as_root(ask)
    assert "'f'" in message
    assert "70000" in message


@pytest.mark.vm_full
@pytest.mark.orphans
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("way", ["foreground", "detached"])
def test_unpacking_is_interrupted(act: Act, place: Path, way: str, number: int) -> None:
    """By signals to the whole group, as a terminal's, from the first to its end; nothing is left, the status tells."""
    path = place / "root.tar"
    path.write_bytes(raw_header("big", tarfile.REGTYPE, 8 << 30))
    os.truncate(path, (8 << 30) + 2048)

    def interrupt() -> tuple[int, str, list[str], list[str]]:
        words = ["run", *(["--detach"] if way == "detached" else []), "--root", str(path), "--root-size", "9g"]
        with subprocess.Popen(
            [*boxes.NSTOOL, *words, "--memory", "0", "--pids", "0", "--cpu", "0", "--", "/x"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        ) as process:
            deadline = time.monotonic() + 30
            while not list(roots().glob("*/big")):
                assert time.monotonic() < deadline
                assert process.poll() is None
            while process.poll() is None:
                os.killpg(process.pid, number)
                time.sleep(0.001)
            assert process.stderr is not None
            text = process.stderr.read()
        # One that comes when all is undone may end it as any process.
        status = 128 - process.returncode if process.returncode < 0 else process.returncode
        return status, text, entries(roots()), entries(roots().parent / "sandboxes")

    assert act(interrupt) == (128 + number, "", [], [])


@pytest.mark.parametrize("then", ["file", "hard link", "nothing"])
def test_a_tree_that_is_removed_while_it_is_made_is_no_fault_of_the_tarball(
    as_root: Act, place: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever member comes next, or after the last one: status 125, what was removed is named, nothing is left."""
    more = {
        "file": [member("g", "x")],
        "hard link": [member("g", type=tarfile.LNKTYPE, linkname="f")],
        "nothing": [],
    }
    path = make_tar(place / "root.tar", member("f", "x"), *more[then])
    content = tarball._Tree.content

    def content_and_remove(self: Any, *args: Any) -> None:
        content(self, *args)
        shutil.rmtree(roots())

    def ask() -> tuple[KernelError, list[str]]:
        monkeypatch.setattr(tarball._Tree, "content", content_and_remove)
        with pytest.raises(KernelError) as refused:
            launch(boxes.spec("sh", root=Root("tarball", str(path))))
        return refused.value, entries(roots())

    refused, left = as_root(ask)
    assert refused.cause.endswith(" was removed meanwhile, by somebody else")
    assert refused.checked
    assert left == []


KILLED = """
import sys
from nstool.sandbox.launch import launch
from nstool.spec.model import Limits, Root, Spec
root = Root("tarball", sys.argv[2])
sandbox = launch(Spec(command=("sh", "-c", "cat"), limits=Limits(memory=0, pids=0, cpu=0), name=sys.argv[1], root=root))
print(sandbox.init_pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.vm_full
@pytest.mark.orphans
def test_the_tree_is_removed_after_a_kill(act: Act, tree: Path, place: Path, name: str) -> None:
    """The launcher is killed; nstool cleanup removes what it had unpacked, from the journal."""
    path = make_tar(place / "root.tar", tree=tree)

    def kill() -> tuple[bool, boxes.Ran, list[str]]:
        words = [sys.executable, "-c", KILLED, name, str(path)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as launcher:
            assert launcher.stdout is not None
            pidfd = os.pidfd_open(int(launcher.stdout.readline()))
            launcher.kill()
            launcher.wait()
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(5000)
        os.close(pidfd)
        there = (roots() / name).is_dir()
        return there, boxes.nstool("cleanup"), entries(roots())

    there, ran, left = act(kill)
    assert there
    assert ran.status == 0, ran
    assert "unpacked tree" in ran.out
    assert left == []


@pytest.mark.parametrize("by", ["cleanup", "run"])
def test_a_tree_without_a_sandbox_is_swept(act: Act, tree: Path, place: Path, by: str) -> None:
    """As after a reboot, which takes the journals in /run: cleanup or the next tarball removes it, whose ever it is."""
    path = make_tar(place / "root.tar", member("closed", type=tarfile.DIRTYPE, mode=0), tree=tree)
    root = Root("tarball", str(path))

    def sweep() -> tuple[list[str], list[str]]:
        with boxes.box("sh", root=root) as box:
            os.rename(roots() / box.sandbox.name, roots() / "gone")
        (roots() / "own/etc").mkdir(parents=True)
        os.chmod(roots() / "own/etc", 0)
        before = entries(roots())
        if by == "run":
            boxes.shell("true", root=root)
        else:
            assert boxes.nstool("cleanup").out.count("removed its unpacked tree") == 2
        return before, entries(roots())

    assert act(sweep) == (["gone", "own"], [])
