"""Sandboxes for the tests of the mission's rows: run one to its end, or keep one open and ask inside."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nstool.sandbox.launch import Sandbox, launch
from nstool.spec.model import Limits, Namespaces, Spec
from tests.support import kernel
from tests.support.probes import REPOSITORY

NSTOOL = (sys.executable, "-m", "nstool.cli.main")
END = "--- end of answer ---"
# What needs no cgroup, so that it can be had without delegation.
UNLIMITED = Limits(memory=0, pids=0, cpu=0)
NAMES = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")

_names: Iterator[str] = iter(())


def name_boxes(prefix: str) -> None:
    """Let the sandboxes from now on have names of a test, with a number behind."""
    global _names
    _names = (f"{prefix}-{number}" for number in itertools.count(1))


@contextmanager
def named_netns(name: str) -> Iterator[str]:
    """A named network namespace, in a mount namespace of the caller's: ip-netns(8) leaves a mount on /run/netns."""
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("none", "/run", "tmpfs", data="mode=0755")
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


class Ran(NamedTuple):
    """How a command ended: exit status, what it wrote."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def spec(*command: str, **changes: Any) -> Spec:
    """Return a spec with the safe defaults; without cgroups unless limits says otherwise."""
    words: dict[str, Any] = {"command": command, "limits": UNLIMITED, "name": next(_names), **changes}
    return Spec(**words)


def run(*command: str, **changes: Any) -> Ran:
    """Run a command to its end in a sandbox, by the library."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        try:
            with launch(spec(*command, **changes), stdin=null, stdout=out, stderr=err) as sandbox:
                ended = sandbox.wait()
        finally:
            os.close(null)
        return Ran(ended.status, _content(out), _content(err))
    finally:
        os.close(out)
        os.close(err)


def shell(script: str, **changes: Any) -> str:
    """Return what a shell script writes in a sandbox; fails unless it ends with 0 and writes no error."""
    ran = run("/bin/sh", "-c", script, **changes)
    assert (ran.status, ran.err) == (0, ""), ran
    return ran.out


def _content(fd: int) -> str:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, closefd=False, errors="replace") as file:
        return file.read()


def nstool(*words: str, stdin: str = "", seconds: float = 30) -> Ran:
    """Run a command line of nstool to its end."""
    done = subprocess.run(
        [*NSTOOL, *words], input=stdin, capture_output=True, text=True, timeout=seconds, env={**os.environ, **PATH}
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def nstool_run(*words: str) -> Ran:
    """nstool run, without cgroups."""
    return nstool("run", "--memory", "0", "--pids", "0", "--cpu", "0", *words)


PATH = {"PYTHONPATH": str(REPOSITORY)}


class Box:
    """A running sandbox whose command is a shell that answers."""

    def __init__(self, sandbox: Sandbox, to: int, answers: Any) -> None:
        self.sandbox = sandbox
        self._to = to
        self._answers = answers

    @property
    def pid(self) -> int:
        return self.sandbox.pid

    def ask(self, script: str) -> str:
        """Return what a line of shell writes inside, errors too."""
        os.write(self._to, f"{{ {script}\n}} 2>&1; echo '{END}'\n".encode())
        lines = []
        while (line := self._answers.readline()) != END + "\n":
            assert line, f"the shell has ended: {lines}"
            lines.append(line)
        return "".join(lines)


@contextmanager
def box(shell: str = "/bin/sh", **changes: Any) -> Iterator[Box]:
    """A sandbox that lives as long as the block."""
    command = changes.pop("command", (shell,))
    inner_in, to = os.pipe()
    answers, inner_out = os.pipe()
    with open(answers) as reader:
        try:
            try:
                sandbox = launch(spec(*command, **changes), stdin=inner_in, stdout=inner_out)
            finally:
                os.close(inner_in)
                os.close(inner_out)
            with sandbox:
                found = Box(sandbox, to, reader)
                found.ask(":")  # launch returns while execve(2) is still putting the new credentials into force
                yield found
        finally:
            os.close(to)


def shared(*names: str) -> Namespaces:
    """Namespaces with these as the host's."""
    return Namespaces(**dict.fromkeys(names, "host"))


def inode(pid: int | str, kind: str) -> str:
    """Return "uts:[4026531838]" of a process."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def status(pid: int | str) -> dict[str, str]:
    """Return /proc/PID/status as a table. proc_pid_status(5)."""
    return parsed(Path(f"/proc/{pid}/status").read_text())


def parsed(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


class MountLine(NamedTuple):
    """One line of mountinfo. options: of the mount; fields: the optional ones. proc_pid_mountinfo(5)."""

    root: str
    point: str
    options: set[str]
    fields: set[str]
    type: str
    source: str
    superblock: set[str]


def mounts(pid: int | str) -> dict[str, MountLine]:
    """Return mount point to its line, the topmost; the paths as the process sees them."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        _, _, _, root, point, options, *fields = before.split()
        kind, source, superblock = after.split()
        found[point] = MountLine(
            root, point, set(options.split(",")), set(fields), kind, source, set(superblock.split(","))
        )
    return found
