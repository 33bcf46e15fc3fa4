"""Hypothesis strategies: specs that pass spec.check, hosts, leases, and plans of any shape that C accepts."""

from __future__ import annotations

import functools
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from nstool import uapi
from nstool.errors import SpecError
from nstool.kinds import KINDS
from nstool.plan import views
from nstool.plan.calls import CALLS
from nstool.plan.cgroups import CONTROLLERS, Controller, Layout
from nstool.plan.host import COVERED, SCRATCH, Host, Shown, SubIds
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.spec.check import CHOICES, check
from nstool.spec.model import (
    Capabilities,
    IdMap,
    Ipc,
    Limits,
    Mount,
    Namespaces,
    Net,
    Publish,
    Root,
    Spec,
)

# What a string of a spec can hold: no NUL, and bytes that are no UTF-8 as os.fsdecode gives them.
CHARACTERS = st.characters(min_codepoint=1, max_codepoint=0x10FFFF, exclude_categories=["Cs"]) | st.characters(
    min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]
)
WORDS = st.text(CHARACTERS, max_size=12)
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,11}", fullmatch=True)
PATHS = st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,5}", fullmatch=True), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
PIDS = st.integers(1, 1 << 22).map(str)
SIZES = st.sampled_from((0, 4096, 64 << 20, 1 << 40))
CAPABILITY = st.sampled_from(sorted(uapi.CAPABILITIES))
ALL_CAPABILITIES = (1 << 41) - 1


