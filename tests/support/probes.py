"""Named needs of tests: each probe looks at this host and says what is missing, or nothing.

``@pytest.mark.needs("root", "nft")`` names them. A probe's answer is a reason a person can act on,
or "" when the need is met; it is asked once a process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support import kernel
from tests.support.child import run_in_child

REPOSITORY = Path(__file__).resolve().parents[2]
NOBODY = 65534
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 12, 21, 24

PROBES: dict[str, Callable[[], str]] = {}


def probe(function: Callable[[], str]) -> Callable[[], str]:
    """Enter a function as the probe of its name."""
    cached = functools.cache(function)
    PROBES[function.__name__] = cached
    return cached


def missing(*names: str) -> str:
    """Return why the first unmet need is unmet, or "". Raises LookupError for a name that is no probe."""
    unknown = [name for name in names if name not in PROBES]
    if unknown:
        raise LookupError(f"no such need: {', '.join(unknown)}; there are {', '.join(sorted(PROBES))}")
    for name in names:
        if reason := PROBES[name]():
            return f"needs {name}: {reason}"
    return ""


def _refused(func: Callable[[], None]) -> str:
    """Try func in a child and return why the kernel refused it, or ""."""
    try:
        run_in_child(func)
    except OSError as error:
        return str(error.strerror)
    return ""


@probe
def root() -> str:
    """The caller is root and may administer the host."""
    if os.geteuid() != 0:
        return f"this is uid {os.geteuid()}; run the tests as root"
    lacking = [cap for cap in (CAP_NET_ADMIN, CAP_SYS_ADMIN) if not _effective() >> cap & 1]
    return f"root here lacks capabilities {lacking}; leave the outer container or give it them" if lacking else ""


def _effective() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))


@probe
def sys_resource() -> str:
    """The caller may raise limits."""
    return "" if _effective() >> CAP_SYS_RESOURCE & 1 else "root here lacks CAP_SYS_RESOURCE, as in a container"


@probe
def processors() -> str:
    """Two processes run at the same time."""
    return "" if len(os.sched_getaffinity(0)) > 1 else "one processor alone"


@probe
def native() -> str:
    """The compiled module has been built."""
    return "" if list((REPOSITORY / "nstool").glob("_native*.so")) else "nstool._native is not built; run make build"


@probe
def nsexec() -> str:
    """The static launcher has been built."""
    return "" if (REPOSITORY / "nstool/nsexec").is_file() else "nstool/nsexec is not built; run make build"


@probe
def userns() -> str:
    """An ordinary user can make a user namespace."""

    def try_it() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.unshare(kernel.CLONE_NEWUSER)

    return _refused(try_it)


@probe
def landlock() -> str:
    """A process may put itself into a Landlock domain."""
    return "" if kernel.landlock_abi() > 0 else "no Landlock; a kernel with lsm=...,landlock at boot"


@probe
def apparmor() -> str:
    """AppArmor is on, its profiles are to be seen, and one can be loaded."""
    with contextlib.suppress(FileNotFoundError):
        if Path("/sys/module/apparmor/parameters/enabled").read_text().startswith("Y"):
            if not Path("/sys/kernel/security/apparmor/profiles").exists():
                return "securityfs is not mounted on /sys/kernel/security"
            return "" if shutil.which("apparmor_parser") else "no apparmor_parser; install apparmor"
    return "no AppArmor; a kernel that has it, booted with apparmor=1 security=apparmor"


@probe
def no_apparmor() -> str:
    """AppArmor is not on, so that a profile is refused."""
    return "AppArmor is on" if not apparmor() else ""


@probe
def selinux() -> str:
    """SELinux is on with the policy of tests/vm/selinux.cil."""
    with contextlib.suppress(FileNotFoundError):
        if "all_u:" in Path("/sys/fs/selinux/initial_contexts/kernel").read_text():
            return ""
    return "no SELinux with the policy of the tests: VM_APPEND=security=selinux tests/vm/boot"


@probe
def newuidmap() -> str:
    """The helpers that write id maps for ordinary users are there."""
    absent = [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    return f"no {' and no '.join(absent)}; install uidmap" if absent else ""


@probe
def user() -> str:
    """There is an ordinary user with subordinate ids to act as, or one can be made."""
    if os.geteuid() == 0:
        return "" if shutil.which("useradd") else "no useradd to make an ordinary user with; install passwd"
    if not os.access(os.path.expanduser("~"), os.W_OK):
        return f"uid {os.getuid()} has no home to write in"
    absent = [path for path in ("/etc/subuid", "/etc/subgid") if not subordinate(path, os.getuid())[1]]
    return f"uid {os.getuid()} has no range in {' and '.join(absent)}" if absent else ""


@probe
def timens() -> str:
    """The kernel has time namespaces."""
    return "" if os.path.exists("/proc/self/ns/time") else "no /proc/self/ns/time; Linux 5.6 with CONFIG_TIME_NS has it"


@probe
def cgroupns() -> str:
    """The kernel has cgroup namespaces."""
    return "" if os.path.exists("/proc/self/ns/cgroup") else "no /proc/self/ns/cgroup; build with CONFIG_CGROUPS"


@probe
def pid_ioctls() -> str:
    """The kernel translates pids between namespaces. ioctl_nsfs(2)."""
    return _unknown_to("/proc/self/ns/pid", 0x8004B708, "NS_GET_PID_IN_PIDNS; Linux 6.11 has it")


@probe
def mntns_ids() -> str:
    """The kernel tells the id of a mount namespace, by which another's mounts are listed. ioctl_nsfs(2)."""
    return _unknown_to("/proc/self/ns/mnt", 0x8008B705, "NS_GET_MNTNS_ID; Linux 6.11 has it")


