"""What one key of a spec says about another: the halves a person need not write twice.

Only for what is read from files and options, where it is known which keys were written; a Spec
made by a program says both halves itself, and spec.check compares them.
"""

from __future__ import annotations

import os

from nstool.errors import SpecError
from nstool.spec.model import Seccomp, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Path = tuple[str | int, ...]


def implied(spec: Spec, given: Collection[Path]) -> Spec:
    """Return spec with unwritten halves filled in. given: key paths that were written.

    The host's network is one word, in ``[net]`` or in ``[namespaces]``. Without a mount namespace
    of its own the sandbox cannot have its own /proc, /dev and /tmp. Whoever shares the host's pids
    sees them in the host's /proc; in a joined pid namespace nothing goes without saying. Without a
    uts, ipc or time namespace their settings stay away by themselves.
    """
    for rule in (_net, _mnt, _pid):
        spec = rule(spec, given)
    return spec


def _net(spec: Spec, given: Collection[Path]) -> Spec:
    net, other = spec.net, spec.namespaces.net
    if ("net", "mode") not in given and other not in ("new", "host"):
        target = net.target if ("net", "target") in given else other
        return spec.replace(net=net.replace(mode="join", target=target))
    if ("net", "mode") not in given and other == "host":
        return spec.replace(net=net.replace(mode="host"))
    if ("namespaces", "net") not in given and net.mode == "host":
        return spec.replace(namespaces=spec.namespaces.replace(net="host"))
    return spec


def _mnt(spec: Spec, given: Collection[Path]) -> Spec:
    if spec.namespaces.mnt == "new":
        return spec
    without: dict[str, object] = {"proc": "none", "dev": "none", "tmp_size": 0}
    return spec.replace(**{key: value for key, value in without.items() if (key,) not in given})


def _pid(spec: Spec, given: Collection[Path]) -> Spec:
    if spec.namespaces.pid != "host" or spec.proc != "private" or ("proc",) in given:
        return spec
    return spec.replace(proc="bind")


def here() -> str:
    """Return the working directory. Raises SpecError if it has been removed."""
    try:
        return os.getcwd()
    except OSError as error:
        raise SpecError(f"no working directory to start relative paths from: {error.strerror}") from None


def absolute(spec: Spec, base: Callable[[], str]) -> Spec:
    """Return spec with its relative paths of the host made absolute. base: gives their directory if there is one."""

    def full(path: str) -> str:
        return path if not path or path.startswith("/") else os.path.normpath(os.path.join(base(), path))

    def layers(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(full(path) for path in paths)

    root = spec.root
    mounts = tuple(m.replace(source=full(m.source), lower=layers(m.lower), upper=full(m.upper)) for m in spec.mounts)
    root = root.replace(path=full(root.path), lower=layers(root.lower), upper=full(root.upper))
    return spec.replace(root=root, mounts=mounts, seccomp=_absolute_list(spec.seccomp, full))


def _absolute_list(words: str | Seccomp, full: Callable[[str], str]) -> str | Seccomp:
    from nstool.spec.values import seccomp_is_file

    if isinstance(words, str):
        return full(words) if seccomp_is_file(words) else words
    return words.replace(base=full(words.base)) if seccomp_is_file(words.base) else words
