"""Attestation: a protection that is taken away is found before the command runs, and at any time later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool import KernelError, NotAttested, SandboxGone, SpecError, attest, syscalls, uapi
from nstool.inspect import attested
from nstool.plan.steps import INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step
from nstool.sandbox import attest as attestation
from nstool.sandbox import rundir
from nstool.sandbox.launch import launch
from nstool.spec.model import Capabilities, IdMap, Limits, Mount, Namespaces, Net, Root, Spec
from tests.support import plans, processes
from tests.support.user import User
from tests.support.waiting import waiting

NSTOOL = [os.path.join(os.path.dirname(sys.executable), "nstool")]

Taken = Callable[[Step], bool]


def nstool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NSTOOL, *words], capture_output=True, text=True, timeout=60)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def lacks(error: NotAttested) -> set[str]:
    return {name for name, _, _ in error.differences}


# ---- a step that is left out ----


def by(call: str, who: str, *args: object) -> Taken:
    return lambda step: (step.call, step.who, step.args[: len(args)]) == (call, who, args)


def writes(end: str) -> Taken:
    return lambda step: step.call in ("write_file", "write_proc") and any(str(arg).endswith(end) for arg in step.args)


def covers(path: str) -> Taken:
    return lambda step: step.call == "move_mount" and step.args[-2] == path


def last_capset(step: Step) -> bool:
    return step.call == "capset" and step.who == PAYLOAD and step.why == "the command's own sets"


SYS_ADMIN = Capabilities(*[("sys_admin",)] * 5)
BARE = Spec(command=("true",))
SCRATCH = ("/tmp", "/var/tmp", "/run", "/dev/shm")
LEFT_OUT: dict[str, tuple[Taken, set[str], Spec]] = {
    "no_new_privs": (
        by("prctl", PAYLOAD, uapi.PR_SET_NO_NEW_PRIVS),
        {"no_new_privs"},
        BARE.replace(seccomp="none"),
    ),
    "filter": (by("seccomp", PAYLOAD), {"seccomp"}, BARE),
    "user id": (by("setresuid", PAYLOAD), {"user"}, BARE),
    "group id": (by("setresgid", PAYLOAD), {"user"}, BARE),
    "capabilities": (last_capset, {"capabilities.effective", "capabilities.permitted"}, BARE),
    "bounding set": (by("drop_bounding", PAYLOAD), {"capabilities.bounding"}, BARE),
    "session": (by("setsid", PAYLOAD), {"session"}, BARE),
    "closed fds": (by("close_range", PAYLOAD), {"pass_fds"}, BARE),
    "limit of fds": (
        by("setrlimit", PAYLOAD, 7),
        {"limits.rlimits.nofile"},
        BARE.replace(limits=Limits(rlimits={"nofile": (100, 100)})),  # not what many a host has anyway
    ),
    "limit of signals": (by("setrlimit", PAYLOAD, 11), {"limits.rlimits.sigpending"}, BARE),
    "limit of queues": (by("setrlimit", PAYLOAD, 12), {"limits.rlimits.msgqueue"}, BARE),
    "limit of tasks": (writes("/pids.max"), {"limits pids.max"}, BARE),
    "limit of buffers": (
        writes("memory.kmem.tcp.limit_in_bytes"),
        {"limits memory.kmem.tcp.limit_in_bytes"},
        BARE,
    ),
    "limit of terminals": (lambda s: s.call == "fsconfig" and s.args[2] == "max", {"terminals"}, BARE),
    "oom score": (writes("oom_score_adj"), {"oom_score_adj"}, BARE),
    "clocks": (writes("timens_offsets"), {"namespaces.monotonic_offset", "namespaces.boottime_offset"}, BARE),
    "cover of /proc/keys": (covers("keys"), {"covered paths"}, BARE),
    "own /proc/sys": (covers("sys"), {"covered paths"}, BARE),
    "own /proc": (lambda s: s.call == "fsconfig" and "hidepid" in s.args, {"hidepid"}, BARE),
    "read-only root": (
        lambda s: s.call == "mount_setattr" and s.args[0] == Fd("root") and s.args[3] == uapi.MOUNT_ATTR_RDONLY,
        {"mounts writable"},
        BARE,
    ),
    "what is shown only read": (
        lambda s: s.call == "mount_setattr" and s.who == LAUNCHER,
        {"mounts writable", "mounts set-user-ID on", "mounts device files on"},
        BARE.replace(root=Root(type="host")),
    ),
    "cgroup of tasks": (
        lambda s: s.call == "write" and s.who == INIT and "pids" in s.why,
        {"cgroup pids"},
        BARE,
    ),
}


# In version 2 clone3 starts init in its cgroup: without that step there is no launch.
NEEDS = {"cgroup of tasks": ("cgroup_v1",), "limit of buffers": ("cgroup_tcp",)}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_user_namespace_of_roots_stops_the_launch() -> None:
    """What is made in it would count for root."""

    def of_root(plan: Plan) -> Plan:
        steps = tuple(s.replace(args=(*s.args[:3], 0)) if s.call == "clone3" else s for s in plan.steps)
        return plan.replace(steps=steps)

    with plans.changed(of_root), pytest.raises(NotAttested) as failed:
        launch(BARE)
    assert lacks(failed.value) == {"owner of the user namespace"}


def weakened(step: Step) -> tuple[Step, ...]:
    """Return what is left of a step that is left out: propagation, without which a host's shared root is no root."""
    if step.call != "mount_setattr" or not step.args[5]:
        return ()
    return (step.replace(args=(*step.args[:3], 0, *step.args[4:])),)


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.needs(*NEEDS.get(what, ()))) for what in LEFT_OUT]
)
def test_a_protection_that_is_missing_stops_the_launch(what: str) -> None:
    """The plan lacks one step, as an error in nstool would have it; attestation does not look at the plan."""
    taken, lacking, spec = LEFT_OUT[what]

    def without(plan: Plan) -> Plan:
        left = tuple(one for step in plan.steps for one in (weakened(step) if taken(step) else (step,)))
        assert left != plan.steps
        return plan.replace(steps=left)

    with plans.changed(without), pytest.raises(NotAttested) as failed:
        launch(spec)
    assert lacks(failed.value) == lacking
    assert "before its command ran" in str(failed.value)


