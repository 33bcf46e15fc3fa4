"""Really execute files as many kinds of processes, and say what nstool predicts of the same: execve.c, predict.py."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from nstool.security import filecaps
from nstool.security.capabilities import Sets
from nstool.security.credentials import Ids
from nstool.security.filecaps import FileCaps
from nstool.security.predict import File, Prediction, Process
from nstool.spec.model import IdMap
from tests.support.workplace import Workplace

SOURCE = Path(__file__).with_name("execve.c")
ROOT, ALICE, BOB = 0, 1000, 2000
USERS, GROUPS = (ROOT, ALICE, BOB), (0, 1000, 3000)
KILL, SETUID, SETPCAP, NET_ADMIN, NET_RAW, SYS_PTRACE = (1 << bit for bit in (5, 7, 8, 12, 13, 19))
READ_SEARCH, OVERRIDE = 1 << 2, 1 << 1
FEW = (0, KILL, SETUID, NET_RAW, NET_ADMIN, SETUID | NET_RAW, KILL | NET_ADMIN, OVERRIDE, READ_SEARCH)
TRACERS = ("", "incapable", "capable")
DEATH = 12  # SIGUSR2, which execve.c sets


def everything() -> int:
    """The capabilities that this process has, which is as much as any that it starts can have."""
    with open("/proc/self/status") as file:
        rows = dict(line.split(":\t") for line in file if line.startswith("Cap"))
    return int(rows["CapPrm"], 16) & int(rows["CapBnd"], 16)


@contextmanager
def directory(workplace: Workplace, name: str) -> Iterator[Path]:
    """A directory of this test process that everybody may enter; it goes with the block."""
    made = workplace.own / name
    made.mkdir()
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


def build(directory: Path) -> Path:
    """Compile the program, static, so that it starts fast."""
    path = directory / "probe"
    subprocess.run(["gcc", "-O1", "-static", "-o", path, SOURCE], check=True)
    return path


def copy(probe: Path, path: Path, mode: int, uid: int = 0, gid: int = 0, caps: FileCaps | None = None) -> File:
    """Make a copy of the program with an owner, a mode and capabilities; return it as the kernel will see it."""
    path.write_bytes(probe.read_bytes())
    os.chown(path, uid, gid)
    path.chmod(mode)
    if caps:
        os.setxattr(path, "security.capability", filecaps.pack(caps))
    return File(mode=stat.S_IFREG | mode, uid=uid, gid=gid, path=str(path), caps=caps)


def copies(probe: Path, directory: Path, full: int) -> tuple[File, ...]:
    """Copies with all that execve(2) makes a difference by; full: all capabilities that a process here can have."""
    kinds: list[tuple[int, int, int, FileCaps | None]] = [
        (0o755, ROOT, 0, None),
        (0o4755, ROOT, 0, None),
        (0o4755, ALICE, 1000, None),
        (0o4755, BOB, 0, None),
        (0o2755, ROOT, 0, None),
        (0o2755, ROOT, 3000, None),
        (0o2745, ROOT, 3000, None),  # no execute bit for the group: no set-group-ID
        (0o6755, BOB, 3000, None),
        (0o6755, ROOT, 0, None),
        (0o711, ROOT, 0, None),
        (0o4711, BOB, 0, None),
        (0o750, ROOT, 1000, None),
        (0o644, ROOT, 0, None),
        (0o704, ALICE, 3000, None),
    ]
    few = [
        FileCaps(),
        FileCaps(NET_RAW),
        FileCaps(NET_RAW, effective=True),
        FileCaps(NET_RAW | KILL, NET_ADMIN, effective=True),
        FileCaps(0, NET_RAW),
        FileCaps(0, NET_RAW, effective=True),
        FileCaps(full, full),
        FileCaps(full, 0, effective=True),
        FileCaps(SETUID, SETUID | KILL, effective=True),
        FileCaps(NET_RAW, effective=True, rootid=ALICE, revision=3),
        FileCaps(NET_RAW, effective=True, rootid=77777, revision=3),
    ]
    kinds += [(0o755, ROOT, 0, caps) for caps in few]
    kinds += [(0o4755, ROOT, 0, caps) for caps in few[:4]]
    kinds += [
        (0o4755, BOB, 0, few[2]),
        (0o2755, ROOT, 3000, few[2]),
        (0o6755, BOB, 3000, few[3]),
        (0o711, 0, 0, few[2]),
    ]
    return tuple(copy(probe, directory / f"copy{number}", *kind) for number, kind in enumerate(kinds))


def masks(full: int) -> st.SearchStrategy[int]:
    """Sets of few capabilities, of all, and of all but few."""
    few = st.sampled_from(FEW)
    return st.one_of(few, few.map(lambda mask: full & ~mask), st.integers(0, full).map(lambda mask: mask & full))


@st.composite
def processes(draw: st.DrawFn, full: int, users: Sequence[int] = USERS, groups: Sequence[int] = GROUPS) -> Process:
    """Processes such as capset(2) and prctl(2) allow; every third has only one id and none of the odd settings."""
    plain = draw(st.integers(0, 2)) == 0
    one_uid, one_gid = draw(st.sampled_from(users)), draw(st.sampled_from(groups))
    uids = [one_uid] * 4 if plain else [draw(st.sampled_from(users)) for _ in range(4)]
    gids = [one_gid] * 4 if plain else [draw(st.sampled_from(groups)) for _ in range(4)]
    permitted, inheritable, bounding = draw(masks(full)), draw(masks(full)), draw(masks(full))
    odd = draw(st.sampled_from(["", "", "no_new_privs", "shares_fs", "incapable", "capable", "all"]))
    securebits = draw(st.sampled_from([0, 0, 0x1, 0x4, 0x10, 0x3, 0x11, 0x40, 0xEF]))
    return Process(
        uids=Ids(*uids),
        gids=Ids(*gids),
        groups=tuple(sorted(draw(st.sets(st.sampled_from([0, 1000, 3000, 4000]), max_size=3)))) if not plain else (),
        sets=Sets(
            effective=permitted & draw(masks(full)),
            permitted=permitted,
            inheritable=inheritable,
            bounding=bounding,
            ambient=permitted & inheritable & draw(masks(full)),
        ),
        securebits=securebits,
        no_new_privs=odd in ("no_new_privs", "all"),
        shares_fs=odd in ("shares_fs", "all"),
        tracer=odd if odd in TRACERS else "incapable" if odd == "all" else "",
    )


def line(process: Process, what: str, to_inside: Sequence[IdMap] = ()) -> str:
    """One case for execve.c. what: the file to execute, or ids to change to. to_inside: how the program sees ids."""
    p, sets = process, process.sets
    own = [
        inside(to_inside, id) for ids in (p.uids, p.gids) for id in (ids.real, ids.effective, ids.saved, ids.filesystem)
    ]
    masks_ = (sets.effective, sets.permitted, sets.inheritable, sets.bounding, sets.ambient)
    words = [what, *own, p.securebits, *(f"{mask:x}" for mask in masks_)]
    words += [int(p.no_new_privs), int(p.shares_fs), TRACERS.index(p.tracer)]
    return " ".join(map(str, [*words, ",".join(str(inside(to_inside, group)) for group in p.groups) or "-"]))


def inside(maps: Sequence[IdMap], id: int) -> int:
    """Translate an id by a map; without one it stays."""
    return next((m.inside + id - m.outside for m in maps if m.outside <= id < m.outside + m.count), id)


def run(probe: Path, lines: Sequence[str], mode: str = "drive", cwd: Path | None = None) -> list[str]:
    """Let execve.c do the cases; return what it says of each."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run([probe, mode], input=text, capture_output=True, text=True, check=True, cwd=cwd)
    told = done.stdout.splitlines()
    assert len(told) == len(lines), (done.stderr, told[-3:])
    return told


def said(prediction: Prediction, to_inside: Sequence[IdMap] = ()) -> str:
    """The prediction in the words of execve.c."""
    after = prediction.after
    if after is None:
        return f"errno {prediction.error}"
    sets = after.sets
    ids = [
        inside(to_inside, id) for x in (after.uids, after.gids) for id in (x.real, x.effective, x.saved, x.filesystem)
    ]
    masks_ = (sets.effective, sets.permitted, sets.inheritable, sets.bounding, sets.ambient)
    dumpable = 1 if prediction.dumpable is None else prediction.dumpable
    words = ["ok", *ids, after.securebits, *(f"{mask:x}" for mask in masks_), int(after.no_new_privs)]
    return " ".join(map(str, [*words, int(prediction.secure), dumpable, DEATH if prediction.death_signal else 0]))
