"""The steps that put the command into a Landlock domain. Pure. landlock(7)."""

from __future__ import annotations

from errno import EINVAL

from nstool import uapi
from nstool.plan.steps import PAYLOAD, Fd, Step
from nstool.security import landlock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nstool.plan.host import Host
    from nstool.spec.model import Landlock, Spec

RULESET = Fd("landlock")
_PATH = Fd("allowed")
# Symlinks lead where they lead inside, for /bin may be one; the links of /proc/PID lead out of any tree.
_FLAGS = uapi.O_PATH | uapi.O_CLOEXEC
_PORTS = {"tcp_bind": uapi.LANDLOCK_ACCESS_NET_BIND_TCP, "tcp_connect": uapi.LANDLOCK_ACCESS_NET_CONNECT_TCP}


def steps(spec: Spec, host: Host) -> tuple[Step, ...]:
    """Return the payload's steps: the ruleset, its rules, and the restriction.

    With the command's own credentials, as all steps after its ids: what it cannot reach it needs no rule for, and
    init's rights would only tell it whether a path exists. The opening must not come after the restriction, nor that
    before no_new_privs. Raises NotSupported for what the kernel's ABI lacks of what the spec asks for by name.
    """
    rules = spec.landlock
    if problem := landlock.lacking(rules, host.landlock):
        raise problem
    files = landlock.handled(host.landlock) if landlock.files_wanted(rules) else 0
    net = sum(bit for key, bit in _PORTS.items() if getattr(rules, key) is not None)
    scoped = sum(landlock.SCOPES[name] for name in rules.scope)
    flags = sum(landlock.FLAGS[name] for name in rules.flags)
    paths = tuple(_path_steps(rules, files))
    opened = (_PATH, RULESET) if paths else (RULESET,)
    return (
        Step(PAYLOAD, "landlock_create_ruleset", (files, net, scoped), _why(rules, host.landlock), result=RULESET.name),
        *paths,
        *_port_steps(rules),
        Step(PAYLOAD, "landlock_restrict_self", (RULESET, flags), "what no rule allows is refused from here on"),
        *(Step(PAYLOAD, "close", (fd,), "no fd but the command's own is open at its exec") for fd in opened),
    )


def _why(rules: Landlock, abi: int) -> str:
    why = "what is refused unless a rule allows it"
    missing = landlock.unhandled(abi) if landlock.files_wanted(rules) else ()
    return f"{why}; not {', '.join(missing)}, which this kernel (ABI {abi}) cannot refuse" if missing else why


def notes(spec: Spec, host: Host) -> tuple[str, ...]:
    """Return what this kernel's ABI cannot refuse, though the lists of paths mean it."""
    missing = landlock.unhandled(host.landlock) if landlock.files_wanted(spec.landlock) else ()
    return tuple(
        f"landlock: {name} is not refused anywhere: it needs version {since} of Landlock's ABI (Linux "
        f"{landlock.LINUX[since]}), this kernel's is {host.landlock}"
        for name in missing
        for since in [landlock.SINCE[name]]
    )


def _path_steps(rules: Landlock, handled: int) -> Iterator[Step]:
    for path, bits in _listed(rules).items():
        yield _open(path)
        yield _allow(bits & handled & landlock.mask(landlock.OF_FILES), "the rights of files")
        beyond = bits & handled & ~landlock.mask(landlock.OF_FILES)
        if beyond:  # the kernel adds the rules of one path up
            yield _allow(beyond, "those of directories; EINVAL: it is none", ignore=EINVAL)
    for rule in rules.rules:
        yield _open(rule.path)
        yield _allow(landlock.mask(rule.allow), "the rights that the spec names")


def _listed(rules: Landlock) -> dict[str, int]:
    """Return the paths of the lists with all that they allow there."""
    found: dict[str, int] = {}
    for key, names in landlock.LISTS.items():
        for path in getattr(rules, key) or ():
            found[path] = found.get(path, 0) | landlock.mask(names)
    return found


def _open(path: str) -> Step:
    args = (uapi.AT_FDCWD, path, _FLAGS, 0, uapi.RESOLVE_NO_MAGICLINKS)
    return Step(PAYLOAD, "openat2", args, "a path that Landlock allows something at", result=_PATH.name)


def _allow(bits: int, why: str, ignore: int = 0) -> Step:
    args = (RULESET, uapi.LANDLOCK_RULE_PATH_BENEATH, bits, _PATH, 0)
    return Step(PAYLOAD, "landlock_add_rule", args, why, ignore=ignore)


def _port_steps(rules: Landlock) -> Iterator[Step]:
    ports: dict[int, int] = {}
    for key, bit in _PORTS.items():
        for port in getattr(rules, key) or ():
            ports[port] = ports.get(port, 0) | bit
    for port, bits in ports.items():
        args = (RULESET, uapi.LANDLOCK_RULE_NET_PORT, bits, -1, port)
        yield Step(PAYLOAD, "landlock_add_rule", args, f"TCP port {port}")
