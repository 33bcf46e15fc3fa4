"""Seccomp policies in the language of kafel, which nsjail takes, as rules. https://github.com/google/kafel

Not supported, and said so: #include, USER_NOTIF and TRACE (they need another process), comparing two arguments.
"""

from __future__ import annotations

from typing import Any

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.security import seccomp_lists as lists
from nstool.security import seccomp_rules as r
from nstool.security.seccomp_arguments import ALL, arguments
from nstool.security.seccomp_rules import Compare, Rule, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import NoReturn

    from lark import Token, Tree

# Statements may be parted by commas and semicolons or by nothing, as kafel's samples have it.
_GRAMMAR = r"""
start: (_statement | "," | ";")*
_statement: define | include | policy | default | block | use
define: "#" "define" NAME number
include: "#" "include" STRING+
policy: "POLICY" NAME "{" _body? "}"
_body: (block | use) (","? (block | use))* ","?
use: "USE" NAME
default: "DEFAULT" action
block: action "{" (call ("," call)* ","?)? "}"
action: ACTION ("(" value ")")?
call: _which names? condition? guard?
_which: NAME | number_call
number_call: "SYSCALL" "[" value "]"
names: "(" (NAME ("," NAME)*)? ")"
condition: "{" _any? "}"
guard: "ON" (NAME | "{" NAME ("," NAME)* "}")
_any: either
either: or_ ("," or_)*
or_: and_ ("||" and_)*
and_: _term ("&&" _term)*
_term: not_ | compare | "(" either ")"
not_: "!" _term
compare: _operand OPERATOR _operand
_operand: masked | flags | "(" _operand ")"
masked: flags "&" _flags
_flags: flags | "(" flags ")"
flags: value ("|" value)*
value: NUMBER | NAME
number: NUMBER
ACTION.2: /(ALLOW|LOG|KILL_THREAD|KILL_PROCESS|KILL|DENY|ERRNO|TRAP|TRACE|USER_NOTIF)\b/
OPERATOR: "==" | "!=" | "<=" | ">=" | "<" | ">"
NUMBER: /0x[0-9a-fA-F]+|0b[01]+|-?[0-9]+/
NAME: /[A-Za-z_][A-Za-z0-9_]*/
STRING: /"[^"\n]*"/
%ignore /[ \t\r\n]+/
%ignore /\/\/[^\n]*/
%ignore /\/\*(.|\n)*?\*\//
"""
_ACTIONS = {
    "ALLOW": r.ALLOW,
    "LOG": r.LOG,
    "KILL": r.KILL_THREAD,
    "KILL_THREAD": r.KILL_THREAD,
    "DENY": r.KILL_THREAD,
    "KILL_PROCESS": r.KILL_PROCESS,
    "ERRNO": r.ERRNO,
    "TRAP": r.TRAP,
}
# Names of the kernel's functions, which kafel takes, for those of syscalls(2).
_ALIASES = {
    "newstat": "stat",
    "newlstat": "lstat",
    "newfstat": "fstat",
    "newuname": "uname",
    "umount": "umount2",
    "sendfile64": "sendfile",
}
_HERE = ("x86_64", "amd64")
_ARCHITECTURES = (*_HERE, "x86", "i386", "arm", "aarch64", "mips", "mips64", "mipso32", "riscv64", "m68k", "s390x")
_MOST = 256  # alternatives into which the conditions of one call may fall apart


class _Argument(Frozen):
    """An operand that is an argument: its number, and the bits that are looked at."""

    arg: int
    mask: int


def read(text: str) -> Rules:
    """Return the rules in a policy. Raises SpecError with the line as its place."""
    return _Reader().read(_parsed(text))


def _parsed(text: str) -> Tree[Token]:
    import lark

    try:
        parser = lark.Lark(_GRAMMAR, parser="lalr", propagate_positions=True, keep_all_tokens=False)
        return parser.parse(text)
    except lark.exceptions.UnexpectedInput as error:
        raise SpecError(_unexpected(error, text), str(max(error.line, 1))) from None


def _unexpected(error: Any, text: str) -> str:
    from nstool.spec.values import quoted

    token = getattr(error, "token", None)
    found = str(token) if token is not None else text[error.pos_in_stream : error.pos_in_stream + 1]
    if getattr(token, "type", "") == "$END" or not found:
        return 'the policy ends in the middle of a statement; a "}" or a name is missing'
    return f"{quoted(found)} is not expected here, in column {max(error.column, 1)}"


