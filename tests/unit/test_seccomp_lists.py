"""Words of a spec as rules: which counts before which; the strict list; what is learned of a run."""

from __future__ import annotations

import errno
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import SpecError
from nstool.security import seccomp_lists as lists
from nstool.security import seccomp_table as table
from nstool.security.seccomp_arguments import arguments, looked_at
from nstool.security.seccomp_learned import ALWAYS, learned, text
from nstool.security.seccomp_rules import ALLOW, KILL_PROCESS, LOG, Compare, Rule, Rules, errno_action
from nstool.spec.load import loads, seccomp_words
from nstool.spec.model import Seccomp, SeccompCall, SeccompWhere
from nstool.spec.values import seccomp_call

EPERM, ENOSYS, EDOM = errno_action(errno.EPERM), errno_action(errno.ENOSYS), errno_action(errno.EDOM)
HIGH = 1 << 40
NEW_USER = 0x10000000


def decide(words: Seccomp, call: str | int, *args: int) -> int:
    """Return what a table decides."""
    return lists.changed(words).decide(call, args)


def of(*entries: str) -> tuple[SeccompCall, ...]:
    """Return entries as a person writes them."""
    return tuple(map(seccomp_call, entries))


@pytest.mark.parametrize(
    ("words", "call", "args", "action"),
    [
        # a call that is named is narrower than a group
        ({"refuse": of("@timer"), "allow": of("nanosleep")}, "nanosleep", (), ALLOW),
        ({"refuse": of("@timer"), "allow": of("nanosleep")}, "alarm", (), ALLOW),
        ({"refuse": of("@timer")}, "nanosleep", (), EPERM),
        ({"allow": of("@mount"), "refuse": of("umount2")}, "umount2", (), EPERM),
        ({"allow": of("@mount"), "refuse": of("umount2")}, "mount", (), ALLOW),
        # one with conditions is narrower still
        ({"allow": of("dup(fildes == 1)"), "refuse": of("dup")}, "dup", (1,), ALLOW),
        ({"allow": of("dup(fildes == 1)"), "refuse": of("dup")}, "dup", (2,), EPERM),
        ({"refuse": of("dup(fildes == 1)"), "allow": of("dup")}, "dup", (1,), EPERM),
        # of two alike the one that refuses
        ({"refuse": of("@timer"), "allow": of("@timer")}, "nanosleep", (), EPERM),
        ({"refuse": of("dup(fildes < 5)"), "allow": of("dup(fildes > 3)")}, "dup", (4,), EPERM),
        # all before the base
        ({"allow": of("bpf")}, "bpf", (), ALLOW),
        ({"base": "none", "refuse": of("read")}, "read", (), EPERM),
        ({"base": "none", "refuse": of("read")}, "write", (), ALLOW),
        ({"base": "empty", "allow": of("read")}, "read", (), ALLOW),
        ({"base": "empty", "allow": of("read")}, "write", (), EPERM),
        # the terminal
        ({"allow": of("ioctl", "@file-system")}, "ioctl", (0, 0x5412), EPERM),
        ({"allow": of("ioctl(cmd == TIOCSTI)")}, "ioctl", (0, 0x5412), ALLOW),
        ({"allow": of("ioctl(cmd == TIOCSTI)")}, "ioctl", (0, 0x541C), EPERM),
        ({"base": "empty", "allow": of("@file-system")}, "ioctl", (0, HIGH | 0x5412), EPERM),
        ({"base": "empty", "allow": of("@file-system")}, "ioctl", (0, 0x5413), ALLOW),
        ({"base": "empty", "allow": of("ioctl")}, "ioctl", (0, 0x5412), ALLOW),
        # a group allows as the default does, a call that is named whatever its arguments
        ({"base": "empty", "allow": of("@network-io")}, "socket", (1,), ALLOW),
        ({"base": "empty", "allow": of("@network-io")}, "socket", (2, 3, 0), EPERM),
        ({"base": "empty", "allow": of("socket")}, "socket", (2, 3, 0), ALLOW),
        ({"allow": of("@any-socket")}, "socket", (17, 3, 0), ALLOW),
        ({"allow": of("@process")}, "clone", (NEW_USER,), EPERM),
        ({"allow": of("@namespaces")}, "clone", (NEW_USER,), ALLOW),
        ({"allow": of("@namespaces")}, "clone3", (), ALLOW),
        ({"refuse": of("@process")}, "clone", (), EPERM),
        # what is answered
        ({"errno": "EDOM"}, "bpf", (), EDOM),
        ({"errno": "EDOM"}, "ioctl", (0, 0x5412), EDOM),
        ({"errno": "EDOM", "refuse": of("read")}, "read", (), EDOM),
        ({"action": "errno"}, "bpf", (), EPERM),
        ({"action": "kill"}, "bpf", (), KILL_PROCESS),
        ({"action": "log"}, "clone", (NEW_USER,), LOG),
        ({"action": "kill"}, "clone3", (), ENOSYS),
        ({"action": "log"}, 500, (), ENOSYS),
        ({"action": "kill", "refuse": of("clone3")}, "clone3", (), KILL_PROCESS),
        ({"base": "empty", "action": "kill"}, "read", (), KILL_PROCESS),
    ],
)
def test_the_narrower_word_counts(words: dict[str, Any], call: str | int, args: tuple[int, ...], action: int) -> None:
    """And of two alike the safer one."""
    assert decide(Seccomp(**words), call, *args) == action


