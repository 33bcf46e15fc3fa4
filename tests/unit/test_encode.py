"""The encoding of plans: its inverse, its limits, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import NstoolError
from nstool.plan.calls import CALLS
from nstool.plan.describe import call_text, man
from nstool.plan.encode import MAX_PLAN, MAX_SLOTS, MAX_STEPS, decode, encode, slots
from nstool.plan.steps import LAUNCHER, Fd, Plan, Step
from tests.unit import strategies

HEADER, RECORD = 64, 64  # bytes


def plan_of(*steps: Step) -> Plan:
    """A plan of these steps and no more: it can be encoded, not run."""
    return Plan(steps, ("stdin", "stdout", "stderr"))


def step(call: str, *args: object, result: str = "", ignore: int = 0) -> Step:
    return Step(LAUNCHER, call, args, "", result, ignore)  # type: ignore[arg-type]


def as_decoded(plan: Plan) -> Plan:
    """The plan as it is known after encoding: fds by number, no reasons, strings as strings."""
    numbers = slots(plan)
    given = len(plan.given)
    names = {name: ("stdin", "stdout", "stderr")[n] if n < min(3, given) else f"fd{n}" for name, n in numbers.items()}

    def value(kind: str, arg: object) -> object:
        if isinstance(arg, Fd):
            return Fd(names[arg.name])
        if kind == "i" and isinstance(arg, int):
            return (arg + (1 << 63)) % (1 << 64) - (1 << 63)
        if kind == "b" and isinstance(arg, str):
            return arg.encode("utf-8", "surrogateescape")
        return {} if kind == "x" else arg

    steps = tuple(
        Step(
            s.who,
            s.call,
            tuple(value(kind, arg) for (_, kind), arg in zip(CALLS[s.call].params, s.args)),  # type: ignore[misc]
            "",
            names.get(s.result, ""),
            s.ignore,
        )
        for s in plan.steps
    )
    return Plan(steps, tuple(names[name] for name in plan.given), plan.init, plan.die_with_parent)


@given(strategies.plans())
def test_decode_is_the_inverse_of_encode(plan: Plan) -> None:
    """All that is encoded comes back: strings, bytes, lists, fds, numbers, flags; and encodes to the same bytes."""
    data = encode(plan)
    again = decode(data)
    assert again == as_decoded(plan)
    assert encode(again) == data


def test_first_line_with_an_interpreter_is_skipped() -> None:
    """A compiled plan that begins with #!/usr/bin/nsexec is the same plan."""
    data = encode(plan_of(step("chdir", "/")))
    assert decode(b"#!/usr/bin/nsexec\n" + data) == decode(data)


def test_layout_is_that_of_the_header() -> None:
    """A header, the records, the pool, each string once with its NUL. csrc/nstool.h, struct nst_plan."""
    data = encode(
        plan_of(step("chdir", "/a"), step("mkdirat", -100, "/a", 0o755), step("execve", ("/a",), ("a", ""), ()))
    )
    assert len(data) == HEADER + 3 * RECORD + len(b"/a\0/a\0\0a\0\0\0\0")
    assert data[HEADER + 3 * RECORD :].startswith(b"/a\0")
    assert data[HEADER + 8 :][:8] == data[HEADER + RECORD + 16 :][:8] == (2 << 32).to_bytes(8, "little")


def test_given_fds_have_the_first_slots() -> None:
    """The caller puts fds into slots 0, 1, 2 without asking for their numbers; a name used again keeps its slot."""
    plan = plan_of(step("openat2", -100, "/", 0, 0, 0, result="a"), step("openat2", Fd("a"), "x", 0, 0, 0, result="a"))
    assert slots(plan) == {"stdin": 0, "stdout": 1, "stderr": 2, "a": 3}


REFUSED = {
    "NUL in a string": (step("chdir", "/a\0b"), "NUL"),
    "NUL in a string or none": (step("mount", "a\0", "/", None, 0, None), "NUL"),
    "NUL in a list": (step("spawn", ("a", "b\0c")), "NUL"),
    "NUL in bytes that are a string": (step("chdir", b"/\0"), "NUL"),
    "an fd of no step": (step("fchdir", Fd("nowhere")), "'nowhere'"),
    "too few arguments": (step("mkdirat", -100, "/"), "3 arguments, not 2"),
    "too many arguments": (step("chdir", "/", 0), "1 arguments, not 2"),
    "a number of 65 bits": (step("umask", 1 << 64), "64 bits"),
    "a number below 64 bits": (step("umask", -(1 << 63) - 1), "64 bits"),
}


@pytest.mark.parametrize(("bad", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_encoded_is_named(bad: Step, words: str) -> None:
    """encode says what is wrong; it never writes something else instead."""
    with pytest.raises(NstoolError, match=words):
        encode(plan_of(bad))


def test_limits_are_those_of_the_decoder() -> None:
    """As many fds, steps and bytes as C takes, and not one more."""
    opens = [step("openat2", -100, "/", 0, 0, 0, result=f"fd{n}") for n in range(3, MAX_SLOTS + 1)]
    encode(plan_of(*opens[:-1]))
    with pytest.raises(NstoolError, match=f"{MAX_SLOTS + 1} fds"):
        encode(plan_of(*opens))
    many = [step("umask", 0)] * (MAX_STEPS + 1)
    encode(plan_of(*many[:-1]))
    with pytest.raises(NstoolError, match=f"{MAX_STEPS + 1} steps"):
        encode(plan_of(*many))
    room = MAX_PLAN - HEADER - RECORD - 1
    assert len(encode(plan_of(step("chdir", "x" * room)))) == MAX_PLAN
    with pytest.raises(NstoolError, match=f"{MAX_PLAN + 1} bytes"):
        encode(plan_of(step("chdir", "x" * (room + 1))))


@given(strategies.plans(), st.data())
def test_damage_is_an_error_or_another_plan(plan: Plan, data: st.DataObject) -> None:
    """decode of any bytes raises NstoolError or gives a plan that can be shown, and nothing else."""
    whole = bytearray(encode(plan))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    try:
        got = decode(damaged)
    except NstoolError:
        return
    for shown in got.steps:
        assert call_text(shown)
        assert man(shown)


def test_any_bytes_are_no_plan() -> None:
    """Text, an empty file, a future version: each is refused in words."""
    good = encode(plan_of(step("umask", 0)))
    for data, words in (
        (b"", "not a compiled plan"),
        (b"#!/bin/sh\n", "not a compiled plan"),
        (b"command = ['true']\n" * 9, "not a compiled plan"),
        (good[:4] + b"\2" + good[5:], "version 2"),
        (good[:-1], "damaged"),
        (good + b"x", "damaged"),
    ):
        with pytest.raises(NstoolError, match=words):
            decode(data)
