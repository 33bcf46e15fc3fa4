"""Conditions on records: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import SpecError
from nstool.inspect.where import Where

FIELDS = {"type": str, "members": int, "user": str, "pid": int, "pids": list, "command": str, "parent": int}
WORDS = {"type": ("user", "net", "pid", "mnt")}
ROW: dict[str, Any] = {
    "type": "pid",
    "members": 2,
    "user": "root",
    "pid": 7,
    "pids": (7, 9),
    "command": "nginx: master",
    "parent": None,
}


def where(text: str) -> Where:
    return Where(text, FIELDS, WORDS, "--where")


@pytest.mark.parametrize(
    ("text", "true"),
    [
        ("type == pid", True),  # the word, not the field of that name
        ("type == user", False),
        ("pid == type", True),
        ("'pid' == type", True),
        ("type in (net, pid)", True),
        ("type not in [net, pid]", False),
        ("user == root", True),
        ("user != 'root'", False),
        ("members == 2 and pid == 7", True),
        ("members == 0 or pid == 7", True),
        ("not members == 0", True),
        ("not (members == 2 and type == pid)", False),
        ("0 < members <= 2", True),
        ("0 < members < 2", False),
        ("-1 < members", True),
        ("members", True),
        ("parent", False),
        ("not parent", True),
        ("parent == none", True),
        ("parent != None", False),
        ("parent == 0", False),
        ("parent < 5 or parent > 5 or parent == 5", False),
        ("members == pid", False),
        ("pid in pids", True),
        ("8 in pids", False),
        ("8 not in pids", True),
        ("nginx in command", True),
        ("'master' in command", True),
        ("'x: y' not in command", True),
        ("pids", True),
        ("parent in (none, 5)", True),
        ("'\\d' in command", False),
        (" members == 2 ", True),
        ("members == 2  # a comment", True),
    ],
)
def test_meaning(text: str, true: bool) -> None:
    assert where(text)(ROW) is true


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write a condition, as 'members == 0'"),
        ("   ", "is empty"),
        ("members = 0", "= compares nothing; write =="),
        ("members == ", "invalid syntax"),
        ("membrs == 0", '"membrs == 0" names no field; did you mean "members"?'),
        ("membrs", '"membrs" is no field; did you mean "members"?'),
        ("type == nett", '"nett" at character 9 is no type; did you mean "net"?'),
        ("user == 'é' and type == nett", '"nett" at character 25 is no type'),
        ("  type == nett", '"nett" at character 11 is no type'),
        ("  type == net net", "at character 15"),
        ("(members == 0 and\n type == nett)", '"nett" in line 2 is no type'),
        ("type in (net, nett)", 'is no type; did you mean "net"?'),
        ("members == many", '"members" == "many" compares a number with a word'),
        ("members == user", "compares a number with a word"),
        ("user < 3", "compares a word with a number"),
        ("members < none", "compares a number with none"),
        ("pids == 3", '"pids" is a list; ask what is in it'),
        ("3 in members", 'can not be in "members", which is a number'),
        ("3 in command", 'can not be in "command", which is a word'),
        ("pids in pids", "can not be in"),
        ("type is net", "write one of == != <= >= < >"),
        ("members + 1 == 2", '"members + 1" can be no side of a comparison'),
        ("members == 1.5", '"1.5" at character 12 can be no side'),
        ("members == True", "can be no side"),
        ("user == a-b", "quote a word that is no identifier"),
        ("user.x == 3", "can be no side"),
        ("pid in (1, (2, 3))", "can be no side"),
        ("f'{pid}' == user", "can be no side"),
        ("3", "is no condition"),
        ("True", "is no condition"),
        ("(lambda: 1)", "is no condition"),
        ("__import__('os').system('id')", "is no condition"),
        ("[x for x in pids]", "is no condition"),
        ("(members := 3)", "is no condition"),
        ("members if pid else pid", "is no condition"),
        ("x\0", "--where"),
        ("(" * 900, "--where"),
        ("x" * 1001, "is longer than 1000 characters"),
        ("\x1b[31m == 3", "\\x1b"),
    ],
)
def test_what_means_nothing_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        where(text)
    assert message in str(caught.value)
    assert caught.value.place == "--where"
    assert str(caught.value).isprintable()


def test_the_fields_that_are_looked_at_are_told() -> None:
    """So that others need not be computed."""
    assert where("type == pid and (members or 3 in pids)").uses == {"type", "members", "pids"}


_words = st.sampled_from([*FIELDS, *WORDS["type"], "root", "none", "3", "-1", "'a'", "(1, net)", "()", "x.y"])
_ops = st.sampled_from(
    [" == ", " != ", " < ", " >= ", " in ", " not in ", " and ", " or ", " is ", " + ", ") and (", ", "]
)


@given(st.lists(st.one_of(_words, _ops, st.just("not "), st.just("("), st.just(")")), max_size=12).map("".join))
def test_all_that_can_be_written_is_a_condition_or_an_error(text: str) -> None:
    try:
        condition = where(text)
    except SpecError:
        return
    assert condition(ROW) in (True, False)
    assert condition(dict.fromkeys(FIELDS)) in (True, False)


@given(st.text())
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    try:
        condition = where(text)
    except SpecError:
        return
    assert condition(ROW) in (True, False)
