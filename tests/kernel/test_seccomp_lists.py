"""Lists of system calls in sandboxes: what the command is answered, and what the kernel says its filter is."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, SpecError
from nstool.sandbox import host
from nstool.sandbox.launch import launch, preview
from nstool.security import seccomp
from nstool.security.seccomp_read import program_of
from nstool.spec.load import loads
from nstool.spec.model import Limits, Mount, Seccomp, SeccompCall, SeccompWhere, Spec
from tests.support import plans
from tests.support.user import User

pytestmark = pytest.mark.needs("root", "native", "seccomp")

NSTOOL = Path(sys.executable).parent / "nstool"
NSEXEC = Path(sys.executable).parent / "nsexec"
UNLIMITED = Limits(memory=0, pids=0, cpu=0)
GETPPID, MOUNT = 110, 165
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_SECCOMP_GET_FILTER = 17, 0x4206, 0x4207, 0x420C
libc = ctypes.CDLL(None, use_errno=True)


def spec(name: str, *command: str, **changes: Any) -> Spec:
    """A sandbox without cgroups."""
    words = {"name": name, "terminal": "never", "limits": UNLIMITED, "proc_subset": "pid"} | changes
    return Spec(command=command, **words)


CALLER = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
told = []
for number, *args in json.loads(sys.argv[1]):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(arg & (1 << 64) - 1) for arg in args))
    told.append(ctypes.get_errno() if result == -1 else 0)
print(json.dumps(told))
"""


def errnos(words: Spec, *calls: tuple[int, ...]) -> list[int]:
    """What each call fails with in a sandbox, 0 for none."""
    reader, writer = os.pipe()
    command = ("/usr/bin/python3", "-c", CALLER, json.dumps(calls))
    with open(reader, "rb") as pipe, launch(words.replace(command=command), stdout=writer) as sandbox:
        os.close(writer)
        text = pipe.read()
        assert sandbox.wait(60).status == 0
    found: list[int] = json.loads(text)
    return found


def call(name: str, *where: tuple[int, str, int]) -> SeccompCall:
    """An entry."""
    return SeccompCall(name, tuple(SeccompWhere(*one) for one in where))


def run(*words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run nstool run."""
    return nstool("run", *words, **how)


def nstool(*words: object, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run nstool."""
    return subprocess.run([NSTOOL, *map(str, words)], capture_output=True, text=True, timeout=90, **how)


NO_LIMITS = ("--memory", "0", "--pids", "0", "--cpu", "0")

# ---- what the command is answered ----


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        (Seccomp(), [0, errno.EPERM, 0]),
        (Seccomp("default", refuse=(call("getppid"),)), [errno.EPERM, errno.EPERM, 0]),
        (Seccomp("default", refuse=(call("getppid"),), errno="EXFULL"), [errno.EXFULL, errno.EXFULL, 0]),
        (Seccomp("default", allow=(call("@mount"),)), [0, errno.EFAULT, 0]),
        (Seccomp("strict"), [0, errno.EPERM, errno.EPERM]),
        (Seccomp("strict", allow=(call("personality", (0, "==", 0xFFFFFFFF)),)), [0, errno.EPERM, 0]),
        (Seccomp("none", refuse=(call("@mount"),)), [0, errno.EPERM, 0]),
        (Seccomp("none"), [0, errno.EFAULT, 0]),
        (Seccomp("default", action="log"), [0, errno.EFAULT, 0]),
    ],
)
def test_words_change_what_the_command_is_answered(words: Seccomp, answers: list[int], name: str) -> None:
    """By call, by group, with conditions; under "log" a refused call reaches the kernel."""
    calls = ((GETPPID,), (MOUNT, 1, 1, 1, 0, 0), (135, 0xFFFFFFFF))
    assert errnos(spec(name, seccomp=words), *calls) == answers


def test_conditions_hold_in_the_bits_that_the_kernel_looks_at(name: str) -> None:
    """A refusal of one value of an int is not got around by the high half of the register."""
    words = Seccomp("default", refuse=(call("dup", (0, "==", 1)),), errno="EXFULL")
    high = 1 << 32
    assert errnos(spec(name, seccomp=words), (32, 1), (32, high | 1), (32, 2), (32, high | 2)) == [
        *(errno.EXFULL, errno.EXFULL),
        *(0, 0),
    ]


