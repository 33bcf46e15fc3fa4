"""The map of a host as one HTML page, which needs nothing else: no network, no other file."""

from __future__ import annotations

import json
import time

from nstool.inspect import html
from nstool.inspect.map import Card, HostMap
from nstool.inspect.namespaces import Namespace
from nstool.inspect.words import in_words, user_name
from nstool.kinds import KINDS
from nstool.plan.describe import printable
from nstool.security import capabilities, idmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nstool.spec.model import IdMap

PINS = 100  # shown of one namespace


def page(found: HostMap) -> str:
    """Return the page. What processes say of themselves is text in it, never markup or script."""
    from markupsafe import Markup

    facts = _printable(data(found))
    return html.page(
        "nstool.inspect",
        "map",
        host=facts["host"],
        kernel=facts["kernel"],
        made=facts["made"],
        reader=facts["reader"],
        notes=facts["notes"],
        counts=_counts(found),
        data=Markup(_json(facts)),
    )


def _json(value: object) -> str:
    # No "</script>" or "<!--" may be in it; all that is no ASCII is escaped anyway.
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _printable(value: Any) -> Any:
    """Return the same with all text made fit to be shown: what reorders or hides characters is escaped."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() and "\\" not in value else printable(value)
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_printable(item) for item in value]
    return value


def _counts(found: HostMap) -> list[tuple[int, str]]:
    empty = sum(not ns.pids for ns in found.census.namespaces)
    return [
        (len(found.cards), "processes"),
        (len(found.groups), "groups"),
        (len(found.census.namespaces), "namespaces"),
        (empty, "without a process"),
    ]


def data(found: HostMap) -> dict[str, Any]:
    """Return the map as plain JSON values: what the page shows, and what ``nstool map -o map.json`` writes."""
    elsewhere: dict[int, dict[int, list[str]]] = {}  # threads that have left their process's namespaces
    for ns in found.census.namespaces:
        for pin in ns.pinned("thread"):
            elsewhere.setdefault(pin.pid, {}).setdefault(pin.tid, []).append(ns.name)
    return {
        "host": found.host,
        "kernel": found.kernel,
        "made": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(found.made)),
        "epoch": round(found.made),
        "reader": user_name(found.uid),
        "notes": list(found.census.notes),
        "kinds": [{"name": kind.name, "isolates": kind.isolates} for kind in KINDS.values()],
        "namespaces": {ns.name: _namespace(found, ns) for ns in found.census.namespaces},
        "groups": [group.asdict() for group in found.groups],
        "processes": {
            card.pid: _process(found, card) | {"elsewhere": elsewhere.get(card.pid, {})}
            for card in found.cards.values()
        },
    }


def _namespace(found: HostMap, ns: Namespace) -> dict[str, Any]:
    held = [pin for pin in ns.pins if pin.how not in ("child", "owned")]
    pins = list(dict.fromkeys(map(in_words, held[:PINS])))
    if more := len(held[PINS:]) + sum(pin.more for pin in held):
        pins.append(f"and {more} more")
    row: dict[str, Any] = {
        "type": ns.type,
        "inode": ns.inode,
        "id": ns.id,
        "members": len(ns.pids),
        "oldest": ns.oldest,
        "parent": f"{ns.type}:[{ns.parent}]" if ns.parent else "",
        "owner": f"user:[{ns.owner}]" if ns.owner else "",
        "owner_user": user_name(ns.owner_uid),
        "pins": pins,
        "unread": ns.unread,
    }
    if ns.type == "user":
        row["uid_map"] = _maps(found.uid_maps.get(ns.inode))
        row["gid_map"] = _maps(found.gid_maps.get(ns.inode))
    elif ns.type == "mnt":
        row["mounts"] = found.mounts.get(ns.inode)
    return row


def _maps(lines: tuple[IdMap, ...] | None) -> list[list[int]] | None:
    return None if lines is None else [[line.inside, line.outside, line.count] for line in lines]


def _process(found: HostMap, card: Card) -> dict[str, Any]:
    return {
        "ppid": card.ppid,
        "comm": card.comm,
        "command": " ".join(card.command),
        "state": card.state,
        "threads": card.threads,
        "started": round(card.started),
        "namespaces": card.namespaces,
        "for_children": card.for_children,
        "user": user_name(card.uids[1]),
        "uids": _ids(found, card, card.uids, found.uid_maps),
        "gids": _ids(found, card, card.gids, found.gid_maps),
        "groups": list(card.groups),
        "capabilities": {name: capabilities.in_words(mask) for name, mask in card.capabilities.items()},
        "no_new_privs": card.no_new_privs,
        "seccomp": card.seccomp,
        "pids": list(card.pids),
        "cgroups": _cgroups(card),
        "root": card.root,
    }


def _ids(
    found: HostMap, card: Card, ids: tuple[int, ...], maps: dict[int, tuple[IdMap, ...]]
) -> list[tuple[int | None, ...]]:
    """Return (id, the same in the process's user namespace) of each, None for none; (id,) where no map is known."""
    user = card.namespaces.get("user", 0)
    if user == found.user_namespace:  # as the reader sees them is as they are there
        return [(number, number) for number in ids]
    if user not in maps:
        return [(number,) for number in ids]
    return [(number, idmap.to_inside(maps[user], number)) for number in ids]


def _cgroups(card: Card) -> list[list[str]]:
    """Return [path, controllers] for each path: most hierarchies of version 1 have the same."""
    paths: dict[str, list[str]] = {}
    for controllers, path in card.cgroups:
        paths.setdefault(path, []).append(controllers or "v2")
    return [[path, ", ".join(controllers)] for path, controllers in paths.items()]
