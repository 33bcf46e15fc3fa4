"""The limits of cgroups that hold for a process: the strictest on the way up to the top. cgroups(7).

A limit above what the reader has mounted does not show. Weights are those of the process's own cgroup alone, for they
count against its neighbours only.
"""

from __future__ import annotations

import os

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nstool.sandbox.facts import Cgroup

_UNLIMITED = 1 << 60  # version 1 says so by the largest number of whole pages


class Effective(Frozen):
    """What holds. memory, memory_high, swap: bytes; pids: tasks; cpu: cores. None: no limit that shows.

    swap: of version 2; version 1 limits memory and swap together, ``memory_and_swap``. weight: as the file has it,
    "cpu.weight 100" or "cpu.shares 1024", "" for none. processors: list, "" where none shows. devices: lines of
    devices.list, version 1; None with version 2, where a program decides that the kernel shows to nobody.
    """

    memory: int | None
    memory_high: int | None
    swap: int | None
    memory_and_swap: int | None
    pids: int | None
    cpu: float | None
    weight: str
    processors: str
    devices: tuple[str, ...] | None


def effective(cgroups: Iterable[Cgroup]) -> Effective:
    """Return the limits that hold for a process in these cgroups, as sandbox.facts has them."""
    groups = [one for one in cgroups if one.directory]
    ways = [list(_up(one.directory)) for one in groups]

    def least(name: str) -> int | None:
        numbers = [n for way in ways for directory in way if (n := _number(_text(directory, name))) is not None]
        return min(numbers, default=None)

    quotas = [n for way in ways for directory in way if (n := _cores(directory)) is not None]
    weights = ((name, _text(one.directory, name)) for one in groups for name in ("cpu.weight", "cpu.shares"))
    own = next((f"{name} {text}" for name, text in weights if text), "")
    both = [least("memory.max"), least("memory.limit_in_bytes")]
    processors = [_text(one.directory, name) for one in groups for name in _PROCESSORS]
    devices = [_text(one.directory, "devices.list") for one in groups if "devices" in one.controllers]
    return Effective(
        memory=min((n for n in both if n is not None), default=None),
        memory_high=least("memory.high"),
        swap=least("memory.swap.max"),
        memory_and_swap=least("memory.memsw.limit_in_bytes"),
        pids=least("pids.max"),
        cpu=min(quotas, default=None),
        weight=own,
        processors=next((text for text in processors if text), ""),
        devices=tuple(devices[0].splitlines()) if devices else None,
    )


_PROCESSORS = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")


def _up(directory: str) -> Iterator[str]:
    """Yield a cgroup and those above it, up to the top of what is mounted."""
    device = os.stat(directory).st_dev if os.path.isdir(directory) else -1
    while os.path.isdir(directory) and os.stat(directory).st_dev == device:
        yield directory
        directory = os.path.dirname(directory)


def _text(directory: str, name: str) -> str:
    try:
        with open(f"{directory}/{name}") as file:
            return file.read().strip()
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # not of this hierarchy, or not of the top
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None


def _cores(directory: str) -> float | None:
    quota, _, period = _text(directory, "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(directory, "cpu.cfs_quota_us"), _text(directory, "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None
