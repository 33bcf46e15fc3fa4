"""The command line as a user meets it: exit statuses, streams, signals, terminals, the other commands."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.network.shared import Shared
from tests.support import processes
from tests.support.plans import free_port, own_lines

BIN = Path(sys.prefix) / "bin"
NSTOOL = str(BIN / "nstool")
DEADLINE = 120.0

pytestmark = pytest.mark.needs("root", "native", "nsexec", "timens", "cgroupns")


def nstool(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run nstool to its end."""
    return subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload, no-any-return]


def cgroups_of(name: str) -> list[Path]:
    """The sandbox's cgroups, of version 1 and 2."""
    top = Path("/sys/fs/cgroup")
    return [*top.glob(f"nstool-{name}-*"), *top.glob(f"*/nstool-{name}-*")]


@contextlib.contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A foreground nstool whose command has said "ready"."""
    process = subprocess.Popen(
        [NSTOOL, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        process.terminate()
        process.wait(DEADLINE)
        process.stdout.close()
        process.stderr.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--", "true"), 0),
        (("--", "sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "kill -TERM $$"), 128 + 15),
        (("--", "sh", "-c", "kill -KILL $$"), 128 + 9),
        (("--", "/nowhere/command"), 127),
        (("--", "/etc/hostname"), 126),
        (("--hostnam", "x", "--", "true"), 2),
        (("--name", "UPPER", "--", "true"), 2),
        (("--memory", "lots", "--", "true"), 2),
        (("/nowhere.toml",), 2),
        ((), 2),
    ],
)
def test_exit_status_is_the_commands_or_says_who_failed(words: tuple[str, ...], status: int) -> None:
    """128+n for signals, 127 not found, 126 not executable, 2 for a bad request with one message."""
    done = nstool("run", *words)
    assert done.returncode == status, done.stderr
    if status in (2, 126, 127):
        assert done.stderr.startswith("nstool: ")
        assert "Traceback" not in done.stderr
    if status == 2:
        assert done.stderr.count("\n") == 1


def test_streams_are_passed_through_untouched() -> None:
    """Bytes of every value, both ways, and the two outputs stay apart."""
    data = bytes(range(256)) * 1000
    done = subprocess.run(
        [NSTOOL, "run", "--", "sh", "-c", "cat; echo error >&2"], input=data, capture_output=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (data, b"error\n")


def test_output_ends_when_the_command_does() -> None:
    """Init keeps no copy of the command's output: a reader sees its end while the command still runs."""
    with running("run", "--", "sh", "-c", "echo ready; exec >&- 2>&-; read x") as process:
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN])
def test_signals_are_forwarded_and_told_in_the_status(number: int) -> None:
    """What the launcher gets, the command gets; the status says which signal ended it."""
    with running("run", "--", "sh", "-c", "echo ready; read x") as process:
        process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + number


def test_a_signal_that_is_handled_ends_nothing() -> None:
    """The command's own handler runs, in the sandbox."""
    script = "trap 'echo got; exit 5' USR2; echo ready; while :; do read x || :; done"
    with running("run", "--", "sh", "-c", script) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGUSR2)
        assert process.stdout.readline() == "got\n"
        assert process.wait(DEADLINE) == 5


def test_what_stays_of_a_foreground_launch_is_small(name: str) -> None:
    """Launcher and init together keep less than 1 MiB of private memory."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x") as process:
        processes.wait_exec(process.pid, "nsexec")
        record = json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]
        kept = 0
        for pid in (process.pid, record["init_pid"]):
            fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
            kept += sum(int(fields[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))
        assert kept < 1024, f"{kept} KiB"


def test_supervisor_undoes_what_the_launcher_made(name: str, run_dir: Path) -> None:
    """After the end no cgroup, lease or directory is left: the supervisor undoes without Python."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        groups = cgroups_of(name)
        assert groups
        assert (run_dir / "sandboxes" / name).is_dir()
    assert not any(group.exists() for group in groups)
    assert not run_dir.exists()


