"""Run kernel tests in virtual machines with Debian's kernels, as many at a time as there are processors.

    python tests/vm/run.py [--kernels "6.1 6.12"] [--full] [--write docs/kernels.md] [PYTEST ARGUMENTS]

The tests are those marked ``vm`` and not ``vm_full``, where a skip is a failure; of one that takes many values one is
taken, unless there are PYTEST ARGUMENTS. With --full: all of tests/kernel. The logs of the machines are kept in
build/vm. --write: put what `nstool check` finds under each kernel, and here, into a file's table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BUILT = REPOSITORY / "build/vm"
SECONDS = {"marked": 1800, "full": 8 * 3600}  # that a machine may take
REPORT = 30  # seconds between two lines of progress where nobody can see a bar

_TEST = re.compile(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_COLLECTED = re.compile(r"collected (\d+) items?(?:.* (\d+) selected)?")


class Machine:
    """One virtual machine: the tests of one shard under one kernel, and how far they are."""

    def __init__(self, kernel: str, shard: int, shards: int) -> None:
        self.kernel = kernel
        self.shard = f"{shard}/{shards}"
        self.log = BUILT / f"{kernel}-{shard}.log"
        self.release = ""
        self.features: list[dict[str, str]] = []
        self.state = "waits"
        self.total = 0
        self.counts = {"PASSED": 0, "FAILED": 0, "ERROR": 0, "SKIPPED": 0}
        self.failed: list[str] = []
        self.status: int | None = None
        self.seconds = 0.0

    @property
    def done(self) -> int:
        return sum(self.counts.values())

    @property
    def name(self) -> str:
        return self.kernel if self.shard == "1/1" else f"{self.kernel} {self.shard}"

    def run(self, directory: str, words: list[str], one: bool, full: bool) -> None:
        """Boot it, run the tests, and note what it says. words: for pytest. one: of the values of a test."""
        begin = time.monotonic()
        self.state = "boots"
        seconds = SECONDS["full" if full else "marked"]
        command = [
            "setpriv",
            "--pdeathsig",
            "TERM",
            str(HERE / "boot"),
            directory,
            "--",
            "sh",
            "-c",
            _script(self.shard, words, one, full),
        ]
        environment = {"VM_SECONDS": str(seconds)} | os.environ | {"VM_CONSOLE": str(self.log.with_suffix(".console"))}
        with (
            open(self.log, "w") as log,
            subprocess.Popen(
                command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                log.flush()
                self.hear(line)
        self.status = process.returncode
        self.seconds = time.monotonic() - begin
        self.state = "passed" if self.status == 0 else "failed"

    def hear(self, line: str) -> None:
        """Take one line of the machine's output."""
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "kernel":
            self.release = rest
        elif word == "features":
            self.features = json.loads(rest)["features"]
            self.state = "collects tests"
        elif found := _COLLECTED.search(line):
            self.total = int(found[2] or found[1])
            self.state = "runs"
        elif found := _TEST.match(line):
            test, result = found.groups()
            result = {"XFAIL": "PASSED", "XPASS": "FAILED"}.get(result, result)
            self.counts[result] += 1
            if result in ("FAILED", "ERROR"):
                self.failed.append(test)


def _pytest(arguments: list[str], full: bool) -> list[str]:
    marked = [] if full else ["-m", "vm and not vm_full"]
    return [".venv/bin/python", "-m", "pytest", "-p", "no:cacheprovider", *marked, *arguments]


