"""Processes: none outside is seen or reached, init is out of reach, and nothing of the launcher is inside."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.kernel.adversary.base import Answer, Check, Expected, call, is_value, refused, says, tells
from tests.kernel.adversary.run import View
from tests.support import processes

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206
SIGKILL, SIGSTOP = 9, 19


def _outside(view: View) -> Answer:
    """Which ways of naming the test process, by its pid on the host, find one inside."""
    pid, ways = os.getpid(), []
    for name, words in {
        "kill": call("kill", pid, 0),
        "tkill": call("tkill", pid, 0),
        "tgkill": call("tgkill", pid, pid, 0),
        "pidfd_open": call("pidfd_open", pid, 0),
        "getpgid": call("getpgid", pid),
        "getsid": call("getsid", pid),
        "getpriority": call("getpriority", 0, pid),
        "sched_getaffinity": call("sched_getaffinity", pid, 128, "b:128"),
        "prlimit64": call("prlimit64", pid, 7, 0, "b:16"),
        "get_robust_list": call("get_robust_list", pid, "b:8", "b:8"),
        "proc": ("stat", f"/proc/{pid}"),
        "ioprio_get": call("ioprio_get", 1, pid),
    }.items():
        if view.ask(*words).error not in ("ESRCH", "ENOENT"):
            ways.append(name)
    return Answer(text=" ".join(ways))


def _signals(view: View) -> Answer:
    """The state of init after the signals that its own id may send it; those that it forwards are not among them."""
    for number in (SIGKILL, SIGSTOP):
        view.ask(*call("kill", 1, number))
        view.ask(*call("tgkill", 1, 1, number))
    state = Path(f"/proc/{view.sandbox.init_pid}/stat").read_text().rpartition(")")[2].split()[0]
    return Answer(text=state)


def _environment(view: View) -> Answer:
    """Init's environment and words, as the host sees them."""
    directory = f"/proc/{view.sandbox.init_pid}"
    return Answer(text=Path(f"{directory}/environ").read_text() + Path(f"{directory}/cmdline").read_text())


def _status(view: View) -> dict[str, str]:
    text = Path(f"/proc/{view.sandbox.init_pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


_KEPT = tuple(f"{0:016x} {kept:016x} {0:016x} 1" for kept in (1 << 5, 1 << 5 | 1 << 19))


def _init_capabilities(view: View) -> Answer:
    rows = _status(view)
    return Answer(text=" ".join(rows[name] for name in ("CapInh", "CapPrm", "CapAmb", "NoNewPrivs")))


def _init_fds(view: View) -> Answer:
    """What init has open besides sockets and what the kernel makes for itself."""
    directory = Path(f"/proc/{view.sandbox.init_pid}/fd")
    targets = (os.readlink(path) for path in directory.iterdir())
    return Answer(text=" ".join(sorted(t for t in targets if t.startswith("/") and t not in ("/dev/null",))))


def _orphans(view: View) -> Answer:
    """How many dead children init has, once a daemon has left it one that ended at once."""
    view.ask("daemon")
    init = view.sandbox.init_pid

    def dead() -> list[int]:
        return [p.pid for p in processes.descendants(init) if p.state == "Z"]

    deadline = time.monotonic() + 10
    while (left := dead()) and time.monotonic() < deadline:
        time.sleep(0.01)  # nothing tells the outside when init has reaped
    return Answer(value=len(left))


def _newcomers(view: View) -> Answer:
    """What a process with the same ids sees of commands that are run in the sandbox, while they come in."""

    def come_in() -> None:
        for _ in range(5):
            view.beside(("ids",))

    seen: set[str] = set()
    for _ in range(5):  # on a busy host nobody may have come in time
        seen |= set(view.ask("watch", "1500", meanwhile=come_in).text.splitlines())
        if f"exe={view.program}" in seen:
            break
    # Of the command itself, when it is there.
    own = {f"exe={view.program}", "root=/", "cwd=/", "fd=pipe", "environ=PATH", f"fd=/proc/{view.pid}"}
    return Answer(text=" ".join(sorted(seen - own)), value=f"exe={view.program}" in seen)


_REACH = "init is neither traced nor read"
_INIT: dict[str, tuple[str, ...]] = {
    "ptrace-attach": call("ptrace", PTRACE_ATTACH, 1, 0, 0),
    "ptrace-seize": call("ptrace", PTRACE_SEIZE, 1, 0, 0),
    "process-vm-readv": call("process_vm_readv", 1, "b:16", 1, "b:16", 1, 0),
    "process-vm-writev": call("process_vm_writev", 1, "b:16", 1, "b:16", 1, 0),
    "kcmp": call("kcmp", 1, 1, 0, 0, 0),
    "pidfd-getfd": call("pidfd_getfd", 0, 0, 0),
    "process-madvise": call("process_madvise", 0, "b:16", 1, 0, 0),
    "setns-by-fd": call("setns", 0, 0),
}

CHECKS: tuple[Check, ...] = (
    Check("nobody-outside", _outside, says(""), "no process outside has a pid inside", "pid"),
    Check(
        "only-own-group",
        ("ids",),
        tells("is below 1000", lambda text: max(map(int, text.split())) < 1000),
        "group and session are its own",
        "pid",
    ),
    Check(
        "environment",
        ("read", "/proc/self/environ"),
        tells("is PATH alone", lambda text: [w.split("=")[0] for w in text.split("\0") if w] == ["PATH"]),
        "the caller's environment stays outside",
        "environment",
    ),
    Check(
        "init-without-environment",
        _environment,
        tells("says nothing of the launcher", lambda text: "SECRET" not in text and "pytest" not in text),
        "init has nothing of the launcher",
        "exec_init",
        only="root",
    ),
    Check(
        "init-capabilities",
        _init_capabilities,
        tells("are CAP_KILL, and CAP_SYS_PTRACE where it answers sysinfo", lambda text: text in _KEPT),
        "init keeps CAP_KILL alone, and CAP_SYS_PTRACE where it answers sysinfo(2)",
        "init",
    ),
    Check("init-fds", _init_fds, says(""), "init has no file of the host open", "init", only="root"),
    Check("orphans-reaped", _orphans, is_value(0), "what nobody waits for is reaped", "init"),
    Check("kill-init", call("kill", 1, SIGKILL), refused("EPERM"), "init cannot be killed", "init"),
    *(Check(f"init-{name}", ask, refused("EPERM"), _REACH, "seccomp") for name, ask in _INIT.items()),
    Check(
        "init-executable",
        ("write_exe", "1"),
        refused("ENOENT", "EACCES"),
        "init's program is not written (CVE-2019-5736)",
        "init",
    ),
    Check(
        "own-executable", ("write_exe", "self"), refused("ETXTBSY", "EROFS", "EACCES"), "nor the command's", "read-only"
    ),
)
_SEEN = Expected("sees the command, and nothing before it", lambda got: bool(got.value) and not got.text)
AS_ROOT: tuple[Check, ...] = (
    Check("newcomers", _newcomers, _SEEN, "who comes in is not looked into on the way (CVE-2016-9962)", "init"),
    Check(
        "init-lives",
        _signals,
        tells("is S", lambda text: text in ("S", "R")),
        "no signal of its own id ends or stops init",
        "pid",
    ),
    Check(
        "root-init-executable",
        ("write_exe", "1"),
        refused("ENOENT", "EACCES", "EPERM"),
        "init's program is not written",
        "init",
    ),
    *(Check(f"root-init-{name}", ask, refused("EPERM"), _REACH, "seccomp") for name, ask in _INIT.items()),
)
