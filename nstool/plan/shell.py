"""A plan as a shell script: the same steps in the same order, with the commands that a person has. Pure.

The script is for reading and for trying things by hand. It has the parts that the engine has: the
launcher; the stage, which is the launcher's mounts and clone3 in a mount namespace of the script's
own, because a shell cannot hold a detached mount; init; the payload. What a step does that no command
does is said at its place, and in a list at the start.

An fd is a path here. After pivot_root the new root may lack every tool, so the tools stay those of
the old root: it is the working directory until the command starts, and its loader starts them.
"""

from __future__ import annotations

import shlex

from nstool import uapi
from nstool.errors import NotSupported
from nstool.kinds import KINDS
from nstool.plan import describe
from nstool.plan.calls import CALLS
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.security import capabilities, securebits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Lines = list[str]

_DIGITS = (6, 7, 8)  # fds of one digit, the only ones that sh can name; 3 to 5 and 9 are the script's own
_UNSHARE = {name: "mount" if name == "mnt" else name for name in KINDS}  # --mount, --pid, ...
_ATTRIBUTES = {
    uapi.MOUNT_ATTR_RDONLY: "ro",
    uapi.MOUNT_ATTR_NOSUID: "nosuid",
    uapi.MOUNT_ATTR_NODEV: "nodev",
    uapi.MOUNT_ATTR_NOEXEC: "noexec",
    uapi.MOUNT_ATTR_NOATIME: "noatime",
    uapi.MOUNT_ATTR_STRICTATIME: "strictatime",
    uapi.MOUNT_ATTR_NODIRATIME: "nodiratime",
    uapi.MOUNT_ATTR_NOSYMFOLLOW: "nosymfollow",
}
_PROPAGATION = {
    uapi.MS_PRIVATE: "private",
    uapi.MS_SLAVE: "slave",
    uapi.MS_SHARED: "shared",
    uapi.MS_UNBINDABLE: "unbindable",
}
# setpriv(1) has no word for the other securebits.
_SECUREBITS = {"noroot", "noroot_locked", "no_setuid_fixup", "no_setuid_fixup_locked", "keep_caps_locked"}

_TERMINAL = "a terminal of its own: the command gets the caller's streams as they are"
_INIT = "init is a shell, not nsexec from a sealed memfd: it forwards no signals and reports only the exit status"
_RESOLVE = "mount targets are opened by path: openat2 would refuse a symlink in the new root, mount follows it"

# Calls without a shell form, and why.
ABSENT: dict[str, str] = {
    "seccomp": "the system call filter: setpriv takes one from util-linux 2.40 on (--seccomp-filter FILE)",
    "keyctl": "a session keyring of its own: keyctl(1) may be absent (keyctl session - COMMAND)",
    "send_fd": _TERMINAL,
    "ioctl_int": _TERMINAL,
    "fcntl": "fds that the spec passes: put them at 3 and above in the last exec",
    "chroot": "a chroot into the root of another process: nsenter --root",
    "pidfd_open": "a shell cannot hold a pidfd",
}


def script(plan: Plan) -> bytes:
    """Return the script. Raises NotSupported for a plan that no script can stand for.

    In bytes: file names and arguments may be no UTF-8. POSIX sh; util-linux from 2.38 and coreutils
    from 8.31 on.
    """
    return _Script(plan).text().encode("utf-8", "surrogateescape")


class _Place:
    """What an fd is in the script.

    path: where it is; old: in the old root. staged: name below $work when it is a mount of ours that
    waits to be attached. source, recursive: what is to be bound, for a tree that is bound only where
    it goes. fstype, options: of a filesystem still to be made. flags: mount flags that are known;
    None when they are those of a tree of the host. who: made it. digit: fd number in the script.
    """

    def __init__(self, who: str, path: str = "", old: bool = False) -> None:
        self.who = who
        self.path = path
        self.old = old
        self.staged = ""
        self.source: _Place | None = None
        self.recursive = False
        self.fstype = ""
        self.options: list[str] = []
        self.flags: list[str] | None = None
        self.later: list[str] = []  # flags to set once it is bound
        self.propagation = 0
        self.digit = 0

    def below(self, path: str) -> _Place:
        """Return the place of a path in this directory."""
        found = _Place(self.who, f"{self.path.rstrip('/')}/{path}" if path else self.path, self.old)
        found.staged = self.staged and (f"{self.staged}/{path}" if path else self.staged)
        return found


