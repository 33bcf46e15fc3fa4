"""The default filter, installed and tried: what it refuses, how, and what still works."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.security import seccomp, seccomp_bpf
from nstool.security import seccomp_table as table

pytestmark = pytest.mark.needs("seccomp")

InChild = Callable[..., Any]

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SIGCHLD = 17
HIGH = 1 << 32
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
REFUSED = [name for group in table.REFUSED for name in group.names]
MISSING = [name for group in table.MISSING for name in group.names]

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install() -> None:
    """Install the filter in the calling thread, by prctl(2) rather than by nstool's own call."""
    code = seccomp.load_filter("default")
    program = Program(len(code) // 8, code)
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def call(name: str | int, *args: int) -> int:
    """Make a system call; return 0 for success, else errno. A process that it makes ends at once."""
    number = seccomp.call_number(name) if isinstance(name, str) else name
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg & (1 << 64) - 1) for arg in args))
    if result == 0 and name == "clone":
        os._exit(0)
    if result > 0 and name == "clone":
        os.waitpid(result, 0)
    return ctypes.get_errno() if result == -1 else 0


def filtered(name: str | int, *args: int) -> int:
    """The same under the filter."""
    install()
    return call(name, *args)


def test_shipped_program_is_the_compiled_one() -> None:
    """The file that launches load is what the table says; make it again after changing the table."""
    assert seccomp.load_filter("default") == seccomp.compile_filter("default")


def test_program_is_of_modest_length() -> None:
    """The kernel allows 4096 instructions, and each costs at every launch."""
    assert len(seccomp_bpf.instructions(seccomp.load_filter("default"))) < 800


def test_every_call_of_this_abi_is_decided() -> None:
    """Each call that libseccomp can name is in the table: refused on purpose, not by oversight."""
    import pyseccomp

    known = set()
    for number in range(table.UNKNOWN_NUMBERS.start):
        try:
            known.add(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, number).decode())
        except ValueError:  # a number that no call has
            continue
    assert len(known) > 350
    groups = (*table.ALLOWED, *table.MISSING, *table.REFUSED)
    decided = {name for group in groups for name in group.names} | {rule.call for rule in table.ALLOWED_ARGUMENTS}
    assert known - decided == set()


@pytest.mark.parametrize("name", table.NUMBERS)
def test_numbers_of_new_calls(name: str) -> None:
    """They are libseccomp's, as far as that knows them."""
    import pyseccomp

    assert pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) in (table.NUMBERS[name], -1)


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", REFUSED)
def test_refused_call_fails_with_eperm(name: str, in_child: InChild) -> None:
    """And it is the filter that refuses: root without it gets another error for these senseless arguments."""
    senseless = [-1] * 6
    assert in_child(filtered, name, *senseless) == errno.EPERM
    if name != "vhangup":  # takes no arguments and would do it
        assert in_child(call, name, *senseless) != errno.EPERM


@pytest.mark.parametrize("name", [*MISSING, *table.UNKNOWN_NUMBERS])
def test_missing_call_fails_with_enosys(name: str | int, in_child: InChild) -> None:
    """As in a kernel that has not got it, so that libraries fall back."""
    assert in_child(filtered, name, 0, 0, 0, 0, 0, 0) == errno.ENOSYS


