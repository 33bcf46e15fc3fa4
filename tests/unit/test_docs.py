"""The documents are current, and what they speak of exists."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest

from nstool.cli import run
from nstool.cli.main import COMMANDS
from nstool.cli.options import OPTIONS
from nstool.spec import model
from nstool.spec.docs import DOCS

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "docs"
WRITTEN = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *BOOK.glob("*.md"), *(BOOK / "adr").glob("*.md")])


@pytest.fixture(scope="module")
def makers() -> Iterator[dict[str, ModuleType]]:
    """The programs that make documents, by name."""
    sys.path.insert(0, str(BOOK))
    try:
        yield {name: importlib.import_module(name) for name in ("make_spec", "make_cli", "make_man", "make_json")}
    finally:
        sys.path.remove(str(BOOK))


@pytest.mark.parametrize(
    ("maker", "file"), [("make_spec", "spec.md"), ("make_cli", "cli.md"), ("make_json", "json.md")]
)
def test_reference_is_current(makers: dict[str, ModuleType], maker: str, file: str) -> None:
    """docs/spec.md, docs/cli.md and docs/json.md are what their sources say; `make docs` makes them."""
    assert (BOOK / file).read_text("utf-8") == makers[maker].text(), "run make docs"


SERVICES = sorted((ROOT / "examples/services").glob("*.toml"))


@pytest.mark.parametrize("spec", SERVICES, ids=lambda spec: spec.stem)
def test_service_is_told_in_full(spec: Path) -> None:
    """docs/services.md has each spec of examples/services as it is, in a section that says what is still possible."""
    text = (BOOK / "services.md").read_text("utf-8")
    assert f"```toml\n{spec.read_text('utf-8')}```\n" in text
    assert f"| [{spec.name}](#" in text
    section = text.partition(f"```toml\n{spec.read_text('utf-8')}")[2].partition("\n## ")[0]
    assert "*Still possible:* " in section


SERVED = sorted((ROOT / "examples/serve").glob("*.toml"))


@pytest.mark.parametrize("spec", SERVED, ids=lambda spec: spec.stem)
def test_served_example_has_its_row(spec: Path) -> None:
    """docs/serve_examples.md has a row of each spec of examples/serve, with its shape, its life and its other words."""
    words = tomllib.loads(spec.read_text("utf-8"))
    shape, life = words["service"].get("shape", "stdio"), words["service"].get("life", "connection")
    text = (BOOK / "serve_examples.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith(f"| [{spec.name}](../examples/serve/{spec.name})"))
    assert [cell.strip() for cell in row.split("|")[2:4]] == [shape, life]
    for key in words["service"].keys() - {"listen", "shape", "life", "places"}:
        assert f"`{key}`" in row, key


@pytest.mark.parametrize("page", ["nstool.1", "nstool.toml.5", *(f"nstool-{name}.1" for name in COMMANDS)])
def test_made_man_page_is_current(makers: dict[str, ModuleType], page: str) -> None:
    """The man pages that are made of the sources are what these say; `make docs` makes them."""
    assert (BOOK / "man" / page).read_text("utf-8") == makers["make_man"].PAGES_MADE[page](), "run make docs"


def test_reference_has_every_key(makers: dict[str, ModuleType]) -> None:
    """Every key of the model has its row, and every human form and man page belongs to a key."""
    maker = makers["make_spec"]
    keys = {f"{cls.__name__}.{field}" for cls in maker.TABLES for field in cls.__fields__}
    assert keys == set(DOCS)
    assert set(maker.FORMS) == set(maker.HUMAN)
    assert set(maker.PAGES) <= keys
    own = {key for key in keys if key.startswith("Service.")} | {"Spec.name"}
    assert keys - set(maker.PAGES) == own, "a key without a man page"


@pytest.mark.parametrize(
    ("key", "shown"),
    [("memory", '`"512M"`'), ("pids", "`256`"), ("swap", "`0`")],
)
def test_defaults_are_shown_as_toml(makers: dict[str, ModuleType], key: str, shown: str) -> None:
    """A default is written as a person would write it in the file."""
    assert makers["make_spec"].default(model.Limits, key) == shown


def test_man_page_names_every_command_and_option() -> None:
    """nstool(1) has a section for each command and an entry for each option of run."""
    text = (BOOK / "man/nstool.1").read_text("utf-8").replace("\\-", "-")
    assert [name for name in COMMANDS if not re.search(rf"^\.SS {name}\b", text, re.MULTILINE)] == []
    assert [option.name for option in OPTIONS if f"\n.B {option.name}" not in text] == []


def test_what_the_defaults_are_is_said_alike() -> None:
    """The DESCRIPTION of nstool(1) says of the default sandbox what `nstool run --help` says, no more."""
    description = (
        (BOOK / "man/nstool.1").read_text("utf-8").partition(".SH DESCRIPTION")[2].partition(".SH COMMANDS")[0]
    )
    said = "the sandbox is the strictest that a normal service still runs in; an option"
    assert said in " ".join(description.split())
    assert said in " ".join((run.command.help or "").split())


@pytest.mark.parametrize("page", sorted(path.name for path in (BOOK / "man").iterdir()))
def test_man_page_uses_plain_macros(page: str) -> None:
    """A page begins with its title, has the sections that readers look for, and uses macros of man(7) only."""
    text = (BOOK / "man" / page).read_text("utf-8")
    macros = set(re.findall(r"^\.([A-Za-z]+)", text, re.MULTILINE))
    assert text.startswith(".TH ")
    assert macros <= {"TH", "SH", "SS", "TP", "PP", "B", "I", "BR", "RB", "RI", "IR", "br", "nf", "fi"}
    assert re.findall(r"^\.SH (.*)$", text, re.MULTILINE)[0] == "NAME"
    assert ".SH SEE ALSO\n" in text
    title, name, sentence, *lines = text.splitlines()
    assert len(sentence) <= 100  # of NAME, which mandb(8) wants in one line
    assert max(map(len, (title, name, *lines))) <= 80


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file of ours leads to one that exists."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_readme_leads_to_every_document() -> None:
    """Whoever reads the README finds the others, the manual pages too."""
    links = set(re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text("utf-8")))
    wanted = {str(path.relative_to(ROOT)) for path in (*BOOK.glob("*.md"), BOOK / "adr", BOOK / "man")}
    assert wanted - links == set()


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(path: Path, makers: dict[str, ModuleType]) -> None:
    """A command line of nstool names a command and options that it has. What learns hands them to run."""
    commands = makers["make_cli"].commands()
    text = path.read_text("utf-8")
    lines = re.findall(r"`nstool ([a-z][^`]*)`", text)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        lines += re.findall(r"^nstool ([a-z].*)$", block, re.MULTILINE)
    for line in lines:
        command, *words = line.split(" -- ")[0].split()
        assert command in COMMANDS, line
        two = f"{command} {words[0]}" if words else ""
        known = {
            option
            for name in (two, command, *(["run"] if two == "seccomp learn" else []))
            if name in commands
            for param in commands[name].params
            for option in (*param.opts, *param.secondary_opts)
        }
        given = {word.partition("=")[0] for word in words if word.startswith("--") and len(word) > 2}
        assert given - known <= {"--help"}, line


def names_in(module: str) -> set[str]:
    """Return the names that a module of nstool defines, without importing it."""
    file = ROOT / "nstool" / (module.replace(".", "/") + ".py")
    found: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
    return found


@pytest.mark.parametrize("path", [BOOK / "book.md", BOOK / "library.md"], ids=lambda path: path.name)
def test_functions_exist(path: Path) -> None:
    """A function that a document names is one of its module."""
    text = path.read_text("utf-8")
    named = re.findall(r"`(?:nstool\.)?(syscalls|(?:sandbox|inspect|security)\.[a-z]+)\.([a-z_0-9]+)\(", text)
    assert named
    assert [f"{module}.{name}" for module, name in named if name not in names_in(module)] == []


def test_library_lists_system_calls() -> None:
    """The bare calls that the document lists are functions of nstool.syscalls."""
    section = (BOOK / "library.md").read_text("utf-8").split("## The bare system calls")[1].split("```")[0]
    listed = re.findall(r"\b[a-z][a-z0-9_]+(?=,|\.| and the)", section.split("refused:")[1].split("Flags are")[0])
    assert len(listed) > 30
    assert set(listed) - {"calls", "others"} <= names_in("syscalls") | {"umount2"}


def test_decisions_have_their_form() -> None:
    """The notes are numbered without gaps and say context, choice and cost."""
    notes = sorted((BOOK / "adr").glob("*.md"))
    assert [note.name[:4] for note in notes] == [f"{number:04}" for number in range(1, len(notes) + 1)]
    for note in notes:
        text = note.read_text("utf-8")
        assert text.startswith(f"# {note.name[:4]} "), note.name
        assert all(f"**{word}.**" in text for word in ("Context", "Choice", "Cost")), note.name


def test_picture_is_of_its_source() -> None:
    """Every box of architecture.dot is in architecture.svg."""
    source = (BOOK / "architecture.dot").read_text("utf-8")
    words = [word for label in re.findall(r'label="([^"]+)"', source) for word in re.split(r"\\n", label)]
    picture = (BOOK / "architecture.svg").read_text("utf-8").replace("&#45;", "-")
    assert [word for word in words if word not in picture] == []


def test_every_option_of_every_command_is_in_its_page(makers: dict[str, ModuleType]) -> None:
    """nstool-NAME(1) has what NAME --help has; what makes the spec is in nstool(1)."""
    of_spec = {option.name for option in OPTIONS} | {option.opposite for option in OPTIONS}
    missing = []
    for key, command in makers["make_cli"].commands().items():
        name = key.split()[0]
        page = (BOOK / "man" / f"nstool-{name}.1").read_text("utf-8").replace("\\-", "-")
        tags = set(re.findall(r"--[a-z-]+", "\n".join(re.findall(r"^\.B (-.*)$", page, re.MULTILINE))))
        known = tags | (of_spec if name in makers["make_man"].TAKES_A_SPEC else set())
        for param in command.params:
            given = [*param.opts, *param.secondary_opts] if isinstance(param, click.Option) else []
            missing += [(key, option) for option in given if option.startswith("--") and option not in known]
    assert missing == []
