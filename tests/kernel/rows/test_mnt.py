"""Rows M2, M3, M4: binds with all their words, propagation, the private parts of a root; from inside and outside."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, NotSupported, SpecError
from nstool.sandbox.launch import launch
from nstool.spec.model import IdMap, Mount, Root
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import kernel

pytestmark = pytest.mark.vm

MS_SHARED = 1 << 20


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody can read, with a file, a program, a symlink and a directory in it."""
    # On a disk, but in a directory that all may pass. What is / in the machine of tests/vm takes no map of ids.
    directory = Path("/tmp", f"nstool-{os.getpid()}")
    directory.mkdir()
    directory.chmod(0o755)
    (directory / "file").write_text("content\n")
    shutil.copy("/bin/true", directory / "program")
    (directory / "link").symlink_to("file")
    (directory / "sub").mkdir()
    yield directory
    shutil.rmtree(directory)


# ---------------------------------------------------------------------------------------- M2


def test_a_bind_is_read_only_nosuid_nodev(act: Act, shared: Path) -> None:
    """Unless a word says otherwise: seen in mountinfo from outside, and by who tries to write."""

    def look() -> tuple[set[str], str, str]:
        with boxes.box(mounts=(Mount("/mnt/bind", str(shared)),)) as box:
            line = boxes.mounts(box.pid)["/mnt/bind"]
            return line.options, box.ask("cat /mnt/bind/file"), box.ask("touch /mnt/bind/new")

    options, content, refused = act(look)
    assert {"ro", "nosuid", "nodev"} <= options
    assert "noexec" not in options
    assert content == "content\n"
    assert "Read-only file system" in refused


@pytest.mark.parametrize(
    ("word", "there", "absent"),
    [
        ("rw", {"rw"}, {"ro"}),
        ("noexec", {"noexec"}, set()),
        ("suid", {"ro"}, {"nosuid"}),
        ("dev", {"ro"}, {"nodev"}),
        ("nosymfollow", {"nosymfollow"}, set()),
        ("rw,noexec,nosymfollow", {"rw", "noexec", "nosymfollow", "nosuid", "nodev"}, {"ro"}),
    ],
)
def test_each_word_is_in_mountinfo(as_root: Act, shared: Path, word: str, there: set[str], absent: set[str]) -> None:
    """From the command line, seen by findmnt's source: /proc/self/mountinfo."""
    ran = as_root(
        boxes.nstool,
        "run",
        "--mount",
        f"{shared}:/mnt/bind:{word}",
        "--",
        "grep",
        " /mnt/bind ",
        "/proc/self/mountinfo",
    )
    options = set(ran.out.split(" - ")[0].split()[5].split(","))
    assert there <= options
    assert not absent & options


