#!/usr/bin/env python3
"""Measure nstool beside the floor (the fewest calls that do the job, in C) and beside other tools.

    run.py [SECTION...] [--rounds N] [--realtime] [--json FILE] [--write FILE]

Sections: warm cold cli sustained live memory network; all of them without one. Rounds are interleaved
(A B C A B C ...), so that what else runs on the machine disturbs all alike. Trust the minima most.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jobs
import measure
from measure import HERE, OUT, ROOT, Claim, Measured, cold, floor, interleave, table

VENV = Path(sys.executable).parent
NSTOOL, NSEXEC, PYTHON = str(VENV / "nstool"), str(VENV / "nsexec"), sys.executable
HEAVY = ("pyroute2", "rich", "psutil", "click", "msgspec")


class Worker:
    """A process with the library in it, see worker.py."""

    def __init__(self, job: str, *options: str) -> None:
        pipe = subprocess.PIPE
        command = [PYTHON, str(HERE / "worker.py"), job, *options]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, do: str, **how: float) -> dict[str, list[float]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"do": do, **how}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker has ended with status {self.process.wait()}")
        answer: dict[str, list[float]] = json.loads(line)
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def warm(rounds: int) -> tuple[str, Measured]:
    """Launches by the library in a process that already runs, until the program has exited, been reaped and undone."""
    n = 30
    with (
        Worker("six") as six,
        Worker("seven") as seven,
        Worker("seven", "--touch", "500") as fat,
        Worker("default") as default,
        Worker("attested") as attested,
        Worker("unattested") as unattested,
        Worker("loose") as loose,
    ):
        cases = {
            "floor six": lambda: floor(jobs.NAIVE["six"], "six", n),
            "nstool six": lambda: six("launch", n=n),
            "floor seven": lambda: floor(jobs.NAIVE["seven"], "seven", n),
            "nstool seven": lambda: seven("launch", n=n),
            "floor seven, 500 MB touched": lambda: floor(jobs.NAIVE["seven"], "seven", n, touch=500),
            "nstool seven, 500 MB touched": lambda: fat("launch", n=n),
            "nstool seven, launch(spec)": lambda: seven("unprepared", n=n),
            "nstool seven, attested": lambda: attested("launch", n=n),
            "nstool, no hardening": lambda: loose("launch", n=n),
            "nstool, the safe default, not attested": lambda: unattested("launch", n=n),
            "nstool, all of the safe default": lambda: default("launch", n=n),
        }
        for worker in (six, seven, fat, default, attested, unattested, loose):
            worker("launch", n=5)
        measured = interleave(cases, rounds)
    claims = [
        Claim("nstool six", "floor six", 1.3),
        Claim("nstool seven", "floor seven", 1.3),
        Claim("nstool seven, 500 MB touched", "nstool seven", 1.1),
        Claim("nstool seven, launch(spec)", "nstool seven"),
        Claim("nstool seven, attested", "nstool seven"),
        Claim("nstool, the safe default, not attested", "nstool, no hardening"),
        Claim("nstool, all of the safe default", "nstool, no hardening"),
    ]
    return f"{measured.table()}\n\n{measured.claims(claims)}", measured


def cold_start(rounds: int) -> tuple[str, Measured]:
    """A launcher started for one launch of a static `busybox true`, until it has exited."""
    n, program = 10, "/bin/true"
    commands = {
        "spawn alone, no isolation": [f"{ROOT}{program}"],
        **{
            f"floor {job}": [str(OUT / "bin/floor_launch"), job, steps, str(ROOT), program]
            for job, steps in jobs.BEST.items()
        },
        **{f"nsexec {job}": [NSEXEC, jobs.compiled(job, program)] for job in ("six", "seven", "default")},
        **jobs.peers(program),
    }
    for name, command in list(commands.items()):
        try:
            cold(command, 1)
        except RuntimeError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            del commands[name]
    measured = interleave(
        {name: lambda command=command: cold(command, n) for name, command in commands.items()}, rounds
    )
    claims = [
        Claim("nsexec six", "floor six", 1.15),
        Claim("nsexec seven", "floor seven", 1.15),
        Claim("nsexec six", "bwrap six", 0.55),
        Claim("nsexec seven", "bwrap seven", 0.55),
        Claim("nsexec default", "bwrap seven", 1.0),
        *(Claim("nsexec seven", name) for name in commands if name.endswith("seven") and name.split()[0] in PEERS),
    ]
    note = (
        "bwrap exits without reaping its sandbox: its time lacks the teardown. nsexec default has seccomp, cgroups, "
        "a time namespace and an init besides."
    )
    return f"{measured.table(('wall', 'cpu'))}\n\n{measured.claims(claims)}\n\n{note}", measured


PEERS = ("unshare", "nsjail", "crun", "runc")


def cli(rounds: int) -> tuple[str, Measured]:
    """The command line. CPU time is that of all processes of a launch."""
    spec = OUT / "spec.toml"
    spec.write_text('command = ["true"]\n\n[limits]\nmemory = "256M"\npids = 64\n')
    true = "/bin/true"
    commands = {
        "python -c pass": [PYTHON, "-c", "pass"],
        "nstool run -- true": [NSTOOL, "run", "--", true],
        "nstool run, no init, cgroup, seccomp": [
            NSTOOL, "run", "--no-init", "--seccomp", "none", "--memory", "0", "--pids", "0", "--cpu", "0", "--", true
        ],
        "nstool run SPEC.toml": [NSTOOL, "run", str(spec)],
        "nstool --version": [NSTOOL, "--version"],
        "nstool plan": [NSTOOL, "plan", "--", true],
    }  # fmt: skip
    measured = interleave(
        {name: lambda command=command: cold(command, 3) for name, command in commands.items()}, rounds
    )
    claims = [
        Claim("nstool run -- true", "python -c pass", 2.5, "cpu"),
        Claim("nstool run, no init, cgroup, seccomp", "python -c pass", 2.5, "cpu"),
        Claim("nstool run SPEC.toml", "python -c pass", metric="cpu"),
        Claim("nstool --version", "python -c pass", metric="cpu"),
    ]
    imported = modules([NSTOOL, "run", "--", true])
    heavy = sorted({name.split(".")[0] for name in imported} & set(HEAVY))
    own = sum(name.startswith("nstool") for name in imported)
    bare = len(modules(["-c", "pass"]))
    note = (
        f"`nstool run` imports {own} modules of nstool and {len(imported) - own - bare} others that a bare interpreter "
        f"does not; of {', '.join(HEAVY)}: {', '.join(heavy) or 'none'}."
    )
    return f"{measured.table(('cpu', 'wall'))}\n\n{measured.claims(claims)}\n\n{note}", measured


def modules(command: list[str]) -> list[str]:
    """Names of the modules that a Python program imports."""
    run = subprocess.run(
        [PYTHON, "-X", "importtime", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return [line.split("|")[2].strip() for line in lines[1:]]


def sustained(rounds: int) -> tuple[str, Measured]:
    """Launches a second of the library from 1, 4 and 8 threads of one process; the floor from as many processes."""
    threads = (1, 4, 8)
    with Worker("seven") as seven, Worker("default") as default:
        cases: dict[str, Any] = {}
        for count in threads:
            cases[f"floor seven, {count}"] = lambda count=count: floor(jobs.NAIVE["seven"], "seven", 400, workers=count)
            cases[f"nstool seven, {count}"] = lambda count=count: seven("rate", threads=count, seconds=1)
            cases[f"nstool default, {count}"] = lambda count=count: default("rate", threads=count, seconds=1)
        measured = interleave(cases, rounds)
    rows = [
        [name, f"{1e3 / measured.min(name, 'each'):.0f}", f"{1e3 / measured.median(name, 'each'):.0f}"]
        for name in cases
    ]
    claims = [Claim(f"nstool seven, {count}", f"floor seven, {count}", metric="each") for count in threads]
    head = ["threads", "launches/s, best round", "median round"]
    return f"{table(head, rows)}\n\nTime of each launch:\n\n{measured.claims(claims)}", measured


def live(rounds: int) -> tuple[str, Measured]:
    """Launch time and memory while other sandboxes live (a payload that only sleeps)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))  # two fds each
    counts = (1, 10, 100, 1000)
    samples: dict[str, list[measure.Sample]] = {}
    rows = []
    for job in ("seven", "default"):
        with Worker(job, "--program", "/bin/tiny_sleep") as alive, Worker(job) as launcher:
            first = alive("live", n=0)
            for count in counts:
                memory = alive("live", n=count)
                launcher("launch", n=3)
                name = f"{job}, {count} live"
                floors = []
                for _ in range(rounds):
                    samples.setdefault(name, []).append(launcher("launch", n=10))
                    floors += floor(jobs.NAIVE["seven"], "seven", 10)["wall"]
                now = Measured(samples)
                own = (memory["launcher"][0] - first["launcher"][0]) / count
                host = (memory["host"][0] - first["host"][0]) / count
                kept = [
                    f"{memory['init'][0]:.0f}",
                    f"{own:.0f}" if count > 1 else "",
                    f"{host:.0f}" if count >= 100 else "",
                ]
                rows.append([name, f"{now.min(name):.2f}", f"{now.median(name):.2f}", f"{min(floors):.2f}", *kept])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    head = ["", "launch min ms", "median ms", "floor seven min ms", "init kB", "launcher kB each", "host kB each"]
    note = (
        "init and launcher: private memory of our processes, the launcher's being the growth of the Python process. "
        "host: what the whole machine uses more, with the payload and the kernel's own (namespaces, mounts, cgroups)."
    )
    return f"{table(head, rows)}\n\n{note}", Measured(samples)


