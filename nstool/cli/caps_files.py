"""``nstool caps get``, ``set``, ``clear`` and ``scan``: the capabilities of files."""

from __future__ import annotations

import os
import stat
import sys
from errno import ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, Any

import click

from nstool.cli import answer
from nstool.cli.caps_words import of_set, placed
from nstool.errors import NstoolError, SpecError, plural, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

    from nstool.inspect.scan import Privileged, Scan, Unread
    from nstool.security.filecaps import FileCaps

FILES = click.argument("files", nargs=-1, required=True, metavar="FILE...")
JSON = click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
FOLLOW = click.option("--follow", is_flag=True, help="Follow symbolic links.")
ANYWAY = click.option(
    "--anyway",
    is_flag=True,
    help="Also a file that is somebody else's, or that others could have exchanged for another one of yours.",
)


@click.command(
    "get",
    epilog="""\b
Examples:
  nstool caps get /usr/bin/ping          its capabilities, "none" if it has none
  nstool caps get --json /usr/bin/*      of many files, for a program to read
""",
)
@FILES
@JSON
def get(files: tuple[str, ...], json_wanted: bool) -> int:
    """Show the capabilities of files, as setcap(8) would set them, with the root id where they have one.

    A root id, as your user namespace has it, limits them to the user namespaces of which that user is root. Of a
    symbolic link those of the file that it leads to are shown, with the path of that.
    """
    return _each(files, _read, json_wanted)


@click.command(
    "set",
    epilog="""\b
Examples:
  nstool caps set cap_net_raw=ep ./ping                 whoever executes it may open raw sockets
  nstool caps set cap_net_raw=p ./ping                  the same, but the program must raise it itself
  nstool caps set --rootid 100000 cap_net_raw=ep ./ping only in user namespaces whose root is uid 100000
  nstool caps set = ./su                                none: set-user-ID-root changes its ids and gives no capability
""",
)
@click.argument("text")
@FILES
@click.option("--rootid", type=int, metavar="UID", help="Root of the user namespaces in which they are to count.")
@FOLLOW
@ANYWAY
@JSON
def set_(text: str, files: tuple[str, ...], rootid: int | None, follow: bool, anyway: bool, json_wanted: bool) -> int:
    """Set the capabilities TEXT of files, instead of those that they have. CAP_SETFCAP is needed, as root has it.

    TEXT is as for setcap(8). A file has one effective bit: e goes with all its capabilities or with none. Only regular
    files have capabilities; symbolic links are not followed, nor is one on the way. What the kernel then has is
    printed, with the path that the file has.

    The file and the directories on the way have to be yours or root's, and nobody else's to write: who may rename a
    directory could have you set the capabilities of another file. A note says if the file has several names.
    """
    from nstool.security import capabilities, filecaps

    caps = placed("TEXT", filecaps.from_text, text, rootid, capabilities.last_cap())

    return _each(files, _changing(lambda fd: filecaps.write(fd, caps), follow, anyway), json_wanted)


@click.command(
    "clear",
    epilog="""\b
Example:
  nstool caps clear ./ping     take its capabilities, whatever they are
""",
)
@FILES
@FOLLOW
@ANYWAY
@JSON
def clear(files: tuple[str, ...], follow: bool, anyway: bool, json_wanted: bool) -> int:
    """Take the capabilities from files; those that have none stay as they are. CAP_SETFCAP is needed.

    Of which files is as for nstool caps set.
    """
    from nstool.security import filecaps

    return _each(files, _changing(filecaps.remove, follow, anyway), json_wanted)


def _read(path: str) -> tuple[str, FileCaps | None]:
    from nstool.security import filecaps

    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.path.realpath(path) if os.path.islink(path) else path, filecaps.read(fd)
    finally:
        os.close(fd)


def _changing(
    change: Callable[[int], object], follow: bool, anyway: bool
) -> Callable[[str], tuple[str, FileCaps | None]]:
    from nstool.security import filecaps

    def act(path: str) -> tuple[str, FileCaps | None]:
        fd = filecaps.hold(path, follow=follow, anyway=anyway)
        try:
            change(fd)
            found, real = filecaps.read(fd), filecaps.real_path(fd)
            if (names := os.fstat(fd).st_nlink) > 1:
                click.echo(f"note: {visible(real)} is one of {names} names of the file", err=True)
        finally:
            os.close(fd)
        return real, found

    return act


def _each(files: tuple[str, ...], act: Callable[[str], tuple[str, FileCaps | None]], json_wanted: bool) -> int:
    # All of them, whatever one says; the exit status is that of the last that failed.
    from nstool.cli.main import report

    status, found = 0, []
    for path in files:
        try:
            name, caps = act(path)
        except (NstoolError, OSError) as error:
            missing = getattr(error, "errno", 0) in (ENOENT, ENOTDIR, ELOOP)
            status = report(_missing(path) if missing else error)
            continue
        if json_wanted:
            found.append({"path": name, "asked": path, "capabilities": _caps_as_json(caps)})
        else:
            leads = f"{_name(path)} -> " if os.path.islink(path) else ""
            click.echo(f"{leads}{_name(name)} {say(caps)}")
    if json_wanted:
        answer.show({"files": found})
    return status


