"""Bad requests: wrong files, options and names. One line says which, status 2, nothing done; never a traceback."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.prefix) / "bin"
BAD, CANNOT = 2, 125

pytestmark = pytest.mark.needs("root", "native", "nsexec")

Words = tuple[str, ...]
Table = list[tuple[Words, str]]

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
    "mode.toml": b'command = ["true"]\n[[mounts]]\ntarget = "/tmp/x"\ntype = "tmpfs"\nmode = "303237"',
    "json.json": b'{"command": ["true"], "command": ["id"]}',
}
LONG = "a" * 300


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory, with FILES, a directory, a FIFO, a loop, and directories that pin has not made."""
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    for directory, file, text in (("other", "mine", ""), ("full", "user", "not pin's")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "uts").touch()
        (tmp_path / directory / file).write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def box(name: str) -> Iterator[str]:
    """The name of a running sandbox."""
    command = [str(BIN / "nstool"), "run", "--name", name, "--", "sh", "-c", "echo; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield name
        process.communicate()


def ran(program: str, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what is not redirected is caught."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([BIN / program, *words], text=True, timeout=60, **options)


def refuses(message: str, program: str, *words: str) -> None:
    """It says the one line, which begins with the message, and every file is as it was."""
    before = {path: path.lstat().st_mtime_ns for path in Path.cwd().rglob("*")}
    done = ran(program, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (BAD, "", 1), (words, done)
    assert done.stderr.startswith(f"{program}: {message}"), (words, done.stderr)
    assert {path: path.lstat().st_mtime_ns for path in Path.cwd().rglob("*")} == before, words


def rows(table: Table) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("words", "message"), table, ids=[" ".join(words)[:40] for words, _ in table])


# ---- spec files ----

SPECS = [
    ("./nul.toml", ":1: command[0]: contains a NUL byte"),
    ("./raw.toml", ":2: no TOML"),
    ("./twice.toml", ":2: no TOML"),
    ("./mounts.toml", ":3: mounts[1].target: mounts[0] is on /tmp/a already"),
    ("./huge.toml", ":2: limits.memory: the number does not fit into 64 bits"),
    ("./negative.toml", ":2: limits.pids: pids must lie between"),
    ("./type.toml", ":1: command: expected an array of strings"),
    ("./text.toml", ":1: command: write a list"),
    ("./binary.toml", ":1: not UTF-8 text"),
    ("./empty.toml", ": command: no command"),
    ("./nan.toml", ":2: limits.cpu: cpu in cores must lie between"),
    ("./mode.toml", ":5: mounts[0].mode: permission bits must lie between"),
    ("./json.json", ': no JSON: key "command" twice in one object'),
    ("./dir", ": Is a directory"),
    ("dir", ": neither an option nor a spec file"),
    ("absent.toml", ": No such file or directory"),
    ("loop.toml", ": Too many levels of symbolic links"),
    ("/dev/zero", ": more than 16 MiB; that is no spec"),
    ("/dev/null", ": command: no command"),
]


@pytest.mark.parametrize(("path", "message"), SPECS, ids=[path for path, _ in SPECS])
def test_spec_files(path: str, message: str) -> None:
    """By each command that takes one: with the file, the line where there is one, and the key."""
    for command in (("run",), ("plan",), ("check",), ("compile", "-o", "out")):
        refuses(path + message, "nstool", *command, path)


def test_a_pipe_is_a_spec_for_every_command() -> None:
    """It can be read once, so nobody looks into it beforehand."""
    for command in ("run", "check", "plan"):
        reader, writer = os.pipe()
        os.write(writer, b'command = ["true"]')
        os.close(writer)
        done = ran("nstool", command, f"/dev/fd/{reader}", pass_fds=(reader,))
        os.close(reader)
        assert (done.returncode, done.stderr) == (0, ""), command


# ---- options ----

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
    ("--net=join:nobody-here", "--net: no sandbox and no named network namespace is called 'nobody-here'"),
    ("--publish=-1:1", "--publish: "),
    ("--uid-map=0:0:0", "--uid-map: "),
    ("--cwd=", "--cwd: "),
    ("--cwd=/" + 256 * "a", '--cwd: cwd "/aaaa'),
    ("--cwd=" + 2048 * "/a", '--cwd: cwd "/a/a'),
    ("--root=/proc", "--root: /proc lies in /proc, where "),
    ("--root=/proc/self/task", "--root: /proc/self/task lies in /proc, where "),
    ("--share=x", "--share: "),
]


@pytest.mark.parametrize(("option", "message"), OPTIONS, ids=[option[:40] for option, _ in OPTIONS])
def test_options(option: str, message: str) -> None:
    """Each by its name."""
    for command in ("run", "check"):
        refuses(message, "nstool", command, option, "--", "true")


@pytest.mark.needs("root")
def test_a_group_that_is_not_mapped() -> None:
    """It is a bad request as a user is, and not met by the command only."""
    for command in ("run", "check"):
        for option in ("--groups", "--user"):
            refuses(f"{option}: ", "nstool", command, option, "9999999", "--", "true")


# ---- commands ----

COMMANDS: Table = [
    (("nope",), 'no command "nope"; known: '),
    (("run", "good.toml", "good.toml"), "good.toml: a second spec file"),
    (("run", "--", ""), "command[0]: the name of the command is empty"),
    (("run", "--pass-fd=99999", "--", "true"), "--pass-fd: fd 99999 is not open"),
    (("run", "--detach", "--log=", "--", "true"), "--log: empty name"),
    (("run", "--detach", "--log=/nowhere/x", "--", "true"), "--log: /nowhere/x: No such file"),
    (("plan", "--jsno"), '--jsno: unknown option; did you mean "--json"?'),
    (("plan", "--sh", "--json", "./good.toml"), "--sh: is one form"),
    (("compile", "good.toml"), "-o FILE: is needed"),
    (("compile", "-o", "empty.toml", "good.toml"), "empty.toml: exists; --force overwrites it"),
    (("compile", "--force", "-o", "dir", "good.toml"), "dir: Is a directory"),
    (("compile", "-o", "/nowhere/x", "good.toml"), "/nowhere/x: No such file or directory"),
    (("compile", "-o", "x", "--shebang", "nsexec", "good.toml"), "--shebang: needs the absolute path of nsexec"),
    (
        ("compile", "-o", "x", "--shebang", "/a\nb", "good.toml"),
        "--shebang: needs the absolute path of nsexec, without",
    ),
    (("compile", "-o", "x", "--shebang", "/" + LONG, "good.toml"), "--shebang: needs the absolute path of nsexec"),
    (("init", "dir"), "dir: exists; --force overwrites it"),
    (("init", "--force", "dir"), "dir: Is a directory"),
    (("init", "/nowhere/x"), "/nowhere/x: No such file or directory"),
    (("init", ""), "FILE: No such file or directory"),
    (("exec",), "Missing argument 'NAME'; see nstool exec --help"),
    (("exec", "", "--", "true"), 'name: "" cannot be the name of a sandbox'),
    (("exec", "../x", "--", "true"), 'name: "../x" cannot be the name of a sandbox'),
    (("exec", "a\nb", "--", "true"), 'name: "a\\nb" cannot be the name of a sandbox'),
    (("exec", "\udcff", "--", "true"), 'name: "\\xff" cannot be the name of a sandbox'),
    (("exec", "nobody-here", "--", "true"), "there is no sandbox 'nobody-here'"),
    (("exec", "nobody-here", "--terminal=x", "--", "true"), "Invalid value for '--terminal'"),
    (("enter", "", "--", "true"), "TARGET: is empty"),
    (("enter", "²", "--", "true"), "²: neither a pid, nor a file"),
    (("enter", "٣", "--", "true"), "٣: neither a pid, nor a file"),
    (("enter", "0", "--", "true"), "there is no process 0"),
    (("enter", "99999999999999999999", "--", "true"), "there is no process"),
    (("enter", "9" * 5000, "--", "true"), "there is no process " + "9" * 5000),
    (("enter", "no-such-netns", "--", "true"), "no-such-netns: neither a pid, nor a file, nor a sandbox, nor a named"),
    (("enter", "good.toml", "--", "true"), "good.toml: is not a namespace file"),
    (("enter", "fifo", "--", "true"), "fifo: is not a namespace file"),
    (("enter", "./fifo", "--", "true"), "./fifo: is not a namespace file"),
    (("enter", "dir", "--", "true"), "dir: holds no pinned namespace"),
    (("enter", "/proc/self/ns/net", "--", ""), "COMMAND: the name of the command is empty"),
    (("enter", "--types", ",", "1", "--", "true"), "--types: names no namespace type"),
    (("enter", "--types", "neet", "1", "--", "true"), '--types: no namespace type "neet"; did you mean "net"?'),
    (("enter", "--types", "net", "/proc/self/ns/uts", "--", "true"), "/proc/self/ns/uts: is a uts namespace, not net"),
    (("pin", "²", "x"), 'name: "²" cannot be the name of a sandbox'),
    (("pin", "nobody-here", "x"), "there is no sandbox 'nobody-here'"),
    (("pin", "99999999", "x"), "there is no process 99999999"),
    (("pin", "--types", "", "1", "x"), "--types: names no namespace type"),
    (("pin", "--types", "utz", "1", "x"), '--types: no namespace type "utz"; did you mean "uts"?'),
    (("pin", "--types", "uts", "1", "good.toml"), "good.toml: exists already"),
    (("pin", "--types", "uts", "1", "dir"), "dir: exists already"),
    (("pin", "--types", "uts", "1", "/nowhere/x"), "/nowhere/x: its parent directory does not exist"),
    (("pin", "--types", "uts", "1", LONG), f"{LONG}: cannot be made: File name too long"),
    (("unpin", "good.toml"), "good.toml: is no directory"),
    (("unpin", "dir"), "dir: holds no pinned namespace: not touched"),
    (("unpin", "other"), "other: holds 'mine', which pin has not made: not touched"),
    (("unpin", "full"), "full: holds 'user', which pin has not made: not touched"),
    (("unpin", "/proc/self/ns"), "/proc/self/ns: holds "),
    (("signal", "nobody-here"), "there is no sandbox 'nobody-here'"),
    (("signal", "nobody-here", "²"), 'SIGNAL: no signal "²"; known: '),
    (("signal", "nobody-here", "0"), "SIGNAL: 0 is no signal, it asks whether a process lives"),
    (("signal", "nobody-here", "999"), 'SIGNAL: no signal "999"'),
    (("signal", "nobody-here", "-s", "9"), "No such option '-s'; see nstool signal --help"),
    (("show", "0"), "there is no process 0"),
    (("show", "1" * 5000), "there is no process 1111111111"),
    (("show", "²"), 'name: "²" cannot be the name'),
    (("show", "nobody-here"), "there is no sandbox 'nobody-here'"),
    (("show", ""), "a TARGET is empty; give a pid"),
    (("show", "nobody-here"), "there is no sandbox 'nobody-here', and it is no pid; sandboxes there are: "),
    (
        ("net", "nobody-here"),
        "there is no sandbox 'nobody-here', and it is no pid, no file here, and no name in /run/netns",
    ),
    *(
        (
            (*words.split(), "99999999"),
            "there is no process 99999999, or it has ended; ps -e lists those that there are",
        )
        for words in (
            "task",
            "net",
            "mounts",
            "creds",
            "cgroups",
            "ipc --in",
            "aslr",
            "diff 1",
            "can 1 signal",
            "caps show",
        )
    ),
    (("can", "1"), "Missing argument 'ACTION'. Choose from: signal, kill-group, ptrace, "),
    (("ipc", "limit", "shmmax"), "shmmax has no value; write shmmax=VALUE"),
    (("ls", "--where", ""), "--where: is empty; write a condition"),
    (("path", "1", ""), "PATH: is empty"),
    (("path", "1", "--from-host", ""), "--from-host: is empty"),
    *((("caps", word, "/nowhere"), "there is no file /nowhere; give the path") for word in ("get", "clear")),
    (("caps", "scan", "/nowhere"), "DIRECTORY: there is no directory /nowhere"),
    (("caps", "get", ""), "a FILE is empty"),
    (("ps", "x"), "Got unexpected extra argument (x); see nstool ps --help"),
    (("kill", "web"), 'no command "kill"; here it is nstool signal NAME KILL'),
    (("logs", "web"), 'no command "logs"; nothing keeps the output but nstool run --detach --log FILE'),
    (("exec", "-it", "web", "sh"), "No such option '-i'; leave it out: the command has a terminal"),
    (("exec", "-e", "A=1", "web", "sh"), "No such option '-e'; here it is --env NAME=VALUE"),
    (("exec", "-v", "/a:/b", "web", "sh"), "No such option '-v'; see nstool exec --help"),
]


@rows(COMMANDS)
def test_commands(words: Words, message: str) -> None:
    """The place first: the file, the option, the argument."""
    refuses(message, "nstool", *words)


def test_a_command_that_is_too_long_for_a_plan() -> None:
    for command in ("run", "check"):
        refuses("the plan has 1", "nstool", command, "--", "true", *15 * [100_000 * "a"])


def test_a_process_that_has_ended_is_not_shown() -> None:
    """One that nobody has waited for has a directory in /proc and no namespaces."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        refuses(f"process {process.pid} has ended", "nstool", "show", str(process.pid))


def test_a_message_is_fit_for_a_terminal() -> None:
    """Bytes that are no UTF-8 and escape sequences are escaped in every line of it, and once."""
    done = ran("nstool", "run", "--", "/x\udcff\x1b[31m")
    assert done.returncode == 127
    assert done.stderr.count("/x") == done.stderr.count("/x\\xff\\x1b[31m") == 4


EXEC: Table = [
    (("--", ""), "command[0]: the name of the command is empty"),
    (("--user", "", "--", "true"), "--user: "),
    (("--user", "nobody-here", "--", "true"), "--user: /proc/"),
    (("--user", "0:²", "--", "true"), "--user: /proc/"),
    (("--user", "1:2:3", "--", "true"), '--user: "1:2:3" is not of the form'),
    (("--user", "99999999999", "--", "true"), '--user: "99999999999" is no id: 0 to 4294967294'),
    (("--user", "70000", "--", "true"), "--user: uid 70000 is not in the sandbox's uid_map: 0 to 65535"),
    (("--user", "5:70000", "--", "true"), "--user: gid 70000 is not in the sandbox's gid_map: 0 to 65535"),
    (("--cwd", "", "--", "true"), '--cwd: "" is relative'),
    (("--env", "", "--", "true"), '--env: "" is not of the form NAME=VALUE'),
    (("--env", "A", "--", "true"), '--env: "A" is not of the form NAME=VALUE'),
]


def test_exec_looks_at_its_options_first(box: str) -> None:
    """Instead of a step that is refused inside."""
    for words, message in EXEC:
        refuses(message, "nstool", "exec", box, *words)


def test_a_type_that_is_pinned_twice_is_one(box: str) -> None:
    for words in (("pin", "--types", "net,net", box, "new"), ("enter", "new", "--", "true"), ("unpin", "new")):
        done = ran("nstool", *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    assert not Path("new").exists()


def test_enter_of_what_may_not_be_looked_at(as_user: Callable[..., Any]) -> None:
    """Status 125 with cause and remedy, not a bare EACCES."""
    done = as_user(ran, "nstool", "enter", str(os.getpid()), "--", "true")
    assert done.returncode == CANNOT
    assert ": it runs as uid 0, and you have no CAP_SYS_PTRACE over it, ptrace(2)\nremedy: " in done.stderr


@pytest.mark.parametrize("words", [("--net", "join:{}"), ("--namespaces", "ipc={}")])
def test_joining_what_may_not_be_looked_at(as_user: Callable[..., Any], words: tuple[str, str]) -> None:
    """By run and check it is told as by enter: the process is there, and not to be looked into (process_hidden)."""
    line = ("--memory", "0", "--pids", "0", "--cpu", "0", words[0], words[1].format(os.getpid()), "--", "true")
    for command in ("run", "check"):
        done = as_user(ran, "nstool", command, *line)
        assert done.returncode == CANNOT
        told = f"\ncause: you may not look into process {os.getpid()}: it runs as uid 0, and you have no CAP_SYS_PTRACE"
        assert told in done.stderr + done.stdout
        assert "\nremedy: run as root" in done.stderr + done.stdout


# ---- compiled plans ----

NO_PLANS: Table = [
    (("dir",), "cannot read the plan: EISDIR"),
    (("nowhere",), "cannot open the plan: ENOENT"),
    ((LONG,), "cannot open the plan: ENAMETOOLONG"),
    *(((name,), "not a compiled plan; make one with ") for name in ("good.toml", "empty.toml", "fifo", "/dev/zero")),
]


@rows(NO_PLANS)
def test_nsexec_of_what_is_no_plan(words: Words, message: str) -> None:
    """The file is named, and what makes a plan."""
    refuses(f"{words[0]}: {message}", "nsexec", *words)


def test_a_damaged_plan() -> None:
    """Cut off, or with a step that is none: nstool plan and nsexec name the file and the step."""
    assert ran("nstool", "compile", "-o", "plan", "good.toml").returncode == 0
    good = Path("plan").read_bytes()
    for data, step, message in (
        (good[: len(good) // 2], "step 0, reason 4", "its header does not describe its size"),
        (good[:200] + b"\xff" * 8 + good[208:], "step 3, reason 8", "an argument of step 3, "),
    ):
        Path("bad").write_bytes(data)
        refuses(f"bad: not a compiled plan of this version, or a damaged one ({step}); ", "nsexec", "bad")
        refuses(f"bad: a damaged plan: {message}", "nstool", "plan", "bad")


# ---- output ----


def tiny_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))


@pytest.mark.parametrize(
    "words",
    [("init", "new"), ("compile", "-o", "new", "--memory", "0", "--pids", "0", "good.toml")],
    ids=lambda w: w[0],
)
def test_half_a_file_is_not_left(words: Words) -> None:
    """What ran into a full disk names the file and removes it."""
    done = ran("nstool", *words, preexec_fn=tiny_files)
    assert (done.returncode, done.stderr) == (CANNOT, "nstool: new: File too large\n")
    assert not Path("new").exists()


PRINTING = ["schema", "ps", "ps --json", "plan good.toml", "cleanup --json", "init -", "--help", "run --help", "check"]


@pytest.mark.parametrize("line", PRINTING)
def test_output_to_a_full_disk_is_told_once(line: str) -> None:
    """Status 125 and one line, not the interpreter's own at its end."""
    with open("/dev/full", "wb") as full:
        done = ran("nstool", *line.split(), stdout=full)
    assert (done.returncode, done.stderr) == (CANNOT, "nstool: standard output: No space left on device\n")


@pytest.mark.parametrize(("line", "status"), [("run --nope", BAD), ("nope", BAD), ("run -- true", 0)])
def test_a_message_that_nobody_can_read_leaves_the_status(line: str, status: int) -> None:
    with open("/dev/full", "wb") as full:
        assert ran("nstool", *line.split(), stderr=full).returncode == status


@pytest.mark.parametrize(("line", "status"), [("check", 0), ("ps", 0), ("schema", 0), ("run --nope", BAD)])
def test_closed_streams_are_no_trouble(line: str, status: int) -> None:
    """Nor does a message go to the wrong one."""
    for closed, left in (("<&- >&-", 2), ("2>&-", 1)):
        shell = f"exec {BIN / 'nstool'} {line} {closed}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
        assert done.returncode == status
        other = done.stderr if left == 2 else done.stdout
        assert ("nstool: " in other) == (line == "run --nope" and left == 2), other
