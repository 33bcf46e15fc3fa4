"""nstool: Linux namespaces, from a spec to a sandbox.

::

    from nstool import Spec, launch

    with launch(Spec(command=("sh", "-c", "id"))) as sandbox:
        print(sandbox.wait().status)
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool import syscalls as syscalls
    from nstool import uapi as uapi
    from nstool.errors import KernelError as KernelError
    from nstool.errors import NotAttested as NotAttested
    from nstool.errors import NotSupported as NotSupported
    from nstool.errors import NstoolError as NstoolError
    from nstool.errors import SandboxGone as SandboxGone
    from nstool.errors import SpecError as SpecError
    from nstool.inspect.attested import attest as attest
    from nstool.network.facts import Addresses as Addresses
    from nstool.plan.steps import Plan as Plan
    from nstool.plan.steps import Step as Step
    from nstool.sandbox.aio import AsyncSandbox as AsyncSandbox
    from nstool.sandbox.aio import launch_async as launch_async
    from nstool.sandbox.join import Joined as Joined
    from nstool.sandbox.launch import Exit as Exit
    from nstool.sandbox.launch import Prepared as Prepared
    from nstool.sandbox.launch import Sandbox as Sandbox
    from nstool.sandbox.launch import launch as launch
    from nstool.sandbox.launch import prepare as prepare
    from nstool.sandbox.launch import preview
    from nstool.spec.load import load as load
    from nstool.spec.model import Capabilities as Capabilities
    from nstool.spec.model import IdMap as IdMap
    from nstool.spec.model import Ipc as Ipc
    from nstool.spec.model import Landlock as Landlock
    from nstool.spec.model import LandlockRule as LandlockRule
    from nstool.spec.model import Limits as Limits
    from nstool.spec.model import Mount as Mount
    from nstool.spec.model import Namespaces as Namespaces
    from nstool.spec.model import Net as Net
    from nstool.spec.model import Publish as Publish
    from nstool.spec.model import Root as Root
    from nstool.spec.model import Seccomp as Seccomp
    from nstool.spec.model import SeccompCall as SeccompCall
    from nstool.spec.model import SeccompWhere as SeccompWhere
    from nstool.spec.model import Spec as Spec

    plan = preview  # an import under another name would be private to a type checker

# Name to (module, name there; empty: the module itself); imported when first asked for, because import cost is part of
# the interface.
_PUBLIC = {
    "Addresses": ("nstool.network.facts", "Addresses"),
    "AsyncSandbox": ("nstool.sandbox.aio", "AsyncSandbox"),
    "Capabilities": ("nstool.spec.model", "Capabilities"),
    "Exit": ("nstool.sandbox.launch", "Exit"),
    "IdMap": ("nstool.spec.model", "IdMap"),
    "Ipc": ("nstool.spec.model", "Ipc"),
    "Joined": ("nstool.sandbox.join", "Joined"),
    "KernelError": ("nstool.errors", "KernelError"),
    "Landlock": ("nstool.spec.model", "Landlock"),
    "LandlockRule": ("nstool.spec.model", "LandlockRule"),
    "Limits": ("nstool.spec.model", "Limits"),
    "Mount": ("nstool.spec.model", "Mount"),
    "Namespaces": ("nstool.spec.model", "Namespaces"),
    "Net": ("nstool.spec.model", "Net"),
    "NotAttested": ("nstool.errors", "NotAttested"),
    "NotSupported": ("nstool.errors", "NotSupported"),
    "NstoolError": ("nstool.errors", "NstoolError"),
    "Plan": ("nstool.plan.steps", "Plan"),
    "Prepared": ("nstool.sandbox.launch", "Prepared"),
    "Publish": ("nstool.spec.model", "Publish"),
    "Root": ("nstool.spec.model", "Root"),
    "Sandbox": ("nstool.sandbox.launch", "Sandbox"),
    "SandboxGone": ("nstool.errors", "SandboxGone"),
    "Seccomp": ("nstool.spec.model", "Seccomp"),
    "SeccompCall": ("nstool.spec.model", "SeccompCall"),
    "SeccompWhere": ("nstool.spec.model", "SeccompWhere"),
    "Spec": ("nstool.spec.model", "Spec"),
    "SpecError": ("nstool.errors", "SpecError"),
    "Step": ("nstool.plan.steps", "Step"),
    "attest": ("nstool.inspect.attested", "attest"),
    "launch": ("nstool.sandbox.launch", "launch"),
    "launch_async": ("nstool.sandbox.aio", "launch_async"),
    "load": ("nstool.spec.load", "load"),
    "prepare": ("nstool.sandbox.launch", "prepare"),
    "plan": ("nstool.plan", ""),
    "syscalls": ("nstool.syscalls", ""),
    "uapi": ("nstool.uapi", ""),
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nstool' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = __import__(module, fromlist=[attribute])
    value = getattr(value, attribute) if attribute else value
    globals()[name] = value
    return value
