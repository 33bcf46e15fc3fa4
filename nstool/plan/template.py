"""A plan encoded once for many launches: only what the lease changes is encoded again. Pure."""

from __future__ import annotations

from nstool.plan import encode
from nstool.plan.lease import Lease
from nstool.plan.steps import UNDO, Fd, Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A lease whose values are told from all else in a plan, and are replaced by the real ones.
TOKENS = Lease(
    name="nstool-token-name",
    uid_base=1999999901,
    gid_base=1999999902,
    cgroup="nstool-token-cgroup",
    monotonic=-1999999903,
    boottime=-1999999904,
)
_FIELDS = ("name", "uid_base", "gid_base", "cgroup", "monotonic", "boottime")
_NAME, _ID = b"nstool-token-", b"199999990"  # what the tokens begin with

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


class _Pool(encode.Pool):
    """Knows whether anything of the lease was added."""

    def __init__(self) -> None:
        super().__init__()
        self.leased = False

    def add(self, data: bytes) -> int:
        if _NAME in data or _ID in data:
            self.leased = True
        return super().add(data)


class Template:
    """The plan of a spec for any lease: ``fill`` gives the bytes for one."""

    def __init__(self, plan_for: Callable[[Lease], Plan]) -> None:
        plan = plan_for(TOKENS)
        self._plan_for = plan_for
        self._slots = encode.slots(plan)
        self._pool = _Pool()
        self._changing: list[tuple[int, Step]] = []
        records = []
        for number, step in enumerate(plan.steps):
            self._pool.leased = step.who == UNDO  # the journal needs them all with their values
            records.append(encode.step_record(step, self._slots, self._pool))
            if self._pool.leased:
                self._changing.append((number, step))
        self._records = b"".join(records)
        self._size = len(records[0])
        self._plan = plan

    def fill(self, lease: Lease) -> Program:
        """Return the program for a lease."""
        values = [
            (str(getattr(TOKENS, field)), str(getattr(lease, field)))
            for field in _FIELDS
        ]
        pool = self._pool.copy()
        records = bytearray(self._records)
        undo = []
        for number, step in self._changing:
            changed = step.replace(args=tuple(_filled(arg, values) for arg in step.args))
            at = number * self._size
            records[at : at + self._size] = encode.step_record(changed, self._slots, pool)
            if step.who == UNDO:
                undo.append(changed)
        data = encode.assemble(self._plan, len(self._slots), bytes(records), pool)
        return Program(data, self._slots, tuple(undo), lambda: self._plan_for(lease))


def _filled(value: object, values: list[tuple[str, str]]) -> object:
    if isinstance(value, str):
        for token, text in values:
            if token in value:
                value = value.replace(token, text)
        return value
    if isinstance(value, tuple) and not isinstance(value, Fd):
        return tuple(_filled(v, values) for v in value)
    return value
