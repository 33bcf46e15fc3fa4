"""The user namespace: id maps, and the identity that the payload runs under. user_namespaces(7)."""

from __future__ import annotations

from nstool import uapi
from nstool.errors import NotSupported, SpecError
from nstool.frozen import Frozen
from nstool.kinds import KINDS
from nstool.plan.host import Host, SubIds
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, LAUNCHER, PAYLOAD, Step
from nstool.security import capabilities as caps
from nstool.security import securebits
from nstool.spec.model import IdMap, Spec

MAN = "user_namespaces(7)"
EPERM, EINVAL = 1, 22
TTY = 5  # the group of terminals everywhere, pts(4)


class Maps(Frozen):
    """The id maps of a launch, and how they get written: "launcher", "single" or "helper"."""

    uid: tuple[IdMap, ...]
    gid: tuple[IdMap, ...]
    how: str

    @property
    def has_root(self) -> bool:
        """Whether id 0 exists inside, for users and for groups."""
        return is_inside(self.uid, 0) and is_inside(self.gid, 0)


def is_inside(lines: tuple[IdMap, ...], number: int) -> bool:
    """Whether an id is in a map."""
    return any(line.inside <= number < line.inside + line.count for line in lines)


def ids(spec: Spec) -> tuple[int, int]:
    """Return (uid, gid) of the payload; names have been looked up before (sandbox/names.py)."""
    uid, _, gid = spec.user.partition(":")
    return int(uid), int(gid or uid)


def maps(spec: Spec, host: Host, lease: Lease) -> Maps:
    """Choose the id maps: those of the spec, unused host ids for root, subordinate ids for others.

    Where an ordinary user keeps an upper layer, root inside is that user: its directory is the user's.
    """
    uid, gid = ids(spec)
    if spec.uid_map or spec.gid_map:
        chosen = Maps(spec.uid_map, spec.gid_map, _how(spec.uid_map, spec.gid_map, host))
    elif host.privileged:
        count = lease.count
        chosen = Maps((IdMap(0, lease.uid_base, count),), (IdMap(0, lease.gid_base, count),), "launcher")
    elif host.newuidmap and host.newgidmap and host.subuid and host.subgid:
        # A layer that is kept lies in a directory of the caller's, where only the caller can write.
        own = keeps_changes(spec)
        uids = _subordinate(host.subuid, host.uid if own else None)
        chosen = Maps(uids, _subordinate(host.subgid, host.gid if own else None), "helper")
    else:
        chosen = Maps((IdMap(uid, host.uid, 1),), (IdMap(gid, host.gid, 1),), "single")
    for lines, number, what in ((chosen.uid, uid, "uid"), (chosen.gid, gid, "gid")):
        if not is_inside(lines, number):
            raise SpecError(f"{what} {number} is not in the {what}_map; {MAN}: map it or choose another user", "user")
    for index, group in enumerate(spec.groups if chosen.how != "single" else ()):
        if group != "keep" and not is_inside(chosen.gid, int(group)):
            raise SpecError(f"group {group} is not in the gid_map; {MAN}: map it or choose another", f"groups[{index}]")
    return chosen


# What the launcher does from outside with what is the sandbox's: as the owner of its user namespace it would need none.
_OWNER_HAS = ("kill", "net_admin", "setgid", "setuid", "sys_admin", "sys_ptrace")


def owner(spec: Spec, host: Host, uid: int) -> int:
    """Return the host uid that is to own the new user namespace, uid or 0 for the launcher's own.

    What is made in a user namespace counts for its owner, too, and would use up what root may have. uid: one that only
    this sandbox has. With maps of the spec's it may be somebody's, who would have all rights in there; and a launcher
    that lacks a capability has it over the sandbox as the owner alone. user_namespaces(7).
    """
    own = spec.namespaces.user == "new" and not spec.uid_map and not spec.gid_map
    return uid if own and host.privileged and all(host.may(name) for name in _OWNER_HAS) else 0


