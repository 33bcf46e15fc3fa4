"""Host: what a plan must know of the machine and the caller, as plain data. sandbox/host.py reads it."""

from __future__ import annotations

from nstool import uapi
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.cgroups import Layout

# What the default root shows of the host, where the host has it: programs, and what of /etc they read to run at all.
# "*" stands for the rest of a name.
SHOWN: tuple[str, ...] = (
    *("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr"),
    *("/etc/alternatives", "/etc/crypto-policies", "/etc/fonts", "/etc/java-*", "/etc/ld.so.cache", "/etc/localtime"),
    *("/etc/mime.types", "/etc/os-release", "/etc/pki", "/etc/protocols", "/etc/services", "/etc/ssl"),
)

# Directories of the host that its read-only root does not show: private, or not of the OS.
COVERED: tuple[str, ...] = ("/boot", "/home", "/lost+found", "/media", "/mnt", "/root", "/sys")
# Writable and empty inside, gone with the sandbox.
SCRATCH: tuple[str, ...] = ("/tmp", "/var/tmp", "/run")


class SubIds(Frozen):
    """One range of /etc/subuid or /etc/subgid. subuid(5)."""

    first: int
    count: int


class Shown(Frozen):
    """A part of the host that the default root shows on path. kind: "dir", "file" or "link" (to ``link``).

    layer: index in ``Host.layers``; -1: no overlay can show it, it is bound itself. source: where the part is in that
    layer, "" for the layer itself; of what is bound, on the host. below: path lies in another part, which has the place
    for it. content: of a small file that is copied, where no overlay can show it.
    """

    path: str
    kind: str
    link: str = ""
    layer: int = -1
    source: str = ""
    below: bool = False
    content: bytes | None = None


class Host(Frozen):
    """Facts of this machine and of the calling process.

    capabilities: effective mask. last_cap: highest capability number of this kernel.
    privileged: the caller may do everything in the namespaces it lives in (effective CAP_SYS_ADMIN).
    subuid, subgid: the caller's ranges. newuidmap, newgidmap: absolute paths, empty if absent.
    proc_files: names in /proc that are to be covered, True for directories: not those of views.SHOWN, sys, and what
    nobody inside can open. sysctls: the settings that views.SETTINGS names, by their path below /proc/sys, with their
    text; "" for what is live. processors: how many the caller may use; cpuinfo, release, version: as /proc and
    uname(2) have them. root: paths of the wanted root that exist as directories among those that a plan may mount on.
    covered, scratch: COVERED and SCRATCH as they really lie on this host. shown, layers: of the default root: its
    parts, and the directories of the host that they lie in; command: the part that is the command's file, where that
    lies in none of the others. top: entries of a directory root as (name, kind, link target), kind "dir", "file" or
    "link". source_kinds: bind source to "dir" or "file". targets: what a mount or a masked path finds in the root:
    "dir", "file", "" for nothing, "link PATH" for a symlink on the way; what the plan makes itself is not in it.
    roots: directory of unpacked tarballs. nameservers: usable inside; resolver: the text of resolv.conf, where the
    network is another's. terminals: those of fds 0, 1, 2 that are terminals; term: their TERM. landlock: version of
    its ABI, or a negative errno. lsms: the security modules that are on, None where that is not to be read. profiles:
    the AppArmor profiles that are loaded, None likewise; apparmor: whether it is on. selinux: "" without it,
    "unloaded" without a policy, else what that says of the wanted context: "valid", "invalid", "unknown". These are
    read only if the spec asks for them. randomize_va_space: as /proc/sys/kernel has it. seccomp: the filter of a list
    of one's own, compiled; None: the list comes with nstool. traced: the launcher has init and the command traced.
    unotify: a call that a listener has got is left by no signal (Linux 5.19). hard: the caller's hard limits that are
    lower than what the spec asks for; raises: whether it may give a process more, getrlimit(2).
    """

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    capabilities: int = (1 << 41) - 1
    last_cap: int = 40
    privileged: bool = True
    subuid: tuple[SubIds, ...] = ()
    subgid: tuple[SubIds, ...] = ()
    newuidmap: str = ""
    newgidmap: str = ""
    proc_files: dict[str, bool] = {}
    sysctls: dict[str, str] = {}
    processors: int = 1
    cpuinfo: str = ""
    release: str = ""
    version: str = ""
    root: frozenset[str] = frozenset()
    covered: tuple[str, ...] = ()
    scratch: tuple[str, ...] = ()
    shown: tuple[Shown, ...] = ()
    layers: tuple[str, ...] = ()
    command: Shown | None = None
    top: tuple[tuple[str, str, str], ...] = ()
    source_kinds: dict[str, str] = {}
    targets: dict[str, str] = {}
    roots: str = ""
    cgroups: Layout | None = None
    nameservers: tuple[str, ...] = ()
    resolver: str = ""
    resolv_conf: str = "/etc/resolv.conf"
    terminals: tuple[int, ...] = ()
    term: str = ""
    landlock: int = 0
    lsms: tuple[str, ...] | None = None
    apparmor: bool = False
    profiles: tuple[str, ...] | None = None
    selinux: str = ""
    randomize_va_space: int = 2
    seccomp: bytes | None = None
    traced: bool = False
    unotify: bool = True
    hard: dict[str, int] = {}
    raises: bool = False

    @property
    def all_capabilities(self) -> int:
        """Mask of every capability that this kernel knows."""
        return (1 << (self.last_cap + 1)) - 1

    def may(self, capability: str) -> bool:
        """Whether the caller has a capability, named in lower case without CAP_."""
        return bool(self.capabilities >> uapi.CAPABILITIES[capability] & 1)
