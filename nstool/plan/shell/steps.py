"""Each call as commands of a shell: FORMS has its form, ABSENT says why it has none. Pure.

A form takes the script so far and its step, and returns the commands, and notes for what no command does.
"""

from __future__ import annotations

import shlex

from nstool import uapi
from nstool.kinds import KINDS
from nstool.namespaces import time
from nstool.plan import describe
from nstool.plan.shell import mounts, network, payload
from nstool.plan.shell.place import Place
from nstool.plan.shell.words import Lines, exec_chain, in_quotes, numbers, printf
from nstool.plan.steps import INIT, PAYLOAD, Fd, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nstool.plan.shell.script import Script


_UNSHARE = {name: "mount" if name == "mnt" else name for name in KINDS}  # --mount, --pid, ...

EXECS = ("setns", "unshare", "setresuid", "setresgid", "setgroups")  # a shell does them by exec of a program
_INIT = "init is a shell, not nsexec from a sealed memfd: it forwards no signals and reports only the exit status"
TERMINAL = "a terminal of its own: the command gets the caller's streams as they are"

_AS_BEFORE = ["#   by the first unshare above"]
_LABEL = "the AppArmor profile or SELinux context: setpriv asks for one, and would give it to env(1), which it executes"

# Calls without a shell form, and why.
ABSENT: dict[str, str] = {
    "seccomp": "the system call filter: setpriv takes one from util-linux 2.40 on (--seccomp-filter FILE)",
    "answer_sysinfo": "sysinfo(2): the command is told the host's memory, load and uptime",
    "keyctl": "a session keyring of its own: keyctl(1) may be absent (keyctl session - COMMAND)",
    "send_fd": TERMINAL,
    **dict.fromkeys(("serve", "receive"), "a sandbox for each connection: nstool serve"),
    "ioctl_int": TERMINAL,
    "fcntl": payload.PASSED,
    **dict.fromkeys(
        ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
        "Landlock: setpriv has it from util-linux 2.40 on (--landlock-access, --landlock-rule)",
    ),
    "chroot": "a chroot into the root of another process: nsenter --root",
    "pidfd_open": "a shell cannot hold a pidfd",
}


def _fchdir(s: Script, _: Step) -> Lines:
    return ["#   nothing to do: the commands name it by its path"]


def _chdir(s: Script, step: Step) -> Lines:
    if step.who == PAYLOAD:
        return payload.program(s, "env", f"--chdir={shlex.quote(str(step.args[0]))}")
    return ["#   at the end: until then the tools are found from the working directory"]


# ---- files ----


def _mkdirat(s: Script, step: Step) -> Lines:
    directory, path = step.args[:2]
    (mode,) = numbers(step, 2)
    where = s.show(s.at(directory, path))
    unless = f"[ -d {where} ] || " if step.ignore else ""
    return [f"{unless}{s.tool('mkdir')} -m {mode:o} {where}"]


def _mknodat(s: Script, step: Step) -> Lines:
    directory, path = step.args[:2]
    mode, number = numbers(step, 2, 3)
    kind = {uapi.S_IFCHR: "c", uapi.S_IFBLK: "b"}.get(mode & uapi.S_IFMT)
    if kind is None:
        return s.no("mknod of something else than a device")
    major, minor = describe.device(number)
    return [f"{s.tool('mknod')} -m {mode & 0o7777:o} {s.show(s.at(directory, path))} {kind} {major} {minor}"]


def _symlinkat(s: Script, step: Step) -> Lines:
    target, directory, path = step.args
    return [f"{s.tool('ln')} -s {shlex.quote(str(target))} {s.show(s.at(directory, path))}"]


def _unlinkat(s: Script, step: Step) -> Lines:
    directory, path, flags = step.args
    where = s.show(s.at(directory, path))
    if flags == uapi.AT_REMOVEDIR:
        s.functions.add("remove_cgroup")
        s.tools.add("sleep")
        return [f"remove_cgroup {where}"]
    return [f"rm -f {where}"]


def _fchmodat(s: Script, step: Step) -> Lines:
    directory, path = step.args[:2]
    (mode,) = numbers(step, 2)
    return [f"{s.tool('chmod')} {mode:o} {s.show(s.at(directory, path))}"]


