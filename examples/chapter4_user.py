"""Chapter 4, USER: ids inside and outside, maps, the five capability sets, credentials.

Book: 4.1 UID and GID, 4.2 capabilities of processes, 4.3 the structure of USER namespaces, 4.4 credentials,
4.5 the interface files. Man pages: user_namespaces(7), capabilities(7), credentials(7), capset(2), ioctl_nsfs(2).
Run it as root or as anybody: ``.venv/bin/python examples/chapter4_user.py``.
"""

from __future__ import annotations

import os

from show import ROOT, begin, check, fact, in_child, limits, namespaces, read, refused, run, step

from nstool import Capabilities, Spec, launch, syscalls, uapi
from nstool.sandbox.facts import facts
from nstool.security import capabilities, idmap, securebits

UID, GID = os.geteuid(), os.getegid()
OVERFLOW = int(read("/proc/sys/kernel/overflowuid"))


def sets() -> dict[str, int]:
    """Return the five capability sets of this process, as masks. proc_pid_status(5)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return {line[:6]: int(line.split()[1], 16) for line in file if line.startswith("Cap")}


def words(mask: int) -> str:
    """Return a mask in names, a full one in one word."""
    if mask == capabilities.full(capabilities.last_cap()):
        return "all"
    return " ".join(capabilities.names(mask)) or "none"


def who() -> None:
    step("Who this process is (4.1, credentials(7)), and the map of its user namespace (4.5)")
    fact("real, effective, saved uid", os.getresuid())
    fact("uid_map: inside outside count", read("/proc/self/uid_map"))
    fact("user namespace", namespaces()["user"])


def without_a_map() -> None:
    step("A new user namespace has no map: nobody has an id in it, and yet its first process may do everything (4.3)")

    def child() -> None:
        fact("uid before the map", f"{os.geteuid()}  the overflow id")
        fact("uid_map", repr(read("/proc/self/uid_map")))
        for name, mask in sets().items():
            fact(name, words(mask))
        check(os.geteuid() == OVERFLOW, "an unmapped uid is not the overflow id")
        check(sets()["CapEff"] == capabilities.full(capabilities.last_cap()), "the first process lacks capabilities")
        fact("sethostname in the host's uts", refused(lambda: syscalls.sethostname("mine")))

    in_child(child, uapi.CLONE_NEWUSER)


def write_map(pid: int, name: str, text: str) -> None:
    """Write a map of a process, in one write. user_namespaces(7)."""
    with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
        file.write(text)


def with_a_map() -> None:
    step("The parent writes the maps: uid 0 inside is this user outside (4.5; one line: inside outside count)")
    ready, go = os.pipe(), os.pipe()

    def child() -> None:
        os.close(go[1])
        os.write(ready[1], b"r")
        os.read(go[0], 1)  # the maps are written
        fact("uid and gid inside", (os.geteuid(), os.getegid()))
        fact("uid_map as seen inside", read("/proc/self/uid_map"))
        fact("setgroups", read("/proc/self/setgroups"))
        check((os.geteuid(), os.getegid()) == (0, 0), "the map does not hold")
        fact("setuid(1), an id not mapped", refused(lambda: syscalls.setresuid(1, 1, 1), 22))

    child_ = syscalls.clone3(uapi.CLONE_NEWUSER | uapi.CLONE_PIDFD, child=child)
    for fd in (ready[1], go[0]):
        os.close(fd)
    os.read(ready[0], 1)
    if not ROOT:
        gids = idmap.format_map(idmap.single_map(0, GID))
        fact("gid_map before setgroups", refused(lambda: write_map(child_.pid, "gid_map", gids)))
        write_map(child_.pid, "setgroups", "deny")
    write_map(child_.pid, "uid_map", idmap.format_map(idmap.single_map(0, UID)))
    write_map(child_.pid, "gid_map", idmap.format_map(idmap.single_map(0, GID)))
    fact("uid_map a second time", refused(lambda: write_map(child_.pid, "uid_map", f"0 {UID} 1\n")))
    os.write(go[1], b"g")
    ended = syscalls.waitid(uapi.P_PIDFD, child_.pidfd)
    for fd in (ready[0], go[1], child_.pidfd):
        os.close(fd)
    check(ended is not None and ended.status == 0, f"the child ended with {ended}")


def the_five_sets() -> None:
    step("The five sets, and what an exec leaves of them (4.2, capabilities(7))")

    def child() -> None:
        one = capabilities.mask(("net_bind_service",))
        setpcap = capabilities.mask(("setpcap",))
        for number in range(capabilities.last_cap() + 1):
            if not one >> number & 1:
                syscalls.prctl(uapi.PR_CAPBSET_DROP, number)
        syscalls.capset(one | setpcap, one | setpcap, one)
        syscalls.prctl(uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAPABILITIES["net_bind_service"])
        bits = securebits.mask(("noroot", "noroot_locked"))
        syscalls.prctl(uapi.PR_SET_SECUREBITS, bits)
        for name, mask in sets().items():
            fact(name, words(mask))
        fact("securebits", " ".join(securebits.names(syscalls.prctl(uapi.PR_GET_SECUREBITS))))
        fact("unset a locked securebit", refused(lambda: syscalls.prctl(uapi.PR_SET_SECUREBITS, 0)))
        check(sets()["CapBnd"] == one and sets()["CapAmb"] == one, "the sets are not what was set")
        os.execvp("sh", ("sh", "-c", f'test "$(sed -n s/CapEff:.//p /proc/self/status)" = {one:016x}'))

    in_child(child, uapi.CLONE_NEWUSER)
    fact("after execve of a plain program", "effective is net_bind_service: the ambient set, and nothing more")


def with_nstool() -> None:
    step("The same with nstool: unused ids outside, one capability, read back from outside by another road (4.4)")
    names = ("net_bind_service",)
    spec = Spec(
        command=("sleep", "60"),
        user="1000:1000",
        capabilities=Capabilities(names, names, names, names, names),
        limits=limits(),
    )
    with launch(spec) as sandbox:
        found = facts(sandbox.pid)
        outside = found.uids.effective
        fact("uid outside, as /proc shows it", outside)
        fact("uid inside, by its uid_map", idmap.to_inside(found.uid_map, outside))
        fact("uid_map", "; ".join(f"{m.inside} {m.outside} {m.count}" for m in found.uid_map))
        for name, held in found.capabilities.items():
            fact(name, words(held.mask))
            check(held.mask == capabilities.mask(names), f"{name} is {held.names}")
        fact("no_new_privs, seccomp", (found.no_new_privs, found.seccomp))
        check(idmap.to_inside(found.uid_map, outside) == 1000 and outside != 0, "the ids are not mapped")
        owner(sandbox.init_pid, sandbox.lease.uid_base if UID == 0 else UID)


def owner(pid: int, maker: int) -> None:
    # Root's launcher has made it as the first of the sandbox's own ids, so that nothing in it counts for root.
    step("Who owns what: the uts namespace belongs to the user namespace, that belongs to its maker (ioctl_nsfs(2))")
    uts = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    user = syscalls.ns_get_userns(uts)
    inode = f"user:[{os.fstat(user).st_ino}]"
    fact("owner of its uts namespace", inode)
    fact("uid that made that", syscalls.ns_get_owner_uid(user))
    check(inode == namespaces(pid)["user"] and syscalls.ns_get_owner_uid(user) == maker, "another owner")
    os.close(user)
    os.close(uts)


def main() -> None:
    begin("Chapter 4, USER")
    who()
    without_a_map()
    with_a_map()
    the_five_sets()
    with_nstool()
    check((os.geteuid(), os.getegid()) == (UID, GID), "this process has become another")


if __name__ == "__main__":
    run(main)
