"""In what two processes differ, and what each difference means for what each can reach.

The sentences are in ``inspect.reach``. What the kernel tells nobody is a row with the state "unknown": securebits of
another process, Landlock domains, what a seccomp filter lets pass, and device rules of cgroup version 2.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, ELOOP, ENOENT, ENOTDIR, EPERM

from nstool import kinds
from nstool.closing import Closing
from nstool.errors import KernelError, SandboxGone, plural
from nstool.frozen import Frozen
from nstool.inspect import cgroups as groups
from nstool.inspect import nsfile, reach
from nstool.inspect.nsfile import Namespace, why_hidden
from nstool.inspect.proc import Proc, title
from nstool.sandbox import facts, inside
from nstool.security import capabilities, rlimits
from nstool.spec.model import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from nstool.sandbox.facts import Facts
    from nstool.sandbox.mountinfo import Mount

ALIKE, DIFFERENT, UNKNOWN = "alike", "different", "unknown"
_IPC_FILES = {
    "kernel": ("shmmax", "shmall", "shmmni", "shm_rmid_forced", "msgmax", "msgmnb", "msgmni", "sem"),
    "fs/mqueue": ("queues_max", "msg_max", "msgsize_max", "msg_default", "msgsize_default"),
}
_MOST_DEVICES = 4096  # entries below /dev that are looked at


class Row(Frozen):
    """One thing that two sides have alike or not.

    area: "namespaces", "ids", "capabilities", "confinement", "mounts", "cgroups", "devices", "limits", "settings".
    first, second: in words, "" for one that has not got it. state: "alike", "different", "unknown". meaning: what the
    difference means; for "unknown" why it is not known.
    """

    area: str
    what: str
    first: str
    second: str
    state: str
    meaning: str = ""


class Difference(Frozen):
    """Two sides and all that was compared. first, second: what they are called."""

    first: str
    second: str
    rows: tuple[Row, ...]

    @property
    def alike(self) -> bool:
        """Whether nothing differs, as far as can be told."""
        return all(row.state != DIFFERENT for row in self.rows)


class Side(Closing):
    """A process that is compared, held by its directory in /proc. A context manager.

    limits: those of cgroups that hold, by the names of their rows; what has none that shows is absent. weight: of its
    own cgroup alone, for it counts against the neighbours: "cpu.weight 100" or "cpu.shares 1024", "" for none.
    processors: list, "" where none shows. devices: text of devices.list, version 1; None with version 2, where a
    program decides that the kernel shows to nobody.
    """

    def __init__(self, pid: int) -> None:
        self.proc = Proc(pid)
        self.pid = pid
        try:
            self.facts: Facts = facts.facts(pid, directory=self.proc.fd)
            self.name = str(pid)  # in sentences
            tgid = self.facts.tgid
            self.title = f"{pid if pid == tgid else title(tgid, pid)} ({self.facts.command})"
            bounds = {bound.name: bound.value for bound in groups.cgroups(pid).limits}
            self.limits = {
                what: value for file, what in _LIMITS.items() if isinstance(value := bounds.get(file), int | float)
            }
            self.processors = str(bounds.get("cpuset.cpus") or "")
            own = {name: text for group in self.facts.cgroups for name, text in group.limits.items()}
            self.weight = next((f"{name} {own[name]}" for name in ("cpu.weight", "cpu.shares") if own.get(name)), "")
            ruled = (group.directory for group in self.facts.cgroups if "devices" in group.controllers)
            self.devices = next((groups.read(f"{place}/devices.list").strip() for place in ruled if place), None)
            self.root = self._try(lambda: self.proc.link("root"))
        except BaseException:
            self.close()
            raise
        self._hidden = ""

    @property
    def hidden(self) -> str:
        """Why the reader may not look into it."""
        self._hidden = self._hidden or why_hidden(self.pid)[0]
        return self._hidden

    def unread(self, fact: str) -> str:
        """Why a fact is not known: a sentence."""
        why = self.facts.unread.get(fact, "")
        if why in (os.strerror(EACCES), os.strerror(EPERM)):
            return f"{self.name} may not be looked into: {self.hidden}"
        if self.proc.stat().state in "ZX":
            return f"{self.name} has ended"
        return f"{self.name}: {why}"

    def _try(self, get: Callable[[], str]) -> str:
        try:
            return get()
        except OSError:  # not the reader's to look at, or it has none
            return ""

    def close(self) -> None:
        """Let go of its directory. Idempotent."""
        self.proc.close()


def difference(first: int, second: int) -> Difference:
    """Compare two processes. Raises ProcessGone, SandboxGone."""
    with Side(first) as one, Side(second) as other:
        rows = tuple(row for compare in COMPARISONS for row in compare(one, other))
        one.proc.check()
        other.proc.check()
        return Difference(one.title, other.title, rows)


def compared(area: str, what: str, pair: Sequence[str], meaning: str) -> Row:
    """Return the row of two texts that are alike or not."""
    alike = pair[0] == pair[1]
    return _row(area, what, pair, ALIKE if alike else DIFFERENT, "" if alike else meaning)


def _row(area: str, what: str, pair: Sequence[str], state: str, meaning: str) -> Row:
    first, second = pair
    return Row(area, what, first, second, state, meaning)


def _say(sentence: str, one: str, other: str) -> str:
    return sentence.format(one=one, other=other)


# ---- namespaces ----


def namespaces(one: Side, other: Side) -> Iterator[Row]:
    """Compare the namespaces of each type, and say which of two nested ones is above."""
    for kind in kinds.KINDS:
        inodes = [side.facts.namespaces.get(kind) for side in (one, other)]
        texts = [f"{kind}:[{inode}]" if inode else "" for inode in inodes]
        if None in inodes:
            side = one if inodes[0] is None else other
            yield _row("namespaces", kind, texts, UNKNOWN, side.unread(f"namespaces.{kind}"))
            continue
        meaning = reach.NAMESPACES[kind]
        if kind in reach.NESTED and texts[0] != texts[1]:
            above = _above(kind, one, other)
            if above is not None:
                meaning = _say(reach.NESTED[kind], above.name, (other if above is one else one).name)
        yield compared("namespaces", kind, texts, meaning)


def _above(kind: str, one: Side, other: Side) -> Side | None:
    """Return the side whose namespace lies above the other's, None for neither, as far as the reader sees."""
    chains = [_chain(kind, side) for side in (one, other)]
    if chains[0][:1] and chains[0][0] in chains[1]:
        return one
    if chains[1][:1] and chains[1][0] in chains[0]:
        return other
    return None


