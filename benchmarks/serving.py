#!/usr/bin/env python3
"""Measure `nstool serve`: a sandbox for each TCP connection, beside the floor in C and a server without isolation.

    serving.py [--rounds N] [--connections N] [--offered RATE] [--seconds N] [--write FILE]

All answer one request with the same static program, in the same seven namespaces, but where a line says otherwise.
Each round asks every server in turn, with one client and with eight; what is told are connections per second. As root,
on a quiet machine. --offered: afterwards so many connections a second are offered to the fresh sandboxes for --seconds,
and what then has grown is told.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from measure import HERE, OUT, ROOT, table

NSTOOL = str(Path(sys.executable).parent / "nstool")
WORKERS = "2"
SEVEN = f"""
root = {{ type = "directory", path = "{ROOT}" }}
user = "0:0"
groups = ["keep"]
init = false
seccomp = "none"
keyring = "keep"
dev = "nodes"
tmp_size = 0
hidepid = "off"
proc_subset = "pid"
oom_score_adj = 0
uid_map = ["0:0:1"]
gid_map = ["0:0:1"]
[limits]
memory = 0
pids = 0
cpu = 0
ucounts = {{ inotify_instances = "unlimited", inotify_watches = "unlimited" }}
[namespaces]
time = "host"
"""
DEFAULT = f'root = {{ type = "directory", path = "{ROOT}" }}\n[limits]\ncpu = 0\n'
COMMAND = 'command = ["/bin/tiny_http"]\n'
# The interpreter is in no small root directory; what the comparison is with has no other id than root's either.
SEVEN_FUNCTION = SEVEN.partition("\n")[2].partition("\n")[2]
FUNCTION = f'shape = "python"\nhandler = "{HERE}/handler.py"'
# Name: (what comes before, the words of [service]).
OURS: dict[str, tuple[str, str]] = {
    "nstool seven": (COMMAND + SEVEN, ""),
    "nstool seven, parked": (COMMAND + SEVEN, "ready = 16"),
    "nstool seven, lent network": (COMMAND + SEVEN, "lease_net = true"),
    "nstool seven, lent network, parked": (COMMAND + SEVEN, "lease_net = true\nready = 16"),
    "nstool default": (COMMAND + DEFAULT, ""),
    "nstool default, lent network, parked": (COMMAND + DEFAULT, "lease_net = true\nready = 16"),
    "nstool function, seven": (SEVEN_FUNCTION, FUNCTION),
    "nstool function, seven, lent network": (SEVEN_FUNCTION, f"{FUNCTION}\nlease_net = true"),
    "nstool function": ("[limits]\ncpu = 0\n", FUNCTION),
}
FLOORS = {
    "floor, no isolation": "spawn",
    "floor seven": "tmpl7",
    "floor seven, from nothing": "naive7",
    # Network namespaces are shared by whoever comes, and there is no user namespace: less than what is asked for.
    "floor six, any network": "pool",
}
# Ratio of connections per second: (case, reference, at least).
CLAIMS = (
    ("nstool seven", "floor seven", 0.9),
    ("nstool seven, lent network", "nstool seven", 2.0),
    ("floor six, any network", "floor seven", 0.0),
    ("nstool seven, lent network", "floor, no isolation", 0.75),
    ("nstool seven, lent network, parked", "floor, no isolation", 0.75),
    ("floor six, any network", "floor, no isolation", 0.0),
    ("nstool seven, lent network", "floor six, any network", 0.0),
    ("nstool function, seven", "Python, forks and isolates itself", 2.0),
    ("nstool function, seven, lent network", "Python, forks and isolates itself", 0.0),
    ("nstool function", "Python, forks and isolates itself", 0.0),
    ("nstool default", "floor, no isolation", 0.0),
    ("nstool default, lent network, parked", "floor, no isolation", 0.0),
)


class Server(NamedTuple):
    """port: where it listens. process: to be ended by SIGTERM. name: of the service, empty for others."""

    port: int
    process: subprocess.Popen[bytes]
    name: str = ""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def start() -> dict[str, Server]:
    """Start all servers and wait until each answers."""
    servers = {}
    for name, mode in FLOORS.items():
        port = free_port()
        command = [str(OUT / "bin/floor_server"), "-P", str(port), "-m", mode, "-w", WORKERS, "-r", str(ROOT)]
        servers[name] = Server(port, subprocess.Popen([*command, "/bin/tiny_http"], start_new_session=True))
    port = free_port()
    command = [sys.executable, str(HERE / "fork_server.py"), str(port), str(ROOT)]
    servers["Python, forks and isolates itself"] = Server(port, subprocess.Popen(command))
    for number, (name, (before, words)) in enumerate(OURS.items()):
        port = free_port()
        spec = OUT / f"serving{number}.toml"
        listen = f'listen = ["tcp:127.0.0.1:{port}"]\nplaces = 64\nattest = "never"'
        spec.write_text(f"{before}\n[service]\n{listen}\n{words}\n")
        process = subprocess.Popen([NSTOOL, "serve", "--quiet", "--name", f"bench{number}", str(spec)])
        servers[name] = Server(port, process, f"bench{number}")
    for name, server in servers.items():
        end = time.monotonic() + 60
        while load(server.port, 1, 1)[1]:
            if time.monotonic() > end or server.process.poll() is not None:
                raise RuntimeError(f"{name} does not answer")
            time.sleep(0.1)
    return servers


def stop(servers: dict[str, Server]) -> None:
    """End them all."""
    for server in servers.values():
        if server.name:
            server.process.terminate()
        else:
            os.kill(server.process.pid, signal.SIGTERM)
    for server in servers.values():
        server.process.wait(60)


def load(port: int, connections: int, clients: int, gap: int = 0) -> tuple[float, int, float, float]:
    """Return connections per second, errors, and the median and 99th percentile in milliseconds. gap: microseconds."""
    command = [str(OUT / "bin/load_conn"), str(port), str(connections), str(clients), *([str(gap)] if gap else [])]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    rate, p50, _, p99, _, errors = map(float, words)
    return rate, int(errors), p50 / 1000, p99 / 1000


def rounds(servers: dict[str, Server], count: int, connections: int) -> dict[str, list[tuple[float, ...]]]:
    """Ask all in turn: for each the rates and times with one client and with eight, a tuple a round."""
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in servers}
    for _ in range(count):
        for name, server in servers.items():
            one, eight = load(server.port, connections // 2, 1), load(server.port, connections, 8)
            found[name].append((*one, *eight))
            time.sleep(0.2)  # the kernel takes network namespaces down later
    return found


def shown(found: dict[str, list[tuple[float, ...]]]) -> str:
    """The tables: rates and times, then the ratios beside their targets."""
    rows = []
    for name, each in found.items():
        best = [max(values) for values in (tuple(one[n] for one in each) for n in (0, 4))]
        middle = [statistics.median(one[n] for one in each) for n in (2, 3, 6, 7)]
        errors = sum(int(one[1] + one[5]) for one in each)
        rows.append([name, *(f"{value:.0f}" for value in best), *(f"{value:.2f}" for value in middle), str(errors)])
    head = ["", "1 client, /s", "8 clients, /s", "p50 ms", "p99 ms", "p50 ms of 8", "p99 ms of 8", "errors"]
    ratios = []
    for case, reference, least in CLAIMS:
        words = [f"{case} / {reference}"]
        holds = []
        for n in (0, 4):
            ratio = statistics.median(a[n] / b[n] for a, b in zip(found[case], found[reference]))
            words.append(f"{ratio:.2f}")
            holds.append(ratio >= least)
        verdict = (
            "" if not least else "holds" if all(holds) else "missed" if not any(holds) else "holds for one of the two"
        )
        ratios.append([*words, f"≥ {least:g}" if least else "", verdict])
    second = table(["ratio of connections per second, median of rounds", "1 client", "8 clients", "target", ""], ratios)
    return f"{table(head, rows)}\n\n{second}"


def grown(name: str) -> dict[str, int]:
    """What a service has at this moment: memory, files, mounts, network namespaces of the host."""
    status = json.loads(subprocess.run([NSTOOL, "service", "status", name, "--json"], capture_output=True).stdout)
    pid = status["generations"][-1]["pid"]
    rollup = dict(line.split()[:2] for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {
        "template kB": int(rollup["Private_Dirty:"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
        "mounts": len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()),
        "live": status["live"],
    }


def offered(server: Server, rate: int, seconds: int) -> str:
    """Offer so many connections a second by eight clients, and tell what was lost and what has grown."""
    before = grown(server.name)
    clients = 8
    result: list[tuple[float, int, float, float]] = []
    run = lambda: result.append(load(server.port, rate * seconds, clients, clients * 1_000_000 // rate))  # noqa: E731
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    time.sleep(1)
    after = grown(server.name)
    reached, errors, p50, p99 = result[0]
    growth = ", ".join(f"{key} {before[key]} → {after[key]}" for key in before)
    return (
        f"{rate} connections/s offered for {seconds} s: {reached:.0f}/s served, {errors} lost, "
        f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; {growth}."
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--connections", type=int, default=800)
    parser.add_argument("--offered", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    subprocess.run([str(HERE / "build.sh")], check=True)
    begin = os.getloadavg()[0]
    servers = start()
    try:
        text = shown(rounds(servers, args.rounds, args.connections))
        if args.offered:
            text += "\n\n" + offered(servers["nstool seven"], args.offered, args.seconds)
    finally:
        stop(servers)
    text += f"\n\nNoise: load average {begin:.1f} before, {os.getloadavg()[0]:.1f} after, {args.rounds} rounds."
    print(text)
    if args.write:
        old = args.write.read_text()
        start_mark, end_mark = "<!-- serving -->", "<!-- end of serving -->"
        head, _, rest = old.partition(start_mark)
        args.write.write_text(f"{head}{start_mark}\n\n{text}\n\n{end_mark}{rest.partition(end_mark)[2]}")


if __name__ == "__main__":
    main()
