"""Load a Spec from TOML, JSON or plain data, strictly: each error names the file, the line and the key path."""

from __future__ import annotations

import os
import sys
from typing import Any, get_args, get_origin

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.spec import schema, values
from nstool.spec.check import check, key_path
from nstool.spec.implied import absolute, here, implied
from nstool.spec.model import (
    Capabilities,
    IdMap,
    Ipc,
    Landlock,
    LandlockRule,
    Limits,
    Mount,
    Namespaces,
    Net,
    Publish,
    Root,
    Seccomp,
    SeccompCall,
    SeccompWhere,
    Spec,
)
from nstool.spec.service import SECONDS, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.spec.check import Path, Place

MAX_BYTES = 16 << 20  # a spec is written by people
COMPILED = b"NSP1"  # how a compiled plan begins: nstool.plan.encode.MAGIC

# Human forms of whole records: what is no table is read by these.
_RECORDS: dict[type[Frozen], Callable[[object], Frozen]] = {
    Root: values.root,
    Net: values.net,
    Mount: values.mount,
    Publish: values.publish,
    IdMap: values.idmap,
    Capabilities: values.capabilities,
    LandlockRule: values.landlock_rule,
    SeccompCall: values.seccomp_call,
}
# Human forms of fields.
_FIELDS: dict[tuple[type[Frozen], str], Callable[[object], object]] = {
    (Spec, "command"): values.command,
    (Spec, "user"): values.user,
    (Spec, "groups"): values.groups,
    (Spec, "env"): values.strings,
    (Spec, "umask"): values.octal,
    (Spec, "tmp_size"): values.size,
    (Root, "size"): values.size,
    (Mount, "size"): values.size,
    (Mount, "mode"): values.octal,
    (Net, "sysctls"): values.strings,
    (Limits, "memory"): values.size,
    (Service, "bandwidth"): values.size,
    (Service, "socket_mode"): values.socket_mode,
    **{(Service, name): values.duration for name in SECONDS},
    (Limits, "swap"): values.size,
    (Limits, "cpu"): values.cpu,
    (Spec, "securebits"): values.securebits,
    **{(Capabilities, name): values.capability_set for name in Capabilities.__fields__},
    **{(Namespaces, name): values.namespace for name in Namespaces.__fields__ if not name.endswith("_offset")},
    (Namespaces, "monotonic_offset"): values.clock_offset,
    (Namespaces, "boottime_offset"): values.clock_offset,
    **{(SeccompWhere, name): values.constant for name in ("value", "mask")},
    **{(Ipc, name): values.size for name in ("shmmax", "msgmax", "msgmnb", "mq_msgsize_max")},
}
# Human forms of the elements of a list, and of the values of a table.
_ITEMS: dict[tuple[type[Frozen], str], Callable[[object], object]] = {
    (Net, "hosts"): values.host_line,
    (Net, "routes"): values.route,
    (Limits, "rlimits"): values.rlimit,
    (Limits, "ucounts"): values.ucount,
    (Service, "commands"): values.command,
}
_EXPECTED = {
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "float": "a number",
    "array": "an array",
    "object": "a table",
    "null": "null",
    "str | object": "a string or a table",
}


class Loaded(Frozen):
    """A spec that was read but not yet checked: options may still change it.

    place: turns a key path into "web.toml:12: limits.memory". given: the key paths that were written.
    """

    spec: Spec
    place: Place
    given: frozenset[Path]


def load(path: str | os.PathLike[str]) -> Spec:
    """Return the checked Spec in a file: TOML or JSON by its suffix, or by its text; "-" is standard input.

    Relative paths of the host in it count from the directory of the file. Raises SpecError.
    """
    return _checked(read(path))


def loads(text: str, place: str = "<string>", format: str = "", base: str = "") -> Spec:
    """Return the checked Spec in a text. format: "toml", "json" or empty to see by the text itself.

    place: stands for the name of the file in errors. base: directory from which relative paths of the
    host count; empty: they are refused. Raises SpecError.
    """
    return _checked(reads(text, place, format, base))


