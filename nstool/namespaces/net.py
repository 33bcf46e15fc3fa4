"""The network namespace as init sees it: loopback and net.* settings. network_namespaces(7).

Links to the outside are made by the launcher: nstool/network.
"""

from __future__ import annotations

from nstool import uapi
from nstool.plan.steps import INIT, Fd, Step
from nstool.spec.model import Spec

_IFREQ = 64  # bytes given to ioctl: struct ifreq is 40, csrc/plan.c copies 64


_PRIVILEGED = "net.ipv4.ip_unprivileged_port_start"  # ip-sysctl; for IPv6 too


def _published(spec: Spec) -> dict[str, str]:
    # A port below 1024 that is published is one that the command is to bind: it has no CAP_NET_BIND_SERVICE for it.
    lowest = min((port.inside for port in spec.net.publish), default=1024)
    return {_PRIVILEGED: str(lowest)} if lowest < 1024 else {}


def steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of init that bring the loopback up and set the wanted net.* sysctls."""
    if spec.namespaces.net != "new" or spec.net.mode == "host":
        return ()
    made: list[Step] = []
    if spec.net.mode not in ("none", "join"):
        ifreq = b"lo".ljust(16, b"\0") + uapi.IFF_UP.to_bytes(2, "little")
        made = [
            Step(
                INIT,
                "socket",
                (uapi.AF_INET, uapi.SOCK_DGRAM | uapi.SOCK_CLOEXEC, 0),
                "to name a device",
                result="inet",
            ),
            Step(
                INIT,
                "ioctl",
                (Fd("inet"), uapi.SIOCSIFFLAGS, ifreq.ljust(_IFREQ, b"\0")),
                "bring lo up",
                man="netdevice(7)",
            ),
        ]
    for name, value in {**_published(spec), **spec.net.sysctls}.items():
        path = "/proc/sys/" + name.replace(".", "/")
        made.append(
            Step(
                INIT,
                "write_file",
                (uapi.AT_FDCWD, path, f"{value}\n", 0, 0),
                f"{name} of this namespace",
                man="sysctl(8)",
            )
        )
    return tuple(made)
