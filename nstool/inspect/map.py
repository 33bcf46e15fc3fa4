"""The map of a host: its processes in groups that share all namespaces, and the card of each. namespaces(7)."""

from __future__ import annotations

import os
import re
import time
from errno import EINVAL, ENAMETOOLONG

from nstool.frozen import Frozen
from nstool.inspect.namespaces import Census, Namespace, Process, census, held_in_words
from nstool.inspect.patience import Turns
from nstool.inspect.proc import Proc, ProcessGone
from nstool.security import capabilities, idmap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.spec.model import IdMap

_SECCOMP = {"0": "disabled", "1": "strict", "2": "filter"}

# What in the path of a cgroup tells of a container or service: who made it, the pattern of a part with its name.
_MAKERS: tuple[tuple[str, str], ...] = (
    ("docker", r"docker[-/]([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?"),
    ("podman", r"libpod-([0-9a-f]{12})[0-9a-f]{52}(?:\.scope)?"),
    ("containerd", r"cri-containerd-([0-9a-f]{12})[0-9a-f]{52}\.scope"),
    ("cri-o", r"crio-([0-9a-f]{12})[0-9a-f]{52}\.scope"),
    ("kubernetes", r"pod[0-9a-f_-]{36}(?:\.slice)?/([0-9a-f]{12})[0-9a-f]{52}"),
    ("lxc", r"lxc(?:\.payload\.|/)([^/]+)"),
    ("nspawn", r"(?:machine-|systemd-nspawn@)([^/]+)\.(?:scope|service)"),
    ("nstool", r"nstool-([^/]+)-[0-9a-f]{6}[^/]*-[0-9]{12}"),
    ("flatpak", r"app-flatpak-([^/]+)-[0-9]+\.scope"),
    ("snap", r"snap\.([^/]+?)(?:[.-][0-9a-f]{8}-[0-9a-f-]{27})?\.(?:scope|service)"),
    ("systemd", r"([^/]+)\.service"),
)


class Card(Frozen):
    """One process. Ids are as the reader sees them; started: seconds since the epoch.

    namespaces, for_children: inodes by type; for_children: where its children will be, and it is not.
    capabilities: masks by the name of the set. pids: in each pid namespace from the reader's down to its own.
    cgroups: as /proc/PID/cgroup has them: (controllers, path); version 2 has none. root: as the reader sees it, empty
    for a zombie, and where it has taken other credentials since. Both are empty too where the kernel says that a path
    is too long.
    """

    pid: int
    ppid: int
    comm: str
    command: tuple[str, ...]
    state: str
    threads: int
    started: float
    namespaces: dict[str, int]
    for_children: dict[str, int]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: dict[str, int]
    no_new_privs: bool
    seccomp: str
    pids: tuple[int, ...]
    cgroups: tuple[tuple[str, str], ...]
    root: str


class Group(Frozen):
    """Processes that are in the same namespaces: a container, a service, the host itself.

    Who has made a pid or time namespace for its children counts as in it: it cannot be, and belongs to them.
    maker, name: what their cgroup tells, as ("docker", "0123456789ab"); else ("", the name of the oldest process).
    own: the types in which they are elsewhere than the oldest process of all. pids: ascending; oldest: of those
    in all of these namespaces themselves, if any is.
    """

    name: str
    maker: str
    oldest: int
    namespaces: dict[str, int]
    own: tuple[str, ...]
    pids: tuple[int, ...]


class HostMap(Frozen):
    """A host at about one time. made: seconds since the epoch. groups: that of the host first, then by their oldest.

    uid_maps, gid_maps: of the user namespaces with a process, by inode; outside as the reader sees it, but of the
    reader's own namespace, user_namespace, as the one above it does. mounts: how many the oldest process of a mount
    namespace sees, by inode.
    """

    host: str
    kernel: str
    made: float
    uid: int
    census: Census
    groups: tuple[Group, ...]
    cards: dict[int, Card]
    uid_maps: dict[int, tuple[IdMap, ...]]
    gid_maps: dict[int, tuple[IdMap, ...]]
    mounts: dict[int, int]
    user_namespace: int


def host_map() -> HostMap:
    """Read the map of this host. Processes that end meanwhile are left out, and those that do not let themselves be."""
    turns = Turns()
    found = census(turns)
    known = held_in_words(turns)
    boot, tick = _boot_time(), os.sysconf("SC_CLK_TCK")
    to_come: dict[int, dict[str, int]] = {}
    for ns in found.namespaces:
        for pin in ns.pins:
            if pin.how == "for_children" and not pin.tid:
                to_come.setdefault(pin.pid, {})[ns.type] = ns.inode
    cards: dict[int, Card] = {}
    processes = list(found.processes[::-1])

    def read() -> None:
        while processes:
            turns.go_on()
            process = processes.pop()
            if not turns.may(process.pid):
                continue
            try:
                with Proc(process.pid) as proc:
                    card = _card(proc, process, boot + process.start / tick, to_come.get(process.pid, {}))
            except (ProcessGone, FileNotFoundError, ProcessLookupError):  # has ended, or is just ending
                continue
            turns.go_on()
            cards[card.pid] = card
        while namespaces:
            turns.go_on()
            ns = namespaces.pop()
            if turns.may(ns.oldest):
                _note(ns, uid_maps, gid_maps, mounts)

    uid_maps: dict[int, tuple[IdMap, ...]] = {}
    gid_maps: dict[int, tuple[IdMap, ...]] = {}
    mounts: dict[int, int] = {}
    namespaces = [ns for ns in found.namespaces if ns.oldest and ns.type in ("user", "mnt")]

    turns.run(read)
    if held := held_in_words(turns):
        notes = (*(note for note in found.notes if note not in known), *held)
        found = found.replace(hidden=tuple(sorted({*found.hidden, *turns.held})), notes=notes)
    name = os.uname()
    return HostMap(
        host=name.nodename,
        kernel=f"{name.sysname} {name.release}",
        made=time.time(),
        uid=os.geteuid(),
        census=found,
        groups=groups(cards),
        cards=cards,
        uid_maps=uid_maps,
        gid_maps=gid_maps,
        mounts=mounts,
        user_namespace=os.stat("/proc/self/ns/user").st_ino,
    )