@functools.cache
def subsets(names: tuple[str, ...] | frozenset[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Any of the names, each at most once, in any order."""
    return st.lists(st.sampled_from(sorted(names)), unique=True, max_size=5).map(tuple) if names else st.just(())


@functools.cache
def word(key: str) -> st.SearchStrategy[str]:
    """One of the words that a key of the spec can have; the first is the default."""
    return st.sampled_from(CHOICES[key])


# ---- specs ----


@st.composite
def namespaces(draw: st.DrawFn) -> Namespaces:
    """Mostly new ones; some of the host's, of a process, or pinned to a file."""
    other = st.sampled_from(("new", "new", "host")) | PIDS | PATHS
    if draw(st.booleans()):
        return Namespaces()
    drawn: dict[str, Any] = {name: draw(other) for name in KINDS}
    return Namespaces(**drawn)


@st.composite
def roots(draw: st.DrawFn) -> Root:
    kind = draw(word("Root.type"))
    writable = draw(st.booleans())
    size = draw(st.sampled_from((4096, 64 << 20)))
    if kind == "host":
        return Root(writable=writable)
    if kind in ("directory", "tarball"):
        return Root(kind, draw(PATHS), writable=writable, idmap=kind == "directory" and draw(st.booleans()))
    if kind == "overlay":
        lower = tuple(draw(st.lists(PATHS, min_size=1, max_size=3)))
        upper = draw(st.just("") | PATHS) if writable else ""
        return Root(kind, "", lower, upper, writable, draw(st.booleans()), 64 << 20 if upper else size)
    return Root(kind, writable=writable, size=size)


@st.composite
def mounts(draw: st.DrawFn) -> Mount:
    kind = draw(word("Mount.type"))
    words: dict[str, Any] = {
        name: draw(st.booleans()) for name in ("writable", "recursive", "exec", "suid", "dev", "symlinks")
    }
    if kind == "bind":
        words |= {"source": draw(PATHS), "idmap": draw(st.booleans())}
    if kind == "overlay":
        words |= {"lower": tuple(draw(st.lists(PATHS, min_size=1, max_size=2)))}
        words |= {"upper": draw(st.just("") | PATHS) if words["writable"] else ""}
    size = draw(SIZES) if kind == "tmpfs" else 0
    return Mount(draw(PATHS), type=kind, size=size, propagation=draw(word("Mount.propagation")), **words)


@st.composite
def nets(draw: st.DrawFn, other: str) -> Net:
    """other: namespaces.net."""
    if other == "host":
        return Net("host")
    if other != "new":
        return Net("join", other)
    mode = draw(st.sampled_from(("loopback", "none", "veth", "bridge", "join")))
    if mode == "join":
        return Net(mode, draw(PIDS | PATHS | NAMES))
    sysctls = draw(st.dictionaries(st.just("net.ipv4.ip_default_ttl"), st.just("65"), max_size=1))
    net = Net(mode, dns=draw(st.just(()) | st.just(("9.9.9.9",))), sysctls=sysctls)
    if mode not in ("veth", "bridge"):
        return net
    ports = st.builds(Publish, st.integers(1, 65535), st.integers(1, 65535), word("Publish.protocol"))
    return net.replace(
        publish=tuple(draw(st.lists(ports, max_size=2, unique_by=lambda p: (p.host, p.protocol)))),
        nat=draw(st.booleans()),
        ipv6=draw(st.booleans()),
        isolated=draw(st.booleans()),
        address=draw(st.sampled_from(("", "192.168.7.2/24"))),
        routes=draw(st.sampled_from(((), (("10.9.0.0/16", "192.168.7.1"),)))),
    )


@st.composite
def capabilities(draw: st.DrawFn) -> Capabilities:
    """Sets of which each lies within the one that the kernel asks for."""
    bounding = draw(subsets(frozenset(uapi.CAPABILITIES)))
    inheritable = draw(subsets(frozenset(bounding)))
    permitted = draw(subsets(frozenset(bounding)))
    ambient = draw(subsets(frozenset(inheritable) & frozenset(permitted)))
    return Capabilities(draw(subsets(frozenset(permitted))), permitted, inheritable, bounding, ambient)


def id_maps(own: int) -> st.SearchStrategy[tuple[IdMap, ...]]:
    """Maps in which id 1000 exists. own: an id of the caller's."""
    return st.sampled_from(
        ((), (IdMap(1000, own, 1),), (IdMap(0, 1_000_000, 65536),), (IdMap(0, 5000, 1), IdMap(1000, 6000, 10)))
    )


# Changes that go with every spec, and those that need a namespace of the sandbox's own.
ANYWHERE: dict[str, st.SearchStrategy[Any]] = {
    "env": st.dictionaries(WORDS.filter(lambda w: w and "=" not in w), WORDS, max_size=3),
    "cwd": PATHS,
    "umask": st.integers(0, 0o777),
    "hidepid": word("Spec.hidepid"),
    "limits": st.builds(
        Limits,
        memory=st.sampled_from((0, 1 << 20, 64 << 20, 1 << 40)),
        pids=st.sampled_from((0, 2, 256)),
        cpu=st.sampled_from((0.0, 0.5, 64.0)),
        rlimits=st.dictionaries(st.sampled_from(sorted(uapi.RLIMITS)), st.sampled_from(((0, 0), (10, -1))), max_size=3),
    ),
    "groups": st.sampled_from((("keep",), ("1000",))),
    "capabilities": capabilities(),
    "securebits": subsets(("noroot", "noroot_locked", "no_cap_ambient_raise")),
    "seccomp": st.sampled_from(("none", "strict")),
    "keyring": word("Spec.keyring"),
    "terminal": word("Spec.terminal"),
    "pass_fds": st.lists(st.integers(3, 40), unique=True, max_size=3).map(tuple),
    "aslr": word("Spec.aslr"),
    "personality": word("Spec.personality"),
    "subreaper": st.booleans(),
    "die_with_parent": st.booleans(),
    "oom_score_adj": st.integers(-1000, 1000),
    "init": st.booleans(),
}
OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "mnt": {
        "root": roots(),
        "mounts": st.lists(mounts(), max_size=3, unique_by=lambda m: m.target).map(tuple),
        "mount_propagation": word("Spec.mount_propagation"),
        "dev": word("Spec.dev"),
        "tmp_size": SIZES,
        "mask_paths": st.lists(PATHS, max_size=2).map(tuple),
        "readonly_paths": st.lists(PATHS, max_size=2).map(tuple),
    },
    "user": {"uid_map": id_maps(1000), "gid_map": id_maps(1000)},
    "ipc": {"ipc": st.builds(Ipc, msgmax=st.sampled_from((0, 8192)))},
}
CHANGES = st.sets(st.sampled_from(sorted({*ANYWHERE, *OWN["mnt"], *OWN["user"], *OWN["ipc"], "net"})), max_size=8)
COMMANDS = st.lists(WORDS, max_size=3).flatmap(lambda args: WORDS.filter(bool).map(lambda name: (name, *args)))


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any spec that spec.check lets through: the default with some changes."""
    ns = draw(namespaces())
    own = {name for name in KINDS if getattr(ns, name) == "new"}
    possible = ANYWHERE | {key: values for name in own for key, values in OWN.get(name, {}).items()}
    changes: dict[str, Any] = {"namespaces": ns, "name": draw(st.just("") | NAMES)}
    wanted = draw(CHANGES)
    changes |= {key: draw(possible[key]) for key in sorted(wanted & possible.keys())}
    if "net" in wanted or ns.net != "new":
        changes["net"] = draw(nets(ns.net))
    if "mnt" not in own:
        changes |= {"proc": "none", "dev": "none", "tmp_size": 0}
    elif "pid" not in own or draw(st.booleans()):
        changes["proc"] = draw(word("Spec.proc") if "pid" in own else st.sampled_from(("none", "bind")))
    if changes.get("proc", "private") != "private":
        changes.pop("hidepid", None)
    if "pid" in own and draw(st.booleans()):
        changes["next_pid"] = 77 if changes.get("init", True) else 1
    if changes.get("seccomp") == "none":
        changes["no_new_privs"] = draw(st.booleans())
    spec = Spec(command=draw(COMMANDS), **changes)
    try:
        check(spec)
    except SpecError:
        assume(False)
    return spec


# ---- hosts ----


def layout(version: int, *, usable: bool = True, unified: bool = True) -> Layout:
    """A host with all controllers in one version, at the usual place."""
    base = "/sys/fs/cgroup"

    def controller(name: str) -> Controller:
        mount = f"{base}/{name}" if version == 1 else base
        return Controller(name, version, mount, f"{mount}/x", True, usable, "" if usable else "no right")

    controllers = {name: controller(name) for name in CONTROLLERS}
    place = f"{base}/unified" if version == 1 else base
    return Layout(controllers, *((place, f"{place}/x") if unified and usable else ("", "")))


LAYOUTS = st.sampled_from((layout(1), layout(1, unified=False), layout(2))) | st.sampled_from(
    (None, layout(1), layout(2), layout(2), layout(2, usable=False), layout(1, usable=False))
)
RANGES = st.sampled_from(
    (
        (SubIds(100_000, 65536),),
        (SubIds(100_000, 1 << 20),),
        (SubIds(100_000, 900), SubIds(1 << 30, 65536)),
        (SubIds(9, 1),),
    )
)


@st.composite
def callers(draw: st.DrawFn) -> dict[str, Any]:
    """Root, root without some capabilities, an ordinary user with and without newuidmap(1)."""
    if draw(st.booleans()):
        return {}
    user: dict[str, Any] = {"uid": 1000, "gid": 1000, "capabilities": 0, "privileged": False}
    user["groups"] = draw(st.sampled_from(((1000,), (1000, 27))))
    if draw(st.sampled_from((False, False, True))):
        less = draw(st.integers(0, ALL_CAPABILITIES)) & ~(1 << uapi.CAPABILITIES["sys_admin"])
        user |= {"uid": 0, "gid": 0, "groups": (0,), "capabilities": less}
    if draw(st.sampled_from((True, True, False))):
        user |= {"newuidmap": "/usr/bin/newuidmap", "newgidmap": "/usr/bin/newgidmap"}
        user |= {"subuid": draw(RANGES), "subgid": draw(RANGES)}
    return user


PROC_FILES = ("acpi", "cpuinfo", "kcore", "keys", "loadavg", "meminfo", "stat", "tty")
SYSCTLS = (*views.SETTINGS, *views.LIVE, *(f"kernel/{name}" for name in views.IPC))
SHOWN = (
    Shown("/usr", "dir", layer=0, source="usr"),
    Shown("/usr/local", "dir", layer=1, below=True),
    Shown("/usr/share/one", "file", source="/usr/share/one", below=True),
    Shown("/bin", "link", "usr/bin"),
    Shown("/etc/ssl", "dir", layer=0, source="etc/ssl"),
    Shown("/etc/services", "file", layer=0, source="etc/services"),
)
COMMAND = Shown("/opt/tool/run", "file", layer=0, source="opt/tool/run")


@st.composite
def hosts(draw: st.DrawFn, spec: Spec) -> Host:
    """A machine and a caller on which this spec may be planned; its files as host.read would find them."""
    places = ("/proc", "/dev", *SCRATCH, *(m.target for m in spec.mounts), *spec.mask_paths)
    here = frozenset(draw(st.sets(st.sampled_from(places))) | draw(st.sampled_from((set(places), set[str]()))))
    top: tuple[tuple[str, str, str], ...] = ()
    if spec.root.type == "directory" and not spec.root.writable:
        top = draw(st.sampled_from(((), (("usr", "dir", ""), ("bin", "link", "usr/bin"), ("init", "file", "")))))
    facts: dict[str, Any] = {
        "proc_files": draw(st.dictionaries(st.sampled_from(PROC_FILES), st.booleans())),
        "sysctls": draw(st.dictionaries(st.sampled_from(SYSCTLS), st.sampled_from(("", "1\n")))),
        "shown": draw(st.sampled_from((SHOWN, SHOWN[:1]))) if spec.root.type == "system" else (),
        "layers": ("/", "/usr/local") if spec.root.type == "system" else (),
        "command": draw(st.sampled_from((None, COMMAND))) if spec.root.type == "system" else None,
        "root": here,
        "covered": draw(subsets(COVERED)) if spec.root.type == "host" else (),
        "scratch": draw(subsets(SCRATCH)) if spec.root.type == "host" else (),
        "files": frozenset(draw(subsets(("/etc/resolv.conf", "/etc/hosts")))),
        "top": top,
        "source_kinds": {m.source: draw(st.sampled_from(("dir", "file"))) for m in spec.mounts if m.type == "bind"},
        "targets": {path: draw(st.sampled_from(("dir", "file", ""))) for path in places[2:]},
        "roots": "/run/nstool/roots",
        "cgroups": draw(LAYOUTS),
        "nameservers": draw(st.sampled_from(((), ("192.0.2.1",)))),
        "terminals": draw(st.sampled_from(((), (0,), (0, 1, 2)))),
        "term": "xterm",
        **draw(callers()),
    }
    return Host(**{name: value for name, value in facts.items() if name in Host.__fields__})


@st.composite
def leases(draw: st.DrawFn, spec: Spec) -> Lease:
    """What leases.take gives for a spec."""
    name = spec.name or draw(NAMES)
    ids = draw(st.integers(100_000, 1 << 31))
    return Lease(
        name,
        ids,
        ids,
        65536,
        f"nstool-{name}",
        "ns-0ad50002",
        "10.213.0.2/30",
        "10.213.0.1/30",
        "fd00::2/126",
        "fd00::1/126",
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Spec, Host, Lease]:
    """A spec with a host and a lease for it."""
    spec = draw(specs())
    return spec, draw(hosts(spec)), draw(leases(spec))


# ---- plans that no spec makes ----

# Calls that every role may make, with whatever arguments their kinds allow. csrc/plan.c, who_bad().
_HARMLESS = (
    "openat2 open_tree move_mount mount_setattr fsopen fsconfig fsmount mount umount2 mkdirat mknodat symlinkat "
    "unlinkat fchownat fchmodat write_file write socket pidfd_open"
)
OPENS = frozenset({"openat2", "open_tree", "fsopen", "fsmount", "socket", "pidfd_open"})
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "i": st.integers(-(1 << 63), (1 << 64) - 1),
    "s": WORDS,
    "z": st.none() | WORDS,
    "b": st.binary(max_size=80) | WORDS,
    "v": st.lists(WORDS, max_size=4).map(tuple),
}


@st.composite
def steps(draw: st.DrawFn, who: str, names: list[str]) -> Step:
    """One step of this role. names: fds that it may use; the one that it opens is appended."""
    call = CALLS[draw(st.sampled_from(_HARMLESS.split()))]
    numbers = st.integers(-(1 << 31), (1 << 31) - 1)
    fds = numbers | st.sampled_from(names).map(Fd) if names else numbers
    args = tuple(draw(fds if kind == "f" else VALUES[kind]) for _, kind in call.params)
    result = ""
    if call.name in OPENS and who not in (CHILD, UNDO):
        result = draw(st.just("") | NAMES)
        if result in ("stdin", "stdout", "stderr"):
            result = ""
    if result and result not in names:
        names.append(result)
    return Step(who, call.name, args, "", result, draw(st.integers(0, 133)))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan of the right order, with arguments at random."""
    given_fds = draw(st.sampled_from(((), ("stdin", "stdout", "stderr"))))
    names = list(given_fds)
    init = draw(st.booleans())

    def some(who: str) -> list[Step]:
        return [draw(steps(who, names)) for _ in range(draw(st.integers(0, 3)))]

    command = (("/bin/true",), draw(VALUES["v"].filter(bool)), draw(VALUES["v"]))
    made = [
        *some(LAUNCHER),
        Step(LAUNCHER, "clone3", (draw(st.sampled_from((0, uapi.CLONE_NEWUSER, uapi.CLONE_NEWNS))), -1, 0, 0), ""),
        *some(CHILD),
        Step(CHILD, "exec_init", (), ""),
        *some(LAUNCHER),
        Step(LAUNCHER, "release", (), ""),
        Step(INIT, "wait", (), ""),
        *some(INIT),
        *((Step(INIT, "clone3", (0, -1, draw(st.sampled_from((0, 77))), 0), ""), *some(INIT)) if init else ()),
        Step(PAYLOAD, "reset_signals", (), ""),
        *some(PAYLOAD),
        Step(PAYLOAD, "execve", command, ""),
        *some(UNDO),
    ]
    return Plan(tuple(made), given_fds, init, draw(st.booleans()))