def _chain(kind: str, side: Side) -> list[int]:
    # Inodes from the process's own namespace up.
    found: list[int] = []
    try:
        namespace: Namespace | None = nsfile.of_process(side.proc, kind)
    except KernelError:
        return []
    while namespace is not None:
        found.append(namespace.inode)
        above = namespace.parent()
        namespace.close()
        namespace = above
    return found


# ---- ids ----


def ids(one: Side, other: Side) -> Iterator[Row]:
    """Compare ids as the reader sees them, groups, maps."""
    for what in ("uid", "gid"):
        texts = [" ".join(map(str, getattr(side.facts, f"{what}s").asdict().values())) for side in (one, other)]
        yield compared("ids", what, texts, reach.IDS[what])
    groups = [" ".join(map(str, sorted(side.facts.groups))) for side in (one, other)]
    yield compared("ids", "groups", groups, reach.IDS["groups"])
    for what in ("uid map", "gid map"):
        maps = [map_words(getattr(side.facts, what.replace(" ", "_"))) for side in (one, other)]
        yield compared("ids", what, maps, reach.IDS[what])
    allowed = [side.facts.setgroups or "" for side in (one, other)]
    able = one if allowed[0] == "allow" else other
    yield compared("ids", "setgroups", allowed, _say(reach.IDS["setgroups"], able.name, ""))


def map_words(maps: tuple[IdMap, ...]) -> str:
    """Return a map as text: "0 is 100000, 65536 ids"."""
    return "; ".join(f"{line.inside} is {line.outside}, {plural(line.count, 'id')}" for line in maps) or "none"


# ---- capabilities ----


