"""``nstool attest``: whether a sandbox, or a process, has the protections that its spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text

    from nstool.cli.console import Table
    from nstool.inspect.attested import Attestation
    from nstool.sandbox.attest import Property

EPILOG = """\b
Examples:
  nstool attest web              the sandbox web beside the spec that it was made from
  nstool attest web web.toml     the same beside a file
  nstool attest 4711 web.toml    any process beside a file
  nstool attest --filter web     the seccomp filter too, instruction by instruction
"""

DIFFERENT = 1


@click.command("attest", epilog=EPILOG)
@click.argument("target", metavar="NAME|PID")
@click.argument("spec", metavar="[SPEC]", required=False)
@click.option(
    "--filter", "read_filter", is_flag=True, help="Compare the seccomp filter itself, as root; stops it for a moment."
)
@click.option("--all", "all_", is_flag=True, help="List the properties that hold too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, always with all.")
def command(target: str, spec: str | None, read_filter: bool, all_: bool, as_json: bool) -> int:
    """Read back from outside whether a process has every protection that a spec asks for.

    NAME is a sandbox, of which the command is read, PID any process. SPEC is a file (.toml or .json); of a sandbox
    it is by default the spec that it was made from. Read are /proc, the cgroups, and for a link netlink and the nft
    rules. A process that has tightened what it has is as good.

    The exit status is 0 if all holds, 1 if not. What you may not read is listed, and counts as neither.
    """
    from nstool.cli import answer
    from nstool.errors import SpecError
    from nstool.inspect.attested import attest
    from nstool.spec.load import is_service, load

    if spec and is_service(spec):
        raise SpecError(
            "a service attests its sandboxes itself: before their command, as attest in [service] says, and at any "
            "time by nstool service attest NAME",
            spec,
        )
    found = attest(target, load(spec) if spec else None, read_filter=read_filter)
    if as_json:
        answer.show({**found.asdict(), "holds": found.holds})
    else:
        _print(found, all_=all_)
    return 0 if found.holds else DIFFERENT


def _print(found: Attestation, *, all_: bool) -> None:
    from nstool.cli.console import cell, for_lines
    from nstool.errors import plural

    console = for_lines()
    if (table := compared(found.properties, all_=all_)).row_count:
        console.print(table)
    for text in unknown(found.properties):
        console.print(text)
    held = sum(one.holds is True for one in found.properties)
    if found.holds:
        words = f"attested: process {found.pid} has all that its spec asks for and that can be read, {held} properties"
    else:
        failed = plural(len(found.failed), "property")
        words = f"not attested: process {found.pid} lacks {failed}; {held} hold"
    console.print(cell(words))


def compared(properties: tuple[Property, ...], *, all_: bool) -> Table:
    """Return the properties that do not hold, or all that are known."""
    from nstool.cli.console import Table, cell

    table = Table("property", "wanted", "found", "")
    for one in properties:
        if one.holds is False or (all_ and one.holds):
            text, style = ("holds", "") if one.holds else ("does not hold", "red")
            table.add_row(
                cell(one.name), cell(one.wanted or "none"), cell(one.found or "none", style), cell(text, style)
            )
    return table


def unknown(properties: Iterable[Property]) -> list[Text]:
    """Return why which properties are not known, a line a reason."""
    from nstool.cli.console import cell

    names: dict[str, dict[str, None]] = {}
    for one in properties:
        if one.holds is None:
            names.setdefault(one.found, {})[one.name] = None
    return [cell(f"not known: {', '.join(same)}: {why}") for why, same in names.items()]