class _Script:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.places: dict[str, _Place] = {}
        self.absent: dict[str, list[int]] = {}  # reason → numbers of steps
        self.tools: set[str] = {"unshare", "mkfifo", "mkdir", "rmdir", "rm", "mktemp", "readlink", "ldd", "sort", "tr", "cat"}
        self.old_tools: set[str] = set()
        self.functions: set[str] = set()
        self.staging: Lines = []  # makes the directories and files that are mounted on below $work
        self.names: set[str] = set()
        self.before: Lines = []  # launcher, up to the stage
        self.stage: Lines = []
        self.after: Lines = []  # launcher, from the stage on
        self.segments: list[Lines] = [[]]  # of init: each ends in an exec of the next
        self.chain: Lines = []  # programs of that exec
        self.ids: dict[str, str] = {}  # what setpriv is to do in that exec
        self.command: Lines = []  # payload
        self.programs: dict[str, Lines] = {}  # of the payload's exec
        self.undo: Lines = []
        self.digits = list(_DIGITS)
        self.pivoted = False
        self.root = ""  # staged name of the new root
        self.unshared: list[str] = []  # options of the unshare that stands for clone3 and the child
        self.number = 0
        for number, step in enumerate(plan.steps, 1):
            self.number = number
            self.add(step)

    # ---- where lines go ----

    def add(self, step: Step) -> None:
        """Put a step's comment and commands where its actor finds them."""
        if step.who == INIT and self.chained and step.call not in _EXECS:
            self.end_segment()
        lines = self.lines(step)
        # A note is one line, whatever a path or an argument in it holds.
        notes = [f"# {self.number} {step.call}: {step.why}", *(line for line in lines if line.startswith(_NOTE))]
        commands = [line for line in lines if not line.startswith(_NOTE)]
        out = [*map(describe.printable, notes), *commands, *([""] if commands else [])]
        if step.who == UNDO:
            self.undo[:0] = out
        else:
            self.target(step).extend(out)
        if step.call == "clone3" and step.who == INIT:
            self.segments[-1].append(_PAYLOAD_MARK)

    def target(self, step: Step) -> Lines:
        """Return the part of the script that a step belongs to."""
        if step.who == INIT:
            return self.segments[-1]
        if step.who == PAYLOAD:
            return self.command
        if step.who == CHILD or (step.who == LAUNCHER and not self.unshared_done and self.staged_yet(step)):
            return self.stage
        return self.after if self.unshared_done else self.before

    unshared_done = False

    def staged_yet(self, step: Step) -> bool:
        """Whether the stage has begun: with the first mount of the launcher, or with clone3."""
        return bool(self.stage) or step.call in ("open_tree", "fsopen", "clone3")

    @property
    def chained(self) -> bool:
        return bool(self.chain or self.ids)

    def end_segment(self) -> None:
        """End a part of init with the exec of what its last steps ask for."""
        programs = [*self.chain, *([self.setpriv(self.ids, "KILL")] if self.ids else [])]
        number = len(self.segments) + 1
        self.segments[-1] += _exec([*programs, f'sh -eu "$work/init{number}"'])
        self.segments.append([])
        self.chain, self.ids = [], {}

    # ---- steps ----

    def lines(self, step: Step) -> Lines:
        """Return the commands of a step, and notes, which begin with _NOTE."""
        if self.is_terminal(step):
            return self.no(_TERMINAL)
        if step.call in ABSENT:
            return self.no(ABSENT[step.call])
        if step.call == "external":
            return _external(self, step)
        form: Callable[[_Script, Step], Lines] = FORMS[step.call]
        return form(self, step)

    def is_terminal(self, step: Step) -> bool:
        """Whether a step is about the sandbox's own terminal."""
        used = [arg.name for arg in step.args if isinstance(arg, Fd)]
        return step.result in ("ptmx", "tty") or bool({"ptmx", "tty"} & set(used))

    def no(self, reason: str) -> Lines:
        """Note that the script does not do this, here and in the list at its start."""
        numbers = self.absent.setdefault(reason, [])
        if self.number not in numbers:
            numbers.append(self.number)
        return [f"#   not done: {reason}"]

    def tool(self, name: str) -> str:
        """Return how a program is called at this point: by name, or that of the old root."""
        if self.pivoted:
            self.old_tools.add(name)
            return f"$old${name}"
        self.tools.add(name)
        return name

    def mount(self) -> str:
        """Return how mount(8) is called. -n: it keeps no notes of its own below /run/mount."""
        return f"{self.tool('mount')} -n"

    def digit(self) -> int:
        """Return a free fd number for the script."""
        if not self.digits:
            raise NotSupported(
                "plan --sh",
                f"the plan holds more than {len(_DIGITS)} fds that a shell must hold too, and sh knows fds 0 to 9 only",
                "join fewer namespaces, or use nstool run",
            )
        return self.digits.pop(0)

    def place(self, value: object) -> _Place:
        """Return the place of an fd argument; of AT_FDCWD: the root of the actor."""
        if isinstance(value, Fd):
            if value.name not in self.places:
                raise NotSupported(
                    "plan --sh", f"step {self.number} uses fd {value.name!r}, which the caller brings", "nstool run"
                )
            return self.places[value.name]
        return _Place("", "", not self.pivoted)

    def at(self, directory: object, path: object) -> _Place:
        """Return the place of a path relative to a directory fd."""
        assert isinstance(path, str)
        if path.startswith("/") or not isinstance(directory, Fd):
            return _Place("", path, not self.pivoted)
        return self.place(directory).below(path)

    def show(self, place: _Place) -> str:
        """Return a place as a word of the shell: with ".." before it when it lies in the old root by now."""
        up = ".." if self.pivoted and place.old else ""
        if place.staged:
            return f'"{up}$work/{_in_quotes(place.staged)}"'
        return shlex.quote(up + place.path)

    def name(self, wanted: str) -> str:
        """Return a name below $work that nothing has yet."""
        plain = wanted if wanted.isidentifier() else "fd"
        found = next(n for n in (plain, *(f"{plain}.{i}" for i in range(1, 1 << 16))) if n not in self.names)
        self.names.add(found)
        return found

    def setpriv(self, options: dict[str, str], signal: str = "") -> str:
        """Return the setpriv command for these options; a change of gid must say what becomes of the groups."""
        words = [f"{key}={value}" if value else key for key, value in options.items()]
        if "--regid" in options and not {"--groups", "--clear-groups"} & set(options):
            words.append("--keep-groups")
        if signal and self.plan.die_with_parent:
            words.append(f"--pdeathsig={signal}")
        return " ".join([self.tool("setpriv"), *words])

    # ---- the whole ----

    def text(self) -> str:
        """Return the script."""
        self.finish_init()
        body = [
            *self.start(),
            *_define("undo", self.undo),
            *_FINISH,
            *self.needs(),
            *self.before,
            *self.start_stage(),
            *self.after,
            *self.init_files(),
            *_END,
        ]
        return "\n".join([*self.header(), *body]) + "\n"

    def header(self) -> Lines:
        lines = [
            "#!/bin/sh",
            f"# Sandbox {describe.printable(self.plan.name)} as a shell script, made by nstool plan --sh.",
            "# The numbers are those of the steps that nstool plan prints. The name, the host ids and the addresses were",
            "# free when this was made: run it before anything else takes them, and once at a time.",
            "#",
            "# not done by this script:",
        ]
        self.absent["what a script killed by SIGKILL leaves behind: no journal is kept"] = []
        for reason, numbers in self.absent.items():
            steps = f" ({'step' if len(numbers) == 1 else 'steps'} {_ranges(numbers)})" if numbers else ""
            lines.append(f"#   - {reason}{steps}")
        return [*lines, "# shellcheck disable=SC2086 # $old is several words"]

    def start(self) -> Lines:
        return [
            "set -eu",
            "umask 022",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            'work=$(mktemp -d "${TMPDIR:-/tmp}/nstool.XXXXXX")',
            "sandbox=''",
            "export PATH work",
            *(line for name in sorted(self.functions & set(_MAIN_FUNCTIONS)) for line in ("", *_MAIN_FUNCTIONS[name])),
            "",
        ]

    def needs(self) -> Lines:
        """The tools, and how those of the old root are run once it is the old root."""
        old = sorted(self.old_tools)
        quoted = " ".join(f'"${tool}"' for tool in old)
        lines = [
            "",
            f"for tool in {' '.join(sorted(self.tools | self.old_tools))}; do",
            '    command -v "$tool" >/dev/null || { echo "$0: $tool is needed and not found" >&2; exit 125; }',
            "done",
            'chmod 711 "$work"',
        ]
        if old:
            lines += [
                "# After pivot_root: tools of the old root, from a directory of it, by its own loader and libraries.",
                *(f'{tool}=$(readlink -f "$(command -v {tool})")' for tool in old),
                "loader='' libraries=''",
                f"for word in $(ldd {quoted}); do",
                "    case $word in",
                "    *:) ;;",
                '    /*/ld-*) loader=$(readlink -f "$word") ;;',
                '    /*) libraries=$libraries:..$(readlink -f "${word%/*}") ;;',
                "    esac",
                "done",
                'libraries=$(echo "$libraries" | tr : "\\n" | sort -u | tr "\\n" :)',
                "old_root=\"..$loader --library-path ${libraries#:} ..\" old='' proc=/proc",
                f"export old_root old proc {' '.join(old)}",
            ]
        if self.functions & set(_PART_FUNCTIONS):
            text = [line for name in sorted(self.functions & set(_PART_FUNCTIONS)) for line in _PART_FUNCTIONS[name]]
            lines += _file("functions", text)
        return [*lines, *self.staging, ""]

    def start_stage(self) -> Lines:
        """Write the stage, start it and learn the new process's pid."""
        mounts = self.names or any(step.call == "fsopen" for step in self.plan.steps if step.who == LAUNCHER)
        slave = any(s.call in ("mount", "mount_setattr") and uapi.MS_SLAVE in _bits(s) for s in self.plan.steps)
        run = ["sh", "-eu", '"$work/stage"']
        if mounts and any(s.who == LAUNCHER and s.call in ("open_tree", "fsopen") for s in self.plan.steps):
            run = ["unshare", "--mount", f"--propagation={'slave' if slave else 'private'}", *run]
        if self.plan.die_with_parent:
            self.tools.add("setpriv")
            run = ["setpriv", "--pdeathsig=KILL", *run]
        return [
            *_file("stage", [*self.source_functions(self.stage), *self.stage]),
            "",
            'mkfifo "$work/cloned" "$work/go"',
            'exec 3<&0 4<>"$work/cloned" 5<>"$work/go"',
            f"{' '.join(run)} <&3 3<&- &",
            "sandbox=$!",
            'exec 3<"$work/cloned" 4<&-',
            "read -r pid <&3 || exit 125 # its message says why",
            "exec 3<&-",
            "",
        ]

    def source_functions(self, part: Lines) -> Lines:
        used = any(line.lstrip().startswith(tuple(_PART_FUNCTIONS)) for line in part)
        return ['. "$work/functions"', ""] if used else []

    def finish_init(self) -> None:
        """Put the payload into its place in init, and init's waiting at its end."""
        segment = self.segments[-1]
        if _PAYLOAD_MARK not in segment:  # no init: the process itself becomes the command
            segment += self.command
            return
        at = segment.index(_PAYLOAD_MARK)
        inner = [f"    {line}" if line else "" for line in self.command]
        while inner and not inner[-1]:
            inner.pop()
        segment[at : at + 1] = ["exec 3<&0", "(", *inner, ") <&3 3<&- &", "payload=$!", "exec 3<&-", ""]
        segment += ["", "cd /", "status=0", 'wait "$payload" || status=$?', 'exit "$status"']

    def init_files(self) -> Lines:
        lines: Lines = []
        for number, segment in enumerate(self.segments, 1):
            lines += _file(f"init{number}", [*self.source_functions(segment), *segment])
        return lines


