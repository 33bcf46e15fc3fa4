"""Classic BPF as seccomp(2) takes it: what a program answers, whether the kernel would take it, joining programs.

A program is bytes, 8 for each struct sock_filter: u16 code, u8 jump if true, u8 jump if false, u32 k. linux/filter.h
"""

from __future__ import annotations

from functools import lru_cache

from nstool.errors import NstoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    Instruction = tuple[int, int, int, int]

INSTRUCTION = 8  # bytes of struct sock_filter
MOST = 4096  # instructions: BPF_MAXINSNS
X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64, linux/audit.h
I386 = 0x40000003
X32 = 0x40000000  # __X32_SYSCALL_BIT, asm/unistd.h
_DATA = 64  # bytes of struct seccomp_data: nr, arch, instruction pointer, six arguments
_FIRST_ARGUMENT = 4  # in words of that
_WORDS = 16  # of scratch memory
_LOW = 0xFFFFFFFF

# linux/bpf_common.h: what the low three bits of a code say, then the operation.
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_X = 0x08  # the operand is the index register, not k
_IMMEDIATE, _ABSOLUTE, _MEMORY, _LENGTH = 0x00, 0x20, 0x60, 0x80  # where a word is loaded from
_OPERATIONS: Mapping[int, Callable[[int, int], int]] = {
    0x00: lambda a, b: a + b,
    0x10: lambda a, b: a - b,
    0x20: lambda a, b: a * b,
    0x30: lambda a, b: a // b,
    0x40: lambda a, b: a | b,
    0x50: lambda a, b: a & b,
    0x60: lambda a, b: a << (b & 31),
    0x70: lambda a, b: a >> (b & 31),
    0xA0: lambda a, b: a ^ b,
}
_DIVIDE, _SHIFTS, _NEGATE = 0x30, (0x60, 0x70), 0x80
_TESTS: Mapping[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
}
_ALWAYS = 0x00
RETURN = 0x06  # BPF_RET | BPF_K
_RETURN_A = 0x16
_JUMP = 0x05  # BPF_JMP | BPF_JA
_TAX, _TXA = 0x07, 0x87


@lru_cache(8)
def instructions(program: bytes) -> tuple[Instruction, ...]:
    """Return a program as (code, jump if true, jump if false, k) for each instruction."""
    from struct import iter_unpack

    return tuple(iter_unpack("=HBBI", program))


def packed(program: Sequence[Instruction]) -> bytes:
    """Return the bytes of instructions."""
    from struct import pack

    return b"".join(pack("=HBBI", *instruction) for instruction in program)


def answer(program: bytes, number: int, args: Sequence[int] = (), arch: int = X86_64) -> int:
    """Return what a program answers to a system call: SECCOMP_RET_*, with its data in the low 16 bits.

    number: of the call. args: up to six; negative ones as the kernel sees them. Raises NstoolError for a program that
    the kernel would not take.
    """
    if wrong := problem(program):
        raise NstoolError(f"not a seccomp program: {wrong}")
    return _run(instructions(program), _data(number, args, arch))


def asked(program: bytes, number: int) -> tuple[int, bool]:
    """Return what a program answers to a call with arguments of zero, and whether it looked at them for that."""

    class Data(tuple[int, ...]):
        looked = False

        def __getitem__(self, index: Any) -> Any:
            Data.looked |= index >= _FIRST_ARGUMENT
            return super().__getitem__(index)

    action = _run(instructions(program), Data(_data(number, (), X86_64)))
    return action, Data.looked


def _data(number: int, args: Sequence[int], arch: int) -> tuple[int, ...]:
    words = [number & _LOW, arch, 0, 0]
    for arg in (*args, *([0] * (6 - len(args)))):
        words += [arg & _LOW, arg >> 32 & _LOW]
    return tuple(words)


def _run(program: Sequence[Instruction], data: Sequence[int]) -> int:
    at = a = x = 0
    memory = [0] * _WORDS
    while True:
        code, jt, jf, k = program[at]
        at += 1
        kind, operand = code & 7, x if code & _X else k
        if kind == _RET:
            return a if code == _RETURN_A else k
        if kind in (_LD, _LDX):
            value = _loaded(code & 0xE0, k, data, memory)
            if kind == _LD:
                a = value
            else:
                x = value
        elif kind in (_ST, _STX):
            memory[k] = a if kind == _ST else x
        elif kind == _ALU:
            if code & 0xF0 == _DIVIDE and operand == 0:
                return 0
            a = (-a if code & 0xF0 == _NEGATE else _OPERATIONS[code & 0xF0](a, operand)) & _LOW
        elif kind == _JMP:
            if code == _JUMP:
                at += k
            else:
                at += jt if _TESTS[code & 0xF0](a, operand) else jf
        elif code == _TAX:
            x = a
        else:
            a = x


