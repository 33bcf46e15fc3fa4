"""The caller's terminal is never inside: the command has one of its own, which leads to nobody. pty(7)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.adversary.base import Answer, answer
from tests.kernel.adversary.conftest import Actor
from tests.support import processes

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
NO_LIMITS = ("--memory", "0", "--pids", "0", "--cpu", "0")
HIGH = (0, 1 << 32, 1 << 63)
SECONDS = 60
QUESTIONS: dict[str, tuple[str, ...]] = {
    "name": ("link", "/proc/self/fd/0"),
    "terminal": ("stat", "/dev/tty"),
    "own": ("stat", "/proc/self/fd/0"),
    "list": ("list", "/dev/pts"),
    "ids": ("ids",),
    "fds": ("list", "/proc/self/fd"),
    "environment": ("read", "/proc/self/environ"),
    **{
        f"{name}-{high:x}": ("ioctl_of", "0", str(high | number))
        for name, number in (("tiocsti", 0x5412), ("tioclinux", 0x541C), ("tiocsetd", 0x5423))
        for high in HIGH
    },
    "foreground": ("ioctl_of", "0", "0x540f"),  # TIOCGPGRP
}


@contextlib.contextmanager
def started(slave: int, options: tuple[str, ...], program: str) -> Iterator[subprocess.Popen[bytes]]:
    """`nstool run` of the probe on a terminal, of which no fd is left here; killed when the block fails."""
    command = [NSTOOL, "run", *options, "--", program]
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def in_a_terminal(options: tuple[str, ...], program: str) -> tuple[dict[str, Answer], dict[str, Any]]:
    """Ask the questions of a command that `nstool run` starts from a terminal; also what the terminal is outside."""
    master, slave = os.openpty()
    settings = termios.tcgetattr(slave)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    status = os.fstat(slave)
    with started(slave, options, program) as process:
        found = {name: _asked(master, words) for name, words in QUESTIONS.items()}
        os.write(master, b"\4")
        process.wait(SECONDS)
    os.close(master)
    return found, {"inode": f"{status.st_dev} {status.st_ino}"}


def _asked(master: int, words: tuple[str, ...]) -> Answer:
    os.write(master, ("\t".join(words) + "\n").encode())
    text, deadline = "", time.monotonic() + SECONDS
    while "}\r\n" not in text.rpartition('{"value"')[2]:  # before it may stand an echo
        assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], text
        text += os.read(master, 4096).decode(errors="replace")
    line = text[text.rindex('{"value"') :].strip()
    return answer(json.loads(line))


@pytest.fixture
def asked(actor: Actor, program: str) -> tuple[dict[str, Answer], dict[str, Any]]:
    return actor.act(in_a_terminal, NO_LIMITS if actor.name == "user" else (), program)


def test_the_terminal_is_its_own(asked: tuple[dict[str, Answer], dict[str, Any]]) -> None:
    """Another than the caller's, the only one in /dev/pts; no character is typed into any, whatever the high half."""
    found, outside = asked
    assert found["name"].text == "/dev/pts/0"
    assert found["list"].text.split() == ["0", "ptmx"] or found["list"].text.split() == ["ptmx", "0"]
    assert found["own"].text.split()[-2:] != outside["inode"].split()
    assert found["terminal"].error == ""
    assert [name for name, got in found.items() if name.startswith("tio") and got.error != "EPERM"] == []
    assert found["foreground"].error == ""  # of its own one other requests are answered
    assert found["fds"].text.split() == ["0", "1", "2", "3"]
    parent, group, session, _ = map(int, found["ids"].text.split())
    assert parent == group == session  # the command leads a session, in which its terminal is
    words = {word.split("=")[0] for word in found["environment"].text.split("\0") if word}
    assert words <= {"PATH", "TERM"}


def test_without_one_of_its_own_it_is_the_callers(actor: Actor, program: str) -> None:
    """The mutation: --terminal never."""
    options = ("--terminal", "never", *(NO_LIMITS if actor.name == "user" else ()))
    found, outside = actor.act(in_a_terminal, options, program)
    assert found["own"].text.split()[-2:] == outside["inode"].split()


@pytest.mark.orphans
@pytest.mark.parametrize("way", ["hang up", "kill"])
def test_everything_ends_with_the_terminal(way: str, actor: Actor, program: str) -> None:
    """Its window is closed, or the launcher killed: daemons too, which had left the session."""
    assert actor.act(ended, way, NO_LIMITS if actor.name == "user" else (), program) == []


def ended(way: str, options: tuple[str, ...], program: str) -> list[int]:
    master, slave = os.openpty()
    with started(slave, options, program) as process:
        _asked(master, ("daemon",))
        inside = with_daemon(process.pid)
        pidfds = [os.pidfd_open(pid) for pid in inside]
        if way == "kill":
            process.kill()
        else:
            os.close(master)
        process.wait(SECONDS)
    if way == "kill":
        os.close(master)
    alive = [pid for pid, fd in zip(inside, pidfds, strict=True) if not select.select([fd], [], [], SECONDS)[0]]
    for fd in pidfds:
        os.close(fd)
    if way == "kill":
        subprocess.run([NSTOOL, "cleanup"], check=True, stdout=subprocess.DEVNULL)
    return alive


def with_daemon(launcher: int) -> list[int]:
    """The processes of the sandbox: init, the command, its daemon; no longer the one that ended at once."""
    deadline = time.monotonic() + SECONDS
    while len(inside := [p.pid for p in processes.descendants(launcher) if p.state != "Z"]) != 3:
        assert time.monotonic() < deadline, inside
    return inside
