"""Rows U1 and U3: id maps as root and as an ordinary user; capability sets, securebits, no_new_privs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nstool import syscalls, uapi
from nstool.errors import KernelError, NotSupported, SpecError
from nstool.sandbox.launch import launch
from nstool.security.capabilities import SETS, after_execve, full, last_cap, mask, names
from nstool.spec import check
from nstool.spec.model import Capabilities, IdMap, Limits, Mount, Namespaces, Net
from tests.kernel.rows import boxes
from tests.kernel.rows.conftest import Act
from tests.support.user import User

pytestmark = pytest.mark.vm

NO_FILTER = {"no_new_privs": False, "seccomp": "none"}


def id_map(pid: int, kind: str) -> list[tuple[int, ...]]:
    text = Path(f"/proc/{pid}/{kind}_map").read_text()
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def own_ids() -> dict[str, Any]:
    """The words that map the caller's own ids and no others."""
    return {"uid_map": (IdMap(1000, os.getuid(), 1),), "gid_map": (IdMap(1000, os.getgid(), 1),)}


# ---------------------------------------------------------------------------------------- U1


def test_root_gives_unused_ids(as_root: Act) -> None:
    """By default 65536 host ids that nobody else has: not those of host root, and other ones for each sandbox."""

    def look() -> list[list[tuple[int, ...]]]:
        with boxes.box() as one, boxes.box() as two:
            assert boxes.status(one.pid)["Uid"].split() == [str(id_map(one.pid, "uid")[0][1] + 1000)] * 4
            return [id_map(one.pid, "uid"), id_map(one.pid, "gid"), id_map(two.pid, "uid")]

    uids, gids, others = as_root(look)
    assert [(inside, count) for inside, _, count in uids] == [(0, 65536)]
    assert gids == uids
    assert uids[0][1] >= 0x70000000  # far from the accounts of a host
    assert abs(uids[0][1] - others[0][1]) >= 65536


def test_root_maps_several_ranges(as_root: Act) -> None:
    """As the options say; the ids inside are those of the map."""
    ranges = ["--uid-map", "0:200000:1000", "--uid-map", "1000:300000:5", "--gid-map", "0:400000:2000"]
    words = [*ranges, "--user", "1002:7"]

    def look() -> tuple[boxes.Ran, boxes.Ran]:
        maps = boxes.nstool("run", *words, "--", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map")
        return maps, boxes.nstool("run", *words, "--", "sh", "-c", "id -u; id -g")

    maps, ids = as_root(look)
    assert [line.split() for line in maps.lines] == [
        ["0", "200000", "1000"],
        ["1000", "300000", "5"],
        ["0", "400000", "2000"],
    ]
    assert ids.out == "1002\n7\n"


def test_an_ordinary_user_maps_their_own_id(as_user: Act, user: User) -> None:
    """One line, no helper; setgroups(2) is denied for good."""

    def look() -> tuple[Any, ...]:
        with boxes.box(**own_ids()) as box:
            denied = Path(f"/proc/{box.pid}/setgroups").read_text()
            return id_map(box.pid, "uid"), id_map(box.pid, "gid"), denied, box.ask("id -u; id -g; id -G")

    assert as_user(look) == ([(1000, user.uid, 1)], [(1000, user.gid, 1)], "deny\n", "1000\n1000\n1000\n")


@pytest.mark.needs("newuidmap")
def test_an_ordinary_user_has_a_range_by_the_helpers(as_user: Act, user: User) -> None:
    """newuidmap(1) and newgidmap(1) write what /etc/subuid and /etc/subgid give; the own id is not in it."""

    def look() -> tuple[Any, ...]:
        with boxes.box() as box:
            return id_map(box.pid, "uid"), id_map(box.pid, "gid"), box.ask("id -u; id -g")

    uids, gids, inside = as_user(look)
    assert uids == [(0, user.subuid[0], 65536)]
    assert gids == [(0, user.subgid[0], 65536)]
    assert inside == "1000\n1000\n"


@pytest.mark.needs("newuidmap")
def test_the_helpers_write_a_map_of_the_users_choice(as_user: Act, user: User) -> None:
    """Such as the own id for root inside, and subordinate ones above."""
    words = {
        "uid_map": (IdMap(0, user.uid, 1), IdMap(1, user.subuid[0], 100)),
        "gid_map": (IdMap(0, user.gid, 1), IdMap(1, user.subgid[0], 100)),
        "user": "0:0",
    }

    def look() -> tuple[Any, ...]:
        with boxes.box(**words) as box:
            return id_map(box.pid, "uid"), box.ask("id -u")

    assert as_user(look) == ([(0, user.uid, 1), (1, user.subuid[0], 100)], "0\n")


@pytest.mark.needs("newuidmap")
def test_the_helpers_refuse_the_ids_of_others(as_user: Act) -> None:
    """The step of the helper fails, its message is given, nothing is left."""
    words = {"uid_map": (IdMap(0, 500, 2),), "gid_map": (IdMap(0, 500, 2),), "user": "0:0"}

    def ask() -> str:
        with pytest.raises(KernelError) as refused:
            launch(boxes.spec("true", **words))
        return str(refused.value)

    assert "newuidmap" in as_user(ask)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--uid-map", "0:200000:10", "--gid-map", "0:200000:10", "--user", "10:0"], "--user"),
        (["--uid-map", "0:200000:10", "--uid-map", "5:300000:10", "--gid-map", "0:200000:10"], "--uid-map"),
        (["--uid-map", "0:0:65536", "--gid-map", "0:200000:10"], "--uid-map"),
    ],
)
def test_wrong_maps_are_refused(act: Act, words: list[str], place: str) -> None:
    """An id that is not mapped, ranges that overlap, host root in passing: status 2, nothing done."""
    ran = act(boxes.nstool, "run", *words, "--", "true")
    assert ran.status == 2, ran
    assert place in ran.err


