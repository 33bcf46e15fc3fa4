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

from nstool.errors import NotSupported
from nstool.plan import describe
from nstool.plan.shell import payload
from nstool.plan.shell.place import Place
from nstool.plan.shell.steps import ABSENT, EXECS, FORMS, TERMINAL
from nstool.plan.shell.words import (
    END,
    FINISH,
    MAIN_FUNCTIONS,
    PART_FUNCTIONS,
    Lines,
    define,
    exec_chain,
    here_file,
    in_quotes,
    numbers,
    ranges,
)
from nstool.plan.steps import CHILD, INIT, LAUNCHER, PAYLOAD, UNDO, Fd, Plan, Step
from nstool.uapi import CLONE_NEWUSER, MS_SLAVE

_DIGITS = (6, 7, 8)  # fds of one digit, the only ones that sh can name; 3 to 5 and 9 are the script's own
_NOTE = "#   "  # how a line begins that says something about a step
_TOOLS = ("cat", "chmod", "ldd", "mkdir", "mkfifo", "mktemp", "readlink", "rm", "rmdir", "sort", "tr", "unshare")
_PAYLOAD_MARK = "\0payload"


def write(plan: Plan) -> bytes:
    """Return the script. Raises NotSupported for a plan that no script can stand for.

    In bytes: file names and arguments may be no UTF-8. POSIX sh; util-linux from 2.38 and coreutils
    from 8.31 on.
    """
    return Script(plan).text().encode("utf-8", "surrogateescape")


