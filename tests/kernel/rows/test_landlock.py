"""Row S3, Landlock: what the command may still do is seen from inside, and that nothing came of the rest from outside.

Under a kernel whose ABI lacks what a test is about, the test is that this is refused, and that nothing has begun.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported
from nstool.spec.model import Landlock, LandlockRule, Mount, Namespaces, Net
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import kernel

pytestmark = [pytest.mark.vm, pytest.mark.needs("landlock")]

SHELL = os.path.realpath("/bin/sh")
PYTHON = "/usr/bin/python3"
# What a shell and its programs need: themselves, and the cache of the loader.
RUN = {"execute": ("/usr",), "read": ("/etc", "/dev/null"), "write": ("/dev/null",)}
DENIED = "Permission denied"
ABI = kernel.landlock_abi()


def rules(**more: Any) -> Landlock:
    """Rules by which a shell runs, and more."""
    lists = {key: (*paths, *more.pop(key, ())) for key, paths in RUN.items()}
    return Landlock(**lists, **more)


def needs_abi(least: int, what: str, function: Callable[[], Any]) -> bool:
    """Whether the kernel has this ABI; where it has not, check that what is asked for is refused."""
    if least <= ABI:
        return True
    with pytest.raises(NotSupported) as refused:
        function()
    assert refused.value.what.startswith(what)
    assert f"needs version {least} of Landlock's ABI" in refused.value.cause
    assert f"this kernel's is {ABI}" in refused.value.cause
    return False


# ---- files ----


def test_only_what_is_named_can_be_read(act: Act) -> None:
    """What everybody may read is shut when no rule names it, and all below a directory that a rule names is open."""

    def look() -> tuple[str, ...]:
        with boxes.box(landlock=rules()) as box:
            assert os.listdir(f"/proc/{box.pid}/root/var/tmp") == []
            asked = ("ls /var/tmp", "head -n 1 /etc/passwd", "cat /proc/self/comm", "ls /usr/bin/env", "cd /tmp && pwd")
            return tuple(box.ask(script) for script in asked)

    listed, passwd, proc, below, entered = act(look)
    assert DENIED in listed
    assert passwd == "root:x:0:0:root:/root:/bin/sh\n"
    assert DENIED in proc
    assert below == "/usr/bin/env\n"
    assert entered == "/tmp\n", "Landlock does not restrict chdir(2)"


def test_only_what_is_named_can_be_written(act: Act) -> None:
    """/tmp and /var/tmp are everybody's to write: with a rule for one, the other takes nothing, seen from outside."""

    def look() -> tuple[str, list[str], list[str], str]:
        with boxes.box(landlock=rules(write=("/tmp",), read=("/tmp",))) as box:
            said = box.ask("for d in /tmp /var/tmp; do mkdir $d/d; echo x >$d/f; done; rm /tmp/f")
            root = f"/proc/{box.pid}/root"
            return (
                said,
                os.listdir(f"{root}/tmp"),
                os.listdir(f"{root}/var/tmp"),
                box.ask("mknod /tmp/p p && echo made"),
            )

    said, named, other, fifo = act(look)
    assert (named, other) == (["d"], [])
    assert said.count(DENIED) == 2
    assert fifo == "made\n"


def test_without_a_list_the_same_is_allowed(act: Act) -> None:
    """It was Landlock that refused, and nothing else."""
    assert act(boxes.shell, "ls /var/tmp; echo x >/var/tmp/f; cat /proc/self/comm") == "cat\n"


def test_a_mount_can_be_read_where_it_cannot_be_written(as_root: Act, tmp_path: Path) -> None:
    """The bind is writable and the directory everybody's; the list says read. What is outside is unchanged."""
    tmp_path.chmod(0o777)
    (tmp_path / "kept").write_text("as it was\n")
    (tmp_path / "kept").chmod(0o666)

    def look() -> str:
        mount = Mount("/data", str(tmp_path), writable=True)
        with boxes.box(mounts=(mount,), landlock=rules(read=("/data",))) as box:
            return box.ask("cat /data/kept; echo x >/data/kept; echo x >/data/new; rm -f /data/kept")

    said = as_root(look)
    assert said.startswith("as it was\n")
    assert said.count(DENIED) == 3
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept": "as it was\n"}


def test_a_file_can_be_named(act: Act) -> None:
    """Beside it in the same directory is none of it; the kernel takes no right of directories for it."""

    def look() -> str:
        only = Landlock(execute=("/usr",), read=("/etc/ld.so.cache", "/etc/passwd"))
        with boxes.box(landlock=only) as box:
            return box.ask("wc -l </etc/passwd; wc -l </etc/group; ls /etc")

    first, *others = act(look).splitlines()
    assert first.isdecimal()
    assert len(others) == 2
    assert all(DENIED in line for line in others)


