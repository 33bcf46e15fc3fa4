"""Numbers in nested pid namespaces: beside the /proc that is mounted in each, and by both roads. pid_namespaces(7)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nstool.errors import NotSupported
from nstool.inspect import nsfile
from nstool.inspect.pids import Numbers, Translation, numbers, translate
from nstool.inspect.proc import ProcessGone
from tests.kernel.rows import boxes
from tests.support import kernel

pytestmark = pytest.mark.needs("root", "native")

CLONE_NEWPID = 0x20000000
INNER = """
import json, os, sys, threading
os.setsid()
end, told = threading.Event(), []
def wait():
    told.append(threading.get_native_id())
    with open("/proc/thread-self/comm", "w") as file:
        file.write("deep-thread")
    ready.set()
    end.wait()
ready = threading.Event()
thread = threading.Thread(target=wait)
thread.start()
ready.wait()
with open("/proc/self/comm", "w") as file:
    file.write(sys.argv[1])
print(json.dumps([os.getpid(), told[0], int(os.readlink("/proc/self"))]), flush=True)
sys.stdin.read()
end.set()
"""
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class Deep(NamedTuple):
    """A process with a thread in nested pid namespaces. outer: pids from the reader's child down to it."""

    outer: tuple[int, ...]
    pid: int  # inside
    tid: int
    comm: str

    def there(self, depth: int) -> dict[str, int]:
        """Return name → number of the process and its thread in the /proc that is mounted at this depth."""
        found = {}
        # unshare --mount-proc mounts it for its child, in a mount namespace that it is in too.
        root = f"/proc/{self.outer[depth - 1]}/root/proc" if depth else "/proc"
        for path in Path(root).glob("[0-9]*/comm"):
            try:
                name = path.read_text().rstrip()
            except OSError:  # another's, that has just ended
                continue
            if name == self.comm:
                found["process"] = int(path.parent.name)
                for thread in (path.parent / "task").iterdir():
                    if (thread / "comm").read_text() == "deep-thread\n":
                        found["thread"] = int(thread.name)
        return found


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@contextmanager
def deep(levels: int, comm: str, *before: str) -> Iterator[Deep]:
    command = [*before, *UNSHARE * levels, sys.executable, "-c", INNER, comm]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid, tid, by_proc = json.loads(process.stdout.readline())
        assert pid == by_proc
        outer = [process.pid]
        for _ in range(levels):
            outer.append(child_of(outer[-1]))
        yield Deep(tuple(outer), pid, tid, comm)
        process.communicate()


@pytest.fixture
def three() -> Iterator[Deep]:
    with deep(3, f"deep-{os.getpid()}") as found:
        yield found


def check_levels(found: Numbers, three: Deep, what: str) -> None:
    assert [level.tid for level in found.levels] == [three.there(depth)[what] for depth in range(4)]
    assert [level.pid for level in found.levels] == [three.there(depth)["process"] for depth in range(4)]
    for depth, level in enumerate(found.levels):
        assert level.depth == depth
        assert f"pid:[{level.namespace}]" == os.readlink(f"/proc/{three.outer[depth]}/ns/pid")
        assert level.init == (three.outer[depth] if depth else 1)
        # It leads a group and a session of its own.
        assert level.pgid == level.sid == level.pid


@pytest.mark.vm
def test_numbers_are_those_of_the_proc_mounted_at_each_level(three: Deep) -> None:
    """Three levels below the reader's: pid and thread id at each, and the inits."""
    found = numbers(three.outer[-1])
    assert (found.tid, found.pid, found.comm) == (three.outer[-1], three.outer[-1], three.comm)
    check_levels(found, three, "process")
    assert found.levels[-1].pid == three.pid == 1


@pytest.mark.vm
def test_a_thread_has_its_own_numbers_and_those_of_its_process(three: Deep) -> None:
    thread = three.there(0)["thread"]
    found = numbers(thread)
    assert (found.tid, found.pid, found.comm) == (thread, three.outer[-1], "deep-thread")
    check_levels(found, three, "thread")
    assert found.levels[-1].tid == three.tid


def test_group_and_session_made_outside_have_no_number_inside() -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
        pid = 0
        while not pid:  # unshare forks in a moment
            pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() or 0)
        outside, inside = numbers(pid).levels
        process.communicate()
    assert (outside.pgid, outside.sid) == (process.pid, os.getsid(0))
    assert (inside.pgid, inside.sid) == (0, 0)


