"""Row S3, AppArmor and SELinux: the command's label, read back inside and outside; refusals before anything is done."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import KernelError, NotSupported
from nstool.inspect.against import against
from nstool.sandbox.launch import launch
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act

WRITE = "echo x >/tmp/allowed; echo x >/tmp/denied; ls /tmp"
DENIED = "Permission denied"


def label(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/apparmor/current").read_text().strip("\0\n")


# ---- where there is none ----


@pytest.mark.vm
@pytest.mark.parametrize("asked", ["apparmor", "selinux"])
def test_a_label_that_cannot_be_had_is_refused(act: Act, asked: str) -> None:
    """A profile or context that this kernel does not know: nothing is done, and the remedy is named.

    Where the module is off that is the cause; where it is on, that there is no such profile, or context.
    """
    value = {"apparmor": "nstool-no-such", "selinux": "nstool_u:nstool_r:nstool_t:s0"}[asked]

    def look() -> tuple[boxes.Ran, boxes.Ran]:
        words = ("--memory", "0", "--pids", "0", "--cpu", "0", f"--{asked}", value, "--", "echo", "ran")
        return boxes.nstool("run", *words), boxes.nstool("check", *words)

    for ran in act(look):
        assert ran.status == 125, ran
        assert "ran\n" not in ran.out
        text = ran.out + ran.err
        assert "cause: " in text
        assert any(word in text for word in (f"take {asked} out", "apparmor_parser --add", "ps -eZ shows"))


@pytest.mark.needs("no_apparmor", "root")
def test_the_modules_that_there_are_are_named(as_root: Act) -> None:
    """By AppArmor's refusal, where securityfs can be read: here it is mounted for the test."""
    from tests.support import kernel

    def look() -> NotSupported:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        if not os.path.exists("/sys/kernel/security/lsm"):
            kernel.mount("securityfs", "/sys/kernel/security", "securityfs")
        with pytest.raises(NotSupported) as refused, launch(boxes.spec("true", apparmor="x")):
            pass
        return refused.value

    error = as_root(look)
    assert error.what == "apparmor"
    assert "this kernel has no AppArmor, or it was not switched on at boot; its security modules: " in error.cause
    assert "landlock" in error.cause or "capability" in error.cause


# ---- AppArmor ----

PROFILE = """
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  unix,
  signal,
  ptrace,
  capability,
  mount,
  umount,
  pivot_root,
  change_profile,
  deny /tmp/denied w,
}}
"""


@pytest.fixture
def profile(name: str, tmp_path: Path) -> Iterator[str]:
    """The name of a loaded profile that lets all be done but one."""
    source = tmp_path / "profile"
    source.write_text(PROFILE.format(name=name))
    subprocess.run(["apparmor_parser", "--add", "--skip-cache", source], check=True)
    yield name
    subprocess.run(["apparmor_parser", "--remove", source], check=True)


apparmor = [pytest.mark.vm, pytest.mark.needs("root", "native", "nsexec", "apparmor")]


