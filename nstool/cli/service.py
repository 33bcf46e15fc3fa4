"""``nstool service``: what a running service does, and what it is told."""

from __future__ import annotations

import json
import socket
from functools import partial
from time import monotonic
from typing import Any

import click

from nstool.errors import NstoolError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.sandbox.rundir import Record

SOON = 10.0  # seconds for an answer that needs nothing to be made
DIFFERENT = 1  # of attest, where a property does not hold
KILLED = 1  # the exit status of status where generations go on without their service
LATE = 124


class Unanswered(NstoolError):
    """A service says nothing."""


@click.group("service")
def command() -> None:
    """See and steer a service that nstool serve runs."""


@command.command("status")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str, as_json: bool) -> int:
    """Show what the service NAME does.

    That is: its generations, its sandboxes, counts and latencies. The exit status is 1 where its nstool serve was
    killed, and what it has left is shown.
    """
    if records := _left(name):
        from nstool.service import left

        found = left.status(name, records)
    else:
        found = ask(name, "status", SOON)
    if as_json:
        from nstool.cli import answer

        answer.show(found)
    else:
        from nstool.cli.console import for_lines
        from nstool.cli.service_shown import told

        for_lines().print(told(found))
    if not records:
        return 0
    if not as_json:
        click.echo(left.describe(name, records))
    return KILLED


@command.command("top")
@click.argument("name")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    metavar="S",
    help="Seconds between two looks.  [default: 1]",
)
@click.option("--count", type=click.IntRange(0), default=0, metavar="N", help="Looks, then it ends.  [default: no end]")
def top(name: str, interval: float, count: int) -> int:
    """Show what the service NAME does, again and again.

    That is: its generations, who is served since when, and what has ended how. Until ^C, or until the service ends.
    Where the output is no terminal, each look is printed below the one before.
    """
    from nstool.cli.service_top import look

    look(name, interval, count)
    return 0


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> int:
    """List services: where they listen, how busy they are.

    Those that run, and those whose nstool serve was killed and of which generations go on.
    """
    from nstool.cli.run import clean_up
    from nstool.service import left

    clean_up()
    found = [_listed(name, pid) for name, pid in running()]
    found += [_listed_left(name, records) for name, records in left.left().items()]
    if as_json:
        from nstool.cli import answer

        answer.show({"services": found})
        return 0
    from nstool.cli.console import for_lines
    from nstool.cli.service_shown import services

    for_lines().print(services(found))
    return 0


@command.command("attest")
@click.argument("name")
@click.option("--filter", "read_filter", is_flag=True, help="Compare the seccomp filter too; stops each for a moment.")
@click.option("--all", "all_", is_flag=True, help="List the properties that hold too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, always with all.")
def attest(name: str, read_filter: bool, all_: bool, as_json: bool) -> int:
    """Read back from outside whether each sandbox of NAME that serves has what the spec asks for.

    What a spec asks for is of when its generation was made. Those that wait for a connection are attested before their
    command, as attest in [service] says. The exit status is 0 if all holds, 1 if not; what is not known counts as
    neither.
    """
    found = ask(name, "attest", filter=read_filter)["sandboxes"]
    holds = all(one["holds"] is not False for one in found)
    if as_json:
        from nstool.cli import answer

        answer.show({"name": name, "sandboxes": found, "holds": holds})
    else:
        from nstool.cli.console import for_lines
        from nstool.cli.service_shown import attested

        for_lines().print(attested(name, found, all_=all_))
    return 0 if holds else DIFFERENT


@command.command("rotate")
@click.argument("name")
def rotate(name: str) -> int:
    """Let the next generation of the service NAME take over.

    It takes the connections from now on; the old one ends when those that it has have ended.
    """
    click.echo(f"generation {ask(name, 'rotate')['generation']}")
    return 0


@command.command("reload")
@click.argument("name")
def reload(name: str) -> int:
    """Let the service NAME read its spec again: a new generation of it takes the connections from now on.

    If it cannot, all goes on as before. Its name stays.
    """
    click.echo(f"generation {ask(name, 'reload')['generation']}")
    return 0