@pytest.mark.needs("veth", "nft")
def test_no_signal_ends_undoing_halfway(name: str, run_dir: Path) -> None:
    """A second Ctrl-C meets Python at its undoing of a network: that is finished, and the status is the command's."""
    with running("run", "--name", name, "--net", "veth", "--", "sh", "-c", "echo ready; exec sleep 60") as process:
        with Shared():  # it waits for that
            process.send_signal(signal.SIGINT)
            end = time.monotonic() + DEADLINE
            while b"nstool.cli.finish" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                assert time.monotonic() < end, "Python has not begun to undo"
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                process.send_signal(number)
        assert process.wait(DEADLINE) == 128 + signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not (run_dir / "sandboxes" / name).exists()


class Terminal:
    """A terminal of the test's, and nstool in it."""

    def __init__(self, *words: str, program: str = NSTOOL) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execv(program, [program, *words])
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text: str) -> None:
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            assert select.select([self.master], [], [], end - time.monotonic())[0], self.seen
            self.seen += os.read(self.master, 4096).decode()

    def write(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait(self) -> int:
        while True:
            try:
                data = os.read(self.master, 4096)
            except OSError:
                break
            self.seen += data.decode()
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_terminal_is_the_sandboxs_own() -> None:
    """The command has a terminal of its own devpts; input, size and ^C reach it; the status comes back."""
    terminal = Terminal("run", "--", "sh", "-c", "tty; echo go; read x; stty size; echo $x; exec cat")
    terminal.read_until("go\r\n")
    assert "/dev/pts/0" in terminal.seen
    terminal.resize(33, 99)
    terminal.write("hello\n")
    terminal.read_until("33 99")
    terminal.read_until("99\r\nhello")
    terminal.write("\x03")
    assert terminal.wait() == 128 + 2


@pytest.mark.parametrize("command", ["run --", "exec {name} --"])
def test_a_terminal_that_is_only_the_output_gets_each_line_end_once(name: str, command: str) -> None:
    """The sandbox's terminal makes carriage returns, the caller's makes no second ones, and is as before at the end."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        script = f"stty -a <&1; echo data | {NSTOOL} {command.format(name=name)} cat; stty -a <&1"
        terminal = Terminal("-c", script, program="/bin/sh")
        assert terminal.wait() == 0
    before, after = terminal.seen.split("data\r\n")
    assert before == after


def test_terminal_settings_come_back() -> None:
    """The caller's terminal is raw while the command runs and as before when it has ended."""
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        script = "echo ready; read x"
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
                "os.execv(sys.argv[1], sys.argv[1:])",
                *(NSTOOL, "run", "--", "sh", "-c", script),
            ],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        seen = b""
        while b"ready" not in seen:
            seen += os.read(master, 4096)
        assert termios.tcgetattr(slave)[3] & termios.ICANON == 0
        os.write(master, b"x\n")
        assert process.wait(DEADLINE) == 0
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_exec_joins_a_running_sandbox(name: str) -> None:
    """Same namespaces, same ids, no capability, same filter, its own status; the sandbox goes on."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x") as process:
        init = json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["init_pid"]
        script = (
            "readlink /proc/self/ns/* | sort -u; id -u; "
            "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; exit 9"
        )
        done = nstool("exec", name, "--", "sh", "-c", script)
        assert done.returncode == 9, done.stderr
        lines = done.stdout.split("\n")
        kinds = sorted({os.readlink(f"/proc/{init}/ns/{kind}") for kind in os.listdir(f"/proc/{init}/ns")})
        assert lines[: len(kinds)] == kinds
        assert lines[len(kinds)] == "1000"
        assert {line.split()[1] for line in lines[len(kinds) + 1 :] if line} == {"0" * 16, "1", "2"}
        assert process.poll() is None


def test_exec_adds_variables_to_the_specs(name: str) -> None:
    """--env sets one; the others are as the spec says."""
    with running("run", "--name", name, "--env", "A=1", "--env", "B=2", "--", "sh", "-c", "echo ready; read x"):
        done = nstool("exec", name, "--env", "B=3", "--env", "C=4", "--", "sh", "-c", "echo $A $B $C")
        assert done.stdout == "1 3 4\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [("web", "33 34"), ("web:adm", "33 4"), ("web:7", "33 7"), ("5:adm", "5 4"), ("6", "6 6")],
)
def test_exec_takes_names_of_the_sandbox(name: str, tmp_path: Path, user: str, ids: str) -> None:
    """Users and groups are those of the sandbox's own root, not of the host."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("web:x:33:34::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("adm:x:4:\n")
    shutil.copy("/bin/busybox", tmp_path)
    words = ("--root", str(tmp_path), "--name", name, "--", "/busybox", "sh", "-c", "echo ready; read x")
    with running("run", *words):
        tell = "echo $(/busybox id -u) $(/busybox id -g)"
        said = nstool("exec", name, "--user", user, "--", "/busybox", "sh", "-c", tell)
        assert said.stdout.split() == ids.split(), said.stderr
        refused = nstool("exec", name, "--user", "root", "--", "/busybox", "id")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert re.fullmatch(r"nstool: --user: /proc/\d+/root/etc/passwd has no 'root'\n", refused.stderr)