READ = Rules(
    ENOSYS,
    (Rule("read", ALLOW), Rule("mount", EPERM), Rule("dup", EDOM, (Compare(0, "==", 1),)), Rule("clone3", ENOSYS)),
    ("a note",),
)


@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ({}, [ALLOW, EPERM, EDOM, ENOSYS, ENOSYS]),
        ({"allow": of("mount")}, [ALLOW, ALLOW, EDOM, ENOSYS, ENOSYS]),
        ({"refuse": of("read")}, [EPERM, EPERM, EDOM, ENOSYS, ENOSYS]),
        ({"action": "log"}, [ALLOW, LOG, LOG, ENOSYS, LOG]),
        ({"errno": "EDOM"}, [ALLOW, EDOM, EDOM, ENOSYS, EDOM]),
    ],
)
def test_a_file_is_changed_alike(words: dict[str, Any], answers: list[int]) -> None:
    """Its own answers stay unless an action is asked for; what says that there is no such call stays then too."""
    found = lists.changed(Seccomp("/x.json", **words), READ)
    asked = (("read", ()), ("mount", ()), ("dup", (1,)), ("clone3", ()), ("bpf", ()))
    assert [found.decide(call, args) for call, args in asked] == answers
    assert found.notes == ("a note",)


def test_strict_allows_nothing_that_the_default_refuses() -> None:
    """By call, and by all arguments that either decides by."""
    default, strict = lists.built_in("default"), lists.built_in("strict")
    edges = {c.value for rule in (*default.rules, *strict.rules) for c in rule.where} | {0, HIGH}
    for call in lists.names():
        for value in edges:
            for args in ((value, 0, 0), (2, value, 0), (2, 1, value), (10, 2, value), (0, value, 0), (16, 3, value)):
                if default.decide(call, args) != ALLOW:
                    assert strict.decide(call, args) != ALLOW, (call, args)


NO_USE = """
chroot shmget mq_open setuid setgroups capset seccomp landlock_create_ruleset memfd_create personality
unshare execveat vmsplice listmount sched_setscheduler
"""


@pytest.mark.parametrize("call", NO_USE.split())
def test_strict_refuses_what_a_service_has_no_use_for(call: str) -> None:
    """And the default does not."""
    assert lists.built_in("strict").decide(call) == EPERM
    assert lists.built_in("default").decide(call) == ALLOW


def test_strict_is_decided_with_reasons() -> None:
    """Each call that it refuses is one that the default allows, with a sentence why."""
    allowed = {name for group in table.ALLOWED for name in group.names}
    for group in lists.strict_refusals():
        assert group.why
        assert group.names
        assert set(group.names) <= allowed


def test_every_call_is_in_one_group() -> None:
    """So that a table by groups has it once; and the words for several groups are different ones."""
    groups = [group.name for group in (*table.ALLOWED, *table.REFUSED, *table.MISSING, *table.WHOLE)]
    assert len(set(groups)) == len(groups)
    assert set(lists.group_of()) == lists.names()
    assert set(table.CONDITIONAL) <= set(groups)
    conditional = set(chain.from_iterable(table.CONDITIONAL.values()))
    assert conditional == {rule.call for rule in table.ALLOWED_ARGUMENTS}


def test_arguments_are_those_of_known_calls() -> None:
    """At most six each; and an int has 32 bits."""
    named = {name for name in lists.names() if arguments(name)}
    assert len(named) > 330
    assert all(len(arguments(name)) <= 6 for name in named)
    assert [looked_at("ioctl", index) for index in range(3)] == [0xFFFFFFFF, 0xFFFFFFFF, (1 << 64) - 1]
    assert looked_at("chmod", 1) == 0xFFFF
    assert looked_at(999, 0) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("mount", SeccompCall("mount")),
        (" @mount ", SeccompCall("@mount")),
        ("ioctl(cmd==0x5412)", SeccompCall("ioctl", (SeccompWhere(1, "==", 0x5412),))),
        ("ioctl( 1 != TIOCSTI )", SeccompCall("ioctl", (SeccompWhere(1, "!=", 0x5412),))),
        (
            "socket(family == AF_INET, type & 0xf == SOCK_STREAM)",
            SeccompCall("socket", (SeccompWhere(0, "==", 2), SeccompWhere(1, "==", 1, 15))),
        ),
        ("openat(dfd == -100, flags & O_WRONLY|O_RDWR == 0)", None),
        ("chmod(mode <= 0755)", SeccompCall("chmod", (SeccompWhere(1, "<=", 0o755),))),
    ],
)
def test_an_entry_in_text(text: str, entry: SeccompCall | None) -> None:
    """Arguments by name or number, values by number or by names of the kernel's."""
    if entry is None:
        entry = SeccompCall("openat", (SeccompWhere(0, "==", -100), SeccompWhere(2, "==", 0, 3)))
    assert seccomp_call(text) == entry