def test_a_refused_call_kills_where_that_is_the_word(name: str) -> None:
    """The whole process, by SIGSYS, also when another thread made it."""
    words = spec(name, seccomp=Seccomp("default", refuse=(call("getppid"),), action="kill"))
    text = "import os, threading, time; threading.Thread(target=os.getppid).start(); time.sleep(60)"
    with launch(words.replace(command=("/usr/bin/python3", "-c", text))) as sandbox:
        assert sandbox.wait(60).signal == signal.SIGSYS


@pytest.mark.parametrize("word", ["default", "strict", "none"])
def test_typing_into_the_terminal_stays_refused(word: str, name: str) -> None:
    """By every list that is a list; a word without conditions does not lift it, one with them does."""
    sti = (16, 0, 0x5412, 0)
    refused, lifted = [errno.EPERM], [errno.ENOTTY]
    allow = Seccomp(word, allow=(call("ioctl"),))
    assert errnos(spec(name, seccomp=word), sti) == (lifted if word == "none" else refused)
    assert errnos(spec(f"{name}b", seccomp=allow), sti) == (lifted if word == "none" else refused)
    narrow = Seccomp(word, allow=(call("ioctl", (1, "==", 0x5412)),))
    assert errnos(spec(f"{name}c", seccomp=narrow), sti) == lifted


PYTHON = """
import json, os, socket, subprocess, tempfile, threading
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
assert subprocess.run(["sh", "-c", "seq 3 | sort -r | head -1"], capture_output=True).stdout == b"3\\n"
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
a, b = socket.socketpair(); a.send(b"x"); assert b.recv(1) == b"x"
with tempfile.TemporaryFile() as file: file.write(b"x")
print(socket.getaddrinfo("127.0.0.1", 80)[0][4][1])
try:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
except PermissionError:
    print("no netlink")
"""
COREUTILS = """
cd /tmp; mkdir a; echo x > a/b; cp -a a c; mv c d; ln -s b a/l; ls -la a d >/dev/null; chmod 600 a/b
touch -d 2020-01-01 a/b; cat a/b | tr x y | sed s/y/z/; stat -c %a a/b; du -s a >/dev/null; df /tmp >/dev/null
find . -type f | wc -l; rm -r a d; date >/dev/null; id -u; env | wc -l >/dev/null; tail -c 1 /etc/hostname >/dev/null
sleep 0.01; timeout 5 true; nice true; head -c 10 /dev/urandom | base64 >/dev/null; expr 1 + 1; mktemp >/dev/null
kill -0 $$; (exit 3) || echo $?; trap 'echo t' TERM; kill $$
"""


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("python3", "-c", PYTHON), "thread\n80\nno netlink\n"),
        (("sh", "-c", COREUTILS), "z\n600\n2\n1000\n2\n3\nt\n"),
    ],
    ids=["python", "coreutils"],
)
def test_strict_is_enough_for_ordinary_programs(command: tuple[str, ...], output: str) -> None:
    """An interpreter with threads, processes and sockets; a shell with what it calls."""
    done = run(*NO_LIMITS, "--seccomp", "strict", "--", *command)
    assert (done.stdout, done.stderr, done.returncode) == (output, "", 0)


@pytest.mark.needs("busybox", "veth", "nft")
def test_strict_is_enough_for_a_web_server(name: str, tmp_path: Path) -> None:
    """busybox httpd, asked over a link."""
    tmp_path.chmod(0o755)
    (tmp_path / "index.html").write_text("page")
    port = plans.free_port()
    words = ("busybox", "httpd", "-f", "-p", "80", "-h", "/srv")
    mounts = (Mount("/srv", str(tmp_path)),)
    text = f'command = []\nnet = {{ mode = "veth", publish = ["127.0.0.1:{port}:80"] }}\n'
    net = loads(text.replace("[]", '["x"]', 1)).net
    with launch(spec(name, *words, seccomp="strict", mounts=mounts, net=net, user="0:0", capabilities=BIND)) as sandbox:
        address = next(a for a in sandbox.lease.address.split("/"))
        page, deadline = b"", time.monotonic() + 60
        while not page and time.monotonic() < deadline:
            try:
                page = urllib.request.urlopen(f"http://{address}:80/", timeout=5).read()
            except OSError:
                assert not sandbox.ended
                time.sleep(0.02)
        assert page == b"page"


