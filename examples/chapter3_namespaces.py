"""Chapter 3, Namespaces: the files, clone, unshare, setns, and namespaces that outlive their processes.

Book: 3.2 the files of /proc/PID/ns, 3.4.1 clone(), 3.4.2 unshare(), 3.4.3 setns().
Man pages: namespaces(7), clone(2), unshare(2), setns(2), pidfd_open(2), ioctl_nsfs(2).
Run it as root or as anybody: ``.venv/bin/python examples/chapter3_namespaces.py``.
"""

from __future__ import annotations

import os
import tempfile

from show import ROOT, begin, check, fact, in_child, limits, namespaces, owned, run, step

from nstool import Spec, launch, syscalls, uapi
from nstool.kinds import KINDS
from nstool.sandbox.join import enter
from nstool.sandbox.pins import pin, unpin

OWN = namespaces()


def the_files() -> None:
    step("The namespaces of this process: one link a type, the inode names the namespace (3.2, namespaces(7))")
    for kind, link in OWN.items():
        fact(f"/proc/self/ns/{kind}", f"{link}  {KINDS[kind].isolates}")


def by_clone() -> None:
    step("clone3(CLONE_NEWUTS|CLONE_NEWIPC): a child that begins in new ones (3.4.1, clone(2))")

    def child() -> None:
        new = namespaces()
        for kind in ("uts", "ipc", "net"):
            fact(f"{kind} of the child", f"{new[kind]}  {'new' if new[kind] != OWN[kind] else 'the same'}")
        check(new["uts"] != OWN["uts"] and new["net"] == OWN["net"], "clone3 made others than it was asked for")

    in_child(child, owned(uapi.CLONE_NEWUTS | uapi.CLONE_NEWIPC))
    check(namespaces() == OWN, "clone3 changed the caller's namespaces")
    fact("uts of the caller", f"{OWN['uts']}  as before")


def by_unshare() -> None:
    step("unshare(CLONE_NEWUTS|CLONE_NEWPID): the caller moves, but pid is for its children (3.4.2, unshare(2))")

    def child() -> None:
        syscalls.unshare(owned(uapi.CLONE_NEWUTS | uapi.CLONE_NEWPID))
        new = namespaces()
        fact("uts after unshare", f"{new['uts']}  moved")
        fact("pid after unshare", f"{new['pid']}  not moved: a process keeps its pid")
        check(new["uts"] != OWN["uts"] and new["pid"] == OWN["pid"], "unshare moved other namespaces")
        in_child(first)

    def first() -> None:
        fact("pid of its first child", os.getpid())
        check(os.getpid() == 1, "the first process of a pid namespace is not 1")

    in_child(child)


def by_setns() -> None:
    step("setns: join a process by its pidfd, several namespaces in one call (3.4.3, setns(2))")
    with launch(Spec(command=("sleep", "60"), hostname="joined", limits=limits())) as sandbox:
        theirs = namespaces(sandbox.init_pid)
        fact("uts of the sandbox", theirs["uts"])

        def child() -> None:
            syscalls.setns(sandbox.pidfd, uapi.CLONE_NEWUSER | uapi.CLONE_NEWUTS | uapi.CLONE_NEWNET)
            new = namespaces()
            fact("uts after setns", f"{new['uts']}  host name {os.uname().nodename}")
            fact("ipc after setns", f"{new['ipc']}  not asked for, not joined")
            check(new["uts"] == theirs["uts"] and new["ipc"] == OWN["ipc"], "setns joined others than it was asked for")

        in_child(child)
        step("The same by the library: sandbox.exec joins all of them and takes the sandbox's credentials")
        out = os.memfd_create("out")
        ended = sandbox.exec("readlink", "/proc/self/ns/uts", stdout=out).wait()
        text = os.pread(out, 100, 0).decode().strip()
        os.close(out)
        fact("readlink in the sandbox", text)
        check(ended.code == 0 and text == theirs["uts"], "exec ran somewhere else")


def kept_by_an_fd() -> None:
    step("An open fd keeps a namespace that no process is in any more (namespaces(7), 'Namespace lifetime')")
    with launch(Spec(command=("sleep", "60"), hostname="kept", limits=limits())) as sandbox:
        inode = namespaces(sandbox.init_pid)["uts"]
        uts = os.open(f"/proc/{sandbox.init_pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
        user = os.open(f"/proc/{sandbox.init_pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    fact("its processes have ended", inode)

    def child() -> None:
        syscalls.setns(user, uapi.CLONE_NEWUSER)
        syscalls.setns(uts, uapi.CLONE_NEWUTS)
        fact("joined through the fd", f"{namespaces()['uts']}  host name {os.uname().nodename}")
        check(namespaces()["uts"] == inode and os.uname().nodename == "kept", "the namespace has gone")

    in_child(child)
    os.close(uts)
    os.close(user)


def kept_by_a_file() -> None:
    step("A bind mount of its file keeps it too: nstool pin and unpin (namespaces(7), mount(2))")
    if not ROOT:
        fact("left out", "a bind mount in this mount namespace needs CAP_SYS_ADMIN; the fd above does not")
        return
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/kept"
        with launch(Spec(command=("sleep", "60"), hostname="pinned", limits=limits())) as sandbox:
            for line in pin(str(sandbox.init_pid), path, ("user", "uts")):
                fact("pin", line)
        try:
            out = os.memfd_create("out")
            saved = os.dup(1)
            os.dup2(out, 1)
            try:
                status = enter(path, ("uname", "-n")).wait().status
            finally:
                os.dup2(saved, 1)
                os.close(saved)
            text = os.pread(out, 100, 0).decode().strip()
            os.close(out)
            fact("uname -n, entered", text)
            check((status, text) == (0, "pinned"), f"enter: {status}, {text!r}")
        finally:
            for line in unpin(path):
                fact("unpin", line)


def main() -> None:
    begin("Chapter 3, Namespaces")
    the_files()
    by_clone()
    by_unshare()
    by_setns()
    kept_by_an_fd()
    kept_by_a_file()
    check(namespaces() == OWN, "this process has moved")


if __name__ == "__main__":
    run(main)
