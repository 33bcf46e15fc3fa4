"""The examples of services, run by nstool from their files, and what they need beside those."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.probes import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
NSTOOL = str(Path(sys.prefix) / "bin/nstool")
DEADLINE = 300.0  # seconds for the slowest start on a busy or emulated machine: a sandbox has little weight there
NO_LIMITS = ("--memory", "0", "--pids", "0", "--cpu", "0")  # for who has no cgroup
WEIGHT = ("--cpu", "0")  # the usual weight: with the default the other workers of the tests come first
ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@b",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}


class Ended(AssertionError):
    """The service has ended and was not asked to."""


class WrongAnswer(AssertionError):
    """The service answers, and not as it should: waiting changes nothing."""


def is_right(answer: str, right: bool) -> bool:
    """Return whether there is an answer. Raises WrongAnswer for one that is not right."""
    if answer and not right:
        raise WrongAnswer(answer)
    return bool(answer)


class Running(NamedTuple):
    """name: of the sandbox. process: nstool, or what stays of it. log: file of both outputs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def until(self, probe: Callable[[], bool], seconds: float = DEADLINE) -> float:
        """Wait until the probe agrees; return the seconds that took. Raises Ended, TimeoutError."""
        start = time.monotonic()
        while not probe():
            if self.process.poll() is not None:
                raise Ended(f"status {self.process.returncode}: {self.log.read_text()}")
            if time.monotonic() > start + seconds:
                raise TimeoutError(f"no answer in {seconds:.1f} s: {self.log.read_text()}")
            time.sleep(0.01)
        return time.monotonic() - start

    def stop(self) -> int:
        """End it as a service manager does; return its status."""
        self.process.terminate()
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def running(name: str, spec: Path, *options: str) -> Iterator[Running]:
    """``nstool run`` of a spec, in the foreground, from a directory that is not the spec's."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log")
        with log.open("wb") as out:
            command = [NSTOOL, "run", "--name", name, *WEIGHT, *options, str(spec)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/")
        service = Running(name, process, log)
        try:
            yield service
        finally:
            service.stop()


def lay_out(top: Path, owner: int) -> Path:
    """Return examples/services of a copy of the examples in top, with what their comments tell to make beside them.

    owner: whose the data and keys are. A key to log in by is top/id.
    """
    shutil.copytree(EXAMPLES / "site", top / "examples/site")
    services = top / "examples/services"
    ignore = shutil.ignore_patterns("redis-data", "ssh-keys")  # of who uses this checkout
    shutil.copytree(EXAMPLES / "services", services, ignore=ignore)
    (services / "redis-data").mkdir(mode=0o700)
    keys = services / "ssh-keys"
    keys.mkdir(mode=0o700)
    if shutil.which("ssh-keygen"):
        for key in (keys / "host_key", top / "id"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (top / "id.pub").rename(keys / "authorized_keys")
    for path in (services / "redis-data", keys, *keys.iterdir()):
        os.chown(path, owner, owner if os.geteuid() == 0 else -1)
    if shutil.which("git"):
        repository(top)
    return services


def repository(top: Path) -> None:
    """A bare repository with one commit, top/.git."""
    work = top / "work"
    work.mkdir()
    (work / "file").write_text("cloned\n")
    for words in (
        ("init", "-q"),
        ("add", "file"),
        ("commit", "-q", "-m", "first"),
        ("clone", "-q", "--bare", ".", str(top / ".git")),
    ):
        environment = {**os.environ, **ENVIRONMENT, "HOME": str(top), "GIT_CONFIG_NOSYSTEM": "1"}
        subprocess.run(["git", *words], cwd=work, env=environment, check=True)


def read(spec: Path) -> dict[str, Any]:
    """Return what a spec says."""
    return tomllib.loads(spec.read_text())


def write(spec: Path, changed: dict[str, Any]) -> Path:
    """Return a spec beside another, so that relative paths are the same."""
    other = spec.with_name(f"{spec.stem}-{os.getpid()}.json")
    other.write_text(json.dumps(changed))
    return other


def on_port(words: dict[str, Any], port: int) -> dict[str, Any]:
    """Return the spec with another port of the host."""
    changed = copy.deepcopy(words)
    if "net" in changed:
        changed["net"]["publish"] = [f"127.0.0.1:{port}:{changed['net']['publish'][0].rpartition(':')[2]}"]
    return changed


def without_each(words: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each word that loosens the default: its place, and the spec without it."""
    for number, mount in enumerate(words.get("mounts", [])):
        yield f"mounts[{number}]", words | {"mounts": [other for other in words["mounts"] if other != mount]}
        source, target, *options = mount.split(":")
        for option in options[0].split(",") if options else []:
            left = ",".join(other for other in options[0].split(",") if other != option)
            changed = [*words["mounts"]]
            changed[number] = f"{source}:{target}:{left}".rstrip(":")
            yield f"mounts[{number}]:{option}", words | {"mounts": changed}
    for key in words.get("net", {}):
        yield f"net.{key}", words | {"net": {other: value for other, value in words["net"].items() if other != key}}
    other_keys = words.keys() - {"command", "mounts", "net"}
    for key in sorted(other_keys):
        yield key, {other: value for other, value in words.items() if other != key}