def test_only_what_is_named_can_be_executed(act: Act) -> None:
    """A program can be read, and has its x bit, and is refused all the same."""

    def look() -> str:
        some = Landlock(execute=("/usr/lib", "/usr/lib64", SHELL, "/usr/bin/env"), read=("/usr", "/etc"))
        some = some.replace(execute=tuple(path for path in some.execute or () if os.path.exists(path)))
        with boxes.box(landlock=some) as box:
            return box.ask("/usr/bin/env echo; test -r /usr/bin/id && echo readable; /usr/bin/id; /usr/bin/env A=b id")

    said = act(look)
    assert said.splitlines()[1:] == ["readable", *said.splitlines()[2:]]
    assert said.count(DENIED) == 3
    assert "uid=" not in said


def test_a_command_that_no_rule_lets_run_is_an_error(act: Act) -> None:
    """The last step names the cause, which `nstool check` tells before."""

    def look() -> tuple[boxes.Ran, boxes.Ran]:
        words = ("--landlock-read", "/usr", "--landlock-read", "/etc", "--", "sh", "-c", "id")
        check = boxes.nstool("check", "--memory", "0", "--pids", "0", "--cpu", "0", *words)
        return boxes.nstool_run(*words), check

    ran, checked = act(look)
    assert (ran.status, checked.status) == (126, 125)
    for text in (ran.err, checked.out):
        assert "no rule of landlock lets /usr/bin/sh be executed" in text
        assert "landlock.execute (--landlock-execute" in text


def test_a_symlink_leads_to_what_it_names_inside(act: Act) -> None:
    """/bin is a link to usr/bin: a rule for it is one for what it leads to."""
    if not os.path.islink("/bin"):
        pytest.skip("/bin is no symlink here")
    only = Landlock(execute=("/bin", "/lib", "/lib64"), read=("/etc",))
    assert act(boxes.shell, "echo ran; exec /usr/bin/id -u", landlock=only) == "ran\n1000\n"


def test_truncating_is_a_right_of_its_own(act: Act) -> None:
    """A file that can be written, not truncated: since ABI 3. Before, nothing refuses it."""
    rule = LandlockRule("/tmp", ("read_file", "read_dir", "write_file", "make_reg"))

    def look() -> str:
        script = (
            "echo 123 >>/tmp/f; truncate -s 1 /tmp/f; echo 45 >>/tmp/f; tr '\\n' , </tmp/f; (: >/tmp/f); wc -c </tmp/f"
        )
        with boxes.box(landlock=rules(rules=(rule,))) as box:
            return box.ask(script)

    said = act(look)
    if ABI >= 3:
        assert said.count(DENIED) == 2
        assert said.endswith("7\n")
        assert "123,45," in said
    else:
        assert said.endswith("0\n")
        assert DENIED not in said


def test_what_the_kernel_cannot_refuse_is_said(act: Act) -> None:
    """A note for each right that the ABI lacks, none where it has all."""

    words = ("--memory", "0", "--pids", "0", "--cpu", "0", "--landlock-execute", "/usr", "--landlock-read", "/etc")

    def look() -> boxes.Ran:
        return boxes.nstool("check", *words, "--", "true")

    ran = act(look)
    assert ran.status == 0, ran
    lacks = [name for name, since in (("truncate", 3), ("ioctl_dev", 5)) if since > ABI]
    assert ran.out.count("is not refused anywhere") == len(lacks)
    assert all(f"--landlock-execute: {name} is not refused anywhere" in ran.out for name in lacks)


def test_moving_between_directories_is_a_right_of_its_own(act: Act) -> None:
    """With refer a file stays the same inode; without, rename(2) says EXDEV, so that mv(1) makes another."""
    most = ("read_file", "read_dir", "write_file", "make_reg", "make_dir", "remove_file")

    def look(*more: str) -> list[str]:
        rule = LandlockRule("/tmp", (*most, *more))
        with boxes.box(landlock=rules(rules=(rule,))) as box:
            return box.ask("cd /tmp; mkdir a b; : >a/f; stat -c %i a/f; mv a/f b/f; stat -c %i b/f").splitlines()

    if needs_abi(2, "landlock.rules[0].allow", lambda: look("refer")):
        before, after = act(look, "refer")
        assert before == after
    before, after = act(look)
    assert before != after


# ---- ports ----

PORTS = """
import errno, socket
def tried(what, port, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET, kind)
    try:
        getattr(s, what)(("127.0.0.1", port))
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
print(*(tried("bind", p) for p in (8001, 8002, 8003)), *(tried("connect", p) for p in (8001, 8002, 8003)))
print(tried("bind", 8002, socket.SOCK_DGRAM))
"""
REFUSED = "ECONNREFUSED"  # there is nobody; Landlock says EACCES


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tcp_bind": (8001, 8003)}, ["done", "EACCES", "done", REFUSED, REFUSED, REFUSED]),
        ({"tcp_bind": ()}, ["EACCES"] * 3 + [REFUSED] * 3),
        ({"tcp_connect": (8001,)}, ["done"] * 3 + [REFUSED, "EACCES", "EACCES"]),
        ({"tcp_connect": (), "tcp_bind": (8002,)}, ["EACCES", "done", "EACCES"] + ["EACCES"] * 3),
    ],
)
def test_only_these_tcp_ports(act: Act, asked: dict[str, tuple[int, ...]], said: list[str]) -> None:
    """An empty list is none, an absent one all; UDP and files are as they were."""

    def look() -> str:
        ran = boxes.run(PYTHON, "-c", PORTS, landlock=Landlock(**asked))  # type: ignore[arg-type]
        assert ran.status == 0, ran
        return ran.out

    if needs_abi(4, f"landlock.{next(k for k in ('tcp_bind', 'tcp_connect') if k in asked)}", look):
        tcp, udp = act(look).splitlines()
        assert tcp.split() == said
        assert udp == "done"


