"""``nstool ipc``: the objects of an IPC namespace, listed and removed, and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nstool.errors import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nstool.inspect.ipc import Ipc, Owner

EPILOG = """\b
Examples:
  nstool ipc                          your own IPC namespace
  nstool ipc --in web                 that of the sandbox web
  nstool ipc rm --in web shm:3 mq:/jobs
  nstool ipc limit --in web shmmax=64M "sem=250 32000 32 128"
"""
_RM_EPILOG = """\b
Examples:
  nstool ipc rm shm:3                 segment 3 of your own namespace
  nstool ipc rm --in 1234 sem:0 msg:1 mq:/jobs
"""
_LIMIT_EPILOG = """\b
Examples:
  nstool ipc limit --in web shmmax=64M msgmni=32
  nstool ipc limit kernel.shmmni=8192
"""
_IN = click.option("--in", "target", default="", metavar="TARGET", help="In the namespace of a pid or sandbox.")


@click.group("ipc", invoke_without_command=True, epilog=EPILOG)
@_IN
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, target: str, as_json: bool) -> int:
    """List what is in an IPC namespace, and its limits: your own, or that of TARGET.

    System V shared memory, semaphores and message queues; POSIX message queues; and the files in /dev/shm, which belong
    to the mount namespace. Owners are shown as you see them, and as TARGET does where that differs. Processes of
    another pid namespace than yours, or above it, have no pid here and are left out.
    """
    if context.invoked_subcommand is not None:
        if target or as_json:
            raise click.UsageError(f"write the options after the word: nstool ipc {context.invoked_subcommand} --in …")
        return 0
    from nstool.inspect.ipc import ipc
    from nstool.inspect.proc import own_pid, process

    found = ipc(process(target) if target else own_pid())
    if as_json:
        from nstool.cli import answer

        answer.show(found.asdict())
    else:
        _print(found)
    return 0


@command.command("rm", epilog=_RM_EPILOG)
@_IN
@click.argument("objects", nargs=-1, required=True, metavar="OBJECT...")
def remove(target: str, objects: tuple[str, ...]) -> int:
    """Remove each OBJECT: shm:ID, sem:ID, msg:ID or mq:/NAME, as the list shows them.

    Who waits at a semaphore or a queue is woken with an error. A segment that is attached goes with its last detach.
    All are tried, and what was removed is said; exit status 125 if one was refused.
    """
    from nstool.cli.main import CANNOT, report
    from nstool.sandbox.ipc import read_object, remove

    wanted = [read_object(text) for text in objects]
    refused = dict(remove(wanted, _pid(target)))
    for one in wanted:
        if error := refused.get(one):
            lists = f"nstool ipc --in {target}" if target else "nstool ipc"
            error.remedies = tuple(remedy.replace("nstool ipc", lists) for remedy in error.remedies)
            report(error)
        else:
            click.echo(f"removed {_plain(str(one))}")
    return CANNOT if refused else 0


@command.command("limit", epilog=_LIMIT_EPILOG)
@_IN
@click.argument("limits", nargs=-1, required=True, metavar="LIMIT=VALUE...")
def limit(target: str, limits: tuple[str, ...]) -> int:
    """Set limits of an IPC namespace, by their names in a spec or as sysctls.

    Sizes in bytes may be written as 64M. What is there already stays, also if it is larger. Setting stops at the first
    limit that the kernel refuses.
    """
    from nstool.sandbox.ipc import limit, read_limit

    wanted = dict(read_limit(text) for text in limits)
    for change in limit(wanted, _pid(target)):
        click.echo(f"{change.name}: {change.before} -> {change.after}")
    return 0


def _pid(target: str) -> int:
    from nstool.inspect.proc import process

    return process(target) if target else 0


# ---- the list ----


def _print(found: Ipc) -> None:
    from nstool.inspect.proc import whose

    click.echo(f"ipc:[{found.namespace}], of {whose(_plain(found.command), found.pid, found.tgid)}")
    _print_table(
        "System V shared memory",
        ("object", "key", "mode", "owner", "inside", "bytes", "attached", "creator", "last", ""),
        [
            (
                f"shm:{one.id}",
                *_head(one.key, one.mode, one.owner, one.inside),
                str(one.size),
                str(one.attached),
                *_pids(one.creator, one.last),
                " ".join(word for word, true in (("removed", one.removed), ("locked", one.locked)) if true),
            )
            for one in found.segments
        ],
        found.unread.get("shm"),
    )
    _print_table(
        "System V semaphores",
        ("object", "key", "mode", "owner", "inside", "semaphores"),
        [
            (f"sem:{one.id}", *_head(one.key, one.mode, one.owner, one.inside), str(one.count))
            for one in found.semaphores
        ],
        found.unread.get("sem"),
    )
    _print_table(
        "System V message queues",
        ("object", "key", "mode", "owner", "inside", "messages", "bytes", "last send", "last receive"),
        [
            (
                f"msg:{one.id}",
                *_head(one.key, one.mode, one.owner, one.inside),
                str(one.messages),
                str(one.bytes),
                *_pids(one.last_send, one.last_receive),
            )
            for one in found.queues
        ],
        found.unread.get("msg"),
    )
    _print_table(
        "POSIX message queues",
        ("object", "mode", "owner", "inside", "messages", "of", "of bytes", "bytes", "notified"),
        [
            (
                f"mq:{one.name}",
                f"{one.mode:03o}",
                *_owners(one.owner, one.inside),
                *(_or_unknown(value) for value in (one.messages, one.max_messages, one.max_size, one.bytes)),
                *_pids(one.notified or 0),
            )
            for one in found.posix_queues or ()
        ],
        found.unread.get("posix_queues"),
    )
    _print_table(
        "/dev/shm",
        ("file", "kind", "mode", "owner", "inside", "bytes", "allocated"),
        [
            (
                one.name,
                one.kind,
                f"{one.mode:03o}",
                *_owners(one.owner, one.inside),
                str(one.size),
                str(one.allocated),
            )
            for one in found.shm_files or ()
        ],
        found.unread.get("shm_files"),
    )
    _print_table("limits", ("limit", "value", "used"), [(n, v, _used(n, found)) for n, v in found.limits.items()], None)
    for note in found.notes:
        click.echo(f"note: {_plain(note)}")


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], unknown: str | None) -> None:
    from nstool.cli.console import printed_table

    if not rows:
        click.echo(f"\n{title}: {f'unknown: {unknown}' if unknown else 'none'}")
        return
    click.echo(f"\n{title}")
    # A column that says nothing is left away.
    kept = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    printed_table([columns[number] for number in kept], [[row[number] for number in kept] for row in rows])


def _head(key: int, mode: int, owner: Owner, inside: Owner) -> tuple[str, ...]:
    return (f"0x{key:08x}", f"{mode:03o}", *_owners(owner, inside))


def _owners(owner: Owner, inside: Owner) -> tuple[str, str]:
    outside, own = (f"{_id(one.uid)}:{_id(one.gid)}" for one in (owner, inside))
    return outside, own if own != outside else ""


def _id(number: int | None) -> str:
    return "unmapped" if number is None else str(number)


def _pids(*pids: int) -> tuple[str, ...]:
    return tuple(str(pid) if pid else "" for pid in pids)


def _or_unknown(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _used(name: str, found: Ipc) -> str:
    # Of the limits that count all objects of the namespace.
    import os

    counts = {
        "shmmni": len(found.segments),
        "shmall": sum(-(-one.size // os.sysconf("SC_PAGE_SIZE")) for one in found.segments),
        "msgmni": len(found.queues),
    }
    if found.posix_queues is not None:
        counts["mq_queues_max"] = len(found.posix_queues)
    if name == "sem":
        semaphores = plural(sum(one.count for one in found.semaphores), "semaphore")
        return f"{semaphores} in {plural(len(found.semaphores), 'set')}"
    return str(counts.get(name, ""))


def _plain(text: str) -> str:
    from nstool.plan.describe import printable

    return printable(text)
