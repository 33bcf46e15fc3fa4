"""What a careless operator types: one message that names the place, the right exit status, nothing done or left."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BIN = Path(sys.prefix) / "bin"
BAD, CANNOT = 2, 125

pytestmark = pytest.mark.needs("root", "native", "nsexec")

Words = tuple[str, ...]


def ran(program: str, *words: str, cwd: Path) -> tuple[int, str]:
    """Status, and what was said on stderr, which is no traceback."""
    done = subprocess.run([BIN / program, *words], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert "Traceback" not in done.stderr
    assert "a bug of nstool" not in done.stderr
    return done.returncode, done.stderr


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with one of each: FILE.toml, an EMPTY file, a DIR, a FIFO, a LOOP of symlinks."""
    (tmp_path / "ok.toml").write_text('command = ["true"]\n')
    (tmp_path / "empty").touch()
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/user").write_text("not pin's")
    return tmp_path


LONG = "a" * 300
TABLE: list[tuple[Words, str]] = [
    (("nope",), "no command 'nope'; known: "),
    (("run", "./dir"), "./dir: Is a directory"),
    (("run", "dir"), "dir: neither an option nor a spec file"),
    (("run", "loop.toml"), "loop.toml: Too many levels of symbolic links"),
    (("run", "/dev/zero"), "/dev/zero: more than 16 MiB; that is no spec"),
    (("plan", "/dev/zero"), "/dev/zero: more than 16 MiB; that is no spec"),
    (("plan", "./fifo.toml"), "./fifo.toml: No such file or directory"),
    (("run", "ok.toml", "ok.toml"), "ok.toml: a second spec file"),
    (("run", "--", ""), "command[0]: the name of the command is empty"),
    (("compile", "ok.toml"), "-o FILE: is needed"),
    (("compile", "-o", "empty", "ok.toml"), "empty: exists; --force overwrites it"),
    (("compile", "--force", "-o", "dir", "ok.toml"), "dir: Is a directory"),
    (("compile", "-o", "no/x", "ok.toml"), "no/x: No such file or directory"),
    (("compile", "-o", "x", "--shebang", "nsexec", "ok.toml"), "--shebang: needs the absolute path of nsexec"),
    (("compile", "-o", "x", "--shebang", "/a b", "ok.toml"), "--shebang: needs the absolute path of nsexec, without"),
    (("compile", "-o", "x", "--shebang", "/" + LONG, "ok.toml"), "--shebang: needs the absolute path of nsexec"),
    (("init", "dir"), "dir: exists; --force overwrites it"),
    (("init", "--force", "dir"), "dir: Is a directory"),
    (("init", ""), "FILE: No such file or directory"),
    (("exec",), "Missing argument 'NAME'; see nstool exec --help"),
    (("exec", "a/b", "--", "true"), "name: 'a/b' cannot be the name of a sandbox"),
    (("exec", "a\nb", "--", "true"), "name: 'a\\nb' cannot be the name of a sandbox"),
    (("enter", "", "--", "true"), "TARGET: is empty"),
    (("enter", "²", "--", "true"), "²: neither a pid, nor a file"),
    (("enter", "٣", "--", "true"), "٣: neither a pid, nor a file"),
    (("enter", "0", "--", "true"), "0: there is no process 0"),
    (("enter", "99999999999", "--", "true"), "99999999999: there is no process 99999999999"),
    (("enter", "ok.toml", "--", "true"), "ok.toml: is not a namespace file"),
    (("enter", "./fifo", "--", "true"), "./fifo: is not a namespace file"),
    (("enter", "dir", "--", "true"), "dir: holds no pinned namespace"),
    (("enter", "/proc/self/ns/net", "--", ""), "COMMAND: the name of the command is empty"),
    (("enter", "--types", ",", "1", "--", "true"), "--types: names no namespace type"),
    (("enter", "--types", "neet", "1", "--", "true"), "--types: no namespace type 'neet'; did you mean \"net\"?"),
    (("pin", "²", "x"), "name: '²' cannot be the name of a sandbox"),
    (("pin", "--types", "", "1", "x"), "--types: names no namespace type"),
    (("unpin", "empty"), "empty: is no directory"),
    (("unpin", "dir"), "dir: holds no pinned namespace: not touched"),
    (("unpin", "precious"), "precious: holds 'user', which pin has not made: not touched"),
    (("unpin", "/proc/self/ns"), "/proc/self/ns: holds "),
    (("signal", "nobody-here", "²"), "SIGNAL: no signal '²'; known: "),
    (("signal", "nobody-here", "-s", "9"), "No such option '-s'; see nstool signal --help"),
    (("show", "0"), "there is no process 0"),
]


