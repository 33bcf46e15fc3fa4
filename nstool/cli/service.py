"""``nstool service``: what a running service does, and what it is told."""

from __future__ import annotations

import json
import socket
from typing import Any

import click

from nstool.errors import NstoolError, SpecError


@click.group("service")
def command() -> None:
    """See and steer a service that nstool serve runs."""


@command.command("status")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(name: str, as_json: bool) -> int:
    """Show the generations of the service NAME, its sandboxes, counts and latencies."""
    found = ask(name, "status")
    if as_json:
        from nstool.cli import answer

        answer.show(found)
        return 0
    from nstool.cli.console import for_lines
    from nstool.cli.service_shown import told

    for_lines().print(told(found))
    return 0


@command.command("top")
@click.argument("name")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="S", help="Seconds between two looks."
)
@click.option("--count", type=click.IntRange(0), default=0, metavar="N", help="Looks, then it ends.  [default: no end]")
def top(name: str, interval: float, count: int) -> int:
    """Show the service NAME again and again: its generations, who is served since when, and what has ended how.

    Until ^C, or until the service ends. Where the output is no terminal, each look is printed below the one before.
    """
    from nstool.cli.service_top import look

    look(name, interval, count)
    return 0


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(as_json: bool) -> int:
    """List the services that run: their names, where they listen, and how busy they are."""
    found = [_listed(name, pid) for name, pid in running()]
    if as_json:
        from nstool.cli import answer

        answer.show({"services": found})
        return 0
    from nstool.cli.console import for_lines
    from nstool.cli.service_shown import services

    for_lines().print(services(found))
    return 0


@command.command("rotate")
@click.argument("name")
def rotate(name: str) -> int:
    """Let a new generation of the service NAME take the connections from now on; the old one ends when it is done."""
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
def stop(name: str) -> int:
    """Let the service NAME take no more connections and end; told twice, without waiting for those there are."""
    ask(name, "stop")
    return 0


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


_LISTED = ("listening", "metrics", "uptime", "places", "live", "parked", "queued", "accepted", "lives", "stopping")


def _listed(name: str, pid: int) -> dict[str, Any]:
    """Return what a list says of a service. unanswered: why it says nothing of itself, else empty."""
    try:
        found = ask(name, "status", seconds=5)
    except NstoolError as error:
        return {"name": name, "pid": pid, **dict.fromkeys(("generation", *_LISTED)), "unanswered": str(error)}
    current = [one["number"] for one in found["generations"] if one["state"] == "current"]
    told = {key: found[key] for key in _LISTED}
    return {"name": name, "pid": pid, "generation": current[0] if current else None, **told, "unanswered": ""}


def ask(name: str, what: str, seconds: float = 60, **words: object) -> dict[str, Any]:
    """Ask a service and return its answer. seconds: how long to wait for it.

    Raises SpecError when there is none of this name, or the request is none; NstoolError when it cannot be done, or
    nothing is said.
    """
    from nstool.cli.main import CANNOT
    from nstool.sandbox import rundir
    from nstool.service.generation import connected
    from nstool.service.supervisor import CONTROL

    try:
        rundir.check_name(name)
        with connected(name, CONTROL, socket.SOCK_STREAM) as one:
            one.settimeout(seconds)
            one.sendall(json.dumps({"do": what, **words}).encode() + b"\n")
            one.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: one.recv(1 << 16), b""))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        raise SpecError(f"no service {name!r} runs; nstool service list lists those that do", "NAME") from None
    except TimeoutError:
        raise NstoolError(
            f"service {name!r} does not answer in {seconds:g} s: see whether it is stopped, SIGCONT lets it go on"
        ) from None
    found: dict[str, Any] = json.loads(data or b"{}")
    if "error" in found:
        raise NstoolError(found["error"]) if found["exit"] == CANNOT else SpecError(found["error"])
    return found
