"""Counts for operators: numbers by closed lists of words, never a position or a resident's id.

Everything is counted on the loop's thread in plain ints, which costs a tenth of a counter object
with a lock; they become Prometheus families only when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

from engine.decision import EVENT_KINDS, STATUSES, WITHHELD, Decision

BOUNDS_S: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
"""Upper bounds of the histograms' buckets, seconds, included."""


class Durations:
    """A histogram of durations in seconds."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def family(self, name: str, text: str) -> Metric:
        """As Prometheus wants it: cumulative counts by upper bound."""
        buckets, so_far = [], 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=True):
            so_far += count
            buckets.append((bound, so_far))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.total_s)


class Metrics:
    """All that this process has counted since it started."""

    def __init__(self) -> None:
        self.pings = dict.fromkeys(STATUSES, 0)
        self.events = dict.fromkeys(EVENT_KINDS, 0)
        self.withheld = dict.fromkeys(WITHHELD, 0)
        self.offers = 0
        self.requests: dict[tuple[str, str, int], int] = {}
        self.answer_s = Durations()
        self.decide_s = Durations()
        self.commit_s = Durations()
        self.revoke_s = Durations()
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a number that somebody else owns, read whenever metrics are asked for."""
        self.gauges[name] = (text, read)

    def count_request(self, method: str, template: str, status: int) -> None:
        """Count one answered request by its route's template, never by its path."""
        at = (method, template, status)
        self.requests[at] = self.requests.get(at, 0) + 1

    def count(self, decisions: Iterable[Decision]) -> None:
        """Count what pings were answered; an offer told again to a duplicate is not a new one."""
        for decision in decisions:
            self.pings[decision.status] += 1
            for event in decision.events:
                self.events[event.kind] += 1
            if decision.offer is not None and decision.status == "decided":
                self.offers += 1
            if decision.withheld is not None:
                self.withheld[decision.withheld] += 1

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The families, as a Prometheus collector gives them."""
        yield _by("passby_pings", "Pings answered.", "status", self.pings)
        yield _by("passby_events", "Transitions told.", "kind", self.events)
        yield _by("passby_withheld", "Offers withheld.", "reason", self.withheld)
        yield CounterMetricFamily("passby_offers_made", "Offers made.", value=self.offers)
        requests = CounterMetricFamily(
            "passby_requests", "Requests answered.", labels=("method", "route", "status")
        )
        for (method, template, status), count in sorted(self.requests.items()):
            requests.add_metric((method, template, str(status)), count)
        yield requests
        yield self.answer_s.family(
            "passby_answer_seconds", "From decoded pings to decisions that may leave."
        )
        yield self.decide_s.family("passby_decide_seconds", "From decoded pings to decisions.")
        yield self.commit_s.family("passby_commit_seconds", "From a group's start to its commit.")
        yield self.revoke_s.family(
            "passby_revoke_to_silence_seconds",
            "From a withdrawal that is being written to its acknowledgement, from when on no server"
            " acts on what was withdrawn.",
        )
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())


def _by(name: str, text: str, label: str, counts: dict[str, int]) -> Metric:
    """A counter with one label."""
    family = CounterMetricFamily(name, text, labels=(label,))
    for word, count in counts.items():
        family.add_metric((word,), count)
    return family