@pytest.mark.needs("veth", "nft", "cgroup_pids")
def test_ps_and_show_tell_what_a_sandbox_has_and_uses(name: str) -> None:
    """The command's pid and the launcher's, addresses, the published ports as --publish takes them, tasks in use."""
    ports = [f"{free_port()}:80", f"127.0.0.1:{free_port()}:53/udp", f"[::1]:{free_port()}:81"]
    words = ("run", "--name", name, "--net", "veth", *(f"--publish={port}" for port in ports), "--pids", "77")
    with running(*words, "--", "sh", "-c", "echo ready; exec cat") as process:
        (listed,) = json.loads(nstool("ps", "--json").stdout)["sandboxes"]
        assert listed["launcher_pid"] == process.pid
        assert Path(f"/proc/{listed['pid']}/comm").read_text() == "cat\n"
        inside = nstool("enter", name, "--types", "net", "--", "ip", "-json", "address", "show", "eth0")
        addresses = [address["local"] for address in json.loads(inside.stdout)[0]["addr_info"]]
        assert sorted(listed["addresses"]) == sorted(addresses)
        assert listed["published"] == ports
        head, row, *_ = nstool("ps").stdout.splitlines()
        assert head.split() == ["name", "state", "pid", "launcher", "age", "address", "published", "command"]
        words = row.split()
        assert words[:4] == [name, "running", str(listed["pid"]), str(process.pid)]
        assert words[6:] == [*listed["addresses"], *ports, "sh", "-c", "echo", "ready;", "exec", "cat"]
        shown = nstool("show", name).stdout
        assert [line.split()[-1] for line in shown.splitlines()[-3:]] == ports
        assert re.search(r"^ +pids\.max +77, 2 used\b", shown, re.MULTILINE)
        assert json.loads(nstool("show", name, "--json").stdout)["published"] == ports


READERLESS = (
    *(("plan", "--", "true"), ("plan", "--json", "--", "true"), ("ps",), ("ps", "--json"), ("check",), ("cleanup",)),
    *(
        ("check", "--", "true"),
        ("show", "1"),
        ("schema",),
        ("init", "-"),
        ("--help",),
        ("run", "--help"),
        ("--version",),
    ),
)


