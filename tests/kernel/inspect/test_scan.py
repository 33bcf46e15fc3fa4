"""Files that give privilege are found as find(1) and getcap(8) find them, whatever is in the way."""

from __future__ import annotations

import json
import os
import pty
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.inspect import scan as scan_module
from nstool.inspect.scan import Privileged, Scan, Unread
from nstool.security import filecaps
from nstool.security.filecaps import FileCaps
from tests.support import fuse, kernel
from tests.support.held import private_mounts

InChild = Callable[..., Any]
NET_RAW = 1 << 13
pytestmark = [pytest.mark.vm, pytest.mark.vm_full, pytest.mark.needs("root", "native")]


def make(path: Path, mode: int, caps: FileCaps | None = None) -> Path:
    path.write_bytes(b"")
    path.chmod(mode)
    if caps:
        filecaps.write(str(path), caps)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of all kinds, links, and names that a terminal should not see."""
    top = tmp_path / "top"
    for name in ("", "a", "a/b", "c d", "new\nline", "\x1b[31m", "a/[bold]"):
        (top / name).mkdir()
        for mode in (0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o2644, 0o4000):
            make(top / name / f"mode{mode:o}", mode)
        make(top / name / "caps", 0o755, FileCaps(NET_RAW, effective=True))
        make(top / name / "caps3", 0o644, FileCaps(NET_RAW, rootid=1000, revision=3))
        make(top / name / "both", 0o4755, FileCaps())
        (top / name / "link").symlink_to("mode4755")
        (top / name / "link-to-directory").symlink_to("/usr/bin")
        os.mkfifo(top / name / "fifo", 0o6755)
    (top / "set-group-ID directory").mkdir(mode=0o2755)
    os.chmod(top / "set-group-ID directory", 0o6755)
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).mkdir()
    make(Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe/\xfd")), 0o4755)
    return top


def found(directory: Path | str, **options: Any) -> list[Privileged]:
    items = list(Scan(str(directory), **options))
    assert [item for item in items if isinstance(item, Unread)] == []
    return [item for item in items if isinstance(item, Privileged)]


def by_find(directory: Path, *tests: str) -> set[str]:
    words = ["find", directory, "-xdev", "-type", "f", *tests, "-print0"]
    return set(map(os.fsdecode, subprocess.run(words, capture_output=True, check=True).stdout.split(b"\0")[:-1]))


def by_getcap(directory: Path) -> set[str]:
    """Paths of files with capabilities, asked one by one: what getcap -r prints cannot be taken apart at newlines."""
    return {
        path for path in by_find(directory) if subprocess.run(["getcap", path], capture_output=True, check=True).stdout
    }


@pytest.mark.needs("capsh")
def test_what_find_and_getcap_find_is_found(tree: Path) -> None:
    items = found(tree)
    assert {item.path for item in items if item.mode & 0o6000} == by_find(tree, "-perm", "/6000")
    assert {item.path for item in items if item.caps} == by_getcap(tree)
    assert len(items) == len({item.path for item in items})


@pytest.mark.needs("capsh")
def test_the_systems_own_files_are_found() -> None:
    items = found("/usr/bin")
    assert {item.path for item in items if item.mode & 0o6000} == by_find(Path("/usr/bin"), "-perm", "/6000")
    assert {item.path for item in items if item.set_user_id} == by_find(Path("/usr/bin"), "-perm", "-4000")
    assert {item.path for item in items if item.set_group_id} == by_find(Path("/usr/bin"), "-perm", "-2010")


def test_what_they_are_is_told(tree: Path) -> None:
    items = {Path(item.path).name: item for item in found(tree / "c d")}
    assert set(items) == {"mode4755", "mode2755", "mode6711", "mode2644", "mode4000", "caps", "caps3", "both"}
    assert (items["mode2644"].set_group_id, items["mode2755"].set_group_id) == (False, True)
    assert items["caps3"].caps == FileCaps(NET_RAW, rootid=1000, revision=3)
    assert items["both"].caps == FileCaps()
    assert not items["caps"].nosuid


@pytest.mark.parametrize(("batch", "opened"), [(1, 2), (2, 2), (3, 4), (10_000, 64)])
def test_the_same_is_found_however_little_is_remembered(
    tree: Path, batch: int, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few names remembered, few directories kept open."""
    expected = {item.path for item in found(tree)}
    monkeypatch.setattr(scan_module, "BATCH", batch)
    monkeypatch.setattr(scan_module, "OPEN", opened)
    before = os.listdir("/proc/self/fd")
    search = Scan(str(tree))
    assert {item.path for item in search} == expected
    assert (search.directories, search.files) == (9, 10 * 7 + 1)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.needs("fuse")
