"""Roots and volumes that somebody else changes while a sandbox is made: nothing is mounted or made where it should not.

The classes of CVE-2019-19921, CVE-2021-30465, CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881: a mount point, a
volume shared with another sandbox, or what is to be masked becomes a symlink between the look and the mount.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nstool import uapi
from nstool.detectors.view import host_kind
from nstool.errors import KernelError, NotAttested, SpecError
from nstool.plan import build
from nstool.sandbox.launch import launch, prepare
from nstool.spec.model import Mount, Root, Spec
from tests.kernel.adversary import mutations
from tests.kernel.adversary.conftest import Actor
from tests.kernel.rows import boxes
from tests.support import kernel
from tests.support.workplace import Workplace

pytestmark = pytest.mark.needs("busybox")

RENAME_EXCHANGE, AT_FDCWD = 2, -100
ROUNDS = 8
POINTS = ("proc", "dev", "tmp", "run", "data", "etc/masked", "etc/hidden")
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places at once. renameat2(2)."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.fixture
def place(workplace: Workplace) -> Iterator[Path]:
    """A directory in which everybody may make things."""
    directory = workplace.own / "races"
    directory.mkdir()
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def make_root(place: Path) -> Path:
    """A root with all mount points, a directory and a file to mask, and a neighbour that nothing may touch."""
    (place / "victim").mkdir()
    root = place / "root"
    for name in ("bin", "proc", "dev", "tmp", "run", "data", "etc/hidden", "var/tmp", "other"):
        (root / name).mkdir(parents=True)
    shutil.copy(os.path.realpath(str(shutil.which("busybox"))), root / "bin/sh")
    (root / "etc/masked").write_text("masked\n")
    (root / "etc/hidden/file").write_text("hidden\n")
    return root


@contextlib.contextmanager
def waiting() -> Iterator[int]:
    """A pipe by whose end a command waits for as long as the block lasts."""
    reader, writer = os.pipe()
    try:
        yield reader
    finally:
        os.close(reader)
        os.close(writer)


def spec(root: Path, words: dict[str, Any]) -> Spec:
    """What is launched: not attested, which would refuse a mount that has been carried away by a renaming."""
    made = Spec(
        command=("/bin/sh", "-c", "read end"),
        root=Root("directory", str(root)),
        mounts=(Mount("/data", "/usr/share"),),
        mask_paths=("/etc/masked", "/etc/hidden"),
    )
    return made.replace(attest=False, **words)


def turn(root: Path, point: str, to: str) -> None:
    """Put a symlink in the place of a mount point."""
    path = root / point
    path.rename(root / "was")
    path.symlink_to(to)


def outward(place: Path) -> str:
    """Where a symlink leads that leaves the root, for who does not live in it."""
    return "../" * 12 + str(place / "victim")[1:]


def after_the_facts(place: Path, point: str, words: dict[str, Any], follow: bool) -> tuple[int, list[str], list[str]]:
    """Launch with facts from before the symlink: errno, the mount points in vain, what is in the victim."""
    root = make_root(place)
    if follow:
        plan = build.plan
        edit = mutations.instead(
            lambda step: step.call == "openat2" and bool(step.args[4]),
            lambda step: step.replace(args=(*step.args[:4], uapi.RESOLVE_IN_ROOT)),
        )
        build.plan = lambda *args: (made := plan(*args)).replace(steps=edit(made.steps))
    prepared = prepare(spec(root, words))
    turn(root, point, "/other" if follow else outward(place))
    with waiting() as stdin:
        try:
            with prepared.launch(stdin=stdin) as sandbox:
                return 0, sorted(boxes.mounts(sandbox.pid)), os.listdir(place / "victim")
        except KernelError as error:
            return error.errno or 0, [], os.listdir(place / "victim")


@pytest.mark.parametrize("point", POINTS)
def test_a_symlink_that_comes_later_is_not_followed(point: str, actor: Actor, place: Path) -> None:
    """Each place where something is mounted or masked: the step fails with ELOOP, and nothing is made anywhere."""
    assert actor.act(after_the_facts, place, point, actor.words, False) == (errno.ELOOP, [], [])


@pytest.mark.parametrize("point", ["data", "run"])
def test_without_the_flags_it_would_be(point: str, actor: Actor, place: Path) -> None:
    """The mutation: RESOLVE_NO_SYMLINKS left out, the mount lies elsewhere; outside of the root still not."""
    got, points, left = actor.act(after_the_facts, place, point, actor.words, True)
    assert (got, left) == (0, [])
    assert "/other" in points
    assert f"/{point}" not in points


@contextlib.contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """A process that lets the two names change places all the time."""
    pid = os.fork()
    if pid == 0:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        while True:
            exchange(one, other)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def raced(spec: Spec, one: Path, other: Path) -> tuple[list[set[str]], int]:
    """Launch again and again meanwhile: the mount points of each that came to be, and how many were refused."""
    found, refused = [], 0
    with swapping(one, other):
        for number in range(ROUNDS):
            with waiting() as stdin:
                try:
                    with launch(spec.replace(name=f"{spec.name}-{number}"), stdin=stdin) as sandbox:
                        found.append(set(boxes.mounts(sandbox.pid)))
                except (KernelError, SpecError):
                    refused += 1
    return found, refused


def race_for_a_root(place: Path, point: str, words: dict[str, Any]) -> tuple[list[set[str]], set[str], int, list[str]]:
    root = make_root(place)
    with waiting() as stdin, launch(spec(root, words), stdin=stdin) as sandbox:
        calm = set(boxes.mounts(sandbox.pid))
    (root / "link").symlink_to(outward(place))
    found, refused = raced(spec(root, words), root / point, root / "link")
    return found, calm, refused, os.listdir(place / "victim")


@pytest.mark.parametrize("point", ["proc", "data", "etc/hidden"])
def test_a_root_that_changes_all_the_time(point: str, actor: Actor, place: Path) -> None:
    """Each launch mounts where it should, or is refused. A directory that is renamed later takes its mount along."""
    found, calm, refused, left = actor.act(race_for_a_root, place, point, actor.words)
    assert len(found) + refused == ROUNDS
    assert left == []
    for points in found:
        moved = {path.replace("/link", f"/{point}", 1) if path.split("/")[1] == "link" else path for path in points}
        # A root that lacked a mount point at that moment is built of its entries, each of which is a mount then.
        assert calm - moved <= set()
        assert {path for path in moved - calm if path.count("/") > 1} == set()


def race_for_a_volume(place: Path, words: dict[str, Any]) -> tuple[list[set[str]], int, list[str]]:
    (place / "victim").mkdir()
    volume = place / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "link").symlink_to("../" * 12 + "tmp")
    mounts = (Mount("/data", str(volume)), Mount("/data/sub", "/usr/share"))
    made = Spec(command=("/bin/sh", "-c", "read end"), mounts=mounts, attest=False, **words)
    return *raced(made, volume / "sub", volume / "link"), os.listdir(place / "victim")


def test_what_is_carried_away_is_not_attested(actor: Actor, place: Path) -> None:
    """Renamed while it is launched, a mount is not where the spec wants it: the command does not begin."""

    def act() -> set[str]:
        root = make_root(place)
        (root / "link").mkdir()
        with swapping(root / "data", root / "link"):
            for number in range(20 * ROUNDS):
                attested = spec(root, actor.words).replace(name=f"carried-{number}", attest=True)
                try:
                    with waiting() as stdin, launch(attested, stdin=stdin):
                        continue
                except NotAttested as error:
                    return {name for name, _, _ in error.differences}
        return set()

    assert actor.act(act) == {"mounts /data"}


def test_a_volume_that_another_changes(actor: Actor, place: Path) -> None:
    """A mount below a shared directory (CVE-2021-30465): there, under whatever name it has by now, or refused."""
    found, refused, left = actor.act(race_for_a_volume, place, actor.words)
    assert len(found) + refused == ROUNDS
    assert left == []
    for points in found:
        assert len({path for path in points if path.startswith("/data/")}) == 1
        assert "/tmp" in points


def look_again_and_again(place: Path) -> set[str]:
    (place / "directory").mkdir()
    (place / "link").symlink_to("elsewhere")
    with swapping(place / "directory", place / "link"):
        return {host_kind(str(place / "directory"))[0] for _ in range(20000)}


def test_who_explains_a_refusal_may_come_too_late(place: Path, in_child: Callable[..., Any]) -> None:
    """What was a symlink a moment ago is none now: that is no traceback."""
    assert in_child(look_again_and_again, place) <= {"dir", "link", "unknown"}
