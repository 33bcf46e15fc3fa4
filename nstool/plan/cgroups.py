"""Limits → steps: the cgroups of a sandbox, made before clone and entered by it. Pure. cgroups(7).

A cgroup is a directory of its own directly in each hierarchy's base, not in a common one: a common
one would have to be removed by the last sandbox while the next is just making its own in it.
"""

from __future__ import annotations

from nstool.errors import NotSupported, SpecError
from nstool.frozen import Frozen
from nstool.plan.steps import INIT, LAUNCHER, UNDO, Fd, Step
from nstool.uapi import AT_FDCWD, AT_REMOVEDIR, O_CLOEXEC, O_DIRECTORY, O_PATH, O_WRONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.lease import Lease
    from nstool.spec.model import Limits

CONTROLLERS: tuple[str, ...] = (
    "memory",
    "pids",
    "cpu",
    "cpuacct",  # version 1 only; part of cpu in version 2
    "cpuset",
    "io",  # blkio in version 1
    "devices",  # version 1 only; a BPF program in version 2
    "freezer",  # version 1 only; cgroup.freeze in version 2
    "hugetlb",
)
VERSION1 = ("cpuacct", "devices", "freezer")  # no controllers of version 2, where others do their work
UNIFIED = "unified"  # the cgroup2 directory, whichever controllers it has
CGROUP = "cgroup"  # result of the step that opens it, for clone3
WEIGHT = 10  # of the cpu by default; 100 is the kernel's own default, and 1024 is that in version 1
PERIOD = 100_000  # microseconds, the kernel's default; a quota below 1000 is refused, then the period is longer
DELEGATE = "systemd-run --user --scope -p Delegate=yes nstool run ..."


class Controller(Frozen):
    """One controller on this host. version 0: none, and ``cause`` says why.

    mount: of its hierarchy. base: the directory in which a sandbox's cgroup is made. enabled: its
    files appear there (version 2: it is in base's cgroup.subtree_control). usable: enabled, or can
    be by this process; if not, cause is a sentence.
    """

    name: str
    version: int = 0
    mount: str = ""
    base: str = ""
    enabled: bool = False
    usable: bool = False
    cause: str = ""


class Layout(Frozen):
    """The cgroup hierarchies of a host, as a sandbox can use them.

    controllers: all of CONTROLLERS by name. unified_mount: of cgroup2, "" if there is none.
    unified_base: where cgroup2 directories can be made, "" if nowhere. swap_accounting: swap can be
    limited; swap_on: the host swaps. tcp_apart: what TCP sockets buffer has a limit beside that of memory (version 1).
    """

    controllers: dict[str, Controller]
    unified_mount: str = ""
    unified_base: str = ""
    swap_accounting: bool = False
    swap_on: bool = False
    tcp_apart: bool = False


class CgroupSteps(Frozen):
    """launcher: before clone. init: before all else that init does. undo: in the order of making.

    result: fd of the cgroup2 directory for clone3, None if there is none. cgroups: controller
    (or UNIFIED) to directory, for the sandbox's record and its usage.
    """

    launcher: tuple[Step, ...]
    init: tuple[Step, ...]
    undo: tuple[Step, ...]
    result: Fd | None
    cgroups: dict[str, str]


def wanted(limits: Limits) -> tuple[str, ...]:
    """Return the controllers that these limits need."""
    values = {"memory": limits.memory, "pids": limits.pids, "cpu": limits.cpu}
    return tuple(name for name, value in values.items() if value != 0)


def preflight(limits: Limits, layout: Layout) -> tuple[NotSupported, ...]:
    """Return what of the limits this host cannot do; empty when all can be done."""
    missing = [
        NotSupported(f"limits.{name}", layout.controllers[name].cause, _remedy(name))
        for name in wanted(limits)
        if not layout.controllers[name].usable
    ]
    if limits.memory and not missing and layout.swap_on and not layout.swap_accounting:
        missing.append(
            NotSupported(
                "limits.swap",
                "this host swaps (/proc/swaps) and its kernel does not count swap by cgroup, "
                "so that a memory limit would only push memory into swap",
                "boot with swapaccount=1, switch swap off (swapoff -a), or set --memory 0",
            )
        )
    return tuple(missing)