def test_an_entry_that_may_not_be_looked_at_hides_none_beside_it(in_child: InChild) -> None:
    """A FUSE filesystem of somebody else refuses even root its stat; it is named, and all beside it is found."""

    def act() -> tuple[list[Privileged], list[Unread], str]:
        fuse.private()
        top = Path("/tmp/top")
        top.mkdir()
        for number in range(5):
            make(top / f"a{number}", 0o4755)
            (top / f"fuse{number}").mkdir()
            fuse.mount(str(top / f"fuse{number}"), user=1000)
            make(top / f"z{number}", 0o755, FileCaps(NET_RAW))
        items = list(Scan(str(top)))
        command = [sys.executable, "-m", "nstool.cli.main", "caps", "scan", str(top)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return (
            [item for item in items if isinstance(item, Privileged)],
            [item for item in items if isinstance(item, Unread)],
            done.stderr,
        )

    found_, unread, text = in_child(act)
    assert sorted(item.path for item in found_) == sorted(f"/tmp/top/{word}{n}" for word in "az" for n in range(5))
    assert sorted(item.path for item in unread) == [f"/tmp/top/fuse{n}" for n in range(5)]
    assert all("Permission denied" in item.why and "FUSE" in item.why for item in unread)
    assert "note: not searched: /tmp/top/fuse3: Permission denied" in text


@pytest.mark.needs("user")
def test_a_directory_without_x_is_one_that_was_not_searched(as_user: Callable[..., Any]) -> None:
    """Not each of its entries."""

    def act() -> list[object]:
        directory = Path("without-x")
        directory.mkdir()
        for number in range(3):
            (directory / f"file{number}").write_bytes(b"")
        directory.chmod(0o600)
        try:
            return list(Scan("without-x"))
        finally:
            directory.chmod(0o700)

    (item,) = as_user(act)
    assert isinstance(item, Unread)
    assert "no x for you" in item.why


def test_a_directory_that_is_exchanged_is_read_by_what_was_opened(tree: Path) -> None:
    """The attributes are asked of the files that were listed, not of those at the same path later."""
    search = iter(Scan(str(tree / "a")))
    first = next(search)
    assert isinstance(first, Privileged)
    (tree / "a").rename(tree / "elsewhere")
    rest = [item for item in search if isinstance(item, Privileged)]
    assert {"caps", "caps3"} <= {Path(item.path).name for item in (first, *rest)}


def test_a_path_longer_than_the_kernel_takes(tmp_path: Path) -> None:
    """Deeper than PATH_MAX, and deeper than there are file descriptors; found in each of its directories."""
    depth, name = 300, "d" * 60
    top = fd = os.open(tmp_path, os.O_RDONLY)
    try:
        for level in range(depth):
            os.mkdir(name, dir_fd=fd)
            fd_below = os.open(name, os.O_RDONLY, dir_fd=fd)
            if fd != top:
                os.close(fd)
            fd = fd_below
            os.close(os.open(f"su{level}", os.O_CREAT | os.O_WRONLY, 0o755, dir_fd=fd))
            os.chmod(f"su{level}", 0o4755, dir_fd=fd)
        os.setxattr(f"/proc/self/fd/{fd}/su{depth - 1}", filecaps.NAME, filecaps.pack(FileCaps(NET_RAW)))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
        try:
            items = found(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        os.close(fd)
        os.close(top)
        subprocess.run(["rm", "-rf", tmp_path / name], check=True)
    assert sorted(int(item.path.rpartition("su")[2]) for item in items) == list(range(depth))
    assert max(len(item.path) for item in items) > 4096
    assert [item.path.rpartition("/")[2] for item in items if item.caps] == [f"su{depth - 1}"]


def test_other_filesystems_are_entered_only_when_told(tmp_path: Path, in_child: InChild) -> None:
    def act() -> tuple[list[str], int, list[tuple[str, bool]]]:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        kernel.mount("tmpfs", str(tmp_path / "there"), "tmpfs", uapi.MS_NOSUID)
        for name in ("here", "there"):
            make(tmp_path / name / "su", 0o4755)
        search = Scan(str(tmp_path))
        own = [item.path for item in search]
        everywhere = [(item.path, item.nosuid) for item in found(tmp_path, all_filesystems=True)]
        return own, search.elsewhere, sorted(everywhere)

    own, elsewhere, everywhere = in_child(act)
    assert (own, elsewhere) == ([str(tmp_path / "here/su")], 1)
    assert everywhere == [(str(tmp_path / "here/su"), False), (str(tmp_path / "there/su"), True)]


def test_filesystems_without_attributes_are_searched(in_child: InChild) -> None:
    def act() -> int:
        search = Scan("/proc/sys", all_filesystems=True)
        assert [item for item in search if isinstance(item, Privileged)] == []
        return search.files

    assert in_child(act) > 100


@pytest.mark.needs("user")
def test_a_file_with_more_attributes_than_are_listed_hides_nothing(in_child: InChild) -> None:
    """listxattr(2) then is refused, E2BIG: neither its own capabilities nor the files behind it are passed over."""

    def act() -> Any:
        private_mounts()
        before, big = make(Path("/tmp/before"), 0o4755), make(Path("/tmp/big"), 0o755, FileCaps(NET_RAW))
        for number in range(300):
            os.setxattr(big, f"trusted.{'x' * 230}{number}", b"")
        with pytest.raises(OSError, match="too long"):
            os.listxattr(big)
        after = make(Path("/tmp/after"), 0o4755)
        return {str(path) for path in (before, big, after)}, {item.path for item in Scan("/tmp")}

    expected, items = in_child(act)
    assert items == expected


def test_what_may_not_be_searched_is_said(as_user: Callable[..., Any]) -> None:
    """A directory that may not be read; one whose names may be read, but not what they are."""

    def act() -> dict[str, str]:
        for name, mode in (("closed", 0o000), ("names-only", 0o400), ("open", 0o700)):
            Path("scan", name).mkdir(parents=True)
            make(Path("scan", name, "su"), 0o4755)
            Path("scan", name).chmod(mode)
        try:
            items = list(Scan("scan"))
        finally:
            for name in ("closed", "names-only", "open"):
                Path("scan", name).chmod(0o700)
        return {item.path: getattr(item, "why", "") for item in items}

    said = as_user(act)
    assert set(said) == {"scan/closed", "scan/names-only", "scan/open/su"}
    assert said["scan/closed"] == "Permission denied"
    assert "may be read, but not what they are" in said["scan/names-only"]


def test_a_directory_that_is_moved_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the way back up, its parent is no longer there; the rest is searched, and nothing outside."""
    monkeypatch.setattr(scan_module, "OPEN", 2)
    outside = tmp_path / "outside"
    outside.mkdir()
    make(outside / "su", 0o4755)
    deep = tmp_path / "top/a/b/c/d"
    deep.mkdir(parents=True)
    make(deep / "su", 0o4755)
    (tmp_path / "top/z").mkdir()
    make(tmp_path / "top/z/su", 0o4755)
    items: list[Any] = []
    for item in Scan(str(tmp_path / "top")):
        items.append(item)
        if item.path.endswith("d/su"):
            (tmp_path / "top/a/b/c").rename(outside / "c")
            (tmp_path / "top/a/b").rename(outside / "b")
    said = {item.path.removeprefix(f"{tmp_path}/"): getattr(item, "why", "") for item in items}
    assert set(said) == {"top/a/b/c/d/su", "top/a/b", "top/z/su"}
    assert "moved" in said["top/a/b"]


def test_a_directory_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    """Symbolic links are not followed, also where a directory was a moment ago."""
    secret = tmp_path / "secret"
    secret.mkdir()
    make(secret / "su", 0o4755)
    top = tmp_path / "top"
    for name in ("1", "2", "3"):
        (top / name).mkdir(parents=True)
        make(top / name / "su", 0o4755)
    paths = []
    for item in Scan(str(top)):
        paths.append(item.path)
        for name in ("1", "2", "3"):
            if not os.path.islink(top / name) and f"/{name}/" not in "".join(paths):
                (top / name).rename(tmp_path / f"was{name}")
                (top / name).symlink_to(secret)
    assert len(paths) == 1


def test_a_directory_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        list(Scan(str(make(tmp_path / "file", 0o644))))
    with pytest.raises(FileNotFoundError):
        list(Scan(str(tmp_path / "none")))


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "TELL", 10)
    for number in range(35):
        make(tmp_path / str(number), 0o644)
    told: list[int] = []
    assert found(tmp_path, progress=lambda search: told.append(search.files)) == []
    assert told == [10, 20, 30]


# The command


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "nstool.cli.main", "caps", "scan", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True)


def test_the_command_names_what_it_finds(tree: Path) -> None:
    done = command(tree / "new\nline")
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    assert any(line.startswith("6711 0:0") and "set-user-ID set-group-ID" in line for line in lines)
    assert any("cap_net_raw=p [rootid=1000]" in line for line in lines)
    assert all("new\\x0aline" in line for line in lines)
    assert done.stderr == "8 found among 10 files in 1 directory\n"
    assert "\x1b" not in command(tree).stdout


def test_json_is_one_document(tree: Path) -> None:
    done = command("--json", tree)
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert {item["path"] for item in document["items"]} == {item.path for item in found(tree)}
    assert document["found"] == len(document["items"])
    assert document["files"] == 71
    assert json.loads(command("--json", tree / "set-group-ID directory").stdout)["items"] == []


def test_a_wrong_directory_is_an_error() -> None:
    done = command("/does/not/exist")
    assert (done.returncode, done.stderr) == (
        2,
        "nstool: DIRECTORY: there is no directory /does/not/exist; give one that there is\n",
    )


def test_progress_is_shown_on_a_terminal_only(tree: Path) -> None:
    """And is gone in the end; what is found goes to standard output whatever that is."""
    master, slave = pty.openpty()
    line = [sys.executable, "-m", "nstool.cli.main", "caps", "scan", str(tree)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=slave, text=True, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # EIO: all is read, and the other end is closed
            break
    os.close(master)
    assert b"files, " in shown
    assert len(done.stdout.splitlines()) == len(found(tree))
    assert stat.S_ISDIR(tree.stat().st_mode)
