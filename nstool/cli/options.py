"""THE table of the options of ``nstool run``, each naming the key of the spec that it sets; and their parser.

The parser needs no click: it is on the path of every ``nstool run``. For ``--help`` and completion
``click_options`` makes click's options of the same table.
"""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.spec import values
from nstool.spec.check import check, key_path
from nstool.spec.implied import absolute, here, implied
from nstool.spec.model import Capabilities, Mount, Seccomp, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    import click

    from nstool.spec.check import Path, Place

    Applied = tuple[Spec, Sequence[Path]]


class Option(Frozen):
    """One option of ``run``.

    name: "--memory". key: the key path of the spec, "limits.memory". metavar: what its value is;
    empty for a flag, which has a second form "--no-…". read: makes the value of its text.
    how: "set" (the last one counts), "add" (to a list, repeated), "merge" (into a table, repeated),
    "flag". apply: for the few that do something else: (spec, texts) to the spec and the key paths it set.
    help: for those whose key's description (spec.docs) does not say it.
    """

    name: str
    key: str
    metavar: str = ""
    read: Callable[[str], Any] = str
    how: str = "set"
    apply: Callable[[Spec, list[str]], Applied] | None = None
    help: str = ""

    @property
    def path(self) -> Path:
        return tuple(self.key.split("."))

    @property
    def repeated(self) -> bool:
        return self.how in ("add", "merge")

    @property
    def opposite(self) -> str:
        """The second form of a flag: --no-init for --init, --new-privs for --no-new-privs."""
        word = self.name[2:]
        return f"--{word[3:]}" if word.startswith("no-") else f"--no-{word}"

    @property
    def description(self) -> str:
        from nstool.spec.docs import doc  # late: only --help needs it

        return (self.help or doc(self.key)) + (" May be repeated." if self.repeated else "")


def put(spec: Spec, path: Path, value: object) -> Spec:
    """Return spec with the value at a key path replaced."""
    changed: Spec = _put(spec, path, value)
    return changed


def _put(record: Any, path: Path, value: object) -> Any:
    if len(path) == 1:
        return record.replace(**{str(path[0]): value})
    return record.replace(**{str(path[0]): _put(getattr(record, str(path[0])), path[1:], value)})


def get(spec: Spec, path: Path) -> Any:
    """Return the value at a key path."""
    value: Any = spec
    for part in path:
        if isinstance(value, str) and path[0] == "seccomp":  # a word for a whole list
            value = Seccomp(value)
        value = value[part] if isinstance(part, int) else getattr(value, part)
    return value


def _root(spec: Spec, texts: list[str]) -> Applied:
    """A root keeps what the file said of writing and sizes."""
    root = values.root(texts[-1])
    changes = {"type": root.type, "path": root.path, "lower": root.lower}
    return spec.replace(root=spec.root.replace(**changes)), [("root", key) for key in changes]


def _net(spec: Spec, texts: list[str]) -> Applied:
    """A mode keeps the ports and addresses of the file; the target and the bridge belong to the mode."""
    net = values.net(texts[-1])
    changes: dict[str, object] = {"mode": net.mode}
    if net.mode != "join" or net.target or not spec.net.target:
        changes["target"] = net.target
    if net.mode != "bridge" or net.bridge:
        changes["bridge"] = net.bridge
    host = "host" if net.mode == "host" else "new"
    spec = spec.replace(net=spec.net.replace(**changes), namespaces=spec.namespaces.replace(net=host))
    return spec, [*(("net", key) for key in changes), ("namespaces", "net")]


def _mounts(read: Callable[[object], Mount]) -> Callable[[Spec, list[str]], Applied]:
    """A mount takes the place of an earlier one, as of the file, on the same target."""

    def apply(spec: Spec, texts: list[str]) -> Applied:
        mounts = list(spec.mounts)
        earlier = {mount.target: number for number, mount in enumerate(mounts)}
        given: list[Path] = []
        for mount in map(read, texts):
            number = earlier.pop(mount.target, len(mounts))
            mounts[number : number + 1] = [mount]
            given.append(("mounts", number))
        return spec.replace(mounts=tuple(mounts)), given

    return apply