@pytest.mark.parametrize("words", READERLESS, ids=" ".join)
def test_reader_that_goes_away_is_no_error(words: tuple[str, ...]) -> None:
    """128 + SIGPIPE and not a word, as of any program."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([NSTOOL, *words], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
    "words",
    [
        *(("show", "1"), ("mounts", "self"), ("mounts", "self", "--tree"), ("task", "self", "--fds"), ("net", "self")),
        *(("cgroups", "1"), ("cgroups",), ("creds", "1"), ("diff", "1", "self", "--all"), ("caps", "show", "1")),
        *(("can", "self", "signal", "1", "--long"), ("ls",), ("ipc",), ("ps",), ("pid", "self"), ("path", "self", "/")),
    ],
    ids=" ".join,
)
def test_no_line_of_a_pipe_ends_in_blanks(words: tuple[str, ...]) -> None:
    """What is compared or copied has no blanks that nobody sees."""
    done = nstool(*(str(os.getpid()) if word == "self" else word for word in words))
    assert done.stdout, done.stderr
    assert [line for line in done.stdout.splitlines() if line != line.rstrip()] == []


# The start script, or the entry point of an installed package: its interpreter gets SIGINT when it imports a module.
INTERRUPTED = """
import os, sys
module = sys.argv.pop(1)
sys.addaudithook(lambda event, words: event == "import" and words[0] == module and os.kill(os.getpid(), 2))
"""
STARTS = (
    f"{INTERRUPTED}exec(open({NSTOOL!r}).read())",
    f"{INTERRUPTED}sys.path += {sys.path!r}\nfrom nstool.cli.start import main\nmain()",
)


@pytest.mark.parametrize("start", STARTS, ids=["script", "package"])
@pytest.mark.parametrize(
    ("module", "words", "status"),
    [
        ("nstool.errors", ("cleanup",), -signal.SIGINT),
        ("click", ("cleanup",), -signal.SIGINT),
        ("nstool.cli.follow", ("exec", "nobody", "--", "true"), -signal.SIGINT),
        ("nstool.sandbox.strays", ("cleanup",), 128 + signal.SIGINT),
        ("nstool.cli.run", ("run", "--", "true"), -signal.SIGINT),
        ("nstool.sandbox.leases", ("run", "--", "true"), -signal.SIGINT),
    ],
)
def test_interrupt_key_at_the_start_ends_without_a_word(
    start: str, module: str, words: tuple[str, ...], status: int
) -> None:
    """By the signal itself while modules are imported, then by KeyboardInterrupt; never with a traceback."""
    command = [sys.executable, "-IS", "-c", start, module, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (status, "", "")


@pytest.mark.parametrize("start", STARTS, ids=["script", "package"])
def test_ignored_interrupt_key_stays_ignored(start: str) -> None:
    """As a shell without job control has it for what runs in the background."""
    command = [sys.executable, "-IS", "-c", start, "click", "cleanup"]
    done = subprocess.run(
        command, capture_output=True, timeout=60, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_table_shows_what_comes_from_inside_as_it_stands(name: str) -> None:
    """Markup, escape sequences, line ends and bytes that are no UTF-8: of the command, and of its name."""
    hostile = ("[/x]", "[red]", "a\n\x1b[31mb\udcff")
    script = "exec 3>/proc/self/comm; printf '[/x]\\033[1m' >&3; exec 3>&-; echo ready; read x"
    with running("run", "--name", name, "--", "sh", "-c", script, *hostile):
        listed = nstool("ps")
        line = next(line for line in listed.stdout.splitlines() if line.split()[0] == name)
        assert line.rstrip().endswith("[/x] [red] a\\n\\x1b[31mb\\xff")
        assert json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["spec"]["command"][-3:] == list(hostile)
        shown = nstool("show", name)
        assert shown.returncode == 0, shown.stderr
        assert "inside: [/x]\\x1b[1m " in shown.stdout


def test_exec_gives_a_terminal_where_the_caller_has_none(name: str) -> None:
    """As run does: the command has a terminal, its output comes out."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        done = nstool("exec", name, "--terminal", "always", "--", "tty", stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("/dev/pts/")


def test_enter_has_a_terminal_of_the_sandbox(name: str) -> None:
    """A shell has job control there, and its exit status is told; other namespaces leave the streams as they are."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        terminal = Terminal("enter", name, "--", "bash", "-ic", "tty; ps -o tpgid= -p $$; exit 7")
        assert terminal.wait() == 7, terminal.seen
        assert re.match(r"/dev/pts/\d+\r\n +[1-9]", terminal.seen), terminal.seen
        ours = Terminal("enter", name, "--types", "net", "--", "tty")
        assert ours.wait() == 0


def test_signal_reaches_the_command_by_name(name: str) -> None:
    """`nstool signal NAME TERM` ends it, and its launcher tells so."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x") as process:
        assert nstool("signal", name, "term").returncode == 0
        assert process.wait(DEADLINE) == 128 + 15
    assert nstool("signal", name).returncode == 2
    assert "did you mean" in nstool("signal", name, "TREM").stderr


