"""The two ends of a compiled plan agree: Python's table and C's, what encode writes and what nst_plan_check takes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool import uapi
from nstool._native import ffi, lib
from nstool.errors import NotSupported, NstoolError, SpecError
from nstool.plan import build, encode
from nstool.plan.calls import CALLS
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, WHO, Fd, Plan, Step
from nstool.sandbox import engine
from nstool.spec.model import Spec
from tests.unit import strategies

# enum nst_reason
SIZE, MAGIC, VERSION, HEADER, CALL, ROLE, RESULT, ARGUMENT, STRING, ORDER, RESERVED = range(1, 12)
HEADER_SIZE, RECORD_SIZE = 64, 64
NULL = 0xFFFF_FFFF_FFFF_FFFF
SLOT = 1 << 32


def refusal(data: bytes, offset: int = 0) -> tuple[int, int] | None:
    """(reason, step) with which C refuses these bytes, None if it takes them. offset: from 8-byte alignment.

    The bytes end where the buffer ends, so that a reader beyond them meets the allocator's guard, if there is one.
    """
    room = ffi.new("uint64_t[]", (len(data) + offset + 7) // 8 + 1)
    start = ffi.cast("uint8_t *", room) + offset
    ffi.memmove(start, data, len(data))
    failure = ffi.new("struct nst_failure *")
    if lib.nst_plan_check(start, len(data), failure) == 0:
        return None
    assert failure.error == 22  # EINVAL
    return failure.detail, failure.step


# ---- the tables ----


def test_calls_are_those_of_c() -> None:
    """calls.py and plan.c list the same calls in the same order, with the same kinds of parameters."""
    table: list[tuple[str, str]] = []
    while name := lib.nst_call_name(len(table)):
        table.append((ffi.string(name).decode(), ffi.string(lib.nst_call_kinds(len(table))).decode().replace("\0", "")))
    assert lib.nst_call_kinds(len(table)) == ffi.NULL
    # "x" is what an external step carries beside its name: it is not encoded
    assert table == [(name, call.kinds.replace("x", "")) for name, call in CALLS.items()]
    assert [call.opcode for call in CALLS.values()] == list(range(len(table)))


def test_limits_are_those_of_c() -> None:
    """encode refuses what C would: as many slots, steps and bytes, the same magic number and flags."""
    assert (encode.MAX_SLOTS, encode.MAX_STEPS, encode.MAX_PLAN) == (
        lib.NST_MAX_SLOTS,
        lib.NST_MAX_STEPS,
        lib.NST_MAX_PLAN,
    )
    assert len(ffi.new("struct nst_launch *").slots) == encode.MAX_SLOTS


def test_structs_have_the_sizes_of_the_wire() -> None:
    """What goes through files and sockets has the same size on both sides."""
    assert len(encode.encode(SMALL)) == HEADER_SIZE + len(SMALL.steps) * RECORD_SIZE + len(POOL)
    assert ffi.sizeof("struct nst_message") == 64
    assert ffi.sizeof("struct nst_failure") == 12
    # The offsets in the cdef are the compiler's: cffi has checked them when the module was built.
    assert ffi.offsetof("struct nst_message", "utime_us") == 24


# ---- a small plan, and every way to damage it ----

SMALL = Plan(
    (
        Step(LAUNCHER, "openat2", (-100, "/", 0, 0, 0), "", "root"),
        Step(LAUNCHER, "clone3", (uapi.CLONE_NEWNS, Fd("root"), 0, 0), ""),
        Step(CHILD, "exec_init", (), ""),
        Step(LAUNCHER, "release", (), ""),
        Step(INIT, "wait", (), ""),
        Step(INIT, "clone3", (0, -1, 0, 0), ""),
        Step(INIT, "umask", (0o77,), ""),
        Step(PAYLOAD, "reset_signals", (), ""),
        Step(PAYLOAD, "execve", (("/x",), ("x", "y"), ()), ""),
        Step(UNDO, "unlinkat", (-100, "/", 0), ""),
    ),
    ("stdin", "stdout", "stderr"),
)
POOL = b"/\0/x\0\0x\0y\0\0\0"


def header(**fields: int) -> bytes:
    """SMALL with fields of its header changed. struct nst_plan."""
    names = [
        "magic",
        "version",
        "header_size",
        "size",
        "n_steps",
        "steps_offset",
        "pool_offset",
        "pool_size",
        "flags",
        "n_slots",
        "n_given",
    ]
    formats = "IHHIIIIIIII"
    data = bytearray(encode.encode(SMALL))
    for name, value in fields.items():
        number = names.index(name)
        struct.pack_into("<" + formats[number], data, struct.calcsize("<" + formats[:number]), value)
    return bytes(data)


def record(number: int, **fields: int) -> bytes:
    """SMALL with fields of one record changed. struct nst_step; arg0 to arg6 for the arguments."""
    names = ["call", "who", "reserved", "result", "ignore"]
    data = bytearray(encode.encode(SMALL))
    at = HEADER_SIZE + number * RECORD_SIZE
    for name, value in fields.items():
        if name.startswith("arg"):
            struct.pack_into("<Q", data, at + 8 + 8 * int(name[3:]), value)
        else:
            place = names.index(name)
            struct.pack_into("<" + "HBBhh"[place], data, at + struct.calcsize("<" + "HBBhh"[:place]), value)
    return bytes(data)


def changed(number: int, *steps: Step) -> bytes:
    """SMALL with one step replaced by others."""
    return encode.encode(SMALL.replace(steps=(*SMALL.steps[:number], *steps, *SMALL.steps[number + 1 :])))


def order(*who_and_call: str, init: bool = True) -> bytes:
    """A plan of these steps: "launcher clone3", "payload execve", ..., with arguments that fit."""
    arguments: dict[str, tuple[Any, ...]] = {
        "clone3": (0, -1, 0, 0),
        "execve": (("/x",), ("x",), ()),
        "umask": (0,),
        "chdir": ("/",),
        "write_proc": ("uid_map", "0 0 1"),
        "spawn": (("/x",),),
        "setrlimit": (4, 0, 1),
        "external": ("x", {}),
        "mkdirat": (-100, "/x", 0),
        "unlinkat": (-100, "/x", 0),
    }
    words = [entry.split() for entry in who_and_call]
    steps = tuple(Step(who, call, arguments.get(call, ()), "") for who, call in words)
    return encode.encode(Plan(steps, (), init))


CLONED = ("launcher clone3", "child exec_init")
WHOLE = (*CLONED, "init clone3", "payload execve")
WRONG_ROLE: list[tuple[str, str]] = [
    # call, a role that may not make it
    ("release", CHILD),
    ("release", INIT),
    ("release", PAYLOAD),
    ("release", UNDO),
    ("write_proc", INIT),
    ("write_proc", UNDO),
    ("spawn", PAYLOAD),
    ("spawn", UNDO),
    ("setrlimit", UNDO),
    ("external", INIT),
    ("external", PAYLOAD),
    ("external", CHILD),
    ("exec_init", LAUNCHER),
    ("exec_init", INIT),
    ("execve", LAUNCHER),
    ("execve", INIT),
    ("execve", CHILD),
    ("clone3", CHILD),
    ("clone3", PAYLOAD),
    ("clone3", UNDO),
    ("wait", LAUNCHER),
    ("wait", CHILD),
    ("attest", LAUNCHER),
    ("attest", INIT),
    ("send_fd", LAUNCHER),
    ("send_fd", UNDO),
    ("close", CHILD),
    ("futex_wait", INIT),
    ("futex_wait", UNDO),
    ("answer_sysinfo", LAUNCHER),
    ("answer_sysinfo", PAYLOAD),
    ("futex_wake", LAUNCHER),
    ("futex_wake", PAYLOAD),
    ("own_null", LAUNCHER),
    ("own_null", INIT),
]
# Calls that change the process which makes them: not in the caller's process.
OWN_PROCESS = [
    "pivot_root",
    "chroot",
    "chdir",
    "fchdir",
    "sethostname",
    "setdomainname",
    "personality",
    "setns",
    "unshare",
    "setgroups",
    "setresuid",
    "setresgid",
    "capset",
    "prctl",
    "seccomp",
    "setsid",
    "umask",
    "keyctl",
    "dup3",
    "close_range",
    "reset_signals",
    "raise_ambient",
    "drop_bounding",
]

POOL_SIZE = len(POOL)
ROWS: dict[str, tuple[bytes, int, int]] = {
    # what: bytes, reason, step
    "empty": (b"", SIZE, -1),
    "shorter than a header": (header()[: HEADER_SIZE - 1], SIZE, -1),
    "longer than the longest plan": (header() + bytes(lib.NST_MAX_PLAN), SIZE, -1),
    "other magic number": (header(magic=0x3250534E), MAGIC, -1),
    "other version": (header(version=2), VERSION, -1),
    "other header": (header(header_size=60), HEADER, -1),
    "size too small": (header(size=HEADER_SIZE), HEADER, -1),
    "size too large": (header(size=len(header()) + 1), HEADER, -1),
    "cut off": (header()[:-1], HEADER, -1),
    "bytes behind": (header() + b"\0", HEADER, -1),
    "no steps": (header(n_steps=0), HEADER, -1),
    "more steps than bytes": (header(n_steps=4096), HEADER, -1),
    "more steps than are possible": (header(n_steps=4097), HEADER, -1),
    "steps that overflow 32 bits": (header(n_steps=0x0400_0001), HEADER, -1),
    "steps elsewhere": (header(steps_offset=128), HEADER, -1),
    "pool elsewhere": (header(pool_offset=HEADER_SIZE), HEADER, -1),
    "pool too large": (header(pool_size=POOL_SIZE + 1), HEADER, -1),
    "pool of 4 GiB": (header(pool_size=0xFFFF_FFFF), HEADER, -1),
    "unknown flag": (header(flags=4), HEADER, -1),
    "too many slots": (header(n_slots=257), HEADER, -1),
    "more given than slots": (header(n_given=5), HEADER, -1),
    "reserved word of the header": (header()[:40] + b"\1" + header()[41:], RESERVED, -1),
    "last reserved word of the header": (header()[:63] + b"\1" + header()[64:], RESERVED, -1),
    "call past the table": (record(0, call=len(CALLS)), CALL, 0),
    "call 65535": (record(3, call=0xFFFF), CALL, 3),
    "unknown role": (record(0, who=len(WHO)), ROLE, 0),
    "reserved byte": (record(0, reserved=1), RESERVED, 0),
    "argument that the call has not": (record(0, arg5=1), RESERVED, 0),
    "last argument that the call has not": (record(2, arg6=1), RESERVED, 2),
    "result in a given slot": (record(0, result=2), RESULT, 0),
    "result past the slots": (record(0, result=4), RESULT, 0),
    "result -2": (record(0, result=-2), RESULT, 0),
    "result of a call that opens nothing": (record(6, result=3), RESULT, 6),
    "result of undo": (changed(9, Step(UNDO, "openat2", (-100, "/", 0, 0, 0), "", "x")), RESULT, 9),
    "result of the child": (
        changed(2, Step(CHILD, "openat2", (-100, "/", 0, 0, 0), "", "x"), SMALL.steps[2]),
        RESULT,
        2,
    ),
    "negative errno": (record(0, ignore=-1), ARGUMENT, 0),
    "errno 4096": (record(0, ignore=4096), ARGUMENT, 0),
    "execve that may fail": (record(8, ignore=2), ARGUMENT, 8),
    "clone3 that may fail": (record(1, ignore=1), ARGUMENT, 1),
    "exec_init that may fail": (record(2, ignore=1), ARGUMENT, 2),
    "slot past the slots": (record(0, arg0=SLOT | 4), ARGUMENT, 0),
    "slot 2**31": (record(0, arg0=SLOT | 1 << 31), ARGUMENT, 0),
    "neither slot nor number": (record(0, arg0=2 << 32), ARGUMENT, 0),
    "string past the pool": (record(0, arg1=POOL_SIZE), STRING, 0),
    "string of the whole pool": (record(0, arg1=POOL_SIZE << 32), STRING, 0),
    "string longer than the pool": (record(0, arg1=(POOL_SIZE + 1) << 32), STRING, 0),
    "string that wraps around": (record(0, arg1=0xFFFF_FFFF << 32 | 2), STRING, 0),
    "string at 4 GiB": (record(0, arg1=1 << 32 | 0xFFFF_FFFF), STRING, 0),
    "string without its NUL": (record(0, arg1=1 << 32 | 2), STRING, 0),
    "string with a NUL inside": (record(0, arg1=3 << 32 | 0), STRING, 0),
    "string that is none": (record(0, arg1=NULL), STRING, 0),
    "list without its last NUL": (record(8, arg1=3 << 32 | 6), STRING, 8),
    "list past the pool": (record(8, arg2=1 << 32 | POOL_SIZE), STRING, 8),
    "list that is none": (record(8, arg2=NULL), STRING, 8),
    "command without a file": (record(8, arg0=0), ARGUMENT, 8),
    "command without arguments": (record(8, arg1=0), ARGUMENT, 8),
    "helper without arguments": (changed(3, Step(LAUNCHER, "spawn", ((),), "")), ARGUMENT, 3),
    "groups of half a number": (changed(6, Step(INIT, "setgroups", (b"\0\0",), "")), ARGUMENT, 6),
    "filter of half an instruction": (changed(7, Step(PAYLOAD, "seccomp", (0, bytes(12)), "")), ARGUMENT, 7),
    "filter with another flag": (changed(7, Step(PAYLOAD, "seccomp", (1, bytes(8)), "")), ARGUMENT, 7),
    "listener that nobody has": (changed(7, Step(PAYLOAD, "seccomp", (0x28, bytes(8)), "")), ARGUMENT, 7),
    "listener of the payload's": (changed(7, Step(PAYLOAD, "seccomp", (0x28, bytes(8)), "", "kept")), RESULT, 7),
    "filter of nothing": (changed(7, Step(PAYLOAD, "seccomp", (0, b""), "")), ARGUMENT, 7),
    "filter of 4097 instructions": (changed(7, Step(PAYLOAD, "seccomp", (0, bytes(8 * 4097)), "")), ARGUMENT, 7),
    "ioctl with a short buffer": (changed(6, Step(INIT, "ioctl", (0, uapi.SIOCSIFFLAGS, bytes(63)), "")), ARGUMENT, 6),
    "ioctl that writes elsewhere": (changed(6, Step(INIT, "ioctl", (0, 0x8912, bytes(64)), "")), ARGUMENT, 6),
    "ioctl_int with a pointer": (changed(6, Step(INIT, "ioctl_int", (0, 0x5413, 4096), "")), ARGUMENT, 6),
    "fcntl with a pointer": (changed(6, Step(INIT, "fcntl", (0, 5, 4096), "")), ARGUMENT, 6),
    "prctl with a pointer": (changed(6, Step(INIT, "prctl", (2, 4096, 0, 0, 0), "")), ARGUMENT, 6),
    "keyctl with a pointer": (changed(6, Step(INIT, "keyctl", (11, None), "")), ARGUMENT, 6),
    "rule of no type": (changed(6, Step(INIT, "landlock_add_rule", (0, 0, 1, 0, 0), "")), ARGUMENT, 6),
    "rule of an unknown type": (changed(6, Step(INIT, "landlock_add_rule", (0, 3, 1, -1, 0), "")), ARGUMENT, 6),
    "rule for a path with a port": (changed(6, Step(INIT, "landlock_add_rule", (0, 1, 1, 0, 80), "")), ARGUMENT, 6),
    "rule for a port with a path": (changed(6, Step(INIT, "landlock_add_rule", (0, 2, 1, 0, 80), "")), ARGUMENT, 6),
    "launcher that restricts itself": (changed(3, Step(LAUNCHER, "landlock_restrict_self", (0, 0), "")), ROLE, 3),
    "clone3 that shares the fds": (record(1, arg0=uapi.CLONE_FILES), ARGUMENT, 1),
    "clone3 in the same thread group": (record(1, arg0=uapi.CLONE_THREAD | uapi.CLONE_SIGHAND), ARGUMENT, 1),
    "clone3 with a pid that no kernel has": (record(1, arg2=(1 << 22) + 1), ARGUMENT, 1),
    "clone3 as an owner of nothing": (record(1, arg3=5), ARGUMENT, 1),
    "clone3 as an owner that is no uid": (record(1, arg0=uapi.CLONE_NEWUSER, arg3=0xFFFF_FFFF), ARGUMENT, 1),
    "clone3 of init as another": (record(5, arg0=uapi.CLONE_NEWUSER, arg3=5), ARGUMENT, 5),
    "clone3 of init that shares the fds": (record(5, arg0=uapi.CLONE_FILES), ARGUMENT, 5),
    "file of /proc/PID with a long name": (changed(3, Step(LAUNCHER, "write_proc", ("x" * 33, ""), "")), ARGUMENT, 3),
    "launcher closes a given fd": (changed(3, Step(LAUNCHER, "close", (Fd("stdin"),), "")), ARGUMENT, 3),
    "launcher closes an fd of the caller's": (changed(3, Step(LAUNCHER, "close", (7,), "")), ARGUMENT, 3),
    # order of the roles; the step is the one that cannot be there, or the last when something is missing
    "no payload": (order(*CLONED, "init umask"), ORDER, 2),
    "no exec": (order(*WHOLE[:3], "payload umask"), ORDER, 3),
    "no clone": (order("child exec_init"), ORDER, 0),
    "no exec of init": (order("launcher clone3", "init clone3", "payload execve"), ORDER, 1),
    "payload before it is cloned": (order(*CLONED, "payload execve", "init clone3"), ORDER, 2),
    "clone by init that is not there": (order(*WHOLE, init=False), ORDER, 2),
    "two clones of the launcher": (order("launcher clone3", "launcher clone3", *WHOLE[1:]), ORDER, 1),
    "two clones of init": (order(*CLONED, "init clone3", "init clone3", "payload execve"), ORDER, 3),
    "launcher while the child runs": (order("launcher clone3", "launcher mkdirat", *WHOLE[1:]), ORDER, 1),
    "child after it became init": (order(*CLONED, "child umask", *WHOLE[2:]), ORDER, 2),
    "init before it is there": (order("init umask", *WHOLE), ORDER, 0),
    "init among the payload's": (order(*WHOLE[:3], "payload umask", "init umask", "payload execve"), ORDER, 4),
    "init among the payload's, no init": (
        order(*CLONED, "payload umask", "init umask", "payload execve", init=False),
        ORDER,
        3,
    ),
    "init after the payload": (order(*WHOLE, "init umask"), ORDER, 4),
    "payload woken before it is there": (order(*CLONED, "init futex_wake", *WHOLE[2:]), ORDER, 2),
    "payload waits, no init": (order(*CLONED, "payload futex_wait", "payload execve", init=False), ORDER, 2),
    "init after exec, no init": (order(*CLONED, "payload execve", "init umask", init=False), ORDER, 3),
    "payload after exec": (order(*WHOLE, "payload umask"), ORDER, 4),
    "two execs": (order(*WHOLE, "payload execve"), ORDER, 4),
    "map before there is a process": (order("launcher write_proc", *WHOLE), ORDER, 0),
    "limit of a process before it is there": (order("launcher setrlimit", *WHOLE), ORDER, 0),
    "helper before there is a process": (order("launcher spawn", *WHOLE), ORDER, 0),
    "release before there is a process": (order("launcher release", *WHOLE), ORDER, 0),
    "launcher goes away and does not come back": (
        changed(0, SMALL.steps[0], Step(LAUNCHER, "setns", (Fd("root"), uapi.CLONE_NEWNET), "")),
        ORDER,
        10,
    ),
    "launcher comes back from nowhere": (
        changed(3, Step(LAUNCHER, "setns", (Fd("root"), uapi.CLONE_NEWNET), ""), SMALL.steps[3]),
        ORDER,
        10,
    ),
    "launcher goes into a namespace of the process": (
        changed(0, SMALL.steps[0], Step(LAUNCHER, "setns", (Fd("root"), uapi.CLONE_NEWNS), "")),
        ROLE,
        1,
    ),
    "undo before the end": (order(*WHOLE[:2], "undo unlinkat", *WHOLE[2:]), ORDER, 3),
    "launcher after undo": (order(*WHOLE, "undo unlinkat", "launcher mkdirat"), ORDER, 5),
}


@pytest.mark.parametrize(("data", "reason", "step"), ROWS.values(), ids=ROWS)
def test_damage_is_refused_with_its_reason(data: bytes, reason: int, step: int) -> None:
    """Each kind of damage is found, and the reason and the step are told."""
    assert refusal(data) == (reason, step)


def test_undamaged_plan_is_taken() -> None:
    """What the rows above damage is a plan; so are its variants at the limits."""
    assert refusal(header()) is None
    assert refusal(order(*WHOLE)) is None
    assert refusal(order(*CLONED, "init umask", "payload umask", "payload execve", init=False)) is None
    assert refusal(changed(6, Step(PAYLOAD, "seccomp", (0, bytes(8 * 4096)), ""))) is None
    assert refusal(changed(3, Step(LAUNCHER, "write_proc", ("x" * 32, ""), ""))) is None
    assert refusal(record(1, arg2=1 << 22)) is None
    there = Step(LAUNCHER, "setns", (Fd("root"), uapi.CLONE_NEWNET), "")
    steps = (SMALL.steps[0], there, *SMALL.steps[1:3], there, *SMALL.steps[3:])
    assert refusal(encode.encode(SMALL.replace(steps=steps))) is None


def test_every_reason_has_a_row() -> None:
    """No reason of enum nst_reason is without a test."""
    assert {reason for _, reason, _ in ROWS.values()} == set(range(1, 12))


@pytest.mark.parametrize("offset", range(1, 8))
def test_misaligned_plan_is_refused(offset: int) -> None:
    """A plan that does not lie on 8 bytes is not read: its records hold 64-bit words."""
    assert refusal(header(), offset) == (SIZE, -1)


def test_each_call_has_its_roles() -> None:
    """A call that a role may not make is refused, whatever its arguments."""
    fields = dict.fromkeys((f"arg{n}" for n in range(7)), 0)
    for name, who in [*WRONG_ROLE, *((name, who) for name in OWN_PROCESS for who in (LAUNCHER, UNDO))]:
        damaged = record(9, call=CALLS[name].opcode, who=WHO.index(who), **fields)
        assert refusal(damaged) == (ROLE, 9), (name, who)


def test_child_and_init_may_change_themselves() -> None:
    """The calls that the launcher may not make are open to the processes that are made for them."""
    fields = dict.fromkeys((f"arg{n}" for n in range(7)), 0)
    for name in OWN_PROCESS:
        for who in (CHILD, INIT, PAYLOAD):
            got = refusal(record(9, call=CALLS[name].opcode, who=WHO.index(who), **fields))
            assert got is None or got[0] != ROLE, (name, who)


# ---- any plan, any damage ----


@given(strategies.plans())
def test_every_encoded_plan_is_taken(plan: Plan) -> None:
    """C takes whatever encode makes of a plan in the right order."""
    assert refusal(encode.encode(plan)) is None


@settings(max_examples=300)
@given(strategies.cases())
def test_every_planned_spec_is_taken(case: tuple[Spec, Host, Lease]) -> None:
    """C takes the plan of every spec, on every host."""
    try:
        plan = build.plan(*case)
    except (SpecError, NotSupported):
        return
    got = refusal(encode.encode(plan))
    assert got is None, f"reason {got[0]}: {plan.steps[got[1]]}"


MUTATIONS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=400)
@given(strategies.plans(), MUTATIONS, st.integers(0, 1 << 16))
@example(SMALL, [(0, 0)], 0)
def test_any_damage_is_taken_or_refused(plan: Plan, mutations: list[tuple[int, int]], length: int) -> None:
    """nst_plan_check gives an answer to any bytes, the same each time; and what it takes, Python can read."""
    data = bytearray(encode.encode(plan))
    for place, value in mutations:
        data[place % len(data)] = value
    cut = bytes(data[: length % (len(data) + 1)] if length % 3 == 0 else data)
    got = refusal(cut)
    assert refusal(cut) == got
    if got is None:
        encode.decode(cut)
    else:
        assert got[0] in range(1, 12)
        assert -1 <= got[1] < lib.NST_MAX_STEPS


def _check_each_byte(data: bytes) -> int:
    """Set each byte of a plan to each of some values; the number of damaged plans that C takes."""
    taken = 0
    whole = bytearray(data)
    for place in range(len(whole)):
        kept = whole[place]
        for value in {0, 1, 0x7F, 0x80, 0xFF, kept ^ 1} - {kept}:
            whole[place] = value
            taken += refusal(bytes(whole)) is None
        whole[place] = kept
    return taken


def test_each_byte_can_be_damaged(in_child: Callable[..., Any]) -> None:
    """No byte of a plan makes the check crash; and bytes of strings and integers are the plan's own affair.

    In a child, which alone would end.
    """
    assert in_child(_check_each_byte, encode.encode(SMALL)) > 0


def test_bytes_at_the_end_of_memory_are_not_overrun(in_child: Callable[..., Any]) -> None:
    """The check reads no byte behind a plan: here the next page cannot be read at all."""
    assert in_child(_check_before_guard) == []


def _check_before_guard() -> list[str]:
    import ctypes
    import mmap

    libc = ctypes.CDLL(None)
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 4 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    assert libc.mprotect(ctypes.c_void_p(address + 3 * page), page, 0) == 0
    failure = ffi.new("struct nst_failure *")
    wrong = []
    for what, (data, reason, _) in ROWS.items():
        if len(data) > 3 * page:
            continue
        start = (address + 3 * page - len(data)) & ~7  # at most 7 bytes of slack
        ctypes.memmove(start, data, len(data))
        lib.nst_plan_check(ffi.cast("uint8_t *", start), len(data), failure)
        if failure.detail != reason:
            wrong.append(what)
    return wrong


# ---- what the engine says of bytes that are no plan ----


def test_engine_refuses_what_c_refuses() -> None:
    """engine.check raises NstoolError with the step and the reason."""
    with pytest.raises(NstoolError, match=r"step 1, reason 9"):
        engine.check(record(0, arg1=NULL))
    engine.check(header())
