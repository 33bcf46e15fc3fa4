"""``nstool ps``: the sandboxes of this user."""

from __future__ import annotations

import click

from nstool.errors import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nstool.errors import NotSupported
    from nstool.sandbox.rundir import Record


@click.command("ps")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; pid is the command's, launcher_pid the launcher's.")
def command(as_json: bool) -> int:
    """List the sandboxes: name, state, the command's pid, launcher, age, addresses and published ports, command.

    state: starting, running, stopped (the command, by a signal), serving (nstool serve), template (of a service: it
    makes the sandboxes and has no command), ending (it is being undone), left behind (cleanup undoes it), elsewhere
    (made in another pid or time namespace, whose pids mean others here).
    """
    from nstool.sandbox import leases, rundir, strays

    unread: list[NotSupported] = []
    records = rundir.list_sandboxes(unread)
    facts = [_facts(record, unread) for record in records]
    if as_json:
        from nstool.cli import answer

        answer.show({"sandboxes": facts})
    else:
        _print(facts)
    for stray in (*unread, *leases.strays()):
        click.echo(f"note: {visible(stray.cause)}; {visible(stray.remedy)}", err=True)
    if note := strays.note(records):
        click.echo(note, err=True)
    return 0


def _facts(record: Record, unread: list[NotSupported]) -> dict[str, Any]:
    """Return what the record says, and what the kernel and the journal say of the sandbox.

    pid: of the command, 0 if it has none. addresses: inside, of the link to the host. published: as --publish takes it.
    unread: takes what cannot be read.
    """
    facts = record.asdict()
    launcher_pid = facts.pop("pid")
    pid, stopped = _command(record)
    return {
        "name": facts.pop("name"),
        "state": "stopped" if stopped and record.state == "running" else record.state,
        "alive": record.alive,
        "pid": pid,
        "launcher_pid": launcher_pid,
        "addresses": _addresses(record, unread),
        "published": record.published,
        **facts,
    }


def _command(record: Record) -> tuple[int, bool]:
    """Return the command's pid, and whether a signal has stopped it; 0 and False where there is none to be seen."""
    from nstool.errors import SandboxGone
    from nstool.inspect.proc import Proc
    from nstool.sandbox.launch import payload_pid

    if not record.here or not record.init_alive:
        return 0, False
    try:
        pid = payload_pid(record.init_pid) if record.spec.get("init", True) else record.init_pid
        with Proc(pid) as proc:
            return pid, proc.stat().state == "T"
    except SandboxGone:  # it is about to end
        return 0, False


def _addresses(record: Record, unread: list[NotSupported]) -> list[str]:
    """Return the addresses inside of a sandbox that is linked to the host, as the rules for it name them."""
    from ipaddress import ip_address

    from nstool.errors import NotSupported
    from nstool.sandbox import journal

    if record.spec.get("net", {}).get("mode") not in ("veth", "bridge"):
        return []
    try:
        steps = journal.read_undo(record.name)
    except FileNotFoundError:  # undone meanwhile
        return []
    except NotSupported as error:
        unread.append(error)
        return []
    found: list[str] = []
    for step in steps:
        if step.call == "external" and step.args[0] == "nft_unpublish":
            rules: Any = step.args[1]
            found += [ip_address(address).compressed for address in rules["addresses"]]
    return found


def _print(sandboxes: list[dict[str, Any]]) -> None:
    import time

    from nstool.cli.console import Table, cell, for_lines

    linked = any(facts["addresses"] for facts in sandboxes)
    links = ("address", "published") if linked else ()
    table = Table("name", "state", "pid", "launcher", "age", *links, "command", fixed=range(5 + len(links)))
    for facts in sandboxes:
        row = [facts["name"], facts["state"], str(facts["pid"] or "")]
        row.append(f"{facts['launcher_pid']}{'' if facts['launcher_alive'] else ' (ended)'}")
        row.append(f"{max(0, int(time.time() - facts['created']))} s")
        if linked:
            row += [" ".join(facts["addresses"]), " ".join(facts["published"])]
        table.add_row(*map(cell, (*row, " ".join(map(str, facts["spec"].get("command", ()))))))
    for_lines().print(table)
