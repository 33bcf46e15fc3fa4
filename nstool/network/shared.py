"""What the sandboxes of one host network namespace share, kept in a file under a lock.

``/run/nstool/network-INODE/state.json``, INODE that of the host's network namespace: which
sandbox's rules are in the table, who needs forwarding and what the sysctls were before, which
bridges are ours. It does not follow ``NSTOOL_RUN_DIR``: the kernel has one ``ip_forward`` a
namespace, and two counts of its users would turn it off under each other.

Everything is recorded before it is done, so that a killed process leaves no unknown change. A file
that somebody removed is made anew from what the kernel has (network/recover.py). The lock is a file beside
it: flock(2) of the namespace's own file in /proc could not be removed, but anybody could hold it.
"""

from __future__ import annotations

import os
from contextlib import suppress

from nstool.sandbox.rundir import remove_empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

RUN = "/run/nstool"


class Shared:
    """The shared state, locked while entered. ``state`` is plain JSON values; ``save`` writes it.

    recovered: the file was not there, and the kernel had something of ours all the same.
    When ``state`` is empty at the end, the directory is removed.
    """

    def __init__(self) -> None:
        inode = os.stat("/proc/thread-self/ns/net").st_ino
        self.directory = f"{RUN}/network-{inode}"
        self.state: dict[str, Any] = {}
        self.recovered = False
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = self._lock()
        try:
            self._load()
        except BaseException:
            self._unlock()
            raise
        return self

    def _lock(self) -> int:
        """Return the fd of the locked lock file. The last user removes it, so it may change under us."""
        import fcntl

        while True:
            os.makedirs(RUN, mode=0o755, exist_ok=True)
            try:
                _make(self.directory)
                fd = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:  # its last user has just removed the directory
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink > 0:
                return fd
            os.close(fd)

    def _load(self) -> None:
        import json

        try:
            with open(self._path("state.json"), encoding="utf-8") as file:
                self.state = json.load(file)
        except (FileNotFoundError, ValueError):  # nothing shared yet; or removed, or damaged, by somebody
            from nstool.network import recover

            self.state = recover.state()
            self.recovered = bool(self.state)
            if self.recovered:
                self.save()

    def __exit__(self, *_: object) -> None:
        try:
            if not self.state:
                self._remove()
        finally:
            self._unlock()

    def _unlock(self) -> None:
        import fcntl

        # A fork of this process made meanwhile has the fd too: closing alone would not unlock.
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)
        self._fd = -1

    def save(self) -> None:
        """Write the state, replacing the old one in one step."""
        import json

        for key in [key for key, value in self.state.items() if not value]:
            del self.state[key]
        _make(self.directory)  # somebody may have removed it meanwhile
        with open(self._path("state.json.new"), "w", encoding="utf-8") as file:
            file.write(json.dumps(self.state))  # json.dump to the file is ten times slower
        os.replace(self._path("state.json.new"), self._path("state.json"))

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def _remove(self) -> None:
        for name in ("state.json", "state.json.new", "lock"):
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:  # never written, or its writer was killed before or after
                continue
        if remove_empty(self.directory):  # else something lies there that is not ours
            remove_empty(RUN)


def _make(directory: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
