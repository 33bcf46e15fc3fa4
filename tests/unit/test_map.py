"""How groups get their names, and that nothing of what processes are called becomes part of a page or a graph."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.inspect.map import Card, HostMap, groups, made_by
from nstool.inspect.map_dot import dot
from nstool.inspect.map_page import data, page
from nstool.inspect.namespaces import Census, Namespace, Process
from nstool.spec.model import IdMap

ID = "0123456789abcdef" * 4
POD = "pod01234567-89ab-cdef-0123-456789abcdef"


@pytest.mark.parametrize(
    ("path", "maker", "name"),
    [
        ("/", "", ""),
        ("/user.slice/user-1000.slice/session-2.scope", "", ""),
        (f"/system.slice/docker-{ID}.scope", "docker", "0123456789ab"),
        (f"/docker/{ID}", "docker", "0123456789ab"),
        (f"/docker/{ID}/system.slice/cron.service", "systemd", "cron"),
        ("/system.slice/docker.service", "systemd", "docker"),
        (f"/machine.slice/libpod-{ID}.scope", "podman", "0123456789ab"),
        (f"/machine.slice/libpod-{ID}.scope/container", "podman", "0123456789ab"),
        (f"/machine.slice/libpod-conmon-{ID}.scope", "", ""),
        (f"/kubepods.slice/kubepods-burstable.slice/x.slice/cri-containerd-{ID}.scope", "containerd", "0123456789ab"),
        (f"/kubepods.slice/crio-{ID}.scope", "cri-o", "0123456789ab"),
        (f"/kubepods/burstable/{POD}/{ID}", "kubernetes", "0123456789ab"),
        ("/lxc.payload.web1", "lxc", "web1"),
        ("/lxc/web1", "lxc", "web1"),
        ("/lxc.monitor.web1", "", ""),
        ("/machine.slice/machine-deb.scope", "nspawn", "deb"),
        ("/machine.slice/systemd-nspawn@deb.service/payload", "nspawn", "deb"),
        ("/nstool-web-1-0a1b2c+811c9dc5-000000001234", "nstool", "web-1"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.x.Y-77.scope", "flatpak", "org.x.Y"),
        ("/x/snap.firefox.firefox-01234567-89ab-cdef-0123-456789abcdef.scope", "snap", "firefox.firefox"),
        ("/system.slice/nginx.service", "systemd", "nginx"),
        ("/system.slice/x.service.d", "", ""),
    ],
)
def test_a_cgroup_tells_who_made_it(path: str, maker: str, name: str) -> None:
    """By the conventions of those who make containers and services; the innermost counts."""
    assert made_by(["/", path, "/system.slice/other.service"][: 3 if maker else 2]) == (maker, name)


KINDS = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time")


def card(
    pid: int, name: str = "sh", /, started: float = 0.0, for_children: dict[str, int] | None = None, **own: int
) -> Card:
    """A process in the namespaces 1 to 8, but for those named."""
    return Card(
        pid=pid,
        ppid=1,
        comm=name,
        command=(name, name),
        state="sleeping",
        threads=1,
        started=started or float(pid),
        namespaces={kind: number for number, kind in enumerate(KINDS, 1)} | own,
        for_children=for_children or {},
        uids=(0, 0, 0, 0),
        gids=(0, 0, 0, 0),
        groups=(),
        capabilities={"effective": 0},
        no_new_privs=False,
        seccomp="disabled",
        pids=(pid,),
        cgroups=(("", f"/{name}"),),
        root="/",
    )


def test_groups_are_processes_in_the_same_namespaces() -> None:
    """The oldest of all is the host's; others differ from it, in what they are told to."""
    cards = [card(1), card(2), card(5, "web", net=90, mnt=91), card(4, "web", net=90, mnt=91), card(9, "svc", mnt=92)]
    found = groups({c.pid: c for c in cards})
    assert [(group.name, group.pids, group.oldest, group.own) for group in found] == [
        ("sh", (1, 2), 1, ()),
        ("web", (4, 5), 4, ("mnt", "net")),
        ("svc", (9,), 9, ("mnt",)),
    ]


def test_who_made_a_pid_namespace_for_its_children_is_with_them() -> None:
    """It cannot enter it; the group is called by who is inside, though younger."""
    cards = [card(1), card(2, "unshare", for_children={"pid": 90}, net=91), card(3, "web", pid=90, net=91)]
    host, web = groups({c.pid: c for c in cards})
    assert (host.pids, web.name, web.pids, web.oldest) == ((1,), "web", (2, 3), 3)
    assert web.own == ("pid", "net")


