"""Words for steps: the call as a person would write it, with names instead of numbers."""

from __future__ import annotations

from nstool import uapi
from nstool.errors import escaped
from nstool.plan.calls import CALLS
from nstool.plan.steps import Fd, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_INNER = {"write_file": ("open", "write", "close"), "write_proc": ("open", "write", "close")}
LONGEST = 100  # characters of one string argument, unless told otherwise
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF

# Arguments that the kernel takes in a struct: parameters from this one on are shown by name, and left out
# when they ask for nothing.
_STRUCTS = {
    "openat2": "flags",
    "mount_setattr": "attr_set",
    "clone3": "flags",
    "capset": "effective",
    "landlock_create_ruleset": "handled_access_fs",
    "landlock_add_rule": "allowed_access",
}
_NOTHING = (0, -1)


def call_text(step: Step, detail: int = 0, longest: int = LONGEST) -> str:
    """Return the call with its arguments: ``move_mount(<proc>, "", <at>, "", MOVE_MOUNT_F_EMPTY_PATH|…)``.

    detail: number of the call inside the step, of those that make several. longest: characters that
    are shown of one string; what is cut ends in "…".
    """
    inner = _INNER.get(step.call, ())
    prefix = f"{inner[detail]} in " if 0 < detail < len(inner) else ""
    result = f"{step.result} = " if step.result else ""
    if step.call == "external":
        name, args = step.args
        assert isinstance(args, dict)
        return f"{name!s}({', '.join(f'{k}={_plain(v, longest)}' for k, v in args.items())})"
    return f"{prefix}{result}{step.call}({', '.join(_words(step, longest))})"


def arguments(step: Step, longest: int = 1 << 30) -> dict[str, str]:
    """Return each argument in words, by parameter name; empty for an external step."""
    if step.call == "external":
        return {}
    names = [name for name, _ in CALLS[step.call].params]
    return {name: _argument(step, number, longest) for number, name in enumerate(names)}


def man(step: Step) -> str:
    """Return the man page that says most about a step."""
    return step.man or CALLS[step.call].man


def _words(step: Step, longest: int) -> list[str]:
    names = [name for name, _ in CALLS[step.call].params]
    words = [_argument(step, number, longest) for number in range(len(names))]
    if step.call in _STRUCTS:
        start = names.index(_STRUCTS[step.call])
        always = names[start:] if step.call == "capset" else [names[start]]
        fields = [
            f"{name}={word}"
            for name, word, value in list(zip(names, words, step.args))[start:]
            if name in always or value not in _NOTHING
        ]
        words = [*words[:start], "{" + ", ".join(fields) + "}"]
    if step.call == "prctl":  # the unused arguments must be zero, and say nothing
        while len(words) > 2 and words[-1] == "0":
            words.pop()
    return words


def _argument(step: Step, number: int, longest: int) -> str:
    name, kind = CALLS[step.call].params[number]
    value = step.args[number]
    if value is None:
        return "NULL"
    if isinstance(value, Fd):
        return f"<{value.name}>"
    if decode := _DECODERS.get((step.call, name)):
        return decode(step, value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(v, longest) for v in value) + "]"
    if isinstance(value, (str, bytes)):
        return _text(value, longest)
    assert isinstance(value, int), (step, name)
    if kind == "f":
        return "AT_FDCWD" if value == uapi.AT_FDCWD else str(value)
    return str(value)


def printable(text: str) -> str:
    """Return text on one line: every character that does not print is escaped."""
    if text.isprintable() and "\\" not in text:  # nearly always; the rest takes a hundred times as long
        return text
    escapes = {"\n": "\\n", "\t": "\\t", "\0": "\\0", "\\": "\\\\"}
    return "".join(escapes.get(c) or (c if c.isprintable() else escaped(c)) for c in text)


def _text(value: str | bytes, longest: int) -> str:
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
    shown = printable(text).replace('"', '\\"')
    return f'"{shown}"' if len(shown) <= longest else f'"{shown[:longest]}"…'


def _plain(value: object, longest: int) -> str:
    if isinstance(value, str):
        return _text(value, longest)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(v, longest) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v, longest)}" for k, v in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


# ---- numbers with names ----


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value


def _flags(family: str) -> Callable[[Step, object], str]:
    return lambda _, value: uapi.names(family, _number(value))


def _one(family: str) -> Callable[[Step, object], str]:
    return lambda _, value: uapi.name(family, _number(value))


def _octal(_: Step, value: object) -> str:
    return f"0{value:o}" if value else "0"


