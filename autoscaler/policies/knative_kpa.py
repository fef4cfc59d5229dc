"""Knative's pod autoscaler on concurrency, with its panic mode (`knative-kpa`).

    target = utilisation * concurrency limit                                       0.7 * 100 by default
    stable, panic = total concurrency, mean over 60 s and over 6 s
    up = ceil(1000 * ready), down = floor(ready / 2)
    want = clamp(ceil(stable / target), down, up)
    ceil(panic / target) / ready >= 2  ->  panic: the larger of both means, never falling, until 60 s without a reason

Source: knative/serving 98e5ef90aa, pkg/autoscaler/scaling/autoscaler.go and config/config.go. It writes replicas
itself. Concurrency is running + waiting + held at the gateway (the activator counts what it holds). Windows average
over the ticks seen. More than one replica at the start begins in panic at that count. Zero, where the minimum allows
it, needs a stable window without any request and then `grace_s`.
Roles: each is a revision of its own; concurrency means the same for prefill, decode and colocated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autoscaler.policies.role_steps import (
    DIRECT,
    RoleStates,
    Wish,
    concurrency,
    each_role,
    in_window,
    ready,
    require_not_negative,
    require_positive,
    up_to_whole,
)

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class KpaState:
    """Per role: samples (time, concurrency), since when in panic, its high mark, past wants, when requests ended."""

    samples: tuple[tuple[float, float], ...] = ()
    begun: bool = False
    panic_at: float | None = None
    panic_most: int = 0
    wants: tuple[tuple[float, float], ...] = ()
    idle_at: float | None = None


@dataclass(frozen=True, slots=True)
class KnativeKpa:
    """The KPA.

    Attributes:
        name: on the command line.
        concurrency: requests a replica may have at once. utilisation: share of it aimed at.
        stable_s, panic_s: windows. panic_threshold: wanted over ready at which panic begins.
        max_up, max_down: largest factors per tick.
        down_delay_s: wants fall to the highest of this long. grace_s: before the last replica goes.
        interval_s: between ticks. follow: it writes replicas itself.
    """

    name: str = "knative-kpa"
    concurrency: float = 100.0
    utilisation: float = 0.7
    stable_s: float = 60.0
    panic_s: float = 6.0
    panic_threshold: float = 2.0
    max_up: float = 1000.0
    max_down: float = 2.0
    down_delay_s: float = 0.0
    grace_s: float = 30.0
    interval_s: float = 2.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        positive = ("concurrency", "utilisation", "stable_s", "panic_s", "panic_threshold", "interval_s")
        require_positive(self, *positive)
        require_not_negative(self, "down_delay_s", "grace_s")
        if not (self.max_up > 1 and self.max_down > 1):
            raise ValueError(f"max_up {self.max_up} and max_down {self.max_down}: must be above 1")

    def start(self, scene: Scene) -> RoleStates[KpaState]:  # noqa: ARG002 - the protocol's
        """No samples yet."""
        return RoleStates()

    def decide(
        self, seen: Observation, memory: RoleStates[KpaState], scene: Scene
    ) -> tuple[Decision, RoleStates[KpaState]]:
        """Scale every role."""
        return each_role(seen, memory, scene, KpaState(), self._step)

    def _step(self, rule: RoleRules, told: RoleObservation, state: KpaState, at: float) -> tuple[Wish, KpaState]:
        total = concurrency(told)
        if total is None:
            return Wish(None, "concurrency is not reported"), state
        samples = (*in_window(state.samples, at, max(self.stable_s, self.panic_s)), (at, total))
        pods = max(1, ready(told))
        if not state.begun:
            state = replace(state, begun=True, panic_at=at if pods > 1 else None, panic_most=pods if pods > 1 else 0)
        stable, panic = (_mean((*in_window(samples, at, w), (at, total))) for w in (self.stable_s, self.panic_s))
        want, state = self._want(stable, panic, pods, replace(state, samples=samples), at)
        wants = (*in_window(state.wants, at, self.down_delay_s), (at, float(want)))
        want = round(max(value for _, value in wants))
        idle_at = None if stable > 0 else (state.idle_at if state.idle_at is not None else at)
        if want == 0 and (rule.minimum > 0 or idle_at is None or at - idle_at < self.grace_s):
            want = 1
        words = f"concurrency {stable:.3g} stable, {panic:.3g} panic, target {self.concurrency * self.utilisation:g}"
        said = "; panicking" if state.panic_at is not None else ""
        return Wish(want, words + said), replace(state, wants=wants, idle_at=idle_at)

    def _want(self, stable: float, panic: float, pods: int, state: KpaState, at: float) -> tuple[int, KpaState]:
        target = self.concurrency * self.utilisation
        by_stable, by_panic = up_to_whole(stable / target), up_to_whole(panic / target)
        most, least = math.ceil(self.max_up * pods), math.floor(pods / self.max_down)
        calm = min(max(by_stable, least), most)
        quick = min(max(by_panic, least), most)
        panic_at, panic_most = state.panic_at, state.panic_most
        if by_panic / pods >= self.panic_threshold:
            panic_at = at
        elif panic_at is not None and at > panic_at + self.stable_s:
            panic_at, panic_most = None, 0
        if panic_at is None:
            return calm, replace(state, panic_at=None, panic_most=0)
        panic_most = max(panic_most, calm, quick)
        return panic_most, replace(state, panic_at=panic_at, panic_most=panic_most)


def _mean(samples: tuple[tuple[float, float], ...]) -> float:
    return sum(value for _, value in samples) / len(samples)
