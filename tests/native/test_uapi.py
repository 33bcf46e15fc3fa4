"""The numbers of nstool.uapi agree with the headers that its comments name."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from nstool import uapi

# Newer than the headers of Linux 5.10, written as the kernel's headers write them. Where the
# header has the name, the header's value counts.
NEWER = {
    "MOVE_MOUNT_SET_GROUP": "0x00000100",
    "MOVE_MOUNT_BENEATH": "0x00000200",
    "FSCONFIG_CMD_CREATE_EXCL": "8",
    "MOUNT_ATTR_IDMAP": "0x00100000",
    "MOUNT_ATTR_NOSYMFOLLOW": "0x00200000",
    "MOUNT_ATTR_SIZE_VER0": "32",
    "STATMOUNT_SB_BASIC": "0x00000001U",
    "STATMOUNT_MNT_BASIC": "0x00000002U",
    "STATMOUNT_PROPAGATE_FROM": "0x00000004U",
    "STATMOUNT_MNT_ROOT": "0x00000008U",
    "STATMOUNT_MNT_POINT": "0x00000010U",
    "STATMOUNT_FS_TYPE": "0x00000020U",
    "STATMOUNT_MNT_NS_ID": "0x00000040U",
    "STATMOUNT_MNT_OPTS": "0x00000080U",
    "STATMOUNT_FS_SUBTYPE": "0x00000100U",
    "STATMOUNT_SB_SOURCE": "0x00000200U",
    "STATMOUNT_OPT_ARRAY": "0x00000400U",
    "STATMOUNT_OPT_SEC_ARRAY": "0x00000800U",
    "STATMOUNT_SUPPORTED_MASK": "0x00001000U",
    "STATMOUNT_MNT_UIDMAP": "0x00002000U",
    "STATMOUNT_MNT_GIDMAP": "0x00004000U",
    "LSMT_ROOT": "0xffffffffffffffffULL",
    "LISTMOUNT_REVERSE": "(1 << 0)",
    "STATX_MNT_ID": "0x00001000U",
    "STATX_MNT_ID_UNIQUE": "0x00004000U",
    "RESOLVE_CACHED": "0x20",
    "AT_RECURSIVE": "0x8000",
    "F_SEAL_EXEC": "0x0020",
    "MFD_NOEXEC_SEAL": "0x0008U",
    "MFD_EXEC": "0x0010U",
    "CLOSE_RANGE_CLOEXEC": "(1U << 2)",
    "PID_FS_MAGIC": "0x50494446",
    "PR_SCHED_CORE": "62",
    "PR_SCHED_CORE_CREATE": "1",
    "PR_SCHED_CORE_SCOPE_PROCESS_GROUP": "2",
    "PR_SET_MDWE": "65",
    "PR_GET_MDWE": "66",
    "PR_MDWE_REFUSE_EXEC_GAIN": "(1UL << 0)",
    "PR_SET_VMA": "0x53564d41",
    "CAP_CHECKPOINT_RESTORE": "40",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": "(1UL << 5)",
    "LANDLOCK_RULE_NET_PORT": "2",
    "LANDLOCK_ACCESS_FS_TRUNCATE": "(1ULL << 14)",
    "LANDLOCK_ACCESS_FS_IOCTL_DEV": "(1ULL << 15)",
    "LANDLOCK_ACCESS_NET_BIND_TCP": "(1ULL << 0)",
    "LANDLOCK_ACCESS_NET_CONNECT_TCP": "(1ULL << 1)",
    "LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET": "(1ULL << 0)",
    "LANDLOCK_SCOPE_SIGNAL": "(1ULL << 1)",
    "LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF": "(1U << 0)",
    "LANDLOCK_RESTRICT_SELF_LOG_NEW_EXEC_ON": "(1U << 1)",
    "LANDLOCK_RESTRICT_SELF_LOG_SUBDOMAINS_OFF": "(1U << 2)",
    "NS_GET_MNTNS_ID": "_IOR(NSIO, 0x5, __u64)",
    "NS_GET_PID_FROM_PIDNS": "_IOR(NSIO, 0x6, int)",
    "NS_GET_TGID_FROM_PIDNS": "_IOR(NSIO, 0x7, int)",
    "NS_GET_PID_IN_PIDNS": "_IOR(NSIO, 0x8, int)",
    "NS_GET_TGID_IN_PIDNS": "_IOR(NSIO, 0x9, int)",
    "NS_MNT_GET_INFO": "_IOR(NSIO, 10, struct nst_mnt_ns_info)",
    "NS_MNT_GET_NEXT": "_IOR(NSIO, 11, struct nst_mnt_ns_info)",
    "NS_MNT_GET_PREV": "_IOR(NSIO, 12, struct nst_mnt_ns_info)",
    "NS_GET_ID": "_IOR(NSIO, 13, __u64)",
    "PIDFD_NONBLOCK": "O_NONBLOCK",
    "PIDFD_THREAD": "O_EXCL",
    "PIDFD_SIGNAL_THREAD": "(1UL << 0)",
    "PIDFD_SIGNAL_THREAD_GROUP": "(1UL << 1)",
    "PIDFD_SIGNAL_PROCESS_GROUP": "(1UL << 2)",
    "PIDFD_GET_CGROUP_NAMESPACE": "_IO(0xFF, 1)",
    "PIDFD_GET_IPC_NAMESPACE": "_IO(0xFF, 2)",
    "PIDFD_GET_MNT_NAMESPACE": "_IO(0xFF, 3)",
    "PIDFD_GET_NET_NAMESPACE": "_IO(0xFF, 4)",
    "PIDFD_GET_PID_NAMESPACE": "_IO(0xFF, 5)",
    "PIDFD_GET_PID_FOR_CHILDREN_NAMESPACE": "_IO(0xFF, 6)",
    "PIDFD_GET_TIME_NAMESPACE": "_IO(0xFF, 7)",
    "PIDFD_GET_TIME_FOR_CHILDREN_NAMESPACE": "_IO(0xFF, 8)",
    "PIDFD_GET_USER_NAMESPACE": "_IO(0xFF, 9)",
    "PIDFD_GET_UTS_NAMESPACE": "_IO(0xFF, 10)",
    "PIDFD_INFO_COREDUMP": "(1UL << 4)",
    "PIDFD_INFO_SIZE_VER1": "72",
    "PIDFD_COREDUMP_SKIP": "(1U << 1)",
    "PIDFD_COREDUMP_USER": "(1U << 2)",
    "PIDFD_COREDUMP_ROOT": "(1U << 3)",
    "SO_PEERPIDFD": "77",
}

# What the values in NEWER are made of.
PREAMBLE = """\
#define _GNU_SOURCE
#include <linux/types.h>
#include <linux/ioctl.h>
struct nst_mnt_ns_info { __u32 size, nr_mounts; __u64 mnt_ns_id; };
"""

# Words of man pages, not of headers.
WORDS = {"PER_QUERY"}  # personality(2): "the value 0xffffffff"


def sections() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return (headers, names) of each section of uapi.py, as its comments and assignments have them."""
    found: list[tuple[tuple[str, ...], list[str]]] = []
    for line in Path(uapi.__file__).read_text().splitlines():
        if line.startswith("# <"):
            found.append((tuple(re.findall(r"<[\w/.-]+>", line)), []))
        elif number := re.match(r"([A-Z]\w*) = ", line):
            found[-1][1].append(number[1])
    return [(headers, tuple(names)) for headers, names in found]