BIND = loads('command = ["x"]\nuser = "0"\ncapabilities = ["net_bind_service"]').capabilities


# ---- what the kernel says ----


@contextmanager
def seized(pid: int) -> Iterator[None]:
    """Have a process stopped and traced, by libc alone."""
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    assert libc.ptrace(PTRACE_SEIZE, pid, None, None) == 0, os.strerror(ctypes.get_errno())
    assert libc.ptrace(PTRACE_INTERRUPT, pid, None, None) == 0
    os.waitpid(pid, 0x40000000)
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, pid, None, None)


def filters(pid: int) -> list[bytes]:
    """The programs of a process's filters as the kernel has kept them, the last one first."""
    found: list[bytes] = []
    with seized(pid):
        while (length := libc.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(found), None)) > 0:
            buffer = ctypes.create_string_buffer(length * 8)
            libc.ptrace(PTRACE_SECCOMP_GET_FILTER, pid, len(found), buffer)
            found.append(buffer.raw)
    return found


SLEEP = ("sleep", "600")


@pytest.mark.needs("seccomp_get_filter")
@pytest.mark.parametrize(
    "words",
    [
        "default",
        "strict",
        Seccomp("strict", allow=(call("@aio"), call("socket", (0, "==", 16))), refuse=(call("kill"),)),
        Seccomp("none", refuse=(call("getppid", (0, "<", 7), (0, ">", 3)),), action="kill"),
    ],
    ids=["default", "strict", "table", "ranges"],
)
def test_the_filter_of_the_command_is_what_was_compiled(words: str | Seccomp, name: str) -> None:
    """Read back from outside, byte by byte, and there is no other; of a command that comes later too."""
    own = len(filters_of_ours())
    with launch(spec(name, *SLEEP, seccomp=words)) as sandbox:
        found = filters(sandbox.pid)
        assert found[: len(found) - own] == [program_of(words)]
        with sandbox.exec("sleep", "600"):
            (pid,) = set(inside(sandbox.init_pid)) - {sandbox.init_pid, sandbox.pid}
            assert filters(pid) == found


def filters_of_ours() -> list[str]:
    """As many items as this process has filters, which its children inherit."""
    with open("/proc/self/status") as file:
        (count,) = (int(line.split()[1]) for line in file if line.startswith("Seccomp_filters:"))
    return [""] * count


def inside(init: int) -> list[int]:
    """The pids of all processes in the pid namespace of an init."""
    wanted = os.stat(f"/proc/{init}/ns/pid").st_ino
    found = []
    for word in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{word}/ns/pid").st_ino == wanted:
                found.append(int(word))
        except (FileNotFoundError, PermissionError):  # it has just ended, or is none of ours
            continue
    return found


@pytest.mark.needs("seccomp_get_filter")
def test_a_later_command_gets_the_list_as_it_was(name: str, tmp_path: Path) -> None:
    """Not what the file says now, nor is the file needed any more."""
    path = tmp_path / "list.toml"
    path.write_text('base = "default"\nrefuse = ["getppid"]\nerrno = "EXFULL"\n')
    program = program_of(str(path))
    with launch(spec(name, *SLEEP, seccomp=str(path))) as sandbox:
        path.unlink()
        assert filters(sandbox.pid)[0] == program
        text = "import os, ctypes; l = ctypes.CDLL(None, use_errno=True); print(l.syscall(110), ctypes.get_errno())"
        done = nstool("exec", name, "--", "/usr/bin/python3", "-c", text)
        assert done.stdout == f"-1 {errno.EXFULL}\n"
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe, sandbox.exec("/usr/bin/python3", "-c", text, stdout=writer) as joined:
            os.close(writer)
            assert joined.wait(60).status == 0
            assert pipe.read() == done.stdout.encode()


@pytest.mark.needs("seccomp_get_filter")
def test_init_beside_a_command_with_capabilities_can_do_its_own(name: str) -> None:
    """Its filter is the command's and the calls that it makes; it still passes signals on, and tells of the end."""
    capabilities = loads('command = ["x"]\nuser = "0"\ncapabilities = ["kill"]').capabilities
    few = Seccomp("empty", allow=tuple(call(name) for name in FEW.split()))
    with launch(spec(name, *SLEEP, seccomp=few, user="0:0", capabilities=capabilities)) as sandbox:
        command, init = filters(sandbox.pid)[0], filters(sandbox.init_pid)[0]
        assert command == program_of(few)
        assert init == seccomp.for_init(command) != command
        sandbox.signal(signal.SIGTERM)
        assert sandbox.wait(60).signal == signal.SIGTERM


