"""Lists of rules, compiled by libseccomp, answer as the rules say; the interpreter is the kernel's equal."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nstool.errors import SpecError
from nstool.security import seccomp, seccomp_bpf, seccomp_oci
from nstool.security import seccomp_rules as rules
from nstool.security.seccomp_arguments import ALL
from nstool.security.seccomp_lists import built_in
from nstool.security.seccomp_oci import Here
from nstool.security.seccomp_read import rules_of
from nstool.security.seccomp_rules import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    LOG,
    NOTIFY,
    TRACE,
    TRAP,
    Compare,
    Rule,
    Rules,
    errno_action,
)
from nstool.spec.model import Seccomp
from nstool.spec.values import seccomp_call

InChild = Callable[..., Any]

MASKS = st.sampled_from((ALL, ALL, 0xFFFFFFFF, 0xFFFF, 0xF0, 1 << 63, 0b1010))
VALUES = st.sampled_from((0, 1, 2, 3, 7, 10, 0xF0, 0x5412, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 1 << 63, ALL))
ACTIONS = st.sampled_from((ALLOW, LOG, KILL_PROCESS, errno_action(errno.EPERM), errno_action(errno.ENOSYS)))
CALLS = st.sampled_from(("getppid", "ioctl", "socket", 451))
COMPARES = st.builds(Compare, st.integers(0, 2), st.sampled_from(sorted(rules.OPERATORS)), VALUES, MASKS)
WHERE = st.lists(COMPARES, max_size=3).map(tuple)
LISTS = st.builds(Rules, ACTIONS, st.lists(st.builds(Rule, CALLS, ACTIONS, WHERE), max_size=7).map(tuple))
NEAR = st.sampled_from((0, 1, -1))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Rules, tuple[str | int, tuple[int, ...]]]:
    """A list, and a call with arguments that are at or beside what the list compares with."""
    found = draw(LISTS)
    values = [compare.value for rule in found.rules for compare in rule.where] or [0]
    args = tuple((draw(st.sampled_from(values) | VALUES) + draw(NEAR)) & ALL for _ in range(3))
    return found, (draw(CALLS), args)


@settings(max_examples=600, deadline=None)
@given(cases())
def test_compiled_list_answers_as_its_rules_say(case: tuple[Rules, tuple[str | int, tuple[int, ...]]]) -> None:
    """Whatever the rules, the first that matches decides, also where libseccomp itself knows no order."""
    found, (call, args) = case
    try:
        program = seccomp.compile_rules(found)
    except SpecError:
        assume(False)
    assert seccomp_bpf.answer(program, seccomp.call_number(call), args) == found.decide(call, args)


@settings(max_examples=300, deadline=None)
@given(WHERE, st.lists(VALUES | st.integers(0, ALL), min_size=3, max_size=3))
def test_cubes_hold_where_the_conditions_do(where: tuple[Compare, ...], args: list[int]) -> None:
    """In exactly one of them; so what is taken from another list of cubes is what holds, no more."""
    try:
        found = rules.cubes(where)
    except rules.TooMany:
        assume(False)
    holds = all(compare.holds(args) for compare in where)
    held = [cube for cube in found if all(compare.holds(args) for compare in rules.compares(cube))]
    assert len(held) == holds


@settings(max_examples=300, deadline=None)
@given(WHERE, WHERE, st.lists(VALUES | st.integers(0, ALL), min_size=3, max_size=3))
def test_what_is_taken_away_is_gone(where: tuple[Compare, ...], less: tuple[Compare, ...], args: list[int]) -> None:
    """What is left of cubes holds where the first does and the second does not."""
    try:
        left = rules.cubes(where)
        for cube in rules.cubes(less):
            left = rules.without(left, cube)
    except rules.TooMany:
        assume(False)
    wanted = all(c.holds(args) for c in where) and not all(c.holds(args) for c in less)
    assert sum(all(c.holds(args) for c in rules.compares(cube)) for cube in left) == wanted


@pytest.mark.parametrize("arch", [seccomp_bpf.I386, 0])
@pytest.mark.parametrize("base", ["default", "strict", "none", "empty"])
def test_calls_of_another_abi_kill(base: str, arch: int) -> None:
    """Under every list, also one that allows all; so do those of x32, which have the same architecture."""
    program = seccomp.compile_rules(built_in(base))
    assert seccomp_bpf.answer(program, 20, (), arch) == KILL_PROCESS
    assert seccomp_bpf.answer(program, seccomp_bpf.X32 | 39) == KILL_PROCESS


def test_guard_kills_what_the_program_behind_it_would_allow() -> None:
    """A program from elsewhere that looks at no architecture is asked for calls of x86_64 alone."""
    allow = seccomp_bpf.packed([(seccomp_bpf.RETURN, 0, 0, ALLOW)])
    guarded = seccomp.guarded(allow)
    assert seccomp_bpf.answer(guarded, 39) == ALLOW
    assert seccomp_bpf.answer(guarded, 39, (), seccomp_bpf.I386) == KILL_PROCESS
    assert seccomp_bpf.answer(guarded, seccomp_bpf.X32 | 39) == KILL_PROCESS


def test_init_may_do_its_own_calls_whatever_the_command_may() -> None:
    """Its filter allows no more than these and what the command's does."""
    program = seccomp.compile_rules(Rules(errno_action(errno.EPERM), (Rule("getppid", ALLOW),)))
    for_init = seccomp.for_init(program)
    allowed = {n for n in range(512) if seccomp_bpf.answer(for_init, n) == ALLOW}
    assert allowed == {seccomp.call_number(name) for name in (*seccomp.INIT_CALLS.split(), "getppid")}
    everything = seccomp.compile_rules(Rules(ALLOW, (Rule("getppid", errno_action(errno.EPERM)),)))
    assert seccomp.for_init(everything) == everything


