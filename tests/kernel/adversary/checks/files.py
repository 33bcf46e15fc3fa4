"""Files: nothing of the host can be reached, nothing be written, no mount changed, no device made."""

from __future__ import annotations

from pathlib import Path

from nstool import uapi
from tests.kernel.adversary.base import Answer, Check, call, refused, says, tells
from tests.kernel.adversary.run import View
from tests.kernel.rows import boxes

CREATE = str(uapi.O_CREAT | uapi.O_RDWR)
AT_FDCWD = -100
TOP = {"etc", "usr", "dev", "proc", "tmp", "var", "run", "home", "root", "opt", "srv", "mnt"}
LINKS = {"bin", "lib", "lib32", "lib64", "libx32", "sbin"}
DEV_OTHERS = {"fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"}
DEVICES = {"null", "zero", "full", "random", "urandom", "tty"}


def _secret(view: View) -> Answer:
    """Read a file that everybody on the host may read, beside the program that is shown."""
    return view.ask("read", view.secret)


def _up(view: View) -> Answer:
    """Whether ".." of the root is the root, also from a deep working directory."""
    here = view.ask("stat", "/").text
    places = ("", "/../../../..", "/proc/self/root", "/proc/self/cwd/..", "/usr/../..", "/dev/fd/../root")
    others = [place for place in places if view.ask("stat", f"{place}/..").text != here]
    return Answer(text=" ".join(others))


def _point(view: View, lacks: str, writable: bool = False) -> Answer:
    mounts = boxes.mounts(view.pid)
    points = [
        point
        for point, line in mounts.items()
        if lacks not in line.options and not (writable and {"ro"} & (line.options | line.superblock))
    ]
    return Answer(text=" ".join(sorted(points)))


def _no_nodes(points: Answer) -> Answer:
    """But for device nodes, which nobody executes: for an ordinary user they are bound."""
    nodes = {f"/dev/{name}" for name in DEVICES}
    return Answer(text=" ".join(point for point in points.text.split() if point not in nodes))


def _suid(view: View) -> Answer:
    return _no_nodes(_point(view, "nosuid"))


def _exec(view: View) -> Answer:
    return _no_nodes(_point(view, "noexec", writable=True))


def _nodev(view: View) -> Answer:
    """The mounts without nodev that are not of /dev."""
    points = _point(view, "nodev").text.split()
    return Answer(text=" ".join(point for point in points if f"{point}/".split("/")[1] != "dev"))


def _writable(view: View) -> Answer:
    """The mounts that can be written and are no file system of the sandbox's own."""
    own = {"tmpfs", "proc", "devpts", "mqueue"}
    points = [point for point, line in boxes.mounts(view.pid).items() if "rw" in line.options and line.type not in own]
    nodes = {f"/dev/{name}" for name in DEVICES}  # of an ordinary user they are bound
    return Answer(text=" ".join(sorted(set(points) - nodes)))


def _shared(view: View) -> Answer:
    """The mounts whose events come from the host or go there."""
    return Answer(text=" ".join(sorted(p for p, line in boxes.mounts(view.pid).items() if line.fields)))


def _sources(view: View) -> Answer:
    """What /proc/self/mountinfo says inside that is a path or a device of the host."""
    text = view.ask("read", "/proc/self/mountinfo").text
    host = boxes.mounts("self").values()
    told = [line.source for line in host if line.source.startswith("/") and f" {line.source} " in text]
    nodes = ("devtmpfs", "udev")  # of an ordinary user
    told += [line.source for line in host if len(line.source) > 8 and line.source in text and line.source not in nodes]
    return Answer(text=" ".join(told))


def _left(view: View) -> Answer:
    """What the launcher left in the sandbox's own directories."""
    found = [view.ask("list", path).text for path in ("/tmp", "/var/tmp", "/run", "/dev/shm", "/home", "/root")]
    shown = view.program.split("/")[2]  # the directory of the command's file
    return Answer(text="".join(found).replace(f"{shown} ", ""))