# ---- a word that loosens, where the strict spec was asked for ----


def spec(**words: Any) -> Spec:
    return BARE.replace(**words)


LOOSENED: dict[str, tuple[Spec, set[str]]] = {
    "ipc of the host": (spec(namespaces=Namespaces(ipc="host")), {"namespaces.ipc"}),
    "net of the host": (spec(net=Net(mode="host"), namespaces=Namespaces(net="host")), {"namespaces.net"}),
    "uts of the host": (spec(namespaces=Namespaces(uts="host")), {"namespaces.uts"}),
    "cgroup of the host": (spec(namespaces=Namespaces(cgroup="host")), {"namespaces.cgroup"}),
    "time of the host": (
        spec(namespaces=Namespaces(time="host")),
        {"namespaces.time", "namespaces.monotonic_offset", "namespaces.boottime_offset"},
    ),
    "root inside": (spec(user="0"), {"user"}),
    "groups": (spec(groups=("27",)), {"groups"}),
    "ids": (spec(uid_map=(IdMap(0, 300000, 2000),), gid_map=(IdMap(0, 300000, 2000),)), {"uid_map", "gid_map"}),
    "a capability": (
        spec(capabilities=SYS_ADMIN),
        {f"capabilities.{name}" for name in ("effective", "permitted", "inheritable", "bounding", "ambient")},
    ),
    "no filter, privileges": (spec(no_new_privs=False, seccomp="none"), {"no_new_privs", "seccomp"}),
    "the host's root": (spec(root=Root(type="host")), {"root"}),
    "a writable root": (spec(root=Root(writable=True)), {"mounts writable"}),
    "a writable mount": (spec(mounts=(Mount("/mnt", "/var", writable=True),)), {"mounts writable"}),
    "set-user-ID": (spec(mounts=(Mount("/mnt", "/var", suid=True),)), {"mounts set-user-ID on"}),
    "devices": (spec(mounts=(Mount("/mnt", "/var", dev=True),)), {"mounts device files on"}),
    "shared mounts": (spec(mount_propagation="shared"), {"mounts propagation of"}),
    "all processes": (spec(hidepid="off"), {"hidepid"}),
    "load of the host": (spec(proc_show=("loadavg", "sys")), {"covered paths"}),
    "no mask": (BARE, {"covered paths"}),
    "more scratch": (
        spec(tmp_size=128 << 20),
        {f"tmp_size {path}" for path in ("/tmp", "/var/tmp", "/run", "/dev/shm")},
    ),
    "more memory": (spec(limits=Limits(memory=1 << 30)), {"limits memory.limit_in_bytes", "limits memory.max"}),
    "more tasks": (spec(limits=Limits(pids=1000)), {"limits pids.max"}),
    "more processor": (spec(limits=Limits(cpu=1)), {"limits cpu.shares", "limits cpu.weight"}),
    "core files": (spec(limits=Limits(rlimits={"core": (1, 1)})), {"limits.rlimits.core"}),
    "killed last": (spec(oom_score_adj=0), {"oom_score_adj"}),
    "fixed addresses": (spec(aslr="off"), {"aslr"}),
    "a 32-bit machine": (spec(personality="linux32"), {"personality"}),
}
STRICT: dict[str, Spec] = {
    "no mask": spec(mask_paths=("/usr/share",)),
    "fixed addresses": spec(aslr="on"),
    "a 32-bit machine": spec(personality="linux"),
    "core files": spec(limits=Limits(rlimits={"core": (0, 0)})),
}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize("what", LOOSENED)
def test_what_is_looser_than_asked_for_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loose, lacking = LOOSENED[what]
    check = attestation.check

    def strictly(pid: int, wanted: attestation.Wanted) -> None:
        check(pid, wanted.replace(spec=STRICT.get(what, BARE)))

    monkeypatch.setattr(attestation, "check", strictly)
    with pytest.raises(NotAttested) as failed:
        launch(loose)
    assert lacks(failed.value) & lacking
    assert lacks(failed.value) <= lacking | BESIDE.get(what, set())


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_namespace_of_a_services_template_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that has none of the host's may still share the template's with others."""
    check = attestation.check

    def beside_a_template(pid: int, wanted: attestation.Wanted) -> None:
        with launch(Spec(command=("sleep", "60"), namespaces=Namespaces(time="host"), attest=False)) as template:
            with pytest.raises(NotAttested) as failed:  # a template's sandboxes are its own
                check(pid, wanted.replace(template=template.pid))
            assert lacks(failed.value) == {"owner of the user namespace"}
            check(pid, wanted.replace(template=pid))

    monkeypatch.setattr(attestation, "check", beside_a_template)
    with pytest.raises(NotAttested) as failed:
        launch(BARE)
    kinds = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
    assert set(failed.value.differences) == {(f"namespaces.{kind}", "new", "the template's") for kind in kinds}


# What else differs, for what was loosened needs it or brings it.
BESIDE: dict[str, set[str]] = {
    "the host's root": {"mounts writable", "covered paths"},
    "more memory": {"limits memory.memsw.limit_in_bytes", "limits memory.kmem.tcp.limit_in_bytes"},
    "shared mounts": set(),
}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_the_command_has_not_begun(tmp_path: Path) -> None:
    """What is refused has done nothing: not one instruction of the command."""
    tmp_path.chmod(0o777)
    bound = Mount("/mnt", str(tmp_path), writable=True)
    writing = Spec(command=("touch", "/mnt/began"), mounts=(bound,))
    with (
        plans.changed(lambda plan: plan.replace(steps=tuple(s for s in plan.steps if not by("seccomp", PAYLOAD)(s)))),
        pytest.raises(NotAttested),
    ):
        launch(writing)
    assert not (tmp_path / "began").exists()
    with launch(writing) as sandbox:
        assert sandbox.wait().status == 0
    assert (tmp_path / "began").exists()


@pytest.mark.orphans
@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_launcher_that_is_killed_while_it_attests(name: str) -> None:
    """Nothing is left: the command's process waits for an answer that does not come."""

    def launched() -> None:
        attestation.check = lambda pid, wanted: os.kill(os.getpid(), signal.SIGKILL)
        launch(Spec(command=("sleep", "1000"), name=name, die_with_parent=False))

    pid = os.fork()
    if pid == 0:
        try:
            launched()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    until(lambda: nstool("cleanup").returncode == 0 and name not in rundir.names())


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_without_the_word_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attestation, "check", lambda pid, wanted: pytest.fail("it was read"))
    with launch(Spec(command=("true",), attest=False)) as sandbox:
        assert sandbox.wait().status == 0
        assert not [step for step in sandbox.plan.steps if step.call == "attest"]


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_what_cannot_be_read_ends_the_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that this kernel has not is no end of the process: the launch does not wait for ever."""
    monkeypatch.setattr(attestation, "_PARTS", (lambda seen, wanted: [seen.read("no_such_file")],))
    with pytest.raises(KernelError, match="no_such_file"):
        launch(BARE)


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_command_that_is_killed_while_it_is_attested(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as a command that is killed at once."""
    monkeypatch.setattr(attestation, "check", lambda pid, wanted: os.kill(pid, signal.SIGKILL))
    with launch(BARE) as sandbox:
        assert sandbox.wait(20).signal == signal.SIGKILL


