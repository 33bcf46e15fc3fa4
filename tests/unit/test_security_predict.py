"""The rules of execve(2) and of a change of user ids, by the examples of the manual: no kernel is asked."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool import uapi
from nstool.errors import SpecError
from nstool.security import binfmt, filecaps
from nstool.security.access import EXECUTE, READ, AclEntry, Inode, may, parse_acl
from nstool.security.capabilities import Sets, full, mask, sets_from_text
from nstool.security.credentials import Credentials, Ids
from nstool.security.filecaps import FileCaps
from nstool.security.predict import (
    FS_SET,
    File,
    Prediction,
    Process,
    Program,
    System,
    after_setfsuid,
    after_setresuid,
    predict,
    say,
)
from nstool.spec.model import IdMap

FULL = full()
NET_RAW, KILL, CHOWN = mask(("net_raw",)), mask(("kill",)), mask(("chown",))
ROOT, ALICE = Ids(0, 0, 0, 0), Ids(1000, 1000, 1000, 1000)
PLAIN = File(stat.S_IFREG | 0o755, 0, 0, path="/bin/plain")
SU = File(stat.S_IFREG | 0o4755, 0, 0, path="/bin/su")
PING = PLAIN.replace(path="/bin/ping", caps=FileCaps(NET_RAW, effective=True))
MASKS = st.integers(0, FULL)
SETS = st.builds(Sets, MASKS, MASKS, MASKS, MASKS, MASKS)


def alice(**changes: Any) -> Process:
    return Process(ALICE, ALICE, sets=Sets(bounding=FULL)).replace(**changes)


def outcome(process: Process, file: File, **system: Any) -> Process:
    return after(predict(process, Program((file,)), System(**system)))


def after(found: Prediction) -> Process:
    assert found.after is not None, found.why
    return found.after


def test_root_gains_all_of_its_bounding_and_inheritable_sets() -> None:
    """P'(permitted) = P(inheritable) | P(bounding); effective the same. capabilities(7), "programs by root"."""
    process = Process(ROOT, ROOT, sets=Sets(bounding=KILL, inheritable=CHOWN))
    sets = outcome(process, PLAIN).sets
    assert (sets.permitted, sets.effective) == (KILL | CHOWN, KILL | CHOWN)
    assert outcome(process.replace(securebits=uapi.SECBIT_NOROOT), PLAIN).sets.permitted == 0


def test_only_a_real_uid_0_has_permitted_but_not_effective() -> None:
    """capabilities(7): the file effective bit is on only if the effective user id is 0."""
    process = Process(Ids(0, 1000, 1000, 1000), ALICE, sets=Sets(bounding=FULL))
    sets = outcome(process, PLAIN).sets
    assert (sets.permitted, sets.effective) == (FULL, 0)


def test_set_user_id_root() -> None:
    found = predict(alice(), Program((SU,)))
    assert after(found).uids == Ids(1000, 0, 0, 0)
    assert after(found).sets.effective == FULL
    assert (found.secure, found.dumpable, found.death_signal) == (True, 0, False)


def test_set_user_id_root_with_file_capabilities_gives_these_alone() -> None:
    """capabilities(7), "Set-user-ID-root programs that have file capabilities"."""
    file = SU.replace(caps=FileCaps(NET_RAW, effective=True))
    assert outcome(alice(), file).sets.permitted == NET_RAW
    assert outcome(alice(), SU.replace(caps=FileCaps())).sets.permitted == 0
    assert outcome(alice(), SU.replace(caps=FileCaps())).uids.effective == 0
    assert outcome(Process(ROOT, ROOT, sets=Sets(bounding=FULL)), file).sets.permitted == FULL


def test_capability_dumb_programs_get_all_or_fail() -> None:
    """capabilities(7), "Safety checking for capability-dumb binaries": EPERM."""
    found = predict(alice(sets=Sets(bounding=FULL & ~NET_RAW)), Program((PING,)))
    assert (found.after, found.errno_name) == (None, "EPERM")
    assert "net_raw is not in the bounding set" in found.why
    aware = PING.replace(caps=FileCaps(NET_RAW))
    assert outcome(alice(sets=Sets(bounding=FULL & ~NET_RAW)), aware).sets.permitted == 0


def test_ambient_capabilities_outlive_ordinary_programs_only() -> None:
    process = alice(sets=Sets(NET_RAW, NET_RAW, NET_RAW, FULL, NET_RAW))
    assert outcome(process, PLAIN).sets == Sets(NET_RAW, NET_RAW, NET_RAW, FULL, NET_RAW)
    assert outcome(process, SU.replace(uid=2000)).sets.ambient == 0
    assert outcome(process, PING).sets.ambient == 0


