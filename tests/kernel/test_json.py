"""What the commands that look print with --json: the keys of docs/json.md, one rule for names and nobodies."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.rows.boxes import NSTOOL
from tests.support.serving import serving

ROOT = Path(__file__).resolve().parents[2]

# By the names of docs/make_json.py; ME is this process, SERVICE a service.
LINES = {
    "ps": "ps",
    "cleanup": "cleanup",
    "check": "check",
    "check SPEC": "check -- true",
    "ls": "ls net",
    "show": "show ME",
    "mounts": "mounts ME",
    "mounts --propagation": "mounts ME --propagation",
    "path": "path ME /",
    "path --from-host": "path ME --from-host /",
    "ipc": "ipc",
    "cgroups": "cgroups",
    "cgroups TARGET": "cgroups ME",
    "cgroups --tree": "cgroups ME --tree",
    "pid": "pid ME",
    "pid --to": "pid ME --to ME",
    "creds": "creds ME",
    "task": "task ME",
    "net": "net ME",
    "aslr": "aslr --launches 2",
    "attest": "attest ME examples/landlock.toml",
    "diff": "diff ME ME",
    "caps show": "caps show ME",
    "caps text": "caps text 0x3",
    "caps get, set, clear": "caps get /bin/sh",
    "seccomp show": "seccomp show default",
    "seccomp test": "seccomp test strict mount",
    "seccomp learn": "seccomp learn -- true",
    "service status": "service status SERVICE",
    "service list": "service list",
    "service attest": "service attest SERVICE",
    "can": "can ME signal ME",
}
SPEC = """command = ["/bin/cat"]
[service]
listen = ["tcp:127.0.0.1:0"]
places = 2
ready = 1
"""


@pytest.fixture(scope="module")
def documented() -> Iterator[Any]:
    """The program that makes docs/json.md."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("make_json")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def pairs(value: object) -> Iterator[tuple[str, object]]:
    """Every key with its value, at any depth, but for those of the reasons why something is not known."""
    for one in value if isinstance(value, list) else ():
        yield from pairs(one)
    for key, one in value.items() if isinstance(value, dict) else ():
        yield key, one
        if key != "unread":
            yield from pairs(one)


def test_every_command_is_tried(documented: Any) -> None:
    assert set(LINES) == set(documented.COMMANDS)


@pytest.mark.needs("root", "native")
@pytest.mark.parametrize("command", LINES)
def test_the_keys_are_those_of_the_document(command: str, documented: Any, name: str, tmp_path: Path) -> None:
    """An object with a version; command is a list and comm a text; nobody has the pid 0."""
    words = [{"ME": str(os.getpid()), "SERVICE": name}.get(word, word) for word in LINES[command].split()]
    at = words.index("--") if "--" in words else len(words)
    spec = tmp_path / "spec.toml"
    spec.write_text(SPEC)
    with serving(spec, name) if name in words else nullcontext():
        done = subprocess.run([*NSTOOL, *words[:at], "--json", *words[at:]], capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert set(found) == documented.keys(command)
    assert found["version"] == 1
    for key, value in pairs(found):
        assert key != "command" or isinstance(value, list)
        assert key != "comm" or isinstance(value, str)
        assert key not in ("pid", "tid", "ppid", "pgid", "sid") or value is False or value != 0
