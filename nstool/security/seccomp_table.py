"""The seccomp lists "default" and "strict": every system call of x86_64 up to Linux 6.18, allowed or not, and why.

Read when nstool is built, and by a launch with a list of its own. docs: seccomp(2), syscalls(2).
"""

from __future__ import annotations

from nstool import uapi
from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

LOW32, ALL = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
NEW_NAMESPACES = (
    uapi.CLONE_NEWNS
    | uapi.CLONE_NEWCGROUP
    | uapi.CLONE_NEWUTS
    | uapi.CLONE_NEWIPC
    | uapi.CLONE_NEWUSER
    | uapi.CLONE_NEWPID
    | uapi.CLONE_NEWNET
)


class Group(Frozen):
    """System calls that share a purpose: a word for them, one sentence why, and their names, separated by spaces."""

    name: str
    why: str
    calls: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.calls.split())


class Rule(Frozen):
    """One system call decided by its arguments.

    Every (index, mask, value) in ``where`` must hold: argument & mask == value; and none of those in ``but``.
    Arguments that the kernel takes as int are compared in their low 32 bits, as the kernel does, whatever the caller
    left in the high ones. answer: the errno of a rule that refuses, in whatever way others are; 0: as if it were done.
    """

    call: str
    where: tuple[tuple[int, int, int], ...]
    why: str
    but: tuple[tuple[int, int, int], ...] = ()
    answer: int | None = None