@pytest.mark.vm_full
def test_the_words_act(as_root: Act, shared: Path) -> None:
    """noexec refuses to run, nosymfollow to follow, dev opens a node that nodev refuses."""
    os.mknod(shared / "node", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (shared / "node").chmod(0o666)

    def run(words: str, script: str) -> boxes.Ran:
        return boxes.nstool("run", "--mount", f"{shared}:/mnt/b:{words}", "--", "sh", "-c", script)

    assert as_root(run, "exec", "/mnt/b/program").status == 0
    assert as_root(run, "noexec", "/mnt/b/program").status == 126
    assert as_root(run, "symfollow", "cat /mnt/b/link").out == "content\n"
    assert "Too many levels" in as_root(run, "nosymfollow", "cat /mnt/b/link").err
    assert as_root(run, "dev", "echo > /mnt/b/node").status == 0
    assert "Permission denied" in as_root(run, "nodev", "echo > /mnt/b/node").err


def test_a_file_is_bound(act: Act, shared: Path) -> None:
    """On a file of the root, and where there was none in a directory of its own."""
    source = str(shared / "file")

    def look() -> str:
        return boxes.shell(
            "cat /etc/hostname /tmp/a/b", mounts=(Mount("/etc/hostname", source), Mount("/tmp/a/b", source))
        )

    assert act(look) == "content\ncontent\n"


@contextmanager
def submount(directory: Path, shared: bool = False) -> Iterator[None]:
    """In a mount namespace of this process: a tmpfs with a file on directory/sub."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    if shared:
        kernel.mount(str(directory), str(directory), "", kernel.MS_BIND)
        kernel.mount("none", str(directory), "", MS_SHARED)
    kernel.mount("tmpfs", str(directory / "sub"), "tmpfs")
    (directory / "sub/inner").touch()
    yield


@pytest.mark.parametrize(("recursive", "seen"), [(True, "inner\n"), (False, "")])
def test_recursive_or_not(as_root: Act, shared: Path, recursive: bool, seen: str) -> None:
    """What is mounted below the source comes along, or does not; read-only then holds for it too."""

    def look() -> tuple[str, str]:
        with submount(shared):
            mount = Mount("/mnt/bind", str(shared), recursive=recursive)
            with boxes.box(mounts=(mount,)) as box:
                return box.ask("ls /mnt/bind/sub"), box.ask("touch /mnt/bind/sub/new")

    listed, refused = as_root(look)
    assert listed == seen
    assert "Read-only file system" in refused


def test_writes_reach_the_host(act: Act) -> None:
    """A writable bind is the host's directory."""

    def write() -> str:
        os.mkdir("writable") if os.geteuid() else os.mkdir(place := "/var/tmp/nstool-w")
        place = os.path.abspath("writable") if os.geteuid() else "/var/tmp/nstool-w"
        os.chmod(place, 0o777)
        try:
            boxes.shell("echo from inside > /mnt/b/new", mounts=(Mount("/mnt/b", place, writable=True),))
            return Path(place, "new").read_text()
        finally:
            shutil.rmtree(place)

    assert act(write) == "from inside\n"


@contextmanager
def filesystem(kind: str, directory: Path) -> Iterator[Path]:
    """A place on ext4 (the test's directory) or on a fresh tmpfs."""
    if kind == "tmpfs":
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("tmpfs", str(directory), "tmpfs", 0, "mode=755")
    yield directory


@pytest.mark.parametrize("kind", ["disk", "tmpfs"])
def test_an_id_mapped_bind_both_ways(as_root: Act, shared: Path, kind: str) -> None:
    """Host owners appear as the same ids inside, what is made inside as 1000 is host id 1000's on disk."""

    def look() -> tuple[str, list[int], str]:
        with filesystem(kind, shared) as place:
            (place / "of-5").touch()
            os.chown(place / "of-5", 5, 6)
            os.mkdir(place / "mine")
            os.chown(place / "mine", 1000, 1000)
            mount = Mount("/mnt/b", str(place), writable=True, idmap=True)
            seen = boxes.shell(
                "stat -c %u:%g /mnt/b/of-5; touch /mnt/b/mine/new; stat -c %u:%g /mnt/b/mine/new", mounts=(mount,)
            )
            made = os.stat(place / "mine/new")
            plain = boxes.shell("stat -c %u:%g /mnt/b/of-5", mounts=(mount.replace(idmap=False),))
            return seen, [made.st_uid, made.st_gid], plain

    if kind == "tmpfs" and kernel.release() < (6, 3):
        with pytest.raises(KernelError, match=f"\ncause: tmpfs, mounted on {shared}, has no id-mapped mounts\n"):
            as_root(look)
        return
    seen, made, plain = as_root(look)
    assert seen == "5:6\n1000:1000\n"
    assert made == [1000, 1000]
    assert plain == "65534:65534\n"


def test_an_id_mapped_bind_with_maps_of_choice(as_root: Act, shared: Path) -> None:
    """The map of the mount is the sandbox's: what lies beyond it has no owner inside."""
    maps = (IdMap(0, 500000, 10),)
    os.chown(shared / "file", 5, 5)
    os.chown(shared / "program", 11, 11)
    mount = Mount("/mnt/b", str(shared), idmap=True)
    script = "stat -c %u /mnt/b/file /mnt/b/program"
    seen = as_root(boxes.shell, script, uid_map=maps, gid_map=maps, user="0:0", mounts=(mount,))
    assert seen == "5\n65534\n"


def test_an_ordinary_user_gets_no_id_mapped_bind(as_user: Act, shared: Path) -> None:
    """The kernel asks for rights over the file system: told before anything is done, with the reason."""

    def ask() -> str:
        with pytest.raises(NotSupported) as refused:
            launch(boxes.spec("true", mounts=(Mount("/mnt/b", str(shared), idmap=True),)))
        return str(refused.value)

    assert "CAP_SYS_ADMIN" in as_user(ask)


def test_mounts_of_the_other_types(act: Act) -> None:
    """tmpfs with size and mode, a further proc, mqueue, devpts."""
    mounts = (
        Mount("/mnt/t", type="tmpfs", size=1 << 20, mode=0o1770),
        Mount("/mnt/t/below", type="tmpfs"),
        Mount("/mnt/proc", type="proc"),
        Mount("/mnt/mq", type="mqueue"),
        Mount("/mnt/pts", type="devpts"),
    )

    def look() -> tuple[dict[str, str], str, set[str]]:
        with boxes.box(mounts=mounts) as box:
            lines = boxes.mounts(box.pid)
            found = {mount.target: lines[mount.target].type for mount in mounts}
            return found, box.ask("stat -c %a /mnt/t; ls -d /mnt/proc/1 /mnt/pts/ptmx"), lines["/mnt/t"].superblock

    found, shown, superblock = act(look)
    assert found == {mount.target: mount.type for mount in mounts}
    assert shown == "1770\n/mnt/proc/1\n/mnt/pts/ptmx\n"
    assert "size=1024k" in superblock


def test_a_tmpfs_is_as_large_as_it_says(act: Act) -> None:
    """And no larger; the command, which is not root inside, can write it."""
    words = ["--tmpfs", "/mnt/t:size=1M"]
    ran = act(boxes.nstool_run, *words, "--", "sh", "-c", "head -c 3000000 /dev/zero > /mnt/t/f; stat -c %s /mnt/t/f")
    assert "No space left" in ran.err
    assert int(ran.out) == 1 << 20


def test_an_overlay_is_mounted_anywhere(act: Act, shared: Path) -> None:
    """Of lower directories; what is written is thrown away."""
    mount = Mount("/mnt/o", type="overlay", lower=(str(shared), "/usr/share/misc"), writable=True)

    def look() -> str:
        return boxes.shell(
            "cat /mnt/o/file; ls /mnt/o/magic; echo x > /mnt/o/new; cat /mnt/o/new", mounts=(mount,), **_root()
        )

    assert act(look) == "content\n/mnt/o/magic\nx\n"
    assert not (shared / "new").exists()


def _root() -> dict[str, Any]:
    return {"user": "0:0"}


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("/etc:/nowhere", "does not exist in the root"),
        ("/etc:/usr/no/such", "does not exist in the root"),
        ("/etc:/etc/passwd", "/etc/passwd is a file"),
        ("/etc/passwd:/usr", "/usr is a directory"),
        ("/etc:/bin/x", "symlink /bin"),
        ("/no/such/source:/mnt/x", "does not exist on this host"),
        ("/etc:mnt/x", "is relative"),
        ("/etc:/mnt/x:rw,noexex", 'did you mean "noexec"'),
    ],
)
def test_a_mount_without_a_place_is_refused(act: Act, mount: str, message: str) -> None:
    """Before anything is done: status 2, what is wrong and what to do."""
    ran = act(boxes.nstool_run, "--root", "/", "--mount", mount, "--", "true")
    assert ran.status == 2, ran
    assert message in ran.err