def capability_sets(one: Side, other: Side) -> Iterator[Row]:
    """Compare the five sets: of the effective each capability for itself, with what it lets a process do."""
    for name in capabilities.SETS:
        masks = [side.facts.capabilities[name].mask for side in (one, other)]
        if masks[0] == masks[1]:
            text = set_words(masks[0])
            yield Row("capabilities", name, text, text, ALIKE)
        elif name == "effective":
            yield from _effective(one, other, masks)
        else:
            for side, rest, mask in ((one, other, masks[0] & ~masks[1]), (other, one, masks[1] & ~masks[0])):
                if mask:
                    texts = [set_words(mask), ""] if side is one else ["", set_words(mask)]
                    meaning = _say(reach.SETS[name], side.name, rest.name)
                    yield _row("capabilities", name, texts, DIFFERENT, meaning)
    yield _securebits(one, other)


def _effective(one: Side, other: Side, masks: list[int]) -> Iterator[Row]:
    # A set that is full, or nearly, is told by what the other lacks; each alike is said once.
    for bit in range((masks[0] | masks[1]).bit_length()):
        has = [bool(mask >> bit & 1) for mask in masks]
        if has[0] == has[1]:
            continue
        (name,) = capabilities.names(1 << bit)
        side = one if has[0] else other
        words = ("yes", "") if has[0] else ("", "yes")
        yield _row("capabilities", name, words, DIFFERENT, f"{side.name} {reaches(side, name)}")


def reaches(side: Side, name: str) -> str:
    """Return what an effective capability lets a process do, in its user namespace: "may …"."""
    can = reach.CAPABILITIES.get(name, reach.NEW_CAPABILITY)
    inode = side.facts.namespaces.get("user")
    if inode is None or f"user:[{inode}]" == kinds.INITIAL_USERNS:
        return f"may {can}" + (", as far as it belongs to its user namespace" if inode is None else "")
    if name in reach.ELSEWHERE:
        return f"may {reach.ELSEWHERE[name]}"
    return reach.NOTHING if name in reach.FIRST_ONLY else f"may {can}, as far as it belongs to its user namespace"


def set_words(mask: int) -> str:
    """Return a capability set in words; a nearly full one by what it lacks."""
    lacking = capabilities.names(capabilities.full() & ~mask)
    has = capabilities.names(mask)
    if len(lacking) < len(has):
        return f"all but {' '.join(lacking)}" if lacking else "all"
    return " ".join(has) or "none"


def _securebits(one: Side, other: Side) -> Row:
    known = [side.facts.securebits for side in (one, other)]
    texts = ["" if bits is None else " ".join(bits) or "none" for bits in known]
    if None in known:
        return _row("capabilities", "securebits", texts, UNKNOWN, "the kernel tells a process only its own, prctl(2)")
    return compared("capabilities", "securebits", texts, "uid 0 may mean privileges to one and none to the other")


# ---- confinement ----


def confinement(one: Side, other: Side) -> Iterator[Row]:
    """Compare no_new_privs, seccomp, security modules, randomisation, root directory, OOM score."""
    bound = [side.facts.no_new_privs for side in (one, other)]
    texts = ["yes" if value else "no" for value in bound]
    first, rest = (one, other) if bound[0] else (other, one)
    meaning = _say(reach.CONFINEMENT["no_new_privs"], first.name, rest.name)
    yield compared("confinement", "no_new_privs", texts, meaning)
    yield _seccomp(one, other)
    yield Row("confinement", "Landlock", "", "", UNKNOWN, "the kernel tells nobody who is in which domain, landlock(7)")
    yield _told("LSM label", "lsm", one, other)
    yield _told("randomised addresses", "aslr", one, other)
    if one.root and other.root:
        yield compared("confinement", "root directory", [one.root, other.root], reach.CONFINEMENT["root directory"])
    scores = [side.facts.oom_score_adj for side in (one, other)]
    sooner, later = (one, other) if scores[0] > scores[1] else (other, one)
    meaning = _say(reach.CONFINEMENT["oom_score_adj"], sooner.name, later.name)
    yield compared("confinement", "oom_score_adj", list(map(str, scores)), meaning)


def _seccomp(one: Side, other: Side) -> Row:
    texts = [_filters(side.facts) for side in (one, other)]
    row = compared("confinement", "seccomp", texts, reach.CONFINEMENT["seccomp"])
    if row.state == ALIKE and one.facts.seccomp == "filter":
        return row.replace(state=UNKNOWN, meaning="as many filters; what each lets pass the kernel tells nobody")
    return row


