"""Values that go from one process to another as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import KernelError, NotSupported, NstoolError, SandboxGone, SpecError
from nstool.frozen import Frozen
from nstool.sandbox.plain import dumps, loads


class Record(Frozen):
    one: object
    two: tuple[object, ...] = ()


ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary()
ATOMS |= st.text(st.characters(exclude_categories=["Cs"])) | st.binary().map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
KEYS = st.integers() | st.text(st.characters(exclude_categories=["Cs"])) | st.tuples(st.integers(), st.binary())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(KEYS, inner)
        | st.frozensets(KEYS)
        | st.sets(KEYS)
        | st.builds(Record, inner, st.lists(inner).map(tuple))
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_told_comes_back(value: object) -> None:
    found = loads(dumps(value))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "error",
    [
        KernelError("setns", 1, "step 1", "why", ("a",), ("b",), True),
        SpecError("bad", "place"),
        NotSupported("what", "cause", "remedy"),
        SandboxGone("gone"),
        NstoolError("it"),
        FileNotFoundError(2, "No such file", "/x"),
        RuntimeError("KeyError: 1"),
    ],
)
def test_errors_come_back(error: Exception) -> None:
    found = loads(dumps(error))
    assert type(found) is type(error)
    assert (found.args, str(found), vars(found)) == (error.args, str(error), vars(error))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\x80\x04N.",
        b'["nstool", "os", "system", "true"]',
        b'["nstool", "nstool.frozen", "_plain", 1]',
        b'["nstool", "nstool.errors", "os", 1]',
        b'["nstool", "not.loaded", "Record"]',
        b'["nstool", "nstool.errors", "KernelError"]',
        b'["dict", [["list"], 1]]',
        b'["eval", "1"]',
        b"[" * 100_000,
        b'["bytes", 1]',
    ],
)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no value of ours"):
        loads(data)


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(TypeError, match="a function cannot be told"):
        dumps(dumps)
