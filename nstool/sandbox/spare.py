"""Look beforehand whether there are files and processes enough: undoing needs some when a step has found none."""

from __future__ import annotations

import os
from errno import EAGAIN, EMFILE

from nstool.errors import KernelError


def need(count: int) -> None:
    """Raise KernelError unless ``count`` more files can be open at once: EMFILE, ENFILE."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.dup(opened[0]) if opened else os.open("/", os.O_PATH | os.O_CLOEXEC))
    except OSError as error:
        # Nothing may be imported or read for the message: that, too, opens files.
        limit = "RLIMIT_NOFILE of this process" if error.errno == EMFILE else "fs.file-max of the host"
        ours = "close some, or raise the limit: ulimit -n 1024, LimitNOFILE= of a unit"
        raise KernelError(
            'open("/", O_PATH)',
            error.errno or 0,
            why=f"{count} files more, which may have to be open at once",
            causes=(f"as many files are open as the {limit} allows",),
            remedies=(ours if error.errno == EMFILE else "as root: sysctl -w fs.file-max=NUMBER",),
            checked=True,
        ) from None
    finally:
        for fd in opened:
            os.close(fd)


def need_processes(count: int) -> None:
    """Raise KernelError unless ``count`` more processes can be there at once, tried with threads: EAGAIN."""
    import threading

    gate = threading.Event()
    started: list[threading.Thread] = []
    try:
        while len(started) < count:
            thread = threading.Thread(target=gate.wait)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise no_process(f"{count} processes more, which have to be there at once") from None
    finally:
        gate.set()
        for thread in started:
            thread.join()


def no_process(why: str) -> KernelError:
    """Return the error of a thread that Python could not start, which tells no errno; there is one that means this."""
    from nstool.plan.hints import explain
    from nstool.plan.steps import LAUNCHER, Step

    return KernelError("clone3()", EAGAIN, "", why, *explain(Step(LAUNCHER, "spawn", ((),), why), EAGAIN))
