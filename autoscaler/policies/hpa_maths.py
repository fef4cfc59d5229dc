"""The arithmetic of the HorizontalPodAutoscaler (autoscaling/v2, Kubernetes 1.36), as pure functions.

From metric to proposal, by kind of target (kubernetes/pkg/controller/podautoscaler/replica_calculator.go):

* **Pods, averaged** (`pods_proposal`): r = mean over the pods that have the metric / target; without missing or
  pending pods ceil(r * n) unless r is within the tolerance. Otherwise missing pods are taken at the target on the way
  down and at 0 on the way up, pending ones at 0 on the way up, the ratio is taken again over all of them, and a ratio
  that changed sides keeps what is there: starting pods never make it cascade.
* **External, `AverageValue` T** (`average_value_proposal`): within 1 +- tolerance of m / (T * replicas) keep, else
  ceil(m / T).
* **External, `Value` T** (`value_proposal`): m / T within tolerance keeps, else ceil(m / T * ready) - it multiplies, so
  it does not fit a metric that already is a number of replicas.

From proposal to replicas (horizontal.go): `stabilised` takes the minimum of the up window and the maximum of the down
window; `limited` bounds the change per period, counted from the size at the period's start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

LARGEST_REPLICAS = 2**31 - 1
DEFAULT_TOLERANCE = 0.1


class PolicyKind(StrEnum):
    """Unit of a policy's value."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `value` pods (or percent of the replicas at the period's start) in `period_seconds`."""

    kind: PolicyKind
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """`behavior.scaleUp` or `behavior.scaleDown`; `tolerance` as a share, e.g. 0.1."""

    policies: tuple[Policy, ...]
    select: SelectPolicy = SelectPolicy.MAX
    stabilization_seconds: float = 0.0
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class HpaMemory:
    """What the controller remembers between syncs: its own recommendations and changes, each with its time."""

    recommendations: tuple[tuple[float, int], ...] = ()
    added: tuple[tuple[float, int], ...] = ()
    removed: tuple[tuple[float, int], ...] = ()


def within(ratio: float, tolerance_down: float, tolerance_up: float) -> bool:
    """Whether the HPA leaves a ratio alone, in the words of 1.33 and later: both bounds are compared as they are.

    Before, |1 - ratio| <= tolerance was asked, which let 10 -> 11 pass by a float's last bit.
    """
    return 1.0 - tolerance_down <= ratio <= 1.0 + tolerance_up


def whole(wanted: float) -> int:
    """The count rounded up. Below zero or too large it ends at the largest integer, as the controller's conversion."""
    if not 0 <= wanted <= LARGEST_REPLICAS:
        return LARGEST_REPLICAS
    return math.ceil(wanted)


