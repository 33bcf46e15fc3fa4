"""Spec + host facts + lease → Plan: THE place that knows the order of steps. Pure.

Why the order is what it is, each reason tested in tests/unit/test_order.py and told in docs/design.md:

- user namespace first: clone3(2) makes it before the others, so they belong to it;
- cgroups before the cgroup namespace: its root is where its maker is at that moment;
- time offsets before init enters the namespace: afterwards somebody lives in it;
- ``setgroups`` before ``gid_map`` without privilege; maps before anything needs an owner;
- sources are opened before the pivot, the old root goes last;
- all namespace fds are opened before the first is joined;
- bounding set and securebits before CAP_SETPCAP goes, ids before CAP_SETUID goes;
- PR_SET_PDEATHSIG after the ids (a change of ids clears it);
- the AppArmor and SELinux labels are asked for before fds get their places and before no_new_privs;
- Landlock after no_new_privs, without which it is refused; seccomp after it, last but exec.
"""

from __future__ import annotations

from nstool import uapi
from nstool.errors import NotSupported, NstoolError, SpecError
from nstool.kinds import JOIN_ORDER, KINDS
from nstool.namespaces import cgroup, ipc, mnt, mounting, net, pid, time, user, uts
from nstool.plan import cgroups, identity
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.security import rlimits
from nstool.spec.model import Landlock, Limits, Seccomp, Spec

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HIGH = 60  # fds on their way to the payload are kept from here on, out of the way of their new places


def plan(spec: Spec, host: Host, lease: Lease) -> Plan:
    """Return the steps that make this sandbox. The spec has been checked (spec.check).

    Raises NotSupported for what this host cannot do, SpecError for what does not fit together.
    """
    new = {name for name in KINDS if getattr(spec.namespaces, name) == "new"}
    if spec.net.mode in ("join", "host"):
        new.discard("net")
    joined = joins(spec)
    outer = outer_joins(joined, new, host)
    idmaps = maps(spec, host, lease) if "user" in new else None
    hostname = uts.hostname(spec, lease) if spec.namespaces.uts == "new" else ""
    mounts = mnt.Parts()
    if "mnt" in new:
        mounts = mnt.parts(spec, host, idmaps, own_files(spec, host, lease, idmaps, hostname), lease, hostname)
    groups = cgroup_steps(spec, host, lease)
    scorer = LAUNCHER if idmaps is not None and host.privileged else INIT
    links = _links(spec, lease)
    terminal = terminals(spec, host)
    if terminal:
        _check_terminal(spec)
    steps: list[Step] = [
        *(s for s in links if s.who == LAUNCHER and s.args[0] in _BEFORE),
        *label_steps(spec, host, LAUNCHER),
        *groups.launcher,
        *mounts.before,
        *(open_namespace(name, path) for name, path in joined.items()),
        *(own_namespace(name) for name in outer),
        *(join(name, LAUNCHER) for name in outer),
        clone(new, joined, groups, user.owner(spec, host, lease.uid_base)),
        *child_steps(spec, idmaps, host),
        *(leave(name) for name in outer),
        *meanwhile(
            *(user.map_steps(idmaps, host) if idmaps else ()),
            *(oom(spec, LAUNCHER) if scorer == LAUNCHER else ()),
            *raise_limits(spec, host, LAUNCHER),
            *(s for s in links if s.who == LAUNCHER and s.args[0] not in _BEFORE),
            *(
                (Step(LAUNCHER, "external", ("trace", {}), "who looks on is there before the command"),)
                if host.traced
                else ()
            ),
        ),
        *time.steps(spec, lease),
        *pid.monitor_steps(spec),
        # By the launcher's /proc: a joined root may have none, and a joined user namespace may not write in ours.
        *(oom(spec, INIT) if scorer == INIT and joined.keys() & {"user", "mnt"} else ()),
        *((user.before_joining(),) if "user" in joined else ()),
        *(join(name, INIT) for name in joined if name not in outer),
        *_after_join(new, joined, host),
        *groups.init,
        *cgroup.steps(spec),
        *mounts.sources,
        *(user.become_root_steps(idmaps) if idmaps else ()),
        *(user.become_joined_root_steps() if "user" in joined else ()),
        *uts.steps(spec, lease),
        *net.steps(spec),
        *ipc.steps(spec),
        *user.ucount_steps(spec),
        *(() if scorer == LAUNCHER or joined.keys() & {"user", "mnt"} else oom(spec, INIT)),
        *mounts.root,
        *mounts.inside,
        *(terminal_steps(spec) if terminal else ()),
        *mounts.last,
        *init_hardening(spec),
        *(answers(spec, host, owned=idmaps is not None) if spec.init else ()),
        *((pid.clone_step(spec), *init_last(spec, host, idmaps)) if spec.init else ()),
        *payload(spec, host, idmaps, terminal),
        *(s for s in links if s.who == UNDO),
        *mounts.undo,
        *groups.undo,
    ]
    given = _given(spec, host)
    return Plan(tuple(steps), given, spec.init, spec.die_with_parent, lease.name)


