"""Plans for entering what runs already: a sandbox with its hardening, or the namespaces of a process. Pure."""

from __future__ import annotations

from nstool import uapi
from nstool.frozen import Frozen
from nstool.kinds import JOIN_ORDER, KINDS
from nstool.namespaces import pid, user
from nstool.plan import build
from nstool.plan.cgroups import entrance
from nstool.plan.host import Host
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, Fd, Plan, Step
from nstool.spec.model import Spec

_STREAMS = ("stdin", "stdout", "stderr")


class Target(Frozen):
    """What is joined. different: the namespace types in which it differs from the caller.

    cgroups: controller to directory. denied: its user namespace denies setgroups(2).
    has_root: id 0 is mapped in its user namespace.
    """

    different: frozenset[str]
    cgroups: dict[str, str] = {}
    denied: bool = False
    has_root: bool = True


def into_sandbox(spec: Spec, host: Host, target: Target) -> Plan:
    """Return the plan that runs spec.command in a running sandbox, as it was made from spec.

    Given: "target", a pidfd of its init. The monitor stays outside the sandbox's cgroups and pid
    namespace; the command is in all of them before it execs. setns(2).
    """
    flags = 0
    for name in target.different:
        flags |= KINDS[name].flag
    maps = user.Maps((), (), "single" if target.denied else "launcher") if "user" in target.different else None
    terminal = build.terminals(spec, host)
    groups, entered = _cgroups(target)
    names = ", ".join(name for name in JOIN_ORDER if name in target.different)
    steps = (
        *groups,
        *build.label_steps(spec, host, LAUNCHER),
        Step(LAUNCHER, "clone3", (0, -1, 0, 0), "the process that joins"),
        Step(CHILD, "exec_init", (), "nsexec takes over: no memory of the launcher is seen inside"),
        *build.oom(spec, INIT),  # before it joins: with the rights of the caller
        *build.raise_limits(spec, host, INIT),
        user.undumpable(INIT, "nobody inside traces who comes in (CVE-2016-9962)"),
        *(
            (Step(INIT, "setns", (Fd("target"), flags), f"join {names} at once, through a pidfd", man="setns(2)"),)
            if flags
            else ()
        ),
        *_become_root(target),
        *(build.terminal_steps(spec) if terminal else ()),
        *build.answers(spec, host, owned="user" in target.different),
        Step(INIT, "clone3", (0, -1, 0, 0), "the process that becomes the command, inside the pid namespace"),
        Step(PAYLOAD, "reset_signals", (), "dispositions and mask as a fresh process has them"),
        *entered,
        *build.label_steps(spec, host, PAYLOAD),
        *build.fd_steps(spec, terminal),
        *build.own_null(spec, terminal),
        *pid.payload_steps(spec),
        *build.hardened(spec, host, maps, terminal),
    )
    given = (*_STREAMS, *(f"pass{n}" for n in range(len(spec.pass_fds))), "target")
    return Plan(steps, given, True, True)


def _become_root(target: Target) -> tuple[Step, ...]:
    if "user" not in target.different or not target.has_root:
        return ()
    why = "an id that is mapped there, until the command's own are set"
    steps = [Step(INIT, "setresgid", (0, 0, 0), why), Step(INIT, "setresuid", (0, 0, 0), why)]
    if not target.denied:
        steps.insert(1, Step(INIT, "setgroups", (b"",), "drop the caller's supplementary groups"))
    steps.append(user.undumpable(INIT, "the change of ids may have reset it"))
    return tuple(steps)