def _directories(view: View) -> Answer:
    """The fds by which files of the host can be opened."""
    fds = view.ask("list", "/proc/self/fd").text.split()
    return Answer(text=" ".join(fd for fd in fds if not view.ask("open", f"/proc/self/fd/{fd}/etc").error))


def _command_file(view: View) -> Answer:
    """The entries of the directory of the command's file."""
    return view.ask("list", str(Path(view.program).parent))


_FDS = tells("has 0 to 2, and the one that reads", lambda text: text.split() == ["0", "1", "2", "3"])
_READ_ONLY = "the root is read-only, for its own root too"

CHECKS: tuple[Check, ...] = (
    Check("no-secret-by-path", _secret, refused("ENOENT"), "a file that all may read on the host is not there", "root"),
    Check("command-file-alone", _command_file, says("adversary-probe"), "beside the command's file is nothing", "root"),
    Check("cwd-in-the-root", ("link", "/proc/self/cwd"), says("/"), "the working directory is inside", "root"),
    Check("root-is-the-root", ("link", "/proc/self/root"), says("/"), "the root is its own", "root"),
    Check("nothing-above-the-root", _up, says(""), 'no way of writing ".." leads out', "root"),
    Check(
        "top-of-the-root",
        ("list", "/"),
        tells("is what the default root has", lambda text: set(text.split()) <= TOP | LINKS | {"work"}),
        "the root has what the plan puts there",
        "root",
    ),
    Check("nothing-left-by-the-launcher", _left, says(""), "scratch directories begin empty", "scratch"),
    Check("no-inherited-fd", ("list", "/proc/self/fd"), _FDS, "no fd of the launcher is inherited", "close_range"),
    Check("no-fd-of-a-directory", _directories, says(""), "no fd leads to files of the host", "close_range"),
    Check(
        "stdin-not-for-writing",
        ("open", "/proc/self/fd/0", "1"),
        refused("EACCES"),
        "what was passed to be read cannot be reopened to be written",
        "ids",
    ),
    Check(
        "stdout-not-for-reading",
        ("open", "/proc/self/fd/1"),
        refused("EACCES"),
        "what was passed to be written cannot be reopened to be read",
        "ids",
    ),
    Check(
        "stderr-not-for-reading",
        ("open", "/proc/self/fd/2", "2"),
        refused("EACCES", "EROFS"),
        "a file that was passed to be appended to cannot be reopened",
        "ids",
    ),
    Check("chroot", call("chroot", "/usr"), refused("EPERM"), "the root cannot be changed", "capabilities"),
    Check(
        "files-by-handle",
        call("open_by_handle_at", AT_FDCWD, "b:64", 0),
        refused("EPERM"),
        "no file is opened by number",
        "seccomp",
    ),
    Check(
        "no-character-device",
        call("mknod", "/tmp/node", 0o20666, 1 << 8 | 3),
        refused("EPERM"),
        "no device node can be made",
        "capabilities",
    ),
    Check(
        "no-block-device",
        call("mknodat", AT_FDCWD, "/tmp/node", 0o60666, 7 << 8),
        refused("EPERM"),
        "no device node can be made",
        "capabilities",
    ),
    Check(
        "devices",
        ("list", "/dev"),
        tells(
            "are the safe ones",
            lambda text: (
                set(text.split()) - DEVICES == {"fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"}
            ),
        ),
        "/dev has the safe devices alone",
        "dev",
    ),
    Check(
        "every-mount-nosuid",
        _suid,
        says(""),
        "no set-user-ID file takes effect",
        "nosuid",
    ),
    Check("every-mount-nodev", _nodev, says(""), "no device node works outside of /dev", "nodev"),
    Check(
        "writable-is-noexec",
        _exec,
        says(""),
        "no program runs from where one can write",
        "noexec",
    ),
    Check("writable-is-its-own", _writable, says(""), "what can be written is no file of the host", "root"),
    Check("no-propagation", _shared, says(""), "no mount event passes between host and sandbox", "propagation"),
    Check("no-host-path-in-mountinfo", _sources, says(""), "the list of mounts tells no path or disk", "root"),
    *(
        Check(
            f"no-exec-in{path.replace('/', '-')}",
            ("execute_copy", f"{path}/program"),
            refused("EACCES"),
            "no program runs from where one can write",
            "noexec",
        )
        for path in ("/tmp", "/var/tmp", "/dev/shm")
    ),
)

