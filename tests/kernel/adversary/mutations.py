"""One protection taken away, and the checks that must then turn red: so that they are known to be able to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from nstool import uapi
from nstool.plan.steps import INIT, Fd, Step
from nstool.spec.model import Capabilities, IdMap, Limits, Mount, Namespaces, Net, Root, Seccomp, SeccompCall

Steps = tuple[Step, ...]
Edit = Callable[[Steps], Steps]


class Mutation(NamedTuple):
    """words: changes of the spec. edit: of the steps of the plan. red: these checks do not hold then.

    only: as of a check. since: the first Linux on which they hold without it.
    """

    name: str
    group: str
    red: tuple[str, ...]
    words: dict[str, Any] = {}
    edit: Edit | None = None
    only: str = ""
    since: tuple[int, int] = (0, 0)

    @property
    def how(self) -> str:
        """The change in words."""
        return ", ".join(self.words) or "a step of the plan"


def without(wanted: Callable[[Step], bool]) -> Edit:
    """Leave out the steps for which this holds; there must be some."""

    def edit(steps: Steps) -> Steps:
        kept = tuple(step for step in steps if not wanted(step))
        assert kept != steps, "the plan has no such step"
        return kept

    return edit


def instead(wanted: Callable[[Step], bool], change: Callable[[Step], Step]) -> Edit:
    """Change the steps for which this holds; there must be some."""

    def edit(steps: Steps) -> Steps:
        changed = tuple(change(step) if wanted(step) else step for step in steps)
        assert changed != steps, "the plan has no such step"
        return changed

    return edit


def _cleared(flag: int) -> Callable[[Step], Step]:
    """The step with a mount attribute less."""
    return lambda step: step.replace(
        args=tuple(arg & ~flag if type(arg) is int and n >= 2 else arg for n, arg in enumerate(step.args))
    )


def _makes_mount(step: Step) -> bool:
    return step.call == "fsmount" or step.call == "mount_setattr"


def _capable(*names: str) -> dict[str, Any]:
    return {"capabilities": Capabilities(names, names, names, names, names), "seccomp": "none"}


def _shared(*kinds: str) -> dict[str, Any]:
    return {"namespaces": Namespaces(**dict.fromkeys(kinds, "host"))}


_MOUNTS = (
    *("mount", "mount-bind", "mount-remount", "umount2", "fsopen", "fsconfig", "fsmount", "fspick", "open-tree"),
    *("move-mount", "mount-setattr", "pivot-root"),
)
_NEW = ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup")
_HOST_IDS = (IdMap(0, 0, 1), IdMap(1, 1, 65535))
_DATA = Mount("/data", "/usr/share")
_INIT_OPEN = ("environ", "maps", "auxv", "io", "root", "cwd", "exe", "fd")


def _undumpable(step: Step) -> bool:
    return step.call == "prctl" and step.args[0] == uapi.PR_SET_DUMPABLE


def _init_open(step: Step) -> bool:
    return step.who == INIT and (_undumpable(step) or step.call == "capset")


MUTATIONS: tuple[Mutation, ...] = (
    # ---- identity ----
    Mutation(
        "id 0 of the host mapped",
        "identity",
        ("host-0-in-no-uid-map", "host-0-in-no-gid-map"),
        {"uid_map": (IdMap(1000, 0, 1),), "gid_map": (IdMap(1000, 0, 1),)},
        only="root",
    ),
    Mutation(
        "no filter",
        "identity",
        ("filtered", *(f"no-new-user-by-{way}" for way in ("unshare", "clone", "clone3"))),
        {"seccomp": "none"},
    ),
    Mutation(
        "no filter, CAP_SYS_ADMIN",
        "identity",
        tuple(f"no-new-{kind}-by-{way}" for kind in _NEW for way in ("unshare", "clone", "clone3")),
        _capable("sys_admin"),
    ),
    Mutation(
        "a capability",
        "identity",
        tuple(f"no-capability-{name}" for name in ("inh", "prm", "eff", "bnd", "amb")),
        {"capabilities": Capabilities(("kill",), ("kill",), ("kill",), ("kill",), ("kill",))},
    ),
    Mutation("CAP_SETGID", "identity", ("setgroups",), {"capabilities": Capabilities(*[("setgid",)] * 5)}),
    Mutation("groups", "identity", ("no-groups",), {"groups": ("5",)}),
    Mutation("no_new_privs off", "identity", ("no-new-privs",), {"no_new_privs": False, "seccomp": "none"}),
    Mutation("securebits off", "identity", ("securebits",), {"securebits": ()}),
    Mutation(
        "securebits unlocked",
        "identity",
        ("securebits-locked", "securebits"),
        {"securebits": ("noroot",), "capabilities": Capabilities(*[("setpcap",)] * 5)},
    ),
    # ---- files ----
    Mutation(
        "the host's root",
        "files",
        ("top-of-the-root", "no-host-path-in-mountinfo", "no-secret-by-path", "command-file-alone"),
        {"root": Root(type="host"), "tmp_size": 0},
    ),
    Mutation(
        "the directory of the command is shown",
        "files",
        ("command-file-alone", "no-secret-by-path"),
        {"mounts": (Mount("/tmp", "/tmp"),)},
    ),
    Mutation("a working directory", "files", ("cwd-in-the-root",), {"cwd": "/usr"}),
    Mutation(
        "a directory is passed",
        "files",
        ("no-inherited-fd", "no-fd-of-a-directory"),
        {"pass_fds": (50,)},
    ),
    Mutation("a mount with suid", "files", ("every-mount-nosuid",), {"mounts": (_DATA.replace(suid=True),)}),
    Mutation("a mount with dev", "files", ("every-mount-nodev",), {"mounts": (_DATA.replace(dev=True),)}),
    Mutation("a writable mount", "files", ("writable-is-its-own",), {"mounts": (_DATA.replace(writable=True),)}),
    Mutation(
        "a tmpfs from which programs run",
        "files",
        ("writable-is-noexec",),
        {"mounts": (Mount("/data", type="tmpfs", writable=True, size=1 << 20),)},
    ),
    Mutation(
        "no noexec",
        "files",
        ("writable-is-noexec", "no-exec-in-tmp", "no-exec-in-var-tmp", "no-exec-in-dev-shm"),
        edit=instead(_makes_mount, _cleared(uapi.MOUNT_ATTR_NOEXEC)),
    ),
    Mutation(
        "no nosuid", "files", ("every-mount-nosuid",), edit=instead(_makes_mount, _cleared(uapi.MOUNT_ATTR_NOSUID))
    ),
    Mutation("no nodev", "files", ("every-mount-nodev",), edit=instead(_makes_mount, _cleared(uapi.MOUNT_ATTR_NODEV))),
    Mutation("shared propagation", "files", ("no-propagation",), {"mount_propagation": "shared"}),
    Mutation("CAP_SYS_CHROOT", "files", ("chroot",), _capable("sys_chroot")),
    Mutation("the host's /dev", "files", ("devices",), {"dev": "bind", "terminal": "never"}),
    Mutation(
        "the host's ids",
        "files",
        ("stdin-not-for-writing", "stdout-not-for-reading", "stderr-not-for-reading"),
        {"uid_map": _HOST_IDS, "gid_map": _HOST_IDS, "user": "0:0"},
        only="root",
    ),
    Mutation(
        "a writable root",
        "files-as-root",
        ("read-only-open-in-root", "read-only-mkdir", "read-only-symlink", "read-only-mknod-fifo", "read-only-rename"),
        {"root": Root(writable=True)},
    ),
    Mutation(
        "/dev stays writable",
        "files-as-root",
        ("read-only-open-in-dev", "read-only-mkdirat"),
        edit=without(lambda step: step.call == "mount_setattr" and step.args[0] == Fd("dev")),
        only="user",  # root's /dev belongs to nobody inside
    ),
    Mutation(
        "no filter, CAP_SYS_ADMIN as root",
        "files-as-root",
        (*(f"no-{name}" for name in _MOUNTS), "root-no-capability"),
        _capable("sys_admin"),
    ),
    # ---- /proc ----
    Mutation(
        "the covers of /proc left out",
        "proc",
        (
            "covered-interrupts",
            "covered-cmdline",
            "covered-vmstat",
            "own-proc-version",
            "own-proc-stat",
            "own-proc-loadavg",
        ),
        edit=without(lambda step: step.call == "move_mount" and step.args[0] == Fd("cover")),
    ),
    Mutation("/proc/cmdline shown", "proc", ("covered-cmdline",), {"proc_show": ("cmdline",)}),
    Mutation(
        "/proc/sys shown",
        "proc",
        ("sys-without-kernel-core_pattern", "sys-without-fs-file-nr", "own-proc-sys-kernel-random-boot_id"),
        {"proc_show": ("sys",)},
    ),
    Mutation("the command's file is bound", "proc", ("maps",), {"mounts": (Mount("/tmp", "/tmp"),)}, since=(6, 12)),
    Mutation("hidepid off", "proc", ("hidepid", "hidepid-other-user", "init-stat", "init-status"), {"hidepid": "off"}),
    Mutation("the host's uts namespace", "proc", ("own-host-name",), _shared("uts")),
    Mutation(
        "the host's clocks",
        "proc",
        ("boot-clock", "monotonic-clock", "raw-clock", "coarse-clock", "start-time", "own-proc-uptime"),
        _shared("time"),
    ),
    Mutation("the host's cgroup namespace", "proc", ("cgroup-paths",), _shared("cgroup"), only="root"),
    Mutation("no score", "proc", ("oom-score-is-500",), {"oom_score_adj": 0}),
    Mutation("the host's /proc", "proc", ("hidepid",), {"proc": "bind"}, only="root"),
    Mutation(
        "init is open",
        "proc-as-root",
        tuple(f"root-init-{name}" for name in _INIT_OPEN),
        {"capabilities": Capabilities(*[("sys_ptrace",)] * 5), "seccomp": "none"},
        without(_init_open),
    ),
    # ---- the kernel's calls ----
    Mutation(
        "no filter, all calls",
        "kernel",
        (
            *("call-of-i386", "call-of-x32-39", "socket-families", "socket-netlink", "clone3"),
            *("never-perf_event_open", "never-userfaultfd", "never-process_vm_readv", "never-ptrace"),
            *("personality-0x40000", "terminal-tiocsetd-0", f"terminal-tiocsetd-{1 << 63:x}", "socketpair-30"),
        ),
        {"seccomp": "none"},
    ),
    # ---- processes ----
    Mutation(
        "the host's pid namespace", "processes", ("nobody-outside",), {**_shared("pid"), "proc": "bind"}, only="root"
    ),
    Mutation(
        "no init, a variable",
        "processes",
        ("init-without-environment", "init-capabilities"),
        {"init": False, "env": {"SECRET": "1"}},
        only="root",
    ),
    Mutation("a variable", "processes", ("environment",), {"env": {"SECRET": "1"}}),
    Mutation(
        "init keeps its capabilities",
        "processes",
        ("init-capabilities",),
        edit=without(lambda step: step.who == INIT and step.call == "capset"),
    ),
    Mutation("CAP_SYS_PTRACE", "processes-as-root", ("newcomers",), _capable("sys_ptrace")),
    Mutation("CAP_KILL", "processes", ("kill-init",), {"capabilities": Capabilities(*[("kill",)] * 5)}),
    # ---- what is shared ----
    Mutation(
        "the host's ipc namespace",
        "ipc",
        ("shared-memory", "semaphores", "message-queue", "posix-queue", "memory-made-inside"),
        _shared("ipc"),
    ),
    Mutation("the host's /dev/shm", "ipc", ("posix-memory",), {"mounts": (Mount("/dev/shm", "/dev/shm"),)}),
    Mutation("the host's /tmp mounted", "ipc", ("socket-in-tmp",), {"mounts": (Mount("/tmp", "/tmp"),)}),
    Mutation(
        "the host's network",
        "ipc",
        ("abstract-socket", "service-on-127.0.0.1", "unix-sockets"),
        {"net": Net(mode="host"), "namespaces": Namespaces(net="host")},
    ),
    Mutation("a link", "ipc", ("interfaces", "routes"), {"net": Net(mode="veth")}, only="root"),
    Mutation("no filter, keys", "ipc", ("keyctl", "add-key", "request-key"), {"seccomp": "none"}),
    # ---- limits ----
    Mutation(
        "other rlimits",
        "limits",
        (
            *("hard-limit-nofile", "hard-limit-memlock", "hard-limit-sigpending", "hard-limit-msgqueue"),
            *("fds", "signals", "queues"),
        ),
        {"limits": Limits(memory=0, pids=0, cpu=0, rlimits={"nofile": (64, 64), "memlock": (4096, 4096)})},
    ),
    Mutation(
        "no limits of the user namespace",
        "limits",
        ("inotify", "watches"),
        {"limits": Limits(memory=0, pids=0, cpu=0, ucounts={})},
    ),
    Mutation(
        "any number of terminals",
        "limits",
        ("terminals",),
        edit=without(lambda step: step.call == "fsconfig" and step.args[2] == "max"),
    ),
    Mutation("a filter that allows aio", "limits", ("aio",), {"seccomp": Seccomp(allow=(SeccompCall("@aio"),))}),
    Mutation(
        "a user namespace of root's",
        "limits",
        ("owner",),
        edit=instead(
            lambda step: step.call == "clone3" and step.args[3] != 0,
            lambda step: step.replace(args=(*step.args[:3], 0)),
        ),
        only="root",
    ),
    Mutation(
        "no limit of buffers",
        "buffers",
        ("tcp-buffers",),
        {"limits": Limits(memory=400 << 20)},
        only="root",
    ),
    Mutation(
        "no cgroups",
        "limits",
        ("memory-limit", "task-limit", "cpu-share"),
        {"limits": Limits(memory=1 << 30, pids=0, cpu=0)},
        only="root",
    ),
    Mutation(
        "large scratch",
        "limits",
        ("scratch-tmp", "scratch-var-tmp", "scratch-shm"),
        {"tmp_size": 1 << 30},
    ),
    Mutation("a large layer", "writable-root", ("writable-root",), {"root": Root(writable=True, size=200 << 20)}),
    Mutation("no task limit", "tasks", ("tasks",), {"limits": Limits(pids=300)}, only="root"),
    *(
        Mutation(
            f"no memory limit: {name}",
            name,
            (name,),
            {"limits": Limits(memory=400 << 20), "tmp_size": 200 << 20},
            only="root",
        )
        for name in ("memory-of-a-process", "memory-of-a-memfd", "memory-of-tmp", "memory-of-shm")
    ),
)
