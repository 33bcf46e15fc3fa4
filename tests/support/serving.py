"""Services that ``nstool serve`` runs for a test, and clients of theirs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nstool.service import generation
from nstool.service.generation import Generation
from tests.support.services import DEADLINE, NSTOOL


class Serving(NamedTuple):
    """name: of the service. process: nstool serve. log: file of what it says, with what its commands do."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def status(self) -> dict[str, Any]:
        """Return what ``nstool service status --json`` says."""
        done = subprocess.run([NSTOOL, "service", "status", self.name, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + self.log.read_text()
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def tell(self, *words: str) -> str:
        """Return what ``nstool service WORDS NAME`` prints."""
        done = subprocess.run([NSTOOL, "service", *words, self.name], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + self.log.read_text()
        return done.stdout

    def port(self, number: int = 0) -> int:
        """Return the port of a listener."""
        return int(self.status()["listening"][number].rpartition(":")[2])

    def until(self, holds: Any, what: str) -> dict[str, Any]:
        """Wait until something holds of the status, and return that."""
        end = time.monotonic() + DEADLINE
        while True:
            found = self.status()
            if holds(found):
                return found
            assert time.monotonic() < end, f"{what}: {found}\n{self.log.read_text()}"
            time.sleep(0.05)


def start(spec: Path, name: str, log: Path, *options: str) -> Serving:
    """Start a service and wait until it takes connections."""
    with log.open("ab") as out:
        begun = out.tell()
        command = [NSTOOL, "serve", "--name", name, *options, str(spec)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
    one = Serving(name, process, log)
    wait(one, begun)
    return one


def wait(one: Serving, begun: int) -> None:
    """Wait until a service takes connections. begun: bytes of its log that are of before."""
    end = time.monotonic() + DEADLINE
    while b"takes connections" not in one.log.read_bytes()[begun:]:
        if one.process.poll() is not None or time.monotonic() > end:
            one.process.kill()
            one.process.wait()
            raise AssertionError(one.log.read_text())
        time.sleep(0.01)


def stop(one: Serving) -> int:
    """End a service as a service manager does, at once if it does not; its status."""
    one.process.terminate()
    try:
        return one.process.wait(DEADLINE / 2)
    except subprocess.TimeoutExpired:
        one.process.terminate()  # told twice
        return one.process.wait(DEADLINE)


@contextlib.contextmanager
def serving(spec: Path, name: str, *options: str) -> Iterator[Serving]:
    """A service for the time of a block."""
    one = start(spec, name, spec.with_suffix(".log"), *options)
    try:
        yield one
    finally:
        assert stop(one) == 0, one.log.read_text()


@contextlib.contextmanager
def killed(one: Serving) -> Iterator[Generation]:
    """Kill the process of a service, and be in its place for the one generation that it has left; remove that then."""
    one.process.kill()
    one.process.wait()
    [template] = generation.adopt(one.name)
    try:
        yield template
    finally:
        template.leave()
        os.kill(template.pid, signal.SIGKILL)
        os.waitpid(template.pid, 0)  # it has come to the tests, a subreaper
        assert subprocess.run([NSTOOL, "cleanup"], capture_output=True).returncode == 0


def write(path: Path, service: str, *words: str, limits: str = "") -> Path:
    """Write a spec: the lines of its [service] table, and those before it. It has few places by itself."""
    if "places" not in service:
        service += "\nplaces = 4"
    path.write_text("\n".join((*words, "[limits]", "cpu = 0", limits, "[service]", service)) + "\n")
    return path


def ask(port: int, said: bytes = b"") -> bytes:
    """Connect, say something, and return the whole answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as one:
        one.sendall(said)
        with contextlib.suppress(OSError):  # ENOTCONN: the other end has reset it meanwhile, which the answer tells
            one.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: one.recv(65536), b""))


class Traffic:
    """What clients have had: how many answers, and those that were wrong, or errors."""

    def __init__(self) -> None:
        self.done = 0
        self.wrong: list[tuple[bytes, object]] = []


@contextlib.contextmanager
def traffic(port: int, clients: int) -> Iterator[Traffic]:
    """For the time of a block so many clients ask a service that echoes, one connection after the other."""
    found = Traffic()
    stop, lock = threading.Event(), threading.Lock()

    def client() -> None:
        while not stop.is_set():
            said = os.urandom(8).hex().encode()
            heard: object
            try:
                heard = ask(port, said)
            except OSError as error:
                heard = error
            with lock:
                found.done += 1
                if heard != said:
                    found.wrong.append((said, heard))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for each in threads:
        each.start()
    try:
        yield found
    finally:
        stop.set()
        for each in threads:
            each.join()