def _capabilities(spec: Spec, texts: list[str]) -> Applied:
    """A capability that the command really has is in all five sets."""
    names = [name for text in texts for name in values.capability_set(text)]
    sets = {key: tuple(dict.fromkeys((*getattr(spec.capabilities, key), *names))) for key in Capabilities.__fields__}
    return spec.replace(capabilities=spec.capabilities.replace(**sets)), [("capabilities", key) for key in sets]


def _share(spec: Spec, texts: list[str]) -> Applied:
    return _join(spec, [f"{kind}=host" for text in texts for kind in values.words(text)])


def _join(spec: Spec, texts: list[str]) -> Applied:
    """The net namespace is also a mode of [net]."""
    wanted = {kind: value for text in texts for kind, value in values.pairs(text, "TYPE=VALUE").items()}
    for kind in wanted:
        if kind not in KINDS:
            hint = values.suggest(kind, KINDS)
            raise SpecError(f"{values.quoted(kind)} is no namespace type, namespaces(7){hint}")
    given: list[Path] = [("namespaces", kind) for kind in wanted]
    spec = spec.replace(namespaces=spec.namespaces.replace(**wanted))
    net = wanted.get("net", "new")
    if net != "new":
        changes = {"mode": "host", "target": ""} if net == "host" else {"mode": "join", "target": net}
        given += [("net", key) for key in changes]
        spec = spec.replace(net=spec.net.replace(**changes))
    return spec, given


def _time_offset(spec: Spec, texts: list[str]) -> Applied:
    """One number is for both clocks."""
    text = texts[-1]
    if "=" not in text:
        text = f"monotonic={text},boottime={text}"
    offsets = values.pairs(text, "CLOCK=SECONDS")
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            hint = values.suggest(clock, ("monotonic", "boottime"))
            raise SpecError(f"{values.quoted(clock)} has no offset, time_namespaces(7){hint}")
    changes = {f"{clock}_offset": values.seconds(offset) for clock, offset in offsets.items()}
    return spec.replace(namespaces=spec.namespaces.replace(**changes)), [("namespaces", key) for key in changes]


def _ipc(spec: Spec, texts: list[str]) -> Applied:
    changes: dict[str, object] = {}
    for text in texts:
        key, value = values.pair(text, "LIMIT=VALUE")
        if key not in spec.ipc.__fields__:
            hint = values.suggest(key, spec.ipc.__fields__)
            raise SpecError(f"{values.quoted(key)} is no limit of an ipc namespace{hint}")
        changes[key] = value if key == "sem" else values.size(value)
    return spec.replace(ipc=spec.ipc.replace(**changes)), [("ipc", key) for key in changes]


def _words(spec: Spec) -> Seccomp:
    return spec.seccomp if isinstance(spec.seccomp, Seccomp) else Seccomp(spec.seccomp)


def _seccomp(key: str) -> Callable[[Spec, list[str]], Applied]:
    """Entries are added to those of the file. In a text a comma parts them, but not within the brackets of one."""

    def apply(spec: Spec, texts: list[str]) -> Applied:
        old = getattr(_words(spec), key)
        new = [values.seccomp_call(part) for text in texts for part in values.outside_brackets(text)]
        given: list[Path] = [("seccomp", key, len(old) + number) for number in range(len(new))]
        return spec.replace(seccomp=_words(spec).replace(**{key: (*old, *new)})), given

    return apply


def _seccomp_action(spec: Spec, texts: list[str]) -> Applied:
    return spec.replace(seccomp=_words(spec).replace(action=texts[-1])), [("seccomp", "action")]


def _rlimit(text: str) -> tuple[str, tuple[int, int]]:
    name, value = values.pair(text, "NAME=SOFT:HARD")
    return name, values.rlimit(value)


def _ucount(text: str) -> tuple[str, int]:
    name, value = values.pair(text, "NAME=NUMBER")
    return name, values.ucount(value)


def _landlock(key: str, read: Callable[[str], object]) -> Callable[[Spec, list[str]], Applied]:
    """The word "none" stands for an empty list, which allows nothing."""

    def apply(spec: Spec, texts: list[str]) -> Applied:
        old: tuple[object, ...] = getattr(spec.landlock, key) or ()
        if "none" in texts and (len(texts) > 1 or old):
            raise SpecError('"none" allows nothing and stands alone')
        found = () if texts == ["none"] else tuple(map(read, texts))
        given: list[Path] = [("landlock", key, len(old) + number) for number in range(len(found))]
        return spec.replace(landlock=spec.landlock.replace(**{key: (*old, *found)})), given or [("landlock", key)]

    return apply


