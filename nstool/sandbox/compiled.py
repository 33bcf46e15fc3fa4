"""Compile a spec for nsexec: a plan whose every step C can make, with values that are fixed now."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.plan import build
from nstool.plan.encode import encode
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.sandbox import host
from nstool.sandbox.launch import resolve
from nstool.spec.model import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Host ids of all sandboxes from compiled plans: below those that leases.py gives to one sandbox each.
ID_BASE = 0x6FFF0000
PID_TOKEN = "@nsexec-pid@"  # nsexec puts its pid there, in 12 digits (csrc/nsexec.c, stamp)


def compile_spec(spec: Spec) -> bytes:
    """Return the compiled plan of a checked spec. Raises SpecError for all that nsexec cannot do.

    The name and the host ids (ID_BASE, shared by all compiled plans) are fixed here; the cgroup is named
    after the process that runs the plan, so several can run at once. What a killed one leaves, an empty
    cgroup, `nstool cleanup` removes.
    """
    spec = resolve(spec)
    facts = host.read(spec)
    if refused := tuple(_refused(spec, facts)):
        (key, message), *others = refused
        raise SpecError("; and ".join([message, *(f"{place}: {text}" for place, text in others)]), key)
    spec = spec.replace(terminal="never", attest=False)  # nsexec reads nothing back
    name = spec.name or "compiled"
    # Its clocks are the host's: what makes them begin at zero is known only when it runs.
    lease = Lease(name, ID_BASE, ID_BASE, 65536, f"nstool-{name}-{PID_TOKEN}")
    plan = build.plan(spec, facts, lease)
    return encode(plan)


def _refused(spec: Spec, facts: Host) -> Iterator[tuple[str, str]]:
    """Yield the key of each part of a spec that only Python can make at launch, and what to do."""
    if spec.terminal == "always":
        yield "terminal", "nsexec relays no terminal: the standard streams are passed as they are"
    if spec.net.mode in ("veth", "bridge"):
        yield (
            "net.mode",
            f'"{spec.net.mode}" needs Python at launch; make a network namespace beforehand and join it: '
            'mode = "join", target = "NAME"',
        )
    if spec.root.type == "tarball":
        yield "root", "a tarball is unpacked by nstool; unpack it beforehand, and give the directory"
    if spec.pass_fds:
        yield "pass_fds", "a passed fd needs a launcher that brings the fd: use nstool run"
    if build.needs_userns(spec, facts):
        mapped = ["root"] if spec.root.idmap or spec.root.upper else []
        mapped += [f"mounts[{number}]" for number, mount in enumerate(spec.mounts) if mount.idmap or mount.upper]
        for key in mapped:
            yield key, "an id-mapped mount needs a launcher that brings the fd of a user namespace: use nstool run"
