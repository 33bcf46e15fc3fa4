"""Run directory, names, records, journal, undoing: all that needs neither root nor the built module."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nstool.errors import KernelError, NotSupported, NstoolError, SandboxGone, SpecError
from nstool.plan.lease import Lease
from nstool.plan.steps import LAUNCHER, UNDO, Fd, Step
from nstool.sandbox import journal, jsonl, leases, rundir
from nstool.uapi import AT_FDCWD, AT_REMOVEDIR
from tests.support.child import in_processes, left_by_dead

HEADER = b'["nstool",1,1,1,"",1,1,1.0]\n{"init":'
AFTER_REBOOT = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NSTOOL_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def rmdir(path: Path) -> Step:
    return Step(UNDO, "unlinkat", (AT_FDCWD, str(path), AT_REMOVEDIR), f"remove {path.name}")


def by_hand(directory: Path) -> None:
    """Make a sandbox's directory, and the run directory if it is absent."""
    for path in (directory.parents[1], directory.parent, directory):
        path.mkdir(0o700, exist_ok=True)


def rewrite(run: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    file = run / "sandboxes" / name / "journal"
    file.write_bytes(change(file.read_bytes()))


# --------------------------------------------------------------------------------- JSON lines

text = st.text(st.characters(exclude_categories=()).filter(lambda c: not "\ud800" <= c <= "\udbff"))
keys = st.text().filter(lambda key: not key.startswith("$"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


@given(values)
def test_encoded_values_are_json_on_one_line(value: object) -> None:
    """json reads back what was written; lone low surrogates, as in os.fsdecode, included."""
    line = jsonl.encode(value)
    assert json.loads(line) == value
    assert "\n" not in line
    assert jsonl.decode(line.encode()) == value


@given(st.binary())
def test_bytes_come_back(data: bytes) -> None:
    """Bytes, which JSON lacks, come back as bytes."""
    assert jsonl.decode(jsonl.encode([data])) == [data]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, {"$bytes": "00"}, object(), Fd("root")])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        jsonl.encode([value])


# ------------------------------------------------------------------------------ run directory


def test_the_run_directory_is_made_for_its_owner_alone(run: Path) -> None:
    assert rundir.path() == str(run)
    assert not run.exists()
    rundir.claim()
    assert run.stat().st_mode & 0o7777 == 0o700
    assert sorted(p.name for p in run.iterdir()) == ["ids", "nets", "sandboxes"]


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o1702])
def test_a_run_directory_that_others_can_write_is_refused(run: Path, mode: int) -> None:
    run.mkdir()
    run.chmod(mode)
    with pytest.raises(NotSupported, match="others can write"):
        rundir.claim()


def test_a_run_directory_behind_a_symbolic_link_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotSupported, match="symbolic link"):
        rundir.claim()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("what", ["a device", "a symbolic link", "not a directory", "others can write in it"])