@pytest.mark.needs("root")
def test_supplementary_groups_that_cannot_be_dropped(in_child: Act, user: User) -> None:
    """One group id denies setgroups(2), so the caller's groups would stay: refused until --groups keep says so."""

    def ask() -> tuple[str, str]:
        user.become()
        with pytest.raises(NotSupported) as refused:
            launch(boxes.spec("true", **own_ids()))
        kept = boxes.shell("id -G", **own_ids(), groups=("keep",))
        return str(refused.value), kept

    def with_groups() -> Any:
        # The user's groups are set when the user is become: give it one more first.
        own = os.setgroups
        os.setgroups = lambda groups: own([*groups, 54321])  # type: ignore[assignment]
        return ask()

    message, kept = in_child(with_groups)
    assert "--groups keep" in message
    assert kept.split() == ["1000", "65534"]


@pytest.mark.parametrize(("ids", "owner"), [("1000:1000", 1000), ("0:0", 0)])
def test_files_of_root_sandboxes_have_the_mapped_owner(as_root: Act, tmp_path: Path, ids: str, owner: int) -> None:
    """What the command makes on a writable bind belongs, outside, to the host id of its map."""
    base = 0x6F000000
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, base + owner, base + owner)
    _open_to_all(tmp_path)
    maps = (IdMap(0, base, 65536),)
    mount = Mount("/tmp/shared", str(shared), writable=True)
    seen = as_root(
        boxes.shell,
        "touch /tmp/shared/made; stat -c %u:%g /tmp/shared/made",
        uid_map=maps,
        gid_map=maps,
        user=ids,
        mounts=(mount,),
    )
    assert seen == f"{ids}\n"
    assert ((shared / "made").stat().st_uid, (shared / "made").stat().st_gid) == (base + owner, base + owner)


def _open_to_all(path: Path) -> None:
    """Let everybody pass down to a directory of pytest's."""
    for directory in (path, *path.parents):
        if (
            directory != Path("/")
            and directory.stat().st_uid == os.geteuid()
            and not directory.stat().st_mode & stat.S_IXOTH
        ):
            directory.chmod(directory.stat().st_mode | 0o111)


def test_files_of_user_sandboxes_have_the_mapped_owner(as_user: Act, user: User) -> None:
    """The user's own id where that is mapped, else one of the subordinate ids."""

    def make() -> list[int]:
        os.mkdir("shared")
        os.chmod("shared", 0o777)
        try:
            mount = Mount("/tmp/shared", os.path.abspath("shared"), writable=True)
            boxes.shell("touch /tmp/shared/own", mounts=(mount,), **own_ids())
            boxes.shell("touch /tmp/shared/sub", mounts=(mount,))
            return [os.stat(f"shared/{name}").st_uid for name in ("own", "sub")]
        finally:
            shutil.rmtree("shared")

    assert as_user(make) == [user.uid, user.subuid[0] + 1000]