def _flag(name: str, key: str, help: str = "") -> Option:
    return Option(name, key, how="flag", help=help)


OPTIONS: tuple[Option, ...] = (
    Option("--name", "name", "NAME"),
    Option("--root", "root", "ROOT", apply=_root),
    Option("--upper", "root.upper", "DIR"),
    _flag("--writable", "root.writable"),
    _flag("--root-idmap", "root.idmap"),
    Option("--root-size", "root.size", "SIZE", values.size),
    Option("--hostname", "hostname", "NAME"),
    Option("--domainname", "domainname", "NAME"),
    Option("--user", "user", "UID[:GID]"),
    Option("--groups", "groups", "GROUP,...", values.groups),
    Option(
        "--env",
        "env",
        "NAME=VALUE",
        values.pair,
        "merge",
        help="Set a variable of the command's environment; of yours nothing comes in.",
    ),
    Option("--cwd", "cwd", "DIR"),
    Option("--umask", "umask", "OCTAL", values.octal),
    Option(
        "--mount",
        "mounts",
        "SRC:DST[:OPTION,...]",
        how="add",
        apply=_mounts(values.mount),
        help="Put SRC of the host, file or directory, on DST inside, read-only; SRC alone: on the same path. Options: "
        "ro, rw, exec, noexec, suid, nosuid, dev, nodev, rbind, norbind, symfollow, nosymfollow, idmap (its owners as "
        "inside), private, slave, shared, unbindable. SRC may also be tmpfs (size=SIZE, mode=OCTAL), proc, mqueue or "
        "devpts.",
    ),
    Option(
        "--tmpfs",
        "mounts",
        "DST[:OPTION,...]",
        how="add",
        apply=_mounts(values.tmpfs),
        help='An empty tmpfs that everybody inside can write: "/scratch:size=64M,mode=0755".',
    ),
    Option("--mount-propagation", "mount_propagation", "KIND"),
    Option("--proc", "proc", "HOW"),
    Option("--hidepid", "hidepid", "HOW"),
    Option("--proc-subset", "proc_subset", "SUBSET"),
    Option("--proc-show", "proc_show", "NAME", how="add"),
    Option("--dev", "dev", "HOW"),
    Option("--tmp-size", "tmp_size", "SIZE", values.size),
    Option("--mask-path", "mask_paths", "PATH", how="add", help="A path that appears empty inside."),
    Option("--readonly-path", "readonly_paths", "PATH", how="add", help="A path that is read-only inside."),
    Option("--memory", "limits.memory", "SIZE", values.size),
    Option("--swap", "limits.swap", "SIZE", values.size),
    Option("--pids", "limits.pids", "COUNT", values.integer),
    Option("--cpu", "limits.cpu", "CORES", values.cores),
    Option(
        "--rlimit",
        "limits.rlimits",
        "NAME=SOFT:HARD",
        _rlimit,
        "merge",
        help='A limit of each process: "nofile=1024:4096", "core=unlimited", getrlimit(2).',
    ),
    Option(
        "--ucount",
        "limits.ucounts",
        "NAME=NUMBER",
        _ucount,
        "merge",
        help='What each user in the user namespace may have: "inotify_instances=128", "inotify_watches=unlimited", '
        "the names of /proc/sys/user without max_.",
    ),
    Option(
        "--net",
        "net",
        "MODE",
        apply=_net,
        help='The network: "none", "loopback", "veth" (a link to the host), "bridge[:NAME]", "join:TARGET" (a pid, a '
        'namespace file, a netns, a sandbox, or a directory of nstool pin), "host".',
    ),
    Option(
        "--publish",
        "net.publish",
        "[ADDRESS:]HOST:INSIDE[/udp]",
        values.publish,
        "add",
        help='A port of the host that leads inside: "8080:80", "127.0.0.1:8080:80/udp", "[::1]:8080:80".',
    ),
    Option("--address", "net.address", "ADDRESS/LENGTH"),
    Option("--gateway", "net.gateway", "ADDRESS"),
    Option("--address6", "net.address6", "ADDRESS/LENGTH"),
    Option("--gateway6", "net.gateway6", "ADDRESS"),
    Option("--bridge", "net.bridge", "NAME"),
    Option("--dns", "net.dns", "ADDRESS", how="add", help="Address of a name server for resolv.conf(5)."),
    Option("--hosts", "net.hosts", "NAME=ADDRESS", values.host_line, "add", help="A further line of hosts(5)."),
    Option(
        "--route",
        "net.routes",
        "DESTINATION=GATEWAY",
        values.route,
        "add",
        help='A further route: "10.1.0.0/16=10.200.3.1".',
    ),
    _flag("--nat", "net.nat"),
    _flag("--ipv6", "net.ipv6"),
    _flag("--isolated", "net.isolated"),
    Option("--mtu", "net.mtu", "BYTES", values.integer),
    Option(
        "--sysctl",
        "net.sysctls",
        "NAME=VALUE",
        values.pair,
        "merge",
        help='A net.* setting of the new net namespace: "net.ipv4.ip_default_ttl=32".',
    ),
    Option(
        "--namespaces",
        "namespaces",
        "TYPE=VALUE,...",
        how="add",
        apply=_join,
        help='For each type "new", "host", or what to join: a pid, a namespace file, a sandbox, or a directory of '
        'nstool pin: "net=/run/netns/lab,uts=host".',
    ),
    Option(
        "--share",
        "namespaces",
        "TYPE,...",
        how="add",
        apply=_share,
        help="Namespaces that are the host's: the same as --namespaces TYPE=host.",
    ),
    Option(
        "--time-offset",
        "namespaces",
        "SECONDS",
        apply=_time_offset,
        help='Added to both clocks, or "monotonic=30d,boottime=1h".',
    ),
    Option(
        "--ipc",
        "ipc",
        "LIMIT=VALUE",
        how="add",
        apply=_ipc,
        help='A limit of the new ipc namespace: "shmmax=64M"; nstool.toml(5) lists them.',
    ),
    *(
        Option(
            f"--{kind}-map",
            f"{kind}_map",
            "INSIDE:OUTSIDE:COUNT",
            values.idmap,
            "add",
            help=f"So many {who} ids from INSIDE on are those of the host from OUTSIDE on; absent: unused ones.",
        )
        for kind, who in (("uid", "user"), ("gid", "group"))
    ),
    Option(
        "--cap",
        "capabilities",
        "NAME,...",
        how="add",
        apply=_capabilities,
        help="Capabilities that the command has: added to all five sets.",
    ),
    *(
        Option(f"--cap-{name}", f"capabilities.{name}", "NAME,...", values.capability_set)
        for name in Capabilities.__fields__
    ),
    Option("--securebits", "securebits", "BIT,...", values.securebits),
    _flag("--no-new-privs", "no_new_privs"),
    Option(
        "--seccomp",
        "seccomp",
        "LIST",
        help='The list of system calls: "default", "strict", "none", or a file: OCI JSON, kafel, TOML with the keys of '
        "[seccomp], compiled BPF (.bpf).",
    ),
    *(
        Option(
            f"--seccomp-{key}",
            f"seccomp.{key}",
            "CALL,...",
            how="add",
            apply=_seccomp(key),
            help=f'System calls that the list {key}s besides: "CALL", "@GROUP", "CALL(ARG == VALUE)".',
        )
        for key in ("allow", "refuse")
    ),
    Option("--seccomp-action", "seccomp.action", "ACTION", apply=_seccomp_action),
    *(
        Option(
            f"--landlock-{key.replace('_', '-')}",
            f"landlock.{key}",
            metavar,
            how="add",
            apply=_landlock(key, read),
            help=help,
        )
        for key, metavar, read, help in (
            ("read", "PATH", str, 'Landlock: a path inside at and below which can be read; "none" for no path.'),
            ("write", "PATH", str, "Landlock: where files can be written, made, moved and removed."),
            ("execute", "PATH", str, "Landlock: where programs can be executed, and all be read."),
            ("tcp_bind", "PORT", values.integer, 'Landlock: a TCP port that can be bound; "none" for no port.'),
            ("tcp_connect", "PORT", values.integer, "Landlock: a TCP port that can be connected to."),
        )
    ),
    Option(
        "--landlock-rule",
        "landlock.rules",
        "PATH=RIGHT,...",
        values.landlock_rule,
        "add",
        help='Landlock: rights by the kernel\'s names: "/srv=read_file,execute".',
    ),
    Option("--landlock-scope", "landlock.scope", "SCOPE,...", values.words),
    Option("--landlock-flags", "landlock.flags", "FLAG,...", values.words),
    Option("--apparmor", "apparmor", "PROFILE"),
    Option("--selinux", "selinux", "CONTEXT"),
    Option("--keyring", "keyring", "HOW"),
    _flag("--init", "init"),
    Option("--terminal", "terminal", "WHEN"),
    Option(
        "--pass-fd",
        "pass_fds",
        "FD",
        values.integer,
        "add",
        help="A file descriptor of yours that the command gets: the first as 3, the next as 4.",
    ),
    Option("--aslr", "aslr", "HOW"),
    Option("--personality", "personality", "NAME"),
    Option("--next-pid", "next_pid", "PID", values.integer),
    _flag("--subreaper", "subreaper"),
    _flag(
        "--die-with-parent",
        "die_with_parent",
        "The sandbox ends when its launcher does; if not, it runs on, and a later command undoes it.",
    ),
    Option("--oom-score-adj", "oom_score_adj", "SCORE", values.integer),
    _flag("--attest", "attest"),
)
BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}
_OPPOSITES: dict[str, Option] = {option.opposite: option for option in OPTIONS if option.how == "flag"}