def from_dict(data: object, place: str = "", base: str = "") -> Spec:
    """Return the checked Spec in plain data: dicts, lists, strings, numbers, as of ``Spec.asdict``.

    Raises SpecError.
    """

    def where(path: Path) -> str:
        return ": ".join(part for part in (place, key_path(path)) if part)

    return _checked(_convert(data, where, base))


def _checked(loaded: Loaded) -> Spec:
    spec = implied(loaded.spec, loaded.given)
    check(spec, loaded.place)
    return spec


def read(path: str | os.PathLike[str]) -> Loaded:
    """Return what a file says, for options to be laid over it and to be checked afterwards. Raises SpecError."""
    return reads(*_file(path))


def read_service(path: str | os.PathLike[str]) -> tuple[Loaded, Service]:
    """Return what a file says that has a [service] table: the spec of a sandbox, unchecked, and the service, checked.

    Raises SpecError.
    """
    text, place, format, base = _file(path)
    data, where = _parse(text, place, format)
    words = data.pop("service", None) if isinstance(data, dict) else None
    if not isinstance(words, dict):
        raise _no_service(data, words, where)
    return _convert(data, where, base), _service(words, where, base)


def _no_service(data: object, words: object, where: Place) -> SpecError:
    """Return why there is no [service] table in the data of a spec. words: what it has instead."""
    if isinstance(words, list):
        return SpecError("a spec is of one service: write [service], not [[service]]", where(("service",)))
    if words is not None:
        return SpecError(f"[service] is a table, not {values.kind_of(words)}", where(("service",)))
    others = [str(key) for key in data if key not in Spec.__fields__] if isinstance(data, dict) else []
    if near := next((key for key in others if values.nearest(key.lower(), ["service"])), ""):
        return SpecError(f"unknown key {values.quoted(near)}: the table of a service is [service]", where((near,)))
    return SpecError(
        'no service: a [service] table with listen = ["tcp:127.0.0.1:8080"] makes one of it; nstool run runs a spec '
        "without one",
        where(()),
    )


def is_service(path: str) -> bool:
    """Whether a file is a spec with a [service] table, by its text; of what cannot be read, reading tells.

    "-": standard input, which can be read once more then.
    """
    if path == "-":
        import io

        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        sys.stdin = io.TextIOWrapper(io.BytesIO(data))
        found = _is_service(path)
        sys.stdin = io.TextIOWrapper(io.BytesIO(data))
        return found
    return os.path.isfile(path) and _is_service(path)


def _is_service(path: str) -> bool:
    try:
        text, place, format, _ = _file(path)
        data, _ = _parse(text, place, format)
    except SpecError:
        return False
    return isinstance(data, dict) and "service" in data


def _service(words: dict[str, Any], where: Place, base: str) -> Service:
    import msgspec

    from nstool.spec.check_service import check_service

    def below(path: Path) -> str:
        return where(("service", *path))

    for name in ("roots", "commands"):
        if words.get(name) == []:
            raise SpecError("none is there: leave it out, or name one for each of the generations", below((name,)))
    plain = _table(words, Service, ("service",), where, set())
    try:
        converted = msgspec.convert(plain, schema.struct(Service), strict=True)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), below) from None
    service = schema.record(Service, converted)
    assert isinstance(service, Service)
    check_service(service, below)
    handler = os.path.join(base, service.handler) if service.handler else ""
    return service.replace(roots=tuple(_absolute_root(word, base) for word in service.roots), handler=handler)


_ROOT_WORDS = ("system", "host", "tmpfs")  # roots that are no paths: values.root


def _absolute_root(word: str, base: str) -> str:
    return word if word in ("", *_ROOT_WORDS) else ":".join(os.path.join(base, part) for part in word.split(":"))


