"""Chapter 9, NET: a namespace of devices, routes, ports and settings; two of them joined by a veth pair.

Book: 9.1 the network stack, 9.2 the structure of NET namespaces, 9.3 devices between namespaces, 9.4 sockets and
settings of each. Man pages: network_namespaces(7), veth(4), rtnetlink(7), sock_diag(7).
Run it as root or as anybody: ``.venv/bin/python examples/chapter9_net.py``.
"""

from __future__ import annotations

import os
import socket

from show import as_root_inside, begin, check, fact, in_child, limits, namespaces, owned, read, run, step

from nstool import Net, Spec, launch, syscalls, uapi
from nstool.inspect import nsfile
from nstool.inspect.net import Device, Network, network


def look(target: int) -> Network:
    """Return all of the network namespace of a process."""
    with nsfile.named(str(target), "net", "") as namespace:
        return network(namespace)


def device(found: Network, name: str) -> Device:
    """Return one device of a namespace."""
    return next(one for one in found.devices if one.name == name)


def empty() -> None:
    step("A new one has the loopback, which is down, and nothing else: no route, no neighbour, no socket (9.2)")
    found = look(os.getpid())
    fact(
        "devices", ", ".join(f"{one.name} ({'up' if one.up else 'down'})" for one in found.devices if one.name == "lo")
    )
    fact("routes, sockets of IP", f"{len(found.routes)}, {sum('inet' in one.socket.family for one in found.sockets)}")
    fact("settings that differ from a fresh one", len(found.sysctls or ()))
    check(not device(found, "lo").up and not found.routes, "it is not empty")


def joined() -> None:
    step("A veth pair: one end here, the other end in a second namespace; each is shown with where the other is (9.3)")
    told, tell = os.pipe()
    end, stop = os.pipe()

    def second() -> None:
        os.close(stop)
        with socket.create_server(("0.0.0.0", 8080)):
            os.write(tell, b"x")
            os.read(end, 1)

    child = syscalls.clone3(uapi.CLONE_NEWNET | uapi.CLONE_PIDFD, child=second)
    os.read(told, 1)
    connect(child.pid)
    show_ends(child.pid)
    show_sockets(child.pid)
    settings(child.pid)
    for fd in (stop, end, told, tell):
        os.close(fd)
    ended = syscalls.waitid(uapi.P_PIDFD, child.pidfd)
    os.close(child.pidfd)
    check(ended is not None and ended.status == 0, f"the second ended with {ended}")


def connect(pid: int) -> None:
    """Make the pair, with addresses at both ends. veth(4)."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("add", ifname="near", kind="veth", peer={"ifname": "far", "net_ns_pid": pid})
        (index,) = ip.link_lookup(ifname="near")
        ip.addr("add", index=index, address="10.9.0.1", prefixlen=24)
        ip.link("set", index=index, state="up")
    own, theirs = (os.open(f"/proc/{who}/ns/net", os.O_RDONLY | os.O_CLOEXEC) for who in ("self", pid))
    syscalls.setns(theirs, uapi.CLONE_NEWNET)
    with IPRoute() as ip:
        (index,) = ip.link_lookup(ifname="far")
        ip.addr("add", index=index, address="10.9.0.2", prefixlen=24)
        ip.link("set", index=index, state="up")
    syscalls.setns(own, uapi.CLONE_NEWNET)
    os.close(own)
    os.close(theirs)


def show_ends(pid: int) -> None:
    here, there = look(os.getpid()), look(pid)
    near, far = device(here, "near"), device(there, "far")
    assert near.peer
    assert near.peer.place
    assert far.peer
    assert far.peer.place
    fact("near", f"{near.addresses[0]}, {near.kind}")
    theirs = f"net:[{near.peer.place.inode}]" == namespaces(pid)["net"]
    fact("its other end", f"{near.peer.name}, in {'the second namespace' if theirs else 'another one'}")
    living = [number for number, _ in near.peer.place.processes]
    fact("who lives there", "the second process" if living == [pid] else living)
    ours = f"net:[{far.peer.place.inode}]" == namespaces()["net"]
    fact("the other end of far", f"{far.peer.name}, in {'ours' if ours else 'another one'}")
    fact("route of the second", "; ".join(route(there)))
    check(theirs and ours and near.peer.name == "far" and far.peer.name == "near", "the ends do not fit")


def route(found: Network) -> list[str]:
    return [
        f"{one.destination} dev {one.hops[0][1]}"
        for one in found.routes
        if one.table == "main" and one.family == "inet"
    ]


def show_sockets(pid: int) -> None:
    step("Ports belong to a namespace: the same one can be taken in each; a connection goes over the pair (9.4)")
    with socket.create_server(("0.0.0.0", 8080)), socket.create_connection(("10.9.0.2", 8080), timeout=10) as client:
        fact("connected from here to", "{}:{}".format(*client.getpeername()))
        found = look(pid)
    listening = [one for one in found.sockets if one.socket.state == "listening"]
    fact("listening in the second", ", ".join(one.socket.local for one in listening))
    owners = {holder.pid for one in listening for holder in one.owners}
    fact("by", "the second process" if owners == {pid} else owners)
    check(owners == {pid}, "somebody else listens")


def settings(pid: int) -> None:
    step("Settings are a namespace's own: what is changed here does not show there (9.4, sysctl(8))")
    name = "net/ipv4/ip_default_ttl"
    with open(f"/proc/sys/{name}", "w") as file:
        file.write("42")
    mine = {one.name: one for one in look(os.getpid()).sysctls or ()}
    fact("here", f"{mine[name].value}, in a fresh one {mine[name].fresh}")
    theirs = {one.name for one in look(pid).sysctls or ()}
    fact("in the second", "changed" if name in theirs else "as in a fresh one")
    check(mine[name].value == read(f"/proc/sys/{name}") == "42" and name not in theirs, "the settings are shared")


def with_nstool() -> None:
    step("With nstool: the loopback alone is up (`nstool net NAME` shows it from outside)")
    with launch(Spec(command=("sleep", "60"), net=Net(mode="loopback"), limits=limits())) as sandbox:
        found = look(sandbox.pid)
        fact("devices that are up", ", ".join(one.name for one in found.devices if one.up))
        fact("addresses", " ".join(device(found, "lo").addresses))
        check([one.name for one in found.devices if one.up] == ["lo"], "it has more")


def inside() -> None:
    as_root_inside()
    empty()
    joined()


def main() -> None:
    begin("Chapter 9, NET")
    with_nstool()
    in_child(inside, owned(uapi.CLONE_NEWNET))


if __name__ == "__main__":
    run(main)
