"""Impossible combinations in a Spec, found before anything is done: a list of small functions."""

from __future__ import annotations

import os

from nstool import uapi
from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.security import capabilities as caps
from nstool.spec.model import (
    Capabilities,
    IdMap,
    Ipc,
    Landlock,
    LandlockRule,
    Limits,
    Mount,
    Namespaces,
    Net,
    Publish,
    Root,
    Seccomp,
    SeccompCall,
    SeccompWhere,
    Spec,
)
from nstool.spec.values import MOUNT_TYPES, PROPAGATION, nearest, quoted, seccomp_is_file, size_text, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import NoReturn

    Path = tuple[str | int, ...]
    Place = Callable[[Path], str]

SECUREBITS: tuple[str, ...] = tuple(
    name.removeprefix("SECURE_").lower() for name in vars(uapi) if name.startswith("SECURE_")
)
# The words that a key can have, by class and field of the model; the JSON Schema lists them too.
CHOICES: dict[str, tuple[str, ...]] = {
    "Root.type": ("system", "host", "directory", "overlay", "tmpfs", "tarball"),
    "Mount.type": MOUNT_TYPES,
    "Mount.propagation": ("", *PROPAGATION),
    "Publish.protocol": ("tcp", "udp"),
    "Net.mode": ("none", "loopback", "veth", "bridge", "join", "host"),
    "Spec.mount_propagation": PROPAGATION,
    "Spec.proc": ("private", "none", "bind"),
    "Spec.hidepid": ("off", "noaccess", "invisible", "ptraceable"),
    "Spec.proc_subset": ("", "pid"),
    "Spec.dev": ("private", "nodes", "none", "bind"),
    "Spec.keyring": ("new", "keep"),
    "Spec.terminal": ("auto", "never", "always"),
    "Spec.aslr": ("", "on", "off"),
    "Spec.personality": ("", "linux32"),
    "Seccomp.action": ("", "errno", "kill", "log"),
    "SeccompWhere.op": ("==", "!=", "<", "<=", ">", ">="),
}
SECCOMP_BASES = ("default", "strict", "none", "empty")
MAX_CORES = 4096
MIN_MEMORY = 128 << 10  # bytes: with so few init is killed before the command begins
MIN_CORES = 0.01  # the smallest quota of the cpu controller is 1 ms in a period of 100 ms
MAX_ID = 0xFFFFFFFE  # 4294967295 is (uid_t) -1, "no id"
MAX_ID_LINES = 340  # user_namespaces(7): lines of a map since Linux 4.15
MAX_NAME = 64  # __NEW_UTS_LEN: bytes of a host name
MAX_PID = 1 << 22  # PID_MAX_LIMIT on 64 bits
MAX_OFFSET = 9223372036 // 2  # seconds: KTIME_SEC_MAX / 2, kernel/time/namespace.c
MAX_LINK = 15  # IFNAMSIZ - 1: bytes of a network device's name


def key_path(path: Path) -> str:
    """Write a key path as TOML and people do: ("mounts", 0, "target") is mounts[0].target."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        bare = part.isascii() and part.replace("-", "_").isidentifier()
        text += ("." if text else "") + (part if bare else quoted(part))
    return text


def check(spec: Spec, place: Place = key_path) -> None:
    """Raise SpecError for the first thing in spec that no host can do.

    place: turns a key path into the place for the message, as "web.toml:12: limits.memory" or "--memory".
    What only this host cannot do is the business of preflight.
    """
    check_is_spec(spec)
    for rule in CHECKS:
        try:
            rule(spec)
        except _Wrong as wrong:
            raise SpecError(wrong.message, place(wrong.path)) from None


def check_is_spec(value: object) -> None:
    """Raise SpecError for what is no Spec at all."""
    if not isinstance(value, Spec):
        raise SpecError(f'a Spec is wanted, not {type(value).__name__}: Spec(command=("sh", "-c", "id"))')


class _Wrong(Exception):
    """What is wrong, and the key path where."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def _fail(path: Path, message: str) -> NoReturn:
    raise _Wrong(path, message)


def _needs_new(spec: Spec, kind: str, path: Path, what: str) -> None:
    """Refuse a setting whose namespace is not made for this sandbox."""
    if getattr(spec.namespaces, kind) != "new":
        _fail(path, f"{what} needs a new {kind} namespace, {KINDS[kind].man}")


def _written(record: Frozen, key: str) -> bool:
    """Whether a key has another value than when nothing is written."""
    return bool(getattr(record, key) != record.__defaults__[key])


def _one_of(path: Path, value: str, choices: Collection[str], what: str) -> None:
    if value not in choices:
        _fail(path, f"{quoted(value)} is no {what}{suggest(value, (c for c in choices if c))}")


def _between(path: Path, value: float, low: float, high: float, what: str) -> None:
    if not low <= value <= high:
        _fail(path, f"{what} must lie between {low} and {high}, not {value}")