# ---------------------------------------------------------------------------------------- M3


@pytest.mark.parametrize(
    ("word", "field"), [("private", ""), ("slave", "master:"), ("shared", "shared:"), ("unbindable", "unbindable")]
)
def test_each_propagation_is_in_mountinfo(as_root: Act, shared: Path, word: str, field: str) -> None:
    """The optional field of the mount, of a source that is shared on the host. mount_namespaces(7)."""

    def look() -> set[str]:
        with submount(shared, shared=True), boxes.box(mounts=(Mount("/mnt/b", str(shared), propagation=word),)) as box:
            return boxes.mounts(box.pid)["/mnt/b"].fields

    fields = as_root(look)
    if field:
        assert any(name.startswith(field) for name in fields)
    else:
        assert fields == set()


@pytest.mark.parametrize(("word", "seen"), [("private", ""), ("slave", "late\n")])
def test_a_later_mount_of_the_host(as_root: Act, shared: Path, word: str, seen: str) -> None:
    """A slave sees what the host mounts below the source afterwards, a private mount does not."""

    def look() -> str:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount(str(shared), str(shared), "", kernel.MS_BIND)
        kernel.mount("none", str(shared), "", MS_SHARED)
        with boxes.box(mounts=(Mount("/mnt/b", str(shared), propagation=word),)) as box:
            kernel.mount("tmpfs", str(shared / "sub"), "tmpfs")
            (shared / "sub/late").touch()
            answer = box.ask("ls /mnt/b/sub")
            kernel.umount(str(shared / "sub"))
            return answer

    assert as_root(look) == seen


