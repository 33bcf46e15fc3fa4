"""Who may connect to the Unix socket of a service: ``socket_mode``, ``socket_owner``."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import serving
from tests.support.child import run_in_child
from tests.support.serving import DEADLINE, NSTOOL, write
from tests.support.user import User

pytestmark = pytest.mark.needs(
    "native", "nsexec", "root", "timens", "cgroupns", "overlay", "cgroup_memory", "cgroup_pids"
)

CAT = "command = ['/bin/cat']"
OTHER = 54321  # a uid and a gid that nobody has


def spec_of(tmp_path: Path, *words: str) -> tuple[Path, Path]:
    """A spec with a Unix socket, and where that is."""
    path = tmp_path / "socket"
    return write(tmp_path / "s.toml", "\n".join((f'listen = ["unix:{path}"]', *words)), CAT), path


def access_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def connects(path: Path, uid: int, gid: int) -> bool:
    """Whether a process with these ids and no others is served."""

    def act() -> bool:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(DEADLINE)
            try:
                one.connect(str(path))
            except PermissionError:
                return False
            one.sendall(b"x")
            return one.recv(1) == b"x"

    return run_in_child(act)


def open_way(path: Path) -> None:
    """Let everybody come to a directory of a test."""
    for each in (path, *path.parents):
        if each.stat().st_uid == os.geteuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o011)


def test_by_default_it_is_what_the_umask_leaves(name: str, tmp_path: Path) -> None:
    """Of 0777, as bind(2) makes it."""
    spec, path = spec_of(tmp_path)
    before = os.umask(0o027)
    try:
        with serving.serving(spec, name):
            assert access_of(path) == (0o750, 0, 0)
    finally:
        os.umask(before)


def test_only_those_connect_who_may(name: str, tmp_path: Path) -> None:
    """Its owner and its group, and nobody else; whatever the umask."""
    open_way(tmp_path)
    spec, path = spec_of(tmp_path, 'socket_mode = "0660"', f'socket_owner = "{OTHER}:{OTHER}"')
    before = os.umask(0o077)
    try:
        with serving.serving(spec, name):
            assert access_of(path) == (0o660, OTHER, OTHER)
            assert connects(path, OTHER, OTHER + 1)
            assert connects(path, OTHER + 1, OTHER)
            assert not connects(path, OTHER + 1, OTHER + 1)
    finally:
        os.umask(before)
    assert not path.exists()


@pytest.mark.parametrize(
    ("word", "uid", "gid"),
    [("nobody:daemon", 65534, 1), ("daemon", 1, 1), (":daemon", 0, 1), (f":{OTHER}", 0, OTHER), ("1:", 1, 1)],
)
def test_an_owner_by_name_or_number(name: str, tmp_path: Path, word: str, uid: int, gid: int) -> None:
    """A user alone has his first group with him; a group alone leaves the user."""
    spec, path = spec_of(tmp_path, f'socket_owner = "{word}"', "socket_mode = 0o600")
    with serving.serving(spec, name):
        assert access_of(path) == (0o600, uid, gid)


@pytest.mark.orphans
def test_it_stays_so(name: str, tmp_path: Path) -> None:
    """Over a rotation and the next service, which may say otherwise; another's file in its place is left as it is."""
    spec, path = spec_of(tmp_path, 'socket_mode = "0660"', f'socket_owner = ":{OTHER}"')
    one = serving.start(spec, name, tmp_path / "log")
    one.tell("rotate")
    assert access_of(path) == (0o660, 0, OTHER)
    for words, wanted in (([], 0o660), (['socket_mode = "0600"'], 0o600)):
        template = one.status()["generations"][-1]["pid"]
        one.process.kill()
        one.process.wait()
        one = serving.start(spec_of(tmp_path, *words)[0], name, tmp_path / "log")
        one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
        os.waitpid(template, 0)
        assert access_of(path) == (wanted, 0, OTHER)
    template = one.status()["generations"][-1]["pid"]
    one.process.kill()
    one.process.wait()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as others:
        others.bind(str(path))
        path.chmod(0o640)
        one = serving.start(spec_of(tmp_path, 'socket_mode = "0666"')[0], name, tmp_path / "log")
        one.until(lambda s: len(s["generations"]) == 1, "the old one is gone")
        os.waitpid(template, 0)
        assert access_of(path) == (0o640, 0, 0)
        assert serving.stop(one) == 0
        assert path.exists()