def _note(
    ns: Namespace,
    uid_maps: dict[int, tuple[IdMap, ...]],
    gid_maps: dict[int, tuple[IdMap, ...]],
    mounts: dict[int, int],
) -> None:
    try:
        with Proc(ns.oldest) as proc:
            if proc.inode(ns.type) != ns.inode:  # has moved, or is a later one with its pid
                return
            if ns.type == "user":
                uid_maps[ns.inode] = idmap.parse_map(proc.read("uid_map"))
                gid_maps[ns.inode] = idmap.parse_map(proc.read("gid_map"))
            else:
                mounts[ns.inode] = sum(1 for _ in proc.lines("mountinfo"))
    except (ProcessGone, FileNotFoundError, ProcessLookupError, PermissionError):  # ended, or as above
        return
    except OSError as error:
        if error.errno != EINVAL:  # a zombie by now
            raise


def groups(cards: dict[int, Card]) -> tuple[Group, ...]:
    """Return the groups of processes that are in the same namespaces: that of the oldest process first."""
    sets: dict[tuple[tuple[str, int], ...], list[Card]] = {}
    for card in sorted(cards.values(), key=lambda card: (card.started, card.pid)):
        if len(card.namespaces) > 2:  # a zombie is in its user and pid namespace only
            sets.setdefault(tuple((card.namespaces | card.for_children).items()), []).append(card)
    found: list[Group] = []
    for key, members in sets.items():
        namespaces = dict(key)
        oldest = next((card for card in members if card.namespaces == namespaces), members[0])
        maker, name = made_by(path for _, path in oldest.cgroups)
        base = found[0].namespaces if found else namespaces
        found.append(
            Group(
                name=name or oldest.comm or f"process {oldest.pid}",
                maker=maker,
                oldest=oldest.pid,
                namespaces=namespaces,
                own=tuple(kind for kind, inode in key if inode != base.get(kind)),
                pids=tuple(sorted(card.pid for card in members)),
            )
        )
    return tuple(found)


def made_by(paths: Iterable[str]) -> tuple[str, str]:
    """Return who made the cgroup at one of the paths, and the name it has there: ("docker", "0123456789ab").

    ("", "") where no path is of a form that is known: cgroups tell by convention only. The last match in a path counts:
    a container in a service is a container.
    """
    best = ("", "")
    for path in paths:
        end = -1
        for maker, pattern in _MAKERS:
            for match in re.finditer(f"(?:^|/){pattern}(?=/|$)", path):
                if match.end() > end:
                    best, end = (maker, match[1]), match.end()
        if end >= 0:
            break
    return best


def _card(proc: Proc, process: Process, started: float, for_children: dict[str, int]) -> Card:
    status = proc.status()
    if (stat := proc.stat()).starttime != process.start:
        raise ProcessGone(f"process {process.pid} has ended, and another has its number")
    try:
        root = proc.root()
    except (FileNotFoundError, PermissionError):  # a zombie; a set-user-ID program since the census
        root = ""
    return Card(
        pid=process.pid,
        ppid=process.ppid,
        comm=process.comm,
        command=proc.command(),
        state=stat.state_text,
        threads=process.threads,
        started=started,
        namespaces=process.namespaces,
        for_children=for_children,
        uids=_numbers(status["Uid"]),
        gids=_numbers(status["Gid"]),
        groups=_numbers(status["Groups"]),
        capabilities={name: int(status[line], 16) for name, line in capabilities.SETS.items()},
        no_new_privs=status["NoNewPrivs"] == "1",
        seccomp=_SECCOMP.get(status["Seccomp"], status["Seccomp"]),
        pids=_numbers(status["NSpid"]),
        cgroups=_cgroups(proc),
        root=root,
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _cgroups(proc: Proc) -> tuple[tuple[str, str], ...]:
    try:
        text = proc.read("cgroup")
    except OSError as error:
        if error.errno != ENAMETOOLONG:
            raise
        return ()
    rows = (line.split(":", 2) for line in text.split("\n") if line)  # a name may hold what else ends a line for Python
    return tuple((controllers, path) for _, controllers, path in rows)


def _boot_time() -> int:
    """Return when the host was booted, seconds since the epoch. proc_stat(5)."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("btime "))
