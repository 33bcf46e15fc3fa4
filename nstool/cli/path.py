"""``nstool path``: what a path of a process is here, or where it has a file of the caller's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nstool.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.inspect.access import Access
    from nstool.inspect.paths import Here, Located, Seen, There

EPILOG = """\b
Examples:
  nstool path web /etc/passwd         which file the sandbox web sees there, and where you see it
  nstool path 1234 data/log           from the working directory of process 1234
  nstool path web --from-host /srv/www
                                      where the sandbox has your directory, or why it has not
"""


@click.command("path", epilog=EPILOG)
@click.argument("target")
@click.argument("path", required=False)
@click.option("--from-host", "own", metavar="PATH", help="A path of yours: where does TARGET see this file?")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(target: str, path: str | None, own: str | None, as_json: bool) -> int:
    """Say what PATH is for TARGET, a pid or the name of a sandbox: the same name may be another file there.

    PATH is walked as the process would walk it, from its root or working directory, symlink by symlink; no file is
    opened. Said are the mount and the file system that the file is on, its path there, what the process may do with
    it, and at which paths you see the same file.

    The walk itself is made with your rights. What the process may do is asked with its ids and capabilities; security
    modules and system call filters of the process are not asked.

    Exit status 1: PATH leads nowhere, or TARGET sees the file nowhere.
    """
    if (path is None) == (own is None):
        raise click.UsageError("give either a PATH of TARGET, or --from-host and a path of yours")
    if not (path or own):
        place = "PATH" if own is None else "--from-host"
        raise SpecError("is empty; / is the root directory, . the working directory", place)
    from nstool.inspect.paths import from_host, locate
    from nstool.inspect.proc import process

    pid = process(target)
    found = locate(pid, path) if path is not None else from_host(pid, own or "")
    if as_json:
        from nstool.cli import answer

        answer.show(found.asdict())
    else:
        _print(found)
    return 0 if found.found.refusal is None and not getattr(found, "why_not", "") else 1


def _print(answer: There | Here) -> None:
    from nstool.inspect import proc
    from nstool.inspect.paths import There

    found = answer.found
    whose = proc.whose(answer.command, answer.pid, answer.tgid)
    forward = isinstance(answer, There)
    _say(f"{found.asked} of {whose if forward else 'yours'}")
    _print_steps(found)
    _print_file(found)
    if isinstance(answer, There):
        if found.in_file_system:
            _print_places("you see it at", answer.here, "you see it nowhere: its file system is on no mount of yours")
    else:
        _print_places(f"{whose} sees it at", answer.there, "")
        _print_places(f"{whose} sees it through an overlay at", answer.through, "")
        if answer.why_not:
            _say(f"{whose} does not see it: {answer.why_not}")
    if found.refusal is None and not getattr(answer, "why_not", ""):
        _say(f"{whose} may: {_access(answer.access)}")
    for note in found.notes:
        _say(f"note: {note}")


def _print_steps(found: Located) -> None:
    from nstool.cli.console import printed_table

    # A name that is a plain directory on the same mount as the one before tells nothing.
    rows: list[tuple[str, ...]] = []
    mount = again = 0
    for number, step in enumerate(found.steps):
        last = number == len(found.steps) - 1
        if step.link or step.mount != mount or last or step.note:
            what = f"{step.kind} to {step.link}" if step.kind == "symlink" else step.kind
            row = ("", step.path or "(no path)", what, f"mount {step.mount}", step.note)
            if step.kind == "symlink" and row in rows:  # a loop goes round until the kernel's count is full
                again += 1
            else:
                rows.append(row)
        mount = step.mount
    if rows:
        printed_table(("", "", "", "", ""), rows, heading=False, fixed=(0, 1))
    if again:
        _say(f"   and so on: symlinks that were met before, {again} times")
    if found.refusal is not None:
        stop = found.refusal
        at = stop.at or "a directory without a path"
        place = f" at {stop.name} in {at}" if stop.name else f" at {stop.at}" if stop.at else ""
        _say(f"no file: {stop.errno}{place}: {stop.why}")


def _print_file(found: Located) -> None:
    file, mount = found.file, found.mount
    if file is None:
        return
    size = f", {file.size} bytes" if file.kind == "file" else ""
    who = f"mode {file.mode:04o}, uid {file.uid}, gid {file.gid}"
    _say(f"is {found.path or 'a file without a path'}: {file.kind}, {who}{size}, inode {file.inode}")
    if mount is None:
        _say("on no mount of its namespace")
        return
    options = ",".join(mount.options)
    _say(f"on mount {mount.id}, {mount.target or '?'}: {mount.type} {mount.source} {mount.device} ({options})")
    if found.in_file_system:
        _say(f"in that file system it is {found.in_file_system}")
    for layer in found.layers:
        _say(f"in its {layer.role} layer: {layer.path}{'' if layer.there else ', where you find none'}")


def _print_places(title: str, places: Iterable[Seen], otherwise: str) -> None:
    seen = [place for place in places if not place.why]
    for place in seen:
        _say(f"{title} {place.path}, mount {place.mount}")
    for place in places:
        if place.why:
            _say(f"not at {place.path}, mount {place.mount}: {place.why}")
    if not seen and otherwise and not list(places):
        _say(otherwise)


def _access(access: Access) -> str:
    if access.unknown:
        return f"unknown: {access.unknown}"
    if access.refused:
        return f"not come to it: {access.refused}"
    rights = {"read": access.read, "write": access.write, "execute or search": access.execute}
    return ", ".join(name for name, allowed in rights.items() if allowed) or "nothing"


def _say(text: str) -> None:
    from nstool.plan.describe import printable

    click.echo(printable(text))
