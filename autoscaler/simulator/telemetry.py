"""What a scrape of the simulated engines would show: counters sampled at intervals, rates over a window, staleness.

As with a real source: an engine is scraped at a phase of its own, a sample is seen `lag_s` later, a rate is the growth
between the oldest and the newest sample in the window over the time between them, and an engine with a single sample
has gauges but no rates.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from autoscaler.model import EngineObservation, Role, RoleKey, RoleObservation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autoscaler.model import Start
    from autoscaler.simulator.fleet import Fleet
    from autoscaler.simulator.setup import Actuation
    from autoscaler.simulator.supply import Timers
    from autoscaler.simulator.wiring import Replica

PEAK_S = 60.0
"""Peaks are the highest of the samples of the last minute."""


class Sample(NamedTuple):
    """One scrape of one engine: gauges, then counters since its start (tokens, requests, seconds, bytes)."""

    at: float
    running: int
    waiting: int
    kv_usage: float
    waiting_tokens: int
    prompt: int
    computed: int
    generation: int
    first_tokens: int
    completions: int
    prefill_busy: float
    itl_busy: float
    itl_tokens: int
    ttft_busy: float
    steps: int
    preemptions: int
    transfer_bytes: float
    transfer_busy: float


_COUNTERS = Sample._fields.index("prompt")


class Beside(NamedTuple):
    """What is told of a role beside its engines: replicas, starts of late, and what came in at its gateway (rates)."""

    ready: int
    existing: int
    starts: tuple[Start, ...] = ()
    arrivals: tuple[float, float] | None = None


def taken(replica: Replica, at: float) -> Sample:
    """What the engine would answer now, the steps that have ended inside a running span included."""
    engine = replica.engine
    tokens, seconds, steps, _ = engine.so_far(at)
    running, waiting, blocks = engine.told(at)
    return Sample(
        at,
        running,
        waiting + len(replica.fetching),
        min(1.0, blocks / engine.profile.usable_blocks),
        engine.backlog,
        engine.prompt_tokens,
        engine.computed,
        engine.generation + tokens,
        engine.first_tokens,
        engine.completions,
        engine.prefill_busy,
        engine.itl_busy + seconds,
        engine.itl_tokens + tokens,
        engine.ttft_busy,
        engine.steps + steps,
        engine.preemptions,
        replica.transfer_bytes,
        replica.transfer_busy,
    )


@dataclass(slots=True)
class Track:
    """An engine's samples, newest last; `capacity`: KV tokens it holds."""

    name: str
    capacity: int
    samples: deque[Sample]

    def add(self, sample: Sample, keep_s: float) -> None:
        """Append a sample and forget those older than `keep_s`."""
        self.samples.append(sample)
        while self.samples[0].at < sample.at - keep_s:
            self.samples.popleft()

    def seen(self, now: float, lag_s: float) -> list[Sample]:
        """The samples that have arrived by `now`."""
        return [sample for sample in self.samples if sample.at + lag_s <= now]


GOLDEN = 0.6180339887498949
"""Engine number times this, modulo 1, spreads the scrapes' phases evenly however many engines there are."""


class Scrapes:
    """All scrapes of a fleet, and what they add up to. `unscraped`, `hidden`: engines that faults keep from view."""

    def __init__(self, fleet: Fleet, timers: Timers, actuation: Actuation, pool: str, begun: float) -> None:
        """Of the engines of this fleet, called after `pool`; time 0 is `begun` in Unix seconds."""
        self.unscraped: set[int] = set()
        self.hidden: set[int] = set()
        self._fleet = fleet
        self._timers = timers
        self._actuation = actuation
        self._pool = pool
        self._begun = begun
        self._tracks: dict[int, Track] = {}
        self._watched = 0

    def look(self, now: float) -> None:
        """Begin to scrape engines that are new."""
        if self._watched == self._fleet.born:
            return
        for replica in self._fleet.replicas():
            number = replica.engine.number
            if number >= self._watched:
                name = f"{self._pool}-{replica.role}-{number:06d}"
                self._tracks[number] = Track(name, replica.engine.profile.kv_capacity_tokens, deque())
                self._plan(number, now + GOLDEN * number % 1.0 * self._actuation.scrape_s)
        self._watched = self._fleet.born

    def role(self, key: RoleKey, at: float, beside: Beside) -> RoleObservation:
        """What a source says of a role at `at` (s)."""
        alive = {replica.engine.number for replica in self._fleet.replicas() if replica.role is key.role}
        tracks = [track for number, track in self._tracks.items() if number in alive and number not in self.hidden]
        gateway = None if key.role is Role.DECODE else self._fleet.held
        told = role_observation(key, tracks, at, self._actuation, (beside.ready, beside.existing), gateway)
        came = beside.arrivals or (None, None)
        return replace(
            told,
            starts=beside.starts,
            arrival_rate=came[0],
            arrival_tokens=came[1],
            sampled_at=None if told.sampled_at is None else told.sampled_at + self._begun,
        )

    def _plan(self, number: int, when: float) -> None:
        self._timers.at(when, lambda at: self._scrape(number, at))

    def _scrape(self, number: int, now: float) -> None:
        try:
            replica = self._fleet.get(number)
        except KeyError:
            # Gone: the source drops the target, and its series are stale at once.
            del self._tracks[number]
            return
        actuation = self._actuation
        if number not in self.unscraped:
            keep = actuation.lag_s + actuation.window_s + actuation.max_age_s
            self._tracks[number].add(taken(replica, now), keep)
        self._plan(number, now + actuation.scrape_s)


