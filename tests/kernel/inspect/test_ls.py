"""``nstool ls``: what is asked for is shown, for people and for scripts, and what is wrong is said."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.cli.ls import FIELDS
from nstool.kinds import KINDS
from nstool.sandbox.launch import launch
from nstool.spec.model import Limits, Spec
from tests.support import kernel
from tests.support.waiting import thread, waiting

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
HOSTILE = "a\tb\nc\x1b[31m\u202e[bold]\udcff"

pytestmark = pytest.mark.needs("root", "native")


def ls(*words: str, status: int = 0) -> str:
    """Return what nstool ls prints, without notes; on failure, its message."""
    done = subprocess.run([NSTOOL, "ls", *words], capture_output=True, text=True, timeout=30)
    assert done.returncode == status, done.stderr
    if status:
        assert done.stdout == ""
        return done.stderr
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    return done.stdout


def box() -> dict[str, int]:
    """Become a box: user and network namespaces of its own, in them a second network that an fd alone keeps."""
    kernel.unshare(uapi.CLONE_NEWUSER | uapi.CLONE_NEWNET | uapi.CLONE_NEWUTS)
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    kernel.unshare(uapi.CLONE_NEWNET)
    inodes = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("user", "net", "uts", "mnt")}
    return inodes | {"held": os.fstat(fd).st_ino, "fd": fd}


def test_a_namespace_without_a_process_has_its_line(in_child: Callable[..., Any]) -> None:
    def act() -> None:
        with waiting(box) as (pid, found):
            head, line = ls("net", "--where", f"inode == {found['held']}").splitlines()
            assert head.split() == ["type", "inode", "members", "pid", "user", "owner", "kept", "command"]
            kept = f"fd {found['fd']} of {pid}"
            assert line.split() == ["net", str(found["held"]), "0", "-", "-", str(found["user"]), *kept.split(), "-"]
            assert head.index("owner") + 5 == line.index(str(found["user"])) + 10  # numbers end below their heading
            assert head.index("kept") == line.index(kept)

    in_child(act)


def test_scripts_get_whole_fields_with_tabs_between(in_child: Callable[..., Any]) -> None:
    def act() -> None:
        with waiting(box) as (pid, found):
            lines = ls("--raw", "--columns", "type,inode,pid,parent", "--where", f"{pid} in pids").splitlines()
            rows = [line.split("\t") for line in lines]
            assert ["net", str(found["net"]), str(pid), ""] in rows
            assert [row[0] for row in rows] == ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time"]
            assert all(len(row) == 4 for row in rows)

    in_child(act)


@contextmanager
def called(*words: str) -> Iterator[int]:
    """Pid of a process in a uts namespace of its own whose command line is this."""
    pid = os.fork()
    if pid == 0:
        kernel.unshare(uapi.CLONE_NEWUTS)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        os.execv("/usr/bin/sleep", [*words, "1000"])
    try:
        while os.readlink(f"/proc/{pid}/exe") != os.path.realpath("/usr/bin/sleep"):
            continue
        yield pid
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_hostile_command_line_stays_in_its_field(in_child: Callable[..., Any]) -> None:
    """It may hold tabs, newlines, escapes, what is no UTF-8: a field stays a field, a line a line, JSON says all."""

    def act() -> None:
        with called(HOSTILE) as pid:
            text = ls("uts", "--raw", "--columns", "inode,command,pid", "--where", f"pid == {pid}")
            inode, command, last = text.removesuffix("\n").split("\t")
            assert (inode, last) == (str(os.stat(f"/proc/{pid}/ns/uts").st_ino), str(pid))
            assert command == "a\\tb\\nc\\x1b[31m\\u202e[bold]\\xff 1000"
            (row,) = json.loads(ls("uts", "--json", "--where", f"pid == {pid}"))["namespaces"]
            assert row["command"] == [HOSTILE, "1000"]

    in_child(act)


def test_json_has_every_field(in_child: Callable[..., Any]) -> None:
    def act() -> None:
        with waiting(box) as (pid, found):
            told = json.loads(ls("net", "--json", "--where", f"owner == {found['user']}"))
            assert set(told) == {"version", "namespaces", "hidden", "notes"}
            rows = {row["inode"]: row for row in told["namespaces"]}
            assert set(rows) == {found["net"], found["held"]}
            held, own = rows[found["held"]], rows[found["net"]]
            assert held["pins"] == [{"how": "fd", "pid": pid, "fd": found["fd"]}]
            assert (own["pids"], own["members"], own["oldest"], own["user"]) == ([pid], 1, pid, "root")
            assert (held["members"], held["owner_uid"], held["owner_user"], held["user"]) == (0, 0, "root", "")

    in_child(act)


def test_sorted_by_several_columns(in_child: Callable[..., Any]) -> None:
    """What there is not comes last, in both directions; equal ones by the next column."""

    def act() -> None:
        with waiting(box), waiting(box):
            for sign in ("", "-"):
                text = ls("net", "uts", "--raw", "--columns", "pid,inode", "--sort", f"{sign}pid,-inode")
                rows = [tuple(line.split("\t")) for line in text.splitlines()]
                pids = [int(pid) for pid, _ in rows if pid]
                assert [pid for pid, _ in rows][len(pids) :] == [""] * (len(rows) - len(pids))
                assert len(pids) < len(rows)
                assert pids == sorted(pids, reverse=bool(sign))
                for pid in {pid for pid, _ in rows}:
                    inodes = [int(inode) for other, inode in rows if other == pid]
                    assert inodes == sorted(inodes, reverse=True)

    in_child(act)


def test_a_tree_of_owners_has_everything_below_its_user_namespace(in_child: Callable[..., Any]) -> None:
    """As NS_GET_USERNS says it; what is above a wanted one is shown with it."""

    def act() -> None:
        with waiting(box) as (_, found):
            outer = os.stat("/proc/self/ns/user").st_ino
            text = ls("--tree", "--columns", "members", "--where", f"inode in ({found['held']}, {found['uts']})")
            assert [line.split() for line in text.splitlines()] == [
                ["namespace", "members"],
                [f"user:[{outer}]", text.splitlines()[1].split()[1]],
                ["└─", f"user:[{found['user']}]", "1"],
                ["├─", f"net:[{found['held']}]", "0"],
                ["└─", f"uts:[{found['uts']}]", "1"],
            ]

    in_child(act)


def test_a_tree_of_parents_is_of_user_and_pid_namespaces(in_child: Callable[..., Any]) -> None:
    def prepare() -> int:
        kernel.unshare(uapi.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return os.stat("/proc/self/ns/pid_for_children").st_ino

    def act() -> None:
        with waiting(prepare) as (_, inner):
            lines = ls("--tree", "parent", "--columns", "members,kept").splitlines()
            kinds = {line.lstrip("│├└─ ").partition(":")[0] for line in lines[1:]}
            assert kinds == {"user", "pid"}
            number = next(number for number, line in enumerate(lines) if f"pid:[{inner}]" in line)
            assert lines[number].startswith(("├─ ", "└─ "))
            assert lines[number].split()[2:] == ["0", "for", "children", "of", *lines[number].split()[-1:]]
            above = next(line for line in reversed(lines[:number]) if line.startswith("pid:["))
            assert above.startswith(os.readlink("/proc/self/ns/pid"))

    in_child(act)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("foo",), "no namespace type 'foo'; known: cgroup"),
        (("nett",), "no namespace type 'nett'; did you mean \"net\"?"),
        (("--columns", "type,membrs"), "--columns: no column 'membrs'; did you mean \"members\"?"),
        (("--columns", ""), "--columns: no column ''"),
        (("--sort", "+pid"), "--sort: no column '+pid'"),
        (("--where", "members = 0"), '--where: "members = 0": = compares nothing; write =='),
        (("--where", "membrs"), '--where: "membrs" is no field; did you mean "members"?'),
        (("--tree", "net"), "--tree: takes owner or parent, not 'net'; types go before it"),
        (("net", "--tree", "parent"), "--tree: a net namespace has no parent"),
        (("--raw", "--tree"), "--tree: cannot be together with --raw"),
        (("--json", "--columns", "pid"), "--columns: has no effect with --json"),
        (("--json", "--raw"), "--raw: has no effect with --json"),
    ],
)
def test_a_bad_request_is_one_message(words: tuple[str, ...], message: str) -> None:
    text = ls(*words, status=2)
    assert message in text
    assert text.count("\n") == 1


@pytest.mark.needs("nsexec")
@pytest.mark.parametrize("limits", [Limits(memory=0, pids=0, cpu=0), Limits()])
def test_the_namespaces_of_a_sandbox_have_its_name(limits: Limits) -> None:
    """With a cgroup of its own and without, as all its first processes are called alike."""
    name = f"group-{os.getpid()}"
    with launch(Spec(command=("sleep", "60"), name=name, limits=limits)) as sandbox:
        found = ls("--raw", "--columns", "type,inode", "--where", f"group == '{name}'").splitlines()
        wanted, own = ({os.readlink(f"/proc/{pid}/ns/{kind}") for kind in KINDS} for pid in (str(sandbox.pid), "self"))
        assert {f"{kind}:[{inode}]" for kind, inode in (line.split() for line in found)} == wanted - own
        head, line = ls("net", "--where", f"{sandbox.pid} in pids").splitlines()
        assert head.split()[-2:] == ["group", "command"]
        assert line[head.index("group") :].split()[0] == name
        rows = json.loads(ls("net", "--json", "--where", f"{sandbox.pid} in pids"))["namespaces"]
        assert [row["group"] for row in rows] == [name]


def test_a_thread_and_who_is_not_the_oldest_are_found(in_child: Callable[..., Any]) -> None:
    """A thread by its tid, where it is and not where its process is; a process by its command."""

    def act() -> Any:
        kernel.unshare(uapi.CLONE_NEWUTS)
        own = os.stat("/proc/self/ns/uts").st_ino
        with subprocess.Popen(["sleep", "612"]) as later, thread(lambda: kernel.unshare(uapi.CLONE_NEWUTS)) as tid:
            left = os.stat(f"/proc/self/task/{tid}/ns/uts").st_ino

            def asked(condition: str) -> list[str]:
                return ls("uts", "--raw", "--columns", "inode", "--where", condition).split()

            found = [asked(f"{number} in tids") for number in (tid, os.getpid())], asked("'sleep 612' in commands")
            net = ls("net", "--raw", "--columns", "inode", "--where", f"{tid} in tids").split()
            later.kill()
        return own, left, found, net

    own, left, found, net = in_child(act)
    assert found == ([[str(left)], [str(own)]], [str(own)])
    assert net == [str(os.stat("/proc/self/ns/net").st_ino)]


def test_what_keeps_it_is_in_plain_words(in_child: Callable[..., Any]) -> None:
    """Sockets in a network namespace in which no process is."""

    def hold() -> dict[str, int]:
        kernel.unshare(uapi.CLONE_NEWNET)
        inode = os.stat("/proc/self/ns/net").st_ino
        socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach() for _ in range(3)]
        kernel.unshare(uapi.CLONE_NEWNET)
        return {"inode": inode, "first": min(socks)}

    def act() -> None:
        with waiting(hold) as (pid, found):
            kept = ls("--raw", "--columns", "kept", "--where", f"inode == {found['inode']}").strip()
            assert kept == f"fd {found['first']} (a socket) of {pid}, and 2 more"

    in_child(act)


def test_help_tells_every_column() -> None:
    text = ls("--help")
    assert [name for name in FIELDS if f"\n    {name} " not in text] == []


def test_every_column_can_be_shown_and_asked_for() -> None:
    """On all that is on this host just now."""
    lines = ls("--columns", ",".join(FIELDS), "--sort", ",".join(FIELDS)).splitlines()
    assert lines[0].split() == list(FIELDS)
    condition = " and ".join(f"({name} or not {name})" for name in FIELDS)
    assert ls("user", "--raw", "--columns", ",".join(FIELDS), "--where", condition)


def on_a_terminal(*words: str) -> list[str]:
    """Return the lines that nstool ls prints on a terminal of 84 columns."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 84))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.Popen([NSTOOL, "ls", *words], stdout=follower, stderr=subprocess.DEVNULL, env=environment)
    os.close(follower)
    text = b""
    while True:
        try:
            block = os.read(leader, 4096)
        except OSError:  # EIO: the other end is closed
            break
        text += block
    os.close(leader)
    assert done.wait() == 0
    return text.decode().splitlines()


