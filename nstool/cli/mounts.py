"""``nstool mounts``: the mounts of a process, and which mounts of the host tell each other of new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nstool.errors import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.text import Text
    from rich.tree import Tree

    from nstool.inspect.mounts import Mounted, Mounts
    from nstool.inspect.peers import Group, Member, View
    from nstool.inspect.propagation import Graph

_SHOWN = 8  # mounts or processes on one line of a picture or tree; the others are counted

EPILOG = """\b
Examples:
  nstool mounts $$                    every mount of this shell, and which of them are covered
  nstool mounts web --tree            what is mounted on what in the sandbox web
  nstool mounts --propagation -o host.svg
                                      who on this host hears of whose mounts
"""


@click.command("mounts", epilog=EPILOG)
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
@click.option("--tree", "as_tree", is_flag=True, help="Show what is mounted on what.")
@click.option(
    "--propagation", "peers", is_flag=True, help="Show peer groups, masters and slaves of all TARGETs, or of the host."
)
@click.option(
    "--output", "-o", default="", metavar="FILE", help="With --propagation: draw it; FILE.svg, .png, .pdf or .dot."
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(targets: tuple[str, ...], as_tree: bool, peers: bool, output: str, force: bool, as_json: bool) -> int:
    """Show the mounts that a process has: a pid, or the command of a sandbox.

    A mount may be listed and yet be out of reach: covered by a later mount on the same directory or on one above it, or
    not below the root directory of the process. Each such mount is shown with what covers it. Mounts whose files have
    other owners than on their file system are marked idmapped.

    With --propagation the mounts of all processes (or of those named) are put together: a peer group is a set of mounts
    that tell each other of what is mounted on them; a slave hears of its master's and tells nothing back.
    """
    if as_tree and peers:
        raise click.UsageError("--tree and --propagation are two views; give one of them")
    if output and not peers:
        raise click.UsageError("--output draws --propagation; give that too")
    if not peers and len(targets) != 1:
        raise click.UsageError("give one TARGET, a pid or the name of a sandbox; only --propagation takes more or none")
    from nstool.inspect.proc import process

    pids = [process(target) for target in targets]
    if peers:
        return _propagation(pids, output, force, as_json)
    from nstool.inspect.mounts import mounts

    found = mounts(pids[0])
    if as_json:
        from nstool.cli import answer

        answer.show(found.asdict())
        return 0
    _print(found, as_tree)
    return 0


def _print(found: Mounts, as_tree: bool) -> None:
    from nstool.cli.console import MANY, for_lines, printed_table
    from nstool.inspect.proc import title

    covered = [entry for entry in found.mounts if entry.covered_by]
    if as_tree and len(found.by_id()) > MANY:
        click.echo("\n".join(_tree_lines(found)))
    elif as_tree:
        for_lines().print(_tree(found))
    else:
        entries = found.by_id()
        rows = [_row(entry, entries) for entry in entries.values()]
        printed_table(_COLUMNS, rows, fixed=(0, 1, 2), below=(5, 7))
        if found.pid != found.tgid:
            click.echo(f"note: these are the mounts of {title(found.tgid, found.pid)}")
    if not found.mounts:
        click.echo(f"note: no mount of its namespace is below its root directory {_quoted(found.root)}")
    if covered:
        click.echo(f"note: {len(covered)} covered: paths do not lead there; what was opened before still does")
    if "outside" in found.unread:
        click.echo(f"note: mounts that are not below its root directory are unknown: {found.unread['outside']}")
    if "source" in found.unread:
        click.echo(f"note: some sources are unknown: {found.unread['source']}")
    if "uid_map" in found.unread:
        click.echo(f"note: the maps of idmapped mounts are unknown: {found.unread['uid_map']}")


_COLUMNS = ("id", "on", "mounted on", "type", "source", "options", "propagation", "state")


def _row(entry: Mounted, entries: dict[int, Mounted]) -> Sequence[str]:
    mount = entry.mount
    return (
        str(mount.id),
        str(mount.parent),
        mount.target,
        mount.type,
        _source(entry),
        ",".join(mount.options),
        mount.propagation.replace(",", " "),
        "; ".join(_states(entry, entries)),
    )


def _source(entry: Mounted) -> str:
    mount = entry.mount
    return mount.source if mount.root == "/" else f"{mount.source}[{mount.root}]"


def _states(entry: Mounted, entries: dict[int, Mounted]) -> list[str]:
    from nstool.inspect.covers import OUTSIDE

    words = []
    if entry.covered_by:
        over = entries.get(entry.covered_by)
        words.append(f"covered by {entry.covered_by}" + (f" on {over.mount.target}" if over else ", its root"))
    if entry.state == OUTSIDE:
        words.append("not below its root directory")
    if entry.uid_map:
        lines = (f"{line.inside} is {line.outside}, {plural(line.count, 'id')}" for line in entry.uid_map)
        words.append(f"uid map {' and '.join(lines)}")
    return words


def _tree(found: Mounts) -> Tree:
    from rich.tree import Tree

    from nstool.cli.console import cell

    entries = found.by_id()
    children = _children(entries)
    top = Tree(cell(_top(found)))
    nodes = {0: top}
    todo = [0]
    while todo:
        number = todo.pop()
        for entry in children.get(number, ()):
            nodes[entry.mount.id] = nodes[number].add(_branch(entry, entries))
            todo.append(entry.mount.id)
    return top


def _tree_lines(found: Mounts) -> Iterator[str]:
    # The same, of many mounts: rich takes minutes where they are deep.
    from nstool.cli.console import cell

    entries = found.by_id()
    children = _children(entries)
    yield cell(_top(found)).plain
    tops = children.get(0, [])
    todo = [(entry, "", entry is tops[-1]) for entry in tops[::-1]]
    while todo:
        entry, lead, last = todo.pop()
        yield f"{lead}{'└── ' if last else '├── '}{_branch(entry, entries).plain}"
        below = children.get(entry.mount.id, [])
        lead += "    " if last else "│   "
        todo += [(one, lead, one is below[-1]) for one in below[::-1]]


def _top(found: Mounts) -> str:
    from nstool.inspect.proc import whose

    return f"{whose(found.command, found.pid, found.tgid)}, mnt:[{found.namespace}], root {found.root}"


def _children(entries: dict[int, Mounted]) -> dict[int, list[Mounted]]:
    found: dict[int, list[Mounted]] = {}
    for entry in entries.values():
        parent = entry.mount.parent if entry.mount.parent in entries and entry.mount.parent != entry.mount.id else 0
        found.setdefault(parent, []).append(entry)
    return found


def _branch(entry: Mounted, entries: dict[int, Mounted]) -> Text:
    from rich.text import Text

    from nstool.cli.console import cell
    from nstool.inspect.covers import REACHED

    mount = entry.mount
    words = [mount.type, _source(entry), "ro" if mount.read_only else "rw"]
    words += [] if mount.propagation == "private" else mount.propagation.split(",")
    words += ["idmapped"] if entry.idmapped else []
    text = Text.assemble(
        cell(mount.target or "?", "" if entry.state != REACHED else "bold"), "  ", cell(" ".join(words))
    )
    states = _states(entry, entries)
    return text.append_text(cell(f"  {mount.id} {'; '.join(states)}", "red")) if states else text


# ---- across namespaces ----


def _propagation(pids: list[int], output: str, force: bool, as_json: bool) -> int:
    from nstool.cli import picture
    from nstool.inspect.propagation import graph

    if output:
        picture.check(output)
    found = graph(pids)
    if as_json:
        from nstool.cli import answer

        answer.show(found.asdict())
    elif not output:
        _print_groups(found)
    if output:
        picture.write(output, dot(found), force)
    if found.hidden:
        click.echo(f"note: {_hidden(found.hidden)}", err=True)
    return 0


def _hidden(pids: Sequence[int]) -> str:
    from nstool.errors import SandboxGone
    from nstool.sandbox.facts import why_hidden

    shown = f"{len(pids)} processes" if len(pids) > 1 else f"process {pids[0]}"
    for pid in pids:
        try:
            cause, remedy = why_hidden(pid)
        except SandboxGone:  # ended meanwhile
            continue
        first = f", {pid} " if len(pids) > 1 else " "
        return f"{shown} may not be looked into{first}because {cause}; {remedy}"
    return f"{shown} could not be looked into, and ended meanwhile"


def _print_groups(found: Graph) -> None:
    from rich.tree import Tree

    from nstool.cli.console import cell, for_lines, printed_table

    console = for_lines()
    children: dict[int, list[Group]] = {}
    ids = {group.id for group in found.groups}
    for group in found.groups:
        children.setdefault(group.master if group.master in ids else 0, []).append(group)
    views = {view.namespace: view for view in found.namespaces}
    for group in children.get(0, ()):
        todo = [(group, Tree(cell(_title(group), "bold")))]
        top = todo[0][1]
        while todo:
            one, tree = todo.pop()
            for line in _alike(one.members, views):
                tree.add(cell(line))
            for line in _alike(one.slaves, views):
                tree.add(cell(f"slave: {line}"))
            todo += [(below, tree.add(cell(_title(below), "bold"))) for below in children.get(one.id, ())]
        console.print(top)
    if not found.groups:
        click.echo("no mount is shared with another, and none is a slave")
    click.echo()
    printed_table(
        ("namespace", "process", "processes", "mounts", "shared", "slaves", "private", "unbindable"),
        [_namespace(view) for view in found.namespaces],
    )


def _title(group: Group) -> str:
    words = [f"peer group {group.id}"]
    if group.master:
        how = "hears from groups between, the nearest known is" if group.nearest else "slave of"
        words.append(f"{how} {group.master}")
    if not group.members:
        words.append("its mounts are in no namespace that was read")
    return ", ".join(words)


def _alike(members: Iterable[Member], views: dict[int, View]) -> list[str]:
    # Namespaces with the same mounts in it, as those of a hundred equal sandboxes, make one line.
    targets: dict[int, list[str]] = {}
    for member in members:
        targets.setdefault(member.namespace, []).append(member.target)
    namespaces: dict[tuple[str, ...], list[int]] = {}
    for number, own in targets.items():
        namespaces.setdefault(tuple(own), []).append(number)
    return [
        f"{_some([_process(views[n]) for n in numbers], ', ')}: {_some(own)}" for own, numbers in namespaces.items()
    ]


def _process(view: View) -> str:
    return f"{view.command} ({view.pid})"


def _some(words: Sequence[str], between: str = " ") -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return between.join(words[:_SHOWN]) + more


def _namespace(view: View) -> Sequence[str]:
    from nstool.inspect.peers import propagation

    ties = [propagation(mount) for mount in view.mounts]
    shared = sum(bool(tie.peer_group) for tie in ties)
    slaves = sum(bool(tie.master) for tie in ties)
    numbers = (view.processes, len(ties), shared, slaves, view.private, view.unbindable)
    return (f"mnt:[{view.namespace}]", _process(view), *map(str, numbers))


def dot(found: Graph) -> str:
    """Return the graph in DOT: a box a peer group, an ellipse slaves that nobody hears, arrows to who hears."""
    from nstool.cli.picture import label

    views = {view.namespace: view for view in found.namespaces}
    lines = ["digraph propagation {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif", fontsize=10];']
    for group in found.groups:
        text = "\n".join((f"peer group {group.id}", *_alike(group.members, views)))
        style = "" if group.members else ", style=dashed"
        lines.append(f"  g{group.id} [label={label(text)}{style}];")
        if group.master:
            lines.append(f"  g{group.master} -> g{group.id}{' [style=dashed]' if group.nearest else ''};")
        for number, line in enumerate(_alike(group.slaves, views)):
            lines.append(f"  s{group.id}_{number} [shape=ellipse, label={label(line)}];")
            lines.append(f"  g{group.id} -> s{group.id}_{number};")
    return "\n".join((*lines, "}")) + "\n"


def _quoted(text: str) -> str:
    from nstool.spec.values import quoted

    return quoted(text)
