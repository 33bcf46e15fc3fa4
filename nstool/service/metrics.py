"""The metrics of a service in the text format of Prometheus. https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from nstool.service.board import bounds

if TYPE_CHECKING:
    from prometheus_client.core import Metric

# Key of the status to (name, help).
_GAUGES: dict[str, tuple[str, str]] = {
    "uptime": ("nstool_uptime_seconds", "Seconds since the service has begun."),
    "places": ("nstool_places", "Sandboxes that each generation may have at once."),
    "live": ("nstool_serving", "Sandboxes that have a connection; of shape listener, those that accept."),
    "parked": ("nstool_parked", "Sandboxes that wait for a connection."),
    "queued": ("nstool_queued", "Connections that wait for a sandbox."),
}
_COUNTERS: dict[str, tuple[str, str]] = {
    "accepted": ("nstool_connections", "Connections that were taken, those refused later too."),
    "lives": ("nstool_sandboxes", "Sandboxes that were begun, for a connection or to be parked or attested."),
    "nets": ("nstool_networks", "Network namespaces that were made to be lent to sandboxes."),
    "rotations": ("nstool_rotations", "Generations that have followed another."),
    "dropped": ("nstool_log_dropped_bytes", "Bytes of what commands said that are not in the log: it was too much."),
}
# Key of the status, whose value is an object, to (name, help, label).
_BY_CAUSE: dict[str, tuple[str, str, str]] = {
    "ends": ("nstool_ends", "Sandboxes that have ended.", "cause"),
    "refused": ("nstool_refused", "Connections that were refused.", "reason"),
    "alarms": ("nstool_alarms", "Alarms, of the kinds that are watched for.", "kind"),
}
# Microseconds: of the bounds of the board's buckets the powers of two, from 32 microseconds to more than two minutes.
_EDGES = tuple(1 << power for power in range(5, 28))


class Metrics(Collector):
    """What Prometheus asks for. status: returns ``nstool.service.status.status``."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> bytes:
        """Return all of them as they are now."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield all of them. The registry calls this."""
        found = self._status()
        service = found["name"]
        for key, (name, about) in _GAUGES.items():
            gauge = GaugeMetricFamily(name, about, labels=["service"])
            gauge.add_metric([service], found[key])
            yield gauge
        yield _generations(service, found["generations"])
        for key, (name, about) in _COUNTERS.items():
            counter = CounterMetricFamily(name, about, labels=["service"])
            counter.add_metric([service], found[key])
            yield counter
        for key, (name, about, label) in _BY_CAUSE.items():
            counter = CounterMetricFamily(name, about, labels=["service", label])
            for cause, count in found[key].items():
                counter.add_metric([service, cause], count)
            yield counter
        yield _latencies(service, found["latencies"])


def _generations(service: str, generations: list[dict[str, Any]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("nstool_generations", "Generations that there are.", labels=["service", "state"])
    counts = Counter(state for _, state in {(one["number"], one["state"]) for one in generations})
    for state in ("current", "draining"):
        family.add_metric([service, state], counts[state])
    return family


def _latencies(service: str, latencies: dict[str, Any]) -> HistogramMetricFamily:
    about = "Seconds from a connection to each stage of its sandbox."
    family = HistogramMetricFamily("nstool_stage_seconds", about, labels=["service", "stage"])
    for stage, one in latencies.items():
        below = dict(zip(bounds(), accumulate(one["buckets"])))
        buckets = [(str(edge / 1e6), below[edge]) for edge in _EDGES]
        family.add_metric([service, stage], [*buckets, ("+Inf", one["count"])], one["sum"] / 1e6)
    return family