def test_a_terminal_is_not_overfull() -> None:
    """The widest columns are cut to what there is; elsewhere nothing is cut."""
    lines = on_a_terminal("user", "mnt")
    assert lines[0].startswith("type ")
    assert max(map(len, lines)) <= 84


@pytest.mark.parametrize("char", ["x", "é", "漢", "e\u0301"])
def test_a_command_line_of_any_length_is_cut_at_once(in_child: Callable[..., Any], char: str) -> None:
    """100 kB of letters that take a column, two, or none: nobody waits for it, and the line is as long as it may be."""

    def act() -> None:
        with called(char * (100_000 // len(char.encode()))) as pid:
            line = on_a_terminal("uts", "--columns", "pid,command", "--where", f"pid == {pid}")[-1]
            assert line.split()[0] == str(pid)
            assert line.endswith("…")
            columns = sum(2 if letter == "漢" else letter != "\u0301" for letter in line)
            assert columns in (83, 84)  # where two columns are one too many

    in_child(act)


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(f"{NSTOOL} ls 2>/dev/null | head -1", shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("type ")
    assert done.stderr == ""


def test_an_ordinary_user_gets_a_list_and_a_note(as_user: Callable[..., Any]) -> None:
    def act() -> tuple[int, str, str]:
        done = subprocess.run([NSTOOL, "ls", "user"], capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    status, out, err = as_user(act)
    assert status == 0
    assert f"user  {os.stat('/proc/self/ns/user').st_ino} " in out
    assert "processes could not be looked into" in err
    assert "; run" in err
