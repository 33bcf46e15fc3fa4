"""Row I1 (limits): they hold in the sandbox's ipc namespace and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from nstool.namespaces.ipc import FILES
from nstool.spec.model import Ipc
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act

pytestmark = pytest.mark.vm

WANTED: dict[str, object] = {
    "shmmax": 1 << 20,
    "shmall": 512,
    "shmmni": 5,
    "msgmax": 1234,
    "msgmnb": 4321,
    "msgmni": 6,
    "sem": "11\t22\t33\t44",
    "mq_queues_max": 7,
    "mq_msg_max": 8,
    "mq_msgsize_max": 9000,
}


def test_every_limit_is_seen_inside_and_not_outside(act: Act) -> None:
    """All ten files of the namespace; the host's stay as they were."""
    before = {field: Path(path).read_text() for field, path in FILES.items()}

    def look() -> dict[str, str]:
        with boxes.box(ipc=Ipc(**WANTED)) as box:
            assert {field: Path(path).read_text() for field, path in FILES.items()} == before
            return {field: box.ask(f"cat {path}") for field, path in FILES.items()}

    assert act(look) == {field: f"{value}\n" for field, value in WANTED.items()}


def test_a_limit_takes_effect(act: Act) -> None:
    """The kernel refuses a segment above shmmax, and a sixth where shmmni is 5; ipcmk(1) makes them."""

    def make(size: int) -> list[int]:
        with boxes.box(ipc=Ipc(shmmax=1 << 20, shmmni=2)) as box:
            return [int(box.ask(f"ipcmk -M {size} >/dev/null 2>&1; echo $?")) for _ in range(3)]

    assert act(make, 4096) == [0, 0, 1]
    assert act(make, 2 << 20) == [1, 1, 1]


def test_objects_stay_inside(act: Act) -> None:
    """A segment made inside is not in the host's list; the private /proc lists none of the host's."""

    def look() -> tuple[list[str], set[str]]:
        with boxes.box() as box:
            inside = box.ask("ipcmk -M 4096 >/dev/null; ipcs -m | grep 0x").splitlines()
            rows = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
            return inside, {f"{int(row.split()[0]) & 0xFFFFFFFF:#010x}" for row in rows}

    [inside], host = act(look)
    assert inside.split()[0] not in host


def test_limits_of_the_command_line(act: Act) -> None:
    """--ipc LIMIT=VALUE, with the units of sizes."""
    words = ["--ipc", "shmmax=1M", "--ipc", "sem=1 2 3 4"]
    script = "cat /proc/sys/kernel/shmmax /proc/sys/kernel/sem"
    assert act(boxes.nstool_run, *words, "--", "sh", "-c", script) == (0, "1048576\n1\t2\t3\t4\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "ipc", "--ipc", "shmmni=5"], "new ipc namespace"),
        (["--ipc", "shmmmi=5"], "shmmni"),
        (["--ipc", "sem=1 2"], "four numbers"),
    ],
)
def test_wrong_limits_are_refused(act: Act, words: list[str], message: str) -> None:
    """Status 2 and one message; the host's ipc namespace is not changed."""
    ran = act(boxes.nstool, "run", *words, "--", "true")
    assert ran.status == 2, ran
    assert message in ran.err


def test_a_limit_that_the_kernel_refuses(as_root: Act) -> None:
    """The step is named, with the file: status 125."""
    ran = as_root(boxes.nstool, "run", "--ipc", "mq_msg_max=2147483647", "--", "true")
    assert ran.status == 125, ran
    assert "/proc/sys/fs/mqueue/msg_max" in ran.err


def test_the_command_cannot_change_them(act: Act) -> None:
    """/proc/sys is read-only inside, for root too."""
    ran = act(boxes.run, "/bin/sh", "-c", "echo 9 > /proc/sys/kernel/shmmni", user="0:0")
    assert ran.status != 0
    assert "Read-only file system" in ran.err