# ---- scopes ----


def other(box: boxes.Box, *command: str) -> boxes.Ran:
    """Run another command in the sandbox: in a domain of its own, beside the first one's."""
    return boxes.nstool("exec", box.sandbox.name, "--", *command)


def test_signals_end_at_the_domain(as_root: Act) -> None:
    """Who came in later cannot signal the first command, nor what it started; it can its own; we can from outside.

    They have the same uid, and without the scope it can.
    """

    def look(scope: tuple[str, ...]) -> tuple[str, str, int]:
        with boxes.box(landlock=rules(scope=scope), die_with_parent=False) as box:
            shell = box.ask("sleep 1000 & echo $$ $!").split()
            one = other(box, "/bin/sh", "-c", f"kill -0 {shell[0]}; kill -0 {shell[1]}; sleep 9 & kill $! && echo own")
            box.sandbox.signal(15)  # a shell that reads from a pipe ends of it
            return one.out, one.err, box.sandbox.wait(10).signal or 0

    if needs_abi(6, "landlock.scope[0]", lambda: look(("signal",))):
        out, err, ended = as_root(look, ("signal",))
        assert err.count("Operation not permitted") == 2
        assert (out, ended) == ("own\n", 15)
    out, err, _ = as_root(look, ())
    assert (out, err) == ("own\n", "")


LISTEN = r"""
import socket
s = socket.socket(socket.AF_UNIX)
s.bind("\0nstool")
s.listen()
print("listens", flush=True)
while True:
    s.accept()
"""
CONNECT = r"""
import errno, socket
s = socket.socket(socket.AF_UNIX)
try:
    s.connect("\0nstool"); print("connected")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_abstract_sockets_end_at_the_domain(as_root: Act) -> None:
    """What listens in one domain is not reached from another in the same network namespace; without the scope it is."""

    def look(scope: tuple[str, ...]) -> str:
        tmp = rules(scope=scope, read=("/tmp",), write=("/tmp",))
        with boxes.box(landlock=tmp, env={"LISTEN": LISTEN}, die_with_parent=False) as box:
            script = f'mkfifo /tmp/p; {PYTHON} -c "$LISTEN" >/tmp/p & read word </tmp/p; echo $word'
            assert box.ask(script) == "listens\n"
            return other(box, PYTHON, "-c", CONNECT).out

    if needs_abi(6, "landlock.scope[0]", lambda: look(("abstract_unix_socket",))):
        assert as_root(look, ("abstract_unix_socket",)) == "EPERM\n"
    assert as_root(look, ()) == "connected\n"


# ---- the rest ----


def test_the_command_gets_no_fd_of_the_rules(act: Act) -> None:
    """The ruleset and the paths are closed when it begins."""
    assert act(boxes.shell, "ls /proc/self/fd | tr '\\n' ' '", landlock=rules(read=("/proc",))) == "0 1 2 3 "


def test_what_comes_later_is_restricted_too(as_root: Act) -> None:
    """`nstool exec` and the library's exec have the rules of the spec."""

    def look() -> tuple[boxes.Ran, int]:
        with boxes.box(landlock=rules(), die_with_parent=False) as box:
            with box.sandbox.exec("/bin/sh", "-c", "ls /var/tmp 2>/dev/null") as second:
                status = second.wait().status
            return other(box, "ls", "/var/tmp"), status

    ran, status = as_root(look)
    assert DENIED in ran.err
    assert (ran.status, status) == (2, 2)


def test_without_namespaces_it_confines_alone(as_root: Act, tmp_path: Path) -> None:
    """It needs no namespace: of the host's files only those that are named can be read."""
    (tmp_path / "f").write_text("x")

    def look() -> boxes.Ran:
        host = Namespaces(**dict.fromkeys(boxes.NAMES, "host"))
        plain = {
            "proc": "none",
            "dev": "none",
            "tmp_size": 0,
            "net": Net("host"),
        }
        plain |= {"groups": ("keep",)}
        paths = Landlock(execute=("/usr",), read=("/etc",))
        return boxes.run("/bin/sh", "-c", f"ls {tmp_path}; ls -d /etc/passwd", namespaces=host, landlock=paths, **plain)

    ran = as_root(look)
    assert DENIED in ran.err
    assert ran.out == "/etc/passwd\n"


def test_no_new_privs_is_needed(act: Act) -> None:
    """Without it the kernel takes no rules of who has no CAP_SYS_ADMIN: a bad request, before anything is done."""

    def look() -> boxes.Ran:
        return boxes.nstool_run("--new-privs", "--seccomp", "none", "--landlock-read", "/usr", "--", "true")

    ran = act(look)
    assert ran.status == 2
    assert "landlock needs no_new_privs = true" in ran.err
