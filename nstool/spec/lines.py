"""Find the line of each key in the text of a spec that has been parsed already, TOML or JSON, and how numbers stand.

Neither tomllib nor json tell where a key stood, or in which base a number. The text is known to be valid, up to the
first key that stands twice, so the scan needs no errors of its own: it follows tables, keys and values, and notes where
each key path began.
"""

from __future__ import annotations

import bisect
import json
import tomllib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Path

_SPACE = " \t\r\n"


class Lines:
    """The lines, from 1, of the key paths of a text. twice: the first path that has two, its second and first line."""

    def __init__(self, text: str, format: str) -> None:
        scan = _Scan(text.replace("\r\n", "\n"), format)
        self._found = scan.run()
        self.twice = scan.twice
        self._words = scan.words

    def of(self, path: Path) -> int:
        """Return the line of a key path, or of the nearest table around it; 0 if nothing of it is there."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._found:
                return self._found[path[:length]]
        return 0

    def word(self, path: Path) -> str:
        """Return the value of a key path as it is written, if it is neither text, a table nor an array; else ""."""
        return self._words.get(path, "")


class _Twice(Exception):
    """Ends the scan: what follows need not be valid."""


class _Scan:
    def __init__(self, text: str, format: str) -> None:
        self.text = text
        self.format = format
        self.at = 0
        self.starts = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
        self.found: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # elements so far of each [[array of tables]]
        self.written: dict[Path, int] = {}  # the lines of whole keys, not of the tables that they imply
        self.words: dict[Path, str] = {}
        self.twice: tuple[Path, int, int] | None = None

    def run(self) -> dict[Path, int]:
        try:
            if self.format == "json":
                self.value(())
            else:
                self.tables()
        except (RecursionError, _Twice):
            pass  # nested deeper than a spec can be: the lines found until there are enough
        return self.found

    def note(self, path: Path, at: int) -> None:
        self.found.setdefault(path, self.line(at))

    def line(self, at: int) -> int:
        return bisect.bisect_right(self.starts, at)

    def once(self, path: Path, at: int) -> None:
        """Note a key or a header that may be written once."""
        if path in self.written:
            self.twice = path, self.line(at), self.written[path]
            raise _Twice
        self.written[path] = self.line(at)

    def char(self) -> str:
        return self.text[self.at : self.at + 1]

    def skip(self, chars: str) -> None:
        """Skip these characters, and TOML's comments if line ends are among them."""
        while self.at < len(self.text):
            if self.text[self.at] in chars:
                self.at += 1
            elif self.text[self.at] == "#" and "\n" in chars and self.format == "toml":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def tables(self) -> None:
        table: Path = ()
        self.skip(_SPACE)
        while self.at < len(self.text):
            if self.char() == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_SPACE)

    def header(self) -> Path:
        start = self.at
        array = self.text.startswith("[[", start)
        self.at += 2 if array else 1
        keys = self.keys()
        self.at += 2 if array else 1
        path: Path = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            self.note(path, start)
            last = number == len(keys) - 1
            if array and last:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts:  # [a.b] below [[a]] belongs to the last a
                path = (*path, self.counts[path] - 1)
                self.note(path, start)
        if not array:
            self.once(path, start)
        return path

    def pair(self, table: Path) -> None:
        start = self.at
        keys = self.keys()
        path = table
        for key in keys:
            path = (*path, key)
            self.note(path, start)
        self.once(path, start)
        self.at += 1  # the "=" or ":"
        self.skip(_SPACE if self.format == "json" else " \t")
        self.value(path)

    def keys(self) -> list[str]:
        """Read a key, dotted in TOML, up to the character behind it."""
        keys = []
        while True:
            self.skip(_SPACE if self.format == "json" else " \t")
            keys.append(self.key())
            self.skip(_SPACE if self.format == "json" else " \t")
            if self.char() != "." or self.format == "json":
                return keys
            self.at += 1

    def key(self) -> str:
        start = self.at
        if self.char() in ('"', "'"):
            self.string()
            written = self.text[start : self.at]
            return str(json.loads(written) if self.format == "json" else tomllib.loads(f"k = {written}")["k"])
        while self.char() and self.char() not in " \t.=]":
            self.at += 1
        return self.text[start : self.at]

    def string(self) -> None:
        quote = self.char()
        if self.format == "toml" and self.text.startswith(quote * 3, self.at):
            end = self.closing(quote * 3, self.at + 3)
            while self.text.startswith(quote, end + 3) and end + 3 - self.at < len(self.text):
                end += 1  # up to two quotes may stand before the closing three
            self.at = end + 3
        else:
            self.at = self.closing(quote, self.at + 1) + 1

    def closing(self, mark: str, at: int) -> int:
        while not self.text.startswith(mark, at):
            at += 2 if self.text[at] == "\\" and mark[0] == '"' else 1
        return at

    def value(self, path: Path) -> None:
        self.skip(_SPACE if self.format == "json" else " \t")
        char = self.char()
        if char in ('"', "'"):
            self.string()
        elif char == "[":
            self.items(path, "]")
        elif char == "{":
            self.items(path, "}")
        else:
            start = self.at
            while self.char() and self.char() not in ",]}#\n":
                self.at += 1
            self.words[path] = self.text[start : self.at].strip()

    def items(self, path: Path, end: str) -> None:
        """Scan an array or a table, from its bracket to the character behind the closing one."""
        self.at += 1
        index = 0
        self.skip(_SPACE + ",")
        while self.char() not in (end, ""):
            if end == "}":
                self.pair(path)
            else:
                self.note((*path, index), self.at)
                self.value((*path, index))
                index += 1
            self.skip(_SPACE + ",")
        self.at += 1
