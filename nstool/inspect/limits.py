"""Which limit of a chain of cgroups is the tightest, and which cgroup sets it. Pure. cgroups(7)."""

from __future__ import annotations

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_NO_MEMORY = 1 << 62  # bytes: version 1 says "no limit" as the largest number of whole pages


class Bound(Frozen):
    """A limit that holds. name: of the file that sets it; for io with device and key behind.

    value: None for no limit; a number, or a list as "0-3,8" for cpuset. unit: "bytes", "tasks", "cpus" (of time),
    "list", "bytes/s", "operations/s". directory: of the cgroup that sets it, the topmost of those with the same value,
    "" if none does. own: what the cgroup itself says. used: of what is limited, by all in ``directory``.
    """

    name: str
    value: float | str | None
    unit: str
    directory: str
    own: float | str | None
    used: int | None


class Level(Frozen):
    """One cgroup of the chain, the lowest first. files: text by name, "" for one that is not there."""

    directory: str
    files: dict[str, str]


class Rule(Frozen):
    """How a controller limits. files: that tell it, the first names it. flat: what is above does not count.

    parse: text of the files to values by suffix of the name.
    """

    controller: str
    unit: str
    files: tuple[str, ...]
    parse: Callable[[dict[str, str]], dict[str, float | None]] | None = None
    used: str = ""
    flat: bool = False


def tightest(rule: Rule, levels: Sequence[Level]) -> Iterator[Bound]:
    """Yield the limits that hold for the lowest level; none if no level has the files."""
    if rule.unit == "list":
        yield from _narrowest(rule, levels)
        return
    known = [(level, _values(rule, level)) for level in levels if level.files.get(rule.files[0])]
    if not known:
        return
    own = known[0][1] if known[0][0] is levels[0] else {}
    for suffix in dict.fromkeys(suffix for _, values in known for suffix in values):
        best: tuple[Level, float] | None = None
        for level, values in known:
            value = values.get(suffix)
            if value is not None and (best is None or value <= best[1]):
                best = level, value
        used = best[0].files.get(rule.used, "") if best else ""
        yield Bound(
            name=f"{rule.files[0]}{suffix}",
            value=best[1] if best else None,
            unit=_unit(rule, suffix),
            directory=best[0].directory if best else "",
            own=own.get(suffix),
            used=int(used) if used.isdecimal() else None,
        )


def _values(rule: Rule, level: Level) -> dict[str, float | None]:
    return rule.parse(level.files) if rule.parse else {"": _number(level.files[rule.files[0]], rule.unit)}


def _number(text: str, unit: str) -> float | None:
    if text in ("max", "-1"):
        return None
    number = int(text)
    return None if unit == "bytes" and number >= _NO_MEMORY else number


def _unit(rule: Rule, suffix: str) -> str:
    return "operations/s" if rule.unit == "bytes/s" and "iops" in rule.files[0] + suffix else rule.unit


def _narrowest(rule: Rule, levels: Sequence[Level]) -> Iterator[Bound]:
    # The kernel says what is left of a list in each cgroup. Who narrowed it is the topmost with the same list.
    asked, left = rule.files
    known = [level for level in levels if level.files.get(left)]
    if not known:
        return
    value = known[0].files[left]
    same = [known[0]]
    for level in known[1:]:
        if level.files[left] != value:
            break
        same.append(level)
    narrowed = len(same) < len(known)
    own = levels[0].files.get(asked) or None
    yield Bound(asked, value, "list", same[-1].directory if narrowed else "", own, None)


def _cpu_max(files: dict[str, str]) -> dict[str, float | None]:
    quota, period = files["cpu.max"].split()
    return {"": None if quota == "max" else int(quota) / int(period)}


def _cfs_quota(files: dict[str, str]) -> dict[str, float | None]:
    quota, period = int(files["cpu.cfs_quota_us"]), int(files["cpu.cfs_period_us"] or 100_000)
    return {"": None if quota < 0 else quota / period}


def _io_max(files: dict[str, str]) -> dict[str, float | None]:
    # "8:16 rbps=2097152 wbps=max riops=max wiops=120"
    found: dict[str, float | None] = {}
    for line in files["io.max"].splitlines():
        device, *words = line.split()
        for word in words:
            key, _, value = word.partition("=")
            if value != "max":
                found[f" {device} {key}"] = int(value)
    return found


def _throttle(name: str) -> Callable[[dict[str, str]], dict[str, float | None]]:
    # "8:16 1048576"
    def parse(files: dict[str, str]) -> dict[str, float | None]:
        rows = (line.split() for line in files[name].splitlines())
        return {f" {row[0]}": int(row[1]) for row in rows if len(row) == 2}

    return parse


_HUGE = ("2MB", "1GB")  # of x86_64
V2: tuple[Rule, ...] = (
    Rule("memory", "bytes", ("memory.max", "memory.current"), used="memory.current"),
    Rule("memory", "bytes", ("memory.high", "memory.current"), used="memory.current"),
    Rule("memory", "bytes", ("memory.swap.max", "memory.swap.current"), used="memory.swap.current"),
    Rule("pids", "tasks", ("pids.max", "pids.current"), used="pids.current"),
    Rule("cpu", "cpus", ("cpu.max",), _cpu_max),
    Rule("cpuset", "list", ("cpuset.cpus", "cpuset.cpus.effective")),
    Rule("cpuset", "list", ("cpuset.mems", "cpuset.mems.effective")),
    Rule("io", "bytes/s", ("io.max",), _io_max),
    *(
        Rule("hugetlb", "bytes", (f"hugetlb.{size}.max", f"hugetlb.{size}.current"), used=f"hugetlb.{size}.current")
        for size in _HUGE
    ),
)
_MEMSW = "memory.memsw.usage_in_bytes"
V1: tuple[Rule, ...] = (
    Rule(
        "memory",
        "bytes",
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        used="memory.usage_in_bytes",
    ),
    Rule("memory", "bytes", ("memory.memsw.limit_in_bytes", _MEMSW), used=_MEMSW),
    Rule("pids", "tasks", ("pids.max", "pids.current"), used="pids.current"),
    Rule("cpu", "cpus", ("cpu.cfs_quota_us", "cpu.cfs_period_us"), _cfs_quota),
    Rule("cpuset", "list", ("cpuset.cpus", "cpuset.effective_cpus")),
    Rule("cpuset", "list", ("cpuset.mems", "cpuset.effective_mems")),
    *(
        Rule("hugetlb", "bytes", (f"hugetlb.{size}.limit_in_bytes", used), used=used)
        for size in _HUGE
        for used in (f"hugetlb.{size}.usage_in_bytes",)
    ),
    *(
        Rule("blkio", "bytes/s", (name,), _throttle(name), flat=True)
        for name in (
            "blkio.throttle.read_bps_device",
            "blkio.throttle.write_bps_device",
            "blkio.throttle.read_iops_device",
            "blkio.throttle.write_iops_device",
        )
    ),
)