def keeps_changes(spec: Spec) -> bool:
    """Whether an overlay of the spec has an upper layer that is kept."""
    return bool(spec.root.upper) or any(mount.upper for mount in spec.mounts)


def _subordinate(ranges: tuple[SubIds, ...], root: int | None) -> tuple[IdMap, ...]:
    # root: host id of id 0 inside, None for the first of the ranges.
    lines = [] if root is None else [IdMap(0, root, 1)]
    inside = len(lines)
    for r in ranges:
        count = min(r.count, 65536 - inside)
        if count > 0:
            lines.append(IdMap(inside, r.first, count))
            inside += count
    return tuple(lines)


def _how(uid_map: tuple[IdMap, ...], gid_map: tuple[IdMap, ...], host: Host) -> str:
    if host.privileged:
        return "launcher"
    own = (_only(uid_map), _only(gid_map)) == (host.uid, host.gid)
    return "single" if own else "helper"


def _only(lines: tuple[IdMap, ...]) -> int | None:
    # The one outside id of a map of one id: what the kernel lets an ordinary user write by itself.
    return lines[0].outside if len(lines) == 1 and lines[0].count == 1 else None


def map_steps(maps: Maps, host: Host) -> tuple[Step, ...]:
    """Steps of the launcher that write the maps of the new process."""
    if maps.how == "helper":
        return (
            _helper(host.newuidmap, "newuidmap", maps.uid),
            _helper(host.newgidmap, "newgidmap", maps.gid),
        )
    deny = (
        Step(
            LAUNCHER,
            "write_proc",
            ("setgroups", "deny"),
            "without privilege the kernel takes a gid_map only once setgroups(2) is denied",
        ),
    )
    lines = (
        Step(LAUNCHER, "write_proc", ("uid_map", text(maps.uid)), "map user ids: inside, outside, count", man=MAN),
        Step(LAUNCHER, "write_proc", ("gid_map", text(maps.gid)), "map group ids: inside, outside, count", man=MAN),
    )
    return (*(deny if maps.how == "single" else ()), *lines)


def _helper(path: str, name: str, lines: tuple[IdMap, ...]) -> Step:
    if not path:
        raise NotSupported(
            f"{name[3:]}: an id map of several ids as an ordinary user",
            f"{name} is not installed",
            "apt-get install uidmap, or map your own id only: --uid-map 1000:UID:1 --gid-map 1000:GID:1",
        )
    words = [str(n) for line in lines for n in (line.inside, line.outside, line.count)]
    return Step(
        LAUNCHER,
        "spawn",
        ((path, "{pid}", *words),),
        "a set-user-ID helper writes the map of several ids",
        man=f"{name}(1)",
    )


def text(lines: tuple[IdMap, ...]) -> str:
    """Return the lines as uid_map and gid_map take them, in one write."""
    return "".join(f"{line.inside} {line.outside} {line.count}\n" for line in lines)


def become_root_steps(maps: Maps) -> tuple[Step, ...]:
    """Steps of init: take id 0 of the new namespace, so that files it makes have an owner there."""
    if not maps.has_root:
        return ()
    why = "become root of the new user namespace: what it makes needs an owner that is mapped"
    drop = Step(INIT, "setgroups", (b"",), "drop the caller's supplementary groups")
    return (
        Step(INIT, "setresgid", (0, 0, 0), why),
        *((drop,) if maps.how != "single" else ()),  # denied there: credential_steps sees to it
        Step(INIT, "setresuid", (0, 0, 0), why),
    )


def become_joined_root_steps() -> tuple[Step, ...]:
    """The same in a user namespace that has been joined, if it has an id 0."""
    why = "become root of the joined user namespace: what is made needs an owner that is mapped"
    return (
        Step(INIT, "setresgid", (0, 0, 0), why, ignore=EINVAL),
        Step(INIT, "setgroups", (b"",), "drop the caller's supplementary groups", ignore=EPERM),
        Step(INIT, "setresuid", (0, 0, 0), why, ignore=EINVAL),
        undumpable(INIT, "the change of ids may have reset it"),
    )


