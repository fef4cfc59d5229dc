"""What is remembered from tick to tick: a frozen value, saved and restored, so that a restart continues.

Per role: the load's history, what has been learned of its velocity, the requests' mean shape, recent gauge samples,
what was asked for and when, and the plans of late. Gauges are instants and rates are windows: both meet here, in `saw`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from autoscaler.learning import Learned, learn
from autoscaler.model import Role, RoleKey
from autoscaler.velocity import Mix
from forecasting.series import Series

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import Observation, RoleObservation
    from autoscaler.rules import RoleRules, Rules

VERSION = 1
"""Of the saved form; another version is not read (the loop starts in caution instead)."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """One tick's gauges of a role, summed over its engines: requests running, waiting (gateway included), KV tokens."""

    at: float
    running: float
    waiting: float
    kv_tokens: float | None


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """What is remembered of one role.

    Attributes:
        prompt_load, output_load: arriving uncached prompt tokens/s and wanted output tokens/s over time.
        learned: of the step model.
        gauges: within the last window.
        mix: mean request shape; None before the first requests.
        kv_capacity: KV tokens of one engine, as last reported.
        engines_per_replica: as last seen.
        desired, decided_at: the last wish and when. raised_at: when it last grew.
        plans: (when, planned) within the stabilisation window.
        judged_since, judged_at: first and last tick of the present unbroken run of ticks at which it could be judged.
    """

    prompt_load: Series = field(default_factory=Series.empty)
    output_load: Series = field(default_factory=Series.empty)
    learned: Learned = field(default_factory=Learned)
    gauges: tuple[Gauges, ...] = ()
    mix: Mix | None = None
    kv_capacity: float | None = None
    engines_per_replica: int = 1
    desired: int | None = None
    decided_at: float | None = None
    raised_at: float | None = None
    plans: tuple[tuple[float, int], ...] = ()
    judged_since: float | None = None
    judged_at: float | None = None

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


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered. `at` is the last tick's time; None before the first."""

    roles: Mapping[RoleKey, RoleMemory] = field(default_factory=dict)
    at: float | None = None

    def of(self, key: RoleKey) -> RoleMemory:
        """A role's memory; an empty one for a role never seen."""
        return self.roles.get(key) or RoleMemory()


def saw(memory: Memory, seen: Observation, rules: Rules) -> Memory:
    """Memory after looking: histories, gauges, shapes and velocities brought up to date.

    A role that reported nothing keeps everything as it was: a gap in its history, no zero.
    """
    fresh = {role.key: role for role in seen.roles}
    updated = dict(memory.roles)
    for rule in rules.roles:
        told = fresh.get(rule.key)
        if told is not None and told.reporting > 0:
            updated[rule.key] = _saw_role(memory.of(rule.key), told, rule, rules, seen.at)
    return Memory(updated, seen.at)


def _saw_role(known: RoleMemory, told: RoleObservation, rule: RoleRules, rules: Rules, at: float) -> RoleMemory:
    known = _with_gauges(known, told, rules.window_s, at)
    known = replace(known, mix=_mix(known, told, rules, at))
    if told.rate_engines > 0:
        known = replace(
            known,
            learned=learn(known.learned, rule.prior, told, at=at, resident=known.resident, window_s=rules.window_s),
        )
        known = _with_load(known, told, rules, at)
    return known


def _with_gauges(known: RoleMemory, told: RoleObservation, window_s: float, at: float) -> RoleMemory:
    capacity = told.kv_capacity or known.kv_capacity
    tokens = None
    if told.kv_usage is not None and capacity is not None:
        tokens = told.kv_usage * capacity * told.reporting
    recent = tuple(g for g in known.gauges if at - window_s <= g.at < at)
    if told.running is not None or told.waiting is not None:
        waiting = (told.waiting or 0.0) + (told.queued_at_gateway or 0.0)
        recent = (*recent, Gauges(at, told.running or 0.0, waiting, tokens))
    return replace(known, gauges=recent, kv_capacity=capacity, engines_per_replica=told.engines_per_replica)


