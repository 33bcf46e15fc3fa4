"""Every example runs, as root and as an ordinary user, says what it promises, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SECONDS = 60.0

# Chapter to lines (or parts of lines) that its example prints, as root and as an ordinary user alike.
CHAPTERS: dict[str, tuple[str, ...]] = {
    "chapter3_namespaces": (
        "/proc/self/ns/time ",
        "pid of its first child             1\n",
        "host name joined\n",
        "host name kept\n",
    ),
    "chapter3_see": (
        "a process                          net:[",
        ", processes: 0, kept by fd ",
        "the fd is closed                   gone\n",
        "the file, seen from here           0 bytes, an ordinary file\n",
        "the network namespace's owner      user:[",
        ", processes: 0, kept by 1 owned\n",
    ),
    "chapter4_user": (
        "uid before the map                 65534",
        "uid and gid inside                 (0, 0)\n",
        "CapAmb                             net_bind_service\n",
        "unset a locked securebit           prctl(PR_SET_SECUREBITS, 0, 0, 0, 0): Operation not permitted (EPERM)\n",
        "uid inside, by its uid_map         1000\n",
    ),
    "chapter4_capabilities": (
        "really:    permitted, effective    all of the bounding set; all of the bounding set\n",
        "P'(permitted) = (P(inheritable) & F(inheritable)) | (F(permitted) & P(bounding))\n",
        "predicted: permitted, effective    net_raw; net_raw\n",
        "really                             EPERM\n",
    ),
    "chapter4_who_can": (
        "child signals maker                yes: check_kill_permission\n",
        "child looks into maker             no (EACCES): cap_ptrace_access_check\n",
        "the child has tried both           done, Permission denied\n",
        "mounts in the host's               no (EPERM): may_mount\n",
        "mounts in its own namespaces       yes: may_mount\n",
    ),
    "chapter5_uts": (
        "after sethostname, setdomainname   box example\n",
        'sethostname in the old uts         sethostname("mine", 4): Operation not permitted (EPERM)\n',
        "in 'old'      old i686 example\n",
    ),
    "chapter6_mnt": (
        "shared: we see the copy's          True\n",
        "slave: we see the copy's           False\n",
        "writing to it                      [Errno 30]",
        "overlay, a file replaced inside    ['changed']\n",
        "upper/new                          kept\n",
        "/usr                               the same one\n",
    ),
    "chapter6_propagation": (
        "/tmp/a/b, mount",
        "group 1, slaves                    /tmp/a (copy)\n",
        "group 2, is a slave of             group 1\n",
        "step 1                             /mnt/link is a symlink to ../mnt/logs\n",
        "here it is                         /tmp/data/logs/today\n",
        "our file is there                  /mnt/logs/today\n",
        "our /tmp/elsewhere is not there    this mount is covered\n",
    ),
    "chapter8_ipc": (
        "after making some                  shm:0 sem:0 msg:0 mq:/jobs\n",
        "semaphores of key 0x1234 outside   none\n",
        "the segment                        65536 bytes, made by the child\n",
        "left                               none\n",
        "sem:7                              there is no semaphore set 7 in this ipc namespace\n",
        "shmmni outside                     another\n",
        "a third queue                      msgget(0, IPC_CREAT, 0600): No space left on device (ENOSPC)\n",
    ),
    "chapter7_pids": (
        "getpid() inside                    1\n",
        "level 3                            1, group 1, session 1\n",
        "its thread, inside                 tid 2 of process 1\n",
        "1 in there is, here                the process that we started\n",
        "no number: it is nested below that",
    ),
    "chapter9_net": (
        "devices                            lo (down)\n",
        "its other end                      far, in the second namespace\n",
        "who lives there                    the second process\n",
        "route of the second                10.9.0.0/24 dev far\n",
        "listening in the second            0.0.0.0:8080\n",
        "here                               42, in a fresh one 64\n",
        "in the second                      as in a fresh one\n",
    ),
}
# What only root can do, and what only an ordinary user meets.
ROOT_ONLY = {
    "chapter4_capabilities": "really,    SECBIT_KEEP_CAPS        all of the bounding set\n",
    "chapter3_namespaces": "uname -n, entered                  pinned\n",
    "chapter4_who_can": "maker enters net alone             yes: netns_install\n",
    "chapter6_mnt": "writable, idmap                    owner inside 0, a new file: written\n",
}
USER_ONLY = {
    "chapter3_see": " processes could not be looked into",
    "chapter4_capabilities": "left out                           an ordinary user has one id",
    "chapter3_namespaces": "left out                           a bind mount",
    "chapter4_user": "gid_map before setgroups           [Errno 1]",
    "chapter4_who_can": "maker enters net alone             no (EPERM): netns_install\n",
    "chapter6_mnt": "writable, idmap                    left out",
}


def run_example(name: str) -> tuple[int, str]:
    """Return the exit status of an example and what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    return done.returncode, done.stdout


