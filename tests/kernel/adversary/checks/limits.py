"""What can be used up: memory wherever it hides, tasks, fds, scratch space; and no priority can be taken."""

from __future__ import annotations

import os
from pathlib import Path

from nstool import syscalls, uapi
from tests.kernel.adversary.base import Answer, Check, Expected, call, ended, refused, says, tells
from tests.kernel.adversary.run import View

MIB = 1 << 20
MEMORY, PIDS = 48 * MIB, 40  # small ones, so that reaching them takes no time


def _cgroup(controller: str, *names: str) -> object:
    """What a file of the sandbox's cgroup says outside; the first name that is there."""

    def look(view: View) -> Answer:
        directory = Path(view.sandbox.cgroups.get(controller, "/nowhere"))
        found = next((directory / name for name in names if (directory / name).exists()), None)
        return Answer(text=found.read_text() if found else "no limit")

    return look


def _schedules(view: View) -> Answer:
    """The scheduling policies above the usual one that can be had."""
    return Answer(
        text=" ".join(name for name, n in (("FIFO", 1), ("RR", 2)) if view.ask("realtime", str(n)).error != "EPERM")
    )


def _owner(view: View) -> Answer:
    """Who owns the sandbox's user namespace: what is made in it counts for them."""
    fd = os.open(f"/proc/{view.pid}/ns/user", os.O_RDONLY)
    try:
        return Answer(text=str(syscalls.ns_get_owner_uid(fd)))
    finally:
        os.close(fd)


_HARD = {
    "nofile": 1024,
    "memlock": 64 << 10,
    "sigpending": 1024,
    "msgqueue": 256 << 10,
    "nice": 0,
    "rtprio": 0,
}


def _ends(least: int, most: int, *errors: str) -> Expected:
    """It is refused from some number on, which lies between these."""
    words = str(most) if least == most else f"{least} to {most}"
    return Expected(
        f"ends at {words} with {' or '.join(errors)}",
        lambda got: not got.signal and got.error in errors and least <= got.value <= most,
    )


_KILLED = ended("SIGKILL")
_SCRATCH = Expected("ends at 64 MiB with ENOSPC", lambda got: got.error == "ENOSPC" and int(got.text) <= 64 * MIB)

_SHARE = tells("is a tenth of the usual", lambda text: text.strip() in ("102", "10"))
DEFAULTS: tuple[Check, ...] = (
    Check(
        "memory-limit",
        _cgroup("memory", "memory.limit_in_bytes", "memory.max"),
        says(str(512 * MIB)),
        "512 MiB",
        "limits",
        only="root",
    ),
    Check("task-limit", _cgroup("pids", "pids.max"), says("256"), "256 tasks", "limits", only="root"),
    Check("cpu-share", _cgroup("cpu", "cpu.shares", "cpu.weight"), _SHARE, "a tenth of it", "limits", only="root"),
    *(
        Check(
            f"hard-limit-{name}",
            ("raise", str(uapi.RLIMITS[name])),
            Expected(
                f"is {value} and cannot be raised",
                lambda got, value=value: got.error == "EPERM" and got.text == str(value),
            ),
            "a limit that holds",
            "rlimits",
        )  # type: ignore[misc]
        for name, value in _HARD.items()
    ),
    # With any other the kernel runs a program that kernel.core_pattern names: fs/coredump.c
    Check("core-stays", ("core",), says("1 1"), "no limit of core dumps but 1", "seccomp"),
    Check(
        "fds",
        ("open_many",),
        Expected("ends at 1024", lambda got: got.error == "EMFILE" and 1000 < got.value <= 1024),
        "fds run out",
        "rlimits",
    ),
    Check("signals", ("use_up", "pending"), _ends(1020, 1024, "EAGAIN"), "signals that wait are limited", "rlimits"),
    Check("queues", ("use_up", "queues"), _ends(3, 3, "EMFILE"), "memory of queues is limited", "rlimits"),
    Check("terminals", ("use_up", "terminals"), _ends(63, 64, "ENOSPC"), "terminals are limited", "pts"),
    Check("aio", ("use_up", "requests"), _ends(0, 0, "EPERM"), "none of the host's requests of aio", "seccomp"),
    Check("inotify", ("use_up", "instances"), _ends(16, 16, "EMFILE"), "instances of inotify are limited", "ucounts"),
    Check("watches", ("use_up", "watches"), _ends(8192, 8192, "ENOSPC"), "watches are limited", "ucounts"),
    Check(
        "owner",
        _owner,
        tells("is not root", lambda text: int(text) >= 0x70000000),
        "what is made inside does not count for root",
        "owner",
        only="root",
    ),
    Check("realtime", _schedules, says(""), "no real-time scheduling", "capabilities"),
    Check("nice", ("nice", "-5"), refused("EACCES", "EPERM"), "no higher priority", "capabilities"),
    Check("io-priority", call("ioprio_set", 1, 0, 1 << 13), refused("EPERM"), "no real-time io", "capabilities"),
    Check(
        "mlockall",
        call("mlock2", "b:1000000", 1000000, 0),
        refused("ENOMEM", "EPERM"),
        "64 KiB of locked memory",
        "rlimits",
    ),
    Check("scratch-tmp", ("fill", "/tmp/fill", str(80 * MIB)), _SCRATCH, "scratch space is limited", "scratch"),
    Check("scratch-var-tmp", ("fill", "/var/tmp/fill", str(80 * MIB)), _SCRATCH, "scratch space is limited", "scratch"),
    Check("scratch-shm", ("fill", "/dev/shm/fill", str(80 * MIB)), _SCRATCH, "scratch space is limited", "scratch"),
)
WRITABLE: tuple[Check, ...] = (
    Check("writable-root", ("fill", "/fill", str(80 * MIB)), _SCRATCH, "a thrown-away layer has a size", "scratch"),
)
# Each in a sandbox of its own: what has filled its memory is not all given back, and the kernel kills again.
MEMORY_REACHED: tuple[Check, ...] = tuple(
    Check(f"memory-{name}", ("fill", how, str(2 * MEMORY)), _KILLED, why, "limits", only="root")
    for name, how, why in (
        ("of-a-process", "anonymous", "memory is limited"),
        ("of-a-memfd", "memfd", "files in memory count"),
        ("of-tmp", "/tmp/fill", "what is in /tmp counts"),
        ("of-shm", "/dev/shm/fill", "what is in /dev/shm counts"),
    )
)
# Of the sockets the kernel counts pages, of which the bytes are a part.
_BUFFERS = Expected("ends below the limit", lambda got: not got.signal and 0 < got.value < MEMORY)
BUFFERS: tuple[Check, ...] = (
    Check("tcp-buffers", ("use_up", "buffers", str(2 * MEMORY)), _BUFFERS, "what sockets buffer counts", "limits"),
)
_TASKS = Expected("ends below the limit", lambda got: got.value < PIDS)
TASKS: tuple[Check, ...] = (Check("tasks", ("fork_many", "200"), _TASKS, "tasks are limited", "limits", only="root"),)
