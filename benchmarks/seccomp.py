#!/usr/bin/env python3
"""Measure what a list of system calls costs at each call. Needs gcc; no privilege.

    seccomp.py [--rounds N] [--chunks N] [LIST ...]

LIST: none, default, strict or a file. Since Linux 5.11 the kernel remembers which calls a filter allows whatever their
arguments, and does not ask it for these again; getppid is one. ioctl is asked for its arguments each time. All lists
run in turn, in processes of their own, so that what else runs on the machine disturbs all alike.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from pathlib import Path

from measure import HERE, Measured, Sample, interleave, machine, table

from nstool.security.seccomp_bpf import INSTRUCTION
from nstool.security.seccomp_read import program_of

CALLS = ("getppid", "ioctl")


def sample(program: Path, filter: Path, chunks: int) -> Sample:
    """Nanoseconds a call, of so many chunks of a thousand."""
    run = subprocess.run([program, filter, str(chunks)], capture_output=True, text=True, check=True)
    rows = [line.split() for line in run.stdout.splitlines()]
    return {call: [float(row[column]) for row in rows] for column, call in enumerate(CALLS)}


def show(measured: Measured, lengths: dict[str, int]) -> str:
    """Return the table: minima and medians, and their ratios to the first list."""
    first = next(iter(lengths))
    head = ["list", "instructions"]
    head += [f"{call} {what}" for call in CALLS for what in ("min ns", "median ns", "ratio of minima", "of medians")]
    rows = []
    for name, length in lengths.items():
        row = [name, str(length)]
        for call in CALLS:
            least, median = measured.min(name, call), measured.median(name, call)
            ratios = least / measured.min(first, call), median / measured.median(first, call)
            row += [f"{least:.0f}", f"{median:.0f}", *(f"{ratio:.2f}" for ratio in ratios)]
        rows.append(row)
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("lists", nargs="*", default=["none", "default", "strict"], metavar="LIST")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "calls"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", program, HERE / "seccomp_calls.c"], check=True)
        filters, lengths = {}, {}
        for number, name in enumerate(options.lists):
            code = program_of(os.path.abspath(name) if os.path.isfile(name) else name)
            filters[name] = Path(place) / str(number)
            filters[name].write_bytes(code)
            lengths[name] = len(code) // INSTRUCTION
        cases = {name: lambda path=path: sample(program, path, options.chunks) for name, path in filters.items()}
        print(f"{machine()}\n\n{show(interleave(cases, options.rounds), lengths)}")


if __name__ == "__main__":
    main()
