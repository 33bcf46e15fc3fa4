"""Conditions on records, as ``type == net and members == 0``: some forms of Python's expressions, not run as Python."""

from __future__ import annotations

import ast
import operator
import warnings

from nstool.errors import SpecError
from nstool.spec.values import quoted, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, TypeAlias

    Row: TypeAlias = Mapping[str, Any]
    Test: TypeAlias = Callable[[Row], bool]

LONGEST = 1000  # characters

_ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SIGNS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.LtE: "<=",
    ast.GtE: ">=",
    ast.Lt: "<",
    ast.Gt: ">",
}
_NAMES = {int: "a number", str: "a word", list: "a list", type(None): "none"}


class _Term:
    # One side of a comparison. kind: int, str, list or type(None). field: its name, "" for what was written out.
    def __init__(self, kind: type, value: object, field: str = "", node: ast.expr | None = None) -> None:
        self.kind = kind
        self.value = value
        self.field = field
        self.node = node

    def of(self, row: Row) -> Any:
        return row[self.field] if self.field else self.value


class Where:
    """A condition, compiled: ``where(row)`` says whether a row meets it. uses: the fields that it looks at.

    fields: what a row has: int, str or list by name; a value may be None, which is less and greater than nothing.
    words: the only values of a field, by its name. place: what an error names, as "--where".

    ``==  !=  <  <=  >  >=  in  not in  and  or  not  ( )``; numbers; words, quoted where they are no identifier;
    ``none``; ``(a, b)`` after ``in``, which also finds a part of a word and an element of a list. A field alone: is it
    anything but 0, "", empty and none. A word that is one of the only values of the field beside it is that, also if it
    is the name of a field. Raises SpecError, with the place of what is wrong.
    """

    def __init__(
        self, text: str, fields: Mapping[str, type], words: Mapping[str, Collection[str]] | None = None, place: str = ""
    ) -> None:
        self.fields = fields
        self.words = words or {}
        self.place = place
        self.uses: set[str] = set()
        if not text.strip():
            raise SpecError("is empty; write a condition, as 'members == 0'", place)
        if len(text) > LONGEST:
            raise SpecError(f"is longer than {LONGEST} characters", place)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in strings, meant for programs
                tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as error:
            raise SpecError(f"{quoted(text)}: {_syntax(text, error)}", place) from None
        except (ValueError, RecursionError, MemoryError):  # a zero byte; hundreds of brackets
            raise SpecError(f"{quoted(text)} is no condition", place) from None
        self._text = text.strip()
        self._skipped = len(text) - len(text.lstrip())
        self._test = self._condition(tree.body)

    def __call__(self, row: Row) -> bool:
        return self._test(row)

    def _condition(self, node: ast.expr) -> Test:
        if isinstance(node, ast.BoolOp):
            tests = [self._condition(value) for value in node.values]
            if isinstance(node.op, ast.And):
                return lambda row: all(test(row) for test in tests)
            return lambda row: any(test(row) for test in tests)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            test = self._condition(node.operand)
            return lambda row: not test(row)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Name) and node.id in self.fields:
            self.uses.add(node.id)
            return lambda row: bool(row[node.id])
        if isinstance(node, ast.Name):
            raise self._error(node, f"is no field{suggest(node.id, self.fields)}")
        raise self._error(node, "is no condition; compare a field with something, as members == 0")

    def _comparison(self, node: ast.Compare) -> Test:
        sides = [node.left, *node.comparators]
        known = {word for side in sides if isinstance(side, ast.Name) for word in self.words.get(side.id, ())}
        terms = [self._term(side, known) for side in sides]
        if not any(term.field for term in terms):
            word = next((side.id for side in sides if isinstance(side, ast.Name)), "")
            raise self._error(node, f"names no field{suggest(word, self.fields)}")
        tests = [self._pair(left, op, right) for left, op, right in zip(terms, node.ops, terms[1:])]
        return tests[0] if len(tests) == 1 else lambda row: all(test(row) for test in tests)

    def _term(self, node: ast.expr, known: Collection[str]) -> _Term:
        if isinstance(node, ast.Name) and node.id in self.fields and node.id not in known:
            self.uses.add(node.id)
            return _Term(self.fields[node.id], None, node.id, node)
        if isinstance(node, ast.Name) and node.id not in known and node.id == "none":
            return _Term(type(None), None, node=node)
        if isinstance(node, ast.Name):
            return _Term(str, node.id, node=node)
        if isinstance(node, ast.Constant) and type(node.value) in (int, str, type(None)):
            return _Term(type(node.value), node.value, node=node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = node.operand.value
            if type(number) is int:
                return _Term(int, -number, node=node)
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            terms = [self._term(element, known) for element in node.elts]
            if all(not term.field and term.kind is not list for term in terms):
                return _Term(list, [term.value for term in terms], node=node)
        raise self._error(node, "can be no side of a comparison; quote a word that is no identifier: 'a-b'")

    def _pair(self, left: _Term, op: ast.cmpop, right: _Term) -> Test:
        for field, other in ((left.field, right), (right.field, left)):
            self._check_words(field, other)
        if isinstance(op, (ast.In, ast.NotIn)):
            return self._membership(left, isinstance(op, ast.In), right)
        if type(op) not in _SIGNS:
            raise self._error(left.node, f"cannot be compared so; write one of {' '.join(_SIGNS.values())} in")
        if list in (left.kind, right.kind):
            raise self._error(right.node if right.kind is list else left.node, "is a list; ask what is in it")
        equality = isinstance(op, (ast.Eq, ast.NotEq))
        if left.kind is not right.kind and not (equality and type(None) in (left.kind, right.kind)):
            kinds = f"{_NAMES[left.kind]} with {_NAMES[right.kind]}"
            raise self._error(left.node, f"{_SIGNS[type(op)]} {self._source(right.node)} compares {kinds}")
        if isinstance(op, ast.Eq):
            return lambda row: bool(left.of(row) == right.of(row))
        if isinstance(op, ast.NotEq):
            return lambda row: bool(left.of(row) != right.of(row))
        order = _ORDERS[type(op)]

        def compare(row: Row) -> bool:
            a, b = left.of(row), right.of(row)
            return a is not None and b is not None and order(a, b)

        return compare

    def _membership(self, left: _Term, wanted: bool, right: _Term) -> Test:
        if right.kind not in (list, str) or left.kind is list or (right.kind is str and left.kind is not str):
            raise self._error(left.node, f"can not be in {self._source(right.node)}, which is {_NAMES[right.kind]}")

        def contains(row: Row) -> bool:
            a, b = left.of(row), right.of(row)
            return (b is not None and (a is not None or right.kind is list) and a in b) is wanted

        return contains

    def _check_words(self, field: str, other: _Term) -> None:
        if field not in self.words or other.field:
            return
        for value in other.value if isinstance(other.value, list) else (other.value,):
            if isinstance(value, str) and value not in self.words[field]:
                raise self._error(other.node, f"is no {field}{suggest(value, self.words[field])}")

    def _source(self, node: ast.expr | None) -> str:
        return quoted((node and ast.get_source_segment(self._text, node)) or self._text)

    def _error(self, node: ast.expr | None, message: str) -> SpecError:
        return SpecError(f"{self._source(node)}{self._at(node)} {message}", self.place)

    def _at(self, node: ast.expr | None) -> str:
        if node is None or (node.lineno == 1 and not node.col_offset):
            return ""
        if node.lineno > 1:
            return f" in line {node.lineno}"
        before = self._text.encode()[: node.col_offset].decode()  # Python counts bytes here
        return f" at character {self._skipped + len(before) + 1}"


def _syntax(text: str, error: SyntaxError) -> str:
    left = text
    for sign in _SIGNS.values():
        left = left.replace(sign, " ")
    if "=" in left:
        return "= compares nothing; write =="
    return f"{error.msg} at character {len(text) - len(text.lstrip()) + (error.offset or 1)}"