class _Reader:
    """What is defined so far; later statements see earlier ones alone."""

    def __init__(self) -> None:
        self.constants: dict[str, int] = {}
        self.policies: dict[str, tuple[Rule, ...]] = {}
        self.default: int | None = None

    def read(self, tree: Tree[Token]) -> Rules:
        rules: list[Rule] = []
        for statement in tree.children:
            assert not isinstance(statement, str)
            if statement.data == "define":
                self._define(statement)
            elif statement.data == "include":
                _fail("#include is not supported: put the text of the file in its place", statement)
            elif statement.data == "policy":
                self._policy(statement)
            elif statement.data == "default":
                if self.default is not None:
                    _fail("DEFAULT is given twice", statement)
                self.default = self._action(statement.children[0])
            else:
                rules += self._body([statement])
        if not rules and self.policies and self.default is None:
            raise SpecError("no policy is used: end with USE NAME DEFAULT ACTION", "1")
        return Rules(r.KILL_THREAD if self.default is None else self.default, tuple(rules))

    def _define(self, tree: Any) -> None:
        name, number = str(tree.children[0]), _number(str(tree.children[1].children[0]), tree)
        if name in self.constants:
            _fail(f"the constant {name} is defined twice", tree)
        self.constants[name] = number

    def _policy(self, tree: Any) -> None:
        name = str(tree.children[0])
        if name in self.policies:
            _fail(f"the policy {name} is defined twice", tree)
        self.policies[name] = tuple(self._body(tree.children[1:]))

    def _body(self, statements: Sequence[Any]) -> Iterator[Rule]:
        from nstool.spec.values import suggest

        for statement in statements:
            if statement.data == "use":
                name = str(statement.children[0])
                if name not in self.policies:
                    _fail(f"no policy {name} is defined before{suggest(name, self.policies)}", statement)
                yield from self.policies[name]
                continue
            action = self._action(statement.children[0])
            for call in statement.children[1:]:
                yield from self._call(call, action)

    def _action(self, tree: Any) -> int:
        word = str(tree.children[0])
        given = [self._value(child) for child in tree.children[1:]]
        if word in ("USER_NOTIF", "TRACE"):
            who = "a listener" if word == "USER_NOTIF" else "a tracer"
            _fail(f"{word} needs {who}, which nstool is not: choose another action", tree)
        if bool(given) != (word in ("ERRNO", "TRAP")):
            _fail(f"{word} takes {'no number' if given else 'a number in brackets'}", tree)
        if given and not 0 <= given[0] <= r.DATA:
            _fail(f"{word} takes a number from 0 to {r.DATA}", tree)
        return _ACTIONS[word] | (given[0] if given else 0)

    def _value(self, tree: Any) -> int:
        token = str(tree.children[0])
        if token in self.constants:
            return self.constants[token]
        if token[0].isdigit() or token[0] == "-":
            return _number(token, tree)
        from nstool.spec.values import constant

        try:
            return constant(token) & ALL
        except SpecError:
            _fail(f"{token} is no constant that is defined before; write #define {token} NUMBER", tree)

    def _call(self, tree: Any, action: int) -> Iterator[Rule]:
        parts = {child.data: child for child in tree.children[1:]}
        if "guard" in parts and not _is_here(parts["guard"]):
            return
        name = self._name(tree.children[0])
        if "names" in parts:
            named = [str(child) for child in parts["names"].children]
            if len(set(named)) < len(named):
                _fail("an argument is named twice", parts["names"])
            if len(named) > 6:
                _fail("a system call has at most six arguments", parts["names"])
        else:
            named = [argument for argument, _ in arguments(name)] if isinstance(name, str) else []
        if "condition" not in parts or not parts["condition"].children:
            yield Rule(name, action)
            return
        scope = _Scope(self, name, named)
        for where in scope.alternatives(parts["condition"].children[0]):
            yield Rule(name, action, where)

    def _name(self, child: Any) -> str | int:
        if not isinstance(child, str):
            return _known(self._value(child.children[0]), child)
        if child in self.constants:
            return _known(self.constants[child], child)
        name = _ALIASES.get(str(child), str(child))
        if name not in lists.names():
            from nstool.spec.values import nearest

            near = nearest(name, lists.names())
            _fail(f"{child} is no system call of x86_64{f'; did you mean {near}?' if near else ''}", child)
        return name


