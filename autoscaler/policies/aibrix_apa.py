"""AIBrix' application-specific pod autoscaler (`aibrix-apa-shipped`, `aibrix-apa`).

    r = mean over the window / target
    r > 1 + up_tolerance    ->  min(ceil(current * r), ceil(up_rate * current))
    r < 1 - down_tolerance  ->  max(ceil(current * r), floor(current / down_rate))

`current` is spec.replicas, starting ones included, while r is a mean over the pods that answered: while pods start, the
same overload multiplies again and again. Then the cooldown: as shipped the *deepest* recommendation of the window (max
on the way up, min on the way down), the opposite of Kubernetes' (recommendations 10, 3, 9, 9 with 10 running: 10, 3, 3,
3 as shipped; 10, 10, 10, 10 by Kubernetes). Source: vllm-project/aibrix pkg/controller/podautoscaler (algorithm/apa.go,
stabilizeRecommendation). It writes replicas itself.

Flavours: `aibrix-apa-shipped` has the shipped cooldown and counts a pod that did not answer as 0, so that no data at
all shrinks; `aibrix-apa` is guarded: Kubernetes' cooldown, silent pods left out, no growth while replicas start (v0.8).
Roles: one PodAutoscaler per role on KV usage; with `prefill_concurrency` the prefill role goes by running and waiting
requests per replica instead, as TokenScale's evaluation set AIBrix up (with 0.7 for decode's KV). On KV a prefill role
is blind: a prompt's KV leaves with it, so that usage stays near 0 however long the queue; under 1 % is then served in
time. That is the shipped sample; the grid tries the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.model import Decision, Role
from autoscaler.policies.hpa_maths import HpaMemory, ScalingRules, stabilised
from autoscaler.policies.role_steps import (
    DIRECT,
    RoleStates,
    Wish,
    concurrency,
    count_of,
    decided,
    heard,
    in_window,
    kept,
    ready,
    reports,
    require_not_negative,
    require_positive,
    silence,
    starting,
    up_to_whole,
)

if TYPE_CHECKING:
    from autoscaler.model import Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


class Cooldown(StrEnum):
    """Which recommendation of the window counts."""

    SHIPPED = "shipped"
    KUBERNETES = "kubernetes"


@dataclass(frozen=True, slots=True)
class ApaState:
    """Per role: samples (time, mean) and recommendations (time, count)."""

    samples: tuple[tuple[float, float], ...] = ()
    recommended: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AibrixApa:
    """The APA.

    Attributes:
        name: on the command line.
        target: KV usage aimed at, 0..1.
        prefill_concurrency: requests per prefill replica aimed at, instead of KV usage; None for KV there too.
        window_s: of the mean (30 in the samples, 180 in the code).
        up_tolerance, down_tolerance: dead band. up_rate, down_rate: largest factors per tick.
        cooldown: `shipped` or `kubernetes`. up_cooldown_s, down_cooldown_s: its windows.
        silent_is_zero: a pod that did not answer counts as 0 (as shipped).
        guard_pending: no growth while replicas start (v0.8 and later).
        interval_s: between ticks. follow: it writes replicas itself.
    """

    name: str = "aibrix-apa"
    target: float = 0.5
    prefill_concurrency: float | None = None
    window_s: float = 30.0
    up_tolerance: float = 0.1
    down_tolerance: float = 0.1
    up_rate: float = 2.0
    down_rate: float = 2.0
    cooldown: Cooldown = Cooldown.KUBERNETES
    up_cooldown_s: float = 0.0
    down_cooldown_s: float = 300.0
    silent_is_zero: bool = False
    guard_pending: bool = True
    interval_s: float = 10.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_positive(self, "target", "prefill_concurrency", "window_s", "interval_s")
        require_not_negative(self, "up_tolerance", "down_tolerance", "up_cooldown_s", "down_cooldown_s")
        if not (self.up_rate >= 1 and self.down_rate >= 1):
            raise ValueError(f"up_rate {self.up_rate} and down_rate {self.down_rate}: must be at least 1")

    def start(self, scene: Scene) -> RoleStates[ApaState]:  # noqa: ARG002 - the protocol's
        """No samples yet."""
        return RoleStates()

    def decide(
        self, seen: Observation, memory: RoleStates[ApaState], scene: Scene
    ) -> tuple[Decision, RoleStates[ApaState]]:
        """Scale every role; as shipped also one whose ready pods all failed to answer."""
        told_of, states, made = reports(seen), dict(memory.of), []
        for rule in scene.roles:
            told = told_of.get(rule.key)
            blind = silence(told, seen)
            zeros = self.silent_is_zero and seen.failure is None and told is not None and bool(told.ready)
            if told is None or (blind is not None and not zeros):
                made.append(kept(rule, told, blind or "it was not asked about"))
                continue
            wish, states[rule.key] = self._step(rule, told, states.get(rule.key, ApaState()), seen.at)
            made.append(decided(rule, told, wish))
        return Decision(seen.at, tuple(made), failure=seen.failure), RoleStates(states)

    def _step(self, rule: RoleRules, told: RoleObservation, state: ApaState, at: float) -> tuple[Wish, ApaState]:
        by_requests = rule.key.role is Role.PREFILL and self.prefill_concurrency is not None
        target = self.target if not by_requests or self.prefill_concurrency is None else self.prefill_concurrency
        now = self._mean(told, by_requests=by_requests)
        if now is None:
            return Wish(None, "its metric is not reported"), state
        samples = (*in_window(state.samples, at, self.window_s), (at, now))
        mean = sum(value for _, value in samples) / len(samples)
        current = count_of(told)
        asked = self.recommended(current, mean / target)
        if self.guard_pending and starting(told) > 0:
            asked = min(asked, current)
        steady, kept_recommendations = self.cooled(state.recommended, at, current, asked)
        words = f"mean {mean:.3g}, target {target:g}: {asked} of {current}"
        return Wish(steady, words), ApaState(samples, kept_recommendations)

    def _mean(self, told: RoleObservation, *, by_requests: bool) -> float | None:
        """Mean per replica; over all ready ones when those that are silent count as 0."""
        pods = heard(told)
        over = max(pods, ready(told)) if self.silent_is_zero else pods
        if over == 0:
            return None
        if pods == 0:
            return 0.0
        if by_requests:
            requests = concurrency(told)
            return None if requests is None else requests / over
        return None if told.kv_usage is None else told.kv_usage * pods / over

    def recommended(self, current: int, ratio: float) -> int:
        """APA's formula: replicas for a ratio of mean to target."""
        if ratio > 1 + self.up_tolerance:
            return min(up_to_whole(current * ratio), math.ceil(self.up_rate * current))
        if ratio < 1 - self.down_tolerance:
            return max(up_to_whole(current * ratio), math.floor(current / self.down_rate))
        return current

    def cooled(
        self, recommended: tuple[tuple[float, int], ...], at: float, current: int, asked: int
    ) -> tuple[int, tuple[tuple[float, int], ...]]:
        """The recommendation after the cooldown, and those to remember."""
        if self.cooldown is Cooldown.KUBERNETES:
            up = ScalingRules((), stabilization_seconds=self.up_cooldown_s)
            down = ScalingRules((), stabilization_seconds=self.down_cooldown_s)
            steady, memory = stabilised(up, down, HpaMemory(recommended), at, current, asked)
            return steady, memory.recommendations
        longest = max(self.up_cooldown_s, self.down_cooldown_s)
        remembered = (*(entry for entry in recommended if entry[0] > at - longest), (at, asked))
        if asked > current:
            return max(n for when, n in remembered if when > at - self.up_cooldown_s or when == at), remembered
        if asked < current:
            return min(n for when, n in remembered if when > at - self.down_cooldown_s or when == at), remembered
        return asked, remembered