@pytest.mark.parametrize("flags", [(), ("--no-init",), ("--share", "pid", "--proc", "bind")])
def test_signal_that_nothing_catches_reaches_the_command_alone(name: str, flags: tuple[str, ...]) -> None:
    """STOP stops the command, not init; CONT lets it go on; KILL is the command's end, not init's."""
    with running("run", "--name", name, *flags, "--", "sh", "-c", "echo ready; exec cat") as process:
        init = json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["init_pid"]
        children = Path(f"/proc/{init}/task/{init}/children").read_text().split()
        command = int(children[0]) if children else init
        try:
            assert nstool("signal", name, "STOP").returncode == 0
            await_state(command, "T")
            assert (state(init) == "T") is (command == init)
            assert json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["state"] == "stopped"
            assert nstool("signal", name, "CONT").returncode == 0
            await_state(command, "S")
            assert json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["state"] == "running"
        finally:
            os.kill(init, signal.SIGCONT)  # an init that is stopped can be ended by nobody but KILL
        assert nstool("signal", name, "KILL").returncode == 0
        assert process.wait(DEADLINE) == 128 + 9
        assert process.stderr is not None
        assert process.stderr.read() == ""


def state(pid: int) -> str:
    """The state of a process, as proc_pid_stat(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def await_state(pid: int, wanted: str) -> None:
    """Wait until a process is in this state: a signal takes its time."""
    end = time.monotonic() + DEADLINE
    while state(pid) != wanted:
        assert time.monotonic() < end, f"{pid} is {state(pid)}, not {wanted}"


def test_plan_prints_what_run_makes(tmp_path: Path) -> None:
    """A table, JSON with every step, nothing done."""
    done = nstool("plan", "--json", "--", "id")
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["steps"]
    assert steps[-1]["who"] == "undo"
    assert {"launcher", "child", "init", "payload"} <= {step["who"] for step in steps}
    assert all(step["why"] and step["man"] for step in steps)
    assert "execve" in nstool("plan", "--", "id").stdout


def test_compiled_plan_runs_without_python(tmp_path: Path) -> None:
    """nsexec runs what compile wrote, adds arguments, gives the status; compile does not overwrite."""
    plan = str(tmp_path / "id.plan")
    done = nstool("compile", "-o", plan, "--", "sh", "-c", 'echo "$0 $*"; exit 6', "zero")
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([str(BIN / "nsexec"), plan, "one", "two"], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (6, "zero one two\n"), ran.stderr
    assert nstool("compile", "-o", plan, "--", "true").returncode == 2
    refused = nstool("compile", "-o", plan, "--force", "--net", "veth", "--", "true")
    assert refused.returncode == 2
    assert "veth" in refused.stderr


@pytest.mark.orphans
def test_detached_sandbox_outlives_the_command_line(name: str, tmp_path: Path) -> None:
    """--detach prints the name and returns; output goes to the log; the name is taken until it has ended."""
    log = tmp_path / "log"
    done = nstool(
        "run", "--detach", "--name", name, "--log", str(log), "--", "sh", "-c", "echo out; echo err >&2; exec sleep 60"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")
    try:
        record = json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]
        assert record["name"] == name
        assert nstool("run", "--name", name, "--", "true").returncode == 2
        supervisor = os.pidfd_open(record["launcher_pid"])
    finally:
        assert nstool("signal", name, "TERM").returncode == 0
    assert select.select([supervisor], [], [], DEADLINE)[0], "the supervisor still runs"
    os.close(supervisor)
    assert json.loads(nstool("ps", "--json").stdout)["sandboxes"] == []
    assert log.read_text() == f"out\nerr\nnstool: {name} was ended by signal 15\n"


@pytest.mark.orphans
def test_a_log_is_not_waited_for(tmp_path: Path) -> None:
    """A pipe that nobody reads is refused; one that is read takes the output, and blocks for the command."""
    os.mkfifo(tmp_path / "log")
    words = ("run", "--detach", "--log", str(tmp_path / "log"), "--", "sh", "-c", "grep flags /proc/self/fdinfo/1")
    done = nstool(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"nstool: --log: {tmp_path}/log is a pipe that nobody reads")
    fd = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with open(fd, "rb") as reader:
        assert nstool(*words).returncode == 0
        os.set_blocking(fd, True)
        assert not int(reader.read().split()[1], 8) & os.O_NONBLOCK


@pytest.mark.orphans
def test_a_sandbox_that_has_nothing_to_itself_is_listed_all_the_same(as_user: Callable[..., Any]) -> None:
    """One of an ordinary user without limits leases nothing; it has a name, by which it is found and ended."""

    def act() -> tuple[str, list[str], int, int]:
        detached = nstool("run", "--detach", "--memory", "0", "--pids", "0", "--cpu", "0", "--", "sleep", "60")
        name = detached.stdout.strip()
        listed = [box["name"] for box in json.loads(nstool("ps", "--json").stdout)["sandboxes"]]
        pidfd = os.pidfd_open(json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["init_pid"])
        status = nstool("signal", name, "TERM").returncode
        select.select([pidfd], [], [], DEADLINE)
        os.close(pidfd)
        return name, listed, nstool("exec", name, "--", "true").returncode, status

    name, listed, after, status = as_user(act)
    assert name
    assert listed == [name]
    assert (status, after) == (0, 2)


def test_detached_launch_that_fails_says_so() -> None:
    """Status and message are those of the foreground."""
    done = nstool("run", "--detach", "--", "/nowhere/command")
    assert done.returncode == 127
    assert done.stderr.startswith("nstool: ")
    assert nstool("run", "--log", "x", "--", "true").returncode == 2


def test_text_that_looks_like_a_placeholder_is_passed_on() -> None:
    """A plan is made from a template; what the spec says is never taken for a value to fill in."""
    done = nstool("run", "--env", "X=1999999901 nstool-token-name", "--", "sh", "-c", "echo $X")
    assert done.stdout == "1999999901 nstool-token-name\n"


def test_status_is_known_where_children_are_reaped_unasked() -> None:
    """Started with SIGCHLD ignored, the launcher still learns how the command ended."""
    script = f"trap '' CHLD; {NSTOOL} run --no-init -- sh -c 'exit 4'; echo $?"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60).stdout == "4\n"


def test_a_command_that_does_not_read_keeps_no_signal_back() -> None:
    """With the terminal full of input that nobody reads, the supervisor still forwards what ends the command."""
    terminal = Terminal("run", "--terminal", "always", "--", "sh", "-c", "stty raw -echo; echo READY; exec sleep 60")
    terminal.read_until("READY")
    os.set_blocking(terminal.master, False)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            os.write(terminal.master, b"x" * 4096)
        except BlockingIOError:
            select.select([], [terminal.master], [], 0.1)
    os.set_blocking(terminal.master, True)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.wait() == 128 + 15


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/passwd", path)], ids=["fifo", "symlink"])
def test_a_hostile_passwd_of_a_root_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Names are looked up in a plain file of the root only, and nobody waits for a writer."""
    (tmp_path / "etc").mkdir()
    make(tmp_path / "etc/passwd")
    done = nstool("run", "--root", str(tmp_path), "--user", "web", "--", "/bin/true")
    assert done.returncode == 2
    assert "etc/passwd" in done.stderr