def _loaded(mode: int, k: int, data: Sequence[int], memory: Sequence[int]) -> int:
    if mode == _ABSOLUTE:
        return data[k // 4]
    if mode == _MEMORY:
        return memory[k]
    return _DATA if mode == _LENGTH else k


@lru_cache(8)
def problem(program: bytes) -> str:
    """Return why the kernel would refuse a program, empty if not. bpf_check_classic(), seccomp_check_filter()."""
    if not program or len(program) % INSTRUCTION:
        return f"{len(program)} bytes; an instruction has {INSTRUCTION}, and there is at least one"
    if len(program) > MOST * INSTRUCTION:
        return f"{len(program) // INSTRUCTION} instructions; the kernel takes {MOST}"
    found = instructions(program)
    for at, instruction in enumerate(found):
        if wrong := _wrong(instruction, len(found) - at - 1):
            return f"instruction {at}: {wrong}"
    if found[-1][0] not in (RETURN, _RETURN_A):
        return "the last instruction does not return"
    return _uninitialised(found)


def _wrong(instruction: Instruction, left: int) -> str:
    """left: how many instructions follow."""
    code, jt, jf, k = instruction
    if not _is_known(code):
        return f"code {code:#x}, which a seccomp filter may not have"
    kind = code & 7
    if kind == _JMP and code == _JUMP and k >= left:
        return f"jumps {k} instructions on, and {left} follow"
    if kind == _JMP and code != _JUMP and max(jt, jf) >= left:
        return f"jumps {max(jt, jf)} instructions on, and {left} follow"
    if kind == _LD and code & 0xE0 == _ABSOLUTE and (k >= _DATA or k % 4):
        return f"loads from offset {k}; struct seccomp_data has {_DATA} bytes, in words of 4"
    if (kind in (_ST, _STX) or (kind in (_LD, _LDX) and code & 0xE0 == _MEMORY)) and k >= _WORDS:
        return f"memory word {k}; there are {_WORDS}"
    if kind == _ALU and not code & _X and code & 0xF0 == _DIVIDE and k == 0:
        return "divides by 0"
    if kind == _ALU and not code & _X and code & 0xF0 in _SHIFTS and k >= 32:
        return f"shifts by {k} bits"
    return ""


def _is_known(code: int) -> bool:
    kind, rest = code & 7, code & 0xF0
    if kind == _LD:
        return not code & 0x18 and code < 0x100 and code & 0xE0 in (_IMMEDIATE, _ABSOLUTE, _MEMORY, _LENGTH)
    if kind == _LDX:
        return not code & 0x18 and code < 0x100 and code & 0xE0 in (_IMMEDIATE, _MEMORY, _LENGTH)
    if kind == _ALU:
        return code < 0x100 and (rest in _OPERATIONS or code == _ALU | _NEGATE)
    if kind == _JMP:
        return code < 0x100 and (rest in _TESTS or code == _JUMP)
    return code in (_ST, _STX, RETURN, _RETURN_A, _TAX, _TXA)


def _uninitialised(program: Sequence[Instruction]) -> str:
    """Return which word of memory is read before it is written on some way there. check_load_and_stores()."""
    everything = (1 << _WORDS) - 1
    valid = [everything] * len(program)
    now = 0
    for at, (code, jt, jf, k) in enumerate(program):
        now &= valid[at]
        kind = code & 7
        if kind in (_ST, _STX):
            now |= 1 << k
        elif kind in (_LD, _LDX) and code & 0xE0 == _MEMORY and not now >> k & 1:
            return f"instruction {at}: reads memory word {k}, which nothing has written"
        elif kind == _JMP:
            for jump in (k,) if code == _JUMP else (jt, jf):
                valid[at + 1 + jump] &= now
            now = everything
    return ""


def relinked(program: bytes, answers: Mapping[int, int], following: Mapping[int, int]) -> bytes:
    """Return a program with other answers in place of some.

    answers: what is returned instead of what. following: answer to the number of instructions behind the program that
    are jumped over instead of returning: 0 for what comes right after it.
    """
    found = instructions(program)
    made: list[Instruction] = []
    for at, (code, jt, jf, k) in enumerate(found):
        if code == RETURN and k in following:
            made.append((_JUMP, 0, 0, len(found) - at - 1 + following[k]))
        elif code == RETURN:
            made.append((code, jt, jf, answers.get(k, k)))
        else:
            made.append((code, jt, jf, k))
    return packed(made)