def open_flags(value: int) -> str:
    """Return the flags of open(2) in words, the access mode first; O_PATH has none."""
    if value & uapi.O_PATH:
        return uapi.names("O", value)
    mode = {uapi.O_RDONLY: "O_RDONLY", uapi.O_WRONLY: "O_WRONLY", uapi.O_RDWR: "O_RDWR"}
    rest = value & ~uapi.O_ACCMODE
    words = [mode.get(value & uapi.O_ACCMODE, "O_ACCMODE")] + ([uapi.names("O", rest)] if rest else [])
    return "|".join(words)


def _open(_: Step, value: object) -> str:
    return open_flags(_number(value))


def _written(_: Step, value: object) -> str:
    # What the engine opens with, whatever the plan adds (csrc/plan.c, write_file).
    return open_flags(_number(value) | uapi.O_WRONLY | uapi.O_CLOEXEC)


def capabilities(mask: int) -> str:
    """Return a set of capabilities in words: "0", "all", "CAP_KILL|CAP_SETPCAP", or "all but CAP_BPF"."""
    from nstool.security import capabilities as caps

    everything = caps.full()
    if mask & everything == everything:
        return "all"
    missing = everything & ~mask
    if missing.bit_count() < 9:
        return f"all but {_capability_names(missing)}"
    return _capability_names(mask)


def _capability_names(mask: int) -> str:
    from nstool.security import capabilities as caps

    return "|".join(f"CAP_{name.upper()}" for name in caps.names(mask)) or "0"


def _caps(_: Step, value: object) -> str:
    return capabilities(_number(value))


def device(value: int) -> tuple[int, int]:
    """Return (major, minor) of a device number as mknod(2) takes it: 12 bits of minor around 8 of major."""
    return value >> 8 & 0xFFF, (value & 0xFF) | (value >> 12 & 0xFFF00)


def _device(_: Step, value: object) -> str:
    return "makedev({}, {})".format(*device(_number(value)))


def _file_mode(_: Step, value: object) -> str:
    mode = _number(value)
    kind = mode & uapi.S_IFMT
    return f"{uapi.name('S', kind)}|0{mode & ~uapi.S_IFMT:o}" if kind else f"0{mode:o}"


def _socket_type(_: Step, value: object) -> str:
    flags = uapi.SOCK_CLOEXEC | uapi.SOCK_NONBLOCK
    kind = uapi.name("SOCK_TYPE", _number(value) & ~flags)
    return kind + (f"|{uapi.names('SOCK', _number(value) & flags)}" if _number(value) & flags else "")


def _persona(_: Step, value: object) -> str:
    number = _number(value)
    return uapi.names("PERSONALITY", number) if number else "PER_LINUX"


def _limit(_: Step, value: object) -> str:
    number = _number(value)
    return "RLIM_INFINITY" if number & _ALL_BITS == uapi.RLIM_INFINITY else str(number)


def _access(step: Step, value: object) -> str:
    family = "NET" if step.args[1] == uapi.LANDLOCK_RULE_NET_PORT else "FS"
    return uapi.names(f"LANDLOCK_ACCESS_{family}", _number(value))


def _last_fd(_: Step, value: object) -> str:
    return "~0U" if value == 0xFFFF_FFFF else str(value)


def _groups(_: Step, value: object) -> str:
    return "[" + ", ".join(map(str, group_ids(value))) + "]"


def group_ids(value: object) -> list[int]:
    """Return the ids in the argument of a setgroups step."""
    assert isinstance(value, bytes)
    return [int.from_bytes(value[at : at + 4], "little") for at in range(0, len(value), 4)]


def _filter(_: Step, value: object) -> str:
    assert isinstance(value, bytes)
    return f"<{len(value) // 8} instructions>"


def _request_argument(step: Step, value: object) -> str:
    """The bytes that an ioctl is given, as the request reads them: csrc/plan.c passes a copy of 64."""
    assert isinstance(value, bytes)
    if step.args[1] in (uapi.SIOCSIFFLAGS, uapi.SIOCGIFFLAGS):
        flags = int.from_bytes(value[16:18], "little")
        return f"{{ifr_name={_text(device_name(value), LONGEST)}, ifr_flags={uapi.names('IFF', flags)}}}"
    if step.args[1] == uapi.TIOCSPTLCK:
        return f"[{int.from_bytes(value[:4], 'little', signed=True)}]"
    return f"0x{value.hex()}"


def device_name(ifreq: bytes) -> str:
    """Return the device that a struct ifreq names. netdevice(7)."""
    return ifreq[: uapi.IFNAMSIZ].partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _request_number(step: Step, value: object) -> str:
    return open_flags(_number(value)) if step.args[1] == uapi.TIOCGPTPEER else str(value)


