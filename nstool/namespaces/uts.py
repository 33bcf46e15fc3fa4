"""The UTS namespace: host name, NIS domain name, and the machine that uname(2) names. uts_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.errors import NotSupported
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, PAYLOAD, Step
from nstool.spec.model import Spec

UNNAMED = "sandbox"  # host name of a sandbox without a name


def hostname(spec: Spec, lease: Lease) -> str:
    """Return the host name inside: that of the spec, or the sandbox's name, never the host's own."""
    return spec.hostname or lease.name[:64] or UNNAMED


def steps(spec: Spec, lease: Lease) -> tuple[Step, ...]:
    """Steps of init that name the new namespace."""
    if spec.namespaces.uts != "new":
        return ()
    name = hostname(spec, lease)
    domain = spec.domainname or "(none)"
    return (
        Step(INIT, "sethostname", (name,), "a host name of its own, the host's does not show"),
        Step(INIT, "setdomainname", (domain,), "the same for the NIS domain name"),
    )


def personality_steps(spec: Spec, host: Host) -> tuple[Step, ...]:
    """Steps of the payload: the execution domain, kept over execve. personality(2)."""
    if spec.aslr == "on" and not host.randomize_va_space:
        raise NotSupported(
            'aslr = "on"',
            "this host randomises no address space: kernel.randomize_va_space is 0, proc_sys_kernel(5)",
            "as root: sysctl -w kernel.randomize_va_space=2, or leave aslr out",
        )
    persona = uapi.PER_LINUX32 if spec.personality == "linux32" else 0
    if spec.aslr == "off":
        persona |= uapi.ADDR_NO_RANDOMIZE
    why = "addresses are not randomised" if spec.aslr == "off" else "the machine that uname(2) names, and randomisation"
    return (Step(PAYLOAD, "personality", (persona,), why),)