@pytest.mark.parametrize(
    ("entry", "line", "message"),
    [
        ('"ioctl(cmd == 1"', 3, 'lacks the ")"'),
        ('"ioctl(cmd)"', 3, "is no condition; write ARG == VALUE"),
        ('"ioctl(cdm == 1)"', 3, 'ioctl has no argument "cdm"; did you mean "cmd"?'),
        ('"ioctl(7 == 1)"', 3, "ioctl has no argument 7; it has 0 fd, 1 cmd, 2 arg"),
        ('"ioctl(cmd == TIOCSTY)"', 3, "neither a number nor a constant"),
        ('"ioctl(cmd == 09)"', 3, "is no number"),
        ('"ioctl(cmd & 0 == 0)"', 3, "leaves nothing to compare"),
        ('"ioctl(cmd == 0x100000000)"', 3, "is never 0x100000000: the kernel looks at the bits 0xffffffff"),
        ('"@mount(fd == 1)"', 3, "has no argument"),
        ('"@mont"', 3, 'there is no group "@mont"; did you mean "@mount"?'),
        ('"moutn"', 3, 'did you mean "mount"?'),
        ('{ call = "mount", were = [] }', 3, 'unknown key "were"; did you mean "where"?'),
        ('{ call = "mount", where = [{ op = "==" }] }', 3, "lacks the key"),
        ('{ call = "@mount", where = [{ arg = 0 }] }', 3, "a group has no arguments"),
        ("3", 3, "expected a system call"),
    ],
)
def test_a_bad_entry_is_told_with_its_line(entry: str, line: int, message: str) -> None:
    """And what to do, where that is not plain."""
    with pytest.raises(SpecError) as caught:
        loads(f'command = ["x"]\n[seccomp]\nallow = [{entry}]\n', "web.toml")
    assert caught.value.place.startswith(f"web.toml:{line}: seccomp.allow[0]")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("words", "place", "message"),
    [
        ('action = "kil"', "seccomp.action", 'did you mean "kill"'),
        ('errno = "EPRM"', "seccomp.errno", 'did you mean "EPERM"'),
        ('errno = "errorcode"', "seccomp.errno", "is no errno"),
        ('action = "log"\nerrno = "EPERM"', "seccomp.errno", "no call fails"),
        ('allow = ["mount"]\nrefuse = ["bpf", "mount"]', "seccomp.allow[0]", "mount is in refuse too"),
        ('base = "defualt"', "seccomp.base", 'did you mean "default"'),
        ('base = "../x.json"', "seccomp.base", "relative"),
        ("alow = []", "seccomp.alow", 'did you mean "allow"'),
    ],
)
def test_what_contradicts_itself_is_refused(words: str, place: str, message: str) -> None:
    """With its key."""
    with pytest.raises(SpecError) as caught:
        loads(f'command = ["x"]\n[seccomp]\n{words}\n', "web.toml")
    assert caught.value.place.endswith(f": {place}")
    assert message in caught.value.message


DOCUMENT = Path(__file__).parents[2] / "docs/security.md"
# Words of it, and a call that each allows again.
LOOSENED = {
    "setrlimit(resource == RLIMIT_CORE)": ("setrlimit", 4, 1),
    "prlimit64(resource == RLIMIT_CORE)": ("prlimit64", 0, 4, 1),
    "fcntl(cmd == 1024)": ("fcntl", 0, 1024),
    "fcntl(cmd == 1026)": ("fcntl", 0, 1026),
    "ioctl(cmd == 0xc020660b)": ("ioctl", 0, 0xC020660B),
    "ioctl(cmd == 0x8912)": ("ioctl", 0, 0x8912),
    "ioctl(cmd == 0x8982)": ("ioctl", 0, 0x8982),
    "@any-socket": ("socket", 17, 3, 0),
    "@numa": ("mbind",),
    "@secret-memory": ("memfd_secret",),
}


@pytest.mark.parametrize("word", LOOSENED)
def test_the_words_of_the_document_loosen(word: str) -> None:
    """As they stand there; without them the call is refused."""
    assert f'"{word}"' in DOCUMENT.read_text()
    call, *args = LOOSENED[word]
    assert lists.built_in("default").decide(call, args) != ALLOW
    assert decide(Seccomp(allow=of(word)), call, *args) == ALLOW


