"""Take times in interleaved rounds, compare them, print tables."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "build" / "bench"
ROOT = OUT / "rootfs"

Sample = dict[str, list[float]]
"""One round of one case: metric ("wall", "cpu") to the values of its launches, in milliseconds."""


class Claim(NamedTuple):
    """The case takes at most limit times as long as the reference. limit 0: no target, only told."""

    case: str
    reference: str
    limit: float = 0.0
    metric: str = "wall"


class Measured:
    """Samples by case and round."""

    def __init__(self, rounds: dict[str, list[Sample]]) -> None:
        self.rounds = rounds

    def all(self, case: str, metric: str = "wall") -> list[float]:
        """Every value of a case, sorted."""
        return sorted(value for sample in self.rounds[case] for value in sample[metric])

    def min(self, case: str, metric: str = "wall") -> float:
        return self.all(case, metric)[0]

    def median(self, case: str, metric: str = "wall") -> float:
        return statistics.median(self.all(case, metric))

    def percentile(self, case: str, part: float, metric: str = "wall") -> float:
        values = self.all(case, metric)
        return values[round(part * (len(values) - 1))]

    def ratios(self, claim: Claim) -> tuple[float, float]:
        """Ratio of the minima, and the median of the ratios of each round's medians."""
        pairs = zip(self.rounds[claim.case], self.rounds[claim.reference])
        each = [statistics.median(a[claim.metric]) / statistics.median(b[claim.metric]) for a, b in pairs]
        least = self.min(claim.case, claim.metric) / self.min(claim.reference, claim.metric)
        return least, statistics.median(each)

    def table(self, metrics: Sequence[str] = ("wall",)) -> str:
        """Minimum, median and 90th percentile of every case, in milliseconds."""
        head = ["", *(f"{metric} {what} ms" for metric in metrics for what in ("min", "median", "p90"))]
        rows = []
        for case in self.rounds:
            row = [case]
            for metric in metrics:
                values = (self.min(case, metric), self.median(case, metric), self.percentile(case, 0.9, metric))
                row += [f"{value:.2f}" for value in values]
            rows.append(row)
        return table(head, rows)

    def claims(self, claims: Sequence[Claim]) -> str:
        """The ratios beside their targets."""
        rows = []
        for claim in claims:
            if claim.case not in self.rounds or claim.reference not in self.rounds:
                continue
            least, median = self.ratios(claim)
            target = f"≤ {claim.limit:g}" if claim.limit else ""
            what = f"{claim.case} / {claim.reference}" + (f", {claim.metric}" if claim.metric != "wall" else "")
            rows.append([what, f"{least:.2f}", f"{median:.2f}", target, verdict(claim.limit, least, median)])
        return table(["ratio", "of minima", "median of rounds", "target", ""], rows)


def verdict(limit: float, least: float, median: float) -> str:
    """Whether a target holds by the minimum, by the median, or by both."""
    if not limit:
        return ""
    held = [name for name, value in (("minimum", least), ("median", median)) if value <= limit]
    return ("missed", f"holds by the {''.join(held)} only", "holds")[len(held)]


def interleave(cases: dict[str, Callable[[], Sample]], rounds: int) -> Measured:
    """Take one sample of each case in turn, so many rounds: what disturbs the machine disturbs all cases."""
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, sample in cases.items():
            samples[name].append(sample())
    return Measured(samples)


def cold(command: Sequence[str], launches: int, env: dict[str, str] | None = None) -> Sample:
    """Start a program so many times; wall time until it has exited, and CPU time of all that it waited for."""
    run = subprocess.run(
        [str(OUT / "bin/launch_time"), str(launches), "1", *command],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    head, *lines = run.stdout.splitlines()
    if head.split()[3] != "0":
        raise RuntimeError(f"{head.split()[3]} of {launches} launches failed: {' '.join(command)}")
    pairs = [line.split() for line in lines]
    return {"wall": [float(wall) / 1e3 for wall, _ in pairs], "cpu": [float(cpu) / 1e3 for _, cpu in pairs]}


def floor(steps: str, namespaces: str, launches: int, touch: int = 0, workers: int = 1) -> Sample:
    """The floor in a warm process: C that makes the same sandbox with the fewest calls. "rate": launches a second.

    Of each round only the minimum and the median are told.
    """
    arguments = [
        "-n",
        launches,
        "-f",
        namespaces,
        "-s",
        steps,
        "-r",
        ROOT,
        "-R",
        touch,
        "-c",
        workers,
        "/bin/tiny_true",
    ]
    program = str(OUT / "bin/floor_spawn")
    run = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=True)
    words = run.stdout.split()
    least, median = (float(words[words.index(name) + 1]) / 1e3 for name in ("min", "p50"))
    rate = next(float(word.removesuffix("/s")) for word in words if word.endswith("/s"))
    return {"wall": [least, median, median], "each": [1e3 / rate]}


def private_kb(pid: int | str) -> int:
    """Memory that would be freed if this process ended, KiB. proc_pid_smaps(5)."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned to be read as it is."""
    width = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, width)))
        return f"| {' | '.join((first, *rest))} |"

    rule = [":" + "-" * (w - 1) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(width)]
    return "\n".join([line(head), f"| {' | '.join(rule)} |", *map(line, rows)])


def machine() -> str:
    """One line: processors, memory, kernel, Python."""
    processors = Path("/proc/cpuinfo").read_text()
    cpu = next((line.split(":")[1].strip() for line in processors.splitlines() if line.startswith("model name")), "?")
    virtual = "virtual " if "hypervisor" in processors else ""
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    uname = os.uname()
    return (
        f"{os.cpu_count()} {virtual}processors ({cpu}), {memory} GiB, Linux {uname.release} {uname.machine}, "
        f"Python {platform.python_version()}"
    )
