"""Landlock's access rights by name, what each version of its ABI brought, and what a spec needs of it. landlock(7)."""

from __future__ import annotations

from errno import ENOSYS, EOPNOTSUPP, errorcode

from nstool import uapi
from nstool.errors import NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nstool.spec.model import Landlock


def _names(prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix).lower(): value for name, value in vars(uapi).items() if name.startswith(prefix)}


FS = _names("LANDLOCK_ACCESS_FS_")
SCOPES = _names("LANDLOCK_SCOPE_")
FLAGS = _names("LANDLOCK_RESTRICT_SELF_")
# The rights that a file has too; the others are a directory's, and refused in a rule for anything else.
OF_FILES: tuple[str, ...] = ("execute", "write_file", "read_file", "truncate", "ioctl_dev")

# What the lists allow. A program that is executed is read, so execute includes read. No list allows to make device
# nodes, which is for who has CAP_MKNOD on the host: that is said by name.
READ: tuple[str, ...] = ("read_file", "read_dir")
EXECUTE: tuple[str, ...] = (*READ, "execute")
WRITE: tuple[str, ...] = (
    *("write_file", "truncate", "ioctl_dev", "remove_dir", "remove_file", "refer"),
    *("make_dir", "make_reg", "make_sock", "make_fifo", "make_sym"),
)
LISTS: dict[str, tuple[str, ...]] = {"read": READ, "write": WRITE, "execute": EXECUTE}

FIRST, NET, SCOPE, LOG = 1, 4, 6, 7
LINUX: dict[int, str] = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12", 7: "6.15"}
SINCE: dict[str, int] = {"refer": 2, "truncate": 3, "ioctl_dev": 5}
BROUGHT: dict[int, str] = {
    2: "refer",
    3: "truncate",
    4: "TCP ports",
    5: "ioctl_dev",
    6: "scopes",
    7: "flags of the audit log",
}


def wanted(rules: Landlock) -> bool:
    """Whether a spec asks for Landlock at all."""
    return files_wanted(rules) or net_wanted(rules) or bool(rules.scope)


def files_wanted(rules: Landlock) -> bool:
    """Whether files are restricted: a list of paths is there, if only an empty one."""
    return bool(rules.rules) or any(getattr(rules, key) is not None for key in LISTS)


def net_wanted(rules: Landlock) -> bool:
    """Whether TCP ports are restricted."""
    return rules.tcp_bind is not None or rules.tcp_connect is not None


def mask(names: Iterable[str]) -> int:
    """Return rights on files as bits."""
    bits = 0
    for name in names:
        bits |= FS[name]
    return bits


def handled(abi: int) -> int:
    """Return all rights on files that an ABI knows: what no rule allows of them is refused."""
    return mask(name for name in FS if SINCE.get(name, FIRST) <= abi)


def unhandled(abi: int) -> tuple[str, ...]:
    """Return the rights on files that an ABI does not know, so that it cannot refuse them.

    Not refer: without it the kernel refuses to move files between directories, whatever the rules.
    """
    return tuple(name for name in FS if SINCE.get(name, FIRST) > abi and name != "refer")


def needs(rules: Landlock) -> tuple[tuple[str, int], ...]:
    """Return what a spec asks for by name, as (key path, ABI that has it).

    Not the rights of read, write and execute: these go as far as the ABI does.
    """
    found = [("landlock", FIRST)]
    found += [("landlock.tcp_bind", NET)] if rules.tcp_bind is not None else []
    found += [("landlock.tcp_connect", NET)] if rules.tcp_connect is not None else []
    found += [(f"landlock.scope[{n}]", SCOPE) for n in range(len(rules.scope))]
    found += [(f"landlock.flags[{n}]", LOG) for n in range(len(rules.flags))]
    for number, rule in enumerate(rules.rules):
        found += [(f"landlock.rules[{number}].allow", SINCE.get(name, FIRST)) for name in rule.allow]
    return tuple(found)


def lacking(rules: Landlock, abi: int) -> NotSupported | None:
    """Return why a kernel cannot do what a spec asks for, None if it can. abi: its version, or a negative errno."""
    if abi <= 0:
        return absent(abi)
    for key, least in needs(rules):
        if least > abi:
            return NotSupported(
                key,
                f"this needs version {least} of Landlock's ABI, which came with Linux {LINUX[least]}; this kernel's "
                f"is {abi}, landlock(7)",
                f"run Linux {LINUX[least]} or later, or take it out",
            )
    return None


def absent(abi: int, what: str = "landlock") -> NotSupported:
    """Return why a kernel has no Landlock at all. abi: the negative errno of landlock_create_ruleset(2)."""
    if abi == -ENOSYS:
        return NotSupported(
            what,
            "this kernel has no Landlock: it is older than Linux 5.13, or was built without CONFIG_SECURITY_LANDLOCK",
            "take landlock out, or run a kernel that has it",
        )
    if abi == -EOPNOTSUPP:
        return NotSupported(
            what,
            "this kernel has Landlock, but it was not switched on at boot",
            "boot with landlock in lsm= (cat /sys/kernel/security/lsm shows the others), or take landlock out",
        )
    name = errorcode.get(-abi, str(abi))
    return NotSupported(
        what,
        f"landlock_create_ruleset(2) fails with {name}, as a seccomp filter from outside makes it",
        "run outside of it, or take landlock out",
    )
