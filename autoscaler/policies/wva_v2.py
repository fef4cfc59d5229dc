"""llm-d Workload Variant Autoscaler, saturation V2 with the cost-aware optimizer (`wva-v2-shipped`, `wva-v2`).

    any role lacks (RC > 0)   every such role grows by RC / PRC, rounded up; prefill and decode in step
    else, role with spare SC  shrinks by floor(SC / PRC), keeping at least one

RC, SC and PRC by `wva_capacity`. Prefill and decode grow in rounds: n = ceil(RC/PRC), u = n*PRC/RC (1 where nothing
is lacking), D = min u, each role takes max(floor(D*RC/PRC), min(1, n)). Source: llm-d-incubation/
workload-variant-autoscaler internal/engines/pipeline (cost-aware optimizer). An HPA follows its gauge with
`AverageValue: 1`.

Flavours: as shipped the prefix hit rate is 0 and B = 8192, S = 256 are assumed; fixed (`wva-v2`) the hit rate is the
one seen and the engine's own arguments are read. (The shipped zero cost of a variant without replicas shows only with
several variants of one role; a pool here has one.) `charge_output=false` is the February flavour.
Roles: each by itself for capacity; a pool's roles together for the decision, as in the original.

On engines bound by compute it saws: idle, capacity is what fits in KV, so it removes replicas until queues form; then
the KV held at that moment (little) is remembered as capacity and it adds several times too many. Both halves are the
original's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.role_steps import (
    WISHED,
    Wish,
    bounded,
    count_of,
    decided,
    engines_of,
    kept,
    pools_of,
    reports,
    require_positive,
    silence,
    starting,
)
from autoscaler.policies.wva_capacity import Capacity, Limits, Seen, Shape, capacity, with_queue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import Observation, RoleKey, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules

SHAPE_S = 300.0
"""Request shapes are means over this long."""
MOST_HIT_RATE = 0.95


@dataclass(frozen=True, slots=True)
class Counted:
    """Rates of one tick: prompt and computed tokens/s, first tokens/s, output tokens/s, completions/s."""

    at: float
    prompt: float
    computed: float
    firsts: float
    output: float
    completions: float


@dataclass(frozen=True, slots=True)
class V2State:
    """Per role: rates of late, and capacities seen at saturation."""

    counted: tuple[Counted, ...] = ()
    seen: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WvaV2:
    """WVA's saturation analyzer V2.

    Attributes:
        name: on the command line.
        kv_threshold, queue_threshold: saturation, KV usage 0..1 and waiting requests.
        up, down: utilisations between which nothing changes.
        charge_output: whether a waiting request is charged its output too.
        true_hits: whether prefix hits are taken off the scheduler's queue. true_arguments: whether the engine's own
            batch limits are known instead of 8192 and 256.
        interval_s: between looks. follow: the HPA behind the gauge.
    """

    name: str = "wva-v2"
    kv_threshold: float = 0.8
    queue_threshold: float = 5.0
    up: float = 0.85
    down: float = 0.7
    charge_output: bool = True
    true_hits: bool = True
    true_arguments: bool = True
    interval_s: float = 15.0
    follow: Follow = WISHED

    def __post_init__(self) -> None:
        require_positive(self, "kv_threshold", "queue_threshold", "up", "down", "interval_s")
        if self.down > self.up:
            raise ValueError(f"down {self.down} is above up {self.up}")

    def start(self, scene: Scene) -> Mapping[RoleKey, V2State]:  # noqa: ARG002 - the protocol's
        """Nothing is known of capacity yet."""
        return {}

    def decide(
        self, seen: Observation, memory: Mapping[RoleKey, V2State], scene: Scene
    ) -> tuple[Decision, Mapping[RoleKey, V2State]]:
        """Capacity of every role, then each pool's roles together."""
        told_of, states = reports(seen), dict(memory)
        wishes: dict[RoleKey, Wish] = {}
        for pool in pools_of(scene):
            queued = max((told_of[r.key].queued_at_gateway or 0.0 for r in pool if r.key in told_of), default=0.0)
            for rule in pool:
                if rule.key in told_of:
                    states[rule.key] = _counted(states.get(rule.key, V2State()), told_of[rule.key], seen.at)
            shape, hits = _shape({rule.key.role: states[rule.key] for rule in pool if rule.key in states})
            able: dict[RoleKey, tuple[RoleRules, RoleObservation, Capacity]] = {}
            for rule in pool:
                told = told_of.get(rule.key)
                if told is None or silence(told, seen) is not None:
                    continue
                found, states[rule.key] = self._role(rule, told, states[rule.key], shape, (queued, hits), seen.at)
                if found is not None:
                    able[rule.key] = (rule, told, found)
            wishes |= self._pool(able)
        made = []
        for rule in scene.roles:
            told = told_of.get(rule.key)
            blind = silence(told, seen)
            wish = wishes.get(rule.key, Wish(None, "KV capacity is not reported"))
            made.append(decided(rule, told, wish) if blind is None else kept(rule, told, blind))
        return Decision(seen.at, tuple(made), failure=seen.failure), states

    def limits(self, rule: RoleRules | None = None) -> Limits:
        """Thresholds, with the engine's own arguments where they are read."""
        limits = Limits(self.kv_threshold, self.queue_threshold, self.up, self.down, charge_output=self.charge_output)
        if rule is None or not self.true_arguments:
            return limits
        return replace(limits, batched_tokens=rule.engine.batched_tokens, most_running=rule.engine.max_running)

    def _role(
        self,
        rule: RoleRules,
        told: RoleObservation,
        state: V2State,
        shape: Shape,
        scheduler: tuple[float, float],
        at: float,
    ) -> tuple[Capacity | None, V2State]:
        prefill = rule.key.role is Role.PREFILL
        pending = starting(told) * max(told.engines_per_replica, 1)
        found, seen = capacity(engines_of(told), pending, shape, state.seen, self.limits(rule), at, prefill=prefill)
        queued, hits = scheduler
        if found is not None and queued > 0:
            found = with_queue(found, queued, shape, hits if self.true_hits else 0.0, prefill=prefill)
        return found, replace(state, seen=seen)

    def _pool(self, able: Mapping[RoleKey, tuple[RoleRules, RoleObservation, Capacity]]) -> dict[RoleKey, Wish]:
        limits = self.limits()
        lacking = {key: found.lacking(limits) for key, (_, _, found) in able.items()}
        rooms, each, now = {}, {}, {}
        for key, (rule, told, found) in able.items():
            now[key] = count_of(told)
            rooms[key] = max(0, rule.maximum - now[key])
            each[key] = found.each * max(told.engines_per_replica, 1)
        change = dict.fromkeys(able, 0)
        if any(tokens > 0 for tokens in lacking.values()):
            change = grown(lacking, each, rooms)
        else:
            for key, (rule, _, found) in able.items():
                removable = max(0, now[key] - max(rule.minimum, 1))
                change[key] = -min(math.floor(found.spare(limits) / each[key]), removable)
        return {
            key: Wish(
                bounded(now[key] + change[key], rule) if change[key] else now[key],
                f"{found.demand:,.0f} KV tokens wanted, {found.each:,.0f} an engine, lacking {lacking[key]:,.0f}, "
                f"spare {found.spare(limits):,.0f}",
            )
            for key, (rule, _, found) in able.items()
        }