def test_no_new_privs_gives_nothing() -> None:
    process = alice(no_new_privs=True)
    assert outcome(process, SU) == process
    assert outcome(process, PING).sets.permitted == 0


@pytest.mark.parametrize("field", ["nosuid", "foreign", "outside"])
def test_what_is_not_trusted_gives_nothing(field: str) -> None:
    for file in (SU, PING):
        found = predict(alice(), Program((file.replace(**{field: True}),)))
        assert found.after == alice()
        assert found.rules[0].name == "nosuid"


def test_the_time_at_which_an_id_counts_as_changed() -> None:
    """Before Linux 6.17 a process with another effective than real id lost its ambient set by any execve(2)."""
    process = alice(uids=Ids(1000, 2000, 2000, 2000), sets=Sets(NET_RAW, NET_RAW, NET_RAW, FULL, NET_RAW))
    assert outcome(process, PLAIN, release=(6, 17)).sets.ambient == NET_RAW
    assert outcome(process, PLAIN, release=(6, 16)).sets.ambient == 0
    unsafe = process.replace(shares_fs=True)
    assert outcome(unsafe, PLAIN, release=(6, 17)).uids.effective == 2000
    assert outcome(unsafe, PLAIN, release=(6, 16)).uids.effective == 1000


def test_options_of_the_host_count() -> None:
    assert outcome(alice(), PING, file_caps=False).sets.permitted == 0
    assert predict(alice(), Program((SU,)), System(suid_dumpable=2)).dumpable == 2
    assert predict(alice(), Program((PLAIN.replace(mode=stat.S_IFREG | 0o711),)), System(suid_dumpable=2)).dumpable == 2


def test_rules_come_with_formula_and_numbers() -> None:
    """As a person would work it out on paper."""
    process = alice(sets=Sets(inheritable=KILL, bounding=NET_RAW | KILL))
    file = PLAIN.replace(caps=FileCaps(NET_RAW, KILL | CHOWN, effective=True))
    rules = {rule.name: rule for rule in predict(process, Program((file,))).rules}
    assert rules["permitted"].formula == (
        "P'(permitted) = (P(inheritable) & F(inheritable)) | (F(permitted) & P(bounding)) | P'(ambient)"
    )
    assert rules["permitted"].numbers == (
        "P'(permitted) = (0x20 & 0x21) | (0x2000 & 0x2020) | 0x0 = 0x2020 (kill net_raw)"
    )
    assert rules["effective"].numbers == "P'(effective) = 1 ? 0x2020 : 0x0 = 0x2020 (kill net_raw)"


@given(SETS, st.sampled_from([PLAIN, SU, PING]), st.booleans())
def test_the_numbers_of_a_rule_give_its_result(sets: Sets, file: File, root: bool) -> None:
    """What stands left of the last = is an expression with the value that stands right of it."""
    sets = sets.replace(ambient=sets.ambient & sets.permitted & sets.inheritable)
    found = predict(Process(ROOT if root else ALICE, ALICE, sets=sets), Program((file,)))
    for rule in found.rules:
        if rule.name in ("permitted", "file capabilities", "nothing gained"):
            left, _, right = rule.numbers.partition(" (file:")[0].rpartition(" = ")
            assert eval(left.rpartition("= ")[2]) == int(right.split()[0], 16), rule


def test_what_may_not_be_executed() -> None:
    for file, why in (
        (PLAIN.replace(mode=stat.S_IFDIR | 0o755), "no regular file"),
        (PLAIN.replace(noexec=True), "noexec"),
        (PLAIN.replace(mode=stat.S_IFREG | 0o744), "mode 0744"),
        (PLAIN.replace(directories=(Inode(stat.S_IFDIR | 0o700, 0, 0),)), "directory"),
    ):
        found = predict(alice(), Program((file,)))
        assert (found.errno_name, found.after) == ("EACCES", None)
        assert why in found.why
    assert predict(alice(), Program((PLAIN,), error=8, why="no format")).errno_name == "ENOEXEC"
    assert predict(alice(), Program((PLAIN.replace(caps_error=22),))).errno_name == "EINVAL"


