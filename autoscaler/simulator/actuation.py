"""From the wish to `spec.replicas`: the HPA that each policy's manifest describes, or the policy's own hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from autoscaler.policies.hpa_maths import HpaMemory, Policy, PolicyKind, ScalingRules
from autoscaler.policies.hpa_sync import HpaSpec, NotServed, Served, sync

if TYPE_CHECKING:
    from autoscaler.policies.policy import Follow

MILLI = 1000
PERIOD_S = 15.0
DOWN = Policy(PolicyKind.PERCENT, 100, PERIOD_S)
"""The HPA's default for shrinking: no limit but the stabilisation window."""
UNLIMITED = Policy(PolicyKind.PODS, 1_000_000, PERIOD_S)


@lru_cache(maxsize=64)
def hpa_spec(follow: Follow, minimum: int, maximum: int) -> HpaSpec:
    """The object: an External metric of target type AverageValue 1, whose value is the wish."""
    policies = []
    if follow.most_up_pods is not None:
        policies.append(Policy(PolicyKind.PODS, follow.most_up_pods, PERIOD_S))
    if follow.most_up_share is not None:
        policies.append(Policy(PolicyKind.PERCENT, round(100 * follow.most_up_share), PERIOD_S))
    up = ScalingRules(
        tuple(policies) or (UNLIMITED,), stabilization_seconds=follow.stabilise_up_s, tolerance=follow.tolerance
    )
    down = ScalingRules((DOWN,), stabilization_seconds=follow.stabilise_down_s, tolerance=follow.tolerance)
    return HpaSpec(minimum, max(1, maximum), MILLI, up, down)


@dataclass(slots=True)
class Scaler:
    """One role's way from wish to spec. `wish`: the newest published one; None before the first."""

    follow: Follow
    minimum: int
    maximum: int
    wish: int | None = None
    memory: HpaMemory = field(default_factory=HpaMemory)
    looked: bool = False

    def ask(self, desired: int | None) -> None:
        """Publish a wish; None leaves the last one standing."""
        if desired is not None:
            self.wish = desired

    def direct(self, spec: int) -> int:
        """What the policy itself writes to `/scale`."""
        return spec if self.wish is None else min(max(self.wish, self.minimum), self.maximum)

    def sync(self, now: float, spec: int, existing: int) -> int:
        """One look of the HPA; returns the new spec. An HPA never wakes from 0 while its minimum is above it.

        At its first look it records the replicas there are as a recommendation, as Kubernetes' controller does
        (recordInitialRecommendation), so that it does not shrink what it has only just seen.
        """
        if not self.looked:
            self.looked, self.memory = True, HpaMemory(((now, spec),))
        answer = NotServed("no wish yet") if self.wish is None else Served((self.wish * MILLI,))
        hpa = hpa_spec(self.follow, self.minimum, self.maximum)
        status, self.memory = sync(hpa, self.memory, now, (spec, existing), answer)
        return status.replicas