def _filters(known: Facts) -> str:
    if known.seccomp != "filter" or known.seccomp_filters is None:
        return known.seccomp
    return f"{known.seccomp_filters} filter{'s' if known.seccomp_filters > 1 else ''}"


def _told(what: str, fact: str, one: Side, other: Side) -> Row:
    texts = [getattr(side.facts, fact) for side in (one, other)]
    if None in texts:
        side = one if texts[0] is None else other
        return _row("confinement", what, [text or "" for text in texts], UNKNOWN, side.unread(fact))
    return compared("confinement", what, texts, reach.CONFINEMENT[what])


# ---- mounts ----


def mounts(one: Side, other: Side) -> Iterator[Row]:
    """Compare what is mounted where, as each sees it from its own root."""
    lists = [side.facts.mounts for side in (one, other)]
    if lists[0] is None or lists[1] is None:
        side = one if lists[0] is None else other
        yield Row("mounts", "mounts", "", "", UNKNOWN, side.unread("mounts"))
        return
    seen = [{mount.target: mount for mount in list_} for list_ in lists if list_ is not None]  # the last covers
    for target in sorted(seen[0].keys() | seen[1].keys()):
        pair = [table.get(target) for table in seen]
        if pair[0] is None or pair[1] is None:
            side, rest = (one, other) if pair[1] is None else (other, one)
            meaning = _say(reach.MOUNTS["only"], side.name, rest.name)
            yield _row("mounts", target, [mount_words(m) if m else "" for m in pair], DIFFERENT, meaning)
        else:
            yield from _mount(target, pair[0], pair[1], one, other)


def _mount(target: str, first: Mount, second: Mount, one: Side, other: Side) -> Iterator[Row]:
    rows: list[Row] = []
    if (first.device, first.root, first.type) != (second.device, second.root, second.type):
        rows.append(Row("mounts", target, mount_words(first), mount_words(second), DIFFERENT, reach.MOUNTS["other"]))
    else:
        for word in ("ro", "nosuid", "nodev", "noexec", "nosymfollow"):
            has = [m.read_only if word == "ro" else word in m.options for m in (first, second)]
            if has[0] != has[1]:
                side, rest = (one, other) if has[0] else (other, one)
                texts = [word if yes else "" for yes in has]
                meaning = _say(reach.MOUNTS[word], side.name, rest.name)
                rows.append(_row("mounts", target, texts, DIFFERENT, meaning))
    if first.propagation != second.propagation:  # with the peer groups, which say between whom
        texts = [first.propagation, second.propagation]
        rows.append(_row("mounts", target, texts, DIFFERENT, reach.MOUNTS["propagation"]))
    text = mount_words(first)
    yield from rows or [Row("mounts", target, text, text, ALIKE)]


def mount_words(mount: Mount) -> str:
    """Return a mount in words: "ext4 /dev/sda1/sub (ro,nosuid)"."""
    below = "" if mount.root == "/" else mount.root
    source = mount.source if mount.source not in ("none", mount.type) else ""
    return " ".join(word for word in (mount.type, f"{source}{below}", f"({','.join(mount.options)})") if word)


# ---- cgroups ----


def cgroups(one: Side, other: Side) -> Iterator[Row]:
    """Compare membership in each hierarchy, and the limits that hold."""
    paths = [{(c.version, c.controllers): c.path for c in side.facts.cgroups} for side in (one, other)]
    for key in dict.fromkeys((*paths[0], *paths[1])):
        name = "version 2" if key[0] == 2 else ",".join(key[1])
        yield compared("cgroups", f"path {name}", [table.get(key, "") for table in paths], reach.CGROUPS["path"])
    for what in dict.fromkeys(_LIMITS.values()):
        yield _limit(what, one, other)
    yield _weight(one, other)
    yield compared("cgroups", "processors", [one.processors, other.processors], reach.CGROUPS["processors"])
    rules = [side.devices for side in (one, other) if side.devices is not None]
    if len(rules) < 2:
        why = "with version 2 a program decides, which the kernel shows to nobody"
        yield Row("cgroups", "devices", "", "", UNKNOWN, why)
    else:
        texts = [text.replace("\n", "; ") for text in rules]
        yield compared("cgroups", "devices", texts, reach.CGROUPS["devices"])