def terminals(spec: Spec, host: Host) -> tuple[int, ...]:
    """Return which standard streams are a terminal of the sandbox's own."""
    return {"always": (0, 1, 2), "auto": host.terminals}.get(spec.terminal, ())


def _check_terminal(spec: Spec) -> None:
    own = spec.dev in ("private", "bind") or any(m.type == "devpts" and m.target == "/dev/pts" for m in spec.mounts)
    if spec.namespaces.mnt == "new" and not own:
        raise SpecError(
            f'a terminal of its own needs /dev/pts, which dev = "{spec.dev}" leaves out: '
            'dev = "private", or terminal = "never"',
            "terminal",
        )


def cgroup_steps(spec: Spec, host: Host, lease: Lease) -> cgroups.CgroupSteps:
    unlimited = not cgroups.wanted(spec.limits) and spec.namespaces.pid == "new"
    if host.cgroups is None or unlimited:  # a pid namespace of its own is ended with its init
        return cgroups.CgroupSteps((), (), (), None, {})
    return cgroups.steps(spec.limits, lease, host.cgroups)


_BEFORE = ("forwarding_acquire", "nft_publish")  # external steps that need no process yet


def meanwhile(*steps: Step) -> tuple[Step, ...]:
    """What the launcher does for the new process, which waits for it; without any there is nothing to wait for."""
    if not steps:
        return ()
    return (
        *steps,
        Step(LAUNCHER, "release", (), "what is the launcher's is done: let init go on"),
        Step(INIT, "wait", (), "until the launcher has done its part"),
    )


def _given(spec: Spec, host: Host) -> tuple[str, ...]:
    names = [f"pass{n}" for n in range(len(spec.pass_fds))]
    if needs_userns(spec, host):
        names.append("userns")
    return ("stdin", "stdout", "stderr", *names)


def cgroup_paths(spec: Spec, host: Host, lease: Lease) -> dict[str, str]:
    """Return the directories of the sandbox's cgroups by controller."""
    return cgroup_steps(spec, host, lease).cgroups


def maps(spec: Spec, host: Host, lease: Lease) -> user.Maps:
    """Return the id maps of the sandbox."""
    return user.maps(spec, host, lease)


def needs_userns(spec: Spec, host: Host) -> bool:
    """Whether a mount is id-mapped: then the caller brings a user namespace with the same maps."""
    if not host.privileged or spec.namespaces.user != "new" or spec.namespaces.mnt != "new":
        return False
    root = spec.root
    return root.idmap or user.keeps_changes(spec) or any(mount.idmap for mount in spec.mounts)


def _links(spec: Spec, lease: Lease) -> tuple[Step, ...]:
    if spec.net.mode not in ("veth", "bridge"):
        return ()
    from nstool.network import plan as network  # late: most sandboxes have no link

    return network.steps(spec.net, lease)


