"""What the sandbox sees as its files, worked out from the plan: which path inside is which path of the host."""

from __future__ import annotations

import errno
import os
import stat

from nstool import uapi
from nstool.detectors.scene import is_below, unpacked
from nstool.frozen import Frozen
from nstool.plan.steps import CHILD, INIT, LAUNCHER, Fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Step

MAX_LINKS = 40  # MAXSYMLINKS of the kernel
_WHO_LOOKS = ("/proc/self", "/proc/thread-self")  # they are whoever looks: here us, inside the command


class Made(Frozen):
    """What the plan makes. kind: "dir", "file", "other", "link". target: of a link. mode: permission bits of a file."""

    kind: str
    target: str = ""
    mode: int | None = None


class Tree:
    """Something mounted. hosts: the directories of the host that it shows, the top layer first.

    fstype: of a filesystem made for the sandbox, else empty. made: path below it to what the plan makes there.
    attributes: MOUNT_ATTR_*.
    """

    def __init__(self, hosts: tuple[str, ...] = (), fstype: str = "", attributes: int = 0) -> None:
        self.hosts = hosts
        self.fstype = fstype
        self.attributes = attributes
        self.made: dict[str, Made] = {}

    def part(self, path: str) -> Tree:
        """Return the tree of a path below this one, as a bind mount of it shows."""
        part = Tree(tuple(_join(host, path) for host in self.hosts), self.fstype, self.attributes)
        prefix = path.strip("/")
        if prefix and not self.hosts and self.fstype not in ("", "tmpfs", "overlay"):
            part.fstype = "unknown"  # a file or a directory that the kernel makes
        for name, made in self.made.items():
            if name == prefix or name.startswith(prefix + "/"):
                part.made[name[len(prefix) :].strip("/")] = made
        return part


class Place(Frozen):
    """Where a path inside leads. path: inside, without symlinks. kind: "dir", "file", "other", "absent",
    "link" (one that was not followed), "loop", "unknown" (a kernel's filesystem, as /proc).

    host: the path on the host; empty for what the plan makes. mode: permission bits of a file that the plan makes,
    None of all else. attributes: MOUNT_ATTR_* of its mount.
    links: the symlinks that were met on the way, with where each leads, as (path, target).
    missing: the first component that is absent, or that is no directory where one is needed.
    """

    path: str
    kind: str
    host: str = ""
    attributes: int = 0
    links: tuple[tuple[str, str], ...] = ()
    missing: str = ""
    mode: int | None = None

    @property
    def there(self) -> bool:
        """Whether something is certainly at the path."""
        return self.kind in ("dir", "file", "other", "link")


