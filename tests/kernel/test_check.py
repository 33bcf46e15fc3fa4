"""``nstool check``: what it says agrees with what a launch then does, and it leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.sandbox import features
from nstool.spec.model import Capabilities, Mount, Namespaces, Net, Root, Spec
from tests.support import kernel
from tests.support.probes import REPOSITORY

pytestmark = [pytest.mark.vm, pytest.mark.needs("root", "native", "nsexec")]

AsUser = Callable[..., Any]
NSTOOL = (sys.executable, "-m", "nstool.cli.main")


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """The sealed copy of nsexec, which a process keeps, is no leak."""
    from nstool.sandbox import engine

    engine.image()


def spec(*command: str, **changes: Any) -> Spec:
    wanted = Spec(command=command or ("true",), env={"PATH": "/usr/bin:/bin"})
    return wanted.replace(limits=wanted.limits.replace(memory=0, pids=0, cpu=0), **changes)


def nstool(*words: str) -> tuple[int, str]:
    done = subprocess.run([*NSTOOL, *words], cwd=REPOSITORY, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_plain_spec_has_no_problem() -> None:
    """What runs here is said to run."""
    assert features.problems(spec()) == ()


def test_ordinary_user_has_no_problem_either(as_user: AsUser) -> None:
    """A sandbox without cgroups, of an ordinary user."""
    assert as_user(features.problems, spec()) == ()


def test_all_problems_are_named_at_once() -> None:
    """A missing command, a missing working directory: one look, two problems."""
    found = features.problems(spec("nosuchcommand", cwd="/no/dir"))
    text = "\n".join(map(str, found))
    assert len(found) == 2, text
    assert "nosuchcommand is not in the command's root" in text
    assert "/no is not in the command's root" in text


def test_problem_is_what_the_launch_then_meets(tmp_path: Path) -> None:
    """The cause that check predicts is the cause that the launch's error gives."""
    from nstool.errors import KernelError
    from nstool.sandbox.launch import launch

    (tmp_path / "bin").mkdir()
    for parent in tmp_path.parents:
        if parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    (tmp_path / "bin/x").write_text("#!/no/such\n")
    (tmp_path / "bin/x").chmod(0o755)
    wanted = spec("/bin/x", root=Root(type="directory", path=str(tmp_path)))
    (problem,) = features.problems(wanted)
    with pytest.raises(KernelError) as caught, launch(wanted):
        pass
    assert (problem.cause,) == caught.value.causes
    assert (problem.remedy,) == caught.value.remedies


def test_trial_finds_what_no_detector_predicts() -> None:
    """A value that only the kernel judges: the trial run is refused, and says so."""
    net = Net(sysctls={"net.ipv4.ip_default_ttl": "some"})
    (problem,) = features.problems(spec(net=net))
    assert problem.cause == "the kernel does not take some for sysctl net.ipv4.ip_default_ttl"
    assert problem.checked


def test_trial_runs_with_id_mapped_mounts(tmp_path: Path) -> None:
    """A spec with an id-mapped mount is tried too, and one of a filesystem without them is refused."""
    assert features.problems(spec(mounts=(Mount("/tmp/x", str(tmp_path), idmap=True),))) == ()
    (problem,) = features.problems(spec(mounts=(Mount("/tmp/x", "/proc/tty", idmap=True),)))
    assert problem.cause == "proc, mounted on /proc, has no id-mapped mounts"


def test_trial_changes_nothing(tmp_path: Path) -> None:
    """Neither a writable root nor a kept layer gets as much as a directory."""
    for name in ("root", "upper"):
        (tmp_path / name).mkdir()
    features.problems(spec(root=Root(type="directory", path=str(tmp_path / "root"), writable=True)))
    features.problems(spec(root=Root(type="overlay", lower=("/",), upper=str(tmp_path / "upper"), writable=True)))
    assert list((tmp_path / "root").iterdir()) == []
    assert list((tmp_path / "upper").iterdir()) == []


