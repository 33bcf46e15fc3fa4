"""The planner: same input, same plan; every valid spec has a plan or a reason; a template gives no other plan."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, event, given

from nstool.errors import NotSupported, NstoolError, SpecError
from nstool.plan import build
from nstool.plan.calls import CALLS
from nstool.plan.describe import call_text, man
from nstool.plan.encode import decode, encode
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import WHO, Fd, Plan
from nstool.plan.template import Template
from nstool.spec.model import IdMap, Spec
from tests.unit import strategies

Case = tuple[Spec, Host, Lease]


def planned(case: Case) -> Plan:
    """The plan of a case; a case that has a reason for having none is not looked at."""
    try:
        return build.plan(*case)
    except (SpecError, NotSupported):
        assume(False)
        raise


@given(strategies.cases())
def test_every_valid_spec_has_a_plan_or_a_reason(case: Case) -> None:
    """plan returns a plan that can be encoded and shown, or raises SpecError or NotSupported; never anything else."""
    try:
        plan = build.plan(*case)
    except (SpecError, NotSupported) as error:
        event(f"{type(error).__name__}: {str(error)[:40]}")
        return
    encode(plan)
    for step in plan.steps:
        assert step.who in WHO
        assert step.why, call_text(step)
        assert call_text(step)
        assert man(step)


@given(strategies.cases())
def test_plan_comes_back_from_its_encoding(case: Case) -> None:
    """Every step with its strings, lists, numbers and fds is in the bytes that nsexec gets."""
    plan = planned(case)
    data = encode(plan)
    again = decode(data)
    assert encode(again) == data
    shown = [(s.who, s.call, [_shown(a) for a in s.args]) for s in plan.steps if s.call != "external"]
    assert [(s.who, s.call, [_shown(a) for a in s.args]) for s in again.steps if s.call != "external"] == shown


def _shown(arg: object) -> object:
    # fds lose their names, bytes and strings are told apart by the call only
    if isinstance(arg, Fd):
        return Fd
    if isinstance(arg, str):
        return arg.encode("utf-8", "surrogateescape")
    if isinstance(arg, int):
        return (arg + (1 << 63)) % (1 << 64) - (1 << 63)
    return arg


@given(strategies.cases())
def test_same_input_same_plan(case: Case) -> None:
    """plan is a function: it keeps nothing from one call to the next and changes nothing that it is given."""
    before = pickle.dumps(case)
    plan = planned(case)
    assert build.plan(*case) == plan
    assert build.plan(*pickle.loads(before)) == plan
    assert pickle.dumps(case) == before


DIGEST = """
import hashlib, pickle, sys
from nstool.plan import build
from nstool.plan.encode import encode
print([hashlib.sha256(encode(build.plan(*case))).hexdigest() for case in pickle.load(sys.stdin.buffer)])
"""


def _digests(cases: list[Case], seed: str) -> str:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", DIGEST]
    return subprocess.run(
        command, input=pickle.dumps(cases), env=environment, check=True, capture_output=True
    ).stdout.decode()


def test_same_bytes_in_every_interpreter() -> None:
    """No order of a set gets into a plan: interpreters with other hash seeds make the same bytes."""
    from nstool.spec.model import Limits, Mount, Namespaces, Net, Root

    lease = Lease("web", 100000, 100000, 65536, "nstool-web", "ns-0ad50002", "10.213.0.2/30", "10.213.0.1/30")
    full = Host(
        proc_files={"kcore": False, "sys": True, "fs": True, "keys": False},
        root=frozenset({"/proc", "/dev", "/tmp", "/run", "/data"}),
        covered=("/home", "/root"),
        scratch=("/tmp", "/run"),
        cgroups=strategies.layout(1),
        source_kinds={"/srv": "dir"},
        targets={"/data": "dir"},
    )
    base = Spec(command=("true",), env={"B": "1", "A": "2"})
    joined = Namespaces(user="77", mnt="new", pid="77", net="77", uts="77", ipc="77")
    no_limits = Limits(memory=0, pids=0, cpu=0)
    cases = [
        (base, full, lease),
        (base.replace(net=Net("veth"), mounts=(Mount("/data", "/srv"),), limits=Limits(cpu=0.5)), full, lease),
        (base.replace(root=Root("overlay", lower=("/a", "/b"))), full, lease),
        (
            base.replace(namespaces=joined, net=Net("join", "77"), limits=no_limits),
            full,
            lease,
        ),
    ]
    here = str([hashlib.sha256(encode(build.plan(*case))).hexdigest() for case in cases])
    assert [_digests(cases, seed).strip() for seed in ("0", "1", "4242")] == [here] * 3


# ---- what holds for every plan ----


@given(strategies.cases())
def test_fds_are_opened_before_they_are_used(case: Case) -> None:
    """Each fd was given, or opened by an earlier step of a role whose fds this role has. csrc/nstool.h.

    What the launcher opens before clone3 is seen by all; what init opens, by init and the payload.
    """
    plan = planned(case)
    known = {who: set(plan.given) for who in WHO}
    cloned = False
    for step in plan.steps:
        for arg in step.args:
            if isinstance(arg, Fd):
                assert arg.name in known[step.who], f"{step.who} has no {arg.name}: {call_text(step)}"
        cloned = cloned or step.call == "clone3"
        if step.result:
            heirs = {"launcher": ("launcher",) if cloned else WHO, "init": ("init", "payload"), "payload": ("payload",)}
            for who in heirs[step.who]:
                known[who].add(step.result)


@given(strategies.cases())
def test_arguments_are_of_their_kinds(case: Case) -> None:
    """As many arguments as the call has parameters, each of the type that its kind says."""
    types = {
        "i": (int,),
        "f": (int, Fd),
        "s": (str, bytes),
        "z": (str, bytes, type(None)),
        "b": (str, bytes),
        "v": (tuple,),
        "x": (dict,),
    }
    for step in planned(case).steps:
        params = CALLS[step.call].params
        assert len(step.args) == len(params), step
        for (name, kind), arg in zip(params, step.args):
            assert isinstance(arg, types[kind]), f"{step.call} {name}={arg!r}"


@given(strategies.cases())
def test_what_is_made_outside_is_undone(case: Case) -> None:
    """For each cgroup that the launcher makes and each external step there is a step that takes it away."""
    plan = planned(case)
    made = [s.args[1] for s in plan.steps if (s.who, s.call) == ("launcher", "mkdirat") and s.args[0] == -100]
    undone = [s.args[1] for s in plan.steps if (s.who, s.call) == ("undo", "unlinkat")]
    assert made == undone
    external = [s.who for s in plan.steps if s.call == "external"]
    assert external.count("launcher") == external.count("undo")


# ---- the template ----


@given(strategies.cases())
def test_template_gives_the_plan_of_the_lease(case: Case) -> None:
    """A plan made once and filled in for a lease is the plan that would have been made for that lease."""
    spec, host, lease = case
    assume(spec.net.mode not in ("veth", "bridge"))  # their plans are made each time
    plan = planned(case)
    filled = Template(lambda other: build.plan(spec, host, other)).fill(lease)
    assert decode(filled.data) == decode(encode(plan))
    assert filled.undo == tuple(step for step in plan.steps if step.who == "undo")
    assert filled.plan == plan


def test_template_of_a_sandbox_without_a_name() -> None:
    """The host name inside is "sandbox" where the sandbox has no name of its own, with a template too."""
    spec = Spec(command=("true",))
    filled = Template(lambda lease: build.plan(spec, Host(), lease)).fill(Lease(""))
    assert [s.args for s in decode(filled.data).steps if s.call == "sethostname"] == [(b"sandbox",)]


# ---- accounts ----


@pytest.mark.parametrize(("count", "named"), [(1, False), (5, False), (6, True)])
def test_a_group_of_terminals_is_named_where_there_is_one(count: int, named: bool) -> None:
    """/etc/group has tty, and /dev/pts that group, only where the gid_map has 5: sshd would give a terminal to it."""
    ids = (IdMap(0, 5000, count),)
    spec = Spec(command=("true",), user="0", uid_map=ids, gid_map=ids)
    steps = build.plan(spec, Host(), Lease("web", 100000, 100000)).steps
    (groups,) = [step.args[2] for step in steps if step.call == "write_file" and step.args[1] == "etc/group"]
    assert ("tty:x:5:" in str(groups), "gid" in [step.args[2] for step in steps if step.call == "fsconfig"]) == (
        named,
        named,
    )


# ---- limits ----


def test_too_many_mounts_are_refused_in_words() -> None:
    """A spec that needs more fds or steps than C has room for is refused before anything is done."""
    from nstool.spec.model import Mount

    many = tuple(Mount(f"/mnt/{n}", type="tmpfs") for n in range(900))
    host = Host(root=frozenset({"/proc", "/dev", "/tmp"}), targets={m.target: "dir" for m in many})
    with pytest.raises(NstoolError, match="use fewer mounts"):
        encode(build.plan(Spec(command=("true",), mounts=many), host, Lease("web", 100000, 100000)))


def test_too_many_passed_fds_are_refused_in_words() -> None:
    """They take slots as mounts do, and where there are no mounts the remedy is theirs."""
    spec = Spec(command=("true",), pass_fds=tuple(range(3, 260)))
    with pytest.raises(NstoolError, match="pass fewer fds"):
        encode(build.plan(spec, Host(), Lease("web", 100000, 100000)))
