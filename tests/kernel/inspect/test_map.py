"""``nstool map``: the groups are the containers of the host, each card is what /proc says, the files are whole."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.cli.picture import drawn
from nstool.cli.write import write
from nstool.errors import SpecError
from nstool.inspect.map import HostMap, host_map
from nstool.inspect.map_dot import dot
from nstool.inspect.map_page import data, page
from nstool.inspect.namespaces import census
from tests.support import kernel, processes
from tests.support.user import User
from tests.support.waiting import in_pid_namespace, thread, waiting

NSTOOL = str(Path(sys.prefix) / "bin/nstool")
EVIL = "</script><script>document.title='seized'</script>\u202e\x1b[31m"

pytestmark = pytest.mark.needs("root", "native")


def container(name: str, flags: int) -> None:
    """Move into new namespaces, where flags has a user namespace as its root with ids of its own, as name."""
    kernel.unshare(flags)
    if flags & uapi.CLONE_NEWUSER:
        kernel.map_root()
    Path("/proc/self/comm").write_text(name or "\0")


def in_network(pid: int, name: str) -> None:
    """Move into the network of another, and a mount namespace of its own."""
    from nstool import syscalls

    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    syscalls.setns(fd)
    os.close(fd)
    container(name, uapi.CLONE_NEWNS)


@contextmanager
def scene() -> Iterator[dict[str, int]]:
    """Pids by name: a web server, its sidecar in its network, one with a user namespace, one in a pid namespace."""

    def first_of_pids() -> int:
        kernel.unshare(uapi.CLONE_NEWPID | uapi.CLONE_NEWUTS)
        Path("/proc/self/comm").write_text("launcher")
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            Path("/proc/self/comm").write_text("inner")
            os.write(write, b"x")
            while True:
                signal.pause()
        os.read(read, 1)
        return pid

    with (
        waiting(container, "web", uapi.CLONE_NEWNET | uapi.CLONE_NEWNS) as (web, _),
        waiting(in_network, web, "sidecar") as (sidecar, _),
        waiting(container, "rootless", uapi.CLONE_NEWUSER | uapi.CLONE_NEWIPC) as (rootless, _),
        waiting(first_of_pids) as (launcher, inner),
    ):
        yield {"web": web, "sidecar": sidecar, "rootless": rootless, "launcher": launcher, "inner": inner}


def test_groups_are_the_containers(in_child: Callable[..., Any]) -> None:
    """Named by their oldest process; own: what is not the host's; who launched a pid namespace is with it."""

    def act() -> tuple[list[tuple[str, tuple[int, ...], tuple[str, ...]]], dict[str, int], HostMap]:
        with scene() as pids:
            found = host_map()
            return [(group.name, group.pids, group.own) for group in found.groups[1:]], pids, found

    rows, pids, found = in_child(in_pid_namespace, act)
    assert rows == [
        ("web", (pids["web"],), ("mnt", "net")),
        ("sidecar", (pids["sidecar"],), ("mnt", "net")),
        ("rootless", (pids["rootless"],), ("user", "ipc")),
        ("inner", (pids["launcher"], pids["inner"]), ("pid", "uts")),
    ]
    assert found.groups[0].pids == (1,)
    assert found.groups[1].namespaces["net"] == found.groups[2].namespaces["net"]
    assert found.cards[pids["inner"]].pids == (pids["inner"], 1)


