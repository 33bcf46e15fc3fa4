"""THE table of namespace types; everything else reads it."""

from __future__ import annotations

from nstool import uapi
from nstool.frozen import Frozen


class Kind(Frozen):
    """One namespace type: its name in the spec and in /proc/PID/ns, its clone flag, its man page."""

    name: str
    flag: int
    children: bool  # unshare(2) holds for later children only, not for the caller; setns(2) too, but for time
    man: str
    isolates: str

    @property
    def children_file(self) -> str:
        """The /proc/PID/ns file that later children will be in."""
        return f"{self.name}_for_children" if self.children else self.name


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("user", uapi.CLONE_NEWUSER, False, "user_namespaces(7)", "user and group ids, capabilities, keyrings"),
        Kind("mnt", uapi.CLONE_NEWNS, False, "mount_namespaces(7)", "mount points"),
        Kind("pid", uapi.CLONE_NEWPID, True, "pid_namespaces(7)", "process ids"),
        Kind("net", uapi.CLONE_NEWNET, False, "network_namespaces(7)", "network devices, stacks, ports"),
        Kind("uts", uapi.CLONE_NEWUTS, False, "uts_namespaces(7)", "host name and NIS domain name"),
        Kind("ipc", uapi.CLONE_NEWIPC, False, "ipc_namespaces(7)", "System V IPC, POSIX message queues"),
        Kind("cgroup", uapi.CLONE_NEWCGROUP, False, "cgroup_namespaces(7)", "cgroup root directory"),
        Kind("time", uapi.CLONE_NEWTIME, True, "time_namespaces(7)", "boot and monotonic clocks"),
    )
}

# setns(2) needs the user namespace first where the others belong to it, and mnt last,
# because it changes what every path means.
JOIN_ORDER: tuple[str, ...] = ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")

INITIAL_USERNS = "user:[4026531837]"  # PROC_USER_INIT_INO, linux/proc_ns.h
