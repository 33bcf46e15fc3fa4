"""Frozen records: plain immutable classes that cost nothing to import.

``dataclasses`` and ``msgspec`` each cost more to import than the whole interpreter start
(docs/adr/0003-import-cost.md), so the types that every launch needs are built on this.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import inspect
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda cls: cls


class _Signature:
    # What inspect.signature() and help() show of a record, made when they ask.
    def __get__(self, record: object, cls: type[Frozen]) -> inspect.Signature:
        if record is not None or cls.__init__ is not Frozen.__init__:
            raise AttributeError("__signature__")
        import inspect

        hints: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            hints |= base.__dict__.get("__annotations__", {})
        parameters = [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=cls.__defaults__.get(name, inspect.Parameter.empty),
                annotation=hints[name],
            )
            for name in cls.__fields__
        ]
        return inspect.Signature(parameters)


@dataclass_transform(frozen_default=True, kw_only_default=False)
class Frozen:
    """Base of immutable records: annotations are the fields, class values their defaults.

    Positional and keyword construction, equality, hash, repr, pickling and ``replace``.
    Fields are checked for presence, not for type: ``spec.load`` checks types of foreign data.
    """

    __fields__: ClassVar[tuple[str, ...]] = ()
    __positions__: ClassVar[dict[str, int]] = {}
    __defaults__: ClassVar[dict[str, object]] = {}
    __signature__: ClassVar = _Signature()

    def __init_subclass__(cls) -> None:
        own = [name for name in cls.__dict__.get("__annotations__", {}) if not name.startswith("__")]
        cls.__fields__ = tuple(dict.fromkeys((*cls.__fields__, *own)))
        cls.__positions__ = {name: number for number, name in enumerate(cls.__fields__)}
        cls.__defaults__ = {**cls.__defaults__, **{n: cls.__dict__[n] for n in own if n in cls.__dict__}}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # A launch makes hundreds of records: first all is put in place, then it is looked at whether that was right.
        fields, values = self.__fields__, self.__dict__
        values.update(self.__defaults__)
        values.update(zip(fields, args))
        if kwargs:
            positions = self.__positions__
            for name in kwargs:
                if positions.get(name, -1) < len(args):
                    how = f"got field {name!r} twice" if name in positions else f"has no field {name!r}"
                    raise TypeError(f"{type(self).__name__} {how}")
            values.update(kwargs)
        if len(args) > len(fields):
            raise TypeError(f"{type(self).__name__} takes {len(fields)} fields, got {len(args)}")
        if len(values) < len(fields):
            missing = ", ".join(n for n in fields if n not in values)
            raise TypeError(f"{type(self).__name__} needs {missing}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *(_hashable(self.__dict__[n]) for n in self.__fields__)))

    def __repr__(self) -> str:
        body = ", ".join(f"{n}={self.__dict__[n]!r}" for n in self.__fields__)
        return f"{type(self).__name__}({body})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.__dict__[n] for n in self.__fields__)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})

    def asdict(self) -> dict[str, Any]:
        """Return the fields as a dict of plain JSON values, nested records included."""
        return {n: _plain(self.__dict__[n]) for n in self.__fields__}

    def changed(self) -> dict[str, Any]:
        """Return as ``asdict`` the fields that differ from their defaults."""
        values, defaults = self.__dict__, self.__defaults__
        return {n: _plain(values[n]) for n in self.__fields__ if n not in defaults or values[n] != defaults[n]}


def _hashable(value: object) -> object:
    # A field may be a dict, which nobody changes.
    return frozenset((k, _hashable(v)) for k, v in value.items()) if isinstance(value, dict) else value


def _plain(value: object) -> object:
    if isinstance(value, Frozen):
        return value.asdict()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(v) for v in value)  # type: ignore[type-var]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
