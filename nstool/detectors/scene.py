"""What a detector sees: the step, its errno, the plan around it, and the files of this host."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.kinds import INITIAL_USERNS
from nstool.plan.calls import CALLS
from nstool.plan.steps import LAUNCHER, Fd, Plan, Step
from nstool.sandbox.mountinfo import Mount, read_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from nstool.detectors.view import View

    T = TypeVar("T")
    Answer = bool | dict[str, object] | None


class Scene:
    """A step that failed, or that a preflight asks about (errno 0 then).

    detail: as the engine reports it: the call inside the step, or a helper's wait status. root: put
    before every path of /proc, /sys, /etc and /run that is read, so that a directory can stand for a host.
    """

    def __init__(self, step: Step, errno: int = 0, detail: int = 0, plan: Plan | None = None, root: str = "") -> None:
        self.step = step
        self.errno = errno
        self.detail = detail
        self.plan = plan or Plan((step,))
        self.root = root
        self.before = _before(step, self.plan)
        self._texts: dict[str, str | None] = {}
        self._mounts: tuple[Mount, ...] | None = None
        self._view: View | None = None
        self._found: dict[object, Any] = {}

    def at(self, step: Step) -> Scene:
        """Return the scene of another step of the same plan, keeping what was read."""
        scene = Scene(step, 0, 0, self.plan, self.root)
        scene._texts = self._texts
        scene._mounts = self._mounts
        scene._view = self._view
        return scene

    def once(self, look: Callable[[Scene], T]) -> T:
        """Return what look finds, which is asked once for all detectors of this step."""
        if look not in self._found:
            self._found[look] = look(self)
        found: T = self._found[look]
        return found

    # ---- the step ----

    def arg(self, name: str) -> object:
        """Return an argument of the step by its name in plan.calls; None if the call has none of it."""
        call = CALLS.get(self.step.call)
        names = [param for param, _ in call.params] if call else []
        return self.step.args[names.index(name)] if name in names else None

    def text(self, name: str) -> str:
        """Return an argument that is a string or bytes, as text; empty for anything else."""
        value = self.arg(name)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return value if isinstance(value, str) else ""

    def integer(self, name: str) -> int:
        """Return an argument that is an integer; 0 for anything else."""
        value = self.arg(name)
        return value if isinstance(value, int) else 0

    @property
    def path(self) -> str:
        """The path of the step: its argument, or where the fd that it works on was opened."""
        for name in ("path", "target", "to_path"):
            text = self.text(name)
            if text:
                directory = self.arg("dirfd") if name == "path" else None
                return f"{self.opened_path(directory)}/{text}" if isinstance(directory, Fd) else text
        for name in ("dirfd", "to_dirfd", "fd"):
            value = self.arg(name)
            if isinstance(value, Fd):
                return self.opened_path(value)
        return ""

    def opened_by(self, fd: object) -> Step | None:
        """Return the last step before this one that gave the fd its name."""
        if not isinstance(fd, Fd):
            return None
        return next((step for step in reversed(self.before) if step.result == fd.name), None)

    def opened_path(self, fd: object) -> str:
        """Return the path that an fd was opened with, empty for a new filesystem."""
        step = self.opened_by(fd)
        if step is None or step.call not in ("openat2", "open_tree"):
            return ""
        directory, path = step.args[0], str(step.args[1])
        return f"{self.opened_path(directory)}/{path}" if isinstance(directory, Fd) else path

    @property
    def fstype(self) -> str:
        """The filesystem that fsopen, fsconfig, fsmount or mount of this step makes; else empty."""
        if self.step.call == "mount":
            return self.text("fstype")
        if self.step.call == "fsopen":
            return self.text("fsname")
        step = self.opened_by(self.arg("fd")) if self.step.call in ("fsconfig", "fsmount") else None
        return str(step.args[0]) if step is not None and step.call == "fsopen" else ""

    @property
    def options(self) -> dict[str, str]:
        """The options that fsconfig has set, this step's included, on the filesystem in the making."""
        opened = self.opened_by(self.arg("fd"))
        if opened is None:
            return {}
        start = max(n for n, step in enumerate(self.before) if step is opened)
        steps = [s for s in (*self.before[start:], self.step) if s.call == "fsconfig" and s.args[2]]
        return {str(step.args[2]): str(step.args[3] or "") for step in steps}

    # ---- the plan ----

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the plan."""
        return self.plan.steps

    @property
    def clone_flags(self) -> int:
        """The CLONE_NEW* flags of the new process, those of clone3 and of unshare inside."""
        made = [s for s in self.steps if s.call in ("clone3", "unshare")]
        return _union(s.args[0] for s in made)

    def maps(self, kind: str) -> tuple[tuple[int, int, int], ...] | None:
        """Return the lines of uid_map or gid_map that the plan writes, or of the process whose user namespace it joins.

        None if it writes none, or they are not to be read.
        """
        for step in self.steps:
            if step.call == "write_proc" and step.args[0] == kind:
                return parse_map(_as_text(step.args[1]))
            if step.call == "spawn" and isinstance(step.args[0], tuple):
                argv = step.args[0]
                if argv and argv[0].endswith(f"new{kind.removesuffix('_map')}map"):
                    return argv_map(argv)
        text = self.of_joined_userns(kind)
        return None if text is None else parse_map(text)

    def outside(self, kind: str, inside: int) -> int | None:
        """Return the id on the host of an id inside, the same without a user namespace; None if unmapped or unknown."""
        lines = self.maps(kind)
        if lines is None:
            return None if self.joined_userns else inside
        return next((o + inside - i for i, o, n in lines if i <= inside < i + n), None)

    @property
    def new_userns(self) -> bool:
        """Whether the sandbox has a user namespace of its own."""
        return bool(self.clone_flags & uapi.CLONE_NEWUSER)

    @property
    def joined_userns(self) -> str:
        """The file of the user namespace that an earlier step inside joins, "?" for a pidfd; empty if none does."""
        joins = (s for s in self.before if s.call == "setns" and s.who != LAUNCHER)
        step = next((s for s in joins if isinstance(s.args[1], int) and s.args[1] & uapi.CLONE_NEWUSER), None)
        return self.opened_path(step.args[0]) or "?" if step else ""

    def of_joined_userns(self, name: str) -> str | None:
        """Return a file of /proc/PID of a process in the joined user namespace; None where no process is known."""
        words = self.joined_userns.split("/")
        return self.read(f"/proc/{words[2]}/{name}") if words[:2] == ["", "proc"] else None

    @property
    def in_userns(self) -> bool:
        """Whether the step is made in another user namespace than the caller's: a new one, or one that was joined."""
        return not self.by_launcher and (self.new_userns or bool(self.joined_userns))

    @property
    def by_caller(self) -> bool:
        """Whether the step is made with the caller's own privileges: outside, or in the caller's user namespace."""
        return self.by_launcher or not self.in_userns

    @property
    def by_launcher(self) -> bool:
        """Whether the step is made outside, by the caller."""
        return self.step.who == LAUNCHER

    @property
    def view(self) -> View:
        """What the sandbox sees as its files."""
        if self._view is None:
            from nstool.detectors.view import View

            self._view = View(self.steps)
        return self._view

    def made_before(self, path: str) -> bool:
        """Whether an earlier step makes the directory, or one above the path."""
        made = [str(step.args[1]) for step in self.before if step.call == "mkdirat"]
        made += [directory for step in self.before if (directory := unpacked(step))]
        return any(is_below(path, directory) for directory in made)

    # ---- the host ----

    def read(self, path: str) -> str | None:
        """Return the text of a small file; None if it is not there or may not be read."""
        if path not in self._texts:
            try:
                with open(self.root + path, "rb") as file:
                    self._texts[path] = file.read().decode("utf-8", "replace")
            except OSError:  # absent, or not ours to read: the caller cannot tell then
                self._texts[path] = None
        return self._texts[path]

    def number(self, path: str) -> int | None:
        """Return a file that is one decimal number; None if it is not."""
        text = (self.read(path) or "").strip()
        return int(text) if text.lstrip("-").isdecimal() else None

    def link(self, path: str) -> str:
        """Return what a symbolic link says, empty if there is none."""
        try:
            return os.readlink(self.root + path)
        except OSError:  # not there, no link, or not ours to see
            return ""

    def exists(self, path: str) -> bool:
        """Whether a path is there."""
        return os.path.lexists(self.root + path)

    def status(self, name: str) -> str:
        """Return a line of the caller's /proc/thread-self/status, empty if it has none. proc_pid_status(5)."""
        for line in (self.read("/proc/thread-self/status") or "").splitlines():
            if line.startswith(name + ":"):
                return line.partition(":")[2].strip()
        return ""

    def soft_limit(self, name: str) -> int | None:
        """Return a soft limit of the caller, named as in proc_pid_limits(5): "Max processes"; None for no limit."""
        line = next((li for li in (self.read("/proc/self/limits") or "").splitlines() if li.startswith(name + " ")), "")
        words = line.removeprefix(name).split()
        return int(words[0]) if words and words[0].isdecimal() else None

    def may(self, capability: str) -> bool | None:
        """Whether the caller has a capability in its own user namespace, as "sys_admin"."""
        mask = self.status("CapEff")
        return bool(int(mask, 16) >> uapi.CAPABILITIES[capability] & 1) if mask else None

    def ids(self, name: str) -> tuple[int, ...]:
        """Return the caller's Uid or Gid line: real, effective, saved, file system."""
        return tuple(int(word) for word in self.status(name).split())

    @property
    def initial_userns(self) -> bool | None:
        """Whether the caller lives in the first user namespace."""
        link = self.link("/proc/self/ns/user")
        return link == INITIAL_USERNS if link else None

    @property
    def release(self) -> tuple[int, int]:
        """The kernel's release, as (6, 1); (0, 0) if it is not to be read."""
        words = (self.read("/proc/sys/kernel/osrelease") or "0.0").split(".")
        digits = "".join(c if c.isdecimal() else " " for c in words[1] if len(words) > 1).split()
        return (int(words[0]), int(digits[0])) if words[0].isdecimal() and digits else (0, 0)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts of the caller's namespace, in the order of mountinfo."""
        if self._mounts is None:
            self._mounts = read_mounts(self.read("/proc/self/mountinfo") or "")
        return self._mounts

    def mount_of(self, path: str) -> Mount | None:
        """Return the mount that a path of the host lies on, the topmost where several are stacked."""
        real = os.path.realpath(path) if not self.root else path
        found = None
        for mount in self.mounts:
            if is_below(real, mount.target) and (found is None or len(mount.target) >= len(found.target)):
                found = mount
        return found

    def mounts_below(self, path: str) -> tuple[Mount, ...]:
        """Return the mounts strictly below a path of the host."""
        real = os.path.realpath(path) if not self.root else path
        return tuple(m for m in self.mounts if is_below(m.target, real) and m.target != real)