class Script:
    """A script in the making: what each fd is by now, and the lines of each part."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.places: dict[str, Place] = {}
        self.absent: dict[str, list[int]] = {}  # reason → numbers of steps
        self.tools = set(_TOOLS)  # that are run by name
        self.old_tools: set[str] = set()  # that are run from the old root
        self.functions: set[str] = set()  # of words.py
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
        self.cloned = False
        self.pivoted = False
        self.root = ""  # staged name of the new root
        self.unshared: list[str] = []  # options of the unshare that stands for clone3 and the child
        # In a new user namespace init has no id until it takes one.
        self.is_root = not any(step.call == "clone3" and numbers(step, 0)[0] & CLONE_NEWUSER for step in plan.steps)
        self.number = 0
        self.step = plan.steps[0]
        for number, step in enumerate(plan.steps, 1):
            self.number = number
            self.add(step)

    # ---- where lines go ----

    def add(self, step: Step) -> None:
        """Put a step's comment and commands where its actor finds them."""
        if step.who == INIT and (self.chain or self.ids) and step.call not in EXECS:
            self.end_segment()
        self.step = step
        lines = self.lines(step)
        self.is_root = self.is_root or _becomes_root(step)
        # A note is one line, whatever a path or an argument in it holds.
        notes = [f"# {self.number} {step.call}: {step.why}", *(line for line in lines if line.startswith(_NOTE))]
        commands = [line for line in lines if not line.startswith(_NOTE)]
        out = [*map(describe.printable, notes), *commands, *([""] if commands else [])]
        if step.who == UNDO:
            self.undo[:0] = out
        else:
            self.target(step).extend(out)
        if step.call == "futex_wake" or (step.call == "clone3" and step.who == INIT):
            # Here the payload begins: at its clone, or where init lets it go on.
            self.segments[-1] = [line for line in self.segments[-1] if line != _PAYLOAD_MARK]
            self.segments[-1].append(_PAYLOAD_MARK)

    def target(self, step: Step) -> Lines:
        """Return the part of the script that a step belongs to."""
        if step.who == INIT:
            return self.segments[-1]
        if step.who == PAYLOAD:
            return self.command
        if step.who == CHILD:
            return self.stage
        if self.cloned:
            return self.after
        # The stage begins with the first mount of the launcher, or with clone3.
        return self.stage if self.stage or step.call in ("open_tree", "fsopen", "clone3") else self.before

    def end_segment(self) -> None:
        """End a part of init with the exec of what its last steps ask for."""
        programs = [*self.chain, *([payload.become(self)] if self.ids else [])]
        number = len(self.segments) + 1
        self.segments[-1] += exec_chain([*programs, f'sh -eu "$work/init{number}"'])
        self.segments.append([])
        self.chain, self.ids = [], {}

    # ---- steps ----

    def lines(self, step: Step) -> Lines:
        """Return the commands of a step, and notes, which begin with _NOTE."""
        if self.is_terminal(step):
            return self.no(TERMINAL)
        if step.call in ABSENT:
            return self.no(ABSENT[step.call])
        return FORMS[step.call](self, step)

    def is_terminal(self, step: Step) -> bool:
        """Whether a step is about the sandbox's own terminal."""
        used = [arg.name for arg in step.args if isinstance(arg, Fd)]
        return step.result in ("ptmx", "tty") or bool({"ptmx", "tty"} & set(used))

    def no(self, reason: str) -> Lines:
        """Note that the script does not do this, here and in the list at its start."""
        numbers = self.absent.setdefault(reason, [])
        if self.number not in numbers:
            numbers.append(self.number)
        return [f"{_NOTE}not done: {reason}"]

    def tool(self, name: str) -> str:
        """Return how a program is called at this point: by name, or that of the old root."""
        if self.pivoted:
            self.old_tools.add(name)
            return f"$old${name}"
        self.tools.add(name)
        return name

    def mount(self) -> str:
        """Return how mount(8) is called. -n: it keeps no notes below /run/mount; -c: it takes paths as they are.

        Whatever its capabilities, it wants to be uid 0. Raises NotSupported when the sandbox has none.
        """
        command = f"{self.tool('mount')} -n -c"
        if self.step.who != INIT or self.is_root:
            return command
        if not any(_becomes_root(step) for step in self.plan.steps):
            raise NotSupported(
                "plan --sh",
                "mount(8) works for uid 0 only, and the id map of this sandbox has none",
                "install newuidmap with a range in /etc/subuid, or map uid 0",
            )
        self.no("sources of mounts are opened with the rights of uid 0 inside, not with the caller's")
        return f"$as {command}"

    def digit(self) -> int:
        """Return a free fd number for the script."""
        if not self.digits:
            raise NotSupported(
                "plan --sh",
                f"the plan holds more than {len(_DIGITS)} fds that a shell must hold too, and sh knows fds 0 to 9 only",
                "join fewer namespaces, or use nstool run",
            )
        return self.digits.pop(0)

    def place(self, value: object) -> Place:
        """Return the place of an fd argument; of AT_FDCWD: the root of the actor."""
        if isinstance(value, Fd):
            if value.name not in self.places:
                raise NotSupported(
                    "plan --sh", f"step {self.number} uses fd {value.name!r}, which the caller brings", "nstool run"
                )
            return self.places[value.name]
        return Place("", "", not self.pivoted)

    def at(self, directory: object, path: object) -> Place:
        """Return the place of a path relative to a directory fd."""
        assert isinstance(path, str)
        if path.startswith("/") or not isinstance(directory, Fd):
            return Place("", path, not self.pivoted)
        return self.place(directory).below(path)

    def show(self, place: Place) -> str:
        """Return a place as a word of the shell: with ".." before it when it lies in the old root by now."""
        up = ".." if self.pivoted and place.old else ""
        if place.staged:
            return f'"{up}$work/{in_quotes(place.staged)}"'
        return shlex.quote(up + place.path)

    def name(self, wanted: str) -> str:
        """Return a name below $work that nothing has yet."""
        plain = wanted if wanted.isidentifier() else "fd"
        found = next(n for n in (plain, *(f"{plain}.{i}" for i in range(1, 1 << 16))) if n not in self.names)
        self.names.add(found)
        return found

    # ---- the whole ----

    def text(self) -> str:
        """Return the script."""
        self.finish_init()
        body = [
            *self.start(),
            *define("undo", self.undo),
            FINISH,
            *self.needs(),
            *self.before,
            *self.start_stage(),
            *self.after,
            *self.init_files(),
            END,
        ]
        return "\n".join([*self.header(), *body]) + "\n"

    def header(self) -> Lines:
        lines = [
            "#!/bin/sh",
            f"# Sandbox {describe.printable(self.plan.name)} as a shell script, made by nstool plan --sh.",
            "# The numbers are those of the steps that nstool plan prints. The name, the host ids and the",
            "# addresses were free when this was made: run it before anything else takes them.",
            "#",
            "# not done by this script:",
        ]
        self.absent["what a script killed by SIGKILL leaves behind: no journal is kept"] = []
        for reason, where in self.absent.items():
            steps = f" ({'step' if len(where) == 1 else 'steps'} {ranges(where)})" if where else ""
            lines.append(f"#   - {reason}{steps}")
        return [*lines, "# shellcheck disable=SC2317 # the functions of undo are called by the trap"]

    def start(self) -> Lines:
        return [
            "set -eu",
            "umask 022",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            'work=$(mktemp -d "${TMPDIR:-/tmp}/nstool.XXXXXX")',
            "sandbox='' pid=''",
            "export PATH work",
            *self.own_functions(MAIN_FUNCTIONS),
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
        if self.functions & set(PART_FUNCTIONS):
            lines += here_file("functions", self.own_functions(PART_FUNCTIONS))
        return [*lines, *self.staging, ""]

    def start_stage(self) -> Lines:
        """Write the stage, start it and learn the new process's pid."""
        run = ["sh", "-eu", '"$work/stage"']
        if any(step.who == LAUNCHER and step.call in ("open_tree", "fsopen") for step in self.plan.steps):
            run = ["unshare", "--mount", f"--propagation={_propagation(self.plan)}", *run]
        if self.plan.die_with_parent:
            self.tools.add("setpriv")
            run = ["setpriv", "--pdeathsig=KILL", *run]
        return [
            *here_file("stage", [*self.source_functions(self.stage), *self.stage]),
            "",
            'mkfifo "$work/cloned" "$work/go"',
            'exec 3<&0 4<>"$work/cloned" 5<>"$work/go"',
            f"{' '.join(run)} <&3 3<&- &",
            "sandbox=$!",
            'exec 3<"$work/cloned" 4<&-',
            'read -r pid <&3 || { cat "$work/errors" >&2 2>/dev/null || :; exit 125; }',
            "exec 3<&-",
            "",
        ]

    def own_functions(self, known: dict[str, str]) -> Lines:
        """Return the functions that the script uses, of those that are known."""
        return [f"\n{text}" for name, text in known.items() if name in self.functions]

    def source_functions(self, part: Lines) -> Lines:
        """Return the lines that a part begins with."""
        lines = []
        if any("$as " in line for line in part):
            lines.append("as='setpriv --reuid=0 --regid=0 --clear-groups' # mount wants uid 0")
        if any(line.lstrip().startswith(tuple(PART_FUNCTIONS)) for line in part):
            lines.append('. "$work/functions"')
        return [*lines, ""] if lines else []

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
            lines += here_file(f"init{number}", [*self.source_functions(segment), *segment])
        return lines


def _becomes_root(step: Step) -> bool:
    return step.who == INIT and step.call == "setresuid" and step.args[0] == 0


def _propagation(plan: Plan) -> str:
    # A tree that is to follow the host's mounts must be the slave of them from the start.
    position = {"mount": 3, "mount_setattr": 5}
    steps = [(step, position[step.call]) for step in plan.steps if step.call in position]
    return "slave" if any(numbers(step, at)[0] & MS_SLAVE for step, at in steps) else "private"