def missing(name: str, text: str, only: dict[str, str]) -> list[str]:
    """Return the lines that the example of a chapter should have printed and did not."""
    wanted = (*CHAPTERS[name], *((only[name],) if name in only else ()), "nothing is left behind\n")
    return [line for line in wanted if line not in text]


@pytest.mark.needs("root", "native", "nsexec", "overlay", "timens")
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_as_root(name: str) -> None:
    """The example of a chapter ends well and prints what the kernel says."""
    status, text = run_example(name)
    if kernel.release() < (6, 16):  # nothing tells whether a process of root's is dumpable, nor then the errno
        text = re.sub(r"(child looks into maker +)no: ", r"\1no (EACCES): ", text)
    assert (status, missing(name, text, ROOT_ONLY)) == (0, []), text


@pytest.mark.needs("user", "userns", "native", "nsexec", "newuidmap", "timens")
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_as_ordinary_user(as_user: Callable[..., Any], name: str) -> None:
    """The same as an ordinary user; what the kernel keeps for root is named and left out."""
    status, text = as_user(run_example, name, timeout=SECONDS)
    assert (status, missing(name, text, USER_ONLY)) == (0, []), text


def test_every_chapter_has_its_test() -> None:
    """No example of a chapter goes untested."""
    assert {path.stem for path in EXAMPLES.glob("chapter*.py")} == set(CHAPTERS)


@pytest.mark.needs("root", "native", "nsexec", "veth", "nft", "nat", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.xdist_group("port-8480")
def test_web_service() -> None:
    """The service of `make run` serves its files through the published port, shows what isolates it, leaves nothing."""
    status, text = run_example("web_service")
    assert status == 0, text
    assert "ended with" in text
    for what in ("link", "cgroups", "run directory", "processes"):
        assert f"{what:14} nothing" in text, text
    assert re.findall(r"^(\d)\. \w", text, re.MULTILINE) == list("1234567"), text


@pytest.mark.needs("user", "native")
def test_web_service_as_ordinary_user(as_user: Callable[..., Any]) -> None:
    """What make run cannot do for somebody is said in words that are of use there."""
    status, text = as_user(run_example, "web_service", timeout=SECONDS)
    assert (status, text) == (1, "web_service: run it as root: a veth pair and a published port need that\n")


@pytest.mark.needs("root", "native", "nsexec", "landlock", "cgroup_memory", "cgroup_pids")
def test_landlock_spec() -> None:
    """What the spec names can be done, and what it does not name is refused, though its modes allow it."""
    words = [sys.executable, "-m", "nstool.cli.main", "run", str(EXAMPLES / "landlock.toml")]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (0, "/usr/bin/env\nkept\n")
    refused = [line for line in done.stderr.splitlines() if line.endswith("Permission denied")]
    assert [path for path in ("/var/tmp/work", "/proc/self/status") if any(path in line for line in refused)] == [
        "/var/tmp/work",
        "/proc/self/status",
    ]
    assert len(refused) == len(done.stderr.splitlines())


PROGRAMS = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "docs/library.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.needs("root", "native", "nsexec", "veth", "nft")
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_program_of_the_library(number: int) -> None:
    """Every program in docs/library.md runs to its end, and prints what its comments say in quotes."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[number]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [text for text in re.findall(r"# (b'.*')$", PROGRAMS[number], re.MULTILINE) if text not in done.stdout] == []