@pytest.mark.parametrize(("words", "message"), TABLE, ids=[" ".join(words)[:40] for words, _ in TABLE])
def test_a_bad_request_is_told_in_one_line(words: Words, message: str, place: Path) -> None:
    """Status 2, the place first, and every file is as it was."""
    before = {path: path.lstat().st_mtime_ns for path in place.rglob("*")}
    status, said = ran("nstool", *words, cwd=place)
    assert status == BAD, said
    assert said.startswith(f"nstool: {message}"), said
    assert said.count("\n") == 1
    assert {path: path.lstat().st_mtime_ns for path in place.rglob("*")} == before


NSEXEC = [
    ("dir", "cannot read the plan: EISDIR"),
    ("nowhere", "cannot open the plan: ENOENT"),
    (LONG, "cannot open the plan: ENAMETOOLONG"),
    *((name, "not a compiled plan; make one with ") for name in ("ok.toml", "empty", "fifo", "/dev/zero")),
]


@pytest.mark.parametrize(("name", "message"), NSEXEC, ids=[name[:20] for name, _ in NSEXEC])
def test_nsexec_of_what_is_no_plan(name: str, message: str, place: Path) -> None:
    """The file is named, and what makes a plan."""
    status, said = ran("nsexec", name, cwd=place)
    assert (status, said.count("\n")) == (BAD, 1)
    assert said.startswith(f"nsexec: {name}: {message}"), said


def test_a_damaged_plan_is_a_bad_request(place: Path) -> None:
    """Cut off, or with a step that is none: nstool plan and nsexec name the file and the step."""
    assert ran("nstool", "compile", "-o", "good", "ok.toml", cwd=place) == (0, "")
    good = (place / "good").read_bytes()
    for data, step, words in (
        (good[: len(good) // 2], "step 0, reason 4", "its header does not describe its size"),
        (good[:200] + b"\xff" * 8 + good[208:], "step 3, reason 8", "an argument of step 3, mkdirat, lies outside it"),
    ):
        (place / "bad").write_bytes(data)
        status, said = ran("nsexec", "bad", cwd=place)
        assert status == BAD
        assert said.startswith(f"nsexec: bad: not a compiled plan of this version, or a damaged one ({step}); "), said
        status, said = ran("nstool", "plan", "bad", cwd=place)
        assert status == BAD
        assert said.startswith(f"nstool: bad: a damaged plan: {words}"), said


def test_a_pipe_is_a_spec_for_every_command(place: Path) -> None:
    """It can be read once, so nobody looks into it beforehand."""
    for command in ("run", "check", "plan"):
        reader, writer = os.pipe()
        os.write(writer, b'command = ["true"]')
        os.close(writer)
        words = [str(BIN / "nstool"), command, f"/dev/fd/{reader}"]
        done = subprocess.run(words, pass_fds=(reader,), stdout=subprocess.DEVNULL, timeout=60, cwd=place)
        os.close(reader)
        assert done.returncode == 0, command


def tiny_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))


@pytest.mark.parametrize(
    "words", [("init", "new"), ("compile", "-o", "new", "--memory", "0", "--pids", "0", "ok.toml")], ids=lambda w: w[0]
)
def test_half_a_file_is_not_left(words: Words, place: Path) -> None:
    """What ran into a full disk names the file and removes it."""
    command = [str(BIN / "nstool"), *words]
    done = subprocess.run(command, preexec_fn=tiny_files, stderr=subprocess.PIPE, text=True, timeout=60, cwd=place)
    assert (done.returncode, done.stderr) == (CANNOT, "nstool: new: File too large\n")
    assert not (place / "new").exists()


# ---- the streams ----

PRINTING = ["schema", "ps", "ps --json", "plan -- true", "cleanup --json", "init -", "--help", "run --help", "check"]