def before_joining() -> Step:
    """The step before a user namespace is joined, in which somebody may have CAP_SYS_PTRACE."""
    return undumpable(INIT, "nobody in there traces who comes in, or gets at the host by it (CVE-2016-9962)")


def ucount_steps(spec: Spec) -> tuple[Step, ...]:
    """Steps of init that set what each user of its namespace may have, before /proc/sys becomes read-only.

    All that is made inside counts for the namespace's owner in the one above, too: one sandbox must not take all of
    that. namespaces(7), "The /proc/sys/user directory".
    """
    if spec.namespaces.user != "new":
        return ()
    return tuple(
        Step(
            INIT,
            "write_file",
            (uapi.AT_FDCWD, f"/proc/sys/user/max_{name}", f"{most}\n", 0, 0),
            f"{name} of each user in here",
            man="namespaces(7)",
        )
        for name, most in sorted(spec.limits.ucounts.items())
        if most != -1
    )


# What the steps inside need over the new namespaces. Each one raised is a copy of the credentials: 2 us.
_NEEDED = (
    *("chown", "dac_override", "fowner"),  # owners and modes of what is made
    *("setgid", "setuid", "setpcap"),  # the command's identity
    *("sys_admin", "sys_chroot"),  # mounts, names, joining
    "net_admin",  # lo, net.*
    "sys_resource",  # limits of queues, and of the namespace
    "sys_time",  # the clocks of its time namespace
    "sys_ptrace",  # answering sysinfo(2)
    "kill",  # passing on signals
)


def inside_capabilities(spec: Spec, host: Host) -> int:
    """Return the mask of the capabilities that init must keep over its exec: for its steps, and for the command."""
    wanted = spec.capabilities
    own = (*wanted.effective, *wanted.permitted, *wanted.inheritable, *wanted.ambient)
    return (caps.mask(_NEEDED) | caps.mask(own)) & host.all_capabilities


def undumpable(who: str, why: str) -> Step:
    """The step after which nobody without CAP_SYS_PTRACE traces the process or reads its memory. ptrace(2).

    A change of ids sets what /proc/sys/fs/suid_dumpable says, so it is said again after each.
    """
    return Step(who, "prctl", (uapi.PR_SET_DUMPABLE, 0, 0, 0, 0), why, man="PR_SET_DUMPABLE(2const)")


def _others(host: Host) -> set[int]:
    """Return the caller's supplementary groups that are not its own group again."""
    return set(host.groups) - {host.gid}


def _check_rights(spec: Spec, host: Host) -> None:
    """Raise NotSupported for rights of the command that a caller cannot give in its own user namespace."""
    if not host.privileged and any(getattr(spec.namespaces, name) == "new" for name in KINDS):
        return  # clone3(2) is refused first
    wanted, uid_gid = spec.capabilities, ids(spec)
    remedy = 'take a user namespace: namespaces.user = "new"; or accept the caller\'s: '
    if not host.may("setpcap"):
        cause = "there is no new user namespace, and the caller lacks CAP_SETPCAP there, capabilities(7)"
        if wanted.effective or wanted.permitted or wanted.ambient:
            raise NotSupported("capabilities", cause, remedy + "give none")
        if caps.mask(wanted.bounding) & host.all_capabilities != host.all_capabilities:
            raise NotSupported("capabilities.bounding", cause, remedy + "--cap-bounding all")
        if spec.securebits:
            raise NotSupported("securebits", cause, remedy + '--securebits ""')
    if not (host.may("setuid") and host.may("setgid")):
        cause = "there is no new user namespace, and the caller lacks CAP_SETUID or CAP_SETGID there, credentials(7)"
        if uid_gid != (host.uid, host.gid):
            raise NotSupported(f"user {spec.user}", cause, f"{remedy}--user {host.uid}:{host.gid}")
        if spec.groups != ("keep",) and (spec.groups or _others(host)):
            raise NotSupported("groups", cause, f"{remedy}--groups keep")


