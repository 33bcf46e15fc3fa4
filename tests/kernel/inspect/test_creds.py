"""Whose a process is, inside and outside: beside what it says itself, setpriv(1), and the files by hand."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nstool import syscalls
from nstool.errors import SpecError
from nstool.inspect import nsfile
from nstool.inspect.creds import MAPPED, UNKNOWN, UNMAPPED, Credentials, Id, credentials
from nstool.inspect.execution import subject
from nstool.security import filecaps
from nstool.spec.model import IdMap
from tests.kernel.rows import boxes
from tests.support import actors, kernel
from tests.support.user import User
from tests.support.waiting import thread

pytestmark = pytest.mark.needs("root", "native")

PR_SET_DUMPABLE = 4
OUTER = "0 100000 1000\n65534 200000 1\n"
INNER = "0 10 100\n"


class Inner(NamedTuple):
    """A process in a user namespace in a user namespace. told: what it says of itself."""

    outer: int
    pid: int
    told: dict[str, list[int]]


def in_userns(maps: str, act: Callable[[int], None], tell: int) -> int:
    """Fork a child into a user namespace with these maps, as root of it; it acts."""
    ready, made = os.pipe()
    mapped, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(made, b"x")
            os.read(mapped, 1)
            act(tell)
        finally:
            os._exit(0)
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(maps)
    for fd in (ready, made, mapped, go):
        os.close(fd)
    return pid


def become(uids: tuple[int, int, int], gids: tuple[int, int, int], groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(*gids)
    os.setresuid(*uids)
    kernel.prctl(PR_SET_DUMPABLE, 1)


@pytest.fixture
def inner() -> Iterator[Inner]:
    with nested(INNER, ((5, 6, 7), (8, 9, 10), [11, 12])) as found:
        yield found


@contextmanager
def nested(maps: str, ids: tuple[tuple[int, int, int], tuple[int, int, int], list[int]]) -> Iterator[Inner]:
    end, stop = os.pipe()
    reader, writer = os.pipe()

    def deepest(tell: int) -> None:
        become(*ids)
        told = {"uids": list(os.getresuid()), "gids": list(os.getresgid()), "groups": os.getgroups()}
        os.write(tell, json.dumps([os.getpid(), told]).encode() + b"\n")
        os.read(end, 1)

    def between(tell: int) -> None:
        os.close(stop)
        become((0, 0, 0), (0, 0, 0), [])
        os.waitpid(in_userns(maps, deepest, tell), 0)

    outer = in_userns(OUTER, between, writer)
    os.close(writer)
    with open(reader) as pipe:
        pid, told = json.loads(pipe.readline())
        try:
            yield Inner(outer, pid, told)
        finally:
            os.close(end)
            os.close(stop)
            os.waitpid(outer, 0)


def plain(ids: tuple[Id, ...]) -> list[int]:
    assert all(known.state == MAPPED for known in ids)
    return [known.number for known in ids]


def by_hand(pid: int, key: str) -> list[int]:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next([int(word) for word in row.split()[1:]] for row in rows if row.startswith(f"{key}:"))


def test_ids_outside_and_inside_are_those_of_status_and_of_the_process_itself(inner: Inner) -> None:
    found = credentials(inner.pid)
    yours, own = found.terms
    assert (yours.whose, own.whose) == ("yours", "its own")
    assert plain(yours.uids) == by_hand(inner.pid, "Uid")
    assert plain(yours.gids) == by_hand(inner.pid, "Gid")
    assert plain(yours.groups) == by_hand(inner.pid, "Groups")
    assert plain(own.uids) == [*inner.told["uids"], inner.told["uids"][1]]
    assert plain(own.gids) == [*inner.told["gids"], inner.told["gids"][1]]
    assert plain(own.groups) == inner.told["groups"]
    assert plain(yours.uids)[:3] == [100015, 100016, 100017]
    assert own.namespace == os.stat(f"/proc/{inner.pid}/ns/user").st_ino


def test_in_the_terms_of_the_namespace_between(inner: Inner) -> None:
    """As a reader that lives there sees the status file."""
    command = ["nsenter", "--user", f"--target={inner.outer}", "--", "cat", f"/proc/{inner.pid}/status"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = dict(line.split(":", 1) for line in text.splitlines())
    with nsfile.named(str(inner.outer), "user", "--in") as asked:
        terms = credentials(inner.pid, asked).terms[-1]
    assert terms.whose == "asked for"
    for key, ids in (("Uid", terms.uids), ("Gid", terms.gids), ("Groups", terms.groups)):
        assert plain(ids) == [int(word) for word in rows[key].split()]


def test_in_the_terms_of_a_namespace_that_the_reader_may_see_and_not_join(
    in_child: Callable[..., Any], inner: Inner
) -> None:
    """With CAP_SYS_PTRACE: the maps are read of the process that it was named by."""

    def act() -> Any:
        actors.become(4711, keep=("sys_ptrace", "dac_override"))  # the other for Python's files
        return terms()

    def terms() -> Any:
        with nsfile.named(str(inner.outer), "user", "--in") as asked:
            return credentials(inner.pid, asked).terms[-1]

    assert in_child(act) == terms()


@pytest.mark.parametrize(("rootid", "counts"), [(100000, True), (100010, True), (100011, False)])
def test_roots_of_the_namespaces_above_own_file_capabilities(inner: Inner, rootid: int, counts: bool) -> None:
    """Those of a file count below the namespace whose root they name, as the kernel has it. capabilities(7)."""
    assert (rootid in subject(inner.pid).process.owners) == counts
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        file = Path(directory, "cat")
        file.write_bytes(Path("/bin/cat").read_bytes())
        file.chmod(0o755)
        filecaps.write(str(file), filecaps.FileCaps(1 << 5, rootid=rootid, revision=3))
        command = ["nsenter", "--user", f"--target={inner.pid}", "-S", "5", "-G", "8", "--", file, "/proc/self/status"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"CapPrm:\t{(1 << 5 if counts else 0):016x}" in text.splitlines()


def test_ids_without_a_map_are_told_from_a_real_65534(inner: Inner) -> None:
    """The overflow id stands for both; in the namespace between, 65534 is mapped, and is some other id outside."""
    with nsfile.named(str(inner.outer), "user", "--in") as asked:
        mine = credentials(os.getpid(), asked)
    assert {(known.number, known.state) for known in mine.terms[-1].uids} == {(65534, UNMAPPED)}
    with nested("0 10 100\n65534 65534 1\n", ((65534, 3, 3), (3, 3, 3), [])) as other:
        found = credentials(other.pid)
    assert [(known.number, known.state) for known in found.terms[1].uids[:2]] == [(65534, MAPPED), (3, MAPPED)]
    assert found.terms[0].uids[0].number == 200000


def test_a_reader_inside_that_has_65534_cannot_tell_and_says_so(in_child: Callable[..., Any], inner: Inner) -> None:
    """From the namespace between: the test process has no id there, and 65534 is one."""

    def act(outside: int) -> list[Credentials]:
        with nsfile.named(str(inner.outer), "user", "") as between:
            syscalls.setns(between.fd, kernel.CLONE_NEWUSER)
        return [credentials(outside), credentials(inner.pid)]

    mine, below = in_child(act, os.getpid())
    assert mine.terms[0].uids[0] == Id(65534, UNKNOWN)
    assert "not seen to be below yours" in mine.unread["its own"]
    assert len(mine.terms) == 1
    assert plain(below.terms[0].uids)[:3] == [15, 16, 17]
    assert plain(below.terms[1].uids)[:3] == inner.told["uids"]


def test_chain_of_user_namespaces(inner: Inner) -> None:
    """Inodes, owners, maps in the reader's terms, setgroups; as the files of processes in each say."""
    chain = credentials(inner.pid).chain
    pids = (os.getpid(), inner.outer, inner.pid)
    assert [space.inode for space in chain] == [os.stat(f"/proc/{pid}/ns/user").st_ino for pid in pids]
    assert [space.depth for space in chain] == [0, 1, 2]
    for space, pid in zip(chain, pids):
        for name in ("uid_map", "gid_map"):
            lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
            assert getattr(space, name) == tuple(IdMap(*map(int, line.split())) for line in lines)
        assert space.setgroups == Path(f"/proc/{pid}/setgroups").read_text().strip()
    # Made by root here, and by root of the namespace between.
    assert [space.owner.number for space in chain if space.owner] == [0, 0, 100000]
    assert chain[2].uid_map == (IdMap(0, 100010, 100),)


