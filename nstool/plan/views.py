"""What a sandbox reads in /proc where the kernel would tell of the host: texts made of its own limits. Pure.

The kernel has no namespace for memory, load, processors, disks and most of /proc/sys. What programs need to run is
shown as the limits say; the rest is empty. proc(5), sysctl(8).
"""

from __future__ import annotations

from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.spec.model import Spec

# What of /proc is shown as it is: it is of the sandbox's own namespaces.
SHOWN: tuple[str, ...] = ("mounts", "net", "self", "thread-self", "uptime")
# What is shown besides of a new ipc namespace, whose own objects it lists.
SHOWN_IPC = "sysvipc"
# Of /proc/sys: what is of a namespace is shown live, what programs ask before they do anything as the host has it.
LIVE: tuple[str, ...] = ("net", "fs/mqueue", "kernel/random/uuid")
IPC: tuple[str, ...] = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni")
SETTINGS: tuple[str, ...] = (
    *("fs/nr_open", "fs/pipe-max-size", "kernel/cap_last_cap", "kernel/ngroups_max", "kernel/osrelease"),
    *("kernel/ostype", "kernel/overflowgid", "kernel/overflowuid", "kernel/pid_max", "kernel/randomize_va_space"),
    *("kernel/seccomp/actions_avail", "kernel/version", "kernel/yama/ptrace_scope", "vm/max_map_count"),
    *("vm/mmap_min_addr", "vm/overcommit_memory"),
)

_MEMORY_ZERO = (
    *("Buffers", "Cached", "SwapCached", "Active", "Inactive", "Active(anon)", "Inactive(anon)", "Active(file)"),
    *("Inactive(file)", "Unevictable", "Mlocked", "SwapTotal", "SwapFree", "Dirty", "Writeback", "AnonPages"),
    *("Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim", "KernelStack", "PageTables"),
    *("Bounce", "WritebackTmp", "CommitLimit", "Committed_AS", "VmallocUsed", "VmallocChunk", "Percpu"),
)
_FILESYSTEMS = ("proc", "tmpfs", "devpts", "mqueue", "overlay", "pipefs", "sockfs")
# Lines of cpuinfo that any program finds out by the instruction CPUID; the others tell of the machine.
_CPUID: tuple[str, ...] = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "siblings", "cpu cores", "fpu"),
    *("fpu_exception", "cpuid level", "wp", "flags", "clflush size", "cache_alignment", "address sizes"),
)


def texts(spec: Spec, host: Host, lease: Lease) -> dict[str, str]:
    """Return name in /proc → what it says instead of the host's; what is not named is empty."""
    made = {
        "cpuinfo": _cpuinfo(host),
        "devices": "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n",
        "filesystems": "".join(f"nodev\t{name}\n" for name in _FILESYSTEMS),
        "loadavg": "0.00 0.00 0.00 1/1 1\n",
        "meminfo": _meminfo(spec),
        "stat": _stat(host, lease),
        "swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
        "version": f"Linux version {host.release} {host.version}\n",
    }
    if not spec.limits.memory:  # without a limit there is no other answer than the host's
        del made["meminfo"]
    return {name: text for name, text in made.items() if name in hidden(spec, host)}


def hidden(spec: Spec, host: Host) -> dict[str, bool]:
    """Return what of /proc but its sys is not shown as it is: name → whether it is a directory."""
    shown = {*spec.proc_show, *(() if spec.limits.memory else ("meminfo",))}
    return {name: directory for name, directory in host.proc_files.items() if name not in shown}


def sysctls(spec: Spec, host: Host, lease: Lease, hostname: str) -> dict[str, str]:
    """Return the files that /proc/sys is made of, but for what is live there: path below it → content."""
    made = {path: text for path, text in host.sysctls.items() if path in SETTINGS}
    made["kernel/random/boot_id"] = f"{lease.boot_id}\n"
    if hostname:
        made["kernel/hostname"] = f"{hostname}\n"
        made["kernel/domainname"] = f"{spec.domainname or '(none)'}\n"
    if spec.limits.pids:
        made["kernel/threads-max"] = f"{spec.limits.pids}\n"
    return made


def live(spec: Spec, host: Host) -> tuple[str, ...]:
    """Return what of /proc/sys is of the sandbox's namespaces: shown as it is, read-only."""
    return tuple(path for path in (*LIVE, *(f"kernel/{name}" for name in IPC)) if path in host.sysctls)


def _meminfo(spec: Spec) -> str:
    total = spec.limits.memory >> 10
    rows = {"MemTotal": total, "MemFree": total, "MemAvailable": total, **dict.fromkeys(_MEMORY_ZERO, 0)}
    rows["SwapTotal"] = rows["SwapFree"] = spec.limits.swap >> 10
    rows["CommitLimit"] = total
    lines = [f"{name + ':':<16}{value:>8} kB\n" for name, value in rows.items()]
    pages = [f"{'HugePages_' + name + ':':<16}{0:>8}\n" for name in ("Total", "Free", "Rsvd", "Surp")]
    return "".join((*lines, *pages, f"{'Hugepagesize:':<16}{2048:>8} kB\n"))


def _stat(host: Host, lease: Lease) -> str:
    zero = " 0" * 10
    rows = [f"cpu {zero}", *(f"cpu{number}{zero}" for number in range(host.processors)), "intr 0", "ctxt 0"]
    rows += [f"btime {lease.begin}", "processes 1", "procs_running 1", "procs_blocked 0", "softirq 0"]
    return "".join(f"{row}\n" for row in rows)


def _cpuinfo(host: Host) -> str:
    rows = [row.partition(":") for row in host.cpuinfo.partition("\n\n")[0].split("\n")]
    told = "".join(f"{name}:{value}\n" for name, _, value in rows if name.strip() in _CPUID)
    return "\n".join(f"processor\t: {number}\n{told}" for number in range(host.processors)) + "\n"
