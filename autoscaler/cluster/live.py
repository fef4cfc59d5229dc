"""LiveWorld: the loop's world when there is a real one. It asks a metric source and publishes to the doors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from autoscaler.errors import CannotSee
from autoscaler.model import Observation, RoleObservation, Stock
from metrics_adapter.signals import Signal, SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from threading import Event

    from autoscaler.model import Decision, RoleKey, Start
    from autoscaler.supply import Supply
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


class ReplicaStarts(Protocol):
    """Somebody who knows how long replicas took to come up."""

    def read(self, now: float) -> Mapping[RoleKey, tuple[Start, ...]]:
        """Starts that are over, of late, by role. Raises SourceError."""
        ...


def role_observation(
    key: RoleKey,
    reading: Reading,
    counts: tuple[int | None, int | None] | None,
    sleepers: tuple[int, int] | None = None,
) -> RoleObservation:
    """A reading in the autoscaler's words.

    Without better knowledge the scrape targets are the replicas: those that are up are ready. `sleepers`: replicas
    (asleep, waking); None where nobody knows.
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
        asleep=sleepers[0] if sleepers is not None else None,
        waking=sleepers[1] if sleepers is not None else None,
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """What a cluster adds to an observation: stock, replicas and starts by role, and notes.

    `counts`: (ready, existing) replicas, `sleepers`: (asleep, waking) ones.
    """

    stocks: tuple[Stock, ...] = ()
    counts: Mapping[RoleKey, tuple[int | None, int | None]] = field(default_factory=dict)
    supply: Supply | None = None
    notes: tuple[str, ...] = ()
    starts: Mapping[RoleKey, tuple[Start, ...]] = field(default_factory=dict)
    sleepers: Mapping[RoleKey, tuple[int, int]] = field(default_factory=dict)


class Cluster(Protocol):
    """A cluster to look at and to act on."""

    def look(self) -> Seen:
        """What is there now."""
        ...

    def decided(self, decision: Decision, seen: Observation | None) -> Decision | None:
        """Act on it in its own time; returns what is to be published, None while another replica's decisions are."""
        ...


class LiveWorld:
    """Ticks by the clock, observes through a source, enacts by publishing."""

    def __init__(  # noqa: PLR0913 - the world's parts, each given by name
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
        starts: ReplicaStarts | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self._source = source
        self._groups = dict(groups)
        self._publish = publish
        self._clock = clock
        self._interval_s = interval_s
        self._stop = stop
        self._stocks = tuple(stocks)
        self._counts = counts
        self._starts = starts
        self._cluster = cluster
        self._last: Observation | None = None

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
            counts = dict(self._counts.read(now)) if self._counts else {}
        except SourceError as error:
            raise CannotSee(f"{self._source.name}: {error}") from error
        there = self._cluster.look() if self._cluster else Seen(self._stocks)
        counts |= there.counts
        roles = tuple(
            role_observation(key, readings.by_key[group.key], counts.get(key), there.sleepers.get(key))
            for key, group in self._groups.items()
        )
        roles, unknown = self._with_starts(roles, now, there.starts)
        notes = (*readings.notes, *there.notes, *unknown)
        self._last = Observation(now, roles, there.stocks, self._source.name, notes, supply=there.supply)
        return self._last

    def _with_starts(
        self, roles: tuple[RoleObservation, ...], now: float, seen: Mapping[RoleKey, tuple[Start, ...]]
    ) -> tuple[tuple[RoleObservation, ...], tuple[str, ...]]:
        """The roles with the starts that are known; without them, and why, where they cannot be read."""
        try:
            told = {**(self._starts.read(now) if self._starts else {}), **seen}
        except SourceError as error:
            return roles, (f"how long replicas took to start is not known: {error}",)
        return tuple(replace(role, starts=told[role.key]) if told.get(role.key) else role for role in roles), ()

    def enact(self, decision: Decision, /) -> None:
        """Publish the decision, and let the hands carry it out."""
        served = self._cluster.decided(decision, self._last) if self._cluster else decision
        if served is not None:
            self._publish(served)
