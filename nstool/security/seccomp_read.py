"""A list of system calls in a file: OCI JSON, kafel, compiled BPF, or a table as ``[seccomp]`` of a spec has it."""

from __future__ import annotations

import os
import stat

from nstool.errors import SpecError
from nstool.security import seccomp
from nstool.security.seccomp_oci import Here
from nstool.security.seccomp_rules import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.model import Seccomp

MOST_BYTES = 4 << 20
MOST_BASES = 8  # of tables that change each other


def rules_of(words: str | Seccomp, here: Here | None = None, depth: int = 0) -> Rules | bytes:
    """Return the list that a spec's ``seccomp`` means: rules, or the program of a file that is compiled already.

    here: what an OCI list asks for; None: no capability, the running kernel. Raises SpecError with the file, and the
    line or key, as its place.
    """
    from nstool.security import seccomp_lists as lists
    from nstool.spec.values import seccomp_is_file

    if isinstance(words, str):
        return _read(words, here or ours(), depth) if seccomp_is_file(words) else lists.built_in(words)
    if not seccomp_is_file(words.base):
        return lists.changed(words)
    read = _read(words.base, here or ours(), depth)
    if isinstance(read, bytes):
        if words.allow or words.refuse or words.action or words.errno:
            raise SpecError("a compiled filter cannot be changed; change the list that it was made from", words.base)
        return read
    return lists.changed(words, read)


def program_of(words: str | Seccomp, here: Here | None = None) -> bytes:
    """Return the filter that a spec's ``seccomp`` means, with which a command can be started; empty for "none".

    Raises SpecError.
    """
    if isinstance(words, str) and words in seccomp.FILTERS:
        return seccomp.load_filter(words)
    found = rules_of(words, here)
    program = seccomp.guarded(found) if isinstance(found, bytes) else seccomp.compile_rules(found)
    try:
        seccomp.check_needed(program)
    except SpecError as error:
        raise SpecError(error.message, "seccomp") from None
    return program


def ours(caps: tuple[str, ...] = ()) -> Here:
    """Return what an OCI list asks for, of the running kernel and a command with these capabilities."""
    major, minor = os.uname().release.split(".")[:2]
    return Here(frozenset(caps), (int(major), int("".join(c for c in minor if c.isdecimal()))))


def _read(path: str, here: Here, depth: int) -> Rules | bytes:
    data = _bytes(path)
    if path.endswith(".bpf"):
        return _compiled(data, path)
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise SpecError("not UTF-8 text; a compiled filter has a name that ends in .bpf", path) from None
    kind = _kind(path, text)
    if kind == "json":
        return _oci(text, path, here)
    if kind == "toml":
        return _table(text, path, here, depth)
    from nstool.security import seccomp_kafel

    try:
        return seccomp_kafel.read(text)
    except SpecError as error:
        raise SpecError(error.message, f"{path}:{error.place}") from None
    except RecursionError:
        raise SpecError("is nested too deeply", path) from None


def _bytes(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SpecError("no plain file", path)
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SpecError(error.strerror or str(error), path) from None
    if len(data) > MOST_BYTES:
        raise SpecError(f"more than {MOST_BYTES >> 20} MiB; that is no list of system calls", path)
    return data


def _kind(path: str, text: str) -> str:
    named = {".json": "json", ".toml": "toml", ".kafel": "kafel", ".policy": "kafel"}.get(os.path.splitext(path)[1])
    if named:
        return named
    import re

    if text.lstrip().startswith("{"):
        return "json"
    return "toml" if re.search(r"^\s*(base|allow|refuse|action|errno)\s*=", text, re.MULTILINE) else "kafel"


def _compiled(data: bytes, path: str) -> bytes:
    from nstool.security import seccomp_bpf as bpf
    from nstool.security.seccomp_rules import NOTIFY, TRACE

    if wrong := bpf.problem(data):
        raise SpecError(f"no filter that the kernel takes: {wrong}, seccomp(2)", path)
    for code, _, _, k in bpf.instructions(data):
        if code == bpf.RETURN and k & 0xFFFF0000 in (NOTIFY, TRACE):
            raise SpecError("an answer of it needs a listener or a tracer, which nstool is not", path)
    return data


def _oci(text: str, path: str, here: Here) -> Rules:
    import json

    from nstool.security import seccomp_oci

    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise SpecError(f"no JSON: {error.msg}", f"{path}:{error.lineno}") from None
    except (RecursionError, ValueError) as error:
        raise SpecError(f"no JSON: {error}", path) from None
    try:
        return seccomp_oci.read(data, here)
    except SpecError as error:
        raise SpecError(error.message, _place(path, text, error.place)) from None
    except TypeError as error:  # a list or a table where a text or a number stands
        raise SpecError(f"a value has a type that it cannot have: {error}", path) from None


def _place(path: str, text: str, key: str) -> str:
    import re

    from nstool.spec.lines import Lines

    parts = re.findall(r"\[(\d+)\]|([^.\[\]]+)", key)
    line = Lines(text, "json").of(tuple(int(number) if number else word for number, word in parts))
    return ": ".join(part for part in (f"{path}:{line}" if line else path, key) if part)


def _table(text: str, path: str, here: Here, depth: int) -> Rules | bytes:
    from nstool.spec.load import seccomp_words

    if depth == MOST_BASES:
        raise SpecError(f"the {MOST_BASES}th list that changes another; does one of them name itself?", path)
    try:
        return rules_of(seccomp_words(text, path), here, depth + 1)
    except RecursionError:
        raise SpecError("is nested too deeply", path) from None