class View:
    """The mounts of a plan, applied in order. steps: of the plan, up to the moment that is asked about."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self.attached: list[tuple[str, Tree]] = []
        self.trees: dict[str, Tree] = {}
        self.places: dict[str, str] = {}  # fd name → path inside that it was opened at
        self._contexts: dict[str, tuple[str, dict[str, str]]] = {}
        self._unmade: tuple[str, ...] = ()  # directories that a tarball will be unpacked into
        self._held: dict[str, Tree] = {}  # what hangs below the old root: the layers of an overlay
        self.own_root = False
        for step in steps:
            if step.who in (LAUNCHER, CHILD, INIT):
                handler = getattr(self, f"_{step.call}", None)
                if handler is not None:
                    handler(step)
        if not self.own_root:  # no root of its own: the host's
            self.attached.insert(0, ("/", Tree(("/",))))

    def locate(self, path: str, follow: bool = True) -> Place:
        """Return where an absolute path inside leads, symlinks followed inside the sandbox's root."""
        todo = [part for part in path.split("/") if part and part != "."]
        links: list[tuple[str, str]] = []
        here = "/"
        while todo:
            name = todo.pop(0)
            if name == "..":
                here = os.path.dirname(here)
                continue
            here = f"{here.rstrip('/')}/{name}"
            kind, host, target, attributes = self._look(here)
            if kind == "link" and (todo or follow):
                links.append((here, target))
                if len(links) > MAX_LINKS:
                    return Place(path, "loop", links=tuple(links))
                todo = [p for p in target.split("/") if p and p != "."] + todo
                here = "/" if target.startswith("/") else os.path.dirname(here)
                continue
            if kind == "unknown":
                rest = "/".join([here.rstrip("/"), *todo])
                return Place(rest, "unknown", attributes=attributes, links=tuple(links))
            if kind == "absent" or (todo and kind != "dir"):
                return Place(path, "absent", host, attributes, tuple(links), here)
            if not todo:
                return Place(here, kind, host, attributes, tuple(links), mode=self._made_mode(here))
        kind, host, _, attributes = self._look(here)
        return Place(here, kind, host, attributes, tuple(links))

    def covering(self, path: str) -> str:
        """Return what is mounted over the directory of the host's own root that has this path; empty if nothing is."""
        where, tree = next((w, t) for w, t in reversed(self.attached) if is_below(path, w))
        return where if where != "/" and not tree.hosts and self.attached[0][1].hosts == ("/",) else ""

    def _shown(self, path: str) -> tuple[Tree, str] | None:
        """Return the topmost tree that has the path, and the path below it."""
        for where, tree in reversed(self.attached):
            if is_below(path, where):
                return tree, path[len(where) :].strip("/")
        return None

    def _made_mode(self, path: str) -> int | None:
        shown = self._shown(path)
        made = shown[0].made.get(shown[1]) if shown else None
        return made.mode if made else None

    def _look(self, path: str) -> tuple[str, str, str, int]:
        """Return (kind, host path, link target, attributes) of a path whose parent has no symlink."""
        if shown := self._shown(path):
            tree, rest = shown
            if made := tree.made.get(rest):
                return made.kind, "", made.target, tree.attributes
            for host in tree.hosts:
                kind, target = self._host_kind(_join(host, rest))
                if kind != "absent":
                    return kind, _join(host, rest), target, tree.attributes
            if not tree.hosts and not rest:
                return "dir", "", "", tree.attributes
            if tree.fstype in ("", "tmpfs", "overlay"):  # what the plan made in these is all that there is
                return "absent", _join(tree.hosts[0], rest) if tree.hosts else "", "", tree.attributes
            return "unknown", "", "", tree.attributes
        return "absent", "", "", 0

    def _host_kind(self, path: str) -> tuple[str, str]:
        if any(is_below(path, directory) for directory in (*self._unmade, *_WHO_LOOKS)):
            return "unknown", ""
        return host_kind(path)

    # ---- one method for each call that changes what is seen ----

    def _external(self, step: Step) -> None:
        directory = unpacked(step)
        if directory and not os.path.isdir(directory):
            self._unmade = (*self._unmade, directory)

    def _setns(self, step: Step) -> None:
        if isinstance(step.args[1], int) and step.args[1] & uapi.CLONE_NEWNS:
            self.attached.append(("/proc", Tree(fstype="proc")))  # not the host's: its pids are other processes

    def _open_tree(self, step: Step) -> None:
        directory, path = step.args[0], str(step.args[1])
        if isinstance(directory, Fd) and directory.name in self.trees:
            tree = self.trees[directory.name].part(path)
        elif isinstance(directory, Fd):
            opened = self.places.get(directory.name, "")
            tree = Tree((_join(opened, path),)) if opened and not self.own_root else Tree()
        elif self.own_root:  # after the pivot the path is one of the sandbox
            place = self.locate(path)
            tree = Tree((place.host,) if place.host else (), "" if place.host else "unknown", place.attributes)
        else:
            tree = Tree((path,))
        self.trees[step.result] = tree

    def _fsopen(self, step: Step) -> None:
        self._contexts[step.result] = (str(step.args[0]), {})

    def _fsconfig(self, step: Step) -> None:
        fd, _, key, value, _ = step.args
        if isinstance(fd, Fd) and fd.name in self._contexts and key:
            self._contexts[fd.name][1][str(key)] = str(value or "")

    def _fsmount(self, step: Step) -> None:
        fd, _, attributes = step.args
        fstype, options = self._contexts.get(fd.name, ("", {})) if isinstance(fd, Fd) else ("", {})
        tree = Tree((), fstype, attributes if isinstance(attributes, int) else 0)
        if fstype == "overlay":
            layers = [os.path.dirname(options.get("upperdir", "")), *options.get("lowerdir", "").split(":")]
            held = [self._held.get(os.path.basename(layer)) for layer in layers]
            tops = [_join(h, "upper") for h in (held[0].hosts if held[0] else ())]
            tree.hosts = (*tops, *(h for layer in held[1:] if layer for h in layer.hosts))
        self.trees[step.result] = tree

    def _mount_setattr(self, step: Step) -> None:
        fd, _, _, set_, clear, *_ = step.args
        if isinstance(fd, Fd) and fd.name in self.trees and isinstance(set_, int) and isinstance(clear, int):
            tree = self.trees[fd.name]
            tree.attributes = tree.attributes & ~clear | set_

    def _openat2(self, step: Step) -> None:
        directory, path = step.args[0], str(step.args[1])
        base = self.places.get(directory.name, "") if isinstance(directory, Fd) else ""
        self.places[step.result] = path if path.startswith("/") else f"{base}/{path}"

    def _move_mount(self, step: Step) -> None:
        source, _, to, to_path, _ = step.args
        if not isinstance(source, Fd):
            return
        tree = self.trees.get(source.name, Tree())
        if not isinstance(to, Fd):
            if to_path == "/":
                self.attached, self.own_root = [("/", tree)], True
                self.places[source.name] = "/"
            else:
                self._held[os.path.basename(str(to_path))] = tree
            return
        if self.own_root and to.name not in self.places:  # of what is kept in the old root
            return
        where = _join(self.places.get(to.name, ""), str(to_path))
        self.places[source.name] = where
        self.attached.append((where, tree))

    def _mkdirat(self, step: Step) -> None:
        self._make(step.args[0], str(step.args[1]), Made("dir"))

    def _write_file(self, step: Step) -> None:
        if isinstance(step.args[3], int) and step.args[3] & uapi.O_CREAT:
            mode = step.args[4]
            self._make(step.args[0], str(step.args[1]), Made("file", mode=mode if isinstance(mode, int) else None))

    def _mknodat(self, step: Step) -> None:
        self._make(step.args[0], str(step.args[1]), Made("other"))

    def _symlinkat(self, step: Step) -> None:
        self._make(step.args[1], str(step.args[2]), Made("link", str(step.args[0])))

    def _make(self, directory: object, path: str, made: Made) -> None:
        if isinstance(directory, Fd):
            if directory.name in self.trees:
                self.trees[directory.name].made[path.strip("/")] = made
            elif directory.name in self.places:
                self._make(None, f"{self.places[directory.name]}/{path}", made)
        elif self.own_root:
            shown = self._shown(path)
            if shown and self._look(path)[0] not in ("dir", "file", "other", "link"):  # what is there stays
                shown[0].made[shown[1]] = made


def host_kind(path: str) -> tuple[str, str]:
    """Return (kind, link target) of a path of the host, not followed; kind as in Place."""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            return "link", os.readlink(path)
    except PermissionError:  # it lies in a directory that the caller may not search
        return "unknown", ""
    except (FileNotFoundError, NotADirectoryError):
        return "absent", ""
    except OSError as error:
        if error.errno != errno.EINVAL:  # no link any more: somebody changes it just now
            raise
        return "unknown", ""
    return ("dir" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"), ""


def _join(directory: str, path: str) -> str:
    return f"{directory.rstrip('/')}/{path}".rstrip("/") or "/"
