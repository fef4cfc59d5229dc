"""NVIDIA Dynamo's planner 1.6: load-based steps, throughput-based sizes, or both (`dynamo`, `dynamo-…`).

    throughput  every `throughput_s`: demand = predicted requests / s; ceil(demand / engine_rps), at most 8 from now
    load        every tick, with nothing starting and every ready engine heard: one up, one down, or as it is
    both        the load's step, never below the throughput's size

Load in SLA mode, with c = N/(N-1) and s = `sensitivity`: up when *every* engine's TTFT (or ITL) is over its target;
down when on every engine (TTFT with the queue times c - its own) < (target - its own) * s, and ITL with the load times
c < target * s with KV to spare. In easy mode, per engine: up when any is over, down when all are under and N > 1:

                          throughput           latency
    queued / context      >= 1.0, < 0.1        >= 0.1, 0            prefill
    (KV + queued) / KV    > 1.0, < 0.6         > 0.4, < 0.1         decode; colocated adds queued prompt tokens

Source: ai-dynamo/dynamo components/planner (core, load and throughput scaling); sizes in `dynamo_sizing`, predictors in
`dynamo_predict`. It writes replicas itself. The planner's GPU budget is the roles' maximum here.
Roles: prefill by TTFT, decode by ITL, each by itself but held together while either starts; colocated by both (up when
one says up, down when both say down).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.dynamo_load import easy_step, loads_of, sla_step
from autoscaler.policies.dynamo_predict import Predictor, Trend
from autoscaler.policies.dynamo_sizing import Requests, engine_rps
from autoscaler.policies.pool_traffic import Traffic, TrafficState, traffic
from autoscaler.policies.role_steps import (
    DIRECT,
    Wish,
    bounded,
    count_of,
    decided,
    kept,
    pools_of,
    ready,
    reports,
    require_positive,
    silence,
    starting,
    up_to_whole,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import Observation, RoleKey, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules
    from autoscaler.velocity import Engine

MOST_CHANGE = 8
"""Replicas a throughput size may differ from what is there."""


class Mode(StrEnum):
    """What decides."""

    EASY_THROUGHPUT = "easy-throughput"
    EASY_LATENCY = "easy-latency"
    SLA_LOAD = "sla-load"
    SLA_THROUGHPUT = "sla-throughput"
    SLA_BOTH = "sla-both"


SIZES = {Mode.SLA_THROUGHPUT, Mode.SLA_BOTH}
"""Modes with a throughput size."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The throughput interval under way: its start and last look, and requests and tokens since."""

    since: float
    until: float
    requests: float = 0.0
    prompt: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class DynamoState:
    """Per pool: traffic, the interval under way, the three predictors, the last hit rate, and sizes by role."""

    traffic: TrafficState = field(default_factory=TrafficState)
    interval: Interval | None = None
    requests: Trend = field(default_factory=Trend)
    prompt: Trend = field(default_factory=Trend)
    output: Trend = field(default_factory=Trend)
    hit_rate: float = 0.0
    sizes: Mapping[Role, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dynamo:
    """The planner.

    Attributes:
        name: on the command line.
        mode: what decides.
        predictor: of requests, prompt and output tokens per interval.
        throughput_s: interval of the throughput side.
        sensitivity: margin under the targets for shrinking, 0..1.
        itl_share: of the ITL target that the planner is given.
        context_tokens: the model's context, for easy mode's prefill ratio.
        interval_s: of the load side. follow: it writes replicas itself.
    """

    name: str = "dynamo"
    mode: Mode = Mode.SLA_BOTH
    predictor: Predictor = Predictor.CONSTANT
    throughput_s: float = 180.0
    sensitivity: float = 0.8
    itl_share: float = 1.0
    context_tokens: float = 8192.0
    interval_s: float = 5.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_positive(self, "throughput_s", "sensitivity", "itl_share", "context_tokens", "interval_s")

    def start(self, scene: Scene) -> Mapping[tuple[str, str], DynamoState]:  # noqa: ARG002 - the protocol's
        """Nothing is predicted yet."""
        return {}

    def decide(
        self, seen: Observation, memory: Mapping[tuple[str, str], DynamoState], scene: Scene
    ) -> tuple[Decision, Mapping[tuple[str, str], DynamoState]]:
        """Plan every pool."""
        told_of, states = reports(seen), dict(memory)
        wishes: dict[RoleKey, Wish] = {}
        for pool in pools_of(scene):
            name = (pool[0].key.namespace, pool[0].key.pool)
            able = {r.key.role: told_of[r.key] for r in pool if silence(told_of.get(r.key), seen) is None}
            state = states.get(name, DynamoState())
            now, flow = traffic(able, state.traffic, seen.at)
            state = replace(state, traffic=flow)
            if self.mode in SIZES:
                state = self._watched(pool, able, state, now, seen.at)
            states[name] = state
            wishes |= self._pool(pool, able, state, now)
        made = []
        for rule in scene.roles:
            told, wish = told_of.get(rule.key), wishes.get(rule.key)
            blind = silence(told, seen)
            if wish is None or blind is not None:
                made.append(kept(rule, told, blind or "another role of its pool is silent"))
            else:
                made.append(decided(rule, told, wish))
        return Decision(seen.at, tuple(made), failure=seen.failure), states

    def _watched(
        self,
        pool: tuple[RoleRules, ...],
        able: Mapping[Role, RoleObservation],
        state: DynamoState,
        now: Traffic | None,
        at: float,
    ) -> DynamoState:
        """The interval one look longer; at its end the predictors are fed and sizes computed anew."""
        if state.interval is None:
            return replace(state, interval=Interval(at, at))
        if now is None:
            return replace(state, interval=replace(state.interval, until=at))
        span = at - state.interval.until
        count = now.requests * span
        interval = replace(
            state.interval,
            until=at,
            requests=state.interval.requests + count,
            prompt=state.interval.prompt + count * now.prompt,
            output=state.interval.output + count * now.output,
        )
        if at - interval.since < self.throughput_s:
            return replace(state, interval=interval)
        prompt, output = state.prompt, state.output
        if interval.requests > 0:
            prompt = prompt.after(interval.prompt / interval.requests)
            output = output.after(interval.output / interval.requests)
        state = replace(
            state,
            interval=Interval(at, at),
            requests=state.requests.after(interval.requests * self.throughput_s / (at - interval.since)),
            prompt=prompt,
            output=output,
            hit_rate=now.hit_rate,
        )
        return replace(state, sizes=self._sizes(pool, able, state))

    def _sizes(
        self, pool: tuple[RoleRules, ...], able: Mapping[Role, RoleObservation], state: DynamoState
    ) -> Mapping[Role, int]:
        """Replicas by role for the predicted interval; the old sizes while a role is silent or nothing is predicted."""
        requests, prompt, output = (t.next(self.predictor) for t in (state.requests, state.prompt, state.output))
        if requests is None or prompt is None or output is None or any(rule.key.role not in able for rule in pool):
            return state.sizes
        mean = Requests(prompt * (1.0 - state.hit_rate), prompt, output)
        sizes = {}
        for rule in pool:
            told = able[rule.key.role]
            target = replace(rule.target, itl_s=rule.target.itl_s * self.itl_share)
            each = engine_rps(rule.key.role, engine_seen(rule, told), mean, target) * max(told.engines_per_replica, 1)
            wanted, now = up_to_whole(requests / self.throughput_s / each), count_of(told)
            wanted = min(max(wanted, 1, rule.minimum), now + MOST_CHANGE)
            sizes[rule.key.role] = bounded(max(wanted, now - MOST_CHANGE), rule)
        return sizes

    def _pool(
        self,
        pool: tuple[RoleRules, ...],
        able: Mapping[Role, RoleObservation],
        state: DynamoState,
        now: Traffic | None,
    ) -> dict[RoleKey, Wish]:
        """Wishes of a pool's roles; none while one of them is silent."""
        if any(rule.key.role not in able for rule in pool):
            return {}
        moving = any(starting(told) > 0 for told in able.values())
        unheard = any(told.reporting != ready(told) * max(told.engines_per_replica, 1) for told in able.values())
        wishes = {}
        for rule in pool:
            told = able[rule.key.role]
            count, size = count_of(told), state.sizes.get(rule.key.role)
            if moving:
                wishes[rule.key] = Wish(count, "replicas are starting")
            elif self.mode is Mode.SLA_THROUGHPUT:
                words = "nothing predicted yet" if size is None else f"{size} for the predicted requests"
                wishes[rule.key] = Wish(size, words)
            elif unheard:
                wishes[rule.key] = Wish(max(count, size or 0), "not every ready engine has reported")
            else:
                step, words = self.load_step(rule, told, now)
                wanted = max(count + step, size or 0)
                wishes[rule.key] = Wish(wanted, words + (f"; at least {size} for the predicted" if size else ""))
        return wishes

    def load_step(self, rule: RoleRules, told: RoleObservation, now: Traffic | None) -> tuple[int, str]:
        """+1, -1 or 0 by the engines' present load, and why."""
        role, count = rule.key.role, ready(told)
        mean = Requests(now.computed, now.prompt, now.output) if now is not None else Requests(0.0, 0.0, 0.0)
        loads, engine = loads_of(told, role, mean), engine_seen(rule, told)
        if not loads:
            return 0, "the engines' load is not reported"
        if self.mode in {Mode.EASY_LATENCY, Mode.EASY_THROUGHPUT}:
            latency = self.mode is Mode.EASY_LATENCY
            return easy_step(role, loads, engine.kv_capacity, self.context_tokens, count, latency=latency)
        if now is None:
            return 0, "no request has completed yet"
        target = replace(rule.target, itl_s=rule.target.itl_s * self.itl_share)
        return sla_step(role, loads, engine, mean, target, self.sensitivity, count)


def engine_seen(rule: RoleRules, told: RoleObservation) -> Engine:
    """The profile's engine with the KV capacity that is reported."""
    capacity = told.kv_capacity
    known = capacity is not None and math.isfinite(capacity) and capacity > 0
    return replace(rule.engine, kv_capacity=capacity) if known and capacity is not None else rule.engine