# ---- a command that is run in it later ----


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_later_command_has_all_that_the_first_has(tmp_path: Path) -> None:
    """What is written of both in /proc is the same, but for what tells one process from another."""
    keys = ("Cap", "NoNewPrivs", "Seccomp", "Groups", "Uid", "Gid", "Umask")
    read = "cat /proc/self/oom_score_adj /proc/self/cgroup /proc/self/limits; grep -E '^(%s)' /proc/self/status"
    words = ("sh", "-c", read % "|".join(keys))
    with (tmp_path / "first").open("w+") as first, (tmp_path / "later").open("w+") as later:
        with launch(Spec(command=words), stdout=first.fileno()) as sandbox:
            assert sandbox.wait().status == 0
        with launch(Spec(command=("sleep", "1000"))) as sandbox:
            assert sandbox.exec(*words, stdout=later.fileno()).wait().status == 0
    assert (tmp_path / "first").read_text() == (tmp_path / "later").read_text()
    assert (tmp_path / "later").read_text().startswith("500\n")


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize("what", ["filter", "user id", "capabilities", "bounding set", "limit of fds", "oom score"])
def test_a_later_command_is_attested(what: str) -> None:
    taken, lacking, spec = LEFT_OUT[what]
    with launch(spec.replace(command=("sleep", "1000"))) as sandbox:
        with (
            plans.changed(lambda plan: plan.replace(steps=tuple(step for step in plan.steps if not taken(step)))),
            pytest.raises(NotAttested) as failed,
        ):
            sandbox.exec("true")
        assert lacks(failed.value) == lacking
        assert sandbox.exec("true").wait().status == 0