@pytest.mark.parametrize(
    ("call", "args"), [("sendto", (3, 0, 0, 1)), ("sendmsg", (3, 0, 1)), ("recvfrom", (3, 0, 0, 3))]
)
def test_strict_refuses_urgent_data(call: str, args: tuple[int, ...]) -> None:
    assert lists.built_in("strict").decide(call, args) == EPERM
    assert lists.built_in("strict").decide(call, (3, 0, 0, 0)) == ALLOW
    assert lists.built_in("default").decide(call, args) == ALLOW


def test_strict_refuses_locks_of_parts_of_files() -> None:
    """F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW; who asks where one is, F_GETLK, holds none."""
    for number in (6, 7, 37, 38):
        assert lists.built_in("strict").decide("fcntl", (3, number, 0)) == EPERM
        assert lists.built_in("default").decide("fcntl", (3, number, 0)) == ALLOW
    assert lists.built_in("strict").decide("fcntl", (3, 5, 0)) == ALLOW


# ---- what is learned ----

UNDER = lists.built_in("default")


def test_what_was_made_is_allowed_and_nothing_looser() -> None:
    """A call that the list decides by arguments keeps the condition that let it through, or those that refuse."""
    seen = [
        ("mkdir", ()),
        ("socket", (2, 1 | 0x80000, 6)),
        ("clone", (0x11,)),
        ("ioctl", (0, 0x5401)),
        ("unshare", (NEW_USER,)),
        ("clone3", ()),
        (500, ()),
    ]
    found = learned(UNDER, seen)
    assert set(found.allow) == {
        *ALWAYS,
        *(
            "mkdir",
            "ioctl",
            "clone(clone_flags & 0x7e020000 == 0)",
            "socket(family == 2, type & 0xf == 1, protocol == 6)",
        ),
    }
    assert {entry for entry in found.refuse if "ioctl" in entry} == {
        *(f"ioctl(cmd == {command})" for command in ("0x5412", "0x541c", "0x5423", "0x8912", "0x8946", "0x894a")),
        *(f"ioctl(cmd & 0xfffffffe == {command})" for command in ("0x8940", "0x89b0")),
        *(f"ioctl(cmd & 0xfffffffc == {command})" for command in ("0x8980", "0x89a0")),
        "ioctl(cmd & 0xfffffff8 == 0x8990)",
        "ioctl(cmd & 0xffffffe0 == 0x89e0)",
        "ioctl(cmd & 0xff00 == 0x6600, cmd & 0xff != 1, cmd & 0xff != 2)",
        "ioctl(cmd & 0xff00 == 0x5800, cmd & 0xff != 0x1f, cmd & 0xff != 0x20)",
        "ioctl(cmd & 0xff00 == 0x9400, cmd & 0xff != 9, cmd & 0xff != 0xd, cmd & 0xff != 0x36)",
        "ioctl(cmd & 0xff00 == 0x1500)",
    }
    assert found.refused == ("clone3 (errno ENOSYS)", "unshare (errno EPERM)")
    assert found.unknown == (500,)
    words = seccomp_words(text(found, "x\ny"), "/x.toml")
    for call, args in seen:
        before, after = UNDER.decide(call, args), decide(words, call, *args)
        assert (after == ALLOW) == (before == ALLOW), (call, args)
    assert decide(words, "ioctl", 0, 0x5412) == EPERM == decide(words, "clone", NEW_USER) == decide(words, "rmdir")


def test_what_a_list_logged_is_told() -> None:
    """And allowed, as it was asked for."""
    found = learned(lists.changed(Seccomp(action="log")), [("mount", ()), ("mkdir", ())])
    assert found.logged == ("mount",)
    assert {"mount", "mkdir"} <= set(found.allow)


def test_what_a_list_would_log_and_was_not_made_stays_refused() -> None:
    """So the list that was learned is none looser than without action = log."""
    under = lists.changed(Seccomp(action="log"))
    huge, plain = (0, 0, 3, 0x40022, 0, 0), (0, 0, 3, 0x22, 0, 0)
    refused = "mmap(flags & 0x40000 == 0x40000)"
    assert refused in learned(under, [("mmap", plain)]).refuse
    found = learned(under, [("mmap", plain), ("mmap", huge)])
    assert ("mmap" in found.allow, refused in found.refuse, found.logged) == (True, False, ("mmap",))


def test_a_list_that_refuses_what_is_always_there_has_it_not() -> None:
    """Nothing is added that the list would not let through."""
    under = lists.changed(Seccomp(refuse=of("restart_syscall")))
    assert set(learned(under, []).allow) == set(ALWAYS) - {"restart_syscall"}