def prepare(arguments: list[str], full: bool) -> list[str]:
    """Compile here what a machine would take minutes for, and return the arguments with the files that have tests.

    Raises CalledProcessError if there is no test, or pytest says what is wrong with the arguments.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(
        [".venv/bin/python", "-m", "compileall", "-q", "nstool"], cwd=REPOSITORY, env=environment, check=True
    )
    named = any((REPOSITORY / word.partition("::")[0]).exists() for word in arguments)
    words = arguments if named else ["tests/kernel", *arguments]
    found = subprocess.run(
        [*_pytest(words, full), "-q", "--collect-only"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if found.returncode:
        print(found.stdout, file=sys.stderr)
        found.check_returncode()
    if named:
        return arguments
    tests = (line.partition("::") for line in found.stdout.splitlines())
    return [*dict.fromkeys(file for file, colons, _ in tests if colons), *arguments]


def _script(shard: str, words: list[str], one: bool, full: bool) -> str:
    options = ["-v", "--durations=0", "--durations-min=1"]
    test = shlex.join([*_pytest(words, full), *options])
    return (
        "export PYTHONDONTWRITEBYTECODE=1\n"
        'echo "kernel $(uname -r)"\n'
        'echo "features $(.venv/bin/nstool check --json | tr -d "\\n")"\n'
        f"exec env NSTOOL_MUST_RUN={'0' if full else '1'} NSTOOL_ONE_OF_EACH={int(one)} NSTOOL_SHARD={shard} {test}\n"
    )


# ---- progress and results ----


def watch(machines: list[Machine], stop: threading.Event, console: Console) -> None:
    """Show how far the machines are until told to stop: bars on a terminal, else a line now and then."""
    if not console.is_terminal:
        while not stop.wait(REPORT):
            parts = [f"{m.name}: {m.state}" + (f" {m.done}/{m.total}" if m.total else "") for m in machines]
            console.print("; ".join(parts))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[TaskID, Machine] = {
            progress.add_task(m.name, total=None, said="", start=False): m for m in machines
        }
        while not stop.wait(0.5):
            for task, machine in tasks.items():
                if machine.state != "waits":
                    progress.start_task(task)
                if machine.status is not None:
                    progress.stop_task(task)
                said = f"{machine.state} {machine.done}/{machine.total or '?'}, {len(machine.failed)} failed"
                progress.update(task, total=machine.total or None, completed=machine.done, said=said)


def results(kernels: list[str], machines: list[Machine], console: Console) -> bool:
    """Print a row a kernel, and what failed; whether all passed."""
    table = Table("kernel", "release", "passed", "failed", "skipped", "minutes", "result", box=None)
    for kernel in kernels:
        mine = [m for m in machines if m.kernel == kernel]
        count = {result: sum(m.counts[result] for m in mine) for result in mine[0].counts}
        bad = [m for m in mine if m.status != 0]
        result = "passed" if not bad else "no result" if any(m.status == 255 for m in bad) else "failed"
        table.add_row(
            kernel,
            mine[0].release,
            str(count["PASSED"]),
            str(count["FAILED"] + count["ERROR"]),
            str(count["SKIPPED"]),
            f"{sum(m.seconds for m in mine) / 60:.1f}",
            f"[{'red' if bad else 'green'}]{result}[/]",
        )
    console.print(table)
    for machine in machines:
        if machine.status != 0:
            log = machine.log.relative_to(REPOSITORY)
            console.print(f"{machine.name}: {log} says why; its end:")
            print("".join(machine.log.read_text().splitlines(keepends=True)[-25:]))
    return all(m.status == 0 for m in machines)


# ---- the table of features ----


def write(file: Path, machines: list[Machine]) -> None:
    """Put the features of every kernel, and of this host's, between the marks of a file."""
    told = {m.release: m.features for m in machines if m.features}
    here = subprocess.run([".venv/bin/nstool", "check", "--json"], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
    version = os.uname().release.partition("-")[0]
    told[f"{version} (a host with cgroup version 1 and 2)"] = json.loads(here.stdout)["features"]
    states = {
        release: {(f["area"], f["name"]): f["state"] for f in features if f["area"] != "ids"}
        for release, features in told.items()
    }
    rows = list(dict.fromkeys(key for features in states.values() for key in features))
    lines = [f"| feature | {' | '.join(states)} |", f"|---|{'---|' * len(states)}"]
    for area, name in rows:
        cells = [states[release].get((area, name), "") for release in states]
        lines.append(f"| {area}: {name} | {' | '.join(cells)} |")
    begin, end = "<!-- features -->\n", "<!-- end of features -->\n"
    before, _, rest = file.read_text().partition(begin)
    _, _, after = rest.partition(end)
    file.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)


# ---- the whole ----


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", default="6.1 6.12", help="versions, separated by blanks (6.1 6.12)")
    parser.add_argument("--full", action="store_true", help="all tests of tests/kernel, not only those marked vm")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table of features there")
    options, arguments = parser.parse_known_args()
    kernels = options.kernels.split()
    console = Console(highlight=False)
    if os.geteuid() != 0:
        print("test-vm: the machine sees all files of this host as root does: run it as root", file=sys.stderr)
        return 2
    try:
        words = prepare(arguments, options.full)
    except subprocess.CalledProcessError:
        return 2
    one = not options.full and not arguments
    BUILT.mkdir(parents=True, exist_ok=True)
    directories = {}
    for kernel in kernels:
        fetched = subprocess.run(
            [str(HERE / "fetch"), str(BUILT / "kernels"), kernel], stdout=subprocess.PIPE, text=True
        )
        if fetched.returncode:
            return 2
        directories[kernel] = fetched.stdout.strip()
    processors = len(os.sched_getaffinity(0))
    shards = max(1, processors // len(kernels))
    machines = [Machine(kernel, shard, shards) for kernel in kernels for shard in range(1, shards + 1)]
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(machines, stop, console))
    watcher.start()
    try:
        with ThreadPoolExecutor(processors) as pool:
            for future in [pool.submit(m.run, directories[m.kernel], words, one, options.full) for m in machines]:
                future.result()
    finally:
        stop.set()
        watcher.join()
    passed = results(kernels, machines, console)
    if options.write:
        write(options.write, machines)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
