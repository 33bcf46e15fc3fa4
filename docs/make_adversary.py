"""Make docs/adversary.md: what tests/kernel/adversary tries inside a sandbox, and what shows that each can fail.

``make docs`` runs it; tests/kernel/adversary/test_mutations.py fails when the file is not what this prints.
"""

from __future__ import annotations

import sys

from tests.kernel.adversary.base import PROTECTIONS, Check
from tests.kernel.adversary.checks import GROUPS
from tests.kernel.adversary.mutations import MUTATIONS

HEAD = """\
# What is tried against the defaults

`tests/kernel/adversary` runs a small program as the command of a sandbox with the defaults, launched by root and by an
ordinary user. It tries what follows and tells result and errno; what can only be seen outside, the test reads there.
A check has a name, a property, and the protection that it stands for ([security.md](security.md) tells of those). That
checks can fail is shown by the mutations below: each takes one protection away, by a word of the spec or a step of the
plan, and the checks that it names must not hold then.

{checks} checks, {mutations} mutations. This file is made by `make docs`.
"""


def text() -> str:
    """Return the document."""
    head = HEAD.format(checks=sum(len(group.checks) for group in GROUPS.values()), mutations=len(MUTATIONS))
    return "\n".join((head, *_checks(), *_mutations()))


def _checks() -> list[str]:
    lines = []
    for name, group in GROUPS.items():
        words = "".join(f", {key} = {value!r}" for key, value in group.words.items() if key == "user")
        lines += [f"## {name}{words}", "", "| must hold | by | checks: what is expected |", "|---|---|---|"]
        rows: dict[tuple[str, str], list[Check]] = {}
        for check in group.checks:
            rows.setdefault((check.property, check.protection), []).append(check)
        lines += [f"| {what} | {PROTECTIONS[how]} | {_names(checks)} |" for (what, how), checks in rows.items()]
        lines.append("")
    return lines


def _names(checks: list[Check]) -> str:
    by_words: dict[str, list[str]] = {}
    for check in checks:
        only = f" ({check.only})" if check.only else ""
        by_words.setdefault(check.expected.words, []).append(f"{check.name}{only}")
    return "; ".join(f"{', '.join(names)}: {_cell(words)}" for words, names in by_words.items())


def _mutations() -> list[str]:
    lines = ["## Mutations", "", "| taken away | of | what changes | red |", "|---|---|---|---|"]
    for mutation in MUTATIONS:
        only = f" ({mutation.only})" if mutation.only else ""
        lines.append(f"| {mutation.name}{only} | {mutation.group} | {mutation.how} | {', '.join(mutation.red)} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(text())