@dataclass(slots=True)
class _Sums:
    """What the engines of a role say together, while it is being added up."""

    reporting: int = 0
    rate_engines: int = 0
    stale: int = 0
    oldest: float | None = None
    running: float = 0.0
    waiting: float = 0.0
    kv_usage: float = 0.0
    kv_capacity: float = 0.0


def role_observation(
    key: RoleKey,
    tracks: Iterable[Track],
    now: float,
    actuation: Actuation,
    counts: tuple[int, int],
    gateway: int | None,
) -> RoleObservation:
    """What a source says of a role at `now` (simulated seconds; `sampled_at` too, the world makes it Unix time).

    Args:
        key: whose.
        tracks: the engines the source knows.
        now: seconds since the start.
        actuation: lag, window and age limit.
        counts: (ready, existing) replicas.
        gateway: requests held before the engines; None where this role is not behind the gateway.
    """
    sums = _Sums()
    rates = [0.0] * (len(Sample._fields) - _COUNTERS)
    engines = []
    for track in tracks:
        seen = track.seen(now, actuation.lag_s)
        if not seen or now - seen[-1].at > actuation.max_age_s:
            # Before its first scrape an engine is not known at all; afterwards silence is staleness.
            sums.stale += bool(seen)
            continue
        newest = seen[-1]
        _add(sums, newest, track)
        engines.append(_engine(track, seen, newest))
        first = next(sample for sample in seen if sample.at >= newest.at - actuation.window_s)
        if first.at < newest.at:
            sums.rate_engines += 1
            over = newest.at - first.at
            for index in range(len(rates)):
                rates[index] += (newest[_COUNTERS + index] - first[_COUNTERS + index]) / over
    return _observation(key, sums, rates, tuple(engines), counts, gateway)


def _add(sums: _Sums, newest: Sample, track: Track) -> None:
    sums.reporting += 1
    sums.oldest = newest.at if sums.oldest is None else min(sums.oldest, newest.at)
    sums.running += newest.running
    sums.waiting += newest.waiting
    sums.kv_usage += newest.kv_usage
    sums.kv_capacity += track.capacity


def _engine(track: Track, seen: list[Sample], newest: Sample) -> EngineObservation:
    recent = [sample for sample in seen if sample.at >= newest.at - PEAK_S]
    return EngineObservation(
        name=track.name,
        running=float(newest.running),
        waiting=float(newest.waiting),
        kv_usage=newest.kv_usage,
        kv_capacity=float(track.capacity),
        kv_peak=max(sample.kv_usage for sample in recent),
        waiting_peak=float(max(sample.waiting for sample in recent)),
        waiting_tokens=float(newest.waiting_tokens),
    )


def _observation(
    key: RoleKey,
    sums: _Sums,
    rates: list[float],
    engines: tuple[EngineObservation, ...],
    counts: tuple[int, int],
    gateway: int | None,
) -> RoleObservation:
    """None of the sums is told where nobody reported, no rate where no engine has two samples."""
    heard = sums.reporting > 0
    told = dict.fromkeys(Sample._fields[_COUNTERS:])
    if sums.rate_engines:
        told |= dict(zip(told, rates, strict=True))
    return RoleObservation(
        key=key,
        sampled_at=sums.oldest,
        reporting=sums.reporting,
        rate_engines=sums.rate_engines,
        ready=counts[0],
        replicas=counts[1],
        stale=sums.stale,
        running=sums.running if heard else None,
        waiting=sums.waiting if heard else None,
        queued_at_gateway=None if gateway is None else float(gateway),
        kv_usage=sums.kv_usage / sums.reporting if heard else None,
        kv_capacity=sums.kv_capacity / sums.reporting if heard else None,
        prompt_rate=told["prompt"],
        computed_rate=told["computed"],
        generation_rate=told["generation"],
        first_token_rate=told["first_tokens"],
        completion_rate=told["completions"],
        prefill_busy=told["prefill_busy"],
        itl_busy=told["itl_busy"],
        itl_tokens=told["itl_tokens"],
        ttft_busy=told["ttft_busy"],
        step_rate=told["steps"],
        preemption_rate=told["preemptions"],
        transfer_bytes=told["transfer_bytes"],
        transfer_busy=told["transfer_busy"],
        engines=engines,
    )
