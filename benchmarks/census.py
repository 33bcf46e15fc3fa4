#!/usr/bin/env python3
"""Measure ``nstool ls`` beside lsns(8) where many processes are in many sandboxes. As root.

    census.py [--sandboxes N] [--processes N] [--rounds N]

Each sandbox has eight namespaces of its own, each process some open files, two of them sockets. lsns looks at neither
files nor bind mounts of others. The tools run in turn, so that what else runs on the machine disturbs all alike. A
quarter and half of the sandboxes are measured first: what takes twice as long for twice as many is linear.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from measure import Claim, Sample, interleave, table

NSTOOL = str(Path(sys.executable).parent / "nstool")
TOOLS = {"lsns": ["lsns"], "nstool ls": [NSTOOL, "ls"], "nstool ls --json": [NSTOOL, "ls", "--json"]}
NEW = 0x10000000 | 0x20000 | 0x04000000 | 0x08000000 | 0x40000000 | 0x20000000 | 0x02000000 | 0x80
FILES, SOCKETS = 5, 2  # of each process, beside the standard streams
LIMIT = 1.5
PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def crowd(sandboxes: int, processes: int) -> Iterator[None]:
    """So many sandboxes with so many processes each, which sleep until the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, tell = os.pipe()
    end, ending = os.pipe()
    for _ in range(sandboxes):
        if os.fork() == 0:
            os.close(ending)
            if libc.unshare(ctypes.c_int(NEW)):
                os.write(tell, b"!" * processes)
                os._exit(1)
            for _ in range(processes):
                if os.fork() == 0:
                    libc.prctl(PR_SET_PDEATHSIG, 0)
                    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(FILES)]
                    held += [socket.socket(socket.AF_UNIX).detach() for _ in range(SOCKETS)]
                    os.write(tell, b"." if held else b"")
                    os.read(end, 1)
                    os._exit(0)
            os.read(end, 1)
            os._exit(0)
    os.close(end)
    try:
        told = b""
        while len(told) < sandboxes * processes:
            told += os.read(ready, 4096)
        if b"!" in told:
            sys.exit("census.py: no namespaces may be made here; run it as root")
        yield
    finally:
        os.close(ending)
        for _ in range(sandboxes):
            os.wait()
        os.close(ready)
        os.close(tell)


def once(command: list[str]) -> Sample:
    """Run a command: wall and CPU time in milliseconds, the most memory in MiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    # lsns ends with status 1 when a process ends while it is read.
    if process.returncode and command[0] != "lsns":
        sys.exit(f"census.py: {' '.join(command)} ended with status {process.returncode}")
    return {"wall": [wall * 1e3], "cpu": [(used.ru_utime + used.ru_stime) * 1e3], "memory": [used.ru_maxrss / 1024]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sandboxes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=10, help="of each")
    parser.add_argument("--rounds", type=int, default=15)
    words = parser.parse_args()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    rows = []
    for sandboxes in (words.sandboxes // 4, words.sandboxes // 2, words.sandboxes):
        with crowd(sandboxes, words.processes):
            measured = interleave({name: lambda c=command: once(c) for name, command in TOOLS.items()}, words.rounds)
        for name in TOOLS:
            least, median = measured.min(name, "cpu"), measured.median(name, "cpu")
            wall, memory = measured.min(name), measured.all(name, "memory")[-1]
            many = sandboxes * words.processes
            rows.append([name, f"{many}", f"{wall:.0f}", f"{least:.0f}", f"{median:.0f}", f"{memory:.0f}"])
    print(table(["", "processes", "wall min ms", "cpu min ms", "cpu median ms", "memory MiB"], rows), end="\n\n")
    others = [name for name in TOOLS if name != "lsns"]
    print(measured.claims([Claim(name, "lsns", LIMIT, metric) for name in others for metric in ("wall", "cpu")]))


if __name__ == "__main__":
    main()