ARGUMENTS = [
    *(("clone", (1 << bit | SIGCHLD, 0, 0, 0, 0), errno.EPERM) for bit in (17, 25, 26, 27, 28, 29, 30)),
    ("clone", (HIGH | 1 << 28 | SIGCHLD, 0, 0, 0, 0), errno.EPERM),
    ("clone", (SIGCHLD, 0, 0, 0, 0), 0),
    *(("unshare", (1 << bit,), errno.EPERM) for bit in (7, 17, 25, 26, 27, 28, 29, 30)),
    ("unshare", (0x400 | 0x200,), 0),
    ("socket", (1, 1, 0), 0),
    ("socket", (1, 5 | 0x80800, 0), 0),
    ("socket", (2, 1, 0), 0),
    ("socket", (2, 1 | 0x80800, 6), 0),
    ("socket", (2, 2, 17), 0),
    ("socket", (HIGH | 2, HIGH | 2, HIGH | 17), 0),
    ("socket", (10, 2, 0), 0),
    ("socket", (16, 3 | 0x80000, 0), 0),
    ("socket", (2, 3, 1), errno.EPERM),
    ("socket", (2, 3 | 0x80000, 255), errno.EPERM),
    ("socket", (10, 3, 58), errno.EPERM),
    ("socket", (2, 10, 3), errno.EPERM),
    ("socket", (2, 1, 132), errno.EPERM),
    ("socket", (2, 6, 33), errno.EPERM),
    ("socket", (16, 3, 9), errno.EPERM),
    ("socket", (16, 3, 12), errno.EPERM),
    ("socket", (HIGH | 17, 3, 0), errno.EPERM),
    *(("socket", (family, kind, 0), errno.EPERM) for family in (0, 3, 17, 38, 40, 44, -1) for kind in (1, 2, 3, 5)),
    ("socketpair", (2, 1, 0, 0), errno.EPERM),
    ("socketpair", (1, 1, 0, 0), errno.EFAULT),
    ("personality", (0xFFFFFFFF,), 0),
    ("personality", (-1,), 0),
    ("personality", (0,), 0),
    ("personality", (8,), 0),
    ("personality", (0x20008,), 0),
    ("personality", (0x40000,), errno.EPERM),
    ("personality", (0x400000,), errno.EPERM),
]


@pytest.mark.needs("root")
@pytest.mark.parametrize(("name", "args", "answer"), ARGUMENTS)
def test_arguments_decide(name: str, args: tuple[int, ...], answer: int, in_child: InChild) -> None:
    """Refused arguments give EPERM, also to root; allowed ones reach the kernel."""
    assert in_child(filtered, name, *args) == answer


def in_terminal(request: int, argument: bytes, filtered: bool) -> int:
    """Make an ioctl on a new controlling terminal; return errno."""
    os.setsid()
    _, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    if filtered:
        install()
    buffer = ctypes.create_string_buffer(argument, 64)
    return call("ioctl", terminal, request, ctypes.addressof(buffer))


@pytest.mark.needs("root")
@pytest.mark.parametrize("high", [0, HIGH, 0xFFFFFFFF << 32, 1 << 63])
@pytest.mark.parametrize(("request_", "argument"), [(TIOCSTI, b"x"), (TIOCLINUX, b"\x02"), (TIOCSETD, b"\0\0\0\0")])
def test_typing_into_the_terminal_is_refused(request_: int, argument: bytes, high: int, in_child: InChild) -> None:
    """And another line discipline; with any high half of the request, because the kernel ignores that half.

    Without the filter the answer is not EPERM.
    """
    assert in_child(in_terminal, high | request_, argument, True) == errno.EPERM
    assert in_child(in_terminal, high | request_, argument, False) != errno.EPERM


@pytest.mark.parametrize("request_", [termios.TIOCGWINSZ, termios.TCGETS, HIGH | termios.TIOCGWINSZ, termios.FIONREAD])
def test_other_requests_to_the_terminal_work(request_: int, in_child: InChild) -> None:
    """The neighbours of the refused numbers are not refused with them."""
    assert in_child(in_terminal, request_, b"", True) == 0


OTHER_ABIS = {
    "i386": 'int main(void) { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : : "memory"); return 0; }',
    "x32": "#include <unistd.h>\nint main(void) { syscall(0x40000000 | 39); return 0; }",
    "i386_in_a_thread": """
#include <pthread.h>
static void *other(void *unused) { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : : "memory"); return unused; }
int main(void) { pthread_t thread; pthread_create(&thread, 0, other, 0); pthread_join(thread, 0); return 0; }
""",
    "x32_ioctl": "#include <unistd.h>\nint main(void) { syscall(0x40000000 | 514, 0, 0x5412, 0); return 0; }",
}


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("abi", OTHER_ABIS)
def test_other_abi_kills(abi: str, tmp_path: Path) -> None:
    """A call of another ABI ends the whole process with SIGSYS, and without the filter it does not."""
    source, program = tmp_path / "other.c", tmp_path / "other"
    source.write_text(OTHER_ABIS[abi])
    subprocess.run(["gcc", "-o", program, source], check=True)
    assert subprocess.run([program], preexec_fn=install).returncode == -signal.SIGSYS
    assert subprocess.run([program]).returncode != -signal.SIGSYS


