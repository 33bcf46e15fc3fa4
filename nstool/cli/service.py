"""``nstool service``: what a running service does, and what it is told."""

from __future__ import annotations

import json
import socket
from typing import Any

import click

from nstool.errors import SpecError


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
    _print(found)
    return 0


@command.command("rotate")
@click.argument("name")
def rotate(name: str) -> int:
    """Let a new generation of the service NAME take the connections from now on; the old one ends when it is done."""
    click.echo(f"generation {ask(name, 'rotate')['generation']}")
    return 0


@command.command("stop")
@click.argument("name")
def stop(name: str) -> int:
    """Let the service NAME take no more connections and end; told twice, without waiting for those there are."""
    ask(name, "stop")
    return 0


def ask(name: str, what: str, **words: object) -> dict[str, Any]:
    """Ask a service and return its answer. Raises SpecError when there is none of this name, or it says no."""
    from nstool.sandbox import rundir
    from nstool.service.generation import connected
    from nstool.service.supervisor import CONTROL

    try:
        rundir.check_name(name)
        with connected(name, CONTROL, socket.SOCK_STREAM) as one:
            one.settimeout(60)
            one.sendall(json.dumps({"do": what, **words}).encode() + b"\n")
            one.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: one.recv(1 << 16), b""))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        raise SpecError(f"no service {name!r} runs; nstool ps lists what does", "NAME") from None
    found: dict[str, Any] = json.loads(data or b"{}")
    if "error" in found:
        raise SpecError(found["error"])
    return found


def _print(found: dict[str, Any]) -> None:
    from nstool.cli.console import printed_table

    click.echo(f"{found['name']}: {', '.join(found['listening'])}; up {found['uptime']:.0f} s")
    click.echo(
        f"{found['live']} of {found['places']} places serve, {found['parked']} wait parked, {found['queued']} queued; "
        f"{found['accepted']} connections, {found['lives']} sandboxes, {found['rotations']} rotations"
    )
    for what in ("ends", "refused"):
        told = ", ".join(f"{count} {name}" for name, count in found[what].items() if count)
        click.echo(f"{what}: {told or 'none'}")
    rows = [
        (stage, str(one["count"]), *(f"{one[key] / 1000:.2f}" for key in ("mean", "p50", "p90", "p99")))
        for stage, one in found["latencies"].items()
        if one["count"]
    ]
    if rows:
        printed_table(("since the connection, ms", "count", "mean", "p50", "p90", "p99"), rows)
    rows = [
        tuple(
            str(word)
            for word in (
                one["number"],
                one["state"],
                one["pid"],
                f"{one['age']:.0f} s",
                one["lives"],
                len(one["places"]),
            )
        )
        for one in found["generations"]
    ]
    printed_table(("generation", "state", "pid", "age", "lives", "sandboxes"), rows)
