"""The Spec: what is wanted, as plain frozen data. No parsing, no checks, no kernel."""

from __future__ import annotations

from nstool.frozen import Frozen


class IdMap(Frozen):
    """One line of uid_map or gid_map: ``count`` ids from ``inside`` are ``outside`` on the host.

    user_namespaces(7), section "User and group ID mappings".
    """

    inside: int
    outside: int
    count: int


class Mount(Frozen):
    """One entry of ``[[mounts]]``: put ``source`` (host path) on ``target`` (absolute path inside).

    type: "bind" (default), "tmpfs", "proc", "mqueue", "overlay", "devpts". Bind mounts are
    recursive, read-only, nosuid and nodev unless a word says otherwise.
    idmap: show the host's owners under the sandbox's ids (mount_setattr(2), MOUNT_ATTR_IDMAP).
    propagation: "private", "slave", "shared", "unbindable"; empty: as ``mount_propagation``.
    size: bytes (tmpfs); mode: octal permission bits (tmpfs). create: make a missing target when the
    root is writable. lower, upper: layers of an overlay; no upper means thrown away.
    """

    target: str
    source: str = ""
    type: str = "bind"
    writable: bool = False
    recursive: bool = True
    exec: bool = True
    suid: bool = False
    dev: bool = False
    symlinks: bool = True
    idmap: bool = False
    propagation: str = ""
    size: int = 0
    mode: int = 0o1777
    lower: tuple[str, ...] = ()
    upper: str = ""


class Root(Frozen):
    """What the sandbox sees as "/".

    type: "system" (the programs of the host, read-only, and nothing else of it), "host" (the host's own
    root, read-only, private directories covered), "directory",
    "overlay" (``lower`` directories, first is the top; ``upper`` kept or, if empty, thrown away),
    "tmpfs" (empty, with the mounts of the spec), "tarball" (unpacked for this sandbox).
    size: bytes of the tmpfs or of the thrown-away upper layer.
    """

    type: str = "system"
    path: str = ""
    lower: tuple[str, ...] = ()
    upper: str = ""
    writable: bool = False
    idmap: bool = False
    size: int = 64 << 20


class Publish(Frozen):
    """One published port: ``address:host`` on the host reaches ``inside`` in the sandbox.

    protocol: "tcp" or "udp". address: IPv4 or IPv6 literal, empty for all.
    """

    host: int
    inside: int
    protocol: str = "tcp"
    address: str = ""


class Net(Frozen):
    """``[net]``. mode: "none" (lo down), "loopback" (default), "veth", "bridge", "join", "host".

    target: what "join" joins: pid, namespace file, directory of pins, name of a netns or of a sandbox.
    address: "10.1.2.3/30", empty for allocated. gateway: empty for the first of its network.
    bridge: name of the bridge (made if absent).
    dns: name servers for resolv.conf; hosts: extra lines for hosts as (address, name).
    nat: masquerade to the outside. ipv6: give an IPv6 address too. sysctls: net.* in the new
    namespace. isolated: no way to the host and to other sandboxes except the published ports.
    """

    mode: str = "loopback"
    target: str = ""
    address: str = ""
    gateway: str = ""
    address6: str = ""
    gateway6: str = ""
    bridge: str = ""
    publish: tuple[Publish, ...] = ()
    dns: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    nat: bool = True
    ipv6: bool = True
    mtu: int = 0
    isolated: bool = True
    sysctls: dict[str, str] = {}


class Limits(Frozen):
    """``[limits]``. memory, swap: bytes; pids: tasks; cpu: cores (0.5 is half a core).

    cpu None: as many cores as the rest of the host leaves, a tenth of the usual weight where both want them.
    0 means no limit (a word that a reviewer sees). rlimits: name without RLIMIT_, in lower case,
    to (soft, hard); -1 is RLIM_INFINITY. ucounts: what each user of the new user namespace may have, name of
    /proc/sys/user without max_ to a number; -1 for no limit of its own.
    """

    memory: int = 512 << 20
    swap: int = 0
    pids: int = 256
    cpu: float | None = None
    rlimits: dict[str, tuple[int, int]] = {
        "core": (1, 1),
        "nofile": (1024, 1024),
        "memlock": (64 << 10, 64 << 10),
        "sigpending": (1024, 1024),
        "msgqueue": (256 << 10, 256 << 10),  # three POSIX queues of the usual size
        "nice": (0, 0),
        "rtprio": (0, 0),
    }
    ucounts: dict[str, int] = {"inotify_instances": 16, "inotify_watches": 8192}


class Capabilities(Frozen):
    """``[capabilities]``: the five sets, names without CAP_ in lower case. capabilities(7)."""

    effective: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Namespaces(Frozen):
    """``[namespaces]``: "new" (default), "host", or for each type what to join: path, pid, sandbox, directory of pins.

    monotonic_offset, boottime_offset: seconds added to the clocks; None: what makes them begin at zero,
    so that the host's uptime does not show.
    """

    user: str = "new"
    mnt: str = "new"
    pid: str = "new"
    net: str = "new"
    uts: str = "new"
    ipc: str = "new"
    cgroup: str = "new"
    time: str = "new"
    monotonic_offset: int | None = None
    boottime_offset: int | None = None


class Ipc(Frozen):
    """``[ipc]``: limits of the new IPC namespace; 0 leaves the kernel's default.

    sysvipc(7), mq_overview(7). shmmax, shmall in the kernel's units (bytes, pages).
    """

    shmmax: int = 0
    shmall: int = 0
    shmmni: int = 0
    msgmax: int = 0
    msgmnb: int = 0
    msgmni: int = 0
    sem: str = ""  # "SEMMSL SEMMNS SEMOPM SEMMNI"
    mq_queues_max: int = 0
    mq_msg_max: int = 0
    mq_msgsize_max: int = 0