# The limits that are compared, by the files that set them: of version 2 and of version 1.
_LIMITS = {
    "memory.max": "memory",
    "memory.limit_in_bytes": "memory",
    "memory.high": "memory high",
    "memory.swap.max": "swap",
    "memory.memsw.limit_in_bytes": "memory and swap",
    "pids.max": "pids",
    "cpu.max": "cpu",
    "cpu.cfs_quota_us": "cpu",
}


def _limit(what: str, one: Side, other: Side) -> Row:
    numbers = [side.limits.get(what, float("inf")) for side in (one, other)]
    less, more = (one, other) if numbers[0] < numbers[1] else (other, one)
    texts = ["unlimited" if number == float("inf") else f"{round(number, 6):.15g}" for number in numbers]
    return compared("cgroups", what, texts, _say(reach.CGROUPS[what], less.name, more.name))


def _weight(one: Side, other: Side) -> Row:
    texts = [one.weight, other.weight]
    numbers = [int(text.split()[1]) if text else 0 for text in texts]
    less, more = (one, other) if numbers[0] < numbers[1] else (other, one)
    return compared("cgroups", "cpu weight", texts, _say(reach.CGROUPS["cpu weight"], less.name, more.name))


# ---- devices ----


def devices(one: Side, other: Side) -> Iterator[Row]:
    """Compare the device files below /dev of each."""
    tables = []
    for side in (one, other):
        try:
            tables.append(_devices(side))
        except PermissionError:
            yield Row("devices", "/dev", "", "", UNKNOWN, f"{side.name} may not be looked into: {side.hidden}")
            return
        except (FileNotFoundError, _TooMany) as error:
            why = "has ended" if isinstance(error, FileNotFoundError) else f"has more than {_MOST_DEVICES} files there"
            yield Row("devices", "/dev", "", "", UNKNOWN, f"{side.name} {why}")
            return
    for path in sorted(tables[0].keys() | tables[1].keys()):
        texts = [table.get(path, "") for table in tables]
        side, rest = (one, other) if texts[0] else (other, one)
        meaning = _say(reach.DEVICE, side.name, rest.name) if "" in texts else "the same name is another device"
        yield compared("devices", path, texts, meaning)


class _TooMany(Exception):
    pass


def _devices(side: Side) -> dict[str, str]:
    """Return path → "c 1:3" of the device files in /dev, without those of terminals. It may be hostile."""
    found: dict[str, str] = {}
    root = side.proc.open("root", os.O_PATH | os.O_DIRECTORY)
    try:
        left, seen = ["dev"], 0
        while left:
            path = left.pop()
            for name, file in _entries(root, path):
                seen += 1
                if seen > _MOST_DEVICES:
                    raise _TooMany
                if stat.S_ISCHR(file.st_mode) or stat.S_ISBLK(file.st_mode):
                    letter = "c" if stat.S_ISCHR(file.st_mode) else "b"
                    found[f"/{path}/{name}"] = f"{letter} {os.major(file.st_rdev)}:{os.minor(file.st_rdev)}"
                elif stat.S_ISDIR(file.st_mode) and f"{path}/{name}" not in _NO_DEVICES:
                    left.append(f"{path}/{name}")
    finally:
        os.close(root)
    return found


_NO_DEVICES = ("dev/pts", "dev/shm", "dev/mqueue")