FEW = (
    "execve exit exit_group read write brk mmap munmap mprotect openat close newfstatat fstat pread64 access "
    "arch_prctl set_tid_address set_robust_list rseq prlimit64 getrandom clock_nanosleep restart_syscall rt_sigreturn"
)


def test_the_plan_says_which_list_it_is(name: str) -> None:
    """And has the program that is loaded."""
    words = Seccomp("strict", allow=(call("@mount"),), action="kill")
    (step,) = (step for step in preview(spec(name, "true", seccomp=words)).steps if step.call == "seccomp")
    assert step.why == "the strict list of system calls, 1 allowed, refused calls kill, last"
    assert step.args == (0, program_of(words))


def test_a_compiled_plan_has_its_list_in_it(tmp_path: Path) -> None:
    """nsexec needs neither Python nor the list's file."""
    path, plan = tmp_path / "list.toml", tmp_path / "x.plan"
    path.write_text('base = "default"\nrefuse = ["mkdir", "mkdirat"]\nerrno = "EXFULL"\n')
    done = nstool("compile", "-o", plan, *NO_LIMITS, "--seccomp", path, "--", "mkdir", "/tmp/x")
    assert done.returncode == 0, done.stderr
    path.unlink()
    ran = subprocess.run([NSEXEC, plan], capture_output=True, text=True, timeout=60, env={"LC_ALL": "C"})
    assert ran.returncode == 1
    assert os.strerror(errno.EXFULL) in ran.stderr


# ---- files ----


def oci(**more: Any) -> str:
    """A list as Docker has it: all but mkdir, of which the answer is another one with CAP_SYS_ADMIN."""
    data = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            {
                "names": ["mkdir", "mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 54,
                "excludes": {"caps": ["CAP_KILL"]},
            },
            {
                "names": ["mkdir", "mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": 28,
                "includes": {"caps": ["CAP_KILL"]},
            },
        ],
    }
    return json.dumps(data | more)


KAFEL = (
    "#define NOENT 54\nPOLICY p { ERRNO(NOENT) { mkdir, mkdirat { dfd == -100, dfd == 7 } } }\nUSE p DEFAULT ALLOW\n"
)
TABLE = 'base = "none"\nrefuse = ["mkdir", "mkdirat"]\nerrno = "EXFULL"\n'
FILES = {"list.json": oci(), "list.kafel": KAFEL, "list.toml": TABLE, "a-list": KAFEL, "b-list": TABLE, "c-list": oci()}


@pytest.mark.parametrize("file", [*FILES, "list.bpf"])
def test_a_list_in_a_file_is_what_the_command_gets(file: str, tmp_path: Path) -> None:
    """In each language, known by the name of the file or by its text."""
    path = tmp_path / file
    if file.endswith(".bpf"):
        (tmp_path / "list.toml").write_text(TABLE)
        assert nstool("seccomp", "export", tmp_path / "list.toml", "--format", "bpf", "-o", path).returncode == 0
    else:
        path.write_text(FILES[file])
    done = run(*NO_LIMITS, "--seccomp", path, "--", "mkdir", "/tmp/x")
    assert done.returncode == 1
    assert os.strerror(errno.EXFULL) in done.stderr


@pytest.mark.parametrize("words", [(), ("--no-init",)], ids=" ".join)
def test_a_command_that_the_list_has_killed_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    """With where to learn which call it was; not of another signal, nor without a list."""
    killing = (*NO_LIMITS, *words, "--seccomp-action", "kill", "--")
    done = run(*killing, "mount", "-t", "tmpfs", "x", "/tmp")
    assert (done.returncode, done.stderr) == (
        159,
        "nstool: the command made a system call that is not allowed, which ended it (SIGSYS); "
        "nstool seccomp learn --seccomp-action log tells which\n",
    )
    assert run(*killing, "sh", "-c", "kill -TERM $$").stderr == ""
    assert run(*NO_LIMITS, *words, "--seccomp", "none", "--", "sh", "-c", "kill -SYS $$").stderr == ""