def apply(option: Option, spec: Spec, texts: list[str]) -> Applied:
    """Return spec with an option's values laid over it, and the key paths that were set. Raises SpecError."""
    path = option.path
    try:
        if option.apply:
            return option.apply(spec, texts)
        if option.how == "flag":
            return put(spec, path, texts[-1] == option.name), [path]
        found = [option.read(text) for text in texts]
    except SpecError as error:
        raise SpecError(error.message, option.name) from None
    old = get(spec, path)
    if option.how == "add":
        return put(spec, path, (*old, *found)), [(*path, len(old) + i) for i in range(len(found))]
    if option.how == "merge":
        return put(spec, path, {**old, **dict(found)}), [(*path, name) for name, _ in found]
    return put(spec, path, found[-1]), [path]


class Line(Frozen):
    """A command line taken apart. file: the spec file or None. texts: the values of each option.

    rest: options of the caller. args: what stands behind "--".
    """

    file: str | None
    texts: dict[str, list[str]]
    rest: dict[str, str | bool]
    args: tuple[str, ...]


def parse(argv: Sequence[str], others: Mapping[str, bool] | None = None) -> tuple[Spec, dict[str, str | bool], Place]:
    """Return the checked Spec that a command line asks for, the caller's own options in it, and where its keys stand.

    Grammar: ``[options] -- CMD ARGS`` or ``[options] SPEC [options] [-- ARGS]``; options override keys of
    the file or add to its lists, ARGS are appended to its command. others: further options that the
    caller understands, and whether each takes a value: {"--json": False, "-o": True}.
    Raises SpecError, with the option or the line of the file as its place.
    """
    line = split(argv, others or {})
    spec, place = _spec(line)
    return spec, line.rest, place


