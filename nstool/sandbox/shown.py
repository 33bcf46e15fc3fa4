"""What the default root shows of this host: read the facts that nstool.namespaces.system_root plans with."""

from __future__ import annotations

import os
import stat

from nstool.plan.host import SHOWN, Shown
from nstool.sandbox.mountinfo import unescape
from nstool.spec.model import Spec

LARGEST = 128 << 10  # bytes of a file that is copied

Found = tuple[tuple[Shown, ...], tuple[str, ...], Shown | None]


def read(spec: Spec, privileged: bool) -> Found:
    """Return the parts, the layers that they lie in, and the part that is the command's file.

    Who is privileged shows each mount through one overlay. In a user namespace of its own the kernel refuses an overlay
    over what mounts of the host's lie on: there each part has one for itself, and where a mount lies in it, none: it is
    bound, and its mount tells of the host.
    """
    reader = _Reader(privileged)
    parts = [part for path in _existing() for part in reader.parts(path)]
    command = _command(spec, parts)
    file = None
    if command:
        real = os.path.realpath(command)
        # Through an overlay the ids of the sandbox go the whole way to it.
        file = (
            reader.file(command, real).replace(content=None)
            if _open_to_all(real)
            else Shown(command, "file", source=real)
        )
    return tuple(parts), tuple(reader.layers), file


def is_shown(path: str, parts: tuple[Shown, ...] | list[Shown]) -> bool:
    """Whether a path is one of these parts or lies in one."""
    return any(path == part.path or path.startswith(part.path + "/") for part in parts)


def _existing() -> list[str]:
    found = []
    for path in SHOWN:
        if path.endswith("*"):
            directory, _, start = path[:-1].rpartition("/")
            found += [f"{directory}/{name}" for name in sorted(os.listdir(directory)) if name.startswith(start)]
        elif os.path.lexists(path):
            found.append(path)
    return found


class _Reader:
    def __init__(self, privileged: bool) -> None:
        self.privileged = privileged
        self.points = _mount_points()
        self.layers: list[str] = []

    def parts(self, path: str) -> list[Shown]:
        """Return what shows a path of the host: it, and what is mounted in it."""
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return [Shown(path, "link", os.readlink(path))]
        if not stat.S_ISDIR(mode):
            return [self.file(path, path)]
        below = [point for point in self.points if point.startswith(path + "/")]
        if not self.privileged:
            return [Shown(path, "dir", layer=-1 if below else self.layer(path), source=path if below else "")]
        point = self.point(path)
        itself = Shown(path, "dir", layer=self.layer(point), source=path[len(point) :].lstrip("/"))
        return [itself, *map(self.mounted, below)]

    def mounted(self, point: str) -> Shown:
        if os.path.isdir(point):
            return Shown(point, "dir", layer=self.layer(point), below=True)
        return Shown(point, "file", source=point, below=True)

    def file(self, path: str, real: str) -> Shown:
        """Return the part that shows the file real on path."""
        directory = self.point(real) if self.privileged else os.path.dirname(real)
        locked = not self.privileged and any(point.startswith(directory.rstrip("/") + "/") for point in self.points)
        if directory == real or locked:  # mounted itself, or in one directory with mounts: no overlay has it
            return Shown(path, "file", source=real, content=_content(real) if locked else None)
        return Shown(path, "file", layer=self.layer(directory), source=real[len(directory) :].lstrip("/"))

    def point(self, path: str) -> str:
        """Return where the mount is that a path lies on."""
        above = (point for point in self.points if path == point or path.startswith(point.rstrip("/") + "/"))
        return max(above, key=len, default="/")

    def layer(self, directory: str) -> int:
        if directory not in self.layers:
            self.layers.append(directory)
        return self.layers.index(directory)


def _content(path: str) -> bytes | None:
    """Return what is in a small file, None if it is large or may not be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
    except PermissionError:
        return None
    return data if len(data) <= LARGEST else None


def _open_to_all(path: str) -> bool:
    """Whether everybody may go to a file and read it, by the modes alone."""
    above = [path[:at] or "/" for at, character in enumerate(path) if character == "/"]
    return all(os.stat(directory).st_mode & stat.S_IXOTH for directory in above) and bool(
        os.stat(path).st_mode & stat.S_IROTH
    )


def _command(spec: Spec, parts: list[Shown]) -> str:
    """Return the command's path if that names a file which the root would not have otherwise."""
    path = spec.command[0] if spec.command else ""
    if not path.startswith("/"):
        return ""
    path = os.path.normpath(path)
    own = ("/proc", "/dev", *(mount.target.rstrip("/") for mount in spec.mounts))
    if is_shown(path, parts) or any(path == other or path.startswith(other + "/") for other in own):
        return ""
    executable = os.path.isfile(path) and os.stat(path).st_mode & 0o111
    return path if executable else ""


def _mount_points() -> list[str]:
    """Return where something is mounted, each once; what waits for a visitor to mount is left alone: autofs."""
    with open("/proc/thread-self/mountinfo", "rb") as file:
        rows = [line.split(b" ") for line in file.read().split(b"\n") if line]
    found = {os.fsdecode(row[4]): row for row in rows if row[row.index(b"-", 6) + 1] != b"autofs"}
    return sorted(unescape(path) for path in found)