def test_a_path_starts_at_the_spec(tmp_path: Path) -> None:
    """Or at the working directory, in an option; a list can change another."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/one.json").write_text(oci())
    (tmp_path / "lists/two.toml").write_text('base = "one.json"\naction = "errno"\nerrno = "EDOM"\n')
    (tmp_path / "web.toml").write_text('command = ["mkdir", "/tmp/x"]\nseccomp = "lists/two.toml"\n')
    for words in (("web.toml",), ("--seccomp", "lists/two.toml", "--", "mkdir", "/tmp/x")):
        done = run(*NO_LIMITS, *words, cwd=tmp_path)
        assert os.strerror(errno.EDOM) in done.stderr
    done = run(
        *NO_LIMITS, "--seccomp", "lists/two.toml", "--seccomp-action", "log", "--", "mkdir", "/tmp/x", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_an_oci_list_includes_depends_on_the_capabilities_of_the_spec(tmp_path: Path) -> None:
    """As under Docker with --cap-add."""
    path = tmp_path / "list.json"
    path.write_text(oci())
    done = run(*NO_LIMITS, "--user", "0", "--cap", "kill", "--seccomp", path, "--", "mkdir", "/tmp/x")
    assert os.strerror(28) in done.stderr


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("x.json", "{", ": no JSON"),
        (
            "x.json",
            '{\n "defaultAction": "SCMP_ACT_ALOW"\n}',
            ':2: defaultAction: "SCMP_ACT_ALOW" is unknown; did you mean',
        ),
        ("x.json", oci(syscalls=[{"names": ["read"]}]), ":1: syscalls[0].action: "),
        ("x.kafel", "POLICY a {\n ALLOW { reed } }", ":2: reed is no system call of x86_64; did you mean read?"),
        ("x.toml", 'base = "default"\nalow = []\n', ':2: alow: unknown key "alow"; did you mean "allow"'),
        ("x.toml", 'base = "default"\n\nallow = ["mont"]\n', ':3: allow[0]: "mont" is no system call'),
        ("x.toml", "base = 3\n", ":1: base: expected a string"),
        ("x.toml", 'base = "x.toml"\n', "does one of them name itself?"),
        ("x.bpf", "12345678", ": no filter that the kernel takes: instruction 0: code"),
        ("x.bpf", "123", ": no filter that the kernel takes: 3 bytes"),
        (
            "x.toml",
            'base = "empty"\n',
            "answers execve(2) with errno EPERM, so that no command can start: allow execve",
        ),
        ("x.toml", 'base = "none"\nrefuse = ["write"]\n', "answers write(2) with errno EPERM"),
        ("x.toml", 'base = "none"\nrefuse = ["read(fd < 5)"]\naction = "kill"\n', "answers read(2) with kill process"),
        ("x.kafel", "ALLOW { read, write, execve }", "answers exit(2) with kill thread"),
        ("x.toml", 'base = "none"\nrefuse = ["write(fd == 0)", "read(count == 0)"]\n', None),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_done(file: str, text: str, told: str | None, tmp_path: Path) -> None:
    """With the file, the line or key, and what to do; in one line, with exit status 2."""
    (tmp_path / file).write_text(text)
    done = run(*NO_LIMITS, "--seccomp", tmp_path / file, "--", "true")
    if told is None:
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / file) in done.stderr or "--seccomp: " in done.stderr


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its path."""
    done = run("--seccomp", tmp_path / "none.json", "--", "true")
    said = f"--seccomp: {tmp_path}/none.json: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, f"nstool: {said}")
    for line, key in (
        (f'seccomp = "{tmp_path}/none.json"', "seccomp"),
        ('seccomp.base = "./none.json"', "seccomp.base"),
    ):
        (tmp_path / "web.toml").write_text(f'command = ["true"]\n{line}\n')
        done = run(*NO_LIMITS, tmp_path / "web.toml")
        assert done.stderr == f"nstool: {tmp_path}/web.toml:2: {key}: {tmp_path}/none.json: No such file or directory\n"


def test_a_compiled_filter_takes_no_words(tmp_path: Path) -> None:
    """It cannot be changed."""
    (tmp_path / "x.bpf").write_bytes(seccomp.load_filter("default"))
    done = run("--seccomp", tmp_path / "x.bpf", "--seccomp-allow", "mount", "--", "true")
    assert done.returncode == 2
    assert "a compiled filter cannot be changed" in done.stderr


