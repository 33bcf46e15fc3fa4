"""The seccomp filters: load a compiled one (most launches), compile one (when nstool is built, and lists of one's own).

``python -m nstool.security.seccomp --write`` compiles the lists that come with nstool to *.bpf beside this file.

What they answer: allowed calls pass; known but refused ones fail with EPERM; clone3 and calls newer than the table with
ENOSYS. A call through another ABI (i386's int 0x80, x32) kills the process with SIGSYS, whatever the list: programs
inside are built for x86_64, so it is an attempt to get around the filter, and the audit log then says so.
seccomp_table holds the lists.
"""

from __future__ import annotations

import os

from nstool.errors import NstoolError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from nstool.security.seccomp_rules import Compare, Rule, Rules

    # Calls, each with the alternatives of conditions under which it has its action: ((), ) is always.
    Layer = dict[str | int, tuple[int, list[tuple[Compare, ...]]]]

FILTERS: tuple[str, ...] = ("default", "strict", "none")
DIRECTORY = os.path.dirname(__file__)
_NEXT = 0xFFFF  # of a layer: what it does not decide, the next one does
# What a launch and any program need: the last steps before the command, and its execve. An fd, a pointer, a length.
_FD, _POINTER = 3, 0x7FFF_FFFF_E000
NEEDED: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("execve", (_POINTER, _POINTER, _POINTER)),
    ("read", (_FD, _POINTER, 64)),
    ("write", (_FD, _POINTER, 64)),
    ("exit", (127,)),
)
# What init does when the command has begun (csrc/init.c); it may have the command's filter.
INIT_CALLS = (
    "sendto recvfrom sendmsg read write waitid wait4 pread64 kill clock_gettime rt_sigtimedwait futex openat dup3 "
    "signalfd4 close close_range ppoll fcntl rt_sigprocmask rt_sigaction rt_sigreturn mmap munmap exit exit_group "
    "restart_syscall ioctl process_vm_writev"
)


def load_filter(name: str, directory: str = DIRECTORY, *, init: bool = False) -> bytes:
    """Return a compiled filter: an array of struct sock_filter, 8 bytes each; empty for "none". seccomp(2).

    name: "default", "strict" or "none". init: the one ``for_init`` makes of it. Raises SpecError for another name,
    NstoolError if the filter was not built.
    """
    _check_name(name)
    if name == "none":
        return b""
    path = _path(name, directory, init=init)
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise NstoolError(f"{path} is missing; make it with python -m nstool.security.seccomp --write") from error


def _path(name: str, directory: str, *, init: bool) -> str:
    return os.path.join(directory, f"{name}{'-init' if init else ''}.bpf")


def compile_filter(name: str) -> bytes:
    """Compile a list that comes with nstool; shape as ``load_filter``. Needs pyseccomp and libseccomp 2.5."""
    _check_name(name)
    if name == "none":
        return b""
    from nstool.security.seccomp_lists import built_in

    return compile_rules(built_in(name))


def _check_name(name: str) -> None:
    if name not in FILTERS:
        raise SpecError(f"there is no seccomp filter {name!r}; there are {', '.join(FILTERS)}")


def compile_rules(rules: Rules) -> bytes:
    """Compile a list with libseccomp; shape as ``load_filter``. Raises SpecError for one that is too long.

    libseccomp knows no order: of a call without a condition it holds one decision, and its conditions know no "not".
    So a call is in as many layers as its rules change their answer, and each layer is a program of libseccomp: what one
    does not decide, the next one does.
    """
    from nstool.security import seccomp_bpf as bpf

    layers, last = _layers(rules)
    actions = list(
        dict.fromkeys([rules.default, *(action for layer in (*layers, last) for action, _ in layer.values())])
    )
    answers = {_stand_in(number): action for number, action in enumerate(actions)}
    numbers = {action: answer for answer, action in answers.items()}
    program = b"".join(
        bpf.relinked(_compile_layer(layer, _stand_in(_NEXT), numbers), answers, {_stand_in(_NEXT): 0})
        for layer in layers
    )
    program += bpf.relinked(_compile_layer(last, numbers[rules.default], numbers), answers, {})
    if len(program) > bpf.MOST * bpf.INSTRUCTION:
        raise SpecError(
            f"the list makes a filter of {len(program) // bpf.INSTRUCTION} instructions; the kernel takes {bpf.MOST}, "
            "seccomp(2): name fewer conditions"
        )
    if wrong := bpf.problem(program):
        raise NstoolError(f"libseccomp made no filter of the list: {wrong}")
    return program


def guarded(program: bytes) -> bytes:
    """Return a program that was compiled elsewhere with calls through another ABI killed before it is asked."""
    from nstool.security import seccomp_bpf as bpf

    return bpf.relinked(_compile_layer({}, _stand_in(_NEXT), {}), {}, {_stand_in(_NEXT): 0}) + program


def for_init(program: bytes) -> bytes:
    """Return the command's filter for init beside it: with the calls that init makes, where the filter refuses some."""
    from nstool.security import seccomp_bpf as bpf
    from nstool.security.seccomp_rules import ALLOW, refuses

    calls = [name for name in INIT_CALLS.split() if refuses(bpf.answer(program, call_number(name)))]
    if not calls:
        return program
    layer: Layer = {name: (ALLOW, [()]) for name in calls}
    first = _compile_layer(layer, _stand_in(_NEXT), {ALLOW: _stand_in(0)})
    return bpf.relinked(first, {_stand_in(0): ALLOW}, {_stand_in(_NEXT): 0}) + program