@pytest.mark.parametrize("name", ["default", "strict"])
def test_filters_for_init_come_along(name: str) -> None:
    """Compiled when nstool is built, as the command's: a launch with capabilities compiles nothing."""
    assert seccomp.load_filter(name, init=True) == seccomp.for_init(seccomp.load_filter(name))


ORDERED = [
    ("default", ["msync"], ["msync(start > 4294967296)", "msync(start <= 8)"]),
    ("default", ["msync(start < 4294967296)", "msync(start < 4)"], []),
    ("none", ["msync(start < 4294967297)", "msync(start < 2147483648)"], []),
]


@pytest.mark.parametrize(("base", "refuse", "allow"), ORDERED)
def test_comparisons_by_order_of_one_argument(base: str, refuse: list[str], allow: list[str]) -> None:
    """libseccomp merges them wrongly: each answer at the edges is what the rules say."""
    entries = {"refuse": tuple(map(seccomp_call, refuse)), "allow": tuple(map(seccomp_call, allow))}
    found = rules_of(Seccomp(base=base, **entries))
    assert isinstance(found, Rules)
    program = seccomp.compile_rules(found)
    edges = {value + near for value in (0, 4, 8, 1 << 31, 1 << 32) for near in (-1, 0, 1) if value + near >= 0}
    for value in edges:
        assert seccomp_bpf.answer(program, seccomp.call_number("msync"), (value,)) == found.decide("msync", (value,))


def test_oci_list_that_would_not_refuse_what_it_means() -> None:
    """A misspelt call in a list that allows the rest; one of another architecture alone is left out, as runc does."""
    entry = {"names": ["s390_pci_mmio_read", "mkdri"], "action": "SCMP_ACT_ERRNO"}
    with pytest.raises(SpecError, match=r'"mkdri" is no system call.*did you mean "mkdir"'):
        seccomp_oci.read({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}, Here())
    entry["names"] = ["s390_pci_mmio_read"]
    found = seccomp_oci.read({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry]}, Here())
    assert found.notes == ("no system calls of x86_64, left out: s390_pci_mmio_read",)


@pytest.mark.parametrize("name", [name for name, _ in seccomp.NEEDED])
def test_list_that_starts_nothing_is_refused(name: str) -> None:
    """With the call that it lacks."""
    program = seccomp.compile_rules(Rules(ALLOW, (Rule(name, errno_action(errno.EACCES)),)))
    with pytest.raises(SpecError, match=rf"{name}\(2\) with errno EACCES.*allow {name}"):
        seccomp.check_needed(program)


@pytest.mark.parametrize("base", ["default", "strict"])
def test_lists_that_come_along_start_commands(base: str) -> None:
    """What a launch needs is in them."""
    seccomp.check_needed(seccomp.load_filter(base))


def test_too_long_a_list_is_refused() -> None:
    """With the number of instructions that it would have."""
    where = [(Compare(0, "==", value), Compare(1, "==", value ^ 5)) for value in range(1200)]
    with pytest.raises(SpecError, match="instructions; the kernel takes 4096"):
        seccomp.compile_rules(Rules(ALLOW, tuple(Rule("getppid", LOG, one) for one in where)))


# ---- the interpreter beside the kernel ----