_NOTE = "#   "  # how a line begins that says something about a step
_PAYLOAD_MARK = "\0payload"
_EXECS = ("setns", "unshare", "setresuid", "setresgid", "setgroups")  # what a shell does by exec of a program


# ---- pieces of text ----


def _in_quotes(text: str) -> str:
    return "".join(f"\\{char}" if char in '"$`\\' else char for char in text)


def _exec(programs: list[str]) -> Lines:
    """Return the exec of programs that exec one another, one a line."""
    first, *rest = [*(f"{program} \\" for program in programs[:-1]), programs[-1]]
    return [f"exec {first}", *(f"    {program}" for program in rest)]


def _file(name: str, lines: Lines) -> Lines:
    """Write a part of the script to a file: the delimiter is a line that the part has not."""
    text = "\n".join(["# shellcheck shell=sh disable=SC2086,SC2154,SC1091", *lines]).split("\n")
    while text and not text[-1]:
        text.pop()
    end = f"END_OF_{name.upper()}"
    while end in text:
        end += "_"
    return [f'cat >"$work/{name}" <<\'{end}\'', *text, end]


def _define(name: str, lines: Lines) -> Lines:
    body = [f"    {line}" if line else "" for line in lines]
    while body and not body[-1]:
        body.pop()
    return [f"{name}() {{", *body, "    :", "}", ""]


