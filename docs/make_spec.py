"""Make docs/spec.md: every key of a spec with its type, default, meaning and man page, from the schema's sources.

``make docs`` runs it; tests/unit/test_docs.py fails when the file is not what this prints.
"""

from __future__ import annotations

import sys
from typing import Any, get_args, get_origin

from nstool.frozen import Frozen
from nstool.spec import check, model
from nstool.spec.check_service import CHOICES as SERVICE_CHOICES
from nstool.spec.docs import DOCS, MOUNT_OPTIONS
from nstool.spec.schema import HUMAN, WORDS, hints
from nstool.spec.service import SECONDS, Service

CHOICES = check.CHOICES | {f"Service.{name}": words for name, words in SERVICE_CHOICES.items()}
# Class of the model to (heading, how the table is written in TOML).
TABLES: dict[type[Frozen], tuple[str, str]] = {
    model.Spec: ("Top level", "the file itself"),
    model.Root: ("root", '`[root]`, or one word: `root = "/"`'),
    model.Mount: ("mounts", '`[[mounts]]`, or `mounts = ["SRC:DST[:OPTION,...]", ...]`'),
    model.Limits: ("limits", "`[limits]`"),
    model.Net: ("net", '`[net]`, or one word: `net = "veth"`'),
    model.Publish: ("net.publish", '`publish = ["8080:80"]`, or a list of tables'),
    model.Namespaces: ("namespaces", "`[namespaces]`"),
    model.Capabilities: ("capabilities", "`[capabilities]`, or a list of names for all five sets"),
    model.Ipc: ("ipc", "`[ipc]`"),
    model.Landlock: ("landlock", "`[landlock]`"),
    model.LandlockRule: ("landlock.rules", '`rules = ["PATH=RIGHT,..."]`, or a list of tables'),
    model.Seccomp: ("seccomp", '`[seccomp]`, or one word or path: `seccomp = "strict"`'),
    model.SeccompCall: (
        "seccomp.allow, seccomp.refuse",
        '`allow = ["@mount", "ioctl(cmd == TIOCSTI)"]`, or a list of tables',
    ),
    model.SeccompWhere: ("where", '`{ call = "ioctl", where = [{ arg = 1, value = "TIOCSTI" }] }`'),
    Service: ("service", "`[service]`, for `nstool serve`: [serve.md](serve.md)"),
    model.IdMap: ("uid_map, gid_map", '`uid_map = ["INSIDE:OUTSIDE:COUNT"]`, or a list of tables'),
}
# What a person may write beside the plain form; every key of schema.HUMAN is here.
SIZE = 'bytes, or text: "64M"'
CLOCK = 'seconds, or text: "30d"'
NAMESPACE = '"new", "host", a pid, a namespace file, the name of a sandbox, or a directory of `nstool pin`'
NAMES = 'list of names, "NAME,...", "all", or a mask as "0x21"'
FORMS: dict[str, str] = {
    "Spec.root": "table, text, or list of layers",
    "Spec.user": "text, or number",
    "Spec.groups": "list of names or numbers, or text",
    "Spec.env": 'table, or list of "NAME=VALUE"',
    "Spec.umask": 'octal text: "022", or 0o022; 22 is refused',
    "Spec.mounts": "list of tables or texts",
    "Spec.tmp_size": SIZE,
    "Spec.net": "table, or text",
    "Spec.uid_map": "list of tables, texts, or [inside, outside, count]",
    "Spec.gid_map": "list of tables, texts, or [inside, outside, count]",
    "Spec.capabilities": "table, list of names, text, or number",
    "Root.size": SIZE,
    "Mount.size": SIZE,
    "Mount.mode": 'octal text: "1777", or 0o1777; 1777 is refused',
    "Service.socket_mode": 'octal text: "0660", or 0o660; 660 is refused',
    **{f"Service.{name}": 'seconds, or text: "10m"' for name in SECONDS},
    "Net.publish": "list of texts, tables or numbers",
    "Net.hosts": 'list of "NAME=ADDRESS" or [ADDRESS, NAME]',
    "Net.routes": 'list of "DESTINATION=GATEWAY" or [DESTINATION, GATEWAY]',
    "Net.sysctls": 'table, or list of "NAME=VALUE"',
    "Limits.memory": SIZE,
    "Limits.swap": SIZE,
    "Limits.cpu": 'cores, or text: "50%"',
    "Limits.rlimits": 'table: NAME = "SOFT:HARD", a number, or [SOFT, HARD]',
    "Limits.ucounts": 'table: NAME = NUMBER, or "unlimited"',
    "Landlock.rules": 'list of tables or texts "PATH=RIGHT,..."',
    "Spec.seccomp": 'table, "default", "strict", "none", or a path',
    "Seccomp.allow": "list of texts or tables",
    "Seccomp.refuse": "list of texts or tables",
    "SeccompWhere.value": 'number, or text: "A|B"',
    "SeccompWhere.mask": 'number, or text: "A|B"',
    "Spec.securebits": 'list of names, "NAME,...", or a mask as "0x2f"',
    **{f"Capabilities.{name}": NAMES for name in model.Capabilities.__fields__},
    **{f"Namespaces.{name}": NAMESPACE for name in model.Namespaces.__fields__ if not name.endswith("_offset")},
    "Namespaces.monotonic_offset": CLOCK,
    "Namespaces.boottime_offset": CLOCK,
}
# The man page that says most about a key; a key that is nstool's own idea has none.
PAGES: dict[str, str] = {
    "Spec.command": "execve(2)",
    "Spec.root": "pivot_root(2)",
    "Spec.hostname": "sethostname(2)",
    "Spec.domainname": "setdomainname(2)",
    "Spec.user": "credentials(7)",
    "Spec.groups": "setgroups(2)",
    "Spec.env": "environ(7)",
    "Spec.cwd": "chdir(2)",
    "Spec.umask": "umask(2)",
    "Spec.mounts": "move_mount(2)",
    "Spec.mount_propagation": "mount_namespaces(7)",
    "Spec.proc": "proc(5)",
    "Spec.hidepid": "proc(5)",
    "Spec.proc_subset": "proc(5)",
    "Spec.proc_show": "proc(5)",
    "Spec.dev": "null(4)",
    "Spec.tmp_size": "tmpfs(5)",
    "Spec.mask_paths": "mount(2)",
    "Spec.readonly_paths": "mount_setattr(2)",
    "Spec.limits": "cgroups(7)",
    "Spec.net": "network_namespaces(7)",
    "Spec.namespaces": "namespaces(7)",
    "Spec.ipc": "ipc_namespaces(7)",
    "Spec.uid_map": "user_namespaces(7)",
    "Spec.gid_map": "user_namespaces(7)",
    "Spec.capabilities": "capabilities(7)",
    "Spec.securebits": "capabilities(7)",
    "Spec.no_new_privs": "prctl(2)",
    "Spec.seccomp": "seccomp(2)",
    "Spec.landlock": "landlock(7)",
    "Spec.apparmor": "apparmor(7)",
    "Spec.selinux": "selinux(8)",
    "Spec.keyring": "session-keyring(7)",
    "Spec.init": "pid_namespaces(7)",
    "Spec.terminal": "pts(4)",
    "Spec.pass_fds": "dup(2)",
    "Spec.aslr": "personality(2)",
    "Spec.personality": "personality(2)",
    "Spec.next_pid": "clone(2)",
    "Spec.subreaper": "prctl(2)",
    "Spec.die_with_parent": "prctl(2)",
    "Spec.oom_score_adj": "proc(5)",
    "Spec.attest": "proc(5)",
    "Root.type": "pivot_root(2)",
    "Root.path": "open_tree(2)",
    "Root.lower": "mount(8)",
    "Root.upper": "mount(8)",
    "Root.writable": "mount_setattr(2)",
    "Root.idmap": "mount_setattr(2)",
    "Root.size": "tmpfs(5)",
    "Mount.source": "open_tree(2)",
    "Mount.target": "move_mount(2)",
    "Mount.type": "fsopen(2)",
    "Mount.recursive": "open_tree(2)",
    **{f"Mount.{name}": "mount_setattr(2)" for name in ("writable", "exec", "suid", "dev", "symlinks", "idmap")},
    "Mount.propagation": "mount_namespaces(7)",
    "Mount.size": "tmpfs(5)",
    "Mount.mode": "tmpfs(5)",
    "Mount.lower": "mount(8)",
    "Mount.upper": "mount(8)",
    **dict.fromkeys((f"Publish.{name}" for name in model.Publish.__fields__), "nft(8)"),
    "Net.mode": "network_namespaces(7)",
    "Net.target": "setns(2)",
    **{f"Net.{name}": "ip-address(8)" for name in ("address", "gateway", "address6", "gateway6")},
    "Net.bridge": "bridge(8)",
    "Net.publish": "nft(8)",
    "Net.dns": "resolv.conf(5)",
    "Net.hosts": "hosts(5)",
    "Net.routes": "ip-route(8)",
    "Net.nat": "nft(8)",
    "Net.ipv6": "ipv6(7)",
    "Net.mtu": "netdevice(7)",
    "Net.isolated": "nft(8)",
    "Net.sysctls": "sysctl(8)",
    **{f"Limits.{name}": "cgroups(7)" for name in ("memory", "swap", "pids", "cpu")},
    "Limits.rlimits": "getrlimit(2)",
    "Limits.ucounts": "namespaces(7)",
    **{f"Capabilities.{name}": "capabilities(7)" for name in model.Capabilities.__fields__},
    **{f"Namespaces.{name}": DOCS[f"Namespaces.{name}"] for name in model.Namespaces.__fields__[:8]},
    "Namespaces.monotonic_offset": "time_namespaces(7)",
    "Namespaces.boottime_offset": "time_namespaces(7)",
    **{f"Ipc.{name}": "mq_overview(7)" if name.startswith("mq_") else "sysvipc(7)" for name in model.Ipc.__fields__},
    **{f"Landlock.{name}": "landlock(7)" for name in model.Landlock.__fields__},
    "Landlock.flags": "landlock_restrict_self(2)",
    **{f"LandlockRule.{name}": "landlock(7)" for name in model.LandlockRule.__fields__},
    **{f"Seccomp.{name}": "seccomp(2)" for name in model.Seccomp.__fields__ if name != "errno"},
    "Seccomp.errno": "errno(3)",
    **{f"SeccompCall.{name}": "syscalls(2)" for name in model.SeccompCall.__fields__},
    **{f"SeccompWhere.{name}": "seccomp(2)" for name in model.SeccompWhere.__fields__},
    **{f"IdMap.{name}": "user_namespaces(7)" for name in model.IdMap.__fields__},
}
OPTIONS = 'Each OPTION of the short form, as in `mounts = ["out:/out:rw,noexec"]` and `--mount out:/out:rw,noexec`:'
SHIFTS = ((30, "G"), (20, "M"), (10, "K"))
HEAD = """\
# The spec

What a spec file (TOML or JSON) can say. Every default is the safe one, so a file with `command` alone is complete. A
key that does not exist, a wrong type, or keys that do not fit together are refused with file and line before anything
is done. `nstool init` writes a commented file to start from, `nstool schema` prints the JSON Schema that editors
complete by; the options of `nstool run` set the same keys ([cli.md](cli.md)). Relative paths of the host start at the
file's directory.

In Python each table is a class of `nstool` with the same fields ([library.md](library.md)); there the plain forms
count: bytes, seconds, tuples.

Sizes are bytes, or text with a unit of 1024: "512k", "64M", "1GiB". Times are seconds, or text with a unit: "90s",
"10m", "2h", "30d"; those of `[service]` may have a fraction, as "1.5h".

This file is made by `make docs` from `nstool/spec`.
"""


