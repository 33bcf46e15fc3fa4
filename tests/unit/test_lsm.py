"""Landlock, AppArmor and SELinux: the steps, and what is refused on a host that lacks them, its facts given as data."""

from __future__ import annotations

from errno import EINVAL, ENOSYS, EOPNOTSUPP, EPERM

import pytest

from nstool import uapi
from nstool.errors import NotSupported
from nstool.plan import build, join, preflight
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.shell import script
from nstool.plan.steps import LAUNCHER, PAYLOAD, Fd, Plan, Step
from nstool.security import landlock
from nstool.spec.model import Landlock, LandlockRule, Mount, Root, Spec

HOST = Host(root=frozenset({"/proc", "/dev", "/tmp"}))
LEASE = Lease("web", 100000, 100000)
READ, WRITE, RUN = (landlock.mask(names) for names in (landlock.READ, landlock.WRITE, landlock.EXECUTE))
FILES = landlock.mask(landlock.OF_FILES)


def planned(host: Host = HOST, **changes: object) -> Plan:
    return build.plan(spec(**changes), host, LEASE)


def spec(**changes: object) -> Spec:
    return Spec(**{"command": ("true",), "terminal": "never", **changes})  # type: ignore[arg-type]


def restricted(abi: int = 7, **rules: object) -> list[Step]:
    """The steps of Landlock."""
    plan = planned(HOST.replace(landlock=abi), landlock=Landlock(**rules))  # type: ignore[arg-type]
    return [s for s in plan.steps if s.call.startswith("landlock") or (s.who == PAYLOAD and s.call == "openat2")]


def rules_of(steps: list[Step]) -> dict[str, int]:
    """Return what is allowed at each path, the rules of one path added up, as the kernel does."""
    found: dict[str, int] = {}
    path = ""
    for step in steps:
        if step.call == "openat2":
            path = str(step.args[1])
        elif step.call == "landlock_add_rule" and step.args[1] == uapi.LANDLOCK_RULE_PATH_BENEATH:
            assert isinstance(step.args[2], int)
            found[path] = found.get(path, 0) | step.args[2]
    return found


# ---- Landlock: the steps ----


def test_without_a_table_there_is_no_step_and_nothing_is_asked() -> None:
    """A kernel without Landlock runs every spec that does not ask for it."""
    assert not [s for s in planned(HOST.replace(landlock=-ENOSYS)).steps if s.call.startswith("landlock")]


def test_lists_allow_what_their_names_say() -> None:
    """All that the ABI knows is handled; a path in two lists is opened once and has both."""
    steps = restricted(read=("/etc", "/data"), write=("/data",), execute=("/usr",))
    assert steps[0].args == (0xFFFF, 0, 0)
    assert rules_of(steps) == {"/etc": READ, "/data": READ | WRITE, "/usr": RUN}
    assert [s.args[1] for s in steps if s.call == "openat2"] == ["/etc", "/data", "/usr"]
    assert steps[-1].args == (Fd("landlock"), 0)


def test_lists_allow_no_device_nodes() -> None:
    """To make one is a right of its own name."""
    made = landlock.FS["make_char"] | landlock.FS["make_block"]
    assert not (READ | WRITE | RUN) & made
    assert READ | WRITE | RUN | made == landlock.handled(7) == 0xFFFF


def test_a_list_fits_a_file_and_a_directory() -> None:
    """A file takes no right of a directory (EINVAL), so these are a rule of their own, which may fail so."""
    first, second = (s for s in restricted(read=("/etc/passwd",)) if s.call == "landlock_add_rule")
    assert (first.args[2], first.ignore) == (READ & FILES, 0)
    assert (second.args[2], second.ignore) == (READ & ~FILES, EINVAL)


def test_rights_by_name_are_taken_as_they_are() -> None:
    """Whoever names rights is told when the path cannot have them."""
    rule = LandlockRule("/srv", ("read_file", "make_char"))
    (step,) = (s for s in restricted(rules=(rule,)) if s.call == "landlock_add_rule")
    assert (step.args[2], step.ignore) == (landlock.FS["read_file"] | landlock.FS["make_char"], 0)


def test_what_is_not_asked_for_is_not_restricted() -> None:
    """Ports alone leave files alone; an empty list is asked for."""
    steps = restricted(tcp_connect=())
    assert [s.call for s in steps] == ["landlock_create_ruleset", "landlock_restrict_self"]
    assert steps[0].args == (0, uapi.LANDLOCK_ACCESS_NET_CONNECT_TCP, 0)
    assert restricted(write=())[0].args == (0xFFFF, 0, 0)
    assert restricted(scope=("signal", "abstract_unix_socket"))[0].args == (0, 0, 3)