def test_maps_of_a_namespace_between_without_a_process_in_it(inner: Inner) -> None:
    """Its only process moves on: the map is still told, in the reader's terms."""
    with nsfile.named(str(inner.pid), "user", "") as asked:
        fd = os.dup(asked.fd)
    with nsfile.Namespace(fd, "user") as kept:
        terms = credentials(inner.pid, kept).terms[-1]
    assert plain(terms.uids)[:3] == inner.told["uids"]


def test_limits_are_those_inside(inner: Inner) -> None:
    """Read by a child that joins; the outer one is set to another value by its root."""
    command = ["nsenter", "--user", f"--target={inner.outer}", "--", "sh", "-c"]
    subprocess.run([*command, "echo 17 > /proc/sys/user/max_net_namespaces"], check=True)
    chain = credentials(inner.pid).chain
    assert chain[1].limits is not None
    assert chain[1].limits["max_net_namespaces"] == 17
    for space, pid in zip(chain, (os.getpid(), inner.outer, inner.pid)):
        script = "grep -H . /proc/sys/user/*"
        done = subprocess.run(
            ["nsenter", "--user", f"--target={pid}", "--", "sh", "-c", script] if space.depth else ["sh", "-c", script],
            capture_output=True,
            text=True,
            check=True,
        )
        by_hand = {
            Path(path).name: int(number) for path, number in (row.split(":") for row in done.stdout.splitlines())
        }
        assert space.limits == by_hand