def both_roads(number: int, source: int, target: int) -> Translation:
    """Translate between the namespaces of two processes by both roads, which agree."""
    with nsfile.named(str(source), "pid", "--ns") as from_, nsfile.named(str(target), "pid", "--to") as to:
        one, other = (translate(number, from_, to, road) for road in ("ioctl", "NSpid"))
    assert (one.road, other.road) == ("ioctl", "NSpid")
    assert one.replace(road="") == other.replace(road="")
    return one


@pytest.mark.needs("pid_ioctls")
def test_both_roads_agree_between_any_two_levels(three: Deep) -> None:
    """Up and down, of the process and of its thread; each is what /proc at that level has."""
    reader = (os.getpid(), *three.outer[1:])
    for what in ("process", "thread"):
        table = [three.there(depth) for depth in range(4)]
        for source in range(4):
            for target in range(4):
                found = both_roads(table[source][what], reader[source], reader[target])
                assert (found.tid, found.pid) == (table[target][what], table[target]["process"])
                assert found.reason == ""
                assert found.here == table[0][what]


@pytest.mark.needs("pid_ioctls")
def test_not_visible_in_a_namespace_below_or_beside(three: Deep) -> None:
    """The reason tells which of the two it is, and where the process lives."""
    me = os.getpid()
    found = both_roads(me, me, three.outer[1])
    assert (found.tid, found.pid) == (0, 0)
    assert "nested below that" in found.reason
    with deep(1, "beside") as other:
        found = both_roads(1, other.outer[-1], three.outer[-1])
        assert (found.tid, found.pid, found.here) == (0, 0, other.outer[-1])
        inodes = [os.stat(f"/proc/{pid}/ns/pid").st_ino for pid in (other.outer[-1], three.outer[-1], me)]
        assert found.reason == (
            f"it lives in pid:[{inodes[0]}], and pid:[{inodes[1]}] is another branch below pid:[{inodes[2]}]: "
            "neither sees the other's processes"
        )


@pytest.mark.needs("pid_ioctls")
@pytest.mark.parametrize("road", ["ioctl", "NSpid"])
def test_a_number_that_nobody_has_is_said_so(three: Deep, road: str) -> None:
    with (
        nsfile.named(str(three.outer[-1]), "pid", "") as inner,
        nsfile.own("pid") as own,
        pytest.raises(ProcessGone, match=f"no process or thread has the number 77 in pid:.{inner.inode}.*ended"),
    ):
        translate(77, inner, own, road)


@pytest.mark.needs("pid_ioctls")
def test_from_below_only_the_ioctl_reaches_above(in_child: Callable[..., Any]) -> None:
    """With an fd of the namespace above, the ioctl names what is inside by its outer number; NSpid begins inside."""

    def ask(above: nsfile.Namespace, number: int, road: str) -> list[Any]:
        with nsfile.own("pid") as own:
            try:
                found = translate(number, above, own, road)
            except (NotSupported, ProcessGone) as error:
                return [0, str(error)]
        return [found.tid, found.reason]

    def act() -> Any:
        outer, here = os.pipe()
        there, back = os.pipe()
        with nsfile.own("pid") as above:
            kernel.unshare(CLONE_NEWPID | kernel.CLONE_NEWNS)
            pid = os.fork()
            if pid == 0:
                try:
                    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
                    kernel.mount("proc", "/proc", "proc")
                    number, other = map(int, os.read(outer, 100).split())
                    answers = [ask(above, number, "ioctl"), ask(above, number, "NSpid"), ask(above, other, "ioctl")]
                    os.write(back, json.dumps(answers).encode())
                finally:
                    os._exit(0)
        os.write(here, f"{pid} {os.getpid()}".encode())
        os.close(back)
        os.waitpid(pid, 0)
        with open(there) as pipe:
            return json.load(pipe)

    by_ioctl, by_nspid, unseen = in_child(act)
    assert by_ioctl == [1, ""]
    assert by_nspid[0] == 0
    assert "NSpid lines begin at yours" in by_nspid[1]
    assert "you do not see it" in unseen[1]


def test_proc_of_another_namespace_is_refused(in_child: Callable[..., Any]) -> None:
    """Its numbers would be taken for the reader's."""

    def act() -> str:
        kernel.unshare(CLONE_NEWPID)
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                numbers(os.getpid())
            except NotSupported as error:
                os.write(writer, error.cause.encode())
            finally:
                os._exit(0)
        os.close(writer)
        os.wait()
        with open(reader) as pipe:
            return pipe.read()

    assert "belongs to another pid namespace" in in_child(act)