def test_no_mount_inside_reaches_the_host(as_root: Act) -> None:
    """Although the host's root is shared, as systemd has it: the sandbox's mounts are not there."""

    def look() -> tuple[bool, bool]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | MS_SHARED)
        before = Path("/proc/self/mountinfo").read_text()
        with boxes.box() as box:
            own = {line.split()[0] for line in Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines()}
            shared = any(
                line.startswith("shared:") for mount in boxes.mounts(box.pid).values() for line in mount.fields
            )
            return Path("/proc/self/mountinfo").read_text() == before and bool(own), shared

    assert as_root(look) == (True, False)


@pytest.mark.parametrize("word", ["private", "slave", "shared", "unbindable"])
def test_the_propagation_of_the_root(as_root: Act, word: str) -> None:
    """--mount-propagation; a slave of the host's root where that is shared, shared in a peer group of its own."""

    def look() -> tuple[set[str], set[str]]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | MS_SHARED)
        with boxes.box(mount_propagation=word, root=Root(type="host")) as box:
            return boxes.mounts(box.pid)["/"].fields, boxes.mounts("self")["/"].fields

    fields, host = as_root(look)
    kinds = {field.split(":")[0] for field in fields}
    assert kinds == {"private": set(), "slave": {"master"}, "shared": {"shared"}, "unbindable": {"unbindable"}}[word]
    if word == "slave":
        assert {field.split(":")[1] for field in fields} == {field.split(":")[1] for field in host}
    else:
        assert not fields & host


# ---------------------------------------------------------------------------------------- M4


def test_the_private_mounts(act: Act) -> None:
    """/proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /tmp are filesystems of the sandbox's own."""

    def look() -> dict[str, tuple[str, set[str]]]:
        with boxes.box() as box:
            return {point: (line.type, line.options) for point, line in boxes.mounts(box.pid).items()}

    found = act(look)
    wanted = {
        "/proc": "proc",
        "/dev": "tmpfs",
        "/dev/pts": "devpts",
        "/dev/shm": "tmpfs",
        "/dev/mqueue": "mqueue",
        "/tmp": "tmpfs",
    }
    assert {point: found[point][0] for point in wanted} == wanted
    for point in wanted:
        assert "nosuid" in found[point][1]
        assert "noexec" in found[point][1]
    assert "ro" in found["/dev"][1]


def test_dev_of_nodes_alone(act: Act) -> None:
    """--dev nodes: the six nodes and the links of the streams; there is no pts, shm or mqueue."""

    def look() -> str:
        with boxes.box(dev="nodes", terminal="never") as box:
            return box.ask("ls /dev; head -c 2 /dev/zero | wc -c")

    safe = ["full", "null", "random", "tty", "urandom", "zero"]
    assert act(look).split() == [*sorted([*safe, "fd", "stderr", "stdin", "stdout"]), "2"]


@pytest.mark.parametrize("dev", ["nodes", "none"])
def test_a_terminal_needs_pts(act: Act, dev: str) -> None:
    """Said before anything is done; with a devpts of the spec's own there is one."""
    ran = act(boxes.nstool_run, "--terminal", "always", "--dev", dev, "--", "true")
    assert ran.status == 2
    assert 'needs /dev/pts, which dev = "' + dev in ran.err


def test_shared_memory_is_limited_without_a_private_tmp(act: Act) -> None:
    """tmp_size 0 is no /tmp of its own; for the kernel a tmpfs of size 0 has no limit."""

    def look() -> str:
        with boxes.box(tmp_size=0) as box:
            return box.ask("stat -f -c %b:%S /dev/shm")

    blocks, size = act(look).split(":")
    assert int(blocks) * int(size) == 64 << 20


