"""What is wrong with a spec file is told with file, line and key, whenever it is found; by run and check alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.prefix) / "bin"
BAD, CANNOT = 2, 125

pytestmark = pytest.mark.needs("root", "native", "nsexec")

Ran = tuple[int, str, str]


def nstool(*words: str) -> Ran:
    """Status, first line and everything that was said."""
    done = subprocess.run([str(BIN / "nstool"), *words], capture_output=True, text=True, timeout=60)
    text = (done.stderr or done.stdout).removeprefix("nstool: ")
    assert "Traceback" not in text
    return done.returncode, text.partition("\n")[0], text


COMMANDS = (("run",), ("check",), ("plan",), ("compile", "-o", "/nowhere/plan"))


def everywhere(*words: str) -> dict[str, Ran]:
    """What each command that takes a spec says."""
    return {command[0]: nstool(*command, *words, "--", "true") for command in COMMANDS}


# The spec without its command; what the message begins with behind "FILE:".
WRONG = [
    ('mask_paths = ["/etc",\n  "/nowhere/x"]', "2: mask_paths[1]: /nowhere/x does not exist in the root"),
    ('\nreadonly_paths = ["/nowhere/x"]', "2: readonly_paths[0]: /nowhere/x does not exist in the root"),
    ('\n\nuser = "nobody-here"', "3: user: /etc/passwd has no 'nobody-here'"),
    ('\ngroups = ["nobody-here"]', "2: groups: /etc/group has no 'nobody-here'"),
    ('user = "7"\nuid_map = ["0:1000:1"]\ngid_map = ["0:1000:1"]', "1: user: user 7 is not in uid_map"),
    ('[[mounts]]\nsource = "/etc"\ntarget = "/tmp/x"\n\n[[mounts]]\nsource = "/nowhere"\ntarget = "/tmp/y"',
     "6: mounts[1].source: /nowhere does not exist on this host"),
    ('[[mounts]]\nsource = "/etc"\ntarget = "/usr/no/x"', "3: mounts[0].target: /usr/no/x does not exist"),
    ('mounts = [\n "/etc:/tmp/a",\n "/etc:/etc/hostname"]', "3: mounts[1].target: /etc/hostname is a file"),
    ('mounts = ["/etc/hostname:/tmp/a",\n "/etc:/tmp/ab", "/etc:/tmp/a/b/c"]',
     "2: mounts[2].target: /tmp/a/b/c cannot lie below /tmp/a: mounts[0] puts a file there, /etc/hostname"),
    ('[root]\npath = "/nowhere"\ntype = "directory"', "2: root.path: /nowhere does not exist on this host"),
    ('[root]\npath = "/etc/hostname"\ntype = "directory"', "2: root.path: /etc/hostname is no directory"),
    ('[root]\ntype = "overlay"\nlower = ["/",\n"/nowhere"]', "4: root.lower[1]: /nowhere does not exist"),
    ('[root]\ntype = "overlay"\nlower = ["/"]\nwritable = true\nupper = "/nowhere"',
     "5: root.upper: /nowhere does not exist"),
    ('user = "web"\n[root]\ntype = "tmpfs"', "1: user: a root of type tmpfs has no passwd file"),
    ('[namespaces]\nuts = "/nowhere/uts"', "2: namespaces.uts: /nowhere/uts: No such file or directory"),
    ('[namespaces]\nipc = 4194303', "2: namespaces.ipc: there is no process 4194303"),
    ('[namespaces]\nuser = "/proc/self/ns/user"', "2: namespaces.user: a new pid namespace would belong"),
    ('[namespaces]\nnet = "/dev/zero"', "2: namespaces.net: /dev/zero is no namespace"),
    ('\nnamespaces.net = 4194303', "2: namespaces.net: there is no process 4194303"),
    ('[net]\nmode = "join"\ntarget = "nosuch"', "3: net.target: no sandbox and no named network namespace is called"),
    ('[net]\ntarget = "/proc/self/ns/uts"\nmode = "join"', "2: net.target: /proc/self/ns/uts is a namespace of"),
    ('[net]\ntarget = "/etc/hostname"\nmode = "join"', "2: net.target: /etc/hostname is no namespace"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_found_while_planning_has_its_line(text: str, message: str, tmp_path: Path) -> None:
    """Every command that takes a spec names the place, does nothing, and says it in one line with status 2."""
    file = tmp_path / "web.toml"
    file.write_text(text)
    for command, (status, first, said) in everywhere(str(file)).items():
        assert (status, said.count("\n")) == (BAD, 1), (command, said)
        assert first.startswith(f"{file}:{message}"), (command, first)


OPTIONS = [
    (("--mask-path", "/nowhere/x"), "--mask-path: /nowhere/x does not exist in the root"),
    (("--readonly-path", "/nowhere/x"), "--readonly-path: /nowhere/x does not exist in the root"),
    (("--user", "nobody-here"), "--user: /etc/passwd has no"),
    (("--groups", "nobody-here"), "--groups: /etc/group has no"),
    (("--mount", "/etc:/usr/no/x"), "--mount: /usr/no/x does not exist in the root"),
    (("--mount", "/nowhere:/tmp/x"), "--mount: /nowhere does not exist on this host"),
    (("--root", "/nowhere"), "--root: /nowhere does not exist on this host"),
    (("--root", "/usr:/etc", "--writable", "--upper", "/nowhere"), "--upper: /nowhere does not exist"),
    (("--net", "join:nosuch"), "--net: no sandbox and no named network namespace is called 'nosuch'"),
    (("--net", "join:/nowhere/net"), "--net: /nowhere/net: No such file"),
    (("--net", "join:99999999"), "--net: there is no process 99999999"),
    (("--namespaces", "uts=/nowhere/uts"), "--namespaces: /nowhere/uts: No such file"),
    (("--namespaces", "user=/proc/self/ns/user"), "--namespaces: a new pid namespace would belong"),
]


@pytest.mark.parametrize(("words", "message"), OPTIONS, ids=[" ".join(words) for words, _ in OPTIONS])
def test_what_is_found_while_planning_names_the_option(words: tuple[str, ...], message: str) -> None:
    """Where an option asked for it, the option is named, not the key."""
    for command, (status, first, said) in everywhere(*words).items():
        assert (status, said.count("\n")) == (BAD, 1), (command, said)
        assert first.startswith(message), (command, first)


def test_a_mount_that_an_option_replaces_keeps_the_lines_of_the_others(tmp_path: Path) -> None:
    """The file's second mount is told by its own line, though the first is an option's now."""
    file = tmp_path / "web.toml"
    file.write_text('mounts = [\n "/etc:/tmp/a",\n "/nowhere:/tmp/b"]')
    for command, (status, first, _) in everywhere("--mount", "/usr:/tmp/a", str(file)).items():
        assert (status, first) == (BAD, f"{file}:3: mounts[1].source: /nowhere does not exist on this host"), command


# What an ordinary user's host cannot do: the spec, and what the message begins with.
NOT_HERE = [
    ('\nnet.mode = "veth"', '2: net.mode "veth": not possible on this host'),
    ('[net]\nmode = "veth"\nipv6 = false', '2: net.mode "veth": not possible on this host'),
    ('\nno_new_privs = false\ncapabilities = ["sys_admin"]', "2: no_new_privs = false, with a seccomp filter: not"),
    ('[root]\ntype = "directory"\npath = "/usr"\nidmap = true', "4: root.idmap: not possible on this host"),
    ('\nmounts = ["/etc:/tmp/x:idmap"]', "2: mounts[0].idmap: not possible on this host"),
]


@pytest.mark.parametrize(("text", "message"), NOT_HERE, ids=[message for _, message in NOT_HERE])
def test_what_this_host_cannot_do_has_its_line_too(
    text: str, message: str, as_user: Callable[..., Any], name: str
) -> None:
    """Status 125 from all, with cause and remedy, for the same place."""

    def ask() -> dict[str, Ran]:
        file = Path(name + ".toml")  # the home is that of all workers
        file.write_text(text)
        try:
            return everywhere("--memory", "0", "--pids", "0", "--cpu", "0", str(file))
        finally:
            file.unlink()

    answers = as_user(ask)
    if "veth" in text:
        for command in ("plan", "compile"):  # one leases, the other needs no link: other answers
            answers.pop(command)
    for command, (status, first, said) in answers.items():
        assert status == CANNOT, (command, said)
        assert first.startswith(f"{name}.toml:{message}"), (command, first)
        assert "\ncause: " in said, said
        assert "\nremedy: " in said, said


def test_a_bad_spec_is_one_also_where_the_host_cannot(as_user: Callable[..., Any]) -> None:
    """What no host could do comes first: run and check agree on the status."""

    def ask() -> dict[str, Ran]:
        return everywhere("--net", "veth", "--memory", "0", "--pids", "0", "--cpu", "0", "--mask-path", "/nowhere/x")

    answers = as_user(ask)
    assert answers["run"] == answers["check"]
    assert answers["run"][0] == BAD
