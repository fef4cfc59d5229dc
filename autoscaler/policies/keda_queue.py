"""KEDA's Prometheus trigger on `sum(vllm:num_requests_waiting)` (`keda-queue`).

    desired = ceil(waiting / target), unless waiting / (target * replicas) is within 10 % of 1      (AverageValue)

KEDA makes an HPA with an External metric of type `AverageValue` from it; it acts itself only between 0 and 1: a
metric above `activation` wakes the first replica, and 0 follows `cooldown_s` after the last activity. Without replicas
only the gateway's queue is left to look at, which is then taken. Source: kedacore/keda (pkg/scaling/executor), HPA
arithmetic in `hpa_maths.average_value_proposal`; a target of 5 is the vLLM production stack's example.
Roles: one ScaledObject per Deployment, each on its own engines' queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoscaler.model import Decision
from autoscaler.policies.hpa_maths import DEFAULT_TOLERANCE, average_value_proposal
from autoscaler.policies.role_steps import (
    BEHAVIOUR_DEFAULT,
    RoleStates,
    Wish,
    count_of,
    decided,
    kept,
    reports,
    require_not_negative,
    require_positive,
    silence,
    waiting,
)

if TYPE_CHECKING:
    from autoscaler.model import Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


@dataclass(frozen=True, slots=True)
class KedaQueue:
    """KEDA on the number of waiting requests.

    Attributes:
        name: on the command line.
        target: waiting requests per replica (`threshold`).
        activation: above this a role at 0 is woken (`activationThreshold`).
        cooldown_s: inactivity before 0, only where the minimum is 0.
        gateway: count the gateway's queue as well (the scheduler's queue-size metric), not the engines' alone.
        tolerance: the HPA's dead band.
        interval_s: the HPA's sync period. follow: its behaviour; the tolerance is already spent.
    """

    name: str = "keda-queue"
    target: float = 5.0
    activation: float = 0.0
    cooldown_s: float = 300.0
    gateway: bool = False
    tolerance: float = DEFAULT_TOLERANCE
    interval_s: float = 15.0
    follow: Follow = BEHAVIOUR_DEFAULT

    def __post_init__(self) -> None:
        require_positive(self, "target", "interval_s")
        require_not_negative(self, "activation", "cooldown_s", "tolerance")

    def start(self, scene: Scene) -> RoleStates[float | None]:  # noqa: ARG002 - the protocol's
        """Per role the time of its last activity."""
        return RoleStates()

    def decide(
        self, seen: Observation, memory: RoleStates[float | None], scene: Scene
    ) -> tuple[Decision, RoleStates[float | None]]:
        """Proposals for every role; a role at 0 is judged by the gateway's queue."""
        told_of, states, made = reports(seen), dict(memory.of), []
        for rule in scene.roles:
            told = told_of.get(rule.key)
            blind = silence(told, seen)
            asleep = seen.failure is None and told is not None and told.replicas == 0 and told.reporting == 0
            if told is None or (blind is not None and not asleep):
                made.append(kept(rule, told, blind or "it was not asked about"))
                continue
            wish, states[rule.key] = self._step(rule, told, states.get(rule.key), seen.at)
            made.append(decided(rule, told, wish))
        return Decision(seen.at, tuple(made), failure=seen.failure), RoleStates(states)

    def _step(
        self, rule: RoleRules, told: RoleObservation, active_at: float | None, at: float
    ) -> tuple[Wish, float | None]:
        replicas = count_of(told)
        queue = waiting(told, gateway=self.gateway or replicas == 0)
        if queue is None:
            return Wish(None, "waiting requests are not reported"), active_at
        active = queue > self.activation
        since = at if active or active_at is None else active_at
        words = f"{queue:g} waiting, target {self.target:g} a replica"
        if replicas == 0 and rule.minimum == 0:
            return Wish(1 if active else 0, words), since
        if rule.minimum == 0 and not active and at - since >= self.cooldown_s:
            return Wish(0, f"{words}; idle for {at - since:.0f} s"), since
        wanted = average_value_proposal(queue, self.target, replicas, self.tolerance, self.tolerance)
        return Wish(max(1, wanted), words), since
