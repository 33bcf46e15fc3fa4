"""What can be used up: memory wherever it hides, tasks, fds, scratch space; and no priority can be taken."""

from __future__ import annotations

import resource
from pathlib import Path

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


_HARD = {"nofile": 4096, "core": 0, "memlock": 64 << 10}
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
            ("raise", str(getattr(resource, f"RLIMIT_{name.upper()}"))),
            Expected(
                f"is {value} and cannot be raised",
                lambda got, value=value: got.error == "EPERM" and got.text == str(value),
            ),
            "a limit that holds",
            "rlimits",
        )  # type: ignore[misc]
        for name, value in _HARD.items()
    ),
    Check(
        "fds",
        ("open_many",),
        Expected("ends at 4096", lambda got: got.error == "EMFILE" and 4000 < got.value <= 4096),
        "fds run out",
        "rlimits",
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
_TASKS = Expected("ends below the limit", lambda got: got.value < PIDS)
TASKS: tuple[Check, ...] = (Check("tasks", ("fork_many", "200"), _TASKS, "tasks are limited", "limits", only="root"),)
