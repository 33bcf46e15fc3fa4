"""Make docs/json.md: what the commands that look print with --json, from the records that they print.

``make docs`` runs it; tests/unit/test_docs.py fails when the file is not what this prints, tests/kernel/test_json.py
when a command prints other keys.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from importlib import import_module

from nstool.cli import answer
from nstool.frozen import Frozen

HEAD = """\
# The JSON of the commands that look

With `--json` each of these prints one object. Its `version` is {version}: a higher one comes when a key goes or means
something else; keys may be added at any time, so a reader leaves alone what it does not know. Why it is so:
[adr/0014](adr/0014-json-of-what-is-read.md).

- `null` is what there is not, or what is not known; then `unread` says why, by the name of the field.
- `comm` is the kernel's name of a process, a text of up to 15 bytes; `command` is its argument vector, a list of texts.
- Ids, pids and inodes are numbers, as the reader's own namespaces have them, unless it is said otherwise.
- Bytes of names that are no UTF-8 are `\\udcNN`, as `os.fsdecode` of Python has them.

What follows is what the records of the library say themselves; their names are those of its classes. A pid that is
nobody's, 0 in the library, is `null` here. This file is made by `make docs`.
"""

# Command to (the record whose fields it prints, "module:Class" or "", and what it adds).
COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    "ps": (
        "",
        {
            "sandboxes": "list of objects: name, state, alive, pid, launcher_pid, addresses, published, …, spec, "
            "template (of a template of a service: service, number, shard, shape, listening, stop_signal, grace; else "
            "empty)"
        },
    ),
    "cleanup": (
        "",
        {
            "sandboxes": "list of objects: name, done (list of text, what was undone), left (text: what goes on of a "
            "killed service, else empty)"
        },
    ),
    "check": ("", {"features": "list of objects: area, name, state, found, remedy"}),
    "check SPEC": ("", {"ok": "true or false", "problems": "list of objects", "notes": "list of text"}),
    "ls": (
        "",
        {
            "namespaces": "list of [Namespace](#inspectnamespacesnamespace), with members, user and owner_user, the "
            "names of the ids",
            "hidden": "list of number: processes that could not be looked into",
            "notes": "list of text",
        },
    ),
    "show": ("sandbox.facts:Isolation", {"published": "list of text", "notes": "list of text"}),
    "mounts": ("inspect.mounts:Mounts", {}),
    "mounts --propagation": ("inspect.propagation:Graph", {}),
    "path": ("inspect.paths:There", {}),
    "path --from-host": ("inspect.paths:Here", {}),
    "ipc": ("inspect.ipc:Ipc", {}),
    "cgroups": ("", {"hierarchies": "list of [Hierarchy](#inspectcgroupshierarchy)"}),
    "cgroups TARGET": ("inspect.cgroups:Cgroups", {}),
    "cgroups --tree": (
        "",
        {"trees": "list of objects: hierarchy, and cgroups, a list of [Node](#inspectcgroupsnode)"},
    ),
    "pid": ("inspect.pids:Numbers", {}),
    "pid --to": ("inspect.pids:Translation", {}),
    "creds": ("inspect.creds:Credentials", {}),
    "task": ("inspect.task:Card", {}),
    "net": ("inspect.net:Network", {}),
    "aslr": (
        "",
        {
            "settings": "[Settings](#inspectaslrsettings)",
            "process": "[Process](#inspectaslrprocess) or null",
            "measured": "[Measured](#inspectaslrmeasured) or null; each region has bits and span too",
        },
    ),
    "attest": ("inspect.attested:Attestation", {"holds": "true or false"}),
    "diff": (
        "inspect.diff:Difference",
        {"alike": "true or false", "counts": "object: alike, different, unknown, how many of each"},
    ),
    "caps show": ("inspect.caps:ProcessCaps", {}),
    "caps text": ("", {"mask": "number", "names": "list of text; of a TEXT the three sets, and text"}),
    "caps get, set, clear": (
        "",
        {"files": "list of objects: path, asked (the FILE as given, a link perhaps), capabilities"},
    ),
    "seccomp show": (
        "",
        {
            "list": "text",
            "default": "text, the answer to what is not named; empty for a compiled filter",
            "calls": "list of objects: call, number, group, answer, otherwise (where arguments decide), allowed, "
            "rules (a list of objects: action, where, why), why",
            "notes": "list of text",
        },
    ),
    "seccomp test": (
        "",
        {
            "list": "text",
            "call": "text",
            "number": "number",
            "args": "list of number",
            "answer": "text",
            "allowed": "true or false",
            "why": "text",
        },
    ),
    "service status": (
        "",
        {
            "name": "text",
            "time": "number: seconds since 1970, when this was told",
            "uptime": "number: seconds; null of one that was killed",
            "listening": "list of text: where connections come in",
            "metrics": "text: where /status.json has the same, over HTTP; empty: nowhere",
            "shape": "text: how the command gets the connection",
            "places": "number: sandboxes that a generation may have at once",
            "live": 'number: sandboxes that have a connection; with shape "listener", where nstool sees none, those '
            "that accept",
            "parked": "number: sandboxes that wait for one",
            "queued": "number: connections that wait for a sandbox",
            "accepted": "number: connections so far",
            "lives": "number: sandboxes so far",
            "nets": "number: network namespaces that were made to be lent to sandboxes",
            "rotations": "number: generations that have followed another",
            "dropped": "number: bytes of what commands said that are not in the log, as it was too much",
            "ends": "object of number: sandboxes that have ended so far, by cause",
            "refused": "object of number: connections that were refused so far, by reason",
            "alarms": "object of number: alarms so far, by kind, of those that are watched for",
            "latencies": "object of objects, by stage: count, mean, p50, p90, p99, buckets, sum; microseconds since "
            "the connection, p50 and so on as the upper bound of a bucket. buckets: list of 128 numbers, how many "
            "times were below the bound of each and not below that of the one before; the bounds are 1 to 8, then four "
            "to a doubling: 10, 12, 14, 16, 20, 24, 28, 32, 40 and so on; the last has all above it, too",
            "generations": "list of objects, one for each template: number, shard, size (places that it has), sandbox, "
            "pid, state, age (seconds), lives (sandboxes begun), places (list of [Place](#serviceboardplace)), ends "
            "(list of [End](#serviceboardend))",
            "gone": "list of objects, the generations of before: number, age, ago (seconds), lives, ends",
            "stopping": "true or false",
            "killed": "true or false: whether its nstool serve was killed, and this is what goes on without it",
        },
    ),
    "service attest": (
        "",
        {
            "name": "text",
            "sandboxes": "list of objects, one for each that serves: generation, shard, place, life (numbers), client, "
            "pid, properties (list of [Property](#sandboxattestproperty)), why (what kept it from being compared, or "
            "empty), holds (true or false; null where that is not known)",
            "holds": "true or false: whether none is false",
        },
    ),
    "service list": (
        "",
        {
            "services": "list of objects: name, pid, generation (the current one's number), some of what status has, "
            "killed, unanswered (why the service says nothing of itself; if it was not killed the rest is null then)"
        },
    ),
    "seccomp learn": ("security.seccomp_learned:Learned", {"status": "number: the command's"}),
    "can": (
        "security.verdict:Verdict",
        {
            "answer": "yes, no or unknown",
            "errno": "text, of a no",
            "reasons": "list of text",
            "needs": "list of text: what would tell",
        },
    ),
}
ALSO = (
    *("inspect.namespaces:Namespace", "inspect.cgroups:Hierarchy", "inspect.cgroups:Node"),
    *("service.board:Place", "service.board:End"),
    *("inspect.aslr:Settings", "inspect.aslr:Process", "inspect.aslr:Measured"),
)
_PLAIN = {"int": "number", "float": "number", "str": "text", "bool": "true or false", "None": "null", "Any": "anything"}


def record(place: str) -> type[Frozen]:
    """Return the class of "module:Class"."""
    module, _, name = place.partition(":")
    found = getattr(import_module(f"nstool.{module}"), name)
    assert issubclass(found, Frozen)
    return found


def keys(command: str) -> set[str]:
    """Return the keys at the top of what a command prints."""
    place, more = COMMANDS[command]
    own = {answer.name(field, hint == "str") for field, hint in _hints(record(place)).items()} if place else set()
    return {"version", *own, *more}


@cache
def _imports(module: str) -> dict[str, str]:
    # Name to "module:name" of what a module imports, for type checkers alone too.
    tree = ast.parse(inspect.getsource(import_module(module)))
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nstool")
        for alias in node.names
    }


def _hints(cls: type[Frozen]) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not Frozen:
            found |= base.__dict__.get("__annotations__", {})
    return {name: found[name] for name in cls.__fields__}


def _class(name: str, module: str) -> type[Frozen] | None:
    cls = getattr(import_module(module), name, None)
    if cls is None and name in _imports(module):
        place, _, original = _imports(module)[name].partition(":")
        cls = getattr(import_module(place), original, None)
    return cls if isinstance(cls, type) and issubclass(cls, Frozen) else None


def _title(cls: type[Frozen]) -> str:
    return f"{cls.__module__.removeprefix('nstool.')}.{cls.__name__}"


def _words(node: ast.expr, module: str, met: list[type[Frozen]]) -> str:
    """Return a type in words of JSON. met: takes the records that are named."""
    if isinstance(node, ast.BinOp):
        return f"{_words(node.left, module, met)} or {_words(node.right, module, met)}"
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        inner = [
            _words(part, module, met) for part in parts if not isinstance(part, ast.Constant) or part.value is None
        ]
        if ast.unparse(node.value).lower() in ("dict", "mapping"):
            return f"object of {inner[-1]}"
        same = len(inner) < len(parts) or len(parts) == 1
        return f"list of {inner[0]}" if same else f"list: {', '.join(inner)}"
    text = ast.unparse(node)
    cls = _class(text, module)
    if cls is None:
        return _PLAIN.get(text, "number" if text.endswith("Address") else text)
    if cls not in met:
        met.append(cls)
    return f"[{cls.__name__}](#{_title(cls).lower().replace('.', '')})"


def _table(rows: list[tuple[str, str]]) -> str:
    return "| key | value |\n|---|---|\n" + "".join(f"| `{key}` | {value} |\n" for key, value in rows)


def _rows(cls: type[Frozen], met: list[type[Frozen]]) -> list[tuple[str, str]]:
    rows = []
    for field, hint in _hints(cls).items():
        owner = next(base for base in cls.__mro__ if field in base.__dict__.get("__annotations__", {}))
        words = _words(ast.parse(hint, mode="eval").body, owner.__module__, met)
        nobody = field in answer.PIDS and not words.endswith("null")
        rows.append((answer.name(field, hint == "str"), f"{words} or null" if nobody else words))
    return rows


def _about(cls: type[Frozen]) -> str:
    return "\n\n".join(" ".join(part.split()).replace("None", "null") for part in inspect.getdoc(cls).split("\n\n"))  # type: ignore[union-attr]


def text() -> str:
    """Return the whole of docs/json.md."""
    met: list[type[Frozen]] = []
    parts = [HEAD.format(version=answer.VERSION), "\n## What each command prints\n"]
    for command, (place, more) in COMMANDS.items():
        rows = [("version", "number"), *(_rows(record(place), met) if place else ()), *more.items()]
        about = f"{_about(record(place))}\n\n" if place else ""
        parts.append(f"\n### nstool {command}\n\n{about}{_table(rows)}")
    parts.append("\n## The records in it\n")
    met += [cls for place in ALSO if (cls := record(place)) not in met]
    for cls in met:  # which grows
        parts.append(f"\n### {_title(cls)}\n\n{_about(cls)}\n\n{_table(_rows(cls, met))}")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(text())