libc = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load(code: bytes) -> int:
    """Load a program by prctl(2) in the calling thread; return errno."""
    libc.prctl(38, 1, 0, 0, 0)
    program = Program(len(code) // 8, code)
    return ctypes.get_errno() if libc.prctl(22, 2, ctypes.byref(program)) else 0


def kernels_answer(code: bytes, args: Sequence[int]) -> int:
    """Load a program that answers with errnos and make getppid with arguments; return errno or 0."""
    assert load(code) == 0
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(110), *(ctypes.c_ulong(arg) for arg in args))
    return ctypes.get_errno() if result == -1 else 0


OPERATIONS = (
    0x04,
    0x14,
    0x24,
    0x34,
    0x44,
    0x54,
    0x64,
    0x74,
    0xA4,
    0x0C,
    0x1C,
    0x2C,
    0x3C,
    0x4C,
    0x5C,
    0x6C,
    0x7C,
    0xAC,
)
ARITHMETIC = st.tuples(st.sampled_from(OPERATIONS), st.just(0), st.just(0), st.integers(1, 31))
MOVES = st.sampled_from(
    [(0x07, 0, 0, 0), (0x87, 0, 0, 0), (0x84, 0, 0, 0), (0x80, 0, 0, 0), (0x81, 0, 0, 0), (0x02, 0, 0, 3)]
    + [(0x60, 0, 0, 3), (0x61, 0, 0, 3), (0x03, 0, 0, 4), (0x00, 0, 0, 77), (0x01, 0, 0, 5)]
    + [(0x20, 0, 0, offset) for offset in (16, 20, 24, 28)]
)
JUMPS = st.tuples(
    st.sampled_from((0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D)), st.integers(0, 2), st.integers(0, 2), VALUES
).map(lambda j: (*j[:3], j[3] & 0xFFFFFFFF))
# getppid alone goes to the body; then the low byte of what was reckoned is the errno, and 0 lets the call pass.
HEAD = ((0x20, 0, 0, 0), (0x15, 1, 0, 110), (0x06, 0, 0, ALLOW), (0x02, 0, 0, 3), (0x03, 0, 0, 4))
TAIL = ((0x54, 0, 0, 0x7F), (0x44, 0, 0, 0x50000), (0x16, 0, 0, 0))


@pytest.mark.needs("seccomp")
@settings(max_examples=60, deadline=None)
@given(st.lists(ARITHMETIC | MOVES | JUMPS, max_size=12), st.lists(VALUES, min_size=2, max_size=2))
def test_interpreter_answers_as_the_kernel(body: list[tuple[int, int, int, int]], args: list[int]) -> None:
    """Arithmetic, memory, jumps: what the kernel's own filter makes of the same arguments, in a child."""
    program = seccomp_bpf.packed([*HEAD, *body, *TAIL])
    assume(not seccomp_bpf.problem(program))
    found = seccomp_bpf.answer(program, 110, args)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, bytes([kernels_answer(program, args) & 0xFF]))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as file:
        told = file.read()
    # A division by 0 answers with 0, and a jump past the tail with whatever was reckoned. What is no action of the
    # kernel's kills, before it can be told; the actions that it has and that are no errno are left out.
    action = found & 0xFFFF0000
    assume(action == ERRNO or action not in (TRAP, NOTIFY, TRACE, LOG, ALLOW))
    number = min(found & 0xFFFF, 4095)  # MAX_ERRNO of the kernel
    assert told == (bytes([number & 0xFF]) if action == ERRNO else b"")


CODES = st.integers(0, 0x1FF)
ANY = st.tuples(
    CODES, st.integers(0, 3), st.integers(0, 3), st.sampled_from((0, 1, 4, 15, 16, 31, 32, 60, 64, 1 << 31))
)


@pytest.mark.needs("seccomp")
@settings(max_examples=150, deadline=None)
@given(st.lists(ANY, min_size=1, max_size=3))
def test_the_kernel_refuses_what_is_said_to_be_a_problem(body: list[tuple[int, int, int, int]]) -> None:
    """And takes the others: codes, jumps, offsets, memory that nothing has written."""
    program = seccomp_bpf.packed([(0x20, 0, 0, 0), (0x15, 0, 1, 1 << 30), (0x05, 0, 0, 1), (0x06, 0, 0, ALLOW), *body])
    program += seccomp_bpf.packed([(0x06, 0, 0, ALLOW)])
    pid = os.fork()
    if pid == 0:
        os._exit(load(program))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert (status == 0) == (seccomp_bpf.problem(program) == ""), (status, seccomp_bpf.problem(program))
    assert status in (0, errno.EINVAL)
