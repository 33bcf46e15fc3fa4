"""The plans of a service: its template, made once, and the sandbox that the template makes for each connection. Pure.

The template is a sandbox whose init serves instead of running a command (csrc/serve). What all sandboxes have in
common is made there; each gets a copy of its mount namespace, and what is its own: user, pid, network, host name, ipc
and cgroup namespace, /proc, and all in which it can write.
"""

from __future__ import annotations

from nstool.errors import SpecError
from nstool.kinds import KINDS
from nstool.namespaces import cgroup, ipc, mnt, net, pid, time, user, uts
from nstool.plan import build, cgroups, views
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import CHILD, INIT, LAUNCHER, Fd, Plan, Step
from nstool.spec.check import MAX_ID_LINES
from nstool.spec.model import IdMap, Spec

OWN = ("mnt", "pid")  # the template's namespaces without which there is no sandbox in it
_SHARED_NET = ("host", "join")
_STREAMS = ("stdin", "stdout", "stderr")
MAX_ID_BYTES = 4095  # of a map: less than a page
_MAPPED = ("idmap", "upper")  # what of a mount is mapped to the sandbox's ids: user.keeps_changes


def check(spec: Spec, host: Host) -> None:
    """Raise SpecError for what a sandbox of a service cannot have."""
    for name in ("user", *OWN):
        if getattr(spec.namespaces, name) != "new":
            raise SpecError("a service's sandboxes have one of their own: leave it out", f"namespaces.{name}")
    for name in KINDS:
        if getattr(spec.namespaces, name) not in ("new", "host"):
            raise SpecError(
                'a service joins no namespace but the network: "new" or "host", and net.mode = "join"',
                f"namespaces.{name}",
            )
    if spec.net.mode in ("veth", "bridge"):
        raise SpecError(
            f'"{spec.net.mode}" is made for one sandbox at a time; the connection comes in without a link: leave '
            'net.mode out, or make a network namespace beforehand: mode = "join", target = "NAME"',
            "net.mode",
        )
    if spec.proc != "private":
        raise SpecError(
            "the id maps of a service's sandboxes are written by a /proc of their own: leave it out", "proc"
        )
    if spec.terminal == "always":
        raise SpecError("a connection is no terminal; leave it out", "terminal")
    if spec.pass_fds:
        raise SpecError('the connection is what is passed: shape = "socket"', "pass_fds")
    if build.needs_userns(spec, host):
        mapped = [("root.idmap", spec.root.idmap), ("root.upper", bool(spec.root.upper))]
        mapped += [(f"mounts[{n}].{key}", bool(getattr(m, key))) for n, m in enumerate(spec.mounts) for key in _MAPPED]
        raise SpecError(
            "it would be mapped to the ids of one sandbox, and each of a service has others: leave it out; what all of "
            "them may read can lie in a directory that is closed to others on the host",
            next(key for key, is_mapped in mapped if is_mapped),
        )
    shared = [("root", spec.root.writable and spec.root.type != "directory" and not spec.root.upper)]
    shared += [(f"mounts[{n}]", m.type == "overlay" and m.writable and not m.upper) for n, m in enumerate(spec.mounts)]
    for key, is_shared in shared:
        if is_shared:
            raise SpecError(
                "all sandboxes of a service would write into one throw-away layer, and see what others wrote there: "
                'leave writable out, and give each a tmpfs where it writes: mounts = ["tmpfs:PATH"]',
                key,
            )


