"""``nstool seccomp``: lists of system calls: what they say, what a filter answers, other languages, learning one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nstool.cli import seccomp_learn, seccomp_show
from nstool.cli.caps import InOrder

if TYPE_CHECKING:
    from collections.abc import Iterable

COMMANDS: Iterable[click.Command] = (
    seccomp_show.show,
    seccomp_show.test,
    seccomp_show.export,
    seccomp_learn.learn,
)


@click.group(
    "seccomp",
    cls=InOrder,
    epilog="""\b
Examples:
  nstool seccomp show strict                   what may a command do under it?
  nstool seccomp test web.toml mount           what would be answered to this call?
  nstool seccomp learn -o calls.toml -- ./web  what it makes, as a list
  nstool run --seccomp calls.toml -- ./web     with no more than that
""",
)
def command() -> None:
    """Show lists of system calls, ask them, turn them into other languages, learn one from a run. seccomp(2).

    A LIST is default, strict, none or empty; a file: OCI JSON, kafel, TOML with the keys of [seccomp], compiled BPF
    (.bpf); or a spec, whose list is meant.
    """


for _command in COMMANDS:
    command.add_command(_command)