OTHER_ABI = 'int main(void) { long r = 20; __asm__ volatile("int $0x80" : "+a"(r) : : "memory"); return 0; }'


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("file", ["list.bpf", "list.json", "list.kafel", "list.toml"])
def test_calls_of_another_abi_kill_under_every_list(file: str, tmp_path: Path) -> None:
    """Also where a compiled filter would allow them."""
    everything = {"list.json": oci(syscalls=[]), "list.kafel": "DEFAULT ALLOW", "list.toml": 'base = "none"'}
    path = tmp_path / file
    if file == "list.bpf":
        path.write_bytes(bytes.fromhex("060000000000ff7f"))
    else:
        path.write_text(everything[file])
    (tmp_path / "x.c").write_text(OTHER_ABI)
    subprocess.run(["gcc", "-static", "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    mount = ("--mount", f"{tmp_path / 'x'}:/tmp/x")
    assert run(*NO_LIMITS, *mount, "--seccomp", path, "--", "/tmp/x").returncode == 128 + signal.SIGSYS
    assert run(*NO_LIMITS, *mount, "--seccomp", "none", "--", "/tmp/x").returncode != 128 + signal.SIGSYS


# ---- nstool seccomp ----


@pytest.mark.parametrize(
    ("words", "answer", "status"),
    [
        (("default", "getppid"), "allow: processes and threads", 0),
        (("default", "mount"), "errno EPERM: the mount interface", 1),
        (("default", "unshare", "0x10000000"), "errno EPERM: no condition of it holds", 1),
        (("default", "unshare", "CLONE_FS"), "allow: own fds or working directory", 0),
        (("strict", "socket", "AF_NETLINK", "3", "0"), "errno EPERM", 1),
        (("default", "clone3"), "errno ENOSYS: its flags are in memory", 1),
        (("default", "499"), "errno ENOSYS: newer than the list", 1),
        (("none", "mount"), "allow: not named in the list", 0),
        (("default", "1073741825"), "kill process", 1),
        (("default", "ioctl", "0", "TIOCSTI"), "errno EPERM: TIOCSTI types into the terminal", 1),
    ],
)
def test_a_list_is_asked(words: tuple[str, ...], answer: str, status: int) -> None:
    """By the compiled filter; the exit status says whether the call goes through."""
    done = nstool("seccomp", "test", *words)
    assert done.returncode == status, done.stderr
    assert done.stdout.startswith(answer)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("test", "defualt", "read"), 'did you mean "default"'),
        (("test", "default", "reed"), 'CALL: "reed" is no system call'),
        (("test", "default", "@mount"), "CALL: "),
        (("test", "default", "read", "AF_INNET"), 'ARGS: "AF_INNET" is neither a number'),
        (("test", "default", "read", *"1234567"), "ARGS: a system call has at most six, 7 are given"),
        (("show", "/nowhere/x.json"), "/nowhere/x.json: No such file"),
        (("export", "default", "--format", "rust"), "rust"),
        (("learn", "-o", "/proc/self/status", "--", "true"), "exists"),
        (("learn", "-o", "/nowhere/calls.toml", "--", "true"), "/nowhere/calls.toml: its directory does not exist"),
        (("learn", "--add", "--", "true"), "--add: goes with -o FILE"),
        (("shwo", "default"), "no command 'shwo'; did you mean \"show\"?"),
    ],
)
def test_bad_words_are_refused(words: tuple[str, ...], told: str) -> None:
    """One line, exit status 2."""
    done = nstool("seccomp", *words)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert told in done.stderr


def test_show_has_every_call_with_its_answer() -> None:
    """The table has what the JSON has; of conditions each with its own reason."""
    found = json.loads(nstool("seccomp", "show", "strict", "--json").stdout)
    calls = {one["call"]: one for one in found["calls"]}
    assert len(calls) > 360
    assert (calls["mount"]["answer"], calls["read"]["answer"]) == ("errno EPERM", "allow")
    (rule,) = calls["clone"]["rules"]
    assert (rule["where"], rule["action"]) == ("clone_flags & 0x7e020000 == 0", "allow")
    text = nstool("seccomp", "show", "strict").stdout
    assert [name for name in calls if name not in text] == []


