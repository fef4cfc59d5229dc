"""TokenScale: replicas from token velocities (`tokenscale`).

    prefill    ceil(lambda_in / min(V_P, V_N))                          lambda_in input tokens/s arriving
    decode     ceil(sum over buckets of lambda_b / V_D,b) + convertible decoders
    V_D = tokens (input + output) of completing requests / TPOT, the rate at which a decoder releases KV

Source: arXiv 2512.03416, sections III-B and IV (formulas by notes on the paper; no code is public). Velocities come
from an offline profiler there and from the role's hardware profile here; V_D at the latency target's batch. The authors
have nine buckets of (input, output) with a predicted output length. Engines tell sums, not single requests, so all
arrivals stand in one bucket, that of the mean request; `by_bucket` takes the velocity at that bucket's far corner, as a
profile made once per bucket would, instead of at the mean itself. Prompt tokens count with prefix hits (the paper does
not know caches); `uncached` counts only those computed. Scaling down is immediate, as in the paper. No forecast.

Convertible decoders are a fixed number of decode replicas beyond the need (the paper sizes it offline from the trace's
burst ratio). Each decision takes them by the tier `convert`: the router gives them what prefill cannot do at once.
Roles: the authors have prefill and decode only; colocated replicas get the sum of both shares, rounded up once, and
the convertible ones too, since each of them takes prompts anyway.

It flaps here, and that is its own: need is rounded up at every look from arrivals of the last minute, without band,
window or head-room, so a load near a whole number of replicas turns at every look (84 turns in the Azure conversation
hour ten times over, colocated; 163 in two roles). The published 80 to 96 % are with starts of 3 to 10 s; a replica that
takes a minute to come back makes each of those turns a shortage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role, Take, Tier
from autoscaler.policies.pool_traffic import Traffic, TrafficState, traffic
from autoscaler.policies.role_steps import (
    DIRECT,
    Wish,
    decided,
    kept,
    pools_of,
    reports,
    require_not_negative,
    require_positive,
    silence,
    up_to_whole,
)
from autoscaler.velocity import Mix, colocated_share, decode_velocity, prefill_velocity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoscaler.model import Observation, RoleDecision, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules

INPUT_EDGES = (256.0, 1024.0, 8192.0)
OUTPUT_EDGES = (100.0, 350.0, 1000.0)
"""Upper edges of the paper's classes S, M, L. Its L output class is open; 1,000 stands for it."""


@dataclass(frozen=True, slots=True)
class TokenScale:
    """TokenScale.

    Attributes:
        name: on the command line.
        convertible: decode replicas kept beyond the need.
        by_bucket: velocities at the far corner of the mean request's bucket instead of at the mean.
        uncached: count computed prompt tokens only (the "AdaptiveScale" variant).
        interval_s: between looks. follow: it writes replicas itself.
    """

    name: str = "tokenscale"
    convertible: int = 1
    by_bucket: bool = False
    uncached: bool = False
    interval_s: float = 5.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_not_negative(self, "convertible")
        require_positive(self, "interval_s")

    def start(self, scene: Scene) -> Mapping[tuple[str, str], TrafficState]:  # noqa: ARG002 - the protocol's
        """Per pool its traffic so far."""
        return {}

    def decide(
        self, seen: Observation, memory: Mapping[tuple[str, str], TrafficState], scene: Scene
    ) -> tuple[Decision, Mapping[tuple[str, str], TrafficState]]:
        """Scale every role by its pool's arrivals."""
        told_of, states, wishes = reports(seen), dict(memory), {}
        for pool in pools_of(scene):
            name = (pool[0].key.namespace, pool[0].key.pool)
            able = {r.key.role: told_of[r.key] for r in pool if silence(told_of.get(r.key), seen) is None}
            now, states[name] = traffic(able, states.get(name, TrafficState()), seen.at)
            for rule in pool:
                told = able.get(rule.key.role)
                if told is not None:
                    wishes[rule.key] = self._wish(rule, told, now)
        made = [
            self._converting(decided(rule, told_of.get(rule.key), wishes[rule.key]))
            if rule.key in wishes
            else kept(rule, told_of.get(rule.key), silence(told_of.get(rule.key), seen) or "")
            for rule in scene.roles
        ]
        return Decision(seen.at, tuple(made), failure=seen.failure), states

    def _converting(self, made: RoleDecision) -> RoleDecision:
        if made.key.role is not Role.DECODE or not self.convertible:
            return made
        return replace(made, takes=(Take(Tier.CONVERT, self.convertible, 0.0),))

    def _wish(self, rule: RoleRules, told: RoleObservation, now: Traffic | None) -> Wish:
        if now is None:
            return Wish(None, "no request has completed yet: its tokens are not known")
        need = self.replicas(rule, now, max(told.engines_per_replica, 1))
        count = up_to_whole(need)
        words = f"{now.requests:.3g} requests/s of {now.prompt:.0f} + {now.output:.0f} tokens need {need:.2f}"
        if rule.key.role is not Role.PREFILL:
            return Wish(count + self.convertible, f"{words}, {self.convertible} convertible beside")
        return Wish(count, words)

    def replicas(self, rule: RoleRules, now: Traffic, engines: int = 1) -> float:
        """Replicas of `engines` engines each that the arrivals need, not rounded; convertible ones apart."""
        prompt = now.computed if self.uncached else now.prompt
        size, output = bucket(now.prompt, now.output) if self.by_bucket else (now.prompt, now.output)
        resident = max(size + output / 2, 1.0)
        prompts = now.requests * prompt
        if rule.key.role is Role.PREFILL:
            return prompts / (prefill_velocity(rule.engine)[0] * engines)
        if rule.key.role is Role.COLOCATED:
            mix = Mix(prompt, output, resident)
            per_prompt, per_output = colocated_share(rule.engine, mix, rule.target.itl_s)
            return (prompts * per_prompt + now.requests * now.output * per_output) / engines
        tokens = now.requests * (now.prompt + now.output)
        if tokens <= 0:
            return 0.0
        return tokens / (release_velocity(rule, size, output) * engines)


def release_velocity(rule: RoleRules, prompt: float, output: float) -> float:
    """V_D: (input + output) tokens/s of requests completing on one engine at the latency target's batch."""
    velocity, _, _ = decode_velocity(rule.engine, max(prompt + output / 2, 1.0), rule.target.itl_s)
    return velocity / max(output, 1.0) * (prompt + output)


def bucket(prompt: float, output: float) -> tuple[float, float]:
    """The far corner (input, output) of the paper's bucket that a request falls in."""
    size = next((edge for edge in INPUT_EDGES if prompt <= edge), math.ceil(prompt))
    length = next((edge for edge in OUTPUT_EDGES if output <= edge), math.ceil(output))
    return float(size), float(length)
