"""Human forms: what each means, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool import uapi
from nstool.errors import SpecError
from nstool.spec import values
from nstool.spec.model import Capabilities, IdMap, Mount, Net, Publish, Root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (65536, 65536),
        ("0", 0),
        ("64M", 64 << 20),
        ("512k", 512 << 10),
        ("1GiB", 1 << 30),
        ("2gb", 2 << 30),
        ("1.5G", 3 << 29),
        ("100B", 100),
        ("1T", 1 << 40),
        (" 8 m ", 8 << 20),
    ],
)
def test_sizes(text, expected):
    assert values.size(text) == expected


@given(st.integers(0, 1 << 62) | st.integers(0, 1 << 20).map(lambda number: number << 20))
def test_size_text_is_what_size_reads(number):
    assert values.size(values.size_text(number)) == number


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5", "5i", "64MM", "0x10", "٣", "1e3", "9" * 20, True, 1.5, []])
def test_no_sizes(text):
    with pytest.raises(SpecError):
        values.size(text)


@pytest.mark.parametrize(("text", "expected"), [("0.5", 0.5), (2, 2.0), ("150%", 1.5), (0.25, 0.25), ("2", 2.0)])
def test_cores(text, expected):
    assert values.cores(text) == expected


@pytest.mark.parametrize("text", ["", "half", "-1", "1%%", "nan", "inf", True, None, 10**400])
def test_no_cores(text):
    with pytest.raises(SpecError):
        values.cores(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(90, 90), (0.5, 0.5), ("90", 90), ("0.5", 0.5), ("5s", 5), ("10m", 600), ("1.5h", 5400), (" 30D ", 2592000)],
)
def test_durations(text, expected):
    assert values.duration(text) == expected


@pytest.mark.parametrize("text", ["", "m", "10 minutes", "1h30m", ".5s", "5.", "nan", "inf", "1e3", True, None, []])
def test_no_durations(text):
    with pytest.raises(SpecError, match="time"):
        values.duration(text)


@pytest.mark.parametrize(("text", "expected"), [(90, 90), ("90", 90), ("-2h", -7200), ("30d", 2592000), ("5m", 300)])
def test_seconds(text, expected):
    assert values.seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", Publish(8080, 80)),
        ("53:53/udp", Publish(53, 53, "udp")),
        ("127.0.0.1:8080:80/udp", Publish(8080, 80, "udp", "127.0.0.1")),
        ("[::1]:8080:80/tcp", Publish(8080, 80, "tcp", "::1")),
        ("80", Publish(80, 80)),
        (80, Publish(80, 80)),
    ],
)
def test_published_ports(text, expected):
    assert values.publish(text) == expected
    assert values.publish(values.publish_text(expected)) == expected


@pytest.mark.parametrize("text", ["", ":", "a:b", "::1:8080:80", "80:", "1:2:3:4", "-1:80", "80:80:", None])
def test_no_published_ports(text):
    with pytest.raises(SpecError):
        values.publish(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/", Root(type="host")),
        ("host", Root(type="host")),
        ("system", Root()),
        ("tmpfs", Root(type="tmpfs")),
        ("/srv/root", Root(type="directory", path="/srv/root")),
        ("x.tar.zst", Root(type="tarball", path="x.tar.zst")),
        ("a:b:c", Root(type="overlay", lower=("a", "b", "c"))),
        (["/a", "/b"], Root(type="overlay", lower=("/a", "/b"))),
    ],
)
def test_roots(text, expected):
    assert values.root(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/a:/b", Mount(target="/b", source="/a")),
        ("/a", Mount(target="/a", source="/a")),
        ("/a:/b:rw,idmap,noexec", Mount(target="/b", source="/a", writable=True, idmap=True, exec=False)),
        ("/a:/b:slave,norbind", Mount(target="/b", source="/a", propagation="slave", recursive=False)),
        ("tmpfs:/t:size=1M,mode=1777", Mount(target="/t", type="tmpfs", writable=True, size=1 << 20, mode=0o1777)),
        ("proc:/p", Mount(target="/p", type="proc")),
    ],
)
def test_mounts(text, expected):
    assert values.mount(text) == expected


@pytest.mark.parametrize("text", ["", ":", "/a:", ":/b", "/a:/b:ro:x", "/a:/b:rx", "/a:/b:size=x", 5])
def test_no_mounts(text):
    with pytest.raises(SpecError):
        values.mount(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("rw,ro", '"ro" after "rw"'),
        ("size=1M,size=2M", '"size=2M" after "size=1M"'),
        ("mode=1777,rw,mode=755", '"mode=755" after "mode=1777"'),
        ("nodev,exec,dev", '"dev" after "nodev"'),
        ("slave,private", '"private" after "slave"'),
        ("rw,rw", '"rw" twice'),
    ],
)
def test_a_mount_option_that_another_undoes_is_refused(options, said):
    for read, text in ((values.mount, f"/a:/b:{options}"), (values.tmpfs, f"/b:{options}")):
        with pytest.raises(SpecError) as caught:
            read(text)
        assert str(caught.value) == f'{said} in "{text}"; write one of them'


@pytest.mark.parametrize("text", ["tmpfs:/t:ro", "mqueue:/q:nosuid,ro", "devpts:/p:ro"])
def test_a_mount_that_is_always_writable_is_not_said_to_be_read_only(text):
    with pytest.raises(SpecError, match='is always writable; leave "ro" out'):
        values.mount(text)


def test_a_tmpfs_is_not_said_to_be_read_only():
    with pytest.raises(SpecError, match='a tmpfs is always writable; leave "ro" out'):
        values.tmpfs("/t:ro,size=1M")


def test_a_misspelt_mount_option_has_a_suggestion():
    with pytest.raises(SpecError, match='did you mean "noexec"'):
        values.mount("/a:/b:noexe")


def test_nets():
    assert values.net("veth") == Net(mode="veth")
    assert values.net("join:/run/netns/x") == Net(mode="join", target="/run/netns/x")
    assert values.net("bridge:lab0") == Net(mode="bridge", bridge="lab0")


def test_idmaps():
    assert values.idmap("0:100000:65536") == values.idmap([0, 100000, 65536]) == IdMap(0, 100000, 65536)
    for wrong in ("0:1", "a:b:c", "0:1:2:3", [0, 1], 5, "-1:0:1"):
        with pytest.raises(SpecError):
            values.idmap(wrong)


def test_rlimits():
    assert values.rlimit("1024:4096") == values.rlimit([1024, 4096]) == (1024, 4096)
    assert values.rlimit("unlimited") == (-1, -1)
    assert values.rlimit("64k:unlimited") == (65536, -1)


def test_a_command_is_never_split():
    with pytest.raises(SpecError, match="write a list"):
        values.command("ls -l")


READERS = [
    values.size,
    values.cores,
    values.seconds,
    values.duration,
    values.octal,
    values.integer,
    values.user,
    values.words,
    values.groups,
    values.pair,
    values.strings,
    values.command,
    values.publish,
    values.root,
    values.mount,
    values.tmpfs,
    values.idmap,
    values.net,
    values.limit,
    values.rlimit,
    values.capabilities,
    values.capability_set,
    values.namespace,
    values.host_line,
    values.route,
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text("0123456789:[]./-=%kMG, rw"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@pytest.mark.parametrize("value", ["all", ["all"], "0x1ffffffffff", ["0x1ffffffffff"], (1 << 41) - 1, "chown,all"])
def test_all_capabilities_are_written_in_every_form(value):
    """In one set and in all five, as a text, an element of a list, a mask."""
    everything = tuple(uapi.CAPABILITIES)
    assert values.capabilities(value) == Capabilities(everything, everything, everything, everything, everything)
    assert tuple(dict.fromkeys(values.capability_set(value))) == everything


@pytest.mark.parametrize("value", ["0x21", ["0x21"], ["0x1", "0x20"], 33, ["CAP_CHOWN", "kill"], "chown,kill"])
def test_a_mask_stands_for_its_capabilities(value):
    assert values.capabilities(value).bounding == values.capability_set(value) == ("chown", "kill")


@given(st.sampled_from(READERS), JSON)
def test_anything_is_read_or_refused(read, value):
    """No reader raises anything but SpecError, whatever it is given."""
    message = "none"
    try:
        read(value)
    except SpecError as error:
        message = str(error)  # without a place: the caller adds it
    assert message


@given(st.integers(0, (1 << 62) - 1))
def test_sizes_in_bytes_are_themselves(number):
    assert values.size(number) == values.size(str(number)) == values.size(f"{number}B") == number


def test_a_time_in_fractions_is_told_what_a_time_is() -> None:
    with pytest.raises(SpecError, match='expected whole seconds, or a time as "90m", "2h", "30d", got a float'):
        values.clock_offset(1e30)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a b²", '"a b²"'), ("\n\x1b", '"\\n\\x1b"'), ("\udcff", '"\\xff"'), ("x" * 61, f'"{"x" * 57}..."')],
)
def test_what_was_written_is_shown_as_it_was(value: str, shown: str) -> None:
    """Nothing in it does anything to a terminal; a byte that is no UTF-8 is shown as that byte."""
    assert values.quoted(value) == shown