def _missing(path: str) -> SpecError:
    if not path:
        return SpecError("a FILE is empty; give the path of a file")
    if os.path.islink(path):
        return SpecError(f"the symbolic link {path} leads to no file; name one that there is")
    return SpecError(f"there is no file {path}; give the path of one, as `command -v NAME` prints it")


def _name(path: str) -> str:
    # On one line, whatever who made it called it.
    return visible(path).replace("\n", "\\x0a")


def say(caps: FileCaps | None) -> str:
    """Return the capabilities of a file in words: "cap_net_raw=ep", "none", with a root id where there is one."""
    from nstool.security import capabilities, filecaps

    if caps is None:
        return "none"
    text = filecaps.to_text(caps, capabilities.last_cap())
    text += f" [rootid={caps.rootid}]" if caps.rootid is not None else ""
    return text + (f" [flags={caps.flags:#x}]" if caps.flags else "")


def _caps_as_json(caps: FileCaps | None) -> dict[str, Any] | None:
    if caps is None:
        return None
    sets = {"permitted": of_set(caps.permitted), "inheritable": of_set(caps.inheritable)}
    return {**caps.asdict(), **sets, "text": say(caps)}


# Searching


@click.command(
    "scan",
    epilog="""\b
Examples:
  nstool caps scan /                    every such file of the root filesystem
  nstool caps scan --all-filesystems /  and of all that are mounted below it
  nstool caps scan --json /usr          one JSON document, written as files are found
""",
)
@click.argument("directory")
@click.option("--all-filesystems", is_flag=True, help="Search filesystems that are mounted below it too.")
@JSON
def scan(directory: str, all_filesystems: bool, json_wanted: bool) -> int:
    """Find the files below DIRECTORY that give privilege: set-user-ID, set-group-ID, file capabilities.

    Regular files only, and only of the filesystem of DIRECTORY, unless told otherwise; symbolic links are not followed.
    Files are printed as they are found: mode, owner, what it is, path. Directories that may not be read are named on
    stderr, with a summary at the end. A progress line is shown on a terminal.
    """
    from nstool.inspect.scan import Scan

    if not os.path.lexists(directory):
        raise SpecError(f"there is no directory {directory or 'without a name'}; give one that there is", "DIRECTORY")
    with _progress() as progress:
        task = progress.add_task("", files=0, found=0, total=None)

        def tell(scan: Scan) -> None:
            progress.update(task, files=scan.files, found=scan.found)

        search = Scan(directory, all_filesystems=all_filesystems, progress=tell)
        if json_wanted:
            for part in _json_parts(search):
                click.echo(part, nl=False)
        else:
            _print_found(search)
    if not json_wanted:
        click.echo(_summary(search), err=True)
    return 0


def _progress() -> Progress:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from nstool.cli.console import Console

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.fields[files]} files, {task.fields[found]} found"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
    )


def _print_found(search: Scan) -> None:
    from nstool.inspect.scan import Unread

    for item in search:
        if isinstance(item, Unread):
            click.echo(f"note: not searched: {_name(item.path)}: {visible(item.why)}", err=True)
        else:
            owner = f"{item.uid}:{item.gid}"
            click.echo(f"{stat.S_IMODE(item.mode):04o} {owner:<11} {_what(item)}  {_name(item.path)}")


def _what(item: Privileged) -> str:
    words = []
    if item.set_user_id:
        words.append("set-user-ID")
    if item.set_group_id:
        words.append("set-group-ID")
    elif item.mode & stat.S_ISGID:
        words.append("set-group-ID without effect (its group may not execute it)")
    if item.caps:
        words.append(say(item.caps))
    if item.caps_unread:
        words.append(f"capabilities: {item.caps_unread}")
    if item.nosuid:
        words.append("[mounted nosuid]")
    return " ".join(words)


def _json_parts(search: Scan) -> Iterator[str]:
    # One document, piece by piece, so that memory does not grow with what is found.
    import json

    from nstool.inspect.scan import Unread

    yield f'{{"version": {answer.VERSION}, "items": ['
    separator = "\n"
    for item in search:
        yield separator + json.dumps(_item(item, isinstance(item, Unread)))
        separator = ",\n"
    yield "\n]" + "".join(f', "{name}": {number}' for name, number in _totals(search).items()) + "}\n"


def _item(item: Privileged | Unread, unread: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"kind": "unread" if unread else "privileged", **item.asdict()}
    if not unread:
        record["caps"] = _caps_as_json(item.caps)  # type: ignore[union-attr]
    return record


def _totals(search: Scan) -> dict[str, int]:
    return {name: getattr(search, name) for name in ("files", "directories", "found", "unread", "elsewhere")}


def _summary(search: Scan) -> str:
    text = f"{search.found} found among {plural(search.files, 'file')} in {plural(search.directories, 'directory')}"
    if search.elsewhere:
        text += f"; {plural(search.elsewhere, 'mount point')} of other filesystems not entered, --all-filesystems does"
    if search.unread:
        unread = "1 directory or entry" if search.unread == 1 else f"{search.unread} directories or entries"
        text += f"; {unread} not or not wholly searched"
    return text
