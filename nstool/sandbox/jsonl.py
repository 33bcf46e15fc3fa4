"""JSON lines, written without importing json (it costs more than the rest of the import, docs/adr/0003)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def encode(value: object) -> str:
    """Return value as JSON on one line.

    value: None, bool, int, finite float, str (lone surrogates too: a path as os.fsdecode gives
    it), bytes (as ``{"$bytes": HEX}``), list, tuple, or dict with str keys that do not start with
    "$". Raises TypeError for anything else.
    """
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([encode(item) for item in value]) + "]"
    if isinstance(value, dict):
        return "{" + ",".join([_key(key) + ":" + encode(item) for key, item in value.items()]) + "}"
    if isinstance(value, bytes):
        return '{"$bytes":"' + value.hex() + '"}'
    if isinstance(value, float) and value - value == 0.0:  # neither infinite nor NaN, which JSON lacks
        return float.__repr__(value)
    raise TypeError(f"{value!r} has no form in JSON")


def decode(line: str | bytes) -> Any:
    """Return the value of one line that ``encode`` wrote; tuples come back as lists. Raises ValueError."""
    import json

    return json.loads(line, object_hook=_bytes_back)


def _string(text: str) -> str:
    if text.isprintable() and '"' not in text and "\\" not in text:
        return '"' + text + '"'
    return '"' + "".join([_character(c) for c in text]) + '"'


def _character(char: str) -> str:
    if char in _SHORT:
        return _SHORT[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


def _key(key: object) -> str:
    if not isinstance(key, str) or key.startswith("$"):
        raise TypeError(f'a JSON key is text that does not start with "$", not {key!r}')
    return _string(key)


def _bytes_back(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["$bytes"]) if "$bytes" in value else value