def memory(rounds: int) -> tuple[str, Measured]:
    """What a sandbox in the foreground keeps while it runs, without its payload."""
    del rounds  # it does not vary
    sleep = str(ROOT / "bin/tiny_sleep")
    commands = {
        "nstool run": [NSTOOL, "run", "--root", str(ROOT), "--", "/bin/tiny_sleep"],
        "nsexec default": [NSEXEC, jobs.compiled("default", "/bin/tiny_sleep")],
        **jobs.peers("/bin/tiny_sleep"),
    }
    samples: dict[str, list[measure.Sample]] = {}
    rows = []
    for name, command in commands.items():
        command = [f"bench{os.getpid()}" if word == "@ID@" else word for word in command]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            tree = settled(process, sleep)
            if tree:
                kept = {pid: measure.private_kb(pid) for pid in tree}
                samples[name] = [{"kb": [float(sum(kept.values()))]}]
                each = ", ".join(f"{Path(f'/proc/{pid}/comm').read_text().strip()} {kb}" for pid, kb in kept.items())
                ours = name in ("nstool run", "nsexec default")
                limit = measure.verdict(1024, sum(kept.values()), sum(kept.values())) if ours else ""
                rows.append([name, str(sum(kept.values())), each, limit])
        finally:
            end(process)
    return table(["", "private kB", "processes", "≤ 1024"], rows), Measured(samples)


