"""How the kernel recognises an executable file: "#!" scripts, ELF programs, what binfmt_misc has been told.

execve(2), elf(5), Documentation/admin-guide/binfmt-misc.rst of Linux. Pure: the caller reads the files.
"""

from __future__ import annotations

import struct

from nstool.frozen import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HEAD = 256  # bytes of a file that the kernel looks at to recognise it; linux/binfmts.h, BINPRM_BUF_SIZE
DEPTH = 5  # scripts that may name one another as interpreters, one more is ELOOP

_BLANK = b" \t"
_ELF = b"\x7fELF"
_EXEC, _DYN, _PT_INTERP = 2, 3, 3
_MACHINES = {(2, 62): "x86-64", (1, 3): "i386"}  # (class, e_machine) that an x86-64 kernel takes


class Format(Frozen):
    """A format registered with binfmt_misc. flags: of P, O, C, F. A file is recognised by magic or by extension."""

    name: str
    interpreter: str
    flags: str = ""
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""
    extension: str = ""

    def recognises(self, path: str, head: bytes) -> bool:
        """Whether a file of this path, beginning with these bytes, is of this format."""
        if not self.magic:
            return path.rpartition(".")[1:] == (".", self.extension)
        part = head[self.offset : self.offset + len(self.magic)]
        mask = self.mask or b"\xff" * len(self.magic)
        return len(part) == len(self.magic) and not any((a ^ b) & m for a, b, m in zip(part, self.magic, mask))


def interpreter(head: bytes) -> bytes | None:
    """Return the interpreter that the "#!" line of a script names; None if the kernel sees no script in it.

    head: the first HEAD bytes of the file. Where the line has no end among them the name must be followed by a blank or
    a zero byte: one that may have been cut is not executed. A zero byte ends a name, which then may be empty.
    """
    head = head[:HEAD].ljust(HEAD, b"\0")
    if not head.startswith(b"#!"):
        return None
    line, newline, _ = head[2:].partition(b"\n")
    if not newline:
        name = line.lstrip(_BLANK)
        if not name or not any(end in name for end in (b" ", b"\t", b"\0")):
            return None
        line = line[:-1]  # the kernel's own zero is written over the last byte
    line = line.strip(_BLANK)
    if not line:
        return None
    end = next((at for at, byte in enumerate(line) if byte in b" \t\0"), len(line))
    return line[:end]


def elf(head: bytes, read: Callable[[int, int], bytes]) -> tuple[str, bytes]:
    """Return why a file is no ELF program that this kernel executes, or "", and the path of its loader, b"" for none.

    read: (offset, size) to the bytes there, fewer at the end of the file.
    """
    if not head.startswith(_ELF):
        return "its format is not known: neither an ELF program nor a script that begins with #!", b""
    if len(head) < 64:
        return "its ELF header is cut short", b""
    width = head[4]
    kind, machine = struct.unpack_from("<HH", head, 16)
    if (width, machine) not in _MACHINES:
        return f"it is for another kind of processor, ELF machine {machine}", b""
    if kind not in (_EXEC, _DYN):
        return "it is no program: an object or core file", b""
    layout = "<QQ" if width == 2 else "<II"
    offset = struct.unpack_from(layout, head, 24)[1]
    size, count = struct.unpack_from("<HH", head, 54 if width == 2 else 42)
    if size != (56 if width == 2 else 32) or not 1 <= count <= 65536 // size:
        return "its table of segments is damaged", b""
    table = read(offset, size * count)
    if len(table) < size * count:
        return "its table of segments is cut short", b""
    for at in range(0, len(table), size):
        if struct.unpack_from("<I", table, at)[0] == _PT_INTERP:
            return _loader(table[at : at + size], width, read)
    return "", b""


def _loader(segment: bytes, width: int, read: Callable[[int, int], bytes]) -> tuple[str, bytes]:
    if width == 2:
        offset, size = struct.unpack_from("<Q", segment, 8)[0], struct.unpack_from("<Q", segment, 32)[0]
    else:
        offset, size = struct.unpack_from("<I", segment, 4)[0], struct.unpack_from("<I", segment, 16)[0]
    if not 2 <= size <= 4096:
        return "the name of its loader is too short or too long", b""
    name = read(offset, size)
    if len(name) < size or name[-1:] != b"\0":
        return "the name of its loader has no end", b""
    return "", name.partition(b"\0")[0]


def parse_format(name: str, text: str) -> Format | None:
    """Read the file of a format below /proc/sys/fs/binfmt_misc; None for one that is disabled.

    Raises ValueError for what is none.
    """
    lines = text.splitlines()
    if lines[:1] != ["enabled"]:
        return None
    rows = dict(line.partition(" ")[::2] for line in lines[1:])
    return Format(
        name=name,
        interpreter=rows.get("interpreter", ""),
        flags=rows.get("flags:", "").strip(),
        offset=int(rows.get("offset", "0")),
        magic=bytes.fromhex(rows.get("magic", "")),
        mask=bytes.fromhex(rows.get("mask", "")),
        extension=rows.get("extension", "").removeprefix("."),
    )
