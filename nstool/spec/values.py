"""Human forms of values: what a person writes in a spec file or an option, made plain.

Each function takes what was written and returns the value of the model, or raises SpecError
without a place: the caller knows the file, the line or the option and adds it.
"""

from __future__ import annotations

from nstool.errors import SpecError, escaped
from nstool.spec.model import Capabilities, IdMap, LandlockRule, Mount, Net, Publish, Root, SeccompCall, SeccompWhere

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tar.lzma", ".tar.lz4")
_WORDS = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "an array", dict: "a table"}
MOUNT_TYPES = ("bind", "tmpfs", "proc", "mqueue", "overlay", "devpts")
PROPAGATION = ("private", "slave", "shared", "unbindable")

# Words of a mount's short form: what each sets.
_MOUNT_WORDS: dict[str, tuple[str, Any]] = {
    "ro": ("writable", False),
    "rw": ("writable", True),
    "exec": ("exec", True),
    "noexec": ("exec", False),
    "suid": ("suid", True),
    "nosuid": ("suid", False),
    "dev": ("dev", True),
    "nodev": ("dev", False),
    "rbind": ("recursive", True),
    "norbind": ("recursive", False),
    "symfollow": ("symlinks", True),
    "nosymfollow": ("symlinks", False),
    "idmap": ("idmap", True),
    **{word: ("propagation", word) for word in PROPAGATION},
}


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean …?" for a misspelt word, or the choices if nothing is near."""
    known = sorted(choices)
    if near := nearest(word, known):
        return f'; did you mean "{near}"?'
    return f"; known: {', '.join(known)}" if known else ""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the choice that a misspelt word is near to, or the one that it begins; empty if none."""
    from difflib import get_close_matches

    choices = list(choices)
    begun = [one for one in choices if len(word) > 3 and one.startswith(word)]
    if len(begun) == 1:
        return begun[0]
    return next(iter(get_close_matches(word[:80], choices, 1, 0.6)), "")


def kind_of(value: object) -> str:
    """Name the type of a value in the words of TOML."""
    return _WORDS.get(type(value), f"a {type(value).__name__}")


def quoted(value: object) -> str:
    """Show what was written, shortened, with nothing in it that a terminal would obey."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return '"' + "".join(c if c.isprintable() else _escape(c) for c in text) + '"'


def _escape(char: str) -> str:
    return escaped(char) if 0xDC80 <= ord(char) <= 0xDCFF else repr(char)[1:-1]  # the first: a byte that is no UTF-8


def _string(value: object, what: str) -> str:
    if isinstance(value, str):
        return value
    raise SpecError(f"expected {what}, got {kind_of(value)}")


def _digits(text: str) -> bool:
    # Not str.isdigit alone: it accepts digits of other scripts. 19 digits fit in 64 bits.
    return text.isascii() and text.isdecimal() and len(text) <= 19


