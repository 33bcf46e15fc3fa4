"""How long the services of examples/services take to their first answer, in the default sandbox and with no isolation.

``.venv/bin/python benchmarks/services.py [--rounds N] [SERVICE...]``, as root. Each round starts each service once in a
sandbox, by ``nstool run`` of its file, and once without, as an ordinary user with the same configuration; the time is
from the start of the process until a client has its first whole answer, or a job has ended. ``--cpu 0`` gives the
sandbox the usual weight, else a busy machine would be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client as http_client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from measure import HERE, Claim, Measured, Sample, machine, table

from nstool import syscalls, uapi

EXAMPLES = HERE.parent / "examples"
NSTOOL = [str(HERE.parent / ".venv/bin/nstool"), "run", "--cpu", "0"]
NOBODY = 65534
DEADLINE = 60.0
PAUSE = 0.001


class Service(NamedTuple):
    """bare: the command with no isolation. answered: whether a client has its answer; None: at its end."""

    bare: list[str]
    answered: Callable[[bool], bool] | None = None


def connected(port: int) -> socket.socket:
    """A connection, or OSError soon: what is sent before the link is up is lost, and TCP repeats it after a second."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=0.02)
    peer.settimeout(5)
    return peer


def http(inside: int, outside: int) -> Callable[[bool], bool]:
    """A GET, at the published port or at the server's own."""

    def ask(isolated: bool) -> bool:
        with contextlib.suppress(OSError), connected(outside if isolated else inside) as peer:
            client = http_client.HTTPConnection("127.0.0.1")
            client.sock = peer
            client.request("GET", "/")
            return client.getresponse().status == 200
        return False

    return ask


def speaks(isolated: bool) -> bool:
    """What sshd says first."""
    with contextlib.suppress(OSError), connected(8422 if isolated else 2222) as peer:
        return peer.recv(4) == b"SSH-"
    return False


def pings(directory: Path) -> Callable[[bool], bool]:
    """A PING over redis's socket."""

    def ask(isolated: bool) -> bool:
        path = directory / ("redis-data" if isolated else "bare-data") / "redis.sock"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(b"PING\r\n")
            return peer.recv(7) == b"+PONG\r\n"
        return False

    return ask


def prepare(top: Path) -> Path:
    """Lay the examples out in a directory, as their comments say, and once more for who is not isolated."""
    top.chmod(0o755)
    directory = top / "examples/services"
    shutil.copytree(EXAMPLES / "site", top / "examples/site")
    shutil.copytree(EXAMPLES / "services", directory, ignore=shutil.ignore_patterns("redis-data", "ssh-keys"))
    for name, owner in (("redis-data", 1000), ("bare-data", NOBODY), ("ssh-keys", 1000), ("bare-keys", NOBODY)):
        (directory / name).mkdir(mode=0o700)
        if name.endswith("keys"):
            key = str(directory / name / "host_key")
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        for path in (directory / name, *(directory / name).iterdir()):
            os.chown(path, owner, owner)
    replace(directory / "nginx.conf", {"/tmp/": f"{directory}/bare-data/", "/srv;": f"{top}/examples/site;"})
    replace(directory / "redis.conf", {"/var/lib/redis": f"{directory}/bare-data"})
    replace(directory / "sshd_config", {"/etc/ssh/keys": f"{directory}/bare-keys"})
    work = [str(EXAMPLES.parent), str(top / ".git")]
    subprocess.run(["git", "clone", "-q", "--bare", *work], check=True)
    os.chown(top / ".git", NOBODY, NOBODY)
    return directory


def replace(file: Path, words: dict[str, str]) -> None:
    """Write bare-FILE, with the paths that it has outside."""
    text = file.read_text()
    for old, new in words.items():
        text = text.replace(old, new)
    file.with_name(f"bare-{file.name}").write_text(text)