def _absolute(path: Path, value: str, what: str) -> None:
    """Refuse a path that is relative or goes up: it would mean something else later."""
    if not value.startswith("/"):
        _fail(path, f'{what} {quoted(value)} is relative; write it from "/" on')
    if ".." in value.split("/"):
        _fail(path, f'{what} {quoted(value)} contains ".."; write where it leads')
    if len(data := os.fsencode(value)) >= 4096 or any(len(name) > 255 for name in data.split(b"/")):
        _fail(path, f"{what} {quoted(value)} is too long: a path has at most 4095 bytes, a name in it 255")


def _normal(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _leaves(value: object, path: Path) -> Iterable[tuple[Path, object]]:
    """Every plain value in a record that is not its default, with its key path; keys of tables too."""
    if isinstance(value, Frozen):
        for name in value.__fields__:
            item = getattr(value, name)
            if item is not value.__defaults__.get(name):
                yield from _leaves(item, (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield (*path, name), name
            yield from _leaves(item, (*path, name))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _types(spec: Spec) -> None:
    """Refuse a value of a type that the model does not have: a program may have put in anything."""
    _type((), spec, "Spec")


def _type(path: Path, value: object, hint: str) -> None:
    """hint: an annotation of the model, as it is written there."""
    if hint.endswith(" | None"):
        if value is None:
            return
        hint = hint.removesuffix(" | None")
    if hint == "str | Seccomp":
        hint = "Seccomp" if isinstance(value, Seccomp) else "str"
    kind, _, inner = hint.removesuffix("]").partition("[")
    wanted = _TYPES[kind]
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind != "bool"):
        _fail(path, f"must be of type {hint}, not {type(value).__name__}; nstool.spec.model has the types")
    if isinstance(value, Frozen):
        for name in value.__fields__:
            item = getattr(value, name)
            if name not in value.__defaults__ or item is not value.__defaults__[name]:
                _type((*path, name), item, value.__annotations__[name])
    elif isinstance(value, dict):
        for key, item in value.items():
            _type(path, key, "str")
            _type((*path, key), item, inner.partition(", ")[2])
    elif isinstance(value, tuple):
        item_hint, _, last = inner.rpartition(", ")
        if last != "..." and len(value) != 2:
            _fail(path, f"must be two values, not {len(value)}")
        for index, item in enumerate(value):
            _type((*path, index), item, item_hint)


_RECORDS = (
    *(Spec, Root, Mount, Limits, Net, Publish, Namespaces, Capabilities, Ipc, IdMap),
    *(Landlock, LandlockRule),
    *(Seccomp, SeccompCall, SeccompWhere),
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    **{cls.__name__: cls for cls in _RECORDS},
    **{cls.__name__: cls for cls in (str, bool, int, dict, tuple)},
    "float": (float, int),
}


def _plain(spec: Spec) -> None:
    for path, value in _leaves(spec, ()):
        if isinstance(value, str):
            if "\0" in value:
                _fail(path, "contains a NUL byte, which ends a string for the kernel")
            try:
                value.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                _fail(path, "contains half a surrogate pair, which is no text")
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            _fail(path, "the number does not fit into 64 bits")


def _choices(spec: Spec) -> None:
    records: list[tuple[Path, Frozen]] = [((), spec), (("root",), spec.root), (("net",), spec.net)]
    records += [(("mounts", i), mount) for i, mount in enumerate(spec.mounts)]
    records += [(("net", "publish", i), port) for i, port in enumerate(spec.net.publish)]
    if isinstance(spec.seccomp, Seccomp):
        records.append((("seccomp",), spec.seccomp))
        records += [
            (path, where) for path, entry in _seccomp_entries(spec.seccomp) for path, where in _wheres(path, entry)
        ]
    for path, record in records:
        for key, choices in _CHOICES_OF[type(record).__name__]:
            _one_of((*path, key), getattr(record, key), choices, f"known {key}")


_CHOICES_OF: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
for _key, _words in CHOICES.items():
    _class, _, _field = _key.partition(".")
    _CHOICES_OF.setdefault(_class, []).append((_field, _words))


def _command(spec: Spec) -> None:
    if not spec.command:
        _fail(("command",), "no command; write command = [...] or -- CMD ARGS")
    if not spec.command[0]:
        _fail(("command", 0), "the name of the command is empty")


def _name(spec: Spec) -> None:
    if spec.name and not _is_name(spec.name):
        _fail(
            ("name",),
            f"{quoted(spec.name)} must be 1 to 63 lower case letters, digits, -, _ or ., "
            "and begin with a letter or digit",
        )


def _is_name(name: str) -> bool:
    """Whether a sandbox can have this name."""
    plain = name.isascii() and name == name.lower() and _only(name, "-_.")
    return plain and 0 < len(name) <= 63 and name[0].isalnum()


def _only(name: str, others: str) -> bool:
    return all(c.isalnum() or c in others for c in name)


def _uts(spec: Spec) -> None:
    for key in ("hostname", "domainname"):
        name = getattr(spec, key)
        if not name:
            continue
        _needs_new(spec, "uts", (key,), key)
        length = len(name.encode("utf-8", "surrogateescape"))
        if length > MAX_NAME:
            _fail((key,), f"{length} bytes; a {key} has at most {MAX_NAME}, uname(2)")
        if any(c.isspace() or not c.isprintable() for c in name):
            _fail((key,), f"{quoted(name)} contains white space or a control character")


def _namespaces(spec: Spec) -> None:
    for kind in KINDS:
        value = getattr(spec.namespaces, kind)
        path: Path = ("namespaces", kind)
        if value in ("new", "host"):
            continue
        if value.isdecimal():
            _between(path, _number(value), 1, MAX_PID, "a pid")
        elif not value.startswith("/") and not _is_name(value):
            hint = suggest(value, ("new", "host"))
            _fail(path, f'{quoted(value)} is neither "new" nor "host" nor a path, a pid or a sandbox{hint}')


def _root(spec: Spec) -> None:
    root = spec.root
    if root.type not in ("system", "host"):
        _needs_new(spec, "mnt", ("root",), f"root of type {root.type}")
    if root.type in ("system", "host") and spec.namespaces.mnt != "new" and root.writable:
        _needs_new(spec, "mnt", ("root", "writable"), "a writable root")
    if root.type in ("directory", "tarball"):
        if not root.path:
            _fail(("root", "path"), f"root of type {root.type} needs a path")
        _absolute(("root", "path"), root.path, "root")
        if _normal(root.path) == "/":
            _fail(("root", "path"), f'"/" is no {root.type} to give away; type = "host" shows it read-only')
    elif root.path:
        _fail(("root", "path"), f"root of type {root.type} has no path")
    _overlay(("root",), root.type == "overlay", root.lower, root.upper)
    if root.upper and not root.writable:
        _fail(("root", "upper"), "upper keeps what is written, but the root is read-only; write writable = true")
    if root.idmap and root.type not in ("directory", "overlay"):
        _fail(("root", "idmap"), f"root of type {root.type} belongs to the sandbox already; idmap is for directories")
    if root.idmap:
        _needs_new(spec, "user", ("root", "idmap"), "idmap")
    _between(("root", "size"), root.size, 0, 1 << 62, "size in bytes")
    if _written(root, "size") and root.type == "system" and not root.writable:
        _fail(("root", "size"), "nothing is written to a read-only root; write writable = true, or leave size out")
    if _written(root, "size") and (root.type in ("host", "directory") or root.upper):
        what = "with an upper layer" if root.upper else f"of type {root.type}"
        _fail(("root", "size"), f"a root {what} has no size of its own: it lies on the host; leave size out")
    if root.size == 0 and root.type == "tmpfs":
        _fail(("root", "size"), "a tmpfs without limit can fill the memory of the host; give it a size, tmpfs(5)")


def _overlay(path: Path, wanted: bool, lower: tuple[str, ...], upper: str) -> None:
    if not wanted and (lower or upper):
        key = "lower" if lower else "upper"
        _fail((*path, key), f'{key} is a layer of an overlay; write type = "overlay", --root LOWER:LOWER')
    if wanted and not lower:
        _fail((*path, "lower"), "an overlay needs at least one lower directory")
    for index, layer in enumerate(lower):
        _absolute((*path, "lower", index), layer, "layer")
    if upper:
        _absolute((*path, "upper"), upper, "layer")
        if _normal(upper) in map(_normal, lower):
            _fail((*path, "upper"), "the upper layer is also a lower one")


def _mounts(spec: Spec) -> None:
    earlier: dict[str, int] = {}
    for index, mount in enumerate(spec.mounts):
        path: Path = ("mounts", index)
        _needs_new(spec, "mnt", path, "a mount")
        _absolute((*path, "target"), mount.target, "target")
        target = _normal(mount.target)
        if target == "/":
            _fail((*path, "target"), 'the target "/" is the root; write it as root')
        if target in earlier:
            _fail((*path, "target"), f"mounts[{earlier[target]}] is on {target} already")
        for other, place in earlier.items():
            if other.startswith(target + "/"):
                _fail((*path, "target"), f"{target} would hide mounts[{place}] on {other}; write it before that one")
        earlier[target] = index
        _mount(spec, path, mount)


def _mount(spec: Spec, path: Path, mount: Mount) -> None:
    if mount.type == "bind":
        if not mount.source:
            _fail((*path, "source"), "a bind mount needs a source")
        _absolute((*path, "source"), mount.source, "source")
    elif mount.source:
        _fail((*path, "source"), f'{mount.type} has no source; a bind mount has: type = "bind"')
    _overlay(path, mount.type == "overlay", mount.lower, mount.upper)
    if mount.upper and not mount.writable:
        _fail((*path, "upper"), "upper keeps what is written, but the mount is read-only; write writable = true")
    if mount.idmap and mount.type != "bind":
        _fail((*path, "idmap"), f"idmap is for bind mounts, not for {mount.type}")
    if mount.idmap:
        _needs_new(spec, "user", (*path, "idmap"), "idmap")
    _between((*path, "size"), mount.size, 0, 1 << 62, "size in bytes")
    if mount.size and mount.type != "tmpfs":
        _fail((*path, "size"), f"size is for tmpfs, not for {mount.type}")
    _between((*path, "mode"), mount.mode, 0, 0o7777, "permission bits")
    if _written(mount, "mode") and mount.type != "tmpfs":
        _fail((*path, "mode"), f"mode is for tmpfs, not for {mount.type}")
    if mount.type == "proc":
        _needs_new(spec, "pid", path, "a proc of its own")
    if mount.type == "mqueue":
        _needs_new(spec, "ipc", path, "an mqueue of its own")


def _own_filesystems(spec: Spec) -> None:
    if spec.proc == "private" and spec.namespaces.pid not in ("new", "host"):
        joined = spec.namespaces.pid
        near = nearest(joined, ("new", "host"))
        hint = f", did you mean {quoted(near)}?" if near else ""
        _fail(
            ("namespaces", "pid"),
            f"{quoted(joined)} is a namespace that is joined{hint}; such a one has no private /proc: "
            'write proc = "none", or "bind" for the host\'s, which shows all processes of the host, proc(5)',
        )
    if spec.proc == "private":
        _needs_new(spec, "pid", ("proc",), "a private /proc")
    for key, kept in (("proc", "none"), ("dev", "none")):
        if getattr(spec, key) != kept:
            _needs_new(spec, "mnt", (key,), f'{key} = "{getattr(spec, key)}"')
    for key in ("hidepid", "proc_subset"):
        if _written(spec, key) and spec.proc != "private":
            _fail((key,), f'{key} needs a private /proc, but proc = "{spec.proc}", proc(5)')
    if _written(spec, "mount_propagation"):
        _needs_new(spec, "mnt", ("mount_propagation",), "mount_propagation")
    _between(("tmp_size",), spec.tmp_size, 0, 1 << 62, "size in bytes")
    if spec.tmp_size:
        _needs_new(spec, "mnt", ("tmp_size",), "a /tmp of its own")
    for key in ("mask_paths", "readonly_paths"):
        for index, hidden in enumerate(getattr(spec, key)):
            _needs_new(spec, "mnt", (key, index), key)
            _absolute((key, index), hidden, "path")
            if _normal(hidden) == "/":
                _fail((key, index), f'"/" cannot be in {key}')


def _cwd(spec: Spec) -> None:
    _absolute(("cwd",), spec.cwd, "cwd")


def _env(spec: Spec) -> None:
    for name in spec.env:
        if not name or "=" in name:
            _fail(("env", name), f'{quoted(name)} is no name of a variable: it must not be empty or contain "="')


def _numbers(spec: Spec) -> None:
    _between(("oom_score_adj",), spec.oom_score_adj, -1000, 1000, "oom_score_adj")
    if not 0 <= spec.umask <= 0o777:
        _fail(("umask",), f"umask must lie between 0 and 0o777, not {spec.umask:#o}, umask(2)")


def _pass_fds(spec: Spec) -> None:
    for index, fd in enumerate(spec.pass_fds):
        _between(("pass_fds", index), fd, 0, (1 << 31) - 1, "a file descriptor")
        if fd in spec.pass_fds[:index]:
            _fail(("pass_fds", index), f"file descriptor {fd} is passed twice")


def _limits(spec: Spec) -> None:
    limits = spec.limits
    for key in ("memory", "swap"):
        _between(("limits", key), getattr(limits, key), 0, 1 << 62, f"{key} in bytes")
    if 0 < limits.memory < MIN_MEMORY:
        size = f"{limits.memory} bytes are" if limits.memory > 1 else "1 byte is"
        what = f"{size} too few for the start itself"
        _fail(("limits", "memory"), f'{what}; write at least "{size_text(MIN_MEMORY)}", or 0 for no limit')
    if limits.swap and not limits.memory:
        _fail(("limits", "swap"), "swap is limited together with memory; give limits.memory too, cgroups(7)")
    _between(("limits", "pids"), limits.pids, 0, MAX_PID, "pids")
    if limits.pids == 1 and spec.init:
        _fail(("limits", "pids"), "init and the command are two tasks; allow at least 2, or write init = false")
    if limits.cpu:
        _between(("limits", "cpu"), limits.cpu, MIN_CORES, MAX_CORES, "cpu in cores")


def _rlimits(spec: Spec) -> None:
    for name, (soft, hard) in spec.limits.rlimits.items():
        path: Path = ("limits", "rlimits", name)
        _one_of(path, name, uapi.RLIMITS, "resource limit, getrlimit(2)")
        if soft < -1 or hard < -1:
            _fail(path, "a resource limit is at least 0, or -1 for no limit, getrlimit(2)")
        if hard != -1 and not -1 < soft <= hard:
            _fail(path, "the soft limit is above the hard one, getrlimit(2)")


def _ucounts(spec: Spec) -> None:
    usual = Limits().ucounts
    for name, most in spec.limits.ucounts.items():
        path: Path = ("limits", "ucounts", name)
        _one_of(path, name, uapi.UCOUNTS, "limit of a user namespace, namespaces(7)")
        if most != -1:
            _between(path, most, 0, (1 << 31) - 1, name)
        if most != usual.get(name):
            _needs_new(spec, "user", path, f"a limit of {name}")


def _net(spec: Spec) -> None:
    net, other = spec.net, spec.namespaces.net
    if (net.mode == "host") != (other == "host"):
        place: Path = ("net", "mode") if net.mode == "host" else ("namespaces", "net")
        _fail(place, f'net.mode = "{net.mode}" contradicts namespaces.net = {quoted(other)}; "host" belongs in both')
    if net.mode == "join" and not net.target:
        _fail(("net", "target"), 'mode "join" needs a target: a pid, a namespace file or the name of a netns, setns(2)')
    if net.target and net.mode != "join":
        _fail(("net", "target"), f'a target is for mode "join", not for "{net.mode}"')
    if other not in ("new", "host") and (net.mode, net.target) != ("join", other):
        _fail(("namespaces", "net"), f'joins {quoted(other)}, but net.mode is "{net.mode}"; write mode = "join"')
    if net.bridge and net.mode != "bridge":
        _fail(("net", "bridge"), f'a bridge is for mode "bridge", not for "{net.mode}"')
    bridge = net.bridge.encode("utf-8", "surrogateescape")
    if len(bridge) > MAX_LINK or any(c.isspace() or c in "/:" for c in net.bridge) or net.bridge in (".", ".."):
        _fail(("net", "bridge"), f"{quoted(net.bridge)} is no device name: 1 to {MAX_LINK} bytes without / : or space")


def _links(spec: Spec) -> None:
    """Addresses, routes and the rules for packets are for a network device of the sandbox's own."""
    net = spec.net
    for key in ("address", "gateway", "address6", "gateway6", "routes", "mtu", "nat", "ipv6", "isolated"):
        if _written(net, key) and net.mode not in ("veth", "bridge"):
            _fail(("net", key), f'{key} needs mode "veth" or "bridge", not "{net.mode}", veth(4)')
    if net.mtu:
        _between(("net", "mtu"), net.mtu, 1280 if net.ipv6 else 68, 65535, "mtu")
    for version, address, gateway in ((4, "address", "gateway"), (6, "address6", "gateway6")):
        _interface(spec, version, address, gateway)
    for index, (target, via) in enumerate(net.routes):
        if target != "default":
            _ip(("net", "routes", index), "network", target, "a network as 10.1.0.0/16")
        _ip(("net", "routes", index), "address", via, "the address of a gateway")


def _interface(spec: Spec, version: int, address: str, gateway: str) -> None:
    own, via = getattr(spec.net, address), getattr(spec.net, gateway)
    if via and not own:
        _fail(("net", gateway), f"a gateway needs an address on the same network; write {address} too")
    if own and "/" not in own:
        _fail(("net", address), f"{quoted(own)} lacks the length of its network, as in 10.1.2.3/30")
    for key, value in ((address, own), (gateway, via)):
        if value and _ip(("net", key), "interface", value, "an address as 10.1.2.3/30").version != version:  # type: ignore[attr-defined]
            _fail(("net", key), f"{quoted(value)} is not an IPv{version} address")
    if own and not via:
        from nstool.network.plan import first_other

        if not first_other(own):
            _fail(("net", address), f"{quoted(own)} has no room for the host's end; write a network of two or more")
    if own and via:
        from ipaddress import ip_interface

        if ip_interface(via).ip not in ip_interface(own).network:
            _fail(("net", gateway), f"{quoted(via)} is not on the network of {quoted(own)}")


def _ip(path: Path, form: str, text: str, what: str) -> object:
    """Return what ipaddress makes of text. form: "address", "interface" or "network"."""
    import ipaddress  # late: it costs 5 ms

    try:
        return getattr(ipaddress, f"ip_{form}")(text)
    except ValueError:
        _fail(path, f"{quoted(text)} is not {what}")


def _publish(spec: Spec) -> None:
    ports = spec.net.publish
    for index, port in enumerate(ports):
        path: Path = ("net", "publish", index)
        if spec.net.mode not in ("veth", "bridge"):
            _fail(path, f'a published port needs net mode "veth" or "bridge", not "{spec.net.mode}", veth(4)')
        for key in ("host", "inside"):
            _between((*path, key), getattr(port, key), 1, 65535, "a port")
        if port.address:
            _ip((*path, "address"), "address", port.address, "an IP address")
        for other in ports[:index]:
            if _same_port(port, other):
                _fail(path, f"port {port.host}/{port.protocol} of the host is published twice")


def _same_port(one: Publish, two: Publish) -> bool:
    same = (one.host, one.protocol) == (two.host, two.protocol)
    return same and (one.address == two.address or not one.address or not two.address)


def _resolver(spec: Spec) -> None:
    for key, path in (("dns", "/etc/resolv.conf"), ("hosts", "/etc/hosts")):
        if getattr(spec.net, key):
            _needs_new(spec, "mnt", ("net", key, 0), f"{key}, a file in /etc,")
            for number, mount in enumerate(spec.mounts):
                if _normal(mount.target) == path:
                    _fail(("net", key, 0), f"mounts[{number}] is on {path}; write it there, or leave the mount out")
    for index, server in enumerate(spec.net.dns):
        _ip(("net", "dns", index), "address", server, "the address of a name server, resolv.conf(5)")
    for index, (address, name) in enumerate(spec.net.hosts):
        _ip(("net", "hosts", index), "address", address, "an address, hosts(5)")
        if not name or any(c.isspace() or not c.isprintable() or c == "#" for c in name):
            _fail(("net", "hosts", index), f"{quoted(name)} is no host name, hosts(5)")


def _sysctls(spec: Spec) -> None:
    for name, value in spec.net.sysctls.items():
        path: Path = ("net", "sysctls", name)
        if spec.net.mode in ("host", "join"):
            _fail(path, f'a sysctl needs a new net namespace, not mode "{spec.net.mode}", network_namespaces(7)')
        parts = name.replace("/", ".").split(".")
        if parts[0] != "net" or len(parts) < 2 or "" in parts or not _only(name, "._-/"):
            _fail(path, f"{quoted(name)} is not of a net namespace; only net.* are, network_namespaces(7)")
        if "\n" in value:
            _fail(path, "the value contains a line break")


def _ids(spec: Spec) -> None:
    for key in ("uid_map", "gid_map"):
        lines: tuple[IdMap, ...] = getattr(spec, key)
        if lines:
            _needs_new(spec, "user", (key, 0), key)
        if len(lines) > MAX_ID_LINES:
            _fail((key, MAX_ID_LINES), f"{len(lines)} lines; a map has at most {MAX_ID_LINES}, user_namespaces(7)")
        for index, line in enumerate(lines):
            _id_line((key, index), line)
            for side in ("inside", "outside"):
                _overlap((key, index), side, line, lines[:index])


def _id_line(path: Path, line: IdMap) -> None:
    if line.count < 1:
        _fail(path, "a range of no ids; count is at least 1, user_namespaces(7)")
    for side in ("inside", "outside"):
        first = getattr(line, side)
        _between((*path, side), first, 0, MAX_ID, "an id")
        if first + line.count - 1 > MAX_ID:
            _fail((*path, "count"), f"the range ends above {MAX_ID}, the last id, user_namespaces(7)")
    if line.outside == 0 and line.count > 1:
        _fail(path, f'the range includes host id 0, root; if that is meant, say so with a line "{line.inside}:0:1"')


def _overlap(path: Path, side: str, line: IdMap, earlier: tuple[IdMap, ...]) -> None:
    first = getattr(line, side)
    for index, other in enumerate(earlier):
        start = getattr(other, side)
        if first < start + other.count and start < first + line.count:
            _fail(path, f"overlaps line {index + 1} of the map {side} the sandbox, user_namespaces(7)")


def _user(spec: Spec) -> None:
    uid, colon, gid = spec.user.partition(":")
    if not uid or (colon and not gid) or ":" in gid:
        _fail(("user",), f'{quoted(spec.user)} is not of the form "uid", "uid:gid" or "name"')
    for name in (uid, gid) if colon else (uid,):
        _id_name(("user",), name)
    # Who has not said a user wrote the map.
    _mapped(("user",) if _written(spec, "user") else ("uid_map", 0), uid, spec.uid_map, "user")
    _mapped(("user",) if _written(spec, "user") else ("gid_map", 0), gid, spec.gid_map, "group")
    if "keep" in spec.groups and len(spec.groups) > 1:
        _fail(("groups",), '"keep" keeps the caller\'s groups and stands alone')
    for index, group in enumerate(spec.groups):
        _id_name(("groups", index), group)
        if group in spec.groups[:index]:
            _fail(("groups", index), f"group {quoted(group)} twice")
        _mapped(("groups", index), group, spec.gid_map, "group")
    if "keep" in spec.groups and sum(line.count for line in spec.gid_map) > 1:
        _fail(
            ("groups", 0),
            '"keep" leaves the caller\'s host groups in force, but gid_map gives ranges; name the groups inside',
        )


def _number(text: str) -> int:
    """Return what digits say, or -1 for those of another script and for more than 64 bits hold."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else -1


def _id_name(path: Path, name: str) -> None:
    if name.removeprefix("-").isdecimal():
        if not 0 <= _number(name) <= MAX_ID:
            _fail(path, f"{quoted(name)} is no id: 0 to {MAX_ID}")
    elif not name or any(c.isspace() or not c.isprintable() or c in ":/" for c in name) or name.startswith("-"):
        _fail(path, f"{quoted(name)} is neither an id nor a name, passwd(5)")


def _mapped(path: Path, name: str, lines: tuple[IdMap, ...], what: str) -> None:
    """Refuse an id that the map lacks: setresuid(2) would fail with EINVAL."""
    if lines and name.isdecimal() and not any(m.inside <= int(name) < m.inside + m.count for m in lines):
        key = "uid_map" if what == "user" else "gid_map"
        option = "--groups" if path[0] == "groups" else "--user"
        _fail(path, f"{what} {name} is not in {key}; map it, or choose another ({option}), user_namespaces(7)")


def _capabilities(spec: Spec) -> None:
    sets = spec.capabilities
    for key in sets.__fields__:
        names = getattr(sets, key)
        for index, name in enumerate(names):
            _one_of(("capabilities", key, index), name, uapi.CAPABILITIES, "capability, capabilities(7)")
            if name in names[:index]:
                _fail(("capabilities", key, index), f"{name} twice")
    for key, other in (
        ("effective", "permitted"),
        ("inheritable", "bounding"),
        ("ambient", "permitted"),
        ("ambient", "inheritable"),
    ):
        for index, name in enumerate(getattr(sets, key)):
            if name not in getattr(sets, other):
                _fail(("capabilities", key, index), f"{key} {name} must be {other} too, capabilities(7)")


def _after_execve(spec: Spec) -> None:
    """Refuse sets that execve(2) would change: what the spec says is what the command has."""
    uid = spec.user.partition(":")[0]
    if not uid.isdigit():  # checked again when the name has been looked up
        return
    root = int(uid) == 0 and "noroot" not in spec.securebits
    asked = {key: caps.mask(getattr(spec.capabilities, key)) for key in caps.SETS}
    after = caps.after_execve(asked, root=root, no_new_privs=spec.no_new_privs)
    rule = 'capabilities(7), "Transformation of capabilities during execve()"'
    source = "bounding" if root else "ambient"
    who = f"uid {int(uid)}" if int(uid) else f"uid 0 {'without' if root else 'with'} the securebit noroot"
    for key in ("permitted", "effective"):
        for name in caps.names(asked[key] & ~after[key]):
            more = "" if root else f", inheritable and bounding too (--cap {name}: in all five sets)"
            path: Path = ("capabilities", key, getattr(spec.capabilities, key).index(name))
            _fail(path, f"execve(2) leaves {who} only what is {source}: write {name} in {source}{more}, {rule}")
        for name in caps.names(after[key] & ~asked[key]):
            path = ("capabilities", source, getattr(spec.capabilities, source).index(name))
            out = f"write {name} in {key} too, or not in {source}"
            _fail(path, f"execve(2) makes what is {source} {key} for {who}: {out}, {rule}")


def _securebits(spec: Spec) -> None:
    bits = spec.securebits
    for index, bit in enumerate(bits):
        path: Path = ("securebits", index)
        _one_of(path, bit, SECUREBITS, "securebit, capabilities(7)")
        if bit in bits[:index]:
            _fail(path, f"{bit} twice")
        base = bit.removesuffix("_locked")
        if bit == "keep_caps":
            _fail(path, "execve(2) clears keep_caps, so that the command never has it; keep_caps_locked is possible")
        if base != bit and base != "keep_caps" and base not in bits:
            _fail(path, f"{bit} locks {base} at off for good; add {base}, or leave the lock out, capabilities(7)")


def _seccomp_entries(words: Seccomp) -> list[tuple[Path, SeccompCall]]:
    return [(("seccomp", key, i), entry) for key in ("allow", "refuse") for i, entry in enumerate(getattr(words, key))]


def _wheres(path: Path, entry: SeccompCall) -> list[tuple[Path, SeccompWhere]]:
    return [((*path, "where", i), where) for i, where in enumerate(entry.where)]


def _seccomp_list(spec: Spec) -> None:
    words = spec.seccomp
    if isinstance(words, str):
        _seccomp_base(("seccomp",), words, ("default", "strict", "none"))
        return
    from nstool.security import seccomp_lists  # late: most launches have no list of their own

    _seccomp_base(("seccomp", "base"), words.base, SECCOMP_BASES)
    for path, entry in _seccomp_entries(words):
        if wrong := seccomp_lists.check_entry(entry):
            _fail(path, wrong)
    try:
        seccomp_lists.check_words(words)
    except SpecError as error:
        key, _, index = error.place.rstrip("]").partition("[")
        _fail(("seccomp", key, *([int(index)] if index else [])), error.message)


def _seccomp_base(path: Path, word: str, names: tuple[str, ...]) -> None:
    if seccomp_is_file(word):
        _absolute(path, word, "the list")
    elif word not in names:
        _fail(path, f'{quoted(word)} is neither a list that there is nor a path with a "/"{suggest(word, names)}')


def _seccomp(spec: Spec) -> None:
    if spec.seccomp != "none" and not spec.no_new_privs and "sys_admin" not in spec.capabilities.effective:
        _fail(
            ("no_new_privs",),
            "a filter needs no_new_privs = true or the effective capability sys_admin; "
            'seccomp = "none" (--seccomp none) goes without a filter, seccomp(2)',
        )


def _landlock(spec: Spec) -> None:
    if spec.landlock == Landlock():
        return
    from nstool.security import landlock

    rules = spec.landlock
    if not landlock.wanted(rules):
        _fail(("landlock", "flags"), "flags alone restrict nothing: write what is allowed too, or leave them out")
    for key in landlock.LISTS:
        for index, name in enumerate(getattr(rules, key) or ()):
            _absolute(("landlock", key, index), name, "path")
    for index, rule in enumerate(rules.rules):
        _absolute(("landlock", "rules", index, "path"), rule.path, "path")
        if not rule.allow:
            _fail(("landlock", "rules", index, "allow"), "a rule that allows nothing: name a right, or leave it out")
        _known_once(("landlock", "rules", index, "allow"), rule.allow, landlock.FS, "right of Landlock, landlock(7)")
    for key in ("tcp_bind", "tcp_connect"):
        for index, port in enumerate(getattr(rules, key) or ()):
            _between(("landlock", key, index), port, 0, 65535, "a port")
    _known_once(("landlock", "scope"), rules.scope, landlock.SCOPES, "scope of Landlock, landlock(7)")
    _known_once(("landlock", "flags"), rules.flags, landlock.FLAGS, "flag, landlock_restrict_self(2)")
    if not spec.no_new_privs and "sys_admin" not in spec.capabilities.effective:
        _fail(
            ("no_new_privs",),
            "landlock needs no_new_privs = true or the effective capability sys_admin, landlock_restrict_self(2)",
        )


def _known_once(path: Path, names: tuple[str, ...], known: Collection[str], what: str) -> None:
    for index, name in enumerate(names):
        _one_of((*path, index), name, known, what)
        if name in names[:index]:
            _fail((*path, index), f"{name} twice")


def _labels(spec: Spec) -> None:
    profile = spec.apparmor.removeprefix("stack ").removeprefix("exec ")
    if spec.apparmor and (not profile or profile != profile.strip() or not profile.isprintable()):
        _fail(("apparmor",), f'{quoted(spec.apparmor)} is no profile: write "PROFILE" or "stack PROFILE"; aa-status(8)')
    if not spec.selinux:
        return
    user, role, kind, *_ = (*spec.selinux.split(":", 3), "", "", "")
    if not (user and role and kind) or any(c.isspace() or not c.isprintable() for c in spec.selinux):
        _fail(("selinux",), f'{quoted(spec.selinux)} is no context: write "user:role:type:level", as ps -Z shows them')


def _time(spec: Spec) -> None:
    for key in ("monotonic_offset", "boottime_offset"):
        offset = getattr(spec.namespaces, key)
        if offset:
            _needs_new(spec, "time", ("namespaces", key), key)
            _between(("namespaces", key), offset, -MAX_OFFSET, MAX_OFFSET, "seconds, time_namespaces(7),")


def _ipc(spec: Spec) -> None:
    for key in spec.ipc.__fields__:
        value = getattr(spec.ipc, key)
        if not value:
            continue
        _needs_new(spec, "ipc", ("ipc", key), key)
        if key == "sem":
            numbers = value.split()
            if len(numbers) != 4 or not all(0 <= _number(n) < 1 << 31 for n in numbers):
                _fail(("ipc", key), 'four numbers, "SEMMSL SEMMNS SEMOPM SEMMNI", proc_sys_kernel(5)')
        else:
            wide = key in ("shmmax", "shmall")  # unsigned long; the others are int
            _between(("ipc", key), value, 0, (1 << 63) - 1 if wide else (1 << 31) - 1, key)


def _next_pid(spec: Spec) -> None:
    if not spec.next_pid:
        return
    path: Path = ("next_pid",)
    _needs_new(spec, "pid", path, "next_pid")
    _between(path, spec.next_pid, 1, MAX_PID, "a pid")
    if spec.init and spec.next_pid == 1:
        _fail(path, "pid 1 is init; write 2 or more, or init = false, pid_namespaces(7)")
    if not spec.init and spec.next_pid != 1:
        _fail(path, "the first process of a pid namespace has pid 1, clone(2), set_tid; write init = true")


CHECKS: tuple[Callable[[Spec], None], ...] = (
    _types,
    _plain,
    _choices,
    _command,
    _name,
    _namespaces,
    _uts,
    _root,
    _mounts,
    _own_filesystems,
    _cwd,
    _env,
    _numbers,
    _pass_fds,
    _limits,
    _rlimits,
    _ucounts,
    _net,
    _links,
    _publish,
    _resolver,
    _sysctls,
    _ids,
    _user,
    _capabilities,
    _after_execve,
    _securebits,
    _seccomp_list,
    _seccomp,
    _landlock,
    _labels,
    _time,
    _ipc,
    _next_pid,
)