def test_no_mount_of_the_host_is_writable(act: Act) -> None:
    """Every writable mount inside is a new filesystem: none has the host's device."""

    def look() -> set[str]:
        hosts = {line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        with boxes.box() as box:
            rows = [line.split() for line in Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines()]
            return {row[4] for row in rows if "rw" in row[5].split(",") and row[2] in hosts}

    assert act(look) <= {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}


def test_a_stream_that_is_dev_null_is_the_sandboxs_own(as_root: Act) -> None:
    """Of run and of exec, open as it was. The host's could be locked, watched and touched for all."""
    script = "stat -Lc %d /proc/self/fd/0 /proc/self/fd/2 /dev/null; grep flags /proc/self/fdinfo/[02]; echo lost >&2"

    def look() -> list[str]:
        said = []
        with boxes.box() as one, open("/dev/null") as nothing, open("/dev/null", "a") as null:
            for words in (("run",), ("exec", one.sandbox.name)):
                done = subprocess.run(
                    [*boxes.NSTOOL, *words, "--", "sh", "-c", script],
                    stdin=nothing,
                    stdout=subprocess.PIPE,
                    stderr=null,
                    text=True,
                    env={**os.environ, **boxes.PATH},
                    check=True,
                )
                said.append(done.stdout)
        return said

    for said in as_root(look):
        *devices, read, appended = said.splitlines()
        assert len(set(devices)) == 1
        assert int(devices[0]) != Path("/dev/null").stat().st_dev
        assert int(read.split()[1], 8) & os.O_ACCMODE == os.O_RDONLY
        assert int(appended.split()[1], 8) & (os.O_ACCMODE | os.O_APPEND) == os.O_WRONLY | os.O_APPEND


def test_the_devices_are_the_safe_ones_and_work(act: Act) -> None:
    """Six nodes, links, and nothing else; each does what it should."""
    script = (
        "head -c 3 /dev/zero | od -An -tx1; head -c 8 /dev/urandom | wc -c; echo gone > /dev/null; cat /dev/null;"
        "head -c 1 /etc/passwd > /dev/full; readlink /dev/fd /dev/stdin; head -c 4 /dev/random | wc -c"
    )

    def look() -> tuple[str, str, str]:
        with boxes.box() as box:
            nodes = box.ask("for f in /dev/* /dev/*/*; do [ ! -L $f ] && [ -c $f -o -b $f ] && echo $f; done; true")
            return box.ask("ls /dev"), nodes, box.ask(script)

    listed, nodes, worked = act(look)
    safe = ["full", "null", "random", "tty", "urandom", "zero"]
    assert sorted(listed.split()) == sorted([*safe, "fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"])
    assert sorted(nodes.split()) == sorted([*(f"/dev/{name}" for name in safe), "/dev/pts/ptmx"])
    zeros, eight, full, fd, stdin, four = worked.splitlines()
    assert (zeros.split(), eight, four) == (["00"] * 3, "8", "4")
    assert "No space left" in full
    assert (fd, stdin) == ("/proc/self/fd", "/proc/self/fd/0")


def test_hidepid_hides_the_processes_of_others(act: Act) -> None:
    """Invisible by default: init, which is root's, does not show to user 1000; "off" shows it."""

    def look(how: str) -> tuple[str, set[str]]:
        with boxes.box(hidepid=how) as box:
            return box.ask("ls -d /proc/1 2>/dev/null; true"), boxes.mounts(box.pid)["/proc"].superblock

    hidden, words = act(look, "invisible")
    assert hidden == ""
    assert words & {"hidepid=invisible", "hidepid=2"}
    assert act(look, "off")[0] == "/proc/1\n"


def test_subset_pid_leaves_processes_only(act: Act) -> None:
    """proc_subset = "pid"."""
    assert act(boxes.shell, "ls /proc | grep -v '^[0-9]'", proc_subset="pid").split() == ["self", "thread-self"]


def test_what_tells_of_the_host_is_covered(act: Act) -> None:
    """Files are empty, directories too; /proc/sys is read-only."""
    files = "/proc/kallsyms /proc/keys /proc/timer_list /proc/interrupts /proc/cmdline"
    script = f"cat {files} 2>/dev/null; ls /proc/irq /proc/bus 2>/dev/null; true"

    def look() -> tuple[str, str]:
        with boxes.box(user="0:0") as box:
            return box.ask(script), box.ask("echo 1 > /proc/sys/kernel/ngroups_max")

    shown, refused = act(look)
    assert [line for line in shown.splitlines() if not line.endswith(":") and line] == []
    assert "Read-only file system" in refused


def test_sys_and_the_homes_do_not_show(act: Act) -> None:
    """Covered, because they tell of the host, or are private."""
    assert act(boxes.shell, "ls -A /sys /home /root /mnt /boot 2>/dev/null | grep -v : | grep .; true") == ""


def test_paths_are_masked_and_read_only(act: Act) -> None:
    """--mask-path for a file and a directory, --readonly-path on a writable mount."""
    words = ["--tmpfs", "/mnt/w:mode=1777", "--mask-path", "/etc/passwd", "--mask-path", "/usr/share/misc"]
    script = "cat /etc/passwd; ls /usr/share/misc; touch /mnt/w/a && echo written"
    ran = act(boxes.nstool_run, *words, "--", "sh", "-c", script)
    assert ran == (0, "written\n", "")
    words += ["--readonly-path", "/mnt/w"]
    ran = act(boxes.nstool_run, *words, "--", "sh", "-c", script)
    assert "Read-only file system" in ran.err


@pytest.mark.parametrize("words", [{"mask_paths": ("/no/such",)}, {"readonly_paths": ("/no/such",)}])
def test_a_path_that_is_not_there_cannot_be_protected(act: Act, words: dict[str, Any]) -> None:
    """Said by name, before anything is done."""

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", **words))
        return str(refused.value)

    assert "/no/such" in act(ask)


def test_shared_memory_and_queues_are_its_own(act: Act) -> None:
    """What the host has in /dev/shm does not show, and the other way round."""
    marker = Path("/dev/shm", f"nstool-{os.getpid()}")
    marker.touch()
    try:

        def look() -> tuple[str, list[str]]:
            with boxes.box() as box:
                shown = box.ask("ls -A /dev/shm /dev/mqueue | grep nstool; touch /dev/shm/inside; ls /dev/shm")
                return shown, [name for name in os.listdir("/dev/shm") if name == "inside"]

        assert act(look) == ("inside\n", [])
    finally:
        marker.unlink()


def test_the_old_root_is_out_of_reach(act: Act) -> None:
    """One mount tree below the new root, nothing above: "..", /proc/1/root and /proc/1/cwd end there too."""

    def look() -> tuple[str, int]:
        with boxes.box(user="0:0", hidepid="off") as box:
            same = box.ask(
                "stat -c %d:%i / /.. /../.. | uniq | wc -l; ls /proc/1/root/ /proc/1/cwd/ 2>&1 | head -3; umount / 2>&1"
            )
            rows = [line.split() for line in Path(f"/proc/{box.pid}/mountinfo").read_text().splitlines()]
            ids = {row[0] for row in rows}
            return same, sum(row[1] not in ids for row in rows)

    shown, tops = act(look)
    assert shown.startswith("1\n")
    assert "Permission denied" in shown
    assert tops == 1


def test_bound_proc_and_dev_are_the_hosts(as_root: Act) -> None:
    """proc = "bind" and dev = "bind": words that a reviewer sees."""

    def look() -> tuple[bool, bool]:
        words = {"namespaces": boxes.shared("pid"), "proc": "bind", "dev": "bind"}
        with boxes.box(**words) as box:
            pids = box.ask("ls /proc | grep -c '^[0-9]'")
            return int(pids) > 10, box.ask("ls /dev").split() == sorted(os.listdir("/dev"), key=os.fsencode)

    assert as_root(look)[0]


def test_no_proc_and_no_dev(act: Act) -> None:
    """--proc none --dev none: nothing is mounted there; the host's are only directories of the read-only root."""

    def look() -> dict[str, str]:
        with boxes.box(proc="none", dev="none", root=_tmpfs(), mounts=_busybox(), shell="/bin/sh") as box:
            return {point: line.type for point, line in boxes.mounts(box.pid).items() if point in ("/proc", "/dev")}

    assert act(look) == {}


def test_no_proc_and_no_dev_on_the_hosts_root(act: Act) -> None:
    """The host's own do not show there: its processes, its devices."""

    def look() -> str:
        ran = boxes.run("ls", "-A", "/proc", "/dev", proc="none", dev="none", terminal="never", root=Root(type="host"))
        assert ran.status == 0, ran
        return ran.out

    assert act(look).split() == ["/dev:", "/proc:"]


def _tmpfs() -> Any:

    return Root(type="tmpfs")


def _busybox() -> tuple[Mount, ...]:
    found = subprocess.run(["which", "busybox"], capture_output=True, text=True, check=True).stdout.strip()
    return (Mount("/bin/sh", os.path.realpath(found)),)
