"""A connection that is given to a sandbox is a socket of the host's network: what the command's list says of that."""

from __future__ import annotations

from nstool.spec.model import Seccomp, SeccompCall, SeccompWhere, Spec
from nstool.spec.service import Service

# netdevice(7): SIOCGIFCONF and its like tell the names and addresses of the network in which the socket was made,
# whoever asks. linux/sockios.h has all of them from 0x8900 on.
_OF_INTERFACES = SeccompCall("ioctl", (SeccompWhere(1, "==", 0x8900, 0xFF00),))
_LISTS = ("default", "strict")


def prepared(spec: Spec, service: Service) -> Spec:
    """Return the spec with what a connection by TCP needs that the command has in hand.

    A list of one's own is left as it is, and so is one that allows ioctl by a word.
    """
    relayed = service.shape == "port" or all(
        word.startswith(("unix:", "seqpacket:", "udp:")) for word in service.listen
    )
    words = spec.seccomp if isinstance(spec.seccomp, Seccomp) else Seccomp(spec.seccomp)
    if relayed or words.base not in _LISTS or any(entry.call == "ioctl" for entry in words.allow):
        return spec
    return spec.replace(seccomp=words.replace(refuse=(*words.refuse, _OF_INTERFACES)))
