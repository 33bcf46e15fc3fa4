"""The tightest limit of a chain of cgroups, by the texts of its files; version 2 and version 1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.inspect.limits import V1, V2, Bound, Level, Rule, tightest

NONE = "9223372036854771712"  # PAGE_COUNTER_MAX in bytes: version 1 says it for no limit


def rule(name: str, rules: tuple[Rule, ...] = V2) -> Rule:
    return next(one for one in rules if one.files[0] == name)


def chain(*texts: dict[str, str], files: tuple[str, ...] = ()) -> list[Level]:
    """Return levels /c, /b, /a ... the lowest first, with every file that is not given empty."""
    names = "cba"[-len(texts) :]
    return [Level(f"/{name}", dict.fromkeys(files, "") | text) for name, text in zip(names, texts)]


def found(name: str, *texts: dict[str, str], rules: tuple[Rule, ...] = V2) -> list[Bound]:
    one = rule(name, rules)
    return list(tightest(one, chain(*texts, files=one.files)))


def brief(bounds: list[Bound]) -> list[tuple[object, ...]]:
    return [(one.name, one.value, one.directory, one.own, one.used) for one in bounds]


def test_the_smallest_holds_and_its_use_is_told() -> None:
    texts = [{"memory.max": text, "memory.current": use} for text, use in (("max", "1"), ("100", "2"), ("200", "3"))]
    assert brief(found("memory.max", *texts)) == [("memory.max", 100, "/b", None, 2)]


def test_of_equal_ones_the_topmost_is_told() -> None:
    """More processes share it."""
    texts = [{"pids.max": text, "pids.current": use} for text, use in (("5", "1"), ("5", "4"), ("9", "6"))]
    assert brief(found("pids.max", *texts)) == [("pids.max", 5, "/b", 5, 4)]


def test_no_limit_anywhere() -> None:
    assert brief(found("pids.max", {"pids.max": "max"}, {})) == [("pids.max", None, "", None, None)]


def test_a_controller_that_is_not_switched_on_below() -> None:
    """The cgroup has no such file: what is above it counts it."""
    assert brief(found("memory.max", {}, {"memory.max": "7"}, {})) == [("memory.max", 7, "/b", None, None)]
    assert found("memory.max", {}, {}) == []


def test_zero_is_a_limit() -> None:
    assert brief(found("memory.swap.max", {"memory.swap.max": "0"}, {"memory.swap.max": "5"}))[0][1:3] == (0, "/b")


def test_cpu_is_compared_as_a_share_of_time() -> None:
    """Whatever the periods are."""
    texts = [{"cpu.max": text} for text in ("max 100000", "60000 50000", "110000 100000")]
    assert brief(found("cpu.max", *texts)) == [("cpu.max", 1.1, "/a", None, None)]
    old = [
        {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": period}
        for quota, period in (("25000", "100000"), ("-1", "100000"), ("20000", "100000"))
    ]
    assert brief(found("cpu.cfs_quota_us", *old, rules=V1)) == [("cpu.cfs_quota_us", 0.2, "/a", 0.25, None)]


def test_version_1_says_no_limit_as_a_number() -> None:
    texts = [{"memory.limit_in_bytes": text} for text in (NONE, "4096", NONE)]
    assert brief(found("memory.limit_in_bytes", *texts, rules=V1))[0][1:4] == (4096, "/b", None)
    texts = [{"memory.limit_in_bytes": NONE}] * 2
    assert brief(found("memory.limit_in_bytes", *texts, rules=V1))[0][1:4] == (None, "", None)


@pytest.mark.parametrize("version", ["cpuset.cpus.effective", "cpuset.effective_cpus"])
def test_a_list_is_narrowed_by_the_topmost_that_has_it(version: str) -> None:
    rules = V2 if version.endswith("effective") else V1
    texts = [{"cpuset.cpus": asked, version: left} for asked, left in (("", "0"), ("0", "0"), ("", "0-3"))]
    assert brief(found("cpuset.cpus", *texts, rules=rules)) == [("cpuset.cpus", "0", "/b", None, None)]
    assert brief(found("cpuset.cpus", *texts[2:], rules=rules)) == [("cpuset.cpus", "0-3", "", None, None)]
    assert brief(found("cpuset.cpus", {}, *texts[1:], rules=rules))[0][1:4] == ("0", "/b", None)


def test_io_is_limited_for_each_device_and_way() -> None:
    texts = [
        {"io.max": "8:0 rbps=max wbps=100 riops=max wiops=7\n8:16 rbps=5 wbps=max riops=max wiops=max"},
        {"io.max": "8:0 rbps=9 wbps=50 riops=max wiops=max"},
    ]
    assert {one.name: (one.value, one.unit, one.directory, one.own) for one in found("io.max", *texts)} == {
        "io.max 8:0 rbps": (9, "bytes/s", "/a", None),
        "io.max 8:0 wbps": (50, "bytes/s", "/a", 100),
        "io.max 8:0 wiops": (7, "operations/s", "/b", 7),
        "io.max 8:16 rbps": (5, "bytes/s", "/b", 5),
    }
    name = "blkio.throttle.read_iops_device"
    assert [(one.name, one.value, one.unit) for one in found(name, {name: "8:0 300\n8:16 5"}, rules=V1)] == [
        (f"{name} 8:0", 300, "operations/s"),
        (f"{name} 8:16", 5, "operations/s"),
    ]


@given(st.lists(st.none() | st.integers(0, 1 << 61), min_size=1, max_size=6))
def test_it_is_the_minimum(values: list[int | None]) -> None:
    """And the cgroup that is said to set it has that value."""
    one = rule("memory.max")
    levels = [
        Level(f"/{number}", {"memory.max": "max" if value is None else str(value), "memory.current": "0"})
        for number, value in enumerate(values)
    ]
    (bound,) = tightest(one, levels)
    known = [value for value in values if value is not None]
    assert bound.value == (min(known) if known else None)
    assert bound.own == values[0]
    if known:
        assert values[int(bound.directory[1:])] == bound.value
