"""The model as msgspec structs: they convert foreign data strictly and make the JSON Schema."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from nstool import uapi
from nstool.frozen import Frozen
from nstool.security import landlock
from nstool.spec import model
from nstool.spec.check import CHOICES, SECUREBITS
from nstool.spec.check_service import ALARMS, VARY
from nstool.spec.check_service import CHOICES as SERVICE_CHOICES
from nstool.spec.docs import DOCS
from nstool.spec.service import SECONDS, Service

URL = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": "string"}
_TEXTS = {"type": "array", "items": _TEXT}
_SIZE = {"type": "string", "pattern": r"^ *[0-9]+(\.[0-9]+)? *([kKmMgGtT]([iI]?[bB])?|[bB])? *$"}
_OCTAL = {"type": "string", "pattern": "^(0o)?[0-7]{1,7}$"}
_NUMBER = {"type": "integer"}
_SECONDS = {"type": "string", "pattern": "^[-+]?[0-9]+[smhdSMHD]?$"}
_DURATION = {"type": "string", "pattern": r"^ *[-+]?[0-9]+(\.[0-9]+)?[smhdSMHD]? *$"}
_ID_LINE = {"anyOf": [{"type": "string", "pattern": "^[0-9]+:[0-9]+:[0-9]+$"}, {"type": "array", "items": _NUMBER}]}
_PAIR = {"type": "string", "pattern": "^[^=]+="}
_CAPABILITIES = {"type": "array", "items": {"examples": list(uapi.CAPABILITIES), **_TEXT}}
_LIMIT = {"anyOf": [_NUMBER, _TEXT]}
_CALLS = {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/SeccompCall"}, _TEXT]}}

# What a person may write instead of the plain form, by class and field.
HUMAN: dict[str, dict[str, Any]] = {
    "Spec.root": {"anyOf": [_TEXT, _TEXTS]},
    "Spec.user": _NUMBER,
    "Spec.groups": {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": [_TEXT, _NUMBER]}}]},
    "Spec.env": {"type": "array", "items": _PAIR},
    "Spec.umask": _OCTAL,
    "Spec.mounts": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Mount"}, _TEXT]}},
    "Spec.tmp_size": _SIZE,
    "Spec.net": {"type": "string", "pattern": "^(none|loopback|veth|host|bridge(:.*)?|join:.+)$"},
    "Spec.uid_map": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/IdMap"}, _ID_LINE]}},
    "Spec.gid_map": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/IdMap"}, _ID_LINE]}},
    "Spec.capabilities": {"anyOf": [_CAPABILITIES, _TEXT, _NUMBER]},
    "Root.size": _SIZE,
    "Mount.size": _SIZE,
    "Mount.mode": _OCTAL,
    "Service.socket_mode": _OCTAL,
    **{f"Service.{name}": _DURATION for name in SECONDS},
    "Net.publish": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Publish"}, _TEXT, _NUMBER]}},
    "Net.hosts": {"type": "array", "items": _PAIR},
    "Net.routes": {"type": "array", "items": _PAIR},
    "Net.sysctls": {"type": "array", "items": _PAIR},
    "Landlock.rules": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/LandlockRule"}, _PAIR]}},
    "Limits.memory": _SIZE,
    "Limits.swap": _SIZE,
    "Limits.cpu": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? *%?$"},
    "Limits.rlimits": {"type": "object", "additionalProperties": {"anyOf": [_NUMBER, _TEXT, {"items": _LIMIT}]}},
    "Limits.ucounts": {"type": "object", "additionalProperties": _LIMIT},
    "Spec.securebits": {"anyOf": [_TEXT, _NUMBER]},
    "Spec.seccomp": {"enum": ["default", "strict", "none"]},
    "Seccomp.allow": _CALLS,
    "Seccomp.refuse": _CALLS,
    "SeccompWhere.value": _TEXT,
    "SeccompWhere.mask": _TEXT,
    **{f"Capabilities.{name}": {"anyOf": [_CAPABILITIES, _TEXT, _NUMBER]} for name in model.Capabilities.__fields__},
    **{f"Namespaces.{name}_offset": _SECONDS for name in ("monotonic", "boottime")},
    **{
        f"Namespaces.{name}": {"anyOf": [{"enum": ["new", "host"]}, _NUMBER]}
        for name in model.Namespaces.__fields__
        if not name.endswith("_offset")
    },
}

# Lists of known words.
WORDS: dict[str, tuple[str, ...]] = {
    "Spec.securebits": SECUREBITS,
    "LandlockRule.allow": tuple(landlock.FS),
    "Landlock.scope": tuple(landlock.SCOPES),
    "Landlock.flags": tuple(landlock.FLAGS),
    "Service.vary": VARY,
    "Service.alarms": ALARMS,
}

_ALL_CHOICES = CHOICES | {f"Service.{name}": words for name, words in SERVICE_CHOICES.items()}
_HINTS: dict[type[Frozen], dict[str, Any]] = {}
_STRUCTS: dict[type[Frozen], type[msgspec.Struct]] = {}


def hints(cls: type[Frozen]) -> dict[str, Any]:
    """Return the fields of a record with their types."""
    if cls not in _HINTS:
        own = SimpleNamespace(__annotations__={name: cls.__annotations__[name] for name in cls.__fields__})
        _HINTS[cls] = get_type_hints(own, vars(sys.modules[cls.__module__]))
    return _HINTS[cls]


def struct(cls: type[Frozen]) -> type[msgspec.Struct]:
    """Return the msgspec struct with the fields of a record; a field with a default may be absent."""
    if cls not in _STRUCTS:
        _STRUCTS[cls] = _struct(cls)
    return _STRUCTS[cls]


def _struct(cls: type[Frozen]) -> type[msgspec.Struct]:
    fields: list[Any] = []
    for name, hint in hints(cls).items():
        plain = _structs(hint)
        optional = name in cls.__defaults__
        fields.append((name, plain | msgspec.UnsetType, msgspec.UNSET) if optional else (name, plain))
    return msgspec.defstruct(
        cls.__name__, fields, forbid_unknown_fields=True, kw_only=True, namespace={"__doc__": cls.__doc__}
    )


def _structs(hint: Any) -> Any:
    """Replace the records in a type by their structs."""
    if isinstance(hint, type) and issubclass(hint, Frozen):
        return struct(hint)
    if hint == str | model.Seccomp:
        return str | struct(model.Seccomp)
    if get_origin(hint) is tuple:
        generic: Any = tuple
        return generic[tuple(item if item is ... else _structs(item) for item in get_args(hint))]
    return hint


def record(cls: type[Frozen], data: msgspec.Struct) -> Frozen:
    """Return the record that a converted struct stands for; what is absent has its default."""
    values = {}
    for name in cls.__fields__:
        value = getattr(data, name)
        if value is not msgspec.UNSET:
            values[name] = _records(hints(cls)[name], value)
    return cls(**values)


def _records(hint: Any, value: Any) -> Any:
    if hint == str | model.Seccomp:
        return value if isinstance(value, str) else record(model.Seccomp, value)
    if isinstance(hint, type) and issubclass(hint, Frozen):
        return record(hint, value)
    if get_origin(hint) is tuple and isinstance(get_args(hint)[0], type) and issubclass(get_args(hint)[0], Frozen):
        return tuple(record(get_args(hint)[0], item) for item in value)
    return value


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec file: plain forms, human forms, choices, defaults, descriptions."""
    _, definitions = msgspec.json.schema_components([struct(model.Spec)], ref_template="#/$defs/{name}")
    for name, definition in definitions.items():
        cls = getattr(model, name)
        definition["description"] = (cls.__doc__ or "").split("\n\n")[0].replace("``", "")
        for field, plain in definition["properties"].items():
            definition["properties"][field] = _property(cls, field, plain)
    spec = definitions.pop("Spec")
    spec["properties"]["service"] = _service()
    return {"$schema": URL, **spec, "title": "nstool spec", "$defs": dict(sorted(definitions.items()))}


def _service() -> dict[str, Any]:
    _, definitions = msgspec.json.schema_components([struct(Service)], ref_template="#/$defs/{name}")
    table: dict[str, Any] = definitions["Service"]
    table["description"] = "How connections come to its sandboxes: for nstool serve."
    for field, plain in table["properties"].items():
        table["properties"][field] = _property(Service, field, plain)
    return table


def _property(cls: type[Frozen], field: str, plain: dict[str, Any]) -> dict[str, Any]:
    key = f"{cls.__name__}.{field}"
    form = dict(plain)
    form.pop("default", None)
    if key in _ALL_CHOICES:
        form = {"enum": list(_ALL_CHOICES[key])}
    if key in WORDS:
        form = {"type": "array", "items": {"enum": list(WORDS[key])}}
    if key in HUMAN:
        form = {"anyOf": [form, *HUMAN[key].get("anyOf", [HUMAN[key]])]}
    described = {"description": DOCS[key], **form}
    if not isinstance(cls.__defaults__.get(field, model.Spec()), Frozen):
        described["default"] = cls(**{n: None for n in cls.__fields__ if n not in cls.__defaults__}).asdict()[field]
    return described


def text() -> str:
    """Return the schema as it is shipped in schema.json."""
    import json

    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
