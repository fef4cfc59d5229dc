"""Counts of what the gate found, for our own metrics."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from metrics_adapter.gate import Outcome


class GateCounts:
    """A `GateMeter` on a registry; labels are bounded by `Outcome`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        admitted = Counter(
            "tidegate_api_admitted", "Requests let in, by how they were authenticated.", ["by"], registry=registry
        )
        self._admitted = lru_cache(lambda outcome: admitted.labels(outcome.value))
        self._refused = Counter(
            "tidegate_api_turned_away", "Requests refused at the gate, by reason.", ["reason"], registry=registry
        )
        self._owned = Gauge(
            "tidegate_external_api_owned",
            "1 unless it is another's APIService.",
            ["api"],
            registry=registry,
        )

    def owned(self, api: str, *, good: bool) -> None:
        """Whether an APIService is ours, or nobody's."""
        self._owned.labels(api).set(float(good))

    def admitted(self, outcome: Outcome) -> None:
        """One request let in."""
        self._admitted(outcome).inc()

    def turned_away(self, outcome: Outcome) -> None:
        """One request refused."""
        self._refused.labels(outcome.value).inc()