def own_files(spec: Spec, host: Host, lease: Lease, idmaps: user.Maps | None, name: str) -> dict[str, str]:
    """The small files that are made for the sandbox: path to content. name: of its host."""
    own = identity.files(spec, lease, idmaps, name) if spec.root.type == "system" else {}
    if host.resolver:
        own["/etc/resolv.conf"] = host.resolver
    mounted = {mount.target for mount in spec.mounts}
    made = own | _network_files(spec, host, lease, name)
    return {path: text for path, text in made.items() if path not in mounted}


def _network_files(spec: Spec, host: Host, lease: Lease, name: str) -> dict[str, str]:
    if spec.net.mode not in ("veth", "bridge") and not spec.net.dns and not spec.net.hosts:
        return {}
    from nstool.network import plan as network  # late: most sandboxes have no link

    made = network.files(spec.net, lease, name, host.nameservers)
    return {host.resolv_conf if path == "/etc/resolv.conf" else path: text for path, text in made.items()}


# ---- namespaces to join ----


def joins(spec: Spec) -> dict[str, str]:
    """Return the namespaces that are joined: type to file, in the order of joining."""
    wanted = {}
    for name in JOIN_ORDER:
        value = getattr(spec.namespaces, name)
        if value not in ("new", "host"):
            wanted[name] = namespace_path(name, value)
    if spec.net.mode == "join":
        from nstool.network import plan as network

        wanted["net"] = network.target(spec.net)
    return {name: wanted[name] for name in JOIN_ORDER if name in wanted}


def namespace_path(kind: str, value: str) -> str:
    """Return the file of a namespace given by pid or path. setns(2)."""
    return f"/proc/{value}/ns/{kind}" if value.isdecimal() else value


def open_namespace(name: str, path: str) -> Step:
    args = (uapi.AT_FDCWD, path, uapi.O_RDONLY | uapi.O_CLOEXEC, 0, 0)
    return Step(LAUNCHER, "openat2", args, "every namespace is opened before the first is joined", result=f"ns_{name}")


def outer_joins(joined: dict[str, str], new: set[str], host: Host) -> tuple[str, ...]:
    """The types that the launcher joins for the child: in a new user namespace it has no right to these any more.

    Only those that are a thread's own, so that the other threads of the launcher's process stay where they are.
    """
    if "user" not in new or not host.privileged:
        return ()
    return tuple(name for name in joined if name in ("cgroup", "ipc", "uts", "net"))


def own_namespace(name: str) -> Step:
    args = (uapi.AT_FDCWD, f"/proc/thread-self/ns/{name}", uapi.O_RDONLY | uapi.O_CLOEXEC, 0, 0)
    return Step(LAUNCHER, "openat2", args, "the launcher's own, to come back to", result=f"own_{name}")


def join(name: str, who: str) -> Step:
    whose = "" if who == INIT else ", before the child loses the right to: it begins there"
    why = f"join the {name} namespace{whose}"
    return Step(who, "setns", (Fd(f"ns_{name}"), KINDS[name].flag), why, man=KINDS[name].man)


def leave(name: str) -> Step:
    why = f"back to the launcher's own {name} namespace"
    return Step(LAUNCHER, "setns", (Fd(f"own_{name}"), KINDS[name].flag), why, man=KINDS[name].man)


# ---- clone and what surrounds it ----


def clone(new: set[str], joined: dict[str, str], groups: cgroups.CgroupSteps, owner: int = 0) -> Step:
    """The step that makes the new process. owner: host uid that its user namespace is to be of, 0 for the caller's."""
    names = [n for n in KINDS if n in new and n not in ("time", "cgroup")]
    if "user" in joined:  # the others must belong to the joined one, so they are made after joining
        names = []
    flags = 0
    for name in names:
        flags |= KINDS[name].flag
    cgroup_fd: Fd | int = groups.result or -1
    why = f"the new process, in new {', '.join(names) or 'no'} namespaces; the user namespace owns the others"
    return Step(LAUNCHER, "clone3", (flags, cgroup_fd, 0, owner), why)


