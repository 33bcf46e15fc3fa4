"""Read and write /proc/sys, and IP forwarding, which all sandboxes of a host share. ip(7)."""

from __future__ import annotations

import os

from nstool.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.network.shared import Shared

SWITCH = {"4": "net/ipv4/ip_forward", "6": "net/ipv6/conf/all/forwarding"}
CONF = {"4": "net/ipv4/conf", "6": "net/ipv6/conf"}


def read(path: str) -> str:
    """Return the value of a sysctl by its path below /proc/sys; of the calling thread's namespaces."""
    with open(f"/proc/sys/{path}", encoding="ascii") as file:
        return file.read().strip()


def write(path: str, value: str) -> None:
    """Set a sysctl by its path below /proc/sys. Raises KernelError."""
    try:
        with open(f"/proc/sys/{path}", "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise KernelError(f"write({path}, {value!r})", error.errno or 0) from error


def acquire(shared: Shared, link: str, family: str, maker: str) -> None:
    """Turn forwarding on for the sandbox with this link. family: "4" or "6". maker: as rundir.maker() has it.

    The first one records what was before: turning forwarding on changes the sysctls of every
    device. A host that takes its IPv6 routes from router advertisements would lose them
    (accept_ra 1 means "not when forwarding"), so accept_ra goes to 2 first.
    """
    record = shared.state.setdefault("forwarding", {}).setdefault(family, {"links": {}, "before": []})
    off = read(SWITCH[family]) == "0"
    if off and not record["before"]:
        record["before"] = _before(family)
    record["links"][link] = maker
    shared.save()
    if off:
        for path, _ in record["before"]:
            if path.endswith("/accept_ra"):
                write(path, "2")
        write(SWITCH[family], "1")


def release(shared: Shared, link: str, family: str) -> bool:
    """Take the need of this link back; the last one puts back what was before. Twice does no harm.

    Return whether it was the last one.
    """
    forwarding = shared.state.get("forwarding", {})
    record = forwarding.get(family)
    if record is None or link not in record["links"]:
        return False
    last = list(record["links"]) == [link]
    if last:
        for path, value in record["before"]:
            if os.path.exists(f"/proc/sys/{path}"):  # a device may have gone meanwhile
                write(path, value)
        del forwarding[family]
    else:
        del record["links"][link]
    shared.save()
    return last


def _before(family: str) -> list[list[str]]:
    """Return [path, value] of all that turning forwarding on changes, the switch itself first."""
    conf = CONF[family]
    values = [[SWITCH[family], "0"]]
    if family == "4":
        values.append([f"{conf}/all/accept_redirects", read(f"{conf}/all/accept_redirects")])
    devices = [name for name in sorted(os.listdir(f"/proc/sys/{conf}")) if name != "all"]
    values += [[f"{conf}/{name}/forwarding", "1"] for name in devices if read(f"{conf}/{name}/forwarding") == "1"]
    if family == "6":
        real = [name for name in devices if name != "default"]
        values += [[f"{conf}/{name}/accept_ra", "1"] for name in real if read(f"{conf}/{name}/accept_ra") == "1"]
    return values