@pytest.mark.vm_full
@pytest.mark.vm
def test_command_line(three: Deep) -> None:
    """Both directions, a table, and the exit status where there is no number."""
    inner = str(three.outer[-1])
    namespace = os.readlink(f"/proc/{inner}/ns/pid")
    own = os.readlink("/proc/self/ns/pid")
    assert boxes.nstool("pid", "1", "--ns", inner, "--to", str(os.getpid())) == (
        0,
        f"1 in {namespace} ({three.comm}) is {inner} in {own}\n",
        "",
    )
    thread = three.there(0)["thread"]
    assert boxes.nstool("pid", str(thread), "--to", f"/proc/{inner}/ns/pid").out == (
        f"{thread} in {own} (deep-thread) is {three.tid} in {namespace}, a thread of process 1 there\n"
    )
    shown = boxes.nstool("pid", inner)
    assert shown.status == 0
    for depth in (1, 2, 3):
        words = shown.lines[2 + depth].split()
        assert str(three.there(depth)["process"]) in words
        assert words[-2:] == [str(three.outer[depth]), "here"]
    assert json.loads(boxes.nstool("pid", inner, "--json").out)["levels"][3]["namespace"] == int(namespace[5:-1])
    refused = boxes.nstool("pid", str(os.getpid()), "--to", inner)
    assert refused.status == 1
    assert "is not visible in" in refused.out


def test_a_name_of_any_kind_stays_on_its_line(in_child: Callable[..., Any]) -> None:
    """The names are those that the processes have, not as the status file escapes them; what is printed is a line."""

    def act() -> Any:
        Path("/proc/self/comm").write_text("a\n\\ \x1b[1m")
        pid = os.getpid()
        with nsfile.own("pid") as own:
            names = {numbers(pid).comm, *(translate(pid, own, own, road).comm for road in ("", "NSpid"))}
        shown = [boxes.nstool("pid", str(pid), *words).out for words in ([], ["--to", str(pid)])]
        return names, [text.splitlines()[0] for text in shown]

    names, (table, sentence) = in_child(act)
    assert names == {"a\n\\ \x1b[1m"}
    assert table.endswith("(a\\n\\\\ \\x1b[1m)")
    assert "(a\\n\\\\ \\x1b[1m) is " in sentence


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("0",), "N: 0 is no number of a process"),
        (("no-such",), "no sandbox 'no-such'"),
        (("x", "--ns", "1"), "N: 'x' is no number"),
        (("1", "--to", "/etc/passwd"), "--to: /etc/passwd is no namespace file"),
        (
            ("1", "--to", "/proc/self/ns/net"),
            "--to: /proc/self/ns/net is a net namespace; a pid namespace is asked for",
        ),
        (("1", "--ns", "/no/such"), "--ns: /no/such cannot be opened: No such file"),
    ],
)
def test_bad_requests(words: tuple[str, ...], text: str) -> None:
    ran = boxes.nstool("pid", *words)
    assert (ran.status, ran.out) == (2, "")
    assert text in ran.err


@pytest.mark.needs("userns", "user")
def test_an_ordinary_user_sees_the_numbers_of_others_but_not_their_namespaces(
    as_user: Callable[..., Any], three: Deep
) -> None:
    """The NSpid lines are open to all; the namespaces and their inits are not, with the reason."""
    found: Numbers = as_user(numbers, three.outer[-1])
    assert [level.pid for level in found.levels] == [three.there(depth)["process"] for depth in range(4)]
    assert [level.namespace for level in found.levels] == [os.stat("/proc/self/ns/pid").st_ino, None, None, None]
    assert "it runs as uid 0" in found.unread["namespace"]


@pytest.mark.needs("userns", "user", "pid_ioctls")
def test_an_ordinary_user_translates_for_namespaces_of_its_own(as_user: Callable[..., Any]) -> None:
    def act() -> list[tuple[int, int]]:
        with ExitStack() as stack:
            own = stack.enter_context(deep(2, "rootless", "unshare", "--user", "--map-root-user"))
            table = [both_roads(1, own.outer[-1], os.getpid()), both_roads(own.outer[-1], os.getpid(), own.outer[1])]
            return [(found.tid, number) for found, number in zip(table, (own.outer[-1], own.there(1)["process"]))]

    for found, number in as_user(act):
        assert found == number
