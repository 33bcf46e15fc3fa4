"""What an fd of a plan stands for in a shell script."""

from __future__ import annotations


class Place:
    """What an fd is in the script.

    path: where it is; old: in the old root. staged: name below $work when it is a mount of ours that
    waits to be attached. source, recursive: what is to be bound, for a tree that is bound only where
    it goes. fstype, options: of a filesystem still to be made. flags: mount flags that are known;
    None when they are those of a tree of the host. who: made it. digit: fd number in the script.
    """

    def __init__(self, who: str, path: str = "", old: bool = False) -> None:
        self.who = who
        self.path = path
        self.old = old
        self.staged = ""
        self.source: Place | None = None
        self.recursive = False
        self.fstype = ""
        self.options: list[str] = []
        self.flags: list[str] | None = None
        self.later: list[str] = []  # flags to set once it is bound
        self.propagation = 0
        self.digit = 0

    def below(self, path: str) -> Place:
        """Return the place of a path in this directory."""
        found = Place(self.who, f"{self.path.rstrip('/')}/{path}" if path else self.path, self.old)
        found.staged = self.staged and (f"{self.staged}/{path}" if path else self.staged)
        return found