def services(directory: Path, memory: str) -> dict[str, Service]:
    """Every service by the name of its file. memory: a directory in it, for what the sandbox has in /tmp."""
    compile_it = f"cc -O2 -o {memory}/primes {directory}/primes.c && exec {memory}/primes 1000000"
    clone = f"rm -rf {memory}/nstool && exec git clone {directory}/../../.git {memory}/nstool"
    return {
        "nginx": Service(["/usr/sbin/nginx", "-e", "stderr", "-c", f"{directory}/bare-nginx.conf"], http(8080, 8481)),
        "redis": Service(["/usr/bin/redis-server", f"{directory}/bare-redis.conf"], pings(directory)),
        "python_web_app": Service(["/usr/bin/python3", f"{directory}/python_web_app.py"], http(8080, 8482)),
        "git_clone": Service(["sh", "-c", clone]),
        "compile": Service(["sh", "-c", compile_it]),
        "node": Service(["node", f"{directory}/node.js"], http(8080, 8483)),
        "java": Service(["java", "-XX:MaxRAM=512m", f"{directory}/Server.java"], http(8080, 8484)),
        "sshd": Service(["/usr/sbin/sshd", "-D", "-e", "-f", f"{directory}/bare-sshd_config"], speaks),
    }


@contextlib.contextmanager
def started(command: list[str], isolated: bool) -> Iterator[subprocess.Popen[bytes]]:
    """The process, ended at the end."""
    who = {} if isolated else {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **who
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(DEADLINE)


def first_answer(name: str, service: Service, directory: Path, isolated: bool) -> float:
    """Return the milliseconds to the first answer, or to the end of a job."""
    Path("/tmp/words.db").unlink(missing_ok=True)  # of the web app without isolation
    command = [*NSTOOL, str(directory / f"{name}.toml")] if isolated else service.bare
    begin = time.perf_counter()
    with started(command, isolated) as process:
        if service.answered is None:
            status = process.wait(DEADLINE)
            if status:
                raise SystemExit(f"{name}: {command} ended with {status}")
        while service.answered and not service.answered(isolated):
            if process.poll() is not None or time.perf_counter() > begin + DEADLINE:
                raise SystemExit(f"{name}: {command} does not answer, status {process.returncode}")
            time.sleep(PAUSE)
        return (time.perf_counter() - begin) * 1000


def own_network() -> None:
    """Enter a network namespace of our own: no port of the host's is asked for."""
    syscalls.unshare(uapi.CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("names", nargs="*", metavar="SERVICE")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("services: run it as root: published ports and an ordinary user to compare with need that")
    own_network()
    with (
        tempfile.TemporaryDirectory(prefix="nstool-services-") as top,
        tempfile.TemporaryDirectory(dir="/dev/shm") as memory,
    ):
        directory = prepare(Path(top))
        os.chown(memory, NOBODY, NOBODY)
        every = services(directory, memory)
        chosen = {name: every[name] for name in options.names or every}
        rounds: dict[str, list[Sample]] = {f"{name} {how}": [] for name in chosen for how in ("bare", "nstool")}
        for number in range(options.rounds + 1):
            for name, service in chosen.items():
                for isolated in (True, False) if number % 2 else (False, True):
                    taken = first_answer(name, service, directory, isolated)
                    if number:  # the first round fills caches
                        rounds[f"{name} {'nstool' if isolated else 'bare'}"].append({"wall": [taken]})

    print(machine())
    measured = Measured(rounds)
    rows = []
    for name in chosen:
        least, middle = measured.ratios(Claim(f"{name} nstool", f"{name} bare"))
        cells = [
            f"{take(f'{name} {how}'):.0f}" for take in (measured.min, measured.median) for how in ("bare", "nstool")
        ]
        rows.append([name, *cells, f"{least:.1f}", f"{middle:.1f}"])
    what = ("min ms, nothing", "sandbox", "median ms, nothing", "sandbox", "ratio of minima", "median of ratios")
    print(table(["", *what], rows))


if __name__ == "__main__":
    main()
