"""The map of a host as a graph of its user namespaces, with what is in each. Graphviz draws it, dot(1)."""

from __future__ import annotations

import html
import math

from nstool.errors import plural
from nstool.inspect import words
from nstool.inspect.map import Group, HostMap
from nstool.inspect.namespaces import Namespace
from nstool.plan.describe import printable

LONGEST = 40  # characters of a line
MAPS = 3  # lines of a uid_map
SHAPE = 0.4  # cells beside each other to those below each other: a cell is wider than it is high

_HEAD = """digraph namespaces {
  rankdir=LR; ranksep=0.6; nodesep=0.2; fontname="DejaVu Sans"; fontsize=14; labelloc=t;
  node [fontname="DejaVu Sans", fontsize=10, shape=plain];
  edge [color="#c2410c", arrowsize=0.6];
"""


def dot(found: HostMap) -> str:
    """Return the graph: a box is a user namespace, and leads to those below it.

    In it are the groups of processes in it, and the namespaces that it owns in which no process is, dashed. A user
    namespace with one group alone, or nothing at all, is a cell of its parent's box.
    """
    spaces = {ns.inode: _Space(ns) for ns in found.census.namespaces if ns.type == "user"}
    lost = _Space(None)  # whose owner is not known from here
    for ns in found.census.namespaces:
        if ns.type == "user" and ns.parent in spaces:
            spaces[ns.parent].below.append(spaces[ns.inode])
    for number, group in enumerate(found.groups):
        space = spaces.get(group.namespaces["user"], lost)
        space.cells.append(_group(group, base=number == 0))
        space.base |= number == 0
    for ns in found.census.namespaces:
        if ns.type != "user" and not ns.pids:
            spaces.get(ns.owner or 0, lost).cells.append(_empty(ns))
    lines = [f"{_HEAD}  label={_quoted(f'Namespaces of {found.host}')};"]
    for space in spaces.values():
        if not space.folds():
            lines.append(f"  {space.id} [label=<{_box(found, space)}>];")
            lines += [f"  {space.id} -> {below.id};" for below in space.below if not below.folds()]
    if lost.cells:
        lines.append(f"  {lost.id} [label=<{_box(found, lost)}>];")
    return "\n".join([*lines, "}", ""])


class _Space:
    # A user namespace, and the cells of its box.
    def __init__(self, ns: Namespace | None) -> None:
        self.ns = ns
        self.id = f"u{ns.inode}" if ns else "lost"
        self.below: list[_Space] = []
        self.cells: list[str] = []
        self.base = False

    def folds(self) -> bool:
        return bool(self.ns and self.ns.parent and len(self.cells) < 2 and not self.below and not self.base)


def _box(found: HostMap, space: _Space) -> str:
    cells = list(space.cells)
    cells += [
        below.cells[0] if below.cells else _empty(below.ns) for below in space.below if below.folds() and below.ns
    ]
    columns = max(1, round(math.sqrt(len(cells) * SHAPE)))
    rows = ["<TR>" + "".join(cells[n : n + columns]) + "</TR>" for n in range(0, len(cells), columns)]
    head = f'<TR><TD COLSPAN="{columns}" BORDER="0" ALIGN="LEFT" BALIGN="LEFT">{_head(found, space.ns)}</TD></TR>'
    table = (
        'BORDER="1" CELLBORDER="1" CELLSPACING="4" CELLPADDING="5" STYLE="ROUNDED" COLOR="#c2410c" BGCOLOR="#fff8f2"'
    )
    return f"<TABLE {table}>{head}{''.join(rows)}</TABLE>"


def _head(found: HostMap, ns: Namespace | None) -> str:
    if ns is None:
        return "their user namespace is not seen from here"
    lines = [f'<B><FONT COLOR="#c2410c">{_text(ns.name)}</FONT></B>']
    if ns.owner_uid is not None:
        lines.append(_text(f"made by {words.user_name(ns.owner_uid)}"))
    if ns.parent:
        lines += [
            _text(f"uid {line.inside} is {line.outside}, {plural(line.count, 'id')}")
            for line in found.uid_maps.get(ns.inode, ())[:MAPS]
        ]
    return "<BR/>".join(lines)


def _group(group: Group, *, base: bool) -> str:
    number = len(group.pids)
    name = "host" if base and not group.maker else f"{group.maker} {group.name}".strip()
    lines = [
        f"<B>{_text(name or '(no name)')}</B>",  # Graphviz takes no tag without content
        _text(f"{number} process{'es' if number > 1 else ''}, the oldest {group.oldest}"),
    ]
    if group.own:
        lines.append(f'<FONT COLOR="#0369a1">{_text(" ".join(group.own))}</FONT>')
    return _cell(lines, "#e8f0ff" if base else "#ffffff")


def _empty(ns: Namespace) -> str:
    return _cell([_text(ns.name), _text(words.pins_in_words(ns))], "#fff8f2", ' STYLE="DASHED"')


def _cell(lines: list[str], ground: str, more: str = "") -> str:
    return f'<TD ALIGN="LEFT" BALIGN="LEFT" COLOR="#8a94a3" BGCOLOR="{ground}"{more}>{"<BR/>".join(lines)}</TD>'


def _text(text: str) -> str:
    """Return text for a label, shortened, without what would be markup, or an escape: \\N is the name of the node."""
    shown = printable(text)
    return html.escape(shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…").replace("\\", "\\\\")


def _quoted(text: str) -> str:
    # Within quotes of DOT a backslash may begin an escape, & an entity of HTML.
    shown = printable(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{shown}"'
