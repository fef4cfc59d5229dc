"""What is remembered from tick to tick: a frozen value, saved and restored, so that a restart continues.

Per role: the load's history, what has been learned of its velocity, the requests' mean shape, recent gauge samples,
what was asked for and when, and the plans of late. Gauges are instants and rates are windows: both meet here, in `saw`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autoscaler.foresight import Kept, judged
from autoscaler.foresight_days import followed, nobody
from autoscaler.leadtimes import LeadTimes, learned
from autoscaler.learning import Learned, Levels, learn
from autoscaler.model import Role, RoleKey
from autoscaler.skew import Skew, spread
from autoscaler.velocity import Mix
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from autoscaler.model import Observation, RoleObservation
    from autoscaler.rules import RoleRules, Rules
    from forecasting.staggered import Crowd

MOST_SIGNAL = 1e15
"""A signal above this is garbage, whatever its unit; so is a negative one, an infinite one, and not-a-number."""
LEAST_SIGNAL = 1e-12
"""A signal below this is 0: rounding left over from differences of counters."""
SIGNALS = (
    *("running", "waiting", "queued_at_gateway", "kv_usage", "kv_capacity"),
    *("prompt_rate", "computed_rate", "generation_rate", "first_token_rate", "completion_rate"),
    *("prefill_busy", "itl_busy", "itl_tokens", "ttft_busy", "step_rate"),
)
"""What is reckoned with of a role's observation."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """One tick's gauges of a role, summed over its engines: requests running, waiting (gateway included), KV tokens."""

    at: float
    running: float
    waiting: float
    kv_tokens: float | None


@dataclass(frozen=True, slots=True)
class Shape:
    """The requests' mean shape as far as known, tokens: uncached prompt, output, resident; None before it was seen."""

    prompt: float | None = None
    output: float | None = None
    resident: float | None = None

    def filled(self, usual: Mix) -> Mix:
        """With the usual figures where none were seen."""
        return Mix(
            usual.prompt if self.prompt is None else self.prompt,
            usual.output if self.output is None else self.output,
            usual.resident if self.resident is None else self.resident,
        )


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """What is remembered of one role.

    Attributes:
        prompt_load, output_load: arriving uncached prompt tokens/s and wanted output tokens/s over time.
        learned: of the step model. skew: of what the number of replicas costs each of them.
        gauges: within the last window.
        shape: mean request shape.
        kv_capacity: KV tokens of one engine, as last reported.
        engines_per_replica: as last seen.
        desired, decided_at: the last wish and when. raised_at: when it last grew.
        plans: (when, planned) within the stabilisation window.
        judged_since, judged_at: first and last tick of the present unbroken run of ticks at which it could be judged.
        leads: what its starts have taught. under_way: replicas starting at once, at least 1.
        counts: (when, ready replicas) within the window, this tick's included; only those that were told.
        kept: how far the bounds planned for were kept, by tier.
    """

    prompt_load: Series = field(default_factory=Series.empty)
    output_load: Series = field(default_factory=Series.empty)
    learned: Learned = field(default_factory=Learned)
    skew: Skew = field(default_factory=Skew)
    gauges: tuple[Gauges, ...] = ()
    shape: Shape = Shape()
    kv_capacity: float | None = None
    engines_per_replica: int = 1
    desired: int | None = None
    decided_at: float | None = None
    raised_at: float | None = None
    plans: tuple[tuple[float, int], ...] = ()
    judged_since: float | None = None
    judged_at: float | None = None
    leads: LeadTimes = field(default_factory=LeadTimes.none)
    under_way: int = 1
    counts: tuple[tuple[float, int], ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def queue_slope(self) -> float:
        """Growth of waiting requests over the window, requests/s; 0 with fewer than two samples."""
        return self._slope(lambda g: g.waiting)

    @property
    def service_slope(self) -> float:
        """Growth of requests running and waiting over the window, requests/s."""
        return self._slope(lambda g: g.waiting + g.running)

    def _slope(self, value: Any) -> float:
        if len(self.gauges) < 2:  # noqa: PLR2004 - a slope needs two points
            return 0.0
        first, last = self.gauges[0], self.gauges[-1]
        return float((value(last) - value(first)) / (last.at - first.at)) if last.at > first.at else 0.0

    @property
    def resident(self) -> float | None:
        """Mean KV tokens per running request over the window; None when KV is not reported or nothing ran."""
        running = sum(g.running for g in self.gauges if g.kv_tokens is not None)
        tokens = sum(g.kv_tokens for g in self.gauges if g.kv_tokens is not None)
        return tokens / running if running > 0 and tokens > 0 else None

    @property
    def levels(self) -> Levels:
        """What the gauges said over the window."""
        held = [g.kv_tokens for g in self.gauges if g.kv_tokens is not None]
        return Levels(
            sum(held) / len(held) if sum(held) > 0 else None,
            min((g.running + g.waiting for g in self.gauges), default=0.0),
            min((g.waiting for g in self.gauges), default=0.0),
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered. `at` is the last tick's time; None before the first. `days`: the loads over days."""

    roles: Mapping[RoleKey, RoleMemory] = field(default_factory=dict)
    at: float | None = None
    days: Crowd = field(default_factory=nobody)

    def of(self, key: RoleKey) -> RoleMemory:
        """A role's memory; an empty one for a role never seen."""
        return self.roles.get(key) or RoleMemory()


def saw(memory: Memory, seen: Observation, rules: Rules) -> Memory:
    """Memory after looking: histories, gauges, shapes and velocities brought up to date.

    A role that reported nothing keeps everything as it was: a gap in its history, no zero. What waits at the gateway
    in front of a role without engines is noted all the same, or nothing would ever wake it.
    """
    fresh = {role.key: role for role in seen.roles}
    updated = dict(memory.roles)
    for rule in rules.roles:
        told = fresh.get(rule.key)
        if told is None:
            continue
        told = _credible(told)
        updated[rule.key] = _saw_starts(memory.of(rule.key), told, rule, rules, seen.at)
        if told.reporting > 0:
            updated[rule.key] = _saw_role(updated[rule.key], told, rule, rules, seen.at)
        elif told.queued_at_gateway is not None:
            queue = Gauges(seen.at, 0.0, told.queued_at_gateway, None)
            updated[rule.key] = replace(updated[rule.key], gauges=(queue,))
    return Memory(updated, seen.at, followed(memory.days, updated, rules, seen.at))


def _saw_starts(known: RoleMemory, told: RoleObservation, rule: RoleRules, rules: Rules, at: float) -> RoleMemory:
    """With what the replicas that came up have taught of lead times, how many are starting now, how many are ready."""
    if told.ready is not None:
        recent = tuple(each for each in known.counts if at - rules.window_s <= each[0] < at)
        known = replace(known, counts=(*recent, (at, told.ready)))
    under_way = max(1, (told.replicas or 0) - (told.ready or 0))
    if not told.starts and under_way == known.under_way:
        return known
    rungs = [rung for rung in (rules.wake(rule.accelerator), *rules.rungs(rule)) if rung is not None]
    return replace(known, leads=learned(known.leads, told.starts, at, rungs), under_way=under_way)


def _credible(told: RoleObservation) -> RoleObservation:
    """What was told without what no engine can mean: that counts as not reported."""
    wrong: dict[str, Any] = {}
    for name in SIGNALS:
        value = getattr(told, name)
        if value is None or value == 0.0 or LEAST_SIGNAL <= value <= MOST_SIGNAL:
            continue
        wrong[name] = 0.0 if 0.0 < value < LEAST_SIGNAL else None
    return replace(told, **wrong) if wrong else told


def _saw_role(known: RoleMemory, told: RoleObservation, rule: RoleRules, rules: Rules, at: float) -> RoleMemory:
    known = _with_gauges(known, told, rules.window_s, at)
    shape = _shape(known, told, rules, at)
    if told.rate_engines <= 0:
        return replace(known, shape=shape)
    levels = known.levels
    skew = spread(known.skew, known.learned, rule.prior, told, at=at, levels=levels, window_s=rules.window_s)
    velocities = learn(known.learned, rule.prior, told, at=at, levels=levels, window_s=rules.window_s)
    prompt, output = _loads(known, shape, told, rules, at)
    seen = prompt if told.key.role is Role.PREFILL else output
    kept = known.kept
    if kept and (now := load_now(seen)) is not None and seen.newest is not None and seen.newest[0] == at:
        kept = judged(kept, now, at, rules.bin_s)
    return replace(known, shape=shape, skew=skew, learned=velocities, prompt_load=prompt, output_load=output, kept=kept)


def _with_gauges(known: RoleMemory, told: RoleObservation, window_s: float, at: float) -> RoleMemory:
    capacity = told.kv_capacity or known.kv_capacity
    tokens = None
    if told.kv_usage is not None and capacity is not None:
        tokens = told.kv_usage * capacity * told.reporting
    recent = tuple(g for g in known.gauges if at - window_s <= g.at < at)
    if told.running is not None or told.waiting is not None:
        waiting = (told.waiting or 0.0) + (told.queued_at_gateway or 0.0)
        recent = (*recent, Gauges(at, told.running or 0.0, waiting, tokens))
    return replace(known, gauges=recent, kv_capacity=capacity, engines_per_replica=max(1, told.engines_per_replica))


def _shape(known: RoleMemory, told: RoleObservation, rules: Rules, at: float) -> Shape:
    """The requests' mean shape, following the window's with time constant `mix_memory_s`."""
    since = at - known.judged_at if known.judged_at is not None else rules.mix_memory_s
    weight = 1.0 - math.exp(-max(since, 0.0) / rules.mix_memory_s)

    def follow(before: float | None, now: float | None) -> float | None:
        if before is None or now is None:
            return now if before is None else before
        return before + weight * (now - before)

    def mean(amount: float | None, count: float | None) -> float | None:
        return amount / count if amount and count and count * rules.window_s >= 1.0 else None

    old = known.shape
    prompt = follow(old.prompt, mean(told.computed_rate, told.first_token_rate))
    output = follow(old.output, mean(told.generation_rate, told.completion_rate))
    resident = follow(old.resident, known.resident)
    if resident is None and prompt is not None:
        resident = prompt + (output or 0.0) / 2
    return Shape(prompt, output, resident)


def _loads(known: RoleMemory, shape: Shape, told: RoleObservation, rules: Rules, at: float) -> tuple[Series, Series]:
    """Arrivals = what was served + growth of what waits (signed: a draining queue is no new load)."""
    prompt, output = _binned(known.prompt_load, rules), _binned(known.output_load, rules)
    if told.computed_rate is not None and told.key.role is not Role.DECODE:
        prompt = prompt.append(at, max(0.0, told.computed_rate + known.queue_slope * (shape.prompt or 0.0)))
    if told.generation_rate is not None and told.key.role is not Role.PREFILL:
        output = output.append(at, max(0.0, told.generation_rate + known.service_slope * (shape.output or 0.0)))
    return prompt, output


def _binned(series: Series, rules: Rules) -> Series:
    """The series on the grid the rules ask for; an empty or differently binned one is laid out anew."""
    keep = max(2, round(rules.history_s / rules.bin_s))
    if series.bin_s == rules.bin_s and series.keep == keep:
        return series
    return Series.of(_middles(series.times.tolist(), series.bin_s, series.values.tolist()), rules.bin_s, keep)


def _middles(times: list[float], bin_s: float, values: list[float]) -> Iterable[tuple[float, float]]:
    """Samples in the middle of their bins: a bin's start divided by its width may round into the bin before."""
    return ((time + bin_s / 2, value) for time, value in zip(times, values, strict=True))


def load_now(series: Series) -> float | None:
    """The newest sample of a load; None for a series nobody reported to."""
    return series.newest[1] if series.newest is not None else None
