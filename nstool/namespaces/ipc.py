"""The IPC namespace: limits of System V objects and POSIX queues. ipc_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.plan.steps import INIT, Step
from nstool.spec.model import Spec

# spec field → file; the kernel shows the files of the writer's own namespace. proc_sys_kernel(5), mq_overview(7).
FILES: dict[str, str] = {
    "shmmax": "/proc/sys/kernel/shmmax",
    "shmall": "/proc/sys/kernel/shmall",
    "shmmni": "/proc/sys/kernel/shmmni",
    "msgmax": "/proc/sys/kernel/msgmax",
    "msgmnb": "/proc/sys/kernel/msgmnb",
    "msgmni": "/proc/sys/kernel/msgmni",
    "sem": "/proc/sys/kernel/sem",
    "mq_queues_max": "/proc/sys/fs/mqueue/queues_max",
    "mq_msg_max": "/proc/sys/fs/mqueue/msg_max",
    "mq_msgsize_max": "/proc/sys/fs/mqueue/msgsize_max",
}


def steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of init that set the limits, before /proc/sys becomes read-only."""
    wanted = spec.ipc.asdict()
    return tuple(
        Step(
            INIT,
            "write_file",
            (uapi.AT_FDCWD, path, f"{wanted[field]}\n", 0, 0),
            f"ipc.{field}",
            man="proc_sys_kernel(5)",
        )
        for field, path in FILES.items()
        if wanted[field]
    )
