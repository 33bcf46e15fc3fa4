"""Who the command is: ids, capabilities, no way back to more."""

from __future__ import annotations

from nstool import uapi
from tests.kernel.adversary.base import Check, call, is_value, refused, says, tells
from tests.kernel.adversary.run import View

SIGCHLD = 17
NEW = {
    "user": uapi.CLONE_NEWUSER,
    "mnt": uapi.CLONE_NEWNS,
    "pid": uapi.CLONE_NEWPID,
    "net": uapi.CLONE_NEWNET,
    "uts": uapi.CLONE_NEWUTS,
    "ipc": uapi.CLONE_NEWIPC,
    "cgroup": uapi.CLONE_NEWCGROUP,
}


def maps_host(text: str, number: int) -> bool:
    """Whether a uid_map or gid_map, read from outside, has this id of the host."""
    lines = [tuple(map(int, line.split())) for line in text.splitlines()]
    return any(outside <= number < outside + count for _, outside, count in lines)


def _map(kind: str) -> Check:
    def look(view: View):  # type: ignore[no-untyped-def]
        return view.file(f"/proc/{view.pid}/{kind}_map")

    expected = tells("has no host id 0", lambda text: bool(text) and not maps_host(text, 0))
    return Check(f"host-0-in-no-{kind}-map", look, expected, "id 0 of the host stands behind no id inside", "ids")


def _status(line: str, value: str, name: str, property: str, protection: str) -> Check:
    def same(text: str) -> bool:
        rows = dict(row.split(":", 1) for row in text.splitlines() if ":" in row)
        return rows[line].strip() == value

    return Check(name, ("read", "/proc/self/status"), tells(f"{line}: {value}", same), property, protection)


CHECKS: tuple[Check, ...] = (
    _map("uid"),
    _map("gid"),
    *(
        _status(f"Cap{name}", "0" * 16, f"no-capability-{name.lower()}", "a capability set is empty", "capabilities")
        for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")
    ),
    _status("NoNewPrivs", "1", "no-new-privs", "no file gives privileges", "no_new_privs"),
    _status("Groups", "", "no-groups", "no supplementary group of the caller is kept", "groups"),
    _status("Seccomp", "2", "filtered", "system calls are filtered", "seccomp"),
    Check(
        "setgroups",
        call("setgroups", 1, "b:4"),
        refused("EPERM"),
        "groups can be neither taken nor dropped",
        "capabilities",
    ),
    Check(
        "securebits-locked",
        ("securebits",),
        is_value(0),
        "no securebit can be changed",
        "securebits",
    ),
    Check(
        "securebits",
        ("securebits",),
        says("0xef"),
        "uid 0 gains nothing at exec, and that is locked",
        "securebits",
    ),
    *(
        Check(
            f"no-new-{name}-by-{way}",
            ask,
            refused(error),
            "no new namespace can be made",
            "seccomp",
        )
        for name, flag in NEW.items()
        for way, ask, error in (
            ("unshare", call("unshare", flag), "EPERM"),
            ("clone", call("clone", flag | SIGCHLD, 0, 0, 0, 0), "EPERM"),
            ("clone3", ("clone3", str(flag)), "ENOSYS"),
        )
    ),
)