def test_the_remedy_for_an_idmap_shares_a_directory(as_user: Act, user: User) -> None:
    """What an ordinary user is told instead of idmap makes the command the owner of the user's files."""

    def share() -> tuple[str, int]:
        os.mkdir("own")
        try:
            words = ["--mount", f"{os.path.abspath('own')}:/tmp/own:rw"]
            refused = boxes.nstool_run(words[0], f"{words[1]},idmap", "--", "true").err
            options = re.search(r"--uid-map .*", refused)
            assert options, refused
            told = options[0].replace("$(id -u)", str(user.uid)).replace("$(id -g)", str(user.gid)).split()
            ran = boxes.nstool_run(*told, *words, "--", "touch", "/tmp/own/made")
            return ran.err, os.stat("own/made").st_uid
        finally:
            shutil.rmtree("own")

    assert as_user(share) == ("", user.uid)


# ------------------------------------------------------------------- the default as an ordinary user


def test_limits_that_cannot_be_had_are_named(as_user: Act) -> None:
    """Without a cgroup of one's own the default is refused, in one message that has the words to go on with."""
    ran = as_user(boxes.nstool, "run", "--", "id")
    assert ran.status == 125, ran
    assert ran.out == ""
    for words in ("limits.memory", "limits.pids", "limits.cpu", "--memory 0 --pids 0 --cpu 0", "cause:", "remedy:"):
        assert words in ran.err
    assert "Traceback" not in ran.err


def test_without_limits_the_default_works(as_user: Act) -> None:
    """The words of that message are enough."""
    ran = as_user(boxes.nstool_run, "--", "id")
    assert (ran.status, ran.err) == (0, ""), ran
    assert ran.out.startswith("uid=1000")


def of_proc(text: str) -> dict[str, tuple[str, str]]:
    """Soft and hard limits of core dumps and files in what /proc/PID/limits has."""
    found = re.findall(r"^Max (core file size|open files) +(\S+) +(\S+)", text, re.MULTILINE)
    return {name.split()[0]: (soft, hard) for name, soft, hard in found}


