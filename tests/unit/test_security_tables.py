"""Names, masks and texts of capabilities, securebits and resource limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool import uapi
from nstool.errors import SpecError
from nstool.security import capabilities, rlimits, securebits

MASKS = st.integers(min_value=0, max_value=capabilities.full())
SETS = st.builds(capabilities.CapSets, MASKS, MASKS, MASKS)


@pytest.mark.parametrize("name", ["net_raw", "NET_RAW", "CAP_NET_RAW", "cap_net_raw", " cap_net_raw ", "13"])
def test_capability_names_are_read_in_every_usual_form(name: str) -> None:
    """With and without CAP_, in either case, or as a number."""
    assert capabilities.mask([name]) == 1 << uapi.CAP_NET_RAW


@pytest.mark.parametrize("name", ["killl", "", "64", "-1", "1.5", "٣", "all"])
def test_unknown_capability_is_refused(name: str) -> None:
    """Nothing that is no capability becomes one."""
    with pytest.raises(SpecError, match="there is no capability"):
        capabilities.mask(["chown", name])


def test_misspelt_capability_gets_a_suggestion() -> None:
    """The nearest name is offered."""
    with pytest.raises(SpecError, match="did you mean 'net_raw'"):
        capabilities.number("cap_net_rav")


@given(st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_every_mask_has_names_that_give_it_back(mask: int) -> None:
    """Also bits that have no name yet."""
    assert capabilities.mask(capabilities.names(mask)) == mask


def test_names_come_in_the_order_of_the_kernel() -> None:
    """Lowest bit first, a bit without a name as its number."""
    assert capabilities.names(1 << 63 | 1 << 13 | 1 << 0) == ("chown", "net_raw", "63")
    assert capabilities.names(0) == ()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (0, "none"),
        (1 << 13 | 1, "chown net_raw"),
        (capabilities.full(), "all"),
        (capabilities.full() & ~(1 << 21), "all but sys_admin"),
        (capabilities.full() | 1 << 63, "all"),
    ],
)
def test_a_set_in_words_is_short(mask: int, words: str) -> None:
    """A nearly full one is told by what it lacks."""
    assert capabilities.in_words(mask) == words


@pytest.mark.parametrize(
    ("text", "effective", "permitted", "inheritable"),
    [
        ("", 0, 0, 0),
        ("=", 0, 0, 0),
        ("cap_net_raw,cap_kill=ep", 1 << 13 | 1 << 5, 1 << 13 | 1 << 5, 0),
        ("cap_kill=e+p", 1 << 5, 1 << 5, 0),
        ("cap_kill+i", 0, 0, 1 << 5),
        ("cap_kill=eip cap_kill-e", 0, 1 << 5, 1 << 5),
        ("all=p cap_chown-p", 0, capabilities.full() & ~1, 0),
        ("=ep", capabilities.full(), capabilities.full(), 0),
        ("cap_chown=ep cap_chown=i", 0, 0, 1),
    ],
)
def test_capability_text_is_read(text: str, effective: int, permitted: int, inheritable: int) -> None:
    """As cap_from_text(3) describes it, clause after clause."""
    assert capabilities.from_text(text) == capabilities.CapSets(effective, permitted, inheritable)


@pytest.mark.parametrize("text", ["cap_kill", "+e", "cap_kill=x", "cap_kill+e=p", "cap_kil=e", ",=e", "cap_kill,=e"])
def test_wrong_capability_text_is_refused(text: str) -> None:
    """Each way to misspell a clause is an error, not an empty set."""
    with pytest.raises(SpecError):
        capabilities.from_text(text)


@pytest.mark.parametrize(
    ("sets", "text"),
    [
        (capabilities.CapSets(), "="),
        (capabilities.CapSets(1 << 5 | 1 << 13, 1 << 5 | 1 << 13), "cap_kill,cap_net_raw=ep"),
        (capabilities.CapSets(capabilities.full(), capabilities.full()), "=ep"),
        (capabilities.CapSets(0, capabilities.full() & ~1), "=p cap_chown-p"),
    ],
)
def test_capability_text_is_short(sets: capabilities.CapSets, text: str) -> None:
    """What most capabilities have in common is said once."""
    assert capabilities.to_text(sets) == text


@given(SETS)
def test_capability_text_gives_the_sets_back(sets: capabilities.CapSets) -> None:
    """Writing and reading are inverse."""
    assert capabilities.from_text(capabilities.to_text(sets)) == sets


def test_last_cap_is_read_from_the_file(tmp_path) -> None:
    """The number in the file, whatever the table knows."""
    (tmp_path / "cap_last_cap").write_text("37\n")
    assert capabilities.last_cap(str(tmp_path / "cap_last_cap")) == 37


def test_securebits_have_the_bits_of_the_manual() -> None:
    """Each flag is followed by its lock. capabilities(7)."""
    assert securebits.mask(["noroot", "SECBIT_NOROOT_LOCKED"]) == 0b11
    assert securebits.mask(securebits.SECUREBITS) == 0xFF
    assert securebits.names(0b1000_0100) == ("no_setuid_fixup", "no_cap_ambient_raise_locked")
    assert securebits.names(1 << 8) == ("bit_8",)


def test_securebits_locks() -> None:
    """with_locks locks all; changeable tells what is left open."""
    assert securebits.with_locks(securebits.mask(["noroot"])) == 0b1010_1011
    assert securebits.changeable(securebits.mask(["noroot_locked", "keep_caps"])) == (
        "no_setuid_fixup",
        "keep_caps",
        "no_cap_ambient_raise",
    )
    assert securebits.changeable(securebits.with_locks(0)) == ()


def test_unknown_securebit_is_refused() -> None:
    """The message lists those that there are."""
    with pytest.raises(SpecError, match="no_setuid_fixup_locked"):
        securebits.mask(["no_root"])


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("nofile", "1024:4096", (1024, 4096)),
        ("RLIMIT_NOFILE", "10", (10, 10)),
        ("nofile", 7, (7, 7)),
        ("memlock", "64k:1MiB", (64 << 10, 1 << 20)),
        ("as", "2gb", (2 << 30, 2 << 30)),
        ("core", "0", (0, 0)),
        ("core", "0:unlimited", (0, -1)),
        ("stack", "8M:-1", (8 << 20, -1)),
        ("fsize", "12b", (12, 12)),
        ("cpu", "5m:1h", (300, 3600)),
        ("rttime", "20ms", (20_000, 20_000)),
        ("nproc", "infinity", (-1, -1)),
    ],
)
def test_limits_are_read(name: str, text: str | int, limit: tuple[int, int]) -> None:
    """soft:hard or one for both, in the units of the resource."""
    assert rlimits.parse(name, text) == limit
    assert rlimits.parse(name, rlimits.describe(limit)) == limit


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nofile", "4096:1024"),
        ("nofile", "unlimited:5"),
        ("nofile", "10k"),
        ("nofile", ""),
        ("nofile", "1:2:3"),
        ("nofile", "-2"),
        ("cpu", "5k"),
        ("memlock", "5s"),
        ("memlock", "bb"),
        ("memlock", "1bib"),
        ("as", str(1 << 63)),
        ("files", "5"),
    ],
)
def test_wrong_limits_are_refused(name: str, text: str) -> None:
    """A unit that the resource has not, a soft limit above the hard one, an unknown name."""
    with pytest.raises(SpecError):
        rlimits.parse(name, text)


def test_limits_have_the_numbers_of_the_kernel() -> None:
    """getrlimit(2)."""
    assert (rlimits.number("cpu"), rlimits.number("nofile"), rlimits.number("rttime")) == (0, 7, 15)
    assert (rlimits.unit("as"), rlimits.unit("cpu"), rlimits.unit("nofile")) == ("bytes", "seconds", "")
