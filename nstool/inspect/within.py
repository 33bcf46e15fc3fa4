"""What of a process may be looked into, and what is in its namespaces. ptrace(2), setns(2)."""

from __future__ import annotations

import os

from nstool.errors import KernelError, SandboxGone
from nstool.inspect.proc import ProcessGone
from nstool.sandbox import inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from nstool.inspect.proc import Proc
    from nstool.sandbox.inside import Maps

    T = TypeVar("T")


def refused(proc: Proc, name: str, error: OSError, why: str) -> KernelError:
    """Return the error for a file of a process that the kernel does not let the caller open, with the checked cause.

    name: of the file, as "ns/ipc". why: what it was for. Raises ProcessGone if the process has ended meanwhile.
    """
    try:
        return inside.refused(proc.pid, name, error, why)
    except SandboxGone:
        proc.check()
        raise


def ended(proc: Proc) -> ProcessGone:
    """Return the error for a process that is there, but has no namespaces, mounts and root directory: a zombie."""
    return ProcessGone(f"process {proc.pid} has ended (its parent has not waited for it yet), and what it had is gone")


def call(
    proc: Proc, kind: str, function: Callable[..., T], *args: object, keep: Iterable[int] = ()
) -> tuple[T, Maps | None]:
    """As ``sandbox.inside.call_with_maps``, in a namespace of this process. Raises ProcessGone too."""
    try:
        namespace = proc.open(f"ns/{kind}")
    except PermissionError as error:
        raise refused(proc, f"ns/{kind}", error, f"to look into its {kind} namespace") from None
    except FileNotFoundError:
        raise ended(proc) from None
    try:
        return inside.call_with_maps({kind: namespace}, function, *args, keep=keep)
    finally:
        os.close(namespace)