@pytest.mark.parametrize("form", ["directory", "tarball", "overlay"])
def test_names_are_looked_up_in_the_root(form: str, tmp_path: Path) -> None:
    """With their numbers there, whatever the host has; of an overlay in the layer that is seen."""
    for layer, uid in (("low", 1), ("tree", 33)):
        (tmp_path / layer / "etc").mkdir(parents=True)
        (tmp_path / layer / "etc/passwd").write_text(f"www-data:x:{uid}:34::/:\nroot:x:5:6::/:\n")
        (tmp_path / layer / "etc/group").write_text("web:x:35:\n")
    (tmp_path / "tree/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "tree/busybox").chmod(0o755)
    root = {"directory": "tree", "tarball": "root.tar"}.get(form, f"tree:{tmp_path}/low")
    subprocess.run(["tar", "-cf", tmp_path / "root.tar", "-C", tmp_path / "tree", "."], check=True)
    words = ("run", "--root", f"{tmp_path}/{root}", "--user", "www-data", "--groups", "web", "--", "/busybox", "id")
    done = nstool(*words)
    assert done.stdout == "uid=33(www-data) gid=34 groups=35(web)\n", done
    done = nstool(*words[:4], "nobody", *words[5:])
    assert (done.returncode, done.stdout) == (2, "")
    assert "etc/passwd" in done.stderr
    assert "has no 'nobody'" in done.stderr


LINE = "web:x:\u0663:4::/:".encode()  # an Arabic three
PASSWD = {
    "a symlink": ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "no plain file"),
    "a hard link": ({"type": tarfile.LNKTYPE, "linkname": "etc/group"}, "no plain file"),
    "a fifo": ({"type": tarfile.FIFOTYPE}, "no plain file"),
    "too large": ({"size": 17 << 20}, "no plain file"),
    "digits of another script": ({"size": len(LINE)}, "has no id where one belongs"),
}