# ---- later ----


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_running_sandbox(name: str) -> None:
    """It holds; it holds when the command has tightened itself; it does not when somebody raises a limit outside."""
    shell = "ulimit -n 100; umask 077; cd /tmp; read line"
    given, end = os.pipe()
    try:
        with launch(Spec(command=("sh", "-c", shell), name=name), stdin=given) as sandbox:
            until(lambda: os.readlink(f"/proc/{sandbox.pid}/cwd") == "/tmp")
            found = attest(name)
            assert found.holds, found.failed
            assert found.pid == sandbox.pid
            done = nstool("attest", "--filter", "--json", name)
            shown = json.loads(done.stdout)
            assert done.returncode == 0
            assert shown["holds"]
            assert {"seccomp", "uid_map", "covered paths"} <= {one["name"] for one in shown["properties"]}

            (limit := Path(sandbox.cgroups["pids"]) / "pids.max").write_text("10000")
            done = nstool("attest", name)
            assert done.returncode == 1
            assert "limits pids.max" in done.stdout
            assert "not attested" in done.stdout
            limit.write_text("256")
            os.write(end, b"\n")
    finally:
        os.close(given)
        os.close(end)


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_a_process_beside_a_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "strict.toml"
    file.write_text('command = ["sleep", "1000"]\n')
    with launch(Spec(command=("sleep", "1000"), name=name)) as sandbox:
        assert attest(sandbox.pid, Spec(command=("sleep", "1000"))).holds
        assert nstool("attest", str(sandbox.pid), str(file)).returncode == 0
    done = nstool("attest", str(os.getpid()), str(file))
    assert done.returncode == 1
    for lacking in ("namespaces.user", "no_new_privs", "seccomp", "limits pids.max", "uid_map"):
        assert f" {lacking} " in done.stdout


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_the_host_name_is_compared(name: str) -> None:
    """It is read in the sandbox's uts namespace; what a spec does not name is not looked for."""
    with launch(Spec(command=("sleep", "1000"), name=name, hostname="box")):
        assert attest(name).holds
        [found] = attest(name, Spec(command=("sleep", "1000"), hostname="other")).failed
        assert (found.name, found.wanted, found.found) == ("hostname", "other", "box")
        assert attest(name, Spec(command=("sleep", "1000"))).holds
    with launch(Spec(command=("sleep", "1000"), name=name)) as sandbox:
        for target in (name, sandbox.pid):  # as it is called now, whatever the spec's name
            assert attest(target, Spec(command=("sleep", "1000"), name="other")).holds
        assert "hostname" in {one.name for one in attest(name).properties}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_by_its_name_beside_a_stricter_spec(name: str) -> None:
    """What the sandbox was not launched with at all is missing, not left out: limits, a link that is not wanted."""
    with launch(Spec(command=("sleep", "1000"), name=name, limits=Limits(pids=0))):
        assert {one.name for one in attest(name, BARE).failed} == {"limits pids.max"}
        strict = BARE.replace(limits=Limits(pids=0), seccomp="strict", apparmor="web", tmp_size=5 << 20)
        found = {one.name: one for one in attest(name, strict, read_filter=True).failed}
        assert found.keys() == {"apparmor", "seccomp", *(f"tmp_size {path}" for path in SCRATCH)}
        assert "2 other filters, allowing" in found["seccomp"].found
        assert {"keyring", "securebits"} <= {one.name for one in attest(name).properties if one.holds is None}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_what_somebody_adds_to_it_or_takes_away(name: str, in_child: Callable[..., Any]) -> None:
    """From outside, with root's rights: a device in its network, its /tmp."""
    with launch(
        Spec(command=("sh", "-c", "ulimit -Sn 512; read x"), name=name), stdin=(pipe := os.pipe())[0]
    ) as sandbox:
        until(lambda: "512                  1024" in Path(f"/proc/{sandbox.pid}/limits").read_text())
        assert attest(name).holds  # a soft limit is the command's to change

        def change(kind: str, *words: str) -> None:
            command = ["nsenter", "-t", str(sandbox.pid), kind, *words]
            subprocess.run(command, check=True, capture_output=True)

        change("-m", "umount", "/tmp")
        assert [(one.name, one.found) for one in attest(name).failed] == [("tmp_size /tmp", "nothing")]
        change("-n", "sh", "-c", "ip link add br7 type bridge; ip link set br7 up")
        failed = {one.name: one.found for one in attest(name).failed}
        assert failed["net devices that are up"] == "br7 lo"
    for fd in pipe:
        os.close(fd)


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
def test_another_filter_is_told_from_the_asked_for() -> None:
    """As many filters, but another program."""

    def filtered() -> None:
        allow = (0x06).to_bytes(2, "little") + bytes(2) + (0x7FFF0000).to_bytes(4, "little")
        syscalls.prctl(uapi.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.seccomp_set_mode_filter(allow)

    with waiting(filtered) as (pid, _):
        assert attested.filters(pid) == ((0x06).to_bytes(2, "little") + bytes(2) + (0x7FFF0000).to_bytes(4, "little"),)
        found = {one.wanted: one for one in attest(pid, BARE, read_filter=True).properties if one.name == "seccomp"}
        (itself,) = (one for wanted, one in found.items() if "itself" in wanted)
        assert itself.holds is False
        assert itself.found.startswith("1 other filter, allowing ")
        with open(f"/proc/{pid}/status") as file:
            assert "TracerPid:\t0\n" in file.read()


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize(
    "words", [{}, {"init": False}, {"limits": Limits(0, 0, 0, 0)}], ids=["", "no init", "no limits"]
)
def test_a_sandbox_is_attested_as_it_is(words: dict[str, Any]) -> None:
    """What launch has returned needs neither name nor spec: it has its own; another spec is compared all the same."""
    spec = Spec(command=("sleep", "60"), **words)
    with launch(spec) as sandbox:
        found = attest(sandbox)
        assert (found.pid, found.failed) == (sandbox.pid, ())
        assert any(one.name.startswith("uid_map") and one.holds for one in found.properties)
        assert not attest(sandbox, spec.replace(groups=("33",))).holds
    with pytest.raises(SandboxGone):
        attest(sandbox)


def test_what_is_no_target(tmp_path: Path) -> None:
    service = tmp_path / "port.toml"
    service.write_text('command = ["cat"]\n[service]\nlisten = ["tcp:127.0.0.1:0"]\n')
    for words, message in (
        (("no-such-name",), "'no-such-name' is no pid, and there is no sandbox of this name"),
        ((str(os.getpid()),), "SPEC: the spec is needed"),
        (("4194305", "x.toml"), "x.toml"),
        (("4194305", str(service)), f"{service}: a service attests its sandboxes itself: before their command, "),
    ):
        done = nstool("attest", *words)
        assert done.returncode == 2
        assert message in done.stderr
    with pytest.raises(SandboxGone):
        attest(4194305, BARE)
    with pytest.raises(SpecError):
        attest("0", BARE)


@pytest.mark.needs("root", "nft", "veth", "bridge", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize("mode", ["veth", "bridge"])
def test_the_link_of_a_sandbox(mode: str, name: str, in_child: Callable[..., Any]) -> None:
    """Addresses, rules and the port are read back; what somebody takes away outside is found."""
    in_child(_link, mode, name)


def _link(mode: str, name: str) -> None:
    syscalls.unshare(uapi.CLONE_NEWNET)
    linked = Spec(command=("sleep", "1000"), name=name, net=Net(mode=mode, nat=False))
    with launch(linked) as sandbox:
        found = attest(name)
        assert found.holds, found.failed
        assert {"net", "net.address", "net.isolated"} <= {one.name for one in found.properties}
        address = sandbox.addresses.links[-1].addresses[0].partition("/")[0]
        version = "6" if ":" in address else "4"
        subprocess.run(["nft", "add", "element", "inet", "nstool", f"open{version}", f"{{ {address} }}"], check=True)
        assert [one.found for one in attest(name).failed] == [f"open: {address}"]
        subprocess.run(["nft", "delete", "element", "inet", "nstool", f"open{version}", f"{{ {address} }}"], check=True)
        assert attest(name).holds
        subprocess.run(["nft", "flush", "chain", "inet", "nstool", "to_host"], check=True)
        assert [one.found for one in attest(name).failed] == ["inet to_host"]
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert len(attest(name).failed) >= 2


ODD: dict[str, dict[str, Any]] = {
    "a slash at the end": {"mounts": (Mount("/tmp/m/", "/etc", writable=True),), "mask_paths": ("/usr/share/",)},
    "two slashes": {"root": Root("host"), "mask_paths": ("//mnt",)},
    "a dot": {"root": Root("host"), "readonly_paths": ("/mnt/.",)},
    "masked scratch": {"root": Root("host"), "mask_paths": ("/tmp", "/dev/shm")},
    "masked /proc": {"root": Root("host"), "mask_paths": ("/proc",)},
    "maps in no order": {
        "uid_map": tuple(IdMap(n, 400000 + n, 1) for n in (5, 4, 3, 2, 1, 0, 1000)),
        "gid_map": tuple(IdMap(n, 400000 + n, 1) for n in (5, 4, 3, 2, 1, 0, 1000)),
    },
    "odd size": {"tmp_size": 5000},
}


@pytest.mark.needs("root", "cgroup_memory", "cgroup_pids", "cgroup_cpu")
@pytest.mark.parametrize("what", ODD)
def test_what_is_written_otherwise_than_the_kernel_has_it(what: str) -> None:
    with launch(Spec(command=("true",), **ODD[what])) as sandbox:
        assert sandbox.wait().status == 0


@pytest.mark.needs("root", "native")
def test_proc_of_another_pid_namespace_is_told() -> None:
    """Its numbers mean others: nothing is read there, and the launch does not wait for ever."""
    words = ("--share", "user", "--memory", "0", "--pids", "0", "--cpu", "0", "--oom-score-adj", "0", "--", "true")
    done = subprocess.run(
        ["unshare", "--pid", "--fork", *NSTOOL, "run", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 125
    assert "/proc is of another pid namespace" in done.stderr


@pytest.mark.vm  # since Linux 6.18 a copy carries nothing in any more
@pytest.mark.needs("root", "user", "userns")
@pytest.mark.parametrize("words", [{}, {"root": Root("host")}, {"dev": "bind"}, {"dev": "nodes"}, {"init": False}])
@pytest.mark.parametrize("who", ["root", "user"])
def test_where_all_mounts_are_shared(user: User, in_child: Callable[..., Any], who: str, words: dict[str, Any]) -> None:
    """As systemd has them: nothing that is mounted inside carries a mount in or out."""
    wanted = Spec(command=("true",), limits=Limits(memory=0, pids=0, cpu=0), **words)

    def act() -> int:
        with launch(wanted) as sandbox:
            return sandbox.wait().status

    def shared() -> int:
        syscalls.unshare(uapi.CLONE_NEWNS)
        syscalls.mount(None, "/", None, uapi.MS_REC | uapi.MS_SHARED)
        return act() if who == "root" else user.run(act)

    assert in_child(shared) == 0


@pytest.mark.needs("user", "userns")
def test_as_an_ordinary_user(user: User) -> None:
    """What the owner of the user namespace may read is read; what not is told."""

    def act() -> list[tuple[str, bool | None]]:
        limits = Limits(memory=0, pids=0, cpu=0)
        with launch(Spec(command=("sleep", "1000"), limits=limits)) as sandbox:
            processes.wait_exec(sandbox.pid, "sleep")
            found = attest(sandbox.pid, sandbox.spec)
        return [(one.name, one.holds) for one in found.properties]

    found = user.run(act)
    assert all(holds is not False for _, holds in found)
    assert ("namespaces.user", True) in found
    assert ("seccomp", True) in found