def _fchownat(s: Script, step: Step) -> Lines:
    directory, path = step.args[:2]
    uid, gid = numbers(step, 2, 3)
    return [f"{s.tool('chown')} -h {uid}:{gid} {s.show(s.at(directory, path))}"]


def _write_file(s: Script, step: Step) -> Lines:
    directory, path, data = step.args[:3]
    flags, mode = numbers(step, 3, 4)
    if step.who == PAYLOAD:
        return s.no(_LABEL)
    if path == time.OFFSETS:
        return _AS_BEFORE
    command = f"{printf(data)} >{s.show(s.at(directory, path))}"
    return [f"(umask {0o666 & ~mode:03o} && {command})" if flags & uapi.O_CREAT else command]


def _write(s: Script, step: Step) -> Lines:
    place = s.place(step.args[0])
    return [f"{printf(step.args[1])} >&{place.digit}"]


# ---- namespaces and processes ----


def _clone3(s: Script, step: Step) -> Lines:
    cgroup = step.args[1]
    flags, tid, owner = numbers(step, 0, 2, 3)
    notes = s.no("the pid that the command asks for (set_tid)") if tid else []
    notes += s.no("the owner of the user namespace: what is made in it counts for who runs this") if owner else []
    if step.who == INIT:
        return notes
    s.unshared = [f"--{_UNSHARE[name]}" for name, kind in KINDS.items() if flags & kind.flag]
    lines = ["#   by unshare below, and a fork of it"]
    if isinstance(cgroup, Fd):
        lines.append(f"printf 0 >{s.show(s.at(cgroup, 'cgroup.procs'))}")
    return [*notes, *lines]


def _unshare(s: Script, step: Step) -> Lines:
    (flags,) = numbers(step, 0)
    names = [name for name, kind in KINDS.items() if flags & kind.flag]
    options = [f"--{_UNSHARE[name]}" for name in names]
    if flags == uapi.CLONE_NEWTIME:
        return _AS_BEFORE
    fork = ["--fork", "--kill-child"] if {"pid", "time"} & set(names) else []
    unchanged = ["--propagation=unchanged"] if "mnt" in names else []
    s.chain.append(" ".join(["unshare", *options, *fork, *unchanged]))
    return [f"#   by unshare {' '.join(options)} below"]


def _time(s: Script) -> Lines:
    """Note what unshare(1) says of the time namespace, which it makes in one with the others."""
    for step in s.plan.steps:
        if step.call == "unshare" and step.args[0] == uapi.CLONE_NEWTIME:
            s.unshared.append("--time")
        if step.call != "write_file" or step.args[1] != time.OFFSETS:
            continue
        data = step.args[2]
        for line in (data.decode() if isinstance(data, bytes) else str(data)).splitlines():
            clock, seconds, nanoseconds = line.split()
            if nanoseconds != "0":
                return s.no(f"nanoseconds of the {clock} offset")
            if seconds != "0":
                s.unshared.append(f"--{clock}={seconds}")
    return []


def _raise_ambient(s: Script, _: Step) -> Lines:
    s.unshared.append("--keep-caps")
    return ["#   by unshare --keep-caps below"]


def _exec_init(s: Script, _: Step) -> Lines:
    note = [*_time(s), *s.no(_INIT)]
    options = " ".join([*s.unshared, "--fork", *(["--kill-child"] if s.plan.die_with_parent else [])])
    if "--mount" in s.unshared:
        options += " --propagation=unchanged"
    wait = 'read -r pid _ </proc/self/stat; echo "$pid" >&4; read -r _ <"$work/go"; exec sh -eu "$work/init1"'
    s.cloned = True
    # What unshare(1) says after the fork is that it cannot kill itself as its child was killed, by SIGKILL.
    streams = '3>&2 2>"$work/errors"'
    return [*note, *exec_chain([f"unshare {options}", f"sh -eu -c 'exec 2>&3 3>&-; {wait}' {streams}"])]


def _setns(s: Script, step: Step) -> Lines:
    place = s.place(step.args[0])
    (flags,) = numbers(step, 1)
    if place.path == time.NEW:
        return _AS_BEFORE
    words = [f"--{_UNSHARE[name]}=/proc/self/fd/{place.digit}" for name, kind in KINDS.items() if flags & kind.flag]
    keep = " --preserve-credentials" if flags & uapi.CLONE_NEWUSER else ""
    s.tools.add("nsenter")
    s.chain.append(f"nsenter {' '.join(words)}{keep}")
    return ["#   by nsenter below"]