def test_a_port_of_both_lists_is_one_rule() -> None:
    """Beside one that is only bound."""
    steps = [s.args[2:] for s in restricted(tcp_bind=(80, 53), tcp_connect=(53,)) if s.call == "landlock_add_rule"]
    assert steps == [(1, -1, 80), (3, -1, 53)]


# ---- Landlock: the kernel's ABI ----


@pytest.mark.parametrize(
    ("abi", "rules", "what", "least"),
    [
        (
            1,
            {"rules": (LandlockRule("/a", ("read_file", "refer")),)},
            "landlock.rules[0].allow",
            "2: Linux 5.19",
        ),
        (2, {"rules": (LandlockRule("/a", ("truncate",)),)}, "landlock.rules[0].allow", "3: Linux 6.2"),
        (3, {"tcp_bind": ()}, "landlock.tcp_bind", "4: Linux 6.7"),
        (3, {"tcp_connect": (80,)}, "landlock.tcp_connect", "4: Linux 6.7"),
        (
            4,
            {"rules": (LandlockRule("/a", ("ioctl_dev",)),)},
            "landlock.rules[0].allow",
            "5: Linux 6.10",
        ),
        (5, {"scope": ("signal",)}, "landlock.scope[0]", "6: Linux 6.12"),
        (6, {"read": (), "flags": ("log_new_exec_on",)}, "landlock.flags[0]", "7: Linux 6.15"),
    ],
)
def test_what_is_asked_for_by_name_and_missing_is_refused(
    abi: int, rules: dict[str, object], what: str, least: str
) -> None:
    """With the ABI and the Linux that have it; one version later it is taken."""
    with pytest.raises(NotSupported) as refused:
        restricted(abi, **rules)
    assert refused.value.what == what
    version, _, linux = least.partition(": ")
    asked = f"this needs version {version} of Landlock's ABI, which came with {linux}; this kernel's is {abi}"
    assert asked in refused.value.cause
    assert restricted(abi + 1, **rules)


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (ENOSYS, "older than Linux 5.13, or was built without", "take landlock out"),
        (EOPNOTSUPP, "not switched on at boot", "boot with landlock in lsm="),
        (EPERM, "fails with EPERM", "run outside of it"),
    ],
)
def test_no_landlock_at_all_is_refused(error: int, cause: str, remedy: str) -> None:
    """Each errno means something else."""
    with pytest.raises(NotSupported) as refused:
        restricted(-error, read=())
    assert refused.value.what == "landlock"
    assert cause in refused.value.cause
    assert remedy in refused.value.remedy


def test_lists_go_as_far_as_the_abi_and_say_so() -> None:
    """On Linux 6.1 neither truncate nor ioctl_dev can be refused: the plan says it, and `nstool check`."""
    asked = {"read": ("/a",), "write": ("/b",)}
    steps = restricted(2, **asked)
    missing = landlock.mask(("truncate", "ioctl_dev"))
    assert steps[0].args[0] == 0xFFFF & ~missing
    assert rules_of(steps) == {"/a": READ, "/b": WRITE & ~missing}
    assert "not truncate, ioctl_dev, which this kernel (ABI 2) cannot refuse" in steps[0].why
    wanted = spec(landlock=Landlock(**asked))  # type: ignore[arg-type]
    first, second = preflight.notes(wanted, HOST.replace(landlock=2))
    assert first.startswith("landlock: truncate is not refused anywhere: it needs version 3 of Landlock's ABI")
    assert "ioctl_dev" in second
    assert preflight.notes(wanted, HOST.replace(landlock=5)) == ()


def test_ports_alone_have_nothing_to_say_of_files() -> None:
    """Nor is there a note where no list of paths is."""
    assert preflight.notes(spec(landlock=Landlock(tcp_bind=())), HOST.replace(landlock=4)) == ()


# ---- AppArmor and SELinux ----


def asked(host: Host, **changes: object) -> list[tuple[object, ...]]:
    steps = planned(host, **changes).steps
    return [s.args[1:3] for s in steps if s.who == PAYLOAD and s.call == "write_file"]


APPARMOR = HOST.replace(apparmor=True, profiles=("web", "db"), lsms=("capability", "apparmor"))


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("web", "exec web"),
        ("exec web", "exec web"),
        ("stack web", "stack web"),
        ("web//&db", "exec web//&db"),
        ("unconfined", "exec unconfined"),
        (":ns:other", "exec :ns:other"),
    ],
)
def test_a_profile_is_asked_for_in_the_kernels_words(value: str, written: str) -> None:
    """exec and stack are the commands of attr/apparmor/exec. apparmor(7)."""
    assert asked(APPARMOR, apparmor=value) == [("thread-self/attr/apparmor/exec", written)]


