"""An ordinary user for the tests of what needs no privilege."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.support import kernel, probes, workplace
from tests.support.child import SECONDS, run_in_child
from tests.support.workplace import Workplace, is_stale

T = TypeVar("T")

PREFIX = "nstool-test-"  # of the names of users made here


class User(NamedTuple):
    """subuid, subgid: (first host id, count) that newuidmap and newgidmap let this user map."""

    name: str
    uid: int
    gid: int
    home: Path
    runtime: Path
    subuid: tuple[int, int]
    subgid: tuple[int, int]

    def run(self, func: Callable[..., T], *args: Any, timeout: float = SECONDS, **kwargs: Any) -> T:
        """Return ``func(*args, **kwargs)`` as computed in a child that is this user, in its home."""

        def act() -> T:
            self.become()
            return func(*args, **kwargs)

        return run_in_child(act, timeout=timeout)

    def become(self) -> None:
        """Make the calling process this user's, for good."""
        if os.geteuid() == 0:
            _open_way([sys.base_prefix, sys.prefix, str(probes.REPOSITORY)], self)
            os.setgroups([self.gid])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            # A change of ids makes a process non-dumpable, and its /proc files root's, until it
            # executes something. A login shell has done that; so has this one, as far as one can see.
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        os.environ.update(HOME=str(self.home), USER=self.name, LOGNAME=self.name, XDG_RUNTIME_DIR=str(self.runtime))
        os.environ.pop("NSTOOL_RUN_DIR", None)  # root's
        os.umask(0o022)
        os.chdir(self.home)


def get_user(place: Workplace) -> User:
    """Return the caller when that is an ordinary user, else a user made for this run, once for all its workers."""
    if os.geteuid() != 0:
        return _describe(pwd.getpwuid(os.getuid()), place)
    with _locked(place):
        try:
            entry = pwd.getpwnam(_user_name(place))
        except KeyError:
            entry = _add_user(place)
    os.chown(place.user_runtime, entry.pw_uid, entry.pw_gid)
    return _describe(entry, place)


def remove_user(place: Workplace) -> None:
    """Remove the user that get_user made for this run, if it made one."""
    for entry in _made_users():
        if entry.pw_name == _user_name(place):
            _end_processes(entry.pw_uid)
            subprocess.run(["userdel", entry.pw_name], check=True)


def remove_stale() -> None:
    """Remove the users of runs that were killed."""
    for entry in _made_users():
        if is_stale(entry.pw_name.removeprefix(PREFIX)):
            _end_processes(entry.pw_uid)
            subprocess.run(["userdel", entry.pw_name], check=False)  # another run may just have done it


def undo(own: Path) -> bool:
    """Undo what sandboxes have left whose launcher was killed, of a worker's own directory, as the next command would.

    Only the run directories there know of it: with them gone it would stay for ever. False, and said on stderr, if
    something could not be undone.
    """
    clean = True
    if (own / "run").exists():
        command = [sys.executable, "-m", "nstool.cli.main", "cleanup"]
        environment = {**os.environ, "NSTOOL_RUN_DIR": str(own / "run")}
        done = subprocess.run(command, cwd=probes.REPOSITORY, env=environment, stdout=subprocess.DEVNULL, check=False)
        clean = done.returncode == 0
    runtime = own / "user"
    if os.geteuid() == 0 and (runtime / "nstool").exists():
        from nstool.sandbox import journal

        status = runtime.stat()
        user = User("", status.st_uid, status.st_gid, own, runtime, (0, 0), (0, 0))
        try:
            user.run(journal.cleanup)
        except Exception as error:
            sys.stderr.write(f"{runtime}: {error}\n")
            clean = False
    return clean


def undo_killed() -> None:
    """Undo and remove what runs that were killed have left."""
    for base in workplace.stale():
        with contextlib.suppress(FileNotFoundError):  # another run does the same
            undone = [undo(own) for own in base.iterdir() if own.is_dir()]
            if all(undone):
                workplace.remove_tree(base)


def _made_users() -> list[pwd.struct_passwd]:
    # Name and home: nobody else's user has both.
    home = re.compile(rf"{re.escape(tempfile.gettempdir())}/nst-[0-9a-f]+/home")
    users = [entry for entry in pwd.getpwall() if entry.pw_name.startswith(PREFIX) and home.fullmatch(entry.pw_dir)]
    return users if os.geteuid() == 0 else []


def _user_name(place: Workplace) -> str:
    return f"{PREFIX}{place.tag}"


def _describe(entry: pwd.struct_passwd, place: Workplace) -> User:
    return User(
        name=entry.pw_name,
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        home=Path(entry.pw_dir),
        runtime=place.user_runtime,
        subuid=probes.subordinate("/etc/subuid", entry.pw_uid),
        subgid=probes.subordinate("/etc/subgid", entry.pw_uid),
    )


def _add_user(place: Workplace) -> pwd.struct_passwd:
    name = _user_name(place)
    # useradd gives subordinate ids by itself where these files exist. useradd(8)
    for path in ("/etc/subuid", "/etc/subgid"):
        Path(path).touch(mode=0o644)
    command = ["useradd", "--no-create-home", "--user-group", "--home-dir", str(place.home), "--shell", "/bin/sh", name]
    subprocess.run(command, check=True)
    entry = pwd.getpwnam(name)
    place.home.mkdir(mode=0o755)
    os.chown(place.home, entry.pw_uid, entry.pw_gid)
    return entry


@contextlib.contextmanager
def _locked(place: Workplace) -> Iterator[None]:
    with open(place.base / "user.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _end_processes(uid: int) -> None:
    # userdel refuses while the user has processes. The leak check has named them already.
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [int(name) for name in os.listdir("/proc") if name.isdecimal() and _owner(name) == uid]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _owner(pid: str) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return -1


def _open_way(paths: list[str], user: User) -> None:
    """Let the user reach paths that lie below a closed directory, in a mount namespace of the calling process.

    An interpreter under /root is an example: closed to the user, who still has to import from it.
    Each closed directory is covered by an empty one in which only those paths are.
    """
    closed: dict[str, list[str]] = {}
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):
        if above := _closed_ancestor(path, user):
            closed.setdefault(above, []).append(path)
    if not closed:
        return
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    for above, inside in closed.items():
        fds = {path: os.open(path, os.O_PATH) for path in inside}
        kernel.mount("tmpfs", above, "tmpfs", 0, "mode=0755")
        for path, fd in fds.items():
            os.makedirs(path, exist_ok=True)
            kernel.mount(f"/proc/self/fd/{fd}", path, "", kernel.MS_BIND | kernel.MS_REC)
            os.close(fd)


def _closed_ancestor(path: str, user: User) -> str:
    """Return the topmost directory above path that the user cannot pass, or ""."""
    for parent in reversed(Path(path).parents):
        status = parent.stat()
        if status.st_uid == user.uid:
            bit = stat.S_IXUSR
        elif status.st_gid == user.gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return str(parent)
    return ""
