"""The seccomp table and the joining of programs, without libseccomp."""

from __future__ import annotations

from collections import Counter
from itertools import chain as flatten
from pathlib import Path
from struct import pack

import pytest

from nstool.errors import NstoolError, SpecError
from nstool.security import seccomp, seccomp_bpf
from nstool.security import seccomp_table as table

ALLOW, EPERM, KILL = 0x7FFF0000, 0x50001, 0x80000000


def ret(value: int) -> bytes:
    return pack("=HBBI", 0x06, 0, 0, value)


def load(offset: int) -> bytes:
    return pack("=HBBI", 0x20, 0, 0, offset)


def jump_if_equal(value: int, yes: int, no: int) -> bytes:
    return pack("=HBBI", 0x15, yes, no, value)


@pytest.mark.parametrize(
    ("number", "answer"), [(1, EPERM), (2, KILL), (3, ALLOW), (4, EPERM)], ids=["first", "both", "allowed", "second"]
)
def test_what_one_program_does_not_decide_the_next_does(number: int, answer: int) -> None:
    """An answer of the first becomes a jump behind its end; its others stay, or become what they stand for."""
    first = load(0) + jump_if_equal(1, 3, 0) + jump_if_equal(2, 1, 0) + ret(ALLOW) + ret(KILL) + ret(7)
    second = load(0) + jump_if_equal(3, 0, 1) + ret(ALLOW) + ret(EPERM)
    joined = seccomp_bpf.relinked(first, {7: EPERM}, {ALLOW: 0}) + second
    assert seccomp_bpf.answer(joined, number) == answer


def test_every_call_is_decided_once() -> None:
    """No system call stands in two lists, so none is allowed by one and refused by another."""
    groups = (*table.ALLOWED, *table.MISSING, *table.REFUSED)
    listed = Counter(flatten(flatten.from_iterable(group.names for group in groups), conditional()))
    assert [name for name, times in listed.items() if times > 1] == []


def conditional() -> set[str]:
    return {rule.call for rule in table.ALLOWED_ARGUMENTS}


def test_refused_arguments_belong_to_calls_that_are_allowed() -> None:
    """A refusal in front of a call that is refused anyway would be dead text."""
    allowed = conditional() | {name for group in table.ALLOWED for name in group.names}
    assert {rule.call for rule in table.REFUSED_ARGUMENTS} <= allowed


def test_every_group_says_why() -> None:
    """And every rule."""
    for item in (*table.ALLOWED, *table.MISSING, *table.REFUSED, *table.ALLOWED_ARGUMENTS, *table.REFUSED_ARGUMENTS):
        assert item.why


DANGEROUS = """
bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
ptrace process_vm_readv process_vm_writev kcmp kexec_load kexec_file_load init_module finit_module
delete_module mount umount2 pivot_root move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick
mount_setattr setns open_by_handle_at quotactl acct swapon swapoff reboot sethostname setdomainname
settimeofday clock_settime adjtimex clock_adjtime ioperm iopl syslog vhangup pidfd_getfd
"""


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous_call_is_not_in_the_allow_list(name: str) -> None:
    """It is in the list of the refused, with a reason."""
    assert name not in conditional()
    assert name in {name for group in table.REFUSED for name in group.names}


def test_unknown_numbers_begin_after_the_newest_call() -> None:
    """And end before the numbers of x32."""
    assert table.UNKNOWN_NUMBERS.start == table.NUMBERS["file_setattr"] + 1
    assert table.UNKNOWN_NUMBERS.stop == 512


def test_none_is_an_empty_program() -> None:
    """Nothing to install."""
    assert seccomp.load_filter("none") == b"" == seccomp.compile_filter("none")


@pytest.mark.parametrize("make", [seccomp.load_filter, seccomp.compile_filter])
def test_unknown_filter_is_refused(make) -> None:
    """With the names that there are."""
    with pytest.raises(SpecError, match="there are default, strict, none"):
        make("defualt")


def test_missing_program_says_how_to_make_it(tmp_path: Path) -> None:
    """Without a filter there is no launch, never one without it."""
    with pytest.raises(NstoolError, match="--write"):
        seccomp.load_filter("default", str(tmp_path))