def _ranges(numbers: list[int]) -> str:
    """Return numbers as "3, 5-7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _printf(data: object) -> str:
    """Return the printf command that writes these bytes."""
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    assert isinstance(raw, bytes)
    escapes = {0x0A: "\\n", 0x09: "\\t", 0x25: "%%", 0x5C: "\\\\"}
    form = "".join(escapes.get(b) or (chr(b) if 0x20 <= b < 0x7F else f"\\{b:03o}") for b in raw)
    return f"printf {'-- ' if form.startswith('-') else ''}{shlex.quote(form)}"


def _bits(step: Step) -> list[int]:
    numbers = [arg for arg in step.args if isinstance(arg, int) and arg > 0]
    return [1 << bit for number in numbers for bit in range(number.bit_length()) if number >> bit & 1]


_FINISH = """\
finish() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    set +e
    if [ -n "$sandbox" ]; then
        kill -KILL "$sandbox" 2>/dev/null
        wait "$sandbox" 2>/dev/null
    fi
    undo
    # Nothing is mounted here outside the sandbox's own mount namespaces, and rmdir takes empty directories only.
    for entry in "$work"/*; do
        if [ -d "$entry" ]; then rmdir "$entry"; else rm -f "$entry"; fi
    done
    rmdir "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM""".split("\n")

_END = """
# All parts are written and the launcher's steps are done: let init go on, and wait for its end.
echo go >&5
status=0
wait "$sandbox" || status=$?
sandbox=''
exit "$status\"""".split("\n")

_MAIN_FUNCTIONS = {
    "remove_cgroup": """\
# What has just died in a cgroup keeps it busy for a moment.
remove_cgroup() {
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -d "$1" ] || return 0
        rmdir "$1" 2>/dev/null && return 0
        sleep 0.1
    done
    echo "$0: cannot remove $1" >&2
}""".split("\n"),
    "place": """\
# place SOURCE NAME: make a directory or a file below $work to mount the source on.
place() {
    if [ -d "$1" ]; then mkdir "$work/$2"; else : >"$work/$2"; fi
}""".split("\n"),
    "forward": """\
# forward 4|6: let packets through; what that changes of the host is kept to be put back.
forward() {
    case $1 in
    4) switch=/proc/sys/net/ipv4/ip_forward conf=/proc/sys/net/ipv4/conf other=accept_redirects ;;
    6) switch=/proc/sys/net/ipv6/conf/all/forwarding conf=/proc/sys/net/ipv6/conf other=accept_ra ;;
    esac
    now=$(cat "$switch")
    [ "$now" = 0 ] || return 0
    echo "$switch 0" >>"$work/sysctls"
    for device in "$conf"/*; do
        for file in "$device/forwarding" "$device/$other"; do
            now=$(cat "$file")
            case $file in "$switch" | */default/accept_ra) continue ;; esac
            [ "$now" != 1 ] || echo "$file 1" >>"$work/sysctls"
            # A host that takes its routes from router advertisements goes on to do so only with 2.
            case $now$file in 1*/all/accept_ra) ;; 1*/accept_ra) echo 2 >"$file" ;; esac
        done
    done
    echo 1 >"$switch"
}""".split("\n"),
    "put_back": """\
put_back() {
    [ -e "$work/sysctls" ] || return 0
    while read -r file value; do
        [ ! -e "$file" ] || echo "$value" >"$file"
    done <"$work/sysctls"
}""".split("\n"),
}
_PART_FUNCTIONS = {
    "attributes": """\
