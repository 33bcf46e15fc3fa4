"""A Lease: the values one launch has to itself, allocated without races before it is planned."""

from __future__ import annotations

from nstool.frozen import Frozen


class Lease(Frozen):
    """name: of the sandbox. uid_base, gid_base: first of ``count`` unused host ids.

    cgroup: name of its directory in each hierarchy, as "nstool-web-1a2b3c".
    link: name of the host end of the veth pair (at most 15 bytes). address, gateway and their
    IPv6 forms with prefix length: "10.200.3.2/30"; empty where the spec needs no network.
    monotonic, boottime: offsets in seconds that make its clocks begin at zero; begin: when that is, seconds since 1970.
    machine_id, boot_id: random, as machine-id(5) and random(4) write them.
    """

    name: str
    uid_base: int = 0
    gid_base: int = 0
    count: int = 65536
    cgroup: str = ""
    link: str = ""
    address: str = ""
    gateway: str = ""
    address6: str = ""
    gateway6: str = ""
    monotonic: int = 0
    boottime: int = 0
    begin: int = 0
    machine_id: str = ""
    boot_id: str = ""