def _release(s: Script, _: Step) -> Lines:
    return ["#   at the end of this script, when init's part is written too"]


def _wait(s: Script, _: Step) -> Lines:
    return ["#   it was waiting for this file to be there"]


def _attest(s: Script, _: Step) -> Lines:
    return ["#   nothing reads back what a script has made: nstool attest PID SPEC does"]


def _futex(s: Script, _: Step) -> Lines:
    return ["#   not needed: no process of this script is inside beside the command"]


def _write_proc(s: Script, step: Step) -> Lines:
    name, data = step.args
    return [f'{printf(data)} >"/proc/$pid/{in_quotes(str(name))}"']


def _spawn(s: Script, step: Step) -> Lines:
    words = step.args[0]
    assert isinstance(words, tuple)
    return [" ".join('"$pid"' if word == "{pid}" else shlex.quote(word) for word in words)]


def _sethostname(s: Script, step: Step) -> Lines:
    return [f"{s.tool('hostname')} {_quoted(step.args[0])}"]


def _setdomainname(s: Script, step: Step) -> Lines:
    return [f"{s.tool('domainname')} {_quoted(step.args[0])}"]


def _quoted(value: object) -> str:
    return shlex.quote(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def _socket(s: Script, step: Step) -> Lines:
    s.places[step.result] = Place(step.who)
    return ["#   ip has its own"]


def _ioctl(s: Script, step: Step) -> Lines:
    (request,) = numbers(step, 1)
    arg = step.args[2]
    assert isinstance(arg, bytes)
    if request != uapi.SIOCSIFFLAGS:
        return s.no(f"ioctl {uapi.name('IOCTL', request)}")
    state = "up" if int.from_bytes(arg[16:18], "little") & uapi.IFF_UP else "down"
    return [f"{s.tool('ip')} link set {shlex.quote(describe.device_name(arg))} {state}"]


# ---- external steps: the network ----


def _external(s: Script, step: Step) -> Lines:
    name, args = step.args
    assert isinstance(args, dict)
    form = network.FORMS.get(str(name))
    if form is None:
        return s.no(f"{describe.printable(str(name))}: no command does it")
    lines, tools, functions = form(args)
    s.tools |= set(tools)
    s.functions |= set(functions)
    for reason in network.ABSENT.get(str(name), ()):
        s.no(reason)
    return lines


FORMS: dict[str, Callable[[Script, Step], Lines]] = {
    "openat2": mounts.openat2,
    "open_tree": mounts.open_tree,
    "move_mount": mounts.move_mount,
    "mount_setattr": mounts.mount_setattr,
    "fsopen": mounts.fsopen,
    "fsconfig": mounts.fsconfig,
    "fsmount": mounts.fsmount,
    "mount": mounts.mount,
    "umount2": mounts.umount2,
    "pivot_root": mounts.pivot_root,
    "chdir": _chdir,
    "fchdir": _fchdir,
    "mkdirat": _mkdirat,
    "mknodat": _mknodat,
    "symlinkat": _symlinkat,
    "unlinkat": _unlinkat,
    "fchownat": _fchownat,
    "fchmodat": _fchmodat,
    "write_file": _write_file,
    "write": _write,
    "sethostname": _sethostname,
    "setdomainname": _setdomainname,
    "personality": payload.personality,
    "setns": _setns,
    "unshare": _unshare,
    "socket": _socket,
    "ioctl": _ioctl,
    "setgroups": payload.setgroups,
    "setresuid": payload.set_ids("--reuid"),
    "setresgid": payload.set_ids("--regid"),
    "capset": payload.capset,
    "prctl": payload.prctl,
    "setrlimit": payload.setrlimit,
    "setsid": payload.setsid,
    "umask": payload.umask,
    "dup3": payload.dup3,
    "close_range": payload.close_range,
    "close": payload.close,
    "reset_signals": payload.reset_signals,
    "own_null": payload.own_null,
    "raise_ambient": _raise_ambient,
    "drop_bounding": payload.drop_bounding,
    "clone3": _clone3,
    "wait": _wait,
    "release": _release,
    "futex_wake": _futex,
    "futex_wait": _futex,
    "attest": _attest,
    "exec_init": _exec_init,
    "execve": payload.execve,
    "write_proc": _write_proc,
    "spawn": _spawn,
    "external": _external,
}