def test_what_somebody_has_named_is_left_alone(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told to remove it, or to close it to others who may need it: the remedy is to name another."""
    place = tmp_path / "place"
    if "link" in what:
        place.symlink_to(tmp_path)
    elif "others" in what:
        place.mkdir()
        place.chmod(0o1777)
    elif "directory" in what:
        place.touch()
    monkeypatch.setenv("NSTOOL_RUN_DIR", "/dev/null" if "device" in what else str(place))
    with pytest.raises(NotSupported, match=what) as told:
        rundir.claim()
    assert told.value.remedy.startswith("set NSTOOL_RUN_DIR to ")


def test_what_is_in_our_own_place_is_looked_at_and_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NSTOOL_RUN_DIR")
    monkeypatch.setattr(rundir, "wanted_path", lambda: str(tmp_path / "nstool"))
    (tmp_path / "nstool").touch()
    with pytest.raises(NotSupported) as told:
        rundir.claim()
    assert told.value.remedy.startswith("see whose it is and move it away, or set NSTOOL_RUN_DIR to ")


def test_a_relative_runtime_directory_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the XDG Base Directory Specification has it."""
    monkeypatch.delenv("NSTOOL_RUN_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for runtime, wanted in (("/run/user/1000", "/run/user/1000/nstool"), ("run", "/tmp/nstool-1000")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        assert rundir.wanted_path() == wanted


def test_a_run_directory_that_cannot_be_made_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSTOOL_RUN_DIR", "/proc/nstool")
    with pytest.raises(KernelError, match="NSTOOL_RUN_DIR"):
        rundir.claim()


def test_what_was_removed_meanwhile_is_told(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there a moment ago, so another NSTOOL_RUN_DIR is no remedy; the next start makes it again."""
    rundir.claim("web")
    shutil.rmtree(run)
    with pytest.raises(KernelError, match="sandboxes/web was removed meanwhile") as told:
        rundir.append("web", "{}\n")
    assert told.value.remedy.startswith("start it again, ")
    append = rundir._append

    def append_and_remove(*args: Any) -> None:
        append(*args)
        shutil.rmtree(run)

    monkeypatch.setattr(rundir, "_append", append_and_remove)
    with pytest.raises(KernelError, match="was removed meanwhile"):
        rundir.claim("web")


# -------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["", ".web", "-web", "_web", "Web", "a/b", "..", "a b", "a\n", "ä", "x" * 64, "0", "007"]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"cannot be the name|would be taken for a process id"):
        rundir.check_name(name)


@pytest.mark.parametrize("name", ["a", "0a", "web-1.example_x", "x" * 63])
def test_good_names_are_taken(name: str) -> None:
    assert rundir.claim(name) == name
    assert rundir.names() == [name]


def test_made_up_names_are_no_pids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight decimal digits would be taken for a process, by `show`, `enter`, `pin` and `--net join:`."""
    random = os.urandom
    given = [b"\x12\x34\x56\x78", b"\x00\x00\x10\x00", b"\x12\x34\x56\x7a"]
    monkeypatch.setattr(os, "urandom", lambda size: given.pop(0) if given else random(size))
    assert rundir.claim() == "1234567a"


def test_made_up_names_differ() -> None:
    names = {rundir.claim() for _ in range(50)}
    assert len(names) == 50
    for name in names:
        rundir.check_name(name)


def test_a_taken_name_says_who_has_it(run: Path) -> None:
    """The second claim fails and leaves no draft."""
    rundir.claim("web")
    with pytest.raises(SpecError, match=rf"'web' .*process {os.getpid()}\b.*choose another"):
        rundir.claim("web")
    assert os.listdir(run / "sandboxes") == ["web"]


def test_a_dead_launchers_name_is_undone_and_taken(tmp_path: Path) -> None:
    left = tmp_path / "left"

    def launch() -> None:
        rundir.claim("web")
        journal.begin("web", [rmdir(left)])
        left.mkdir()

    left_by_dead(launch)
    assert left.exists()
    assert rundir.claim("web") == "web"
    assert not left.exists()
    assert rundir.find("web").pid == os.getpid()


def test_one_of_many_gets_the_name() -> None:
    """Of processes that claim one name at the same time, one gets it."""
    start, go = os.pipe()
    done, report = os.pipe()  # the winner lives until all have tried
    pids = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(start, 1)
            try:
                rundir.claim("web")
                os.write(report, b"y")
            except SpecError:
                os.write(report, b"n")
            signal.pause()
        pids.append(pid)
    os.close(go)
    os.close(start)
    answers = b"".join(os.read(done, 1) for _ in pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(done)
    os.close(report)
    assert sorted(answers) == sorted(b"y" + 7 * b"n")


# ----------------------------------------------------------------------------------- registry


def test_a_record_holds_what_was_written() -> None:
    rundir.claim("web")
    journal.begin("web", (), cgroups={"pids": "/sys/x"}, spec={"command": ["a b"]}, outlives=True)
    journal.started("web", os.getpid())
    record = rundir.find("web")
    assert (record.pid, record.launcher_alive, record.init_pid, record.init_alive) == (os.getpid(), True) * 2
    assert (record.outlives, record.cgroups, record.spec) == (True, {"pids": "/sys/x"}, {"command": ["a b"]})
    assert rundir.list_sandboxes() == (record,)


def test_a_reused_pid_is_not_the_launcher(run: Path) -> None:
    """A process with the pid of the launcher, but another start time, is another process."""
    rundir.claim("web")
    start = rundir.starttime(os.getpid())
    assert start > 0
    rewrite(run, "web", lambda data: data.replace(b",%d," % start, b",%d," % (start - 1)))
    assert not rundir.list_sandboxes()[0].alive
    with pytest.raises(SandboxGone, match="has ended"):
        rundir.find("web")


def test_a_zombie_is_dead() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert rundir.starttime(pid) == 0
    os.waitpid(pid, 0)
    assert rundir.starttime(pid) == 0


def test_a_sandbox_of_another_pid_namespace_is_not_judged(run: Path) -> None:
    """Its launcher's pid means somebody else here, so it counts as alive and is left alone."""
    rundir.claim("web")
    inode = os.stat("/proc/self/ns/pid").st_ino
    rewrite(run, "web", lambda data: data.replace(b"%d" % inode, b"1").replace(b"%d," % os.getpid(), b"999999999,"))
    record = rundir.find("web")
    assert record.alive
    assert record.state == "elsewhere"
    with pytest.raises(NotSupported, match="another pid or time namespace"):
        rundir.find_running("web")
    assert journal.cleanup() == ()


@given(st.binary() | st.binary().map(lambda end: HEADER + end))
def test_any_journal_is_read_or_refused(data: bytes) -> None:
    """Damaged by whatever: a record, or an error that names the file; and it stops no other command."""
    file = Path(rundir.path()) / "sandboxes" / "web" / "journal"
    by_hand(file.parent)
    file.write_bytes(data)
    try:
        assert isinstance(rundir.read("web"), rundir.Record)
        journal.read_undo("web")
    except NotSupported as error:
        message = str(error)
    else:
        message = str(file)
    assert str(file) in message
    journal.stale()


def test_a_process_whose_start_was_not_seen_is_dead_when_it_is_gone() -> None:
    """init may have ended before its start time was read: 0 is nobody's."""
    rundir.claim("web")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    journal.started("web", pid)
    assert not rundir.find("web").init_alive


def test_who_does_not_exist_is_named_with_who_does() -> None:
    rundir.claim("web")
    with pytest.raises(SandboxGone, match="no sandbox 'wep'; there are: web"):
        rundir.find("wep")


def test_a_journal_of_another_version_is_left_alone(run: Path) -> None:
    rundir.claim("web")
    rewrite(run, "web", lambda data: data.replace(b'"nstool",1', b'"nstool",2'))
    with pytest.raises(NstoolError, match="another version"):
        journal.cleanup()
    assert rundir.names() == ["web"]
    assert not journal.stale()


# ------------------------------------------------------------------------------------- undoing


def test_steps_are_undone_in_reverse_order(tmp_path: Path) -> None:
    """A directory that was made before the one in it goes after it; the sandbox's directory last."""
    rundir.claim("web")
    steps = (rmdir(tmp_path / "d"), rmdir(tmp_path / "d" / "f"))
    journal.begin("web", steps)
    assert journal.read_undo("web") == steps
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").mkdir()
    assert journal.undo("web") == ("remove f", "remove d")
    assert not (tmp_path / "d").exists()
    assert rundir.names() == []


def test_what_is_gone_already_is_done(tmp_path: Path) -> None:
    rundir.claim("web")
    assert journal.undo("web", (rmdir(tmp_path / "d"), rmdir(tmp_path / "d" / "f"))) == ()
    assert journal.undo("web") == ()


def test_a_launcher_undoes_its_own_also_when_the_run_directory_is_gone(run: Path, tmp_path: Path) -> None:
    rundir.claim("web")
    (tmp_path / "left").mkdir()
    shutil.rmtree(run)
    assert journal.undo("web", (rmdir(tmp_path / "left"),), Lease("web")) == ("remove left",)


def test_one_failure_does_not_stop_the_others_and_keeps_the_journal(tmp_path: Path) -> None:
    """All failures are in one error; the next try undoes the rest."""
    rundir.claim("web")
    for name in "abc":
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "full").touch()
    (tmp_path / "c" / "full").touch()
    journal.begin("web", [rmdir(tmp_path / name) for name in "abc"])
    with pytest.raises(NstoolError, match=r"2 not undone\n(.*\n)*.*remove c: .*\n.*remove a: .*") as caught:
        journal.undo("web")
    assert "cleanup" in str(caught.value)
    assert [(tmp_path / name).exists() for name in "abc"] == [True, False, True]
    assert rundir.names() == ["web"]
    (tmp_path / "a" / "full").unlink()
    (tmp_path / "c" / "full").unlink()
    assert journal.undo("web") == ("remove c", "remove a")
    assert rundir.names() == []


def test_external_steps_are_undone_by_the_registered_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments come as they were planned; a handler that nobody has is a failure that says so."""
    seen = []
    monkeypatch.setattr("tests.unit.test_journal.HANDLERS", {"link_delete": lambda *given: seen.append(given)})
    monkeypatch.setattr(journal, "HANDLER_MODULES", ("tests.unit.test_journal",))
    rundir.claim("web")
    journal.begin("web", [Step(UNDO, "external", ("link_delete", {"link": "ns-1", "ports": [1, 2]}), "the link")])
    assert journal.undo("web") == ("the link",)
    assert seen == [(None, {"link": "ns-1", "ports": [1, 2]})]
    rundir.claim("web")
    with pytest.raises(NstoolError, match="nobody knows how to undo 'other'"):
        journal.undo("web", (Step(UNDO, "external", ("other", {}), "the other"),))


HANDLERS: dict[str, Callable[..., object]] = {}


@pytest.mark.parametrize(
    "step",
    [
        Step(LAUNCHER, "unlinkat", (AT_FDCWD, "/x", 0), "not an undo"),
        Step(UNDO, "mkdirat", (AT_FDCWD, "/x", 0), "makes"),
        Step(UNDO, "unlinkat", (Fd("dir"), "x", 0), "an fd"),
        Step(UNDO, "unlinkat", (AT_FDCWD, "x", 0), "relative"),
        Step(UNDO, "unlinkat", (7, "/x", AT_REMOVEDIR), "an fd by number"),
        Step(UNDO, "unlinkat", (AT_FDCWD, "/x", 0), "a file"),
        Step(UNDO, "write_file", (AT_FDCWD, "/x", b"", 0, 0), "writes"),
        Step(UNDO, "umount2", ("/x", 0), "unmounts"),
    ],
)
def test_steps_that_another_process_could_not_undo_are_refused(step: Step) -> None:
    rundir.claim("web")
    with pytest.raises(TypeError):
        journal.begin("web", [step])
    assert journal.read_undo("web") == ()


def test_files_in_the_sandboxes_directory_go_with_it(run: Path) -> None:
    """But nothing below a directory in it, which could be a mount of something else."""
    rundir.claim("web")
    own = run / "sandboxes" / "web"
    (own / "hosts").touch()
    (own / "empty").mkdir()
    (own / "root").mkdir()
    (own / "root" / "precious").touch()
    with pytest.raises(NstoolError, match="not empty"):
        journal.undo("web", ())
    assert (own / "root" / "precious").exists()
    assert (own / "journal").exists()
    (own / "root" / "precious").unlink()
    journal.undo("web", ())
    assert not own.exists()


# ------------------------------------------------------------------------------------ cleaning


def test_cleanup_undoes_the_dead_and_leaves_the_living(tmp_path: Path) -> None:
    def launch() -> None:
        rundir.claim("dead")
        journal.begin("dead", [rmdir(tmp_path / "left")])
        (tmp_path / "left").mkdir()

    rundir.claim("live")
    assert not journal.stale()
    left_by_dead(launch)
    assert journal.stale()
    assert journal.cleanup() == (journal.Cleaned("dead", ("remove left",)),)
    assert not (tmp_path / "left").exists()
    assert rundir.names() == ["live"]
    assert not journal.stale()


@pytest.mark.parametrize("cut", range(1, 300, 13))
def test_a_journal_that_was_cut_off_is_understood(run: Path, tmp_path: Path, cut: int) -> None:
    """The launcher was killed while it wrote: nothing of what the cut line says was made yet."""

    def launch() -> None:
        rundir.claim("web")
        journal.begin("web", [rmdir(tmp_path / "left")])

    left_by_dead(launch)
    rewrite(run, "web", lambda data: data[:-cut])
    assert [cleaned.name for cleaned in journal.cleanup()] == ["web"]
    assert rundir.names() == []


@pytest.mark.parametrize(
    "garbage", [b"\0" * 99 + b"\n", b"{}\n", b'["nstool",1,2]\n'], ids=["zeros", "object", "short"]
)
def test_a_journal_of_garbage_keeps_no_other_from_being_cleaned(run: Path, tmp_path: Path, garbage: bytes) -> None:
    """It is named, and stays: what it stood for cannot be known."""

    def launch() -> None:
        rundir.claim("web")
        journal.begin("web", [rmdir(tmp_path / "left")])

    (tmp_path / "left").mkdir()
    left_by_dead(launch)
    file = run / "sandboxes" / "bad" / "journal"
    file.parent.mkdir()
    file.write_bytes(garbage)
    with pytest.raises(NstoolError, match=str(file)):
        journal.cleanup()
    assert not (tmp_path / "left").exists()
    assert rundir.names() == ["bad"]


STRAYS = {
    "sandboxes/afile": Path.touch,
    "sandboxes/.afile.swp": Path.touch,
    "sandboxes/x/journal": Path.mkdir,
    "sandboxes/y/journal": lambda path: path.symlink_to("/etc/hostname"),
    "ids/notanumber": lambda path: path.symlink_to("nobody"),
    "ids/1926103040": Path.touch,
    "nets/10.213.0.300": lambda path: path.symlink_to("nobody"),
}


@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_in_the_run_directory_is_told_and_stops_nothing(run: Path, tmp_path: Path, stray: str) -> None:
    """The living are listed, the dead undone, names taken; what nstool has not made is named, and left."""

    def launch() -> None:
        rundir.claim("web")
        journal.begin("web", [rmdir(tmp_path / "left")])

    rundir.claim("alive")
    (tmp_path / "left").mkdir()
    (run / stray).parent.mkdir(exist_ok=True)
    STRAYS[stray](run / stray)
    assert not journal.stale()
    left_by_dead(launch)
    assert journal.stale()
    with pytest.raises(NstoolError, match="remove " + re.escape(str(run / stray).removesuffix("/journal"))) as told:
        journal.cleanup()
    assert str(told.value).count("remove ") == 1
    assert not (tmp_path / "left").exists()
    unread: list[NotSupported] = []
    assert [record.name for record in rundir.list_sandboxes(unread)] == ["alive"]
    assert len(unread) == stray.startswith("sandboxes/")
    assert os.path.lexists(run / stray)
    directory, name = stray.split("/")[:2]
    if directory == "sandboxes" and name[0] != ".":
        with pytest.raises(NotSupported, match="remove "):
            rundir.claim(name)


def test_a_pipe_instead_of_a_journal_is_not_waited_for(run: Path) -> None:
    by_hand(run / "sandboxes" / "web")
    os.mkfifo(run / "sandboxes" / "web" / "journal")
    assert journal.stale()
    assert rundir.claim("web") == "web"


def test_a_claim_in_the_making_is_removed_when_its_process_is_dead(run: Path) -> None:
    mine = f".{os.getpid()}-{rundir.starttime(os.getpid())}-0a"
    dead = f".{os.getpid()}-1-0b"
    for draft in (mine, dead):
        by_hand(run / "sandboxes" / draft)
    (run / "sandboxes" / dead / "journal").touch()
    assert journal.stale()
    assert journal.cleanup() == ()
    assert os.listdir(run / "sandboxes") == [mine]
    assert not journal.stale()


@pytest.mark.parametrize("left", ["nothing", "an empty journal", "a file but no journal"])
def test_what_the_host_left_when_it_went_down_is_removed(run: Path, left: str) -> None:
    """A file system may lose a file that a directory should have."""
    by_hand(run / "sandboxes" / "web")
    if left == "an empty journal":
        (run / "sandboxes" / "web" / "journal").touch()
    elif left == "a file but no journal":
        (run / "sandboxes" / "web" / "hosts").touch()
    assert journal.stale()
    assert rundir.claim("web") == "web"
    assert rundir.find("web").pid == os.getpid()


def test_after_a_reboot_only_directories_are_undone(run: Path, tmp_path: Path) -> None:
    """Links, sysctls and processes of the last boot are gone; their names may be somebody else's now."""
    (tmp_path / "file").mkdir()
    rundir.claim("web")
    link = Step(UNDO, "external", ("nobody has this", {}), "the link")
    journal.begin("web", [rmdir(tmp_path / "file"), link], outlives=True)
    journal.started("web", os.getpid())
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    rewrite(run, "web", lambda data: data.replace(boot, AFTER_REBOOT.encode()))
    record = rundir.read("web")
    assert record is not None
    assert (record.rebooted, record.launcher_alive, record.init_alive, record.alive) == (True, False, False, False)
    assert journal.cleanup() == (journal.Cleaned("web", ("remove file",)),)
    assert rundir.names() == []


def test_a_sandbox_that_outlives_its_launcher_is_left_alone_while_its_init_lives() -> None:
    init = os.fork()
    if init == 0:
        signal.pause()

    def launch() -> None:
        rundir.claim("web")
        journal.begin("web", (), outlives=True)
        journal.started("web", init)

    left_by_dead(launch)
    assert not journal.stale()
    assert journal.cleanup() == ()
    assert rundir.find("web").init_pid == init
    os.kill(init, signal.SIGKILL)
    os.waitpid(init, 0)
    assert journal.stale()
    assert [cleaned.name for cleaned in journal.cleanup()] == ["web"]


def test_who_undoes_is_not_disturbed() -> None:
    """A cleanup leaves a sandbox alone that another is just undoing."""
    left_by_dead(lambda: rundir.claim("web"))
    fd = rundir.lock("web")
    assert journal.cleanup() == ()
    assert rundir.names() == ["web"]
    rundir.unlock(fd)
    assert [cleaned.name for cleaned in journal.cleanup()] == ["web"]


def test_many_cleanups_at_once_undo_each_thing_once(tmp_path: Path) -> None:
    """None of them fails, and every sandbox is reported by exactly one."""
    names = [f"s{i}" for i in range(20)]

    def launch() -> None:
        for name in names:
            rundir.claim(name)
            journal.begin(name, [rmdir(tmp_path / name)])
            (tmp_path / name).mkdir()

    left_by_dead(launch)
    cleaned = in_processes(4, lambda: [c.name for c in journal.cleanup() if c.done])
    assert sorted(name for each in cleaned for name in each) == sorted(names)
    assert rundir.names() == []
    assert not [name for name in names if (tmp_path / name).exists()]


def test_nothing_to_clean_costs_one_listdir(run: Path) -> None:
    """And makes no run directory."""
    assert not journal.stale()
    assert not run.exists()


@pytest.mark.parametrize(
    ("whose", "dead", "old", "goes"),
    [
        ("own", True, False, True),
        ("nsexec", True, False, True),
        ("other", True, False, False),
        ("other", True, True, True),
        ("own", False, True, False),
        ("other", False, True, False),
    ],
)
def test_cgroups_without_a_journal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whose: str, dead: bool, old: bool, goes: bool
) -> None:
    """Empty ones of dead launchers go; those of another run directory only when they are old: it may be gone, too."""
    base = tmp_path / "cgroup"
    mark = {"own": leases.cgroup_mark(), "nsexec": "", "other": "+00000000"}[whose]
    own = base / f"nstool-web-abcdef{mark}-{2**22 + 1 if dead else os.getpid():012}"
    own.mkdir(parents=True)
    (base / "user.slice").mkdir()
    layout = SimpleNamespace(controllers={"pids": SimpleNamespace(base=str(base))}, unified_base="")
    monkeypatch.setattr("nstool.sandbox.cgroups.layout", lambda: layout)
    if old:
        monkeypatch.setattr(journal, "ABANDONED", 0.0)
    told = journal.cleanup()
    assert own.exists() != goes
    assert told == ((journal.Cleaned(own.name, (f"removed {own}",)),) if goes else ())
    assert (base / "user.slice").exists()