def _file(path: str | os.PathLike[str]) -> tuple[str, str, str, str]:
    """Return text, place, format and base of a file, as ``reads`` takes them. Raises SpecError."""
    name = os.fspath(path)
    place = "<stdin>" if name == "-" else name or "SPEC"
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise SpecError(getattr(error, "strerror", None) or str(error), place) from None
    if _is_compiled(data):
        raise SpecError("a compiled plan, not a spec; `nsexec FILE` runs it, `nstool plan FILE` shows it", place)
    if len(data) > MAX_BYTES:
        raise SpecError(f"more than {MAX_BYTES >> 20} MiB; that is no spec", place)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8 text", f"{place}:{line}") from None
    format = {".toml": "toml", ".json": "json"}.get(os.path.splitext(name)[1], "")
    base = here() if name == "-" or not name.startswith("/") else "/"
    if name != "-":
        base = os.path.dirname(os.path.join(base, name))
    return text, place, format, base


def _is_compiled(data: bytes) -> bool:
    """Whether `nstool compile` has written this, also with --shebang."""
    return (data.partition(b"\n")[2] if data.startswith(b"#!") else data).startswith(COMPILED)


def reads(text: str, place: str = "<string>", format: str = "", base: str = "") -> Loaded:
    """Return what a text says, unchecked; arguments as of ``loads``. Raises SpecError."""
    data, where = _parse(text, place, format)
    return _convert(data, where, base)


def _parse(text: str, place: str, format: str) -> tuple[object, Place]:
    """Return the plain data of a text, and what tells the line of a key path in it. Raises SpecError."""
    if format not in ("", "toml", "json"):
        raise SpecError(f"format {values.quoted(format)} is neither toml nor json")
    text = text.removeprefix("\ufeff")  # some editors mark UTF-8 so
    format = format or ("json" if text.lstrip().startswith("{") else "toml")
    data = _json(text, place) if format == "json" else _toml(text, place)
    lines: Any = None

    def where(path: Path) -> str:
        nonlocal lines
        if lines is None:  # only errors need the lines
            from nstool.spec.lines import Lines

            lines = Lines(text, format)
        line = lines.of(path)
        at = f"{place}:{line}" if line else place
        return f"{at}: {key_path(path)}" if path else at

    if format == "toml" and isinstance(data, dict):
        _check_octal(data, text, where)
    return data, where


def _check_octal(data: dict[str, Any], text: str, where: Place) -> None:
    """Raise SpecError for permission bits that are written as a number of another base: nobody means those.

    In JSON, which has no octal numbers, programs write the value itself, as ``Spec.asdict`` has it.
    """
    tables: dict[Path, tuple[type[Frozen], Any]] = {(): (Spec, data), ("service",): (Service, data.get("service"))}
    mounts = data.get("mounts")
    for number, one in enumerate(mounts if isinstance(mounts, list) else ()):
        tables["mounts", number] = (Mount, one)
    for path, (cls, table) in tables.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            if _FIELDS.get((cls, key)) in (values.octal, values.socket_mode) and type(value) is int and value > 7:
                from nstool.spec.lines import Lines

                word = Lines(text, "toml").word((*path, key))
                if not word.startswith("0o"):
                    meant = word if set(word) <= set("01234567") else f"{value:o}"
                    why = f'{word} is not octal, its bits are 0o{value:o}: write octal text, "0{meant}", or 0o{meant}'
                    raise SpecError(why, where((*path, key)))


def seccomp_words(text: str, path: str) -> Seccomp:
    """Return the checked table in a file that is a list of system calls: the keys of ``[seccomp]``. Raises SpecError.

    path: of the file, from whose directory a base that is a file counts.
    """
    data = _toml(text, path)

    def where(key: Path) -> str:
        from nstool.spec.lines import Lines

        line = Lines(text, "toml").of(key[1:])
        at = f"{path}:{line}" if line else path
        return f"{at}: {key_path(key[1:])}" if key[1:] else at

    spec = _convert({"command": ["none"], "seccomp": data}, where, os.path.dirname(os.path.abspath(path))).spec
    check(spec, where)
    assert isinstance(spec.seccomp, Seccomp)
    return spec.seccomp


