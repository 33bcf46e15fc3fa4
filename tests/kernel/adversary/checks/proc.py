"""/proc: what it tells of the host, what can be written there, and whom it shows."""

from __future__ import annotations

import os
from pathlib import Path

from nstool import uapi
from tests.kernel.adversary.base import Answer, Check, Expected, call, is_value, refused, says, tells
from tests.kernel.adversary.run import View
from tests.support import kernel

# Each tells of the kernel's memory, the machine, its disks, or what others do.
COVERED = (
    *("kmsg", "kallsyms", "kcore", "keys", "key-users", "timer_list", "interrupts", "softirqs", "iomem", "ioports"),
    *("modules", "slabinfo", "vmallocinfo", "partitions", "diskstats", "config.gz", "cmdline", "kpagecount"),
    *("kpageflags", "kpagecgroup", "sched_debug", "schedstat", "zoneinfo", "buddyinfo", "pagetypeinfo", "mdstat"),
    *("consoles", "crypto", "misc", "fb", "dma", "execdomains", "locks", "vmstat", "latency_stats", "bootconfig"),
    *("cgroups", "mtrr", "sysrq-trigger", "allocinfo", "dynamic_debug/control", "tty/drivers", "bus/input/devices"),
    *("bus/pci/devices", "pressure/memory", "pressure/cpu", "irq/default_smp_affinity", "scsi/scsi", "driver/rtc"),
    *("acpi/wakeup", "fs/ext4"),
)
# Of /proc/sys: each would tell of the host, or act on it.
NOT_SHOWN = (
    *("kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "kernel/tainted", "kernel/printk", "kernel/keys"),
    *("kernel/random/entropy_avail", "kernel/ns_last_pid", "fs/file-nr", "fs/inode-nr", "fs/dentry-state"),
    *("fs/binfmt_misc", "vm/swappiness", "vm/nr_hugepages", "dev/cdrom/info", "kernel/sched_domain"),
)
EMPTY = Expected("is empty, or not there", lambda got: got.error in ("ENOENT", "EACCES", "EISDIR") or not got.text)
SELF_ONLY = ("self", "thread-self")


def _differs(path: str) -> Expected:
    own = Path(path).read_text() if os.path.exists(path) else ""
    return tells("is not the host's", lambda text: bool(text) and text != own)


def _processes(view: View) -> Answer:
    """The pids that /proc shows, but for the probe and the child that looks."""
    shown = {name for name in view.ask("list", "/proc").text.split() if name.isdecimal()}
    return Answer(text=" ".join(sorted(shown - {"2"})), value=len(shown))


def _other_user(view: View) -> Answer:
    """The commands of another user of the same sandbox that a second command sees."""
    found = view.beside(("list", "/proc"), user="1001:1001")
    own = found.text.split().count("2")  # the first command is pid 2
    return Answer(value=own, text=found.text)


def _devices(maps: str) -> set[str]:
    """The devices of files that are mapped. proc_pid_maps(5)."""
    return {line.split()[3] for line in maps.splitlines() if "/" in line}


_HOST_DEVICES = {line.split()[2] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
_HOST_DEVICES = {f"{int(major):02x}:{int(minor):02x}" for major, minor in (word.split(":") for word in _HOST_DEVICES)}


def _may_hold() -> bool:
    """Whether the test process has CAP_SYS_RESOURCE: root of a container may lack it."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> uapi.CAPABILITIES["sys_resource"] & 1)


def _cgroup(text: str) -> bool:
    return bool(text) and all(line.endswith(":/") for line in text.splitlines())


def _refused(name: str, ask: tuple[str, ...], property: str, protection: str, *errors: str, only: str = "") -> Check:
    return Check(name, ask, refused(*errors), property, protection, only)


def _of_init(prefix: str, names: str, property: str, *errors: str) -> tuple[Check, ...]:
    """Each file of init in /proc is out of reach."""
    how = {"root": "link", "cwd": "link", "exe": "link", "fd": "list"}
    return tuple(
        _refused(f"{prefix}-{name}", (how.get(name, "read"), f"/proc/1/{name}"), property, "init", *errors)
        for name in names.split()
    )


_OWN = (
    *("/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/hostname"),
    *("/proc/version", "/proc/cpuinfo", "/proc/filesystems", "/proc/devices", "/proc/self/mountinfo"),
    *("/proc/self/mounts", "/proc/self/mountstats"),
)
_RECENT = Expected("began a moment ago", lambda got: not got.error and got.value < 60)
_STARTED = tells("began a moment ago", lambda text: int(text.rpartition(")")[2].split()[19]) < 60 * 100)
# Linux 6.1 names the file below the overlay.
_NO_DEVICE = tells(
    "names none of the host's, from Linux 6.12 on",
    lambda text: kernel.release() < (6, 12) or not _devices(text) & _HOST_DEVICES,
)
_NOT_LOWERED = Expected(
    "fails with EACCES, if the launcher has CAP_SYS_RESOURCE", lambda got: got.error == "EACCES" or not _may_hold()
)
_NO_INIT = Expected("shows its own alone", lambda got: "1" not in got.text.split())
_COUNTS = tells("begins with zeros", lambda text: text.startswith("cpu  0 0 0 0"))
_UPTIME = tells("is of this minute", lambda text: float(text.split()[0]) < 60)
_KILLED_FIRST = "it is killed before the services of the host"


CHECKS: tuple[Check, ...] = (
    *(
        Check(f"covered-{name.replace('/', '-')}", ("read", f"/proc/{name}"), EMPTY, "nothing of the host", "proc")
        for name in COVERED
    ),
    *(
        Check(f"sys-without-{name.replace('/', '-')}", ("read", f"/proc/sys/{name}"), EMPTY, "no host setting", "proc")
        for name in NOT_SHOWN
    ),
    Check("nothing-writable-in-proc", ("writable", "/proc"), says(""), "no file opens for writing", "proc"),
    Check("no-sys", ("list", "/sys"), refused("ENOENT"), "there is no /sys", "root"),
    *(
        Check(f"own{path.replace('/', '-')}", ("read", path), _differs(path), "says what is its own", "proc")
        for path in _OWN
    ),
    Check("own-proc-loadavg", ("read", "/proc/loadavg"), says("0.00 0.00 0.00 1/1 1"), "says no load", "proc"),
    Check("own-proc-stat", ("read", "/proc/stat"), _COUNTS, "says no counts of the host", "proc"),
    Check("own-proc-uptime", ("read", "/proc/uptime"), _UPTIME, "says its own uptime", "time"),
    Check("own-meminfo", ("read", "/proc/meminfo"), _differs("/proc/meminfo"), "the limit's", "proc", only="root"),
    Check(
        "own-host-name", ("uname",), tells("is not the host's", lambda text: text != os.uname().nodename), "own", "uts"
    ),
    Check("cgroup-paths", ("read", "/proc/self/cgroup"), tells("is /", _cgroup), "no path of a cgroup shows", "cgroup"),
    Check("boot-clock", ("clock", "7"), _RECENT, "the clocks do not tell the uptime", "time"),
    Check("monotonic-clock", ("clock", "1"), _RECENT, "the clocks do not tell the uptime", "time"),
    Check("raw-clock", ("clock", "4"), _RECENT, "the clocks do not tell the uptime", "time"),
    Check("coarse-clock", ("clock", "6"), _RECENT, "the clocks do not tell the uptime", "time"),
    Check("start-time", ("read", "/proc/self/stat"), _STARTED, "the clocks do not tell the uptime", "time"),
    Check("maps", ("read", "/proc/self/maps"), _NO_DEVICE, "no device of the host shows", "root"),
    Check("hidepid", _processes, _NO_INIT, "init does not show", "hidepid"),
    Check("hidepid-other-user", _other_user, is_value(0), "users inside do not see each other", "hidepid"),
    # What a process may say of itself there is no way out.
    _refused("uid-map", ("write", "/proc/self/uid_map", "0 0 1"), "the map stays", "ids", "EPERM"),
    _refused("gid-map", ("write", "/proc/self/gid_map", "0 0 1"), "the map stays", "ids", "EPERM"),
    _refused("setgroups-file", ("write", "/proc/self/setgroups", "deny"), "groups stay", "ids", "EPERM", "EACCES"),
    _refused("clocks", ("write", "/proc/self/timens_offsets", "7 0 0"), "clocks stay", "time", "EPERM", "EACCES"),
    _refused("oom-score", ("write", "/proc/self/oom_score_adj", "-1000"), _KILLED_FIRST, "oom", "EACCES"),
    Check("oom-score-0", ("write", "/proc/self/oom_score_adj", "0"), _NOT_LOWERED, _KILLED_FIRST, "oom", only="root"),
    Check("oom-score-is-500", ("read", "/proc/self/oom_score_adj"), says("500"), _KILLED_FIRST, "oom"),
    _refused("kernel-stack", ("read", "/proc/self/stack"), "no address", "capabilities", "EACCES", "EPERM"),
    *_of_init(
        "init",
        "root cwd exe fd environ cmdline maps mem auxv stat status io mountinfo ns/mnt",
        "nothing of init can be read",
        *("ENOENT", "EACCES"),
    ),
    _refused("kernel-log", call("syslog", 3, "b:100", 100), "no log of the kernel", "seccomp", "EPERM"),
    *(
        _refused(f"above-{kind}-{way}", ("ns_parent", kind, number), "no namespace outside", protection, "EPERM")
        for kind, way, number, protection in (
            ("user", "parent", "0xb702", "ids"),
            ("pid", "parent", "0xb702", "pid"),
            ("user", "owner", "0xb701", "ids"),
        )
    ),
)
# As root inside, whose id init has too, so that hidepid does not hide it.
AS_ROOT: tuple[Check, ...] = _of_init(
    "root-init",
    "root cwd exe fd environ maps mem auxv io ns/mnt",
    "nothing of init can be read by its own id",
    *("ENOENT", "EACCES", "EPERM"),
)
