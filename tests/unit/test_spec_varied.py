"""What varies of a service, as its spec says it: placeholders, variants, and where a step is in the plan."""

from __future__ import annotations

import pytest

from nstool import uapi
from nstool.errors import SpecError
from nstool.plan import service as plans
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT
from nstool.spec.check import key_path
from nstool.spec.model import Spec
from nstool.spec.service import Service
from nstool.spec.varied import filled, variants
from tests.unit.test_order import ROOT_HOST

LISTEN = ("tcp:127.0.0.1:0",)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("--port={port}", "--port=80"),
        ("{address}:{port}", "127.0.0.1:80"),
        ("${port} ${address}", "${port} ${address}"),
        ("{{port}}", "{80}"),
        ("{Port} {port {} {name} { port }", "{Port} {port {} {name} { port }"),
    ],
)
def test_placeholders_stand_for_port_and_address(text: str, wanted: str) -> None:
    """In words and in values of the environment; other braces, and a shell's variables, stay."""
    found = filled(Spec(command=("{port}", text), env={"{port}": text}), "80", "127.0.0.1")
    assert found.command == ("{port}", wanted)
    assert found.env == {"{port}": wanted}


def test_a_command_goes_with_the_root_at_its_place() -> None:
    """As many variants as there are of both."""
    service = Service(listen=LISTEN, roots=("/a", "system"), commands=(("one",), ("two", "words")))
    found = variants(Spec(command=()), service, key_path)
    assert [(one.root.type, one.root.path, one.command) for one in found] == [
        ("directory", "/a", ("one",)),
        ("system", "", ("two", "words")),
    ]


def test_what_is_wrong_with_a_variant_is_told_by_the_lists() -> None:
    """A root and a command are where they are written; what the spec itself says is there."""
    service = Service(listen=LISTEN, roots=("/a",), commands=(("",),))
    with pytest.raises(SpecError, match=r"^service\.commands\[0\]: the name of the command is empty"):
        variants(Spec(command=()), service, key_path)
    with pytest.raises(SpecError, match=r"^hostname: "):
        variants(Spec(command=(), hostname="-" * 99), service.replace(commands=(("x",),)), key_path)


def test_a_sandbox_enters_its_time_namespace_with_the_templates_id() -> None:
    """The files of its process in /proc are not its own later: first the offsets, then the way in, then the ids."""
    spec, lease = Spec(command=("/bin/true",)), Lease(name="x", uid_base=5, gid_base=5, boot_id="b", machine_id="m")
    without = plans.sandbox(spec, ROOT_HOST, lease, 3).steps
    calls = [step.call for step in plans.sandbox(spec, ROOT_HOST, lease, 3, ("clock",)).steps if step.who == INIT]
    last = calls.index("setns")
    assert calls[last - 3 : last + 1] == ["unshare", "write_file", "openat2", "setns"]
    assert calls.index("setresuid") > last
    assert not [step for step in without if step.call == "setns" or step.args == (uapi.CLONE_NEWTIME,)]