def test_all_of_a_chain_must_be_executable_and_the_last_decides() -> None:
    script = PLAIN.replace(path="/script", mode=stat.S_IFREG | 0o4755, uid=3000)
    assert outcome(alice(), script) is not None
    found = predict(alice(), Program((script, SU)))
    assert (after(found).uids.effective, found.path) == (0, "/bin/su")
    assert predict(alice(), Program((script, SU), source=0)).path == "/script"
    closed = PLAIN.replace(path="/loader", mode=stat.S_IFREG | 0o600)
    assert "/loader" in predict(alice(), Program((PLAIN,), loader=closed)).why


# A change of user ids


def test_leaving_uid_0_clears_what_it_gave() -> None:
    process = Process(ROOT, ROOT, sets=Sets(FULL, FULL, KILL, FULL, KILL))
    assert after(after_setresuid(process, 1000, 1000, 1000)).sets == Sets(0, 0, KILL, FULL, 0)
    keeping = process.replace(securebits=uapi.SECBIT_KEEP_CAPS)
    assert after(after_setresuid(keeping, 1000, 1000, 1000)).sets == Sets(0, FULL, KILL, FULL, 0)
    fixed = process.replace(securebits=uapi.SECBIT_NO_SETUID_FIXUP)
    assert after(after_setresuid(fixed, 1000, 1000, 1000)).sets == process.sets


def test_the_effective_set_follows_the_effective_uid() -> None:
    process = Process(ROOT, ROOT, sets=Sets(FULL, FULL, 0, FULL))
    away = after(after_setresuid(process, -1, 1000, -1))
    assert away.sets == Sets(0, FULL, 0, FULL)
    assert away.uids == Ids(0, 1000, 0, 1000)
    assert after(after_setresuid(away, -1, 0, -1)).sets == Sets(FULL, FULL, 0, FULL)


def test_the_filesystem_uid_takes_its_capabilities_along() -> None:
    process = Process(ROOT, ROOT, sets=Sets(FULL, FULL, 0, FULL))
    away = after(after_setfsuid(process, 1000))
    assert away.sets.effective == FULL & ~FS_SET
    assert after(after_setfsuid(away, 0)).sets.effective == FULL


def test_a_call_that_asks_for_nothing_changes_nothing() -> None:
    """Not even the filesystem id follows the effective one then."""
    process = Process(Ids(0, 0, 0, 1000), ROOT, sets=Sets(0, FULL, 0, FULL))
    assert after(after_setresuid(process)) == process
    assert after(after_setresuid(process, -1, 0, -1)).uids.filesystem == 0


def test_ids_that_may_not_be_had() -> None:
    assert after_setresuid(alice(), 0, 0, 0).errno_name == "EPERM"
    inside = alice(uid_map=(IdMap(0, 1000, 1),))
    assert after_setresuid(inside, 1, 1, 1).errno_name == "EINVAL"
    refused = after_setfsuid(alice(), 0)
    assert refused.after == alice()
    assert refused.why


# Access


def test_classes_are_asked_in_their_order() -> None:
    """An owner whom the mode forbids it is not asked as one of the others. path_resolution(7)."""
    who = Credentials(ALICE, ALICE, groups=(3000,))
    assert not may(who, Inode(stat.S_IFREG | 0o077, 1000, 0), READ)
    assert not may(who, Inode(stat.S_IFREG | 0o707, 0, 3000), READ)
    assert may(who, Inode(stat.S_IFREG | 0o004, 0, 0), READ)
    assert not may(who, Inode(stat.S_IFREG | 0o004, 0, 0), EXECUTE)


def test_capabilities_over_files_need_mapped_owners_and_an_execute_bit() -> None:
    who = Credentials(ALICE, ALICE, sets=Sets(effective=1 << uapi.CAP_DAC_OVERRIDE))
    assert may(who, Inode(stat.S_IFREG | 0o100, 0, 0), EXECUTE)
    assert not may(who, Inode(stat.S_IFREG | 0o600, 0, 0), EXECUTE)
    assert may(who, Inode(stat.S_IFDIR | 0o000, 0, 0), EXECUTE)
    inside = who.replace(uid_map=(IdMap(0, 1000, 1),))
    assert not may(inside, Inode(stat.S_IFREG | 0o100, 0, 0), EXECUTE)


def test_wrong_access_control_lists_are_refused() -> None:
    good = bytes.fromhex("02000000" + "0100" + "0700" + "ffffffff")
    assert parse_acl(good) == (AclEntry(1, 7, 0xFFFFFFFF),)
    for bad in (b"", good[:-1], b"\3" + good[1:]):
        with pytest.raises(SpecError):
            parse_acl(bad)


# File capabilities