def form(cls: type[Frozen], field: str) -> str:
    """Return what a value of a key is, in words."""
    key = f"{cls.__name__}.{field}"
    if key in CHOICES:
        return ", ".join(f'"{word}"' for word in CHOICES[key])
    if key in WORDS and key not in FORMS:
        return "list of " + ", ".join(f'"{word}"' for word in WORDS[key])
    return FORMS[key] if key in HUMAN else _plain(hints(cls)[field])


def _plain(hint: Any) -> str:
    if type(None) in get_args(hint):
        hint = get_args(hint)[0]
    words = {str: "text", int: "number", bool: "true or false", float: "number"}
    if hint in words:
        return words[hint]
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return "list of tables" if isinstance(inner, type) and issubclass(inner, Frozen) else f"list of {_plain(inner)}"
    return "table"


def default(cls: type[Frozen], field: str) -> str:
    """Return the default of a key as TOML has it; empty where the table below has them."""
    key = f"{cls.__name__}.{field}"
    if field not in cls.__defaults__ or key == "Spec.command":
        return "required"
    value = cls.__defaults__[field]
    if isinstance(value, Frozen):
        return "below"
    if key in ("Spec.umask", "Mount.mode"):
        return f'`"{value:04o}"`'
    if value is None:
        return "absent"
    if FORMS.get(key) == SIZE and isinstance(value, int) and value:
        shift, unit = next((s, u) for s, u in SHIFTS if value % (1 << s) == 0)
        return f'`"{value >> shift}{unit}"`'
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def text() -> str:
    """Return the whole of docs/spec.md."""
    parts = [HEAD]
    for cls, (heading, how) in TABLES.items():
        parts.append(f"\n## {heading}\n\n{how[0].upper()}{how[1:]}.\n\n| key | value | default | meaning | man page |")
        parts.append("|---|---|---|---|---|")
        for field in cls.__fields__:
            key = f"{cls.__name__}.{field}"
            meaning = (
                f"The {field} namespace." if key.startswith("Namespaces.") and DOCS[key] == PAGES[key] else DOCS[key]
            )
            cells = (f"`{field}`", form(cls, field), default(cls, field), meaning, PAGES.get(key, ""))
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        if cls is model.Mount:
            parts.append(f"\n{OPTIONS}\n\n| option | sets |\n|---|---|")
            parts += [f"| `{option}` | {sets} |" for option, sets in MOUNT_OPTIONS.items()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
