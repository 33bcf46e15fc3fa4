"""``nstool cgroups``: hierarchies, and of a process or cgroup the limits that hold, who set them, and what is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nstool.inspect.cgroups import Cgroups, Hierarchy, Membership, Node
    from nstool.inspect.limits import Bound
    from nstool.sandbox.cgroups import Usage

EPILOG = """\b
Examples:
  nstool cgroups                      which hierarchies and controllers this host has
  nstool cgroups $$                   the limits that hold for this shell, and who set them
  nstool cgroups web --tree           the cgroups of the sandbox web and below, with what they use
  nstool cgroups /sys/fs/cgroup/system.slice
"""


@click.command("cgroups", epilog=EPILOG)
@click.argument("target", required=False)
@click.option("--tree", "as_tree", is_flag=True, help="Show the cgroups below, with processes and use.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(target: str | None, as_tree: bool, as_json: bool) -> int:
    """Show the cgroup hierarchies of this host, of version 1 and 2, or the cgroups of TARGET.

    TARGET: a pid, the name of a sandbox, or a cgroup: its directory, or its path in a hierarchy (with a slash). Of each
    limit the tightest is shown, from the cgroup up to the top: that one holds, whichever cgroup set it, and all
    processes below the one that set it share it.
    """
    from nstool.inspect.cgroups import cgroups, hierarchies, named
    from nstool.inspect.proc import process

    trees = () if target else hierarchies()
    found = None
    if target:
        found = named(target) if "/" in target else cgroups(process(target))
    if as_tree:
        _tree(found.cgroups if found else trees, as_json)
    elif as_json:
        from nstool.cli import answer

        answer.show(found.asdict() if found else {"hierarchies": [one.asdict() for one in trees]})
    elif found:
        _print(found)
    else:
        _print_hierarchies(trees)
    return 0


def _print_hierarchies(trees: Sequence[Hierarchy]) -> None:
    from nstool.cli.console import printed_table
    from nstool.inspect.cgroups import unmounted

    rows = [
        (
            str(one.version),
            _controllers(one),
            one.mount or "nowhere",
            "nothing" if not one.mount else "all" if one.whole else f"from {one.top}, and nothing above",
            one.own,
        )
        for one in trees
    ]
    printed_table(("version", "controllers", "mounted on", "shows", "your cgroup"), rows)
    if missing := unmounted():
        click.echo(f"note: in no hierarchy: {' '.join(missing)}")


def _controllers(tree: Hierarchy) -> str:
    if tree.version == 2 and not tree.mount:
        return "unknown"
    return " ".join(tree.controllers) or (f"none, named {tree.name}" if tree.name else "none")


def _print(found: Cgroups) -> None:
    from nstool.cli.console import printed_table
    from nstool.inspect.proc import whose

    if found.pid:
        namespace = f", cgroup:[{found.namespace}]" if found.namespace else ""
        click.echo(f"{whose(_plain(found.command), found.pid, found.tgid)}{namespace}")
    rows = [_row(one) for one in found.cgroups]
    kept = [number for number in range(len(_COLUMNS)) if any(row[number] for row in rows)]
    below = [kept.index(n) for n in (3, 4) if n in kept]
    columns, shown = [_COLUMNS[n] for n in kept], [[row[n] for n in kept] for row in rows]
    printed_table(columns, shown, fixed=(0, kept.index(2)), below=below)
    click.echo()
    # Of huge pages only what is limited.
    limits = [one for one in found.limits if one.value is not None or not one.name.startswith("hugetlb.")]
    if limits:
        columns = ["limit", "holds", "used there", "of its own", "set by"]
        printed_table(columns, [_limit(one) for one in limits], below=(4,))
    else:
        unseen = not all(one.directory for one in found.cgroups)
        click.echo("no limit is to be seen" if unseen else "no controller limits it")
    if used := _usage(found.usage, found.counted):
        click.echo()
        printed_table(("used", "", "by all in"), used, fixed=(0, 1, 2))
    for note in (*_delegations(found.cgroups), *found.notes):
        click.echo(f"note: {_plain(note)}")
    if "inside" in found.unread:
        click.echo(f"note: what it sees in its cgroup namespace is unknown: {_plain(found.unread['inside'])}")


_COLUMNS = ("version", "controllers", "cgroup", "as it sees it", "directory", "processes", "state")


def _row(one: Membership) -> Sequence[str]:
    state = ["frozen"] if one.frozen else []
    if one.removed:
        state.append("removed")
    return (
        str(one.hierarchy.version),
        _controllers(one.hierarchy),
        one.path,
        one.inside if one.inside is not None and one.inside != one.path else "",
        one.directory,
        "" if one.processes is None else str(one.processes),
        " ".join(state),
    )


def _limit(one: Bound) -> Sequence[str]:
    own = _value(one.own, one.unit) if one.own != one.value or not one.directory else "the same"
    used = "" if one.used is None else _value(one.used, one.unit)
    return (one.name, _value(one.value, one.unit), used, own, one.directory or "nobody")


def _value(value: float | str | None, unit: str) -> str:
    if value is None:
        return "unlimited"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return _size(value)
    return f"{value:g} {unit}" if unit in ("cpus", "bytes/s", "operations/s") else f"{value:g}"


def _size(number: float) -> str:
    for unit in ("", "K", "M", "G", "T"):
        if number < 1024 or unit == "T":
            break
        number /= 1024
    return f"{number:.4g}{unit}"


def _usage(usage: Usage, counted: dict[str, str]) -> list[Sequence[str]]:
    rows = [
        ("memory", "memory", _or_none(usage.memory, _size)),
        ("memory at most", "memory", _or_none(usage.memory_peak, _size)),
        ("killed for memory", "memory", _or_none(usage.oom_kills, str)),
        ("memory limit met", "memory", _or_none(usage.memory_failures, str)),
        ("tasks", "pids", _or_none(usage.pids, str)),
        ("forks refused", "pids", _or_none(usage.pids_failures, str)),
        ("cpu time", "unified" if "unified" in counted else "cpuacct", _or_none(usage.cpu_us, _seconds)),
        ("times throttled", "cpu", _or_none(usage.throttled, str)),
        ("time throttled", "cpu", _or_none(usage.throttled_us, _seconds)),
    ]
    return [(name, text, counted[where]) for name, where, text in rows if text is not None]


def _or_none(value: int | None, text: Callable[[int], str]) -> str | None:
    return None if value is None else text(value)


def _seconds(microseconds: int) -> str:
    return f"{microseconds / 1e6:.6g} s"


def _delegations(members: Sequence[Membership]) -> list[str]:
    found = {}
    for one in members:
        if one.delegation is not None:
            given = one.delegation
            files = f" with {' '.join(given.writable)}" if given.writable else ", but none of its files"
            marked = ", marked as delegated" if given.marked else ""
            found[given.directory] = f"{given.directory} belongs to uid {given.uid}, gid {given.gid}{files}{marked}"
    return list(found.values())


# ---- trees ----


def _tree(places: Sequence[Membership | Hierarchy], as_json: bool) -> None:
    from nstool.inspect.cgroups import Hierarchy, tree

    told = [(place if isinstance(place, Hierarchy) else place.hierarchy, tree(place)) for place in places]
    if as_json:
        from nstool.cli import answer

        rows = [{"hierarchy": one.asdict(), "cgroups": [node.asdict() for node in nodes]} for one, nodes in told]
        answer.show({"trees": rows})
        return
    from nstool.cli.console import printed_table

    for one, nodes in told:
        place = f"on {_plain(one.mount)}" if one.mount else "mounted nowhere"
        click.echo(f"version {one.version}: {_controllers(one)}, {place}")
        lines = [_node(node) for node in nodes]
        columns = ("cgroup", "processes", "with those below", "memory", "tasks", "cpu time", "owner")
        kept = [number for number in range(len(columns)) if any(line[number] for line in lines)]
        printed_table([columns[n] for n in kept], [[line[n] for n in kept] for line in lines])


def _node(node: Node) -> Sequence[str]:
    name = node.path if node.depth == 0 else node.path.rpartition("/")[2]
    return (
        "  " * node.depth + name,
        "?" if node.processes is None else str(node.processes),
        str(node.total) if node.total != node.processes else "",
        _or_none(node.memory, _size) or "",
        _or_none(node.pids, str) or "",
        _or_none(node.cpu_us, _seconds) or "",
        f"uid {node.uid}" if node.uid else "",
    )


def _plain(text: str) -> str:
    from nstool.plan.describe import printable

    return printable(text)
