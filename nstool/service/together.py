"""What of a spec does not go with its service, though each could be by itself."""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.security import seccomp_rules
from nstool.security.seccomp_read import ours, rules_of
from nstool.spec.model import Spec
from nstool.spec.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.spec.check import Place

CANARY = "NSTOOL_CANARY"
# Answers to a system call that end in SIGSYS. seccomp(2).
_KILLS = (seccomp_rules.KILL_PROCESS, seccomp_rules.KILL_THREAD, seccomp_rules.TRAP)
_MEETS = (
    "sandboxes meet there, and by a Unix socket one can give another an open file of its /proc/self/net, which then "
    "watches the next client's connections in that network: leave it out, or lease_net"
)


def check(spec: Spec, service: Service, place: Place) -> None:
    """Raise SpecError for the first of it. place: tells where a key of this variant is written."""
    if "canary" in service.vary and CANARY in spec.env:
        raise SpecError(f'vary = ["canary"] gives it another value: leave {CANARY} out', place(("env", CANARY)))
    if service.shape == "port" and spec.net.mode != "loopback":
        why = 'the command listens on the loopback of its own network: leave it out, or take shape = "socket"'
        raise SpecError(why, place(("net", "mode")))
    if service.lease_net:
        _check_lent(spec, place)
    if "oom" in service.alarms and not spec.limits.memory:
        raise SpecError(
            'memory is counted only where it is limited: leave "oom" out, or say a limit, limits.memory = "256M"',
            place(("service", "alarms", service.alarms.index("oom"))),
        )
    if "violation" in service.alarms and not _kills(spec):
        raise SpecError(
            'no system call ends in SIGSYS, as the list lets all that it refuses fail: say seccomp.action = "kill", or '
            'leave "violation" out',
            place(("service", "alarms", service.alarms.index("violation"))),
        )


def _check_lent(spec: Spec, place: Place) -> None:
    if spec.net.mode != "loopback" or spec.net.sysctls:
        raise SpecError(
            'what is lent has lo and nothing else: net.mode = "loopback", no sysctls', place(("service", "lease_net"))
        )
    if spec.root.type == "directory" and spec.root.writable:
        raise SpecError(_MEETS, place(("root", "writable")))
    for number, mount in enumerate(spec.mounts):
        if mount.type == "bind" and mount.writable:
            raise SpecError(_MEETS, place(("mounts", number)))


def _kills(spec: Spec) -> bool:
    """Whether the list of system calls may end the command by SIGSYS; of one that is compiled it is not known."""
    found = rules_of(spec.seccomp, ours(spec.capabilities.bounding))
    if isinstance(found, bytes):
        return True
    return any(action & seccomp_rules.FULL in _KILLS for action in (found.default, *(r.action for r in found.rules)))