def test_the_list_of_a_spec_is_shown(tmp_path: Path) -> None:
    """With its changes."""
    (tmp_path / "web.toml").write_text('command = ["x"]\n[seccomp]\nbase = "strict"\nallow = ["@mount"]\n')
    found = json.loads(nstool("seccomp", "show", tmp_path / "web.toml", "--json").stdout)
    (mount,) = (one for one in found["calls"] if one["call"] == "mount")
    assert (found["list"], mount["answer"], mount["why"]) == (
        f"[seccomp] of {tmp_path}/web.toml",
        "allow",
        "allow: @mount",
    )


@pytest.mark.parametrize("form", ["oci", "bpf"])
@pytest.mark.parametrize("base", ["default", "strict"])
def test_an_exported_list_answers_alike(base: str, form: str, tmp_path: Path) -> None:
    """Every call, with arguments at the edges of what the list decides by."""
    path = tmp_path / f"x.{'json' if form == 'oci' else form}"
    assert nstool("seccomp", "export", base, "--format", form, "-o", path).returncode == 0
    from nstool.security import seccomp_bpf

    one, other = seccomp.load_filter(base), program_of(str(path))
    # Numbers without a name cannot be said in JSON: they get the default there.
    for number in range(470 if form == "oci" else 520):
        for args in ((), (2, 1, 6), (2, 3), (16, 3, 0), (0, 0x5412), (1 << 28,), (22,), (0x20008,), (1 << 40 | 2, 1)):
            assert seccomp_bpf.answer(one, number, args) == seccomp_bpf.answer(other, number, args), (number, args)


@pytest.mark.needs("gcc")
def test_exported_c_is_the_program(tmp_path: Path) -> None:
    """It compiles, and has the same bytes."""
    code = nstool("seccomp", "export", "strict", "--format", "c").stdout
    main = "int main(void) { fwrite(filter, sizeof filter, 1, stdout); return 0; }\n"
    (tmp_path / "x.c").write_text(f"#include <stdio.h>\n#include <linux/filter.h>\n{code}{main}")
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "x", tmp_path / "x.c"], check=True)
    assert subprocess.run([tmp_path / "x"], capture_output=True).stdout == seccomp.load_filter("strict")


# ---- learn ----

WORKS = textwrap.dedent(
    """
    import ctypes, os, socket, subprocess, threading
    thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
    print(subprocess.run(["sh", "-c", "echo x | cat"], capture_output=True).stdout)
    socket.create_server(("127.0.0.1", 0)).close()
    libc = ctypes.CDLL(None, use_errno=True)
    print(libc.unshare(0x10000000), ctypes.get_errno())
    """
)