def lower() -> None:
    """Have the hard limits of a caller to whom sudo(8), or a unit, has left less than a spec has by default."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))


def test_a_limit_by_default_is_at_most_what_the_caller_has(as_user: Act) -> None:
    """None that he did not ask for keeps him from a launch; one that he asks for, and cannot have, is an error."""

    def run() -> tuple[boxes.Ran, boxes.Ran]:
        lower()
        return boxes.nstool_run("--", "cat", "/proc/self/limits"), boxes.nstool_run(
            "--rlimit", "nofile=501", "--", "id"
        )

    had, refused = as_user(run)
    assert (had.status, had.err) == (0, "")
    assert of_proc(had.out) == {"core": ("0", "0"), "open": ("500", "500")}
    assert (refused.status, refused.out) == (125, "")
    assert "the hard limit of RLIMIT_NOFILE is 500" in refused.err


@pytest.mark.needs("sys_resource")
def test_who_may_raise_limits_gives_what_is_asked_for(as_root: Act) -> None:
    """To the sandbox and whoever comes in later, and keeps his own; so core dumps start nothing on the host."""

    def run() -> list[Any]:
        lower()
        limits = Limits(memory=0, pids=0, cpu=0, rlimits={**Limits().rlimits, "nofile": (1024, 2000)})
        with boxes.box(limits=limits) as one:
            later = boxes.nstool("exec", one.sandbox.name, "--", "cat", "/proc/self/limits")
            assert boxes.nstool("check", "--rlimit", "nofile=2000", "--", "true").status == 0
            return [
                of_proc(Path(f"/proc/{one.pid}/limits").read_text()),
                of_proc(later.out),
                resource.getrlimit(resource.RLIMIT_CORE),
                resource.getrlimit(resource.RLIMIT_NOFILE),
            ]

    wanted = {"core": ("1", "1"), "open": ("1024", "2000")}
    assert as_root(run) == [wanted, wanted, (0, 0), (500, 500)]


# Nice value and policy, proc_pid_stat(5).
PRIORITY = "cut -d' ' -f19,41 /proc/self/stat; cat /proc/self/personality 2>&1 | tail -c 9"


def said_before_others(*words: str) -> str:
    """What a command says of itself whose caller comes before others, and has addresses that are not random."""
    before = ["setarch", "-R", "chrt", "-f", "7", "nice", "-n", "-5"]
    command = [*before, *boxes.NSTOOL, *words, "--", "sh", "-c", PRIORITY]
    env = {**os.environ, **boxes.PATH}
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=env, check=True).stdout


def test_nothing_of_the_caller_lets_a_command_come_before_others(as_root: Act) -> None:
    """Neither real time nor a nice value; and its addresses are random."""

    def look() -> list[str]:
        with boxes.box() as one:
            return [said_before_others("run"), said_before_others("exec", one.sandbox.name)]

    assert as_root(look) == ["0 0\n00000000\n"] * 2


@pytest.mark.needs("sys_resource")
def test_a_limit_that_is_not_zero_keeps_what_the_caller_has(as_root: Act) -> None:
    """A word for each: what a command may give itself by that it may inherit."""
    none = ("run", "--memory", "0", "--pids", "0", "--cpu", "0")
    said = [
        as_root(said_before_others, *none, *words)
        for words in (("--rlimit", "nice=25", "--aslr", "off"), ("--rlimit", "rtprio=7"))
    ]
    assert said == ["-5 0\n00040000\n", "0 1\n00000000\n"]


# ---------------------------------------------------------------------------------------- U3


def sets(pid: int) -> dict[str, int]:
    found = boxes.status(pid)
    return {name: int(found[line], 16) for name, line in SETS.items()}


@pytest.mark.parametrize("ids", ["1000:1000", "0:0"])
def test_no_capability_by_default(act: Act, ids: str) -> None:
    """Not in one of the five sets, also for root inside; and none is gained."""

    def look() -> tuple[dict[str, int], str, str]:
        with boxes.box(user=ids) as box:
            child = boxes.parsed(box.ask("cat /proc/self/status"))["CapPrm"]
            return sets(box.pid), boxes.status(box.pid)["NoNewPrivs"], child

    assert act(look) == (dict.fromkeys(SETS, 0), "1", "0" * 16)


def test_a_capability_in_all_five_sets(act: Act) -> None:
    """It is there, outlives further execs without file capabilities, and works."""
    words = "chown", "net_bind_service"

    def look() -> tuple[dict[str, int], str, str]:
        capabilities = Capabilities(*[words] * 5)
        with boxes.box(capabilities=capabilities) as box:
            child = boxes.parsed(box.ask("sh -c 'cat /proc/self/status'"))["CapEff"]
            done = box.ask("touch /tmp/f && chown 7:8 /tmp/f && stat -c %u:%g /tmp/f")
            return sets(box.pid), child, done

    seen, child, done = act(look)
    assert seen == dict.fromkeys(SETS, mask(words))
    assert int(child, 16) == mask(words)
    assert done == "7:8\n"


def test_without_it_the_same_is_refused(act: Act) -> None:
    """The counterpart of the test above."""
    ran = act(boxes.run, "/bin/sh", "-c", "touch /tmp/f && chown 7:8 /tmp/f")
    assert ran.status == 1
    assert "not permitted" in ran.err


def test_the_option_gives_all_five(act: Act) -> None:
    """--cap NAME on the command line."""
    seen = boxes.parsed(act(boxes.nstool_run, "--cap", "net_raw", "--", "cat", "/proc/self/status").out)
    assert {int(seen[line], 16) for line in SETS.values()} == {mask(("net_raw",))}


BITS = {"noroot", "no_setuid_fixup", "no_cap_ambient_raise"}
FEW = frozenset({"kill", "chown", "net_raw", "setpcap"})


def some(of: frozenset[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(sorted(of))) if of else st.just(of)


@st.composite
def rights(draw: st.DrawFn) -> dict[str, Any]:
    """Sets that capset(2) takes, as the words of a spec; every other time such that execve(2) keeps them."""
    bounding = draw(some(FEW))
    inheritable, permitted = draw(some(bounding)), draw(some(FEW))
    effective, ambient = draw(some(permitted)), draw(some(inheritable & permitted))
    bits = draw(some(frozenset(BITS)))
    locks = {f"{bit}_locked" for bit in draw(some(bits))} | draw(st.sampled_from([set(), {"keep_caps_locked"}]))
    user, no_new_privs = draw(st.sampled_from(["0:0", "1000:1000"])), draw(st.booleans())
    wanted = dict(zip(SETS, map(mask, (effective, permitted, inheritable, bounding, ambient))))
    if draw(st.booleans()):
        wanted = after_execve(wanted, root=user == "0:0" and "noroot" not in bits, no_new_privs=no_new_privs)
    return {
        "capabilities": Capabilities(**{key: names(value) for key, value in wanted.items()}),
        "securebits": tuple(sorted(bits | locks)),
        "user": user,
        "no_new_privs": no_new_privs,
        "seccomp": "none",
    }


@pytest.mark.vm_full
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=rights())
def test_the_five_sets_are_those_of_the_spec_or_it_is_refused(act: Act, words: dict[str, Any]) -> None:
    """As /proc tells them of the command after its exec; what is refused would have become something else."""
    wanted = {key: mask(getattr(words["capabilities"], key)) for key in SETS}

    def look() -> tuple[dict[str, int], str]:
        with boxes.box(**words) as box:
            return sets(box.pid), boxes.status(box.pid)["NoNewPrivs"]

    def unchecked() -> tuple[dict[str, int], str]:
        check.CHECKS = tuple(rule for rule in check.CHECKS if rule is not check._after_execve)
        return look()

    try:
        seen, no_new_privs = act(look)
    except SpecError as error:
        if "Transformation of capabilities" not in error.message:
            raise
        assert act(unchecked)[0] != wanted
    else:
        assert (seen, no_new_privs) == (wanted, str(int(words["no_new_privs"])))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cap-permitted", "kill"], "--cap-permitted: execve(2) leaves uid 1000 only what is ambient: write kill in"),
        (
            ["--cap", "kill,chown", "--cap-effective", "kill"],
            "makes what is ambient effective for uid 1000: write chown",
        ),
        (["--user", "root", "--cap-permitted", "kill"], "leaves uid 0 with the securebit noroot only what is ambient"),
        (
            ["--user", "0", "--securebits", "0", "--cap-permitted", "kill", "--cap-effective", "kill"],
            "leaves uid 0 without the securebit noroot only what is bounding: write kill in bounding",
        ),
        (
            ["--user", "0", "--securebits", "0", "--cap-bounding", "0x20", "--new-privs", "--seccomp", "none"],
            "makes what is bounding permitted for uid 0 without the securebit noroot: write kill in permitted too",
        ),
    ],
)
def test_sets_that_execve_would_change_are_refused(act: Act, words: list[str], says: str) -> None:
    """With the rule and the word to write, before anything is done."""
    ran = act(boxes.nstool_run, *words, "--", "true")
    assert (ran.status, ran.out) == (2, "")
    assert says in ran.err
    assert "Transformation of capabilities" in ran.err


def test_sets_by_mask_and_all(act: Act) -> None:
    """0x20 is kill; "all" is what there is."""
    words = ["--cap-bounding", "all", "--cap-inheritable", "0x21", "--securebits", "0x3"]
    ran = act(boxes.nstool_run, *words, "--", "sh", "-c", "cat /proc/self/status; setpriv --dump")
    seen = boxes.parsed(ran.out)
    assert (int(seen["CapBnd"], 16), int(seen["CapInh"], 16)) == (full(last_cap()), 0x21)
    assert "Securebits: noroot,noroot_locked\n" in ran.out


@pytest.mark.needs("userns")
def test_what_a_caller_without_rights_cannot_give_is_refused(as_user: Act) -> None:
    """Without a user namespace: each in its turn, with the words that accept the caller's, and at last it runs."""
    host = Namespaces(**dict.fromkeys(boxes.NAMES, "host"))
    words: dict[str, Any] = {"namespaces": host, "net": Net(mode="host"), "proc": "none", "dev": "none", "tmp_size": 0}
    words |= {"seccomp": "none", "oom_score_adj": 0}

    def refused(**more: Any) -> str:
        with pytest.raises(NotSupported) as caught:
            launch(boxes.spec("true", **words, **more))
        return f"{caught.value.what}: {caught.value.remedy}"

    def act() -> None:
        assert refused().startswith("capabilities.bounding: ")
        words["capabilities"] = Capabilities(bounding=names(full()))
        assert refused().endswith('--securebits ""')
        words["securebits"] = ()
        assert refused().endswith(f"--user {os.getuid()}:{os.getgid()}")
        words["user"] = f"{os.getuid()}:{os.getgid()}"
        assert refused(groups=("5",)).startswith("groups: ")
        assert boxes.shell("id -u", **words) == f"{os.getuid()}\n"

    as_user(act)