def _toml(text: str, place: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SpecError("nested too deep", place) from None
    except ValueError as error:  # TOMLDecodeError; also a number of thousands of digits
        message, _, position = str(error).partition(" (at ")
        if not position:
            raise _no_number(message, "TOML", text, place) from None
        before = _until(text.replace("\r\n", "\n"), position)
        line = before.count("\n") + (not before.endswith("\n") or not position.startswith("end"))
        if message.startswith(("Cannot ", "Duplicate ")) and (twice := _twice(before, "toml")):
            path, line, first = twice
            message = f"{key_path(path)} is written twice; the first time in line {first}"
        if message.startswith(("Invalid value", "Expected newline")):
            message += _unquoted(text.replace("\r\n", "\n").split("\n")[line - 1])
        raise SpecError(f"no TOML: {message}", f"{place}:{line}") from None


def _unquoted(line: str) -> str:
    """Return a hint for a line whose value is text without quotes, else nothing."""
    import re

    found = re.fullmatch(r"\s*[\w.-]+\s*=\s*([^\s\"'#=\[\]{}][^\"'#=\[\]{}]*?)\s*(#.*)?", line)
    if found is None:
        return ""
    word = found[1].lower() if found[1].lower() in ("true", "false") else values.quoted(found[1])
    return f"; write {word}" + (", for text stands in quotes" if word[0] == '"' else "")


def _until(text: str, position: str) -> str:
    """Return the text before the position of a TOMLDecodeError: "line 3, column 5)" or "end of document)"."""
    words = position.rstrip(")").replace(",", "").split()
    if words[0] != "line":
        return text
    lines = text.split("\n")[: int(words[1])]
    return "\n".join((*lines[:-1], lines[-1][: int(words[3]) - 1]))


def _json(text: str, place: str) -> object:
    import json

    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SpecError(f"no JSON: {error.msg}", f"{place}:{error.lineno}") from None
    except RecursionError:
        raise SpecError("nested too deep", place) from None
    except KeyError as error:
        path, line, first = _twice(text, "json") or (error.args, 0, 0)
        lines = f", in lines {first} and {line}" if line else ""
        raise SpecError(f"no JSON: key {values.quoted(path[-1])} twice in one object{lines}", place) from None
    except ValueError as error:
        raise _no_number(str(error), "JSON", text, place) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        raise KeyError(next(key for key in keys if keys.count(key) > 1))
    return table


def _twice(text: str, format: str) -> tuple[Path, int, int] | None:
    """Return the first key that stands twice, its second and its first line; None if a table was made in two ways.

    text: valid up to there.
    """
    from nstool.spec.lines import Lines

    return Lines(text, format).twice


def _no_number(message: str, format: str, text: str, place: str) -> SpecError:
    """Return the error of a number that Python does not read. int_max_str_digits of sys."""
    import re

    found = re.search(rf"\d[\d_]{{{sys.get_int_max_str_digits()},}}", text)
    if found is None or not message.startswith("Exceeds "):
        return SpecError(f"no {format}: {message}", place)
    line = text.count("\n", 0, found.start()) + 1
    return SpecError(f"a number of {len(found[0])} digits; 64 bits hold 19", f"{place}:{line}")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _convert(data: object, where: Place, base: str) -> Loaded:
    """Make a Spec of plain data: unknown keys, human forms, types, in this order."""
    import msgspec

    if not isinstance(data, dict):
        raise SpecError(f"a spec is a table, not {values.kind_of(data)}", where(()))
    given: set[Path] = set()
    plain = _table(data, Spec, (), where, given)
    try:
        converted = msgspec.convert(plain, schema.struct(Spec), strict=True)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error), where) from None
    spec = schema.record(Spec, converted)
    assert isinstance(spec, Spec)
    tables = ("rlimits", "ucounts")  # naming one limit must not drop another
    kept = {name: {**getattr(Limits(), name), **getattr(spec.limits, name)} for name in tables}
    spec = spec.replace(limits=spec.limits.replace(**kept))
    return Loaded(absolute(spec, lambda: base) if base else spec, where, frozenset(given))