def grown(
    lacking: Mapping[RoleKey, float], each: Mapping[RoleKey, float], rooms: Mapping[RoleKey, int]
) -> dict[RoleKey, int]:
    """Replicas to add per role: what one role lacks at once, several roles in step, round by round."""
    added = dict.fromkeys(lacking, 0)
    rest = dict(lacking)
    while any(tokens > 0 for tokens in rest.values()):
        wanted = {key: min(math.ceil(rest[key] / each[key]), rooms[key] - added[key]) for key in rest}
        if any(rest[key] > 0 and wanted[key] <= 0 for key in rest):
            break
        step = min(wanted[key] * each[key] / rest[key] if rest[key] > 0 else 1.0 for key in rest)
        for key, lacks in rest.items():
            taken = wanted[key]
            if len(rest) > 1:
                taken = min(wanted[key], max(math.floor(step * lacks / each[key]), min(1, wanted[key])))
            added[key] += taken
            rest[key] = max(0.0, lacks - taken * each[key])
    return added


def _counted(state: V2State, told: RoleObservation, at: float) -> V2State:
    """The state with this tick's rates."""
    if told.reporting < 1:
        return state
    now = Counted(
        at,
        told.prompt_rate or 0.0,
        told.computed_rate if told.computed_rate is not None else told.prompt_rate or 0.0,
        told.first_token_rate or 0.0,
        told.generation_rate or 0.0,
        told.completion_rate or 0.0,
    )
    return replace(state, counted=(*(one for one in state.counted if at - SHAPE_S < one.at < at), now))


def _shape(states: Mapping[Role, V2State]) -> tuple[Shape, float]:
    """Mean request of a pool over the window, and its prefix hit rate; zeros where nothing completed.

    Prompts are told by the roles that prefill, outputs by those that decode.
    """
    asked = [one for role, state in states.items() if role is not Role.DECODE for one in state.counted]
    answered = [one for role, state in states.items() if role is not Role.PREFILL for one in state.counted]

    def each(tokens: float, requests: float) -> float:
        return tokens / requests if requests > 0 else 0.0

    entering = [one for one in asked if one.firsts > 0 and one.prompt > 0]
    leaving = [one for one in answered if one.completions > 0 and one.output > 0]
    prompt = sum(one.prompt for one in entering)
    hits = 1.0 - each(sum(one.computed for one in entering), prompt) if prompt > 0 else 0.0
    shape = Shape(
        each(prompt, sum(one.firsts for one in entering)),
        each(sum(one.output for one in leaving), sum(one.completions for one in leaving)),
    )
    return shape, min(max(hits, 0.0), MOST_HIT_RATE)