def test_securebits_are_those_of_the_spec(act: Act) -> None:
    """By name; setpriv(1) reads them back with PR_GET_SECUREBITS."""

    def look(words: dict[str, Any]) -> str:
        return next(
            line for line in boxes.shell("setpriv --dump", **words).splitlines() if line.startswith("Securebits")
        )

    default = act(look, {})
    for word in ("noroot", "noroot_locked", "no_setuid_fixup", "no_setuid_fixup_locked", "keep_caps_locked"):
        assert word in default.split(": ")[1].split(",")
    assert "[none]" in act(look, {"securebits": ()})
    some = act(look, {"securebits": ("noroot", "keep_caps_locked")})
    assert "noroot_locked" not in some
    assert "keep_caps_locked" in some


def test_a_lock_holds(act: Act) -> None:
    """Also for one who has CAP_SETPCAP: without the lock the bit can be cleared, with it not. capabilities(7)."""

    def change(words: tuple[str, ...]) -> int:
        capabilities = Capabilities(*[("setpcap",)] * 5)
        ran = boxes.run("setpriv", "--securebits", "-noroot", "true", capabilities=capabilities, securebits=words)
        return ran.status

    assert act(change, ("noroot",)) == 0
    assert act(change, ("noroot", "noroot_locked")) != 0