def _mix(known: RoleMemory, told: RoleObservation, rules: Rules, at: float) -> Mix | None:
    """The requests' mean shape, following the window's with time constant `mix_memory_s`."""
    old = known.mix
    since = at - known.judged_at if known.judged_at is not None else rules.mix_memory_s
    weight = 1.0 if old is None else 1.0 - math.exp(-max(since, 0.0) / rules.mix_memory_s)

    def follow(before: float | None, amount: float | None, count: float | None) -> float | None:
        if not amount or not count or count * rules.window_s < 1.0:
            return before
        now = amount / count
        return now if before is None else before + weight * (now - before)

    prompt = follow(old.prompt if old else None, told.computed_rate, told.first_token_rate)
    output = follow(old.output if old else None, told.generation_rate, told.completion_rate)
    resident = known.resident
    if resident is None:
        resident = old.resident if old else (prompt or 0.0) + (output or 0.0) / 2 or None
    elif old is not None:
        resident = old.resident + weight * (resident - old.resident)
    if resident is None:
        return None
    return Mix(prompt or 0.0, output or 0.0, resident)


def _with_load(known: RoleMemory, told: RoleObservation, rules: Rules, at: float) -> RoleMemory:
    """Arrivals = what was served + growth of what waits (signed: a draining queue is no new load)."""
    mix = known.mix or Mix(0.0, 0.0, 0.0)
    prompt, output = _binned(known.prompt_load, rules), _binned(known.output_load, rules)
    if told.computed_rate is not None and told.key.role is not Role.DECODE:
        prompt = prompt.append(at, max(0.0, told.computed_rate + known.queue_slope * mix.prompt))
    if told.generation_rate is not None and told.key.role is not Role.PREFILL:
        output = output.append(at, max(0.0, told.generation_rate + known.service_slope * mix.output))
    return replace(known, prompt_load=prompt, output_load=output)


def _binned(series: Series, rules: Rules) -> Series:
    """The series on the grid the rules ask for; an empty or differently binned one is laid out anew."""
    keep = max(2, round(rules.history_s / rules.bin_s))
    if series.bin_s == rules.bin_s and series.keep == keep:
        return series
    return Series.of(zip(series.times.tolist(), series.values.tolist(), strict=True), rules.bin_s, keep)


def load_now(series: Series) -> float | None:
    """The newest sample of a load; None for a series nobody reported to."""
    return series.newest[1] if series.newest is not None else None


def to_saved(memory: Memory) -> dict[str, Any]:
    """The memory as JSON's own types. Loads are kept to seven digits, which is more than any counter is worth."""
    roles = {}
    for key, known in memory.roles.items():
        plain = asdict(replace(known, prompt_load=Series.empty(), output_load=Series.empty()))
        plain["prompt_load"], plain["output_load"] = _plain_series(known.prompt_load), _plain_series(known.output_load)
        roles[str(key)] = plain
    return {"version": VERSION, "at": memory.at, "roles": roles}


def from_saved(plain: Any) -> Memory:
    """Inverse of `to_saved`. Raises ValueError, KeyError or TypeError on anything else."""
    if plain["version"] != VERSION:
        raise ValueError(f"version {plain['version']!r}; this program reads version {VERSION}")
    roles = {RoleKey.parse(key): _role(dict(saved)) for key, saved in plain["roles"].items()}
    return Memory(roles, None if plain["at"] is None else float(plain["at"]))


def _role(saved: dict[str, Any]) -> RoleMemory:
    learned = dict(saved.pop("learned"))
    learned |= {"precision": _floats(learned["precision"], 16), "moment": _floats(learned["moment"], 4)}
    mix = saved.pop("mix")
    return RoleMemory(
        prompt_load=_series(saved.pop("prompt_load")),
        output_load=_series(saved.pop("output_load")),
        learned=Learned(**learned),
        gauges=tuple(Gauges(**gauges) for gauges in saved.pop("gauges")),
        mix=None if mix is None else Mix(**mix),
        plans=tuple((float(at), int(count)) for at, count in saved.pop("plans")),
        **saved,
    )


def _floats(values: Any, count: int) -> tuple[float, ...]:
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} belong")
    return tuple(float(value) for value in values)


def _plain_series(series: Series) -> dict[str, Any]:
    return {
        "bin_s": series.bin_s,
        "keep": series.keep,
        "times": series.times.tolist(),
        "values": [float(f"{value:.7g}") for value in series.values.tolist()],
        "newest": series.newest,
    }


def _series(plain: Any) -> Series:
    """Bins come back with a count of one sample each; the newest sample keeps its own time."""
    series = Series.of(zip(plain["times"], plain["values"], strict=True), plain["bin_s"], plain["keep"])
    newest = plain["newest"]
    return series if newest is None else replace(series, newest=(float(newest[0]), float(newest[1])))
