"""OCI JSON of system calls: what it means here, what is refused, and the way out and in again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nstool.errors import SpecError
from nstool.security import seccomp_oci as oci
from nstool.security.seccomp_lists import built_in
from nstool.security.seccomp_oci import Here
from nstool.security.seccomp_rules import (
    ALLOW,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRAP,
    Compare,
    Rule,
    Rules,
    errno_action,
)

ALL = (1 << 64) - 1
EPERM, ENOSYS = errno_action(1), errno_action(38)


def a_list(*syscalls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a list that refuses all but these."""
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(syscalls), **more}


def allow(*names: str, **more: Any) -> dict[str, Any]:
    """Return an entry that allows calls."""
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def decide(data: dict[str, Any], call: str, *args: int, here: Here | None = None) -> int:
    """Return what a list decides."""
    return oci.read(data, here or Here()).decide(call, args)


@pytest.mark.parametrize(
    ("name", "more", "action"),
    [
        ("SCMP_ACT_KILL", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", {}, KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", {}, KILL_PROCESS),
        ("SCMP_ACT_TRAP", {}, TRAP),
        ("SCMP_ACT_LOG", {}, LOG),
        ("SCMP_ACT_ALLOW", {}, ALLOW),
        ("SCMP_ACT_ERRNO", {}, EPERM),
        ("SCMP_ACT_ERRNO", {"errnoRet": 38}, ENOSYS),
        ("SCMP_ACT_ERRNO", {"errno": "ENOSYS"}, ENOSYS),
    ],
)
def test_actions(name: str, more: dict[str, Any], action: int) -> None:
    """Of a call, and of the default, whose number has another name."""
    assert (
        decide({"defaultAction": "SCMP_ACT_TRAP", "syscalls": [{"names": ["read"], "action": name, **more}]}, "read")
        == action
    )
    names = {"errnoRet": "defaultErrnoRet", "errno": "defaultErrno"}
    default = {names[key]: value for key, value in more.items()}
    assert decide({"defaultAction": name, **default}, "read") == action


@pytest.mark.parametrize(
    ("op", "value", "two", "holds"),
    [
        ("SCMP_CMP_EQ", 5, 0, {5}),
        ("SCMP_CMP_NE", 5, 0, {0, 1, 4, 6, 13}),
        ("SCMP_CMP_LT", 5, 0, {0, 1, 4}),
        ("SCMP_CMP_LE", 5, 0, {0, 1, 4, 5}),
        ("SCMP_CMP_GE", 5, 0, {5, 6, 13}),
        ("SCMP_CMP_GT", 5, 0, {6, 13}),
        ("SCMP_CMP_MASKED_EQ", 7, 5, {5, 13}),
    ],
)
def test_operators(op: str, value: int, two: int, holds: set[int]) -> None:
    """The mask of a masked comparison is its first value."""
    data = a_list(allow("munmap", args=[{"index": 1, "op": op, "value": value, "valueTwo": two}]))
    assert {n for n in (0, 1, 4, 5, 6, 13) if decide(data, "munmap", 0, n) == ALLOW} == holds


def equal(index: int, value: int) -> dict[str, Any]:
    """Return one condition."""
    return {"index": index, "op": "SCMP_CMP_EQ", "value": value}


def test_conditions_on_several_arguments_must_all_hold() -> None:
    """And those on one argument are alternatives, as behind runc."""
    both = a_list(allow("mmap", args=[equal(0, 1), equal(1, 2)]))
    assert [decide(both, "mmap", *args) for args in ((1, 2), (1, 3), (0, 2))] == [ALLOW, EPERM, EPERM]
    either = a_list(allow("mmap", args=[equal(0, 1), equal(0, 2), equal(1, 7)]))
    assert [decide(either, "mmap", *args) for args in ((1,), (2,), (0, 7), (3, 6))] == [ALLOW, ALLOW, ALLOW, EPERM]


def test_a_rule_without_conditions_counts_before_others() -> None:
    """Wherever it stands, as with libseccomp."""
    narrow = {"names": ["mmap"], "action": "SCMP_ACT_KILL", "args": [equal(0, 1)]}
    for entries in ((allow("mmap"), narrow), (narrow, allow("mmap"))):
        assert decide(a_list(*entries), "mmap", 1) == ALLOW