def _spec(line: Line) -> tuple[Spec, Place]:
    place: Place
    given: frozenset[Path]
    spec, place, given = Spec(), key_path, frozenset()
    if line.file is not None:
        from nstool.spec.load import read  # late: msgspec and tomllib cost as much as Python's start

        loaded = read(line.file)
        spec, place, given = loaded.spec, loaded.place, loaded.given
    named: dict[Path, str] = {}
    # The others change the list that this one names.
    for name, texts in sorted(line.texts.items(), key=lambda option: option[0] != "--seccomp"):
        before = spec
        spec, paths = apply(BY_NAME[name], spec, texts)
        word = texts[-1] if BY_NAME[name].how == "flag" else name  # --no-init and --init are one option
        _agree(word, paths, named, before, spec)
        named.update((path, word) for path in paths)
    spec = absolute(spec.replace(command=(*spec.command, *line.args)), here)
    spec = implied(spec, {*given, *named})
    place = _places(named, place)
    check(spec, place)
    return spec, place


def _agree(name: str, paths: Sequence[Path], named: Mapping[Path, str], before: Spec, after: Spec) -> None:
    """Refuse an option that undoes what another one says. named: key path to option so far.

    Capabilities alone are laid over each other on purpose: --cap sets all five sets, --cap-bounding one.
    """
    for path in paths:
        other = named.get(path, name)
        if other != name and path[0] != "capabilities" and get(before, path) != get(after, path):
            raise SpecError(f"contradicts {other}: both set {key_path(path)}", name)