def test_the_library_sets_the_five_sets_of_the_caller(as_root: Act) -> None:
    """By mask, each seen in /proc/self/status."""

    def change() -> dict[str, int]:
        keep = mask(("kill", "setpcap", "chown"))
        for number in range(41):
            if not keep >> number & 1:
                syscalls.prctl(uapi.PR_CAPBSET_DROP, number)
        syscalls.capset(mask(("kill",)), mask(("kill", "chown")), mask(("kill", "chown")))
        syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAPABILITIES["chown"])
        return sets(os.getpid())

    assert as_root(change) == {
        "effective": mask(("kill",)),
        "permitted": mask(("kill", "chown")),
        "inheritable": mask(("kill", "chown")),
        "bounding": mask(("kill", "chown", "setpcap")),
        "ambient": mask(("chown",)),
    }


def test_no_new_privs_stops_a_set_user_id_file(as_root: Act, tmp_path: Path) -> None:
    """Such a file takes effect only where the mount says suid and the spec says no_new_privs = false."""
    shutil.copy("/usr/bin/id", tmp_path / "id")
    (tmp_path / "id").chmod(0o4755)
    _open_to_all(tmp_path)

    def effective(suid: bool, **words: Any) -> str:
        mount = Mount("/tmp/suid", str(tmp_path), suid=suid, idmap=True)
        ran = boxes.run("/tmp/suid/id", "-u", mounts=(mount,), **words)
        assert ran.status == 0, ran
        return ran.out

    assert as_root(effective, True, **NO_FILTER) == "0\n"
    assert as_root(effective, False, **NO_FILTER) == "1000\n"
    assert as_root(effective, True) == "1000\n"


def test_a_filter_needs_no_new_privs(act: Act) -> None:
    """Switching it off alone is refused with the words to write."""
    ran = act(boxes.nstool, "run", "--new-privs", "--", "true")
    assert ran.status == 2, ran
    assert "no_new_privs" in ran.err


def test_an_unknown_capability_is_refused(act: Act) -> None:
    """With the nearest name."""
    ran = act(boxes.nstool, "run", "--cap", "net_rav", "--", "true")
    assert ran.status == 2
    assert "net_raw" in ran.err