def program(headers: tuple[str, ...], names: tuple[str, ...]) -> str:
    """Return C that compiles only if each name has the value that uapi gives it."""
    lines = [PREAMBLE, *(f"#include {header}" for header in headers)]
    for name in names:
        if name in NEWER:
            lines += [f"#ifndef {name}", f"#define {name} {NEWER[name]}", "#endif"]
        value = getattr(uapi, name) & 0xFFFFFFFFFFFFFFFF
        lines.append(f'_Static_assert((unsigned long long)(long long)({name}) == {value:#x}ULL, "{name}");')
    return "\n".join(lines) + "\n"


def compiles(directory: Path, sources: list[str]) -> subprocess.CompletedProcess[str]:
    files = []
    for number, source in enumerate(sources):
        files.append(directory / f"section{number}.c")
        files[-1].write_text(source)
    command = ["gcc", "-std=gnu11", "-fsyntax-only", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.needs("gcc")
def test_every_number_is_that_of_its_header(tmp_path: Path) -> None:
    """Each number in uapi.py is the one that the header in the comment above it defines."""
    sources = [program(headers, tuple(n for n in names if n not in WORDS)) for headers, names in sections()]
    done = compiles(tmp_path, sources)
    assert [line for line in done.stderr.splitlines() if " error: " in line] == []
    assert done.returncode == 0


@pytest.mark.needs("gcc")
def test_a_wrong_number_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison fails for a number that is off by one."""
    monkeypatch.setattr(uapi, "MS_REC", uapi.MS_REC + 1)
    done = compiles(tmp_path, [program(("<sys/mount.h>",), ("MS_BIND", "MS_REC"))])
    assert done.returncode != 0
    assert '"MS_REC"' in done.stderr
    assert '"MS_BIND"' not in done.stderr


def test_every_number_of_the_module_is_in_a_section() -> None:
    """No number escapes the comparison: all that the module has stands below a header."""
    listed = {name for _, names in sections() for name in names}
    assert {name for name, value in vars(uapi).items() if isinstance(value, int)} == listed
    assert set(NEWER) <= listed


def test_tables_have_every_number() -> None:
    """CAPABILITIES, RLIMITS and SIGNALS name all the numbers of their prefix, and no other."""
    caps = {n: v for n, v in vars(uapi).items() if n.startswith("CAP_") and n != "CAP_LAST_CAP"}
    assert {f"CAP_{name.upper()}": number for name, number in uapi.CAPABILITIES.items()} == caps
    assert sorted(uapi.CAPABILITIES.values()) == list(range(uapi.CAP_LAST_CAP + 1))
    rlimits = {n: v for n, v in vars(uapi).items() if n.startswith("RLIMIT_")}
    assert {f"RLIMIT_{name.upper()}": number for name, number in uapi.RLIMITS.items()} == rlimits
    assert {s.name: s.value for s in signal.Signals if s.value < signal.SIGRTMIN} == uapi.SIGNALS


def test_names_prefers_whole_flags_and_keeps_unknown_bits() -> None:
    """Flags come out in words, the smallest first; what has no name stays a number."""
    cases = {
        ("MS", uapi.MS_PRIVATE | uapi.MS_REC): "MS_REC|MS_PRIVATE",
        ("O", uapi.O_TMPFILE | uapi.O_RDWR): "O_RDWR|O_TMPFILE",
        ("O", uapi.O_DIRECTORY): "O_DIRECTORY",
        ("O", uapi.O_SYNC): "O_SYNC",
        ("CLONE", uapi.CLONE_NEWNS | 1 << 40): "CLONE_NEWNS|0x10000000000",
        ("CLONE", uapi.CLONE_NEWTIME): "CLONE_NEWTIME",
        ("OPEN_TREE", uapi.OPEN_TREE_CLONE | uapi.AT_RECURSIVE): "OPEN_TREE_CLONE|AT_RECURSIVE",
        ("UMOUNT", uapi.MNT_DETACH | uapi.UMOUNT_NOFOLLOW): "MNT_DETACH|UMOUNT_NOFOLLOW",
        ("MOUNT_ATTR", uapi.MOUNT_ATTR__ATIME): "MOUNT_ATTR_NOATIME|MOUNT_ATTR_STRICTATIME|0x40",
        ("AT", 0): "0",
    }
    assert {case: uapi.names(*case) for case in cases} == cases


@pytest.mark.parametrize("family", sorted(uapi._FAMILIES))
def test_flags_say_every_bit(family: str) -> None:
    """The words of all flags of a family together give back all of its bits."""
    every = 0
    for _, value in uapi.FLAGS[family]:
        every |= value
    words = uapi.names(family, every).split("|")
    again = 0
    for word in words:
        again |= getattr(uapi, word)
    assert again == every


@pytest.mark.parametrize("family", sorted(uapi._ENUMS))
def test_one_value_has_one_name(family: str) -> None:
    """In a family of alternatives no two names share a number."""
    without = () if family == "PR_CAP_AMBIENT" else uapi._NOT_VALUES
    members = uapi._members(uapi._ENUMS[family], without)
    assert len({value for _, value in members}) == len(members)
    assert [uapi.name(family, value) for _, value in members] == [name for name, _ in members]


def test_a_value_without_a_name_is_its_number() -> None:
    """name() gives the number for what it does not know."""
    assert uapi.name("PR", 999) == "999"
