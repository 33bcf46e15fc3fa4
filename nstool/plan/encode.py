"""Encode a Plan into the flat buffer that C checks and runs (csrc/nstool.h, struct nst_plan)."""

from __future__ import annotations

from _struct import Struct  # what struct is made of

from nstool.errors import NstoolError, SpecError
from nstool.plan.calls import CALLS
from nstool.plan.steps import WHO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nstool.plan.steps import Arg

MAGIC = 0x3150534E  # "NSP1"
VERSION = 1
MAX_SLOTS = 256
MAX_STEPS = 4096
MAX_PLAN = 1 << 20  # bytes
WITH_INIT, DIE_WITH_PARENT = 1, 2

_HEADER = Struct("<IHHIIIIIIII24x")
_STEP = Struct("<HBBhh7Q")
_WORD = Struct("<Q")
_WORDS_AT = _STEP.size - 7 * _WORD.size
_NULL = 0xFFFF_FFFF_FFFF_FFFF
_NONE = -1
_NO_WORDS = (0,) * 7
_WHO = {who: number for number, who in enumerate(WHO)}
_STREAMS = ("stdin", "stdout", "stderr")


class Pool:
    """Bytes that the steps point to, each stored once."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0
        self.known: dict[bytes, int] = {}
        self.words: dict[str, int] = {}

    def text(self, text: str) -> int:
        """Return the argument word of a string. Raises NstoolError for a NUL in it."""
        word = self.words.get(text)
        if word is None:
            word = self.words[text] = self.add(_string(text))
        return word

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
    pool = Pool()
    records = b"".join([step_record(step, numbers, pool) for step in plan.steps])
    return assemble(plan, len(numbers), records, pool)


def assemble(plan: Plan, n_slots: int, records: bytes, pool: Pool) -> bytes:
    """Return header, records and pool as one buffer. Raises SpecError for a plan that is too large for C."""
    data = b"".join(pool.parts)
    pool_offset = _HEADER.size + len(records)
    fewer = "use fewer mounts, or pass fewer fds (pass_fds)"
    for size, limit, what, remedy in (
        (n_slots, MAX_SLOTS, "fds", fewer),
        (len(plan.steps), MAX_STEPS, "steps", fewer),
        (pool_offset + len(data), MAX_PLAN, "bytes", "shorten the command, the environment or the list of mounts"),
    ):
        if size > limit:
            raise SpecError(f"the plan has {size} {what}, at most {limit} are possible: {remedy}")
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
    """Return the record of one step; what it points to goes into the pool. Raises NstoolError."""
    call, words = CALLS[step.call], []
    if len(step.args) != len(call.kinds):
        raise NstoolError(f"{step.call} has {len(call.kinds)} arguments, not {len(step.args)}")
    for kind, value in zip(call.kinds, step.args):
        # The usual ones at once: a plan has a thousand arguments.
        if kind == "i" and type(value) is int and 0 <= value <= _NULL:
            words.append(value)
        elif kind == "s" and type(value) is str:
            words.append(pool.text(value))
        elif kind != "x":
            words.append(_word(kind, value, numbers, pool))
    words += _NO_WORDS[len(words) :]
    result = numbers[step.result] if step.result else _NONE
    return _STEP.pack(call.opcode, _WHO[step.who], 0, result, step.ignore, *words)


def words_at(step: Step) -> list[tuple[int, str, Arg]]:
    """Return the offset in its record, the kind, and the value of each argument of a step that is a word there."""
    arguments = [(kind, value) for kind, value in zip(CALLS[step.call].kinds, step.args) if kind != "x"]
    return [(_WORDS_AT + number * _WORD.size, kind, value) for number, (kind, value) in enumerate(arguments)]


def put_word(records: bytearray, at: int, kind: str, value: Arg, numbers: dict[str, int], pool: Pool) -> None:
    """Put another value of an argument into records, where words_at says."""
    word = pool.text(value) if kind == "s" and type(value) is str else _word(kind, value, numbers, pool)
    _WORD.pack_into(records, at, word)


def _word(kind: str, value: object, numbers: dict[str, int], pool: Pool) -> int:
    if kind == "f":
        if isinstance(value, Fd):
            if value.name not in numbers:
                raise NstoolError(f"no step opens the fd {value.name!r}, and it is not given")
            return 1 << 32 | numbers[value.name]
        assert isinstance(value, int)
        return value & 0xFFFF_FFFF
    if kind == "i":
        assert isinstance(value, int), value
        if not -(1 << 63) <= value <= _NULL:
            raise NstoolError(f"the number {value} does not fit into 64 bits")
        return value & _NULL
    if kind == "z" and value is None:
        return _NULL
    if kind == "v":
        assert isinstance(value, tuple)
        return pool.add(b"".join([_string(v) + b"\0" for v in value]))
    assert isinstance(value, (str, bytes)), (kind, value)
    return pool.add(_bytes(value) if kind == "b" else _string(value))


def _bytes(value: str | bytes) -> bytes:
    # File names and arguments are bytes to the kernel; str carries undecodable ones as surrogates.
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _string(value: str | bytes) -> bytes:
    data = _bytes(value)
    if b"\0" in data:  # C would see it shorter, and a list would get one more
        raise NstoolError(f"a string must not contain a NUL byte: {value!r}")
    return data


# ---- the way back ----


def decode(data: bytes) -> Plan:
    """Return the plan in ``data``, which may begin with a line "#!...": the inverse of encode. Raises NstoolError.

    What is not encoded is made up: fds are "stdin", "stdout", "stderr", "fd3" and so on by slot, ``why`` and
    ``name`` are empty, external steps have no arguments. Of what C would refuse (nst_plan_check), only what
    cannot be read is refused here.
    """
    if data[:2] == b"#!":
        data = data[data.find(b"\n") + 1 :]
    if len(data) < _HEADER.size or data[:4] != MAGIC.to_bytes(4, "little"):
        raise NstoolError("not a compiled plan; make one with nstool compile SPEC -o FILE")
    _, version, header_size, size, count, start, pool_at, pool_size, flags, n_slots, n_given = _HEADER.unpack_from(data)
    if version != VERSION:
        raise NstoolError(f"a compiled plan of version {version}, not {VERSION}; make it again with nstool compile")
    whole = (header_size, start, pool_at, size, pool_at + pool_size)
    if whole != (_HEADER.size, _HEADER.size, _HEADER.size + count * _STEP.size, len(data), len(data)):
        raise NstoolError("a damaged plan: its header does not describe its size; make it again with nstool compile")
    if n_slots > MAX_SLOTS or n_given > n_slots:
        raise NstoolError(f"a damaged plan: {n_given} of {n_slots} fds are given")
    names = [_STREAMS[n] if n < min(3, n_given) else f"fd{n}" for n in range(n_slots)]
    pool = data[pool_at:]
    steps = tuple(
        _decode_step(number, record, names, pool)
        for number, record in enumerate(_STEP.iter_unpack(data[start:pool_at]), 1)
    )
    return Plan(steps, tuple(names[:n_given]), bool(flags & WITH_INIT), bool(flags & DIE_WITH_PARENT))


def _decode_step(number: int, record: tuple[int, ...], names: list[str], pool: bytes) -> Step:
    opcode, who, _, result, ignore, *words = record
    if opcode >= len(CALLS) or who >= len(WHO) or not _NONE <= result < len(names):
        raise NstoolError(f"a damaged plan: step {number} has call {opcode}, role {who}, result {result}")
    call = list(CALLS.values())[opcode]
    try:
        args = [_value(kind, word, names, pool) for (_, kind), word in zip(call.params, words)]
    except IndexError:
        raise NstoolError(f"a damaged plan: an argument of step {number}, {call.name}, lies outside it") from None
    return Step(WHO[who], call.name, tuple(args), "", names[result] if result >= 0 else "", ignore)


def _value(kind: str, word: int, names: list[str], pool: bytes) -> Arg:
    if kind == "x":
        return {}
    if kind == "i":
        return word - (1 << 64) if word >> 63 else word
    if kind == "f":
        low = word & 0xFFFF_FFFF
        return Fd(names[low]) if word >> 32 else low - (1 << 32) if low >> 31 else low
    if kind == "z" and word == _NULL:
        return None
    start, length = word & 0xFFFF_FFFF, word >> 32
    if start + length > len(pool):
        raise IndexError(start)
    data = pool[start : start + length]
    if kind == "b":
        return data
    text = data.decode("utf-8", "surrogateescape")
    return tuple(text.split("\0")[:-1]) if kind == "v" else text
