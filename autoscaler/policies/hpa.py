"""HorizontalPodAutoscaler on a Pods metric: KV-cache usage (`hpa-kv`) or waiting requests (`hpa-queue`) per pod.

    desired = ceil(mean over pods / target * pods), unless within 10 %; starting pods count as 0 on the way up and as at
    the target on the way down, and a ratio that thereby changes sides keeps what is there

Source: kubernetes/pkg/controller/podautoscaler/{replica_calculator,horizontal}.go; arithmetic in `hpa_maths`. The
tolerance is applied here, to the metric; `follow` holds the behaviour's defaults (300 s down; 4 pods or 100 %
per 15 s).
Roles: one HPA per Deployment with the same target, so prefill, decode and colocated are treated alike and apart.
A replica that exists but is not ready counts as missing (running without the metric: an engine's container runs while
it loads weights). The targets are the user's: there is no default in Kubernetes. 0.8 is llm-d's KV threshold; 5 waiting
requests is the queue threshold of llm-d's scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.policies.hpa_maths import DEFAULT_TOLERANCE, Pods, pods_proposal
from autoscaler.policies.role_steps import (
    BEHAVIOUR_DEFAULT,
    RoleStates,
    Wish,
    count_of,
    each_role,
    heard,
    require_not_negative,
    require_positive,
)

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules


class Signal(StrEnum):
    """What is averaged over the pods."""

    KV = "kv"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Hpa:
    """An HPA on one Pods metric.

    Attributes:
        name: on the command line.
        signal: `kv` (0..1) or `queue` (requests).
        target: its wanted mean per pod, in the signal's unit.
        tolerance: dead band, a share.
        interval_s: the controller's sync period. follow: its behaviour; the tolerance is already spent.
    """

    name: str = "hpa-kv"
    signal: Signal = Signal.KV
    target: float = 0.8
    tolerance: float = DEFAULT_TOLERANCE
    interval_s: float = 15.0
    follow: Follow = BEHAVIOUR_DEFAULT

    def __post_init__(self) -> None:
        require_positive(self, "target", "interval_s")
        require_not_negative(self, "tolerance")

    def start(self, scene: Scene) -> RoleStates[None]:  # noqa: ARG002 - the protocol's
        """Nothing is remembered; stabilisation is the follower's."""
        return RoleStates()

    def decide(self, seen: Observation, memory: RoleStates[None], scene: Scene) -> tuple[Decision, RoleStates[None]]:
        """Proposals for every role."""
        return each_role(seen, memory, scene, None, self._step)

    def _step(self, _rule: RoleRules, told: RoleObservation, state: None, _at: float) -> tuple[Wish, None]:
        pods = heard(told)
        mean = told.kv_usage if self.signal is Signal.KV else None
        if self.signal is Signal.QUEUE and told.waiting is not None:
            mean = told.waiting / pods
        if mean is None:
            return Wish(None, f"{self.signal} is not reported"), state
        replicas = count_of(told)
        standing = Pods(pods, max(0, replicas - pods), 0, replicas)
        wanted = pods_proposal(mean, self.target, standing, self.tolerance, self.tolerance)
        return Wish(wanted, f"{self.signal} {mean:.3g} per pod over {pods}, target {self.target:g}"), state