@probe
def ns_ids() -> str:
    """The kernel tells the id of a namespace of any type. ioctl_nsfs(2)."""
    return _unknown_to("/proc/self/ns/uts", 0x8008B70D, "NS_GET_ID; Linux 6.18 has it")


@probe
def pidfd_ioctls() -> str:
    """The kernel opens the namespaces of a process by its pidfd. ioctl_pidfd(2)."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(fcntl.ioctl(pidfd, 0xFF03))  # PIDFD_GET_MNT_NAMESPACE
    except OSError as error:
        return "" if error.errno != errno.ENOTTY else "no PIDFD_GET_MNT_NAMESPACE; Linux 6.11 has it"
    finally:
        os.close(pidfd)
    return ""


@probe
def statmount() -> str:
    """The kernel lists the mounts of the caller, and tells of each. statmount(2)."""
    try:
        kernel.statmount(kernel.listmount()[0], 0)
    except OSError as error:
        return "" if error.errno != errno.ENOSYS else "no statmount(2) and listmount(2); Linux 6.8 has them"
    return ""


@probe
def statmount_source() -> str:
    """The kernel tells the source of a mount that has one, as that of proc."""
    if reason := statmount():
        return reason
    old = kernel.listmount()[:10]  # younger ones come and go
    told = [kernel.statmount(number, kernel.STATMOUNT_SB_SOURCE)[0] for number in old]
    tells = any(mask & kernel.STATMOUNT_SB_SOURCE for mask in told)
    return "" if tells else "statmount(2) tells no sources; Linux 6.13 does"


@probe
def statmount_maps() -> str:
    """The kernel tells the map of an id-mapped mount."""
    if reason := statmount():
        return reason
    _, supported = kernel.statmount(kernel.listmount()[0], kernel.STATMOUNT_SUPPORTED_MASK)
    return "" if supported & kernel.STATMOUNT_MNT_UIDMAP else "statmount(2) tells no maps; Linux 6.15 does"


@probe
def cached_paths() -> str:
    """No filesystem has to be asked for a path below / that has just been walked."""
    os.stat("/tmp")
    return (
        "" if kernel.is_cached("/tmp") else "/ is on a filesystem that is asked for every path, as 9p; use a local one"
    )


@probe
def idmap_tmpfs() -> str:
    """A mount of a tmpfs can map ids. mount_setattr(2)."""
    return "" if kernel.release() >= (6, 3) else "a tmpfs has no id-mapped mounts; Linux 6.3 has them"


@probe
def fuse() -> str:
    """Root can mount a filesystem of FUSE."""
    from tests.support import fuse as filesystem

    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse; modprobe fuse"

    def try_it() -> None:
        filesystem.private()
        os.close(filesystem.mount("/tmp"))

    return _refused(try_it)


@probe
def held_in_execve() -> str:
    """Who reads the namespaces of a process waits until its execve(2) has ended."""
    from tests.support import fuse as filesystem

    def waits() -> bool:
        with filesystem.held_in_execve() as (held,):
            reader = os.fork()
            if reader == 0:
                os.readlink(f"/proc/{held}/ns/net")
                os._exit(0)
            ended, _, _ = select.select([os.pidfd_open(reader)], [], [], 3)
            os.kill(reader, signal.SIGKILL)
            os.waitpid(reader, 0)
            return not ended

    reason = "no reader waits for a process that is in execve(2) here; those of a later kernel do, as of Linux 6.18.44"
    return root() or fuse() or ("" if run_in_child(waits) else reason)


@probe
def overlay() -> str:
    """Root can mount an overlay."""
    return root() or _refused(lambda: _overlay("lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"))


@probe
def lowerdirs() -> str:
    """An overlay takes its lower layers one by one."""
    refused = _refused(lambda: _overlay("lowerdir+=/tmp/lower,lowerdir+=/tmp/upper"))
    return overlay() or (f"lowerdir+: {refused}; Linux 6.8 has it" if refused else "")


def _overlay(options: str) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", "/tmp", "tmpfs")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"/tmp/{name}")
    kernel.mount("none", "/tmp/merged", "overlay", 0, options)


@probe
def seccomp() -> str:
    """The kernel filters system calls."""
    path = "/proc/sys/kernel/seccomp/actions_avail"
    return "" if os.path.exists(path) else f"no {path}; build with CONFIG_SECCOMP_FILTER"


@probe
def seccomp_get_filter() -> str:
    """The kernel tells the filters of a process. PTRACE_SECCOMP_GET_FILTER of ptrace(2)."""
    path = "/proc/sys/kernel/ns_last_pid"
    return "" if os.path.exists(path) else f"no {path}; build with CONFIG_CHECKPOINT_RESTORE"


@probe
def ipv6() -> str:
    """The host speaks IPv6."""
    return "" if os.path.exists("/proc/net/if_inet6") else "no /proc/net/if_inet6; load the module ipv6"


@probe
def veth() -> str:
    """Root can make veth pairs."""
    return root() or _tried_in_new_netns(
        ip(), ["ip", "link", "add", "name", "v0", "type", "veth", "peer", "name", "v1"]
    )


@probe
def bridge() -> str:
    """Root can make bridges."""
    return root() or _tried_in_new_netns(ip(), ["ip", "link", "add", "name", "b0", "type", "bridge"])


@probe
def br_netfilter() -> str:
    """What goes over a bridge goes through the rules for packets, too."""
    return "" if os.path.exists("/proc/sys/net/bridge") else "no /proc/sys/net/bridge; modprobe br_netfilter"


@probe
def nft() -> str:
    """The nft command works with this kernel."""
    absent = "" if shutil.which("nft") else "no nft; install nftables"
    return root() or _tried_in_new_netns(absent, ["nft", "add", "table", "inet", "probe"])


@probe
def nat() -> str:
    """nftables can translate addresses."""
    chain = "add table ip p; add chain ip p c { type nat hook postrouting priority 100; }; add rule ip p c masquerade"
    return nft() or _tried_in_new_netns("", ["nft", chain])


@probe
def strace() -> str:
    """strace can trace here."""
    if shutil.which("strace") is None:
        return "no strace; install it"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return tried.stderr.strip() if tried.returncode else ""


def _executable(name: str, package: str, called: str = "") -> Callable[[], str]:
    """called: the need, where the name is none for one."""

    def look() -> str:
        # The path of an ordinary user has no daemons in it.
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
        return "" if shutil.which(name, path=path) else f"no {name}; install {package}"

    look.__name__ = called or name
    return probe(look)


ip = _executable("ip", "iproute2")
busybox = _executable("busybox", "busybox-static")
bwrap = _executable("bwrap", "bubblewrap")
gcc = _executable("gcc", "gcc")
capsh = _executable("capsh", "libcap2-bin")
clang = _executable("clang", "clang")
dot = _executable("dot", "graphviz")
chromium = _executable("chromium", "chromium")
nginx = _executable("nginx", "nginx")
redis_server = _executable("redis-server", "redis-server", "redis_server")
redis_cli = _executable("redis-cli", "redis-tools", "redis_cli")
git = _executable("git", "git")
node = _executable("node", "nodejs")
javac = _executable("javac", "default-jdk-headless")
debian_python = _executable("/usr/bin/python3", "python3", "debian_python")
sshd = _executable("sshd", "openssh-server")
ssh = _executable("ssh", "openssh-client")
curl = _executable("curl", "curl")
apt_get = _executable("apt-get", "apt, which Debian has", "apt_get")


def _controller(name: str) -> Callable[[], str]:
    def look() -> str:
        return root() or ("" if controller_root(name) else f"no cgroup hierarchy has the controller {name}")

    look.__name__ = f"cgroup_{name}"
    return probe(look)


for _name in ("cpu", "cpuset", "io", "memory", "pids"):
    _controller(_name)


@probe
def cgroup2() -> str:
    """A cgroup v2 hierarchy is mounted, whatever its controllers."""
    return "" if any(kind == "cgroup2" for _, kind, _ in cgroup_mounts()) else "no cgroup2 mount"


@probe
def memfd_noexec() -> str:
    """The kernel can forbid executable memfds."""
    return "" if os.path.exists("/proc/sys/vm/memfd_noexec") else "no vm.memfd_noexec; Linux 6.3 has it"


@probe
def cgroup_v1() -> str:
    """The pids controller is in a hierarchy of version 1."""
    found = [point for point, kind, options in cgroup_mounts() if kind == "cgroup" and "pids" in options]
    return (
        "" if found else "no version 1 hierarchy has the pids controller; boot with systemd.unified_cgroup_hierarchy=0"
    )


@probe
def cgroup_tcp() -> str:
    """What TCP sockets buffer has a limit of its own, beside that of memory."""
    points = [point for point, kind, options in cgroup_mounts() if kind == "cgroup" and "memory" in options]
    found = [point for point in points if os.path.exists(f"{point}/memory.kmem.tcp.limit_in_bytes")]
    return "" if found else "no version 1 hierarchy has the memory controller with memory.kmem.tcp.limit_in_bytes"


def cgroup_mounts() -> list[tuple[str, str, list[str]]]:
    """Return (mount point, "cgroup" or "cgroup2", options) of each cgroup hierarchy. /proc/self/mounts."""
    with open("/proc/self/mounts") as file:
        rows = [line.split() for line in file]
    return [(row[1], row[2], row[3].split(",")) for row in rows if row[2] in ("cgroup", "cgroup2")]


def controller_root(name: str) -> str:
    """Return the mount point of the hierarchy that has the controller, "" if none has. cgroups(7)."""
    for point, kind, options in cgroup_mounts():
        if kind == "cgroup" and name in options:
            return point
        if kind == "cgroup2" and name in Path(point, "cgroup.controllers").read_text().split():
            return point
    return ""


def subordinate(path: str, uid: int) -> tuple[int, int]:
    """Return the first (start, count) that /etc/subuid or /etc/subgid gives a user, (0, 0) for none. subuid(5)."""
    import pwd

    try:
        names = {str(uid), pwd.getpwuid(uid).pw_name}
        lines = Path(path).read_text().splitlines()
    except (FileNotFoundError, KeyError):  # no such file, no such user: no range
        return 0, 0
    for line in lines:
        owner, start, count = line.split(":")
        if owner in names:
            return int(start), int(count)
    return 0, 0


def _unknown_to(path: str, request: int, reason: str) -> str:
    """Return "no " and the reason if the file does not know the ioctl at all, or ""."""
    with open(path, "rb") as file:
        try:
            fcntl.ioctl(file, request, 0)  # no pointer, no pid: EFAULT, ESRCH
        except OSError as error:
            return "" if error.errno != errno.ENOTTY else f"no {reason}"
    return ""


def _tried_in_new_netns(absent: str, command: list[str]) -> str:
    """Return why the command fails in a network namespace of its own, or ""."""

    def try_it() -> str:
        kernel.unshare(kernel.CLONE_NEWNET)
        tried = subprocess.run(command, capture_output=True, text=True)
        return tried.stderr.strip() if tried.returncode else ""

    return absent or run_in_child(try_it)