def switch_off(kind: str) -> None:
    """Be in a user namespace in which no namespaces of this type are allowed."""
    kernel.unshare(kernel.CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text("0 0 1")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text("0 0 1")
    Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")


def test_user_namespaces_switched_off(in_child: Callable[..., Any]) -> None:
    """A limit of 0 is seen before anything is done."""

    def act() -> tuple[Any, ...]:
        switch_off("user")
        return features.problems(spec(user="0:0", namespaces=Namespaces(), groups=("keep",)))

    found = in_child(act)
    assert "sysctl user.max_user_namespaces is 0: namespaces of this type are switched off" in [p.cause for p in found]


def test_network_of_an_ordinary_user(as_user: AsUser) -> None:
    """veth needs CAP_NET_ADMIN on the host; net.preflight says it, and the rest is looked at still."""
    found = as_user(features.problems, spec("nosuchcommand", net=Net(mode="veth")))
    assert found[0].what == 'net.mode "veth"'
    assert "nosuchcommand is not in the command's root" in found[-1].cause


def test_cgroups_of_an_ordinary_user(as_user: AsUser) -> None:
    """Limits without a delegated cgroup are one problem with one remedy, and do not hide others."""
    wanted = Spec(command=("nosuchcommand",), env={"PATH": "/bin"})
    found = as_user(features.problems, wanted)
    if found[0].what.startswith("limits."):
        assert [problem.what.startswith("limits.") for problem in found].count(True) == 1
        assert found[-1].cause.startswith("nosuchcommand is not")


CAPABLE = {"capabilities": Capabilities(*[("dac_override",)] * 5)}
SHARED = {"namespaces": Namespaces(user="host")}
# Owner and mode of a directory of the host, words of its mount, words of the spec, what is to be done if it is closed.
BINDS: dict[str, tuple[tuple[int, int], int, dict[str, Any], dict[str, Any], str]] = {
    "others'": ((0, 0), 0o755, {}, {}, "add idmap and chown 33:34 {0}, or chmod o+wx {0}"),
    "everybody's": ((0, 0), 0o777, {}, {}, ""),
    "others' on the host alone": ((33, 34), 0o755, {}, {}, "add idmap and chown 33:34 {0}, or chmod o+wx {0}"),
    "idmap, others'": ((0, 0), 0o755, {"idmap": True}, {}, "chown 33:34 {0}, or chmod o+wx {0}"),
    "idmap, own": ((33, 0), 0o755, {"idmap": True}, {}, ""),
    "idmap, own, not to be written": ((33, 0), 0o577, {"idmap": True}, {}, "chmod u+wx {0}"),
    "idmap, of the group": ((0, 34), 0o775, {"idmap": True}, {}, ""),
    "idmap, of a further group": ((0, 44), 0o775, {"idmap": True}, {"groups": ("44",)}, ""),
    "idmap, group, not to be written": ((0, 34), 0o757, {"idmap": True}, {}, "chown 33:34 {0}, or chmod g+wx {0}"),
    "idmap, of nobody inside": ((70000, 34), 0o777, {"idmap": True}, {}, "chown 33:34 {0}"),
    "capability, others'": ((0, 0), 0o755, {}, CAPABLE, "add idmap and chown 33:34 {0}, or chmod o+wx {0}"),
    "capability, idmap": ((0, 0), 0o755, {"idmap": True}, CAPABLE, ""),
    "the host's ids": ((0, 0), 0o755, {}, SHARED, "chown 33 {0}, or chmod o+wx {0}"),
    "the host's ids, own": ((33, 0), 0o755, {}, SHARED, ""),
}


@pytest.mark.vm_full
@pytest.mark.parametrize("case", BINDS)
def test_note_of_a_bind_that_the_command_cannot_write(case: str, tmp_path: Path) -> None:
    """It is there where writing is really refused, and nowhere else."""
    from nstool.sandbox.launch import launch

    owner, mode, words, more, remedy = BINDS[case]
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, *owner)
    place.chmod(mode)
    mount = Mount("/tmp/place", str(place), writable=True, **words)
    wanted = spec("touch", "/tmp/place/x", user="33:34", mounts=(mount,), **more)
    assert features.problems(wanted) == ()
    notes = features.notes(wanted)
    with open(os.devnull, "w") as null, launch(wanted, stderr=null.fileno()) as sandbox:
        assert (sandbox.wait().code == 0) is not bool(remedy)
    whose = f"mounts[0]: the command cannot write {place}: it belongs to uid {owner[0]} with mode {mode:04o}"
    assert len(notes) == bool(remedy)
    for note in notes:
        assert note.startswith(whose)
        assert note.endswith("; " + remedy.format(place))


@pytest.mark.needs("newuidmap")
@pytest.mark.vm_full
def test_note_for_an_ordinary_user(as_user: AsUser) -> None:
    """Their own directory is another's inside, unless they map their own id there: as the note says."""

    def act() -> tuple[str, str, str]:
        os.makedirs("own", exist_ok=True)
        words = ("--memory=0", "--pids=0", "--cpu=0", "--mount", f"{os.getcwd()}/own:/tmp/own:rw")
        closed = nstool("check", *words, "--", "true")[1]
        more = closed.partition("map your own ids: ")[2].partition(",")[0].split()
        opened = nstool("check", *words, *more, "--", "true")[1]
        written = nstool("run", *words, *more, "--", "sh", "-c", "echo here > /tmp/own/x; cat /tmp/own/x")[1]
        shutil.rmtree("own")
        return closed, opened, written

    closed, opened, written = as_user(act)
    assert "\nnote: --mount: the command cannot write " in closed
    assert opened == "this host can do all of it\n"
    assert written == "here\n"