ALLOWED: tuple[Group, ...] = (
    Group(
        "file-system",
        "files and directories: permissions, mounts and the root decide what can be reached",
        "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 "
        "fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync file_getattr file_setattr flock "
        "fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 lchown link linkat lseek lstat mkdir "
        "mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read "
        "readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile splice stat statfs statx "
        "symlink symlinkat sync_file_range tee truncate umask unlink unlinkat utime utimensat utimes "
        "vmsplice write writev chroot cachestat name_to_handle_at",
    ),
    Group(
        "xattr",
        "extended attributes: as the files they belong to",
        "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr "
        "lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    ),
    Group(
        "io-event",
        "waiting for many files: event loops",
        "epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch "
        "inotify_init inotify_init1 inotify_rm_watch poll ppoll pselect6 select signalfd signalfd4",
    ),
    Group(
        "network-io",
        "sockets that exist: making one is decided by its family, below",
        "accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg "
        "sendmsg sendto setsockopt shutdown",
    ),
    Group("pipe", "pipes and memory files: shells, graphics buffers, sealed data", "memfd_create pipe pipe2"),
    Group(
        "memory",
        "memory of the process itself: allocators, just-in-time compilers, protection keys",
        "brk madvise map_shadow_stack mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock "
        "munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    ),
    Group(
        "process",
        "processes and threads: start, wait, end; new namespaces are refused, below",
        "execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid kill pidfd_open "
        "pidfd_send_signal restart_syscall set_robust_list get_robust_list set_tid_address setpgid setsid tgkill tkill "
        "vfork wait4 waitid arch_prctl prctl membarrier rseq",
    ),
    Group(
        "signal",
        "signals",
        "alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend "
        "rt_sigtimedwait rt_tgsigqueueinfo sigaltstack",
    ),
    Group(
        "uprobe",
        "returns from a probe that a tracer outside has placed: without them the traced program is killed",
        "uprobe uretprobe",
    ),
    Group("futex", "locks between threads", "futex futex_requeue futex_wait futex_waitv futex_wake"),
    Group(
        "timer",
        "reading clocks, sleeping, timers; setting a clock is refused",
        "clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time "
        "timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime "
        "timerfd_settime times",
    ),
    Group(
        "resources",
        "scheduling and limits of own processes: the kernel refuses more than the caller may",
        "getcpu getpriority getrlimit getrusage ioprio_get prlimit64 sched_get_priority_max "
        "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
        "sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield "
        "setpriority setrlimit",
    ),
    Group(
        "setuid",
        "user and group ids, capabilities: a change needs a capability, and is inside the user namespace",
        "capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups "
        "setregid setresgid setresuid setreuid setuid",
    ),
    Group(
        "ipc",
        "System V IPC and message queues: of the sandbox's own IPC namespace",
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl "
        "semget semop semtimedop shmat shmctl shmdt shmget",
    ),
    Group("facts", "facts about the system", "getrandom sysinfo uname listmount statmount"),
    Group(
        "sandbox",
        "restricting oneself further, and asking how one is restricted",
        "landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules "
        "lsm_set_self_attr seccomp",
    ),
)

# Options of sockets, by what they do to others: level, option, name.
REFUSED_OPTIONS: Mapping[str, tuple[tuple[int, int, str], ...]] = {
    "a filter is compiled into memory that the host has so much of for all (net.core.bpf_jit_limit)": (
        (1, 26, "SO_ATTACH_FILTER"),
        (1, 51, "SO_ATTACH_REUSEPORT_CBPF"),
    ),
    "what waits in the socket's queue of errors counts as nobody's memory": (
        (1, 37, "SO_TIMESTAMPING_OLD"),
        (1, 65, "SO_TIMESTAMPING_NEW"),
    ),
    "keys count as nobody's memory": (
        (6, 14, "TCP_MD5SIG"),
        (6, 32, "TCP_MD5SIG_EXT"),
        (6, 38, "TCP_AO_ADD_KEY"),
    ),
    "groups are left one by one, under a lock that all network namespaces share": (
        (0, 35, "IP_ADD_MEMBERSHIP"),
        (0, 39, "IP_ADD_SOURCE_MEMBERSHIP"),
        (0, 42, "MCAST_JOIN_GROUP"),
        (0, 46, "MCAST_JOIN_SOURCE_GROUP"),
        (41, 20, "IPV6_ADD_MEMBERSHIP"),
        (41, 27, "IPV6_JOIN_ANYCAST"),
        (41, 42, "MCAST_JOIN_GROUP"),
        (41, 46, "MCAST_JOIN_SOURCE_GROUP"),
    ),
    "the host has so many labels for all": ((41, 32, "IPV6_FLOWLABEL_MGR"),),
}

# Types of ioctl(2) numbers, and which of a type are allowed: they ask the filesystem more than what is in a file.
_FILESYSTEMS: tuple[tuple[str, int, dict[str, int], str], ...] = (
    (
        "f",
        0x66,
        {"FS_IOC_GETFLAGS": 1, "FS_IOC_SETFLAGS": 2},
        "as FS_IOC_FIEMAP does where on the host's disk a file lies",
    ),
    ("X", 0x58, {"FS_IOC_FSGETXATTR": 31, "FS_IOC_FSSETXATTR": 32}, "as FS_IOC_GETFSMAP does what is free on the disk"),
    (
        "0x94",
        0x94,
        {"FICLONE": 9, "FICLONERANGE": 13, "FIDEDUPERANGE": 54},
        "as FS_IOC_GETFSLABEL does the disk's label",
    ),
    ("0x15", 0x15, {}, "as FS_IOC_GETFSUUID does which disk it is"),
)
# ioctl(2) numbers of network devices: mask, number, name.
_DEVICES: Mapping[str, tuple[tuple[int, int, str], ...]] = {
    "the kernel waits for the caller's memory while it holds the lock of all networks": (
        (LOW32, 0x8912, "SIOCGIFCONF"),
        (LOW32, 0x8946, "SIOCETHTOOL"),
        (LOW32, 0x894A, "SIOCWANDEV"),
        (LOW32 - 7, 0x8990, "SIOCBONDINFOQUERY and its kin"),
        (LOW32 - 1, 0x89B0, "SIOCSHWTSTAMP and its kin"),
        (LOW32 - 31, 0x89E0, "SIOCPROTOPRIVATE, SIOCDEVPRIVATE and those above them"),
    ),
    "a kernel module is loaded, whoever asks": (
        (LOW32 - 1, 0x8940, "SIOCGIFBR, SIOCSIFBR"),
        (LOW32 - 3, 0x8980, "SIOCGIFVLAN and its kin"),
        (LOW32 - 3, 0x89A0, "SIOCBRADDBR and its kin"),
    ),
}
_CORE = "the limit of core dumps stays: with any but 1 the host's handler of dumps would be run (fs/coredump.c)"

# Looked at before ALLOWED: EPERM although the call as such is allowed there.
REFUSED_ARGUMENTS: tuple[Rule, ...] = (
    Rule("ioctl", ((1, LOW32, 0x5412),), "TIOCSTI types into the terminal as if the user had"),
    Rule("ioctl", ((1, LOW32, 0x541C),), "TIOCLINUX pastes into the console and reads its screen"),
    Rule(
        "ioctl", ((1, LOW32, 0x5423),), "TIOCSETD sets a line discipline: seldom used code of the kernel, as a module"
    ),
    *(
        Rule(
            "ioctl",
            ((1, 0xFF00, number << 8),),
            f"of type {name} tells, {why}; not {' and '.join(but)}" if but else f"of type {name} tells, {why}",
            tuple((1, 0xFF, one) for one in but.values()),
        )
        for name, number, but, why in _FILESYSTEMS
    ),
    *(
        Rule("ioctl", ((1, mask, number),), f"{name}: {why}")
        for why, numbers in _DEVICES.items()
        for mask, number, name in numbers
    ),
    Rule("setrlimit", ((0, LOW32, uapi.RLIMIT_CORE),), _CORE, answer=0),
    Rule("prlimit64", ((1, LOW32, uapi.RLIMIT_CORE),), _CORE, but=((2, ALL, 0),), answer=0),
    Rule("fcntl", ((1, LOW32, 1024),), "F_SETLEASE makes whoever opens the file elsewhere wait"),
    Rule("fcntl", ((1, LOW32, 1026),), "F_NOTIFY tells of what others do in a directory"),
    Rule("madvise", ((2, LOW32, 12),), "MADV_MERGEABLE shares pages with others, who can be told by the time it takes"),
    Rule("prctl", ((0, LOW32, 67),), "PR_SET_MEMORY_MERGE does so with all pages"),
    Rule("madvise", ((2, LOW32, 21),), "MADV_PAGEOUT takes pages from whoever else has the same file"),
    Rule("fadvise64", ((3, LOW32, 4),), "POSIX_FADV_DONTNEED takes pages from whoever else reads the same file"),
    *(
        Rule(call, ((index, bits, bits),), "huge pages are the host's, set aside for who has been promised them")
        for call, index, bits in (("mmap", 3, 0x40000), ("memfd_create", 1, uapi.MFD_HUGETLB), ("shmget", 2, 0o4000))
    ),
    *(
        Rule("setsockopt", ((1, LOW32, level), (2, LOW32, option)), f"{name}: {why}")
        for why, options in REFUSED_OPTIONS.items()
        for level, option, name in options
    ),
    *(
        Rule("getsockopt", ((1, LOW32, 1), (2, LOW32, option)), f"{name}: a number that all of the host draw from")
        for option, name in ((57, "SO_COOKIE"), (71, "SO_NETNS_COOKIE"))
    ),
)

_STREAM = {"default": 0, "TCP": 6, "MPTCP": 262}
_DATAGRAM = {"default": 0, "ICMP echo": 1, "UDP": 17, "ICMPv6 echo": 58}
_STRICT_PROTOCOLS = frozenset({"default", "TCP", "UDP"})


def _socket_rules(labels: Collection[str]) -> tuple[Rule, ...]:
    why = "without the protocols that load seldom used kernel modules"
    return tuple(
        Rule("socket", ((0, LOW32, family), (1, 0xF, kind), (2, LOW32, protocol)), f"{label}, {why}")
        for family in (uapi.AF_INET, uapi.AF_INET6)
        for kind, protocols in ((uapi.SOCK_STREAM, _STREAM), (uapi.SOCK_DGRAM, _DATAGRAM))
        for label, protocol in protocols.items()
        if label in labels
    )


def _persona_rules() -> tuple[Rule, ...]:
    bases = (uapi.PER_LINUX, uapi.PER_LINUX32)
    values = (*bases, *(base | uapi.UNAME26 for base in bases), uapi.PER_QUERY)
    why = "known personalities that leave address randomisation on"
    return tuple(Rule("personality", ((0, LOW32, value),), why) for value in values)


# Allowed with these arguments only, else EPERM.
ALLOWED_ARGUMENTS: tuple[Rule, ...] = (
    Rule("ioctl", (), "terminals, sockets, files; the exceptions stand in REFUSED_ARGUMENTS"),
    Rule("clone", ((0, NEW_NAMESPACES, 0),), "threads and processes, without a new namespace"),
    Rule("unshare", ((0, NEW_NAMESPACES | uapi.CLONE_NEWTIME, 0),), "own fds or working directory, no new namespace"),
    *_persona_rules(),
    Rule("socket", ((0, LOW32, uapi.AF_UNIX),), "local sockets; the mount namespace decides which are in reach"),
    Rule("socket", ((0, LOW32, uapi.AF_NETLINK), (2, LOW32, uapi.NETLINK_ROUTE)), "reading interfaces and addresses"),
    *_socket_rules({*_STREAM, *_DATAGRAM}),
    Rule("socketpair", ((0, LOW32, uapi.AF_UNIX),), "local pairs; other families have none that is needed"),
)

# The same of "strict": no unshare, no personality, no netlink, of IP only TCP and UDP.
STRICT_ARGUMENTS: tuple[Rule, ...] = (
    *(
        rule
        for rule in ALLOWED_ARGUMENTS
        if rule.call not in ("unshare", "personality", "socket") or rule.where == ((0, LOW32, uapi.AF_UNIX),)
    ),
    *_socket_rules(_STRICT_PROTOCOLS),
)
_MSG_OOB = 1
STRICT_REFUSED_ARGUMENTS: tuple[Rule, ...] = (
    *REFUSED_ARGUMENTS,
    Rule("prctl", ((0, LOW32, uapi.PR_SET_SECCOMP),), "the older way to load a filter, as seccomp is refused"),
    *(
        Rule(call, ((index, _MSG_OOB, _MSG_OOB),), "urgent data: seldom used code of the kernel, CVE-2025-38236")
        for call, index in (
            ("sendto", 3),
            ("sendmsg", 2),
            ("sendmmsg", 3),
            ("recvfrom", 3),
            ("recvmsg", 2),
            ("recvmmsg", 3),
        )
    ),
    *(
        Rule("fcntl", ((1, LOW32, number),), f"{name}: locks of parts of files count as nobody's memory")
        for number, name in ((6, "F_SETLK"), (7, "F_SETLKW"), (37, "F_OFD_SETLK"), (38, "F_OFD_SETLKW"))
    ),
)

# Calls that are decided by their arguments, in the group that they belong to: allowed there as in ALLOWED_ARGUMENTS.
CONDITIONAL: Mapping[str, tuple[str, ...]] = {
    "file-system": ("ioctl",),
    "process": ("clone", "personality", "unshare"),
    "network-io": ("socket", "socketpair"),
}
# Further words: these calls with all arguments.
WHOLE: tuple[Group, ...] = (
    Group("namespaces", "new namespaces, and joining others", "clone clone3 setns unshare"),
    Group("any-socket", "sockets of every family and protocol", "socket socketpair"),
)

# Answered with ENOSYS, as by a kernel without them: callers then use what they used before.
MISSING: tuple[Group, ...] = (
    Group("clone3", "its flags are in memory, where a filter cannot read them; libraries fall back to clone", "clone3"),
    Group(
        "obsolete",
        "no longer in the kernel, or never were",
        "_sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms get_thread_area getpmsg "
        "lookup_dcookie nfsservctl putpmsg query_module security set_thread_area tuxcall uselib vserver",
    ),
)

# Refused with EPERM, as is everything that is named nowhere. The list is complete so that a test can tell a
# decision from an oversight.
REFUSED: tuple[Group, ...] = (
    Group("bpf", "programs in the kernel, and measurements of it", "bpf perf_event_open"),
    Group("userfaultfd", "page faults handled by the process itself, a help to win races in the kernel", "userfaultfd"),
    Group(
        "io-uring",
        "a second road into the kernel that a filter does not see",
        "io_uring_enter io_uring_register io_uring_setup",
    ),
    Group(
        "aio",
        "asynchronous disk requests, the older interface: databases use it, and the host has so many for all "
        "(fs.aio-max-nr)",
        "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
    ),
    Group("keyring", "key rings: not all of them belong to a namespace", "add_key keyctl request_key"),
    Group(
        "debug",
        "other processes' memory, registers and files",
        "kcmp migrate_pages move_pages pidfd_getfd process_madvise process_mrelease process_vm_readv "
        "process_vm_writev ptrace",
    ),
    Group(
        "module",
        "another kernel, or more of this one",
        "delete_module finit_module init_module kexec_file_load kexec_load",
    ),
    Group(
        "mount",
        "the mount interface",
        "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree open_tree_attr pivot_root umount2",
    ),
    Group("setns", "other namespaces", "setns"),
    Group("file-handle", "files by number, past the directories that hide them", "open_by_handle_at"),
    Group("fanotify", "events of files outside the sandbox's own", "fanotify_init fanotify_mark"),
    Group(
        "host",
        "the host as a whole",
        "acct quotactl quotactl_fd reboot setdomainname sethostname swapoff swapon sync syncfs sysfs syslog ustat "
        "vhangup",
    ),
    Group(
        "numa",
        "placement on the host's memory nodes, and which those are",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    Group(
        "secret-memory",
        "memory that the kernel does not see: the host cannot hibernate while it is there",
        "memfd_secret",
    ),
    Group("io-priority", "disk requests before those of the host: the usual class needs no right for it", "ioprio_set"),
    Group("clock", "the host's clocks", "adjtimex clock_adjtime clock_settime settimeofday"),
    Group("raw-io", "the machine: ports, descriptor tables", "ioperm iopl modify_ldt"),
)

# What "strict" refuses of what "default" allows: a service that does one thing has no use for it, and each is more of
# the kernel within reach. A word of ALLOWED without calls is that whole group.
STRICT_REFUSED: tuple[Group, ...] = (
    Group("ipc", "System V IPC and queues: a service speaks by sockets and pipes", ""),
    Group("sandbox", "code of the kernel for confining oneself: it is confined", ""),
    Group(
        "file-system",
        "another root, files by handle, special files, pages lent to pipes",
        "chroot mknod mknodat name_to_handle_at tee vmsplice",
    ),
    Group("pipe", "programs in memory files", "memfd_create"),
    Group(
        "memory",
        "protection keys, and what was replaced by mmap",
        "pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    ),
    Group("process", "a program without a name", "execveat"),
    Group(
        "setuid",
        "changing ids and capabilities: it has those that it runs with; asking stays",
        "capset setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid",
    ),
    Group(
        "resources",
        "scheduling in real time or before others",
        "sched_setattr sched_setparam sched_setscheduler",
    ),
    Group("facts", "mounts by their numbers", "listmount statmount"),
)

# Numbers of calls that the libseccomp in use may not know by name yet (asm/unistd_64.h of Linux 6.18).
NUMBERS: Mapping[str, int] = {
    "uretprobe": 335,
    "uprobe": 336,
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}

# Calls newer than this table: ENOSYS, so that libraries which probe for them fall back. 512 begins x32's own range.
UNKNOWN_NUMBERS = range(max(NUMBERS.values()) + 1, 512)