def test_children_to_come_make_a_group_without_any() -> None:
    _, other = groups({c.pid: c for c in [card(1), card(2, "unshare", for_children={"time": 90})]})
    assert (other.name, other.own, other.oldest) == ("unshare", ("time",), 2)


def test_a_zombie_is_in_no_group() -> None:
    zombie = card(2).replace(namespaces={"user": 1, "pid": 3})
    assert [group.pids for group in groups({1: card(1), 2: zombie})] == [(1,)]


def test_a_group_without_a_name_has_its_pid() -> None:
    """A process may call itself nothing. prctl(2), PR_SET_NAME."""
    assert groups({7: card(7, "")})[0].name == "process 7"


def host_map(name: str) -> HostMap:
    """A host with one process, and a namespace without; all are called name."""
    one = card(1, name)
    namespaces = tuple(
        Namespace(
            kind, inode, None, (1,), 1, name, (name,), 0, None, None if kind == "user" else 1, 0, (), {"id": name}
        )
        for kind, inode in one.namespaces.items()
    )
    empty = Namespace("net", 99, None, (), 0, "", (), None, None, 1, 0, (), {})
    process = Process(1, 0, name, "S", 1, 0, one.namespaces)
    census = Census((*namespaces, empty), (process,), (), (name,))
    return HostMap(name, name, 0.0, 0, census, groups({1: one}), {1: one}, {1: ()}, {1: ()}, {2: 3}, 0)


def test_ids_are_told_as_they_are_inside() -> None:
    """By the map; in the reader's own namespace they are those already; without a map nobody says that there is none.

    user_namespaces(7): who reads the map of its own namespace sees the ids of the one above.
    """
    plain = host_map("sh")
    maps = {1: (IdMap(inside=0, outside=5, count=1),)}
    one = plain.cards[1].replace(uids=(5, 5, 5, 6))
    for changes, uids in (
        ({"uid_maps": maps}, [(5, 0), (5, 0), (5, 0), (6, None)]),
        ({"uid_maps": maps, "user_namespace": 1}, [(5, 5), (5, 5), (5, 5), (6, 6)]),
        ({"uid_maps": {}}, [(5,), (5,), (5,), (6,)]),
    ):
        assert data(plain.replace(cards={1: one}, **changes))["processes"][1]["uids"] == uids


class Page(HTMLParser):
    """The tags and the content of the scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data


PLAIN = Page(page(host_map("plain")))
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "\"'`${1}{{ 1 }}{% x %}",
    "&lt;&#60;&",
    "\\u003c\\",
    "\u202e\u2066\u200b\ufeff",
    "\u2028\u2029\x00\x1b[2J\x7f\n\t",
    "\udcff\udc80",
    "",
    " ",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_markup_or_script(name: str) -> None:
    """The page has the same elements whatever processes, the host, notes are called; its data are those names."""
    text = page(host_map(name))
    found = Page(text)
    assert found.tags == PLAIN.tags
    assert found.scripts[1] == PLAIN.scripts[1]
    data = json.loads(found.scripts[0])
    assert all(char.isprintable() for char in data["processes"]["1"]["command"])
    assert data["processes"]["1"]["comm"].replace("\\\\", "\\").startswith(name[:1] if name[:1].isprintable() else "\\")


@given(st.text(st.characters(codec=None, categories=None), max_size=20))
def test_no_name_at_all_is_markup_or_script(name: str) -> None:
    found = Page(page(host_map(name)))
    assert found.tags == PLAIN.tags
    json.loads(found.scripts[0])


def test_the_page_needs_nothing_else() -> None:
    """No address, no file; the policy allows its own style and script alone, by their hashes."""
    import base64
    import hashlib
    import re

    text = page(host_map("plain"))
    assert {name for name, _ in PLAIN.attributes} & {"src", "href", "style", "onclick", "action"} == set()
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    for what, tag in (("style-src", "style"), ("script-src", "script")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{what} 'sha256-{digest}'" in policy


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_a_graph(name: str) -> None:
    """Within labels no character is markup; all lines and strings end where they began."""
    text = dot(host_map(name))
    assert text.count("\n") == dot(host_map("plain")).count("\n")
    assert text.count("<TD") == dot(host_map("plain")).count("<TD")
    assert "<B></B>" not in text  # which dot(1) takes for an error
