"""The seccomp filters: load a compiled one (every launch), compile one (when nstool is built).

``python -m nstool.security.seccomp --write`` compiles the default filter to default.bpf beside this file.

What the default filter answers: allowed calls pass; known but refused ones fail with EPERM; clone3 and calls newer
than the table with ENOSYS. A call through another ABI (i386's int 0x80, x32) kills the process with SIGSYS: programs
inside are built for x86_64, so it is an attempt to get around the filter, and the audit log then says so.
seccomp_table holds the list.
"""

from __future__ import annotations

import os

from nstool.errors import NstoolError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

FILTERS: tuple[str, ...] = ("default", "none")
DEFAULT_BPF = os.path.join(os.path.dirname(__file__), "default.bpf")

INSTRUCTION = 8  # bytes of struct sock_filter: u16 code, u8 jt, u8 jf, u32 k
_RETURN = 0x06  # BPF_RET | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW


def load_filter(name: str, path: str = DEFAULT_BPF) -> bytes:
    """Return the compiled filter: an array of struct sock_filter, 8 bytes each; empty for "none". seccomp(2).

    name: "default" or "none". Raises SpecError for another name, NstoolError if the filter was not built.
    """
    _check_name(name)
    if name == "none":
        return b""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise NstoolError(f"{path} is missing; make it with python -m nstool.security.seccomp --write") from error


def compile_filter(name: str) -> bytes:
    """Compile a filter with libseccomp; shape as ``load_filter``. Needs pyseccomp and libseccomp 2.5."""
    _check_name(name)
    if name == "none":
        return b""
    return chain(_compile_refusals(), _compile_allow_list())


def instructions(program: bytes) -> tuple[tuple[int, int, int, int], ...]:
    """Return a program as (code, jump if true, jump if false, k) for each instruction."""
    from struct import iter_unpack

    return tuple(iter_unpack("=HBBI", program))


def chain(first: bytes, second: bytes) -> bytes:
    """Join two programs: what the first allows, the second decides.

    Two filters could be installed one after the other to the same end; one program is one system call and one check.
    """
    from struct import pack

    program = instructions(first)
    joined = b""
    for at, (code, jt, jf, k) in enumerate(program):
        if (code, k) == (_RETURN, _ALLOW):
            code, k = _JUMP, len(program) - at - 1
        joined += pack("=HBBI", code, jt, jf, k)
    return joined + second


def _check_name(name: str) -> None:
    if name not in FILTERS:
        raise SpecError(f"there is no seccomp filter {name!r}; there are {', '.join(FILTERS)}")


# libseccomp holds one decision for a call that has no condition, and its conditions know no "not", so "ioctl, but not
# TIOCSTI" needs a program of its own in front: refusals with everything else allowed.
def _compile_refusals() -> bytes:
    import errno

    from pyseccomp import ALLOW, ERRNO

    from nstool.security import seccomp_table as table

    program = _Compiler(ALLOW)
    for rule in table.REFUSED_ARGUMENTS:
        program.add(ERRNO(errno.EPERM), rule.call, rule.where)
    return program.export()


def _compile_allow_list() -> bytes:
    import errno

    from pyseccomp import ALLOW, ERRNO

    from nstool.security import seccomp_table as table

    program = _Compiler(ERRNO(errno.EPERM))
    for group in table.ALLOWED:
        for call in group.names:
            program.add(ALLOW, call)
    for rule in table.ALLOWED_ARGUMENTS:
        program.add(ALLOW, rule.call, rule.where)
    for group in table.MISSING:
        for call in group.names:
            program.add(ERRNO(errno.ENOSYS), call)
    for number in table.UNKNOWN_NUMBERS:
        program.add(ERRNO(errno.ENOSYS), number)
    return program.export()


class _Compiler:
    """A libseccomp filter of the x86_64 ABI; any other kills the process."""

    def __init__(self, default_action: int) -> None:
        import pyseccomp

        self._filter: Any = pyseccomp.SyscallFilter(default_action)
        self._filter.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        self._filter.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree over the numbers

    def add(self, action: int, call: str | int, where: Iterable[tuple[int, int, int]] = ()) -> None:
        from pyseccomp import MASKED_EQ, Arg

        arguments = [Arg(index, MASKED_EQ, mask, value) for index, mask, value in where]
        self._filter.add_rule(action, call_number(call) if isinstance(call, str) else call, *arguments)

    def export(self) -> bytes:
        with open(os.memfd_create("seccomp", os.MFD_CLOEXEC), "w+b") as file:
            self._filter.export_bpf(file)
            file.seek(0)
            return file.read()


def call_number(name: str) -> int:
    """Return the number of an x86_64 system call, from the table of new ones or libseccomp. Raises NstoolError."""
    from pyseccomp import Arch, resolve_syscall

    from nstool.security.seccomp_table import NUMBERS

    if name in NUMBERS:
        return NUMBERS[name]
    number: int = resolve_syscall(Arch.X86_64, name)
    if number < 0:
        raise NstoolError(f"libseccomp knows no x86_64 system call {name!r}; update libseccomp to 2.5.4 or later")
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

    if sys.argv[1:] != ["--write"]:
        print("usage: python -m nstool.security.seccomp --write", file=sys.stderr)
        return 2
    program = compile_filter("default")
    with open(DEFAULT_BPF, "wb") as file:
        file.write(program)
    print(f"{DEFAULT_BPF}: {len(program) // INSTRUCTION} instructions")
    return 0


if __name__ == "__main__":
    raise SystemExit(_main())
