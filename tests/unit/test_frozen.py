"""Records tell what they are made of."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from nstool.frozen import Frozen
from nstool.spec import model

RECORDS = [
    cls for cls in vars(model).values() if isinstance(cls, type) and issubclass(cls, Frozen) and cls is not Frozen
]


class Base(Frozen):
    first: int
    second: str = "b"


class Longer(Base):
    third: tuple[int, ...] = ()


class Own(Base):
    def __init__(self, text: str) -> None:
        super().__init__(int(text))


@pytest.mark.parametrize("record", RECORDS, ids=lambda cls: cls.__name__)
def test_signature_has_the_fields(record: type[Frozen]) -> None:
    """inspect.signature and help show each field with its default, so that an editor can."""
    found = inspect.signature(record).parameters
    assert tuple(found) == record.__fields__
    assert {n: p.default for n, p in found.items() if p.default is not p.empty} == record.__defaults__


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (Base, "(first: 'int', second: 'str' = 'b')"),
        (Longer, "(first: 'int', second: 'str' = 'b', third: 'tuple[int, ...]' = ())"),
        (Own, "(text: 'str') -> 'None'"),
    ],
)
def test_signature_of_a_class(record: Any, text: str) -> None:
    """Fields of a base come first; a class with an __init__ of its own has that one's."""
    assert str(inspect.signature(record)) == text


def test_a_record_itself_cannot_be_called() -> None:
    """Only its class has a signature."""
    assert not hasattr(Base(1), "__signature__")
