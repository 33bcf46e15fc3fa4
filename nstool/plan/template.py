"""A plan encoded once for many launches: only what the lease changes is encoded again. Pure."""

from __future__ import annotations

from nstool.namespaces import uts
from nstool.plan import encode
from nstool.plan.lease import Lease
from nstool.plan.steps import UNDO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nstool.spec.model import Spec

# A lease whose values are told from all else in a plan, and are replaced by the real ones.
TOKENS = Lease(
    name="nstool-token-name",
    uid_base=1999999901,
    gid_base=1999999902,
    cgroup="nstool-token-cgroup",
    monotonic=-1999999903,
    boottime=-1999999904,
    begin=1999999905,
    machine_id="nstool-token-machine",
    boot_id="nstool-token-boot",
)
_FIELDS = ("name", "uid_base", "gid_base", "cgroup", "monotonic", "boottime", "begin", "machine_id", "boot_id")
_NAME, _ID = "nstool-token-", "199999990"  # what the tokens begin with


def speaks_of_tokens(spec: Spec) -> bool:
    """Whether a spec holds text that a template would take for a token and replace."""
    text = repr(spec)
    return _NAME in text or _ID in text


_FLAGS_AT = 28  # of struct nst_plan


class Program:
    """What the engine runs: the bytes, the slot of each fd name, the undo steps, and the plan when it is asked for."""

    def __init__(
        self, data: bytes, slots: dict[str, int], undo: tuple[Step, ...], plan: Plan | Callable[[], Plan]
    ) -> None:
        self.data = data
        self.slots = slots
        self.undo = undo
        self.init = bool(data[_FLAGS_AT] & encode.WITH_INIT)
        self.checked = False  # by the engine, once
        self._plan = plan

    @property
    def plan(self) -> Plan:
        """The plan with this launch's values, made when it is first asked for: to explain, to show."""
        if not isinstance(self._plan, Plan):
            self._plan = self._plan()
        return self._plan


def program(plan: Plan) -> Program:
    """Return the program of one plan."""
    undo = tuple(step for step in plan.steps if step.who == UNDO)
    return Program(encode.encode(plan), encode.slots(plan), undo, plan)


class Template:
    """The plan of a spec for any lease: ``fill`` gives the bytes for one."""

    def __init__(self, plan_for: Callable[[Lease], Plan]) -> None:
        plan = plan_for(TOKENS)
        self._plan_for = plan_for
        self._plan = plan
        self._slots = encode.slots(plan)
        self._pool = encode.Pool()
        records = [encode.step_record(step, self._slots, self._pool) for step in plan.steps]
        self._records = b"".join(records)
        # Where a word of a record changes: its offset, its kind, the argument, and which tokens that has.
        self._words = [
            (number * len(records[0]) + at, kind, arg, found)
            for number, step in enumerate(plan.steps)
            for at, kind, arg in encode.words_at(step)
            if (found := _tokens_in(arg))
        ]
        # The journal needs them with their values.
        self._undo = [step for step in plan.steps if step.who == UNDO]
        self._last: tuple[Lease, Program] | None = None

    def fill(self, lease: Lease) -> Program:
        """Return the program for a lease. Sandboxes that make nothing outside all have the same one."""
        last = self._last
        if last is None or (last[0] is not lease and last[0] != lease):
            last = self._last = (lease, self._made(lease))
        return last[1]

    def _made(self, lease: Lease) -> Program:
        values = [str(getattr(lease, field)) for field in _FIELDS]
        values[0] = values[0] or uts.UNNAMED
        pool = self._pool.copy()
        records = bytearray(self._records)
        for at, kind, arg, found in self._words:
            encode.put_word(records, at, kind, _filled(arg, found, values), self._slots, pool)
        data = encode.assemble(self._plan, len(self._slots), bytes(records), pool)
        undo = [
            step.replace(args=_filled(step.args, _ALL, values), why=_filled(step.why, _ALL, values))
            for step in self._undo
        ]
        return Program(data, self._slots, tuple(undo), lambda: self._plan_for(lease))


# What stands for a field, and which of _FIELDS that is.
_ALL = tuple((str(getattr(TOKENS, field)), number) for number, field in enumerate(_FIELDS))


def _tokens_in(arg: object) -> tuple[tuple[str, int], ...]:
    text = str(arg) if isinstance(arg, (str, int)) else repr(arg)
    return tuple((token, number) for token, number in _ALL if token in text)


def _filled(value: Any, found: tuple[tuple[str, int], ...], values: list[str]) -> Any:
    if isinstance(value, str):
        for token, number in found:
            value = value.replace(token, values[number])
        return value
    if isinstance(value, tuple) and not isinstance(value, Fd):
        return tuple([_filled(v, found, values) for v in value])
    if value == TOKENS.uid_base:  # the owner of the user namespace
        return int(values[_FIELDS.index("uid_base")])
    if isinstance(value, dict):
        return {key: _filled(v, found, values) for key, v in value.items()}
    return value