def test_an_int_is_compared_as_the_kernel_does() -> None:
    """A caller that sets the high half of a register gets around no rule, and a negative number is found."""
    data = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [equal(1, 0x5412)]},
            {"names": ["openat"], "action": "SCMP_ACT_ERRNO", "args": [equal(0, ALL - 99)]},
        ],
    }
    assert decide(data, "ioctl", 0, 0x5412 | 1 << 40) == EPERM
    assert decide(data, "openat", 0xFFFFFF9C) == EPERM == decide(data, "openat", -100)
    assert decide(data, "openat", 3) == ALLOW


@pytest.mark.parametrize(
    ("words", "applies"),
    [
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"caps": ["CAP_NET_RAW"]}}, True),
        ({"includes": {"caps": ["CAP_NET_RAW", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"excludes": {"caps": ["CAP_NET_RAW"]}}, False),
        ({"includes": {"arches": ["amd64", "arm"]}}, True),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"excludes": {"arches": ["s390x"]}}, True),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.10"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": None, "excludes": {}}, True),
    ],
)
def test_what_is_included_depends_on_capabilities_architecture_and_kernel(words: dict[str, Any], applies: bool) -> None:
    """As moby has it."""
    here = Here(frozenset({"net_raw"}), (6, 1))
    assert (decide(a_list(allow("read", **words)), "read", here=here) == ALLOW) == applies


def test_calls_of_other_architectures_are_left_out_and_told() -> None:
    """As runc does, which says nothing."""
    found = oci.read(a_list(allow("read", "arm_sync_file_range", "_llseek")), Here())
    assert [rule.call for rule in found.rules] == ["read"]
    assert found.notes == ("no system calls of x86_64, left out: arm_sync_file_range _llseek",)


def test_other_architectures_of_the_list_are_told() -> None:
    """Their calls kill, whatever it says of them."""
    arches = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_ARM", "subArchitectures": []},
    ]
    (note,) = oci.read(a_list(allow("read"), archMap=arches), Here()).notes
    assert note.endswith(": SCMP_ARCH_X32 SCMP_ARCH_X86")
    assert oci.read(a_list(architectures=["SCMP_ARCH_X86_64"]), Here()).notes == ()


