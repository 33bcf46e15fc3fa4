"""The layers of an overlay, as its mount options name them. Pure. Kernel documentation, filesystems/overlayfs."""

from __future__ import annotations

from nstool.sandbox.mountinfo import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.sandbox.mountinfo import Mount


def layers_of(mount: Mount) -> Iterator[tuple[str, str]]:
    """Yield ("upper" or "lower", directory) of an overlay, topmost first, as its options name them.

    A colon in a directory's name is written "\\:", but where layers were given one by one (lowerdir+, Linux 6.8): there
    every character is of the name. Layers of file data only (after "::") are lower ones too.
    """
    options = [option.partition("=")[::2] for option in mount.super_options]
    for name, value in options:
        if name == "upperdir":
            yield "upper", _plain(unescape(value))
    for name, value in options:
        if name == "lowerdir":
            for part in _colons(unescape(value)):
                yield "lower", _plain(part)
        elif name in ("lowerdir+", "datadir+"):
            yield "lower", unescape(value)


def _colons(text: str) -> list[str]:
    parts = [""]
    escaped = False
    for char in text:
        if char == ":" and not escaped:
            parts.append("")
        else:
            parts[-1] += char
        escaped = char == "\\" and not escaped
    return [part for part in parts if part]


def _plain(text: str) -> str:
    # "\:" and "\," and "\\" as the character behind.
    found, escaped = "", False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
            continue
        found += char
        escaped = False
    return found