# ---- as root inside, whom no mode stops ----

_WRITES: dict[str, tuple[str, ...]] = {
    "open-in-root": ("open", "/new", CREATE),
    "open-in-usr": ("open", "/usr/new", CREATE),
    "open-in-etc": ("open", "/etc/new", CREATE),
    "open-in-dev": ("open", "/dev/new", CREATE),
    "open-of-passwd": ("open", "/etc/passwd", "2"),
    "mkdir": call("mkdir", "/new", 0o755),
    "mkdirat": call("mkdirat", AT_FDCWD, "/dev/new", 0o755),
    "symlink": call("symlink", "/tmp", "/new"),
    "link": call("link", "/etc/passwd", "/etc/new"),
    "mknod-fifo": call("mknod", "/new", 0o10644, 0),
    "rename": call("rename", "/srv", "/new"),
    "unlink": call("unlink", "/etc/passwd"),
    "rmdir": call("rmdir", "/srv"),
    "chmod": call("chmod", "/etc", 0o777),
    "chown": call("chown", "/etc", 1000, 1000),
    "truncate": call("truncate", "/etc/passwd", 0),
    "utimensat": call("utimensat", AT_FDCWD, "/etc", 0, 0),
    "setxattr": call("setxattr", "/etc", "user.x", "x", 1, 0),
}
MOUNT_CALLS: dict[str, tuple[str, ...]] = {
    "mount": call("mount", "none", "/tmp", "tmpfs", 0, 0),
    "mount-bind": call("mount", "/usr", "/tmp", 0, uapi.MS_BIND, 0),
    "mount-remount": call("mount", "none", "/", 0, uapi.MS_REMOUNT | uapi.MS_BIND, 0),
    "umount2": call("umount2", "/tmp", uapi.MNT_DETACH),
    "fsopen": call("fsopen", "tmpfs", 0),
    "fsconfig": call("fsconfig", -1, 6, 0, 0, 0),
    "fsmount": call("fsmount", -1, 0, 0),
    "fspick": call("fspick", AT_FDCWD, "/tmp", 0),
    "open-tree": call("open_tree", AT_FDCWD, "/usr", uapi.OPEN_TREE_CLONE),
    "open-tree-attr": call("open_tree_attr", AT_FDCWD, "/usr", uapi.OPEN_TREE_CLONE, "b:32", 32),
    "move-mount": call("move_mount", AT_FDCWD, "/tmp", AT_FDCWD, "/run", 0),
    "mount-setattr": call("mount_setattr", AT_FDCWD, "/", 0, "b:32", 32),
    "pivot-root": call("pivot_root", "/tmp", "/tmp"),
}
AS_ROOT: tuple[Check, ...] = (
    *(
        Check(f"read-only-{name}", ask, refused("EROFS", "EACCES"), _READ_ONLY, "read-only")
        for name, ask in _WRITES.items()
    ),
    *(
        Check(f"no-{name}", ask, refused("EPERM"), "no mount can be made, changed or taken away", "mounts")
        for name, ask in MOUNT_CALLS.items()
    ),
    Check("root-chroot", call("chroot", "/usr"), refused("EPERM"), "the root cannot be changed", "capabilities"),
    Check(
        "root-no-device",
        call("mknod", "/tmp/node", 0o20666, 1 << 8 | 3),
        refused("EPERM"),
        "no device node can be made",
        "capabilities",
    ),
    Check(
        "root-no-capability", call("sethostname", "x", 1), refused("EPERM"), "uid 0 inside has no power", "securebits"
    ),
    Check(
        "root-no-exec-in-run", ("execute_copy", "/run/program"), refused("EACCES"), "no program runs there", "noexec"
    ),
)