_PRCTL: dict[int, Callable[[int], str]] = {
    uapi.PR_SET_PDEATHSIG: lambda value: uapi.name("SIG", value),
    uapi.PR_SET_SECUREBITS: lambda value: uapi.names("SECBIT", value),
    uapi.PR_CAP_AMBIENT: lambda value: uapi.name("PR_CAP_AMBIENT", value),
    uapi.PR_CAPBSET_DROP: lambda value: uapi.name("CAP", value),
    uapi.PR_CAPBSET_READ: lambda value: uapi.name("CAP", value),
}


def _prctl2(step: Step, value: object) -> str:
    return _PRCTL.get(_number(step.args[0]), str)(_number(value))


def _prctl3(step: Step, value: object) -> str:
    named = step.args[0] == uapi.PR_CAP_AMBIENT and step.args[1] != uapi.PR_CAP_AMBIENT_CLEAR_ALL
    return uapi.name("CAP", _number(value)) if named else str(value)


# (call, parameter) → the words for its value.
_DECODERS: dict[tuple[str, str], Callable[[Step, object], str]] = {
    ("clone3", "flags"): _flags("CLONE"),
    ("unshare", "flags"): _flags("CLONE"),
    ("setns", "nstype"): _flags("CLONE"),
    ("openat2", "flags"): _open,
    ("openat2", "mode"): _octal,
    ("openat2", "resolve"): _flags("RESOLVE"),
    ("write_file", "flags"): _written,
    ("write_file", "mode"): _octal,
    ("open_tree", "flags"): _flags("OPEN_TREE"),
    ("move_mount", "flags"): _flags("MOVE_MOUNT"),
    ("mount_setattr", "flags"): _flags("AT"),
    ("mount_setattr", "attr_set"): _flags("MOUNT_ATTR"),
    ("mount_setattr", "attr_clr"): _flags("MOUNT_ATTR"),
    ("mount_setattr", "propagation"): _flags("MS"),
    ("fsopen", "flags"): _flags("FSOPEN"),
    ("fsconfig", "cmd"): _one("FSCONFIG"),
    ("fsmount", "flags"): _flags("FSMOUNT"),
    ("fsmount", "attr_flags"): _flags("MOUNT_ATTR"),
    ("mount", "flags"): _flags("MS"),
    ("umount2", "flags"): _flags("UMOUNT"),
    ("mkdirat", "mode"): _octal,
    ("mknodat", "mode"): _file_mode,
    ("mknodat", "dev"): _device,
    ("unlinkat", "flags"): _flags("AT"),
    ("fchownat", "flags"): _flags("AT"),
    ("fchmodat", "mode"): _octal,
    ("personality", "persona"): _persona,
    ("socket", "domain"): _one("AF"),
    ("socket", "type"): _socket_type,
    ("ioctl", "request"): _one("IOCTL"),
    ("ioctl", "arg"): _request_argument,
    ("ioctl_int", "request"): _one("IOCTL"),
    ("ioctl_int", "arg"): _request_number,
    ("setgroups", "list"): _groups,
    ("capset", "effective"): _caps,
    ("capset", "permitted"): _caps,
    ("capset", "inheritable"): _caps,
    ("prctl", "option"): _one("PR"),
    ("prctl", "arg2"): _prctl2,
    ("prctl", "arg3"): _prctl3,
    ("seccomp", "flags"): _flags("SECCOMP_FILTER_FLAG"),
    ("seccomp", "filter"): _filter,
    ("setrlimit", "resource"): _one("RLIMIT"),
    ("setrlimit", "soft"): _limit,
    ("setrlimit", "hard"): _limit,
    ("umask", "mask"): _octal,
    ("keyctl", "operation"): _one("KEYCTL"),
    ("dup3", "flags"): _flags("O"),
    ("fcntl", "cmd"): _one("F"),
    ("close_range", "last"): _last_fd,
    ("close_range", "flags"): _flags("CLOSE_RANGE"),
    ("pidfd_open", "flags"): _flags("PIDFD"),
    ("raise_ambient", "caps"): _caps,
    ("drop_bounding", "keep"): _caps,
    ("landlock_create_ruleset", "handled_access_fs"): _flags("LANDLOCK_ACCESS_FS"),
    ("landlock_create_ruleset", "handled_access_net"): _flags("LANDLOCK_ACCESS_NET"),
    ("landlock_create_ruleset", "scoped"): _flags("LANDLOCK_SCOPE"),
    ("landlock_add_rule", "rule_type"): _one("LANDLOCK_RULE"),
    ("landlock_add_rule", "allowed_access"): _access,
    ("landlock_restrict_self", "flags"): _flags("LANDLOCK_RESTRICT_SELF"),
}
