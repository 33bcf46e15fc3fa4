"""What nstool predicts of execve(2), setresuid(2) and setfsuid(2) is what the kernel does: thousands are really made.

Each case is a process with ids, sets, securebits and surroundings, and a file; execve.c becomes the one, executes the
other, and tells what it is then. capabilities(7), execve(2).
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nstool import syscalls, uapi
from nstool.inspect.execution import host
from nstool.security.capabilities import Sets
from nstool.security.credentials import Ids
from nstool.security.filecaps import FileCaps
from nstool.security.predict import File, Process, Program, after_setfsuid, after_setresuid, predict
from nstool.spec.model import IdMap
from tests.kernel.inspect import executions
from tests.kernel.inspect.executions import ALICE, BOB, KILL, NET_ADMIN, NET_RAW, ROOT, SETUID
from tests.support import kernel
from tests.support.held import held
from tests.support.workplace import Workplace

InChild = Callable[..., Any]
pytestmark = [pytest.mark.vm, pytest.mark.needs("root", "native", "gcc")]
FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


class Place(NamedTuple):
    """The compiled program, copies of it, and all capabilities that a process here can have."""

    directory: Path
    probe: Path
    files: tuple[File, ...]
    full: int


@pytest.fixture(scope="module")
def place(workplace: Workplace) -> Iterator[Place]:
    with executions.directory(workplace, "execve") as directory:
        probe, full = executions.build(directory), executions.everything()
        yield Place(directory, probe, executions.copies(probe, directory, full), full)


def differences(
    place: Place, cases: list[tuple[Process, File]], maps: tuple[IdMap, ...] = (), cwd: Path | None = None
) -> list[str]:
    """Execute all; return each case of which the prediction differs from what the kernel has done."""
    lines = [executions.line(process, file.path, maps) for process, file in cases]
    told = executions.run(place.probe, lines, cwd=cwd)
    system = host()
    found = []
    for (process, file), kernel_says in zip(cases, told):
        predicted = executions.said(predict(process, Program((file,)), system), maps)
        if predicted != kernel_says:
            found.append(f"\n{process}\n{file}\nkernel:    {kernel_says}\npredicted: {predicted}")
    return found


def grid(full: int) -> Iterator[Process]:
    """Processes of every kind that the rules tell apart, in all combinations."""
    uids = [(ROOT,) * 4, (ALICE,) * 4, (ROOT, ALICE, ALICE, ALICE), (ALICE, ROOT, ROOT, ROOT), (ALICE, BOB, ALICE, BOB)]
    gids = [((0,) * 4, ()), ((1000,) * 4, (3000,)), ((1000, 3000, 1000, 1000), (0,)), ((1000, 3000, 3000, 3000), ())]
    sets = [
        Sets(bounding=full),
        Sets(effective=full, permitted=full, bounding=full),
        Sets(permitted=SETUID | NET_RAW, inheritable=NET_RAW | KILL, bounding=full & ~KILL),
        Sets(NET_RAW, NET_RAW | KILL, NET_RAW | KILL, full & ~NET_RAW, NET_RAW),
        Sets(SETUID, SETUID | NET_ADMIN, full, NET_RAW | NET_ADMIN, NET_ADMIN),
    ]
    surroundings = [{}, {"no_new_privs": True}, {"shares_fs": True}, {"tracer": "incapable"}, {"tracer": "capable"}]
    bits = [0, uapi.SECBIT_NOROOT, uapi.SECBIT_KEEP_CAPS]
    for uid, (gid, groups), masks, odd, securebits in itertools.product(uids, gids, sets, surroundings, bits):
        yield Process(Ids(*uid), Ids(*gid), groups, masks, securebits, **odd)


@pytest.mark.vm_full
def test_every_kind_of_process_becomes_what_is_predicted(place: Place) -> None:
    """Every seventeenth of all combinations of kinds of processes and of files."""
    cases = list(itertools.islice(itertools.product(grid(place.full), place.files), 0, None, 17))
    assert len(cases) > 2000
    assert differences(place, cases) == []


@pytest.mark.vm_full
@settings(max_examples=50, deadline=None, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_any_process_becomes_what_is_predicted(place: Place, data: st.DataObject) -> None:
    """Any ids, sets, bits; failures shrink to one process and one file."""
    case = st.tuples(executions.processes(place.full), st.sampled_from(place.files))
    assert differences(place, data.draw(st.lists(case, min_size=1, max_size=24))) == []


def ids() -> st.SearchStrategy[int]:
    return st.sampled_from([-1, ROOT, ALICE, BOB])


@pytest.mark.vm_full
def test_every_change_of_uids_leaves_what_is_predicted(place: Place) -> None:
    """All ids before and all calls, with few sets and securebits: every seventh of the combinations."""
    full, users = place.full, (ROOT, ALICE, BOB)
    before = itertools.product(
        itertools.product(users, repeat=4),
        [Sets(full, full, full, full, NET_RAW), Sets(KILL, SETUID | KILL, KILL, full, KILL), Sets(SETUID, SETUID)],
        [0, uapi.SECBIT_KEEP_CAPS, uapi.SECBIT_NO_SETUID_FIXUP],
    )
    one = Ids(0, 0, 0, 0)
    processes = [Process(Ids(*uids), one, (), sets, bits) for uids, sets, bits in before]
    changes = [*itertools.product((-1, *users), repeat=3), *((user,) for user in users)]
    cases = list(itertools.product(processes, changes))[::7]
    assert len(cases) > 5000
    assert uid_differences(place, cases) == []


@pytest.mark.vm_full
@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURES)
@given(data=st.data())
def test_a_change_of_uids_leaves_what_is_predicted(place: Place, data: st.DataObject) -> None:
    """setresuid(2) and setfsuid(2), also those that are refused. capabilities(7), "Effect of user ID changes"."""
    change = st.one_of(st.tuples(ids(), ids(), ids()), st.tuples(st.sampled_from([ROOT, ALICE, BOB])))
    cases = st.lists(st.tuples(executions.processes(place.full), change), min_size=1, max_size=24)
    assert uid_differences(place, data.draw(cases)) == []


def uid_differences(place: Place, cases: list[tuple[Process, tuple[int, ...]]]) -> list[str]:
    """Make all calls; return each of which the prediction differs from what the kernel has done."""
    system = host()
    told = executions.run(place.probe, [executions.line(p, _words(new)) for p, new in cases], "setuid")
    found = []
    for (process, new), kernel_says in zip(cases, told):
        one = after_setfsuid(process, *new, system) if len(new) == 1 else after_setresuid(process, *new, system=system)
        if executions.said(one) != kernel_says:
            found.append(f"\n{process}\n{new}\nkernel:    {kernel_says}\npredicted: {executions.said(one)}")
    return found


def _words(new: tuple[int, ...]) -> str:
    return ",".join(str(id & 0xFFFFFFFF) for id in new)


def enter_userns(uid_map: str, gid_map: str) -> None:
    """Make a user namespace with these maps and be its root. Only root outside may write such maps."""
    begin, written = os.pipe(), os.pipe()
    parent, writer = os.getpid(), os.fork()
    if writer == 0:
        os.read(begin[0], 1)
        Path(f"/proc/{parent}/uid_map").write_text(uid_map)
        Path(f"/proc/{parent}/gid_map").write_text(gid_map)
        os._exit(0)
    kernel.unshare(kernel.CLONE_NEWUSER)
    os.write(begin[1], b"x")
    assert os.waitpid(writer, 0)[1] == 0
    for fd in (*begin, *written):
        os.close(fd)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    os.setresuid(0, 0, 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/PID is root's of the host


BASE = 100_000
MAPS = (IdMap(0, BASE, 3000), IdMap(3000, BASE + 3000, 2000))
MAP = "".join(f"{m.inside} {m.outside} {m.count}\n" for m in MAPS)


def copies_for_userns(place: Place, directory: Path) -> tuple[File, ...]:
    """Files with owners that are mapped, half mapped, not mapped, and root ids of all kinds."""
    kinds = [
        (0o4755, BASE, BASE, None),
        (0o4755, BASE + BOB, BASE, None),
        (0o6755, BASE + BOB, BASE + 3000, None),
        (0o4755, ROOT, 0, None),
        (0o6755, BASE, 0, None),
        (0o2755, ROOT, BASE + 3000, None),
        (0o711, ROOT, 0, None),
        (0o711, BASE, BASE, None),
        *(
            (
                0o4755 if owner else 0o755,
                owner,
                owner,
                FileCaps(NET_RAW, KILL, True, rootid, 2 if rootid is None else 3),
            )
            for owner in (0, BASE)
            for rootid in (None, BASE, BASE + 1000, 77777)
        ),
    ]
    return tuple(executions.copy(place.probe, directory / f"userns{n}", *kind) for n, kind in enumerate(kinds))


def mapped(process: Process) -> Process:
    """The process with its ids as the host has them, BASE and more."""
    shift = [
        Ids(*(BASE + id for id in (x.real, x.effective, x.saved, x.filesystem))) for x in (process.uids, process.gids)
    ]
    groups = tuple(BASE + group for group in process.groups)
    return process.replace(uids=shift[0], gids=shift[1], groups=groups, uid_map=MAPS, gid_map=MAPS, owners=(0, BASE))


@pytest.mark.vm_full
@pytest.mark.needs("userns")
def test_in_a_user_namespace_root_is_who_is_mapped_to_0(place: Place, in_child: InChild) -> None:
    """Ids that are not mapped make no set-user-ID; root ids count in their namespace. user_namespaces(7)."""
    directory = place.directory / "userns"
    directory.mkdir()
    files = copies_for_userns(place, directory)

    def act() -> list[str]:
        enter_userns(MAP, MAP)
        full = executions.everything()
        cases = [(mapped(process), file) for process, file in itertools.product(grid(full), files)][::23]
        assert len(cases) > 800
        return differences(place, cases, MAPS)

    assert in_child(act) == []


@pytest.mark.needs("userns")
def test_in_a_nested_user_namespace_the_root_ids_above_count(place: Place, in_child: InChild) -> None:
    """A root id counts that is uid 0 of any namespace above. rootid_owns_currentns of security/commoncap.c."""
    directory = place.directory / "nested"
    directory.mkdir()
    files = copies_for_userns(place, directory)
    inner = (IdMap(0, BASE + 1000, 2000),)

    def act() -> list[str]:
        enter_userns(MAP, MAP)
        enter_userns("0 1000 2000\n", "0 1000 2000\n")
        full = executions.everything()
        one = Ids(*(BASE + 1000,) * 4)
        processes = [
            Process(one, one, (), sets, bits, inner, inner, (0, BASE, BASE + 1000), no_new_privs=nnp)
            for sets in (Sets(full, full, 0, full), Sets(bounding=full), Sets(0, 0, KILL, NET_RAW))
            for bits in (0, uapi.SECBIT_NOROOT)
            for nnp in (False, True)
        ]
        return differences(place, list(itertools.product(processes, files)), inner)

    assert in_child(act) == []


@pytest.mark.vm_full
@pytest.mark.parametrize("how", ["nosuid", "foreign", "outside"])
def test_where_privilege_is_not_trusted_it_is_not_given(place: Place, how: str, in_child: InChild) -> None:
    """On a nosuid mount, by a mount of another mount namespace, on a filesystem of a user namespace below."""

    def act() -> list[str]:
        top = place.directory / how
        top.mkdir()
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        with untrusted(place, how, top) as (files, cwd):
            processes = itertools.islice(grid(place.full), 0, None, 29)
            return differences(place, list(itertools.product(processes, files)), cwd=cwd)

    assert in_child(act) == []


@contextmanager
def untrusted(place: Place, how: str, top: Path) -> Iterator[tuple[tuple[File, ...], Path]]:
    """Copies of the program that are reached in this way, named from a working directory."""

    def fill(flags: int = 0) -> tuple[File, ...]:
        kernel.mount("tmpfs", str(top), "tmpfs", flags)
        top.chmod(0o755)
        files = executions.copies(place.probe, top, place.full)
        return tuple(file.replace(path=f"./{Path(file.path).name}") for file in files)

    def fill_elsewhere() -> None:
        if how == "outside":
            enter_userns("0 0 100000\n", "0 0 100000\n")
        kernel.unshare(kernel.CLONE_NEWNS)
        fill()

    if how == "nosuid":
        yield tuple(file.replace(nosuid=True) for file in fill(uapi.MS_NOSUID)), top
        return
    with held(fill_elsewhere) as pid:
        if how == "outside":
            fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
            syscalls.setns(fd, kernel.CLONE_NEWNS)
            os.close(fd)
        names = [f"./{Path(file.path).name}" for file in place.files]
        flags = {"foreign": how == "foreign", "outside": how == "outside"}
        files = tuple(file.replace(path=name, **flags) for file, name in zip(place.files, names))
        yield files, Path(f"/proc/{pid}/root{top}") if how == "foreign" else top


@pytest.mark.vm_full
def test_the_grid_has_both_outcomes_of_every_rule(place: Place) -> None:
    """No rule goes untested: each fires for some case of the grid, and for some it does not."""
    names: dict[str, int] = {}
    cases = list(itertools.islice(itertools.product(grid(place.full), place.files), 0, None, 17))
    for process, file in cases:
        for name in {rule.name for rule in predict(process, Program((file,)), host()).rules}:
            names[name] = names.get(name, 0) + 1
    assert len(names) >= 15
    for name in (
        *("set-user-ID", "set-group-ID", "no_new_privs", "file capabilities", "root id", "effective bit", "root"),
        *("effective root", "SECBIT_NOROOT", "SECBIT_KEEP_CAPS", "set-user-ID-root with file capabilities"),
        *("ids kept", "nothing gained", "secure execution", "dumpable"),
    ):
        assert 5 < names[name] < len(cases), name


@pytest.mark.vm_full
def test_modes_decide_who_executes_and_who_reads(place: Place) -> None:
    """Owner, group, others, CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, execute bits and none. path_resolution(7)."""
    directory = place.directory / "modes"
    directory.mkdir()
    modes = (0o100, 0o010, 0o001, 0o711, 0o511, 0o151, 0o115, 0o600, 0o644, 0o070, 0o654)
    owners = ((ROOT, 0), (ALICE, 1000), (BOB, 3000))
    files = [
        executions.copy(place.probe, directory / f"{mode:o}-{uid}", mode, uid, gid)
        for mode in modes
        for uid, gid in owners
    ]
    override, search = executions.OVERRIDE, executions.READ_SEARCH
    processes = [
        Process(Ids(*(uid,) * 4), Ids(*(gid,) * 4), groups, Sets(e, e, 0, place.full), uapi.SECBIT_NOROOT)
        for uid, gid, groups in ((ROOT, 0, ()), (ALICE, 1000, ()), (ALICE, 0, (3000,)), (BOB, 1000, (0, 3000)))
        for e in (0, override, search, override | search)
    ]
    assert differences(place, list(itertools.product(processes, files))) == []
    assert stat.S_IMODE(files[0].mode) == 0o100