def credential_steps(spec: Spec, host: Host, maps: Maps | None) -> tuple[Step, ...]:
    """Steps of the payload: bounding set, groups, ids, the other sets, securebits; in this order.

    The bounding set and the securebits need CAP_SETPCAP, so they come before the final capset;
    ids need CAP_SETUID, so they come before it too. capabilities(7).
    """
    uid, gid = ids(spec)
    wanted = spec.capabilities
    effective, permitted = caps.mask(wanted.effective), caps.mask(wanted.permitted)
    inheritable, bounding = caps.mask(wanted.inheritable), caps.mask(wanted.bounding)
    joined = maps is None and spec.namespaces.user not in ("new", "host")  # all capabilities come with joining
    everything = host.capabilities if maps is None and not joined else host.all_capabilities
    if maps is None and not joined:
        _check_rights(spec, host)
    setpcap, setuid, setgid = (1 << uapi.CAPABILITIES[name] for name in ("setpcap", "setuid", "setgid"))
    steps: list[Step] = []
    if everything & setpcap and bounding & host.all_capabilities != host.all_capabilities:
        steps.append(Step(PAYLOAD, "drop_bounding", (bounding,), "no execve can give a capability outside this set"))
    if maps is None or maps.how != "single":
        if spec.groups != ("keep",) and everything & setgid:
            packed = b"".join(int(g).to_bytes(4, "little") for g in spec.groups)
            denied = EPERM if joined and not spec.groups and not _others(host) else 0
            why = "the supplementary groups of the command"
            steps.append(Step(PAYLOAD, "setgroups", (packed,), why, ignore=denied))
    elif spec.groups != ("keep",) and _others(host):
        raise NotSupported(
            "groups: dropping your supplementary groups",
            "a user namespace with one group id denies setgroups(2), so its processes keep the caller's groups",
            'install newgidmap with a range in /etc/subgid, or accept them: --groups keep (groups = ["keep"])',
        )
    if everything & setuid:
        keep = (uapi.PR_SET_KEEPCAPS, 1, 0, 0, 0)
        steps.append(Step(PAYLOAD, "prctl", keep, "keep the permitted set over the change of user id"))
        steps.append(Step(PAYLOAD, "setresgid", (gid, gid, gid), "group ids of the command"))
        steps.append(Step(PAYLOAD, "setresuid", (uid, uid, uid), "user ids of the command: real, effective, saved"))
        steps.append(undumpable(PAYLOAD, "until exec this is init's memory, and the change of ids may have opened it"))
        keep = (uapi.PR_SET_KEEPCAPS, 0, 0, 0, 0)
        steps.append(Step(PAYLOAD, "prctl", keep, "do not keep it a second time"))
    extra = setpcap & everything
    if extra:
        full = permitted | extra
        steps.append(
            Step(PAYLOAD, "capset", (full, full, inheritable), "what is left to do needs CAP_SETPCAP and nothing more")
        )
        clear = (uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        steps.append(Step(PAYLOAD, "prctl", clear, "empty the ambient set", man="capabilities(7)"))
        for name in wanted.ambient:
            raised = (uapi.PR_CAP_AMBIENT, uapi.PR_CAP_AMBIENT_RAISE, uapi.CAPABILITIES[name], 0, 0)
            steps.append(Step(PAYLOAD, "prctl", raised, f"{name} outlives execve without file capabilities"))
        bits = securebits.mask(spec.securebits)
        if bits:
            steps.append(
                Step(PAYLOAD, "prctl", (uapi.PR_SET_SECUREBITS, bits, 0, 0, 0), "uid 0 gains nothing at execve")
            )
    steps.append(Step(PAYLOAD, "capset", (effective, permitted, inheritable), "the command's own sets"))
    return tuple(steps)