FILE_CAPS = st.builds(
    FileCaps,
    permitted=st.integers(0, (1 << 64) - 1),
    inheritable=st.integers(0, (1 << 64) - 1),
    effective=st.booleans(),
    revision=st.sampled_from([2, 3]),
).flatmap(
    lambda caps: st.integers(0, 2**32 - 1).map(lambda id: caps.replace(rootid=id if caps.revision == 3 else None))
)


@given(FILE_CAPS)
def test_the_attribute_gives_back_what_was_packed(caps: FileCaps) -> None:
    assert filecaps.parse(filecaps.pack(caps)) == caps


def test_the_attribute_of_revision_1_has_32_capabilities() -> None:
    data = bytes.fromhex("01000001" + "00200000" + "20000000")
    caps = FileCaps(NET_RAW, KILL, True, revision=1)
    assert (filecaps.parse(data), filecaps.pack(caps)) == (caps, data)


@given(st.binary(max_size=30))
def test_any_bytes_are_an_attribute_or_refused(data: bytes) -> None:
    try:
        caps = filecaps.parse(data)
    except SpecError:
        return
    assert filecaps.pack(caps) == data


@pytest.mark.parametrize(
    "text", ["cap_kill=e", "cap_kill=p cap_chown=ep", "cap_chown=ep cap_kill=i", "63=p", "cap_x=p"]
)
def test_what_no_file_can_have_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        filecaps.from_text(text)


def test_text_of_file_capabilities() -> None:
    assert filecaps.from_text("cap_net_raw=ep") == FileCaps(NET_RAW, effective=True)
    assert filecaps.from_text("cap_net_raw=p cap_kill=i", 7) == FileCaps(NET_RAW, KILL, False, 7, 3)
    assert filecaps.from_text("=") == FileCaps()
    assert filecaps.to_text(FileCaps(NET_RAW, KILL, True)) == "cap_kill=ei cap_net_raw+ep"


# Five sets as text


def test_the_five_sets_are_read() -> None:
    assert sets_from_text("=ep") == Sets(FULL, FULL, 0, FULL, 0)
    assert sets_from_text("=") == Sets(bounding=FULL)
    assert sets_from_text("cap_kill=eip cap_kill+a all-b cap_kill+b") == Sets(KILL, KILL, KILL, KILL, KILL)
    assert sets_from_text("all=eipb cap_kill-b").bounding == FULL & ~KILL


@pytest.mark.parametrize("text", ["cap_kill=e", "cap_kill=pa", "cap_kill+a", "cap_kill=x"])
def test_sets_that_no_process_has_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        sets_from_text(text)


def test_large_sets_are_said_by_what_is_missing() -> None:
    assert say(0) == "0x0"
    assert say(FULL) == "0x1ffffffffff (all)"
    assert say(FULL & ~KILL) == "0x1ffffffffdf (all but kill)"
    assert say(NET_RAW | KILL) == "0x2020 (kill net_raw)"


# Formats


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"#!/bin/sh\n", b"/bin/sh"),
        (b"#!  /bin/sh -e -x \n", b"/bin/sh"),
        (b"#!/bin/sh", b"/bin/sh"),
        (b"#!\n", None),
        (b"#! \t\n", None),
        (b"#!", b""),
        (b"echo", None),
        (b"#!" + b"x" * 300, None),
        (b"#!" + b"x" * 250 + b" argument that is cut", b"x" * 250),
    ],
)
def test_first_lines(head: bytes, interpreter: bytes | None) -> None:
    assert binfmt.interpreter(head) == interpreter


def test_formats_by_magic_and_by_extension() -> None:
    text = "enabled\ninterpreter /bin/x\nflags: OC\noffset 1\nmagic 4e5354\nmask ff00ff\n"
    format = binfmt.parse_format("nst", text)
    assert format == binfmt.Format("nst", "/bin/x", "OC", 1, b"NST", b"\xff\x00\xff")
    assert format.recognises("x", b".NxT")
    assert not format.recognises("x", b".NS")
    by_name = binfmt.parse_format("py", "enabled\ninterpreter /bin/x\nflags: \nextension .py\n")
    assert by_name
    assert by_name.recognises("a.b.py", b"")
    assert not by_name.recognises("py", b"")
    assert binfmt.parse_format("off", "disabled\n") is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_program_or_none(data: bytes) -> None:
    for head in (data, b"\x7fELF" + data):
        why, loader = binfmt.elf(head, lambda offset, size, all_=head: all_[offset : offset + size])
        assert isinstance(why, str)
        assert isinstance(loader, bytes)