def test_a_card_is_what_proc_says(in_child: Callable[..., Any]) -> None:
    """Read by hand: ids, groups, capabilities, cgroups, mounts, maps."""

    def act() -> None:
        with scene() as pids:
            for pid in pids.values():
                while (one := processes.read(pid)) is None or one.state != "S":
                    time.sleep(0.001)
            found = host_map()
            for name, pid in pids.items():
                card = found.cards[pid]
                lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                assert card.comm == name
                assert card.uids == tuple(map(int, lines["Uid"].split()))
                assert card.groups == tuple(map(int, lines["Groups"].split()))
                assert card.capabilities["effective"] == int(lines["CapEff"], 16)
                assert card.capabilities["bounding"] == int(lines["CapBnd"], 16)
                assert (card.ppid, card.state) == (int(lines["PPid"]), "sleeping")
                cgroups = [line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
                assert [list(row) for row in card.cgroups] == cgroups
                assert "\0".join((*card.command, "")) == Path(f"/proc/{pid}/cmdline").read_text()
                mounts = Path(f"/proc/{pid}/mountinfo").read_text().count("\n")
                assert found.mounts[card.namespaces["mnt"]] == mounts
                user = card.namespaces["user"]
                text = Path(f"/proc/{pid}/uid_map").read_text().split()
                assert [str(n) for m in found.uid_maps[user] for n in (m.inside, m.outside, m.count)] == text
            now, btime = os.stat(f"/proc/{pids['web']}").st_mtime, found.cards[1].started
            assert abs(found.cards[pids["web"]].started - now) < 60  # when /proc was first asked for it
            assert btime <= now

    in_child(in_pid_namespace, act)


@pytest.mark.needs("userns")
def test_ids_in_the_readers_own_user_namespace(in_child: Callable[..., Any]) -> None:
    """Its map has, to who is in it, ids of the namespace above; those of its processes are told as they are in it."""

    def act() -> None:
        kernel.unshare(uapi.CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        for kind in ("uid", "gid"):
            Path(f"/proc/self/{kind}_map").write_text("7 0 1\n")
        assert (os.getuid(), os.getgid()) == (7, 7)
        told = data(host_map())["processes"][os.getpid()]
        assert told["uids"] == told["gids"] == [(7, 7)] * 4

    in_child(act)


def test_what_has_changed_since_the_census_is_not_mixed_in(
    in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has become another user's may not be looked into; one that has moved tells of where it is now."""

    def act() -> None:
        with waiting() as (pid, _), waiting(container, "away", uapi.CLONE_NEWUSER | uapi.CLONE_NEWNS) as (away, _):
            before = census()
            moved = [ns.replace(oldest=away) if ns.type in ("user", "mnt") else ns for ns in before.namespaces]
            later = [one.replace(start=one.start + (one.pid == pid)) for one in before.processes]
            monkeypatch.setattr("nstool.inspect.map.census", lambda turns: before.replace(processes=tuple(later)))
            assert set(host_map().cards) == {1, away}  # the other is a later one with its pid
            monkeypatch.setattr("nstool.inspect.map.census", lambda turns: before.replace(namespaces=tuple(moved)))
            found = host_map()
            assert set(found.uid_maps) == {found.cards[away].namespaces["user"]}
            assert set(found.mounts) == {found.cards[away].namespaces["mnt"]}
            os.seteuid(1)
            found = host_map()
            os.seteuid(0)
            assert (found.cards[pid].root, found.cards[pid].comm) == ("", before.processes[0].comm)
            assert (found.uid_maps, found.mounts) == ({}, {})

    in_child(in_pid_namespace, act)


def test_a_thread_that_has_left_is_with_its_process() -> None:
    """In the namespaces that it is in and its process is not."""
    with thread(lambda: kernel.unshare(uapi.CLONE_NEWNET | uapi.CLONE_NEWUTS)) as tid:
        links = [os.readlink(f"/proc/self/task/{tid}/ns/{kind}") for kind in ("net", "uts")]
        processes = data(host_map())["processes"]
    assert processes[os.getpid()]["elsewhere"] == {tid: links}
    assert processes[os.getppid()]["elsewhere"] == {}


SHOWN = "</script><script>document.title='seized'</script>\\u202e\\x1b[31m 1000"


def hostile_page() -> tuple[str, int]:
    """Return the page of a host with five groups and a process whose command is a script, and that one's pid."""
    with scene(), waiting(container, EVIL[:15], uapi.CLONE_NEWNET), waiting() as (plain, _):
        evil = os.fork()
        if evil == 0:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
            os.execv("/usr/bin/sleep", [EVIL, "1000"])
        while os.readlink(f"/proc/{evil}/exe") == os.readlink(f"/proc/{plain}/exe"):
            continue
        return page(host_map()), evil


def test_the_page_holds_names_as_text(in_child: Callable[..., Any]) -> None:
    text, evil = in_child(in_pid_namespace, hostile_page)
    facts = json.loads(text.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    assert facts["processes"][str(evil)]["command"] == SHOWN
    assert len(facts["groups"]) == 6
    assert text.count("<script") == 2


@pytest.mark.needs("chromium")
def test_the_page_shows_in_a_browser_what_it_says(in_child: Callable[..., Any], tmp_path: Path) -> None:
    """Hostile names are text; a card for each group, and the card of the process that the address names."""
    text, evil = in_child(in_pid_namespace, hostile_page)
    file = tmp_path / "map.html"
    file.write_text(text)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command = ["chromium", *options, "--virtual-time-budget=2000", "--dump-dom", f"file://{file}#p{evil}"]

    def browse() -> str:
        # In a pid namespace, with which all ends that it starts.
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    seconds = 600.0  # emulated, a browser takes two minutes to begin
    dom = in_child(in_pid_namespace, browse, seconds, timeout=2 * seconds)
    assert "<title>Namespaces of " in dom
    assert dom.count('<button class="card') == 6
    panel = dom.split('<aside id="detail"')[1].split("</aside>")[0]
    escaped = SHOWN.replace("<", "&lt;").replace(">", "&gt;")
    assert f'<div class="command theirs">{escaped}</div>' in panel
    assert f"process {evil} in " in panel


@pytest.mark.needs("dot")
def test_the_picture_has_every_group(in_child: Callable[..., Any]) -> None:
    """dot(1) takes what is written, also with hostile names and with none; the words are in the picture."""

    def act() -> tuple[bytes, list[str]]:
        with (
            scene(),
            waiting(container, "<b>&\"'\\", uapi.CLONE_NEWNET),
            waiting(container, "", uapi.CLONE_NEWUTS),
            waiting(container, "  ", uapi.CLONE_NEWIPC),
        ):
            found = host_map()
            return drawn(dot(found), ".svg"), [ns.name for ns in found.census.namespaces if ns.type == "user"]

    picture, users = in_child(in_pid_namespace, act)
    words = [element.text or "" for element in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert [
        word
        for word in ("host", "web", "sidecar", "rootless", "inner", "<b>&\"'\\\\", "(no name)")
        if word not in words
    ] == []
    assert users[0] in words  # the other has one group alone, which stands for it
    assert any(word.startswith("process ") for word in words)


# ---- the command ----


def run(*words: str, status: int = 0, **options: Any) -> str:
    """Return what nstool map says, but for notes."""
    done = subprocess.run([NSTOOL, "map", *words], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    return "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("note: "))


@pytest.mark.parametrize("form", ["html", "dot", "json"])
def test_the_file_is_its_owners_alone(tmp_path: Path, form: str) -> None:
    """It tells of all processes what not everybody may see; it is overwritten only when asked to."""
    path = tmp_path / f"map.{form}"
    assert run("-o", str(path)) == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith({"html": "<!doctype html>", "dot": "digraph ", "json": "{"}[form])
    assert run("-o", str(path), status=2) == f"nstool: {path}: exists; --force overwrites it\n"
    path.write_text("")
    path.chmod(0o644)
    run("-o", str(path), "--force")
    assert path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_overwritten_is_a_new_one(tmp_path: Path) -> None:
    """Who owns the old one, has it open or has another name of it has nothing of it; no link is followed."""
    path, other, own = tmp_path / "map.json", tmp_path / "other", tmp_path / "own"
    path.write_text("old")
    os.link(path, other)
    os.chown(path, 1000, 1000)
    with path.open() as held:
        run("-o", str(path), "--force")
        assert held.read() == "old"
    assert other.read_text() == "old"
    found = path.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode), found.st_nlink) == (0, 0o600, 1)
    assert path.read_text().startswith("{")
    own.write_text("mine")
    path.unlink()
    path.symlink_to(own)
    text = f"nstool: {path}: is a symbolic link, which is not followed; name the file\n"
    assert run("-o", str(path), "--force", status=2) == text
    assert own.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["map.json", "other", "own"]


def test_a_device_is_written_to_and_stays_one(tmp_path: Path) -> None:
    """/dev/null is no file that is replaced, whoever may."""
    null, fifo = tmp_path / "null", tmp_path / "fifo"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    write(str(null), b"x", 0o600, overwrite=True)
    assert stat.S_ISCHR(os.lstat(null).st_mode)
    os.mkfifo(fifo)
    with pytest.raises(SpecError, match="is no regular file"):
        write(str(fifo), b"x", 0o600, overwrite=True)


def test_a_bad_request_is_one_message(tmp_path: Path) -> None:
    assert "Missing option '--output'" in run(status=2)
    assert run("-o", "map.png", status=2) == "nstool: --output: 'map.png' ends in none of .html .svg .dot .json\n"
    assert "No such file or directory" in run("-o", f"{tmp_path}/none/map.dot", status=2)


def test_without_graphviz_it_is_said_what_to_do(tmp_path: Path) -> None:
    """Nothing is left of the file."""
    text = run("-o", str(tmp_path / "map.svg"), status=125, env={"PATH": str(tmp_path)})
    assert text.splitlines()[1:] == [
        "cause: there is no dot, the program of Graphviz that draws it",
        "remedy: install graphviz, or write DOT: a name that ends with .dot",
    ]
    assert list(tmp_path.iterdir()) == []


def test_an_ordinary_user_draws_what_it_may_see(as_user: Callable[..., Any], user: User) -> None:
    """The page says what is missing."""

    def act() -> str:
        run("-o", "map.html")
        text = Path("map.html").read_text()
        os.unlink("map.html")
        return text

    text = as_user(act)
    assert "could not be looked into" in text
    assert f"seen by {user.name}" in text