def _after_join(new: set[str], joined: dict[str, str], host: Host) -> tuple[Step, ...]:
    if "user" not in joined:
        return ()
    early = [name for name in ("pid", "time") if name in new and (name == "pid" or not host.privileged)]
    if early:
        raise SpecError(
            f"a new {' or '.join(early)} namespace would belong to your user namespace, not to the joined one, for the "
            "first process in it is made before joining: join another, or share the host's: "
            + ", ".join(f'{name} = "host"' for name in early),
            "namespaces.user",
        )
    flags = 0
    for name in new - {"time", "cgroup", "user"}:
        flags |= KINDS[name].flag
    return (
        (Step(INIT, "unshare", (flags,), "new namespaces that belong to the joined user namespace"),) if flags else ()
    )


def child_steps(spec: Spec, maps: user.Maps | None, host: Host) -> tuple[Step, ...]:
    steps = []
    if maps is not None:
        why = "a uid that is not mapped yet loses its capabilities at exec unless they are ambient"
        steps.append(Step(CHILD, "raise_ambient", (user.inside_capabilities(spec, host),), why))
    why = "nsexec takes over, from a sealed copy: no memory of the launcher stays inside"
    return (*steps, Step(CHILD, "exec_init", (), why))


def oom(spec: Spec, who: str) -> tuple[Step, ...]:
    """The step by which the sandbox dies before the host's services, where the spec says so.

    A score that a process with CAP_SYS_RESOURCE on the host has written cannot be lowered without it; one of its own,
    in a user namespace, can.
    """
    if not spec.oom_score_adj:
        return ()
    text = f"{spec.oom_score_adj}\n"
    why, man = "die before the host's services when memory runs out", "proc_pid_oom_score_adj(5)"
    if who == LAUNCHER:
        return (Step(LAUNCHER, "write_proc", ("oom_score_adj", text), why, man=man),)
    return (Step(INIT, "write_file", (uapi.AT_FDCWD, "/proc/self/oom_score_adj", text, 0, 0), why, man=man),)


def init_hardening(spec: Spec) -> tuple[Step, ...]:
    if not spec.init:
        return ()
    return (user.undumpable(INIT, "nobody inside traces init or reads its memory"),)


_AUDIT_ARCH_X86_64, _NR_SYSINFO = 0xC000003E, 99  # linux/audit.h, asm/unistd_64.h
# A filter that sends sysinfo(2) of x86_64 to its listener and lets all else pass: struct sock_filter.
_ASKS = b"".join(
    code.to_bytes(2, "little") + bytes((true, false)) + k.to_bytes(4, "little")
    for code, true, false, k in (
        (0x20, 0, 0, 4),  # BPF_LD of seccomp_data.arch
        (0x15, 0, 3, _AUDIT_ARCH_X86_64),
        (0x20, 0, 0, 0),  # seccomp_data.nr
        (0x15, 0, 1, _NR_SYSINFO),
        (0x06, 0, 0, uapi.SECCOMP_RET_USER_NOTIF),
        (0x06, 0, 0, uapi.SECCOMP_RET_ALLOW),
    )
)


def answers_sysinfo(spec: Spec, host: Host) -> bool:
    """Whether init answers sysinfo(2) for the kernel, with the limits, as /proc/meminfo has them."""
    own = spec.init and spec.namespaces.user == "new" and spec.limits.memory and spec.seccomp != "none"
    return bool(own and host.unotify and "meminfo" not in spec.proc_show)