def _cgroups(target: Target) -> tuple[list[Step], list[Step]]:
    """Steps that open the target's cgroups, and those by which the command enters them.

    Not CLONE_INTO_CGROUP: it asks for the rights of the one who clones, who is in the sandbox's user
    namespace already; a write asks for those of the one who opened the file. cgroups(7).
    """
    opened: list[Step] = []
    entered: list[Step] = []
    for path in dict.fromkeys(target.cgroups.values()):
        name = next(name for name, directory in target.cgroups.items() if directory == path)
        args = (uapi.AT_FDCWD, entrance(path, target.cgroups), uapi.O_WRONLY | uapi.O_CLOEXEC, 0, 0)
        opened.append(Step(LAUNCHER, "openat2", args, f"the sandbox's {name} cgroup", result=f"procs_{name}"))
        entered.append(
            Step(PAYLOAD, "write", (Fd(f"procs_{name}"), "0"), f"be counted in the {name} cgroup", man="cgroups(7)")
        )
    return opened, entered


def into_namespaces(
    command: tuple[str, ...],
    files: dict[str, str],
    environment: dict[str, str],
    *,
    root: str = "",
    ids: tuple[int, int] | None = None,
    cwd: str = "",
    terminal: tuple[int, ...] = (),
) -> Plan:
    """Return the plan that runs a command in some namespaces with the caller's own rights. nsenter(1).

    files: namespace type to its file. root: directory that becomes "/", opened before joining.
    ids: (uid, gid) to take when a user namespace is joined. cwd: directory to start in, inside.
    terminal: which standard streams are a terminal of that root's /dev/pts.
    """
    order = [name for name in JOIN_ORDER if name in files]
    steps: list[Step] = [
        Step(
            LAUNCHER,
            "openat2",
            (uapi.AT_FDCWD, files[name], uapi.O_RDONLY | uapi.O_CLOEXEC, 0, 0),
            "every namespace is opened before the first is joined: joining changes what a path means",
            result=f"ns_{name}",
        )
        for name in order
    ]
    if root:
        args = (uapi.AT_FDCWD, root, uapi.O_PATH | uapi.O_DIRECTORY | uapi.O_CLOEXEC, 0, 0)
        steps.append(Step(LAUNCHER, "openat2", args, "the root of the target", result="root"))
    steps += [
        Step(LAUNCHER, "clone3", (0, -1, 0, 0), "the process that joins"),
        Step(CHILD, "exec_init", (), "nsexec takes over: a process with threads may not join mnt, user or time"),
        user.before_joining(),
    ]
    for name in order:
        steps.append(
            Step(INIT, "setns", (Fd(f"ns_{name}"), KINDS[name].flag), f"join the {name} namespace", man=KINDS[name].man)
        )
    if root:
        steps.append(Step(INIT, "fchdir", (Fd("root"),), "stand in the target's root"))
        steps.append(Step(INIT, "chroot", (".",), "it is the root now"))
    if ids is not None:
        uid, gid = ids
        steps.append(
            Step(INIT, "setgroups", (b"",), "the caller's groups mean nothing there", ignore=1)
        )  # EPERM: denied there
        steps.append(Step(INIT, "setresgid", (gid, gid, gid), "a group id of that user namespace"))
        steps.append(Step(INIT, "setresuid", (uid, uid, uid), "a user id of that user namespace"))
        steps.append(user.undumpable(INIT, "the change of ids may have reset it"))
    if terminal:  # it is of the ids that open it, which are the command's
        steps += [step for step in build.terminal_steps(Spec()) if step.call != "fchownat"]
    steps += [
        Step(INIT, "clone3", (0, -1, 0, 0), "joining a pid namespace holds for children: this one"),
        Step(PAYLOAD, "reset_signals", (), "dispositions and mask as a fresh process has them"),
        *build.fd_steps(Spec(), terminal),
        *((*pid.payload_steps(Spec()), build.CONTROLLING) if terminal else ()),
        build.close_step(Spec()),
        *((Step(PAYLOAD, "chdir", (cwd,), "the working directory"),) if cwd else ()),
        *pid.death_steps(Spec()),
        Step(
            PAYLOAD,
            "execve",
            (
                build.candidates(command[0], environment.get("PATH", build.PATH)),
                command,
                tuple(f"{k}={v}" for k, v in environment.items()),
            ),
            "the command",
        ),
    ]
    return Plan(tuple(steps), _STREAMS, True, True)
