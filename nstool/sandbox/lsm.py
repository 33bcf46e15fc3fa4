"""What this host's AppArmor and SELinux are, and what they know of a spec's profile and context."""

from __future__ import annotations

import os
from errno import EINVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nstool.spec.model import Spec

SECURITYFS = "/sys/kernel/security"
APPARMOR = "/sys/module/apparmor/parameters/enabled"
SELINUX = "/sys/fs/selinux"
INITIAL = "kernel"  # the context of all without a policy, which takes any other for the same; is_selinux_enabled(3)


def facts(spec: Spec) -> dict[str, Any]:
    """Return the fields of Host that are about labels."""
    return {
        "lsms": modules(),
        "apparmor": apparmor(),
        "profiles": profiles() if spec.apparmor else None,
        "selinux": selinux(spec.selinux) if spec.selinux else "",
    }


def modules() -> tuple[str, ...] | None:
    """Return the security modules that are on, in their order; None where securityfs is not to be read."""
    text = _read(f"{SECURITYFS}/lsm").strip()
    return tuple(text.split(",")) if text else None


def apparmor() -> bool:
    """Whether AppArmor is on."""
    return _read(APPARMOR).startswith("Y")


def profiles() -> tuple[str, ...] | None:
    """Return the profiles that are loaded; None where that is not to be read, as by an ordinary user."""
    try:
        with open(f"{SECURITYFS}/apparmor/profiles", encoding="utf-8", errors="replace") as file:
            return tuple(line.rpartition(" (")[0] for line in file)  # "NAME (enforce)"
    except (FileNotFoundError, PermissionError):  # no securityfs, or not ours to read: the kernel says it at the write
        return None


def selinux(context: str) -> str:
    """Return "" without SELinux, "unloaded" without a policy, else whether that has a context: as Host.selinux."""
    if not os.path.exists(f"{SELINUX}/enforce"):
        return ""
    if _read("/proc/thread-self/attr/current").strip("\0\n") == INITIAL:
        return "unloaded"
    try:
        fd = os.open(f"{SELINUX}/context", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:  # the policy lets not everybody ask
        return "unknown"
    try:
        os.write(fd, os.fsencode(context) + b"\0")
    except PermissionError:
        return "unknown"
    except OSError as error:
        if error.errno != EINVAL:
            raise
        return "invalid"
    finally:
        os.close(fd)
    return "valid"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return ""
