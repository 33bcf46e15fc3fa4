"""Too few files, a run directory that is full, closed or somebody else's: one message that helps, nothing left."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported
from nstool.sandbox import rundir
from tests.support import kernel
from tests.support.user import User

NSTOOL = str(Path(sys.prefix) / "bin" / "nstool")
CANNOT = 125

pytestmark = pytest.mark.needs("root", "native", "nsexec")

SPECS = {"plain.toml": 'command = ["true"]', "veth.toml": 'command = ["true"]\nnet.mode = "veth"'}
FILES = range(4, 37)  # 3 is too little for the Python interpreter


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SPECS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def limited(files: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run nstool where only so many files can be open."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    return subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=60, preexec_fn=limit)


@pytest.mark.needs("veth", "nft")
@pytest.mark.usefixtures("specs")
@pytest.mark.parametrize(
    "words",
    [
        ("run", "--", "true"),
        ("run", "plain.toml"),
        ("run", "veth.toml"),
        ("run", "--detach", "--", "true"),
        ("plan", "veth.toml"),
        ("check", "veth.toml"),
        ("compile", "-o", "out.plan", "--force", "plain.toml"),
        ("exec", "NAME", "--", "true"),
        ("ps", "--json"),
        ("cleanup",),
    ],
    ids=" ".join,
)
@pytest.mark.orphans
def test_few_files(words: tuple[str, ...], name: str) -> None:
    """With every limit it goes well, or the message is what, cause and remedy; leftovers there are none."""
    box = subprocess.Popen(
        [NSTOOL, "run", "--name", name, "--", "sh", "-c", "echo ready; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert box.stdout is not None
    assert box.stdout.readline() == b"ready\n"
    try:
        went_well = []
        for files in FILES:
            done = limited(files, *(name if word == "NAME" else word for word in words))
            if done.returncode == 0:
                went_well.append(files)
                continue
            said = done.stderr.splitlines()
            assert done.returncode == CANNOT, (files, done)
            assert said[0].startswith("nstool: "), (files, done)
            assert [line.partition(":")[0] for line in said[1:]] == ["purpose", "cause", "remedy"], (files, done)
            assert "ulimit -n" in said[-1], (files, done)
        assert went_well == list(FILES)[-len(went_well) :]
        assert 28 not in went_well
    finally:
        box.communicate(b"\n")


# ---- the run directory ----

COMMANDS = (
    ("run", "--", "true"),
    ("run", "--detach", "--", "true"),
    ("plan", "--", "true"),
    ("exec", "nobody-here", "--", "true"),
    ("ps", "--json"),
    ("cleanup",),
)
MAKING = ("run", "run --detach", "plan")
Said = dict[str, tuple[int, str]]


def ask(run: Path) -> Said:
    """What each command says with this run directory: its name and first option to status and message."""
    said: Said = {}
    for words in COMMANDS:
        name = " ".join(word for word in words[:2] if word not in ("--", "nobody-here", "--json"))
        environment = {**os.environ, "NSTOOL_RUN_DIR": str(run)}
        done = subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=60, env=environment)
        said[name] = done.returncode, done.stderr
    return said


def own_tmpfs(where: Path, options: str) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", str(where), "tmpfs", 0, options)


def full(where: Path) -> Path:
    own_tmpfs(where, "size=16k,mode=700")
    run = where / "run"
    run.mkdir(0o700)
    with open(where / "fill", "wb", buffering=0) as file:
        assert file.write(bytes(1 << 20)) < 1 << 20
    return run


def no_inodes(where: Path) -> Path:
    own_tmpfs(where, "nr_inodes=2,mode=700")
    return where / "run"


def read_only(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "run").mkdir(0o700)
    kernel.mount("none", str(where), "", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY)
    return where / "run"


def somebody_elses(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "run").mkdir(0o700)
    os.chown(where / "run", 65534, 65534)
    return where / "run"


def symlink(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "real").mkdir(0o700)
    (where / "run").symlink_to(where / "real")
    return where / "run"


def plain_file(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "run").touch()
    return where / "run"


def closed(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "run").mkdir(0)
    return where / "run"


def open_to_all(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "run").mkdir()
    (where / "run").chmod(0o777)
    return where / "run"


def no_parent(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    return where / "no/run"


def below_a_file(where: Path) -> Path:
    own_tmpfs(where, "mode=700")
    (where / "file").touch()
    return where / "file/run"


# What is wrong, its cause and remedy; which commands do without a run directory of that kind, with which status.
BARE = {"exec": 2, "ps": 0, "cleanup": 0}
CHMOD = "chmod 700 it if nobody else uses it, or set NSTOOL_RUN_DIR"
RUN_DIRS: list[tuple[Callable[[Path], Path], str, str, dict[str, int]]] = [
    (full, "its file system has no free block or inode", "make room there, or set NSTOOL_RUN_DIR", BARE),
    (no_inodes, "its file system has no free block or inode", "make room there, or set NSTOOL_RUN_DIR", BARE),
    (read_only, "it lies on a mount that is read-only", "set NSTOOL_RUN_DIR", BARE),
    (somebody_elses, "it belongs to uid 65534, you are 0", "set NSTOOL_RUN_DIR", {}),
    (symlink, "it is a symbolic link", "set NSTOOL_RUN_DIR", {}),
    (plain_file, "it is not a directory", "set NSTOOL_RUN_DIR", {}),
    (closed, "its owner has not all rights in it (mode 0000)", CHMOD, {}),
    (open_to_all, "others can write in it (mode 0777)", CHMOD, {}),
    (no_parent, "the directory above it is not there", "set NSTOOL_RUN_DIR", {"exec": 2, "ps": 0, "cleanup": 0}),
    (below_a_file, "a part of its path is no directory", "set NSTOOL_RUN_DIR", {}),
]  # fmt: skip


@pytest.mark.orphans
@pytest.mark.parametrize(("make", "cause", "remedy", "fine"), RUN_DIRS, ids=[row[0].__name__ for row in RUN_DIRS])
def test_run_directory(
    make: Callable[[Path], Path],
    cause: str,
    remedy: str,
    fine: dict[str, int],
    in_child: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """What cannot be done without one is refused with cause and remedy, once; nothing is left."""

    def act() -> tuple[Said, list[str], list[str]]:
        run = make(tmp_path)
        before = sorted(map(str, tmp_path.rglob("*")))
        said = ask(run)
        return said, before, sorted(map(str, tmp_path.rglob("*")))

    said, before, after = in_child(act)
    for command, (status, text) in said.items():
        assert "Traceback" not in text
        assert status == fine.get(command, CANNOT), (command, text)
        if status == CANNOT:
            assert text.startswith("nstool: "), (command, text)
            assert f"\ncause: {cause}\nremedy: {remedy}" in text, (command, text)
            assert text.count("cause: ") == 1, (command, text)
    assert set(after) <= set(before)  # an empty run directory goes, whoever made it


@pytest.mark.parametrize("words", [*COMMANDS, ("check", "--", "true"), ("show", "nobody-here")], ids=" ".join)
def test_relative_run_directory(words: tuple[str, ...], tmp_path: Path) -> None:
    """It would be another from elsewhere: refused in one line, also where the working directory has been removed."""

    def gone() -> None:
        os.mkdir(tmp_path / "gone")
        os.chdir(tmp_path / "gone")
        os.rmdir(tmp_path / "gone")

    environment = {**os.environ, "NSTOOL_RUN_DIR": "run"}
    for place in (lambda: os.chdir(tmp_path), gone):
        done = subprocess.run(
            [NSTOOL, *words], capture_output=True, text=True, timeout=60, env=environment, preexec_fn=place
        )
        assert done.returncode == 2
        assert done.stderr == "nstool: NSTOOL_RUN_DIR: 'run' is relative; write it from \"/\" on\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.orphans
def test_run_directory_of_an_ordinary_user(as_user: Callable[..., Any], user: User) -> None:
    """A closed XDG_RUNTIME_DIR is told, too: the run directory cannot even be looked at."""

    def act() -> Said:
        closed = Path(user.home, "closed")
        closed.mkdir(0)
        try:
            return ask(closed / "run")
        finally:
            closed.rmdir()

    for command, (status, text) in as_user(act).items():
        assert status == CANNOT, (command, text)
        if "limits." not in text:  # those of this user's cgroup, which come before
            assert "\ncause: the directory above it is not yours to write in, or to search\n" in text, (command, text)


@pytest.mark.parametrize("kind", ["directory", "symlink", "pipe"])
def test_run_directory_that_another_user_has_taken(as_user: Callable[..., Any], user: User, kind: str) -> None:
    """In a sticky directory, as /tmp is: nobody is told to remove what only root can."""
    shared = Path(user.home, f"shared-{kind}")
    taken = shared / "run"

    def act() -> NotSupported:
        os.environ["NSTOOL_RUN_DIR"] = str(taken)
        with pytest.raises(NotSupported) as told:
            rundir.claim()
        with pytest.raises(PermissionError):
            taken.rmdir() if kind == "directory" else taken.unlink()
        return told.value

    shared.mkdir()
    try:
        shared.chmod(0o1777)
        {"directory": os.mkdir, "symlink": lambda path: path.symlink_to("/tmp"), "pipe": os.mkfifo}[kind](taken)
        os.chown(taken, 65534, 65534, follow_symlinks=False)
        told = as_user(act)
    finally:
        subprocess.run(["rm", "-r", shared], check=True)
    assert told.remedy == "set NSTOOL_RUN_DIR to a directory of your own with mode 0700"
    assert (
        told.cause
        == {
            "directory": f"it belongs to uid 65534, you are {user.uid}",
            "symlink": "it is a symbolic link",
            "pipe": "it is not a directory",
        }[kind]
    )


@pytest.mark.orphans
def test_disk_full_in_the_middle(in_child: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """Wherever the journal breaks off, in the undo steps or at init's pid after the clone: refused, and all undone."""

    def act() -> list[tuple[int, str, list[str]]]:
        own_tmpfs(tmp_path, "size=4k,mode=700")  # one page, and so one file
        environment = {**os.environ, "NSTOOL_RUN_DIR": str(tmp_path / "run")}

        def words(padding: int, *more: str) -> list[str]:
            return [NSTOOL, "run", "--name", name, *more, "--env", f"X={padding * 'x'}", "--", "sh", "-c", "echo; cat"]

        with subprocess.Popen(words(0), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as box:
            assert box.stdout is not None
            box.stdout.readline()
            room = 4096 - (tmp_path / f"run/sandboxes/{name}/journal").stat().st_size
            box.communicate()
        tries = [words(padding) for padding in (room - 200, *range(room - 40, room + 60, 6), room + 5000)]
        ran = []
        for line in [*tries, words(room + 5000, "--detach")]:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, env=environment
            )
            ran.append((done.returncode, done.stderr, os.path.exists(tmp_path / "run")))
        return ran

    ran = in_child(act, timeout=60)
    assert {status for status, _, _ in ran} == {0, CANNOT}
    for status, text, left in ran:
        assert not left
        if status == CANNOT:
            assert text.startswith("nstool: write("), text
            assert "\ncause: its file system has no free block or inode\nremedy: make room there" in text, text