PYTHON = """
import asyncio, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading, time

done = []
threads = [threading.Thread(target=done.append, args=(i,)) for i in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert sorted(done) == list(range(8))
assert subprocess.run("echo a | cat; exit 3", shell=True, capture_output=True).returncode == 3
subprocess.run(["true"], check=True, start_new_session=True, close_fds=True)
assert socket.getaddrinfo("127.0.0.1", 80) and socket.if_nameindex()
with tempfile.NamedTemporaryFile() as file:
    sqlite3.connect(file.name).execute("create table t (a)")
with multiprocessing.Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]

async def talk():
    async def answer(reader, writer):
        writer.write(await reader.readline()); writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n")
    assert await reader.readline() == b"hello\\n"
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0
    writer.close(); server.close()

asyncio.run(talk())
print("fine")
"""
SHELL = "seq 100 | sort -rn | head -3 | tr '\\n' ' '; (sleep 0 & wait); d=$(mktemp -d); touch $d/a; ls $d; rm -r $d"
NODE = """
const fs = require("fs"), net = require("net"), { Worker } = require("worker_threads");
require("child_process").execFileSync("true");
fs.readFileSync("/etc/passwd");
const server = net.createServer(s => s.end("x")).listen(0, "127.0.0.1", () =>
  net.connect(server.address().port, "127.0.0.1").on("data", () => {
    server.close();
    new Worker("1", { eval: true }).on("exit", code => process.stdout.write("fine " + code));
  }));
"""
# Programs that only some hosts have; a host without them tests the others.
OPTIONAL = {
    "node": (["node", "-e", NODE], "fine 0"),
    "java": (["java", "-XX:+UseG1GC", "-XshowSettings:vm", "-version"], ""),
    "perl": (["perl", "-e", "print `echo fine`"], "fine\n"),
    "git": (["git", "--version"], "git version"),
}
PROGRAMS = {
    "python": ([sys.executable, "-c", PYTHON], "fine\n"),
    "shell": (["sh", "-c", SHELL], "100 99 98 a\n"),
    **{name: row for name, row in OPTIONAL.items() if shutil.which(name)},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_ordinary_program_works(name: str) -> None:
    """Threads, processes, sockets, event loops and just-in-time compilers need nothing that is refused."""
    command, output = PROGRAMS[name]
    done = subprocess.run(command, preexec_fn=install, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(output)


@pytest.mark.needs("gcc")
def test_compiler_works(tmp_path: Path) -> None:
    """And so does what it made, linked statically and not."""
    source = tmp_path / "hello.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n')
    for option in ("-static", "-pie"):
        subprocess.run(["gcc", option, "-o", tmp_path / "hello", source], check=True, preexec_fn=install)
        assert subprocess.run([tmp_path / "hello"], preexec_fn=install, capture_output=True).stdout == b"hello\n"


@pytest.mark.needs("busybox")
def test_web_server_serves(tmp_path: Path) -> None:
    """busybox httpd and wget, both under the filter, over the loopback device."""
    (tmp_path / "index.html").write_text("page")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fetch = ["busybox", "wget", "-q", "-O", "-", f"http://127.0.0.1:{listener.getsockname()[1]}/"]
        client = subprocess.Popen(fetch, preexec_fn=install, stdout=subprocess.PIPE)
        connection = listener.accept()[0]
    with client, connection:
        serve = ["busybox", "httpd", "-i", "-h", str(tmp_path)]
        subprocess.run(serve, preexec_fn=install, stdin=connection, stdout=connection, check=True, timeout=20)
        connection.close()
        assert client.communicate(timeout=20)[0] == b"page"
