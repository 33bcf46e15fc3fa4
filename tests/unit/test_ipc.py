"""How objects of an IPC namespace and its limits are named."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("nstool._native", reason="nstool._native is not built; run make build")

from nstool.errors import SpecError
from nstool.sandbox.ipc import LIMITS, Object, read_limit, read_object


def test_objects() -> None:
    cases = {
        "shm:0": Object("shm", 0),
        "sem:2147483647": Object("sem", (1 << 31) - 1),
        "msg:007": Object("msg", 7),
        "mq:/jobs": Object("mq", name="/jobs"),
        "mq:/a b:c": Object("mq", name="/a b:c"),
    }
    assert {text: read_object(text) for text in cases} == cases
    assert [str(one) for one in cases.values()] == ["shm:0", "sem:2147483647", "msg:7", "mq:/jobs", "mq:/a b:c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no object"),
        ("shm", "names no object"),
        ("SHM:1", "names no object"),
        ("pipe:1", "names no object"),
        ("shm:", "no id of a shared memory segment"),
        ("shm:-1", "no id"),
        ("shm:0x1", "no id"),
        ("sem:2147483648", "no id of a semaphore set"),
        ("msg:\u0661", "no id of a message queue"),
        ("mq:jobs", "a slash begins it"),
        ("mq:/", "a slash begins it"),
        ("mq:/a/b", "a slash begins it"),
        ("mq:/" + "x" * 256, "1 to 255 bytes"),
        ("mq:/" + "ü" * 128, "1 to 255 bytes"),
    ],
)
def test_what_names_no_object(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_object(text)


def test_limits() -> None:
    cases = {
        "shmmax=64M": ("shmmax", str(64 << 20)),
        "kernel.shmmax=1k": ("shmmax", "1024"),
        "shmmax=18446744073692774399": ("shmmax", "18446744073692774399"),
        "shmall=0": ("shmall", "0"),
        "fs.mqueue.msg_max=5": ("mq_msg_max", "5"),
        "mq_msgsize_default=8k": ("mq_msgsize_default", "8192"),
        "sem=1 2\t3  4": ("sem", "1 2 3 4"),
        "kernel.sem=1 2 3 4": ("sem", "1 2 3 4"),
    }
    assert {text: read_limit(text) for text in cases} == cases
    assert all(path.startswith("/proc/sys/") for path in LIMITS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shmmax", "has no value; write shmmax=VALUE"),
        ("=5", "write LIMIT=VALUE"),
        ("shmmaxx=5", 'did you mean "shmmax"'),
        ("kernel.pid_max=5", "no limit of an ipc namespace"),
        ("shmmni=4k", "shmmni: .* is not an integer"),
        ("shmmax=lots", "shmmax: .* is not a size"),
        ("sem=1 2 3", "sem: write four numbers"),
        ("sem=1 2 3 x", "sem: .* is not an integer"),
        ("shmmax=", "is not a size"),
    ],
)
def test_what_is_no_limit(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_limit(text)


@given(st.text(), st.sampled_from(["", "shm:", "mq:", "mq:/", "sem=", "shmmax=", "kernel."]))
def test_nothing_else_is_raised(text: str, start: str) -> None:
    """Whatever is written is taken or refused with a message."""
    for read in (read_object, read_limit):
        with contextlib.suppress(SpecError):
            read(start + text)