def template(spec: Spec, host: Host, lease: Lease, idmaps: user.Maps, *, varied: bool = False) -> Plan:
    """Return the plan of the template. idmaps: all ids that its sandboxes have, and its own.

    varied: its sandboxes have files of their own.
    """
    check(spec, host)
    new = {name for name in KINDS if getattr(spec.namespaces, name) == "new" or name in OWN}
    if spec.net.mode in _SHARED_NET:
        new.discard("net")
    joined = build.joins(spec)
    outer = build.outer_joins(joined, new, host)
    hostname = uts.hostname(spec, lease) if spec.namespaces.uts == "new" else ""
    files = build.own_files(spec, host, lease, idmaps, hostname)
    mounts = mnt.parts(spec, host, idmaps, files, lease, hostname, mnt.TEMPLATE, varied)
    groups = template_cgroup(spec, host, lease)
    steps = (
        *groups.launcher,
        *mounts.before,
        *(build.open_namespace(name, path) for name, path in joined.items()),
        *(build.own_namespace(name) for name in outer),
        *(build.join(name, LAUNCHER) for name in outer),
        build.clone(new, joined, groups, user.owner(spec, host, idmaps.uid[0].outside)),
        Step(CHILD, "raise_ambient", (host.all_capabilities,), "over its exec: its sandboxes begin with what it has"),
        Step(CHILD, "exec_init", (), "nsexec takes over, from a sealed copy: no memory of the launcher stays inside"),
        *(build.leave(name) for name in outer),
        *build.meanwhile(*user.map_steps(idmaps, host), *build.raise_limits(spec, host, LAUNCHER)),
        *time.steps(spec, lease),
        *(build.join(name, INIT) for name in joined if name not in outer),
        *mounts.sources,
        *user.become_root_steps(idmaps),
        Step(INIT, "umask", (0o022,), "its sandboxes go through the directories, which belong to others than they"),
        *mounts.root,
        *mounts.inside,
        *mounts.last,
        # Without an id 0 there, the files in /proc of what cannot be dumped are nobody's, and the template could not
        # write the maps of its sandboxes; they see it no more than otherwise.
        *(build.init_hardening(spec.replace(init=True)) if idmaps.how != "single" else ()),
        *(
            Step(INIT, "dup3", (Fd(name), number, 0), "none of its caller's files")
            for number, name in enumerate(_STREAMS)
        ),
        Step(
            INIT, "setsid", (), "a key of the terminal is for the service, which lets its sandboxes go on to their end"
        ),
        Step(INIT, "close_range", (3, 0xFFFF_FFFF, 0), "nothing of what it was made with goes on to its sandboxes"),
        Step(INIT, "serve", (), "take connections, and make a sandbox for each"),
        *mounts.undo,
        *groups.undo,
    )
    return Plan(steps, _STREAMS, True, False, lease.name)


def sandbox(
    spec: Spec,
    host: Host,
    lease: Lease,
    connection: int,
    vary: tuple[str, ...] = (),
    *,
    passed: int = 0,
    leased: bool = False,
) -> Plan:
    """Return the plan of one sandbox, as the template makes it. vary: what of it is not the template's.

    host: of the template's caller. lease: its ids are those that the template knows, not the host's. connection: mask
    of the command's fds that are the connection. passed: how many it has from 3 on. leased: the template brings it
    into a network namespace that is there already, with lo up.
    """
    check(spec, host)
    spec = spec.replace(pass_fds=tuple(range(3, 3 + passed)), terminal="never")
    idmaps = maps(spec, host, lease)
    host = host.replace(privileged=True, capabilities=host.all_capabilities, groups=(), terminals=())
    new = {name for name in KINDS if getattr(spec.namespaces, name) == "new"}
    if spec.net.mode in _SHARED_NET or leased:
        new.discard("net")
    hostname = uts.hostname(spec, lease) if spec.namespaces.uts == "new" else ""
    files = build.own_files(spec, host, lease, idmaps, hostname)
    mounts = mnt.each(spec, host, idmaps, files, lease, hostname, varied_files(spec, host, files, lease, vary))
    groups = build.cgroup_steps(spec, host, lease)
    steps = (
        build.clone(new, {}, groups),
        Step(CHILD, "exec_init", (), "no exec: it is a copy of the template's init, with nothing of the host in it"),
        *build.meanwhile(*user.map_steps(idmaps, host), *build.oom(spec, LAUNCHER)),
        *groups.init,
        *cgroup.steps(spec),
        # As the template's id: its copy cannot be dumped, so that the files of it in /proc are not the sandbox's.
        *(time.steps(spec, lease) if "clock" in vary else ()),
        *user.become_root_steps(idmaps),
        *uts.steps(spec, lease),
        *net.steps(spec if "net" in new else spec.replace(net=spec.net.replace(mode="host"))),
        *ipc.steps(spec),
        *user.ucount_steps(spec),
        *mounts.inside,
        *build.init_hardening(spec),
        *(build.answers(spec, host, owned=True) if spec.init else ()),
        *((pid.clone_step(spec), *build.init_last(spec, host, idmaps)) if spec.init else ()),
        *build.payload(spec, host, idmaps, (), connection),
    )
    names = (*_STREAMS, *(f"pass{number}" for number in range(passed)), *place_fds(groups))
    return Plan(steps, names, spec.init, True, lease.name)


def varied_files(spec: Spec, host: Host, files: dict[str, str], lease: Lease, vary: tuple[str, ...]) -> dict[str, str]:
    """Return the files in which sandboxes differ: path to content. files: those that are made for a sandbox."""
    names = [path for word, paths in _VARIED.items() if word in vary for path in paths]
    found = {path: files[path] for path in names if path in files}
    if "boot-id" in vary and spec.proc == "private" and not spec.proc_subset:
        found["/proc/sys/kernel/random/boot_id"] = f"{lease.boot_id}\n"
    if "clock" in vary and spec.proc == "private" and not spec.proc_subset:
        found |= {f"/proc/{name}": text for name, text in views.texts(spec, host, lease).items() if name == "stat"}
    return found


