"""What a service tells of itself, as plain data: for the command line, JSON, Prometheus and the page."""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Any

from nstool.service.board import CAUSES, REFUSED, STAGES, Histogram

if TYPE_CHECKING:
    from nstool.service.generation import Generation
    from nstool.service.supervisor import Gone, Supervisor

_QUANTILES = (0.5, 0.9, 0.99)
_ENDS = 100  # last lives of each generation


def status(supervisor: Supervisor) -> dict[str, Any]:
    """Return the state of a service: its generations, places, counts since it began, and latencies in microseconds."""
    alive = supervisor.alive()
    counts = [one.counts() for one in alive if one.board is not None]
    past = supervisor.past
    causes = {name: past.causes.get(name, 0) + sum(one.causes[name] for one in counts) for name in CAUSES}
    return {
        "name": supervisor.blueprint.name,
        "time": round(time(), 3),
        "uptime": round(monotonic() - supervisor.began, 3),
        "listening": list(dict.fromkeys(one.where for one in supervisor.listeners)),
        "metrics": supervisor.endpoint.where if supervisor.endpoint else "",
        "shape": supervisor.blueprint.service.shape,
        "places": supervisor.blueprint.service.places,
        "live": sum(one.live for one in counts),
        "parked": sum(one.parked for one in counts),
        "queued": sum(one.queued for one in counts),
        "accepted": past.accepted + sum(one.accepted for one in counts),
        "nets": past.nets + sum(one.nets for one in counts),
        "lives": past.lives + sum(one.lives for one in counts),
        "rotations": supervisor.rotations,
        "dropped": supervisor.log.dropped,
        "ends": {name: count for name, count in causes.items() if name not in REFUSED},
        "refused": {name: causes[name] for name in REFUSED},
        "alarms": dict(supervisor.alarms.counts),
        "latencies": {stage: _latency(_histogram(supervisor, counts, stage)) for stage in STAGES},
        "generations": [_generation(one, one in supervisor.current) for one in alive],
        "gone": [_gone(one) for one in past.gone],
        "stopping": supervisor.stopping,
        "killed": False,
    }


def _histogram(supervisor: Supervisor, counts: list[Any], stage: str) -> Histogram:
    have, total = supervisor.past.stages.get(stage, ([0] * 128, 0))
    numbers = [a + sum(one.stages[stage].counts[n] for one in counts) for n, a in enumerate(have)]
    return Histogram(tuple(numbers), total + sum(one.stages[stage].total for one in counts))


def _latency(histogram: Histogram) -> dict[str, Any]:
    count = histogram.count
    return {
        "count": count,
        "mean": round(histogram.total / count, 1) if count else 0,
        **{f"p{round(share * 100)}": histogram.quantile(share) for share in _QUANTILES},
        "buckets": list(histogram.counts),
        "sum": histogram.total,
    }


def _generation(one: Generation, is_current: bool) -> dict[str, Any]:
    board = one.board
    _, ends = board.ends(most=_ENDS) if board else (0, ())
    return {
        "number": one.number,
        "shard": one.shard,
        "size": board.size if board else 0,
        "sandbox": one.name,
        "pid": one.pid,
        "state": "current" if is_current else "draining",
        "age": round(monotonic() - one.began, 3),
        "lives": board.counts().lives if board else 0,
        "places": [place.asdict() for place in board.places()] if board else [],
        "ends": [end.asdict() for end in ends],
    }


def _gone(one: Gone) -> dict[str, Any]:
    return {
        "number": one.number,
        "age": round(one.ended - one.began, 3),
        "ago": round(monotonic() - one.ended, 3),
        "lives": one.lives,
        "ends": [end.asdict() for end in one.ends],
    }
