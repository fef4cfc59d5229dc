"""KEDA on what llm-d's endpoint picker (EPP) tells of the pool: the successor of the WVA (`keda-epp`, `keda-epp-…`).

    pool-average    KV: pool mean / 0.7;  queue: mean waiting per engine / 2        the published benchmark's triggers
    saturation      mean over engines of max(waiting / 5, KV / 0.8), / 0.7;  requests in flight / 16     today's guide
    queue           requests held at the gateway / 1                                 the guide's other overlay

Each trigger is an External metric of type `AverageValue` of one HPA, which takes the largest proposal; with one missing
it may only grow. Sources: llm-d-benchmark pull request 1611 (KV 700m and queue 2, polling 15 s) and 1739 (saturation
0.7 and running 16); llm-d guides, keda-epp; saturation detector of the Gateway API inference extension (thresholds 5
and 0.8; an endpoint with stale metrics counts as saturated).

Flavours: `keda-epp-shipped` is the benchmark's. A pool *mean* under `AverageValue` is taken for a total: KV can ask for
2 replicas at most, however many there are, and a queue of 4 at each of 10 engines for 2, so that a pool that has caught
up shrinks to 1 or 2 once the 300 s of stabilisation are over. `keda-epp` is the fixed one: means times ready engines.
`keda-epp-saturation` and `keda-epp-queue` are the guide's, as shipped: requests in flight are a sum, saturation a mean.

Behaviour: the benchmark's report states 1 pod per 180 s, but its template rendered `scaleUp` and `scaleDown` beside
`behavior` instead of under it, and 1 to 10 replicas within a 600 s run (7.1 to 7.6 on average, start-up 98 to 130 s)
need the HPA's defaults: 4 pods or 100 % per 15 s, 300 s down. So the defaults are taken; as stated it would be
`follow.most_up_pods=1`, `follow.most_up_share=none`, one pod per 15 s being the nearest here.
Roles: one ScaledObject per Deployment, on its own engines; the gateway's queue as far as it is told for the role.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from autoscaler.policies.hpa_maths import DEFAULT_TOLERANCE, average_value_proposal
from autoscaler.policies.role_steps import (
    BEHAVIOUR_DEFAULT,
    RoleStates,
    Wish,
    count_of,
    each_role,
    engines_of,
    heard,
    largest,
    ready,
    require_not_negative,
    require_positive,
)

if TYPE_CHECKING:
    from autoscaler.model import Decision, Observation, RoleObservation
    from autoscaler.policies.policy import Follow, Scene
    from autoscaler.rules import RoleRules

ENGINE_QUEUE, ENGINE_KV = 5.0, 0.8
"""The saturation detector's defaults: from so many waiting requests, or so much KV, an engine is saturated."""


class Triggers(StrEnum):
    """What KEDA is told to look at."""

    POOL_AVERAGE = "pool-average"
    SATURATION = "saturation"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class KedaEpp:
    """KEDA on the endpoint picker's metrics.

    Attributes:
        name: on the command line.
        triggers: which.
        kv_target: mean KV usage, 0..1. queue_target: mean waiting requests an engine. Both of `pool-average`.
        per_replica: multiply means by the ready replicas, so that a target is one replica's; as shipped they are not.
        saturation_target: of `saturation`. running_target: requests in flight a replica, likewise.
        held_target: requests held at the gateway a replica, of `queue`.
        tolerance: the HPA's dead band.
        interval_s: the HPA's sync period. follow: its behaviour; the tolerance is already spent.
    """

    name: str = "keda-epp"
    triggers: Triggers = Triggers.POOL_AVERAGE
    kv_target: float = 0.7
    queue_target: float = 2.0
    per_replica: bool = True
    saturation_target: float = 0.7
    running_target: float = 16.0
    held_target: float = 1.0
    tolerance: float = DEFAULT_TOLERANCE
    interval_s: float = 15.0
    follow: Follow = BEHAVIOUR_DEFAULT

    def __post_init__(self) -> None:
        require_positive(self, "kv_target", "queue_target", "saturation_target", "running_target", "held_target")
        require_positive(self, "interval_s")
        require_not_negative(self, "tolerance")

    def start(self, scene: Scene) -> RoleStates[None]:  # noqa: ARG002 - the protocol's
        """Nothing is remembered; stabilisation is the follower's."""
        return RoleStates()

    def decide(self, seen: Observation, memory: RoleStates[None], scene: Scene) -> tuple[Decision, RoleStates[None]]:
        """Proposals for every role."""
        return each_role(seen, memory, scene, None, self._step)

    def _step(self, _rule: RoleRules, told: RoleObservation, state: None, _at: float) -> tuple[Wish, None]:
        replicas, words = count_of(told), []
        proposals: list[int | None] = []
        for metric, total, target in self._metrics(told):
            if total is None:
                words.append(f"{metric} is not reported")
                proposals.append(None)
                continue
            words.append(f"{metric} {total:.3g}, target {target:g}")
            proposals.append(average_value_proposal(total, target, replicas, self.tolerance, self.tolerance))
        return Wish(largest(proposals, replicas), "; ".join(words)), state

    def _metrics(self, told: RoleObservation) -> tuple[tuple[str, float | None, float], ...]:
        """Each trigger's name, value and target."""
        many = float(ready(told)) if self.per_replica else 1.0
        if self.triggers is Triggers.POOL_AVERAGE:
            usage = None if told.kv_usage is None else told.kv_usage * many
            queue = None if told.waiting is None else told.waiting / max(heard(told), 1) * many
            return ("KV usage", usage, self.kv_target), ("waiting", queue, self.queue_target)
        if self.triggers is Triggers.SATURATION:
            full = saturation(told)
            flight = None if told.running is None or told.waiting is None else told.running + told.waiting
            return (
                ("saturation", None if full is None else full * many, self.saturation_target),
                ("in flight", flight, self.running_target),
            )
        return (("held", told.queued_at_gateway, self.held_target),)


def saturation(told: RoleObservation) -> float | None:
    """Pool saturation: mean over engines of max(waiting / 5, KV usage / 0.8), stale ones taken as 1.

    None where KV usage is not told.
    """
    engines = engines_of(told)
    if not engines:
        return None
    each = [max(engine.waiting / ENGINE_QUEUE, engine.kv_usage / ENGINE_KV) for engine in engines]
    return (sum(each) + told.stale) / (len(each) + told.stale)