@pytest.mark.parametrize("line", PRINTING)
def test_output_to_a_full_disk_is_told_once(line: str, place: Path) -> None:
    """Status 125 and one line, not the interpreter's own at its end."""
    with open("/dev/full", "wb") as full:
        command = [str(BIN / "nstool"), *line.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=place)
    assert (done.returncode, done.stderr) == (CANNOT, "nstool: standard output: No space left on device\n")


@pytest.mark.parametrize(("line", "status"), [("run --nope", BAD), ("nope", BAD), ("run -- true", 0)])
def test_a_message_that_nobody_can_read_leaves_the_status(line: str, status: int, place: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([str(BIN / "nstool"), *line.split()], stderr=full, timeout=60, cwd=place)
    assert done.returncode == status


@pytest.mark.parametrize(("line", "status"), [("check", 0), ("ps", 0), ("schema", 0), ("run --nope", BAD)])
def test_closed_streams_are_no_trouble(line: str, status: int, place: Path) -> None:
    """Nor does a message go to the wrong one."""
    for closed, left in (("<&- >&-", 2), ("2>&-", 1)):
        shell = f"exec {BIN / 'nstool'} {line} {closed}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, cwd=place)
        assert done.returncode == status
        other = done.stderr if left == 2 else done.stdout
        assert ("nstool: " in other) == (line == "run --nope" and left == 2), other


# ---- into a running sandbox ----


@pytest.fixture
def box(name: str) -> Iterator[str]:
    command = [str(BIN / "nstool"), "run", "--name", name, "--", "sh", "-c", "echo; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield name
        process.communicate()


EXEC: list[tuple[Words, str]] = [
    (("--", ""), "command[0]: the name of the command is empty"),
    (("--user", "nobody", "--", "true"), "--user: exec takes numbers, UID or UID:GID"),
    (("--user", "0:²", "--", "true"), "--user: exec takes numbers, UID or UID:GID"),
    (("--user", "1:2:3", "--", "true"), '--user: "1:2:3" is not of the form'),
    (("--user", "99999999999", "--", "true"), "--user: exec takes numbers, UID or UID:GID, 0 to 4294967294"),
    (("--user", "70000", "--", "true"), "--user: uid 70000 is not in the sandbox's uid_map: 0 to 65535"),
    (("--user", "5:70000", "--", "true"), "--user: gid 70000 is not in the sandbox's gid_map: 0 to 65535"),
    (("--cwd", "", "--", "true"), '--cwd: "" is relative'),
    (("--env", "A", "--", "true"), '--env: "A" is not of the form NAME=VALUE'),
]


def test_exec_looks_at_its_options_first(box: str, tmp_path: Path) -> None:
    """Status 2, with the option, instead of a step that is refused inside."""
    for words, message in EXEC:
        status, said = ran("nstool", "exec", box, *words, cwd=tmp_path)
        assert status == BAD, said
        assert said.startswith(f"nstool: {message}"), said


def test_pin_makes_its_directory_or_nothing(box: str, place: Path) -> None:
    """A type that is named twice is one; what is there already stays."""
    for directory, message in (
        ("empty", "empty: exists already"),
        ("dir", "dir: exists already"),
        ("no/x", "no/x: its parent directory does not exist"),
        (LONG, f"{LONG}: cannot be made: File name too long"),
    ):
        status, said = ran("nstool", "pin", box, directory, cwd=place)
        assert status == BAD, said
        assert said.startswith(f"nstool: {message}"), said
    assert ran("nstool", "pin", "--types", "net,net", box, "new", cwd=place) == (0, "")
    assert ran("nstool", "enter", "new", "--", "true", cwd=place) == (0, "")
    assert ran("nstool", "unpin", "new", cwd=place) == (0, "")
    assert not (place / "new").exists()


def test_enter_of_what_may_not_be_looked_at(as_user: object, place: Path) -> None:
    """Cause and remedy, not a bare EACCES."""
    status, said = as_user(lambda: ran("nstool", "enter", str(os.getppid()), "--", "true", cwd=Path("/")))  # type: ignore[operator]
    assert status == CANNOT
    assert "\ncause: the process is not yours: CAP_SYS_PTRACE is needed over it, ptrace(2)\nremedy: " in said