def test_a_whole_config_has_its_list_taken_out() -> None:
    """Of an OCI bundle."""
    assert decide({"ociVersion": "1.1.0", "linux": {"seccomp": a_list(allow("read"))}}, "read") == ALLOW
    with pytest.raises(SpecError, match="no list"):
        oci.read({"ociVersion": "1.1.0", "linux": {}}, Here())


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        ([], "", "expected an object, got an array"),
        ({}, "defaultAction", "unknown"),
        ({"defaultAction": "SCMP_ACT_ALOW"}, "defaultAction", 'did you mean "SCMP_ACT_ALLOW"'),
        ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction", "needs a listener"),
        (a_list(allow("read") | {"action": "SCMP_ACT_TRACE"}), "syscalls[0].action", "needs a tracer"),
        (a_list(listenerPath="/run/x"), "listenerPath", "no listener"),
        (a_list(flags=["SECCOMP_FILTER_FLAG_LOG"]), "flags", "without flags"),
        (a_list(architectures=["SCMP_ARCH_AARCH64"]), "architectures", "this is SCMP_ARCH_X86_64"),
        (a_list(archMap=[{"architecture": "SCMP_ARCH_ARM"}]), "archMap", "the list is for SCMP_ARCH_ARM"),
        (a_list(sycalls=[]), "", 'unknown key "sycalls"; did you mean "syscalls"'),
        (a_list(allow("read"), {"names": ["x"]}), "syscalls[1].action", "unknown"),
        (a_list({"action": "SCMP_ACT_ALLOW"}), "syscalls[0].names", "no system call"),
        (a_list(allow("read", args=[{"index": 6, "op": "SCMP_CMP_EQ"}])), "syscalls[0].args[0].index", "0 to 5"),
        (a_list(allow("read", args=[{"index": 0, "op": "=="}])), "syscalls[0].args[0].op", "unknown"),
        (
            a_list(allow("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}])),
            "syscalls[0].args[0].value",
            "no number",
        ),
        (a_list(allow("read", args={})), "syscalls[0].args", "expected an array"),
        (a_list(defaultErrnoRet=5000), "defaultErrnoRet", "4095"),
        (a_list(allow("read", includes={"minKernel": "six"})), "syscalls[0].includes.minKernel", "no release"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(data: Any, place: str, message: str) -> None:
    """One message."""
    with pytest.raises(SpecError) as caught:
        oci.read(data, Here())
    assert caught.value.place == place
    assert message in caught.value.message


# ---- the way out ----

VALUES = st.sampled_from((0, 1, 2, 3, 7, 0x5412, 0xFFFFFFFF, 1 << 32, ALL))
MASKS = st.sampled_from((ALL, ALL, 0xFFFFFFFF, 0b101))
COMPARES = st.builds(Compare, st.integers(0, 2), st.sampled_from(("==", "!=", "<", "<=", ">", ">=")), VALUES, MASKS)
ACTIONS = st.sampled_from((ALLOW, LOG, KILL_PROCESS, EPERM, ENOSYS))
# Calls of whose first three arguments the kernel looks at all bits.
CALLS = st.sampled_from(("mremap", "mmap", "munmap"))
LISTS = st.builds(
    Rules,
    ACTIONS,
    st.lists(st.builds(Rule, CALLS, ACTIONS, st.lists(COMPARES, max_size=2).map(tuple)), max_size=4).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(LISTS, st.data())
def test_out_and_in_again_decides_alike(rules: Rules, data: st.DataObject) -> None:
    """Whatever order and conditions the rules have, and though OCI JSON knows no order."""
    try:
        text = json.dumps(oci.write(rules))
    except SpecError:
        assume(False)
    found = oci.read(json.loads(text), Here())
    near = [c.value + d for r in rules.rules for c in r.where for d in (-1, 0, 1)] or [0]
    call = data.draw(CALLS)
    args = data.draw(st.lists(st.sampled_from(near) | VALUES, min_size=3, max_size=3))
    assert found.decide(call, args) == rules.decide(call, args)
    again = oci.read(oci.write(found), Here())
    assert again.decide(call, args) == rules.decide(call, args)


@settings(max_examples=100, deadline=None)
@given(LISTS, st.data())
def test_what_is_written_has_no_two_rules_that_meet(rules: Rules, data: st.DataObject) -> None:
    """Nor two conditions on one argument, which runc takes for alternatives: so every reader decides alike."""
    try:
        written = oci.write(rules)
    except SpecError:
        assume(False)
    args = data.draw(st.lists(VALUES, min_size=3, max_size=3))
    for call in ("mremap", "mmap", "munmap"):
        entries = [entry for entry in written["syscalls"] if call in entry["names"]]
        assert all(len({a["index"] for a in e.get("args", ())}) == len(e.get("args", ())) for e in entries)
        held = {e["action"] for e in entries if all(oci._compare(a, "").holds(args) for a in e.get("args", ()))}
        assert len(held) <= 1


@pytest.mark.parametrize("base", ["default", "strict", "empty", "none"])
def test_lists_that_come_along_can_be_written(base: str) -> None:
    """And decide alike in the calls that have a name, with arguments at all edges of their rules."""
    rules = built_in(base)
    found = oci.read(json.loads(json.dumps(oci.write(rules))), Here())
    assert found.notes == ()
    edges = {compare.value for rule in rules.rules for compare in rule.where}
    edges |= {value + 1 for value in edges} | {value | 1 << 40 for value in edges} | {ALL}
    for call in {rule.call for rule in rules.rules if isinstance(rule.call, str)}:
        for value in edges:
            for args in ((value, 0, 0), (2, value, 0), (2, 1, value), (0, value, 0), (16, 3, value)):
                assert found.decide(call, args) == rules.decide(call, args), (call, args)


def test_what_oci_cannot_say_is_refused() -> None:
    """With the reason."""
    with pytest.raises(SpecError, match="OCI JSON has no action trap 7"):
        oci.write(Rules(TRAP | 7))