def test_a_context_is_written_as_it_is() -> None:
    """As setexeccon(3) does; also where it cannot be asked whether the policy has it."""
    for known in ("valid", "unknown"):
        assert asked(HOST.replace(selinux=known), selinux="u:r:t:s0") == [("thread-self/attr/exec", "u:r:t:s0")]


@pytest.mark.parametrize(
    ("host", "changes", "what", "cause"),
    [
        (HOST, {"apparmor": "web"}, "apparmor", "this kernel has no AppArmor, or it was not switched on at boot"),
        (
            HOST.replace(lsms=("capability", "landlock", "yama")),
            {"apparmor": "web"},
            "apparmor",
            "switched on at boot; its security modules: capability, landlock, yama",
        ),
        (APPARMOR, {"apparmor": "wbe"}, "apparmor", "no AppArmor profile 'wbe' is loaded"),
        (APPARMOR, {"apparmor": "stack web//&wbe"}, "apparmor", "no AppArmor profile 'wbe' is loaded"),
        (APPARMOR, {"selinux": "u:r:t:s0"}, "selinux", "no SELinux"),
        (HOST.replace(selinux="unloaded"), {"selinux": "u:r:t:s0"}, "selinux", "no policy is loaded"),
        (HOST.replace(selinux="invalid"), {"selinux": "u:r:t:s0"}, "selinux", "has no such context"),
    ],
)
def test_a_label_that_the_host_lacks_is_refused(host: Host, changes: dict[str, object], what: str, cause: str) -> None:
    """With the modules that it has, where these are known."""
    with pytest.raises(NotSupported) as refused:
        planned(host, **changes)
    assert refused.value.what == what
    assert cause in refused.value.cause
    assert (
        f"take {what} out" in refused.value.remedy
        or "aa-status" in refused.value.remedy
        or "ps -eZ" in refused.value.remedy
    )


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("apparmor", "take apparmor out, or boot a kernel that has it with apparmor=1 security=apparmor"),
        ("selinux", "take selinux out, or boot a kernel and a system that have it with selinux=1 security=selinux"),
    ],
)
def test_how_a_module_is_had_that_the_host_lacks(module: str, remedy: str) -> None:
    """In one sentence, with what the kernel is told at boot at its end."""
    with pytest.raises(NotSupported) as refused:
        planned(HOST, **{module: "u:r:t:s0"})
    assert refused.value.remedy == remedy


def test_profiles_that_cannot_be_read_are_left_to_the_kernel() -> None:
    """An ordinary user may not read the list: the write says whether there is such a profile."""
    assert asked(APPARMOR.replace(profiles=None), apparmor="other")


# ---- elsewhere ----


def test_an_exec_into_the_sandbox_gets_them_too() -> None:
    """What the first command has, the later ones have."""
    wanted = spec(landlock=Landlock(read=("/usr",)), apparmor="web")
    plan = join.into_sandbox(wanted, APPARMOR.replace(landlock=7), join.Target(frozenset({"mnt"})))
    calls = [(s.who, s.call) for s in plan.steps]
    assert (PAYLOAD, "landlock_restrict_self") in calls
    assert calls.index((LAUNCHER, "openat2")) < calls.index((LAUNCHER, "clone3"))
    assert calls.index((PAYLOAD, "write_file")) < calls.index((PAYLOAD, "dup3"))


def test_a_trial_leaves_out_paths_of_a_root_that_it_has_not() -> None:
    """A trial puts another root in the place of a tarball, in which they need not be; ports and scopes are tried."""
    rules = Landlock(read=("/opt",), rules=(LandlockRule("/opt", ("execute",)),), tcp_bind=(1,))
    plain = spec(landlock=rules)
    assert preflight.trial_spec(plain).landlock == rules
    for other in (
        plain.replace(root=Root("tarball", "/srv/x.tar")),
        plain.replace(mounts=(Mount("/opt", type="overlay", lower=("/a",), upper="/b", writable=True),)),
    ):
        tried = preflight.trial_spec(other).landlock
        assert (tried.read, tried.rules, tried.tcp_bind) == (None, (), (1,))


def test_the_shell_names_what_it_leaves_out() -> None:
    """setpriv(1) has Landlock only from util-linux 2.40 on, and a label that it asks for is env(1)'s."""
    host = APPARMOR.replace(landlock=7, selinux="valid")
    text = script.write(planned(host, landlock=Landlock(read=("/usr",)), apparmor="web", selinux="u:r:t:s0")).decode()
    assert "Landlock: setpriv has it from util-linux 2.40 on" in text
    assert "the AppArmor profile or SELinux context: setpriv asks for one" in text
    assert "exec web" not in [line for line in text.splitlines() if not line.startswith("#")]
