"""A process that launches with the library when it is told: lines of JSON in, lines of JSON out.

    worker.py JOB [--touch MB] [--program PATH]

{"do": "launch", "n": 30}       → launch and wait 30 times: {"wall": [ms, ...]}
{"do": "unprepared", "n": 30}   → the same with launch(spec), which checks, asks and plans each time
{"do": "parts", "n": 5}         → {"launch": [ms, ...], "end": [ms, ...]}: until the command runs; kill, wait, undo
{"do": "rate", "threads": 4, "seconds": 1}  → {"each": [ms]}: seconds / launches
{"do": "live", "n": 100}        → have so many sandboxes alive, and tell what the processes of ours keep: see live()
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from time import perf_counter

from jobs import TRUE, spec
from measure import private_kb

from nstool import Sandbox, launch, prepare


class Worker:
    """One job, prepared once."""

    def __init__(self, job: str, program: str) -> None:
        self.spec = spec(job, program)
        self.prepared = prepare(self.spec)
        self.alive: list[Sandbox] = []

    def launch(self, n: int) -> dict[str, list[float]]:
        return {"wall": [_timed(lambda: self.prepared.launch().wait()) for _ in range(n)]}

    def unprepared(self, n: int) -> dict[str, list[float]]:
        return {"wall": [_timed(lambda: launch(self.spec).wait()) for _ in range(n)]}

    def parts(self, n: int) -> dict[str, list[float]]:
        begun, ended = [], []
        for _ in range(n):
            begin = perf_counter()
            sandbox = self.prepared.launch()
            begun.append((perf_counter() - begin) * 1e3)
            ended.append(_timed(sandbox.close))
        return {"launch": begun, "end": ended}

    def rate(self, threads: int, seconds: float) -> dict[str, list[float]]:
        counts = [0] * threads
        start = perf_counter()

        def go(number: int) -> None:
            while perf_counter() - start < seconds:
                self.prepared.launch().wait()
                counts[number] += 1

        running = [threading.Thread(target=go, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return {"each": [(perf_counter() - start) * 1e3 / sum(counts)]}

    def live(self, n: int) -> dict[str, list[float]]:
        """Memory, KiB: "init" of the youngest sandbox's init, "launcher" of this process, "host" used in all."""
        while len(self.alive) < n:
            self.alive.append(self.prepared.launch())
        while len(self.alive) > n:
            self.alive.pop().close()
        init = private_kb(self.alive[-1].init_pid) if self.alive and self.spec.init else 0
        return {"init": [init], "launcher": [private_kb("self")], "host": [_used_kb()]}


def _timed(action: object) -> float:
    begin = perf_counter()
    action()  # type: ignore[operator]
    return (perf_counter() - begin) * 1e3


def _used_kb() -> int:
    rows = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    return int(rows["MemTotal:"]) - int(rows["MemAvailable:"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("job")
    parser.add_argument("--touch", type=int, default=0, metavar="MB")
    parser.add_argument("--program", default=TRUE)
    arguments = parser.parse_args()
    touched = bytearray(arguments.touch << 20)
    touched[::4096] = b"x" * len(touched[::4096])
    worker = Worker(arguments.job, arguments.program)
    try:
        for line in sys.stdin:
            order = json.loads(line)
            print(json.dumps(getattr(worker, order.pop("do"))(**order)), flush=True)
    finally:
        worker.live(0)


if __name__ == "__main__":
    main()
