"""Call a function of ours as an ordinary user who owns his subordinate ids too. user_namespaces(7), newuidmap(1).

Files of a sandbox with a map of several ids belong to host ids that are not the user's: only a process with
capabilities in a user namespace that has those ids, and the user's own, can give files to them or take them away. Ids
in that namespace are what they are outside, and the process stays the user, so that it reads what the user may read.
"""

from __future__ import annotations

import os
import sys

from nstool.errors import NotSupported, NstoolError
from nstool.masked import Masked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from nstool.sandbox.mapped import child; child()"


def call(module: str, function: str, args: object, idmaps: list[Any]) -> Any:
    """Return ``module.function(args)`` as a process in such a namespace computes it; raise what it raises.

    idmaps: of users and of groups, each (path of newuidmap or newgidmap, list of (first, count) from /etc/subuid or
    /etc/subgid). Raises NotSupported when a helper refuses.
    """
    import pickle
    import subprocess

    command = [sys.executable, "-I", "-c", _CHILD, *sys.path]
    # Neither an interrupt key nor another signal to the group ends it or the helpers: it ends us, and we end them, but
    # not while they undo.
    with (
        Masked() as masked,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.read(1) == b"\n":  # else it could not unshare, and says why
                for (helper, ranges), own in zip(idmaps, (os.geteuid(), os.getegid())):
                    _map(helper, process.pid, [(own, 1), *ranges])
                masked.close()
                process.stdin.write(pickle.dumps((module, function, args)))
                process.stdin.close()
            answer = process.stdout.read()
        except BaseException:
            process.kill()
            raise
    if not answer:
        raise NstoolError(f"{function} for the sandbox's ids ended without an answer, status {process.returncode}")
    result = pickle.loads(answer)
    if isinstance(result, BaseException):
        raise result
    return result


def _map(helper: str, pid: int, ranges: list[tuple[int, int]]) -> None:
    import subprocess

    words = [str(number) for first, count in ranges for number in (first, first, count)]
    done = subprocess.run([helper, str(pid), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise NotSupported(
            "files that belong to the sandbox's ids",
            f"{os.path.basename(helper)} refuses the map: {done.stderr.strip()}",
            "correct /etc/subuid and /etc/subgid, subuid(5), or map your own id only: "
            f"--uid-map 1000:{os.geteuid()}:1 --gid-map 1000:{os.getegid()}:1",
        )


def child() -> None:
    """Be that process: take a function from standard input, answer on standard output."""
    import importlib
    import pickle

    from nstool import syscalls, uapi

    output = sys.stdout.buffer
    try:
        syscalls.prctl(uapi.PR_SET_PDEATHSIG, 9)
        syscalls.unshare(uapi.CLONE_NEWUSER)
    except NstoolError as error:
        output.write(b"-" + pickle.dumps(error))
        return
    output.write(b"\n")
    output.flush()
    try:
        module, function, args = pickle.load(sys.stdin.buffer)
    except EOFError:  # the maps were refused
        return
    try:
        result = getattr(importlib.import_module(module), function)(args)
    except Exception as error:
        result = error
    output.write(pickle.dumps(result))
