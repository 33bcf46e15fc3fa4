"""Options and commands of other tools, as of docker(1), bwrap(1) and unshare(1), and what they are here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

_MOUNT = "--mount SRC:DST[:rw]"
_TERMINAL = "leave it out: the command has a terminal when you have one (--terminal)"
_NEW = "leave it out: every namespace is a new one unless --share TYPE says otherwise"

# An option to ours, or to what else is to be done.
OPTIONS: dict[str, str] = {
    "-v": _MOUNT,
    "--volume": _MOUNT,
    "--bind": "--mount SRC:DST:rw",
    "--bind-try": "--mount SRC:DST:rw",
    "--bindmount": "--mount SRC:DST:rw",
    "--ro-bind": "--mount SRC:DST",
    "--ro-bind-try": "--mount SRC:DST",
    "--bindmount_ro": "--mount SRC:DST",
    "--dev-bind": "--mount SRC:DST:rw,dev",
    "--tmpfsmount": "--tmpfs DST",
    "--rootfs": "--root DIR",
    "--chroot": "--root DIR",
    "--read-only": "leave it out: the root is read-only unless --writable says otherwise",
    "-p": "--publish [ADDRESS:]HOST:INSIDE",
    "--port": "--publish [ADDRESS:]HOST:INSIDE",
    "--network": "--net MODE",
    "--unshare-net": "--net none, or leave it out: by default there is a loopback device and no other",
    "--share-net": "--net host",
    "--disable_clone_newnet": "--net host",
    "--add-host": "--hosts NAME=ADDRESS",
    "--ip": "--address ADDRESS/LENGTH",
    "-e": "--env NAME=VALUE",
    "--setenv": "--env NAME=VALUE",
    "--clearenv": "leave it out: nothing of your environment comes in",
    "-w": "--cwd DIR",
    "--workdir": "--cwd DIR",
    "--chdir": "--cwd DIR",
    "-u": "--user UID[:GID]",
    "--uid": "--user UID[:GID]",
    "--gid": "--user UID[:GID]",
    "--group-add": "--groups GROUP,...",
    "-m": "--memory SIZE",
    "--memory-swap": "--swap SIZE",
    "--cpus": "--cpu CORES",
    "--cpu-quota": "--cpu CORES",
    "--pids-limit": "--pids COUNT",
    "--ulimit": "--rlimit NAME=SOFT:HARD",
    "--cap-add": "--cap NAME,...",
    "--cap-drop": "leave it out: the command has no capabilities but those of --cap",
    "--privileged": "nothing gives all at once: see --cap, --share, --dev bind, --seccomp none",
    "--security-opt": "--seccomp none, --new-privs, --apparmor PROFILE or --selinux CONTEXT",
    "-d": "--detach",
    "-i": _TERMINAL,
    "-t": _TERMINAL,
    "--interactive": _TERMINAL,
    "--tty": _TERMINAL,
    "--new-session": "leave it out: the command has a session of its own",
    "--rm": "leave it out: nothing of a sandbox stays when it has ended",
    "--entrypoint": "the command goes behind --",
    "--unshare-all": _NEW,
    **{f"--unshare-{kind}": _NEW for kind in ("user", "pid", "ipc", "uts", "cgroup", "user-try", "cgroup-try")},
    "--uidmap": "--uid-map INSIDE:OUTSIDE:COUNT",
    "--gidmap": "--gid-map INSIDE:OUTSIDE:COUNT",
    "--as-pid-1": "--no-init",
}
# A command to one of ours, or to what else is to be done.
COMMANDS: dict[str, str] = {
    "kill": "nstool signal NAME KILL",
    "logs": "nothing keeps the output but nstool run --detach --log FILE",
    "inspect": "nstool show NAME",
}


def option(name: str, known: Container[str]) -> str:
    """Return what to say of an option of another tool, "" if it is none. known: the options that there are."""
    if name not in OPTIONS and name[1:2] != "-":
        name = name[:2]  # -p8080:80, -it
    here = OPTIONS.get(name, "")
    if not here.startswith("--"):
        return here
    return f"here it is {here}" if here.split()[0].rstrip(",") in known else ""


def command(name: str) -> str:
    """Return what to say of a command of another tool, "" if it is none."""
    here = COMMANDS.get(name, "")
    return f"here it is {here}" if here.startswith("nstool ") else here
