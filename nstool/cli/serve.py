"""``nstool serve``: put a service behind sandboxes, one for each connection."""

from __future__ import annotations

import asyncio
import sys

import click

EPILOG = """\b
Examples:
  nstool serve web.toml                 until SIGTERM; SIGHUP makes a new generation
  nstool service status web             from another terminal
"""


@click.command("serve", epilog=EPILOG)
@click.argument("spec")
@click.option("--name", default="", metavar="NAME", help="Of the service.  [default: of the spec, or its file's]")
@click.option("--listen", multiple=True, metavar="WHERE", help="Listen there instead: tcp:127.0.0.1:8080, ...")
@click.option("--quiet", is_flag=True, help="Say nothing but errors.")
def command(spec: str, name: str, listen: tuple[str, ...], quiet: bool) -> int:
    """Give each connection a sandbox of its own, made for it and destroyed after it.

    SPEC is a spec with a [service] table: who listens where, and how many sandboxes there may be.
    """
    from nstool.sandbox.launch import resolve
    from nstool.service import interpreter
    from nstool.service.generation import Blueprint
    from nstool.service.supervisor import Supervisor
    from nstool.spec import load
    from nstool.spec.check import check
    from nstool.spec.check_service import check_service
    from nstool.spec.implied import implied

    loaded, service = load.read_service(spec)
    wanted = implied(loaded.spec, loaded.given)
    if service.shape == "python":
        wanted = interpreter.prepared(wanted, service)
    check(wanted, loaded.place)
    if listen:
        service = service.replace(listen=listen)
        check_service(service)
    wanted = resolve(wanted)
    chosen = name or wanted.name or _stem(spec)
    blueprint = Blueprint(chosen, wanted, service)

    def say(text: str) -> None:
        if not quiet:
            print(f"nstool: {chosen}: {text}", file=sys.stderr, flush=True)

    asyncio.run(Supervisor(blueprint, say).run())
    return 0


def _stem(path: str) -> str:
    from pathlib import Path

    return Path(path).stem if path != "-" else "service"
