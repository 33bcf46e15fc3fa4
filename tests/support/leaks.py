"""What a test left behind: processes, mounts, fds, cgroups, links, firewall objects, run directory entries.

A snapshot is {kind: {key: sentence}}. A key names its thing for good, so that comparing the keys of
two snapshots tells what is new.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import kernel, probes, processes, user
from tests.support.workplace import Workplace, unescape

Key = tuple[Any, ...]
Snapshot = dict[str, dict[Key, str]]

SECONDS = 30.0  # a leak costs them, which there is none of

# linux/netlink.h, linux/netfilter/nfnetlink.h and nf_tables.h
NETLINK_NETFILTER = 12
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NFT_MSG_GETTABLE = 10 << 8 | 1


class LeakCheck:
    """Compares what there is now with what there was when it was made."""

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.before = self.look()

    def look(self) -> Snapshot:
        """Return all that a test could leave behind, as it is now."""
        return {
            "process": _processes(),
            "mount": _mounts(self.place),
            "file descriptor": _fds(),
            "cgroup": _cgroups(self.place),
            "link": _links(self.place),
            "firewall": _firewall(self.place),
            "run directory": _run_directories(self.place),
        }

    def new(self) -> Snapshot:
        """Return what was not there before."""
        now = self.look()
        return {
            kind: found
            for kind, things in now.items()
            if (found := {key: text for key, text in things.items() if key not in self.before[kind]})
        }

    def wait(self, seconds: float | None = None, *, orphans: bool = False) -> Snapshot:
        """Return what is still there when the kernel has had time to take down what goes by itself.

        A cgroup and the links of a dead network namespace outlive their last process by some milliseconds.
        seconds: SECONDS if not said. orphans: reap those that are dead, also those that die meanwhile.
        """
        deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
        pause = 0.002
        while left := self._new(orphans):
            if pause == 0:  # this was the last look, after the time was over
                break
            gc.collect()  # what only a cycle of references keeps open is no leak
            time.sleep(pause)
            pause = min(2 * pause, 0.1) if time.monotonic() < deadline else 0
        return left

    def _new(self, orphans: bool) -> Snapshot:
        if orphans:
            self._reap_orphans()
        return self.new()

    def _reap_orphans(self) -> None:
        """Wait for the dead processes that were handed to this one because their parent died."""
        for pid, _ in self.new().get("process", {}):
            process = processes.read(pid)
            if process is not None and process.state == "Z" and process.ppid == os.getpid():
                os.waitpid(pid, 0)

    def tidy(self, left: Snapshot) -> None:
        """End, detach and undo what was left: the next test must not trip over it."""
        for pid, _ in left.get("process", {}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # no child of this process: its parent waits for it
                os.waitpid(pid, 0)
        for _, point, _ in reversed(left.get("mount", {})):
            if Path(point).is_relative_to(self.place.own):
                kernel.umount(point, kernel.MNT_DETACH)
        if "run directory" in left:
            user.undo(self.place.own)
        for family, table in _script_tables(self.place):
            subprocess.run(["nft", "delete", "table", family, table], check=False)


def _script_tables(place: Workplace) -> list[tuple[str, str]]:
    """Tables of scripts of `nstool plan --sh`, each named after its link: no journal tells of them."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        return []
    rows = [line.split() for line in _nft("list", "tables").splitlines()]
    return [(family, name) for _, family, name in rows if name.startswith("nstool_sh_") and place.is_own(_link(name))]


def _link(table: str) -> str:
    return table.removeprefix("nstool_sh_").replace("_", "-")


def report(left: Snapshot) -> str:
    """Return the leaks as lines of text, one a thing."""
    return "\n".join(f"  {kind}: {text}" for kind, things in left.items() for text in things.values())


def _processes() -> dict[Key, str]:
    """Descendants of this process. As a child subreaper it is handed those whose parents died. prctl(2)."""
    return {(p.pid, p.start): f"{p}: {_command(p.pid)}" for p in processes.descendants(os.getpid())}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return ""


def _mounts(place: Workplace) -> dict[Key, str]:
    """Mounts of this mount namespace, but those in the directories of other workers. proc_pid_mountinfo(5)."""
    found: dict[Key, str] = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields = line.split()
            point, (fstype, source) = unescape(fields[4]), fields[fields.index("-") + 1 :][:2]
            if place.is_others(point):
                continue
            found[fields[0], point, source] = f"{fstype} {source} on {point}"
    return found


def _fds() -> dict[Key, str]:
    """Open file descriptors of this process."""
    found: dict[Key, str] = {}
    for name in os.listdir("/proc/self/fd"):
        # The fd that listed the directory is closed by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            found[int(name), target] = f"{name} -> {target}"
    return found


def _cgroups(place: Workplace) -> dict[Key, str]:
    """Directories of our sandboxes in all hierarchies."""
    return {
        (path,): path
        for point, _, _ in probes.cgroup_mounts()
        for path, _, _ in os.walk(point)
        if "nstool" in path and os.path.basename(path) != "nstool" and place.is_own(path)
    }


def _links(place: Workplace) -> dict[Key, str]:
    """Network devices of nstool in the network namespace that /sys shows."""
    found: dict[Key, str] = {}
    for name in os.listdir("/sys/class/net"):
        if name.startswith("ns-") and place.is_own(name):
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                found[name, Path(f"/sys/class/net/{name}/ifindex").read_text()] = name
    return found


def _firewall(place: Workplace) -> dict[Key, str]:
    """Objects and set elements in nft tables of nstool, where one may look."""
    if os.geteuid() != 0 or shutil.which("nft") is None or not _has_table():
        return {}
    found: dict[Key, str] = {}
    for entry in json.loads(_nft("--json", "list", "ruleset"))["nftables"]:
        for kind, thing in entry.items():
            if "nstool" in thing.get("table", thing.get("name", "")):
                for text in _words(kind, thing):
                    if place.is_own(text):
                        found[(text,)] = text
    return found


def _nft(*words: str) -> str:
    """Return what nft says; it gives up with EINTR where others change what it reads, and is asked again then."""
    while True:
        done = subprocess.run(["nft", *words], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        assert "Interrupted system call" in done.stderr, done


def _has_table() -> bool:
    """Whether an nft table has our name, by nfnetlink: nft takes forty times as long to say that there is none."""
    request = struct.pack("=IHHIIBBH", 20, NFT_MSG_GETTABLE, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, socket.AF_UNSPEC, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netfilter:
        netfilter.send(request)
        while True:
            data = netfilter.recv(1 << 16)
            if b"nstool" in data:
                return True
            at = 0
            while at < len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    return kind == NLMSG_ERROR  # nft says which
                at += -(-size // 4) * 4


def _words(kind: str, thing: dict[str, Any]) -> Iterator[str]:
    # Handles tell an object from an equal one made later; counters change by themselves.
    elements = thing.pop("elem", [])
    owner = " ".join(str(thing[key]) for key in ("family", "table", "chain", "name", "handle") if key in thing)
    expression = [part for part in thing.get("expr", []) if isinstance(part, dict) and "counter" not in part]
    yield f"{kind} {owner} {json.dumps(expression) if expression else ''}".rstrip()
    for element in elements:
        yield f"element of {kind} {owner}: {json.dumps(element)}"


def _run_directories(place: Workplace) -> dict[Key, str]:
    """The run directories, and what is in them."""
    tops = (place.run, place.user_runtime / "nstool")
    paths = (path for top in tops for path in (top, *top.glob("*"), *top.glob("*/*")))
    return {(str(path),): str(path) for path in paths if os.path.lexists(path)}
