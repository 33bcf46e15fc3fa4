"""Make docs/man/nstool.1 and docs/man/nstool.toml.5 from the sources of the command line and of the spec.

``make docs`` runs it; tests/unit/test_docs.py fails when a file is not what this makes. The other pages
in docs/man are written by hand.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from textwrap import wrap

import make_cli
from make_spec import PAGES, TABLES, default, form

from nstool.cli.main import COMMANDS
from nstool.cli.options import OPTIONS
from nstool.spec import model
from nstool.spec.docs import DOCS, MOUNT_OPTIONS

DATE = "2026-11-26"  # of the last change that a reader of the pages would notice
MAN = Path(__file__).parent / "man"
SYNOPSIS = """\
.B nstool run
.RI [ OPTIONS ]
.B \\-\\-
.IR COMMAND " [" ARGS ]
.br
.B nstool run
.RI [ OPTIONS ]
.IR SPEC .toml
.RB [ \\-\\-
.IR ARGS ]
.br
.B nstool
.IR COMMAND " [" OPTIONS ]
"""
NSTOOL_1 = """\
.B nstool
runs a command in new user, mount, pid, network, UTS, IPC, cgroup and time
namespaces, with no capability, a system call filter and limits.
It plans every step before it takes the first;
.B nstool plan
prints the steps.
An error names the step, the call, the errno, the checked cause and the
remedy.
What is made outside the sandbox is written to a journal first, and undone
whatever happens.
.PP
With neither a file nor options the sandbox is the strictest that a normal
service still runs in; an option or a key of
.BR nstool.toml (5)
loosens one thing, or, as
.B \\-\\-seccomp strict
does, tightens it.
"""
STATUS = (
    ("the command's own", "it ran; 128+n when signal n ended it."),
    ("0", "commands other than run, exec and enter: done."),
    ("2", "a bad spec, option or name; one message on standard error, nothing was done."),
    ("125", "it could not be done; what was begun is undone."),
    ("126", "the command was found but cannot be executed."),
    ("127", "the command was not found."),
)
ENVIRONMENT = (
    (
        "NSTOOL_RUN_DIR",
        "The run directory, absolute; else /run/nstool for root, $XDG_RUNTIME_DIR/nstool or /tmp/nstool-UID for users. "
        "It is made when it is wanted, and removed when nothing is in it.",
    ),
    ("NSTOOL_IDS", "FIRST-LAST: host ids that sandboxes of root lease, in ranges of 65536."),
    ("NSTOOL_NETS", "NET/BITS,...: IPv4 networks that sandboxes lease, in /30."),
    ("NSTOOL_DEBUG", "Set: a bug of nstool is shown with its traceback."),
)
FILES = (
    ("/run/nstool/sandboxes/NAME/journal", "What the sandbox NAME is, and how it is undone."),
    ("/run/nstool/ids, /run/nstool/nets", "Leases of host ids and networks."),
)


def escaped(text: str) -> str:
    """Return text as roff takes it literally, in lines of less than 80 bytes."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("…", "...")
    lines = wrap(plain, 78, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"\\&{line}" if line.startswith(".") else line for line in lines)


def item(tag: str, text: str) -> str:
    """Return one entry of a list."""
    return f".TP\n.B {escaped(tag)}\n{escaped(text)}\n"


def head(name: str, section: int, sentence: str) -> str:
    """Return the beginning of a page."""
    title = name.upper()
    return f'.TH {title} {section} {DATE} nstool "nstool manual"\n.SH NAME\n{escaped(name)} \\- {escaped(sentence)}\n'


