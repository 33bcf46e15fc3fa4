"""The language of kafel: what it means, what is not supported, and where it says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import SpecError
from nstool.security import seccomp_kafel
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

COMPOSED = """
/* What a filter on a pipe needs.
   In two policies. */
#define STDOUT 1
POLICY reading { ALLOW { read(fd, buffer, size) { fd == 0 } } }
POLICY writing {
    ALLOW { write { fd == STDOUT, fd == 2 } },  // either
    ERRNO(9) { write }
}
POLICY both { USE writing, USE reading }
USE both DEFAULT KILL_PROCESS
"""


@pytest.mark.parametrize(
    ("call", "args", "action"),
    [
        ("read", (0,), ALLOW),
        ("read", (1,), KILL_PROCESS),
        ("write", (1,), ALLOW),
        ("write", (2,), ALLOW),
        ("write", ((1 << 32) + 1,), ALLOW),  # an int: the kernel looks at the low half alone
        ("write", (0,), errno_action(9)),
        ("openat", (), KILL_PROCESS),
    ],
)
def test_policies_are_pasted_where_they_are_used(call: str, args: tuple[int, ...], action: int) -> None:
    """And the first rule that matches decides."""
    assert seccomp_kafel.read(COMPOSED).decide(call, args) == action


CONDITIONS = {
    "fd == 3 && count == 4": lambda fd, count: fd == 3 and count == 4,
    "fd == 3 || count == 4": lambda fd, count: fd == 3 or count == 4,
    "fd == 3, count == 4": lambda fd, count: fd == 3 or count == 4,
    "!(fd == 3 && count == 4)": lambda fd, count: not (fd == 3 and count == 4),
    "!(fd == 3 || !(count == 4))": lambda fd, count: fd != 3 and count == 4,
    "fd == 1 || fd == 2 && count == 4": lambda fd, count: fd == 1 or (fd == 2 and count == 4),
    "(fd == 1 || fd == 2) && count == 4": lambda fd, count: fd in (1, 2) and count == 4,
    "fd >= 1 && fd <= 2": lambda fd, count: 1 <= fd <= 2,
    "2 > fd": lambda fd, count: fd < 2,
    "(fd & 1) == 1": lambda fd, count: fd & 1 == 1,
    "fd & 2 != 0": lambda fd, count: fd & 2 != 0,
    "count == 1|4": lambda fd, count: count == 5,
    "(1|4) == count": lambda fd, count: count == 5,
    "(count & 1|4) == 4": lambda fd, count: count & 5 == 4,
    "1 == 1 && fd == 0b11": lambda fd, count: fd == 3,
    "1 == 2 || fd == 03": lambda fd, count: fd == 3,
    "count < 4": lambda fd, count: count < 4,
    "!!(count > 0x3)": lambda fd, count: count > 3,
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions_mean_what_they_mean_in_c(text: str) -> None:
    """Over all small arguments; "&" binds closer than "==", and "," weakest of all."""
    rules = seccomp_kafel.read(f"ALLOW {{ write {{ {text} }} }} DEFAULT KILL")
    for fd in range(5):
        for count in range(7):
            assert (rules.decide("write", (fd, 0, count)) == ALLOW) == CONDITIONS[text](fd, count), (fd, count)


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("ALLOW", ALLOW),
        ("LOG", LOG),
        ("DENY", KILL_THREAD),
        ("KILL", KILL_THREAD),
        ("KILL_THREAD", KILL_THREAD),
        ("KILL_PROCESS", KILL_PROCESS),
        ("ERRNO(38)", errno_action(38)),
        ("TRAP(7)", TRAP | 7),
    ],
)
def test_actions(word: str, action: int) -> None:
    """Each is one of the kernel's."""
    assert seccomp_kafel.read(f"POLICY a {{ {word} {{ getpid }} }} USE a DEFAULT {word}").rules[0].action == action
    assert seccomp_kafel.read(f"DEFAULT {word}").default == action


