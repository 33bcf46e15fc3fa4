"""Watch the command of this process: it ends, with the cause, where a process does not let itself be read."""

from __future__ import annotations

import os
import sys
from _thread import start_new_thread
from time import sleep

from nstool.cli.main import CANNOT
from nstool.inspect.patience import CAUSE, REMEDY, Wait, waited_for

SECONDS = 5.0  # of one and the same wait
LOOK = 0.5

# Those that read other processes. run and its like change something, and are not ended in the middle of that.
COMMANDS = frozenset(
    "ls map show mounts path ipc cgroups pid creds task net aslr diff caps can ps".split()  # noqa: SIM905
)


def watch() -> None:
    """Watch the calling thread from now on, from another one.

    The wait for a process in execve(2) ends by no signal but a fatal one, so that Ctrl-C would not end it.
    """
    try:
        start_new_thread(_watch, (f"/proc/{os.readlink('/proc/thread-self')}",))
    except (RuntimeError, FileNotFoundError):  # no more threads for this user or cgroup; no /proc of ours
        return


def _watch(place: str) -> None:
    wait = Wait()
    try:
        while True:
            sleep(LOOK)
            if wait.seconds(place) >= SECONDS and (pid := waited_for(place)):
                print(
                    f"nstool: process {pid} does not let itself be read: {CAUSE}; {REMEDY}", file=sys.stderr, flush=True
                )
                os._exit(CANNOT)
    except (FileNotFoundError, ProcessLookupError):  # it is ending; /proc has been covered or unmounted
        return