def together(missing: tuple[NotSupported, ...]) -> NotSupported:
    """Return one error for all that ``preflight`` has found: the remedy is one."""
    if len(missing) == 1:
        return missing[0]
    names = [one.what.removeprefix("limits.") for one in missing]
    what = " and ".join(one.what for one in missing)
    return NotSupported(what, "; ".join(dict.fromkeys(one.cause for one in missing)), _remedy(" or ".join(names)))


def _remedy(name: str) -> str:
    return (
        "run without limits of cgroups (--memory 0 --pids 0 --cpu 0), or as root, or in a cgroup of your own: "
        f"{DELEGATE}; where {name} is missing there: systemctl edit user@.service, "
        '"[Service] Delegate=cpu cpuset io memory pids"'
    )


def steps(limits: Limits, lease: Lease, layout: Layout) -> CgroupSteps:
    """Return the steps that put a sandbox in cgroups with these limits; a limit of 0 makes no step.

    There is always a cgroup2 directory where one can be made: it is what ends all processes at
    once (cgroup.kill). Raises NotSupported for the first thing that this host cannot do, SpecError
    for a limit that no kernel takes.
    """
    if missing := preflight(limits, layout):
        raise together(missing)
    controllers = [layout.controllers[name] for name in wanted(limits)]
    make: list[Step] = []
    if layout.unified_base:
        make += _enable(controllers, layout)
    directories = _directories(controllers, layout, lease)
    made = tuple(dict.fromkeys(directories.values()))  # one hierarchy may have several controllers
    make += [_mkdir(path) for path in made]
    for controller in controllers:
        make += _limit(controller, directories[controller.name], limits, layout)
    enter: list[Step] = []
    result = None
    for path in made:
        names = [name for name, directory in directories.items() if directory == path]
        if UNIFIED in names:
            result = Fd(CGROUP)
            make.append(_open(path, O_PATH | O_DIRECTORY, CGROUP, "the cgroup that clone3 starts the sandbox in"))
        else:
            fd = f"cgroup_procs_{names[0]}"
            make.append(_open(entrance(path, directories), O_WRONLY, fd, f"let init enter its {names[0]} cgroup"))
            enter.append(_enter(fd, names[0]))
    return CgroupSteps(tuple(make), tuple(enter), tuple(_rmdir(path) for path in made), result, directories)


def above(limits: Limits, layout: Layout, path: str) -> CgroupSteps:
    """Return the steps for a cgroup2 directory that has others below it, and one for the process that makes those.

    A cgroup with controllers for what is below it has no process itself. cgroups(7), "no internal processes".
    """
    inner = f"{path}/init"
    make = [*_enable([layout.controllers[name] for name in wanted(limits)], layout), _mkdir(path), _mkdir(inner)]
    make.append(_open(inner, O_PATH | O_DIRECTORY, CGROUP, "the cgroup that clone3 starts the template in"))
    return CgroupSteps(tuple(make), (), (_rmdir(path), _rmdir(inner)), Fd(CGROUP), {UNIFIED: path})


def entrance(path: str, directories: dict[str, str]) -> str:
    """Return the file by which a process with one thread enters one of these cgroups, writing 0.

    Of version 1 it is tasks: the kernel moves its writer alone without the lock that cgroup.procs takes,
    which waits for an RCU grace period, ten milliseconds. directories: by controller, or UNIFIED.
    """
    return f"{path}/cgroup.procs" if path == directories.get(UNIFIED) else f"{path}/tasks"


def _directories(controllers: list[Controller], layout: Layout, lease: Lease) -> dict[str, str]:
    """Return controller, and UNIFIED, to the sandbox's directory."""
    found = {controller.name: f"{controller.base}/{lease.cgroup}" for controller in controllers}
    if layout.unified_base:
        found[UNIFIED] = f"{layout.unified_base}/{lease.cgroup}"
    return found


