"""``nstool show``: what isolates a sandbox or a process, inside beside outside."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import click

from nstool.errors import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console

    from nstool.sandbox.facts import Facts, Isolation
    from nstool.sandbox.rundir import Record
    from nstool.spec.model import IdMap

    Rows = dict[str, Callable[[Facts], str]]  # name of a fact to its text


@click.command("show")
@click.argument("target", metavar="NAME|PID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--mounts", is_flag=True, help="List the mounts inside too.")
def show(target: str, as_json: bool, mounts: bool) -> int:
    """Show what isolates the command of sandbox NAME, or the process PID, beside what nstool itself sees."""
    from nstool.cli import answer
    from nstool.inspect.proc import process
    from nstool.sandbox import rundir

    pid = process(target)
    found = look(pid)
    record = rundir.read(target) if target in rundir.names() else None
    published = record.published if record else []
    notes = [*_hidden(found.inside), *(_departures(record, pid) if record else ())]
    if as_json:
        answer.show({**found.asdict(), "published": published, "notes": notes})
        return 0
    from nstool.cli.console import for_lines

    console = for_lines()
    render(found, console, published)
    if mounts:
        render_mounts(found, console)
    for note in notes:
        click.echo(f"note: {note}")
    return 0


def look(pid: int) -> Isolation:
    """Read what isolates a process, its addresses too. Raises SandboxGone if there is none, or it ends meanwhile."""
    from nstool.sandbox.facts import isolation

    found = isolation(pid)
    return found.replace(inside=_with_addresses(found.inside), outside=_with_addresses(found.outside))


def render(isolation: Isolation, console: Console, published: Sequence[str] = ()) -> None:
    """Print the table: one row a fact, inside beside outside, what differs in green. published: ports of the host."""
    from nstool.cli.console import Table, cell, cells
    from nstool.inspect.proc import whose

    inside, outside = isolation.inside, isolation.outside
    heads = (f"{side}: {whose(facts.command, facts.pid, facts.tgid)}" for side, facts in _sides(isolation))
    table = Table("", *heads)
    for title, rows in _sections(isolation).items():
        table.add_row(cell(title, "bold"))
        for name, text in rows.items():
            left, right = text(inside), text(outside)
            style = "green" if left != right else ""
            table.add_row(cell(f"  {name}"), cells(left, style), cells(right, style))
    if published:
        table.add_row(cell("  published"), cells("\n".join(published), "green"))
    console.print(table)


def _sides(isolation: Isolation) -> tuple[tuple[str, Facts], ...]:
    return ("inside", isolation.inside), ("outside", isolation.outside)


def render_mounts(isolation: Isolation, console: Console) -> None:
    """Print the mounts inside: target, ro, rw or covered (no path leads to it), type, source, options."""
    from nstool.cli.console import Table, cell

    table = Table("mounted on", "", "type", "source", "options", fixed=(0, 1), below=(4,))
    covered = isolation.inside.covered
    for mount in isolation.inside.mounts or ():
        access = "covered" if mount.id in covered else "ro" if mount.read_only else "rw"
        options = ",".join(option for option in mount.options if option not in ("ro", "rw"))
        style = "dim" if mount.id in covered else ""
        table.add_row(*(cell(text, style) for text in (mount.target, access, mount.type, mount.source, options)))
    console.print(table)


def _sections(isolation: Isolation) -> dict[str, Rows]:
    inside, outside = isolation.inside, isolation.outside
    limits = dict.fromkeys((*_limits(inside), *_limits(outside)))
    rlimits = [name for name, limit in inside.rlimits.items() if limit != outside.rlimits[name]]
    return {
        "namespaces": {kind: partial(_inode, kind) for kind in isolation.differs},
        "identity": _IDENTITY,
        "capabilities": {name: partial(_capabilities, name) for name in inside.capabilities} | _SECUREBITS,
        "confinement": _CONFINEMENT
        | {name: partial(_cgroup_limit, name) for name in limits}
        | {f"rlimit {name}": partial(_rlimit, name) for name in rlimits},
        "surroundings": _SURROUNDINGS,
    }


def _inode(kind: str, facts: Facts) -> str:
    if kind in facts.namespaces:
        return f"{kind}:[{facts.namespaces[kind]}]"
    return f"unknown: {facts.unread[f'namespaces.{kind}']}"


def _ids(what: str, facts: Facts) -> str:
    # The kernel shows ids as the reader's; what the process itself sees comes through its map.
    from nstool.security.idmap import to_inside

    ids, maps = (facts.uids, facts.uid_map) if what == "uid" else (facts.gids, facts.gid_map)
    own = to_inside(maps, ids.effective)
    own_text = "not mapped" if own is None else str(own)
    return own_text if own == ids.effective else f"{own_text} (outside {ids.effective})"


def _map(maps: Sequence[IdMap]) -> str:
    return "\n".join(f"{line.inside} is {line.outside}, {plural(line.count, 'id')}" for line in maps) or "none"


def _capabilities(name: str, facts: Facts) -> str:
    from nstool.security.capabilities import in_words

    return in_words(facts.capabilities[name].mask)


def _seccomp(facts: Facts) -> str:
    if facts.seccomp != "filter" or facts.seccomp_filters is None:
        return facts.seccomp
    return f"{facts.seccomp_filters} filter{'s' if facts.seccomp_filters > 1 else ''}"


def _limits(facts: Facts) -> dict[str, str]:
    return {
        name: _limit(name, value) + _used(name, cgroup.usage)
        for cgroup in facts.cgroups
        for name, value in cgroup.limits.items()
    }


def _limit(name: str, value: str) -> str:
    # Version 1 says "unlimited" as -1, or for memory as the largest number of whole pages.
    if value in ("max", "-1", "max 100000") or (value.isdecimal() and int(value) >= 1 << 60):
        return "unlimited"
    if name.startswith("memory.") and value.isdecimal():
        return f"{int(value) / (1 << 20):g} MiB"
    return value


def _used(name: str, usage: dict[str, int]) -> str:
    if name not in usage:
        return ""
    number = f"{usage[name] / (1 << 20):.1f} MiB" if name.startswith("memory.") else str(usage[name])
    return f", {number} used"


def _cgroup_limit(name: str, facts: Facts) -> str:
    return _limits(facts).get(name, "none")


def _rlimit(name: str, facts: Facts) -> str:
    from nstool.security.rlimits import describe

    return describe(facts.rlimits[name])


def _clocks(facts: Facts) -> str:
    moved = {clock: offset for clock, offset in (facts.time_offsets or {}).items() if offset}
    return "\n".join(f"{clock} {offset / 1e9:+g} s" for clock, offset in moved.items()) or "not moved"


def _root(facts: Facts) -> str:
    root = facts.root
    if root is None:
        return "no mount"
    return f"{root.type} {root.source}{'' if root.root == '/' else root.root} ({','.join(root.options)})"


def _mount_counts(facts: Facts) -> str:
    mounts, covered = facts.mounts or (), facts.covered
    writable = sum(not mount.read_only and mount.id not in covered for mount in mounts)
    return f"{len(mounts)}, {writable} of them writable" + (f", {len(covered)} covered" if covered else "")


def _network(facts: Facts) -> str:
    if facts.addresses is None:
        return _or_reason(facts, "addresses", "not asked for")
    return "\n".join(facts.addresses) or "none"


def _cgroups(facts: Facts) -> str:
    paths: dict[str, list[str]] = {}
    for cgroup in facts.cgroups:
        paths.setdefault(cgroup.path, []).extend(cgroup.controllers or ("v2",))
    return "\n".join(f"{path} ({', '.join(names)})" for path, names in paths.items())


def _memory(facts: Facts) -> str:
    return f"{facts.memory.private} KiB private" if facts.memory else ""


def _or_reason(facts: Facts, fact: str, text: str) -> str:
    return f"unknown: {facts.unread[fact]}" if fact in facts.unread else text


def _words(words: Iterable[str]) -> str:
    return " ".join(words) or "none"


_IDENTITY: Rows = {
    "uid": partial(_ids, "uid"),
    "gid": partial(_ids, "gid"),
    "groups": lambda facts: _words(map(str, facts.groups)),
    "uid map": lambda facts: _map(facts.uid_map),
    "gid map": lambda facts: _map(facts.gid_map),
    "pids": lambda facts: " > ".join(map(str, facts.pids)),
}
_SECUREBITS: Rows = {"securebits": lambda facts: _or_reason(facts, "securebits", _words(facts.securebits or ()))}
_CONFINEMENT: Rows = {
    "no_new_privs": lambda facts: "yes" if facts.no_new_privs else "no",
    "seccomp": _seccomp,
    "LSM label": lambda facts: _or_reason(facts, "lsm", facts.lsm or "none"),
    "randomised addresses": lambda facts: _or_reason(facts, "aslr", facts.aslr or ""),
    "oom_score_adj": lambda facts: str(facts.oom_score_adj),
}
_SURROUNDINGS: Rows = {
    "host name": lambda facts: _or_reason(facts, "hostname", facts.hostname or ""),
    "clocks": lambda facts: _or_reason(facts, "time_offsets", _clocks(facts)),
    "root": lambda facts: _or_reason(facts, "mounts", _root(facts)),
    "mounts": lambda facts: _or_reason(facts, "mounts", _mount_counts(facts)),
    "addresses": _network,
    "cgroups": _cgroups,
    "memory": lambda facts: _or_reason(facts, "memory", _memory(facts)),
}


def _hidden(facts: Facts) -> list[str]:
    """Why something may not be read, if it may not."""
    from errno import EACCES, EPERM

    from nstool.sandbox.facts import why_hidden

    if {os.strerror(EACCES), os.strerror(EPERM)}.isdisjoint(facts.unread.values()):
        return []
    cause, remedy = why_hidden(facts.pid)
    return [f"not all of process {facts.pid} may be read: {cause}; {remedy}"]


def _departures(record: Record, pid: int) -> list[str]:
    """What is no longer as the sandbox was made: somebody changed its cgroups."""
    from nstool.sandbox import cgroups
    from nstool.spec.load import from_dict

    return cgroups.departures(record.cgroups, from_dict(record.spec).limits, pid)


def _with_addresses(facts: Facts) -> Facts:
    from errno import EACCES, ENOENT, EPERM, ESRCH

    from nstool.errors import SandboxGone
    from nstool.network.facts import addresses

    try:
        links = addresses(facts.pid).links
    except OSError as error:
        if error.errno in (ENOENT, ESRCH):  # a zombie has no namespaces any more
            raise SandboxGone(f"process {facts.pid} has ended") from None
        if error.errno not in (EACCES, EPERM):
            raise
        # An ordinary user may join no network namespace from outside.
        return facts.replace(unread={**facts.unread, "addresses": str(error.strerror)})
    return facts.replace(addresses=tuple(" ".join((link.name, *link.addresses)) for link in links))
