"""What each part of the default's hardening costs a launch: the default beside it with that part left out.

    python benchmarks/hardening.py [ROUNDS]

Warm launches of `true` in the default root, interleaved, the minimum of each; attestation is a part like the others.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.table import Table

from nstool import Limits, Root, Spec, prepare
from nstool.sandbox import host

DEFAULT = Spec(command=("/bin/true",), terminal="never")
NAMES = (*host.read(DEFAULT, ()).proc_files, "sys")
PARTS: dict[str, Spec] = {
    "the default": DEFAULT,
    "attestation": DEFAULT.replace(attest=False),
    "views of /proc and /proc/sys": DEFAULT.replace(proc_show=NAMES),
    "views of /proc/sys": DEFAULT.replace(proc_show=("sys",)),
    "cgroups and their limits": DEFAULT.replace(limits=Limits(memory=0, pids=0, cpu=0)),
    "the filter, answers to sysinfo(2)": DEFAULT.replace(seccomp="none"),
    "the answers to sysinfo(2)": DEFAULT.replace(proc_show=("meminfo",)),
    "a root of programs alone": DEFAULT.replace(root=Root(type="host")),
    "/tmp, /var/tmp, /run of its own": DEFAULT.replace(tmp_size=0),
    "limits of the user namespace": DEFAULT.replace(limits=Limits(ucounts={})),
    "rlimits, oom score, keyring": DEFAULT.replace(limits=Limits(rlimits={}), oom_score_adj=0, keyring="keep"),
}


def main(rounds: int) -> None:
    """Measure and print."""
    prepared = {name: prepare(spec) for name, spec in PARTS.items()}
    best = dict.fromkeys(PARTS, float("inf"))
    for _ in range(rounds):
        for name, one in prepared.items():
            begin = time.perf_counter()
            with one.launch() as sandbox:
                sandbox.wait()
            best[name] = min(best[name], time.perf_counter() - begin)
    table = Table("left out", "wall min ms", "costs ms")
    for name, seconds in best.items():
        cost = (best["the default"] - seconds) * 1e3
        table.add_row(
            name if name != "the default" else "nothing", f"{seconds * 1e3:.2f}", f"{cost:.2f}" if cost else ""
        )
    Console().print(table)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
