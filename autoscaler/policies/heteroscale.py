"""HeteroScale: proportional on decode tokens/s, prefill by a fixed ratio, TBT as a guard (`heteroscale`).

    decode  = current * observed TPS per instance / target TPS per instance            band +-10 %: keep
    TBT above its target: at least +10 %; above 1.2 times it: at least +20 %
    prefill = ceil(decode * ratio)                                                      both move together
    180 s after a change before growing again, 600 s before shrinking

Source: arXiv 2508.19559, section on the policy engine (metric study, control law); band and cooldowns are those of
public re-implementations, since the paper gives none and no code is public. Target and ratio come from an offline
pressure test there. Here they are knobs, or by default the hardware profile's answer for the traffic of the first
`calibrate_s`, then fixed, `share` being the utilisation aimed at.
Roles: decode leads and prefill follows; colocated replicas follow the same law without a ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.pool_traffic import Traffic, TrafficState, traffic
from autoscaler.policies.role_steps import (
    DIRECT,
    Wish,
    bounded,
    count_of,
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

    from autoscaler.model import Observation, RoleKey, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules

SEVERE = 1.2
"""TBT over its target from which the guard takes its larger step."""


@dataclass(frozen=True, slots=True)
class HeteroState:
    """Per pool: its traffic, when traffic was first known, the calibration, and when capacity last changed."""

    traffic: TrafficState = field(default_factory=TrafficState)
    since: float | None = None
    target_tps: float | None = None
    ratio: float | None = None
    changed_at: float | None = None


@dataclass(frozen=True, slots=True)
class HeteroScale:
    """HeteroScale.

    Attributes:
        name: on the command line.
        target_tps: output tokens/s per decode (or colocated) replica aimed at; None calibrates.
        ratio: prefill replicas per decode replica; None calibrates.
        share: of a replica's velocity aimed at when calibrating.
        calibrate_s: traffic of this long is looked at, then the calibration stays.
        band: dead band, a share.
        out_cooldown_s, in_cooldown_s: after a change, before growing or shrinking.
        moderate, severe: growth by the TBT guard, shares.
        interval_s: between looks. follow: it writes replicas itself.
    """

    name: str = "heteroscale"
    target_tps: float | None = None
    ratio: float | None = None
    share: float = 0.7
    calibrate_s: float = 300.0
    band: float = 0.1
    out_cooldown_s: float = 180.0
    in_cooldown_s: float = 600.0
    moderate: float = 0.1
    severe: float = 0.2
    interval_s: float = 15.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_positive(self, "target_tps", "ratio", "share", "interval_s")
        require_not_negative(self, "calibrate_s", "band", "out_cooldown_s", "in_cooldown_s", "moderate", "severe")

    def start(self, scene: Scene) -> Mapping[tuple[str, str], HeteroState]:  # noqa: ARG002 - the protocol's
        """Nothing is calibrated yet."""
        return {}

    def decide(
        self, seen: Observation, memory: Mapping[tuple[str, str], HeteroState], scene: Scene
    ) -> tuple[Decision, Mapping[tuple[str, str], HeteroState]]:
        """Scale every pool by its decode (or colocated) role's tokens/s."""
        told_of, states = reports(seen), dict(memory)
        wishes: dict[RoleKey, Wish] = {}
        for pool in pools_of(scene):
            name = (pool[0].key.namespace, pool[0].key.pool)
            rules = {rule.key.role: rule for rule in pool}
            able = {r.key.role: told_of[r.key] for r in pool if silence(told_of.get(r.key), seen) is None}
            state = states.get(name, HeteroState())
            now, flow = traffic(able, state.traffic, seen.at)
            state = self._calibrated(rules, replace(state, traffic=flow), now, seen.at)
            found, states[name] = self._pool(rules, able, state, seen.at)
            wishes |= {rules[role].key: wish for role, wish in found.items()}
        made = [
            decided(rule, told_of.get(rule.key), wishes[rule.key])
            if rule.key in wishes
            else kept(
                rule, told_of.get(rule.key), silence(told_of.get(rule.key), seen) or "its pool's decode is silent"
            )
            for rule in scene.roles
        ]
        return Decision(seen.at, tuple(made), failure=seen.failure), states

    def _calibrated(
        self, rules: Mapping[Role, RoleRules], state: HeteroState, now: Traffic | None, at: float
    ) -> HeteroState:
        """Target and ratio for the traffic so far, until `calibrate_s` after it was first known."""
        since = state.since if state.since is not None else at
        if now is None or (state.target_tps is not None and at - since >= self.calibrate_s):
            return state
        leader = rules.get(Role.DECODE) or rules.get(Role.COLOCATED)
        if leader is None or now.output <= 0:
            return state
        mix = Mix(now.computed, now.output, max(now.prompt + now.output / 2, 1.0))
        velocity = decode_velocity(leader.engine, mix.resident, leader.target.itl_s)[0]
        if leader.key.role is Role.COLOCATED:
            per_prompt, per_output = colocated_share(leader.engine, mix, leader.target.itl_s)
            velocity = 1.0 / (per_output + per_prompt * mix.prompt / mix.output)
        ratio = None
        if Role.PREFILL in rules:
            ratio = velocity * mix.prompt / mix.output / prefill_velocity(rules[Role.PREFILL].engine)[0]
        return replace(state, since=since, target_tps=self.share * velocity, ratio=ratio)

    def _pool(
        self, rules: Mapping[Role, RoleRules], able: Mapping[Role, RoleObservation], state: HeteroState, at: float
    ) -> tuple[dict[Role, Wish], HeteroState]:
        role = Role.DECODE if Role.DECODE in rules else Role.COLOCATED
        told = able.get(role)
        if told is None or role not in rules:
            return {}, state
        wish, state = self._leader(rules[role], told, state, at)
        wishes = {role: wish}
        ratio = self.ratio if self.ratio is not None else state.ratio
        if Role.PREFILL in able and wish.replicas is not None and ratio is not None:
            follows = up_to_whole(bounded(wish.replicas, rules[role]) * ratio)
            wishes[Role.PREFILL] = Wish(follows, f"{ratio:.3g} prefill for each decode replica")
        elif Role.PREFILL in able:
            wishes[Role.PREFILL] = Wish(None, "the ratio is not calibrated yet")
        return wishes, state

    def _leader(
        self, rule: RoleRules, told: RoleObservation, state: HeteroState, at: float
    ) -> tuple[Wish, HeteroState]:
        target = self.target_tps
        if target is None and state.target_tps is not None:
            target = state.target_tps * max(told.engines_per_replica, 1)
        if target is None or told.generation_rate is None:
            return Wish(None, "tokens/s are not known yet"), state
        current = count_of(told)
        wanted = self.capacity(current, told.generation_rate, target, told.itl, rule.target.itl_s)
        quiet = math.inf if state.changed_at is None else at - state.changed_at
        words = f"{told.generation_rate:.4g} tokens/s, target {target:.4g} a replica: {wanted}"
        if quiet < (self.out_cooldown_s if wanted > current else self.in_cooldown_s) and wanted != current:
            return Wish(current, f"{words}; cooling down, last change {quiet:.0f} s ago"), state
        moved = bounded(wanted, rule) != current
        return Wish(wanted, words), replace(state, changed_at=at) if moved else state

    def capacity(self, current: int, rate: float, target: float, tbt: float | None, tbt_target: float) -> int:
        """Replicas for `rate` tokens/s at `target` each, with band and TBT guard."""
        over = rate / (target * current) if current > 0 else math.inf
        wanted = current if abs(over - 1.0) <= self.band else up_to_whole(rate / target)
        if tbt is not None and tbt > tbt_target:
            step = self.severe if tbt > SEVERE * tbt_target else self.moderate
            wanted = max(wanted, up_to_whole(current * (1.0 + step)))
        return wanted