def test_names_and_architectures() -> None:
    """Those of the kernel's functions are taken too; what is for other architectures alone is left out."""
    rules = seccomp_kafel.read("ALLOW { newuname, newstat ON {x86_64, arm}, arm_sync_file_range ON arm, umount() }")
    assert [rule.call for rule in rules.rules] == ["uname", "stat", "umount2"]
    assert rules.default == KILL_THREAD


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("POLICY a {\n ALLOW { reed } }", 2, "did you mean read"),
        ("POLICY a { ALLOW { read {\n fdd == 3 } } }", 2, 'read has no argument fdd; did you mean "fd"'),
        ("ALLOW { read {\n\n fd == count } }", 3, "compares two arguments"),
        ("ALLOW { read { (fd & count) == 1 } }", 1, "joins two arguments"),
        ("ALLOW { read { fd|1 == 1 } }", 1, "joins an argument with |"),
        ('\n#include "more.policy"', 2, "#include is not supported"),
        ("POLICY a {\nUSER_NOTIF { read } }", 2, "needs a listener"),
        ("POLICY a {\nTRACE(1) { read } }", 2, "needs a tracer"),
        ("ERRNO { read }", 1, "a number in brackets"),
        ("ALLOW(1) { read }", 1, "takes no number"),
        ("ERRNO(65536) { read }", 1, "from 0 to 65535"),
        ("POLICY a {}\nPOLICY a {}", 2, "defined twice"),
        ("#define A 1\n#define A 2", 2, "defined twice"),
        ("USE b DEFAULT ALLOW", 1, "no policy b"),
        ("DEFAULT ALLOW\nDEFAULT KILL", 2, "given twice"),
        ("POLICY a { ALLOW { read } }", 1, "no policy is used"),
        ("POLICY a {\n ALLOW { read ", 2, "ends in the middle"),
        ("POLICY a {\n ALLOW { read ; } }", 2, '";" is not expected here, in column 15'),
        ("ALLOW { read { fd == 099 } }", 1, "begins with 0 is octal"),
        ("ALLOW { read { fd == 0x1ffffffffffffffff } }", 1, "64 bits"),
        ("ALLOW { read { fd == NOWHERE } }", 1, "#define NOWHERE NUMBER"),
        ("ALLOW { read(a, a) { a == 1 } }", 1, "named twice"),
        ("ALLOW { read(a, b, c, d, e, f, g) { a == 1 } }", 1, "at most six"),
        ("ALLOW { read ON vax }", 1, "no architecture vax"),
        ("ALLOW { SYSCALL[-1] }", 1, "no system call of x86_64 has the number"),
        ("ALLOW { read { " + " && ".join(["(fd == 1 || fd == 2)"] * 9) + " } }", 1, "more than 256 alternatives"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, message: str) -> None:
    """One message, with what to do where that is not plain."""
    with pytest.raises(SpecError) as caught:
        seccomp_kafel.read(text)
    assert caught.value.place == str(line)
    assert message in caught.value.message


TOKENS = "POLICY USE DEFAULT ALLOW KILL ERRNO ON arm a b read fd 1 0x2 ( ) { } , ; # define include == != < && || ! & |"
WORDS = st.sampled_from(TOKENS.split(" "))


@given(st.lists(WORDS | st.text(max_size=3), max_size=14).map(" ".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """With a line, never by another exception."""
    place = "1"
    try:
        assert isinstance(seccomp_kafel.read(text), Rules)
    except SpecError as error:
        place = error.place
    assert place.isdecimal()


OPERATORS = ("==", "!=", "<", "<=", ">", ">=")
COMPARES = st.builds(
    Compare, st.integers(0, 2), st.sampled_from(OPERATORS), st.integers(0, 9), st.sampled_from((~0 & (1 << 64) - 1, 3))
)
RULES = st.builds(
    Rule,
    st.sampled_from(("mmap", "munmap", "getpid")),
    st.sampled_from((ALLOW, KILL_PROCESS, errno_action(38))),
    st.lists(COMPARES, max_size=3).map(tuple),
)
WRITTEN = {ALLOW: "ALLOW", KILL_PROCESS: "KILL_PROCESS", errno_action(38): "ERRNO(38)"}


def written(rules: Rules) -> str:
    """Return rules in the language, arguments named by letters."""
    blocks = []
    for rule in rules.rules:
        where = " && ".join(f"(({'abc'[c.arg]} & {c.mask:#x}) {c.op} {c.value})" for c in rule.where)
        blocks.append(f"{WRITTEN[rule.action]} {{ {rule.call}(a, b, c) {{ {where} }} }}")
    return f"POLICY p {{ {', '.join(blocks)} }} USE p DEFAULT {WRITTEN[rules.default]}"


@given(st.builds(Rules, st.sampled_from(sorted(WRITTEN)), st.lists(RULES, max_size=5).map(tuple)), st.data())
def test_what_was_written_is_read(rules: Rules, data: st.DataObject) -> None:
    """Rules, written in the language and read again, decide alike."""
    found = seccomp_kafel.read(written(rules))
    call = data.draw(st.sampled_from(("mmap", "munmap", "getpid", "read")))
    args = data.draw(st.lists(st.integers(0, 10), min_size=3, max_size=3))
    assert found.decide(call, args) == rules.decide(call, args)
