"""Rows UT1 and S5: host name, domain name, machine; address-space randomisation."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from nstool.errors import NotSupported, SpecError
from nstool.sandbox import features
from nstool.sandbox.launch import launch
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support import kernel

pytestmark = pytest.mark.vm

ADDR_NO_RANDOMIZE = 0x0040000
PER_LINUX32 = 0x0008


def test_names_stay_inside(act: Act) -> None:
    """Host and domain name are those of the spec inside, and unchanged outside. uts_namespaces(7)."""
    before = os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()

    def look() -> str:
        with boxes.box(hostname="box.example", domainname="example.nis") as box:
            assert (os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text()) == before
            return box.ask("uname -n; cat /proc/sys/kernel/domainname")

    assert act(look) == "box.example\nexample.nis\n"


def test_the_hosts_name_does_not_show(act: Act, name: str) -> None:
    """Without a word the host name is the sandbox's name, and there is no domain."""

    def look() -> tuple[str, str]:
        with boxes.box() as box:
            return box.ask("uname -n; cat /proc/sys/kernel/domainname"), box.sandbox.name

    shown, sandbox = act(look)
    assert shown == f"{sandbox}\n(none)\n"
    assert sandbox.startswith(name)


@pytest.mark.needs("root")
def test_seen_from_outside_by_joining(in_child: Act) -> None:
    """Who joins the uts namespace by setns sees the name: another road than the command's."""

    def look() -> str:
        with boxes.box(hostname="joined") as box, open(f"/proc/{box.pid}/ns/uts") as file:
            assert kernel._libc.setns(file.fileno(), 0) == 0
            return socket.gethostname()

    assert in_child(look) == "joined"


def test_names_of_the_command_line(act: Act) -> None:
    """--hostname and --domainname."""
    words = ["--hostname", "h", "--domainname", "d"]
    ran = act(boxes.nstool_run, *words, "--", "sh", "-c", "hostname; cat /proc/sys/kernel/domainname")
    assert ran == (0, "h\nd\n", "")


def test_a_command_cannot_change_the_name(act: Act) -> None:
    """It has no capability for it, as root inside either."""
    ran = act(boxes.run, "hostname", "other", user="0:0")
    assert ran.status == 1
    assert "must be root" in ran.err or "not permitted" in ran.err


@pytest.mark.parametrize("words", [{"hostname": "a" * 65}, {"hostname": "a b"}])
def test_wrong_names_are_refused(act: Act, words: dict[str, str]) -> None:
    """Too long, or not a name."""

    def ask() -> str:
        with pytest.raises(SpecError) as refused:
            launch(boxes.spec("true", **words))
        return refused.value.place

    assert act(ask) == "hostname"


def test_the_hosts_uts_namespace_takes_no_name(act: Act) -> None:
    """A host name needs a new uts namespace: status 2, both halves named."""
    ran = act(boxes.nstool, "run", "--share", "uts", "--hostname", "h", "--", "true")
    assert ran.status == 2
    assert "new uts namespace" in ran.err


def personality(pid: int) -> int:
    return int(Path(f"/proc/{pid}/personality").read_text(), 16)


def test_the_machine_that_uname_names(act: Act) -> None:
    """linux32: a 32-bit machine, as personality(2) says."""

    def look() -> tuple[str, int]:
        with boxes.box(personality="linux32") as box:
            return box.ask("uname -m"), _as_owner(box)

    machine, persona = act(look)
    assert machine == "i686\n"
    assert persona & 0xFF == PER_LINUX32


def _as_owner(box: boxes.Box) -> int:
    # /proc/PID/personality asks for rights over the process, so root looks from outside, others from inside.
    if os.geteuid() == 0:
        return personality(box.pid)
    return int(box.ask("cat /proc/self/personality"), 16)


def test_randomisation_off_gives_the_same_addresses(act: Act) -> None:
    """The flag is set, and the stack lies at one address every time."""

    def look() -> tuple[int, set[str]]:
        with boxes.box(aslr="off") as box:
            stacks = {box.ask("grep -F '[stack]' /proc/self/maps | cut -d- -f2 | cut -d' ' -f1") for _ in range(4)}
            return _as_owner(box), stacks

    persona, stacks = act(look)
    assert persona & ADDR_NO_RANDOMIZE
    assert stacks == {"7ffffffff000\n"}


@pytest.mark.parametrize("word", ["on", ""])
def test_randomisation_on_gives_others(act: Act, word: str) -> None:
    """Also when the caller has it off: that is not inherited, with the word or without."""

    def look(off: bool) -> tuple[int, int]:
        if off:
            kernel._libc.personality(ADDR_NO_RANDOMIZE)
        with boxes.box(aslr=word) as box:
            stacks = {box.ask("grep -F '[stack]' /proc/self/maps | cut -d- -f2 | cut -d' ' -f1") for _ in range(6)}
            return _as_owner(box) & ADDR_NO_RANDOMIZE, len(stacks)

    flag, stacks = act(look, False)
    assert flag == 0
    assert stacks > 1
    flag, stacks = act(look, True)
    assert (flag, stacks > 1) == (0, True)


@pytest.mark.parametrize("word", ["on", "off"])
def test_randomisation_that_the_host_lacks_is_refused(as_root: Act, tmp_path: Path, word: str) -> None:
    """Where kernel.randomize_va_space is 0 (a file over it says so here), "on" would be no more than a word."""
    (tmp_path / "zero").write_text("0\n")

    def ask() -> tuple[str, list[str]]:
        kernel.unshare(kernel.CLONE_NEWNS)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", tmp_path / "zero", "/proc/sys/kernel/randomize_va_space"], check=True)
        states = [f.state for f in features._security() if f.name == "address randomisation"]
        if word == "off":
            boxes.run("true", aslr=word, proc="bind")
            return "", states
        with pytest.raises(NotSupported) as refused:
            launch(boxes.spec("true", aslr=word))
        return refused.value.cause, states

    cause, states = as_root(ask)
    assert states == ["no"]
    assert ("randomize_va_space is 0" in cause) == (word == "on")


def test_randomisation_of_the_command_line(act: Act) -> None:
    """--aslr off."""
    ran = act(boxes.nstool_run, "--aslr", "off", "--", "cat", "/proc/self/personality")
    assert int(ran.out, 16) & ADDR_NO_RANDOMIZE
