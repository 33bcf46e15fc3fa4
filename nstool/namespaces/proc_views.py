"""What of /proc is covered, and by what: an empty file or directory, or a text of the sandbox's own. proc(5)."""

from __future__ import annotations

from nstool import uapi
from nstool.namespaces import mounting
from nstool.plan import views
from nstool.plan.host import Host
from nstool.plan.lease import Lease
from nstool.plan.steps import INIT, Fd, Step
from nstool.spec.model import Spec

SYS = "sys"  # the directory of /proc, and in the hold what takes its place
REAL = "real"  # where the hold has the kernel's


class Views:
    """The steps for one sandbox: what they need in the hold, and the covers after /proc is mounted."""

    def __init__(self, spec: Spec, host: Host, lease: Lease, hostname: str, *, shared: bool = False) -> None:
        """shared: the hold is that of a service's template: what differs between its sandboxes is shown live."""
        wanted = spec.proc != "none" and not spec.proc_subset
        self.hidden = views.hidden(spec, host) if wanted else {}
        self.texts = views.texts(spec, host, lease) if wanted else {}
        self.own_sys = wanted and SYS not in spec.proc_show
        self.sysctls = views.sysctls(spec, host, lease, hostname) if self.own_sys else {}
        self.live = views.live(spec, host) if self.own_sys else ()
        if shared and hostname:
            self.live = (*self.live, *(path for path in _NAMES if self.sysctls.pop(path, None)))

    def __bool__(self) -> bool:
        return bool(self.hidden or self.own_sys)

    def size(self) -> int:
        """Bytes that the files in the hold take, in whole pages."""
        return sum(-(-len(text) // 4096) * 4096 for text in (*self.texts.values(), *self.sysctls.values()))

    def hold(self) -> list[Step]:
        """The steps that make the files in the hold."""
        steps = [_file(_view(name), text, f"what /proc/{name} says") for name, text in self.texts.items()]
        if not self.own_sys:
            return steps
        directories: dict[str, None] = {REAL: None, SYS: None}
        for path in (*self.sysctls, *self.live):
            directories |= dict.fromkeys(f"{SYS}{part}" for part in mounting.parents("/" + path)[:-1])
        directories |= dict.fromkeys(f"{SYS}/{path}" for path in self.live if path in _DIRECTORIES)
        for path in directories:
            steps.append(Step(INIT, "mkdirat", (Fd("hold"), path, 0o555), "a directory of /proc/sys"))
        for path, text in self.sysctls.items():
            steps.append(_file(f"{SYS}/{path}", text, f"what /proc/sys/{path} says"))
        for path in self.live:
            if path not in _DIRECTORIES:
                steps.append(_file(f"{SYS}/{path}", "", f"the place of /proc/sys/{path}"))
        return steps

    def cover(self, *, each: bool = False) -> list[Step]:
        """The steps that cover what tells of the host. each: of a service's sandbox, whose hold stays."""
        steps: list[Step] = []
        for name, directory in self.hidden.items():
            view = _view(name) if name in self.texts else "dir" if directory else "file"
            why = (
                "says what holds for the sandbox" if name in self.texts else "tells of the host or acts on it: covered"
            )
            steps += _cover(view, name, f"/proc/{name} {why}")
        if not self.own_sys:
            return steps
        if each:
            return [*steps, *self._cover_sys_of_each()]
        # The real one is kept where the covers come from, so that what is live of it can be copied when it is covered.
        real = (Fd("proc"), SYS, mounting.CLONE_TREE)
        steps.append(Step(INIT, "open_tree", real, "the kernel's /proc/sys", result="real"))
        keep = (Fd("real"), "", Fd("hold"), REAL, uapi.MOVE_MOUNT_F_EMPTY_PATH)
        steps.append(Step(INIT, "move_mount", keep, "keep it until the end"))
        steps += _cover(SYS, SYS, "/proc/sys has the settings that programs ask for")
        for path in self.live:
            why = f"/proc/sys/{path} is of the sandbox's namespaces"
            steps.append(Step(INIT, "open_tree", (Fd("real"), path, mounting.CLONE_TREE), why, result="live"))
            steps += _show_live("live", path)
        return steps

    def _cover_sys_of_each(self) -> list[Step]:
        # What is live of the kernel's own is taken before that is covered: nothing of it is left in the hold.
        steps: list[Step] = []
        for number, path in enumerate(self.live):
            copy = (Fd("proc"), f"{SYS}/{path}", mounting.CLONE_TREE)
            why = f"/proc/sys/{path} is of the sandbox's namespaces"
            steps.append(Step(INIT, "open_tree", copy, why, result=f"live{number}"))
        steps += _cover(SYS, SYS, "/proc/sys has the settings that programs ask for")
        for number, path in enumerate(self.live):
            steps += _show_live(f"live{number}", path)
        return steps


def _show_live(name: str, path: str) -> list[Step]:
    flags = mounting.SAFE | uapi.MOUNT_ATTR_NOEXEC | uapi.MOUNT_ATTR_RDONLY
    where = (Fd(name), "", Fd("proc"), f"{SYS}/{path}", uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return [
        mounting.attributes(INIT, name, flags, "read-only", recursive=False),
        Step(INIT, "move_mount", where, "show it"),
    ]


_NAMES = ("kernel/hostname", "kernel/domainname")
_DIRECTORIES = ("net", "fs/mqueue")  # of what is live; the others are files


def _view(name: str) -> str:
    return f"view-{name}"


def _file(name: str, text: str, why: str) -> Step:
    return Step(INIT, "write_file", (Fd("hold"), name, text, uapi.O_CREAT, 0o444), why)


def _cover(view: str, name: str, why: str) -> list[Step]:
    # By the path below the /proc that was just mounted: nothing of it is a symlink, and nobody else is in here yet.
    source = (Fd("hold"), view, mounting.CLONE_TREE)
    where = (Fd("cover"), "", Fd("proc"), name, uapi.MOVE_MOUNT_F_EMPTY_PATH)
    return [
        Step(INIT, "open_tree", source, "a copy of the cover", result="cover"),
        Step(INIT, "move_mount", where, why),
    ]
