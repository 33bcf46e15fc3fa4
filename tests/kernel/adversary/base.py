"""What a check is: a question to the probe inside or a look from outside, and what must come of it."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from nstool.security import seccomp

# What of nstool a check stands for; docs/security.md has the rows.
PROTECTIONS: dict[str, str] = {
    "capabilities": "empty capability sets",
    "cgroup": "cgroup namespace",
    "close_range": "all fds but the command's are closed",
    "dev": "/dev of its own",
    "environment": "clean environment",
    "exec_init": "init is a program of its own",
    "groups": "supplementary groups are dropped",
    "hidepid": "hidepid=invisible",
    "ids": "user namespace with ids that nobody else has",
    "init": "init is not dumpable and has no rights",
    "ipc": "ipc namespace",
    "limits": "cgroups",
    "mounts": "seccomp and empty capability sets together",
    "net": "net namespace",
    "no_new_privs": "no_new_privs",
    "nodev": "nodev",
    "noexec": "noexec where one can write",
    "nosuid": "nosuid",
    "oom": "oom_score_adj",
    "owner": "a user namespace that is not root's",
    "pid": "pid namespace",
    "proc": "covers and views of /proc",
    "propagation": "private propagation",
    "read-only": "read-only root",
    "rlimits": "rlimits",
    "pts": "a number of terminals of its own",
    "root": "a root of its own",
    "scratch": "scratch directories of its own, with a size",
    "seccomp": "seccomp",
    "securebits": "locked securebits",
    "time": "time namespace",
    "ucounts": "limits of the user namespace",
    "uts": "uts namespace",
}


class Answer(NamedTuple):
    """What came of a question. error: name of the errno, "" for none; signal: name of the one that ended it."""

    value: int = 0
    error: str = ""
    signal: str = ""
    text: str = ""


class Expected(NamedTuple):
    """What must come of it, in words and as a function."""

    words: str
    test: Callable[[Answer], bool]


class Check(NamedTuple):
    """One property that must hold inside a sandbox with the defaults.

    ask: words for the probe, or a function of run.View, the look from outside.
    property: what must hold. protection: what of nstool it stands for, a key of PROTECTIONS.
    only: "root" or "user" where it is about what only that launcher makes.
    """

    name: str
    ask: tuple[str, ...] | Callable[[Any], Answer]
    expected: Expected
    property: str
    protection: str
    only: str = ""


def answer(row: dict[str, Any]) -> Answer:
    """Return the answer that a line of the probe says."""
    error = errno.errorcode.get(row["error"], str(row["error"])) if row["error"] else ""
    number = signal.Signals(row["signal"]).name if row["signal"] else ""
    return Answer(row["value"], error, number, row["text"])


# ---- questions ----


def call(name: str | int, *args: int | str) -> tuple[str, ...]:
    """A system call. A str argument is a string, "b:N" so many bytes of zero."""
    number = seccomp.call_number(name) if isinstance(name, str) else name
    words = [arg if isinstance(arg, str) and arg.startswith("b:") else _word(arg) for arg in args]
    return ("call", str(number), *words)


def _word(arg: int | str) -> str:
    return f"s:{arg}" if isinstance(arg, str) else str(arg & (1 << 64) - 1)


# ---- what must come of them ----


def refused(*errors: str) -> Expected:
    """One of these errnos."""
    return Expected(f"fails with {' or '.join(errors)}", lambda got: not got.signal and got.error in errors)


def ended(name: str) -> Expected:
    """The process is ended by this signal."""
    return Expected(f"ends the process by {name}", lambda got: got.signal == name)


def is_value(value: int) -> Expected:
    """It goes well and gives this."""
    return Expected(f"gives {value}", lambda got: not got.signal and not got.error and got.value == value)


def says(text: str) -> Expected:
    """It goes well, and this is the text."""
    return Expected(
        f"says {text!r}" if text else "says nothing",
        lambda got: not got.signal and not got.error and got.text.strip() == text,
    )


def tells(words: str, test: Callable[[str], bool]) -> Expected:
    """It goes well, and of the text this holds."""
    return Expected(words, lambda got: not got.signal and not got.error and test(got.text))
