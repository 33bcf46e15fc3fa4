"""Rules of mounts: what mountinfo says is read back whole, what covers what, who is whose peer, layers of overlays."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from nstool.inspect.covers import COVERED, REACHED, covers
from nstool.inspect.overlay import layers_of
from nstool.inspect.peers import Propagation, View, groups, propagation
from nstool.sandbox.mountinfo import Mount, read_mounts, unescape

# What the kernel lets a name have: all bytes but NUL, of which some are no UTF-8.
NAMES = st.binary(min_size=1, max_size=20).map(
    lambda name: name.replace(b"\0", b"n").decode("utf-8", "surrogateescape").replace("/", "s")
)


def mount(number: int, parent: int, target: str, **fields: object) -> Mount:
    plain = {
        "device": "0:1",
        "root": "/",
        "options": ("rw",),
        "propagation": "private",
        "type": "tmpfs",
        "source": "none",
        "super_options": ("rw",),
    }
    return Mount(id=number, parent=parent, target=target, **(plain | fields))  # type: ignore[arg-type]


def escaped(text: str) -> str:
    """Escape as the kernel does in mountinfo. fs/proc_namespace.c."""
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


@given(names=st.lists(NAMES, min_size=1, max_size=4), groups=st.sampled_from(["", "shared:5 ", "shared:5 master:3 "]))
def test_any_name_is_read_back(names: list[str], groups: str) -> None:
    """Whatever is in the names of directories and sources, a line of mountinfo is one mount."""
    text = "".join(
        f"{number} 1 0:5 /{escaped(name)} /{escaped(name)} rw,noatime {groups}- tmpfs {escaped(name)} rw,size=1\n"
        for number, name in enumerate(names)
    )
    found = read_mounts(text)
    assert [one.target for one in found] == [f"/{name}" for name in names]
    assert [(one.root, one.source) for one in found] == [(f"/{name}", name) for name in names]
    assert {one.propagation for one in found} == {groups.strip().replace(" ", ",") or "private"}


@given(st.text())
def test_unescape_takes_anything(text: str) -> None:
    """Also what no kernel has written; and it is the inverse of what the kernel does."""
    unescape(text)
    assert unescape(escaped(text)) == text


def test_what_is_no_escape_stays() -> None:
    assert unescape("a\\9b\\1\\") == "a\\9b\\1\\"


# Trees of mounts on /, /a, /a/b ...: each on a mount before it, at or below its target.
TARGETS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["", "/a", "/b", "/a/a", "/a/b", "/ab"])), max_size=12)


def tree(choices: list[tuple[int, str]]) -> list[Mount]:
    made = [mount(1, 0, "/")]
    taken = set()
    for number, (on, below) in enumerate(choices, 2):
        parent = made[on % len(made)]
        target = (parent.target.rstrip("/") + below) or "/"
        if (parent.id, target) not in taken:  # the kernel puts it on the one that is there
            taken.add((parent.id, target))
            made.append(mount(number, parent.id, target))
    return made


def walk(mounts: list[Mount], path: str) -> int:
    """Return the mount that the walk of a path ends on, as path_resolution(7) has it, name by name."""
    on = {(one.parent, one.target): one.id for one in mounts if one.id != 1}
    current, place = 1, ""
    for name in path.split("/")[1:] if path != "/" else []:
        place += f"/{name}"
        while (current, place) in on:
            current = on[current, place]
    return current


@given(TARGETS)
def test_reached_is_where_a_walk_ends(choices: list[tuple[int, str]]) -> None:
    """And the one that covers it is another of the list; the order of the list means nothing."""
    mounts = tree(choices)
    states = covers(mounts, 1)
    assert states == covers(mounts[::-1], 1)
    for one in mounts:
        state, cover = states[one.id]
        assert state == (REACHED if walk(mounts, one.target) == one.id else COVERED)
        assert (cover == 0) == (state == REACHED)
        assert cover in {0, *(other.id for other in mounts)} - {one.id}


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.text("/ab", max_size=4)), max_size=6), st.integers(0, 5)
)
def test_no_list_is_too_odd(rows: list[tuple[int, int, str]], root: int) -> None:
    """A list that was torn while it was read, with loops or without parents, ends and has a state for each mount."""
    mounts = {number: mount(number, parent, f"/{target}") for number, parent, target in rows}
    assert set(covers(list(mounts.values()), root)) == set(mounts)


def test_a_stack_of_thousands() -> None:
    """A mount on a mount on a mount: no recursion, and no time that grows with the square."""
    mounts = [mount(1, 0, "/")] + [mount(number, number - 1, "/a") for number in range(2, 5000)]
    states = covers(mounts, 1)
    assert [number for number, (state, _) in states.items() if state == REACHED] == [1, 4999]
    assert states[2] == (COVERED, 3)


def test_propagation_has_all_fields() -> None:
    cases = {
        "private": Propagation(),
        "unbindable": Propagation(unbindable=True),
        "shared:7": Propagation(peer_group=7),
        "shared:7,master:3": Propagation(peer_group=7, master=3),
        "master:3,propagate_from:2": Propagation(master=3, propagate_from=2),
    }
    assert {text: propagation(mount(1, 0, "/", propagation=text)) for text in cases} == cases


def test_groups_of_two_namespaces() -> None:
    """Peers, a slave, a group that is a slave, a master that only propagate_from leads up from."""
    one = (mount(1, 0, "/", propagation="shared:1"), mount(2, 1, "/s", propagation="shared:4,master:1"))
    two = (
        mount(3, 0, "/", propagation="master:1"),
        mount(4, 3, "/p", propagation="shared:1"),
        mount(5, 3, "/x", propagation="master:9,propagate_from:4"),
        mount(6, 3, "/u", propagation="unbindable"),
    )
    views = [View(10, 100, "a", 1, 0, 0, one), View(20, 200, "b", 1, 0, 1, two)]
    found = {group.id: group for group in groups(views)}
    told = {
        number: (
            [(m.namespace, m.mount) for m in group.members],
            [(m.namespace, m.mount) for m in group.slaves],
            group.master,
            group.nearest,
        )
        for number, group in found.items()
    }
    assert told == {
        1: ([(10, 1), (20, 4)], [(20, 3)], 0, False),
        4: ([(10, 2)], [], 1, False),
        9: ([], [(20, 5)], 4, True),
    }


@given(st.lists(st.text(string.ascii_letters + ":\\, =", min_size=1, max_size=8), min_size=1, max_size=4))
def test_layers_of_any_name(names: list[str]) -> None:
    """The lower directories come out as they were given to mount(2): backslash and colon escaped by a backslash."""
    given_ = ":".join(f"/{name}".replace("\\", "\\\\").replace(":", "\\:") for name in names)
    shown = given_
    for char in "\\ ,=\t\n":  # seq_show_option
        shown = shown.replace(char, f"\\{ord(char):03o}")
    options = ("rw", f"lowerdir={shown}", "upperdir=/up", "workdir=/work")
    one = mount(1, 0, "/", type="overlay", super_options=options)
    assert list(layers_of(one)) == [("upper", "/up"), *(("lower", f"/{name}") for name in names)]


def test_layers_given_one_by_one() -> None:
    """Nothing is escaped in these but by mountinfo: a backslash is part of the name. Linux 6.8."""
    options = ("ro", "lowerdir+=/a", "lowerdir+=/b\\072c", "lowerdir+=/e\\134f", "datadir+=/d\\134:")
    one = mount(1, 0, "/", type="overlay", super_options=options)
    assert list(layers_of(one)) == [("lower", "/a"), ("lower", "/b:c"), ("lower", "/e\\f"), ("lower", "/d\\:")]
