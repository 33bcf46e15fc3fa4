"""What of the kernel can be called: the filter as it is measured from inside, not as it was written."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable

from nstool.security import seccomp
from nstool.security import seccomp_table as table
from tests.kernel.adversary.base import Answer, Check, Expected, call, ended, refused, says, tells
from tests.kernel.adversary.run import View

LAST = 600
X32 = 0x4000_0000
HIGH = (0, 1 << 32, 1 << 63, 0xFFFFFFFF << 32)
# Whatever the table will say one day: each of these has been a way out, or into the kernel.
NEVER = (
    *("bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "add_key"),
    *("keyctl", "request_key", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd"),
    *("kcmp", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "setns", "acct"),
    *("open_by_handle_at", "fanotify_init", "quotactl", "quotactl_fd", "reboot", "swapon", "swapoff", "sethostname"),
    *("setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "ioperm", "iopl", "modify_ldt"),
    *("syslog", "ustat", "sysfs", "vhangup", "move_pages", "migrate_pages", "io_setup", "io_submit"),
    *("sync", "syncfs", "ioprio_set", "memfd_secret", "mbind", "set_mempolicy", "get_mempolicy"),
)
# Options of sockets: level, number, name. linux/socket.h, linux/in.h, linux/in6.h, linux/tcp.h
OPTIONS = (
    *((1, 26, "SO_ATTACH_FILTER"), (1, 51, "SO_ATTACH_REUSEPORT_CBPF")),
    *((1, 37, "SO_TIMESTAMPING_OLD"), (1, 65, "SO_TIMESTAMPING_NEW")),
    *((6, 14, "TCP_MD5SIG"), (6, 32, "TCP_MD5SIG_EXT"), (6, 38, "TCP_AO_ADD_KEY")),
    *((0, 35, "IP_ADD_MEMBERSHIP"), (0, 39, "IP_ADD_SOURCE_MEMBERSHIP")),
    *((0, 42, "MCAST_JOIN_GROUP"), (0, 46, "MCAST_JOIN_SOURCE_GROUP")),
    *((41, 20, "IPV6_ADD_MEMBERSHIP"), (41, 27, "IPV6_JOIN_ANYCAST")),
    *((41, 42, "MCAST_JOIN_GROUP"), (41, 46, "MCAST_JOIN_SOURCE_GROUP"), (41, 32, "IPV6_FLOWLABEL_MGR")),
)
# ioctls of filesystems: linux/fs.h, linux/fsmap.h, fs/ext4/ext4.h, linux/btrfs.h, fs/xfs/libxfs/xfs_fs.h
ASK_DISK = (
    *(0xC020660B, 0xC020662B, 0xC0C0583B, 0x8008662C, 0x80811501, 0x80111500, 0x81009431, 0x80E8662D, 0x8400941F),
    *(0xC0385826, 0x8100587E, 0xD000943C, 0xC0109428, 0x6629, 0x660C),
)
# ioctls of sockets: linux/sockios.h
DEVICES = (
    *(0x8912, 0x8946, 0x894A, 0x8940, 0x8941, 0x8980, 0x8981, 0x8982, 0x8983, 0x8993, 0x8994, 0x8995),
    *(0x89A0, 0x89A1, 0x89A2, 0x89A3, 0x89B0, 0x89B1, 0x89E0, 0x89EF, 0x89F0, 0x89FF),
)
# May be missing in a kernel, or be refused by the kernel itself for what they were asked.
_KERNELS_OWN = {"setgroups", "map_shadow_stack", "uretprobe", "uprobe", "lsm_set_self_attr", "futex"}


def expected_errno(number: int) -> int:
    """What the table says comes of a call whose arguments have all bits; 0 if it gets to the kernel."""
    name = seccomp.call_name(number)
    for rule in table.REFUSED_ARGUMENTS:
        if rule.call == name and all(mask == value for _, mask, value in rule.where):
            return errno.EPERM if rule.answer is None else rule.answer
    if any(name in group.names for group in table.ALLOWED) or name in ("ioctl", "personality"):
        return 0
    if any(name in group.names for group in table.MISSING) or number in table.UNKNOWN_NUMBERS:
        return errno.ENOSYS
    return errno.EPERM


def _scan(view: View) -> Answer:
    """The numbers whose answer is not that of the table."""
    wrong = []
    for first in range(0, LAST + 1, 100):
        text = view.ask("scan", str(first), str(min(first + 99, LAST))).text
        for number, got in (map(int, word.split(":")) for word in text.split()):
            wanted, name = expected_errno(number), seccomp.call_name(number)
            if (
                got == -signal.SIGSYS
                or (wanted and got != wanted)
                or (not wanted and got in (errno.EPERM, errno.ENOSYS) and name not in _KERNELS_OWN and number < 436)
            ):
                wrong.append(f"{name}:{got}")
    return Answer(text=" ".join(wrong))


def _sockets(allowed: Callable[[int, int, int], bool], words: str) -> Expected:
    """None of the sockets that the kernel did not refuse by EPERM is another than these."""

    def test(text: str) -> bool:
        return all(allowed(*map(int, word.split("/"))) for word in text.split())

    return tells(words, test)


_FAMILY = _sockets(
    lambda family, kind, _: family in (1, 16) or (family in (2, 10) and kind in (1, 2)), "UNIX, IP, NETLINK"
)
_NETLINK = _sockets(lambda _family, _kind, protocol: protocol == 0, "NETLINK_ROUTE alone")
_IP = _sockets(
    lambda _, kind, protocol: protocol in {1: (0, 6, 262), 2: (0, 1, 17, 58)}.get(kind, ()), "TCP, MPTCP, UDP, echo"
)

CHECKS: tuple[Check, ...] = (
    Check(
        "every-number-as-the-table-says", _scan, says(""), f"0 to {LAST} are refused or allowed on purpose", "seccomp"
    ),
    *(
        Check(f"never-{name}", call(name, *[-1] * 6), refused("EPERM"), "this call is refused", "seccomp")
        for name in NEVER
    ),
    Check("call-of-i386", ("int80",), ended("SIGSYS"), "another ABI ends the process", "seccomp"),
    *(
        Check(
            f"call-of-x32-{number}", call(X32 | number, -1), ended("SIGSYS"), "another ABI ends the process", "seccomp"
        )
        for number in (0, 39, 101, 513, 514, 521, 539, 545, 547)
    ),
    Check("socket-families", ("sockets", "-1"), _FAMILY, "no family that loads a module", "seccomp"),
    Check("socket-protocols-4", ("sockets", "2"), _IP, "no protocol that loads a module", "seccomp"),
    Check("socket-protocols-6", ("sockets", "10"), _IP, "no protocol that loads a module", "seccomp"),
    Check("socket-netlink", ("sockets", "16"), _NETLINK, "no netlink of the kernel's insides", "seccomp"),
    *(
        Check(
            f"socketpair-{family}",
            call("socketpair", family, 1, 0, "b:8"),
            refused("EPERM"),
            "pairs are UNIX",
            "seccomp",
        )
        for family in (2, 16, 30, 40)
    ),
    *(
        Check(
            f"clone-flag-{bit}{'-high' if high else ''}",
            call("clone", high | 1 << bit | 17, 0, 0, 0, 0),
            refused("EPERM"),
            "no new namespace, whatever the high half says",
            "seccomp",
        )
        for bit in (17, 25, 26, 27, 28, 29, 30)
        for high in HIGH[:2]
    ),
    Check("unshare-time", call("unshare", 0x80), refused("EPERM"), "no new time namespace", "seccomp"),
    Check("clone3", ("clone3", "0"), refused("ENOSYS"), "flags that a filter cannot read are not taken", "seccomp"),
    *(
        Check(
            f"personality-{value:#x}", call("personality", value), refused("EPERM"), "addresses stay random", "seccomp"
        )
        for value in (0x40000, 0x400000, 0x40008, 0x100000, 0x1, 0x6)
    ),
    *(
        Check(
            f"terminal-{name}-{high:x}",
            ("terminal", str(high | number)),
            refused("EPERM"),
            "nothing is typed into a terminal",
            "seccomp",
        )
        for name, number in (("tiocsti", 0x5412), ("tioclinux", 0x541C), ("tiocsetd", 0x5423))
        for high in HIGH
    ),
    *(
        Check(
            f"socket-option-{level}-{name}-{high:x}",
            call("setsockopt", 0, high | level, high | option, 0, 0),
            refused("EPERM"),
            "no option of a socket takes what the host has for all",
            "seccomp",
        )
        for level, option, name in OPTIONS
        for high in HIGH[:2]
    ),
    *(
        Check(f"huge-pages-{name}-{high:x}", call(name, *values, 0, 0), refused("EPERM"), "no huge pages", "seccomp")
        for high in HIGH[:2]
        for name, values in (
            ("mmap", (0, 1 << 21, 3, high | 0x40022)),
            ("memfd_create", ("name", high | 4)),
            ("shmget", (0, 1 << 21, high | 0o5600)),
        )
    ),
    *(
        Check(
            f"ask-disk-{number:#x}", call("ioctl", 0, number, 0), refused("EPERM"), "no file tells of a disk", "seccomp"
        )
        for number in ASK_DISK
    ),
    *(
        Check(
            f"ask-device-{number:#x}-{high:x}",
            call("ioctl", 0, high | number, 0),
            refused("EPERM"),
            "no lock of all networks is held for a page of the caller, and no module loaded",
            "seccomp",
        )
        for number in DEVICES
        for high in HIGH[:2]
    ),
    *(
        Check(
            f"cookie-{option}-{high:x}",
            call("getsockopt", 0, high | 1, high | option, 0, 0),
            refused("EPERM"),
            "no number that all of the host draw from is told",
            "seccomp",
        )
        for option in (57, 71)
        for high in HIGH[:2]
    ),
    *(
        Check(f"{name}-{high:x}", call(*words), refused("EPERM"), why, "seccomp")
        for high in HIGH[:2]
        for name, words, why in (
            ("drop-pages", ("fadvise64", 0, 0, 0, high | 4), "nobody's pages are dropped"),
            ("page-out", ("madvise", 0, 4096, high | 21), "nobody's pages are paged out"),
            ("merge-pages", ("madvise", 0, 4096, high | 12), "pages are shared with nobody"),
            ("merge-all-pages", ("prctl", high | 67, 1, 0, 0, 0), "pages are shared with nobody"),
            ("lease", ("fcntl", 0, high | 1024, 0), "nobody waits for a lease"),
            ("notify", ("fcntl", 0, high | 1026, 1), "nothing tells what others do in a directory"),
        )
    ),
    Check(
        "filter-stays",
        call("prctl", 22, 0, 0, 0, 0),
        Expected("fails", lambda got: got.error in ("EINVAL", "EPERM")),
        "a filter cannot be taken away",
        "seccomp",
    ),
)