def settled(process: subprocess.Popen[bytes], program: str) -> list[int]:
    """Wait until the payload runs and its launcher rests; pids of the others of this tree. Empty: it has given up."""
    inode = os.stat(program).st_ino
    while process.poll() is None:
        tree = descendants(process.pid)
        payload = [pid for pid in tree if runs(pid, inode)]
        if payload:
            time.sleep(0.5)  # nstool run and bwrap have something to do yet
            return [pid for pid in descendants(process.pid) if pid not in payload]
    return []


def descendants(pid: int) -> list[int]:
    """The process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(below for child in children for below in descendants(int(child)))]


def runs(pid: int, inode: int) -> bool:
    """Whether the process runs the program with this inode. Its path would be as it sees it."""
    try:
        return os.stat(f"/proc/{pid}/exe").st_ino == inode
    except OSError:  # it has ended, or it is between two programs
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the deepest process of the tree, so that its launchers undo what they made; then wait."""
    tree = descendants(process.pid)
    if tree:
        os.kill(tree[-1], 9)
    process.wait()


def network(rounds: int) -> tuple[str, Measured]:
    """What a veth pair with a published port costs: until the command runs, and to end and undo it all."""
    with (
        Worker("default", "--program", "/bin/tiny_sleep") as plain,
        Worker("veth", "--program", "/bin/tiny_sleep") as veth,
    ):
        cases = {
            "default": lambda: plain("parts", n=3),
            "default with veth and a published port": lambda: veth("parts", n=3),
        }
        for case in cases.values():
            case()
        measured = interleave(cases, rounds)
    return measured.table(("launch", "end")), measured


SECTIONS = {
    "warm": warm,
    "cold": cold_start,
    "cli": cli,
    "sustained": sustained,
    "live": live,
    "memory": memory,
    "network": network,
}


def prepare() -> None:
    """Build the floor; compile our modules, as an installation does; let children do so too."""
    subprocess.run(["sh", str(HERE / "build.sh"), str(OUT)], check=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPATH"] = str(HERE.parent)
    subprocess.run([PYTHON, "-m", "compileall", "-q", str(HERE.parent / "nstool")], check=True)
    del os.environ["PYTHONPATH"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", choices=[*SECTIONS, []])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--realtime", action="store_true", help="run before all ordinary processes, sched(7), SCHED_FIFO"
    )
    parser.add_argument("--json", metavar="FILE", help="write every single value there")
    parser.add_argument("--write", metavar="FILE", help="replace the tables of these sections in a Markdown file")
    arguments = parser.parse_args()
    prepare()
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    everything: dict[str, object] = {}
    for name in arguments.sections or SECTIONS:
        before = os.getloadavg()[0]
        text, measured = SECTIONS[name](arguments.rounds)
        noise = f"load average {before:.1f} before, {os.getloadavg()[0]:.1f} after, {arguments.rounds} rounds"
        noise += ", SCHED_FIFO" if arguments.realtime else ""
        spread = [
            measured.median(case, "wall") / measured.min(case, "wall")
            for case in measured.rounds
            if wall(measured, case)
        ]
        if spread:
            noise += f"; medians are {min(spread):.1f} to {max(spread):.1f} times the minima"
        text = f"{text}\n\nNoise: {noise}."
        print(f"## {name}\n\n{SECTIONS[name].__doc__}\n\n{text}\n", flush=True)
        everything[name] = {"noise": noise, "rounds": measured.rounds}
        if arguments.write:
            write(Path(arguments.write), name, text)
    print(measure.machine())
    if arguments.write:
        write(Path(arguments.write), "machine", measure.machine())
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": measure.machine(), **everything}))
    return 0


def wall(measured: Measured, case: str) -> bool:
    return "wall" in measured.rounds[case][0]


def write(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a section."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = path.read_text().partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise SystemExit(f"{path} has no lines {begin.strip()} and {end.strip()}")
    path.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
