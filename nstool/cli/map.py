"""``nstool map``: the host's namespaces and processes as a page or a picture."""

from __future__ import annotations

import os

import click

from nstool.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.inspect.map import HostMap

FORMS = (".html", ".svg", ".dot", ".json")


@click.command(
    "map",
    epilog="""\b
Examples:
  nstool map -o map.html   then open it in a browser: search it, click a process
  nstool map -o map.svg    the tree of user namespaces as a picture, by Graphviz
  nstool map -o map.json   all that the page shows, for programs
""",
)
@click.option(
    "--output", "-o", required=True, metavar="FILE", help="Where to; the name says what: .html .svg .dot .json"
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
def command(output: str, force: bool) -> int:
    """Draw the host: the tree of user namespaces, in each the groups of processes that share all namespaces.

    A group is what people call a container, a sandbox or a service; it is named by its cgroup where that follows a
    known convention, else by its oldest process. Namespaces without a process are shown with what keeps them.

    The page is one file that needs no network. It has the command line, ids, capabilities, cgroups of every process
    that you may look into, so only you may read the file.
    """
    from nstool.cli.write import write

    form = os.path.splitext(output)[1]
    if form not in FORMS:
        raise SpecError(f"{output!r} ends in none of {' '.join(FORMS)}", "--output")
    if os.path.lexists(output) and not force:  # before the work is done
        raise SpecError("exists; --force overwrites it", output)
    from nstool.inspect.map import host_map

    found = host_map()
    write(output, _drawn(found, form), 0o600, force)
    for note in found.census.notes:
        click.echo(f"note: {note}", err=True)
    return 0


def _drawn(found: HostMap, form: str) -> bytes:
    if form in (".svg", ".dot"):
        from nstool.cli import picture
        from nstool.inspect.map_dot import dot

        return picture.drawn(dot(found), form) if form == ".svg" else dot(found).encode()
    from nstool.inspect import map_page

    if form == ".html":
        return map_page.page(found).encode()
    import json

    return json.dumps(map_page.data(found), indent=1).encode()
