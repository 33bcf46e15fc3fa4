"""``nstool attest``: whether a sandbox, or a process, has the protections that its spec asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nstool.inspect.attested import Attestation

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
@click.option("--filter", "read_filter", is_flag=True, help="Compare the seccomp filter itself; stops it for a moment.")
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
    from nstool.inspect.attested import attest
    from nstool.spec.load import load

    found = attest(target, load(spec) if spec else None, read_filter=read_filter)
    if as_json:
        answer.show({**found.asdict(), "holds": found.holds})
    else:
        _print(found, all_=all_)
    return 0 if found.holds else DIFFERENT


def _print(found: Attestation, *, all_: bool) -> None:
    from nstool.cli.console import Table, cell, for_lines
    from nstool.errors import plural

    console = for_lines()
    table = Table("property", "wanted", "found", "")
    words = {True: ("holds", ""), False: ("does not hold", "red"), None: ("not known", "yellow")}
    for one in found.properties:
        if all_ or not one.holds:
            text, style = words[one.holds]
            wanted = one.wanted or "none"
            table.add_row(cell(one.name), cell(wanted), cell(one.found or "none", style), cell(text, style))
    if table.row_count:
        console.print(table)
    held = sum(one.holds is True for one in found.properties)
    unknown = sum(one.holds is None for one in found.properties)
    rest = f", {unknown} not known" if unknown else ""
    if found.holds:
        console.print(cell(f"attested: process {found.pid} has all {held} properties that its spec asks for{rest}"))
    else:
        failed = plural(len(found.failed), "property")
        console.print(cell(f"not attested: process {found.pid} lacks {failed}; {held} hold{rest}"))