def _places(named: Mapping[Path, str], file: Place) -> Place:
    """Return the place function for keys set by options over those of a file. named: key path to option."""

    def place(path: Path) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in named:
                return named[path[:length]]
        below = (option for key, option in named.items() if key[: len(path)] == path)
        return next(below, "") or file(path)

    return place


def split(argv: Sequence[str], others: Mapping[str, bool]) -> Line:
    """Take a command line apart without looking at the values. Raises SpecError."""
    words = list(argv)
    args: tuple[str, ...] = ()
    file: str | None = None
    texts: dict[str, list[str]] = {}
    rest: dict[str, str | bool] = {}
    while words:
        word = words.pop(0)
        if word == "--":
            args = tuple(words)
            break
        if word == "-" or not word.startswith("-"):
            file = _file(word, file)
            continue
        name, equals, value = word.partition("=")
        if name in BY_NAME and BY_NAME[name].how != "flag":
            texts.setdefault(name, []).append(value if equals else _value(words, name, BY_NAME[name].metavar))
        elif others.get(name):
            rest[name] = value if equals else _value(words, name, "VALUE")
        elif equals and (name in BY_NAME or name in _OPPOSITES or name in others):
            raise SpecError("takes no value", name)
        elif name in others:
            rest[name] = True
        elif name in BY_NAME:
            texts.setdefault(name, []).append(name)
        elif name in _OPPOSITES:
            texts.setdefault(_OPPOSITES[name].name, []).append(name)
        else:
            raise SpecError(f"unknown option; {_instead(name, (*BY_NAME, *_OPPOSITES, *others))}", _shown(name))
    return Line(file, texts, rest, args)


def _instead(name: str, known: Sequence[str]) -> str:
    """Return what may have been meant by an option that there is not."""
    from nstool.cli import foreign

    # Without the dashes, which all have in common.
    words = {option.lstrip("-"): option for option in known}
    if said := foreign.option(name, known):
        return said
    near = values.nearest(name.lstrip("-"), words)
    return f'did you mean "{words[near]}"?' if near else "--help lists them"


def _shown(name: str) -> str:
    return values.quoted(name)[1:-1]


def _value(words: list[str], name: str, metavar: str) -> str:
    if not words or words[0] == "--":
        raise SpecError(f"needs a value: {name} {metavar}", name)
    return words.pop(0)


def _file(word: str, file: str | None) -> str:
    if file is not None:
        raise SpecError(
            f"a second spec file; arguments of the command go behind --: {file} -- {_shown(word)}", _shown(word)
        )
    if word != "-" and not word.endswith((".toml", ".json", ".plan")) and "/" not in word:  # .plan: told what it is
        raise SpecError(
            f"neither an option nor a spec file (.toml, .json, or a path with a /); a command goes behind --: "
            f"-- {_shown(word)}",
            _shown(word),
        )
    return word


def click_options() -> list[click.Option]:
    """Return click's options of the table, for ``--help`` and completion."""
    import click

    from nstool.spec.check import CHOICES

    found = []
    for option in OPTIONS:
        if option.how == "flag":
            found.append(click.Option([f"{option.name}/{option.opposite}"], default=None, help=option.description))
            continue
        owner, _, field = option.key.rpartition(".")
        choices = CHOICES.get(f"{(owner or 'spec').capitalize()}.{field}")
        kind = click.Choice([c for c in choices if c]) if choices else click.STRING
        metavar = None if choices else option.metavar
        found.append(
            click.Option([option.name], type=kind, metavar=metavar, multiple=option.repeated, help=option.description)
        )
    return found
