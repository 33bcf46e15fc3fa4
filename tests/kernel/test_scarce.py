"""Too few files, a run directory that is full, closed or somebody else's: one message that helps, nothing left."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

NSTOOL = str(Path(sys.prefix) / "bin" / "nstool")
CANNOT = 125

pytestmark = pytest.mark.needs("root", "native", "nsexec")

SPECS = {"plain.toml": 'command = ["true"]', "veth.toml": 'command = ["true"]\nnet.mode = "veth"'}
FILES = range(4, 33)  # 3 is too little for the Python interpreter


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in SPECS.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def limited(files: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run nstool where only so many files can be open."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    return subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=60, preexec_fn=limit)


@pytest.mark.needs("veth", "nft")
@pytest.mark.usefixtures("specs")
@pytest.mark.parametrize(
    "words",
    [
        ("run", "--", "true"),
        ("run", "plain.toml"),
        ("run", "veth.toml"),
        ("run", "--detach", "--", "true"),
        ("plan", "veth.toml"),
        ("check", "veth.toml"),
        ("compile", "-o", "out.plan", "--force", "plain.toml"),
        ("exec", "NAME", "--", "true"),
        ("ps", "--json"),
        ("cleanup",),
    ],
    ids=" ".join,
)
@pytest.mark.orphans
def test_few_files(words: tuple[str, ...], name: str) -> None:
    """With every limit it goes well, or the message is what, cause and remedy; leftovers there are none."""
    box = subprocess.Popen(
        [NSTOOL, "run", "--name", name, "--", "sh", "-c", "echo ready; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert box.stdout is not None
    assert box.stdout.readline() == b"ready\n"
    try:
        went_well = []
        for files in FILES:
            done = limited(files, *(name if word == "NAME" else word for word in words))
            if done.returncode == 0:
                went_well.append(files)
                continue
            said = done.stderr.splitlines()
            assert done.returncode == CANNOT, (files, done)
            assert said[0].startswith("nstool: "), (files, done)
            assert [line.partition(":")[0] for line in said[1:]] == ["purpose", "cause", "remedy"], (files, done)
            assert "ulimit -n" in said[-1], (files, done)
        assert went_well == list(FILES)[-len(went_well) :]
        assert 24 not in went_well
    finally:
        box.communicate(b"\n")
