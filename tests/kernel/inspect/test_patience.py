"""A process that does not let itself be read, as it is in execve(2) for ever, stops nobody who reads all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nstool.inspect import patience
from nstool.inspect.map import host_map
from nstool.inspect.namespaces import _Reader, census
from tests.support import fuse
from tests.support.waiting import in_pid_namespace, waiting

NSTOOL = str(Path(sys.prefix) / "bin/nstool")

pytestmark = pytest.mark.needs("native")
HELD = pytest.mark.needs("held_in_execve")


def names() -> set[str]:
    return {os.readlink(f"/proc/self/ns/{kind}") for kind in ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")}


@HELD
def test_the_census_goes_on_behind_a_process_that_is_held(in_child: Callable[..., Any]) -> None:
    """It is told by its number, with the cause; those before and behind it are found, and what all are in."""

    def act() -> None:
        with waiting() as (before, _), fuse.held_in_execve() as (held,), waiting() as (behind, _):
            assert before < held < behind
            found = census()
            assert found.hidden == (held,)
            pids = {process.pid for process in found.processes}
            assert {before, behind, os.getpid()} <= pids
            assert held not in pids
            assert names() <= {ns.name for ns in found.namespaces}
            (note,) = (note for note in found.notes if "let itself be read" in note)
            assert f": {held};" in note
            assert "execve(2)" in note

    in_child(in_pid_namespace, act, timeout=20)


@HELD
def test_many_that_are_held_are_found_at_once(in_child: Callable[..., Any]) -> None:
    """Not one after the other, each after its time."""

    def act() -> None:
        with fuse.held_in_execve(50) as held:
            begin = time.monotonic()
            found = census()
            assert found.hidden == tuple(held)
            assert time.monotonic() - begin < 15

    in_child(in_pid_namespace, act, timeout=40)


@HELD
@pytest.mark.parametrize("step", ["read_mounts", "relate", "result"])
def test_one_that_is_held_later_is_passed_by(
    in_child: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What it is in has another way that leads to it; what it alone is in is left out, and that is all."""

    def act() -> None:
        with fuse.to_be_held() as ((late,), hold), waiting() as (behind, _):
            then, todo = getattr(_Reader, step), [hold]
            monkeypatch.setattr(_Reader, step, lambda reader: (todo and todo.pop()(), then(reader))[1])
            found = census()
            assert found.hidden == (late,)
            assert {late, behind} <= {process.pid for process in found.processes}
            assert names() <= {ns.name for ns in found.namespaces}
            pins = [(ns.name, pin) for ns in found.namespaces for pin in ns.pins]
            assert len(pins) == len(set(pins))

    in_child(in_pid_namespace, act, timeout=20)


@HELD
@pytest.mark.parametrize("step", [1, 2, 3])
def test_each_step_goes_on_where_it_was(in_child: Callable[..., Any], step: int) -> None:
    """What is read in turn is read once each, whichever is held: nothing is noted by whoever was left behind."""

    def act() -> None:
        with fuse.held_in_execve() as (held,):
            turns, done = patience.Turns(), []
            rows = [1, 2, 3]

            def read() -> None:
                while rows:
                    turns.go_on()
                    row = rows.pop(0)
                    if turns.may(held if row == step else os.getpid()):
                        os.readlink(f"/proc/{held if row == step else os.getpid()}/ns/net")
                        turns.go_on()
                        done.append(row)

            turns.run(read)
            assert done == [row for row in (1, 2, 3) if row != step]
            assert list(turns.held) == [held]
            turns.go_on()

    in_child(in_pid_namespace, act, timeout=20)


def test_what_is_raised_comes_through() -> None:
    """An error of the reading is the caller's, as without a thread."""
    with pytest.raises(ZeroDivisionError):
        patience.Turns().run(lambda: 1 // 0)


@HELD
def test_the_map_has_all_but_who_is_held(in_child: Callable[..., Any]) -> None:
    """Its cards and its notes, once."""

    def act() -> None:
        with waiting() as (before, _), fuse.held_in_execve() as (held,):
            found = host_map()
            assert before in found.cards
            assert held not in found.cards
            assert sum(f": {held};" in note for note in found.census.notes) == 1

    in_child(in_pid_namespace, act, timeout=20)


@HELD
def test_ls_ends(in_child: Callable[..., Any]) -> None:
    """With what there is, and a note on stderr."""

    def act() -> None:
        with fuse.held_in_execve() as (held,):
            done = subprocess.run([NSTOOL, "ls", "--json"], capture_output=True, text=True, timeout=20)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["hidden"] == [held]
            assert f": {held};" in done.stderr

    in_child(in_pid_namespace, act, timeout=25)


@HELD
@pytest.mark.parametrize("command", ["task", "show", "mounts", "path {} /tmp", "net", "can {} signal 1"])
def test_what_asks_for_that_process_ends_with_the_cause(in_child: Callable[..., Any], command: str) -> None:
    """Of itself, after some seconds; a signal that is not fatal would not end that wait."""

    def act() -> None:
        with fuse.held_in_execve() as (held,):
            words = (command if "{}" in command else f"{command} {{}}").format(held).split()
            done = subprocess.run([NSTOOL, *words], capture_output=True, text=True, timeout=25)
            assert done.returncode == 125, done.stderr
            assert done.stderr.startswith(f"nstool: process {held} does not let itself be read: it is in execve(2)")
            assert done.stderr.count("\n") == 1

    in_child(in_pid_namespace, act, timeout=30)


def test_no_thread_is_left_of_a_reading_that_goes_on() -> None:
    """Whoever has read can clone, and join namespaces, at once."""
    before = set(os.listdir("/proc/self/task"))
    for _ in range(200):
        patience.Turns().run(lambda: None)
        assert set(os.listdir("/proc/self/task")) == before
