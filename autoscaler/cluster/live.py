"""LiveWorld: the loop's world when there is a real one. It asks a metric source and publishes to the doors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from autoscaler.errors import CannotSee
from autoscaler.model import Observation, RoleObservation, Stock
from metrics_adapter.signals import Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from threading import Event

    from autoscaler.model import Decision, RoleKey
    from metrics_adapter.signals import Group, MetricSource, Reading


SIGNALS = frozenset(
    {
        Signal.RUNNING,
        Signal.WAITING,
        Signal.GATEWAY_QUEUE,
        Signal.KV_USAGE,
        Signal.KV_CAPACITY,
        Signal.COMPUTED_PROMPT_RATE,
        Signal.GENERATION_RATE,
        Signal.PREFILL_REQUEST_RATE,
        Signal.COMPLETION_RATE,
        Signal.PREFILL_BUSY,
        Signal.ITL_BUSY,
        Signal.ITL_TOKENS,
        Signal.TTFT_BUSY,
        Signal.STEP_RATE,
    }
)
"""What deciding and explaining reads; every further signal would cost Prometheus a query per tick."""


class ReplicaCounts(Protocol):
    """Somebody who knows how many replicas a role has."""

    def read(self, now: float) -> Mapping[RoleKey, tuple[int | None, int | None]]:
        """(ready, existing) replicas by role; a role nobody knows of is left out. Raises SourceError."""
        ...


def role_observation(key: RoleKey, reading: Reading, counts: tuple[int | None, int | None] | None) -> RoleObservation:
    """A reading in the autoscaler's words.

    Without better knowledge the scrape targets are the replicas: those that are up are ready.
    """
    ready, replicas = counts if counts is not None else (reading.targets_up, reading.targets)
    # A target that cannot be scraped may be a replica that still serves: without better knowledge it counts as one
    # whose samples are missing, so that nothing shrinks on the strength of those that are heard.
    down = (reading.targets or 0) - (reading.targets_up or 0) if counts is None else 0
    behind = reading.replicas_reporting
    per_replica = max(1, math.ceil(reading.reporting / behind)) if behind else 1
    get = reading.signals.get
    return RoleObservation(
        key=key,
        sampled_at=reading.sampled_at,
        reporting=reading.reporting,
        rate_engines=reading.rate_engines,
        engines_per_replica=per_replica,
        ready=ready,
        replicas=replicas,
        stale=max(reading.stale, down),
        running=get(Signal.RUNNING),
        waiting=get(Signal.WAITING),
        queued_at_gateway=get(Signal.GATEWAY_QUEUE),
        kv_usage=get(Signal.KV_USAGE),
        kv_capacity=get(Signal.KV_CAPACITY),
        computed_rate=get(Signal.COMPUTED_PROMPT_RATE),
        generation_rate=get(Signal.GENERATION_RATE),
        first_token_rate=get(Signal.PREFILL_REQUEST_RATE),
        completion_rate=get(Signal.COMPLETION_RATE),
        prefill_busy=get(Signal.PREFILL_BUSY),
        itl_busy=get(Signal.ITL_BUSY),
        itl_tokens=get(Signal.ITL_TOKENS),
        ttft_busy=get(Signal.TTFT_BUSY),
        step_rate=get(Signal.STEP_RATE),
    )


class LiveWorld:
    """Ticks by the clock, observes through a source, enacts by publishing."""

    def __init__(
        self,
        source: MetricSource,
        groups: Mapping[RoleKey, Group],
        publish: Callable[[Decision], None],
        *,
        clock: Callable[[], float],
        interval_s: float,
        stop: Event,
        stocks: Sequence[Stock] = (),
        counts: ReplicaCounts | None = None,
    ) -> None:
        self._source = source
        self._groups = dict(groups)
        self._publish = publish
        self._clock = clock
        self._interval_s = interval_s
        self._stop = stop
        self._stocks = tuple(stocks)
        self._counts = counts

    def ticks(self) -> Iterator[float]:
        """Now, and then every interval until stopped. A tick that took longer than the interval is followed at once."""
        while not self._stop.is_set():
            now = self._clock()
            yield now
            self._stop.wait(max(0.0, now + self._interval_s - self._clock()))

    def observe(self, now: float, /) -> Observation:
        """Read every group, and the replica counts. Raises CannotSee when the source as a whole cannot be read."""
        try:
            readings = self._source.read(now, tuple(self._groups.values()))
            counts = self._counts.read(now) if self._counts else {}
        except SourceError as error:
            raise CannotSee(f"{self._source.name}: {error}") from error
        roles = tuple(
            role_observation(key, readings.by_key[group.key], counts.get(key)) for key, group in self._groups.items()
        )
        return Observation(now, roles, self._stocks, self._source.name, readings.notes)

    def enact(self, decision: Decision, /) -> None:
        """Publish the decision."""
        self._publish(decision)
