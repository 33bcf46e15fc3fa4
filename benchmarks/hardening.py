"""What each part of the default's hardening costs a launch: the default beside it with that part left out.

    python benchmarks/hardening.py [--rounds N] [--write FILE]

Warm launches of `true`, interleaved, the minimum of each, as root; attestation is a part like the others. Beside what
the two dearest parts cost stands what their system calls cost a program in C that makes nothing else
(`floor_hardening.c`): the mounts over /proc, and the cgroups.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from measure import HERE, OUT, ROOT, table
from run import write

from nstool import Limits, Root, Spec, prepare
from nstool.plan import build
from nstool.plan.lease import Lease
from nstool.plan.steps import Fd
from nstool.sandbox import host

DEFAULT = Spec(command=("/bin/true",), terminal="never")
FACTS = host.read(DEFAULT, ())
NAMES = (*FACTS.proc_files, "sys")
ALL, ATTESTATION, VIEWS, CGROUPS = "nothing", "attestation", "views of /proc and /proc/sys", "cgroups and their limits"
PARTS: dict[str, Spec] = {
    ALL: DEFAULT,
    ATTESTATION: DEFAULT.replace(attest=False),
    VIEWS: DEFAULT.replace(proc_show=NAMES),
    "views of /proc/sys": DEFAULT.replace(proc_show=("sys",)),
    CGROUPS: DEFAULT.replace(limits=Limits(memory=0, pids=0, cpu=0)),
    "the filter, answers to sysinfo(2)": DEFAULT.replace(seccomp="none"),
    "the answers to sysinfo(2)": DEFAULT.replace(proc_show=("meminfo",)),
    "a root of programs alone": DEFAULT.replace(root=Root(type="host")),
    "/tmp, /var/tmp, /run of its own": DEFAULT.replace(tmp_size=0),
    "limits of the user namespace": DEFAULT.replace(limits=Limits(ucounts={})),
    "rlimits, oom score, keyring": DEFAULT.replace(limits=Limits(rlimits={}), oom_score_adj=0, keyring="keep"),
}


def floor(rounds: int) -> dict[str, float]:
    """Return what the mounts and the cgroups cost in C, in milliseconds."""
    subprocess.run([str(HERE / "build.sh")], check=True)
    steps = build.plan(DEFAULT, FACTS, Lease(name="floor", cgroup="floor")).steps
    over = [str(step.args[3]) for step in steps if step.call == "move_mount" and step.args[2] == Fd("proc")]
    names = [name for name in over if "/" not in name and name != "sys"]
    groups = [os.path.dirname(str(step.args[1])) for step in steps if step.call == "mkdirat" and step.who == "launcher"]
    chosen = [word for group in groups if group.startswith("/sys/fs/cgroup") for word in ("-g", group)]
    command = [str(OUT / "bin/floor_hardening"), "-n", str(rounds * 4), "-l", str(len(over) - len(names)), *chosen]
    done = subprocess.run([*command, str(ROOT), *names], check=True, capture_output=True, text=True)
    _, bare, covers, cgroups = map(float, done.stdout.split())
    return {VIEWS: (covers - bare) / 1e3, CGROUPS: (cgroups - bare) / 1e3}


def measured(rounds: int) -> dict[str, float]:
    """Return the minimum of each, in milliseconds."""
    prepared = {name: prepare(spec) for name, spec in PARTS.items()}
    best = dict.fromkeys(PARTS, float("inf"))
    for _ in range(rounds):
        for name, one in prepared.items():
            begin = time.perf_counter()
            with one.launch() as sandbox:
                sandbox.wait()
            best[name] = min(best[name], (time.perf_counter() - begin) * 1e3)
    return best


def main() -> None:
    """Measure, print, and write it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    begin = os.getloadavg()[0]
    least = floor(args.rounds)
    best = measured(args.rounds)
    rows = []
    for name, wall in best.items():
        cost = f"{best[ALL] - wall:.2f}" if name != ALL else ""
        rows.append([name, f"{wall:.2f}", cost, f"{least[name]:.2f}" if name in least else ""])
    text = table(["left out", "wall min ms", "so it costs ms", "in bare C ms"], rows)
    text += f"\n\nNoise: load average {begin:.1f} before, {os.getloadavg()[0]:.1f} after, {args.rounds} rounds."
    print(text)
    if args.write:
        write(args.write, "hardening", text)


if __name__ == "__main__":
    main()