def unpacked(step: Step) -> str:
    """Return the directory that a step unpacks a tarball into; empty for another step."""
    if step.call != "external" or step.args[0] != "tarball_unpack" or not isinstance(step.args[1], dict):
        return ""
    return str(step.args[1]["directory"])


def is_below(path: str, directory: str) -> bool:
    """Whether path is the directory or lies below it; both absolute."""
    return directory == "/" or path == directory or path.startswith(directory + "/")


def parse_map(text: str) -> tuple[tuple[int, int, int], ...]:
    """Return the lines of an id map as (inside, outside, count); what is no such line is left out."""
    rows = [line.split() for line in text.splitlines()]
    return tuple((int(r[0]), int(r[1]), int(r[2])) for r in rows if len(r) == 3 and all(w.isdecimal() for w in r))


def argv_map(argv: tuple[str, ...]) -> tuple[tuple[int, int, int], ...]:
    """Return the id map in the arguments of newuidmap(1): program, pid, then threes."""
    words = [int(word) for word in argv[2:] if word.isdecimal()]
    return tuple(zip(words[::3], words[1::3], words[2::3]))


def _as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _union(masks: Iterable[object]) -> int:
    total = 0
    for mask in masks:
        total |= mask if isinstance(mask, int) else 0
    return total


def _before(step: Step, plan: Plan) -> tuple[Step, ...]:
    # The step itself by identity: a plan may have several that are equal.
    for number, other in enumerate(plan.steps):
        if other is step:
            return plan.steps[:number]
    return ()