class _Scope:
    """The conditions of one call. named: its arguments."""

    def __init__(self, reader: _Reader, call: str | int, named: list[str]) -> None:
        self._reader = reader
        self._call = call
        self._named = named

    def alternatives(self, tree: Any, negated: bool = False) -> list[tuple[Compare, ...]]:
        """Return conditions of which one must hold, each of comparisons that all must."""
        if tree.data == "not_":
            return self.alternatives(tree.children[0], not negated)
        if tree.data == "compare":
            return self._compared(tree, negated)
        parts = [self.alternatives(child, negated) for child in tree.children]
        if (tree.data == "and_") == negated:
            return [one for part in parts for one in part]
        found: list[tuple[Compare, ...]] = [()]
        for part in parts:
            found = [(*one, *more) for one in found for more in part]
            if len(found) > _MOST:
                _fail(f"the conditions fall apart into more than {_MOST} alternatives; write them shorter", tree)
        return found

    def _compared(self, tree: Any, negated: bool) -> list[tuple[Compare, ...]]:
        left, op, right = self._operand(tree.children[0]), str(tree.children[1]), self._operand(tree.children[2])
        if isinstance(left, _Argument) and isinstance(right, _Argument):
            _fail("compares two arguments, which is not supported: compare each with a number", tree)
        if isinstance(left, int) and isinstance(right, _Argument):
            left, right, op = right, left, {"<": ">", ">": "<", "<=": ">=", ">=": "<="}.get(op, op)
        if negated:
            op = r.OPPOSITE[op]
        if isinstance(left, int):
            assert isinstance(right, int)
            return [()] if r.OPERATORS[op](left, right) else []
        assert isinstance(right, int)
        bits = dict(enumerate(mask for _, mask in arguments(str(self._call)))).get(left.arg, ALL)
        # A number with all the bits set that the kernel leaves alone is a negative one.
        value = right & bits if right & ALL & ~bits == ALL & ~bits else right
        return [(Compare(left.arg, op, value, left.mask),)]

    def _operand(self, tree: Any) -> int | _Argument:
        if tree.data == "flags":
            values = [self._argument_or_number(child) for child in tree.children]
            if len(values) == 1:
                return values[0]
            if any(isinstance(value, _Argument) for value in values):
                _fail("joins an argument with |, which is not supported: compare it with numbers", tree)
            number = 0
            for value in values:
                assert isinstance(value, int)
                number |= value
            return number
        first, second = (self._operand(child) for child in tree.children)
        if isinstance(first, int) and isinstance(second, int):
            return first & second
        if isinstance(first, _Argument) and isinstance(second, _Argument):
            _fail("joins two arguments with &, which is not supported", tree)
        argument, bits = (first, second) if isinstance(first, _Argument) else (second, first)
        assert isinstance(argument, _Argument)
        assert isinstance(bits, int)
        return argument.replace(mask=argument.mask & bits)

    def _argument_or_number(self, tree: Any) -> int | _Argument:
        word = str(tree.children[0])
        if word in self._named and word not in self._reader.constants:
            number = self._named.index(word)
            known = arguments(str(self._call))
            return _Argument(number, known[number][1] if number < len(known) else ALL)
        if word[0].isalpha() and word not in self._reader.constants and not word.isupper():
            from nstool.spec.values import suggest

            _fail(f"{self._call} has no argument {word}{suggest(word, self._named)}", tree)
        return self._reader._value(tree)


def _known(number: int, at: Any) -> str | int:
    """Return the name of a number where there is one: rules of one call must have one name."""
    from nstool.security.seccomp import call_name
    from nstool.security.seccomp_bpf import X32

    if number >= X32:
        _fail(f"no system call of x86_64 has the number {number:#x}; those of x32 kill in any case", at)
    name = call_name(number)
    return number if name.startswith("call ") else name


def _is_here(tree: Any) -> bool:
    names = [str(child) for child in tree.children]
    for name in names:
        if name not in _ARCHITECTURES:
            from nstool.spec.values import suggest

            _fail(f"no architecture {name}{suggest(name, _ARCHITECTURES)}", tree)
    return bool(set(names) & set(_HERE))


def _number(text: str, tree: Any) -> int:
    try:
        octal = text[0] == "0" and len(text) > 1 and text.isdecimal()
        number = int(text, 8 if octal else 0)
    except ValueError:
        _fail(f"{text} is no number: one that begins with 0 is octal", tree)
    if not -(1 << 63) <= number <= ALL:
        _fail(f"the number {text} does not fit into 64 bits", tree)
    return number & ALL


def _fail(message: str, at: Any) -> NoReturn:
    line = getattr(at, "line", None) or at.meta.line
    raise SpecError(message, str(line))
