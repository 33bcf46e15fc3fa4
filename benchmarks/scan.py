#!/usr/bin/env python3
"""Measure `nstool caps scan` beside find(1) and getcap(8), which it takes both of to find the same files.

    scan.py [--files N] [--rounds N] [--directory DIR] [--json FILE]

Makes a tree of N files, 50 in each directory, three levels deep, in a temporary directory of DIR (default: that of the
system); among them some that are set-user-ID, set-group-ID or have capabilities (root only). Each round runs every
program once, after one that fills the caches. Checks that all find the same. The tree is removed in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

EACH = 50  # files in a directory
EVERY = 10_000  # of files, one of these is privileged
NAME, CAP_NET_RAW = "security.capability", 13
BYTES = 600  # that an empty file and its share of a directory take, more than enough


class Run(NamedTuple):
    """One run of a program. Seconds; the most memory that it had, MiB; what it found."""

    wall: float
    cpu: float
    memory: float
    found: frozenset[bytes]


def room(directory: str, files: int) -> str:
    """Return why the tree does not fit, or ""."""
    free = os.statvfs(directory)
    if 0 < free.f_files < files or 0 < free.f_favail < files * 1.05:
        return f"{free.f_favail} files can be made in {directory}, {files} are wanted"
    if free.f_bavail * free.f_frsize < files * BYTES:
        return f"{free.f_bavail * free.f_frsize >> 20} MiB are free in {directory}, {files * BYTES >> 20} are wanted"
    return ""


def make(top: Path, files: int, progress: Progress) -> None:
    """Make the tree."""
    task = progress.add_task("making files", total=files)
    capability = struct.pack("<IIIII", 0x02000001, 1 << CAP_NET_RAW, 0, 0, 0)
    for number in range(0, files, EACH):
        unit = number // EACH
        directory = top / f"{unit // 400:03}" / f"{unit // 20 % 20:02}" / f"{unit % 20:02}"
        directory.mkdir(parents=True)
        fd = os.open(directory, os.O_RDONLY)
        for one in range(number, min(number + EACH, files)):
            name = f"file-{one:07}.txt"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd))
            if one % EVERY == 0:
                os.chmod(name, 0o4755, dir_fd=fd)
            elif one % EVERY == 1:
                os.chmod(name, 0o2755, dir_fd=fd)
            elif one % EVERY == 2 and os.geteuid() == 0:
                os.setxattr(f"/proc/self/fd/{fd}/{name}", NAME, capability)
        os.close(fd)
        progress.advance(task, EACH)


def run(command: list[str], found: Any) -> Run:
    """Run a program, its output to a file; found takes the paths out of that."""
    with tempfile.TemporaryFile() as output:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        memory = high_water(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        if status:
            sys.exit(f"{command[0]} ended with status {status}")
        output.seek(0)
        cpu = usage.ru_utime + usage.ru_stime
        return Run(wall, cpu, memory, frozenset(found(output.read())))


def high_water(pid: int) -> float:
    """Return the most memory, MiB, that a process has had, as last seen before it ended.

    Not ru_maxrss, which begins with what this process had when it forked.
    """
    pidfd, memory = os.pidfd_open(pid), 0.0
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll(20):
        with open(f"/proc/{pid}/status") as file:
            memory = next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:")), memory)
    os.close(pidfd)
    return memory


def programs(top: str) -> dict[str, tuple[list[str], Any]]:
    """Return name to (command, function that takes the paths out of what it prints)."""
    nstool = str(Path(sys.executable).parent / "nstool")
    return {
        "nstool caps scan": (
            [nstool, "caps", "scan", "--json", top],
            lambda text: (os.fsencode(item["path"]) for item in json.loads(text)["items"]),
        ),
        "find -xdev -perm /6000": (
            ["find", top, "-xdev", "-type", "f", "-perm", "/6000"],
            lambda text: text.splitlines(),
        ),
        "getcap -r": (["getcap", "-r", top], lambda text: (line.rpartition(b" ")[0] for line in text.splitlines())),
    }


def show(runs: dict[str, list[Run]], files: int) -> dict[str, float]:
    """Print a table of the minima and return the ratios of nstool to the two others together."""
    print(f"\n{files} files, best of {len(runs['getcap -r'])}; {platform.machine()}, Linux {platform.release()}\n")
    print(f"{'':24} {'wall s':>8} {'cpu s':>8} {'µs/file':>8} {'MiB':>8} {'found':>8}")
    best = {}
    for name, all_ in runs.items():
        wall, cpu = min(one.wall for one in all_), min(one.cpu for one in all_)
        memory, found = max(one.memory for one in all_), len(all_[0].found)
        best[name] = wall, cpu
        print(f"{name:24} {wall:8.2f} {cpu:8.2f} {wall / files * 1e6:8.2f} {memory:8.1f} {found:8}")
    both = [sum(best[name][n] for name in best if "nstool" not in name) for n in (0, 1)]
    ratios = {what: best["nstool caps scan"][n] / both[n] for n, what in enumerate(("wall", "cpu"))}
    print(
        f"\nnstool takes {ratios['wall']:.2f} of the time of the two others together, {ratios['cpu']:.2f} of their cpu"
    )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    parser.add_argument("--json", help="write every value to this file")
    options = parser.parse_args()
    if why := room(options.directory, options.files):
        sys.exit(f"no room: {why}; give --files or --directory")
    top = tempfile.mkdtemp(prefix="nstool-scan-", dir=options.directory)
    runs: dict[str, list[Run]] = {}
    try:
        with Progress() as progress:
            make(Path(top), options.files, progress)
            task = progress.add_task("searching", total=(options.rounds + 1) * len(programs(top)))
            for number in range(options.rounds + 1):
                for name, (command, found) in programs(top).items():
                    one = run(command, found)
                    if number:  # the first fills the caches
                        runs.setdefault(name, []).append(one)
                    progress.advance(task)
        ratios = show(runs, options.files)
        ours, *others = (all_[0].found for all_ in runs.values())
        if ours != frozenset().union(*others):
            sys.exit(f"not the same found: {sorted(ours ^ frozenset().union(*others))[:3]}")
        if options.json:
            values = {name: [one._replace(found=frozenset())[:3] for one in all_] for name, all_ in runs.items()}
            Path(options.json).write_text(json.dumps({"files": options.files, "runs": values, "ratios": ratios}))
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
