"""Malformed files, options and names: one line that says which, status 2, for every command; never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NSTOOL = str(Path(sys.prefix) / "bin" / "nstool")
BAD = 2

pytestmark = pytest.mark.needs("root", "native", "nsexec")

FILES: dict[str, bytes] = {
    "good.toml": b'command = ["true"]',
    "nul.toml": b'command = ["a\\u0000b"]',
    "raw.toml": b'command = ["true"]\n\0',
    "twice.toml": b'command = ["true"]\ncommand = ["id"]',
    "mounts.toml": b'command = ["true"]\nmounts = ["/etc:/tmp/a",\n"/usr:/tmp/a"]',
    "huge.toml": b'command = ["true"]\nlimits.memory = 99999999999999999999999',
    "negative.toml": b'command = ["true"]\nlimits.pids = -1',
    "type.toml": b"command = [1]",
    "text.toml": b'command = "true"',
    "binary.toml": b"\xff\xfe",
    "empty.toml": b"",
    "nan.toml": b'command = ["true"]\nlimits.cpu = nan',
    "mode.toml": b'command = ["true"]\n[[mounts]]\ntarget = "/tmp/x"\ntype = "tmpfs"\nmode = 99999',
    "json.json": b'{"command": ["true"], "command": ["id"]}',
}

# What is asked for, and what the message begins with.
SPECS = [
    ("nul.toml", "nul.toml:1: command[0]: contains a NUL byte"),
    ("raw.toml", "raw.toml:2: no TOML"),
    ("twice.toml", "twice.toml:2: no TOML"),
    ("mounts.toml", "mounts.toml:3: mounts[1].target: mounts[0] is on /tmp/a already"),
    ("huge.toml", "huge.toml:2: limits.memory: the number does not fit into 64 bits"),
    ("negative.toml", "negative.toml:2: limits.pids: pids must lie between"),
    ("type.toml", "type.toml:1: command: expected an array of strings"),
    ("text.toml", "text.toml:1: command: write a list"),
    ("binary.toml", "binary.toml:1: not UTF-8 text"),
    ("empty.toml", "empty.toml: command: no command"),
    ("nan.toml", "nan.toml:2: limits.cpu: cpu in cores must lie between"),
    ("mode.toml", "mode.toml:5: mounts[0].mode: permission bits must lie between"),
    ("json.json", 'json.json: no JSON: key "command" twice in one object'),
    ("dir.toml", "dir.toml: Is a directory"),
    ("absent.toml", "absent.toml: No such file or directory"),
    ("/dev/zero", "/dev/zero: more than 16 MiB; that is no spec"),
    ("/dev/null", "/dev/null: command: no command"),
]
OPTIONS = [
    ("--memory=", '--memory: "" is not a size'),
    ("--memory=1e99", '--memory: "1e99" is not a size'),
    ("--pids=99999999999999999999", "--pids: "),
    ("--cpu=nan", "--cpu: "),
    ("--user=-1", "--user: "),
    ("--hostname=a\nb", '--hostname: "a\\nb" contains white space'),
    ("--env==x", "--env: "),
    ("--mount=:", "--mount: "),
    ("--root=", "--root: an empty root"),
    ("--net=join:", '--net: mode "join" needs a target'),
    ("--publish=-1:1", "--publish: "),
    ("--uid-map=0:0:0", "--uid-map: "),
    ("--cwd=", "--cwd: "),
    ("--share=x", "--share: "),
    ("--pass-fd=99999", "--pass-fd: fd 99999 is not open"),
]
COMMANDS = [
    (("run", "--detach", "--log=", "--", "true"), "--log: empty name"),
    (("run", "--detach", "--log=/nowhere/x", "--", "true"), "--log: /nowhere/x: No such file"),
    (("run", "--", ""), "command[0]: the name of the command is empty"),
    (("compile", "-o", "/nowhere/x", "good.toml"), "/nowhere/x: No such file"),
    (("compile", "-o", "dir.toml", "--force", "good.toml"), "dir.toml: Is a directory"),
    (("compile", "-o", "out", "--shebang", "/a\nb", "good.toml"), "--shebang: needs the absolute path"),
    (("exec", "", "--", "true"), "name: '' cannot be the name"),
    (("exec", "../x", "--", "true"), "name: '../x' cannot be the name"),
    (("exec", "NAME", "--user=99999999999", "--", "true"), "--user: "),
    (("exec", "NAME", "--user=", "--", "true"), "--user: "),
    (("exec", "NAME", "--env=", "--", "true"), '--env: "" is not of the form'),
    (("exec", "NAME", "--cwd=", "--", "true"), '--cwd: "" is relative'),
    (("exec", "NAME", "--terminal=x", "--", "true"), "Invalid value for '--terminal'"),
    (("enter", "²", "--", "true"), "²: neither a pid"),
    (("enter", "fifo", "--", "true"), "fifo: is not a namespace file"),
    (("enter", "./fifo", "--", "true"), "./fifo: is not a namespace file"),
    (("enter", "99999999999999999999", "--", "true"), "99999999999999999999: there is no process"),
    (("pin", "NAME", "/nowhere/x"), "/nowhere/x: its parent directory does not exist"),
    (("unpin", "good.toml"), "good.toml: is no directory"),
    (("signal", "NAME", "²"), "SIGNAL: no signal '²'"),
    (("signal", "NAME", "999"), "SIGNAL: no signal '999'"),
    (("show", "²"), "name: '²' cannot be the name"),
    (("init", "/nowhere/x"), "/nowhere/x: No such file"),
    (("plan", "--sh", "--json", "./good.toml"), "--sh: is one form"),
    (("ps", "x"), "Got unexpected extra argument (x); see nstool ps --help"),
]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "dir.toml").mkdir()
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def box(name: str) -> Iterator[str]:
    """The name of a running sandbox."""
    process = subprocess.Popen(
        [NSTOOL, "run", "--name", name, "--", "sh", "-c", "echo ready; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield name
    process.communicate(b"\n")


def refuses(words: tuple[str, ...], message: str) -> None:
    done = subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (BAD, ""), (words, done)
    assert done.stderr.startswith(f"nstool: {message}"), (words, done.stderr)
    assert done.stderr.count("\n") == 1, (words, done.stderr)


@pytest.mark.parametrize("command", ["run", "plan", "check", "compile"])
def test_spec_files(command: str) -> None:
    """Each with the file, the line where there is one, and the key."""
    for file, message in SPECS:
        path = file if file.startswith("/") else f"./{file}"
        begin = message if file.startswith("/") else f"./{message}"
        refuses((command, *(("-o", "out") if command == "compile" else ()), path), begin)


@pytest.mark.parametrize("command", ["run", "check"])
def test_options(command: str) -> None:
    """Each by its name."""
    for option, message in OPTIONS:
        if command == "run" or not option.startswith("--pass-fd"):
            refuses((command, option, "--", "true"), message)


def test_other_commands(box: str) -> None:
    """Names, files and options of the commands that are not run."""
    for words, message in COMMANDS:
        refuses(tuple(box if word == "NAME" else word for word in words), message)


def test_a_plan_of_a_pipe() -> None:
    """A spec that can be read once only is read once: process substitution of a shell."""
    script = f"{NSTOOL} plan <(cat good.toml); status=$?; wait $!; exit $status"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_output_that_cannot_be_written() -> None:
    """Said once, by us: status 125."""
    for words in (("plan", "good.toml"), ("ps",), ("schema",)):
        with open("/dev/full", "w") as full:
            done = subprocess.run([NSTOOL, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (125, "nstool: standard output: No space left on device\n"), words


def test_exec_with_a_terminal_where_the_caller_has_none(box: str) -> None:
    """As run does: the command has a terminal, its output comes out."""
    words = [NSTOOL, "exec", box, "--terminal", "always", "--", "tty"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("/dev/pts/")
