"""What a service tells, as tables: for ``nstool service status``, ``top`` and ``list``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Group

from nstool.cli.console import Table, cell
from nstool.errors import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

LAST = 10  # ends that are shown


def told(found: dict[str, Any]) -> Group:
    """Return the state of a service: generations, sandboxes, counts, latencies."""
    where = ", ".join(found["listening"])
    watched = f"; metrics at {found['metrics']}" if found["metrics"] else ""
    state = f"up {found['uptime']:.0f} s" if not found["killed"] else "killed"
    lines = [
        f"{found['name']}: {where}; {state}{watched}{'; stopping' if found['stopping'] else ''}",
        f"now {_now(found)}; so far {_so_far(found)}",
    ]
    if not found["killed"] and not found["stopping"] and not _current(found):
        lines.append("nobody takes connections: there is no current generation; the log says why")
    if found["dropped"]:
        lines.append(f"{found['dropped']} bytes of what commands said are not in the log: it was too much")
    for what in ("ends", "refused", *(["alarms"] if found["alarms"] else [])):
        named = ", ".join(f"{count} {name}" for name, count in found[what].items() if count)
        lines.append(f"{what}: {named or 'none'}")
    return Group(*map(cell, lines), *_tables(_latencies(found["latencies"]), _generations(found["generations"])))


def _current(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in found["generations"] if one["state"] == "current"]


def _sees(found: dict[str, Any]) -> bool:
    """Whether nstool sees connections: it does not where the command has the listening sockets."""
    return bool(found["shape"] != "listener")


def _now(found: dict[str, Any]) -> str:
    places = f"{found['live']} of {found['places']} places"
    if not _sees(found):
        return f"{places} have a sandbox that accepts"
    return f"{places} have a connection, {plural(found['parked'], 'sandbox')} parked, {found['queued']} queued"


def _so_far(found: dict[str, Any]) -> str:
    counts = f"{plural(found['lives'], 'sandbox')} begun, {plural(found['rotations'], 'rotation')}"
    if not _sees(found):
        return f"{counts}; nstool sees no connections"
    return f"{plural(found['accepted'], 'connection')}, {counts}"


def watched(found: dict[str, Any]) -> Group:
    """Return the same, the sandboxes that serve, the longest first, and the last that have ended."""
    return Group(told(found), *_tables(_places(found), _ends(found)))


def services(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the services that run."""
    table = Table("name", "pid", "listens at", "generation", "serve", "connections", "up", fixed=(0, 1))
    for one in rows:
        if one["unanswered"]:
            table.add_row(one["name"], str(one["pid"] or ""), one["unanswered"])
            continue
        counts = f"{one['live']} of {one['places']}"
        where, number = ", ".join(one["listening"]), "stopping" if one["stopping"] else str(one["generation"] or "none")
        accepted = str(one["accepted"]) if _sees(one) else "not seen"
        table.add_row(*(one["name"], str(one["pid"]), where, number, counts, accepted, f"{one['uptime']:.0f} s"))
    return table


def attested(name: str, rows: Sequence[dict[str, Any]], *, all_: bool) -> Group:
    """Return what was found of the sandboxes that serve, those that lack something first."""
    from nstool.cli.attest import compared, unknown
    from nstool.sandbox.attest import Property
    from nstool.service.blueprint import titled

    parts: list[RenderableType] = []
    every: list[Property] = []
    for one in sorted(rows, key=lambda one: one["holds"] is not False):
        properties = tuple(Property(**each) for each in one["properties"])
        failed = sum(each.holds is False for each in properties)
        held = sum(each.holds is True for each in properties)
        found = f"lacks {plural(failed, 'property')}; {held} hold" if failed else f"{plural(held, 'property')} hold"
        client = f", {one['client']}" if one["client"] else ""  # of a listening socket nstool sees none
        who = f"process {one['pid']} of generation {titled(one['generation'], one['shard'])}{client}"
        parts += [cell(f"{who}: {one['why'] or found}"), *_tables(compared(properties, all_=all_))]
        every += properties
    parts += unknown(every)
    failed, untold = (sum(one["holds"] is what for one in rows) for what in (False, None))
    if not rows:
        parts.append(cell(f"no sandbox of {name} serves now"))
    elif failed:
        parts.append(cell(f"not attested: {failed} of {plural(len(rows), 'sandbox')}"))
    else:
        parts.append(cell(f"attested: {len(rows) - untold} of {plural(len(rows), 'sandbox')}, in all that can be read"))
    return Group(*parts)


def _tables(*tables: Table) -> Iterable[Table]:
    return (table for table in tables if table.row_count)


def _filled(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(*heads)
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _latencies(stages: dict[str, Any]) -> Table:
    rows = [
        (stage, one["count"], *(f"{one[key] / 1000:.2f}" for key in ("mean", "p50", "p90", "p99")))
        for stage, one in stages.items()
        if one["count"]
    ]
    return _filled(("since the connection, ms", "count", "mean", "p50", "p90", "p99"), rows)


def _title(generation: dict[str, Any]) -> str:
    """Its number, with that of a shard: what its sandbox is called behind the name of the service."""
    title: str = generation["sandbox"].rpartition(".")[2]
    return title


def _generations(generations: Iterable[dict[str, Any]]) -> Table:
    rows = [
        (_title(one), one["state"], one["pid"], f"{one['age']:.0f} s", one["lives"], _live(one)) for one in generations
    ]
    return _filled(("generation", "state", "pid", "age", "begun", "live"), rows)


def _live(generation: dict[str, Any]) -> int:
    """Return how many sandboxes it has, of which a place that is held has none."""
    return sum(place["state"] != "held" for place in generation["places"])


def _places(found: dict[str, Any]) -> Table:
    rows = []
    for one in found["generations"]:
        for place in one["places"]:
            if place["state"] != "parked":
                age = found["time"] - place["since"]
                words = (place["client"], f"{age:.0f} s", place["state"], _title(one), place["number"], place["life"])
                rows.append((age, words))
    rows.sort(key=lambda row: -row[0])
    return _filled(("client", "since", "state", "generation", "place", "life"), [words for _, words in rows])


def _ends(found: dict[str, Any]) -> Table:
    rows = []
    for one in (*found["gone"], *found["generations"]):
        for end in one["ends"]:
            ago = max(0.0, found["time"] - end["end"])
            lived = f"{(end['end'] - end['begin']) * 1000:.2f}"
            words = (f"{ago:.0f} s ago", end["cause"], end["client"], one["number"], end["life"] or "", lived)
            rows.append((ago, words))
    rows.sort(key=lambda row: row[0])
    return _filled(("ended", "cause", "client", "generation", "life", "lived, ms"), [words for _, words in rows[:LAST]])