@pytest.mark.parametrize("what", PASSWD)
def test_a_hostile_passwd_of_a_tarball_is_refused(what: str, tmp_path: Path) -> None:
    """The same as in a directory; of several members of that name the last counts."""
    fields, says = PASSWD[what]
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        for more in ({"size": 13}, fields):
            info = tarfile.TarInfo("./etc/passwd")
            for field, value in more.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO((b"web:x:1:2::/:" if info.size == 13 else LINE).ljust(info.size)))
    done = nstool("run", "--root", f"{tmp_path}/root.tar", "--user", "web", "--", "/bin/true")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_large_environment_of_the_caller_does_not_matter() -> None:
    """Nothing of it comes in, and nothing of it is handed to the supervisor."""
    environment = {**os.environ, **{f"E{n}": "y" * 100_000 for n in range(12)}}
    assert nstool("run", "--", "echo", "here", env=environment).stdout == "here\n"


@pytest.mark.needs("root")
def test_a_sandbox_of_another_pid_namespace_is_not_acted_on(name: str) -> None:
    """Its pids are others' here: nobody joins or signals these, and cleanup leaves it alone."""
    elsewhere = ["unshare", "--pid", "--fork", "--mount-proc", NSTOOL]
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        for words in (["exec", name, "--", "true"], ["signal", name, "TERM"], ["show", name], ["enter", name, "true"]):
            done = subprocess.run([*elsewhere, *words], capture_output=True, text=True, check=False)
            assert done.returncode == 125, (words, done)
            assert "cause: it was made in another pid or time namespace" in done.stderr
        listed = subprocess.run([*elsewhere, "ps", "--json"], capture_output=True, check=True)
        assert [(box["name"], box["state"]) for box in json.loads(listed.stdout)["sandboxes"]] == [(name, "elsewhere")]
        cleaned = subprocess.run([*elsewhere, "cleanup"], capture_output=True, text=True, check=True)
        assert own_lines(name, cleaned.stdout) == "nothing to clean up"


def test_run_directory_removed_by_hand_leaves_no_cgroup(name: str, run_dir: Path) -> None:
    """The supervisor removes the cgroups that it knows of, whatever became of the journal."""
    with running("run", "--name", name, "--", "sh", "-c", "echo ready; read x"):
        groups = cgroups_of(name)
        init = json.loads(nstool("ps", "--json").stdout)["sandboxes"][0]["init_pid"]
        assert f" {init}" not in nstool("ps").stderr
        shutil.rmtree(run_dir / "sandboxes" / name)
        for command in ("ps", "cleanup"):  # they know it no more, and say that it runs
            assert f" {init}" in nstool(command).stderr
    assert groups
    assert not any(group.exists() for group in groups)
    nstool("cleanup")  # gives back the ids, which no journal speaks of any more