# attributes PATH OPTIONS [below]: change flags of the mount at PATH, and of all below it; the other flags stay.
attributes() {
    while read -r _ _ _ _ at flags _ <&9; do
        at=$(printf %b "$at")
        case $at in
        "$1") ;;
        "${1%/}"/*) [ -n "${3-}" ] || continue ;;
        *) continue ;;
        esac
        $old$mount -n -c -o "remount,bind,$flags,$2" none "$at"
    done 9<"$proc/self/mountinfo"
}""".split("\n"),
}


# ---- mounts ----


def _openat2(s: _Script, step: Step) -> Lines:
    directory, path, flags, _, resolve = step.args
    assert isinstance(flags, int)
    place = s.at(directory, path)
    s.places[step.result] = place
    if step.who == LAUNCHER and not flags & uapi.O_PATH:
        place.digit = s.digit()
        return [f"exec {place.digit}{'>' if flags & uapi.O_ACCMODE else '<'}{s.show(place)}"]
    if resolve == 0 or step.who != INIT:
        return []
    s.no(_RESOLVE)
    return []


def _open_tree(s: _Script, step: Step) -> Lines:
    directory, path, flags = step.args
    assert isinstance(flags, int)
    source = s.at(directory, path)
    place = _Place(step.who)
    place.recursive = bool(flags & uapi.AT_RECURSIVE)
    place.old = True
    s.places[step.result] = place
    if s.pivoted:
        place.source = source
        return []
    place.staged = s.name(step.result)
    kind = source if not source.staged else _Place("", _real(s, directory, path))
    s.functions.add("place")
    s.staging.append(f"place {shlex.quote(kind.path)} {place.staged}")
    place.path = kind.path
    bind = "--rbind" if place.recursive else "--bind"
    return [f"{s.mount()} {bind} {s.show(source)} {s.show(place)}"]


def _real(s: _Script, directory: object, path: object) -> str:
    """The host path of a path in a tree that is staged: where its kind can be looked up before."""
    return f"{s.place(directory).path.rstrip('/')}/{path}"


def _mount_setattr(s: _Script, step: Step) -> Lines:
    fd, path, flags, set_, clear, propagation, userns = step.args
    assert isinstance(flags, int) and isinstance(set_, int) and isinstance(clear, int) and isinstance(propagation, int)
    place = s.at(fd, path) if path else s.place(fd)
    notes: Lines = []
    if set_ & uapi.MOUNT_ATTR_IDMAP:
        notes = s.no("id-mapped mounts: mount has them from util-linux 2.39 on (X-mount.idmap=)")
    words = [word for bit, word in _ATTRIBUTES.items() if set_ & bit]
    words += [_opposite(word) for bit, word in _ATTRIBUTES.items() if clear & bit]
    if propagation:
        place.propagation = propagation
    if place.source is not None:  # not bound yet: with the mount
        place.later += words
        return notes
    lines = _make(s, place, propagation, bool(flags & uapi.AT_RECURSIVE))
    if not words:
        return notes + lines
    if place.flags is not None:
        place.flags += [word for word in words if word not in place.flags]
        lines.append(f"{s.mount()} -o remount,bind,{','.join(place.flags)} none {s.show(place)}")
        return notes + lines
    s.functions.add("attributes")
    s.old_tools.add("mount")
    below = " below" if flags & uapi.AT_RECURSIVE else ""
    if below:
        notes += s.no("flags of mounts that others on the same place hide: a path does not lead to them")
    return [*notes, *lines, f"attributes {s.show(place)} {','.join(words)}{below}"]


def _opposite(word: str) -> str:
    return {"ro": "rw"}.get(word, word.removeprefix("no"))


def _make(s: _Script, place: _Place, propagation: int, recursive: bool) -> Lines:
    word = _PROPAGATION.get(propagation)
    return [f"{s.mount()} --make-{'r' if recursive else ''}{word} {s.show(place)}"] if word else []


def _fsopen(s: _Script, step: Step) -> Lines:
    place = _Place(step.who)
    place.fstype = str(step.args[0])
    s.places[step.result] = place
    return []


def _fsconfig(s: _Script, step: Step) -> Lines:
    fd, command, key, value, _ = step.args
    if command in (uapi.FSCONFIG_SET_STRING, uapi.FSCONFIG_SET_FLAG):
        word = f"{key}={value}" if command == uapi.FSCONFIG_SET_STRING else str(key)
        if "," in word:
            return s.no(f"an option with a comma: {describe.printable(word)}")
        s.place(fd).options.append(word)
    elif command != uapi.FSCONFIG_CMD_CREATE:
        return s.no("an option of a filesystem that is no text")
    return []


def _fsmount(s: _Script, step: Step) -> Lines:
    fd, _, attributes = step.args
    assert isinstance(attributes, int)
    context = s.place(fd)
    place = _Place(step.who)
    place.fstype, place.options, place.old = context.fstype, context.options, True
    place.flags = [word for bit, word in _ATTRIBUTES.items() if attributes & bit]
    s.places[step.result] = place
    if s.pivoted and _attached_next(s.plan.steps[s.number :], step.result):
        return []
    place.staged = s.name(step.result)
    s.staging.append(f'mkdir "$work/{place.staged}"')
    return [_mount_new(s, place, s.show(place))]


def _attached_next(steps: tuple[Step, ...], name: str) -> bool:
    """Whether a mount is attached before anything is done with it: then one mount command does both."""
    user = next((step for step in steps if Fd(name) in step.args), None)
    return user is not None and user.call == "move_mount"


def _mount_new(s: _Script, place: _Place, target: str) -> str:
    options = ",".join([*place.options, *(place.flags or [])])
    return f"{s.mount()} -t {shlex.quote(place.fstype)} {f'-o {shlex.quote(options)} ' if options else ''}none {target}"


def _move_mount(s: _Script, step: Step) -> Lines:
    source, _, to_fd, to_path, _ = step.args
    place = s.place(source)
    target = s.place(to_fd) if isinstance(to_fd, Fd) and not to_path else s.at(to_fd, to_path)
    if not s.pivoted and target.path == "/":
        return _attach_root(s, place)
    mount, where = s.mount(), s.show(target)
    if place.source is not None:
        lines = [f"{mount} -c --{'r' if place.recursive else ''}bind {s.show(place.source)} {where}"]
        if place.later:
            s.functions.add("attributes")
            lines.append(f"attributes {where} {','.join(place.later)}{' below' if place.recursive else ''}")
    elif place.staged and place.who == LAUNCHER:
        # It came with the mount namespace of a more privileged owner: it can be bound, not moved.
        lines = [f"{mount} -c --rbind {s.show(place)} {where}"]
    elif place.staged:
        lines = [f"{mount} -c --move {s.show(place)} {where}"]
    else:
        lines = [_mount_new(s, place, where)]
    place.path, place.old, place.staged, place.source = target.path, target.old, target.staged, None
    if place.propagation not in (0, uapi.MS_PRIVATE):
        lines += _make(s, place, place.propagation, place.recursive)
    return lines


def _attach_root(s: _Script, place: _Place) -> Lines:
    s.root = place.staged
    if place.who != LAUNCHER:
        return ["#   it is a mount already"]
    return [f"{s.mount()} --rbind {s.show(place)} {s.show(place)}"]


def _mount(s: _Script, step: Step) -> Lines:
    source, target, fstype, flags, data = step.args
    assert isinstance(flags, int)
    kinds = [bit for bit in _PROPAGATION if flags & bit]
    if (source, fstype, data) != (None, None, None) or flags & ~uapi.MS_REC not in kinds:
        return s.no("mount(2) in another form than a change of propagation")
    return _make(s, s.at(uapi.AT_FDCWD, target), kinds[0], bool(flags & uapi.MS_REC))


def _pivot_root(s: _Script, step: Step) -> Lines:
    if step.args != (".", ".") or not s.root:
        return s.no("pivot_root to another place than a mount of this plan")
    s.tools.add("pivot_root")
    root = f'"$work/{s.root}"'
    s.pivoted = True
    for place in s.places.values():
        if place.staged == s.root:
            place.path, place.old, place.staged = "/", False, ""
    return ["cd /usr", f"pivot_root {root} {root}", 'old=$old_root proc=../proc']


def _umount2(s: _Script, step: Step) -> Lines:
    if step.args != (".", uapi.MNT_DETACH) or not s.pivoted:
        return s.no("umount of another mount than the old root")
    return [f"{s.tool('umount')} -n -l -c .."]


def _fchdir(s: _Script, _: Step) -> Lines:
    return ["#   nothing to do: the commands name it by its path"]


def _chdir(s: _Script, step: Step) -> Lines:
    if step.who == PAYLOAD:
        return _program(s, "env", f"--chdir={shlex.quote(str(step.args[0]))}")
    return ["#   at the end: until then the tools are found from the working directory"]


# ---- files ----


def _mkdirat(s: _Script, step: Step) -> Lines:
    directory, path, mode = step.args
    where = s.show(s.at(directory, path))
    unless = f"[ -d {where} ] || " if step.ignore else ""
    return [f"{unless}{s.tool('mkdir')} -m {mode:o} {where}"]


def _mknodat(s: _Script, step: Step) -> Lines:
    directory, path, mode, number = step.args
    assert isinstance(mode, int) and isinstance(number, int)
    kind = {uapi.S_IFCHR: "c", uapi.S_IFBLK: "b"}.get(mode & uapi.S_IFMT)
    if kind is None:
        return s.no("mknod of something else than a device")
    major, minor = describe.device(number)
    return [f"{s.tool('mknod')} -m {mode & 0o7777:o} {s.show(s.at(directory, path))} {kind} {major} {minor}"]


def _symlinkat(s: _Script, step: Step) -> Lines:
    target, directory, path = step.args
    return [f"{s.tool('ln')} -s {shlex.quote(str(target))} {s.show(s.at(directory, path))}"]


def _unlinkat(s: _Script, step: Step) -> Lines:
    directory, path, flags = step.args
    where = s.show(s.at(directory, path))
    if flags == uapi.AT_REMOVEDIR:
        s.functions.add("remove_cgroup")
        s.tools.add("sleep")
        return [f"remove_cgroup {where}"]
    return [f"rm -f {where}"]


def _fchmodat(s: _Script, step: Step) -> Lines:
    directory, path, mode = step.args
    return [f"{s.tool('chmod')} {mode:o} {s.show(s.at(directory, path))}"]


def _fchownat(s: _Script, step: Step) -> Lines:
    directory, path, uid, gid, _ = step.args
    return [f"{s.tool('chown')} -h {uid}:{gid} {s.show(s.at(directory, path))}"]


def _write_file(s: _Script, step: Step) -> Lines:
    directory, path, data, flags, mode = step.args
    assert isinstance(flags, int) and isinstance(mode, int)
    if step.who == CHILD and path == "/proc/self/timens_offsets":
        return _time_offsets(s, data)
    command = f"{_printf(data)} >{s.show(s.at(directory, path))}"
    return [f"(umask {0o666 & ~mode:03o} && {command})" if flags & uapi.O_CREAT else command]


def _write(s: _Script, step: Step) -> Lines:
    place = s.place(step.args[0])
    return [f"{_printf(step.args[1])} >&{place.digit}"]


# ---- namespaces and processes ----


def _clone3(s: _Script, step: Step) -> Lines:
    flags, cgroup, tid = step.args
    assert isinstance(flags, int)
    notes = s.no("the pid that the command asks for (set_tid)") if tid else []
    if step.who == INIT:
        return notes
    s.unshared = [f"--{_UNSHARE[name]}" for name, kind in KINDS.items() if flags & kind.flag]
    lines = ["#   by unshare below, and a fork of it"]
    if isinstance(cgroup, Fd):
        lines.append(f"printf 0 >{s.show(s.at(cgroup, 'cgroup.procs'))}")
    return [*notes, *lines]


def _unshare(s: _Script, step: Step) -> Lines:
    flags = step.args[0]
    assert isinstance(flags, int)
    names = [name for name, kind in KINDS.items() if flags & kind.flag]
    options = [f"--{_UNSHARE[name]}" for name in names]
    if step.who == CHILD:
        s.unshared += options
        return [f"#   by unshare {' '.join(options)} below"]
    fork = ["--fork", "--kill-child"] if {"pid", "time"} & set(names) else []
    unchanged = ["--propagation=unchanged"] if "mnt" in names else []
    s.chain.append(" ".join(["unshare", *options, *fork, *unchanged]))
    return [f"#   by unshare {' '.join(options)} below"]


def _time_offsets(s: _Script, data: object) -> Lines:
    text = data.decode() if isinstance(data, bytes) else str(data)
    for line in text.splitlines():
        clock, seconds, nanoseconds = line.split()
        if nanoseconds != "0":
            return s.no(f"nanoseconds of the {clock} offset")
        if seconds != "0":
            s.unshared.append(f"--{clock}={seconds}")
    return ["#   by unshare below"]


def _raise_ambient(s: _Script, _: Step) -> Lines:
    s.unshared.append("--keep-caps")
    return ["#   by unshare --keep-caps below"]


def _exec_init(s: _Script, _: Step) -> Lines:
    note = s.no(_INIT)
    options = " ".join([*s.unshared, "--fork", *(["--kill-child"] if s.plan.die_with_parent else [])])
    if "--mount" in s.unshared:
        options += " --propagation=unchanged"
    wait = 'read -r pid _ </proc/self/stat; echo "$pid" >&4; read -r _ <"$work/go"; exec sh -eu "$work/init1"'
    s.unshared_done = True
    return [*note, *_exec([f"unshare {options}", f"sh -eu -c '{wait}'"])]


def _setns(s: _Script, step: Step) -> Lines:
    fd, flags = step.args
    assert isinstance(flags, int)
    place = s.place(fd)
    words = [
        f"--{_UNSHARE[name]}=/proc/self/fd/{place.digit}" for name, kind in KINDS.items() if flags & kind.flag
    ]
    keep = " --preserve-credentials" if flags & uapi.CLONE_NEWUSER else ""
    s.tools.add("nsenter")
    s.chain.append(f"nsenter {' '.join(words)}{keep}")
    return ["#   by nsenter below"]


def _release(s: _Script, _: Step) -> Lines:
    return ["#   at the end of this script, when init's part is written too"]


def _wait(s: _Script, _: Step) -> Lines:
    return ["#   it was waiting for this file to be there"]


def _write_proc(s: _Script, step: Step) -> Lines:
    name, data = step.args
    return [f'{_printf(data)} >"/proc/$pid/{_in_quotes(str(name))}"']


def _spawn(s: _Script, step: Step) -> Lines:
    words = step.args[0]
    assert isinstance(words, tuple)
    return [" ".join('"$pid"' if word == "{pid}" else shlex.quote(word) for word in words)]


def _sethostname(s: _Script, step: Step) -> Lines:
    return [f"{s.tool('hostname')} {_quoted(step.args[0])}"]


def _setdomainname(s: _Script, step: Step) -> Lines:
    return [f"{s.tool('domainname')} {_quoted(step.args[0])}"]


def _quoted(value: object) -> str:
    return shlex.quote(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def _socket(s: _Script, step: Step) -> Lines:
    s.places[step.result] = _Place(step.who)
    return ["#   ip has its own"]


def _ioctl(s: _Script, step: Step) -> Lines:
    _, request, arg = step.args
    assert isinstance(arg, bytes)
    if request != uapi.SIOCSIFFLAGS:
        return s.no(f"ioctl {uapi.name('IOCTL', request) if isinstance(request, int) else request}")
    state = "up" if int.from_bytes(arg[16:18], "little") & uapi.IFF_UP else "down"
    return [f"{s.tool('ip')} link set {shlex.quote(describe.device_name(arg))} {state}"]


# ---- the payload's exec: programs, each with the words of its steps ----

_ORDER = ("setsid", "setarch", "prlimit", "setpriv", "env")


def _program(s: _Script, name: str, *words: str) -> Lines:
    s.programs.setdefault(name, []).extend(words)
    return [f"#   by {name} {' '.join(words)}".rstrip() + " below"]


def _setsid(s: _Script, _: Step) -> Lines:
    return _program(s, "setsid")


def _umask(s: _Script, step: Step) -> Lines:
    return [f"umask {step.args[0]:03o}"]


def _personality(s: _Script, step: Step) -> Lines:
    persona = step.args[0]
    assert isinstance(persona, int)
    if persona & ~(uapi.PER_LINUX32 | uapi.ADDR_NO_RANDOMIZE):
        return s.no("an execution domain that setarch does not name")
    words = ["linux32" if persona & uapi.PER_LINUX32 else "x86_64"]
    return _program(s, "setarch", *words, *(["-R"] if persona & uapi.ADDR_NO_RANDOMIZE else []))


def _setrlimit(s: _Script, step: Step) -> Lines:
    resource, *limits = step.args
    assert isinstance(resource, int)
    text = [str(n) if isinstance(n, int) and 0 <= n < uapi.RLIM_INFINITY else "unlimited" for n in limits]
    return _program(s, "prlimit", f"--{uapi.name('RLIMIT', resource).removeprefix('RLIMIT_').lower()}={text[0]}:{text[1]}")


def _drop_bounding(s: _Script, step: Step) -> Lines:
    return _program(s, "setpriv", f"--bounding-set={_capability_words(step.args[0])}")


def _capability_words(mask: object) -> str:
    assert isinstance(mask, int)
    return ",".join(["-all", *(f"+{name}" for name in capabilities.names(mask))])


def _setgroups(s: _Script, step: Step) -> Lines:
    groups = ",".join(map(str, describe.group_ids(step.args[0])))
    if step.who == INIT:
        s.ids["--groups" if groups else "--clear-groups"] = groups
        return ["#   by setpriv below"]
    return _program(s, "setpriv", f"--groups={groups}" if groups else "--clear-groups")


def _set_ids(option: str) -> Callable[[_Script, Step], Lines]:
    def form(s: _Script, step: Step) -> Lines:
        if len(set(step.args)) > 1:
            return s.no("real, effective and saved ids that differ")
        if step.who == INIT:
            s.ids[option] = str(step.args[0])
            return ["#   by setpriv below"]
        return _program(s, "setpriv", f"{option}={step.args[0]}")

    return form


def _capset(s: _Script, step: Step) -> Lines:
    if step.who != PAYLOAD:
        return s.no("init keeps all the capabilities of its user namespace")
    if step.args[0] == step.args[1] == 1 << uapi.CAPABILITIES["setpcap"] and _another(s, "capset"):
        return ["#   setpriv does so by itself"]
    # The exec that follows makes the permitted and effective sets of the others; capabilities(7).
    return _program(s, "setpriv", f"--inh-caps={_capability_words(step.args[2])}")


def _another(s: _Script, call: str) -> bool:
    return any(step.call == call and step.who == PAYLOAD for step in s.plan.steps[s.number :])


def _prctl(s: _Script, step: Step) -> Lines:
    option, value, third = step.args[:3]
    assert isinstance(option, int) and isinstance(value, int) and isinstance(third, int)
    if step.who != PAYLOAD:
        what = {
            uapi.PR_SET_DUMPABLE: "init stays dumpable: what has its uid inside may trace it",
            uapi.PR_SET_NO_NEW_PRIVS: "no_new_privs of init",
        }
        return s.no(what.get(option, f"{uapi.name('PR', option)} of init"))
    if option == uapi.PR_SET_KEEPCAPS:
        return ["#   setpriv does so by itself"]
    if option == uapi.PR_SET_NO_NEW_PRIVS:
        return _program(s, "setpriv", "--no-new-privs")
    if option == uapi.PR_SET_PDEATHSIG:
        return _program(s, "setpriv", f"--pdeathsig={uapi.name('SIG', value).removeprefix('SIG')}")
    if option == uapi.PR_CAP_AMBIENT:
        return _ambient(s, value, third)
    if option == uapi.PR_SET_SECUREBITS:
        return _securebits(s, value)
    return s.no(f"{uapi.name('PR', option)}: no command sets it")


def _ambient(s: _Script, action: int, capability: int) -> Lines:
    if action == uapi.PR_CAP_AMBIENT_CLEAR_ALL:
        return _program(s, "setpriv", "--ambient-caps=-all")
    if action != uapi.PR_CAP_AMBIENT_RAISE:
        return s.no("a change of the ambient set that only lowers it")
    words = s.programs.setdefault("setpriv", [])
    name = capabilities.names(1 << capability)[0]
    for at, word in enumerate(words):
        if word.startswith("--ambient-caps="):
            words[at] = f"{word},+{name}"
            return [f"#   by setpriv {words[at]} below"]
    return _program(s, "setpriv", f"--ambient-caps=+{name}")


def _securebits(s: _Script, mask: int) -> Lines:
    names = securebits.names(mask)
    missing = [name for name in names if name not in _SECUREBITS]
    notes = s.no(f"securebits {' '.join(missing)}: setpriv has no word for them") if missing else []
    words = ",".join(f"+{name}" for name in names if name in _SECUREBITS)
    return [*notes, *(_program(s, "setpriv", f"--securebits={words}") if words else [])]


def _reset_signals(s: _Script, _: Step) -> Lines:
    s.no("signals that the caller has blocked stay blocked")
    return _program(s, "env", "--default-signal")


def _dup3(s: _Script, step: Step) -> Lines:
    fd = step.args[0]
    if isinstance(fd, Fd) and fd.name.startswith("high"):
        return s.no(ABSENT["fcntl"])
    return ["#   as this process has it"]


def _close_range(s: _Script, step: Step) -> Lines:
    s.no("fds from 10 on that the caller of this script has open, which sh cannot close")
    return ["exec " + " ".join(f"{n}>&-" for n in range(int(str(step.args[0])), 10))]


def _close(s: _Script, _: Step) -> Lines:
    return ["#   nothing to do: the script has no such fd"]


def _execve(s: _Script, step: Step) -> Lines:
    _, argv, envp = step.args
    assert isinstance(argv, tuple) and isinstance(envp, tuple)
    if "=" in argv[0]:
        raise NotSupported("plan --sh", f"env(1) takes {argv[0]!r} for a variable", "give the command another name")
    s.programs.setdefault("env", [])
    programs = []
    for name in _ORDER:
        if name not in s.programs:
            continue
        words = s.programs[name]
        if name == "setpriv":
            programs.append(s.setpriv(dict(_split(word) for word in words)))
        elif name == "env":
            words = ["-i", *words, *(shlex.quote(word) for word in envp)]
            programs.append(" ".join([s.tool(name), *words]))
        else:
            programs.append(" ".join([s.tool(name), *words]))
    return _exec([*programs, " ".join(shlex.quote(word) for word in argv)])


def _split(word: str) -> tuple[str, str]:
    key, _, value = word.partition("=")
    return key, value


# ---- external steps: the network ----


def _external(s: _Script, step: Step) -> Lines:
    from nstool.plan import shell_network

    name, args = step.args
    assert isinstance(args, dict)
    form = shell_network.FORMS.get(str(name))
    if form is None:
        return s.no(f"{describe.printable(str(name))}: no command does it")
    lines, tools, functions = form(args)
    s.tools |= set(tools)
    s.functions |= set(functions)
    for reason in shell_network.ABSENT.get(str(name), ()):
        s.no(reason)
    return lines


FORMS: dict[str, Callable[[_Script, Step], Lines]] = {
    "openat2": _openat2,
    "open_tree": _open_tree,
    "move_mount": _move_mount,
    "mount_setattr": _mount_setattr,
    "fsopen": _fsopen,
    "fsconfig": _fsconfig,
    "fsmount": _fsmount,
    "mount": _mount,
    "umount2": _umount2,
    "pivot_root": _pivot_root,
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
    "personality": _personality,
    "setns": _setns,
    "unshare": _unshare,
    "socket": _socket,
    "ioctl": _ioctl,
    "setgroups": _setgroups,
    "setresuid": _set_ids("--reuid"),
    "setresgid": _set_ids("--regid"),
    "capset": _capset,
    "prctl": _prctl,
    "setrlimit": _setrlimit,
    "setsid": _setsid,
    "umask": _umask,
    "dup3": _dup3,
    "close_range": _close_range,
    "close": _close,
    "reset_signals": _reset_signals,
    "raise_ambient": _raise_ambient,
    "drop_bounding": _drop_bounding,
    "clone3": _clone3,
    "wait": _wait,
    "release": _release,
    "exec_init": _exec_init,
    "execve": _execve,
    "write_proc": _write_proc,
    "spawn": _spawn,
    "external": _external,
}
assert set(FORMS) | set(ABSENT) == set(CALLS)