def check_needed(program: bytes) -> None:
    """Raise SpecError for a filter with which no command can be started."""
    from nstool.security import seccomp_bpf as bpf
    from nstool.security.seccomp_rules import action_text, refuses

    for name, args in NEEDED:
        action = bpf.answer(program, call_number(name), args)
        if refuses(action):
            raise SpecError(
                f"the list answers {name}(2) with {action_text(action)}, so that no command can start: allow {name}"
            )


def _stand_in(number: int) -> int:
    # libseccomp takes each of these as an action, and no two of them are one.
    return 0x7FF00000 | number


def _layers(rules: Rules) -> tuple[list[Layer], Layer]:
    """Return the layers of a list, the last one apart: what it does not name has the list's default."""
    layers: list[Layer] = []
    last: Layer = {}
    for call, own in rules.by_call().items():
        final = rules.default if own[-1].where else own[-1].action
        runs = _runs([rule for rule in own if rule.where])
        while runs and runs[-1][0] == final:
            runs.pop()
        if final != rules.default:
            last[call] = final, [()]
        elif runs:
            last[call] = runs.pop()
        for depth, run in enumerate(runs):
            if depth == len(layers):
                layers.append({})
            layers[depth][call] = run
    return layers, last


def _runs(rules: Sequence[Rule]) -> list[tuple[int, list[tuple[Compare, ...]]]]:
    """Return rules with the same action that follow each other as one, with all their conditions."""
    runs: list[tuple[int, list[tuple[Compare, ...]]]] = []
    for rule in rules:
        found = _conditions(rule, alone=len(rules) == 1)
        if not found:  # it can never be true
            continue
        if not runs or runs[-1][0] != rule.action:
            runs.append((rule.action, []))
        runs[-1][1].extend(one for one in found if one not in runs[-1][1])
    return runs


def _conditions(rule: Rule, *, alone: bool) -> list[tuple[Compare, ...]]:
    """Return the conditions of a rule as libseccomp gets them. alone: no other rule of this call has conditions.

    libseccomp merges comparisons by order of one argument wrongly, so that they let through what neither does.
    """
    from nstool.security import seccomp_rules

    if seccomp_rules.is_plain(rule) and (alone or all(compare.op == "==" for compare in rule.where)):
        return [rule.where]
    try:
        return [seccomp_rules.compares(cube) for cube in seccomp_rules.cubes(rule.where)]
    except seccomp_rules.TooMany:
        raise SpecError(
            f"the conditions of {rule.call} fall apart into more than {seccomp_rules.MOST_CUBES} that a filter can "
            "test; write them with fewer !=, < and > of one argument"
        ) from None


def _compile_layer(layer: Layer, default: int, numbers: dict[int, int]) -> bytes:
    """numbers: the stand-in of each action."""
    program = _Compiler(default, bool(layer))
    for call, (action, alternatives) in layer.items():
        for where in [()] if () in alternatives else alternatives:
            program.add(numbers[action], call, where)
    return program.export()


class _Compiler:
    """A libseccomp filter of the x86_64 ABI; any other kills the process."""

    def __init__(self, default: int, tree: bool) -> None:
        import pyseccomp

        self._filter: Any = pyseccomp.SyscallFilter(default)
        self._filter.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        if tree:  # of no rules libseccomp 2.5.4 makes a wrong one
            self._filter.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree over the numbers

    def add(self, action: int, call: str | int, where: Iterable[Compare]) -> None:
        import pyseccomp

        from nstool.security.seccomp_arguments import ALL

        operators = {"!=": "NE", "<": "LT", "<=": "LE", "==": "EQ", ">=": "GE", ">": "GT"}
        conditions = []
        for one in where:
            if one.mask == ALL:
                conditions.append(pyseccomp.Arg(one.arg, getattr(pyseccomp, operators[one.op]), one.value))
            else:
                conditions.append(pyseccomp.Arg(one.arg, pyseccomp.MASKED_EQ, one.mask, one.value))
        self._filter.add_rule(action, call_number(call), *conditions)

    def export(self) -> bytes:
        with open(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b") as file:
            self._filter.export_bpf(file)
            file.seek(0)
            return file.read()


def call_number(call: str | int) -> int:
    """Return the number of an x86_64 system call, from the table of new ones or libseccomp. Raises NstoolError."""
    if isinstance(call, int):
        return call
    from nstool.security.seccomp_table import NUMBERS

    if call in NUMBERS:
        return NUMBERS[call]
    from pyseccomp import Arch, resolve_syscall

    number: int = resolve_syscall(Arch.X86_64, call)
    if number < 0:
        raise NstoolError(f"libseccomp knows no x86_64 system call {call!r}; update libseccomp to 2.5.4 or later")
    return number


def call_name(number: int) -> str:
    """Return the name of an x86_64 system call; one that neither the table nor libseccomp knows as "call 999"."""
    from pyseccomp import Arch, resolve_syscall

    from nstool.security.seccomp_table import NUMBERS

    known = {value: name for name, value in NUMBERS.items()}
    if number in known:
        return known[number]
    try:
        return os.fsdecode(resolve_syscall(Arch.X86_64, number))
    except ValueError:
        return f"call {number}"


def _main() -> int:
    import sys

    from nstool.security.seccomp_bpf import INSTRUCTION

    if sys.argv[1:] != ["--write"]:
        print("usage: python -m nstool.security.seccomp --write", file=sys.stderr)
        return 2
    for name in FILTERS:
        if command := compile_filter(name):
            for init, program in ((False, command), (True, for_init(command))):
                path = _path(name, DIRECTORY, init=init)
                with open(path, "wb") as file:
                    file.write(program)
                print(f"{path}: {len(program) // INSTRUCTION} instructions")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
