"""The steps by which the command gets an AppArmor profile or an SELinux context at its exec. Pure.

Both are asked for by a write into /proc/thread-self/attr, and the kernel changes the label at the next execve of the
thread. A change of ids in between keeps what was asked for.
"""

from __future__ import annotations

from nstool import uapi
from nstool.errors import NotSupported
from nstool.plan.steps import LAUNCHER, PAYLOAD, Fd, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.host import Host
    from nstool.spec.model import Spec

PROC = Fd("attr_proc")
# Of AppArmor's own since Linux 5.8, which is older than the lowest that nstool runs on. attr/exec is that of the first
# module that takes it, and SELinux has no other.
APPARMOR = "thread-self/attr/apparmor/exec"
SELINUX = "thread-self/attr/exec"
UNCONFINED = "unconfined"


def open_steps(spec: Spec) -> tuple[Step, ...]:
    """Return the launcher's step that opens /proc, for inside there may be none, or one that hides attr."""
    if not spec.apparmor and not spec.selinux:
        return ()
    args = (uapi.AT_FDCWD, "/proc", uapi.O_PATH | uapi.O_DIRECTORY | uapi.O_CLOEXEC, 0, 0)
    return (Step(LAUNCHER, "openat2", args, "the command's label is asked for there", result=PROC.name),)


def payload_steps(spec: Spec, host: Host) -> tuple[Step, ...]:
    """Return the payload's steps, which come before its fds get their places: one may take that of /proc.

    Before no_new_privs, too, under which SELinux lets only some contexts be asked for. What is judged under it is the
    execve: AppArmor then lets an unconfined process take any profile, and a confined one only stack another.
    Raises NotSupported for a module that this kernel has not, or a profile or context that it does not know.
    """
    found = []
    if spec.apparmor:
        _check_apparmor(spec.apparmor, host)
        command = spec.apparmor if spec.apparmor.startswith(("exec ", "stack ")) else f"exec {spec.apparmor}"
        why = "the AppArmor profile that execve gives it"
        found.append(Step(PAYLOAD, "write_file", (PROC, APPARMOR, command, 0, 0), why, man="apparmor(7)"))
    if spec.selinux:
        _check_selinux(host)
        why = "the SELinux context that execve gives it"
        found.append(Step(PAYLOAD, "write_file", (PROC, SELINUX, spec.selinux, 0, 0), why, man="setexeccon(3)"))
    return tuple(found)


def _modules(host: Host) -> str:
    return f"; its security modules: {', '.join(host.lsms)}" if host.lsms else ""


def _check_apparmor(wanted: str, host: Host) -> None:
    if not host.apparmor:
        raise NotSupported(
            "apparmor",
            f"this kernel has no AppArmor, or it was not switched on at boot{_modules(host)}",
            "take apparmor out, or boot a kernel that has it with apparmor=1 security=apparmor",
        )
    for name in profiles(wanted):
        if host.profiles is not None and name not in (UNCONFINED, *host.profiles) and not name.startswith(":"):
            raise NotSupported(
                "apparmor",
                f"no AppArmor profile {name!r} is loaded, /sys/kernel/security/apparmor/profiles",
                "as root: apparmor_parser --add FILE; aa-status lists what is loaded",
            )


def profiles(wanted: str) -> tuple[str, ...]:
    """Return the profiles that an AppArmor label names: "stack a//&b" is a and b."""
    return tuple(wanted.removeprefix("exec ").removeprefix("stack ").split("//&"))


def has_label(module: str, wanted: str, found: str) -> bool:
    """Whether a label that the kernel tells is the wanted one. module: "apparmor" or "selinux"."""
    if module == "selinux":
        return wanted == found
    # "a//&b (enforce)", in an order of the kernel's own; a stacked profile is one of them.
    has = set(found.partition(" (")[0].split("//&"))
    asked = set(profiles(wanted))
    return asked <= has if wanted.startswith("stack ") else asked == has


def _check_selinux(host: Host) -> None:
    if not host.selinux:
        raise NotSupported(
            "selinux",
            "this kernel has no SELinux, it was not switched on at boot, or /sys/fs/selinux is not mounted"
            f"{_modules(host)}",
            "take selinux out, or boot a kernel and a system that have it with selinux=1 security=selinux",
        )
    if host.selinux == "unloaded":
        raise NotSupported(
            "selinux",
            "SELinux is on, but no policy is loaded: every process has the same context",
            "load a policy (load_policy -i), or take selinux out",
        )
    if host.selinux == "invalid":
        raise NotSupported(
            "selinux",
            "the loaded policy has no such context: its user, role, type or level, or their combination",
            "choose a context that the policy has: ps -eZ shows those in use, seinfo -t the types",
        )
