"""Launch a real web server in a sandbox, fetch a page from it, show what isolates it, stop it.

What `make run` does. As root: a veth pair and a published port need it.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console

from nstool import NstoolError, Sandbox, attest, launch, load
from nstool.cli.show import look, render
from nstool.sandbox import rundir

HERE = Path(__file__).parent
SPEC = HERE / "web_service.toml"
DEADLINE = 20.0  # seconds until the server must answer

console = Console(highlight=False)
numbers = itertools.count(1)


def traces(sandbox: Sandbox) -> dict[str, list[str]]:
    """Return the files by which everything of the sandbox is seen from outside while it lives."""
    return {
        "link": [f"/sys/class/net/{sandbox.lease.link}"],
        "cgroups": sorted(set(sandbox.cgroups.values())),
        "run directory": [f"{rundir.path()}/sandboxes/{sandbox.name}"],
        "processes": [f"/proc/{pid}" for pid in (sandbox.init_pid, sandbox.pid)],
    }


def fetch(sandbox: Sandbox, url: str) -> str:
    """Return the page once the server answers."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if time.monotonic() > end or sandbox.ended:
                raise
            time.sleep(0.05)


def title(text: str) -> None:
    console.rule(f"[bold]{next(numbers)}. {text}", align="left")


def main() -> int:
    if os.geteuid() != 0:
        sys.exit("web_service: run it as root: a veth pair and a published port need that")
    spec = load(SPEC)
    title(f"Launch: {' '.join(spec.command)}")
    log = os.memfd_create("log")
    with launch(spec, stdin=os.open(os.devnull, os.O_RDONLY), stdout=log, stderr=log) as sandbox:
        console.print(
            f"sandbox [bold]{sandbox.name}[/], init is pid {sandbox.init_pid}, the server is pid {sandbox.pid}"
        )
        made = traces(sandbox)
        publish = spec.net.publish[0]
        for page in ("index.html", "namespaces.txt"):
            url = f"http://127.0.0.1:{publish.host}/{page}"
            title(f"Fetch {url}")
            body = fetch(sandbox, url)
            served = (HERE / "site" / page).read_text()
            if body != served:
                console.print("[red]the page is not the file that was to be served")
                return 1
            console.print(body.rstrip(), markup=False)
        title("What isolates it")
        render(look(sandbox.pid), console)
        title("Read back, beside what its spec asks for")
        found = attest(sandbox.name)
        for one in found.failed:
            console.print(f"[red]{one.name}: wanted {one.wanted}, found {one.found}")
        if not found.holds:
            return 1
        held = sum(one.holds is True for one in found.properties)
        console.print(f"{held} properties, every one as asked for; nstool attest {sandbox.name} --all lists them")
        title("Stop")
        sandbox.signal(15)
        ended = sandbox.wait()
        console.print(
            f"ended with {'exit status ' + str(ended.code) if ended.signal is None else 'signal ' + str(ended.signal)}"
        )
        console.print(os.pread(log, 4096, 0).decode().rstrip(), markup=False, style="dim")
    title("What is left")
    left = {what: [path for path in paths if os.path.exists(path)] for what, paths in made.items()}
    for what, paths in left.items():
        console.print(
            f"{what:14} {'[red]' + ', '.join(paths) if paths else '[green]nothing of ' + str(len(made[what]))}"
        )
    return 1 if any(left.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NstoolError as error:
        sys.exit(f"web_service: {error}")
