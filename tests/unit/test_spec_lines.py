"""The line of a key, found in texts whose lines the test itself has laid out."""

from __future__ import annotations

import json
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from nstool.spec.lines import Lines

TOML = """\
# a comment with [brackets] and = signs

command = ["a", "[x]", 'b # no comment']  # [y]
env = { A = "1", "B.C" = '2' }
text = \"\"\"
[no]
table = "\\\\\\" \"\" quote\"\"\"\"
literal = '''
it's [[none]]
'''
  "quoted key" = 1
limits.memory = "64M"
limits . rlimits . "core" = [0,
  0]
mounts = [
  # first
  { target = "/a" },
  {  target = "/b" },
]

[net]
mode = 'veth'
[[net.publish]]
host = 1
[[net.publish]]
host = 2
inside = 3

  [ net . sysctls ]  # dotted
"net.ipv4.ip_forward" = "1"
[[ a ]]
[a.b]
c = 1
[[a]]
[a.b]
c = 2
[[a.d]]
e = 4
"""


def test_lines_of_a_written_text():
    lines = Lines(TOML, "toml")
    tomllib.loads(TOML)

    def at(words, number=1):
        found = [i for i, line in enumerate(TOML.splitlines(), 1) if words in line]
        return found[number - 1]

    expected = {
        ("command",): at("command ="),
        ("command", 2): at("command ="),
        ("env", "B.C"): at("env ="),
        ("quoted key",): at("quoted key"),
        ("limits", "memory"): at("limits.memory"),
        ("limits", "rlimits", "core"): at("rlimits"),
        ("limits", "rlimits", "core", 1): at("rlimits") + 1,
        ("mounts", 0, "target"): at('"/a"'),
        ("mounts", 1, "target"): at('"/b"'),
        ("net",): at("[net]"),
        ("net", "mode"): at("mode ="),
        ("net", "publish", 0): at("[[net.publish]]"),
        ("net", "publish", 1, "inside"): at("inside"),
        ("net", "publish", 1, "absent"): at("[[net.publish]]", 2),
        ("net", "sysctls", "net.ipv4.ip_forward"): at("ip_forward"),
        ("a", 0, "b", "c"): at("c = 1"),
        ("a", 1, "b", "c"): at("c = 2"),
        ("a", 1, "d", 0, "e"): at("e = 4"),
        ("nowhere",): 0,
    }
    assert {path: lines.of(path) for path in expected} == expected


KEYS = st.text("abcB_-1", min_size=1, max_size=3) | st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=3
)
STRINGS = st.text(st.sampled_from("ab \"'#[]{}=,.\\\n\tö"), max_size=8)
SCALARS = STRINGS | st.integers(-9, 99) | st.booleans()


def toml_key(key, literal):
    if key and all(c.isascii() and (c.isalnum() or c in "_-") for c in key) and not literal:
        return key
    if literal and key.isprintable() and "'" not in key:
        return f"'{key}'"
    return basic(key)


def basic(text):
    # JSON's escapes are TOML's, but for DEL, which JSON leaves bare, and for pairs of surrogates.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(draw, value):
    """One value, in one of the ways that TOML has for it; may take several lines."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        form = draw(st.sampled_from(["basic", "long", "literal", "raw"]))
        escaped = value.replace("\\", "\\\\").replace('"""', '""\\"')
        if form == "long" and not value.startswith("\n"):
            return '"""' + (escaped[:-1] + '\\"' if escaped.endswith('"') and draw(st.booleans()) else escaped) + '"""'
        if form == "literal" and "'" not in value and "\n" not in value:
            return f"'{value}'"
        if form == "raw" and "'''" not in value and not value.startswith("\n"):
            return f"'''{value}'''"
        return basic(value)
    if isinstance(value, list):
        end = draw(st.sampled_from(["", "\n", " # ] no end\n"]))
        return "[" + end + f",{end}".join(toml_value(draw, v) for v in value) + end + "]"
    pairs = [f"{toml_key(k, draw(st.booleans()))} = {toml_value(draw, v)}" for k, v in value.items()]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def documents(draw):
    """A TOML text, and the lines of the keys in it as they were written."""
    values = st.recursive(
        SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS, v, max_size=3), max_leaves=5
    )
    text, lines = "", {}

    def pairs(path):
        nonlocal text
        for key, value in draw(st.dictionaries(KEYS, values, max_size=3)).items():
            text += draw(st.sampled_from(["", "\n", "# x = 1 [y]\n", "  "]))
            if not draw(st.booleans()):
                lines[(*path, key)] = text.count("\n") + 1
                text += f"{toml_key(key, draw(st.booleans()))} = {toml_value(draw, value)}\n"
            else:  # dotted: a table with one key
                inner = draw(KEYS)
                lines[(*path, key)] = lines[(*path, key, inner)] = text.count("\n") + 1
                text += f"{toml_key(key, False)} . {toml_key(inner, True)}={toml_value(draw, value)} # c\n"

    pairs(())
    names = draw(st.lists(KEYS, max_size=3, unique=True))
    for name in names:
        if (name,) in lines:
            continue
        for index in range(draw(st.integers(1, 2))):
            lines.setdefault((name,), text.count("\n") + 1)
            lines[(name, index)] = text.count("\n") + 1
            text += f"[[ {toml_key(name, draw(st.booleans()))}]] # [x]\n"
            pairs((name, index))
            below = draw(KEYS)
            if (name, index, below) not in lines:
                lines[(name, index, below)] = text.count("\n") + 1
                text += f"[{toml_key(name, False)} . {toml_key(below, True)} ]\n"
                pairs((name, index, below))
    return text, lines


@given(documents(), st.booleans())
def test_lines_of_any_toml(document, windows):
    text, lines = document
    tomllib.loads(text)  # the generator writes TOML
    found = Lines(text.replace("\n", "\r\n") if windows else text, "toml")
    assert {path: found.of(path) for path in lines} == lines


@given(st.dictionaries(st.text(max_size=3), st.lists(st.integers() | STRINGS, max_size=2), min_size=1))
def test_lines_of_any_json(data):
    """json.dumps with indent puts each key and each element on a line of its own."""
    text = json.dumps(data, indent=1)
    found = Lines(text, "json")
    line = 1
    for key, items in data.items():
        line += 1
        assert found.of((key,)) == line
        for index in range(len(items)):
            line += 1
            assert found.of((key, index)) == line
        line += bool(items)


def test_what_is_nested_too_deep_ends_the_scan():
    assert Lines("a = 1\nb = " + "[" * 5000 + "]" * 5000, "toml").of(("a",)) == 1
