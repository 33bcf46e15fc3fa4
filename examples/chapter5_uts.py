"""Chapter 5, UTS: the names of the system, one set a namespace.

Book: 5.1 basic system information, 5.2 the structure of UTS namespaces, 5.3 the interface files.
Man pages: uts_namespaces(7), uname(2), sethostname(2), setdomainname(2), personality(2), proc_sys_kernel(5).
Run it as root or as anybody: ``.venv/bin/python examples/chapter5_uts.py``.
"""

from __future__ import annotations

import os

from show import begin, check, fact, in_child, limits, namespaces, owned, read, refused, run, step

from nstool import Spec, launch, syscalls, uapi

BEFORE = os.uname()
# 5.3: each shows the names of the namespace of the process that reads it.
FILES = ("hostname", "domainname", "ostype", "osrelease")


def names() -> None:
    step("What uname(2) says of this system (5.1), and the files that say the same (5.3)")
    fact("nodename", BEFORE.nodename)
    fact("sysname, release, machine", f"{BEFORE.sysname} {BEFORE.release} {BEFORE.machine}")
    for name in FILES:
        fact(f"/proc/sys/kernel/{name}", read(f"/proc/sys/kernel/{name}"))
    fact("uts namespace", namespaces()["uts"])


def a_new_one() -> None:
    step("A child in a new namespace begins with a copy of the names and changes its own (5.2, sethostname(2))")

    def child() -> None:
        fact("uts namespace of the child", namespaces()["uts"])
        fact("its host name, copied", os.uname().nodename)
        check(os.uname().nodename == BEFORE.nodename, "a new uts namespace does not begin with a copy")
        syscalls.sethostname("box")
        syscalls.setdomainname("example")
        fact("after sethostname, setdomainname", f"{os.uname().nodename} {read('/proc/sys/kernel/domainname')}")
        check(read("/proc/sys/kernel/hostname") == "box", "the file shows another namespace's name")
        check(os.uname().release == BEFORE.release, "the release changed: it belongs to the kernel")
        fact("a name of 65 bytes", refused(lambda: syscalls.sethostname("x" * 65), 22))

    in_child(child, owned(uapi.CLONE_NEWUTS))
    fact("host name outside", os.uname().nodename)
    check(os.uname() == BEFORE, "the host's names changed")


def not_allowed() -> None:
    step("The right to change the names is CAP_SYS_ADMIN in the user namespace that owns them (user_namespaces(7))")

    def child() -> None:
        # Full capabilities in a new user namespace count for nothing in the old one's uts namespace.
        fact("sethostname in the old uts", refused(lambda: syscalls.sethostname("mine")))
        syscalls.unshare(uapi.CLONE_NEWUTS)
        syscalls.sethostname("mine")
        fact("after unshare(CLONE_NEWUTS)", os.uname().nodename)

    in_child(child, uapi.CLONE_NEWUSER)
    check(os.uname() == BEFORE, "the host's names changed")


def with_nstool() -> None:
    step("With nstool: hostname, domainname, personality are words of the spec; two sandboxes do not see each other")
    for hostname, personality in (("web", ""), ("old", "linux32")):
        out = os.memfd_create("out")
        spec = Spec(
            command=("sh", "-c", "uname -n; uname -m; cat /proc/sys/kernel/domainname"),
            hostname=hostname,
            domainname="example",
            personality=personality,
            limits=limits(),
        )
        with launch(spec, stdout=out) as sandbox:
            ended = sandbox.wait()
        told = os.pread(out, 200, 0).decode().split()
        os.close(out)
        fact(f"uname -n, -m, domain in {hostname!r}", " ".join(told))
        machine = "i686" if personality else BEFORE.machine
        check(ended.status == 0 and told == [hostname, machine, "example"], f"{ended}, {told}")
    out = os.memfd_create("out")
    with launch(Spec(command=("hostname",), limits=limits()), stdout=out) as sandbox:
        ended, name = sandbox.wait(), sandbox.name
    told = os.pread(out, 200, 0).decode().split()
    os.close(out)
    fact("without a hostname in the spec", f"{' '.join(told)}  never the host's own name")
    check(ended.status == 0 and told != [BEFORE.nodename], f"{ended}, {told}, sandbox {name!r}")


def main() -> None:
    begin("Chapter 5, UTS")
    names()
    a_new_one()
    not_allowed()
    with_nstool()
    check(os.uname() == BEFORE, "the host's names changed")


if __name__ == "__main__":
    run(main)