def test_features_cover_what_a_sandbox_needs() -> None:
    """Every namespace type, the mount features, every controller and link kind are in the list, each with a state."""
    found = {(f.area, f.name): f for f in features.features()}
    assert {name for area, name in found if area == "namespaces"} >= {
        *("user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time"),
        "choosing a pid",
    }
    for feature in found.values():
        assert feature.state in ("yes", "no", "limited", "unknown")
        assert feature.found
        assert feature.remedy or feature.state != "no", feature
    assert found["namespaces", "uts"].state == "yes"
    assert found["mounts", "mount API by fd"].state == "yes"
    assert found["host", "kernel"].found.startswith(os.uname().release)
    assert ("network", "veth") in found


def test_features_of_an_ordinary_user(as_user: AsUser) -> None:
    """An ordinary user makes namespaces in a user namespace, and no id-mapped mounts."""
    found = {(f.area, f.name): f for f in as_user(features.features)}
    assert found["namespaces", "uts"].state == "yes"
    assert "in a user namespace" in found["namespaces", "uts"].found
    assert found["mounts", "id-mapped mounts"].state == "no"
    assert found["network", "veth"].state == found["network", "bridge"].state


@pytest.mark.needs("veth", "nft")
@pytest.mark.parametrize("drop", [True, False], ids=["user", "root"])
def test_features_and_check_agree_on_a_link(as_user: AsUser, in_child: Callable[..., Any], drop: bool) -> None:
    """Who may not make a link in the host's network namespace has veth, bridge and nft for a namespace of their own."""
    act = as_user if drop else in_child
    found = {f.name: f.state for f in act(features.features) if f.area == "network"}
    told = [problem.what for problem in act(features.problems, spec(net=Net(mode="veth")))]
    assert {found[name] for name in ("nft", "veth", "bridge")} == {"limited" if drop else "yes"}
    assert ('net.mode "veth"' in told) is drop


def test_features_see_a_limit(in_child: Callable[..., Any]) -> None:
    """Where uts namespaces are switched off, the list says no, and what to do."""

    def act() -> Any:
        switch_off("uts")
        return next(f for f in features._namespaces() if f.name == "uts")

    feature = in_child(act)
    assert feature.state == "no"
    assert "sysctl user.max_uts_namespaces is 0" in feature.found
    assert "sysctl -w user.max_uts_namespaces=" in feature.remedy


def said_by_both(*words: str, status: int) -> str:
    """Return what `run` says of a command line, once it is what `check` says too."""
    by_run, by_check = nstool("run", *words), nstool("check", *words)
    assert by_run[0] == by_check[0] == status, (by_run, by_check)
    assert by_run[1].removeprefix("nstool: ").strip() == by_check[1].removeprefix("nstool: ").strip()
    return by_run[1]


@pytest.mark.vm_full
def test_name_of_a_running_sandbox(name: str) -> None:
    """check refuses it as run does, and the name is free again when that sandbox has ended."""
    from nstool.sandbox.launch import launch

    with launch(spec("sleep", "60", name=name)):
        said = said_by_both("--name", name, "--", "true", status=2)
        assert said.startswith(f"nstool: --name: '{name}' is the name of a running sandbox (process {os.getpid()})")
    assert nstool("check", "--name", name, "--", "true") == (0, "this host can do all of it\n")


