"""Encode a Plan into the flat buffer that C checks and runs (csrc/nstool.h, struct nst_plan)."""

from __future__ import annotations

import struct

from nstool.errors import NstoolError
from nstool.plan.calls import CALLS
from nstool.plan.steps import WHO, Fd, Plan, Step

MAGIC = 0x3150534E  # "NSP1"
VERSION = 1
MAX_SLOTS = 256
WITH_INIT, DIE_WITH_PARENT = 1, 2

_HEADER = struct.Struct("<IHHIIIIIIII24x")
_STEP = struct.Struct("<HBBhh7Q")
_NULL = 0xFFFF_FFFF_FFFF_FFFF
_NONE = -1


class Pool:
    """Bytes that the steps point to, each stored once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.known: dict[bytes, int] = {}

    def add(self, data: bytes) -> int:
        """Return the argument word of data: length << 32 | offset. A NUL follows it."""
        offset = self.known.get(data)
        if offset is None:
            offset = self.known[data] = self.size
            self.parts.append(data + b"\0")
            self.size += len(data) + 1
        return len(data) << 32 | offset

    def copy(self) -> Pool:
        """Return a pool that begins with what is in this one."""
        other = Pool()
        other.parts = [b"".join(self.parts)]
        other.size = self.size
        other.known = dict(self.known)
        return other


def slots(plan: Plan) -> dict[str, int]:
    """Return the slot number of each fd name: the given ones first, then in order of their steps."""
    names = [*plan.given, *(step.result for step in plan.steps if step.result)]
    return {name: number for number, name in enumerate(dict.fromkeys(names))}


def encode(plan: Plan) -> bytes:
    """Return the plan as bytes. Raises NstoolError for a plan that cannot be encoded."""
    numbers = slots(plan)
    if len(numbers) > MAX_SLOTS:
        raise NstoolError(f"the plan holds {len(numbers)} fds, at most {MAX_SLOTS} are possible: use fewer mounts")
    pool = Pool()
    records = b"".join([step_record(step, numbers, pool) for step in plan.steps])
    return assemble(plan, len(numbers), records, pool)


def assemble(plan: Plan, n_slots: int, records: bytes, pool: Pool) -> bytes:
    """Return header, records and pool as one buffer."""
    data = b"".join(pool.parts)
    pool_offset = _HEADER.size + len(records)
    flags = (WITH_INIT if plan.init else 0) | (DIE_WITH_PARENT if plan.die_with_parent else 0)
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        _HEADER.size,
        pool_offset + len(data),
        len(plan.steps),
        _HEADER.size,
        pool_offset,
        len(data),
        flags,
        n_slots,
        len(plan.given),
    )
    return header + records + data


def step_record(step: Step, numbers: dict[str, int], pool: Pool) -> bytes:
    """Return the record of one step; what it points to goes into the pool."""
    call = CALLS[step.call]
    words = [
        _word(kind, value, numbers, pool) for (_, kind), value in zip(call.params, step.args) if kind != "x"
    ]
    words += [0] * (7 - len(words))
    result = numbers[step.result] if step.result else _NONE
    return _STEP.pack(call.opcode, WHO.index(step.who), 0, result, step.ignore, *words)


def _word(kind: str, value: object, numbers: dict[str, int], pool: Pool) -> int:
    if kind == "f":
        if isinstance(value, Fd):
            return 1 << 32 | numbers[value.name]
        assert isinstance(value, int)
        return value & 0xFFFF_FFFF
    if kind == "i":
        assert isinstance(value, int), value
        return value & _NULL
    if kind == "z" and value is None:
        return _NULL
    if kind == "v":
        assert isinstance(value, tuple)
        return pool.add(b"".join(_bytes(v) + b"\0" for v in value))
    assert isinstance(value, (str, bytes)), (kind, value)
    return pool.add(_bytes(value))


def _bytes(value: str | bytes) -> bytes:
    # File names and arguments are bytes to the kernel; str carries undecodable ones as surrogates.
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> list[tuple[str, str, tuple[object, ...], int, int]]:
    """Return (who, call, raw words, result, ignore) of each record: for tests and ``nstool plan FILE``."""
    fields = _HEADER.unpack_from(data)
    return [
        (WHO[who], list(CALLS)[call], tuple(words), result, ignore)
        for call, who, _, result, ignore, *words in _STEP.iter_unpack(data[fields[5] : fields[6]])
    ]