def integer(value: object) -> int:
    """Return a decimal integer, from an int or its text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _string(value, "an integer")
    if _digits(text.removeprefix("-")):
        return int(text)
    raise SpecError(f"{quoted(text)} is not an integer")


def size(value: object) -> int:
    """Return bytes: 65536, "64M", "512k", "1GiB", "1.5G"; the units are powers of 1024."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _string(value, 'a size as "64M" or in bytes')
    body = text.strip().lower().removesuffix("b").removesuffix("i")
    number, unit = (body[:-1], body[-1]) if body[-1:] in ("k", "m", "g", "t") else (body, "")
    whole, dot, part = number.strip().partition(".")
    plain = unit or text.strip().lower() in (number, number + "b")  # "5i" is no size
    if not plain or not _digits(whole) or (dot and not (_digits(part) and unit)):
        raise SpecError(f'{quoted(text)} is not a size; write bytes, or as "64M", "512k", "1GiB"')
    scale = 1 << _UNITS[unit]
    return int(whole) * scale + (int(part) * scale // 10 ** len(part) if dot else 0)


def size_text(number: int) -> str:
    """Return bytes as one writes them: "64M", "512K", "1000"."""
    units = "KMGT"
    power = 0
    while number and number % 1024 == 0 and power < len(units):
        number //= 1024
        power += 1
    return f"{number}{units[power - 1] if power else ''}"


def cores(value: object) -> float:
    """Return cpu cores: 2, 0.5, "0.5", "150%"."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise SpecError("more cores than any machine has") from None
    text = _string(value, 'a number of cores as 0.5 or "50%"')
    number = text.strip().removesuffix("%").strip()
    whole, dot, part = number.partition(".")
    if not _digits(whole) or (dot and not _digits(part)):
        raise SpecError(f'{quoted(text)} is not a number of cores; write it as 0.5, 2 or "150%"')
    return float(number) / (100 if text.strip().endswith("%") else 1)


def cpu(value: object) -> float | None:
    """Return cores as ``cores``, or None (null in JSON) for those that the rest of the host leaves."""
    return None if value is None else cores(value)


def seconds(value: object) -> int:
    """Return seconds: 90, "90", "-3600", "2h", "30d"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _string(value, 'whole seconds, or a time as "90m", "2h", "30d"')
    number, unit = _time(text)
    if not _digits(number.removeprefix("-").removeprefix("+")):
        raise _no_time(text)
    return int(number) * unit


def duration(value: object) -> float:
    """Return seconds as ``seconds``, with fractions: 0.5, "0.5", "1.5h"."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = _string(value, 'seconds, or a time as "90m", "2h", "30d"')
    number, unit = _time(text)
    whole, dot, part = number.removeprefix("-").removeprefix("+").partition(".")
    if not _digits(whole) or (dot and not _digits(part)):
        raise _no_time(text)
    return float(number) * unit


def _time(text: str) -> tuple[str, int]:
    """Return the number of a time, and the seconds of its unit."""
    body = text.strip().lower()
    unit = body[-1:] if body[-1:] in ("s", "m", "h", "d") else ""
    return body.removesuffix(unit), _SECONDS[unit]


def _no_time(text: str) -> SpecError:
    return SpecError(f'{quoted(text)} is not a time; write seconds, or as "90m", "2h", "30d"')


def clock_offset(value: object) -> int | None:
    """Return seconds as ``seconds``, or None (null in JSON) for a clock that begins at zero."""
    return None if value is None else seconds(value)


def octal(value: object) -> int:
    """Return permission bits: 0o755, "0755", "755"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = _string(value, 'permission bits as "0755"')
    digits = text.removeprefix("0o")
    if not digits or len(digits) > 7 or any(c not in "01234567" for c in digits):
        raise SpecError(f'{quoted(text)} is not octal; write digits from 0 to 7, as "0755" or "022"')
    return int(digits, 8)


def socket_mode(value: object) -> int | None:
    """Return permission bits as ``octal``, or None (null in JSON) for those that the umask leaves."""
    return None if value is None else octal(value)


def user(value: object) -> str:
    """Return "uid", "uid:gid" or names; an integer is a uid."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(value, 'a user as "1000:1000", "1000" or "www-data"')


def words(value: object) -> tuple[str, ...]:
    """Return the words of a list, or of "a,b,c"."""
    if isinstance(value, (list, tuple)):
        return tuple(_string(v, "a string") for v in value)
    text = _string(value, "an array of strings")
    return tuple(word.strip() for word in text.split(",") if word.strip())


def groups(value: object) -> tuple[str, ...]:
    """Return supplementary groups; integers are gids."""
    if isinstance(value, (list, tuple)):
        return tuple(user(v) for v in value)
    return words(value)


def pair(value: object, what: str = "NAME=VALUE") -> tuple[str, str]:
    """Return the two sides of "NAME=VALUE"; the value may be empty and may contain "="."""
    text = _string(value, what)
    name, equals, rest = text.partition("=")
    if not equals or not name:
        raise SpecError(f"{quoted(text)} is not of the form {what}")
    return name, rest


def pairs(value: object, what: str = "NAME=VALUE") -> dict[str, str]:
    """Return the pairs of "A=1,B=2", or of a list of such pairs; each name may stand there once."""
    found: dict[str, str] = {}
    for item in words(value):
        name, text = pair(item, what)
        if name in found:
            raise SpecError(f"{quoted(name)} twice; write it once")
        found[name] = text
    return found


def strings(value: object) -> dict[str, str]:
    """Return a table of strings, from a table or from a list of "NAME=VALUE"."""
    if isinstance(value, (list, tuple)):
        return pairs(value)
    if not isinstance(value, dict):
        raise SpecError(f'expected a table or an array of "NAME=VALUE", got {kind_of(value)}')
    for name, item in value.items():
        if not isinstance(name, str):
            raise SpecError(f"the name {quoted(name)} must be a string, got {kind_of(name)}")
        if not isinstance(item, str):
            raise SpecError(f"the value of {quoted(name)} must be a string, got {kind_of(item)}; put it in quotes")
    return dict(value)


def command(value: object) -> tuple[str, ...]:
    """Return argv. A string is refused: nobody but a shell knows how to split it."""
    if isinstance(value, str):
        raise SpecError(f'write a list, one word an element: ["sh", "-c", {quoted(value)}]; a string is not split')
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"expected an array of strings, got {kind_of(value)}")
    return tuple(_string(v, "an array of strings") for v in value)


def fields(text: str, separator: str = ":") -> list[str]:
    """Split at ":", but not inside [brackets], which hold an IPv6 address."""
    found, depth = [""], 0
    for char in text:
        depth += (char == "[") - (char == "]")
        if char == separator and depth <= 0:
            found.append("")
        else:
            found[-1] += char
    return found


def outside_brackets(text: str) -> list[str]:
    """Return the parts between commas, but not within (brackets); empty ones are left out."""
    found, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += char
    return [part.strip() for part in found if part.strip()]


def _port(text: str, whole: str) -> int:
    if _digits(text):
        return int(text)
    raise SpecError(
        f'{quoted(whole)} is not a published port; write HOST:INSIDE as "8080:80", "127.0.0.1:8080:80/udp", '
        f'"[::1]:8080:80"'
    )


def publish(value: object) -> Publish:
    """Return a published port: "8080:80", "127.0.0.1:8080:80/udp", "[::1]:8080:80/tcp", "80"."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Publish(host=value, inside=value)
    text = _string(value, 'a port as "8080:80"')
    ports, slash, protocol = text.partition("/")
    *address, host, inside = fields(ports) if ":" in ports else (ports, ports)
    if len(address) > 1:
        raise SpecError(f'{quoted(text)} has too many ":"; an IPv6 address goes into brackets: "[::1]:8080:80"')
    literal = address[0].removeprefix("[").removesuffix("]") if address else ""
    return Publish(_port(host, text), _port(inside, text), protocol.lower() if slash else "tcp", literal)


def publish_text(port: Publish) -> str:
    """Return a published port as ``publish`` takes it: "127.0.0.1:8080:80/udp"."""
    address = f"[{port.address}]:" if ":" in port.address else f"{port.address}:" if port.address else ""
    return f"{address}{port.host}:{port.inside}" + ("" if port.protocol == "tcp" else f"/{port.protocol}")


def root(value: object) -> Root:
    """Return a root: "system", "/" (the host's), "/dir", "x.tar.gz", "tmpfs", "a:b:c" or a list for an overlay."""
    if isinstance(value, (list, tuple)):
        return Root(type="overlay", lower=words(value))
    text = _string(value, "a path, an array of directories or a table")
    if text == "system":
        return Root()
    if text in ("/", "host"):
        return Root(type="host")
    if text == "tmpfs":
        return Root(type="tmpfs")
    if not text:
        raise SpecError(
            'an empty root; write "system" for the host\'s programs, "/" for all of it, or "tmpfs" for an empty one'
        )
    if ":" in text:
        return Root(type="overlay", lower=tuple(text.split(":")))
    return Root(type="tarball" if text.endswith(_ARCHIVES) else "directory", path=text)


def _mount_words(text: str, options: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    said: dict[str, str] = {}  # key to the word that set it
    for word in options.split(","):
        name, equals, rest = word.partition("=")
        if name == "size" and equals:
            key, value = "size", size(rest)
        elif name == "mode" and equals:
            key, value = "mode", octal(rest)
        elif word in _MOUNT_WORDS:
            key, value = _MOUNT_WORDS[word]
        else:
            hint = suggest(word, (*_MOUNT_WORDS, "size=", "mode="))
            raise SpecError(f"{quoted(word)} in {quoted(text)} is no mount option{hint}")
        if key in said:
            how = "twice" if said[key] == word else f"after {quoted(said[key])}"
            raise SpecError(f"{quoted(word)} {how} in {quoted(text)}; write one of them")
        said[key] = word
        found[key] = value
    return found


def mount(value: object) -> Mount:
    """Return a mount: "SRC:DST[:rw,idmap,…]"; "DIR" alone is the same path inside.

    SRC "tmpfs", "proc", "mqueue", "devpts" mount that; a directory of this name is "./tmpfs".
    """
    text = _string(value, 'a mount as "SRC:DST:rw" or a table')
    source, *rest = text.split(":")
    if len(rest) > 2:
        raise SpecError(f'{quoted(text)} has too many ":"; write a table for a path that contains one')
    target = rest[0] if rest else source
    if not source or not target:
        raise SpecError(f"{quoted(text)} is not of the form SRC:DST[:OPTIONS]")
    if not rest and not source.startswith("/"):
        raise SpecError(_without_target(text))
    values = _mount_words(text, rest[1]) if len(rest) == 2 else {}
    if source in MOUNT_TYPES and source not in ("bind", "overlay"):
        return _filesystem(source, target, values)
    return Mount(target=target, source=source, **values)


def _without_target(text: str) -> str:
    """Say how a mount is written that has no ":" and is no absolute path."""
    words = dict(word.partition("=")[::2] for word in text.split(","))
    source, target = (next((words[key] for key in keys if words.get(key)), "") for keys in _MOUNT_ENDS)
    if source and target:
        access = "" if {"ro", "readonly"} & set(words) else ":rw"
        return f"{quoted(text)} is written otherwise here: {quoted(f'{source}:{target}{access}')}"
    if text in MOUNT_TYPES:
        return f'{quoted(text)} does not say where: write "{text}:DST"'
    return f"{quoted(text)} does not say where: write {quoted(f'{text}:DST')}; a path alone begins with a /"


# As of mount in docker-run(1).
_MOUNT_ENDS = (("source", "src"), ("target", "dst", "destination"))


def tmpfs(value: object) -> Mount:
    """Return a writable tmpfs: "DST[:size=64M,mode=1777,…]"."""
    text = _string(value, "a directory")
    target, colon, options = text.partition(":")
    return _filesystem("tmpfs", target, _mount_words(text, options) if colon else {})


def _filesystem(kind: str, target: str, values: dict[str, Any]) -> Mount:
    if kind != "proc" and not values.get("writable", True):
        raise SpecError(f'a {kind} is always writable; leave "ro" out')
    return Mount(**{"target": target, "type": kind, "writable": kind != "proc", **values})


def idmap(value: object) -> IdMap:
    """Return one line of an id map: "INSIDE:OUTSIDE:COUNT", or these three in a list."""
    if isinstance(value, (list, tuple)):
        parts = [integer(v) for v in value]
    else:
        text = _string(value, 'an id map as "0:100000:65536"')
        cut = text.split(":")
        parts = [int(c) for c in cut] if all(_digits(c) for c in cut) else []
    if len(parts) != 3:
        raise SpecError(f"{quoted(value)} is not an id map; write INSIDE:OUTSIDE:COUNT, three numbers")
    return IdMap(*parts)


def net(value: object) -> Net:
    """Return a network: "none", "loopback", "veth", "host", "bridge[:NAME]", "join:TARGET"."""
    text = _string(value, "a mode or a table")
    mode, colon, rest = text.partition(":")
    if colon and mode == "join":
        return Net(mode=mode, target=rest)
    if colon and mode == "bridge":
        return Net(mode=mode, bridge=rest)
    return Net(mode=text)


def landlock_rule(value: object) -> LandlockRule:
    """Return a rule of Landlock: "PATH=RIGHT,RIGHT"."""
    path, rights = pair(value, "PATH=RIGHT,...")
    return LandlockRule(path, tuple(map(right, words(rights))))


def right(name: str) -> str:
    """Return the name as the spec has it: LANDLOCK_ACCESS_FS_READ_FILE is read_file."""
    return name.lower().removeprefix("landlock_access_fs_")


def limit(value: object) -> int:
    """Return a resource limit: a number, a size as "64k", or "unlimited" for -1."""
    if value in ("unlimited", "infinity", "-1"):
        return -1
    return size(value)


def rlimit(value: object) -> tuple[int, int]:
    """Return (soft, hard): [1024, 4096], "1024:4096", or one value for both."""
    if isinstance(value, (list, tuple)):
        limits = [limit(v) for v in value]
    elif isinstance(value, str):
        limits = [limit(v) for v in value.split(":")]
    else:
        limits = [limit(value)]
    if len(limits) not in (1, 2):
        raise SpecError(f'{quoted(value)} is not a resource limit; write "SOFT:HARD" or one value for both')
    return limits[0], limits[-1]


def ucount(value: object) -> int:
    """Return what a user may have: a number, or "unlimited" for -1."""
    if value in ("unlimited", -1, "-1"):
        return -1
    if isinstance(value, bool) or not _digits(str(value)):
        raise SpecError(f'{quoted(value)} is no number of things that a user may have; write 0 or more, or "unlimited"')
    return int(str(value))


def capabilities(value: object) -> Capabilities:
    """Return five equal sets, in the forms of one: ["net_bind_service"] is a capability that the command really has."""
    names = tuple(dict.fromkeys(capability_set(value)))
    return Capabilities(names, names, names, names, names)


def capability(name: str) -> str:
    """Return the name as the spec has it: CAP_NET_RAW is net_raw."""
    return name.lower().removeprefix("cap_")


def capability_set(value: object) -> tuple[str, ...]:
    """Return the names of one capability set: names, "all", or masks as "0x21"; a number is a mask too."""
    from nstool.security import capabilities

    found: list[str] = []
    for word in words(value) if _mask(value) is None else (value,):
        mask = capabilities.full() if word == "all" else _mask(word)
        found += [capability(str(word))] if mask is None else capabilities.names(mask)
    return tuple(found)


def securebits(value: object) -> tuple[str, ...]:
    """Return the names of securebits: names, or a mask as 0x2f or 47."""
    from nstool.security import securebits

    mask = _mask(value)
    return words(value) if mask is None else securebits.names(mask)


def _mask(value: object) -> int | None:
    """Return an integer that is not negative, also in hexadecimal text; None if it is something else."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    digits = text.removeprefix("0x")
    return int(text, 16) if text != digits and digits and not set(digits) - set("0123456789abcdef") else None


def namespace(value: object) -> str:
    """Return "new", "host", a path, or a pid (also as an integer)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(value, '"new", "host", a path or a pid')


def host_line(value: object) -> tuple[str, str]:
    """Return one line of the hosts file: "NAME=ADDRESS", or [ADDRESS, NAME]."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _string(value[0], "an address"), _string(value[1], "a host name")
    name, address = pair(value, "NAME=ADDRESS")
    return address, name


def route(value: object) -> tuple[str, str]:
    """Return one route: "DESTINATION=GATEWAY", or [DESTINATION, GATEWAY]."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _string(value[0], "a destination"), _string(value[1], "a gateway")
    return pair(value, "DESTINATION=GATEWAY")


SECCOMP_FILES = (".json", ".toml", ".bpf", ".kafel", ".policy")


def seccomp_is_file(word: str) -> bool:
    """Whether a word names a list in a file, not one that comes with nstool."""
    return "/" in word or word.endswith(SECCOMP_FILES)


def constant(value: object) -> int:
    """Return a number: 21522, "0x5412", "TIOCSTI", "SOCK_STREAM|SOCK_CLOEXEC" (names as in nstool.uapi)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = 0
    for word in _string(value, 'a number, or constants as "AF_INET"').split("|"):
        number |= _constant(word.strip())
    return number


def _constant(word: str) -> int:
    digits = word.removeprefix("-")
    if digits[:1].isdecimal() and digits.isascii():
        try:
            return int(word, 8 if len(digits) > 1 and digits.isdecimal() and digits[0] == "0" else 0)
        except ValueError:
            raise SpecError(f"{quoted(word)} is no number; write 21522, 0x5412 or 0o644") from None
    from nstool import uapi

    found = getattr(uapi, word, None) if word.isupper() else None
    if not isinstance(found, int):
        names = (name for name, known in vars(uapi).items() if isinstance(known, int) and name.isupper())
        near = nearest(word, names)
        hint = f'; did you mean "{near}"?' if near else "; write its number"
        raise SpecError(f"{quoted(word)} is neither a number nor a constant that nstool knows{hint}")
    return found


def seccomp_call(value: object) -> SeccompCall:
    """Return an entry: "mount", "@mount", "ioctl(cmd == TIOCSTI)", "socket(family == AF_INET, type & 0xf == 1)"."""
    text = _string(value, 'a system call as "mount", a group as "@mount", or a table')
    call, bracket, rest = text.partition("(")
    if not bracket:
        return SeccompCall(text.strip())
    if not rest.rstrip().endswith(")"):
        raise SpecError(f'{quoted(text)} lacks the ")" at its end')
    call = call.strip()
    return SeccompCall(
        call, tuple(_seccomp_where(call, part) for part in rest.rstrip()[:-1].split(",") if part.strip())
    )


def _seccomp_where(call: str, text: str) -> SeccompWhere:
    import re

    found = re.fullmatch(r"\s*(\w+)\s*(?:&\s*([^=!<>]+?)\s*)?(==|!=|<=|>=|<|>)\s*(.+?)\s*", text)
    if found is None:
        raise SpecError(f"{quoted(text.strip())} is no condition; write ARG == VALUE, or ARG & MASK == VALUE")
    mask = constant(found[2]) if found[2] else 0
    if found[2] and not mask:
        raise SpecError(f"the mask of {quoted(text.strip())} leaves nothing to compare")
    return SeccompWhere(_seccomp_argument(call, found[1]), found[3], constant(found[4]), mask)


def _seccomp_argument(call: str, word: str) -> int:
    from nstool.security.seccomp_arguments import arguments

    if word.isdecimal() and len(word) == 1:
        return int(word)
    known = [name for name, _ in arguments(call)]
    if word not in known:
        raise SpecError(f"{call} has no argument {quoted(word)}{suggest(word, known)}")
    return known.index(word)