SHUT = """
import socket
one = socket.socket(fileno=3)
with one.accept()[0] as client:
    client.sendall(client.recv(1))
one.shutdown(socket.SHUT_RDWR)
"""


def test_it_stays_so_when_it_is_opened_anew(name: str, tmp_path: Path) -> None:
    """As after a sandbox that has it has shut it down."""
    path = tmp_path / "socket"
    words = f'listen = ["unix:{path}"]\nshape = "listener"\nsocket_mode = "0600"\nsocket_owner = ":{OTHER}"'
    spec = write(tmp_path / "s.toml", words, f"command = ['/usr/bin/python3', '-c', '''{SHUT}''']")
    with serving.serving(spec, name) as one:
        first = path.stat().st_ino
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(b"x")
            assert client.recv(1) == b"x"
        one.until(lambda s: s["rotations"] and path.exists() and path.stat().st_ino != first, "it was opened anew")
        assert access_of(path) == (0o600, 0, OTHER)
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "key", "told"),
    [
        ('socket_mode = "0888"', "socket_mode", "octal"),
        ("socket_mode = 0o1777", "socket_mode", "0777"),
        ("socket_mode = 660", "socket_mode", '660 is not octal, its bits are 0o1224: write octal text, "0660"'),
        ('socket_owner = "no-such-user"', "socket_owner", "no user 'no-such-user'"),
        ('socket_owner = "root:no-such-group"', "socket_owner", "no group 'no-such-group'"),
        (f'socket_owner = "{OTHER}"', "socket_owner", f'"{OTHER}:GROUP"'),
        ('socket_owner = "4294967295:0"', "socket_owner", "no number of a user"),
        ('socket_owner = ":"', "socket_owner", "nobody"),
    ],
)
def test_what_cannot_be_is_refused(name: str, tmp_path: Path, words: str, key: str, told: str) -> None:
    """Before anything is made, with its place."""
    spec, path = spec_of(tmp_path, words)
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert f"service.{key}" in done.stderr
    assert f"{spec}:" in done.stderr
    assert not path.exists()


@pytest.mark.parametrize("word", ["tcp:127.0.0.1:0", "unix:@abstract", "systemd"])
def test_without_a_file_it_has_no_effect(name: str, tmp_path: Path, word: str) -> None:
    """And is refused."""
    spec = write(tmp_path / "s.toml", f'listen = ["{word}"]\nsocket_mode = "0660"', CAT)
    done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
    assert (done.returncode, "service.socket_mode: none of listen" in done.stderr) == (2, True), done


@pytest.mark.needs("userns")
def test_a_user_has_a_mode_and_groups_of_his(as_user: Callable[..., Any], user: User, name: str) -> None:
    """And nobody else's: that is refused."""

    def act() -> tuple[tuple[int, int, int], int, str]:
        path = user.home / f"{name}.socket"
        spec = user.home / f"{name}.toml"
        head = f'{CAT}\n[limits]\nmemory = 0\npids = 0\ncpu = 0\n[service]\nlisten = ["unix:{path}"]\nplaces = 4\n'
        spec.write_text(f'{head}socket_mode = "0660"\nsocket_owner = ":{user.gid}"\n')
        with serving.serving(spec, name):
            found = access_of(path)
        spec.write_text(f'{head}socket_owner = ":{OTHER}"\n')
        done = subprocess.run([NSTOOL, "serve", "--name", name, str(spec)], capture_output=True, text=True)
        spec.unlink()
        spec.with_suffix(".log").unlink()
        return found, done.returncode, done.stderr

    found, status, told = as_user(act, timeout=4 * DEADLINE)
    assert found == (0o660, user.uid, user.gid)
    assert (status, "only root gives a socket" in told) == (2, True), told
