"""Compile a spec for nsexec: a plan whose every step C can make, with values that are fixed now."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.plan import build
from nstool.plan.encode import encode
from nstool.plan.lease import Lease
from nstool.sandbox import host
from nstool.sandbox.launch import resolve
from nstool.spec.model import Spec

# Host ids of all sandboxes from compiled plans: below those that leases.py gives to one sandbox each.
ID_BASE = 0x6FFF0000
PID_TOKEN = "@nsexec-pid@"  # nsexec puts its pid there, in 12 digits (csrc/nsexec.c, stamp)
STREAMS = ("stdin", "stdout", "stderr")


def compile_spec(spec: Spec) -> bytes:
    """Return the compiled plan of a checked spec. Raises SpecError for what nsexec cannot do.

    The name and the host ids (ID_BASE, shared by all compiled plans) are fixed here; the cgroup is named
    after the process that runs the plan, so several can run at once. What a killed one leaves, an empty
    cgroup, `nstool cleanup` removes.
    """
    if spec.terminal == "always":
        raise SpecError("nsexec relays no terminal: the standard streams are passed as they are", "terminal")
    if spec.net.mode in ("veth", "bridge"):
        raise SpecError(
            f'net.mode = "{spec.net.mode}" needs Python at launch; make a network namespace beforehand and join it: '
            'mode = "join", target = "NAME"',
            "net.mode",
        )
    spec = resolve(spec.replace(terminal="never"))
    facts = host.read(spec)
    name = spec.name or "compiled"
    # Its clocks are the host's: what makes them begin at zero is known only when it runs.
    lease = Lease(name, ID_BASE, ID_BASE, 65536, f"nstool-{name}-{PID_TOKEN}")
    plan = build.plan(spec, facts, lease)
    if plan.given != STREAMS:
        mapped = [n for n, mount in enumerate(spec.mounts) if mount.idmap or mount.upper]
        key = "pass_fds" if spec.pass_fds else f"mounts[{mapped[0]}]" if mapped else "root"
        what = "a passed fd" if spec.pass_fds else "an id-mapped mount"
        raise SpecError(f"{what} needs a launcher that brings the fd: use nstool run", key)
    return encode(plan)