def _table(data: dict[Any, Any], cls: type[Frozen], path: Path, where: Place, given: set[Path]) -> dict[str, Any]:
    """Return a table in plain form; notes its key paths in given."""
    plain = {}
    for key, value in data.items():
        own = (*path, key if isinstance(key, str) else str(key))
        if key == "service" and cls is Spec:
            raise SpecError("this spec is of a service: nstool serve FILE, nstool check FILE", where(own))
        if key not in cls.__fields__:
            from nstool.spec.unknown import unknown_key

            raise SpecError(unknown_key(str(key), cls, path), where(own))
        given.add(own)
        plain[key] = _field(value, cls, key, own, where, given)
    return plain


def _field(value: Any, cls: type[Frozen], key: str, path: Path, where: Place, given: set[Path]) -> Any:
    hint = schema.hints(cls)[key]
    if (cls, key) in _FIELDS:
        return _human(_FIELDS[cls, key], value, path, where)
    if (cls, key) in _ITEMS:
        return _items(_ITEMS[cls, key], value, path, where)
    if hint == str | Seccomp:
        return _table(value, Seccomp, path, where, given) if isinstance(value, dict) else value
    if isinstance(hint, type) and issubclass(hint, Frozen):
        return _record(value, hint, path, where, given)
    if get_origin(hint) is tuple and isinstance(value, (list, tuple, dict)):
        item = get_args(hint)[0]
        if isinstance(item, type) and issubclass(item, Frozen):
            if isinstance(value, dict):
                raise SpecError(f"expected an array of tables: write [[{key_path(path)}]]", where(path))
            return [_record(v, item, (*path, i), where, given) for i, v in enumerate(value)]
    return value


def _items(read: Callable[[object], object], value: Any, path: Path, where: Place) -> Any:
    if isinstance(value, (list, tuple)):
        return [_human(read, item, (*path, i), where) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {str(key): _human(read, item, (*path, str(key)), where) for key, item in value.items()}
    return value


def _record(value: Any, cls: type[Frozen], path: Path, where: Place, given: set[Path]) -> Any:
    if isinstance(value, dict):
        if cls is Landlock and not value:
            raise SpecError("an empty table restricts nothing: write what is allowed, or leave it out", where(path))
        return _table(value, cls, path, where, given)
    if cls not in _RECORDS:
        raise SpecError(f"expected a table, got {values.kind_of(value)}", where(path))
    found = _human(_RECORDS[cls], value, path, where)
    assert isinstance(found, Frozen)
    plain = found.asdict()
    given.update((*path, name) for name in cls.__fields__ if plain[name] != cls.__defaults__.get(name))
    if cls is Net:
        given.add((*path, "mode"))  # also when it is the default
    return plain


def _human(read: Callable[[object], object], value: object, path: Path, where: Place) -> object:
    try:
        return read(value)
    except SpecError as error:
        raise SpecError(error.message, where(path)) from None


def _wrong_type(message: str, where: Place) -> SpecError:
    """Turn msgspec's words into ours: "Expected `int`, got `str` - at `$.limits.pids`"."""
    text, _, at = message.rpartition(" - at `$")
    if not text:
        text, at = message, ""
    path: list[str | int] = []
    for part in at.rstrip("`").replace("[", ".[").split("."):
        if part.startswith("[") and part[1:-1].isdecimal():
            path.append(int(part[1:-1]))
        elif part and not part.startswith("["):
            path.append(part)
    text = text[:1].lower() + text[1:].replace(" | null`", "`")  # null is what JSON has for an absent key
    for name, words in _EXPECTED.items():
        text = text.replace(f"`{name}`", words)
    text = text.replace("object missing required field ", "lacks the key ")
    return SpecError(text.replace("`", '"'), where(tuple(path)))