class TestAppArmor:
    """Needs AppArmor, and apparmor_parser."""

    pytestmark = apparmor

    def test_the_command_has_the_profile(self, as_root: Act, profile: str) -> None:
        """Inside and outside say so, under no_new_privs; what it refuses is refused, and what it allows is not."""

        def look() -> tuple[str, str, str, str]:
            with boxes.box(apparmor=profile) as box:
                return label(box.pid), box.ask("cat /proc/self/attr/current"), box.ask(WRITE), label(os.getpid())

        outside, inside, said, own = as_root(look)
        assert outside == f"{profile} (enforce)"
        assert inside.strip() == f"{profile} (enforce)"
        assert DENIED in said
        assert said.splitlines()[-1] == "allowed"
        assert own == "unconfined"

    def test_without_the_word_the_same_is_allowed(self, as_root: Act, profile: str) -> None:
        """The profile is loaded, and holds for nobody who does not ask for it."""
        assert as_root(boxes.shell, WRITE) == "allowed\ndenied\n"

    def test_an_ordinary_user_can_ask_for_it(self, as_user: Act, profile: str) -> None:
        """To confine oneself takes no privilege; a profile that is not loaded is found out by the write."""

        def look(name: str) -> str:
            with boxes.box(apparmor=name) as box:
                return box.ask("cat /proc/self/attr/current").strip()

        assert as_user(look, profile) == f"{profile} (enforce)"
        with pytest.raises((KernelError, NotSupported)) as refused:
            as_user(look, "nstool-no-such")
        assert "nstool-no-such" in str(refused.value)
        assert "is loaded" in str(refused.value)

    @pytest.mark.parametrize("changes", [{}, {"proc": "none"}, {"init": False}, {"pass_fds": (0, 1, 2)}])
    def test_it_needs_nothing_inside(self, as_root: Act, profile: str, changes: dict[str, Any]) -> None:
        """No /proc, no init, and fds that take the numbers of those by which it was asked for."""

        def look() -> str:
            with boxes.box(apparmor=profile, **changes) as box:
                return label(box.pid)

        assert as_root(look) == f"{profile} (enforce)"

    def test_a_profile_is_stacked(self, as_root: Act, profile: str) -> None:
        """Who is confined can, under no_new_privs, only add a profile: another one is an error with its cause."""

        def confined(wanted: str) -> tuple[str, boxes.Ran]:
            with open("/proc/thread-self/attr/apparmor/current", "w") as file:
                file.write(f"changeprofile {profile}")
            with boxes.box(apparmor=wanted) as box:
                return label(box.pid), box.ask(WRITE)

        stacked, said = as_root(confined, f"stack {profile}//&unconfined")
        assert profile in stacked
        assert DENIED in said
        with pytest.raises(KernelError) as refused:
            as_root(confined, "unconfined")
        assert refused.value.errno_name == "EPERM"
        assert f"nstool runs under AppArmor's {profile} (enforce)" in refused.value.cause
        assert 'apparmor = "stack unconfined"' in refused.value.remedy

    def test_exec_has_it_too(self, as_root: Act, profile: str) -> None:
        """What comes later has the label of the spec."""

        def look() -> str:
            with boxes.box(apparmor=profile, die_with_parent=False) as box:
                return boxes.nstool("exec", box.sandbox.name, "--", "cat", "/proc/self/attr/current").out.strip()

        assert as_root(look) == f"{profile} (enforce)"

    def test_it_is_shown_and_compared(self, as_root: Act, profile: str) -> None:
        """`nstool show` says the label, `nstool diff SPEC PID` whether it is the spec's."""

        def look() -> tuple[str, list[tuple[str, str, str, str]]]:
            with boxes.box(apparmor=profile) as box:
                rows = [
                    row
                    for wanted in (profile, "another", f"stack {profile}")
                    for row in against(box.pid, boxes.spec("sh", apparmor=wanted)).rows
                    if row.what == "apparmor"
                ]
                return boxes.nstool("show", str(box.pid)).out, [(r.first, r.second, r.state, r.meaning) for r in rows]

        shown, (same, other, stacked) = as_root(look)
        assert f"{profile} (enforce)" in shown
        assert same[:3] == (profile, profile, "alike")
        assert other[:3] == ("another", f"{profile} (enforce)", "different")
        assert stacked[2] == "alike"


# ---- SELinux, in a machine that tests/vm/boot makes with VM_APPEND=security=selinux: its policy is vm/selinux.cil ----

OWN, BOX, SHUT = (f"all_u:all_r:{kind}_t:s0" for kind in ("all", "box", "shut"))


def context(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")


@pytest.mark.needs("root", "native", "nsexec", "selinux")
class TestSELinux:
    """The policy knows two contexts beside that of all, of which one may be entered under no_new_privs."""

    def test_the_command_has_the_context(self, act: Act) -> None:
        """Inside and outside say so, under no_new_privs and on a mount with nosuid; we have ours as before."""

        def look() -> tuple[str, str]:
            with boxes.box(selinux=BOX) as box:
                return context(box.pid), box.ask("cat /proc/self/attr/current; echo").strip("\0\n ")

        assert act(look) == (BOX, BOX)
        assert context(os.getpid()) == OWN

    def test_exec_has_it_too(self, as_root: Act) -> None:
        """What comes later has the context of the spec."""

        def look() -> str:
            with boxes.box(selinux=BOX, die_with_parent=False) as box:
                return boxes.nstool("exec", box.sandbox.name, "--", "cat", "/proc/self/attr/current").out.strip("\0\n ")

        assert as_root(look) == BOX

    def test_a_context_that_may_not_be_entered_is_refused(self, as_root: Act) -> None:
        """The policy has it, and lets nobody enter it under no_new_privs: the exec fails, and SELinux is suspected."""

        def look() -> str:
            with boxes.box(selinux=SHUT) as box:
                return box.ask("id")

        with pytest.raises(KernelError) as refused:
            as_root(look)
        assert refused.value.errno_name == "EPERM"
        assert "the SELinux policy may not let the command enter its context" in str(refused.value)

    def test_a_context_that_the_policy_lacks_is_refused(self, act: Act) -> None:
        """Before anything is done: /sys/fs/selinux/context says so."""

        def look() -> None:
            with boxes.box(selinux="all_u:all_r:other_t:s0"):
                pass

        with pytest.raises(NotSupported) as refused:
            act(look)
        assert "the loaded policy has no such context" in refused.value.cause

    def test_it_is_compared(self, as_root: Act) -> None:
        """`nstool diff SPEC PID` tells another context from the spec's."""

        def look() -> list[str]:
            with boxes.box(selinux=BOX) as box:
                return [
                    row.state
                    for wanted in (BOX, OWN)
                    for row in against(box.pid, boxes.spec("sh", selinux=wanted)).rows
                    if row.what == "selinux"
                ]

        assert as_root(look) == ["alike", "different"]