class LandlockRule(Frozen):
    """One entry of ``landlock.rules``: what is allowed at and below a path inside.

    allow: names of <linux/landlock.h> without LANDLOCK_ACCESS_FS_, in lower case.
    """

    path: str
    allow: tuple[str, ...]


class Landlock(Frozen):
    """``[landlock]``: what the command may do with files, TCP ports and processes outside its domain. landlock(7).

    read, write, execute: absolute paths inside; with one of them or a rule, all else is refused. execute includes read.
    tcp_bind, tcp_connect: the only ports. None: not restricted; an empty list: none at all. scope: what ends at the
    domain: "abstract_unix_socket", "signal". flags: of landlock_restrict_self(2), without LANDLOCK_RESTRICT_SELF_.
    """

    read: tuple[str, ...] | None = None
    write: tuple[str, ...] | None = None
    execute: tuple[str, ...] | None = None
    rules: tuple[LandlockRule, ...] = ()
    tcp_bind: tuple[int, ...] | None = None
    tcp_connect: tuple[int, ...] | None = None
    scope: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


class SeccompWhere(Frozen):
    """One condition on an argument of a system call: (argument & mask) op value.

    arg: number of the argument, from 0. value: negative as of an int. mask: 0 for the bits that the kernel looks at;
    others never count. op: "==", "!=", "<", "<=", ">", ">=", without sign.
    """

    arg: int
    op: str = "=="
    value: int = 0
    mask: int = 0


class SeccompCall(Frozen):
    """One entry of ``allow`` or ``refuse``: a system call, with all of ``where`` true; or a group, "@mount"."""

    call: str
    where: tuple[SeccompWhere, ...] = ()


class Seccomp(Frozen):
    """``[seccomp]``: a list of system calls made of another one.

    base: "default", "strict", "none" (all are allowed), "empty" (none is), or the path of a list in a file.
    allow, refuse: what is different. The narrower word counts: conditions before calls before groups; of two alike, in
    allow and refuse, the one that refuses. action: what refused calls get: "errno" (they fail with errno), "kill" (the
    process), "log" (they are made, and the kernel logs them); empty: EPERM, or what the file says. errno: its name.
    """

    base: str = "default"
    allow: tuple[SeccompCall, ...] = ()
    refuse: tuple[SeccompCall, ...] = ()
    action: str = ""
    errno: str = ""


class Spec(Frozen):
    """A sandbox as it is wanted. Every default is the safe one; every loosening is a word here.

    command: argv. user: "uid", "uid:gid", or names looked up in the root's passwd and group.
    groups: supplementary gids inside; ("keep",) keeps the caller's. env: the whole environment.
    uid_map, gid_map: empty for a range of unused host ids (root) or from /etc/subuid (others).
    pass_fds: fds of the caller by number, given to the command from fd 3 on, in this order.
    terminal: "auto" (a terminal of its own if the caller has one), "never", "always".
    securebits: names as in capabilities(7) in lower case; seccomp: "default", "strict", "none", the path
    of a list in a file, or a Seccomp.
    apparmor: a profile that the command gets at its exec, "A//&B" for several at once, "stack A" for A and the
    present one. selinux: its context, "user:role:type:level".
    proc: "private" (default), "none", "bind"; hidepid: "invisible", "off" ... proc_show: names in /proc that are
    shown as the host has them, "sys" for its settings.
    aslr: "on", "off" (personality ADDR_NO_RANDOMIZE). personality: "", "linux32".
    next_pid: pid of the command in the pid namespace, 0 for the kernel's choice (clone3 set_tid).
    subreaper: the command is a child subreaper. die_with_parent: ends with the launcher.
    umask: permission bits that new files lack. attest: before the command starts the launcher reads back from outside
    whether all is as asked for.
    """

    command: tuple[str, ...] = ()
    name: str = ""
    root: Root = Root()
    hostname: str = ""
    domainname: str = ""
    user: str = "1000:1000"
    groups: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str = "/"
    umask: int = 0o022
    mounts: tuple[Mount, ...] = ()
    mount_propagation: str = "private"
    proc: str = "private"
    hidepid: str = "invisible"
    proc_subset: str = ""
    proc_show: tuple[str, ...] = ()
    dev: str = "private"
    tmp_size: int = 64 << 20
    mask_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    limits: Limits = Limits()
    net: Net = Net()
    namespaces: Namespaces = Namespaces()
    ipc: Ipc = Ipc()
    uid_map: tuple[IdMap, ...] = ()
    gid_map: tuple[IdMap, ...] = ()
    capabilities: Capabilities = Capabilities()
    securebits: tuple[str, ...] = (
        "noroot",
        "noroot_locked",
        "no_setuid_fixup",
        "no_setuid_fixup_locked",
        "keep_caps_locked",
        "no_cap_ambient_raise",
        "no_cap_ambient_raise_locked",
    )
    no_new_privs: bool = True
    seccomp: str | Seccomp = "default"
    landlock: Landlock = Landlock()
    apparmor: str = ""
    selinux: str = ""
    keyring: str = "new"
    init: bool = True
    terminal: str = "auto"
    pass_fds: tuple[int, ...] = ()
    aslr: str = ""
    personality: str = ""
    next_pid: int = 0
    subreaper: bool = False
    die_with_parent: bool = True
    oom_score_adj: int = 500
    attest: bool = True