_VARIED = {"hostname": ("/etc/hostname", "/etc/hosts"), "machine-id": ("/etc/machine-id",)}


def place_fds(groups: cgroups.CgroupSteps) -> tuple[str, ...]:
    """Return the names of the fds that a place of a template has: those of its cgroups, in their order."""
    return tuple(step.result for step in groups.launcher if step.result)


def place_cgroups(spec: Spec, host: Host, lease: Lease, place: Lease) -> cgroups.CgroupSteps:
    """Return the steps that make the cgroups of one place, and undo them. The caller makes them, outside.

    lease: of the template. In cgroup2 they are below the template's own: that is delegated to it (cgroups(7)), so that
    it may start a process in them, which costs less than to move one there.
    """
    layout = host.cgroups
    if layout is not None and layout.unified_base:
        above = f"{layout.unified_base}/{lease.cgroup}"
        controllers = {
            name: one.replace(base=above, enabled=False) if one.version == 2 else one
            for name, one in layout.controllers.items()
        }
        host = host.replace(cgroups=layout.replace(unified_base=above, controllers=controllers))
    return build.cgroup_steps(spec, host, place)


def template_cgroup(spec: Spec, host: Host, lease: Lease) -> cgroups.CgroupSteps:
    """Return the steps for the template's own cgroup: one above those of its places, and in that the one it is in."""
    none = cgroups.CgroupSteps((), (), (), None, {})
    layout = host.cgroups
    if layout is None or not layout.unified_base or build.cgroup_steps(spec, host, lease).result is None:
        return none
    above = f"{layout.unified_base}/{lease.cgroup}"
    return cgroups.above(spec.limits, layout, above)


def delegated(groups: cgroups.CgroupSteps) -> tuple[str, ...]:
    """Return the files of these cgroups that must belong to who starts processes there. cgroups(7)."""
    path = groups.cgroups.get(cgroups.UNIFIED)
    return (f"{path}/cgroup.procs",) if path else ()


def maps(spec: Spec, host: Host, lease: Lease) -> user.Maps:
    """Return the id maps of one sandbox, as the template writes them: inside, the template's ids, count.

    Ids that the spec maps by itself are the same in the template.
    """
    outer = user.maps(spec, host, Lease(name="")) if owns_ids(spec, host) else None
    if outer is not None:
        uids, gids = (
            tuple(IdMap(line.inside, line.inside, line.count) for line in lines) for lines in (outer.uid, outer.gid)
        )
        return user.Maps(uids, gids, "single" if outer.how == "single" else "launcher")
    return user.maps(spec.replace(uid_map=(), gid_map=()), host.replace(privileged=True), lease)


def owns_ids(spec: Spec, host: Host) -> bool:
    """Whether all sandboxes have the same ids: those that the spec maps, or the one that a user has."""
    if spec.uid_map or spec.gid_map:
        return True
    return not host.privileged and user.maps(spec, host, Lease(name="")).how == "single"


def template_maps(spec: Spec, host: Host, bases: tuple[tuple[int, int], ...], count: int) -> user.Maps:
    """Return the id maps of the template. bases: first host uid and gid of its own range and of those of its sandboxes.

    Range n, of ``count`` ids, begins at n * count inside. No more of them than ``fitting`` says.
    """
    if owns_ids(spec, host) or not host.privileged:  # a user's ranges are one, of which each sandbox has a part
        return user.maps(spec, host, Lease(name=""))
    return user.Maps(_lines(bases, count, 0), _lines(bases, count, 1), "launcher")


def fitting(bases: tuple[tuple[int, int], ...], count: int) -> int:
    """Return of how many of these ranges a map has room: it is written at once, as less than a page, and has few lines.

    user_namespaces(7).
    """
    return min(_held(_lines(bases, count, which)) for which in (0, 1)) // count


def _lines(bases: tuple[tuple[int, int], ...], count: int, which: int) -> tuple[IdMap, ...]:
    """Return the lines of a map of ranges; one for neighbours. which: of the pairs."""
    lines: list[IdMap] = []
    for number, base in enumerate(bases):
        if lines and lines[-1].outside + lines[-1].count == base[which]:
            lines[-1] = lines[-1].replace(count=lines[-1].count + count)
        else:
            lines.append(IdMap(number * count, base[which], count))
    return tuple(lines)


def _held(lines: tuple[IdMap, ...]) -> int:
    size = held = 0
    for one in lines[:MAX_ID_LINES]:
        size += len(f"{one.inside} {one.outside} {one.count}\n")
        if size > MAX_ID_BYTES:
            break
        held += one.count
    return held
