"""The mounts of a process, as /proc/PID/mountinfo lists them. proc_pid_mountinfo(5)."""

from __future__ import annotations

from nstool.frozen import Frozen


class Mount(Frozen):
    """One mount. id, parent: mount ids. root: the directory of the filesystem that is mounted.

    target: where, below the root of the process. options: of the mount (ro, nosuid ...); super_options: of the
    filesystem. propagation: "private", "shared:N", "master:N", "propagate_from:N", "unbindable", joined by ",".
    """

    id: int
    parent: int
    device: str
    root: str
    target: str
    options: tuple[str, ...]
    propagation: str
    type: str
    source: str
    super_options: tuple[str, ...]

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written: the mount is read-only, or its filesystem is."""
        return "ro" in self.options or "ro" in self.super_options


def read_mounts(text: str) -> tuple[Mount, ...]:
    """Read the text of a mountinfo file, in its order: a later mount on the same target covers the earlier."""
    # Not splitlines: of all that it takes for the end of a line the kernel escapes but the newline in a name.
    return tuple(_mount(line) for line in text.split("\n") if line)


def _mount(line: str) -> Mount:
    # The number of optional fields varies; a lone "-" ends them. The last fields may be empty.
    words = line.split(" ")
    dash = words.index("-", 6)
    fstype, source, super_options = words[dash + 1 : dash + 4]
    return Mount(
        id=int(words[0]),
        parent=int(words[1]),
        device=words[2],
        root=unescape(words[3]),
        target=unescape(words[4]),
        options=tuple(words[5].split(",")),
        propagation=",".join(words[6:dash]) or "private",
        type=fstype,
        source=unescape(source),
        super_options=tuple(super_options.split(",")),
    )


def unescape(text: str) -> str:
    """Return the text of a field or an option without the kernel's escapes."""
    # The kernel writes space, tab, newline and backslash as \040, \011, \012 and \134.
    first, *rest = text.split("\\")
    return first + "".join(_character(part[:3]) + part[3:] for part in rest)


def _character(digits: str) -> str:
    return chr(int(digits, 8)) if len(digits) == 3 and set(digits) <= set("01234567") else f"\\{digits}"