def answers(spec: Spec, host: Host, *, owned: bool) -> tuple[Step, ...]:
    """The steps by which init answers sysinfo(2): a filter of its own, which the command inherits.

    owned: init is in a user namespace of the sandbox's own, with CAP_SYS_ADMIN there, so that no_new_privs can wait.
    """
    if not owned or not answers_sysinfo(spec, host):
        return ()
    why = "sysinfo(2) tells of the host's memory, load and uptime: init is asked instead"
    # No signal but one that kills takes the caller out of the call once init has it: what init writes then would
    # overwrite something else.
    flags = uapi.SECCOMP_FILTER_FLAG_NEW_LISTENER | uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    asks = (flags, _ASKS)
    told = (Fd("sysinfo"), spec.limits.memory, spec.limits.swap)
    return (
        Step(INIT, "seccomp", asks, why, result="sysinfo", man="seccomp_unotify(2)"),
        Step(INIT, "answer_sysinfo", told, "with the limits, as /proc/meminfo says"),
    )


def init_last(spec: Spec, host: Host, maps: user.Maps | None) -> tuple[Step, ...]:
    # When the payload is there already, for it begins with all that init has, but before its first step.
    keep = 1 << uapi.CAPABILITIES["kill"] if maps is not None else 0
    if answers_sysinfo(spec, host):  # process_vm_writev(2)
        keep |= 1 << uapi.CAPABILITIES["sys_ptrace"]
    steps = [
        Step(INIT, "close_range", (3, 0xFFFF_FFFF, 0), "who gets at init's fds gets at nothing outside"),
        Step(INIT, "prctl", (uapi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "init gains nothing any more"),
    ]
    if maps is not None:
        if spec.capabilities.permitted:  # with CAP_SYS_PTRACE or the like the command reaches into init
            steps.append(Step(INIT, "drop_bounding", (0,), "no execve gives init a capability"))
        steps.append(
            Step(INIT, "capset", (keep, keep, 0), "init keeps only what passing signals on needs, and answering")
        )
        if spec.capabilities.permitted:
            steps += _seccomp(spec, host, INIT)
    steps.append(Step(INIT, "futex_wake", (), "init is closed to the command: the payload may begin"))
    return tuple(steps)


# ---- the payload ----


CONTROLLING = Step(PAYLOAD, "ioctl_int", (Fd("tty"), uapi.TIOCSCTTY, 0), "its controlling terminal", man="ioctl_tty(2)")


def terminal_steps(spec: Spec) -> tuple[Step, ...]:
    uid, gid = user.ids(spec)
    path = "/dev/pts/ptmx"
    flags = uapi.O_RDWR | uapi.O_NOCTTY | uapi.O_CLOEXEC
    return (
        Step(
            INIT,
            "openat2",
            (uapi.AT_FDCWD, path, flags, 0, mounting.NO_LINKS),
            "a terminal of its own",
            result="ptmx",
            man="pts(4)",
        ),
        Step(INIT, "ioctl", (Fd("ptmx"), uapi.TIOCSPTLCK, bytes(64)), "unlock it", man="ioctl_tty(2)"),
        Step(
            INIT, "ioctl_int", (Fd("ptmx"), uapi.TIOCGPTPEER, flags), "its other side", result="tty", man="ioctl_tty(2)"
        ),
        Step(INIT, "fchownat", (Fd("tty"), "", uid, gid, uapi.AT_EMPTY_PATH), "it belongs to the command's user"),
        Step(INIT, "send_fd", (Fd("ptmx"),), "the launcher relays between it and the caller's terminal"),
        Step(INIT, "close", (Fd("ptmx"),), "the launcher's copy is the only one"),
    )


def payload(
    spec: Spec, host: Host, maps: user.Maps | None, terminal: tuple[int, ...], connection: int = 0
) -> tuple[Step, ...]:
    hold = (Step(PAYLOAD, "futex_wait", (), "until init is closed to what comes after it"),) if spec.init else ()
    return (
        *hold,
        Step(PAYLOAD, "reset_signals", (), "dispositions and mask as a fresh process has them"),
        *label_steps(spec, host, PAYLOAD),
        *fd_steps(spec, terminal),
        *own_null(spec, terminal),
        *pid.payload_steps(spec),
        *hardened(spec, host, maps, terminal, connection),
    )


def hardened(
    spec: Spec, host: Host, maps: user.Maps | None, terminal: tuple[int, ...], connection: int = 0
) -> tuple[Step, ...]:
    """What every command of this spec gets, the first and those that are run in the sandbox later.

    connection: of a service's sandbox, the mask of its fds that are the connection, which may come late.
    """
    return (
        *((CONTROLLING,) if terminal else ()),
        close_step(spec),
        *(
            (
                Step(
                    PAYLOAD,
                    "keyctl",
                    (uapi.KEYCTL_JOIN_SESSION_KEYRING, None),
                    "a session keyring of its own",
                    man="session-keyring(7)",
                ),
            )
            if spec.keyring == "new"
            else ()
        ),
        Step(PAYLOAD, "umask", (spec.umask,), "bits that new files lack"),
        *uts.personality_steps(spec, host),
        *_rlimits(spec, host),
        *user.credential_steps(spec, host, maps),
        Step(PAYLOAD, "chdir", (spec.cwd,), "the working directory, with the command's own rights"),
        *pid.death_steps(spec),
        *_no_new_privs(spec),
        *(
            (Step(PAYLOAD, "receive", (connection,), "wait for the connection, unless it is there already"),)
            if connection
            else ()
        ),
        *_landlock(spec, host),
        *_seccomp(spec, host),
        *_execute(spec, host, terminal),
    )


def _execute(spec: Spec, host: Host, terminal: tuple[int, ...]) -> tuple[Step, ...]:
    attested = Step(PAYLOAD, "attest", (), "the launcher reads back that all is as asked for")
    environment = {"PATH": PATH, **({"TERM": host.term} if terminal and host.term else {}), **spec.env}
    files = candidates(spec.command[0], environment["PATH"])
    variables = tuple(f"{key}={value}" for key, value in environment.items())
    command = Step(PAYLOAD, "execve", (files, spec.command, variables), "the command")
    return (attested, command) if spec.attest else (command,)


def candidates(command: str, path: str) -> tuple[str, ...]:
    """Return the files that are tried for a command, as execvp(3) would inside."""
    if "/" in command:
        return (command,)
    return tuple(dict.fromkeys(f"{directory or '.'}/{command}" for directory in path.split(":")))


def fd_steps(spec: Spec, terminal: tuple[int, ...]) -> tuple[Step, ...]:
    steps = []
    for number in range(len(spec.pass_fds)):
        moved = (Fd(f"pass{number}"), uapi.F_DUPFD_CLOEXEC, _HIGH)
        steps.append(Step(PAYLOAD, "fcntl", moved, "out of the way of its new place", result=f"high{number}"))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        source = "tty" if number in terminal else name
        steps.append(Step(PAYLOAD, "dup3", (Fd(source), number, 0), f"{name} of the command"))
    for number in range(len(spec.pass_fds)):
        steps.append(Step(PAYLOAD, "dup3", (Fd(f"high{number}"), 3 + number, 0), "an fd that the spec passes"))
    return tuple(steps)


def own_null(spec: Spec, terminal: tuple[int, ...]) -> tuple[Step, ...]:
    """Replace a stream that is the host's /dev/null, which can be watched, locked and touched for the whole host."""
    if spec.dev not in ("private", "nodes") or len(terminal) == 3:
        return ()
    return (Step(PAYLOAD, "own_null", (), "a stream that is /dev/null is the sandbox's own"),)


def close_step(spec: Spec) -> Step:
    """Close all but the command's fds: before a path inside is followed, which may lead through /proc/self/fd."""
    first = 3 + len(spec.pass_fds)
    return Step(PAYLOAD, "close_range", (first, 0xFFFF_FFFF, 0), "no other fd reaches the command, nor leads outside")


def _rlimits(spec: Spec, host: Host) -> tuple[Step, ...]:
    return tuple(
        Step(PAYLOAD, "setrlimit", (rlimits.number(name), soft, hard), f"limit of {name}", man="getrlimit(2)")
        for name, (soft, hard) in sorted(limits_for(spec, host).items())
    )


def limits_for(spec: Spec, host: Host) -> dict[str, tuple[int, int]]:
    """Return the rlimits of the command.

    What is asked for by default alone is at most what a caller has who may not raise his own.
    """
    found = spec.limits.rlimits
    if not host.hard or host.raises:
        return found
    default = Limits().rlimits
    return {
        name: (min(limit[0], host.hard[name]), host.hard[name])
        if name in host.hard and limit == default.get(name)
        else limit
        for name, limit in found.items()
    }


def raise_limits(spec: Spec, host: Host, who: str) -> tuple[Step, ...]:
    """Raise the hard limits of the new process that its command gets more than, as sudo(8) leaves no core dumps.

    With the rights of the caller on the host: by the launcher, or by init before it has joined anything.
    """
    if not host.raises:
        return ()
    return tuple(
        Step(
            who,
            "setrlimit",
            (rlimits.number(name), min(own, soft) if soft >= 0 else own, spec.limits.rlimits[name][1]),
            f"the command gets a higher limit of {name} than the caller has",
            man="getrlimit(2)",
        )
        for name, own in sorted(host.hard.items())
        for soft in (spec.limits.rlimits[name][0],)
    )


def _no_new_privs(spec: Spec) -> tuple[Step, ...]:
    if not spec.no_new_privs:
        return ()
    return (Step(PAYLOAD, "prctl", (uapi.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no file gives privileges any more"),)


def label_steps(spec: Spec, host: Host, who: str) -> tuple[Step, ...]:
    """Return the launcher's or the payload's steps for the command's AppArmor profile and SELinux context."""
    if not spec.apparmor and not spec.selinux:
        return ()
    from nstool.plan import labels  # late: most sandboxes have none

    return labels.open_steps(spec) if who == LAUNCHER else labels.payload_steps(spec, host)


def _landlock(spec: Spec, host: Host) -> tuple[Step, ...]:
    if spec.landlock == Landlock():
        return ()
    from nstool.plan import landlock  # late: most sandboxes have none

    return landlock.steps(spec, host)


def _seccomp(spec: Spec, host: Host, who: str = PAYLOAD) -> tuple[Step, ...]:
    if spec.seccomp == "none":
        return ()
    if not spec.no_new_privs:
        raise NotSupported(
            "no_new_privs = false, with a seccomp filter",
            "a process without CAP_SYS_ADMIN may load a filter only under no_new_privs, seccomp(2)",
            'keep no_new_privs, or take seccomp = "none" too',
        )
    program = _init_filter(spec, host) if who == INIT else command_filter(spec, host)
    return (Step(who, "seccomp", (0, program), f"{list_name(spec.seccomp)}, last"),) if program else ()


def command_filter(spec: Spec, host: Host) -> bytes:
    """Return the filter of the command, an array of struct sock_filter; empty for none."""
    from nstool.security.seccomp import FILTERS, load_filter

    if host.seccomp is not None:
        return host.seccomp
    if isinstance(spec.seccomp, str) and spec.seccomp in FILTERS:
        return load_filter(spec.seccomp)
    raise NstoolError("a list of system calls of one's own is compiled by sandbox.host.read: Host.seccomp is missing")


def _init_filter(spec: Spec, host: Host) -> bytes:
    """Return the command's filter with what init itself calls."""
    from nstool.security.seccomp import for_init, load_filter

    return load_filter(str(spec.seccomp), init=True) if host.seccomp is None else for_init(host.seccomp)


def list_name(words: str | Seccomp) -> str:
    """Return a list of system calls in words: the default list of system calls, with what is changed of it."""
    if isinstance(words, str):
        return f"the system calls of {words}" if "/" in words else f"the {words} list of system calls"
    counts = {"allowed": len(words.allow), "refused": len(words.refuse)}
    changes = [f"{number} {what}" for what, number in counts.items() if number]
    how = {"kill": ["refused calls kill"], "log": ["refused calls are logged"]}.get(words.action, [])
    return ", ".join((list_name(words.base), *changes, *how))