def nstool_1() -> str:
    """Return nstool(1)."""
    parts = [head("nstool", 1, "sandboxes from Linux namespaces"), f".SH SYNOPSIS\n{SYNOPSIS}"]
    parts.append(f".SH DESCRIPTION\n{NSTOOL_1}")
    parts.append(".SH COMMANDS\n")
    for name, command in make_cli.commands().items():
        heading = f"{name} {make_cli.usage(command)}".strip()
        parts.append(f".SS {escaped(heading)}\n" + told(command.help))
        if name == "run":
            parts.append(".PP\nIts options are in the section OPTIONS OF RUN below.\n")
            continue
        parts += [item(tag, about) for tag, about in make_cli.options(name, command)]
    parts.append(".SH OPTIONS OF RUN\nplan, check and compile take them too.\n")
    for option in OPTIONS:
        parts.append(item(make_cli.run_option(option), f"{option.description} Key: {option.key}."))
    for title, items in (("EXIT STATUS", STATUS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        parts.append(f".SH {title}\n" + "".join(item(*words) for words in items))
    parts.append(".SH SEE ALSO\n.BR nsexec (1),\n.BR nstool.toml (5),\n.BR nstool\\-plan (5),\n.BR namespaces (7)\n")
    return "".join(parts)


def nstool_toml_5() -> str:
    """Return nstool.toml(5)."""
    parts = [head("nstool.toml", 5, "what a sandbox of nstool is to be")]
    parts.append(
        ".SH DESCRIPTION\nA spec is a TOML file, or a JSON file with the same keys.\n"
        "Every default is the safe one, so a file with\n.B command\nalone is complete.\n"
        "Relative paths of the host start at the directory of the file.\n"
        "A key that does not exist, a wrong type, or keys that do not fit together\n"
        "are refused with file and line before anything is done.\n"
    )
    for cls, (heading, how) in TABLES.items():
        parts.append(f".SS {escaped(heading)}\n{escaped(how.replace('`', ''))}.\n")
        for field in cls.__fields__:
            key = f"{cls.__name__}.{field}"
            value = default(cls, field).replace("`", "")
            page = PAGES.get(key, "")
            about = DOCS[key] + (f" See {page}." if page and page not in DOCS[key] else "")
            parts.append(item(field, f"{about} Value: {form(cls, field)}. Default: {value}."))
        if cls is model.Mount:
            options = "; ".join(f"{option}: {sets}" for option, sets in MOUNT_OPTIONS.items())
            parts.append(f".PP\n{escaped(f'The options of the short form, and what each sets: {options}.')}\n")
    parts.append(
        ".SH EXAMPLES\nA web server whose files are read\\-only, with a published port:\n.PP\n.nf\n"
        'command = ["python3", "\\-m", "http.server", "8000", "\\-d", "/srv"]\n'
        'mounts = ["./site:/srv"]\n\n[net]\nmode = "veth"\npublish = ["127.0.0.1:8080:8000"]\n\n'
        '[limits]\nmemory = "128M"\npids = 32\n.fi\n'
    )
    parts.append(".SH SEE ALSO\n.BR nstool (1),\n.BR nstool\\-plan (5),\n.BR namespaces (7),\n.BR capabilities (7)\n")
    return "".join(parts)


def told(text: str | None) -> str:
    """Return a help text: its paragraphs, those whose lines are kept as they stand."""
    parts = []
    for paragraph in make_cli.paragraphs(text):
        lines = paragraph.split("\n")
        plain = [escaped(line) if line.strip() else "" for line in lines]
        kept = [" " * (len(line) - len(line.lstrip())) + words for line, words in zip(lines, plain)]
        parts.append(".nf\n" + "\n".join(kept) + "\n.fi\n" if len(lines) > 1 else plain[0] + "\n")
    return ".PP\n".join(parts)


def examples(text: str) -> str:
    """Return the examples of an epilog as a list: "  nstool …   what it answers", which may be on the next line."""
    found: list[list[str]] = []
    rest = []
    for line in text.replace("\b\n", "").split("\n"):
        command, _, about = line.strip().partition("   ")
        if line.startswith("  ") and command.startswith("nstool "):
            found.append([command, about.strip()])
        elif line.startswith("      ") and found:
            found[-1][1] += f" {line.strip()}"
        elif line.strip() and line.strip() != "Examples:":
            rest.append(line.strip())
    shown = "".join(item(command, about.strip()) for command, about in found)
    return f".PP\nExamples:\n{shown}" + (f".PP\n{escaped(' '.join(rest))}\n" if rest else "")


def command_page(name: str) -> str:
    """Return nstool-NAME(1), with the sub-commands if it is a group."""
    found = {key: command for key, command in make_cli.commands().items() if key.split()[0] == name}
    parts = [head(f"nstool-{name}", 1, COMMANDS[name][1].rstrip("."))]
    lines = [f".B nstool {escaped(key)}\n{escaped(make_cli.usage(command))}\n" for key, command in found.items()]
    parts.append(".SH SYNOPSIS\n" + ".br\n".join(lines))
    for key, command in found.items():
        title = ".SH DESCRIPTION" if key == name else f".SS {escaped(f'{key} {make_cli.usage(command)}'.strip())}"
        parts.append(f"{title}\n{told(command.help)}")
        if name in TAKES_A_SPEC:
            parts.append(".PP\nThe options that make the spec are in\n.BR nstool (1).\n")
        own = make_cli.options("" if name == "run" else key, command)
        # Of the commands that take a spec those are in nstool(1); another's --env is an option of its own.
        names = {option.name for option in OPTIONS} if name in TAKES_A_SPEC else set()
        parts += [item(tag, about) for tag, about in own if tag.split(",")[0].split()[0] not in names]
        if command.epilog:
            parts.append(examples(command.epilog))
    parts.append(".SH EXIT STATUS\nAs of all commands, in\n.BR nstool (1),\nunless it is said above.\n")
    parts.append(".SH SEE ALSO\n.BR nstool (1)\n")
    return "".join(parts)


TAKES_A_SPEC = ("run", "plan", "check", "compile")
PAGES_MADE = {
    "nstool.1": nstool_1,
    "nstool.toml.5": nstool_toml_5,
    **{f"nstool-{name}.1": partial(command_page, name) for name in COMMANDS},
}


if __name__ == "__main__":
    for name, make in PAGES_MADE.items():
        (MAN / name).write_text(make(), encoding="utf-8")
    sys.exit(0)