def _enable(controllers: list[Controller], layout: Layout) -> list[Step]:
    # Not undone: others may have come to rely on it, and by itself it limits nothing.
    names = [controller.name for controller in controllers if controller.version == 2 and not controller.enabled]
    if not names:
        return []
    path = f"{layout.unified_base}/cgroup.subtree_control"
    data = " ".join(f"+{name}" for name in names)
    return [_write(path, data, f"switch on the controllers {', '.join(names)} for cgroups in {layout.unified_base}")]


def limit_files(limits: Limits, layout: Layout, cgroups: dict[str, str]) -> dict[str, str]:
    """Return file → text that limits a sandbox. cgroups: its own, controller to directory."""
    return {
        path: data.decode()
        for name in wanted(limits)
        if name in cgroups
        for _, path, data, *_ in (s.args for s in _limit(layout.controllers[name], cgroups[name], limits, layout))
        if isinstance(path, str) and isinstance(data, bytes)
    }


def _limit(controller: Controller, path: str, limits: Limits, layout: Layout) -> list[Step]:
    if controller.name == "memory":
        return _memory(controller.version, path, limits, layout)
    if controller.name == "pids":
        return [_write(f"{path}/pids.max", str(limits.pids), f"at most {limits.pids} tasks")]
    return _cpu(controller.version, path, limits.cpu)


def _memory(version: int, path: str, limits: Limits, layout: Layout) -> list[Step]:
    # Version 1 counts memory and swap together, and takes that limit only when it is not below the first.
    memory, swap = limits.memory, limits.swap
    names = (
        ("memory.max", "memory.swap.max") if version == 2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    )
    both = swap if version == 2 else memory + swap
    made = [_write(f"{path}/{names[0]}", str(memory), f"at most {memory} bytes of memory")]
    if layout.swap_accounting:
        made.append(_write(f"{path}/{names[1]}", str(both), f"at most {swap} bytes of swap"))
    if layout.tcp_apart:
        why = f"at most {memory} bytes that TCP sockets buffer, which version 1 counts apart"
        made.append(_write(f"{path}/memory.kmem.tcp.limit_in_bytes", str(memory), why))
    return made


def _cpu(version: int, path: str, cores: float | None) -> list[Step]:
    if cores is None:
        name, weight = ("cpu.weight", WEIGHT) if version == 2 else ("cpu.shares", WEIGHT * 1024 // 100)
        return [_write(f"{path}/{name}", str(weight), "a tenth of the usual share of a cpu that others want too")]
    period = PERIOD if cores * PERIOD >= 1000 else 10 * PERIOD
    quota = round(cores * period)
    if quota < 1000:
        raise SpecError(f"{cores:g} cores are less than the kernel can measure out: at least 0.001", "limits.cpu")
    why = f"at most {cores:g} cores: {quota} of every {period} microseconds"
    if version == 2:
        return [_write(f"{path}/cpu.max", f"{quota} {period}", why)]
    return [
        _write(f"{path}/cpu.cfs_period_us", str(period), why),
        _write(f"{path}/cpu.cfs_quota_us", str(quota), why),
    ]


def _mkdir(path: str) -> Step:
    return Step(LAUNCHER, "mkdirat", (AT_FDCWD, path, 0o755), "the sandbox's cgroup")


def _rmdir(path: str) -> Step:
    return Step(UNDO, "unlinkat", (AT_FDCWD, path, AT_REMOVEDIR), f"remove cgroup {path}")


def _write(path: str, data: str, why: str) -> Step:
    return Step(LAUNCHER, "write_file", (AT_FDCWD, path, data.encode(), O_WRONLY | O_CLOEXEC, 0), why)


def _open(path: str, flags: int, result: str, why: str) -> Step:
    return Step(LAUNCHER, "openat2", (AT_FDCWD, path, flags | O_CLOEXEC, 0, 0), why, result)


def _enter(fd: str, name: str) -> Step:
    # 0 is the writer. The kernel asks what the opener of the file may do, so that this holds in a user namespace too.
    return Step(INIT, "write", (Fd(fd), b"0"), f"enter its {name} cgroup")
