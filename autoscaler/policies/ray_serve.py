"""Ray Serve's default autoscaling policy (`ray-serve`).

    desired = current * (ongoing / (target_ongoing * current))
    scaled  = ceil(current + gain * (desired - current))       gain for up and for down; stuck on the way down: -1

acted on after the same direction for `up_delay_s` or `down_delay_s` (a flip or a rest begins anew). From 0 with any
request: one replica's worth of the gain at once. Ongoing requests are averaged over `look_back_s`. Source: ray
python/ray/serve/autoscaling_policy.py and _private/autoscaling_state.py. It writes its target itself.
Ongoing = running + waiting + held at the gateway (handles count what they queue).
Roles: each is a deployment of its own, with one target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Decision
from autoscaler.policies.role_steps import (
    DIRECT,
    RoleStates,
    Wish,
    bounded,
    concurrency,
    count_of,
    decided,
    in_window,
    kept,
    reports,
    require_not_negative,
    require_positive,
    silence,
    up_to_whole,
)

if TYPE_CHECKING:
    from autoscaler.model import Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class RayState:
    """Per role: samples (time, ongoing); the direction wished (+1, -1, 0) and since when."""

    samples: tuple[tuple[float, float], ...] = ()
    direction: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class RayServe:
    """Ray Serve's policy.

    Attributes:
        name: on the command line.
        target_ongoing: requests per replica aimed at (`target_ongoing_requests`).
        up_delay_s, down_delay_s, zero_delay_s: same direction this long before acting; the last from 1 to 0.
        up_gain, down_gain: share of the error acted on.
        look_back_s: of the mean.
        interval_s: between looks (handles push every 10 s). follow: it writes its target itself.
    """

    name: str = "ray-serve"
    target_ongoing: float = 2.0
    up_delay_s: float = 30.0
    down_delay_s: float = 600.0
    zero_delay_s: float = 600.0
    up_gain: float = 1.0
    down_gain: float = 1.0
    look_back_s: float = 30.0
    interval_s: float = 10.0
    follow: Follow = DIRECT

    def __post_init__(self) -> None:
        require_positive(self, "target_ongoing", "up_gain", "down_gain", "look_back_s", "interval_s")
        require_not_negative(self, "up_delay_s", "down_delay_s", "zero_delay_s")

    def start(self, scene: Scene) -> RoleStates[RayState]:  # noqa: ARG002 - the protocol's
        """No samples yet."""
        return RoleStates()

    def decide(
        self, seen: Observation, memory: RoleStates[RayState], scene: Scene
    ) -> tuple[Decision, RoleStates[RayState]]:
        """Scale every role; one at 0 is judged by what the gateway holds."""
        told_of, states, made = reports(seen), dict(memory.of), []
        for rule in scene.roles:
            told = told_of.get(rule.key)
            blind = silence(told, seen)
            asleep = seen.failure is None and told is not None and told.replicas == 0 and told.reporting == 0
            if told is None or (blind is not None and not asleep):
                made.append(kept(rule, told, blind or "it was not asked about"))
                continue
            wish, states[rule.key] = self._step(rule, told, states.get(rule.key, RayState()), seen.at)
            made.append(decided(rule, told, wish))
        return Decision(seen.at, tuple(made), failure=seen.failure), RoleStates(states)

    def _step(self, rule: RoleRules, told: RoleObservation, state: RayState, at: float) -> tuple[Wish, RayState]:
        now, current = concurrency(told), count_of(told)
        if now is None:
            return Wish(None, "ongoing requests are not reported"), state
        samples = (*in_window(state.samples, at, self.look_back_s), (at, now))
        ongoing = sum(value for _, value in samples) / len(samples)
        words = f"{ongoing:.3g} ongoing, target {self.target_ongoing:g} a replica"
        if current == 0:
            wake = max(math.ceil(self.up_gain), bounded(0, rule)) if now > 0 else 0
            return Wish(wake, words), RayState(samples)
        scaled = bounded(self.scaled(current, ongoing), rule)
        direction = (scaled > current) - (scaled < current)
        since = state.since if direction == state.direction and direction != 0 else at
        if direction == 0 or at - since < self._delay(direction, current, scaled):
            return Wish(bounded(current, rule), words), RayState(samples, direction, since)
        return Wish(scaled, words), RayState(samples)

    def _delay(self, direction: int, current: int, scaled: int) -> float:
        if direction > 0:
            return self.up_delay_s
        return self.zero_delay_s if current == 1 and scaled == 0 else self.down_delay_s

    def scaled(self, current: int, ongoing: float) -> int:
        """Replicas for `ongoing` requests in all, with the gains; from 1 up."""
        desired = ongoing / self.target_ongoing
        gain = self.up_gain if desired > current else self.down_gain
        wanted = up_to_whole(current + gain * (desired - current))
        return current - 1 if wanted == current and desired <= current - 1 else wanted