def test_used_counts_the_namespaces_made_in_it_and_below(inner: Inner) -> None:
    chain = credentials(inner.pid).chain
    assert chain[2].used.get("max_user_namespaces", 0) == 0
    assert chain[1].used["max_user_namespaces"] == 1
    assert chain[0].used["max_user_namespaces"] >= 2
    command = ["nsenter", "--user", f"--target={inner.outer}", "unshare", "--net", "cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"x\n")
        process.stdin.flush()
        process.stdout.readline()  # cat runs by now, in its namespace
        assert credentials(inner.pid).chain[1].used.get("max_net_namespaces") == 1
        process.communicate()


def test_threads_with_other_ids_are_named(in_child: Callable[..., Any]) -> None:
    """In a child: a change of ids makes the whole process undumpable."""

    def act() -> tuple[int, Credentials, Credentials]:
        with thread(lambda: syscalls.setresgid(-1, 1234, -1)) as tid:
            return tid, credentials(os.getpid()), credentials(tid)

    tid, main, other = in_child(act)
    assert list(main.threads) == [tid]
    assert [known.number for known in main.terms[0].gids] == [0, 0, 0, 0]
    assert other.terms[0].gids[1].number == 1234


def test_names_of_the_reader(inner: Inner) -> None:
    import pwd

    found = credentials(os.getpid())
    assert found.terms[0].uids[0].name == pwd.getpwuid(os.getuid()).pw_name
    assert credentials(inner.pid).terms[1].uids[0].name == ""


@pytest.mark.needs("user", "userns")
def test_an_ordinary_user_on_a_process_of_root(as_user: Callable[..., Any], inner: Inner, user: User) -> None:
    """Ids are open to all; the namespaces are not, with the reason."""
    found: Credentials = as_user(credentials, inner.pid)
    assert plain(found.terms[0].uids) == by_hand(inner.pid, "Uid")
    assert plain(found.terms[1].uids)[:3] == inner.told["uids"]
    assert found.terms[1].namespace is None
    assert len(found.chain) == 1
    assert "it runs as uid 100015" in found.unread["chain"]


@pytest.mark.needs("user", "userns", "newuidmap")
def test_an_ordinary_user_on_a_namespace_of_its_own(as_user: Callable[..., Any], user: User) -> None:
    def act() -> Credentials:
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", "echo ready; read line"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            found = credentials(process.pid)
            process.communicate()
        return found

    found = as_user(act)
    assert plain(found.terms[1].uids) == [0, 0, 0, 0]
    assert [space.owner.number for space in found.chain if space.owner] == [0, user.uid]
    assert found.chain[1].setgroups == "deny"
    assert found.chain[1].limits is not None


def test_a_namespace_beside_is_refused(in_child: Callable[..., Any], inner: Inner) -> None:
    """A reader inside asks in the terms of the namespace above it."""

    def act() -> str:
        with nsfile.own("user") as above:
            kernel.unshare(kernel.CLONE_NEWUSER)
            try:
                credentials(os.getpid(), above)
            except SpecError as error:
                return str(error)
        return "not refused"

    assert "neither your user namespace nor below it" in in_child(act)


def test_command_line(inner: Inner) -> None:
    shown = boxes.nstool("creds", str(inner.pid), "--in", str(inner.outer))
    assert shown.status == 0
    assert shown.lines[2].split() == ["real", "uid", "100015", "5", "15"]
    assert "0 is 100010, 100 ids" in shown.out
    found = json.loads(boxes.nstool("creds", str(inner.pid), "--json").out)
    assert found["terms"][1]["uids"][1] == {"number": 6, "state": "mapped", "name": ""}
    mine = boxes.nstool("creds", str(os.getpid()), "--in", str(inner.outer))
    assert "yours and its own" in mine.out
    assert "not mapped (shows as 65534)" in mine.out
    bad = boxes.nstool("creds", str(os.getpid()), "--in", "/proc/self/ns/net")
    assert (bad.status, bad.out) == (2, "")
    assert bad.err == "nstool: --in: /proc/self/ns/net is a net namespace; a user namespace is asked for\n"


@pytest.mark.parametrize("pid", [2])
def test_a_thread_of_the_kernel(pid: int) -> None:
    assert plain(credentials(pid).terms[0].uids) == [0, 0, 0, 0]


def test_a_zombie_keeps_its_ids() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    try:
        assert plain(credentials(pid).terms[0].uids) == [os.getuid()] * 4
    finally:
        os.waitpid(pid, 0)
