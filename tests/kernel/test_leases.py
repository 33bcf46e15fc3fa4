"""Leases on this host: what an ordinary user gets, and that the host's own networks are left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from nstool.errors import NotSupported
from nstool.sandbox import journal, leases, rundir
from nstool.spec.model import Net, Spec
from tests.support import kernel, probes


def test_an_ordinary_user_gets_the_subordinate_ids(as_user: Callable[..., Any], user: Any) -> None:
    """The range of /etc/subuid and /etc/subgid, and no file for it: all of the user's sandboxes share it."""

    def take() -> tuple[Any, list[str]]:
        lease = leases.take(Spec())
        left = os.listdir(rundir.path() + "/ids")
        journal.undo(lease.name, (), lease)
        return (lease.uid_base, lease.gid_base, lease.count), left

    got, left = as_user(take)
    uid_base, uids = probes.subordinate("/etc/subuid", user.uid)
    gid_base, gids = probes.subordinate("/etc/subgid", user.uid)
    assert got == (uid_base, gid_base, min(65536, uids, gids))
    assert left == []


@pytest.mark.needs("root")
def test_a_user_without_subordinate_ids_gets_their_own_alone(in_child: Callable[..., Any]) -> None:
    def take() -> tuple[int, int, int]:
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54322, 54322, 54322)
        return leases.take_ids("web")

    assert in_child(take) == (54322, 54321, 1)


@pytest.mark.needs("root")
def test_a_user_namespace_that_maps_no_free_ids_says_so(in_child: Callable[..., Any]) -> None:
    """Root of a user namespace can only give away ids that are mapped there."""

    def take() -> str:
        kernel.unshare(kernel.CLONE_NEWUSER)
        Path("/proc/self/uid_map").write_text("0 0 1\n")
        try:
            leases.take_ids("web")
        except NotSupported as error:
            return str(error)
        return ""

    assert "mapped in this user namespace" in in_child(take)


@pytest.mark.needs("root", "veth")
def test_a_network_that_the_host_has_is_not_leased(
    in_child: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address on a device of the host makes a route; all of its network is left out. proc_net(5)."""
    monkeypatch.setenv("NSTOOL_NETS", "10.99.0.0/28")
    monkeypatch.setenv("NSTOOL_RUN_DIR", str(tmp_path / "run"))

    def take() -> list[str]:
        kernel.unshare(kernel.CLONE_NEWNET)
        for words in ("link set lo up", "link add d0 type veth", "link set d0 up", "address add 10.99.0.1/29 dev d0"):
            subprocess.run(["ip", *words.split()], check=True)
        spec = Spec(net=Net(mode="veth"))
        return [leases.take(spec).address for _ in range(2)]

    found = [ip_interface(address) for address in in_child(take)]
    assert {each.network for each in found} == {ip_network("10.99.0.8/30"), ip_network("10.99.0.12/30")}
    assert all(isinstance(each.ip, IPv4Address) for each in found)
    journal.cleanup()