@pytest.mark.vm_full
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NSTOOL_IDS", "5-", "NSTOOL_IDS: '5-' is not FIRST-LAST"),
        ("NSTOOL_IDS", "1" * 5000, "NSTOOL_IDS: '111"),
        ("NSTOOL_NETS", "10.0.0.0/8,10/8", "NSTOOL_NETS: '10/8' is not an IPv4 network"),
        ("NSTOOL_NETS", "10.0.0.0/" + "1" * 5000, "NSTOOL_NETS: '10.0.0.0/111"),
    ],
)
@pytest.mark.needs("veth", "nft")
def test_pools_that_are_none(variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """check refuses what is wrong in the environment as run does, in a line of readable length."""
    monkeypatch.setenv(variable, value)
    said = said_by_both("--net", "veth", "--", "true", status=2)
    assert said.startswith(f"nstool: {words}")
    assert len(said) < 200


@pytest.mark.vm_full
def test_pool_without_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool in which nothing is free is what this host cannot do, in the words of run."""
    monkeypatch.setenv("NSTOOL_IDS", "65536-65600")
    assert "host ids of its own: not possible on this host" in said_by_both("--", "true", status=125)


@pytest.mark.vm_full
def test_what_is_leased_for_a_look_is_given_back(run_dir: Path) -> None:
    """check leaves no name, no ids and no network in the run directory."""
    assert nstool("check", "--name", "looked-at", "--", "true")[0] == 0
    assert not run_dir.exists()


@pytest.mark.vm_full
def test_fd_that_is_not_open() -> None:
    """check refuses it as run does."""
    said = said_by_both("--pass-fd", "77", "--", "true", status=2)
    assert said == "nstool: --pass-fd: fd 77 is not open in the launcher\n"


@pytest.mark.vm_full
def test_command_line() -> None:
    """0 for all can be done, 125 for something cannot, 2 for a bad spec; --json has the same."""
    quiet = ("--memory", "0", "--pids", "0", "--cpu", "0")
    assert nstool("check", *quiet, "--", "true") == (0, "this host can do all of it\n")
    status, text = nstool("check", *quiet, "--", "nosuchcommand")
    assert status == 125
    assert "remedy: " in text
    status, text = nstool("check", "--json", *quiet, "--", "nosuchcommand")
    told = json.loads(text)
    assert (status, told["ok"], told["problems"][0]["checked"]) == (125, False, True)
    status, text = nstool("check", "--nosuchoption", "--", "true")
    assert status == 2
    assert "--nosuchoption" in text


@pytest.mark.vm_full
def test_a_problem_is_placed_where_it_is_written(tmp_path: Path) -> None:
    quiet = "[limits]\nmemory = 0\npids = 0\ncpu = 0\n"
    for lines, place in (
        ('command = ["nosuch"]\n', "1: command"),
        ('command = ["true"]\n\ncwd = "/no/dir"\n', "3: cwd"),
    ):
        file = tmp_path / "spec.toml"
        file.write_text(lines + quiet)
        status, text = nstool("check", str(file))
        assert status == 125
        assert text.startswith(f"{file}:{place}: not possible on this host\n")


@pytest.mark.vm_full
@pytest.mark.parametrize(("user", "noted"), [("1000:1000", True), ("0:0", False)])
def test_note_of_a_root_that_the_command_cannot_write(user: str, noted: bool) -> None:
    words = ("--root", "tmpfs", "--writable", "--mount", "/usr", "--mount", "/lib", "--mount", "/lib64", "--user", user)
    quiet = ("--memory", "0", "--pids", "0", "--cpu", "0")
    status, text = nstool("check", *quiet, *words, "--", "/usr/bin/true")
    assert status == 0
    assert ("note: --writable: what is in the root belongs to uid 0 inside" in text) == noted
    for path in ("/x", "/usr/x"):
        done = subprocess.run([*NSTOOL, "run", *quiet, *words, "--", "/usr/bin/touch", path], capture_output=True)
        assert (done.returncode == 0) == (not noted and path == "/x")


@pytest.mark.vm_full
def test_a_root_that_lacks_directories_and_is_somebody_elses(tmp_path: Path) -> None:
    """check foresees what run meets: /proc cannot be made in it; with the directory's owner mapped it can."""
    root = tmp_path / "root"
    root.mkdir()
    words = ("--root", str(root), "--writable", "--mount", "/usr", "--mount", "/lib", "--mount", "/lib64")
    quiet = ("--memory", "0", "--pids", "0", "--cpu", "0")
    for command in ("run", "check"):
        status, text = nstool(command, *quiet, *words, "--", "/usr/bin/true")
        assert status == 125, text
        assert f"cause: / ({root} on the host) is not writable for host uid" in text
    for command in ("check", "run"):
        assert nstool(command, *quiet, *words, "--root-idmap", "--", "/usr/bin/true")[0] == 0


@pytest.mark.vm_full
def test_a_spec_on_standard_input(tmp_path: Path) -> None:
    """Also of a service, which is seen by its text."""
    for text, expected in (
        ('command = ["true"]\n', 0),
        ('command = ["/bin/cat"]\n[service]\nlisten = ["tcp:127.0.0.1:0"]\nplaces = 2\n', 0),
        ('command = ["/no/cat"]\n[service]\nlisten = ["tcp:127.0.0.1:0"]\nplaces = 2\n', 125),
        ('command = ["true"]\numask = 22\n', 2),
    ):
        done = subprocess.run([*NSTOOL, "check", "-"], input=text, capture_output=True, text=True, cwd=REPOSITORY)
        assert done.returncode == expected, done


@pytest.mark.vm_full
def test_command_line_alone() -> None:
    """Without a spec it is the list, as a table or as JSON."""
    status, text = nstool("check", "--json")
    assert status == 0
    assert {"area", "name", "state", "found", "remedy"} == set(json.loads(text)["features"][0])
    status, text = nstool("check")
    assert status == 0
    assert "namespaces" in text