def average_value_proposal(
    total: float,
    target: float,
    replicas: int,
    tolerance_down: float = DEFAULT_TOLERANCE,
    tolerance_up: float = DEFAULT_TOLERANCE,
) -> int:
    """Replicas for an External metric of `total` with target `AverageValue`, from `replicas` (status).

    With whole numbers (say, thousandths) the division is exact.
    """
    if replicas > 0 and within(total / (target * replicas), tolerance_down, tolerance_up):
        return replicas
    if isinstance(total, int) and isinstance(target, int):
        return whole(-(-total // target))
    return whole(total / target)


def value_proposal(
    value: float,
    target: float,
    ready: int,
    replicas: int,
    tolerance_down: float = DEFAULT_TOLERANCE,
    tolerance_up: float = DEFAULT_TOLERANCE,
) -> int:
    """Replicas for an External metric with target `Value`: the ratio times the ready pods."""
    ratio = value / target
    if within(ratio, tolerance_down, tolerance_up):
        return replicas
    return whole(ratio * ready)


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods of a target as the controller sorts them.

    Attributes:
        heard: running, with the metric. missing: running, without. pending: not running yet.
        replicas: `spec.replicas`.
    """

    heard: int
    missing: int
    pending: int
    replicas: int


def pods_proposal(
    mean: float,
    target: float,
    pods: Pods,
    tolerance_down: float = DEFAULT_TOLERANCE,
    tolerance_up: float = DEFAULT_TOLERANCE,
) -> int:
    """Replicas for a Pods metric whose mean over the pods that have it is `mean`; `pods.heard` must be at least 1."""
    ratio = mean / target
    growing = ratio > 1.0
    if not pods.missing and not (pods.pending and growing):
        return pods.replicas if within(ratio, tolerance_down, tolerance_up) else whole(ratio * pods.heard)
    if ratio == 1.0:
        return pods.replicas
    count = pods.heard + pods.missing + (pods.pending if growing else 0)
    total = mean * pods.heard + (target * pods.missing if ratio < 1.0 else 0.0)
    again = total / (target * count)
    changed_sides = (ratio < 1.0 < again) or (again < 1.0 < ratio)
    if within(again, tolerance_down, tolerance_up) or changed_sides:
        return pods.replicas
    wanted = whole(again * count)
    wrong_way = (again < 1.0 and wanted > pods.replicas) or (again > 1.0 and wanted < pods.replicas)
    return pods.replicas if wrong_way else wanted


def stabilised(
    up: ScalingRules, down: ScalingRules, memory: HpaMemory, now: float, current: int, asked: int
) -> tuple[int, HpaMemory]:
    """Grow no further than the least, shrink no further than the most, recommended within the windows."""
    least = min([asked, *(n for at, n in memory.recommendations if at > now - up.stabilization_seconds)])
    most = max([asked, *(n for at, n in memory.recommendations if at > now - down.stabilization_seconds)])
    longest = max(up.stabilization_seconds, down.stabilization_seconds)
    kept = tuple(entry for entry in memory.recommendations if entry[0] > now - longest)
    steady = min(max(current, least), most)
    return steady, HpaMemory((*kept, (now, asked)), memory.added, memory.removed)


def up_limit(rules: ScalingRules, memory: HpaMemory, now: float, current: int) -> int:
    """Most replicas that the growth policies allow now."""
    if rules.select is SelectPolicy.DISABLED or not rules.policies:
        return current
    limits = []
    for policy in rules.policies:
        start = _at_period_start(policy, memory, now, current)
        grown = start + policy.value
        if policy.kind is PolicyKind.PERCENT:
            grown = math.ceil(start * (100 + policy.value) / 100)
        limits.append(grown)
    return min(limits) if rules.select is SelectPolicy.MIN else max(limits)


def down_limit(rules: ScalingRules, memory: HpaMemory, now: float, current: int) -> int:
    """Fewest replicas that the shrinking policies allow now."""
    if rules.select is SelectPolicy.DISABLED or not rules.policies:
        return current
    limits = []
    for policy in rules.policies:
        start = _at_period_start(policy, memory, now, current)
        shrunk = start - policy.value
        if policy.kind is PolicyKind.PERCENT:
            shrunk = int(start * (100 - policy.value) / 100)
        limits.append(shrunk)
    # For shrinking, Max means the largest change: the policy that leaves fewest.
    return max(limits) if rules.select is SelectPolicy.MIN else min(limits)


def _at_period_start(policy: Policy, memory: HpaMemory, now: float, current: int) -> int:
    since = now - policy.period_seconds
    added = sum(count for at, count in memory.added if at > since)
    removed = sum(count for at, count in memory.removed if at > since)
    return current - added + removed


def limited(up: ScalingRules, down: ScalingRules, memory: HpaMemory, now: float, current: int, asked: int) -> int:
    """`asked` as far as the policies allow from `current`; never the other way."""
    if asked > current:
        return min(asked, max(up_limit(up, memory, now, current), current))
    if asked < current:
        return max(asked, min(down_limit(down, memory, now, current), current))
    return asked


def changed(up: ScalingRules, down: ScalingRules, memory: HpaMemory, now: float, before: int, after: int) -> HpaMemory:
    """Note the change, and forget those older than any policy looks back."""
    reach = max((policy.period_seconds for policy in (*up.policies, *down.policies)), default=0.0)
    added = tuple(entry for entry in memory.added if entry[0] > now - reach)
    removed = tuple(entry for entry in memory.removed if entry[0] > now - reach)
    if after > before:
        added = (*added, (now, after - before))
    elif after < before:
        removed = (*removed, (now, before - after))
    return HpaMemory(memory.recommendations, added, removed)