@command.command("stop")
@click.argument("name")
@click.option(
    "--kill", is_flag=True, help="Do not wait for the sandboxes that there are, also of one that stops already."
)
@click.option("--wait", is_flag=True, help="Return when the service has ended, and nothing of it is left.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="--wait no longer; exit status 124.")
def stop(name: str, kill: bool, wait: bool, timeout: float | None) -> int:
    """Let the service NAME take no more connections and end.

    Its sandboxes have the seconds that grace of [service] says, then its stop_signal, and as long again SIGKILL. Told
    again it goes on so; with --kill they have none.

    What a killed nstool serve has left ends in the same way; the command itself sees to that, and returns then.
    """
    if timeout is not None and not wait:
        raise SpecError("it is for how long --wait waits: say that, too", "--timeout")
    if records := _left(name):
        if timeout is not None:
            raise SpecError(
                "this command ends what is left of it, and nobody else would: --kill is at once", "--timeout"
            )
        return _end_left(name, records, kill=kill)
    if not wait:
        ask(name, "stop", SOON, kill=kill)
        return 0
    return _stop_and_wait(name, timeout, kill=kill)


def _end_left(name: str, records: list[Record], *, kill: bool) -> int:
    import asyncio

    from nstool.cli.serve import Errors
    from nstool.service.left import Ender

    errors = Errors()
    ender = Ender(name, records, partial(errors.tell, name), errors.write, at_once=kill)
    asyncio.run(ender.run())
    if rest := _left(name):
        pids = " ".join(str(one.init_pid) for one in rest)
        raise NstoolError(f"{rest[0].name} cannot be told to end: kill -9 {pids}, then nstool cleanup")
    return 0


def _stop_and_wait(name: str, timeout: float | None, *, kill: bool) -> int:
    import os
    import select

    begin = monotonic()
    soon = SOON if timeout is None else min(timeout, SOON)
    try:
        pidfd = os.pidfd_open(ask(name, "stop", soon, kill=kill)["pid"])
    except ProcessLookupError:
        return 0
    except Unanswered as error:
        if timeout is None or timeout > SOON:
            raise
        click.echo(f"nstool: {error}", err=True)
        return LATE
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    ended = poll.poll(None if timeout is None else max(0, begin + timeout - monotonic()) * 1000)
    os.close(pidfd)
    if ended:
        return 0
    click.echo(f"nstool: service {name!r} still ends after {timeout:g} s; --kill ends it at once", err=True)
    return LATE


def _left(name: str) -> list[Record]:
    """Return the templates that a killed nstool serve of this name has left, if it has no successor.

    What services and templates have left that were both killed is undone.
    """
    from nstool.cli.run import clean_up
    from nstool.service.left import left

    clean_up()
    return left().get(name, [])


def running() -> list[tuple[str, int]]:
    """Return the names of the services that run, each with the pid of its nstool serve."""
    import os

    from nstool.sandbox import rundir
    from nstool.service.supervisor import CONTROL

    return [
        (one.name, one.pid)
        for one in rundir.list_sandboxes()
        if one.state == "serving" and os.path.exists(f"{one.path}/{CONTROL}")
    ]


_LISTED = (
    "listening",
    "metrics",
    "uptime",
    "shape",
    "places",
    "live",
    "parked",
    "queued",
    "accepted",
    "lives",
    "stopping",
)


def _listed(name: str, pid: int) -> dict[str, Any]:
    """Return what a list says of a service. unanswered: why it says nothing of itself, else empty."""
    try:
        found = ask(name, "status", seconds=5)
    except NstoolError as error:
        empty = dict.fromkeys(("generation", *_LISTED))
        return {"name": name, "pid": pid, **empty, "killed": False, "unanswered": str(error)}
    current = [one["number"] for one in found["generations"] if one["state"] == "current"]
    told = {key: found[key] for key in (*_LISTED, "killed")}
    return {"name": name, "pid": pid, "generation": current[0] if current else None, **told, "unanswered": ""}


def _listed_left(name: str, records: list[Record]) -> dict[str, Any]:
    from nstool.service import left

    found = left.status(name, records)
    told = {key: found[key] for key in (*_LISTED, "killed")}
    return {"name": name, "pid": 0, "generation": None, **told, "unanswered": left.describe(name, records)}


def what_is_left(name: str) -> str:
    """Return a sentence about what a service has left whose nstool serve was killed, empty if that is nothing."""
    from nstool.service import left

    records = _left(name)
    return f"service {name!r} does not run: {left.describe(name, records)}" if records else ""


def _not_running(name: str) -> str:
    return what_is_left(name) or f"no service {name!r} runs; nstool service list lists those that do"


def ask(name: str, what: str, seconds: float = 60, **words: object) -> dict[str, Any]:
    """Ask a service and return its answer. seconds: how long to wait for it.

    Raises SpecError when there is none of this name, or the request is none; NstoolError when it cannot be done, or
    nothing is said.
    """
    from nstool.cli.main import CANNOT
    from nstool.sandbox import rundir
    from nstool.service.channel import connected
    from nstool.service.supervisor import CONTROL

    try:
        rundir.check_name(name)
        with connected(name, CONTROL, socket.SOCK_STREAM) as one:
            one.settimeout(seconds)
            one.sendall(json.dumps({"do": what, **words}).encode() + b"\n")
            one.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: one.recv(1 << 16), b""))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        raise SpecError(_not_running(name), "NAME") from None
    except TimeoutError:
        then = "" if what == "status" else f"; it does then what it was asked, {what}"
        raise Unanswered(
            f"service {name!r} does not answer in {seconds:g} s: see whether it is stopped, SIGCONT lets it go on{then}"
        ) from None
    if not data:  # it has ended before it could answer
        raise SpecError(_not_running(name), "NAME")
    found: dict[str, Any] = json.loads(data)
    if "error" in found:
        raise NstoolError(found["error"]) if found["exit"] == CANNOT else SpecError(found["error"])
    return found