def learn(path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Learn a list."""
    return nstool("seccomp", "learn", "-o", path, *NO_LIMITS, *words)


def test_a_learned_list_is_enough_for_the_command_and_for_no_other(tmp_path: Path) -> None:
    """Children and threads are seen; what was refused stays refused and is told; nothing is looser than before."""
    path = tmp_path / "calls.toml"
    first = learn(path, "--", "python3", "-c", WORKS)
    assert first.returncode == 0, first.stderr
    assert first.stdout == "thread\nb'x\\n'\n-1 1\n"
    assert "refused while it ran, and not in the list: clone3 (errno ENOSYS), unshare (errno EPERM)" in first.stderr
    again = run(*NO_LIMITS, "--seccomp", path, "--", "python3", "-c", WORKS)
    assert (again.returncode, again.stdout, again.stderr) == (0, first.stdout, "")
    other = run(*NO_LIMITS, "--seccomp", path, "--", "mkdir", "/tmp/x")
    assert other.returncode == 1
    assert "Operation not permitted" in other.stderr
    assert_no_looser(path, "default")


def assert_no_looser(path: Path, base: str) -> None:
    """No call goes through under the learned list that the base refuses."""
    from nstool.security import seccomp_bpf
    from nstool.security.seccomp_rules import refuses

    ours, theirs = program_of(str(path)), seccomp.load_filter(base)
    for number in range(520):
        for args in ((), (2, 1, 6), (2, 3), (16, 3, 0), (0, 0x5412), (1 << 28,), (22,), (0, 0x541C), (1 << 28 | 17,)):
            loose = not refuses(seccomp_bpf.answer(ours, number, args))
            assert not (loose and refuses(seccomp_bpf.answer(theirs, number, args))), (number, args)


def test_another_run_is_added(tmp_path: Path) -> None:
    """What the first needed stays in the list."""
    path = tmp_path / "calls.toml"
    assert learn(path, "--seccomp", "strict", "--", "true").returncode == 0
    assert learn(path, "--", "mkdir", "/tmp/x").returncode == 2
    added = learn(path, "--add", "--seccomp", "strict", "--", "mkdir", "/tmp/x")
    assert added.returncode == 0, added.stderr
    assert run(*NO_LIMITS, "--seccomp", path, "--", "true").returncode == 0
    assert run(*NO_LIMITS, "--seccomp", path, "--", "mkdir", "/tmp/x").returncode == 0
    assert run(*NO_LIMITS, "--seccomp", path, "--", "rmdir", "/tmp").returncode == 1
    assert_no_looser(path, "strict")


def test_what_would_be_refused_is_told_under_log(tmp_path: Path) -> None:
    """It is made then, and in the list, for so it was asked."""
    path = tmp_path / "calls.toml"
    text = "import ctypes; print(ctypes.CDLL(None).unshare(0x00020000))"  # CLONE_NEWNS, without the right to
    done = learn(path, "--seccomp-action", "log", "--", "python3", "-c", text)
    assert "made and logged, for action = log; in the list: unshare\n" in done.stderr
    assert '"unshare"' in path.read_text()


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 7", 7), ("kill -TERM $$", 143), ("(while sleep 0.2; do kill -CONT $$; done) & kill -STOP $$; exit 3", 3)],
)
def test_the_status_is_the_commands(script: str, status: int, tmp_path: Path) -> None:
    """Signals reach it as if nobody looked on."""
    assert learn(tmp_path / "calls.toml", "--", "sh", "-c", script).returncode == status


def test_a_command_that_cannot_be_run_is_told_as_ever(tmp_path: Path) -> None:
    """And no list is written."""
    done = learn(tmp_path / "calls.toml", "--", "/nowhere")
    assert (done.returncode, (tmp_path / "calls.toml").exists()) == (127, False)


def test_more_than_can_be_kept_is_told(tmp_path: Path) -> None:
    """And no list is written, for it would lack some."""
    text = "import ctypes; l = ctypes.CDLL(None); [l.syscall(16, -1, n) for n in range(5000)]"
    done = learn(tmp_path / "calls.toml", "--", "python3", "-c", text)
    assert (done.returncode, (tmp_path / "calls.toml").exists()) == (125, False)
    assert "more than 4096 different system calls and arguments" in done.stderr


@pytest.mark.needs("user", "userns")
def test_an_ordinary_user_can_learn(user: User) -> None:
    """Their sandbox is theirs to trace."""

    def act() -> tuple[int, str, str]:
        path = user.home / "calls.toml"
        path.unlink(missing_ok=True)
        done = learn(path, "--", "mkdir", "/tmp/x")
        again = run(*NO_LIMITS, "--seccomp", path, "--", "mkdir", "/tmp/x")
        return again.returncode, done.stderr, again.stderr

    status, first, second = user.run(act, timeout=120)
    assert (status, second) == (0, ""), first


def test_whoever_may_not_trace_is_told(name: str) -> None:
    """The command does not run then, and all is undone."""
    from nstool.sandbox.launch import Prepared
    from nstool.sandbox.tracing import Tracer

    with Tracer({}) as tracer:

        def busy(pid: int) -> None:
            with traced_by_us(pid):
                tracer.attach(pid)

        prepared = Prepared(spec(name, "true"), (), trace=busy)
        with pytest.raises(KernelError, match="PTRACE_SEIZE") as caught:
            prepared.launch()
    assert caught.value.errno == errno.EPERM
    assert "another tracer" in str(caught.value)


@contextmanager
def traced_by_us(pid: int) -> Iterator[None]:
    """Trace a process, which nobody else can then."""
    with seized(pid):
        yield


def test_a_list_must_be_compiled_for_a_plan() -> None:
    """By host.read, which says where a file is wrong."""
    with pytest.raises(SpecError) as caught:
        host.read(Spec(command=("true",), seccomp="/nowhere/x.json"))
    assert (caught.value.place, caught.value.message) == ("seccomp", "/nowhere/x.json: No such file or directory")