def _entries(root: int, path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the entries of a directory below a process's root; a symlink inside leads nowhere else. openat2(2)."""
    from nstool import syscalls, uapi

    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        directory = syscalls.openat2(root, path, flags, 0, uapi.RESOLVE_IN_ROOT)
    except KernelError as error:
        if error.errno in (ENOENT, ENOTDIR, ELOOP):  # there is no /dev, or it went meanwhile
            return
        if error.errno == EACCES and path != "dev":  # nothing in there is the reader's to see
            return
        raise OSError(error.errno or 0, str(error.strerror)) from None
    try:
        for name in os.listdir(directory):
            try:
                yield name, os.stat(name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:  # removed meanwhile
                continue
    finally:
        os.close(directory)


# ---- resource limits ----


def resource_limits(one: Side, other: Side) -> Iterator[Row]:
    """Compare the limits of getrlimit(2)."""
    for name, first in one.facts.rlimits.items():
        second = other.facts.rlimits[name]
        numbers = [tuple(float("inf") if value < 0 else value for value in pair) for pair in (first, second)]
        less, more = (one, other) if numbers[0] < numbers[1] else (other, one)
        texts = [rlimits.describe(pair) for pair in (first, second)]
        yield compared("limits", name, texts, _say(reach.RLIMITS[name], less.name, more.name))


# ---- settings of the kernel ----


def settings(one: Side, other: Side) -> Iterator[Row]:
    """Compare the names, clocks and sysctls of their namespaces, of those that differ."""
    for what, fact in (("host name", "hostname"), ("NIS domain name", "domainname")):
        texts = [getattr(side.facts, fact) for side in (one, other)]
        if None in texts:
            side = one if texts[0] is None else other
            yield Row("settings", what, "", "", UNKNOWN, side.unread("hostname"))
        else:
            yield compared("settings", what, texts, reach.SETTINGS[what])
    yield from _clocks(one, other)
    yield from _sysctls("ipc", read_ipc, one, other)
    from nstool.inspect.net import NO_SETTINGS, read_sysctls

    for row in _sysctls("net", read_sysctls, one, other):
        if row.what.rpartition("/")[2] not in NO_SETTINGS:
            yield row


def _clocks(one: Side, other: Side) -> Iterator[Row]:
    offsets = [side.facts.time_offsets for side in (one, other)]
    if offsets[0] is None or offsets[1] is None:
        side = one if offsets[0] is None else other
        yield Row("settings", "clocks", "", "", UNKNOWN, side.unread("time_offsets"))
        return
    for clock in offsets[0]:
        texts = [f"{(table or {}).get(clock, 0) / 1e9:+g} s" for table in offsets]
        yield compared("settings", f"clock {clock}", texts, reach.SETTINGS[clock])


def _sysctls(kind: str, read: Callable[[], dict[str, str]], one: Side, other: Side) -> Iterator[Row]:
    inodes = [side.facts.namespaces.get(kind) for side in (one, other)]
    if inodes[0] is not None and inodes[0] == inodes[1]:
        return
    tables: list[dict[str, str]] = []
    for side in (one, other):
        try:
            tables.append(within(side.proc, kind, read))
        except (KernelError, SandboxGone) as error:
            why = error.cause if isinstance(error, KernelError) and error.causes else str(error).splitlines()[0]
            yield Row("settings", f"sysctls of {kind}", "", "", UNKNOWN, f"{side.name}: {why}")
            return
    for name in sorted(tables[0].keys() & tables[1].keys()):
        texts = [table[name] for table in tables]
        yield compared("settings", name, texts, _setting(kind, name, texts, one, other))


def _setting(kind: str, name: str, texts: list[str], one: Side, other: Side) -> str:
    sentence = reach.SETTINGS.get(name, reach.SETTINGS[kind])
    more, less = (one, other) if texts[0] > texts[1] else (other, one)
    return _say(sentence, more.name, less.name)


def within(proc: Proc, kind: str, function: Callable[..., dict[str, str]], *args: object) -> dict[str, str]:
    """Return what a function reads in a namespace of a process. Raises KernelError with the cause."""
    with nsfile.of_process(proc, kind) as namespace:
        return inside.call({kind: namespace.fd}, function, *args)


def read_ipc() -> dict[str, str]:
    """Return the settings of the calling process's ipc namespace: {"kernel/shmmax": "…"}."""
    found = {}
    for name in (f"{directory}/{name}" for directory, names in _IPC_FILES.items() for name in names):
        try:
            with open(f"/proc/sys/{name}") as file:
                found[name] = " ".join(file.read().split())
        except FileNotFoundError:  # the kernel is built without System V IPC, or without queues
            continue
    return found


COMPARISONS: tuple[Callable[[Side, Side], Iterable[Row]], ...] = (
    namespaces,
    ids,
    capability_sets,
    confinement,
    mounts,
    cgroups,
    devices,
    resource_limits,
    settings,
)


def counted(rows: Iterable[Row]) -> Mapping[str, int]:
    """Return how many rows are alike, different, unknown."""
    found = {ALIKE: 0, DIFFERENT: 0, UNKNOWN: 0}
    for row in rows:
        found[row.state] += 1
    return found
